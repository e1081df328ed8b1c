/* SPDX-License-Identifier: MIT */
/*
 * Departures: who, where and why, put into the VM's ring.
 */
#include "guard/guard.h"

#include "cpu/vmx/vmx.h"

#define INFO_ERROR BIT(11)
#define INFO_VALID BIT(31)

/* [SDM3C "Information for VM Exits That Occur During Event Delivery"] */
u64 guard_event_info(const struct event *e)
{
	if (!e->valid)
		return 0;
	return INFO_VALID | e->vector | (u64)e->type << 8 | (e->has_error ? INFO_ERROR : 0);
}

void guard_depart(struct vcpu *v, enum departure_kind kind, u64 cause)
{
	bool l2 = v->vmx && v->vmx->nonroot;
	struct departure d = {
		.vcpu = v->id, .kind = (u16)kind, .level = l2 ? 2 : 1, .cpl = v->cpl,
		.vectoring = guard_event_info(&v->inj), .rip = v->rip, .cause = cause,
		.vmcs12 = l2 ? v->vmx->vmcs_gpa : ~0ull,
	};

	departure_post(&guard_of(v)->ring, &d);
}

void guard_depart_vm(struct guard *g, enum departure_kind kind, u64 cause)
{
	struct departure d = { .vcpu = DEPARTURE_NO_VCPU, .kind = (u16)kind, .cause = cause, .vmcs12 = ~0ull };

	departure_post(&g->ring, &d);
}

void guard_init(struct guard *g, const struct guard_opts *opt, u32 vm)
{
	g->opt = *opt;
	g->ring.vm = vm;
	guard_lock_init(&g->lock, opt);
	g->notify_window = opt->notify_window;
	g->notify_threshold = opt->notify_threshold;
	g->notify = !opt->notify_forbidden &&
		    (opt->notify_vmexit == NOTIFY_RUN || opt->notify_vmexit == NOTIFY_INTERNAL_ERROR);
}

void guard_vcpu_init(struct guard_vcpu *gv, struct guard *g, struct vcpu *v)
{
	gv->guard = g;
	gv->v = v;
	v->guard = gv;
}
