/* SPDX-License-Identifier: MIT */
/*
 * Signals and the engine (design rule 4): no handler of the caller runs while a thread is in here.
 *
 * Our trampoline is installed in place of every handler. While the thread's depth is non-zero it blocks the
 * signal in the interrupted context, queues it to the thread again with its siginfo and stops the vCPU;
 * signal_leave() restores the mask and the kernel delivers it then. SIGSEGV, SIGBUS, SIGFPE, SIGILL and
 * SIGTRAP go to native_fault() and mem_fixup() first and are chained when neither knows the PC.
 */
#pragma once
#include <signal.h>
#include <stdatomic.h>
#include <ucontext.h>

#include "base/types.h"

struct vcpu;

/**
 * struct signal_thread - what the trampoline must know of its thread
 * @depth: nested engine calls
 * @running: the vCPU inside cpu_run(), asked to leave when a signal is put off
 * @deferred: a signal was put off: @mask is to be restored
 * @adopted: this thread has looked for handlers installed around us
 * @blocks_faults: it blocks signals the engine needs: KVM_RUN must unblock them
 */
struct signal_thread {
	u32 depth;
	bool deferred, adopted, blocks_faults;
	struct vcpu *running;
	u64 mask;
};
extern _Thread_local struct signal_thread signal_self __attribute__((tls_model("initial-exec")));

void signal_restore(void);

static inline void signal_enter(void)
{
	signal_self.depth++;
	atomic_signal_fence(memory_order_seq_cst);
}

static inline void signal_leave(void)
{
	atomic_signal_fence(memory_order_seq_cst);
	if (--signal_self.depth == 0 && signal_self.deferred)
		signal_restore();
}

/* First use of the engine in this process: take the fault signals, adopt the handlers there are. */
void signal_start(void);
/* Adopt handlers installed by plain sigaction(2) since; cheap after a thread's first call. */
void signal_adopt(void);
/* Send this thread a signal, with what came or would have come with it. */
void signal_resend(int sig, const siginfo_t *si);
/* Send this thread a signal that its handler gets when it leaves the engine. */
void signal_queue(siginfo_t *si);
/* Asked first about every illegal instruction; true: it has moved the program counter on. */
void signal_hook_illegal(bool (*fn)(ucontext_t *uc));
/*
 * Somebody else owns the dispositions of this process: before anything else is started. His handlers call
 * signal_take() first; @install is asked for one when KVM_SET_SIGNAL_MASK needs it. Signals are off then.
 */
void signal_delegate(void (*install)(int sig));
/* The engine's part of a handler: true if the signal was a fault of its own, or has been put off. */
bool signal_take(int sig, siginfo_t *si, ucontext_t *uc);
/* sigaction(2) as the caller sees it. 0 or -errno. */
int signal_action(int sig, const struct sigaction *act, struct sigaction *old);
/* KVM_SET_SIGNAL_MASK will let sigs arrive that the thread blocks: they must not kill the process. */
void signal_catch_unblocked(u64 sigset);
/* rt_sigprocmask(SIG_SETMASK) with the engine's own signals left open; returns the old mask. */
u64 signal_set_mask(u64 mask);
/* The same, exactly. */
void signal_put_mask(u64 mask);
