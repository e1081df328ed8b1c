/* SPDX-License-Identifier: MIT */
/*
 * The levels of the data TLB that emitted code searches by itself. Part of struct vcpu.
 */
#pragma once
#include "base/types.h"

/**
 * enum tlb_view - whose rights the entries of a first-level TLB carry
 * @VIEW_USER: CPL 3
 * @VIEW_SUPER: CPL 0 to 2 with SMAP enforced
 * @VIEW_SUPER_AC: CPL 0 to 2 with SMAP off or RFLAGS.AC set
 * @VIEW_NONE: always empty: every access takes the slow path (#AC checks, data breakpoints)
 */
enum tlb_view { VIEW_USER, VIEW_SUPER, VIEW_SUPER_AC, VIEW_NONE, VIEW_NUM };
#define TLB_BITS 10
#define TLB_ENTRIES (1u << TLB_BITS)

/**
 * struct tlb_entry - first-level data TLB entry, read by emitted code
 * @tag: page-aligned linear address when the page may be accessed at full speed, else TLB_NEVER
 * @host: host address of the page's first byte
 *
 * Emitted fast path: ea - tag < 4097 - size  =>  host pointer = ea - tag + host.
 */
struct tlb_entry {
	u64 tag;
	u64 host;
};

#define TLB_CHUNK 32u /* entries that are cleared together */

/**
 * struct tlb_mid - an entry of the level behind, which emitted code searches when tlb_entry misses
 * @tag: linear page | vcpu.tlb_gen of its level; 0: never filled
 * @host: host address of the page's first byte
 * @gpa: as tlb_l1.gpa, and TLB_WRITE if the page may be written at full speed
 */
struct tlb_mid {
	u64 tag, host, gpa, unused;
};
#define TLB_SETS 512u
#define TLB_WAYS 4u
#define TLB_LARGES 64u

/**
 * struct tlb_l1 - the entries of one view
 * @r: for reads
 * @w: for writes: page dirty, writable, not code, not being logged, not watched. An array of its own, or a
 *	copy between pages of equal index would never hit
 * @gpa: guest-physical page address | TLB_GLOBAL | TLB_UC, for @r and @w
 * @used, @local: bit n: chunk n of @r, @w may hold entries; that are not global
 * @next: way of @mid to replace
 * @mid: pages that did not stay in @r or @w
 * @large: 2 MiB pieces of large pages whose memory is contiguous on the host too
 */
struct tlb_l1 {
	struct tlb_entry r[TLB_ENTRIES];
	struct tlb_entry w[TLB_ENTRIES];
	u64 gpa[2][TLB_ENTRIES];
	u32 used[2], local[2];
	u32 next;
	struct tlb_mid mid[TLB_SETS][TLB_WAYS];
	struct tlb_mid large[TLB_LARGES];
};
_Static_assert(TLB_ENTRIES / TLB_CHUNK == 32, "a word has a bit for each chunk");
/*
 * Pages that accesses of hot loops use. Translated code compares with one of these instead of indexing an array, so
 * that the address does not wait for the check. Root operation only; filled from the arrays. A slot grows by pages
 * that are its neighbours for the guest and on the host.
 */
#define TLB_SLOTS 16u
#define SLOT_MISSES 64
#define SLOT_CLASSES 5u
struct tlb_slots {
	/**
	 * struct tlb_slot - pages in a row
	 * @tag: linear address of the first byte, or TLB_NEVER
	 * @delta: host address minus linear address
	 * @most: its bytes less slot_class_size()
	 */
	struct tlb_slot {
		u64 tag;
		u64 delta;
		u64 most[SLOT_CLASSES];
		u64 unused;
	} page[VIEW_NONE][2][TLB_SLOTS] __attribute__((aligned(64))); /* by view, and whether it is for writes */
	u32 used;	/* bit n: of page[n / 2][n % 2] some tag is not TLB_NEVER */
	s32 misses;	/* counts down to a look at who misses */
	u64 looked_at;	/* TSC */
};

/* The largest access of a class */
static inline unsigned int slot_class_size(unsigned int class)
{
	return class < SLOT_CLASSES - 1 ? 8u << class : 512u;
}

static inline unsigned int slot_class(unsigned int size)
{
	unsigned int class = 0;

	while (slot_class_size(class) < size)
		class++;
	return class;
}

#define TLB_GLOBAL BIT(3)
#define TLB_UC BIT(4)	/* not write-back: a locked access is a bus lock */
#define TLB_WRITE BIT(5)
#define TLB_NEVER 0x7ff0000000000000ull /* canonical addresses are never near it */
