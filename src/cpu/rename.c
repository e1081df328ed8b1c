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

#include <string.h>

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

/*
 * Constants come from the record, or each one would be a stub: opcode of the byte form with a register in place of
 * the immediate. IMM_NONE: the stub contains it.
 */
#define IMM_NONE 0xff
#define IMM_IMUL 0xaf /* in the two-byte map, and the other way round */

static u8 imm_opcode(const struct decode *d)
{
	/* An address relative to RIP has taken the record's place for the immediate: see stub_ea(). */
	if (d->encoding != ENC_LEGACY || d->map || !d->imm_len || d->gpr_high || d->rec.base >= GPR_RIP)
		return IMM_NONE;
	switch (d->rec.id) {
	case INSN_ADD: return 0x00;
	case INSN_OR: return 0x08;
	case INSN_ADC: return 0x10;
	case INSN_SBB: return 0x18;
	case INSN_AND: return 0x20;
	case INSN_SUB: return 0x28;
	case INSN_XOR: return 0x30;
	case INSN_CMP: return 0x38;
	case INSN_TEST: return 0x84;
	case INSN_MOV: return 0x88;
	case INSN_IMUL: return d->rec.osz >= 4 ? IMM_IMUL : IMM_NONE;
	default: return IMM_NONE;
	}
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
		s->r.host[g] = NO_REG;
		if (!(named & 1u << g))
			continue;
		s->r.host[g] = g <= GPR_RDX ? (u8)g : take(&free, order, n);
		if (s->r.host[g] == NO_REG)
			return false;
	}
	s->imm = imm_opcode(d) != IMM_NONE ? take(&free, order, n) : NO_REG;
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
	bool mem;
	bool byte_rex; /* a byte register that exists only with REX */
};

/* Guest register number to the encoding field that names its stand-in. */
static unsigned int stand_in(const struct rename *r, unsigned int guest, bool high)
{
	unsigned int host = r->host[guest];

	if (native_test_break_rename && host == GPR_R9)
		host = GPR_R8;
	return high ? host + 4 : host;
}

/* Does some register field of this encoding name a byte register? */
static bool has_byte_field(const struct decode *d)
{
	return d->rec.osz == 1 || (d->map == 1 && (d->opcode & 0xf6) == 0xb6) ||
	       (d->map == 2 && d->opcode == 0xf0);
}

static void rename_fields(const struct decode *d, const struct rename *r, struct fields *f)
{
	const struct insn *i = &d->rec;

	f->has_modrm = d->off_modrm != 0xff;
	f->reg = insn_reg(i);
	f->rm = insn_rm(i);
	f->vvvv = d->csz == 8 ? d->vvvv : d->vvvv & 7u;
	f->mem = i->flags & INSN_MEM || i->base == GPR_MOFFS;
	f->byte_rex = false;
	if (d->gpr_fields & FIELD_REG) {
		f->reg = stand_in(r, f->reg, i->flags & INSN_REG_HIGH);
		f->byte_rex |= (f->reg & 0xc) == 4;
	}
	if (d->gpr_fields & (FIELD_RM | FIELD_OPCODE)) {
		f->rm = stand_in(r, f->rm, i->flags & INSN_RM_HIGH);
		f->byte_rex |= (f->rm & 0xc) == 4;
	}
	if (d->gpr_fields & FIELD_VVVV)
		f->vvvv = stand_in(r, f->vvvv, false);
	f->byte_rex &= has_byte_field(d) || d->rex;
}

static u8 *put_modrm(u8 *p, const struct rename *r, const struct fields *f, unsigned int reg)
{
	if (f->mem)
		return emit_put_ref(p, reg, &r->mem);
	*p = (u8)(0xc0 | (reg & 7) << 3 | (f->rm & 7));
	return p + 1;
}

static unsigned int rm_rex(const struct rename *r, const struct fields *f)
{
	return f->mem ? ref_rex(&r->mem) : f->rm >= 8 ? 1 : 0;
}

static u8 *put_legacy_prefixes(u8 *p, const struct decode *d, const struct rename *r, const struct fields *f,
			       bool rm_used)
{
	unsigned int rex = (d->rec.flags & INSN_REXW ? 8u : 0) | (rm_used ? rm_rex(r, f) : 0);

	rex |= f->has_modrm & (f->reg >= 8) ? 4u : 0;
	*p = 0xf0;
	p += d->lock && f->mem;
	*p = 0x66;
	p += d->size66;
	*p = d->rep_op;
	p += d->rep_op != 0;
	*p = (u8)(0x40 | rex);
	return p + ((rex != 0 || f->byte_rex) && !d->gpr_high);
}

/* INC and DEC in the opcode rows that 64-bit mode turned into REX. */
static bool is_short_incdec(const struct decode *d)
{
	return d->csz != 8 && d->map == 0 && (d->opcode & 0xf0) == 0x40;
}

static u8 *put_legacy(u8 *p, const struct decode *d, const struct rename *r, const struct fields *f)
{
	bool opcode_reg = d->gpr_fields & FIELD_OPCODE;

	p = put_legacy_prefixes(p, d, r, f, f->has_modrm || opcode_reg || f->mem);
	if (d->rec.base == GPR_MOFFS) {
		*p++ = (u8)((d->opcode & 2 ? 0x88u : 0x8au) | (d->opcode & 1));
		return put_modrm(p, r, f, GPR_RAX);
	}
	if (is_short_incdec(d)) {
		*p++ = 0xff;
		return put_modrm(p, r, f, d->opcode >> 3 & 1);
	}
	*p = 0x0f;
	p += d->map != 0;
	*p = d->map == 2 ? 0x38 : 0x3a;
	p += d->map >= 2;
	*p++ = (u8)(opcode_reg ? (d->opcode & 0xf8u) | (f->rm & 7) : d->opcode);
	return f->has_modrm ? put_modrm(p, r, f, f->reg) : p;
}

static u8 *put_vex(u8 *p, const struct decode *d, const struct rename *r, const struct fields *f)
{
	u8 last = d->bytes[d->off_opcode - 1]; /* vvvv, L, pp, and W of the long form */
	unsigned int w = d->rec.flags & INSN_REXW ? 0x80 : 0;
	unsigned int rex = f->has_modrm ? (f->reg >= 8 ? 4u : 0) | rm_rex(r, f) : 0;

	*p++ = 0xc4;
	*p++ = (u8)((~rex & 7) << 5 | d->map);
	*p++ = (u8)(w | (~f->vvvv & 15) << 3 | (last & 7));
	*p++ = d->opcode;
	return f->has_modrm ? put_modrm(p, r, f, f->reg) : p;
}

/* VBLENDV*: the immediate's high nibble is a register, 3 bits of it outside 64-bit mode. */
static bool has_register_immediate(const struct decode *d)
{
	return d->encoding == ENC_VEX && d->map == 3 && d->opcode >= 0x4a && d->opcode <= 0x4c;
}

void rename_emit(struct emit *e, const struct decode *d, const struct rename *r)
{
	unsigned int imm = d->imm_len && d->rec.base != GPR_MOFFS ? d->imm_len : 0;
	struct fields f;
	u8 *p = emit_begin(e);

	if (!p)
		return;
	rename_fields(d, r, &f);
	p = d->encoding == ENC_VEX ? put_vex(p, d, r, &f) : put_legacy(p, d, r, &f);
	emit_end(e, p);
	if (has_register_immediate(d) && d->csz != 8)
		emit1(e, d->bytes[d->off_imm] & 0x7fu);
	else if (imm && (p = emit_begin(e))) {
		memcpy(p, &d->bytes[d->off_imm], sizeof(u64));
		emit_end(e, p + imm);
	}
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
			emit_load(&s->e, s->r.host[g], R_VCPU, (size_t)OFF_GPR(g));
}

static void store_registers(struct stub *s)
{
	for (unsigned int g = 0; g < 16; g++)
		if (s->d->gpr_write & 1u << g)
			emit_store(&s->e, s->r.host[g], R_VCPU, (size_t)OFF_GPR(g));
}

bool native_waits_x87(const struct decode *d)
{
	return d->x87 && d->rec.id != INSN_FNSTCW && d->rec.id != INSN_FNSTSW;
}

/* ---- constants: from the record, or each one would be a stub ---------------------------------------- */

static bool is_mov_imm(const struct decode *d)
{
	return d->rec.id == INSN_MOV && !(d->rec.flags & INSN_MEM) && d->imm_len && d->rec.osz >= 4;
}

static void make_mov_imm(struct stub *s)
{
	emit_rm(&s->e, s->rec->osz == 8, 0x8b, GPR_RAX, R_REC, OFF_REC(imm));
	emit_store(&s->e, GPR_RAX, R_VCPU, (size_t)OFF_GPR(insn_rm(s->rec)));
	stub_next(s);
}

bool stub_reads_imm(const struct decode *d)
{
	return is_mov_imm(d) || imm_opcode(d) != IMM_NONE;
}

static void put_by_register(struct stub *s)
{
	const struct decode *d = s->d;
	struct emit *e = &s->e;
	unsigned int osz = d->rec.osz, opcode = imm_opcode(d), reg = s->imm;
	bool mem = d->rec.flags & INSN_MEM;
	bool in_rax = d->off_modrm == 0xff && !(d->gpr_fields & FIELD_OPCODE);
	unsigned int rm = s->r.host[in_rax ? GPR_RAX : insn_rm(&d->rec)];

	emit_rm(e, osz == 8, 0x8b, reg, R_REC, OFF_REC(imm));
	if (d->lock)
		emit1(e, 0xf0);
	if (osz == 2)
		emit1(e, 0x66);
	opcode = opcode == IMM_IMUL ? 0x0f00 | IMM_IMUL : opcode | (osz > 1);
	if (mem)
		emit_ref(e, osz == 8, opcode, reg, &s->r.mem);
	else
		emit_rr(e, osz == 8, opcode, reg, rm);
	if (opcode == (0x0f00 | IMM_IMUL))
		emit_rr(e, osz == 8, 0x8b, s->r.host[insn_reg(&d->rec)], reg);
}

bool stub_compute(struct stub *s)
{
	const struct decode *d = s->d;
	bool mem = s->rec->flags & INSN_MEM;

	if (is_mov_imm(d)) {
		make_mov_imm(s);
		return true;
	}
	if (!choose_registers(s) || (mem && (!d->mem_size || d->mem_size > 64)))
		return false;
	s->r.mem = (struct mem_ref){ .base = s->ptr, .index = REF_NONE };
	if (d->vector)
		stub_fp_begin(s);
	if (mem && native_waits_x87(d))
		emit1(&s->e, 0x9b); /* fwait: a pending #MF comes before faults of the operand */
	if (mem)
		stub_mem_begin(s);
	if (d->flags_read || d->flags_keep)
		load_flags(s);
	if (mem && s->ptr != R_MEM)
		emit_rr(&s->e, true, 0x89, R_MEM, s->ptr);
	load_registers(s);
	if (s->imm != NO_REG)
		put_by_register(s);
	else
		rename_emit(&s->e, d, &s->r);
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
