/* SPDX-License-Identifier: MIT */
/*
 * The client's signals: who handles what, and calling its handlers as the kernel would.
 *
 * A signal finds the client's code, or the few instructions of entry.c that make its system calls, or C code of ours,
 * which puts it off. In its handler every signal is blocked, but for the engine's own faults.
 */
#include "trap/trap.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/base.h"
#include "kvm/kvm.h"
#include "kvm/sig.h"
#include "kvm/sys.h"

#define NSIG_ALL	   65
#define RED_ZONE	   128
#define KERNEL_SA_RESTORER 0x04000000ul
#define UNBLOCKABLE	   (1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1))
#define FP_MAGIC	   0x46505853u /* FP_XSTATE_MAGIC1 */
#define MXCSR_INIT	   0x1f80u
#define MINSIGSTKSZ_KERNEL 2048
#define AUTODISARM	   (1u << 31)
#ifndef SYS_USER_DISPATCH
#define SYS_USER_DISPATCH 2 /* si_code */
#endif

struct action {
	u64 handler, flags, restorer, mask;
};

/* The dispositions: of the process, or of a child of vfork(), which has its own in our memory. */
struct trap_actions {
	_Atomic u32 lock;
	struct action of[NSIG_ALL];
};
static struct trap_actions actions;

static bool is_fault(int sig)
{
	return sig_bit(sig) & TRAP_FAULTS;
}

static bool is_handler(const struct action *a)
{
	return a->handler > 1;
}

/* The kernel's side of @a. */
static int install(int sig, const struct action *a)
{
	struct action k = {
		.handler = sig == SIGSYS ? (u64)trap_sys_entry : (u64)trap_entry,
		.flags = SA_SIGINFO | SA_ONSTACK | KERNEL_SA_RESTORER |
			 (a->flags & (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT)),
		.restorer = (u64)trap_entry, /* never returned to */
		.mask = sig == SIGSYS ? 0 : trap_all,
	};

	if (sig == SIGSYS)
		k.flags |= SA_NODEFER;

	return (int)sys_call(SYS_rt_sigaction, sig, &k, NULL, sizeof(u64));
}

/* For KVM_SET_SIGNAL_MASK, when the disposition is the default one. */
static void catch (int sig)
{
	install(sig, &actions.of[sig]);
}

void trap_signals_start(struct trap_thread *t)
{
	u64 sys = sig_bit(SIGSYS);

	t->actions = &actions;
	for (int sig = 1; sig < NSIG_ALL; sig++) {
		sys_call(SYS_rt_sigaction, sig, NULL, &actions.of[sig], sizeof(u64));
		if (is_fault(sig) || sig == SIGSYS)
			install(sig, &actions.of[sig]);
	}
	signal_delegate(catch);
	sys_call(SYS_rt_sigprocmask, SIG_UNBLOCK, &sys, NULL, sizeof(u64)); /* inherited: a trapped call would kill */
}

long trap_sigaction(struct trap_thread *t, int sig, u64 act, u64 old, u64 size)
{
	struct trap_actions *all = t->actions;
	struct action a, prev;
	long r = 0;

	if (size != sizeof(u64) || sig < 1 || sig >= NSIG_ALL)
		return -EINVAL;
	if (act && copy_in(&a, act, sizeof(a)))
		return -EFAULT;
	if (act && (sig == SIGKILL || sig == SIGSTOP))
		return -EINVAL;
	lock_take(&all->lock);
	prev = all->of[sig];
	if (act) {
		a.mask &= ~UNBLOCKABLE;
		all->of[sig] = a;
		if (is_handler(&a) || is_fault(sig))
			r = install(sig, &a);
		else if (sig != SIGSYS)
			r = sys_call(SYS_rt_sigaction, sig, &a, NULL, sizeof(u64));
	}
	lock_drop(&all->lock);
	if (!r && old && copy_out(old, &prev, sizeof(prev)))
		r = -EFAULT;
	return r;
}

void trap_forget(struct trap_thread *t, int sig)
{
	t->actions->of[sig].handler = (u64)SIG_DFL;
}

struct trap_actions *trap_copy_actions(const struct trap_thread *t)
{
	struct trap_actions *to = sys_mmap(NULL, sizeof(*to), PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (to)
		memcpy(to->of, t->actions->of, sizeof(to->of));
	return to;
}

void trap_actions_fork(struct trap_thread *t, bool before)
{
	if (before)
		lock_take(&t->actions->lock);
	else
		lock_drop(&t->actions->lock);
}

void trap_free_actions(struct trap_actions *a)
{
	sys_munmap(a, sizeof(*a));
}

/* SIGSYS is ours: a trapped call would kill a thread that blocks it. */
long trap_sigprocmask(struct trap_thread *t, struct sigframe *f, int how, u64 set, u64 old,
		      u64 size)
{
	u64 was = f->mask | (t->blocks_sys ? sig_bit(SIGSYS) : 0), now = was, m;

	if (size != sizeof(u64))
		return -EINVAL;
	if (set) {
		if (copy_in(&m, set, sizeof(m)))
			return -EFAULT;
		switch (how) {
		case SIG_BLOCK:
			now |= m;
			break;
		case SIG_UNBLOCK:
			now &= ~m;
			break;
		case SIG_SETMASK:
			now = m;
			break;
		default:
			return -EINVAL;
		}
	}
	t->blocks_sys = now & sig_bit(SIGSYS);
	t->restore = 1;
	f->mask = now & ~(UNBLOCKABLE | sig_bit(SIGSYS));
	return old && copy_out(old, &was, sizeof(was)) ? -EFAULT : 0;
}

void trap_mask_arg(struct trap_thread *t, int n, bool indirect)
{
	u64 *m = t->mask, at = t->arg[n];

	if (!at)
		return;
	if (indirect) {
		if (copy_in(&m[1], at, 16) || !m[1])
			return;
		at = m[1];
	}
	if (copy_in(m, at, sizeof(*m)) || !(*m & sig_bit(SIGSYS)))
		return;
	*m &= ~sig_bit(SIGSYS);
	m[1] = (u64)m;
	t->arg[n] = indirect ? (u64)&m[1] : (u64)m;
}

/* ---- the alternate stack --------------------------------------------------------------------- */

static bool on_stack(const struct trap_stack *s, u64 rsp)
{
	return !(s->flags & AUTODISARM) && rsp > s->sp && rsp - s->sp <= s->size;
}

long trap_sigaltstack(struct trap_thread *t, struct sigframe *f, u64 new, u64 old)
{
	struct trap_stack s, was = t->altstack;

	was.flags = !was.size ? SS_DISABLE : was.flags | (on_stack(&was, f->rsp) ? SS_ONSTACK : 0);
	if (new) {
		if (copy_in(&s, new, sizeof(s)))
			return -EFAULT;
		if (on_stack(&t->altstack, f->rsp))
			return -EPERM;
		if (s.flags & ~(AUTODISARM | SS_DISABLE | SS_ONSTACK))
			return -EINVAL;
		if (s.flags & SS_DISABLE)
			s = (struct trap_stack){ .flags = s.flags & AUTODISARM };
		else if (s.size < MINSIGSTKSZ_KERNEL)
			return -ENOMEM;
		s.flags &= AUTODISARM;
		t->altstack = s;
	}
	return old && copy_out(old, &was, sizeof(was)) ? -EFAULT : 0;
}

/* ---- handlers -------------------------------------------------------------------------------- */

u64 trap_fpsize(u64 fpstate)
{
	u32 sw[2]; /* struct _fpx_sw_bytes: magic1, extended_size */

	if (!fpstate || copy_in(sw, fpstate + 464, sizeof(sw)))
		return 0;
	return sw[0] == FP_MAGIC ? sw[1] : 512;
}

/* A handler begins with the vector state of a new thread. */
static void reset_fp(u64 fpstate)
{
	u8 *fp = (u8 *)fpstate;

	if (!fpstate || trap_fpsize(fpstate) <= 576)
		return;
	*(u16 *)fp = 0x37f;
	*(u32 *)(fp + 24) = MXCSR_INIT;
	*(u64 *)(fp + 512) = 0; /* XSTATE_BV */
}

/* The signal's own action, as if no handler had been there: sent once more, or the fault happens once more. */
static struct sigframe *default_action(int sig, struct sigframe *ctx, struct sigframe *via)
{
	struct action dfl = { 0 };

	sys_call(SYS_rt_sigaction, sig, &dfl, NULL, sizeof(u64));
	ctx->mask = via->mask & ~sig_bit(sig);
	if (via->info.si_code <= 0 || sig == SIGSYS || !is_fault(sig))
		signal_resend(sig, &via->info);
	return ctx;
}

/* Where on the client's stack; 0: there is no room. */
static u64 place(struct trap_thread *t, const struct action *a, const struct sigframe *ctx,
		 u64 fpsize, u64 *fp)
{
	const struct trap_stack *s = &t->altstack;
	u64 sp = ctx->rsp - RED_ZONE, at;
	bool alt = on_stack(s, ctx->rsp);

	if ((a->flags & SA_ONSTACK) && s->size && !alt) {
		sp = s->sp + s->size;
		alt = true;
	}
	*fp = (sp - fpsize) & ~63ull;
	at = ((*fp - sizeof(struct sigframe)) & ~15ull) - 8;
	return alt && at < s->sp ? 0 : at;
}

static int push(struct trap_thread *t, const struct action *a, const struct sigframe *ctx,
		const struct sigframe *via, u64 *at)
{
	u64 size = trap_fpsize(ctx->fpstate), fp;
	struct sigframe f = *ctx;

	*at = place(t, a, ctx, size, &fp);
	if (!*at || (size && copy_out(fp, (const void *)ctx->fpstate, size)))
		return -EFAULT;
	f.restorer = a->restorer;
	f.fpstate = size ? fp : 0;
	f.stack = t->altstack;
	if (!f.stack.size)
		f.stack.flags |= SS_DISABLE;
	f.mask = via->mask;
	f.err = via->err;
	f.trapno = via->trapno;
	f.cr2 = via->cr2;
	f.info = via->info;
	return copy_out(*at, &f, sizeof(f));
}

struct sigframe *trap_deliver(struct trap_thread *t, int sig, struct sigframe *ctx,
			      struct sigframe *via)
{
	struct trap_actions *all = t->actions;
	struct action a;
	u64 at, mask;

	lock_take(&all->lock);
	a = all->of[sig];
	if (is_handler(&a) && (a.flags & SA_RESETHAND))
		all->of[sig].handler = 0;
	lock_drop(&all->lock);
	if (a.handler == (u64)SIG_IGN && !(is_fault(sig) && via->info.si_code > 0)) {
		ctx->mask = via->mask;
		return ctx;
	}
	if (!is_handler(&a))
		return default_action(sig, ctx, via);
	if (push(t, &a, ctx, via, &at)) {
		via->info = (siginfo_t){ .si_signo = SIGSEGV, .si_code = SI_KERNEL };
		return default_action(SIGSEGV, ctx, via);
	}
	if (t->altstack.flags & AUTODISARM)
		t->altstack = (struct trap_stack){ 0 };
	mask = via->mask | a.mask | (a.flags & SA_NODEFER ? 0 : sig_bit(sig));
	*via = (struct sigframe){
		.uc_flags = via->uc_flags,
		.stack = trap_kernel_stack(t),
		.cs = ctx->cs,
		.ss = ctx->ss,
		.gs = ctx->gs,
		.fs = ctx->fs,
		.fpstate = via->fpstate,
		.mask = mask & ~(UNBLOCKABLE | sig_bit(SIGSYS)),
		.rflags = ctx->rflags & ~0x10500ull,
		.rip = a.handler,
		.rsp = at,
		.rdi = (u64)sig,
		.rsi = at + offsetof(struct sigframe, info),
		.rdx = at + 8,
	};
	reset_fp(via->fpstate);
	return via;
}

struct sigframe *trap_sigreturn(struct trap_thread *t, struct sigframe *f)
{
	struct sigframe *from = (struct sigframe *)(f->rsp - 8), was;
	struct trap_stack s = trap_kernel_stack(t);

	if (copy_in(&was, (u64)from, sizeof(was)))
		goto bad;
	t->altstack = was.stack;
	if (was.stack.flags & SS_DISABLE)
		t->altstack.size = 0;
	t->altstack.flags &= AUTODISARM;
	was.mask &= ~(UNBLOCKABLE | sig_bit(SIGSYS));
	if (copy_out((u64)&from->stack, &s, sizeof(s)) ||
	    copy_out((u64)&from->mask, &was.mask, sizeof(u64)))
		goto bad;
	return from;
bad:
	f->info = (siginfo_t){ .si_signo = SIGSEGV, .si_code = SI_KERNEL };
	return trap_deliver(t, SIGSEGV, f, f);
}

/* ---- what comes in --------------------------------------------------------------------------- */

/*
 * A signal in the gate: the client is before its call, or behind it, or already leaving, and t->leave is its state but
 * for the call's result. The kernel restarts a call by going back to its instruction, and so do we. Signals that were
 * put off are in the mask that was found, not in the client's.
 */
static struct sigframe *in_gate(struct trap_thread *t, int sig, struct sigframe *f)
{
	struct sigframe *ctx = t->leave;

	f->mask = ctx->mask;
	if (f->rip <= (u64)trap_gate_call)
		ctx->rip -= 2;
	else if (f->rip == (u64)trap_gate_ret)
		ctx->rax = f->rax;
	return trap_deliver(t, sig, ctx, f);
}

/*
 * A signal in the handler of SIGSYS: before the call, which is then made again, behind it, or on the way back. Where
 * the call turned out to be ours, nothing has happened yet, or all has.
 */
static struct sigframe *in_sys(struct trap_thread *t, int sig, struct sigframe *f)
{
	u64 rip = f->rip;
	bool pushed = rip == (u64)trap_sys_popf || rip == (u64)trap_sys_calling;
	struct sigframe *ctx = (struct sigframe *)(f->rsp + (pushed ? 8 : 0));

	if (rip == (u64)trap_sys_jmp) {
		f->rip = f->rcx;
		return trap_deliver(t, sig, f, f);
	}
	f->mask = ctx->mask;
	if (rip == (u64)trap_sys_ret)
		ctx->rax = f->rax;
	else if (rip <= (u64)trap_sys_call || (rip > (u64)trap_sys_jmp && rip <= (u64)trap_sys_calling))
		ctx->rip -= ctx->info.si_code == SYS_USER_DISPATCH ? 2 : 0;
	return trap_deliver(t, sig, ctx, f);
}

static bool is_sys(u64 rip)
{
	return rip >= (u64)trap_sys_entry && rip < (u64)trap_sys_end &&
	       !(rip > (u64)trap_sys_calling && rip < (u64)trap_sys_back);
}

static bool is_gate(u64 rip)
{
	return rip >= (u64)trap_gate_open && rip < (u64)trap_leave_end;
}

struct sigframe *trap_handle(struct trap_thread *t, int sig, struct sigframe *f)
{
	if (is_gate(f->rip))
		return in_gate(t, sig, f);
	if (is_sys(f->rip))
		return in_sys(t, sig, f);
	if (sig == SIGILL && f->info.si_code > 0 && signal_take(sig, &f->info, (ucontext_t *)&f->uc_flags))
		return f;
	return trap_deliver(t, sig, f, f);
}

/*
 * In our C code, on the way to the engine or back, the signal is put off as the engine does it: blocked, sent again,
 * and let in by the client's own mask.
 */
struct sigframe *trap_nested(struct trap_thread *t, int sig, struct sigframe *f)
{
	if (is_gate(f->rip))
		return in_gate(t, sig, f);
	if (is_sys(f->rip))
		return in_sys(t, sig, f);
	if (signal_self.depth || (is_fault(sig) && f->info.si_code > 0)) {
		trap_plain(sig, &f->info, &f->uc_flags);
	} else {
		f->mask |= sig_bit(sig);
		signal_resend(sig, &f->info);
	}
	t->restore = 1;
	return NULL;
}

/* In the engine, or in a thread of ours. */
void trap_plain(int sig, siginfo_t *si, void *ctx)
{
	struct action dfl = { 0 };
	ucontext_t *uc = ctx;

	if (signal_take(sig, si, uc))
		return;
	sys_call(SYS_rt_sigaction, sig, &dfl, NULL, sizeof(u64));
	*(u64 *)&uc->uc_sigmask &= ~sig_bit(sig);
}
