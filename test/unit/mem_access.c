/* SPDX-License-Identifier: MIT */
/* Segment checks, page crossing, the bounce buffer, alignment and watchpoints, MMIO with replay. */
#include "mem_fake.h"

#define U64(p) (((struct mem_word64 *)(void *)(p))->v)
#define U32(p) (((struct mem_word32 *)(void *)(p))->v)

static struct vcpu *v;
static struct insn rec;

static void flat64(void)
{
	v->cr0 = CR0_PE;
	v->cr4 = 0;
	v->efer = 0;
	v->csz = 8;
	v->cpl = 0;
	v->rflags = FLAG_FIXED;
	for (unsigned int s = 0; s < SEG_NUM; s++)
		v->seg[s] = (struct segment){ .ar = 0xc093, .limit = 0xffffffff };
	v->stop = CPU_RUN;
	v->request = 0;
	v->exc.valid = false;
	mmio_reset(v);
	mmu_select_view(v);
	mmu_flush_all(v);
}

/* Linear pages 0 and 1 of paging mode; page 2 is absent. */
static void paged(void)
{
	u64 *t = (void *)fake_ram;

	flat64();
	memset(fake_ram + 0x1000, 0, 0x4000);
	t[0x1000 / 8] = 0x2007;
	t[0x2000 / 8] = 0x3007;
	t[0x3000 / 8] = 0x4007;
	t[0x4000 / 8] = 0x10007;
	t[0x4000 / 8 + 1] = 0x20007;
	t[0x4000 / 8 + 3] = 0x20007;
	v->cr0 = CR0_PE | CR0_PG | CR0_WP;
	v->cr4 = CR4_PAE;
	v->efer = EFER_LMA;
	v->cr3 = 0x1000;
	mmu_select_view(v);
	mmu_flush_all(v);
}

/* ---- segments ------------------------------------------------------------------------------------------ */

static int linear(enum seg seg, u64 off, unsigned int size, u32 acc)
{
	gva_t la = 0;

	v->exc.valid = false;
	return seg_linear(v, seg, off, size, acc, &la) == OP_EXC ? -(int)v->exc.vector : (int)(la & 0x7fffffff);
}

static void segments(void)
{
	struct segment *ds = &v->seg[SEG_DS];

	flat64();
	v->seg[SEG_FS].base = 0x1000;
	is(linear(SEG_FS, 8, 8, ACC_R), 0x1008, "64-bit: FS base counts");
	ds->base = 0x1000;
	is(linear(SEG_DS, 8, 8, ACC_R), 8, "64-bit: DS base does not");
	is(linear(SEG_DS, BIT(47), 1, ACC_R), -EXC_GP, "64-bit: non-canonical is #GP");
	is(linear(SEG_SS, BIT(47), 1, ACC_R), -EXC_SS, "64-bit: through SS it is #SS");
	is(linear(SEG_DS, BIT(47) - 4, 8, ACC_R), -EXC_GP, "64-bit: crossing into the hole");
	is(linear(SEG_DS, BIT(47) - 8, 8, ACC_R), 0x7ffffff8, "64-bit: up to it");
	v->csz = 4;
	ds->limit = 0xfff;
	is(linear(SEG_DS, 0xffc, 4, ACC_R), 0x1ffc, "limit: the last dword");
	is(linear(SEG_DS, 0xffd, 4, ACC_R), -EXC_GP, "limit: one byte too far");
	is(linear(SEG_DS, 0xfffffffe, 4, ACC_R), -EXC_GP, "limit: wrapping");
	ds->ar = 0xc097; /* expand-down, 32-bit */
	is(linear(SEG_DS, 0xfff, 1, ACC_R), -EXC_GP, "expand-down: at the limit");
	is(linear(SEG_DS, 0x1000, 1, ACC_R), 0x2000, "expand-down: above it");
	is(linear(SEG_DS, 0xfffffffc, 4, ACC_R), 0xffc, "expand-down: up to 4 GiB");
	ds->ar = 0x97;
	is(linear(SEG_DS, 0xfffe, 4, ACC_R), -EXC_GP, "expand-down: 16-bit upper bound");
	ds->ar = 0xc091;
	is(linear(SEG_DS, 0, 4, ACC_R), 0x1000, "read-only data: read");
	is(linear(SEG_DS, 0, 4, ACC_W), -EXC_GP, "read-only data: write");
	ds->ar = 0xc09b;
	is(linear(SEG_DS, 0, 4, ACC_R), 0x1000, "readable code: read");
	is(linear(SEG_DS, 0, 4, ACC_RW), -EXC_GP, "readable code: write");
	ds->ar = 0xc099;
	is(linear(SEG_DS, 0, 4, ACC_R), -EXC_GP, "execute-only code: read");
	ds->ar = (u32)AR_UNUSABLE;
	is(linear(SEG_DS, 0, 4, ACC_R), -EXC_GP, "null selector");
	ds->ar = 0xc099;
	v->cr0 = 0;
	is(linear(SEG_DS, 0, 4, ACC_W), 0x1000, "real mode knows no types");
	is(linear(SEG_DS, 0xffd, 4, ACC_W), -EXC_GP, "but limits");
	ds->limit = 0xffffffff;
	ds->base = 0xfffffff0;
	is(linear(SEG_DS, 0x20, 4, ACC_R), 0x10, "linear addresses wrap at 4 GiB");
}

static void addresses(void)
{
	v->gpr[GPR_RBX] = 0xfff0;
	v->gpr[GPR_RSI] = 0x20;
	rec = (struct insn){ .base = GPR_RBX, .index = GPR_RSI, .disp = -1, .addr = INSN_ADDR(2, SEG_DS, 0) };
	is(cpu_ea(v, &rec), 0xf, "16-bit addresses wrap");
	rec.addr = INSN_ADDR(4, SEG_DS, 3);
	v->gpr[GPR_RBX] = 0xffffffff;
	is(cpu_ea(v, &rec), 0xfe, "32-bit addresses wrap; scale");
	rec.addr = INSN_ADDR(8, SEG_DS, 3);
	is(cpu_ea(v, &rec), 0x1000000feull, "64-bit addresses");
	v->page_rip = 0x7000;
	rec = (struct insn){ .base = GPR_RIP, .index = GPR_NONE, .disp = 0x10, .off = 0x20, .len = 7,
			     .addr = INSN_ADDR(8, SEG_DS, 0) };
	is(cpu_ea(v, &rec), 0x7037, "RIP-relative");
	rec = (struct insn){ .base = GPR_MOFFS, .index = GPR_NONE, .imm = 0x1234567890,
			     .addr = INSN_ADDR(8, SEG_DS, 0) };
	is(cpu_ea(v, &rec), 0x1234567890ull, "moffs");
	is(insn_seg(&rec), SEG_DS, "segment");
}

/* ---- crossing pages ------------------------------------------------------------------------------------ */

static void crossing(void)
{
	u8 buf[64], back[64];
	u64 val = 0x8877665544332211ull;

	paged();
	for (unsigned int i = 0; i < sizeof(buf); i++)
		buf[i] = (u8)(i + 1);
	for (unsigned int size = 1; size <= 64; size++) {
		for (unsigned int before = 1; before < size; before++) {
			if (lin_write(v, 0x1000 - before, buf, size, 0) ||
			    memcmp(fake_ram + 0x11000 - before, buf, before) ||
			    memcmp(fake_ram + 0x20000, buf + before, size - before) ||
			    lin_read(v, 0x1000 - before, back, size, 0) || memcmp(buf, back, size))
				ok(false, "size %u, %u bytes before the end", size, before);
		}
	}
	ok(true, "every size and split goes to two physical pages");
	memset(fake_ram + 0x20ff8, 0xee, 8);
	is(lin_write(v, 0x1ffc, &val, 8, 0), OP_EXC, "write into an absent second page");
	is(v->exc.payload, 0x2000, "CR2 is the second page's start");
	is(v->exc.error, 2, "error code");
	is(U64(fake_ram + 0x20ff8), 0xeeeeeeeeeeeeeeeeull, "nothing was written");
	is(cpu_probe_write(v, SEG_DS, 0x1ffc, 8), OP_EXC, "a probe says so too");
	is(cpu_write(v, SEG_DS, 0x1ff8, &val, 8), 0, "cpu_write");
	is(cpu_read(v, SEG_DS, 0x1ff8, back, 8) || memcmp(back, &val, 8), 0, "cpu_read");
	is(cpu_read(v, SEG_DS, BIT(50), back, 8), OP_EXC, "cpu_read of a non-canonical address");
	is(v->exc.vector, EXC_GP, "is #GP");
}

/* ---- the bounce buffer ----------------------------------------------------------------------------------- */

static void bounce(void)
{
	struct bounce *b = &v->bounce;
	u8 *p;

	paged();
	p = lin_mem_begin(v, 0x8, 8, ACC_RW);
	ok(p == fake_ram + 0x10008 && !b->active, "one page: guest RAM itself");
	p = lin_mem_begin(v, 0xffc, 8, ACC_RW);
	ok(p >= b->buf && p < b->buf + sizeof(b->buf) && b->active, "two pages: the buffer");
	is((u64)p & 63, 0xffc & 63, "aligned as the guest's operand");
	U64(p) = 0x1111111122222222ull;
	is(cpu_mem_commit(v), OP_NEXT, "commit");
	is(U32(fake_ram + 0x10ffc), 0x22222222, "wrote the first page");
	is(U32(fake_ram + 0x20000), 0x11111111, "and the second");
	ok(!b->active, "and ended it");
	p = lin_mem_begin(v, 0xffc, 8, ACC_R);
	ok(p && U64(p) == 0x1111111122222222ull && !b->active, "a read needs no commit");
	p = lin_mem_begin(v, 0x3ffc, 8, ACC_W);
	ok(!p && v->scratch[7] == OP_EXC && !b->active && v->exc.payload == 0x4000, "a fault leaves nothing behind");

	p = lin_mem_begin(v, 0x3e, 4, ACC_RW | ACC_LOCK);
	ok(p && !((u64)p & 3) && b->active && b->locked_pause, "a split lock: aligned copy, others paused");
	is(fake_vm.pause_lock, 1, "by this vCPU");
	U32(p) = 0x55667788;
	cpu_mem_commit(v);
	is(U32(fake_ram + 0x1003e), 0x55667788, "written at commit");
	ok(!fake_vm.pause_lock && !b->locked_pause, "and resumed");
	p = lin_mem_begin(v, 0x3ffe, 4, ACC_RW | ACC_LOCK);
	ok(!p && !fake_vm.pause_lock, "a split lock that faults resumes");
	p = lin_mem_begin(v, 0x3c, 4, ACC_RW | ACC_LOCK);
	ok(p == fake_ram + 0x1003c && !b->active, "a lock inside a line: guest RAM itself");

	code_page_mark(v, mem_slot_find(&fake_vm.mem, 0, 0), 0x10000);
	fake_code_writes = 0;
	p = lin_mem_begin(v, 0x40, 4, ACC_RW | ACC_LOCK);
	ok(p == fake_ram + 0x10040 && b->active == BOUNCE_DIRECT, "a lock on a code page: still RAM itself");
	is(cpu_mem_commit(v), OP_END, "commit leaves the trace");
	is(fake_code_writes, 1, "and tells the record caches");
	lin_mem_begin(v, 0x40, 4, ACC_W);
	is(b->active, BOUNCE_DIRECT, "stores likewise");
	cpu_mem_abort(v);
	v->request = 0;
	atomic_store(&mem_slot_find(&fake_vm.mem, 0, 0)->code_users[16], 0);
}

/* ---- checked accesses ------------------------------------------------------------------------------------- */

static void checked(void)
{
	u64 val = 0;
	unsigned int len = 64;

	paged();
	v->cpl = 3;
	v->cr0 |= CR0_AM;
	v->rflags |= FLAG_AC;
	lin_read(v, 0, &val, 8, 0);
	mmu_select_view(v);
	ok(mmu_checked(v), "alignment checking takes the empty view");
	ok(!lin_fast(v, 0, &len, ACC_R), "which has no fast pointers");
	is(cpu_read(v, SEG_DS, 0x11, &val, 2), OP_EXC, "odd word");
	ok(v->exc.vector == EXC_AC && v->exc.error == 0, "is #AC(0)");
	is(cpu_read(v, SEG_DS, 0x12, &val, 2), 0, "even word is none");
	is(cpu_write(v, SEG_DS, 0x12, &val, 4), OP_EXC, "dword at 2 modulo 4");
	is(cpu_write(v, SEG_DS, 0x14, &val, 8), OP_EXC, "qword at 4 modulo 8");
	is(cpu_write(v, SEG_DS, 0x13, &val, 1), 0, "bytes never");
	is(lin_read(v, 0x11, &val, 4, ACC_SYS), 0, "implicit accesses never");
	is(cpu_probe_write(v, SEG_DS, 0x11, 4), OP_EXC, "a probe tells");
	v->rflags &= ~FLAG_AC;
	mmu_select_view(v);
	is(cpu_read(v, SEG_DS, 0x11, &val, 2), 0, "without AC nobody checks");

	paged();
	fake_watch_la = 0x104;
	v->watch_mask = 2;
	mmu_select_view(v);
	ok(mmu_checked(v), "a data breakpoint takes the empty view");
	cpu_read(v, SEG_DS, 0x100, &val, 4);
	is(v->pending_db, 0, "next to it");
	is(cpu_read(v, SEG_DS, 0x104, &val, 1), 0, "on it: the access is done");
	ok(v->pending_db == 2 && (v->request & REQ_INSN), "and a trap waits for the boundary");
	v->pending_db = 0;
	v->request = 0;
	ok(lin_mem_begin(v, 0x104, 1, ACC_W) && v->pending_db == 2, "native instructions likewise");
	is(cpu_mem_commit(v), OP_END, "and end the trace");
	v->pending_db = 0;
	v->watch_mask = 0;
	mmu_select_view(v);
	ok(!mmu_checked(v), "without breakpoints the view is the old one");
}

/* ---- MMIO -------------------------------------------------------------------------------------------------- */

static void answer(u64 val)
{
	struct mmio_frag *f = mmio_next(v);

	if (f)
		memcpy(f->data, &val, f->len);
	if (f)
		f->done = true;
	v->stop = CPU_RUN;
}

static bool waits(gpa_t gpa, unsigned int len, bool is_write)
{
	const struct mmio_frag *f = mmio_next(v);

	return f && f->gpa == gpa && f->len == len && f->is_write == is_write;
}

static void mmio_reads(void)
{
	static struct insn one, two;
	u64 val = 0, wide[2];

	flat64();
	v->cur = &one;
	is(cpu_read(v, SEG_DS, MMIO_GPA, &val, 4), OP_STOP, "a read outside every slot stops");
	ok(v->stop == CPU_STOP_MMIO && v->mmio.n == 1, "for MMIO");
	ok(waits(MMIO_GPA, 4, false), "with a fragment");
	answer(0xabcd1234);
	is(cpu_read(v, SEG_DS, MMIO_GPA, &val, 4) || val != 0xabcd1234, 0, "run again it has its answer");
	mmio_done(v);
	is(v->mmio.n, 0, "forgotten at the boundary");

	fake_chip_reads = 0;
	is(cpu_read(v, SEG_DS, CHIP_GPA, &val, 4) || val != 0x55667788, 0, "a chip answers at once");
	is(cpu_read(v, SEG_DS, MMIO_GPA + 8, &val, 8), OP_STOP, "the next read of the instruction stops");
	answer(7);
	fake_chip_value = 0;
	is(cpu_read(v, SEG_DS, CHIP_GPA, &val, 4) || (u32)val != 0x55667788, 0, "run again: the chip's logged answer");
	is(cpu_read(v, SEG_DS, MMIO_GPA + 8, &val, 8) || val != 7, 0, "then user space's");
	is(fake_chip_reads, 1, "the chip was read once");
	v->cur = &two;
	is(cpu_read(v, SEG_DS, CHIP_GPA, &val, 4) || (u32)val != 0, 0, "another instruction reads anew");
	v->icount++;
	cpu_read(v, SEG_DS, CHIP_GPA, &val, 4);
	is(fake_chip_reads, 3, "and so does another execution of it");
	mmio_reset(v);

	is(cpu_read(v, SEG_DS, MMIO_GPA, wide, 16), OP_STOP, "16 bytes");
	answer(1);
	is(cpu_read(v, SEG_DS, MMIO_GPA, wide, 16), OP_STOP, "are two fragments");
	is(mmio_next(v)->gpa, MMIO_GPA + 8, "the second 8 bytes on");
	answer(2);
	is(cpu_read(v, SEG_DS, MMIO_GPA, wide, 16) || wide[0] != 1 || wide[1] != 2, 0, "both arrive");
	mmio_reset(v);

	is(cpu_read(v, SEG_DS, MMIO_GPA, &val, 4), OP_STOP, "a read stops");
	answer(9);
	is(cpu_read(v, SEG_DS, MMIO_GPA + 4, &val, 4), OP_STOP,
	   "its second execution reads elsewhere: not the old answer");
	ok(v->mmio.n == 1 && v->mmio.frag[0].gpa == MMIO_GPA + 4, "and the log is the new one");
	mmio_reset(v);
	v->stop = CPU_RUN;
}

static void mmio_writes(void)
{
	u8 big[MMIO_FRAGS * 8 + 8] = { 0 };
	u64 val = 0x42;

	flat64();
	is(cpu_write(v, SEG_DS, MMIO_GPA, &val, 2), 0, "a write is queued");
	ok(v->stop == CPU_STOP_MMIO && (v->request & REQ_INSN) && waits(MMIO_GPA, 2, true),
	   "and leaves the trace");
	mmio_done(v);
	is(v->mmio.n, 1, "it waits past the boundary");
	flat64();
	fake_chip_writes = 0;
	is(cpu_write(v, SEG_DS, CHIP_GPA, &val, 4), 0, "a write to a chip");
	ok(fake_chip_writes == 1 && v->stop == CPU_RUN, "is done at once");
	mmio_reset(v);
	is(cpu_write(v, SEG_DS, ROM_GPA, &val, 4), 0, "a write to ROM");
	ok(v->stop == CPU_STOP_MMIO && waits(ROM_GPA, 4, true) && !U32(fake_rom), "goes to user space");
	flat64();
	is(cpu_write(v, SEG_DS, MMIO_GPA, big, sizeof(big)), OP_STOP, "more than the log holds");
	ok(v->stop == CPU_STOP_INTERNAL && v->internal.suberror == 1, "is an emulation failure");
}

static void mmio_operands(void)
{
	u8 *p;

	flat64();
	p = lin_mem_begin(v, MMIO_GPA, 4, ACC_RW);
	ok(!p && v->scratch[7] == OP_STOP && !v->bounce.active, "read-modify-write of MMIO stops for the read");
	answer(0x10);
	p = lin_mem_begin(v, MMIO_GPA, 4, ACC_RW);
	ok(p && U32(p) == 0x10 && v->bounce.active, "then works on the buffer");
	U32(p) += 1;
	is(cpu_mem_commit(v), OP_END, "its write ends the trace");
	ok(mmio_next(v) && mmio_next(v)->is_write && mmio_next(v)->data[0] == 0x11, "and is queued");
	flat64();
	p = lin_mem_begin(v, MMIO_GPA, 4, ACC_W);
	ok(p && !v->mmio.n, "a plain store reads nothing");
	U32(p) = 3;
	is(cpu_mem_commit(v), OP_END, "and is queued");
	flat64();
	U64(fake_rom) = 0x77;
	p = lin_mem_begin(v, ROM_GPA, 8, ACC_RW);
	ok(p && U64(p) == 0x77 && v->bounce.active == BOUNCE_COPY, "read-modify-write of ROM reads it");
	cpu_mem_commit(v);
	ok(mmio_next(v) && mmio_next(v)->is_write, "and its write goes to user space");
}

/* ---- vanished host pages -------------------------------------------------------------------------------- */

static void vanished(void)
{
	u8 *gone = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	hva_t host;
	gpa_t gpa;
	u64 val = 0;

	flat64();
	mem_set_slot(&fake_vm.mem, 0, 5, 0, BIT(30), 2 * PAGE_SIZE, gone);
	mmu_flush_all(v);
	is(cpu_write(v, SEG_DS, BIT(30) + 8, &val, 8), 0, "a page that is there");
	munmap(gone, PAGE_SIZE);
	is(cpu_read(v, SEG_DS, BIT(30) + 8, &val, 8), OP_STOP, "is gone: read");
	ok(v->stop == CPU_STOP_EFAULT && v->fault_gpa == BIT(30) + 8, "stops and says where");
	v->stop = CPU_RUN;
	is(cpu_write(v, SEG_DS, BIT(30) + 0xff8, &val, 8), OP_STOP, "write");
	ok(v->stop == CPU_STOP_EFAULT && v->fault_gpa == BIT(30) + 0xff8, "likewise");
	is(cpu_write(v, SEG_DS, BIT(30) + 0x1000, &val, 8), 0, "its neighbour is there");
	flat64();
	is(mmu_fetch(v, BIT(30) + 0x1005, &host, &gpa), 0, "fetch translates");
	ok(host == gone + PAGE_SIZE && gpa == BIT(30) + 0x1000, "to the page");
	is(mmu_fetch(v, MMIO_GPA, &host, &gpa), OP_STOP, "fetch from MMIO");
	is(v->stop, CPU_STOP_INTERNAL, "is an emulation failure");
	v->cr3 = BIT(30);
	v->cr0 = CR0_PE | CR0_PG;
	v->cr4 = CR4_PAE;
	v->efer = EFER_LMA;
	mmu_select_view(v);
	is(cpu_read(v, SEG_DS, 0, &val, 1), OP_STOP, "page table on a vanished page");
	is(v->stop, CPU_STOP_EFAULT, "stops too");
	mem_set_slot(&fake_vm.mem, 0, 5, 0, 0, 0, NULL);
}

int main(void)
{
	v = fake_machine();
	segments();
	addresses();
	crossing();
	bounce();
	checked();
	mmio_reads();
	mmio_writes();
	mmio_operands();
	vanished();
	return done_testing();
}
