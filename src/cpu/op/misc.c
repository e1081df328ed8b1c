/* SPDX-License-Identifier: MIT */
/*
 * Small instructions that name memory or registers implicitly, decimal arithmetic, flag moves, hints.
 */
#include "cpu/op/op.h"
#include "cpu/flags.h"
#include "cpu/op/operand.h"

#define MSR_TSC_AUX 0xc0000103u

int op_xlat(struct vcpu *v, const struct insn *i)
{
	u64 off = (v->gpr[GPR_RBX] + (u8)v->gpr[GPR_RAX]) & size_mask(insn_asz(i));
	u8 val;
	int r = cpu_read(v, insn_seg(i), off, &val, 1);

	if (unlikely(r))
		return r;
	gpr_set(v, GPR_RAX, 1, val);
	return OP_NEXT;
}

int op_bound(struct vcpu *v, const struct insn *i)
{
	u64 lower = 0, upper = 0, ea = cpu_ea(v, i);
	s64 index = sign_extend(v->gpr[insn_reg(i)], i->osz);
	int r = cpu_read(v, insn_seg(i), ea, &lower, i->osz);

	if (!r)
		r = cpu_read(v, insn_seg(i), (ea + i->osz) & size_mask(insn_asz(i)), &upper, i->osz);
	if (unlikely(r))
		return r;
	if (index < sign_extend(lower, i->osz) || index > sign_extend(upper, i->osz))
		return cpu_raise(v, EXC_BR);
	return OP_NEXT;
}

int op_lea(struct vcpu *v, const struct insn *i)
{
	gpr_set(v, insn_reg(i), i->osz, cpu_ea(v, i));
	return OP_NEXT;
}

/* ---- flags -------------------------------------------------------------------------------------- */

int op_lahf(struct vcpu *v, const struct insn *i)
{
	gpr_set8(v, GPR_RAX, true, (u8)(cpu_rflags(v) & 0xd7));
	return OP_NEXT;
}

int op_sahf(struct vcpu *v, const struct insn *i)
{
	flags_merge(v, 0xd5, gpr_get8(v, GPR_RAX, true));
	return OP_NEXT;
}

int op_cld(struct vcpu *v, const struct insn *i)
{
	v->rflags &= ~(u64)FLAG_DF;
	return OP_NEXT;
}

int op_std(struct vcpu *v, const struct insn *i)
{
	v->rflags |= FLAG_DF;
	return OP_NEXT;
}

int op_salc(struct vcpu *v, const struct insn *i)
{
	gpr_set(v, GPR_RAX, 1, flags_cf(v) ? 0xff : 0);
	return OP_NEXT;
}

/* INC and DEC of a register, which the renamer leaves to C in no form but names as a fallback. */
int op_incdec(struct vcpu *v, const struct insn *i)
{
	unsigned int n = insn_rm(i);
	bool high = i->flags & INSN_RM_HIGH, dec = i->id == INSN_DEC;
	u64 old = high ? gpr_get8(v, n, true) : gpr_get(v, n, i->osz);
	u64 val = (dec ? old - 1 : old + 1) & size_mask(i->osz);
	u64 sign = BIT(i->osz * 8 - 1);
	u32 f = flags_szp8((u8)val) & (u32)FLAG_PF;

	f |= val & sign ? (u32)FLAG_SF : 0;
	f |= val ? 0 : (u32)FLAG_ZF;
	f |= (old ^ val) & 0x10 ? (u32)FLAG_AF : 0;
	f |= val == (dec ? sign - 1 : sign) ? (u32)FLAG_OF : 0;
	flags_merge(v, FLAGS_ARITH & ~(u32)FLAG_CF, f);
	if (high)
		gpr_set8(v, n, true, (u8)val);
	else
		gpr_set(v, n, i->osz, val);
	return OP_NEXT;
}

/* ---- decimal arithmetic [SDM2A "AAA" .. "DAS"] ------------------------------------------------------ */

/* Undefined flags are left as the host's processors leave them where that is known, else unchanged. */
static void set_al_flags(struct vcpu *v, u8 al, bool af, bool cf)
{
	u32 f = flags_szp8(al);

	gpr_set(v, GPR_RAX, 1, al);
	f |= af ? (u32)FLAG_AF : 0;
	f |= cf ? (u32)FLAG_CF : 0;
	flags_merge(v, FLAGS_ARITH & ~(u32)FLAG_OF, f);
}

int op_daa(struct vcpu *v, const struct insn *i)
{
	u8 old = (u8)v->gpr[GPR_RAX], al = old;
	bool cf = flags_cf(v) || old > 0x99;
	bool af = (old & 15) > 9 || flags_af(v);

	if (af)
		al = (u8)(al + 6);
	if (cf)
		al = (u8)(al + 0x60);
	set_al_flags(v, al, af, cf);
	return OP_NEXT;
}

int op_das(struct vcpu *v, const struct insn *i)
{
	u8 old = (u8)v->gpr[GPR_RAX], al = old;
	bool carry = flags_cf(v) || old > 0x99;
	bool af = (old & 15) > 9 || flags_af(v);
	bool cf = carry;

	if (af) {
		cf |= old < 6;
		al = (u8)(al - 6);
	}
	if (carry)
		al = (u8)(al - 0x60);
	set_al_flags(v, al, af, cf);
	return OP_NEXT;
}

static int ascii_adjust(struct vcpu *v, int by)
{
	bool adjust = ((u8)v->gpr[GPR_RAX] & 15) > 9 || flags_af(v);
	u16 ax = (u16)v->gpr[GPR_RAX];

	if (adjust)
		ax = (u16)(ax + by);
	gpr_set(v, GPR_RAX, 2, ax & 0xff0f);
	flags_merge(v, FLAG_AF | FLAG_CF, adjust ? FLAG_AF | FLAG_CF : 0);
	return OP_NEXT;
}

int op_aaa(struct vcpu *v, const struct insn *i)
{
	return ascii_adjust(v, 0x106);
}

int op_aas(struct vcpu *v, const struct insn *i)
{
	return ascii_adjust(v, -0x106);
}

int op_aam(struct vcpu *v, const struct insn *i)
{
	u8 al = (u8)v->gpr[GPR_RAX], base = (u8)i->imm;

	if (!base)
		return cpu_raise(v, EXC_DE);
	gpr_set8(v, GPR_RAX, true, al / base);
	set_al_flags(v, al % base, false, false);
	flags_merge(v, FLAG_OF, 0);
	return OP_NEXT;
}

int op_aad(struct vcpu *v, const struct insn *i)
{
	u8 al = (u8)(v->gpr[GPR_RAX] + gpr_get8(v, GPR_RAX, true) * (u8)i->imm);

	gpr_set8(v, GPR_RAX, true, 0);
	set_al_flags(v, al, false, false);
	flags_merge(v, FLAG_OF, 0);
	return OP_NEXT;
}

/* ---- hints and identity ------------------------------------------------------------------------------ */

int op_pause(struct vcpu *v, const struct insn *i)
{
	if (v->vm->bus->pause_hint)
		v->vm->bus->pause_hint(v);
	return OP_NEXT;
}

int op_nop(struct vcpu *v, const struct insn *i)
{
	return OP_NEXT;
}

int op_rdpid(struct vcpu *v, const struct insn *i)
{
	u64 aux;

	if (cpu_rdmsr(v, MSR_TSC_AUX, &aux, true))
		return RAISE_UD(v);
	gpr_set(v, insn_rm(i), cpu_code64(v) ? 8 : 4, (u32)aux);
	return OP_NEXT;
}
