/* SPDX-License-Identifier: MIT */
/*
 * struct cpu_bus: what the processor asks, answered by the chips, the ioeventfds and this room.
 *
 * Everything here runs inside cpu_run(): no libc, no allocation.
 */
#include "kvm/kvm.h"

#include <errno.h>

#include "base/base.h"
#include "kvm/nested.h"
#include "kvm/sys.h"

static int mmio_read(struct vcpu *v, gpa_t gpa, unsigned int len, void *data)
{
	return irq_mmio_read(v, gpa, len, data);
}

static int mmio_write(struct vcpu *v, gpa_t gpa, unsigned int len, const void *data)
{
	if (!irq_mmio_write(v, gpa, len, data))
		return 0;
	return iobus_write(kvm_vm_of(v), false, gpa, len, data);
}

static int pio_read(struct vcpu *v, u16 port, unsigned int size, void *data)
{
	return irq_pio_read(v, port, size, data);
}

static int pio_write(struct vcpu *v, u16 port, unsigned int size, const void *data)
{
	if (!irq_pio_write(v, port, size, data))
		return 0;
	return iobus_write(kvm_vm_of(v), true, port, size, data);
}

static int intr_pending(struct vcpu *v)
{
	/* A debugger that single-steps may want no interrupt in between. */
	if (v->guest_debug & KVM_GUESTDBG_BLOCKIRQ)
		return -1;
	return irq_intr_pending(v);
}

static bool window_wanted(struct vcpu *v)
{
	struct kvm_vcpu *k = kvm_of(v);

	return k->run->request_interrupt_window && irqchip_mode(v->vm) != IRQCHIP_FULL &&
	       irq_accepts_extint(v);
}

static u64 read_cr8(struct vcpu *v)
{
	return v->lapic ? irq_read_cr8(v) : v->cr8;
}

static bool write_cr8(struct vcpu *v, u64 cr8)
{
	u64 old = v->cr8;

	if (v->lapic) {
		irq_write_cr8(v, cr8);
		return false;
	}
	v->cr8 = cr8;
	/* user space's APIC may have an interrupt that a lower TPR lets through */
	return cr8 < old;
}

static bool msr_user_space(struct vcpu *v, u8 reason)
{
	return kvm_vm_of(v)->user_msr_mask & reason;
}

static int set_apic_base(struct vcpu *v, u64 val, bool host)
{
	return lapic_set_base(v, val, host);
}

static void eoi_broadcast(struct vcpu *v, u8 vector)
{
	lapic_eoi_broadcast(v, vector);
}

static bool no_window(struct vcpu *v, u32 rounds)
{
	STAT_INC(kvm_of(v), windowless_deliveries);
	return guard_no_window(v, rounds);
}

/*
 * Another vCPU may be waiting for the very host core this one spins on; without a word from here it gets one only
 * when the time slice ends. Hardware's pause-loop exiting has the same purpose and the same two figures, in TSC ticks
 * [SDM3C "PAUSE-Loop Exiting"]; the gap is wider, for an interpreted loop is slower.
 */
#define SPIN_GAP 2048
#define SPIN_WINDOW 8192

static void pause_hint(struct vcpu *v)
{
	struct kvm_vcpu *k = kvm_of(v);
	u64 now;

	if (k->vm->disable_exits & KVM_X86_DISABLE_EXITS_PAUSE)
		return;
	now = base_rdtsc();
	if (now - k->spin_last > SPIN_GAP) {
		k->spin_since = now;
	} else if (now - k->spin_since > SPIN_WINDOW) {
		STAT_INC(k, directed_yield_attempted);
		sys_call(SYS_sched_yield, 0);
		now = k->spin_since = base_rdtsc();
	}
	k->spin_last = now;
}

const struct cpu_bus kvm_bus = {
	.mmio_read = mmio_read,
	.mmio_write = mmio_write,
	.pio_read = pio_read,
	.pio_write = pio_write,
	.intr_pending = intr_pending,
	.intr_ack = irq_intr_ack,
	.intr_window_wanted = window_wanted,
	.read_cr8 = read_cr8,
	.write_cr8 = write_cr8,
	.rdmsr = msr_bus_read,
	.wrmsr = msr_bus_write,
	.msr_allowed = msr_bus_allowed,
	.msr_user_space = msr_user_space,
	.hypercall = pv_hypercall,
	.set_apic_base = set_apic_base,
	.tsc = clock_bus_tsc,
	.crystal = clock_bus_crystal,
	.no_window = no_window,
	.exc_intercept = guard_exc_intercept,
	.lock = lock_bus_ask,
	.bus_locked = lock_bus_done,
	.test_ctrl_read = guard_test_ctrl_read,
	.test_ctrl = guard_test_ctrl,
	.event_begins = guard_event_begins,
	.eoi_broadcast = eoi_broadcast,
	.pause_hint = pause_hint,
	.vmx_timer = nested_bus_timer,
	.l2_invalid = nested_bus_invalid,
};
