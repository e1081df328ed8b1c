/* SPDX-License-Identifier: MIT */
/*
 * The local APIC, as the files of this room share it.
 *
 * reg[] has the layout of the register page, 4 bytes at offset / 4, and is what KVM_GET_LAPIC copies.
 * Every word is atomic: other threads set IRR and TMR bits and read what decides about acceptance
 * (ID, LDR, DFR, SPIV, LVT0); the rest is touched by the vCPU's own thread. Accesses are relaxed; what
 * orders a post before its look is vcpu_request().
 */
#pragma once
#include "base/base.h"
#include "irq/irq.h"
#include "irq/timer.h"

enum apic_reg { /* byte offsets [SDM3A "Local APIC Register Address Map"] */
	APIC_ID = 0x20, APIC_LVR = 0x30, APIC_TASKPRI = 0x80, APIC_ARBPRI = 0x90, APIC_PROCPRI = 0xa0,
	APIC_EOI = 0xb0, APIC_LDR = 0xd0, APIC_DFR = 0xe0, APIC_SPIV = 0xf0, APIC_ISR = 0x100,
	APIC_TMR = 0x180, APIC_IRR = 0x200, APIC_ESR = 0x280, APIC_LVTCMCI = 0x2f0, APIC_ICR = 0x300,
	APIC_ICR2 = 0x310, APIC_LVTT = 0x320, APIC_LVTTHMR = 0x330, APIC_LVTPC = 0x340,
	APIC_LVT0 = 0x350, APIC_LVT1 = 0x360, APIC_LVTERR = 0x370, APIC_TMICT = 0x380,
	APIC_TMCCT = 0x390, APIC_TDCR = 0x3e0, APIC_SELF_IPI = 0x3f0,
};
/* In x2APIC mode the upper half of ICR lives in the unused word after it. */
#define APIC_ICR_X2HI (APIC_ICR + 4)

#define APIC_REGS 0x400
#define APIC_BASE_DEFAULT 0xfee00000ull
#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_X2APIC BIT(10)
#define APIC_BASE_ENABLE BIT(11)
#define APIC_VERSION 0x14
#define APIC_LVR_DIRECTED_EOI BIT(24)
#define APIC_SPIV_ENABLE BIT(8)
#define APIC_SPIV_DIRECTED_EOI BIT(12)
#define APIC_LVT_MASKED BIT(16)
#define APIC_LVT_LEVEL BIT(15)
#define APIC_LVT_MODE 0x700
#define APIC_DFR_FLAT 0xffffffffu
#define APIC_DFR_CLUSTER 0x0fffffffu
#define APIC_ICR_BUSY BIT(12)
#define APIC_BROADCAST 0xffu
#define X2APIC_BROADCAST 0xffffffffu

enum apic_delivery { /* delivery mode field of ICR, LVT, redirection entry, MSI */
	APIC_FIXED = 0, APIC_LOWEST = 1, APIC_SMI = 2, APIC_REMRD = 3, APIC_NMI = 4, APIC_INIT = 5,
	APIC_SIPI = 6, APIC_EXTINT = 7,
};
enum apic_shorthand { APIC_NOSHORT, APIC_SELF, APIC_ALL_INC, APIC_ALL_EXC };
enum apic_timer_mode { APIC_ONESHOT, APIC_PERIODIC, APIC_TSCDEADLINE }; /* LVTT 18:17 */

/**
 * struct apic_msg - an interrupt message, wherever it came from
 * @level: asserted
 * @trig: level triggered
 * @redir_hint: MSI redirection hint: as lowest priority
 */
struct apic_msg {
	u32 dest;
	u8 vector;
	u8 delivery;
	u8 shorthand;
	bool logical, level, trig, redir_hint;
};

/**
 * struct dest_track - who got an interrupt (RTC coalescing)
 * @map: bit per struct vcpu.index
 */
struct dest_track {
	u64 map;
	u8 vector[VCPU_MAX];
};

/**
 * struct lapic_timer
 * @lock: protects everything but @pending; inside it only the queue's lock is taken
 * @due: when the host timer is to fire; IRQ_NEVER = it is not armed
 * @target: when the count reaches (or reached) zero
 * @pending: expired and not yet seen by the vCPU; TIMER_MASKED: while LVTT was masked
 */
struct lapic_timer {
	_Atomic u32 lock;
	struct irq_timer t;
	u64 due, target, period;
	u64 tscdeadline;
	u32 mode, mode_mask, divide;
	_Atomic u32 pending;
};
enum { TIMER_FIRED = 1, TIMER_MASKED = 2 };

struct lapic {
	_Atomic u32 reg[APIC_REGS / 4];
	_Atomic u32 mode;		/* APIC_BASE_ENABLE | APIC_BASE_X2APIC of v->apic_base */
	_Atomic u32 irr_pending;	/* hint: 0 = IRR is empty */
	_Atomic u32 events;		/* enum lapic_event */
	_Atomic u32 sipi_vector;
	_Atomic u32 latched;		/* enum irq_event bits for irq_sync_events() */
	_Atomic u32 nmi_queued;
	_Atomic u32 eoi_vector;		/* for IRQ_EV_IOAPIC_EOI */
	_Atomic u32 arb_prio;
	_Atomic int extint;		/* split mode: vector queued by user space, or -1 */
	struct vcpu *v;
	struct irqchip *chip;
	gpa_t base;
	u32 nlvt;
	u32 isr_count;
	int isr_top;			/* highest vector in ISR, -1 = not known */
	bool lvt0_nmi;
	bool tpr_reporting;
	bool has_x2apic;		/* CPUID says so */
	gpa_t vapic_addr;		/* 0 = none */
	struct lapic_timer timer;
	/* PV EOI would keep its guest word and pending flag here. */
};

static inline u32 lapic_get(const struct lapic *l, u32 off)
{
	return atomic_load_explicit(&l->reg[off / 4], memory_order_relaxed);
}

static inline void lapic_put(struct lapic *l, u32 off, u32 val)
{
	atomic_store_explicit(&l->reg[off / 4], val, memory_order_relaxed);
}

/* One of the 256-bit registers: bit of vector, in its 16-byte spaced words. */
static inline bool lapic_test(const struct lapic *l, u32 off, u8 vector)
{
	return lapic_get(l, off + (vector >> 5) * 16u) >> (vector & 31) & 1;
}

static inline bool lapic_set(struct lapic *l, u32 off, u8 vector)
{
	u32 bit = 1u << (vector & 31);

	return atomic_fetch_or(&l->reg[(off + (vector >> 5) * 16u) / 4], bit) & bit;
}

static inline bool lapic_clear(struct lapic *l, u32 off, u8 vector)
{
	u32 bit = 1u << (vector & 31);

	return atomic_fetch_and(&l->reg[(off + (vector >> 5) * 16u) / 4], ~bit) & bit;
}

static inline bool lapic_x2apic(const struct lapic *l)
{
	return atomic_load_explicit(&l->mode, memory_order_relaxed) & APIC_BASE_X2APIC;
}

static inline bool lapic_hw_enabled(const struct lapic *l)
{
	return atomic_load_explicit(&l->mode, memory_order_relaxed) & APIC_BASE_ENABLE;
}

static inline bool lapic_sw_enabled(const struct lapic *l)
{
	return lapic_get(l, APIC_SPIV) & APIC_SPIV_ENABLE;
}

static inline u32 lapic_lvt_reg(u32 index)
{
	return index == 6 ? APIC_LVTCMCI : APIC_LVTT + 0x10 * index;
}

/* lapic.c */
int lapic_highest(const struct lapic *l, u32 off);	/* highest vector set in a 256-bit register, -1 */
void lapic_update_ppr(struct lapic *l);
int lapic_has_interrupt(struct lapic *l);		/* highest IRR above PPR, or -1 */
int lapic_take_interrupt(struct lapic *l);
void lapic_eoi(struct lapic *l);
void lapic_lvt0_changed(struct lapic *l, u32 val);
bool lapic_accepts_pic(const struct lapic *l);
bool lapic_pending_eoi(const struct lapic *l, u8 vector);

/* lapic_mmio.c */
int lapic_mmio_read(struct lapic *l, gpa_t gpa, unsigned int len, void *data);
int lapic_mmio_write(struct lapic *l, gpa_t gpa, unsigned int len, const void *data);

/* lapic_timer.c */
void lapic_timer_init(struct lapic *l);
void lapic_timer_stop(struct lapic *l);			/* and forget a pending expiry */
void lapic_timer_start(struct lapic *l, u32 count_reg);
void lapic_timer_lvtt_changed(struct lapic *l);
void lapic_timer_divide_changed(struct lapic *l, bool rescale);
void lapic_timer_sync(struct lapic *l);			/* turn an expiry into an IRR bit */
u32 lapic_timer_count(struct lapic *l);
u64 lapic_timer_tscdeadline(struct lapic *l);
void lapic_timer_set_tscdeadline(struct lapic *l, u64 val);

/* ipi.c */
bool apic_match(const struct lapic *target, const struct lapic *src, const struct apic_msg *m);
bool apic_accept(struct lapic *l, const struct apic_msg *m, struct dest_track *track);
int apic_deliver(struct irqchip *c, struct lapic *src, const struct apic_msg *m,
		 struct dest_track *track);
void apic_send_ipi(struct lapic *src, u32 icr_lo, u32 icr_hi);
