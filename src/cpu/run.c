/* SPDX-License-Identifier: MIT */
/*
 * cpu_run(): the processor's main loop.
 *
 * Between two traces lies an instruction boundary. There, and only there, requests are served and
 * events are taken, in the order of [SDM3A "Prioritization of Concurrent Events"]. Inside a trace the
 * records call each other; nobody looks at anything.
 */
#include "cpu/cpu.h"
#include "base/base.h"
#include "cpu/native.h"
#include "cpu/op/op.h"
#include "cpu/rcache.h"
#include "cpu/smm.h"
#include "cpu/vmx/vmx.h"

/* ---- leaving a trace ------------------------------------------------------------------------ */

/* v->cur left the trace with res: make v->rip and v->icount say where we are. */
static void settle(struct vcpu *v, int res)
{
	const struct insn *i = v->cur;

	v->insn_rip = cpu_insn_rip(v, i);
	if (unlikely(v->mmio.n) && res != OP_STOP)
		mmio_done(v);
	v->icount += i->seq;
	switch (res) {
	case OP_NEXT: /* the record that ends a trace: it is no instruction */
		v->rip = v->insn_rip;
		break;
	case OP_JUMP:
		v->icount++;
		break;
	case OP_END:
		v->icount++;
		v->rip = cpu_next_rip(v, i);
		break;
	case OP_AGAIN: /* between two iterations of a repeated instruction an interrupt can be taken */
		cpu_window(v);
		v->rip = v->insn_rip;
		break;
	default:
		v->rip = v->insn_rip;
		break;
	}
	if (v->csz != 8)
		v->rip = (u32)v->rip;
}

/* ---- events at a boundary --------------------------------------------------------------------- */

/* What keeps memory and code true; served before the first instruction too. */
static void serve_memory(struct vcpu *v)
{
	u32 req;

	if (v->request & REQ_PAUSE)
		cpu_pause_point(v);
	/* Not before: a pause ends with more requests posted. */
	req = atomic_load_explicit(&v->request, memory_order_acquire);
	if (req & REQ_INSN)
		atomic_fetch_and(&v->request, ~(u32)REQ_INSN);
	if (req & REQ_TLB) {
		atomic_fetch_and(&v->request, ~(u32)REQ_TLB);
		mmu_flush_contexts(v);
		vcpu_reverify(v);
	}
	if (req & REQ_FETCH) {
		atomic_fetch_and(&v->request, ~(u32)REQ_FETCH);
		vcpu_reverify(v);
	}
	if (req & REQ_CODE) {
		atomic_fetch_and(&v->request, ~(u32)REQ_CODE);
		rcache_drain(v);
	}
}

static bool serve_requests(struct vcpu *v)
{
	serve_memory(v);
	if (atomic_load_explicit(&v->request, memory_order_acquire) & ~(u32)(REQ_OWNER - 1)) {
		v->stop = CPU_STOP_KICK;
		return false;
	}
	return true;
}

static void queue_event(struct vcpu *v, u8 vector, u8 type)
{
	v->inj = (struct event){ .valid = true, .vector = vector, .type = type };
	cpu_window(v);
}

static bool take_nmi(struct vcpu *v)
{
	if (!v->nmi_pending || v->nmi_masked || v->shadow || (v->nonroot && (v->vmx->c.pin & PIN_NMI)))
		return false;
	v->nmi_pending = v->nmi_count > 0;
	v->nmi_count = 0;
	v->nmi_masked = true;
	queue_event(v, EXC_NMI, EVENT_NMI);
	return true;
}

static bool take_interrupt(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;
	int vector;

	if (v->nonroot) {
		vector = vmx_virtual_intr(v);
		if (vector >= 0) {
			queue_event(v, (u8)vector, EVENT_INTR);
			v->inj.sure = true;
			return true;
		}
		if (vmx_takes_intr(v))
			return false;
	}
	if (!(v->rflags & FLAG_IF) || v->shadow || bus->intr_pending(v) < 0)
		return false;
	vector = bus->intr_ack(v);
	if (vector < 0)
		return false;
	queue_event(v, (u8)vector, EVENT_INTR);
	return true;
}

enum choice { CHOICE_NONE, CHOICE_EVENT, CHOICE_EXIT };

/* SMI (taken at once: it uses no table), NMI and interrupts, and what L1 wants to be told before them. */
static enum choice choose_external(struct vcpu *v)
{
	if (v->request & REQ_EVENT)
		atomic_fetch_and(&v->request, ~(u32)REQ_EVENT);
	else if (!v->entered)
		return CHOICE_NONE;
	v->entered = false;
	/* The debugger outside wants none; it sets this, and clears it, while the vCPU is not running. */
	if (v->guest_debug & GUESTDBG_BLOCKIRQ)
		return CHOICE_NONE;
	if (v->smi_pending && !v->smm && !v->shadow)
		smm_enter(v);
	if (unlikely(v->nonroot) && (vmx_boundary(v) || (!v->shadow && vmx_wants_intr(v))))
		return CHOICE_EXIT;
	if (take_nmi(v) || take_interrupt(v)) {
		/* more may be waiting behind this one */
		atomic_fetch_or(&v->request, REQ_EVENT);
		return CHOICE_EVENT;
	}
	/* Blocked by the shadow of one instruction only: look again right after it. */
	if (v->shadow)
		atomic_fetch_or(&v->request, REQ_EVENT);
	return CHOICE_NONE;
}

/* Shutdown and wait-for-SIPI of L2, where few events are not blocked [SDM3C "Activity State"]. */
static enum choice choose_inactive(struct vcpu *v)
{
	atomic_fetch_and(&v->request, ~(u32)REQ_EVENT);
	if (v->vmx->activity == ACTIVITY_SIPI)
		return CHOICE_NONE;
	if (v->smi_pending && !v->smm) {
		smm_enter(v);
		return CHOICE_NONE;
	}
	if (vmx_boundary(v))
		return CHOICE_EXIT;
	return take_nmi(v) ? CHOICE_EVENT : CHOICE_NONE;
}

/*
 * Put the event to take at this boundary into v->inj. An event whose delivery was interrupted comes
 * first, then traps of the instruction just retired, then exceptions user space made pending, then
 * NMI, then interrupts. CHOICE_EXIT: L2 has left for L1 instead.
 */
static enum choice choose_event(struct vcpu *v)
{
	if (unlikely(v->vmx->recheck) && vmx_recheck(v))
		return CHOICE_EXIT;
	if (unlikely(v->nonroot) && v->vmx->activity >= ACTIVITY_SHUTDOWN)
		return choose_inactive(v);
	if (v->inj.valid)
		return CHOICE_EVENT;
	if (unlikely(v->nonroot) && vmx_boundary_first(v))
		return CHOICE_EXIT;
	if (v->pending_db && !(v->shadow & SHADOW_MOV_SS)) {
		v->inj = (struct event){ .valid = true, .vector = EXC_DB, .type = EVENT_HARD_EXC,
					 .has_payload = true, .payload = v->pending_db };
		v->pending_db = 0;
		return CHOICE_EVENT;
	}
	if (v->pending.valid) {
		v->inj = v->pending;
		v->pending.valid = false;
		return CHOICE_EVENT;
	}
	return choose_external(v);
}

static bool window_open(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;

	return (v->rflags & FLAG_IF) && !v->shadow && !v->inj.valid && bus->intr_window_wanted &&
	       bus->intr_window_wanted(v);
}

/* Everything that happens between two instructions. False: v->stop is set. */
static bool boundary(struct vcpu *v)
{
	for (;;) {
		enum choice c;

		if (unlikely(v->bus_lock) && cpu_bus_lock_boundary(v))
			return false;
		if (!serve_requests(v))
			return false;
		c = choose_event(v);
		if (c == CHOICE_NONE)
			break;
		if (c == CHOICE_EXIT) {
			if (v->stop != CPU_RUN)
				return false;
			continue;
		}
		if (v->inj.type == EVENT_INTR || v->inj.type == EVENT_NMI)
			cpu_serialize(v);
		if (cpu_deliver(v) == OP_STOP)
			return false;
		if (v->stop != CPU_RUN)
			return false;
	}
	if (window_open(v)) {
		v->stop = CPU_STOP_IRQ_WINDOW;
		return false;
	}
	if (unlikely(v->nonroot)) {
		if (v->vmx->activity >= ACTIVITY_SHUTDOWN) {
			v->stop = v->vmx->activity == ACTIVITY_SIPI ? CPU_STOP_INIT : CPU_STOP_HLT;
			return false;
		}
		v->vmx->activity = ACTIVITY_ACTIVE;
		v->vmx->run_pending = false;
	}
	return true;
}

/*
 * Translated code counts no instructions, and whether one retired since a delivery decides whether a window has
 * opened: the first one after it is run by itself.
 */
static inline bool must_count(const struct vcpu *v)
{
	return v->tr && v->deliver_icount == v->icount;
}

/* ---- the loop --------------------------------------------------------------------------------- */

static int find(struct vcpu *v, const struct insn **rec)
{
	u64 lin = cpu_lin_rip(v);
	const struct jentry *j = jcache_find(v, lin, v->mode_key);

	if (likely(j)) {
		*rec = j->rec;
		return OP_NEXT;
	}
	return rcache_find(v, lin, rec);
}

/*
 * Parity: an access that the guest's page tables send beyond the guest's MAXPHYADDR, but not beyond the
 * host's, does not fault by itself under KVM, which emulates the instruction to find out; and its
 * emulator knows no x87 arithmetic. User space that asked to see emulation fail sees it here too.
 * [api.rst KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_SMALLER_MAXPHYADDR]
 */
static bool emulation_fails(struct vcpu *v)
{
	const struct event *e = &v->exc;
	u8 max = v->maxphyaddr;
	bool mapped;
	gpa_t gpa;

	if (e->vector != EXC_PF || !(e->error & PFERR_RSVD) || (e->error & PFERR_ID) ||
	    insn_rows[v->cur->id].feature != FEAT_FPU)
		return false;
	v->maxphyaddr = 52;
	mapped = mmu_translate(v, e->payload, 0, &gpa);
	v->maxphyaddr = max;
	return mapped;
}

/* An exception of the instruction at v->rip, recorded in v->exc: deliver it at the boundary. */
static void queue_exception(struct vcpu *v)
{
	if (unlikely(v->exc.type == EVENT_VMEXIT)) {
		v->exc.valid = false;
		vmx_take_exit(v, NULL);
		return;
	}
	if (unlikely(v->vm->emulation_exits) && emulation_fails(v)) {
		v->exc.valid = false;
		cpu_internal(v, INTERNAL_ENGINE);
		return;
	}
	v->inj = v->exc;
	v->exc.valid = false;
}

/* The instruction waits for an answer from outside and is then run again. */
static void stopped(struct vcpu *v, u8 shadow)
{
	v->shadow = shadow;
	v->replay = v->stop == CPU_STOP_PIO || v->stop == CPU_STOP_MMIO || v->stop == CPU_STOP_RDMSR ||
		    v->stop == CPU_STOP_WRMSR || v->stop == CPU_STOP_HYPERCALL;
	v->replay_rip = v->rip;
}

/* again: the instruction was begun before and its breakpoints have been looked at. */
static bool step(struct vcpu *v, bool again)
{
	const struct insn *rec;
	u64 was_if = v->rflags & FLAG_IF, held = v->pending_db;
	u8 shadow = v->shadow;
	int res = again ? OP_NEXT : debug_check_exec(v);

	if (res == OP_NEXT)
		res = find(v, &rec);
	if (res != OP_NEXT) {
		v->insn_rip = v->rip;
		if (res == OP_EXC)
			queue_exception(v);
		return res == OP_EXC && v->stop == CPU_RUN;
	}
	v->shadow_now = shadow;
	v->shadow = 0;
	v->page_rip = v->rip - rec->off;
	res = native_step(v, rec); /* so that shadows, TF and breakpoints are looked at after it */
	settle(v, res);
	if ((v->rflags & FLAG_IF) & ~was_if)
		atomic_fetch_or(&v->request, REQ_EVENT);
	v->shadow_now = 0;
	if (res == OP_STOP) {
		stopped(v, shadow);
	} else if (res == OP_EXC) {
		v->pending_db = held; /* breakpoints trap after what is completed */
		v->shadow = shadow; /* what an exit to L1 saves; delivery ends it */
		queue_exception(v);
	} else {
		debug_after_insn(v, res == OP_AGAIN);
	}
	return v->stop == CPU_RUN && res != OP_STOP;
}

bool cpu_step_shadow(struct vcpu *v)
{
	return step(v, false) && !v->inj.valid;
}

/* Run traces until something must be looked at. False: v->stop is set. */
static bool run_traces(struct vcpu *v)
{
	const struct insn *rec;
	int res;

	do {
		u64 was_if = v->rflags & FLAG_IF;

		res = find(v, &rec);
		if (unlikely(res != OP_NEXT)) {
			v->insn_rip = v->rip;
			break;
		}
		v->page_rip = v->rip - rec->off;
		res = unlikely(v->tr && v->tr->run) ? v->tr->run(v, rec) : native_run(v, rec);
		settle(v, res);
		if (unlikely((v->rflags & FLAG_IF) & ~was_if))
			atomic_fetch_or(&v->request, REQ_EVENT);
		/* Translated code may have run an instruction that stops, such as HLT behind STI, on its way. */
	} while (likely(res <= OP_JUMP && !v->request && v->stop == CPU_RUN && !cpu_must_step(v)));
	if (res == OP_EXC)
		queue_exception(v);
	else if (res == OP_STOP)
		stopped(v, v->shadow);
	return v->stop == CPU_RUN && res != OP_STOP;
}

/* IN and OUT need only their answer, not to be found and run again. */
static bool complete_io(struct vcpu *v)
{
	v->insn_rip = v->rip;
	v->rip = v->csz == 8 ? v->pio.next : (u32)v->pio.next;
	v->shadow = 0;
	v->icount++;
	if (unlikely(v->mmio.n))
		mmio_done(v);
	debug_after_insn(v, false);
	return v->stop == CPU_RUN;
}

/* The stopped instruction was not retired: nothing may be taken before it has finished. */
static bool complete(struct vcpu *v)
{
	bool wanted = v->replay && v->rip == v->replay_rip;

	v->replay = false;
	if (!wanted) {
		v->pio.active = v->msr.done = v->hypercall.done = false;
		mmio_reset(v);
	}
	if (wanted && op_io_complete(v))
		return complete_io(v);
	return wanted ? step(v, true) : true;
}

/*
 * A kick in the middle of a delivery is the engine's doing, not a window of the guest's: the interval goes on
 * after it, without the time spent outside. Any other stop is a VM exit.
 */
static void interval_hold(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;

	if (v->stop == CPU_STOP_KICK && v->deliver_icount == v->icount) {
		if (v->deliver_start)
			v->deliver_start = bus->crystal(v) - v->deliver_start;
	} else {
		cpu_window(v);
	}
}

static void interval_resume(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;

	if (v->deliver_start)
		v->deliver_start = bus->crystal(v) - v->deliver_start;
}

static void enter(struct vcpu *v)
{
	interval_resume(v);
	if (v->slept_since) {
		v->asleep += base_rdtsc() - v->slept_since;
		v->slept_since = 0;
	}
	v->stop = CPU_RUN;
	if (!v->mmio.replay)
		mmio_reset(v); /* the writes it held have been handed out */
	cpu_enter_guest(v);
	if (v->tr)
		v->tr->enter(v);
	serve_memory(v);
	if (!v->stayed) { /* user space may have written code, the others' too */
		if (v->vm->nvcpus > 1)
			v->outside_seen = atomic_fetch_add(&v->vm->outside, 1) + 1;
		vcpu_reverify(v);
	}
	v->stayed = false;
}

static enum cpu_stop leave(struct vcpu *v)
{
	cpu_fp_spill(v);
	interval_hold(v);
	if (v->stop == CPU_STOP_HLT || v->stop == CPU_STOP_MWAIT)
		rcache_rest(v);
	if (v->tr)
		v->tr->leave(v);
	cpu_leave_guest(v);
	return v->stop;
}

enum cpu_stop cpu_complete(struct vcpu *v)
{
	if (!v->replay)
		return CPU_RUN;
	enter(v);
	complete(v);
	return leave(v);
}

enum cpu_stop cpu_run(struct vcpu *v)
{
	bool go;

	enter(v);
	v->entered = true;
	go = complete(v);
	while (go && boundary(v))
		go = cpu_must_step(v) || must_count(v) ? step(v, false) : run_traces(v);
	if (v->stop == CPU_RUN)
		cpu_internal(v, INTERNAL_ENGINE);
	return leave(v);
}
