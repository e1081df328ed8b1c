/* SPDX-License-Identifier: MIT */
/*
 * Debug registers at work: instruction, data and I/O breakpoints, TF, and the debugger outside the
 * guest (KVM_SET_GUEST_DEBUG), whose breakpoints replace the guest's while it uses them.
 * [SDM3B "Debug, Branch Profile, TSC, and Intel Resource Director Technology Features"]
 */
#include "cpu/segment.h"
#include "cpu/vmx/vmx.h"

/* Conditions of DR7.R/Wn. */
enum { BP_EXEC = 0, BP_WRITE = 1, BP_IO = 2, BP_ACCESS = 3 };

static inline bool outside_breakpoints(const struct vcpu *v)
{
	return (v->guest_debug & (GUESTDBG_ENABLE | GUESTDBG_USE_HW_BP)) == (GUESTDBG_ENABLE | GUESTDBG_USE_HW_BP);
}

u64 debug_dr7(const struct vcpu *v)
{
	return outside_breakpoints(v) ? v->guest_debug_dr7 : v->dr7;
}

static inline u64 debug_addr(const struct vcpu *v, unsigned int n)
{
	return outside_breakpoints(v) ? v->guest_dr[n] : v->dr[n];
}

static inline bool bp_enabled(u64 dr7, unsigned int n) { return dr7 >> (n * 2) & 3; }
static inline unsigned int bp_kind(u64 dr7, unsigned int n) { return (unsigned int)(dr7 >> (16 + n * 4)) & 3; }

static inline unsigned int bp_len(u64 dr7, unsigned int n)
{
	static const u8 len[4] = { 1, 2, 8, 4 };

	return len[(dr7 >> (18 + n * 4)) & 3];
}

void debug_update(struct vcpu *v)
{
	u64 dr7 = debug_dr7(v);
	u8 mask = 0, watch = 0;

	for (unsigned int n = 0; n < 4; n++) {
		if (!bp_enabled(dr7, n))
			continue;
		if (bp_kind(dr7, n) == BP_EXEC)
			mask |= STEP_EXEC_BREAKPOINT;
		else
			watch |= (u8)(1 << n);
	}
	if ((v->guest_debug & GUESTDBG_ENABLE) && (v->guest_debug & GUESTDBG_SINGLESTEP))
		mask |= STEP_GUEST_DEBUG;
	if (v->nonroot && vmx_proc(v, PROC_MTF))
		mask |= STEP_MTF;
	v->step_mask = mask;
	v->watch_mask = watch;
	if (v->tlb)
		mmu_select_view(v);
}

/* ---- stops for the debugger outside --------------------------------------------------------------- */

static int debug_stop(struct vcpu *v, u32 exception, u64 dr6)
{
	v->debug_exit.exception = exception;
	v->debug_exit.pc = v->csz == 8 ? v->rip : (u32)(v->seg[SEG_CS].base + v->rip);
	v->debug_exit.dr6 = dr6;
	v->debug_exit.dr7 = debug_dr7(v);
	v->stop = CPU_STOP_DEBUG;
	return OP_STOP;
}

bool debug_intercept(struct vcpu *v, const struct event *ev)
{
	u64 bits;

	if (!(v->guest_debug & GUESTDBG_ENABLE) || ev->vector != EXC_DB || ev->type != EVENT_HARD_EXC)
		return false;
	if (!(v->guest_debug & (GUESTDBG_SINGLESTEP | GUESTDBG_USE_HW_BP)))
		return false;
	bits = ev->has_payload ? ev->payload : 0;
	debug_stop(v, EXC_DB, (DR6_RESET | bits) ^ (bits & (DR6_BLD | DR6_RTM)));
	return true;
}

int debug_software_breakpoint(struct vcpu *v)
{
	u32 want = GUESTDBG_ENABLE | GUESTDBG_USE_SW_BP;

	return (v->guest_debug & want) == want ? debug_stop(v, EXC_BP, 0) : OP_NEXT;
}

/* ---- around an instruction ---------------------------------------------------------------------------- */

int debug_check_exec(struct vcpu *v)
{
	u64 lin = v->csz == 8 ? v->rip : (u32)(v->seg[SEG_CS].base + v->rip);
	u64 dr7 = debug_dr7(v), hit = 0;

	v->step_tf = v->rflags & FLAG_TF;
	v->step_rf = v->rflags & FLAG_RF;
	if ((v->rflags & FLAG_RF) || (v->shadow & SHADOW_MOV_SS) || !(v->step_mask & STEP_EXEC_BREAKPOINT))
		return OP_NEXT;
	for (unsigned int n = 0; n < 4; n++)
		if (bp_enabled(dr7, n) && bp_kind(dr7, n) == BP_EXEC && debug_addr(v, n) == lin)
			hit |= BIT(n);
	return hit ? cpu_raise_db(v, hit) : OP_NEXT;
}

void debug_reload_tf(struct vcpu *v)
{
	v->step_tf = v->rflags & FLAG_TF;
}

void debug_after_insn(struct vcpu *v, bool again)
{
	/* An iteration of a repeated instruction is restarted without its breakpoint firing again. */
	if (again)
		v->rflags |= FLAG_RF;
	else if (v->step_rf)
		v->rflags &= ~FLAG_RF; /* and not when IRET or RSM has just loaded it */
	if (v->step_tf)
		v->pending_db |= DR6_BS;
	v->step_tf = false;
	if ((v->step_mask & STEP_MTF) && !again)
		v->vmx->mtf_due = true;
	if (!(v->step_mask & STEP_GUEST_DEBUG) || v->stop != CPU_RUN)
		return;
	debug_stop(v, EXC_DB, DR6_RESET | DR6_BS | v->pending_db);
	v->pending_db = 0;
}

/* ---- data and I/O --------------------------------------------------------------------------------- */

static inline bool overlaps(u64 a, u64 alen, u64 b, u64 blen)
{
	return a < b + blen && b < a + alen;
}

void debug_data_access(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	u64 dr7 = debug_dr7(v);

	for (unsigned int n = 0; n < 4; n++) {
		unsigned int kind = bp_kind(dr7, n), len = bp_len(dr7, n);

		if (!(v->watch_mask & (1u << n)) || kind == BP_IO || (kind == BP_WRITE && !(acc & ACC_W)))
			continue;
		if (overlaps(la, size, debug_addr(v, n) & ~(u64)(len - 1), len))
			v->pending_db |= BIT(n);
	}
}

bool debug_watches_data(const struct vcpu *v)
{
	u64 dr7 = debug_dr7(v);

	for (unsigned int n = 0; n < 4; n++)
		if ((v->watch_mask & (1u << n)) && bp_kind(dr7, n) != BP_IO)
			return true;
	return false;
}

void debug_io_access(struct vcpu *v, u16 port, unsigned int size)
{
	u64 dr7 = debug_dr7(v);

	if (!(v->cr4 & CR4_DE))
		return;
	for (unsigned int n = 0; n < 4; n++) {
		unsigned int len = bp_len(dr7, n);

		if ((v->watch_mask & (1u << n)) && bp_kind(dr7, n) == BP_IO &&
		    overlaps(port, size, debug_addr(v, n) & ~(u64)(len - 1), len))
			v->pending_db |= BIT(n);
	}
}
