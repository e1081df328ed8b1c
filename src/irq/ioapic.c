/* SPDX-License-Identifier: MIT */
/*
 * The 82093AA I/O APIC: 24 pins, version 11H, so no EOI register. [82093AA I/O Advanced Programmable
 * Interrupt Controller]
 */
#include "irq/chip.h"
#include <errno.h>
#include <string.h>

enum { REG_ID = 0, REG_VERSION = 1, REG_ARB = 2, REG_REDIR = 0x10 };
#define WINDOW_LEN 0x100

/* Redirection table entry */
#define RTE_VECTOR(e) ((u8)(e))
#define RTE_DELIVERY(e) ((u8)((e) >> 8 & 7))
#define RTE_LOGICAL BIT(11)
#define RTE_STATUS BIT(12)
#define RTE_REMOTE_IRR BIT(14)
#define RTE_LEVEL BIT(15)
#define RTE_MASKED BIT(16)
#define RTE_DEST(e) ((u32)((e) >> 56))

/* After this many level interrupts re-sent from their own EOI the guest is given time to breathe. */
#define STORM_COUNT 10000
#define STORM_DELAY_NS 10000000

static struct apic_msg message(u64 e)
{
	return (struct apic_msg){
		.dest = RTE_DEST(e),
		.vector = RTE_VECTOR(e),
		.delivery = RTE_DELIVERY(e),
		.logical = e & RTE_LOGICAL,
		.trig = e & RTE_LEVEL,
		.level = true,
	};
}

/* ---- the real-time clock: user space asks whether its last tick was taken -------------------- */

static void rtc_forget(struct ioapic *io)
{
	io->rtc_pending = 0;
	io->rtc.map = 0;
}

static void rtc_eoi(struct ioapic *io, const struct lapic *l, u8 vector)
{
	u64 bit = BIT(l->v->index);

	if (io->rtc.map & bit && io->rtc.vector[l->v->index] == vector) {
		io->rtc.map &= ~bit;
		if (io->rtc_pending > 0)
			io->rtc_pending--;
	}
}

static void rtc_restore_one(struct ioapic *io, const struct lapic *l)
{
	u64 e = io->redir[RTC_GSI], bit = BIT(l->v->index);
	struct apic_msg m = message(e);

	if (!apic_match(l, NULL, &m) || lapic_pending_eoi(l, m.vector) == !!(io->rtc.map & bit))
		return;
	io->rtc.map ^= bit;
	io->rtc.vector[l->v->index] = m.vector;
	if (io->rtc.map & bit)
		io->rtc_pending++;
	else if (io->rtc_pending > 0)
		io->rtc_pending--;
}

void ioapic_rtc_restore(struct irqchip *c, struct lapic *l)
{
	lock_take(&c->ioapic.lock);
	rtc_restore_one(&c->ioapic, l);
	lock_drop(&c->ioapic.lock);
}

/* ---- sending --------------------------------------------------------------------------------- */

static int service(struct irqchip *c, u32 pin, bool line_status)
{
	struct ioapic *io = &c->ioapic;
	u64 e = io->redir[pin];
	struct apic_msg m = message(e);
	int ret;

	if (e & RTE_MASKED || (e & RTE_LEVEL && e & RTE_REMOTE_IRR))
		return -1;
	if (!(e & RTE_LEVEL))
		io->delivered |= 1u << pin;
	if (pin == RTC_GSI && line_status) {
		ret = apic_deliver(c, NULL, &m, &io->rtc);
		io->rtc_pending = ret < 0 ? 0 : ret;
	} else {
		ret = apic_deliver(c, NULL, &m, NULL);
	}
	if (ret && e & RTE_LEVEL)
		io->redir[pin] |= RTE_REMOTE_IRR;
	return ret;
}

static int set_pin(struct irqchip *c, u32 pin, int level, bool line_status)
{
	struct ioapic *io = &c->ioapic;
	u32 bit = 1u << pin, old = io->irr;

	if (!level) {
		io->irr &= ~bit;
		return 1;
	}
	if (pin == RTC_GSI && line_status && io->rtc_pending > 0)
		return 0;
	io->irr |= bit;
	if (!(io->redir[pin] & RTE_LEVEL)) {
		io->delivered &= ~bit;
		if (old & bit)
			return 0;
	}
	return service(c, pin, line_status);
}

int ioapic_set_irq(struct irqchip *c, u32 pin, u32 source, int level, bool line_status)
{
	struct ioapic *io = &c->ioapic;
	int ret;

	lock_take(&io->lock);
	ret = set_pin(c, pin, irq_line_or(&io->level[pin], source, level), line_status);
	lock_drop(&io->lock);
	return ret;
}

/* ---- EOI ------------------------------------------------------------------------------------- */

/* Level lines still up and free to be sent. */
static void on_storm_over(struct irq_timer *t, u64 now)
{
	struct irqchip *c = container_of(t, struct irqchip, ioapic.storm);
	struct ioapic *io = &c->ioapic;

	lock_take(&io->lock);
	for (u32 pin = 0; pin < IOAPIC_PINS; pin++)
		if (io->redir[pin] & RTE_LEVEL && io->irr >> pin & 1)
			service(c, pin, false);
	lock_drop(&io->lock);
}

static void eoi_pin(struct irqchip *c, const struct lapic *l, u32 pin, bool level)
{
	struct ioapic *io = &c->ioapic;

	/* An acknowledge notifier may drive lines. What it raises waits in irr for the end of this. */
	lock_drop(&io->lock);
	irq_notify_ack(c, KVM_IRQCHIP_IOAPIC, pin);
	lock_take(&io->lock);
	if (!level || lapic_get(l, APIC_SPIV) & APIC_SPIV_DIRECTED_EOI)
		return;
	io->redir[pin] &= ~RTE_REMOTE_IRR;
	if (io->redir[pin] & RTE_MASKED || !(io->irr >> pin & 1)) {
		io->eois[pin] = 0;
	} else if (++io->eois[pin] == STORM_COUNT) {
		io->eois[pin] = 0;
		irq_timer_arm(c->q, &io->storm, irq_now(c) + STORM_DELAY_NS);
	} else {
		service(c, pin, false);
	}
}

void ioapic_eoi(struct irqchip *c, struct lapic *l, u8 vector, bool level)
{
	struct ioapic *io = &c->ioapic;

	lock_take(&io->lock);
	rtc_eoi(io, l, vector);
	for (u32 pin = 0; pin < IOAPIC_PINS; pin++) {
		struct apic_msg m = message(io->redir[pin]);

		/*
		 * Only level EOIs are on the bus. Edge ones come here for notifiers, and the same vector
		 * may mean something else on a vCPU this pin never interrupts.
		 */
		if (m.vector == vector && (level || apic_match(l, NULL, &m)))
			eoi_pin(c, l, pin, level);
	}
	lock_drop(&io->lock);
}

/* Vectors whose EOIs must come here. */
static void rescan(struct irqchip *c)
{
	struct ioapic *io = &c->ioapic;
	u64 want[4] = { 0 };
	struct lapic *l;

	for (u32 pin = 0; pin < IOAPIC_PINS; pin++) {
		u64 e = io->redir[pin];

		if (e & RTE_LEVEL || pin == RTC_GSI || irq_has_notifier(c, KVM_IRQCHIP_IOAPIC, pin))
			want[RTE_VECTOR(e) / 64] |= BIT(RTE_VECTOR(e) % 64);
	}
	for_each_lapic(c, l)
		if (io->rtc.map & BIT(l->v->index)) {
			u8 vector = io->rtc.vector[l->v->index];

			want[vector / 64] |= BIT(vector % 64);
		}
	for (unsigned int i = 0; i < 4; i++)
		c->eoi_vectors[i] = want[i];
}

void ioapic_rescan(struct irqchip *c)
{
	lock_take(&c->ioapic.lock);
	rescan(c);
	lock_drop(&c->ioapic.lock);
}

/* ---- registers ------------------------------------------------------------------------------- */

static u32 read_window(const struct ioapic *io)
{
	u32 pin;

	switch (io->regsel) {
	case REG_VERSION:
		return (IOAPIC_PINS - 1) << 16 | 0x11;
	case REG_ID:
	case REG_ARB:
		return (io->id & 15) << 24;
	default:
		pin = (io->regsel - REG_REDIR) >> 1;
		if (pin >= IOAPIC_PINS)
			return 0xffffffff;
		return (u32)(io->redir[pin] >> (io->regsel & 1 ? 32 : 0));
	}
}

static void write_redir(struct irqchip *c, u32 pin, bool high, u32 val)
{
	const u64 readonly = RTE_REMOTE_IRR | RTE_STATUS;
	struct ioapic *io = &c->ioapic;
	u64 old = io->redir[pin], e;

	e = high ? (u32)old | (u64)val << 32 : (old & ~0xffffffffull) | val;
	e = (e & ~readonly) | (old & readonly);
	/* Linux and Xen make a pin edge for a moment to clear a stuck remote IRR. */
	if (!(e & RTE_LEVEL))
		e &= ~RTE_REMOTE_IRR;
	io->redir[pin] = e;
	if ((old ^ e) & RTE_MASKED)
		irq_notify_mask(c, KVM_IRQCHIP_IOAPIC, pin, e & RTE_MASKED);
	rescan(c);
	if (e & RTE_LEVEL && io->irr >> pin & 1)
		service(c, pin, false);
}

static void write_window(struct irqchip *c, u32 val)
{
	struct ioapic *io = &c->ioapic;
	u32 pin = (io->regsel - REG_REDIR) >> 1;

	if (io->regsel == REG_ID)
		io->id = val >> 24 & 15;
	else if (io->regsel >= REG_REDIR && pin < IOAPIC_PINS)
		write_redir(c, pin, io->regsel & 1, val);
}

static bool decodes(const struct ioapic *io, gpa_t gpa, unsigned int len)
{
	/* Where it is on the bus never changes; base is what user space last restored. */
	return gpa >= IOAPIC_BASE && gpa + len <= IOAPIC_BASE + WINDOW_LEN && gpa >= io->base &&
	       gpa < io->base + WINDOW_LEN;
}

int ioapic_mmio_read(struct irqchip *c, gpa_t gpa, unsigned int len, void *data)
{
	struct ioapic *io = &c->ioapic;
	u64 val = 0;

	lock_take(&io->lock);
	if (!decodes(io, gpa, len)) {
		lock_drop(&io->lock);
		return -EOPNOTSUPP;
	}
	if ((gpa & 0xff) == 0)
		val = io->regsel;
	else if ((gpa & 0xff) == 0x10)
		val = read_window(io);
	lock_drop(&io->lock);
	memcpy(data, &val, len < 8 ? len : 8);
	return 0;
}

int ioapic_mmio_write(struct irqchip *c, gpa_t gpa, unsigned int len, const void *data)
{
	struct ioapic *io = &c->ioapic;
	u32 val = 0;

	lock_take(&io->lock);
	if (!decodes(io, gpa, len)) {
		lock_drop(&io->lock);
		return -EOPNOTSUPP;
	}
	memcpy(&val, data, len < 4 ? len : 4);
	if ((gpa & 0xff) == 0)
		io->regsel = val & 0xff;
	else if ((gpa & 0xff) == 0x10)
		write_window(c, val);
	lock_drop(&io->lock);
	return 0;
}

/* ---- state ----------------------------------------------------------------------------------- */

void ioapic_init(struct irqchip *c)
{
	struct ioapic *io = &c->ioapic;

	for (u32 pin = 0; pin < IOAPIC_PINS; pin++)
		io->redir[pin] = RTE_MASKED;
	io->base = IOAPIC_BASE;
	irq_timer_init(&io->storm, on_storm_over);
	rescan(c);
}

void ioapic_get(struct irqchip *c, struct kvm_ioapic_state *s)
{
	struct ioapic *io = &c->ioapic;

	lock_take(&io->lock);
	*s = (struct kvm_ioapic_state){
		.base_address = io->base,
		.ioregsel = io->regsel,
		.id = io->id,
		.irr = io->irr & ~io->delivered,
		.pad = io->pad,
	};
	for (u32 pin = 0; pin < IOAPIC_PINS; pin++)
		s->redirtbl[pin].bits = io->redir[pin];
	lock_drop(&io->lock);
}

void ioapic_set(struct irqchip *c, const struct kvm_ioapic_state *s)
{
	struct ioapic *io = &c->ioapic;
	struct lapic *l;

	lock_take(&io->lock);
	io->base = s->base_address;
	io->regsel = s->ioregsel;
	io->id = s->id;
	io->pad = s->pad;
	io->irr = 0;
	io->delivered = 0;
	for (u32 pin = 0; pin < IOAPIC_PINS; pin++)
		io->redir[pin] = s->redirtbl[pin].bits;
	rescan(c);
	rtc_forget(io);
	for (u32 pin = 0; pin < IOAPIC_PINS; pin++)
		if (s->irr >> pin & 1)
			set_pin(c, pin, 1, true);
	rtc_forget(io);
	for_each_lapic(c, l)
		rtc_restore_one(io, l);
	lock_drop(&io->lock);
}
