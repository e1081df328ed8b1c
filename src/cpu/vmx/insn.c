/* SPDX-License-Identifier: MIT */
/* VMX instructions of root operation [SDM3C "VMX Instruction Reference"]. */
#include "cpu/op/op.h"

#include "cpu/msr.h"
#include "cpu/op/operand.h"
#include "cpu/tlb.h"
#include "cpu/vmx/cap.h"

static int succeed(struct vcpu *v)
{
	v->aflags = 0;
	return OP_NEXT;
}

static int fail_invalid(struct vcpu *v)
{
	v->aflags = FLAG_CF << 8;
	return OP_NEXT;
}

static int fail(struct vcpu *v, enum vmx_error error)
{
	if (v->vmx->vmcs_gpa == VMCS_NONE)
		return fail_invalid(v);
	vmcs_put(v->vmx, VMCS_VM_INSTRUCTION_ERROR, error);
	v->aflags = FLAG_ZF << 8;
	return OP_NEXT;
}

/* What every VMX instruction but VMXON checks first. OP_NEXT to go on. */
static int check_root(struct vcpu *v)
{
	if (!v->vmx->on || !cpu_prot(v) || cpu_v86(v) || (cpu_long_mode(v) && !cpu_code64(v)))
		return RAISE_UD(v);
	if (v->cpl)
		return RAISE_GP0(v);
	return OP_NEXT;
}

/* IA32_FEATURE_CONTROL: locked, VMX outside SMX. */
static bool vmx_enabled(const struct vcpu *v)
{
	return (v->msr_val[MSR_SLOT_FEATURE_CONTROL] & 5) == 5;
}

static bool region_valid(const struct vcpu *v, u64 gpa)
{
	return !(gpa & (PAGE_SIZE - 1)) && !(gpa >> v->maxphyaddr);
}

int op_vmxon(struct vcpu *v, const struct insn *i)
{
	struct vmx *x = v->vmx;
	u64 gpa;
	u32 revision;
	int res;

	if (!cpu_has(v, FEAT_VMX) || !(v->cr4 & CR4_VMXE) || !cpu_prot(v) || cpu_v86(v) ||
	    (cpu_long_mode(v) && !cpu_code64(v)))
		return RAISE_UD(v);
	if (x->on)
		return v->cpl ? RAISE_GP0(v) : fail(v, VMXERR_VMXON_IN_ROOT);
	if (v->cpl || !vmx_enabled(v) || (v->cr0 & VMX_CR0_FIXED0_VALUE) != VMX_CR0_FIXED0_VALUE)
		return RAISE_GP0(v);
	res = cpu_read_mem(v, i, &gpa, 8);
	if (res)
		return res;
	if (!region_valid(v, gpa) || mem_read(&v->vm->mem, v->smm, gpa, &revision, 4) ||
	    revision != VMCS_REVISION)
		return fail_invalid(v);
	x->on = true;
	x->vmxon_gpa = gpa;
	x->vmcs_gpa = VMCS_NONE;
	return succeed(v);
}

int op_vmxoff(struct vcpu *v, const struct insn *i)
{
	int res = check_root(v);

	if (res)
		return res;
	vmcs_flush(v);
	v->vmx->on = false;
	vmx_forget_context(v->vmx, 0, 0);
	return succeed(v);
}

/* Read the m64 VMCS pointer of VMCLEAR and VMPTRLD and refuse what neither accepts. */
static int read_pointer(struct vcpu *v, const struct insn *i, enum vmx_error address,
			enum vmx_error vmxon, u64 *gpa, bool *refused)
{
	int res = check_root(v);

	if (!res)
		res = cpu_read_mem(v, i, gpa, 8);
	if (res)
		return res;
	*refused = true;
	if (!region_valid(v, *gpa))
		return fail(v, address);
	if (*gpa == v->vmx->vmxon_gpa)
		return fail(v, vmxon);
	*refused = false;
	return OP_NEXT;
}

int op_vmclear(struct vcpu *v, const struct insn *i)
{
	struct vmcs_header h = { .launched = 0 };
	bool refused = false;
	u64 gpa;
	int res = read_pointer(v, i, VMXERR_VMCLEAR_ADDRESS, VMXERR_VMCLEAR_VMXON, &gpa, &refused);

	if (res || refused)
		return res;
	if (gpa == v->vmx->vmcs_gpa) {
		vmcs_header(v->vmx)->launched = 0;
		vmcs_flush(v);
	} else {
		(void)mem_write(&v->vm->mem, v->smm, gpa + offsetof(struct vmcs_header, launched),
				&h.launched, sizeof(h.launched));
	}
	return succeed(v);
}

int op_vmptrld(struct vcpu *v, const struct insn *i)
{
	bool refused = false;
	u32 revision;
	u64 gpa;
	int res = read_pointer(v, i, VMXERR_PTRLD_ADDRESS, VMXERR_PTRLD_VMXON, &gpa, &refused);

	if (res || refused)
		return res;
	if (mem_read(&v->vm->mem, v->smm, gpa, &revision, 4) || (revision & ~(u32)VMCS_SHADOW) != VMCS_REVISION)
		return fail(v, VMXERR_PTRLD_REVISION);
	if (gpa != v->vmx->vmcs_gpa) {
		vmcs_flush(v);
		if (vmcs_load(v, gpa))
			return fail(v, VMXERR_PTRLD_REVISION);
	}
	return succeed(v);
}

int op_vmptrst(struct vcpu *v, const struct insn *i)
{
	int res = check_root(v);

	if (!res)
		res = cpu_write_mem(v, i, &v->vmx->vmcs_gpa, 8);
	return res ? res : succeed(v);
}

/* Natural width of VMREAD/VMWRITE's explicit operand. */
static unsigned int operand_bytes(const struct vcpu *v)
{
	return cpu_code64(v) ? 8 : 4;
}

/* Fields of features that this processor does not have cannot be named. */
static bool field_supported(const struct vcpu *v, enum vmcs_field f)
{
	switch (f) {
	case VMCS_LAST_PID_POINTER_INDEX:
	case VMCS_ENCLS_EXITING_BITMAP:
	case VMCS_TERTIARY_VM_EXEC_CONTROL:
	case VMCS_PID_POINTER_TABLE:
	case VMCS_GUEST_IA32_RTIT_CTL:
	case VMCS_GUEST_BNDCFGS:
	case VMCS_GUEST_IA32_PERF_GLOBAL_CTRL:
	case VMCS_HOST_IA32_PERF_GLOBAL_CTRL:
		return false;
	case VMCS_NOTIFY_WINDOW:
		return v->vmx->notify_offered;
	default:
		return f < VMCS_FIELDS;
	}
}

/**
 * struct field_access - one VMREAD or VMWRITE
 * @f: the field, or VMCS_FIELDS
 * @high: its upper half is named
 * @shadow: in non-root operation: the VMCS that the link pointer names, in memory
 */
struct field_access {
	enum vmcs_field f;
	bool high;
	gpa_t shadow;
};

static const u8 width_bytes[] = { [W16] = 2, [W64] = 8, [W32] = 4, [WNAT] = 8 };

/* OP_NEXT to go on; *failed: the instruction has failed with what the result says. */
static int check_field(struct vcpu *v, const struct insn *i, struct field_access *a, bool *failed)
{
	struct vmx *x = v->vmx;
	int res = check_root(v);

	*failed = false;
	if (res)
		return res;
	a->shadow = v->nonroot ? vmcs_get(x, VMCS_VMCS_LINK_POINTER) : VMCS_NONE;
	if (x->vmcs_gpa == VMCS_NONE || (v->nonroot && a->shadow == VMCS_NONE)) {
		*failed = true;
		return fail_invalid(v);
	}
	a->f = vmcs_lookup(gpr_get(v, insn_reg(i), operand_bytes(v)), &a->high);
	if (!field_supported(v, a->f)) {
		*failed = true;
		return fail(v, VMXERR_UNSUPPORTED_FIELD);
	}
	return OP_NEXT;
}

static u64 field_get(struct vcpu *v, const struct field_access *a)
{
	u64 val = 0;

	if (a->shadow == VMCS_NONE)
		return vmcs_get(v->vmx, a->f);
	(void)mem_read(&v->vm->mem, v->smm, a->shadow + vmcs_rows[a->f].offset, &val,
		       width_bytes[vmcs_rows[a->f].width]);
	return val;
}

static void field_put(struct vcpu *v, const struct field_access *a, u64 val)
{
	if (a->shadow == VMCS_NONE)
		vmcs_put(v->vmx, a->f, val);
	else
		(void)mem_write(&v->vm->mem, v->smm, a->shadow + vmcs_rows[a->f].offset, &val,
				width_bytes[vmcs_rows[a->f].width]);
}

int op_vmread(struct vcpu *v, const struct insn *i)
{
	struct field_access a;
	bool failed;
	u64 val;
	int res = check_field(v, i, &a, &failed);

	if (res || failed)
		return res;
	val = field_get(v, &a);
	if (a.high)
		val >>= 32;
	if (i->flags & INSN_MEM) {
		res = cpu_write_mem(v, i, &val, operand_bytes(v));
		if (res)
			return res;
	} else {
		v->gpr[insn_rm(i)] = cpu_code64(v) ? val : (u32)val;
	}
	return succeed(v);
}

int op_vmwrite(struct vcpu *v, const struct insn *i)
{
	struct field_access a;
	bool failed;
	u64 val = 0;
	int res = check_field(v, i, &a, &failed);

	if (res || failed)
		return res;
	if (i->flags & INSN_MEM)
		res = cpu_read_mem(v, i, &val, operand_bytes(v));
	else
		val = gpr_get(v, insn_rm(i), operand_bytes(v));
	if (res)
		return res;
	if (vmcs_rows[a.f].type == EXIT && !(VMX_MISC_VALUE & MISC_VMWRITE_ANY))
		return fail(v, VMXERR_READ_ONLY_FIELD);
	if (a.high)
		val = (u32)field_get(v, &a) | val << 32;
	else if (vmcs_rows[a.f].width == W64 && !cpu_code64(v))
		val = (field_get(v, &a) & ~0xffffffffull) | (u32)val;
	field_put(v, &a, val);
	return succeed(v);
}

/* ---- entry ------------------------------------------------------------------------------------------ */

static int enter(struct vcpu *v, bool launch)
{
	struct vmx *x = v->vmx;
	enum vmx_error error;
	int res = check_root(v);

	if (res)
		return res;
	if (x->vmcs_gpa == VMCS_NONE || (vmcs_header(x)->revision & VMCS_SHADOW))
		return fail_invalid(v);
	if (v->shadow_now & SHADOW_MOV_SS)
		return fail(v, VMXERR_ENTRY_MOV_SS);
	if (launch && vmcs_header(x)->launched)
		return fail(v, VMXERR_LAUNCH_NOT_CLEAR);
	if (!launch && !vmcs_header(x)->launched)
		return fail(v, VMXERR_RESUME_NOT_LAUNCHED);
	res = vmx_enter(v, &error);
	if (res != OP_NEXT)
		return res;
	/* VMLAUNCH ends its trace: control goes on at the next instruction. */
	fail(v, error);
	return OP_END;
}

int op_vmlaunch(struct vcpu *v, const struct insn *i)
{
	int res = enter(v, true);

	(void)i;
	return res == OP_NEXT ? OP_END : res;
}

int op_vmresume(struct vcpu *v, const struct insn *i)
{
	int res = enter(v, false);

	(void)i;
	return res == OP_NEXT ? OP_END : res;
}

/* ---- cached translations --------------------------------------------------------------------------------- */

enum invept_type { INVEPT_CONTEXT = 1, INVEPT_GLOBAL = 2 };
enum invvpid_type { INVVPID_ADDRESS, INVVPID_CONTEXT, INVVPID_ALL, INVVPID_CONTEXT_GLOBALS };

int op_invept(struct vcpu *v, const struct insn *i)
{
	struct vmx *x = v->vmx;
	u64 type, d[2];
	int res = check_root(v);

	if (res)
		return res;
	type = gpr_get(v, insn_reg(i), operand_bytes(v));
	if (type != INVEPT_CONTEXT && type != INVEPT_GLOBAL)
		return fail(v, VMXERR_INVALID_OPERAND);
	res = cpu_read_mem(v, i, d, 16);
	if (res)
		return res;
	if (type == INVEPT_CONTEXT && !vmx_eptp_valid(v, d[0]))
		return fail(v, VMXERR_INVALID_OPERAND);
	vmx_forget_context(x, 0, type == INVEPT_GLOBAL ? 0 : EP4TA(d[0]));
	return succeed(v);
}

int op_invvpid(struct vcpu *v, const struct insn *i)
{
	struct vmx *x = v->vmx;
	u64 type, d[2];
	int res = check_root(v);

	if (res)
		return res;
	type = gpr_get(v, insn_reg(i), operand_bytes(v));
	if (type > INVVPID_CONTEXT_GLOBALS)
		return fail(v, VMXERR_INVALID_OPERAND);
	res = cpu_read_mem(v, i, d, 16);
	if (res)
		return res;
	if (d[0] >> 16 || (type != INVVPID_ALL && !(u16)d[0]) ||
	    (type == INVVPID_ADDRESS && !msr_canonical(v, d[1])))
		return fail(v, VMXERR_INVALID_OPERAND);
	vmx_forget_context(x, type == INVVPID_ALL ? 0 : (u16)d[0], 0);
	return succeed(v);
}

/* Outside non-root operation. */
int op_vmfunc(struct vcpu *v, const struct insn *i)
{
	(void)i;
	return RAISE_UD(v);
}
