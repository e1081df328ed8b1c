/* SPDX-License-Identifier: MIT */
/*
 * Memory slots: immutable sorted sets, replaced as a whole.
 */
#include "mem/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Plain user memory ends here; the last page is the kernel's guard. */
#define HVA_END 0x7ffffffff000ull

struct memslots {
	u32 n;
	struct slot_ref {
		gpa_t gpa;
		gpa_t last; /* its last byte */
		struct memslot *slot;
	} ref[];
};

/* A mapping each for tens of thousands of small slots would exhaust vm.max_map_count. */
#define MAP_FROM (64u * 1024)

static void *map_zero(size_t bytes)
{
	void *p;

	if (bytes < MAP_FROM)
		return calloc(1, bytes);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void unmap(void *p, size_t bytes)
{
	if (bytes < MAP_FROM)
		free(p);
	else
		munmap(p, bytes);
}

static size_t users_bytes(u64 npages) { return npages * sizeof(u64); }
static size_t dirty_bytes(u64 npages) { return (npages + 63) / 64 * 8; }

static void slot_free(struct memslot *s, bool own_users, bool own_dirty)
{
	if (!s)
		return;
	if (own_users && s->code_users)
		unmap((void *)s->code_users, users_bytes(s->npages));
	if (own_dirty && s->dirty)
		unmap(s->dirty, dirty_bytes(s->npages));
	free(s);
}

/* Sizes are rounded up so that the next set finds the memory of the last but one. */
static struct memslots *set_alloc(u32 n)
{
	size_t room = n <= 16 ? 16 : 2ull << (31 - __builtin_clz(n - 1));
	struct memslots *set = malloc(sizeof(*set) + room * sizeof(set->ref[0]));

	if (set)
		set->n = n;
	return set;
}

int mem_init(struct mem *m)
{
	memset(m, 0, sizeof(*m));
	for (unsigned int as = 0; as < MEM_AS_NUM; as++) {
		struct memslots *set = set_alloc(0);

		m->by_id[as] = map_zero(MEM_SLOTS_MAX * sizeof(struct memslot *));
		if (!set || !m->by_id[as]) {
			free(set);
			mem_destroy(m);
			return -ENOMEM;
		}
		atomic_store_explicit(&m->as[as], set, memory_order_release);
	}
	return 0;
}

static void retired_free(struct mem *m)
{
	free(m->retired.set);
	slot_free(m->retired.slot, m->retired.own_users, m->retired.own_dirty);
	memset(&m->retired, 0, sizeof(m->retired));
}

void mem_destroy(struct mem *m)
{
	retired_free(m);
	for (unsigned int as = 0; as < MEM_AS_NUM; as++) {
		struct memslots *set = atomic_load_explicit(&m->as[as], memory_order_relaxed);

		for (u32 i = 0; set && i < set->n; i++)
			slot_free(set->ref[i].slot, true, true);
		free(set);
		if (m->by_id[as])
			munmap(m->by_id[as], MEM_SLOTS_MAX * sizeof(struct memslot *));
	}
	memset(m, 0, sizeof(*m));
}

/* Index of the first slot that ends at or after gpa */
static u32 lower_bound(const struct memslots *set, gpa_t gpa)
{
	u32 lo = 0;
	u32 hi = set->n;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (set->ref[mid].last < gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct memslot *mem_slot_find(const struct mem *m, unsigned int as, gpa_t gpa)
{
	const struct memslots *set = atomic_load_explicit(&m->as[as], memory_order_acquire);
	u32 i = lower_bound(set, gpa);

	return i < set->n && set->ref[i].gpa <= gpa ? set->ref[i].slot : NULL;
}

struct memslot *mem_slot_by_id(const struct mem *m, unsigned int as, unsigned int id)
{
	return as < MEM_AS_NUM && id < MEM_SLOTS_MAX ? m->by_id[as][id] : NULL;
}

hva_t mem_hva(const struct mem *m, unsigned int as, gpa_t gpa)
{
	const struct memslot *s = mem_slot_find(m, as, gpa);

	return s ? memslot_hva(s, gpa) : NULL;
}

/* ---- changing the set ------------------------------------------------------------------------- */

/*
 * A copy of old without slot `without` and with slot `with`; either may be NULL. VMMs with tens of thousands
 * of slots make block copies worth while.
 */
static struct memslots *set_edit(const struct memslots *old, const struct memslot *without,
				 struct memslot *with)
{
	struct memslots *set = set_alloc(old->n + 1);
	u32 out = without ? lower_bound(old, without->gpa) : old->n;
	u32 at;

	if (!set)
		return NULL;
	set->n = old->n - !!without;
	memcpy(set->ref, old->ref, out * sizeof(set->ref[0]));
	memcpy(set->ref + out, old->ref + out + !!without, (set->n - out) * sizeof(set->ref[0]));
	if (!with)
		return set;
	at = lower_bound(set, with->gpa);
	memmove(set->ref + at + 1, set->ref + at, (set->n - at) * sizeof(set->ref[0]));
	set->ref[at] = (struct slot_ref){ with->gpa, with->gpa + (with->npages << PAGE_SHIFT) - 1, with };
	set->n++;
	return set;
}

static bool overlaps(const struct memslots *set, const struct memslot *self, gpa_t gpa, u64 size)
{
	for (u32 i = lower_bound(set, gpa); i < set->n && set->ref[i].gpa <= gpa + size - 1; i++) {
		if (set->ref[i].slot != self)
			return true;
	}
	return false;
}

/* Publish the edit; `old` and its set wait for the next change before they are freed. */
static int replace(struct mem *m, unsigned int as, unsigned int id, struct memslot *old, struct memslot *new)
{
	struct memslots *was = atomic_load_explicit(&m->as[as], memory_order_relaxed);
	struct memslots *set = set_edit(was, old, new);

	if (!set)
		return -ENOMEM;
	retired_free(m);
	m->by_id[as][id] = new;
	m->npages += (new ? new->npages : 0) - (old ? old->npages : 0);
	atomic_store_explicit(&m->as[as], set, memory_order_release);
	atomic_fetch_add_explicit(&m->generation, 1, memory_order_release);
	m->retired.set = was;
	m->retired.slot = old;
	m->retired.own_users = old && (!new || new->code_users != old->code_users);
	m->retired.own_dirty = old && (!new || new->dirty != old->dirty);
	return 0;
}

static int attach_dirty(const struct mem *m, struct memslot *s, const struct memslot *old)
{
	if (!(s->flags & MEMSLOT_LOG_DIRTY))
		return 0;
	s->rings = m->rings ? m : NULL;
	if (old && old->dirty) {
		s->dirty = old->dirty;
		return 0;
	}
	s->dirty = map_zero(dirty_bytes(s->npages));
	if (!s->dirty)
		return -ENOMEM;
	if (m->dirty_init_set) {
		memset(s->dirty, 0xff, s->npages / 64 * 8);
		if (s->npages % 64)
			s->dirty[s->npages / 64] = BIT(s->npages % 64) - 1;
	}
	return 0;
}

static int put_slot(struct mem *m, unsigned int as, struct memslot *old, const struct memslot *want)
{
	bool same_place = old && old->gpa == want->gpa;
	struct memslot *s = malloc(sizeof(*s));
	int err = -ENOMEM;

	if (!s)
		return err;
	*s = *want;
	s->code_users = same_place ? old->code_users : map_zero(users_bytes(s->npages));
	if (s->code_users)
		err = attach_dirty(m, s, old);
	if (!err)
		err = replace(m, as, s->id, old, s);
	if (err)
		slot_free(s, !same_place, !old || s->dirty != old->dirty);
	return err;
}

static int check_args(unsigned int as, unsigned int id, u32 flags, gpa_t gpa, u64 size, hva_t hva)
{
	if (flags & ~(u32)(MEMSLOT_LOG_DIRTY | MEMSLOT_READONLY))
		return -EINVAL;
	if ((size | gpa | (u64)hva) & ~PAGE_MASK)
		return -EINVAL;
	if (size > HVA_END || (u64)hva > HVA_END - size)
		return -EINVAL;
	if (as >= MEM_AS_NUM || id >= MEM_SLOTS_MAX)
		return -EINVAL;
	if (gpa + size < gpa || size >> PAGE_SHIFT > MEM_SLOT_PAGES_MAX)
		return -EINVAL;
	return 0;
}

int mem_set_slot(struct mem *m, unsigned int as, unsigned int id, u32 flags, gpa_t gpa, u64 size, hva_t hva)
{
	struct memslot want = { .gpa = gpa, .npages = size >> PAGE_SHIFT, .hva = hva, .id = (u16)id, .flags = flags };
	int err = check_args(as, id, flags, gpa, size, hva);
	struct memslot *old;

	if (err)
		return err;
	old = m->by_id[as][id];
	if (!size)
		return old ? replace(m, as, id, old, NULL) : -EINVAL;
	if (old) {
		if (hva != old->hva || want.npages != old->npages || ((flags ^ old->flags) & MEMSLOT_READONLY))
			return -EINVAL;
		if (gpa == old->gpa && flags == old->flags)
			return 0;
	} else if (m->npages + want.npages < m->npages) {
		return -EINVAL;
	}
	if (!old || gpa != old->gpa) {
		if (overlaps(m->as[as], old, gpa, size))
			return -EEXIST;
		if ((gpa + size - 1) >> MEM_GPA_BITS)
			return -EINVAL;
	}
	return put_slot(m, as, old, &want);
}
