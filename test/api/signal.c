/* SPDX-License-Identifier: MIT */
/*
 * Signals and KVM_RUN: EINTR, masks, handlers that use the API, how fast a kick arrives.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/time.h>

#include "api.h"

#define KICKS 200

static volatile sig_atomic_t hits;
static struct guest *the_guest;
static volatile struct timespec handled;

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

static void t_cancel_chain(void)
{
	volatile char *p = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	close(casement_open(O_RDWR));
	*p = 1; /* not ours: must still be fatal */
}

/* ---- latency ---------------------------------------------------------------------------------------------- */

/*
 * On a busy machine a signal waits for the scheduler, whoever is to get it; so the same kicks go to a thread that only
 * spins, and what counts is how much longer KVM_RUN takes.
 */
static atomic_uint returns;

static void stamp(int sig)
{
	hits++;
}

static void left(void)
{
	clock_gettime(CLOCK_MONOTONIC, (struct timespec *)&handled);
	returns++;
}

static void *vcpu_thread(void *arg)
{
	while (returns < KICKS) {
		if (!run(arg) || errno != EINTR)
			bail_out("KVM_RUN did not return EINTR");
		left();
	}
	return NULL;
}

static void *spin_thread(void *arg)
{
	while (returns < KICKS) {
		int seen = hits;

		while (hits == seen)
			;
		left();
	}
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double kick(pthread_t t)
{
	const struct timespec pause = { .tv_nsec = 1000000 }, tick = { .tv_nsec = 100000 };
	unsigned int seen = returns;
	double before;

	nanosleep(&pause, NULL);
	before = tap_now();
	pthread_kill(t, SIGUSR2);
	while (returns == seen)
		nanosleep(&tick, NULL);
	return (double)handled.tv_sec + (double)handled.tv_nsec * 1e-9 - before;
}

static void measure(void *(*fn)(void *), void *arg, double *p50, double *p99)
{
	double us[KICKS];
	pthread_t t;

	returns = 0;
	handle(SIGUSR2, stamp, 0);
	pthread_create(&t, NULL, fn, arg);
	for (int i = 0; i < KICKS; i++)
		us[i] = kick(t) * 1e6;
	pthread_join(t, NULL);
	qsort(us, KICKS, sizeof(us[0]), by_value);
	*p50 = us[KICKS / 2];
	*p99 = us[KICKS * 99 / 100];
}

static void latency(struct guest *g, const char *what)
{
	double p50, p99, base50, base99;

	measure(spin_thread, NULL, &base50, &base99);
	measure(vcpu_thread, g, &p50, &p99);
	ok(p50 - base50 < 1000 && p99 - 2 * base99 < 1000,
	   "%s: KVM_RUN returns within 1 ms of a signal (p50 %.0f us, p99 %.0f us; a spinning thread %.0f, %.0f)",
	   what, p50, p99, base50, base99);
	free_guest(g);
}

static void t_latency_loop(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xeb, 0xfe);
	latency(&g, "tight loop");
}

static void t_latency_hlt(void)
{
	struct guest g;

	NEW_GUEST(&g, FULL_CHIP, 0xf4, 0xeb, 0xfd);
	latency(&g, "halted");
}

/* Every delivery of #UD faults again: IVT entry 6 points at UD2 with a stack that never ends. */
static void t_latency_delivery(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0x0f, 0x0b);
	memcpy(g.mem + 6 * 4, "\x00\x10\x00\x00", 4);
	latency(&g, "endless exceptions");
}

int main(void)
{
	tap_child("tight loop", t_loop);
	tap_child("sigaction flags", t_restart_flags);
	tap_child("halted vCPU", t_halted);
	tap_child("handler that uses the API", t_handler_uses_api);
	tap_child("KVM_SET_SIGNAL_MASK", t_mask);
	tap_death("default action", t_default_kills, SIGALRM);
	tap_child("adopted handler", t_adopted);
	tap_death("a fault that is not the engine's", t_cancel_chain, SIGSEGV);
	t_latency_loop();
	t_latency_hlt();
	t_latency_delivery();
	return done_testing();
}
