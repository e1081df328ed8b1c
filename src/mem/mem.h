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
#include "base/types.h"

#define MEM_AS_NUM 2 /* address space 0: normal, 1: SMM */
#define MEM_SLOTS_MAX 32764

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
	_Atomic u64 *code_users;
};

struct memslots; /* immutable sorted set, private to mem/ */

struct mem {
	struct memslots *_Atomic as[MEM_AS_NUM];
	_Atomic u64 generation; /* bumped by every slot change */
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
 * The caller holds the VM lock and runs this between vm_pause() and vm_resume() whenever vCPUs exist.
 *
 * Return: 0; -EINVAL bad alignment, range, flags, deleting an absent slot, changing size or
 * read-only of a live slot; -EEXIST overlap; -ENOMEM. [api.rst 4.35 KVM_SET_USER_MEMORY_REGION]
 */
int mem_set_slot(struct mem *m, unsigned int as, unsigned int id, u32 flags, gpa_t gpa, u64 size,
		 hva_t hva);

/* The slot that covers gpa in address space as, or NULL. Lock-free; safe inside cpu_run(). */
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

/* KVM_GET_DIRTY_LOG / KVM_CLEAR_DIRTY_LOG on a slot; caller has paused or will flush TLBs after. */
int mem_dirty_fetch_clear(struct memslot *s, void *bitmap_out);
int mem_dirty_clear(struct memslot *s, u64 first_page, u64 npages, const void *bitmap);
