/* SPDX-License-Identifier: MIT */
/*
 * Which files are ours and what they look like: /dev/kvm, whether there is one or not, and the module's parameters.
 */
#include "preload/preload.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "kvm/kvm.h"
#include "kvm/sys.h"

#define KVM_MINOR 232 /* /dev/kvm is character device 10:232 [Linux Documentation/admin-guide/devices.txt] */

/* ---- what is ours ------------------------------------------------------------------------------------------- */

static const struct param params[] = {
#define PARAM(module, name, text) { "/sys/module/" module "/parameters/" name, text "\n", NULL },
#define PARAM_OPT(module, name, option) { "/sys/module/" module "/parameters/" name, "Y\n", option },
#include "spec/module_param.def"
#undef PARAM
	{ "/sys/module/kvm", NULL, NULL },
	{ "/sys/module/kvm/parameters", NULL, NULL },
	{ "/sys/module/kvm_intel", NULL, NULL },
	{ "/sys/module/kvm_intel/parameters", NULL, NULL },
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

static bool option_is_off(const char *option)
{
	struct guard_opts o;
	char value[8];

	if (!option || options_load())
		return false;
	options_copy(&o);
	return guard_opts_get(&o, option, value, sizeof(value)) > 0 && !strcmp(value, "off");
}

static int open_param(const struct param *p, int flags)
{
	const char *text = option_is_off(p->option) ? "N\n" : p->text;
	int fd;

	if (!p->text)
		return -EISDIR;
	if ((flags & O_ACCMODE) != O_RDONLY)
		return -EACCES;
	fd = sys_memfd("kvm-parameter", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (fd >= 0) {
		sys_write(fd, text, strlen(text));
		sys_call(SYS_lseek, fd, 0, SEEK_SET);
	}
	return fd;
}

int open_ours(int dir, const char *path, int flags)
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

int stat_ours(int dir, const char *path, struct stat *st)
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

int access_ours(int dir, const char *path, int mode)
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

int fstat_ours(int fd, struct stat *st)
{
	struct kvm_file *f = fdtab_get(fd);
	bool sys = f && f->ops->class == FILE_SYS;

	if (f)
		fdtab_put(f);
	return sys ? stat_ours(AT_FDCWD, "/dev/kvm", st) : PASS;
}

void statx_of(const struct stat *st, struct statx *sx)
{
	memset(sx, 0, sizeof(*sx));
	sx->stx_mask = STATX_TYPE | STATX_MODE | STATX_UID | STATX_GID | STATX_SIZE;
	sx->stx_mode = (u16)st->st_mode;
	sx->stx_nlink = 1;
	sx->stx_size = (u64)st->st_size;
	sx->stx_rdev_major = major(st->st_rdev);
	sx->stx_rdev_minor = minor(st->st_rdev);
}
