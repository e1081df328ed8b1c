/* SPDX-License-Identifier: MIT */
/*
 * APIC virtualization: the APIC-access page, register virtualization, virtual-interrupt delivery, x2APIC MSRs, posted
 * interrupts. L2's local APIC is the page at ACCESS; its registers are the page at VAPIC.
 */
#include "nest.h"

#define ACCESS 0x196000u
#define VAPIC 0x197000u
#define DESC 0x198000u		/* posted-interrupt descriptor */
#define HANDLER_AT 0x80
#define NOTIFY_VECTOR 0xf2
#define PORT(n) L2_AT(n)

/* The handler at the end serves every vector that gate() points at it: EOI, then port 0x74. */
#define HANDLER(name) "\n.org " #name " + 0x80; movl $0, 0x1960b0; out %al, $0x74; 1: jmp 1b"
BOARD_ASM(l2_regs, 64, "mov 0x196020, %eax; out %eax, $0x70; movl $7, 0x196300; out %al, $0x71; 1: jmp 1b");
BOARD_ASM(l2_eoi, 64, "movl $0, 0x1960b0; 1: jmp 1b");
BOARD_ASM(l2_apr, 64, "mov 0x196090, %eax; 1: jmp 1b");
BOARD_ASM(l2_tpr, 64, "mov 0x196080, %eax; out %eax, $0x70; movl $0x30, 0x196080; out %al, $0x71; 1: jmp 1b");
BOARD_ASM(l2_sti, 64, "sti; nop; nop; out %al, $0x70; movl $0, 0x196080; nop; out %al, $0x71; 1: jmp 1b"
	HANDLER(l2_sti));
BOARD_ASM(l2_self, 64, "sti; movl $0x40045, 0x196300; nop; out %al, $0x70; 1: jmp 1b" HANDLER(l2_self));
BOARD_ASM(l2_x2apic, 64, "sti; mov $0x808, %ecx; rdmsr; out %eax, $0x70; mov $0x20, %eax; xor %edx, %edx; wrmsr\n"
	"mov $0x83f, %ecx; mov $0x46, %eax; wrmsr; nop; out %al, $0x71; 1: jmp 1b\n"
	".org l2_x2apic + 0x80; mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; out %al, $0x74; 1: jmp 1b");
BOARD_ASM(l2_waits, 64, "sti; out %al, $0x70; 1: pause; jmp 1b" HANDLER(l2_waits));
BOARD_ASM(l2_halts, 64, "out %al, $0x70; sti; hlt; 1: jmp 1b" HANDLER(l2_halts));

static u32 reg(u32 off) { return (u32)board_get(&b, VAPIC + off, 4); }
static void set_reg(u32 off, u32 val) { board_put(&b, VAPIC + off, val, 4); }
static u32 word_of(u8 vector) { return vector / 32 * 0x10u; }
static void request(u8 vector) { set_reg(0x200 + word_of(vector), reg(0x200 + word_of(vector)) | 1u << vector % 32); }
static bool in_service(u8 vector) { return reg(0x100 + word_of(vector)) >> vector % 32 & 1; }
static bool requested(u8 vector) { return reg(0x200 + word_of(vector)) >> vector % 32 & 1; }

static void gate(u8 vector)
{
	board_gate(&b, BOARD_LONG64, vector, SEL_CODE0_64, L2_CODE + HANDLER_AT, GATE_INT32, 0, 0);
}

/* What the guest wrote to a port: after next_exit(). */
static u32 written(void)
{
	struct kvm_run *run = b.cpu[l1].run;

	return *(u32 *)((u8 *)run + run->io.data_offset);
}

static void start(u32 proc, u32 proc2)
{
	fresh("");
	board_ioctl(&b, KVM_CREATE_IRQCHIP, NULL);
	nest();
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, proc);
	vput(VMCS_SECONDARY_VM_EXEC_CONTROL, proc2);
	vput(VMCS_APIC_ACCESS_ADDR, ACCESS);
	vput(VMCS_VIRTUAL_APIC_PAGE_ADDR, VAPIC);
	set_reg(0x20, 0x5000000);
	set_reg(0x80, 0x20);
	board_put(&b, ACCESS + 0x20, 0xdead, 4);
}

static void access_page(void)
{
	start(0, PROC2_VAPIC_ACCESS);
	l2_code(l2_regs);
	is(next_exit(), VMEXIT_APIC_ACCESS, "APIC-access page: a read exits");
	is(vget(VMCS_EXIT_QUALIFICATION), 0x20, "APIC-access page: offset, data read");
	vput(VMCS_GUEST_RIP, vget(VMCS_GUEST_RIP) + vget(VMCS_VM_EXIT_INSTRUCTION_LEN));
	is(next_exit(), PORT(0x70), "APIC-access page: its length is told");
	is(next_exit(), VMEXIT_APIC_ACCESS, "APIC-access page: a write exits");
	is(vget(VMCS_EXIT_QUALIFICATION), 0x1300, "APIC-access page: offset, data write");
	gone();
	start(PROC_TPR_SHADOW, PROC2_VAPIC_ACCESS);
	l2_code(l2_tpr);
	is(next_exit(), PORT(0x70), "TPR shadow: TPR is read from the virtual-APIC page");
	is(written(), 0x20, "TPR shadow: what it holds");
	is(next_exit(), PORT(0x71), "TPR shadow: and written there");
	is(reg(0x80), 0x30, "TPR shadow: the new one");
	gone();
	start(PROC_TPR_SHADOW, PROC2_VAPIC_ACCESS);
	l2_code(l2_regs);
	is(next_exit(), VMEXIT_APIC_ACCESS, "TPR shadow: another register exits");
	gone();
}

static void registers(void)
{
	start(PROC_TPR_SHADOW, PROC2_VAPIC_ACCESS | PROC2_APIC_REGISTER);
	l2_code(l2_regs);
	is(next_exit(), PORT(0x70), "APIC-register virtualization: the ID is read from the virtual-APIC page");
	is(written(), 0x5000000, "APIC-register virtualization: what it holds");
	is(next_exit(), VMEXIT_APIC_WRITE, "APIC-register virtualization: a write to ICR exits");
	is(vget(VMCS_EXIT_QUALIFICATION), 0x300, "APIC-register virtualization: with its offset");
	is(reg(0x300), 7, "APIC-register virtualization: after the write");
	is(next_exit(), PORT(0x71), "APIC-register virtualization: and after the instruction");
	gone();
	start(PROC_TPR_SHADOW, PROC2_VAPIC_ACCESS | PROC2_APIC_REGISTER);
	l2_code(l2_eoi);
	is(next_exit(), VMEXIT_APIC_WRITE, "APIC-register virtualization: EOI without virtual interrupts exits");
	is(vget(VMCS_EXIT_QUALIFICATION), 0xb0, "APIC-register virtualization: with its offset");
	gone();
	start(PROC_TPR_SHADOW, PROC2_VAPIC_ACCESS | PROC2_APIC_REGISTER);
	l2_code(l2_apr);
	is(next_exit(), VMEXIT_APIC_ACCESS, "APIC-register virtualization: a register that has none is an APIC access");
	gone();
}

/* ---- virtual-interrupt delivery ------------------------------------------------------------------------ */

static void start_virtual(u8 vector, u8 tpr)
{
	start(PROC_TPR_SHADOW, PROC2_VAPIC_ACCESS | PROC2_VINTR);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR);
	set_reg(0x80, tpr);
	gate(vector);
	l2_code(l2_sti);
	request(vector);
	vput(VMCS_GUEST_INTR_STATUS, vector);
}

static void virtual_interrupts(void)
{
	start_virtual(0x41, 0);
	is(next_exit(), PORT(0x74), "virtual interrupts: the handler runs without an exit");
	ok(!in_service(0x41) && !requested(0x41), "virtual interrupts: EOI cleared VISR, delivery VIRR");
	is(reg(0xa0), 0, "virtual interrupts: PPR after EOI");
	gone();
	start_virtual(0x41, 0);
	request(0x35);
	vput(VMCS_EOI_EXIT_BITMAP1, 2);
	is(next_exit(), VMEXIT_EOI, "virtual interrupts: EOI exits by its bitmap");
	is(vget(VMCS_EXIT_QUALIFICATION), 0x41, "virtual interrupts: with the vector");
	is(vget(VMCS_GUEST_INTR_STATUS), 0x35, "virtual interrupts: RVI is what is requested next, SVI 0");
	is(reg(0x80) | reg(0xa0), 0, "virtual interrupts: PPR is lowered");
	gone();
	start_virtual(0x41, 0x50);
	is(next_exit(), PORT(0x70), "virtual interrupts: TPR holds one back");
	is(next_exit(), PORT(0x74), "virtual interrupts: which comes when TPR is lowered");
	gone();
	start_virtual(0x41, 0);
	vput(VMCS_GUEST_INTERRUPTIBILITY_INFO, 2);
	vput(VMCS_GUEST_RFLAGS, 0x202);
	is(next_exit(), PORT(0x74), "virtual interrupts: taken after the blocking by MOV SS");
	gone();
	start(PROC_TPR_SHADOW, PROC2_VAPIC_ACCESS | PROC2_VINTR);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR);
	set_reg(0x80, 0);
	gate(0x45);
	l2_code(l2_self);
	is(next_exit(), PORT(0x74), "virtual interrupts: a self-IPI needs no exit");
	gone();
}

static void x2apic(void)
{
	start(PROC_TPR_SHADOW, PROC2_X2APIC | PROC2_VINTR);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR);
	gate(0x46);
	l2_code(l2_x2apic);
	is(next_exit(), PORT(0x70), "x2APIC: RDMSR of TPR");
	is(written(), 0x20, "x2APIC: from the virtual-APIC page");
	is(next_exit(), PORT(0x74), "x2APIC: WRMSR of SELF_IPI and EOI need no exit");
	is(reg(0x80), 0x20, "x2APIC: TPR");
	ok(!in_service(0x46), "x2APIC: EOI");
	gone();
	start(PROC_TPR_SHADOW, PROC2_X2APIC | PROC2_VINTR | PROC2_APIC_REGISTER);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR);
	vput(VMCS_EOI_EXIT_BITMAP1, 1 << 6);
	gate(0x46);
	l2_code(l2_x2apic);
	is(next_exit(), PORT(0x70), "x2APIC: with register virtualization");
	is(next_exit(), VMEXIT_EOI, "x2APIC: EOI exits by its bitmap");
	gone();
}

/* ---- posted interrupts ---------------------------------------------------------------------------------- */

static void interrupt(u8 vector)
{
	struct kvm_lapic_state s = { 0 };
	struct kvm_msi m = { .address_lo = 0xfee00000, .data = vector };

	board_cpu_ioctl(&b, l1, KVM_GET_LAPIC, &s);
	s.regs[0xf0] = (char)0xff;
	s.regs[0xf1] = 1;
	board_cpu_ioctl(&b, l1, KVM_SET_LAPIC, &s);
	board_ioctl(&b, KVM_SIGNAL_MSI, &m);
}

static void start_posted(const u8 *from, const u8 *end)
{
	start(PROC_TPR_SHADOW, PROC2_VAPIC_ACCESS | PROC2_VINTR);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR | PIN_POSTED);
	vset(VMCS_VM_EXIT_CONTROLS, EXIT_ACK_INTR);
	vput(VMCS_POSTED_INTR_NV, NOTIFY_VECTOR);
	vput(VMCS_POSTED_INTR_DESC_ADDR, DESC);
	set_reg(0x80, 0);
	gate(0x61);
	l2_load(from, end);
	is(next_exit(), PORT(0x70), "L2 waits");
	board_put(&b, DESC + 0x61 / 8, 1 << (0x61 % 8), 1);
	board_put(&b, DESC + 32, 1, 8);
}

static void posted(void)
{
	start_posted(l2_waits, l2_waits_end);
	interrupt(NOTIFY_VECTOR);
	is(next_exit(), PORT(0x74), "posted interrupts: L2 gets the posted vector without an exit");
	is(board_get(&b, DESC + 0x61 / 8, 1) | (board_get(&b, DESC + 32, 1) & 1), 0,
	   "posted interrupts: requests and ON are taken");
	interrupt(0x51);
	is(next_exit(), VMEXIT_EXTERNAL_INTERRUPT, "posted interrupts: another vector exits");
	is(vget(VMCS_VM_EXIT_INTR_INFO), 0x80000051, "posted interrupts: acknowledged");
	gone();
	start_posted(l2_halts, l2_halts_end);
	is(board_run(&b, l1, 60), -ETIMEDOUT, "posted interrupts: a halted L2 sleeps");
	interrupt(NOTIFY_VECTOR);
	is(next_exit(), PORT(0x74), "posted interrupts: and is woken");
	gone();
}

int main(void)
{
	access_page();
	registers();
	virtual_interrupts();
	x2apic();
	posted();
	return done_testing();
}
