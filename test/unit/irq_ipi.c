/* SPDX-License-Identifier: MIT */
/* Interrupts between processors: destinations, delivery modes, INIT and SIPI. */
#include "irq_fake.h"

#define ASSERT 0x4000u
#define LOGICAL 0x800u
#define SELF (1u << 18)
#define ALL (2u << 18)
#define OTHERS (3u << 18)

static void begin(u32 n)
{
	fake_vm(IRQCHIP_FULL, n);
	for (u32 i = 0; i < n; i++) {
		apic_on(cpu(i));
		requests(cpu(i));
	}
}

static void send(u32 from, u8 dest, u32 icr)
{
	apic_w(cpu(from), APIC_ICR2, (u32)dest << 24);
	apic_w(cpu(from), APIC_ICR, icr);
}

/* Which vCPUs have vector in IRR; clears it. */
static u32 got(u8 vector)
{
	u32 mask = 0;

	for (u32 i = 0; i < fake_m.nvcpus; i++)
		mask |= (u32)lapic_clear(cpu(i)->lapic, APIC_IRR, vector) << i;
	return mask;
}

static void test_physical(void)
{
	begin(4);
	send(0, 2, ASSERT | 0x50);
	is(got(0x50), 4, "physical");
	send(0, 9, ASSERT | 0x50);
	is(got(0x50), 0, "nobody");
	send(0, 0xff, ASSERT | 0x50);
	is(got(0x50), 0xf, "broadcast includes the sender");
	send(1, 0, SELF | ASSERT | 0x50);
	is(got(0x50), 2, "self");
	send(1, 0, ALL | ASSERT | 0x50);
	is(got(0x50), 0xf, "all including self");
	send(1, 0, OTHERS | ASSERT | 0x50);
	is(got(0x50), 0xd, "all but self");
	is(apic_r(cpu(1), APIC_ICR), OTHERS | ASSERT | 0x50, "ICR reads back");
	apic_w(cpu(1), APIC_ICR, OTHERS | ASSERT | 0x1050);
	is(apic_r(cpu(1), APIC_ICR), OTHERS | ASSERT | 0x50, "never busy");
	got(0x50);
	apic_w(cpu(2), APIC_ID, 7u << 24);
	send(0, 7, ASSERT | 0x50);
	is(got(0x50), 4, "a guest may change its xAPIC ID");
	send(0, 2, 0x8000 | 0x50);
	is(got(0x50), 0, "level de-assert is nothing");
	lapic_set_base(cpu(3), APIC_BASE_DEFAULT, false);
	send(0, 0xff, ASSERT | 0x50);
	is(got(0x50), 7, "a disabled APIC hears nothing");
	fake_vm_end();
}

static void test_logical(void)
{
	begin(4);
	for (u32 i = 0; i < 4; i++)
		apic_w(cpu(i), APIC_LDR, 1u << (24 + i));
	send(0, 0xa, LOGICAL | ASSERT | 0x51);
	is(got(0x51), 0xa, "flat");
	for (u32 i = 0; i < 4; i++) {
		apic_w(cpu(i), APIC_DFR, 0);
		apic_w(cpu(i), APIC_LDR, (i / 2 + 1) << 28 | 1u << (24 + i % 2));
	}
	is(apic_r(cpu(0), APIC_DFR), 0x0fffffff, "cluster model");
	send(0, 0x23, LOGICAL | ASSERT | 0x51);
	is(got(0x51), 0xc, "cluster 2, both members");
	send(0, 0x12, LOGICAL | ASSERT | 0x51);
	is(got(0x51), 0x2, "cluster 1, second member");
	send(0, 0x13, LOGICAL | ASSERT | 0x151);
	is(__builtin_popcount(got(0x51)), 1, "lowest priority: one of them");
	apic_w(cpu(1), APIC_SPIV, 0xff);
	for (int i = 0; i < 4; i++)
		send(0, 0x13, LOGICAL | ASSERT | 0x151);
	is(got(0x51), 1, "lowest priority skips a disabled one");
	fake_vm_end();
}

static void x2send(u32 from, u32 dest, u32 icr)
{
	irq_msr_write(cpu(from), 0x830, (u64)dest << 32 | icr);
}

static void test_x2apic(void)
{
	fake_vm(IRQCHIP_FULL, 0);
	for (u32 i = 0; i < 4; i++)
		fake_vcpu(i < 2 ? i : 0x100 + i);
	for (u32 i = 0; i < 4; i++) {
		lapic_set_base(cpu(i), APIC_BASE_DEFAULT | APIC_BASE_ENABLE | APIC_BASE_X2APIC, true);
		irq_msr_write(cpu(i), 0x80f, 0x1ff);
	}
	x2send(0, 0x103, ASSERT | 0x60);
	is(got(0x60), 8, "physical, 32-bit id");
	x2send(0, 0xffffffff, ASSERT | 0x60);
	is(got(0x60), 0xf, "broadcast");
	x2send(0, 0xff, ASSERT | 0x60);
	is(got(0x60), 0, "FFH is an id like others");
	x2send(0, 0x10000c, LOGICAL | ASSERT | 0x60);
	is(got(0x60), 0xc, "logical cluster 16");
	x2send(0, 3, LOGICAL | ASSERT | 0x60);
	is(got(0x60), 3, "logical cluster 0");
	is(irq_send_msi_raw(&fake_m, 0xfeeff000, 0, 0x60), 4, "a device's 8-bit broadcast (quirk)");
	is(got(0x60), 0xf, "reaches all");
	irqchip_set_x2apic_api(&fake_m, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
	is(irq_send_msi_raw(&fake_m, 0xfeeff000, 0, 0x60), (u64)-1, "quirk off: nobody is FFH");
	is(irq_pv_send_ipi(cpu(0), 3, 0, 0, ASSERT | 0x60, true), 2, "paravirtual IPI");
	is(got(0x60), 3, "to its map");
	is(irq_pv_send_ipi(cpu(0), 1, 2, 0xc2, ASSERT | 0x60, true), 1, "second word");
	is(got(0x60), 8, "id C2H + 64 + 1");
	is(irq_pv_send_ipi(cpu(0), 3, 0, 0, SELF, true), (u64)-EINVAL, "no shorthands there");
	fake_vm_end();
}

static void test_modes(void)
{
	u8 vec = 0;

	begin(3);
	send(0, 1, ASSERT | 0x400);
	send(0, 1, ASSERT | 0x400);
	ok(requests(cpu(1)) & REQ_KVM, "NMI announced");
	is(irq_sync_events(cpu(1), &vec), IRQ_EV_NMI | IRQ_EV_NMI2, "two NMIs are held");
	is(irq_sync_events(cpu(1), &vec), 0, "collected");
	send(0, 0, OTHERS | ASSERT | 0x400);
	is(irq_sync_events(cpu(1), &vec), IRQ_EV_NMI, "NMI to the others");
	is(irq_sync_events(cpu(0), &vec), 0, "not to me");
	is(irq_sync_events(cpu(2), &vec), IRQ_EV_NMI, "and to the third");
	send(0, 2, ASSERT | 0x200);
	is(irq_sync_events(cpu(2), &vec), IRQ_EV_SMI, "SMI");
	irq_pv_kick(cpu(0), 1);
	is(irq_sync_events(cpu(1), &vec), IRQ_EV_UNHALT, "kick");
	requests(cpu(2));
	send(0, 2, ASSERT | 0x8000 | 0x500);
	is(lapic_pending_init_sipi(cpu(2), NULL), LAPIC_INIT, "INIT");
	ok(requests(cpu(2)) & REQ_KVM, "told");
	send(0, 2, 0x8000 | 0x500);
	send(0, 2, ASSERT | 0x69a);
	is(lapic_pending_init_sipi(cpu(2), &vec), LAPIC_INIT | LAPIC_SIPI, "INIT, SIPI");
	is(vec, 0x9a, "SIPI vector");
	lapic_clear_events(cpu(2), LAPIC_INIT);
	is(lapic_pending_init_sipi(cpu(2), &vec), LAPIC_SIPI, "INIT taken");
	send(0, 2, ASSERT | 0x500);
	is(lapic_pending_init_sipi(cpu(2), &vec), LAPIC_INIT, "another INIT forgets the SIPI");
	lapic_clear_events(cpu(2), LAPIC_INIT | LAPIC_SIPI);
	send(0, 2, 0x8000 | 0x500);
	is(lapic_pending_init_sipi(cpu(2), &vec), 0, "level de-assert is nothing");
	lapic_set_sipi_vector(cpu(2), 0x11);
	lapic_set_events(cpu(2), LAPIC_SIPI);
	is(lapic_pending_init_sipi(cpu(2), &vec), LAPIC_SIPI, "restored");
	is(vec, 0x11, "with its vector");
	fake_vm_end();
}

static void test_trigger(void)
{
	begin(1);
	send(0, 0, ASSERT | 0x8000 | 0x70);
	ok(apic_r(cpu(0), APIC_TMR + 0x30) & 1u << 16, "TMR set by a level message");
	send(0, 0, ASSERT | 0x70);
	ok(!(apic_r(cpu(0), APIC_TMR + 0x30) & 1u << 16), "cleared by an edge");
	apic_w(cpu(0), APIC_LVTPC, 0x4f0);
	lapic_local_deliver(cpu(0), APIC_LVTPC);
	ok(requests(cpu(0)) & REQ_KVM, "PMI as NMI");
	is(apic_r(cpu(0), APIC_LVTPC), 0x104f0, "and masks itself");
	apic_w(cpu(0), APIC_LVTTHMR, 0xf1);
	lapic_local_deliver(cpu(0), APIC_LVTTHMR);
	is(irq_intr_ack(cpu(0)), 0xf1, "thermal");
	fake_vm_end();
}

int main(void)
{
	test_physical();
	test_logical();
	test_x2apic();
	test_modes();
	test_trigger();
	return done_testing();
}
