/* SPDX-License-Identifier: MIT */
/*
 * Translations of several L2s are kept apart by VPID and EPT, and forgotten when L1 says so: as many L2s as there
 * are contexts, and more, taking turns on one processor. At one linear address each has data and code of its own.
 */
#include "nest.h"

#define L2S 6u
#define VMCS_OF(n) (0x1a0000u + (n) * 0x1000u)
#define EPT_OF(n) (0x210000u + (n) * 0x4000u)
#define DATA_OF(n) (0x1b0000u + (n) * 0x1000u)
#define CODE_OF(n) (0x1c0000u + (n) * 0x1000u)
#define DATA 0x180000u
#define FLUSH 0x30010u	/* type of INVEPT before the next launch, or 0; its descriptor */

BOARD_ASM(l2_reads, 64, "1: mov 0x180000, %al; mov $0, %ah; out %ax, $0x70; vmcall; jmp 1b");
/* The minimal L1, with INVEPT or INVVPID (type + 16) before it launches again. */
BOARD_ASM(l1_flushes, 64,
	"mov %cr4, %rax; or $0x2000, %eax; mov %rax, %cr4; mov %cr0, %rax; or $0x20, %eax; mov %rax, %cr0\n"
	"mov $0x3a, %ecx; rdmsr; test $1, %al; jnz 1f; mov $5, %eax; xor %edx, %edx; wrmsr; 1:\n"
	"mov $0x30000, %ebx; vmxon (%rbx); vmclear 8(%rbx); vmptrld 8(%rbx); vmlaunch; out %eax, $0x91\n"
	".skip 0x100 - (. - l1_flushes)\n"
	"mov $0x4402, %ecx; vmread %rcx, %rax; mov $0x30000, %ebx; vmclear 8(%rbx); out %eax, $0x90\n"
	"mov $0x30010, %ebx; mov (%rbx), %eax; test %eax, %eax; jz 3f; btr $4, %eax; jc 2f\n"
	"invept 8(%rbx), %rax; jmp 3f; 2: invvpid 8(%rbx), %rax\n"
	"3: mov $0x30000, %ebx; vmptrld 8(%rbx); vmlaunch; out %eax, $0x91");

static void copy(u32 to, u32 from, u32 bytes)
{
	for (u32 n = 0; n < bytes; n += 8)
		board_put(&b, to + n, board_get(&b, from + n, 8), 8);
}

static void map(unsigned int l2, u32 gpa, u32 page)
{
	board_put(&b, EPT_OF(l2) + 0x3000 + (gpa >> 12) * 8, page | 0x37, 8);
}

/* An L2 whose code differs from the others' in its first OUT's port: 0x70 + n. */
static void make(unsigned int n, u16 vpid)
{
	u32 ept = EPT_OF(n);

	copy(ept, EPT_PML4, 0x4000);
	board_put(&b, ept, (ept + 0x1000) | 7, 8);
	board_put(&b, ept + 0x1000, (ept + 0x2000) | 7, 8);
	board_put(&b, ept + 0x2000, (ept + 0x3000) | 7, 8);
	for (u32 k = 0; k < (u32)(l2_reads_end - l2_reads); k++)
		board_put(&b, CODE_OF(n) + k, l2_reads[k] == 0x70 ? 0x70 + n : l2_reads[k], 1);
	board_put(&b, DATA_OF(n), 0x10 + n, 1);
	map(n, L2_CODE, CODE_OF(n));
	map(n, DATA, DATA_OF(n));
	vput(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_EPT | (vpid ? PROC2_VPID : 0));
	vput(VMCS_VIRTUAL_PROCESSOR_ID, vpid);
	vput(VMCS_EPT_POINTER, ept | 0x1e);
	copy(VMCS_OF(n), L1_VMCS, VMCS_BYTES);
}

static void use(unsigned int n) { board_put(&b, L1_POINTERS + 8, VMCS_OF(n), 8); }

static u32 said(void)
{
	struct kvm_run *run = b.cpu[l1].run;

	return *(u16 *)((u8 *)run + run->io.data_offset);
}

static void start(bool vpids)
{
	fresh("");
	nest();
	board_code(&b, l1, l1_flushes);
	ept_identity();
	for (unsigned int n = 0; n < L2S; n++)
		make(n, vpids ? (u16)(n + 1) : 0);
	use(0);
}

/* Run one through its OUT and its exit; was it itself? */
static bool turn(unsigned int n, u32 data)
{
	bool right;

	use(n);
	right = next_exit() == L2_AT(0x70 + n) && said() == data;
	right &= next_exit() == VMEXIT_VMCALL;
	board_put(&b, VMCS_OF(n) + vmcs_rows[VMCS_GUEST_RIP].offset, L2_CODE, 8);
	return right;
}

static void turns(bool vpids)
{
	static const u8 order[] = { 0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 5, 4, 3, 2, 1, 0, 0, 1, 1, 4, 4, 0 };
	unsigned int wrong = 0;

	start(vpids);
	for (size_t i = 0; i < sizeof(order); i++)
		wrong += !turn(order[i], 0x10u + order[i]);
	ok(!wrong, "%zu turns of %u L2s %s: each sees its own data and code (%u do not)", sizeof(order), L2S,
	   vpids ? "with VPIDs" : "without", wrong);
	gone();
}

/* L1 maps another page and flushes in some way, while other L2s ran in between. */
static void flushes(u32 how, u64 descriptor, bool mine, const char *what)
{
	start(true);
	turn(0, 0x10);
	turn(1, 0x11);
	map(0, DATA, DATA_OF(3));
	/* L1 stands behind VMCLEAR, before its flush. */
	board_put(&b, FLUSH, how, 4);
	board_put(&b, FLUSH + 8, descriptor, 8);
	board_put(&b, FLUSH + 16, 0, 8);
	ok(turn(1, 0x11), "%s: another L2", what);
	board_put(&b, FLUSH, 0, 4);
	use(0);
	is(next_exit(), L2_AT(0x70), "%s: the one whose EPT was changed", what);
	if (mine)
		is(said(), 0x13, "%s: sees the new page", what);
	else
		ok(said() == 0x13 || said() == 0x10, "%s: sees the new page or still the old one", what);
	gone();
}

int main(void)
{
	turns(true);
	turns(false);
	flushes(1, EPT_OF(0) | 0x1e, true, "INVEPT of its EPT");
	flushes(2, 0, true, "INVEPT of all");
	flushes(16 + 1, 1, true, "INVVPID of its VPID");
	flushes(16 + 2, 0, true, "INVVPID of all");
	flushes(16 + 1, 2, false, "INVVPID of another's");
	flushes(1, EPT_OF(1) | 0x1e, false, "INVEPT of another's");
	return done_testing();
}
