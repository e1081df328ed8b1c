/* SPDX-License-Identifier: MIT */
/*
 * virtio console with one port: hvc0. [virtio 1.2 "Console Device"]
 */
#include "vmm/dev/dev.h"

#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "vmm/dev/virtio.h"
#include "vmm/host/term.h"
#include "vmm/vmm.h"
#include "vmm/worker.h"

enum { RX = 0, TX = 1 };
#define PATIENCE 15
#define TYPED_MAX 4096

struct viocon {
	struct virtio v;
	struct vq_chain chain;
	/*
	 * Of its own, inside the device's lock: output may hold that one for as long as the terminal is stopped, and
	 * the user must still be able to type Ctrl-A x.
	 */
	pthread_mutex_t typed_lock;
	u8 typed[TYPED_MAX];	/* not yet taken by the driver */
	unsigned int head, n;
	bool starved;
	/*
	 * Linux throws away what arrives while its driver is still probing. So what was typed waits until the guest has
	 * written something, or for PATIENCE seconds after it handed over its first buffers.
	 */
	bool listening;
	int patience_fd;
};

static void wait_for_guest(struct viocon *c)
{
	const struct itimerspec limit = { .it_value.tv_sec = PATIENCE };
	struct itimerspec left;

	if (!timerfd_gettime(c->patience_fd, &left) && !left.it_value.tv_sec && !left.it_value.tv_nsec)
		timerfd_settime(c->patience_fd, 0, &limit, NULL);
}

static u32 take_typed(struct viocon *c, u8 *buf, size_t max)
{
	u32 n = 0;

	pthread_mutex_lock(&c->typed_lock);
	while (c->n && n < max) {
		buf[n++] = c->typed[c->head];
		c->head = (c->head + 1) % TYPED_MAX;
		c->n--;
	}
	if (c->starved && c->n <= TYPED_MAX / 2) {
		c->starved = false;
		console_wake();
	}
	pthread_mutex_unlock(&c->typed_lock);
	return n;
}

static bool have_typed(struct viocon *c)
{
	bool some;

	pthread_mutex_lock(&c->typed_lock);
	some = c->n != 0;
	pthread_mutex_unlock(&c->typed_lock);
	return some;
}

static void receive(struct viocon *c)
{
	u8 buf[256];

	if (!c->listening) {
		wait_for_guest(c);
		return;
	}
	struct vq *vq = virtio_vq(&c->v, RX);
	struct vq_chain *ch = &c->chain;

	do {
		vq_quiet(vq);
		while (have_typed(c) && vq_pop(vq, ch) == 1) {
			u32 n = take_typed(c, buf, ch->in_len < sizeof(buf) ? ch->in_len : sizeof(buf));

			iov_scatter(ch->iov + ch->n_out, ch->n_in, 0, buf, n);
			vq_push(vq, ch->head, n);
		}
	} while (vq_listen(vq) && have_typed(c));
	virtio_interrupt(&c->v, RX);
}

static void transmit(struct viocon *c)
{
	struct vq *vq = virtio_vq(&c->v, TX);
	struct vq_chain *ch = &c->chain;
	bool wrote = false;

	do {
		vq_quiet(vq);
		while (vq_pop(vq, ch) == 1) {
			wrote = true;
			for (unsigned int i = 0; i < ch->n_out; i++)
				console_write(c->v.pci.vm, ch->iov[i].iov_base, ch->iov[i].iov_len);
			vq_push(vq, ch->head, 0);
		}
	} while (vq_listen(vq));
	virtio_interrupt(&c->v, TX);
	if (wrote && !c->listening) {
		c->listening = true;
		receive(c);
	}
}

static void on_patience(void *arg, u32 events)
{
	struct viocon *c = arg;
	u64 n;

	if (read(c->patience_fd, &n, sizeof(n)) < 0)
		return;
	pthread_mutex_lock(&c->v.pci.lock);
	c->listening = virtio_vq(&c->v, RX)->live;
	if (c->listening)
		receive(c);
	pthread_mutex_unlock(&c->v.pci.lock);
}

static void reset(struct virtio *v)
{
	((struct viocon *)v)->listening = false;
}

static void kick(struct virtio *v, unsigned int q)
{
	if (q == RX)
		receive((struct viocon *)v);
	else
		transmit((struct viocon *)v);
}

static const struct virtio_ops ops = { .kick = kick, .reset = reset };

static size_t room(void *dev)
{
	struct viocon *c = dev;
	size_t n;

	pthread_mutex_lock(&c->typed_lock);
	n = TYPED_MAX - c->n;
	c->starved = !n;
	pthread_mutex_unlock(&c->typed_lock);
	return n;
}

static void put(void *dev, const u8 *p, size_t n)
{
	struct viocon *c = dev;

	pthread_mutex_lock(&c->typed_lock);
	for (size_t i = 0; i < n && c->n < TYPED_MAX; i++)
		c->typed[(c->head + c->n++) % TYPED_MAX] = p[i];
	pthread_mutex_unlock(&c->typed_lock);
	virtio_poke(&c->v, RX);
}

int viocon_create(struct vm *vm, struct console_sink *sink)
{
	struct viocon *c = calloc(1, sizeof(*c));
	/* A terminal that is stopped blocks its own thread only. */
	struct loop *loop = worker_create("console");

	int patience_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	if (!c || !loop || patience_fd < 0 || !loop_add(loop, patience_fd, EPOLLIN, on_patience, c)) {
		free(c);
		return vmm_error(EXIT_HOST, "no memory or thread for virtio-console");
	}
	c->patience_fd = patience_fd;
	pthread_mutex_init(&c->typed_lock, NULL);
	*sink = (struct console_sink){ .room = room, .put = put, .dev = c };
	return virtio_plug(&c->v, vm, &ops, VIRTIO_ID_CONSOLE, 0x07800001, 2, loop);
}
