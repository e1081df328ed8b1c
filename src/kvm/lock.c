/* SPDX-License-Identifier: MIT */
/*
 * Split and bus locks as user space sees them: exits, flags, SIGBUS, CPUID.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "kvm/sig.h"
#include "kvm/sys.h"

/* ---- cpu_bus ------------------------------------------------------------------------------------------ */

enum lock_answer lock_bus_ask(struct vcpu *v, enum lock_kind kind, gva_t la, u32 size)
{
	enum lock_answer a = guard_lock(v, kind, la, size);

	kvm_of(v)->stat->split_locks[0] = v->guard->lock.splits;
	return a;
}

bool lock_bus_done(struct vcpu *v)
{
	bool stop = guard_bus_locked(v);

	kvm_of(v)->stat->bus_locks[0] = v->guard->lock.buses;
	return stop;
}

/* ---- exits ---------------------------------------------------------------------------------------------- */

static int exit_killed(struct kvm_vcpu *k)
{
	/* no departure: recorded where it was decided, src/guard/lock.c */
	if (k->vm->guard.opt.split_lock_kill == SPLIT_LOCK_KILL_EFAULT)
		return -EFAULT;
	memset(&k->run->ex, 0, sizeof(k->run->ex));
	k->run->exit_reason = KVM_EXIT_EXCEPTION;
	k->run->ex.exception = EXC_AC;
	k->run->ex.error_code = k->guard.lock.code;
	k->sigbus = true;
	return 0;
}

int exit_lock(struct kvm_vcpu *k)
{
	struct guard_vcpu_lock *l = &k->guard.lock;
	enum lock_act act = l->act;

	l->act = LOCK_ACT_NONE;
	if (act == LOCK_ACT_KILL)
		return exit_killed(k);
	guard_lock_pay(k->v);
	return 1;
}

int exit_bus_lock(struct kvm_vcpu *k)
{
	struct guard_vcpu_lock *l = &k->guard.lock;
	enum lock_act act = l->act;
	u64 now;

	l->act = LOCK_ACT_NONE;
	if (act == LOCK_ACT_KILL)
		return exit_killed(k);
	if (act == LOCK_ACT_THROTTLE) {
		now = base_now_ns();
		if (now < l->until)
			vcpu_sleep(k->v, REQ_EXIT, (s64)(l->until - now));
	}
	if (!k->vm->guard.lock.exit)
		return 1;
	k->run_flags |= KVM_RUN_X86_BUS_LOCK;
	return 0;
}

/* Has the instruction that makes this exit performed a bus lock that somebody wants to know of? */
bool exit_note_bus_lock(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;

	if (!(v->bus_lock & BUS_LOCK_DONE))
		return false;
	v->bus_lock &= (u8)~BUS_LOCK_DONE;
	return lock_bus_done(v);
}

/* Then the flag says so, and an exit that user space need not see becomes a bus-lock exit. */
int exit_add_bus_lock(struct kvm_vcpu *k, int r)
{
	bool killed = k->guard.lock.act == LOCK_ACT_KILL;
	int res = exit_bus_lock(k);

	if (killed)
		return res;
	if (!res && r == 1) {
		k->run->exit_reason = KVM_EXIT_X86_BUS_LOCK;
		return 0;
	}
	return r;
}

/* ---- fault injection: the hardware says #AC ----------------------------------------------------------------- */

int lock_serve_ac(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;

	if (!atomic_exchange(&k->guard.lock.inject_ac, false))
		return 1;
	guard_depart(v, DEP_INJECT_AC, 0);
	switch (guard_hardware_ac(v)) {
	case LOCK_AC:
		v->pending = (struct event){ .valid = true, .vector = EXC_AC, .type = EVENT_HARD_EXC,
					     .has_error = cpu_prot(v) };
		return 1;
	case LOCK_STOP:
		return exit_translate(k, CPU_STOP_LOCK);
	default:
		return 1;
	}
}

/* ---- returning ----------------------------------------------------------------------------------------------- */

/* As the kernel's force_sig_fault(): for this thread, at an address nobody knows. */
void lock_send_sigbus(struct kvm_vcpu *k)
{
	siginfo_t info;

	if (!k->sigbus)
		return;
	k->sigbus = false;
	memset(&info, 0, sizeof(info));
	info.si_signo = SIGBUS;
	info.si_code = BUS_ADRALN;
	signal_resend(SIGBUS, &info);
}

long lock_check_cap(const struct kvm_vm *vm)
{
	struct guard_opts o;

	if (vm)
		o.bus_lock_detect = vm->guard.opt.bus_lock_detect;
	else
		options_copy(&o);
	return o.bus_lock_detect == OPT_ON_OFF_ON ? KVM_BUS_LOCK_DETECTION_OFF | KVM_BUS_LOCK_DETECTION_EXIT : 0;
}

long lock_enable_cap(struct kvm_vm *vm, u64 mode)
{
	if (mode & ~(u64)(KVM_BUS_LOCK_DETECTION_OFF | KVM_BUS_LOCK_DETECTION_EXIT) ||
	    mode == (KVM_BUS_LOCK_DETECTION_OFF | KVM_BUS_LOCK_DETECTION_EXIT))
		return -EINVAL;
	/* As in the kernel, nothing turns it off again, and nothing happens on a processor without detection. */
	if ((mode & KVM_BUS_LOCK_DETECTION_EXIT) && lock_check_cap(vm)) {
		vm->guard.lock.exit = true;
		vm->m.nested.bus_lock_bit = !guard_strict(&vm->guard);
	}
	return 0;
}

/* ---- CPUID ---------------------------------------------------------------------------------------------------- */

static bool hidden(const struct cpuid_entry *e)
{
	return e->function >> 28 == 4;
}

/* What the options make of KVM_GET_SUPPORTED_CPUID: n of max entries used; returns the new n. */
u32 lock_cpuid(struct cpuid_entry *e, u32 n, u32 max)
{
	struct guard_opts o;
	u32 kept = 0;

	options_copy(&o);
	for (u32 i = 0; i < n && i < max; i++) {
		if (e[i].function == 1 && o.hypervisor_bit == OPT_ON_OFF_OFF)
			e[i].ecx &= ~(1u << 31);
		if (e[i].function == 7 && e[i].index == 0 && sld_offered(&o))
			e[i].edx |= 1u << 30;
		if (e[i].function == 7 && e[i].index == 0 && o.bus_lock_detect == OPT_ON_OFF_OFF)
			e[i].ecx &= ~(1u << 24);
		if (o.hypervisor_bit == OPT_ON_OFF_OFF && hidden(&e[i]))
			continue;
		e[kept++] = e[i];
	}
	if (n > max)
		return n;
	if (sld_forced(&o) && kept + 2 <= max) {
		e[kept] = (struct cpuid_entry){ .function = SLD_PV_LEAF, .eax = SLD_PV_FEATURES };
		memcpy(&e[kept].ebx, "CasementCase", 12);
		e[kept + 1] = (struct cpuid_entry){ .function = SLD_PV_FEATURES, .eax = SLD_PV_FORCED_ON };
		kept += 2;
	} else if (sld_forced(&o)) {
		kept += 2;
	}
	return kept;
}
