/* SPDX-License-Identifier: MIT */
/*
 * Pages that hold decoded code, and what happens when it is written.
 *
 * A written trace becomes stale: nothing leads to it any more, but it stays, and whoever looks for it compares its
 * bytes. Equal ones bring it back, translation and all; others are decoded in its place. Patched code, code that
 * shares its page with data, and pages that are loaded again thus cost little more than the comparison. A page that is
 * written again and again between two looks at its code loses its mark, and the stores run at full speed.
 */
#include "cpu/rcache_priv.h"

#include <string.h>

#include "cpu/native.h"

/*
 * What a page bears of slow stores; those that translated code makes by a pointer weigh one. Marking the page again
 * costs as much as some tens of them, and more if other vCPUs have to be paused; code that has really changed is being
 * made, and will be followed by more.
 */
#define PATIENCE_NEW 48u
#define PATIENCE_FIRST 128u
#define PATIENCE_MAX 4096u
#define WEIGHT 4u

static u32 hash_page(gpa_t gpa)
{
	return (u32)((gpa >> PAGE_SHIFT) * 0x9e3779b1u >> 8) & (RCACHE_PAGE_HASH - 1);
}

struct code_page *page_lookup(struct rcache *rc, gpa_t page)
{
	u32 n = rc->page_hash[hash_page(page)];

	while (n && rc->page[n - 1].gpa != page)
		n = rc->page[n - 1].hash_next;
	return n ? &rc->page[n - 1] : NULL;
}

static struct code_page *page_get(struct rcache *rc, gpa_t page)
{
	struct code_page *p = page_lookup(rc, page);
	u32 n;

	if (p)
		return p;
	if (rc->free_page) {
		n = rc->free_page;
		rc->free_page = rc->page[n - 1].hash_next;
	} else if (rc->npages < RCACHE_PAGES) {
		n = ++rc->npages;
	} else {
		return NULL;
	}
	p = &rc->page[n - 1];
	p->gpa = page;
	p->granules = 0;
	p->writes = 0;
	p->patience = PATIENCE_FIRST;
	p->verified = 0;
	p->traces = p->code = 0;
	p->hash_next = rc->page_hash[hash_page(page)];
	rc->page_hash[hash_page(page)] = n;
	return p;
}

void page_unmark(struct vcpu *v, gpa_t page)
{
	/* A code_page stands for this address in SMM and outside. */
	for (unsigned int as = 0; as < MEM_AS_NUM; as++) {
		struct memslot *s = mem_slot_find(&v->vm->mem, as, page);

		if (s && s->code_users)
			__atomic_fetch_and(&s->code_users[(page - s->gpa) >> PAGE_SHIFT], ~BIT(v->index),
					   __ATOMIC_SEQ_CST);
	}
}

static void page_release(struct vcpu *v, struct code_page *p)
{
	struct rcache *rc = v->rc;
	u32 n = (u32)(p - rc->page) + 1;
	u32 *link = &rc->page_hash[hash_page(p->gpa)];

	while (*link != n)
		link = &rc->page[*link - 1].hash_next;
	*link = p->hash_next;
	p->hash_next = rc->free_page;
	rc->free_page = n;
	page_unmark(v, p->gpa);
	p->gpa = ~0ull;
}

static void hash_unlink(struct rcache *rc, struct trace *t)
{
	u32 ref = trace_ref(rc, t);
	u32 *link = &rc->hash[hash_trace(t->gpa, t->key)];

	while (*link && *link != ref)
		link = &trace_at(rc, *link)->hash_next;
	if (*link)
		*link = t->hash_next;
}

static u64 granule_mask(unsigned int off, unsigned int len)
{
	unsigned int first = off / 64;
	unsigned int last = (off + len - 1) / 64;

	if (last > 63)
		last = 63;
	return (~0ull << first) & (~0ull >> (63 - last));
}

/* Bytes of page `page` that trace t covers: [*off, *off + *len). */
static void trace_extent(const struct trace *t, gpa_t page, unsigned int *off, unsigned int *len)
{
	unsigned int start = (unsigned int)(t->gpa & ~PAGE_MASK);
	unsigned int in_first = t->nbytes;

	if (start + in_first > PAGE_SIZE)
		in_first = PAGE_SIZE - start;
	if ((t->gpa & PAGE_MASK) == page) {
		*off = start;
		*len = in_first;
	} else {
		*off = 0;
		*len = t->nbytes - in_first;
	}
}

/* The page has t's bytes; what was written before does not tell about them. */
static void page_take(struct code_page *p, const struct trace *t)
{
	unsigned int off, len;

	trace_extent(t, p->gpa, &off, &len);
	p->granules |= granule_mask(off, len);
	p->writes = 0;
}

static void cover(struct vcpu *v, const struct trace *t, gpa_t page, bool remade)
{
	struct code_page *p = page_lookup(v->rc, page);

	if (!p)
		return;
	page_take(p, t);
	if (remade)
		p->patience = PATIENCE_NEW;
}

void page_cover(struct vcpu *v, const struct trace *t, bool remade)
{
	cover(v, t, t->gpa & PAGE_MASK, remade);
	if (t->gpa2 != ~0ull)
		cover(v, t, t->gpa2, remade);
}

void page_add(struct rcache *rc, struct trace *t, gpa_t page)
{
	struct code_page *p = page_get(rc, page);

	if (!p)
		return;
	page_take(p, t);
	*next_on_page(t, page) = p->traces;
	p->traces = trace_ref(rc, t);
}

void page_add_code(struct rcache *rc, struct trace *t)
{
	struct code_page *p = page_lookup(rc, t->gpa & PAGE_MASK);

	if (!p || t->listed || t->gpa2 != ~0ull)
		return;
	t->listed = true;
	t->code_next = p->code;
	p->code = trace_ref(rc, t);
}

/* ---- written code --------------------------------------------------------------------------------- */

void trace_discard(struct vcpu *v, struct trace *t)
{
	hash_unlink(v->rc, t);
	if (t->block)
		v->tr->drop(v, t);
	t->dead = true;
}

/**
 * struct hit - what a write to code has met
 * @live: traces that something may still lead to
 * @forget: one of them may be in the jump cache under several addresses
 */
struct hit {
	bool live, forget;
};

static void trace_stale(struct vcpu *v, struct trace *t, struct hit *h)
{
	struct jentry *j = jcache_set(v, t->lin);

	h->live = true;
	h->forget |= t->aliased;
	for (unsigned int way = 0; way < 2; way++)
		if (j[way].rec == t->rec)
			j[way].mode_key = JENTRY_NEVER;
	if (t->block)
		v->tr->unlink(v, t);
	t->verified = TRACE_STALE;
}

/* Bytes [off, off + len) of the page are written. True: a live trace lay there. The page may be released. */
static bool page_hit(struct vcpu *v, struct code_page *p, unsigned int off, unsigned int len, bool keep)
{
	struct rcache *rc = v->rc;
	u32 *link = &p->traces;
	struct hit h = { 0 };
	u64 granules = 0;

	if (keep && !(p->granules & granule_mask(off, len)))
		return false;

	while (*link) {
		struct trace *t = trace_at(rc, *link);
		unsigned int o, l;

		trace_extent(t, p->gpa, &o, &l);
		if (!t->dead && o < off + len && off < o + l) {
			if (t->verified != TRACE_STALE)
				trace_stale(v, t, &h);
			if (!keep)
				trace_discard(v, t);
		}
		if (t->dead) {
			*link = *next_on_page(t, p->gpa);
			continue;
		}
		if (t->verified != TRACE_STALE)
			granules |= granule_mask(o, l);
		link = next_on_page(t, p->gpa);
	}
	p->granules = granules;
	if (!p->traces)
		page_release(v, p);
	if (h.forget)
		vcpu_forget_jumps(v);
	return h.live;
}

bool rcache_invalidate(struct vcpu *v, gpa_t gpa, unsigned int len)
{
	/* Stale traces hold on to their pages, so not when these become scarce. */
	bool keep = v->rc->npages < RCACHE_PAGES / 2;
	bool hit = false;

	while (len) {
		gpa_t page = gpa & PAGE_MASK;
		unsigned int off = (unsigned int)(gpa & ~PAGE_MASK);
		unsigned int n = len < PAGE_SIZE - off ? len : PAGE_SIZE - off;
		struct code_page *p = page_lookup(v->rc, page);

		if (p)
			hit |= page_hit(v, p, off, n, keep);
		gpa += n;
		len -= n;
	}
	return hit;
}

/* This vCPU has stored to a page it has a mark on. */
static bool page_written(struct vcpu *v, struct code_page *p, unsigned int off, unsigned int len)
{
	gpa_t page = p->gpa;
	bool hit;

	p->writes += WEIGHT;
	hit = page_hit(v, p, off, len, true);
	if (p->gpa != page || p->writes < p->patience)
		return hit;
	if (p->patience < PATIENCE_MAX)
		p->patience *= 2;
	p->writes = 0;
	hit |= page_hit(v, p, 0, PAGE_SIZE, true);
	if (p->gpa == page)
		page_unmark(v, page);
	return hit;
}

bool code_beside(struct vcpu *v, gpa_t gpa, unsigned int len)
{
	struct code_page *p = page_lookup(v->rc, gpa & PAGE_MASK);

	return p && !(p->granules & granule_mask((unsigned int)(gpa & ~PAGE_MASK), len)) &&
	       ++p->writes < p->patience;
}

/* ---- writes seen by this vCPU, told to the others ------------------------------------------------ */

static void queue_inval(struct vcpu *to, gpa_t page)
{
	lock_take(&to->code_inval_lock);
	if (to->code_inval_n < ARRAY_SIZE(to->code_inval))
		to->code_inval[to->code_inval_n++] = page;
	else
		to->code_inval_n = ARRAY_SIZE(to->code_inval) + 1; /* overflow: forget everything */
	lock_drop(&to->code_inval_lock);
	vcpu_request(to, REQ_CODE);
}

bool code_written(struct vcpu *v, struct memslot *s, gpa_t gpa, unsigned int len)
{
	u64 users = s->code_users[(gpa - s->gpa) >> PAGE_SHIFT];
	struct code_page *p;

	for (u64 others = users & ~BIT(v->index); others; others &= others - 1) {
		struct vcpu *o = v->vm->vcpu[__builtin_ctzll(others)];

		if (o)
			queue_inval(o, gpa & PAGE_MASK);
	}
	if (!(users & BIT(v->index)))
		return false;
	p = page_lookup(v->rc, gpa & PAGE_MASK);
	if (!p) {
		page_unmark(v, gpa & PAGE_MASK);
		return false;
	}
	return page_written(v, p, (unsigned int)(gpa & ~PAGE_MASK), len);
}

void rcache_drain(struct vcpu *v)
{
	u64 pages[ARRAY_SIZE(v->code_inval)];
	u32 n;

	lock_take(&v->code_inval_lock);
	n = v->code_inval_n;
	v->code_inval_n = 0;
	if (n <= ARRAY_SIZE(pages))
		memcpy(pages, v->code_inval, n * sizeof(pages[0]));
	lock_drop(&v->code_inval_lock);
	if (n > ARRAY_SIZE(pages)) {
		vcpu_reverify(v);
		return;
	}
	/* The queue names pages, not bytes: compare them again instead of dropping blindly. */
	for (u32 k = 0; k < n; k++) {
		struct code_page *p = page_lookup(v->rc, pages[k]);

		if (p)
			page_hit(v, p, 0, PAGE_SIZE, true);
	}
}
