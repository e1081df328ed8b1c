/* SPDX-License-Identifier: MIT */
/*
 * ioctls of the system descriptor.
 */
#include "kvm/kvm.h"

#include <errno.h>

long sys_get_api_version(void *obj, u64 arg, void *buf)
{
	return arg ? -EINVAL : KVM_API_VERSION;
}

long sys_get_vcpu_mmap_size(void *obj, u64 arg, void *buf)
{
	return arg ? -EINVAL : RUN_PAGES * (long)PAGE_SIZE;
}

/* KVM_TRACE_*: gone from the kernel, but their numbers are not. */
long sys_trace(void *obj, u64 arg, void *buf)
{
	return -EOPNOTSUPP;
}

long sys_has_device_attr(void *obj, u64 arg, void *buf)
{
	const struct kvm_device_attr *a = buf;

	return a->group || a->attr != KVM_X86_XCOMP_GUEST_SUPP ? -ENXIO : 0;
}

long sys_get_device_attr(void *obj, u64 arg, void *buf)
{
	const struct kvm_device_attr *a = buf;
	u64 xcr0 = xstate_supported_xcr0();

	if (a->group || a->attr != KVM_X86_XCOMP_GUEST_SUPP)
		return -ENXIO;
	return copy_out(a->addr, &xcr0, sizeof(xcr0));
}
