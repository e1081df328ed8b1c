/* SPDX-License-Identifier: MIT */
#include "vmm/loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

int loop_create(struct loop *l)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };

	l->n = 0;
	atomic_store(&l->stop, false);
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	l->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->epoll_fd < 0 || l->stop_fd < 0 || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->stop_fd, &ev))
		return -errno;
	return 0;
}

void loop_destroy(struct loop *l)
{
	close(l->epoll_fd);
	close(l->stop_fd);
}

struct loop_fd *loop_add(struct loop *l, int fd, u32 events, void (*ready)(void *, u32), void *arg)
{
	struct loop_fd *f;
	struct epoll_event ev;

	if (l->n == LOOP_FDS_MAX)
		return NULL;
	f = &l->fds[l->n];
	*f = (struct loop_fd){ .fd = fd, .ready = ready, .arg = arg, .events = events };
	ev = (struct epoll_event){ .events = events, .data.ptr = f };
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
		if (errno != EPERM)
			return NULL;
		f->always = true;
	} else if (!events) {
		epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	}
	l->n++;
	return f;
}

void loop_want(struct loop *l, struct loop_fd *f, u32 events)
{
	struct epoll_event ev = { .events = events, .data.ptr = f };

	if (f->events == events)
		return;
	f->events = events;
	if (f->always)
		return;
	/* EPOLLHUP cannot be masked: a descriptor nobody wants leaves the set, or its hang-up would spin us. */
	if (!events)
		epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, f->fd, NULL);
	else if (epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, f->fd, &ev) && errno == ENOENT)
		epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, f->fd, &ev);
}

static bool serve_always(struct loop *l)
{
	bool any = false;

	for (unsigned int i = 0; i < l->n; i++) {
		struct loop_fd *f = &l->fds[i];

		if (!f->always || !f->events)
			continue;
		f->ready(f->arg, f->events);
		any |= f->events != 0;
	}
	return any;
}

void loop_run(struct loop *l)
{
	struct epoll_event ev[16];

	while (!atomic_load(&l->stop)) {
		bool more = serve_always(l);
		int n = epoll_wait(l->epoll_fd, ev, 16, more ? 0 : -1);

		for (int i = 0; i < n && !atomic_load(&l->stop); i++) {
			struct loop_fd *f = ev[i].data.ptr;

			if (f && f->events)
				f->ready(f->arg, ev[i].events);
		}
	}
}

void loop_stop(struct loop *l)
{
	u64 one = 1;

	atomic_store(&l->stop, true);
	if (write(l->stop_fd, &one, sizeof(one)) < 0)
		return;	/* full: it is readable already */
}
