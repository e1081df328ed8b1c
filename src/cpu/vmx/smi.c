/* SPDX-License-Identifier: MIT */
/*
 * System-management mode and VMX operation, as KVM does it: SMI in L2 goes on in L1's SMM without an exit, RSM comes
 * back to L2 before it loads the registers. [KVM: vmx_enter_smm, vmx_leave_smm]
 */
#include "cpu/vmx/vmx.h"

void vmx_smi(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	x->smm_nonroot = v->nonroot;
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
	vmx_resume_saved(v, false, false);
	x->recheck = true;
}
