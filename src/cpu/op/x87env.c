/* SPDX-License-Identifier: MIT */
/*
 * x87 environments: FNSTENV, FLDENV, FNSAVE, FRSTOR in their four layouts
 * [SDM1 "x87 FPU Control and Status Instructions"].
 *
 * The layouts differ only in how instruction and operand pointers are packed, and those are zero here
 * (see xsave.c), so the operand size alone tells them apart.
 */
#include "cpu/op/xstate.h"

#include <string.h>

#include "cpu/op/op.h"

#define FSW_ES 0x80u

struct x87 {
	u16 fcw, fsw, ftw; /* ftw: the full two-bit tags */
};

static u16 get_u16(const u8 *p)
{
	u16 val;

	memcpy(&val, p, 2);
	return val;
}

static void put_u16(u8 *p, u16 val)
{
	memcpy(p, &val, 2);
}

/* Tag of one register by its contents: 0 valid, 1 zero, 2 special. */
static unsigned int tag_of(const u8 *st)
{
	unsigned int exp = get_u16(st + 8) & 0x7fff;
	u64 mantissa;

	memcpy(&mantissa, st, 8);
	if (!exp && !mantissa)
		return 1;
	return exp && exp != 0x7fff && (mantissa >> 63) ? 0 : 2;
}

static struct x87 read_x87(const u8 *area)
{
	struct x87 x = { .fcw = get_u16(area), .fsw = get_u16(area + 2) };
	unsigned int top = (x.fsw >> 11) & 7;

	for (unsigned int phys = 0; phys < 8; phys++) {
		const u8 *st = area + XSAVE_ST + 16 * ((phys - top) & 7);
		unsigned int tag = area[4] & (1u << phys) ? tag_of(st) : 3;

		x.ftw |= (u16)(tag << (2 * phys));
	}
	return x;
}

static void write_x87(u8 *area, const struct x87 *x)
{
	put_u16(area, x->fcw);
	put_u16(area + 2, x->fsw);
	area[4] = 0;
	for (unsigned int phys = 0; phys < 8; phys++) {
		if (((x->ftw >> (2 * phys)) & 3) != 3)
			area[4] |= (u8)(1u << phys);
	}
}

static unsigned int env_bytes(const struct insn *i)
{
	return i->osz == 2 ? 14 : 28;
}

static void pack_env(u8 *env, const struct insn *i, const struct x87 *x)
{
	unsigned int step = i->osz == 2 ? 2 : 4;

	memset(env, 0, env_bytes(i));
	put_u16(env, x->fcw);
	put_u16(env + step, x->fsw);
	put_u16(env + 2 * step, x->ftw);
	if (step == 4) { /* reserved upper halves read as ones */
		put_u16(env + 2, 0xffff);
		put_u16(env + 6, 0xffff);
		put_u16(env + 10, 0xffff);
		put_u16(env + 26, 0xffff);
	}
}

static struct x87 unpack_env(const u8 *env, const struct insn *i)
{
	unsigned int step = i->osz == 2 ? 2 : 4;

	return (struct x87){ get_u16(env), get_u16(env + step), get_u16(env + 2 * step) };
}

static void init_x87(u8 *area)
{
	memset(area + XSAVE_ST, 0, 128);
	write_x87(area, &(struct x87){ 0x37f, 0, 0xffff });
}

int op_fnstenv(struct vcpu *v, const struct insn *i)
{
	u8 env[28], *area;
	struct x87 x;
	int res;

	if (v->cr0 & (CR0_EM | CR0_TS))
		return cpu_raise(v, EXC_NM);
	area = xstate_spill(v);
	x = read_x87(area);
	pack_env(env, i, &x);
	res = cpu_write_mem(v, i, env, env_bytes(i));
	if (res)
		return res;
	put_u16(area, x.fcw | 0x3f); /* all exceptions masked after the store */
	return OP_NEXT;
}

int op_fnsave(struct vcpu *v, const struct insn *i)
{
	u8 image[108], *area;
	unsigned int n = env_bytes(i);
	u64 ea = cpu_ea(v, i);
	struct x87 x;
	int res;

	if (v->cr0 & (CR0_EM | CR0_TS))
		return cpu_raise(v, EXC_NM);
	area = xstate_spill(v);
	x = read_x87(area);
	pack_env(image, i, &x);
	for (unsigned int k = 0; k < 8; k++)
		memcpy(image + n + 10 * k, area + XSAVE_ST + 16 * k, 10);
	res = cpu_probe_write(v, insn_seg(i), ea, 64);
	if (!res)
		res = cpu_probe_write(v, insn_seg(i), ea + 64, n + 80 - 64);
	if (!res)
		res = xstate_copy_out(v, insn_seg(i), ea, image, n + 80);
	if (!res)
		init_x87(area);
	return res;
}

/* FLDENV and FRSTOR wait for pending exceptions first. */
static int check_pending(struct vcpu *v, const u8 *area)
{
	return get_u16(area + 2) & FSW_ES ? cpu_raise(v, EXC_MF) : OP_NEXT;
}

/* ES and B follow from the exceptions loaded and the masks loaded with them. */
static void load_env(u8 *area, const u8 *env, const struct insn *i)
{
	struct x87 x = unpack_env(env, i);

	x.fsw &= 0x7f7f;
	if (x.fsw & ~x.fcw & 0x3f)
		x.fsw |= 0x8080;
	x.fcw = (x.fcw & 0x1f3f) | 0x40;
	write_x87(area, &x);
}

int op_fldenv(struct vcpu *v, const struct insn *i)
{
	u8 env[28], *area;
	int res;

	if (v->cr0 & (CR0_EM | CR0_TS))
		return cpu_raise(v, EXC_NM);
	area = xstate_spill(v);
	res = check_pending(v, area);
	if (!res)
		res = cpu_read_mem(v, i, env, env_bytes(i));
	if (!res)
		load_env(area, env, i);
	return res;
}

int op_frstor(struct vcpu *v, const struct insn *i)
{
	u8 image[108], *area;
	unsigned int n = env_bytes(i);
	int res;

	if (v->cr0 & (CR0_EM | CR0_TS))
		return cpu_raise(v, EXC_NM);
	area = xstate_spill(v);
	res = check_pending(v, area);
	if (!res)
		res = xstate_copy_in(v, insn_seg(i), cpu_ea(v, i), image, n + 80);
	if (res)
		return res;
	load_env(area, image, i);
	memset(area + XSAVE_ST, 0, 128);
	for (unsigned int k = 0; k < 8; k++)
		memcpy(area + XSAVE_ST + 16 * k, image + n + 10 * k, 10);
	return OP_NEXT;
}
