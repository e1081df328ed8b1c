/* SPDX-License-Identifier: MIT */
/*
 * Fault injection: what no hardware does on demand. The language, and what happens inside the processor; who
 * carries the rest out is src/kvm/inject.c. doc/injection.md is for users.
 */
#pragma once
#include <stddef.h>

#include "base/types.h"

enum inject_kind {
	INJECT_WEDGE, INJECT_F00F, INJECT_CONTEXT, INJECT_NMI_UNBLOCK, INJECT_MCE, INJECT_SPLIT_AC, INJECT_POISON,
	INJECT_IOCTL,
};

/**
 * struct injection - one piece of the language
 * @vcpu: of INJECT_WEDGE, INJECT_F00F, INJECT_MCE, INJECT_SPLIT_AC
 * @val: crystal ticks (0: until the notify exit); corrupt or not; MCi_STATUS; guest-physical address; which call
 * @request, @error: of INJECT_IOCTL
 */
struct injection {
	enum inject_kind kind;
	u32 vcpu;
	u64 val;
	u32 request;
	int error;
};

#define INJECT_IOCTLS 8

/**
 * struct inject_plan - what a VM has in store for its ioctls
 */
struct inject_plan {
	_Atomic u32 n;
	struct {
		u32 request;
		int error;
		_Atomic u64 left;	/* calls until it fails; 0: done */
	} row[INJECT_IOCTLS];
};

/**
 * guard_inject_next() - take the first piece off a '+'-separated list
 * @s: moved past it
 * @err, @n: one line saying what is accepted
 *
 * Return: 1 a piece is in @out; 0 the list is empty; -EINVAL.
 */
int guard_inject_next(const char **s, struct injection *out, char *err, size_t n);

/* Add a failing ioctl: 0, or -ENOSPC. */
int guard_plan_add(struct inject_plan *p, const struct injection *i);
/* Is this call to fail? 0 or -errno. */
int guard_plan_take(struct inject_plan *p, u32 request);
