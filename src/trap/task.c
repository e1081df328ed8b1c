/* SPDX-License-Identifier: MIT */
/*
 * The client's threads and processes.
 *
 * A thread of the client is carried by a thread of our libc, so that the engine finds in it what libc promises: its own
 * thread-local storage, a place in malloc. Syscall User Dispatch is not inherited: each new task arms its own.
 */
#include "trap/trap.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "kvm/kvm.h"
#include "kvm/sig.h"
#include "kvm/sys.h"

#define CARRIER_STACK (128 * 1024)
#define ROBUST_MAX 2048 /* as the kernel */
#define TID_FLAGS     (u64)(CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID)

/**
 * struct birth - what a new thread is told; on the creator's stack until @tid is there
 */
struct birth {
	struct trap_thread *t;
	struct sigframe *f;
	u64 parent_tid, child_tid;
	_Atomic u32 tid;
};

/* struct robust_list_head of the kernel */
struct robust {
	u64 next;
	s64 offset;
	u64 pending;
};

/* A robust futex whose owner is about to be gone [Linux Documentation/locking/robust-futexes.rst] */
static void abandon(u64 entry, s64 offset)
{
	_Atomic u32 *word = (_Atomic u32 *)((entry & ~1ull) + (u64)offset);
	u32 v, tid = (u32)base_gettid();

	if (!entry || copy_in(&v, (u64)word, sizeof(v)))
		return;
	while ((v & FUTEX_TID_MASK) == tid) {
		if (!atomic_compare_exchange_strong(word, &v, (v & FUTEX_WAITERS) | FUTEX_OWNER_DIED))
			continue;
		if (v & FUTEX_WAITERS)
			sys_call(SYS_futex, word, FUTEX_WAKE, 1);
		return;
	}
}

/* The kernel would do this later: the client may take the list's memory back as soon as it knows of the end. */
static void abandon_all(void)
{
	u64 at = 0, len = 0, next;
	struct robust head;

	if (sys_call(SYS_get_robust_list, 0, &at, &len) || !at || copy_in(&head, at, sizeof(head)))
		return;
	for (int n = 0; head.next != at && n < ROBUST_MAX; n++) {
		if (copy_in(&next, head.next & ~1ull, sizeof(next)))
			break;
		if (head.next != head.pending)
			abandon(head.next, head.offset);
		head.next = next;
	}
	abandon(head.pending, head.offset);
}

/* What the kernel does at the end of a task that has no more use for its memory. */
static void tell_end(u64 clear_tid)
{
	struct robust head = { .next = (u64)&head };
	u32 zero = 0;

	abandon_all();

	sys_call(SYS_set_robust_list, &head, sizeof(head));
	if (clear_tid && !copy_out(clear_tid, &zero, sizeof(zero)))
		sys_call(SYS_futex, clear_tid, FUTEX_WAKE, 1);
	sys_call(SYS_set_robust_list, NULL, sizeof(head));
}

static void *carrier(void *arg)
{
	struct birth *b = arg;
	struct trap_thread *t = b->t;
	struct sigframe *f = b->f;
	struct trap_stack none = { .flags = SS_DISABLE };
	u32 tid = (u32)base_gettid();

	if (trap_arm(t)) {
		atomic_store(&b->tid, ~0u);
		futex_wake(&b->tid, 1);
		trap_free(t);
		return NULL;
	}
	/* before the thread can end and have its number cleared */
	if (b->parent_tid)
		copy_out(b->parent_tid, &tid, sizeof(tid));
	if (b->child_tid)
		copy_out(b->child_tid, &tid, sizeof(tid));
	atomic_store(&b->tid, tid);
	futex_wake(&b->tid, 1);
	/* the creator's stack is not looked at from here on */
	trap_depart(t, f);
	sys_call(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
	sys_call(SYS_sigaltstack, &none, NULL);
	tell_end(t->clear_tid);
	trap_free(t);
	return NULL;
}

static int start_carrier(struct birth *b)
{
	pthread_attr_t attr;
	pthread_t id;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, CARRIER_STACK);
	r = pthread_create(&id, &attr, carrier, b);
	pthread_attr_destroy(&attr);
	return -r;
}

/* What every new task of the client begins with. Return: the frame it leaves with. */
static struct sigframe *inherit(struct trap_thread *to, const struct trap_thread *t, const struct sigframe *f,
				u64 flags, u64 stack, u64 tls)
{
	struct sigframe *tf = trap_copy_frame(to, f);

	tf->rax = 0;
	if (stack)
		tf->rsp = stack;
	to->client_fs = flags & CLONE_SETTLS ? tls : t->client_fs;
	to->blocks_sys = t->blocks_sys;
	to->filter = t->filter;
	return tf;
}

static long new_thread(struct trap_thread *t, const struct sigframe *f, u64 flags, u64 stack,
		       u64 ptid, u64 ctid, u64 tls)
{
	struct birth b = { .t = trap_alloc(), .parent_tid = flags & CLONE_PARENT_SETTID ? ptid : 0,
			   .child_tid = flags & CLONE_CHILD_SETTID ? ctid : 0 };
	u32 tid;
	int r;

	if (!b.t)
		return -ENOMEM;
	b.f = inherit(b.t, t, f, flags, stack, tls);
	b.t->clear_tid = flags & CLONE_CHILD_CLEARTID ? ctid : 0;
	b.t->carried = true;
	b.t->actions = t->actions;
	r = start_carrier(&b);
	if (r) {
		trap_free(b.t);
		return r;
	}
	while (!(tid = atomic_load(&b.tid)))
		futex_wait(&b.tid, 0, -1);
	if (tid == ~0u)
		return -EAGAIN;
	return tid;
}

/* ---- processes ------------------------------------------------------------------------------- */

/* With CLONE_PIDFD its number is written where PARENT_SETTID would write. */
static inline __attribute__((always_inline)) long raw_clone(u64 flags, u64 ptid)
{
	return sys_call(SYS_clone, flags & ~(TID_FLAGS | CLONE_SETTLS), 0,
			flags & CLONE_PIDFD ? ptid : 0, 0, 0);
}

static void in_child(struct trap_thread *t, struct sigframe *f, u64 flags, u64 stack, u64 ctid,
		     u64 tls)
{
	u32 tid = (u32)base_gettid();

	trap_dispatch(t); /* the handlers' stack is inherited */
	t->carried = false;
	t->clear_tid = 0;
	if (flags & CLONE_CHILD_SETTID)
		copy_out(ctid, &tid, sizeof(tid));
	if (flags & CLONE_CHILD_CLEARTID)
		sys_call(SYS_set_tid_address, ctid);
	if (flags & CLONE_SETTLS)
		t->client_fs = tls;
	if (stack)
		f->rsp = stack;
}

static long fork_locked(struct trap_thread *t, u64 flags, u64 ptid, bool plain)
{
	long pid;

	trap_actions_fork(t, true);
	trap_brk_fork(true);
	pid = plain ? fork() : raw_clone(flags, ptid);
	trap_brk_fork(false);
	trap_actions_fork(t, false);
	if (!pid && !plain)
		kvm_forked();
	return plain && pid < 0 ? -errno : pid;
}

static long new_process(struct trap_thread *t, struct sigframe *f, u64 flags, u64 stack, u64 ptid,
			u64 ctid, u64 tls)
{
	bool plain = (flags & ~(TID_FLAGS | CLONE_SETTLS)) == SIGCHLD;
	long pid = fork_locked(t, flags, ptid, plain);
	u32 tid = (u32)pid;

	if (!pid)
		in_child(t, f, flags, stack, ctid, tls);
	else if (pid > 0 && (flags & CLONE_PARENT_SETTID))
		copy_out(ptid, &tid, sizeof(tid));
	return pid;
}

/*
 * The child of vfork() runs in our memory until it execs; the kernel has this thread sleep as long. It gets a
 * handlers' stack and dispositions of its own: the frame that this thread is to leave with must stay.
 */
static void __attribute__((noreturn, used)) vforked(struct trap_thread *t, struct sigframe *f)
{
	if (trap_arm(t))
		sys_call(SYS_exit_group, 127);
	signal_self.depth = 0;
	trap_depart(t, f);
	__builtin_unreachable();
}

/* On @stack, for the parent's is the alternate one still. */
static long __attribute__((noinline))
call_vfork(u64 flags, u64 ptid, struct trap_thread *t, struct sigframe *f)
{
	u64 stack = ((u64)f - 4096) & ~15ull;
	long r = raw_clone(flags, ptid);

	if (r)
		return r;
	__asm__ volatile("mov %0, %%rsp\n\tcall *%1"
			 :
			 : "r"(stack), "r"(vforked), "D"(t), "S"(f)
			 : "memory");
	__builtin_unreachable();
}

static long new_vfork(struct trap_thread *t, const struct sigframe *f, u64 flags, u64 stack,
		      u64 ptid, u64 tls)
{
	struct trap_thread *c = trap_alloc();
	struct sigframe *cf;
	u32 tid;
	long pid;

	if (!c)
		return -ENOMEM;
	c->actions = trap_copy_actions(t);
	if (!c->actions) {
		trap_free(c);
		return -ENOMEM;
	}
	cf = inherit(c, t, f, flags, stack, tls);
	c->altstack = t->altstack;
	pid = call_vfork(flags, ptid, c, cf);
	trap_free_actions(c->actions);
	trap_free(c);
	tid = (u32)pid;
	if (pid > 0 && (flags & CLONE_PARENT_SETTID))
		copy_out(ptid, &tid, sizeof(tid));
	return pid;
}

long trap_clone(struct trap_thread *t, struct sigframe *f, u64 flags, u64 stack, u64 ptid, u64 ctid,
		u64 tls)
{
	trap_block(t);
	if (flags & CLONE_THREAD)
		return new_thread(t, f, flags, stack, ptid, ctid, tls);
	if (!(flags & CLONE_VM))
		return new_process(t, f, flags, stack, ptid, ctid, tls);
	if (flags & CLONE_VFORK)
		return new_vfork(t, f, flags, stack, ptid, tls);
	/* Two processes in one address space would share our libc's thread. */
	return -ENOSYS;
}

long trap_exit_thread(struct trap_thread *t)
{
	if (!t->carried)
		return TRAP_GATE;
	signal_self.depth = 0;
	signal_self.deferred = false;
	trap_home(t);
}
