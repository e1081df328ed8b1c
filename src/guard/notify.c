/* SPDX-License-Identifier: MIT */
/*
 * Notify VM exits: the processor's side (when is a guest without an event window for too long?) and what KVM makes
 * of exit reason 75.
 *
 * The interval that is measured is the processor's (cpu/exc.c): from the first event delivery to the next
 * retired instruction. Only a second delivery without a window in between comes here, so a VM that behaves
 * pays nothing. [SDM3C "Other Causes of VM Exits"] calls the feature the instruction timeout.
 */
#include "guard/guard.h"

#include <linux/kvm.h>

#include "cpu/deliver.h"
#include "cpu/vmx/vmx.h"

/* KVM intercepts these on every VM, notify exits or not. */
static bool intercepted(const struct guard *g, const struct event *e)
{
	if (g->opt.intercepts != INTERCEPTS_LINUX || e->type != EVENT_HARD_EXC)
		return false;
	return e->vector == EXC_UD || e->vector == EXC_DB || e->vector == EXC_AC || e->vector == EXC_MC;
}

#define NO_WINDOW (~0ull)

/* Frequency of the crystal that the guest's CPUID leaf 15H tells; ours if it does not. */
static u64 guest_crystal(const struct vcpu *v, u64 ours)
{
	for (u32 n = 0; n < v->ncpuid; n++)
		if (v->cpuid[n].function == 0x15 && v->cpuid[n].ecx)
			return v->cpuid[n].ecx;
	return ours;
}

/*
 * The window that L1 set for its running L2, with the processor's threshold, in our crystal's clocks: L1 counts by
 * the crystal that its CPUID shows, and a window that does not fit 32 bits of ours is as long as one can be.
 */
static u64 l1_window(const struct vcpu *v)
{
	const struct guard *g = guard_of(v);
	u64 ours = g->opt.crystal, window;

	if (!v->nonroot || !vmx_proc2(v, PROC2_NOTIFY))
		return NO_WINDOW;
	window = vmcs_get(v->vmx, VMCS_NOTIFY_WINDOW) * ours / guest_crystal(v, ours);
	return (window > ~0u ? ~0u : window) + g->notify_threshold;
}

bool guard_no_window(struct vcpu *v, u32 rounds)
{
	struct guard_vcpu *gv = v->guard;
	struct guard *g = gv->guard;
	u64 now, own = g->notify ? (u64)g->notify_window + g->notify_threshold : NO_WINDOW, l1 = l1_window(v);

	atomic_store_explicit(&gv->rounds, gv->rounds + 1, memory_order_relaxed);
	if (own == NO_WINDOW && l1 == NO_WINDOW)
		return false;
	if (intercepted(g, &v->inj)) {
		/* An exit and an entry: the host had its window, and the interval begins anew. */
		v->deliver_start = 0;
		return false;
	}
	now = v->vm->bus->crystal(v);
	if (!v->deliver_start) {
		v->deliver_start = now;
		return false;
	}
	if (now - v->deliver_start <= (l1 < own ? l1 : own))
		return false;
	gv->notify_l1 = l1 < own; /* the smaller window owns the exit */
	return true;
}

/*
 * An intercepted exception during event delivery: KVM's handler finds the vectoring information valid and gives up
 * with KVM_INTERNAL_ERROR_SIMUL_EX. The event that was being delivered stays injected.
 */
bool guard_exc_intercept(struct vcpu *v, const struct event *first, const struct event *second)
{
	if (!intercepted(guard_of(v), second))
		return false;
	v->internal.suberror = KVM_INTERNAL_ERROR_SIMUL_EX;
	v->internal.ndata = 4;
	v->internal.data[0] = guard_event_info(first);
	v->internal.data[1] = guard_event_info(second);
	v->internal.data[2] = second->error;
	v->internal.data[3] = 0; /* the CPU: filled in outside */
	v->stop = CPU_STOP_INTERNAL;
	guard_depart(v, DEP_SIMUL_EXCEPTION, v->internal.data[1]);
	return true;
}

/* ---- the exit ------------------------------------------------------------------------------------------ */

/*
 * Bit 12 says that an IRET had unblocked NMIs when the exit came. It is undefined together with valid vectoring
 * information [SDM3C "Information for VM Exits Due to Instruction Timeouts"]; KVM does not look.
 */
static void undo_nmi_unblock(struct vcpu *v, u64 qual, bool vectoring)
{
	const struct guard *g = guard_of(v);

	if (!(qual & NOTIFY_QUAL_NMI_UNBLOCK) || g->opt.vnmi != OPT_ON_OFF_ON)
		return;
	if (vectoring && guard_strict(g))
		return;
	v->nmi_masked = true; /* no departure: undone, as it was before the exit */
}

/*
 * KVM's handler expects vectoring information and re-injects the event: v->inj simply stays. By the letter of
 * the manual this exit records none, and what the instruction raised it raises again; what it would not
 * raise again is kept, since a lost interrupt serves nobody.
 */
static void drop_vectoring(struct vcpu *v)
{
	if (v->inj.type == EVENT_HARD_EXC && exc_is_fault(v->inj.vector))
		v->inj.valid = false;
	else if (v->inj.type >= EVENT_SOFT_INT && v->inj.insn_len)
		v->inj.valid = false;
}

static void count_repeats(struct guard_vcpu *gv)
{
	struct vcpu *v = gv->v;

	if (gv->notify_repeats && v->icount == gv->notify_icount)
		gv->notify_repeats++;
	else
		gv->notify_repeats = 1;
	gv->notify_icount = v->icount;
}

static u64 qualification(struct guard_vcpu *gv)
{
	u64 qual = atomic_exchange(&gv->guard->inject_qual, 0);

	if (qual & NOTIFY_QUAL_INVALID)
		guard_depart(gv->v, DEP_INJECT_CONTEXT, qual);
	if (qual & NOTIFY_QUAL_NMI_UNBLOCK)
		guard_depart(gv->v, DEP_INJECT_NMI_UNBLOCK, qual);
	return qual;
}

/* The other bits of the qualification are undefined: they are different each time, so that nobody counts on them. */
static u64 undefined_bits(const struct guard_vcpu *gv)
{
	u64 x = (gv->rounds + 1) * 0x9e3779b97f4a7c15ull;

	return (x ^ x >> 29) & ~(NOTIFY_QUAL_INVALID | NOTIFY_QUAL_NMI_UNBLOCK);
}

static enum notify_verdict stop_internal(struct vcpu *v, u64 vectoring, u64 qual)
{
	v->internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
	v->internal.ndata = 4;
	v->internal.data[0] = vectoring;
	v->internal.data[1] = NOTIFY_EXIT_REASON;
	v->internal.data[2] = qual | undefined_bits(v->guard);
	v->internal.data[3] = 0;
	return NOTIFY_VERDICT_ERROR;
}

enum notify_verdict guard_notify_exit(struct vcpu *v, bool *invalid)
{
	struct guard_vcpu *gv = v->guard;
	struct guard *g = gv->guard;
	u64 vectoring = guard_event_info(&v->inj), qual = qualification(gv);

	*invalid = qual & NOTIFY_QUAL_INVALID;
	count_repeats(gv);
	undo_nmi_unblock(v, qual, vectoring);
	guard_depart(v, *invalid ? DEP_NOTIFY_INVALID : DEP_NOTIFY_EXIT, qual | (u64)gv->notify_repeats << 32);
	if (guard_strict(g))
		drop_vectoring(v);
	if (*invalid) {
		gv->context_invalid = true;
		if (atomic_exchange(&g->inject_corrupt, false))
			guard_corrupt(v);
	}
	if (g->notify_user || *invalid)
		return NOTIFY_VERDICT_TELL;
	if (g->opt.notify_vmexit == NOTIFY_INTERNAL_ERROR)
		return stop_internal(v, vectoring, qual);
	if (g->opt.notify_limit && gv->notify_repeats >= g->opt.notify_limit) {
		guard_depart(v, DEP_NOTIFY_LIMIT, gv->notify_repeats);
		return stop_internal(v, vectoring, qual);
	}
	return NOTIFY_VERDICT_RUN;
}

/* ---- KVM_CAP_X86_NOTIFY_VMEXIT ----------------------------------------------------------------------------- */

bool guard_notify_supported(const struct guard_opts *o)
{
	return !o->notify_forbidden && o->notify_vmexit != NOTIFY_DISABLE;
}

int guard_notify_enable(struct guard *g, u32 window, bool user)
{
	const struct guard_opts *o = &g->opt;

	if ((o->floored >> OPT_ID_notify_window & 1) && window > o->floor[OPT_ID_notify_window])
		return -EINVAL;
	g->notify_window = window;
	g->notify_user = user;
	g->notify = true;
	return 0;
}
