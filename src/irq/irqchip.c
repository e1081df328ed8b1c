/* SPDX-License-Identifier: MIT */
/*
 * The VM's interrupt object, address decode, and what the processor asks at an instruction boundary.
 */
#include "irq/chip.h"
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>

/* ---- life ------------------------------------------------------------------------------------ */

int irqchip_create(struct machine *m, const struct irq_ops *ops, void *ctx, struct irq_timerq *q)
{
	struct irqchip *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->m = m;
	c->ops = ops;
	c->ctx = ctx;
	c->q = q;
	irq_timer_init(&c->ioapic.storm, NULL);
	m->irq = c;
	return 0;
}

void irqchip_destroy(struct machine *m)
{
	struct irqchip *c = m->irq;

	if (!c)
		return;
	pit_destroy(c);
	irq_timer_cancel_sync(c->q, &c->ioapic.storm);
	route_destroy(c);
	m->irq = NULL;
	free(c);
}

int irqchip_enable(struct machine *m, enum irqchip_mode mode, u32 pins)
{
	struct irqchip *c = m->irq;
	int ret;

	if (c->mode != IRQCHIP_NONE)
		return -EEXIST;
	if (m->nvcpus || pins > IRQ_GSIS)
		return -EINVAL;
	c->split_pins = mode == IRQCHIP_SPLIT ? pins : 0;
	if (mode == IRQCHIP_FULL)
		pic_init(c);
	ret = route_init(c, mode == IRQCHIP_FULL);
	if (ret)
		return ret;
	if (mode == IRQCHIP_FULL)
		ioapic_init(c);
	atomic_store(&c->mode, mode); /* everything before it is ready */
	return 0;
}

enum irqchip_mode irqchip_mode(const struct machine *m)
{
	return m->irq ? m->irq->mode : IRQCHIP_NONE;
}

void irqchip_set_bsp(struct machine *m, u32 vcpu_id)
{
	m->irq->bsp = vcpu_id;
}

bool irqchip_is_bsp(const struct vcpu *v)
{
	return v->id == (v->vm->irq ? v->vm->irq->bsp : 0);
}

int irqchip_set_x2apic_api(struct machine *m, u64 flags)
{
	if (flags & ~(u64)(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK))
		return -EINVAL;
	if (flags & KVM_X2APIC_API_USE_32BIT_IDS)
		m->irq->x2apic_format = 1;
	if (flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
		m->irq->quirk_off = 1;
	return 0;
}

int irqchip_get(struct machine *m, struct kvm_irqchip *k)
{
	if (m->irq->mode != IRQCHIP_FULL)
		return -ENXIO;
	switch (k->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		pic_get(m->irq, k->chip_id, &k->chip.pic);
		return 0;
	case KVM_IRQCHIP_IOAPIC:
		ioapic_get(m->irq, &k->chip.ioapic);
		return 0;
	default:
		return -EINVAL;
	}
}

int irqchip_set(struct machine *m, const struct kvm_irqchip *k)
{
	if (m->irq->mode != IRQCHIP_FULL)
		return -ENXIO;
	switch (k->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		pic_set(m->irq, k->chip_id, &k->chip.pic);
		return 0;
	case KVM_IRQCHIP_IOAPIC:
		ioapic_set(m->irq, &k->chip.ioapic);
		return 0;
	default:
		return -EINVAL;
	}
}

/* ---- decode ---------------------------------------------------------------------------------- */

int irq_pio_read(struct vcpu *v, u16 port, unsigned int size, void *data)
{
	struct irqchip *c = v->vm->irq;

	if (!c || c->mode != IRQCHIP_FULL)
		return -EOPNOTSUPP;
	if (c->pit && !pit_pio_read(c->pit, port, size, data))
		return 0;
	return pic_pio_read(c, port, size, data);
}

int irq_pio_write(struct vcpu *v, u16 port, unsigned int size, const void *data)
{
	struct irqchip *c = v->vm->irq;

	if (!c || c->mode != IRQCHIP_FULL)
		return -EOPNOTSUPP;
	if (c->pit && !pit_pio_write(c->pit, port, size, data))
		return 0;
	return pic_pio_write(c, port, size, data);
}

int irq_mmio_read(struct vcpu *v, gpa_t gpa, unsigned int len, void *data)
{
	struct irqchip *c = v->vm->irq;

	if (v->lapic && !lapic_mmio_read(v->lapic, gpa, len, data))
		return 0;
	if (!c || c->mode != IRQCHIP_FULL || gpa >> 12 != IOAPIC_BASE >> 12)
		return -EOPNOTSUPP;
	return ioapic_mmio_read(c, gpa, len, data);
}

int irq_mmio_write(struct vcpu *v, gpa_t gpa, unsigned int len, const void *data)
{
	struct irqchip *c = v->vm->irq;

	if (v->lapic && !lapic_mmio_write(v->lapic, gpa, len, data))
		return 0;
	if (!c || c->mode != IRQCHIP_FULL || gpa >> 12 != IOAPIC_BASE >> 12)
		return -EOPNOTSUPP;
	return ioapic_mmio_write(c, gpa, len, data);
}

/* ---- at an instruction boundary -------------------------------------------------------------- */

/* ExtINT comes before the local APIC's own: it has no priority the APIC knows. */
static bool has_extint(const struct lapic *l)
{
	const struct irqchip *c = l->chip;

	if (c->mode == IRQCHIP_FULL)
		return c->pic.output && lapic_accepts_pic(l);
	return l->extint >= 0 && lapic_accepts_pic(l);
}

int irq_intr_pending(struct vcpu *v)
{
	struct lapic *l = v->lapic;

	if (!l)
		return -1;
	lapic_timer_sync(l);
	if (has_extint(l))
		return l->chip->mode == IRQCHIP_FULL ? pic_peek(l->chip) : (int)l->extint;
	return lapic_has_interrupt(l);
}

int irq_intr_ack(struct vcpu *v)
{
	struct lapic *l = v->lapic;

	if (!l)
		return -1;
	lapic_timer_sync(l);
	if (has_extint(l))
		return l->chip->mode == IRQCHIP_FULL ? pic_ack(l->chip) : atomic_exchange(&l->extint, -1);
	return lapic_take_interrupt(l);
}

int irq_queue_extint(struct vcpu *v, u8 vector)
{
	struct lapic *l = v->lapic;
	int none = -1;

	if (!l || l->chip->mode == IRQCHIP_FULL)
		return -ENXIO;
	if (!atomic_compare_exchange_strong(&l->extint, &none, vector))
		return -EEXIST;
	vcpu_request(v, REQ_EVENT);
	return 0;
}

bool irq_accepts_extint(struct vcpu *v)
{
	return !v->lapic || lapic_accepts_pic(v->lapic);
}

/* ---- what only the KVM run loop can act on --------------------------------------------------- */

u32 lapic_pending_init_sipi(struct vcpu *v, u8 *vector)
{
	u32 bits = v->lapic ? atomic_load(&v->lapic->events) : 0;

	if (bits & LAPIC_SIPI && vector)
		*vector = (u8)v->lapic->sipi_vector;
	return bits;
}

void lapic_clear_events(struct vcpu *v, u32 bits)
{
	if (v->lapic)
		atomic_fetch_and(&v->lapic->events, ~bits);
}

u8 lapic_sipi_vector(struct vcpu *v)
{
	return v->lapic ? (u8)v->lapic->sipi_vector : 0;
}

void lapic_set_sipi_vector(struct vcpu *v, u8 vector)
{
	if (v->lapic)
		v->lapic->sipi_vector = vector;
}

void lapic_set_events(struct vcpu *v, u32 bits)
{
	if (!v->lapic)
		return;
	atomic_fetch_or(&v->lapic->events, bits);
	vcpu_request(v, REQ_KVM | REQ_EVENT);
}

u32 irq_sync_events(struct vcpu *v, u8 *eoi_vector)
{
	struct lapic *l = v->lapic;
	u32 bits;

	if (!l || !atomic_load(&l->latched))
		return 0;
	bits = atomic_exchange(&l->latched, 0);
	if (bits & IRQ_EV_NMI) {
		u32 n = atomic_exchange(&l->nmi_queued, 0);

		if (n > 1)
			bits |= IRQ_EV_NMI2;
		else if (!n) /* counted last time, between its poster's two steps */
			bits &= ~(u32)IRQ_EV_NMI;
	}
	if (bits & IRQ_EV_IOAPIC_EOI)
		*eoi_vector = (u8)l->eoi_vector;
	return bits;
}
