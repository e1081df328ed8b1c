/* SPDX-License-Identifier: MIT */
/*
 * Every row of spec/kvm_ioctl.def: wrong descriptors and unreadable arguments.
 */
#include "api.h"

enum { VAL, IN, OUT, INOUT };
#define DEPRECATED 0x100

static const struct row {
	const char *name;
	uint32_t request;
	int copying;
} sys_rows[] = {
#define IOCTL_SYS(req, fn, copying) { #req, (uint32_t)(req), copying },
#include "spec/kvm_ioctl.def"
}, vm_rows[] = {
#define IOCTL_VM(req, fn, copying) { #req, (uint32_t)(req), copying },
#include "spec/kvm_ioctl.def"
}, vcpu_rows[] = {
#define IOCTL_VCPU(req, fn, copying) { #req, (uint32_t)(req), copying },
#include "spec/kvm_ioctl.def"
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static bool in_rows(const struct row *r, size_t n, uint32_t request)
{
	for (size_t i = 0; i < n; i++)
		if (r[i].request == request)
			return true;
	return false;
}

/* An argument the kernel cannot read gives EFAULT, unless something is checked before it. */
static void unreadable(int fd, const struct row *r)
{
	switch (r->request) {
	case KVM_SET_LAPIC:		/* no local APIC comes first */
	case KVM_GET_PIT2:
	case KVM_GET_LAPIC:
	case (uint32_t)KVM_GET_CLOCK:
		break;
	default:
		if (r->copying == IN || r->copying == INOUT)
			is_errno(call(fd, r->request, BAD), EFAULT, "%s, unreadable", r->name);
		return;
	}
	ok(call(fd, r->request, BAD) == -1 && (errno == EFAULT || errno == EINVAL || errno == ENXIO),
	   "%s, unreadable", r->name);
}

static void unwritable(int fd, const struct row *r)
{
	if (r->copying == OUT && r->request != KVM_GET_PIT2 && r->request != KVM_GET_LAPIC)
		is_errno(call(fd, r->request, BAD), EFAULT, "%s, unwritable", r->name);
}

static void by_hand(int sys, int vm, int vcpu)
{
	static const uint32_t lists[] = { KVM_GET_MSR_INDEX_LIST, KVM_GET_MSR_FEATURE_INDEX_LIST, KVM_GET_MSRS,
					  KVM_GET_SUPPORTED_CPUID, KVM_GET_EMULATED_CPUID };
	static const uint32_t of_vcpu[] = { KVM_SET_CPUID, KVM_SET_CPUID2, KVM_GET_CPUID2, KVM_GET_MSRS, KVM_SET_MSRS,
					    KVM_SET_SIGNAL_MASK };

	for (size_t i = 0; i < COUNT(lists); i++)
		is_errno(call(sys, lists[i], BAD), EFAULT, "system list %zu, unreadable", i);
	for (size_t i = 0; i < COUNT(of_vcpu); i++)
		is_errno(call(vcpu, of_vcpu[i], BAD), EFAULT, "vCPU list %zu, unreadable", i);
	is_errno(call(vm, KVM_SET_IDENTITY_MAP_ADDR, BAD), EINVAL, "identity map address: vCPUs come first");
	is_errno(call(vm, KVM_REINJECT_CONTROL, BAD), EFAULT, "KVM_REINJECT_CONTROL, unreadable");
}

int main(void)
{
	int sys = open_sys(), vm = open_vm(sys), vcpu = open_vcpu(vm, 0);

	for (size_t i = 0; i < COUNT(sys_rows); i++) {
		const struct row *r = &sys_rows[i];

		if (!in_rows(vm_rows, COUNT(vm_rows), r->request))
			is_errno(call(vm, r->request, BAD), ENOTTY, "%s on a VM", r->name);
		if (!in_rows(vcpu_rows, COUNT(vcpu_rows), r->request))
			is_errno(call(vcpu, r->request, BAD), EINVAL, "%s on a vCPU", r->name);
		unreadable(sys, r);
		unwritable(sys, r);
	}
	for (size_t i = 0; i < COUNT(vm_rows); i++) {
		const struct row *r = &vm_rows[i];

		if (!in_rows(sys_rows, COUNT(sys_rows), r->request))
			is_errno(call(sys, r->request, BAD), EINVAL, "%s on the system", r->name);
		if (!in_rows(vcpu_rows, COUNT(vcpu_rows), r->request))
			is_errno(call(vcpu, r->request, BAD), EINVAL, "%s on a vCPU", r->name);
		unreadable(vm, r);
		unwritable(vm, r);
	}
	for (size_t i = 0; i < COUNT(vcpu_rows); i++) {
		const struct row *r = &vcpu_rows[i];

		if (!in_rows(sys_rows, COUNT(sys_rows), r->request))
			is_errno(call(sys, r->request, BAD), EINVAL, "%s on the system", r->name);
		if (!in_rows(vm_rows, COUNT(vm_rows), r->request))
			is_errno(call(vm, r->request, BAD), ENOTTY, "%s on a VM", r->name);
		unreadable(vcpu, r);
		unwritable(vcpu, r);
	}
	by_hand(sys, vm, vcpu);
	is_errno(call(sys, 0xaeff, 0), EINVAL, "a request that does not exist, on the system");
	is_errno(call(vm, 0xaeff, 0), ENOTTY, "on a VM");
	is_errno(call(vcpu, 0xaeff, 0), EINVAL, "on a vCPU");
	is_errno(call(vcpu, 0x5401, 0), EINVAL, "a request of another kind, on a vCPU");
	is_errno(call(-1, KVM_RUN, 0), EBADF, "no descriptor");
	is_errno(call(0, KVM_GET_API_VERSION, 0), ENOTTY, "somebody else's descriptor");
	is(casement_ioctl(sys, 0xffffffff0000ae00ul, 0ul), 12, "a sign-extended request counts by its low half");
	return done_testing();
}
