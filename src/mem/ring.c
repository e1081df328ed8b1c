/* SPDX-License-Identifier: MIT */
/*
 * Dirty rings. An entry is pushed at a page's first write since it was given back; the slot's dirty bit says that
 * it is in some ring, so that the writes after it run at full speed.
 */
#include "mem/mem.h"

#include <linux/kvm.h>

_Thread_local struct mem_ring *mem_ring_self __attribute__((tls_model("initial-exec")));

/* Two address spaces, as in the slot numbers of user space. */
static u32 slot_number(const struct mem *m, const struct memslot *s)
{
	unsigned int as = 0;

	while (as + 1 < MEM_AS_NUM && m->by_id[as][s->id] != s)
		as++;
	return as << 16 | s->id;
}

static bool push(struct mem_ring *r, u32 slot, u64 page)
{
	u32 n = atomic_load(&r->dirty), used;
	struct kvm_dirty_gfn *g;

	do {
		used = n - atomic_load(&r->reset);
		if (used >= r->size)
			return false;
	} while (!atomic_compare_exchange_weak(&r->dirty, &n, n + 1));
	g = &r->gfns[n & (r->size - 1)];
	g->slot = slot;
	g->offset = page;
	__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
	if (used + 1 >= r->soft_limit)
		atomic_fetch_or(r->request, r->request_bits);
	return true;
}

void memslot_tell_ring(struct memslot *s, u64 page)
{
	struct mem_ring *r = mem_ring_self ?: s->rings->first_ring;
	u64 bit = BIT(page % 64);

	if (!r || !r->size || (__atomic_fetch_or(&s->dirty[page / 64], bit, __ATOMIC_ACQ_REL) & bit))
		return;
	/* No room: without its bit the next write comes here again. */
	if (!push(r, slot_number(s->rings, s), page))
		__atomic_fetch_and(&s->dirty[page / 64], ~bit, __ATOMIC_RELAXED);
}

u32 mem_ring_reset(const struct mem *m, struct mem_ring *r)
{
	u32 n = 0;

	for (; r->size && n < r->size; n++) {
		struct kvm_dirty_gfn *g = &r->gfns[atomic_load(&r->reset) & (r->size - 1)];
		u32 slot = g->slot;
		u64 page = g->offset;
		struct memslot *s;

		if (!(__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
			break;
		__atomic_store_n(&g->flags, 0, __ATOMIC_RELEASE);
		atomic_fetch_add(&r->reset, 1);
		/* The entry lay in memory of user space: believe nothing that it says. */
		if (slot >> 16 >= MEM_AS_NUM || (slot & 0xffff) >= MEM_SLOTS_MAX)
			continue;
		s = mem_slot_by_id(m, slot >> 16, slot & 0xffff);
		if (s && s->dirty && page < s->npages)
			__atomic_fetch_and(&s->dirty[page / 64], ~BIT(page % 64), __ATOMIC_ACQ_REL);
	}
	return n;
}
