/* SPDX-License-Identifier: MIT */
/*
 * Capabilities: what KVM_CHECK_EXTENSION answers for every row of spec/kvm_cap.def, and what KVM_ENABLE_CAP takes
 * and does. A row without an expectation here, or without a test where it can be enabled, fails.
 */
#include <sched.h>

#include "api.h"

#define ANY -1		/* > 0, depends on the host */
#define MAYBE -2	/* >= 0, depends on the host */

/* Values as in Linux 6.1, arch/x86/kvm/x86.c and virt/kvm/kvm_main.c. */
static const struct expected {
	int cap;
	long value;
} expected[] = {
	{ KVM_CAP_IRQCHIP, 1 }, { KVM_CAP_HLT, 1 }, { KVM_CAP_MMU_SHADOW_CACHE_CONTROL, 1 },
	{ KVM_CAP_USER_MEMORY, 1 }, { KVM_CAP_SET_TSS_ADDR, 1 }, { KVM_CAP_VAPIC, 1 }, { KVM_CAP_EXT_CPUID, 1 },
	{ KVM_CAP_EXT_EMUL_CPUID, 1 }, { KVM_CAP_CLOCKSOURCE, 1 }, { KVM_CAP_NR_VCPUS, ANY },
	{ KVM_CAP_NR_MEMSLOTS, 32764 }, { KVM_CAP_PIT, 1 }, { KVM_CAP_NOP_IO_DELAY, 1 }, { KVM_CAP_MP_STATE, 1 },
	{ KVM_CAP_COALESCED_MMIO, 2 }, { KVM_CAP_SYNC_MMU, 1 }, { KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1 },
	{ KVM_CAP_USER_NMI, 1 }, { KVM_CAP_SET_GUEST_DEBUG, 1 }, { KVM_CAP_REINJECT_CONTROL, 1 },
	{ KVM_CAP_IRQ_ROUTING, 4096 }, { KVM_CAP_IRQ_INJECT_STATUS, 1 }, { KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1 },
	{ KVM_CAP_MCE, 32 }, { KVM_CAP_IRQFD, 1 }, { KVM_CAP_PIT2, 1 }, { KVM_CAP_SET_BOOT_CPU_ID, 1 },
	{ KVM_CAP_PIT_STATE2, 1 }, { KVM_CAP_IOEVENTFD, 1 }, { KVM_CAP_SET_IDENTITY_MAP_ADDR, 1 },
	{ KVM_CAP_ADJUST_CLOCK, 14 }, { KVM_CAP_INTERNAL_ERROR_DATA, 1 }, { KVM_CAP_VCPU_EVENTS, 1 },
	{ KVM_CAP_DEBUGREGS, 1 }, { KVM_CAP_X86_ROBUST_SINGLESTEP, 1 }, { KVM_CAP_ENABLE_CAP, 1 },
	{ KVM_CAP_XSAVE, 1 }, { KVM_CAP_XCRS, 1 }, { KVM_CAP_TSC_CONTROL, 1 }, { KVM_CAP_GET_TSC_KHZ, 1 },
	{ KVM_CAP_MAX_VCPUS, ANY }, { KVM_CAP_TSC_DEADLINE_TIMER, 1 }, { KVM_CAP_KVMCLOCK_CTRL, 1 },
	{ KVM_CAP_SIGNAL_MSI, 1 }, { KVM_CAP_READONLY_MEM, 1 }, { KVM_CAP_IRQFD_RESAMPLE, 1 },
	{ KVM_CAP_IOAPIC_POLARITY_IGNORED, 1 }, { KVM_CAP_ENABLE_CAP_VM, 1 }, { KVM_CAP_IOEVENTFD_NO_LENGTH, 1 },
	{ KVM_CAP_CHECK_EXTENSION_VM, 1 }, { KVM_CAP_DISABLE_QUIRKS, 1 }, { KVM_CAP_MULTI_ADDRESS_SPACE, 2 },
	{ KVM_CAP_GUEST_DEBUG_HW_BPS, 0 }, { KVM_CAP_X86_SMM, 1 }, { KVM_CAP_SPLIT_IRQCHIP, 1 },
	{ KVM_CAP_IOEVENTFD_ANY_LENGTH, 1 }, { KVM_CAP_MAX_VCPU_ID, ANY }, { KVM_CAP_X2APIC_API, 3 },
	{ KVM_CAP_IMMEDIATE_EXIT, 1 }, { KVM_CAP_X86_DISABLE_EXITS, 15 }, { KVM_CAP_SYNC_REGS, 7 },
	{ KVM_CAP_GET_MSR_FEATURES, 1 }, { KVM_CAP_MSR_PLATFORM_INFO, 1 }, { KVM_CAP_EXCEPTION_PAYLOAD, 1 },
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3 }, { KVM_CAP_COALESCED_PIO, 1 }, { KVM_CAP_HALT_POLL, 1 },
	{ KVM_CAP_LAST_CPU, 1 }, { KVM_CAP_SMALLER_MAXPHYADDR, 1 }, { KVM_CAP_X86_USER_SPACE_MSR, 1 },
	{ KVM_CAP_X86_MSR_FILTER, 1 }, { KVM_CAP_STEAL_TIME, 1 }, { KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1 },
	{ KVM_CAP_SET_GUEST_DEBUG2, 0x1f0003 }, { KVM_CAP_SREGS2, 1 }, { KVM_CAP_EXIT_HYPERCALL, 1 << 12 },
	{ KVM_CAP_BINARY_STATS_FD, 1 }, { KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1 }, { KVM_CAP_VCPU_ATTRIBUTES, 1 },
	{ KVM_CAP_XSAVE2, ANY }, { KVM_CAP_SYS_ATTRIBUTES, 1 }, { KVM_CAP_VM_TSC_CONTROL, 1 },
	{ KVM_CAP_DISABLE_QUIRKS2, 0x7f }, { KVM_CAP_SYSTEM_EVENT_DATA, 1 }, { KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1 },
	{ KVM_CAP_DIRTY_LOG_RING, 65536 * 16 }, { KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 65536 * 16 },
	{ KVM_CAP_X86_NOTIFY_VMEXIT, MAYBE }, { KVM_CAP_X86_BUS_LOCK_EXIT, MAYBE }, { KVM_CAP_NESTED_STATE, MAYBE },
};

static const struct row {
	int cap;
	const char *name;
} rows[] = {
#define CAP(name, value) { name, #name },
#include "spec/kvm_cap.def"
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct expected *expect(int cap)
{
	for (size_t i = 0; i < COUNT(expected); i++)
		if (expected[i].cap == cap)
			return &expected[i];
	return NULL;
}

static bool as_expected(long got, long want)
{
	return want == ANY ? got > 0 : want == MAYBE ? got >= 0 : got == want;
}

static void values(void)
{
	int sys = open_sys(), vm = open_vm(sys);
	bool row[400] = { false };
	int wrong = 0;

	for (size_t i = 0; i < COUNT(rows); i++) {
		const struct expected *e = expect(rows[i].cap);
		long got = call(sys, KVM_CHECK_EXTENSION, rows[i].cap);

		row[rows[i].cap] = true;
		if (!e)
			ok(false, "%s has an expected value", rows[i].name);
		else
			ok(as_expected(got, e->value), "%s is %ld", rows[i].name, got);
		is(call(vm, KVM_CHECK_EXTENSION, rows[i].cap), got, "%s, asked of a VM", rows[i].name);
	}
	for (int cap = 0; cap < 400; cap++)
		wrong += !row[cap] && call(vm, KVM_CHECK_EXTENSION, cap) != 0;
	is(wrong, 0, "every other number is 0");
	ok(call(sys, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2) >= 4096, "KVM_CAP_XSAVE2 holds a struct kvm_xsave");
	ok(call(sys, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS) >= call(sys, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS),
	   "KVM_CAP_MAX_VCPUS is not below the recommended number");
	ok(call(sys, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID) >= call(sys, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS),
	   "ids go at least as far");
}

/* ---- KVM_ENABLE_CAP ----------------------------------------------------------------------------------------- */

static int fresh_vm(void)
{
	return open_vm(open_sys());
}

/* Those that only take a mask: every valid bit, and one more. */
static const struct mask {
	uint32_t cap;
	uint64_t valid;
} masks[] = {
	{ KVM_CAP_DISABLE_QUIRKS2, 0x7f },
	{ KVM_CAP_X2APIC_API, 3 },
	{ KVM_CAP_X86_DISABLE_EXITS, 15 },
	{ KVM_CAP_X86_USER_SPACE_MSR, 7 },
	{ KVM_CAP_EXIT_HYPERCALL, 1 << 12 },
	{ KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1 },
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3 },
};

static void t_masks(void)
{
	for (size_t i = 0; i < COUNT(masks); i++) {
		uint64_t above = (masks[i].valid | (masks[i].valid - 1)) + 1;
		struct kvm_enable_cap c = { .cap = masks[i].cap, .flags = 1, .args = { masks[i].valid } };
		int vm = fresh_vm();

		is(enable(vm, masks[i].cap, masks[i].valid), 0, "capability %u: all of %#lx", masks[i].cap,
		   (unsigned long)masks[i].valid);
		is(enable(vm, masks[i].cap, 0), 0, "none");
		is_errno(enable(vm, masks[i].cap, above), EINVAL, "and not %#lx", (unsigned long)above);
		is_errno(call(vm, KVM_ENABLE_CAP, &c), EINVAL, "flags");
	}
	is_errno(enable(fresh_vm(), KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 2), EINVAL, "initially set, without the log");
	is(enable(fresh_vm(), KVM_CAP_DISABLE_QUIRKS, ~0ull), 0, "the old KVM_CAP_DISABLE_QUIRKS takes anything");
	is(enable(fresh_vm(), KVM_CAP_HALT_POLL, 100000), 0, "KVM_CAP_HALT_POLL");
	is_errno(enable(fresh_vm(), KVM_CAP_HALT_POLL, 1ull << 32), EINVAL, "a 64-bit time");
}

static void t_split_irqchip(void)
{
	int vm = fresh_vm();

	is_errno(enable(vm, KVM_CAP_SPLIT_IRQCHIP, 4097), EINVAL, "pins");
	is(enable(vm, KVM_CAP_SPLIT_IRQCHIP, 24), 0, "24 pins");
	is_errno(enable(vm, KVM_CAP_SPLIT_IRQCHIP, 24), EEXIST, "twice");
	vm = fresh_vm();
	open_vcpu(vm, 0);
	is_errno(enable(vm, KVM_CAP_SPLIT_IRQCHIP, 24), EEXIST, "after a vCPU");
}

static void t_max_vcpu_id(void)
{
	int vm = fresh_vm();

	is_errno(enable(vm, KVM_CAP_MAX_VCPU_ID, 1 << 20), EINVAL, "more than there are");
	is(enable(vm, KVM_CAP_MAX_VCPU_ID, 5), 0, "5");
	is(enable(vm, KVM_CAP_MAX_VCPU_ID, 5), 0, "the same again");
	is_errno(enable(vm, KVM_CAP_MAX_VCPU_ID, 6), EINVAL, "another");
	is_errno(call(vm, KVM_CREATE_VCPU, 5), EINVAL, "ids end below it");
	ok(call(vm, KVM_CREATE_VCPU, 4) >= 0, "the last one");
}

static void t_platform_info(void)
{
	/* mov ecx,0ceh; rdmsr; hlt — #GP: out 13h,al */
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0x66, 0xb9, 0xce, 0, 0, 0, 0x0f, 0x32, 0xf4);
	memcpy(g.mem + 0x500, "\xe6\x0d\xf4", 3);
	memcpy(g.mem + 13 * 4, "\x00\x05\x00\x00", 4);
	run(&g);
	is(g.run->exit_reason, KVM_EXIT_HLT, "a guest may read MSR_PLATFORM_INFO");
	is(enable(g.vm, KVM_CAP_MSR_PLATFORM_INFO, 0), 0, "until told otherwise");
	set_real(g.vcpu, CODE);
	run(&g);
	is(g.run->exit_reason, KVM_EXIT_IO, "then it is #GP");
	free_guest(&g);
}

static void t_disable_exits(void)
{
	static const uint8_t mwait[] = { 0x66, 0x31, 0xc0, 0x66, 0x31, 0xc9, 0x66, 0x31, 0xd2, 0x0f, 0x01, 0xc8, 0x0f,
					 0x01, 0xc9, 0xf4 };
	struct guest g;

	new_guest(&g, NO_CHIP, mwait, sizeof(mwait));
	is(enable(g.vm, KVM_CAP_X86_DISABLE_EXITS, 15), 0, "everything stays in the guest");
	is(run(&g), 0, "MONITOR, MWAIT");
	is(g.run->exit_reason, KVM_EXIT_HLT, "HLT still exits without a local APIC");
	free_guest(&g);
}

static void t_user_space_msr(void)
{
	struct guest g;

	/* mov ecx,0deadh; rdmsr; hlt */
	NEW_GUEST(&g, NO_CHIP, 0x66, 0xb9, 0xad, 0xde, 0, 0, 0x0f, 0x32, 0xf4);
	memcpy(g.mem + 0x500, "\xe6\x0d\xf4", 3);
	memcpy(g.mem + 13 * 4, "\x00\x05\x00\x00", 4);
	is(enable(g.vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN), 0, "unknown MSRs to user space");
	is(run(&g), 0, "RDMSR");
	is(g.run->exit_reason, KVM_EXIT_X86_RDMSR, "exits");
	is(g.run->msr.reason, KVM_MSR_EXIT_REASON_UNKNOWN, "reason");
	g.run->msr.error = 1;
	is(run(&g), 0, "user space refuses");
	is(g.run->exit_reason, KVM_EXIT_IO, "#GP's handler runs");
	free_guest(&g);
}

static void t_exit_hypercall(void)
{
	struct kvm_regs r;
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0x0f, 0x01, 0xc1, 0xf4); /* vmcall; hlt */
	call(g.vcpu, KVM_GET_REGS, &r);
	r.rax = 12; /* KVM_HC_MAP_GPA_RANGE */
	r.rbx = 0x4000;
	r.rcx = 1;
	r.rdx = 0;
	call(g.vcpu, KVM_SET_REGS, &r);
	run(&g);
	is(g.run->exit_reason, KVM_EXIT_HLT, "an unknown hypercall returns to the guest");
	is(enable(g.vm, KVM_CAP_EXIT_HYPERCALL, 1 << 12), 0, "KVM_HC_MAP_GPA_RANGE to user space");
	r.rip = CODE;
	call(g.vcpu, KVM_SET_REGS, &r);
	is(run(&g), 0, "VMCALL");
	if (is(g.run->exit_reason, KVM_EXIT_HYPERCALL, "exits")) {
		ok(g.run->hypercall.nr == 12 && g.run->hypercall.args[0] == 0x4000, "with its arguments");
		g.run->hypercall.ret = 77;
		run(&g);
		call(g.vcpu, KVM_GET_REGS, &r);
		is(r.rax, 77, "RAX has the answer");
	}
	free_guest(&g);
}

static void t_payload(void)
{
	struct kvm_vcpu_events e;
	int vm = fresh_vm(), vcpu = open_vcpu(vm, 0);

	is(enable(vm, KVM_CAP_EXCEPTION_PAYLOAD, 1), 0, "on");
	call(vcpu, KVM_GET_VCPU_EVENTS, &e);
	ok(e.flags & KVM_VCPUEVENT_VALID_PAYLOAD, "events have a payload");
	is(enable(vm, KVM_CAP_EXCEPTION_PAYLOAD, 0), 0, "off");
	call(vcpu, KVM_GET_VCPU_EVENTS, &e);
	ok(!(e.flags & KVM_VCPUEVENT_VALID_PAYLOAD), "they have none");
}

static void t_triple_fault(void)
{
	struct kvm_vcpu_events e;
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xf4);
	is(enable(g.vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1), 0, "on");
	call(g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	ok(e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT, "events know triple faults");
	e.triple_fault.pending = 1;
	is(call(g.vcpu, KVM_SET_VCPU_EVENTS, &e), 0, "pend one");
	is(run(&g), 0, "run");
	is(g.run->exit_reason, KVM_EXIT_SHUTDOWN, "KVM_EXIT_SHUTDOWN");
	free_guest(&g);
}

static void t_dirty_protect(void)
{
	uint64_t map[MEM_SIZE / 4096 / 64];
	struct kvm_dirty_log log = { .dirty_bitmap = map };
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xf4);
	is(enable(g.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3), 0, "initially set");
	need(set_slot(g.vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, MEM_SIZE, g.mem), "log");
	is(call(g.vm, KVM_GET_DIRTY_LOG, &log), 0, "KVM_GET_DIRTY_LOG");
	is(map[0], ~0ull, "every page is dirty");
	free_guest(&g);
}

static void t_pv_enforce(void)
{
	/* mov ecx,4b564d01h; rdmsr; hlt: kvmclock without its CPUID bit */
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0x66, 0xb9, 1, 0x4d, 0x56, 0x4b, 0x0f, 0x32, 0xf4);
	memcpy(g.mem + 0x500, "\xe6\x0d\xf4", 3);
	memcpy(g.mem + 13 * 4, "\x00\x05\x00\x00", 4);
	run(&g);
	is(g.run->exit_reason, KVM_EXIT_HLT, "works all the same");
	is(enable(g.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1), 0, "enforce CPUID");
	set_real(g.vcpu, CODE);
	run(&g);
	is(g.run->exit_reason, KVM_EXIT_IO, "then it is #GP");
	free_guest(&g);
}

static void t_quirks(void)
{
	struct guest g;

	/* out 7eh,al; hlt */
	NEW_GUEST(&g, NO_CHIP, 0xe6, 0x7e, 0xf4);
	is(enable(g.vm, KVM_CAP_DISABLE_QUIRKS2, 0x7f), 0, "no quirks");
	run(&g);
	is(rip_of(&g), CODE, "OUT 7EH keeps RIP until it is completed");
	free_guest(&g);
	NEW_GUEST(&g, NO_CHIP, 0xe6, 0x7e, 0xf4);
	run(&g);
	is(rip_of(&g), CODE + 2, "with its quirk RIP is behind it");
	free_guest(&g);
}

/* Rows that KVM_ENABLE_CAP takes, and where that is tested; containment's own are tested in test/guard. */
static const struct enabling {
	uint32_t cap;
	void (*test)(void);
} enabling[] = {
	{ KVM_CAP_DISABLE_QUIRKS, t_masks }, { KVM_CAP_DISABLE_QUIRKS2, t_quirks },
	{ KVM_CAP_SPLIT_IRQCHIP, t_split_irqchip }, { KVM_CAP_X2APIC_API, t_masks },
	{ KVM_CAP_X86_DISABLE_EXITS, t_disable_exits }, { KVM_CAP_MSR_PLATFORM_INFO, t_platform_info },
	{ KVM_CAP_EXCEPTION_PAYLOAD, t_payload }, { KVM_CAP_X86_TRIPLE_FAULT_EVENT, t_triple_fault },
	{ KVM_CAP_X86_USER_SPACE_MSR, t_user_space_msr }, { KVM_CAP_EXIT_HYPERCALL, t_exit_hypercall },
	{ KVM_CAP_EXIT_ON_EMULATION_FAILURE, t_masks }, { KVM_CAP_MAX_VCPU_ID, t_max_vcpu_id },
	{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, t_dirty_protect }, { KVM_CAP_HALT_POLL, t_masks },
	{ KVM_CAP_DIRTY_LOG_RING, t_dirty_ring }, { KVM_CAP_DIRTY_LOG_RING_ACQ_REL, t_dirty_ring_full },
	{ KVM_CAP_X86_NOTIFY_VMEXIT, NULL }, { KVM_CAP_X86_BUS_LOCK_EXIT, NULL },
};

static bool tested(uint32_t cap)
{
	for (size_t i = 0; i < COUNT(enabling); i++)
		if (enabling[i].cap == cap)
			return true;
	return false;
}

static void t_gate(void)
{
	for (size_t i = 0; i < COUNT(rows); i++) {
		uint32_t cap = (uint32_t)rows[i].cap;
		bool takes = enable(fresh_vm(), cap, 0) == 0 || enable(fresh_vm(), cap, 1) == 0;

		ok(!takes || tested(cap), "%s: %s", rows[i].name, takes ? "enabling it is tested" : "is not enabled");
	}
}

int main(void)
{
	values();
	tap_child("masks", t_masks);
	for (size_t i = 0; i < COUNT(enabling); i++)
		if (enabling[i].test && enabling[i].test != t_masks) {
			char name[40];

			snprintf(name, sizeof(name), "capability %u", enabling[i].cap);
			tap_child(name, enabling[i].test);
		}
	tap_child("KVM_CAP_ENFORCE_PV_FEATURE_CPUID", t_pv_enforce);
	t_gate();
	return done_testing();
}
