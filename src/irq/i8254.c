/* SPDX-License-Identifier: MIT */
/*
 * The 8254 and the speaker port. [Intel 8254 Programmable Interval Timer] Counts are computed from the
 * clock; only channel 0 has a host timer, and only while its output is wired to GSI 0.
 *
 * BCD counting is not done, nor the null-count status bit, as in KVM.
 *
 * Reinject mode: a tick is given to the guest only after it acknowledged the one before; the others are
 * counted and follow one per acknowledge, so that a guest which counts ticks keeps its time.
 */
#include "irq/chip.h"
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#define PIT_HZ 1193181
#define NS_PER_S 1000000000ull
#define MIN_PERIOD_NS 200000

enum { RW_LSB = 1, RW_MSB = 2, RW_WORD0 = 3, RW_WORD1 = 4 };

/* ---- counting -------------------------------------------------------------------------------- */

/* PIT clocks since channel n was loaded. */
static u64 elapsed(struct pit *p, unsigned int n)
{
	u64 now = irq_now(p->c);
	s64 ns;

	if (n == 0)
		ns = p->period ? (s64)(p->period - p->due + now) : 0;
	else
		ns = (s64)(now - (u64)p->ch[n].count_load_time);
	return ns < 0 ? 0 : mul_div((u64)ns, PIT_HZ, NS_PER_S);
}

static u32 count_of(struct pit *p, unsigned int n)
{
	struct kvm_pit_channel_state *ch = &p->ch[n];
	u64 d = elapsed(p, n);

	switch (ch->mode) {
	case 0:
	case 1:
	case 4:
	case 5: /* goes on below zero */
		return (u32)(ch->count - d) & 0xffff;
	case 3: /* counts down by two, twice per period */
		return ch->count - (u32)(2 * d % ch->count);
	default:
		return ch->count - (u32)(d % ch->count);
	}
}

static bool out_of(struct pit *p, unsigned int n)
{
	struct kvm_pit_channel_state *ch = &p->ch[n];
	u64 d = elapsed(p, n);

	switch (ch->mode) {
	case 1:
		return d < ch->count;
	case 2:
		return d && d % ch->count == 0;
	case 3:
		return d % ch->count < (ch->count + 1) >> 1;
	case 4:
	case 5:
		return d == ch->count;
	default:
		return d >= ch->count;
	}
}

/* ---- channel 0's interrupt ------------------------------------------------------------------- */

static void reset_reinject(struct pit *p)
{
	p->pending = 0;
	p->acked = 1;
}

/*
 * One edge on GSI 0, and NMIs where LVT0 asks for them: Linux's NMI watchdog. Caller does not hold the lock. A vCPU
 * may acknowledge the edge before its end has been signalled; the next one must not begin until then, or it is none.
 */
static void tick(struct pit *p)
{
	struct lapic *l;

	if (p->reinject && !atomic_exchange(&p->acked, 0))
		return;
	lock_take(&p->line);
	irq_set_level(p->c->m, IRQ_SOURCE_PIT, 0, 1, false);
	irq_set_level(p->c->m, IRQ_SOURCE_PIT, 0, 0, false);
	lock_drop(&p->line);
	if (!p->c->nmi_watchdogs)
		return;
	for_each_lapic(p->c, l) {
		u32 lvt0 = lapic_get(l, APIC_LVT0);
		struct apic_msg m = { .delivery = (lvt0 & APIC_LVT_MODE) >> 8, .level = true };

		if (lapic_hw_enabled(l) && !(lvt0 & APIC_LVT_MASKED) && m.delivery == APIC_NMI)
			apic_accept(l, &m, NULL);
	}
}

static void on_timer(struct irq_timer *t, u64 now)
{
	struct pit *p = container_of(t, struct pit, t);
	u64 n = 1;

	lock_take(&p->lock);
	if (!p->running || now < p->due) {
		lock_drop(&p->lock);
		return;
	}
	p->running = p->periodic;
	if (p->periodic) {
		n += (now - p->due) / p->period;
		p->due += n * p->period;
		irq_timer_arm(p->c->q, t, p->due);
	}
	if (p->reinject)
		atomic_fetch_add(&p->pending, n > 0x10000 ? 0x10000 : (s32)n);
	lock_drop(&p->lock);
	tick(p);
}

static void on_ack(struct irq_ack_notifier *a)
{
	struct pit *p = container_of(a, struct pit, ack);
	s32 n = atomic_load(&p->pending);

	p->acked = 1;
	while (n > 0 && !atomic_compare_exchange_weak(&p->pending, &n, n - 1))
		;
	if (n > 1)
		tick(p);
}

void pit_unmasked(struct pit *p)
{
	if (p->reinject)
		reset_reinject(p);
}

static void stop_timer(struct pit *p)
{
	p->running = false;
	irq_timer_cancel(p->c->q, &p->t);
}

static void start_timer(struct pit *p, u32 count, bool periodic)
{
	u64 interval = mul_div(count, NS_PER_S, PIT_HZ);

	if (p->flags & KVM_PIT_FLAGS_HPET_LEGACY)
		return;
	p->periodic = periodic;
	p->period = periodic && interval < MIN_PERIOD_NS ? MIN_PERIOD_NS : interval;
	reset_reinject(p);
	p->running = true;
	p->due = irq_now(p->c) + interval;
	irq_timer_arm(p->c->q, &p->t, p->due);
}

static void load(struct pit *p, unsigned int n, u32 val)
{
	if (!val)
		val = 0x10000;
	p->ch[n].count = val;
	if (n) {
		p->ch[n].count_load_time = (s64)irq_now(p->c);
		return;
	}
	switch (p->ch[0].mode) {
	case 0:
	case 1:
	case 4:
		start_timer(p, val, false);
		break;
	case 2:
	case 3:
		start_timer(p, val, true);
		break;
	default:
		stop_timer(p);
		break;
	}
}

/* ---- ports ----------------------------------------------------------------------------------- */

static void latch_count(struct pit *p, unsigned int n)
{
	if (p->ch[n].count_latched)
		return;
	p->ch[n].latched_count = (u16)count_of(p, n);
	p->ch[n].count_latched = p->ch[n].rw_mode;
}

static void latch_status(struct pit *p, unsigned int n)
{
	struct kvm_pit_channel_state *ch = &p->ch[n];

	if (ch->status_latched)
		return;
	ch->status = (u8)(out_of(p, n) << 7 | ch->rw_mode << 4 | ch->mode << 1 | ch->bcd);
	ch->status_latched = 1;
}

static void control_write(struct pit *p, u8 val)
{
	struct kvm_pit_channel_state *ch = &p->ch[val >> 6 & 3];
	u8 access = val >> 4 & 3;

	if (val >> 6 == 3) { /* read-back command */
		for (unsigned int n = 0; n < 3; n++) {
			if (!(val & 2u << n))
				continue;
			if (!(val & 0x20))
				latch_count(p, n);
			if (!(val & 0x10))
				latch_status(p, n);
		}
	} else if (!access) {
		latch_count(p, val >> 6);
	} else {
		ch->rw_mode = ch->read_state = ch->write_state = access;
		ch->mode = val >> 1 & 7;
		if (ch->mode > 5)
			ch->mode -= 4;
		ch->bcd = val & 1;
	}
}

static void counter_write(struct pit *p, unsigned int n, u8 val)
{
	struct kvm_pit_channel_state *ch = &p->ch[n];

	switch (ch->write_state) {
	case RW_MSB:
		load(p, n, (u32)val << 8);
		break;
	case RW_WORD0:
		ch->write_latch = val;
		ch->write_state = RW_WORD1;
		break;
	case RW_WORD1:
		ch->write_state = RW_WORD0;
		load(p, n, ch->write_latch | (u32)val << 8);
		break;
	default:
		load(p, n, val);
		break;
	}
}

static u32 counter_read(struct pit *p, unsigned int n)
{
	struct kvm_pit_channel_state *ch = &p->ch[n];
	bool high;

	if (ch->status_latched) {
		ch->status_latched = 0;
		return ch->status;
	}
	if (ch->count_latched) {
		high = ch->count_latched == RW_MSB;
		ch->count_latched = ch->count_latched == RW_WORD0 ? RW_MSB : 0;
		return high ? ch->latched_count >> 8 : ch->latched_count & 0xff;
	}
	high = ch->read_state == RW_MSB || ch->read_state == RW_WORD1;
	if (ch->read_state == RW_WORD0)
		ch->read_state = RW_WORD1;
	else if (ch->read_state == RW_WORD1)
		ch->read_state = RW_WORD0;
	return count_of(p, n) >> (high ? 8 : 0) & 0xff;
}

static void gate(struct pit *p, unsigned int n, u8 val)
{
	struct kvm_pit_channel_state *ch = &p->ch[n];

	/* Modes 1, 2, 3 and 5 restart on the rising edge; stopping the count of the others is not done. */
	if (val > ch->gate && (ch->mode == 1 || ch->mode == 2 || ch->mode == 3 || ch->mode == 5))
		ch->count_load_time = (s64)irq_now(p->c);
	ch->gate = val;
}

static bool decodes(const struct pit *p, u16 port, unsigned int size)
{
	return (port >= 0x40 && port + size <= 0x44) || (p->speaker && port == 0x61);
}

int pit_pio_write(struct pit *p, u16 port, unsigned int size, const void *data)
{
	u8 val = *(const u8 *)data;

	if (!decodes(p, port, size))
		return -EOPNOTSUPP;
	lock_take(&p->lock);
	if (port == 0x61) {
		p->flags &= ~(u32)KVM_PIT_FLAGS_SPEAKER_DATA_ON;
		p->flags |= val & 2 ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0;
		gate(p, 2, val & 1);
	} else if (port == 0x43) {
		control_write(p, val);
	} else {
		counter_write(p, port & 3, val);
	}
	lock_drop(&p->lock);
	return 0;
}

static u32 speaker_read(struct pit *p)
{
	/* The DRAM refresh request toggles about every 15 us. */
	u32 refresh = irq_now(p->c) >> 14 & 1;

	return (p->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON ? 2 : 0) | p->ch[2].gate |
	       (u32)out_of(p, 2) << 5 | refresh << 4;
}

int pit_pio_read(struct pit *p, u16 port, unsigned int size, void *data)
{
	u32 val = 0;

	if (!decodes(p, port, size))
		return -EOPNOTSUPP;
	lock_take(&p->lock);
	if (port == 0x61)
		val = speaker_read(p);
	else if (port != 0x43)
		val = counter_read(p, port & 3);
	lock_drop(&p->lock);
	memcpy(data, &val, size < 4 ? size : 4);
	return 0;
}

/* ---- life and state -------------------------------------------------------------------------- */

int pit_create(struct machine *m, u32 flags)
{
	struct irqchip *c = m->irq;
	struct pit *p;

	if (c->mode != IRQCHIP_FULL)
		return -ENOENT;
	if (c->pit)
		return -EEXIST;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->c = c;
	p->speaker = flags & KVM_PIT_SPEAKER_DUMMY;
	irq_timer_init(&p->t, on_timer);
	p->ack = (struct irq_ack_notifier){ .gsi = 0, .acked = on_ack };
	for (unsigned int n = 0; n < 3; n++) {
		p->ch[n].mode = 0xff;
		p->ch[n].gate = n != 2;
		load(p, n, 0);
	}
	reset_reinject(p);
	p->reinject = 1;
	atomic_store(&c->pit, p);
	irq_ack_register(m, &p->ack);
	return 0;
}

void pit_destroy(struct irqchip *c)
{
	struct pit *p = c->pit;

	if (!p)
		return;
	pit_set_reinject(c->m, false);
	irq_timer_cancel_sync(c->q, &p->t);
	c->pit = NULL;
	free(p);
}

int pit_set_reinject(struct machine *m, bool reinject)
{
	struct pit *p = m->irq->pit;

	if (!p)
		return -ENXIO;
	if (atomic_exchange(&p->reinject, reinject) == reinject)
		return 0;
	if (reinject) {
		reset_reinject(p);
		irq_ack_register(m, &p->ack);
	} else {
		irq_ack_unregister(m, &p->ack);
	}
	return 0;
}

int pit_get(struct machine *m, struct kvm_pit_state2 *s)
{
	struct pit *p = m->irq->pit;

	if (!p)
		return -ENXIO;
	memset(s, 0, sizeof(*s));
	lock_take(&p->lock);
	memcpy(s->channels, p->ch, sizeof(p->ch));
	s->flags = p->flags;
	lock_drop(&p->lock);
	return 0;
}

static int set_state(struct machine *m, const struct kvm_pit_state2 *s, bool with_flags)
{
	struct pit *p = m->irq->pit;
	u32 legacy;

	if (!p)
		return -ENXIO;
	lock_take(&p->lock);
	legacy = p->flags & KVM_PIT_FLAGS_HPET_LEGACY;
	memcpy(p->ch, s->channels, sizeof(p->ch));
	if (with_flags)
		p->flags = s->flags;
	for (unsigned int n = 0; n < 3; n++) {
		/* The HPET takes over channel 0's line: stop, but keep the mode for later. */
		if (n == 0 && !legacy && p->flags & KVM_PIT_FLAGS_HPET_LEGACY) {
			p->ch[0].count = p->ch[0].count ?: 0x10000;
			stop_timer(p);
		} else {
			load(p, n, p->ch[n].count);
		}
	}
	lock_drop(&p->lock);
	return 0;
}

int pit_set(struct machine *m, const struct kvm_pit_state2 *s)
{
	return set_state(m, s, true);
}

int pit_set_channels(struct machine *m, const struct kvm_pit_state2 *s)
{
	return set_state(m, s, false);
}
