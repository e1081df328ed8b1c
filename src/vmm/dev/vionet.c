/* SPDX-License-Identifier: MIT */
/*
 * virtio network device. [virtio 1.2 "Network Device"]
 *
 * Frames travel over a stream socket, each after its length in four big-endian bytes, which is QEMU's socket format
 * and passt's. No offloads are offered: the header in front of each frame is all zeros but its buffer count.
 */
#include "vmm/dev/dev.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include "vmm/dev/virtio.h"
#include "vmm/host/passt.h"
#include "vmm/vmm.h"
#include "vmm/worker.h"

enum { RX = 0, TX = 1 };
#define HEADER sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define FRAME_MAX 65550u
#define LENGTH 4u

struct vionet {
	struct virtio v;
	int sock;
	struct loop_fd *watch;
	bool down, told;	/* the peer went away; the user knows */
	struct vq_chain chain;
	u8 rx[2 * (FRAME_MAX + LENGTH)];	/* what the socket gave, not yet whole frames */
	size_t rx_n;
	u8 tx[FRAME_MAX + LENGTH];	/* one frame the socket has not taken wholly */
	size_t tx_n, tx_done;
};

static void want(struct vionet *d)
{
	bool live = virtio_vq(&d->v, RX)->live;
	u32 ev = 0;

	if (d->down && !d->told) {
		d->told = true;
		vmm_error(EXIT_HOST, "passt ended; the guest's network link is down");
		memset(d->v.config + offsetof(struct virtio_net_config, status), 0, 2);
		virtio_config_changed(&d->v);
	}
	if (!d->down && live && d->rx_n < sizeof(d->rx))
		ev |= EPOLLIN;
	if (!d->down && d->tx_n)
		ev |= EPOLLOUT;
	loop_want(d->v.loop, d->watch, ev);
}

/* Length of the first whole frame in the buffer; 0 when there is none yet, and the peer is gone if it is absurd. */
static u32 first_frame(struct vionet *d)
{
	u32 be, len;

	if (d->rx_n < LENGTH)
		return 0;
	memcpy(&be, d->rx, LENGTH);
	len = ntohl(be);
	if (!len || len > FRAME_MAX) {
		d->down = true;
		return 0;
	}
	return d->rx_n >= LENGTH + len ? len : 0;
}

static void drop_front(struct vionet *d, size_t n)
{
	d->rx_n -= n;
	memmove(d->rx, d->rx + n, d->rx_n);
}

/* Frames from the buffer into the driver's chains; stops when either runs out. */
static void receive(struct vionet *d)
{
	const struct virtio_net_hdr_mrg_rxbuf h = { .num_buffers = 1 };
	struct vq *vq = virtio_vq(&d->v, RX);
	struct vq_chain *c = &d->chain;
	u32 len;

	do {
		vq_quiet(vq);
		while ((len = first_frame(d)) && vq_pop(vq, c) == 1) {
			/* A frame that does not fit into the driver's buffer is lost, as on a wire. */
			bool fits = c->in_len >= HEADER + len;

			if (fits) {
				iov_scatter(c->iov + c->n_out, c->n_in, 0, &h, HEADER);
				iov_scatter(c->iov + c->n_out, c->n_in, HEADER, d->rx + LENGTH, len);
				vq_push(vq, c->head, (u32)HEADER + len);
			} else {
				vq_unpop(vq);
			}
			drop_front(d, LENGTH + len);
		}
	} while (vq_listen(vq) && first_frame(d));
	virtio_interrupt(&d->v, RX);
}

static void from_socket(struct vionet *d)
{
	ssize_t n = recv(d->sock, d->rx + d->rx_n, sizeof(d->rx) - d->rx_n, MSG_DONTWAIT);

	if (n > 0)
		d->rx_n += (size_t)n;
	else if (!n || (errno != EAGAIN && errno != EINTR))
		d->down = true;
	receive(d);
}

/* True when the frame at hand is on its way. */
static bool flush_tx(struct vionet *d)
{
	while (d->tx_done < d->tx_n && !d->down) {
		ssize_t n = send(d->sock, d->tx + d->tx_done, d->tx_n - d->tx_done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN)
			return false;
		if (n < 0 && errno != EINTR)
			d->down = true;
		else if (n > 0)
			d->tx_done += (size_t)n;
	}
	d->tx_n = d->tx_done = 0;
	return true;
}

static void transmit(struct vionet *d)
{
	struct vq *vq = virtio_vq(&d->v, TX);
	struct vq_chain *c = &d->chain;

	do {
		vq_quiet(vq);
		while (flush_tx(d) && vq_pop(vq, c) == 1) {
			u64 len = c->out_len > HEADER ? c->out_len - HEADER : 0;
			u32 be = htonl((u32)len);

			if (len && len <= FRAME_MAX && !d->down) {
				memcpy(d->tx, &be, LENGTH);
				iov_gather(c->iov, c->n_out, HEADER, d->tx + LENGTH, len);
				d->tx_n = LENGTH + len;
			}
			vq_push(vq, c->head, 0);
		}
	} while (!d->tx_n && vq_listen(vq));
	virtio_interrupt(&d->v, TX);
}

static void kick(struct virtio *v, unsigned int q)
{
	struct vionet *d = (struct vionet *)v;

	if (q == RX)
		receive(d);
	else
		transmit(d);
	want(d);
}

static void on_socket(void *arg, u32 events)
{
	struct vionet *d = arg;

	pthread_mutex_lock(&d->v.pci.lock);
	if (virtio_vq(&d->v, RX)->live && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		from_socket(d);
	if (virtio_vq(&d->v, TX)->live && (events & EPOLLOUT))
		transmit(d);
	want(d);
	pthread_mutex_unlock(&d->v.pci.lock);
}

static const struct virtio_ops ops = { .kick = kick };

static int parse_mac(const char *s, u8 *mac)
{
	unsigned int b[6];
	int end = 0;

	if (sscanf(s, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) != 6 || s[end])
		return -EINVAL;
	for (int i = 0; i < 6; i++)
		mac[i] = (u8)b[i];
	return mac[0] & 1 ? -EINVAL : 0;
}

static int parse(const char *spec, u8 *mac)
{
	char piece[64];

	if (!opt_next(&spec, piece, sizeof(piece)) || strcmp(piece, "passt"))
		return vmm_error(EXIT_USAGE, "--net: the only network there is is passt");
	/* locally administered, unicast */
	if (getrandom(mac, 6, 0) != 6)
		memset(mac, 0x42, 6);
	mac[0] = (u8)((mac[0] & ~1) | 2);
	while (*spec) {
		if (!opt_next(&spec, piece, sizeof(piece)) || strncmp(piece, "mac=", 4) || parse_mac(piece + 4, mac))
			return vmm_error(EXIT_USAGE, "--net: '%s' is not mac=XX:XX:XX:XX:XX:XX of one station", piece);
	}
	return 0;
}

int vionet_create(struct vm *vm, const char *spec)
{
	struct virtio_net_config config = { .status = VIRTIO_NET_S_LINK_UP };
	struct vionet *d;
	int rc = parse(spec, config.mac);

	if (rc)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return vmm_error(EXIT_HOST, "no memory for virtio-net");
	d->v.loop = worker_create("net");
	d->sock = passt_start();
	if (d->sock < 0 || !d->v.loop) {
		rc = d->sock;
		free(d);
		return vmm_error(EXIT_HOST, "cannot start passt(1): %s", strerror(rc < 0 ? -rc : ENOMEM));
	}
	memcpy(d->v.config, &config, sizeof(config));
	d->v.config_len = offsetof(struct virtio_net_config, max_virtqueue_pairs);
	d->v.features = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS);
	d->watch = loop_add(d->v.loop, d->sock, 0, on_socket, d);
	if (!d->watch) {
		free(d);
		return vmm_error(EXIT_HOST, "cannot watch passt's socket");
	}
	return virtio_plug(&d->v, vm, &ops, VIRTIO_ID_NET, 0x02000001, 2, d->v.loop);
}
