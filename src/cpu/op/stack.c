/* SPDX-License-Identifier: MIT */
/*
 * The stack: PUSH, POP and their families. RSP is committed only after every access succeeded.
 */
#include "cpu/op/op.h"
#include "cpu/op/operand.h"

static inline int push(struct vcpu *v, u64 val, unsigned int size)
{
	u64 sp = stack_get(v);
	int r = stack_write(v, &sp, val, size);

	if (unlikely(r))
		return r;
	stack_set(v, sp);
	return op_done(v);
}

int op_push(struct vcpu *v, const struct insn *i)
{
	u64 val = 0;

	if (i->flags & INSN_MEM) {
		int r = cpu_read_mem(v, i, &val, i->osz);

		if (unlikely(r))
			return r;
	} else {
		val = v->gpr[insn_rm(i)];
	}
	return push(v, val, i->osz);
}

int op_push_imm(struct vcpu *v, const struct insn *i)
{
	return push(v, (u64)i->imm, i->osz);
}

/*
 * A 32-bit PUSH of a selector moves the stack pointer by four and writes two bytes, as Intel
 * processors do; AMD's write the zero-extended selector [SDM2B "PUSH"].
 */
int op_push_seg(struct vcpu *v, const struct insn *i)
{
	u64 sp = (stack_get(v) - i->osz) & size_mask(v->ssz);
	u64 val = v->seg[insn_reg(i)].sel;
	unsigned int size = i->osz == 4 && !v->vendor_amd ? 2 : i->osz;
	int r = cpu_write(v, SEG_SS, sp, &val, size);

	if (unlikely(r))
		return r;
	stack_set(v, sp);
	return op_done(v);
}

int op_pop(struct vcpu *v, const struct insn *i)
{
	u64 val, old = v->gpr[GPR_RSP], sp = stack_get(v);
	int r = stack_read(v, &sp, &val, i->osz);

	if (unlikely(r))
		return r;
	stack_set(v, sp);
	if (!(i->flags & INSN_MEM)) {
		gpr_set(v, insn_rm(i), i->osz, val);
		return OP_NEXT;
	}
	/* An address based on RSP uses the incremented pointer [SDM2B "POP"]. */
	r = cpu_write_mem(v, i, &val, i->osz);
	if (unlikely(r)) {
		v->gpr[GPR_RSP] = old;
		return r;
	}
	return op_done(v);
}

int op_pop_seg(struct vcpu *v, const struct insn *i)
{
	enum seg seg = (enum seg)insn_reg(i);
	u64 old = v->gpr[GPR_RSP], sp = stack_get(v);
	u16 sel;
	int r = cpu_read(v, SEG_SS, sp, &sel, 2);

	if (unlikely(r))
		return r;
	/* The pointer moves at the size of the old stack segment. */
	stack_set(v, sp + i->osz);
	if (!cpu_prot(v) || cpu_v86(v))
		seg_set_real(v, seg, sel);
	else
		r = seg_load(v, seg, sel);
	if (unlikely(r)) {
		v->gpr[GPR_RSP] = old;
		return r;
	}
	cpu_mode_update(v);
	if (seg == SEG_SS)
		v->shadow |= SHADOW_MOV_SS;
	return OP_END;
}

int op_pusha(struct vcpu *v, const struct insn *i)
{
	u64 sp = stack_get(v);
	int r;

	/* RSP's slot gets the value from before the first push; the registers lie in encoding order. */
	for (unsigned int n = GPR_RAX; n <= GPR_RDI; n++) {
		r = stack_write(v, &sp, v->gpr[n], i->osz);
		if (unlikely(r))
			return r;
	}
	stack_set(v, sp);
	return op_done(v);
}

int op_popa(struct vcpu *v, const struct insn *i)
{
	u64 val[8], sp = stack_get(v);

	for (int n = GPR_RDI; n >= GPR_RAX; n--) {
		int r = stack_read(v, &sp, &val[n], i->osz);

		if (unlikely(r))
			return r;
	}
	for (unsigned int n = GPR_RAX; n <= GPR_RDI; n++)
		if (n != GPR_RSP)
			gpr_set(v, n, i->osz, val[n]);
	stack_set(v, sp);
	return OP_NEXT;
}

/* In virtual-8086 mode below IOPL 3, only 16-bit forms under CR4.VME avoid #GP(0). */
static bool v86_restricted(const struct vcpu *v)
{
	return cpu_v86(v) && (v->rflags & FLAG_IOPL) != FLAG_IOPL;
}

int op_pushf(struct vcpu *v, const struct insn *i)
{
	u64 f = cpu_rflags(v) & ~(u64)(FLAG_RF | FLAG_VM);

	if (v86_restricted(v)) {
		if (!(v->cr4 & CR4_VME) || i->osz != 2)
			return RAISE_GP0(v);
		f = (f & ~(u64)FLAG_IF) | FLAG_IOPL | (f & FLAG_VIF ? FLAG_IF : 0);
	}
	return push(v, f, i->osz);
}

/*
 * Which flags POPF may change, and the #GP(0) cases of virtual-8086 mode. VIF, VIP, VM stay as they
 * are; RF ends clear [SDM2B "POPF/POPFD/POPFQ"].
 */
static int popf_mask(struct vcpu *v, const struct insn *i, u64 val, u64 *mask)
{
	unsigned int iopl = (v->rflags >> 12) & 3;

	*mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
	if (i->osz != 2)
		*mask |= FLAG_AC | FLAG_ID | FLAG_RF;
	if (v86_restricted(v)) {
		if (!(v->cr4 & CR4_VME) || i->osz != 2)
			return RAISE_GP0(v);
		if ((val & FLAG_TF) || ((val & FLAG_IF) && (v->rflags & FLAG_VIP)))
			return RAISE_GP0(v);
		*mask |= FLAG_VIF;
		return 0;
	}
	if (!cpu_prot(v) || v->cpl == 0)
		*mask |= FLAG_IOPL;
	if (!cpu_prot(v) || v->cpl <= iopl)
		*mask |= FLAG_IF;
	return 0;
}

int op_popf(struct vcpu *v, const struct insn *i)
{
	u64 val, mask, old = cpu_rflags(v), sp = stack_get(v);
	int r;

	if (v86_restricted(v) && (!(v->cr4 & CR4_VME) || i->osz != 2))
		return RAISE_GP0(v);
	r = stack_read(v, &sp, &val, i->osz);
	if (!r)
		r = popf_mask(v, i, val, &mask);
	if (unlikely(r))
		return r;
	val &= ~(u64)(FLAG_RF | FLAG_VIF);
	if (val & FLAG_IF)
		val |= FLAG_VIF;
	stack_set(v, sp);
	cpu_set_rflags(v, (old & ~mask) | (val & mask));
	if ((old ^ v->rflags) & FLAG_AC)
		cpu_mode_update(v);
	return (old ^ v->rflags) & (FLAG_TF | FLAG_IF | FLAG_AC | FLAG_VIF) ? OP_END : OP_NEXT;
}

/*
 * The writes of one stack frame, then a probe at the final stack pointer: ENTER fails as a whole
 * [SDM2A "ENTER"].
 */
int op_enter(struct vcpu *v, const struct insn *i)
{
	unsigned int size = i->osz, level = (unsigned int)i->disp & 31;
	u64 mask = size_mask(v->ssz), sp = stack_get(v), bp = v->gpr[GPR_RBP] & mask;
	u64 frame, val;
	int r = stack_write(v, &sp, v->gpr[GPR_RBP], size);

	frame = sp;
	for (unsigned int n = 1; !r && n < level; n++) {
		bp = (bp - size) & mask;
		val = 0;
		r = cpu_read(v, SEG_SS, bp, &val, size);
		if (!r)
			r = stack_write(v, &sp, val, size);
	}
	if (!r && level)
		r = stack_write(v, &sp, frame, size);
	if (r)
		return r;
	sp = (sp - (u16)i->imm) & mask;
	r = cpu_probe_write(v, SEG_SS, sp, size);
	if (r)
		return r;
	/* A 16-bit stack with a 32-bit operand size: EBP takes the whole frame pointer. */
	if (v->ssz == 2)
		frame |= v->gpr[GPR_RSP] & 0xffff0000;
	gpr_set(v, GPR_RBP, size, frame);
	stack_set(v, sp);
	return op_done(v);
}

int op_leave(struct vcpu *v, const struct insn *i)
{
	u64 val, sp = v->gpr[GPR_RBP] & size_mask(v->ssz);
	int r = stack_read(v, &sp, &val, i->osz);

	if (unlikely(r))
		return r;
	stack_set(v, sp);
	gpr_set(v, GPR_RBP, i->osz, val);
	return OP_NEXT;
}
