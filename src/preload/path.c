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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "kvm/sys.h"

#define KVM_MINOR 232 /* /dev/kvm is character device 10:232 [Linux Documentation/admin-guide/devices.txt] */

/* ---- what is ours ------------------------------------------------------------------------------------------- */

static const struct param params[] = {
#define PARAM(module, name, text) { "/sys/module/" module "/parameters/" name, text "\n" },
#include "spec/module_param.def"
#undef PARAM
	{ "/sys/module/kvm", NULL },
	{ "/sys/module/kvm/parameters", NULL },
	{ "/sys/module/kvm_intel", NULL },
	{ "/sys/module/kvm_intel/parameters", NULL },
};

static bool is_dev(int dir)
{
	struct stat a, b;

	return dir >= 0 && !sys_call(SYS_fstat, dir, &a) && !sys_call(SYS_stat, "/dev", &b) &&
	       a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

enum path_kind path_known(int dir, const char *path, const struct param **param)
{
	static const char sys[] = "/sys/module/kvm";

	if (path[0] == 'k')
		return !strcmp(path, "kvm") && is_dev(dir) ? PATH_DEVICE : PATH_OTHER;
	if (!strcmp(path, "/dev/kvm"))
		return PATH_DEVICE;
	if (strncmp(path, sys, sizeof(sys) - 1))
		return PATH_OTHER;
	for (size_t i = 0; i < ARRAY_SIZE(params); i++)
		if (!strcmp(path, params[i].path)) {
			*param = &params[i];
			return PATH_PARAM;
		}
	return PATH_OTHER;
}

static int open_param(const struct param *p, int flags)
{
	int fd;

	if (!p->text)
		return -EISDIR;
	if ((flags & O_ACCMODE) != O_RDONLY)
		return -EACCES;
	fd = sys_memfd("kvm-parameter", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (fd >= 0) {
		sys_write(fd, p->text, strlen(p->text));
		sys_call(SYS_lseek, fd, 0, SEEK_SET);
	}
	return fd;
}

/* A descriptor, -errno, or PASS: the file is nobody's of ours. */
#define PASS (-65536)
static int open_ours(int dir, const char *path, int flags)
{
	const struct param *p;
	int fd;

	switch (path_kind(dir, path, &p)) {
	case PATH_DEVICE:
		fd = kvm_open(flags);
		if (trace_on)
			trace_call(fd, "open(\"%s\", 0x%x)", path, flags);
		return fd;
	case PATH_PARAM:
		return p->text ? open_param(p, flags) : PASS;
	default:
		return PASS;
	}
}

static int stat_ours(int dir, const char *path, struct stat *st)
{
	const struct param *p;
	enum path_kind kind = path_kind(dir, path, &p);

	if (kind == PATH_OTHER)
		return PASS;
	/* Something like it, for the fields that nobody looks at. */
	if (sys_call(SYS_stat, kind == PATH_DEVICE ? "/dev/null" : p->text ? "/proc/version" : "/proc", st))
		memset(st, 0, sizeof(*st));
	if (kind == PATH_DEVICE) {
		st->st_mode = S_IFCHR | 0666;
		st->st_rdev = makedev(10, KVM_MINOR);
	} else {
		st->st_mode = p->text ? S_IFREG | 0444 : S_IFDIR | 0555;
		st->st_size = p->text ? (off_t)strlen(p->text) : 0;
	}
	return 0;
}

static int access_ours(int dir, const char *path, int mode)
{
	const struct param *p;

	switch (path_kind(dir, path, &p)) {
	case PATH_DEVICE:
		return mode & X_OK ? -EACCES : 0;
	case PATH_PARAM:
		return mode & (p->text ? W_OK | X_OK : W_OK) ? -EACCES : 0;
	default:
		return PASS;
	}
}

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

static int fstat_ours(int fd, struct stat *st)
{
	struct kvm_file *f = fdtab_get(fd);
	bool sys = f && f->ops->class == FILE_SYS;

	if (f)
		fdtab_put(f);
	return sys ? stat_ours(AT_FDCWD, "/dev/kvm", st) : PASS;
}

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
	memset(sx, 0, sizeof(*sx));
	sx->stx_mask = STATX_TYPE | STATX_MODE | STATX_UID | STATX_GID | STATX_SIZE;
	sx->stx_mode = (u16)st.st_mode;
	sx->stx_nlink = 1;
	sx->stx_size = (u64)st.st_size;
	sx->stx_rdev_major = major(st.st_rdev);
	sx->stx_rdev_minor = minor(st.st_rdev);
	return 0;
}
