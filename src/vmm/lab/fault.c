/* SPDX-License-Identifier: MIT */
/*
 * Handlers whose first instruction raises the exception that they handle, and cycles of such handlers. Each event
 * is delivered, nothing is ever retired. A single instruction in between would be a window (see the innocent
 * ones).
 */
#include "vmm/lab/lab.h"

#define FAULT_OPTIONS "intercepts=drop"

static void selector_not_present(struct board *b)
{
	board_gdt(b, SEL_FREE, board_desc(0, 0xfffff, 0x13, 0xc));
}

/* The instruction that faults is both the attack and the first of the handler, at offset 0x100. */
#define FAULT(name, vector, prepare, insn, more)                                                                   \
	LAB_GUEST(fault, name, 64, BOARD_LONG64,                                                                   \
		  prepare "; " insn "; " LAB_LOOP "; .org lab_fault_" #name " + 0x100; " insn "; " LAB_LOOP,       \
		  lab_handler(b, vector, 0x100);                                                                   \
		  more)
FAULT(ud, 6, "nop", "ud2", )
FAULT(de, 0, "xor %ecx, %ecx", "div %ecx", )
FAULT(gp, 13, "mov $-1, %ecx", "rdmsr", )
FAULT(nm, 7, "nop", "fld1", board_cr0(b, 0, 1 << 3))
FAULT(np, 11, "mov $0x70, %eax", "mov %eax, %fs", selector_not_present(b))
FAULT(ss, 12, "mov $0x70, %eax", "mov %eax, %ss", selector_not_present(b))
FAULT(pf, 14, "nop", "mov 0x50000, %rax", board_put(b, BOARD_PT + 0x50 * 8, 0, 8))
FAULT(reserved, 14, "nop", "mov 0x50000, %rax", board_put(b, BOARD_PT + 0x50 * 8, 0x0008000000050067, 8))
FAULT(mf, 16, "fninit; fldcw 0x30000; fld1; fldz; fdivrp", "fwait", board_put(b, BOARD_DATA, 0x300, 2);
      board_cr0(b, 0, 1 << 5))
FAULT(xm, 19, "ldmxcsr 0x30000; xorps %xmm1, %xmm1; mov $1, %eax; cvtsi2ss %eax, %xmm0", "divss %xmm1, %xmm0",
      board_put(b, BOARD_DATA, 0, 4);
      board_sregs(b, 0, s.cr4 |= 3 << 9))
FAULT(privilege, 13, "mov $0x80000000, %eax; bts $33, %rax", "mov %rax, %cr0", )
FAULT(noncanonical, 13, "mov $1, %rax; shl $63, %rax", "mov (%rax), %rbx", )
FAULT(lock, 6, "nop", ".byte 0xf0, 0x90", )
FAULT(length, 13, "nop",
      ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90", )
FAULT(iret, 13, "pushf; orq $0x4000, (%rsp); popf", "iretq",
      board_gate(b, BOARD_LONG64, 13, SEL_CODE0_64, BOARD_CODE + 0x100, GATE_INT32, 3, 1);
      board_put(b, BOARD_IST - 0x30, 0, 8))

/* The handler's own page is not there, or may not be executed. */
static void setup_fetch(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_fault_ud);
	lab_handler(b, 6, 0x1000);
	lab_handler(b, 14, 0x1000);
	board_put(b, BOARD_PT + 0x41 * 8, 0, 8);
}

static void setup_nx(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_fault_ud);
	board_sregs(b, 0, s.efer |= 1 << 11);
	lab_handler(b, 6, 0x1000);
	lab_handler(b, 14, 0x1000);
	board_put(b, BOARD_PT + 0x41 * 8, 0x8000000000041067, 8);
}

static void setup_smep(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_fault_ud);
	board_sregs(b, 0, s.cr4 |= 1 << 20);
	lab_handler(b, 6, 0x1000);
	lab_handler(b, 14, 0x1000);
	/* the board's pages are the user's: what ring 0 executes must not be */
	board_put(b, BOARD_PT + 0x40 * 8, 0x40063, 8);
}

BOARD_ASM(lab_fault_bound, 32,
	  "mov $0x30000, %ebx; mov $-1, %eax; bound %eax, (%ebx); " LAB_LOOP
	  "; .org lab_fault_bound + 0x100; bound %eax, (%ebx)");
static void setup_bound(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_fault_bound);
	lab_wrapping_stack(b, 0, 0);
	lab_handler(b, 5, 0x100);
}

/* ---- cycles ------------------------------------------------------------------------------------- */

BOARD_ASM(lab_fault_two, 64,
	  "mov $-1, %ecx; ud2; " LAB_LOOP "; .org lab_fault_two + 0x100; rdmsr; "
	  ".org lab_fault_two + 0x200; ud2");
static void setup_two(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_fault_two);
	lab_handler(b, 6, 0x100);
	lab_handler(b, 13, 0x200);
}

BOARD_ASM(lab_fault_four, 64,
	  "mov $-1, %ecx; xor %ebx, %ebx; ud2; " LAB_LOOP
	  "; .org lab_fault_four + 0x100; rdmsr; .org lab_fault_four + 0x200; div %ebx"
	  "; .org lab_fault_four + 0x300; mov 0x50000, %rax; .org lab_fault_four + 0x400; ud2");
static void setup_four(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_fault_four);
	lab_handler(b, 6, 0x100);
	lab_handler(b, 13, 0x200);
	lab_handler(b, 0, 0x300);
	lab_handler(b, 14, 0x400);
	board_put(b, BOARD_PT + 0x50 * 8, 0, 8);
}

/* #GP in the delivery of #GP is #DF, and the handler of #DF begins with what raised the first. */
BOARD_ASM(lab_fault_df, 64, "mov $-1, %ecx; rdmsr; " LAB_LOOP "; .org lab_fault_df + 0x100; rdmsr");
static void setup_df(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_fault_df);
	board_gate(b, BOARD_LONG64, 13, SEL_DATA0, 0, GATE_INT32, 0, 1);
	lab_handler(b, 8, 0x100);
}

#define ROW(name, id, text)                                                                                        \
	{                                                                                                          \
		name, text, END_NOTIFY, SIGN_STUCK, FAULT_OPTIONS, setup_##id, NULL                                \
	}
#define CYCLE(name, id, text)                                                                                      \
	{                                                                                                          \
		name, text, END_NOTIFY, SIGN_CYCLE, FAULT_OPTIONS, setup_##id, NULL                                \
	}
static const struct lab_guest fault[] = {
	ROW("fault-ud", ud, "#UD's handler begins with UD2"),
	ROW("fault-lock", lock, "#UD's handler begins with a LOCK prefix where none may be"),
	ROW("fault-de", de, "#DE's handler divides by 0"),
	ROW("fault-gp", gp, "#GP's handler reads an MSR that is not there"),
	ROW("fault-cr0", privilege, "#GP's handler sets a reserved bit of CR0"),
	ROW("fault-noncanonical", noncanonical, "#GP's handler loads from a non-canonical address"),
	ROW("fault-length", length, "#GP's handler begins with an instruction of 16 bytes"),
	ROW("fault-iret", iret, "#GP's handler begins with an IRET that cannot be"),
	ROW("fault-nm", nm, "#NM's handler uses x87"),
	ROW("fault-np", np, "#NP's handler loads a segment that is not present"),
	ROW("fault-ss", ss, "#SS's handler loads a stack segment that is not present"),
	ROW("fault-pf", pf, "#PF's handler reads the page that is missing"),
	ROW("fault-reserved", reserved, "#PF's handler reads through an entry with a reserved bit"),
	ROW("fault-fetch", fetch, "#PF's handler is on a missing page"),
	ROW("fault-nx", nx, "#PF's handler may not be executed"),
	ROW("fault-smep", smep, "#PF's handler is on a user page under SMEP"),
	ROW("fault-mf", mf, "#MF's handler begins with FWAIT"),
	ROW("fault-xm", xm, "#XM's handler divides by 0 again"),
	ROW("fault-bound", bound, "#BR's handler begins with BOUND, on a stack that wraps"),
	CYCLE("cycle-two", two, "#UD and #GP raise each other"),
	CYCLE("cycle-four", four, "#UD, #GP, #DE and #PF in turn"),
	ROW("cycle-df", df, "#GP that ends in #DF whose handler raises #GP"),
};
LAB_FAMILY(fault);
