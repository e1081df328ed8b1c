/* SPDX-License-Identifier: MIT */
/* 4-level paging: permissions, accessed and dirty bits, page sizes, and when a changed entry must be seen. */
#include "guest.h"

#define P 1ul
#define W 2ul
#define U 4ul
#define A 0x20ul
#define D 0x40ul
#define PS 0x80ul
#define G 0x100ul
#define NX (1ul << 63)

/* A part of the address space for these tests: its own table hierarchy at slot 3. */
#define BASE (3ul << 39)
static u64 *l3, *l2, *l1;
static u8 *data;
static volatile u8 *const at = (void *)BASE;

static void set_up(void)
{
	l3 = page();
	l2 = page();
	l1 = page();
	data = page();
	pml4[3] = (ulong)l3 | P | W | U;
	l3[0] = (ulong)l2 | P | W | U;
	l2[0] = (ulong)l1 | P | W | U;
}

static void map(u64 bits)
{
	l1[0] = bits ? (ulong)data | bits : 0;
	invlpg((void *)BASE);
}

static void do_read(void) { (void)*at; }
static void do_write(void) { *at = 1; }
static void do_run(void) { ((void (*)(void))BASE)(); }
/* The only user instruction that reaches the page is one that user code makes. */
USER_CODE(u_read, "mov $3, %eax; shl $39, %rax; mov (%rax), %ecx");
USER_CODE(u_write, "mov $3, %eax; shl $39, %rax; movb $1, (%rax)");
USER_CODE(u_run, "mov $3, %eax; shl $39, %rax; call *%rax");

static void permissions(void)
{
	data[0] = 0xc3;
	map(0);
	is(attempt(do_read), PF, "not present");
	is(trap.error, 0, "error code 0");
	is(trap.cr2, BASE, "CR2");
	is(attempt(do_write), PF, "write, not present");
	is(trap.error, 2, "error code: write");
	map(P | NX);
	is(attempt(do_read), NO_TRAP, "supervisor read");
	is(attempt(do_write), PF, "supervisor write of a read-only page with WP");
	is(trap.error, 3, "error code: present, write");
	write_cr0(read_cr0() & ~0x10000ul);
	is(attempt(do_write), NO_TRAP, "and without WP it may");
	write_cr0(read_cr0() | 0x10000);
	data[0] = 0xc3;
	is(attempt(do_run), PF, "fetch from an NX page");
	is(trap.error, 0x11, "error code: present, fetch");
	map(P);
	is(attempt(do_run), NO_TRAP, "fetch");
	is(USER(u_read), PF, "user read of a supervisor page");
	is(trap.error, 5, "error code: present, user");
	map(P | U);
	is(USER(u_read), NO_TRAP, "user read");
	is(USER(u_write), PF, "user write of a read-only page");
	is(trap.error, 7, "error code: present, write, user");
	is(USER(u_run), NO_TRAP, "user fetch");
	map(P | U | NX);
	is(USER(u_run), PF, "user fetch from an NX page");
	is(trap.error, 0x15, "error code: present, user, fetch");
	map(P | U | W);
	l2[0] &= ~W;
	invlpg((void *)BASE);
	is(USER(u_write), PF, "W in every level counts");
	l2[0] |= W;
	l3[0] &= ~U;
	invlpg((void *)BASE);
	is(USER(u_read), PF, "U in every level counts");
	l3[0] |= U;
	l3[0] |= NX;
	invlpg((void *)BASE);
	is(attempt(do_run), PF, "NX in any level counts");
	l3[0] &= ~NX;
	l1[0] |= 1ul << 51;
	invlpg((void *)BASE);
	is(attempt(do_read), PF, "reserved address bit");
	is(trap.error, 9, "error code: present, reserved [not tcg]");
	map(P | U | W);
}

static void accessed_dirty(void)
{
	map(P | W);
	l3[0] &= ~A;
	l2[0] &= ~A;
	invlpg((void *)BASE);
	(void)*at;
	is(l1[0] & (A | D), A, "a read sets A");
	is(l2[0] & A, A, "in the directory too");
	is(l3[0] & A, A, "and above");
	*at = 1;
	is(l1[0] & (A | D), A | D, "a write sets D");
	l1[0] &= ~D;
	invlpg((void *)BASE);
	*at = 2;
	is(l1[0] & D, D, "and again after INVLPG");
	map(P);
	attempt(do_write);
	is(l1[0] & D, 0, "a write that faults does not set D");
	map(P | W);
	__asm__ volatile("lock addb $0, (%0)" :: "r"(at) : "memory");
	is(l1[0] & D, D, "a locked read-modify-write sets D");
}

/* The TLB may keep an entry until it is told; told, it must not. */
static void invalidation(void)
{
	u8 *other = page();

	data[0] = 1;
	other[0] = 2;
	map(P | W);
	is(*at, 1, "first mapping");
	l1[0] = (ulong)other | P | W;
	invlpg((void *)BASE);
	is(*at, 2, "second mapping after INVLPG");
	l1[0] = (ulong)data | P | W;
	write_cr3(read_cr3());
	is(*at, 1, "third mapping after MOV CR3");
	l1[0] = (ulong)data | P | W | G;
	write_cr4(read_cr4() | 0x80);
	invlpg((void *)BASE);
	is(*at, 1, "global");
	l1[0] = (ulong)other | P | W | G;
	write_cr4(read_cr4() & ~0x80ul);
	is(*at, 2, "CR4.PGE flushes global entries");
	write_cr4(read_cr4() | 0x80);
	l1[0] = 0;
	invlpg((void *)BASE);
	is(attempt(do_read), PF, "INVLPG drops a global entry");
	map(P | W);
	l2[0] = 0;
	invlpg((void *)BASE);
	is(attempt(do_read), PF, "INVLPG drops the paging-structure caches");
	l2[0] = (ulong)l1 | P | W | U;
	is(attempt(do_read), NO_TRAP, "an entry that was not present needs no flush");
	l1[0] = (ulong)data | P;
	invlpg((void *)BASE);
	(void)*at;
	l1[0] |= W;
	is(attempt(do_write), NO_TRAP, "more rights are seen at the fault");
}

static void large_pages(void)
{
	u32 *two_megabytes = (void *)0x2000000ul;
	volatile u32 *high = (void *)(BASE + 0x200000 + 0x12344);

	two_megabytes[0x12344 / 4] = 0x1234;
	l2[1] = 0x2000000 | P | W | PS;
	is(*high, 0x1234, "2 MiB page");
	*high = 0x4321;
	is(l2[1] & (A | D), A | D, "its A and D");
	is(two_megabytes[0x12344 / 4], 0x4321, "its bytes");
	l2[1] = 0x2000000 | P | W | PS | 1 << 13;
	invlpg((void *)high);
	trap.vector = 0;
	trap_hook = NULL;
	if (HAS_1G) {
		l3[1] = 0 | P | W | PS;
		is(*(volatile u32 *)(BASE + (1ul << 30) + 0x2000000 + 0x12344), 0x4321, "1 GiB page");
		l3[1] = 0;
	} else {
		skip("1 GiB page", "no such feature");
	}
	l2[1] = 0;
	write_cr3(read_cr3());
}

static void read_reserved(void)
{
	(void)*(volatile u32 *)(BASE + 0x200000);
}

static void large_reserved(void)
{
	l2[1] = 0x2000000 | P | W | PS | 1 << 13;
	invlpg((void *)(BASE + 0x200000));
	is(attempt(read_reserved), PF, "reserved bit of a 2 MiB entry");
	is(trap.error & 8, 8, "error code: reserved");
	l2[1] = 0;
	invlpg((void *)(BASE + 0x200000));
}

static void read_with_ac(void)
{
	__asm__ volatile("stac");
	(void)*at;
}

static void smep_smap(void)
{
	data[0] = 0xc3;
	map(P | W | U);
	if (HAS_SMEP) {
		is(attempt(do_run), NO_TRAP, "supervisor fetch from a user page");
		write_cr4(read_cr4() | 1 << 20);
		is(attempt(do_run), PF, "not with SMEP");
		is(trap.error, 0x11, "error code: present, fetch");
		is(USER(u_run), NO_TRAP, "user code may");
		write_cr4(read_cr4() & ~(1ul << 20));
	} else {
		skip("SMEP", "no such feature");
	}
	if (HAS_SMAP) {
		write_cr4(read_cr4() | 1 << 21);
		is(attempt(do_read), PF, "supervisor read of a user page with SMAP");
		is(trap.error, 1, "error code: present");
		is(attempt(do_write), PF, "supervisor write");
		is(attempt(read_with_ac), NO_TRAP, "with RFLAGS.AC it may");
		__asm__ volatile("clac");
		is(attempt(do_read), PF, "and no more after CLAC");
		is(USER(u_read), NO_TRAP, "user code may");
		write_cr4(read_cr4() & ~(1ul << 21));
	} else {
		skip("SMAP", "no such feature");
	}
}

static void pcid(void)
{
	u8 *other = page();
	ulong cr3 = read_cr3() & ~0xffful;

	if (!HAS_PCID) {
		skip("PCID", "no such feature");
		return;
	}
	data[0] = 1;
	other[0] = 2;
	map(P | W);
	write_cr4(read_cr4() | 1 << 17);
	write_cr3(cr3 | 1);
	is(*at, 1, "PCID 1");
	l1[0] = (ulong)other | P | W;
	write_cr3(cr3 | 2);
	is(*at, 2, "another PCID does not see the first one's entries");
	write_cr3(cr3 | 1);
	is(*at, 2, "MOV CR3 without bit 63 flushes its PCID");
	if (HAS_INVPCID) {
		struct { u64 pcid, address; } d = { 1, BASE };

		l1[0] = (ulong)data | P | W;
		__asm__ volatile("invpcid %0, %1" :: "m"(d), "r"(0ul) : "memory");
		is(*at, 1, "INVPCID of an address");
		l1[0] = (ulong)other | P | W;
		__asm__ volatile("invpcid %0, %1" :: "m"(d), "r"(2ul) : "memory");
		is(*at, 2, "INVPCID of everything");
	}
	write_cr3(cr3);
	write_cr4(read_cr4() & ~(1ul << 17));
}

/* Operands that lie on two pages. */
static void crossing(void)
{
	u8 *second = page();
	volatile u64 *across = (void *)(BASE + 4096 - 3);

	map(P | W);
	l1[1] = (ulong)second | P | W;
	invlpg((void *)(BASE + 4096));
	*across = 0x1122334455667788;
	is(data[4093], 0x88, "a store over two pages, first byte");
	is(second[4], 0x11, "last byte");
	is(*across, 0x1122334455667788, "a load over two pages");
	__asm__ volatile("lock addq $1, %0" : "+m"(*across));
	is(*across, 0x1122334455667789, "a locked addition over two pages");
	l1[1] = 0;
	invlpg((void *)(BASE + 4096));
	data[4093] = 0;
	trap.vector = NO_TRAP;
}

static void store_across(void)
{
	*(volatile u64 *)(BASE + 4096 - 3) = ~0ul;
}

static void crossing_fault(void)
{
	l1[1] = 0;
	invlpg((void *)(BASE + 4096));
	data[4093] = 7;
	is(attempt(store_across), PF, "a store whose second page is absent");
	is(trap.cr2, BASE + 4096, "CR2 is the second page's address");
	is(data[4093], 7, "and nothing was stored");
}

int main(void)
{
	set_up();
	permissions();
	accessed_dirty();
	invalidation();
	large_pages();
	large_reserved();
	smep_smap();
	pcid();
	crossing();
	crossing_fault();
	return 0;
}
