/* SPDX-License-Identifier: MIT */
/*
 * Far JMP, CALL and RET: code segments, call gates, task gates and TSSs
 * [SDM2A "CALL", "JMP"; SDM2B "RET"; SDM3A "Call Gates"].
 *
 * Each path checks everything, then writes the frame, then commits; nothing is changed before the
 * last access that can fault.
 */
#include "cpu/segment.h"

#include "cpu/op/op.h"
#include "cpu/op/operand.h"

/* ---- what all three share ------------------------------------------------------------------------ */

static int read_pointer(struct vcpu *v, const struct insn *i, u16 *sel, u64 *off)
{
	u64 ea;
	int res;

	*off = 0;
	if (!(i->flags & INSN_MEM)) {
		*sel = (u16)i->disp;
		*off = (u64)i->imm & size_mask(i->osz);
		return OP_NEXT;
	}
	ea = cpu_ea(v, i);
	res = cpu_read(v, insn_seg(i), ea, off, i->osz);
	return res ? res : cpu_read(v, insn_seg(i), ea + i->osz, sel, 2);
}

/* Is off a place code can be at in segment d? */
static int check_offset(struct vcpu *v, const struct desc *d, u64 off)
{
	bool code64 = cpu_long_mode(v) && (desc_ar(d) & AR_L);

	if (code64 ? !la_canonical(v, off) : off > desc_limit(d))
		return RAISE_GP0(v);
	return OP_NEXT;
}

/* L and D together are reserved in IA-32e mode. */
static bool bad_size(const struct vcpu *v, const struct desc *d)
{
	return cpu_long_mode(v) && (desc_ar(d) & AR_L) && (desc_ar(d) & AR_DB);
}

static int commit_cs(struct vcpu *v, struct desc *d, u16 sel, unsigned int cpl, u64 rip)
{
	struct segment s;

	desc_to_segment(d, (u16)((sel & ~3u) | cpl), &s);
	seg_commit(v, SEG_CS, &s);
	v->rip = rip;
	cpu_mode_update(v);
	return OP_JUMP;
}

/* A direct transfer to code segment d: may CPL go there without a gate? */
static int check_direct(struct vcpu *v, const struct desc *d, u16 sel)
{
	bool conforming = desc_type(d) & TYPE_CONFORMING;

	if (conforming ? desc_dpl(d) > v->cpl : SEL_RPL(sel) > v->cpl || desc_dpl(d) != v->cpl)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (bad_size(v, d))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (!desc_present(d))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(sel));
	return OP_NEXT;
}

static int far_real(struct vcpu *v, u16 sel, u64 off)
{
	if (off > v->seg[SEG_CS].limit)
		return RAISE_GP0(v);
	seg_set_real(v, SEG_CS, sel);
	v->rip = off;
	cpu_mode_update(v);
	return OP_JUMP;
}

/* ---- system descriptors as targets ------------------------------------------------------------------ */

static int check_gate(struct vcpu *v, const struct desc *d, u16 sel)
{
	if (desc_dpl(d) < v->cpl || desc_dpl(d) < SEL_RPL(sel))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (!desc_present(d))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(sel));
	return OP_NEXT;
}

/* TSS or task gate; only outside IA-32e mode. */
static int far_task(struct vcpu *v, const struct insn *i, const struct desc *d, u16 sel, bool call)
{
	unsigned int type = desc_type(d);
	int res;

	if (cpu_long_mode(v) || (type != DESC_TASK_GATE && type != DESC_TSS16 && type != DESC_TSS32))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	res = check_gate(v, d, sel);
	if (res)
		return res;
	return task_switch(v, type == DESC_TASK_GATE ? gate_sel(d) : sel, call ? TASK_CALL : TASK_JMP,
			   branch_next(v, i), cpu_rflags(v), NULL);
}

/**
 * struct gate - a call gate and the code segment behind it
 * @size: bytes per pushed value
 * @cpl: privilege level of the procedure
 */
struct gate {
	struct desc code;
	u16 sel;
	u8 size;
	u8 params;
	u8 cpl;
	u64 off;
};

static int read_gate(struct vcpu *v, u16 gate, const struct desc *shortform, bool call, struct gate *g)
{
	struct desc d = *shortform;
	bool conforming;
	int res = check_gate(v, &d, gate);

	if (!res && cpu_long_mode(v))
		res = desc_read_system(v, gate, EXC_GP, &d);
	if (res)
		return res;
	g->sel = gate_sel(&d);
	g->size = cpu_long_mode(v) ? 8 : desc_type(&d) == DESC_CALL16 ? 2 : 4;
	g->off = gate_offset(&d) & size_mask(g->size);
	g->params = g->size == 8 ? 0 : (u8)((d.lo >> 32) & 31);
	if (SEL_NULL(g->sel))
		return RAISE_GP0(v);
	res = desc_read(v, g->sel, EXC_GP, &g->code);
	if (res)
		return res;
	if (!desc_is_code(&g->code) || desc_dpl(&g->code) > v->cpl)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(g->sel));
	if (cpu_long_mode(v) && (desc_ar(&g->code) & (AR_L | AR_DB)) != AR_L)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(g->sel));
	conforming = desc_type(&g->code) & TYPE_CONFORMING;
	if (!call && !conforming && desc_dpl(&g->code) != v->cpl)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(g->sel));
	if (!desc_present(&g->code))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(g->sel));
	g->cpl = conforming ? v->cpl : (u8)desc_dpl(&g->code);
	return check_offset(v, &g->code, g->off);
}

static bool is_call_gate(const struct vcpu *v, const struct desc *d)
{
	return desc_type(d) == DESC_CALL32 || (desc_type(d) == DESC_CALL16 && !cpu_long_mode(v));
}

/* ---- JMP ---------------------------------------------------------------------------------------- */

static int jmp_system(struct vcpu *v, const struct insn *i, const struct desc *d, u16 sel)
{
	struct gate g;
	int res;

	if (!is_call_gate(v, d))
		return far_task(v, i, d, sel, false);
	res = read_gate(v, sel, d, false, &g);
	if (!res)
		res = desc_set_accessed(v, &g.code);
	return res ? res : commit_cs(v, &g.code, g.sel, v->cpl, g.off);
}

int op_jmp_far(struct vcpu *v, const struct insn *i)
{
	struct desc d;
	u64 off;
	u16 sel;
	int res = read_pointer(v, i, &sel, &off);

	if (res)
		return res;
	if (!cpu_prot(v) || cpu_v86(v))
		return far_real(v, sel, off);
	if (SEL_NULL(sel))
		return RAISE_GP0(v);
	res = desc_read(v, sel, EXC_GP, &d);
	if (res)
		return res;
	if (desc_is_system(&d))
		return jmp_system(v, i, &d, sel);
	if (!desc_is_code(&d))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	res = check_direct(v, &d, sel);
	if (!res)
		res = check_offset(v, &d, off);
	if (!res)
		res = desc_set_accessed(v, &d);
	return res ? res : commit_cs(v, &d, sel, v->cpl, off);
}

/* ---- CALL --------------------------------------------------------------------------------------- */

/* Push CS and the return address on the current stack; *rsp is the pointer to commit. */
static int push_return(struct vcpu *v, const struct insn *i, unsigned int size, u64 *rsp)
{
	struct frame f;
	int res;

	frame_current(v, &f, size);
	frame_push(&f, v->seg[SEG_CS].sel);
	frame_push(&f, branch_next(v, i));
	res = frame_write(v, &f);
	if (!res)
		*rsp = frame_rsp(&f, v->gpr[GPR_RSP]);
	return res;
}

static int call_same(struct vcpu *v, const struct insn *i, struct desc *d, u16 sel, u64 off, unsigned int size)
{
	u64 rsp;
	int res = desc_set_accessed(v, d);

	if (!res)
		res = push_return(v, i, size, &rsp);
	if (res)
		return res;
	v->gpr[GPR_RSP] = rsp;
	return commit_cs(v, d, sel, v->cpl, off);
}

/* Parameters are copied from the caller's stack, the last pushed one last. */
static int push_params(struct vcpu *v, const struct gate *g, struct frame *f)
{
	for (unsigned int k = g->params; k > 0; k--) {
		u64 at = (stack_get(v) + (u64)(k - 1) * g->size) & size_mask(v->ssz);
		u64 val = 0;
		int res = cpu_read(v, SEG_SS, at, &val, g->size);

		if (res)
			return res;
		frame_push(f, val);
	}
	return OP_NEXT;
}

/* The stack of the inner level. 64-bit: SS is null with RPL = CPL. */
static int inner_stack(struct vcpu *v, const struct gate *g, struct frame *f, struct segment *ss)
{
	struct desc d;
	u64 sp;
	u16 sel;
	int res;

	if (g->size == 8) {
		res = tss_stack64(v, g->cpl, &sp);
		if (!res)
			frame_new64(v, f, sp, g->cpl);
		*ss = (struct segment){ .sel = g->cpl,
					.ar = (u32)(AR_UNUSABLE | AR_DB) | (u32)g->cpl << 5 };
		return res;
	}
	res = tss_stack(v, g->cpl, &sel, &sp);
	if (res)
		return res;
	if (SEL_NULL(sel))
		return cpu_raise_err(v, EXC_TS, SEL_ERR(sel));
	res = seg_check_ss(v, sel, g->cpl, EXC_TS, &d);
	if (!res)
		res = desc_set_accessed(v, &d);
	if (res)
		return res;
	desc_to_segment(&d, sel, ss);
	frame_new(f, ss, sp, g->cpl, g->size);
	return OP_NEXT;
}

static int call_inner(struct vcpu *v, const struct insn *i, struct gate *g)
{
	struct segment ss;
	struct frame f;
	int res = inner_stack(v, g, &f, &ss);

	if (res)
		return res;
	frame_push(&f, v->seg[SEG_SS].sel);
	frame_push(&f, v->gpr[GPR_RSP]);
	res = push_params(v, g, &f);
	frame_push(&f, v->seg[SEG_CS].sel);
	frame_push(&f, branch_next(v, i));
	if (!res)
		res = desc_set_accessed(v, &g->code);
	if (!res)
		res = frame_write(v, &f);
	if (res)
		return res;
	v->cpl = g->cpl;
	seg_commit(v, SEG_SS, &ss);
	v->gpr[GPR_RSP] = frame_rsp(&f, g->size == 8 ? 0 : v->gpr[GPR_RSP]);
	return commit_cs(v, &g->code, g->sel, g->cpl, g->off);
}

static int call_system(struct vcpu *v, const struct insn *i, const struct desc *d, u16 sel)
{
	struct gate g;
	int res;

	if (!is_call_gate(v, d))
		return far_task(v, i, d, sel, true);
	res = read_gate(v, sel, d, true, &g);
	if (res)
		return res;
	if (g.cpl < v->cpl)
		return call_inner(v, i, &g);
	return call_same(v, i, &g.code, g.sel, g.off, g.size);
}

static int call_real(struct vcpu *v, const struct insn *i, u16 sel, u64 off)
{
	u64 rsp;
	int res;

	if (off > v->seg[SEG_CS].limit)
		return RAISE_GP0(v);
	res = push_return(v, i, i->osz, &rsp);
	if (res)
		return res;
	v->gpr[GPR_RSP] = rsp;
	return far_real(v, sel, off);
}

int op_call_far(struct vcpu *v, const struct insn *i)
{
	struct desc d;
	u64 off;
	u16 sel;
	int res = read_pointer(v, i, &sel, &off);

	if (res)
		return res;
	if (!cpu_prot(v) || cpu_v86(v))
		return call_real(v, i, sel, off);
	if (SEL_NULL(sel))
		return RAISE_GP0(v);
	res = desc_read(v, sel, EXC_GP, &d);
	if (res)
		return res;
	if (desc_is_system(&d))
		return call_system(v, i, &d, sel);
	if (!desc_is_code(&d))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	res = check_direct(v, &d, sel);
	if (!res)
		res = check_offset(v, &d, off);
	return res ? res : call_same(v, i, &d, sel, off, i->osz);
}

/* ---- RET ---------------------------------------------------------------------------------------- */

/* The code segment a far RET goes back to. */
static int check_return(struct vcpu *v, u16 sel, struct desc *d)
{
	int res;

	if (SEL_NULL(sel))
		return RAISE_GP0(v);
	res = desc_read(v, sel, EXC_GP, d);
	if (res)
		return res;
	if (!desc_is_code(d) || SEL_RPL(sel) < v->cpl || bad_size(v, d))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (desc_type(d) & TYPE_CONFORMING ? desc_dpl(d) > SEL_RPL(sel) : desc_dpl(d) != SEL_RPL(sel))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (!desc_present(d))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(sel));
	return OP_NEXT;
}

/* Outer stack from the frame: fills ss; null SS is legal for 64-bit code above CPL 3's privilege. */
static int outer_ss(struct vcpu *v, const struct desc *code, u16 sel, unsigned int cpl, struct segment *ss)
{
	struct desc d;
	int res;

	if (SEL_NULL(sel)) {
		if (!cpu_long_mode(v) || !(desc_ar(code) & AR_L) || cpl == 3 || SEL_RPL(sel) != cpl)
			return RAISE_GP0(v);
		*ss = (struct segment){ .sel = sel, .ar = (u32)(AR_UNUSABLE | AR_DB) | (u32)cpl << 5 };
		return OP_NEXT;
	}
	res = seg_check_ss(v, sel, cpl, EXC_GP, &d);
	if (!res)
		res = desc_set_accessed(v, &d);
	if (!res)
		desc_to_segment(&d, sel, ss);
	return res;
}

static int ret_outer(struct vcpu *v, const struct insn *i, struct desc *d, u16 sel, u64 rip, u64 sp)
{
	unsigned int cpl = SEL_RPL(sel);
	u64 extra = (u16)i->imm, rsp, ss_sel;
	struct segment ss;
	int res;

	sp = (sp + extra) & size_mask(v->ssz);
	res = stack_read(v, &sp, &rsp, i->osz);
	if (!res)
		res = stack_read(v, &sp, &ss_sel, i->osz);
	if (!res)
		res = outer_ss(v, d, (u16)ss_sel, cpl, &ss);
	if (!res)
		res = check_offset(v, d, rip);
	if (!res)
		res = desc_set_accessed(v, d);
	if (res)
		return res;
	v->cpl = (u8)cpl;
	seg_commit(v, SEG_SS, &ss);
	commit_cs(v, d, sel, cpl, rip);
	if (v->ssz == 2)
		rsp = (v->gpr[GPR_RSP] & ~0xffffull) | ((rsp + extra) & 0xffff);
	else
		rsp = (rsp + extra) & size_mask(v->ssz);
	v->gpr[GPR_RSP] = rsp;
	seg_drop_inner(v);
	cpu_mode_update(v);
	return OP_JUMP;
}

int op_ret_far(struct vcpu *v, const struct insn *i)
{
	u64 sp = stack_get(v), rip, cs;
	struct desc d;
	int res = stack_read(v, &sp, &rip, i->osz);

	if (!res)
		res = stack_read(v, &sp, &cs, i->osz);
	if (res)
		return res;
	if (!cpu_prot(v) || cpu_v86(v)) {
		res = far_real(v, (u16)cs, rip);
		if (res == OP_JUMP)
			stack_set(v, sp + (u16)i->imm);
		return res;
	}
	res = check_return(v, (u16)cs, &d);
	if (res)
		return res;
	if (SEL_RPL(cs) > v->cpl)
		return ret_outer(v, i, &d, (u16)cs, rip, sp);
	res = check_offset(v, &d, rip);
	if (!res)
		res = desc_set_accessed(v, &d);
	if (res)
		return res;
	stack_set(v, sp + (u16)i->imm);
	return commit_cs(v, &d, (u16)cs, v->cpl, rip);
}
