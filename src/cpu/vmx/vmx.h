/* SPDX-License-Identifier: MIT */
/*
 * VT-x as part of the processor: VMX operation, the current VMCS, entries and exits.
 *
 * What L1 asks for lives in its VMCS; at VM entry its controls are copied into struct vmx_controls. What L0
 * enforces lives in src/guard and is never merged into it (design §6). A VMCS is copied at VMPTRLD and
 * written back at VMCLEAR, VMPTRLD of another one and VMXOFF; every check and use is on the copy.
 */
#pragma once
#include <string.h>

#include "cpu/cpu.h"

#define VMCS_REVISION 0x11e57ed0u
#define VMCS_SHADOW BIT(31)	/* in the revision: a shadow VMCS */
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

enum vmexit_reason {
#define VMEXIT(name, number) VMEXIT_##name = number,
#include "spec/vmexit.def"
#undef VMEXIT
	VMEXIT_NONE = 255,
};
#define VMEXIT_ENTRY_FAILURE BIT(31)

/* PIN_EXT_INTR, PROC_HLT, PROC2_EPT, EXIT_HOST_64, ENTRY_IA32E, ... */
enum vmx_control_bits {
#define VMXCTL(word, name, bit, offered) word##_##name = 1u << (bit),
#include "spec/vmxctl.def"
#undef VMXCTL
};

/* VM-instruction error numbers [SDM3C "VM Instruction Error Numbers"]. */
enum vmx_error {
	VMXERR_VMCALL_ROOT = 1, VMXERR_VMCLEAR_ADDRESS = 2, VMXERR_VMCLEAR_VMXON = 3,
	VMXERR_LAUNCH_NOT_CLEAR = 4, VMXERR_RESUME_NOT_LAUNCHED = 5, VMXERR_ENTRY_CONTROLS = 7,
	VMXERR_ENTRY_HOST = 8, VMXERR_PTRLD_ADDRESS = 9, VMXERR_PTRLD_VMXON = 10, VMXERR_PTRLD_REVISION = 11,
	VMXERR_UNSUPPORTED_FIELD = 12, VMXERR_READ_ONLY_FIELD = 13, VMXERR_VMXON_IN_ROOT = 15,
	VMXERR_ENTRY_MOV_SS = 26, VMXERR_INVALID_OPERAND = 28,
};

/* Interruption information [SDM3C "VM-Entry Controls for Event Injection"]. */
#define INTR_INFO_ERROR BIT(11)
#define INTR_INFO_NMI_UNBLOCKED BIT(12)
#define INTR_INFO_VALID BIT(31)
#define INTR_TYPE_OTHER 7
/* Guest interruptibility */
#define INTERRUPTIBILITY_STI BIT(0)
#define INTERRUPTIBILITY_MOV_SS BIT(1)
#define INTERRUPTIBILITY_SMI BIT(2)
#define INTERRUPTIBILITY_NMI BIT(3)
enum vmx_activity { ACTIVITY_ACTIVE, ACTIVITY_HLT, ACTIVITY_SHUTDOWN, ACTIVITY_SIPI };
/* Pending debug exceptions */
#define PENDING_DBG_ENABLED BIT(12)
#define PENDING_DBG_BS BIT(14)
#define PENDING_DBG_RTM BIT(16)

#define VMX_TIMER_SHIFT 5 /* the preemption timer counts down when this bit of the TSC changes */
#define EPTP_AD BIT(6)
#define VM_ABORT_MSR_SAVE 1
#define VM_ABORT_PDPTE 2
#define VM_ABORT_MSR_LOAD 4

/**
 * struct vmx_controls - what L1 asked for at the last VM entry; used while L2 runs
 */
struct vmx_controls {
	u32 pin, proc, proc2, exit, entry;
	u32 exceptions, pf_mask, pf_match;
	u64 eptp, vapic, apic_access, msr_bitmap, io_bitmap[2];
	u64 cr0_mask, cr0_shadow, cr4_mask, cr4_shadow;
	u64 tsc_offset, tsc_multiplier;
	u16 vpid;
};

/**
 * struct vmx_exit - a VM exit that an instruction or an access raised
 */
struct vmx_exit {
	u32 reason;
	u32 insn_len;
	u32 insn_info;
	u32 intr_info, intr_error;
	u64 qualification;
	u64 gla, gpa;
	bool has_gla, has_gpa;
	bool rf;	/* the saved RFLAGS.RF is 1 */
	bool trap;	/* RIP is already that of the next instruction */
};

/**
 * struct vmx_smm - what SMI delivery keeps in the processor until RSM [SDM3C "Default Treatment of SMI Delivery"]
 * @vmxe: CR4.VMXE
 * @known: the others are set; not after KVM_SET_NESTED_STATE, which has no place for them
 * @ss_dpl, @v86: privilege level and RFLAGS.VM in VMX root operation; L2's are in its VMCS
 * @timer_on: the preemption timer goes on counting
 */
struct vmx_smm {
	bool vmxe, known, v86, timer_on;
	u8 ss_dpl;
};

/**
 * struct vmx_context - one TLB of non-root operation
 * @ep4ta: the EPT that its translations went through, bit 0 set, or 0
 * @cr3: CR3 when it was left
 * @used: the youngest one has the largest number
 */
struct vmx_context {
	bool valid;
	u16 vpid;
	u32 used;
	u64 ep4ta, cr3;
};
#define EP4TA(eptp) (((eptp) & ~0xfffull) | 1)

/* Where registers came from that no VM entry has looked at. */
enum vmx_recheck { RECHECK_NONE, RECHECK_USER, RECHECK_RSM };

/**
 * struct vmx - VMX operation of one vCPU
 * @on: between VMXON and VMXOFF
 * @vmxon_gpa: the VMXON region
 * @vmcs_gpa: the current VMCS, VMCS_NONE when there is none
 * @c: controls of the running L2
 * @pending_exit: the exit that an EVENT_VMEXIT in vcpu.exc stands for
 * @host_cr3: CR3 of L1 at the last VM entry
 * @ctx, @ctx_now, @ctx_clock: whose translations the TLBs of non-root operation hold; which one is used, and when
 * @root_nmi_masked: NMI blocking of L1, while blocking in L2 is virtual
 * @nmi_unblocked: the running IRET ended NMI blocking
 * @mtf_due: report a monitor trap flag exit at the next boundary
 * @activity: activity state that an exit at this boundary saves
 * @timer_on, @timer: the preemption timer runs; TSC of L1 at which it expires
 * @virtual_intr: a virtual interrupt is recognized (virtual-interrupt delivery)
 * @ple_first, @ple_last: TSC of the first and the last PAUSE of a loop
 * @recheck: registers came from outside: they may be what no VM entry lets in
 * @smm: VMX operation while SMM runs
 * @notify_offered: L1 may use notify VM exits
 * @run_pending: no instruction of L2 has run since VM entry
 * @trap_due: reason of an exit to make after the instruction (TPR below threshold, APIC write, EOI), or 0
 * @trap_qualification: its qualification
 * @aborted: a VMX abort happened: the processor is shut down
 * @vmcs: private copy of the current VMCS
 */
struct vmx {
	bool on;
	bool root_nmi_masked;
	bool nmi_unblocked;
	bool mtf_due;
	bool timer_on;
	bool timer_moved;	/* @timer was set from outside: arm again */
	bool virtual_intr;
	bool run_pending;
	bool notify_offered;
	bool aborted;
	bool smm_on, smm_nonroot;
	struct vmx_smm smm;
	u8 recheck;
	u8 activity;
	gpa_t vmxon_gpa;
	gpa_t vmcs_gpa;
	struct vmx_controls c;
	struct vmx_exit pending_exit;
	u32 trap_due;
	u64 trap_qualification;
	u64 host_cr3;
	struct vmx_context ctx[TLB_NONROOT];
	u32 ctx_now, ctx_clock;
	u64 timer;
	u64 ple_first, ple_last;
	u8 vmcs[VMCS_BYTES] __attribute__((aligned(64)));
};

__attribute__((always_inline)) static inline u64 vmcs_get(const struct vmx *x, enum vmcs_field f)
{
	static const u8 bytes[] = { [W16] = 2, [W64] = 8, [W32] = 4, [WNAT] = 8 };
	u64 val = 0;

	memcpy(&val, x->vmcs + vmcs_rows[f].offset, bytes[vmcs_rows[f].width]);
	return val;
}

__attribute__((always_inline)) static inline void vmcs_put(struct vmx *x, enum vmcs_field f, u64 val)
{
	static const u8 bytes[] = { [W16] = 2, [W64] = 8, [W32] = 4, [WNAT] = 8 };

	memcpy(x->vmcs + vmcs_rows[f].offset, &val, bytes[vmcs_rows[f].width]);
}

/* What the VMCS wanted injected has been. */
static inline void vmx_injected(struct vmx *x)
{
	vmcs_put(x, VMCS_VM_ENTRY_INTR_INFO_FIELD,
		 vmcs_get(x, VMCS_VM_ENTRY_INTR_INFO_FIELD) & ~(u64)INTR_INFO_VALID);
}

/* The fields of a kind that segments have lie in the order of enum seg: element @n of the array that @first begins. */
static inline void *vmcs_at(struct vmx *x, enum vmcs_field first, unsigned int n, unsigned int bytes)
{
	return x->vmcs + vmcs_rows[first].offset + n * bytes;
}

static inline struct vmcs_header *vmcs_header(struct vmx *x)
{
	return (struct vmcs_header *)x->vmcs;
}

/* Is a primary, or with the secondary controls active a secondary, control set for the running L2? */
static inline bool vmx_proc(const struct vcpu *v, u32 bit) { return v->vmx->c.proc & bit; }
static inline bool vmx_proc2(const struct vcpu *v, u32 bit) { return v->vmx->c.proc2 & bit; }

/* What L2 reads when the TSC of L1 is @tsc. */
static inline u64 vmx_l2_tsc(const struct vmx_controls *c, u64 tsc)
{
	if (c->tsc_multiplier)
		tsc = (u64)((u128)tsc * c->tsc_multiplier >> 48);
	return tsc + c->tsc_offset;
}

/* Let this vCPU's L1 use notify VM exits; before it runs. */
void vmx_offer_notify(struct vcpu *v);
/* Take "unrestricted guest" away from it. */
void vmx_restrict(struct vcpu *v);

/* ---- vmcs.c ---- */

/* Row of an encoding given to VMREAD/VMWRITE, or VMCS_FIELDS; *high: the upper half of a 64-bit field. */
enum vmcs_field vmcs_lookup(u64 encoding, bool *high);
int vmcs_load(struct vcpu *v, gpa_t gpa);	/* guest memory -> copy; 0 or -EFAULT */
void vmcs_flush(struct vcpu *v);		/* copy -> guest memory; forgets the current VMCS */
/* What memory holds of the copy now is stale; bring it up to date and keep the copy (KVM_GET_NESTED_STATE). */
void vmcs_sync(struct vcpu *v);

/* ---- check.c: VM-entry checks ---- */

enum vmcheck_group { VMCHECK_CONTROLS, VMCHECK_HOST, VMCHECK_GUEST };
/* Rows of spec/vmcheck.def; 0 = every row holds. */
enum vmcheck_id {
	VMCHECK_OK,
#define VMCHECK(id, group, qualification, holds) VMCHECK_##id,
#include "spec/vmcheck.def"
#undef VMCHECK
	VMCHECK_COUNT
};
/* The first row of a group that does not hold, in the manual's order, or VMCHECK_OK. */
enum vmcheck_id vmx_check(struct vcpu *v, enum vmcheck_group group);
/* May a VMCS come with KVM_SET_NESTED_STATE? What is not checked there is when L2 runs. */
bool vmx_check_image(struct vcpu *v);
u32 vmcheck_qualification(enum vmcheck_id id);
const char *vmcheck_name(enum vmcheck_id id);
extern enum vmcheck_id vmcheck_off; /* tests: this row is not looked at */

/* ---- enter.c, exit.c ---- */

/* VMLAUNCH/VMRESUME after their own checks. OP_JUMP (L2 runs, or L1 after a failed entry), or OP_NEXT with *error. */
int vmx_enter(struct vcpu *v, enum vmx_error *error);
void vmx_load_controls(struct vcpu *v);
/* Use the TLB of c.vpid and c.eptp. */
void vmx_switch_context(struct vcpu *v);
/* Translations of a VPID (0: any) through an EPT (0: any) are gone. */
void vmx_forget_context(struct vmx *x, u16 vpid, u64 ep4ta);
/* Guest state from the VMCS copy into the registers; event injection and MSR lists are not part of it. */
void vmx_load_guest(struct vcpu *v);
/* L2 of a loaded VMCS copy runs on as if it had never left; pending: its entry had not completed. */
void vmx_resume_saved(struct vcpu *v, bool pending, bool mtf);
/* Non-root operation begins again as SMI delivery left it, the registers aside. */
void vmx_reenter(struct vcpu *v);
void vmx_save_guest(struct vcpu *v);
/* Out of non-root operation, and nothing loaded for L1. */
void vmx_leave_nonroot(struct vcpu *v);
/* Raise an exit; returns OP_EXC. The form with a record is for instructions and stores their length. */
int vmx_raise(struct vcpu *v, u32 reason, u64 qualification);
int vmx_raise_insn(struct vcpu *v, const struct insn *i, u32 reason, u64 qualification);
/* Perform the raised exit; vectoring: the event whose delivery it interrupted, or NULL. */
void vmx_take_exit(struct vcpu *v, const struct event *vectoring);
/* Exit now, at a boundary. */
void vmx_exit_now(struct vcpu *v, u32 reason, u64 qualification);
/* L2 ends with a triple-fault exit that it did not cause, or the like; the caller records the departure. */
void vmx_exit_triple_fault(struct vcpu *v);
/* L1 goes on at its exit handler, without exit information (KVM_SET_NESTED_STATE, a forced SMM state). */
void vmx_leave_quietly(struct vcpu *v);
/* Reset or INIT: VMX operation ends. */
void vmx_reset(struct vcpu *v);
void vmx_abort(struct vcpu *v, u32 indicator);

/* ---- invalid.c ---- */

/* Before a guest runs on registers from outside. True: it could not; v->stop is set or L1 has been given an exit. */
bool vmx_recheck(struct vcpu *v);
/* Could L2 hold these segments? What KVM looks at, [SDM3C "Checks on Guest Segment Registers"] in part. */
bool vmx_state_valid(const struct vcpu *v);

/* ---- smi.c: SMM and VMX operation ---- */
void vmx_smi(struct vcpu *v);	/* the registers are saved: leave VMX operation */
void vmx_rsm(struct vcpu *v);	/* and go back, before the registers are loaded */
/* The manual's additions to the registers that RSM is about to load; state is what SMRAM holds of them. */
struct vmx_rsm_state {
	u64 *cr0, *cr4, *rflags;
	struct segment *cs, *ss;
};
bool vmx_rsm_default(const struct vcpu *v, const struct vmx_rsm_state *s); /* false: shutdown */

/* ---- msrlist.c ---- */

/* 0, or 1 + index of the entry that could not be loaded/stored. */
u32 vmx_msr_load(struct vcpu *v, gpa_t list, u32 count);
u32 vmx_msr_store(struct vcpu *v, gpa_t list, u32 count);
/* Does the MSR bitmap ask for an exit? */
bool vmx_msr_intercepted(struct vcpu *v, u32 index, bool write);

/* ---- intercept.c, info.c ---- */

/* Which handler runs an instruction in non-root operation: ours, or NULL for the ordinary one. */
op_fn vmx_bind(const struct vcpu *v, const struct insn *rec);
u32 vmx_insn_info(const struct vcpu *v, const struct insn *i);
/* CR0, CR4 as fixed by VMX operation; asked by MOV to CR. */
bool vmx_cr0_valid(const struct vcpu *v, u64 val);
bool vmx_cr4_valid(const struct vcpu *v, u64 val);

/* ---- event.c ---- */

/* An event about to be delivered in L2: true when L1 wanted it and the exit has been made. */
bool vmx_intercept_event(struct vcpu *v, const struct event *ev, const struct event *vectoring);
/* At a boundary, before and after debug traps: true when an exit has been made. */
bool vmx_boundary_first(struct vcpu *v);
bool vmx_boundary(struct vcpu *v);
bool vmx_wants_nmi(struct vcpu *v);	/* NMI pending: exit made */
bool vmx_wants_intr(struct vcpu *v);	/* interrupt pending: exit made, or taken by posted-interrupt processing */
bool vmx_takes_intr(const struct vcpu *v); /* external interrupts exit whatever IF says */
bool vmx_wakes(struct vcpu *v);		/* something ends HLT besides NMI and interrupts */
/* Virtual interrupt to deliver now, or -1. */
int vmx_virtual_intr(struct vcpu *v);
void vmx_inject(struct vcpu *v);

/* ---- ept.c ---- */

enum ept_how { EPT_TABLE = 1, EPT_QUIET = 2, EPT_USER = 4 };
/**
 * struct ept_xlat - a guest-physical page through EPT
 * @bits: XL_E* rights
 */
struct ept_xlat {
	gpa_t page;
	u32 bits;
	u8 shift;	/* log2 of the EPT page's size */
};
/**
 * vmx_ept() - translate a guest-physical address of L2
 * @acc: ACC_R, ACC_W, ACC_X
 * @how: enum ept_how
 * @la: linear address that led here
 *
 * Return: 0; OP_EXC: an exit or #VE was raised (with EPT_QUIET: not mapped); OP_STOP.
 */
int vmx_ept(struct vcpu *v, gpa_t gpa, u32 acc, u32 how, gva_t la, u32 lin_bits, struct ept_xlat *x);
bool vmx_eptp_valid(const struct vcpu *v, u64 eptp);

/* ---- vapic.c ---- */

/* An access to the APIC-access page: 0 done with *val, or OP_EXC. */
int vmx_apic_access(struct vcpu *v, u32 off, unsigned int len, u32 acc, gva_t la);
int vmx_apic_read(struct vcpu *v, u32 off, unsigned int len, void *dst);
int vmx_apic_write(struct vcpu *v, u32 off, unsigned int len, const void *src);
bool vmx_is_apic_page(const struct vcpu *v, gpa_t page);
int vmx_x2apic_read(struct vcpu *v, u32 index, u64 *val);	/* 0 virtualized; -ENOENT ordinary */
int vmx_x2apic_write(struct vcpu *v, u32 index, u64 val, int *res);
u8 vmx_vapic_tpr(struct vcpu *v);
int vmx_vapic_set_tpr(struct vcpu *v, const struct insn *i, u8 tpr);
void vmx_vapic_evaluate(struct vcpu *v);
u8 vmx_vapic_ack(struct vcpu *v);
void vmx_posted_process(struct vcpu *v);
