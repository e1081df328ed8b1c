/* SPDX-License-Identifier: MIT */
#include "vmm/dev/virtqueue.h"

#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <string.h>
#include "vmm/ram.h"

#define DESC_SIZE sizeof(struct vring_desc)

static u16 load16(const void *p)
{
	return __atomic_load_n((const u16 *)p, __ATOMIC_ACQUIRE);
}

static void store16(void *p, u16 v)
{
	__atomic_store_n((u16 *)p, v, __ATOMIC_RELEASE);
}

bool vq_latch(struct vq *q, const struct ram *ram, u16 num, u64 desc, u64 avail, u64 used, bool event_idx)
{
	memset(q, 0, sizeof(*q));
	if (!num || num > VQ_SIZE_MAX || (num & (num - 1)) || (desc & 15) || (avail & 1) || (used & 3))
		return false;
	q->ram = ram;
	q->num = num;
	q->event_idx = event_idx;
	q->desc = ram_ptr(ram, desc, num * DESC_SIZE);
	q->avail = ram_ptr(ram, avail, 6 + 2ull * num);
	q->used = ram_ptr(ram, used, 6 + 8ull * num);
	q->live = q->desc && q->avail && q->used;
	return q->live;
}

static int broken(struct vq *q)
{
	q->live = false;
	return -1;
}

/*
 * Adds one buffer. Zero-length buffers are legal and carry nothing; buffers the device writes come last. The number
 * of vectors is bounded by VQ_SIZE_MAX because the walk takes at most that many descriptors.
 */
static bool add_buffer(struct vq *q, struct vq_chain *c, const struct vring_desc *d)
{
	bool in = d->flags & VRING_DESC_F_WRITE;
	void *p;

	if (!in && c->n_in)
		return false;
	if (!d->len)
		return true;
	p = ram_ptr(q->ram, d->addr, d->len);
	if (!p || c->n_out + c->n_in == VQ_SIZE_MAX)
		return false;
	c->iov[c->n_out + c->n_in] = (struct iovec){ .iov_base = p, .iov_len = d->len };
	if (in) {
		c->n_in++;
		c->in_len += d->len;
	} else {
		c->n_out++;
		c->out_len += d->len;
	}
	return true;
}

/*
 * Follows a table of @num descriptors from @at. A chain longer than the queue is a loop.
 * Return: true when it ended properly; *indirect is set when its first descriptor says to go elsewhere.
 */
static bool walk(struct vq *q, struct vq_chain *c, const u8 *table, u32 num, u32 at, struct vring_desc *indirect)
{
	for (u32 steps = 0; steps < q->num; steps++) {
		struct vring_desc d;

		if (at >= num)
			return false;
		/* The only read of guest memory: what is checked is what is used. */
		memcpy(&d, table + at * DESC_SIZE, DESC_SIZE);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			/* Not inside a table, not with NEXT; no driver puts it after ordinary ones. */
			if (!indirect || steps || (d.flags & VRING_DESC_F_NEXT))
				return false;
			*indirect = d;
			return true;
		}
		if (!add_buffer(q, c, &d))
			return false;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return true;
		at = d.next;
	}
	return false;
}

static bool walk_indirect(struct vq *q, struct vq_chain *c, const struct vring_desc *d)
{
	u32 num = d->len / (u32)DESC_SIZE;
	const u8 *table;

	if (!d->len || d->len % DESC_SIZE || num > q->num)
		return false;
	table = ram_ptr(q->ram, d->addr, d->len);
	return table && walk(q, c, table, num, 0, NULL);
}

int vq_pop(struct vq *q, struct vq_chain *c)
{
	struct vring_desc indirect = { .len = 0, .flags = 0 };
	u16 pending;

	if (!q->live)
		return -1;
	pending = (u16)(load16(&q->avail[1]) - q->last_avail);
	if (!pending)
		return 0;
	if (pending > q->num)
		return broken(q);
	c->n_out = c->n_in = 0;
	c->out_len = c->in_len = 0;
	c->head = load16(&q->avail[2 + (q->last_avail & (q->num - 1))]);
	if (!walk(q, c, q->desc, q->num, c->head, &indirect))
		return broken(q);
	if ((indirect.flags & VRING_DESC_F_INDIRECT) && !walk_indirect(q, c, &indirect))
		return broken(q);
	q->last_avail++;
	return 1;
}

void vq_unpop(struct vq *q)
{
	q->last_avail--;
}

void vq_push(struct vq *q, u16 head, u32 len)
{
	struct vring_used_elem e = { .id = head, .len = len };

	if (!q->live)
		return;
	memcpy(q->used + 4 + 8u * (q->used_idx & (q->num - 1u)), &e, sizeof(e));
	q->used_idx++;
	store16(q->used + 2, q->used_idx);
}

bool vq_should_interrupt(struct vq *q)
{
	u16 old = q->signalled, event;
	bool valid = q->signalled_valid;

	if (!q->live || (valid && old == q->used_idx))
		return false;
	/* The driver's wish is read after it can see what was pushed. */
	atomic_thread_fence(memory_order_seq_cst);
	q->signalled = q->used_idx;
	q->signalled_valid = true;
	if (!q->event_idx)
		return !(load16(&q->avail[0]) & VRING_AVAIL_F_NO_INTERRUPT);
	event = load16(&q->avail[2 + q->num]);
	return !valid || (u16)(q->used_idx - event - 1) < (u16)(q->used_idx - old);
}

void vq_quiet(struct vq *q)
{
	if (q->live && !q->event_idx)
		store16(q->used, VRING_USED_F_NO_NOTIFY);
}

bool vq_listen(struct vq *q)
{
	if (!q->live)
		return false;
	if (q->event_idx)
		store16(q->used + 4 + 8u * q->num, q->last_avail);
	else
		store16(q->used, 0);
	atomic_thread_fence(memory_order_seq_cst);
	return load16(&q->avail[1]) != q->last_avail;
}

static size_t iov_move(const struct iovec *iov, unsigned int n, u64 off, u8 *buf, size_t len, bool to_guest)
{
	size_t done = 0;

	for (unsigned int i = 0; i < n && done < len; i++) {
		size_t part;
		u8 *p;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		part = iov[i].iov_len - off;
		part = part < len - done ? part : len - done;
		p = (u8 *)iov[i].iov_base + off;
		memcpy(to_guest ? p : buf + done, to_guest ? buf + done : p, part);
		done += part;
		off = 0;
	}
	return done;
}

size_t iov_gather(const struct iovec *iov, unsigned int n, u64 off, void *buf, size_t len)
{
	return iov_move(iov, n, off, buf, len, false);
}

size_t iov_scatter(const struct iovec *iov, unsigned int n, u64 off, const void *buf, size_t len)
{
	return iov_move(iov, n, off, (u8 *)buf, len, true);
}

unsigned int iov_slice(const struct iovec *iov, unsigned int n, u64 off, u64 len, struct iovec *out)
{
	unsigned int used = 0;

	for (unsigned int i = 0; i < n && len; i++) {
		u64 part;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		part = iov[i].iov_len - off;
		part = part < len ? part : len;
		out[used++] = (struct iovec){ .iov_base = (u8 *)iov[i].iov_base + off, .iov_len = part };
		len -= part;
		off = 0;
	}
	return used;
}
