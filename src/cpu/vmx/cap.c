/* SPDX-License-Identifier: MIT */
/*
 * Access to the capability MSRs. User space may take features away from a vCPU, never add any; the MSRs without
 * "TRUE" and the FIXED1 ones follow from the others. [SDM3D "VMX Capability Reporting Facility"]
 */
#include "cpu/vmx/cap.h"

#include <errno.h>

#include "cpu/msr.h"

/* The control MSRs that are the TRUE ones with more bits reserved to 1. */
static const struct {
	u16 slot, from;
	u32 default1;
} derived[] = {
	{ MSR_SLOT_VMX_PINBASED_CTLS, MSR_SLOT_VMX_TRUE_PINBASED_CTLS, DEFAULT1_PIN },
	{ MSR_SLOT_VMX_PROCBASED_CTLS, MSR_SLOT_VMX_TRUE_PROCBASED_CTLS, DEFAULT1_PROC },
	{ MSR_SLOT_VMX_EXIT_CTLS, MSR_SLOT_VMX_TRUE_EXIT_CTLS, DEFAULT1_EXIT },
	{ MSR_SLOT_VMX_ENTRY_CTLS, MSR_SLOT_VMX_TRUE_ENTRY_CTLS, DEFAULT1_ENTRY },
};

static int read_VMX_CAP(struct vcpu *v, const struct msr_row *row, u64 *val, bool host)
{
	(void)host;
	*val = v->msr_val[row->slot];
	for (unsigned int n = 0; n < ARRAY_SIZE(derived); n++)
		if (row->slot == derived[n].slot)
			*val = v->msr_val[derived[n].from] | derived[n].default1;
	if (row->slot == MSR_SLOT_VMX_CR4_FIXED1)
		*val &= ~v->cr4_rsvd;
	return 0;
}

static bool subset(u64 part, u64 whole) { return !(part & ~whole); }

/* Bits reserved to 1 in the low half may only grow, bits allowed in the high half only shrink. */
static bool narrower_controls(u64 val, u64 offered)
{
	return subset((u32)offered, (u32)val) && subset(val >> 32, offered >> 32);
}

#define BASIC_FEATURES (BIT(48) | BIT(49) | BIT(54) | BIT(55))
#define BASIC_RESERVED (BIT(31) | 0x7ull << 45 | 0xffull << 56)

static bool valid_basic(u64 val, u64 offered)
{
	u64 features = BASIC_FEATURES;

	if (val & BASIC_RESERVED || !subset(val & features, offered & features))
		return false;
	if ((offered & BIT(48)) && !(val & BIT(48)))
		return false;
	return (val & 0x7fffffff) == (offered & 0x7fffffff) && (val >> 32 & 0x1fff) >= (offered >> 32 & 0x1fff);
}

#define MISC_FEATURES (BIT(5) | 7ull << 6 | BIT(14) | BIT(15) | BIT(28) | BIT(29) | BIT(30))
#define MISC_RESERVED (0x1full << 9 | BIT(31))

static bool valid_misc(u64 val, u64 offered)
{
	u64 features = MISC_FEATURES;

	if (!subset(val & features, offered & features) || (val & MISC_RESERVED))
		return false;
	return (val & 0x1f) == (offered & 0x1f) && (val >> 16 & 0x1ff) <= (offered >> 16 & 0x1ff) &&
	       (val >> 25 & 7) <= (offered >> 25 & 7) && val >> 32 == offered >> 32;
}

static bool may_set(const struct vcpu *v, const struct msr_row *row, u64 val)
{
	switch (row->slot) {
	case MSR_SLOT_VMX_TRUE_PINBASED_CTLS:
	case MSR_SLOT_VMX_TRUE_PROCBASED_CTLS:
	case MSR_SLOT_VMX_TRUE_EXIT_CTLS:
	case MSR_SLOT_VMX_TRUE_ENTRY_CTLS:
		return narrower_controls(val, row->reset);
	case MSR_SLOT_VMX_PROCBASED_CTLS2:
		return narrower_controls(val, row->reset | (v->vmx->notify_offered ? (u64)PROC2_NOTIFY << 32 : 0));
	case MSR_SLOT_VMX_BASIC:
		return valid_basic(val, row->reset);
	case MSR_SLOT_VMX_MISC:
		return valid_misc(val, row->reset);
	case MSR_SLOT_VMX_EPT_VPID_CAP:
	case MSR_SLOT_VMX_VMFUNC:
		return subset(val, row->reset);
	case MSR_SLOT_VMX_CR0_FIXED0:
	case MSR_SLOT_VMX_CR4_FIXED0:
		return subset(row->reset, val);
	case MSR_SLOT_VMX_VMCS_ENUM:
		return true;
	default:
		return false;
	}
}

static int write_VMX_CAP(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
{
	if (!host || v->vmx->on || !may_set(v, row, val))
		return -EINVAL;
	v->msr_val[row->slot] = val;
	return 0;
}

const struct msr_how msr_how_VMX_CAP = { read_VMX_CAP, write_VMX_CAP };

void vmx_offer_notify(struct vcpu *v)
{
	v->vmx->notify_offered = true;
	v->msr_val[MSR_SLOT_VMX_PROCBASED_CTLS2] |= (u64)PROC2_NOTIFY << 32;
}

void vmx_restrict(struct vcpu *v)
{
	v->msr_val[MSR_SLOT_VMX_PROCBASED_CTLS2] &= ~((u64)PROC2_UNRESTRICTED << 32);
}
