/* SPDX-License-Identifier: MIT */
/*
 * CPUID as user space gives it to a vCPU, and the list of what it may give.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <linux/kvm_para.h>
#include <stdlib.h>
#include <string.h>

#define PV_FEATURES                                                                          \
	(BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) |                      \
	 BIT(KVM_FEATURE_CLOCKSOURCE2) | BIT(KVM_FEATURE_STEAL_TIME) |                       \
	 BIT(KVM_FEATURE_PV_EOI) | BIT(KVM_FEATURE_PV_UNHALT) | BIT(KVM_FEATURE_PV_SEND_IPI) | \
	 BIT(KVM_FEATURE_POLL_CONTROL) | BIT(KVM_FEATURE_PV_SCHED_YIELD) |                   \
	 BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT))

_Static_assert(sizeof(struct cpuid_entry) == sizeof(struct kvm_cpuid_entry2), "same layout");

/* ---- what there is -------------------------------------------------------------------------------------- */

static bool is_pv_leaf(u32 fn)
{
	return fn >> 8 == 0x400000;
}

static void add(struct cpuid_entry *e, u32 max, u32 *n, u32 fn, u32 a, u32 b, u32 c, u32 d)
{
	if (*n < max)
		e[*n] = (struct cpuid_entry){ .function = fn, .eax = a, .ebx = b, .ecx = c, .edx = d };
	(*n)++;
}

/* Number of entries, which may exceed max. */
static u32 supported(struct cpuid_entry *e, u32 max)
{
	static struct cpuid_entry all[CPUID_ENTRIES_MAX];
	static u32 total;
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	u32 n = 0, have;

	pthread_mutex_lock(&lock);
	if (!total)
		total = cpuid_supported(all, CPUID_ENTRIES_MAX);
	have = total;
	pthread_mutex_unlock(&lock);
	for (u32 i = 0; i < have; i++) {
		if (is_pv_leaf(all[i].function))
			continue;
		if (n < max)
			e[n] = all[i];
		n++;
	}
	add(e, max, &n, KVM_CPUID_SIGNATURE, KVM_CPUID_FEATURES, 0x4b4d564b, 0x564b4d56, 0x4d);
	add(e, max, &n, KVM_CPUID_FEATURES, PV_FEATURES, 0, 0, 0);
	return lock_cpuid(e, n, max);
}

static long give_list(u64 arg, bool empty)
{
	struct cpuid_entry *e;
	struct kvm_cpuid2 head;
	u32 n;
	long r = 0;

	if (copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.nent < 1)
		return -E2BIG;
	if (head.nent > CPUID_ENTRIES_MAX)
		head.nent = CPUID_ENTRIES_MAX;
	e = calloc(head.nent, sizeof(*e));
	if (!e)
		return -ENOMEM;
	n = empty ? 0 : supported(e, head.nent);
	if (n > head.nent)
		r = -E2BIG;
	head.nent = n;
	if (!r && (copy_out(arg + sizeof(head), e, n * sizeof(*e)) || copy_out(arg, &head, sizeof(head))))
		r = -EFAULT;
	free(e);
	return r;
}

long sys_get_supported_cpuid(void *obj, u64 arg, void *buf)
{
	return give_list(arg, false);
}

/* Features emulated although the host lacks them: those are in the supported list already. */
long sys_get_emulated_cpuid(void *obj, u64 arg, void *buf)
{
	return give_list(arg, true);
}

/* ---- KVM_SET_CPUID(2) ------------------------------------------------------------------------------------ */

static struct cpuid_entry *find(struct cpuid_entry *e, u32 n, u32 fn, u32 index)
{
	for (u32 i = 0; i < n; i++)
		if (e[i].function == fn &&
		    (!(e[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e[i].index == index))
			return &e[i];
	return NULL;
}

/* The bits that follow the vCPU's state, as KVM_GET_CPUID2 shows them. */
void kvm_cpuid_runtime(struct kvm_vcpu *k, struct cpuid_entry *e, u32 n)
{
	for (u32 i = 0; i < n; i++)
		cpuid_dynamic(k->v, &e[i]);
}

static bool same(const struct cpuid_entry *a, const struct cpuid_entry *b)
{
	return a->function == b->function && a->index == b->index && a->flags == b->flags &&
	       a->eax == b->eax && a->ebx == b->ebx && a->ecx == b->ecx && a->edx == b->edx;
}

/* After the first KVM_RUN CPUID is fixed: the same list is accepted, nothing else. */
static long check_equal(struct kvm_vcpu *k, struct cpuid_entry *e, u32 n)
{
	kvm_cpuid_runtime(k, k->v->cpuid, k->v->ncpuid);
	kvm_cpuid_runtime(k, e, n);
	if (n != k->v->ncpuid)
		return -EINVAL;
	for (u32 i = 0; i < n; i++)
		if (!same(&e[i], &k->v->cpuid[i]))
			return -EINVAL;
	return 0;
}

static void find_pv(struct kvm_vcpu *k)
{
	struct cpuid_entry *x;

	k->kvm_cpuid_base = k->pv_features = 0;
	for (u32 base = 0x40000000; base < 0x40010000; base += 0x100) {
		x = find(k->v->cpuid, k->v->ncpuid, base, 0);
		if (!x || x->ebx != 0x4b4d564b || x->ecx != 0x564b4d56 || x->edx != 0x4d)
			continue;
		k->kvm_cpuid_base = base;
		x = find(k->v->cpuid, k->v->ncpuid, base | 1, 0);
		k->pv_features = x ? x->eax : 0;
		return;
	}
}

static bool valid(struct cpuid_entry *e, u32 n)
{
	struct cpuid_entry *x = find(e, n, 0x80000008, 0);
	u32 bits = x ? x->eax >> 8 & 0xff : 0;

	return bits == 0 || bits == 48 || bits == 57;
}

static long adopt(struct kvm_vcpu *k, struct cpuid_entry *e, u32 n)
{
	struct vcpu *v = k->v;

	if (k->has_run)
		return check_equal(k, e, n);
	if (!valid(e, n))
		return -EINVAL;
	memcpy(v->cpuid, e, n * sizeof(*e));
	v->ncpuid = n;
	cpuid_adopt(v);
	find_pv(k);
	lapic_cpuid_changed(v);
	kvm_cpuid_runtime(k, v->cpuid, n);
	rcache_flush(v); /* what decodes to #UD may have changed */
	cpu_mode_update(v);
	return 0;
}

static long set_list(struct kvm_vcpu *k, u64 arg, bool old_format)
{
	struct kvm_cpuid2 head;
	struct cpuid_entry *e;
	long r = 0;

	if (copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.nent > CPUID_ENTRIES_MAX)
		return -E2BIG;
	e = calloc(head.nent + 1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	if (!old_format) {
		r = copy_in(e, arg + sizeof(head), head.nent * sizeof(*e));
	} else {
		for (u32 i = 0; i < head.nent && !r; i++) {
			struct kvm_cpuid_entry o;

			r = copy_in(&o, arg + sizeof(head) + i * sizeof(o), sizeof(o));
			e[i] = (struct cpuid_entry){ .function = o.function, .eax = o.eax,
						     .ebx = o.ebx, .ecx = o.ecx, .edx = o.edx };
		}
	}
	if (!r)
		r = adopt(k, e, head.nent);
	free(e);
	return r;
}

long vcpu_set_cpuid2(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return set_list(k, arg, false);
}

long vcpu_set_cpuid(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return set_list(k, arg, true);
}

long vcpu_get_cpuid2(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct vcpu *v = k->v;
	struct kvm_cpuid2 head;

	if (copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.nent < v->ncpuid)
		return -E2BIG;
	kvm_cpuid_runtime(k, v->cpuid, v->ncpuid);
	return copy_out(arg + sizeof(head), v->cpuid, v->ncpuid * sizeof(*v->cpuid));
}
