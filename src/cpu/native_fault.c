/* SPDX-License-Identifier: MIT */
/*
 * Host signals raised by a guest instruction inside a stub.
 *
 * Only the guest's own instruction can fault there, and it has changed nothing yet: general registers
 * are stored behind it. The handler runs on top of the stub, so it only redirects; native_failed()
 * does the rest in ordinary context.
 */
#include "cpu/native_priv.h"

#include <signal.h>
#include <ucontext.h>

#include "base/base.h"

/* Guest-physical page behind a host address that faulted, as far as the data TLB knows. */
static gpa_t blame(const struct vcpu *v, u64 addr)
{
	const struct tlb_l1 *t = v->dtlb;

	for (unsigned int k = 0; k < TLB_ENTRIES; k++) {
		if (t->r[k].tag != TLB_NEVER && t->r[k].host == (addr & PAGE_MASK))
			return t->gpa[0][k] & PAGE_MASK;
		if (t->w[k].tag != TLB_NEVER && t->w[k].host == (addr & PAGE_MASK))
			return t->gpa[1][k] & PAGE_MASK;
	}
	return ~0ull;
}

/* Host trap number to guest exception; -1: the host page behind guest memory is not there. */
static int guest_vector(const struct vcpu *v, long trapno)
{
	switch (trapno) {
	case EXC_DE:
	case EXC_UD:
	case EXC_GP:
	case EXC_MF:
	case EXC_AC:
		return (int)trapno;
	case EXC_XM:
		return v->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD;
	default:
		return -1;
	}
}

bool native_fault(struct vcpu *v, int sig, const void *siginfo, void *uctx)
{
	greg_t *r = ((ucontext_t *)uctx)->uc_mcontext.gregs;
	const struct native *n = v->native;
	u64 pc = (u64)r[REG_RIP];
	int vector;

	if (!n)
		return false;
	vector = guest_vector(v, (long)r[REG_TRAPNO]);
	if (sig == SIGBUS && vector != EXC_AC)
		vector = -1;
	if (pc < (u64)n->x.rx + n->glue_end || pc >= (u64)n->x.rx + n->used) {
		if (!v->tr || !v->tr->fault(v, vector, uctx))
			return false;
		if (vector < 0)
			v->fault_gpa = blame(v, (u64)((const siginfo_t *)siginfo)->si_addr);
		return true;
	}
	if (vector < 0)
		v->fault_gpa = blame(v, (u64)((const siginfo_t *)siginfo)->si_addr);
	v->scratch[SLOT_FAULT] = (u64)(s64)vector;
	r[REG_RIP] = (greg_t)n->entry_fail;
	return true;
}

int native_failed(struct vcpu *v, const struct insn *i)
{
	int vector = (int)v->scratch[SLOT_FAULT];

	cpu_mem_abort(v);
	if (vector < 0) {
		v->stop = CPU_STOP_EFAULT;
		return OP_STOP;
	}
	if (vector == EXC_GP || vector == EXC_AC)
		return cpu_raise_err(v, (u8)vector, 0);
	return cpu_raise(v, (u8)vector);
}
