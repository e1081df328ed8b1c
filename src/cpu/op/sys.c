/* SPDX-License-Identifier: MIT */
/*
 * System instructions without a family of their own: CPUID, time, MSRs, HLT, the interrupt flag, SMAP's
 * AC, segment bases, protection keys, cache and TLB control, waiting, hypercalls.
 */
#include <errno.h>

#include "cpu/flags.h"
#include "cpu/msr.h"
#include "cpu/op/control.h"
#include "cpu/rcache.h"
#include "cpu/smm.h"

static void set_edx_eax(struct vcpu *v, u64 val)
{
	v->gpr[GPR_RAX] = (u32)val;
	v->gpr[GPR_RDX] = val >> 32;
}

static u64 get_edx_eax(const struct vcpu *v)
{
	return (u32)v->gpr[GPR_RAX] | v->gpr[GPR_RDX] << 32;
}

int op_ud(struct vcpu *v, const struct insn *i)
{
	return RAISE_UD(v);
}

int op_rsm(struct vcpu *v, const struct insn *i)
{
	return v->smm ? smm_leave(v) : RAISE_UD(v);
}

/* ---- CPUID, time --------------------------------------------------------------------------------------- */

int op_cpuid(struct vcpu *v, const struct insn *i)
{
	u32 r[4];

	if (v->cpl && (v->msr_val[MSR_SLOT_MISC_FEATURES_ENABLES] & 1)) /* CPUID faulting */
		return RAISE_GP0(v);
	cpuid_eval(v, (u32)v->gpr[GPR_RAX], (u32)v->gpr[GPR_RCX], r);
	v->gpr[GPR_RAX] = r[0];
	v->gpr[GPR_RBX] = r[1];
	v->gpr[GPR_RCX] = r[2];
	v->gpr[GPR_RDX] = r[3];
	cpu_serialize(v);
	return OP_END;
}

static bool tsc_disabled(const struct vcpu *v)
{
	return (v->cr4 & CR4_TSD) && v->cpl;
}

int op_rdtsc(struct vcpu *v, const struct insn *i)
{
	if (tsc_disabled(v))
		return RAISE_GP0(v);
	set_edx_eax(v, cpu_tsc(v));
	return OP_NEXT;
}

int op_rdtscp(struct vcpu *v, const struct insn *i)
{
	if (tsc_disabled(v))
		return RAISE_GP0(v);
	set_edx_eax(v, cpu_tsc(v));
	v->gpr[GPR_RCX] = (u32)v->msr_val[MSR_SLOT_TSC_AUX];
	return OP_NEXT;
}

/* There are no performance counters. */
int op_rdpmc(struct vcpu *v, const struct insn *i)
{
	return RAISE_GP0(v);
}

/* ---- RDMSR, WRMSR ------------------------------------------------------------------------------------------ */

/* User space has answered this access: its verdict. */
static bool msr_answered(struct vcpu *v, const struct insn *i)
{
	bool answered = v->msr.done && v->msr.rip == insn_rip(v, i) && v->msr.index == (u32)v->gpr[GPR_RCX];

	v->msr.done = false;
	return answered;
}

static int msr_stop(struct vcpu *v, const struct insn *i, enum cpu_stop stop)
{
	v->msr.index = (u32)v->gpr[GPR_RCX];
	v->msr.rip = insn_rip(v, i);
	v->msr.error = 0;
	v->stop = stop;
	return OP_STOP;
}

/* The access failed: #GP(0), unless user space wants to decide. */
static int msr_failed(struct vcpu *v, const struct insn *i, u8 reason, enum cpu_stop stop)
{
	const struct cpu_bus *bus = v->vm->bus;

	if (!bus->msr_user_space || !bus->msr_user_space(v, reason))
		return RAISE_GP0(v);
	v->msr.reason = reason;
	return msr_stop(v, i, stop);
}

static int msr_result(struct vcpu *v, const struct insn *i, int res, enum cpu_stop stop)
{
	switch (res) {
	case 0:
		return 0;
	case -EREMOTE:
		return msr_stop(v, i, stop);
	case -ENOENT:
		return msr_failed(v, i, MSR_REASON_UNKNOWN, stop);
	case -EACCES:
		return msr_failed(v, i, MSR_REASON_FILTER, stop);
	default:
		return msr_failed(v, i, MSR_REASON_INVAL, stop);
	}
}

static bool msr_filtered(struct vcpu *v, u32 index, bool write)
{
	const struct cpu_bus *bus = v->vm->bus;

	return bus->msr_allowed && !bus->msr_allowed(v, index, write);
}

int op_rdmsr(struct vcpu *v, const struct insn *i)
{
	u32 index = (u32)v->gpr[GPR_RCX];
	u64 val;
	int r = require_cpl0(v);

	if (r)
		return r;
	if (msr_answered(v, i)) {
		if (v->msr.error)
			return RAISE_GP0(v);
		set_edx_eax(v, v->msr.data);
		return OP_NEXT;
	}
	r = msr_filtered(v, index, false) ? -EACCES : cpu_rdmsr(v, index, &val, false);
	r = msr_result(v, i, r, CPU_STOP_RDMSR);
	if (r)
		return r;
	set_edx_eax(v, val);
	return OP_NEXT;
}

int op_wrmsr(struct vcpu *v, const struct insn *i)
{
	u32 index = (u32)v->gpr[GPR_RCX];
	int r = require_cpl0(v);

	if (r)
		return r;
	if (msr_answered(v, i))
		return v->msr.error ? RAISE_GP0(v) : OP_END;
	v->msr.data = get_edx_eax(v);
	r = msr_filtered(v, index, true) ? -EACCES : cpu_wrmsr(v, index, v->msr.data, false);
	r = msr_result(v, i, r, CPU_STOP_WRMSR);
	return r ? r : OP_END;
}

/* ---- HLT, IF ------------------------------------------------------------------------------------------------ */

int op_hlt(struct vcpu *v, const struct insn *i)
{
	int r = require_cpl0(v);

	if (r)
		return r;
	v->stop = CPU_STOP_HLT;
	return OP_END;
}

enum if_access { IF_REAL, IF_VIRTUAL, IF_FORBIDDEN };

/* Which flag do CLI and STI work on? [SDM2A "CLI", Table "Decision Table for CLI Results"] */
static enum if_access if_access(const struct vcpu *v)
{
	if (!cpu_prot(v) || v->cpl <= (v->rflags >> 12 & 3))
		return IF_REAL;
	if (cpu_v86(v) ? v->cr4 & CR4_VME : v->cpl == 3 && (v->cr4 & CR4_PVI))
		return IF_VIRTUAL;
	return IF_FORBIDDEN;
}

int op_cli(struct vcpu *v, const struct insn *i)
{
	switch (if_access(v)) {
	case IF_REAL:
		v->rflags &= ~FLAG_IF;
		return OP_NEXT;
	case IF_VIRTUAL:
		v->rflags &= ~FLAG_VIF;
		return OP_NEXT;
	default:
		return RAISE_GP0(v);
	}
}

int op_sti(struct vcpu *v, const struct insn *i)
{
	switch (if_access(v)) {
	case IF_REAL:
		if (!(v->rflags & FLAG_IF))
			v->shadow = SHADOW_STI;
		v->rflags |= FLAG_IF;
		return OP_END;
	case IF_VIRTUAL:
		if (v->rflags & FLAG_VIP)
			return RAISE_GP0(v);
		v->rflags |= FLAG_VIF;
		return OP_NEXT;
	default:
		return RAISE_GP0(v);
	}
}

static int set_ac(struct vcpu *v, bool on)
{
	if (v->cpl)
		return RAISE_UD(v);
	v->rflags = on ? v->rflags | FLAG_AC : v->rflags & ~FLAG_AC;
	mmu_select_view(v);
	return OP_NEXT;
}

int op_clac(struct vcpu *v, const struct insn *i)
{
	return set_ac(v, false);
}

int op_stac(struct vcpu *v, const struct insn *i)
{
	return set_ac(v, true);
}

/* ---- segment bases ------------------------------------------------------------------------------------------- */

int op_swapgs(struct vcpu *v, const struct insn *i)
{
	u64 base = v->msr_val[MSR_SLOT_KERNEL_GS_BASE];
	int r = require_cpl0(v);

	if (r)
		return r;
	v->msr_val[MSR_SLOT_KERNEL_GS_BASE] = v->seg[SEG_GS].base;
	v->seg[SEG_GS].base = v->gs_base_copy = base;
	return OP_NEXT;
}

static int read_base(struct vcpu *v, const struct insn *i, enum seg seg)
{
	if (!(v->cr4 & CR4_FSGSBASE))
		return RAISE_UD(v);
	gpr_set(v, insn_rm(i), i->osz, v->seg[seg].base);
	return OP_NEXT;
}

static int write_base(struct vcpu *v, const struct insn *i, enum seg seg)
{
	u64 base = gpr_get(v, insn_rm(i), i->osz);

	if (!(v->cr4 & CR4_FSGSBASE))
		return RAISE_UD(v);
	if (!la_canonical(v, base))
		return RAISE_GP0(v);
	v->seg[seg].base = base;
	if (seg == SEG_FS)
		v->fs_base_copy = base;
	else
		v->gs_base_copy = base;
	return OP_NEXT;
}

int op_rdfsbase(struct vcpu *v, const struct insn *i) { return read_base(v, i, SEG_FS); }
int op_rdgsbase(struct vcpu *v, const struct insn *i) { return read_base(v, i, SEG_GS); }
int op_wrfsbase(struct vcpu *v, const struct insn *i) { return write_base(v, i, SEG_FS); }
int op_wrgsbase(struct vcpu *v, const struct insn *i) { return write_base(v, i, SEG_GS); }

/* ---- XCR0, protection keys ---------------------------------------------------------------------------------- */

int op_xgetbv(struct vcpu *v, const struct insn *i)
{
	u32 index = (u32)v->gpr[GPR_RCX];

	if (!(v->cr4 & CR4_OSXSAVE))
		return RAISE_UD(v);
	/* XCR0 & XINUSE: everything enabled counts as in use, which software must allow for. */
	if (index != 0 && !(index == 1 && cpu_has(v, FEAT_XGETBV1)))
		return RAISE_GP0(v);
	set_edx_eax(v, v->xcr0);
	return OP_NEXT;
}

int op_xsetbv(struct vcpu *v, const struct insn *i)
{
	int r;

	if (!(v->cr4 & CR4_OSXSAVE))
		return RAISE_UD(v);
	if (v->cpl || (u32)v->gpr[GPR_RCX])
		return RAISE_GP0(v);
	r = cpu_set_xcr0(v, get_edx_eax(v));
	return r ? r : OP_END;
}

int op_rdpkru(struct vcpu *v, const struct insn *i)
{
	if (!(v->cr4 & CR4_PKE))
		return RAISE_UD(v);
	if ((u32)v->gpr[GPR_RCX])
		return RAISE_GP0(v);
	set_edx_eax(v, v->pkru);
	return OP_NEXT;
}

int op_wrpkru(struct vcpu *v, const struct insn *i)
{
	if (!(v->cr4 & CR4_PKE))
		return RAISE_UD(v);
	if ((u32)v->gpr[GPR_RCX] || (u32)v->gpr[GPR_RDX])
		return RAISE_GP0(v);
	if (v->pkru != (u32)v->gpr[GPR_RAX]) {
		v->pkru = (u32)v->gpr[GPR_RAX];
		mmu_flush_all(v); /* rights are part of a cached translation */
	}
	return OP_END;
}

/* ---- caches and TLB -------------------------------------------------------------------------------------------- */

int op_invd(struct vcpu *v, const struct insn *i)
{
	int r = require_cpl0(v);

	return r ? r : OP_NEXT;
}

int op_wbinvd(struct vcpu *v, const struct insn *i)
{
	int r = require_cpl0(v);

	return r ? r : OP_NEXT;
}

/* No limit or canonicality check: an address that cannot be used has nothing to invalidate. */
int op_invlpg(struct vcpu *v, const struct insn *i)
{
	u64 ea = cpu_ea(v, i);
	enum seg seg = insn_seg(i);
	int r = require_cpl0(v);

	if (r)
		return r;
	if (!cpu_code64(v))
		ea = (u32)(ea + v->seg[seg].base);
	else if (seg == SEG_FS || seg == SEG_GS)
		ea += v->seg[seg].base;
	mmu_flush_page(v, ea);
	cpu_serialize(v);
	return OP_END;
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL };

int op_invpcid(struct vcpu *v, const struct insn *i)
{
	u64 type = gpr_get(v, insn_reg(i), cpu_code64(v) ? 8 : 4), d[2];
	int r = require_cpl0(v);

	if (!r)
		r = cpu_read_mem(v, i, d, sizeof(d));
	if (r)
		return r;
	if (type > INVPCID_ALL || d[0] >> 12)
		return RAISE_GP0(v);
	if (type <= INVPCID_CONTEXT && d[0] && !(v->cr4 & CR4_PCIDE))
		return RAISE_GP0(v);
	if (type == INVPCID_ADDRESS && !la_canonical(v, d[1]))
		return RAISE_GP0(v);
	if (type >= INVPCID_ALL_GLOBAL)
		mmu_flush_all(v);
	else if (type == INVPCID_ADDRESS && (!(v->cr4 & CR4_PCIDE) || d[0] == (v->cr3 & 0xfff)))
		mmu_flush_page(v, d[1]);
	else
		mmu_flush_pcid(v, (u16)d[0]);
	cpu_serialize(v);
	return OP_END;
}

/* Faults as a load of one byte does. */
int op_clflush(struct vcpu *v, const struct insn *i)
{
	gva_t la;
	int r = seg_linear(v, insn_seg(i), cpu_ea(v, i), 1, ACC_R, &la);

	return r ? r : lin_probe(v, la, 1, ACC_R);
}

int op_serialize(struct vcpu *v, const struct insn *i)
{
	cpu_serialize(v);
	return OP_END;
}

/* ---- waiting ------------------------------------------------------------------------------------------------ */

/*
 * As in KVM: no-ops, whether CPUID shows them or not, unless user space disabled that quirk.
 * [api.rst 7.31 KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS]
 */
static int monitor_defined(struct vcpu *v)
{
	bool never_ud = !(v->vm->quirks_disabled & QUIRK_MWAIT_NEVER_UD_FAULTS);

	if (v->cpl || (!never_ud && !cpu_has(v, FEAT_MONITOR)))
		return RAISE_UD(v);
	return OP_NEXT;
}

int op_monitor(struct vcpu *v, const struct insn *i)
{
	return monitor_defined(v);
}

int op_mwait(struct vcpu *v, const struct insn *i)
{
	return monitor_defined(v);
}

int op_umonitor(struct vcpu *v, const struct insn *i)
{
	return OP_NEXT;
}

/* Woken at once, for a reason other than the time limit: CF = 0 and the others clear. */
static int wait_nothing(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;

	if (tsc_disabled(v))
		return RAISE_GP0(v);
	flags_merge(v, FLAGS_ARITH, 0);
	if (bus->pause_hint)
		bus->pause_hint(v);
	return OP_NEXT;
}

int op_umwait(struct vcpu *v, const struct insn *i)
{
	return wait_nothing(v);
}

int op_tpause(struct vcpu *v, const struct insn *i)
{
	return wait_nothing(v);
}

/* ---- hypercalls ------------------------------------------------------------------------------------------- */

static int hypercall(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;
	u64 ret = 0;

	if (!bus->hypercall)
		return RAISE_UD(v);
	if (v->hypercall.done) {
		v->hypercall.done = false;
		return OP_END;
	}
	if (bus->hypercall(v, &ret) == -EREMOTE) {
		v->stop = CPU_STOP_HYPERCALL;
		return OP_STOP;
	}
	v->gpr[GPR_RAX] = cpu_code64(v) ? ret : (u32)ret;
	return OP_END;
}

/*
 * The other vendor's instruction is undefined. KVM, unless told not to, writes the right one into the guest's code
 * and lets it run: guests are known to depend on it.
 */
static int wrong_vendor(struct vcpu *v, const struct insn *i)
{
	const u8 right[3] = { 0x0f, 0x01, v->vendor_amd ? 0xd9 : 0xc1 };
	u64 la = v->csz == 8 ? cpu_insn_rip(v, i) : (u32)(v->seg[SEG_CS].base + cpu_insn_rip(v, i));
	int res;

	if ((v->vm->quirks_disabled & QUIRK_FIX_HYPERCALL_INSN) || i->len != sizeof(right))
		return RAISE_UD(v);
	res = lin_write(v, la, right, sizeof(right), ACC_W);
	if (res)
		return res;
	v->rip = cpu_insn_rip(v, i);
	return OP_JUMP;
}

int op_vmcall(struct vcpu *v, const struct insn *i)
{
	return v->vendor_amd ? wrong_vendor(v, i) : hypercall(v);
}

int op_vmmcall(struct vcpu *v, const struct insn *i)
{
	return v->vendor_amd ? hypercall(v) : wrong_vendor(v, i);
}
