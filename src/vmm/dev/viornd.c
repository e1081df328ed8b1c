/* SPDX-License-Identifier: MIT */
/*
 * virtio entropy device. [virtio 1.2 "Entropy Device"]
 */
#include "vmm/dev/dev.h"

#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>
#include "vmm/dev/virtio.h"
#include "vmm/vmm.h"

#define BYTES_MAX 4096	/* of one request; a driver that wants more asks again */

struct viornd {
	struct virtio v;
	struct vq_chain chain;
};

static void kick(struct virtio *v, unsigned int q)
{
	struct viornd *r = (struct viornd *)v;
	struct vq *vq = virtio_vq(v, 0);
	u8 buf[BYTES_MAX];

	do {
		vq_quiet(vq);
		while (vq_pop(vq, &r->chain) == 1) {
			struct vq_chain *c = &r->chain;
			size_t n = c->in_len < sizeof(buf) ? c->in_len : sizeof(buf);
			ssize_t got = getrandom(buf, n, 0);

			n = got > 0 ? iov_scatter(c->iov + c->n_out, c->n_in, 0, buf, (size_t)got) : 0;
			vq_push(vq, c->head, (u32)n);
		}
	} while (vq_listen(vq));
	virtio_interrupt(v, 0);
}

static const struct virtio_ops ops = { .kick = kick };

int viornd_create(struct vm *vm)
{
	struct viornd *r = calloc(1, sizeof(*r));

	if (!r)
		return vmm_error(EXIT_HOST, "no memory for virtio-rng");
	return virtio_plug(&r->v, vm, &ops, VIRTIO_ID_RNG, 0x00ff0001, 1, &vm->loop);
}
