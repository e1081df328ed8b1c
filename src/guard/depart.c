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
	bool l2 = v->vmx && v->nonroot;
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
