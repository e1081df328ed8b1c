/* SPDX-License-Identifier: MIT */
#include "irq/timer.h"
#include "base/base.h"

/* ---- the heap -------------------------------------------------------------------------------- */

static struct irq_timer *meld(struct irq_timer *a, struct irq_timer *b)
{
	struct irq_timer *t;

	if (!a)
		return b;
	if (!b)
		return a;
	if (b->deadline < a->deadline) {
		t = a;
		a = b;
		b = t;
	}
	b->next = a->child;
	if (b->next)
		b->next->prev = b;
	b->prev = a;
	a->child = b;
	a->next = NULL;
	a->prev = NULL;
	return a;
}

/* Two passes, without recursion: the list may be as long as the heap. */
static struct irq_timer *meld_list(struct irq_timer *list)
{
	struct irq_timer *pairs = NULL, *root = NULL, *a, *b, *rest;

	while (list) {
		a = list;
		b = a->next;
		rest = b ? b->next : NULL;
		a->next = a->prev = NULL;
		if (b)
			b->next = b->prev = NULL;
		a = meld(a, b);
		a->next = pairs;
		pairs = a;
		list = rest;
	}
	while (pairs) {
		a = pairs;
		pairs = a->next;
		a->next = NULL;
		root = meld(root, a);
	}
	return root;
}

static void heap_remove(struct irq_timerq *q, struct irq_timer *t)
{
	struct irq_timer *sub = meld_list(t->child);

	if (q->root == t) {
		q->root = sub;
	} else {
		if (t->prev->child == t)
			t->prev->child = t->next;
		else
			t->prev->next = t->next;
		if (t->next)
			t->next->prev = t->prev;
		q->root = meld(q->root, sub);
	}
	t->child = t->next = t->prev = NULL;
	t->deadline = IRQ_NEVER;
}

/* ---- the queue ------------------------------------------------------------------------------- */

void irq_timerq_init(struct irq_timerq *q, void (*notify)(struct irq_timerq *q, u64 deadline),
		     void *ctx)
{
	*q = (struct irq_timerq){ .armed = IRQ_NEVER, .notify = notify, .ctx = ctx };
}

void irq_timer_init(struct irq_timer *t, void (*fn)(struct irq_timer *t, u64 now))
{
	*t = (struct irq_timer){ .deadline = IRQ_NEVER, .fn = fn };
}

static void tell(struct irq_timerq *q, u64 deadline)
{
	q->armed = deadline;
	if (q->notify)
		q->notify(q, deadline);
}

void irq_timer_arm(struct irq_timerq *q, struct irq_timer *t, u64 deadline)
{
	lock_take(&q->lock);
	if (t->deadline != IRQ_NEVER)
		heap_remove(q, t);
	if (deadline != IRQ_NEVER) {
		t->deadline = deadline;
		q->root = meld(q->root, t);
		if (deadline < q->armed)
			tell(q, deadline);
	}
	lock_drop(&q->lock);
}

void irq_timer_cancel(struct irq_timerq *q, struct irq_timer *t)
{
	irq_timer_arm(q, t, IRQ_NEVER);
}

void irq_timer_cancel_sync(struct irq_timerq *q, struct irq_timer *t)
{
	u32 seq;

	lock_take(&q->lock);
	for (;;) {
		if (t->deadline != IRQ_NEVER)
			heap_remove(q, t);
		if (q->running != t || q->runner == base_gettid())
			break;
		seq = q->done_seq;
		lock_drop(&q->lock);
		futex_wait(&q->done_seq, seq, -1);
		lock_take(&q->lock);
	}
	lock_drop(&q->lock);
}

void irq_timerq_barrier(struct irq_timerq *q)
{
	bool busy;
	u32 seq;

	lock_take(&q->lock);
	seq = q->done_seq;
	busy = q->running && q->runner != base_gettid();
	lock_drop(&q->lock);
	while (busy && q->done_seq == seq)
		futex_wait(&q->done_seq, seq, -1);
}

u64 irq_timerq_next(struct irq_timerq *q)
{
	u64 d;

	lock_take(&q->lock);
	d = q->root ? q->root->deadline : IRQ_NEVER;
	lock_drop(&q->lock);
	return d;
}

void irq_timerq_run(struct irq_timerq *q, u64 now)
{
	struct irq_timer *t;

	lock_take(&q->lock);
	q->runner = base_gettid();
	q->armed = 0; /* no telling while we look ourselves */
	while ((t = q->root) && t->deadline <= now) {
		heap_remove(q, t);
		q->running = t;
		lock_drop(&q->lock);
		t->fn(t, now);
		lock_take(&q->lock);
		q->running = NULL;
		q->done_seq++;
		futex_wake(&q->done_seq, INT32_MAX);
	}
	tell(q, t ? t->deadline : IRQ_NEVER);
	lock_drop(&q->lock);
}
