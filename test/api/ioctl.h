/* SPDX-License-Identifier: MIT */
/*
 * One test per row of spec/kvm_ioctl.def: t_<handler>(), which makes a valid use and one of each kind of invalid
 * argument, with the kernel's errno (Linux 6.1 arch/x86/kvm/x86.c, virt/kvm/kvm_main.c). A row without its
 * function fails in ioctl.c. Unreadable arguments and wrong descriptors: rows.c.
 */
#pragma once
#include "api.h"

#define IOCTL_SYS(req, fn, copying) void t_##fn(void) __attribute__((weak));
#define IOCTL_VM(req, fn, copying) void t_##fn(void) __attribute__((weak));
#define IOCTL_VCPU(req, fn, copying) void t_##fn(void) __attribute__((weak));
#include "spec/kvm_ioctl.def"

/* A VM without slots and vCPUs; a chip before anything else if asked. */
static inline int bare_vm(int chip)
{
	int vm = open_vm(open_sys());

	if (chip == FULL_CHIP)
		need(call(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	if (chip == SPLIT_CHIP)
		need(enable(vm, KVM_CAP_SPLIT_IRQCHIP, 24), "KVM_CAP_SPLIT_IRQCHIP");
	return vm;
}

/* mov al,1; out 10h,al; hlt */
static inline void small_guest(struct guest *g, int chip)
{
	NEW_GUEST(g, chip, 0xb0, 1, 0xe6, 0x10, 0xf4);
}

/* Run its code from the beginning. */
static inline void restart(struct guest *g)
{
	const struct kvm_regs r = { .rip = CODE, .rflags = 2 };

	need(call(g->vcpu, KVM_SET_REGS, &r), "KVM_SET_REGS");
}

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry e;
};

struct cpuid_list {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 e[300];
};

static inline void all_cpuid(int sys, struct cpuid_list *c)
{
	c->head.nent = 256;
	need(call(sys, KVM_GET_SUPPORTED_CPUID, c), "KVM_GET_SUPPORTED_CPUID");
}
