/* SPDX-License-Identifier: MIT */
/*
 * Vector instructions whose memory operand is not one piece: gathers and masked moves. Elements that
 * are masked off are not accessed and cannot fault, so each element goes through the access functions.
 *
 * They work on the XSAVE image; the next vector instruction loads it again. Records: rec.reg is the
 * data register, rec.rm is VEX.vvvv (the mask; for the legacy forms the ModRM register), rec.osz the
 * vector length in bytes, rec.index the VSIB register.
 */
#include "cpu/op/op.h"

#include <string.h>

#include "cpu/fpu.h"
#include "cpu/op/operand.h"

struct vec {
	u8 b[32];
};

static int vector_begin(struct vcpu *v, const struct insn *i)
{
	int r = cpu_fp_check(v, i);

	if (r == OP_NEXT)
		cpu_fp_spill(v);
	return r;
}

/* The image says of a component in its initial state that it holds zeros, not what the bytes are. */
static void vec_get(const struct vcpu *v, unsigned int n, struct vec *x)
{
	u64 bv = xs_get64(v->xsave, XSAVE_XSTATE_BV);

	memset(x, 0, sizeof(*x));
	if (bv & XFEATURE_SSE)
		memcpy(x->b, v->xsave + XSAVE_XMM + 16 * n, 16);
	if (bv & XFEATURE_AVX)
		memcpy(x->b + 16, v->xsave + fpu_component(2)->offset + 16 * n, 16);
}

static void materialize(struct vcpu *v, u64 bit, u8 *area, size_t len)
{
	u64 bv = xs_get64(v->xsave, XSAVE_XSTATE_BV);

	if (bv & bit)
		return;
	memset(area, 0, len);
	xs_put64(v->xsave, XSAVE_XSTATE_BV, bv | bit);
}

/* VEX forms always write the whole register. */
static void vec_set(struct vcpu *v, unsigned int n, const struct vec *x)
{
	u8 *high = v->xsave + fpu_component(2)->offset;

	materialize(v, XFEATURE_SSE, v->xsave + XSAVE_XMM, 256);
	materialize(v, XFEATURE_AVX, high, 256);
	memcpy(v->xsave + XSAVE_XMM + 16 * n, x->b, 16);
	memcpy(high + 16 * n, x->b + 16, 16);
}

static bool sign_set(const struct vec *x, unsigned int k, unsigned int size)
{
	return x->b[k * size + size - 1] & 0x80;
}

/* ---- gathers ------------------------------------------------------------------------------------- */

struct gather {
	u8 index_size, size;
};

static struct gather gather_kind(const struct insn *i)
{
	switch (i->id) {
	case INSN_VGATHERDPS:
	case INSN_VPGATHERDD:
		return (struct gather){ 4, 4 };
	case INSN_VGATHERDPD:
	case INSN_VPGATHERDQ:
		return (struct gather){ 4, 8 };
	case INSN_VGATHERQPS:
	case INSN_VPGATHERQD:
		return (struct gather){ 8, 4 };
	default:
		return (struct gather){ 8, 8 };
	}
}

static u64 gather_address(const struct vcpu *v, const struct insn *i, const struct vec *index,
			  unsigned int k, unsigned int size)
{
	struct insn flat = *i;
	s64 off;
	u64 ea;

	flat.index = GPR_NONE;
	if (size == 4) {
		s32 x;

		memcpy(&x, index->b + 4 * k, 4);
		off = x;
	} else {
		memcpy(&off, index->b + 8 * k, 8);
	}
	ea = cpu_ea(v, &flat) + ((u64)off << insn_scale(i));
	return insn_asz(i) == 4 ? (u32)ea : ea;
}

/*
 * Elements are fetched in order; a fault leaves the ones before it done, with their mask bits clear, so
 * that the instruction can be run again. [SDM2C "VGATHERDPS/VGATHERDPD"]
 */
int op_vgather(struct vcpu *v, const struct insn *i)
{
	struct gather g = gather_kind(i);
	unsigned int wider = g.index_size > g.size ? g.index_size : g.size;
	unsigned int n = i->osz / wider;
	struct vec dst, mask, index;
	int r = vector_begin(v, i);

	if (r != OP_NEXT)
		return r;
	if (insn_reg(i) == i->index || insn_reg(i) == insn_rm(i) || insn_rm(i) == i->index)
		return RAISE_UD(v);
	vec_get(v, insn_reg(i), &dst);
	vec_get(v, insn_rm(i), &mask);
	vec_get(v, i->index, &index);
	for (unsigned int k = 0; k < n && r == OP_NEXT; k++) {
		if (sign_set(&mask, k, g.size))
			r = cpu_read(v, insn_seg(i), gather_address(v, i, &index, k, g.index_size),
				     dst.b + k * g.size, g.size);
		if (r == OP_NEXT)
			memset(mask.b + k * g.size, 0, g.size);
	}
	if (r == OP_NEXT) {
		memset(dst.b + n * g.size, 0, sizeof(dst) - n * g.size);
		memset(&mask, 0, sizeof(mask));
	}
	vec_set(v, insn_reg(i), &dst);
	vec_set(v, insn_rm(i), &mask);
	return r;
}

/* ---- masked moves --------------------------------------------------------------------------------- */

static int masked_load(struct vcpu *v, const struct insn *i, unsigned int size)
{
	struct vec dst, mask;
	u64 ea = cpu_ea(v, i);

	memset(&dst, 0, sizeof(dst));
	vec_get(v, insn_rm(i), &mask);
	for (unsigned int k = 0; k < i->osz / size; k++) {
		int r;

		if (!sign_set(&mask, k, size))
			continue;
		r = cpu_read(v, insn_seg(i), ea + k * size, dst.b + k * size, size);
		if (r)
			return r;
	}
	vec_set(v, insn_reg(i), &dst);
	return OP_NEXT;
}

/* Write the elements of src whose mask bit is set: all of them can be written, or none is. */
static int store_elements(struct vcpu *v, const struct insn *i, u64 ea, const struct vec *src,
			  const struct vec *mask, unsigned int size, unsigned int n)
{
	u64 wrap = insn_asz(i) == 8 ? ~0ull : insn_asz(i) == 4 ? 0xffffffff : 0xffff;
	int r = OP_NEXT;

	for (unsigned int k = 0; k < n && !r; k++)
		if (sign_set(mask, k, size))
			r = cpu_probe_write(v, insn_seg(i), (ea + k * size) & wrap, size);
	for (unsigned int k = 0; k < n && !r; k++)
		if (sign_set(mask, k, size))
			r = cpu_write(v, insn_seg(i), (ea + k * size) & wrap, src->b + k * size, size);
	if (r)
		return r;
	return op_done(v);
}

static int masked_move(struct vcpu *v, const struct insn *i, unsigned int size, bool store)
{
	struct vec src, mask;
	int r = vector_begin(v, i);

	if (r != OP_NEXT)
		return r;
	if (!store)
		return masked_load(v, i, size);
	vec_get(v, insn_reg(i), &src);
	vec_get(v, insn_rm(i), &mask);
	return store_elements(v, i, cpu_ea(v, i), &src, &mask, size, i->osz / size);
}

/* rec.imm is the opcode: 2C, 2D load, 2E, 2F store; the odd ones are double precision. */
int op_vmaskmov(struct vcpu *v, const struct insn *i)
{
	return masked_move(v, i, i->imm & 1 ? 8 : 4, i->imm & 2);
}

/* 8C load, 8E store. */
int op_vpmaskmov(struct vcpu *v, const struct insn *i)
{
	return masked_move(v, i, i->id == INSN_VPMASKMOVQ ? 8 : 4, i->imm & 2);
}

static u64 string_address(const struct vcpu *v, const struct insn *i)
{
	u64 ea = v->gpr[GPR_RDI];

	return insn_asz(i) == 8 ? ea : insn_asz(i) == 4 ? (u32)ea : (u16)ea;
}

int op_maskmovdqu(struct vcpu *v, const struct insn *i)
{
	struct vec src, mask;
	int r = vector_begin(v, i);

	if (r != OP_NEXT)
		return r;
	vec_get(v, insn_reg(i), &src);
	vec_get(v, insn_rm(i), &mask);
	return store_elements(v, i, string_address(v, i), &src, &mask, 1, 16);
}

/*
 * Entering MMX state: TOP becomes 0 and all registers valid. The image lists registers from the top of
 * the stack, so they turn with it. [SDM1 "Effect of MMX, x87 FPU, FXSAVE, and FXRSTOR Instructions"]
 */
static void enter_mmx(struct vcpu *v)
{
	u8 *x = v->xsave;
	u8 old[128];
	u16 fsw = xs_get16(x, XSAVE_FSW);
	unsigned int top = fsw >> 11 & 7;

	memcpy(old, x + XSAVE_ST, sizeof(old));
	for (unsigned int k = 0; k < 8; k++)
		memcpy(x + XSAVE_ST + 16 * k, old + 16 * ((k - top) & 7), 16);
	xs_put16(x, XSAVE_FSW, (u16)(fsw & ~0x3800u));
	x[XSAVE_FTW] = 0xff;
}

static void materialize_x87(struct vcpu *v)
{
	u8 *x = v->xsave;

	if (xs_get64(x, XSAVE_XSTATE_BV) & XFEATURE_X87)
		return;
	memset(x, 0, 24);
	materialize(v, XFEATURE_X87, x + XSAVE_ST, 128);
	xs_put16(x, XSAVE_FCW, 0x37f);
}

int op_maskmovq(struct vcpu *v, const struct insn *i)
{
	struct vec src, mask;
	unsigned int top;
	int r = vector_begin(v, i);

	if (r != OP_NEXT)
		return r;
	materialize_x87(v);
	if (xs_get16(v->xsave, XSAVE_FSW) & ~xs_get16(v->xsave, XSAVE_FCW) & 0x3f)
		return cpu_raise(v, EXC_MF);
	top = xs_get16(v->xsave, XSAVE_FSW) >> 11 & 7;
	memcpy(src.b, v->xsave + XSAVE_ST + 16 * ((insn_reg(i) - top) & 7), 8);
	memcpy(mask.b, v->xsave + XSAVE_ST + 16 * ((insn_rm(i) - top) & 7), 8);
	r = store_elements(v, i, string_address(v, i), &src, &mask, 1, 8);
	if (r == OP_NEXT || r == OP_END)
		enter_mmx(v);
	return r;
}
