/* SPDX-License-Identifier: MIT */
#include "kvm/fdtab.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "kvm/sys.h"

#define CHUNK 1024
#define CHUNKS 1024 /* a million descriptors: fs.nr_open's default */

struct file_slot {
	_Atomic(struct kvm_file *) file;
};
static struct file_slot *_Atomic table[CHUNKS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_file *free_files; /* never given back: a reader may still look at one */

static struct file_slot *slot_of(int fd, bool make)
{
	struct file_slot *c;
	u32 n = (u32)fd;

	if (n >= CHUNK * CHUNKS)
		return NULL;
	c = atomic_load_explicit(&table[n / CHUNK], memory_order_acquire);
	if (!c && make) {
		pthread_mutex_lock(&table_lock);
		c = table[n / CHUNK];
		if (!c) {
			c = calloc(CHUNK, sizeof(*c));
			atomic_store_explicit(&table[n / CHUNK], c, memory_order_release);
		}
		pthread_mutex_unlock(&table_lock);
	}
	return c ? &c[n % CHUNK] : NULL;
}

struct kvm_file *fdtab_new(const struct kvm_file_ops *ops, void *obj)
{
	struct kvm_file *f;

	pthread_mutex_lock(&table_lock);
	f = free_files;
	if (f)
		free_files = f->next;
	pthread_mutex_unlock(&table_lock);
	if (!f)
		f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->ops = ops;
	f->obj = obj;
	atomic_store(&f->refs, 1);
	return f;
}

void fdtab_put(struct kvm_file *f)
{
	if (atomic_fetch_sub(&f->refs, 1) != 1)
		return;
	if (f->ops->release)
		f->ops->release(f->obj);
	pthread_mutex_lock(&table_lock);
	f->next = free_files;
	free_files = f;
	pthread_mutex_unlock(&table_lock);
}

int fdtab_install(int fd, struct kvm_file *f)
{
	struct file_slot *s = slot_of(fd, true);
	struct kvm_file *old;

	if (!s)
		return -ENOMEM;
	atomic_fetch_add(&f->refs, 1);
	old = atomic_exchange(&s->file, f);
	if (old)
		fdtab_put(old);
	return 0;
}

struct kvm_file *fdtab_get(int fd)
{
	struct file_slot *s = slot_of(fd, false);
	struct kvm_file *f;

	while (s && (f = atomic_load(&s->file))) {
		u32 n = atomic_load(&f->refs);

		while (n && !atomic_compare_exchange_weak(&f->refs, &n, n + 1))
			;
		if (!n)
			continue; /* just closed: look again */
		if (atomic_load(&s->file) == f)
			return f;
		fdtab_put(f);
	}
	return NULL;
}

bool fdtab_has(int fd)
{
	struct file_slot *s = slot_of(fd, false);

	return s && atomic_load_explicit(&s->file, memory_order_relaxed);
}

struct kvm_file *fdtab_take(int fd)
{
	struct file_slot *s = slot_of(fd, false);

	return s && atomic_load_explicit(&s->file, memory_order_relaxed) ?
		       atomic_exchange(&s->file, NULL) : NULL;
}

int fdtab_dup(int oldfd, int newfd)
{
	struct kvm_file *f = fdtab_get(oldfd);
	int r;

	if (!f)
		return -EBADF;
	r = fdtab_install(newfd, f);
	fdtab_put(f);
	return r;
}

u64 fdtab_ino(int fd)
{
	struct stat st;

	return sys_call(SYS_fstat, fd, &st) ? 0 : st.st_ino;
}

struct kvm_file *fdtab_find_ino(u64 ino)
{
	for (int n = 0; ino && n < CHUNK * CHUNKS; n++) {
		struct kvm_file *f;

		if (!table[n / CHUNK]) {
			n |= CHUNK - 1;
			continue;
		}
		f = fdtab_get(n);
		if (f && f->ino == ino)
			return f;
		if (f)
			fdtab_put(f);
	}
	return NULL;
}

int fdtab_open(const struct kvm_file_ops *ops, void *obj, int fd)
{
	struct kvm_file *f = fdtab_new(ops, obj);
	int r;

	if (!f) {
		if (ops->release)
			ops->release(obj);
		sys_close(fd);
		return -ENOMEM;
	}
	f->ino = fdtab_ino(fd);
	r = fdtab_install(fd, f);
	fdtab_put(f);
	if (r < 0) {
		sys_close(fd);
		return r;
	}
	return fd;
}

void fdtab_range(unsigned int first, unsigned int last, void (*fn)(int fd))
{
	if (last >= CHUNK * CHUNKS)
		last = CHUNK * CHUNKS - 1;
	for (unsigned int n = first; n <= last; n++) {
		if (!table[n / CHUNK]) {
			n |= CHUNK - 1;
			continue;
		}
		if (fdtab_has((int)n))
			fn((int)n);
	}
}
