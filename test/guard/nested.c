/* SPDX-License-Identifier: MIT */
/* Locks in L2: statements S19, S20, B14, B15, B18. */
#include "nested.h"

BOARD_ASM(l2_lock, 64, "mov $0x3003e, %rbx; lock addl $1, (%rbx); vmcall; hlt");
BOARD_ASM(l2_misaligned, 64, "mov $0x30001, %rbx; mov (%rbx), %eax; vmcall; hlt");
/* Two pages: the first sets an accessed bit in an uncacheable table, the second is not there. */
BOARD_ASM(l2_two_pages, 64, "mov $0x33ffe, %rbx; mov (%rbx), %eax; vmcall; hlt");

#define REASON board_get(&b, NEST_RESULT, 4)
#define INFO board_get(&b, NEST_RESULT + 4, 4)
#define ERROR_CODE board_get(&b, NEST_RESULT + 8, 4)
#define QUALIFICATION board_get(&b, NEST_RESULT + 16, 8)
#define VMCALL 18

static void split_locks(void)
{
	int cpu;

	fresh("split-lock=warn,split-lock-mitigate=off");
	cpu = NEST(l2_lock, 3, 1u << 17);
	nest_end();
	ok(nest_exited(cpu) && REASON == VMCALL && board_get(&b, OPERAND, 4) == 1,
	   "S19 split lock of L2, host warn, L1 intercepts #AC: L1 sees nothing");
	ok(strstr(departed(), "split-lock-open") && strstr(lines, "\"level\":2"), "S19 on record, for level 2");
	gone();
	fresh("split-lock=fatal");
	cpu = NEST(l2_lock, 0, 1u << 17);
	nest_end();
	is(board_run(&b, cpu, 2000), KVM_EXIT_EXCEPTION, "S19 host fatal: L0's, too");
	gone();
	fresh("split-lock=warn");
	cpu = NEST(l2_misaligned, 3, 1u << 17);
	field(0x6800, 0x80000031 | 1 << 18);
	field(0x6820, 2 | 1 << 18);
	nest_end();
	ok(nest_exited(cpu) && REASON == 0 && INFO == (0x80000b00u | 17) && ERROR_CODE == 0,
	   "S20 alignment check of L2: L1 gets exit 0, vector 17, error code 0");
	gone();
}

static void bus_locks(void)
{
	int cpu;

	fresh("bus-lock-detect=on");
	board_enable_cap(&b, KVM_CAP_X86_BUS_LOCK_EXIT, KVM_BUS_LOCK_DETECTION_EXIT);
	cpu = NEST(l2_lock, 3, 0);
	nest_end();
	ok(!(get_msr(cpu, 0x48b) >> 62 & 1), "B14 L1 is not offered the control");
	is(board_run(&b, cpu, 2000), KVM_EXIT_X86_BUS_LOCK, "B14 a bus lock of L2 is L0's");
	ok(nest_exited(cpu) && REASON == VMCALL, "B14 and L1 sees nothing of it");
	gone();
}

/* What L1 reads as the reason of a page fault of L2 that comes with a bus lock. */
static u64 reflected(const char *opts)
{
	u64 reason;
	int cpu, r;

	fresh(opts);
	board_enable_cap(&b, KVM_CAP_X86_BUS_LOCK_EXIT, KVM_BUS_LOCK_DETECTION_EXIT);
	cpu = NEST(l2_two_pages, 0, 1u << 14);
	nest_end();
	board_put(&b, BOARD_PD, BOARD_PT | 0x77, 8);
	board_put(&b, BOARD_PT + 0x33 * 8, 0x33007, 8);
	board_put(&b, BOARD_PT + 0x34 * 8, 0, 8);
	r = board_run(&b, cpu, 2000);
	ok(r == KVM_EXIT_X86_BUS_LOCK, "B15 %s: user space is told of the bus lock", opts);
	reason = nest_exited(cpu) ? REASON : ~0ull;
	gone();
	return reason;
}

static void reasons(void)
{
	is(reflected("fidelity=parity"), 1u << 26, "B15 parity: L1 sees bit 26 of an exit that it takes");
	is(reflected("fidelity=strict"), 0, "B15 strict: it does not");
}

static void debug_exceptions(void)
{
	int cpu;

	fresh("bus-lock-detect=on");
	cpu = NEST(l2_lock, 3, 1u << 1);
	field(0x2802, 4);
	nest_end();
	ok(nest_exited(cpu) && REASON == 0 && (INFO & 0xff) == 1 && (QUALIFICATION & 1u << 11),
	   "B18 L1 intercepts #DB: exit qualification bit 11 is 1 (%#llx)", (unsigned long long)QUALIFICATION);
	gone();
}

int main(void)
{
	catch_bus();
	split_locks();
	bus_locks();
	reasons();
	debug_exceptions();
	return done_testing();
}
