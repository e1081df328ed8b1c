/* SPDX-License-Identifier: MIT */
/*
 * Vector and extended state: FPU, XSAVE, XCR0.
 */
#include "kvm/kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#define XF_FP BIT(0)
#define XF_SSE BIT(1)
#define XF_YMM BIT(2)
#define XF_PKRU BIT(9)
#define MXCSR_MASK 0xffffu

/* The XSAVE image: legacy region, then the header at 512. */
struct xsave_image {
	u16 fcw, fsw;
	u8 ftw, rsvd;
	u16 fop;
	u64 fip, fdp;
	u32 mxcsr, mxcsr_mask;
	u8 st[8][16];
	u8 xmm[16][16];
	u8 unused[96];
	u64 xstate_bv, xcomp_bv, zero[6];
};

static struct xsave_image *image(const struct kvm_vcpu *k)
{
	return (struct xsave_image *)k->v->xsave;
}

u64 xstate_supported_xcr0(void)
{
	static u64 xcr0;
	static struct cpuid_entry e[CPUID_ENTRIES_MAX];

	if (!xcr0) {
		u32 n = cpuid_supported(e, CPUID_ENTRIES_MAX);
		u64 found = XF_FP | XF_SSE;

		for (u32 i = 0; i < n; i++)
			if (e[i].function == 0xd && e[i].index == 0)
				found |= e[i].eax | (u64)e[i].edx << 32;
		xcr0 = found;
	}
	return xcr0;
}

/* Components lie where the host CPU puts them: VMMs ask its CPUID for the offsets. */
static bool component(unsigned int n, u32 *offset, u32 *size)
{
	u32 a, b, c, d;

	if (!__get_cpuid_count(0xd, n, &a, &b, &c, &d) || !a)
		return false;
	*size = a;
	*offset = b;
	return true;
}

u32 xstate_size(void)
{
	u32 end = 4096, off, size;

	for (unsigned int n = 2; n < 63; n++)
		if ((xstate_supported_xcr0() >> n & 1) && component(n, &off, &size) && off + size > end)
			end = off + size;
	return end;
}

/* ---- KVM_GET/SET_XSAVE ------------------------------------------------------------------------------- */

static void copy_components(u8 *dst, const u8 *src, u64 which)
{
	u32 off, size;

	for (unsigned int n = 2; n < 63; n++)
		if ((which >> n & 1) && component(n, &off, &size) && off + size <= XSAVE_AREA)
			memcpy(dst + off, src + off, size);
}

long vcpu_get_xsave(struct kvm_vcpu *k, u64 arg, void *buf)
{
	u64 have = (k->v->xfeatures & xstate_supported_xcr0()) | XF_FP | XF_SSE;
	struct xsave_image *out = buf;
	const struct xsave_image *in = image(k);
	u32 off, size;

	memcpy(out, in, offsetof(struct xsave_image, unused));
	out->xstate_bv = in->xstate_bv & have;
	copy_components(buf, k->v->xsave, out->xstate_bv & ~XF_PKRU);
	if ((have & XF_PKRU) && component(9, &off, &size)) {
		out->xstate_bv |= XF_PKRU;
		memcpy((u8 *)buf + off, &k->v->pkru, sizeof(k->v->pkru));
	}
	return 0;
}

long vcpu_get_xsave2(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return vcpu_get_xsave(k, arg, buf);
}

static bool image_valid(const struct xsave_image *x)
{
	u64 zero = 0;

	for (size_t i = 0; i < ARRAY_SIZE(x->zero); i++)
		zero |= x->zero[i];
	if (zero || x->xcomp_bv || (x->xstate_bv & ~xstate_supported_xcr0()))
		return false;
	return !(x->xstate_bv & (XF_FP | XF_SSE)) || !(x->mxcsr & ~MXCSR_MASK);
}

static void init_x87(struct xsave_image *x)
{
	memset(x, 0, offsetof(struct xsave_image, mxcsr));
	memset(x->st, 0, sizeof(x->st));
	x->fcw = 0x37f;
}

/* KVM makes a vCPU's x87 as FNINIT leaves it; RESET, which the processor has been through, leaves FCW 40H. */
void xstate_init(struct kvm_vcpu *k)
{
	init_x87(image(k));
}

long vcpu_set_xsave(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct xsave_image *in = buf;
	struct xsave_image *x = image(k);
	u32 off, size;

	if (!image_valid(in))
		return -EINVAL;
	if (in->xstate_bv & XF_FP) {
		memcpy(x, in, offsetof(struct xsave_image, mxcsr));
		memcpy(x->st, in->st, sizeof(x->st));
	} else {
		init_x87(x);
	}
	if (in->xstate_bv & (XF_SSE | XF_YMM))
		x->mxcsr = in->mxcsr & MXCSR_MASK;
	if (in->xstate_bv & XF_SSE)
		memcpy(x->xmm, in->xmm, sizeof(x->xmm));
	else
		memset(x->xmm, 0, sizeof(x->xmm));
	copy_components(k->v->xsave, buf, in->xstate_bv & ~XF_PKRU);
	x->xstate_bv = in->xstate_bv & ~XF_PKRU;
	x->xcomp_bv = 0;
	if (component(9, &off, &size)) {
		k->v->pkru = 0;
		if (in->xstate_bv & XF_PKRU)
			memcpy(&k->v->pkru, (const u8 *)buf + off, sizeof(k->v->pkru));
	}
	cpu_mode_update(k->v);
	return 0;
}

/* ---- KVM_GET/SET_FPU ------------------------------------------------------------------------------------ */

long vcpu_get_fpu(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct xsave_image *x = image(k);
	struct kvm_fpu *f = buf;

	memcpy(f->fpr, x->st, sizeof(f->fpr));
	f->fcw = x->fcw;
	f->fsw = x->fsw;
	f->ftwx = x->ftw;
	f->last_opcode = x->fop;
	f->last_ip = x->fip;
	f->last_dp = x->fdp;
	memcpy(f->xmm, x->xmm, sizeof(f->xmm));
	return 0;
}

long vcpu_set_fpu(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct xsave_image *x = image(k);
	const struct kvm_fpu *f = buf;

	memcpy(x->st, f->fpr, sizeof(f->fpr));
	x->fcw = f->fcw;
	x->fsw = f->fsw;
	x->ftw = f->ftwx;
	x->fop = f->last_opcode;
	x->fip = f->last_ip;
	x->fdp = f->last_dp;
	memcpy(x->xmm, f->xmm, sizeof(f->xmm));
	x->xstate_bv |= XF_FP | XF_SSE;
	return 0;
}

/* ---- KVM_GET/SET_XCRS ------------------------------------------------------------------------------------ */

long vcpu_get_xcrs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_xcrs *x = buf;

	x->nr_xcrs = 1;
	x->xcrs[0].xcr = 0;
	x->xcrs[0].value = k->v->xcr0;
	return 0;
}

static bool xcr0_valid(const struct kvm_vcpu *k, u64 val)
{
	u64 valid = (k->v->xfeatures & xstate_supported_xcr0()) | XF_FP;

	return (val & XF_FP) && !(val & ~valid) && !((val & XF_YMM) && !(val & XF_SSE));
}

long vcpu_set_xcrs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_xcrs *x = buf;

	if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
		return -EINVAL;
	for (u32 i = 0; i < x->nr_xcrs; i++) {
		if (x->xcrs[i].xcr)
			continue;
		if (!xcr0_valid(k, x->xcrs[i].value))
			return -EINVAL;
		k->v->xcr0 = x->xcrs[i].value;
		cpu_mode_update(k->v);
		kvm_cpuid_runtime(k, k->v->cpuid, k->v->ncpuid);
		break;
	}
	return 0;
}
