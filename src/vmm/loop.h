/* SPDX-License-Identifier: MIT */
/*
 * An event loop: file descriptors and what to call when one is ready.
 */
#pragma once
#include <stdatomic.h>
#include "base/types.h"

#define LOOP_FDS_MAX 128

struct loop_fd {
	int fd;
	void (*ready)(void *arg, u32 events);
	void *arg;
	bool always;	/* a regular file: epoll refuses it, it is always ready */
	u32 events;	/* EPOLLIN | EPOLLOUT wanted now */
};

struct loop {
	int epoll_fd, stop_fd;
	_Atomic bool stop;
	struct loop_fd fds[LOOP_FDS_MAX];
	unsigned int n;
};

int loop_create(struct loop *l);
void loop_destroy(struct loop *l);

/**
 * loop_add() - watch a file descriptor
 * @events: EPOLLIN, EPOLLOUT, or 0 to be armed later by loop_want()
 *
 * Called before loop_run() only.
 *
 * Return: its handle, or NULL when the loop is full or the kernel refuses.
 */
struct loop_fd *loop_add(struct loop *l, int fd, u32 events, void (*ready)(void *, u32), void *arg);

/* Changes what is waited for; only from the loop's own thread, or before it runs. */
void loop_want(struct loop *l, struct loop_fd *f, u32 events);

/* Serves events until loop_stop(). */
void loop_run(struct loop *l);
/* Any thread. */
void loop_stop(struct loop *l);
