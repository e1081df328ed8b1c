/* SPDX-License-Identifier: MIT */
#include "trace/departure.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/base.h"

static const struct {
	const char *name;
	const char *text;
	enum departure_outcome outcome;
} rows[DEP_KINDS] = {
#define DEPARTURE(id, outcome, name, text) [DEP_##id] = { name, text, DEP_##outcome },
#include "spec/departure.def"
#undef DEPARTURE
};

void departure_post(struct departure_ring *r, const struct departure *d)
{
	u64 seq = atomic_fetch_add(&r->next, 1);
	struct departure_slot *s = &r->slot[seq % DEPARTURE_RING];

	atomic_fetch_add_explicit(&r->total[d->kind], 1, memory_order_relaxed);
	atomic_store_explicit(&s->state, 2 * seq + 1, memory_order_release);
	atomic_thread_fence(memory_order_release);
	s->d = *d;
	s->d.seq = seq;
	s->d.vm = r->vm;
	s->d.time = base_now_ns();
	atomic_store_explicit(&s->state, 2 * seq + 2, memory_order_release);
	if (r->wake)
		r->wake(r);
}

bool departure_take(struct departure_ring *r, struct departure *d)
{
	u64 seq = atomic_load(&r->read);

	for (;;) {
		u64 next = atomic_load(&r->next);
		struct departure_slot *s = &r->slot[seq % DEPARTURE_RING];

		if (seq == next)
			return false;
		if (next - seq > DEPARTURE_RING) {
			atomic_fetch_add(&r->dropped, next - seq - DEPARTURE_RING);
			seq = next - DEPARTURE_RING;
			continue;
		}
		if (atomic_load_explicit(&s->state, memory_order_acquire) < 2 * seq + 2)
			return false; /* its writer has not finished */
		*d = s->d;
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&s->state, memory_order_relaxed) == 2 * seq + 2) {
			atomic_store(&r->read, seq + 1);
			return true;
		}
		atomic_fetch_add(&r->dropped, 1); /* overwritten while it was copied */
		seq++;
	}
}

const char *departure_name(enum departure_kind kind)
{
	return kind < DEP_KINDS ? rows[kind].name : "?";
}

const char *departure_text(enum departure_kind kind)
{
	return kind < DEP_KINDS ? rows[kind].text : "?";
}

const char *departure_outcome(enum departure_kind kind)
{
	static const char *const names[] = { [DEP_INJECTED] = "injected", [DEP_WITHHELD] = "withheld",
					     [DEP_ALTERED] = "altered", [DEP_STOPPED] = "stopped",
					     [DEP_TOLD] = "told" };

	return kind < DEP_KINDS ? names[rows[kind].outcome] : "?";
}

int departure_json(const struct departure *d, char *buf, size_t n)
{
	return snprintf(buf, n,
			"{\"time\":%" PRIu64 ",\"seq\":%" PRIu64 ",\"vm\":%u,\"vcpu\":%d,\"kind\":\"%s\","
			"\"outcome\":\"%s\",\"level\":%u,\"cpl\":%u,\"rip\":\"0x%" PRIx64 "\","
			"\"vectoring\":\"0x%" PRIx64 "\",\"cause\":\"0x%" PRIx64 "\","
			"\"vmcs12\":\"0x%" PRIx64 "\",\"text\":\"%s\"}\n",
			d->time, d->seq, d->vm, (int)d->vcpu, departure_name(d->kind), departure_outcome(d->kind),
			d->level, d->cpl, d->rip, d->vectoring, d->cause, d->vmcs12,
			departure_text(d->kind));
}

int departure_line(const struct departure *d, char *buf, size_t n)
{
	char vmcs[40] = "";

	if (d->level == 2)
		snprintf(vmcs, sizeof(vmcs), ", VMCS %#" PRIx64, d->vmcs12);
	return snprintf(buf, n, "%s: %s (vCPU %d, L%u%s, CPL %u, RIP %#" PRIx64 ", cause %#" PRIx64 ")\n",
			departure_name(d->kind), departure_text(d->kind), (int)d->vcpu, d->level, vmcs, d->cpl,
			d->rip, d->cause);
}
