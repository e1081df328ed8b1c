/* SPDX-License-Identifier: MIT */
/*
 * Events in VMX non-root operation: which ones L1 takes, and what it waits for at instruction boundaries.
 * [SDM3C "Other Causes of VM Exits", "Changes to Instruction Behavior in VMX Non-Root Operation"]
 */
#include "cpu/vmx/vmx.h"

#include "cpu/deliver.h"
#include "cpu/msr.h"

/* ---- exceptions ------------------------------------------------------------------------------------- */

static bool exception_exits(const struct vcpu *v, const struct event *ev)
{
	const struct vmx_controls *c = &v->vmx->c;
	bool bit = c->exceptions >> (ev->vector & 31) & 1;

	if (ev->vector != EXC_PF)
		return bit;
	return ((ev->error & c->pf_mask) == c->pf_match) == bit;
}

static u64 exception_qualification(const struct vcpu *v, const struct event *ev)
{
	if (ev->vector == EXC_PF)
		return ev->has_payload ? ev->payload : v->cr2;
	if (ev->vector == EXC_DB && ev->type == EVENT_HARD_EXC && ev->has_payload)
		return ev->payload;
	return 0;
}

/* Did the running instruction, an IRET, end NMI blocking? Then the exit says so. */
static u32 nmi_unblocked(const struct vcpu *v, const struct event *ev, const struct event *vectoring)
{
	return v->vmx->nmi_unblocked && !vectoring && ev->vector != EXC_DF ? (u32)INTR_INFO_NMI_UNBLOCKED : 0;
}

static void exit_exception(struct vcpu *v, const struct event *ev, const struct event *vectoring)
{
	struct vmx_exit *e = &v->vmx->pending_exit;

	*e = (struct vmx_exit){ .reason = VMEXIT_EXCEPTION_NMI, .qualification = exception_qualification(v, ev),
				.insn_len = ev->insn_len, .intr_error = (u16)ev->error };
	e->intr_info = ev->vector | (u32)ev->type << 8 | (u32)INTR_INFO_VALID |
		       (ev->has_error ? (u32)INTR_INFO_ERROR : 0) | nmi_unblocked(v, ev, vectoring);
	e->rf = ev->type == EVENT_HARD_EXC && exc_is_fault(ev->vector);
	/* A double fault is not the delivery of the event it began with. */
	vmx_take_exit(v, ev->vector == EXC_DF && ev->type == EVENT_HARD_EXC ? NULL : vectoring);
}

static void exit_interrupt(struct vcpu *v, u8 vector, bool acknowledged)
{
	v->vmx->pending_exit = (struct vmx_exit){
		.reason = VMEXIT_EXTERNAL_INTERRUPT,
		.intr_info = acknowledged ? vector | (u32)INTR_INFO_VALID : 0,
	};
	vmx_take_exit(v, NULL);
}

bool vmx_intercept_event(struct vcpu *v, const struct event *ev, const struct event *vectoring)
{
	const struct event copy = *ev;
	const struct event by = vectoring ? *vectoring : (struct event){ 0 };

	if (ev->sure)
		return false;
	switch (ev->type) {
	case EVENT_INTR:
		/* Only user space's KVM_INTERRUPT comes this way. */
		if (vectoring || !(v->vmx->c.pin & PIN_EXT_INTR))
			return false;
		exit_interrupt(v, copy.vector, v->vmx->c.exit & EXIT_ACK_INTR);
		return true;
	case EVENT_HARD_EXC:
	case EVENT_SOFT_EXC:
	case EVENT_PRIV_SOFT:
		if (!exception_exits(v, ev))
			return false;
		exit_exception(v, &copy, vectoring ? &by : NULL);
		return true;
	default:
		return false;
	}
}

/* ---- interrupts and NMIs ------------------------------------------------------------------------------- */

bool vmx_takes_intr(const struct vcpu *v)
{
	return v->nonroot && (v->vmx->c.pin & PIN_EXT_INTR);
}

static void posted_eoi(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;
	u32 zero = 0;

	if (v->apic_base & BIT(10))
		(void)bus->wrmsr(v, 0x80b, 0);
	else
		(void)bus->mmio_write(v, (v->apic_base & PAGE_MASK) + 0xb0, 4, &zero);
}

bool vmx_wants_intr(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;
	struct vmx *x = v->vmx;
	int vector = 0;

	if (!(x->c.pin & PIN_EXT_INTR) || bus->intr_pending(v) < 0)
		return false;
	if (x->c.exit & EXIT_ACK_INTR) {
		vector = bus->intr_ack(v);
		if (vector < 0)
			return false;
		if ((x->c.pin & PIN_POSTED) && (u64)vector == vmcs_get(x, VMCS_POSTED_INTR_NV)) {
			posted_eoi(v);
			vmx_posted_process(v);
			return true;
		}
	}
	exit_interrupt(v, (u8)vector, x->c.exit & EXIT_ACK_INTR);
	return true;
}

bool vmx_wants_nmi(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	if (!(x->c.pin & PIN_NMI) || (v->shadow & SHADOW_MOV_SS))
		return false;
	if (x->c.pin & PIN_VNMI ? x->root_nmi_masked : v->nmi_masked)
		return false;
	v->nmi_pending = v->nmi_count > 0;
	v->nmi_count = 0;
	x->pending_exit = (struct vmx_exit){
		.reason = VMEXIT_EXCEPTION_NMI,
		.intr_info = EXC_NMI | EVENT_NMI << 8 | (u32)INTR_INFO_VALID,
	};
	vmx_take_exit(v, NULL);
	return true;
}

int vmx_virtual_intr(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	if (!x->virtual_intr || !(v->rflags & FLAG_IF) || v->shadow || (x->c.proc & PROC_INTR_WINDOW))
		return -1;
	return vmx_vapic_ack(v);
}

/* ---- boundaries ------------------------------------------------------------------------------------------ */

bool vmx_boundary_first(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	if (x->trap_due) {
		u32 reason = x->trap_due;

		x->trap_due = 0;
		vmx_exit_now(v, reason, x->trap_qualification);
		return true;
	}
	if (x->mtf_due) {
		x->mtf_due = false;
		vmx_exit_now(v, VMEXIT_MTF, 0);
		return true;
	}
	return false;
}

#define TIMER_NEAR (1ull << 20) /* TSC ticks */

/* The wake-up comes by another clock than the TSC: when it came too early, there must be one more. */
static bool timer_expired(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u64 left;

	if (!x->timer_on)
		return false;
	left = x->timer - cpu_tsc_root(v);
	if ((s64)left <= 0)
		return true;
	if (v->vm->bus->vmx_timer && (left < TIMER_NEAR || x->timer_moved))
		v->vm->bus->vmx_timer(v, left);
	x->timer_moved = false;
	return false;
}

bool vmx_boundary(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	if (timer_expired(v)) {
		vmcs_put(x, VMCS_VMX_PREEMPTION_TIMER_VALUE, 0);
		vmx_exit_now(v, VMEXIT_PREEMPTION_TIMER, 0);
		return true;
	}
	if ((x->c.proc & PROC_NMI_WINDOW) && !v->nmi_masked && !v->shadow) {
		vmx_exit_now(v, VMEXIT_NMI_WINDOW, 0);
		return true;
	}
	if (v->nmi_pending && vmx_wants_nmi(v))
		return true;
	if ((x->c.proc & PROC_INTR_WINDOW) && (v->rflags & FLAG_IF) && !v->shadow && x->activity <= ACTIVITY_HLT) {
		vmx_exit_now(v, VMEXIT_INTERRUPT_WINDOW, 0);
		return true;
	}
	return false;
}

bool vmx_wakes(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	if (!v->nonroot)
		return false;
	if (timer_expired(v))
		return true;
	if ((x->c.pin & PIN_NMI) && v->nmi_pending)
		return true;
	if ((x->c.proc & PROC_NMI_WINDOW) && !v->nmi_masked)
		return true;
	if (x->activity == ACTIVITY_SHUTDOWN)
		return false;
	if (x->trap_due || x->mtf_due)
		return true;
	if ((v->rflags & FLAG_IF) && (x->virtual_intr || (x->c.proc & PROC_INTR_WINDOW)))
		return true;
	return vmx_takes_intr(v) && v->vm->bus->intr_pending(v) >= 0;
}

/* ---- injection ------------------------------------------------------------------------------------------- */

/* [SDM3C "Event Injection"] */
void vmx_inject(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u32 info = (u32)vmcs_get(x, VMCS_VM_ENTRY_INTR_INFO_FIELD);
	u8 type = info >> 8 & 7;

	if (!(info & INTR_INFO_VALID))
		return;
	if (type == INTR_TYPE_OTHER) {
		x->mtf_due = true;
		return;
	}
	v->inj = (struct event){ .valid = true, .sure = true, .vector = (u8)info, .type = type };
	if (info & INTR_INFO_ERROR) {
		v->inj.has_error = true;
		v->inj.error = (u32)vmcs_get(x, VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE);
	}
	if (type >= EVENT_SOFT_INT)
		v->inj.insn_len = (u8)vmcs_get(x, VMCS_VM_ENTRY_INSTRUCTION_LEN);
	x->activity = ACTIVITY_ACTIVE;
}
