/* SPDX-License-Identifier: MIT */
/*
 * CMPXCHG8B/16B and the bit tests that address memory beyond their operand. With LOCK the host's own
 * locked instruction runs on the operand's pointer; lin_mem_begin() has already replaced an operand
 * that must not reach the host bus by a bounce buffer.
 */
#include "cpu/op/op.h"
#include "cpu/flags.h"
#include "cpu/op/operand.h"

#define PAIR_OP(lock, insn, mem_type)                                                             \
	asm volatile(lock insn " %0; sete %3"                                                     \
		     : "+m"(*(mem_type *)p), "+a"(*lo), "+d"(*hi), "=q"(equal)                     \
		     : "b"(new_lo), "c"(new_hi) : "memory", "cc")

static bool cmpxchg8b(void *p, bool lock, u64 *lo, u64 *hi, u64 new_lo, u64 new_hi)
{
	bool equal;

	if (lock)
		PAIR_OP("lock; ", "cmpxchg8b", u64);
	else
		PAIR_OP("", "cmpxchg8b", u64);
	return equal;
}

static bool cmpxchg16b(void *p, bool lock, u64 *lo, u64 *hi, u64 new_lo, u64 new_hi)
{
	bool equal;

	if (lock)
		PAIR_OP("lock; ", "cmpxchg16b", u128);
	else
		PAIR_OP("", "cmpxchg16b", u128);
	return equal;
}

/*
 * The operand as the host sees it, or NULL with *r saying why not. A page that is gone on the host is found
 * by a guarded read first.
 */
static void *operand(struct vcpu *v, const struct insn *i, u64 ea, unsigned int size, u32 acc, int *r)
{
	u64 probe[2];
	gva_t la;
	void *p;

	*r = seg_linear(v, insn_seg(i), ea, size, acc & ACC_RW, &la);
	if (unlikely(*r))
		return NULL;
	if (size == 16 && (la & 15)) {
		*r = RAISE_GP0(v);
		return NULL;
	}
	if (i->flags & INSN_LOCK)
		acc |= ACC_LOCK;
	p = lin_mem_begin(v, la, size, acc);
	if (!p) {
		*r = (int)v->scratch[7];
		return NULL;
	}
	if (!v->bounce.active && mem_copy_guarded(probe, p, size)) {
		v->stop = CPU_STOP_EFAULT;
		*r = OP_STOP;
		return NULL;
	}
	return p;
}

static inline int finish(struct vcpu *v)
{
	int r = v->bounce.active ? cpu_mem_commit(v) : OP_NEXT;

	return r == OP_NEXT ? op_done(v) : r;
}

/* Both forms store whatever the comparison says: the access is read-write [SDM2A "CMPXCHG8B"]. */
static int cmpxchg_pair(struct vcpu *v, const struct insn *i, unsigned int half)
{
	bool lock = i->flags & INSN_LOCK, equal;
	u64 lo = v->gpr[GPR_RAX], hi = v->gpr[GPR_RDX];
	int r;
	void *p = operand(v, i, cpu_ea(v, i), half * 2, ACC_RW, &r);

	if (unlikely(!p))
		return r;
	if (half == 4)
		equal = cmpxchg8b(p, lock, &lo, &hi, v->gpr[GPR_RBX], v->gpr[GPR_RCX]);
	else
		equal = cmpxchg16b(p, lock, &lo, &hi, v->gpr[GPR_RBX], v->gpr[GPR_RCX]);
	flags_merge(v, FLAG_ZF, equal ? FLAG_ZF : 0);
	if (!equal) {
		gpr_set(v, GPR_RAX, half, lo);
		gpr_set(v, GPR_RDX, half, hi);
	}
	return finish(v);
}

int op_cmpxchg8b(struct vcpu *v, const struct insn *i)
{
	return cmpxchg_pair(v, i, 4);
}

int op_cmpxchg16b(struct vcpu *v, const struct insn *i)
{
	return cmpxchg_pair(v, i, 8);
}

/* ---- BT, BTS, BTR, BTC: memory operand, bit offset in a register -------------------------------------- */

/*
 * The register is a signed bit offset from the operand's address: its high part selects which
 * operand-sized unit is accessed, its low part the bit within [SDM2A "BT—Bit Test"].
 */
static u64 bit_ea(const struct vcpu *v, const struct insn *i, unsigned int *bit)
{
	s64 off = sign_extend(v->gpr[insn_reg(i)], i->osz);
	unsigned int shift = i->osz == 2 ? 4 : i->osz == 4 ? 5 : 6;

	*bit = (unsigned int)off & (i->osz * 8u - 1);
	return (cpu_ea(v, i) + (u64)((off >> shift) * i->osz)) & size_mask(insn_asz(i));
}

int op_bt_mem(struct vcpu *v, const struct insn *i)
{
	unsigned int bit;
	u64 val = 0, ea = bit_ea(v, i, &bit);
	int r = cpu_read(v, insn_seg(i), ea, &val, i->osz);

	if (unlikely(r))
		return r;
	flags_merge(v, FLAG_CF, val >> bit & 1);
	return OP_NEXT;
}

#define BIT_OP(lock, op, sfx, type)                                                                \
	asm volatile(lock op sfx " %2, %0; setc %1"                                               \
		     : "+m"(*(type *)p), "=q"(old) : "r"((type)bit) : "memory", "cc")
#define BIT_SIZES(lock, op)                                                                        \
	do {                                                                                       \
		if (i->osz == 2)                                                                   \
			BIT_OP(lock, op, "w", u16);                                                \
		else if (i->osz == 4)                                                              \
			BIT_OP(lock, op, "l", u32);                                                \
		else                                                                               \
			BIT_OP(lock, op, "q", u64);                                                \
	} while (0)
#define BIT_HANDLER(op)                                                                            \
	int op_##op##_mem(struct vcpu *v, const struct insn *i)                                    \
	{                                                                                          \
		unsigned int bit;                                                                  \
		u64 ea = bit_ea(v, i, &bit);                                                       \
		bool old;                                                                          \
		int r;                                                                             \
		void *p = operand(v, i, ea, i->osz, ACC_RW, &r);                                   \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return r;                                                                  \
		if (i->flags & INSN_LOCK)                                                          \
			BIT_SIZES("lock; ", #op);                                                  \
		else                                                                               \
			BIT_SIZES("", #op);                                                        \
		flags_merge(v, FLAG_CF, old);                                                      \
		return finish(v);                                                                  \
	}

BIT_HANDLER(bts)
BIT_HANDLER(btr)
BIT_HANDLER(btc)
