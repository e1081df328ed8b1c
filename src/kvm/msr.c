/* SPDX-License-Identifier: MIT */
/*
 * MSR lists, KVM_GET/SET_MSRS, the MSR filter, and the MSRs that spec/msr.def leaves to its surroundings.
 */
#include "kvm/kvm.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>


#define MSRS_MAX 256 /* the kernel's MAX_IO_MSRS */
#define FILTER_BITMAP_MAX 0x600
#define IA32_TSC 0x10

_Thread_local bool msr_by_host __attribute__((tls_model("initial-exec")));

/* ---- lists ---------------------------------------------------------------------------------------------- */

/* The count is written even when there is no room: that is how callers learn it. */
static long give_list(u64 arg, bool feature)
{
	u32 n, room;
	const u32 *list = msr_list(feature, &n);
	struct kvm_msr_list head;

	if (copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	room = head.nmsrs;
	head.nmsrs = n;
	if (copy_out(arg, &head, sizeof(head)))
		return -EFAULT;
	if (room < n)
		return -E2BIG;
	return copy_out(arg + sizeof(head), list, n * sizeof(*list));
}

long sys_get_msr_index_list(void *obj, u64 arg, void *buf)
{
	return give_list(arg, false);
}

long sys_get_msr_feature_index_list(void *obj, u64 arg, void *buf)
{
	return give_list(arg, true);
}

/* ---- KVM_GET/SET_MSRS --------------------------------------------------------------------------------------- */

typedef int (*msr_fn)(struct kvm_vcpu *k, struct kvm_msr_entry *e);

/* Returns how many were done before the first that failed. */
static long msr_io(struct kvm_vcpu *k, u64 arg, msr_fn fn, bool write_back)
{
	struct kvm_msr_entry e[MSRS_MAX];
	struct kvm_msrs head;
	u32 i;

	if (copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.nmsrs >= MSRS_MAX)
		return -E2BIG;
	if (copy_in(e, arg + sizeof(head), head.nmsrs * sizeof(*e)))
		return -EFAULT;
	msr_by_host = true;
	for (i = 0; i < head.nmsrs && !fn(k, &e[i]); i++)
		;
	msr_by_host = false;
	if (write_back && copy_out(arg + sizeof(head), e, head.nmsrs * sizeof(*e)))
		return -EFAULT;
	return i;
}

static int get_one(struct kvm_vcpu *k, struct kvm_msr_entry *e)
{
	u64 val = 0;
	int r = cpu_rdmsr(k->v, e->index, &val, true);

	e->data = val;
	return r;
}

static int set_one(struct kvm_vcpu *k, struct kvm_msr_entry *e)
{
	if (e->index == IA32_TSC) {
		clock_sync_tsc(k, e->data);
		return 0;
	}
	return cpu_wrmsr(k->v, e->index, e->data, true);
}

static int get_feature(struct kvm_vcpu *k, struct kvm_msr_entry *e)
{
	u64 val = 0;
	int r = msr_feature(e->index, &val);

	e->data = val;
	return r;
}

long sys_get_msrs(void *obj, u64 arg, void *buf)
{
	return msr_io(NULL, arg, get_feature, true);
}

long vcpu_get_msrs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return msr_io(k, arg, get_one, true);
}

long vcpu_set_msrs(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return msr_io(k, arg, set_one, false);
}

/* ---- the filter ----------------------------------------------------------------------------------------------- */

void msr_filter_free(struct msr_filter *f)
{
	if (!f)
		return;
	for (u32 i = 0; i < f->n; i++)
		free(f->range[i].bitmap);
	free(f);
}

static int filter_add(struct msr_filter *f, const struct kvm_msr_filter_range *r)
{
	struct msr_filter_range *n = &f->range[f->n];
	size_t bytes = ((size_t)r->nmsrs + 63) / 64 * 8;

	if (!r->nmsrs)
		return 0;
	if (!r->flags || (r->flags & ~(u32)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)))
		return -EINVAL;
	if (bytes > FILTER_BITMAP_MAX)
		return -EINVAL;
	n->bitmap = malloc(bytes);
	if (!n->bitmap)
		return -ENOMEM;
	f->n++;
	n->flags = r->flags;
	n->base = r->base;
	n->nmsrs = r->nmsrs;
	return copy_in(n->bitmap, (u64)r->bitmap, bytes);
}

long vm_set_msr_filter(struct kvm_vm *vm, u64 arg, void *buf)
{
	const struct kvm_msr_filter *in = buf;
	struct msr_filter *f, *old;
	bool empty = true;
	int r = 0;

	if (in->flags & ~(u32)KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(in->ranges); i++)
		empty &= !in->ranges[i].nmsrs;
	if (empty && (in->flags & KVM_MSR_FILTER_DEFAULT_DENY))
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->default_allow = !(in->flags & KVM_MSR_FILTER_DEFAULT_DENY);
	for (size_t i = 0; i < ARRAY_SIZE(in->ranges) && !r; i++)
		r = filter_add(f, &in->ranges[i]);
	if (r) {
		msr_filter_free(f);
		return r;
	}
	pthread_mutex_lock(&vm->slots_lock);
	vm_pause(&vm->m, NULL);
	old = atomic_exchange(&vm->filter, f);
	vm_resume(&vm->m, NULL, 0);
	pthread_mutex_unlock(&vm->slots_lock);
	msr_filter_free(old);
	return 0;
}

bool msr_bus_allowed(struct vcpu *v, u32 index, bool write)
{
	const struct msr_filter *f = kvm_vm_of(v)->filter;
	u32 type = write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ;

	if (!f || (index >= 0x800 && index <= 0x8ff)) /* x2APIC cannot be filtered */
		return true;
	for (u32 i = 0; i < f->n; i++) {
		const struct msr_filter_range *r = &f->range[i];
		u32 n = index - r->base;

		if (index >= r->base && n < r->nmsrs && (r->flags & type))
			return r->bitmap[n / 8] >> (n % 8) & 1;
	}
	return f->default_allow;
}

/* ---- MSRs that are not the processor's ------------------------------------------------------- */

static bool is_pv(u32 index)
{
	return index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_SYSTEM_TIME ||
	       (index >= MSR_KVM_WALL_CLOCK_NEW && index <= 0x4b564dff);
}

int msr_bus_read(struct vcpu *v, u32 index, u64 *val)
{
	if (index == SLD_PV_MSR)
		return guard_sld_rdmsr(v, val);
	if (is_pv(index))
		return pvclock_rdmsr(kvm_of(v), index, val);
	return irq_msr_read(v, index, val);
}

int msr_bus_write(struct vcpu *v, u32 index, u64 val)
{
	if (index == SLD_PV_MSR)
		return guard_sld_wrmsr(v, val, msr_by_host);
	if (is_pv(index))
		return pvclock_wrmsr(kvm_of(v), index, val);
	return irq_msr_write(v, index, val);
}
