/* SPDX-License-Identifier: MIT */
/*
 * The CPUID a vCPU shows: what KVM supports, with the topology of this VM filled in.
 */
#include "vmm/vmm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Room that vmm_cpuid_supported() leaves for the topology leaf's three subleaves. */
#define CPUID_EXTRA 3

struct kvm_cpuid2 *vmm_cpuid_supported(const struct kvm_call *kvm, int sys_fd)
{
	/* KVM says E2BIG until the table is large enough; no CPU has thousands of leaves. */
	for (u32 n = 64; n <= 4096; n *= 2) {
		struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + (n + CPUID_EXTRA) * sizeof(c->entries[0]));
		int rc;

		if (!c)
			return NULL;
		c->nent = n;
		rc = call_ioctl(kvm, sys_fd, KVM_GET_SUPPORTED_CPUID, (unsigned long)c);
		if (!rc)
			return c;
		free(c);
		if (rc != -E2BIG)
			return NULL;
	}
	return NULL;
}

static u32 log2_up(u32 n)
{
	u32 bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

/*
 * [SDM3A "Hierarchical Mapping of CPUID Extended Topology Leaf"]: one thread per core, n cores in the package.
 * KVM may offer the leaf with the host's subleaves, one empty subleaf, or not at all, so ours replace them.
 */
static void topology(struct kvm_cpuid2 *c, u32 id, u32 n)
{
	struct kvm_cpuid_entry2 *e = c->entries;
	u32 kept = 0, top = 0;

	for (u32 i = 0; i < c->nent; i++) {
		if (e[i].function == 0)
			top = e[i].eax;
		if (e[i].function != 0xb && e[i].function != 0x1f)
			e[kept++] = e[i];
	}
	for (u32 i = 0; i < CPUID_EXTRA && top >= 0xb; i++) {
		u32 level = i < 2 ? i + 1 : 0;

		e[kept++] = (struct kvm_cpuid_entry2){
			.function = 0xb, .index = i, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = i == 1 ? log2_up(n) : 0,
			.ebx = i == 0 ? 1 : i == 1 ? n : 0,
			.ecx = i | level << 8,
			.edx = id,
		};
	}
	c->nent = kept;
}

static void leaf_1(struct kvm_cpuid_entry2 *e, u32 id, u32 n, bool tsc_deadline)
{
	const u32 tsc_deadline_bit = 1u << 24, htt_bit = 1u << 28;
	u32 width = 1u << log2_up(n);

	e->ebx = (e->ebx & 0xffffu) | width << 16 | id << 24;
	e->ecx |= tsc_deadline ? tsc_deadline_bit : 0;
	if (n > 1)
		e->edx |= htt_bit;
	else
		e->edx &= ~htt_bit;
}

static void fill_one(struct kvm_cpuid_entry2 *e, u32 id, u32 n, bool tsc_deadline)
{
	switch (e->function) {
	case 1:
		leaf_1(e, id, n, tsc_deadline);
		break;
	case 4:
		/* cores in the package; threads that share: L3 all, the others one */
		if (e->eax & 0x1f) {
			u32 share = ((e->eax >> 5) & 7) >= 3 ? (1u << log2_up(n)) - 1 : 0;

			e->eax = (e->eax & 0x3fffu) | share << 14 | ((1u << log2_up(n)) - 1) << 26;
		}
		break;
	case 0xa:
		/* No PMU: its MSRs would be the host's. */
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	case 0x80000008:
		e->ecx = (n - 1) | (n > 1 ? log2_up(n) << 12 : 0);
		break;
	case 0x8000001d:
		if (e->eax & 0x1f) {
			u32 share = ((e->eax >> 5) & 7) >= 3 ? n - 1 : 0;

			e->eax = (e->eax & 0x3fffu) | share << 14;
		}
		break;
	case 0x8000001e:
		e->eax = id;
		e->ebx = id & 0xff;
		e->ecx = 0;
		break;
	default:
		break;
	}
}

/* A KVM that has leaves for its guests is a hypervisor they may see. */
static void hypervisor_bit(struct kvm_cpuid2 *cpuid)
{
	bool leaves = false;

	for (u32 i = 0; i < cpuid->nent; i++)
		leaves |= cpuid->entries[i].function == 0x40000000;
	for (u32 i = 0; leaves && i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 1)
			cpuid->entries[i].ecx |= 1u << 31;
}

void vmm_cpuid_fill(struct kvm_cpuid2 *cpuid, unsigned int id, unsigned int n, bool tsc_deadline)
{
	for (u32 i = 0; i < cpuid->nent; i++)
		fill_one(&cpuid->entries[i], id, n, tsc_deadline);
	hypervisor_bit(cpuid);
	topology(cpuid, id, n);
}
