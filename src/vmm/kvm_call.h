/* SPDX-License-Identifier: MIT */
/*
 * The one door to KVM: a real /dev/kvm or the software processor, behind the same five calls.
 */
#pragma once
#include <signal.h>
#include <sys/types.h>
#include "base/types.h"

/**
 * struct kvm_call - how to reach a KVM
 *
 * Every function behaves like the system call of its name: -1 and errno on failure. @sigaction is for the
 * signal that interrupts KVM_RUN. The others are the software processor's only, else NULL: @set_options is
 * casement_set_options(), @describe_option casement_describe_option(), @departures gives a descriptor with a line of
 * text for each departure of a VM.
 */
struct kvm_call {
	const char *name;
	const char *path;
	int (*open)(const char *path, int flags);
	int (*ioctl)(int fd, unsigned long request, unsigned long arg);
	void *(*mmap)(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
	int (*munmap)(void *addr, size_t length);
	int (*close)(int fd);
	int (*sigaction)(int sig, const struct sigaction *act, struct sigaction *old);
	int (*set_options)(const char *list, char *err, size_t n);
	int (*departures)(int vm);
	int (*describe_option)(unsigned int n, char *buf, size_t size);
};

/**
 * kvm_call_find() - the accelerator called @name: "kvm" or "casement"
 *
 * Return: NULL when this program has no such accelerator.
 */
const struct kvm_call *kvm_call_find(const char *name);
