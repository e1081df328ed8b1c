/* SPDX-License-Identifier: MIT */
/* What happens inside event delivery: statements L01 to L15. */
#include "vm.h"

#include "cpu/deliver.h"

#define DROP "intercepts=drop,clock=virtual"

static int cpu;

static void start(enum board_mode mode, const char *options, u32 notify)
{
	fresh(options);
	if (notify)
		enable_notify(0, notify);
	cpu = new_cpu(mode);
}

#define CODE(name) board_code(&b, cpu, name)

/* ---- alignment checks ------------------------------------------------------------------------------- */

static void ac_rounds(void)
{
	static u8 before[BOARD_RAM];
	struct kvm_regs r;

	fresh("intercepts=drop,clock=virtual,notify-threshold=1000");
	enable_notify(0, NOTIFY_ON_USER);
	cpu = ac_loop();
	b.ram[BOARD_GDT + (SEL_CODE3 & ~7) + 5] |= 1;
	memcpy(before, b.ram, sizeof(before));
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "L01 a thousand rounds of #AC in #AC");
	board_get_regs(&b, cpu, &r);
	is(r.rsp, BOARD_STACK3 - 3, "L01 RSP has not moved");
	is_mem(b.ram, before, sizeof(before), "L01 no memory was written");
	gone();
}

static void ac_inner(void)
{
	fresh(DROP);
	enable_notify(0, NOTIFY_ON_USER);
	cpu = ac_loop();
	board_gate(&b, BOARD_PROT32, 17, SEL_CODE0, BOARD_HANDLERS + 17 * 16, GATE_INT32, 0, 0);
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 17, "L02 a ring-0 handler is not checked: #AC delivered");
	is(board_get(&b, BOARD_STACK0 - 24, 4), 0, "L02 with error code 0");
	is(board_get(&b, BOARD_STACK0 - 20, 4), board_code_at(cpu), "L02 once");
	gone();
}

BOARD_ASM(ud64, 64, "ud2");

static void aligned64(void)
{
	start(BOARD_LONG64, DROP, NOTIFY_ON_USER);
	CODE(ud64);
	board_stack(&b, cpu, BOARD_STACK0 - 0x103);
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 6, "L03 a 64-bit gate with a misaligned RSP");
	is(board_get(&b, BOARD_STACK0 - 0x110 - 40, 8), board_code_at(cpu),
	   "L03 the frame lies at RSP aligned down to 16");
	is(board_get(&b, BOARD_STACK0 - 0x110 - 16, 8), BOARD_STACK0 - 0x103, "L03 and holds the old RSP");
	gone();
}

/* ---- two exceptions --------------------------------------------------------------------------------------- */

BOARD_ASM(touch_hole, 64, "mov 0x100000, %rax; hlt");
BOARD_ASM(load_bad, 64, "mov $0xfff8, %ax; mov %ax, %ds; hlt");

static void serial(void)
{
	fresh(DROP);
	cpu = ac_loop();
	b.ram[BOARD_IDT + 17 * 8 + 5] &= 0x7f;
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 11, "L04 #NP in delivering #AC is delivered");
	gone();
	start(BOARD_LONG64, DROP, 0);
	CODE(touch_hole);
	board_put(&b, BOARD_PT + 0x100 * 8, 0, 8);
	board_put(&b, BOARD_IDT + 14 * 16 + 5, 0x85, 1); /* a task gate: none in 64-bit mode */
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 8, "L04 #GP in delivering #PF is #DF");
	gone();
	start(BOARD_LONG64, DROP, 0);
	CODE(load_bad);
	board_put(&b, BOARD_PT + 0x100 * 8, 0, 8);
	board_put(&b, BOARD_TSS + 0x2c, 0x101000, 8);
	board_gate(&b, BOARD_LONG64, 13, SEL_CODE0_64, BOARD_HANDLERS + 13 * 16, GATE_INT32, 0, 2);
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 14, "L04 #PF in delivering #GP is #PF");
	gone();
}

static enum exc_combine combine(u8 first, u8 second)
{
	struct event a = { .valid = true, .vector = first, .type = EVENT_HARD_EXC };
	struct event c = { .valid = true, .vector = second, .type = EVENT_HARD_EXC };

	return exc_combine(&a, &c);
}

static void matrix(void)
{
	is(combine(EXC_GP, 21), EXC_DOUBLE_FAULT, "L05 #CP in #GP is #DF; without CET nothing raises it");
	is(combine(EXC_PF, EXC_VE), EXC_DOUBLE_FAULT, "L06 #VE in #PF is #DF");
	is(combine(EXC_AC, EXC_AC), EXC_SERIAL, "L14 #AC in #AC replaces, no #DF");
	is(combine(EXC_DF, EXC_GP), EXC_SHUTDOWN, "L07 a fault in #DF is a shutdown");
	is(combine(EXC_DF, EXC_AC), EXC_SERIAL, "#AC in #DF is not");
}

/* ---- #DB ------------------------------------------------------------------------------------------------------ */

BOARD_ASM(touch_gate, 32, "mov 0x2008, %eax; 1: jmp 1b");

/* Each #DB goes to a ring-3 handler on the same stack, whose lower page is missing. */
static void db_stack_ends(void)
{
	start(BOARD_PAGED32, DROP, NOTIFY_ON_USER);
	CODE(touch_gate);
	board_user(&b, cpu);
	board_gate(&b, BOARD_PROT32, 1, SEL_CODE3, BOARD_HANDLERS + 16, GATE_INT32, 0, 0);
	board_put(&b, BOARD_PT32 + (BOARD_STACK3 / 4096 - 2) * 4, 0, 4);
	board_watch(&b, cpu, 0, BOARD_IDT + 8, 3, 4);
	is(board_run_out(&b, cpu, BOARD_PORT, 5000), 14, "L08 a #DB loop down the stack ends with #PF");
	gone();
}

BOARD_ASM(icebp, 64, ".byte 0xf1; mov $0x66, %al; out %al, $0xf4; hlt");
BOARD_ASM(db_return, 64, "incl 0x30000; mov %dr6, %rax; mov %eax, 0x30010; mov (%rsp), %rax; mov %rax, 0x30018; iretq");
BOARD_ASM(step_sti, 64, "pushfq; orl $0x100, (%rsp); popfq; sti; nop; mov $0x67, %al; out %al, $0xf4; hlt");

static void intercepted_db(void)
{
	start(BOARD_LONG64, "", 0);
	CODE(icebp);
	PUT_HANDLER(BOARD_LONG64, 1, 0x50000, db_return, 0);
	is(board_run_out(&b, cpu, 0xf4, 2000), 0x66, "L11 ICEBP returns to the next instruction");
	is(board_get(&b, 0x30000, 4), 1, "L11 one trap");
	gone();
	start(BOARD_LONG64, "", 0);
	CODE(step_sti);
	memcpy(b.ram + 0x50000, db_return, (size_t)(db_return_end - db_return));
	/* the first trap only: it turns TF off */
	memcpy(b.ram + 0x50000 + (db_return_end - db_return) - 2, "\x81\x64\x24\x10\xff\xfe\xff\xff\x48\xcf", 10);
	board_gate(&b, BOARD_LONG64, 1, SEL_CODE0_64, 0x50000, GATE_INT32, 0, 0);
	is(board_run_out(&b, cpu, 0xf4, 2000), 0x67, "L12 single-stepping STI");
	ok(board_get(&b, 0x30010, 4) & 1 << 14, "L12 BS is set");
	is(board_get(&b, 0x30018, 8), board_code_at(cpu) + 10, "L12 after STI, in its shadow");
	gone();
}

/* ---- the F00F hang --------------------------------------------------------------------------- */

BOARD_ASM(f00f_code, 32, ".byte 0xf0, 0x0f, 0xc7, 0xc8; mov $1, %al; out %al, $0xf4; hlt");

static void f00f(void)
{
	start(BOARD_PROT32, DROP, 0);
	CODE(f00f_code);
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 6, "LOCK CMPXCHG8B of a register is #UD");
	gone();
	start(BOARD_PROT32, DROP, NOTIFY_ON_USER);
	CODE(f00f_code);
	is(casement_inject(b.vm, "f00f:0", NULL, 0), 0, "L15 the F00F bug");
	is(board_run(&b, cpu, 2000), KVM_EXIT_NOTIFY, "L15 hangs: a notify exit");
	is(rip(cpu), board_code_at(cpu), "L15 at the instruction");
	is(board_run(&b, cpu, 2000), KVM_EXIT_NOTIFY, "L15 and again");
	gone();
	start(BOARD_PROT32, "inject=f00f:0", 0);
	CODE(f00f_code);
	is(board_run(&b, cpu, 100), -ETIMEDOUT, "L15 without notify exits only the host ends it");
	board_flags(&b, cpu, 0x200);
	{
		struct kvm_interrupt irq = { .irq = 0x40 };

		board_cpu_ioctl(&b, cpu, KVM_INTERRUPT, &irq);
		board_cpu_ioctl(&b, cpu, KVM_NMI, NULL);
	}
	is(board_run(&b, cpu, 100), -ETIMEDOUT, "L15 no interrupt, no NMI gets in");
	gone();
}

int main(void)
{
	ac_rounds();
	ac_inner();
	aligned64();
	serial();
	matrix();
	db_stack_ends();
	intercepted_db();
	f00f();
	return done_testing();
}
