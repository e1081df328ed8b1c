/* SPDX-License-Identifier: MIT */
/*
 * Hangs that no software can make and silicon bugs did: injected. [doc/injection.md]
 */
#include "vmm/lab/lab.h"

BOARD_ASM(lab_hang_loop, 64, "1: jmp 1b");
BOARD_ASM(lab_hang_cli, 64, "cli; 1: pause; jmp 1b");

BOARD_ASM(lab_hang_f00f, 64, "nop; .byte 0xf0, 0x0f, 0xc7, 0xc8; 1: jmp 1b");

static void setup_f00f(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_hang_f00f);
}

static void setup_loop(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_hang_loop);
}

static void setup_user(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_hang_loop);
	board_user(b, 0);
}

static void setup_cli(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_hang_cli);
}

static void setup_two(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_hang_loop);
	lab_cpu(b, BOARD_LONG64, lab_hang_loop);
}

static void setup_nmi(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_hang_loop);
	board_cpu_ioctl(b, 0, KVM_NMI, NULL);
}

#define ROW(name, id, inject, text)                                                                                \
	{                                                                                                          \
		name, text, END_NOTIFY, SIGN_STUCK, "inject=" inject, setup_##id, NULL                             \
	}
static const struct lab_guest hang[] = {
	ROW("hang-wedge", loop, "wedge:0:notify", "a processor that stops retiring"),
	ROW("hang-wedge-user", user, "wedge:0:notify", "the same in ring 3"),
	ROW("hang-wedge-ticks", cli, "wedge:0:1000000000", "a processor that stops for forty seconds"),
	ROW("hang-f00f", f00f, "f00f:0", "an instruction that locks the bus for good, as F0 0F C7 C8 did"),
	ROW("hang-sibling", two, "wedge:0:notify", "one processor of two"),
	ROW("hang-nmi", nmi, "wedge:0:notify", "a hang that an NMI does not end"),
};
LAB_FAMILY(hang);
