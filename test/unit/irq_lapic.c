/* SPDX-License-Identifier: MIT */
/* One local APIC: registers, priorities, modes, timer, save and restore. */
#include "irq_fake.h"

#define X2(reg) (0x800 + ((reg) >> 4))

static void begin(void)
{
	fake_vm(IRQCHIP_FULL, 1);
	apic_on(cpu(0));
	requests(cpu(0));
}

static void self_ipi(u8 vector)
{
	apic_w(cpu(0), APIC_ICR, 0x40000 | 0x4000 | vector);
}

static bool takes(int vector)
{
	return irq_intr_pending(cpu(0)) == vector && irq_intr_ack(cpu(0)) == vector;
}

static void test_reset(void)
{
	u16 half = 0;
	u64 q = 0;

	fake_vm(IRQCHIP_FULL, 2);
	is(cpu(0)->apic_base, 0xfee00900, "APIC_BASE of the boot vCPU");
	is(cpu(1)->apic_base, 0xfee00800, "APIC_BASE of the other");
	is(apic_r(cpu(1), APIC_ID), 1u << 24, "ID");
	is(apic_r(cpu(0), APIC_LVR), 0x50014, "version 14H, six LVTs, no directed EOI");
	lapic_set_cmci(cpu(0), true);
	is(apic_r(cpu(0), APIC_LVR), 0x60014, "seven with CMCI");
	is(apic_r(cpu(0), APIC_LVTCMCI), 0x10000, "CMCI masked");
	is(apic_r(cpu(0), APIC_SPIV), 0xff, "software disabled");
	is(apic_r(cpu(0), APIC_DFR), 0xffffffff, "flat");
	is(apic_r(cpu(0), APIC_LVT0), 0x700, "boot LINT0 is ExtINT (KVM's quirk)");
	is(apic_r(cpu(1), APIC_LVT0), 0x10000, "others masked");
	is(apic_r(cpu(0), APIC_LVTT), 0x10000, "timer masked");
	apic_w(cpu(0), APIC_LVTERR, 0xfe);
	is(apic_r(cpu(0), APIC_LVTERR), 0x100fe, "LVTs stay masked while software disabled");
	apic_on(cpu(0));
	apic_w(cpu(0), APIC_LVT1, 0xffffffff);
	is(apic_r(cpu(0), APIC_LVT1), 0x1f7ff, "LINT1 bits");
	apic_w(cpu(0), APIC_LVTERR, 0xffffffff);
	is(apic_r(cpu(0), APIC_LVTERR), 0x110ff, "error LVT bits");
	apic_w(cpu(0), APIC_LVTPC, 0xffffffff);
	is(apic_r(cpu(0), APIC_LVTPC), 0x117ff, "PMI LVT bits");
	apic_w(cpu(0), APIC_LVTT, 0xffffffff);
	is(apic_r(cpu(0), APIC_LVTT), 0x710ff, "timer LVT bits with TSC-deadline");
	apic_w(cpu(0), APIC_SPIV, 0xff);
	apic_w(cpu(0), APIC_LVR, 0);
	is(apic_r(cpu(0), APIC_LVR), 0x60014, "version is read-only");
	is(irq_mmio_read(cpu(0), APIC_BASE_DEFAULT + APIC_ID + 2, 2, &half), 0, "two bytes");
	is(irq_mmio_read(cpu(0), APIC_BASE_DEFAULT + APIC_LVR, 8, &q), 0, "eight bytes");
	is(q, 0, "read nothing");
	is(irq_mmio_read(cpu(0), 0xfee01000, 4, &q), (u64)-EOPNOTSUPP, "next page is not ours");
	fake_vm_end();
}

static void test_priority(void)
{
	begin();
	self_ipi(0x41);
	ok(requests(cpu(0)) & REQ_EVENT, "told");
	self_ipi(0x85);
	self_ipi(0x83);
	is(apic_r(cpu(0), APIC_IRR + 0x40), 1u << 3 | 1u << 5, "IRR");
	ok(takes(0x85), "highest first");
	is(apic_r(cpu(0), APIC_ISR + 0x40), 1u << 5, "ISR");
	is(apic_r(cpu(0), APIC_PROCPRI), 0x80, "PPR");
	is(irq_intr_pending(cpu(0)), -1, "same class waits");
	self_ipi(0x91);
	ok(takes(0x91), "higher class nests");
	eoi(cpu(0));
	is(irq_intr_pending(cpu(0)), -1, "still in 0x80");
	requests(cpu(0));
	eoi(cpu(0));
	ok(requests(cpu(0)) & REQ_EVENT, "EOI opens the way: look again");
	ok(takes(0x83), "second of the class");
	eoi(cpu(0));
	irq_write_cr8(cpu(0), 4);
	is(apic_r(cpu(0), APIC_TASKPRI), 0x40, "CR8 is TPR");
	is(irq_read_cr8(cpu(0)), 4, "and reads back");
	is(irq_intr_pending(cpu(0)), -1, "TPR blocks its own class");
	requests(cpu(0));
	apic_w(cpu(0), APIC_TASKPRI, 0x3f);
	ok(requests(cpu(0)) & REQ_EVENT, "lowering TPR: look again");
	is(apic_r(cpu(0), APIC_PROCPRI), 0x3f, "PPR shows TPR's low bits");
	ok(takes(0x41), "through");
	eoi(cpu(0));
	eoi(cpu(0));
	is(irq_intr_pending(cpu(0)), -1, "EOI of nothing");
	self_ipi(0x05);
	is(irq_intr_pending(cpu(0)), -1, "vectors below 16 have no priority");
	apic_w(cpu(0), APIC_SPIV, 0xff);
	self_ipi(0x99);
	is(irq_intr_pending(cpu(0)), -1, "software disabled: fixed messages are dropped");
	fake_vm_end();
}

static void test_base(void)
{
	const u64 def = APIC_BASE_DEFAULT | APIC_BASE_BSP, on = def | APIC_BASE_ENABLE;
	const u64 x2 = on | APIC_BASE_X2APIC;
	u64 val;

	begin();
	is(lapic_set_base(cpu(0), on | 1, false), (u64)-EINVAL, "reserved bit 0");
	is(lapic_set_base(cpu(0), on | BIT(46), false), (u64)-EINVAL, "beyond MAXPHYADDR");
	is(lapic_set_base(cpu(0), def | APIC_BASE_X2APIC, false), (u64)-EINVAL, "x2APIC without enable");
	fake_feature(cpu(0), FEAT_X2APIC, false);
	is(lapic_set_base(cpu(0), x2, true), (u64)-EINVAL, "x2APIC without CPUID bit");
	fake_feature(cpu(0), FEAT_X2APIC, true);
	is(lapic_set_base(cpu(0), x2, false), 0, "to x2APIC");
	is(lapic_set_base(cpu(0), on, false), (u64)-EINVAL, "not back to xAPIC");
	is(lapic_set_base(cpu(0), def, false), 0, "to disabled");
	is(lapic_set_base(cpu(0), x2, false), (u64)-EINVAL, "not straight to x2APIC");
	is(lapic_set_base(cpu(0), on, false), 0, "to xAPIC");
	is(lapic_set_base(cpu(0), x2, true), 0, "host: to x2APIC");
	is(lapic_set_base(cpu(0), on, true), 0, "host: back");
	is(lapic_set_base(cpu(0), on + 0x10000, false), 0, "move the page");
	is(mmio_r(cpu(0), 0xfee00030), 0xeeeeeeee, "old place empty");
	is(mmio_r(cpu(0), 0xfee10030), 0x50014, "new place");
	lapic_set_base(cpu(0), def, false);
	is(apic_r(cpu(0), APIC_LVR), 0xffffffff, "disabled: an empty bus (quirk)");
	fake_m.quirks_disabled |= KVM_X86_QUIRK_LAPIC_MMIO_HOLE;
	is(apic_r(cpu(0), APIC_LVR), 0xeeeeeeee, "without the quirk: user space");
	is(irq_msr_read(cpu(0), X2(APIC_ID), &val), (u64)-EINVAL, "x2APIC MSR outside x2APIC mode");
	fake_vm_end();
}

static void test_x2apic(void)
{
	u64 val;

	fake_vm(IRQCHIP_FULL, 0);
	fake_vcpu(0x123);
	lapic_set_base(cpu(0), APIC_BASE_DEFAULT | APIC_BASE_ENABLE | APIC_BASE_X2APIC, false);
	irq_msr_read(cpu(0), X2(APIC_ID), &val);
	is(val, 0x123, "32-bit ID");
	irq_msr_read(cpu(0), X2(APIC_LDR), &val);
	is(val, 0x120008, "LDR from the ID");
	is(irq_msr_write(cpu(0), X2(APIC_LDR), 1), (u64)-EINVAL, "LDR read-only");
	is(irq_msr_write(cpu(0), X2(APIC_ID), 1), (u64)-EINVAL, "ID read-only");
	is(irq_msr_write(cpu(0), X2(APIC_DFR), 1), (u64)-EINVAL, "no DFR to write");
	is(irq_msr_read(cpu(0), X2(APIC_DFR), &val), (u64)-EINVAL, "no DFR to read");
	is(irq_msr_read(cpu(0), X2(APIC_ICR2), &val), (u64)-EINVAL, "no ICR2");
	is(irq_msr_read(cpu(0), X2(APIC_ARBPRI), &val), (u64)-EINVAL, "no APR");
	is(irq_msr_read(cpu(0), X2(APIC_EOI), &val), (u64)-EINVAL, "EOI is write-only");
	is(irq_msr_write(cpu(0), X2(APIC_SPIV), 0x1ff), 0, "enable");
	is(irq_msr_write(cpu(0), X2(APIC_SPIV), 1ull << 32 | 0x1ff), (u64)-EINVAL, "upper half");
	is(irq_msr_write(cpu(0), X2(APIC_ESR), 1), (u64)-EINVAL, "ESR takes 0 only");
	is(irq_msr_write(cpu(0), X2(APIC_ESR), 0), 0, "ESR 0");
	is(irq_msr_write(cpu(0), X2(APIC_SELF_IPI), 0x100), (u64)-EINVAL, "self IPI: vector only");
	is(irq_msr_write(cpu(0), X2(APIC_SELF_IPI), 0x77), 0, "self IPI");
	ok(takes(0x77), "arrives");
	is(irq_msr_write(cpu(0), X2(APIC_EOI), 0), 0, "EOI");
	is(irq_msr_write(cpu(0), X2(APIC_ICR), BIT(13)), (u64)-EINVAL, "ICR reserved bit");
	is(irq_msr_write(cpu(0), X2(APIC_ICR), 0x12300005078ull & ~0xff00000000ull), 0, "ICR");
	is(irq_msr_write(cpu(0), X2(APIC_ICR), 0x123ull << 32 | 0x5078), 0, "ICR with busy bit");
	irq_msr_read(cpu(0), X2(APIC_ICR), &val);
	is(val, 0x123ull << 32 | 0x4078, "reads back whole, not busy");
	ok(takes(0x78), "IPI to a 32-bit id");
	is(irq_msr_read(cpu(0), 0x900, &val), (u64)-ENOENT, "not an x2APIC MSR");
	is(apic_r(cpu(0), APIC_ID), 0xffffffff, "no page in x2APIC mode");
	lapic_reset(cpu(0), true);
	irq_msr_read(cpu(0), X2(APIC_LDR), &val);
	is(val, 0x120008, "INIT keeps x2APIC mode and LDR");
	lapic_reset(cpu(0), false);
	ok(!lapic_x2apic(cpu(0)->lapic), "RESET does not");
	fake_vm_end();
}

static void test_oneshot(void)
{
	begin();
	apic_w(cpu(0), APIC_TDCR, 0xb); /* by 1: 1 GHz */
	apic_w(cpu(0), APIC_LVTT, 0xec);
	apic_w(cpu(0), APIC_TMICT, 1000000);
	fake_wait(400000);
	is(apic_r(cpu(0), APIC_TMCCT), 600000, "count");
	is(lapic_timer_deadline(cpu(0)), fake_ns + 600000, "deadline");
	is(irq_intr_pending(cpu(0)), -1, "not yet");
	requests(cpu(0));
	fake_wait(600000);
	ok(requests(cpu(0)) & REQ_EVENT, "told");
	ok(takes(0xec), "expired");
	is(apic_r(cpu(0), APIC_TMCCT), 0, "stays at zero");
	eoi(cpu(0));
	fake_wait(5000000);
	is(irq_intr_pending(cpu(0)), -1, "once");
	apic_w(cpu(0), APIC_TDCR, 0); /* by 2 */
	apic_w(cpu(0), APIC_TMICT, 1000000);
	fake_wait(1000000);
	is(apic_r(cpu(0), APIC_TMCCT), 500000, "divide by 2");
	apic_w(cpu(0), APIC_TDCR, 2); /* by 8 */
	is(apic_r(cpu(0), APIC_TMCCT), 500000, "a new divisor keeps the count");
	is(lapic_timer_deadline(cpu(0)), fake_ns + 4000000, "and moves the deadline");
	apic_w(cpu(0), APIC_TMICT, 0);
	is(lapic_timer_deadline(cpu(0)), IRQ_NEVER, "writing 0 stops it");
	apic_w(cpu(0), APIC_LVTT, 0x100ec);
	apic_w(cpu(0), APIC_TDCR, 0xb);
	apic_w(cpu(0), APIC_TMICT, 1000);
	fake_wait(2000);
	apic_w(cpu(0), APIC_LVTT, 0xec);
	is(irq_intr_pending(cpu(0)), -1, "an expiry while masked is lost");
	apic_w(cpu(0), APIC_TMICT, 1000);
	fake_ns += 2000;
	lapic_timer_poll(cpu(0));
	ok(takes(0xec), "the vCPU may notice an expiry by itself");
	fake_vm_end();
}

static void test_periodic(void)
{
	int n = 0;

	begin();
	apic_w(cpu(0), APIC_TDCR, 0xb);
	apic_w(cpu(0), APIC_LVTT, 0x200ed);
	apic_w(cpu(0), APIC_TMICT, 1000000);
	for (int i = 0; i < 10; i++) {
		fake_wait(1000000);
		if (takes(0xed))
			n++;
		eoi(cpu(0));
	}
	is(n, 10, "ten periods");
	fake_wait(300000);
	is(apic_r(cpu(0), APIC_TMCCT), 700000, "count within the period");
	fake_ns += 5000000; /* nobody served the queue for five periods */
	irq_timerq_run(&fake_q, fake_ns);
	ok(takes(0xed), "late: one interrupt");
	eoi(cpu(0));
	is(irq_intr_pending(cpu(0)), -1, "not five");
	is(apic_r(cpu(0), APIC_TMCCT), 700000, "phase kept");
	apic_w(cpu(0), APIC_TMICT, 10);
	is(lapic_timer_deadline(cpu(0)), fake_ns + 200000, "a period is at least 200 us");
	apic_w(cpu(0), APIC_LVTT, 0xed);
	fake_wait(1000000);
	ok(takes(0xed), "switched to one-shot");
	eoi(cpu(0));
	fake_wait(1000000);
	is(irq_intr_pending(cpu(0)), -1, "it was the last");
	fake_vm_end();
}

static void test_tscdeadline(void)
{
	u64 val = 1;

	begin();
	irq_msr_write(cpu(0), 0x6e0, fake_tsc(cpu(0)) + 1000);
	irq_msr_read(cpu(0), 0x6e0, &val);
	is(val, 0, "no effect in another mode");
	apic_w(cpu(0), APIC_LVTT, 0x400ee);
	irq_msr_write(cpu(0), 0x6e0, fake_tsc(cpu(0)) + 2000000);
	irq_msr_read(cpu(0), 0x6e0, &val);
	is(val, fake_tsc(cpu(0)) + 2000000, "reads back");
	is(lapic_timer_deadline(cpu(0)), fake_ns + 1000000, "2 GHz to ns");
	is(apic_r(cpu(0), APIC_TMCCT), 0, "no count");
	apic_w(cpu(0), APIC_TMICT, 5);
	is(apic_r(cpu(0), APIC_TMICT), 0, "initial count ignored");
	fake_wait(999999);
	is(irq_intr_pending(cpu(0)), -1, "not yet");
	fake_wait(1);
	ok(takes(0xee), "expired");
	irq_msr_read(cpu(0), 0x6e0, &val);
	is(val, 0, "disarmed itself");
	eoi(cpu(0));
	irq_msr_write(cpu(0), 0x6e0, 1);
	ok(takes(0xee), "a deadline in the past fires at once");
	eoi(cpu(0));
	irq_msr_write(cpu(0), 0x6e0, fake_tsc(cpu(0)) + 2000);
	irq_msr_write(cpu(0), 0x6e0, 0);
	fake_wait(1000000);
	is(irq_intr_pending(cpu(0)), -1, "0 disarms");
	irq_msr_write(cpu(0), 0x6e0, ~0ull);
	fake_wait(1000000);
	is(irq_intr_pending(cpu(0)), -1, "the far future does not wrap");
	apic_w(cpu(0), APIC_LVTT, 0xee);
	irq_msr_read(cpu(0), 0x6e0, &val);
	is(val, 0, "leaving the mode disarms");
	fake_feature(cpu(0), FEAT_TSC_DEADLINE, false);
	lapic_cpuid_changed(cpu(0));
	apic_w(cpu(0), APIC_LVTT, 0x400ee);
	is(apic_r(cpu(0), APIC_LVTT), 0xee, "mode bit reserved without CPUID bit");
	fake_vm_end();
}

static void test_state(void)
{
	struct kvm_lapic_state s, t;
	u32 *r = (u32 *)s.regs;

	begin();
	apic_w(cpu(0), APIC_TDCR, 0xb);
	apic_w(cpu(0), APIC_LVTT, 0x200ed);
	apic_w(cpu(0), APIC_TMICT, 1000000);
	self_ipi(0x55);
	self_ipi(0x99);
	irq_intr_ack(cpu(0));
	fake_wait(400000);
	is(lapic_get_state(cpu(0), &s), 0, "get");
	is(r[APIC_TMCCT / 4], 600000, "current count is in the state");
	is(r[APIC_ISR / 4 + 16], 1u << 25, "ISR");
	is(r[APIC_IRR / 4 + 8], 1u << 21, "IRR");
	fake_wait(50000);
	lapic_reset(cpu(0), false);
	is(lapic_timer_deadline(cpu(0)), IRQ_NEVER, "reset stops the timer");
	is(lapic_set_state(cpu(0), &s), 0, "set");
	lapic_get_state(cpu(0), &t);
	ok(!memcmp(&s, &t, sizeof(s)), "round trip");
	is(lapic_timer_deadline(cpu(0)), fake_ns + 600000, "the period goes on");
	is(irq_intr_pending(cpu(0)), -1, "still in service of the higher one");
	eoi(cpu(0));
	ok(takes(0x55), "then the waiting one");
	fake_wait(600000);
	eoi(cpu(0));
	ok(takes(0xed), "timer of the restored state");
	fake_wait(1000000);
	eoi(cpu(0));
	ok(takes(0xed), "and its full period after");
	fake_vm_end();
}

static void test_state_x2apic(void)
{
	struct kvm_lapic_state s;
	u32 *r = (u32 *)s.regs;

	fake_vm(IRQCHIP_FULL, 0);
	fake_vcpu(5);
	lapic_set_base(cpu(0), APIC_BASE_DEFAULT | APIC_BASE_ENABLE | APIC_BASE_X2APIC, true);
	irq_msr_write(cpu(0), X2(APIC_ICR), 0x700000000ull | 0x4055);
	lapic_get_state(cpu(0), &s);
	is(r[APIC_ID / 4], 5u << 24, "xAPIC format by default");
	is(r[APIC_ICR2 / 4], 7, "ICR is split for user space");
	r[APIC_ICR2 / 4] = 9;
	is(lapic_set_state(cpu(0), &s), 0, "set");
	is(lapic_get(cpu(0)->lapic, APIC_ID), 5, "ID back in x2APIC form");
	is(lapic_get(cpu(0)->lapic, APIC_ICR_X2HI), 9, "ICR joined");
	irqchip_set_x2apic_api(&fake_m, KVM_X2APIC_API_USE_32BIT_IDS);
	lapic_get_state(cpu(0), &s);
	is(r[APIC_ID / 4], 5, "32-bit format");
	r[APIC_ID / 4] = 6;
	is(lapic_set_state(cpu(0), &s), (u64)-EINVAL, "wrong id refused");
	fake_vm_end();
	fake_vm(IRQCHIP_NONE, 1);
	is(lapic_get_state(cpu(0), &s), (u64)-EINVAL, "no local APIC");
	is(irq_intr_pending(cpu(0)), -1, "no local APIC, no interrupts");
	irq_write_cr8(cpu(0), 7);
	is(irq_read_cr8(cpu(0)), 7, "CR8 is the vCPU's own");
	is(cpu(0)->apic_base, 0xfee00900, "APIC_BASE exists all the same");
	fake_vm_end();
}

static void test_tpr_reporting(void)
{
	u8 vec;

	begin();
	apic_w(cpu(0), APIC_TASKPRI, 0x20);
	is(irq_sync_events(cpu(0), &vec), 0, "off");
	lapic_tpr_reporting(cpu(0), true);
	apic_r(cpu(0), APIC_TASKPRI);
	is(irq_sync_events(cpu(0), &vec), IRQ_EV_TPR, "read");
	apic_w(cpu(0), APIC_TASKPRI, 0x20);
	is(irq_sync_events(cpu(0), &vec), IRQ_EV_TPR_WRITE, "write");
	is(lapic_set_vapic_addr(cpu(0), 0x2000), (u64)-EINVAL, "vapic address outside memory");
	is(lapic_set_vapic_addr(cpu(0), 0x1000), 0, "vapic address");
	self_ipi(0x55);
	irq_intr_ack(cpu(0));
	self_ipi(0x44);
	lapic_vapic_to_guest(cpu(0));
	is(fake_word, 0x44005020, "TPR, ISR class, IRR");
	fake_word = 0x10;
	lapic_vapic_from_guest(cpu(0));
	is(irq_read_cr8(cpu(0)), 1, "TPR from the guest");
	fake_vm_end();
}

int main(void)
{
	test_reset();
	test_priority();
	test_base();
	test_x2apic();
	test_oneshot();
	test_periodic();
	test_tscdeadline();
	test_state();
	test_state_x2apic();
	test_tpr_reporting();
	return done_testing();
}
