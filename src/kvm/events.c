/* SPDX-License-Identifier: MIT */
/*
 * Pending and injected events, multiprocessing state.
 */
#include "kvm/kvm.h"
#include "cpu/vmx/vmx.h"

#include <errno.h>
#include <string.h>

#include "cpu/deliver.h"
#include "cpu/smm.h"

#define EVENT_FLAGS                                                                           \
	(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |                  \
	 KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD | \
	 KVM_VCPUEVENT_VALID_TRIPLE_FAULT)

static bool is_exception(const struct event *e)
{
	return e->valid && (e->type == EVENT_HARD_EXC || e->type == EVENT_SOFT_EXC ||
			    e->type == EVENT_PRIV_SOFT);
}

bool events_exception_pending(const struct kvm_vcpu *k)
{
	return k->v->pending.valid || k->v->pending_db || is_exception(&k->v->inj);
}

/* ---- what src/irq latched for us ----------------------------------------------------------------------- */

static void queue_nmi(struct vcpu *v)
{
	/* One being handled or masked leaves room for one more: two NMIs, no third. */
	if (v->nmi_pending)
		v->nmi_count = 1;
	v->nmi_pending = true;
}

u32 events_sync(struct kvm_vcpu *k)
{
	u32 ev = irq_sync_events(k->v, &k->eoi_vector);

	if (ev & IRQ_EV_NMI)
		queue_nmi(k->v);
	if (ev & IRQ_EV_NMI2)
		queue_nmi(k->v);
	if (ev & IRQ_EV_SMI)
		k->v->smi_pending = true;
	if (ev & IRQ_EV_UNHALT)
		k->pv_unhalted = true;
	return ev & ~(u32)(IRQ_EV_NMI | IRQ_EV_NMI2 | IRQ_EV_SMI | IRQ_EV_UNHALT);
}

static void take_init(struct kvm_vcpu *k)
{
	vcpu_reset(k->v, true);
	lapic_reset(k->v, true);
	pvclock_reset(k);
	kvm_cpuid_runtime(k, k->v->cpuid, k->v->ncpuid);
	k->mp_state = irqchip_is_bsp(k->v) ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
}

/* [SDM3A "MP Initialization Protocol Algorithm for MP Systems"] */
static void take_sipi(struct kvm_vcpu *k, u8 vector)
{
	struct segment *cs = &k->v->seg[SEG_CS];

	cs->sel = (u16)(vector << 8);
	cs->base = (u64)vector << 12;
	k->v->rip = 0;
	cpu_mode_update(k->v);
	k->mp_state = KVM_MP_STATE_RUNNABLE;
}

/* L1 is told of INIT, and of a SIPI that L2 waits for; while it waits INIT is blocked. */
static void exit_l2(struct kvm_vcpu *k, u32 ev, u8 vector)
{
	bool waits = k->mp_state == KVM_MP_STATE_INIT_RECEIVED;

	if (ev & LAPIC_SIPI)
		lapic_clear_events(k->v, LAPIC_SIPI);
	if (waits ? !(ev & LAPIC_SIPI) : !(ev & LAPIC_INIT))
		return;
	if (!waits)
		lapic_clear_events(k->v, LAPIC_INIT);
	else
		k->v->vmx->activity = ACTIVITY_SIPI;
	cpu_enter_guest(k->v);
	vmx_exit_now(k->v, waits ? VMEXIT_SIPI : VMEXIT_INIT, waits ? vector : 0);
	cpu_leave_guest(k->v);
	k->mp_state = KVM_MP_STATE_RUNNABLE;
}

void events_accept_init_sipi(struct kvm_vcpu *k)
{
	u8 vector = 0;
	u32 ev;

	if (!kvm_has_lapic(k))
		return;
	ev = lapic_pending_init_sipi(k->v, &vector);
	if (!ev)
		return;
	if (k->v->vmx->on && !k->v->nonroot) { /* VMX root operation blocks INIT and ignores SIPI */
		lapic_clear_events(k->v, LAPIC_SIPI);
		return;
	}
	if (k->v->nonroot) {
		exit_l2(k, ev, vector);
		return;
	}
	if (k->v->smm) { /* INIT stays latched, SIPI is lost */
		lapic_clear_events(k->v, LAPIC_SIPI);
		return;
	}
	if (ev & LAPIC_INIT) {
		lapic_clear_events(k->v, LAPIC_INIT);
		take_init(k);
		ev = lapic_pending_init_sipi(k->v, &vector);
	}
	if (ev & LAPIC_SIPI) {
		lapic_clear_events(k->v, LAPIC_SIPI);
		if (k->mp_state == KVM_MP_STATE_INIT_RECEIVED)
			take_sipi(k, vector);
	}
}

/* ---- KVM_GET/SET_VCPU_EVENTS ------------------------------------------------------------------------------ */

static u8 shadow_out(u8 s)
{
	return (u8)((s & SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0) |
		    (s & SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0));
}

static u8 shadow_in(u8 s)
{
	return (u8)((s & KVM_X86_SHADOW_INT_STI ? SHADOW_STI : 0) |
		    (s & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS : 0));
}

static void exception_out(struct kvm_vcpu *k, struct kvm_vcpu_events *e)
{
	bool payloads = k->vm->exception_payload;
	struct vcpu *v = k->v;
	struct event *x = &v->inj;
	bool injected = is_exception(&v->inj);

	/* A trap waiting for its boundary is a pending #DB to the API (no departure: the same event). */
	if (v->pending_db && !v->pending.valid) {
		v->pending = (struct event){ .valid = true, .vector = EXC_DB, .type = EVENT_HARD_EXC,
					     .has_payload = true, .payload = v->pending_db };
		v->pending_db = 0;
	}
	if (!injected)
		x = &v->pending;
	if (!x->valid)
		return;
	if (!injected && !payloads)
		event_apply_payload(v, x);
	/* The API has no place for the length of INT3 and INTO: they are executed again. */
	if (x->type != EVENT_SOFT_EXC) {
		e->exception.injected = injected || !payloads;
		e->exception.pending = !injected;
	}
	e->exception.nr = x->vector;
	e->exception.has_error_code = x->has_error;
	e->exception.error_code = x->error;
	e->exception_has_payload = x->has_payload;
	e->exception_payload = x->has_payload ? x->payload : 0;
}

void events_get(struct kvm_vcpu *k, struct kvm_vcpu_events *e)
{
	struct vcpu *v = k->v;

	memset(e, 0, sizeof(*e));
	events_sync(k);
	exception_out(k, e);
	if (v->inj.valid && v->inj.type == EVENT_INTR) {
		e->interrupt.injected = 1;
		e->interrupt.nr = v->inj.vector;
	}
	e->interrupt.shadow = shadow_out(v->shadow);
	e->nmi.injected = v->inj.valid && v->inj.type == EVENT_NMI;
	e->nmi.pending = v->nmi_pending;
	e->nmi.masked = v->nmi_masked;
	e->smi.smm = v->smm;
	e->smi.pending = v->smi_pending;
	e->smi.smm_inside_nmi = v->smm_inside_nmi_mask;
	if (kvm_has_lapic(k))
		e->smi.latched_init = !!(lapic_pending_init_sipi(v, NULL) & LAPIC_INIT);
	e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
		   KVM_VCPUEVENT_VALID_SMM;
	if (k->vm->exception_payload)
		e->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (k->vm->triple_fault_event) {
		e->triple_fault.pending = k->triple_fault;
		e->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	}
}

static void exception_in(struct kvm_vcpu *k, const struct kvm_vcpu_events *e, bool injected, bool pending)
{
	struct vcpu *v = k->v;
	struct event x = {
		.valid = true, .vector = e->exception.nr, .type = EVENT_HARD_EXC,
		.has_error = e->exception.has_error_code, .error = e->exception.error_code,
		.has_payload = pending && e->exception_has_payload, .payload = e->exception_payload,
	};

	/* no departure: state that user space writes */
	v->pending.valid = false;
	v->pending_db = 0;
	if (x.vector == EXC_BP || x.vector == EXC_OF)
		x.type = EVENT_SOFT_EXC;
	x.sure = injected;
	if (injected)
		v->inj = x;
	else if (pending)
		v->pending = x;
}

static void smm_in(struct kvm_vcpu *k, const struct kvm_vcpu_events *e)
{
	struct vcpu *v = k->v;

	if (v->smm != !!e->smi.smm) {
		cpu_enter_guest(v);
		vmx_leave_quietly(v);
		cpu_leave_guest(v);
		smm_set(v, e->smi.smm);
	}
	v->smi_pending = e->smi.pending;
	if (e->smi.smm)
		v->smm_inside_nmi_mask = e->smi.smm_inside_nmi;
	if (!kvm_has_lapic(k))
		return;
	if (e->smi.latched_init)
		lapic_set_events(v, LAPIC_INIT);
	else
		lapic_clear_events(v, LAPIC_INIT);
}

static int triple_fault_in(struct kvm_vcpu *k, bool pending)
{
	if (!k->vm->triple_fault_event)
		return -EINVAL;
	/* no departure: serve() records it when it takes effect */
	k->triple_fault = k->triple_by_user = pending;
	k->triple_for_l2 = pending && k->v->nonroot;
	if (pending)
		vcpu_request(k->v, REQ_TRIPLE);
	else
		atomic_fetch_and(&k->v->request, ~(u32)REQ_TRIPLE);
	return 0;
}

int events_set(struct kvm_vcpu *k, const struct kvm_vcpu_events *e)
{
	bool injected = e->exception.injected, pending = false;
	struct vcpu *v = k->v;

	if (e->flags & ~(u32)EVENT_FLAGS)
		return -EINVAL;
	/* The kernel finds this out last, with the rest already in place. */
	if (guard_strict(&k->vm->guard) && (e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !k->vm->triple_fault_event)
		return -EINVAL;
	if (e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) {
		if (!k->vm->exception_payload)
			return -EINVAL;
		pending = e->exception.pending;
		injected = injected && !pending;
	}
	if ((injected || pending) && (e->exception.nr > 31 || e->exception.nr == EXC_NMI))
		return -EINVAL;
	if ((e->flags & KVM_VCPUEVENT_VALID_SMM) && (e->smi.smm || e->smi.pending) &&
	    k->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return -EINVAL;
	events_sync(k);
	/* no departure: state that user space writes */
	v->inj.valid = false;
	if (e->interrupt.injected)
		v->inj = (struct event){ .valid = true, .sure = true, .vector = e->interrupt.nr,
					 .type = e->interrupt.soft ? EVENT_SOFT_INT : EVENT_INTR };
	if (e->nmi.injected)
		v->inj = (struct event){ .valid = true, .vector = EXC_NMI, .type = EVENT_NMI };
	exception_in(k, e, injected, pending);
	if (e->flags & KVM_VCPUEVENT_VALID_SHADOW)
		v->shadow = shadow_in(e->interrupt.shadow);
	if (e->flags & KVM_VCPUEVENT_VALID_NMI_PENDING) {
		v->nmi_pending = e->nmi.pending;
		v->nmi_count = 0;
	}
	v->nmi_masked = e->nmi.masked;
	if ((e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR) && kvm_has_lapic(k))
		lapic_set_sipi_vector(v, (u8)e->sipi_vector);
	if (e->flags & KVM_VCPUEVENT_VALID_SMM)
		smm_in(k, e);
	if ((e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && triple_fault_in(k, e->triple_fault.pending))
		return -EINVAL;
	vcpu_request(v, REQ_EVENT);
	return 0;
}

long vcpu_get_events(struct kvm_vcpu *k, u64 arg, void *buf)
{
	events_get(k, buf);
	return 0;
}

long vcpu_set_events(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return events_set(k, buf);
}

/* ---- KVM_GET/SET_MP_STATE ---------------------------------------------------------------------------------- */

long vcpu_get_mp_state(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_mp_state *s = buf;

	events_sync(k);
	events_accept_init_sipi(k);
	s->mp_state = k->mp_state == KVM_MP_STATE_HALTED && k->pv_unhalted ? KVM_MP_STATE_RUNNABLE :
									      k->mp_state;
	return 0;
}

long vcpu_set_mp_state(struct kvm_vcpu *k, u64 arg, void *buf)
{
	u32 s = ((const struct kvm_mp_state *)buf)->mp_state;
	bool init = s == KVM_MP_STATE_INIT_RECEIVED || s == KVM_MP_STATE_SIPI_RECEIVED;

	switch (s) {
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_AP_RESET_HOLD:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		if (!kvm_has_lapic(k))
			return -EINVAL;
		break;
	case KVM_MP_STATE_RUNNABLE:
		break;
	default:
		return -EINVAL;
	}
	if (init && (k->v->smm || k->v->smi_pending))
		return -EINVAL;
	if (s == KVM_MP_STATE_SIPI_RECEIVED) {
		k->mp_state = KVM_MP_STATE_INIT_RECEIVED;
		lapic_set_events(k->v, LAPIC_SIPI);
	} else {
		k->mp_state = s;
	}
	vcpu_request(k->v, REQ_EVENT);
	return 0;
}

/* ---- interrupts from user space ------------------------------------------------------------------------------ */

long vcpu_interrupt(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_interrupt *i = buf;

	if (i->irq >= 256)
		return -EINVAL;
	if (irqchip_mode(&k->vm->m) != IRQCHIP_NONE)
		return irq_queue_extint(k->v, (u8)i->irq);
	/* no departure: user space is the interrupt controller */
	k->v->inj = (struct event){ .valid = true, .vector = (u8)i->irq, .type = EVENT_INTR };
	vcpu_request(k->v, REQ_EVENT);
	return 0;
}

long vcpu_nmi(struct kvm_vcpu *k, u64 arg, void *buf)
{
	queue_nmi(k->v);
	vcpu_request(k->v, REQ_EVENT);
	return 0;
}

long vcpu_smi(struct kvm_vcpu *k, u64 arg, void *buf)
{
	k->v->smi_pending = true;
	vcpu_request(k->v, REQ_EVENT);
	return 0;
}
