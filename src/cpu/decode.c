/* SPDX-License-Identifier: MIT */
/*
 * The decoder: Zydis behind struct decode. The only file that knows Zydis.
 *
 * Zydis says which instruction the bytes are and what it reads and writes; the row of spec/insn.def
 * says whether this processor has it and who executes it; the byte offsets are taken from the bytes.
 */
#include "cpu/op/op.h"
#include "cpu/vmx/vmx.h"

#include <errno.h>
#include <string.h>

#include <Zydis/Zydis.h>

/* ---- the table ------------------------------------------------------------------------------- */

#define native NULL
const struct insn_row insn_rows[INSN_COUNT] = {
	[INSN_INVALID] = { .name = "(invalid)", .op = op_ud, .feature = FEAT_BASE, .traits = T_BRANCH,
			   .intercept = VMEXIT_NONE },
#define INSN(id, mnem, frm, handler, feat, trts, icept)                                              \
	[INSN_##id] = { .name = #id, .op = handler, .feature = FEAT_##feat,                          \
			.mnemonic = ZYDIS_MNEMONIC_##mnem, .traits = trts, .form = INSN_FORM_##frm,   \
			.intercept = VMEXIT_##icept },
#include "spec/insn.def"
#undef INSN
};
#undef native

/* First row of each mnemonic; a mnemonic's rows follow each other. 0: no row. */
static u16 first_row[ZYDIS_MNEMONIC_MAX_VALUE + 1];

__attribute__((constructor)) static void index_rows(void)
{
	for (unsigned int id = INSN_COUNT - 1; id > INSN_INVALID; id--)
		first_row[insn_rows[id].mnemonic] = (u16)id;
}

const char *insn_name(enum insn_id id)
{
	return id < INSN_COUNT ? insn_rows[id].name : "(bad id)";
}

struct work {
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static bool names_mmx(const struct work *w)
{
	for (unsigned int n = 0; n < w->zi.operand_count; n++) {
		if (w->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(w->op[n].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	}
	return false;
}

static bool opcode_in(const struct work *w, unsigned int map, unsigned int first, unsigned int last)
{
	return w->zi.opcode_map == map && w->zi.opcode >= first && w->zi.opcode <= last;
}

static bool is_bit_test_mr(const struct work *w)
{
	return w->zi.opcode_map == ZYDIS_OPCODE_MAP_0F && w->zi.opcode != 0xba &&
	       w->zi.raw.modrm.mod != 3;
}

static bool is_stack_seg(const struct work *w)
{
	u8 opc = w->zi.opcode;

	if (w->zi.opcode_map == ZYDIS_OPCODE_MAP_0F)
		return true;
	return opc < 0x20; /* 06 0E 16 1E and their POP neighbours */
}

static bool form_rm(const struct work *w)
{
	switch (w->zi.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		return !is_stack_seg(w) && w->zi.opcode != 0x68 && w->zi.opcode != 0x6a;
	case ZYDIS_MNEMONIC_POP:
		return !is_stack_seg(w);
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
		return w->zi.opcode == 0xff && w->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
	default:
		return !is_bit_test_mr(w);
	}
}

static bool form_gen(const struct work *w)
{
	return w->zi.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && w->zi.opcode != 0x8c &&
	       w->zi.opcode != 0x8e && !opcode_in(w, 0, 0xa0, 0xa3);
}

static bool form_matches(const struct work *w, enum insn_form form)
{
	switch (form) {
	case INSN_FORM_ANY: return true;
	case INSN_FORM_GEN: return form_gen(w);
	case INSN_FORM_MOFFS: return opcode_in(w, 0, 0xa0, 0xa3);
	case INSN_FORM_FROM_SEG: return opcode_in(w, 0, 0x8c, 0x8c);
	case INSN_FORM_TO_SEG: return opcode_in(w, 0, 0x8e, 0x8e);
	case INSN_FORM_FROM_CR: return opcode_in(w, 1, 0x20, 0x20);
	case INSN_FORM_FROM_DR: return opcode_in(w, 1, 0x21, 0x21);
	case INSN_FORM_TO_CR: return opcode_in(w, 1, 0x22, 0x22);
	case INSN_FORM_TO_DR: return opcode_in(w, 1, 0x23, 0x23);
	case INSN_FORM_REL: return w->zi.raw.imm[0].is_relative;
	case INSN_FORM_RM: return form_rm(w);
	case INSN_FORM_NEAR: return w->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
	case INSN_FORM_FAR: return w->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	case INSN_FORM_IMM: return opcode_in(w, 0, 0x68, 0x6a);
	case INSN_FORM_SEG: return is_stack_seg(w);
	case INSN_FORM_MR: return is_bit_test_mr(w);
	case INSN_FORM_STR: return w->zi.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
	case INSN_FORM_MMX: return names_mmx(w);
	case INSN_FORM_XMM: return w->zi.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT && !names_mmx(w);
	case INSN_FORM_MAP3: return w->zi.opcode_map == ZYDIS_OPCODE_MAP_0F3A;
	case INSN_FORM_MEM: return w->zi.raw.modrm.mod != 3;
	case INSN_FORM_REG: return w->zi.raw.modrm.mod == 3;
	case INSN_FORM_V128: return !w->zi.raw.vex.L;
	case INSN_FORM_V256: return w->zi.raw.vex.L;
	}
	return false;
}

static unsigned int find_row(const struct work *w)
{
	unsigned int id = first_row[w->zi.mnemonic];

	if (!id || (w->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
		    w->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX))
		return INSN_INVALID;
	for (; id < INSN_COUNT && insn_rows[id].mnemonic == w->zi.mnemonic; id++)
		if (form_matches(w, (enum insn_form)insn_rows[id].form))
			return id;
	return INSN_INVALID;
}

/* ---- bytes ------------------------------------------------------------------------------------ */

static void scan_prefixes(struct decode *d)
{
	unsigned int n = d->pfx_end;

	for (unsigned int k = 0; k < n; k++) {
		u8 b = d->bytes[k];

		if (b == 0x66)
			d->p66 = true;
		else if (b == 0x67)
			d->p67 = true;
		else if (b == 0xf0)
			d->lock = true;
		else if (b == 0xf2 || b == 0xf3)
			d->pf2 = b == 0xf2, d->pf3 = b == 0xf3;
	}
}

static void set_offsets(struct decode *d, const struct work *w)
{
	const ZydisDecodedInstruction *zi = &w->zi;
	unsigned int pos;

	d->off_rex = d->off_vex = d->off_modrm = d->off_sib = d->off_disp = d->off_imm = 0xff;
	d->map = (u8)zi->opcode_map;
	d->opcode = zi->opcode;
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		d->encoding = ENC_VEX;
		d->off_vex = d->pfx_end = zi->raw.vex.offset;
		d->off_opcode = (u8)(zi->raw.vex.offset + zi->raw.vex.size);
		d->vvvv = (u8)(~d->bytes[d->off_opcode - 1] >> 3) & 15;
	} else {
		d->encoding = ENC_LEGACY;
		d->pfx_end = zi->raw.prefix_count;
		if (zi->attributes & ZYDIS_ATTRIB_HAS_REX) {
			d->off_rex = d->pfx_end = zi->raw.rex.offset;
			d->rex = d->bytes[d->off_rex];
		}
		d->off_opcode = (u8)(zi->raw.prefix_count + (d->map == 0 ? 0 : d->map == 1 ? 1 : 2));
	}
	scan_prefixes(d);
	pos = d->off_opcode + 1u;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		d->off_modrm = zi->raw.modrm.offset;
		pos = d->off_modrm + 1u;
	}
	if (zi->attributes & ZYDIS_ATTRIB_HAS_SIB) {
		d->off_sib = zi->raw.sib.offset;
		pos = d->off_sib + 1u;
	}
	d->disp_len = zi->raw.disp.size / 8;
	if (d->disp_len) {
		d->off_disp = zi->raw.disp.offset;
		pos = d->off_disp + d->disp_len;
	}
	d->imm_len = (u8)(d->len - pos);
	if (d->imm_len)
		d->off_imm = (u8)pos;
}

/* ---- operands --------------------------------------------------------------------------------- */

static bool is_high_byte(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

/* Number of a general register of any width; AH..BH give 0..3. */
static unsigned int gpr_number(ZydisRegister r)
{
	if (is_high_byte(r))
		return r - ZYDIS_REGISTER_AH;
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return r - ZYDIS_REGISTER_AL;
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return r - ZYDIS_REGISTER_SPL + 4u;
	return (unsigned int)ZydisRegisterGetId(r);
}

static u8 field_of(const ZydisDecodedOperand *op)
{
	switch (op->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG: return FIELD_REG;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM: return FIELD_RM;
	case ZYDIS_OPERAND_ENCODING_OPCODE: return FIELD_OPCODE;
	case ZYDIS_OPERAND_ENCODING_NDSNDD: return FIELD_VVVV;
	default: return 0;
	}
}

static void note_gpr(struct decode *d, const ZydisDecodedOperand *op)
{
	ZydisRegister r = op->reg.value;
	unsigned int n = gpr_number(r);
	u16 bit = (u16)(1u << n);
	u8 field = field_of(op);

	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		d->gpr_read |= bit;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		d->gpr_write |= bit;
	if (op->actions == ZYDIS_OPERAND_ACTION_WRITE && op->size >= 32)
		d->gpr_full |= bit;
	d->gpr_fields |= field;
	if (!is_high_byte(r))
		return;
	d->gpr_high |= bit;
	if (field == FIELD_REG)
		d->rec.flags |= INSN_REG_HIGH;
	else if (field == FIELD_RM || field == FIELD_OPCODE)
		d->rec.flags |= INSN_RM_HIGH;
}

static void note_register(struct decode *d, const ZydisDecodedOperand *op)
{
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		note_gpr(d, op);
		break;
	case ZYDIS_REGCLASS_X87:
	case ZYDIS_REGCLASS_MMX:
		d->x87 = true;
		d->vector = true;
		break;
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
		d->vector = true;
		break;
	default:
		break;
	}
}

static enum seg seg_number(ZydisRegister r, unsigned int csz, ZydisRegister base)
{
	enum seg seg = r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ?
			       (enum seg)(r - ZYDIS_REGISTER_ES) : SEG_DS;

	if (csz != 8 || seg >= SEG_FS)
		return seg;
	/* The other segments have no base in 64-bit mode, but the default one selects #SS or #GP. */
	if (base == ZYDIS_REGISTER_RSP || base == ZYDIS_REGISTER_RBP || base == ZYDIS_REGISTER_ESP ||
	    base == ZYDIS_REGISTER_EBP)
		return SEG_SS;
	return SEG_DS;
}

static u8 address_register(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE)
		return GPR_NONE;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return GPR_RIP;
	return (u8)ZydisRegisterGetId(r); /* a VSIB index gives the vector register's number */
}

static bool is_modrm_memory(const ZydisDecodedOperand *op)
{
	return op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
}

static void note_memory(struct decode *d, const struct work *w, const ZydisDecodedOperand *op)
{
	struct insn *r = &d->rec;
	bool moffs = d->map == 0 && (d->opcode & 0xfc) == 0xa0 && d->encoding == ENC_LEGACY;
	unsigned int scale = op->mem.scale ? (unsigned int)__builtin_ctz(op->mem.scale) : 0;
	unsigned int asz = w->zi.address_width / 8u;

	if (!is_modrm_memory(op) && !moffs) {
		/* string operand: its segment is the one that a prefix may override */
		if (op->mem.base != ZYDIS_REGISTER_DI && op->mem.base != ZYDIS_REGISTER_EDI &&
		    op->mem.base != ZYDIS_REGISTER_RDI)
			r->addr = INSN_ADDR(asz, seg_number(op->mem.segment, d->csz, op->mem.base), 0);
		else if (op->mem.segment != ZYDIS_REGISTER_ES) /* MASKMOVQ and its family */
			r->addr = INSN_ADDR(asz, seg_number(op->mem.segment, d->csz, op->mem.base), 0);
		return;
	}
	r->flags |= INSN_MEM;
	r->addr = INSN_ADDR(asz, seg_number(op->mem.segment, d->csz, op->mem.base), scale);
	r->base = moffs ? (u8)GPR_MOFFS : address_register(op->mem.base);
	r->index = address_register(op->mem.index);
	if (r->index != GPR_NONE && op->mem.scale == 0)
		r->index = GPR_NONE;
	d->vsib = op->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
	d->mem_size = op->size / 8u;
	if (op->mem.type == ZYDIS_MEMOP_TYPE_AGEN || op->mem.type == ZYDIS_MEMOP_TYPE_MIB) {
		d->mem_acc = MEM_ADDR;
		return;
	}
	d->mem_acc = MEM_NONE;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		d->mem_acc |= MEM_R;
	if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		d->mem_acc |= MEM_W;
}

/* Not every instruction that needs vector state names a vector register: CVTSD2SI from memory. */
static bool uses_vector_unit(const struct insn_row *row)
{
	switch (row->mnemonic) {
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		return false;
	default:
		break;
	}
	switch (row->feature) {
	case FEAT_MMX: case FEAT_SSE: case FEAT_SSE2: case FEAT_SSE3: case FEAT_SSSE3:
	case FEAT_SSE4_1: case FEAT_SSE4_2: case FEAT_AVX: case FEAT_AVX2: case FEAT_FMA:
	case FEAT_F16C: case FEAT_AES: case FEAT_VAES: case FEAT_PCLMULQDQ: case FEAT_VPCLMULQDQ:
	case FEAT_SHA_NI: case FEAT_GFNI: case FEAT_AVX_VNNI:
		return true;
	default:
		return false;
	}
}

static void note_operands(struct decode *d, const struct work *w)
{
	bool have_mem = false;

	for (unsigned int n = 0; n < w->zi.operand_count; n++) {
		const ZydisDecodedOperand *op = &w->op[n];

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			note_register(d, op);
		} else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && !have_mem) {
			note_memory(d, w, op);
			have_mem = d->rec.flags & INSN_MEM;
		}
	}
	if (w->zi.mnemonic == ZYDIS_MNEMONIC_BSF || w->zi.mnemonic == ZYDIS_MNEMONIC_BSR)
		d->gpr_full = 0; /* a zero source leaves the destination alone */
	if (uses_vector_unit(&insn_rows[d->rec.id]))
		d->vector = true;
	if (insn_rows[d->rec.id].feature == FEAT_FPU || d->rec.id == INSN_EMMS)
		d->x87 = d->vector = true;
	d->avx = d->vector && d->encoding == ENC_VEX;
	d->gpr_full &= (u16)~d->gpr_read;
}

/* Instructions that set all six flags on every execution (AF may be undefined, but never kept). */
static bool sets_all_flags(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_ADD: case ZYDIS_MNEMONIC_ADC: case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_SBB: case ZYDIS_MNEMONIC_CMP: case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_AND: case ZYDIS_MNEMONIC_OR: case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_TEST: case ZYDIS_MNEMONIC_XADD: case ZYDIS_MNEMONIC_CMPXCHG:
		return true;
	default:
		return false;
	}
}

/*
 * Shifts by a constant leave AF undefined; whether this host keeps the old one decides whether the old flags
 * matter. Asked of the host itself, because a copied instruction does what the host does.
 */
static bool host_shift_sets_af(void)
{
	static _Atomic u8 known;
	u64 zero, one;

	if (!known) {
		asm volatile("mov $0, %%ah; sahf; shl $3, %%ecx; lahf; mov %%rax, %0"
			     : "=r"(zero) : : "rax", "rcx", "cc");
		asm volatile("mov $0xff, %%ah; sahf; shl $3, %%ecx; lahf; mov %%rax, %0"
			     : "=r"(one) : : "rax", "rcx", "cc");
		known = (zero ^ one) >> 8 & FLAG_AF ? 1 : 2;
	}
	return known == 2;
}

static bool shifts_by_constant(const struct decode *d, ZydisMnemonic m)
{
	unsigned int mask = d->rec.osz == 8 ? 63 : 31;

	if (m != ZYDIS_MNEMONIC_SHL && m != ZYDIS_MNEMONIC_SHR && m != ZYDIS_MNEMONIC_SAR)
		return false;
	if ((d->opcode & 0xfe) == 0xd0)
		return true;
	return (d->opcode & 0xfe) == 0xc0 && d->imm_len && (d->bytes[d->off_imm] & mask);
}

static void note_flags(struct decode *d, const struct work *w)
{
	const ZydisAccessedFlags *f = w->zi.cpu_flags;

	if (!f)
		return;
	d->flags_read = (u16)(f->tested & FLAGS_ARITH);
	d->flags_write = (u16)((f->modified | f->set_0 | f->set_1 | f->undefined) & FLAGS_ARITH);
	d->flags_undef = (u16)(f->undefined & FLAGS_ARITH);
	d->flags_keep = d->flags_write && !sets_all_flags(w->zi.mnemonic) &&
			!(shifts_by_constant(d, w->zi.mnemonic) && host_shift_sets_af());
}

/* ---- the record --------------------------------------------------------------------------------- */

/* For C handlers: the size the instruction works on, without the odd sizes of its memory image. */
static u8 operand_size(const struct decode *d, const struct work *w)
{
	unsigned int size = w->zi.operand_width / 8u;

	switch (w->zi.mnemonic) {
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
		if (w->zi.opcode & 1)
			return size == 2 ? 2 : 4;
		return 1;
	case ZYDIS_MNEMONIC_INSB:
	case ZYDIS_MNEMONIC_OUTSB:
	case ZYDIS_MNEMONIC_XLAT:
		return 1;
	case ZYDIS_MNEMONIC_INSD:
	case ZYDIS_MNEMONIC_OUTSD:
		return 4;
	case ZYDIS_MNEMONIC_CMPXCHG8B:
		return 8;
	case ZYDIS_MNEMONIC_CMPXCHG16B:
		return 16;
	default:
		break;
	}
	if (insn_rows[d->rec.id].traits & T_VEC && d->encoding == ENC_VEX)
		return w->zi.raw.vex.L ? 32 : 16;
	return (u8)size;
}

/* Size of the ModRM operand of a native instruction. */
static u8 native_size(const struct decode *d, const struct work *w)
{
	if (d->mem_size)
		return (u8)d->mem_size;
	for (unsigned int n = 0; n < w->zi.operand_count; n++)
		if (w->op[n].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			return (u8)(w->op[n].size / 8u);
	return w->zi.operand_count ? (u8)(w->op[0].size / 8u) : 0;
}

static void set_regs(struct decode *d, const struct work *w)
{
	struct insn *r = &d->rec;
	unsigned int reg = 0;
	unsigned int rm = 0;
	unsigned int ext_r = 0, ext_b = 0;

	if (d->encoding == ENC_VEX) {
		ext_r = d->csz == 8 && !(d->bytes[d->off_vex + 1] & 0x80);
		ext_b = d->csz == 8 && w->zi.raw.vex.size == 3 && !(d->bytes[d->off_vex + 1] & 0x20);
	} else if (d->rex) {
		ext_r = d->rex >> 2 & 1;
		ext_b = d->rex & 1;
	}
	if (d->off_modrm != 0xff) {
		reg = w->zi.raw.modrm.reg | ext_r << 3;
		if (!(r->flags & INSN_MEM))
			rm = w->zi.raw.modrm.rm | ext_b << 3;
	} else {
		rm = (d->opcode & 7u) | ext_b << 3;
	}
	if (r->flags & INSN_REG_HIGH)
		reg &= 3;
	if (r->flags & INSN_RM_HIGH)
		rm &= 3;
	if (insn_rows[r->id].traits & T_VEC && d->encoding == ENC_VEX && r->flags & INSN_MEM)
		rm = d->vvvv; /* handlers of gathers and masked moves */
	if (insn_rows[r->id].op == op_jcc)
		rm = d->opcode & 15;
	/* 06 0E 16 1E, 0F A0, 0F A8 and their POP neighbours */
	if (insn_rows[r->id].op == op_push_seg || insn_rows[r->id].op == op_pop_seg)
		reg = d->opcode >> 3 & 7;
	r->regs = (u8)(reg | rm << 4);
}

static void set_immediates(struct decode *d, const struct work *w)
{
	const ZydisDecodedInstructionRaw *raw = &w->zi.raw;
	struct insn *r = &d->rec;

	d->imm_signed = raw->imm[0].is_signed || raw->imm[0].is_relative;
	r->imm = d->imm_signed ? raw->imm[0].value.s : (s64)raw->imm[0].value.u;
	r->disp = (s32)raw->disp.value;
	if (r->base == GPR_MOFFS)
		r->imm = raw->disp.value;
	if (r->op == op_vmaskmov || r->op == op_vpmaskmov)
		r->imm = d->opcode;
	if (w->zi.mnemonic == ZYDIS_MNEMONIC_ENTER)
		r->disp = (s32)raw->imm[1].value.u;
	if ((w->zi.mnemonic == ZYDIS_MNEMONIC_JMP || w->zi.mnemonic == ZYDIS_MNEMONIC_CALL) &&
	    w->op[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
		r->imm = (s64)(u64)w->op[0].ptr.offset;
		r->disp = w->op[0].ptr.segment;
	}
	if ((w->zi.mnemonic == ZYDIS_MNEMONIC_IN || w->zi.mnemonic == ZYDIS_MNEMONIC_OUT) &&
	    d->opcode & 8)
		r->imm = -1; /* port in DX */
}

static void set_flags(struct decode *d, unsigned int traits)
{
	struct insn *r = &d->rec;

	if (d->lock)
		r->flags |= INSN_LOCK;
	if (d->pf3)
		r->flags |= INSN_REP;
	if (d->pf2)
		r->flags |= INSN_REPNE;
	/* F2 repeats the string instructions that compare nothing just as F3 does. */
	if (d->pf2 && (traits & T_STRING) && r->op != op_cmps && r->op != op_scas)
		r->flags |= INSN_REP;
	if (d->encoding == ENC_VEX ? d->off_opcode - d->off_vex == 3 && d->bytes[d->off_vex + 2] & 0x80 :
				     d->rex & 8)
		r->flags |= INSN_REXW;
}

/* In 16-bit code: does the instruction need 66 in 64-bit mode? Some (MOVNTI) know no 16-bit form. */
static bool is_word_operation(const struct work *w)
{
	if (!w->zi.operand_count_visible)
		return w->zi.operand_width == 16;
	if (w->zi.mnemonic == ZYDIS_MNEMONIC_CRC32)
		return w->op[1].size == 16;
	return w->op[0].size == 16;
}

/* Which of the prefixes belong to the opcode, whatever mode the bytes run in. */
static void set_opcode_prefixes(struct decode *d, const struct work *w)
{
	for (unsigned int k = 0; k < w->zi.raw.prefix_count; k++) {
		u8 b = w->zi.raw.prefixes[k].value;

		if ((b == 0xf2 || b == 0xf3) &&
		    w->zi.raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			d->rep_op = b;
	}
	if (d->csz != 2 || d->vector || w->zi.mnemonic == ZYDIS_MNEMONIC_ADCX)
		d->size66 = d->p66;
	else
		d->size66 = is_word_operation(w);
}

static void fill(struct decode *d, const struct work *w, unsigned int id)
{
	const struct insn_row *row = &insn_rows[id];
	struct insn *r = &d->rec;

	r->id = (u16)id;
	r->op = row->op;
	r->len = d->len;
	r->base = r->index = GPR_NONE;
	r->addr = INSN_ADDR(w->zi.address_width / 8u, SEG_DS, 0);
	set_offsets(d, w);
	note_operands(d, w);
	note_flags(d, w);
	r->osz = row->op ? operand_size(d, w) : native_size(d, w);
	set_immediates(d, w);
	set_regs(d, w);
	set_flags(d, row->traits);
	set_opcode_prefixes(d, w);
	if (row->traits & T_LEA && (d->csz != 8 || insn_asz(r) != 8)) {
		r->op = op_lea;
		r->osz = operand_size(d, w);
	}
}

/* ---- entry -------------------------------------------------------------------------------------- */

static ZydisMachineMode machine_mode(const struct vcpu *v, unsigned int csz)
{
	if (csz == 8)
		return ZYDIS_MACHINE_MODE_LONG_64;
	if (csz == 4)
		return ZYDIS_MACHINE_MODE_LEGACY_32;
	return v && (!cpu_prot(v) || cpu_v86(v)) ? ZYDIS_MACHINE_MODE_REAL_16 :
						    ZYDIS_MACHINE_MODE_LEGACY_16;
}

static void decoder_init(ZydisDecoder *dec, const struct vcpu *v, unsigned int csz)
{
	ZydisStackWidth width = csz == 8 ? ZYDIS_STACK_WIDTH_64 :
				csz == 4 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16;

	ZydisDecoderInit(dec, machine_mode(v, csz), width);
	/* Without the feature these encodings are other, older instructions. */
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
	if (!v)
		return;
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_LZCNT, cpu_has(v, FEAT_ABM));
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_TZCNT, cpu_has(v, FEAT_BMI1));
	ZydisDecoderEnableMode(dec, ZYDIS_DECODER_MODE_AMD_BRANCHES, v->vendor_amd);
}

static int undefined(struct decode *d)
{
	d->rec.id = INSN_INVALID;
	d->rec.op = op_ud;
	d->rec.base = d->rec.index = GPR_NONE;
	d->rec.len = d->len;
	d->vector = false;
	return 0;
}

/* In real mode SYSENTER and SYSEXIT are #GP, not #UD. [SDM2B "SYSENTER", "Real-Address Mode Exceptions"] */
static ZyanStatus decode_real(ZydisDecoder *dec, const struct decode *d, unsigned int avail, struct work *w)
{
	ZyanStatus st;

	dec->machine_mode = ZYDIS_MACHINE_MODE_LEGACY_16;
	st = ZydisDecoderDecodeFull(dec, d->bytes, avail, &w->zi, w->op);
	if (ZYAN_SUCCESS(st) && w->zi.mnemonic != ZYDIS_MNEMONIC_SYSENTER &&
	    w->zi.mnemonic != ZYDIS_MNEMONIC_SYSEXIT)
		return ZYDIS_STATUS_DECODING_ERROR;
	return st;
}

int insn_decode(const struct vcpu *v, const u8 *bytes, unsigned int avail, unsigned int csz,
		struct decode *d)
{
	ZydisDecoder dec;
	struct work w;
	ZyanStatus st;
	unsigned int id;

	memset(d, 0, sizeof(*d));
	if (avail > 15)
		avail = 15;
	memcpy(d->bytes, bytes, avail);
	d->csz = (u8)csz;
	d->len = 1;
	decoder_init(&dec, v, csz);
	st = ZydisDecoderDecodeFull(&dec, d->bytes, avail, &w.zi, w.op);
	if (!ZYAN_SUCCESS(st) && dec.machine_mode == ZYDIS_MACHINE_MODE_REAL_16)
		st = decode_real(&dec, d, avail, &w);
	if (st == ZYDIS_STATUS_NO_MORE_DATA)
		return avail == 15 ? -E2BIG : -EAGAIN;
	if (st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
		return -E2BIG;
	if (!ZYAN_SUCCESS(st)) {
		/* Any byte looked at may turn it into an instruction: a store to one must be noticed. */
		d->len = (u8)avail;
		return undefined(d);
	}
	d->len = w.zi.length;
	id = find_row(&w);
	if (id == INSN_INVALID)
		return undefined(d);
	if (v && insn_rows[id].feature != FEAT_BASE &&
	    !cpu_has(v, (enum feature)insn_rows[id].feature))
		return undefined(d);
	fill(d, &w, id);
	return 0;
}

void insn_format(const u8 *bytes, unsigned int len, unsigned int csz, u64 rip, char *buf, size_t n)
{
	ZydisDecoder dec;
	ZydisFormatter fmt;
	struct work w;

	if (!n)
		return;
	buf[0] = 0;
	decoder_init(&dec, NULL, csz);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, bytes, len, &w.zi, w.op)))
		return;
	ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
	ZydisFormatterFormatInstruction(&fmt, &w.zi, w.op, w.zi.operand_count_visible, buf, n, rip, NULL);
}

unsigned int insn_length(const u8 *bytes, unsigned int len, unsigned int csz)
{
	ZydisDecodedInstruction zi;
	ZydisDecoder dec;

	decoder_init(&dec, NULL, csz);
	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&dec, NULL, bytes, len, &zi)) ? zi.length : 0;
}
