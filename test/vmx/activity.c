/* SPDX-License-Identifier: MIT */
/*
 * L2 entered into an activity state: HLT, shutdown, wait-for-SIPI; what ends each, what it blocks.
 * [SDM3C "Activity State", "Other Causes of VM Exits", "Special Features of VM Entry"]
 */
#include "nest.h"

BOARD_ASM(l2_ports, 64, "out %al, $0x70; 1: jmp 1b");
#define QUIET 60 /* ms in which nothing happens */

static void start(enum vmx_activity state, u32 pin)
{
	fresh("");
	board_ioctl(&b, KVM_CREATE_IRQCHIP, NULL);
	nest();
	l2_code(l2_ports);
	vput(VMCS_GUEST_ACTIVITY_STATE, state);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, pin);
}

static void sleeps(const char *what)
{
	is(board_run(&b, l1, QUIET), -ETIMEDOUT, "%s: L2 sleeps", what);
}

static u32 mp_state(void)
{
	struct kvm_mp_state s = { 0 };

	board_cpu_ioctl(&b, l1, KVM_GET_MP_STATE, &s);
	return s.mp_state;
}

/* An interrupt at the local APIC, which software has enabled. */
static void interrupt(void)
{
	struct kvm_lapic_state s = { 0 };
	struct kvm_msi m = { .address_lo = 0xfee00000, .data = 0x50 };

	board_cpu_ioctl(&b, l1, KVM_GET_LAPIC, &s);
	s.regs[0xf0] = (char)0xff;
	s.regs[0xf1] = 1;
	board_cpu_ioctl(&b, l1, KVM_SET_LAPIC, &s);
	board_ioctl(&b, KVM_SIGNAL_MSI, &m);
}

static void latch_init(void)
{
	struct kvm_vcpu_events e = events(l1);

	e.flags = KVM_VCPUEVENT_VALID_SMM;
	e.smi.latched_init = 1;
	board_cpu_ioctl(&b, l1, KVM_SET_VCPU_EVENTS, &e);
}

/* As if another processor had sent it. */
static void sipi(u8 vector)
{
	struct kvm_mp_state s = { .mp_state = KVM_MP_STATE_SIPI_RECEIVED };
	struct kvm_vcpu_events e = events(l1);

	e.flags = KVM_VCPUEVENT_VALID_SIPI_VECTOR;
	e.sipi_vector = vector;
	board_cpu_ioctl(&b, l1, KVM_SET_VCPU_EVENTS, &e);
	board_cpu_ioctl(&b, l1, KVM_SET_MP_STATE, &s);
}

static void offered(void)
{
	start(4, 0);
	is(get_msr(l1, 0x485) >> 6 & 7, 7, "IA32_VMX_MISC: three activity states");
	is(next_exit(), 0x80000021, "a fourth does not exist");
	gone();
}

static void halt(void)
{
	start(ACTIVITY_HLT, PIN_EXT_INTR);
	sleeps("HLT");
	interrupt();
	is(next_exit(), VMEXIT_EXTERNAL_INTERRUPT, "HLT: an interrupt exits");
	is(vget(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_HLT, "HLT: the state is saved");
	gone();
}

static void shutdown_blocks(void)
{
	start(ACTIVITY_SHUTDOWN, PIN_EXT_INTR);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_INTR_WINDOW);
	vput(VMCS_GUEST_RFLAGS, 0x202);
	sleeps("shutdown");
	is(mp_state(), KVM_MP_STATE_HALTED, "shutdown: to user space it is HLT");
	interrupt();
	sleeps("shutdown, an interrupt, interrupt-window exiting");
	gone();
	start(ACTIVITY_SHUTDOWN, PIN_EXT_INTR);
	sleeps("shutdown");
	latch_init();
	is(next_exit(), VMEXIT_INIT, "shutdown: INIT exits");
	is(vget(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_SHUTDOWN, "shutdown: the state is saved");
	gone();
}

static void shutdown_ends(void)
{
	start(ACTIVITY_SHUTDOWN, PIN_NMI);
	sleeps("shutdown");
	board_cpu_ioctl(&b, l1, KVM_NMI, NULL);
	is(next_exit(), VMEXIT_EXCEPTION_NMI, "shutdown: an NMI exits");
	is(vget(VMCS_VM_EXIT_INTR_INFO), 0x80000202, "shutdown: with its information");
	is(vget(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_SHUTDOWN, "shutdown: the state is saved");
	is(board_run(&b, l1, QUIET), -ETIMEDOUT, "shutdown: and entered again");
	gone();
	start(ACTIVITY_SHUTDOWN, 0);
	sleeps("shutdown");
	board_cpu_ioctl(&b, l1, KVM_NMI, NULL);
	is(board_run_out(&b, l1, BOARD_PORT, 5000), EXC_NMI, "shutdown: an NMI that does not exit is L2's");
	gone();
	start(ACTIVITY_SHUTDOWN, PIN_NMI | PIN_VNMI);
	vset(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_NMI_WINDOW);
	is(next_exit(), VMEXIT_NMI_WINDOW, "shutdown: an NMI window exits");
	gone();
	start(ACTIVITY_SHUTDOWN, PIN_TIMER);
	vput(VMCS_VMX_PREEMPTION_TIMER_VALUE, 1000);
	is(next_exit(), VMEXIT_PREEMPTION_TIMER, "shutdown: so does the preemption timer");
	is(vget(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_SHUTDOWN, "shutdown: the state is saved");
	gone();
	start(ACTIVITY_SHUTDOWN, 0);
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000202);
	is(board_run_out(&b, l1, BOARD_PORT, 5000), EXC_NMI, "shutdown: an injected NMI wakes L2");
	gone();
	start(ACTIVITY_SHUTDOWN, 0);
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000306);
	is(next_exit(), 0x80000021, "shutdown: #UD cannot be injected");
	gone();
}

static void waiting(void)
{
	start(ACTIVITY_SIPI, PIN_EXT_INTR | PIN_NMI | PIN_TIMER);
	vput(VMCS_VMX_PREEMPTION_TIMER_VALUE, 1000);
	sleeps("wait-for-SIPI, the preemption timer");
	is(mp_state(), KVM_MP_STATE_INIT_RECEIVED, "wait-for-SIPI: to user space it is INIT_RECEIVED");
	interrupt();
	sleeps("wait-for-SIPI, an interrupt");
	latch_init();
	sleeps("wait-for-SIPI, INIT");
	sipi(0x9a);
	is(next_exit(), VMEXIT_SIPI, "wait-for-SIPI: a SIPI exits");
	is(vget(VMCS_EXIT_QUALIFICATION), 0x9a, "wait-for-SIPI: its vector is the qualification");
	is(vget(VMCS_GUEST_ACTIVITY_STATE), ACTIVITY_SIPI, "wait-for-SIPI: the state is saved");
	is(vget(VMCS_GUEST_RIP), L2_CODE, "wait-for-SIPI: and L2 has not run");
	gone();
	start(ACTIVITY_SIPI, PIN_NMI);
	sleeps("wait-for-SIPI");
	board_cpu_ioctl(&b, l1, KVM_NMI, NULL);
	sleeps("wait-for-SIPI, an NMI");
	sipi(0);
	is(board_run_out(&b, l1, BOARD_PORT, 5000), EXC_NMI, "wait-for-SIPI: which L1 gets after the exit");
	gone();
	start(ACTIVITY_SIPI, 0);
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000202);
	is(next_exit(), 0x80000021, "wait-for-SIPI: nothing can be injected");
	gone();
}

static void migrated(enum vmx_activity state, const char *name)
{
	static struct nested_image i, none = {
		.s = { .size = 128, .hdr.vmx = { .vmxon_pa = ~0ull, .vmcs12_pa = ~0ull } }
	};
	struct kvm_mp_state s;

	start(state, PIN_NMI);
	sleeps(name);
	board_cpu_ioctl(&b, l1, KVM_GET_MP_STATE, &s);
	is(get_nested(&i), 0, "%s: state out", name);
	is(set_nested(&none), 0, "%s: L2 left", name);
	is(set_nested(&i), 0, "%s: state in", name);
	board_cpu_ioctl(&b, l1, KVM_SET_MP_STATE, &s);
	sleeps(name);
	if (state == ACTIVITY_SIPI)
		sipi(7);
	else
		board_cpu_ioctl(&b, l1, KVM_NMI, NULL);
	is(next_exit(), state == ACTIVITY_SIPI ? VMEXIT_SIPI : VMEXIT_EXCEPTION_NMI, "%s: ends as it would have", name);
	gone();
}

int main(void)
{
	offered();
	halt();
	shutdown_blocks();
	shutdown_ends();
	waiting();
	migrated(ACTIVITY_SHUTDOWN, "shutdown, migrated");
	migrated(ACTIVITY_SIPI, "wait-for-SIPI, migrated");
	return done_testing();
}
