/* SPDX-License-Identifier: MIT */
/*
 * System calls without libc.
 *
 * Under the preload, libc's close(), mmap() and sigaction() are our own interposed ones, and inside
 * cpu_run() libc must not be called at all; the engine's own system calls go straight to the kernel.
 * Each returns the kernel's value, -errno on failure.
 */
#pragma once
#include <sys/syscall.h>

#include "base/types.h"

static inline long sys_call6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#define sys_call(nr, ...) SYS_PICK(__VA_ARGS__, 6, 5, 4, 3, 2, 1)(nr, __VA_ARGS__)
#define SYS_PICK(a, b, c, d, e, f, n, ...) SYS_CALL_##n
#define SYS_CALL_1(nr, a) sys_call6(nr, (long)(a), 0, 0, 0, 0, 0)
#define SYS_CALL_2(nr, a, b) sys_call6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS_CALL_3(nr, a, b, c) sys_call6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS_CALL_4(nr, a, b, c, d) sys_call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS_CALL_5(nr, a, b, c, d, e) \
	sys_call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define SYS_CALL_6(nr, a, b, c, d, e, f) \
	sys_call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static inline int sys_close(int fd) { return (int)sys_call(SYS_close, fd); }
static inline int sys_memfd(const char *name, unsigned int flags)
{
	return (int)sys_call(SYS_memfd_create, name, flags);
}
static inline int sys_ftruncate(int fd, u64 size) { return (int)sys_call(SYS_ftruncate, fd, size); }
static inline long sys_read(int fd, void *p, size_t n) { return sys_call(SYS_read, fd, p, n); }
static inline long sys_write(int fd, const void *p, size_t n) { return sys_call(SYS_write, fd, p, n); }

/* Address, or NULL on failure. */
static inline void *sys_mmap(void *addr, size_t len, int prot, int flags, int fd, u64 off)
{
	long r = sys_call(SYS_mmap, addr, len, prot, flags, fd, off);

	return r < 0 && r > -4096 ? NULL : (void *)r;
}
static inline int sys_munmap(void *addr, size_t len) { return (int)sys_call(SYS_munmap, addr, len); }
