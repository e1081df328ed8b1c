/* SPDX-License-Identifier: MIT */
/* The queue of deadlines against a sorted model, with random arming and cancelling. */
#include "irq_fake.h"

#define N 200

struct item {
	struct irq_timer t;
	u64 want;	/* model: deadline or IRQ_NEVER */
	u64 fired_at;
};

static struct item item[N];
static u64 told;
static u64 last;
static bool out_of_order;

static void on_item(struct irq_timer *t, u64 now)
{
	struct item *i = container_of(t, struct item, t);

	if (i->want < last)
		out_of_order = true;
	last = i->want;
	i->fired_at = now;
	i->want = IRQ_NEVER;
}

static void on_notify(struct irq_timerq *q, u64 deadline)
{
	told = deadline;
}

static u64 model_next(void)
{
	u64 m = IRQ_NEVER;

	for (int i = 0; i < N; i++)
		if (item[i].want < m)
			m = item[i].want;
	return m;
}

static void test_random(void)
{
	struct irq_timerq q;
	u64 now = 1000, seed = tap_seed();
	bool next_ok = true, late = false, told_ok = true;

	irq_timerq_init(&q, on_notify, NULL);
	for (int i = 0; i < N; i++) {
		irq_timer_init(&item[i].t, on_item);
		item[i].want = IRQ_NEVER;
	}
	for (int step = 0; step < 50000; step++) {
		struct item *it;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		it = &item[(seed >> 33) % N];
		switch (seed >> 60) {
		case 0:
		case 1:
			irq_timer_cancel(&q, &it->t);
			it->want = IRQ_NEVER;
			break;
		case 2:
		case 3:
			now += (seed >> 20) % 300;
			last = 0;
			irq_timerq_run(&q, now);
			late |= model_next() <= now;
			told_ok &= told == model_next();
			break;
		default:
			it->want = now + 1 + (seed >> 12) % 2000;
			irq_timer_arm(&q, &it->t, it->want);
			break;
		}
		next_ok &= irq_timerq_next(&q) == model_next();
		told_ok &= told <= model_next();
	}
	ok(next_ok, "earliest deadline is that of a sorted list");
	ok(!late, "run leaves nothing that is due");
	ok(!out_of_order, "timers fire in order of their deadlines");
	ok(told_ok, "the serving thread is never told too late a deadline");
}

static struct irq_timerq rearm_q;
static int rearmed;

static void on_rearm(struct irq_timer *t, u64 now)
{
	if (++rearmed < 5)
		irq_timer_arm(&rearm_q, t, now + 10);
}

static void test_rearm(void)
{
	struct irq_timer t;

	irq_timerq_init(&rearm_q, NULL, NULL);
	irq_timer_init(&t, on_rearm);
	irq_timer_arm(&rearm_q, &t, 100);
	irq_timerq_run(&rearm_q, 99);
	is(irq_timerq_next(&rearm_q), 100, "nothing before its time");
	is(rearmed, 0, "callback did not run early");
	irq_timerq_run(&rearm_q, 100);
	is(irq_timerq_next(&rearm_q), 110, "a callback may arm its own timer");
	for (u64 now = 110; now < 200; now += 10)
		irq_timerq_run(&rearm_q, now);
	is(rearmed, 5, "periodic by re-arming");
	is(irq_timerq_next(&rearm_q), IRQ_NEVER, "empty in the end");
	irq_timer_cancel_sync(&rearm_q, &t);
}

int main(void)
{
	test_random();
	test_rearm();
	return done_testing();
}
