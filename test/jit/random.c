/* SPDX-License-Identifier: MIT */
/*
 * usage: jit-random [PROGRAMS]
 * Random programs on the interpreter and on translated code, with its worst cases forced in turn: both must come to the
 * same registers, flags, vector state and memory, by way of the same faults. A fault ends a run (there is no IDT, so it
 * is a shutdown); the program then goes on behind the instruction.
 *
 * CASEMENT_SEED=N runs one program again; a difference is shrunk and shown.
 */
#include "tap.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "cpu/cpu.h"
#include "cpu/fpu.h"
#include "cpu/native.h"
#include "jit/jit.h"
#include "program.h"

#define RAM 0x200000u
#define TABLES 0x180000u
#define FAULTS_MAX 200
#define END_PORT 0xf4

static const char *const forced[] = { "", "slow", "single", "tiny", "kick", "slow,kick", "apart", "single,tiny", "" };
#define TIERS (1 + sizeof(forced) / sizeof(forced[0]))

/**
 * struct tier - a vCPU; number 0 interprets
 * @m: a machine of its own, or of two
 * @ram: its memory, which begins at guest-physical @base
 * @until: processor time at which its program is stopped
 */
struct tier {
	struct machine *m;
	struct vcpu *v;
	u8 *ram;
	u64 base;
	clockid_t clock;
	_Atomic u64 until;
};

/* What a run comes to. */
struct result {
	enum cpu_stop stop;
	unsigned int faults;
	bool late;
	u64 fault_hash;
	u64 gpr[16], rip, rflags, cr2;
	u8 fp[XSAVE_EXTENDED + 256];
};

/* Two of one machine run at once; the last two are a machine like it, whose second one interprets. */
#define PAIR TIERS
#define SECOND (PAIR + 3)
static struct tier tier[TIERS + 4];
static __thread struct vcpu *running;

/* ---- what the processor asks of its surroundings ------------------------------------------------------------- */

static int no_mmio_read(struct vcpu *v, gpa_t gpa, unsigned int len, void *data) { return -EOPNOTSUPP; }
static int no_mmio_write(struct vcpu *v, gpa_t gpa, unsigned int len, const void *data) { return -EOPNOTSUPP; }
static int no_pio_read(struct vcpu *v, u16 port, unsigned int size, void *data) { return -EOPNOTSUPP; }
static int no_pio_write(struct vcpu *v, u16 port, unsigned int size, const void *data) { return -EOPNOTSUPP; }
static int no_intr(struct vcpu *v) { return -1; }
static bool no(struct vcpu *v) { return false; }
static u64 zero(struct vcpu *v) { return 0; }
static bool no_window(struct vcpu *v, u32 rounds) { return false; }

static const struct cpu_bus bus = {
	.mmio_read = no_mmio_read, .mmio_write = no_mmio_write, .pio_read = no_pio_read, .pio_write = no_pio_write,
	.intr_pending = no_intr, .intr_ack = no_intr, .intr_window_wanted = no, .read_cr8 = zero, .tsc = zero,
	.crystal = zero, .no_window = no_window,
};

static void on_fault(int sig, siginfo_t *info, void *uctx)
{
	if (!running || !native_fault(running, sig, info, uctx))
		signal(sig, SIG_DFL);
}

/* Processor time of the thread that runs the program */
static u64 now_ms(const struct tier *t)
{
	struct timespec ts;

	if (clock_gettime(t->clock, &ts))
		return 0;
	return (u64)ts.tv_sec * 1000 + (u64)ts.tv_nsec / 1000000;
}

/* Only for programs that overwrite what would end them. */
static void *watchdog(void *arg)
{
	const struct timespec nap = { .tv_nsec = 50000000 };

	for (;;) {
		for (unsigned int k = 0; k <= SECOND; k++)
			if (tier[k].until && now_ms(&tier[k]) > tier[k].until)
				vcpu_request(tier[k].v, REQ_EXIT);
		nanosleep(&nap, NULL);
	}
	return NULL;
}

/* ---- machines -------------------------------------------------------------------------------------------------- */

static void put64(u8 *ram, u64 at, u64 val)
{
	memcpy(ram + at, &val, 8);
}

static void map_page(const struct tier *t, u64 la, u64 bits)
{
	put64(t->ram, TABLES + 0x3000 + (la >> 12) * 8, (la + t->base) | bits);
}

/* Code, data (one page of it for reading only), stack, counter; and all of it once more at ALIAS. */
static void make_tables(const struct tier *t)
{
	u64 tables = t->base + TABLES;
	u8 *ram = t->ram;

	memset(ram + TABLES, 0, 0x4000);
	put64(ram, TABLES, (tables + 0x1000) | 7);
	put64(ram, TABLES + 0x1000, (tables + 0x2000) | 7);
	put64(ram, TABLES + 0x2000, (tables + 0x3000) | 7);
	put64(ram, TABLES + 0x2000 + (ALIAS >> 21) * 8, (tables + 0x3000) | 7);
	for (u64 a = CODE_GPA; a < CODE_GPA + CODE_MAX; a += 4096)
		map_page(t, a, 7);
	for (u64 a = DATA_GPA; a < DATA_GPA + DATA_SIZE; a += 4096)
		map_page(t, a, a == DATA_GPA + 0x6000 ? 5 : 7);
	for (u64 a = STACK_GPA; a < STACK_GPA + 0x3000; a += 4096)
		map_page(t, a, 7);
	map_page(t, COUNT_GPA, 7);
	put64(ram, TABLES + 0x3000 + (TABLES_LA >> 12) * 8, (tables + 0x3000) | 3);
}

static void long_mode(struct vcpu *v, bool user, u64 cr3)
{
	unsigned int dpl = user ? 3u << 5 : 0;

	v->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_MP | CR0_WP;
	v->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE | CR4_OSXMMEXCPT | CR4_FSGSBASE;
	v->cr3 = cr3;
	v->cr2 = 0;
	v->xcr0 = 7;
	v->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
	for (unsigned int s = SEG_ES; s <= SEG_GS; s++)
		v->seg[s] = (struct segment){ .sel = user ? 19 : 16, .ar = 0xc093 | dpl, .limit = ~0u };
	v->seg[SEG_CS] = (struct segment){ .sel = user ? 11 : 8, .ar = 0xa09b | dpl, .limit = ~0u };
	v->idtr = (struct dtable){ 0 };
	v->inj.valid = v->exc.valid = v->pending.valid = v->pio.active = false;
	v->pending_db = 0;
	v->shadow = 0;
	v->seg[SEG_FS].base = v->fs_base_copy = 0x20;
	v->seg[SEG_GS].base = v->gs_base_copy = 0x1f8;
	v->msr_val[MSR_SLOT_KERNEL_GS_BASE] = 0x40;
	cpu_mode_update(v);
	mmu_flush_all(v);
}

/* A machine with the memory of so many tiers, which it is shared out to. */
static void new_machine(struct tier *t, unsigned int count)
{
	struct machine *m = calloc(1, sizeof(*m));
	u8 *ram = mmap(NULL, RAM * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (!m || machine_init(m, &bus, t))
		bail_out("machine_init");
	if (ram == MAP_FAILED || mem_set_slot(&m->mem, 0, 0, 0, 0, RAM * count, ram))
		bail_out("memory");
	for (unsigned int k = 0; k < count; k++) {
		t[k].m = m;
		t[k].base = k * RAM;
		t[k].ram = ram + k * RAM;
		t[k].v = vcpu_create(m, k);
		if (!t[k].v)
			bail_out("vcpu_create");
	}
}

static void start_tier(struct tier *t, const char *force, const char *heat)
{
	if (force) {
		setenv("CASEMENT_FORCE", force, 1);
		setenv("CASEMENT_HEAT", heat, 1);
		switch (jit_attach(t->v)) {
		case 0:
			break;
		case -EOPNOTSUPP:
			skip_all("the host has not what translated code needs");
		default:
			bail_out("jit_attach");
		}
	}
	t->v->ncpuid = cpuid_supported(t->v->cpuid, CPUID_ENTRIES_MAX);
	cpuid_adopt(t->v);
	vcpu_reset(t->v, false);
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */

static void load(struct tier *t, const struct program *p)
{
	u64 s = p->seed ^ 0x5555;
	struct vcpu *v = t->v;
	u32 rounds = 20 + (u32)(random_next(&s) % (random_next(&s) & 3 ? 6000 : 60000));

	memset(t->ram, 0, 0x70000);
	make_tables(t);
	if (p->hole)
		map_page(t, p->hole, 0);
	memcpy(t->ram + CODE_GPA, p->code, CODE_MAX);
	for (unsigned int k = 0; k < DATA_SIZE; k += 8)
		put64(t->ram, DATA_GPA + k, random_next(&s) >> (k & 56));
	memcpy(t->ram + COUNT_GPA, &rounds, 4);
	for (unsigned int r = 0; r < 16; r++)
		v->gpr[r] = random_next(&s) >> (random_next(&s) & 63);
	long_mode(v, p->user, t->base + TABLES);
	memset(v->xsave, 0, XSAVE_EXTENDED + 256);
	for (unsigned int k = 0; k < 256; k += 8)
		put64(v->xsave, XSAVE_XMM + k, random_next(&s));
	put64(v->xsave, 512, 7);
	put64(v->xsave, XSAVE_MXCSR, random_next(&s) & 7 ? 0x1f80 : 0x1d00);
	put64(v->xsave, 0, random_next(&s) & 7 ? 0x37f : 0x37b);
	v->rip = CODE_GPA;
	cpu_set_rflags(v, FLAG_FIXED | FLAG_OF | 3ull << 12);
}

static u64 mix(u64 h, u64 x)
{
	return (h ^ x) * 0x9e3779b97f4a7c15ull ^ h >> 29;
}

/* The slot behind the one that rip is in; 0 none. */
static u64 behind(const struct program *p, u64 rip)
{
	u64 off = rip - CODE_GPA;

	if (off >= p->n)
		return 0;
	for (unsigned int k = 0; k < p->nslots; k++)
		if (p->slot[k] > off)
			return CODE_GPA + p->slot[k];
	return 0;
}

static void note_fault(struct vcpu *v, struct result *r)
{
	u64 h = mix(r->fault_hash, v->rip);

	h = mix(h, v->cr2);
	h = mix(h, cpu_rflags(v));
	for (unsigned int k = 0; k < 16; k++)
		h = mix(h, v->gpr[k]);
	r->fault_hash = h;
	r->faults++;
}

static void run(struct tier *t, const struct program *p, struct result *r)
{
	struct vcpu *v = t->v;

	memset(r, 0, sizeof(*r));
	load(t, p);
	pthread_getcpuclockid(pthread_self(), &t->clock);
	t->until = now_ms(t) + 1500;
	running = v;
	for (;;) {
		u64 next;

		r->stop = cpu_run(v);
		next = behind(p, v->rip);
		if (r->stop != CPU_STOP_SHUTDOWN || !next || r->faults == FAULTS_MAX)
			break;
		note_fault(v, r);
		v->inj.valid = v->exc.valid = v->pending.valid = false;
		v->rip = next;
	}
	t->until = 0;
	running = NULL;
	if (v->request & REQ_EXIT) {
		atomic_fetch_and(&v->request, ~(u32)REQ_EXIT);
		r->late = true;
	}
	v->pio.active = false;
	memcpy(r->gpr, v->gpr, sizeof(r->gpr));
	r->rip = v->rip;
	r->rflags = cpu_rflags(v);
	r->cr2 = v->cr2;
	memcpy(r->fp, v->xsave, sizeof(r->fp));
	memset(r->fp + 6, 0, 18); /* FOP, FIP, FDP: the host's */
	memset(r->fp + 464, 0, 112); /* not the processor's; which parts are in their initial state */
}

/* Guest-physical addresses are compared as well, as CR3 shows them. */
static const struct tier *reference(const struct tier *t)
{
	return t->base ? &tier[SECOND] : &tier[0];
}

static bool same(const struct tier *t, const struct result *a, const struct result *b)
{
	if (a->late || b->late) /* nobody knows where they were stopped */
		return true;
	return !memcmp(a, b, sizeof(*a)) && !memcmp(t->ram, reference(t)->ram, 0x70000);
}

/* ---- when they differ ---------------------------------------------------------------------------------------- */

static bool differs(const struct program *p, struct tier *t)
{
	struct result a, b;

	run(&tier[0], p, &a);
	run(t, p, &b);
	return !same(t, &a, &b);
}

/* Whatever can become NOPs with the difference still there does. */
static void shrink(struct program *p, struct tier *t)
{
	static struct program q;

	for (unsigned int chunk = 64; chunk; chunk /= 2) {
		for (unsigned int k = 0; k < p->nslots; k += chunk) {
			q = *p;
			for (unsigned int i = k; i < k + chunk && i < p->nslots; i++)
				if (!p->fixed[i])
					memset(q.code + q.slot[i], 0x90, (size_t)(q.slot[i + 1] - q.slot[i]));
			if (memcmp(q.code, p->code, CODE_MAX) && differs(&q, t))
				*p = q;
		}
	}
}

static void show_state(const struct tier *t, const struct result *a, const struct result *b)
{
	diag("interpreted, translated: stop %d %d, RIP %#lx %#lx, flags %#lx %#lx, CR2 %#lx %#lx, faults %u %u%s",
	     a->stop, b->stop, a->rip, b->rip, a->rflags, b->rflags, a->cr2, b->cr2, a->faults, b->faults,
	     a->fault_hash != b->fault_hash ? " (not the same)" : "");
	for (unsigned int r = 0; r < 16; r++)
		if (a->gpr[r] != b->gpr[r])
			diag("r%u %#lx %#lx", r, a->gpr[r], b->gpr[r]);
	for (unsigned int k = 0; k < sizeof(a->fp); k++)
		if (a->fp[k] != b->fp[k])
			diag("XSAVE byte %u: %#x %#x", k, a->fp[k], b->fp[k]);
	for (unsigned int k = 0, n = 0; k < 0x70000 && n < 8; k++)
		if (t->ram[k] != reference(t)->ram[k]) {
			diag("memory %#x: %#x %#x", k, reference(t)->ram[k], t->ram[k]);
			n++;
		}
}

static void show(struct program *p, struct tier *t, const char *force)
{
	struct result a, b;
	char line[160];

	diag("CASEMENT_SEED=%lu, forced: %s", p->seed, *force ? force : "nothing");
	run(&tier[0], p, &a);
	run(t, p, &b);
	show_state(t, &a, &b);
	shrink(p, t);
	for (unsigned int k = 0; k < p->nslots; k++) {
		unsigned int at = p->slot[k], len = (unsigned int)(p->slot[k + 1] - at);

		if (!len || p->code[at] == 0x90)
			continue;
		insn_format(p->code + at, len < 15 ? len : 15, 8, CODE_GPA + at, line, sizeof(line));
		diag("%lx: %s", (unsigned long)(CODE_GPA + at), line);
	}
	run(&tier[0], p, &a);
	run(t, p, &b);
	show_state(t, &a, &b);
}

/* ---- all of them ------------------------------------------------------------------------------------------------ */

static void make_tiers(void)
{
	static const int sigs[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };
	pthread_t thread;

	for (size_t k = 0; k < sizeof(sigs) / sizeof(sigs[0]); k++)
		sigaction(sigs[k], &sa, NULL);
	for (unsigned int k = 0; k < TIERS; k++)
		new_machine(&tier[k], 1);
	new_machine(&tier[PAIR], 2);
	new_machine(&tier[PAIR + 2], 2);
	start_tier(&tier[0], NULL, NULL);
	start_tier(&tier[SECOND], NULL, NULL);
	for (unsigned int k = 1; k < TIERS; k++)
		start_tier(&tier[k], forced[k - 1], k == TIERS - 1 ? "24" : "1");
	start_tier(&tier[PAIR], "", "1");
	start_tier(&tier[PAIR + 1], "tiny", "2");
	pthread_create(&thread, NULL, watchdog, NULL);
}

/* ---- two at once ------------------------------------------------------------------------------------------------ */

struct other {
	struct program p;
	struct result r;
};

static void *run_other(void *arg)
{
	struct other *o = arg;

	run(&tier[PAIR + 1], &o->p, &o->r);
	return NULL;
}

/* Two processors of one machine run a program each, in memory of their own; a split lock of one stops both. */
static bool pair_agrees(const struct program *p)
{
	static struct other o;
	struct result r, want;
	pthread_t thread;
	bool good;

	program_make(&o.p, p->seed ^ 1ull << 62);
	if (pthread_create(&thread, NULL, run_other, &o))
		bail_out("pthread_create");
	run(&tier[PAIR], p, &r);
	pthread_join(thread, NULL);
	run(&tier[SECOND], &o.p, &want);
	good = same(&tier[PAIR + 1], &want, &o.r);
	if (!good) {
		diag("CASEMENT_SEED=%lu, the second of two processors", p->seed);
		show_state(&tier[PAIR + 1], &want, &o.r);
	}
	run(&tier[0], p, &want);
	if (same(&tier[PAIR], &want, &r))
		return good;
	diag("CASEMENT_SEED=%lu, the first of two processors", p->seed);
	show_state(&tier[PAIR], &want, &r);
	return false;
}

int main(int argc, char **argv)
{
	u64 first = getenv("CASEMENT_SEED") ? strtoull(getenv("CASEMENT_SEED"), NULL, 0) : (u64)(tap_now() * 1e6);
	unsigned int count = argc > 1 ? (unsigned int)atoi(argv[1]) : 400, bad = 0, late = 0;
	static struct program p;
	u64 insns, faults = 0;
	double t0 = tap_now();
	struct result a, b;

	count *= (unsigned int)(getenv("CASEMENT_SCALE") ? atoi(getenv("CASEMENT_SCALE")) : 1);
	if (getenv("CASEMENT_SEED"))
		count = 1;
	make_tiers();
	insns = tier[0].v->icount;
	for (unsigned int k = 0; k < count && bad < 3; k++) {
		program_make(&p, first + k);
		run(&tier[0], &p, &a);
		faults += a.faults;
		late += a.late;
		/* A seed asks for all of them. */
		for (unsigned int n = 1; n < TIERS; n++) {
			if (count > 1 && n != 1 + (first + k) % (TIERS - 1))
				continue;
			run(&tier[n], &p, &b);
			if (same(&tier[n], &a, &b) || !differs(&p, &tier[n]))
				continue;
			bad++;
			show(&p, &tier[n], forced[n - 1]);
			program_make(&p, first + k);
			run(&tier[0], &p, &a);
		}
		if (count == 1 || (first + k) % 4 == 0)
			bad += !pair_agrees(&p);
	}
	insns = tier[0].v->icount - insns;
	ok(!bad, "%u random programs: interpreter and translator agree", count);
	diag("seeds from %lu; %lu million instructions, %lu faults, %u programs without end, %.1f s", first,
	     insns / 1000000, faults, late, tap_now() - t0);
	return done_testing();
}
