/* SPDX-License-Identifier: MIT */
/*
 * Guest vector state between the XSAVE area and the host's own registers.
 *
 * The host's control words (MXCSR, x87 control word) belong to the caller of KVM_RUN and are put back at
 * every spill; vector registers are caller-saved and need not be.
 */
#include "cpu/fpu.h"

#include "cpu/native.h"
#include "cpu/op/op.h"

static u64 host_mask;
static struct xcomponent components[64];

static inline void host_cpuid(u32 leaf, u32 sub, u32 r[4])
{
	asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

__attribute__((constructor)) static void fpu_probe_host(void)
{
	u32 r[4], lo, hi;

	host_cpuid(1, 0, r);
	if (!(r[2] & BIT(27)))
		return;
	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	host_mask = lo & (XFEATURE_X87 | XFEATURE_SSE | XFEATURE_AVX | XFEATURE_PKRU);
	components[0] = (struct xcomponent){ .offset = 0, .size = 160 };
	components[1] = (struct xcomponent){ .offset = XSAVE_XMM, .size = 256 };
	for (u32 n = 2; n < 64; n++) {
		if (!(host_mask >> n & 1))
			continue;
		host_cpuid(0xd, n, r);
		components[n] = (struct xcomponent){ .size = r[0], .offset = r[1], .align64 = r[2] & 2 };
	}
}

u64 fpu_xfeatures(void)
{
	return host_mask;
}

const struct xcomponent *fpu_component(unsigned int n)
{
	return &components[n];
}

u32 fpu_area_size(u64 xfeatures, bool compacted)
{
	u32 size = XSAVE_EXTENDED;

	for (unsigned int n = 2; n < 63; n++) {
		const struct xcomponent *c = &components[n];

		if (!(xfeatures >> n & 1) || !c->size)
			continue;
		if (compacted)
			size = (c->align64 ? (size + 63) & ~63u : size) + c->size;
		else if (c->offset + c->size > size)
			size = c->offset + c->size;
	}
	return size;
}

/* ---- load and spill -------------------------------------------------------------------------------------
 *
 * XSAVE and XRSTOR of the x87 state are slow, and 64-bit code hardly has any: it stays in memory until the first
 * instruction that touches it. The sixteen vector registers go by ordinary moves.
 */

/* Sanitizers' run-time functions use the very registers that are being moved: none may be called on the way. */
#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))

/* PKRU is not the host's business: the guest's lives in vcpu.pkru. */
NO_SANITIZE static inline u64 register_mask(void)
{
	return host_mask & ~XFEATURE_PKRU;
}

/* Can vector registers be moved alone? */
NO_SANITIZE static inline bool has_moves(void)
{
	return (host_mask & XFEATURE_AVX) && components[2].offset == XSAVE_EXTENDED;
}

/* Stricter than the checks of a single instruction may be: the rest ask cpu_fp_need(). */
NO_SANITIZE static u8 live_bits(const struct vcpu *v, u8 x87)
{
	u8 live = FP_LIVE | x87;

	if (v->cr0 & (CR0_TS | CR0_EM))
		return live;
	if (x87)
		live |= FP_LIVE_X87;
	if (v->cr4 & CR4_OSFXSR)
		live |= x87 ? FP_LIVE_SSE | FP_LIVE_MIXED : FP_LIVE_SSE;
	if ((v->cr4 & CR4_OSXSAVE) && (v->xcr0 & 6) == 6)
		live |= FP_LIVE_AVX;
	return live;
}

void cpu_fp_recheck(struct vcpu *v)
{
	if (v->fp_live)
		v->fp_live = live_bits(v, v->fp_live & FP_HAS_X87);
}

#define EACH_VECTOR(op)                                                                                           \
	op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define LOAD_XMM(n) "movups 160+16*" #n "(%0), %%xmm" #n "\n"
#define LOAD_YMM(n) "vmovups 160+16*" #n "(%0), %%xmm" #n "\n"                                                     \
		    "vinsertf128 $1, 576+16*" #n "(%0), %%ymm" #n ", %%ymm" #n "\n"
#define SAVE_YMM(n) "vmovups %%xmm" #n ", 160+16*" #n "(%1)\n"                                                     \
		    "vextractf128 $1, %%ymm" #n ", 576+16*" #n "(%1)\n"
#define OR_YMM(to, n) "vorps %%ymm" #n ", %%ymm" #to ", %%ymm" #to "\n"

/* XSTATE_BV; xs_get64() is sanitized. */
NO_SANITIZE static inline u64 *components_in(u8 *area)
{
	return (u64 *)__builtin_assume_aligned(area + XSAVE_XSTATE_BV, 8);
}

NO_SANITIZE static inline void load_vectors(u8 *area)
{
	u64 bv = *components_in(area) & (XFEATURE_SSE | XFEATURE_AVX);

	if (bv == (XFEATURE_SSE | XFEATURE_AVX))
		asm volatile(EACH_VECTOR(LOAD_YMM) : : "r"(area) : "memory");
	else if (bv == XFEATURE_SSE) /* upper halves known to be clear are worth something to some processors */
		asm volatile("vzeroupper\n" EACH_VECTOR(LOAD_XMM) : : "r"(area) : "memory");
	else
		asm volatile("xrstor64 %0" : : "m"(*(const u8(*)[XSAVE_AREA])area),
			     "a"((u32)(XFEATURE_SSE | XFEATURE_AVX)), "d"(0));
	asm volatile("ldmxcsr %0" : : "m"(area[XSAVE_MXCSR]));
}

NO_SANITIZE static inline void save_vectors(u8 *area)
{
	u64 *bv = components_in(area);
	bool high;

	asm volatile(EACH_VECTOR(SAVE_YMM)
		     OR_YMM(0, 1) OR_YMM(2, 3) OR_YMM(4, 5) OR_YMM(6, 7) OR_YMM(8, 9) OR_YMM(10, 11)
		     OR_YMM(12, 13) OR_YMM(14, 15) OR_YMM(0, 2) OR_YMM(4, 6) OR_YMM(8, 10) OR_YMM(12, 14)
		     OR_YMM(0, 4) OR_YMM(8, 12) OR_YMM(0, 8)
		     "vextractf128 $1, %%ymm0, %%xmm0\n"
		     "vptest %%xmm0, %%xmm0\n"
		     "stmxcsr 24(%1)\n"
		     "vzeroupper"
		     : "=@ccnz"(high) : "r"(area) : "memory");
	*bv = (*bv & ~XFEATURE_AVX) | XFEATURE_SSE | (high ? XFEATURE_AVX : 0);
}

NO_SANITIZE void cpu_fp_load(struct vcpu *v)
{
	u64 mask = register_mask();

	if (v->fp_live)
		return;
	asm volatile("stmxcsr %0" : "=m"(v->host_mxcsr));
	if (has_moves()) {
		load_vectors(v->xsave);
		v->fp_live = live_bits(v, 0);
		return;
	}
	asm volatile("fnstcw %0" : "=m"(v->host_fcw));
	if (mask)
		asm volatile("xrstor64 %0" : : "m"(*(const u8(*)[XSAVE_AREA])v->xsave), "a"((u32)mask),
			     "d"((u32)(mask >> 32)));
	else
		asm volatile("fxrstor64 %0" : : "m"(*(const u8(*)[512])v->xsave));
	v->fp_live = live_bits(v, FP_HAS_X87);
}

NO_SANITIZE static void load_x87(struct vcpu *v)
{
	if (v->fp_live & FP_HAS_X87)
		return;
	asm volatile("fnstcw %0" : "=m"(v->host_fcw));
	asm volatile("xrstor64 %0" : : "m"(*(const u8(*)[XSAVE_AREA])v->xsave), "a"((u32)XFEATURE_X87), "d"(0));
	v->fp_live = live_bits(v, FP_HAS_X87);
}

NO_SANITIZE void cpu_fp_reload(struct vcpu *v, u8 live)
{
	if (live)
		cpu_fp_load(v);
	if (live & FP_HAS_X87)
		load_x87(v);
}

NO_SANITIZE void cpu_fp_spill(struct vcpu *v)
{
	u64 mask = register_mask();

	if (!v->fp_live)
		return;
	if (has_moves()) {
		if (v->fp_live & FP_HAS_X87)
			asm volatile("xsave64 %0" : "+m"(*(u8(*)[XSAVE_AREA])v->xsave) : "a"((u32)XFEATURE_X87),
				     "d"(0));
		save_vectors(v->xsave);
	} else if (mask) {
		asm volatile("xsave64 %0" : "+m"(*(u8(*)[XSAVE_AREA])v->xsave) : "a"((u32)mask),
			     "d"((u32)(mask >> 32)));
	} else {
		asm volatile("fxsave64 %0" : "=m"(*(u8(*)[512])v->xsave));
	}
	if (v->fp_live & FP_HAS_X87)
		asm volatile("fninit; fldcw %0" : : "m"(v->host_fcw));
	asm volatile("ldmxcsr %0" : : "m"(v->host_mxcsr));
	v->fp_live = 0;
}

void fpu_reset(struct vcpu *v)
{
	u32 mask;

	for (unsigned int n = 0; n < XSAVE_AREA; n++)
		v->xsave[n] = 0;
	/* RESET, not FINIT: [SDM3A Table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT"] */
	xs_put16(v->xsave, XSAVE_FCW, 0x40);
	v->xsave[XSAVE_FTW] = 0xff;
	xs_put32(v->xsave, XSAVE_MXCSR, 0x1f80);
	mask = fpu_mxcsr_mask();
	xs_put32(v->xsave, XSAVE_MXCSR_MASK, mask);
	xs_put64(v->xsave, XSAVE_XSTATE_BV, host_mask & (XFEATURE_X87 | XFEATURE_SSE));
}

u32 fpu_mxcsr_mask(void)
{
	static u32 mask;
	u8 area[512] __attribute__((aligned(16))) = { 0 };

	if (!mask) {
		asm volatile("fxsave %0" : "+m"(area));
		mask = xs_get32(area, XSAVE_MXCSR_MASK);
		if (!mask)
			mask = 0xffbf;
	}
	return mask;
}

/* ---- the check before a vector instruction ------------------------------------------------------------- */

enum vec_kind { VEC_X87, VEC_WAIT, VEC_MMX, VEC_SSE, VEC_AVX };

/* No SSE or MMX mnemonic begins with F, and every VEX one begins with V. */
static enum vec_kind vec_kind(const struct insn *i)
{
	const struct insn_row *row = &insn_rows[i->id];

	if (row->name[0] == 'F')
		return row->name[1] == 'W' ? VEC_WAIT : VEC_X87;
	if (row->name[0] == 'V')
		return VEC_AVX;
	return row->form == INSN_FORM_MMX || row->feature == FEAT_MMX ? VEC_MMX : VEC_SSE;
}

/* [SDM3A Table "Action Taken By x87 FPU Instructions for Different Combinations of EM, MP and TS"],
 * [SDM3A "Providing Operating System Support for SSE Extensions"], [SDM2A "Exception Class"] */
int cpu_fp_check(struct vcpu *v, const struct insn *i)
{
	enum vec_kind kind = vec_kind(i);

	switch (kind) {
	case VEC_AVX:
		if (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & 6) != 6)
			return RAISE_UD(v);
		break;
	case VEC_SSE:
		if ((v->cr0 & CR0_EM) || !(v->cr4 & CR4_OSFXSR))
			return RAISE_UD(v);
		break;
	case VEC_MMX:
		if (v->cr0 & CR0_EM)
			return RAISE_UD(v);
		break;
	case VEC_WAIT:
		if ((v->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
			return cpu_raise(v, EXC_NM);
		return OP_NEXT;
	default:
		if (v->cr0 & CR0_EM)
			return cpu_raise(v, EXC_NM);
		break;
	}
	return v->cr0 & CR0_TS ? cpu_raise(v, EXC_NM) : OP_NEXT;
}

int cpu_fp_need(struct vcpu *v, const struct insn *i)
{
	int r = cpu_fp_check(v, i);

	if (r == OP_NEXT)
		cpu_fp_reload(v, insn_uses_x87(i->id) || insn_mixes_mmx(i->id) ? FP_LIVE | FP_HAS_X87 : FP_LIVE);
	return r;
}
