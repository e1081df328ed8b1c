/* SPDX-License-Identifier: MIT */
/*
 * Split locks and bus locks at run time. The functions down to guard_lock_pay() run inside cpu_run().
 */
#include "guard/guard.h"

#include <errno.h>

#include "base/base.h"

#define SECOND 1000000000ull

static struct guard_vcpu_lock *lock_of(const struct vcpu *v) { return &v->guard->lock; }

static u64 *ack_of(struct vcpu *v) { return &v->msr_val[MSR_SLOT_CASEMENT_SLD]; }

static bool acknowledged(const struct vcpu *v)
{
	return v->msr_val[MSR_SLOT_CASEMENT_SLD] & SLD_PV_MSR_ACK;
}

/* ---- split locks ------------------------------------------------------------------------------- */

static bool still_open(const struct vcpu *v)
{
	u64 until = atomic_load_explicit(&lock_of(v)->open, memory_order_relaxed);

	return until && (until == LOCK_OPEN || base_now_ns() < until);
}

/* With smt=on vCPUs 2n and 2n + 1 share the bit. */
static bool bit_dropped(const struct vcpu *v)
{
	const struct machine *m = v->vm;
	u32 other = v->index ^ 1;

	if (still_open(v))
		return true;
	return guard_of(v)->opt.smt == OPT_OFF_ON_ON && other < m->nvcpus && m->vcpu[other] &&
	       still_open(m->vcpu[other]);
}

/* The kernel's test for an alignment check that the guest itself asked for. */
static bool legacy_check(const struct vcpu *v)
{
	return v->cpl == 3 && (v->cr0 & CR0_AM) && (v->rflags & FLAG_AC);
}

static enum sld_guest what_guest(const struct vcpu *v)
{
	if (v->msr_val[MSR_SLOT_TEST_CTRL] & TEST_CTRL_SPLIT_LOCK)
		return SLD_AWARE;
	return lock_of(v)->told ? SLD_TURNED_OFF : SLD_UNAWARE;
}

static enum lock_answer stop(struct vcpu *v, enum lock_act act)
{
	lock_of(v)->act = act;
	v->stop = CPU_STOP_LOCK;
	return LOCK_STOP;
}

static enum lock_answer kill(struct vcpu *v, enum departure_kind kind, u32 code, u64 cause)
{
	lock_of(v)->code = code;
	guard_depart(v, kind, cause);
	return stop(v, LOCK_ACT_KILL);
}

static void drop_bit(struct vcpu *v)
{
	struct guard_vcpu_lock *l = lock_of(v);
	u64 until = LOCK_OPEN;

	if (guard_of(v)->opt.split_lock_reenable == SPLIT_LOCK_REENABLE_JIFFIES)
		until = base_now_ns() + SLD_REENABLE_NS;
	atomic_store(&l->open, until);
	guard_depart(v, DEP_SPLIT_LOCK_OPEN, v->msr_val[MSR_SLOT_TEST_CTRL]);
}

static enum lock_answer intercept(struct vcpu *v, gva_t la)
{
	struct guard_vcpu_lock *l = lock_of(v);
	int thread = base_gettid();

	if (bit_dropped(v))
		return LOCK_RUN;
	if (l->pass) {
		l->pass = false;
		drop_bit(v);
		return LOCK_RUN;
	}
	if (l->warned != thread)
		guard_depart(v, DEP_SPLIT_LOCK_WARN, la);
	l->warned = thread;
	return stop(v, LOCK_ACT_WARN);
}

static enum lock_answer give_ac(struct vcpu *v, enum sld_guest guest, gva_t la)
{
	if (guest == SLD_AWARE || acknowledged(v))
		lock_of(v)->told = true;
	else
		guard_depart(v, DEP_SPLIT_LOCK_AC, la);
	return LOCK_AC;
}

static enum lock_answer split(struct vcpu *v, gva_t la)
{
	struct guard *g = guard_of(v);
	enum sld_guest guest = what_guest(v);
	enum sld_verdict verdict = (enum sld_verdict)g->lock.verdict[guest][v->cpl == 3];

	if (verdict == SLD_R)
		return LOCK_RUN;
	if (legacy_check(v)) /* no departure: the guest asked for alignment checks; give_ac() and kill() record */
		return LOCK_AC;
	if (verdict == SLD_H)
		return intercept(v, la);
	if (verdict == SLD_G || acknowledged(v) || g->opt.split_lock_unaware == SPLIT_LOCK_UNAWARE_FORWARD)
		return give_ac(v, guest, la);
	return kill(v, DEP_SPLIT_LOCK_KILL, guest == SLD_TURNED_OFF ? LOCK_KILL_TURNED_OFF : LOCK_KILL_UNAWARE, la);
}

enum lock_answer guard_lock(struct vcpu *v, enum lock_kind kind, gva_t la, u32 size)
{
	enum lock_answer a = kind == LOCK_UC ? cpu_lock_detect(v, kind) : split(v, la);

	if (a == LOCK_RUN && kind == LOCK_SPLIT)
		lock_of(v)->splits++;
	return a;
}

/* ---- the guest's own bit ---------------------------------------------------------------------------- */

bool guard_test_ctrl(struct vcpu *v, u64 val)
{
	bool on = val & TEST_CTRL_SPLIT_LOCK;

	/* Whoever acknowledged that detection is forced on is told that it cannot turn it off. */
	if (!on && acknowledged(v))
		return false;
	if (on)
		lock_of(v)->told = false;
	return true;
}

u64 guard_test_ctrl_read(const struct vcpu *v)
{
	return v->msr_val[MSR_SLOT_TEST_CTRL] | (acknowledged(v) ? TEST_CTRL_SPLIT_LOCK : 0);
}

int guard_sld_rdmsr(struct vcpu *v, u64 *val)
{
	if (!guard_of(v)->lock.forced)
		return -EINVAL;
	*val = SLD_PV_MSR_FORCED | *ack_of(v);
	return 0;
}

int guard_sld_wrmsr(struct vcpu *v, u64 val, bool host)
{
	if (!guard_of(v)->lock.forced || (val & ~(SLD_PV_MSR_FORCED | SLD_PV_MSR_ACK)))
		return -EINVAL;
	if (host)
		*ack_of(v) = val & SLD_PV_MSR_ACK;
	else
		*ack_of(v) |= val & SLD_PV_MSR_ACK;
	return 0;
}

/* ---- bus locks ------------------------------------------------------------------------------------------ */

/* One more: 0, or until when it has to wait. */
static u64 over_limit(struct lock_limit *l, u32 per_second, bool *first)
{
	u64 now = base_now_ns(), until = 0;

	lock_take(&l->lock);
	if (now - l->since >= SECOND) {
		l->since = now;
		l->n = 0;
	}
	if (++l->n > per_second)
		until = l->since + SECOND;
	*first = l->n == per_second + 1;
	lock_drop(&l->lock);
	return until;
}

static bool throttle(struct vcpu *v, u32 per_second)
{
	struct guard_vcpu_lock *l = lock_of(v);
	bool first;

	l->until = over_limit(&guard_of(v)->lock.limit, per_second, &first);
	if (!l->until)
		return false;
	if (first)
		guard_depart(v, DEP_BUS_LOCK_LIMIT, per_second);
	l->act = LOCK_ACT_THROTTLE;
	return true;
}

bool guard_bus_locked(struct vcpu *v)
{
	struct guard *g = guard_of(v);
	const struct guard_opts *o = &g->opt;
	bool want = atomic_load_explicit(&g->lock.exit, memory_order_relaxed);

	if (want || o->bus_lock != BUS_LOCK_OFF)
		lock_of(v)->buses++;
	if (o->split_lock == SPLIT_LOCK_RATELIMIT && o->split_lock_throttle == OPT_OFF_ON_ON)
		want |= throttle(v, o->split_lock_n);
	if (o->bus_lock == BUS_LOCK_RATELIMIT)
		want |= throttle(v, o->bus_lock_n);
	if (o->bus_lock == BUS_LOCK_KILL) {
		lock_of(v)->code = LOCK_KILL_BUS;
		lock_of(v)->act = LOCK_ACT_KILL;
		guard_depart(v, DEP_BUS_LOCK_KILL, lock_of(v)->buses);
		want = true;
	}
	return want;
}

/* ---- outside cpu_run() -------------------------------------------------------------------------------------- */

/* Sleep, or until a signal: false. */
static bool nap(struct vcpu *v, u64 ns)
{
	return vcpu_sleep(v, REQ_EXIT, (s64)ns) == -ETIMEDOUT;
}

/* One core at a time runs with its bit dropped, two jiffies each. */
static bool take_turn(struct vcpu *v)
{
	_Atomic u64 *turn = &guard_of(v)->lock.turn;

	for (;;) {
		u64 until = atomic_load(turn), now = base_now_ns();

		if (now >= until) {
			if (atomic_compare_exchange_strong(turn, &until, now + SLD_REENABLE_NS))
				return true;
		} else if (!nap(v, until - now)) {
			return false;
		}
	}
}

void guard_lock_pay(struct vcpu *v)
{
	const struct guard_opts *o = &guard_of(v)->opt;
	bool paid = true;

	if (o->split_lock_mitigate == OPT_ON_OFF_ON)
		paid = nap(v, SLD_MISERY_NS) && take_turn(v);
	lock_of(v)->pass = paid || o->split_lock_signal == SPLIT_LOCK_SIGNAL_PROGRESS;
}

void guard_lock_leave(struct vcpu *v)
{
	struct guard_vcpu_lock *l = lock_of(v);

	if (l->open == LOCK_OPEN && guard_of(v)->opt.split_lock_reenable == SPLIT_LOCK_REENABLE_EXIT)
		atomic_store(&l->open, 0);
}

enum lock_answer guard_hardware_ac(struct vcpu *v)
{
	u32 mode = guard_of(v)->opt.split_lock;

	/* no departure: whoever injects the #AC records it, and kill() the end */
	if (mode == SPLIT_LOCK_NONE || legacy_check(v))
		return LOCK_AC;
	if (mode == SPLIT_LOCK_WARN)
		return LOCK_RUN;
	kill(v, DEP_SPLIT_LOCK_KILL, LOCK_KILL_UNAWARE, v->rip);
	return LOCK_STOP;
}
