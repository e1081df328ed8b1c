/* SPDX-License-Identifier: MIT */
/*
 * KVM_IRQFD: eventfds that raise interrupts, served by the service thread.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>

#include "base/base.h"
#include "kvm/eventfd.h"
#include "kvm/sys.h"

/**
 * struct resampler - level-triggered irqfds of one GSI
 * @ack: told by the chips when the guest has acknowledged the line
 * @lock: guards @users; taken on vCPU threads inside cpu_run()
 *
 * The line is shared: one acknowledgement lowers it and tells every user, who raises it again if it must.
 */
struct resampler {
	struct irq_ack_notifier ack;
	struct kvm_vm *vm;
	struct resampler *next;
	struct irqfd *users;
	_Atomic u32 lock;
};

struct irqfd {
	struct service_watch watch; /* watch.fd: our descriptor of the eventfd */
	struct kvm_vm *vm;
	struct irqfd *next, *next_user;
	struct resampler *resampler;
	int resample_fd;
	u32 gsi;
	u64 id;
};

static void fired(struct service_watch *w)
{
	struct irqfd *f = container_of(w, struct irqfd, watch);

	if (!eventfd_drain(w->fd))
		return;
	if (f->resampler) {
		irq_set_level(&f->vm->m, IRQ_SOURCE_RESAMPLE, f->gsi, 1, false);
		return;
	}
	irq_set_level(&f->vm->m, IRQ_SOURCE_USER, f->gsi, 1, false);
	irq_set_level(&f->vm->m, IRQ_SOURCE_USER, f->gsi, 0, false);
}

/* ---- resamplers ---------------------------------------------------------------------------------------- */

static void acked(struct irq_ack_notifier *n)
{
	struct resampler *r = container_of(n, struct resampler, ack);

	irq_set_level(&r->vm->m, IRQ_SOURCE_RESAMPLE, r->ack.gsi, 0, false);
	lock_take(&r->lock);
	for (struct irqfd *f = r->users; f; f = f->next_user)
		eventfd_signal(f->resample_fd);
	lock_drop(&r->lock);
}

static struct resampler *resampler_get(struct kvm_vm *vm, u32 gsi)
{
	struct resampler *r;

	for (r = vm->resamplers; r; r = r->next)
		if (r->ack.gsi == gsi)
			return r;
	r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->vm = vm;
	r->ack.gsi = gsi;
	r->ack.acked = acked;
	r->next = vm->resamplers;
	vm->resamplers = r;
	irq_ack_register(&vm->m, &r->ack);
	return r;
}

static void resampler_join(struct resampler *r, struct irqfd *f)
{
	lock_take(&r->lock);
	f->next_user = r->users;
	r->users = f;
	lock_drop(&r->lock);
	f->resampler = r;
}

static void resampler_leave(struct irqfd *f)
{
	struct resampler *r = f->resampler, **pr;
	struct irqfd **pf;

	lock_take(&r->lock);
	for (pf = &r->users; *pf != f; pf = &(*pf)->next_user)
		;
	*pf = f->next_user;
	lock_drop(&r->lock);
	if (r->users)
		return;
	irq_ack_unregister(&r->vm->m, &r->ack);
	irq_set_level(&r->vm->m, IRQ_SOURCE_RESAMPLE, r->ack.gsi, 0, false);
	for (pr = &r->vm->resamplers; *pr != r; pr = &(*pr)->next)
		;
	*pr = r->next;
	free(r);
}

/* ---- assign, deassign -------------------------------------------------------------------------------------- */

static void irqfd_free(struct irqfd *f)
{
	if (f->watch.fd >= 0)
		sys_close(f->watch.fd);
	if (f->resample_fd >= 0)
		sys_close(f->resample_fd);
	free(f);
}

static void irqfd_shutdown(struct irqfd *f)
{
	service_del(&f->watch);
	if (f->resampler)
		resampler_leave(f);
	irqfd_free(f);
}

static int irqfd_open(struct irqfd *f, const struct kvm_irqfd *a)
{
	u64 id;

	f->watch.fd = eventfd_hold(a->fd, &f->id);
	if (f->watch.fd < 0)
		return f->watch.fd;
	if (!(a->flags & KVM_IRQFD_FLAG_RESAMPLE))
		return 0;
	f->resample_fd = eventfd_hold((int)a->resamplefd, &id);
	return f->resample_fd < 0 ? f->resample_fd : 0;
}

static int irqfd_activate(struct kvm_vm *vm, struct irqfd *f, bool resample)
{
	struct resampler *r;
	int err;

	for (struct irqfd *o = vm->irqfds; o; o = o->next)
		if (o->id == f->id)
			return -EBUSY;
	if (resample) {
		r = resampler_get(vm, f->gsi);
		if (!r)
			return -ENOMEM;
		resampler_join(r, f);
	}
	err = service_add(&f->watch);
	if (err) {
		if (f->resampler)
			resampler_leave(f);
		return err;
	}
	f->next = vm->irqfds;
	vm->irqfds = f;
	return 0;
}

static long assign(struct kvm_vm *vm, const struct kvm_irqfd *a)
{
	bool resample = a->flags & KVM_IRQFD_FLAG_RESAMPLE;
	enum irqchip_mode mode = irqchip_mode(&vm->m);
	struct irqfd *f;
	int r;

	if (mode == IRQCHIP_NONE || (resample && mode != IRQCHIP_FULL))
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->watch = (struct service_watch){ .fd = -1, .fn = fired };
	f->resample_fd = -1;
	f->vm = vm;
	f->gsi = a->gsi;
	r = irqfd_open(f, a);
	if (!r) {
		pthread_mutex_lock(&vm->lock);
		r = irqfd_activate(vm, f, resample);
		pthread_mutex_unlock(&vm->lock);
	}
	if (r)
		irqfd_free(f);
	return r;
}

static long deassign(struct kvm_vm *vm, const struct kvm_irqfd *a)
{
	struct irqfd **p, *f;
	u64 id;
	int r = eventfd_id(a->fd, &id);

	if (r)
		return r;
	pthread_mutex_lock(&vm->lock);
	for (p = &vm->irqfds; (f = *p);) {
		if (f->id != id || f->gsi != a->gsi) {
			p = &f->next;
			continue;
		}
		*p = f->next;
		irqfd_shutdown(f);
	}
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

long vm_irqfd(struct kvm_vm *vm, u64 arg, void *buf)
{
	const struct kvm_irqfd *a = buf;

	if (a->flags & ~(u32)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	return a->flags & KVM_IRQFD_FLAG_DEASSIGN ? deassign(vm, a) : assign(vm, a);
}

void irqfd_destroy_all(struct kvm_vm *vm)
{
	struct irqfd *f;

	while ((f = vm->irqfds)) {
		vm->irqfds = f->next;
		irqfd_shutdown(f);
	}
}
