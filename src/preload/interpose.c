/* SPDX-License-Identifier: MIT */
/*
 * libcasement-preload.so: the libc calls through which a VMM reaches /dev/kvm.
 *
 * Each function decides in a few instructions whether a call is for us and passes it on otherwise: to the
 * kernel where libc's function is nothing but the system call, to libc where it is more (cancellation points).
 */
#undef _FILE_OFFSET_BITS /* both names of each call are defined below */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "kvm/sig.h"
#include "kvm/sys.h"

#define EXPORT __attribute__((visibility("default")))

static long ret(long r)
{
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

/* libc's own function; resolved at first use, without a lock: everybody finds the same. */
static void *next(void **cache, const char *name)
{
	void *fn = __atomic_load_n(cache, __ATOMIC_RELAXED);

	if (!fn) {
		fn = dlsym(RTLD_NEXT, name);
		__atomic_store_n(cache, fn, __ATOMIC_RELAXED);
	}
	return fn;
}

#define NEXT(type, name)                                          \
	({                                                        \
		static void *cache_;                              \
		(type)next(&cache_, name);                        \
	})

/* ---- open ----------------------------------------------------------------------------------------------- */

static bool is_device(const char *path)
{
	return path && path[0] == '/' && path[1] == 'd' && !strcmp(path, "/dev/kvm");
}

static mode_t mode_arg(int flags, va_list ap)
{
	return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(ap, mode_t) : 0;
}

#define OPEN(name)                                                                          \
	EXPORT int name(const char *path, int flags, ...);                                  \
	EXPORT int name(const char *path, int flags, ...)                                   \
	{                                                                                   \
		mode_t mode;                                                                \
		va_list ap;                                                                 \
                                                                                            \
		if (is_device(path))                                                        \
			return (int)ret(kvm_open(flags));                                   \
		va_start(ap, flags);                                                        \
		mode = mode_arg(flags, ap);                                                 \
		va_end(ap);                                                                 \
		return NEXT(int (*)(const char *, int, ...), #name)(path, flags, mode);     \
	}

#define OPENAT(name)                                                                        \
	EXPORT int name(int dir, const char *path, int flags, ...);                         \
	EXPORT int name(int dir, const char *path, int flags, ...)                          \
	{                                                                                   \
		mode_t mode;                                                                \
		va_list ap;                                                                 \
                                                                                            \
		if (is_device(path))                                                        \
			return (int)ret(kvm_open(flags));                                   \
		va_start(ap, flags);                                                        \
		mode = mode_arg(flags, ap);                                                 \
		va_end(ap);                                                                 \
		return NEXT(int (*)(int, const char *, int, ...), #name)(dir, path, flags, mode); \
	}

#define OPEN_2(name)                                                               \
	EXPORT int name(const char *path, int flags);                              \
	EXPORT int name(const char *path, int flags)                               \
	{                                                                          \
		if (is_device(path))                                               \
			return (int)ret(kvm_open(flags));                          \
		return NEXT(int (*)(const char *, int), #name)(path, flags);       \
	}

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
OPEN_2(__open_2)
OPEN_2(__open64_2)

EXPORT int access(const char *path, int mode)
{
	if (is_device(path))
		return 0;
	return (int)ret(sys_call(SYS_access, path, mode));
}

/* ---- the descriptor's life --------------------------------------------------------------------------------- */

EXPORT int close(int fd)
{
	if (!fdtab_has(fd))
		return NEXT(int (*)(int), "close")(fd);
	return (int)ret(kvm_close(fd));
}

static int duplicated(int from, long to)
{
	if (to >= 0 && to != from) {
		kvm_forget((int)to); /* dup2() closed what was there */
		if (fdtab_has(from))
			fdtab_dup(from, (int)to);
	}
	return (int)ret(to);
}

EXPORT int dup(int fd)
{
	return duplicated(fd, sys_call(SYS_dup, fd));
}

EXPORT int dup2(int fd, int to)
{
	return duplicated(fd, sys_call(SYS_dup2, fd, to));
}

EXPORT int dup3(int fd, int to, int flags)
{
	return duplicated(fd, sys_call(SYS_dup3, fd, to, flags));
}

#define FCNTL(name)                                                                        \
	EXPORT int name(int fd, int cmd, ...);                                             \
	EXPORT int name(int fd, int cmd, ...)                                              \
	{                                                                                  \
		long arg;                                                                  \
		va_list ap;                                                                \
                                                                                           \
		va_start(ap, cmd);                                                         \
		arg = va_arg(ap, long);                                                    \
		va_end(ap);                                                                \
		if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)                              \
			return duplicated(fd, sys_call(SYS_fcntl, fd, cmd, arg));          \
		return NEXT(int (*)(int, int, ...), #name)(fd, cmd, arg);                  \
	}

FCNTL(fcntl)
FCNTL(fcntl64)

static void close_one(int fd)
{
	kvm_close(fd);
}

#define RANGE_CLOEXEC 4u /* CLOSE_RANGE_CLOEXEC */

EXPORT int close_range(unsigned int first, unsigned int last, int flags)
{
	if (!((unsigned int)flags & RANGE_CLOEXEC) && first <= last)
		fdtab_range(first, last, close_one);
	return (int)ret(sys_call(SYS_close_range, first, last, flags));
}

EXPORT void closefrom(int first)
{
	fdtab_range(first > 0 ? (unsigned int)first : 0, ~0u, close_one);
	NEXT(void (*)(int), "closefrom")(first);
}

/* ---- use ----------------------------------------------------------------------------------------------------- */

EXPORT int ioctl(int fd, unsigned long request, ...);
EXPORT int ioctl(int fd, unsigned long request, ...)
{
	unsigned long arg;
	va_list ap;

	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	/* QEMU passes the request through an int: the upper half is a sign extension */
	if (_IOC_TYPE(request) == KVMIO && fdtab_has(fd))
		return (int)ret(kvm_ioctl(fd, (u32)request, arg));
	return (int)ret(sys_call(SYS_ioctl, fd, request, arg));
}

#define MMAP(name)                                                                            \
	EXPORT void *name(void *addr, size_t len, int prot, int flags, int fd, off_t off)     \
	{                                                                                     \
		if (!(flags & MAP_ANONYMOUS) && fdtab_has(fd))                                \
			return (void *)ret((long)kvm_mmap(addr, len, prot, flags, fd, (u64)off)); \
		return (void *)ret(sys_call(SYS_mmap, addr, len, prot, flags, fd, off));      \
	}

MMAP(mmap)
MMAP(mmap64)

/* ---- signals -------------------------------------------------------------------------------------------------- */

EXPORT int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	return (int)ret(signal_action(sig, act, old));
}

static sighandler_t set_handler(int sig, sighandler_t fn, int flags)
{
	struct sigaction act = { .sa_handler = fn, .sa_flags = flags }, old;

	if (fn == SIG_ERR) {
		errno = EINVAL;
		return SIG_ERR;
	}
	return ret(signal_action(sig, &act, &old)) ? SIG_ERR : old.sa_handler;
}

EXPORT sighandler_t signal(int sig, sighandler_t fn)
{
	return set_handler(sig, fn, SA_RESTART);
}

EXPORT sighandler_t ssignal(int sig, sighandler_t fn)
{
	return set_handler(sig, fn, SA_RESTART);
}

EXPORT sighandler_t bsd_signal(int sig, sighandler_t fn);
EXPORT sighandler_t bsd_signal(int sig, sighandler_t fn)
{
	return set_handler(sig, fn, SA_RESTART);
}

EXPORT sighandler_t sysv_signal(int sig, sighandler_t fn)
{
	return set_handler(sig, fn, (int)(SA_RESETHAND | SA_NODEFER));
}

EXPORT sighandler_t __sysv_signal(int sig, sighandler_t fn)
{
	return sysv_signal(sig, fn);
}
