/* SPDX-License-Identifier: MIT */
/*
 * Instructions in VMX non-root operation. Records of L2 whose instruction can cause an exit are bound to
 * op_intercept() when they are decoded; everything else runs as in root operation.
 * [SDM3C "Instructions That Cause VM Exits", "Changes to Instruction Behavior in VMX Non-Root Operation"]
 */
#include "cpu/vmx/vmx.h"

#include <errno.h>

#include "cpu/msr.h"
#include "cpu/op/control.h"
#include "cpu/rcache.h"

#define EXIT_INSN(reason) vmx_raise_insn(v, i, VMEXIT_##reason, 0)

static int ordinary(struct vcpu *v, const struct insn *i)
{
	return insn_rows[i->id].op(v, i);
}

/* An exit whose qualification is the displacement of the memory operand. */
static int exit_operand(struct vcpu *v, const struct insn *i, u32 reason)
{
	u64 disp = i->flags & INSN_MEM ? (u64)(s64)i->disp : 0;

	if (i->base == GPR_RIP)
		disp += cpu_next_rip(v, i);
	else if (i->base == GPR_MOFFS)
		disp = (u64)i->imm;
	vmx_raise_insn(v, i, reason, disp);
	v->vmx->pending_exit.insn_info = vmx_insn_info(v, i);
	return OP_EXC;
}

static u64 operand_linear(struct vcpu *v, const struct insn *i)
{
	u64 ea = cpu_ea(v, i);

	if (!cpu_code64(v))
		return (u32)(ea + v->seg[insn_seg(i)].base);
	return insn_seg(i) >= SEG_FS ? ea + v->seg[insn_seg(i)].base : ea;
}

/* ---- control registers ------------------------------------------------------------------------------- */

enum cr_access { CR_TO, CR_FROM, CR_CLTS, CR_LMSW };

static int exit_cr(struct vcpu *v, const struct insn *i, unsigned int cr, enum cr_access type)
{
	u64 q = cr | (u64)type << 4;

	if (type <= CR_FROM)
		q |= (u64)insn_rm(i) << 8;
	return vmx_raise_insn(v, i, VMEXIT_CR_ACCESS, q);
}

bool vmx_cr0_valid(const struct vcpu *v, u64 val)
{
	u64 must = CR0_NE | CR0_PE | CR0_PG;

	if (v->nonroot && vmx_proc2(v, PROC2_UNRESTRICTED))
		must = CR0_NE;
	return (val & must) == must;
}

bool vmx_cr4_valid(const struct vcpu *v, u64 val)
{
	(void)v;
	return val & CR4_VMXE;
}

static u64 cr_operand(const struct vcpu *v, const struct insn *i)
{
	return gpr_get(v, insn_rm(i), cpu_code64(v) ? 8 : 4);
}

static bool cr3_target(const struct vcpu *v, u64 val)
{
	const struct vmx *x = v->vmx;
	u64 n = vmcs_get(x, VMCS_CR3_TARGET_COUNT);

	for (unsigned int k = 0; k < 4 && k < n; k++)
		if (vmcs_get(x, (enum vmcs_field)(VMCS_CR3_TARGET_VALUE0 + k)) == val)
			return true;
	return false;
}

static int set_masked(struct vcpu *v, int (*set)(struct vcpu *, u64), u64 val, u64 old, u64 mask)
{
	int r = set(v, (val & ~mask) | (old & mask));

	return r ? r : OP_END;
}

static int to_cr(struct vcpu *v, const struct insn *i)
{
	const struct vmx_controls *c = &v->vmx->c;
	u64 val = cr_operand(v, i);

	switch (insn_reg(i)) {
	case 0:
		if ((val ^ c->cr0_shadow) & c->cr0_mask)
			return exit_cr(v, i, 0, CR_TO);
		return set_masked(v, cpu_set_cr0, val, v->cr0, c->cr0_mask);
	case 3:
		if ((c->proc & PROC_CR3_LOAD) && !cr3_target(v, val))
			return exit_cr(v, i, 3, CR_TO);
		return ordinary(v, i);
	case 4:
		if ((val ^ c->cr4_shadow) & c->cr4_mask)
			return exit_cr(v, i, 4, CR_TO);
		return set_masked(v, cpu_set_cr4, val, v->cr4, c->cr4_mask);
	case 8:
		if (c->proc & PROC_CR8_LOAD)
			return exit_cr(v, i, 8, CR_TO);
		if (!(c->proc & PROC_TPR_SHADOW))
			return ordinary(v, i);
		if (val & ~15ull)
			return RAISE_GP0(v);
		return vmx_vapic_set_tpr(v, i, (u8)val);
	default:
		return ordinary(v, i);
	}
}

static u64 shown_cr0(const struct vcpu *v)
{
	const struct vmx_controls *c = &v->vmx->c;

	return (c->cr0_shadow & c->cr0_mask) | (v->cr0 & ~c->cr0_mask);
}

static int from_cr(struct vcpu *v, const struct insn *i)
{
	const struct vmx_controls *c = &v->vmx->c;
	u64 val;

	switch (insn_reg(i)) {
	case 0:
		val = shown_cr0(v);
		break;
	case 3:
		if (c->proc & PROC_CR3_STORE)
			return exit_cr(v, i, 3, CR_FROM);
		return ordinary(v, i);
	case 4:
		val = (c->cr4_shadow & c->cr4_mask) | (v->cr4 & ~c->cr4_mask);
		break;
	case 8:
		if (c->proc & PROC_CR8_STORE)
			return exit_cr(v, i, 8, CR_FROM);
		if (!(c->proc & PROC_TPR_SHADOW))
			return ordinary(v, i);
		val = vmx_vapic_tpr(v);
		break;
	default:
		return ordinary(v, i);
	}
	gpr_set(v, insn_rm(i), cpu_code64(v) ? 8 : 4, val);
	return OP_NEXT;
}

static int clts(struct vcpu *v, const struct insn *i)
{
	const struct vmx_controls *c = &v->vmx->c;

	if (!(c->cr0_mask & CR0_TS))
		return ordinary(v, i);
	return c->cr0_shadow & CR0_TS ? exit_cr(v, i, 0, CR_CLTS) : OP_END;
}

static int lmsw(struct vcpu *v, const struct insn *i)
{
	const struct vmx_controls *c = &v->vmx->c;
	u64 keep;
	u16 msw = 0;
	int r = i->flags & INSN_MEM ? cpu_read_mem(v, i, &msw, 2) : 0;

	if (r)
		return r;
	if (!(i->flags & INSN_MEM))
		msw = (u16)v->gpr[insn_rm(i)];
	if (((msw ^ c->cr0_shadow) & c->cr0_mask & 0xe) || (msw & ~c->cr0_shadow & c->cr0_mask & CR0_PE)) {
		exit_cr(v, i, 0, CR_LMSW);
		v->vmx->pending_exit.qualification |= (u64)msw << 16 | (i->flags & INSN_MEM ? BIT(6) : 0);
		v->vmx->pending_exit.gla = i->flags & INSN_MEM ? operand_linear(v, i) : 0;
		v->vmx->pending_exit.has_gla = true;
		return OP_EXC;
	}
	keep = ~0xeull | c->cr0_mask;
	r = cpu_set_cr0(v, (v->cr0 & keep) | (msw & 0xe & ~c->cr0_mask) | (msw & CR0_PE & ~c->cr0_mask));
	return r ? r : OP_END;
}

static int smsw(struct vcpu *v, const struct insn *i)
{
	u64 cr0 = v->cr0;
	int r;

	v->cr0 = shown_cr0(v);
	r = ordinary(v, i);
	v->cr0 = cr0;
	return r;
}

static int cr_access(struct vcpu *v, const struct insn *i)
{
	switch (i->id) {
	case INSN_MOV_TO_CR: return to_cr(v, i);
	case INSN_MOV_FROM_CR: return from_cr(v, i);
	case INSN_CLTS: return clts(v, i);
	case INSN_LMSW: return lmsw(v, i);
	default: return smsw(v, i);
	}
}

/* CR4.DE's #UD and the privilege check come first, the general-detect #DB after. */
static int dr_access(struct vcpu *v, const struct insn *i)
{
	unsigned int n = insn_reg(i);

	if (!vmx_proc(v, PROC_MOV_DR) || n > 7 || ((n == 4 || n == 5) && (v->cr4 & CR4_DE)))
		return ordinary(v, i);
	return vmx_raise_insn(v, i, VMEXIT_DR_ACCESS,
			      n | (i->id == INSN_MOV_FROM_DR ? BIT(4) : 0) | (u64)insn_rm(i) << 8);
}

/* ---- ports ----------------------------------------------------------------------------------------------- */

static bool io_bitmap_bit(struct vcpu *v, u32 port)
{
	u8 byte;

	port &= 0xffff;
	if (mem_read(&v->vm->mem, v->smm, v->vmx->c.io_bitmap[port >> 15] + (port & 0x7fff) / 8, &byte, 1))
		return true;
	return byte >> (port & 7) & 1;
}

static bool io_exits(struct vcpu *v, u32 port, unsigned int size)
{
	const struct vmx_controls *c = &v->vmx->c;

	if (!(c->proc & PROC_IO_BITMAPS))
		return c->proc & PROC_UNCOND_IO;
	if (port + size > 0x10000)
		return true;
	for (unsigned int n = 0; n < size; n++)
		if (io_bitmap_bit(v, port + n))
			return true;
	return false;
}

static int io_access(struct vcpu *v, const struct insn *i)
{
	bool string = insn_rows[i->id].traits & T_STRING, rep = i->flags & (INSN_REP | INSN_REPNE);
	bool in = insn_rows[i->id].op == op_in || insn_rows[i->id].op == op_ins;
	bool imm = !string && i->imm >= 0;
	u16 port = imm ? (u16)i->imm : (u16)v->gpr[GPR_RDX];
	u64 q = (i->osz - 1u) | (in ? BIT(3) : 0) | (string ? BIT(4) : 0) | (u64)port << 16;
	struct vmx_exit *e = &v->vmx->pending_exit;
	int r;

	if (v->pio.active || !io_exits(v, port, i->osz) || (string && rep && !gpr_get(v, GPR_RCX, insn_asz(i))))
		return ordinary(v, i);
	r = op_io_allowed(v, port, i->osz);
	if (r)
		return r;
	if (string) {
		unsigned int reg = in ? GPR_RDI : GPR_RSI;
		enum seg seg = in ? SEG_ES : insn_seg(i);
		u64 off = gpr_get(v, reg, insn_asz(i));
		gva_t la;

		r = seg_linear(v, seg, off, i->osz, in ? ACC_W : ACC_R, &la);
		if (r)
			return r;
		vmx_raise_insn(v, i, VMEXIT_IO, q | (rep ? BIT(5) : 0));
		e->gla = la;
		e->has_gla = true;
		e->insn_info = vmx_insn_info(v, i);
		return OP_EXC;
	}
	return vmx_raise_insn(v, i, VMEXIT_IO, q | (imm ? BIT(6) : 0));
}

/* ---- MSRs -------------------------------------------------------------------------------------------------- */

static int rdmsr(struct vcpu *v, const struct insn *i)
{
	u32 index = (u32)v->gpr[GPR_RCX];
	u64 val;

	if (v->msr.done)
		return ordinary(v, i);
	if (vmx_msr_intercepted(v, index, false))
		return EXIT_INSN(RDMSR);
	if (vmx_x2apic_read(v, index, &val))
		return ordinary(v, i);
	v->gpr[GPR_RAX] = (u32)val;
	v->gpr[GPR_RDX] = val >> 32;
	return OP_NEXT;
}

static int wrmsr(struct vcpu *v, const struct insn *i)
{
	u32 index = (u32)v->gpr[GPR_RCX];
	int res;

	if (v->msr.done)
		return ordinary(v, i);
	if (vmx_msr_intercepted(v, index, true))
		return EXIT_INSN(WRMSR);
	if (vmx_x2apic_write(v, index, (u32)v->gpr[GPR_RAX] | v->gpr[GPR_RDX] << 32, &res))
		return ordinary(v, i);
	return res;
}

/* ---- PAUSE --------------------------------------------------------------------------------------------------- */

/* [SDM3C "PAUSE-loop exiting"] */
static int pause_loop(struct vcpu *v, const struct insn *i)
{
	struct vmx *x = v->vmx;
	u64 now = cpu_tsc_root(v);

	if (!x->ple_last || now - x->ple_last > vmcs_get(x, VMCS_PLE_GAP)) {
		x->ple_first = now;
	} else if (now - x->ple_first > vmcs_get(x, VMCS_PLE_WINDOW)) {
		x->ple_last = 0;
		return EXIT_INSN(PAUSE);
	}
	x->ple_last = now;
	return ordinary(v, i);
}

static int pause_insn(struct vcpu *v, const struct insn *i)
{
	if (vmx_proc(v, PROC_PAUSE))
		return EXIT_INSN(PAUSE);
	if (vmx_proc2(v, PROC2_PLE) && v->cpl == 0)
		return pause_loop(v, i);
	return ordinary(v, i);
}

/* ---- VMREAD and VMWRITE on the shadow VMCS ------------------------------------------------------------------- */

static bool shadowed(struct vcpu *v, u64 encoding, bool write)
{
	struct vmx *x = v->vmx;
	u64 map = vmcs_get(x, write ? VMCS_VMWRITE_BITMAP : VMCS_VMREAD_BITMAP);
	u8 byte;

	if (!vmx_proc2(v, PROC2_SHADOW_VMCS) || encoding >> 15)
		return false;
	if (mem_read(&v->vm->mem, v->smm, map + encoding / 8, &byte, 1))
		return false;
	return !(byte >> (encoding % 8) & 1);
}

static int vm_read_write(struct vcpu *v, const struct insn *i, bool write)
{
	u64 encoding = gpr_get(v, insn_reg(i), cpu_code64(v) ? 8 : 4);

	if (!shadowed(v, encoding, write))
		return exit_operand(v, i, write ? VMEXIT_VMWRITE : VMEXIT_VMREAD);
	return ordinary(v, i);
}

/* ---- VMFUNC ----------------------------------------------------------------------------------------------------- */

static int vmfunc(struct vcpu *v, const struct insn *i)
{
	struct vmx *x = v->vmx;
	u32 function = (u32)v->gpr[GPR_RAX], index = (u32)v->gpr[GPR_RCX];
	u64 eptp;

	if (!vmx_proc2(v, PROC2_VMFUNC))
		return RAISE_UD(v);
	if (function > 63 || !(vmcs_get(x, VMCS_VM_FUNCTION_CONTROL) >> function & 1) || index > 511)
		return EXIT_INSN(VMFUNC);
	if (mem_read(&v->vm->mem, v->smm, vmcs_get(x, VMCS_EPTP_LIST_ADDRESS) + index * 8ull, &eptp, 8) ||
	    !vmx_eptp_valid(v, eptp))
		return EXIT_INSN(VMFUNC);
	vmcs_put(x, VMCS_EPT_POINTER, eptp);
	vmcs_put(x, VMCS_EPTP_INDEX, index);
	x->c.eptp = eptp;
	x->ctx[x->ctx_now].cr3 = v->cr3;
	if (x->ctx[x->ctx_now].ep4ta != EP4TA(eptp))
		vmx_switch_context(v);
	cpu_mode_update(v);
	return OP_END;
}

/* ---- the rest -------------------------------------------------------------------------------- */

static int invlpg(struct vcpu *v, const struct insn *i)
{
	if (!vmx_proc(v, PROC_INVLPG))
		return ordinary(v, i);
	return vmx_raise_insn(v, i, VMEXIT_INVLPG, operand_linear(v, i));
}

static int invpcid(struct vcpu *v, const struct insn *i)
{
	if (!vmx_proc2(v, PROC2_INVPCID))
		return RAISE_UD(v);
	return vmx_proc(v, PROC_INVLPG) ? exit_operand(v, i, VMEXIT_INVPCID) : ordinary(v, i);
}

/* One reading decides: L2 never sees a TSC at which its preemption timer would have expired. */
static int rdtsc_timed(struct vcpu *v, bool aux)
{
	const struct vmx_controls *c = &v->vmx->c;
	u64 tsc = cpu_tsc_root(v);

	if ((s64)(tsc - v->vmx->timer) >= 0)
		return vmx_raise(v, VMEXIT_PREEMPTION_TIMER, 0);
	tsc = vmx_l2_tsc(c, tsc);
	v->gpr[GPR_RAX] = (u32)tsc;
	v->gpr[GPR_RDX] = tsc >> 32;
	if (aux)
		v->gpr[GPR_RCX] = (u32)v->msr_val[MSR_SLOT_TSC_AUX];
	return OP_NEXT;
}

static int rdtsc(struct vcpu *v, const struct insn *i, u32 reason)
{
	if (reason == VMEXIT_RDTSCP && !vmx_proc2(v, PROC2_RDTSCP))
		return RAISE_UD(v);
	if ((v->cr4 & CR4_TSD) && v->cpl)
		return ordinary(v, i);
	if (vmx_proc(v, PROC_RDTSC))
		return vmx_raise_insn(v, i, reason, 0);
	return v->vmx->timer_on ? rdtsc_timed(v, reason == VMEXIT_RDTSCP) : ordinary(v, i);
}

static int rdpmc(struct vcpu *v, const struct insn *i)
{
	if (!vmx_proc(v, PROC_RDPMC) || (v->cpl && !(v->cr4 & CR4_PCE)))
		return ordinary(v, i);
	return EXIT_INSN(RDPMC);
}

static int user_wait(struct vcpu *v, const struct insn *i, u32 reason)
{
	if (!vmx_proc2(v, PROC2_USER_WAIT))
		return RAISE_UD(v);
	return vmx_proc(v, PROC_RDTSC) ? vmx_raise_insn(v, i, reason, 0) : ordinary(v, i);
}

static int hlt(struct vcpu *v, const struct insn *i)
{
	if (vmx_proc(v, PROC_HLT))
		return EXIT_INSN(HLT);
	v->vmx->activity = ACTIVITY_HLT;
	return ordinary(v, i);
}

static int table_access(struct vcpu *v, const struct insn *i, u32 reason)
{
	if (!vmx_proc2(v, PROC2_DESC_TABLE) || (v->cpl && (v->cr4 & CR4_UMIP)))
		return ordinary(v, i);
	if (reason == VMEXIT_LDTR_TR && (!cpu_prot(v) || cpu_v86(v)))
		return ordinary(v, i); /* #UD */
	return exit_operand(v, i, reason);
}

static int xsetbv(struct vcpu *v, const struct insn *i)
{
	return v->cr4 & CR4_OSXSAVE ? EXIT_INSN(XSETBV) : RAISE_UD(v);
}

static int xsaves(struct vcpu *v, const struct insn *i, u32 reason)
{
	u64 mask = (u32)v->gpr[GPR_RAX] | v->gpr[GPR_RDX] << 32;

	if (!vmx_proc2(v, PROC2_XSAVES))
		return RAISE_UD(v);
	if (mask & v->xss & vmcs_get(v->vmx, VMCS_XSS_EXIT_BITMAP))
		return exit_operand(v, i, reason);
	return ordinary(v, i);
}

/* Instructions of VMX operation exit whatever CPL is; outside protected mode they are undefined. */
static int vmx_insn(struct vcpu *v, const struct insn *i, u32 reason)
{
	if (!cpu_prot(v) || cpu_v86(v) || (cpu_long_mode(v) && !cpu_code64(v)))
		return RAISE_UD(v);
	if (reason == VMEXIT_VMREAD || reason == VMEXIT_VMWRITE)
		return vm_read_write(v, i, reason == VMEXIT_VMWRITE);
	return exit_operand(v, i, reason);
}

static int by_control(struct vcpu *v, const struct insn *i, u32 bit, u32 reason)
{
	return vmx_proc(v, bit) ? vmx_raise_insn(v, i, reason, 0) : ordinary(v, i);
}

static int op_intercept(struct vcpu *v, const struct insn *i)
{
	const struct insn_row *row = &insn_rows[i->id];
	u32 reason = row->intercept;

	if ((row->traits & T_CPL0) && v->cpl)
		return ordinary(v, i); /* #GP(0) comes first */
	switch (reason) {
	case VMEXIT_CPUID:
	case VMEXIT_INVD:
		return vmx_raise_insn(v, i, reason, 0);
	case VMEXIT_RDRAND:
	case VMEXIT_RDSEED:
		return exit_operand(v, i, reason);
	case VMEXIT_VMCALL:
		return i->id == INSN_VMCALL ? vmx_raise_insn(v, i, reason, 0) : RAISE_UD(v);
	case VMEXIT_HLT: return hlt(v, i);
	case VMEXIT_INVLPG: return invlpg(v, i);
	case VMEXIT_RDPMC: return rdpmc(v, i);
	case VMEXIT_RDTSC:
	case VMEXIT_RDTSCP: return rdtsc(v, i, reason);
	case VMEXIT_CR_ACCESS: return cr_access(v, i);
	case VMEXIT_DR_ACCESS: return dr_access(v, i);
	case VMEXIT_IO: return io_access(v, i);
	case VMEXIT_RDMSR: return rdmsr(v, i);
	case VMEXIT_WRMSR: return wrmsr(v, i);
	case VMEXIT_MWAIT: return by_control(v, i, PROC_MWAIT, reason);
	case VMEXIT_MONITOR: return by_control(v, i, PROC_MONITOR, reason);
	case VMEXIT_PAUSE: return pause_insn(v, i);
	case VMEXIT_GDTR_IDTR:
	case VMEXIT_LDTR_TR: return table_access(v, i, reason);
	case VMEXIT_WBINVD: return vmx_proc2(v, PROC2_WBINVD) ? EXIT_INSN(WBINVD) : ordinary(v, i);
	case VMEXIT_XSETBV: return xsetbv(v, i);
	case VMEXIT_INVPCID: return invpcid(v, i);
	case VMEXIT_XSAVES:
	case VMEXIT_XRSTORS: return xsaves(v, i, reason);
	case VMEXIT_UMWAIT:
	case VMEXIT_TPAUSE: return user_wait(v, i, reason);
	case VMEXIT_VMFUNC: return vmfunc(v, i);
	case VMEXIT_NONE: /* RDPID, UMONITOR: there or not there */
		if (vmx_proc2(v, i->id == INSN_RDPID ? PROC2_RDTSCP : PROC2_USER_WAIT))
			return ordinary(v, i);
		return RAISE_UD(v);
	default: return vmx_insn(v, i, reason);
	}
}

op_fn vmx_bind(const struct vcpu *v, const struct insn *rec)
{
	u32 reason = insn_rows[rec->id].intercept;

	switch (reason) {
	case VMEXIT_NONE:
		return rec->id == INSN_RDPID || rec->id == INSN_UMONITOR ? op_intercept : NULL;
	case VMEXIT_RDRAND:
		return v->mode_key & MODE_RANDOM_EXITS && vmx_proc2(v, PROC2_RDRAND) ? op_intercept : NULL;
	case VMEXIT_RDSEED:
		return v->mode_key & MODE_RANDOM_EXITS && vmx_proc2(v, PROC2_RDSEED) ? op_intercept : NULL;
	case VMEXIT_RSM:
		return NULL;
	default:
		return op_intercept;
	}
}
