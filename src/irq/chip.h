/* SPDX-License-Identifier: MIT */
/*
 * The VM-wide chips, as the files of this room share them.
 *
 * Lock order: ack_lock, then pit.lock or one of pic.lock and ioapic.lock, then route_lock, then a LAPIC
 * timer's lock, then the timer queue's. Acknowledge notifiers run under ack_lock alone, so they may
 * drive lines; nobody takes ack_lock while it holds a chip's lock.
 */
#pragma once
#include <asm/kvm.h>
#include "base/base.h"
#include "irq/irq.h"
#include "irq/lapic.h"

#define IRQ_GSIS 4096
#define PIC_PINS 16
#define IOAPIC_PINS KVM_IOAPIC_NUM_PINS
#define IOAPIC_BASE 0xfec00000ull
#define RTC_GSI 8

/* ---- 8259 pair ------------------------------------------------------------------------------- */

/**
 * struct pic - master and slave
 * @output: the INTR line; read without the lock
 * @wake: INTR rose while the lock was held: wake a vCPU that listens, after dropping it
 * @level: per pin, one bit per enum irq_source
 */
struct pic {
	_Atomic u32 lock;
	_Atomic u32 output;
	bool wake;
	struct kvm_pic_state s[2];
	u64 level[PIC_PINS];
};

int pic_set_irq(struct irqchip *c, u32 pin, u32 source, int level);
int pic_peek(struct irqchip *c);	/* vector an acknowledge would give */
int pic_ack(struct irqchip *c);
void pic_init(struct irqchip *c);
int pic_pio_read(struct irqchip *c, u16 port, unsigned int size, void *data);
int pic_pio_write(struct irqchip *c, u16 port, unsigned int size, const void *data);
void pic_get(struct irqchip *c, unsigned int n, struct kvm_pic_state *s);
void pic_set(struct irqchip *c, unsigned int n, const struct kvm_pic_state *s);

/* ---- I/O APIC -------------------------------------------------------------------------------- */

/**
 * struct ioapic
 * @irr: pins whose line is (or, edge, was) up
 * @delivered: edge pins already sent: not in the state user space saves
 * @eois: per pin, level interrupts re-sent straight from an EOI; a storm is slowed down by @storm
 * @rtc_pending: vCPUs that have the RTC's interrupt and have not EOIed it
 */
struct ioapic {
	_Atomic u32 lock;
	u64 base;
	u32 regsel, id, irr, pad, delivered;
	u64 redir[IOAPIC_PINS];
	u64 level[IOAPIC_PINS];
	u32 eois[IOAPIC_PINS];
	int rtc_pending;
	struct dest_track rtc;
	struct irq_timer storm;
};

void ioapic_init(struct irqchip *c);
int ioapic_set_irq(struct irqchip *c, u32 pin, u32 source, int level, bool line_status);
void ioapic_eoi(struct irqchip *c, struct lapic *l, u8 vector, bool level);
int ioapic_mmio_read(struct irqchip *c, gpa_t gpa, unsigned int len, void *data);
int ioapic_mmio_write(struct irqchip *c, gpa_t gpa, unsigned int len, const void *data);
void ioapic_get(struct irqchip *c, struct kvm_ioapic_state *s);
void ioapic_set(struct irqchip *c, const struct kvm_ioapic_state *s);
void ioapic_rescan(struct irqchip *c);	/* routes or notifiers changed */
void ioapic_rtc_restore(struct irqchip *c, struct lapic *l);

/* ---- 8254 ------------------------------------------------------------------------------------ */

/**
 * struct pit
 * @due: channel 0's next (after a one-shot: last) expiry
 * @running: the host timer is armed
 * @pending: ticks the guest has not been given (reinject mode)
 * @acked: the guest has acknowledged the last tick
 */
struct pit {
	_Atomic u32 lock;
	_Atomic u32 line;	/* held from an edge's begin to its end */
	struct irqchip *c;
	struct kvm_pit_channel_state ch[3];
	u32 flags;
	bool speaker, periodic, running;
	u64 period, due;
	_Atomic u32 reinject, acked;
	_Atomic s32 pending;
	struct irq_timer t;
	struct irq_ack_notifier ack;
};

int pit_pio_read(struct pit *p, u16 port, unsigned int size, void *data);
int pit_pio_write(struct pit *p, u16 port, unsigned int size, const void *data);
void pit_unmasked(struct pit *p);
void pit_destroy(struct irqchip *c);

/* ---- all of it ------------------------------------------------------------------------------- */

struct routes;

/**
 * struct irqchip - the interrupt side of a VM
 * @lapic: by struct vcpu.index; NULL where there is none (yet)
 * @eoi_vectors: vectors whose EOI somebody here or in user space wants to hear of
 * @ack_gsi: GSIs that have an acknowledge notifier
 * @nmi_watchdogs: vCPUs whose LVT0 is in NMI mode: the PIT's ticks go there too
 */
struct irqchip {
	struct machine *m;
	const struct irq_ops *ops;
	void *ctx;
	struct irq_timerq *q;
	_Atomic u32 mode;
	_Atomic u32 x2apic_format, quirk_off;
	u32 bsp, split_pins;
	_Atomic u32 nlapic;
	struct lapic *_Atomic lapic[VCPU_MAX];
	_Atomic u64 eoi_vectors[4];
	_Atomic u32 nmi_watchdogs;
	struct pic pic;
	struct ioapic ioapic;
	struct pit *_Atomic pit;
	_Atomic u32 route_lock;
	struct routes *routes;
	_Atomic u32 ack_lock;
	struct irq_ack_notifier *ack;
	_Atomic u64 ack_gsi[IRQ_GSIS / 64];
};

static inline u64 irq_now(struct irqchip *c)
{
	return c->ops->now ? c->ops->now(c->ctx) : base_now_ns();
}

#define for_each_lapic(c, l)									\
	for (u32 i_ = 0, n_ = atomic_load_explicit(&(c)->nlapic, memory_order_acquire);	\
	     i_ < n_; i_++)									\
		if (!((l) = atomic_load_explicit(&(c)->lapic[i_], memory_order_acquire)))	\
			;									\
		else

/* A line's level: the OR over its sources, after source changed. */
static inline int irq_line_or(u64 *sources, u32 source, int level)
{
	if (level)
		*sources |= BIT(source);
	else
		*sources &= ~BIT(source);
	return *sources != 0;
}

/* route.c */
int route_init(struct irqchip *c, bool defaults);
void route_destroy(struct irqchip *c);
int route_gsi(struct irqchip *c, u32 chip, u32 pin);	/* GSI of a chip's pin, or -1 */
bool route_wants_eoi(struct irqchip *c, struct lapic *l, u8 vector); /* split mode */
bool irq_has_notifier(struct irqchip *c, u32 chip, u32 pin);
void irq_notify_ack(struct irqchip *c, u32 chip, u32 pin);
void irq_notify_mask(struct irqchip *c, u32 chip, u32 pin, bool masked);
