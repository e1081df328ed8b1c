/* SPDX-License-Identifier: MIT */
/*
 * CVE-2015-8104: a data breakpoint on what the delivery of #DB itself touches. The breakpoint is a trap: delivery
 * completes, and before the handler's first instruction the next #DB is due, and so on
 * [SDM3B "Breakpoint Exception Conditions", "Data Memory and I/O Breakpoint Exception Conditions"]. On an IST stack,
 * or one that wraps, nothing ever ends it. The guests differ in what is watched and in what raises the first #DB.
 */
#include "vmm/lab/lab.h"

#define DB_OPTIONS  "intercepts=drop"
#define WATCH_EXEC  0
#define WATCH_WRITE 1
#define WATCH_RW    3

#define GATE_DB	   (BOARD_IDT + 1 * 16)
#define GDT_CODE   (BOARD_GDT + SEL_CODE0_64)
#define TSS_IST1   (BOARD_TSS + 0x24)
#define IST1_FRAME (BOARD_IST - 8)
#define HANDLER_DB (BOARD_HANDLERS + 1 * 16)

static void long_mode(struct board *b)
{
	board_cpu(b, BOARD_LONG64);
	board_gate(b, BOARD_LONG64, 1, SEL_CODE0_64, HANDLER_DB, GATE_INT32, 3, 1);
}

#define DB(name, text, more)                                                                                       \
	BOARD_ASM(lab_db_##name, 64, text "; nop; " LAB_LOOP);                                                     \
	static void setup_##name(struct board *b)                                                                  \
	{                                                                                                          \
		long_mode(b);                                                                                      \
		board_code(b, 0, lab_db_##name);                                                                   \
		more;                                                                                              \
	}

/* ---- what is watched ---------------------------------------------------------------------------- */

DB(idt, "mov 0x2010, %rax", board_watch(b, 0, 0, GATE_DB, WATCH_RW, 8))
DB(gdt, "mov 0x1028, %rax", board_watch(b, 0, 0, GDT_CODE, WATCH_RW, 8))
DB(tss, "mov 0x3024, %rax", board_watch(b, 0, 0, TSS_IST1, WATCH_RW, 4))
DB(stack, "mov %rax, 0x24ff8", board_watch(b, 0, 0, IST1_FRAME, WATCH_WRITE, 8))
DB(handler, ".byte 0xf1", board_watch(b, 0, 0, HANDLER_DB, WATCH_EXEC, 1))

static void handler_in_ldt(struct board *b)
{
	board_sregs(b, 0, s.ldt = (struct kvm_segment){
		.base = BOARD_DATA, .limit = 0xff, .selector = SEL_FREE, .type = 2, .present = 1
	});
	board_put(b, BOARD_DATA + 8, board_desc(0, 0xfffff, 0x9b, 0xa), 8);
	board_gate(b, BOARD_LONG64, 1, 8 | 4, HANDLER_DB, GATE_INT32, 3, 1);
	board_watch(b, 0, 0, BOARD_DATA + 8, WATCH_RW, 8);
}

DB(ldt, "mov 0x30008, %rax", handler_in_ldt(b))

/* All four registers, each on another table. */
static void watch_all(struct board *b)
{
	board_watch(b, 0, 0, GATE_DB, WATCH_RW, 8);
	board_watch(b, 0, 1, GDT_CODE, WATCH_RW, 8);
	board_watch(b, 0, 2, TSS_IST1, WATCH_RW, 4);
	board_watch(b, 0, 3, IST1_FRAME, WATCH_WRITE, 8);
}

DB(four, ".byte 0xf1", watch_all(b))

/* ---- what raises the first ---------------------------------------------------------------------- */

#define WATCH_GDT board_watch(b, 0, 0, GDT_CODE, WATCH_RW, 8)
DB(icebp, ".byte 0xf1", WATCH_GDT)
DB(step, "nop; nop", WATCH_GDT; board_flags(b, 0, 1 << 8))
DB(int_n, "int $0x30", WATCH_GDT)
DB(ud, "ud2", WATCH_GDT)
DB(pf, "mov 0x50000, %rax", WATCH_GDT; board_put(b, BOARD_PT + 0x50 * 8, 0, 8))
DB(pop_ss, "mov $0x10, %eax; mov %eax, %ss; int3", WATCH_GDT)
DB(detect, "mov %dr7, %rax; or $0x2000, %rax; mov %rax, %dr7; mov %dr0, %rax", WATCH_GDT)
DB(nmi, "nop", WATCH_GDT; board_cpu_ioctl(b, 0, KVM_NMI, NULL))
DB(rep, "mov $0x1000, %esi; mov $0x30000, %edi; mov $0x100, %ecx; rep movsb", WATCH_GDT)
DB(far_jump, "ljmpl *0x30000", board_put(b, BOARD_DATA, 0x40080, 4); board_put(b, BOARD_DATA + 4, SEL_CODE0_64, 2);
   WATCH_GDT)
DB(syscall_iret,
   "mov %ss, %eax; push %rax; push %rsp; pushf; mov %cs, %eax; push %rax; lea 1f(%rip), %rax; push %rax; "
   "iretq; 1: nop",
   WATCH_GDT)

DB(irq, "nop", WATCH_GDT; lab_interrupt(b, 0x40))

static void io_breakpoint(struct board *b)
{
	board_sregs(b, 0, s.cr4 |= 1 << 3);
	board_watch(b, 0, 0, GDT_CODE, WATCH_RW, 8);
	board_watch(b, 0, 1, LAB_PASS_PORT, 2, 1);
}

DB(io, "in $0xf4, %al", io_breakpoint(b))

static void from_ring3(struct board *b)
{
	board_user(b, 0);
	WATCH_GDT;
}

DB(ring3, ".byte 0xf1", from_ring3(b))

/* ---- other modes -------------------------------------------------------------------------------- */

BOARD_ASM(lab_db_ivt, 16, "mov 4, %ax; nop; " LAB_LOOP);
static void setup_ivt(struct board *b)
{
	board_cpu(b, BOARD_REAL16);
	board_code(b, 0, lab_db_ivt);
	board_sregs(b, 0, s.ss.base = LAB_WRAP_BASE);
	board_watch(b, 0, 0, 4, WATCH_RW, 4);
}

BOARD_ASM(lab_db_wrap32, 32, ".byte 0xf1; nop; " LAB_LOOP);
static void setup_wrap32(struct board *b)
{
	board_cpu(b, BOARD_PROT32);
	board_code(b, 0, lab_db_wrap32);
	lab_wrapping_stack(b, 0, 0);
	board_watch(b, 0, 0, BOARD_IDT + 8, WATCH_RW, 4);
}

BOARD_ASM(lab_db_compat, 32, ".byte 0xf1; nop; " LAB_LOOP);
static void setup_compat(struct board *b)
{
	board_cpu(b, BOARD_COMPAT32);
	board_code(b, 0, lab_db_compat);
	board_gate(b, BOARD_LONG64, 1, SEL_CODE0_64, HANDLER_DB, GATE_INT32, 3, 1);
	board_watch(b, 0, 0, GATE_DB, WATCH_RW, 8);
}

/* ---- more than one vector ----------------------------------------------------------------------- */

/* #UD's handler has an instruction breakpoint on its first byte, #DB's begins with UD2. */
BOARD_ASM(lab_db_and_ud, 64, "ud2; .org lab_db_and_ud + 0x100; nop; " LAB_LOOP "; .org lab_db_and_ud + 0x200; ud2");
static void setup_and_ud(struct board *b)
{
	board_cpu(b, BOARD_LONG64);
	board_code(b, 0, lab_db_and_ud);
	lab_handler(b, 6, 0x100);
	lab_handler(b, 1, 0x200);
	board_watch(b, 0, 0, BOARD_CODE + 0x100, WATCH_EXEC, 1);
}

/* #DB's handler lies on a page that is not there; delivering #PF touches what is watched. */
BOARD_ASM(lab_db_and_pf, 64, ".byte 0xf1; nop; " LAB_LOOP);
static void setup_and_pf(struct board *b)
{
	board_cpu(b, BOARD_LONG64);
	board_code(b, 0, lab_db_and_pf);
	lab_handler(b, 1, 0x1000);
	lab_handler(b, 14, 0x100);
	board_put(b, BOARD_PT + 0x41 * 8, 0, 8);
	WATCH_GDT;
}

/* In ring 3: #AC's handler has an instruction breakpoint, #DB's begins with a misaligned load. */
BOARD_ASM(lab_db_and_ac, 32,
	  "mov 0x30001, %eax; .org lab_db_and_ac + 0x100; nop; " LAB_LOOP
	  "; .org lab_db_and_ac + 0x200; mov 0x30001, %eax");
static void setup_and_ac(struct board *b)
{
	board_cpu(b, BOARD_PROT32);
	board_code(b, 0, lab_db_and_ac);
	board_user(b, 0);
	board_cr0(b, 0, 1 << 18);
	board_flags(b, 0, 1 << 18);
	lab_wrapping_stack(b, 0, 3);
	board_gate(b, BOARD_PROT32, 17, SEL_CODE3, BOARD_CODE + 0x100, GATE_INT32, 3, 0);
	board_gate(b, BOARD_PROT32, 1, SEL_CODE3, BOARD_CODE + 0x200, GATE_INT32, 3, 0);
	board_watch(b, 0, 0, BOARD_CODE + 0x100, WATCH_EXEC, 1);
}

/* Single-stepping in ring 3 into a handler in ring 3, on a stack that is not aligned. */
BOARD_ASM(lab_db_to_ac, 32, "nop; nop; nop; " LAB_LOOP);
static void setup_to_ac(struct board *b)
{
	board_cpu(b, BOARD_PROT32);
	board_code(b, 0, lab_db_to_ac);
	board_user(b, 0);
	board_cr0(b, 0, 1 << 18);
	board_flags(b, 0, 1 << 18);
	board_stack(b, 0, BOARD_STACK3 - 2);
	board_gate(b, BOARD_PROT32, 1, SEL_CODE3, BOARD_HANDLERS + 16, GATE_TRAP32, 3, 0);
	board_gate(b, BOARD_PROT32, 17, SEL_CONFORMING, BOARD_HANDLERS + 17 * 16, GATE_TRAP32, 3, 0);
	board_watch(b, 0, 0, BOARD_IDT + 8, WATCH_RW, 4);
	board_watch(b, 0, 1, BOARD_CODE + 1, WATCH_EXEC, 1);
}

#define ROW(name, id, text)                                                                                        \
	{                                                                                                          \
		name, text, END_NOTIFY, SIGN_STUCK, DB_OPTIONS, setup_##id, NULL                                   \
	}
#define CYCLE(name, id, text)                                                                                      \
	{                                                                                                          \
		name, text, END_NOTIFY, SIGN_CYCLE, DB_OPTIONS, setup_##id, NULL                                   \
	}
static const struct lab_guest db[] = {
	ROW("db-idt", idt, "breakpoint on the gate of #DB"),
	ROW("db-gdt", gdt, "breakpoint on the descriptor of the handler's code segment"),
	ROW("db-ldt", ldt, "the same in the LDT"),
	ROW("db-tss", tss, "breakpoint on the IST slot in the TSS"),
	ROW("db-stack", stack, "breakpoint on the frame that delivery pushes"),
	ROW("db-handler", handler, "instruction breakpoint on the first byte of #DB's handler"),
	ROW("db-four", four, "all four breakpoint registers on different tables"),
	ROW("db-icebp", icebp, "#DB in #DB, begun by INT1"),
	ROW("db-step", step, "#DB in #DB, begun by single-stepping"),
	ROW("db-int-n", int_n, "#DB in #DB, begun by INT n"),
	ROW("db-ud", ud, "#DB in #DB, begun by another exception"),
	ROW("db-pf", pf, "#DB in #DB, begun by a page fault"),
	ROW("db-mov-ss", pop_ss, "#DB in #DB, from the shadow of MOV SS (CVE-2018-8897)"),
	ROW("db-general-detect", detect, "#DB in #DB, begun by the general-detect exception"),
	ROW("db-nmi", nmi, "#DB in #DB, begun by an NMI"),
	ROW("db-irq", irq, "#DB in #DB, begun by an interrupt"),
	ROW("db-io", io, "#DB in #DB, begun by an I/O breakpoint"),
	ROW("db-rep", rep, "#DB in #DB, from the middle of REP MOVS"),
	ROW("db-far-jump", far_jump, "#DB in #DB, from a far jump's descriptor"),
	ROW("db-iret", syscall_iret, "#DB in #DB, from IRET's descriptor"),
	ROW("db-ring3", ring3, "#DB in #DB, begun in ring 3"),
	ROW("db-ivt", ivt, "real mode: breakpoint on the interrupt vector, a stack that wraps"),
	ROW("db-wrap32", wrap32, "protected mode: a 16-bit stack that wraps"),
	ROW("db-compat", compat, "compatibility mode into a 64-bit handler"),
	CYCLE("mixed-db-ud", and_ud, "#UD's handler hits a breakpoint, #DB's handler raises #UD"),
	CYCLE("mixed-db-pf", and_pf, "#DB's handler is not there, delivering #PF raises #DB"),
	CYCLE("mixed-ac-db", and_ac, "#AC's handler hits a breakpoint, #DB's handler raises #AC"),
	ROW("mixed-db-ac", to_ac, "#DB whose delivery raises #AC whose delivery raises #AC"),
};
LAB_FAMILY(db);
