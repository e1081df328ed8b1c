/* SPDX-License-Identifier: MIT */
/*
 * Capabilities: what there is (spec/kvm_cap.def) and KVM_ENABLE_CAP.
 */
#include "kvm/kvm.h"
#include "kvm/nested.h"

#include <errno.h>
#include <linux/kvm_para.h>
#include <sched.h>

#define QUIRKS (KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_CD_NW_CLEARED |            \
		KVM_X86_QUIRK_LAPIC_MMIO_HOLE | KVM_X86_QUIRK_OUT_7E_INC_RIP |           \
		KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT | KVM_X86_QUIRK_FIX_HYPERCALL_INSN |  \
		KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS)
#define HYPERCALL_EXITS (1 << KVM_HC_MAP_GPA_RANGE)
#define KVM_GUESTDBG_VALID_MASK                                                          \
	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP |        \
	 KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_INJECT_BP | KVM_GUESTDBG_INJECT_DB |      \
	 KVM_GUESTDBG_BLOCKIRQ)
#define USER_MSR_REASONS \
	(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)
#define DIRTY_MANUAL_CAPS (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET)

static long nr_vcpus(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);

	return n < VCPU_MAX ? n : VCPU_MAX;
}

static bool has_notify(struct kvm_vm *vm)
{
	return vm ? guard_notify_supported(&vm->guard.opt) : options_notify();
}

long kvm_check_extension(struct kvm_vm *vm, u64 cap)
{
	switch (cap) {
#define CAP(name, value) \
	case name:       \
		return (long)(value);
#include "spec/kvm_cap.def"
	default:
		return 0;
	}
}

long sys_check_extension(void *obj, u64 arg, void *buf)
{
	return kvm_check_extension(NULL, arg);
}

long vm_check_extension(struct kvm_vm *vm, u64 arg, void *buf)
{
	return kvm_check_extension(vm, arg);
}

/* ---- VM ------------------------------------------------------------------------------------------ */

static long enable_split_irqchip(struct kvm_vm *vm, u64 pins)
{
	long r;

	pthread_mutex_lock(&vm->lock);
	if (pins > 4096)
		r = -EINVAL;
	else if (irqchip_mode(&vm->m) != IRQCHIP_NONE || vm->created_vcpus)
		r = -EEXIST;
	else
		r = irqchip_enable(&vm->m, IRQCHIP_SPLIT, (u32)pins);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* May be set once; the same value again is no error. */
static long enable_max_vcpu_id(struct kvm_vm *vm, u64 max)
{
	long r = -EINVAL;

	if (max > VCPU_IDS_MAX)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	if (vm->max_vcpu_ids == max || !vm->max_vcpu_ids) {
		vm->max_vcpu_ids = (u32)max;
		r = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* Generic capabilities, whose flags the kernel checks by itself or not at all; -ENOSYS: not one of them. */
static long enable_generic(struct kvm_vm *vm, const struct kvm_enable_cap *c)
{
	u64 a = c->args[0];

	switch (c->cap) {
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		if (c->flags || (a & ~(a & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE ?
						(u64)DIRTY_MANUAL_CAPS :
						(u64)KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)))
			return -EINVAL;
		vm->dirty_protect = a;
		return 0;
	case KVM_CAP_DIRTY_LOG_RING:
	case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
		return memory_enable_rings(vm, a);
	case KVM_CAP_HALT_POLL:
		return c->flags || a != (u32)a ? -EINVAL : 0;
	default:
		return -ENOSYS;
	}
}

static long set_masked(u64 *field, u64 val, u64 valid)
{
	if (val & ~valid)
		return -EINVAL;
	*field = val;
	return 0;
}

static long set_masked32(u32 *field, u64 val, u64 valid)
{
	u64 v64 = *field;
	long r = set_masked(&v64, val, valid);

	*field = (u32)v64;
	return r;
}

/* In the kernel's order; once on it stays on. */
static long enable_notify(struct kvm_vm *vm, u64 arg)
{
	u32 flags = (u32)arg, window = (u32)(arg >> 32);
	long r = -EINVAL;

	if ((flags & ~(u32)(KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER)) || !has_notify(vm))
		return -EINVAL;
	if (!(flags & KVM_X86_NOTIFY_VMEXIT_ENABLED))
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	if (!vm->created_vcpus)
		r = guard_notify_enable(&vm->guard, window, flags & KVM_X86_NOTIFY_VMEXIT_USER);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

long vm_enable_cap(struct kvm_vm *vm, u64 arg, void *buf)
{
	const struct kvm_enable_cap *c = buf;
	u64 a = c->args[0];
	long r = enable_generic(vm, c);

	if (r != -ENOSYS)
		return r;
	if (c->flags)
		return -EINVAL;
	switch (c->cap) {
	case KVM_CAP_DISABLE_QUIRKS2:
		return set_masked(&vm->m.quirks_disabled, a, QUIRKS);
	case KVM_CAP_DISABLE_QUIRKS:
		vm->m.quirks_disabled = a;
		return 0;
	case KVM_CAP_SPLIT_IRQCHIP:
		return enable_split_irqchip(vm, a);
	case KVM_CAP_X2APIC_API:
		return irqchip_set_x2apic_api(&vm->m, a);
	case KVM_CAP_X86_DISABLE_EXITS:
		return set_masked32(&vm->disable_exits, a, KVM_X86_DISABLE_VALID_EXITS);
	case KVM_CAP_MSR_PLATFORM_INFO:
		vm->m.platform_info_denied = !a;
		return 0;
	case KVM_CAP_EXCEPTION_PAYLOAD:
		vm->exception_payload = a;
		return 0;
	case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
		vm->triple_fault_event = a;
		return 0;
	case KVM_CAP_X86_USER_SPACE_MSR:
		return set_masked32(&vm->user_msr_mask, a, USER_MSR_REASONS);
	case KVM_CAP_X86_BUS_LOCK_EXIT:
		return lock_enable_cap(vm, a);
	case KVM_CAP_EXIT_HYPERCALL:
		return set_masked(&vm->hypercall_exits, a, HYPERCALL_EXITS);
	case KVM_CAP_EXIT_ON_EMULATION_FAILURE:
		if (a & ~1ull)
			return -EINVAL;
		vm->m.emulation_exits = a;
		return 0;
	case KVM_CAP_MAX_VCPU_ID:
		return enable_max_vcpu_id(vm, a);
	case KVM_CAP_X86_NOTIFY_VMEXIT:
		return enable_notify(vm, a);
	default:
		return -EINVAL;
	}
}

/* ---- vCPU ------------------------------------------------------------------------------------------ */

long vcpu_enable_cap(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_enable_cap *c = buf;

	if (c->flags || c->cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID)
		return -EINVAL;
	k->pv_enforce = c->args[0];
	return 0;
}
