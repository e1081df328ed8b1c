/* SPDX-License-Identifier: MIT */
/*
 * GSI routing: from lines and messages to chips, and from chips back to who waits for an acknowledge.
 */
#include "irq/chip.h"
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#define NO_ROUTE 0xffff
#define ROUTES_PER_GSI 3 /* one per chip, or one message */

/**
 * struct route - one routing entry
 * @chip: KVM_IRQCHIP_*
 * @pin: 0-15 for both 8259s, 0-23 for the I/O APIC
 * @next: the GSI's next entry
 */
struct route {
	u32 gsi, type;
	u8 chip, pin;
	u16 next;
	u32 addr_lo, addr_hi, data;
};

/**
 * struct routes - the whole table; replaced as one
 * @first: by GSI, an index into @e
 * @gsi: of a chip's pin, -1 for none
 */
struct routes {
	u32 n;
	s16 gsi[KVM_NR_IRQCHIPS][IOAPIC_PINS];
	u16 first[IRQ_GSIS];
	struct route e[];
};

/* ---- messages -------------------------------------------------------------------------------- */

/* [SDM3A "Message Signalled Interrupts"], with KVM's place for bits 31:8 of an x2APIC id */
static struct apic_msg decode_msi(const struct irqchip *c, u32 lo, u32 hi, u32 data)
{
	return (struct apic_msg){
		.dest = (lo >> 12 & 0xff) | (c->x2apic_format ? hi & 0xffffff00 : 0),
		.vector = (u8)data,
		.delivery = data >> 8 & 7,
		.logical = lo >> 2 & 1,
		.redir_hint = lo >> 3 & 1,
		.trig = data >> 15 & 1,
		.level = true,
	};
}

static bool bad_address(const struct irqchip *c, u32 hi)
{
	return c->x2apic_format && hi & 0xff;
}

int irq_send_msi_raw(struct machine *m, u32 lo, u32 hi, u32 data)
{
	struct irqchip *c = m->irq;
	struct apic_msg msg;

	atomic_fetch_add(&m->outside, 1);
	if (c->mode == IRQCHIP_NONE || bad_address(c, hi))
		return -EINVAL;
	msg = decode_msi(c, lo, hi, data);
	return apic_deliver(c, NULL, &msg, NULL);
}

int irq_send_msi(struct machine *m, const struct kvm_msi *msi)
{
	if (msi->flags & ~(u32)KVM_MSI_VALID_DEVID)
		return -EINVAL;
	return irq_send_msi_raw(m, msi->address_lo, msi->address_hi, msi->data);
}

/* ---- the table ------------------------------------------------------------------------------- */

static int parse(const struct irqchip *c, const struct kvm_irq_routing_entry *u, struct route *r)
{
	*r = (struct route){ .gsi = u->gsi, .type = u->type, .next = NO_ROUTE };
	if (u->gsi >= IRQ_GSIS)
		return -EINVAL;
	if (u->flags & (u->type == KVM_IRQ_ROUTING_MSI ? ~(u32)KVM_MSI_VALID_DEVID : ~0u))
		return -EINVAL;
	switch (u->type) {
	case KVM_IRQ_ROUTING_MSI:
		r->addr_lo = u->u.msi.address_lo;
		r->addr_hi = u->u.msi.address_hi;
		r->data = u->u.msi.data;
		return bad_address(c, r->addr_hi) ? -EINVAL : 0;
	case KVM_IRQ_ROUTING_IRQCHIP:
		if (c->mode == IRQCHIP_SPLIT || u->u.irqchip.irqchip >= KVM_NR_IRQCHIPS)
			return -EINVAL;
		if (u->u.irqchip.pin >= (u->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC ? IOAPIC_PINS : 8))
			return -EINVAL;
		r->chip = (u8)u->u.irqchip.irqchip;
		r->pin = (u8)u->u.irqchip.pin;
		if (r->chip == KVM_IRQCHIP_PIC_SLAVE)
			r->pin += 8;
		return 0;
	default:
		return -EINVAL;
	}
}

/* Append e[i] to its GSI's list. A GSI goes to each chip once, or to one message. */
static int link_route(struct routes *t, u32 i)
{
	struct route *r = &t->e[i];
	u16 *at = &t->first[r->gsi];

	for (; *at != NO_ROUTE; at = &t->e[*at].next) {
		const struct route *o = &t->e[*at];

		if (o->type != KVM_IRQ_ROUTING_IRQCHIP || r->type != KVM_IRQ_ROUTING_IRQCHIP ||
		    o->chip == r->chip)
			return -EINVAL;
	}
	*at = (u16)i;
	if (r->type == KVM_IRQ_ROUTING_IRQCHIP)
		t->gsi[r->chip][r->pin] = (s16)r->gsi;
	return 0;
}

/* Split mode: vectors of level messages that stand for pins of the I/O APIC in user space. */
static void scan_split(struct irqchip *c, const struct routes *t)
{
	u64 want[4] = { 0 };

	for (u32 i = 0; i < t->n; i++) {
		const struct route *r = &t->e[i];

		if (r->type == KVM_IRQ_ROUTING_MSI && r->gsi < c->split_pins && r->data >> 15 & 1)
			want[(u8)r->data / 64] |= BIT((u8)r->data % 64);
	}
	for (unsigned int i = 0; i < 4; i++)
		c->eoi_vectors[i] = want[i];
}

static int set_routing(struct irqchip *c, const struct kvm_irq_routing_entry *u, u32 n)
{
	struct routes *t, *old;
	int ret = 0;

	if (n > IRQ_GSIS)
		return -EINVAL;
	t = malloc(sizeof(*t) + n * sizeof(t->e[0]));
	if (!t)
		return -ENOMEM;
	t->n = n;
	memset(t->gsi, 0xff, sizeof(t->gsi));
	memset(t->first, 0xff, sizeof(t->first));
	for (u32 i = 0; i < n && !ret; i++) {
		ret = parse(c, &u[i], &t->e[i]);
		if (!ret)
			ret = link_route(t, i);
	}
	if (ret) {
		free(t);
		return ret;
	}
	lock_take(&c->route_lock);
	old = c->routes;
	c->routes = t;
	if (c->mode == IRQCHIP_SPLIT)
		scan_split(c, t);
	lock_drop(&c->route_lock);
	free(old);
	if (c->mode == IRQCHIP_FULL)
		ioapic_rescan(c);
	return 0;
}

int irq_set_routing(struct machine *m, const struct kvm_irq_routing_entry *e, u32 n)
{
	return m->irq->mode == IRQCHIP_NONE ? -EINVAL : set_routing(m->irq, e, n);
}

int route_init(struct irqchip *c, bool defaults)
{
	struct kvm_irq_routing_entry u[IOAPIC_PINS + PIC_PINS];
	u32 n = 0;

	memset(u, 0, sizeof(u));
	for (u32 gsi = 0; defaults && gsi < IOAPIC_PINS; gsi++) {
		u[n].gsi = gsi;
		u[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		u[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		u[n++].u.irqchip.pin = gsi;
		if (gsi >= PIC_PINS)
			continue;
		u[n].gsi = gsi;
		u[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		u[n].u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		u[n++].u.irqchip.pin = gsi & 7;
	}
	return set_routing(c, u, n);
}

void route_destroy(struct irqchip *c)
{
	free(c->routes);
	c->routes = NULL;
}

int route_gsi(struct irqchip *c, u32 chip, u32 pin)
{
	int gsi;

	lock_take(&c->route_lock);
	gsi = c->routes ? c->routes->gsi[chip][pin] : -1;
	lock_drop(&c->route_lock);
	return gsi;
}

static u32 routes_of(struct irqchip *c, u32 gsi, struct route out[ROUTES_PER_GSI])
{
	u32 n = 0;

	if (gsi >= IRQ_GSIS)
		return 0;
	lock_take(&c->route_lock);
	if (c->routes)
		for (u16 i = c->routes->first[gsi]; i != NO_ROUTE && n < ROUTES_PER_GSI;
		     i = c->routes->e[i].next)
			out[n++] = c->routes->e[i];
	lock_drop(&c->route_lock);
	return n;
}

int irq_set_level(struct machine *m, u32 source, u32 gsi, int level, bool line_status)
{
	struct route r[ROUTES_PER_GSI];
	u32 n = routes_of(m->irq, gsi, r);
	int ret = -1, one;

	if (level && source != IRQ_SOURCE_PIT)
		atomic_fetch_add(&m->outside, 1);
	/* Which chip the guest listens to is not known: drive them all, the others are masked. */
	for (u32 i = 0; i < n; i++) {
		if (r[i].type == KVM_IRQ_ROUTING_MSI)
			one = level ? irq_send_msi_raw(m, r[i].addr_lo, r[i].addr_hi, r[i].data) : -1;
		else if (r[i].chip == KVM_IRQCHIP_IOAPIC)
			one = ioapic_set_irq(m->irq, r[i].pin, source, level, line_status);
		else
			one = pic_set_irq(m->irq, r[i].pin, source, level);
		if (one >= 0)
			ret = one + (ret < 0 ? 0 : ret);
	}
	return ret;
}

/* Split mode: does the user-space I/O APIC wait for this vCPU's EOI of vector? */
bool route_wants_eoi(struct irqchip *c, struct lapic *l, u8 vector)
{
	bool found = false;

	lock_take(&c->route_lock);
	for (u32 i = 0; c->routes && i < c->routes->n && !found; i++) {
		const struct route *r = &c->routes->e[i];
		struct apic_msg msg;

		if (r->type != KVM_IRQ_ROUTING_MSI || r->gsi >= c->split_pins)
			continue;
		msg = decode_msi(c, r->addr_lo, r->addr_hi, r->data);
		found = msg.trig && msg.vector == vector && apic_match(l, NULL, &msg);
	}
	lock_drop(&c->route_lock);
	return found;
}

/* ---- acknowledge and mask notifiers ---------------------------------------------------------- */

/* Recompute which GSIs have a notifier. ack_lock held. */
static void index_notifiers(struct irqchip *c)
{
	u64 map[IRQ_GSIS / 64] = { 0 };

	for (struct irq_ack_notifier *n = c->ack; n; n = n->next)
		if (n->gsi < IRQ_GSIS)
			map[n->gsi / 64] |= BIT(n->gsi % 64);
	for (u32 i = 0; i < IRQ_GSIS / 64; i++)
		c->ack_gsi[i] = map[i];
}

void irq_ack_register(struct machine *m, struct irq_ack_notifier *n)
{
	struct irqchip *c = m->irq;

	lock_take(&c->ack_lock);
	n->next = c->ack;
	c->ack = n;
	index_notifiers(c);
	lock_drop(&c->ack_lock);
	if (c->mode == IRQCHIP_FULL)
		ioapic_rescan(c);
}

void irq_ack_unregister(struct machine *m, struct irq_ack_notifier *n)
{
	struct irqchip *c = m->irq;

	lock_take(&c->ack_lock);
	for (struct irq_ack_notifier **at = &c->ack; *at; at = &(*at)->next) {
		if (*at == n) {
			*at = n->next;
			break;
		}
	}
	index_notifiers(c);
	lock_drop(&c->ack_lock);
	if (c->mode == IRQCHIP_FULL)
		ioapic_rescan(c);
}

static bool gsi_has_notifier(struct irqchip *c, int gsi)
{
	return gsi >= 0 && c->ack_gsi[gsi / 64] >> (gsi % 64) & 1;
}

bool irq_has_notifier(struct irqchip *c, u32 chip, u32 pin)
{
	return gsi_has_notifier(c, route_gsi(c, chip, pin));
}

void irq_notify_ack(struct irqchip *c, u32 chip, u32 pin)
{
	int gsi = route_gsi(c, chip, pin);

	if (!gsi_has_notifier(c, gsi))
		return;
	lock_take(&c->ack_lock);
	for (struct irq_ack_notifier *n = c->ack; n; n = n->next)
		if (n->gsi == (u32)gsi)
			n->acked(n);
	lock_drop(&c->ack_lock);
}

/* Only the PIT cares: ticks that nobody could see are not to be caught up with. */
void irq_notify_mask(struct irqchip *c, u32 chip, u32 pin, bool masked)
{
	if (!masked && c->pit && route_gsi(c, chip, pin) == 0)
		pit_unmasked(c->pit);
}
