/* SPDX-License-Identifier: MIT */
/*
 * CVE-2015-5307: a handler of #AC that stays in ring 3, on a stack that is not aligned. Delivering #AC pushes its
 * frame with the user's rights, the push is misaligned, and that is an #AC. Both are benign, so the one takes the
 * other's place without end [SDM3A "Interrupt 8-Double Fault Exception (#DF)"]: nothing is written, nothing
 * retires. The guests differ in what raises the first event, and in the shape of the frame.
 */
#include "vmm/lab/lab.h"

#define RING3(b, vector, type)                                                                                     \
	board_gate(b, BOARD_PROT32, vector, SEL_CODE3, BOARD_HANDLERS + (vector)*16, type, 3, 0)
#define AC_OPTIONS "intercepts=drop"

/* Ring 3, alignment checks on, a misaligned stack, #AC's handler in ring 3. */
static void ring3(struct board *b, enum board_mode mode)
{
	int cpu = board_cpu(b, mode);

	board_user(b, cpu);
	board_cr0(b, cpu, 1 << 18);
	board_flags(b, cpu, 1 << 18);
	board_stack(b, cpu, BOARD_STACK3 - 3);
	RING3(b, 17, GATE_INT32);
}

/* The first event is #AC of an instruction. */
#define AC_INSN(name, text)                                                                                        \
	BOARD_ASM(lab_ac_##name, 32, text "; " LAB_LOOP);                                                          \
	static void setup_##name(struct board *b)                                                                  \
	{                                                                                                          \
		ring3(b, BOARD_PROT32);                                                                            \
		board_code(b, 0, lab_ac_##name);                                                                   \
	}
AC_INSN(load, "mov 0x30001, %eax")
AC_INSN(store, "mov %eax, 0x30001")
AC_INSN(rmw, "addl $1, 0x30001")
AC_INSN(push, "push %eax")
AC_INSN(pop, "pop %eax")
AC_INSN(call, "call 1f; 1: nop")
AC_INSN(ret, "ret")
AC_INSN(string, "mov $0x30001, %esi; mov $0x30101, %edi; movsl")
AC_INSN(x87, "fldl 0x30001")
AC_INSN(far_pointer, "les 0x30001, %eax")
AC_INSN(enter, "enter $8, $0")
AC_INSN(popf, "popf")
AC_INSN(iret, "iret")
AC_INSN(far_call, "lcall $0x1b, $0x40000")
AC_INSN(sgdt, "sgdt 0x30001")
AC_INSN(cmpxchg, "lock cmpxchgl %ecx, 0x30001")

/* The first event is another one, whose own delivery raises #AC: its handler is in ring 3 too. */
#define AC_EVENT(name, vector, text, more)                                                                         \
	BOARD_ASM(lab_ac_##name, 32, text "; " LAB_LOOP);                                                          \
	static void setup_##name(struct board *b)                                                                  \
	{                                                                                                          \
		ring3(b, BOARD_PROT32);                                                                            \
		board_code(b, 0, lab_ac_##name);                                                                   \
		RING3(b, vector, GATE_INT32);                                                                      \
		more;                                                                                              \
	}
AC_EVENT(int_n, 0x30, "int $0x30", )
AC_EVENT(int3, 3, "int3", )
AC_EVENT(into, 4, "mov $0x7f, %al; inc %al; into", )
AC_EVENT(bound, 5, "mov $0x30000, %ebx; mov $-1, %eax; bound %eax, (%ebx)", )
AC_EVENT(ud, 6, "ud2", )
AC_EVENT(nm, 7, "fld1", board_cr0(b, 0, 1 << 3))
AC_EVENT(de, 0, "xor %ecx, %ecx; div %ecx", )
AC_EVENT(gp, 13, "cli", )
AC_EVENT(np, 11, "mov $0x73, %eax; mov %eax, %fs", board_gdt(b, SEL_FREE, board_desc(0, 0xfffff, 0x73, 0xc)))
AC_EVENT(mf, 16, "fninit; fldcw 0x30000; fld1; fldz; fdivrp; fwait", board_cr0(b, 0, 1 << 5);
	 board_put(b, BOARD_DATA, 0x300, 2))
AC_EVENT(step, 1, "nop; nop", board_flags(b, 0, 1 << 8))
AC_EVENT(breakpoint, 1, "nop; nop; nop", board_watch(b, 0, 0, BOARD_CODE + 1, 0, 1))

AC_EVENT(irq, 0x40, "nop", lab_interrupt(b, 0x40))
AC_EVENT(nmi, 2, "nop", board_cpu_ioctl(b, 0, KVM_NMI, NULL))

/* ---- the shape of the frame --------------------------------------------------------------------- */

static void setup_trap_gate(struct board *b)
{
	setup_load(b);
	RING3(b, 17, GATE_TRAP32);
}

static void setup_gate16(struct board *b)
{
	setup_load(b);
	RING3(b, 17, GATE_INT16);
}

static void setup_conforming(struct board *b)
{
	setup_load(b);
	board_gate(b, BOARD_PROT32, 17, SEL_CONFORMING, BOARD_HANDLERS + 17 * 16, GATE_INT32, 0, 0);
}

static void setup_stack16(struct board *b)
{
	setup_load(b);
	lab_wrapping_stack(b, 0, 3);
	board_stack(b, 0, 0x7fff);
}

/* A frame of one page and a byte of the next. */
static void setup_page_cross(struct board *b)
{
	setup_load(b);
	board_stack(b, 0, BOARD_STACK3 + 2);
}

static void setup_pf(struct board *b)
{
	ring3(b, BOARD_PAGED32);
	board_code(b, 0, lab_ac_load);
	board_put(b, BOARD_PT32 + 0x30 * 4, 0, 4);
	board_stack(b, 0, BOARD_STACK3 - 3);
	board_flags(b, 0, 0);
	RING3(b, 14, GATE_INT32);
}

#define ROW(name, id, text)                                                                                        \
	{                                                                                                          \
		name, text, END_NOTIFY, SIGN_STUCK, AC_OPTIONS, setup_##id, NULL                                   \
	}
static const struct lab_guest ac[] = {
	ROW("ac-load", load, "#AC in #AC, from a load"),
	ROW("ac-store", store, "#AC in #AC, from a store"),
	ROW("ac-rmw", rmw, "#AC in #AC, from a read-modify-write"),
	ROW("ac-push", push, "#AC in #AC, from PUSH"),
	ROW("ac-pop", pop, "#AC in #AC, from POP"),
	ROW("ac-call", call, "#AC in #AC, from a near CALL"),
	ROW("ac-ret", ret, "#AC in #AC, from a near RET"),
	ROW("ac-string", string, "#AC in #AC, from MOVS"),
	ROW("ac-x87", x87, "#AC in #AC, from an x87 operand"),
	ROW("ac-far-pointer", far_pointer, "#AC in #AC, from LES"),
	ROW("ac-enter", enter, "#AC in #AC, from ENTER"),
	ROW("ac-popf", popf, "#AC in #AC, from POPF"),
	ROW("ac-iret", iret, "#AC in #AC, from IRET's own frame"),
	ROW("ac-far-call", far_call, "#AC in #AC, from a far CALL"),
	ROW("ac-sgdt", sgdt, "#AC in #AC, from SGDT"),
	ROW("ac-cmpxchg", cmpxchg, "#AC in #AC, from a locked operand"),
	ROW("ac-int-n", int_n, "#AC in the delivery of INT n"),
	ROW("ac-int3", int3, "#AC in the delivery of INT3"),
	ROW("ac-into", into, "#AC in the delivery of INTO"),
	ROW("ac-bound", bound, "#AC in the delivery of #BR"),
	ROW("ac-ud", ud, "#AC in the delivery of #UD"),
	ROW("ac-nm", nm, "#AC in the delivery of #NM"),
	ROW("ac-de", de, "#AC in the delivery of #DE, a contributory exception"),
	ROW("ac-gp", gp, "#AC in the delivery of #GP, with an error code"),
	ROW("ac-np", np, "#AC in the delivery of #NP"),
	ROW("ac-pf", pf, "#AC in the delivery of #PF"),
	ROW("ac-mf", mf, "#AC in the delivery of #MF"),
	ROW("ac-step", step, "#AC in the delivery of a single-step #DB"),
	ROW("ac-breakpoint", breakpoint, "#AC in the delivery of an instruction breakpoint"),
	ROW("ac-irq", irq, "#AC in the delivery of an external interrupt"),
	ROW("ac-nmi", nmi, "#AC in the delivery of an NMI, with NMIs blocked ever after"),
	ROW("ac-trap-gate", trap_gate, "the frame of a trap gate"),
	ROW("ac-gate16", gate16, "the frame of a 16-bit gate"),
	ROW("ac-conforming", conforming, "a handler in a conforming segment"),
	ROW("ac-stack16", stack16, "a frame on a 16-bit stack"),
	ROW("ac-page-cross", page_cross, "a frame across a page boundary"),
	{ "ac-intercepted", "#AC in #AC, against a hypervisor that intercepts #AC", END_INTERCEPT, SIGN_STUCK,
	  "intercepts=linux", setup_load, NULL },
};
LAB_FAMILY(ac);
