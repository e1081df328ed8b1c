/* SPDX-License-Identifier: MIT */
/*
 * The KVM API: what stands behind system, VM and vCPU file descriptors.
 *
 * An ioctl handler returns the kernel's value or -errno and checks in the kernel's order. Locks, outermost first:
 * vcpu.mutex (one ioctl per vCPU, KVM_RUN included), vm.lock (creation, capabilities), vm.slots_lock (memory,
 * buses). None of them is taken inside cpu_run(); buses are read there through immutable tables.
 */
#pragma once
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/types.h"
#include "cpu/cpu.h"
#include "guard/guard.h"
#include "irq/irq.h"
#include "kvm/fdtab.h"

#define VCPU_IDS_MAX 4096 /* the kernel's KVM_MAX_VCPU_IDS */
#define MCE_BANKS 32 /* as in spec/msr.def */
#define POISON_MAX 16	/* pages poisoned by fault injection */
#define RUN_PAGES 3	  /* struct kvm_run, port data, coalesced ring */
#define DIRTY_RING_OFFSET (KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE)
#define DIRTY_RING_RESERVED 64 /* entries for what is written until the vCPU has left */
#define DIRTY_RING_BYTES_MAX (65536 * sizeof(struct kvm_dirty_gfn)) /* the kernel's KVM_DIRTY_RING_MAX_ENTRIES */
#define PAGE_OFF_PIO 1
#define PAGE_OFF_RING KVM_COALESCED_MMIO_PAGE_OFFSET
#define SYNC_FIELDS (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

/* ---- options (options.c) ---------------------------------------------------------------------- */

/* Adopt /etc/casement/opts and CASEMENT_OPTS once per process: 0, or -EINVAL after one line on stderr. */
int options_load(void);
/* Containment of a new VM, with the options as they are now. */
int options_for_vm(struct guard *g);
/* Would a VM made now have notify exits? */
bool options_notify(void);
/* The options as they are now. */
void options_copy(struct guard_opts *o);
/* casement_set_options() */
int options_set(const char *list, char *err, size_t n);

/* ---- split and bus locks (lock.c) --------------------------------------------------------------- */

struct kvm_vm;
struct kvm_vcpu;
enum lock_answer lock_bus_ask(struct vcpu *v, enum lock_kind kind, gva_t la, u32 size);
bool lock_bus_done(struct vcpu *v);
long lock_check_cap(const struct kvm_vm *vm);
long lock_enable_cap(struct kvm_vm *vm, u64 mode);
u32 lock_cpuid(struct cpuid_entry *e, u32 n, u32 max);
int exit_lock(struct kvm_vcpu *k);
int exit_bus_lock(struct kvm_vcpu *k);
bool exit_note_bus_lock(struct kvm_vcpu *k);
int exit_add_bus_lock(struct kvm_vcpu *k, int r);
int lock_serve_ac(struct kvm_vcpu *k);
void lock_send_sigbus(struct kvm_vcpu *k);

/* ---- statistics (stats.c) --------------------------------------------------------------------- */

struct kvm_vm_stat {
#define VM_STAT(name, type, unit, exp, n) u64 name[n];
#include "spec/stat.def"
};
struct kvm_vcpu_stat {
#define VCPU_STAT(name, type, unit, exp, n) u64 name[n];
#include "spec/stat.def"
};
#define STAT_INC(obj, name) ((obj)->stat->name[0]++)

/* ---- clocks (clock.c) -------------------------------------------------------------------------- */

#define TSC_RATIO_ONE (1ull << 48)

/**
 * struct kvm_clock - one VM's sources of time
 * @machine: for a virtual clock, whose vCPUs make the time; NULL: the host's TSC does
 * @crystal_hz: of the crystal clock
 * @khz: host TSC frequency
 * @default_khz: guest TSC frequency of vCPUs created from now on
 * @base_tsc, @base_ns: host TSC and CLOCK_BOOTTIME read at one moment
 * @offset: kvmclock = boot time + offset
 * @lock: guards offset and the TSC synchronization below
 * @cur_*, @last_*: write synchronization of guest TSCs, as kvm_synchronize_tsc() keeps it
 */
struct kvm_clock {
	const struct machine *machine;
	u32 crystal_hz;
	u32 khz, default_khz;
	u64 base_tsc, base_ns;
	s64 offset;
	pthread_mutex_t lock;
	u64 last_write_ns, last_write, last_khz, last_offset;
	u64 cur_ns, cur_write, cur_offset;
};

/**
 * struct service_watch - a descriptor the service thread polls
 * @events: EPOLL*; 0 is EPOLLIN
 * @fn: called on the service thread when @fd is ready
 */
struct service_watch {
	int fd;
	u32 events;
	void (*fn)(struct service_watch *w);
};

/**
 * struct departures - where a VM's departures go (departures.c)
 * @event: eventfd that says there are some
 * @out: the pipe, watched while it is full
 * @file, @pipe: -1: none
 * @line, @line_len: what the full pipe did not take
 * @seen: number of the next record when somebody last looked
 */
struct departures {
	pthread_mutex_t lock;
	struct service_watch event, out;
	bool out_armed, text;
	int file, pipe;
	u32 line_len;
	char line[DEPARTURE_LINE];
	_Atomic u64 seen;
};

#define ENTRY_FAILED_INVALID_STATE 0x80000021u /* kvm_run.fail_entry's reason */

/* ---- VM ---------------------------------------------------------------------------------------- */

struct msr_filter {
	bool default_allow;
	u32 n;
	struct msr_filter_range {
		u32 flags, base, nmsrs;
		u8 *bitmap;
	} range[KVM_MSR_FILTER_MAX_RANGES];
};

struct iobus; /* ioeventfd.c */
struct irqfd; /* irqfd.c */

struct kvm_vm {
	struct machine m;
	struct guard guard;
	_Atomic u32 refs;
	_Atomic bool dead;	/* as the kernel's vm_dead */
	u32 process;		/* generation of the process that made it: see kvm_process() */
	pthread_mutex_t lock, slots_lock;
	u32 created_vcpus, max_vcpu_ids;
	u64 nslot_pages, nr_mmu_pages;
	gpa_t tss_addr, identity_addr;
	struct kvm_coalesced_mmio_ring *ring;
	int ring_fd;		/* memfd of the ring page; the VM's own descriptor duplicates it */
	u32 dirty_ring_bytes;	/* KVM_CAP_DIRTY_LOG_RING */
	u64 dirty_protect;	/* KVM_DIRTY_LOG_MANUAL_* */
	bool exception_payload, triple_fault_event;
	u32 disable_exits, user_msr_mask;
	u64 hypercall_exits;
	u32 x2apic_flags;
	struct msr_filter *_Atomic filter;
	struct iobus *_Atomic pio, *_Atomic mmio;
	struct irqfd *irqfds;
	struct resampler *resamplers;
	struct kvm_clock clock;
	struct departures departures;
	struct control *control;
	struct { gpa_t gpa; hva_t host; } poison[POISON_MAX];
	_Atomic u32 npoison;
	struct kvm_vm_stat *stat;
	u64 wall_clock;		/* MSR_KVM_WALL_CLOCK */
	int owner_tgid;
};

#define MCG_STATUS_MCIP BIT(2)	/* a machine check is being handled [SDM3B "IA32_MCG_STATUS MSR"] */

/* ---- vCPU -------------------------------------------------------------------------------------- */

enum run_pending { PENDING_NONE, PENDING_PIO, PENDING_MMIO, PENDING_MSR, PENDING_HYPERCALL };

/**
 * struct exitstat - exits by kind (exitstat.c); times in host TSC ticks
 * @stop, @since: the exit whose end has not come, since 0: none
 */
struct exitstat {
	enum cpu_stop stop;
	u64 since;
	struct exit_row_stat {
		u64 n, total, min, max;
	} row[CPU_STOPS];
};

struct kvm_vcpu {
	struct vcpu *v;
	struct guard_vcpu guard;
	struct kvm_vm *vm;
	struct kvm_run *run;	/* page 0 of the descriptor */
	u8 *pio_page;
	int fd;			/* only while being created */
	pthread_mutex_t mutex;
	struct mem_ring ring;
	u32 mp_state;
	bool has_run;		/* CPUID is fixed from the first KVM_RUN on */
	enum run_pending pending;
	u64 spin_since, spin_last;	/* a loop of PAUSE: bus.c */
	bool sigset_active;
	u64 sigset;
	_Atomic bool triple_fault;
	bool triple_for_l2;	/* L2 was active when it was asked for */
	bool triple_by_user;	/* by KVM_SET_VCPU_EVENTS, not by what the guest did */
	bool pv_unhalted;
	u8 eoi_vector;
	bool sigbus;		/* a lock killed it: SIGBUS when KVM_RUN returns */
	u16 run_flags;		/* KVM_RUN_X86_BUS_LOCK for this return */
	u32 kvm_cpuid_base, pv_features;
	bool pv_enforce;

	/* clocks */
	u32 tsc_khz;
	u64 tsc_ratio;		/* guest ticks per host tick, 16.48 */
	u64 this_tsc_nsec, this_tsc_write;
	u64 pvclock_msr, steal_msr, poll_control;
	bool pvclock_stopped, vapic;
	_Atomic bool clock_update;
	u64 pvclock_tsc_offset;
	u64 steal_last_run_delay, steal_last_tsc;
	int steal_fd, steal_tid;
	u64 pv_eoi;

	struct irq_timer vmx_timer;	/* VMX-preemption timer */

	struct kvm_vcpu_stat *stat;
	struct exitstat exitstat;
};

static inline struct kvm_vcpu *kvm_of(const struct vcpu *v) { return v->owner; }
static inline struct kvm_vm *kvm_vm_of(const struct vcpu *v) { return v->vm->owner; }
static inline bool kvm_has_lapic(const struct kvm_vcpu *k) { return k->v->lapic != NULL; }
static inline bool kvm_quirk(const struct kvm_vm *vm, u64 quirk)
{
	return !(vm->m.quirks_disabled & quirk);
}

/* ---- copies from and to the caller --------------------------------------------------------------- */

/* 0 or -EFAULT */
static inline int copy_in(void *dst, u64 src, size_t n)
{
	return mem_copy_guarded(dst, (const void *)src, n);
}
static inline int copy_out(u64 dst, const void *src, size_t n)
{
	return mem_copy_guarded((void *)dst, src, n);
}

/* ---- dispatch (ioctl.c), one function per row of spec/kvm_ioctl.def ------------------------------------ */

extern const struct kvm_file_ops kvm_sys_ops, kvm_vm_ops, kvm_vcpu_ops;
#define IOCTL_SYS(req, fn, flags) long fn(void *obj, u64 arg, void *buf);
#define IOCTL_VM(req, fn, flags) long fn(struct kvm_vm *vm, u64 arg, void *buf);
#define IOCTL_VCPU(req, fn, flags) long fn(struct kvm_vcpu *k, u64 arg, void *buf);
#include "spec/kvm_ioctl.def"

/* The ioctl of the engine; -ENOTTY when fd is not ours. */
long kvm_ioctl(int fd, u32 request, u64 arg);
/* A new /dev/kvm descriptor, or -errno. */
int kvm_open(int flags);
/* mmap and close of a descriptor that may be ours. */
void *kvm_mmap(void *addr, size_t len, int prot, int flags, int fd, u64 off);
int kvm_close(int fd);
/* The descriptor's number is somebody else's now. */
void kvm_forget(int fd);
/* @to is a new duplicate of @from: dup(2) and its like have been called. */
void kvm_duplicated(int from, int to);
/*
 * Is this descriptor, which came by exec(2), SCM_RIGHTS or a system call that we did not see, one of ours?
 * 0 and it is in the table; -ENOTTY no; -EIO it is another process's VM.
 */
int kvm_adopt(int fd);
/* In a child that was not made by libc's fork(). */
void kvm_forked(void);
/* Generation of this process: changes in a forked child. */
u32 kvm_process(void);
/* KVM_CHECK_EXTENSION; vm may be NULL */
long kvm_check_extension(struct kvm_vm *vm, u64 cap);

/* ---- VM (vm.c, memory.c) --------------------------------------------------------------------------- */

void vm_get(struct kvm_vm *vm);
void vm_put(struct kvm_vm *vm);
struct kvm_vcpu *vm_vcpu_by_id(struct kvm_vm *vm, u32 id);
void vcpu_free(struct kvm_vcpu *k);
/* Ask every vCPU of the VM for bits. */
void vm_request_all(struct kvm_vm *vm, u32 bits);

/* KVM_CAP_DIRTY_LOG_RING with rings of so many bytes. 0 or -errno. */
int memory_enable_rings(struct kvm_vm *vm, u64 bytes);
/* The new vCPU's ring, if the VM has any. 0 or -errno. */
int memory_create_ring(struct kvm_vcpu *k);
void memory_free_ring(struct kvm_vcpu *k);

/* ---- guest state (regs.c, events.c, xstate.c, cpuid.c, msr.c, mce.c) ---------------------------------- */

void regs_get(struct kvm_vcpu *k, struct kvm_regs *r);
void regs_set(struct kvm_vcpu *k, const struct kvm_regs *r);
void sregs_get(struct kvm_vcpu *k, struct kvm_sregs *s);
int sregs_set(struct kvm_vcpu *k, const struct kvm_sregs *s);
void events_get(struct kvm_vcpu *k, struct kvm_vcpu_events *e);
int events_set(struct kvm_vcpu *k, const struct kvm_vcpu_events *e);
/* Collect NMI, SMI, unhalt from src/irq into the vCPU. Returns the remaining irq_event bits. */
u32 events_sync(struct kvm_vcpu *k);
/* Take INIT and SIPI if the state allows; may change mp_state and reset the vCPU. */
void events_accept_init_sipi(struct kvm_vcpu *k);
bool events_exception_pending(const struct kvm_vcpu *k);
void xstate_init(struct kvm_vcpu *k);
u64 xstate_supported_xcr0(void);
u32 xstate_size(void);
void kvm_cpuid_runtime(struct kvm_vcpu *k, struct cpuid_entry *e, u32 n);

int msr_bus_read(struct vcpu *v, u32 index, u64 *val);
int msr_bus_write(struct vcpu *v, u32 index, u64 val);
bool msr_bus_allowed(struct vcpu *v, u32 index, bool write);
void msr_filter_free(struct msr_filter *f);
extern _Thread_local bool msr_by_host; /* the MSR access under way is KVM_GET/SET_MSRS */

/* ---- clocks (clock.c, pvclock.c) ---------------------------------------------------------------------- */

void clock_init(struct kvm_clock *c, const struct machine *m);
/* Nanoseconds of a virtual clock. */
u64 clock_virtual_ns(const struct kvm_clock *c);
void clock_vcpu_init(struct kvm_vcpu *k);
int clock_set_tsc_khz(struct kvm_vcpu *k, u32 khz);
/* Guest TSC before tsc_offset at host TSC value. */
u64 clock_scale_tsc(const struct kvm_vcpu *k, u64 host_tsc);
u64 clock_bus_tsc(struct vcpu *v);
u64 clock_bus_crystal(struct vcpu *v);
u64 clock_guest_tsc(struct vcpu *v);	/* for src/irq */
u32 clock_tsc_khz(struct vcpu *v);
/* A host write of IA32_TSC, or creation (val 0): vCPUs written the same value stay in step. */
void clock_sync_tsc(struct kvm_vcpu *k, u64 val);
void clock_sync_offset(struct kvm_vcpu *k, u64 offset);
u64 clock_boot_ns(const struct kvm_clock *c, u64 host_tsc);
u64 clock_kvmclock_ns(const struct kvm_clock *c);
int pvclock_rdmsr(struct kvm_vcpu *k, u32 index, u64 *val);
int pvclock_wrmsr(struct kvm_vcpu *k, u32 index, u64 val);
/* Write the time page if an update is due; vCPU thread in guest mode. */
void pvclock_update(struct kvm_vcpu *k);
bool pvclock_steal_due(const struct kvm_vcpu *k);
void pvclock_steal_update(struct kvm_vcpu *k);
void pvclock_reset(struct kvm_vcpu *k);
int pv_hypercall(struct vcpu *v, u64 *ret);

/* ---- running (run.c, exit.c) ------------------------------------------------------------------------- */

long vcpu_run(struct kvm_vcpu *k);
/* Fill kvm_run for a stop. 1: nothing for user space, go on; 0: exit; < 0: -errno. */
int exit_translate(struct kvm_vcpu *k, enum cpu_stop stop);
/* Take user space's answer to the last exit; immediate: finish the instruction now.
 * 1: go on; 0: another exit was made; < 0 -errno. */
int exit_complete(struct kvm_vcpu *k, bool immediate);

/* An exit, and the entry after it. */
void exitstat_begin(struct kvm_vcpu *k, enum cpu_stop stop);
void exitstat_end(struct kvm_vcpu *k);
int exitstat_print(const struct kvm_vcpu *k, char *buf, size_t n);

/* ---- the buses (bus.c, ioeventfd.c, irqfd.c) ------------------------------------------------------------ */

extern const struct cpu_bus kvm_bus;
/* 0: an ioeventfd or a coalesced ring took the write; -EOPNOTSUPP */
int iobus_write(struct kvm_vm *vm, bool pio, u64 addr, unsigned int len, const void *data);
int iobus_init(struct kvm_vm *vm);
void iobus_destroy(struct kvm_vm *vm);
void irqfd_destroy_all(struct kvm_vm *vm);

/* ---- the service thread (service.c) --------------------------------------------------------------------- */

int service_start(void);
void service_forked(void); /* in the child: its threads are gone */
int service_add(struct service_watch *w);	/* 0 or -errno */
void service_del(struct service_watch *w);	/* on return @fn does not run and will not */
struct irq_timerq *service_timerq(void);

/* ---- departures.c ----------------------------------------------------------------------------------------- */

int departures_init(struct kvm_vm *vm);
void departures_destroy(struct kvm_vm *vm);
/* Write down what is in the ring, and bring the statistics up to date. */
void departures_drain(struct kvm_vm *vm);
/* Read end of a pipe, or -errno. */
int departures_pipe(struct kvm_vm *vm, bool text);

/* ---- fault injection (inject.c) --------------------------------------------------------------------------- */

/**
 * inject() - carry out a '+'-separated list
 * @err, @n: on failure one line
 *
 * Return: 0; -EINVAL not understood; -ENOENT no such vCPU or no memory there; -ENOSPC too many.
 */
int inject(struct kvm_vm *vm, const char *what, char *err, size_t n);
/* The option inject=, as far as it is about the VM, or this new vCPU. */
int inject_initial(struct kvm_vm *vm, struct kvm_vcpu *k);
/* The vCPU thread raises the machine check that is asked for. */
void inject_mce(struct kvm_vcpu *k);
/* -EFAULT at v->fault_gpa: is the page poisoned? Then the signal of the kernel's hwpoison is queued. */
bool inject_poisoned(struct kvm_vcpu *k);
/* Number of planned ioctl failures in the process. */
extern _Atomic u32 inject_ioctls;
/* The control socket (control=PATH). */
int control_init(struct kvm_vm *vm);
void control_destroy(struct kvm_vm *vm);

/* ---- stats.c ---------------------------------------------------------------------------------------------- */

int stats_alloc(size_t size, void **stat);
void stats_free(void *stat);
