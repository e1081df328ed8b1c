/* SPDX-License-Identifier: MIT */
/*
 * Descriptor-table registers, selectors, and questions about descriptors.
 * [SDM2A "LAR", "LGDT/LIDT", "LLDT", "LSL"; SDM2B "MOV", "SGDT", "SLDT", "STR"; SDM2B "VERR/VERW"]
 */
#include "cpu/segment.h"

#include "cpu/op/op.h"
#include "cpu/op/operand.h"

static int check_cpl0(struct vcpu *v)
{
	return v->cpl ? RAISE_GP0(v) : OP_NEXT;
}

static int check_umip(struct vcpu *v)
{
	return v->cpl && (v->cr4 & CR4_UMIP) ? RAISE_GP0(v) : OP_NEXT;
}

/* Instructions that real and virtual-8086 mode do not know. */
static int check_protected(struct vcpu *v)
{
	return !cpu_prot(v) || cpu_v86(v) ? RAISE_UD(v) : OP_NEXT;
}

static int read_selector(struct vcpu *v, const struct insn *i, u16 *sel)
{
	if (i->flags & INSN_MEM)
		return cpu_read_mem(v, i, sel, 2);
	*sel = (u16)v->gpr[insn_rm(i)];
	return OP_NEXT;
}

/* A register destination takes the operand size, zero-extended; memory always 16 bits. */
static int write_selector(struct vcpu *v, const struct insn *i, u16 sel)
{
	int res;

	if (!(i->flags & INSN_MEM)) {
		gpr_set(v, insn_rm(i), i->osz, sel);
		return OP_NEXT;
	}
	res = cpu_write_mem(v, i, &sel, 2);
	return res ? res : op_done(v);
}

/* ---- GDTR, IDTR ------------------------------------------------------------------------------- */

static int load_table(struct vcpu *v, const struct insn *i, struct dtable *t)
{
	unsigned int size = cpu_code64(v) ? 8 : 4;
	u64 ea = cpu_ea(v, i), base = 0;
	u16 limit;
	int res = check_cpl0(v);

	if (!res)
		res = cpu_read(v, insn_seg(i), ea, &limit, 2);
	if (!res)
		res = cpu_read(v, insn_seg(i), ea + 2, &base, size);
	if (res)
		return res;
	if (size == 8 && !la_canonical(v, base))
		return RAISE_GP0(v);
	if (i->osz == 2 && size == 4)
		base &= 0xffffff;
	t->base = base;
	t->limit = limit;
	return OP_NEXT;
}

int op_lgdt(struct vcpu *v, const struct insn *i)
{
	return load_table(v, i, &v->gdtr);
}

int op_lidt(struct vcpu *v, const struct insn *i)
{
	return load_table(v, i, &v->idtr);
}

static int store_table(struct vcpu *v, const struct insn *i, const struct dtable *t)
{
	unsigned int size = cpu_code64(v) ? 10 : 6;
	u8 image[10];
	int res = check_umip(v);

	__builtin_memcpy(image, &t->limit, 2);
	__builtin_memcpy(image + 2, &t->base, 8);
	if (!res)
		res = cpu_probe_write(v, insn_seg(i), cpu_ea(v, i), size);
	if (!res)
		res = cpu_write(v, insn_seg(i), cpu_ea(v, i), image, 2);
	if (!res)
		res = cpu_write(v, insn_seg(i), cpu_ea(v, i) + 2, image + 2, size - 2);
	return res ? res : op_done(v);
}

int op_sgdt(struct vcpu *v, const struct insn *i)
{
	return store_table(v, i, &v->gdtr);
}

int op_sidt(struct vcpu *v, const struct insn *i)
{
	return store_table(v, i, &v->idtr);
}

/* ---- LDTR, TR --------------------------------------------------------------------------------- */

int op_lldt(struct vcpu *v, const struct insn *i)
{
	struct segment s;
	struct desc d;
	u16 sel;
	int res = check_protected(v);

	if (!res)
		res = check_cpl0(v);
	if (!res)
		res = read_selector(v, i, &sel);
	if (res)
		return res;
	if (SEL_NULL(sel)) {
		seg_commit_null(v, SEG_LDTR, sel);
		return OP_NEXT;
	}
	if (sel & 4)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	res = desc_read_system(v, sel, EXC_GP, &d);
	if (res)
		return res;
	if (!desc_is_system(&d) || desc_type(&d) != DESC_LDT)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (!desc_present(&d))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(sel));
	if (cpu_long_mode(v) && !la_canonical(v, desc_base(&d)))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	desc_to_segment(&d, sel, &s);
	seg_commit(v, SEG_LDTR, &s);
	return OP_NEXT;
}

int op_ltr(struct vcpu *v, const struct insn *i)
{
	struct segment s;
	struct desc d;
	u16 sel;
	int res = check_protected(v);

	if (!res)
		res = check_cpl0(v);
	if (!res)
		res = read_selector(v, i, &sel);
	if (res)
		return res;
	if (SEL_NULL(sel) || (sel & 4))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	res = desc_read_system(v, sel, EXC_GP, &d);
	if (res)
		return res;
	if (!desc_is_system(&d) ||
	    (desc_type(&d) != DESC_TSS32 && (cpu_long_mode(v) || desc_type(&d) != DESC_TSS16)))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (!desc_present(&d))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(sel));
	if (cpu_long_mode(v) && !la_canonical(v, desc_base(&d)))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	res = desc_set_busy(v, &d, true);
	if (res)
		return res;
	desc_to_segment(&d, sel, &s);
	seg_commit(v, SEG_TR, &s);
	return op_done(v);
}

int op_sldt(struct vcpu *v, const struct insn *i)
{
	int res = check_protected(v);

	if (!res)
		res = check_umip(v);
	return res ? res : write_selector(v, i, v->seg[SEG_LDTR].sel);
}

int op_str(struct vcpu *v, const struct insn *i)
{
	int res = check_protected(v);

	if (!res)
		res = check_umip(v);
	return res ? res : write_selector(v, i, v->seg[SEG_TR].sel);
}

/* ---- segment registers -------------------------------------------------------------------------- */

int op_mov_from_seg(struct vcpu *v, const struct insn *i)
{
	return write_selector(v, i, v->seg[insn_reg(i)].sel);
}

int op_mov_to_seg(struct vcpu *v, const struct insn *i)
{
	enum seg seg = (enum seg)insn_reg(i);
	u16 sel;
	int res;

	if (seg == SEG_CS)
		return RAISE_UD(v);
	res = read_selector(v, i, &sel);
	if (!res)
		res = seg_load(v, seg, sel);
	if (res)
		return res;
	if (seg == SEG_SS)
		v->shadow = SHADOW_MOV_SS;
	cpu_mode_update(v);
	return OP_END;
}

static enum seg far_segment(const struct insn *i)
{
	switch (i->id) {
	case INSN_LDS:
		return SEG_DS;
	case INSN_LES:
		return SEG_ES;
	case INSN_LFS:
		return SEG_FS;
	case INSN_LGS:
		return SEG_GS;
	default:
		return SEG_SS;
	}
}

int op_lfar(struct vcpu *v, const struct insn *i)
{
	u64 ea = cpu_ea(v, i), off = 0;
	u16 sel;
	int res;

	if (!(i->flags & INSN_MEM))
		return RAISE_UD(v);
	res = cpu_read(v, insn_seg(i), ea, &off, i->osz);
	if (!res)
		res = cpu_read(v, insn_seg(i), ea + i->osz, &sel, 2);
	if (!res)
		res = seg_load(v, far_segment(i), sel);
	if (res)
		return res;
	gpr_set(v, insn_reg(i), i->osz, off);
	cpu_mode_update(v);
	return OP_END;
}

/* ---- LAR, LSL, VERR, VERW, ARPL --------------------------------------------------------------------- */

static int set_zf(struct vcpu *v, bool zf)
{
	v->aflags = (u16)((v->aflags & ~(FLAG_ZF << 8)) | (zf ? FLAG_ZF << 8 : 0));
	return OP_NEXT;
}

/* Is the descriptor visible at CPL and RPL? Conforming code is always. */
static bool visible(const struct vcpu *v, u16 sel, const struct desc *d)
{
	if (desc_is_code(d) && (desc_type(d) & TYPE_CONFORMING))
		return true;
	return v->cpl <= desc_dpl(d) && SEL_RPL(sel) <= desc_dpl(d);
}

/*
 * The descriptor of the selector operand. DESC_FOUND; DESC_ABSENT when the answer is ZF = 0; or what a
 * fault returned.
 */
static int ask(struct vcpu *v, const struct insn *i, u16 *sel, struct desc *d)
{
	int res = check_protected(v);

	if (!res)
		res = read_selector(v, i, sel);
	if (res)
		return res;
	if (SEL_NULL(*sel))
		return DESC_ABSENT;
	return desc_lookup(v, *sel, d);
}

/* System types whose access rights LAR and whose limit LSL tell. */
static bool system_type_known(const struct vcpu *v, unsigned int type, bool limit)
{
	switch (type) {
	case DESC_LDT:
	case DESC_TSS32:
	case DESC_TSS32_BUSY:
		return true;
	case DESC_CALL32:
		return !limit;
	case DESC_TSS16:
	case DESC_TSS16_BUSY:
		return !cpu_long_mode(v);
	case DESC_CALL16:
	case DESC_TASK_GATE:
		return !limit && !cpu_long_mode(v);
	default:
		return false;
	}
}

static int lar_lsl(struct vcpu *v, const struct insn *i, bool limit)
{
	struct desc d;
	u16 sel;
	int res = ask(v, i, &sel, &d);

	if (res == DESC_ABSENT)
		return set_zf(v, false);
	if (res != DESC_FOUND)
		return res;
	if (!visible(v, sel, &d))
		return set_zf(v, false);
	if (desc_is_system(&d)) {
		if (!system_type_known(v, desc_type(&d), limit))
			return set_zf(v, false);
		if (cpu_long_mode(v)) { /* all 16 bytes must lie in the table and the upper type be zero */
			struct event before = v->exc;

			res = desc_read_system(v, sel, EXC_GP, &d);
			if (res == OP_EXC && v->exc.vector == EXC_GP) {
				v->exc = before;
				return set_zf(v, false);
			}
			if (res)
				return res;
		}
	}
	gpr_set(v, insn_reg(i), i->osz, limit ? desc_limit(&d) : (d.lo >> 32) & 0xf0ff00);
	return set_zf(v, true);
}

int op_lar(struct vcpu *v, const struct insn *i)
{
	return lar_lsl(v, i, false);
}

int op_lsl(struct vcpu *v, const struct insn *i)
{
	return lar_lsl(v, i, true);
}

static int verify(struct vcpu *v, const struct insn *i, bool write)
{
	struct desc d;
	u16 sel;
	int res = ask(v, i, &sel, &d);
	bool ok;

	if (res == DESC_ABSENT)
		return set_zf(v, false);
	if (res != DESC_FOUND)
		return res;
	ok = !desc_is_system(&d) && visible(v, sel, &d);
	if (write)
		ok = ok && !desc_is_code(&d) && (desc_type(&d) & TYPE_WRITABLE);
	else
		ok = ok && (!desc_is_code(&d) || (desc_type(&d) & TYPE_READABLE));
	return set_zf(v, ok);
}

int op_verr(struct vcpu *v, const struct insn *i)
{
	return verify(v, i, false);
}

int op_verw(struct vcpu *v, const struct insn *i)
{
	return verify(v, i, true);
}

int op_arpl(struct vcpu *v, const struct insn *i)
{
	u16 dst, src = (u16)v->gpr[insn_reg(i)];
	int res = check_protected(v);

	if (!res && (i->flags & INSN_MEM))
		res = cpu_probe_write(v, insn_seg(i), cpu_ea(v, i), 2);
	if (!res)
		res = read_selector(v, i, &dst);
	if (res)
		return res;
	if (SEL_RPL(dst) >= SEL_RPL(src))
		return set_zf(v, false);
	dst = (u16)((dst & ~3u) | SEL_RPL(src));
	if (i->flags & INSN_MEM)
		res = cpu_write_mem(v, i, &dst, 2);
	else
		gpr_set(v, insn_rm(i), 2, dst);
	if (res)
		return res;
	set_zf(v, true);
	return op_done(v);
}
