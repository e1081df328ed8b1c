/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's registers as the guest reads and writes them: the xAPIC page and the x2APIC MSRs.
 * [SDM3A "Local APIC Register Address Map", "x2APIC Register Address Space"]
 *
 * Errors are as KVM reports them: ESR never shows one, a bad MMIO access is dropped, a bad MSR access
 * is #GP(0).
 */
#include "irq/chip.h"
#include <errno.h>
#include <string.h>

#define X2APIC_MSR_BASE 0x800u
#define X2APIC_MSR_LAST 0x8ffu
#define MSR_TSC_DEADLINE 0x6e0u
#define X2APIC_ICR_RESERVED 0xfff32000u

/* ---- which registers there are --------------------------------------------------------------- */

#define R(off) BIT((off) >> 4)
#define R8(off) (0xffull << ((off) >> 4))
#define READABLE (R(APIC_ID) | R(APIC_LVR) | R(APIC_TASKPRI) | R(APIC_PROCPRI) | R(APIC_LDR) |	\
		  R(APIC_DFR) | R(APIC_SPIV) | R8(APIC_ISR) | R8(APIC_TMR) | R8(APIC_IRR) |	\
		  R(APIC_ESR) | R(APIC_ICR) | R(APIC_LVTT) | R(APIC_LVTTHMR) | R(APIC_LVTPC) |	\
		  R(APIC_LVT0) | R(APIC_LVT1) | R(APIC_LVTERR) | R(APIC_TMICT) |		\
		  R(APIC_TMCCT) | R(APIC_TDCR))
#define READABLE_XAPIC (R(APIC_ARBPRI) | R(APIC_ICR2))

/* Writable bits of each LVT but the timer's mode field, which depends on CPUID. */
static u32 lvt_mask(u32 reg)
{
	const u32 common = 0xff | 1u << 12 | (u32)APIC_LVT_MASKED;

	switch (reg) {
	case APIC_LVTT:
	case APIC_LVTERR:
		return common;
	case APIC_LVT0:
	case APIC_LVT1: /* polarity, remote IRR, trigger mode */
		return common | APIC_LVT_MODE | 7u << 13;
	default:
		return common | APIC_LVT_MODE;
	}
}

/* ---- reads ----------------------------------------------------------------------------------- */

static void report_tpr(struct lapic *l, u32 bit)
{
	if (!l->tpr_reporting)
		return;
	atomic_fetch_or(&l->latched, bit);
	vcpu_request(l->v, REQ_KVM);
}

static u32 read_reg(struct lapic *l, u32 reg)
{
	switch (reg) {
	case APIC_ARBPRI:
		return 0;
	case APIC_TMCCT:
		return lapic_timer_count(l);
	case APIC_PROCPRI:
		lapic_update_ppr(l);
		break;
	case APIC_TASKPRI:
		report_tpr(l, IRQ_EV_TPR);
		break;
	default:
		break;
	}
	return lapic_get(l, reg);
}

/* A read within one 32-bit register; -EINVAL when it is not one. */
static int reg_read(struct lapic *l, u32 off, unsigned int len, void *data)
{
	u64 valid = READABLE | (lapic_x2apic(l) ? 0 : READABLE_XAPIC);
	u32 val;

	if (l->nlvt > 6)
		valid |= R(APIC_LVTCMCI);
	if ((off & 15) + len > 4 || off >= APIC_REGS || !(valid & R(off)))
		return -EINVAL;
	lapic_timer_sync(l);
	val = read_reg(l, off & ~15u);
	memcpy(data, (char *)&val + (off & 15), len);
	return 0;
}

/* ---- writes ---------------------------------------------------------------------------------- */

static void write_spiv(struct lapic *l, u32 val)
{
	u32 mask = 0x3ff;

	if (lapic_get(l, APIC_LVR) & APIC_LVR_DIRECTED_EOI)
		mask |= APIC_SPIV_DIRECTED_EOI;
	lapic_put(l, APIC_SPIV, val & mask);
	if (val & APIC_SPIV_ENABLE)
		return;
	/* [SDM3A "Local APIC State After It Has Been Software Disabled"] */
	for (u32 i = 0; i < l->nlvt; i++) {
		u32 reg = lapic_lvt_reg(i);

		lapic_put(l, reg, lapic_get(l, reg) | (u32)APIC_LVT_MASKED);
	}
	lapic_lvt0_changed(l, lapic_get(l, APIC_LVT0));
	lapic_timer_lvtt_changed(l);
	l->timer.pending = 0;
}

static int write_lvt(struct lapic *l, u32 reg, u32 val)
{
	u32 mask = lvt_mask(reg);

	if (reg == APIC_LVTCMCI && l->nlvt < 7)
		return -EINVAL;
	if (reg == APIC_LVTT)
		mask |= l->timer.mode_mask;
	if (!lapic_sw_enabled(l))
		val |= (u32)APIC_LVT_MASKED;
	lapic_put(l, reg, val & mask);
	if (reg == APIC_LVTT)
		lapic_timer_lvtt_changed(l);
	if (reg == APIC_LVT0) {
		lapic_lvt0_changed(l, val & mask);
		vcpu_request(l->v, REQ_EVENT); /* the 8259 may be waiting for this wire */
	}
	return 0;
}

/* Registers of which x2APIC mode has none, or another one. */
static int write_xapic_only(struct lapic *l, u32 reg, u32 val)
{
	if (lapic_x2apic(l))
		return -EINVAL;
	switch (reg) {
	case APIC_ID:
		val &= 0xff000000;
		break;
	case APIC_LDR:
	case APIC_ICR2:
		val &= 0xff000000;
		break;
	default: /* APIC_DFR: the model field only */
		val |= 0x0fffffff;
		break;
	}
	lapic_put(l, reg, val);
	return 0;
}

static int reg_write(struct lapic *l, u32 reg, u32 val)
{
	switch (reg) {
	case APIC_ID:
	case APIC_LDR:
	case APIC_DFR:
	case APIC_ICR2:
		return write_xapic_only(l, reg, val);
	case APIC_TASKPRI:
		report_tpr(l, IRQ_EV_TPR_WRITE);
		lapic_put(l, APIC_TASKPRI, val & 0xff);
		lapic_update_ppr(l);
		return 0;
	case APIC_EOI:
		lapic_eoi(l);
		return 0;
	case APIC_SPIV:
		write_spiv(l, val);
		return 0;
	case APIC_ICR: /* sent at once, so never busy */
		val &= ~(u32)APIC_ICR_BUSY;
		apic_send_ipi(l, val, lapic_get(l, APIC_ICR2));
		lapic_put(l, APIC_ICR, val);
		return 0;
	case APIC_LVTT:
	case APIC_LVTTHMR:
	case APIC_LVTPC:
	case APIC_LVT0:
	case APIC_LVT1:
	case APIC_LVTERR:
	case APIC_LVTCMCI:
		return write_lvt(l, reg, val);
	case APIC_TMICT:
		if (l->timer.mode == APIC_TSCDEADLINE)
			return 0;
		lapic_put(l, APIC_TMICT, val);
		lapic_timer_start(l, APIC_TMICT);
		return 0;
	case APIC_TDCR:
		lapic_put(l, APIC_TDCR, val & 0xb);
		lapic_timer_divide_changed(l, true);
		return 0;
	case APIC_ESR:
		return lapic_x2apic(l) && val ? -EINVAL : 0;
	case APIC_SELF_IPI:
		if (!lapic_x2apic(l) || val & ~0xffu)
			return -EINVAL;
		apic_send_ipi(l, APIC_SELF << 18 | val, 0);
		return 0;
	default:
		return -EINVAL;
	}
}

/* ---- the page -------------------------------------------------------------------------------- */

/* The page is there but the APIC is not: 0 when KVM plays an empty bus, -EOPNOTSUPP for user space. */
static int hole(const struct lapic *l)
{
	return l->v->vm->quirks_disabled & KVM_X86_QUIRK_LAPIC_MMIO_HOLE ? -EOPNOTSUPP : 0;
}

static bool on_page(const struct lapic *l, gpa_t gpa)
{
	return (gpa & PAGE_MASK) == l->base;
}

int lapic_mmio_read(struct lapic *l, gpa_t gpa, unsigned int len, void *data)
{
	if (!on_page(l, gpa))
		return -EOPNOTSUPP;
	if (!lapic_hw_enabled(l) || lapic_x2apic(l)) {
		if (hole(l))
			return -EOPNOTSUPP;
		memset(data, 0xff, len);
		return 0;
	}
	memset(data, 0, len);
	reg_read(l, (u32)(gpa & 0xfff), len, data);
	return 0;
}

int lapic_mmio_write(struct lapic *l, gpa_t gpa, unsigned int len, const void *data)
{
	u32 val;

	if (!on_page(l, gpa))
		return -EOPNOTSUPP;
	if (!lapic_hw_enabled(l) || lapic_x2apic(l))
		return hole(l);
	/* [SDM3A "Local APIC Register Address Map"]: 32-bit accesses on 128-bit boundaries only */
	if (len != 4 || gpa & 15)
		return 0;
	memcpy(&val, data, 4);
	reg_write(l, (u32)(gpa & 0xff0), val);
	return 0;
}

/* ---- the MSRs -------------------------------------------------------------------------------- */

static int x2apic_icr_write(struct lapic *l, u64 val)
{
	if (val & X2APIC_ICR_RESERVED)
		return -EINVAL;
	val &= ~APIC_ICR_BUSY;
	apic_send_ipi(l, (u32)val, (u32)(val >> 32));
	lapic_put(l, APIC_ICR, (u32)val);
	lapic_put(l, APIC_ICR_X2HI, (u32)(val >> 32));
	return 0;
}

int irq_msr_read(struct vcpu *v, u32 index, u64 *val)
{
	struct lapic *l = v->lapic;
	u32 reg = (index - X2APIC_MSR_BASE) << 4, low;

	if (index == MSR_TSC_DEADLINE) {
		*val = l && lapic_hw_enabled(l) ? lapic_timer_tscdeadline(l) : 0;
		return 0;
	}
	if (index < X2APIC_MSR_BASE || index > X2APIC_MSR_LAST)
		return -ENOENT;
	if (!l || !lapic_x2apic(l) || reg == APIC_DFR)
		return -EINVAL;
	if (reg == APIC_ICR) {
		*val = lapic_get(l, APIC_ICR) | (u64)lapic_get(l, APIC_ICR_X2HI) << 32;
		return 0;
	}
	if (reg_read(l, reg, 4, &low))
		return -EINVAL;
	*val = low;
	return 0;
}

int irq_msr_write(struct vcpu *v, u32 index, u64 val)
{
	struct lapic *l = v->lapic;
	u32 reg = (index - X2APIC_MSR_BASE) << 4;

	if (index == MSR_TSC_DEADLINE) {
		if (l && lapic_hw_enabled(l))
			lapic_timer_set_tscdeadline(l, val);
		return 0;
	}
	if (index < X2APIC_MSR_BASE || index > X2APIC_MSR_LAST)
		return -ENOENT;
	if (!l || !lapic_x2apic(l))
		return -EINVAL;
	if (reg == APIC_ICR)
		return x2apic_icr_write(l, val);
	if (val >> 32)
		return -EINVAL;
	return reg_write(l, reg, (u32)val);
}

/* ---- CR8 ------------------------------------------------------------------------------------- */

u64 irq_read_cr8(struct vcpu *v)
{
	return v->lapic ? (lapic_get(v->lapic, APIC_TASKPRI) & 0xf0) >> 4 : v->cr8;
}

void irq_write_cr8(struct vcpu *v, u64 cr8)
{
	if (!v->lapic) {
		v->cr8 = cr8;
		return;
	}
	lapic_put(v->lapic, APIC_TASKPRI, (u32)(cr8 & 15) << 4);
	lapic_update_ppr(v->lapic);
}
