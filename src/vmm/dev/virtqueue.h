/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueue, device side. [virtio 1.2 "Split Virtqueues"]
 *
 * The driver is not trusted. Ring addresses are checked and turned into pointers once, when the device starts; each
 * descriptor is copied before it is looked at, and every buffer is checked against guest memory. A driver that
 * breaks the rules breaks its queue: vq_pop() says so and the queue stays dead until the device is reset.
 */
#pragma once
#include <sys/uio.h>
#include "base/types.h"

struct ram;

#define VQ_SIZE_MAX 256

struct vq {
	const struct ram *ram;
	bool live;		/* latched and not broken */
	bool event_idx;
	u16 num;
	const u8 *desc;		/* num descriptors of 16 bytes */
	u16 *avail;		/* flags, idx, ring[num], used_event */
	u8 *used;		/* flags, idx, ring[num] of 8 bytes, avail_event */
	u16 last_avail, used_idx, signalled;
	bool signalled_valid;
};

/**
 * struct vq_chain - one request: buffers the device reads, then buffers it writes
 */
struct vq_chain {
	u16 head;
	unsigned int n_out, n_in;
	u64 out_len, in_len;
	struct iovec iov[VQ_SIZE_MAX];	/* n_out, then n_in */
};

/**
 * vq_latch() - check ring addresses and start
 *
 * Return: false, and the queue stays dead, unless @num is a power of two up to VQ_SIZE_MAX and the rings are
 * aligned and inside guest memory.
 */
bool vq_latch(struct vq *q, const struct ram *ram, u16 num, u64 desc, u64 avail, u64 used, bool event_idx);

/**
 * vq_pop() - take the next request
 *
 * Return: 1 and @c, 0 when there is none, -1 when the driver broke the queue (q->live is false then).
 */
int vq_pop(struct vq *q, struct vq_chain *c);

/* Puts the request last taken back: it will be popped again. */
void vq_unpop(struct vq *q);

/* Hands a request back, @len bytes of it written. */
void vq_push(struct vq *q, u16 head, u32 len);

/* Does the driver want an interrupt for what was pushed since the last call? */
bool vq_should_interrupt(struct vq *q);

/* Asks the driver not to kick; vq_listen() asks it to, and returns true when requests arrived meanwhile. */
void vq_quiet(struct vq *q);
bool vq_listen(struct vq *q);

/* Bytes between a chain's buffers and a flat one; return what fitted. */
size_t iov_gather(const struct iovec *iov, unsigned int n, u64 off, void *buf, size_t len);
size_t iov_scatter(const struct iovec *iov, unsigned int n, u64 off, const void *buf, size_t len);
/* The part [off, off + len) of @iov as vectors of their own; returns how many. @out has room for n. */
unsigned int iov_slice(const struct iovec *iov, unsigned int n, u64 off, u64 len, struct iovec *out);
