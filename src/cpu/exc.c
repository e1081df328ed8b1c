/* SPDX-License-Identifier: MIT */
/*
 * Exceptions: recording them, what happens when one meets another, and the delivery loop.
 *
 * cpu_deliver() is the one place where a vCPU can be busy without retiring anything. Each round is
 * counted, the stop word is looked at, and nothing is committed before a round succeeds.
 */
#include "cpu/deliver.h"
#include "cpu/vmx/vmx.h"

/* ---- facts from spec/exc.def --------------------------------------------------------------------- */

enum exc_kind { KIND_FAULT, KIND_TRAP, KIND_FAULT_OR_TRAP, KIND_ABORT, KIND_INTERRUPT };

static const struct exc_row {
	u8 class;
	u8 kind;
	bool has_error;
} exc_rows[32] = {
#define EXC(name, vector, class_, error_, kind_) \
	[vector] = { .class = EXC_CLASS_##class_, .kind = KIND_##kind_, .has_error = (error_) },
#include "spec/exc.def"
#undef EXC
};

enum exc_class exc_class(u8 vector)
{
	return vector < ARRAY_SIZE(exc_rows) ? (enum exc_class)exc_rows[vector].class : EXC_CLASS_BENIGN;
}

bool exc_has_error(u8 vector)
{
	return vector < ARRAY_SIZE(exc_rows) && exc_rows[vector].has_error;
}

bool exc_is_fault(u8 vector)
{
	return vector < ARRAY_SIZE(exc_rows) && exc_rows[vector].kind == KIND_FAULT;
}

/* Only exceptions take part in the double-fault matrix; interrupts and INT n are benign. */
static enum exc_class event_class(const struct event *ev)
{
	return ev->type == EVENT_HARD_EXC ? exc_class(ev->vector) : EXC_CLASS_BENIGN;
}

enum exc_combine exc_combine(const struct event *first, const struct event *second)
{
	enum exc_class a = event_class(first), b = event_class(second);

	if (b == EXC_CLASS_BENIGN || b == EXC_CLASS_DOUBLE)
		return EXC_SERIAL;
	if (a == EXC_CLASS_DOUBLE)
		return EXC_SHUTDOWN;
	if (a == EXC_CLASS_PAGEFAULT || (a == EXC_CLASS_CONTRIBUTORY && b == EXC_CLASS_CONTRIBUTORY))
		return EXC_DOUBLE_FAULT;
	return EXC_SERIAL;
}

/* ---- recording ----------------------------------------------------------------------------------- */

int cpu_raise(struct vcpu *v, u8 vector)
{
	v->exc = (struct event){ .valid = true, .vector = vector, .type = EVENT_HARD_EXC };
	return OP_EXC;
}

/* Real mode has no error codes. */
int cpu_raise_err(struct vcpu *v, u8 vector, u32 error)
{
	cpu_raise(v, vector);
	v->exc.has_error = cpu_prot(v);
	v->exc.error = v->exc.has_error ? error : 0;
	return OP_EXC;
}

int cpu_raise_pf(struct vcpu *v, gva_t la, u32 error)
{
	cpu_raise_err(v, EXC_PF, error);
	v->exc.has_payload = true;
	v->exc.payload = la;
	return OP_EXC;
}

int cpu_raise_db(struct vcpu *v, u64 dr6_bits)
{
	cpu_raise(v, EXC_DB);
	v->exc.has_payload = true;
	v->exc.payload = dr6_bits;
	return OP_EXC;
}

/* ---- the delivery loop ------------------------------------------------------------------------ */

/*
 * CR2 and DR6 take their new values when delivery begins, not when the exception is raised: an
 * intercepting hypervisor sees the old ones. Payload bits follow the VMX pending-debug-exceptions
 * layout; bits 11 and 16 are active low in DR6. [SDM3B "Debug Status Register (DR6)"]
 */
void event_apply_payload(struct vcpu *v, struct event *ev)
{
	if (!ev->has_payload)
		return;
	ev->has_payload = false;
	if (ev->vector == EXC_PF) {
		v->cr2 = ev->payload;
	} else if (ev->vector == EXC_DB) {
		u64 bits = ev->payload & (DR6_TRAP_BITS | DR6_BD | DR6_BS | DR6_BT | DR6_BLD | DR6_RTM);

		v->dr6 = ((v->dr6 & ~DR6_TRAP_BITS) | DR6_RTM | bits) ^ (bits & DR6_RTM);
		if (bits & DR6_BLD) /* nobody but software sets it again */
			v->dr6 &= ~(u64)DR6_BLD;
	}
}

/*
 * EXT tells the handler that the exception hit while something external to the program was being
 * delivered; INT n, INT3 and INTO are the program's own. [SDM3A "Error Code"]
 */
static void mark_external(struct vcpu *v)
{
	const struct event *ev = &v->inj;
	bool soft = ev->type == EVENT_SOFT_INT || ev->type == EVENT_SOFT_EXC;

	if (!soft && v->exc.has_error && v->exc.vector >= EXC_TS && v->exc.vector <= EXC_GP)
		v->exc.error |= 1;
}

/* v->exc was raised while v->inj was being delivered: decide what is delivered next. */
static int deliver_nested(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;
	struct event next = v->exc;

	if (bus->exc_intercept && bus->exc_intercept(v, &v->inj, &next)) {
		v->exc.valid = false;
		return OP_STOP;
	}
	switch (exc_combine(&v->inj, &next)) {
	case EXC_SHUTDOWN:
		v->inj.valid = false;
		v->exc.valid = false;
		if (v->nonroot) {
			vmx_exit_now(v, VMEXIT_TRIPLE_FAULT, 0);
			return OP_JUMP;
		}
		v->stop = CPU_STOP_SHUTDOWN;
		return OP_STOP;
	case EXC_DOUBLE_FAULT:
		/* The second exception was recognized: a page fault has left its address in CR2. */
		event_apply_payload(v, &next);
		cpu_raise_err(v, EXC_DF, 0);
		next = v->exc;
		break;
	default:
		mark_external(v);
		next = v->exc;
		next.sure = true; /* L1 has been asked */
		break;
	}
	v->inj = next;
	v->exc.valid = false;
	return 0;
}

static void deliver_done(struct vcpu *v)
{
	v->inj.valid = false;
	v->exc.valid = false;
	v->shadow = 0;
	if (unlikely(v->nonroot)) {
		v->vmx->activity = ACTIVITY_ACTIVE;
		v->vmx->nmi_unblocked = false;
		v->vmx->mtf_due = vmx_proc(v, PROC_MTF);
	}
}

/* Did the delivery of v->inj, or an exception in it, make L2 exit? */
static bool deliver_exits(struct vcpu *v)
{
	if (v->exc.type == EVENT_VMEXIT) {
		const struct event by = v->inj;

		vmx_take_exit(v, &by);
		return true;
	}
	mark_external(v);
	return vmx_intercept_event(v, &v->exc, &v->inj);
}

/*
 * A windowless interval begins with a delivery and ends with the next retired instruction. What is delivered
 * in between, in one call of cpu_deliver() or in several (a trap that delivery itself made pending, a
 * handler that faults at its first byte), belongs to the same interval.
 */
static bool interval_over(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;

	if (v->deliver_icount != v->icount) {
		v->deliver_icount = v->icount;
		v->deliver_start = 0;
		v->deliver_rounds = 0;
		return false;
	}
	if (!bus->no_window || !bus->no_window(v, ++v->deliver_rounds))
		return false;
	v->stop = CPU_STOP_NOTIFY;
	return true;
}

/* One attempt: OP_JUMP delivered; OP_STOP; 0 another event is to be delivered instead. */
static int deliver_round(struct vcpu *v)
{
	u64 held = v->pending_db;
	int r;

	if (v->guest_debug && debug_intercept(v, &v->inj)) {
		v->inj.valid = false;
		return OP_STOP;
	}
	if (unlikely(v->nonroot) && vmx_intercept_event(v, &v->inj, NULL))
		return OP_JUMP;
	event_apply_payload(v, &v->inj);
	v->exc.valid = false;
	r = deliver_event(v, &v->inj);
	if (likely(r == OP_JUMP)) {
		deliver_done(v);
		return OP_JUMP;
	}
	if (r != OP_EXC)
		return r;
	v->pending_db = held; /* breakpoints trap after what is completed */
	if (unlikely(v->nonroot) && deliver_exits(v))
		return OP_JUMP;
	return deliver_nested(v);
}

int cpu_deliver(struct vcpu *v)
{
	bool first = true;
	int r;

	for (;; first = false) {
		u32 req = atomic_load_explicit(&v->request, memory_order_acquire);

		if (!first && (req & ~(u32)(REQ_OWNER - 1))) {
			v->stop = CPU_STOP_KICK;
			return OP_STOP;
		}
		if (!first && (req & (REQ_OWNER - 1) & ~(u32)REQ_EVENT))
			return OP_AGAIN;
		if (interval_over(v))
			return OP_STOP;
		if (unlikely(v->event_begins) && v->vm->bus->event_begins(v))
			return OP_STOP;
		r = deliver_round(v);
		if (r)
			return r;
	}
}
