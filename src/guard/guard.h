/* SPDX-License-Identifier: MIT */
/*
 * Containment: what a guest may not do to its host, and what the host is told about it.
 *
 * One struct guard per VM holds the options, the records of departures and the state of each policy; one struct
 * guard_vcpu per vCPU what belongs to one processor. The processor asks through struct cpu_bus and never
 * knows the policy: src/kvm puts the functions below into its table.
 */
#pragma once
#include <errno.h>

#include "cpu/cpu.h"
#include "guard/inject.h"
#include "guard/lock.h"
#include "guard/opts.h"
#include "trace/departure.h"

/**
 * struct guard - containment of one VM
 * @opt: fixed when the VM is created
 * @ring: departures
 * @notify: notify VM exits are on
 * @notify_user: the monitor wants to see each of them (KVM_X86_NOTIFY_VMEXIT_USER)
 * @notify_window, @notify_threshold: in crystal clocks; may change while the VM runs
 * @inject_qual, @inject_corrupt: qualification bits of the next notify exit of any vCPU
 * @plan: ioctls that are to fail
 */
struct guard {
	struct guard_opts opt;
	struct departure_ring ring;
	_Atomic bool notify;
	bool notify_user;
	_Atomic u32 notify_window, notify_threshold;
	struct guard_lock lock;
	_Atomic u64 inject_qual;
	_Atomic bool inject_corrupt;
	struct inject_plan plan;
};

enum wedge { WEDGE_NONE, WEDGE_TICKS, WEDGE_NOTIFY, WEDGE_F00F };

/**
 * struct guard_vcpu - containment of one vCPU
 * @guard: its VM's
 * @v: its processor
 * @rounds: delivery rounds since creation; part of the virtual clock
 * @notify_icount, @notify_repeats: when the last notify exit was, and how many there have been in a row without an
 *	instruction retired
 * @context_invalid: the last one said VM_CONTEXT_INVALID and nobody has written a new context since
 * @f00f: LOCK CMPXCHG8B of a register hangs
 * @wedge: enum wedge; the vCPU executes nothing and opens no window
 * @wedge_ticks, @wedge_begin, @wedge_end, @wedge_rip: for how long it is asked to; when the present windowless interval
 *	began; when it ends; where
 * @mce: MCi_STATUS of a machine check to raise at the next entry, 0: none
 */
struct guard_vcpu {
	struct guard *guard;
	struct vcpu *v;
	_Atomic u64 rounds;
	u64 notify_icount;
	u32 notify_repeats;
	bool context_invalid;
	bool notify_l1;	/* the notify exit that the processor stopped for is L1's */
	struct guard_vcpu_lock lock;
	bool f00f;
	u8 wedge;
	u64 wedge_ticks, wedge_begin, wedge_end, wedge_rip;
	_Atomic u64 mce;
};

static inline struct guard *guard_of(const struct vcpu *v) { return v->vm->guard; }
static inline bool guard_strict(const struct guard *g) { return g->opt.fidelity == FIDELITY_STRICT; }

/**
 * guard_init() - containment for a new VM
 * @g: zeroed
 * @opt: copied
 * @vm: number of the VM in this process, for the records
 */
void guard_init(struct guard *g, const struct guard_opts *opt, u32 vm);
void guard_vcpu_init(struct guard_vcpu *gv, struct guard *g, struct vcpu *v);

/* The options as they are now. */
struct guard_opts guard_opts_now(const struct guard *g);
/* Change notify-window or notify-threshold of a VM: 0, or -EINVAL after filling err. */
int guard_change_option(struct guard *g, const char *option, char *err, size_t n);

/* ---- departures (depart.c) ------------------------------------------------------------------------ */

/**
 * guard_depart() - record that the engine leaves the architecture, or stops the guest by policy
 * @v: the vCPU it happens to, inside or outside cpu_run()
 * @cause: detail of @kind, see doc/departures.md
 *
 * Every place that makes an event up, withholds one or ends a guest calls this before it does so; tools/departs
 * looks for places that do not. Lock-free, allocates nothing.
 */
void guard_depart(struct vcpu *v, enum departure_kind kind, u64 cause);
/* The same for what no vCPU of the VM did. */
void guard_depart_vm(struct guard *g, enum departure_kind kind, u64 cause);
/* An event in the form of IDT-vectoring information; 0 when there is none. */
u64 guard_event_info(const struct event *e);

/* ---- event windows (notify.c) ---------------------------------------------------------------------- */

#define NOTIFY_EXIT_REASON 75
/* Exit qualification [SDM3C "Exit Qualification for Instruction Timeouts"] */
#define NOTIFY_QUAL_INVALID BIT(0)
#define NOTIFY_QUAL_NMI_UNBLOCK BIT(12)

/* cpu_bus.no_window */
bool guard_no_window(struct vcpu *v, u32 rounds);
/* cpu_bus.exc_intercept */
bool guard_exc_intercept(struct vcpu *v, const struct event *first, const struct event *second);

enum notify_verdict {
	NOTIFY_VERDICT_RUN,	/* nothing for user space: enter the guest again */
	NOTIFY_VERDICT_TELL,	/* KVM_EXIT_NOTIFY */
	NOTIFY_VERDICT_ERROR,	/* KVM_EXIT_INTERNAL_ERROR, v->internal filled */
};

/**
 * guard_notify_exit() - CPU_STOP_NOTIFY: what KVM's handler of exit reason 75 does
 * @invalid: set to the qualification's VM_CONTEXT_INVALID
 */
enum notify_verdict guard_notify_exit(struct vcpu *v, bool *invalid);

/* Does the host have notify VM exits, as far as these options go? */
bool guard_notify_supported(const struct guard_opts *o);

/**
 * guard_notify_enable() - turn notify exits on; never off again
 * @window: in crystal clocks
 * @user: user space wants to see the exits
 *
 * Return: 0; -EINVAL: the administrator allows smaller windows only.
 */
int guard_notify_enable(struct guard *g, u32 window, bool user);

/* Make a context that is as invalid as it is said to be. */
void guard_corrupt(struct vcpu *v);

/* ---- fault injection (inject.c) ------------------------------------------------------------------------ */

/* cpu_bus.event_begins: the F00F hang */
bool guard_event_begins(struct vcpu *v);
/* The vCPU executes nothing for ticks of the crystal, 0: until its notify exit. Any thread. */
void guard_wedge(struct guard_vcpu *gv, u64 ticks);

enum wedge_state {
	WEDGE_FREE,	/* run the guest */
	WEDGE_HELD,	/* wait, at most *ticks (~0: for ever), and look again */
	WEDGE_EXIT,	/* a notify exit */
};
enum wedge_state guard_wedge_look(struct guard_vcpu *gv, u64 *ticks);
