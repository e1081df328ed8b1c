/* SPDX-License-Identifier: MIT */
/* VMX instructions of root operation [SDM3C "VMX Instruction Reference"]. */
#include "cpu/op/op.h"

#include "cpu/vmx/vmx.h"

/* VM-instruction error numbers [SDM3C "VM Instruction Error Numbers"]. */
enum vmx_error {
	VMXERR_VMCLEAR_ADDRESS = 2, VMXERR_VMCLEAR_VMXON = 3, VMXERR_LAUNCH_NOT_CLEAR = 4,
	VMXERR_RESUME_NOT_LAUNCHED = 5, VMXERR_PTRLD_ADDRESS = 9, VMXERR_PTRLD_VMXON = 10,
	VMXERR_PTRLD_REVISION = 11, VMXERR_UNSUPPORTED_FIELD = 12, VMXERR_READ_ONLY_FIELD = 13,
	VMXERR_VMXON_IN_ROOT = 15,
};

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
	if (v->cpl)
		return RAISE_GP0(v);
	if (x->on)
		return fail(v, VMXERR_VMXON_IN_ROOT);
	res = cpu_read_mem(v, i, &gpa, 8);
	if (res)
		return res;
	if (!region_valid(v, gpa) || mem_read(&v->vm->mem, 0, gpa, &revision, 4) ||
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
		(void)mem_write(&v->vm->mem, 0, gpa + offsetof(struct vmcs_header, launched),
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
	if (mem_read(&v->vm->mem, 0, gpa, &revision, 4) || revision != VMCS_REVISION)
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

static int check_field(struct vcpu *v, const struct insn *i, enum vmcs_field *f, bool *high)
{
	int res = check_root(v);

	if (res)
		return res;
	*f = VMCS_FIELDS;
	if (v->vmx->vmcs_gpa == VMCS_NONE)
		return OP_NEXT;
	*f = vmcs_lookup(v->gpr[insn_reg(i)] & (cpu_code64(v) ? ~0ull : ~0u), high);
	return OP_NEXT;
}

int op_vmread(struct vcpu *v, const struct insn *i)
{
	enum vmcs_field f;
	bool high = false;
	u64 val;
	int res;

	/* The source field register is ModRM.reg. */
	res = check_field(v, i, &f, &high);
	if (res)
		return res;
	if (f == VMCS_FIELDS)
		return fail(v, VMXERR_UNSUPPORTED_FIELD);
	val = vmcs_get(v->vmx, f);
	if (high)
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
	enum vmcs_field f;
	bool high = false;
	u64 val = 0;
	int res = check_field(v, i, &f, &high);

	if (!res && (i->flags & INSN_MEM))
		res = cpu_read_mem(v, i, &val, operand_bytes(v));
	if (res)
		return res;
	if (!(i->flags & INSN_MEM))
		val = v->gpr[insn_rm(i)] & (cpu_code64(v) ? ~0ull : ~0u);
	if (f == VMCS_FIELDS)
		return fail(v, VMXERR_UNSUPPORTED_FIELD);
	if (vmcs_rows[f].type == EXIT)
		return fail(v, VMXERR_READ_ONLY_FIELD);
	if (high)
		val = (u32)vmcs_get(v->vmx, f) | val << 32;
	else if (vmcs_rows[f].width == W64 && !cpu_code64(v))
		val = (vmcs_get(v->vmx, f) & ~0xffffffffull) | (u32)val;
	vmcs_put(v->vmx, f, val);
	return succeed(v);
}

static int enter(struct vcpu *v, const struct insn *i, bool launch)
{
	struct vmx *x = v->vmx;
	int res = check_root(v);

	if (res)
		return res;
	if (x->vmcs_gpa == VMCS_NONE)
		return fail_invalid(v);
	if (launch && vmcs_header(x)->launched)
		return fail(v, VMXERR_LAUNCH_NOT_CLEAR);
	if (!launch && !vmcs_header(x)->launched)
		return fail(v, VMXERR_RESUME_NOT_LAUNCHED);
	vmcs_header(x)->launched = 1;
	return vmx_enter(v);
}

int op_vmlaunch(struct vcpu *v, const struct insn *i)
{
	return enter(v, i, true);
}

int op_vmresume(struct vcpu *v, const struct insn *i)
{
	return enter(v, i, false);
}

/* Not offered in the capability MSRs yet, so #UD as on a processor without EPT and VPID. */
int op_invept(struct vcpu *v, const struct insn *i)
{
	return RAISE_UD(v);
}

int op_invvpid(struct vcpu *v, const struct insn *i)
{
	return RAISE_UD(v);
}

int op_vmfunc(struct vcpu *v, const struct insn *i)
{
	return RAISE_UD(v);
}
