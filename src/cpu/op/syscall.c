/* SPDX-License-Identifier: MIT */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT. Intel's SYSCALL exists in 64-bit mode only; AMD's everywhere, but its
 * SYSENTER not in long mode. [SDM2B "SYSCALL—Fast System Call"] [AMD APM3 "SYSCALL, SYSRET"]
 */
#include "cpu/op/control.h"

static bool syscall_defined(const struct vcpu *v)
{
	return (v->efer & EFER_SCE) && cpu_prot(v) && (v->vendor_amd || cpu_code64(v));
}

int op_syscall(struct vcpu *v, const struct insn *i)
{
	u64 star = v->msr_val[MSR_SLOT_STAR], flags = cpu_rflags(v) & ~FLAG_RF;
	u16 sel = (u16)(star >> 32);

	if (!syscall_defined(v))
		return RAISE_UD(v);
	v->gpr[GPR_RCX] = branch_next(v, i);
	if (cpu_long_mode(v)) {
		v->gpr[GPR_R11] = flags;
		v->rip = v->msr_val[cpu_code64(v) ? MSR_SLOT_LSTAR : MSR_SLOT_CSTAR];
		flags &= ~v->msr_val[MSR_SLOT_FMASK];
		seg_commit_flat(v, SEG_CS, sel & 0xfffc, FLAT_CODE64);
	} else {
		v->rip = (u32)star;
		flags &= ~(FLAG_VM | FLAG_IF);
		seg_commit_flat(v, SEG_CS, sel & 0xfffc, FLAT_CODE32);
	}
	seg_commit_flat(v, SEG_SS, (u16)((sel & 0xfffc) + 8), FLAT_DATA);
	cpu_set_rflags(v, flags);
	cpu_mode_update(v);
	debug_reload_tf(v);
	return OP_JUMP;
}

/* RFLAGS bits that SYSRET takes from R11. */
#define SYSRET_FLAGS 0x3c7fd7ull

int op_sysret(struct vcpu *v, const struct insn *i)
{
	u16 sel = (u16)(v->msr_val[MSR_SLOT_STAR] >> 48);
	bool to64 = i->flags & INSN_REXW;
	u64 rip = to64 ? v->gpr[GPR_RCX] : (u32)v->gpr[GPR_RCX];

	if (!syscall_defined(v))
		return RAISE_UD(v);
	if (v->cpl || (to64 && !la_canonical(v, rip)))
		return RAISE_GP0(v);
	if (to64)
		seg_commit_flat(v, SEG_CS, (u16)((sel + 16) | 3), FLAT_CODE64 | FLAT_USER);
	else
		seg_commit_flat(v, SEG_CS, sel | 3, FLAT_CODE32 | FLAT_USER);
	seg_commit_flat(v, SEG_SS, (u16)((sel + 8) | 3), FLAT_DATA | FLAT_USER);
	if (cpu_long_mode(v))
		cpu_set_rflags(v, v->gpr[GPR_R11] & SYSRET_FLAGS);
	else
		cpu_set_rflags(v, cpu_rflags(v) | FLAG_IF);
	v->rip = rip;
	cpu_mode_update(v);
	debug_reload_tf(v);
	return OP_JUMP;
}

int op_sysenter(struct vcpu *v, const struct insn *i)
{
	u16 sel = (u16)(v->msr_val[MSR_SLOT_SYSENTER_CS] & 0xfffc);
	bool lm = cpu_long_mode(v);

	if (v->vendor_amd && lm)
		return RAISE_UD(v);
	if (!cpu_prot(v) || !sel)
		return RAISE_GP0(v);
	cpu_set_rflags(v, cpu_rflags(v) & ~(FLAG_VM | FLAG_IF | FLAG_RF));
	seg_commit_flat(v, SEG_CS, sel, lm ? FLAT_CODE64 : FLAT_CODE32);
	seg_commit_flat(v, SEG_SS, (u16)(sel + 8), FLAT_DATA);
	v->gpr[GPR_RSP] = lm ? v->msr_val[MSR_SLOT_SYSENTER_ESP] : (u32)v->msr_val[MSR_SLOT_SYSENTER_ESP];
	v->rip = lm ? v->msr_val[MSR_SLOT_SYSENTER_EIP] : (u32)v->msr_val[MSR_SLOT_SYSENTER_EIP];
	cpu_mode_update(v);
	return OP_JUMP;
}

int op_sysexit(struct vcpu *v, const struct insn *i)
{
	u16 sel = (u16)(v->msr_val[MSR_SLOT_SYSENTER_CS] & 0xfffc);
	bool to64 = i->flags & INSN_REXW;
	u64 rip = v->gpr[GPR_RDX], rsp = v->gpr[GPR_RCX];

	if (v->vendor_amd && cpu_long_mode(v))
		return RAISE_UD(v);
	if (!cpu_prot(v) || v->cpl || !sel)
		return RAISE_GP0(v);
	if (to64 && (!la_canonical(v, rip) || !la_canonical(v, rsp)))
		return RAISE_GP0(v);
	sel = (u16)(sel + (to64 ? 32 : 16));
	seg_commit_flat(v, SEG_CS, sel | 3, (to64 ? FLAT_CODE64 : FLAT_CODE32) | FLAT_USER);
	seg_commit_flat(v, SEG_SS, (u16)(sel + 8) | 3, FLAT_DATA | FLAT_USER);
	v->rip = to64 ? rip : (u32)rip;
	v->gpr[GPR_RSP] = to64 ? rsp : (u32)rsp;
	cpu_mode_update(v);
	return OP_JUMP;
}
