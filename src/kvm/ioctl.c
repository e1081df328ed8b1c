/* SPDX-License-Identifier: MIT */
/*
 * From (descriptor class, request) to a handler, with the argument copied in and out around it.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <string.h>

#include "kvm/sig.h"
#include "kvm/sys.h"

enum { VAL = 0, IN = 1, OUT = 2, INOUT = 3 };
#define BUF_MAX 4096 /* struct kvm_xsave is the largest argument copied here */

typedef long (*handler)(void *obj, u64 arg, void *buf);

static long call(handler fn, void *obj, u32 request, u64 arg, unsigned int copying)
{
	u8 buf[BUF_MAX] __attribute__((aligned(64)));
	size_t size = _IOC_SIZE(request);
	long r;

	if (size > sizeof(buf))
		return -EINVAL;
	if (copying & IN) {
		if (copy_in(buf, arg, size))
			return -EFAULT;
	} else {
		memset(buf, 0, size);
	}
	r = fn(obj, arg, buf);
	if (r >= 0 && (copying & OUT) && copy_out(arg, buf, size))
		return -EFAULT;
	return r;
}

#define DISPATCH(req, fn, copying)                                                        \
	case (u32)(req):                                                                  \
		return (copying) == VAL ? fn(obj, arg, NULL) :                            \
					  call((handler)(void *)fn, obj, request, arg, copying);

static long sys_ioctl(void *obj, u32 request, u64 arg)
{
	switch (request) {
#define IOCTL_SYS DISPATCH
#include "spec/kvm_ioctl.def"
	default:
		return -EINVAL;
	}
}

/* An ioctl that fault injection wants to fail: -errno, else 0. */
static long planned(struct kvm_vm *vm, u32 request)
{
	int r;

	if (likely(!inject_ioctls))
		return 0;
	r = guard_plan_take(&vm->guard.plan, request);
	if (r)
		guard_depart_vm(&vm->guard, DEP_INJECT_IOCTL, (u64)request << 32 | (u32)-r);
	return r;
}

static long vm_ioctl(void *obj, u32 request, u64 arg)
{
	long r;

	if (((struct kvm_vm *)obj)->process != kvm_process() || ((struct kvm_vm *)obj)->dead)
		return -EIO;
	r = planned(obj, request);
	if (r)
		return r;
	switch (request) {
#define IOCTL_VM DISPATCH
#include "spec/kvm_ioctl.def"
	default:
		return -ENOTTY;
	}
}

static long vcpu_dispatch(void *obj, u32 request, u64 arg)
{
	switch (request) {
#define IOCTL_VCPU DISPATCH
#include "spec/kvm_ioctl.def"
	default:
		return -EINVAL;
	}
}

static long vcpu_ioctl(void *obj, u32 request, u64 arg)
{
	struct kvm_vcpu *k = obj;
	long r;

	if (k->vm->process != kvm_process() || k->vm->dead)
		return -EIO;
	if (_IOC_TYPE(request) != KVMIO)
		return -EINVAL;
	r = planned(k->vm, request);
	if (r)
		return r;
	pthread_mutex_lock(&k->mutex);
	mem_ring_self = k->vm->dirty_ring_bytes ? &k->ring : NULL;
	r = vcpu_dispatch(obj, request, arg);
	mem_ring_self = NULL;
	pthread_mutex_unlock(&k->mutex);
	return r;
}

static void vm_release(void *obj)
{
	vm_put(obj);
}

static void vcpu_release(void *obj)
{
	vm_put(((struct kvm_vcpu *)obj)->vm);
}

const struct kvm_file_ops kvm_sys_ops = { .class = FILE_SYS, .ioctl = sys_ioctl };
const struct kvm_file_ops kvm_vm_ops = { .class = FILE_VM, .ioctl = vm_ioctl, .release = vm_release };
const struct kvm_file_ops kvm_vcpu_ops = { .class = FILE_VCPU, .ioctl = vcpu_ioctl,
					   .release = vcpu_release };

long kvm_ioctl(int fd, u32 request, u64 arg)
{
	struct kvm_file *f = fdtab_get(fd);
	long r;

	if (!f)
		return -ENOTTY;
	signal_enter();
	r = f->ops->ioctl ? f->ops->ioctl(f->obj, request, arg) : -ENOTTY;
	fdtab_put(f);
	signal_leave();
	return r;
}
