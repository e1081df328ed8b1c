/* SPDX-License-Identifier: MIT */
/*
 * What each flush ends and what it keeps, seen through stale translations: page tables are changed behind the
 * TLB's back, and the old answer must stay or go. Staying is not promised by the architecture, but by us: it
 * shows that the TLB is used at all.
 */
#include "mem_fake.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define AD 0x60ull
#define PS 0x80ull
#define G 0x100ull

#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define PT 0x4000u
#define OLD 0x100000u
#define NEW 0x200000u

static struct vcpu *v;

static u64 *table(u32 at) { return (u64 *)(void *)(fake_ram + at); }

/* Page n of the first 2 MiB; the second 2 MiB is a large page; the second 1 GiB a huge one. */
static void build(void)
{
	memset(fake_ram, 0, 0x10000);
	table(PML4)[0] = PDPT | P | W | U;
	table(PDPT)[0] = PD | P | W | U;
	table(PDPT)[1] = 0 | P | W | U | PS;
	table(PD)[0] = PT | P | W | U;
	table(PD)[1] = 0x400000 | P | W | U | PS;
	for (unsigned int n = 0; n < 512; n++)
		table(PT)[n] = (OLD + n * PAGE_SIZE) | P | W | U;
	table(PT)[1] |= G;
	v->cr0 = CR0_PE | CR0_PG | CR0_WP;
	v->cr4 = CR4_PAE | CR4_PGE;
	v->efer = EFER_LMA | EFER_NXE;
	v->cr3 = PML4;
	v->cpl = 0;
	v->csz = 8;
	mmu_select_view(v);
	mmu_flush_all(v);
}

/* The first byte at la, through every level of the TLB. */
static u8 at(gva_t la)
{
	u8 val = 0xff;

	if (lin_read(v, la, &val, 1, 0))
		return 0xfe;
	return val;
}

static void remap(unsigned int n) { table(PT)[n] = (NEW + n * PAGE_SIZE) | P | W | U | (table(PT)[n] & G); }

static void pages(void)
{
	u64 epoch;

	build();
	is(at(0) | at(PAGE_SIZE) | at(2 * PAGE_SIZE), 0, "old pages");
	for (unsigned int n = 0; n < 3; n++)
		remap(n);
	is(at(0) | at(PAGE_SIZE) | at(2 * PAGE_SIZE), 0, "stay while nothing is flushed");
	mmu_flush_page(v, 0);
	is(at(0), 1, "INVLPG ends its page");
	is(at(2 * PAGE_SIZE), 0, "and not another");
	mmu_flush_page(v, PAGE_SIZE + 77);
	is(at(PAGE_SIZE), 1, "INVLPG ends a global page");
	mmu_flush_nonglobal(v);
	is(at(2 * PAGE_SIZE), 1, "MOV to CR3 ends the rest");

	build();
	at(PAGE_SIZE);
	at(2 * PAGE_SIZE);
	remap(1);
	remap(2);
	v->cr3 = PML4;
	mmu_cr3_loaded(v, false);
	is(at(2 * PAGE_SIZE), 1, "a CR3 load ends local pages");
	is(at(PAGE_SIZE), 0, "and keeps global ones");
	v->cr4 &= ~CR4_PGE;
	mmu_select_view(v);
	is(at(PAGE_SIZE), 1, "clearing CR4.PGE ends them, without an explicit flush");
	epoch = v->epoch[0];
	mmu_flush_page(v, 5 * PAGE_SIZE);
	is(v->epoch[0], epoch, "INVLPG of a page never fetched from keeps jumps");
	{
		hva_t host;
		gpa_t gpa;

		mmu_fetch(v, 5 * PAGE_SIZE + 3, &host, &gpa);
		is((u64)host, (u64)(fake_ram + OLD + 5 * PAGE_SIZE), "fetch finds the host page");
	}
	mmu_flush_page(v, 5 * PAGE_SIZE);
	ok(v->epoch[0] != epoch, "INVLPG of one fetched from forgets jumps");
}

static void large(void)
{
	build();
	is(at(0x200000) | at(0x3ff000), 2, "both ends of a large page");
	table(PD)[1] = 0x600000 | P | W | U | PS;
	is(at(0x200000) | at(0x3ff000), 2, "stay");
	mmu_flush_page(v, 0x3ff000);
	is(at(0x200000), 3, "INVLPG of one end ends the other");
	build();
	at(0x40000000);
	table(PDPT)[1] = 0;
	is(at(0x40009000), 0, "another piece of a 1 GiB page");
	mmu_flush_page(v, 0x7fe00000);
	is(at(0x40000000), 0xfe, "INVLPG anywhere in a 1 GiB page ends all of it");
	build();
	v->efer = 0;
	v->cr4 = CR4_PSE;
	v->cr3 = 0x8000;
	v->csz = 4;
	*(u32 *)(void *)(fake_ram + 0x8000) = 0x400000 | P | W | U | PS;
	mmu_select_view(v);
	is(at(0) | at(0x200000), 3, "both halves of a 4 MiB page");
	*(u32 *)(void *)(fake_ram + 0x8000) = 0;
	mmu_flush_page(v, 0);
	is(at(0x200000), 0xfe, "INVLPG of the lower ends the upper");
}

static void pcids(void)
{
	build();
	v->cr4 |= CR4_PCIDE;
	v->cr3 = PML4 | 1;
	mmu_select_view(v);
	at(PAGE_SIZE);
	at(2 * PAGE_SIZE);
	remap(1);
	remap(2);
	v->cr3 = PML4 | 2;
	mmu_cr3_loaded(v, false);
	is(at(2 * PAGE_SIZE), 1, "another PCID has its own translations");
	is(at(PAGE_SIZE), 0, "but shares global ones");
	v->cr3 = PML4 | 1;
	mmu_cr3_loaded(v, true);
	is(at(2 * PAGE_SIZE), 0, "back with bit 63: still there");
	mmu_flush_pcid(v, 2);
	is(at(2 * PAGE_SIZE), 0, "INVPCID of another changes nothing");
	mmu_flush_pcid(v, 1);
	is(at(2 * PAGE_SIZE), 1, "INVPCID of this one does");
	is(at(PAGE_SIZE), 0, "and keeps global ones");
	mmu_flush_page(v, PAGE_SIZE);
	is(at(PAGE_SIZE), 1, "INVLPG ends a global page made in another PCID");
	build();
	v->cr4 |= CR4_PCIDE;
	v->cr3 = PML4 | 1;
	mmu_select_view(v);
	at(2 * PAGE_SIZE);
	remap(2);
	v->cr3 = PML4 | 2;
	mmu_cr3_loaded(v, true);
	mmu_flush_all_pcids(v);
	v->cr3 = PML4 | 1;
	mmu_cr3_loaded(v, true);
	is(at(2 * PAGE_SIZE), 1, "INVPCID type 3 ends every PCID");
}

static u64 fetch_key(unsigned int n, unsigned int cpl)
{
	hva_t host;
	gpa_t gpa;

	v->cpl = (u8)cpl;
	v->mode_key = v->epoch[cpl == 3] << 16 | (cpl == 3 ? MODE_USER : 0);
	mmu_fetch(v, n * PAGE_SIZE, &host, &gpa);
	return v->mode_key;
}

static void load_cr3(unsigned int pcid, bool keep)
{
	v->cr3 = PML4 | pcid;
	mmu_cr3_loaded(v, keep);
}

/* What the jump cache remembers across switches of the address space. */
static void jumps(void)
{
	u64 user, super;

	build();
	v->cr4 |= CR4_PCIDE;
	v->cr3 = PML4 | 1;
	mmu_select_view(v);
	super = fetch_key(1, 0); /* a global page */
	user = fetch_key(2, 3);
	load_cr3(2, true);
	ok(fetch_key(2, 3) != user, "jumps of one PCID do not serve another");
	is(fetch_key(1, 0), super, "those of the supervisor in global pages do");
	load_cr3(1, true);
	is(fetch_key(2, 3), user, "back with bit 63: they are remembered");
	load_cr3(2, true);
	mmu_flush_pcid(v, 1);
	load_cr3(1, true);
	ok(fetch_key(2, 3) != user, "INVPCID from elsewhere forgets them");
	user = fetch_key(2, 3);
	load_cr3(2, true);
	load_cr3(1, false);
	ok(fetch_key(2, 3) != user, "so does a load without bit 63");
	user = fetch_key(2, 3);
	mmu_flush_page(v, 2 * PAGE_SIZE);
	ok(fetch_key(2, 3) != user, "so does INVLPG");
	is(fetch_key(1, 0), super, "none of it touched the supervisor's");
	fetch_key(3, 0);
	load_cr3(2, true);
	ok(fetch_key(1, 0) != super, "one page that is not global ties them to the PCID");
	mmu_context(v, true);
	fetch_key(2, 3); /* its first walk begins with a flush */
	mmu_context(v, false);
	load_cr3(1, true);
	user = fetch_key(2, 3);
	mmu_context(v, true);
	load_cr3(1, false);
	fetch_key(2, 3);
	v->cr3 = PML4 | 1;
	mmu_context(v, false);
	is(fetch_key(2, 3), user, "what L2 loads is no business of L1's");
}

static void rights(void)
{
	u8 val = 9;

	build();
	table(PT)[3] &= ~W;
	is(lin_write(v, 3 * PAGE_SIZE, &val, 1, 0), OP_EXC, "a supervisor write with WP");
	is(v->exc.error, 3, "faults on a read-only page");
	is(at(3 * PAGE_SIZE), 0, "which is readable");
	table(PT)[3] |= W;
	is(lin_write(v, 3 * PAGE_SIZE, &val, 1, 0), 0, "more rights are found without a flush");
	table(PT)[4] &= ~W;
	v->cr0 &= ~CR0_WP;
	mmu_select_view(v);
	is(lin_write(v, 4 * PAGE_SIZE, &val, 1, 0), 0, "without WP it writes");
	v->cr0 |= CR0_WP;
	mmu_select_view(v);
	is(lin_write(v, 4 * PAGE_SIZE, &val, 1, 0), OP_EXC, "and with WP again not");
	v->cr4 |= CR4_SMAP;
	mmu_select_view(v);
	ok(v->dtlb == &v->l1[VIEW_SUPER], "SMAP selects the supervisor view");
	is(at(0), 0xfe, "which does not reach user pages");
	v->rflags |= FLAG_AC;
	mmu_select_view(v);
	ok(v->dtlb == &v->l1[VIEW_SUPER_AC], "STAC selects the other");
	is(at(0), 0, "which does");
	is(lin_read(v, 0, &val, 1, ACC_SYS), OP_EXC, "an implicit access ignores AC");
	v->rflags &= ~FLAG_AC;
	mmu_select_view(v);
	is(at(0), 0xfe, "after CLAC the first view still does not");
	v->cpl = 3;
	mmu_select_view(v);
	ok(v->dtlb == &v->l1[VIEW_USER], "CPL 3 selects the user view");
	is(at(0), 0, "which reaches user pages");
	table(PT)[5] &= ~U;
	is(at(5 * PAGE_SIZE), 0xfe, "but not supervisor pages");
	is(lin_read(v, 5 * PAGE_SIZE, &val, 1, ACC_SYS), 0, "except for an implicit access");
	is(lin_read(v, 0, &val, 1, ACC_SYS), OP_EXC, "which SMAP keeps off user pages");
	v->cr4 &= ~CR4_SMAP;
	v->cpl = 0;
	mmu_select_view(v);
}

static u64 tag_r(gva_t la) { return l1_slot(v->dtlb, la, ACC_R)->tag; }
static u64 tag_w(gva_t la) { return l1_slot(v->dtlb, la, ACC_W)->tag; }

static void write_tags(void)
{
	struct memslot *s;
	u8 val = 1;

	build();
	at(6 * PAGE_SIZE);
	ok(tag_r(6 * PAGE_SIZE) == 6 * PAGE_SIZE && tag_w(6 * PAGE_SIZE) == TLB_NEVER,
	   "a clean page is not fast for writes");
	ok(!(table(PT)[6] & 0x40), "reading leaves D clear");
	lin_write(v, 6 * PAGE_SIZE, &val, 1, 0);
	ok(tag_w(6 * PAGE_SIZE) == 6 * PAGE_SIZE && (table(PT)[6] & 0x40), "writing sets D and makes it fast");
	s = mem_slot_find(&fake_vm.mem, 0, 0);
	ok(code_page_mark(v, s, OLD + 6 * PAGE_SIZE), "a code mark");
	is(tag_w(6 * PAGE_SIZE), TLB_NEVER, "withdraws it");
	fake_code_writes = 0;
	lin_write(v, 6 * PAGE_SIZE + 5, &val, 1, 0);
	ok(fake_code_writes == 1 && tag_w(6 * PAGE_SIZE) == TLB_NEVER, "stores are reported one by one");
	ok(v->request & REQ_INSN, "and end the trace");
	v->request = 0;
	ok(!lin_fast(v, 6 * PAGE_SIZE, &(unsigned int){ 64 }, ACC_W), "a short bulk store is not fast");
	ok(lin_fast(v, 6 * PAGE_SIZE, &(unsigned int){ 4096 }, ACC_W), "a long one is");
	ok(fake_invalidated == 1 && !memslot_code_users(s, memslot_page(s, OLD + 6 * PAGE_SIZE)),
	   "because the page's code is forgotten");
	ok(v->request & REQ_INSN, "which ends the trace");
	v->request = 0;
	is(tag_w(6 * PAGE_SIZE), 6 * PAGE_SIZE, "and makes it fast again");

	mem_set_slot(&fake_vm.mem, 0, 0, MEMSLOT_LOG_DIRTY, 0, RAM_SIZE, fake_ram);
	mmu_flush_all(v);
	s = mem_slot_find(&fake_vm.mem, 0, 0);
	at(7 * PAGE_SIZE);
	table(PT)[7] |= AD;
	mmu_flush_all(v);
	at(7 * PAGE_SIZE);
	is(tag_w(7 * PAGE_SIZE), TLB_NEVER, "a page not in the log yet is not fast for writes");
	is(lin_probe(v, 7 * PAGE_SIZE, 1, ACC_W), 0, "a probe");
	ok(!memslot_page_dirty(s, (OLD >> 12) + 7), "does not log");
	lin_write(v, 7 * PAGE_SIZE, &val, 1, 0);
	ok(memslot_page_dirty(s, (OLD >> 12) + 7), "a write does");
	is(tag_w(7 * PAGE_SIZE), 7 * PAGE_SIZE, "and makes it fast");
	ok(memslot_page_dirty(s, PT >> 12), "accessed and dirty bits dirty the page table's page");
	mem_set_slot(&fake_vm.mem, 0, 0, 0, 0, RAM_SIZE, fake_ram);
	mmu_flush_all(v);
	v->cr0 = v->efer = v->cr4 = 0;
	v->csz = 4;
	mmu_select_view(v);
	at(ROM_GPA);
	ok(tag_r(ROM_GPA) == ROM_GPA && tag_w(ROM_GPA) == TLB_NEVER, "ROM is fast for reads only");
	is(at(MMIO_GPA), 0xfe, "MMIO stops");
	is(tag_r(MMIO_GPA), TLB_NEVER, "and is never fast");
	mmio_reset(v);
	v->stop = CPU_RUN;
}

static void slots(void)
{
	build();
	is(at(0), 0, "before the slot moves away");
	mem_set_slot(&fake_vm.mem, 0, 0, 0, BIT(32), RAM_SIZE, fake_ram);
	mmu_flush_all(v); /* what REQ_TLB does */
	is(at(0), 0xfe, "its memory is gone with the flush");
	mem_set_slot(&fake_vm.mem, 0, 0, 0, 0, RAM_SIZE, fake_ram);
	mmio_reset(v);
	v->stop = CPU_RUN;
	{
		struct xlat x;

		is(mmu_xlat(v, 0, ACC_R, &x) || !x.slot, 0, "the slow path notices a change by itself");
	}
}

int main(void)
{
	v = fake_machine();
	/* Page contents: 0 in the old pages, 1 in the new ones, 2 and 3 in large pages. */
	memset(fake_ram + NEW, 1, 0x200000);
	memset(fake_ram + 0x400000, 2, 0x200000);
	memset(fake_ram + 0x600000, 3, 0x200000);
	pages();
	large();
	pcids();
	jumps();
	rights();
	write_tags();
	slots();
	return done_testing();
}
