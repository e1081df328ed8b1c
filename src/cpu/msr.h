/* SPDX-License-Identifier: MIT */
/*
 * Model-specific registers, private to the processor: rows of spec/msr.def with their handlers.
 */
#pragma once
#include "cpu/cpu.h"

struct msr_row;

/**
 * struct msr_how - the handler column of spec/msr.def
 * @read: 0, or -EINVAL for #GP
 * @write: likewise; NULL: any write is #GP
 */
struct msr_how {
	int (*read)(struct vcpu *v, const struct msr_row *row, u64 *val, bool host);
	int (*write)(struct vcpu *v, const struct msr_row *row, u64 val, bool host);
};

struct msr_row {
	u32 index;
	u16 slot;	/* enum msr_slot */
	u16 feature;	/* enum feature */
	u8 list;	/* enum msr_list_kind */
	u64 reset;
	u64 valid;
	const struct msr_how *how;
};

enum msr_list_kind { MSR_LIST_NONE, MSR_LIST_SAVE, MSR_LIST_FEAT, MSR_LIST_BOTH, MSR_LIST_VMX, MSR_LIST_VMX_FEAT };

const struct msr_row *msr_row(u32 index);
void msr_reset(struct vcpu *v);

/* Guest TSC as RDTSC reads it. */
u64 cpu_tsc(struct vcpu *v);
/* The TSC of L1, whoever runs. */
u64 cpu_tsc_root(struct vcpu *v);

bool msr_canonical(const struct vcpu *v, u64 val);
/* Does the engine offer this feature at all (policy, and the host where the policy says so)? */
bool cpuid_offers(enum feature f);

/* What the handlers' names in spec/msr.def stand for (msr_how.c, msr_sys.c). */
extern const struct msr_how msr_how_RW, msr_how_RWI, msr_how_RO, msr_how_CONST, msr_how_CONST_W, msr_how_ZERO,
	msr_how_WO, msr_how_CANON, msr_how_BUS, msr_how_TSC, msr_how_TSC_ADJUST, msr_how_TSC_AUX,
	msr_how_PLATFORM_INFO, msr_how_APIC_BASE, msr_how_SYSENTER, msr_how_EFER, msr_how_FS_BASE, msr_how_GS_BASE,
	msr_how_PAT, msr_how_MTRR_DEF, msr_how_MTRR_FIX, msr_how_MTRR_BASE, msr_how_MTRR_MASK, msr_how_MCG_CTL,
	msr_how_MCG_EXT, msr_how_MC_CTL, msr_how_MC_STATUS, msr_how_MC_CTL2, msr_how_MISC_ENABLE,
	msr_how_MISC_FEATURES, msr_how_FEAT_CTL, msr_how_UCODE, msr_how_SPEC_CTRL, msr_how_TEST_CTRL,
	msr_how_PERF_CAP, msr_how_DEBUGCTL, msr_how_XSS, msr_how_SMBASE, msr_how_SMI_COUNT, msr_how_HWCR,
	msr_how_AMD_CFG, msr_how_VMX_CAP;
