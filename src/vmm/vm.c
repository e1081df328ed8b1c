/* SPDX-License-Identifier: MIT */
#include "vmm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int vmm_error(int code, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	/* File names are the user's, but one line is the promise. */
	for (char *p = line; *p; p++)
		if (*p == '\n' || *p == '\r')
			*p = ' ';
	fprintf(stderr, "casement: %s\n", line);
	return code;
}

int call_ioctl(const struct kvm_call *kvm, int fd, unsigned long request, unsigned long arg)
{
	int rc = kvm->ioctl(fd, request, arg);

	return rc < 0 ? -errno : rc;
}

int vmm_cap(struct vm *vm, int cap)
{
	int rc = call_ioctl(vm->kvm, vm->sys_fd, KVM_CHECK_EXTENSION, (unsigned long)cap);

	return rc < 0 ? 0 : rc;
}

/* What the monitor cannot do without, by name. */
static int check_caps(struct vm *vm)
{
#define CAP(c) { KVM_CAP_##c, #c }
	static const struct {
		int cap;
		const char *name;
	} need[] = {
		CAP(IRQCHIP), CAP(USER_MEMORY), CAP(SET_TSS_ADDR), CAP(EXT_CPUID), CAP(PIT2),
		CAP(IRQ_ROUTING), CAP(SIGNAL_MSI), CAP(MP_STATE), CAP(IMMEDIATE_EXIT),
	};
#undef CAP
	int max = vmm_cap(vm, KVM_CAP_MAX_VCPUS);
	int version = call_ioctl(vm->kvm, vm->sys_fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return vmm_error(EXIT_HOST, "%s: KVM API version %d, not %d", vm->kvm->name, version, KVM_API_VERSION);
	for (size_t i = 0; i < ARRAY_SIZE(need); i++)
		if (!vmm_cap(vm, need[i].cap))
			return vmm_error(EXIT_HOST, "%s: KVM_CAP_%s is missing", vm->kvm->name, need[i].name);
	if (max && vm->nr_cpus > (unsigned int)max)
		return vmm_error(EXIT_USAGE, "--cpus: %s has at most %d processors", vm->kvm->name, max);
	return 0;
}

/*
 * GSI n is pin n of the I/O APIC and of the 8259 pair, but the timer sits on pin 2 as the MADT's override says.
 */
static int set_routes(struct vm *vm)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[2 * VM_GSIS];
	} r;
	u32 n = 0;

	memset(&r, 0, sizeof(r));
	for (u32 gsi = 0; gsi < VM_GSIS; gsi++) {
		if (gsi < 16 && gsi != 2) {
			r.e[n].gsi = gsi;
			r.e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
			r.e[n].u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
			r.e[n++].u.irqchip.pin = gsi & 7;
		}
		if (gsi == 2)
			continue;
		r.e[n].gsi = gsi;
		r.e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		r.e[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		r.e[n++].u.irqchip.pin = gsi == GSI_PIT ? 2 : gsi;
	}
	r.head.nr = n;
	return vmm_ioctl_p(vm, KVM_SET_GSI_ROUTING, &r);
}

static int create_chips(struct vm *vm)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	u64 identity = KVM_IDENTITY_MAP;
	int rc;

	/* Only hosts that need them know these two; a KVM without them runs real mode by other means. */
	if (vmm_cap(vm, KVM_CAP_SET_IDENTITY_MAP_ADDR)) {
		rc = vmm_ioctl_p(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
		if (rc)
			return vmm_error(EXIT_HOST, "KVM_SET_IDENTITY_MAP_ADDR: %s", strerror(-rc));
	}
	rc = vmm_ioctl(vm, KVM_SET_TSS_ADDR, KVM_TSS_ADDR);
	if (rc)
		return vmm_error(EXIT_HOST, "KVM_SET_TSS_ADDR: %s", strerror(-rc));
	rc = vmm_ioctl(vm, KVM_CREATE_IRQCHIP, 0);
	if (rc)
		return vmm_error(EXIT_HOST, "KVM_CREATE_IRQCHIP: %s", strerror(-rc));
	rc = vmm_ioctl_p(vm, KVM_CREATE_PIT2, &pit);
	if (rc)
		return vmm_error(EXIT_HOST, "KVM_CREATE_PIT2: %s", strerror(-rc));
	rc = set_routes(vm);
	if (rc)
		return vmm_error(EXIT_HOST, "KVM_SET_GSI_ROUTING: %s", strerror(-rc));
	return 0;
}

static int set_memory(struct vm *vm)
{
	for (u32 i = 0; i < vm->ram.n; i++) {
		const struct ram_range *r = &vm->ram.range[i];
		struct kvm_userspace_memory_region m = {
			.slot = i, .guest_phys_addr = r->gpa, .memory_size = r->size,
			.userspace_addr = (u64)r->host,
		};
		int rc = vmm_ioctl_p(vm, KVM_SET_USER_MEMORY_REGION, &m);

		if (rc)
			return vmm_error(EXIT_HOST, "KVM_SET_USER_MEMORY_REGION: %s", strerror(-rc));
	}
	return 0;
}

static int create_vcpus(struct vm *vm)
{
	struct kvm_cpuid2 *supported = vmm_cpuid_supported(vm->kvm, vm->sys_fd);
	int size = call_ioctl(vm->kvm, vm->sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	int rc = 0;

	if (!supported || size < (int)sizeof(struct kvm_run)) {
		free(supported);
		return vmm_error(EXIT_HOST, "%s: does not tell its CPUID or kvm_run size", vm->kvm->name);
	}
	vm->run_size = (size_t)size;
	for (unsigned int i = 0; i < vm->nr_cpus && !rc; i++) {
		vm->cpu[i].vm = vm;
		vm->cpu[i].id = i;
		rc = vmm_vcpu_create(&vm->cpu[i], supported);
	}
	free(supported);
	return rc;
}

static int open_kvm(struct vm *vm, const struct accel *a)
{
	const char *path = a->device[0] ? a->device : vm->kvm->path;
	int rc;

	vm->sys_fd = vm->kvm->open(path, O_RDWR | O_CLOEXEC);
	if (vm->sys_fd < 0)
		return vmm_error(EXIT_HOST, "cannot open %s: %s", path ? path : vm->kvm->name, strerror(errno));
	rc = check_caps(vm);
	if (rc)
		return rc;
	/* KVM_CREATE_VM can be interrupted while the host sets up its MMU notifier. */
	do {
		vm->fd = call_ioctl(vm->kvm, vm->sys_fd, KVM_CREATE_VM, 0);
	} while (vm->fd == -EINTR);
	if (vm->fd < 0)
		return vmm_error(EXIT_HOST, "KVM_CREATE_VM: %s", strerror(-vm->fd));
	return 0;
}

/* What --accel said; there is one VM. */
static struct accel accel;

int vmm_accel(struct vm *vm)
{
	int rc = accel_parse(&accel, vm->opt->accel);

	if (!rc)
		rc = accel_prepare(&accel);
	if (!rc)
		vm->kvm = kvm_call_find(accel.name);
	return rc;
}

int vmm_create(struct vm *vm)
{
	int rc;

	vm->nr_cpus = (unsigned int)vm->opt->cpus;
	rc = open_kvm(vm, &accel);
	if (!rc)
		rc = create_chips(vm);
	if (!rc)
		rc = set_memory(vm);
	if (!rc)
		rc = accel_apply(vm, &accel);
	if (!rc)
		rc = create_vcpus(vm);
	return rc;
}

void vmm_destroy(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		struct vcpu *v = &vm->cpu[i];

		if (v->run)
			vm->kvm->munmap(v->run, vm->run_size);
		if (v->fd > 0)
			vm->kvm->close(v->fd);
	}
	if (vm->fd > 0)
		vm->kvm->close(vm->fd);
	if (vm->sys_fd > 0)
		vm->kvm->close(vm->sys_fd);
	ram_destroy(&vm->ram);
}

void vmm_stop(struct vm *vm, int code, const char *fmt, ...)
{
	va_list ap;

	if (atomic_exchange(&vm->stopping, true))
		return;
	vm->exit_code = code;
	if (fmt) {
		va_start(ap, fmt);
		vsnprintf(vm->exit_reason, sizeof(vm->exit_reason), fmt, ap);
		va_end(ap);
	}
	loop_stop(&vm->loop);
}

void vmm_irq_line(struct vm *vm, unsigned int gsi, unsigned int source, bool level)
{
	u32 old, new;

	pthread_mutex_lock(&vm->irq_lock);
	old = vm->irq_level[gsi];
	new = level ? old | (u32)BIT(source) : old & ~(u32)BIT(source);
	vm->irq_level[gsi] = new;
	if (!old != !new) {
		struct kvm_irq_level l = { .irq = gsi, .level = new != 0 };

		vmm_ioctl_p(vm, KVM_IRQ_LINE, &l);
	}
	pthread_mutex_unlock(&vm->irq_lock);
}

void vmm_irq_msi(struct vm *vm, u64 addr, u32 data)
{
	struct kvm_msi msi = { .address_lo = (u32)addr, .address_hi = (u32)(addr >> 32), .data = data };

	/* A message that no LAPIC takes is lost, as on a bus. */
	vmm_ioctl_p(vm, KVM_SIGNAL_MSI, &msi);
}
