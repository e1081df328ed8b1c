/* SPDX-License-Identifier: MIT */
/*
 * The MMIO log of the running instruction; see struct mmio_frag.
 *
 * A chip answers at once, and its answer is logged all the same: when a later read of the same instruction
 * has to ask user space, the instruction starts over and must not touch the chip twice.
 */
#include "cpu/tlb.h"


void mmio_reset(struct vcpu *v)
{
	v->mmio.n = v->mmio.next = v->mmio.sent = 0;
	v->mmio.replay = false;
}

struct mmio_frag *mmio_next(struct vcpu *v)
{
	for (unsigned int i = 0; i < v->mmio.n; i++) {
		if (!v->mmio.frag[i].done)
			return &v->mmio.frag[i];
	}
	return NULL;
}

/* Begin a new log unless this access belongs to the execution that the log is of. */
static void join_log(struct vcpu *v)
{
	struct mmio_state *m = &v->mmio;

	if (m->replay) {
		m->replay = false;
		m->next = 0;
	} else if (m->insn != v->cur || m->icount != v->icount) {
		mmio_reset(v);
	}
	m->insn = v->cur;
	m->icount = v->icount;
}

/* The fragment for the next access; *fresh when it is not a replay. NULL: the log is full. */
static struct mmio_frag *take(struct vcpu *v, gpa_t gpa, unsigned int len, bool is_write, bool *fresh)
{
	struct mmio_state *m = &v->mmio;
	struct mmio_frag *f = &m->frag[m->next];

	*fresh = false;
	if (m->next < m->n && f->gpa == gpa && f->len == len && f->is_write == is_write) {
		m->next++;
		return f;
	}
	if (m->next == MMIO_FRAGS)
		return NULL;
	/* Not what was accessed the last time (page tables changed?): the rest of the log is void. */
	m->n = ++m->next;
	*f = (struct mmio_frag){ .gpa = gpa, .len = (u8)len, .is_write = is_write };
	*fresh = true;
	return f;
}

static void copy(u8 *dst, const u8 *src, unsigned int len)
{
	while (len--)
		*dst++ = *src++;
}

static int read_frag(struct vcpu *v, gpa_t gpa, u8 *dst, unsigned int len)
{
	bool fresh;
	struct mmio_frag *f = take(v, gpa, len, false, &fresh);

	if (!f)
		return cpu_internal(v, INTERNAL_EMULATION);
	if (fresh)
		f->done = !v->vm->bus->mmio_read(v, gpa, len, f->data);
	if (!f->done) {
		v->mmio.replay = true;
		v->stop = CPU_STOP_MMIO;
		return OP_STOP;
	}
	copy(dst, f->data, len);
	return 0;
}

static int write_frag(struct vcpu *v, gpa_t gpa, const u8 *src, unsigned int len)
{
	bool fresh;
	struct mmio_frag *f = take(v, gpa, len, true, &fresh);

	if (!f)
		return cpu_internal(v, INTERNAL_EMULATION);
	if (fresh) {
		copy(f->data, src, len);
		f->done = !v->vm->bus->mmio_write(v, gpa, len, src);
	}
	if (!f->done)
		v->stop = CPU_STOP_MMIO;
	atomic_fetch_or(&v->request, REQ_INSN);
	return 0;
}

int mmio_read(struct vcpu *v, gpa_t gpa, void *dst, unsigned int len)
{
	u8 *p = dst;
	int res = 0;

	join_log(v);
	while (len && !res) {
		unsigned int n = len < 8 ? len : 8;

		res = read_frag(v, gpa, p, n);
		gpa += n;
		p += n;
		len -= n;
	}
	return res;
}

int mmio_write(struct vcpu *v, gpa_t gpa, const void *src, unsigned int len)
{
	const u8 *p = src;
	int res = 0;

	join_log(v);
	while (len && !res) {
		unsigned int n = len < 8 ? len : 8;

		res = write_frag(v, gpa, p, n);
		gpa += n;
		p += n;
		len -= n;
	}
	return res;
}
