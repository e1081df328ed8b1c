/* SPDX-License-Identifier: MIT */
/*
 * VM-entry checks: the rows of spec/vmcheck.def, walked in order. The compiler turns each group into one run of
 * comparisons; a row is looked up by its number only when it does not hold.
 */
#include "cpu/vmx/cap.h"

#include "cpu/deliver.h"
#include "cpu/msr.h"

enum vmcheck_id vmcheck_off;

/**
 * struct check - what the rows look at
 * @image: a state that user space brings; segments, RIP and blocking are looked at when it runs, as in Linux
 * @bad_pin: bits of the pin-based controls with a setting that is not allowed; likewise the others
 */
struct check {
	struct vcpu *v;
	const struct vmx *x;
	u32 pin, proc, proc2, exit, entry, inject;
	u32 bad_pin, bad_proc, bad_proc2, bad_exit, bad_entry;
	bool image;
};

#define F(field) vmcs_get(c->x, VMCS_##field)
#define PIN(name) (!!(c->pin & PIN_##name))
#define PROC(name) (!!(c->proc & PROC_##name))
#define PROC2(name) (!!(c->proc2 & PROC2_##name))
#define EXIT(name) (!!(c->exit & EXIT_##name))
#define ENTRY(name) (!!(c->entry & ENTRY_##name))
#define MSRV(name) (c->v->msr_val[MSR_SLOT_##name])
#define EPT_CAP(n) (MSRV(VMX_EPT_VPID_CAP) & BIT(n))
#define WITHIN(address) (!((address) >> c->v->maxphyaddr))
#define LIST_END(address, count) ((address) + (count) * 16 - 1)
#define CANONICAL(address) ((u64)((s64)((u64)(address) << 16) >> 16) == (address))
#define EPTP_SWITCHING (PROC2(VMFUNC) && (F(VM_FUNCTION_CONTROL) & 1))
#define INJECT (c->inject & INTR_INFO_VALID)
#define INJECT_TYPE (c->inject >> 8 & 7)
#define INJECT_VECTOR (c->inject & 0xff)
#define INJECT_ERROR (c->inject & INTR_INFO_ERROR)
#define GUEST_PE (!PROC2(UNRESTRICTED) || (F(GUEST_CR0) & CR0_PE))
/* #DF #TS #NP #SS #GP #PF #AC; #CP and #VC do not exist here [SDM3C "VM-Entry Controls for Event Injection"] */
#define HAS_ERROR(vector) (0x27d00ull >> ((vector) & 63) & 1)
#define EFER_DEFINED (u64)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)
#define DEBUGCTL_DEFINED (u64)(3 | (cpu_has(c->v, FEAT_BUS_LOCK_DETECT) ? BIT(2) : 0))
#define PAT_USED_HOST EXIT(LOAD_PAT)
#define PAT_OF_HOST F(HOST_IA32_PAT)
#define PAT_USED_GUEST ENTRY(LOAD_PAT)
#define PAT_OF_GUEST F(GUEST_IA32_PAT)
#define PAT_OK(pat, n) ((u8)((pat) >> (8 * (n))) < 8 && (0xf3 >> (u8)((pat) >> (8 * (n))) & 1))
#define V86 (!!(F(GUEST_RFLAGS) & FLAG_VM))
#define AR(seg) (u32)F(GUEST_##seg##_AR_BYTES)
#define USABLE(seg) (!(AR(seg) & AR_UNUSABLE))
#define CHECKED(seg) (!V86 && USABLE(seg))
#define BLOCKING F(GUEST_INTERRUPTIBILITY_INFO)
#define PENDING_DBG_DEFINED (u64)(DR6_TRAP_BITS | PENDING_DBG_ENABLED | PENDING_DBG_BS)
#define STEP_BLOCKED ((BLOCKING & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS)) || \
		      F(GUEST_ACTIVITY_STATE) == ACTIVITY_HLT)
#define STEPPING ((F(GUEST_RFLAGS) & FLAG_TF) && !(F(GUEST_IA32_DEBUGCTL) & 2))
#define LINKED (F(VMCS_LINK_POINTER) != VMCS_NONE)
#define LINK_READABLE (LINKED && !(F(VMCS_LINK_POINTER) & 0xfff) && WITHIN(F(VMCS_LINK_POINTER)))
#define PAE_PAGING ((F(GUEST_CR0) & CR0_PG) && (F(GUEST_CR4) & CR4_PAE) && !ENTRY(IA32E))

static u64 vtpr(const struct check *c)
{
	u8 tpr = 0;

	(void)mem_read(&c->v->vm->mem, c->v->smm, F(VIRTUAL_APIC_PAGE_ADDR) + 0x80, &tpr, 1);
	return tpr >> 4;
}

static u32 link_revision(const struct check *c)
{
	u32 revision = 0;

	(void)mem_read(&c->v->vm->mem, c->v->smm, F(VMCS_LINK_POINTER), &revision, 4);
	return revision;
}

/* Events that end HLT. */
static bool halt_takes(const struct check *c)
{
	switch (INJECT_TYPE) {
	case EVENT_INTR:
	case EVENT_NMI:
	case INTR_TYPE_OTHER:
		return true;
	case EVENT_HARD_EXC:
		return INJECT_VECTOR == EXC_DB || INJECT_VECTOR == EXC_MC;
	default:
		return false;
	}
}

static bool pdpte_valid(const struct check *c, unsigned int n)
{
	u64 reserved = (~0ull << c->v->maxphyaddr) | 0x1e6, val = 0;

	if (PROC2(EPT))
		val = vmcs_get(c->x, (enum vmcs_field)(VMCS_GUEST_PDPTR0 + n));
	else if (mem_read(&c->v->vm->mem, c->v->smm, (F(GUEST_CR3) & 0xffffffe0) + n * 8, &val, 8))
		return false;
	return !(val & 1) || !(val & reserved);
}

static u32 bad_bits(u32 word, u64 msr)
{
	return (~word & (u32)msr) | (word & ~(u32)(msr >> 32));
}

static void fill(struct check *c, struct vcpu *v)
{
	c->v = v;
	c->x = v->vmx;
	c->pin = (u32)F(PIN_BASED_VM_EXEC_CONTROL);
	c->proc = (u32)F(CPU_BASED_VM_EXEC_CONTROL);
	c->proc2 = PROC(SECONDARY) ? (u32)F(SECONDARY_VM_EXEC_CONTROL) : 0;
	c->exit = (u32)F(VM_EXIT_CONTROLS);
	c->entry = (u32)F(VM_ENTRY_CONTROLS);
	c->inject = (u32)F(VM_ENTRY_INTR_INFO_FIELD);
	c->bad_pin = bad_bits(c->pin, MSRV(VMX_TRUE_PINBASED_CTLS));
	c->bad_proc = bad_bits(c->proc, MSRV(VMX_TRUE_PROCBASED_CTLS));
	c->bad_proc2 = PROC(SECONDARY) ? bad_bits(c->proc2, MSRV(VMX_PROCBASED_CTLS2)) : 0;
	c->bad_exit = bad_bits(c->exit, MSRV(VMX_TRUE_EXIT_CTLS));
	c->bad_entry = bad_bits(c->entry, MSRV(VMX_TRUE_ENTRY_CTLS));
}

/* Rows that Linux leaves to the hardware's VM entry. */
#define LATER(id) ((id) >= VMCHECK_TR_TI && (id) <= VMCHECK_PENDING_DBG_BS_EXTRA && (id) != VMCHECK_ACTIVITY && \
		   (id) != VMCHECK_ACTIVITY_SUPPORTED)
#define VMCHECK(id, group, qualification, holds)                                             \
	if (VMCHECK_##group == GROUP && unlikely(!(holds)) && vmcheck_off != VMCHECK_##id && \
	    !(LATER(VMCHECK_##id) && c->image))                                              \
		return VMCHECK_##id;

static enum vmcheck_id check_controls(const struct check *c)
{
#define GROUP VMCHECK_CONTROLS
#include "spec/vmcheck.def"
#undef GROUP
	return VMCHECK_OK;
}

static enum vmcheck_id check_host(const struct check *c)
{
#define GROUP VMCHECK_HOST
#include "spec/vmcheck.def"
#undef GROUP
	return VMCHECK_OK;
}

static enum vmcheck_id check_guest(const struct check *c)
{
#define GROUP VMCHECK_GUEST
#include "spec/vmcheck.def"
#undef GROUP
	return VMCHECK_OK;
}
#undef VMCHECK

bool vmx_check_image(struct vcpu *v)
{
	struct check c = { .image = true };

	fill(&c, v);
	return check_controls(&c) == VMCHECK_OK && check_host(&c) == VMCHECK_OK && check_guest(&c) == VMCHECK_OK;
}

enum vmcheck_id vmx_check(struct vcpu *v, enum vmcheck_group group)
{
	struct check c = { .image = false };

	fill(&c, v);
	switch (group) {
	case VMCHECK_CONTROLS:
		return check_controls(&c);
	case VMCHECK_HOST:
		return check_host(&c);
	default:
		return check_guest(&c);
	}
}

static const struct {
	const char *name;
	u8 qualification;
} rows[VMCHECK_COUNT] = {
#define VMCHECK(id, group, qualification, holds) [VMCHECK_##id] = { #id, qualification },
#include "spec/vmcheck.def"
#undef VMCHECK
};

u32 vmcheck_qualification(enum vmcheck_id id)
{
	return rows[id].qualification;
}

const char *vmcheck_name(enum vmcheck_id id)
{
	return rows[id].name;
}
