/* SPDX-License-Identifier: MIT */
/*
 * One-shot timers of the chips, ordered by deadline.
 *
 * A chip never ticks: it computes counts from the clock and asks for one wake-up, its next expiry. The
 * queue is an intrusive pairing heap, so arming a timer allocates nothing and has no upper limit.
 * One thread per queue (the service thread of src/kvm) sleeps until the earliest deadline and calls
 * irq_timerq_run(); every other function may be called from any thread, inside KVM_RUN too.
 */
#pragma once
#include "base/types.h"

#define IRQ_NEVER UINT64_MAX

struct irq_timer {
	u64 deadline;	/* ns, CLOCK_MONOTONIC; IRQ_NEVER when not queued */
	void (*fn)(struct irq_timer *t, u64 now);
	struct irq_timer *child, *next, *prev; /* heap links; prev = left sibling or parent */
};

/**
 * struct irq_timerq - timers of a process (or of a VM: whatever one thread serves)
 * @notify: the serving thread must wake at @deadline, absolute: called when the earliest deadline moved
 *	before the one last told, and at the end of irq_timerq_run(). Called under the queue's lock, so
 *	that calls cannot overtake each other, on any thread: timerfd_settime() and nothing more.
 *	IRQ_NEVER = sleep. May be NULL.
 * @armed: the deadline last told
 */
struct irq_timerq {
	_Atomic u32 lock;
	_Atomic u32 done_seq;	/* futex: bumped after each callback */
	struct irq_timer *root;
	struct irq_timer *running;
	int runner;		/* thread id of the callback's thread */
	u64 armed;
	void (*notify)(struct irq_timerq *q, u64 deadline);
	void *ctx;
};

void irq_timerq_init(struct irq_timerq *q, void (*notify)(struct irq_timerq *q, u64 deadline), void *ctx);

/* Prepare a timer; fn runs on the serving thread without locks held and may arm its timer again. */
void irq_timer_init(struct irq_timer *t, void (*fn)(struct irq_timer *t, u64 now));

/* (Re)arm for an absolute deadline. A callback that is already running is not waited for. */
void irq_timer_arm(struct irq_timerq *q, struct irq_timer *t, u64 deadline);

/* Disarm. The callback may still be running when this returns: it must look at its object's state. */
void irq_timer_cancel(struct irq_timerq *q, struct irq_timer *t);

/* Disarm and wait until the callback does not run; before the object is freed. Not under its lock. */
void irq_timer_cancel_sync(struct irq_timerq *q, struct irq_timer *t);

/* Wait until the callback that runs now, if any, is over. */
void irq_timerq_barrier(struct irq_timerq *q);

/* Earliest deadline, IRQ_NEVER when there is none. */
u64 irq_timerq_next(struct irq_timerq *q);

/**
 * irq_timerq_run() - run every timer whose deadline is at or before now
 * @q: the queue
 * @now: ns, CLOCK_MONOTONIC
 *
 * The next deadline goes to @notify, and only there: told in any other way it could come after, and undo,
 * the earlier one of a timer armed meanwhile.
 */
void irq_timerq_run(struct irq_timerq *q, u64 now);
