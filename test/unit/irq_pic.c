/* SPDX-License-Identifier: MIT */
/* The 8259 pair behind LINT0 in ExtINT mode. */
#include "irq_fake.h"

static void program(u8 icw4)
{
	outb(0x20, 0x11);
	outb(0x21, 0x20);
	outb(0x21, 4);
	outb(0x21, icw4);
	outb(0xa0, 0x11);
	outb(0xa1, 0x28);
	outb(0xa1, 2);
	outb(0xa1, icw4);
	outb(0x21, 0);
	outb(0xa1, 0);
}

/* PIC only: the I/O APIC's pins are masked after reset. */
static void begin(u8 icw4)
{
	fake_vm(IRQCHIP_FULL, 2);
	program(icw4);
	requests(cpu(0));
	requests(cpu(1));
}

static void test_basic(void)
{
	begin(1);
	is(irq_intr_pending(cpu(0)), -1, "quiet");
	is(pulse(4), 1, "edge delivered (the masked I/O APIC pin does not count)");
	ok(requests(cpu(0)) & REQ_EVENT, "the boot vCPU is told");
	is(requests(cpu(1)), 0, "the other one is not: its LINT0 is masked");
	is(irq_intr_pending(cpu(0)), 0x24, "pending shows the vector");
	is(irq_intr_pending(cpu(0)), 0x24, "and acknowledges nothing");
	is(irq_intr_pending(cpu(1)), -1, "not for the other vCPU");
	is(pulse(4), 0, "second edge is coalesced");
	is(irq_intr_ack(cpu(0)), 0x24, "ack");
	is(irq_intr_pending(cpu(0)), -1, "in service");
	outb(0x20, 0x0b);
	is(inb(0x20), 0x10, "ISR read");
	outb(0x20, 0x0a);
	pulse(4);
	is(inb(0x20), 0x10, "IRR read");
	is(irq_intr_pending(cpu(0)), -1, "same level is blocked");
	pulse(1);
	is(irq_intr_ack(cpu(0)), 0x21, "higher priority nests");
	outb(0x20, 0x20);
	is(irq_intr_pending(cpu(0)), -1, "EOI ends the highest first");
	outb(0x20, 0x64);
	is(irq_intr_ack(cpu(0)), 0x24, "specific EOI lets the waiting edge through");
	outb(0x20, 0x20);
	fake_vm_end();
}

static void test_cascade(void)
{
	begin(1);
	pulse(12);
	is(irq_intr_pending(cpu(0)), 0x2c, "slave vector");
	is(irq_intr_ack(cpu(0)), 0x2c, "slave ack");
	pulse(14);
	is(irq_intr_pending(cpu(0)), -1, "lower slave pin waits");
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	is(irq_intr_ack(cpu(0)), 0x2e, "after EOI to both");
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	outb(0xa1, 0xff);
	is(pulse(10), (u64)-1, "masked on every chip: ignored");
	is(irq_intr_pending(cpu(0)), -1, "masked");
	outb(0xa1, 0);
	is(irq_intr_ack(cpu(0)), 0x2a, "edge was remembered while masked");
	fake_vm_end();
}

static void test_level(void)
{
	begin(1);
	outb(0x4d0, 0xff);
	outb(0x4d1, 0xff);
	is(inb(0x4d0), 0xf8, "ELCR master: timer, keyboard, cascade stay edge");
	is(inb(0x4d1), 0xde, "ELCR slave: RTC, FPU stay edge");
	irq_set_level(&fake_m, IRQ_SOURCE_USER, 5, 1, false);
	irq_set_level(&fake_m, IRQ_SOURCE_RESAMPLE, 5, 1, false);
	is(irq_intr_ack(cpu(0)), 0x25, "level ack");
	irq_set_level(&fake_m, IRQ_SOURCE_USER, 5, 0, false);
	outb(0x20, 0x20);
	is(irq_intr_ack(cpu(0)), 0x25, "other source still holds the line");
	irq_set_level(&fake_m, IRQ_SOURCE_RESAMPLE, 5, 0, false);
	outb(0x20, 0x20);
	is(irq_intr_pending(cpu(0)), -1, "line down");
	fake_vm_end();
}

static void test_modes(void)
{
	begin(3); /* automatic EOI */
	pulse(3);
	is(irq_intr_ack(cpu(0)), 0x23, "AEOI ack");
	outb(0x20, 0x0b);
	is(inb(0x20), 0, "AEOI leaves nothing in service");
	fake_vm_end();

	begin(1);
	outb(0x20, 0xc2); /* set priority: pin 2 lowest, 3 highest */
	pulse(0);
	pulse(3);
	is(irq_intr_ack(cpu(0)), 0x23, "rotated priority");
	outb(0x20, 0x20);
	is(irq_intr_ack(cpu(0)), 0x20, "then the other");
	outb(0x20, 0xa0); /* rotate on non-specific EOI: 0 becomes lowest */
	pulse(0);
	pulse(7);
	is(irq_intr_ack(cpu(0)), 0x27, "rotate on EOI");
	fake_vm_end();

	begin(1);
	pulse(6);
	irq_intr_ack(cpu(0));
	outb(0x20, 0x68); /* special mask mode */
	outb(0x21, 0x40);
	pulse(7);
	is(irq_intr_ack(cpu(0)), 0x27, "special mask mode: masked ISR does not block");
	fake_vm_end();

	begin(0x11); /* special fully nested */
	pulse(12);
	irq_intr_ack(cpu(0));
	pulse(9);
	is(irq_intr_ack(cpu(0)), 0x29, "special fully nested: slave preempts itself");
	fake_vm_end();
}

static void test_poll_and_spurious(void)
{
	begin(1);
	pulse(4);
	outb(0x20, 0x0c);
	is(inb(0x20), 4, "poll acknowledges");
	is(irq_intr_pending(cpu(0)), -1, "poll took it");
	outb(0x20, 0x0c);
	is(inb(0x20), 7, "poll with nothing there");
	pulse(4);
	outb(0x21, 0x10);
	is(irq_intr_pending(cpu(0)), -1, "masked after the request");
	is(pic_ack(fake_m.irq), 0x27, "late acknowledge is spurious IR7");
	fake_vm_end();
}

static void test_state(void)
{
	struct kvm_irqchip k = { .chip_id = KVM_IRQCHIP_PIC_MASTER }, k2;
	u16 w = 0;

	begin(1);
	pulse(4);
	irq_intr_ack(cpu(0));
	pulse(5);
	outb(0x21, 0x81);
	is(irqchip_get(&fake_m, &k), 0, "get master");
	is(k.chip.pic.irq_base, 0x20, "irq_base");
	is(k.chip.pic.isr, 0x10, "isr");
	is(k.chip.pic.irr, 0x20, "irr");
	is(k.chip.pic.imr, 0x81, "imr");
	is(k.chip.pic.elcr_mask, 0xf8, "elcr_mask");
	program(1);
	is(irqchip_set(&fake_m, &k), 0, "set master");
	k2 = k;
	irqchip_get(&fake_m, &k2);
	ok(!memcmp(&k, &k2, sizeof(k)), "round trip");
	outb(0x20, 0x20);
	is(irq_intr_ack(cpu(0)), 0x25, "restored request is delivered");
	k.chip_id = 3;
	is(irqchip_get(&fake_m, &k), (u64)-EINVAL, "unknown chip");
	is(irq_pio_read(cpu(0), 0x21, 2, &w), (u64)-EOPNOTSUPP, "access across the end is not ours");
	is(irq_pio_read(cpu(0), 0x22, 1, &w), (u64)-EOPNOTSUPP, "port 22");
	is(irq_pio_write(cpu(0), 0x20, 2, &w), 0, "word write is swallowed");
	fake_vm_end();
}

static void test_extint_gate(void)
{
	begin(1);
	pulse(4);
	apic_on(cpu(0));
	apic_w(cpu(0), APIC_LVT0, 0x10700);
	is(irq_intr_pending(cpu(0)), -1, "LINT0 masked");
	requests(cpu(0));
	requests(cpu(1));
	apic_w(cpu(0), APIC_LVT0, 0x700);
	ok(requests(cpu(0)) & REQ_EVENT, "opening LINT0 makes the vCPU look");
	is(irq_intr_pending(cpu(0)), 0x24, "LINT0 ExtINT");
	is(lapic_set_base(cpu(0), APIC_BASE_DEFAULT | APIC_BASE_BSP, false), 0, "APIC off");
	is(irq_intr_pending(cpu(0)), 0x24, "disabled APIC passes INTR through");
	fake_vm_end();
}

int main(void)
{
	test_basic();
	test_cascade();
	test_level();
	test_modes();
	test_poll_and_spurious();
	test_state();
	test_extint_gate();
	return done_testing();
}
