/* SPDX-License-Identifier: MIT */
/*
 * System calls that name a file or a descriptor, as the preload has them (src/preload/interpose.c, path.c).
 */
#include "trap/trap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "kvm/kvm.h"
#include "kvm/sig.h"
#include "kvm/sys.h"
#include "preload/preload.h"

#define PATH_LONG     64 /* no name of ours is longer */
#define RANGE_CLOEXEC 4u

/* ---- names ----------------------------------------------------------------------------------- */

bool trap_is_exe(const char *path)
{
	char pid[32];

	if (strncmp(path, "/proc/", 6))
		return false;
	if (!strcmp(path, "/proc/self/exe") || !strcmp(path, "/proc/thread-self/exe"))
		return true;
	snprintf(pid, sizeof(pid), "/proc/%d/exe", (int)sys_call(SYS_getpid, 0));
	return !strcmp(path, pid);
}

/* The path, if its first characters could be those of one of ours. */
static bool may_be_ours(u64 from, char *path)
{
	char c[2];
	long n;

	if (copy_in(c, from, 1) || (c[0] != '/' && c[0] != 'k'))
		return false;
	if (c[0] == '/' && (copy_in(c, from, 2) || (c[1] != 'd' && c[1] != 's' && c[1] != 'p')))
		return false;
	n = trap_string(path, from, PATH_LONG);
	return n > 0;
}

static long do_open(struct trap_thread *t, int dir, u64 from, int flags, int arg)
{
	char path[PATH_LONG];
	int r;

	if (!may_be_ours(from, path))
		return TRAP_GATE;
	if (trap_is_exe(path)) {
		t->arg[arg] = (u64)trap_exe;
		return TRAP_GATE;
	}
	r = open_ours(dir, path, flags);
	return r == PASS ? TRAP_GATE : r;
}

static long do_openat2(struct trap_thread *t, const u64 *a)
{
	struct open_how how;

	if (a[3] < sizeof(how) || copy_in(&how, a[2], sizeof(how)))
		return TRAP_GATE;
	return do_open(t, (int)a[0], a[1], (int)how.flags, 1);
}

static long do_stat(int dir, u64 from, u64 to)
{
	char path[PATH_LONG];
	struct stat st;
	int r;

	if (!may_be_ours(from, path))
		return TRAP_GATE;
	r = stat_ours(dir, path, &st);
	if (r == PASS)
		return TRAP_GATE;
	return r ?: copy_out(to, &st, sizeof(st));
}

static long do_fstat(int fd, u64 to)
{
	struct stat st;
	int r = fdtab_has(fd) ? fstat_ours(fd, &st) : PASS;

	if (r == PASS)
		return TRAP_GATE;
	return r ?: copy_out(to, &st, sizeof(st));
}

static bool is_empty(u64 from)
{
	char c;

	return !from || (!copy_in(&c, from, 1) && !c);
}

static long do_fstatat(const u64 *a)
{
	if ((a[3] & AT_EMPTY_PATH) && is_empty(a[1]))
		return do_fstat((int)a[0], a[2]);
	return do_stat((int)a[0], a[1], a[2]);
}

static long do_statx(const u64 *a)
{
	char path[PATH_LONG];
	struct statx sx;
	struct stat st;
	int r = PASS;

	if ((a[2] & AT_EMPTY_PATH) && is_empty(a[1]))
		r = fdtab_has((int)a[0]) ? fstat_ours((int)a[0], &st) : PASS;
	else if (may_be_ours(a[1], path))
		r = stat_ours((int)a[0], path, &st);
	if (r == PASS)
		return TRAP_GATE;
	statx_of(&st, &sx);
	return r ?: copy_out(a[4], &sx, sizeof(sx));
}

static long do_access(int dir, u64 from, int mode)
{
	char path[PATH_LONG];
	int r;

	if (!may_be_ours(from, path))
		return TRAP_GATE;
	r = access_ours(dir, path, mode);
	return r == PASS ? TRAP_GATE : r;
}

static long do_readlink(u64 from, u64 to, s64 size)
{
	char path[PATH_LONG];
	s64 n = (s64)strlen(trap_exe);

	if (!may_be_ours(from, path) || !trap_is_exe(path))
		return TRAP_GATE;
	if (size <= 0)
		return -EINVAL;
	n = n < size ? n : size;
	return copy_out(to, trap_exe, (size_t)n) ? -EFAULT : n;
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static long duplicated(int from, long to)
{
	if (to >= 0 && (fdtab_has(from) || fdtab_has((int)to)))
		kvm_duplicated(from, (int)to);
	return to;
}

static void close_one(int fd)
{
	kvm_close(fd);
}

static long do_close(int fd)
{
	int r;

	if (!fdtab_has(fd))
		return TRAP_GATE;
	r = kvm_close(fd);
	if (trace_on)
		trace_call(r, "close(%d)", fd);
	return r;
}

static long do_mmap(const u64 *a)
{
	if ((a[3] & MAP_ANONYMOUS) || !fdtab_has((int)a[4]))
		return TRAP_GATE;
	return (long)kvm_mmap((void *)a[0], a[1], (int)a[2], (int)a[3], (int)a[4], a[5]);
}

static long on_descriptor(long nr, const u64 *a)
{
	int fd = (int)a[0];

	switch (nr) {
	case SYS_close:
		return do_close(fd);
	case SYS_close_range:
		if (!(a[2] & RANGE_CLOEXEC) && (u32)a[0] <= (u32)a[1])
			fdtab_range((u32)a[0], (u32)a[1], close_one);
		return TRAP_GATE;
	case SYS_dup:
		return duplicated(fd, sys_call(SYS_dup, fd));
	case SYS_dup2:
		return duplicated(fd, sys_call(SYS_dup2, fd, a[1]));
	case SYS_dup3:
		return duplicated(fd, sys_call(SYS_dup3, fd, a[1], a[2]));
	case SYS_fcntl:
		if (a[1] != F_DUPFD && a[1] != F_DUPFD_CLOEXEC)
			return TRAP_GATE;
		return duplicated(fd, sys_call(SYS_fcntl, fd, a[1], a[2]));
	case SYS_fstat:
		return do_fstat(fd, a[1]);
	case SYS_mmap:
		return do_mmap(a);
	default:
		return TRAP_GATE;
	}
}

long trap_file(struct trap_thread *t, struct sigframe *f, long nr, const u64 *a)
{
	switch (nr) {
	case SYS_open:
		return do_open(t, AT_FDCWD, a[0], (int)a[1], 0);
	case SYS_openat:
		return do_open(t, (int)a[0], a[1], (int)a[2], 1);
	case SYS_openat2:
		return do_openat2(t, a);
	case SYS_stat:
	case SYS_lstat:
		return do_stat(AT_FDCWD, a[0], a[1]);
	case SYS_newfstatat:
		return do_fstatat(a);
	case SYS_statx:
		return do_statx(a);
	case SYS_access:
		return do_access(AT_FDCWD, a[0], (int)a[1]);
	case SYS_faccessat:
	case SYS_faccessat2:
		return do_access((int)a[0], a[1], (int)a[2]);
	case SYS_readlink:
		return do_readlink(a[0], a[1], (s64)(int)a[2]);
	case SYS_readlinkat:
		return do_readlink(a[1], a[2], (s64)(int)a[3]);
	default:
		return on_descriptor(nr, a);
	}
}

/* ---- ioctl ----------------------------------------------------------------------------------- */

long trap_ioctl(int fd, u32 request, u64 arg)
{
	if (_IOC_TYPE(request) != KVMIO)
		return TRAP_GATE;
	if (!fdtab_has(fd)) {
		int r = kvm_adopt(fd);

		if (r)
			return r == -ENOTTY ? TRAP_GATE : r;
	}
	return trace_on ? trace_ioctl(fd, request, arg) : kvm_ioctl(fd, request, arg);
}
