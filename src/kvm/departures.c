/* SPDX-License-Identifier: MIT */
/*
 * Where departures go: a file (departures=FILE) and a stream (casement_departures()).
 *
 * vCPU threads only put records into the ring and ring an eventfd; the service thread, and each vCPU thread on its way
 * out of KVM_RUN, takes them out and writes them down. A reader that is too slow costs records, not time.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kvm/sys.h"

static void out_ready(struct service_watch *w);

static struct kvm_vm *vm_of(struct departures *d)
{
	return (struct kvm_vm *)((char *)d - offsetof(struct kvm_vm, departures));
}

/* Inside cpu_run() too. */
static void wake(struct departure_ring *r)
{
	struct guard *g = (struct guard *)((char *)r - offsetof(struct guard, ring));
	struct kvm_vm *vm = (struct kvm_vm *)((char *)g - offsetof(struct kvm_vm, guard));
	u64 one = 1;

	sys_write(vm->departures.event.fd, &one, sizeof(one));
}

/* False: the stream is full and the line waits. */
static bool put_pipe(struct departures *d)
{
	long n;

	if (d->pipe < 0 || !d->line_len)
		return true;
	n = sys_call(SYS_sendto, d->pipe, d->line, d->line_len, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
	if (n == -EAGAIN || (n > 0 && n < (long)d->line_len)) {
		if (n > 0) {
			d->line_len -= (u32)n;
			memmove(d->line, d->line + n, d->line_len);
		}
		if (!d->out_armed)
			d->out_armed = !service_add(&d->out);
		return false;
	}
	if (n < 0) { /* nobody reads any more */
		sys_close(d->pipe);
		d->pipe = -1;
	}
	d->line_len = 0;
	return true;
}

static void put_file(struct departures *d, const struct departure *rec)
{
	char line[DEPARTURE_LINE];
	int n = departure_json(rec, line, sizeof(line));

	sys_write(d->file, line, (size_t)n);
}

static void drain_locked(struct departures *d)
{
	struct departure_ring *ring = &vm_of(d)->guard.ring;
	struct departure rec;

	while (put_pipe(d) && (d->pipe >= 0 || d->file >= 0) && departure_take(ring, &rec)) {
		if (d->file >= 0)
			put_file(d, &rec);
		if (d->pipe >= 0)
			d->line_len = (u32)(d->text ? departure_line(&rec, d->line, sizeof(d->line)) :
						      departure_json(&rec, d->line, sizeof(d->line)));
	}
}

/* Any thread may; all write what they find. */
static void drain(struct kvm_vm *vm)
{
	struct departures *d = &vm->departures;
	struct departure_ring *ring = &vm->guard.ring;

	for (unsigned int i = 0; i < DEP_KINDS; i++)
		__atomic_store_n(&vm->stat->departures[i], ring->total[i], __ATOMIC_RELAXED);
	if (ring->wake) {
		pthread_mutex_lock(&d->lock);
		drain_locked(d);
		pthread_mutex_unlock(&d->lock);
	}
	__atomic_store_n(&vm->stat->departures_dropped[0], ring->dropped, __ATOMIC_RELAXED);
}

/* On the way out of every KVM_RUN: nothing new must cost nothing. */
void departures_drain(struct kvm_vm *vm)
{
	struct departures *d = &vm->departures;
	u64 next = vm->guard.ring.next;

	if (likely(next == atomic_load_explicit(&d->seen, memory_order_relaxed)))
		return;
	atomic_store_explicit(&d->seen, next, memory_order_relaxed);
	drain(vm);
}

static void event_fired(struct service_watch *w)
{
	struct departures *d = (struct departures *)((char *)w - offsetof(struct departures, event));
	u64 n;

	sys_read(w->fd, &n, sizeof(n));
	drain(vm_of(d));
}

static void out_ready(struct service_watch *w)
{
	struct departures *d = (struct departures *)((char *)w - offsetof(struct departures, out));

	service_del(w);
	pthread_mutex_lock(&d->lock);
	d->out_armed = false;
	drain_locked(d);
	pthread_mutex_unlock(&d->lock);
}

/* With vm->lock or before anybody knows the VM. */
static int start(struct kvm_vm *vm)
{
	struct departures *d = &vm->departures;
	int r;

	if (vm->guard.ring.wake)
		return 0;
	d->event.fd = (int)sys_call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->event.fd < 0)
		return d->event.fd;
	d->event.fn = event_fired;
	r = service_add(&d->event);
	if (r) {
		sys_close(d->event.fd);
		d->event.fd = -1;
		return r;
	}
	vm->guard.ring.wake = wake;
	return 0;
}

int departures_init(struct kvm_vm *vm)
{
	struct departures *d = &vm->departures;
	const char *path = vm->guard.opt.departures;
	int r;

	d->file = d->pipe = d->event.fd = -1;
	pthread_mutex_init(&d->lock, NULL);
	if (!*path)
		return 0;
	d->file = (int)sys_call(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (d->file < 0)
		return d->file;
	r = start(vm);
	return r;
}

void departures_destroy(struct kvm_vm *vm)
{
	struct departures *d = &vm->departures;

	if (vm->guard.ring.wake) {
		service_del(&d->event);
		if (d->out_armed)
			service_del(&d->out);
		drain(vm);
	}
	if (d->event.fd >= 0)
		sys_close(d->event.fd);
	if (d->file >= 0)
		sys_close(d->file);
	if (d->pipe >= 0)
		sys_close(d->pipe);
	pthread_mutex_destroy(&d->lock);
}

/* The reader there was. The service thread is waited for without the lock, which it may want. */
static void hang_up(struct departures *d)
{
	bool armed;
	int old;

	pthread_mutex_lock(&d->lock);
	armed = d->out_armed;
	old = d->pipe;
	d->out_armed = false;
	d->pipe = -1;
	d->line_len = 0;
	pthread_mutex_unlock(&d->lock);
	if (armed)
		service_del(&d->out);
	if (old >= 0)
		sys_close(old);
}

int departures_pipe(struct kvm_vm *vm, bool text)
{
	struct departures *d = &vm->departures;
	int fd[2], r;

	/* a socket pair: a pipe without a reader would send SIGPIPE */
	r = (int)sys_call(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd);
	if (r < 0)
		return r;
	pthread_mutex_lock(&vm->lock);
	r = start(vm);
	pthread_mutex_unlock(&vm->lock);
	if (r) {
		sys_close(fd[0]);
		sys_close(fd[1]);
		return r;
	}
	hang_up(d);
	pthread_mutex_lock(&d->lock);
	d->text = text;
	d->pipe = fd[1];
	d->out = (struct service_watch){ .fd = fd[1], .fn = out_ready, .events = EPOLLOUT };
	drain_locked(d);
	pthread_mutex_unlock(&d->lock);
	return fd[0];
}
