/* SPDX-License-Identifier: MIT */
/*
 * The dirty log. A set bit means that the page may be written at full speed; clearing it makes the next
 * store take the slow path, provided that the caller also drops the vCPUs' write entries.
 */
#include "mem/mem.h"

#include <errno.h>

#include "mem/guarded.h"

static u64 words(const struct memslot *s)
{
	return (s->npages + 63) / 64;
}

void mem_mark_dirty(const struct mem *m, unsigned int as, gpa_t gpa, size_t len)
{
	gpa_t end = gpa + len;

	for (gpa &= PAGE_MASK; gpa < end; gpa += PAGE_SIZE) {
		struct memslot *s = mem_slot_find(m, as, gpa);

		if (s)
			memslot_mark_dirty(s, memslot_page(s, gpa));
	}
}

int mem_dirty_fetch(struct memslot *s, void *bitmap_out)
{
	if (!s->dirty)
		return -ENOENT;
	return mem_copy_guarded(bitmap_out, s->dirty, words(s) * 8);
}

int mem_dirty_fetch_clear(struct memslot *s, void *bitmap_out)
{
	u64 *out = bitmap_out;

	if (!s->dirty)
		return -ENOENT;
	for (u64 i = 0; i < words(s); i++) {
		u64 bits = __atomic_load_n(&s->dirty[i], __ATOMIC_RELAXED);

		if (bits)
			bits = __atomic_exchange_n(&s->dirty[i], 0, __ATOMIC_ACQ_REL);
		if (mem_store64(&out[i], bits)) {
			__atomic_fetch_or(&s->dirty[i], bits, __ATOMIC_RELAXED);
			return -EFAULT;
		}
	}
	return 0;
}

int mem_dirty_clear(struct memslot *s, u64 first_page, u64 npages, const void *bitmap)
{
	const u64 *in = bitmap;
	u64 left;

	if (first_page & 63)
		return -EINVAL;
	if (!s->dirty)
		return -ENOENT;
	if (first_page > s->npages)
		return -EINVAL;
	left = s->npages - first_page;
	if (npages > left || (npages < left && (npages & 63)))
		return -EINVAL;
	for (u64 i = 0; i < (npages + 63) / 64; i++) {
		u64 bits;

		if (mem_load64(&bits, &in[i]))
			return -EFAULT;
		if (bits)
			__atomic_fetch_and(&s->dirty[first_page / 64 + i], ~bits, __ATOMIC_ACQ_REL);
	}
	return 0;
}
