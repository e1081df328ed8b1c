/* SPDX-License-Identifier: MIT */
/*
 * Guests that look guilty and are not: whatever they mask, repeat or wait for, an instruction boundary comes. None
 * may be flagged, with notify exits on and the window at 0.
 */
#include "vmm/lab/lab.h"

#include <errno.h>

#define OPTIONS "intercepts=drop"

#define QUIET(name, bits, mode, text, more) LAB_GUEST(ok, name, bits, mode, text, more)
/* Done after `times` rounds. */
#define ROUNDS(name, times, text, more)                                                                            \
	QUIET(name, 64, BOARD_LONG64, "mov $" #times ", %ebp; 1: " text "; dec %ebp; jnz 1b; " LAB_DONE, more)
/* The same with a handler at offset 0x100. */
#define HANDLED(name, times, vector, text, handler, more)                                                          \
	QUIET(name, 64, BOARD_LONG64,                                                                              \
	      "mov $" #times ", %ebp; 1: " text "; dec %ebp; jnz 1b; " LAB_DONE "; .org lab_ok_" #name             \
	      " + 0x100; " handler,                                                                                \
	      lab_handler(b, vector, 0x100);                                                                       \
	      more)

/* ---- waiting ------------------------------------------------------------------------------------ */

QUIET(cli_jmp, 64, BOARD_LONG64, "cli; 1: jmp 1b", )
QUIET(nmi_blocked, 64, BOARD_LONG64, "int3; .org lab_ok_nmi_blocked + 0x100; 1: jmp 1b", lab_handler(b, 2, 0x100);
      board_cpu_ioctl(b, 0, KVM_NMI, NULL))
QUIET(pause_loop, 64, BOARD_LONG64, "cli; 1: pause; jmp 1b", )
QUIET(spin, 64, BOARD_LONG64, "cli; 1: cmpl $0, 0x30000; je 1b", )
QUIET(real_cli, 16, BOARD_REAL16, "cli; 1: jmp 1b", )

BOARD_ASM(lab_ok_hlt, 64, "cli; 1: hlt; jmp 1b");
static void setup_hlt(struct board *b)
{
	board_ioctl(b, KVM_CREATE_IRQCHIP, NULL);
	lab_cpu(b, BOARD_LONG64, lab_ok_hlt);
}

BOARD_ASM(lab_ok_idle, 64, "sti; 1: hlt; jmp 1b");
static void setup_idle(struct board *b)
{
	board_ioctl(b, KVM_CREATE_IRQCHIP, NULL);
	lab_cpu(b, BOARD_LONG64, lab_ok_idle);
}

/* ---- long instructions -------------------------------------------------------------------------- */

/* Linear 1 GiB to 3 GiB, over and over the same 2 MiB. */
static void gigabytes(struct board *b)
{
	const u32 pd = 0x16000;

	board_put(b, BOARD_PDPT + 8, pd | 7, 8);
	board_put(b, BOARD_PDPT + 16, pd | 7, 8);
	for (u32 i = 0; i < 512; i++)
		board_put(b, pd + i * 8, 0x2000e7, 8);
}

#define REP(name, insn)                                                                                            \
	QUIET(name, 64, BOARD_LONG64,                                                                              \
	      "cli; cld; mov $0x40000000, %esi; mov $0x80000000, %edi; xor %eax, %eax; mov $0x8000000, "           \
	      "%ecx; " insn "; " LAB_DONE,                                                                         \
	      gigabytes(b))
REP(rep_movs, "rep movsq")
REP(rep_stos, "rep stosq")
REP(rep_lods, "shr $3, %ecx; rep lodsq")
REP(rep_scas, "shr $3, %ecx; repe scasq")
REP(rep_cmps, "shr $3, %ecx; repe cmpsq")
ROUNDS(wbinvd, 10000, "wbinvd", )
ROUNDS(divisions, 1000000, "mov $-1, %rax; xor %edx, %edx; mov $3, %ecx; div %rcx", )
ROUNDS(fprem, 100000, "fldl 0x30008; fldl 0x30000; fprem; fstp %st(0); fstp %st(0)",
       board_put(b, BOARD_DATA, 0x7fe0000000000000, 8);
       board_put(b, BOARD_DATA + 8, 0x0010000000000000, 8))
ROUNDS(cpuid, 100000, "mov $0xd, %eax; xor %ecx, %ecx; cpuid", )

/* ---- shadows ------------------------------------------------------------------------------------ */

ROUNDS(mov_ss, 100000, "mov %ss, %eax; mov %eax, %ss; mov %eax, %ss; mov %eax, %ss; mov %eax, %ss", )
ROUNDS(sti, 100000, "sti; cli; sti; sti; cli; sti; cli", )

BOARD_ASM(lab_ok_pop_ss, 32,
	  "mov $0x40000, %ebp; 1: push %ss; push %ss; push %ss; pop %ss; pop %ss; pop %ss; dec %ebp; jnz "
	  "1b; " LAB_DONE);
static void setup_pop_ss(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_ok_pop_ss);
}

/* ---- many events, each with an instruction in between ------------------------------------------- */

HANDLED(ud, 200000, 6, "ud2", "addq $2, (%rsp); iretq", )
HANDLED(gp, 200000, 13, "rdmsr", "addq $2, 8(%rsp); add $8, %rsp; iretq", )
HANDLED(pf, 100000, 14, "mov 0x50000, %rax",
	"movb $0x67, 0x13000 + 0x50 * 8; add $8, %rsp; iretq; .org lab_ok_pf + 0x200; nop",
	board_put(b, BOARD_PT + 0x50 * 8, 0x50000, 8))
HANDLED(de, 200000, 0, "div %cl", "addq $2, (%rsp); iretq", )
HANDLED(int3, 200000, 3, "int3", "iretq", )
HANDLED(icebp, 200000, 1, ".byte 0xf1", "iretq", )
HANDLED(step, 30000, 1, "pushf; orq $0x100, (%rsp); popf; nop; nop; pushf; andq $~0x100, (%rsp); popf", "iretq", )
HANDLED(watch, 200000, 1, "mov %rax, 0x30000", "iretq", board_watch(b, 0, 0, BOARD_DATA, 1, 8))
HANDLED(intn, 200000, 0x30, "int $0x30", "iretq", )

/* The nearest miss: the handler retires one NOP and faults again, deeper and deeper, on the same IST stack. */
BOARD_ASM(lab_ok_one, 64, "mov $300000, %ebp; ud2; .org lab_ok_one + 0x100; dec %ebp; jz 1f; ud2; 1: " LAB_DONE);
static void setup_one(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_ok_one);
	lab_handler(b, 6, 0x100);
}

/* INT n whose handler is INT n: each one retires. */
BOARD_ASM(lab_ok_int_in_int, 64,
	  "mov $300000, %ebp; int $0x30; .org lab_ok_int_in_int + 0x100; sub $1, %ebp; jz 1f; int $0x30; "
	  "1: " LAB_DONE);
static void setup_int_in_int(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_ok_int_in_int);
	lab_handler(b, 0x30, 0x100);
}

/* A double fault that is handled, again and again. */
BOARD_ASM(lab_ok_df, 64,
	  "mov $100000, %ebp; mov $-1, %ecx; 1: rdmsr; .org lab_ok_df + 0x100; dec %ebp; jnz 1b; " LAB_DONE);
static void setup_df(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_ok_df);
	board_gate(b, BOARD_LONG64, 13, SEL_DATA0, 0, GATE_INT32, 0, 1);
	lab_handler(b, 8, 0x100);
}

/* #AC whose handler is in ring 0: its pushes are not checked. */
BOARD_ASM(lab_ok_ac, 32,
	  "mov $100000, %ebp; 1: mov 0x30001, %eax; dec %ebp; jnz 1b; int $0x30; "
	  ".org lab_ok_ac + 0x100; add $4, %esp; addl $5, (%esp); iret; .org lab_ok_ac + 0x200; " LAB_DONE);
static void setup_ac(struct board *b)
{
	lab_cpu(b, BOARD_PROT32, lab_ok_ac);
	board_user(b, 0);
	board_cr0(b, 0, 1 << 18);
	board_flags(b, 0, 1 << 18);
	lab_handler(b, 17, 0x100);
	lab_handler(b, 0x30, 0x200);
}

/* #AC with a misaligned stack in 64-bit mode: delivery aligns it. */
BOARD_ASM(lab_ok_ac64, 64,
	  "mov $100000, %ebp; 1: mov 0x30001, %eax; dec %ebp; jnz 1b; int $0x30; "
	  ".org lab_ok_ac64 + 0x100; addq $7, 8(%rsp); add $8, %rsp; iretq; .org lab_ok_ac64 + 0x200; " LAB_DONE);
static void setup_ac64(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_ok_ac64);
	board_user(b, 0);
	board_cr0(b, 0, 1 << 18);
	board_flags(b, 0, 1 << 18);
	board_stack(b, 0, BOARD_STACK3 - 3);
	board_gate(b, BOARD_LONG64, 17, SEL_CODE0_64, BOARD_CODE + 0x100, GATE_INT32, 0, 0);
	board_gate(b, BOARD_LONG64, 0x30, SEL_CODE0_64, BOARD_CODE + 0x200, GATE_INT32, 3, 0);
}

/* A breakpoint on the #DB gate, but a stack that descends and ends: the loop ends by itself, in #PF. */
BOARD_ASM(lab_ok_db_ends, 64, "mov 0x2010, %rax; nop; .org lab_ok_db_ends + 0x100; " LAB_DONE);
static void setup_db_ends(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_ok_db_ends);
	board_watch(b, 0, 0, BOARD_IDT + 16, 3, 8);
	lab_handler(b, 14, 0x100);
	lab_handler(b, 8, 0x100);
	board_stack(b, 0, 0x22000);
	board_put(b, BOARD_PT + 0x21 * 8, 0, 8);
}

/* ---- the rest ----------------------------------------------------------------------------------- */

QUIET(task, 32, BOARD_PROT32,
      "mov $50000, %ebp; 1: lcall $0x68, $0; dec %ebp; jnz 1b; " LAB_DONE
      "; .org lab_ok_task + 0x100; 2: iret; jmp 2b",
      lab_second_task(b, BOARD_CODE + 0x100))
ROUNDS(smc, 100000, "incb 2f+1(%rip); 2: mov $0, %al", )
ROUNDS(flush, 100000, "mov %cr3, %rax; mov %rax, %cr3", )

/* The monitor single-steps the guest. */
QUIET(stepped, 64, BOARD_LONG64, "1: nop; jmp 1b", )
static int drive_stepped(struct board *b)
{
	const struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };

	if (board_cpu_ioctl(b, 0, KVM_SET_GUEST_DEBUG, &d))
		return -EINVAL;
	for (int i = 0; i < 20000; i++) {
		int got = board_run(b, 0, 1000);

		if (got != KVM_EXIT_DEBUG)
			return got ? got : -EINVAL;
	}
	return 0;
}

#define DONE(name, id, text)                                                                                       \
	{                                                                                                          \
		name, text, END_DONE, SIGN_STUCK, OPTIONS, setup_##id, NULL                                        \
	}
#define WAITS(name, id, text)                                                                                      \
	{                                                                                                          \
		name, text, END_QUIET, SIGN_STUCK, OPTIONS, setup_##id, NULL                                       \
	}
static const struct lab_guest innocent[] = {
	WAITS("ok-cli-jmp", cli_jmp, "CLI, then a jump to itself"),
	WAITS("ok-hlt", hlt, "HLT with interrupts off"),
	WAITS("ok-idle", idle, "HLT that nothing wakes"),
	WAITS("ok-nmi-blocked", nmi_blocked, "an NMI handler that never returns"),
	WAITS("ok-pause", pause_loop, "PAUSE with interrupts off"),
	WAITS("ok-spin", spin, "a spin lock that is never released"),
	WAITS("ok-real-cli", real_cli, "CLI and a jump in real mode"),
	DONE("ok-rep-movs", rep_movs, "REP MOVS of 1 GiB with interrupts off"),
	DONE("ok-rep-stos", rep_stos, "REP STOS of 1 GiB with interrupts off"),
	DONE("ok-rep-lods", rep_lods, "REP LODS of 128 MiB"),
	DONE("ok-rep-scas", rep_scas, "REPE SCAS of 128 MiB"),
	DONE("ok-rep-cmps", rep_cmps, "REPE CMPS of 128 MiB"),
	DONE("ok-wbinvd", wbinvd, "ten thousand WBINVD"),
	DONE("ok-div", divisions, "a million divisions"),
	DONE("ok-fprem", fprem, "partial remainders of far exponents"),
	DONE("ok-cpuid", cpuid, "CPUID"),
	DONE("ok-mov-ss", mov_ss, "chains of MOV SS"),
	DONE("ok-pop-ss", pop_ss, "chains of POP SS"),
	DONE("ok-sti", sti, "chains of STI and CLI"),
	DONE("ok-ud", ud, "#UD with progress"),
	DONE("ok-gp", gp, "#GP with progress"),
	DONE("ok-pf", pf, "#PF with progress"),
	DONE("ok-de", de, "#DE with progress"),
	DONE("ok-int3", int3, "INT3"),
	DONE("ok-icebp", icebp, "INT1"),
	DONE("ok-int", intn, "INT n"),
	DONE("ok-step", step, "single steps"),
	DONE("ok-watch", watch, "a data breakpoint on data"),
	DONE("ok-one", one, "a fault after each one instruction"),
	DONE("ok-int-in-int", int_in_int, "INT n whose handler is INT n"),
	DONE("ok-df", df, "double faults that are handled"),
	DONE("ok-ac", ac, "#AC handled in ring 0"),
	DONE("ok-ac64", ac64, "#AC on a misaligned 64-bit stack"),
	DONE("ok-db-ends", db_ends, "#DB in #DB until the stack ends"),
	DONE("ok-task", task, "task switches"),
	DONE("ok-smc", smc, "code that changes itself"),
	DONE("ok-flush", flush, "TLB flushes"),
	{ "ok-stepped", "single-stepped by its monitor", END_DONE, SIGN_STUCK, OPTIONS, setup_stepped,
	  drive_stepped },
};
LAB_FAMILY(innocent);
