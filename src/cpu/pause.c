/* SPDX-License-Identifier: MIT */
/*
 * Pausing the vCPUs of a machine (design rule 5), and waking one.
 *
 * Who pauses owns machine.pause_lock. A vCPU announces that it enters guest mode before it looks at the
 * lock, and the owner takes the lock before it looks at the modes, so one of them sees the other. Whoever
 * waits for the lock counts as paused: what it knows about memory must be asked again afterwards.
 */
#include "cpu/cpu.h"

#include <errno.h>

#include "base/base.h"

#define OWNER_THREAD BIT(31) /* with the thread id: not a vCPU */

static u32 owner_id(const struct vcpu *self)
{
	return self ? self->index + 1 : (u32)OWNER_THREAD | (u32)base_gettid();
}

/* Another one's pause? */
static bool held(const struct machine *m, u32 me)
{
	u32 owner = atomic_load(&m->pause_lock);

	return owner && owner != me;
}

/* Wait until the pause that was in progress at seq has ended. */
static void wait_resume(struct machine *m, u32 seq)
{
	futex_wait(&m->pause_seq, seq, -1);
}

/* Say that this vCPU does not run guest code any more. */
static void acknowledge(struct vcpu *v, u32 mode)
{
	struct machine *m = v->vm;

	atomic_exchange(&v->mode, mode);
	if (unlikely(held(m, v->index + 1))) {
		atomic_fetch_add(&m->ack_seq, 1);
		futex_wake(&m->ack_seq, 1);
	}
}

void cpu_enter_guest(struct vcpu *v)
{
	struct machine *m = v->vm;

	for (;;) {
		u32 seq;

		atomic_exchange(&v->mode, VCPU_IN_GUEST);
		if (likely(!held(m, v->index + 1)))
			return;
		acknowledge(v, VCPU_PAUSED);
		seq = atomic_load(&m->pause_seq);
		if (held(m, v->index + 1))
			wait_resume(m, seq);
	}
}

void cpu_leave_guest(struct vcpu *v)
{
	acknowledge(v, VCPU_OUTSIDE);
}

void cpu_pause_point(struct vcpu *v)
{
	bool in_guest = atomic_load(&v->mode) == VCPU_IN_GUEST;

	atomic_fetch_and(&v->request, ~(u32)REQ_PAUSE);
	if (in_guest && held(v->vm, v->index + 1)) {
		acknowledge(v, VCPU_PAUSED);
		cpu_enter_guest(v);
	}
}

/* ---- the requester ------------------------------------------------------------------------------------ */

static void take_lock(struct machine *m, struct vcpu *self, u32 me)
{
	bool paused = false;

	for (;;) {
		u32 seq = atomic_load(&m->pause_seq);
		u32 free = 0;

		if (atomic_compare_exchange_strong(&m->pause_lock, &free, me))
			break;
		if (self && !paused && atomic_load(&self->mode) == VCPU_IN_GUEST) {
			acknowledge(self, VCPU_PAUSED);
			paused = true;
		}
		if (atomic_load(&m->pause_lock))
			wait_resume(m, seq);
	}
	if (paused)
		atomic_exchange(&self->mode, VCPU_IN_GUEST);
}

static void wait_paused(struct machine *m, const struct vcpu *o)
{
	for (;;) {
		u32 seq = atomic_load(&m->ack_seq);

		if (atomic_load(&o->mode) != VCPU_IN_GUEST)
			return;
		futex_wait(&m->ack_seq, seq, -1);
	}
}

void vm_pause(struct machine *m, struct vcpu *self)
{
	u32 me = owner_id(self);
	u32 n;

	if (atomic_load(&m->pause_lock) == me) {
		m->pause_depth++;
		return;
	}
	take_lock(m, self, me);
	m->pause_depth = 1;
	n = atomic_load(&m->nvcpus);
	for (u32 i = 0; i < n; i++) {
		struct vcpu *o = m->vcpu[i];

		if (o && o != self && atomic_load(&o->mode) == VCPU_IN_GUEST)
			vcpu_request(o, REQ_PAUSE);
	}
	for (u32 i = 0; i < n; i++) {
		struct vcpu *o = m->vcpu[i];

		if (o && o != self)
			wait_paused(m, o);
	}
}

void vm_resume(struct machine *m, struct vcpu *self, u32 post_request)
{
	u32 n = atomic_load(&m->nvcpus);

	for (u32 i = 0; post_request && i < n; i++) {
		struct vcpu *o = m->vcpu[i];

		if (o && o != self)
			vcpu_request(o, post_request);
	}
	if (--m->pause_depth)
		return;
	atomic_store(&m->pause_lock, 0);
	atomic_fetch_add(&m->pause_seq, 1);
	futex_wake(&m->pause_seq, VCPU_MAX + 1);
}

/* ---- requests --------------------------------------------------------------------------------------- */

/* vcpu.kicked: 1 while its thread sleeps or is about to. */
void vcpu_request(struct vcpu *v, u32 bits)
{
	atomic_fetch_or(&v->request, bits);
	if (unlikely(atomic_load(&v->kicked)) && atomic_exchange(&v->kicked, 0))
		futex_wake(&v->kicked, 1);
}

int vcpu_sleep(struct vcpu *v, u32 mask, s64 timeout_ns)
{
	u64 end = timeout_ns < 0 ? 0 : base_now_ns() + (u64)timeout_ns;

	for (;;) {
		s64 left = -1;
		int err;

		atomic_store(&v->kicked, 1);
		if (atomic_load(&v->request) & mask) {
			atomic_store(&v->kicked, 0);
			return 0;
		}
		if (timeout_ns >= 0) {
			u64 now = base_now_ns();

			left = now < end ? (s64)(end - now) : 0;
		}
		err = left ? futex_wait(&v->kicked, 1, left) : -ETIMEDOUT;
		atomic_store(&v->kicked, 0);
		if (atomic_load(&v->request) & mask)
			return 0;
		if (err == -EINTR || err == -ETIMEDOUT)
			return err;
	}
}
