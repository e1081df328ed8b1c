/* SPDX-License-Identifier: MIT */
/*
 * Event delivery against random descriptor tables. Whatever is in memory, delivery ends with a handler or a
 * stop, and the state it leaves is one that the processor could have.
 */
#include <sys/mman.h>

#include "cpu/deliver.h"
#include "cpu/segment.h"
#include "tap.h"

#define RAM (1u << 20)
#define GDT 0x1000u
#define LDT 0x1800u
#define IDT 0x2000u
#define TSS 0x3000u
#define STACK0 0x8000u
#define STACK3 0x9000u

static struct machine vm;
static u8 *ram;
static u64 seed;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull;
}

static u32 below(u32 n)
{
	return (u32)(rnd() >> 33) % n;
}

static bool give_up(struct vcpu *v, u32 rounds)
{
	return rounds > 50;
}

/* Tables and stacks may lie where no memory is: a device there takes everything and reads as zero. */
static int device_read(struct vcpu *v, gpa_t gpa, unsigned int len, void *data)
{
	memset(data, 0, len);
	return 0;
}

static int device_write(struct vcpu *v, gpa_t gpa, unsigned int len, const void *data)
{
	return 0;
}

static const struct cpu_bus bus = { .no_window = give_up, .mmio_read = device_read, .mmio_write = device_write };

static void put(u32 at, u64 val, u32 size)
{
	memcpy(ram + at, &val, size);
}

/* Mostly sensible descriptors with one thing wrong now and then. */
static u64 random_segment(bool lm)
{
	u64 type = below(4) ? below(2) ? 0x1b : 0x13 : below(32), dpl = below(2) ? 0 : 3;
	u64 flags = lm && (type & 8) ? 0xa : 0xc, d = 0xffff | 0xfull << 48;

	if (!below(8))
		flags = below(16);
	if (!below(10))
		dpl = below(4);
	if (!below(16))
		d &= ~0xfull << 48; /* 64 KiB or 4 KiB */
	return d | type << 40 | dpl << 45 | (u64)(below(12) != 0) << 47 | flags << 52;
}

static u16 random_sel(void)
{
	u16 sel = (u16)(below(24) * 8 + (below(2) ? 0 : 3));

	return below(10) ? sel : (u16)rnd();
}

static void random_gate(u32 vector, bool lm)
{
	static const u8 types[] = { 14, 15, 14, 15, 14, 15, 14, 6, 7, 5, 12, 0 };
	u64 type = types[below(ARRAY_SIZE(types))], off = below(0x10000);
	u64 lo = (off & 0xffff) | (u64)random_sel() << 16 | type << 40 | (u64)(below(2) ? 3 : below(4)) << 45 |
		 (u64)(below(10) != 0) << 47;

	if (lm) {
		lo |= (u64)(below(3) ? 0 : below(8)) << 32;
		put(IDT + vector * 16, lo, 8);
		put(IDT + vector * 16 + 8, below(20) ? 0 : rnd(), 8);
	} else {
		put(IDT + vector * 8, lo, 8);
	}
}

static void random_tss(bool lm)
{
	for (u32 n = 0; n < 0x68; n += 4)
		put(TSS + n, below(20) ? STACK0 : (u32)rnd(), 4);
	for (u32 n = 0; n < 3 && !lm; n++) {
		put(TSS + 4 + n * 8, STACK0 + below(16), 4);
		put(TSS + 8 + n * 8, (random_sel() & ~3u) | n, 4);
	}
	for (u32 n = 0; n < 10 && lm; n++)
		put(TSS + 4 + n * 8, below(20) ? STACK0 + below(16) : rnd(), 8);
}

static struct segment flat(u16 sel, u32 ar)
{
	return (struct segment){ .sel = sel, .ar = ar, .limit = 0xffffffff };
}

static void random_state(struct vcpu *v, bool lm)
{
	u32 dpl = below(2) ? 0 : 3;

	vcpu_reset(v, false);
	for (u32 n = 0; n < 24; n++)
		put(GDT + n * 8, n ? random_segment(lm) : 0, 8);
	for (u32 n = 0; n < 256; n++)
		random_gate(n, lm);
	random_tss(lm);
	v->cr0 |= CR0_PE | (below(4) ? 0 : CR0_AM);
	if (lm)
		v->efer = EFER_LME | EFER_LMA;
	v->gdtr = (struct dtable){ GDT, 24 * 8 - 1 };
	v->idtr = (struct dtable){ IDT, (u16)(below(8) ? 0xfff : below(0x1000)) };
	v->seg[SEG_TR] = (struct segment){
		.sel = 0x40, .base = TSS, .limit = below(10) ? 0x67 : below(0x67), .ar = 0x8b
	};
	v->seg[SEG_LDTR] = (struct segment){ .ar = AR_UNUSABLE };
	v->seg[SEG_CS] = flat((u16)(8 | dpl), (lm ? 0xa09bu : 0xc09bu) | dpl << 5);
	for (u32 n = 0; n < 6; n++)
		if (n != SEG_CS)
			v->seg[n] = flat((u16)(16 | dpl), 0xc093u | dpl << 5);
	v->gpr[GPR_RSP] = STACK3 + below(32);
	v->rip = 0x4000 + below(100);
	cpu_set_rflags(v, (rnd() & 0x254dd5) & ~(u64)(lm ? FLAG_NT : 0) & ~FLAG_TF);
	cpu_mode_update(v);
	mmu_flush_all(v);
}

static bool sane(const struct vcpu *v)
{
	u32 cs = v->seg[SEG_CS].ar;

	if (v->cpl != AR_DPL(v->seg[SEG_SS].ar) || SEL_RPL(v->seg[SEG_CS].sel) != v->cpl)
		return false;
	if (!(cs & AR_P) || !(cs & AR_S) || !(AR_TYPE(cs) & 8) || !(AR_TYPE(cs) & 1))
		return false;
	if (!(AR_TYPE(cs) & 4) && AR_DPL(cs) != v->cpl)
		return false;
	if (cpu_long_mode(v) ? !(cs & AR_L) || !la_canonical(v, v->rip) : v->rip > v->seg[SEG_CS].limit)
		return false;
	return !(v->rflags & (FLAG_VM | FLAG_RF)) && !v->inj.valid && !v->exc.valid;
}

struct before {
	u64 gpr[16], rip, rflags;
	struct segment seg[SEG_NUM];
	u8 cpl;
};

static void remember(const struct vcpu *v, struct before *b)
{
	memcpy(b->gpr, v->gpr, sizeof(b->gpr));
	memcpy(b->seg, v->seg, sizeof(b->seg));
	b->rip = v->rip;
	b->rflags = cpu_rflags(v);
	b->cpl = v->cpl;
}

static bool unchanged(const struct vcpu *v, const struct before *b)
{
	return !memcmp(b->gpr, v->gpr, sizeof(b->gpr)) && !memcmp(b->seg, v->seg, sizeof(b->seg)) &&
	       b->rip == v->rip && b->rflags == cpu_rflags(v) && b->cpl == v->cpl;
}

/* Does any gate lead to a task? Then a failure may be the new task's, with its state. */
static bool task_possible(const struct vcpu *v)
{
	return !cpu_long_mode(v);
}

/* As the run loop does: what a device access posted is served, and delivery goes on. */
static int deliver(struct vcpu *v)
{
	int r;

	do {
		atomic_store(&v->request, 0);
		mmio_reset(v);
		r = cpu_deliver(v);
	} while (r == OP_AGAIN);
	return r;
}

static void random_events(struct vcpu *v, bool lm)
{
	u32 rounds = tap_scale() > 1 ? 5000000 : 50000, handlers = 0, shutdowns = 0, loops = 0, bad = 0;
	static const u8 types[] = { EVENT_INTR, EVENT_NMI, EVENT_HARD_EXC, EVENT_SOFT_INT, EVENT_PRIV_SOFT };

	for (u32 n = 0; n < rounds; n++) {
		u8 type = types[below(ARRAY_SIZE(types))];
		struct before b;
		u64 start = seed;
		int r;

		random_state(v, lm);
		v->inj = (struct event){ .valid = true,
					 .type = type,
					 .vector = (u8)below(type == EVENT_HARD_EXC ? 20 : 256) };
		v->inj.has_error = type == EVENT_HARD_EXC && exc_has_error(v->inj.vector);
		v->inj.insn_len = type == EVENT_SOFT_INT ? 2 : 0;
		remember(v, &b);
		v->stop = CPU_RUN;
		r = deliver(v);
		handlers += r == OP_JUMP;
		shutdowns += r == OP_STOP && v->stop == CPU_STOP_SHUTDOWN;
		loops += r == OP_STOP && v->stop == CPU_STOP_NOTIFY;
		if (r == OP_JUMP ? sane(v) :
				   r == OP_STOP && v->stop != CPU_RUN && (task_possible(v) || unchanged(v, &b)))
			continue;
		if (bad++ < 3)
			diag("seed %#llx: result %d stop %d rip %#llx cs.ar %#x cpl %u", (unsigned long long)start, r,
			     v->stop, (unsigned long long)v->rip, v->seg[SEG_CS].ar, v->cpl);
	}
	ok(!bad, "%s: %u deliveries: %u handlers, %u shutdowns, %u loops", lm ? "64-bit" : "32-bit", rounds, handlers,
	   shutdowns, loops);
	ok(handlers > rounds / 20 && shutdowns > rounds / 100, "both ends are reached");
}

/* A stop request ends an endless delivery; the event stays, nothing has moved. */
static bool endless_setup(struct vcpu *v)
{
	random_state(v, false);
	put(GDT + 8, 0x00cffb000000ffffull, 8);
	for (u32 n = 0; n < 32; n++)
		put(IDT + n * 8, 0x0000ee000000500bull | 0xbull << 16, 8);
	put(IDT + 17 * 8, 0x5000 | 0xbull << 16 | 0xeeull << 40, 8);
	v->idtr.limit = 0xfff;
	v->cr0 |= CR0_AM;
	v->seg[SEG_CS] = flat(0xb, 0xc0fb);
	v->seg[SEG_SS] = flat(0x13, 0xc0f3);
	cpu_set_rflags(v, FLAG_AC);
	v->gpr[GPR_RSP] = STACK3 + 1;
	cpu_mode_update(v);
	v->inj = (struct event){ .valid = true, .vector = EXC_AC, .type = EVENT_HARD_EXC, .has_error = true };
	return v->cpl == 3;
}

static void endless(struct vcpu *v)
{
	struct before b;
	int r;

	ok(endless_setup(v), "a ring-3 #AC handler with a misaligned stack");
	remember(v, &b);
	r = cpu_deliver(v);
	ok(r == OP_STOP && v->stop == CPU_STOP_NOTIFY, "#AC in #AC has no end and is counted");
	ok(v->inj.valid && v->inj.vector == EXC_AC && unchanged(v, &b), "the event is still there, nothing moved");
	endless_setup(v);
	atomic_fetch_or(&v->request, REQ_EXIT);
	remember(v, &b);
	r = cpu_deliver(v);
	ok(r == OP_STOP && v->stop == CPU_STOP_KICK && v->inj.valid && unchanged(v, &b),
	   "a stop request ends it at once");
	atomic_store(&v->request, 0);
}

int main(void)
{
	struct vcpu *v;

	seed = tap_seed() | 1;
	machine_init(&vm, &bus, NULL);
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	mem_set_slot(&vm.mem, 0, 0, 0, 0, RAM, ram);
	v = vcpu_create(&vm, 0);
	ok(v != NULL, "vCPU");
	if (!v)
		return done_testing();
	random_events(v, false);
	random_events(v, true);
	endless(v);
	vcpu_destroy(v);
	machine_destroy(&vm);
	return done_testing();
}
