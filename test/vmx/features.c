/* SPDX-License-Identifier: MIT */
/* What L1 can ask of the processor, one feature at a time. */
#include "nest.h"

#define AREA 0x180000u		/* pages for L2 to touch */

BOARD_ASM(l2_store, 64, "mov $0x180000, %rax; movb $1, (%rax); out %al, $0x70; 1: jmp 1b");
BOARD_ASM(l2_loadx, 64, "mov $0x180000, %rax; mov (%rax), %bl; out %al, $0x70; 1: jmp 1b");
BOARD_ASM(l2_callx, 64, "mov $0x180000, %rax; call *%rax; 1: jmp 1b");
BOARD_ASM(l2_steps, 64, "nop; nop; out %al, $0x70; 1: jmp 1b");
BOARD_ASM(l2_spin, 64, "1: pause; jmp 1b");
BOARD_ASM(l2_halt, 64, "sti; hlt; out %al, $0x70; 1: jmp 1b");
BOARD_ASM(l2_vmfunc, 64, "xor %eax, %eax; mov $1, %ecx; vmfunc\n"
	"mov $0x180000, %rax; mov (%rax), %al; out %al, $0x70; 1: jmp 1b");
BOARD_ASM(l2_functions, 64, "xor %eax, %eax; mov $512, %ecx; vmfunc; mov $1, %eax; vmfunc; 1: jmp 1b");
BOARD_ASM(l2_shadow, 64, "mov $0x681e, %ecx; vmread %rcx, %rax; out %eax, $0x70\n"
	"mov $0x1234, %eax; vmwrite %rax, %rcx; out %al, $0x71; mov $0x6820, %ecx; vmread %rcx, %rax; 1: jmp 1b");
BOARD_ASM(l2_stores, 64, "mov $0x180000, %rax; movb $1, (%rax); movb $1, 0x1000(%rax); out %al, $0x70; 1: jmp 1b");
BOARD_ASM(l2_vmread, 64, "mov $0x681e, %ecx; vmread %rcx, %rax; vmwrite %rax, %rcx; out %al, $0x70; 1: jmp 1b");
BOARD_ASM(l2_tpr, 64, "mov $2, %eax; mov %rax, %cr8; mov %cr8, %rbx; out %al, $0x70\n"
	"mov $1, %eax; mov %rax, %cr8; nop; 1: jmp 1b");
BOARD_ASM(l2_cr0, 64, "mov %cr0, %rax; out %al, $0x70; or $4, %eax; mov %rax, %cr0; 1: jmp 1b");
BOARD_ASM(l2_tsc, 64, "rdtsc; out %al, $0x70; 1: jmp 1b");

static void ept_page(u32 gpa, u64 entry)
{
	board_put(&b, EPT_PT + (gpa >> 12) * 8, entry, 8);
}

static u64 ept_entry(u32 gpa)
{
	return board_get(&b, EPT_PT + (gpa >> 12) * 8, 8);
}

static u64 get_rax(void)
{
	struct kvm_regs r;

	board_get_regs(&b, l1, &r);
	return r.rax;
}

static void start(void)
{
	fresh("");
	nest();
}

static void start_ept(u64 eptp_bits)
{
	start();
	ept_identity();
	vput(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_EPT);
	vput(VMCS_EPT_POINTER, EPT_PML4 | 0x1e | eptp_bits);
}

static void ept(void)
{
	start_ept(0);
	l2_code(l2_store);
	ept_page(AREA, AREA | 0x31);
	is(next_exit(), VMEXIT_EPT_VIOLATION, "EPT: a write to a read-only page");
	is(vget(VMCS_EXIT_QUALIFICATION), 0x18a, "EPT: qualification: write, readable, final");
	is(vget(VMCS_GUEST_PHYSICAL_ADDRESS), AREA, "EPT: guest-physical address");
	is(vget(VMCS_GUEST_LINEAR_ADDRESS), AREA, "EPT: linear address");
	ept_page(AREA, AREA | 0x37);
	is(next_exit(), L2_AT(0x70), "EPT: after the repair it succeeds");
	is(board_get(&b, AREA, 1), 1, "EPT: in memory");
	gone();

	start_ept(0);
	l2_code(l2_loadx);
	ept_page(AREA, AREA | 0x34);
	is(next_exit(), VMEXIT_EPT_VIOLATION, "EPT: an execute-only page is not read");
	is(vget(VMCS_EXIT_QUALIFICATION), 0x1a1, "EPT: qualification: read, executable");
	ept_page(AREA, AREA | 0x32);
	is(next_exit(), VMEXIT_EPT_MISCONFIG, "EPT: writable and not readable is a misconfiguration");
	gone();

	start_ept(0);
	l2_code(l2_callx);
	board_put(&b, AREA, 0xc3, 1);
	ept_page(AREA, AREA | 0x33);
	is(next_exit(), VMEXIT_EPT_VIOLATION, "EPT: a page without execute is not fetched");
	is(vget(VMCS_EXIT_QUALIFICATION), 0x19c, "EPT: qualification: fetch");
	gone();

	start_ept(EPTP_AD);
	l2_code(l2_store);
	is(next_exit(), L2_AT(0x70), "EPT: accessed and dirty flags");
	is(ept_entry(AREA) & 0x300, 0x300, "EPT: the written page is accessed and dirty");
	is(ept_entry(L2_CODE) & 0x300, 0x100, "EPT: the fetched one accessed");
	gone();
}

/* Is a page in the log, from the top down to the index? */
static bool logged(u64 page)
{
	for (u64 n = 511; n > vget(VMCS_GUEST_PML_INDEX); n--)
		if (board_get(&b, 0x190000 + (u32)n * 8, 8) == page)
			return true;
	return false;
}

static void pml(void)
{
	start_ept(EPTP_AD);
	l2_code(l2_stores);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_PML);
	vput(VMCS_PML_ADDRESS, 0x190000);
	vput(VMCS_GUEST_PML_INDEX, 511);
	board_put(&b, L1_BITMAPS + 0x70 / 8, 1, 1);
	is(next_exit(), VMEXIT_IO, "PML: L2 writes to two pages");
	ok(logged(AREA) && logged(AREA + 0x1000), "PML: both are in the log");
	ok(!logged(AREA + 0x2000) && !logged(L2_CODE), "PML: what was not written is not");
	gone();
	start_ept(EPTP_AD);
	l2_code(l2_stores);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_PML);
	vput(VMCS_PML_ADDRESS, 0x190000);
	vput(VMCS_GUEST_PML_INDEX, 511);
	ept_page(AREA, AREA | 0x337);
	board_put(&b, L1_BITMAPS + 0x70 / 8, 1, 1);
	is(next_exit(), VMEXIT_IO, "PML: one of them is dirty already");
	ok(!logged(AREA) && logged(AREA + 0x1000), "PML: and not logged again");
	gone();
	start_ept(EPTP_AD);
	l2_code(l2_store);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_PML);
	vput(VMCS_PML_ADDRESS, 0x190000);
	vput(VMCS_GUEST_PML_INDEX, 511);
	is(next_exit(), L2_AT(0x70), "PML: L2 writes");
	ok(board_get(&b, 0x190000 + 511 * 8, 8), "PML: the log has an entry");
	gone();
	start_ept(EPTP_AD);
	l2_code(l2_store);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_PML);
	vput(VMCS_PML_ADDRESS, 0x190000);
	vput(VMCS_GUEST_PML_INDEX, 0xffff);
	is(next_exit(), VMEXIT_PML_FULL, "PML: a full log exits before the write");
	gone();
}

static void ve(void)
{
	start_ept(0);
	l2_code(l2_store);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VE);
	vput(VMCS_VIRT_EXCEPTION_INFO, 0x191000);
	ept_page(AREA, AREA | 0x31);
	is(board_run_out(&b, l1, BOARD_PORT, 5000), EXC_VE, "#VE: a convertible violation is L2's exception 20");
	is(board_get(&b, 0x191000, 8), 0xffffffff00000030, "#VE: reason and busy word");
	is(board_get(&b, 0x191018, 8), AREA, "#VE: guest-physical address");
	gone();
	start_ept(0);
	l2_code(l2_store);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VE);
	vput(VMCS_VIRT_EXCEPTION_INFO, 0x191000);
	ept_page(AREA, AREA | 0x31 | 1ull << 63);
	is(next_exit(), VMEXIT_EPT_VIOLATION, "#VE: suppressed by bit 63");
	gone();
	start_ept(0);
	l2_code(l2_store);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VE);
	vput(VMCS_VIRT_EXCEPTION_INFO, 0x191000);
	board_put(&b, 0x191004, 0xffffffff, 4);
	ept_page(AREA, AREA | 0x31);
	is(next_exit(), VMEXIT_EPT_VIOLATION, "#VE: none while the area is busy");
	gone();
	start_ept(0);
	l2_code(l2_store);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VE);
	vput(VMCS_VIRT_EXCEPTION_INFO, 0x191000);
	vput(VMCS_EXCEPTION_BITMAP, 1 << EXC_VE);
	ept_page(AREA, AREA | 0x31);
	is(next_exit(), VMEXIT_EXCEPTION_NMI, "#VE: intercepted by the exception bitmap");
	is(vget(VMCS_VM_EXIT_INTR_INFO), 0x80000314, "#VE: vector 20, no error code");
	gone();
}

static void vmfunc(void)
{
	start_ept(0);
	l2_code(l2_vmfunc);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VMFUNC);
	vput(VMCS_VM_FUNCTION_CONTROL, 1);
	vput(VMCS_EPTP_LIST_ADDRESS, 0x192000);
	board_put(&b, 0x192008, 0, 8);
	is(next_exit(), VMEXIT_VMFUNC, "VMFUNC: an invalid EPT pointer in the list exits");
	board_put(&b, 0x192008, EPT_PML4 | 0x1e, 8);
	is(next_exit(), L2_AT(0x70), "VMFUNC: EPTP switching");
	gone();
}

/* Another EPT: the same but for one page. */
#define OTHER_EPT 0x208000u

static void eptp_switching(void)
{
	start_ept(0);
	for (u32 n = 0; n < 0x4000; n += 8)
		board_put(&b, OTHER_EPT + n, board_get(&b, EPT_PML4 + n, 8), 8);
	board_put(&b, OTHER_EPT, (OTHER_EPT + 0x1000) | 7, 8);
	board_put(&b, OTHER_EPT + 0x1000, (OTHER_EPT + 0x2000) | 7, 8);
	board_put(&b, OTHER_EPT + 0x2000, (OTHER_EPT + 0x3000) | 7, 8);
	board_put(&b, OTHER_EPT + 0x3000 + (AREA >> 12) * 8, (AREA + 0x1000) | 0x37, 8);
	board_put(&b, AREA, 0x11, 1);
	board_put(&b, AREA + 0x1000, 0x22, 1);
	l2_code(l2_vmfunc);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VMFUNC);
	vput(VMCS_VM_FUNCTION_CONTROL, 1);
	vput(VMCS_EPTP_LIST_ADDRESS, 0x192000);
	board_put(&b, 0x192008, OTHER_EPT | 0x1e, 8);
	board_put(&b, L1_BITMAPS + 0x70 / 8, 1, 1);
	is(next_exit(), VMEXIT_IO, "EPTP switching: L2 goes on");
	is(board_get(&b, L1_STACK - 8, 1), 0x22, "EPTP switching: and sees the other page");
	is(vget(VMCS_EPT_POINTER), OTHER_EPT | 0x1e, "EPTP switching: the VMCS has the new pointer");
	gone();
	start_ept(0);
	l2_code(l2_functions);
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VMFUNC);
	vput(VMCS_VM_FUNCTION_CONTROL, 1);
	vput(VMCS_EPTP_LIST_ADDRESS, 0x192000);
	is(next_exit(), VMEXIT_VMFUNC, "EPTP switching: entry 512 exits");
	vput(VMCS_GUEST_RIP, vget(VMCS_GUEST_RIP) + vget(VMCS_VM_EXIT_INSTRUCTION_LEN));
	is(next_exit(), VMEXIT_VMFUNC, "VMFUNC: so does function 1");
	gone();
}

/* L1 injects, or the instruction is the second one: what MTF and the timer do then. */
static void steps_and_time(void)
{
	start();
	l2_code(l2_steps);
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000700);
	is(next_exit(), VMEXIT_MTF, "MTF: injected, it exits at once");
	is(vget(VMCS_GUEST_RIP), L2_CODE, "MTF: before the first instruction");
	gone();
	start();
	l2_code(l2_steps);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_MTF);
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000306);
	is(next_exit(), VMEXIT_MTF, "MTF: after an injected event");
	is(vget(VMCS_GUEST_RIP), BOARD_HANDLERS + EXC_UD * 16, "MTF: at its handler");
	gone();
	start();
	l2_code(l2_steps);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_TIMER);
	vput(VMCS_VMX_PREEMPTION_TIMER_VALUE, 0);
	is(next_exit(), VMEXIT_PREEMPTION_TIMER, "preemption timer: 0 has expired");
	is(vget(VMCS_GUEST_RIP), L2_CODE, "preemption timer: before the first instruction");
	gone();
	start();
	l2_code(l2_steps);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_TIMER);
	vset(VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_TIMER);
	vput(VMCS_VMX_PREEMPTION_TIMER_VALUE, 0xffffffff);
	board_put(&b, L1_BITMAPS + 0x70 / 8, 1, 1);
	is(next_exit(), VMEXIT_IO, "preemption timer: another exit");
	ok(vget(VMCS_VMX_PREEMPTION_TIMER_VALUE) < 0xffffffff, "preemption timer: what is left is saved");
	gone();
	fresh("");
	board_ioctl(&b, KVM_CREATE_IRQCHIP, NULL);
	nest();
	l2_code(l2_halt);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_TIMER);
	vput(VMCS_VMX_PREEMPTION_TIMER_VALUE, 2000000);
	is(next_exit(), VMEXIT_PREEMPTION_TIMER, "preemption timer: it ends HLT");
	is(vget(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_HLT, "preemption timer: the state is saved");
	gone();
}

static void events_of_l1(void)
{
	start();
	l2_code(l2_steps);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_MTF);
	is(next_exit(), VMEXIT_MTF, "MTF: after one instruction");
	is(vget(VMCS_GUEST_RIP), L2_CODE + 1, "MTF: at the next");
	is(next_exit(), VMEXIT_MTF, "MTF: again");
	is(vget(VMCS_GUEST_RIP), L2_CODE + 2, "MTF: and the next");
	gone();

	start();
	l2_code(l2_steps);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_INTR_WINDOW);
	vput(VMCS_GUEST_RFLAGS, 0x202);
	is(next_exit(), VMEXIT_INTERRUPT_WINDOW, "interrupt window: open at entry");
	is(vget(VMCS_GUEST_RIP), L2_CODE, "interrupt window: before the first instruction");
	gone();

	start();
	l2_code(l2_spin);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_TIMER);
	vput(VMCS_VMX_PREEMPTION_TIMER_VALUE, 100000);
	is(next_exit(), VMEXIT_PREEMPTION_TIMER, "preemption timer");
	gone();

	start();
	l2_code(l2_spin);
	vput(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_PLE);
	vput(VMCS_PLE_GAP, 1000000);
	vput(VMCS_PLE_WINDOW, 100000);
	is(next_exit(), VMEXIT_PAUSE, "PAUSE-loop exiting");
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_PAUSE);
	is(next_exit(), VMEXIT_PAUSE, "PAUSE exiting");
	gone();

	start();
	l2_code(l2_halt);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_NMI | PIN_VNMI);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_NMI_WINDOW);
	vput(VMCS_GUEST_INTERRUPTIBILITY_INFO, 8);
	is(next_exit() & 0xff, KVM_EXIT_HLT, "virtual NMIs: no window while L2 blocks them");
	gone();
	start();
	l2_code(l2_steps);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_NMI | PIN_VNMI);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_NMI_WINDOW);
	is(next_exit(), VMEXIT_NMI_WINDOW, "virtual NMIs: NMI window");
	vput(VMCS_CPU_BASED_VM_EXEC_CONTROL, vget(VMCS_CPU_BASED_VM_EXEC_CONTROL) & ~(u64)PROC_NMI_WINDOW);
	is(next_exit(), L2_AT(0x70), "L2 runs");
	board_cpu_ioctl(&b, l1, KVM_NMI, NULL);
	is(next_exit(), VMEXIT_EXCEPTION_NMI, "an NMI exits");
	is(vget(VMCS_VM_EXIT_INTR_INFO), 0x80000202, "with its information");
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000202);
	is(board_run_out(&b, l1, BOARD_PORT, 5000), EXC_NMI, "injected, it is L2's");
	gone();
}

static void injection(void)
{
	start();
	l2_code(l2_steps);
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000306);
	is(board_run_out(&b, l1, BOARD_PORT, 5000), EXC_UD, "injection of an exception");
	gone();
	start();
	l2_code(l2_steps);
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000306);
	vput(VMCS_GUEST_IDTR_LIMIT, 0);
	vput(VMCS_EXCEPTION_BITMAP, 1 << EXC_GP);
	is(next_exit(), VMEXIT_EXCEPTION_NMI, "a fault in its delivery exits");
	is(vget(VMCS_IDT_VECTORING_INFO_FIELD), 0x80000306, "with the injected event as vectoring information");
	is(vget(VMCS_VM_EXIT_INTR_ERROR_CODE), 6 * 8 + 3, "EXT set");
	gone();
}

static void shadows(void)
{
	start();
	l2_code(l2_vmread);
	is(next_exit(), VMEXIT_VMREAD, "VMREAD in L2 exits");
	vput(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_SHADOW_VMCS);
	vput(VMCS_VMREAD_BITMAP, 0x193000);
	vput(VMCS_VMWRITE_BITMAP, 0x193000);
	vput(VMCS_VMCS_LINK_POINTER, 0x194000);
	board_put(&b, 0x194000, VMCS_REVISION | (u32)VMCS_SHADOW, 4);
	board_put(&b, 0x194000 + vmcs_rows[VMCS_GUEST_RIP].offset, 0xabcd, 8);
	is(next_exit(), L2_AT(0x70), "VMCS shadowing: it reads the shadow VMCS");
	gone();

	start();
	l2_code(l2_shadow);
	vput(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_SHADOW_VMCS);
	vput(VMCS_VMREAD_BITMAP, 0x193000);
	vput(VMCS_VMWRITE_BITMAP, 0x193000);
	vput(VMCS_VMCS_LINK_POINTER, 0x194000);
	board_put(&b, 0x193000 + 0x6820 / 8, 1, 1);
	board_put(&b, 0x194000, VMCS_REVISION | (u32)VMCS_SHADOW, 4);
	board_put(&b, 0x194000 + vmcs_rows[VMCS_GUEST_RIP].offset, 0xabcd, 8);
	is(next_exit(), L2_AT(0x70), "VMCS shadowing: VMREAD");
	is(get_rax(), 0xabcd, "VMCS shadowing: the field");
	is(next_exit(), L2_AT(0x71), "VMCS shadowing: VMWRITE");
	is(board_get(&b, 0x194000 + vmcs_rows[VMCS_GUEST_RIP].offset, 8), 0x1234, "VMCS shadowing: in memory");
	is(next_exit(), VMEXIT_VMREAD, "VMCS shadowing: a field whose bit is set exits");
	gone();

	start();
	l2_code(l2_cr0);
	vput(VMCS_CR0_GUEST_HOST_MASK, 4);
	vput(VMCS_CR0_READ_SHADOW, 0);
	is(next_exit(), L2_AT(0x70), "CR0: reading shows the shadow");
	is(next_exit(), VMEXIT_CR_ACCESS, "CR0: changing a bit of L1's exits");
	is(vget(VMCS_EXIT_QUALIFICATION), 0, "CR0: MOV to CR0 from RAX");
	gone();

	start();
	l2_code(l2_tpr);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_TPR_SHADOW);
	vput(VMCS_VIRTUAL_APIC_PAGE_ADDR, 0x195000);
	vput(VMCS_TPR_THRESHOLD, 0);
	is(next_exit(), L2_AT(0x70), "TPR shadow: CR8 is virtual");
	is(board_get(&b, 0x195080, 4), 0x20, "TPR shadow: in the virtual-APIC page");
	gone();
	start();
	l2_code(l2_tpr);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_TPR_SHADOW);
	vput(VMCS_VIRTUAL_APIC_PAGE_ADDR, 0x195000);
	board_put(&b, 0x195080, 0x20, 4);
	vput(VMCS_TPR_THRESHOLD, 2);
	is(next_exit(), L2_AT(0x70), "TPR threshold: not below");
	is(next_exit(), VMEXIT_TPR_BELOW, "TPR threshold: below");
	is(board_get(&b, 0x195080, 4), 0x10, "TPR threshold: after the instruction");
	gone();

	start();
	l2_code(l2_tsc);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_RDTSC);
	is(next_exit(), VMEXIT_RDTSC, "RDTSC exiting");
	gone();
}

int main(void)
{
	ept();
	pml();
	ve();
	vmfunc();
	eptp_switching();
	steps_and_time();
	events_of_l1();
	injection();
	shadows();
	return done_testing();
}
