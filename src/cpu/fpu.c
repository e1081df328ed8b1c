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

/* ---- load and spill ------------------------------------------------------------------------------------- */

/* PKRU is not the host's business: the guest's lives in vcpu.pkru. */
static inline u64 register_mask(void)
{
	return host_mask & ~XFEATURE_PKRU;
}

/* Sanitizers' run-time functions use the very registers that are being moved. */
#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))

/* Stricter than the checks of a single instruction may be: the rest ask cpu_fp_need(). */
static u8 live_bits(const struct vcpu *v)
{
	u8 live = FP_LIVE;

	if (v->cr0 & (CR0_TS | CR0_EM))
		return live;
	live |= FP_LIVE_X87;
	if (v->cr4 & CR4_OSFXSR)
		live |= FP_LIVE_SSE;
	if ((v->cr4 & CR4_OSXSAVE) && (v->xcr0 & 6) == 6)
		live |= FP_LIVE_AVX;
	return live;
}

void cpu_fp_recheck(struct vcpu *v)
{
	if (v->fp_live)
		v->fp_live = live_bits(v);
}

NO_SANITIZE void cpu_fp_load(struct vcpu *v)
{
	u64 mask = register_mask();

	if (v->fp_live)
		return;
	asm volatile("stmxcsr %0; fnstcw %1" : "=m"(v->host_mxcsr), "=m"(v->host_fcw));
	if (mask)
		asm volatile("xrstor64 %0" : : "m"(*(const u8(*)[XSAVE_AREA])v->xsave), "a"((u32)mask),
			     "d"((u32)(mask >> 32)));
	else
		asm volatile("fxrstor64 %0" : : "m"(*(const u8(*)[512])v->xsave));
	v->fp_live = live_bits(v);
}

NO_SANITIZE void cpu_fp_spill(struct vcpu *v)
{
	u64 mask = register_mask();

	if (!v->fp_live)
		return;
	if (mask)
		asm volatile("xsave64 %0" : "+m"(*(u8(*)[XSAVE_AREA])v->xsave) : "a"((u32)mask),
			     "d"((u32)(mask >> 32)));
	else
		asm volatile("fxsave64 %0" : "=m"(*(u8(*)[512])v->xsave));
	if (mask & XFEATURE_AVX)
		asm volatile("vzeroupper");
	asm volatile("fninit; fldcw %0; ldmxcsr %1" : : "m"(v->host_fcw), "m"(v->host_mxcsr));
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
		cpu_fp_load(v);
	return r;
}
