/* SPDX-License-Identifier: MIT */
/* VM exit: save L2, load L1's host state [SDM3C "VM Exits"]. */
#include "cpu/vmx/vmx.h"

#include "cpu/rcache.h"

#define EXIT_HOST_ADDRESS_SPACE_SIZE BIT(9)
#define EXIT_LOAD_EFER BIT(21)

static void save_guest(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	vmcs_put(x, VMCS_GUEST_CR0, v->cr0);
	vmcs_put(x, VMCS_GUEST_CR3, v->cr3);
	vmcs_put(x, VMCS_GUEST_CR4, v->cr4);
	vmcs_put(x, VMCS_GUEST_DR7, v->dr7);
	vmcs_put(x, VMCS_GUEST_RSP, v->gpr[GPR_RSP]);
	vmcs_put(x, VMCS_GUEST_RFLAGS, cpu_rflags(v));
	for (enum seg seg = SEG_ES; seg < SEG_NUM; seg++) {
		const struct segment *s = &v->seg[seg];

		vmcs_put(x, (enum vmcs_field)(VMCS_GUEST_ES_SELECTOR + seg), s->sel);
		vmcs_put(x, (enum vmcs_field)(VMCS_GUEST_ES_LIMIT + seg), s->limit);
		vmcs_put(x, (enum vmcs_field)(VMCS_GUEST_ES_AR_BYTES + seg), s->ar);
		vmcs_put(x, (enum vmcs_field)(VMCS_GUEST_ES_BASE + seg), s->base);
	}
	vmcs_put(x, VMCS_GUEST_GDTR_BASE, v->gdtr.base);
	vmcs_put(x, VMCS_GUEST_GDTR_LIMIT, v->gdtr.limit);
	vmcs_put(x, VMCS_GUEST_IDTR_BASE, v->idtr.base);
	vmcs_put(x, VMCS_GUEST_IDTR_LIMIT, v->idtr.limit);
}

/* Attributes are fixed by the exit, not taken from a descriptor. */
static void host_segment(struct vcpu *v, enum seg seg, u16 sel, u64 base, u32 ar)
{
	v->seg[seg] = (struct segment){ .sel = sel, .base = base, .limit = ~0u,
					.ar = sel || seg == SEG_CS ? ar : AR_UNUSABLE };
}

static void load_host_segments(struct vcpu *v, bool long_mode)
{
	struct vmx *x = v->vmx;
	const u32 data = 0x3 | AR_S | AR_P | AR_DB | AR_G;

	host_segment(v, SEG_CS, (u16)vmcs_get(x, VMCS_HOST_CS_SELECTOR), 0,
		     (u32)(0xb | AR_S | AR_P | AR_G | (long_mode ? AR_L : AR_DB)));
	host_segment(v, SEG_SS, (u16)vmcs_get(x, VMCS_HOST_SS_SELECTOR), 0, data);
	host_segment(v, SEG_DS, (u16)vmcs_get(x, VMCS_HOST_DS_SELECTOR), 0, data);
	host_segment(v, SEG_ES, (u16)vmcs_get(x, VMCS_HOST_ES_SELECTOR), 0, data);
	host_segment(v, SEG_FS, (u16)vmcs_get(x, VMCS_HOST_FS_SELECTOR), vmcs_get(x, VMCS_HOST_FS_BASE),
		     data);
	host_segment(v, SEG_GS, (u16)vmcs_get(x, VMCS_HOST_GS_SELECTOR), vmcs_get(x, VMCS_HOST_GS_BASE),
		     data);
	host_segment(v, SEG_TR, (u16)vmcs_get(x, VMCS_HOST_TR_SELECTOR), vmcs_get(x, VMCS_HOST_TR_BASE),
		     0xb | AR_P);
	v->seg[SEG_TR].limit = 0x67;
	v->seg[SEG_LDTR] = (struct segment){ .ar = AR_UNUSABLE };
	v->fs_base_copy = v->seg[SEG_FS].base;
	v->gs_base_copy = v->seg[SEG_GS].base;
	v->gdtr = (struct dtable){ vmcs_get(x, VMCS_HOST_GDTR_BASE), 0xffff };
	v->idtr = (struct dtable){ vmcs_get(x, VMCS_HOST_IDTR_BASE), 0xffff };
}

static void load_host(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u64 controls = vmcs_get(x, VMCS_VM_EXIT_CONTROLS);
	bool long_mode = controls & EXIT_HOST_ADDRESS_SPACE_SIZE;

	v->cr0 = vmcs_get(x, VMCS_HOST_CR0);
	v->cr3 = vmcs_get(x, VMCS_HOST_CR3);
	v->cr4 = vmcs_get(x, VMCS_HOST_CR4);
	if (controls & EXIT_LOAD_EFER)
		v->efer = vmcs_get(x, VMCS_HOST_IA32_EFER);
	else
		v->efer = (v->efer & ~(u64)(EFER_LMA | EFER_LME)) | (long_mode ? EFER_LMA | EFER_LME : 0);
	load_host_segments(v, long_mode);
	v->cpl = 0;
	v->dr7 = 0x400;
	v->shadow = 0;
	v->gpr[GPR_RSP] = vmcs_get(x, VMCS_HOST_RSP);
	v->rip = vmcs_get(x, VMCS_HOST_RIP);
	cpu_set_rflags(v, FLAG_FIXED);
}

int vmx_exit(struct vcpu *v, u32 reason, u64 qualification, unsigned int insn_len)
{
	struct vmx *x = v->vmx;

	save_guest(v);
	vmcs_put(x, VMCS_GUEST_RIP, v->insn_rip);
	vmcs_put(x, VMCS_VM_EXIT_REASON, reason);
	vmcs_put(x, VMCS_EXIT_QUALIFICATION, qualification);
	vmcs_put(x, VMCS_VM_EXIT_INSTRUCTION_LEN, insn_len);
	vmcs_put(x, VMCS_VM_EXIT_INTR_INFO, 0);
	vmcs_put(x, VMCS_IDT_VECTORING_INFO_FIELD, 0);
	x->nonroot = false;
	load_host(v);
	mmu_cr3_loaded(v, false);
	debug_update(v);
	cpu_mode_update(v);
	return OP_JUMP;
}
