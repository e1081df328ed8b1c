/* SPDX-License-Identifier: MIT */
/*
 * What the monitor does about bus locks on a KVM that reports them: --accel kvm,bus-lock=. With the software processor
 * the engine does it (doc/design/locks.md), so this serves a real KVM, or any other that has
 * KVM_CAP_X86_BUS_LOCK_EXIT.
 */
#include <stdio.h>
#include <time.h>
#include "vmm/vmm.h"

#define SECOND 1000000000ull

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * SECOND + (u64)ts.tv_nsec;
}

/* All vCPUs share one allowance for each second; who exceeds it waits for the next. */
static u64 over_limit(struct bus_lock_policy *p)
{
	u64 t = now(), wait = 0;

	pthread_mutex_lock(&p->mutex);
	if (t - p->since >= SECOND) {
		p->since = t;
		p->n = 0;
	}
	if (++p->n > p->limit)
		wait = p->since + SECOND - t;
	pthread_mutex_unlock(&p->mutex);
	return wait;
}

static void throttle(struct vcpu *v)
{
	u64 wait = over_limit(&v->vm->bus_lock);
	struct timespec ts = { .tv_sec = (time_t)(wait / SECOND), .tv_nsec = (long)(wait % SECOND) };

	/* A kick ends it: the VM may be stopping. */
	if (wait)
		nanosleep(&ts, NULL);
}

void vmm_bus_locked(struct vcpu *v)
{
	struct vm *vm = v->vm;
	u64 n = atomic_fetch_add(&vm->bus_lock_count, 1) + 1;

	switch (vm->bus_lock.mode) {
	case VMM_BUS_LOCK_RATELIMIT:
		throttle(v);
		break;
	case VMM_BUS_LOCK_EXIT:
		if (vmm_worth_telling(n))
			fprintf(stderr, "casement: cpu %u: a bus lock, number %llu\r\n", v->id, (unsigned long long)n);
		break;
	case VMM_BUS_LOCK_KILL:
		vmm_dump(v);
		vmm_stop(vm, EXIT_CONTAINED, "cpu %u was stopped: a bus lock (bus-lock=kill)", v->id);
		break;
	default:
		break;
	}
}
