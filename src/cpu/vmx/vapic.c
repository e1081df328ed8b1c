/* SPDX-License-Identifier: MIT */
/* APIC virtualization: the virtual-APIC page [SDM3C "APIC Virtualization and Virtual Interrupts"]. */
#include "cpu/vmx/vmx.h"

#include <errno.h>

#define VAPIC_ID 0x20u
#define VAPIC_VERSION 0x30u
#define VAPIC_TPR 0x80u
#define VAPIC_PPR 0xa0u
#define VAPIC_EOI 0xb0u
#define VAPIC_LDR 0xd0u
#define VAPIC_DFR 0xe0u
#define VAPIC_SVR 0xf0u
#define VAPIC_ISR 0x100u
#define VAPIC_TMR 0x180u
#define VAPIC_IRR 0x200u
#define VAPIC_ESR 0x280u
#define VAPIC_ICR 0x300u
#define VAPIC_ICR2 0x310u
#define VAPIC_LVTT 0x320u
#define VAPIC_TDCR 0x3e0u

#define X2APIC_BASE 0x800u
#define X2APIC_SELF_IPI 0x83fu

static u32 vapic_read(struct vcpu *v, u32 off)
{
	u32 val = 0;

	(void)mem_read(&v->vm->mem, v->smm, v->vmx->c.vapic + off, &val, 4);
	return val;
}

static void vapic_write(struct vcpu *v, u32 off, u32 val)
{
	(void)mem_write(&v->vm->mem, v->smm, v->vmx->c.vapic + off, &val, 4);
}

/* ---- the 256-bit registers ------------------------------------------------------------------------------ */

static int highest(struct vcpu *v, u32 reg)
{
	for (int n = 7; n >= 0; n--) {
		u32 word = vapic_read(v, reg + (u32)n * 0x10);

		if (word)
			return n * 32 + 31 - __builtin_clz(word);
	}
	return -1;
}

static void change_vector(struct vcpu *v, u32 reg, u8 vector, bool set)
{
	u32 off = reg + vector / 32u * 0x10, bit = 1u << (vector % 32);
	u32 word = vapic_read(v, off);

	vapic_write(v, off, set ? word | bit : word & ~bit);
}

/* ---- pending virtual interrupts ---------------------------------------------------------------------------- */

static u8 rvi(const struct vcpu *v) { return (u8)vmcs_get(v->vmx, VMCS_GUEST_INTR_STATUS); }
static u8 svi(const struct vcpu *v) { return (u8)(vmcs_get(v->vmx, VMCS_GUEST_INTR_STATUS) >> 8); }

static void set_status(struct vcpu *v, int requesting, int servicing)
{
	u8 r = requesting < 0 ? 0 : (u8)requesting, s = servicing < 0 ? 0 : (u8)servicing;

	vmcs_put(v->vmx, VMCS_GUEST_INTR_STATUS, r | (u64)s << 8);
}

static void virtualize_ppr(struct vcpu *v)
{
	u32 tpr = vapic_read(v, VAPIC_TPR) & 0xff;
	u32 isr = svi(v) & 0xf0u;

	vapic_write(v, VAPIC_PPR, (tpr & 0xf0) >= isr ? tpr : isr);
}

static void evaluate(struct vcpu *v)
{
	v->vmx->virtual_intr = (rvi(v) >> 4) > (vapic_read(v, VAPIC_PPR) >> 4 & 15);
	if (v->vmx->virtual_intr) /* before the next instruction */
		atomic_fetch_or(&v->request, REQ_EVENT | REQ_INSN);
}

/* At VM entry: PPR, pending interrupts, and with a TPR shadow alone the threshold. */
void vmx_vapic_evaluate(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	x->virtual_intr = false;
	x->trap_due = 0;
	if (x->c.proc2 & PROC2_VINTR) {
		virtualize_ppr(v);
		evaluate(v);
	} else if ((x->c.proc & PROC_TPR_SHADOW) && (x->c.proc2 & PROC2_VAPIC_ACCESS) &&
		   (vapic_read(v, VAPIC_TPR) >> 4 & 15) < (vmcs_get(x, VMCS_TPR_THRESHOLD) & 15)) {
		x->trap_due = VMEXIT_TPR_BELOW;
		x->trap_qualification = 0;
	}
}

/* Virtual-interrupt delivery: the vector moves from VIRR to VISR. */
u8 vmx_vapic_ack(struct vcpu *v)
{
	u8 vector = rvi(v);

	change_vector(v, VAPIC_ISR, vector, true);
	change_vector(v, VAPIC_IRR, vector, false);
	set_status(v, highest(v, VAPIC_IRR), vector);
	vapic_write(v, VAPIC_PPR, vector & 0xf0);
	evaluate(v);
	v->vmx->virtual_intr = false; /* nothing is recognized again before PPR is lowered */
	evaluate(v);
	return vector;
}

/* Posted-interrupt descriptor: 256 requests, then ON in bit 0 of the next word. */
void vmx_posted_process(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	gpa_t desc = vmcs_get(x, VMCS_POSTED_INTR_DESC_ADDR);
	struct memslot *s = mem_slot_find(&v->vm->mem, v->smm, desc);
	_Atomic u32 *p;
	int top = -1;

	if (!s)
		return;
	p = (_Atomic u32 *)(void *)memslot_hva(s, desc);
	memslot_mark_dirty(s, memslot_page(s, desc));
	atomic_fetch_and(&p[8], ~1u);
	for (u32 n = 0; n < 8; n++) {
		u32 word = atomic_exchange(&p[n], 0);

		if (!word)
			continue;
		vapic_write(v, VAPIC_IRR + n * 0x10, vapic_read(v, VAPIC_IRR + n * 0x10) | word);
		top = (int)n * 32 + 31 - __builtin_clz(word);
	}
	if (top > rvi(v))
		set_status(v, top, svi(v));
	evaluate(v);
}

/* ---- writes with side effects ------------------------------------------------------------------------------ */

static void trap(struct vcpu *v, u32 reason, u64 qualification)
{
	v->vmx->trap_due = reason;
	v->vmx->trap_qualification = qualification;
	atomic_fetch_or(&v->request, REQ_EVENT | REQ_INSN);
}

static void virtualize_tpr(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	if (x->c.proc2 & PROC2_VINTR) {
		virtualize_ppr(v);
		evaluate(v);
	} else if ((vapic_read(v, VAPIC_TPR) >> 4 & 15) < (vmcs_get(x, VMCS_TPR_THRESHOLD) & 15)) {
		trap(v, VMEXIT_TPR_BELOW, 0);
	}
}

static void virtualize_eoi(struct vcpu *v)
{
	struct vmx *x = v->vmx;
	u8 vector = svi(v);
	u64 word;

	change_vector(v, VAPIC_ISR, vector, false);
	set_status(v, rvi(v), highest(v, VAPIC_ISR));
	virtualize_ppr(v);
	word = vmcs_get(x, (enum vmcs_field)(VMCS_EOI_EXIT_BITMAP0 + vector / 64));
	if (word >> (vector % 64) & 1)
		trap(v, VMEXIT_EOI, vector);
	else
		evaluate(v);
}

static void virtualize_self_ipi(struct vcpu *v, u8 vector)
{
	change_vector(v, VAPIC_IRR, vector, true);
	if (vector > rvi(v))
		set_status(v, vector, svi(v));
	evaluate(v);
}

u8 vmx_vapic_tpr(struct vcpu *v)
{
	return vapic_read(v, VAPIC_TPR) >> 4 & 15;
}

int vmx_vapic_set_tpr(struct vcpu *v, const struct insn *i, u8 tpr)
{
	(void)i;
	vapic_write(v, VAPIC_TPR, (u32)tpr << 4);
	virtualize_tpr(v);
	return OP_END;
}

/* ---- the APIC-access page ----------------------------------------------------------------------------------- */

bool vmx_is_apic_page(const struct vcpu *v, gpa_t page)
{
	return v->nonroot && (v->vmx->c.proc2 & PROC2_VAPIC_ACCESS) && (page & PAGE_MASK) == v->vmx->c.apic_access;
}

static bool register_readable(u32 reg)
{
	switch (reg) {
	case VAPIC_ID: case VAPIC_VERSION: case VAPIC_TPR: case VAPIC_EOI: case VAPIC_LDR: case VAPIC_DFR:
	case VAPIC_SVR: case VAPIC_ESR: case VAPIC_ICR: case VAPIC_ICR2: case 0x380: case VAPIC_TDCR:
		return true;
	default:
		return (reg >= VAPIC_ISR && reg < VAPIC_ESR) || (reg >= VAPIC_LVTT && reg <= 0x370);
	}
}

static bool read_virtualized(const struct vmx_controls *c, u32 reg)
{
	if (c->proc2 & PROC2_APIC_REGISTER)
		return register_readable(reg);
	return reg == VAPIC_TPR || ((c->proc2 & PROC2_VINTR) && (reg == VAPIC_EOI || reg == VAPIC_ICR));
}

static bool register_writable(u32 reg)
{
	switch (reg) {
	case VAPIC_ID: case VAPIC_TPR: case VAPIC_EOI: case VAPIC_LDR: case VAPIC_DFR: case VAPIC_SVR:
	case VAPIC_ESR: case VAPIC_ICR: case VAPIC_ICR2: case 0x380: case VAPIC_TDCR:
		return true;
	default:
		return reg >= VAPIC_LVTT && reg <= 0x370;
	}
}

static bool write_virtualized(const struct vmx_controls *c, u32 reg)
{
	if (c->proc2 & PROC2_APIC_REGISTER)
		return register_writable(reg);
	return reg == VAPIC_TPR || ((c->proc2 & PROC2_VINTR) && (reg == VAPIC_EOI || reg == VAPIC_ICR));
}

int vmx_apic_access(struct vcpu *v, u32 off, unsigned int len, u32 acc, gva_t la)
{
	const struct vmx_controls *c = &v->vmx->c;
	u32 reg = off & ~0xfu, type = acc & ACC_X ? 2 : acc & ACC_W ? 1 : 0;
	bool ok = (c->proc & PROC_TPR_SHADOW) && type != 2 && len <= 4 && (off & 0xf) + len <= 4;

	if (ok && (acc & ACC_R))
		ok = read_virtualized(c, reg);
	if (ok && (acc & ACC_W))
		ok = write_virtualized(c, reg);
	if (ok)
		return 0;
	if (v->inj.valid)
		type = 3; /* during event delivery */
	vmx_raise(v, VMEXIT_APIC_ACCESS, off | (u64)type << 12);
	v->vmx->pending_exit.gla = la;
	v->vmx->pending_exit.has_gla = true;
	if (type != 3)
		v->vmx->pending_exit.insn_len = v->cur ? v->cur->len : 0;
	return OP_EXC;
}

int vmx_apic_read(struct vcpu *v, u32 off, unsigned int len, void *dst)
{
	u32 val = vapic_read(v, off & ~3u) >> (off & 3) * 8;

	__builtin_memcpy(dst, &val, len < 4 ? len : 4);
	return 0;
}

static void after_write(struct vcpu *v, u32 reg)
{
	const struct vmx_controls *c = &v->vmx->c;
	u32 icr;

	switch (reg) {
	case VAPIC_TPR:
		vapic_write(v, VAPIC_TPR, vapic_read(v, VAPIC_TPR) & 0xff);
		virtualize_tpr(v);
		return;
	case VAPIC_EOI:
		if (c->proc2 & PROC2_VINTR) {
			vapic_write(v, VAPIC_EOI, 0);
			virtualize_eoi(v);
			return;
		}
		break;
	case VAPIC_ICR:
		icr = vapic_read(v, VAPIC_ICR);
		/* fixed, edge, to self, no reserved bits, vector above 15 */
		if ((c->proc2 & PROC2_VINTR) && (icr & ~0xc08ffu) == 0 && (icr >> 18 & 3) == 1 && (icr & 0xf0)) {
			virtualize_self_ipi(v, (u8)icr);
			return;
		}
		break;
	case VAPIC_ICR2:
		vapic_write(v, VAPIC_ICR2, vapic_read(v, VAPIC_ICR2) & 0xff000000);
		return;
	default:
		break;
	}
	trap(v, VMEXIT_APIC_WRITE, reg);
}

int vmx_apic_write(struct vcpu *v, u32 off, unsigned int len, const void *src)
{
	(void)mem_write(&v->vm->mem, v->smm, v->vmx->c.vapic + off, src, len);
	after_write(v, off & ~0xfu);
	return 0;
}

/* ---- x2APIC MSRs ------------------------------------------------------------------------------------------------ */

int vmx_x2apic_read(struct vcpu *v, u32 index, u64 *val)
{
	const struct vmx_controls *c = &v->vmx->c;
	u32 off = (index - X2APIC_BASE) << 4;

	if (!(c->proc2 & PROC2_X2APIC) || index < X2APIC_BASE || index > 0x8ff)
		return -ENOENT;
	if (!(c->proc2 & PROC2_APIC_REGISTER) && index != 0x808)
		return -ENOENT;
	*val = vapic_read(v, off);
	if (index == 0x830)
		*val |= (u64)vapic_read(v, off + 4) << 32;
	return 0;
}

int vmx_x2apic_write(struct vcpu *v, u32 index, u64 val, int *res)
{
	const struct vmx_controls *c = &v->vmx->c;

	*res = OP_END;
	if (!(c->proc2 & PROC2_X2APIC))
		return -ENOENT;
	if (index == 0x808) {
		if (val >> 8)
			*res = RAISE_GP0(v);
		else
			vapic_write(v, VAPIC_TPR, (u32)val), virtualize_tpr(v);
		return 0;
	}
	if (!(c->proc2 & PROC2_VINTR))
		return -ENOENT;
	if (index == 0x80b) {
		if (val)
			*res = RAISE_GP0(v);
		else
			vapic_write(v, VAPIC_EOI, 0), virtualize_eoi(v);
		return 0;
	}
	if (index == X2APIC_SELF_IPI) {
		if (val >> 8)
			*res = RAISE_GP0(v);
		else if (val < 16)
			trap(v, VMEXIT_APIC_WRITE, 0x3f0);
		else
			virtualize_self_ipi(v, (u8)val);
		return 0;
	}
	return -ENOENT;
}
