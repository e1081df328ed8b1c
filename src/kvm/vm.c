/* SPDX-License-Identifier: MIT */
/*
 * A VM's life, and its ioctls that are neither memory nor interrupts.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "kvm/nested.h"
#include "kvm/sys.h"

#define MIN_MMU_PAGES 64 /* the kernel's KVM_MIN_ALLOC_MMU_PAGES */

static u64 vm_now(void *ctx);
static const struct irq_ops irq_ops = {
	.now = vm_now,
	.guest_tsc = clock_guest_tsc,
	.tsc_khz = clock_tsc_khz,
};

/* One clock per VM: the chips' time is CLOCK_MONOTONIC while the clock is a real one. */
static u64 vm_now(void *ctx)
{
	return base_now_ns();
}

void vm_get(struct kvm_vm *vm)
{
	atomic_fetch_add(&vm->refs, 1);
}

struct kvm_vcpu *vm_vcpu_by_id(struct kvm_vm *vm, u32 id)
{
	for (u32 i = 0; i < vm->m.nvcpus; i++)
		if (vm->m.vcpu[i]->id == id)
			return kvm_of(vm->m.vcpu[i]);
	return NULL;
}

void vm_request_all(struct kvm_vm *vm, u32 bits)
{
	u32 n = vm->m.nvcpus;

	for (u32 i = 0; i < n; i++)
		vcpu_request(vm->m.vcpu[i], bits);
}

static void vm_destroy(struct kvm_vm *vm)
{
	control_destroy(vm);
	irqfd_destroy_all(vm);
	while (vm->m.nvcpus) {
		u32 last = vm->m.nvcpus - 1;

		vcpu_free(kvm_of(vm->m.vcpu[last]));
		vm->m.nvcpus = last;
	}
	if (vm->m.irq)
		irqchip_destroy(&vm->m);
	iobus_destroy(vm);
	msr_filter_free(vm->filter);
	machine_destroy(&vm->m);
	if (vm->ring)
		sys_munmap(vm->ring, PAGE_SIZE);
	if (vm->ring_fd >= 0)
		sys_close(vm->ring_fd);
	if (vm->stat)
		departures_destroy(vm);
	stats_free(vm->stat);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->slots_lock);
	free(vm);
}

void vm_put(struct kvm_vm *vm)
{
	if (atomic_fetch_sub(&vm->refs, 1) == 1 && vm->process == kvm_process())
		vm_destroy(vm);
}

static int vm_init(struct kvm_vm *vm)
{
	int r;

	vm->refs = 1;
	vm->process = kvm_process();
	vm->owner_tgid = getpid();
	vm->ring_fd = -1;
	vm->nr_mmu_pages = MIN_MMU_PAGES;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->slots_lock, NULL);
	r = machine_init(&vm->m, &kvm_bus, vm);
	if (r)
		return r;
	r = options_for_vm(&vm->guard);
	if (r)
		return r;
	vm->m.guard = &vm->guard;
	nested_init_vm(vm);
	clock_init(&vm->clock, &vm->m);
	r = stats_alloc(sizeof(*vm->stat), (void **)&vm->stat);
	if (!r)
		r = departures_init(vm);
	if (!r)
		r = inject_initial(vm, NULL) ?: control_init(vm);
	if (!r)
		r = iobus_init(vm);
	if (!r)
		r = irqchip_create(&vm->m, &irq_ops, vm, service_timerq());
	if (r)
		return r;
	vm->ring_fd = sys_memfd("kvm-ring", MFD_CLOEXEC);
	if (vm->ring_fd < 0)
		return vm->ring_fd;
	r = sys_ftruncate(vm->ring_fd, PAGE_SIZE);
	if (r)
		return r;
	vm->ring = sys_mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, vm->ring_fd, 0);
	return vm->ring ? 0 : -ENOMEM;
}

long sys_create_vm(void *obj, u64 type, void *buf)
{
	struct kvm_vm *vm;
	int fd, r;

	if (type)
		return -EINVAL;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return -ENOMEM;
	r = vm_init(vm);
	if (r) {
		vm_destroy(vm);
		return r;
	}
	fd = sys_memfd("kvm-vm", MFD_CLOEXEC);
	if (fd < 0) {
		vm_destroy(vm);
		return fd;
	}
	return fdtab_open(&kvm_vm_ops, vm, fd);
}

/* ---- small ones ------------------------------------------------------------------------------------ */

long vm_set_tss_addr(struct kvm_vm *vm, u64 addr, void *buf)
{
	if (addr > (u32)(-3 * (s32)PAGE_SIZE))
		return -EINVAL;
	vm->tss_addr = addr; /* real mode needs no TSS of the VMM's here */
	return 0;
}

long vm_set_identity_map_addr(struct kvm_vm *vm, u64 arg, void *buf)
{
	u64 addr;
	long r = 0;

	pthread_mutex_lock(&vm->lock);
	if (vm->created_vcpus)
		r = -EINVAL;
	else if (copy_in(&addr, arg, sizeof(addr)))
		r = -EFAULT;
	else
		vm->identity_addr = addr;
	pthread_mutex_unlock(&vm->lock);
	return r;
}

long vm_set_nr_mmu_pages(struct kvm_vm *vm, u64 n, void *buf)
{
	if (n < MIN_MMU_PAGES)
		return -EINVAL;
	vm->nr_mmu_pages = n;
	return 0;
}

long vm_get_nr_mmu_pages(struct kvm_vm *vm, u64 arg, void *buf)
{
	return (int)vm->nr_mmu_pages;
}

long vm_set_boot_cpu_id(struct kvm_vm *vm, u64 id, void *buf)
{
	long r = 0;

	pthread_mutex_lock(&vm->lock);
	if (vm->created_vcpus)
		r = -EBUSY;
	else
		irqchip_set_bsp(&vm->m, (u32)id);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

/* No device models live here: in-kernel VFIO glue has nothing to hold on to. */
long vm_create_device(struct kvm_vm *vm, u64 arg, void *buf)
{
	return -ENODEV;
}
