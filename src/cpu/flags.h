/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic flags for C handlers: read and merge vcpu.aflags, evaluate a condition code.
 *
 * aflags is what LAHF and SETO leave in AX: SF ZF AF PF CF in bits 15:8 and OF in bit 0. The host
 * computes flags for us (same ISA), so a handler that needs those of a comparison asks it.
 */
#pragma once
#include "cpu/cpu.h"

#define AFLAG_CF BIT(8)
#define AFLAG_PF BIT(10)
#define AFLAG_AF BIT(12)
#define AFLAG_ZF BIT(14)
#define AFLAG_SF BIT(15)
#define AFLAG_OF BIT(0)

static inline bool flags_cf(const struct vcpu *v) { return v->aflags & AFLAG_CF; }
static inline bool flags_af(const struct vcpu *v) { return v->aflags & AFLAG_AF; }
static inline bool flags_zf(const struct vcpu *v) { return v->aflags & AFLAG_ZF; }

/* Merge RFLAGS-positioned bits @set into the arithmetic flags named by @mask. */
static inline void flags_merge(struct vcpu *v, u32 mask, u32 set)
{
	u32 low = (mask & 0xd5) << 8;

	v->aflags = (u16)((v->aflags & ~low) | ((set & mask & 0xd5) << 8));
	if (mask & FLAG_OF)
		v->aflags = (u16)((v->aflags & ~1u) | ((set >> 11) & 1));
}

/* The even values of a condition code; bit 0 of the code inverts [SDM2B "EFLAGS Condition Codes"]. */
static inline bool flags_cond(const struct vcpu *v, unsigned int cc)
{
	u32 f = v->aflags;
	bool sf = f & AFLAG_SF, of = f & AFLAG_OF;
	bool r;

	switch (cc >> 1) {
	case 0: r = of; break;
	case 1: r = f & AFLAG_CF; break;
	case 2: r = f & AFLAG_ZF; break;
	case 3: r = f & (AFLAG_CF | AFLAG_ZF); break;
	case 4: r = sf; break;
	case 5: r = f & AFLAG_PF; break;
	case 6: r = sf != of; break;
	default: r = (f & AFLAG_ZF) || sf != of; break;
	}
	return r != (bool)(cc & 1);
}

/* aflags after comparing a with b (a - b) in @size bytes */
static inline u16 flags_cmp(u64 a, u64 b, unsigned int size)
{
	u16 ax;

	switch (size) {
	case 1: asm("cmpb %2, %1; lahf; seto %%al" : "=&a"(ax) : "q"((u8)a), "q"((u8)b) : "cc"); break;
	case 2: asm("cmpw %2, %1; lahf; seto %%al" : "=&a"(ax) : "r"((u16)a), "r"((u16)b) : "cc"); break;
	case 4: asm("cmpl %2, %1; lahf; seto %%al" : "=&a"(ax) : "r"((u32)a), "r"((u32)b) : "cc"); break;
	default: asm("cmpq %2, %1; lahf; seto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc"); break;
	}
	return ax;
}

/* RFLAGS-positioned SF ZF PF of a byte result */
static inline u32 flags_szp8(u8 r)
{
	u32 f = (r & 0x80) | (r ? 0 : (u32)FLAG_ZF);

	return f | (__builtin_parity(r) ? 0 : (u32)FLAG_PF);
}
