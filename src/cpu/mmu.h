/* SPDX-License-Identifier: MIT */
/*
 * Memory as instruction handlers and the run loop see it (access.c, bounce.c, mmio.c, mmu.c, tlb.c). The end
 * of cpu.h, in a file of its own; include that.
 */
#pragma once
#include "cpu/cpu.h"

/* Error code of #PF. [SDM3A "Page-Fault Exceptions"] */
#define PFERR_P 1u
#define PFERR_W 2u
#define PFERR_U 4u
#define PFERR_RSVD 8u
#define PFERR_ID 16u

/*
 * All return 0 or OP_EXC / OP_STOP, which the handler returns unchanged. Segment forms check limit,
 * type and canonicality for seg:off and raise #SS/#GP; then alignment (#AC), paging and MMIO.
 * Reads before writes: a handler must have finished every access that can fail before it changes state.
 */
int cpu_read(struct vcpu *v, enum seg seg, u64 off, void *dst, unsigned int size);
int cpu_write(struct vcpu *v, enum seg seg, u64 off, const void *src, unsigned int size);
/* Would a write of size bytes succeed? Leaves nothing changed but A/D bits. */
int cpu_probe_write(struct vcpu *v, enum seg seg, u64 off, unsigned int size);
/* Linear-address forms; acc = ACC_* */
int lin_read(struct vcpu *v, gva_t la, void *dst, unsigned int size, u32 acc);
int lin_write(struct vcpu *v, gva_t la, const void *src, unsigned int size, u32 acc);
int lin_probe(struct vcpu *v, gva_t la, unsigned int size, u32 acc);
/* Segment check only: linear address out. acc = ACC_R/ACC_W/ACC_RW */
int seg_linear(struct vcpu *v, enum seg seg, u64 off, unsigned int size, u32 acc, gva_t *la);

/* Effective address (offset within the segment, address-size wrapped) of a record's memory operand */
u64 cpu_ea(const struct vcpu *v, const struct insn *i);
/* Read/write a record's ModRM memory operand */
static inline int cpu_read_mem(struct vcpu *v, const struct insn *i, void *dst, unsigned int size)
{
	return cpu_read(v, insn_seg(i), cpu_ea(v, i), dst, size);
}
static inline int cpu_write_mem(struct vcpu *v, const struct insn *i, const void *src, unsigned int size)
{
	return cpu_write(v, insn_seg(i), cpu_ea(v, i), src, size);
}

/**
 * cpu_mem_begin() - host pointer for a native instruction's memory operand
 * @v: the vCPU
 * @i: the record: segment and effective address are computed from it
 * @size: bytes, 1 .. 64
 * @acc: ACC_R, ACC_W, ACC_RW, with ACC_LOCK for locked forms
 * @off: added to the effective address before the address-size wrap is irrelevant (BT with register
 *	operand); normally 0
 *
 * The pointer is guest RAM itself, or v->bounce with active != 0 when cpu_mem_commit() must follow
 * a write. The low 12 bits of the pointer equal those of the linear address modulo 64, so the host
 * checks alignment as the guest would.
 *
 * Return: pointer, or NULL with v->scratch[7] = OP_EXC or OP_STOP.
 */
void *cpu_mem_begin(struct vcpu *v, const struct insn *i, unsigned int size, u32 acc, s64 off);
/* Write the bounce buffer back. Everything that can fail failed in cpu_mem_begin(). Returns OP_NEXT,
 * or OP_END when the store hit the running code or queued MMIO. */
int cpu_mem_commit(struct vcpu *v);
/**
 * tlb_quick() - host pointer for an operand that only the first-level TLB does not know
 * @v: the vCPU
 * @la: linear address
 * @size, @acc: as cpu_mem_begin()
 *
 * Return: pointer into guest RAM, entered in the first-level TLB; NULL: it takes cpu_mem_begin(). No side effects.
 */
void *tlb_quick(struct vcpu *v, gva_t la, unsigned int size, u32 acc);
/* The same for a store into a page of this, the only, vCPU's code but not into code: no TLB may know it. */
void *tlb_beside_code(struct vcpu *v, gva_t la, unsigned int size);
/* May the running vCPU, if it is the only one, store there without telling code_written()? (codepage.c) */
bool code_beside(struct vcpu *v, gpa_t gpa, unsigned int len);
/* Same, for a linear address already computed */
void *lin_mem_begin(struct vcpu *v, gva_t la, unsigned int size, u32 acc);

/* The instruction ended without its commit (fault in a stub): drop the bounce buffer, resume others. */
void cpu_mem_abort(struct vcpu *v);

/*
 * The MMIO log (mmio.c). mmio_done() forgets it: at every boundary reached by a retired or faulting
 * instruction, and by string handlers after each committed iteration (unless a write waits: then
 * mmio_pending() is true, v->stop is CPU_STOP_MMIO and the handler must leave with OP_AGAIN or OP_END).
 */
void mmio_reset(struct vcpu *v);
struct mmio_frag *mmio_next(struct vcpu *v);	/* first fragment not done, or NULL */
static inline bool mmio_pending(const struct vcpu *v) { return v->stop == CPU_STOP_MMIO; }
static inline void mmio_done(struct vcpu *v)
{
	if (v->mmio.n && !mmio_pending(v))
		mmio_reset(v);
}

/* A fast host pointer for up to *len bytes at la (string operations): RAM only, one page; NULL when
 * the slow path must be used (never raises). */
u8 *lin_fast(struct vcpu *v, gva_t la, unsigned int *len, u32 acc);

/* Translate for instruction fetch: host pointer of the page and its gpa; 0 or OP_EXC/OP_STOP. */
int mmu_fetch(struct vcpu *v, gva_t la, hva_t *host_page, gpa_t *gpa_page);
/* KVM_TRANSLATE and debugging: no side effects, no exceptions. Returns false if not mapped. */
bool mmu_translate(struct vcpu *v, gva_t la, u32 acc, gpa_t *gpa);

int mmu_vcpu_init(struct vcpu *v);
void mmu_vcpu_destroy(struct vcpu *v);
/* Root and each context of non-root operation have TLBs of their own: switch; choose non-root's; flush all of them. */
void mmu_context(struct vcpu *v, bool nonroot);
void mmu_nonroot_use(struct vcpu *v, unsigned int n);
void mmu_flush_contexts(struct vcpu *v);
void mmu_flush_all(struct vcpu *v);		/* everything incl. global */
void mmu_flush_nonglobal(struct vcpu *v);	/* MOV CR3 without PCID */
void mmu_flush_page(struct vcpu *v, gva_t la);	/* INVLPG */
void mmu_flush_pcid(struct vcpu *v, u16 pcid);	/* INVPCID type 1 */
void mmu_flush_all_pcids(struct vcpu *v);	/* INVPCID type 3: all but global */
void mmu_cr3_loaded(struct vcpu *v, bool keep);	/* after v->cr3 changed */
/* Load PDPTEs for PAE paging from v->cr3; 0 or OP_EXC (#GP) */
int mmu_load_pdptes(struct vcpu *v);
/*
 * Which view dtlb points to; called by cpu_mode_update(), and after a change of DR7 or guest_debug. Flushes
 * what a changed CR0, CR4, EFER or SMM bit makes stale, so nobody else needs to.
 */
void mmu_select_view(struct vcpu *v);
/*
 * True while every data access is checked one by one (#AC or data breakpoints): the run loop then runs one
 * instruction at a time, so that a trap recorded in pending_db is taken right after it.
 */
static inline bool mmu_checked(const struct vcpu *v) { return v->dtlb == &v->l1[VIEW_NONE]; }

/* The mode or its epoch has changed: the key is the mode's low bits and the epoch of what they say. */
static inline void mmu_adopt_epoch(struct vcpu *v)
{
	v->mode_key = v->epoch[!!(v->mode_key & MODE_USER)] << 16 | (v->mode_key & 0xffff);
}

/*
 * After STI, nothing waiting: the instruction at v->rip, whose boundary before it has nothing to look at. False: the
 * run loop has.
 */
bool cpu_step_shadow(struct vcpu *v);
/* Must the next instruction be run by itself? */
static inline bool cpu_must_step(const struct vcpu *v)
{
	return v->shadow || v->step_mask || (v->watch_mask && mmu_checked(v)) ||
	       (v->rflags & (FLAG_TF | FLAG_RF));
}

/*
 * Set this vCPU's bit in s->code_users for gpa's page; the first user withdraws everybody's write
 * entries for it. Called before the page's bytes are read for decoding. False: it waited, and the memory
 * map changed meanwhile (s may be gone): translate again.
 */
bool code_page_mark(struct vcpu *v, struct memslot *s, gpa_t gpa);
