/* SPDX-License-Identifier: MIT */
#include "mem/guarded.h"

#include "mem/mem.h"

extern const struct mem_fixup_entry __start_casement_fixup[] __attribute__((visibility("hidden")));
extern const struct mem_fixup_entry __stop_casement_fixup[] __attribute__((visibility("hidden")));

/* Above this the start-up cost of the microcode is worth paying. */
#define REP_MIN 128

static int copy_rep(void *dst, const void *src, size_t len)
{
	int err = 0;

	__asm__ volatile("1:\trep movsb\n2:\n" MEM_LANDING("3", "err", "2b") MEM_FIXUP("1b", "3b")
			 : "+D"(dst), "+S"(src), "+c"(len), [err] "+r"(err)
			 : [fault] "i"(-EFAULT)
			 : "memory");
	return err;
}

/*
 * REP MOVSB crawls (2 GB/s on Zen) when the destination lies just above the source modulo 4 KiB: each load
 * seems to depend on the stores before it.
 */
static bool rep_crawls(const void *dst, const void *src)
{
	return (((u64)dst - (u64)src) & (PAGE_SIZE - 1)) - 1 < 15;
}

int mem_copy_guarded(void *dst, const void *src, size_t len)
{
	u8 *d = dst;
	const u8 *s = src;
	int err = 0;

	if (len >= REP_MIN && !rep_crawls(dst, src))
		return copy_rep(dst, src, len);
	for (; len >= 8 && !err; len -= 8, d += 8, s += 8) {
		u64 x;

		err = mem_load64(&x, s);
		if (!err)
			err = mem_store64(d, x);
	}
	if (len & 4 && !err) {
		u32 x;

		err = mem_load32(&x, s);
		if (!err)
			err = mem_store32(d, x);
		d += 4;
		s += 4;
	}
	for (len &= 3; len && !err; len--, d++, s++) {
		u8 x;

		err = mem_load8(&x, s);
		if (!err)
			err = mem_store8(d, x);
	}
	return err;
}

u64 mem_fixup(u64 pc)
{
	const struct mem_fixup_entry *e;

	for (e = __start_casement_fixup; e < __stop_casement_fixup; e++) {
		if ((u64)&e->insn + (u64)(s64)e->insn == pc)
			return (u64)&e->landing + (u64)(s64)e->landing;
	}
	return 0;
}

/* Both directions, slot by slot. */
static int copy_guest(const struct mem *m, unsigned int as, gpa_t gpa, void *buf, size_t len, bool write)
{
	u8 *p = buf;

	while (len) {
		struct memslot *s = mem_slot_find(m, as, gpa);
		size_t n = PAGE_SIZE - (gpa & ~PAGE_MASK);
		int err;

		if (n > len)
			n = len;
		if (!s || (write && (s->flags & MEMSLOT_READONLY)))
			return -EFAULT;
		if (write) {
			memslot_mark_dirty(s, memslot_page(s, gpa));
			err = mem_store(memslot_hva(s, gpa), p, (unsigned int)n);
		} else {
			err = mem_load(p, memslot_hva(s, gpa), (unsigned int)n);
		}
		if (err)
			return err;
		gpa += n;
		p += n;
		len -= n;
	}
	return 0;
}

int mem_read(const struct mem *m, unsigned int as, gpa_t gpa, void *dst, size_t len)
{
	return copy_guest(m, as, gpa, dst, len, false);
}

int mem_write(const struct mem *m, unsigned int as, gpa_t gpa, const void *src, size_t len)
{
	return copy_guest(m, as, gpa, (void *)(uintptr_t)src, len, true);
}
