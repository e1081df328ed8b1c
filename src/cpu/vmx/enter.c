/* SPDX-License-Identifier: MIT */
/* VM entry: load L2 from the current VMCS [SDM3C "Loading Guest State"]. */
#include "cpu/vmx/vmx.h"

#include "cpu/msr.h"
#include "cpu/rcache.h"
#include "cpu/tlb.h"

void vmx_load_controls(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	struct vmx_controls *c = &x->c;

	c->pin = (u32)vmcs_get(x, VMCS_PIN_BASED_VM_EXEC_CONTROL);
	c->proc = (u32)vmcs_get(x, VMCS_CPU_BASED_VM_EXEC_CONTROL);
	c->proc2 = c->proc & PROC_SECONDARY ? (u32)vmcs_get(x, VMCS_SECONDARY_VM_EXEC_CONTROL) : 0;
	c->exit = (u32)vmcs_get(x, VMCS_VM_EXIT_CONTROLS);
	c->entry = (u32)vmcs_get(x, VMCS_VM_ENTRY_CONTROLS);
	c->exceptions = (u32)vmcs_get(x, VMCS_EXCEPTION_BITMAP);
	c->pf_mask = (u32)vmcs_get(x, VMCS_PAGE_FAULT_ERROR_CODE_MASK);
	c->pf_match = (u32)vmcs_get(x, VMCS_PAGE_FAULT_ERROR_CODE_MATCH);
	c->eptp = c->proc2 & PROC2_EPT ? vmcs_get(x, VMCS_EPT_POINTER) : 0;
	c->vapic = c->proc & PROC_TPR_SHADOW ? vmcs_get(x, VMCS_VIRTUAL_APIC_PAGE_ADDR) : VMCS_NONE;
	c->apic_access = c->proc2 & PROC2_VAPIC_ACCESS ? vmcs_get(x, VMCS_APIC_ACCESS_ADDR) : VMCS_NONE;
	c->msr_bitmap = c->proc & PROC_MSR_BITMAPS ? vmcs_get(x, VMCS_MSR_BITMAP) : VMCS_NONE;
	c->io_bitmap[0] = vmcs_get(x, VMCS_IO_BITMAP_A);
	c->io_bitmap[1] = vmcs_get(x, VMCS_IO_BITMAP_B);
	c->cr0_mask = vmcs_get(x, VMCS_CR0_GUEST_HOST_MASK);
	c->cr0_shadow = vmcs_get(x, VMCS_CR0_READ_SHADOW);
	c->cr4_mask = vmcs_get(x, VMCS_CR4_GUEST_HOST_MASK);
	c->cr4_shadow = vmcs_get(x, VMCS_CR4_READ_SHADOW);
	c->tsc_offset = c->proc & PROC_TSC_OFFSET ? vmcs_get(x, VMCS_TSC_OFFSET) : 0;
	c->tsc_multiplier = 0;
	if ((c->proc & PROC_TSC_OFFSET) && (c->proc2 & PROC2_TSC_SCALING))
		c->tsc_multiplier = vmcs_get(x, VMCS_TSC_MULTIPLIER);
	c->vpid = c->proc2 & PROC2_VPID ? (u16)vmcs_get(x, VMCS_VIRTUAL_PROCESSOR_ID) : 0;
}

/* ---- guest state ------------------------------------------------------------------------------------- */

static void load_segment(struct vcpu *v, enum seg seg)
{
	struct vmx *x = v->vmx;
	struct segment *s = &v->seg[seg];

	memcpy(&s->sel, vmcs_at(x, VMCS_GUEST_ES_SELECTOR, seg, 2), 2);
	memcpy(&s->limit, vmcs_at(x, VMCS_GUEST_ES_LIMIT, seg, 4), 4);
	memcpy(&s->ar, vmcs_at(x, VMCS_GUEST_ES_AR_BYTES, seg, 4), 4);
	memcpy(&s->base, vmcs_at(x, VMCS_GUEST_ES_BASE, seg, 8), 8);
}

static void load_control_registers(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u64 keep = CR0_NW | CR0_CD | CR0_ET;
	u64 entry = vmcs_get(x, VMCS_VM_ENTRY_CONTROLS);

	v->cr0 = (vmcs_get(x, VMCS_GUEST_CR0) & ~keep) | (v->cr0 & keep);
	v->cr3 = vmcs_get(x, VMCS_GUEST_CR3);
	v->cr4 = vmcs_get(x, VMCS_GUEST_CR4);
	if (entry & ENTRY_LOAD_DEBUG) {
		v->dr7 = (vmcs_get(x, VMCS_GUEST_DR7) & 0xffff2bffu) | DR7_RESET;
		v->msr_val[MSR_SLOT_DEBUGCTL] = vmcs_get(x, VMCS_GUEST_IA32_DEBUGCTL) & BIT(2);
	}
	if (entry & ENTRY_LOAD_EFER) {
		v->efer = vmcs_get(x, VMCS_GUEST_IA32_EFER);
	} else {
		v->efer &= ~EFER_LMA;
		if (entry & ENTRY_IA32E)
			v->efer |= EFER_LMA | EFER_LME;
		else if (v->cr0 & CR0_PG)
			v->efer &= ~EFER_LME;
	}
	if (entry & ENTRY_LOAD_PAT)
		v->msr_val[MSR_SLOT_PAT] = vmcs_get(x, VMCS_GUEST_IA32_PAT);
	v->msr_val[MSR_SLOT_SYSENTER_CS] = vmcs_get(x, VMCS_GUEST_SYSENTER_CS);
	v->msr_val[MSR_SLOT_SYSENTER_ESP] = vmcs_get(x, VMCS_GUEST_SYSENTER_ESP);
	v->msr_val[MSR_SLOT_SYSENTER_EIP] = vmcs_get(x, VMCS_GUEST_SYSENTER_EIP);
}

static bool pae_paging(const struct vcpu *v)
{
	return (v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !(v->efer & EFER_LMA);
}

static void load_pdptes(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	if (!pae_paging(v))
		return;
	if (x->c.proc2 & PROC2_EPT) {
		for (unsigned int n = 0; n < 4; n++)
			v->pdpte[n] = vmcs_get(x, (enum vmcs_field)(VMCS_GUEST_PDPTR0 + n));
	} else {
		(void)mmu_load_pdptes(v); /* checked before */
		v->exc.valid = false;
	}
}

/* Blocking, pending traps, activity [SDM3C "Guest Non-Register State"]. */
static void load_non_register(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u64 blocking = vmcs_get(x, VMCS_GUEST_INTERRUPTIBILITY_INFO);
	u64 dbg = vmcs_get(x, VMCS_GUEST_PENDING_DBG_EXCEPTIONS);

	v->shadow = (u8)((blocking & INTERRUPTIBILITY_STI ? SHADOW_STI : 0) |
			 (blocking & INTERRUPTIBILITY_MOV_SS ? SHADOW_MOV_SS : 0));
	if (x->c.pin & PIN_VNMI)
		x->root_nmi_masked = v->nmi_masked;
	v->nmi_masked = blocking & INTERRUPTIBILITY_NMI;
	v->pending_db = dbg & (DR6_TRAP_BITS | PENDING_DBG_BS | PENDING_DBG_RTM);
	x->activity = (u8)vmcs_get(x, VMCS_GUEST_ACTIVITY_STATE);
	x->mtf_due = false;
}

void vmx_forget_context(struct vmx *x, u16 vpid, u64 ep4ta)
{
	for (unsigned int n = 0; n < TLB_NONROOT; n++)
		if ((!vpid || x->ctx[n].vpid == vpid) && (!ep4ta || x->ctx[n].ep4ta == ep4ta))
			x->ctx[n].valid = false;
}

/* The context of this pair, or the one that was not used for longest. */
static unsigned int find_context(const struct vmx *x, u16 vpid, u64 ep4ta)
{
	unsigned int oldest = 0;

	for (unsigned int n = 0; n < TLB_NONROOT; n++) {
		if (x->ctx[n].vpid == vpid && x->ctx[n].ep4ta == ep4ta)
			return n;
		if (x->ctx[n].used < x->ctx[oldest].used)
			oldest = n;
	}
	return oldest;
}

/*
 * Translations of non-root operation live in TLBs of their own, each for one VPID and one EPT. Without a VPID they are
 * forgotten at each entry. [SDM3C "Caching Translation Information"]
 */
void vmx_switch_context(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u64 ep4ta = x->c.eptp ? EP4TA(x->c.eptp) : 0;
	unsigned int n = find_context(x, x->c.vpid, ep4ta);
	struct vmx_context *c = &x->ctx[n];
	bool same = c->valid && c->vpid && c->vpid == x->c.vpid && c->ep4ta == ep4ta;

	mmu_nonroot_use(v, n);
	mmu_context(v, true);
	if (!same)
		mmu_flush_all(v);
	else if (c->cr3 != v->cr3)
		mmu_flush_nonglobal(v);
	*c = (struct vmx_context){ .valid = true, .vpid = x->c.vpid, .ep4ta = ep4ta, .used = ++x->ctx_clock };
	x->ctx_now = n;
}

void vmx_load_guest(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	v->nonroot = true;
	load_control_registers(v);
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
	load_non_register(v);
	v->ept = x->c.proc2 & PROC2_EPT;
	vmx_switch_context(v);
	load_pdptes(v);
	debug_update(v);
	cpu_mode_update(v);
}

static void start_timer(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u64 ticks;

	x->timer_on = x->c.pin & PIN_TIMER;
	if (!x->timer_on)
		return;
	ticks = vmcs_get(x, VMCS_VMX_PREEMPTION_TIMER_VALUE) << VMX_TIMER_SHIFT;
	x->timer = cpu_tsc_root(v) + ticks;
	if (ticks && v->vm->bus->vmx_timer)
		v->vm->bus->vmx_timer(v, ticks);
}

/* The entry failed after its controls and host state were found good: L1 goes on at its exit handler. */
static int entry_failed(struct vcpu *v, u32 reason, u64 qualification)
{
	struct vmx *x = v->vmx;

	x->pending_exit = (struct vmx_exit){ .reason = reason | (u32)VMEXIT_ENTRY_FAILURE,
					     .qualification = qualification };
	vmx_take_exit(v, NULL);
	return OP_JUMP;
}

static int finish_entry(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	x->run_pending = true;
	x->ple_first = x->ple_last = 0;
	vmx_vapic_evaluate(v);
	start_timer(v);
	vmx_inject(v);
	if (x->c.proc & PROC_MTF)
		debug_update(v);
	atomic_fetch_or(&v->request, REQ_EVENT);
	if ((x->c.proc2 & PROC2_VAPIC_ACCESS) && !mem_slot_find(&v->vm->mem, v->smm, x->c.apic_access)) {
		/* As KVM, which has to map the page. */
		cpu_internal(v, INTERNAL_EMULATION);
	} else if (x->activity == ACTIVITY_HLT && !v->inj.valid && !v->pending_db)
		v->stop = CPU_STOP_HLT;
	return OP_JUMP;
}

int vmx_enter(struct vcpu *v, enum vmx_error *error)
{
	struct vmx *x = v->vmx;
	enum vmcheck_id bad;
	u32 msr;

	if (vmx_check(v, VMCHECK_CONTROLS) != VMCHECK_OK) {
		*error = VMXERR_ENTRY_CONTROLS;
		return OP_NEXT;
	}
	if (vmx_check(v, VMCHECK_HOST) != VMCHECK_OK) {
		*error = VMXERR_ENTRY_HOST;
		return OP_NEXT;
	}
	vmx_load_controls(v);
	x->host_cr3 = v->cr3;
	bad = vmx_check(v, VMCHECK_GUEST);
	if (bad != VMCHECK_OK)
		return entry_failed(v, VMEXIT_INVALID_GUEST_STATE, vmcheck_qualification(bad));
	vmx_load_guest(v);
	msr = vmx_msr_load(v, vmcs_get(x, VMCS_VM_ENTRY_MSR_LOAD_ADDR),
			   (u32)vmcs_get(x, VMCS_VM_ENTRY_MSR_LOAD_COUNT));
	if (msr)
		return entry_failed(v, VMEXIT_MSR_LOADING, msr);
	vmcs_header(x)->launched = 1;
	return finish_entry(v);
}

void vmx_reenter(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	bool root_nmi_masked = x->root_nmi_masked;

	vmx_load_controls(v);
	v->nonroot = true;
	load_non_register(v);
	x->root_nmi_masked = root_nmi_masked;
	if (x->activity == ACTIVITY_HLT) /* SMRAM says that the instruction after HLT is next */
		x->activity = ACTIVITY_ACTIVE;
	vmx_forget_context(x, 0, 0);
	v->ept = x->c.proc2 & PROC2_EPT;
	vmx_switch_context(v);
	x->ple_first = x->ple_last = 0;
	vmx_vapic_evaluate(v);
	x->trap_due = 0;
	if (x->smm.timer_on)
		x->timer_on = x->timer_moved = true;
	else
		start_timer(v);
	atomic_fetch_or(&v->request, REQ_EVENT);
}

void vmx_resume_saved(struct vcpu *v, bool pending, bool mtf)
{
	struct vmx *x = v->vmx;

	vmx_load_controls(v);
	vmx_forget_context(x, 0, 0);
	vmx_load_guest(v);
	x->ple_first = x->ple_last = 0;
	vmx_vapic_evaluate(v);
	x->trap_due = 0;
	start_timer(v);
	x->run_pending = pending;
	if (pending)
		vmx_inject(v);
	x->mtf_due |= mtf;
	atomic_fetch_or(&v->request, REQ_EVENT);
}
