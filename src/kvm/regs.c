/* SPDX-License-Identifier: MIT */
/*
 * General, segment and control registers.
 */
#include "kvm/kvm.h"
#include "cpu/vmx/vmx.h"

#include <errno.h>
#include <string.h>

void regs_get(struct kvm_vcpu *k, struct kvm_regs *r)
{
	const struct vcpu *v = k->v;

	*r = (struct kvm_regs){
		.rax = v->gpr[GPR_RAX], .rbx = v->gpr[GPR_RBX], .rcx = v->gpr[GPR_RCX],
		.rdx = v->gpr[GPR_RDX], .rsi = v->gpr[GPR_RSI], .rdi = v->gpr[GPR_RDI],
		.rsp = v->gpr[GPR_RSP], .rbp = v->gpr[GPR_RBP], .r8 = v->gpr[GPR_R8],
		.r9 = v->gpr[GPR_R9], .r10 = v->gpr[GPR_R10], .r11 = v->gpr[GPR_R11],
		.r12 = v->gpr[GPR_R12], .r13 = v->gpr[GPR_R13], .r14 = v->gpr[GPR_R14],
		.r15 = v->gpr[GPR_R15], .rip = v->rip, .rflags = cpu_rflags(v),
	};
}

void regs_set(struct kvm_vcpu *k, const struct kvm_regs *r)
{
	struct vcpu *v = k->v;
	const u64 gpr[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
			      r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

	memcpy(v->gpr, gpr, sizeof(gpr));
	v->rip = r->rip;
	cpu_set_rflags(v, r->rflags);
	v->pending.valid = false;
	v->pending_db = 0;
	cpu_mode_update(v);
	debug_update(v);
	vcpu_request(v, REQ_EVENT);
}

long vcpu_get_regs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	regs_get(k, buf);
	return 0;
}

long vcpu_set_regs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	regs_set(k, buf);
	return 0;
}

/* ---- segments --------------------------------------------------------------------------------------- */

static void segment_out(const struct segment *s, struct kvm_segment *o)
{
	bool unusable = s->ar & AR_UNUSABLE;

	*o = (struct kvm_segment){
		.base = s->base, .limit = s->limit, .selector = s->sel, .type = AR_TYPE(s->ar),
		.s = !!(s->ar & AR_S), .dpl = AR_DPL(s->ar), .avl = !!(s->ar & AR_AVL),
		.l = !!(s->ar & AR_L), .db = !!(s->ar & AR_DB), .g = !!(s->ar & AR_G),
		/* VMMs drop "unusable" and keep "present": the two must agree */
		.unusable = unusable, .present = !unusable,
	};
}

static void segment_in(struct segment *s, const struct kvm_segment *i, bool accessed)
{
	s->sel = i->selector;
	s->base = i->base;
	s->limit = i->limit;
	s->ar = (i->type & 15u) | (i->s & 1u) << 4 | (i->dpl & 3u) << 5 | (i->present & 1u) << 7 |
		(i->avl & 1u) << 12 | (i->l & 1u) << 13 | (i->db & 1u) << 14 | (i->g & 1u) << 15;
	if (i->unusable || !i->present)
		s->ar |= AR_UNUSABLE;
	if (accessed)
		s->ar |= 1;
}

static const enum seg seg_order[] = { SEG_CS, SEG_DS, SEG_ES, SEG_FS, SEG_GS, SEG_SS, SEG_TR, SEG_LDTR };

static struct kvm_segment *seg_field(struct kvm_sregs *s, enum seg n)
{
	switch (n) {
	case SEG_CS: return &s->cs;
	case SEG_DS: return &s->ds;
	case SEG_ES: return &s->es;
	case SEG_FS: return &s->fs;
	case SEG_GS: return &s->gs;
	case SEG_SS: return &s->ss;
	case SEG_TR: return &s->tr;
	default: return &s->ldt;
	}
}

static u64 get_cr8(const struct kvm_vcpu *k)
{
	return kvm_has_lapic(k) ? irq_read_cr8(k->v) : k->v->cr8;
}

static void set_cr8(struct kvm_vcpu *k, u64 cr8)
{
	if (cr8 & ~15ull)
		return;
	if (kvm_has_lapic(k))
		irq_write_cr8(k->v, cr8);
	else
		k->v->cr8 = cr8;
}

static void sregs_get_common(struct kvm_vcpu *k, struct kvm_sregs *s)
{
	const struct vcpu *v = k->v;

	for (size_t i = 0; i < ARRAY_SIZE(seg_order); i++)
		segment_out(&v->seg[seg_order[i]], seg_field(s, seg_order[i]));
	s->idt = (struct kvm_dtable){ .base = v->idtr.base, .limit = v->idtr.limit };
	s->gdt = (struct kvm_dtable){ .base = v->gdtr.base, .limit = v->gdtr.limit };
	s->cr0 = v->cr0;
	s->cr2 = v->cr2;
	s->cr3 = v->cr3;
	s->cr4 = v->cr4;
	s->cr8 = get_cr8(k);
	s->efer = v->efer;
	s->apic_base = v->apic_base;
}

void sregs_get(struct kvm_vcpu *k, struct kvm_sregs *s)
{
	const struct event *e = &k->v->inj;

	memset(s, 0, sizeof(*s));
	sregs_get_common(k, s);
	if (e->valid && e->type == EVENT_INTR)
		s->interrupt_bitmap[e->vector / 64] |= BIT(e->vector % 64);
}

/* ---- setting them ------------------------------------------------------------------------------------- */

static bool sregs_valid(const struct vcpu *v, const struct kvm_sregs *s)
{
	if ((s->efer & EFER_LME) && (s->cr0 & CR0_PG)) {
		if (!(s->cr4 & CR4_PAE) || !(s->efer & EFER_LMA))
			return false;
		if (v->maxphyaddr && s->cr3 >> v->maxphyaddr)
			return false;
	} else if ((s->efer & EFER_LMA) || s->cs.l) {
		return false;
	}
	return cpu_cr4_valid(v, s->cr4) && cpu_cr0_valid(v, s->cr0);
}

static bool pae_paging(const struct vcpu *v)
{
	return (v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !(v->efer & EFER_LMA);
}

static void adopt_paging(struct kvm_vcpu *k, bool load_pdptes)
{
	struct vcpu *v = k->v;
	struct event saved = v->exc;

	cpu_enter_guest(v);
	if (load_pdptes && pae_paging(v))
		mmu_load_pdptes(v); /* a bad table shows when the guest runs */
	mmu_flush_all(v);
	cpu_leave_guest(v);
	v->exc = saved;
}

static void wake_on_reset(struct kvm_vcpu *k, const struct kvm_sregs *s)
{
	/* Old VMMs do not un-halt the boot processor when they reset it. */
	if (irqchip_is_bsp(k->v) && k->v->rip == 0xfff0 && s->cs.selector == 0xf000 &&
	    s->cs.base == 0xffff0000 && !(s->cr0 & CR0_PE))
		k->mp_state = KVM_MP_STATE_RUNNABLE;
}

static int sregs_set_common(struct kvm_vcpu *k, const struct kvm_sregs *s, bool load_pdptes)
{
	struct vcpu *v = k->v;
	bool osxsave = (v->cr4 ^ s->cr4) & (CR4_OSXSAVE | CR4_PKE);
	/* Old VMMs leave the accessed bit clear; KVM sets it for all but LDTR, in unrestricted guests. */
	bool accessed = v->nonroot ? vmx_proc2(v, PROC2_UNRESTRICTED) : !v->vm->nested.restricted;

	if (!sregs_valid(v, s) || lapic_set_base(v, s->apic_base, true))
		return -EINVAL;
	v->idtr = (struct dtable){ s->idt.base, s->idt.limit };
	v->gdtr = (struct dtable){ s->gdt.base, s->gdt.limit };
	v->cr2 = s->cr2;
	v->cr3 = s->cr3;
	set_cr8(k, s->cr8);
	v->efer = s->efer;
	v->cr0 = s->cr0 | CR0_ET;
	v->cr4 = s->cr4;
	for (size_t i = 0; i < ARRAY_SIZE(seg_order); i++)
		segment_in(&v->seg[seg_order[i]], seg_field((struct kvm_sregs *)s, seg_order[i]),
			   accessed && seg_order[i] != SEG_LDTR);
	v->fs_base_copy = v->seg[SEG_FS].base;
	v->gs_base_copy = v->seg[SEG_GS].base;
	v->cpl = !(v->cr0 & CR0_PE) ? 0 : cpu_v86(v) ? 3 : AR_DPL(v->seg[SEG_SS].ar);
	cpu_mode_update(v);
	adopt_paging(k, load_pdptes);
	if (osxsave)
		kvm_cpuid_runtime(k, v->cpuid, v->ncpuid);
	wake_on_reset(k, s);
	v->vmx->recheck = v->nonroot || v->vm->nested.restricted ? RECHECK_USER : RECHECK_NONE;
	return 0;
}

int sregs_set(struct kvm_vcpu *k, const struct kvm_sregs *s)
{
	int r = sregs_set_common(k, s, true);

	if (r)
		return r;
	k->guard.context_invalid = false; /* this is a new one */
	for (u32 n = 0; n < 256; n++) {
		if (!(s->interrupt_bitmap[n / 64] >> (n % 64) & 1))
			continue;
		/* no departure: state that user space writes */
		k->v->inj = (struct event){ .valid = true, .vector = (u8)n, .type = EVENT_INTR };
		vcpu_request(k->v, REQ_EVENT);
		break;
	}
	return 0;
}

long vcpu_get_sregs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	sregs_get(k, buf);
	return 0;
}

long vcpu_set_sregs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return sregs_set(k, buf);
}

_Static_assert(offsetof(struct kvm_sregs, apic_base) == offsetof(struct kvm_sregs2, apic_base),
	       "kvm_sregs2 begins like kvm_sregs");

long vcpu_get_sregs2(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_sregs2 *s = buf;

	sregs_get_common(k, buf);
	if (pae_paging(k->v)) {
		memcpy(s->pdptrs, k->v->pdpte, sizeof(s->pdptrs));
		s->flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
	}
	return 0;
}

long vcpu_set_sregs2(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_sregs2 *s = buf;
	bool valid = s->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
	bool pae = (s->cr0 & CR0_PG) && (s->cr4 & CR4_PAE) && !(s->efer & EFER_LMA);
	int r;

	if ((s->flags & ~(u64)KVM_SREGS2_FLAGS_PDPTRS_VALID) || (valid && !pae))
		return -EINVAL;
	r = sregs_set_common(k, buf, !valid);
	if (!r && valid)
		memcpy(k->v->pdpte, s->pdptrs, sizeof(s->pdptrs));
	return r;
}

/* ---- debug registers ------------------------------------------------------------------------------------- */

long vcpu_get_debugregs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_debugregs *d = buf;

	memcpy(d->db, k->v->dr, sizeof(d->db));
	d->dr6 = k->v->dr6;
	d->dr7 = k->v->dr7;
	return 0;
}

long vcpu_set_debugregs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_debugregs *d = buf;

	if (d->flags || d->dr6 >> 32 || d->dr7 >> 32)
		return -EINVAL;
	memcpy(k->v->dr, d->db, sizeof(d->db));
	/* DR6_FIXED_1; RTM and BLD are active low */
	k->v->dr6 = d->dr6 | 0xfffe07f0u | (cpu_has(k->v, FEAT_BUS_LOCK_DETECT) ? 0 : DR6_BLD);
	k->v->dr7 = d->dr7 | 0x400;
	debug_update(k->v);
	return 0;
}
