/* SPDX-License-Identifier: MIT */
#include "vmm/kvm_call.h"

#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#ifndef CASEMENT_NO_ENGINE
#include "casement/casement.h"
#endif

static int real_open(const char *path, int flags)
{
	return open(path, flags);
}

static int real_ioctl(int fd, unsigned long request, unsigned long arg)
{
	return ioctl(fd, request, arg);
}

static const struct kvm_call real = {
	.name = "kvm",
	.path = "/dev/kvm",
	.open = real_open,
	.ioctl = real_ioctl,
	.mmap = mmap,
	.munmap = munmap,
	.close = close,
	.sigaction = sigaction,
};

#ifndef CASEMENT_NO_ENGINE
static int soft_open(const char *path, int flags)
{
	return casement_open(flags);
}

static int soft_ioctl(int fd, unsigned long request, unsigned long arg)
{
	return casement_ioctl(fd, request, arg);
}

static int soft_departures(int vm)
{
	return casement_departures(vm, CASEMENT_TEXT);
}

static const struct kvm_call soft = {
	.name = "casement",
	.path = NULL,
	.open = soft_open,
	.ioctl = soft_ioctl,
	.mmap = casement_mmap,
	.munmap = munmap,
	.close = casement_close,
	.sigaction = casement_sigaction,
	.set_options = casement_set_options,
	.departures = soft_departures,
	.describe_option = casement_describe_option,
};
#endif

const struct kvm_call *kvm_call_find(const char *name)
{
#ifndef CASEMENT_NO_ENGINE
	if (!strcmp(name, soft.name))
		return &soft;
#endif
	if (!strcmp(name, real.name))
		return &real;
	return NULL;
}
