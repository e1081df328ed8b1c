/* SPDX-License-Identifier: MIT */
/*
 * VT-x as part of the processor: VMX operation, the current VMCS, entries and exits.
 *
 * What L1 asks for lives in its VMCS and is read through vmcs_get(); what L0 enforces lives in
 * src/guard and is never merged into it (design §6). A VMCS is copied at VMPTRLD and written back at
 * VMCLEAR, VMPTRLD of another one and VMXOFF; every check and use is on the copy.
 */
#pragma once
#include <string.h>

#include "cpu/cpu.h"

#define VMCS_REVISION 0x11e57ed0u
#define VMCS_BYTES 4096u
#define VMCS_NONE (~0ull)

enum vmcs_width { W16, W64, W32, WNAT };	 /* encoding bits 14:13 */
enum vmcs_type { CONTROL, EXIT, GUEST, HOST };	 /* encoding bits 11:10 */

enum vmcs_field {
#define VMCS(name, enc, width, type, offset) VMCS_##name,
#include "spec/vmcs.def"
#undef VMCS
	VMCS_FIELDS
};

struct vmcs_row {
	u16 enc;
	u8 width;
	u8 type;
	u16 offset;
};

static const struct vmcs_row vmcs_rows[VMCS_FIELDS] = {
#define VMCS(name, enc, width, type, offset) [VMCS_##name] = { enc, width, type, offset },
#include "spec/vmcs.def"
#undef VMCS
};

/* Header of a VMCS region: KVM's layout [SDM3C "Format of the VMCS Region"]. */
struct vmcs_header {
	u32 revision;
	u32 abort;
	u32 launched;
};

/**
 * struct vmx - VMX operation of one vCPU
 * @on: between VMXON and VMXOFF
 * @nonroot: L2 is running
 * @vmxon_gpa: the VMXON region
 * @vmcs_gpa: the current VMCS, VMCS_NONE when there is none
 * @vmcs: its private copy
 */
struct vmx {
	bool on;
	bool nonroot;
	gpa_t vmxon_gpa;
	gpa_t vmcs_gpa;
	u8 vmcs[VMCS_BYTES] __attribute__((aligned(64)));
};

static inline u64 vmcs_get(const struct vmx *x, enum vmcs_field f)
{
	static const u8 bytes[] = { [W16] = 2, [W64] = 8, [W32] = 4, [WNAT] = 8 };
	u64 val = 0;

	memcpy(&val, x->vmcs + vmcs_rows[f].offset, bytes[vmcs_rows[f].width]);
	return val;
}

static inline void vmcs_put(struct vmx *x, enum vmcs_field f, u64 val)
{
	static const u8 bytes[] = { [W16] = 2, [W64] = 8, [W32] = 4, [WNAT] = 8 };

	memcpy(x->vmcs + vmcs_rows[f].offset, &val, bytes[vmcs_rows[f].width]);
}

static inline struct vmcs_header *vmcs_header(struct vmx *x)
{
	return (struct vmcs_header *)x->vmcs;
}

/* Row of an encoding given to VMREAD/VMWRITE, or VMCS_FIELDS; *high: the upper half of a 64-bit field. */
enum vmcs_field vmcs_lookup(u64 encoding, bool *high);

int vmcs_load(struct vcpu *v, gpa_t gpa);	/* guest memory -> copy; 0 or -EFAULT */
void vmcs_flush(struct vcpu *v);		/* copy -> guest memory; forgets the current VMCS */

/* Basic exit reasons used so far [SDM3D "Basic Exit Reasons"]. */
enum vmexit_reason {
	VMEXIT_EXCEPTION_NMI = 0, VMEXIT_EXTERNAL_INTERRUPT = 1, VMEXIT_TRIPLE_FAULT = 2,
	VMEXIT_CPUID = 10, VMEXIT_HLT = 12, VMEXIT_INVD = 13, VMEXIT_VMCALL = 18, VMEXIT_RDMSR = 31,
	VMEXIT_WRMSR = 32, VMEXIT_INVALID_GUEST_STATE = 33, VMEXIT_NOTIFY = 75,
};

/* VMLAUNCH/VMRESUME after their own checks: load L2. OP_JUMP, or OP_EXC/OP_STOP. */
int vmx_enter(struct vcpu *v);
/* L2 leaves for L1 at instruction i: save L2, load L1's host state. OP_JUMP. */
int vmx_exit(struct vcpu *v, u32 reason, u64 qualification, unsigned int insn_len);
/* Which handler runs insn id in non-root operation: the intercept, or NULL for the ordinary one. */
op_fn vmx_bind(const struct vcpu *v, const struct insn *rec);
