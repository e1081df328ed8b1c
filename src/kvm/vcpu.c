/* SPDX-License-Identifier: MIT */
/*
 * A vCPU's life, and its ioctls that are not guest state.
 */
#include "kvm/kvm.h"
#include "kvm/nested.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm/sig.h"
#include "kvm/sys.h"
#include "jit/jit.h"

void vcpu_free(struct kvm_vcpu *k)
{
	memory_free_ring(k);
	if (k->v) {
		nested_destroy(k);
		lapic_destroy(k->v);
		vcpu_destroy(k->v);
	}
	if (k->run)
		sys_munmap(k->run, 2 * PAGE_SIZE);
	if (k->fd >= 0)
		sys_close(k->fd);
	stats_free(k->stat);
	pthread_mutex_destroy(&k->mutex);
	free(k);
}

static int make_run_pages(struct kvm_vcpu *k)
{
	int r;

	k->fd = sys_memfd("kvm-vcpu", MFD_CLOEXEC);
	if (k->fd < 0)
		return k->fd;
	r = sys_ftruncate(k->fd, RUN_PAGES * PAGE_SIZE);
	if (r)
		return r;
	k->run = sys_mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
	if (!k->run)
		return -ENOMEM;
	k->pio_page = (u8 *)k->run + PAGE_OFF_PIO * PAGE_SIZE;
	return 0;
}

/* Once per process: who starts many guests has read it. */
static void tell_once(const char *what, int err, const char *so)
{
	static atomic_flag told = ATOMIC_FLAG_INIT;

	if (!atomic_flag_test_and_set(&told))
		fprintf(stderr, "casement: %s (%s): %s\n", what, strerror(-err), so);
}

/* A host that cannot run translated code runs the same guests interpreted; what was asked wrongly was told. */
static int add_translator(struct kvm_vcpu *k)
{
	int r = k->vm->guard.opt.engine == ENGINE_JIT ? jit_attach(k->v) : 0;

	if (r == -EINVAL)
		return r;
	if (r)
		tell_once(r == -EOPNOTSUPP ? "no BMI2 or no FSGSBASE here" : "no memory for translated code", r,
			  "guests are interpreted (engine=interp)");
	return 0;
}

/* vm->lock is held: the new vCPU gets the next index and becomes visible at once. */
static int vcpu_init(struct kvm_vcpu *k, u32 id)
{
	struct kvm_vm *vm = k->vm;
	int r;

	r = make_run_pages(k);
	if (!r)
		r = stats_alloc(sizeof(*k->stat), (void **)&k->stat);
	if (r)
		return r;
	k->v = vcpu_create(&vm->m, id);
	if (!k->v) {
		r = -errno;
		if (r == -EACCES || r == -EPERM)
			tell_once("the host refuses executable memory", r, "no virtual processor can run here");
		return r;
	}
	k->v->owner = k;
	r = memory_create_ring(k);
	if (r)
		return r;
	nested_init(k);
	r = add_translator(k);
	if (r)
		return r;
	guard_vcpu_init(&k->guard, &vm->guard, k->v);
	if (!vm->guard.lock.offered)
		k->v->msr_val[MSR_SLOT_CORE_CAPABILITIES] = 0;
	xstate_init(k);
	cpuid_adopt(k->v); /* no CPUID yet: everything there is */
	if (irqchip_mode(&vm->m) == IRQCHIP_NONE || irqchip_is_bsp(k->v))
		k->mp_state = KVM_MP_STATE_RUNNABLE;
	else
		k->mp_state = KVM_MP_STATE_UNINITIALIZED;
	r = lapic_create(k->v);
	if (r)
		return r;
	lapic_reset(k->v, false);
	k->poll_control = 1;
	clock_vcpu_init(k);
	return inject_initial(vm, k);
}

static struct kvm_vcpu *vcpu_new(struct kvm_vm *vm, u32 id, int *err)
{
	struct kvm_vcpu *k = calloc(1, sizeof(*k));

	*err = -ENOMEM;
	if (!k)
		return NULL;
	k->fd = -1;
	k->vm = vm;
	pthread_mutex_init(&k->mutex, NULL);
	*err = vcpu_init(k, id);
	if (!*err)
		return k;
	if (k->v)
		vm->m.nvcpus = k->v->index; /* it was the last one */
	vcpu_free(k);
	return NULL;
}

static long create_vcpu(struct kvm_vm *vm, u32 id)
{
	struct kvm_vcpu *k;
	int err, fd;

	if (vm->created_vcpus >= VCPU_MAX)
		return -EINVAL;
	if (!vm->max_vcpu_ids)
		vm->max_vcpu_ids = VCPU_IDS_MAX;
	if (id >= vm->max_vcpu_ids)
		return -EINVAL;
	if (vm_vcpu_by_id(vm, id))
		return -EEXIST;
	/* Nobody may walk the vCPUs while one appears. */
	pthread_mutex_lock(&vm->slots_lock);
	k = vcpu_new(vm, id, &err);
	pthread_mutex_unlock(&vm->slots_lock);
	if (!k)
		return err;
	vm->created_vcpus++;
	fd = k->fd;
	k->fd = -1;
	vm_get(vm);
	return fdtab_open(&kvm_vcpu_ops, k, fd);
}

long vm_create_vcpu(struct kvm_vm *vm, u64 id, void *buf)
{
	long r;

	if ((u32)id >= VCPU_IDS_MAX)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	r = create_vcpu(vm, (u32)id);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* ---- small ones ---------------------------------------------------------------------------------------- */

long vcpu_ioctl_run(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return arg ? -EINVAL : vcpu_run(k);
}

long vcpu_set_signal_mask(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_signal_mask head;
	u64 set;

	if (!arg) {
		k->sigset_active = false;
		return 0;
	}
	if (copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.len != sizeof(set))
		return -EINVAL;
	if (copy_in(&set, arg + offsetof(struct kvm_signal_mask, sigset), sizeof(set)))
		return -EFAULT;
	k->sigset = set & ~((1ull << 8) | (1ull << 18)); /* SIGKILL and SIGSTOP */
	k->sigset_active = true;
	signal_catch_unblocked(set);
	return 0;
}

long vcpu_translate(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_translation *t = buf;
	gpa_t gpa = ~0ull;

	cpu_enter_guest(k->v);
	t->valid = mmu_translate(k->v, t->linear_address, ACC_R | ACC_SYS, &gpa);
	cpu_leave_guest(k->v);
	t->physical_address = t->valid ? gpa : ~0ull;
	t->writeable = 1; /* the kernel's fixed answers */
	t->usermode = 0;
	return 0;
}

static bool debug_event_pending(const struct kvm_vcpu *k)
{
	return events_exception_pending(k);
}

long vcpu_set_guest_debug(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_guest_debug *d = buf;
	struct vcpu *v = k->v;

	if (d->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
		bool db = d->control & KVM_GUESTDBG_INJECT_DB;

		if (debug_event_pending(k))
			return -EBUSY;
		/* no departure: user space asked for it */
		v->pending = (struct event){ .valid = true, .vector = db ? EXC_DB : EXC_BP,
					     .type = db ? EVENT_HARD_EXC : EVENT_SOFT_EXC };
	}
	v->guest_debug = d->control & KVM_GUESTDBG_ENABLE ? d->control : 0;
	if (v->guest_debug & KVM_GUESTDBG_USE_HW_BP) {
		for (int i = 0; i < 4; i++)
			v->guest_dr[i] = d->arch.debugreg[i];
		v->guest_debug_dr7 = d->arch.debugreg[7];
	}
	debug_update(v);
	return 0;
}

/* ---- attributes ------------------------------------------------------------------------------------------ */

long vcpu_has_device_attr(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_device_attr *a = buf;

	return a->group != KVM_VCPU_TSC_CTRL || a->attr != KVM_VCPU_TSC_OFFSET ? -ENXIO : 0;
}

long vcpu_get_device_attr(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_device_attr *a = buf;
	long r = vcpu_has_device_attr(k, arg, buf);

	return r ?: copy_out(a->addr, &k->v->tsc_offset, sizeof(u64));
}

long vcpu_set_device_attr(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_device_attr *a = buf;
	long r = vcpu_has_device_attr(k, arg, buf);
	u64 offset;

	if (r)
		return r;
	if (copy_in(&offset, a->addr, sizeof(offset)))
		return -EFAULT;
	clock_sync_offset(k, offset);
	return 0;
}
