/* SPDX-License-Identifier: MIT */
/*
 * Far JMP, CALL and RET: real mode, code segments, call gates, task gates and TSSs.
 * [SDM2A "JMP—Jump", "CALL—Call Procedure"; SDM2B "RET—Return From Procedure"]
 */
#include "cpu/op/control.h"

/**
 * struct target - where a far transfer goes
 * @sel, @off: from the instruction, then from the gate
 * @gate: 0, or bytes per value that the call gate pushes
 * @cpl: privilege level after the transfer
 * @params: values a call gate copies to an inner stack
 */
struct target {
	u16 sel;
	u64 off;
	u8 gate;
	u8 cpl;
	u8 params;
	struct desc desc;
	struct segment cs;
};

static int far_operand(struct vcpu *v, const struct insn *i, struct target *t)
{
	int r;

	*t = (struct target){ .sel = (u16)i->disp, .off = (u64)i->imm & size_mask(i->osz), .cpl = v->cpl };
	if (!(i->flags & INSN_MEM))
		return 0;
	t->off = 0;
	r = cpu_read(v, insn_seg(i), cpu_ea(v, i), &t->off, i->osz);
	if (!r)
		r = cpu_read(v, insn_seg(i), cpu_ea(v, i) + i->osz, &t->sel, 2);
	return r;
}

static inline bool unprotected(const struct vcpu *v)
{
	return !cpu_prot(v) || cpu_v86(v);
}

/* ---- checks of the target ----------------------------------------------------------------------------- */

/* Offset within the new code segment. */
static int check_offset(struct vcpu *v, const struct segment *cs, u64 off)
{
	if (cpu_long_mode(v) && (cs->ar & AR_L))
		return la_canonical(v, off) ? 0 : RAISE_GP0(v);
	return (u32)off <= cs->limit && off <= 0xffffffff ? 0 : RAISE_GP0(v);
}

static bool code_width_ok(const struct vcpu *v, const struct desc *d)
{
	return !cpu_long_mode(v) || (d->lo & (BIT(53) | BIT(54))) != (BIT(53) | BIT(54));
}

/* Present, accessed, offset good: the last checks of every target. */
static int finish_target(struct vcpu *v, struct target *t)
{
	int r;

	if (!desc_present(&t->desc))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(t->sel));
	desc_to_segment(&t->desc, (u16)((t->sel & ~3u) | t->cpl), &t->cs);
	if (!(cpu_long_mode(v) && (t->cs.ar & AR_L)))
		t->off = (u32)t->off;
	r = check_offset(v, &t->cs, t->off);
	if (!r)
		r = desc_set_accessed(v, &t->desc);
	t->cs.ar |= TYPE_ACCESSED;
	return r;
}

static int direct_target(struct vcpu *v, struct target *t)
{
	unsigned int dpl = desc_dpl(&t->desc);
	bool ok = code_width_ok(v, &t->desc);

	if (desc_type(&t->desc) & TYPE_CONFORMING)
		ok = ok && dpl <= v->cpl;
	else
		ok = ok && SEL_RPL(t->sel) <= v->cpl && dpl == v->cpl;
	if (!ok)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(t->sel));
	return finish_target(v, t);
}

static int gate_access(struct vcpu *v, const struct target *t)
{
	unsigned int dpl = desc_dpl(&t->desc);

	if (dpl < v->cpl || dpl < SEL_RPL(t->sel))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(t->sel));
	return desc_present(&t->desc) ? 0 : cpu_raise_err(v, EXC_NP, SEL_ERR(t->sel));
}

/* The code segment a call gate names; more privileged code only for CALL. */
static int call_gate_target(struct vcpu *v, struct target *t, bool call)
{
	bool wide = desc_type(&t->desc) == DESC_CALL32;
	struct desc gate = t->desc;
	unsigned int dpl;
	bool ok;
	int r = gate_access(v, t);

	if (r)
		return r;
	t->sel = gate_sel(&gate);
	t->off = gate_offset(&gate) & (wide ? ~0ull : 0xffff);
	t->params = (u8)((gate.lo >> 32) & 31);
	t->gate = cpu_long_mode(v) ? 8 : wide ? 4 : 2;
	if (SEL_NULL(t->sel))
		return RAISE_GP0(v);
	r = desc_read(v, t->sel, EXC_GP, &t->desc);
	if (r)
		return r;
	dpl = desc_dpl(&t->desc);
	ok = desc_is_code(&t->desc) && dpl <= v->cpl;
	if (cpu_long_mode(v))
		ok = ok && (t->desc.lo & (BIT(53) | BIT(54))) == BIT(53);
	if (!call && !(desc_type(&t->desc) & TYPE_CONFORMING))
		ok = ok && dpl == v->cpl;
	if (!ok)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(t->sel));
	if (!(desc_type(&t->desc) & TYPE_CONFORMING))
		t->cpl = (u8)dpl;
	return finish_target(v, t);
}

enum far_kind { FAR_CODE = 200, FAR_TASK };

/* Look the selector up. FAR_CODE: t is complete; FAR_TASK: t->sel is a TSS; else what was raised. */
static int resolve(struct vcpu *v, struct target *t, bool call)
{
	int r;

	if (SEL_NULL(t->sel))
		return RAISE_GP0(v);
	r = desc_read(v, t->sel, EXC_GP, &t->desc);
	if (r)
		return r;
	if (!desc_is_system(&t->desc)) {
		if (!desc_is_code(&t->desc))
			return cpu_raise_err(v, EXC_GP, SEL_ERR(t->sel));
		r = direct_target(v, t);
		return r ? r : FAR_CODE;
	}
	switch (desc_type(&t->desc)) {
	case DESC_CALL32:
		r = desc_read_system(v, t->sel, EXC_GP, &t->desc);
		if (!r)
			r = call_gate_target(v, t, call);
		return r ? r : FAR_CODE;
	case DESC_CALL16:
		if (cpu_long_mode(v))
			break;
		r = call_gate_target(v, t, call);
		return r ? r : FAR_CODE;
	case DESC_TASK_GATE:
	case DESC_TSS16:
	case DESC_TSS32:
		if (cpu_long_mode(v))
			break;
		r = gate_access(v, t);
		if (desc_type(&t->desc) == DESC_TASK_GATE)
			t->sel = gate_sel(&t->desc);
		return r ? r : FAR_TASK;
	default:
		break;
	}
	return cpu_raise_err(v, EXC_GP, SEL_ERR(t->sel));
}

static int far_task(struct vcpu *v, const struct insn *i, const struct target *t, enum task_reason reason)
{
	int r;

	v->rip = insn_rip(v, i);
	r = task_switch(v, t->sel, reason, branch_next(v, i), cpu_rflags(v), NULL);
	return leave_at_rip(v, i, r);
}

static int commit(struct vcpu *v, const struct target *t)
{
	seg_commit(v, SEG_CS, &t->cs);
	v->rip = t->off;
	cpu_mode_update(v);
	return OP_JUMP;
}

/* ---- JMP ---------------------------------------------------------------------------------------------- */

static int real_target(struct vcpu *v, const struct target *t)
{
	if (t->off > v->seg[SEG_CS].limit)
		return RAISE_GP0(v);
	return 0;
}

int op_jmp_far(struct vcpu *v, const struct insn *i)
{
	struct target t;
	int r = far_operand(v, i, &t);

	if (!r && unprotected(v)) {
		r = real_target(v, &t);
		if (r)
			return r;
		seg_set_real(v, SEG_CS, t.sel);
		v->rip = t.off;
		return OP_JUMP;
	}
	if (!r)
		r = resolve(v, &t, false);
	if (r == FAR_TASK)
		return far_task(v, i, &t, TASK_JMP);
	return r == FAR_CODE ? commit(v, &t) : r;
}

/* ---- CALL --------------------------------------------------------------------------------------------- */

static int call_real(struct vcpu *v, const struct insn *i, const struct target *t)
{
	struct frame f;
	int r = real_target(v, t);

	if (r)
		return r;
	frame_current(v, &f, i->osz);
	frame_push(&f, v->seg[SEG_CS].sel);
	frame_push(&f, branch_next(v, i));
	r = frame_write(v, &f);
	if (r)
		return r;
	v->gpr[GPR_RSP] = frame_rsp(&f, v->gpr[GPR_RSP]);
	seg_set_real(v, SEG_CS, t->sel);
	v->rip = t->off;
	return OP_JUMP;
}

static int copy_params(struct vcpu *v, struct frame *f, const struct target *t)
{
	for (unsigned int n = t->params; n-- > 0;) {
		u64 val = 0;
		int r = cpu_read(v, SEG_SS, (v->gpr[GPR_RSP] + n * t->gate) & size_mask(v->ssz), &val, t->gate);

		if (r)
			return r;
		frame_push(f, val);
	}
	return 0;
}

/* MORE-PRIVILEGE: the stack of the inner level, with the caller's stack pointer and parameters on it. */
static int inner_frame(struct vcpu *v, const struct target *t, struct frame *f, struct segment *ss)
{
	struct desc d;
	u64 sp;
	u16 sel;
	int r;

	if (cpu_long_mode(v)) {
		r = tss_stack64(v, t->cpl, &sp);
		if (r)
			return r;
		frame_new64(v, f, sp, t->cpl);
		*ss = (struct segment){ .sel = t->cpl, .ar = AR_UNUSABLE | (u32)t->cpl << 5 | (u32)AR_DB };
	} else {
		r = tss_stack(v, t->cpl, &sel, &sp);
		if (!r && SEL_NULL(sel))
			r = cpu_raise_err(v, EXC_TS, 0);
		if (!r)
			r = seg_check_ss(v, sel, t->cpl, EXC_TS, &d);
		if (!r)
			r = desc_set_accessed(v, &d);
		if (r)
			return r;
		desc_to_segment(&d, sel, ss);
		frame_new(f, ss, sp, t->cpl, t->gate);
	}
	frame_push(f, v->seg[SEG_SS].sel);
	frame_push(f, v->gpr[GPR_RSP]);
	return cpu_long_mode(v) ? 0 : copy_params(v, f, t);
}

static int call_protected(struct vcpu *v, const struct insn *i, const struct target *t)
{
	bool inner = t->cpl != v->cpl;
	struct segment ss;
	struct frame f;
	int r = 0;

	if (inner)
		r = inner_frame(v, t, &f, &ss);
	else
		frame_current(v, &f, t->gate ? t->gate : i->osz);
	if (r)
		return r;
	frame_push(&f, v->seg[SEG_CS].sel);
	frame_push(&f, branch_next(v, i));
	r = frame_write(v, &f);
	if (r)
		return r;
	v->gpr[GPR_RSP] = frame_rsp(&f, v->gpr[GPR_RSP]);
	if (inner)
		seg_commit(v, SEG_SS, &ss);
	return commit(v, t);
}

int op_call_far(struct vcpu *v, const struct insn *i)
{
	struct target t;
	int r = far_operand(v, i, &t);

	if (r)
		return r;
	if (unprotected(v))
		return call_real(v, i, &t);
	r = resolve(v, &t, true);
	if (r == FAR_TASK)
		return far_task(v, i, &t, TASK_CALL);
	return r == FAR_CODE ? call_protected(v, i, &t) : r;
}

/* ---- RET ---------------------------------------------------------------------------------------------- */

/* The code segment of a far return or IRET, at its selector's RPL. */
int far_return_cs(struct vcpu *v, u16 sel, u64 off, struct segment *cs)
{
	struct target t = { .sel = sel, .off = off, .cpl = (u8)SEL_RPL(sel) };
	unsigned int dpl;
	int r;

	if (SEL_NULL(sel))
		return RAISE_GP0(v);
	r = desc_read(v, sel, EXC_GP, &t.desc);
	if (r)
		return r;
	dpl = desc_dpl(&t.desc);
	if (!desc_is_code(&t.desc) || SEL_RPL(sel) < v->cpl || !code_width_ok(v, &t.desc) ||
	    (desc_type(&t.desc) & TYPE_CONFORMING ? dpl > SEL_RPL(sel) : dpl != SEL_RPL(sel)))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	r = finish_target(v, &t);
	*cs = t.cs;
	return r;
}

/* Its stack segment: null only for 64-bit code at levels 0 to 2. */
int far_return_ss(struct vcpu *v, u16 sel, const struct segment *cs, struct segment *ss)
{
	unsigned int cpl = SEL_RPL(cs->sel);
	struct desc d;
	int r;

	if (SEL_NULL(sel)) {
		if (!cpu_long_mode(v) || !(cs->ar & AR_L) || cpl == 3 || SEL_RPL(sel) != cpl)
			return RAISE_GP0(v);
		*ss = (struct segment){ .sel = sel, .ar = AR_UNUSABLE | cpl << 5 | (u32)AR_DB };
		return 0;
	}
	r = seg_check_ss(v, sel, cpl, EXC_GP, &d);
	if (!r)
		r = desc_set_accessed(v, &d);
	if (r)
		return r;
	desc_to_segment(&d, sel, ss);
	return 0;
}

void far_return_commit(struct vcpu *v, const struct segment *cs, u64 rip, const struct segment *ss, u64 sp)
{
	bool outer = SEL_RPL(cs->sel) != v->cpl;

	seg_commit(v, SEG_CS, cs);
	seg_commit(v, SEG_SS, ss);
	v->rip = cpu_long_mode(v) && (cs->ar & AR_L) ? rip : (u32)rip;
	cpu_mode_update(v);
	stack_set(v, sp);
	if (outer)
		seg_drop_inner(v);
}

static int ret_real(struct vcpu *v, const struct insn *i, u64 off, u16 sel, u64 sp)
{
	if (off > v->seg[SEG_CS].limit)
		return RAISE_GP0(v);
	seg_set_real(v, SEG_CS, sel);
	v->rip = off;
	stack_set(v, sp + (u64)i->imm);
	return OP_JUMP;
}

static int ret_outer(struct vcpu *v, const struct insn *i, const struct segment *cs, u64 off, u64 sp)
{
	u64 new_sp, new_ss;
	struct segment ss;
	int r;

	sp = (sp + (u64)i->imm) & size_mask(v->ssz);
	r = stack_read(v, &sp, &new_sp, i->osz);
	if (!r)
		r = stack_read(v, &sp, &new_ss, i->osz);
	if (!r)
		r = far_return_ss(v, (u16)new_ss, cs, &ss);
	if (r)
		return r;
	far_return_commit(v, cs, off, &ss, new_sp + (u64)i->imm);
	return OP_JUMP;
}

int op_ret_far(struct vcpu *v, const struct insn *i)
{
	u64 sp = stack_get(v), off, sel;
	struct segment cs;
	int r = stack_read(v, &sp, &off, i->osz);

	if (!r)
		r = stack_read(v, &sp, &sel, i->osz);
	if (r)
		return r;
	if (unprotected(v))
		return ret_real(v, i, off, (u16)sel, sp);
	r = far_return_cs(v, (u16)sel, off, &cs);
	if (r)
		return r;
	if (SEL_RPL(cs.sel) != v->cpl)
		return ret_outer(v, i, &cs, off, sp);
	stack_set(v, sp + (u64)i->imm);
	seg_commit(v, SEG_CS, &cs);
	v->rip = off;
	cpu_mode_update(v);
	return OP_JUMP;
}
