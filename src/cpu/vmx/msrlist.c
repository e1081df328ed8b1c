/* SPDX-License-Identifier: MIT */
/* MSR lists of VM entries and exits, and the MSR bitmap [SDM3C "VM-Exit Controls for MSRs", "MSR-Bitmap Address"]. */
#include "cpu/vmx/vmx.h"

#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_BIOS_UPDATE 0x79u
#define MSR_UCODE_REV 0x8bu
#define MSR_SMM_MONITOR 0x9bu
#define MSR_SMBASE 0x9eu
#define MSR_LIST_MAX 512u /* IA32_VMX_MISC bits 27:25 are 0 */

struct msr_entry {
	u32 index;
	u32 reserved;
	u64 value;
};

static bool x2apic_msr(u32 index)
{
	return index >> 8 == 8;
}

static bool may_load(u32 index)
{
	return !x2apic_msr(index) && index != MSR_FS_BASE && index != MSR_GS_BASE && index != MSR_SMM_MONITOR &&
	       index != MSR_BIOS_UPDATE && index != MSR_UCODE_REV;
}

u32 vmx_msr_load(struct vcpu *v, gpa_t list, u32 count)
{
	for (u32 n = 0; n < count; n++) {
		struct msr_entry e;

		if (n >= MSR_LIST_MAX || mem_read(&v->vm->mem, v->smm, list + n * sizeof(e), &e, sizeof(e)) ||
		    e.reserved || !may_load(e.index) || cpu_wrmsr(v, e.index, e.value, false))
			return n + 1;
	}
	return 0;
}

u32 vmx_msr_store(struct vcpu *v, gpa_t list, u32 count)
{
	for (u32 n = 0; n < count; n++) {
		gpa_t at = list + n * sizeof(struct msr_entry);
		struct msr_entry e;

		if (n >= MSR_LIST_MAX || mem_read(&v->vm->mem, v->smm, at, &e, sizeof(e)) || e.reserved ||
		    x2apic_msr(e.index) || e.index == MSR_SMBASE || cpu_rdmsr(v, e.index, &e.value, false) ||
		    mem_write(&v->vm->mem, v->smm, at + 8, &e.value, 8))
			return n + 1;
	}
	return 0;
}

/* Four bitmaps of 1 KiB: read low, read high, write low, write high. */
bool vmx_msr_intercepted(struct vcpu *v, u32 index, bool write)
{
	const struct vmx_controls *c = &v->vmx->c;
	u32 at = (write ? 0x800 : 0) + (index >> 31 ? 0x400 : 0);
	u32 bit = index & 0x1fff;
	u8 byte;

	if (!(c->proc & PROC_MSR_BITMAPS) || (index & 0x3fffe000) || (index >> 30 != 0 && index >> 30 != 3))
		return true;
	if (mem_read(&v->vm->mem, v->smm, c->msr_bitmap + at + bit / 8, &byte, 1))
		return true;
	return byte >> (bit % 8) & 1;
}
