/* SPDX-License-Identifier: MIT */
/*
 * Storms: guests that open a window at every instruction and yet make each one dear. Nothing in the architecture
 * forbids them; the host must only be able to take its processor back at any time, which a signal shows. Each
 * counts at LAB_COUNT.
 */
#include "vmm/lab/lab.h"

#define COUNT	"lock incq 0x30800; "
#define COUNT32 "lock incl 0x30800; "

#define STORM(name, bits, mode, text, more) LAB_GUEST(storm, name, bits, mode, text, more)
#define STORM64(name, text, more) STORM(name, 64, BOARD_LONG64, "1: " text "; " COUNT "jmp 1b", more)

/* ---- code that changes -------------------------------------------------------------------------- */

STORM64(smc, "incb 2f+1(%rip); 2: mov $0, %al", )
STORM64(smc_ahead, "movb $0x90, 3f(%rip); movb $0xf8, 3f(%rip); 3: nop; nop", )
STORM64(smc_page,
	"lea 1b(%rip), %rsi; mov $0x48000, %edi; mov $64, %ecx; rep movsb; movb $0xc3, 0x48000; mov $0x48000, "
	"%eax; call *%rax", )

/* Two processors, each writing the other's loop. */
BOARD_ASM(lab_storm_cross, 64,
	  "1: jmp 2f; .org lab_storm_cross + 0x10; 2: nop; movb $0x90, 0x48010; movb $0xf8, 0x48010; " COUNT
	  "jmp 1b");
BOARD_ASM(lab_storm_cross2, 64,
	  "1: jmp 2f; .org lab_storm_cross2 + 0x10; 2: nop; movb $0x90, 0x40010; movb $0xf8, 0x40010; jmp 1b");
static void setup_cross(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_storm_cross);
	lab_cpu(b, BOARD_LONG64, lab_storm_cross2);
}

/* ---- translations ------------------------------------------------------------------------------- */

STORM64(invlpg, "invlpg 0x30000; mov 0x30000, %rax", )
STORM64(cr3, "mov %cr3, %rax; mov %rax, %cr3", )
STORM64(pge, "mov %cr4, %rax; xor $0x80, %rax; mov %rax, %cr4", )
STORM64(wp, "mov %cr0, %rax; xor $0x10000, %rax; mov %rax, %cr0", )
STORM64(nxe, "mov $0xc0000080, %ecx; rdmsr; xor $0x800, %eax; wrmsr", )
/* A page maps the table that maps it; the guest rewrites the mapping through itself. */
STORM64(selfmap,
	"mov 0x60000 + 0x68 * 8, %rax; xor $0x1000, %rax; mov %rax, 0x60000 + 0x68 * 8; invlpg 0x68000; mov "
	"0x68000, %rbx",
	board_put(b, BOARD_PT + 0x60 * 8, BOARD_PT | 0x67, 8))
/* More pages than any TLB has entries. */
STORM64(tlb, "mov $0x100000, %esi; 2: mov (%rsi), %rax; add $0x1000, %esi; cmp $0x400000, %esi; jb 2b", )
STORM64(accessed, "andb $0xdf, 0x13000 + 0x30 * 8; invlpg 0x30000; mov 0x30000, %rax", )

/* ---- events: each with an instruction retired --------------------------------------------------- */

#define HANDLER(name, vector, insn, handler, more)                                                                 \
	STORM(name, 64, BOARD_LONG64, "1: " insn "; " COUNT "jmp 1b; .org lab_storm_" #name " + 0x100; " handler,  \
	      lab_handler(b, vector, 0x100);                                                                       \
	      more)
HANDLER(ud, 6, "ud2", "addq $2, (%rsp); iretq", )
HANDLER(pf, 14, "mov 0x50000, %rax", "addq $8, 8(%rsp); add $8, %rsp; iretq",
	board_put(b, BOARD_PT + 0x50 * 8, 0, 8))
HANDLER(bp, 3, "int3", "iretq", )
HANDLER(step, 1, "pushf; orq $0x100, (%rsp); popf; nop; nop; nop", "iretq", )
HANDLER(intn, 0x30, "int $0x30", "iretq", )
HANDLER(nm, 7, "mov %cr0, %rax; or $8, %rax; mov %rax, %cr0; fld1", "clts; iretq", )
HANDLER(div, 0, "xor %ecx, %ecx; div %ecx", "addq $2, (%rsp); iretq", )

#define X2APIC_ON                                                                                                  \
	"mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr; mov $0x80f, %ecx; mov $0x1ff, %eax; xor %edx, %edx; "     \
	"wrmsr; "
#define APIC_HANDLER "mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; iretq"
#define APIC(name, begin, loop)                                                                                    \
	BOARD_ASM(lab_storm_##name, 64,                                                                            \
		  X2APIC_ON begin "; sti; 1: " loop "; " COUNT "jmp 1b; .org lab_storm_" #name                     \
				  " + 0x100; " APIC_HANDLER);                                                      \
	static void setup_##name(struct board *b)                                                                  \
	{                                                                                                          \
		board_ioctl(b, KVM_CREATE_IRQCHIP, NULL);                                                          \
		lab_cpu(b, BOARD_LONG64, lab_storm_##name);                                                        \
		lab_handler(b, 0x40, 0x100);                                                                       \
		lab_handler(b, 2, 0x100);                                                                          \
	}
APIC(self_ipi, "nop", "mov $0x83f, %ecx; mov $0x40, %eax; xor %edx, %edx; wrmsr")
APIC(icr, "nop", "mov $0x830, %ecx; mov $0x40040, %eax; xor %edx, %edx; wrmsr")
APIC(timer,
     "mov $0x83e, %ecx; mov $0xb, %eax; wrmsr; mov $0x832, %ecx; mov $0x20040, %eax; wrmsr; mov $0x838, %ecx; mov "
     "$1, %eax; wrmsr",
     "nop")
APIC(oneshot, "mov $0x832, %ecx; mov $0x40, %eax; xor %edx, %edx; wrmsr",
     "mov $0x838, %ecx; mov $1, %eax; xor %edx, %edx; wrmsr")
APIC(tpr, "nop", "mov $0xf, %eax; mov %rax, %cr8; xor %eax, %eax; mov %rax, %cr8")
APIC(self_nmi, "nop", "mov $0x830, %ecx; mov $0x40400, %eax; xor %edx, %edx; wrmsr")

/* Two processors that never stop interrupting each other. */
BOARD_ASM(lab_storm_ipi, 64,
	  X2APIC_ON "sti; 1: mov $0x830, %ecx; mov $0xc0040, %eax; xor %edx, %edx; wrmsr; " COUNT
		    "jmp 1b; .org lab_storm_ipi + 0x100; " APIC_HANDLER);
static void setup_ipi(struct board *b)
{
	struct kvm_mp_state run = { .mp_state = KVM_MP_STATE_RUNNABLE };

	board_ioctl(b, KVM_CREATE_IRQCHIP, NULL);
	lab_cpu(b, BOARD_LONG64, lab_storm_ipi);
	lab_cpu(b, BOARD_LONG64, lab_storm_ipi);
	board_cpu_ioctl(b, 1, KVM_SET_MP_STATE, &run);
	lab_handler(b, 0x40, 0x100);
}

/* ---- dear instructions -------------------------------------------------------------------------- */

STORM64(cpuid, "xor %eax, %eax; cpuid", )
STORM64(msr, "mov $0xc0000080, %ecx; rdmsr; wrmsr", )
STORM64(wbinvd, "wbinvd", )
STORM64(dr7, "mov $0x400, %eax; mov %rax, %dr7; mov $0x401, %eax; mov %rax, %dr7", )
STORM64(fxsave, "fxsave 0x50000; fxrstor 0x50000", )
STORM64(segments, "mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss", )
STORM64(far_ret, "mov %cs, %eax; push %rax; lea 2f(%rip), %rax; push %rax; lretq; 2: nop", )
STORM64(pause_loop, "pause", )
STORM(task, 32, BOARD_PROT32, "1: lcall $0x68, $0; " COUNT32 "jmp 1b; .org lab_storm_task + 0x100; 2: iret; jmp 2b",
      lab_second_task(b, BOARD_CODE + 0x100))
STORM(mode, 32, BOARD_PROT32,
      "1: mov %cr0, %eax; and $0xfffffffe, %eax; mov %eax, %cr0; or $1, %eax; mov %eax, %cr0; " COUNT32 "jmp 1b", )

/* ---- exits to user space ------------------------------------------------------------------------ */

BOARD_ASM(lab_exit_io, 64, "1: out %al, $0xf1; jmp 1b");
BOARD_ASM(lab_exit_string, 64, "mov $0xf1, %edx; 1: mov $0x1000, %ecx; mov $0x30000, %esi; rep outsb; jmp 1b");
BOARD_ASM(lab_exit_mmio, 64, "1: mov %rax, 0x800000; jmp 1b");
BOARD_ASM(lab_exit_rom, 64, "1: mov 0x800000, %rax; add $8, %rbx; jmp 1b");
BOARD_ASM(lab_exit_hlt, 64, "1: hlt; jmp 1b");
#define EXIT(name)                                                                                                 \
	static void setup_exit_##name(struct board *b)                                                             \
	{                                                                                                          \
		lab_cpu(b, BOARD_LONG64, lab_exit_##name);                                                         \
	}
EXIT(io)
EXIT(string)
EXIT(mmio)
EXIT(rom)
EXIT(hlt)

#define ROW(name, id, text)                                                                                        \
	{                                                                                                          \
		name, text, END_KICK, SIGN_COUNT, "", setup_##id, NULL                                             \
	}
#define EXITS(name, id, text)                                                                                      \
	{                                                                                                          \
		name, text, END_EXIT, SIGN_EXITS, "", setup_exit_##id, NULL                                        \
	}
static const struct lab_guest storm[] = {
	ROW("storm-smc", smc, "code that changes its own operand"),
	ROW("storm-smc-ahead", smc_ahead, "code that changes the next instruction"),
	ROW("storm-smc-page", smc_page, "code that is written anew before each call"),
	ROW("storm-smc-cross", cross, "two processors changing each other's code"),
	ROW("storm-invlpg", invlpg, "INVLPG"),
	ROW("storm-cr3", cr3, "CR3 loads"),
	ROW("storm-pge", pge, "CR4.PGE flushes"),
	ROW("storm-wp", wp, "CR0.WP toggles"),
	ROW("storm-nxe", nxe, "EFER.NXE toggles"),
	ROW("storm-selfmap", selfmap, "page tables that map themselves"),
	ROW("storm-tlb", tlb, "more pages than a TLB has entries"),
	ROW("storm-accessed", accessed, "accessed bits cleared and set again"),
	ROW("storm-ud", ud, "#UD with progress"),
	ROW("storm-pf", pf, "#PF with progress"),
	ROW("storm-int3", bp, "INT3"),
	ROW("storm-step", step, "single steps"),
	ROW("storm-int", intn, "INT n"),
	ROW("storm-nm", nm, "#NM by CR0.TS"),
	ROW("storm-de", div, "#DE with progress"),
	ROW("storm-self-ipi", self_ipi, "self-IPIs"),
	ROW("storm-icr", icr, "IPIs to itself through the ICR"),
	ROW("storm-self-nmi", self_nmi, "NMIs to itself"),
	ROW("storm-timer", timer, "an APIC timer of the shortest period"),
	ROW("storm-oneshot", oneshot, "one-shot timers of one tick"),
	ROW("storm-tpr", tpr, "CR8 writes"),
	ROW("storm-ipi", ipi, "two processors interrupting each other"),
	ROW("storm-cpuid", cpuid, "CPUID"),
	ROW("storm-msr", msr, "MSR reads and writes"),
	ROW("storm-wbinvd", wbinvd, "WBINVD"),
	ROW("storm-dr7", dr7, "debug-register writes"),
	ROW("storm-fxsave", fxsave, "FXSAVE and FXRSTOR"),
	ROW("storm-segments", segments, "segment loads"),
	ROW("storm-far", far_ret, "far returns"),
	ROW("storm-task", task, "task switches"),
	ROW("storm-mode", mode, "protected mode on and off"),
	ROW("storm-pause", pause_loop, "PAUSE"),
	EXITS("exit-io", io, "port writes"),
	EXITS("exit-string", string, "REP OUTS"),
	EXITS("exit-mmio", mmio, "stores to device memory"),
	EXITS("exit-mmio-read", rom, "loads from device memory"),
	EXITS("exit-hlt", hlt, "HLT"),
};
LAB_FAMILY(storm);
