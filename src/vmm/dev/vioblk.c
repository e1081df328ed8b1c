/* SPDX-License-Identifier: MIT */
/*
 * virtio block device over a raw image. [virtio 1.2 "Block Device"]
 */
#include "vmm/dev/dev.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include "vmm/dev/virtio.h"
#include "vmm/host/raw.h"
#include "vmm/vmm.h"
#include "vmm/worker.h"

#define SECTOR_SHIFT 9
#define SEG_MAX 126	/* the queue's size less header and status */
#define DISCARD_SECTORS 65536u	/* most in one discard or write-zeroes segment: 32 MiB */

struct vioblk {
	struct virtio v;
	struct raw disk;
	struct vq_chain chain;	/* of the request at hand: too large for the stack */
	struct iovec slice[VQ_SIZE_MAX];
};

static bool in_range(const struct vioblk *b, u64 sector, u64 bytes)
{
	u64 off;

	return !__builtin_mul_overflow(sector, 1u << SECTOR_SHIFT, &off) && off <= b->disk.size &&
	       bytes <= b->disk.size - off;
}

static u8 transfer(struct vioblk *b, u64 sector, bool write, u32 *written)
{
	struct vq_chain *c = &b->chain;
	u64 len = write ? c->out_len - sizeof(struct virtio_blk_outhdr) : c->in_len - 1;
	unsigned int n;

	if (len & ((1 << SECTOR_SHIFT) - 1) || !in_range(b, sector, len) || (write && b->disk.read_only))
		return VIRTIO_BLK_S_IOERR;
	n = write ? iov_slice(c->iov, c->n_out, sizeof(struct virtio_blk_outhdr), len, b->slice) :
		    iov_slice(c->iov + c->n_out, c->n_in, 0, len, b->slice);
	if (raw_io(&b->disk, b->slice, n, sector << SECTOR_SHIFT, write))
		return VIRTIO_BLK_S_IOERR;
	*written = write ? 0 : (u32)len;
	return VIRTIO_BLK_S_OK;
}

static u8 discard(struct vioblk *b, bool zero)
{
	struct virtio_blk_discard_write_zeroes seg;
	struct vq_chain *c = &b->chain;
	u32 flags_known = zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
	u64 off, len;

	/* One segment, as the configuration says. */
	if (c->out_len != sizeof(struct virtio_blk_outhdr) + sizeof(seg) ||
	    iov_gather(c->iov, c->n_out, sizeof(struct virtio_blk_outhdr), &seg, sizeof(seg)) != sizeof(seg))
		return VIRTIO_BLK_S_IOERR;
	if (seg.flags & ~flags_known)
		return VIRTIO_BLK_S_UNSUPP;
	len = (u64)seg.num_sectors << SECTOR_SHIFT;
	if (seg.num_sectors > DISCARD_SECTORS || !in_range(b, seg.sector, len) || b->disk.read_only)
		return VIRTIO_BLK_S_IOERR;
	off = seg.sector << SECTOR_SHIFT;
	if (!len)
		return VIRTIO_BLK_S_OK;
	if (zero ? raw_zero(&b->disk, off, len, seg.flags) : raw_discard(&b->disk, off, len))
		return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

static u8 get_id(struct vioblk *b, u32 *written)
{
	struct vq_chain *c = &b->chain;
	u64 room = c->in_len - 1;
	size_t n = room < VIRTIO_BLK_ID_BYTES ? room : VIRTIO_BLK_ID_BYTES;

	*written = (u32)iov_scatter(c->iov + c->n_out, c->n_in, 0, b->disk.serial, n);
	return VIRTIO_BLK_S_OK;
}

static u8 request(struct vioblk *b, const struct virtio_blk_outhdr *h, u32 *written)
{
	switch (h->type) {
	case VIRTIO_BLK_T_IN:
		return transfer(b, h->sector, false, written);
	case VIRTIO_BLK_T_OUT:
		return transfer(b, h->sector, true, written);
	case VIRTIO_BLK_T_FLUSH:
		return raw_flush(&b->disk) ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_GET_ID:
		return get_id(b, written);
	case VIRTIO_BLK_T_DISCARD:
		return discard(b, false);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return discard(b, true);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* One request: header, data, and in the very last byte its status. False when there is no room for those. */
static bool serve(struct vioblk *b)
{
	struct vq_chain *c = &b->chain;
	struct virtio_blk_outhdr h;
	u32 written = 0;
	u8 status;

	if (!c->in_len || c->in_len > 0xffffffffu ||
	    iov_gather(c->iov, c->n_out, 0, &h, sizeof(h)) != sizeof(h))
		return false;
	status = request(b, &h, &written);
	iov_scatter(c->iov + c->n_out, c->n_in, c->in_len - 1, &status, 1);
	vq_push(virtio_vq(&b->v, 0), c->head, written + 1);
	return true;
}

static void kick(struct virtio *v, unsigned int q)
{
	struct vioblk *b = (struct vioblk *)v;
	struct vq *vq = virtio_vq(v, 0);

	do {
		vq_quiet(vq);
		while (vq_pop(vq, &b->chain) == 1) {
			if (!serve(b)) {
				vq->live = false;
				break;
			}
		}
	} while (vq_listen(vq));
	virtio_interrupt(v, 0);
}

static const struct virtio_ops ops = { .kick = kick };

static void fill_config(struct vioblk *b)
{
	struct virtio_blk_config c = {
		.capacity = b->disk.size >> SECTOR_SHIFT, .seg_max = SEG_MAX, .blk_size = 1 << SECTOR_SHIFT,
		.max_discard_sectors = DISCARD_SECTORS, .max_discard_seg = 1, .discard_sector_alignment = 1,
		.max_write_zeroes_sectors = DISCARD_SECTORS, .max_write_zeroes_seg = 1, .write_zeroes_may_unmap = 1,
	};

	b->v.config_len = sizeof(c) < VIRTIO_CONFIG_MAX ? sizeof(c) : VIRTIO_CONFIG_MAX;
	memcpy(b->v.config, &c, b->v.config_len);
	b->v.features = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH);
	b->v.features |= b->disk.read_only ? BIT(VIRTIO_BLK_F_RO) :
					     BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
}

int vioblk_create(struct vm *vm, const char *spec)
{
	struct vioblk *b = calloc(1, sizeof(*b));
	struct loop *loop = worker_create("disk");
	int rc;

	if (!b || !loop) {
		free(b);
		return vmm_error(EXIT_HOST, "no memory or thread for a disk");
	}
	rc = raw_open(&b->disk, spec);
	if (rc) {
		free(b);
		return rc;
	}
	fill_config(b);
	return virtio_plug(&b->v, vm, &ops, VIRTIO_ID_BLOCK, 0x01000001, 1, loop);
}
