/* SPDX-License-Identifier: MIT */
/*
 * The gate, and the ioctls of the system descriptor.
 */
#include "ioctl.h"

static const struct row {
	const char *name;
	void (*test)(void);
} rows[] = {
#define IOCTL_SYS(req, fn, copying) { "system " #req, t_##fn },
#define IOCTL_VM(req, fn, copying) { "VM " #req, t_##fn },
#define IOCTL_VCPU(req, fn, copying) { "vCPU " #req, t_##fn },
#include "spec/kvm_ioctl.def"
};

void t_sys_get_api_version(void)
{
	int sys = open_sys();

	is(call(sys, KVM_GET_API_VERSION, 0), 12, "12");
	is_errno(call(sys, KVM_GET_API_VERSION, 1), EINVAL, "takes no argument");
}

void t_sys_create_vm(void)
{
	int sys = open_sys(), vm;

	is_errno(call(sys, KVM_CREATE_VM, 1), EINVAL, "a type that does not exist");
	vm = call(sys, KVM_CREATE_VM, 0);
	ok(vm >= 0, "a VM");
	casement_close(sys);
	is(call(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1, "outlives the descriptor it came from");
	casement_close(vm);
	is_errno(call(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), EBADF, "closed");
}

void t_sys_check_extension(void)
{
	int sys = open_sys();

	is(call(sys, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1, "KVM_CAP_USER_MEMORY");
	is(call(sys, KVM_CHECK_EXTENSION, KVM_CAP_S390_UCONTROL), 0, "another architecture's");
	is(call(sys, KVM_CHECK_EXTENSION, 100000), 0, "one that does not exist");
	is(call(sys, KVM_CHECK_EXTENSION, -1ul), 0, "a negative one");
}

void t_sys_get_vcpu_mmap_size(void)
{
	int sys = open_sys();

	is(call(sys, KVM_GET_VCPU_MMAP_SIZE, 0), 3 * 4096, "three pages");
	is_errno(call(sys, KVM_GET_VCPU_MMAP_SIZE, 1), EINVAL, "takes no argument");
}

static void msr_list(unsigned long request, uint32_t has, uint32_t has_not)
{
	struct { struct kvm_msr_list head; uint32_t index[1000]; } l = { .head.nmsrs = 0 };
	int sys = open_sys(), found = 0, wrong = 0;

	is_errno(call(sys, request, &l), E2BIG, "no room");
	ok(l.head.nmsrs > 0 && l.head.nmsrs < 1000, "but the count is told: %u", l.head.nmsrs);
	l.head.nmsrs--;
	is_errno(call(sys, request, &l), E2BIG, "one too few");
	is(call(sys, request, &l), 0, "enough");
	for (uint32_t i = 0; i < l.head.nmsrs; i++) {
		found += l.index[i] == has;
		wrong += l.index[i] == has_not;
	}
	is(found, 1, "%x is in it once", has);
	is(wrong, 0, "%x is not", has_not);
}

void t_sys_get_msr_index_list(void)
{
	msr_list(KVM_GET_MSR_INDEX_LIST, 0x174, 0xdead);
}

void t_sys_get_msr_feature_index_list(void)
{
	msr_list(KVM_GET_MSR_FEATURE_INDEX_LIST, 0x10a, 0x174);
}

void t_sys_get_msrs(void)
{
	struct one_msr m = { .head.nmsrs = 1, .e.index = 0x10a };
	int sys = open_sys();

	is(call(sys, KVM_GET_MSRS, &m), 1, "a feature MSR");
	ok(m.e.data & 1, "IA32_ARCH_CAPABILITIES.RDCL_NO");
	m.e.index = 0x174;
	is(call(sys, KVM_GET_MSRS, &m), 0, "one that is no feature: none was read");
	m.head.nmsrs = 256;
	is_errno(call(sys, KVM_GET_MSRS, &m), E2BIG, "too many");
	m.head.nmsrs = 0;
	is(call(sys, KVM_GET_MSRS, &m), 0, "none");
}

static const struct kvm_cpuid_entry2 *leaf(const struct cpuid_list *c, uint32_t fn)
{
	for (uint32_t i = 0; i < c->head.nent; i++)
		if (c->e[i].function == fn)
			return &c->e[i];
	return NULL;
}

void t_sys_get_supported_cpuid(void)
{
	static struct cpuid_list c;
	int sys = open_sys();

	is_errno(call(sys, KVM_GET_SUPPORTED_CPUID, &c), E2BIG, "no room");
	c.head.nent = 1;
	is_errno(call(sys, KVM_GET_SUPPORTED_CPUID, &c), E2BIG, "too little room");
	c.head.nent = 100000;
	is(call(sys, KVM_GET_SUPPORTED_CPUID, &c), 0, "more room than there can be entries");
	ok(c.head.nent > 10 && c.head.nent <= 100, "%u entries: kvmtool offers room for 100", c.head.nent);
	ok(leaf(&c, 0) && leaf(&c, 1) && leaf(&c, 0x40000001) && leaf(&c, 0x80000008), "the leaves every VMM needs");
	ok(leaf(&c, 1)->edx & 1 << 26, "SSE2");
	is(leaf(&c, 0x40000000)->ebx, 0x4b4d564b, "KVM's signature");
}

void t_sys_get_emulated_cpuid(void)
{
	static struct cpuid_list c;
	int sys = open_sys();

	is_errno(call(sys, KVM_GET_EMULATED_CPUID, &c), E2BIG, "no room");
	c.head.nent = 10;
	is(call(sys, KVM_GET_EMULATED_CPUID, &c), 0, "the list");
}

void t_sys_get_mce_cap_supported(void)
{
	uint64_t cap = 0;
	int sys = open_sys();

	is(call(sys, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap), 0, "call");
	ok(cap & 1 << 8, "MCG_CTL_P");
	is(cap & 0xff, 0, "no number of banks: KVM_CAP_MCE tells");
}

void t_sys_has_device_attr(void)
{
	struct kvm_device_attr a = { .group = 0, .attr = KVM_X86_XCOMP_GUEST_SUPP };
	int sys = open_sys();

	is(call(sys, KVM_HAS_DEVICE_ATTR, &a), 0, "KVM_X86_XCOMP_GUEST_SUPP");
	a.attr = 1;
	is_errno(call(sys, KVM_HAS_DEVICE_ATTR, &a), ENXIO, "another attribute");
	a.attr = 0;
	a.group = 1;
	is_errno(call(sys, KVM_HAS_DEVICE_ATTR, &a), ENXIO, "another group");
}

void t_sys_get_device_attr(void)
{
	uint64_t xcr0 = 0;
	struct kvm_device_attr a = { .group = 0, .attr = KVM_X86_XCOMP_GUEST_SUPP, .addr = (uint64_t)&xcr0 };
	int sys = open_sys();

	is(call(sys, KVM_GET_DEVICE_ATTR, &a), 0, "KVM_X86_XCOMP_GUEST_SUPP");
	is(xcr0 & 3, 3, "x87 and SSE at least");
	a.addr = (uint64_t)BAD;
	is_errno(call(sys, KVM_GET_DEVICE_ATTR, &a), EFAULT, "unwritable");
	a.group = 1;
	is_errno(call(sys, KVM_GET_DEVICE_ATTR, &a), ENXIO, "another group");
}

void t_sys_trace(void)
{
	int sys = open_sys();

	is_errno(call(sys, __KVM_DEPRECATED_MAIN_W_0x06, 0), EOPNOTSUPP, "KVM_TRACE_ENABLE");
	is_errno(call(sys, __KVM_DEPRECATED_MAIN_0x07, 0), EOPNOTSUPP, "KVM_TRACE_PAUSE");
	is_errno(call(sys, __KVM_DEPRECATED_MAIN_0x08, 0), EOPNOTSUPP, "KVM_TRACE_DISABLE");
}

int main(void)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (rows[i].test)
			tap_child(rows[i].name, rows[i].test);
		else
			ok(false, "%s has a test", rows[i].name);
	}
	return done_testing();
}
