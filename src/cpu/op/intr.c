/* SPDX-License-Identifier: MIT */
/*
 * INT n, INT3, INTO, INT1 and IRET.
 * [SDM2A "INT n/INTO/INT3/INT1—Call to Interrupt Procedure", "IRET/IRETD/IRETQ—Interrupt Return"]
 */
#include "cpu/op/control.h"
#include "cpu/rcache.h"
#include "cpu/vmx/vmx.h"

/* ---- software interrupts -------------------------------------------------------------------------------- */

static int software_event(struct vcpu *v, const struct insn *i, u8 vector, enum event_type type)
{
	v->rip = insn_rip(v, i);
	v->inj = (struct event){ .valid = true, .vector = vector, .type = (u8)type, .insn_len = i->len };
	if (i->seq)
		cpu_window(v); /* instructions of this trace, not counted yet */
	return leave_at_rip(v, i, cpu_deliver(v));
}

int op_int3(struct vcpu *v, const struct insn *i)
{
	v->rip = insn_rip(v, i);
	if (debug_software_breakpoint(v) == OP_STOP)
		return OP_STOP;
	return software_event(v, i, EXC_BP, EVENT_SOFT_EXC);
}

int op_int1(struct vcpu *v, const struct insn *i)
{
	return software_event(v, i, EXC_DB, EVENT_PRIV_SOFT);
}

int op_into(struct vcpu *v, const struct insn *i)
{
	return v->aflags & 1 ? software_event(v, i, EXC_OF, EVENT_SOFT_EXC) : OP_NEXT;
}

/* Bit of the software interrupt redirection bitmap, which lies below the I/O bitmap. 0, OP_EXC, OP_STOP. */
static int redirection_bit(struct vcpu *v, u8 vector, bool *set)
{
	const struct segment *tr = &v->seg[SEG_TR];
	u16 io_base;
	u32 off;
	u8 byte;
	int r;

	*set = true;
	if (tr->limit < 0x67)
		return RAISE_GP0(v);
	r = lin_read(v, (u32)(tr->base + 0x66), &io_base, 2, ACC_R | ACC_SYS);
	if (r)
		return r;
	off = io_base - 32u + vector / 8u;
	if (io_base < 32 || off > tr->limit)
		return RAISE_GP0(v);
	r = lin_read(v, (u32)(tr->base + off), &byte, 1, ACC_R | ACC_SYS);
	*set = byte >> (vector % 8) & 1;
	return r;
}

/*
 * Virtual-8086 mode extensions: the interrupt goes to the 8086 program's own handler. With IOPL < 3 the
 * program's IF is VIF. [SDM3B "Class 3—Software Interrupt Handling in Virtual-8086 Mode"]
 */
static int v86_redirect(struct vcpu *v, const struct insn *i, u8 vector)
{
	bool virtual_if = (v->rflags & FLAG_IOPL) != FLAG_IOPL;
	u64 image = cpu_rflags(v) & ~FLAG_RF;
	struct frame f;
	u32 entry;
	int r = lin_read(v, (u32)vector * 4, &entry, 4, ACC_R);

	if (r)
		return r;
	if (virtual_if)
		image = (image & ~FLAG_IF) | FLAG_IOPL | (v->rflags & FLAG_VIF ? FLAG_IF : 0);
	frame_current(v, &f, 2);
	frame_push(&f, image);
	frame_push(&f, v->seg[SEG_CS].sel);
	frame_push(&f, branch_next(v, i));
	r = frame_write(v, &f);
	if (r)
		return r;
	v->gpr[GPR_RSP] = frame_rsp(&f, v->gpr[GPR_RSP]);
	seg_set_real(v, SEG_CS, (u16)(entry >> 16));
	v->rip = entry & 0xffff;
	v->rflags &= ~(FLAG_TF | FLAG_RF | FLAG_NT | (virtual_if ? FLAG_VIF : FLAG_IF));
	v->step_tf = false;
	return OP_JUMP;
}

int op_int(struct vcpu *v, const struct insn *i)
{
	u8 vector = (u8)i->imm;
	bool to_monitor = true;
	int r;

	if (cpu_v86(v)) {
		if (v->cr4 & CR4_VME) {
			r = redirection_bit(v, vector, &to_monitor);
			if (r)
				return r;
		}
		if (!to_monitor)
			return v86_redirect(v, i, vector);
		if ((v->rflags & FLAG_IOPL) != FLAG_IOPL)
			return RAISE_GP0(v);
	}
	return software_event(v, i, vector, EVENT_SOFT_INT);
}

/* ---- IRET -------------------------------------------------------------------------------------------------- */

#define FLAGS_IRET16 (FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT)

/* RF costs a step of its own; without instruction breakpoints nobody can tell. */
static void load_flags(struct vcpu *v, u64 image, u64 mask)
{
	u64 f = (cpu_rflags(v) & ~mask) | (image & mask);

	if (!(v->step_mask & STEP_EXEC_BREAKPOINT))
		f &= ~FLAG_RF;
	cpu_set_rflags(v, f);
}

static u64 iret_mask(const struct vcpu *v, unsigned int osz, unsigned int cpl)
{
	u64 mask = FLAGS_IRET16;

	if (osz > 2)
		mask |= FLAG_RF | FLAG_AC | FLAG_ID;
	if (cpl <= (v->rflags >> 12 & 3))
		mask |= FLAG_IF;
	if (cpl == 0)
		mask |= FLAG_IOPL | (osz > 2 ? FLAG_VIF | FLAG_VIP : 0);
	return mask;
}

struct iret {
	u64 rip, cs, flags, sp; /* sp: after the three values */
	unsigned int osz;
};

static int iret_real(struct vcpu *v, const struct iret *t, u64 image, u64 mask)
{
	if (t->rip > v->seg[SEG_CS].limit)
		return RAISE_GP0(v);
	seg_set_real(v, SEG_CS, (u16)t->cs);
	v->rip = t->rip;
	stack_set(v, t->sp);
	load_flags(v, image, mask);
	cpu_mode_update(v);
	return OP_JUMP;
}

static int iret_v86(struct vcpu *v, const struct iret *t)
{
	u64 wide = t->osz > 2 ? FLAG_RF | FLAG_AC | FLAG_ID : 0, image = t->flags;

	if ((v->rflags & FLAG_IOPL) == FLAG_IOPL)
		return iret_real(v, t, image, FLAGS_IRET16 | FLAG_IF | wide);
	if (!(v->cr4 & CR4_VME) || t->osz != 2)
		return RAISE_GP0(v);
	if ((image & FLAG_TF) || ((image & FLAG_IF) && (v->rflags & FLAG_VIP)))
		return RAISE_GP0(v);
	image = (image & ~FLAG_VIF) | (image & FLAG_IF ? FLAG_VIF : 0);
	return iret_real(v, t, image, FLAGS_IRET16 | FLAG_VIF);
}

/* TASK-RETURN: back to the task of the previous-task link. */
static int iret_task(struct vcpu *v, const struct insn *i)
{
	u16 link;
	int r;

	if (cpu_long_mode(v))
		return RAISE_GP0(v);
	r = lin_read(v, (u32)v->seg[SEG_TR].base, &link, 2, ACC_R | ACC_SYS);
	if (r)
		return r;
	v->rip = insn_rip(v, i);
	r = task_switch(v, link, TASK_IRET, branch_next(v, i), cpu_rflags(v), NULL);
	return leave_at_rip(v, i, r);
}

/* RETURN-TO-VIRTUAL-8086-MODE */
static int iret_to_v86(struct vcpu *v, const struct iret *t)
{
	static const enum seg order[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	u64 sp = t->sp, val[6];
	int r = 0;

	for (unsigned int n = 0; n < 6 && !r; n++)
		r = stack_read(v, &sp, &val[n], 4);
	if (r)
		return r;
	if ((u16)t->rip != t->rip)
		return RAISE_GP0(v);
	load_flags(v, t->flags, iret_mask(v, 4, 0) | FLAG_VM);
	seg_set_real(v, SEG_CS, (u16)t->cs);
	seg_set_real(v, SEG_SS, (u16)val[1]);
	for (unsigned int n = 0; n < ARRAY_SIZE(order); n++)
		seg_set_real(v, order[n], (u16)val[2 + n]);
	v->rip = t->rip;
	v->gpr[GPR_RSP] = (u32)val[0];
	cpu_mode_update(v);
	return OP_JUMP;
}

static int iret_protected(struct vcpu *v, const struct iret *t)
{
	u64 sp = t->sp, new_sp, new_ss, mask = iret_mask(v, t->osz, v->cpl);
	struct segment cs, ss;
	int r = far_return_cs(v, (u16)t->cs, t->rip, &cs);

	if (r)
		return r;
	if (SEL_RPL(cs.sel) == v->cpl && !cpu_code64(v)) {
		seg_commit(v, SEG_CS, &cs);
		v->rip = t->rip;
		stack_set(v, t->sp);
		load_flags(v, t->flags, mask);
		cpu_mode_update(v);
		return OP_JUMP;
	}
	r = stack_read(v, &sp, &new_sp, t->osz);
	if (!r)
		r = stack_read(v, &sp, &new_ss, t->osz);
	if (!r)
		r = far_return_ss(v, (u16)new_ss, &cs, &ss);
	if (r)
		return r;
	load_flags(v, t->flags, mask);
	far_return_commit(v, &cs, t->rip, &ss, new_sp);
	return OP_JUMP;
}

/* NMIs come through again even if the IRET faults. [SDM3A "Handling Multiple NMIs"] */
static void unblock_nmi(struct vcpu *v)
{
	v->nmi_masked = false;
	v->vmx->nmi_unblocked = v->nonroot;
	if (v->nmi_pending || v->nonroot)
		atomic_fetch_or(&v->request, REQ_EVENT);
}

static int iret(struct vcpu *v, const struct insn *i)
{
	struct iret t = { .osz = i->osz, .sp = stack_get(v) };
	int r;

	if (v->nmi_masked && !(v->nonroot && (v->vmx->c.pin & (PIN_NMI | PIN_VNMI)) == PIN_NMI))
		unblock_nmi(v);
	if (cpu_prot(v) && !cpu_v86(v) && (v->rflags & FLAG_NT))
		return iret_task(v, i);
	r = stack_read(v, &t.sp, &t.rip, t.osz);
	if (!r)
		r = stack_read(v, &t.sp, &t.cs, t.osz);
	if (!r)
		r = stack_read(v, &t.sp, &t.flags, t.osz);
	if (r)
		return r;
	if (!cpu_prot(v))
		return iret_real(v, &t, t.flags, iret_mask(v, t.osz, 0) & ~(FLAG_VIF | FLAG_VIP));
	if (cpu_v86(v))
		return iret_v86(v, &t);
	if ((t.flags & FLAG_VM) && v->cpl == 0 && t.osz == 4 && !cpu_long_mode(v))
		return iret_to_v86(v, &t);
	return iret_protected(v, &t);
}

int op_iret(struct vcpu *v, const struct insn *i)
{
	int r;

	v->vmx->nmi_unblocked = false;
	r = iret(v, i);
	if (r != OP_EXC) {
		v->vmx->nmi_unblocked = false;
		cpu_serialize(v);
	}
	return r;
}
