/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's timer: one-shot, periodic, TSC-deadline. [SDM3A "APIC Timer"]
 *
 * The count is computed from the clock. The host timer only marks the expiry as pending; the vCPU's own
 * thread turns that into an IRR bit when it next looks (lapic_timer_sync()), so LVTT is read where it is
 * written.
 */
#include "irq/lapic.h"
#include "irq/chip.h"

/* The APIC bus clock is 1 GHz: one cycle is one nanosecond. */
#define BUS_CYCLE_NS 1
/* A periodic guest timer may not keep the host busier than this. */
#define MIN_PERIOD_NS 200000

static void arm(struct lapic *l, u64 due)
{
	l->timer.due = due;
	irq_timer_arm(l->chip->q, &l->timer.t, due);
}

static void disarm(struct lapic *l)
{
	arm(l, IRQ_NEVER);
}

/* Expired. Timer lock held. A masked LVTT loses the interrupt but not the end of the one-shot. */
static void expire(struct lapic *l)
{
	bool masked = lapic_get(l, APIC_LVTT) & APIC_LVT_MASKED;

	if (atomic_load(&l->timer.pending) == TIMER_FIRED)
		return;
	atomic_store(&l->timer.pending, masked ? TIMER_MASKED : TIMER_FIRED);
	vcpu_request(l->v, REQ_EVENT);
}

/* The next period that ends after now; what was missed stays missed. */
static void advance_period(struct lapic_timer *t, u64 now)
{
	t->target += t->period;
	if (t->target <= now)
		t->target = now + t->period - (now - t->target) % t->period;
}

static void fire(struct lapic *l, u64 now)
{
	struct lapic_timer *t = &l->timer;

	lock_take(&t->lock);
	if (t->due <= now) { /* else it was stopped or moved while we were on our way */
		t->due = IRQ_NEVER;
		expire(l);
		if (t->mode == APIC_PERIODIC && t->period) {
			advance_period(t, now);
			arm(l, t->target);
		}
	}
	lock_drop(&t->lock);
}

static void on_timer(struct irq_timer *t, u64 now)
{
	fire(container_of(t, struct lapic, timer.t), now);
}

void lapic_timer_init(struct lapic *l)
{
	irq_timer_init(&l->timer.t, on_timer);
	l->timer.due = IRQ_NEVER;
	l->timer.mode_mask = 1u << 17;
	l->timer.divide = 2;
}

void lapic_timer_stop(struct lapic *l)
{
	lock_take(&l->timer.lock);
	disarm(l);
	atomic_store(&l->timer.pending, 0);
	lock_drop(&l->timer.lock);
}

void lapic_timer_sync(struct lapic *l)
{
	struct lapic_timer *t = &l->timer;
	u32 fired;

	if (!atomic_load_explicit(&t->pending, memory_order_acquire))
		return;
	lock_take(&t->lock);
	fired = atomic_exchange(&t->pending, 0);
	if (fired && t->mode != APIC_PERIODIC) {
		t->tscdeadline = 0;
		t->target = 0;
	}
	lock_drop(&t->lock);
	if (fired == TIMER_FIRED)
		lapic_local_deliver(l->v, APIC_LVTT);
}

static u64 count_to_ns(const struct lapic_timer *t, u32 count)
{
	return (u64)count * BUS_CYCLE_NS * t->divide;
}

static void limit_period(struct lapic_timer *t)
{
	if (t->mode == APIC_PERIODIC && t->period && t->period < MIN_PERIOD_NS)
		t->period = MIN_PERIOD_NS;
}

static void start_count(struct lapic *l, u64 now, u32 count_reg)
{
	struct lapic_timer *t = &l->timer;
	u64 ns;

	t->period = count_to_ns(t, lapic_get(l, APIC_TMICT));
	if (!t->period)
		return;
	limit_period(t);
	ns = t->period;
	if (count_reg != APIC_TMICT) { /* restored in the middle of a period */
		ns = count_to_ns(t, lapic_get(l, count_reg));
		if (!ns && t->mode == APIC_PERIODIC)
			ns = t->period;
		if (ns > t->period)
			ns = t->period;
	}
	t->target = now + ns;
	if (t->target <= now)
		expire(l);
	else
		arm(l, t->target);
}

static void start_tscdeadline(struct lapic *l, u64 now)
{
	struct lapic_timer *t = &l->timer;
	u32 khz = l->chip->ops->tsc_khz(l->v);
	u64 tsc;

	if (!t->tscdeadline || !khz)
		return;
	tsc = l->chip->ops->guest_tsc(l->v);
	if (t->tscdeadline <= tsc) {
		expire(l);
		return;
	}
	/* Rounded up, so the guest never finds its TSC short of the deadline. */
	u128 ns = ((u128)(t->tscdeadline - tsc) * 1000000 + khz - 1) / khz;

	t->target = ns > INT64_MAX ? (u64)INT64_MAX : now + (u64)ns;
	arm(l, t->target);
}

void lapic_timer_start(struct lapic *l, u32 count_reg)
{
	struct lapic_timer *t = &l->timer;
	u64 now = irq_now(l->chip);

	lock_take(&t->lock);
	disarm(l);
	atomic_store(&t->pending, 0);
	if (t->mode == APIC_TSCDEADLINE)
		start_tscdeadline(l, now);
	else
		start_count(l, now, count_reg);
	lock_drop(&t->lock);
}

/* LVTT written. Changing to or from TSC-deadline disarms. [SDM3A "TSC-Deadline Mode"] */
void lapic_timer_lvtt_changed(struct lapic *l)
{
	struct lapic_timer *t = &l->timer;
	u32 mode;

	lock_take(&t->lock);
	mode = (lapic_get(l, APIC_LVTT) & t->mode_mask) >> 17;
	if (mode != t->mode) {
		if (mode == APIC_TSCDEADLINE || t->mode == APIC_TSCDEADLINE) {
			disarm(l);
			atomic_store(&t->pending, 0);
			lapic_put(l, APIC_TMICT, 0);
			t->period = 0;
			t->tscdeadline = 0;
		}
		t->mode = mode;
		limit_period(t);
	}
	lock_drop(&t->lock);
}

/* [SDM3A "Divide Configuration Register"]: 000 divides by 2, ... 110 by 128, 111 by 1. */
static u32 divisor(u32 tdcr)
{
	u32 n = ((tdcr & 3) | (tdcr >> 1 & 4)) + 1;

	return 1u << (n & 7);
}

void lapic_timer_divide_changed(struct lapic *l, bool rescale)
{
	struct lapic_timer *t = &l->timer;
	u32 old;
	u64 now, left;

	lock_take(&t->lock);
	old = t->divide;
	t->divide = divisor(lapic_get(l, APIC_TDCR));
	if (rescale && t->divide != old && t->period && t->mode != APIC_TSCDEADLINE) {
		now = irq_now(l->chip);
		left = t->target > now ? t->target - now : 0;
		t->period = count_to_ns(t, lapic_get(l, APIC_TMICT));
		limit_period(t);
		t->target = now + mul_div(left, t->divide, old);
		if (t->due != IRQ_NEVER)
			arm(l, t->target);
	}
	lock_drop(&t->lock);
}

u32 lapic_timer_count(struct lapic *l)
{
	struct lapic_timer *t = &l->timer;
	u64 now = irq_now(l->chip), left;
	u32 count = 0;

	lock_take(&t->lock);
	if (t->mode != APIC_TSCDEADLINE && t->period && lapic_get(l, APIC_TMICT)) {
		left = t->target > now ? t->target - now : 0;
		if (left > t->period)
			left %= t->period;
		count = (u32)(left / (BUS_CYCLE_NS * t->divide));
	}
	lock_drop(&t->lock);
	return count;
}

u64 lapic_timer_tscdeadline(struct lapic *l)
{
	u64 d;

	lapic_timer_sync(l);
	lock_take(&l->timer.lock);
	d = l->timer.mode == APIC_TSCDEADLINE ? l->timer.tscdeadline : 0;
	lock_drop(&l->timer.lock);
	return d;
}

void lapic_timer_set_tscdeadline(struct lapic *l, u64 val)
{
	bool mine;

	lock_take(&l->timer.lock);
	mine = l->timer.mode == APIC_TSCDEADLINE;
	if (mine)
		l->timer.tscdeadline = val;
	lock_drop(&l->timer.lock);
	if (mine)
		lapic_timer_start(l, APIC_TMICT);
}

u64 lapic_timer_deadline(struct vcpu *v)
{
	u64 due;

	if (!v->lapic)
		return IRQ_NEVER;
	lock_take(&v->lapic->timer.lock);
	due = v->lapic->timer.due;
	lock_drop(&v->lapic->timer.lock);
	return due;
}

void lapic_timer_poll(struct vcpu *v)
{
	if (v->lapic)
		fire(v->lapic, irq_now(v->lapic->chip));
}
