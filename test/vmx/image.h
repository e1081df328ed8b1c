/* SPDX-License-Identifier: MIT */
/*
 * VMCS images for tests of VM entry: a processor in VMX root operation whose VMCS copy the test writes itself,
 * valid images of many kinds, and changes near the boundary of validity.
 */
#pragma once
#include <sys/mman.h>

#include "cpu/vmx/cap.h"
#include "tap.h"

#define RAM_SIZE (1u << 20)
#define PAGE_VMCS 0x10000u
#define PAGE_LINK 0x11000u	/* a shadow VMCS */
#define PAGE_VAPIC 0x12000u
#define PAGE_BITMAPS 0x13000u
#define PAGE_PDPT 0x14000u
#define PAGE_LIST 0x15000u

enum image_flags {
	IMG_FEATURES = 1 << 0,	/* every control with something to check */
	IMG_LEGACY = 1 << 1,	/* 32-bit guest */
	IMG_PAE = 1 << 2,	/* with PAE paging */
	IMG_EPT = 1 << 3,
	IMG_V86 = 1 << 4,
	IMG_REAL = 1 << 5,	/* unrestricted, real mode */
	IMG_HOST32 = 1 << 6,	/* L1 is a 32-bit hypervisor */
	IMG_STI = 1 << 7,
	IMG_MOV_SS = 1 << 8,
	IMG_HLT = 1 << 9,
	IMG_TF = 1 << 10,
	IMG_LINK = 1 << 11,	/* VMCS shadowing with a link pointer */
	IMG_INTR = 1 << 12,
	IMG_NMI = 1 << 13,
	IMG_EXC = 1 << 14,	/* #GP with error code */
	IMG_UD = 1 << 15,
	IMG_SOFT = 1 << 16,
	IMG_MTF = 1 << 17,
	IMG_CONFORMING = 1 << 18,
	IMG_DATA_UNUSABLE = 1 << 19,
	IMG_LDTR = 1 << 20,
	IMG_VTPR = 1 << 21,	/* a TPR shadow without APIC virtualization */
	IMG_VINTR = 1 << 22,	/* virtual-interrupt delivery alone */
	IMG_VMFUNC = 1 << 23,
	IMG_FLAGS = 24,
};

static struct machine img_vm;
static u8 *img_ram;
static struct vcpu *img_v;

static const struct cpu_bus img_bus = { 0 };

__attribute__((unused)) static void img_start(void)
{
	img_ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (img_ram == MAP_FAILED || machine_init(&img_vm, &img_bus, NULL) ||
	    mem_set_slot(&img_vm.mem, 0, 0, 0, 0, RAM_SIZE, img_ram))
		bail_out("no machine");
	img_v = vcpu_create(&img_vm, 0);
	if (!img_v)
		bail_out("no vCPU");
	cpu_enter_guest(img_v);
}

/* L1 between VMPTRLD and VMLAUNCH. */
__attribute__((unused)) static void img_l1(u32 flags)
{
	struct vcpu *v = img_v;

	vmx_reset(v);
	v->nonroot = v->ept = false;
	mmu_context(v, false);
	v->stop = CPU_RUN;
	v->inj.valid = v->exc.valid = false;
	v->cr0 = 0x80000031;
	v->cr3 = 0x2000;
	v->cr4 = 0x2020;
	v->efer = flags & IMG_HOST32 ? 0 : EFER_LMA | EFER_LME;
	v->seg[SEG_CS].ar = flags & IMG_HOST32 ? 0xc09b : 0xa09b;
	v->vmx->on = true;
	v->vmx->vmxon_gpa = 0x1000;
	v->vmx->vmcs_gpa = PAGE_VMCS;
	cpu_mode_update(v);
}

static inline void put(enum vmcs_field f, u64 val) { vmcs_put(img_v->vmx, f, val); }
static inline u64 get(enum vmcs_field f) { return vmcs_get(img_v->vmx, f); }

static inline void add(enum vmcs_field f, u64 bits) { put(f, get(f) | bits); }
static inline void del(enum vmcs_field f, u64 bits) { put(f, get(f) & ~bits); }

static void img_host(u32 flags)
{
	static const enum vmcs_field sel[] = { VMCS_HOST_ES_SELECTOR, VMCS_HOST_SS_SELECTOR, VMCS_HOST_DS_SELECTOR,
		VMCS_HOST_FS_SELECTOR, VMCS_HOST_GS_SELECTOR };

	for (size_t n = 0; n < ARRAY_SIZE(sel); n++)
		put(sel[n], 0x10);
	put(VMCS_HOST_CS_SELECTOR, 8);
	put(VMCS_HOST_TR_SELECTOR, 0x40);
	put(VMCS_HOST_CR0, 0x80000031);
	put(VMCS_HOST_CR3, 0x2000);
	put(VMCS_HOST_CR4, 0x2020);
	put(VMCS_HOST_RIP, 0x4000);
	put(VMCS_HOST_RSP, 0x5000);
	put(VMCS_HOST_IA32_PAT, 0x0007040600070406);
	put(VMCS_HOST_IA32_EFER, flags & IMG_HOST32 ? 0 : 0x500);
}

static void img_segments(u32 flags)
{
	bool v86 = flags & IMG_V86, real = flags & IMG_REAL;

	for (unsigned int n = 0; n < 6; n++) {
		u32 ar = n == SEG_CS ? flags & (IMG_LEGACY | IMG_PAE | IMG_REAL) ? 0xc09b : 0xa09b : 0xc093;

		if (flags & IMG_CONFORMING && n == SEG_CS)
			ar |= 4;
		put(VMCS_GUEST_ES_SELECTOR + n, v86 || real ? 0x100 : n == SEG_CS ? 8 : 0x10);
		put(VMCS_GUEST_ES_BASE + n, v86 || real ? 0x1000 : 0);
		put(VMCS_GUEST_ES_LIMIT + n, v86 || real ? 0xffff : 0xffffffff);
		put(VMCS_GUEST_ES_AR_BYTES + n, v86 ? 0xf3 : real ? n == SEG_CS ? 0x93 : 0x93 : ar);
	}
	if (flags & IMG_DATA_UNUSABLE)
		for (unsigned int n = SEG_DS; n <= SEG_GS; n++)
			put(VMCS_GUEST_ES_AR_BYTES + n, 0x10000);
	put(VMCS_GUEST_TR_SELECTOR, 0x40);
	put(VMCS_GUEST_TR_LIMIT, 0x67);
	put(VMCS_GUEST_TR_AR_BYTES, 0x8b);
	put(VMCS_GUEST_LDTR_AR_BYTES, flags & IMG_LDTR ? 0x82 : 0x10000);
	put(VMCS_GUEST_GDTR_LIMIT, 0xffff);
	put(VMCS_GUEST_IDTR_LIMIT, 0xffff);
}

static void img_features(void)
{
	add(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_IO_BITMAPS | PROC_MSR_BITMAPS | PROC_TPR_SHADOW);
	add(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VAPIC_ACCESS | PROC2_VPID | PROC2_PML | PROC2_EPT | PROC2_VE |
	    PROC2_VMFUNC | PROC2_SHADOW_VMCS | PROC2_VINTR | PROC2_APIC_REGISTER | PROC2_TSC_SCALING | PROC2_MBEC);
	add(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_NMI | PIN_VNMI | PIN_EXT_INTR | PIN_POSTED | PIN_TIMER);
	add(VMCS_VM_EXIT_CONTROLS, EXIT_ACK_INTR | EXIT_SAVE_TIMER | EXIT_LOAD_PAT | EXIT_LOAD_EFER);
	add(VMCS_VM_ENTRY_CONTROLS, ENTRY_LOAD_PAT | ENTRY_LOAD_EFER | ENTRY_LOAD_DEBUG);
	put(VMCS_VM_FUNCTION_CONTROL, 1);
	put(VMCS_VM_EXIT_MSR_STORE_COUNT, 2);
	put(VMCS_VM_EXIT_MSR_LOAD_COUNT, 2);
	put(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 2);
}

static void img_inject(u32 flags)
{
	u32 info = 0;

	if (flags & IMG_INTR)
		info = 0x80000020;
	else if (flags & IMG_NMI)
		info = 0x80000202;
	else if (flags & IMG_EXC)
		info = flags & IMG_REAL ? 0x8000030d : 0x80000b0d;
	else if (flags & IMG_UD)
		info = 0x80000306;
	else if (flags & IMG_SOFT)
		info = 0x8000040d;
	else if (flags & IMG_MTF)
		info = 0x80000700;
	put(VMCS_VM_ENTRY_INTR_INFO_FIELD, info);
	put(VMCS_VM_ENTRY_INSTRUCTION_LEN, 2);
	if (flags & IMG_INTR)
		add(VMCS_GUEST_RFLAGS, FLAG_IF);
	if (flags & (IMG_NMI))
		add(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_NMI | PIN_VNMI);
}

static void img_mode(u32 flags)
{
	if (flags & (IMG_LEGACY | IMG_PAE | IMG_V86 | IMG_REAL | IMG_HOST32)) {
		del(VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E);
		put(VMCS_GUEST_IA32_EFER, 0);
		del(VMCS_GUEST_CR4, CR4_PAE);
	}
	if (flags & (IMG_PAE))
		add(VMCS_GUEST_CR4, CR4_PAE);
	if (flags & (IMG_EPT | IMG_REAL))
		add(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_EPT);
	if (flags & IMG_REAL) {
		add(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_UNRESTRICTED);
		put(VMCS_GUEST_CR0, CR0_NE | CR0_ET | (flags & IMG_V86 ? CR0_PE : 0));
	}
	if (flags & IMG_V86)
		add(VMCS_GUEST_RFLAGS, FLAG_VM);
	if (flags & IMG_HOST32)
		del(VMCS_VM_EXIT_CONTROLS, EXIT_HOST_64);
	if (flags & (IMG_STI | IMG_MOV_SS))
		put(VMCS_GUEST_INTERRUPTIBILITY_INFO, flags & IMG_STI ? 1 : 2);
	if (flags & IMG_STI)
		add(VMCS_GUEST_RFLAGS, FLAG_IF);
	if (flags & IMG_HLT)
		put(VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_HLT);
	if (flags & IMG_TF) {
		add(VMCS_GUEST_RFLAGS, FLAG_TF);
		if (flags & (IMG_STI | IMG_MOV_SS | IMG_HLT))
			put(VMCS_GUEST_PENDING_DBG_EXCEPTIONS, PENDING_DBG_BS);
	}
	if (flags & IMG_LINK) {
		add(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_SHADOW_VMCS);
		put(VMCS_VMCS_LINK_POINTER, PAGE_LINK);
	}
	if (flags & IMG_VINTR) {
		add(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_TPR_SHADOW);
		add(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VINTR);
		add(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_EXT_INTR);
	}
	if (flags & IMG_VMFUNC) {
		add(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_VMFUNC | PROC2_EPT);
		put(VMCS_VM_FUNCTION_CONTROL, 1);
	}
	if (flags & IMG_VTPR) {
		add(VMCS_CPU_BASED_VM_EXEC_CONTROL, PROC_TPR_SHADOW);
		put(VMCS_TPR_THRESHOLD, 5);
	}
}

/* A VMCS of this kind; most combinations of flags are valid, vmx_check() knows. */
__attribute__((unused)) static void img_make(u32 flags)
{
	struct vmx *x = img_v->vmx;
	u32 link = VMCS_REVISION | (u32)VMCS_SHADOW;
	u64 pdpte = 0x3001;

	img_l1(flags);
	memset(x->vmcs, 0, sizeof(x->vmcs));
	vmcs_header(x)->revision = VMCS_REVISION;
	put(VMCS_PIN_BASED_VM_EXEC_CONTROL, FIXED1_PIN);
	put(VMCS_CPU_BASED_VM_EXEC_CONTROL, FIXED1_PROC | PROC_SECONDARY);
	put(VMCS_VM_EXIT_CONTROLS, FIXED1_EXIT | EXIT_HOST_64);
	put(VMCS_VM_ENTRY_CONTROLS, FIXED1_ENTRY | ENTRY_IA32E);
	put(VMCS_VMCS_LINK_POINTER, VMCS_NONE);
	put(VMCS_VIRTUAL_PROCESSOR_ID, 1);
	put(VMCS_EPT_POINTER, 0x16000 | 0x5e);
	put(VMCS_TSC_MULTIPLIER, 1ull << 48);
	put(VMCS_GUEST_CR0, 0x80000031);
	put(VMCS_GUEST_CR3, PAGE_PDPT);
	put(VMCS_GUEST_CR4, 0x2020);
	put(VMCS_GUEST_IA32_EFER, 0x500);
	put(VMCS_GUEST_IA32_PAT, 0x0007040600070406);
	put(VMCS_GUEST_DR7, 0x400);
	put(VMCS_GUEST_RIP, 0x4000);
	put(VMCS_GUEST_RFLAGS, 2);
	for (unsigned int n = 0; n < 4; n++) {
		put(VMCS_GUEST_PDPTR0 + n, pdpte);
		memcpy(img_ram + PAGE_PDPT + n * 8, &pdpte, 8);
	}
	memcpy(img_ram + PAGE_LINK, &link, 4);
	memset(img_ram + PAGE_VAPIC, 0, 0x1000);
	img_ram[PAGE_VAPIC + 0x80] = 0x50;
	put(VMCS_VIRTUAL_APIC_PAGE_ADDR, PAGE_VAPIC);
	img_host(flags);
	img_segments(flags);
	img_mode(flags);
	if (flags & IMG_FEATURES)
		img_features();
	img_inject(flags);
}

/* The first row that does not hold, over all groups. */
__attribute__((unused)) static enum vmcheck_id img_check(void)
{
	enum vmcheck_id id = vmx_check(img_v, VMCHECK_CONTROLS);

	if (id == VMCHECK_OK)
		id = vmx_check(img_v, VMCHECK_HOST);
	return id != VMCHECK_OK ? id : vmx_check(img_v, VMCHECK_GUEST);
}

/* ---- changes ------------------------------------------------------------------------------------------- */

static const u8 img_bits[] = { [W16] = 16, [W64] = 64, [W32] = 32, [WNAT] = 64 };

/* What a checked field may come from outside: bits of it, and values at the edges. */
#define IMG_SPECIALS 18
__attribute__((unused)) static unsigned int img_values(enum vmcs_field f)
{
	return img_bits[vmcs_rows[f].width] + IMG_SPECIALS;
}

__attribute__((unused)) static u64 img_value(enum vmcs_field f, unsigned int n)
{
	unsigned int bits = img_bits[vmcs_rows[f].width];
	static const u64 special[IMG_SPECIALS] = { 0, ~0ull, 1, 2, 3, 4, 5, 0xfff, 0x1000, 0xffff, 0x00007fffffffffff,
		0x0000800000000000, 0xffff7fffffffffff, 0xffff800000000000, 0xc099,
		0xa09d, 0x83, 0xffffffff0 };
	u64 mask = bits == 64 ? ~0ull : (1ull << bits) - 1;

	return (n < bits ? get(f) ^ 1ull << n : special[n - bits]) & mask;
}
