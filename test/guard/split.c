/* SPDX-License-Identifier: MIT */
/* Split locks: statements S01 to S29 but the table's (sld.c) and the nested ones. */
#include "locks.h"

#include <sys/time.h>

#include "kvm/kvm.h"

BOARD_ASM(xchg_mem, 64, "mov $0x3003e, %rbx; mov $7, %ecx; xchg %ecx, (%rbx); " DONE);
BOARD_ASM(lock_half_line, 64, "mov $0x3001e, %rbx; lock addl $1, (%rbx); " DONE);
BOARD_ASM(store_across, 64, "mov $0x3003e, %rbx; movl $0x11223344, (%rbx); " DONE);
BOARD_ASM(load_tr, 64, "mov $0x68, %eax; ltr %ax; " DONE);
BOARD_ASM(load_ds, 64, "mov $0x70, %eax; mov %ax, %ds; " DONE);
BOARD_ASM(lock_fresh_page, 64, "mov $0x30040, %rbx; lock addl $1, (%rbx); " DONE);
BOARD_ASM(cmpxchg16_odd, 64, "mov $0x30038, %rbx; lock cmpxchg16b (%rbx); " DONE);
BOARD_ASM(write_bit29, 64, "mov $0x33, %ecx; mov $0x20000000, %eax; xor %edx, %edx; wrmsr; rdmsr;"
	"mov %eax, 0x30000; " DONE);
BOARD_ASM(write_bit30, 64, "mov $0x33, %ecx; mov $0x40000000, %eax; xor %edx, %edx; wrmsr; " DONE);
BOARD_ASM(read_caps, 64, "mov $0xcf, %ecx; rdmsr; mov %eax, 0x30000; " DONE);
BOARD_ASM(lock_thrice, 64,
	  "mov $0x3003e, %rbx; lock addl $1, (%rbx); lock addl $1, (%rbx); mov $0xd1, %al; out %al, $0xf4;"
	  "lock addl $1, (%rbx); " DONE);
/* %ecx times, by compare and exchange, across a page; also across a line. */
BOARD_ASM(count_across, 64,
	  "mov $0x31ffe, %rbx; 2: mov (%rbx), %eax; 3: lea 1(%rax), %edx; lock cmpxchg %edx, (%rbx); jne 3b;"
	  "lock incl 0x3003e; dec %ecx; jnz 2b; " DONE);
BOARD_ASM(thirty_locks, 64, "mov $0x3003e, %rbx; mov $30, %ecx; 2: lock addl $1, (%rbx); dec %ecx; jnz 2b; " DONE);
BOARD_ASM(ask_forced, 64,
	  "mov $0x40000101, %eax; cpuid; mov %eax, 0x30000; mov $0x43534d00, %ecx; rdmsr; mov %eax, 0x30004;"
	  "mov $2, %eax; wrmsr; rdmsr; mov %eax, 0x30008; mov $0x33, %ecx; rdmsr; mov %eax, 0x3000c; " DONE);
BOARD_ASM(ack_and_refuse, 64, "mov $0x33, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; " DONE);

static struct vcpu *engine_vcpu(int cpu)
{
	struct kvm_file *f = fdtab_get(b.cpu[cpu].fd);
	struct kvm_vcpu *k = f->obj;

	fdtab_put(f);
	return k->v;
}

/* The board's handler of vector n has run; its error code and return address are on the stack. */
static bool faulted(int cpu, unsigned int vector, u64 *err, u64 *at)
{
	struct kvm_run *run = b.cpu[cpu].run;
	int r = board_run(&b, cpu, 2000);
	struct kvm_regs regs;

	board_get_regs(&b, cpu, &regs);
	*err = board_get(&b, (u32)regs.rsp, 8);
	*at = board_get(&b, (u32)regs.rsp + 8, 8);
	return r == KVM_EXIT_IO && run->io.port == BOARD_PORT && *((u8 *)run + run->io.data_offset) == vector;
}

static int detecting(const u8 *code, const u8 *end, unsigned int cpl)
{
	int cpu;

	fresh("split-lock=off,smt=off");
	cpu = lock_cpu(code, end, cpl);
	if (set_msr(cpu, MSR_TEST_CTRL, SPLIT_BIT))
		bail_out("no detection bit");
	return cpu;
}
#define DETECTING(name, cpl) detecting(name, name##_end, cpl)

static void precise(const char *id, const char *what, const u8 *code, const u8 *end, unsigned int cpl, u64 at_off)
{
	int cpu = detecting(code, end, cpl);
	u64 err, at;
	bool good;

	board_put(&b, OPERAND, 0x5555, 8);
	good = faulted(cpu, 17, &err, &at);
	ok(good && err == 0 && at == board_code_at(cpu) + at_off && board_get(&b, OPERAND, 8) == 0x5555,
	   "%s %s: #AC(0), memory unchanged, RIP at the instruction", id, what);
	gone();
}

static void architecture(void)
{
	int cpu;
	u64 err, at;

	precise("S01", "LOCK ADD across a line at CPL 0", lock_add, lock_add_end, 0, 7);
	precise("S02", "LOCK ADD across a line at CPL 3", lock_add, lock_add_end, 3, 7);
	precise("S03", "XCHG across a line without a prefix", xchg_mem, xchg_mem_end, 0, 12);
	cpu = DETECTING(lock_half_line, 0);
	is(outcome(cpu), RETIRED, "S04 LOCK ADD across 32 bytes inside a line: no fault");
	gone();
	cpu = DETECTING(store_across, 3);
	ok(outcome(cpu) == RETIRED && board_get(&b, OPERAND, 4) == 0x11223344,
		"S05 plain store across a line: no fault");
	gone();
	cpu = DETECTING(cmpxchg16_odd, 0);
	ok(faulted(cpu, 13, &err, &at) && err == 0, "S09 CMPXCHG16B not on 16 bytes: #GP before split-lock detection");
	gone();
	cpu = DETECTING(lock_fresh_page, 0);
	board_put(&b, BOARD_PT + 0x30 * 8, 0x30000 | 7, 8);
	board_put(&b, BOARD_PD, BOARD_PT | 7, 8);
	ok(outcome(cpu) == RETIRED && (board_get(&b, BOARD_PT + 0x30 * 8, 8) & 0x60) == 0x60,
	   "S08 accessed and dirty bits are set without a fault");
	gone();
}

/* A table of descriptors whose entry sel crosses a line. */
static void crossing_gdt(int cpu, u16 sel)
{
	struct kvm_sregs s;
	u32 base = 0x52000 + 64 * 4 - 4 - sel;

	memcpy(b.ram + base, b.ram + BOARD_GDT, BOARD_GDT_SIZE);
	board_get_sregs(&b, cpu, &s);
	s.gdt.base = base;
	board_set_sregs(&b, cpu, &s);
}

static void descriptors(void)
{
	u32 tss = 0x52000 + 64 * 4 - 4, type;
	u64 err, at;
	int cpu = DETECTING(load_tr, 0);

	crossing_gdt(cpu, SEL_TSS2);
	type = (u32)board_get(&b, tss + 5, 1);
	ok(faulted(cpu, 17, &err, &at) && err == 0 && board_get(&b, tss + 5, 1) == type,
	   "S06 LTR of a descriptor across a line: #AC(0), busy bit unchanged");
	gone();
	cpu = DETECTING(load_ds, 0);
	board_gdt(&b, SEL_FREE, board_desc(0, 0xfffff, 0x92, 0xc));
	crossing_gdt(cpu, SEL_FREE);
	ok(faulted(cpu, 17, &err, &at) && !(board_get(&b, tss + 5, 1) & 1),
	   "S07 a segment load that must set the accessed bit across a line: #AC(0)");
	gone();
	cpu = DETECTING(load_ds, 0);
	board_gdt(&b, SEL_FREE, board_desc(0, 0xfffff, 0x93, 0xc));
	crossing_gdt(cpu, SEL_FREE);
	is(outcome(cpu), RETIRED, "S07 with the accessed bit set already: no fault");
	gone();
}

static void msrs(void)
{
	u64 err, at;
	int cpu;

	fresh("split-lock=warn,smt=on");
	cpu = LOCK_CPU(write_bit29, 0);
	ok(faulted(cpu, 13, &err, &at), "S10 WRMSR 33H bit 29 without CORE_CAPABILITIES bit 5: #GP");
	gone();
	fresh("split-lock=warn,smt=off");
	cpu = LOCK_CPU(write_bit29, 0);
	ok(outcome(cpu) == RETIRED && board_get(&b, 0x30000, 4) == SPLIT_BIT, "S10 with it: reads back");
	gone();
	fresh("split-lock=warn,smt=on");
	cpu = LOCK_CPU(read_caps, 0);
	ok(faulted(cpu, 13, &err, &at), "S11 CPUID.7.EDX[30] = 0: RDMSR CFH is #GP");
	gone();
	fresh("split-lock=warn,smt=off");
	cpu = LOCK_CPU(read_caps, 0);
	ok(outcome(cpu) == RETIRED && board_get(&b, 0x30000, 4) == 0x20, "S11 with it: bit 5");
	gone();
	cpu = DETECTING(write_bit30, 0);
	ok(faulted(cpu, 13, &err, &at), "S29 a reserved bit of MSR 33H: #GP");
	vcpu_reset(engine_vcpu(cpu), true);
	is(get_msr(cpu, MSR_TEST_CTRL), SPLIT_BIT, "S29 INIT keeps the bit");
	vcpu_reset(engine_vcpu(cpu), false);
	is(get_msr(cpu, MSR_TEST_CTRL), 0, "S29 RESET clears it");
	gone();
}

static void no_bus_lock_with_ac(void)
{
	int cpu = DETECTING(lock_add, 3);

	board_enable_cap(&b, KVM_CAP_X86_BUS_LOCK_EXIT, KVM_BUS_LOCK_DETECTION_EXIT);
	set_msr(cpu, MSR_DEBUGCTL, 4);
	ok(outcome(cpu) == GIVEN && !(b.cpu[cpu].run->flags & KVM_RUN_X86_BUS_LOCK) && board_run(&b, cpu,
		100) == KVM_EXIT_HLT,
	   "S12 bit 29 and DEBUGCTL[2] set: #AC only, neither #DB nor a bus-lock exit");
	gone();
}

/* ---- locks in memory that is not write-back ----------------------------------------------------------- */

#define UC_BIT (1u << 28)

static void set_uc_feature(int cpu)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 128 * sizeof(c->entries[0]));

	c->nent = 128;
	board_cpu_ioctl(&b, cpu, KVM_GET_CPUID2, c);
	for (u32 i = 0; i < c->nent; i++)
		if (c->entries[i].function == 7 && c->entries[i].index == 2)
			c->entries[i].edx |= 1u << 6;
	if (board_cpu_ioctl(&b, cpu, KVM_SET_CPUID2, c))
		bail_out("KVM_SET_CPUID2");
	free(c);
}

static void uc_locks(void)
{
	u64 err, at;
	int cpu;

	fresh("split-lock=off");
	cpu = LOCK_CPU(lock_fresh_page, 0);
	ok(set_msr(cpu, MSR_TEST_CTRL, UC_BIT), "UC-lock detection that is not enumerated: #GP");
	set_msr(cpu, MSR_CORE_CAPS, 0x30);
	board_put(&b, BOARD_PT + 0x30 * 8, 0x30077, 8);
	ok(!set_msr(cpu, MSR_TEST_CTRL, UC_BIT) && faulted(cpu, 13, &err, &at) && err == 0 && !board_get(&b, INSIDE, 4),
	   "enumerated by CORE_CAPABILITIES: #GP(0), memory unchanged");
	gone();
	fresh("split-lock=off");
	cpu = LOCK_CPU(lock_fresh_page, 0);
	set_uc_feature(cpu);
	board_put(&b, BOARD_PT + 0x30 * 8, 0x30077, 8);
	ok(!set_msr(cpu, MSR_TEST_CTRL, UC_BIT) && faulted(cpu, 17, &err, &at) && err == 4 && !board_get(&b, INSIDE, 4),
	   "enumerated by CPUID: #AC(4)");
	gone();
	fresh("split-lock=off");
	cpu = LOCK_CPU(lock_fresh_page, 0);
	set_uc_feature(cpu);
	set_msr(cpu, MSR_TEST_CTRL, UC_BIT);
	is(outcome(cpu), RETIRED, "and nothing in write-back memory");
	gone();
}

/* ---- the host ------------------------------------------------------------------------------------------ */

static unsigned int count_kind(const char *kind)
{
	unsigned int n = 0;

	for (const char *p = departed(); (p = strstr(p, kind)); p++)
		n++;
	return n;
}

static double timed(int cpu, unsigned int *how)
{
	double t = board_now();

	*how = outcome(cpu);
	return board_now() - t;
}

static void warn(void)
{
	unsigned int how;
	double t;
	int cpu;

	fresh("split-lock=warn,split-lock-mitigate=on,split-lock-reenable=exit");
	cpu = LOCK_CPU(lock_thrice, 0);
	t = timed(cpu, &how);
	ok(how == RETIRED && board_get(&b, OPERAND, 4) == 2 && t >= 0.010 && t < 0.5,
	   "S13 host warn, mitigate on: two locks retire, %.1f ms", t * 1e3);
	is(outcome(cpu), RETIRED, "S22 the third one, after KVM_RUN has returned");
	lines[0] = 0;
	is_str(departed(), "split-lock-warn split-lock-open split-lock-open",
	       "S13 one warning for the thread; S22 the bit is off until KVM_RUN returns, then dropped anew");
	gone();
	fresh("split-lock=warn,split-lock-mitigate=off");
	cpu = LOCK_CPU(lock_thrice, 0);
	t = timed(cpu, &how);
	ok(how == RETIRED && t < 0.009, "S13 mitigate off: no delay (%.2f ms)", t * 1e3);
	gone();
}

/* Locks of two vCPUs, one after the other: how often was the bit dropped? */
static unsigned int drops(const char *opts)
{
	unsigned int n;

	fresh(opts);
	for (int i = 0; i < 2; i++)
		if (outcome(LOCK_CPU(lock_add, 0)) != RETIRED)
			return 99;
	n = count_kind("split-lock-open");
	gone();
	return n;
}

static void siblings(void)
{
	is(drops("split-lock=warn,split-lock-mitigate=off,split-lock-reenable=never,smt=off"), 2,
		"each vCPU has its bit");
	is(drops("split-lock=warn,split-lock-mitigate=off,split-lock-reenable=never,smt=on"), 1,
	   "smt=on: two share it, and clearing one's is clearing the other's");
}

static void on_tick(int sig)
{
}

/* The lock with a signal each 5 ms: does it retire within ms? */
static bool progresses(const char *opts, unsigned int ms)
{
	struct sigaction sa = { .sa_handler = on_tick };
	struct itimerval every = { .it_interval = { 0, 5000 }, .it_value = { 0, 5000 } }, none = { { 0 }, { 0 } };
	int cpu, r;

	fresh(opts);
	cpu = LOCK_CPU(lock_add, 3);
	casement_sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	r = board_run(&b, cpu, ms);
	setitimer(ITIMER_REAL, &none, NULL);
	gone();
	return r == KVM_EXIT_IO;
}

static void periodic_signal(void)
{
	ok(progresses("split-lock=warn,split-lock-mitigate=on,split-lock-signal=progress", 1000),
	   "S14 host warn and a signal each 5 ms: progress");
	ok(!progresses("split-lock=warn,split-lock-mitigate=on,split-lock-signal=retry", 200),
	   "S14 split-lock-signal=retry: none, as under Linux");
}

static void fatal(void)
{
	struct kvm_run *run;
	int cpu;

	fresh("split-lock=fatal");
	cpu = LOCK_CPU(lock_add, 3);
	run = b.cpu[cpu].run;
	bus_signals = 0;
	is(outcome(cpu), KILLED, "S15 host fatal, guest unaware: KVM_EXIT_EXCEPTION");
	ok(run->ex.exception == 17 && run->ex.error_code == 0 && bus_signals == 1 && bus_code == BUS_ADRALN,
	   "S15 exception 17, error code 0, SIGBUS with BUS_ADRALN");
	is_str(departed(), "split-lock-kill", "S15 on record");
	ok(rip(cpu) == board_code_at(cpu) + 7 && board_get(&b, OPERAND, 4) == 0, "S15 the lock was not performed");
	gone();
	fresh("split-lock=fatal,split-lock-kill=efault");
	cpu = LOCK_CPU(lock_add, 3);
	is(board_run(&b, cpu, 1000), -EFAULT, "S15 split-lock-kill=efault: -EFAULT");
	gone();
	fresh("split-lock=fatal,split-lock-kill=sigbus");
	cpu = LOCK_CPU(lock_add, 3);
	board_cr0(&b, cpu, 1 << 18);
	board_flags(&b, cpu, 1 << 18);
	is(outcome(cpu), GIVEN, "S16 host fatal, CPL 3 with AM and AC: #AC for the guest, no exit");
	gone();
}

static unsigned int injected(const char *opts, unsigned int cpl)
{
	unsigned int how;
	int cpu;

	fresh(opts);
	cpu = LOCK_CPU(store_across, cpl);
	engine_vcpu(cpu)->guard->lock.inject_ac = true;
	how = outcome(cpu);
	gone();
	return how;
}

static void hardware_ac(void)
{
	ok(injected("split-lock=none", 0) == GIVEN && injected("split-lock=none", 3) == GIVEN,
	   "S17 host without detection: an #AC is the guest's, whatever CPL");
	is(injected("split-lock=off", 0), KILLED, "S18 host off, #AC at CPL 0: bogus, the vCPU is killed");
	is(injected("split-lock=warn", 0), RETIRED, "S18 host warn: swallowed");
}

/* ---- atomicity ------------------------------------------------------------------------------------------- */

static void *runs(void *arg)
{
	int cpu = (int)(long)arg;

	return (void *)(long)board_run(&b, cpu, 20000);
}

static void atomicity(void)
{
	const u32 n = 3000;
	pthread_t t[2];
	void *r[2];

	fresh("split-lock=off");
	for (int i = 0; i < 2; i++) {
		int cpu = LOCK_CPU(count_across, 3);
		struct kvm_regs regs;

		board_get_regs(&b, cpu, &regs);
		regs.rcx = n;
		board_set_regs(&b, cpu, &regs);
	}
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, runs, (void *)(long)i);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], &r[i]);
	is(board_get(&b, 0x31ffe, 4), 2 * n, "S21 LOCK CMPXCHG across pages loses no update against another vCPU");
	is(board_get(&b, OPERAND, 4), 2 * n, "S21 nor LOCK INC across a line");
	gone();
}

/* ---- choices ------------------------------------------------------------------------------------------------- */

static void use_turn_off(void)
{
	PUT_HANDLER(BOARD_LONG64, 17, 0x50000, ac_turn_off, 0);
}

static void aware(void)
{
	unsigned int first, second;
	int cpu;

	fresh("split-lock=warn,smt=off,sld-forced=off");
	cpu = LOCK_CPU(lock_add, 3);
	set_msr(cpu, MSR_TEST_CTRL, SPLIT_BIT);
	use_turn_off();
	first = outcome(cpu);
	second = outcome(cpu);
	ok(first == GIVEN && second == RETIRED && !count_kind("split-lock"),
	   "S23 host warn, guest warn: one #AC, WRMSR 0 takes effect at once");
	gone();
	fresh("split-lock=fatal,split-lock-unaware=kill");
	is(outcome(LOCK_CPU(lock_add, 0)), KILLED, "S24 host fatal, guest unaware, CPL 0: killed");
	gone();
	fresh("split-lock=fatal,split-lock-unaware=forward");
	cpu = LOCK_CPU(lock_add, 0);
	first = outcome(cpu);
	ok(first == GIVEN && count_kind("split-lock-ac") == 1, "S24 split-lock-unaware=forward: #AC, on record");
	gone();
	fresh("split-lock=fatal,split-lock-unaware=kill,sld-forced=on");
	cpu = LOCK_CPU(lock_add, 3);
	set_msr(cpu, MSR_TEST_CTRL, SPLIT_BIT);
	use_turn_off();
	first = outcome(cpu);
	second = outcome(cpu);
	ok(first == GIVEN && second == KILLED && b.cpu[cpu].run->ex.error_code == 1,
	   "S25 forced on: the lock after WRMSR 0 kills, with error code 1");
	gone();
}

static double thirty(const char *opts)
{
	unsigned int how;
	double t;
	int cpu;

	fresh(opts);
	cpu = LOCK_CPU(thirty_locks, 0);
	t = timed(cpu, &how);
	gone();
	return how == RETIRED ? t : -1;
}

static void ratelimit(void)
{
	double t = thirty("split-lock=ratelimit:20,split-lock-throttle=on");

	ok(t > 0.9 && t < 1.9, "S26 host ratelimit:20 with guests counted: 30 bus locks take %.2f s", t);
	t = thirty("split-lock=ratelimit:20,split-lock-throttle=off");
	ok(t >= 0 && t < 0.5, "S26 not counted by default: %.3f s", t);
}

static void contract(void)
{
	struct vcpu *v;
	u64 err, at;
	int cpu;

	fresh("split-lock=fatal,sld-forced=on,smt=off");
	cpu = LOCK_CPU(ask_forced, 0);
	ok(outcome(cpu) == RETIRED && board_get(&b, 0x30000, 4) == 1 && board_get(&b, 0x30004, 4) == 1,
	   "S27 the guest reads that detection is forced on, from CPUID and from the MSR");
	ok(board_get(&b, 0x30008, 4) == 3 && board_get(&b, 0x3000c, 4) == SPLIT_BIT,
	   "S27 it acknowledges, and MSR 33H reads 1");
	v = engine_vcpu(cpu);
	vcpu_reset(v, true);
	is(get_msr(cpu, SLD_PV_MSR), 3, "S27 the acknowledgement outlives INIT");
	vcpu_reset(v, false);
	is(get_msr(cpu, SLD_PV_MSR), 1, "S27 and ends with RESET");
	gone();
	fresh("split-lock=fatal,sld-forced=on");
	cpu = LOCK_CPU(lock_add, 0);
	set_msr(cpu, SLD_PV_MSR, 3);
	is(outcome(cpu), GIVEN, "S27 an acknowledged guest gets #AC although its bit is 0");
	gone();
	fresh("split-lock=fatal,sld-forced=on");
	cpu = LOCK_CPU(ack_and_refuse, 0);
	set_msr(cpu, SLD_PV_MSR, 3);
	ok(faulted(cpu, 13, &err, &at), "S27 and #GP when it turns detection off");
	gone();
}

int main(void)
{
	catch_bus();
	architecture();
	descriptors();
	msrs();
	no_bus_lock_with_ac();
	uc_locks();
	warn();
	siblings();
	periodic_signal();
	fatal();
	hardware_ac();
	atomicity();
	aware();
	ratelimit();
	contract();
	return done_testing();
}
