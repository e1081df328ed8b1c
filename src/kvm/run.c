/* SPDX-License-Identifier: MIT */
/*
 * KVM_RUN: from the ioctl to cpu_run() and back. doc/design/kvm.md follows one call through here.
 */
#include "kvm/kvm.h"
#include "kvm/nested.h"
#include "cpu/vmx/vmx.h"

#include <errno.h>

#include "base/base.h"
#include "kvm/sig.h"

#define WAKE (REQ_EVENT | REQ_EXIT | REQ_KVM | REQ_TRIPLE)
#define MWAIT_NAP_NS 50000 /* the monitored line is not watched: look again soon */

/* ---- waiting ------------------------------------------------------------------------------------------- */

static void clear_requests(struct vcpu *v, u32 bits)
{
	if (v->request & bits)
		atomic_fetch_and(&v->request, ~bits);
}

static bool has_wake_event(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;

	if (nested_shut_down(k))
		return v->smi_pending || (v->nmi_pending && !v->nmi_masked) || vmx_wakes(v);
	if (k->pv_unhalted || v->inj.valid || v->pending.valid || v->smi_pending)
		return true;
	if (v->nmi_pending && !v->nmi_masked)
		return true;
	if (vmx_wakes(v))
		return true;
	return (v->rflags & FLAG_IF) && v->vm->bus->intr_pending(v) >= 0;
}

/* INIT and SIPI act at once; what else wakes depends on what the vCPU waits for. */
static bool may_run(struct kvm_vcpu *k)
{
	events_sync(k);
	events_accept_init_sipi(k);
	if (k->mp_state == KVM_MP_STATE_RUNNABLE)
		return true;
	if (k->mp_state != KVM_MP_STATE_HALTED && k->mp_state != KVM_MP_STATE_AP_RESET_HOLD)
		return false;
	return has_wake_event(k);
}

static void count_wait(struct kvm_vcpu *k, u64 ns)
{
	unsigned int bucket = ns ? 64 - (unsigned int)__builtin_clzll(ns) : 0;

	k->stat->halt_wait_ns[0] += ns;
	k->stat->halt_wait_hist[bucket < 31 ? bucket : 31]++;
	STAT_INC(k, halt_wakeup);
}

/* Sleep until there is something to do. False: the caller must leave KVM_RUN. */
static bool wait_runnable(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;
	u64 since = base_now_ns();
	bool slept = false, run;

	k->stat->blocking[0] = 1;
	for (;;) {
		clear_requests(v, REQ_EVENT | REQ_KVM);
		run = may_run(k);
		if (run || (v->request & (REQ_EXIT | REQ_TRIPLE)))
			break;
		slept = true;
		vcpu_sleep(v, WAKE, -1);
	}
	k->stat->blocking[0] = 0;
	if (slept)
		count_wait(k, base_now_ns() - since);
	if (run && k->mp_state != KVM_MP_STATE_RUNNABLE) {
		k->mp_state = KVM_MP_STATE_RUNNABLE;
		k->pv_unhalted = false;
	}
	vcpu_request(v, REQ_KVM); /* what events_sync() had to leave is looked at again */
	return run;
}

/* An AP before its first INIT: the kernel waits, then asks user space to call again. */
static long run_uninitialized(struct kvm_vcpu *k, bool immediate)
{
	struct vcpu *v = k->v;

	if (immediate)
		return -EINTR;
	for (;;) {
		clear_requests(v, REQ_EVENT | REQ_KVM);
		events_sync(k);
		if (lapic_pending_init_sipi(v, NULL) & LAPIC_INIT)
			break;
		if (v->request & REQ_EXIT) {
			k->run->exit_reason = KVM_EXIT_INTR;
			STAT_INC(k, signal_exits);
			return -EINTR;
		}
		vcpu_sleep(v, WAKE, -1);
	}
	events_accept_init_sipi(k);
	return -EAGAIN;
}

/* ---- between two stays in the guest ------------------------------------------------------------------------- */

static int exit_reason(struct kvm_vcpu *k, u32 reason)
{
	k->run->exit_reason = reason;
	return 0;
}

static int tpr_exit(struct kvm_vcpu *k, bool write)
{
	k->run->tpr_access.rip = k->v->rip;
	k->run->tpr_access.is_write = write;
	return exit_reason(k, KVM_EXIT_TPR_ACCESS);
}

/* What other threads asked for, and req. 1 go on, 0 exit to user space, < 0 -errno. */
static int serve(struct kvm_vcpu *k, u32 req)
{
	struct vcpu *v = k->v;
	u32 ev;

	req |= v->request;

	if (req & REQ_KVM) {
		clear_requests(v, REQ_KVM);
		if (k->vm->dead)
			return -EIO;
		ev = events_sync(k);
		if (ev & (IRQ_EV_TPR | IRQ_EV_TPR_WRITE))
			return tpr_exit(k, ev & IRQ_EV_TPR_WRITE);
		if (ev & IRQ_EV_IOAPIC_EOI) {
			k->run->eoi.vector = k->eoi_vector;
			return exit_reason(k, KVM_EXIT_IOAPIC_EOI);
		}
		if (k->guard.lock.inject_ac)
			return lock_serve_ac(k);
	}
	if (k->guard.mce)
		inject_mce(k);
	if (mem_ring_full(&k->ring))
		return exit_reason(k, KVM_EXIT_DIRTY_RING_FULL);
	if (req & REQ_TRIPLE) {
		clear_requests(v, REQ_TRIPLE);
		if (k->triple_by_user)
			guard_depart(v, DEP_TRIPLE_FAULT_REQUEST, 0);
		k->triple_fault = k->triple_by_user = false;
		k->guard.context_invalid = false;
		if (nested_triple_fault(k))
			return 1;
		return exit_reason(k, KVM_EXIT_SHUTDOWN);
	}
	if (req & REQ_EXIT) {
		clear_requests(v, REQ_EXIT);
		STAT_INC(k, signal_exits);
		exit_reason(k, KVM_EXIT_INTR);
		return -EINTR;
	}
	return 1;
}

/* Pages that the guest shares with us: clock, steal time, TPR shadow. */
static void update_shared(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;
	bool clock = k->clock_update || k->pvclock_tsc_offset != v->tsc_offset;

	if (!clock && !pvclock_steal_due(k) && !k->vapic)
		return;
	cpu_enter_guest(v);
	if (clock) {
		k->pvclock_tsc_offset = v->tsc_offset;
		k->clock_update = true;
		pvclock_update(k);
	}
	pvclock_steal_update(k);
	if (k->vapic)
		lapic_vapic_to_guest(v);
	cpu_leave_guest(v);
}

static void take_vapic(struct kvm_vcpu *k)
{
	if (!k->vapic)
		return;
	cpu_enter_guest(k->v);
	lapic_vapic_from_guest(k->v);
	cpu_leave_guest(k->v);
}

/*
 * The guest, or nothing at all if the vCPU is wedged: then time passes as far as the notify window, and only the host
 * gets in. A context that was declared invalid is not entered again where the manual's word counts.
 */
static enum cpu_stop run_guest_or_not(struct kvm_vcpu *k)
{
	u64 ticks = 0;

	while (k->guard.wedge) {
		enum wedge_state s = guard_wedge_look(&k->guard, &ticks);

		if (s == WEDGE_FREE)
			break;
		if (s == WEDGE_EXIT)
			return CPU_STOP_NOTIFY;
		if (k->v->request & (REQ_EXIT | REQ_KVM | REQ_TRIPLE))
			return CPU_STOP_KICK;
		if (ticks)
			vcpu_sleep(k->v, REQ_EXIT | REQ_KVM | REQ_TRIPLE,
				   ticks == ~0ull ? -1 : (s64)mul_div(ticks, 1000000000u, k->vm->clock.crystal_hz));
	}
	return cpu_run(k->v);
}

static bool refuse_entry(struct kvm_vcpu *k)
{
	if (!k->guard.context_invalid || !guard_strict(&k->vm->guard))
		return false;
	guard_depart(k->v, DEP_ENTRY_REFUSED, 0);
	k->run->fail_entry.hardware_entry_failure_reason = ENTRY_FAILED_INVALID_STATE;
	k->run->fail_entry.cpu = 0;
	exit_reason(k, KVM_EXIT_FAIL_ENTRY);
	return true;
}

static long run_loop(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;
	u32 first = REQ_KVM;
	enum cpu_stop stop;
	int r;

	v->stayed = false;
	for (;;) {
		r = serve(k, first);
		first = 0;
		if (r <= 0)
			return r;
		events_accept_init_sipi(k);
		if (k->mp_state != KVM_MP_STATE_RUNNABLE) {
			wait_runnable(k);
			continue;
		}
		if (refuse_entry(k))
			return 0;
		update_shared(k);
		k->has_run = true;
		exitstat_end(k);
		stop = run_guest_or_not(k);
		v->stayed = true; /* until the ioctl returns */
		exitstat_begin(k, stop);
		take_vapic(k);
		STAT_INC(k, exits);
		if (stop == CPU_STOP_MWAIT)
			vcpu_sleep(v, WAKE, MWAIT_NAP_NS);
		r = exit_translate(k, stop);
		if (r <= 0)
			return r;
	}
}

/* ---- entry and return ----------------------------------------------------------------------------------------- */

static int sync_in(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;
	struct kvm_sync_regs *s = &run->s.regs;

	if (run->kvm_dirty_regs & KVM_SYNC_X86_REGS) {
		const struct kvm_regs regs = s->regs;

		regs_set(k, &regs);
		run->kvm_dirty_regs &= ~(u64)KVM_SYNC_X86_REGS;
	}
	if (run->kvm_dirty_regs & KVM_SYNC_X86_SREGS) {
		const struct kvm_sregs sregs = s->sregs;

		if (sregs_set(k, &sregs))
			return -EINVAL;
		run->kvm_dirty_regs &= ~(u64)KVM_SYNC_X86_SREGS;
	}
	if (run->kvm_dirty_regs & KVM_SYNC_X86_EVENTS) {
		const struct kvm_vcpu_events events = s->events;

		if (events_set(k, &events))
			return -EINVAL;
		run->kvm_dirty_regs &= ~(u64)KVM_SYNC_X86_EVENTS;
	}
	return 0;
}

static void sync_out(struct kvm_vcpu *k)
{
	struct kvm_sync_regs *s = &k->run->s.regs;
	u64 valid = k->run->kvm_valid_regs;

	if (valid & KVM_SYNC_X86_REGS)
		regs_get(k, &s->regs);
	if (valid & KVM_SYNC_X86_SREGS)
		sregs_get(k, &s->sregs);
	if (valid & KVM_SYNC_X86_EVENTS)
		events_get(k, &s->events);
}

static bool ready_for_injection(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;

	if (irqchip_mode(&k->vm->m) == IRQCHIP_FULL)
		return true;
	return (v->rflags & FLAG_IF) && !v->shadow && !v->inj.valid && !v->pending.valid &&
	       !v->pending_db && irq_accepts_extint(v);
}

static void save_run(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;
	struct vcpu *v = k->v;

	run->if_flag = !!(v->rflags & FLAG_IF);
	run->flags = (u16)((v->smm ? KVM_RUN_X86_SMM : 0) | k->run_flags);
	k->run_flags = 0;
	run->cr8 = kvm_has_lapic(k) ? irq_read_cr8(v) : v->cr8;
	run->apic_base = v->apic_base;
	run->ready_for_interrupt_injection = ready_for_injection(k);
}

static long run_guest(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;
	bool immediate = *(volatile u8 *)&run->immediate_exit;
	long r;

	run->flags = 0;
	if (k->mp_state == KVM_MP_STATE_UNINITIALIZED)
		return run_uninitialized(k, immediate);
	if ((run->kvm_valid_regs | run->kvm_dirty_regs) & ~(u64)SYNC_FIELDS)
		return -EINVAL;
	if (run->kvm_dirty_regs) {
		r = sync_in(k);
		if (r)
			return r;
	}
	if (!kvm_has_lapic(k)) {
		if (run->cr8 & ~15ull)
			return -EINVAL;
		k->v->cr8 = run->cr8;
	}
	if (k->pending) {
		r = exit_complete(k, immediate);
		if (r <= 0)
			return r;
	}
	return immediate ? -EINTR : run_loop(k);
}

/*
 * The mask for the run: KVM_SET_SIGNAL_MASK's, or the thread's own when it blocks signals that the engine
 * itself needs. Returns whether @old is to be put back.
 */
static bool enter_mask(struct kvm_vcpu *k, u64 *old)
{
	u64 now;

	if (!k->sigset_active && !signal_self.blocks_faults)
		return false;
	/* A signal put off since the ioctl began is blocked now, and the caller's mask is the one kept then. */
	now = signal_set_mask(~0ull);
	*old = signal_self.deferred ? signal_self.mask : now;
	signal_set_mask(k->sigset_active ? k->sigset : *old);
	return true;
}

static void leave_mask(u64 old)
{
	signal_set_mask(~0ull);
	if (signal_self.deferred)
		signal_self.mask = old;
	else
		signal_put_mask(old);
}

long vcpu_run(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;
	bool masked;
	u64 old;
	long r;

	signal_adopt();
	clear_requests(v, REQ_EXIT);
	signal_self.running = v;
	atomic_signal_fence(memory_order_seq_cst);
	if (signal_self.deferred)
		vcpu_request(v, REQ_EXIT);
	masked = enter_mask(k, &old);
	r = run_guest(k);
	sync_out(k);
	save_run(k);
	departures_drain(k->vm);
	if (masked)
		leave_mask(old);
	signal_self.running = NULL;
	guard_lock_leave(v);
	lock_send_sigbus(k);
	return r;
}
