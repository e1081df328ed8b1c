/* SPDX-License-Identifier: MIT */
/*
 * A minimal L1 on the board of `casement lab`. It launches the L2 of the VMCS that the test wrote into memory; at each
 * exit it clears the VMCS, so that the test finds every field in memory, tells the exit reason through port 0x90
 * and launches again when it is resumed. A failed VMLAUNCH tells RFLAGS through port 0x91.
 */
#pragma once
#include "../guard/vm.h"
#include "cpu/vmx/cap.h"

#define L1_POINTERS 0x30000u	/* physical addresses of the two regions, for VMXON and VMPTRLD */
#define L1_VMXON 0x100000u
#define L1_VMCS 0x101000u
#define L1_BITMAPS 0x102000u	/* MSR and I/O bitmaps: no exits */
#define L1_STACK 0x104f00u
#define L2_STACK 0x106f00u
#define L2_CODE 0x110000u
#define SMM_HANDLER 0x38000u
#define EXIT_PORT 0x90
#define FAIL_PORT 0x91
#define EXIT_OFFSET 0x100
#define EPT_PML4 0x200000u	/* four tables in a row, 2 MiB pages of L1's first GiB */
#define EPT_PDPT 0x201000u
#define EPT_PD 0x202000u
#define EPT_PT 0x203000u	/* 4 KiB pages of the 2 MiB at 0x200000 + 2 MiB * n that split() chose */
#define EPT_LEAF 0xb7u		/* RWX, write-back, large */

BOARD_ASM(l1_code, 64,
	"mov %cr4, %rax; or $0x2000, %eax; mov %rax, %cr4; mov %cr0, %rax; or $0x20, %eax; mov %rax, %cr0\n"
	"mov $0x3a, %ecx; rdmsr; test $1, %al; jnz 1f; mov $5, %eax; xor %edx, %edx; wrmsr; 1:\n"
	"mov $0x30000, %ebx; vmxon (%rbx); vmclear 8(%rbx)\n"
	"2: mov $0x30000, %ebx; vmptrld 8(%rbx); vmlaunch\n"
	"pushf; pop %rax; out %eax, $0x91; jmp 2b\n"
	".skip 0x100 - (. - l1_code)\n"
	"push %rax; push %rbx; push %rcx; mov $0x4402, %ecx; vmread %rcx, %rax; mov $0x30000, %ebx\n"
	"vmclear 8(%rbx); out %eax, $0x90; vmptrld 8(%rbx); pop %rcx; pop %rbx; pop %rax; vmlaunch\n"
	"pushf; pop %rax; out %eax, $0x91; 3: jmp 3b");

static int l1;

__attribute__((unused)) static u64 vget(enum vmcs_field f)
{
	static const u8 bytes[] = { [W16] = 2, [W64] = 8, [W32] = 4, [WNAT] = 8 };

	return board_get(&b, L1_VMCS + vmcs_rows[f].offset, bytes[vmcs_rows[f].width]);
}

/* Before the launch, or while L1 is at a port. */
__attribute__((unused)) static void vput(enum vmcs_field f, u64 val)
{
	static const u8 bytes[] = { [W16] = 2, [W64] = 8, [W32] = 4, [WNAT] = 8 };

	board_put(&b, L1_VMCS + vmcs_rows[f].offset, val, bytes[vmcs_rows[f].width]);
}

__attribute__((unused)) static void vset(enum vmcs_field f, u64 bits) { vput(f, vget(f) | bits); }

static void vmcs_segments(const struct kvm_sregs *s)
{
	const struct kvm_segment *seg[] = { &s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs };

	for (unsigned int n = 0; n < 6; n++) {
		vput(VMCS_GUEST_ES_SELECTOR + n, seg[n]->selector);
		vput(VMCS_GUEST_ES_LIMIT + n, seg[n]->limit);
		vput(VMCS_GUEST_ES_BASE + n, seg[n]->base);
		vput(VMCS_GUEST_ES_AR_BYTES + n, n == SEG_CS ? 0xa09b : 0xc093);
		vput(VMCS_HOST_ES_SELECTOR + n, seg[n]->selector & ~7);
	}
	vput(VMCS_GUEST_TR_SELECTOR, s->tr.selector);
	vput(VMCS_GUEST_TR_LIMIT, s->tr.limit);
	vput(VMCS_GUEST_TR_BASE, s->tr.base);
	vput(VMCS_GUEST_TR_AR_BYTES, 0x8b);
	vput(VMCS_GUEST_LDTR_AR_BYTES, 0x10000);
	vput(VMCS_HOST_TR_SELECTOR, s->tr.selector);
	vput(VMCS_HOST_TR_BASE, s->tr.base);
	vput(VMCS_GUEST_GDTR_BASE, s->gdt.base);
	vput(VMCS_GUEST_GDTR_LIMIT, s->gdt.limit);
	vput(VMCS_GUEST_IDTR_BASE, s->idt.base);
	vput(VMCS_GUEST_IDTR_LIMIT, s->idt.limit);
	vput(VMCS_HOST_GDTR_BASE, s->gdt.base);
	vput(VMCS_HOST_IDTR_BASE, s->idt.base);
}

/* A 64-bit L2 in L1's own address space, with nothing intercepted that need not be. */
static void vmcs_default(void)
{
	struct kvm_sregs s;

	board_get_sregs(&b, l1, &s);
	board_put(&b, L1_VMXON, VMCS_REVISION, 4);
	board_put(&b, L1_VMCS, VMCS_REVISION, 4);
	board_put(&b, L1_POINTERS, L1_VMXON, 8);
	board_put(&b, L1_POINTERS + 8, L1_VMCS, 8);
	vput(VMCS_PIN_BASED_VM_EXEC_CONTROL, FIXED1_PIN);
	vput(VMCS_CPU_BASED_VM_EXEC_CONTROL, FIXED1_PROC | PROC_SECONDARY | PROC_MSR_BITMAPS | PROC_IO_BITMAPS);
	vput(VMCS_MSR_BITMAP, L1_BITMAPS);
	vput(VMCS_IO_BITMAP_A, L1_BITMAPS);
	vput(VMCS_IO_BITMAP_B, L1_BITMAPS + 0x1000);
	vput(VMCS_VM_EXIT_CONTROLS, FIXED1_EXIT | EXIT_HOST_64 | EXIT_SAVE_DEBUG);
	vput(VMCS_VM_ENTRY_CONTROLS, FIXED1_ENTRY | ENTRY_IA32E | ENTRY_LOAD_DEBUG);
	vput(VMCS_VMCS_LINK_POINTER, ~0ull);
	vput(VMCS_HOST_CR0, s.cr0 | 0x20);
	vput(VMCS_HOST_CR3, s.cr3);
	vput(VMCS_HOST_CR4, s.cr4 | 0x2000);
	vput(VMCS_HOST_RSP, L1_STACK);
	vput(VMCS_HOST_RIP, board_code_at(l1) + EXIT_OFFSET);
	vput(VMCS_GUEST_CR0, s.cr0 | 0x20);
	vput(VMCS_GUEST_CR3, s.cr3);
	vput(VMCS_GUEST_CR4, s.cr4 | 0x2000);
	vput(VMCS_GUEST_DR7, 0x400);
	vput(VMCS_GUEST_RSP, L2_STACK);
	vput(VMCS_GUEST_RIP, L2_CODE);
	vput(VMCS_GUEST_RFLAGS, 2);
	vmcs_segments(&s);
}

__attribute__((unused)) static void l2_load(const u8 *from, const u8 *end)
{
	for (u32 n = 0; from + n < end; n++)
		board_put(&b, L2_CODE + n, from[n], 1);
}
#define l2_code(name) l2_load(name, name##_end)

/* L1 ready to launch; the caller writes L2's code and changes the VMCS. */
__attribute__((unused)) static void nest(void)
{
	l1 = new_cpu(BOARD_LONG64);
	board_code(&b, l1, l1_code);
	vmcs_default();
}

/* Run to L1's next report: the exit reason, or with bit 30 RFLAGS of a failed VMLAUNCH, or bit 31: another KVM exit. */
__attribute__((unused)) static u32 next_exit(void)
{
	struct kvm_run *run = b.cpu[l1].run;
	int r = board_run(&b, l1, 5000);

	if (r != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_OUT)
		return 0x80000000u | (u32)r;
	if (run->io.port == EXIT_PORT)
		return *(u32 *)((u8 *)run + run->io.data_offset);
	if (run->io.port == FAIL_PORT)
		return 0x40000000u | *(u32 *)((u8 *)run + run->io.data_offset);
	return 0x80000000u | run->io.port << 8 | KVM_EXIT_IO;
}

/* L2 wrote to this port and waits. */
#define L2_AT(port) (0x80000000u | (port) << 8 | KVM_EXIT_IO)

/* EPT that maps L1's memory to itself. */
__attribute__((unused)) static void ept_identity(void)
{
	board_put(&b, EPT_PML4, EPT_PDPT | 7, 8);
	board_put(&b, EPT_PDPT, EPT_PD | 7, 8);
	for (u32 n = 0; n < 512; n++)
		board_put(&b, EPT_PD + n * 8, (u64)n << 21 | EPT_LEAF, 8);
	/* The first 2 MiB, where everything is, by 4 KiB pages. */
	board_put(&b, EPT_PD, EPT_PT | 7, 8);
	for (u32 n = 0; n < 512; n++)
		board_put(&b, EPT_PT + n * 8, (u64)n << 12 | 0x37, 8);
}

struct nested_image {
	struct kvm_nested_state s;
	u8 data[0x2000];
};

__attribute__((unused)) static int get_nested(struct nested_image *i)
{
	memset(i, 0, sizeof(*i));
	i->s.size = sizeof(*i);
	return board_cpu_ioctl(&b, l1, KVM_GET_NESTED_STATE, i);
}

__attribute__((unused)) static int set_nested(const struct nested_image *i)
{
	return board_cpu_ioctl(&b, l1, KVM_SET_NESTED_STATE, i);
}

__attribute__((unused)) static bool in_l2(void)
{
	static struct nested_image i;

	get_nested(&i);
	return i.s.flags & KVM_STATE_NESTED_GUEST_MODE;
}

__attribute__((unused)) static void request_triple_fault(void)
{
	struct kvm_vcpu_events e = events(l1);

	e.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	e.triple_fault.pending = 1;
	board_cpu_ioctl(&b, l1, KVM_SET_VCPU_EVENTS, &e);
}
