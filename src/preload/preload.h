/* SPDX-License-Identifier: MIT */
/*
 * libcasement-preload.so from inside: what its files share.
 */
#pragma once
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>

#include "base/types.h"

#define EXPORT __attribute__((visibility("default")))

/* From the kernel's convention to libc's. */
static inline long ret(long r)
{
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

/* libc's own function; resolved at first use, without a lock: everybody finds the same. */
static inline void *next(void **cache, const char *name)
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

/* ---- which paths are ours (ours.c) ---------------------------------------------------------------------- */

enum path_kind { PATH_OTHER, PATH_DEVICE, PATH_PARAM };

/**
 * struct param - a file of /sys/module/kvm* /parameters, or a directory on the way there
 * @text: what the file says; NULL for a directory
 * @option: the engine's option that makes it "N" by being off, or NULL
 */
struct param {
	const char *path;
	const char *text;
	const char *option;
};

enum path_kind path_known(int dir, const char *path, const struct param **param);

/* Only what begins like one of ours is looked at closely: nearly every path is told apart by two characters. */
static inline enum path_kind path_kind(int dir, const char *path, const struct param **param)
{
	if (__builtin_expect(!path || (path[0] != '/' && path[0] != 'k'), 0))
		return PATH_OTHER;
	if (path[0] == '/' && path[1] != 'd' && path[1] != 's')
		return PATH_OTHER;
	return path_known(dir, path, param);
}

/* Each does what the call would, if the file is ours: a descriptor or 0, -errno, or PASS: it is not. */
#define PASS (-65536)
struct stat;
struct statx;
int open_ours(int dir, const char *path, int flags);
int stat_ours(int dir, const char *path, struct stat *st);
int access_ours(int dir, const char *path, int mode);
int fstat_ours(int fd, struct stat *st); /* @fd is in the table */
void statx_of(const struct stat *st, struct statx *sx);

/* ---- tracing (trace.c) ------------------------------------------------------------------------------------ */

extern bool trace_on;
/* kvm_ioctl() with a line about it. */
long trace_ioctl(int fd, u32 request, u64 arg);
/* A line about a call that is no ioctl; @what is printf's. */
void trace_call(long result, const char *what, ...) __attribute__((format(printf, 2, 3)));
void trace_start(const char *file);

/* ---- CPUID instructions of the program (patch.c) -------------------------------------------------------------- */

void patch_cpuid(void);
/* Of the program that is mapped at @base and has these headers. */
void patch_cpuid_of(u64 base, const void *phdr, unsigned int phnum);
