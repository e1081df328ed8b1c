/* SPDX-License-Identifier: MIT */
/* Slots with every errno, the dirty log, guarded copies. */
#include "mem_fake.h"

#include <fcntl.h>

#define MIB (1ull << 20)

static struct mem m;
static u8 *ram;

static int set(unsigned int as, unsigned int id, u32 flags, gpa_t gpa, u64 size, void *hva)
{
	return mem_set_slot(&m, as, id, flags, gpa, size, hva);
}

static void arguments(void)
{
	u8 *end = (u8 *)0x7ffffffff000ull;

	is(set(0, 0, 4, 0, MIB, ram), -EINVAL, "unknown flag");
	is(set(0, 0, 0, 0, MIB + 1, ram), -EINVAL, "size not page aligned");
	is(set(0, 0, 0, 0x800, MIB, ram), -EINVAL, "gpa not page aligned");
	is(set(0, 0, 0, 0, MIB, ram + 1), -EINVAL, "hva not page aligned");
	is(set(0, 0, 0, 0, MIB, end), -EINVAL, "hva outside user memory");
	is(set(0, 0, 0, 0, MIB, end - MIB + PAGE_SIZE), -EINVAL, "hva range ends outside user memory");
	is(set(0, 0, 0, 0, ~0ull << PAGE_SHIFT, ram), -EINVAL, "size beyond the address space");
	is(set(0, 0, 0, 0, MIB, (u8 *)0xffff888000000000ull), -EINVAL, "kernel address");
	is(set(2, 0, 0, 0, MIB, ram), -EINVAL, "no such address space");
	is(set(0, MEM_SLOTS_MAX, 0, 0, MIB, ram), -EINVAL, "slot number too large");
	is(set(0, 0, 0, ~0ull << PAGE_SHIFT, 2 * PAGE_SIZE, ram), -EINVAL, "gpa range wraps");
	is(set(0, 0, 0, BIT(52), PAGE_SIZE, ram), -EINVAL, "gpa beyond 52 bits");
	is(set(0, 0, 0, BIT(52) - PAGE_SIZE, PAGE_SIZE, ram), 0, "the last page below it");
	is(set(0, 0, 0, 0, 0, ram), 0, "is deleted by size 0, whatever gpa is given");
	is(set(0, 0, 0, 0, 0, ram), -EINVAL, "deleting twice");
	is(set(0, 0, 0, 0, (MEM_SLOT_PAGES_MAX + 1) << PAGE_SHIFT, (void *)PAGE_SIZE), -EINVAL, "too many pages");
}

static void changes(void)
{
	is(set(0, 1, 0, MIB, MIB, ram), 0, "create");
	is(set(0, 1, 0, MIB, MIB, ram), 0, "nothing to change");
	is(set(0, 1, 0, MIB, 2 * MIB, ram), -EINVAL, "resize");
	is(set(0, 1, 0, MIB, MIB, ram + MIB), -EINVAL, "other hva");
	is(set(0, 1, MEMSLOT_READONLY, MIB, MIB, ram), -EINVAL, "make read-only");
	is(set(0, 2, 0, 2 * MIB - PAGE_SIZE, MIB, ram), -EEXIST, "overlap at the end");
	is(set(0, 2, 0, 0, MIB + PAGE_SIZE, ram), -EEXIST, "overlap at the start");
	is(set(0, 2, 0, MIB + PAGE_SIZE, PAGE_SIZE, ram), -EEXIST, "overlap inside");
	is(set(0, 2, 0, 0, 4 * MIB, ram), -EEXIST, "overlap around");
	is(set(1, 1, 0, MIB, MIB, ram), 0, "same numbers and place in the other address space");
	is(set(0, 2, 0, 2 * MIB, MIB, ram + MIB), 0, "right behind");
	is(set(0, 2, 0, MIB, MIB, ram + MIB), -EEXIST, "move onto another slot");
	is(set(0, 2, 0, 2 * MIB + PAGE_SIZE, MIB, ram + MIB), 0, "move onto itself");
	ok(!mem_slot_find(&m, 0, 2 * MIB), "its old place is empty");
	is((u64)mem_hva(&m, 0, 2 * MIB + PAGE_SIZE + 5), (u64)(ram + MIB + 5), "its new place is there");
	ok(!mem_slot_find(&m, 0, 0) && !mem_slot_find(&m, 0, MIB - 1), "nothing below the first");
	ok(mem_slot_find(&m, 0, MIB) && mem_slot_find(&m, 0, 2 * MIB - 1), "first and last byte are found");
	ok(!mem_slot_find(&m, 0, ~0ull), "nothing at the top");
	is((u64)mem_slot_by_id(&m, 0, 1), (u64)mem_slot_find(&m, 0, MIB), "by number");
	ok(!mem_slot_by_id(&m, 0, 3), "absent number");
	is(set(1, 1, 0, 0, 0, NULL), 0, "delete in the other address space");
	ok(mem_slot_find(&m, 0, MIB) != NULL, "leaves this one");
	is(set(0, 1, 0, 0, 0, NULL), 0, "delete");
	is(set(0, 2, 0, 0, 0, NULL), 0, "delete");
}

static void many(void)
{
	bool good = true;

	for (unsigned int i = 0; i < 600; i++) {
		unsigned int id = i * 7919u % 600;

		good &= !set(0, id, 0, (u64)id * 2 * PAGE_SIZE, PAGE_SIZE, ram + id * PAGE_SIZE);
	}
	for (unsigned int id = 0; id < 600; id++) {
		const struct memslot *s = mem_slot_find(&m, 0, (u64)id * 2 * PAGE_SIZE + 77);

		good &= s && s->id == id && !mem_slot_find(&m, 0, (u64)id * 2 * PAGE_SIZE + PAGE_SIZE);
	}
	for (unsigned int id = 0; id < 600; id++)
		good &= !set(0, id, 0, 0, 0, NULL);
	ok(good && !m.npages, "600 slots made in no order are found and deleted");
}

static void dirty_log(void)
{
	u64 map[4] = { 0 }, all = ~0ull;
	struct memslot *s;

	is(set(0, 0, 0, 0, 130 * PAGE_SIZE, ram), 0, "slot without a log");
	s = mem_slot_by_id(&m, 0, 0);
	is(mem_dirty_fetch_clear(s, map), -ENOENT, "fetch without a log");
	is(mem_dirty_clear(s, 0, 64, map), -ENOENT, "clear without a log");
	atomic_store(&s->code_users[3], 5);
	is(set(0, 0, MEMSLOT_LOG_DIRTY, 0, 130 * PAGE_SIZE, ram), 0, "turn the log on");
	s = mem_slot_by_id(&m, 0, 0);
	is(memslot_code_users(s, 3), 5, "code marks stay");
	mem_mark_dirty(&m, 0, 5 * PAGE_SIZE + 4095, 2);
	is(mem_write(&m, 0, 129 * PAGE_SIZE, &all, 8), 0, "a write by the engine");
	is(mem_dirty_fetch(s, map), 0, "fetch");
	is(map[0], 3 << 5, "two pages for a crossing write");
	is(map[2], 2, "the last page");
	is(mem_dirty_fetch_clear(s, map), 0, "fetch and clear");
	is(map[0] | map[2], (3 << 5) | 2, "the same bits");
	is(mem_dirty_fetch(s, map) || map[0] || map[1] || map[2], 0, "are gone");
	mem_mark_dirty(&m, 0, 0, 130 * PAGE_SIZE);
	is(mem_dirty_clear(s, 1, 64, &all), -EINVAL, "clear: unaligned first page");
	is(mem_dirty_clear(s, 192, 0, &all), -EINVAL, "clear: first page beyond the slot");
	is(mem_dirty_clear(s, 64, 63, &all), -EINVAL, "clear: odd count inside");
	is(mem_dirty_clear(s, 64, 67, &all), -EINVAL, "clear: beyond the end");
	is(mem_dirty_clear(s, 128, 2, &all), 0, "clear: odd count at the end");
	map[0] = 1;
	is(mem_dirty_clear(s, 64, 64, map), 0, "clear one bit");
	is(mem_dirty_fetch(s, map), 0, "fetch");
	ok(map[0] == ~0ull && map[1] == ~1ull && map[2] == 0, "only what was asked for is clear");
	is(mem_dirty_fetch_clear(s, (void *)8), -EFAULT, "fetch to a bad address");
	is(mem_dirty_clear(s, 0, 64, (void *)8), -EFAULT, "clear from a bad address");
	is(mem_dirty_fetch(s, map) || map[0] != ~0ull, 0, "loses nothing");
	is(set(0, 0, MEMSLOT_LOG_DIRTY, MIB, 130 * PAGE_SIZE, ram), 0, "a move");
	s = mem_slot_by_id(&m, 0, 0);
	is(mem_dirty_fetch(s, map) || map[0] != ~0ull, 0, "keeps the log");
	is(set(0, 0, 0, MIB, 130 * PAGE_SIZE, ram), 0, "turn the log off");
	ok(!mem_slot_by_id(&m, 0, 0)->dirty, "it is gone");
	m.dirty_init_set = true;
	is(set(0, 0, MEMSLOT_LOG_DIRTY, MIB, 130 * PAGE_SIZE, ram), 0, "initially-set log");
	s = mem_slot_by_id(&m, 0, 0);
	ok(s->dirty[0] == ~0ull && s->dirty[1] == ~0ull && s->dirty[2] == 3, "has every page and no more");
	m.dirty_init_set = false;
	set(0, 0, 0, 0, 0, NULL);
}

static void guarded(void)
{
	u8 buf[2 * PAGE_SIZE], ref[2 * PAGE_SIZE];
	u8 *hole = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char name[] = "/tmp/casement-mem-XXXXXX";
	int fd = mkstemp(name);
	u8 *file;
	bool good = true;
	u64 val;
	u32 half;
	u64 pair[2] = { 0, 0 };

	unlink(name);
	for (unsigned int i = 0; i < sizeof(ref); i++)
		ref[i] = (u8)(i * 7);
	for (unsigned int len = 0; len < 300; len++) {
		memset(buf, 0xee, 400);
		good &= !mem_copy_guarded(buf + 3, ref + len, len);
		good &= !memcmp(buf + 3, ref + len, len) && buf[3 + len] == 0xee && buf[2] == 0xee;
	}
	ok(good, "copies of 0 to 299 bytes are exact");
	mprotect(hole + PAGE_SIZE, PAGE_SIZE, PROT_NONE);
	is(mem_copy_guarded(hole + PAGE_SIZE - 4, ref, 3), 0, "up to the hole");
	for (unsigned int len = 5; len < 400; len += 79)
		is(mem_copy_guarded(hole + PAGE_SIZE - 4, ref, len), -EFAULT, "write of %u bytes into it", len);
	is(mem_copy_guarded(buf, hole + PAGE_SIZE - 4, 200), -EFAULT, "read out of it");
	is(mem_load64(&val, hole + PAGE_SIZE), -EFAULT, "load");
	is(mem_store8(hole + PAGE_SIZE, 1), -EFAULT, "store");
	val = 0;
	is(mem_cas64(hole + PAGE_SIZE, &val, 1), -EFAULT, "compare and exchange");
	is(mem_cas128(hole + PAGE_SIZE, pair, pair), -EFAULT, "compare and exchange of 16 bytes");
	half = 0;
	*(u32 *)(void *)hole = 5;
	is(mem_cas32(hole, &half, 6), 1, "compare and exchange: differs");
	is(half, 5, "and says what is there");
	is(mem_cas32(hole, &half, 6), 0, "compare and exchange");
	is(*(u32 *)(void *)hole, 6, "happened");
	is(mem_copy_guarded(buf, (void *)0xdead000000000000ull, 8), -EFAULT, "non-canonical address");

	ok(!ftruncate(fd, 2 * PAGE_SIZE), "a file");
	file = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	is(set(0, 0, 0, 0, 2 * PAGE_SIZE, file), 0, "as guest memory");
	is(mem_write(&m, 0, PAGE_SIZE - 4, ref, 8), 0, "write across its pages");
	ok(!ftruncate(fd, PAGE_SIZE), "truncated");
	is(mem_write(&m, 0, PAGE_SIZE - 4, ref, 8), -EFAULT, "write");
	is(mem_read(&m, 0, PAGE_SIZE, buf, 1), -EFAULT, "read");
	is(mem_read(&m, 0, PAGE_SIZE - 1, buf, 1), 0, "what is left is readable");
	is(mem_read(&m, 0, 2 * PAGE_SIZE, buf, 1), -EFAULT, "read outside every slot");
	set(0, 0, 0, 0, 0, NULL);
	is(set(0, 0, MEMSLOT_READONLY, 0, PAGE_SIZE, ram), 0, "read-only slot");
	is(mem_write(&m, 0, 0, ref, 1), -EFAULT, "is not written");
	is(mem_read(&m, 0, 0, buf, 1), 0, "is read");
	set(0, 0, 0, 0, 0, NULL);
	close(fd);
}

int main(void)
{
	fake_signals();
	ram = fake_map(4 * MIB);
	mem_init(&m);
	arguments();
	changes();
	many();
	dirty_log();
	guarded();
	mem_destroy(&m);
	return done_testing();
}
