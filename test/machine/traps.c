/* SPDX-License-Identifier: MIT */
/* Exceptions in 64-bit mode: which one, its error code, the address it saves, and what changes privilege. */
#include "guest.h"

#define CHECK_TRAP(fn, vec, err, text)					\
	do {								\
		is(attempt(fn), vec, text);				\
		is(trap.error, err, "error code: " text);		\
	} while (0)

/* What TCG does not check, or does not survive. */
#define CHECK_TRAP_OURS(fn, vec, err, text)				\
	do {								\
		if (is_tcg())						\
			skip(text, "not on TCG");			\
		else							\
			CHECK_TRAP(fn, vec, err, text);			\
	} while (0)

INSN(divide, "xor %ecx, %ecx; div %ecx")
INSN(divide_big, "mov $2, %edx; mov $1, %ecx; div %ecx")
INSN(breakpoint, "int3")
INSN(int_4, "int $4")
INSN(invalid, "ud2")
INSN(bad_selector, "mov $0xfff8, %eax; mov %eax, %ds")
INSN(load_code_ss, "mov $0x18, %eax; mov %eax, %ss")
INSN(null_ss3, "mov $3, %eax; mov %eax, %ss")
INSN(null_ss0, "xor %eax, %eax; mov %eax, %ss; mov $0x10, %eax; mov %eax, %ss")
INSN(non_canonical, "mov $0x8000000000000000, %rax; mov (%rax), %eax")
INSN(non_canonical_stack, "mov %rsp, %rcx; mov $0x8000000000000000, %rax; mov %rax, %rsp; push %rax")
INSN(far_to_data, "pushq $0x10; lea 1f(%rip), %rax; push %rax; lretq; 1:")
INSN(far_to_null, "pushq $0; lea 1f(%rip), %rax; push %rax; lretq; 1:")
INSN(cr4_reserved, "mov %cr4, %rax; bts $15, %rax; mov %rax, %cr4")
INSN(cr0_pg_without_pe, "mov %cr0, %rax; and $~1, %rax; mov %rax, %cr0")
INSN(cr0_nw_without_cd, "mov %cr0, %rax; or $0x20000000, %rax; mov %rax, %cr0")
INSN(cr4_pae_off, "mov %cr4, %rax; and $~0x20, %rax; mov %rax, %cr4")
INSN(no_such_msr, "mov $0x12345, %ecx; rdmsr")
INSN(efer_reserved, "mov $0xc0000080, %ecx; rdmsr; or $0x80000000, %eax; wrmsr")
INSN(lstar_non_canonical, "mov $0xc0000082, %ecx; mov $0x80000000, %edx; xor %eax, %eax; wrmsr")
INSN(locked_mov, ".byte 0xf0; mov %eax, -64(%rsp)")
INSN(locked_register, ".byte 0xf0, 0x01, 0xc0")
INSN(opcode_16, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")
INSN(push_es, ".byte 0x06")
INSN(aaa, ".byte 0x37")
INSN(fp_disabled, "mov %cr0, %rax; or $8, %rax; mov %rax, %cr0; fninit")
INSN(sse_em, "mov %cr0, %rax; or $4, %rax; mov %rax, %cr0; xorps %xmm0, %xmm0")
INSN(lldt_data, "mov $0x10, %eax; lldt %ax")
INSN(ltr_busy, "mov $0x40, %eax; ltr %ax")
INSN(int_beyond, "int $0x81")
INSN(iret_nt, "pushf; orl $0x4000, (%rsp); popf; iretq")
INSN(mov_dr4, "mov %cr4, %rax; or $8, %rax; mov %rax, %cr4; .byte 0x0f, 0x21, 0xe0")
INSN(misaligned_sse, "movaps 1(%rsp), %xmm0")

static void faults(void)
{
	CHECK_TRAP(divide, DE, 0, "division by zero");
	CHECK_TRAP(divide_big, DE, 0, "quotient too big");
	CHECK_TRAP(breakpoint, BP, 0, "INT3");
	CHECK_TRAP(int_4, OF, 0, "INT 4");
	CHECK_TRAP(invalid, UD, 0, "UD2");
	CHECK_TRAP(bad_selector, GP, 0xfff8, "selector beyond the GDT");
	CHECK_TRAP(load_code_ss, GP, 0x18, "code segment into SS");
	CHECK_TRAP_OURS(null_ss3, GP, 0, "null selector with RPL 3 into SS");
	is(attempt(null_ss0), NO_TRAP, "null selector into SS at CPL 0 of 64-bit mode");
	CHECK_TRAP(non_canonical, GP, 0, "load from a non-canonical address");
	/* #SS cannot be delivered on that stack either. */
	CHECK_TRAP(non_canonical_stack, DF, 0, "push to a non-canonical address: double fault");
	CHECK_TRAP(far_to_data, GP, 0x10, "far return to a data segment");
	CHECK_TRAP(far_to_null, GP, 0, "far return to a null selector");
	CHECK_TRAP_OURS(cr4_reserved, GP, 0, "reserved bit of CR4");
	CHECK_TRAP_OURS(cr0_pg_without_pe, GP, 0, "CR0.PG without PE");
	CHECK_TRAP_OURS(cr0_nw_without_cd, GP, 0, "CR0.NW without CD");
	CHECK_TRAP_OURS(cr4_pae_off, GP, 0, "CR4.PAE cleared in long mode");
	CHECK_TRAP_OURS(no_such_msr, GP, 0, "RDMSR of no register");
	CHECK_TRAP_OURS(efer_reserved, GP, 0, "reserved bit of EFER");
	CHECK_TRAP_OURS(lstar_non_canonical, GP, 0, "non-canonical LSTAR");
	CHECK_TRAP_OURS(locked_mov, UD, 0, "LOCK MOV");
	CHECK_TRAP_OURS(locked_register, UD, 0, "LOCK with a register destination");
	CHECK_TRAP(opcode_16, GP, 0, "an instruction of 16 bytes");
	CHECK_TRAP(push_es, UD, 0, "PUSH ES in 64-bit mode");
	CHECK_TRAP(aaa, UD, 0, "AAA in 64-bit mode");
	CHECK_TRAP(lldt_data, GP, 0x10, "LLDT of a data segment");
	CHECK_TRAP(ltr_busy, GP, 0x40, "LTR of a busy TSS");
	CHECK_TRAP(iret_nt, GP, 0, "IRET with NT in 64-bit mode");
	CHECK_TRAP_OURS(misaligned_sse, GP, 0, "MOVAPS of a misaligned operand");
	attempt(fp_disabled);
	is(trap.vector, NM, "x87 with CR0.TS");
	write_cr0(read_cr0() & ~8ul);
	attempt(sse_em);
	is(trap.vector, UD, "SSE with CR0.EM");
	write_cr0(read_cr0() & ~4ul);
	is(attempt(mov_dr4), UD, "MOV DR4 with CR4.DE");
	write_cr4(read_cr4() & ~8ul);
}

static void idt_limit(void)
{
	load_idt(0x81 * 16 - 1);
	is(attempt(int_beyond), GP, "INT beyond the IDT");
	is(trap.error, 0x81 << 3 | 2, "INT beyond the IDT: error code [not tcg]");
	load_idt(sizeof(idt) - 1);
	idt[0x81].type &= 0x7f;
	is(attempt(int_beyond), NP, "gate not present");
	is(trap.error, 0x81 << 3 | 2, "gate not present: error code [not tcg]");
	idt[0x81].type = 0x8c;
	is(attempt(int_beyond), GP, "gate of a wrong type");
	idt[0x81].type = 0x8e;
}

/* A fault whose own handler cannot be entered becomes a double fault; benign ones are delivered one after another. */
static void double_fault(void)
{
	struct gate old = idt[GP];

	idt[GP].type &= 0x7f;
	is(attempt(non_canonical), DF, "#GP with an absent #GP gate: double fault");
	is(trap.error, 0, "double fault: error code");
	idt[GP] = old;
	old = idt[UD];
	idt[UD].type &= 0x7f;
	is(attempt(invalid), NP, "#UD with an absent gate: #NP");
	is(trap.error, UD << 3 | 3, "its error code has IDT and EXT [not tcg]");
	idt[UD] = old;
}

/* ---- single-step ---- */

static volatile int steps;
static ulong first_step;

static bool count_steps(struct frame *f)
{
	if (f->vector != DB)
		return false;
	if (!steps++)
		first_step = f->ip;
	return true;
}

static void single_step(void)
{
	ulong dr6;

	trap_hook = count_steps;
	steps = 0;
	write_dr6(0xffff0ff0);
	__asm__ volatile("pushf; orl $0x100, (%%rsp); popf; nop; nop; nop; pushf; andl $~0x100, (%%rsp); popf"
			 ::: "memory", "cc");
	is(steps, 6, "TF: a trap after each of six instructions");
	dr6 = read_dr6();
	is(dr6 & 0x4000, 0x4000, "DR6.BS");
	steps = 0;
	__asm__ volatile("pushf; orl $0x100, (%%rsp); mov %%ss, %%eax; popf; mov %%eax, %%ss; nop; "
			 "pushf; andl $~0x100, (%%rsp); popf" ::: "memory", "cc", "eax");
	is(steps, 4, "MOV SS holds the trap back for one instruction");
	trap_hook = NULL;
	write_dr6(0xffff0ff0);
}

static u32 watched;

static void breakpoints(void)
{
	trap_hook = count_steps;
	steps = 0;
	write_dr0((ulong)&watched);
	write_dr7(0x000d0002 | 0x400);	/* DR0: four bytes, write */
	*(volatile u32 *)&watched = 1;
	is(steps, 1, "data breakpoint on a write");
	(void)*(volatile u32 *)&watched;
	is(steps, 1, "none on a read");
	is(read_dr6() & 0xf, 1, "DR6.B0");
	write_dr6(0xffff0ff0);
	write_dr7(0x000f0002 | 0x400);
	(void)*(volatile u32 *)&watched;
	is(steps, 2, "data breakpoint on a read");
	write_dr7(0x400);
	trap_hook = NULL;
	write_dr6(0xffff0ff0);
}

/* ---- user mode ---- */

USER_CODE(u_nothing, "nop");
USER_CODE(u_hlt, "hlt");
USER_CODE(u_cli, "cli");
USER_CODE(u_in, "in $0x80, %al");
USER_CODE(u_rdmsr, "mov $0x10, %ecx; rdmsr");
USER_CODE(u_cr0, "mov %cr0, %rax");
USER_CODE(u_clts, "clts");
USER_CODE(u_invlpg, "invlpg (%rsp)");
USER_CODE(u_int3, "int3");
USER_CODE(u_int20, "int $0x20");
USER_CODE(u_kernel_read, "mov $0x100000, %eax; mov (%rax), %ecx");
USER_CODE(u_kernel_write, "mov $0x100000, %eax; movl $1, (%rax)");
USER_CODE(u_kernel_jump, "mov $0x100000, %eax; jmp *%rax");
USER_CODE(u_kernel_ds, "mov $0x10, %eax; mov %eax, %ds");
USER_CODE(u_popf_if, "pushf; orl $0x200, (%rsp); popf; pushf; pop %rax");
USER_CODE(u_ac, "pushf; orl $0x40000, (%rsp); popf; mov 1(%rsp), %eax; nop");
USER_CODE(u_syscall_off, "syscall");
USER_CODE(u_lgdt, "lgdt (%rsp)");
USER_CODE(u_wbinvd, "wbinvd");
USER_CODE(u_far_kernel, "pushq $0x18; lea 1f(%rip), %rax; push %rax; lretq; 1: nop");

static void user_mode(void)
{
	is(USER(u_nothing), NO_TRAP, "user mode and back by INT 80h");
	is(trap.cs & 3, 3, "the saved CS has RPL 3");
	is(USER(u_hlt), GP, "HLT at CPL 3");
	is(trap.ip, user_ip(), "the saved address is the instruction's");
	is(USER(u_cli), GP, "CLI at CPL 3");
	is(USER(u_in), GP, "IN at CPL 3 without an I/O map");
	is(USER(u_rdmsr), GP, "RDMSR at CPL 3");
	is(USER(u_cr0), GP, "MOV from CR0 at CPL 3");
	is(USER(u_clts), GP, "CLTS at CPL 3");
	is(USER(u_invlpg), GP, "INVLPG at CPL 3");
	is(USER(u_lgdt), GP, "LGDT at CPL 3");
	is(USER(u_wbinvd), GP, "WBINVD at CPL 3");
	is(USER(u_int3), BP, "INT3 at CPL 3 through a gate of DPL 3");
	is(trap.ip, user_ip() + 1, "INT3 saves the next address");
	is(USER(u_int20), GP, "INT through a gate of DPL 0");
	is(trap.error, 0x20 << 3 | 2, "its error code [not tcg]");
	is(USER(u_kernel_read), PF, "reading a supervisor page");
	is(trap.error, 5, "error code: present, user");
	is(trap.cr2, 0x100000, "CR2");
	is(USER(u_kernel_write), PF, "writing a supervisor page");
	is(trap.error, 7, "error code: present, write, user");
	is(USER(u_kernel_jump), PF, "jumping to a supervisor page");
	is(trap.error & ~0x10ul, 5, "error code: present, user");
	is(USER(u_kernel_ds), GP, "DS with a segment of DPL 0");
	is(USER(u_far_kernel), GP, "far return to an inner ring");
	is(USER(u_popf_if), NO_TRAP, "POPF with IF at CPL 3");
	is(trap.ax & 0x200, 0, "does not set it");
	write_cr0(read_cr0() | 0x40000);
	is(USER(u_ac), AC, "misaligned load with AM and AC [not tcg]");
	is(trap.error, 0, "#AC error code");
	write_cr0(read_cr0() & ~0x40000ul);
	is(USER(u_ac), NO_TRAP, "and none without CR0.AM");
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
	is(USER(u_syscall_off), UD, "SYSCALL without EFER.SCE");
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
}

/* ---- SYSCALL ---- */

extern char syscall_entry[];
__asm__(".text\nsyscall_entry:\n\tmov %r11, %rax\n\tmov %rcx, %rdx\n\tint $0x82\n");
USER_CODE(u_syscall, "stc; syscall; nop");

static struct frame at_syscall;

static bool catch_syscall(struct frame *f)
{
	if (f->vector == 0x82)
		at_syscall = *f;
	return false;
}

static void syscalls(void)
{
	wrmsr(0xc0000081, (u64)0x18 << 32 | (u64)(SEL_USER32 & ~3) << 48);
	wrmsr(0xc0000082, (u64)syscall_entry);
	wrmsr(0xc0000084, 0x601);
	trap_hook = catch_syscall;
	is(USER(u_syscall), 0x82, "SYSCALL reaches its entry");
	is(at_syscall.cs, 0x18, "CS from STAR");
	is(at_syscall.dx, user_ip() + 3, "RCX is the return address");
	is(at_syscall.ax & 1, 1, "R11 has the flags");
	is(at_syscall.flags & 1, 0, "FMASK clears them");
	trap_hook = NULL;
}

int main(void)
{
	faults();
	idt_limit();
	double_fault();
	single_step();
	breakpoints();
	user_mode();
	syscalls();
	return 0;
}
