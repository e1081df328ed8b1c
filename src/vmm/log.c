/* SPDX-License-Identifier: MIT */
/*
 * Departures in the monitor's log: what the engine did to the guest by policy, as it happens.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "vmm/vmm.h"

#define KINDS_MAX 48

static struct {
	int fd;
	size_t have;
	char buf[4096];
	struct {
		char name[40];
		u64 n;
	} kind[KINDS_MAX];
} out = { .fd = -1 };

/* How often this kind has come, with this one; a line begins with its kind and a colon. */
static u64 count(const char *line)
{
	size_t len = strcspn(line, ":");

	for (unsigned int i = 0; i < KINDS_MAX; i++) {
		if (!out.kind[i].n && len < sizeof(out.kind[i].name))
			memcpy(out.kind[i].name, line, len);
		if (!out.kind[i].n || (!strncmp(out.kind[i].name, line, len) && !out.kind[i].name[len]))
			return ++out.kind[i].n;
	}
	return 1;
}

bool vmm_worth_telling(u64 n)
{
	while (n >= 10 && n % 10 == 0)
		n /= 10;
	return n == 1;
}

static void tell(const char *line)
{
	u64 n = count(line);

	if (vmm_worth_telling(n))
		fprintf(stderr, "casement: departure: %s%s\r\n", line, n > 1 ? " and so on" : "");
}

void vmm_log_departures(void *arg, u32 events)
{
	char *line, *end;
	ssize_t n;

	if (out.fd < 0)
		return;
	while ((n = read(out.fd, out.buf + out.have, sizeof(out.buf) - 1 - out.have)) > 0) {
		out.have += (size_t)n;
		out.buf[out.have] = 0;
		for (line = out.buf; (end = strchr(line, '\n')); line = end + 1) {
			*end = 0;
			tell(line);
		}
		out.have -= (size_t)(line - out.buf);
		if (out.have == sizeof(out.buf) - 1)
			out.have = 0;
		memmove(out.buf, line, out.have);
	}
}

int vmm_watch_departures(struct vm *vm)
{
	if (!vm->kvm->departures)
		return 0;
	out.fd = vm->kvm->departures(vm->fd);
	if (out.fd < 0 || !loop_add(&vm->loop, out.fd, EPOLLIN, vmm_log_departures, vm))
		return vmm_error(EXIT_HOST, "departures: %s", strerror(errno));
	return 0;
}
