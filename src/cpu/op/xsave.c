/* SPDX-License-Identifier: MIT */
/*
 * The XSAVE family and FXSAVE in C [SDM1 "Managing State Using the XSAVE Feature Set"].
 *
 * vcpu.xsave is the state in the host's standard format; every handler spills into it first. FIP, FDP
 * and FOP in it are the host's and never shown: images carry zeros, as after an exception-free run on
 * processors that save these fields only with an exception pending.
 */
#include "cpu/op/xstate.h"

#include <string.h>

#include "cpu/fpu.h"
#include "cpu/op/op.h"

static const struct {
	u16 off, size;
	bool align;
} component[] = {
	[2] = { 576, 256, false },
};

#define COMPONENTS ARRAY_SIZE(component)

/* n is a multiple of 8. */
static bool all_zero(const u8 *p, unsigned int n)
{
	u64 any = 0, x;

	for (unsigned int k = 0; k < n; k += 8) {
		memcpy(&x, p + k, 8);
		any |= x;
	}
	return !any;
}

static void init_x87(u8 *area)
{
	memset(area, 0, 24);
	memset(area + 32, 0, 128);
	area[0] = 0x7f;
	area[1] = 0x03;
}

static void put_u32(u8 *p, u32 val)
{
	memcpy(p, &val, 4);
}

static u32 get_u32(const u8 *p)
{
	u32 val;

	memcpy(&val, p, 4);
	return val;
}

u8 *xstate_spill(struct vcpu *v)
{
	u8 *area = v->xsave;
	u64 bv;

	cpu_fp_spill(v);
	memcpy(&bv, area + XSAVE_BV, 8);
	if (!(bv & XFEATURE_X87))
		init_x87(area);
	if (!(bv & XFEATURE_SSE))
		memset(area + XSAVE_XMM, 0, XSAVE_XMM_BYTES);
	for (unsigned int c = 2; c < COMPONENTS; c++) {
		if (component[c].size && !(bv & BIT(c)))
			memset(area + component[c].off, 0, component[c].size);
	}
	memset(area + 6, 0, 18); /* FOP, FIP, FDP */
	bv = fpu_xfeatures() & (XFEATURE_X87 | XFEATURE_SSE | XFEATURE_AVX);
	memcpy(area + XSAVE_BV, &bv, 8);
	memset(area + XSAVE_BV + 8, 0, 8);
	put_u32(area + XSAVE_MXCSR + 4, MXCSR_MASK);
	return area;
}

/* Which components are not in their initial configuration. */
static u64 in_use(const u8 *area)
{
	u64 use = 0;

	if (get_u32(area) != 0x37f || area[4] || !all_zero(area + 32, 128))
		use |= XFEATURE_X87;
	if (!all_zero(area + XSAVE_XMM, XSAVE_XMM_BYTES) || get_u32(area + XSAVE_MXCSR) != 0x1f80)
		use |= XFEATURE_SSE;
	for (unsigned int c = 2; c < COMPONENTS; c++) {
		if (component[c].size && !all_zero(area + component[c].off, component[c].size))
			use |= BIT(c);
	}
	return use;
}

/* ---- memory images ------------------------------------------------------------------------------ */

/* Host address of n bytes in one page that the first-level TLB knows, else NULL. */
static u8 *known(struct vcpu *v, enum seg seg, u64 ea, unsigned int n, u32 acc)
{
	unsigned int len = n;
	gva_t la;
	u8 *p;

	if (seg_linear(v, seg, ea, n, acc, &la)) {
		v->exc.valid = false;
		return NULL;
	}
	p = lin_fast(v, la, &len, acc);
	return len == n ? p : NULL;
}

/*
 * Pieces of at most 64 bytes, so that none crosses a page when the image is aligned. The first makes its page known,
 * and what is left often lies in it.
 */
int xstate_copy_out(struct vcpu *v, enum seg seg, u64 ea, const u8 *src, unsigned int n)
{
	int res = OP_NEXT;

	for (unsigned int k = 0; k < n && !res; k += 64) {
		u8 *p = known(v, seg, ea + k, n - k, ACC_W);

		if (p && !mem_copy_guarded(p, src + k, n - k))
			return OP_NEXT;
		res = cpu_write(v, seg, ea + k, src + k, n - k < 64 ? n - k : 64);
	}
	return res;
}

int xstate_copy_in(struct vcpu *v, enum seg seg, u64 ea, u8 *dst, unsigned int n)
{
	int res = OP_NEXT;

	for (unsigned int k = 0; k < n && !res; k += 64) {
		const u8 *p = known(v, seg, ea + k, n - k, ACC_R);

		if (p && !mem_copy_guarded(dst + k, p, n - k))
			return OP_NEXT;
		res = cpu_read(v, seg, ea + k, dst + k, n - k < 64 ? n - k : 64);
	}
	return res;
}

static int probe(struct vcpu *v, enum seg seg, u64 ea, unsigned int n)
{
	int res = OP_NEXT;

	for (unsigned int k = 0; k < n && !res; k += 64) {
		if (known(v, seg, ea + k, n - k, ACC_W))
			return OP_NEXT;
		res = cpu_probe_write(v, seg, ea + k, n - k < 64 ? n - k : 64);
	}
	return res;
}

/* Linear alignment of an image. */
static bool misaligned(const struct vcpu *v, const struct insn *i, u64 ea, unsigned int to)
{
	return (v->seg[insn_seg(i)].base + ea) & (to - 1);
}

/* ---- FXSAVE, FXRSTOR ------------------------------------------------------------------------------ */

static unsigned int xmm_count(const struct vcpu *v)
{
	return cpu_code64(v) ? 16 : 8;
}

int op_fxsave(struct vcpu *v, const struct insn *i)
{
	u64 ea = cpu_ea(v, i);
	unsigned int n = XSAVE_XMM + 16 * xmm_count(v);
	u8 *area;
	int res;

	if (v->cr0 & (CR0_EM | CR0_TS))
		return cpu_raise(v, EXC_NM);
	if (misaligned(v, i, ea, 16))
		return RAISE_GP0(v);
	area = xstate_spill(v);
	res = probe(v, insn_seg(i), ea, 512);
	return res ? res : xstate_copy_out(v, insn_seg(i), ea, area, n);
}

int op_fxrstor(struct vcpu *v, const struct insn *i)
{
	u8 image[512] __attribute__((aligned(64)));
	u64 ea = cpu_ea(v, i);
	u8 *area;
	int res;

	if (v->cr0 & (CR0_EM | CR0_TS))
		return cpu_raise(v, EXC_NM);
	if (misaligned(v, i, ea, 16))
		return RAISE_GP0(v);
	res = xstate_copy_in(v, insn_seg(i), ea, image, 512);
	if (res)
		return res;
	if (get_u32(image + XSAVE_MXCSR) & ~MXCSR_MASK)
		return RAISE_GP0(v);
	area = xstate_spill(v);
	memcpy(area, image, 28);
	memcpy(area + 32, image + 32, XSAVE_XMM - 32 + 16 * xmm_count(v));
	return OP_NEXT;
}

/* ---- XSAVE and its variants ------------------------------------------------------------------------ */

/* #UD, #NM, #GP common to the family. OP_NEXT to go on. */
static int check_family(struct vcpu *v, const struct insn *i, u64 ea, bool supervisor)
{
	if (!(v->cr4 & CR4_OSXSAVE))
		return RAISE_UD(v);
	if (v->cr0 & CR0_TS)
		return cpu_raise(v, EXC_NM);
	if (supervisor && v->cpl)
		return RAISE_GP0(v);
	if (misaligned(v, i, ea, 64))
		return RAISE_GP0(v);
	return OP_NEXT;
}

static u64 requested(const struct vcpu *v, bool supervisor)
{
	u64 mask = (u32)v->gpr[GPR_RAX] | v->gpr[GPR_RDX] << 32;

	return mask & (v->xcr0 | (supervisor ? v->xss : 0));
}

/* Place of component c in an image of the given form; 0 when it has none. */
static unsigned int place(u64 compact_mask, unsigned int c)
{
	unsigned int off = 576;

	if (!compact_mask)
		return component[c].off;
	for (unsigned int k = 2; k < c; k++) {
		if (!(compact_mask & BIT(k)) || !component[k].size)
			continue;
		if (component[k].align)
			off = (off + 63) & ~63u;
		off += component[k].size;
	}
	return component[c].align ? (off + 63) & ~63u : off;
}

static unsigned int image_size(u64 compact_mask, u64 rfbm)
{
	unsigned int end = 576;

	for (unsigned int c = 2; c < COMPONENTS; c++) {
		if ((rfbm & BIT(c)) && component[c].size && place(compact_mask, c) + component[c].size > end)
			end = place(compact_mask, c) + component[c].size;
	}
	return end;
}

static int save_legacy(struct vcpu *v, enum seg seg, u64 ea, const u8 *area, u64 rfbm, u64 write)
{
	int res = OP_NEXT;

	if (write & XFEATURE_X87) {
		res = xstate_copy_out(v, seg, ea, area, 24);
		if (!res)
			res = xstate_copy_out(v, seg, ea + 32, area + 32, 32);
		if (!res)
			res = xstate_copy_out(v, seg, ea + 64, area + 64, 96);
	}
	if (!res && (rfbm & (XFEATURE_SSE | XFEATURE_AVX)))
		res = cpu_write(v, seg, ea + XSAVE_MXCSR, area + XSAVE_MXCSR, 8);
	if (!res && (write & XFEATURE_SSE))
		res = xstate_copy_out(v, seg, ea + XSAVE_XMM, area + XSAVE_XMM, 16 * xmm_count(v));
	return res;
}

enum xsave_form { XSAVE_PLAIN, XSAVE_OPT, XSAVE_COMPACT };

static int save(struct vcpu *v, const struct insn *i, enum xsave_form form, bool supervisor)
{
	u64 ea = cpu_ea(v, i);
	enum seg seg = insn_seg(i);
	int res = check_family(v, i, ea, supervisor);
	u64 rfbm = requested(v, supervisor);
	u64 compact = form == XSAVE_COMPACT ? rfbm | BIT(63) : 0;
	u64 header[2] = { 0, compact };
	u64 use, write;
	u8 *area;

	if (res)
		return res;
	area = xstate_spill(v);
	use = in_use(area) & rfbm;
	write = form == XSAVE_PLAIN ? rfbm : use;
	if (form != XSAVE_COMPACT)
		res = cpu_read(v, seg, ea + XSAVE_BV, header, 8);
	if (!res)
		res = probe(v, seg, ea, image_size(compact, rfbm));
	if (res)
		return res;
	header[0] = form == XSAVE_COMPACT ? use : (header[0] & ~rfbm) | use;
	res = save_legacy(v, seg, ea, area, form == XSAVE_PLAIN ? rfbm : use, write);
	for (unsigned int c = 2; c < COMPONENTS && !res; c++) {
		if ((write & BIT(c)) && component[c].size)
			res = xstate_copy_out(v, seg, ea + place(compact, c), area + component[c].off,
					      component[c].size);
	}
	if (!res)
		res = cpu_write(v, seg, ea + XSAVE_BV, header, form == XSAVE_COMPACT ? 16 : 8);
	return res;
}

int op_xsave(struct vcpu *v, const struct insn *i)
{
	return save(v, i, XSAVE_PLAIN, false);
}

int op_xsaveopt(struct vcpu *v, const struct insn *i)
{
	return save(v, i, XSAVE_OPT, false);
}

int op_xsavec(struct vcpu *v, const struct insn *i)
{
	return save(v, i, XSAVE_COMPACT, false);
}

int op_xsaves(struct vcpu *v, const struct insn *i)
{
	return save(v, i, XSAVE_COMPACT, true);
}

/* [SDM1 "Operation of XRSTOR"] Is the header one that may be restored from? */
static bool header_valid(const struct vcpu *v, const u64 *h, bool supervisor)
{
	u64 allowed = v->xcr0 | (supervisor ? v->xss : 0);

	for (unsigned int k = 2; k < 8; k++) {
		if (h[k])
			return false;
	}
	if (h[1] & BIT(63)) {
		if (!supervisor && !cpu_has(v, FEAT_XSAVEC))
			return false;
		return !(h[1] & ~BIT(63) & ~allowed) && !(h[0] & ~h[1]);
	}
	return !supervisor && !h[1] && !(h[0] & ~v->xcr0);
}

static void restore_legacy(const struct vcpu *v, u8 *area, const u8 *image, u64 rfbm, u64 bv)
{
	if ((rfbm & XFEATURE_X87) && !(bv & XFEATURE_X87))
		init_x87(area);
	if (rfbm & bv & XFEATURE_X87) {
		memcpy(area, image, 24);
		memcpy(area + 32, image + 32, 128);
	}
	if ((rfbm & XFEATURE_SSE) && !(bv & XFEATURE_SSE))
		memset(area + XSAVE_XMM, 0, 16 * xmm_count(v));
	if (rfbm & bv & XFEATURE_SSE)
		memcpy(area + XSAVE_XMM, image + XSAVE_XMM, 16 * xmm_count(v));
}

/* MXCSR follows its own rule [SDM1 "Operation of XRSTOR"]; false = #GP. */
static bool restore_mxcsr(u8 *area, const u8 *image, u64 rfbm, u64 bv, bool compact)
{
	u32 mxcsr = 0x1f80;

	if (compact ? !(rfbm & XFEATURE_SSE) : !(rfbm & (XFEATURE_SSE | XFEATURE_AVX)))
		return true;
	if (!compact || (bv & XFEATURE_SSE))
		mxcsr = get_u32(image + XSAVE_MXCSR);
	if (mxcsr & ~MXCSR_MASK)
		return false;
	put_u32(area + XSAVE_MXCSR, mxcsr);
	return true;
}

static int restore(struct vcpu *v, const struct insn *i, bool supervisor)
{
	u8 image[XSAVE_IMAGE_MAX] __attribute__((aligned(64)));
	u64 ea = cpu_ea(v, i);
	int res = check_family(v, i, ea, supervisor);
	u64 rfbm = requested(v, supervisor);
	u64 h[8], compact;
	u8 *area;

	if (!res)
		res = xstate_copy_in(v, insn_seg(i), ea, image, 576);
	if (res)
		return res;
	memcpy(h, image + XSAVE_BV, sizeof(h));
	if (!header_valid(v, h, supervisor))
		return RAISE_GP0(v);
	compact = h[1] & BIT(63) ? h[1] : 0;
	res = xstate_copy_in(v, insn_seg(i), ea + 576, image + 576,
			     image_size(compact, compact ? h[1] & ~BIT(63) : rfbm & h[0]) - 576);
	if (res)
		return res;
	area = xstate_spill(v);
	if (!restore_mxcsr(area, image, rfbm, h[0], compact))
		return RAISE_GP0(v);
	restore_legacy(v, area, image, rfbm, h[0]);
	for (unsigned int c = 2; c < COMPONENTS; c++) {
		if (!(rfbm & BIT(c)) || !component[c].size)
			continue;
		if (h[0] & BIT(c))
			memcpy(area + component[c].off, image + place(compact, c), component[c].size);
		else
			memset(area + component[c].off, 0, component[c].size);
	}
	return OP_NEXT;
}

int op_xrstor(struct vcpu *v, const struct insn *i)
{
	return restore(v, i, false);
}

int op_xrstors(struct vcpu *v, const struct insn *i)
{
	return restore(v, i, true);
}
