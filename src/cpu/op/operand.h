/* SPDX-License-Identifier: MIT */
/*
 * Operands of C handlers: sized registers, the stack, near branch targets, how a handler ends.
 */
#pragma once
#include "cpu/cpu.h"

static inline u64 size_mask(unsigned int size)
{
	return size >= 8 ? ~0ull : BIT(size * 8) - 1;
}

static inline u64 gpr_get(const struct vcpu *v, unsigned int n, unsigned int size)
{
	return v->gpr[n] & size_mask(size);
}

/* A 32-bit write clears the upper half; 8- and 16-bit writes keep what they do not name. */
static inline void gpr_set(struct vcpu *v, unsigned int n, unsigned int size, u64 val)
{
	if (size >= 8)
		v->gpr[n] = val;
	else if (size == 4)
		v->gpr[n] = (u32)val;
	else
		v->gpr[n] = (v->gpr[n] & ~size_mask(size)) | (val & size_mask(size));
}

/* Byte registers: @high names AH/CH/DH/BH as 0..3. */
static inline u8 gpr_get8(const struct vcpu *v, unsigned int n, bool high)
{
	return (u8)(v->gpr[n] >> (high ? 8 : 0));
}

static inline void gpr_set8(struct vcpu *v, unsigned int n, bool high, u8 val)
{
	unsigned int shift = high ? 8 : 0;

	v->gpr[n] = (v->gpr[n] & ~(0xffull << shift)) | ((u64)val << shift);
}

static inline s64 sign_extend(u64 val, unsigned int size)
{
	unsigned int shift = 64 - size * 8;

	return (s64)(val << shift) >> shift;
}

/* Is @la canonical for the current paging mode? [SDM1 "Canonical Addressing"] */
static inline bool cpu_canonical(const struct vcpu *v, u64 la)
{
	unsigned int shift = v->cr4 & CR4_LA57 ? 7 : 16;

	return (u64)((s64)(la << shift) >> shift) == la;
}

/*
 * Stack pointer arithmetic wraps at the stack-address size. stack_get() is the offset used for
 * addressing; stack_set() keeps the bits of RSP above a 16-bit stack pointer.
 */
static inline u64 stack_get(const struct vcpu *v)
{
	return v->gpr[GPR_RSP] & size_mask(v->ssz);
}

static inline void stack_set(struct vcpu *v, u64 val)
{
	gpr_set(v, GPR_RSP, v->ssz, val);
}

/* Write @val below the stack pointer @sp; the caller commits the new pointer when all went well. */
static inline int stack_write(struct vcpu *v, u64 *sp, u64 val, unsigned int size)
{
	u64 to = (*sp - size) & size_mask(v->ssz);
	int r = cpu_write(v, SEG_SS, to, &val, size);

	if (!r)
		*sp = to;
	return r;
}

static inline int stack_read(struct vcpu *v, u64 *sp, u64 *val, unsigned int size)
{
	int r;

	*val = 0;
	r = cpu_read(v, SEG_SS, *sp, val, size);
	if (!r)
		*sp = (*sp + size) & size_mask(v->ssz);
	return r;
}

/* May the near branch target @rip be loaded? 0 or OP_EXC (#GP(0)) [SDM2A "CALL", "JMP", SDM2B "RET"] */
static inline int branch_check(struct vcpu *v, u64 rip)
{
	if (cpu_code64(v))
		return likely(cpu_canonical(v, rip)) ? 0 : RAISE_GP0(v);
	return likely(rip <= v->seg[SEG_CS].limit) ? 0 : RAISE_GP0(v);
}

/* The next instruction's RIP as a return address or a not-taken branch leaves it. */
static inline u64 branch_next(const struct vcpu *v, const struct insn *i)
{
	u64 rip = cpu_next_rip(v, i);

	return cpu_code64(v) ? rip : (u32)rip;
}

/*
 * How a handler that wrote memory ends: a store can have hit decoded code, MMIO or a watchpoint, and
 * each wants the trace left at this boundary.
 */
static inline int op_done(const struct vcpu *v)
{
	if (unlikely(v->request || v->mmio.n || v->pending_db))
		return OP_END;
	return OP_NEXT;
}
