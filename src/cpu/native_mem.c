/* SPDX-License-Identifier: MIT */
/*
 * The memory operand of a stub: effective address, first-level TLB probe, generic path.
 *
 * The probe runs in 64-bit code, where a segment is at most a base. All other code, and what the
 * probe does not find, goes through cpu_mem_begin(), which checks everything.
 */
#include "cpu/native_priv.h"

#include "cpu/op/op.h"

static bool is_fast(const struct stub *s)
{
	return s->d->csz == 8 && insn_asz(s->rec) == 8;
}

bool native_is_locked(const struct decode *d)
{
	/* XCHG with memory locks by itself. [SDM2D "XCHG"] */
	return d->mem_acc == MEM_RW && (d->rec.flags & INSN_LOCK || d->rec.id == INSN_XCHG);
}

void stub_ea(struct stub *s, bool with_segment)
{
	struct emit *e = &s->e;
	struct insn *r = s->rec;
	unsigned int seg = insn_seg(r);

	if (r->base == GPR_RIP) {
		/* The handler's view of a native record never needs the immediate. */
		r->imm = (s64)r->off + r->len + r->disp;
		emit_load(e, R_MEM, R_VCPU, offsetof(struct vcpu, page_rip));
		emit_rm(e, true, 0x03, R_MEM, R_REC, OFF_REC(imm));
	} else if (r->base == GPR_MOFFS) {
		emit_load(e, R_MEM, R_REC, offsetof(struct insn, imm));
	} else if (r->base == GPR_NONE) {
		emit_rm(e, true, 0x63, R_MEM, R_REC, OFF_REC(disp));
	} else {
		emit_load(e, R_MEM, R_VCPU, (size_t)OFF_GPR(r->base));
	}
	if (r->index != GPR_NONE) {
		emit_load(e, GPR_R10, R_VCPU, (size_t)OFF_GPR(r->index));
		emit_lea_sib(e, R_MEM, R_MEM, GPR_R10, insn_scale(r));
	}
	if (r->base < GPR_NONE && r->disp) {
		emit_rm(e, true, 0x63, GPR_R10, R_REC, OFF_REC(disp));
		emit_rr(e, true, 0x01, GPR_R10, R_MEM);
	}
	if (with_segment && seg == SEG_FS)
		emit_rm(e, true, 0x03, R_MEM, R_VCPU, OFF(fs_base_copy));
	else if (with_segment && seg == SEG_GS)
		emit_rm(e, true, 0x03, R_MEM, R_VCPU, OFF(gs_base_copy));
}

/* Clobbers rax, rcx. */
unsigned int stub_probe(struct stub *s, unsigned int size, bool write)
{
	struct emit *e = &s->e;
	s32 array = (s32)(write ? offsetof(struct tlb_l1, w) : offsetof(struct tlb_l1, r));
	unsigned int miss;

	emit_rr(e, false, 0x89, R_MEM, GPR_RAX);
	emit1(e, 0xc1); /* shr eax, 8: 16-byte entries */
	emit1(e, 0xe8);
	emit1(e, PAGE_SHIFT - 4);
	emit_alu_imm(e, false, 4, GPR_RAX, (TLB_ENTRIES - 1) << 4);
	emit_rm(e, true, 0x03, GPR_RAX, R_VCPU, OFF(dtlb));
	emit_rr(e, true, 0x89, R_MEM, GPR_RCX);
	emit_rm(e, true, 0x2b, GPR_RCX, GPR_RAX, array + (s32)offsetof(struct tlb_entry, tag));
	emit_alu_imm(e, true, 7, GPR_RCX, (s32)(PAGE_SIZE - size));
	miss = emit_jcc(e, CC_A);
	emit_rm(e, true, 0x03, GPR_RCX, GPR_RAX, array + (s32)offsetof(struct tlb_entry, host));
	emit_rr(e, true, 0x89, GPR_RCX, R_MEM);
	return miss;
}
_Static_assert(sizeof(struct tlb_entry) == 16, "the probe shifts by 8");

/* Nor in memory that is not write-back; as long as there is some, C looks. */
static unsigned int check_type(struct stub *s)
{
	emit_rm(&s->e, false, 0x80, 7, R_VCPU, OFF(tlb_uc));
	emit1(&s->e, 0);
	return emit_jcc(&s->e, CC_NE);
}

/* A locked operand may only run as a host LOCK inside one line (design rule 2). */
static unsigned int check_line(struct stub *s, unsigned int size)
{
	struct emit *e = &s->e;

	if (size == 1)
		return 0;
	emit_rm(e, false, 0x8d, GPR_RAX, R_MEM, (s32)size - 1);
	emit_rr(e, false, 0x31, R_MEM, GPR_RAX);
	emit_alu_imm(e, false, 4, GPR_RAX, -64);
	return emit_jcc(e, CC_NE);
}

void stub_mem_begin(struct stub *s)
{
	unsigned int size = s->d->mem_size;

	if (is_fast(s)) {
		stub_ea(s, true);
		if (native_is_locked(s->d)) {
			s->slow_lock = check_line(s, size);
			s->slow_type = check_type(s);
		}
		s->slow_mem = stub_probe(s, size, s->d->mem_acc & MEM_W);
	} else {
		s->slow_mem = emit_jmp(&s->e);
	}
	s->after_mem = s->e.n;
}

void stub_mem_end(struct stub *s)
{
	struct emit *e = &s->e;

	emit_rm(e, false, 0x83, 7, R_VCPU, OFF(bounce) + (s32)offsetof(struct bounce, active));
	emit1(e, 0);
	s->slow_commit = emit_jcc(e, CC_NE);
	s->after_commit = e->n;
}

bool insn_uses_x87(u16 id)
{
	const struct insn_row *row = &insn_rows[id];

	/* FCMOV, FCOMI and FISTTP are of other features; nothing else begins with F that is no handler's */
	return row->name[0] == 'F' || row->feature == FEAT_MMX || row->form == INSN_FORM_MMX;
}

/* SSE, but for a register of MMX */
bool insn_mixes_mmx(u16 id)
{
	switch (id) {
	case INSN_CVTPI2PS: case INSN_CVTPI2PD: case INSN_CVTPS2PI: case INSN_CVTPD2PI: case INSN_CVTTPS2PI:
	case INSN_CVTTPD2PI: case INSN_MOVQ2DQ: case INSN_MOVDQ2Q: case INSN_MOVNTQ: case INSN_PSHUFW:
		return true;
	}
	return false;
}

unsigned int native_live_bit(const struct decode *d)
{
	if (d->avx)
		return FP_LIVE_AVX;
	if (insn_mixes_mmx(d->rec.id))
		return FP_LIVE_MIXED;
	return insn_uses_x87(d->rec.id) ? FP_LIVE_X87 : FP_LIVE_SSE;
}

void stub_fp_begin(struct stub *s)
{
	struct emit *e = &s->e;

	emit_rm(e, false, 0xf6, 0, R_VCPU, OFF(fp_live));
	emit1(e, native_live_bit(s->d));
	s->slow_fp = emit_jcc(e, CC_E);
	s->after_fp = e->n;
}

void stub_next(struct stub *s)
{
	emit_alu_imm(&s->e, true, 0, R_REC, sizeof(struct insn));
	emit_jmp_mem(&s->e, R_REC, OFF_REC(fn));
}

/* cpu_mem_begin() may have made the world look at vector state; the pointer survives its return. */
static void cold_fp_again(struct stub *s)
{
	struct emit *e = &s->e;
	unsigned int live;

	emit_rm(e, false, 0xf6, 0, R_VCPU, OFF(fp_live));
	emit1(e, native_live_bit(s->d));
	live = emit_jcc(e, CC_NE);
	emit_store(e, R_MEM, R_VCPU, (size_t)OFF_SLOT(SLOT_SAVE));
	emit_call_mem(e, R_VCPU, OFF_SLOT(SLOT_FP));
	emit_load(e, R_MEM, R_VCPU, (size_t)OFF_SLOT(SLOT_SAVE));
	emit_land(e, live);
}

void stub_cold(struct stub *s)
{
	struct emit *e = &s->e;

	if (s->slow_fp) {
		emit_land(e, s->slow_fp);
		emit_call_mem(e, R_VCPU, OFF_SLOT(SLOT_FP));
		emit_jmp_back(e, s->after_fp);
	}
	if (s->slow_mem) {
		u32 acc = (s->d->mem_acc & MEM_R ? ACC_R : 0) | (s->d->mem_acc & MEM_W ? ACC_W : 0) |
			  (native_is_locked(s->d) ? ACC_LOCK : 0);

		emit_land(e, s->slow_mem);
		if (s->slow_lock)
			emit_land(e, s->slow_lock);
		if (s->slow_type)
			emit_land(e, s->slow_type);
		emit_mov_imm(e, GPR_RDX, s->d->mem_size);
		emit_mov_imm(e, GPR_RCX, acc);
		emit_call_mem(e, R_VCPU, OFF_SLOT(SLOT_MEM));
		if (s->d->vector)
			cold_fp_again(s);
		emit_jmp_back(e, s->after_mem);
	}
	if (s->slow_commit) {
		emit_land(e, s->slow_commit);
		emit_call_mem(e, R_VCPU, OFF_SLOT(SLOT_COMMIT));
		emit_jmp_back(e, s->after_commit);
	}
}
