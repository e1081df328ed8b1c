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
	struct guard_opts now = guard_opts_now(&vm->guard);
	int r;

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
	char err[1024];

	return guard_change_option(&vm->guard, ctx, err, sizeof(err));
}

PUBLIC int casement_change_option(int vm, const char *option)
{
	return (int)ret(with_vm(vm, change_option, (void *)option));
}

PUBLIC int casement_describe_option(unsigned int n, char *buf, size_t size)
{
	return guard_opts_help(n, buf, size);
}

static long departures(struct kvm_vm *vm, void *ctx)
{
	return departures_pipe(vm, *(enum casement_format *)ctx == CASEMENT_TEXT);
}

PUBLIC int casement_departures(int vm, enum casement_format format)
{
	return (int)ret(with_vm(vm, departures, &format));
}

struct inject_call {
	const char *what;
	char *err;
	size_t n;
};

static long do_inject(struct kvm_vm *vm, void *ctx)
{
	const struct inject_call *c = ctx;
	char err[512] = "";
	int r = inject(vm, c->what, err, sizeof(err));

	if (r && c->err && c->n)
		snprintf(c->err, c->n, "%s", err);
	return r ? -EINVAL : 0;
}

PUBLIC int casement_inject(int vm, const char *what, char *err, size_t err_size)
{
	struct inject_call c = { what, err, err_size };

	return (int)ret(with_vm(vm, do_inject, &c));
}
