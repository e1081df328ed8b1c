/* SPDX-License-Identifier: MIT */
/* VM exit: save L2, load L1's host state [SDM3C "VM Exits"]. */
#include "cpu/vmx/vmx.h"

#include "cpu/deliver.h"
#include "cpu/msr.h"
#include "cpu/rcache.h"
#include "cpu/tlb.h"

/* ---- raising --------------------------------------------------------------------------------------- */

int vmx_raise(struct vcpu *v, u32 reason, u64 qualification)
{
	v->vmx->pending_exit = (struct vmx_exit){ .reason = reason, .qualification = qualification };
	v->exc = (struct event){ .valid = true, .type = EVENT_VMEXIT };
	return OP_EXC;
}

int vmx_raise_insn(struct vcpu *v, const struct insn *i, u32 reason, u64 qualification)
{
	vmx_raise(v, reason, qualification);
	v->vmx->pending_exit.insn_len = i->len;
	return OP_EXC;
}

/* ---- saving guest state ------------------------------------------------------------------------------ */

static u64 saved_pending_debug(const struct vcpu *v)
{
	u64 bits = v->pending_db & (DR6_TRAP_BITS | PENDING_DBG_BS | PENDING_DBG_RTM);

	return bits & DR6_TRAP_BITS ? bits | PENDING_DBG_ENABLED : bits;
}

static void save_non_register(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u64 blocking = (v->shadow & SHADOW_STI ? INTERRUPTIBILITY_STI : 0) |
		       (v->shadow & SHADOW_MOV_SS ? INTERRUPTIBILITY_MOV_SS : 0) |
		       (v->nmi_masked ? INTERRUPTIBILITY_NMI : 0);

	vmcs_put(x, VMCS_GUEST_INTERRUPTIBILITY_INFO, blocking);
	vmcs_put(x, VMCS_GUEST_ACTIVITY_STATE, x->activity);
	vmcs_put(x, VMCS_GUEST_PENDING_DBG_EXCEPTIONS, saved_pending_debug(v));
	if (x->timer_on && (x->c.exit & EXIT_SAVE_TIMER)) {
		u64 now = cpu_tsc_root(v);

		vmcs_put(x, VMCS_VMX_PREEMPTION_TIMER_VALUE, now < x->timer ? (x->timer - now) >> VMX_TIMER_SHIFT : 0);
	}
}

static void save_segments(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	for (enum seg seg = SEG_ES; seg < SEG_NUM; seg++) {
		const struct segment *s = &v->seg[seg];

		memcpy(vmcs_at(x, VMCS_GUEST_ES_SELECTOR, seg, 2), &s->sel, 2);
		memcpy(vmcs_at(x, VMCS_GUEST_ES_LIMIT, seg, 4), &s->limit, 4);
		memcpy(vmcs_at(x, VMCS_GUEST_ES_AR_BYTES, seg, 4), &s->ar, 4);
		memcpy(vmcs_at(x, VMCS_GUEST_ES_BASE, seg, 8), &s->base, 8);
	}
	vmcs_put(x, VMCS_GUEST_GDTR_BASE, v->gdtr.base);
	vmcs_put(x, VMCS_GUEST_GDTR_LIMIT, v->gdtr.limit);
	vmcs_put(x, VMCS_GUEST_IDTR_BASE, v->idtr.base);
	vmcs_put(x, VMCS_GUEST_IDTR_LIMIT, v->idtr.limit);
}

void vmx_save_guest(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	vmcs_put(x, VMCS_GUEST_CR0, v->cr0);
	vmcs_put(x, VMCS_GUEST_CR3, v->cr3);
	vmcs_put(x, VMCS_GUEST_CR4, v->cr4);
	vmcs_put(x, VMCS_GUEST_SYSENTER_CS, v->msr_val[MSR_SLOT_SYSENTER_CS]);
	vmcs_put(x, VMCS_GUEST_SYSENTER_ESP, v->msr_val[MSR_SLOT_SYSENTER_ESP]);
	vmcs_put(x, VMCS_GUEST_SYSENTER_EIP, v->msr_val[MSR_SLOT_SYSENTER_EIP]);
	if (x->c.exit & EXIT_SAVE_DEBUG) {
		vmcs_put(x, VMCS_GUEST_DR7, v->dr7);
		vmcs_put(x, VMCS_GUEST_IA32_DEBUGCTL, v->msr_val[MSR_SLOT_DEBUGCTL]);
	}
	if (x->c.exit & EXIT_SAVE_PAT)
		vmcs_put(x, VMCS_GUEST_IA32_PAT, v->msr_val[MSR_SLOT_PAT]);
	if (x->c.exit & EXIT_SAVE_EFER)
		vmcs_put(x, VMCS_GUEST_IA32_EFER, v->efer);
	if (x->c.proc2 & PROC2_UNRESTRICTED) {
		u64 entry = vmcs_get(x, VMCS_VM_ENTRY_CONTROLS) & ~(u64)ENTRY_IA32E;

		vmcs_put(x, VMCS_VM_ENTRY_CONTROLS, entry | (v->efer & EFER_LMA ? ENTRY_IA32E : 0));
	}
	vmcs_put(x, VMCS_GUEST_RSP, v->gpr[GPR_RSP]);
	vmcs_put(x, VMCS_GUEST_RIP, v->rip);
	vmcs_put(x, VMCS_GUEST_RFLAGS, cpu_rflags(v));
	save_segments(v);
	if (x->c.proc2 & PROC2_EPT) {
		for (unsigned int n = 0; n < 4; n++)
			vmcs_put(x, (enum vmcs_field)(VMCS_GUEST_PDPTR0 + n), v->pdpte[n]);
	}
	save_non_register(v);
}

/* ---- loading host state ------------------------------------------------------------------------------ */

/* Attributes are fixed by the exit [SDM3C "Loading Host Segment and Descriptor-Table Registers"]. */
static void host_segment(struct vcpu *v, enum seg seg, u16 sel, u64 base, u32 ar)
{
	v->seg[seg] = (struct segment){ .sel = sel, .base = base, .limit = ~0u,
					.ar = sel || seg == SEG_CS ? ar : ar | (u32)AR_UNUSABLE };
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

static void load_host_control(struct vcpu *v, u64 controls, bool long_mode)
{
	struct vmx *x = v->vmx;
	u64 keep = CR0_ET | CR0_CD | CR0_NW;

	v->cr0 = (vmcs_get(x, VMCS_HOST_CR0) & ~keep) | (v->cr0 & keep);
	v->cr3 = vmcs_get(x, VMCS_HOST_CR3);
	v->cr4 = vmcs_get(x, VMCS_HOST_CR4);
	if (long_mode)
		v->cr4 |= CR4_PAE;
	else
		v->cr4 &= ~CR4_PCIDE;
	if (controls & EXIT_LOAD_EFER)
		v->efer = vmcs_get(x, VMCS_HOST_IA32_EFER);
	else
		v->efer = (v->efer & ~(u64)(EFER_LMA | EFER_LME)) | (long_mode ? EFER_LMA | EFER_LME : 0);
	if (controls & EXIT_LOAD_PAT)
		v->msr_val[MSR_SLOT_PAT] = vmcs_get(x, VMCS_HOST_IA32_PAT);
	v->msr_val[MSR_SLOT_SYSENTER_CS] = vmcs_get(x, VMCS_HOST_IA32_SYSENTER_CS);
	v->msr_val[MSR_SLOT_SYSENTER_ESP] = vmcs_get(x, VMCS_HOST_IA32_SYSENTER_ESP);
	v->msr_val[MSR_SLOT_SYSENTER_EIP] = vmcs_get(x, VMCS_HOST_IA32_SYSENTER_EIP);
	v->msr_val[MSR_SLOT_DEBUGCTL] = 0;
	v->dr7 = DR7_RESET;
}

void vmx_leave_nonroot(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	x->ctx[x->ctx_now].cr3 = v->cr3;
	v->nonroot = false;
	x->run_pending = false;
	x->timer_on = false;
	x->mtf_due = false;
	x->trap_due = 0;
	x->virtual_intr = false;
	v->ept = false;
	v->shadow = v->shadow_now = 0;
	v->pending_db = 0;
	v->step_tf = false;
	v->inj.valid = v->exc.valid = false;
	v->deliver_start = 0;
	mmu_context(v, false);
}

static void load_host(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u64 controls = vmcs_get(x, VMCS_VM_EXIT_CONTROLS);
	bool long_mode = controls & EXIT_HOST_64;

	load_host_control(v, controls, long_mode);
	load_host_segments(v, long_mode);
	v->cpl = 0;
	v->gpr[GPR_RSP] = vmcs_get(x, VMCS_HOST_RSP);
	v->rip = vmcs_get(x, VMCS_HOST_RIP);
	cpu_set_rflags(v, FLAG_FIXED);
	if (!x->c.vpid)
		mmu_flush_all(v);
	else if (v->cr3 != x->host_cr3)
		mmu_flush_nonglobal(v);
	cpu_mode_update(v);
	if ((v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !long_mode && mmu_load_pdptes(v)) {
		v->exc.valid = false;
		vmx_abort(v, VM_ABORT_PDPTE);
	}
	debug_update(v);
}

/* The processor shuts down; the indicator tells why [SDM3C "VMX Aborts"]. */
void vmx_abort(struct vcpu *v, u32 indicator)
{
	struct vmx *x = v->vmx;

	vmcs_header(x)->abort = indicator;
	vmcs_sync(v);
	x->aborted = true;
	v->stop = CPU_STOP_SHUTDOWN;
}

/* ---- information about the exit ------------------------------------------------------------------------ */

static u32 event_info(const struct event *ev)
{
	u32 info = ev->vector | (u32)ev->type << 8 | (u32)INTR_INFO_VALID;

	return ev->has_error ? info | (u32)INTR_INFO_ERROR : info;
}

/*
 * L1 is not offered bus-lock detection. Linux all the same hands it the whole exit reason of an exit that it
 * takes, bit 26 included.
 */
static u32 bus_lock_bit(const struct vcpu *v)
{
	return v->vm->nested.bus_lock_bit && (v->bus_lock & BUS_LOCK_DONE) ? (u32)BIT(26) : 0;
}

static void write_info(struct vcpu *v, const struct vmx_exit *e, const struct event *vectoring)
{
	struct vmx *x = v->vmx;

	vmcs_put(x, VMCS_VM_EXIT_REASON, e->reason | bus_lock_bit(v));
	vmcs_put(x, VMCS_EXIT_QUALIFICATION, e->qualification);
	vmcs_put(x, VMCS_VM_EXIT_INTR_INFO, e->intr_info);
	if (e->intr_info & INTR_INFO_ERROR)
		vmcs_put(x, VMCS_VM_EXIT_INTR_ERROR_CODE, e->intr_error);
	vmcs_put(x, VMCS_VM_EXIT_INSTRUCTION_LEN, e->insn_len);
	vmcs_put(x, VMCS_VMX_INSTRUCTION_INFO, e->insn_info);
	vmcs_put(x, VMCS_IDT_VECTORING_INFO_FIELD, 0);
	if (e->has_gla)
		vmcs_put(x, VMCS_GUEST_LINEAR_ADDRESS, e->gla);
	if (e->has_gpa)
		vmcs_put(x, VMCS_GUEST_PHYSICAL_ADDRESS, e->gpa);
	if (!vectoring)
		return;
	vmcs_put(x, VMCS_IDT_VECTORING_INFO_FIELD, event_info(vectoring));
	if (vectoring->has_error)
		vmcs_put(x, VMCS_IDT_VECTORING_ERROR_CODE, vectoring->error);
	if (vectoring->insn_len)
		vmcs_put(x, VMCS_VM_EXIT_INSTRUCTION_LEN, vectoring->insn_len);
	/* An NMI whose delivery was interrupted blocks nothing yet. */
}

static void fail_entry(struct vcpu *v, const struct vmx_exit *e)
{
	struct vmx *x = v->vmx;

	vmcs_put(x, VMCS_VM_EXIT_REASON, e->reason);
	vmcs_put(x, VMCS_EXIT_QUALIFICATION, e->qualification);
}

void vmx_take_exit(struct vcpu *v, const struct event *vectoring)
{
	struct vmx *x = v->vmx;
	const struct vmx_exit e = x->pending_exit;
	bool failed_entry = e.reason & VMEXIT_ENTRY_FAILURE;
	bool nmi = e.reason == VMEXIT_EXCEPTION_NMI && (e.intr_info & 0x7ff) == (EXC_NMI | EVENT_NMI << 8);
	bool root_nmi_masked = x->c.pin & PIN_VNMI ? x->root_nmi_masked : v->nmi_masked;

	if (failed_entry) {
		fail_entry(v, &e);
	} else {
		if (e.rf)
			v->rflags |= FLAG_RF;
		write_info(v, &e, vectoring);
		vmx_save_guest(v);
		vmx_injected(x);
		if (vmx_msr_store(v, vmcs_get(x, VMCS_VM_EXIT_MSR_STORE_ADDR),
				  (u32)vmcs_get(x, VMCS_VM_EXIT_MSR_STORE_COUNT)))
			vmx_abort(v, VM_ABORT_MSR_SAVE);
	}
	if (v->nonroot) {
		vmx_leave_nonroot(v);
		v->nmi_masked = root_nmi_masked || nmi;
	}
	load_host(v);
	if (vmx_msr_load(v, vmcs_get(x, VMCS_VM_EXIT_MSR_LOAD_ADDR),
			 (u32)vmcs_get(x, VMCS_VM_EXIT_MSR_LOAD_COUNT)))
		vmx_abort(v, VM_ABORT_MSR_LOAD);
	atomic_fetch_or(&v->request, REQ_EVENT);
}

void vmx_exit_now(struct vcpu *v, u32 reason, u64 qualification)
{
	vmx_raise(v, reason, qualification);
	v->exc.valid = false;
	vmx_take_exit(v, NULL);
}

void vmx_exit_triple_fault(struct vcpu *v)
{
	vmx_exit_now(v, VMEXIT_TRIPLE_FAULT, 0);
}

void vmx_leave_quietly(struct vcpu *v)
{
	if (!v->nonroot)
		return;
	vmx_save_guest(v);
	vmx_leave_nonroot(v);
	load_host(v);
}

void vmx_reset(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	if (v->nonroot)
		vmx_leave_quietly(v);
	x->on = x->aborted = false;
	vmx_forget_context(x, 0, 0);
	x->smm_on = x->smm_nonroot = false;
	x->smm = (struct vmx_smm){ 0 };
	x->vmxon_gpa = x->vmcs_gpa = VMCS_NONE;
}
