/* SPDX-License-Identifier: MIT */
/*
 * RDMSR and WRMSR: finding the row, the rules common to all rows, and the lists KVM hands out.
 * [SDM4 "Model-Specific Registers"]
 */
#include "cpu/msr.h"
#include "cpu/vmx/cap.h"

#include <errno.h>

/*
 * IA32_ARCH_CAPABILITIES. Guest kernel and guest user share the host's address space and predictors,
 * which no mitigation inside the guest can change; saying so spares guests mitigations that cost and
 * do not protect. RDCL_NO IBRS_ALL SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO FBSDP_NO
 * PSDP_NO BHI_NO PBRSB_NO GDS_NO RFDS_NO [SDM4 "IA32_ARCH_CAPABILITIES"], and ITS_NO, which hypervisors make up. Linux
 * wants BHI_CTRL besides BHI_NO, or each of its system calls begins with a loop of 25 branches.
 */
#define ARCH_CAPS (BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | \
		   BIT(15) | BIT(20) | BIT(24) | BIT(26) | BIT(27) | BIT(62))

static const struct msr_row rows[] = {
#define MSR(name, index_, reset_, valid_, how_, list_, feature_) \
	{ .index = (index_), .slot = MSR_SLOT_##name, .feature = FEAT_##feature_, .list = MSR_LIST_##list_, \
	  .reset = (reset_), .valid = (valid_), .how = &msr_how_##how_ },
#include "spec/msr.def"
#undef MSR
};

/* Open-addressed; 0 = empty, else row number + 1. */
#define MSR_HASH_BITS 10
static u16 row_hash[1 << MSR_HASH_BITS];

static u32 lists[2][ARRAY_SIZE(rows)];
static u32 list_len[2];

static inline u32 hash_slot(u32 index)
{
	return (index * 2654435761u) >> (32 - MSR_HASH_BITS);
}

static bool listed(const struct msr_row *row, bool feature)
{
	switch (row->list) {
	case MSR_LIST_SAVE:
		return !feature;
	case MSR_LIST_FEAT:
		return feature;
	case MSR_LIST_BOTH:
		return true;
	case MSR_LIST_VMX:
		return cpuid_offers(FEAT_VMX);
	case MSR_LIST_VMX_FEAT:
		return feature && cpuid_offers(FEAT_VMX);
	default:
		return false;
	}
}

__attribute__((constructor)) static void msr_index_rows(void)
{
	for (u32 n = 0; n < ARRAY_SIZE(rows); n++) {
		u32 h = hash_slot(rows[n].index);

		while (row_hash[h])
			h = (h + 1) & (ARRAY_SIZE(row_hash) - 1);
		row_hash[h] = (u16)(n + 1);
		for (u32 f = 0; f < 2; f++)
			if (listed(&rows[n], f))
				lists[f][list_len[f]++] = rows[n].index;
	}
}

const struct msr_row *msr_row(u32 index)
{
	for (u32 h = hash_slot(index); row_hash[h]; h = (h + 1) & (ARRAY_SIZE(row_hash) - 1))
		if (rows[row_hash[h] - 1].index == index)
			return &rows[row_hash[h] - 1];
	return NULL;
}

const u32 *msr_list(bool feature, u32 *n)
{
	*n = list_len[feature];
	return lists[feature];
}

int msr_feature(u32 index, u64 *val)
{
	const struct msr_row *row = msr_row(index);

	if (!row || !listed(row, true))
		return -EINVAL;
	*val = row->reset;
	return 0;
}

void msr_reset(struct vcpu *v)
{
	/* What user space or firmware configured as a property of the machine outlives RESET. */
	static const u16 keep[] = {
		MSR_SLOT_ARCH_CAPABILITIES, MSR_SLOT_CORE_CAPABILITIES, MSR_SLOT_MCG_CAP, MSR_SLOT_UCODE_REV,
		MSR_SLOT_PERF_CAPABILITIES, MSR_SLOT_PLATFORM_INFO, MSR_SLOT_VMX_BASIC, MSR_SLOT_VMX_MISC,
		MSR_SLOT_VMX_TRUE_PINBASED_CTLS, MSR_SLOT_VMX_TRUE_PROCBASED_CTLS, MSR_SLOT_VMX_TRUE_EXIT_CTLS,
		MSR_SLOT_VMX_TRUE_ENTRY_CTLS, MSR_SLOT_VMX_PROCBASED_CTLS2, MSR_SLOT_VMX_EPT_VPID_CAP,
		MSR_SLOT_VMX_VMFUNC, MSR_SLOT_VMX_VMCS_ENUM, MSR_SLOT_VMX_CR0_FIXED0, MSR_SLOT_VMX_CR4_FIXED0,
	};
	u64 kept[ARRAY_SIZE(keep)];
	bool first = !v->msr_was_reset;

	for (u32 n = 0; n < ARRAY_SIZE(keep); n++)
		kept[n] = v->msr_val[keep[n]];
	for (u32 n = 0; n < ARRAY_SIZE(rows); n++)
		v->msr_val[rows[n].slot] = rows[n].reset;
	for (u32 n = 0; n < ARRAY_SIZE(keep) && !first; n++)
		v->msr_val[keep[n]] = kept[n];
	v->msr_was_reset = true;
	cpu_mtrr_update(v);
}

/* ---- access ------------------------------------------------------------------------------------------- */

static inline bool x2apic_range(u32 index)
{
	return index >= 0x800 && index <= 0x8ff;
}

static int bus_read(struct vcpu *v, u32 index, u64 *val)
{
	const struct cpu_bus *bus = v->vm->bus;

	*val = 0;
	return bus->rdmsr ? bus->rdmsr(v, index, val) : -ENOENT;
}

static int bus_write(struct vcpu *v, u32 index, u64 val)
{
	const struct cpu_bus *bus = v->vm->bus;

	return bus->wrmsr ? bus->wrmsr(v, index, val) : -ENOENT;
}

int cpu_rdmsr(struct vcpu *v, u32 index, u64 *val, bool host)
{
	const struct msr_row *row = x2apic_range(index) ? NULL : msr_row(index);
	int r;

	*val = 0;
	if (!row)
		return bus_read(v, index, val);
	if (!host && !cpu_has(v, (enum feature)row->feature))
		return -EINVAL;
	r = row->how->read ? row->how->read(v, row, val, host) : host ? 0 : -EINVAL;
	/* A listed MSR can always be saved and its zero restored [api.rst 4.3 KVM_GET_MSR_INDEX_LIST]. */
	return r && host && row->list ? 0 : r;
}

int cpu_wrmsr(struct vcpu *v, u32 index, u64 val, bool host)
{
	const struct msr_row *row = x2apic_range(index) ? NULL : msr_row(index);
	int r;

	if (!row)
		return bus_write(v, index, val);
	if (!host && !cpu_has(v, (enum feature)row->feature))
		return -EINVAL;
	r = row->how->write ? row->how->write(v, row, val, host) : -EINVAL;
	return r && host && row->list && !val ? 0 : r;
}

/* ---- the handlers of most rows ------------------------------------------------------------------------ */

static int read_stored(struct vcpu *v, const struct msr_row *row, u64 *val, bool host)
{
	*val = v->msr_val[row->slot];
	return 0;
}

static int read_reset(struct vcpu *v, const struct msr_row *row, u64 *val, bool host)
{
	*val = row->reset;
	return 0;
}

static int read_zero(struct vcpu *v, const struct msr_row *row, u64 *val, bool host)
{
	*val = 0;
	return 0;
}

static int write_checked(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
{
	if (val & ~row->valid)
		return -EINVAL;
	v->msr_val[row->slot] = val;
	return 0;
}

static int write_masked(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
{
	v->msr_val[row->slot] = val & row->valid;
	return 0;
}

static int write_host(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
{
	if (!host)
		return -EINVAL;
	v->msr_val[row->slot] = val;
	return 0;
}

static int write_same(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
{
	return host && val == row->reset ? 0 : -EINVAL;
}

static int write_ignored(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
{
	return 0;
}

static int write_command(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
{
	if (row->slot == MSR_SLOT_PRED_CMD && !host && !cpu_has(v, FEAT_SPEC_CTRL) && !cpu_has(v, FEAT_AMD_IBPB))
		return -EINVAL;
	return val & ~row->valid ? -EINVAL : 0;
}

static int write_canonical(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
{
	if (!msr_canonical(v, val))
		return -EINVAL;
	v->msr_val[row->slot] = val;
	return 0;
}

static int read_bus(struct vcpu *v, const struct msr_row *row, u64 *val, bool host)
{
	return bus_read(v, row->index, val);
}

static int write_bus(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
{
	return bus_write(v, row->index, val);
}

const struct msr_how msr_how_RW = { read_stored, write_checked };
const struct msr_how msr_how_RWI = { read_stored, write_masked };
const struct msr_how msr_how_RO = { read_stored, write_host };
const struct msr_how msr_how_CONST = { read_reset, write_same };
const struct msr_how msr_how_CONST_W = { read_reset, write_ignored };
const struct msr_how msr_how_ZERO = { read_zero, write_ignored };
const struct msr_how msr_how_WO = { NULL, write_command };
const struct msr_how msr_how_CANON = { read_stored, write_canonical };
const struct msr_how msr_how_BUS = { read_bus, write_bus };
