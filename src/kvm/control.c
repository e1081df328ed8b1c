/* SPDX-License-Identifier: MIT */
/*
 * The control socket (control=PATH): a line in, a line out, on the service thread.
 *
 *	inject WHAT		as casement_inject()
 *	get KEY, set KEY=VALUE	as casement_get_option(), casement_change_option()
 *	vcpus			how many there are
 *	exits N			of the Nth vCPU by kind: name:count:nanoseconds:least:most …
 *	departures		name:count …
 *
 * The answer begins with "ok" or "error". The first VM of the process listens on PATH, the next on PATH.1, …
 */
#include "casement/casement.h"
#include "kvm/kvm.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "kvm/sys.h"

#define CONTROL_CLIENTS 4
#define LINE_MAX_BYTES 600

struct client {
	struct service_watch watch;	/* first: found from it */
	struct control *c;
	u32 len;
	char line[LINE_MAX_BYTES];
};

struct control {
	struct service_watch listen;	/* first */
	struct kvm_vm *vm;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct client client[CONTROL_CLIENTS];
};

static int get(struct kvm_vm *vm, const char *key, char *out, size_t n)
{
	struct guard_opts now = guard_opts_now(&vm->guard);
	char val[OPT_TEXT_MAX];

	if (guard_opts_get(&now, key, val, sizeof(val)) < 0)
		return snprintf(out, n, "error no option '%.64s'\n", key);
	return snprintf(out, n, "ok %s\n", val);
}

static int exits(struct kvm_vm *vm, const char *arg, char *out, size_t n)
{
	unsigned long at = strtoul(arg, NULL, 10);
	int len, r;

	/* the vCPU must not go away while it is read */
	pthread_mutex_lock(&vm->lock);
	if (at >= vm->m.nvcpus) {
		r = snprintf(out, n, "error no vCPU %lu\n", at);
	} else {
		len = snprintf(out, n, "ok ");
		len += exitstat_print(kvm_of(vm->m.vcpu[at]), out + len, n - (size_t)len - 1);
		r = len + snprintf(out + len, n - (size_t)len, "\n");
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static int count_departures(struct kvm_vm *vm, char *out, size_t n)
{
	int at = snprintf(out, n, "ok");

	for (unsigned int i = 0; i < DEP_KINDS; i++)
		if (vm->guard.ring.total[i])
			at += snprintf(out + at, n - (size_t)at, " %s:%llu", departure_name(i),
				       (unsigned long long)vm->guard.ring.total[i]);
	return at + snprintf(out + at, n - (size_t)at, "\n");
}

static int answer(struct kvm_vm *vm, char *line, char *out, size_t n)
{
	char *arg = strchr(line, ' '), err[512];
	int r;

	if (arg)
		*arg++ = 0;
	if (!strcmp(line, "vcpus"))
		return snprintf(out, n, "ok %u\n", vm->created_vcpus);
	if (!strcmp(line, "exits") && arg)
		return exits(vm, arg, out, n);
	if (!strcmp(line, "departures"))
		return count_departures(vm, out, n);
	if (!strcmp(line, "get") && arg)
		return get(vm, arg, out, n);
	if (!strcmp(line, "set") && arg) {
		r = guard_change_option(&vm->guard, arg, err, sizeof(err));
		return r ? snprintf(out, n, "error %s\n", err) : snprintf(out, n, "ok\n");
	}
	if (!strcmp(line, "inject") && arg) {
		r = inject(vm, arg, err, sizeof(err));
		return r ? snprintf(out, n, "error %s\n", err) : snprintf(out, n, "ok\n");
	}
	return snprintf(out, n, "error not one of inject WHAT, get KEY, set KEY=VALUE, vcpus, exits N, departures\n");
}

static void hang_up(struct client *cl)
{
	int fd = cl->watch.fd;

	service_del(&cl->watch);
	cl->watch.fd = -1;
	sys_close(fd);
}

static void client_ready(struct service_watch *w)
{
	struct client *cl = (struct client *)w;
	long n = sys_read(w->fd, cl->line + cl->len, sizeof(cl->line) - 1 - cl->len);
	char out[4096], *end;

	if (n <= 0 && n != -EAGAIN) {
		hang_up(cl);
		return;
	}
	cl->len += n > 0 ? (u32)n : 0;
	cl->line[cl->len] = 0;
	while ((end = strchr(cl->line, '\n'))) {
		*end++ = 0;
		if (end - 2 >= cl->line && end[-2] == '\r')
			end[-2] = 0;
		n = answer(cl->c->vm, cl->line, out, sizeof(out));
		sys_write(w->fd, out, (size_t)n < sizeof(out) ? (size_t)n : sizeof(out) - 1);
		cl->len -= (u32)(end - cl->line);
		memmove(cl->line, end, cl->len + 1);
	}
	if (cl->len == sizeof(cl->line) - 1)
		hang_up(cl);
}

static void accept_client(struct service_watch *w)
{
	struct control *c = (struct control *)w;
	int fd = (int)sys_call(SYS_accept4, w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (unsigned int i = 0; fd >= 0 && i < CONTROL_CLIENTS; i++) {
		struct client *cl = &c->client[i];

		if (cl->watch.fd >= 0)
			continue;
		*cl = (struct client){ .watch = { .fd = fd, .fn = client_ready }, .c = c };
		if (!service_add(&cl->watch))
			return;
		cl->watch.fd = -1;
		break;
	}
	if (fd >= 0)
		sys_close(fd);
}

/* A socket file that nobody listens on any more is in nobody's way. */
static int bind_path(struct control *c)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = (int)sys_call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

	if (fd < 0)
		return fd;
	memcpy(a.sun_path, c->path, sizeof(a.sun_path));
	r = (int)sys_call(SYS_bind, fd, &a, sizeof(a));
	if (r == -EADDRINUSE && sys_call(SYS_connect, fd, &a, sizeof(a)) == -ECONNREFUSED) {
		sys_call(SYS_unlink, c->path);
		r = (int)sys_call(SYS_bind, fd, &a, sizeof(a));
	}
	if (!r)
		r = (int)sys_call(SYS_listen, fd, CONTROL_CLIENTS);
	if (r) {
		sys_close(fd);
		return r;
	}
	sys_call(SYS_chmod, c->path, 0600);
	return fd;
}

int control_init(struct kvm_vm *vm)
{
	const char *path = vm->guard.opt.control;
	struct control *c;
	int n;

	if (!*path)
		return 0;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	n = vm->guard.ring.vm ? snprintf(c->path, sizeof(c->path), "%s.%u", path, vm->guard.ring.vm) :
				snprintf(c->path, sizeof(c->path), "%s", path);
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++)
		c->client[i].watch.fd = -1;
	c->vm = vm;
	c->listen.fn = accept_client;
	c->listen.fd = n < (int)sizeof(c->path) ? bind_path(c) : -ENAMETOOLONG;
	n = c->listen.fd < 0 ? c->listen.fd : service_add(&c->listen);
	if (n) {
		free(c);
		return n;
	}
	vm->control = c;
	return 0;
}

void control_destroy(struct kvm_vm *vm)
{
	struct control *c = vm->control;

	if (!c)
		return;
	service_del(&c->listen);
	sys_close(c->listen.fd);
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++)
		if (c->client[i].watch.fd >= 0)
			hang_up(&c->client[i]);
	sys_call(SYS_unlink, c->path);
	free(c);
	vm->control = NULL;
}
