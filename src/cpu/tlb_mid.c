/* SPDX-License-Identifier: MIT */
/*
 * The level of the data TLB between the direct-mapped arrays and the second level: set-associative, and with entries
 * for 2 MiB where the guest maps so much with one entry and its memory is contiguous on the host. C fills it;
 * translated code searches it when an array misses, without leaving for C (jit/glue_tlb.c).
 *
 * Tags carry a generation, so dropping everything costs one increment.
 */
#include "cpu/tlb.h"

#define GEN_MAX 4095u
#define LARGE_MASK (BIT(LARGE_SHIFT) - 1)

static unsigned int level(const struct vcpu *v)
{
	return v->tlb != v->tlbs[0];
}

/* jit/glue_tlb.c computes the same. */
static struct tlb_mid *mid_set(struct tlb_l1 *l, gva_t la)
{
	u64 vpn = la >> PAGE_SHIFT;

	return l->mid[(vpn ^ vpn >> 9) & (TLB_SETS - 1)];
}

static struct tlb_mid *mid_large(struct tlb_l1 *l, gva_t la)
{
	return &l->large[(la >> LARGE_SHIFT) & (TLB_LARGES - 1)];
}

static u64 write_hash(gpa_t gpa)
{
	return (gpa >> PAGE_SHIFT) & (WRITE_FILTER - 1);
}

static void forget_writes(struct tlb *t)
{
	for (unsigned int i = 0; i < WRITE_FILTER / 64; i++)
		*(volatile u64 *)&t->write_filter[i] = 0;
}

/* A view that was never used stays untouched. */
static void wipe(struct tlb_l1 *l)
{
	for (unsigned int set = 0; set < TLB_SETS; set++)
		for (unsigned int way = 0; way < TLB_WAYS; way++)
			if (l->mid[set][way].tag)
				l->mid[set][way].tag = 0;
	for (unsigned int n = 0; n < TLB_LARGES; n++)
		if (l->large[n].tag)
			l->large[n].tag = 0;
}

void tlb_drop_slots(struct vcpu *v)
{
	for (u32 used = v->slots.used; used; used &= used - 1) {
		unsigned int n = (unsigned int)__builtin_ctz(used);

		for (unsigned int k = 0; k < TLB_SLOTS; k++)
			*(volatile u64 *)&v->slots.page[n / 2][n % 2][k].tag = TLB_NEVER;
	}
	v->slots.used = 0;
}

void mid_clear(struct vcpu *v)
{
	u64 *gen = &v->tlb_gen[level(v)];

	tlb_drop_slots(v);
	forget_writes(v->tlb);
	if (likely(++*gen <= GEN_MAX))
		return;
	for (unsigned int view = 0; view < VIEW_NONE; view++)
		wipe(&v->tlb->l1[view]);
	*gen = 1;
}

/* Are the 2 MiB around a piece of a large page one range of a slot? */
static bool large_fits(const struct vcpu *v, gva_t la, const struct xlat *x)
{
	const struct memslot *s = x->slot;
	gpa_t base = x->page - (la & LARGE_MASK & PAGE_MASK);

	return (x->bits & (XL_LARGE | XL_EFRAG)) == XL_LARGE && !level(v) && !v->mtrr_mixed && !(base & LARGE_MASK) &&
	       base >= s->gpa && base + LARGE_MASK < s->gpa + (s->npages << PAGE_SHIFT);
}

/* Once the dirty bit is set, all that can keep a store from being plain is the log and code. */
static bool large_plain(const struct memslot *s, gpa_t base)
{
	u64 first = memslot_page(s, base), end = first + (LARGE_MASK + 1) / PAGE_SIZE;

	if (s->dirty)
		return false;
	for (u64 page = first; page < end; page += 8) {
		u64 users = 0;

		for (u64 n = 0; n < 8; n++)
			users |= memslot_code_users(s, page + n);
		if (users)
			return false;
	}
	return true;
}

static void large_fill(struct tlb_l1 *l, gva_t la, const struct xlat *x, u64 tag, u64 flags, bool may_write)
{
	struct tlb_mid *e = mid_large(l, la);
	gpa_t base = x->page - (la & LARGE_MASK & PAGE_MASK);

	e->tag = tag;
	e->host = (u64)memslot_hva(x->slot, base);
	e->gpa = base | flags | (may_write ? TLB_WRITE : 0);
}

void mid_fill(struct vcpu *v, struct tlb_l1 *l, gva_t la, const struct xlat *x, u64 gpa, bool may_write)
{
	struct tlb_mid *set = mid_set(l, la), *e = NULL;
	u64 gen = v->tlb_gen[level(v)];

	la &= PAGE_MASK;
	if (large_fits(v, la, x)) {
		bool plain = may_write && large_plain(x->slot, gpa - (la & LARGE_MASK) - (gpa & ~PAGE_MASK));

		if (plain || !may_write) {
			large_fill(l, la, x, (la & ~LARGE_MASK) | gen, gpa & ~PAGE_MASK, plain);
			return;
		}
	}
	for (unsigned int way = 0; way < TLB_WAYS; way++) {
		if ((set[way].tag & PAGE_MASK) == la && set[way].tag) {
			e = &set[way];
			break;
		}
		if (!e && (set[way].tag & ~PAGE_MASK) != gen)
			e = &set[way];
	}
	if (!e)
		e = &set[l->next++ % TLB_WAYS];
	e->tag = la | gen;
	e->host = (u64)memslot_hva(x->slot, x->page);
	e->gpa = gpa | (may_write ? TLB_WRITE : 0);
	if (may_write) {
		u64 h = write_hash(gpa);

		v->tlb->write_filter[h / 64] |= BIT(h % 64);
	}
}

void mid_drop_page(struct tlb_l1 *l, gva_t la)
{
	struct tlb_mid *set = mid_set(l, la);

	for (unsigned int way = 0; way < TLB_WAYS; way++)
		if (((set[way].tag ^ la) & PAGE_MASK) == 0)
			set[way].tag = 0;
	if (((mid_large(l, la)->tag ^ la) & ~LARGE_MASK) == 0)
		mid_large(l, la)->tag = 0;
}

void mid_drop_write(struct tlb *t, struct tlb_l1 *l, gpa_t page)
{
	u64 h = write_hash(page);

	for (unsigned int n = 0; n < TLB_LARGES; n++)
		if ((l->large[n].gpa & ~LARGE_MASK) == (page & ~LARGE_MASK))
			l->large[n].gpa &= ~(u64)TLB_WRITE;
	if (!(t->write_filter[h / 64] >> (h % 64) & 1))
		return;
	for (unsigned int set = 0; set < TLB_SETS; set++)
		for (unsigned int way = 0; way < TLB_WAYS; way++)
			if ((l->mid[set][way].gpa & PAGE_MASK) == page)
				l->mid[set][way].gpa &= ~(u64)TLB_WRITE;
}
