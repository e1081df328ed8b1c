/* SPDX-License-Identifier: MIT */
/*
 * Near control transfer. Every handler ends with vcpu.rip set and OP_JUMP, taken or not: a branch is
 * always the last record of its trace.
 */
#include "cpu/op/op.h"
#include "cpu/flags.h"
#include "cpu/op/operand.h"

/*
 * Near branches use 64-bit targets in 64-bit mode whatever the prefixes say; elsewhere a 16-bit
 * operand size clears the upper half of EIP [SDM2A "Jcc—Jump if Condition Is Met"].
 */
static inline unsigned int branch_osz(const struct vcpu *v, const struct insn *i)
{
	return cpu_code64(v) ? 8 : i->osz;
}

static inline u64 branch_rel(const struct vcpu *v, const struct insn *i)
{
	return (cpu_next_rip(v, i) + (u64)i->imm) & size_mask(branch_osz(v, i));
}

static inline int branch_taken(struct vcpu *v, u64 target)
{
	int r = branch_check(v, target);

	if (unlikely(r))
		return r;
	v->rip = target;
	return OP_JUMP;
}

static inline int branch_not_taken(struct vcpu *v, const struct insn *i)
{
	v->rip = branch_next(v, i);
	return OP_JUMP;
}

int op_jcc(struct vcpu *v, const struct insn *i)
{
	if (flags_cond(v, insn_rm(i)))
		return branch_taken(v, branch_rel(v, i));
	return branch_not_taken(v, i);
}

int op_jmp_rel(struct vcpu *v, const struct insn *i)
{
	return branch_taken(v, branch_rel(v, i));
}

/* The target of an indirect near branch: register or memory. */
static int branch_target_rm(struct vcpu *v, const struct insn *i, u64 *target)
{
	unsigned int osz = branch_osz(v, i);

	*target = 0;
	if (i->flags & INSN_MEM)
		return cpu_read_mem(v, i, target, osz);
	*target = gpr_get(v, insn_rm(i), osz);
	return 0;
}

int op_jmp_rm(struct vcpu *v, const struct insn *i)
{
	u64 target;
	int r = branch_target_rm(v, i, &target);

	return r ? r : branch_taken(v, target);
}

static int branch_call(struct vcpu *v, const struct insn *i, u64 target)
{
	unsigned int osz = branch_osz(v, i);
	u64 sp = stack_get(v);
	int r = branch_check(v, target);

	if (!r)
		r = stack_write(v, &sp, cpu_next_rip(v, i) & size_mask(osz), osz);
	if (unlikely(r))
		return r;
	stack_set(v, sp);
	v->rip = target;
	return OP_JUMP;
}

int op_call_rel(struct vcpu *v, const struct insn *i)
{
	return branch_call(v, i, branch_rel(v, i));
}

int op_call_rm(struct vcpu *v, const struct insn *i)
{
	u64 target;
	int r = branch_target_rm(v, i, &target);

	return r ? r : branch_call(v, i, target);
}

int op_ret(struct vcpu *v, const struct insn *i)
{
	u64 target, sp = stack_get(v);
	int r = stack_read(v, &sp, &target, branch_osz(v, i));

	if (!r)
		r = branch_check(v, target);
	if (unlikely(r))
		return r;
	stack_set(v, sp + (u64)i->imm);
	v->rip = target;
	return OP_JUMP;
}

/* LOOPcc: the count is committed only when the branch did not fault. */
static int branch_loop(struct vcpu *v, const struct insn *i, bool cond)
{
	unsigned int asz = insn_asz(i);
	u64 count = (v->gpr[GPR_RCX] - 1) & size_mask(asz);
	u64 target = branch_rel(v, i);

	if (count && cond) {
		int r = branch_check(v, target);

		if (unlikely(r))
			return r;
		v->rip = target;
	} else {
		v->rip = branch_next(v, i);
	}
	gpr_set(v, GPR_RCX, asz, count);
	return OP_JUMP;
}

int op_loop(struct vcpu *v, const struct insn *i)
{
	return branch_loop(v, i, true);
}

int op_loope(struct vcpu *v, const struct insn *i)
{
	return branch_loop(v, i, flags_zf(v));
}

int op_loopne(struct vcpu *v, const struct insn *i)
{
	return branch_loop(v, i, !flags_zf(v));
}

int op_jrcxz(struct vcpu *v, const struct insn *i)
{
	if (!gpr_get(v, GPR_RCX, insn_asz(i)))
		return branch_taken(v, branch_rel(v, i));
	return branch_not_taken(v, i);
}
