/* SPDX-License-Identifier: MIT */
/* The jump cache: traces by linear address (rcache.h), a member of struct vcpu. */
#pragma once
#include "base/types.h"

struct insn;

#define JCACHE_SETS 4096u

/* Two share a line of the host's caches. */
struct jentry {
	u64 lin;
	u64 mode_key;
	const struct insn *rec;
	const void *code; /* translated code's way into it */
} __attribute__((aligned(32)));
#define JENTRY_NEVER (~0ull) /* no mode_key */

/* Emitted code has a set's distance / 8 in two instructions and a mask; it looks at the first entry, or at both. */
#define JCACHE_SHIFT 9
#define JCACHE_MASK ((JCACHE_SETS - 1) << 3)

static inline u32 jcache_index(u64 lin)
{
	return (u32)(lin ^ lin >> JCACHE_SHIFT) & JCACHE_MASK;
}
