/* SPDX-License-Identifier: MIT */
/*
 * Blocks of one page that go to each other directly.
 *
 * Only inside a page: within it, who may execute a block may execute its neighbours, wherever the page is mapped, so a
 * change of the guest's page tables never breaks a link. All other ways lead through the jump cache.
 */
#include "jit/jit_priv.h"

#include <string.h>

static void point(struct jit *j, const struct exit *x, u32 to)
{
	u32 rel = to - x->at;

	__atomic_store_n((u32 *)(j->x.rw + x->at - 4), rel, __ATOMIC_RELAXED);
}

static void link_exit(struct jit *j, struct exit *x, u32 n)
{
	const struct block *b = &j->block[n];
	bool host = x->flags == FLAGS_HOST || (x->flags == FLAGS_BOTH && b->likes_host);

	x->to = n;
	point(j, x, host ? b->host : b->saved);
	j->stats.links++;
}

static bool alive(const struct trace *t)
{
	return t->block && !t->dead && t->gpa2 == ~0ull;
}

static void link_out(struct vcpu *v, const struct block *b)
{
	struct jit *j = v->jit;

	for (u32 k = b->exit0; k < b->exit0 + b->nexits; k++) {
		struct exit *x = &j->exit[k];
		struct trace *t;

		if (x->off >= PAGE_SIZE || x->to)
			continue;
		t = rcache_peek(v, (b->t->gpa & PAGE_MASK) | x->off, b->t->key);
		if (t && alive(t) && t->verified == v->verify)
			link_exit(j, x, t->block);
	}
}

static bool may_link(const struct jit *j)
{
	return !j->lockstep && !(j->force & FORCE_APART);
}

/* Exits of other blocks to this one, and of this one to others. */
void link_block(struct vcpu *v, u32 n)
{
	struct jit *j = v->jit;
	struct block *b = &j->block[n];
	gpa_t page = b->t->gpa & PAGE_MASK;
	u16 off = (u16)(b->t->gpa & ~PAGE_MASK);

	if (b->t->gpa2 != ~0ull || !may_link(j))
		return;
	for (struct trace *t = rcache_on_page(v, page, NULL); t; t = rcache_on_page(v, page, t)) {
		struct block *o = &j->block[t->block];

		if (!alive(t) || t->key != b->t->key)
			continue;
		for (u32 k = o->exit0; k < o->exit0 + o->nexits; k++)
			if (j->exit[k].off == off && !j->exit[k].to)
				link_exit(j, &j->exit[k], n);
	}
	link_out(v, b);
}

void unlink_block(struct vcpu *v, u32 n)
{
	struct jit *j = v->jit;
	gpa_t page = j->block[n].t->gpa & PAGE_MASK;

	for (struct trace *t = rcache_on_page(v, page, NULL); t; t = rcache_on_page(v, page, t)) {
		struct block *o = &j->block[t->block];

		if (!t->block)
			continue;
		for (u32 k = o->exit0; k < o->exit0 + o->nexits; k++) {
			if (j->exit[k].to != n)
				continue;
			j->exit[k].to = 0;
			point(j, &j->exit[k], j->exit[k].cold);
		}
	}
}

void link_sever(struct vcpu *v, gpa_t page)
{
	struct jit *j = v->jit;

	for (struct trace *t = rcache_on_page(v, page, NULL); t; t = rcache_on_page(v, page, t)) {
		struct block *o = &j->block[t->block];

		for (u32 k = o->exit0; t->block && k < o->exit0 + o->nexits; k++) {
			if (!j->exit[k].to)
				continue;
			j->exit[k].to = 0;
			point(j, &j->exit[k], j->exit[k].cold);
		}
	}
}

void link_join(struct vcpu *v, gpa_t page)
{
	struct jit *j = v->jit;

	if (!may_link(j))
		return;
	for (struct trace *t = rcache_on_page(v, page, NULL); t; t = rcache_on_page(v, page, t))
		if (alive(t) && t->verified == v->verify)
			link_out(v, &j->block[t->block]);
}
