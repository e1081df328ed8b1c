/* SPDX-License-Identifier: MIT */
#include "cpu/smm.h"

#include <string.h>

#include "cpu/op/control.h"
#include "cpu/rcache.h"
#include "cpu/segment.h"
#include "cpu/vmx/vmx.h"

#define SMRAM_SAVE 0xfe00u	/* from SMBASE */
#define SMRAM_FIRST 0x7e00u	/* the same place, as the maps number it */
#define SMM_RIP 0x8000u
#define REVISION_32 0x00020000u /* SMBASE relocation */
#define REVISION_64 0x00020064u
#define SMM_DATA_AR 0x8093u	/* read/write, accessed, 4 GiB, 16-bit */

/* What a state-save area holds. */
struct smm_state {
	u64 gpr[16], rip, rflags, dr6, dr7, cr0, cr3, cr4, efer, smbase, revision;
	struct segment seg[SEG_NUM];
	struct dtable gdtr, idtr;
};

struct smram {
	bool save;
	u8 byte[512];
};

/* ---- the two maps, each written once for both directions ------------------------------------------- */

static void move(struct smram *m, unsigned int off, void *field, unsigned int size)
{
	u8 *at = m->byte + (off - SMRAM_FIRST);

	if (m->save)
		memcpy(at, field, size);
	else
		memcpy(field, at, size);
}

/* Access rights as in a descriptor's second doubleword, shifted right by 8 in the 64-bit map. */
static void move_ar(struct smram *m, unsigned int off, struct segment *s, unsigned int size, unsigned int shift)
{
	u32 val = (s->ar & AR_UNUSABLE ? s->ar & ~(u32)AR_P : s->ar) & 0xf0ff;

	val <<= shift;
	move(m, off, &val, size);
	if (m->save)
		return;
	s->ar = (val >> shift) & 0xf0ff;
	if (!(s->ar & AR_P))
		s->ar |= AR_UNUSABLE;
}

static void move_seg64(struct smram *m, unsigned int off, struct segment *s)
{
	move(m, off, &s->sel, 2);
	move_ar(m, off + 2, s, 2, 0);
	move(m, off + 4, &s->limit, 4);
	move(m, off + 8, &s->base, 8);
}

static void move_table64(struct smram *m, unsigned int off, struct dtable *t)
{
	move(m, off + 4, &t->limit, 2);
	move(m, off + 8, &t->base, 8);
}

/* [APM2 "SMM Save-State Area"], which KVM uses for either vendor. */
static void map64(struct smram *m, struct smm_state *s)
{
	for (unsigned int n = 0; n < 16; n++)
		move(m, 0x7ff8 - n * 8, &s->gpr[n], 8);
	move(m, 0x7f78, &s->rip, 8);
	move(m, 0x7f70, &s->rflags, 4);
	move(m, 0x7f68, &s->dr6, 8);
	move(m, 0x7f60, &s->dr7, 8);
	move(m, 0x7f58, &s->cr0, 8);
	move(m, 0x7f50, &s->cr3, 8);
	move(m, 0x7f48, &s->cr4, 8);
	move(m, 0x7f00, &s->smbase, 4);
	move(m, 0x7efc, &s->revision, 4);
	move(m, 0x7ed0, &s->efer, 8);
	move_seg64(m, 0x7e90, &s->seg[SEG_TR]);
	move_table64(m, 0x7e80, &s->idtr);
	move_seg64(m, 0x7e70, &s->seg[SEG_LDTR]);
	move_table64(m, 0x7e60, &s->gdtr);
	for (unsigned int n = SEG_ES; n <= SEG_GS; n++)
		move_seg64(m, 0x7e00 + n * 16, &s->seg[n]);
}

static void move_seg32(struct smram *m, unsigned int sel, unsigned int off, struct segment *s)
{
	move(m, sel, &s->sel, 2);
	move(m, off + 8, &s->base, 4);
	move(m, off + 4, &s->limit, 4);
	move_ar(m, off, s, 4, 8);
}

static void move_table32(struct smram *m, unsigned int off, struct dtable *t)
{
	move(m, off + 4, &t->base, 4);
	move(m, off, &t->limit, 2);
}

/* [SDM3C "SMRAM State Save Map"], with the descriptor caches where KVM keeps them. */
static void map32(struct smram *m, struct smm_state *s)
{
	move(m, 0x7ffc, &s->cr0, 4);
	move(m, 0x7ff8, &s->cr3, 4);
	move(m, 0x7ff4, &s->rflags, 4);
	move(m, 0x7ff0, &s->rip, 4);
	for (unsigned int n = 0; n < 8; n++)
		move(m, 0x7fd0 + n * 4, &s->gpr[n], 4);
	move(m, 0x7fcc, &s->dr6, 4);
	move(m, 0x7fc8, &s->dr7, 4);
	move_seg32(m, 0x7fc4, 0x7f5c, &s->seg[SEG_TR]);
	move_seg32(m, 0x7fc0, 0x7f78, &s->seg[SEG_LDTR]);
	move_table32(m, 0x7f70, &s->gdtr);
	move_table32(m, 0x7f54, &s->idtr);
	for (unsigned int n = SEG_ES; n <= SEG_GS; n++)
		move_seg32(m, 0x7fa8 + n * 4, n < 3 ? 0x7f84 + n * 12 : 0x7f2c + (n - 3) * 12, &s->seg[n]);
	move(m, 0x7f14, &s->cr4, 4);
	move(m, 0x7efc, &s->revision, 4);
	move(m, 0x7ef8, &s->smbase, 4);
}

static void move_all(struct vcpu *v, struct smram *m, struct smm_state *s)
{
	if (cpu_has(v, FEAT_LM))
		map64(m, s);
	else
		map32(m, s);
}

/* ---- being in SMM ------------------------------------------------------------------------------------ */

/* Another address space: no translation holds, and code may have been changed through the other one. */
void smm_set(struct vcpu *v, bool on)
{
	v->smm = on;
	mmu_flush_all(v);
	vcpu_reverify(v);
	cpu_mode_update(v);
	if (on)
		return;
	v->smm_inside_nmi_mask = false;
	/* INIT, SMI and NMI that were latched meanwhile are looked at now. */
	vcpu_request(v, REQ_EVENT | REQ_KVM);
}

/* ---- entering -------------------------------------------------------------------------------------------- */

static void capture(const struct vcpu *v, struct smm_state *s)
{
	memcpy(s->gpr, v->gpr, sizeof(s->gpr));
	s->rip = v->rip;
	s->rflags = cpu_rflags(v);
	s->dr6 = v->dr6;
	s->dr7 = v->dr7;
	s->cr0 = v->cr0;
	s->cr3 = v->cr3;
	s->cr4 = v->vm->nested.smm_intel ? v->cr4 & ~CR4_VMXE : v->cr4;
	s->efer = v->efer;
	s->smbase = v->smbase;
	s->revision = cpu_has(v, FEAT_LM) ? REVISION_64 : REVISION_32;
	memcpy(s->seg, v->seg, sizeof(s->seg));
	s->gdtr = v->gdtr;
	s->idtr = v->idtr;
}

static void store(struct vcpu *v, const struct smram *m)
{
	gpa_t at = (gpa_t)v->smbase + SMRAM_SAVE;
	struct memslot *s = mem_slot_find(&v->vm->mem, v->smm, at);

	mem_write(&v->vm->mem, v->smm, at, m->byte, sizeof(m->byte));
	if (s && memslot_code_users(s, memslot_page(s, at)))
		code_written(v, s, at, sizeof(m->byte));
}

/* [SDM3C "SMI Handler Execution Environment"]; the empty IDT is the processor's, though undocumented. */
static void load_environment(struct vcpu *v)
{
	struct segment data = { .limit = 0xffffffff, .ar = SMM_DATA_AR };
	struct segment cs = data;

	cs.sel = (u16)(v->smbase >> 4);
	cs.base = v->smbase;
	for (unsigned int n = SEG_ES; n <= SEG_GS; n++)
		seg_commit(v, n, n == SEG_CS ? &cs : &data);
	cpu_set_rflags(v, FLAG_FIXED);
	v->rip = SMM_RIP;
	v->cr0 &= ~(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
	v->cr4 = 0;
	if (cpu_has(v, FEAT_LM))
		v->efer = 0;
	v->idtr = (struct dtable){ 0 };
	v->dr7 = DR7_RESET;
	v->monitor_armed = false;
}

/* SMI in L2 tells the handler of EPT [SDM3C "Default Treatment of SMI Delivery"]. */
static void note_ept(struct vcpu *v, struct smram *m)
{
	u32 on = v->nonroot && vmx_proc2(v, PROC2_EPT);
	u64 eptp = on ? v->vmx->c.eptp : 0;

	if (!v->vm->nested.smm_intel || !cpu_has(v, FEAT_LM))
		return;
	move(m, 0x7ee0, &on, 4);
	move(m, 0x7ed8, &eptp, 8);
}

void smm_enter(struct vcpu *v)
{
	struct smram m = { .save = true };
	struct smm_state s;

	v->smi_pending = false;
	v->msr_val[MSR_SLOT_SMI_COUNT]++;
	capture(v, &s);
	move_all(v, &m, &s);
	note_ept(v, &m);
	vmx_smi(v);
	v->smm = true;
	store(v, &m);
	v->smm_inside_nmi_mask = v->nmi_masked;
	v->nmi_masked = true;
	load_environment(v);
	debug_update(v);
	smm_set(v, true);
}

/* ---- leaving ----------------------------------------------------------------------------------------------- */

static bool efer_valid(const struct vcpu *v, u64 efer)
{
	u64 valid = EFER_LMA;

	valid |= cpu_has(v, FEAT_SYSCALL) ? EFER_SCE : 0;
	valid |= cpu_has(v, FEAT_LM) ? EFER_LME : 0;
	valid |= cpu_has(v, FEAT_NX) ? EFER_NXE : 0;
	return !(efer & ~valid);
}

/* [SDM3C "Exiting From SMM"], and what loading each register by itself would refuse. */
static bool state_valid(const struct vcpu *v, const struct smm_state *s)
{
	bool long_mode = (s->efer & EFER_LME) && (s->cr0 & CR0_PG);

	if (!cpu_cr0_valid(v, s->cr0) || !cpu_cr4_valid(v, s->cr4) || !efer_valid(v, s->efer))
		return false;
	if (s->dr6 >> 32 || s->dr7 >> 32)
		return false;
	if (!long_mode)
		return !(s->cr4 & CR4_PCIDE);
	return (s->cr4 & CR4_PAE) && !(s->cr3 >> v->maxphyaddr);
}

static void restore(struct vcpu *v, const struct smm_state *s)
{
	memcpy(v->gpr, s->gpr, sizeof(v->gpr));
	v->rip = s->rip;
	cpu_set_rflags(v, s->rflags);
	v->dr6 = dr6_image(v, s->dr6);
	v->dr7 = dr7_image(s->dr7);
	v->cr0 = s->cr0 | CR0_ET;
	v->cr3 = s->cr3;
	v->cr4 = s->cr4;
	v->efer = s->efer & ~EFER_LMA;
	if ((s->efer & EFER_LME) && (s->cr0 & CR0_PG))
		v->efer |= EFER_LMA;
	v->smbase = (u32)s->smbase;
	for (unsigned int n = 0; n < SEG_NUM; n++)
		seg_commit(v, n, &s->seg[n]);
	v->gdtr = s->gdtr;
	v->idtr = s->idtr;
}

/* A state that can be loaded, by the manual after what VMX operation makes of it. */
static bool loadable(const struct vcpu *v, struct smm_state *s)
{
	const struct vmx_rsm_state regs = { &s->cr0, &s->cr4, &s->rflags, &s->seg[SEG_CS], &s->seg[SEG_SS] };

	if (!state_valid(v, s))
		return false;
	return !v->vm->nested.smm_intel || (vmx_rsm_default(v, &regs) && state_valid(v, s));
}

static int shutdown(struct vcpu *v)
{
	v->exc.valid = false;
	v->stop = CPU_STOP_SHUTDOWN;
	return OP_STOP;
}

int smm_leave(struct vcpu *v)
{
	struct smram m = { .save = false };
	struct smm_state s = { 0 };

	if (mem_read(&v->vm->mem, v->smm, (gpa_t)v->smbase + SMRAM_SAVE, m.byte, sizeof(m.byte)))
		return cpu_internal(v, INTERNAL_ENGINE);
	move_all(v, &m, &s);
	if (!v->smm_inside_nmi_mask)
		v->nmi_masked = false;
	if (!loadable(v, &s)) {
		smm_set(v, false);
		return shutdown(v);
	}
	v->smm = false;
	vmx_rsm(v);
	restore(v, &s);
	debug_update(v);
	smm_set(v, false);
	if ((v->cr0 & CR0_PG) && (v->cr4 & CR4_PAE) && !cpu_long_mode(v) && mmu_load_pdptes(v))
		return shutdown(v);
	return OP_JUMP;
}
