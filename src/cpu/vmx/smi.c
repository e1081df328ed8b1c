/* SPDX-License-Identifier: MIT */
/*
 * System-management mode and VMX operation. As KVM does it: SMI in L2 goes on in L1's SMM without an exit, RSM comes
 * back to L2 before it loads the registers [KVM: vmx_enter_smm, vmx_leave_smm]. Or by the manual (smm=intel): SMI
 * leaves VMX operation and nothing of L1 is loaded, RSM puts right what VMX operation does not allow
 * [SDM3C "Default Treatment of SMIs and SMM with VMX Operation and SMX Operation"].
 */
#include "cpu/vmx/vmx.h"

#define RPL 3u
#define AR_DPL_SHIFT 5

static void suspend(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	x->smm = (struct vmx_smm){
		.vmxe = v->cr4 & CR4_VMXE, .known = true, .v86 = v->rflags & FLAG_VM,
		.ss_dpl = AR_DPL(v->seg[SEG_SS].ar), .timer_on = v->nonroot && x->timer_on,
	};
	if (!v->nonroot)
		return;
	vmx_save_guest(v);
	vmx_leave_nonroot(v);
}

void vmx_smi(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	x->smm_nonroot = v->nonroot;
	if (v->vm->nested.smm_intel)
		suspend(v);
	else
		vmx_leave_quietly(v);
	x->smm_on = x->on;
	x->on = false;
}

void vmx_rsm(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	if (!x->smm_on)
		return;
	x->on = true;
	x->smm_on = false;
	if (!x->smm_nonroot)
		return;
	x->smm_nonroot = false;
	if (v->vm->nested.smm_intel)
		vmx_reenter(v);
	else
		vmx_resume_saved(v, false, false);
	x->recheck = RECHECK_RSM;
}

/* ---- the manual's RSM -------------------------------------------------------------------------------- */

static bool unrestricted(const struct vmx *x)
{
	return (vmcs_get(x, VMCS_CPU_BASED_VM_EXEC_CONTROL) & PROC_SECONDARY) &&
	       (vmcs_get(x, VMCS_SECONDARY_VM_EXEC_CONTROL) & PROC2_UNRESTRICTED);
}

/* "VMX-critical state": it does not come from SMRAM. */
static void restore_critical(const struct vmx *x, const struct vmx_rsm_state *s)
{
	u32 dpl = AR_DPL(s->ss->ar);
	bool v86 = *s->rflags & FLAG_VM;

	if (x->smm_nonroot) {
		dpl = AR_DPL(vmcs_get(x, VMCS_GUEST_SS_AR_BYTES));
		v86 = vmcs_get(x, VMCS_GUEST_RFLAGS) & FLAG_VM;
	} else if (x->smm.known) {
		dpl = x->smm.ss_dpl;
		v86 = x->smm.v86;
	}
	s->ss->ar = (s->ss->ar & ~(u32)(RPL << AR_DPL_SHIFT)) | dpl << AR_DPL_SHIFT;
	*s->rflags = (*s->rflags & ~(u64)FLAG_VM) | (v86 ? FLAG_VM : 0);
}

bool vmx_rsm_default(const struct vcpu *v, const struct vmx_rsm_state *s)
{
	const struct vmx *x = v->vmx;
	bool free_mode = x->smm_nonroot && unrestricted(x);
	u32 rpl;

	if (*s->cr4 & CR4_VMXE)
		return false;
	if (x->smm.vmxe || x->smm_on)
		*s->cr4 |= CR4_VMXE;
	if (!x->smm_on)
		return true;
	restore_critical(x, s);
	*s->cr0 |= CR0_NE | (free_mode ? 0 : CR0_PE | CR0_PG);
	if (free_mode || (*s->rflags & FLAG_VM))
		return true;
	rpl = AR_DPL(s->ss->ar);
	s->cs->sel = (u16)((s->cs->sel & ~RPL) | rpl);
	s->ss->sel = (u16)((s->ss->sel & ~RPL) | rpl);
	return true;
}
