/* SPDX-License-Identifier: MIT */
/*
 * Memory slots and the dirty log.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm/sys.h"

#define USER_SPACE_END 0x7ffffffff000ull
#define SLOT_PAGES_MAX ((1ull << 31) - 1)

static unsigned int slot_as(u32 slot) { return slot >> 16; }
static unsigned int slot_id(u32 slot) { return slot & 0xffff; }

/* The checks of __kvm_set_memory_region(), in its order; overlap and changes are mem_set_slot()'s. */
static int check_region(const struct kvm_userspace_memory_region *r)
{
	if (r->flags & ~(u32)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
		return -EINVAL;
	if ((r->memory_size | r->guest_phys_addr | r->userspace_addr) & (PAGE_SIZE - 1))
		return -EINVAL;
	if (r->userspace_addr > USER_SPACE_END || r->memory_size > USER_SPACE_END - r->userspace_addr)
		return -EINVAL;
	if (slot_as(r->slot) >= MEM_AS_NUM || slot_id(r->slot) >= MEM_SLOTS_MAX)
		return -EINVAL;
	if (r->guest_phys_addr + r->memory_size < r->guest_phys_addr)
		return -EINVAL;
	return r->memory_size >> PAGE_SHIFT > SLOT_PAGES_MAX ? -EINVAL : 0;
}

/* KVM_DIRTY_LOG_INITIALLY_SET: logging starts with every page dirty. */
static void mark_all_dirty(struct kvm_vm *vm, const struct kvm_userspace_memory_region *r)
{
	struct memslot *s = mem_slot_by_id(&vm->m.mem, slot_as(r->slot), slot_id(r->slot));

	if (!s || !s->dirty)
		return;
	memset(s->dirty, 0xff, s->npages / 64 * 8);
	if (s->npages % 64)
		s->dirty[s->npages / 64] = (1ull << s->npages % 64) - 1;
}

static bool was_logging(struct kvm_vm *vm, u32 slot)
{
	struct memslot *s = mem_slot_by_id(&vm->m.mem, slot_as(slot), slot_id(slot));

	return s && (s->flags & MEMSLOT_LOG_DIRTY);
}

long vm_set_user_memory_region(struct kvm_vm *vm, u64 arg, void *buf)
{
	const struct kvm_userspace_memory_region *r = buf;
	bool was;
	int err = check_region(r);

	if (err)
		return err;
	pthread_mutex_lock(&vm->slots_lock);
	was = was_logging(vm, r->slot);
	vm_pause(&vm->m, NULL);
	err = mem_set_slot(&vm->m.mem, slot_as(r->slot), slot_id(r->slot), r->flags,
			   r->guest_phys_addr, r->memory_size, (hva_t)r->userspace_addr);
	if (!err && !was && !vm->m.mem.rings && (vm->dirty_protect & KVM_DIRTY_LOG_INITIALLY_SET))
		mark_all_dirty(vm, r);
	vm_resume(&vm->m, NULL, REQ_TLB);
	pthread_mutex_unlock(&vm->slots_lock);
	return err;
}

/* ---- dirty log ---------------------------------------------------------------------------------------- */

static struct memslot *logged_slot(struct kvm_vm *vm, u32 slot, int *err)
{
	struct memslot *s = NULL;

	*err = -EINVAL;
	if (slot_as(slot) < MEM_AS_NUM && slot_id(slot) < MEM_SLOTS_MAX) {
		s = mem_slot_by_id(&vm->m.mem, slot_as(slot), slot_id(slot));
		*err = -ENOENT;
		if (s && !s->dirty)
			s = NULL;
	}
	return s;
}

static size_t bitmap_bytes(u64 npages)
{
	return (npages + 63) / 64 * 8;
}

static long get_dirty(struct kvm_vm *vm, const struct kvm_dirty_log *log)
{
	size_t n;
	u64 *copy;
	int err;
	struct memslot *s = logged_slot(vm, log->slot, &err);

	if (vm->m.mem.rings)
		return -ENXIO;
	if (!s)
		return err;
	n = bitmap_bytes(s->npages);
	if (vm->dirty_protect) /* KVM_CLEAR_DIRTY_LOG clears, not we */
		return copy_out((u64)log->dirty_bitmap, s->dirty, n);
	copy = malloc(n);
	if (!copy)
		return -ENOMEM;
	vm_pause(&vm->m, NULL);
	err = mem_dirty_fetch_clear(s, copy);
	vm_resume(&vm->m, NULL, REQ_TLB);
	if (!err)
		err = copy_out((u64)log->dirty_bitmap, copy, n);
	free(copy);
	return err;
}

long vm_get_dirty_log(struct kvm_vm *vm, u64 arg, void *buf)
{
	long r;

	pthread_mutex_lock(&vm->slots_lock);
	r = get_dirty(vm, buf);
	pthread_mutex_unlock(&vm->slots_lock);
	return r;
}

static long clear_dirty(struct kvm_vm *vm, const struct kvm_clear_dirty_log *log)
{
	u64 rest, *copy;
	int err;
	struct memslot *s;

	if (vm->m.mem.rings)
		return -ENXIO;
	if (slot_as(log->slot) >= MEM_AS_NUM || slot_id(log->slot) >= MEM_SLOTS_MAX ||
	    (log->first_page & 63))
		return -EINVAL;
	s = logged_slot(vm, log->slot, &err);
	if (!s)
		return err;
	if (log->first_page > s->npages)
		return -EINVAL;
	rest = s->npages - log->first_page;
	if (log->num_pages > rest || (log->num_pages < rest && (log->num_pages & 63)))
		return -EINVAL;
	copy = malloc(bitmap_bytes(log->num_pages) ?: 8);
	if (!copy)
		return -ENOMEM;
	err = copy_in(copy, (u64)log->dirty_bitmap, bitmap_bytes(log->num_pages));
	if (!err) {
		vm_pause(&vm->m, NULL);
		err = mem_dirty_clear(s, log->first_page, log->num_pages, copy);
		vm_resume(&vm->m, NULL, REQ_TLB);
	}
	free(copy);
	return err;
}

long vm_clear_dirty_log(struct kvm_vm *vm, u64 arg, void *buf)
{
	long r;

	pthread_mutex_lock(&vm->slots_lock);
	r = clear_dirty(vm, buf);
	pthread_mutex_unlock(&vm->slots_lock);
	return r;
}

/* ---- dirty rings ------------------------------------------------------------------------------------------ */

int memory_enable_rings(struct kvm_vm *vm, u64 bytes)
{
	int r = 0;

	if (!bytes || (bytes & (bytes - 1)) || bytes < PAGE_SIZE ||
	    bytes < DIRTY_RING_RESERVED * sizeof(struct kvm_dirty_gfn))
		return -EINVAL;
	if (bytes > DIRTY_RING_BYTES_MAX)
		return -E2BIG;
	pthread_mutex_lock(&vm->lock);
	if (vm->dirty_ring_bytes || vm->created_vcpus)
		r = -EINVAL;
	if (!r) {
		vm->dirty_ring_bytes = (u32)bytes;
		vm->m.mem.rings = true;
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* The ring lies in the vCPU's file behind its other pages, where user space maps it. */
int memory_create_ring(struct kvm_vcpu *k)
{
	u32 bytes = k->vm->dirty_ring_bytes;
	struct mem_ring *r = &k->ring;
	int err;

	if (!bytes)
		return 0;
	err = sys_ftruncate(k->fd, DIRTY_RING_OFFSET + bytes);
	if (err)
		return err;
	r->gfns = sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, DIRTY_RING_OFFSET);
	if (!r->gfns)
		return -ENOMEM;
	r->size = bytes / (u32)sizeof(struct kvm_dirty_gfn);
	r->soft_limit = r->size - DIRTY_RING_RESERVED;
	r->request = &k->v->request;
	r->request_bits = REQ_KVM;
	if (!k->vm->m.mem.first_ring)
		k->vm->m.mem.first_ring = r;
	return 0;
}

void memory_free_ring(struct kvm_vcpu *k)
{
	if (k->ring.gfns)
		sys_munmap(k->ring.gfns, k->vm->dirty_ring_bytes);
	if (k->vm->m.mem.first_ring == &k->ring)
		k->vm->m.mem.first_ring = NULL;
}

long vm_reset_dirty_rings(struct kvm_vm *vm, u64 arg, void *buf)
{
	long n = 0;

	if (!vm->dirty_ring_bytes)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	vm_pause(&vm->m, NULL);
	for (u32 i = 0; i < vm->m.nvcpus; i++)
		n += mem_ring_reset(&vm->m.mem, &kvm_of(vm->m.vcpu[i])->ring);
	vm_resume(&vm->m, NULL, n ? REQ_TLB : 0);
	pthread_mutex_unlock(&vm->slots_lock);
	return n;
}
