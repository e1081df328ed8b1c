/* SPDX-License-Identifier: MIT */
/*
 * Blocks of one page that go to each other directly.
 *
 * Only inside a page: within it, who may execute a block may execute its neighbours, wherever the page is mapped, so a
 * change of the guest's page tables never breaks a link. All other ways lead through the jump cache.
 */
#include "jit/jit_priv.h"

static void point(struct jit *j, const struct exit *x, u32 to)
{
	u32 rel = to - x->at;

	__atomic_store_n((u32 *)(j->x.rw + x->at - 4), rel, __ATOMIC_RELAXED);
}

/* Exits are on one list each, by index + 1: those of a block's own, or of what waits for a place. */
static u32 *waiting(struct jit *j, gpa_t gpa)
{
	return &j->wait[(gpa ^ gpa >> PAGE_SHIFT) & (WAIT_LISTS - 1)];
}

static void push(struct jit *j, u32 *list, u32 k)
{
	j->exit[k].next = *list;
	*list = k + 1;
}

static void link_exit(struct jit *j, u32 k, u32 n)
{
	struct exit *x = &j->exit[k];
	struct block *b = &j->block[n];
	bool host = x->flags == FLAGS_HOST || (x->flags == FLAGS_BOTH && b->likes_host);

	x->to = n;
	point(j, x, x->loop && x->from == n ? b->loop : host ? b->host : b->saved);
	push(j, &b->in, k);
}

static bool alive(const struct trace *t)
{
	return t->block && !t->dead && t->gpa2 == ~0ull;
}

/* Is the block that it leaves still there? */
static bool exit_alive(const struct jit *j, const struct exit *x)
{
	return j->block[x->from].t->block == x->from;
}

#define PASSED 8

void link_in(struct vcpu *v, u32 n)
{
	struct jit *j = v->jit;
	struct trace *t = j->block[n].t;
	u32 *list = waiting(j, t->gpa);
	unsigned int passed = 0;

	t->awaited = !alive(t) || t->verified != v->verify;
	if (t->awaited)
		return;
	while (*list) {
		u32 k = *list - 1;
		struct exit *x = &j->exit[k];
		bool here = x->target == t->gpa && x->key == t->key;

		/* Only long lists are worth the misses that it costs to find out who is gone. */
		if (!here && (passed++ < PASSED || exit_alive(j, x))) {
			list = &x->next;
			continue;
		}
		*list = x->next;
		if (here && exit_alive(j, x))
			link_exit(j, k, n);
	}
}

static void link_out(struct vcpu *v, u32 n)
{
	struct jit *j = v->jit;
	const struct block *b = &j->block[n];
	gpa_t page = b->t->gpa & PAGE_MASK;

	for (u32 k = b->exit0; k < b->exit0 + b->nexits; k++) {
		struct exit *x = &j->exit[k];
		struct trace *t;

		if (x->off >= PAGE_SIZE)
			continue;
		x->from = n;
		x->target = page | x->off;
		x->key = b->t->key;
		t = rcache_peek(v, x->target, x->key);
		if (t && alive(t) && t->verified == v->verify) {
			link_exit(j, k, t->block);
			continue;
		}
		if (t)
			t->awaited = true;
		push(j, waiting(j, x->target), k);
	}
}

/*
 * Exits of other blocks to this new one, and of this one to others. A block that lies in two pages is entered through
 * the jump cache only, since the second page may be another one here; from it the first is as near as from any.
 */
void link_block(struct vcpu *v, u32 n)
{
	struct jit *j = v->jit;

	if (j->lockstep || j->force & FORCE_APART)
		return;
	link_in(v, n);
	link_out(v, n);
}

void unlink_block(struct vcpu *v, u32 n)
{
	struct jit *j = v->jit;
	struct block *b = &j->block[n];
	u32 next;

	for (u32 ref = b->in; ref; ref = next) {
		struct exit *x = &j->exit[ref - 1];

		next = x->next;
		x->to = 0;
		point(j, x, x->cold);
		push(j, waiting(j, b->t->gpa), ref - 1);
	}
	b->in = 0;
	b->t->awaited = true;
}
