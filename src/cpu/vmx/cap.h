/* SPDX-License-Identifier: MIT */
/*
 * Capability MSRs: values computed from spec/vmxctl.def, used by the rows of spec/msr.def.
 * [SDM3D "VMX Capability Reporting Facility"]
 */
#pragma once
#include "cpu/vmx/vmx.h"

enum { WORD_PIN, WORD_PROC, WORD_PROC2, WORD_EXIT, WORD_ENTRY };

/* Bits that may be 1, without those of the default1 class. */
#define VMXCTL(word, name, bit, offered) | ((offered) && WORD_##word == WANT ? 1u << (bit) : 0u)
enum vmx_offered {
#define WANT WORD_PIN
	OFFERED_PIN = 0
#include "spec/vmxctl.def"
	,
#undef WANT
#define WANT WORD_PROC
	OFFERED_PROC = 0
#include "spec/vmxctl.def"
	,
#undef WANT
#define WANT WORD_PROC2
	OFFERED_PROC2 = 0
#include "spec/vmxctl.def"
	,
#undef WANT
#define WANT WORD_EXIT
	OFFERED_EXIT = 0
#include "spec/vmxctl.def"
	,
#undef WANT
#define WANT WORD_ENTRY
	OFFERED_ENTRY = 0
#include "spec/vmxctl.def"
	,
#undef WANT
};
#undef VMXCTL

/* Reserved to 1 without the TRUE MSRs, and with them [SDM3D "Reserved Controls and Default Settings"]. */
#define DEFAULT1_PIN 0x16u
#define DEFAULT1_PROC 0x0401e172u
#define DEFAULT1_EXIT 0x00036dffu
#define DEFAULT1_ENTRY 0x000011ffu
#define FIXED1_PIN DEFAULT1_PIN
#define FIXED1_PROC (DEFAULT1_PROC & ~(u32)(PROC_CR3_LOAD | PROC_CR3_STORE))
#define FIXED1_EXIT (DEFAULT1_EXIT & ~(u32)EXIT_SAVE_DEBUG)
#define FIXED1_ENTRY (DEFAULT1_ENTRY & ~(u32)ENTRY_LOAD_DEBUG)
#define ALLOWED1_PIN ((u32)OFFERED_PIN | DEFAULT1_PIN)
#define ALLOWED1_PROC ((u32)OFFERED_PROC | DEFAULT1_PROC)
#define ALLOWED1_EXIT ((u32)OFFERED_EXIT | DEFAULT1_EXIT)
#define ALLOWED1_ENTRY ((u32)OFFERED_ENTRY | DEFAULT1_ENTRY)
#define ALLOWED1_PROC2 ((u32)OFFERED_PROC2)

#define CTL_MSR(zero, one) ((u64)(one) << 32 | (zero))

/* revision, size, write-back, INS/OUTS information, TRUE MSRs, no error code needed for injected exceptions: no */
#define VMX_BASIC_VALUE (VMCS_REVISION | (u64)VMCS_BYTES << 32 | 6ull << 50 | BIT(54) | BIT(55))
/* timer rate, EFER.LMA stored on exit, all activity states, VMWRITE to any field, injection of length 0 */
#define MISC_VMWRITE_ANY BIT(29)
#define VMX_MISC_VALUE (VMX_TIMER_SHIFT | BIT(5) | BIT(6) | BIT(7) | BIT(8) | MISC_VMWRITE_ANY | BIT(30) | 4ull << 16)
#define VMX_CR0_FIXED0_VALUE (CR0_PE | CR0_PG | CR0_NE)
#define VMX_CR0_FIXED1_VALUE 0xffffffffull
#define VMX_CR4_FIXED0_VALUE CR4_VMXE
#define VMX_CR4_FIXED1_VALUE 0x7727ffull
#define VMX_VMCS_ENUM_VALUE (0x19ull << 1)
/* execute-only, 4-level, UC and WB, 2M, 1G, INVEPT, A/D, INVEPT single and all, INVVPID all types */
#define VMX_EPT_VPID_VALUE (BIT(0) | BIT(6) | BIT(8) | BIT(14) | BIT(16) | BIT(17) | BIT(20) | BIT(21) | \
			    BIT(25) | BIT(26) | BIT(32) | BIT(40) | BIT(41) | BIT(42) | BIT(43))
#define VMX_VMFUNC_VALUE BIT(0)
