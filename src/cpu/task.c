/* SPDX-License-Identifier: MIT */
/*
 * Task switches. [SDM3A "Task Management"]
 *
 * Errors before the old task is saved are the old task's. After the new task's registers are loaded the
 * switch has happened, and errors in its segments, its CR3 or its stack are raised in the new task.
 */
#include "cpu/segment.h"
#include "cpu/vmx/vmx.h"

#define TSS32_LIMIT 0x67u
#define TSS16_LIMIT 0x2bu

/**
 * struct task - the dynamic part of a TSS, of either width
 */
struct task {
	u32 cr3, eip, eflags;
	u32 gpr[8];	/* EAX ECX EDX EBX ESP EBP ESI EDI */
	u16 sel[6];	/* ES CS SS DS FS GS, as enum seg */
	u16 ldt;
	bool debug_trap;
};

struct tswitch {
	u16 sel;
	enum task_reason reason;
	u64 ret, flags;
	const u32 *err;
	struct desc desc;
	struct segment tr;
	struct task in;
	bool wide;
};

static inline u32 get32(const u8 *p) { return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24; }
static inline u16 get16(const u8 *p) { return (u16)(p[0] | p[1] << 8); }

static inline void put32(u8 *p, u32 x)
{
	__builtin_memcpy(p, &x, 4);
}

static inline void put16(u8 *p, u16 x)
{
	__builtin_memcpy(p, &x, 2);
}

static inline gva_t tss_la(const struct segment *tr, u32 off)
{
	return (u32)(tr->base + off);
}

/* ---- the new TSS: checks in the old task ------------------------------------------------------------- */

static int task_find(struct vcpu *v, struct tswitch *t)
{
	u8 bad = t->reason == TASK_IRET ? EXC_TS : EXC_GP;
	unsigned int type;
	int r;

	if (SEL_NULL(t->sel) || (t->sel & 4))
		return cpu_raise_err(v, bad, SEL_ERR(t->sel));
	r = desc_read(v, t->sel, bad, &t->desc);
	if (r)
		return r;
	type = desc_type(&t->desc);
	if (!desc_is_system(&t->desc) || (type & ~(8u | DESC_BUSY)) != DESC_TSS16 ||
	    !!(type & DESC_BUSY) != (t->reason == TASK_IRET))
		return cpu_raise_err(v, bad, SEL_ERR(t->sel));
	if (!desc_present(&t->desc))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(t->sel));
	t->wide = type & 8;
	desc_to_segment(&t->desc, t->sel, &t->tr);
	if (t->tr.limit < (t->wide ? TSS32_LIMIT : TSS16_LIMIT))
		return cpu_raise_err(v, EXC_TS, SEL_ERR(t->sel));
	return 0;
}

static void task_parse(struct tswitch *t, const u8 *p)
{
	struct task *n = &t->in;

	*n = (struct task){ 0 };
	if (t->wide) {
		n->cr3 = get32(p + 0x1c);
		n->eip = get32(p + 0x20);
		n->eflags = get32(p + 0x24);
		for (unsigned int k = 0; k < 8; k++)
			n->gpr[k] = get32(p + 0x28 + 4 * k);
		for (unsigned int k = 0; k < 6; k++)
			n->sel[k] = get16(p + 0x48 + 4 * k);
		n->ldt = get16(p + 0x60);
		n->debug_trap = p[0x64] & 1;
		return;
	}
	n->eip = get16(p + 0x0e);
	n->eflags = get16(p + 0x10);
	for (unsigned int k = 0; k < 8; k++)
		n->gpr[k] = get16(p + 0x12 + 2 * k);
	for (unsigned int k = 0; k < 4; k++)
		n->sel[k] = get16(p + 0x22 + 2 * k);
	n->ldt = get16(p + 0x2a);
}

/* ---- saving the old task ---------------------------------------------------------------------------------- */

static void task_format(const struct vcpu *v, const struct tswitch *t, bool wide, u32 eflags, u8 *p)
{
	if (wide) {
		put32(p, (u32)t->ret);
		put32(p + 4, eflags);
		for (unsigned int k = 0; k < 8; k++)
			put32(p + 8 + 4 * k, (u32)v->gpr[k]);
		for (unsigned int k = 0; k < 6; k++)
			put32(p + 0x28 + 4 * k, v->seg[k].sel);
		return;
	}
	put16(p, (u16)t->ret);
	put16(p + 2, (u16)eflags);
	for (unsigned int k = 0; k < 8; k++)
		put16(p + 4 + 2 * k, (u16)v->gpr[k]);
	for (unsigned int k = 0; k < 4; k++)
		put16(p + 0x14 + 2 * k, v->seg[k].sel);
}

/* EIP .. GS of the old TSS, the previous-task link of the new one, and the busy bits. */
static int task_save(struct vcpu *v, struct tswitch *t)
{
	struct segment *tr = &v->seg[SEG_TR];
	bool wide = AR_TYPE(tr->ar) & 8;
	u32 off = wide ? 0x20 : 0x0e, size = wide ? 0x40 : 0x1c;
	u16 link = tr->sel;
	struct desc old;
	u8 image[0x40];
	int r;

	if (off + size - 1 > tr->limit)
		return cpu_raise_err(v, EXC_TS, SEL_ERR(tr->sel));
	task_format(v, t, wide, (u32)(t->reason == TASK_IRET ? t->flags & ~FLAG_NT : t->flags), image);
	r = lin_probe(v, tss_la(tr, off), size, ACC_W | ACC_SYS);
	if (!r && (t->reason == TASK_CALL || t->reason == TASK_GATE))
		r = lin_probe(v, tss_la(&t->tr, 0), 2, ACC_W | ACC_SYS);
	if (!r && (t->reason == TASK_JMP || t->reason == TASK_IRET)) {
		r = desc_read(v, tr->sel, EXC_TS, &old);
		if (!r)
			r = desc_lock(v, &old);
	}
	if (!r && t->reason != TASK_IRET)
		r = desc_lock(v, &t->desc);
	/* Nothing has changed so far, nothing fails from here on. */
	if (!r && (t->reason == TASK_JMP || t->reason == TASK_IRET))
		r = desc_change_busy(v, &old, false);
	if (!r)
		r = lin_write(v, tss_la(tr, off), image, size, ACC_W | ACC_SYS);
	if (!r && (t->reason == TASK_CALL || t->reason == TASK_GATE))
		r = lin_write(v, tss_la(&t->tr, 0), &link, 2, ACC_W | ACC_SYS);
	if (!r && t->reason != TASK_IRET)
		r = desc_change_busy(v, &t->desc, true);
	return r;
}

/* ---- loading the new task ---------------------------------------------------------------------------------- */

static int load_cr3(struct vcpu *v, const struct tswitch *t)
{
	if (!t->wide || !(v->cr0 & CR0_PG))
		return 0;
	return cpu_set_cr3(v, t->in.cr3) ? cpu_raise_err(v, EXC_TS, SEL_ERR(t->sel)) : 0;
}

static int load_ldt(struct vcpu *v, u16 sel)
{
	struct segment s;
	struct desc d;
	int r;

	if (SEL_NULL(sel)) {
		seg_commit_null(v, SEG_LDTR, sel);
		return 0;
	}
	if (sel & 4)
		return cpu_raise_err(v, EXC_TS, SEL_ERR(sel));
	r = desc_read(v, sel, EXC_TS, &d);
	if (r)
		return r;
	if (!desc_is_system(&d) || desc_type(&d) != DESC_LDT || !desc_present(&d))
		return cpu_raise_err(v, EXC_TS, SEL_ERR(sel));
	desc_to_segment(&d, sel, &s);
	seg_commit(v, SEG_LDTR, &s);
	return 0;
}

static int load_cs(struct vcpu *v, u16 sel, struct segment *s)
{
	unsigned int rpl = SEL_RPL(sel);
	struct desc d;
	int r;

	if (SEL_NULL(sel))
		return cpu_raise_err(v, EXC_TS, SEL_ERR(sel));
	r = desc_read(v, sel, EXC_TS, &d);
	if (r)
		return r;
	if (!desc_is_code(&d) || (desc_type(&d) & TYPE_CONFORMING ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
		return cpu_raise_err(v, EXC_TS, SEL_ERR(sel));
	if (!desc_present(&d))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(sel));
	r = desc_set_accessed(v, &d);
	desc_to_segment(&d, sel, s);
	return r;
}

static int load_ss(struct vcpu *v, u16 sel, unsigned int cpl)
{
	struct segment s;
	struct desc d;
	int r;

	if (SEL_NULL(sel))
		return cpu_raise_err(v, EXC_TS, SEL_ERR(sel));
	r = seg_check_ss(v, sel, cpl, EXC_TS, &d);
	if (!r)
		r = desc_set_accessed(v, &d);
	if (r)
		return r;
	desc_to_segment(&d, sel, &s);
	seg_commit(v, SEG_SS, &s);
	return 0;
}

/* As seg_load(), with #TS in the place of #GP. */
static int load_data(struct vcpu *v, enum seg seg, u16 sel)
{
	int r = seg_load(v, seg, sel);

	if (r == OP_EXC && v->exc.vector == EXC_GP)
		v->exc.vector = EXC_TS;
	return r;
}

/* Before any descriptor of the new task is read: selectors are there, nothing is usable, SS says the CPL. */
static void load_selectors(struct vcpu *v, const struct tswitch *t)
{
	u32 cpl = SEL_RPL(t->in.sel[SEG_CS]);

	for (unsigned int n = 0; n < 6; n++) {
		struct segment s = { .sel = t->in.sel[n], .ar = AR_UNUSABLE | cpl << 5 };

		if (n == SEG_CS)
			s.ar = v->seg[SEG_CS].ar;
		seg_commit(v, (enum seg)n, &s);
	}
	seg_commit(v, SEG_LDTR, &(struct segment){ .sel = t->in.ldt, .ar = AR_UNUSABLE });
	cpu_mode_update(v);
}

static int load_v86(struct vcpu *v, const struct tswitch *t)
{
	for (unsigned int n = 0; n < 6; n++)
		seg_set_real(v, (enum seg)n, t->in.sel[n]);
	cpu_mode_update(v);
	return load_ldt(v, t->in.ldt);
}

static int load_segments(struct vcpu *v, const struct tswitch *t)
{
	static const enum seg data[] = { SEG_DS, SEG_ES, SEG_FS, SEG_GS };
	struct segment cs;
	int r = load_ldt(v, t->in.ldt);

	if (!r)
		r = load_cs(v, t->in.sel[SEG_CS], &cs);
	if (r)
		return r;
	seg_commit(v, SEG_CS, &cs);
	r = load_ss(v, t->in.sel[SEG_SS], SEL_RPL(cs.sel));
	cpu_mode_update(v);
	for (unsigned int n = 0; n < ARRAY_SIZE(data) && !r; n++)
		r = load_data(v, data[n], t->in.sel[data[n]]);
	return r;
}

static int push_error(struct vcpu *v, const struct tswitch *t)
{
	struct frame f;
	int r;

	frame_current(v, &f, t->wide ? 4 : 2);
	frame_push(&f, *t->err);
	r = frame_write(v, &f);
	if (!r)
		v->gpr[GPR_RSP] = frame_rsp(&f, v->gpr[GPR_RSP]);
	return r;
}

static u64 new_flags(const struct tswitch *t)
{
	u64 f = t->in.eflags | FLAG_FIXED;

	f &= FLAGS_ARITH | FLAG_FIXED | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM |
	     FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
	if (t->reason == TASK_CALL || t->reason == TASK_GATE)
		f |= FLAG_NT;
	return f;
}

/* Everything from here on belongs to the new task. */
static int task_enter(struct vcpu *v, struct tswitch *t)
{
	int r;

	t->tr.ar |= DESC_BUSY;
	v->cr0 |= CR0_TS;
	cpu_set_rflags(v, new_flags(t));
	v->rip = t->in.eip;
	for (unsigned int n = 0; n < 8; n++)
		v->gpr[n] = t->in.gpr[n];
	v->dr7 &= ~0x155ull;
	debug_update(v);
	v->shadow = 0;
	v->step_tf = false;
	seg_commit(v, SEG_TR, &t->tr);
	r = load_cr3(v, t);
	load_selectors(v, t);
	if (!r)
		r = cpu_v86(v) ? load_v86(v, t) : load_segments(v, t);
	cpu_mode_update(v);
	if (!r && t->err)
		r = push_error(v, t);
	if (!r && v->rip > v->seg[SEG_CS].limit)
		r = RAISE_GP0(v);
	if (!r && t->in.debug_trap)
		v->pending_db |= DR6_BT;
	return r ? r : OP_JUMP;
}

/* [SDM3C "Exit Qualification for Task Switches"] */
static int task_exit(struct vcpu *v, const struct tswitch *t)
{
	static const u8 source[] = { [TASK_CALL] = 0, [TASK_IRET] = 1, [TASK_JMP] = 2, [TASK_GATE] = 3 };

	vmx_raise(v, VMEXIT_TASK_SWITCH, t->sel | (u64)source[t->reason] << 30);
	v->vmx->pending_exit.insn_len = (u32)(t->ret - v->rip) & 15;
	return OP_EXC;
}

int task_switch(struct vcpu *v, u16 sel, enum task_reason reason, u64 ret, u64 flags, const u32 *err)
{
	struct tswitch t = { .sel = sel, .reason = reason, .ret = ret, .flags = flags, .err = err };
	u8 image[TSS32_LIMIT + 1];
	int r = task_find(v, &t);

	if (!r && v->nonroot)
		return task_exit(v, &t);
	if (!r)
		r = lin_read(v, tss_la(&t.tr, 0), image, t.wide ? TSS32_LIMIT + 1 : TSS16_LIMIT + 1, ACC_R | ACC_SYS);
	if (r)
		return r;
	task_parse(&t, image);
	r = task_save(v, &t);
	return r ? r : task_enter(v, &t);
}

int cpu_task_switch(struct vcpu *v, u16 sel, int reason, bool has_err, u32 err)
{
	return task_switch(v, sel, (enum task_reason)reason, v->rip, cpu_rflags(v), has_err ? &err : NULL);
}
