/* SPDX-License-Identifier: MIT */
/*
 * The renamer: the guest's own instruction with other registers.
 *
 * RAX, RCX and RDX stand for themselves, because implicit operands cannot be renamed. Other guest
 * registers become r8-r10, or one of the first three when AH..BH are named, since those exist only
 * without REX. The memory operand becomes a plain register-indirect one. Everything else of the
 * encoding stays as the guest wrote it, so semantics need no table.
 */
#include "cpu/native_priv.h"

#include "cpu/op/op.h"

#define NO_REG 0xff

bool native_test_break_rename;

/* ---- choosing host registers ------------------------------------------------------------------- */

static u8 take(u16 *free, const u8 *order, unsigned int n)
{
	for (unsigned int k = 0; k < n; k++) {
		if (*free & 1u << order[k]) {
			*free &= (u16) ~(1u << order[k]);
			return order[k];
		}
	}
	return NO_REG;
}

static bool choose_registers(struct stub *s)
{
	static const u8 low[] = { GPR_RDX, GPR_RCX, GPR_RAX };
	static const u8 any[] = { GPR_R8, GPR_R9, GPR_R10, GPR_RDX, GPR_RCX, GPR_RAX };
	const struct decode *d = s->d;
	u16 named = d->gpr_read | d->gpr_write;
	bool high = d->gpr_high != 0;
	const u8 *order = high ? low : any;
	unsigned int n = high ? ARRAY_SIZE(low) : ARRAY_SIZE(any);
	u16 free = (u16)(high ? 7 : 0x707) & (u16)~named;

	if (!high)
		free = (u16)(0x700 | (7 & ~named));
	for (unsigned int g = 0; g < 16; g++) {
		s->host[g] = NO_REG;
		if (!(named & 1u << g))
			continue;
		s->host[g] = g <= GPR_RDX ? (u8)g : take(&free, order, n);
		if (s->host[g] == NO_REG)
			return false;
	}
	s->ptr = R_MEM;
	if (high && d->mem_acc) {
		s->ptr = take(&free, low, ARRAY_SIZE(low));
		if (s->ptr == NO_REG)
			return false;
	}
	return true;
}

/* ---- writing the instruction ------------------------------------------------------------------- */

struct fields {
	unsigned int reg, rm, vvvv;
	bool has_modrm;
};

/* Guest register number to the encoding field that names its stand-in. */
static unsigned int stand_in(const struct stub *s, unsigned int guest, bool high)
{
	unsigned int host = s->host[guest];

	if (native_test_break_rename && host == GPR_R9)
		host = GPR_R8;
	return high ? host + 4 : host;
}

static void rename_fields(const struct stub *s, struct fields *f)
{
	const struct decode *d = s->d;
	const struct insn *r = s->rec;

	f->has_modrm = d->off_modrm != 0xff;
	f->reg = insn_reg(r);
	f->rm = insn_rm(r);
	f->vvvv = d->csz == 8 ? d->vvvv : d->vvvv & 7u;
	if (d->gpr_fields & FIELD_REG)
		f->reg = stand_in(s, f->reg, r->flags & INSN_REG_HIGH);
	if (d->gpr_fields & (FIELD_RM | FIELD_OPCODE))
		f->rm = stand_in(s, f->rm, r->flags & INSN_RM_HIGH);
	if (d->gpr_fields & FIELD_VVVV)
		f->vvvv = stand_in(s, f->vvvv, false);
	if (r->flags & INSN_MEM)
		f->rm = s->ptr;
}

static void emit_modrm(struct stub *s, const struct fields *f, unsigned int reg)
{
	unsigned int mod = s->rec->flags & INSN_MEM ? 0 : 3;

	emit1(&s->e, mod << 6 | (reg & 7) << 3 | (f->rm & 7));
}

static void emit_legacy_prefixes(struct stub *s, const struct fields *f, bool rm_used)
{
	const struct decode *d = s->d;
	unsigned int rex = (s->rec->flags & INSN_REXW ? 8u : 0) | (rm_used && f->rm >= 8 ? 1u : 0);

	if (f->has_modrm && f->reg >= 8)
		rex |= 4;
	if (d->lock && (s->rec->flags & INSN_MEM))
		emit1(&s->e, 0xf0);
	if (d->size66)
		emit1(&s->e, 0x66);
	if (d->rep_op)
		emit1(&s->e, d->rep_op);
	if (d->gpr_high)
		rex = 0;
	if (rex)
		emit1(&s->e, 0x40 | rex);
}

static bool is_moffs(const struct stub *s)
{
	return s->rec->base == GPR_MOFFS;
}

/* INC and DEC in the opcode rows that 64-bit mode turned into REX. */
static bool is_short_incdec(const struct stub *s)
{
	return s->d->csz != 8 && s->d->map == 0 && (s->d->opcode & 0xf0) == 0x40;
}

static void emit_legacy(struct stub *s, const struct fields *f)
{
	const struct decode *d = s->d;
	bool opcode_reg = d->gpr_fields & FIELD_OPCODE;

	emit_legacy_prefixes(s, f, f->has_modrm || opcode_reg || is_moffs(s));
	if (is_moffs(s)) {
		emit1(&s->e, (d->opcode & 2 ? 0x88u : 0x8au) | (d->opcode & 1));
		emit_modrm(s, f, GPR_RAX);
		return;
	}
	if (is_short_incdec(s)) {
		emit1(&s->e, 0xff);
		emit_modrm(s, f, d->opcode >> 3 & 1);
		return;
	}
	if (d->map)
		emit1(&s->e, 0x0f);
	if (d->map == 2)
		emit1(&s->e, 0x38);
	else if (d->map == 3)
		emit1(&s->e, 0x3a);
	emit1(&s->e, opcode_reg ? (d->opcode & 0xf8u) | (f->rm & 7) : d->opcode);
	if (f->has_modrm)
		emit_modrm(s, f, f->reg);
}

static void emit_vex(struct stub *s, const struct fields *f)
{
	const struct decode *d = s->d;
	u8 last = d->bytes[d->off_opcode - 1]; /* vvvv, L, pp, and W of the long form */
	unsigned int w = s->rec->flags & INSN_REXW ? 0x80 : 0;

	emit1(&s->e, 0xc4);
	emit1(&s->e, (f->has_modrm && f->reg >= 8 ? 0u : 0x80u) | 0x40 |
			     (f->has_modrm && f->rm >= 8 ? 0u : 0x20u) | d->map);
	emit1(&s->e, w | (~f->vvvv & 15) << 3 | (last & 7));
	emit1(&s->e, d->opcode);
	if (f->has_modrm)
		emit_modrm(s, f, f->reg);
}

/* VBLENDV*: the immediate's high nibble is a register, 3 bits of it outside 64-bit mode. */
static bool has_register_immediate(const struct decode *d)
{
	return d->encoding == ENC_VEX && d->map == 3 && d->opcode >= 0x4a && d->opcode <= 0x4c;
}

static void emit_guest_insn(struct stub *s)
{
	const struct decode *d = s->d;
	struct fields f;

	rename_fields(s, &f);
	if (d->encoding == ENC_VEX)
		emit_vex(s, &f);
	else
		emit_legacy(s, &f);
	if (has_register_immediate(d) && d->csz != 8)
		emit1(&s->e, d->bytes[d->off_imm] & 0x7fu);
	else if (d->imm_len)
		emit_bytes(&s->e, &d->bytes[d->off_imm], d->imm_len);
}

/* ---- the stub ----------------------------------------------------------------------------------- */

static void load_flags(struct stub *s)
{
	emit_rm(&s->e, false, 0x0fb7, GPR_RAX, R_VCPU, OFF(aflags));
	emit1(&s->e, 0x04); /* add al, 7f: OF from bit 0 */
	emit1(&s->e, 0x7f);
	emit1(&s->e, 0x9e); /* sahf */
}

static void save_flags(struct stub *s)
{
	emit1(&s->e, 0x9f); /* lahf */
	emit_rr(&s->e, false, 0x0f90, 0, GPR_RAX); /* seto al */
	emit1(&s->e, 0x66);
	emit_rm(&s->e, false, 0x89, GPR_RAX, R_VCPU, OFF(aflags));
}

static void load_registers(struct stub *s)
{
	u16 need = (s->d->gpr_read | s->d->gpr_write) & (u16)~s->d->gpr_full;

	for (unsigned int g = 0; g < 16; g++)
		if (need & 1u << g)
			emit_load(&s->e, s->host[g], R_VCPU, (size_t)OFF_GPR(g));
}

static void store_registers(struct stub *s)
{
	for (unsigned int g = 0; g < 16; g++)
		if (s->d->gpr_write & 1u << g)
			emit_store(&s->e, s->host[g], R_VCPU, (size_t)OFF_GPR(g));
}

static bool waits_for_x87(const struct stub *s)
{
	return s->d->x87 && s->rec->id != INSN_FNSTCW && s->rec->id != INSN_FNSTSW;
}

/* MOV register, immediate: the constant comes from the record, or each one would be a stub. */
static bool is_mov_imm(const struct stub *s)
{
	const struct decode *d = s->d;

	return s->rec->id == INSN_MOV && !(s->rec->flags & INSN_MEM) && d->imm_len && s->rec->osz >= 4;
}

static void make_mov_imm(struct stub *s)
{
	emit_rm(&s->e, s->rec->osz == 8, 0x8b, GPR_RAX, R_REC, OFF_REC(imm));
	emit_store(&s->e, GPR_RAX, R_VCPU, (size_t)OFF_GPR(insn_rm(s->rec)));
	stub_next(s);
}

bool stub_compute(struct stub *s)
{
	const struct decode *d = s->d;
	bool mem = s->rec->flags & INSN_MEM;

	if (is_mov_imm(s)) {
		make_mov_imm(s);
		return true;
	}
	if (!choose_registers(s) || (mem && (!d->mem_size || d->mem_size > 64)))
		return false;
	if (d->vector)
		stub_fp_begin(s);
	if (mem && waits_for_x87(s))
		emit1(&s->e, 0x9b); /* fwait: a pending #MF comes before faults of the operand */
	if (mem)
		stub_mem_begin(s);
	if (d->flags_read || d->flags_keep)
		load_flags(s);
	if (mem && s->ptr != R_MEM)
		emit_rr(&s->e, true, 0x89, R_MEM, s->ptr);
	load_registers(s);
	emit_guest_insn(s);
	store_registers(s);
	if (d->flags_write)
		save_flags(s);
	if (mem && d->mem_acc & MEM_W)
		stub_mem_end(s);
	stub_next(s);
	stub_cold(s);
	return true;
}

bool stub_lea(struct stub *s)
{
	struct emit *e = &s->e;
	s32 dst = OFF_GPR(insn_reg(s->rec));

	stub_ea(s, false);
	if (s->rec->flags & INSN_REXW) {
		emit_store(e, R_MEM, R_VCPU, (size_t)dst);
	} else if (s->d->size66) {
		emit1(e, 0x66);
		emit_rm(e, false, 0x89, R_MEM, R_VCPU, dst);
	} else {
		emit_rr(e, false, 0x89, R_MEM, R_MEM);
		emit_store(e, R_MEM, R_VCPU, (size_t)dst);
	}
	stub_next(s);
	return true;
}
