/* SPDX-License-Identifier: MIT */
/* VM-exit instruction information [SDM3C "Information for VM Exits Due to Instruction Execution"]. */
#include "cpu/vmx/vmx.h"

#include "cpu/op/op.h"

static u32 address_size(const struct insn *i)
{
	return (u32)(i->addr & 3) << 7;
}

/* Bits that every memory operand has: scale, address size, segment, index, base. */
static u32 memory_operand(const struct insn *i)
{
	u32 info = insn_scale(i) | address_size(i) | (u32)insn_seg(i) << 15;

	info |= i->index < GPR_NONE ? (u32)i->index << 18 : 1u << 22;
	info |= i->base < GPR_NONE ? (u32)i->base << 23 : 1u << 27;
	return info;
}

static u32 operand_size(const struct insn *i)
{
	return i->osz == 8 ? 2 : i->osz == 4 ? 1 : 0;
}

/* SGDT 0, SIDT 1, LGDT 2, LIDT 3; SLDT 0, STR 1, LLDT 2, LTR 3 */
static u32 table_identity(const struct insn *i)
{
	switch (i->id) {
	case INSN_SIDT:
	case INSN_STR:
		return 1;
	case INSN_LGDT:
	case INSN_LLDT:
		return 2;
	case INSN_LIDT:
	case INSN_LTR:
		return 3;
	default:
		return 0;
	}
}

static u32 register_or_memory(const struct insn *i)
{
	if (i->flags & INSN_MEM)
		return memory_operand(i);
	return insn_rm(i) << 3 | BIT(10);
}

u32 vmx_insn_info(const struct vcpu *v, const struct insn *i)
{
	(void)v;
	switch (insn_rows[i->id].intercept) {
	case VMEXIT_IO:
		return address_size(i) | (u32)insn_seg(i) << 15;
	case VMEXIT_GDTR_IDTR:
		return memory_operand(i) | (i->osz == 2 ? 0 : 1u << 11) | table_identity(i) << 28;
	case VMEXIT_LDTR_TR:
		return register_or_memory(i) | table_identity(i) << 28;
	case VMEXIT_VMREAD:
	case VMEXIT_VMWRITE:
	case VMEXIT_INVEPT:
	case VMEXIT_INVVPID:
	case VMEXIT_INVPCID:
		return register_or_memory(i) | insn_reg(i) << 28;
	case VMEXIT_VMCLEAR:
	case VMEXIT_VMPTRLD:
	case VMEXIT_VMPTRST:
	case VMEXIT_VMXON:
	case VMEXIT_XSAVES:
	case VMEXIT_XRSTORS:
		return memory_operand(i);
	case VMEXIT_RDRAND:
	case VMEXIT_RDSEED:
		return insn_rm(i) << 3 | operand_size(i) << 11;
	default:
		return 0;
	}
}
