/* SPDX-License-Identifier: MIT */
/*
 * Bus locks: which locked accesses would be one, and what is asked and noted about them.
 *
 * A locked access that crosses a cache line, or whose memory is not write-back, would lock the bus of a real
 * machine. None of ours does (design rule 2); what the guest sees is the architecture's: #AC with split-lock detection
 * on, a #DB after the instruction with bus-lock detection on. Whether the outside lets it run at all is asked
 * through cpu_bus.lock. [SDM3A "Features to Disable Bus Locks"] [SDM3B "OS Bus-Lock Detection"]
 */
#include "cpu/tlb.h"

#define TYPE_WB 6u
#define MTRR_ENABLED BIT(11)
#define MTRR_FIXED_ENABLED BIT(10)
#define MTRR_MASK_VALID BIT(11)
#define MTRR_RANGES 8u
#define MTRR_FIXED 11u
#define FIXED_END 0x100000u
#define ALL_WB 0x0606060606060606ull

/* ---- memory types ----------------------------------------------------------------------------- */

/* The rows of spec/msr.def follow each other: base, mask, base, mask; eleven fixed ones. */
static inline u64 mtrr_base(const struct vcpu *v, unsigned int n)
{
	return v->msr_val[MSR_SLOT_MTRR_PHYSBASE0 + 2 * n];
}

static inline u64 mtrr_mask(const struct vcpu *v, unsigned int n)
{
	return v->msr_val[MSR_SLOT_MTRR_PHYSMASK0 + 2 * n];
}

/* With MTRRs off the manual says uncacheable; as in KVM without assigned devices, it says nothing here. */
void cpu_mtrr_update(struct vcpu *v)
{
	u64 def = v->msr_val[MSR_SLOT_MTRR_DEF_TYPE];
	bool mixed = (def & 0xff) != TYPE_WB;

	for (unsigned int n = 0; n < MTRR_RANGES; n++)
		mixed |= (mtrr_mask(v, n) & MTRR_MASK_VALID) && (mtrr_base(v, n) & 0xff) != TYPE_WB;
	for (unsigned int n = 0; n < MTRR_FIXED; n++)
		mixed |= (def & MTRR_FIXED_ENABLED) && v->msr_val[MSR_SLOT_MTRR_FIX64K_00000 + n] != ALL_WB;
	v->mtrr_mixed = mixed && (def & MTRR_ENABLED);
}

/* 64 KiB pieces below 512 KiB, 16 KiB ones up to 768 KiB, then 4 KiB. [SDM3A "Fixed Range MTRRs"] */
static u8 fixed_type(const struct vcpu *v, gpa_t gpa)
{
	unsigned int n;

	if (gpa < 0x80000)
		n = (unsigned int)(gpa >> 16);
	else if (gpa < 0xc0000)
		n = 8 + (unsigned int)((gpa - 0x80000) >> 14);
	else
		n = 24 + (unsigned int)((gpa - 0xc0000) >> 12);
	return (u8)(v->msr_val[MSR_SLOT_MTRR_FIX64K_00000 + n / 8] >> (n % 8 * 8));
}

/* Anything that is not write-back wins over write-back. [SDM3A "MTRR Precedences"] */
static bool mtrr_wb(const struct vcpu *v, gpa_t gpa)
{
	u64 def = v->msr_val[MSR_SLOT_MTRR_DEF_TYPE];
	bool found = false;

	if (gpa < FIXED_END && (def & MTRR_FIXED_ENABLED))
		return fixed_type(v, gpa) == TYPE_WB;
	for (unsigned int n = 0; n < MTRR_RANGES; n++) {
		u64 mask = mtrr_mask(v, n);

		if (!(mask & MTRR_MASK_VALID) || ((gpa ^ mtrr_base(v, n)) & mask & PAGE_MASK))
			continue;
		if ((mtrr_base(v, n) & 0xff) != TYPE_WB)
			return false;
		found = true;
	}
	return found || (def & 0xff) == TYPE_WB;
}

bool cpu_uncached(const struct vcpu *v, gpa_t gpa, u32 bits)
{
	return (bits & XL_UC) || (unlikely(v->mtrr_mixed) && !mtrr_wb(v, gpa));
}

bool cpu_pat_uncached(const struct vcpu *v, unsigned int index)
{
	return (v->msr_val[MSR_SLOT_PAT] >> (index * 8) & 7) != TYPE_WB;
}

/* ---- asking ----------------------------------------------------------------------------------------- */

/* The processor by itself: what MSR_TEST_CTRL says. */
enum lock_answer cpu_lock_detect(const struct vcpu *v, enum lock_kind kind)
{
	u64 bit = kind == LOCK_SPLIT ? TEST_CTRL_SPLIT_LOCK : TEST_CTRL_UC_LOCK;

	return v->msr_val[MSR_SLOT_TEST_CTRL] & bit ? LOCK_AC : LOCK_RUN;
}

/* Parts that enumerate the switch in CORE_CAPABILITIES raise #GP(0), later ones #AC(4). */
static int raise_lock(struct vcpu *v, enum lock_kind kind)
{
	if (kind == LOCK_SPLIT)
		return cpu_raise_err(v, EXC_AC, 0);
	return cpu_has(v, FEAT_UC_LOCK_DISABLE) ? cpu_raise_err(v, EXC_AC, 4) : RAISE_GP0(v);
}

int cpu_lock_ask(struct vcpu *v, enum lock_kind kind, gva_t la, u32 size)
{
	const struct cpu_bus *bus = v->vm->bus;
	enum lock_answer a;

	/* An instruction run again for its device's answer has been asked about. */
	if (v->mmio.n)
		return 0;
	a = bus->lock ? bus->lock(v, kind, la, size) : cpu_lock_detect(v, kind);
	if (a == LOCK_RUN)
		return 0;
	return a == LOCK_STOP ? OP_STOP : raise_lock(v, kind);
}

void cpu_bus_locked(struct vcpu *v)
{
	v->bus_lock |= BUS_LOCK_DONE;
	if (v->cpl && (v->msr_val[MSR_SLOT_DEBUGCTL] & DEBUGCTL_BUS_LOCK))
		v->bus_lock |= BUS_LOCK_TRAP;
	atomic_fetch_or(&v->request, REQ_INSN);
}

bool cpu_bus_lock_boundary(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;
	u8 what = v->bus_lock;

	/*
	 * An exception of the same instruction goes first: a VM exit to L1 may come of it. The trap belongs to
	 * completed instructions only.
	 */
	if (v->inj.valid) {
		v->bus_lock &= BUS_LOCK_DONE;
		return false;
	}
	v->bus_lock = 0;
	if (what & BUS_LOCK_TRAP)
		v->pending_db |= DR6_BLD;
	if (!(what & BUS_LOCK_DONE) || !bus->bus_locked || !bus->bus_locked(v))
		return false;
	v->stop = CPU_STOP_BUS_LOCK;
	return true;
}
