/* SPDX-License-Identifier: MIT */
/* KVM_CAP_X86_TRIPLE_FAULT_EVENT: statements T01 to T16, and the flow of the notify exit's authors. */
#include "vm.h"

BOARD_ASM(spin, 32, "1: jmp 1b");
BOARD_ASM(hlt_spin, 32, "sti; hlt; 1: jmp 1b");
BOARD_ASM(idt_gone, 32, "lidt 0x30000; ud2");

static int cpu;
static char lines[65536], seen[1024];

static void begin(const char *options, bool enable)
{
	fresh(options);
	cpu = new_cpu(BOARD_PROT32);
	board_code(&b, cpu, spin);
	if (enable)
		board_enable_cap(&b, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
}

static int set(u32 flags, u8 pending)
{
	struct kvm_vcpu_events e = events(cpu);

	e.flags = flags;
	e.triple_fault.pending = pending;
	return board_cpu_ioctl(&b, cpu, KVM_SET_VCPU_EVENTS, &e);
}

static bool pending(void)
{
	return events(cpu).triple_fault.pending;
}

static void surface(void)
{
	begin("", false);
	is(board_ioctl(&b, KVM_CHECK_EXTENSION, (void *)KVM_CAP_X86_TRIPLE_FAULT_EVENT), 1, "T01 always there");
	ok(!(events(cpu).flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !pending(), "T01 off: no flag, no byte");
	is(board_enable_cap(&b, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1), 0, "T02 on");
	ok((events(cpu).flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !pending(), "T02 the flag, not pending");
	is(board_enable_cap(&b, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 0), 0, "T02 off again");
	ok(!(events(cpu).flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT), "T02 the flag disappears");
	gone();
}

/* The same call sets an NMI pending and a #UD injected. */
static int refused(u32 extra)
{
	struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | extra };

	e.nmi.pending = 1;
	e.exception.injected = 1;
	e.exception.nr = 6;
	e.triple_fault.pending = 1;
	return board_cpu_ioctl(&b, cpu, KVM_SET_VCPU_EVENTS, &e);
}

static void atomicity(void)
{
	begin("", false);
	is(refused(KVM_VCPUEVENT_VALID_TRIPLE_FAULT), -EINVAL, "T03 the flag while the capability is off");
	ok(events(cpu).nmi.pending && events(cpu).exception.injected, "T03 parity: the rest of the call was applied");
	gone();
	begin("fidelity=strict", false);
	is(refused(KVM_VCPUEVENT_VALID_TRIPLE_FAULT), -EINVAL, "T04 strict: refused");
	ok(!events(cpu).nmi.pending && !events(cpu).exception.injected, "T04 strict: nothing was applied");
	gone();
	begin("", true);
	is(refused(KVM_VCPUEVENT_VALID_TRIPLE_FAULT << 1), -EINVAL, "T05 an unknown flag");
	ok(!events(cpu).nmi.pending && !events(cpu).exception.injected && !pending(), "T05 nothing was applied");
	gone();
}

static void one_shot(void)
{
	begin("", true);
	is(set(KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 1), 0, "T06 set");
	ok(pending(), "T06 it is pending");
	ok(pending(), "T06 reading it does not take it");
	b.cpu[cpu].run->immediate_exit = 1;
	is(board_cpu_ioctl(&b, cpu, KVM_RUN, NULL), -EINTR, "T06 immediate_exit");
	ok(pending(), "T06 still pending");
	b.cpu[cpu].run->immediate_exit = 0;
	is(board_run(&b, cpu, 2000), KVM_EXIT_SHUTDOWN, "T07 KVM_RUN ends in a shutdown");
	ok(!pending(), "T07 one shot");
	is(board_run(&b, cpu, 30), -ETIMEDOUT, "T07 the vCPU goes on");
	is(rip(cpu), board_code_at(cpu), "T07 where it was");
	set(KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 1);
	set(KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 0);
	is(board_run(&b, cpu, 30), -ETIMEDOUT, "T11 set and cleared: nothing happens");
	set(KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 1);
	is(set(0, 0), 0, "T12 a call without the flag");
	ok(pending(), "T12 leaves the request alone");
	is(board_run(&b, cpu, 2000), KVM_EXIT_SHUTDOWN, "T12 which is served");
	gone();
}

static void order(void)
{
	begin("", true);
	board_cpu_ioctl(&b, cpu, KVM_NMI, NULL);
	board_cpu_ioctl(&b, cpu, KVM_SMI, NULL);
	set(KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 1);
	is(board_run(&b, cpu, 2000), KVM_EXIT_SHUTDOWN, "T13 before a pending NMI and SMI");
	ok(events(cpu).nmi.pending && events(cpu).smi.pending, "T13 which are still pending");
	gone();
	begin("", true);
	board_code(&b, cpu, hlt_spin);
	is(board_run(&b, cpu, 2000), KVM_EXIT_HLT, "halted");
	set(KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 1);
	is(board_run(&b, cpu, 2000), KVM_EXIT_SHUTDOWN, "a halted vCPU is shut down as well");
	gone();
}

/* Everything the first vCPU has, given to one that has never run. */
static void migrate(void)
{
	struct kvm_vcpu_events e;
	struct kvm_sregs s;
	struct kvm_regs r;

	begin("", true);
	board_run(&b, cpu, 20);
	set(KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 1);
	e = events(cpu);
	board_get_regs(&b, cpu, &r);
	board_get_sregs(&b, cpu, &s);
	gone();
	begin("", true);
	board_set_sregs(&b, cpu, &s);
	board_set_regs(&b, cpu, &r);
	is(board_cpu_ioctl(&b, cpu, KVM_SET_VCPU_EVENTS, &e), 0, "T16 a pending request moves to another vCPU");
	is(board_run(&b, cpu, 2000), KVM_EXIT_SHUTDOWN, "T16 and fires there");
	is(board_run(&b, cpu, 30), -ETIMEDOUT, "T16 once");
	gone();
}

static void hardware(void)
{
	begin("", true);
	board_code(&b, cpu, idt_gone);
	is(board_run(&b, cpu, 2000), KVM_EXIT_SHUTDOWN, "L07 a fault in #DF is a shutdown");
	ok(!pending(), "L07 which the request does not show");
	gone();
}

/* What the authors of the series agreed on: the host hears of the invalid context, asks for the end, sees it. */
static void seed_flow(void)
{
	int fd;

	fresh("intercepts=drop,clock=virtual");
	board_enable_cap(&b, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
	enable_notify(0, NOTIFY_ON_USER);
	fd = casement_departures(b.vm, CASEMENT_JSON);
	cpu = ac_loop();
	is(casement_inject(b.vm, "context-invalid:flag", NULL, 0), 0,
	   "flow: the next notify exit has an invalid context");
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "flow: the notify exit");
	is(b.cpu[cpu].run->notify.flags, KVM_NOTIFY_CONTEXT_INVALID, "flow: says so");
	is(set(KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 1), 0, "flow: user space asks for a triple fault");
	is(board_run(&b, cpu, 5000), KVM_EXIT_SHUTDOWN, "flow: the shutdown");
	departures(fd, lines, sizeof(lines));
	kinds(lines, seen, sizeof(seen));
	is_str(seen, "inject-context-invalid notify-invalid triple-fault-request",
	       "flow: three departures in this order");
	is(stat_of(-1, "departures", 1), 1, "flow: and in the statistics");
	close(fd);
	gone();
}

int main(void)
{
	surface();
	atomicity();
	one_shot();
	order();
	migrate();
	hardware();
	seed_flow();
	return done_testing();
}
