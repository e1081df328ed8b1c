/* SPDX-License-Identifier: MIT */
/*
 * Guest-physical memory: memslots, the dirty log, code marks, guarded copies.
 *
 * Guest RAM is the VMM's own mapping; a slot says which host range backs which guest-physical
 * range. Nothing here walks page tables (src/cpu/mmu.c) or knows a device (src/irq, VMM).
 *
 * Readers (vCPU threads inside cpu_run()) use mem_slot_find() on an immutable slot set published
 * with release semantics. A writer (memslot ioctl) builds a new set, publishes it, and frees the old
 * one only after vm_pause() has made every running vCPU drop its pointers and TLB entries.
 */
#pragma once
#include <stdatomic.h>

#include "base/types.h"

#define MEM_AS_NUM 2 /* address space 0: normal, 1: SMM */
#define MEM_SLOTS_MAX 32764
#define MEM_SLOT_PAGES_MAX ((1ull << 31) - 1)
#define MEM_GPA_BITS 52

enum memslot_flags { /* the kernel's KVM_MEM_* values */
	MEMSLOT_LOG_DIRTY = 1,
	MEMSLOT_READONLY = 2,
};

/**
 * struct memslot - one guest-physical range
 * @gpa: first guest-physical address, page aligned
 * @npages: length in 4 KiB pages
 * @hva: host address of the first page
 * @id: slot number as user space named it
 * @flags: enum memslot_flags
 * @dirty: one bit per page, set by the engine's own writes; NULL unless MEMSLOT_LOG_DIRTY
 * @rings: dirty pages are also told to a ring (then @dirty only says that they have been); NULL: no rings
 * @code_users: per page, bit n set = vCPU n holds decoded records of this page, so no vCPU may hold
 *	a fast write entry for it
 */
struct memslot {
	gpa_t gpa;
	u64 npages;
	hva_t hva;
	u16 id;
	u32 flags;
	u64 *dirty;
	const struct mem *rings;
	_Atomic u64 *code_users;
};

/**
 * struct mem_ring - the dirty pages of one vCPU in the order of their first write (KVM_CAP_DIRTY_LOG_RING)
 * @gfns: shared with user space, which sets KVM_DIRTY_GFN_F_RESET in what it has collected
 * @size: entries, a power of two; 0: there is no ring
 * @soft_limit: from here on the vCPU must leave; what its last instruction writes still finds room
 * @dirty: entries pushed so far
 * @reset: entries given back so far; under the VM lock
 * @request: word in which @request_bits are set when @soft_limit is reached
 */
struct mem_ring {
	struct kvm_dirty_gfn *gfns;
	u32 size, soft_limit;
	_Atomic u32 dirty, reset;
	_Atomic u32 *request;
	u32 request_bits;
};
/* The ring of the vCPU that this thread runs; NULL: the first vCPU's takes what the thread writes. */
extern _Thread_local struct mem_ring *mem_ring_self __attribute__((tls_model("initial-exec")));

struct memslots; /* immutable sorted set, private to mem/ */

/**
 * struct mem - the guest-physical memory of one VM
 * @as: the published slot set of each address space
 * @generation: bumped by every slot change
 * @by_id: slots by number; under the VM lock
 * @npages: pages in all slots; under the VM lock
 * @dirty_init_set: a new dirty log starts with every bit set (KVM_DIRTY_LOG_INITIALLY_SET)
 * @rings, @first_ring: dirty pages go to rings; where those go that no vCPU wrote
 * @retired: what the previous slot change replaced; freed by the next one
 */
struct mem {
	struct memslots *_Atomic as[MEM_AS_NUM];
	_Atomic u64 generation;
	struct memslot **by_id[MEM_AS_NUM];
	u64 npages;
	bool dirty_init_set, rings;
	struct mem_ring *first_ring;
	struct {
		struct memslots *set;
		struct memslot *slot;
		bool own_users, own_dirty;
	} retired;
};

int mem_init(struct mem *m);
void mem_destroy(struct mem *m);

/**
 * mem_set_slot() - create, move, re-flag or delete a slot (KVM_SET_USER_MEMORY_REGION)
 * @m: the VM's memory
 * @as: address space, 0 or 1
 * @id: slot number, 0 .. MEM_SLOTS_MAX-1
 * @flags: enum memslot_flags
 * @gpa: page-aligned guest-physical address
 * @size: bytes, page aligned; 0 deletes
 * @hva: page-aligned host address
 *
 * The caller holds the VM lock and runs this between vm_pause() and vm_resume(REQ_TLB) whenever vCPUs
 * exist. A move keeps the dirty log; a flags change keeps log and code marks.
 *
 * Return: 0; -EINVAL bad alignment, range, flags, deleting an absent slot, changing size, host address or
 * read-only of a live slot; -EEXIST overlap; -ENOMEM. [api.rst 4.35 KVM_SET_USER_MEMORY_REGION]
 */
int mem_set_slot(struct mem *m, unsigned int as, unsigned int id, u32 flags, gpa_t gpa, u64 size,
		 hva_t hva);

/*
 * The slot that covers gpa in address space as, or NULL. Lock-free; safe inside cpu_run(). The answer
 * stays good while the caller is in guest mode (cpu_enter_guest()) or holds the VM lock.
 */
struct memslot *mem_slot_find(const struct mem *m, unsigned int as, gpa_t gpa);
/* The slot by number, or NULL. Caller holds the VM lock. */
struct memslot *mem_slot_by_id(const struct mem *m, unsigned int as, unsigned int id);

/* Host address of one guest-physical byte, or NULL. No dirty marking; RAM and ROM alike. */
hva_t mem_hva(const struct mem *m, unsigned int as, gpa_t gpa);

/* Set the dirty bit(s) for a write of len bytes. No-op for slots without a log. */
void mem_mark_dirty(const struct mem *m, unsigned int as, gpa_t gpa, size_t len);

/*
 * Copies that survive an unmapped or truncated host page (design rule 6): 0, or -EFAULT when a page
 * has no slot, is read-only (write) or the host access faulted. Writes mark dirty.
 */
int mem_read(const struct mem *m, unsigned int as, gpa_t gpa, void *dst, size_t len);
int mem_write(const struct mem *m, unsigned int as, gpa_t gpa, const void *src, size_t len);

/*
 * Copy between engine memory and an arbitrary host address that may fault: 0 or -EFAULT.
 * The faulting instruction lies in the fixup table that the SIGSEGV/SIGBUS handler consults.
 */
int mem_copy_guarded(void *dst, const void *src, size_t len);
/* If pc lies in a guarded copy, the address to continue at, else 0. Async-signal-safe. */
u64 mem_fixup(u64 pc);

/* Index of gpa's page in a slot that covers it */
static inline u64 memslot_page(const struct memslot *s, gpa_t gpa) { return (gpa - s->gpa) >> PAGE_SHIFT; }
static inline hva_t memslot_hva(const struct memslot *s, gpa_t gpa) { return s->hva + (gpa - s->gpa); }
static inline bool memslot_page_dirty(const struct memslot *s, u64 page)
{
	return __atomic_load_n(&s->dirty[page / 64], __ATOMIC_RELAXED) >> (page % 64) & 1;
}
/* Log a write to one page; no-op without a log. */
void memslot_tell_ring(struct memslot *s, u64 page);
static inline void memslot_mark_dirty(struct memslot *s, u64 page)
{
	if (!s->dirty || memslot_page_dirty(s, page))
		return;
	if (s->rings)
		memslot_tell_ring(s, page);
	else
		__atomic_fetch_or(&s->dirty[page / 64], BIT(page % 64), __ATOMIC_RELAXED);
}
/* Must the vCPU leave so that user space empties the ring? */
static inline bool mem_ring_full(const struct mem_ring *r)
{
	return r->size && atomic_load_explicit(&r->dirty, memory_order_relaxed) -
			atomic_load_explicit(&r->reset, memory_order_relaxed) >= r->soft_limit;
}
/**
 * mem_ring_reset() - take back what user space has collected (KVM_RESET_DIRTY_RINGS)
 *
 * The caller holds the VM lock and pauses, as for mem_dirty_fetch_clear().
 *
 * Return: the number of entries.
 */
u32 mem_ring_reset(const struct mem *m, struct mem_ring *r);
/* The vCPUs that hold decoded records of a page, as a bit mask */
static inline u64 memslot_code_users(const struct memslot *s, u64 page)
{
	return atomic_load_explicit(&s->code_users[page], memory_order_relaxed);
}

/**
 * mem_dirty_fetch() - copy a slot's dirty bitmap out (KVM_GET_DIRTY_LOG with manual protection)
 * @s: slot
 * @bitmap_out: user buffer, one bit per page rounded up to 64 pages
 *
 * mem_dirty_fetch_clear() also clears the bits that it copied (KVM_GET_DIRTY_LOG otherwise). The caller
 * runs it between vm_pause() and vm_resume(REQ_TLB), so that the next store to a page is seen again.
 *
 * Return: 0; -ENOENT the slot has no log; -EFAULT bad buffer.
 */
int mem_dirty_fetch(struct memslot *s, void *bitmap_out);
int mem_dirty_fetch_clear(struct memslot *s, void *bitmap_out);
/**
 * mem_dirty_clear() - clear named bits of the log (KVM_CLEAR_DIRTY_LOG); caller pauses as above
 * @s: slot
 * @first_page: multiple of 64
 * @npages: multiple of 64 unless it ends with the slot
 * @bitmap: user buffer, bits to clear
 *
 * Return: 0; -ENOENT no log; -EINVAL range; -EFAULT bad buffer.
 */
int mem_dirty_clear(struct memslot *s, u64 first_page, u64 npages, const void *bitmap);
