/* SPDX-License-Identifier: MIT */
/*
 * The service thread: one per process, all signals blocked.
 *
 * It sleeps in epoll on the irqfds, on one timerfd armed for the chips' earliest deadline and on an eventfd
 * that interrupts it. It never runs guest code: it sets request bits and calls src/irq, no more.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/base.h"
#include "kvm/sys.h"

static struct {
	pthread_mutex_t lock;
	bool running;
	int epoll, timer, wake;
	struct service_watch timer_watch, wake_watch;
	struct irq_timerq timers;
	/* service_del() waits until the pass that may still hold the watch is over */
	_Atomic u32 pass;
	/* what a watch held when it was added is seen by the thread that finds it ready: the system calls order
	 * nothing as far as the language knows */
	_Atomic u32 added;
	_Atomic int tid;
} service = { .lock = PTHREAD_MUTEX_INITIALIZER, .epoll = -1, .timer = -1, .wake = -1 };

static void arm_timer(u64 deadline)
{
	struct itimerspec its = { 0 };

	if (deadline != IRQ_NEVER) {
		its.it_value.tv_sec = (time_t)(deadline / 1000000000u);
		its.it_value.tv_nsec = (long)(deadline % 1000000000u);
		if (!deadline)
			its.it_value.tv_nsec = 1;
	}
	sys_call(SYS_timerfd_settime, service.timer, TFD_TIMER_ABSTIME, &its, NULL);
}

/* From any thread that armed a timer, inside cpu_run() too. */
static void timer_notify(struct irq_timerq *q, u64 deadline)
{
	arm_timer(deadline);
}

static void timer_fired(struct service_watch *w)
{
	u64 n;

	sys_read(w->fd, &n, sizeof(n));
	irq_timerq_run(&service.timers, base_now_ns());
}

static void woken(struct service_watch *w)
{
	u64 n;

	sys_read(w->fd, &n, sizeof(n));
}

static void *service_main(void *arg)
{
	struct epoll_event ev[32];

	service.tid = base_gettid();
	for (;;) {
		long n = sys_call(SYS_epoll_wait, service.epoll, ev, 32, -1);

		atomic_load_explicit(&service.added, memory_order_acquire);
		for (long i = 0; i < n; i++) {
			struct service_watch *w = ev[i].data.ptr;

			w->fn(w);
		}
		atomic_fetch_add(&service.pass, 1);
		futex_wake(&service.pass, 1 << 30);
		if (n < 0 && n != -EINTR)
			return NULL;
	}
}

static int add(struct service_watch *w)
{
	struct epoll_event ev = { .events = w->events ?: EPOLLIN, .data.ptr = w };

	atomic_fetch_add_explicit(&service.added, 1, memory_order_release);
	return (int)sys_call(SYS_epoll_ctl, service.epoll, EPOLL_CTL_ADD, w->fd, &ev);
}

static int start_thread(void)
{
	sigset_t all, old;
	pthread_t t;
	int r;

	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&t, NULL, service_main, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!r) {
		pthread_setname_np(t, "casement");
		pthread_detach(t);
	}
	return r;
}

static int start(void)
{
	int r;

	service.epoll = (int)sys_call(SYS_epoll_create1, EPOLL_CLOEXEC);
	service.timer = (int)sys_call(SYS_timerfd_create, CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	service.wake = (int)sys_call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (service.epoll < 0 || service.timer < 0 || service.wake < 0)
		return -EMFILE;
	service.timer_watch = (struct service_watch){ .fd = service.timer, .fn = timer_fired };
	service.wake_watch = (struct service_watch){ .fd = service.wake, .fn = woken };
	irq_timerq_init(&service.timers, timer_notify, NULL);
	r = add(&service.timer_watch);
	if (!r)
		r = add(&service.wake_watch);
	return r ?: start_thread();
}

static void close_all(void)
{
	if (service.epoll >= 0)
		sys_close(service.epoll);
	if (service.timer >= 0)
		sys_close(service.timer);
	if (service.wake >= 0)
		sys_close(service.wake);
	service.epoll = service.timer = service.wake = -1;
}

int service_start(void)
{
	int r = 0;

	if (service.running)
		return 0;
	pthread_mutex_lock(&service.lock);
	if (!service.running) {
		r = start();
		service.running = !r;
		if (r)
			close_all();
	}
	pthread_mutex_unlock(&service.lock);
	return r;
}

void service_forked(void)
{
	pthread_mutex_init(&service.lock, NULL);
	if (service.running)
		close_all();
	service.running = false;
	memset(&service.timers, 0, sizeof(service.timers));
}

int service_add(struct service_watch *w)
{
	return add(w);
}

void service_del(struct service_watch *w)
{
	u64 one = 1;
	u32 seen;

	sys_call(SYS_epoll_ctl, service.epoll, EPOLL_CTL_DEL, w->fd, NULL);
	if (!service.running || base_gettid() == service.tid)
		return;
	seen = atomic_load(&service.pass);
	sys_write(service.wake, &one, sizeof(one));
	while (atomic_load(&service.pass) == seen)
		futex_wait(&service.pass, seen, -1);
}

struct irq_timerq *service_timerq(void)
{
	return &service.timers;
}
