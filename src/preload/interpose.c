/* SPDX-License-Identifier: MIT */
/*
 * libcasement-preload.so: the libc calls through which a VMM uses its KVM descriptors, and signals.
 *
 * Each function decides in a few instructions whether a call is for us and passes it on otherwise: to the
 * kernel where libc's function is nothing but the system call, to libc where it is more (cancellation points).
 */
#undef _FILE_OFFSET_BITS /* both names of each call are defined below */
#include "preload/preload.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "kvm/sig.h"
#include "kvm/sys.h"

__attribute__((constructor)) static void begin(void)
{
	const char *trace = getenv("CASEMENT_TRACE");

	if (trace)
		trace_start(trace);
	if (getenv("CASEMENT_PATCH_CPUID"))
		patch_cpuid();
}

/* ---- the descriptor's life --------------------------------------------------------------------------------- */

EXPORT int close(int fd)
{
	int r;

	if (!fdtab_has(fd))
		return NEXT(int (*)(int), "close")(fd);
	r = kvm_close(fd);
	if (trace_on)
		trace_call(r, "close(%d)", fd);
	return (int)ret(r);
}

static int duplicated(int from, long to)
{
	if (to >= 0 && (fdtab_has(from) || fdtab_has((int)to)))
		kvm_duplicated(from, (int)to);
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

static long kvm_request(int fd, u32 request, unsigned long arg)
{
	if (!fdtab_has(fd)) {
		int r = kvm_adopt(fd);

		if (r == -ENOTTY)
			return sys_call(SYS_ioctl, fd, request, arg);
		if (r < 0)
			return r;
	}
	return trace_on ? trace_ioctl(fd, request, arg) : kvm_ioctl(fd, request, arg);
}

EXPORT int ioctl(int fd, unsigned long request, ...);
EXPORT int ioctl(int fd, unsigned long request, ...)
{
	unsigned long arg;
	va_list ap;

	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	/* QEMU passes the request through an int: the upper half is a sign extension */
	if (_IOC_TYPE(request) == KVMIO)
		return (int)ret(kvm_request(fd, (u32)request, arg));
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
