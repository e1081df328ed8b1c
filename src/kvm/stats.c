/* SPDX-License-Identifier: MIT */
/*
 * KVM_GET_STATS_FD: header, name, descriptors and live counters, readable through a file.
 *
 * Counters live in anonymous pages laid out as that file. The first KVM_GET_STATS_FD copies the pages into a memfd and
 * maps it over them, so reading the descriptor sees every later increment without anybody's help.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm/sys.h"

#define NAME_SIZE 48

struct stat_desc {
	u32 flags;
	s16 exponent;
	u16 size;
	u32 offset;
	u32 bucket_size;
	char name[NAME_SIZE];
};

#define DESC(owner, name_, type, unit, exp, n)                                                     \
	{ .flags = KVM_STATS_TYPE_##type | KVM_STATS_UNIT_##unit | KVM_STATS_BASE_POW10,           \
	  .exponent = (exp),                                                                       \
	  .size = (n),                                                                             \
	  .bucket_size = KVM_STATS_TYPE_##type == KVM_STATS_TYPE_LINEAR_HIST,                      \
	  .offset = offsetof(struct owner, name_),                                                 \
	  .name = #name_ },

static const struct stat_desc vm_desc[] = {
#define VM_STAT(name, type, unit, exp, n) DESC(kvm_vm_stat, name, type, unit, exp, n)
#include "spec/stat.def"
};
static const struct stat_desc vcpu_desc[] = {
#define VCPU_STAT(name, type, unit, exp, n) DESC(kvm_vcpu_stat, name, type, unit, exp, n)
#include "spec/stat.def"
};

/* Bytes of the file before the counters. */
static size_t front_size(size_t counters)
{
	size_t n = counters == sizeof(struct kvm_vm_stat) ? ARRAY_SIZE(vm_desc) : ARRAY_SIZE(vcpu_desc);

	return sizeof(struct kvm_stats_header) + NAME_SIZE + n * sizeof(struct stat_desc);
}

/**
 * struct stat_pages - bookkeeping before the file's first byte, on a page of its own
 */
struct stat_pages {
	size_t bytes, counters;
	int fd;
	u8 *file;
};

static struct stat_pages *pages_of(void *stat)
{
	return (struct stat_pages *)(((u64)stat & PAGE_MASK) - PAGE_SIZE);
}

/* The counters begin where the descriptors end: in the file's first page, so that pages_of() finds the start. */
int stats_alloc(size_t counters, void **stat)
{
	size_t front = front_size(counters), bytes = (front + counters + PAGE_SIZE - 1) & PAGE_MASK;
	struct stat_pages *p;

	_Static_assert(sizeof(struct kvm_stats_header) + NAME_SIZE + sizeof(vcpu_desc) < PAGE_SIZE,
		       "counters begin in the first page");
	p = sys_mmap(NULL, PAGE_SIZE + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!p)
		return -ENOMEM;
	p->bytes = bytes;
	p->counters = counters;
	p->fd = -1;
	p->file = (u8 *)p + PAGE_SIZE;
	*stat = p->file + front;
	return 0;
}

void stats_free(void *stat)
{
	struct stat_pages *p;

	if (!stat)
		return;
	p = pages_of(stat);
	if (p->fd >= 0)
		sys_close(p->fd);
	sys_munmap(p, PAGE_SIZE + p->bytes);
}

static void fill_front(struct stat_pages *p, const char *id)
{
	bool is_vm = p->counters == sizeof(struct kvm_vm_stat);
	struct kvm_stats_header *h = (struct kvm_stats_header *)p->file;
	size_t descs = is_vm ? sizeof(vm_desc) : sizeof(vcpu_desc);

	h->flags = 0;
	h->name_size = NAME_SIZE;
	h->num_desc = (u32)(descs / sizeof(struct stat_desc));
	h->id_offset = sizeof(*h);
	h->desc_offset = h->id_offset + NAME_SIZE;
	h->data_offset = h->desc_offset + (u32)descs;
	snprintf((char *)p->file + h->id_offset, NAME_SIZE, "%s", id);
	memcpy(p->file + h->desc_offset, is_vm ? vm_desc : vcpu_desc, descs);
}

static int make_live(struct stat_pages *p, const char *id)
{
	size_t size = front_size(p->counters) + p->counters;
	int fd = sys_memfd("kvm-stats", MFD_CLOEXEC);

	if (fd < 0)
		return fd;
	fill_front(p, id);
	if (sys_ftruncate(fd, size) < 0 || sys_write(fd, p->file, size) != (long)size ||
	    !sys_mmap(p->file, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0)) {
		sys_close(fd);
		return -ENOMEM;
	}
	p->fd = fd;
	return 0;
}

static void release(void *obj)
{
	vm_put(obj);
}

static const struct kvm_file_ops stats_ops = { .class = FILE_STATS, .release = release };

static long stats_fd(struct kvm_vm *vm, void *stat, const char *id)
{
	struct stat_pages *p = pages_of(stat);
	char path[48];
	int fd, r = 0;

	pthread_mutex_lock(&vm->lock);
	if (p->fd < 0)
		r = make_live(p, id);
	pthread_mutex_unlock(&vm->lock);
	if (r)
		return r;
	/* a description of its own: the file position is the reader's */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->fd);
	fd = (int)sys_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	vm_get(vm);
	return fdtab_open(&stats_ops, vm, fd);
}

long vm_get_stats_fd(struct kvm_vm *vm, u64 arg, void *buf)
{
	char id[NAME_SIZE];

	snprintf(id, sizeof(id), "kvm-%d", vm->owner_tgid);
	return stats_fd(vm, vm->stat, id);
}

long vcpu_get_stats_fd(struct kvm_vcpu *k, u64 arg, void *buf)
{
	char id[NAME_SIZE];

	snprintf(id, sizeof(id), "kvm-%d/vcpu-%u", k->vm->owner_tgid, k->v->id);
	return stats_fd(k->vm, k->stat, id);
}
