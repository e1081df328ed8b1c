/* SPDX-License-Identifier: MIT */
/*
 * Control and debug registers. [SDM2B "MOV—Move to/from Control Registers", "... Debug Registers"]
 */
#include "cpu/op/control.h"
#include "cpu/rcache.h"

/* ---- control registers ---------------------------------------------------------------------------------- */

static inline unsigned int cr_size(const struct vcpu *v)
{
	return cpu_code64(v) ? 8 : 4;
}

int op_mov_from_cr(struct vcpu *v, const struct insn *i)
{
	const struct cpu_bus *bus = v->vm->bus;
	u64 val;
	int r = require_cpl0(v);

	if (r)
		return r;
	switch (insn_reg(i)) {
	case 0: val = v->cr0; break;
	case 2: val = v->cr2; break;
	case 3: val = v->cr3; break;
	case 4: val = v->cr4; break;
	case 8: val = bus->read_cr8 ? bus->read_cr8(v) : v->cr8; break;
	default: return RAISE_UD(v);
	}
	gpr_set(v, insn_rm(i), cr_size(v), val);
	return OP_NEXT;
}

static int set_cr8(struct vcpu *v, u64 val)
{
	const struct cpu_bus *bus = v->vm->bus;

	if (val & ~15ull)
		return RAISE_GP0(v);
	v->cr8 = val;
	if (bus->write_cr8 && bus->write_cr8(v, val))
		v->stop = CPU_STOP_SET_TPR;
	/* A lower priority may let a waiting interrupt through. */
	atomic_fetch_or(&v->request, REQ_EVENT);
	return 0;
}

int op_mov_to_cr(struct vcpu *v, const struct insn *i)
{
	u64 val = gpr_get(v, insn_rm(i), cr_size(v));
	int r = require_cpl0(v);

	if (r)
		return r;
	switch (insn_reg(i)) {
	case 0: r = cpu_set_cr0(v, val); break;
	case 2: v->cr2 = val; break;
	case 3: r = cpu_set_cr3(v, val); break;
	case 4: r = cpu_set_cr4(v, val); break;
	case 8: r = set_cr8(v, val); break;
	default: return RAISE_UD(v);
	}
	if (r)
		return r;
	if (insn_reg(i) != 8)
		cpu_serialize(v);
	return OP_END;
}

int op_clts(struct vcpu *v, const struct insn *i)
{
	int r = require_cpl0(v);

	if (r)
		return r;
	v->cr0 &= ~CR0_TS;
	cpu_mode_update(v);
	return OP_END;
}

/* PE MP EM TS; PE can be set this way and not cleared. */
int op_lmsw(struct vcpu *v, const struct insn *i)
{
	u16 msw;
	int r = require_cpl0(v);

	if (r)
		return r;
	if (i->flags & INSN_MEM)
		r = cpu_read_mem(v, i, &msw, 2);
	else
		msw = (u16)v->gpr[insn_rm(i)];
	if (!r)
		r = cpu_set_cr0(v, (v->cr0 & ~0xeull) | (msw & 0xf));
	return r ? r : OP_END;
}

int op_smsw(struct vcpu *v, const struct insn *i)
{
	int r;

	if (v->cpl && (v->cr4 & CR4_UMIP))
		return RAISE_GP0(v);
	if (!(i->flags & INSN_MEM)) {
		gpr_set(v, insn_rm(i), i->osz, v->cr0);
		return OP_NEXT;
	}
	r = cpu_write_mem(v, i, &v->cr0, 2);
	return r ? r : op_done(v);
}

/* ---- debug registers ------------------------------------------------------------------------------------- */

#define DR7_WRITABLE 0xffff2bffull

/* DR4 and DR5 are DR6 and DR7 while CR4.DE = 0; an access with GD set is a fault of its own. */
static int dr_access(struct vcpu *v, const struct insn *i, unsigned int *n)
{
	*n = insn_reg(i);
	if (*n > 7 || ((*n == 4 || *n == 5) && (v->cr4 & CR4_DE)))
		return RAISE_UD(v);
	if (*n == 4 || *n == 5)
		*n += 2;
	if (v->cpl)
		return RAISE_GP0(v);
	return debug_dr7(v) & DR7_GD ? cpu_raise_db(v, DR6_BD) : 0;
}

int op_mov_from_dr(struct vcpu *v, const struct insn *i)
{
	unsigned int n;
	int r = dr_access(v, i, &n);

	if (r)
		return r;
	gpr_set(v, insn_rm(i), cr_size(v), n < 4 ? v->dr[n] : n == 6 ? v->dr6 : v->dr7);
	return OP_NEXT;
}

u64 dr6_image(const struct vcpu *v, u64 val)
{
	u64 writable = DR6_TRAP_BITS | DR6_BD | DR6_BS | DR6_BT;

	if (cpu_has(v, FEAT_BUS_LOCK_DETECT))
		writable |= DR6_BLD;
	return (val & writable) | (DR6_RESET & ~writable);
}

u64 dr7_image(u64 val)
{
	return (val & DR7_WRITABLE) | DR7_RESET;
}

int op_mov_to_dr(struct vcpu *v, const struct insn *i)
{
	u64 val = gpr_get(v, insn_rm(i), cr_size(v));
	unsigned int n;
	int r = dr_access(v, i, &n);

	if (r)
		return r;
	if (n >= 6 && val >> 32)
		return RAISE_GP0(v);
	if (n < 4)
		v->dr[n] = val;
	else if (n == 6)
		v->dr6 = dr6_image(v, val);
	else
		v->dr7 = dr7_image(val);
	debug_update(v);
	return OP_END;
}
