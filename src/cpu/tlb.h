/* SPDX-License-Identifier: MIT */
/*
 * The second-level TLB and what mmu.c, tlb.c, access.c and bounce.c share.
 *
 * It holds what the page tables said, never what the slow path knows besides (code marks, dirty log): those
 * are asked when an entry is copied into a first-level view. Validity is by stamps: a flush raises the lowest
 * stamp that still counts, so it costs the same whatever the TLB holds.
 */
#pragma once
#include "cpu/cpu.h"
#include "mem/guarded.h"

/* Rights and properties of a translation; in the low bits of tlb2_entry.pa */
enum xlat_bits {
	XL_W = 1,	/* writable by the page tables */
	XL_U = 2,	/* user page */
	XL_NX = 4,
	XL_D = 8,	/* dirty bit is set in the leaf */
	XL_G = 16,	/* global */
	XL_LARGE = 32,	/* part of a page larger than 4 KiB */
	XL_HUGE = 64,	/* part of a 1 GiB page */
	XL_UC = 128,	/* not write-back by the page tables; MTRRs are asked apart */
	XL_ENW = 256,	/* EPT: not writable, or not dirty yet; a write walks again */
	XL_ENX = 512,	/* EPT: not executable */
	XL_ENR = 1024,	/* EPT: not readable */
	XL_EFRAG = 2048, /* a large page of L2 on smaller pages of EPT */
	XL_EXIT = 4096, /* APIC-access page: every access is looked at, never cached */
};

struct tlb2_entry {
	u64 key;	/* linear page | PCID */
	u64 pa;		/* guest-physical page | enum xlat_bits */
	struct memslot *slot;
	u64 stamp;
};

#define TLB2_SETS 2048u
#define TLB2_WAYS 2u
#define TLB2_LARGE 512u	/* 2 MiB pieces of large pages */
#define LARGE_SHIFT 21
#define LARGE_FILTER 2048u
#define FETCH_FILTER 16384u
#define WRITE_FILTER 1024u
#define HUGE_MAX 8u
#define PCID_STAMPS 64u
#define CONTEXTS 16u

/* Jump-cache epochs of a PCID, good while @gen is tlb.context_gen */
struct context {
	u64 epoch[2];
	u64 gen;
	u16 pcid;
};

struct tlb {
	struct tlb_l1 *l1;	/* [VIEW_NUM] */
	u64 now;
	u64 all_min;			/* entries with an older stamp are gone */
	u64 local_min[PCID_STAMPS];	/* likewise for non-global ones, by PCID modulo */
	u64 key;			/* the control bits that the entries were made under */
	u32 views_used;			/* bit n: view n has entries */
	u32 nhuge;
	u64 huge[HUGE_MAX];		/* la >> 30 of cached 1 GiB pages; nhuge > HUGE_MAX: unknown */
	u64 frag_filter[LARGE_FILTER / 64]; /* la >> 21 hashes of XL_EFRAG pages cached in small pieces */
	u64 large_filter[LARGE_FILTER / 64]; /* la >> 21 hashes of large pages with 4 KiB pieces in a view */
	u64 write_filter[WRITE_FILTER / 64]; /* gpa >> 12 hashes of writable entries in tlb_l1.mid */
	u64 fetch_filter[2][FETCH_FILTER / 64]; /* la >> 12 hashes of pages the supervisor or the user fetched from */
	u32 fetched;			/* bits set in the user's */
	bool local_code;		/* the supervisor has fetched from a page that is not global */
	bool global_user_code;		/* the user from one that is */
	u64 epoch[2];			/* vcpu.epoch while the other level runs */
	u64 context_gen;
	struct context context[CONTEXTS];
	struct memslot *slot_hint[2];	/* last slot found below and in the odd 4 GiB */
	bool slot_hint_as;
	u64 hint_gen;
	u64 gen;			/* mem.generation that the entries were made under */
	struct tlb2_entry small[TLB2_SETS][TLB2_WAYS];
	struct tlb2_entry large[TLB2_LARGE];
};

/* A translation of one page */
struct xlat {
	gpa_t page;
	u32 bits;	/* enum xlat_bits */
	struct memslot *slot; /* NULL: MMIO */
};

/* Is this access made with user rights? */
static inline bool mmu_user(const struct vcpu *v, u32 acc)
{
	return (acc & ACC_USER) || (v->cpl == 3 && !(acc & ACC_SYS));
}

/* Does SMAP forbid this supervisor access to touch user pages? [SDM3A "Access Rights"] */
static inline bool mmu_smap(const struct vcpu *v, u32 acc)
{
	return (v->cr4 & CR4_SMAP) && ((acc & ACC_SYS) || v->cpl == 3 || !(v->rflags & FLAG_AC));
}

static inline enum tlb_view mmu_view(const struct vcpu *v, u32 acc)
{
	if (mmu_user(v, acc))
		return VIEW_USER;
	return mmu_smap(v, acc) ? VIEW_SUPER : VIEW_SUPER_AC;
}

static inline u16 mmu_pcid(const struct vcpu *v)
{
	return v->cr4 & CR4_PCIDE ? (u16)(v->cr3 & 0xfff) : 0;
}

static inline unsigned int l1_index(gva_t la)
{
	return (la >> PAGE_SHIFT) & (TLB_ENTRIES - 1);
}

static inline struct tlb_entry *l1_slot(struct tlb_l1 *view, gva_t la, u32 acc)
{
	return (acc & ACC_W ? view->w : view->r) + l1_index(la);
}

/* The view for an access: v->dtlb unless the flags ask for other rights than CPL's. */
static inline struct tlb_l1 *l1_view(struct vcpu *v, u32 acc)
{
	if (likely(!(acc & (ACC_SYS | ACC_USER))))
		return v->dtlb;
	if (unlikely(v->watch_mask)) /* descriptor tables and stacks are watched too */
		return &v->l1[VIEW_NONE];
	return &v->l1[mmu_view(v, acc)];
}

static inline bool l1_hit(const struct tlb_entry *e, gva_t la, unsigned int size)
{
	return likely(la - e->tag <= PAGE_SIZE - size);
}

/* Is the page of a hit not write-back? */
static inline bool l1_uc(struct vcpu *v, gva_t la, u32 acc)
{
	return v->tlb_uc && (l1_view(v, acc)->gpa[acc & ACC_W ? 1 : 0][l1_index(la)] & TLB_UC);
}

static inline void *l1_ptr(const struct tlb_entry *e, gva_t la)
{
	return (void *)(la - e->tag + e->host);
}

/* Do these page rights allow the access? [SDM3A "Access Rights"] */
bool mmu_allowed(const struct vcpu *v, u32 bits, u32 acc);

/**
 * mmu_xlat() - translate one linear address
 * @v: the vCPU
 * @la: linear address
 * @acc: ACC_*; a write sets the dirty bit
 * @x: result
 *
 * Return: 0; OP_EXC (#PF raised); OP_STOP (host fault in a page table).
 */
int mmu_xlat(struct vcpu *v, gva_t la, u32 acc, struct xlat *x);

/* Slot that covers gpa in the current address space, with a small per-vCPU memory. */
struct memslot *mmu_slot(struct vcpu *v, gpa_t gpa);

bool tlb_lookup(struct vcpu *v, gva_t la, struct xlat *x);
void tlb_insert(struct vcpu *v, gva_t la, const struct xlat *x);
/* Copy a translation into the view that acc's rights select. */
void tlb_fill(struct vcpu *v, gva_t la, const struct xlat *x, u32 acc);
/* Withdraw write permission for a guest-physical page from every view. */
void tlb_drop_write(struct vcpu *v, gpa_t page);
/* Forget the page's code in every vCPU, because it is about to be overwritten. False: translate again. */
bool code_page_claim(struct vcpu *v, struct memslot *s, gpa_t page);
/* Note that la's page was fetched from, so flushing it must forget jumps. */
void tlb_note_fetch(struct vcpu *v, gva_t la, const struct xlat *x);

/* ---- tlb_mid.c ---------------------------------------------------------------------------------- */

/* Keep a page for the emitted search; gpa: with TLB_GLOBAL, TLB_UC, TLB_WRITE. */
void mid_fill(struct vcpu *v, struct tlb_l1 *l, gva_t la, const struct xlat *x, u64 gpa, bool may_write);
/* Drop all entries of the level that v->tlb belongs to. */
void mid_clear(struct vcpu *v);
void tlb_drop_slots(struct vcpu *v);
void mid_drop_page(struct tlb_l1 *l, gva_t la);
void mid_drop_write(struct tlb *t, struct tlb_l1 *l, gpa_t page);

/* ---- lock.c ------------------------------------------------------------------------------------- */

#define CACHE_LINE 64u

static inline bool lock_splits(gva_t la, unsigned int size)
{
	return (la & (CACHE_LINE - 1)) + size > CACHE_LINE;
}

/* Is memory at gpa, mapped with enum xlat_bits, anything else than write-back? */
bool cpu_uncached(const struct vcpu *v, gpa_t gpa, u32 bits);
/* The same for an entry of the page-attribute table. */
bool cpu_pat_uncached(const struct vcpu *v, unsigned int index);
/* Ask about a locked access to pieces that are already mapped: 0, with *kind LOCK_KINDS if it is no bus lock; or
 * OP_EXC / OP_STOP. */
#define LOCK_KINDS 2
int lock_check(struct vcpu *v, gva_t la, unsigned int size, const struct mem_piece *p, unsigned int n,
	       unsigned int *kind);

/* ---- access.c, bounce.c, mmio.c ----------------------------------------------------------------- */

/* The checks that VIEW_NONE is for: #AC and data breakpoints. 0 or OP_EXC. */
int mem_check(struct vcpu *v, gva_t la, unsigned int size, u32 acc);

/* Translate an operand of up to a page: one or two pieces. 0 or OP_EXC/OP_STOP. Nothing is touched. */
int mem_map(struct vcpu *v, gva_t la, unsigned int size, u32 acc, struct mem_piece *p, unsigned int *n);
int piece_read(struct vcpu *v, const struct mem_piece *p, void *dst);
/* Store one piece with all its side effects (log, code, MMIO). 0 or OP_STOP. */
int piece_write(struct vcpu *v, const struct mem_piece *p, const void *src);
/* A write by pointer follows: log it, and let the next ones be fast when nothing forbids it. */
void piece_dirty(struct vcpu *v, gva_t la, const struct mem_piece *p, u32 acc);
/* A host page behind gpa is gone: always OP_STOP. */
int mem_efault(struct vcpu *v, gpa_t gpa);

/* v->cur must be the running record. Both split into fragments of at most 8 bytes. 0 or OP_STOP. */
int mmio_read(struct vcpu *v, gpa_t gpa, void *dst, unsigned int len);
int mmio_write(struct vcpu *v, gpa_t gpa, const void *src, unsigned int len);
