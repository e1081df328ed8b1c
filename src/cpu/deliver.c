/* SPDX-License-Identifier: MIT */
/*
 * One attempt to deliver an event through the IVT or IDT. Functions follow the sections of the manual's
 * pseudo-code. Registers change only in the last step, after every access that can fail.
 * [SDM2A "INT n/INTO/INT3/INT1—Call to Interrupt Procedure"] [SDM3A "Interrupt and Exception Handling"]
 */
#include "cpu/deliver.h"
#include "cpu/segment.h"

/**
 * struct delivery - one attempt
 * @ret: return address for the frame
 * @flags: RFLAGS image for the frame
 * @soft: INT n, INT3 or INTO: the gate's DPL is checked
 * @err: error code of a fault in the gate: vector * 8 + IDT
 * @gate: the gate
 * @cs: the handler's code segment, CPL in the selector's RPL
 * @cpl: the handler's privilege level
 * @size: bytes per pushed value
 */
struct delivery {
	const struct event *ev;
	u64 ret;
	u64 flags;
	u64 rip;
	bool soft;
	u8 size;
	u8 cpl;
	u32 err;
	struct desc gate;
	struct segment cs;
	struct frame frame;
};

/*
 * RF in the image keeps an instruction breakpoint from firing again when a faulting instruction is
 * restarted; after a trap the instruction is not restarted. [SDM3B "Instruction-Breakpoint Exception Condition"]
 */
static u64 saved_flags(const struct vcpu *v, const struct event *ev)
{
	u64 f = cpu_rflags(v);

	if (ev->type == EVENT_HARD_EXC && exc_is_fault(ev->vector))
		return f | FLAG_RF;
	if (ev->type >= EVENT_SOFT_INT)
		return f & ~FLAG_RF;
	return f;
}

static void delivery_init(const struct vcpu *v, struct delivery *d, const struct event *ev)
{
	d->ev = ev;
	d->ret = v->rip + ev->insn_len;
	if (!cpu_code64(v))
		d->ret = (u32)d->ret;
	d->flags = saved_flags(v, ev);
	d->soft = ev->type == EVENT_SOFT_INT || ev->type == EVENT_SOFT_EXC;
	d->err = (u32)ev->vector * 8 + 2;
}

/* What every successful delivery does last. */
static int delivery_commit(struct vcpu *v, const struct event *ev, u64 clear_flags)
{
	v->rflags &= ~(clear_flags | FLAG_TF | FLAG_RF);
	if (ev->type == EVENT_NMI)
		v->nmi_masked = true;
	if (ev->vector == EXC_DB && ev->type == EVENT_HARD_EXC && (v->dr7 & DR7_GD)) {
		v->dr7 &= ~DR7_GD;
		debug_update(v);
	}
	v->step_tf = false;
	cpu_mode_update(v);
	return OP_JUMP;
}

/* ---- REAL-ADDRESS-MODE ---------------------------------------------------------------------------- */

static int deliver_real(struct vcpu *v, struct delivery *d)
{
	u32 entry;
	int r;

	if ((u32)d->ev->vector * 4 + 3 > v->idtr.limit)
		return cpu_raise_err(v, EXC_GP, d->err);
	r = lin_read(v, (u32)(v->idtr.base + (u64)d->ev->vector * 4), &entry, 4, ACC_R | ACC_SYS);
	if (r)
		return r;
	frame_current(v, &d->frame, 2);
	frame_push(&d->frame, d->flags);
	frame_push(&d->frame, v->seg[SEG_CS].sel);
	frame_push(&d->frame, d->ret);
	r = frame_write(v, &d->frame);
	if (r)
		return r;
	v->gpr[GPR_RSP] = frame_rsp(&d->frame, v->gpr[GPR_RSP]);
	seg_set_real(v, SEG_CS, (u16)(entry >> 16));
	v->rip = entry & 0xffff;
	return delivery_commit(v, d->ev, FLAG_IF | FLAG_AC);
}

/* ---- PROTECTED-MODE, IA-32e-MODE: the gate ----------------------------------------------------------- */

static int gate_read(struct vcpu *v, struct delivery *d)
{
	bool lm = cpu_long_mode(v);
	u32 size = lm ? 16 : 8;
	u64 off = (u64)d->ev->vector * size;
	gva_t la = v->idtr.base + off;
	u64 raw[2] = { 0, 0 };
	int r;

	if (off + size - 1 > v->idtr.limit)
		return cpu_raise_err(v, EXC_GP, d->err);
	r = lin_read(v, lm ? la : (u32)la, raw, size, ACC_R | ACC_SYS);
	if (r)
		return r;
	d->gate = (struct desc){ .lo = raw[0], .hi = lm ? (u32)raw[1] : 0, .la = la };
	return 0;
}

static int gate_check(struct vcpu *v, struct delivery *d)
{
	unsigned int type = desc_type(&d->gate);
	bool valid = type == DESC_INT32 || type == DESC_TRAP32;

	if (!cpu_long_mode(v))
		valid = valid || type == DESC_TASK_GATE || type == DESC_INT16 || type == DESC_TRAP16;
	if (!valid || !desc_is_system(&d->gate))
		return cpu_raise_err(v, EXC_GP, d->err);
	if (d->soft && desc_dpl(&d->gate) < v->cpl)
		return cpu_raise_err(v, EXC_GP, d->err);
	if (!desc_present(&d->gate))
		return cpu_raise_err(v, EXC_NP, d->err);
	return 0;
}

/* ---- TASK-GATE ------------------------------------------------------------------------------------------ */

static int deliver_task_gate(struct vcpu *v, struct delivery *d)
{
	struct event ev = *d->ev;
	int r = task_switch(v, gate_sel(&d->gate), TASK_GATE, d->ret, d->flags,
			    ev.has_error ? &ev.error : NULL);

	if (r == OP_JUMP && ev.type == EVENT_NMI)
		v->nmi_masked = true;
	return r;
}

/* ---- TRAP-OR-INTERRUPT-GATE: the code segment --------------------------------------------------------- */

static int gate_target(struct vcpu *v, struct delivery *d)
{
	u16 sel = gate_sel(&d->gate);
	unsigned int dpl;
	struct desc cs;
	int r;

	if (SEL_NULL(sel))
		return RAISE_GP0(v);
	r = desc_read(v, sel, EXC_GP, &cs);
	if (r)
		return r;
	dpl = desc_dpl(&cs);
	if (!desc_is_code(&cs) || dpl > v->cpl)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (cpu_long_mode(v) && (cs.lo & (BIT(53) | BIT(54))) != BIT(53))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (!desc_present(&cs))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(sel));
	d->cpl = desc_type(&cs) & TYPE_CONFORMING ? v->cpl : (u8)dpl;
	if (cpu_v86(v) && d->cpl != 0)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	r = desc_set_accessed(v, &cs);
	if (r)
		return r;
	desc_to_segment(&cs, (u16)((sel & ~3u) | d->cpl), &d->cs);
	d->rip = gate_offset(&d->gate);
	if (!cpu_long_mode(v) && !(desc_type(&d->gate) & 8))
		d->rip &= 0xffff;
	return 0;
}

/* ---- the stack ------------------------------------------------------------------------------------------ */

/* INTER-PRIVILEGE-LEVEL-INTERRUPT, INTERRUPT-FROM-VIRTUAL-8086-MODE: SS:ESP from the TSS. */
static int stack_inner(struct vcpu *v, struct delivery *d, struct segment *ss)
{
	struct desc desc;
	u16 sel;
	u64 sp;
	int r = tss_stack(v, d->cpl, &sel, &sp);

	if (r)
		return r;
	if (SEL_NULL(sel))
		return cpu_raise_err(v, EXC_TS, 0);
	r = seg_check_ss(v, sel, d->cpl, EXC_TS, &desc);
	if (!r)
		r = desc_set_accessed(v, &desc);
	if (r)
		return r;
	desc_to_segment(&desc, sel, ss);
	frame_new(&d->frame, ss, sp, d->cpl, d->size);
	if (cpu_v86(v)) {
		static const enum seg order[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };

		for (unsigned int n = 0; n < ARRAY_SIZE(order); n++)
			frame_push(&d->frame, v->seg[order[n]].sel);
	}
	frame_push(&d->frame, v->seg[SEG_SS].sel);
	frame_push(&d->frame, v->gpr[GPR_RSP]);
	return 0;
}

/* IA-32e mode: IST, or RSPn on a change of privilege, or the current stack; 16-byte aligned. */
static int stack_long(struct vcpu *v, struct delivery *d)
{
	unsigned int ist = (unsigned int)(d->gate.lo >> 32) & 7;
	u64 sp = v->gpr[GPR_RSP];
	int r = 0;

	if (ist)
		r = tss_stack64(v, TSS64_IST(ist), &sp);
	else if (d->cpl != v->cpl)
		r = tss_stack64(v, d->cpl, &sp);
	if (r)
		return r;
	if (!la_canonical(v, sp))
		return cpu_raise_err(v, EXC_SS, 0);
	frame_new64(v, &d->frame, sp & ~15ull, d->cpl);
	frame_push(&d->frame, v->seg[SEG_SS].sel);
	frame_push(&d->frame, v->gpr[GPR_RSP]);
	return 0;
}

static int gate_push(struct vcpu *v, struct delivery *d)
{
	bool lm = cpu_long_mode(v);

	if (lm ? !la_canonical(v, d->rip) : d->rip > d->cs.limit)
		return RAISE_GP0(v);
	frame_push(&d->frame, d->flags);
	frame_push(&d->frame, v->seg[SEG_CS].sel);
	frame_push(&d->frame, d->ret);
	if (d->ev->has_error)
		frame_push(&d->frame, d->ev->error);
	return frame_write(v, &d->frame);
}

static void drop_v86_segments(struct vcpu *v)
{
	static const enum seg segs[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };

	for (unsigned int n = 0; n < ARRAY_SIZE(segs); n++)
		seg_commit_null(v, segs[n], 0);
}

static int gate_commit(struct vcpu *v, struct delivery *d, const struct segment *ss)
{
	bool interrupt_gate = !(desc_type(&d->gate) & 1);
	bool outer = d->cpl != v->cpl || cpu_v86(v);
	struct segment null = { .sel = d->cpl, .ar = AR_UNUSABLE | (u32)d->cpl << 5 | (u32)AR_DB };

	v->gpr[GPR_RSP] = frame_rsp(&d->frame, v->gpr[GPR_RSP]);
	if (cpu_v86(v))
		drop_v86_segments(v);
	v->cpl = d->cpl;
	if (outer)
		seg_commit(v, SEG_SS, cpu_long_mode(v) ? &null : ss);
	seg_commit(v, SEG_CS, &d->cs);
	v->rip = d->rip;
	return delivery_commit(v, d->ev, FLAG_VM | FLAG_NT | (interrupt_gate ? FLAG_IF : 0));
}

static int deliver_gate(struct vcpu *v, struct delivery *d)
{
	struct segment ss;
	int r = gate_target(v, d);

	if (r)
		return r;
	d->size = cpu_long_mode(v) ? 8 : desc_type(&d->gate) & 8 ? 4 : 2;
	if (cpu_long_mode(v))
		r = stack_long(v, d);
	else if (d->cpl != v->cpl || cpu_v86(v))
		r = stack_inner(v, d, &ss);
	else
		frame_current(v, &d->frame, d->size);
	if (!r)
		r = gate_push(v, d);
	return r ? r : gate_commit(v, d, &ss);
}

int deliver_event(struct vcpu *v, const struct event *ev)
{
	struct delivery d;
	int r;

	delivery_init(v, &d, ev);
	if (!cpu_prot(v))
		return deliver_real(v, &d);
	r = gate_read(v, &d);
	if (!r)
		r = gate_check(v, &d);
	if (r)
		return r;
	if (desc_type(&d.gate) == DESC_TASK_GATE)
		return deliver_task_gate(v, &d);
	return deliver_gate(v, &d);
}
