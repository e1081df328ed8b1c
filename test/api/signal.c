/* SPDX-License-Identifier: MIT */
/*
 * Signals and KVM_RUN: EINTR, masks, handlers that use the API. How fast a kick arrives: kick.c.
 */
#include <pthread.h>
#include <sys/time.h>

#include "api.h"

static volatile sig_atomic_t hits;
static struct guest *the_guest;

static void count(int sig)
{
	hits++;
}

static void handle(int sig, void (*fn)(int), int flags)
{
	struct sigaction act = { .sa_handler = fn, .sa_flags = flags };

	need(casement_sigaction(sig, &act, NULL), "casement_sigaction");
}

static void alarm_in(long us)
{
	struct itimerval t = { .it_value.tv_usec = us };

	setitimer(ITIMER_REAL, &t, NULL);
}

static void t_loop(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xeb, 0xfe); /* jmp $ */
	handle(SIGALRM, count, 0);
	alarm_in(20000);
	is_errno(run(&g), EINTR, "SIGALRM ends a tight loop");
	is(hits, 1, "its handler has run");
	is(g.run->exit_reason, KVM_EXIT_INTR, "KVM_EXIT_INTR");
	handle(SIGALRM, count, SA_RESTART);
	alarm_in(20000);
	is_errno(run(&g), EINTR, "SA_RESTART does not restart it");
	is(hits, 2, "handler");
	free_guest(&g);
}

static void *send_fault(void *arg)
{
	usleep(20000);
	pthread_kill(*(pthread_t *)arg, SIGSEGV);
	return NULL;
}

/* A fault's signal that somebody sent is a signal like any other. */
static void t_sent_fault(void)
{
	pthread_t me = pthread_self(), t;
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xeb, 0xfe);
	handle(SIGSEGV, count, 0);
	pthread_create(&t, NULL, send_fault, &me);
	is_errno(run(&g), EINTR, "SIGSEGV from another thread ends a tight loop");
	is(hits, 1, "its handler has run, once");
	pthread_join(t, NULL);
	free_guest(&g);
}

static void t_restart_flags(void)
{
	struct sigaction old;
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xeb, 0xfe);
	handle(SIGALRM, count, SA_RESETHAND);
	alarm_in(10000);
	is_errno(run(&g), EINTR, "SA_RESETHAND");
	is(hits, 1, "handler ran once");
	casement_sigaction(SIGALRM, NULL, &old);
	ok(old.sa_handler == SIG_DFL, "and is gone");
	handle(SIGALRM, SIG_IGN, 0);
	handle(SIGUSR1, count, SA_NODEFER);
	alarm_in(5000);
	raise(SIGUSR1);
	is(hits, 2, "a handler outside the engine runs at once");
	casement_sigaction(SIGUSR1, NULL, &old);
	ok(old.sa_handler == count && (old.sa_flags & SA_NODEFER), "sigaction tells what was asked for");
	free_guest(&g);
}

static void t_halted(void)
{
	struct kvm_mp_state mp;
	struct guest g;

	NEW_GUEST(&g, FULL_CHIP, 0xf4, 0xeb, 0xfe);
	handle(SIGALRM, count, 0);
	alarm_in(20000);
	is_errno(run(&g), EINTR, "SIGALRM ends HLT");
	call(g.vcpu, KVM_GET_MP_STATE, &mp);
	is(mp.mp_state, KVM_MP_STATE_HALTED, "still halted");
	is(rip_of(&g), CODE + 1, "RIP behind HLT");
	free_guest(&g);
}

static void use_api(int sig)
{
	struct kvm_regs r;

	hits++;
	ok(!call(the_guest->vcpu, KVM_GET_REGS, &r) && r.rip == CODE, "a handler may use the vCPU");
}

static void t_handler_uses_api(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xeb, 0xfe);
	the_guest = &g;
	handle(SIGALRM, use_api, 0);
	alarm_in(10000);
	is_errno(run(&g), EINTR, "interrupted");
	is(hits, 1, "handler");
	free_guest(&g);
}

static void t_mask(void)
{
	struct { struct kvm_signal_mask head; uint64_t set; } m = { .head.len = 8 };
	sigset_t usr, pending;
	struct guest g;
	int sig;

	NEW_GUEST(&g, NO_CHIP, 0xeb, 0xfe);
	m.head.len = 7;
	is_errno(call(g.vcpu, KVM_SET_SIGNAL_MASK, &m), EINVAL, "wrong length");
	m.head.len = 8;
	sigemptyset(&usr);
	sigaddset(&usr, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr, NULL);
	memset(m.head.sigset, 0, 8); /* nothing blocked while running */
	is(call(g.vcpu, KVM_SET_SIGNAL_MASK, &m), 0, "KVM_SET_SIGNAL_MASK");
	raise(SIGUSR1); /* no handler: its default action would kill us */
	is_errno(run(&g), EINTR, "a pending signal that the mask lets through");
	sigpending(&pending);
	ok(sigismember(&pending, SIGUSR1), "stays pending");
	is(sigwait(&usr, &sig), 0, "sigwait takes it");
	is(sig, SIGUSR1, "the signal");
	handle(SIGALRM, count, 0);
	alarm_in(10000);
	is_errno(run(&g), EINTR, "an unblocked signal");
	is(hits, 1, "its handler runs");
	is(call(g.vcpu, KVM_SET_SIGNAL_MASK, 0), 0, "no mask again");
	raise(SIGUSR1);
	alarm_in(10000);
	is_errno(run(&g), EINTR, "only SIGALRM ends it now");
	is(hits, 2, "its handler");
	free_guest(&g);
}

static void t_default_kills(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xeb, 0xfe);
	alarm_in(10000);
	run(&g);
}

static void t_adopted(void)
{
	struct sigaction act = { .sa_handler = count };
	struct guest g;

	sigaction(SIGALRM, &act, NULL); /* plain, before the first KVM_RUN */
	NEW_GUEST(&g, NO_CHIP, 0xeb, 0xfe);
	alarm_in(10000);
	is_errno(run(&g), EINTR, "a handler installed before us counts too");
	is(hits, 1, "handler");
	free_guest(&g);
}

#ifndef __SANITIZE_ADDRESS__
static void *cancelled_thread(void *arg)
{
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	hits++;
	run(arg);
	return NULL;
}

/* The thread is unwound out of KVM_RUN, not out of the middle of the engine. */
static void t_cancelled(void)
{
	struct kvm_regs r;
	struct guest g;
	void *ret = NULL;
	pthread_t t;

	NEW_GUEST(&g, NO_CHIP, 0xeb, 0xfe);
	pthread_create(&t, NULL, cancelled_thread, &g);
	while (!hits)
		;
	usleep(20000);
	is(pthread_cancel(t), 0, "pthread_cancel");
	is(pthread_join(t, &ret), 0, "pthread_join");
	ok(ret == PTHREAD_CANCELED, "cancelled");
	is(set_slot(g.vm, 0, 0, 0, 0, g.mem), 0, "nobody waits for its vCPU");
	is(call(g.vcpu, KVM_GET_REGS, &r), 0, "which can still be used");
	is(r.rip, CODE, "at an instruction boundary");
	free_guest(&g);
}
#endif

#ifdef __SANITIZE_ADDRESS__
/* The sanitizer would report the fault below and exit. */
const char *__asan_default_options(void);
__attribute__((visibility("default"))) const char *__asan_default_options(void)
{
	return "handle_segv=0";
}
#endif

static void t_cancel_chain(void)
{
	volatile char *p = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	close(casement_open(O_RDWR));
	*p = 1; /* not ours: must still be fatal */
}

int main(void)
{
#ifdef __SANITIZE_THREAD__
	skip_all("ThreadSanitizer holds signals back until a thread calls libc");
#endif
	tap_child("tight loop", t_loop);
	tap_child("a fault's signal that was sent", t_sent_fault);
	tap_child("sigaction flags", t_restart_flags);
	tap_child("halted vCPU", t_halted);
	tap_child("handler that uses the API", t_handler_uses_api);
	tap_child("KVM_SET_SIGNAL_MASK", t_mask);
	tap_death("default action", t_default_kills, SIGALRM);
	tap_child("adopted handler", t_adopted);
#ifdef __SANITIZE_ADDRESS__
	/* Unwinding leaves the marks of its frames on the stack; the sanitizer's end of the thread trips on them. */
	skip("a cancelled thread", "AddressSanitizer does not survive it");
#else
	tap_child("a cancelled thread", t_cancelled);
#endif
	tap_death("a fault that is not the engine's", t_cancel_chain, SIGSEGV);
	return done_testing();
}
