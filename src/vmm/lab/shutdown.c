/* SPDX-License-Identifier: MIT */
/*
 * Each kind of triple fault: an exception that cannot be delivered in the delivery of #DF
 * [SDM3A "Interrupt 8-Double Fault Exception (#DF)"]. The vCPU stops and the monitor hears of it. Uncontained is the
 * monitor that enters it again.
 */
#include "vmm/lab/lab.h"

static void idt_limit(struct board *b, u16 limit)
{
	board_sregs(b, 0, s.idt.limit = limit);
}

BOARD_ASM(lab_tf_ud64, 64, "ud2");
BOARD_ASM(lab_tf_ud32, 32, "ud2");
BOARD_ASM(lab_tf_ud16, 16, "ud2");

static void setup_idt_limit(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_ud64);
	idt_limit(b, 0);
}

static void setup_idt_unmapped(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_ud64);
	board_sregs(b, 0, s.idt.base = 0x4000000000);
}

static void setup_gates(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_ud64);
	for (u32 v = 0; v < 32; v++)
		board_put(b, BOARD_IDT + v * 16 + 4, 0, 4);
}

static void setup_gate_type(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_tf_ud32);
	for (unsigned int v = 0; v < 32; v++)
		board_gate(b, BOARD_PROT32, v, SEL_CODE0, BOARD_HANDLERS, (enum board_gate)12, 0, 0);
}

static void setup_code_null(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_ud64);
	for (unsigned int v = 0; v < 32; v++)
		board_gate(b, BOARD_LONG64, v, 0, BOARD_HANDLERS, GATE_INT32, 0, 0);
}

static void setup_gdt_limit(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_tf_ud32);
	board_sregs(b, 0, s.gdt.limit = 7);
}

static void setup_stack(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_ud64);
	board_stack(b, 0, 0x0001000000000000);
}

static void setup_stack_unmapped(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_ud64);
	board_stack(b, 0, 0x4000000000);
}

static void setup_stack_limit(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_tf_ud32);
	board_sregs(b, 0, s.ss.limit = 0xfff);
}

static void setup_ist(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_ud64);
	for (unsigned int v = 0; v < 32; v++)
		board_gate(b, BOARD_LONG64, v, SEL_CODE0_64, BOARD_HANDLERS, GATE_INT32, 0, 7);
	board_put(b, BOARD_TSS + 0x24 + 6 * 8, 0x0001000000000000, 8);
}

static void setup_tss_limit(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_tf_ud32);
	board_user(b, 0);
	board_sregs(b, 0, s.tr.limit = 3);
}

static void setup_task_gate(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_tf_ud32);
	for (unsigned int v = 0; v < 32; v++)
		board_gate(b, BOARD_PROT32, v, SEL_TSS, 0, GATE_TASK, 0, 0); /* busy: it is the current task's */
}

/* The new task's trap flag raises #DB, whose gate leads to the same, now busy, task. */
static void setup_task_trap(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_tf_ud32);
	lab_second_task(b, BOARD_CODE);
	board_put(b, BOARD_TSS2 + 0x64, 1, 4); /* T */
	for (unsigned int v = 0; v < 32; v++)
		board_gate(b, BOARD_PROT32, v, SEL_TSS2, 0, GATE_TASK, 0, 0);
}

static void setup_real(struct board *b)
{
	lab_cpu(b, BOARD_REAL16, lab_tf_ud16);
	idt_limit(b, 0);
}

BOARD_ASM(lab_tf_cr3, 64, "mov $0x3fffff000, %rax; mov %rax, %cr3; ud2");
static void setup_cr3(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_cr3);
}

BOARD_ASM(lab_tf_paging, 32,
	  "mov $0x400000, %eax; mov %eax, %cr3; mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0; nop");
static void setup_paging(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_tf_paging);
}

static void setup_nmi(struct board *b)
{
	setup_idt_limit(b);
	board_cpu_ioctl(b, 0, KVM_NMI, NULL);
}

static void setup_irq(struct board *b)
{
	setup_idt_limit(b);
	lab_interrupt(b, 0x40);
}

BOARD_ASM(lab_tf_int, 64, "1: int $0x80; jmp 1b");
static void setup_int(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_int);
	idt_limit(b, 0);
}

BOARD_ASM(lab_tf_lidt, 64, "lidt 0x30000; int3");
static void setup_lidt(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_tf_lidt);
}

#define ROW(name, id, text)                                                                                        \
	{                                                                                                          \
		name, text, END_SHUTDOWN, SIGN_EXITS, "", setup_##id, NULL                                         \
	}
static const struct lab_guest shutdown[] = {
	ROW("triple-idt-limit", idt_limit, "no gate within the limit of the IDT"),
	ROW("triple-idt-unmapped", idt_unmapped, "an IDT that is not mapped"),
	ROW("triple-lidt", lidt, "LIDT of nothing, then INT3: the classic reset"),
	ROW("triple-gates", gates, "gates that are not present"),
	ROW("triple-gate-type", gate_type, "gates of the wrong type"),
	ROW("triple-code-null", code_null, "gates into the null segment"),
	ROW("triple-gdt-limit", gdt_limit, "handlers' segments beyond the limit of the GDT"),
	ROW("triple-stack", stack, "a non-canonical stack"),
	ROW("triple-stack-unmapped", stack_unmapped, "a stack that is not mapped"),
	ROW("triple-stack-limit", stack_limit, "a stack beyond its segment"),
	ROW("triple-ist", ist, "non-canonical IST stacks"),
	ROW("triple-tss-limit", tss_limit, "a TSS too short for the inner stack"),
	ROW("triple-task-gate", task_gate, "task gates to a busy task"),
	ROW("triple-task-trap", task_trap, "a debug trap in the task that is to handle it"),
	ROW("triple-real", real, "real mode without an interrupt vector table"),
	ROW("triple-cr3", cr3, "page tables in memory that is not there"),
	ROW("triple-paging", paging, "paging turned on over nothing"),
	ROW("triple-int", int, "INT n beyond the IDT"),
	ROW("triple-nmi", nmi, "an NMI without an IDT"),
	ROW("triple-irq", irq, "an interrupt without an IDT"),
};
LAB_FAMILY(shutdown);
