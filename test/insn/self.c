/* SPDX-License-Identifier: MIT */
/*
 * This program's own functions, run natively and by the engine at the same addresses: decoder, traces,
 * branches, stack, TLB and vector state together. Prints the speed of each.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "cpu/cpu.h"
#include "cpu/native.h"
#include "kernels.h"
#include "tap.h"

#define TABLES_GPA 0x100000ull
#define IMAGE_GPA 0x10000000ull
#define STACK_SIZE (256u << 10)
#define EXIT_PORT 0xf4

extern char __executable_start[], _end[];
void guest_exit(void);
__asm__(".pushsection .text\n.globl guest_exit\nguest_exit:\n	out %al, $0xf4\n	ud2\n.popsection\n");

static uint8_t stack[STACK_SIZE] __attribute__((aligned(4096)));
static uint64_t (*tables)[512];
static unsigned int ntables;
static struct machine m;
static struct vcpu *v;

/* ---- the surroundings ---------------------------------------------------------------------------- */

static int no_mmio_read(struct vcpu *c, gpa_t gpa, unsigned int len, void *d) { return -EOPNOTSUPP; }
static int no_mmio_write(struct vcpu *c, gpa_t gpa, unsigned int len, const void *d) { return -EOPNOTSUPP; }
static int no_pio_read(struct vcpu *c, u16 port, unsigned int size, void *d) { return -EOPNOTSUPP; }
static int no_pio_write(struct vcpu *c, u16 port, unsigned int size, const void *d) { return -EOPNOTSUPP; }
static int no_intr(struct vcpu *c) { return -1; }
static u64 zero(struct vcpu *c) { return 0; }

static const struct cpu_bus bus = {
	.mmio_read = no_mmio_read, .mmio_write = no_mmio_write, .pio_read = no_pio_read,
	.pio_write = no_pio_write, .intr_pending = no_intr, .intr_ack = no_intr, .read_cr8 = zero,
	.tsc = zero, .crystal = zero,
};

/* ---- the guest's memory -------------------------------------------------------------------------- */

static uint64_t *next_level(uint64_t *table, unsigned int index)
{
	if (!table[index])
		table[index] = (TABLES_GPA + 4096 * ++ntables) | 3;
	return tables[((table[index] & ~0xfffull) - TABLES_GPA) / 4096];
}

static void map_page(uint64_t la, uint64_t gpa)
{
	uint64_t *t = tables[0];

	for (unsigned int shift = 39; shift > 12; shift -= 9)
		t = next_level(t, la >> shift & 511);
	t[la >> 12 & 511] = gpa | 3;
}

static bool make_memory(void)
{
	uint64_t first = (uint64_t)__executable_start & ~0xfffull;
	uint64_t last = ((uint64_t)_end + 4095) & ~0xfffull;

	tables = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (tables == MAP_FAILED)
		return false;
	for (uint64_t la = first; la < last; la += 4096)
		map_page(la, IMAGE_GPA + la - first);
	return !mem_set_slot(&m.mem, 0, 0, 0, TABLES_GPA, 1 << 20, (hva_t)tables) &&
	       !mem_set_slot(&m.mem, 0, 1, 0, IMAGE_GPA, last - first, (hva_t)first);
}

static void long_mode(void)
{
	v->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_MP | CR0_WP;
	v->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	v->cr3 = TABLES_GPA;
	v->xcr0 = 7;
	v->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
	for (unsigned int s = SEG_ES; s <= SEG_GS; s++)
		v->seg[s] = (struct segment){ .sel = 16, .ar = 0xc093, .limit = ~0u };
	v->seg[SEG_CS] = (struct segment){ .sel = 8, .ar = 0xa09b, .limit = ~0u };
	v->ncpuid = cpuid_supported(v->cpuid, CPUID_ENTRIES_MAX);
	cpuid_adopt(v);
	cpu_mode_update(v);
	mmu_flush_all(v);
}

/* ---- running --------------------------------------------------------------------------------------- */

static void on_signal(int sig, siginfo_t *info, void *uctx)
{
	if (!native_fault(v, sig, info, uctx))
		signal(sig, SIG_DFL);
}

static double cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static bool call_guest(uint64_t (*fn)(uint64_t), uint64_t arg, uint64_t *ret)
{
	uint64_t *sp = (uint64_t *)(stack + STACK_SIZE - 64);
	enum cpu_stop stop;

	*--sp = (uint64_t)guest_exit;
	v->gpr[GPR_RSP] = (uint64_t)sp;
	v->gpr[GPR_RDI] = arg;
	v->rip = (uint64_t)fn;
	cpu_set_rflags(v, FLAG_FIXED);
	v->pio.active = false;
	stop = cpu_run(v);
	*ret = v->gpr[GPR_RAX];
	if (stop == CPU_STOP_PIO && v->pio.port == EXIT_PORT)
		return true;
	diag("stop %d at %#lx (exception %d, rip offset %#lx)", stop, v->rip, v->exc.vector,
	     v->rip - (uint64_t)__executable_start);
	return false;
}

static void run_kernel(const struct kernel *k)
{
	uint64_t want, got = 0, insns = v->icount;
	double t0 = cpu_seconds(), t1, t2;
	bool good;

	want = k->fn(k->n);
	t1 = cpu_seconds();
	good = call_guest(k->fn, k->n, &got);
	t2 = cpu_seconds();
	insns = v->icount - insns;
	ok(good && want == got, "%s", k->name);
	diag("%-9s %6.1f MIPS, %lu million instructions, %.1f times native", k->name,
	     (double)insns / (t2 - t1) / 1e6, insns / 1000000, (t2 - t1) / (t1 - t0));
}

int main(int argc, char **argv)
{
	static const int sigs[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	struct native_stats st;

	for (unsigned int n = 0; n < ARRAY_SIZE(sigs); n++)
		sigaction(sigs[n], &sa, NULL);
	if (machine_init(&m, &bus, NULL) || !(v = vcpu_create(&m, 0)) || !make_memory())
		bail_out("no machine");
	long_mode();
	for (const struct kernel *k = kernels; k->name; k++)
		if (argc < 2 || !strcmp(argv[1], k->name))
			run_kernel(k);
	native_get_stats(v, &st);
	diag("%lu stubs in %lu bytes for %lu records", st.stubs, st.bytes, st.binds);
	return done_testing();
}
