/* SPDX-License-Identifier: MIT */
/* What the processor asks its surroundings; cpu.h includes it where it belongs. */
#pragma once

/**
 * struct nested_model - which of several answers VT-x and SMM give
 * @bus_lock_bit: L0 detects bus locks, and L1 sees the bit in exit reasons
 * @smm_intel: SMM and VMX operation by the manual, not as KVM does it
 * @restricted: as under kvm-intel without unrestricted guests: L1 in invalid state is emulated
 * @not_emulated: and not even that: the processor refuses to enter it
 * @rsm_bug: RSM to an invalid L2 ends the VM, as it does in Linux
 */
struct nested_model {
	bool bus_lock_bit, smm_intel, restricted, not_emulated, rsm_bug;
};

/**
 * struct cpu_bus - what the processor asks of its surroundings; filled by src/kvm and src/irq
 *
 * Called on the vCPU thread inside cpu_run(); compiled -mgeneral-regs-only, must not block for long.
 * mmio and pio return 0 when a chip or an ioeventfd took the access, -EOPNOTSUPP when user space must.
 * rdmsr and wrmsr serve what spec/msr.def leaves to the surroundings: 0 done, -EINVAL #GP(0),
 * -EREMOTE ask user space (vcpu.msr.reason filled).
 */
struct cpu_bus {
	int (*mmio_read)(struct vcpu *v, gpa_t gpa, unsigned int len, void *data);
	int (*mmio_write)(struct vcpu *v, gpa_t gpa, unsigned int len, const void *data);
	int (*pio_read)(struct vcpu *v, u16 port, unsigned int size, void *data);
	int (*pio_write)(struct vcpu *v, u16 port, unsigned int size, const void *data);
	/* highest deliverable vector, or -1; does not acknowledge */
	int (*intr_pending)(struct vcpu *v);
	/* acknowledge and return the vector, or -1 */
	int (*intr_ack)(struct vcpu *v);
	/* user space waits for an interrupt window */
	bool (*intr_window_wanted)(struct vcpu *v);
	u64 (*read_cr8)(struct vcpu *v);
	/* returns true to stop with KVM_EXIT_SET_TPR semantics (no in-kernel APIC) */
	bool (*write_cr8)(struct vcpu *v, u64 cr8);
	int (*rdmsr)(struct vcpu *v, u32 index, u64 *val);
	int (*wrmsr)(struct vcpu *v, u32 index, u64 val);
	/* may the guest access this MSR at all? false = filtered (msr filter); asked first */
	bool (*msr_allowed)(struct vcpu *v, u32 index, bool write);
	/* an access that would #GP: does user space want to see it instead? reason = enum msr_reason;
	 * true stops with CPU_STOP_RDMSR/WRMSR. May be NULL. */
	bool (*msr_user_space)(struct vcpu *v, u8 reason);
	/* VMCALL/VMMCALL: value for RAX in *ret and 0, or -EREMOTE to stop with CPU_STOP_HYPERCALL */
	int (*hypercall)(struct vcpu *v, u64 *ret);
	/* APIC_BASE written; 0 or -EINVAL */
	int (*set_apic_base)(struct vcpu *v, u64 val, bool host);
	/* guest TSC now, in guest TSC ticks, before tsc_offset */
	u64 (*tsc)(struct vcpu *v);
	/* crystal clock now, in crystal ticks */
	u64 (*crystal)(struct vcpu *v);
	/* an event is to be delivered although no window has opened since the last delivery began, rounds deliveries
	 * ago; true = stop with CPU_STOP_NOTIFY. v->inj is the event. */
	bool (*no_window)(struct vcpu *v, u32 rounds);
	/* v->inj is about to be delivered and v->event_begins is set: true stops the vCPU here (v->stop set). May be
	 * NULL. */
	bool (*event_begins)(struct vcpu *v);
	/* second was raised while first was being delivered: an outside hypervisor that intercepts it may stop the vCPU
	 * here (true, v->stop and v->internal set); first stays the event to deliver. May be NULL. */
	bool (*exc_intercept)(struct vcpu *v, const struct event *first, const struct event *second);
	/* a lock that would reach the bus: a split one, or one in memory that is not write-back. Asked before the
	 * access, with nothing committed. May be NULL: what MSR_TEST_CTRL says. */
	enum lock_answer (*lock)(struct vcpu *v, enum lock_kind kind, gva_t la, u32 size);
	/* the guest reads MSR_TEST_CTRL; or writes it: false = #GP(0). May be NULL. */
	u64 (*test_ctrl_read)(const struct vcpu *v);
	bool (*test_ctrl)(struct vcpu *v, u64 val);
	/* the instruction just retired performed a bus lock; true = stop with CPU_STOP_BUS_LOCK. May be NULL. */
	bool (*bus_locked)(struct vcpu *v);
	void (*eoi_broadcast)(struct vcpu *v, u8 vector);
	/* PAUSE, UMWAIT and TPAUSE ran: a loop of them may give up the host core; may be NULL */
	void (*pause_hint)(struct vcpu *v);
	/* L2 holds state that no VM entry lets in and is about to end in a triple fault; may be NULL */
	void (*l2_invalid)(struct vcpu *v);
	/* REQ_EVENT is due in this many TSC ticks of L1 (VMX-preemption timer); may be NULL */
	void (*vmx_timer)(struct vcpu *v, u64 ticks);
};
