/* SPDX-License-Identifier: MIT */
/*
 * An L1 of a few instructions that enters an L2 of a few: the host fills the VMCS as a table of fields, L1
 * writes it, and its exit handler stores what the processor said.
 */
#pragma once
#include "locks.h"

#define NEST_VMXON 0x60000u
#define NEST_VMCS 0x61000u
#define NEST_TABLE 0x62000u
#define NEST_POINTERS 0x63000u
#define NEST_L2 0x50000u
#define NEST_RESULT 0x30100u	/* exit reason, interruption information, error code, qualification */
#define NEST_PORT 0xf5u
#define NEST_FAILED 0xeeu

BOARD_ASM(nest_l1, 64,
	  "mov %cr4, %rax; bts $13, %rax; mov %rax, %cr4; mov %cr0, %rax; bts $5, %rax; mov %rax, %cr0;"
	  "vmxon 0x63000; jbe 9f; vmclear 0x63008; jbe 9f; vmptrld 0x63008; jbe 9f; mov $0x62000, %esi;"
	  "1: mov (%rsi), %rax; cmp $-1, %rax; je 2f; mov 8(%rsi), %rbx; vmwrite %rbx, %rax; jbe 9f;"
	  "add $16, %rsi; jmp 1b;"
	  "2: vmlaunch; 9: mov $0x4400, %eax; vmread %rax, %rbx; mov %ebx, 0x30100; mov $0xee, %al;"
	  "out %al, $0xf5; hlt;"
	  ".org nest_l1 + 0x200; mov $0x4402, %eax; vmread %rax, %rbx; mov %ebx, 0x30100; mov $0x4404, %eax;"
	  "vmread %rax, %rbx;"
	  "mov %ebx, 0x30104; mov $0x4406, %eax; vmread %rax, %rbx; mov %ebx, 0x30108; mov $0x6400, %eax;"
	  "vmread %rax, %rbx; mov %rbx, 0x30110; mov $1, %al; out %al, $0xf5; hlt");

static u32 nest_at;

static void field(u64 id, u64 val)
{
	board_put(&b, NEST_TABLE + nest_at, id, 8);
	board_put(&b, NEST_TABLE + nest_at + 8, val, 8);
	nest_at += 16;
}

/* A control that the processor allows: what must be 1, and what is wanted and may be. */
static u64 control(int cpu, u32 msr, u64 want)
{
	u64 cap = get_msr(cpu, msr);

	return (u32)cap | (want & cap >> 32);
}

static void nest_segments(unsigned int cpl)
{
	static const u32 sel[] = { 0x800, 0x802, 0x804, 0x806, 0x808, 0x80a };

	for (unsigned int i = 0; i < 6; i++) {
		bool code = i == 1;

		field(sel[i], code ? (cpl ? SEL_CODE3_64 : SEL_CODE0_64) : cpl ? SEL_DATA3 : SEL_DATA0);
		field(0x4800 + 2 * i, 0xffffffff);
		field(0x4814 + 2 * i, (code ? 0xa09b : 0xc093) | cpl << 5);
		field(0x6806 + 2 * i, 0);
	}
	field(0x80c, 0);
	field(0x480c, 0);
	field(0x4820, 0x10000);
	field(0x6812, 0);
	field(0x80e, SEL_TSS);
	field(0x480e, 0x67);
	field(0x4822, 0x8b);
	field(0x6814, BOARD_TSS);
}

/* Everything but what a test wants otherwise: give that afterwards with field(), then nest_end(). */
__attribute__((unused)) static int nest_begin(const u8 *l2, const u8 *l2_end, unsigned int cpl, u32 bitmap)
{
	static const u16 host_sel[] = { SEL_DATA0, SEL_CODE0_64, SEL_DATA0, SEL_DATA0, SEL_DATA0, SEL_DATA0, SEL_TSS };
	int cpu = LOCK_CPU(nest_l1, 0);
	u32 revision;

	set_msr(cpu, 0x3a, 5);
	revision = (u32)get_msr(cpu, 0x480);
	board_put(&b, NEST_VMXON, revision, 4);
	board_put(&b, NEST_VMCS, revision, 4);
	board_put(&b, NEST_POINTERS, NEST_VMXON, 8);
	board_put(&b, NEST_POINTERS + 8, NEST_VMCS, 8);
	memcpy(b.ram + NEST_L2, l2, (size_t)(l2_end - l2));
	nest_at = 0;
	field(0x4000, control(cpu, 0x48d, 0));
	field(0x4002, control(cpu, 0x48e, 0));
	field(0x4004, bitmap);
	field(0x4006, 0);
	field(0x4008, 0);
	field(0x400c, control(cpu, 0x48f, 1u << 9));		/* the host is 64-bit */
	field(0x4012, control(cpu, 0x490, 1u << 9 | 1u << 2));	/* so is L2; load debug controls */
	field(0x2800, ~0ull);
	field(0x2802, 0);
	nest_segments(cpl);
	field(0x4810, BOARD_GDT_SIZE - 1);
	field(0x4812, 0xfff);
	field(0x6816, BOARD_GDT);
	field(0x6818, BOARD_IDT);
	field(0x6800, 0x80000031);
	field(0x6802, BOARD_PML4);
	field(0x6804, 0x2020);
	field(0x681a, 0x400);
	field(0x681c, cpl ? BOARD_STACK3 : BOARD_STACK0 - 0x800);
	field(0x681e, NEST_L2);
	field(0x6820, 2);
	for (unsigned int i = 0; i < 7; i++)
		field(0xc00 + 2 * i, host_sel[i]);
	field(0x6c00, 0x80000031);
	field(0x6c02, BOARD_PML4);
	field(0x6c04, 0x2020);
	field(0x6c0a, BOARD_TSS);
	field(0x6c0c, BOARD_GDT);
	field(0x6c0e, BOARD_IDT);
	field(0x6c14, BOARD_STACK0);
	field(0x6c16, board_code_at(cpu) + 0x200);
	return cpu;
}
#define NEST(l2, cpl, bitmap) nest_begin(l2, l2##_end, cpl, bitmap)

__attribute__((unused)) static void nest_end(void)
{
	field(~0ull, 0);
}

/* Did L1 get an exit? Its reason is at NEST_RESULT. */
__attribute__((unused)) static bool nest_exited(int cpu)
{
	struct kvm_run *run = b.cpu[cpu].run;
	int r = board_run(&b, cpu, 2000);

	if (r == KVM_EXIT_IO && run->io.port == NEST_PORT && *((u8 *)run + run->io.data_offset) == 1)
		return true;
	diag("exit %d, port %#x at %#llx, result %#llx", r, r == KVM_EXIT_IO ? run->io.port : 0,
		(unsigned long long)rip(cpu),
	     (unsigned long long)board_get(&b, NEST_RESULT, 8));
	return false;
}
