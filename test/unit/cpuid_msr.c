/* SPDX-License-Identifier: MIT */
/* What the tables of CPUID bits and MSRs promise: supported CPUID, runtime bits, every listed MSR. */
#include <errno.h>

#include "cpu/fpu.h"
#include "cpu/msr.h"
#include "tap.h"

static struct machine vm;
static const struct cpu_bus bus;

static struct cpuid_entry *entry(struct vcpu *v, u32 function, u32 index)
{
	for (u32 n = 0; n < v->ncpuid; n++)
		if (v->cpuid[n].function == function && (!(v->cpuid[n].flags & 1) || v->cpuid[n].index == index))
			return &v->cpuid[n];
	return NULL;
}

static void supported(struct vcpu *v)
{
	struct cpuid_entry few[3];
	u32 n = cpuid_supported(v->cpuid, CPUID_ENTRIES_MAX), r[4];

	ok(n > 20 && n <= 100, "%u supported entries fit kvmtool's array", n);
	ok(cpuid_supported(few, 3) == n, "a short array still tells the count");
	v->ncpuid = n;
	cpuid_adopt(v);
	ok(!v->vendor_amd && v->maxphyaddr == 46, "vendor and physical width");
	ok(cpu_has(v, FEAT_LM) && cpu_has(v, FEAT_SSE2) && cpu_has(v, FEAT_X2APIC), "features adopted");
	ok(!cpu_has(v, FEAT_AVX512F) && !cpu_has(v, FEAT_TSC_DEADLINE), "what is not offered is not there");
	ok(v->xfeatures == fpu_xfeatures(), "state components are the host's");
	cpuid_eval(v, 0x70, 0, r);
	ok(entry(v, 0x1f, 0) && !r[0], "a leaf above the highest basic one reads as that");
	cpuid_eval(v, 0x40000000, 0, r);
	ok(r[1] == 0x4b4d564b && r[0] == 0x40000001, "KVM signature");
	v->cr4 |= CR4_OSXSAVE;
	v->xcr0 = 3;
	cpuid_eval(v, 1, 0, r);
	ok(r[2] & BIT(27), "OSXSAVE follows CR4");
	cpuid_eval(v, 0xd, 0, r);
	ok(r[1] == 576, "XSAVE size follows XCR0: %u", r[1]);
	v->cr4 = 0;
	cpuid_eval(v, 1, 0, r);
	ok(!(r[2] & BIT(27)), "OSXSAVE clear again");
}

static void reserved_cr4(struct vcpu *v)
{
	ok(cpu_cr4_valid(v, CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_FSGSBASE), "CR4 bits of offered features");
	ok(!cpu_cr4_valid(v, CR4_LA57) && !cpu_cr4_valid(v, BIT(15)) && !cpu_cr4_valid(v, BIT(40)),
	   "CR4 bits of absent ones");
	entry(v, 7, 0)->ebx &= ~(u32)BIT(0);
	cpuid_adopt(v);
	ok(!cpu_cr4_valid(v, CR4_FSGSBASE), "a bit taken out of CPUID is reserved");
	entry(v, 7, 0)->ebx |= (u32)BIT(0);
	cpuid_adopt(v);
}

/* Every listed MSR can be read, written back, and set to 0 by user space. */
static void lists(struct vcpu *v)
{
	u32 n, bad = 0;
	const u32 *list = msr_list(false, &n);
	u64 val;

	for (u32 k = 0; k < n; k++) {
		if (cpu_rdmsr(v, list[k], &val, true) || cpu_wrmsr(v, list[k], val, true) ||
		    cpu_wrmsr(v, list[k], 0, true)) {
			diag("MSR %#x", list[k]);
			bad++;
		}
	}
	ok(n > 30 && !bad, "%u listed MSRs round-trip from user space", n);
	list = msr_list(true, &n);
	bad = 0;
	for (u32 k = 0; k < n; k++)
		bad += msr_feature(list[k], &val) != 0;
	ok(n >= 3 && !bad, "%u feature MSRs can be asked without a vCPU", n);
	vcpu_reset(v, false);
}

/* Guest writes: index, value, result. */
static void guest_writes(struct vcpu *v)
{
	static const struct { u32 index; u64 val; int res; const char *why; } t[] = {
		{ 0xc0000080, BIT(0) | BIT(8) | BIT(11), 0, "EFER SCE LME NXE" },
		{ 0xc0000080, BIT(12), -EINVAL, "EFER.SVME" },
		{ 0xc0000082, 0xffff800000000000, 0, "LSTAR canonical" },
		{ 0xc0000082, 0x0000800000000000, -EINVAL, "LSTAR not canonical" },
		{ 0xc0000100, 0x0001000000000000, -EINVAL, "FS_BASE not canonical" },
		{ 0x277, 0x0007040600070406, 0, "PAT default" },
		{ 0x277, 0x0007040600070402, -EINVAL, "PAT reserved type" },
		{ 0x2ff, 0xc06, 0, "MTRR default type" },
		{ 0x2ff, 0xc02, -EINVAL, "MTRR reserved type" },
		{ 0x200, 0x80000006, 0, "MTRR base" },
		{ 0x200, BIT(50) | 6, -EINVAL, "MTRR base beyond the physical width" },
		{ 0x401, 1, -EINVAL, "MC0_STATUS nonzero" },
		{ 0x400, 5, -EINVAL, "MC0_CTL neither all nor nothing" },
		{ 0x400, ~0ull, 0, "MC0_CTL all" },
		{ 0x10a, 0, -EINVAL, "ARCH_CAPABILITIES is read-only" },
		{ 0x48, 1, 0, "SPEC_CTRL.IBRS" },
		{ 0x48, BIT(40), -EINVAL, "SPEC_CTRL reserved" },
		{ 0x49, 1, 0, "PRED_CMD" },
		{ 0xc0000103, BIT(32), -EINVAL, "TSC_AUX upper half" },
		{ 0xda0, BIT(8), -EINVAL, "XSS" },
		{ 0x9e, 0, -EINVAL, "SMBASE from the guest" },
		{ 0x1b, BIT(9) | 0xfee00000, -EINVAL, "APIC_BASE reserved bit" },
		{ 0x12345, 0, -ENOENT, "unknown" },
	};

	for (u32 k = 0; k < ARRAY_SIZE(t); k++)
		is(cpu_wrmsr(v, t[k].index, t[k].val, false), t[k].res, t[k].why);
}

static void time_stamp(struct vcpu *v)
{
	u64 a, b, adj;

	cpu_rdmsr(v, 0x10, &a, false);
	cpu_wrmsr(v, 0x3b, 1ull << 40, false);
	cpu_rdmsr(v, 0x10, &b, false);
	ok(b - a >= 1ull << 40 && b - a < (1ull << 40) + 10000000000ull, "TSC_ADJUST moves the guest's TSC");
	cpu_wrmsr(v, 0x10, a, false);
	cpu_rdmsr(v, 0x3b, &adj, false);
	ok((s64)adj <= 0 || adj < 1ull << 40, "a guest write of TSC shows in TSC_ADJUST");
	cpu_wrmsr(v, 0x3b, 5, true);
	cpu_rdmsr(v, 0x10, &b, false);
	ok(b - a < 10000000000ull, "a write of TSC_ADJUST from outside does not");
}

int main(void)
{
	struct vcpu *v;

	machine_init(&vm, &bus, NULL);
	v = vcpu_create(&vm, 0);
	ok(v != NULL, "vCPU");
	if (!v)
		return done_testing();
	ok(cpu_has(v, FEAT_AVX) == !!(fpu_xfeatures() & 4), "before CPUID is set, everything offered executes");
	supported(v);
	reserved_cr4(v);
	lists(v);
	guest_writes(v);
	time_stamp(v);
	vcpu_destroy(v);
	machine_destroy(&vm);
	return done_testing();
}
