/* SPDX-License-Identifier: MIT */
/*
 * ioctls of the in-kernel interrupt chips; the chips are src/irq's.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROUTES_MAX 4096

static bool has_chip(const struct kvm_vm *vm)
{
	return irqchip_mode(&vm->m) != IRQCHIP_NONE;
}

long vm_create_irqchip(struct kvm_vm *vm, u64 arg, void *buf)
{
	long r;

	pthread_mutex_lock(&vm->lock);
	if (has_chip(vm))
		r = -EEXIST;
	else if (vm->created_vcpus)
		r = -EINVAL;
	else
		r = irqchip_enable(&vm->m, IRQCHIP_FULL, 0);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static long create_pit(struct kvm_vm *vm, u32 flags)
{
	long r;

	pthread_mutex_lock(&vm->lock);
	r = pit_create(&vm->m, flags);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

long vm_create_pit(struct kvm_vm *vm, u64 arg, void *buf)
{
	return create_pit(vm, KVM_PIT_SPEAKER_DUMMY);
}

long vm_create_pit2(struct kvm_vm *vm, u64 arg, void *buf)
{
	return create_pit(vm, ((const struct kvm_pit_config *)buf)->flags);
}

long vm_get_irqchip(struct kvm_vm *vm, u64 arg, void *buf)
{
	return irqchip_get(&vm->m, buf);
}

long vm_set_irqchip(struct kvm_vm *vm, u64 arg, void *buf)
{
	return irqchip_set(&vm->m, buf);
}

/* ---- 8254 ------------------------------------------------------------------------------------------- */

long vm_get_pit2(struct kvm_vm *vm, u64 arg, void *buf)
{
	return pit_get(&vm->m, buf);
}

long vm_set_pit2(struct kvm_vm *vm, u64 arg, void *buf)
{
	return pit_set(&vm->m, buf);
}

long vm_get_pit(struct kvm_vm *vm, u64 arg, void *buf)
{
	struct kvm_pit_state2 s;
	int r = pit_get(&vm->m, &s);

	if (!r)
		memcpy(buf, s.channels, sizeof(s.channels));
	return r;
}

long vm_set_pit(struct kvm_vm *vm, u64 arg, void *buf)
{
	struct kvm_pit_state2 s = { 0 };

	memcpy(s.channels, buf, sizeof(s.channels));
	return pit_set_channels(&vm->m, &s);
}

long vm_reinject_control(struct kvm_vm *vm, u64 arg, void *buf)
{
	struct kvm_reinject_control c; /* the request's number carries no size */

	if (copy_in(&c, arg, sizeof(c)))
		return -EFAULT;
	return pit_set_reinject(&vm->m, c.pit_reinject);
}

/* ---- lines, messages, routes -------------------------------------------------------------------------- */

static long irq_line(struct kvm_vm *vm, struct kvm_irq_level *l, bool status)
{
	if (!has_chip(vm))
		return -ENXIO;
	l->status = (u32)irq_set_level(&vm->m, IRQ_SOURCE_USER, l->irq, !!l->level, status);
	return 0;
}

long vm_irq_line(struct kvm_vm *vm, u64 arg, void *buf)
{
	return irq_line(vm, buf, false);
}

long vm_irq_line_status(struct kvm_vm *vm, u64 arg, void *buf)
{
	return irq_line(vm, buf, true);
}

long vm_signal_msi(struct kvm_vm *vm, u64 arg, void *buf)
{
	return irq_send_msi(&vm->m, buf);
}

long vm_set_gsi_routing(struct kvm_vm *vm, u64 arg, void *buf)
{
	const struct kvm_irq_routing *head = buf;
	struct kvm_irq_routing_entry *e;
	size_t bytes = head->nr * sizeof(*e);
	long r;

	if (!has_chip(vm) || head->nr > ROUTES_MAX || head->flags)
		return -EINVAL;
	e = malloc(bytes ?: 1);
	if (!e)
		return -ENOMEM;
	r = copy_in(e, arg + sizeof(*head), bytes);
	if (!r) {
		pthread_mutex_lock(&vm->slots_lock);
		r = irq_set_routing(&vm->m, e, head->nr);
		pthread_mutex_unlock(&vm->slots_lock);
	}
	free(e);
	return r;
}

/* ---- local APIC ------------------------------------------------------------------------------------------ */

long vcpu_get_lapic(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return lapic_get_state(k->v, buf);
}

long vcpu_set_lapic(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_lapic_state s;

	if (!kvm_has_lapic(k))
		return -EINVAL;
	if (copy_in(&s, arg, sizeof(s)))
		return -EFAULT;
	return lapic_set_state(k->v, &s);
}

/* Accepted without a local APIC too, as the kernel does: then there is nothing to report. */
long vcpu_tpr_access_reporting(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_tpr_access_ctl *t = buf;

	if (t->flags)
		return -EINVAL;
	if (kvm_has_lapic(k))
		lapic_tpr_reporting(k->v, t->enabled);
	return 0;
}

long vcpu_set_vapic_addr(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_vapic_addr a;

	if (!kvm_has_lapic(k))
		return -EINVAL;
	if (copy_in(&a, arg, sizeof(a)))
		return -EFAULT;
	k->vapic = a.vapic_addr;
	return lapic_set_vapic_addr(k->v, a.vapic_addr);
}
