/* SPDX-License-Identifier: MIT */
/*
 * Containment's part of the public header: options of a VM, departures, fault injection.
 */
#include "casement/casement.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kvm/kvm.h"
#include "kvm/sig.h"

#define PUBLIC __attribute__((visibility("default")))

static long ret(long r)
{
	if (r < 0) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

/* Call fn with the VM behind fd; -EBADF when there is none. */
static long with_vm(int fd, long (*fn)(struct kvm_vm *vm, void *ctx), void *ctx)
{
	struct kvm_file *f = fdtab_get(fd);
	long r = -EBADF;

	if (!f)
		return r;
	signal_enter();
	if (f->ops->class == FILE_VM)
		r = fn(f->obj, ctx);
	fdtab_put(f);
	signal_leave();
	return r;
}

struct get_option {
	const char *key;
	char *buf;
	size_t n;
};

static long get_option(struct kvm_vm *vm, void *ctx)
{
	const struct get_option *q = ctx;
	struct guard_opts now = vm->guard.opt;
	int r;

	now.notify_window = vm->guard.notify_window;
	now.notify_threshold = vm->guard.notify_threshold;
	r = guard_opts_get(&now, q->key, q->buf, q->n);
	return r >= 0 && (size_t)r >= q->n ? -ERANGE : r;
}

PUBLIC int casement_get_option(int vm, const char *key, char *buf, size_t n)
{
	struct get_option q = { key, buf, n };

	return (int)ret(with_vm(vm, get_option, &q));
}

static long change_option(struct kvm_vm *vm, void *ctx)
{
	const char *option = ctx;
	struct guard_opts next = vm->guard.opt;
	char err[1024];

	if (strchr(option, ',') ||
	    (strncmp(option, "notify-window=", 14) && strncmp(option, "notify-threshold=", 17)))
		return -EINVAL;
	next.notify_window = vm->guard.notify_window;
	next.notify_threshold = vm->guard.notify_threshold;
	if (guard_opts_parse(&next, option, OPTS_USER, err, sizeof(err)))
		return -EINVAL;
	vm->guard.notify_window = next.notify_window;
	vm->guard.notify_threshold = next.notify_threshold;
	return 0;
}

PUBLIC int casement_change_option(int vm, const char *option)
{
	return (int)ret(with_vm(vm, change_option, (void *)option));
}

static long departures(struct kvm_vm *vm, void *ctx)
{
	return departures_pipe(vm, *(enum casement_format *)ctx == CASEMENT_TEXT);
}

PUBLIC int casement_departures(int vm, enum casement_format format)
{
	return (int)ret(with_vm(vm, departures, &format));
}
