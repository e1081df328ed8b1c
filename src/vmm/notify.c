/* SPDX-License-Identifier: MIT */
/*
 * What the monitor does about KVM_EXIT_NOTIFY: --accel …,notify-vmexit= and notify-invalid=.
 *
 * A vCPU with a valid context is run again, or the VM is stopped. One with an invalid context is never run again as it
 * is: the VM is stopped, or the vCPU is given a triple fault, which ends L2 if L2 runs and the VM if L1 does.
 */
#include <stdlib.h>
#include <string.h>
#include "vmm/vmm.h"

/* Does L2 run? Without nesting, or when KVM does not say, L1 does. */
static unsigned int level(struct vcpu *v)
{
	int size = vmm_cap(v->vm, KVM_CAP_NESTED_STATE);
	struct kvm_nested_state *s = size > 0 ? calloc(1, (size_t)size) : NULL;
	unsigned int l = 1;

	if (!s)
		return l;
	s->size = (u32)size;
	if (!call_ioctl(v->vm->kvm, v->fd, KVM_GET_NESTED_STATE, (unsigned long)s) &&
	    (s->flags & KVM_STATE_NESTED_GUEST_MODE))
		l = 2;
	free(s);
	return l;
}

static u64 rip_of(struct vcpu *v)
{
	struct kvm_regs r;

	return call_ioctl(v->vm->kvm, v->fd, KVM_GET_REGS, (unsigned long)&r) ? 0 : r.rip;
}

static void describe(struct vcpu *v, bool invalid, unsigned int l, u64 n, char *buf, size_t size)
{
	snprintf(buf, size,
		 "cpu %u: notify VM exit, no event window within the notify window: "
		 "context %s, L%u, RIP 0x%llx, %llu time%s",
		 v->id, invalid ? "invalid" : "valid", l, (unsigned long long)rip_of(v), (unsigned long long)n,
		 n == 1 ? "" : "s");
}

static int request_triple_fault(struct vcpu *v)
{
	struct kvm_vcpu_events e;
	int rc = call_ioctl(v->vm->kvm, v->fd, KVM_GET_VCPU_EVENTS, (unsigned long)&e);

	if (rc)
		return rc;
	/* Nothing else of what was read is to be written back. */
	e.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	e.triple_fault.pending = 1;
	return call_ioctl(v->vm->kvm, v->fd, KVM_SET_VCPU_EVENTS, (unsigned long)&e);
}

static void invalid_context(struct vcpu *v, unsigned int l, const char *what)
{
	struct vm *vm = v->vm;
	bool shutdown = vm->notify_invalid == NOTIFY_INVALID_SHUTDOWN_VM ? l == 1 :
									   vm->notify_invalid && l == 2;
	int rc = shutdown ? request_triple_fault(v) : 0;

	if (rc) {
		vmm_stop(vm, EXIT_CONTAINED, "%s; asking for a triple fault failed: %s", what, strerror(-rc));
	} else if (!shutdown) {
		vmm_dump(v);
		vmm_stop(vm, EXIT_CONTAINED, "%s; stopped", what);
	} else {
		v->shutdown_by_policy = l == 1;
		fprintf(stderr, "casement: %s; L%u is shut down\r\n", what, l);
	}
}

void vmm_exit_notify(struct vcpu *v)
{
	struct vm *vm = v->vm;
	bool invalid = v->run->notify.flags & KVM_NOTIFY_CONTEXT_INVALID;
	u64 n = atomic_fetch_add(&vm->notify_count, 1) + 1;
	unsigned int l = level(v);
	char what[256];

	describe(v, invalid, l, n, what, sizeof(what));
	if (invalid) {
		invalid_context(v, l, what);
	} else if (vm->notify_mode == NOTIFY_MODE_ERROR) {
		vmm_dump(v);
		vmm_stop(vm, EXIT_CONTAINED, "%s; stopped (notify-vmexit=internal-error)", what);
	} else if (vmm_worth_telling(n)) {
		fprintf(stderr, "casement: %s; run again\r\n", what);
	}
}
