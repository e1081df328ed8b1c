/* SPDX-License-Identifier: MIT */
/* What a notify exit leaves behind, and what it must not follow from: statements N40 to N43. */
#include "vm.h"

#define DROP "intercepts=drop,clock=virtual"
#define ERROR DROP ",notify-vmexit=internal-error"

static void limit(void)
{
	struct kvm_run *run;
	char lines[65536];
	int cpu, fd;

	fresh(DROP ",notify-limit=3");
	enable_notify(0, NOTIFY_ON);
	fd = casement_departures(b.vm, CASEMENT_JSON);
	cpu = ac_loop();
	is(board_run(&b, cpu, 5000), KVM_EXIT_INTERNAL_ERROR, "N40 the third exit in a row stops the vCPU");
	run = b.cpu[cpu].run;
	ok(run->internal.suberror == KVM_INTERNAL_ERROR_DELIVERY_EV && run->internal.data[1] == 75,
	   "N40 with an exit of its own: exit reason 75 in the error's data");
	is(stat_of(cpu, "notify_window_exits", 0), 3, "N40 not sooner");
	departures(fd, lines, sizeof(lines));
	ok(strstr(lines, "\"kind\":\"notify-limit\""), "N40 and is recorded");
	close(fd);
	gone();
}

BOARD_ASM(stepped, 32, "1: nop; jmp 1b");
static void single_step(void)
{
	const struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
	int cpu, steps = 0;

	fresh("intercepts=drop,notify-threshold=0");
	enable_notify(0, NOTIFY_ON_USER);
	cpu = new_cpu(BOARD_PROT32);
	board_code(&b, cpu, stepped);
	is(board_cpu_ioctl(&b, cpu, KVM_SET_GUEST_DEBUG, &d), 0, "N41 single-stepped by user space");
	while (steps < 5000 && board_run(&b, cpu, 1000) == KVM_EXIT_DEBUG)
		steps++;
	is(steps, 5000, "N41 each step is a boundary: window 0 never runs out");
	gone();
}

/* Two exits of the same loop; the qualification as user space sees it. */
static void left_behind(void)
{
	u64 qual[2], rf;
	struct kvm_regs r;
	int cpu;

	for (int i = 0; i < 2; i++) {
		fresh(DROP);
		enable_notify(0, NOTIFY_ON_USER);
		cpu = ac_loop();
		board_flags(&b, cpu, i ? 1 << 16 : 0);
		board_get_regs(&b, cpu, &r);
		rf = r.rflags & 1 << 16;
		is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N42 an exit with RF = %d", i);
		board_get_regs(&b, cpu, &r);
		is(r.rflags & 1 << 16, rf, "N42 RF is what it was");
		ok(!(events(cpu).interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS) && !events(cpu).exception.pending,
		   "N42 nothing is held by MOV SS, no debug exception is pending");
		gone();
	}
	for (int i = 0; i < 2; i++) {
		fresh(i ? ERROR ",notify-threshold=1000" : ERROR);
		cpu = ac_loop();
		is(board_run(&b, cpu, 5000), KVM_EXIT_INTERNAL_ERROR, "N42 the qualification can be seen");
		qual[i] = b.cpu[cpu].run->internal.data[2];
		gone();
	}
	ok(qual[0] != qual[1], "N42 its undefined bits differ: %#llx, %#llx", (unsigned long long)qual[0],
	   (unsigned long long)qual[1]);
	is((qual[0] | qual[1]) & 0x1001, 0, "N42 the defined ones are clear");
}

/* Exit-reason bit 25 needs an exit control that this processor does not have, as it has no shadow stacks. */
static void shadow_stack(void)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { .head.nmsrs = 1, .e = { .index = 0x483 } };
	int cpu;

	fresh("");
	cpu = new_cpu(BOARD_LONG64);
	is(board_cpu_ioctl(&b, cpu, KVM_GET_MSRS, &m), 1, "N43 the VM-exit controls are told");
	is(m.e.data >> 63, 0, "N43 no secondary VM-exit controls, so none for a prematurely busy shadow stack");
	gone();
}

int main(void)
{
	limit();
	single_step();
	left_behind();
	shadow_stack();
	return done_testing();
}
