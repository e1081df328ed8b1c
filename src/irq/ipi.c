/* SPDX-License-Identifier: MIT */
/*
 * Interrupt messages: who is meant, who accepts. [SDM3A "Determining IPI Destination", "Interrupt
 * Acceptance for Fixed Interrupts"]
 *
 * Everything here runs on any thread and touches a target only through its atomics.
 */
#include "irq/chip.h"
#include <errno.h>

/* ---- destination ----------------------------------------------------------------------------- */

static bool match_physical(const struct lapic *t, u32 dest)
{
	if (dest == (lapic_x2apic(t) ? X2APIC_BROADCAST : APIC_BROADCAST))
		return true;
	/* An id no xAPIC can name reaches a hot-plugged vCPU that is still in xAPIC mode. */
	if (lapic_x2apic(t) || dest > 0xff)
		return dest == t->v->id;
	return dest == lapic_get(t, APIC_ID) >> 24;
}

static bool match_logical(const struct lapic *t, u32 dest)
{
	u32 id = lapic_get(t, APIC_LDR);

	if (dest == (lapic_x2apic(t) ? X2APIC_BROADCAST : APIC_BROADCAST))
		return true;
	if (lapic_x2apic(t))
		return id >> 16 == dest >> 16 && id & dest & 0xffff;
	id >>= 24;
	switch (lapic_get(t, APIC_DFR)) {
	case APIC_DFR_FLAT:
		return id & dest;
	case APIC_DFR_CLUSTER:
		return id >> 4 == dest >> 4 && id & dest & 15;
	default:
		return false;
	}
}

bool apic_match(const struct lapic *t, const struct lapic *src, const struct apic_msg *m)
{
	u32 dest = m->dest;

	switch (m->shorthand) {
	case APIC_SELF:
		return t == src;
	case APIC_ALL_INC:
		return true;
	case APIC_ALL_EXC:
		return t != src;
	default:
		break;
	}
	/* Without interrupt remapping an 8-bit broadcast of a device means every x2APIC too. */
	if (!src && dest == APIC_BROADCAST && lapic_x2apic(t) && !t->chip->quirk_off)
		dest = X2APIC_BROADCAST;
	return m->logical ? match_logical(t, dest) : match_physical(t, dest);
}

/* ---- acceptance ------------------------------------------------------------------------------ */

static void post_vector(struct lapic *l, const struct apic_msg *m, struct dest_track *track)
{
	if (track) {
		track->map |= BIT(l->v->index);
		track->vector[l->v->index] = m->vector;
	}
	if (lapic_test(l, APIC_TMR, m->vector) != m->trig) {
		if (m->trig)
			lapic_set(l, APIC_TMR, m->vector);
		else
			lapic_clear(l, APIC_TMR, m->vector);
	}
	lapic_set(l, APIC_IRR, m->vector);
	atomic_store(&l->irr_pending, 1); /* after the bit: see lapic_take_interrupt() */
	vcpu_request(l->v, REQ_EVENT);
}

static void latch(struct lapic *l, u32 bit)
{
	atomic_fetch_or(&l->latched, bit);
	vcpu_request(l->v, REQ_KVM | REQ_EVENT);
}

bool apic_accept(struct lapic *l, const struct apic_msg *m, struct dest_track *track)
{
	switch (m->delivery) {
	case APIC_LOWEST:
		atomic_fetch_add(&l->arb_prio, 1);
		/* fall through */
	case APIC_FIXED:
		if ((m->trig && !m->level) || !lapic_hw_enabled(l) || !lapic_sw_enabled(l))
			return false;
		post_vector(l, m, track);
		return true;
	case APIC_REMRD: /* KVM's use of the mode: kick a vCPU out of a paravirtual halt */
		latch(l, IRQ_EV_UNHALT);
		return true;
	case APIC_SMI:
		latch(l, IRQ_EV_SMI);
		return true;
	case APIC_NMI:
		atomic_fetch_add(&l->nmi_queued, 1);
		latch(l, IRQ_EV_NMI);
		return true;
	case APIC_INIT:
		if (m->trig && !m->level) /* INIT level de-assert: no processor acts on it */
			return false;
		atomic_store(&l->events, LAPIC_INIT);
		vcpu_request(l->v, REQ_KVM | REQ_EVENT);
		return true;
	case APIC_SIPI:
		atomic_store(&l->sipi_vector, m->vector);
		atomic_fetch_or(&l->events, LAPIC_SIPI);
		vcpu_request(l->v, REQ_KVM | REQ_EVENT);
		return true;
	default: /* ExtINT is a level that lapic_accepts_pic() reads, not a message */
		return false;
	}
}

/* ---- delivery -------------------------------------------------------------------------------- */

static bool is_broadcast(const struct irqchip *c, const struct lapic *src, const struct apic_msg *m)
{
	if (c->quirk_off)
		return m->dest == X2APIC_BROADCAST || m->dest == APIC_BROADCAST;
	return m->dest == (src && lapic_x2apic(src) ? X2APIC_BROADCAST : APIC_BROADCAST);
}

static struct lapic *lowest_priority(struct irqchip *c, struct lapic *src, const struct apic_msg *m)
{
	struct lapic *l, *best = NULL;

	for_each_lapic(c, l) {
		if (!lapic_hw_enabled(l) || !lapic_sw_enabled(l) || !apic_match(l, src, m))
			continue;
		if (!best || (s32)(l->arb_prio - best->arb_prio) < 0)
			best = l;
	}
	return best;
}

/**
 * apic_deliver() - send a message to all it means
 * @c: the VM's chips
 * @src: the sender of an IPI, NULL for devices
 * @msg: the message
 * @track: records who took it, or NULL
 *
 * Return: how many accepted; -1 nobody was meant by a broadcast or shorthand.
 */
int apic_deliver(struct irqchip *c, struct lapic *src, const struct apic_msg *msg,
		 struct dest_track *track)
{
	struct apic_msg m = *msg;
	struct lapic *l;
	int r;

	if (m.shorthand == APIC_SELF)
		return src ? apic_accept(src, &m, track) : 0;
	r = m.shorthand || is_broadcast(c, src, &m) ? -1 : 0;
	if (!m.logical && m.dest == APIC_BROADCAST && m.delivery == APIC_LOWEST)
		m.delivery = APIC_FIXED;
	if (m.delivery == APIC_LOWEST || m.redir_hint) {
		l = lowest_priority(c, src, &m);
		return l ? apic_accept(l, &m, track) : r;
	}
	for_each_lapic(c, l) {
		if (lapic_hw_enabled(l) && apic_match(l, src, &m))
			r = (r < 0 ? 0 : r) + apic_accept(l, &m, track);
	}
	return r;
}

void apic_send_ipi(struct lapic *src, u32 lo, u32 hi)
{
	struct apic_msg m = {
		.dest = lapic_x2apic(src) ? hi : hi >> 24,
		.vector = (u8)lo,
		.delivery = lo >> 8 & 7,
		.logical = lo >> 11 & 1,
		.level = lo >> 14 & 1,
		.trig = lo >> 15 & 1,
		.shorthand = lo >> 18 & 3,
	};

	apic_deliver(src->chip, src, &m, NULL);
}

/* ---- paravirtual ----------------------------------------------------------------------------- */

s64 irq_pv_send_ipi(struct vcpu *v, u64 low, u64 high, u32 min, u64 icr, bool op64)
{
	struct apic_msg m = {
		.vector = (u8)icr,
		.delivery = icr >> 8 & 7,
		.level = icr >> 14 & 1,
		.trig = icr >> 15 & 1,
	};
	struct irqchip *c = v->vm->irq;
	u64 bits[2] = { low, high };
	u32 width = op64 ? 64 : 32;
	struct lapic *l;
	s64 count = 0;

	if (!v->lapic || icr & (0xc0000 | 0x800))
		return -EINVAL;
	for_each_lapic(c, l) {
		u32 id = lapic_x2apic(l) || l->v->id > 0xff ? l->v->id : lapic_get(l, APIC_ID) >> 24;
		u32 at = id - min;

		if (!lapic_hw_enabled(l) || id < min || at >= 2 * width)
			continue;
		if (bits[at / width] >> (at % width) & 1)
			count += apic_accept(l, &m, NULL);
	}
	return count;
}

void irq_pv_kick(struct vcpu *v, u32 apic_id)
{
	struct apic_msg m = { .dest = apic_id, .delivery = APIC_REMRD, .level = true };

	if (v->lapic)
		apic_deliver(v->vm->irq, NULL, &m, NULL);
}
