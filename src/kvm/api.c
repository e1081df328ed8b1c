/* SPDX-License-Identifier: MIT */
/*
 * The public face: casement_*(), and what the preload calls.
 */
#include "casement/casement.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm/kvm.h"
#include "kvm/sig.h"
#include "kvm/sys.h"

#define PUBLIC __attribute__((visibility("default")))

static _Atomic u32 process = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static int owner_pid; /* a child of vfork(2) shares our tables, but not our descriptors */

static int own_pid(void)
{
	return (int)sys_call(SYS_getpid, 0);
}

void kvm_forked(void)
{
	process++;
	owner_pid = own_pid();
	service_forked();
}

static void register_fork(void)
{
	pthread_atfork(NULL, NULL, kvm_forked);
}

u32 kvm_process(void)
{
	return atomic_load_explicit(&process, memory_order_relaxed);
}

static int engine_start(void)
{
	int r;

	pthread_once(&fork_once, register_fork);
	owner_pid = own_pid();
	r = options_load();
	if (r < 0)
		return r;
	signal_start();
	return service_start();
}

int kvm_open(int flags)
{
	int fd, r = engine_start();

	if (r < 0)
		return r;
	fd = sys_memfd("kvm", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (fd < 0)
		return fd;
	return fdtab_open(&kvm_sys_ops, NULL, fd);
}

static void drop(struct kvm_file *f)
{
	if (!f)
		return;
	signal_enter();
	fdtab_put(f);
	signal_leave();
}

int kvm_close(int fd)
{
	struct kvm_file *f = own_pid() == owner_pid ? fdtab_take(fd) : NULL;
	int r = sys_close(fd);

	drop(f);
	return r;
}

void kvm_forget(int fd)
{
	if (fdtab_has(fd) && own_pid() == owner_pid)
		drop(fdtab_take(fd));
}

/* A child of vfork(2) may duplicate what it likes: it is about to exec. */
void kvm_duplicated(int from, int to)
{
	if (to < 0 || to == from || own_pid() != owner_pid)
		return;
	kvm_forget(to); /* dup2() closed what was there */
	if (fdtab_has(from))
		fdtab_dup(from, to);
}

/* What the descriptor is called: "/memfd:" and the name that sys_memfd() was given. */
static size_t link_name(int fd, char *buf, size_t size)
{
	char path[32];
	long n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = sys_call(SYS_readlink, path, buf, size - 1);
	buf[n > 0 ? n : 0] = 0;
	return n > 0 ? (size_t)n : 0;
}

int kvm_adopt(int fd)
{
	char name[64];
	struct kvm_file *f;
	int r;

	if (!link_name(fd, name, sizeof(name)) || strncmp(name, "/memfd:kvm", 10))
		return -ENOTTY;
	f = fdtab_find_ino(fdtab_ino(fd));
	if (!f) {
		/* Another process's. The system device has no state; a VM is bound to its process. */
		if (strcmp(name, "/memfd:kvm (deleted)"))
			return -EIO;
		r = engine_start();
		if (r < 0)
			return r;
		f = fdtab_new(&kvm_sys_ops, NULL);
		if (!f)
			return -ENOMEM;
		f->ino = fdtab_ino(fd);
	}
	r = fdtab_install(fd, f);
	fdtab_put(f);
	return r;
}

static bool covers(u64 off, size_t len, u64 page)
{
	return off <= page * PAGE_SIZE && off + len >= (page + 1) * PAGE_SIZE;
}

/* The ring page is the VM's, whichever vCPU it is mapped through. */
static void *map_vcpu(struct kvm_vcpu *k, u8 *addr, size_t len, int prot, int flags, int fd, u64 off)
{
	u8 *p;

	if (off + len > DIRTY_RING_OFFSET && ((prot & PROT_EXEC) || (flags & MAP_TYPE) == MAP_PRIVATE))
		return (void *)(long)-EINVAL;
	p = (u8 *)sys_call(SYS_mmap, addr, len, prot, flags, fd, off);
	if ((u64)p > -4096ul || !covers(off, len, PAGE_OFF_RING))
		return p;
	sys_mmap(p + PAGE_OFF_RING * PAGE_SIZE - off, PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED,
		 k->vm->ring_fd, 0);
	return p;
}

void *kvm_mmap(void *addr, size_t len, int prot, int flags, int fd, u64 off)
{
	struct kvm_file *f = flags & MAP_ANONYMOUS ? NULL : fdtab_get(fd);
	void *p;

	if (!f)
		return (void *)sys_call(SYS_mmap, addr, len, prot, flags, fd, off);
	if (f->ops->class == FILE_VCPU)
		p = map_vcpu(f->obj, addr, len, prot, flags, fd, off);
	else
		p = (void *)(long)-ENODEV;
	fdtab_put(f);
	return p;
}

static long ret(long r)
{
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

PUBLIC int casement_open(int flags)
{
	return (int)ret(kvm_open(flags));
}

PUBLIC int casement_ioctl(int fd, unsigned long request, ...)
{
	unsigned long arg;
	va_list ap;
	long r;

	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	r = kvm_ioctl(fd, (u32)request, arg);
	if (r == -ENOTTY && !fdtab_has(fd) && sys_call(SYS_fcntl, fd, F_GETFD) < 0)
		r = -EBADF;
	return (int)ret(r);
}

PUBLIC void *casement_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return (void *)ret((long)kvm_mmap(addr, length, prot, flags, fd, (u64)offset));
}

PUBLIC int casement_close(int fd)
{
	return (int)ret(kvm_close(fd));
}

PUBLIC int casement_dup(int oldfd, int newfd)
{
	return (int)ret(fdtab_dup(oldfd, newfd) ?: newfd);
}

PUBLIC int casement_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
	return (int)ret(signal_action(sig, act, old));
}

PUBLIC int casement_set_options(const char *list, char *err, size_t n)
{
	return (int)ret(options_set(list, err, n));
}

PUBLIC bool casement_is_ours(int fd)
{
	return fdtab_has(fd);
}

PUBLIC const char *casement_version(void)
{
	return CASEMENT_VERSION;
}
