/* SPDX-License-Identifier: MIT */
#include "kvm/sig.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/base.h"
#include "cpu/cpu.h"
#include "cpu/native.h"
#include "kvm/sys.h"

#define NSIG_ALL 65
#define SIG_CANCEL 32	/* glibc's; must not unwind out of the engine */
#define SIG_SETXID 33	/* glibc's; harmless anywhere */
#define KERNEL_SA_RESTORER 0x04000000ul

/* What rt_sigaction(2) takes. */
struct kernel_action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	u64 mask;
};

/* The caller's disposition of a signal whose handler in the kernel is one of ours. */
struct disposition {
	bool ours;
	struct kernel_action act;
};

_Thread_local struct signal_thread signal_self __attribute__((tls_model("initial-exec")));
static struct disposition user[NSIG_ALL];
static _Atomic u32 user_lock;
static bool started;
static bool (*illegal_hook)(ucontext_t *uc);
static void (*delegate)(int sig); /* installs a handler that calls signal_take(); NULL: we have our own */

/* libgcc and gdb know a signal frame by these very bytes. */
__asm__(".text\n"
	".align 16\n"
	"nop\n"
	".type signal_return, @function\n"
	"signal_return:\n"
	"	mov $15, %rax\n"
	"	syscall\n"
	".size signal_return, . - signal_return\n");
extern void signal_return(void) __attribute__((visibility("hidden")));

static int kernel_sigaction(int sig, const struct kernel_action *act, struct kernel_action *old)
{
	return (int)sys_call(SYS_rt_sigaction, sig, act, old, sizeof(u64));
}

static u64 bit(int sig)
{
	return 1ull << (sig - 1);
}

static bool is_fault(int sig)
{
	return sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL || sig == SIGTRAP;
}

/* What must not be blocked while the engine runs. It never traps on purpose, and QEMU's threads block SIGTRAP. */
static u64 fault_mask(void)
{
	return bit(SIGSEGV) | bit(SIGBUS) | bit(SIGFPE) | bit(SIGILL);
}

/* A lock that a handler on the same thread cannot find held: signals are off while it is. */
static u64 lock_user(void)
{
	u64 all = ~0ull, old = 0;

	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof(u64));
	lock_take(&user_lock);
	return old;
}

static void unlock_user(u64 old)
{
	lock_drop(&user_lock);
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof(u64));
}

void signal_resend(int sig, const siginfo_t *si)
{
	sys_call(SYS_rt_tgsigqueueinfo, sys_call(SYS_getpid, 0), base_gettid(), sig, si);
}

/* ---- delivery ---------------------------------------------------------------------------------- */

/* The default action, as if we had never been installed. */
static void default_action(int sig, siginfo_t *si, ucontext_t *uc)
{
	struct kernel_action dfl = { .handler = SIG_DFL };
	u64 *mask = (u64 *)&uc->uc_sigmask;

	kernel_sigaction(sig, &dfl, NULL);
	*mask &= ~bit(sig);
	/* A fault would happen again by itself, but one that was queued would not. */
	signal_resend(sig, si);
}

static void block(u64 mask)
{
	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, &mask, NULL, sizeof(u64));
}

static void call_user(int sig, siginfo_t *si, ucontext_t *uc)
{
	struct kernel_action act = user[sig].act;

	if (act.handler == SIG_IGN && !(is_fault(sig) && si->si_code > 0))
		return;
	if (act.handler == SIG_DFL || act.handler == SIG_IGN) {
		default_action(sig, si, uc);
		return;
	}
	if (act.flags & SA_RESETHAND)
		user[sig].act.handler = SIG_DFL;
	/* as the kernel would have it for the caller's handler; sigreturn puts the old mask back */
	block(act.mask | (act.flags & SA_NODEFER ? 0 : bit(sig)));
	if (act.flags & SA_SIGINFO)
		((void (*)(int, siginfo_t *, void *))(void *)act.handler)(sig, si, uc);
	else
		act.handler(sig);
}

/*
 * Put the signal off until the thread leaves the engine. It may have come on top of another, or of a fault: our
 * handlers run with the mask of what they interrupted, so the one found here is always the engine's.
 */
static void defer(int sig, siginfo_t *si, ucontext_t *uc)
{
	struct signal_thread *self = &signal_self;
	u64 *mask = (u64 *)&uc->uc_sigmask;

	if (!self->deferred) {
		self->mask = *mask;
		self->deferred = true;
	}
	*mask |= bit(sig);
	block(bit(sig));
	signal_resend(sig, si);
	if (self->running)
		vcpu_request(self->running, REQ_EXIT);
}

bool signal_take(int sig, siginfo_t *si, ucontext_t *uc)
{
	u64 to;

	if (is_fault(sig) && si->si_code > 0) {
		if (sig == SIGILL && illegal_hook && illegal_hook(uc))
			return true;
		if (signal_self.running && native_fault(signal_self.running, sig, si, uc))
			return true;
		to = mem_fixup((u64)uc->uc_mcontext.gregs[REG_RIP]);
		if (to)
			uc->uc_mcontext.gregs[REG_RIP] = (greg_t)to;
		return to;
	}
	if (signal_self.depth)
		defer(sig, si, uc);
	return signal_self.depth;
}

static void trampoline(int sig, siginfo_t *si, void *ctx)
{
	if (!signal_take(sig, si, ctx))
		call_user(sig, si, ctx);
}

void signal_queue(siginfo_t *si)
{
	struct signal_thread *self = &signal_self;
	u64 mask = bit(si->si_signo), old = 0;

	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, &mask, &old, sizeof(u64));
	if (!self->deferred) {
		self->mask = old;
		self->deferred = true;
	}
	self->mask &= ~mask; /* the kernel forces such a signal too */
	signal_resend(si->si_signo, si);
}

void signal_restore(void)
{
	u64 mask = signal_self.mask;

	signal_self.deferred = false;
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(u64));
}

/* ---- dispositions -------------------------------------------------------------------------------- */

static bool is_handler(const struct kernel_action *a)
{
	return a->handler != SIG_DFL && a->handler != SIG_IGN;
}

static bool installed_by_us(const struct kernel_action *a)
{
	return a->handler == (void (*)(int))(void *)trampoline;
}

/*
 * The mask, SA_NODEFER and SA_RESETHAND are carried out by call_user(): the kernel must not act on a signal put off,
 * and what defer() finds must not have anything blocked for our handler's sake.
 */
static int install(int sig, const struct kernel_action *act)
{
	struct kernel_action k = {
		.handler = (void (*)(int))(void *)trampoline,
		.flags = (act->flags & ~(unsigned long)SA_RESETHAND) | SA_SIGINFO | SA_NODEFER | KERNEL_SA_RESTORER,
		.restorer = signal_return,
	};

	/* The engine faults in its own code; never take it from under. */
	if (is_fault(sig))
		k.flags |= SA_ONSTACK;
	user[sig].act = *act;
	user[sig].ours = true;
	return kernel_sigaction(sig, &k, NULL);
}

static void adopt(int sig)
{
	struct kernel_action k;

	if (kernel_sigaction(sig, NULL, &k) < 0 || installed_by_us(&k))
		return;
	user[sig].ours = false;
	if (is_fault(sig) || is_handler(&k))
		install(sig, &k);
}

void signal_adopt(void)
{
	u64 old;

	if (signal_self.adopted || delegate)
		return;
	signal_self.adopted = true;
	old = lock_user();
	for (int sig = 1; sig < NSIG_ALL; sig++)
		if (sig != SIGKILL && sig != SIGSTOP && sig != SIG_SETXID)
			adopt(sig);
	unlock_user(old);
	signal_self.blocks_faults = old & fault_mask();
}

void signal_hook_illegal(bool (*fn)(ucontext_t *uc))
{
	u64 old = lock_user();

	illegal_hook = fn;
	if (!delegate)
		adopt(SIGILL);
	unlock_user(old);
}

void signal_delegate(void (*install_handler)(int sig))
{
	delegate = install_handler;
}

/* Until it is cancelled: cancelling a thread that has ended already does nothing. */
static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* Weak: a static program has no dlopen(), but the unwinder in it. */
extern __typeof__(dlopen) dlopen __attribute__((weak));

/*
 * glibc installs its cancellation handler at the first pthread_cancel(): make it do so now. Where there is no
 * libgcc_s, as in a small container, pthread_cancel() ends the process, so nobody there can call it later either.
 */
static void provoke_cancel_handler(void)
{
	u64 all = ~(bit(SIG_CANCEL) | bit(SIG_SETXID)), old = 0;
	pthread_t t;
	int r;

	if (dlopen && !dlopen("libgcc_s.so.1", RTLD_NOW))
		return;
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof(u64));
	r = pthread_create(&t, NULL, idle, NULL);
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof(u64));
	if (r)
		return;
	pthread_cancel(t);
	pthread_join(t, NULL);
}

void signal_start(void)
{
	if (started)
		return;
	started = true;
	if (delegate)
		return;
	provoke_cancel_handler();
	signal_self.adopted = false;
	signal_adopt();
}

static void to_user(const struct kernel_action *k, struct sigaction *out)
{
	memset(out, 0, sizeof(*out));
	out->sa_handler = k->handler;
	out->sa_flags = (int)(k->flags & ~KERNEL_SA_RESTORER);
	memcpy(&out->sa_mask, &k->mask, sizeof(k->mask));
}

static int set_action(int sig, const struct kernel_action *k)
{
	if (is_fault(sig) || is_handler(k))
		return install(sig, k);
	user[sig].ours = false;
	return kernel_sigaction(sig, k, NULL);
}

int signal_action(int sig, const struct sigaction *act, struct sigaction *old)
{
	struct kernel_action k, prev;
	u64 mask;
	int r = 0;

	if (sig < 1 || sig >= NSIG_ALL || sig == SIG_CANCEL || sig == SIG_SETXID ||
	    (act && (sig == SIGKILL || sig == SIGSTOP)))
		return -EINVAL;
	/* Nothing of ours is installed before the engine starts; a question needs no lock then. */
	mask = started || act ? lock_user() : 0;
	if (kernel_sigaction(sig, NULL, &prev) == 0 && installed_by_us(&prev))
		prev = user[sig].act;
	if (act) {
		k = (struct kernel_action){ .handler = act->sa_handler, .restorer = signal_return };
		k.flags = (unsigned int)act->sa_flags | KERNEL_SA_RESTORER;
		memcpy(&k.mask, &act->sa_mask, sizeof(k.mask));
		k.mask &= ~(bit(SIG_CANCEL) | bit(SIG_SETXID));
		r = started || (sig == SIGILL && illegal_hook) ? set_action(sig, &k) : kernel_sigaction(sig, &k, NULL);
	}
	if (started || act)
		unlock_user(mask);
	if (!r && old)
		to_user(&prev, old);
	return r;
}

void signal_catch_unblocked(u64 sigset)
{
	struct kernel_action k;
	u64 old = lock_user();

	for (int sig = 1; sig < NSIG_ALL; sig++) {
		if ((sigset & bit(sig)) || is_fault(sig) || sig == SIGKILL || sig == SIGSTOP ||
		    sig == SIG_CANCEL || sig == SIG_SETXID || sig == SIGCHLD || sig == SIGURG ||
		    sig == SIGWINCH || sig == SIGCONT || sig == SIGTSTP || sig == SIGTTIN ||
		    sig == SIGTTOU || !(old & bit(sig)))
			continue;
		if (kernel_sigaction(sig, NULL, &k) < 0 || k.handler != SIG_DFL)
			continue;
		if (delegate)
			delegate(sig);
		else
			install(sig, &k);
	}
	unlock_user(old);
}

u64 signal_set_mask(u64 mask)
{
	u64 old = 0;

	mask &= ~(bit(SIG_CANCEL) | bit(SIG_SETXID) | fault_mask());
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &old, sizeof(u64));
	return old;
}

void signal_put_mask(u64 mask)
{
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(u64));
}
