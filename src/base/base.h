/* SPDX-License-Identifier: MIT */
/*
 * C helpers that know no x86: futex, locks, dual-view executable memory, checked arithmetic.
 *
 * The engine's rooms are built -mgeneral-regs-only and must not call libc's memcpy family inside
 * cpu_run() (it uses vector registers, which then hold guest state): src/base/string.c defines hidden
 * memcpy, memmove, memset and memcmp that win inside the engine.
 */
#pragma once
#include "base/types.h"

/* futex(2) on a 32-bit word. wait: 0 woken, -EAGAIN value differs, -ETIMEDOUT, -EINTR. timeout_ns < 0: none */
int futex_wait(_Atomic u32 *word, u32 expected, s64 timeout_ns);
void futex_wake(_Atomic u32 *word, int n);

/* A lock that never allocates and may be taken inside cpu_run(). 0 = free. */
void lock_take(_Atomic u32 *lock);
void lock_drop(_Atomic u32 *lock);

/**
 * struct xmem - memory with a writable and an executable view of the same pages (W^X)
 */
struct xmem {
	u8 *rw;
	u8 *rx;
	size_t size;
};
int xmem_create(struct xmem *x, size_t size, const char *name);
void xmem_destroy(struct xmem *x);

u64 base_now_ns(void); /* CLOCK_MONOTONIC */
static inline u64 base_rdtsc(void) { return __builtin_ia32_rdtsc(); }
/* Host TSC frequency in kHz, measured once. */
u32 base_tsc_khz(void);
/* a * b / c without overflow of the product */
static inline u64 mul_div(u64 a, u64 b, u64 c) { return (u64)((u128)a * b / c); }
int base_gettid(void);

/**
 * struct cost - what something took that is done often
 * @times, @items: how often, and on how many things
 * @ticks: of the host's TSC
 */
struct cost {
	u64 times, items, ticks;
};

/* One more that began at start. What took very long was interrupted, and says nothing. */
static inline void cost_add(struct cost *c, u64 start, u64 times, u64 items)
{
	u64 ticks = base_rdtsc() - start;

	if (ticks > 200000)
		return;
	c->times += times;
	c->items += items;
	c->ticks += ticks;
}

/* ns for each of number */
static inline u64 cost_ns(const struct cost *c, u64 number)
{
	return number ? mul_div(c->ticks, 1000000, base_tsc_khz() * number) : 0;
}
