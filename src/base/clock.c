/* SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <sys/syscall.h>
#include <time.h>

static long syscall2(long nr, long a, void *b)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "0"(nr), "D"(a), "S"(b) : "rcx", "r11", "memory");
	return ret;
}

/* A real system call: the vDSO is free to use vector registers, which may hold guest state. */
u64 base_now_ns(void)
{
	struct timespec ts;

	syscall2(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

int base_gettid(void)
{
	return (int)syscall2(SYS_gettid, 0, NULL);
}

/* A pair of simultaneous readings; the tightest of a few, so that preemption does not show. */
static void sample(u64 *tsc, u64 *ns)
{
	u64 best = ~0ull;

	*tsc = *ns = 0;
	for (int k = 0; k < 5; k++) {
		u64 a = base_rdtsc();
		u64 now = base_now_ns();
		u64 b = base_rdtsc();

		if (b - a < best) {
			best = b - a;
			*tsc = a + (b - a) / 2;
			*ns = now;
		}
	}
}

static u32 measure_khz(void)
{
	struct timespec pause = { .tv_sec = 0, .tv_nsec = 20000000 };
	u64 tsc0, ns0, tsc1, ns1;

	sample(&tsc0, &ns0);
	syscall2(SYS_nanosleep, (long)&pause, NULL);
	sample(&tsc1, &ns1);
	if (ns1 <= ns0)
		return 1000000;
	return (u32)mul_div(tsc1 - tsc0, 1000000, ns1 - ns0);
}

u32 base_tsc_khz(void)
{
	static _Atomic u32 lock;
	static _Atomic u32 khz;
	u32 val = khz;

	if (val)
		return val;
	lock_take(&lock);
	if (!khz)
		khz = measure_khz();
	lock_drop(&lock);
	return khz;
}
