/* SPDX-License-Identifier: MIT */
/*
 * Calls that name a file: /dev/kvm is ours, whether there is one or not, and so are the module's parameters.
 */
#undef _FILE_OFFSET_BITS /* both names of each call are defined below */
#include "preload/preload.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "kvm/sys.h"

/* ---- open --------------------------------------------------------------------------------------------------- */

static mode_t mode_arg(int flags, va_list ap)
{
	return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(ap, mode_t) : 0;
}

#define OPEN(name)                                                                          \
	EXPORT int name(const char *path, int flags, ...);                                  \
	EXPORT int name(const char *path, int flags, ...)                                   \
	{                                                                                   \
		int fd = open_ours(AT_FDCWD, path, flags);                                  \
		mode_t mode;                                                                \
		va_list ap;                                                                 \
                                                                                            \
		if (fd != PASS)                                                             \
			return (int)ret(fd);                                                \
		va_start(ap, flags);                                                        \
		mode = mode_arg(flags, ap);                                                 \
		va_end(ap);                                                                 \
		return NEXT(int (*)(const char *, int, ...), #name)(path, flags, mode);     \
	}

#define OPENAT(name)                                                                        \
	EXPORT int name(int dir, const char *path, int flags, ...);                         \
	EXPORT int name(int dir, const char *path, int flags, ...)                          \
	{                                                                                   \
		int fd = open_ours(dir, path, flags);                                       \
		mode_t mode;                                                                \
		va_list ap;                                                                 \
                                                                                            \
		if (fd != PASS)                                                             \
			return (int)ret(fd);                                                \
		va_start(ap, flags);                                                        \
		mode = mode_arg(flags, ap);                                                 \
		va_end(ap);                                                                 \
		return NEXT(int (*)(int, const char *, int, ...), #name)(dir, path, flags, mode); \
	}

#define OPEN_2(name)                                                               \
	EXPORT int name(const char *path, int flags);                              \
	EXPORT int name(const char *path, int flags)                               \
	{                                                                          \
		int fd = open_ours(AT_FDCWD, path, flags);                         \
                                                                                   \
		return fd != PASS ? (int)ret(fd) :                                 \
				    NEXT(int (*)(const char *, int), #name)(path, flags); \
	}

#define OPENAT_2(name)                                                             \
	EXPORT int name(int dir, const char *path, int flags);                     \
	EXPORT int name(int dir, const char *path, int flags)                      \
	{                                                                          \
		int fd = open_ours(dir, path, flags);                              \
                                                                                   \
		return fd != PASS ? (int)ret(fd) :                                 \
				    NEXT(int (*)(int, const char *, int), #name)(dir, path, flags); \
	}

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
OPEN_2(__open_2)
OPEN_2(__open64_2)
OPENAT_2(__openat_2)
OPENAT_2(__openat64_2)

static FILE *fopen_ours(const char *path, const char *mode, bool *pass)
{
	bool update = strchr(mode, '+'), read = mode[0] == 'r';
	int fd = open_ours(AT_FDCWD, path, update ? O_RDWR : read ? O_RDONLY : O_WRONLY);

	*pass = fd == PASS;
	return fd >= 0 ? fdopen(fd, mode) : (ret(fd), NULL);
}

#define FOPEN(name)                                                                        \
	EXPORT FILE *name(const char *path, const char *mode)                              \
	{                                                                                  \
		bool pass;                                                                 \
		FILE *f = fopen_ours(path, mode, &pass);                                   \
                                                                                           \
		return pass ? NEXT(FILE *(*)(const char *, const char *), #name)(path, mode) : f; \
	}
FOPEN(fopen)
FOPEN(fopen64)

/* ---- stat and access ------------------------------------------------------------------------------------------- */

/* struct stat and struct stat64 are one on x86-64. */
#define STAT(name)                                                                         \
	EXPORT int name(const char *path, struct stat *st);                                \
	EXPORT int name(const char *path, struct stat *st)                                 \
	{                                                                                  \
		int r = stat_ours(AT_FDCWD, path, st);                                     \
                                                                                           \
		return r != PASS ? (int)ret(r) :                                           \
				   NEXT(int (*)(const char *, struct stat *), #name)(path, st); \
	}
/* The same before glibc 2.33. */
#define XSTAT(name)                                                                        \
	EXPORT int name(int version, const char *path, struct stat *st);                   \
	EXPORT int name(int version, const char *path, struct stat *st)                    \
	{                                                                                  \
		int r = stat_ours(AT_FDCWD, path, st);                                     \
                                                                                           \
		return r != PASS ? (int)ret(r) :                                           \
				   NEXT(int (*)(int, const char *, struct stat *), #name)(version, path, st); \
	}
#define FSTATAT(name)                                                                      \
	EXPORT int name(int dir, const char *path, struct stat *st, int flags);            \
	EXPORT int name(int dir, const char *path, struct stat *st, int flags)             \
	{                                                                                  \
		int r = stat_ours(dir, path, st);                                          \
                                                                                           \
		return r != PASS ? (int)ret(r) :                                           \
			NEXT(int (*)(int, const char *, struct stat *, int), #name)(dir, path, st, flags); \
	}
STAT(stat)
STAT(lstat)
XSTAT(__xstat)
XSTAT(__xstat64)
XSTAT(__lxstat)
XSTAT(__lxstat64)
FSTATAT(fstatat)

/* The headers declare these with struct stat64. */
#define ALIAS(name, of) __asm__(".globl " #name "\n.type " #name ", @function\n.set " #name ", " #of "\n");
ALIAS(stat64, stat)
ALIAS(lstat64, lstat)
ALIAS(fstatat64, fstatat)
ALIAS(fstat64, fstat)

EXPORT int fstat(int fd, struct stat *st)
{
	int r = fdtab_has(fd) ? fstat_ours(fd, st) : PASS;

	return (int)ret(r != PASS ? r : sys_call(SYS_fstat, fd, st));
}

EXPORT int access(const char *path, int mode)
{
	int r = access_ours(AT_FDCWD, path, mode);

	return (int)ret(r != PASS ? r : sys_call(SYS_access, path, mode));
}

EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
	int r = access_ours(dir, path, mode);

	return r != PASS ? (int)ret(r) :
			   NEXT(int (*)(int, const char *, int, int), "faccessat")(dir, path, mode, flags);
}

#define EACCESS(name)                                                                   \
	EXPORT int name(const char *path, int mode)                                     \
	{                                                                               \
		int r = access_ours(AT_FDCWD, path, mode);                              \
                                                                                        \
		return r != PASS ? (int)ret(r) : NEXT(int (*)(const char *, int), #name)(path, mode); \
	}
EACCESS(eaccess)
EACCESS(euidaccess)

EXPORT int statx(int dir, const char *restrict path, int flags, unsigned int mask, struct statx *restrict sx)
{
	struct stat st;
	int r = stat_ours(dir, path, &st);

	if (r == PASS)
		return (int)ret(sys_call(SYS_statx, dir, path, flags, mask, sx));
	statx_of(&st, sx);
	return 0;
}
