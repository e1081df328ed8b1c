/* SPDX-License-Identifier: MIT */
/*
 * The ioctls of interrupt chips: those of the VM, and the vCPU's local APIC.
 */
#include <sys/eventfd.h>

#include "ioctl.h"

void t_vm_create_irqchip(void)
{
	int vm = bare_vm(NO_CHIP);

	is(call(vm, KVM_CREATE_IRQCHIP, 0x5a5a), 0, "its argument does not matter");
	is_errno(call(vm, KVM_CREATE_IRQCHIP, 0), EEXIST, "twice");
	vm = bare_vm(NO_CHIP);
	open_vcpu(vm, 0);
	is_errno(call(vm, KVM_CREATE_IRQCHIP, 0), EINVAL, "after a vCPU");
	is_errno(call(bare_vm(SPLIT_CHIP), KVM_CREATE_IRQCHIP, 0), EEXIST, "after the split one");
}

void t_vm_create_pit(void)
{
	int vm = bare_vm(FULL_CHIP);

	is(call(vm, KVM_CREATE_PIT, 0), 0, "a timer");
	is_errno(call(vm, KVM_CREATE_PIT, 0), EEXIST, "twice");
	is_errno(call(bare_vm(NO_CHIP), KVM_CREATE_PIT, 0), ENOENT, "without chips");
}

void t_vm_create_pit2(void)
{
	struct kvm_pit_config c = { .flags = KVM_PIT_SPEAKER_DUMMY };
	int vm = bare_vm(FULL_CHIP);

	is(call(vm, KVM_CREATE_PIT2, &c), 0, "a timer with its speaker port");
	is_errno(call(vm, KVM_CREATE_PIT2, &c), EEXIST, "twice");
	is_errno(call(bare_vm(SPLIT_CHIP), KVM_CREATE_PIT2, &c), ENOENT, "in user space's half of split chips");
}

void t_vm_get_irqchip(void)
{
	int vm = bare_vm(FULL_CHIP);

	for (uint32_t id = 0; id < 3; id++) {
		struct kvm_irqchip c = { .chip_id = id };

		is(call(vm, KVM_GET_IRQCHIP, &c), 0, "chip %u", id);
		is(c.chip_id, id, "its number comes back");
	}
	struct kvm_irqchip c = { .chip_id = 3 };

	is_errno(call(vm, KVM_GET_IRQCHIP, &c), EINVAL, "no such chip");
	c.chip_id = 0;
	is_errno(call(bare_vm(NO_CHIP), KVM_GET_IRQCHIP, &c), ENXIO, "no chips");
	is_errno(call(bare_vm(SPLIT_CHIP), KVM_GET_IRQCHIP, &c), ENXIO, "split chips");
}

void t_vm_set_irqchip(void)
{
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_PIC_MASTER }, d = c;
	int vm = bare_vm(FULL_CHIP);

	call(vm, KVM_GET_IRQCHIP, &c);
	c.chip.pic.imr = 0xa5;
	c.chip.pic.irq_base = 0x20;
	is(call(vm, KVM_SET_IRQCHIP, &c), 0, "8259");
	call(vm, KVM_GET_IRQCHIP, &d);
	is_mem(&d.chip.pic, &c.chip.pic, sizeof(c.chip.pic), "comes back");
	c.chip_id = 3;
	is_errno(call(vm, KVM_SET_IRQCHIP, &c), EINVAL, "no such chip");
	is_errno(call(bare_vm(NO_CHIP), KVM_SET_IRQCHIP, &c), ENXIO, "no chips");
}

static int vm_with_pit(void)
{
	struct kvm_pit_config c = { 0 };
	int vm = bare_vm(FULL_CHIP);

	need(call(vm, KVM_CREATE_PIT2, &c), "KVM_CREATE_PIT2");
	return vm;
}

void t_vm_get_pit(void)
{
	struct kvm_pit_state s;

	is(call(vm_with_pit(), KVM_GET_PIT, &s), 0, "state");
	is(s.channels[0].count, 0x10000, "channel 0 counts 65536 at first");
	is_errno(call(bare_vm(FULL_CHIP), KVM_GET_PIT, &s), ENXIO, "no timer");
}

void t_vm_set_pit(void)
{
	struct kvm_pit_state s, t;
	int vm = vm_with_pit();

	call(vm, KVM_GET_PIT, &s);
	s.channels[2].count = 1234;
	s.channels[2].mode = 3;
	is(call(vm, KVM_SET_PIT, &s), 0, "state");
	call(vm, KVM_GET_PIT, &t);
	ok(t.channels[2].count == 1234 && t.channels[2].mode == 3, "comes back");
	is_errno(call(bare_vm(FULL_CHIP), KVM_SET_PIT, &s), ENXIO, "no timer");
}

void t_vm_get_pit2(void)
{
	struct kvm_pit_state2 s;

	is(call(vm_with_pit(), KVM_GET_PIT2, &s), 0, "state");
	is(s.flags, 0, "flags");
	is_errno(call(bare_vm(FULL_CHIP), KVM_GET_PIT2, &s), ENXIO, "no timer");
}

void t_vm_set_pit2(void)
{
	struct kvm_pit_state2 s, t;
	int vm = vm_with_pit();

	call(vm, KVM_GET_PIT2, &s);
	s.flags = KVM_PIT_FLAGS_HPET_LEGACY;
	is(call(vm, KVM_SET_PIT2, &s), 0, "state");
	call(vm, KVM_GET_PIT2, &t);
	is(t.flags, KVM_PIT_FLAGS_HPET_LEGACY, "comes back");
	is_errno(call(bare_vm(FULL_CHIP), KVM_SET_PIT2, &s), ENXIO, "no timer");
}

void t_vm_reinject_control(void)
{
	struct kvm_reinject_control c = { .pit_reinject = 0 };

	is(call(vm_with_pit(), KVM_REINJECT_CONTROL, &c), 0, "off");
	is_errno(call(bare_vm(FULL_CHIP), KVM_REINJECT_CONTROL, &c), ENXIO, "no timer");
}

/* ---- lines and messages ---------------------------------------------------------------------------------------- */

void t_vm_irq_line(void)
{
	struct kvm_irq_level l = { .irq = 5, .level = 1 };
	int vm = bare_vm(FULL_CHIP);

	is(call(vm, KVM_IRQ_LINE, &l), 0, "raise");
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_PIC_MASTER };

	call(vm, KVM_GET_IRQCHIP, &c);
	is(c.chip.pic.irr >> 5 & 1, 1, "the 8259 has it");
	l.level = 0;
	is(call(vm, KVM_IRQ_LINE, &l), 0, "lower");
	is_errno(call(bare_vm(NO_CHIP), KVM_IRQ_LINE, &l), ENXIO, "no chips");
}

void t_vm_irq_line_status(void)
{
	struct kvm_irq_level l = { .irq = 5, .level = 1 };
	int vm = bare_vm(FULL_CHIP);

	is(call(vm, KVM_IRQ_LINE_STATUS, &l), 0, "raise");
	ok((int)l.status >= 0, "delivered: %d", (int)l.status);
	l = (struct kvm_irq_level){ .irq = 5, .level = 0 };
	call(vm, KVM_IRQ_LINE_STATUS, &l);
	l = (struct kvm_irq_level){ .irq = 5, .level = 1 };
	call(vm, KVM_IRQ_LINE_STATUS, &l);
	is(l.status, 0, "a second edge before anybody acknowledged: coalesced");
	is_errno(call(bare_vm(NO_CHIP), KVM_IRQ_LINE_STATUS, &l), ENXIO, "no chips");
}

void t_vm_signal_msi(void)
{
	struct kvm_msi m = { .address_lo = 0xfee00000, .data = 0x41 };
	struct kvm_lapic_state s;
	struct guest g;

	small_guest(&g, FULL_CHIP);
	call(g.vcpu, KVM_GET_LAPIC, &s);
	s.regs[0xf1] |= 1; /* software enable */
	call(g.vcpu, KVM_SET_LAPIC, &s);
	ok(call(g.vm, KVM_SIGNAL_MSI, &m) > 0, "reaches a vCPU");
	call(g.vcpu, KVM_GET_LAPIC, &s);
	is(s.regs[0x200 + 0x20] >> 1 & 1, 1, "whose IRR shows vector 41h");
	m.address_lo = 0xfee00000 | 9 << 12;
	ok(call(g.vm, KVM_SIGNAL_MSI, &m) <= 0, "nobody has that id");
	m.flags = 2;
	is_errno(call(g.vm, KVM_SIGNAL_MSI, &m), EINVAL, "flags");
	m.flags = 0;
	is_errno(call(bare_vm(NO_CHIP), KVM_SIGNAL_MSI, &m), EINVAL, "no chips");
	free_guest(&g);
}

static int set_route(int vm, uint32_t nr, uint32_t flags, struct kvm_irq_routing_entry e)
{
	struct { struct kvm_irq_routing head; struct kvm_irq_routing_entry e; } r = { { .nr = nr, .flags = flags }, e };

	return call(vm, KVM_SET_GSI_ROUTING, &r);
}

void t_vm_set_gsi_routing(void)
{
	struct kvm_irq_routing_entry pin = { .gsi = 5, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { 2, 5 } };
	struct kvm_irq_routing_entry msi = { .gsi = 40, .type = KVM_IRQ_ROUTING_MSI,
					     .u.msi = { .address_lo = 0xfee00000, .data = 0x41 } };
	struct kvm_irq_routing_entry e;
	struct kvm_irq_level l = { .irq = 40, .level = 1 };
	int vm = bare_vm(FULL_CHIP);

	is(set_route(vm, 1, 0, pin), 0, "a line to the I/O APIC");
	is(set_route(vm, 1, 0, msi), 0, "a line that is a message");
	is(call(vm, KVM_IRQ_LINE, &l), 0, "and KVM_IRQ_LINE takes it");
	is(set_route(vm, 0, 0, msi), 0, "no routes");
	is_errno(set_route(vm, 1, 1, pin), EINVAL, "flags");
	is_errno(set_route(vm, 4097, 0, pin), EINVAL, "too many");
	e = pin;
	e.gsi = 4096;
	is_errno(set_route(vm, 1, 0, e), EINVAL, "GSI");
	e = pin;
	e.type = 77;
	is_errno(set_route(vm, 1, 0, e), EINVAL, "type");
	e = pin;
	e.flags = 1;
	is_errno(set_route(vm, 1, 0, e), EINVAL, "an entry's flags");
	e = pin;
	e.u.irqchip.pin = 24;
	is_errno(set_route(vm, 1, 0, e), EINVAL, "pin");
	e = pin;
	e.u.irqchip.irqchip = 3;
	is_errno(set_route(vm, 1, 0, e), EINVAL, "chip");
	is_errno(set_route(bare_vm(SPLIT_CHIP), 1, 0, pin), EINVAL, "a pin of a chip that user space has");
	is_errno(set_route(bare_vm(NO_CHIP), 1, 0, msi), EINVAL, "no chips");
}

static int irqfd(int vm, int fd, uint32_t gsi, uint32_t flags, int resample)
{
	struct kvm_irqfd i = { .fd = (uint32_t)fd, .gsi = gsi, .flags = flags, .resamplefd = (uint32_t)resample };

	return call(vm, KVM_IRQFD, &i);
}

void t_vm_irqfd(void)
{
	int fd = eventfd(0, EFD_NONBLOCK), re = eventfd(0, EFD_NONBLOCK), vm = bare_vm(FULL_CHIP);
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_PIC_MASTER };
	uint64_t one = 1;

	is_errno(irqfd(vm, fd, 5, 4, 0), EINVAL, "flags");
	is_errno(irqfd(vm, -1, 5, 0, 0), EBADF, "no descriptor");
	is_errno(irqfd(vm, vm, 5, 0, 0), EINVAL, "not an eventfd");
	is_errno(irqfd(vm, fd, 5, KVM_IRQFD_FLAG_RESAMPLE, -1), EBADF, "no descriptor to resample");
	is_errno(irqfd(bare_vm(NO_CHIP), fd, 5, 0, 0), EINVAL, "no chips");
	is_errno(irqfd(bare_vm(SPLIT_CHIP), fd, 5, KVM_IRQFD_FLAG_RESAMPLE, re), EINVAL, "resampling needs a chip");
	is(irqfd(vm, fd, 5, 0, 0), 0, "assign");
	is_errno(irqfd(vm, fd, 6, 0, 0), EBUSY, "one eventfd, two lines");
	need(write(fd, &one, 8), "write");
	for (int i = 0; i < 20000 && !(c.chip.pic.irr >> 5 & 1); i++) {
		usleep(1000);
		call(vm, KVM_GET_IRQCHIP, &c);
	}
	is(c.chip.pic.irr >> 5 & 1, 1, "a write raises the line");
	is(irqfd(vm, fd, 5, KVM_IRQFD_FLAG_DEASSIGN, 0), 0, "deassign");
	is(irqfd(vm, fd, 5, KVM_IRQFD_FLAG_DEASSIGN, 0), 0, "once more is no error");
	is(irqfd(vm, fd, 5, KVM_IRQFD_FLAG_RESAMPLE, re), 0, "a level-triggered one");
}

/* ---- local APIC -------------------------------------------------------------------------------------------------- */

void t_vcpu_get_lapic(void)
{
	struct kvm_lapic_state s;

	is(call(open_vcpu(bare_vm(FULL_CHIP), 0), KVM_GET_LAPIC, &s), 0, "state");
	is((uint8_t)s.regs[0x30], 0x14, "version");
	is((uint8_t)s.regs[0xf0], 0xff, "spurious vector at reset");
	is_errno(call(open_vcpu(bare_vm(NO_CHIP), 0), KVM_GET_LAPIC, &s), EINVAL, "no local APIC");
	is_errno(call(open_vcpu(bare_vm(FULL_CHIP), 0), KVM_GET_LAPIC, BAD), EFAULT, "unwritable");
}

void t_vcpu_set_lapic(void)
{
	struct kvm_lapic_state s, t;
	int vcpu = open_vcpu(bare_vm(SPLIT_CHIP), 0);

	call(vcpu, KVM_GET_LAPIC, &s);
	s.regs[0x80] = 0x50; /* TPR */
	s.regs[0x350] = 0;
	s.regs[0x351] = 7; /* LINT0: ExtINT */
	s.regs[0x352] = 0;
	is(call(vcpu, KVM_SET_LAPIC, &s), 0, "state");
	call(vcpu, KVM_GET_LAPIC, &t);
	is(t.regs[0x80], 0x50, "TPR comes back");
	is(t.regs[0x351], 7, "LINT0 too");
	is_errno(call(vcpu, KVM_SET_LAPIC, BAD), EFAULT, "unreadable");
	is_errno(call(open_vcpu(bare_vm(NO_CHIP), 0), KVM_SET_LAPIC, &s), EINVAL, "no local APIC");
}

void t_vcpu_tpr_access_reporting(void)
{
	struct kvm_tpr_access_ctl t = { .enabled = 1 };
	int vcpu = open_vcpu(bare_vm(FULL_CHIP), 0);

	is(call(vcpu, KVM_TPR_ACCESS_REPORTING, &t), 0, "on");
	t.flags = 1;
	is_errno(call(vcpu, KVM_TPR_ACCESS_REPORTING, &t), EINVAL, "flags");
}

void t_vcpu_set_vapic_addr(void)
{
	struct kvm_vapic_addr a = { .vapic_addr = 0x4000 };
	struct guest g;

	small_guest(&g, FULL_CHIP);
	is(call(g.vcpu, KVM_SET_VAPIC_ADDR, &a), 0, "an address in memory");
	a.vapic_addr = 0;
	is(call(g.vcpu, KVM_SET_VAPIC_ADDR, &a), 0, "none");
	is_errno(call(g.vcpu, KVM_SET_VAPIC_ADDR, BAD), EFAULT, "unreadable");
	is_errno(call(open_vcpu(bare_vm(NO_CHIP), 0), KVM_SET_VAPIC_ADDR, &a), EINVAL, "no local APIC");
	free_guest(&g);
}

void t_vcpu_interrupt(void)
{
	struct kvm_interrupt i = { .irq = 256 };
	int vcpu = open_vcpu(bare_vm(NO_CHIP), 0);

	is_errno(call(vcpu, KVM_INTERRUPT, &i), EINVAL, "vector");
	i.irq = 255;
	is(call(vcpu, KVM_INTERRUPT, &i), 0, "without chips");
	is_errno(call(open_vcpu(bare_vm(FULL_CHIP), 0), KVM_INTERRUPT, &i), ENXIO, "the 8259 is not user space's");
	vcpu = open_vcpu(bare_vm(SPLIT_CHIP), 0);
	is(call(vcpu, KVM_INTERRUPT, &i), 0, "split chips: ExtINT");
	is_errno(call(vcpu, KVM_INTERRUPT, &i), EEXIST, "while one waits");
}
