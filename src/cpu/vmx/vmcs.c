/* SPDX-License-Identifier: MIT */
#include "cpu/vmx/vmx.h"

#include <errno.h>

enum vmcs_field vmcs_lookup(u64 encoding, bool *high)
{
	/* The table is sorted by encoding. */
	unsigned int lo = 0, hi = VMCS_FIELDS;
	u64 even = encoding & ~1ull;

	*high = encoding & 1;
	while (lo < hi) {
		unsigned int mid = (lo + hi) / 2;

		if (vmcs_rows[mid].enc < even)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == VMCS_FIELDS || vmcs_rows[lo].enc != even)
		return VMCS_FIELDS;
	if (*high && vmcs_rows[lo].width != W64)
		return VMCS_FIELDS;
	return (enum vmcs_field)lo;
}

int vmcs_load(struct vcpu *v, gpa_t gpa)
{
	if (mem_read(&v->vm->mem, v->smm, gpa, v->vmx->vmcs, VMCS_BYTES))
		return -EFAULT;
	v->vmx->vmcs_gpa = gpa;
	return 0;
}

void vmcs_sync(struct vcpu *v)
{
	struct vmx *x = v->vmx;

	/* The region's memory may be gone; L1 loses only its own data. */
	if (x->vmcs_gpa != VMCS_NONE)
		(void)mem_write(&v->vm->mem, v->smm, x->vmcs_gpa, x->vmcs, VMCS_BYTES);
}

void vmcs_flush(struct vcpu *v)
{
	vmcs_sync(v);
	v->vmx->vmcs_gpa = VMCS_NONE;
}
