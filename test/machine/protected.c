/* SPDX-License-Identifier: MIT */
/*
 * 32-bit protected mode: segment limits and types, call gates, task switches, BOUND, virtual-8086 mode, 32-bit
 * paging.
 */
#include "guest.h"

#define DESC(base, limit, type, flags)							\
	((u64)((limit) & 0xffff) | (u64)((base) & 0xffffff) << 16 | (u64)(type) << 40 |	\
	 (u64)((limit) >> 16 & 15) << 48 | (u64)(flags) << 52 | (u64)((base) >> 24 & 0xff) << 56)
#define SPARE(n) gdt[SEL_SPARE / 8 + (n)]
#define SEL(n) (SEL_SPARE + 8 * (n))

INSN(load_fs, "mov $0x50, %eax; mov %eax, %fs")
INSN(read_fs, "mov %fs:0, %eax")
INSN(read_fs_4, "mov %fs:4, %eax")
INSN(write_fs, "movl $1, %fs:0")
INSN(bounds, "push $2; push $1; mov $2, %eax; bound %eax, (%esp); pop %eax; pop %eax")
INSN(bounds_bad, "push $2; push $1; mov $3, %eax; bound %eax, (%esp)")
INSN(overflow, "mov $0x7fffffff, %eax; inc %eax; into")
INSN(far_gate, "lcall $0x50, $0")
INSN(to_task, "lcall $0x58, $0")
INSN(jump_far_bad, "ljmp $0x50, $0")
INSN(ss_absent, "mov $0x50, %eax; mov %eax, %ss")
INSN(lar_good, "mov $0x10, %eax; lar %eax, %eax")
INSN(syscall_insn, "sysenter")

static void segments(void)
{
	static u32 words[4] = { 11, 22, 33, 44 };

	SPARE(0) = DESC((u32)words, 7, 0x93, 4);
	is(attempt(load_fs), NO_TRAP, "a small segment");
	is(attempt(read_fs), NO_TRAP, "its first word");
	is(attempt(read_fs_4), NO_TRAP, "its last word");
	SPARE(0) = DESC((u32)words, 6, 0x93, 4);
	attempt(load_fs);
	is(attempt(read_fs_4), GP, "a read over the limit [not tcg]");
	is(trap.error, 0, "error code 0");
	SPARE(0) = DESC((u32)words, 7, 0x91, 4);
	attempt(load_fs);
	is(attempt(write_fs), GP, "a write to a read-only segment [not tcg]");
	SPARE(0) = DESC((u32)words, 7, 0x99, 4);
	is(attempt(load_fs), GP, "an execute-only segment in FS");
	is(trap.error, 0x50, "error code: the selector");
	SPARE(0) = DESC((u32)words, 7, 0x13, 4);
	is(attempt(load_fs), NP, "a segment that is not present");
	is(trap.error, 0x50, "error code: the selector");
	is(attempt(ss_absent), SS, "the same in SS");
	is(trap.error, 0x50, "error code: the selector");
	SPARE(0) = DESC((u32)words - 4096, 0, 0x97, 0xc);
	attempt(load_fs);
	is(attempt(read_fs), GP, "an expand-down segment below its limit [not tcg]");
	SPARE(0) = DESC((u32)words, 7, 0x92, 4);
	attempt(load_fs);
	is(SPARE(0) >> 40 & 1, 1, "loading sets the accessed bit");
	__asm__ volatile("mov %0, %%fs" :: "r"(0));
	is(attempt(read_fs), GP, "an access by a null selector [not tcg]");
	is(attempt(bounds), NO_TRAP, "BOUND within");
	is(attempt(overflow), OF, "INTO");
	is(attempt(bounds_bad), BR, "BOUND outside");
}

/* ---- call gate from user mode ---- */

extern char gate_entry[];
__asm__(".text\ngate_entry:\n\tmov 8(%esp), %eax\n\tint $0x82\n");
USER_CODE(u_gate, "pushl $0x1234; lcall $0x53, $0; nop");
static struct frame at_gate;

static bool catch_gate(struct frame *f)
{
	if (f->vector == 0x82)
		at_gate = *f;
	return false;
}

static void call_gate(void)
{
	u32 to = (u32)gate_entry;

	SPARE(0) = (to & 0xffff) | (u64)SEL_CODE << 16 | (u64)0xec01 << 32 | (u64)(to >> 16) << 48;
	trap_hook = catch_gate;
	is(USER(u_gate), 0x82, "a call gate leads to ring 0");
	is(at_gate.cs & 3, 0, "CPL 0");
	is(at_gate.ax, 0x1234, "one parameter is copied");
	trap_hook = NULL;
	SPARE(0) &= ~(3ull << 45);
	is(USER(u_gate), GP, "a gate of DPL 0 from ring 3");
	is(trap.error, 0x50, "error code: the gate");
}

/* ---- hardware task switch ---- */

struct tss32 {
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
	u32 es, cs, ss, ds, fs, gs, ldt, io;
};
static struct tss32 task;
static u8 task_stack[4096];
static volatile u32 task_ran, task_flags, task_link;

static void task_main(void)
{
	u32 flags;

	for (;;) {
		__asm__ volatile("pushf; pop %0" : "=r"(flags));
		task_flags = flags;
		task_link = task.link;
		task_ran++;
		__asm__ volatile("iret");
	}
}

static void task_switch(void)
{
	task = (struct tss32){ .eip = (u32)task_main, .eflags = 2, .esp = (u32)task_stack + 4096, .es = SEL_DATA,
			       .cs = SEL_CODE, .ss = SEL_DATA, .ds = SEL_DATA, .io = 0xffff0000 };
	SPARE(1) = DESC((u32)&task, 103, 0x89, 0);
	is(attempt(to_task), NO_TRAP, "CALL to a TSS and IRET back");
	is(task_ran, 1, "the task ran");
	is(task_flags & 0x4000, 0x4000, "with NT set");
	is(task_link & 0xffff, SEL_TSS, "and a link to the old task");
	is(SPARE(1) >> 40 & 15, 9, "its descriptor is no more busy");
	is(gdt[SEL_TSS / 8] >> 40 & 15, 11, "ours is");
	is(attempt(to_task), NO_TRAP, "again: it goes on behind IRET");
	is(task_ran, 2, "and ran again");
	is(read_cr0() & 8, 8, "CR0.TS is set by the switch");
	__asm__ volatile("clts");
	SPARE(1) = DESC((u32)&task, 102, 0x89, 0);
	is(attempt(to_task), TS, "a TSS whose limit is too small");
	is(trap.error, SEL(1), "error code: the TSS");
	SPARE(1) = DESC((u32)&task, 103, 0x8b, 0);
	is(attempt(to_task), GP, "a busy TSS");
}

/* A task gate for #DE: the fault switches tasks. */
static void fault_task(void)
{
	SPARE(1) = DESC((u32)&task, 103, 0x89, 0);
	idt[0x90] = (struct gate){ .sel = SEL(1), .type = 0x85 };
	task_ran = 0;
	__asm__ volatile("int $0x90");
	is(task_ran, 1, "INT through a task gate");
}

/* ---- 32-bit paging ---- */

static u32 *directory, *table, *frame;
static volatile u32 *const at = (void *)0x40000000;
static void do_read(void) { (void)*at; }
static void do_write(void) { *at = 1; }

static void paging(void)
{
	directory = page();
	table = page();
	frame = page();
	/* 4 MiB pages for the low 16 MiB and the APIC, small ones for the test. */
	for (u32 i = 0; i < 4; i++)
		directory[i] = i << 22 | 0x87;
	directory[0xfee00000u >> 22] = 0xfec00083;
	directory[0x40000000 >> 22] = (u32)table | 7;
	write_cr4(read_cr4() | 0x10);
	write_cr3((ulong)directory);
	write_cr0(read_cr0() | 0x80010000);
	is(attempt(do_read), PF, "32-bit paging: not present");
	is(trap.cr2, 0x40000000, "CR2");
	table[0] = (u32)frame | 1;
	is(attempt(do_read), NO_TRAP, "present");
	is(table[0] & 0x60, 0x20, "A is set");
	is(attempt(do_write), PF, "read-only");
	is(trap.error, 3, "error code");
	table[0] |= 2;
	is(attempt(do_write), NO_TRAP, "writable");
	is(table[0] & 0x60, 0x60, "D is set");
	is(frame[0], 1, "the store is in the frame");
	write_cr0(read_cr0() & ~0x80000000ul);
}

static void pae(void)
{
	static u64 pdpt[4] __attribute__((aligned(32)));
	u64 *pd = page(), *pd1 = page(), *pt = page();

	for (u32 i = 0; i < 8; i++)
		pd[i] = (u64)i << 21 | 0x87;
	pdpt[0] = (u32)pd | 1;
	pdpt[1] = (u32)pd1 | 1;
	pd1[0] = (u32)pt | 7;
	pt[0] = (u32)frame | 7;
	frame[0] = 77;
	write_cr4(read_cr4() | 0x20);
	write_cr3((ulong)pdpt);
	write_cr0(read_cr0() | 0x80000000);
	is(*at, 77, "PAE paging");
	pt[0] = 0;
	invlpg((void *)at);
	is(attempt(do_read), PF, "PAE: not present");
	pdpt[1] = 0;
	pt[0] = (u32)frame | 7;
	is(attempt(do_read), NO_TRAP, "PAE: the directory pointers are those of the last MOV CR3 [not tcg]");
	write_cr3((ulong)pdpt);
	is(attempt(do_read), PF, "PAE: and now the new ones");
	write_cr0(read_cr0() & ~0x80000000ul);
	write_cr4(read_cr4() & ~0x20ul);
}

/* ---- virtual-8086 mode ---- */

static volatile ulong v86_vector;
static volatile u32 v86_flags;

static void v86(const char *code, u32 n)
{
	struct context c;
	ulong stack;

	__builtin_memcpy((void *)0x7000, code, n);
	trap.vector = NO_TRAP;
	if (save(&c))
		return;
	recover_into(&c);
	stack = ((ulong)__builtin_frame_address(0) - 1024) & ~15ul;
	__builtin_memcpy(tss + 4, &stack, 4);
	tss[8] = SEL_DATA;
	__asm__ volatile("push $0; push $0; push $0; push $0; push $0; push $0x7ff0;"
			 "push $0x20002; push $0; push $0x7000; iret" ::: "memory");
	__builtin_unreachable();
}

static void virtual_8086(void)
{
	v86("\xb8\x34\x12\xcd\x80", 5);		/* mov ax,1234h; int 80h: IOPL 0 makes INT a #GP */
	is(trap.vector, GP, "V86: INT with IOPL 0");
	is(trap.ax & 0xffff, 0x1234, "V86: 16-bit code ran");
	is(trap.flags & 0x20000, 0x20000, "V86: VM is in the saved flags");
	is(trap.ip, 0x7003, "V86: the saved address");
	v86("\xfa", 1);
	is(trap.vector, GP, "V86: CLI with IOPL 0");
	v86("\x0f\x0b", 2);
	is(trap.vector, UD, "V86: UD2");
	v86("\x0f\x01\xe0\x0f\x22\xc0", 6);	/* smsw ax; mov cr0,eax */
	is(trap.vector, GP, "V86: MOV CR0");
	v86("\x0f\x00\xc8", 3);			/* str ax */
	is(trap.vector, UD, "V86: STR");
	v86("\xb8\x00\x10\x8e\xd8\xc7\x06\x00\x00\xcd\xab\x0f\x0b", 13); /* mov ds,1000h; mov word [0],0abcdh; ud2 */
	is(*(volatile u16 *)0x10000, 0xabcd, "V86: a segment register times 16 is its base");
}

int main(void)
{
	segments();
	call_gate();
	task_switch();
	fault_task();
	paging();
	pae();
	virtual_8086();
	return 0;
}
