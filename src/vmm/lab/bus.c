/* SPDX-License-Identifier: MIT */
/*
 * Storms of bus locks: on a real machine each of them stops every other processor for a thousand cycles. The
 * guests of this file lock from unusual places, or meet policies that do not end them.
 */
#include <string.h>

#include "vmm/lab/lab.h"

#define FATAL "split-lock=fatal,split-lock-kill=efault"
#define CROSS 0x520fcu /* a descriptor here has its last four bytes in the next line */
#define COUNT "incl 0x30800; jmp 2b"

#define STORM(name, bits, mode, prepare, insn, more)                                                               \
	LAB_GUEST(bus, name, bits, mode, prepare "; 2: " insn "; " COUNT, more)

/* Ring 1 or 2: flat segments of that level, no way back needed. */
static void ring(struct board *b, u8 cpl)
{
	board_sregs(b, 0, s.cs.dpl = s.ss.dpl = cpl; s.cs.selector = (u16)(s.cs.selector | cpl);
		    s.ss.selector = (u16)(s.ss.selector | cpl));
}

/* The board's GDT again, so placed that the descriptor of sel crosses a line. */
static void cross(struct board *b, u16 sel)
{
	u32 base = CROSS - sel;

	memcpy(b->ram + base, b->ram + BOARD_GDT, BOARD_GDT_SIZE);
	board_sregs(b, 0, s.gdt.base = base);
}

static void free_desc(struct board *b, u8 access, u8 flags)
{
	board_gdt(b, SEL_FREE, board_desc(0, 0xfffff, access, flags));
	cross(b, SEL_FREE);
}

static void data_segment(struct board *b)
{
	board_sregs(b, 0, s.ds.base = 0x30000);
}

STORM(cpl1, 32, BOARD_PROT32, "nop", "lock incl 0x3003e", ring(b, 1))
STORM(cpl2, 32, BOARD_PROT32, "nop", "lock incl 0x3003e", ring(b, 2))
STORM(code, 64, BOARD_LONG64, "nop",
      "andb $0xfe, 0x52101; pushq $0x70; lea 3f(%rip), %rdx; push %rdx; lretq; 3: nop", free_desc(b, 0x9a, 0xa))
STORM(warn, 64, BOARD_LONG64, "nop", "lock incl 0x3003e", )
STORM(limit, 64, BOARD_LONG64, "nop", "lock incl 0x3003e", )
STORM(mtrr, 64, BOARD_LONG64,
      "mov $0x200, %ecx; mov $0x32000, %eax; xor %edx, %edx; wrmsr; inc %ecx; mov $0xfffff800, %eax; mov $0x3fff, "
      "%edx;"
      "wrmsr; mov $0x2ff, %ecx; mov $0x806, %eax; xor %edx, %edx; wrmsr",
      "lock incl 0x32010", )
STORM(table, 64, BOARD_LONG64, "nop", "andb $0xdf, 0x13198; invlpg 0x33000; mov 0x33000, %eax",
      board_put(b, BOARD_PD, BOARD_PT | 0x77, 8))
STORM(device, 64, BOARD_LONG64, "nop", "lock incl 0x500000", )

BOARD_ASM(lab_bus_real, 16, "2: lock incw 0x3f; incw 0x800; jmp 2b");
static void setup_real(struct board *b)
{
	lab_cpu(b, BOARD_REAL16, lab_bus_real);
	data_segment(b);
}

/* The accessed bit of the handler's code segment, set by every delivery. */
BOARD_ASM(lab_bus_delivery, 64,
	  "2: int $0x30; jmp 2b; .org lab_bus_delivery + 0x100;"
	  "andb $0xfe, 0x52101; incl 0x30800; iretq");
static void setup_delivery(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_bus_delivery);
	free_desc(b, 0x9a, 0xa);
	board_gate(b, BOARD_LONG64, 0x30, SEL_FREE, BOARD_CODE + 0x100, GATE_INT32, 3, 0);
}

/* With detection on, the delivery of #AC sets that bit, which is #AC: nothing retires. */
BOARD_ASM(lab_bus_ac, 64,
	  "mov $0x33, %ecx; mov $0x20000000, %eax; xor %edx, %edx; wrmsr; lock incl 0x3003e;" LAB_LOOP);
static void setup_ac(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_bus_ac);
	free_desc(b, 0x9a, 0xa);
	board_gate(b, BOARD_LONG64, 17, SEL_FREE, BOARD_CODE, GATE_INT32, 0, 1);
}

#define KILL(name, id, text)                                                                                       \
	{                                                                                                          \
		name, text, END_KILL, SIGN_COUNT, FATAL, setup_##id, NULL                                          \
	}
#define TOLD(name, id, text)                                                                                       \
	{                                                                                                          \
		name, text, END_BUS_LOCK, SIGN_COUNT, "bus-lock=exit", setup_##id, NULL                            \
	}
static const struct lab_guest bus[] = {
	KILL("bus-cpl1", cpl1, "split locks in ring 1"),
	KILL("bus-cpl2", cpl2, "split locks in ring 2"),
	KILL("bus-real", real, "split locks in real mode"),
	KILL("bus-code", code, "far returns through a descriptor across a line"),
	KILL("bus-delivery", delivery, "interrupts whose handler's descriptor crosses a line"),
	{ "bus-ac", "#AC of a split lock, whose delivery makes one", END_NOTIFY, SIGN_STUCK, "intercepts=drop",
	  setup_ac, NULL },
	{ "bus-warn", "split locks against a host that warns", END_KICK, SIGN_COUNT, "split-lock=warn", setup_warn,
	  NULL },
	{ "bus-limit", "split locks against a rate limit", END_KICK, SIGN_COUNT, "bus-lock=ratelimit:10",
	  setup_limit, NULL },
	TOLD("bus-mtrr", mtrr, "locks in uncacheable memory, by an MTRR"),
	TOLD("bus-table", table, "accessed bits in an uncacheable page table"),
	{ "bus-device", "locked accesses to a device", END_EXIT, SIGN_EXITS, "bus-lock=off", setup_device, NULL },
};
LAB_FAMILY(bus);
