/* SPDX-License-Identifier: MIT */
/*
 * The 8259A pair. [Intel 8259A Programmable Interrupt Controller, "Programming the 8259A"] The slave is
 * on the master's IR2; ELCR (ports 4D0, 4D1) chooses level or edge per pin as in the PIIX.
 *
 * ICW1's single and level modes are ignored, as in KVM.
 */
#include "irq/chip.h"
#include <errno.h>
#include <string.h>

#define CASCADE BIT(2)

/* ---- locking --------------------------------------------------------------------------------- */

static void drop(struct irqchip *c)
{
	bool wake = c->pic.wake;
	struct lapic *l;

	c->pic.wake = false;
	lock_drop(&c->pic.lock);
	if (!wake)
		return;
	for_each_lapic(c, l) {
		if (lapic_accepts_pic(l)) {
			vcpu_request(l->v, REQ_EVENT);
			return;
		}
	}
}

/* ---- the priority resolver ------------------------------------------------------------------- */

static int set_pin(struct kvm_pic_state *s, u32 pin, int level)
{
	u8 bit = (u8)(1u << pin);
	int ret = 1;

	if (s->elcr & bit) {
		if (level) {
			ret = !(s->irr & bit);
			s->irr |= bit;
			s->last_irr |= bit;
		} else {
			s->irr &= (u8)~bit;
			s->last_irr &= (u8)~bit;
		}
	} else if (level) {
		if (!(s->last_irr & bit)) {
			ret = !(s->irr & bit);
			s->irr |= bit;
		}
		s->last_irr |= bit;
	} else {
		s->last_irr &= (u8)~bit;
	}
	return s->imr & bit ? -1 : ret;
}

/* Rank of the most urgent pin in bits, 0 first; 8 when there is none. */
static u32 rank(const struct kvm_pic_state *s, u32 bits)
{
	u32 n = s->priority_add & 7, turned;

	bits &= 0xff;
	if (!bits)
		return 8;
	turned = (bits >> n | bits << (8 - n)) & 0xff;
	return (u32)__builtin_ctz(turned);
}

static u32 pin_of_rank(const struct kvm_pic_state *s, u32 r)
{
	return (r + s->priority_add) & 7;
}

/* The pin that wants service, or -1. */
static int wanted(const struct pic *p, unsigned int n)
{
	const struct kvm_pic_state *s = &p->s[n];
	u32 request = rank(s, s->irr & ~(u32)s->imr), busy = s->isr;

	if (request == 8)
		return -1;
	/* A slave may interrupt its own service once more in special fully nested mode. */
	if (n == 0 && s->special_fully_nested_mode)
		busy &= ~(u32)CASCADE;
	/* In special mask mode a masked pin in service holds nobody back. */
	if (s->special_mask)
		busy &= ~(u32)s->imr;
	return request < rank(s, busy) ? (int)pin_of_rank(s, request) : -1;
}

static void update(struct irqchip *c)
{
	struct pic *p = &c->pic;
	bool out;

	if (wanted(p, 1) >= 0) { /* an edge on the cascade, whatever the master made of the last one */
		set_pin(&p->s[0], 2, 1);
		set_pin(&p->s[0], 2, 0);
	}
	out = wanted(p, 0) >= 0;
	if (out && !p->output)
		p->wake = true;
	p->output = out;
}

int pic_set_irq(struct irqchip *c, u32 pin, u32 source, int level)
{
	struct pic *p = &c->pic;
	int ret;

	lock_take(&p->lock);
	ret = set_pin(&p->s[pin >> 3], pin & 7, irq_line_or(&p->level[pin], source, level));
	update(c);
	drop(c);
	return ret;
}

/* ---- acknowledge and EOI --------------------------------------------------------------------- */

/* End of a service. The lock is dropped while the world is told, who may raise the line again. */
static void clear_isr(struct irqchip *c, unsigned int n, u32 pin)
{
	c->pic.s[n].isr &= (u8)~(1u << pin);
	drop(c);
	irq_notify_ack(c, n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER, pin + 8 * n);
	lock_take(&c->pic.lock);
}

static void intack(struct irqchip *c, unsigned int n, u32 pin)
{
	struct kvm_pic_state *s = &c->pic.s[n];

	s->isr |= (u8)(1u << pin);
	if (!(s->elcr >> pin & 1))
		s->irr &= (u8)~(1u << pin);
	if (s->auto_eoi) {
		if (s->rotate_on_auto_eoi)
			s->priority_add = (pin + 1) & 7;
		clear_isr(c, n, pin);
	}
}

/* Which pins an acknowledge would take; 7 is what a chip answers when the request has gone. */
static int resolve(struct pic *p, int *slave)
{
	int pin = wanted(p, 0);

	*slave = pin == 2 ? wanted(p, 1) : -1;
	return pin;
}

static int vector_of(const struct pic *p, int pin, int slave)
{
	if (pin == 2)
		return p->s[1].irq_base + (slave < 0 ? 7 : slave);
	return p->s[0].irq_base + (pin < 0 ? 7 : pin);
}

int pic_peek(struct irqchip *c)
{
	int pin, slave, vector;

	lock_take(&c->pic.lock);
	pin = resolve(&c->pic, &slave);
	vector = vector_of(&c->pic, pin, slave);
	lock_drop(&c->pic.lock);
	return vector;
}

int pic_ack(struct irqchip *c)
{
	struct pic *p = &c->pic;
	int pin, slave, vector;

	lock_take(&p->lock);
	p->output = 0;
	pin = resolve(p, &slave);
	vector = vector_of(p, pin, slave);
	if (pin >= 0)
		intack(c, 0, (u32)pin);
	if (slave >= 0)
		intack(c, 1, (u32)slave);
	update(c);
	drop(c);
	return vector;
}

/* ---- command words --------------------------------------------------------------------------- */

static void icw1(struct irqchip *c, unsigned int n, u8 val)
{
	struct kvm_pic_state *s = &c->pic.s[n];
	u8 edges = s->irr & (u8)~s->elcr;
	struct lapic *l;
	bool heard = false;

	s->init4 = val & 1;
	s->last_irr = 0;
	s->irr &= s->elcr;
	s->imr = 0;
	s->priority_add = 0;
	s->special_mask = 0;
	s->read_reg_select = 0;
	if (!s->init4) {
		s->special_fully_nested_mode = 0;
		s->auto_eoi = 0;
	}
	s->init_state = 1;
	for_each_lapic(c, l)
		heard |= lapic_accepts_pic(l);
	if (!heard)
		return;
	/* The edges just forgotten will never be acknowledged otherwise. */
	for (u32 pin = 0; pin < 8; pin++)
		if (edges >> pin & 1)
			clear_isr(c, n, pin);
}

static void end_of_interrupt(struct irqchip *c, unsigned int n, u32 pin, bool rotate)
{
	if (rotate)
		c->pic.s[n].priority_add = (pin + 1) & 7;
	clear_isr(c, n, pin);
	update(c);
}

static void ocw2(struct irqchip *c, unsigned int n, u8 val)
{
	struct kvm_pic_state *s = &c->pic.s[n];
	u32 r;

	switch (val >> 5) {
	case 0: /* rotate in automatic EOI mode: clear, set */
	case 4:
		s->rotate_on_auto_eoi = val >> 7;
		break;
	case 1: /* non-specific EOI, and rotate on it */
	case 5:
		r = rank(s, s->isr);
		if (r != 8)
			end_of_interrupt(c, n, pin_of_rank(s, r), val >> 7);
		break;
	case 3: /* specific EOI, and rotate on it */
	case 7:
		end_of_interrupt(c, n, val & 7, val >> 7);
		break;
	case 6: /* set priority */
		s->priority_add = (val + 1) & 7;
		update(c);
		break;
	default:
		break;
	}
}

static void ocw3(struct kvm_pic_state *s, u8 val)
{
	if (val & 4)
		s->poll = 1;
	if (val & 2)
		s->read_reg_select = val & 1;
	if (val & 0x40)
		s->special_mask = val >> 5 & 1;
}

static void ocw1(struct irqchip *c, unsigned int n, u8 val)
{
	struct kvm_pic_state *s = &c->pic.s[n];
	u8 changed = s->imr ^ val;

	s->imr = val;
	for (u32 pin = 0; pin < 8; pin++)
		if (changed >> pin & 1)
			irq_notify_mask(c, n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER,
					pin + 8 * n, val >> pin & 1);
	update(c);
}

static void data_write(struct irqchip *c, unsigned int n, u8 val)
{
	struct kvm_pic_state *s = &c->pic.s[n];

	switch (s->init_state) {
	case 0:
		ocw1(c, n, val);
		break;
	case 1: /* ICW2 */
		s->irq_base = val & 0xf8;
		s->init_state = 2;
		break;
	case 2: /* ICW3: the wiring is fixed */
		s->init_state = s->init4 ? 3 : 0;
		break;
	case 3: /* ICW4 */
		s->special_fully_nested_mode = val >> 4 & 1;
		s->auto_eoi = val >> 1 & 1;
		s->init_state = 0;
		break;
	default:
		break;
	}
}

static u8 poll_read(struct irqchip *c, unsigned int n)
{
	struct pic *p = &c->pic;
	int pin = wanted(p, n);

	p->s[n].poll = 0;
	if (pin < 0) {
		update(c);
		return 7;
	}
	if (n == 1) {
		p->s[0].isr &= (u8)~CASCADE;
		p->s[0].irr &= (u8)~CASCADE;
	}
	p->s[n].irr &= (u8)~(1u << pin);
	clear_isr(c, n, (u32)pin);
	if (n == 1 || pin != 2)
		update(c);
	return (u8)pin;
}

/* ---- ports ----------------------------------------------------------------------------------- */

static bool decodes(u16 port, unsigned int size)
{
	u16 base = port & 0xfffe;

	return (base == 0x20 || base == 0xa0 || base == 0x4d0) && (port & 1) + size <= 2;
}

int pic_pio_write(struct irqchip *c, u16 port, unsigned int size, const void *data)
{
	u8 val = *(const u8 *)data;
	unsigned int n = port >> 7 & 1;

	if (!decodes(port, size))
		return -EOPNOTSUPP;
	if (size != 1)
		return 0;
	lock_take(&c->pic.lock);
	if (port >= 0x4d0) {
		struct kvm_pic_state *s = &c->pic.s[port & 1];

		s->elcr = val & s->elcr_mask;
	} else if (port & 1) {
		data_write(c, n, val);
	} else if (val & 0x10) {
		icw1(c, n, val);
	} else if (val & 8) {
		ocw3(&c->pic.s[n], val);
	} else {
		ocw2(c, n, val);
	}
	drop(c);
	return 0;
}

int pic_pio_read(struct irqchip *c, u16 port, unsigned int size, void *data)
{
	unsigned int n = port >> 7 & 1;
	struct kvm_pic_state *s = &c->pic.s[n];
	u8 val;

	if (!decodes(port, size))
		return -EOPNOTSUPP;
	memset(data, 0, size);
	if (size != 1)
		return 0;
	lock_take(&c->pic.lock);
	if (port >= 0x4d0)
		val = c->pic.s[port & 1].elcr;
	else if (s->poll)
		val = poll_read(c, n);
	else if (port & 1)
		val = s->imr;
	else
		val = s->read_reg_select ? s->isr : s->irr;
	drop(c);
	*(u8 *)data = val;
	return 0;
}

/* ---- state ----------------------------------------------------------------------------------- */

void pic_init(struct irqchip *c)
{
	/* Timer, keyboard, cascade; RTC and FPU: always edge. */
	c->pic.s[0].elcr_mask = 0xf8;
	c->pic.s[1].elcr_mask = 0xde;
}

void pic_get(struct irqchip *c, unsigned int n, struct kvm_pic_state *s)
{
	lock_take(&c->pic.lock);
	*s = c->pic.s[n];
	lock_drop(&c->pic.lock);
}

void pic_set(struct irqchip *c, unsigned int n, const struct kvm_pic_state *s)
{
	lock_take(&c->pic.lock);
	c->pic.s[n] = *s;
	update(c);
	drop(c);
}
