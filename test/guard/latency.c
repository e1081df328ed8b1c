/* SPDX-License-Identifier: MIT */
/*
 * During an endless delivery with notify exits off: how soon the host gets through, and whether another vCPU notices.
 * Times are printed; the bounds are generous where the machine is shared, and hold exactly in check-long on a
 * quiet one.
 */
#include "vm.h"

#include <stdatomic.h>
#include <sys/resource.h>

#define KICKS 500

static _Atomic bool quit;
static _Atomic double sent;
static double took[KICKS];

static int by_value(const void *a, const void *c)
{
	double x = *(const double *)a, y = *(const double *)c;

	return (x > y) - (x < y);
}

static double percentile(double *v, unsigned int n, unsigned int p)
{
	qsort(v, n, sizeof(*v), by_value);
	return v[(n - 1) * p / 100];
}

static void on_usr1(int sig)
{
}

/* ---- a signal ------------------------------------------------------------------------------------------- */

static pthread_t runner;
static _Atomic unsigned int returned;

static void *run_loop(void *arg)
{
	while (!quit) {
		int r = board_cpu_ioctl(&b, 0, KVM_RUN, NULL);
		double now = board_now();

		if (r == -EINTR && sent > 0 && returned < KICKS) {
			took[returned] = now - sent;
			sent = 0;
			returned++;
		}
	}
	return NULL;
}

/* The same on a thread that only spins: what the machine itself needs. */
static double spin_ms[KICKS];
static _Atomic unsigned int spun;

static void on_spin(int sig)
{
	if (sent > 0 && spun < KICKS) {
		spin_ms[spun] = board_now() - sent;
		sent = 0;
		spun++;
	}
}

static void *spin(void *arg)
{
	while (!quit)
		;
	return NULL;
}

static void send_all(int sig, const _Atomic unsigned int *count)
{
	for (unsigned int i = 0; i < KICKS; i++) {
		sent = board_now();
		pthread_kill(runner, sig);
		for (unsigned int spins = 0; *count <= i; spins++) {
			usleep(50);
			if (spins % 2000 == 1999)
				pthread_kill(runner, sig);
		}
	}
}

static void signals(void)
{
	struct sigaction sa = { .sa_handler = on_usr1 }, spin_sa = { .sa_handler = on_spin };
	double p99, base;

	casement_sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGALRM, &spin_sa, NULL);
	pthread_create(&runner, NULL, spin, NULL);
	send_all(SIGALRM, &spun);
	quit = true;
	pthread_join(runner, NULL);
	base = percentile(spin_ms, KICKS, 99) * 1e3;
	quit = false;

	fresh("intercepts=drop");
	ac_loop();
	pthread_create(&runner, NULL, run_loop, NULL);
	usleep(10000);
	send_all(SIGUSR1, &returned);
	quit = true;
	pthread_kill(runner, SIGUSR1);
	pthread_join(runner, NULL);
	p99 = percentile(took, KICKS, 99) * 1e3;
	diag("signal to KVM_RUN's return: p50 %.3f ms, p99 %.3f ms; a spinning thread's handler: p99 %.3f ms",
	     percentile(took, KICKS, 50) * 1e3, p99, base);
	ok(percentile(took, KICKS, 50) < 1e-3, "half of all signals end KVM_RUN within 1 ms");
	/* make check runs beside other work: what the scheduler does to one in a hundred is not ours */
	if (tap_scale() > 1)
		ok(p99 < 1 || p99 < 2 * base, "99 of 100 within 1 ms");
	else
		ok(percentile(took, KICKS, 90) < 1e-3, "9 of 10 within 1 ms");
	quit = false;
	gone();
}

/* ---- memory slots -------------------------------------------------------------------------------------- */

#define SLOTS 200

static _Atomic unsigned int stuck_returns;

static void *run_stuck(void *arg)
{
	struct kvm_run *run = b.cpu[0].run;

	while (!quit) {
		run->immediate_exit = 0;
		board_cpu_ioctl(&b, 0, KVM_RUN, NULL);
		stuck_returns++;
	}
	return NULL;
}

static void stop(pthread_t t, int cpu)
{
	quit = true;
	for (int i = 0; i < 200; i++) {
		b.cpu[cpu].run->immediate_exit = 1;
		pthread_kill(t, SIGUSR1);
		usleep(100);
	}
	pthread_join(t, NULL);
}

static void slots(void)
{
	static u8 mem[0x10000] __attribute__((aligned(4096)));
	struct kvm_userspace_memory_region m = { .slot = 1, .guest_phys_addr = 0x10000000, .userspace_addr = (u64)mem };
	double t[SLOTS];
	pthread_t th;

	fresh("intercepts=drop");
	ac_loop();
	pthread_create(&th, NULL, run_stuck, NULL);
	usleep(10000);
	stuck_returns = 0;
	for (unsigned int i = 0; i < SLOTS; i++) {
		double start = board_now();

		m.memory_size = i & 1 ? 0 : sizeof(mem);
		if (board_ioctl(&b, KVM_SET_USER_MEMORY_REGION, &m))
			bail_out("KVM_SET_USER_MEMORY_REGION");
		t[i] = board_now() - start;
		usleep(500); /* let the vCPU run again */
	}
	is(stuck_returns, 0, "all the while KVM_RUN does not return");
	stop(th, 0);
	diag("KVM_SET_USER_MEMORY_REGION beside the loop: p50 %.3f ms, p99 %.3f ms", percentile(t, SLOTS, 50) * 1e3,
	     percentile(t, SLOTS, 99) * 1e3);
	ok(percentile(t, SLOTS, 50) < 5e-3, "KVM_SET_USER_MEMORY_REGION takes at most 5 ms");
	ok(percentile(t, SLOTS, 99) < 50e-3, "and is never stuck");
	quit = false;
	gone();
}

/* ---- a sibling ------------------------------------------------------------------------------------------- */

/* Change a page table entry, flush, ask the other vCPU to flush by an NMI: a shootdown that needs no answer. */
BOARD_ASM(shootdowns, 32,
	  "mov $0xfee00300, %ebx; 1: movl $0x00300067, 0x15c00; invlpg 0x300000; mov %cr3, %eax; "
	  "mov %eax, %cr3;"
	  "incl 0x30900; jmp 1b");

static u64 rate(bool attacked)
{
	struct rusage before, after;
	pthread_t th;
	double cpu;
	u64 n;

	fresh("intercepts=drop");
	if (attacked) {
		ac_loop();
	} else {
		board_cpu(&b, BOARD_PROT32);
		memcpy(b.ram + board_code_at(0), "\xeb\xfe", 2);
	}
	board_code(&b, new_cpu(BOARD_PAGED32), shootdowns);
	pthread_create(&th, NULL, run_stuck, NULL);
	usleep(20000);
	getrusage(RUSAGE_THREAD, &before);
	board_run(&b, 1, 400);
	getrusage(RUSAGE_THREAD, &after);
	n = board_get(&b, 0x30900, 4);
	stop(th, 0);
	quit = false;
	gone();
	/* by CPU time: the machine may be shared */
	cpu = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec) +
	      (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec) * 1e-6 +
	      (double)(after.ru_stime.tv_sec - before.ru_stime.tv_sec) +
	      (double)(after.ru_stime.tv_usec - before.ru_stime.tv_usec) * 1e-6;
	return (u64)((double)n / cpu);
}

static void sibling(void)
{
	u64 best_alone = 0, best_beside = 0;

	for (int i = 0; i < 6 && (!i || best_beside * 100 < best_alone * 95); i++) {
		u64 alone = rate(false), beside = rate(true);

		best_alone = alone > best_alone ? alone : best_alone;
		best_beside = beside > best_beside ? beside : best_beside;
	}
	diag("shootdowns a second: %llu beside a vCPU that jumps to itself, %llu beside the loop "
	     "(%.1f %%)",
	     (unsigned long long)best_alone, (unsigned long long)best_beside,
	     100.0 * (double)best_beside / (double)best_alone);
	ok(best_beside * 100 >= best_alone * 95, "a sibling keeps 95 %% of its rate");
}

/* ---- a loop of PAUSE ------------------------------------------------------------------------------------ */

BOARD_ASM(pauses, 64, "mov $100000, %ecx\n1: pause\n dec %ecx\n jnz 1b\n out %al, $0x80");

static u64 yields(bool stay)
{
	u64 n;
	int cpu;

	fresh("");
	if (stay && board_enable_cap(&b, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_PAUSE))
		bail_out("KVM_CAP_X86_DISABLE_EXITS");
	cpu = new_cpu(BOARD_LONG64);
	board_code(&b, cpu, pauses);
	is(board_run(&b, cpu, 20000), KVM_EXIT_IO, "the loop of PAUSE ends");
	n = stat_of(cpu, "directed_yield_attempted", 0);
	gone();
	return n;
}

static void spinning(void)
{
	ok(yields(false) > 0, "a processor that spins on PAUSE gives up its host core");
	is(yields(true), 0, "not one whose PAUSE exits are disabled");
}

int main(void)
{
	signals();
	slots();
	sibling();
	spinning();
	return done_testing();
}
