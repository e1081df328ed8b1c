/* SPDX-License-Identifier: MIT */
/*
 * CMPXCHG8B/16B and the bit tests that address memory beyond their operand. With LOCK the host's own
 * locked instruction runs on the operand's pointer; lin_mem_begin() has already replaced an operand
 * that must not reach the host bus by an aligned bounce buffer.
 */
#include "cpu/op/op.h"
#include "cpu/flags.h"
#include "cpu/op/operand.h"
#include "mem/guarded.h"

/**
 * struct operand - a memory operand being read and written
 * @p: where it is for the host
 * @la: its linear address
 * @lock: LOCK prefix
 */
struct operand {
	void *p;
	gva_t la;
	unsigned int size;
	bool lock;
};

/* Get the operand ready. 0, or OP_EXC / OP_STOP. */
static int operand_begin(struct vcpu *v, const struct insn *i, u64 ea, unsigned int size,
			 struct operand *o)
{
	int r = seg_linear(v, insn_seg(i), ea, size, ACC_RW, &o->la);

	if (unlikely(r))
		return r;
	if (size == 16 && (o->la & 15))
		return RAISE_GP0(v);
	o->size = size;
	o->lock = i->flags & INSN_LOCK;
	o->p = lin_mem_begin(v, o->la, size, o->lock ? ACC_RW | ACC_LOCK : ACC_RW);
	return likely(o->p) ? 0 : (int)v->scratch[7];
}

/* The host page is gone. */
static int operand_efault(struct vcpu *v, const struct operand *o)
{
	cpu_mem_abort(v);
	if (!mmu_translate(v, o->la, ACC_R, &v->fault_gpa))
		v->fault_gpa = 0;
	v->stop = CPU_STOP_EFAULT;
	return OP_STOP;
}

static inline int operand_end(struct vcpu *v)
{
	int r = v->bounce.active ? cpu_mem_commit(v) : OP_NEXT;

	return r == OP_NEXT ? op_done(v) : r;
}

/* Locked: 0 exchanged, 1 differs (*old = what is there), -EFAULT */
static int operand_cas(const struct operand *o, u64 *old, u64 val)
{
	u16 old16 = (u16)*old;
	u32 old32 = (u32)*old;
	int r;

	switch (o->size) {
	case 2:
		r = mem_cas16(o->p, &old16, (u16)val);
		*old = old16;
		return r;
	case 4:
		r = mem_cas32(o->p, &old32, (u32)val);
		*old = old32;
		return r;
	default:
		return mem_cas64(o->p, old, val);
	}
}

/* Without LOCK: 0 stored, 1 differs, -EFAULT. An unequal operand is written back as it was. */
static int exchange_plain(const struct operand *o, u64 *old, u64 val)
{
	u64 now;
	int r = mem_load64(&now, o->p), differs = 0;

	if (r)
		return r;
	if (now != *old) {
		differs = 1;
		val = now;
	}
	*old = now;
	r = mem_store64(o->p, val);
	return r ? r : differs;
}

/* Both forms store whatever the comparison says: the access is read-write [SDM2A "CMPXCHG8B/CMPXCHG16B"]. */
static int cmpxchg_pair(struct vcpu *v, const struct insn *i, unsigned int half)
{
	u64 old[2] = { v->gpr[GPR_RAX], v->gpr[GPR_RDX] };
	u64 val[2] = { v->gpr[GPR_RBX], v->gpr[GPR_RCX] };
	struct operand o;
	int r = operand_begin(v, i, cpu_ea(v, i), half * 2, &o);

	if (unlikely(r))
		return r;
	if (half == 4) {
		old[0] = (u32)old[0] | old[1] << 32;
		val[0] = (u32)val[0] | val[1] << 32;
		r = o.lock ? mem_cas64(o.p, &old[0], val[0]) : exchange_plain(&o, &old[0], val[0]);
		old[1] = old[0] >> 32;
	} else {
		r = mem_cas128(o.p, old, val);
	}
	if (unlikely(r < 0))
		return operand_efault(v, &o);
	flags_merge(v, FLAG_ZF, r ? 0 : FLAG_ZF);
	if (r) {
		gpr_set(v, GPR_RAX, half, old[0]);
		gpr_set(v, GPR_RDX, half, old[1]);
	}
	return operand_end(v);
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

enum bit_change { BIT_SET, BIT_RESET, BIT_COMPLEMENT };

static u64 bit_changed(u64 val, u64 bit, enum bit_change what)
{
	switch (what) {
	case BIT_SET: return val | bit;
	case BIT_RESET: return val & ~bit;
	default: return val ^ bit;
	}
}

static int bit_modify(struct vcpu *v, const struct insn *i, enum bit_change what)
{
	unsigned int n;
	u64 old = 0, val, ea = bit_ea(v, i, &n);
	struct operand o;
	int r = operand_begin(v, i, ea, i->osz, &o);

	if (unlikely(r))
		return r;
	r = mem_load(&old, o.p, o.size);
	if (!r && o.lock) {
		do {
			r = operand_cas(&o, &old, bit_changed(old, BIT(n), what));
		} while (r > 0);
	} else if (!r) {
		val = bit_changed(old, BIT(n), what);
		r = mem_store(o.p, &val, o.size);
	}
	if (unlikely(r))
		return operand_efault(v, &o);
	flags_merge(v, FLAG_CF, old >> n & 1);
	return operand_end(v);
}

int op_bts_mem(struct vcpu *v, const struct insn *i)
{
	return bit_modify(v, i, BIT_SET);
}

int op_btr_mem(struct vcpu *v, const struct insn *i)
{
	return bit_modify(v, i, BIT_RESET);
}

int op_btc_mem(struct vcpu *v, const struct insn *i)
{
	return bit_modify(v, i, BIT_COMPLEMENT);
}
