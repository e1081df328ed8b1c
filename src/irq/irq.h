/* SPDX-License-Identifier: MIT */
/*
 * The interrupt chips that KVM keeps in the kernel: local APICs, I/O APIC, 8259 pair, 8254, and the
 * GSI routing between lines and chips. Interface for src/kvm and for struct cpu_bus.
 *
 * Threads. Lines, MSIs and IPIs come from any thread; they end in an atomic IRR bit and a
 * vcpu_request(). A vCPU's own side (irq_intr_*, lapic register access, KVM_GET/SET_LAPIC) runs on
 * the thread that owns the vCPU. Nothing on a path out of cpu_run() allocates or calls libc.
 *
 * INIT, SIPI, NMI and SMI change processor state that only src/kvm may change: they are latched here
 * and announced with REQ_KVM; the KVM run loop collects them with lapic_pending_init_sipi() and
 * irq_sync_events().
 *
 * Behaviour is that of Linux 6.1 KVM, quirks included, unless a comment says otherwise.
 */
#pragma once
#include "base/types.h"
#include "cpu/cpu.h"
#include "irq/timer.h"

struct irqchip;
struct lapic;
struct kvm_lapic_state;
struct kvm_irqchip;
struct kvm_pit_state2;
struct kvm_irq_routing_entry;
struct kvm_msi;

/* ---- per VM ---------------------------------------------------------------------------------- */

enum irqchip_mode {
	IRQCHIP_NONE,	/* everything in user space */
	IRQCHIP_SPLIT,	/* local APICs here, PIC and I/O APIC in user space */
	IRQCHIP_FULL,	/* all chips here */
};

enum irq_source { /* who drives a line; a line is the OR of its sources */
	IRQ_SOURCE_USER = 0,	/* KVM_IRQ_LINE and plain irqfds */
	IRQ_SOURCE_RESAMPLE = 1, /* irqfds with KVM_IRQFD_FLAG_RESAMPLE */
	IRQ_SOURCE_PIT = 2,
};

/**
 * struct irq_ops - what the chips ask of their surroundings
 * @now: ns of CLOCK_MONOTONIC (or the VM's virtual clock); NULL = base_now_ns()
 * @guest_tsc: the TSC as the (L1) guest reads it now; vCPU thread only
 * @tsc_khz: frequency of that TSC
 */
struct irq_ops {
	u64 (*now)(void *ctx);
	u64 (*guest_tsc)(struct vcpu *v);
	u32 (*tsc_khz)(struct vcpu *v);
};

/**
 * irqchip_create() - make a VM's interrupt object, in mode IRQCHIP_NONE; sets m->irq
 * @m: the machine
 * @ops: clocks; must outlive the VM
 * @ctx: passed to @ops->now
 * @q: timer queue served by the caller; must outlive the VM
 *
 * Return: 0 or -ENOMEM.
 */
int irqchip_create(struct machine *m, const struct irq_ops *ops, void *ctx, struct irq_timerq *q);
void irqchip_destroy(struct machine *m);

/**
 * irqchip_enable() - KVM_CREATE_IRQCHIP and KVM_CAP_SPLIT_IRQCHIP
 * @m: the machine, no vCPU created yet
 * @mode: IRQCHIP_FULL or IRQCHIP_SPLIT
 * @pins: SPLIT: pins of the user-space I/O APIC whose routes (GSI < @pins) report EOIs
 *
 * FULL installs KVM's default routing: GSI 0-15 to PIC and I/O APIC, 16-23 to the I/O APIC.
 *
 * Return: 0; -EEXIST a chip exists; -EINVAL vCPUs exist or @pins > 4096; -ENOMEM.
 */
int irqchip_enable(struct machine *m, enum irqchip_mode mode, u32 pins);
enum irqchip_mode irqchip_mode(const struct machine *m);

/* KVM_SET_BOOT_CPU_ID (default 0): which vCPU id gets APIC_BASE.BSP; before vCPUs exist. */
void irqchip_set_bsp(struct machine *m, u32 vcpu_id);
bool irqchip_is_bsp(const struct vcpu *v);

/* KVM_CAP_X2APIC_API flags: KVM_X2APIC_API_USE_32BIT_IDS, _DISABLE_BROADCAST_QUIRK. 0 or -EINVAL. */
int irqchip_set_x2apic_api(struct machine *m, u64 flags);

/* KVM_GET/SET_IRQCHIP. 0; -ENXIO not IRQCHIP_FULL; -EINVAL unknown chip_id. */
int irqchip_get(struct machine *m, struct kvm_irqchip *c);
int irqchip_set(struct machine *m, const struct kvm_irqchip *c);

/* KVM_CREATE_PIT(2); flags: KVM_PIT_SPEAKER_DUMMY. 0; -EEXIST; -ENOENT not IRQCHIP_FULL. */
int pit_create(struct machine *m, u32 flags);
/* KVM_GET/SET_PIT2 (KVM_GET/SET_PIT: same channels, flags 0). 0; -ENXIO there is no PIT. */
int pit_get(struct machine *m, struct kvm_pit_state2 *s);
int pit_set(struct machine *m, const struct kvm_pit_state2 *s);
/* KVM_SET_PIT: as pit_set(), but leaves the flags alone. */
int pit_set_channels(struct machine *m, const struct kvm_pit_state2 *s);
/* KVM_REINJECT_CONTROL. 0; -ENXIO. */
int pit_set_reinject(struct machine *m, bool reinject);

/* ---- lines, routes, messages ----------------------------------------------------------------- */

/**
 * irq_set_routing() - KVM_SET_GSI_ROUTING
 * @m: the machine
 * @e: entries
 * @n: how many, at most 4096
 *
 * Return: 0; -EINVAL no in-kernel chip, GSI >= 4096, unknown type or flag, pin out of range, IRQCHIP
 * entry in split mode, a GSI routed twice to one chip or to a chip and a message; -ENOMEM.
 */
int irq_set_routing(struct machine *m, const struct kvm_irq_routing_entry *e, u32 n);

/**
 * irq_set_level() - drive a GSI (KVM_IRQ_LINE, irqfd)
 * @m: the machine
 * @source: enum irq_source
 * @gsi: line
 * @level: 0 or 1; for a message route 1 sends it
 * @line_status: the caller wants to know about coalescing (KVM_IRQ_LINE_STATUS): the RTC's line
 *	tracks EOIs then
 *
 * Any thread. Callers make an edge by 1 then 0.
 *
 * Return: > 0 number of vCPUs reached (sum over chips); 0 coalesced; < 0 ignored (masked, no route).
 */
int irq_set_level(struct machine *m, u32 source, u32 gsi, int level, bool line_status);

/* KVM_SIGNAL_MSI: as irq_set_level(); -EINVAL no in-kernel APIC, unknown flags, bad address_hi. */
int irq_send_msi(struct machine *m, const struct kvm_msi *msi);
/* The same for a bare message, e.g. an irqfd that cached its MSI route. */
int irq_send_msi_raw(struct machine *m, u32 addr_lo, u32 addr_hi, u32 data);

/**
 * struct irq_ack_notifier - told when the guest acknowledges (EOIs) a GSI
 * @gsi: which
 * @acked: called on the acknowledging vCPU thread, chip locks dropped; may call irq_set_level() and
 *	write an eventfd, must not (un)register notifiers
 */
struct irq_ack_notifier {
	u32 gsi;
	void (*acked)(struct irq_ack_notifier *n);
	struct irq_ack_notifier *next;
};
void irq_ack_register(struct machine *m, struct irq_ack_notifier *n);
/* On return @n is neither called nor running. */
void irq_ack_unregister(struct machine *m, struct irq_ack_notifier *n);

/* ---- cpu_bus: port and memory decode --------------------------------------------------------- */

/* 0 a chip took it; -EOPNOTSUPP no chip is there. [PIC, ELCR, PIT, speaker | LAPIC page, I/O APIC] */
int irq_pio_read(struct vcpu *v, u16 port, unsigned int size, void *data);
int irq_pio_write(struct vcpu *v, u16 port, unsigned int size, const void *data);
int irq_mmio_read(struct vcpu *v, gpa_t gpa, unsigned int len, void *data);
int irq_mmio_write(struct vcpu *v, gpa_t gpa, unsigned int len, const void *data);

/* ---- cpu_bus: interrupts --------------------------------------------------------------------- */

/*
 * Highest deliverable external interrupt of v: ExtINT (8259, or irq_queue_extint() in split mode),
 * then the local APIC's highest IRR above PPR. RFLAGS.IF and shadows are the caller's. -1: none.
 * intr_ack moves it into service; it may return -1 when the request went away.
 * Without in-kernel chips both return -1.
 */
int irq_intr_pending(struct vcpu *v);
int irq_intr_ack(struct vcpu *v);

/* KVM_INTERRUPT in split mode: 0; -ENXIO full in-kernel chips; -EEXIST one is queued already. */
int irq_queue_extint(struct vcpu *v, u8 vector);
/* Could user space inject an ExtINT now (KVM: ready_for_interrupt_injection's chip part)? */
bool irq_accepts_extint(struct vcpu *v);

/* CR8 view of the TPR; valid only when v has a local APIC (else v->cr8 is the TPR). */
u64 irq_read_cr8(struct vcpu *v);
void irq_write_cr8(struct vcpu *v, u64 cr8);

/* ---- local APIC ------------------------------------------------------------------------------ */

/* KVM_CREATE_VCPU: attach a local APIC when the machine has one (v->lapic), and reset it. 0/-ENOMEM */
int lapic_create(struct vcpu *v);
/* Before the vCPU is freed. The caller has stopped its irqfds and ioctls; timers are waited for. */
void lapic_destroy(struct vcpu *v);
/* RESET (init = false: APIC_BASE too, with or without a local APIC) or INIT. */
void lapic_reset(struct vcpu *v, bool init);
/* After cpuid_adopt(): x2APIC and TSC-deadline bits, version register. */
void lapic_cpuid_changed(struct vcpu *v);
/* MCG_CAP.CMCI_P set by KVM_X86_SETUP_MCE: seventh LVT. */
void lapic_set_cmci(struct vcpu *v, bool present);

/**
 * lapic_set_base() - write IA32_APIC_BASE (cpu_bus.set_apic_base; works without a local APIC)
 * @v: vCPU; v->apic_base is updated
 * @val: new value
 * @host: by KVM_SET_MSRS / KVM_SET_SREGS: any valid mode change allowed
 *
 * Return: 0; -EINVAL reserved bits, x2APIC without CPUID bit or without enable, or a mode change the
 * guest may not make. [SDM3A "x2APIC State Transitions"]
 */
int lapic_set_base(struct vcpu *v, u64 val, bool host);

/* IA32_X2APIC_* 0x800-0x8ff and IA32_TSC_DEADLINE 0x6e0. 0; -EINVAL #GP; -ENOENT not one of these. */
int irq_msr_read(struct vcpu *v, u32 index, u64 *val);
int irq_msr_write(struct vcpu *v, u32 index, u64 val);

/* KVM_GET/SET_LAPIC. 0; -EINVAL no local APIC, or wrong id in the 32-bit-id format. */
int lapic_get_state(struct vcpu *v, struct kvm_lapic_state *s);
int lapic_set_state(struct vcpu *v, const struct kvm_lapic_state *s);

enum lapic_event { LAPIC_INIT = 1, LAPIC_SIPI = 2 };
/**
 * lapic_pending_init_sipi() - INIT and SIPI received, not yet taken
 * @v: vCPU
 * @vector: SIPI vector out when LAPIC_SIPI is returned; may be NULL
 *
 * Any thread may look. The run loop consumes with lapic_clear_events(): INIT first, then SIPI, which
 * counts only in KVM_MP_STATE_INIT_RECEIVED and is dropped otherwise.
 *
 * Return: enum lapic_event bits.
 */
u32 lapic_pending_init_sipi(struct vcpu *v, u8 *vector);
void lapic_clear_events(struct vcpu *v, u32 bits);
/* Add events as if received: KVM_SET_VCPU_EVENTS smi.latched_init, KVM_SET_MP_STATE(SIPI_RECEIVED). */
void lapic_set_events(struct vcpu *v, u32 bits);
/* The vector a SIPI left, pending or not: KVM_GET/SET_VCPU_EVENTS sipi_vector. */
u8 lapic_sipi_vector(struct vcpu *v);
void lapic_set_sipi_vector(struct vcpu *v, u8 vector);

enum irq_event {
	IRQ_EV_NMI = 1,		/* one NMI, or two when IRQ_EV_NMI2 is set too */
	IRQ_EV_NMI2 = 2,
	IRQ_EV_SMI = 4,
	IRQ_EV_UNHALT = 8,	/* KVM_HC_KICK_CPU */
	IRQ_EV_IOAPIC_EOI = 16,	/* split mode: KVM_EXIT_IOAPIC_EOI with *eoi_vector */
	IRQ_EV_TPR = 32,	/* TPR accessed while reporting is on: read */
	IRQ_EV_TPR_WRITE = 64,	/* ... written */
};
/**
 * irq_sync_events() - fetch and clear what arrived for the run loop to act on
 * @v: vCPU, on its own thread
 * @eoi_vector: out, when IRQ_EV_IOAPIC_EOI is returned
 *
 * Called at the top of the KVM run loop whenever REQ_KVM was set (and once on KVM_RUN entry).
 * Return: enum irq_event bits.
 */
u32 irq_sync_events(struct vcpu *v, u8 *eoi_vector);

/* KVM_TPR_ACCESS_REPORTING. 0; -EINVAL no local APIC. */
int lapic_tpr_reporting(struct vcpu *v, bool on);
/* KVM_SET_VAPIC_ADDR and its exchange with guest memory around KVM_RUN; 0 turns it off. */
int lapic_set_vapic_addr(struct vcpu *v, gpa_t addr);
void lapic_vapic_from_guest(struct vcpu *v);
void lapic_vapic_to_guest(struct vcpu *v);

/* EOI of one vector whose ISR bit somebody else (APIC virtualization) has cleared; cpu_bus.eoi_broadcast */
void lapic_eoi_broadcast(struct vcpu *v, u8 vector);
/* Raise a local source: APIC_LVTPC, APIC_LVTCMCI, ... (offset of its LVT register). */
void lapic_local_deliver(struct vcpu *v, u32 lvt);
/* Deadline of v's timer in ns, IRQ_NEVER when stopped: HLT may sleep until then. */
u64 lapic_timer_deadline(struct vcpu *v);
/* Expire v's timer now if it is due (the vCPU thread noticed before the service thread). */
void lapic_timer_poll(struct vcpu *v);

/* KVM_HC_SEND_IPI: count of vCPUs reached, or -EINVAL. min = first APIC id; op64: 64 ids per word. */
s64 irq_pv_send_ipi(struct vcpu *v, u64 low, u64 high, u32 min, u64 icr, bool op64);
/* KVM_HC_KICK_CPU */
void irq_pv_kick(struct vcpu *v, u32 apic_id);
