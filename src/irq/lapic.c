/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's state: modes, priorities, reset, save and restore. [SDM3A "Advanced Programmable
 * Interrupt Controller (APIC)"]
 */
#include "irq/lapic.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "irq/chip.h"

/* ---- IRR, ISR, priorities -------------------------------------------------------------------- */

int lapic_highest(const struct lapic *l, u32 off)
{
	for (int w = 7; w >= 0; w--) {
		u32 bits = lapic_get(l, off + (u32)w * 16);

		if (bits)
			return w * 32 + 31 - __builtin_clz(bits);
	}
	return -1;
}

static int highest_isr(struct lapic *l)
{
	if (!l->isr_count)
		return -1;
	if (l->isr_top < 0)
		l->isr_top = lapic_highest(l, APIC_ISR);
	return l->isr_top;
}

static void recount_isr(struct lapic *l)
{
	l->isr_count = 0;
	for (u32 w = 0; w < 8; w++)
		l->isr_count += (u32)__builtin_popcount(lapic_get(l, APIC_ISR + w * 16));
	l->isr_top = -1;
}

/* [SDM3A "Task and Processor Priorities"] */
static u32 compute_ppr(struct lapic *l)
{
	u32 tpr = lapic_get(l, APIC_TASKPRI), ppr;
	int isr = highest_isr(l);
	u32 isrv = isr < 0 ? 0 : (u32)isr & 0xf0;

	ppr = (tpr & 0xf0) >= isrv ? tpr & 0xff : isrv;
	lapic_put(l, APIC_PROCPRI, ppr);
	return ppr;
}

int lapic_has_interrupt(struct lapic *l)
{
	int irr;

	if (!lapic_hw_enabled(l) || !atomic_load_explicit(&l->irr_pending, memory_order_acquire))
		return -1;
	irr = lapic_highest(l, APIC_IRR);
	return irr >= 0 && ((u32)irr & 0xf0) > compute_ppr(l) ? irr : -1;
}

void lapic_update_ppr(struct lapic *l)
{
	compute_ppr(l);
	if (lapic_has_interrupt(l) >= 0)
		vcpu_request(l->v, REQ_EVENT);
}

int lapic_take_interrupt(struct lapic *l)
{
	int vector = lapic_has_interrupt(l);

	if (vector < 0)
		return -1;
	/*
	 * The hint goes down first: a poster sets its IRR bit before the hint, so either it is seen by
	 * the search below or its hint stays.
	 */
	atomic_store(&l->irr_pending, 0);
	lapic_clear(l, APIC_IRR, (u8)vector);
	if (lapic_highest(l, APIC_IRR) >= 0)
		atomic_store(&l->irr_pending, 1);
	if (!lapic_set(l, APIC_ISR, (u8)vector)) {
		l->isr_count++;
		l->isr_top = vector;
	}
	compute_ppr(l);
	return vector;
}

static void broadcast_eoi(struct lapic *l, u8 vector)
{
	struct irqchip *c = l->chip;

	if (!(c->eoi_vectors[vector / 64] >> (vector % 64) & 1))
		return;
	if (c->mode == IRQCHIP_FULL) {
		ioapic_eoi(c, l, vector, lapic_test(l, APIC_TMR, vector));
	} else if (route_wants_eoi(c, l, vector)) {
		l->eoi_vector = vector;
		atomic_fetch_or(&l->latched, IRQ_EV_IOAPIC_EOI);
		vcpu_request(l->v, REQ_KVM);
	}
}

void lapic_eoi(struct lapic *l)
{
	int vector = highest_isr(l);

	/* Guests do write EOI with nothing in service: Linux's check_timer() is one. */
	if (vector < 0)
		return;
	lapic_clear(l, APIC_ISR, (u8)vector);
	l->isr_count--;
	l->isr_top = -1;
	lapic_update_ppr(l);
	broadcast_eoi(l, (u8)vector);
}

void lapic_eoi_broadcast(struct vcpu *v, u8 vector)
{
	if (!v->lapic)
		return;
	broadcast_eoi(v->lapic, vector);
	vcpu_request(v, REQ_EVENT);
}

bool lapic_pending_eoi(const struct lapic *l, u8 vector)
{
	return lapic_test(l, APIC_ISR, vector) || lapic_test(l, APIC_IRR, vector);
}

/* ---- local sources --------------------------------------------------------------------------- */

/* Virtual wire: the 8259's INTR reaches this vCPU. */
bool lapic_accepts_pic(const struct lapic *l)
{
	u32 lvt0 = lapic_get(l, APIC_LVT0);

	return !lapic_hw_enabled(l) ||
	       (!(lvt0 & APIC_LVT_MASKED) && (lvt0 & APIC_LVT_MODE) >> 8 == APIC_EXTINT);
}

void lapic_lvt0_changed(struct lapic *l, u32 val)
{
	bool nmi = !(val & APIC_LVT_MASKED) && (val & APIC_LVT_MODE) >> 8 == APIC_NMI;

	if (nmi == l->lvt0_nmi)
		return;
	l->lvt0_nmi = nmi;
	if (nmi)
		atomic_fetch_add(&l->chip->nmi_watchdogs, 1);
	else
		atomic_fetch_sub(&l->chip->nmi_watchdogs, 1);
}

void lapic_local_deliver(struct vcpu *v, u32 lvt)
{
	struct lapic *l = v->lapic;
	struct apic_msg m = { .shorthand = APIC_SELF, .level = true };
	u32 val;

	if (!l || !lapic_hw_enabled(l))
		return;
	val = lapic_get(l, lvt);
	if (val & APIC_LVT_MASKED)
		return;
	m.vector = (u8)val;
	m.delivery = (val & APIC_LVT_MODE) >> 8;
	m.trig = val & APIC_LVT_LEVEL;
	if (apic_accept(l, &m, NULL) && lvt == APIC_LVTPC && !v->vendor_amd)
		lapic_put(l, APIC_LVTPC, val | (u32)APIC_LVT_MASKED);
}

/* ---- APIC_BASE ------------------------------------------------------------------------------- */

static u32 x2apic_ldr(u32 id)
{
	return (id >> 4) << 16 | 1u << (id & 15);
}

/* The value is valid: follow it. */
static void adopt_base(struct vcpu *v, u64 val)
{
	struct lapic *l = v->lapic;
	u64 changed = v->apic_base ^ val;

	v->apic_base = val;
	if (!l)
		return;
	atomic_store(&l->mode, (u32)(val & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)));
	l->base = val & ~0xfffull;
	if (changed & val & APIC_BASE_ENABLE)
		lapic_put(l, APIC_ID, v->id << 24);
	if (changed & val & APIC_BASE_X2APIC) {
		lapic_put(l, APIC_ID, v->id);
		lapic_put(l, APIC_LDR, x2apic_ldr(v->id));
	}
	vcpu_request(v, REQ_EVENT);
}

int lapic_set_base(struct vcpu *v, u64 val, bool host)
{
	u64 both = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	u64 from = v->apic_base & both, to = val & both;
	u64 reserved = 0x2ff;

	if (v->maxphyaddr && v->maxphyaddr < 64)
		reserved |= ~(BIT(v->maxphyaddr) - 1);
	if (!cpu_has(v, FEAT_X2APIC))
		reserved |= APIC_BASE_X2APIC;
	if (val & reserved || to == APIC_BASE_X2APIC)
		return -EINVAL;
	if (!host && ((from == both && to == APIC_BASE_ENABLE) || (!from && to == both)))
		return -EINVAL;
	adopt_base(v, val);
	return 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void set_version(struct lapic *l)
{
	u32 ver = APIC_VERSION | (l->nlvt - 1) << 16;

	/*
	 * Our I/O APIC has no EOI register, and some guests suppress the broadcast without asking whether
	 * it has one: offer suppression only when the I/O APIC is user space's.
	 */
	if (l->has_x2apic && l->chip->mode != IRQCHIP_FULL)
		ver |= (u32)APIC_LVR_DIRECTED_EOI;
	lapic_put(l, APIC_LVR, ver);
}

void lapic_cpuid_changed(struct vcpu *v)
{
	struct lapic *l = v->lapic;

	if (!l)
		return;
	l->has_x2apic = cpu_has(v, FEAT_X2APIC);
	lock_take(&l->timer.lock);
	l->timer.mode_mask = cpu_has(v, FEAT_TSC_DEADLINE) ? 3u << 17 : 1u << 17;
	lock_drop(&l->timer.lock);
	set_version(l);
}

void lapic_set_cmci(struct vcpu *v, bool present)
{
	struct lapic *l = v->lapic;
	u32 n = present ? 7 : 6;

	if (!l || l->nlvt == n)
		return;
	if (present)
		lapic_put(l, APIC_LVTCMCI, (u32)APIC_LVT_MASKED);
	l->nlvt = n;
	set_version(l);
}

int lapic_create(struct vcpu *v)
{
	struct irqchip *c = v->vm->irq;
	struct lapic *l;

	v->lapic = NULL;
	if (c && c->mode != IRQCHIP_NONE) {
		l = calloc(1, sizeof(*l));
		if (!l)
			return -ENOMEM;
		l->v = v;
		l->chip = c;
		l->nlvt = 6;
		l->extint = -1;
		l->isr_top = -1;
		lapic_timer_init(l);
		v->lapic = l;
	}
	lapic_reset(v, false);
	lapic_cpuid_changed(v);
	if (v->lapic) {
		atomic_store(&c->lapic[v->index], v->lapic);
		if (c->nlapic <= v->index)
			atomic_store(&c->nlapic, v->index + 1);
	}
	return 0;
}

void lapic_destroy(struct vcpu *v)
{
	struct lapic *l = v->lapic;

	if (!l)
		return;
	atomic_store(&l->chip->lapic[v->index], NULL);
	irq_timer_cancel_sync(l->chip->q, &l->timer.t);
	irq_timerq_barrier(l->chip->q); /* the PIT may be on its way to us */
	lapic_lvt0_changed(l, (u32)APIC_LVT_MASKED);
	v->lapic = NULL;
	free(l);
}

static void reset_regs(struct lapic *l)
{
	bool x2 = lapic_x2apic(l);

	for (u32 i = 0; i < l->nlvt; i++)
		lapic_put(l, lapic_lvt_reg(i), (u32)APIC_LVT_MASKED);
	/* Firmware that never programs LINT0 still wants 8259 interrupts. */
	if (irqchip_is_bsp(l->v) && !(l->v->vm->quirks_disabled & KVM_X86_QUIRK_LINT0_REENABLED))
		lapic_put(l, APIC_LVT0, APIC_EXTINT << 8);
	lapic_put(l, APIC_DFR, APIC_DFR_FLAT);
	lapic_put(l, APIC_SPIV, 0xff);
	lapic_put(l, APIC_TASKPRI, 0);
	if (!x2)
		lapic_put(l, APIC_LDR, 0);
	lapic_put(l, APIC_ESR, 0);
	lapic_put(l, APIC_ICR, 0);
	lapic_put(l, x2 ? APIC_ICR_X2HI : APIC_ICR2, 0);
	lapic_put(l, APIC_TDCR, 0);
	lapic_put(l, APIC_TMICT, 0);
	for (u32 i = 0; i < 8; i++) {
		lapic_put(l, APIC_IRR + i * 16, 0);
		lapic_put(l, APIC_ISR + i * 16, 0);
		lapic_put(l, APIC_TMR + i * 16, 0);
	}
}

void lapic_reset(struct vcpu *v, bool init)
{
	struct lapic *l = v->lapic;
	u64 base = APIC_BASE_DEFAULT | APIC_BASE_ENABLE;

	if (!init)
		adopt_base(v, base | (irqchip_is_bsp(v) ? APIC_BASE_BSP : 0));
	if (!l)
		return;
	lapic_timer_stop(l);
	if (!init)
		lapic_put(l, APIC_ID, v->id << 24);
	set_version(l);
	reset_regs(l);
	lapic_timer_lvtt_changed(l);
	lapic_timer_divide_changed(l, false);
	lapic_lvt0_changed(l, lapic_get(l, APIC_LVT0));
	l->irr_pending = 0;
	l->arb_prio = 0;
	recount_isr(l);
	compute_ppr(l);
}

/* ---- KVM_GET_LAPIC, KVM_SET_LAPIC ------------------------------------------------------------ */

int lapic_get_state(struct vcpu *v, struct kvm_lapic_state *s)
{
	struct lapic *l = v->lapic;
	u32 regs[APIC_REGS / 4];

	if (!l)
		return -EINVAL;
	lapic_timer_sync(l);
	for (u32 i = 0; i < APIC_REGS / 4; i++)
		regs[i] = lapic_get(l, i * 4);
	regs[APIC_TMCCT / 4] = lapic_timer_count(l);
	if (lapic_x2apic(l)) {
		if (l->chip->x2apic_format) {
			if (regs[APIC_ID / 4] != v->id)
				return -EINVAL;
		} else {
			regs[APIC_ID / 4] <<= 24;
		}
		regs[APIC_ICR2 / 4] = regs[APIC_ICR_X2HI / 4];
	}
	memcpy(s->regs, regs, sizeof(regs));
	return 0;
}

/* From the layout user space sees to ours. */
static int fixup_x2apic(struct lapic *l, u32 *regs)
{
	u32 *id = &regs[APIC_ID / 4];

	if (l->chip->x2apic_format) {
		if (*id != l->v->id)
			return -EINVAL;
	} else {
		*id >>= 24;
	}
	regs[APIC_LDR / 4] = x2apic_ldr(*id);
	regs[APIC_ICR_X2HI / 4] = regs[APIC_ICR2 / 4];
	return 0;
}

int lapic_set_state(struct vcpu *v, const struct kvm_lapic_state *s)
{
	struct lapic *l = v->lapic;
	u32 regs[APIC_REGS / 4];

	if (!l)
		return -EINVAL;
	memcpy(regs, s->regs, sizeof(regs));
	if (lapic_x2apic(l) && fixup_x2apic(l, regs))
		return -EINVAL;
	lapic_timer_stop(l);
	for (u32 i = 0; i < APIC_REGS / 4; i++)
		lapic_put(l, i * 4, regs[i]);
	set_version(l);
	recount_isr(l);
	atomic_store(&l->irr_pending, 1);
	compute_ppr(l);
	lapic_timer_lvtt_changed(l);
	lapic_lvt0_changed(l, lapic_get(l, APIC_LVT0));
	lapic_timer_divide_changed(l, false);
	lapic_timer_start(l, APIC_TMCCT);
	lapic_put(l, APIC_TMCCT, 0);
	l->arb_prio = 0;
	vcpu_request(v, REQ_EVENT);
	if (l->chip->mode == IRQCHIP_FULL)
		ioapic_rtc_restore(l->chip, l);
	return 0;
}

/* ---- TPR through guest memory ---------------------------------------------------------------- */

int lapic_tpr_reporting(struct vcpu *v, bool on)
{
	if (!v->lapic)
		return -EINVAL;
	v->lapic->tpr_reporting = on;
	return 0;
}

int lapic_set_vapic_addr(struct vcpu *v, gpa_t addr)
{
	u32 word;

	if (!v->lapic)
		return -EINVAL;
	if (addr && mem_read(&v->vm->mem, 0, addr, &word, sizeof(word)))
		return -EINVAL;
	v->lapic->vapic_addr = addr;
	return 0;
}

void lapic_vapic_from_guest(struct vcpu *v)
{
	struct lapic *l = v->lapic;
	u32 word;

	if (!l || !l->vapic_addr || mem_read(&v->vm->mem, 0, l->vapic_addr, &word, sizeof(word)))
		return;
	lapic_put(l, APIC_TASKPRI, word & 0xff);
	lapic_update_ppr(l);
}

/* Layout the option ROM of Windows guests patches its code for: TPR, ISR class, highest IRR. */
void lapic_vapic_to_guest(struct vcpu *v)
{
	struct lapic *l = v->lapic;
	int irr, isr;
	u32 word;

	if (!l || !l->vapic_addr)
		return;
	irr = lapic_highest(l, APIC_IRR);
	isr = highest_isr(l);
	word = lapic_get(l, APIC_TASKPRI) & 0xff;
	word |= isr < 0 ? 0 : ((u32)isr & 0xf0) << 8;
	word |= irr < 0 ? 0 : (u32)irr << 24;
	mem_write(&v->vm->mem, 0, l->vapic_addr, &word, sizeof(word));
}
