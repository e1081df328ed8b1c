/* SPDX-License-Identifier: MIT */
/*
 * Vector state: which XSAVE components the host holds for the guest, and where they lie.
 */
#pragma once
#include "cpu/cpu.h"

#define XFEATURE_X87 BIT(0)
#define XFEATURE_SSE BIT(1)
#define XFEATURE_AVX BIT(2)
#define XFEATURE_PKRU BIT(9)

/* Fields of the legacy region and the XSAVE header. [SDM1 "Legacy Region of an XSAVE Area"] */
enum xsave_offset {
	XSAVE_FCW = 0, XSAVE_FSW = 2, XSAVE_FTW = 4, XSAVE_FOP = 6, XSAVE_FIP = 8, XSAVE_FCS = 12, XSAVE_FDP = 16,
	XSAVE_FDS = 20, XSAVE_MXCSR = 24, XSAVE_MXCSR_MASK = 28, XSAVE_ST = 32, XSAVE_XMM = 160,
	XSAVE_HEADER = 512, XSAVE_XSTATE_BV = 512, XSAVE_XCOMP_BV = 520, XSAVE_EXTENDED = 576,
};

/**
 * struct xcomponent - place of a state component, from the host's CPUID leaf 0DH
 * @offset: in the standard format
 * @size: in bytes, 0 if not offered
 * @align64: aligned to 64 bytes in the compacted format
 */
struct xcomponent {
	u32 offset;
	u32 size;
	bool align64;
};

/* Components a guest can be given: host XCR0 and x87, SSE, AVX, PKRU. 0 on a host without XSAVE. */
u64 fpu_xfeatures(void);
const struct xcomponent *fpu_component(unsigned int n);
/* Bytes of an area with these components. [SDM1 "Standard Format", "Compacted Format"] */
u32 fpu_area_size(u64 xfeatures, bool compacted);
void fpu_reset(struct vcpu *v);
u32 fpu_mxcsr_mask(void);
/* May this vector instruction execute (#UD, #NM)? OP_NEXT or OP_EXC. */
int cpu_fp_check(struct vcpu *v, const struct insn *i);

static inline u16 xs_get16(const u8 *area, unsigned int off) { u16 x; __builtin_memcpy(&x, area + off, 2); return x; }
static inline u32 xs_get32(const u8 *area, unsigned int off) { u32 x; __builtin_memcpy(&x, area + off, 4); return x; }
static inline u64 xs_get64(const u8 *area, unsigned int off) { u64 x; __builtin_memcpy(&x, area + off, 8); return x; }
static inline void xs_put16(u8 *area, unsigned int off, u16 x) { __builtin_memcpy(area + off, &x, 2); }
static inline void xs_put32(u8 *area, unsigned int off, u32 x) { __builtin_memcpy(area + off, &x, 4); }
static inline void xs_put64(u8 *area, unsigned int off, u64 x) { __builtin_memcpy(area + off, &x, 8); }
