/* SPDX-License-Identifier: MIT */
/* Bus locks: statements B01 to B17 but the AMD and nested ones. */
#include "locks.h"

#include "kvm/kvm.h"

#define EXIT_ON KVM_BUS_LOCK_DETECTION_EXIT
#define FLAG KVM_RUN_X86_BUS_LOCK
#define UC_PAGE 0x32000u
#define HOLE 0x500000u		/* no memory */

BOARD_ASM(plain_out, 64, "lock addl $1, 0x30040; " DONE);
BOARD_ASM(lock_uc, 64, "mov $0x32010, %rbx; lock addl $1, (%rbx); " DONE);
BOARD_ASM(lock_hole, 64, "mov $0x500010, %rbx; lock addl $1, (%rbx); " DONE);
BOARD_ASM(outs_fresh, 64, "mov $0x33000, %esi; mov $0x55, %edx; outsb; " DONE);
BOARD_ASM(read_dr6, 64, "mov $0xffff0ff0, %eax; mov %rax, %dr6; mov $0x3003e, %rbx; lock addl $1, (%rbx);"
	  "mov %dr6, %rax; mov %eax, 0x30000; " DONE);
BOARD_ASM(clear_dr6, 64, "xor %eax, %eax; mov %rax, %dr6; mov %dr6, %rax; mov %eax, 0x30000; " DONE);
BOARD_ASM(set_debugctl, 64, "mov $0x1d9, %ecx; mov $4, %eax; xor %edx, %edx; wrmsr; rdmsr; mov %eax, 0x30000; " DONE);
BOARD_ASM(thirty, 64, "mov $0x3003e, %rbx; mov $30, %ecx; 2: lock addl $1, (%rbx); dec %ecx; jnz 2b; " DONE);
/* The #DB handler: DR6 of the first #DB, of the second one, which is a single step, and after writing it. */
BOARD_ASM(db_save, 64, "push %rax; mov %dr6, %rax; incl 0x3000c; cmpl $1, 0x3000c; jne 2f; mov %eax, 0x30000;"
	  "pop %rax; iretq; 2: andl $0xfffffeff, 0x18(%rsp); mov %eax, 0x30004; mov $0xffff0ff0, %eax;"
	  "mov %rax, %dr6; mov %dr6, %rax;"
	  "mov %eax, 0x30008; pop %rax; iretq");
/* A bus lock, then a single step. */
BOARD_ASM(lock_then_step, 64, "mov $0x3003e, %rbx; lock addl $1, (%rbx); pushf; orl $0x100, (%rsp); popf; nop; "
	  DONE);

static int exiting(const char *opts, const u8 *code, const u8 *end, unsigned int cpl)
{
	fresh(opts);
	if (board_enable_cap(&b, KVM_CAP_X86_BUS_LOCK_EXIT, EXIT_ON))
		bail_out("KVM_CAP_X86_BUS_LOCK_EXIT");
	return lock_cpu(code, end, cpl);
}
#define EXITING(name, cpl) exiting("bus-lock=off", name, name##_end, cpl)

static void map(u32 page, u64 bits)
{
	board_put(&b, BOARD_PT + page / 4096 * 8, page | bits, 8);
}

static struct vcpu *engine_vcpu(int cpu)
{
	struct kvm_file *f = fdtab_get(b.cpu[cpu].fd);
	struct kvm_vcpu *k = f->obj;

	fdtab_put(f);
	return k->v;
}

/* ---- the capability ------------------------------------------------------------------------------------ */

static int check_cap(void)
{
	return board_ioctl(&b, KVM_CHECK_EXTENSION, (void *)(long)KVM_CAP_X86_BUS_LOCK_EXIT);
}

static void capability(void)
{
	int cpu;

	fresh("bus-lock-detect=on");
	is(check_cap(), 3, "B01 KVM_CHECK_EXTENSION is 3");
	is(board_enable_cap(&b, KVM_CAP_X86_BUS_LOCK_EXIT, 3), -EINVAL, "B02 both modes: -EINVAL");
	is(board_enable_cap(&b, KVM_CAP_X86_BUS_LOCK_EXIT, 4), -EINVAL, "B02 an unknown mode: -EINVAL");
	is(board_enable_cap(&b, KVM_CAP_X86_BUS_LOCK_EXIT, 2), 0, "B02 EXIT");
	is(board_enable_cap(&b, KVM_CAP_X86_BUS_LOCK_EXIT, 1), 0, "B02 OFF after it: 0");
	cpu = LOCK_CPU(lock_add, 0);
	is(board_run(&b, cpu, 1000), KVM_EXIT_X86_BUS_LOCK, "B02 and exits continue");
	gone();
	fresh("bus-lock-detect=off");
	is(check_cap(), 0, "B01 0 on a processor without detection");
	is(board_enable_cap(&b, KVM_CAP_X86_BUS_LOCK_EXIT, 2), 0, "B02 where EXIT is 0");
	cpu = LOCK_CPU(lock_add, 0);
	is(outcome(cpu), RETIRED, "B02 and nothing happens");
	gone();
}

/* ---- exits ---------------------------------------------------------------------------------------------- */

static void exits(void)
{
	int cpu = EXITING(lock_add, 3);
	struct kvm_run *run = b.cpu[cpu].run;

	ok(board_run(&b, cpu, 1000) == KVM_EXIT_X86_BUS_LOCK && (run->flags & FLAG) && board_get(&b, OPERAND, 4) == 1 &&
	   rip(cpu) == board_code_at(cpu) + (u64)(10 + 1),
	   "B03 after the lock: KVM_EXIT_X86_BUS_LOCK, flag, memory incremented, RIP behind");
	ok(outcome(cpu) == RETIRED && !(run->flags & FLAG), "B08 the flag is gone at the next exit");
	gone();
	cpu = EXITING(plain_out, 0);
	ok(outcome(cpu) == RETIRED && !(b.cpu[cpu].run->flags & FLAG),
		"B03 a lock inside a line of write-back memory: no exit");
	gone();
	cpu = EXITING(lock_uc, 0);
	map(UC_PAGE, 0x77);
	ok(board_run(&b, cpu, 1000) == KVM_EXIT_X86_BUS_LOCK && board_get(&b, UC_PAGE + 0x10, 4) == 1,
	   "B09 a lock in uncacheable memory: exit though no line is crossed");
	gone();
}

/* The page table is uncacheable and the page not yet accessed: setting its bit is a bus lock. */
static void with_device_access(void)
{
	int cpu = EXITING(outs_fresh, 0), r;
	struct kvm_run *run = b.cpu[cpu].run;

	board_put(&b, BOARD_PD, BOARD_PT | 0x77, 8);
	map(0x33000, 7);
	/* The first fetches and the stack touch the table too, but their bits are set already. */
	r = board_run(&b, cpu, 1000);
	ok(r == KVM_EXIT_IO && run->io.port == 0x55 && (run->flags & FLAG),
	   "B07 OUTS that sets an accessed bit in an uncacheable table: KVM_EXIT_IO with the flag");
	gone();
	cpu = EXITING(lock_hole, 0);
	run = b.cpu[cpu].run;
	r = board_run(&b, cpu, 1000);
	if (r == KVM_EXIT_MMIO && !run->mmio.is_write)
		r = board_run(&b, cpu, 1000);
	ok(r == KVM_EXIT_MMIO && run->mmio.is_write && (run->flags & FLAG),
	   "B07 a locked access to a device: KVM_EXIT_MMIO with the flag");
	gone();
}

static void priority(void)
{
	int cpu = EXITING(lock_add, 0);
	struct kvm_run *run = b.cpu[cpu].run;
	struct vcpu *v = engine_vcpu(cpu);
	u64 at = rip(cpu);

	/* The boundary after a bus lock, with an SMI waiting. */
	board_cpu_ioctl(&b, cpu, KVM_SMI, NULL);
	v->bus_lock = BUS_LOCK_DONE;
	ok(board_run(&b, cpu, 1000) == KVM_EXIT_X86_BUS_LOCK && !(run->flags & KVM_RUN_X86_SMM) && rip(cpu) == at,
	   "B13 SMI pending together with a bus lock: its exit comes first");
	gone();
}

/* ---- the guest's own detection ------------------------------------------------------------------------------ */

static void db_handler(void)
{
	PUT_HANDLER(BOARD_LONG64, 1, 0x50000, db_save, 0);
}

static void os_detection(void)
{
	u32 dr6;
	int cpu;

	fresh("bus-lock-detect=on");
	cpu = LOCK_CPU(read_dr6, 0);
	set_msr(cpu, MSR_DEBUGCTL, 4);
	ok(outcome(cpu) == RETIRED && board_get(&b, 0x30000, 4) == 0xffff0ff0,
		"B10 DEBUGCTL[2], a bus lock at CPL 0: no #DB");
	gone();
	fresh("bus-lock-detect=on");
	cpu = LOCK_CPU(lock_add, 3);
	set_msr(cpu, MSR_DEBUGCTL, 4);
	db_handler();
	ok(outcome(cpu) == RETIRED && board_get(&b, OPERAND, 4) == 1, "B10 at CPL 3: after the instruction");
	dr6 = (u32)board_get(&b, 0x30000, 4);
	ok(board_get(&b, 0x3000c, 4) == 1 && dr6 == 0xffff07f0, "B10 one #DB, DR6[11] = 0 (%#x)", dr6);
	gone();
	fresh("bus-lock-detect=on");
	cpu = LOCK_CPU(lock_then_step, 3);
	set_msr(cpu, MSR_DEBUGCTL, 4);
	db_handler();
	outcome(cpu);
	ok(board_get(&b, 0x30000, 4) == 0xffff07f0 && board_get(&b, 0x30004, 4) == 0xffff47f0,
	   "B11 a #DB of another cause leaves DR6[11] at 0");
	is(board_get(&b, 0x30008, 4), 0xffff0ff0, "B11 until software writes 1");
	gone();
	fresh("bus-lock-detect=off");
	cpu = LOCK_CPU(clear_dr6, 0);
	ok(outcome(cpu) == RETIRED && board_get(&b, 0x30000, 4) == 0xffff0ff0,
		"B12 CPUID.7:ECX[24] = 0: DR6[11] reads 1");
	gone();
	fresh("bus-lock-detect=off");
	cpu = LOCK_CPU(set_debugctl, 0);
	outcome(cpu);
	ok(b.cpu[cpu].run->io.port == BOARD_PORT && *((u8 *)b.cpu[cpu].run + b.cpu[cpu].run->io.data_offset) == 13,
	   "B12 DEBUGCTL bit 2: #GP");
	gone();
	fresh("bus-lock-detect=on");
	cpu = LOCK_CPU(set_debugctl, 0);
	ok(outcome(cpu) == RETIRED && board_get(&b, 0x30000, 4) == 4, "B12 with it: reads back");
	gone();
}

/* ---- policy --------------------------------------------------------------------------------------------------- */

static void policy(void)
{
	unsigned int how;
	double t;
	int cpu;

	fresh("bus-lock=count");
	cpu = LOCK_CPU(thirty, 0);
	how = outcome(cpu);
	ok(how == RETIRED && stat_of(cpu, "bus_locks", 0) == 30 && stat_of(cpu, "split_locks", 0) == 30,
	   "B17 bus-lock=count: 30 in the statistics");
	gone();
	fresh("bus-lock=ratelimit:20");
	cpu = LOCK_CPU(thirty, 0);
	t = board_now();
	how = outcome(cpu);
	t = board_now() - t;
	ok(how == RETIRED && t > 0.9 && t < 1.9 && stat_of(cpu, "bus_locks", 0) == 30,
	   "B17 bus-lock=ratelimit:20: 30 bus locks take %.2f s", t);
	ok(strstr(departed(), "bus-lock-limit"), "B17 on record");
	gone();
	fresh("bus-lock=kill");
	cpu = LOCK_CPU(thirty, 0);
	is(outcome(cpu), KILLED, "bus-lock=kill: the vCPU is killed");
	is(b.cpu[cpu].run->ex.error_code, 2, "with error code 2");
	ok(strstr(departed(), "bus-lock-kill"), "on record");
	gone();
	fresh("bus-lock=exit");
	cpu = LOCK_CPU(lock_add, 0);
	is(board_run(&b, cpu, 1000), KVM_EXIT_X86_BUS_LOCK, "bus-lock=exit: an exit without the capability");
	gone();
}

int main(void)
{
	catch_bus();
	capability();
	exits();
	with_device_access();
	priority();
	os_detection();
	policy();
	return done_testing();
}
