/* SPDX-License-Identifier: MIT */
/*
 * L2 state that no VM entry would have let in. L1 could never see it on hardware: user space or an SMM handler put
 * it there. A restricted L2 then ends in a triple fault; an unrestricted one meets the entry checks of hardware.
 * [KVM: nVMX: Synthesize TRIPLE_FAULT for L2 if emulation is required]
 */
#include "cpu/vmx/vmx.h"

#define RPL(v, n) ((v)->seg[n].sel & 3u)
#define V86_AR 0xf3u

static bool usable(const struct segment *s) { return !(s->ar & AR_UNUSABLE); }

/* Real mode counts as virtual-8086: the processor that runs it would be in that mode. */
static bool valid_v86(const struct vcpu *v)
{
	for (unsigned int n = SEG_ES; n <= SEG_GS; n++) {
		const struct segment *s = &v->seg[n];
		u32 ar = (s->ar & 0xffu) | 0x60;

		if (n == SEG_CS)
			ar = (ar & ~0xfu) | 3;
		if (s->base != (u64)s->sel << 4 || s->limit != 0xffff || ar != V86_AR)
			return false;
	}
	return true;
}

static bool valid_cs(const struct vcpu *v)
{
	const struct segment *s = &v->seg[SEG_CS];
	u32 dpl = AR_DPL(s->ar), rpl = RPL(v, SEG_CS);

	if (!usable(s) || !(s->ar & AR_S) || !(s->ar & AR_P) || (s->ar & 9) != 9)
		return false;
	return s->ar & 4 ? dpl <= rpl : dpl == rpl;
}

static bool valid_ss(const struct vcpu *v)
{
	const struct segment *s = &v->seg[SEG_SS];

	if (!usable(s))
		return true;
	return (AR_TYPE(s->ar) == 3 || AR_TYPE(s->ar) == 7) && (s->ar & AR_S) && (s->ar & AR_P) &&
	       AR_DPL(s->ar) == RPL(v, SEG_SS);
}

static bool valid_data(const struct vcpu *v, enum seg n)
{
	const struct segment *s = &v->seg[n];

	if (!usable(s))
		return true;
	if (!(s->ar & AR_S) || !(s->ar & AR_P))
		return false;
	return AR_TYPE(s->ar) >= 12 || AR_DPL(s->ar) >= RPL(v, n);
}

static bool valid_tr(const struct vcpu *v)
{
	const struct segment *s = &v->seg[SEG_TR];

	return usable(s) && !(s->sel & 4) && (AR_TYPE(s->ar) == 3 || AR_TYPE(s->ar) == 11) && (s->ar & AR_P);
}

static bool valid_ldtr(const struct vcpu *v)
{
	const struct segment *s = &v->seg[SEG_LDTR];

	return !usable(s) || (!(s->sel & 4) && AR_TYPE(s->ar) == 2 && (s->ar & AR_P));
}

bool vmx_state_valid(const struct vcpu *v)
{
	if (!cpu_prot(v) || cpu_v86(v))
		return valid_v86(v) && valid_tr(v) && valid_ldtr(v);
	return RPL(v, SEG_CS) == RPL(v, SEG_SS) && valid_cs(v) && valid_ss(v) && valid_data(v, SEG_DS) &&
	       valid_data(v, SEG_ES) && valid_data(v, SEG_FS) && valid_data(v, SEG_GS) && valid_tr(v) && valid_ldtr(v);
}

/* As the hardware below KVM would refuse it, and KVM passes that on. */
static bool refuse_entry(struct vcpu *v)
{
	enum vmcheck_id bad;
	u64 efer;

	vmx_save_guest(v);
	efer = vmcs_get(v->vmx, VMCS_GUEST_IA32_EFER);
	if (!v->vmx->run_pending)
		vmx_injected(v->vmx);
	vmcs_put(v->vmx, VMCS_GUEST_IA32_EFER, v->efer); /* exits need not have saved it */
	bad = vmx_check(v, VMCHECK_GUEST);
	vmcs_put(v->vmx, VMCS_GUEST_IA32_EFER, efer);
	if (bad == VMCHECK_OK)
		return false;
	v->vmx->pending_exit = (struct vmx_exit){ .reason = VMEXIT_INVALID_GUEST_STATE | (u32)VMEXIT_ENTRY_FAILURE,
						  .qualification = vmcheck_qualification(bad) };
	vmx_take_exit(v, NULL);
	return true;
}

static bool cannot_emulate(struct vcpu *v)
{
	cpu_internal(v, INTERNAL_EMULATION);
	return true;
}

static bool exception_pending(const struct vcpu *v)
{
	return v->pending.valid || v->pending_db ||
	       (v->inj.valid && v->inj.type != EVENT_INTR && v->inj.type != EVENT_NMI);
}

/*
 * L1 where the processor below has no unrestricted guests: what it cannot enter KVM emulates until the state is valid
 * again, but for exceptions outside real mode. [KVM: vmx_vcpu_pre_run, handle_invalid_guest_state]
 */
static bool recheck_root(struct vcpu *v)
{
	if (!v->vm->nested.restricted || vmx_state_valid(v)) {
		v->vmx->recheck = RECHECK_NONE;
		return false;
	}
	if (v->vm->nested.not_emulated) {
		v->stop = CPU_STOP_REFUSED;
		return true;
	}
	return cpu_prot(v) && exception_pending(v) && cannot_emulate(v);
}

bool vmx_recheck(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u8 from = x->recheck;

	if (!v->nonroot)
		return recheck_root(v);
	x->recheck = RECHECK_NONE;
	if (vmx_proc2(v, PROC2_UNRESTRICTED) || v->vm->nested.not_emulated || vmx_state_valid(v))
		return refuse_entry(v);
	if (x->run_pending) { /* L1's VM entry has not completed: there is no L2 to end yet */
		x->recheck = from;
		return cannot_emulate(v);
	}
	if (from == RECHECK_RSM && v->vm->nested.rsm_bug) {
		v->stop = CPU_STOP_DEAD;
		return true;
	}
	if (v->vm->bus->l2_invalid)
		v->vm->bus->l2_invalid(v);
	vmx_exit_triple_fault(v);
	return true;
}
