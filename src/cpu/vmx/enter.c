/* SPDX-License-Identifier: MIT */
/* VM entry: load L2 from the current VMCS [SDM3C "Loading Guest State"]. */
#include "cpu/vmx/vmx.h"

#include "cpu/rcache.h"

#define ENTRY_IA32E_MODE BIT(9)
#define ENTRY_LOAD_PAT BIT(14)
#define ENTRY_LOAD_EFER BIT(15)

static void load_segment(struct vcpu *v, enum seg seg)
{
	/* The four fields of a segment are laid out by segment number, two encodings apart. */
	struct vmx *x = v->vmx;
	struct segment *s = &v->seg[seg];

	s->sel = (u16)vmcs_get(x, (enum vmcs_field)(VMCS_GUEST_ES_SELECTOR + seg));
	s->limit = (u32)vmcs_get(x, (enum vmcs_field)(VMCS_GUEST_ES_LIMIT + seg));
	s->ar = (u32)vmcs_get(x, (enum vmcs_field)(VMCS_GUEST_ES_AR_BYTES + seg));
	s->base = vmcs_get(x, (enum vmcs_field)(VMCS_GUEST_ES_BASE + seg));
}

static void load_control_registers(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u64 keep = CR0_NW | CR0_CD | CR0_ET;
	u64 entry = vmcs_get(x, VMCS_VM_ENTRY_CONTROLS);

	v->cr0 = (vmcs_get(x, VMCS_GUEST_CR0) & ~keep) | (v->cr0 & keep);
	v->cr3 = vmcs_get(x, VMCS_GUEST_CR3);
	v->cr4 = vmcs_get(x, VMCS_GUEST_CR4);
	if (entry & ENTRY_LOAD_EFER) {
		v->efer = vmcs_get(x, VMCS_GUEST_IA32_EFER);
	} else {
		v->efer &= ~(u64)(EFER_LMA | EFER_LME);
		if (entry & ENTRY_IA32E_MODE)
			v->efer |= EFER_LMA | EFER_LME;
	}
}

int vmx_enter(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	load_control_registers(v);
	v->dr7 = vmcs_get(x, VMCS_GUEST_DR7);
	for (enum seg seg = SEG_ES; seg < SEG_NUM; seg++)
		load_segment(v, seg);
	v->fs_base_copy = v->seg[SEG_FS].base;
	v->gs_base_copy = v->seg[SEG_GS].base;
	v->gdtr.base = vmcs_get(x, VMCS_GUEST_GDTR_BASE);
	v->gdtr.limit = (u16)vmcs_get(x, VMCS_GUEST_GDTR_LIMIT);
	v->idtr.base = vmcs_get(x, VMCS_GUEST_IDTR_BASE);
	v->idtr.limit = (u16)vmcs_get(x, VMCS_GUEST_IDTR_LIMIT);
	v->gpr[GPR_RSP] = vmcs_get(x, VMCS_GUEST_RSP);
	v->rip = vmcs_get(x, VMCS_GUEST_RIP);
	cpu_set_rflags(v, vmcs_get(x, VMCS_GUEST_RFLAGS));
	v->cpl = AR_DPL(v->seg[SEG_SS].ar);
	x->nonroot = true;
	mmu_cr3_loaded(v, false);
	debug_update(v);
	cpu_mode_update(v);
	return OP_JUMP;
}
