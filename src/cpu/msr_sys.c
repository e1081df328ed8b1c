/* SPDX-License-Identifier: MIT */
/*
 * MSRs that are more than storage: time, EFER, segment bases, memory types, machine check, model and
 * speculation control.
 */
#include "cpu/msr.h"
#include "cpu/vmx/vmx.h"

#include <errno.h>

#include "base/base.h"

#define HANDLER(name) \
	const struct msr_how msr_how_##name = { read_##name, write_##name }
#define READ(name) static int read_##name(struct vcpu *v, const struct msr_row *row, u64 *val, bool host)
#define WRITE(name) static int write_##name(struct vcpu *v, const struct msr_row *row, u64 val, bool host)
#define READ_STORED(name)                        \
	READ(name)                               \
	{                                        \
		*val = v->msr_val[row->slot];    \
		return 0;                        \
	}
#define STORE() (v->msr_val[row->slot] = val, 0)

bool msr_canonical(const struct vcpu *v, u64 val)
{
	unsigned int shift = v->cr4 & CR4_LA57 ? 7 : 16;

	return (u64)((s64)(val << shift) >> shift) == val;
}

/* ---- time ------------------------------------------------------------------------------------------- */

u64 cpu_tsc_root(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;

	return (bus->tsc ? bus->tsc(v) : base_rdtsc()) + v->tsc_offset;
}

u64 cpu_tsc(struct vcpu *v)
{
	u64 tsc = cpu_tsc_root(v);

	return likely(!v->nonroot) ? tsc : vmx_l2_tsc(&v->vmx->c, tsc);
}

READ(TSC)
{
	*val = host ? cpu_tsc_root(v) : cpu_tsc(v);
	return 0;
}

/*
 * User space writes every vCPU's TSC with the same value a little apart; those writes mean "the same
 * clock", not "a skew of microseconds". A write within a second of what an earlier one predicts joins
 * its offset. [KVM: kvm_synchronize_tsc]
 */
static void tsc_write_host(struct vcpu *v, u64 val)
{
	struct tsc_sync *s = &v->vm->tsc_sync;
	u64 now = cpu_tsc_root(v) - v->tsc_offset;
	u64 second = (u64)base_tsc_khz() * 1000;
	u64 delta;

	lock_take(&s->lock);
	delta = val - (now + s->offset);
	if (s->valid && (val == 0 || delta < second || -delta < second)) {
		v->tsc_offset = s->offset;
	} else {
		v->tsc_offset = val - now;
		s->offset = v->tsc_offset;
		s->valid = true;
	}
	lock_drop(&s->lock);
}

WRITE(TSC)
{
	u64 adjust;

	if (host) {
		tsc_write_host(v, val);
		return 0;
	}
	adjust = val - cpu_tsc_root(v); /* an offset of L1 is for reading */
	v->tsc_offset += adjust;
	v->msr_val[MSR_SLOT_TSC_ADJUST] += adjust;
	return 0;
}
HANDLER(TSC);

READ_STORED(TSC_ADJUST)
WRITE(TSC_ADJUST)
{
	if (!host)
		v->tsc_offset += val - v->msr_val[row->slot];
	return STORE();
}
HANDLER(TSC_ADJUST);

static bool has_tsc_aux(const struct vcpu *v, bool host)
{
	return host || cpu_has(v, FEAT_RDTSCP) || cpu_has(v, FEAT_RDPID);
}

READ(TSC_AUX)
{
	*val = v->msr_val[row->slot];
	return has_tsc_aux(v, host) ? 0 : -EINVAL;
}
WRITE(TSC_AUX)
{
	if (!has_tsc_aux(v, host) || (!v->vendor_amd && val >> 32))
		return -EINVAL;
	val = (u32)val;
	return STORE();
}
HANDLER(TSC_AUX);

READ(PLATFORM_INFO)
{
	*val = v->msr_val[row->slot];
	return !host && v->vm->platform_info_denied ? -EINVAL : 0;
}
WRITE(PLATFORM_INFO)
{
	bool faulting = v->msr_val[MSR_SLOT_MISC_FEATURES_ENABLES] & 1;

	if (!host || (!(val & BIT(31)) && faulting))
		return -EINVAL;
	return STORE();
}
HANDLER(PLATFORM_INFO);

/* ---- APIC base, system calls, segment bases ----------------------------------------------------------- */

READ(APIC_BASE)
{
	*val = v->apic_base;
	return 0;
}
WRITE(APIC_BASE)
{
	const struct cpu_bus *bus = v->vm->bus;
	u64 reserved = 0x2ff;

	if (!host || v->ncpuid) {
		reserved |= ~0ull << v->maxphyaddr;
		if (!cpu_has(v, FEAT_X2APIC))
			reserved |= BIT(10);
	}
	if (val & reserved)
		return -EINVAL;
	if (bus->set_apic_base)
		return bus->set_apic_base(v, val, host);
	v->apic_base = val;
	return 0;
}
HANDLER(APIC_BASE);

READ_STORED(SYSENTER)
/* Intel's #GP on a non-canonical value, AMD's ignoring of the upper half, both end canonical. */
WRITE(SYSENTER)
{
	if (!host && !v->vendor_amd && !msr_canonical(v, val))
		return -EINVAL;
	val = (u64)((s64)(val << 16) >> 16);
	return STORE();
}
HANDLER(SYSENTER);

READ(EFER)
{
	*val = v->efer;
	return 0;
}
WRITE(EFER)
{
	u64 valid = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE, old = v->efer;

	if (!host) {
		valid = 0;
		valid |= cpu_has(v, FEAT_SYSCALL) ? EFER_SCE : 0;
		valid |= cpu_has(v, FEAT_LM) ? EFER_LME | EFER_LMA : 0;
		valid |= cpu_has(v, FEAT_NX) ? EFER_NXE : 0;
	}
	if (val & ~valid)
		return -EINVAL;
	if (!host && (v->cr0 & CR0_PG) && ((val ^ old) & EFER_LME))
		return -EINVAL;
	v->efer = (val & ~EFER_LMA) | (host ? val & EFER_LMA : old & EFER_LMA);
	if ((v->efer ^ old) & (EFER_NXE | EFER_LMA))
		mmu_flush_all(v);
	cpu_mode_update(v);
	return 0;
}
HANDLER(EFER);

READ(FS_BASE)
{
	*val = v->seg[SEG_FS].base;
	return 0;
}
WRITE(FS_BASE)
{
	if (!msr_canonical(v, val))
		return -EINVAL;
	v->seg[SEG_FS].base = v->fs_base_copy = val;
	return 0;
}
HANDLER(FS_BASE);

READ(GS_BASE)
{
	*val = v->seg[SEG_GS].base;
	return 0;
}
WRITE(GS_BASE)
{
	if (!msr_canonical(v, val))
		return -EINVAL;
	v->seg[SEG_GS].base = v->gs_base_copy = val;
	return 0;
}
HANDLER(GS_BASE);

/* ---- memory types ----------------------------------------------------------------------------------- */

/* A change of memory type shows in the TLB, which keeps the type for lock rules. */
static int store_memory_type(struct vcpu *v, const struct msr_row *row, u64 val)
{
	if (v->msr_val[row->slot] == val)
		return 0;
	mmu_flush_all(v);
	v->msr_val[row->slot] = val;
	cpu_mtrr_update(v);
	return 0;
}

static bool each_byte(u64 val, u32 allowed)
{
	for (unsigned int n = 0; n < 8; n++) {
		u8 type = (u8)(val >> (n * 8));

		if (type > 7 || !(allowed >> type & 1))
			return false;
	}
	return true;
}

#define MTRR_TYPES (1u << 0 | 1u << 1 | 1u << 4 | 1u << 5 | 1u << 6)
#define PAT_TYPES (MTRR_TYPES | 1u << 7)

static bool mtrr_type(u64 val)
{
	return (val & 0xff) < 8 && (MTRR_TYPES >> (val & 7) & 1);
}

READ_STORED(PAT)
WRITE(PAT)
{
	return each_byte(val, PAT_TYPES) ? store_memory_type(v, row, val) : -EINVAL;
}
HANDLER(PAT);

READ_STORED(MTRR_DEF)
WRITE(MTRR_DEF)
{
	if ((val & ~row->valid) || !mtrr_type(val))
		return -EINVAL;
	return store_memory_type(v, row, val);
}
HANDLER(MTRR_DEF);

READ_STORED(MTRR_FIX)
WRITE(MTRR_FIX)
{
	return each_byte(val, MTRR_TYPES) ? store_memory_type(v, row, val) : -EINVAL;
}
HANDLER(MTRR_FIX);

/* Without CPUID yet there is no physical-address width to check against. */
static u64 mtrr_reserved(const struct vcpu *v)
{
	return v->ncpuid ? ~0ull << v->maxphyaddr : ~0ull << 52;
}

READ_STORED(MTRR_BASE)
WRITE(MTRR_BASE)
{
	if ((val & (mtrr_reserved(v) | 0xf00)) || !mtrr_type(val))
		return -EINVAL;
	return store_memory_type(v, row, val);
}
HANDLER(MTRR_BASE);

READ_STORED(MTRR_MASK)
WRITE(MTRR_MASK)
{
	/* QEMU writes the mask for its own idea of the width: bits above ours are dropped for user space. */
	if ((val & 0x7ff) || (!host && (val & mtrr_reserved(v))))
		return -EINVAL;
	return store_memory_type(v, row, val & ~mtrr_reserved(v));
}
HANDLER(MTRR_MASK);

/* ---- machine check ---------------------------------------------------------------------------------- */

#define MCG_CTL_P BIT(8)
#define MCG_CMCI_P BIT(10)
#define MCG_LMCE_P BIT(27)

static u64 mcg_cap(const struct vcpu *v)
{
	return v->msr_val[MSR_SLOT_MCG_CAP];
}

static bool bank_exists(const struct vcpu *v, const struct msr_row *row)
{
	u32 bank = row->index < 0x400 ? row->index - 0x280 : (row->index - 0x400) / 4;

	return bank < (mcg_cap(v) & 0xff);
}

READ(MCG_CTL)
{
	*val = v->msr_val[row->slot];
	return mcg_cap(v) & MCG_CTL_P || host ? 0 : -EINVAL;
}
WRITE(MCG_CTL)
{
	if (!(mcg_cap(v) & MCG_CTL_P) && (val || !host))
		return -EINVAL;
	if (val && ~val)
		return -EINVAL;
	return STORE();
}
HANDLER(MCG_CTL);

static bool lmce_enabled(const struct vcpu *v, bool host)
{
	return host || (v->msr_val[MSR_SLOT_FEATURE_CONTROL] & BIT(20));
}

READ(MCG_EXT)
{
	*val = v->msr_val[row->slot];
	return lmce_enabled(v, host) ? 0 : -EINVAL;
}
WRITE(MCG_EXT)
{
	if (!lmce_enabled(v, host) || (val & ~row->valid))
		return -EINVAL;
	return STORE();
}
HANDLER(MCG_EXT);

READ(MC_CTL)
{
	*val = v->msr_val[row->slot];
	return bank_exists(v, row) ? 0 : -EINVAL;
}
/* All or nothing; kernels are known to clear bit 10 (AMD bank 4) or bit 0. */
WRITE(MC_CTL)
{
	if (!bank_exists(v, row) || (val && ~(val | BIT(10) | 1)))
		return -EINVAL;
	return STORE();
}
HANDLER(MC_CTL);

READ(MC_STATUS)
{
	return read_MC_CTL(v, row, val, host);
}
WRITE(MC_STATUS)
{
	bool may_set = host || (v->msr_val[MSR_SLOT_K7_HWCR] & BIT(18));

	if (!bank_exists(v, row) || (val && !may_set))
		return -EINVAL;
	return STORE();
}
HANDLER(MC_STATUS);

READ(MC_CTL2)
{
	*val = v->msr_val[row->slot];
	return bank_exists(v, row) && ((mcg_cap(v) & MCG_CMCI_P) || host) ? 0 : -EINVAL;
}
WRITE(MC_CTL2)
{
	if (!bank_exists(v, row) || (val & ~row->valid) || (!(mcg_cap(v) & MCG_CMCI_P) && (val || !host)))
		return -EINVAL;
	return STORE();
}
HANDLER(MC_CTL2);

/* ---- model control -------------------------------------------------------------------------------------- */

#define MISC_EMON BIT(7)
#define MISC_BTS_UNAVAIL BIT(11)
#define MISC_PEBS_UNAVAIL BIT(12)
#define MISC_MWAIT BIT(18)

READ_STORED(MISC_ENABLE)
WRITE(MISC_ENABLE)
{
	u64 old = v->msr_val[row->slot];

	if (!host) {
		if ((old ^ val) & (MISC_BTS_UNAVAIL | MISC_PEBS_UNAVAIL))
			return -EINVAL;
		val = (val & ~MISC_EMON) | (old & MISC_EMON);
	}
	if ((v->vm->quirks_disabled & QUIRK_MISC_ENABLE_NO_MWAIT) && ((old ^ val) & MISC_MWAIT)) {
		if (!cpu_has(v, FEAT_SSE3))
			return -EINVAL;
		v->features[FEAT_MONITOR / 64] &= ~BIT(FEAT_MONITOR % 64);
		if (val & MISC_MWAIT)
			v->features[FEAT_MONITOR / 64] |= BIT(FEAT_MONITOR % 64);
	}
	return STORE();
}
HANDLER(MISC_ENABLE);

READ_STORED(MISC_FEATURES)
WRITE(MISC_FEATURES)
{
	if ((val & ~row->valid) || ((val & 1) && !(v->msr_val[MSR_SLOT_PLATFORM_INFO] & BIT(31))))
		return -EINVAL;
	return STORE();
}
HANDLER(MISC_FEATURES);

#define FEAT_CTL_LOCKED BIT(0)

READ_STORED(FEAT_CTL)
WRITE(FEAT_CTL)
{
	u64 valid = FEAT_CTL_LOCKED;

	valid |= cpu_has(v, FEAT_VMX) ? BIT(2) : 0;
	valid |= mcg_cap(v) & MCG_LMCE_P ? BIT(20) : 0;
	if ((val & ~valid) || (!host && (v->msr_val[row->slot] & FEAT_CTL_LOCKED)))
		return -EINVAL;
	return STORE();
}
HANDLER(FEAT_CTL);

READ_STORED(UCODE)
WRITE(UCODE)
{
	return host ? STORE() : 0;
}
HANDLER(UCODE);

static bool has_spec_ctrl(const struct vcpu *v, bool host)
{
	return host || cpu_has(v, FEAT_SPEC_CTRL) || cpu_has(v, FEAT_AMD_IBRS) || cpu_has(v, FEAT_AMD_STIBP) ||
	       cpu_has(v, FEAT_AMD_SSBD);
}

READ(SPEC_CTRL)
{
	*val = v->msr_val[row->slot];
	return has_spec_ctrl(v, host) ? 0 : -EINVAL;
}
WRITE(SPEC_CTRL)
{
	return has_spec_ctrl(v, host) && !(val & ~row->valid) ? STORE() : -EINVAL;
}
HANDLER(SPEC_CTRL);

/* Split-lock detection is a switch of the whole vCPU; CORE_CAPABILITIES bit 5 says that it exists. */
static u64 test_ctrl_bits(const struct vcpu *v)
{
	u64 caps = cpu_has(v, FEAT_CORE_CAPABILITIES) ? v->msr_val[MSR_SLOT_CORE_CAPABILITIES] : 0;
	u64 valid = caps & CORE_CAP_SPLIT_LOCK ? TEST_CTRL_SPLIT_LOCK : 0;

	if ((caps & CORE_CAP_UC_LOCK) || cpu_has(v, FEAT_UC_LOCK_DISABLE))
		valid |= TEST_CTRL_UC_LOCK;
	return valid;
}

READ(TEST_CTRL)
{
	const struct cpu_bus *bus = v->vm->bus;

	*val = !host && bus->test_ctrl_read ? bus->test_ctrl_read(v) : v->msr_val[row->slot];
	return host || test_ctrl_bits(v) ? 0 : -EINVAL;
}
WRITE(TEST_CTRL)
{
	u64 valid = test_ctrl_bits(v);
	const struct cpu_bus *bus = v->vm->bus;

	if (val & ~valid || (!host && !valid))
		return -EINVAL;
	if (!host && bus->test_ctrl && !bus->test_ctrl(v, val))
		return -EINVAL;
	return STORE();
}
HANDLER(TEST_CTRL);

READ_STORED(PERF_CAP)
WRITE(PERF_CAP)
{
	return host && !(val & ~row->reset) ? STORE() : -EINVAL;
}
HANDLER(PERF_CAP);

/* LBR and BTF are accepted and have no effect, as in KVM without LBR support. */
READ_STORED(DEBUGCTL)
WRITE(DEBUGCTL)
{
	u64 valid = host || cpu_has(v, FEAT_BUS_LOCK_DETECT) ? BIT(2) : 0;

	if (val & ~(valid | 3))
		return -EINVAL;
	val &= valid;
	return STORE();
}
HANDLER(DEBUGCTL);

/* No supervisor state component is offered. */
READ(XSS)
{
	*val = v->xss;
	return 0;
}
WRITE(XSS)
{
	if (val)
		return -EINVAL;
	v->xss = val;
	return 0;
}
HANDLER(XSS);

READ(SMBASE)
{
	*val = v->smbase;
	return host ? 0 : -EINVAL;
}
WRITE(SMBASE)
{
	if (!host)
		return -EINVAL;
	v->smbase = (u32)val;
	return 0;
}
HANDLER(SMBASE);

READ_STORED(SMI_COUNT)
WRITE(SMI_COUNT)
{
	return host ? STORE() : -EINVAL;
}
HANDLER(SMI_COUNT);

/* Only McStatusWrEn does something; what firmware and kernels set besides is dropped. */
READ_STORED(HWCR)
WRITE(HWCR)
{
	val &= ~(u64)(0x40 | 0x100 | 0x8);
	if (val & ~BIT(18))
		return -EINVAL;
	return STORE();
}
HANDLER(HWCR);

READ_STORED(AMD_CFG)
WRITE(AMD_CFG)
{
	if (val & ~(row->reset | row->valid))
		return -EINVAL;
	return STORE();
}
HANDLER(AMD_CFG);
