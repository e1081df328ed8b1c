/* SPDX-License-Identifier: MIT */
/*
 * futex(2) and a small lock on top of it. System calls are made inline: these functions run while
 * guest vector state may be in the host's registers, and libc's wrappers promise nothing about them.
 */
#include "base/base.h"
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

static long futex_call(_Atomic u32 *word, int op, u32 val, const struct timespec *ts)
{
	register const struct timespec *r10 __asm__("r10") = ts;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"((long)SYS_futex), "D"(word), "S"((long)op), "d"((long)val), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

int futex_wait(_Atomic u32 *word, u32 expected, s64 timeout_ns)
{
	struct timespec ts;

	if (timeout_ns < 0)
		return (int)futex_call(word, FUTEX_WAIT_PRIVATE, expected, NULL);
	ts.tv_sec = timeout_ns / 1000000000;
	ts.tv_nsec = timeout_ns % 1000000000;
	return (int)futex_call(word, FUTEX_WAIT_PRIVATE, expected, &ts);
}

void futex_wake(_Atomic u32 *word, int n)
{
	futex_call(word, FUTEX_WAKE_PRIVATE, (u32)n, NULL);
}

/* 0 free, 1 taken, 2 taken and somebody may wait. */
void lock_take(_Atomic u32 *lock)
{
	u32 old = 0;

	for (int spin = 0; spin < 100; spin++) {
		old = 0;
		if (__atomic_compare_exchange_n((u32 *)lock, &old, 1, false, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return;
		__builtin_ia32_pause();
	}
	while (__atomic_exchange_n((u32 *)lock, 2, __ATOMIC_ACQUIRE))
		futex_wait(lock, 2, -1);
}

void lock_drop(_Atomic u32 *lock)
{
	if (__atomic_exchange_n((u32 *)lock, 0, __ATOMIC_RELEASE) == 2)
		futex_wake(lock, 1);
}
