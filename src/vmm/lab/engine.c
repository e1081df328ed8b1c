/* SPDX-License-Identifier: MIT */
/*
 * Guests that ask for what costs this engine most: code that is never the same twice, translations and memory types
 * that never last, modes that change all the time. They have windows, so nothing stops them but who wants the
 * processor back: a signal must end KVM_RUN at once.
 */
#include "vmm/lab/lab.h"

#define COUNT "incl 0x30800; jmp 2b"

#define STORM(name, bits, mode, prepare, insn, more)                                                               \
	LAB_GUEST(engine, name, bits, mode, prepare "; 2: " insn "; " COUNT, more)
/* A handler at 0x100 of the code. */
#define WITH_HANDLER(name, vector, prepare, insn, handler, more)                                                   \
	LAB_GUEST(engine, name, 64, BOARD_LONG64,                                                                  \
		  prepare "; 2: " insn "; " COUNT "; .org lab_engine_" #name " + 0x100; " handler "; iretq",       \
		  lab_handler(b, vector, 0x100);                                                                   \
		  more)

/* ---- code that changes ------------------------------------------------------------------------------------ */

STORM(beside_code, 64, BOARD_LONG64, "nop", "incl 3f(%rip); jmp 4f; 3: .long 0; 4: nop", )
STORM(fresh_code, 64, BOARD_LONG64, "mov $0x200000, %edi",
      "movb $0xc3, (%rdi); call *%rdi; inc %rdi; cmp $0x3ff000, %edi; jb 3f; mov $0x200000, %edi; 3: nop", )
STORM(overlap, 64, BOARD_LONG64, "lea 3f(%rip), %rbx; xor %ecx, %ecx",
      "mov %ecx, %eax; and $3, %eax; add %rbx, %rax; inc %ecx; call *%rax; jmp 4f;"
      "3: .byte 0x48, 0xb8, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xc3, 0xc3, 0xc3, 0xc3; 4: nop", )
STORM(targets, 64, BOARD_LONG64,
      "cld; mov $0x200000, %edi; mov $0x100000, %ecx; mov $0xc3, %al; rep stosb;"
      "xor %ecx, %ecx",
      "imul $0x343fd, %ecx, %ecx; add $0x269ec3, %ecx; mov %ecx, %eax; and $0xfffff, %eax; add $0x200000, %eax;"
      "call *%rax", )

/* ---- translations ------------------------------------------------------------------------------------------- */

STORM(invpcid, 64, BOARD_LONG64, "mov $2, %ebx", "invpcid 0x30000, %rbx", board_put(b, 0x30000, 0, 8))
STORM(smap, 64, BOARD_LONG64, "nop", "stac; mov 0x33000, %eax; clac", board_put(b, BOARD_PT + 0x30 * 8, 0x30063, 8);
      board_put(b, BOARD_PT + 0x40 * 8, 0x40063, 8); board_sregs(b, 0, s.cr4 |= 1 << 21))
STORM(walks, 64, BOARD_LONG64, "mov %cr3, %rbx",
      "mov %rbx, %cr3; xor %eax, %eax; 3: testb $1, 0x200000(%rax);"
      "add $0x10000, %eax; cmp $0x200000, %eax; jb 3b", )
STORM(remap, 64, BOARD_LONG64, "nop", "xorq $0x1000, 0x13190; invlpg 0x32000; mov 0x32000, %eax", )
STORM(mtrr, 64, BOARD_LONG64, "mov $0x2ff, %ecx; xor %edx, %edx; mov $0x806, %eax", "xor $0x800, %eax; wrmsr", )
STORM(pat, 64, BOARD_LONG64, "mov $0x277, %ecx; rdmsr", "xor $1, %edx; wrmsr", )

/* ---- modes and registers -------------------------------------------------------------------------------------- */

STORM(tables, 64, BOARD_LONG64, "sgdt 0x30000; sidt 0x30010", "lgdt 0x30000; lidt 0x30010", )
STORM(rdtsc, 64, BOARD_LONG64, "nop", "rdtsc; pause", )
STORM(compat, 64, BOARD_LONG64, "nop",
      "pushq $0x08; lea 3f(%rip), %rbx; push %rbx; lretq; .code32;"
      "3: ljmp $0x28, $0x40000 + 4f - lab_engine_compat; .code64; 4: nop", )
STORM(paging, 32, BOARD_PAGED32, "mov %cr0, %ebx", "xor $0x80000000, %ebx; mov %ebx, %cr0", )

/* Ring 3 and back. */
BOARD_ASM(lab_engine_syscall, 64,
	  "mov $0xc0000081, %ecx; xor %eax, %eax; mov $0x00200028, %edx; wrmsr; inc %ecx; lea 3f(%rip), %eax;"
	  "xor %edx, %edx; wrmsr;"
	  "4: lea 2f(%rip), %rcx; mov $2, %r11d; sysretq; 2: incl 0x30800; syscall; 3: jmp 4b");
static void setup_syscall(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_engine_syscall);
	board_sregs(b, 0, s.efer |= 1);
}

/* ---- events ----------------------------------------------------------------------------------------------------- */

WITH_HANDLER(watch, 1, "nop", "incl 0x30000", "incl 0x30804", board_watch(b, 0, 0, 0x30000, 1, 4))

BOARD_ASM(lab_engine_contend, 64, "2: lock incl 0x30808; lock incl 0x30800; jmp 2b");
static void setup_contend(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_engine_contend);
	lab_cpu(b, BOARD_LONG64, lab_engine_contend);
}

/* ---- nothing but time -------------------------------------------------------------------------------------------- */

BOARD_ASM(lab_engine_string, 64,
	  "cli; cld; 2: mov $0x200000, %esi; mov $0x200001, %edi; mov $0x1ff000, %ecx;"
	  "rep movsb; " COUNT);
static void setup_string(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_engine_string);
}

#define KICK(name, id, text)                                                                                       \
	{                                                                                                          \
		name, text, END_KICK, SIGN_COUNT, "intercepts=drop", setup_##id, NULL                              \
	}
static const struct lab_guest engine[] = {
	KICK("engine-beside-code", beside_code, "data in the page of the running code"),
	KICK("engine-fresh-code", fresh_code, "new code at every address of two megabytes"),
	KICK("engine-overlap", overlap, "instructions that overlap each other"),
	KICK("engine-targets", targets, "calls to a million places"),
	KICK("engine-invpcid", invpcid, "INVPCID of everything"),
	KICK("engine-smap", smap, "SMAP opened and closed around each access"),
	KICK("engine-walks", walks, "page walks and nothing else"),
	KICK("engine-remap", remap, "a page table entry that changes between two accesses"),
	KICK("engine-mtrr", mtrr, "memory types that change, by MTRR"),
	KICK("engine-pat", pat, "memory types that change, by PAT"),
	KICK("engine-tables", tables, "descriptor tables loaded again and again"),
	KICK("engine-rdtsc", rdtsc, "RDTSC and PAUSE"),
	KICK("engine-compat", compat, "64-bit and compatibility mode in turn"),
	KICK("engine-paging", paging, "paging on and off"),
	KICK("engine-syscall", syscall, "SYSCALL and SYSRET"),
	KICK("engine-watch", watch, "a #DB for each store"),
	KICK("engine-contend", contend, "two processors, one locked counter"),
	KICK("engine-string", string, "REP MOVS without end, interrupts off"),
};
LAB_FAMILY(engine);
