/* SPDX-License-Identifier: MIT */
/*
 * What handlers that change privilege, code segment or stack have in common.
 */
#pragma once
#include "cpu/op/op.h"
#include "cpu/op/operand.h"
#include "cpu/segment.h"

static inline int require_cpl0(struct vcpu *v)
{
	return likely(v->cpl == 0) ? 0 : RAISE_GP0(v);
}

/* RIP of this record and of the one after it, as registers of the current code size show them. */
static inline u64 insn_rip(const struct vcpu *v, const struct insn *i)
{
	return cpu_code64(v) ? cpu_insn_rip(v, i) : (u32)cpu_insn_rip(v, i);
}

/*
 * A handler that ends with an event may have left its own instruction behind (a task switch, a fault in
 * the new task): the run loop computes RIP from the record, so move the record's page to where v->rip is.
 */
static inline int leave_at_rip(struct vcpu *v, const struct insn *i, int res)
{
	if (res != OP_JUMP)
		v->page_rip = v->rip - i->off;
	return res;
}

/* What a debug register holds after val was written to it (ctrl.c). */
u64 dr6_image(const struct vcpu *v, u64 val);
u64 dr7_image(u64 val);

/* Flat segments of the SYSCALL family. */
/* Returns to an outer or the same level, shared by RET and IRET (far.c). */
int far_return_cs(struct vcpu *v, u16 sel, u64 off, struct segment *cs);
int far_return_ss(struct vcpu *v, u16 sel, const struct segment *cs, struct segment *ss);
void far_return_commit(struct vcpu *v, const struct segment *cs, u64 rip, const struct segment *ss, u64 sp);

#define FLAT_CODE64 0xa09bu
#define FLAT_CODE32 0xc09bu
#define FLAT_DATA 0xc093u
#define FLAT_USER 0x60u /* DPL 3 */
