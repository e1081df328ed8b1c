/* SPDX-License-Identifier: MIT */
/*
 * Split locks and bus locks: what the host that the guest believes to run on does about them. Part of guard.h.
 */
#pragma once
#include "cpu/cpu.h"
#include "guard/opts.h"

struct guard;
struct guard_vcpu;

/* The letters of spec/sld.def. */
enum sld_verdict { SLD_N, SLD_R, SLD_G, SLD_H, SLD_K };
/* What the host knows about the guest. */
enum sld_guest { SLD_UNAWARE, SLD_AWARE, SLD_TURNED_OFF, SLD_GUESTS };

/* Why the vCPU stopped. */
enum lock_act { LOCK_ACT_NONE, LOCK_ACT_WARN, LOCK_ACT_KILL, LOCK_ACT_THROTTLE };
/* kvm_run.ex.error_code of KVM_EXIT_EXCEPTION for a killed vCPU. */
enum lock_kill_code {
	LOCK_KILL_UNAWARE = 0,
	LOCK_KILL_TURNED_OFF = 1,	/* it had been given #AC, turned its bit off and did it again */
	LOCK_KILL_BUS = 2,		/* bus-lock=kill */
};

#define SLD_REENABLE_NS 8000000u	/* two jiffies of a 250 Hz host */
#define SLD_MISERY_NS 10000000u

/* The paravirtual contract: doc/design/locks.md. */
#define SLD_PV_LEAF 0x40000100u		/* EAX: highest leaf; EBX ECX EDX: "CasementCase" */
#define SLD_PV_FEATURES 0x40000101u	/* EAX */
#define SLD_PV_FORCED_ON BIT(0)
#define SLD_PV_MSR 0x43534d00u
#define SLD_PV_MSR_FORCED BIT(0)
#define SLD_PV_MSR_ACK BIT(1)

/**
 * struct lock_limit - so many a second
 * @lock: guards the rest
 * @since: begin of the slice, nanoseconds
 * @n: bus locks in it
 */
struct lock_limit {
	_Atomic u32 lock;
	u32 n;
	u64 since;
};

/**
 * struct guard_lock - a VM's part
 * @offered: the guest may use split-lock detection
 * @forced: detection is forced on, and the guest is told
 * @verdict: by what is known about the guest and whether CPL is 3
 * @turn: until when (nanoseconds) one core may run with its bit dropped while others wait
 * @exit: KVM_CAP_X86_BUS_LOCK_EXIT is on
 */
struct guard_lock {
	bool offered, forced;
	u8 verdict[SLD_GUESTS][2];
	_Atomic u64 turn;
	struct lock_limit limit;
	_Atomic bool exit;
};

/**
 * struct guard_vcpu_lock - a vCPU's part
 * @open: detection is off while the vCPU runs: 0 it is on, LOCK_OPEN until KVM_RUN returns, else until then (ns)
 * @told: #AC was given while the guest's own bit was on
 * @pass: the price has been paid: the next split lock opens
 * @warned: this thread's id, so that it is warned about once
 * @act, @code, @until: what the vCPU stopped for
 * @inject_ac: fault injection: the hardware raises #AC
 * @splits, @buses: performed so far
 */
struct guard_vcpu_lock {
	_Atomic u64 open;
	bool told, pass;
	int warned;
	enum lock_act act;
	u32 code;
	u64 until;
	_Atomic bool inject_ac;
	u64 splits, buses;
};
#define LOCK_OPEN (~0ull)

/* ---- decisions (sld.c) ------------------------------------------------------------------------- */

/* Is split-lock detection there for a guest under these options, and is it forced on? */
bool sld_offered(const struct guard_opts *o);
bool sld_forced(const struct guard_opts *o);
/* Fill l from the options. */
void guard_lock_init(struct guard_lock *l, const struct guard_opts *o);

/* ---- the processor's questions (lock.c) ---------------------------------------------------------- */

/* cpu_bus.lock, .bus_locked, .test_ctrl */
enum lock_answer guard_lock(struct vcpu *v, enum lock_kind kind, gva_t la, u32 size);
bool guard_bus_locked(struct vcpu *v);
bool guard_test_ctrl(struct vcpu *v, u64 val);
/* The paravirtual MSR: 0 or -EINVAL. */
int guard_sld_rdmsr(struct vcpu *v, u64 *val);
int guard_sld_wrmsr(struct vcpu *v, u64 val, bool host);
/* MSR_TEST_CTRL as the guest reads it. */
u64 guard_test_ctrl_read(const struct vcpu *v);

/**
 * guard_lock_pay() - the host's part of "warn": be slow, one core at a time, then drop the bit
 *
 * On the vCPU's thread outside cpu_run(). A signal ends the wait early; the guest goes on all the same, unless
 * split-lock-signal=retry asks for the kernel's behaviour.
 */
void guard_lock_pay(struct vcpu *v);
/* KVM_RUN returns: the bit is back. */
void guard_lock_leave(struct vcpu *v);

/**
 * guard_hardware_ac() - an #AC that no split lock of ours caused (fault injection)
 *
 * Return: LOCK_AC inject it into the guest; LOCK_RUN the host swallows it; LOCK_STOP the vCPU is killed.
 */
enum lock_answer guard_hardware_ac(struct vcpu *v);
