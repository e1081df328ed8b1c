/* SPDX-License-Identifier: MIT */
/* The I/O APIC, GSI routing, messages, split mode. */
#include "irq_fake.h"

#define LEVEL BIT(15)
#define MASKED BIT(16)
#define LOGICAL BIT(11)
#define REMOTE_IRR BIT(14)
#define TO(id) ((u64)(id) << 56)

static void begin(enum irqchip_mode mode, u32 n)
{
	fake_vm(mode, n);
	for (u32 i = 0; i < n; i++) {
		apic_on(cpu(i));
		apic_w(cpu(i), APIC_LVT0, 0x10000);
		requests(cpu(i));
	}
}

/* Take and end vector on v; false when something else (or nothing) is there. */
static bool takes(struct vcpu *v, int vector)
{
	return irq_intr_pending(v) == vector && irq_intr_ack(v) == vector;
}

static void test_registers(void)
{
	u64 q = 0;
	u8 b = 0;

	begin(IRQCHIP_FULL, 1);
	is(ioapic_r(1), 0x170011, "version 11H, 24 pins");
	ioapic_w(0, 0x5f000000);
	is(ioapic_r(0), 0x0f000000, "ID has four bits");
	is(ioapic_r(2), 0x0f000000, "arbitration ID follows");
	is(ioapic_r(0x10), MASKED, "masked after reset");
	rte(5, TO(3) | LEVEL | 0x1234);
	is(ioapic_r(0x1a), (LEVEL | 0x1234) & ~(REMOTE_IRR | BIT(12)), "read-only bits stay");
	is(ioapic_r(0x1b), 3u << 24, "destination");
	is(ioapic_r(0x40), 0xffffffff, "no such pin");
	is(irq_mmio_read(cpu(0), IOAPIC_BASE, 8, &q), 0, "8-byte read");
	is(q, 0x40, "zero-extended");
	is(irq_mmio_read(cpu(0), IOAPIC_BASE, 1, &b), 0, "byte read");
	is(irq_mmio_read(cpu(0), IOAPIC_BASE + 0x100, 4, &q), (u64)-EOPNOTSUPP, "256 bytes long");
	is(irq_mmio_read(cpu(0), IOAPIC_BASE + 0xfe, 4, &q), (u64)-EOPNOTSUPP, "across its end");
	fake_vm_end();
}

static void test_edge(void)
{
	begin(IRQCHIP_FULL, 2);
	is(irq_set_level(&fake_m, 0, 20, 1, true), (u64)-1, "masked pin: ignored");
	irq_set_level(&fake_m, 0, 20, 0, true);
	rte(20, TO(1) | 0x61);
	is(pulse(20), 1, "edge delivered to one");
	ok(requests(cpu(1)) & REQ_EVENT, "target told");
	ok(!(requests(cpu(0)) & REQ_EVENT), "nobody else told");
	is(irq_set_level(&fake_m, 0, 20, 1, true), 1, "a new edge while in IRR");
	is(irq_set_level(&fake_m, 0, 20, 1, true), 0, "still high: coalesced");
	irq_set_level(&fake_m, 0, 20, 0, true);
	ok(takes(cpu(1), 0x61), "vector arrives");
	ok(!(ioapic_r(0x38) & REMOTE_IRR), "no remote IRR for edges");
	eoi(cpu(1));
	is(irq_intr_pending(cpu(1)), -1, "done");
	is(pulse(0x3ff), (u64)-1, "unrouted GSI");
	is(pulse(5000), (u64)-1, "GSI out of range");
	fake_vm_end();
}

static void test_level(void)
{
	begin(IRQCHIP_FULL, 1);
	rte(10, LEVEL | 0x52);
	is(irq_set_level(&fake_m, 0, 10, 1, true), 2, "level: I/O APIC and (unmasked) 8259 count");
	ok(ioapic_r(0x24) & REMOTE_IRR, "remote IRR set");
	ok(takes(cpu(0), 0x52), "delivered");
	is(irq_set_level(&fake_m, 0, 10, 1, true), 1, "not sent again before EOI");
	is(irq_intr_pending(cpu(0)), -1, "really not");
	eoi(cpu(0));
	ok(takes(cpu(0), 0x52), "EOI with the line up sends it again");
	irq_set_level(&fake_m, 0, 10, 0, true);
	eoi(cpu(0));
	is(irq_intr_pending(cpu(0)), -1, "EOI with the line down ends it");
	ok(!(ioapic_r(0x24) & REMOTE_IRR), "remote IRR clear");
	irq_set_level(&fake_m, IRQ_SOURCE_USER, 10, 1, true);
	irq_set_level(&fake_m, IRQ_SOURCE_RESAMPLE, 10, 1, true);
	irq_set_level(&fake_m, IRQ_SOURCE_USER, 10, 0, true);
	takes(cpu(0), 0x52);
	eoi(cpu(0));
	ok(takes(cpu(0), 0x52), "the other source holds the line");
	irq_set_level(&fake_m, IRQ_SOURCE_RESAMPLE, 10, 0, true);
	/* Linux clears a stuck remote IRR by making the pin edge for a moment. */
	ok(ioapic_r(0x24) & REMOTE_IRR, "still in service");
	ioapic_w(0x24, MASKED | 0x52);
	ioapic_w(0x24, MASKED | LEVEL | 0x52);
	ok(!(ioapic_r(0x24) & REMOTE_IRR), "edge-and-back clears remote IRR");
	eoi(cpu(0));
	irq_set_level(&fake_m, 0, 10, 1, true);
	is(irq_intr_pending(cpu(0)), -1, "masked");
	ioapic_w(0x24, LEVEL | 0x52);
	ok(takes(cpu(0), 0x52), "unmasking sends a level that is up");
	fake_vm_end();
}

static void test_storm(void)
{
	int n;

	begin(IRQCHIP_FULL, 1);
	rte(10, LEVEL | 0x52);
	irq_set_level(&fake_m, 0, 10, 1, true);
	for (n = 0; n < 20000 && takes(cpu(0), 0x52); n++)
		eoi(cpu(0));
	is(n, 10000, "a level storm is stopped after 10000");
	fake_wait(11000000);
	ok(takes(cpu(0), 0x52), "and goes on after 10 ms");
	fake_vm_end();
}

static int acks;

static void on_ack(struct irq_ack_notifier *n)
{
	acks++;
	irq_set_level(&fake_m, IRQ_SOURCE_RESAMPLE, n->gsi, 0, false);
}

static void test_notifier(void)
{
	struct irq_ack_notifier n = { .gsi = 11, .acked = on_ack };

	begin(IRQCHIP_FULL, 2);
	rte(11, LEVEL | 0x53);
	irq_ack_register(&fake_m, &n);
	irq_set_level(&fake_m, IRQ_SOURCE_RESAMPLE, 11, 1, false);
	takes(cpu(0), 0x53);
	is(acks, 0, "no ack before EOI");
	eoi(cpu(0));
	is(acks, 1, "ack on EOI");
	is(irq_intr_pending(cpu(0)), -1, "the notifier lowered the line");
	rte(11, 0x53);
	irq_set_level(&fake_m, 0, 11, 1, false);
	takes(cpu(0), 0x53);
	eoi(cpu(0));
	is(acks, 2, "edge pins notify too");
	apic_w(cpu(1), APIC_ICR, 0x40000 | 0x4000 | 0x53);
	takes(cpu(1), 0x53);
	eoi(cpu(1));
	is(acks, 2, "same vector on a vCPU the pin never interrupts does not");
	irq_ack_unregister(&fake_m, &n);
	irq_set_level(&fake_m, 0, 11, 0, false);
	irq_set_level(&fake_m, 0, 11, 1, false);
	takes(cpu(0), 0x53);
	eoi(cpu(0));
	is(acks, 2, "unregistered");
	fake_vm_end();
}

static void test_rtc(void)
{
	begin(IRQCHIP_FULL, 1);
	rte(8, 0x58);
	outb(0xa1, 0xff);
	is(pulse(8), 1, "RTC tick");
	is(pulse(8), 0, "coalesced until EOI, though edge");
	takes(cpu(0), 0x58);
	is(pulse(8), 0, "in service counts too");
	eoi(cpu(0));
	is(pulse(8), 1, "after EOI");
	fake_vm_end();
}

static void test_dest_modes(void)
{
	begin(IRQCHIP_FULL, 4);
	for (u32 i = 0; i < 4; i++)
		apic_w(cpu(i), APIC_LDR, 1u << (24 + i));
	rte(20, TO(6) | LOGICAL | 0x61);
	is(pulse(20), 2, "logical flat to two");
	ok(takes(cpu(1), 0x61) && takes(cpu(2), 0x61), "both got it");
	rte(20, TO(0xff) | 0x62);
	is(pulse(20), 4, "physical broadcast");
	rte(20, TO(0xf) | LOGICAL | 0x163);
	is(pulse(20) + pulse(20) + pulse(20) + pulse(20), 4, "lowest priority goes to one");
	for (u32 i = 0; i < 4; i++)
		ok(lapic_test(cpu(i)->lapic, APIC_IRR, 0x63), "arbitration is fair: vCPU %u", i);
	rte(20, TO(9) | 0x64);
	is(pulse(20), 0, "nobody has that id");
	rte(20, TO(2) | 0x464);
	pulse(20);
	ok(requests(cpu(2)) & REQ_KVM, "NMI delivery mode");
	fake_vm_end();
}

static void test_ioapic_state(void)
{
	struct kvm_irqchip k = { .chip_id = KVM_IRQCHIP_IOAPIC }, k2;

	begin(IRQCHIP_FULL, 1);
	rte(10, LEVEL | 0x52);
	rte(21, 0x55);
	irq_set_level(&fake_m, 0, 10, 1, true);
	irq_set_level(&fake_m, 0, 21, 1, true);
	is(irqchip_get(&fake_m, &k), 0, "get");
	is(k.chip.ioapic.base_address, IOAPIC_BASE, "base");
	is(k.chip.ioapic.irr, 1u << 10, "a delivered edge is not in the saved IRR");
	ok(k.chip.ioapic.redirtbl[10].fields.remote_irr, "remote IRR saved");
	rte(10, MASKED);
	is(irqchip_set(&fake_m, &k), 0, "set");
	k2 = k;
	irqchip_get(&fake_m, &k2);
	ok(!memcmp(&k, &k2, sizeof(k)), "round trip");
	ok(takes(cpu(0), 0x55) && !takes(cpu(0), 0x52), "the edge, which was in the APIC");
	eoi(cpu(0));
	ok(takes(cpu(0), 0x52), "the level");
	eoi(cpu(0));
	ok(takes(cpu(0), 0x52), "level is still up after restore");
	fake_vm_end();
}

static void set_route(u32 gsi, u32 lo, u32 hi, u32 data, int want, const char *name)
{
	struct kvm_irq_routing_entry e = { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };

	e.u.msi.address_lo = lo;
	e.u.msi.address_hi = hi;
	e.u.msi.data = data;
	is(irq_set_routing(&fake_m, &e, 1), want, "%s", name);
}

static void test_routing(void)
{
	struct kvm_irq_routing_entry e[2];

	begin(IRQCHIP_FULL, 2);
	set_route(100, 0xfee01000, 0, 0x71, 0, "MSI route");
	is(pulse(100), 1, "line on a message route sends it");
	ok(takes(cpu(1), 0x71), "to vCPU 1");
	is(pulse(4), (u64)-1, "default routes are gone");
	set_route(4096, 0xfee00000, 0, 0x71, -EINVAL, "GSI too large");
	memset(e, 0, sizeof(e));
	e[0].type = KVM_IRQ_ROUTING_IRQCHIP;
	e[0].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	e[0].u.irqchip.pin = 24;
	is(irq_set_routing(&fake_m, e, 1), (u64)-EINVAL, "pin 24");
	e[0].u.irqchip.irqchip = KVM_IRQCHIP_PIC_SLAVE;
	e[0].u.irqchip.pin = 8;
	is(irq_set_routing(&fake_m, e, 1), (u64)-EINVAL, "8259 pin 8");
	e[0].u.irqchip.irqchip = 3;
	is(irq_set_routing(&fake_m, e, 1), (u64)-EINVAL, "no such chip");
	e[0].u.irqchip.irqchip = KVM_IRQCHIP_PIC_SLAVE;
	e[0].u.irqchip.pin = 1;
	e[1] = e[0];
	is(irq_set_routing(&fake_m, e, 2), (u64)-EINVAL, "twice to one chip");
	e[1].type = KVM_IRQ_ROUTING_MSI;
	is(irq_set_routing(&fake_m, e, 2), (u64)-EINVAL, "chip and message");
	e[0].flags = 1;
	is(irq_set_routing(&fake_m, e, 1), (u64)-EINVAL, "flags");
	e[0].flags = 0;
	e[0].type = 77;
	is(irq_set_routing(&fake_m, e, 1), (u64)-EINVAL, "unknown type");
	is(pulse(100), 1, "a refused table changes nothing");
	is(irq_set_routing(&fake_m, NULL, 0), 0, "empty table");
	is(pulse(100), (u64)-1, "no routes left");
	fake_vm_end();

	fake_vm(IRQCHIP_NONE, 0);
	is(irq_set_routing(&fake_m, NULL, 0), (u64)-EINVAL, "no chip, no routes");
	is(irqchip_enable(&fake_m, IRQCHIP_SPLIT, 5000), (u64)-EINVAL, "too many pins");
	is(irqchip_enable(&fake_m, IRQCHIP_FULL, 0), 0, "enable");
	is(irqchip_enable(&fake_m, IRQCHIP_SPLIT, 24), (u64)-EEXIST, "only once");
	fake_vm_end();
}

static void test_msi(void)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x44 };

	begin(IRQCHIP_FULL, 2);
	is(irq_send_msi(&fake_m, &msi), 1, "KVM_SIGNAL_MSI");
	msi.flags = 2;
	is(irq_send_msi(&fake_m, &msi), (u64)-EINVAL, "flags");
	msi.flags = 0;
	msi.address_hi = 0x100;
	is(irq_send_msi(&fake_m, &msi), 1, "address_hi ignored without the 32-bit format");
	is(irqchip_set_x2apic_api(&fake_m, 4), (u64)-EINVAL, "unknown API flag");
	is(irqchip_set_x2apic_api(&fake_m, 1), 0, "32-bit ids");
	is(irq_send_msi(&fake_m, &msi), 0, "id 256: nobody");
	msi.address_hi = 1;
	is(irq_send_msi(&fake_m, &msi), (u64)-EINVAL, "low byte of address_hi is reserved");
	fake_vm_end();
}

static void test_split(void)
{
	u8 vec = 0;

	begin(IRQCHIP_SPLIT, 2);
	is(irq_pio_read(cpu(0), 0x20, 1, &vec), (u64)-EOPNOTSUPP, "no 8259");
	is(mmio_r(cpu(0), IOAPIC_BASE), 0xeeeeeeee, "no I/O APIC");
	ok(apic_r(cpu(0), APIC_LVR) & APIC_LVR_DIRECTED_EOI, "directed EOI offered");
	set_route(5, 0xfee01000, 0, 0x8000 | 0x4000 | 0x66, 0, "level message of a pin");
	irq_set_level(&fake_m, 0, 5, 1, false);
	ok(takes(cpu(1), 0x66), "delivered");
	requests(cpu(1));
	eoi(cpu(1));
	ok(requests(cpu(1)) & REQ_KVM, "EOI is for user space");
	is(irq_sync_events(cpu(1), &vec), IRQ_EV_IOAPIC_EOI, "event");
	is(vec, 0x66, "vector");
	set_route(5, 0xfee01000, 0, 0x67, 0, "edge message");
	irq_set_level(&fake_m, 0, 5, 1, false);
	takes(cpu(1), 0x67);
	eoi(cpu(1));
	is(irq_sync_events(cpu(1), &vec), 0, "edge EOI stays here");
	set_route(24, 0xfee01000, 0, 0x8066, 0, "GSI that is no pin");
	irq_set_level(&fake_m, 0, 24, 1, false);
	takes(cpu(1), 0x66);
	eoi(cpu(1));
	is(irq_sync_events(cpu(1), &vec), 0, "not a pin: EOI stays here");
	apic_w(cpu(0), APIC_LVT0, 0x700);
	is(irq_queue_extint(cpu(0), 0x38), 0, "KVM_INTERRUPT");
	is(irq_queue_extint(cpu(0), 0x39), (u64)-EEXIST, "one at a time");
	ok(takes(cpu(0), 0x38), "ExtINT");
	is(irq_queue_extint(cpu(0), 0x39), 0, "free again");
	apic_w(cpu(0), APIC_LVT0, 0x10700);
	is(irq_intr_pending(cpu(0)), -1, "LINT0 masked");
	ok(!irq_accepts_extint(cpu(0)), "not accepting");
	fake_vm_end();
}

int main(void)
{
	test_registers();
	test_edge();
	test_level();
	test_storm();
	test_notifier();
	test_rtc();
	test_dest_modes();
	test_ioapic_state();
	test_routing();
	test_msi();
	test_split();
	return done_testing();
}
