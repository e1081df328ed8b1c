/* SPDX-License-Identifier: MIT */
/*
 * What is advertised never fails: monitors abort when it does. The supported CPUID is accepted as it is, every listed
 * MSR can be read and written by the host at any time, every paravirtual feature of the CPUID leaf works for the
 * guest. And what is absent is absent everywhere: no bit, no MSR, no hypercall.
 */
#include <linux/kvm_para.h>
#include <stdlib.h>

#include "api.h"

#define ENTRIES 256
#define PORT 0x10 /* the guest is done */
#define GP_PORT 0x0d
#define ANSWER 0x600
#define PAGE 0x4000

struct cpuid_list {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 e[ENTRIES];
};

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry e;
};

static struct cpuid_list supported;

static void get_supported(int sys)
{
	supported.head.nent = ENTRIES;
	need(call(sys, KVM_GET_SUPPORTED_CPUID, &supported), "KVM_GET_SUPPORTED_CPUID");
}

static const struct kvm_cpuid_entry2 *leaf(uint32_t function)
{
	for (uint32_t i = 0; i < supported.head.nent; i++)
		if (supported.e[i].function == function)
			return &supported.e[i];
	return NULL;
}

/* ---- CPUID -------------------------------------------------------------------------------------------------- */

static void cpuid_accepted(void)
{
	static struct cpuid_list back;
	struct guest g;

	NEW_GUEST(&g, FULL_CHIP, 0xf4);
	is(call(g.vcpu, KVM_SET_CPUID2, &supported), 0, "the supported CPUID is accepted as it is");
	back.head.nent = ENTRIES;
	is(call(g.vcpu, KVM_GET_CPUID2, &back), 0, "and read back");
	is(memcmp(&back.e[0], &supported.e[0], sizeof(back.e[0])), 0, "the same");
	free_guest(&g);
}

/* ---- MSRs --------------------------------------------------------------------------------------------------- */

static int msr(int fd, unsigned long request, uint32_t index, uint64_t *value)
{
	struct one_msr m = { .head = { .nmsrs = 1 }, .e = { .index = index, .data = *value } };
	int r = call(fd, request, &m);

	*value = m.e.data;
	return r;
}

/* Linux computes these from the "true" ones and from CPUID, and takes no value for them; nobody restores them. */
static bool derived(uint32_t index)
{
	switch (index) {
	case 0x481 ... 0x484: /* IA32_VMX_PINBASED_CTLS … IA32_VMX_ENTRY_CTLS */
	case 0x487:	      /* IA32_VMX_CR0_FIXED1 */
	case 0x489:	      /* IA32_VMX_CR4_FIXED1 */
		return true;
	default:
		return false;
	}
}

/* A monitor restores what it has read, and writes zeros at a reset. */
static void msrs_of(int chip, bool with_cpuid, const struct kvm_msr_list *list, bool zero, const char *name)
{
	int unread = 0, unwritten = 0, unzeroed = 0;
	struct guest g;

	NEW_GUEST(&g, chip, 0xf4);
	if (with_cpuid)
		need(call(g.vcpu, KVM_SET_CPUID2, &supported), "KVM_SET_CPUID2");
	for (uint32_t i = 0; i < list->nmsrs; i++) {
		uint32_t index = list->indices[i];
		uint64_t was = 0, nothing = 0;

		if (msr(g.vcpu, KVM_GET_MSRS, index, &was) != 1) {
			diag("%s: MSR %#x cannot be read", name, index);
			unread++;
		} else if (!derived(index) && msr(g.vcpu, KVM_SET_MSRS, index, &was) != 1) {
			diag("%s: MSR %#x does not take %#llx, its own value", name, index, (unsigned long long)was);
			unwritten++;
		}
		if (zero && msr(g.vcpu, KVM_SET_MSRS, index, &nothing) != 1) {
			diag("%s: MSR %#x does not take zero", name, index);
			unzeroed++;
		}
	}
	is(unread, 0, "%s: each of %u can be read", name, list->nmsrs);
	is(unwritten, 0, "%s: each takes its own value", name);
	if (zero)
		is(unzeroed, 0, "%s: each takes zero", name);
	free_guest(&g);
}

static struct kvm_msr_list *list_of(int sys, unsigned long request)
{
	struct kvm_msr_list *l = calloc(1, sizeof(*l) + 1000 * sizeof(l->indices[0]));

	l->nmsrs = 1000;
	need(call(sys, request, l), "the list of MSRs");
	return l;
}

static void msrs(int sys)
{
	struct kvm_msr_list *state = list_of(sys, KVM_GET_MSR_INDEX_LIST);
	struct kvm_msr_list *feature = list_of(sys, KVM_GET_MSR_FEATURE_INDEX_LIST);
	int bad = 0;

	msrs_of(FULL_CHIP, true, state, true, "state, interrupt chips in the kernel");
	msrs_of(SPLIT_CHIP, true, state, true, "state, local APICs in the kernel");
	msrs_of(NO_CHIP, true, state, true, "state, no chip");
	msrs_of(FULL_CHIP, false, state, true, "state, no CPUID yet");
	msrs_of(FULL_CHIP, true, feature, false, "features of a vCPU");
	for (uint32_t i = 0; i < feature->nmsrs; i++) {
		uint64_t v = 0;

		bad += msr(sys, KVM_GET_MSRS, feature->indices[i], &v) != 1;
	}
	is(bad, 0, "features: each of %u can be read from the system", feature->nmsrs);
	free(state);
	free(feature);
}

/* ---- paravirtual features ----------------------------------------------------------------------------------- */

struct code {
	uint8_t b[128];
	size_t n;
};

static void put(struct code *c, uint64_t v, size_t size)
{
	memcpy(c->b + c->n, &v, size);
	c->n += size;
}

static void mov32(struct code *c, int reg, uint32_t v)
{
	put(c, 0xb866u + ((uint32_t)reg << 8), 2);
	put(c, v, 4);
}

enum { EAX, ECX, EDX, EBX, ESI = 6 };

static void wrmsr(struct code *c, uint32_t index, uint32_t v)
{
	mov32(c, ECX, index);
	mov32(c, EAX, v);
	mov32(c, EDX, 0);
	put(c, 0x300f, 2);
}

static void hypercall(struct code *c, uint32_t nr, uint32_t b, uint32_t cx, uint32_t d, uint32_t s)
{
	mov32(c, EBX, b);
	mov32(c, ECX, cx);
	mov32(c, EDX, d);
	mov32(c, ESI, s);
	mov32(c, EAX, nr);
	put(c, 0xc1010f, 3);
}

/* The local APIC takes fixed interrupts. */
static void enable_apic(int vcpu)
{
	struct kvm_lapic_state s;

	need(call(vcpu, KVM_GET_LAPIC, &s), "KVM_GET_LAPIC");
	s.regs[0xf1] |= 1;
	need(call(vcpu, KVM_SET_LAPIC, &s), "KVM_SET_LAPIC");
}

/* Runs it with every supported feature and nothing else; true: to its end, false: #GP. */
static bool runs(struct guest *g, struct code *c)
{
	put(c, 0xa366, 2);
	put(c, ANSWER, 2);
	put(c, 0xe6 | PORT << 8, 2);
	new_guest(g, FULL_CHIP, c->b, c->n);
	need(call(g->vcpu, KVM_SET_CPUID2, &supported), "KVM_SET_CPUID2");
	need(enable(g->vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1), "KVM_CAP_ENFORCE_PV_FEATURE_CPUID");
	enable_apic(g->vcpu);
	memcpy(g->mem + 0x500, "\xe6\x0d\xf4", 3);
	memcpy(g->mem + 13 * 4, "\x00\x05\x00\x00", 4);
	while (run(g) < 0 && errno == EINTR)
		;
	return g->run->exit_reason == KVM_EXIT_IO && g->run->io.port == PORT;
}

static uint32_t word(struct guest *g, uint32_t at)
{
	uint32_t v;

	memcpy(&v, g->mem + at, 4);
	return v;
}

static bool clock_pages(uint32_t wall, uint32_t system)
{
	struct code c = { .n = 0 };
	struct guest g;
	bool good;

	wrmsr(&c, wall, PAGE + 0x800);
	wrmsr(&c, system, PAGE | 1);
	good = runs(&g, &c) && word(&g, PAGE) && !(word(&g, PAGE) & 1) && word(&g, PAGE + 24) && word(&g, PAGE + 0x804);
	free_guest(&g);
	return good;
}

static bool old_clock(void)
{
	return clock_pages(MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME);
}

static bool new_clock(void)
{
	return clock_pages(MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW);
}

static bool stable(void)
{
	struct code c = { .n = 0 };
	struct guest g;
	bool good;

	wrmsr(&c, MSR_KVM_SYSTEM_TIME_NEW, PAGE | 1);
	good = runs(&g, &c) && (g.mem[PAGE + 29] & 1);
	free_guest(&g);
	return good;
}

static bool steal(void)
{
	struct code c = { .n = 0 };
	struct guest g;
	bool good;

	wrmsr(&c, MSR_KVM_STEAL_TIME, PAGE | 1);
	good = runs(&g, &c) && word(&g, PAGE + 8) && !(word(&g, PAGE + 8) & 1);
	free_guest(&g);
	return good;
}

/* The value stays and can be read by the guest. */
static bool keeps(uint32_t index, uint32_t v)
{
	struct code c = { .n = 0 };
	struct guest g;
	bool good;

	wrmsr(&c, index, v);
	mov32(&c, EAX, 0);
	put(&c, 0x320f, 2);
	good = runs(&g, &c) && word(&g, ANSWER) == v;
	free_guest(&g);
	return good;
}

static bool pv_eoi(void)
{
	return keeps(MSR_KVM_PV_EOI_EN, PAGE | 1);
}

static bool poll_control(void)
{
	return keeps(MSR_KVM_POLL_CONTROL, 0) && keeps(MSR_KVM_POLL_CONTROL, 1);
}

static int32_t answers(uint32_t nr, uint32_t b, uint32_t cx, uint32_t d, uint32_t s)
{
	struct code c = { .n = 0 };
	struct guest g;
	int32_t r;

	hypercall(&c, nr, b, cx, d, s);
	r = runs(&g, &c) ? (int32_t)word(&g, ANSWER) : -1;
	free_guest(&g);
	return r;
}

static bool unhalt(void)
{
	return answers(KVM_HC_KICK_CPU, 0, 0, 0, 0) == 0;
}

static bool send_ipi(void)
{
	return answers(KVM_HC_SEND_IPI, 1, 0, 0, 0x30) == 1;
}

static bool yields(void)
{
	return answers(KVM_HC_SCHED_YIELD, 0, 0, 0, 0) == 0;
}

static bool nothing_to_fail(void)
{
	return true;
}

static const struct feature {
	int bit;
	const char *name;
	bool (*works)(void);
} features[] = {
	{ KVM_FEATURE_CLOCKSOURCE, "kvmclock, old MSRs", old_clock },
	{ KVM_FEATURE_NOP_IO_DELAY, "no delays after port accesses", nothing_to_fail },
	{ KVM_FEATURE_CLOCKSOURCE2, "kvmclock", new_clock },
	{ KVM_FEATURE_STEAL_TIME, "steal time", steal },
	{ KVM_FEATURE_PV_EOI, "PV EOI", pv_eoi },
	{ KVM_FEATURE_PV_UNHALT, "PV unhalt", unhalt },
	{ KVM_FEATURE_PV_SEND_IPI, "PV IPIs", send_ipi },
	{ KVM_FEATURE_POLL_CONTROL, "poll control", poll_control },
	{ KVM_FEATURE_PV_SCHED_YIELD, "PV yield", yields },
	{ KVM_FEATURE_CLOCKSOURCE_STABLE_BIT, "kvmclock is stable", stable },
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void paravirtual(void)
{
	const struct kvm_cpuid_entry2 *e = leaf(KVM_CPUID_FEATURES);
	uint32_t tested = 0;

	need(e ? 0 : -1, "leaf 40000001H");
	for (size_t i = 0; i < COUNT(features); i++) {
		const struct feature *f = &features[i];

		tested |= 1u << f->bit;
		if (e->eax >> f->bit & 1)
			ok(f->works(), "%s: advertised and works", f->name);
		else
			diag("%s: not advertised", f->name);
	}
	is(e->eax & ~tested, 0, "no paravirtual feature without a test");
}

/* ---- what is absent ----------------------------------------------------------------------------------------- */

static bool faults(uint32_t index)
{
	struct code c = { .n = 0 };
	struct guest g;
	bool good;

	wrmsr(&c, index, PAGE | 1);
	good = !runs(&g, &c) && g.run->exit_reason == KVM_EXIT_IO && g.run->io.port == GP_PORT;
	free_guest(&g);
	return good;
}

static void absent(int sys)
{
	static const uint32_t hyperv[] = {
		KVM_CAP_HYPERV, KVM_CAP_HYPERV_VAPIC, KVM_CAP_HYPERV_SPIN, KVM_CAP_HYPERV_TIME, KVM_CAP_HYPERV_SYNIC,
		KVM_CAP_HYPERV_SYNIC2, KVM_CAP_HYPERV_VP_INDEX, KVM_CAP_HYPERV_EVENTFD, KVM_CAP_HYPERV_TLBFLUSH,
		KVM_CAP_HYPERV_SEND_IPI, KVM_CAP_HYPERV_ENLIGHTENED_VMCS, KVM_CAP_HYPERV_CPUID,
		KVM_CAP_SYS_HYPERV_CPUID, KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_XEN_HVM, KVM_CAP_ASYNC_PF,
		KVM_CAP_ASYNC_PF_INT,
	};
	const struct kvm_cpuid_entry2 *kvm = leaf(KVM_CPUID_SIGNATURE), *f = leaf(KVM_CPUID_FEATURES);
	int offered = 0;

	for (size_t i = 0; i < COUNT(hyperv); i++)
		offered += call(sys, KVM_CHECK_EXTENSION, hyperv[i]) > 0;
	is(offered, 0, "no capability of Hyper-V, Xen or asynchronous page faults");
	ok(kvm && kvm->eax == KVM_CPUID_FEATURES, "no Hyper-V leaf behind KVM's");
	ok(f && !(f->eax & (1u << KVM_FEATURE_ASYNC_PF | 1u << KVM_FEATURE_ASYNC_PF_VMEXIT |
			    1u << KVM_FEATURE_ASYNC_PF_INT | 1u << KVM_FEATURE_HC_MAP_GPA_RANGE |
			    1u << KVM_FEATURE_MIGRATION_CONTROL)), "nor their paravirtual features");
	ok(faults(MSR_KVM_ASYNC_PF_EN) && faults(MSR_KVM_ASYNC_PF_INT) && faults(MSR_KVM_ASYNC_PF_ACK),
	   "their MSRs are #GP");
	ok(faults(MSR_KVM_MIGRATION_CONTROL), "so is migration control");
	ok(faults(0x40000000), "and Hyper-V's guest id");
	is(answers(KVM_HC_MAP_GPA_RANGE, 0, 1, 0, 0), -KVM_ENOSYS, "an absent hypercall answers -KVM_ENOSYS");
	is(answers(99, 0, 0, 0, 0), -KVM_ENOSYS, "and so does one that no KVM has");
}

int main(void)
{
	int sys = open_sys();

	get_supported(sys);
	cpuid_accepted();
	msrs(sys);
	paravirtual();
	absent(sys);
	return done_testing();
}
