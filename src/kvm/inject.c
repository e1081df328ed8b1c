/* SPDX-License-Identifier: MIT */
/*
 * Fault injection, carried out. The language is src/guard/inject.c's.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm/sig.h"
#include "kvm/sys.h"

_Atomic u32 inject_ioctls;

static int poison(struct kvm_vm *vm, gpa_t gpa)
{
	struct memslot *s;
	u32 n;
	int r = -ENOENT;

	gpa &= PAGE_MASK;
	pthread_mutex_lock(&vm->slots_lock);
	s = mem_slot_find(&vm->m.mem, 0, gpa);
	n = vm->npoison;
	if (s && n < POISON_MAX) {
		vm->poison[n].gpa = gpa;
		vm->poison[n].host = s->hva + (gpa - s->gpa);
		/* The engine finds out as it does about any page that is gone: its access faults. */
		r = (int)sys_call(SYS_mprotect, vm->poison[n].host, PAGE_SIZE, PROT_NONE);
		if (!r)
			vm->npoison = n + 1;
	}
	pthread_mutex_unlock(&vm->slots_lock);
	if (!r)
		guard_depart_vm(&vm->guard, DEP_INJECT_POISON, gpa);
	return r;
}

bool inject_poisoned(struct kvm_vcpu *k)
{
	struct kvm_vm *vm = k->vm;
	gpa_t page = k->v->fault_gpa & PAGE_MASK;

	for (u32 i = 0; i < vm->npoison; i++) {
		siginfo_t si = { .si_signo = SIGBUS, .si_code = BUS_MCEERR_AR };

		if (vm->poison[i].gpa != page)
			continue;
		si.si_addr = (void *)vm->poison[i].host;
		si.si_addr_lsb = 12;
		signal_queue(&si);
		return true;
	}
	return false;
}

void inject_mce(struct kvm_vcpu *k)
{
	u64 status = atomic_exchange(&k->guard.mce, 0);
	struct kvm_x86_mce m = { .status = status, .mcg_status = BIT(2) | BIT(0), .bank = 1, .misc = 0x8c };

	if (!status)
		return;
	guard_depart(k->v, DEP_INJECT_MCE, status);
	vcpu_set_mce(k, 0, &m);
}

static int apply_vcpu(struct kvm_vcpu *k, const struct injection *i)
{
	switch (i->kind) {
	case INJECT_WEDGE:
		guard_wedge(&k->guard, i->val);
		return 0;
	case INJECT_F00F:
		k->guard.f00f = k->v->event_begins = true;
		return 0;
	case INJECT_SPLIT_AC:
		k->guard.lock.inject_ac = true;
		vcpu_request(k->v, REQ_KVM);
		return 0;
	case INJECT_MCE:
		k->guard.mce = i->val;
		vcpu_request(k->v, REQ_KVM);
		return 0;
	default:
		return -EINVAL;
	}
}

static int apply_vm(struct kvm_vm *vm, const struct injection *i)
{
	int r;

	switch (i->kind) {
	case INJECT_CONTEXT:
		vm->guard.inject_corrupt = i->val;
		atomic_fetch_or(&vm->guard.inject_qual, NOTIFY_QUAL_INVALID);
		return 0;
	case INJECT_NMI_UNBLOCK:
		atomic_fetch_or(&vm->guard.inject_qual, NOTIFY_QUAL_NMI_UNBLOCK);
		return 0;
	case INJECT_POISON:
		return poison(vm, i->val);
	case INJECT_IOCTL:
		r = guard_plan_add(&vm->guard.plan, i);
		if (!r)
			inject_ioctls++;
		return r;
	default:
		return -EINVAL;
	}
}

static bool about_vcpu(const struct injection *i)
{
	return i->kind == INJECT_WEDGE || i->kind == INJECT_F00F || i->kind == INJECT_MCE || i->kind == INJECT_SPLIT_AC;
}

static int apply(struct kvm_vm *vm, const struct injection *i)
{
	struct kvm_vcpu *k;
	int r = -ENOENT;

	if (!about_vcpu(i))
		return apply_vm(vm, i);
	pthread_mutex_lock(&vm->lock);
	k = vm_vcpu_by_id(vm, i->vcpu);
	if (k)
		r = apply_vcpu(k, i);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

int inject(struct kvm_vm *vm, const char *what, char *err, size_t n)
{
	struct injection i;
	int r;

	while ((r = guard_inject_next(&what, &i, err, n)) > 0) {
		r = apply(vm, &i);
		if (!r)
			continue;
		snprintf(err, n, "%s", r == -ENOENT ? "no such vCPU, or no memory there" :
				       r == -ENOSPC ? "too many failing ioctls" : strerror(-r));
		return r;
	}
	return r;
}

/* Memory comes after the VM is made, so poison does not belong into the option. */
int inject_initial(struct kvm_vm *vm, struct kvm_vcpu *k)
{
	const char *what = vm->guard.opt.inject;
	struct injection i;
	char err[512];
	int r;

	while ((r = guard_inject_next(&what, &i, err, sizeof(err))) > 0) {
		if (i.kind == INJECT_POISON)
			return -EINVAL;
		if (k && about_vcpu(&i) && i.vcpu == k->v->id)
			r = apply_vcpu(k, &i);
		else if (!k && !about_vcpu(&i))
			r = apply_vm(vm, &i);
		if (r < 0)
			return r;
	}
	return r;
}
