/* SPDX-License-Identifier: MIT */
/* Pausing with threads: mutual exclusion, two requesters, entering during a pause, waking a sleeper. */
#include "mem_fake.h"

#include <pthread.h>
#include <unistd.h>

#define VCPUS 3
#define ROUNDS 2000

static struct vcpu *vc[VCPUS];
static _Atomic bool quit;
static u64 shared; /* not atomic on purpose: a pause must protect it */
static _Atomic u32 inside; /* vCPUs between two boundaries */
static _Atomic u32 broken;

/* A vCPU: short stretches of guest code, pause requests served between them. */
static void *runs(void *arg)
{
	struct vcpu *v = arg;
	u64 seed = v->index;

	while (!atomic_load(&quit)) {
		cpu_enter_guest(v);
		for (int i = 0; i < 50; i++) {
			atomic_fetch_add(&inside, 1);
			for (volatile int spin = 0; spin < 20; spin++)
				;
			atomic_fetch_sub(&inside, 1);
			if (!(tap_rand(&seed) & 63)) {
				vm_pause(v->vm, v);
				if (atomic_load(&inside))
					atomic_fetch_add(&broken, 1);
				shared++;
				vm_pause(v->vm, v);
				shared++;
				vm_resume(v->vm, v, 0);
				vm_resume(v->vm, v, REQ_TLB);
			}
			if (atomic_load(&v->request) & REQ_PAUSE)
				cpu_pause_point(v);
		}
		cpu_leave_guest(v);
		atomic_fetch_and(&v->request, ~(u32)REQ_TLB);
	}
	return NULL;
}

static void exclusion(void)
{
	pthread_t t[VCPUS];
	u64 before, after;

	for (int i = 0; i < VCPUS; i++)
		pthread_create(&t[i], NULL, runs, vc[i]);
	for (int i = 0; i < ROUNDS; i++) {
		vm_pause(&fake_vm, NULL);
		before = shared;
		if (atomic_load(&inside))
			atomic_fetch_add(&broken, 1);
		after = shared;
		if (before != after)
			atomic_fetch_add(&broken, 1);
		vm_resume(&fake_vm, NULL, 0);
	}
	/* On a busy machine the threads may only now begin. */
	for (int ms = 0; ms < 20000 && !__atomic_load_n(&shared, __ATOMIC_RELAXED); ms++)
		usleep(1000);
	atomic_store(&quit, true);
	for (int i = 0; i < VCPUS; i++)
		pthread_join(t[i], NULL);
	is(broken, 0, "nobody runs during a pause, whoever asked for it");
	ok(shared && !(shared & 1), "%" PRIu64 " nested pauses by vCPUs", shared / 2);
	is(fake_vm.pause_lock, 0, "all resumed");
}

static void *enters(void *arg)
{
	cpu_enter_guest(arg);
	atomic_store(&inside, 7);
	cpu_leave_guest(arg);
	return NULL;
}

static void entering(void)
{
	pthread_t t;

	atomic_store(&inside, 0);
	vm_pause(&fake_vm, NULL);
	pthread_create(&t, NULL, enters, vc[0]);
	usleep(20000);
	is(inside, 0, "a vCPU does not enter during a pause");
	vm_resume(&fake_vm, NULL, REQ_TLB | REQ_FETCH);
	pthread_join(t, NULL);
	is(inside, 7, "but after it");
	is(vc[0]->request & (REQ_TLB | REQ_FETCH), REQ_TLB | REQ_FETCH, "with the requests that were posted");
	is(vc[1]->request & REQ_TLB, REQ_TLB, "as have those outside");
	vc[0]->request = vc[1]->request = 0;
}

static int slept;

static void *sleeps(void *arg)
{
	slept = vcpu_sleep(arg, REQ_EVENT, 5000000000ll);
	return NULL;
}

static void sleeping(void)
{
	pthread_t t;
	double start = tap_now();

	pthread_create(&t, NULL, sleeps, vc[0]);
	usleep(10000);
	vcpu_request(vc[0], REQ_TLB);
	usleep(10000);
	vcpu_request(vc[0], REQ_EVENT);
	pthread_join(t, NULL);
	is(slept, 0, "a request wakes a sleeper");
	ok(tap_now() - start < 2, "at once");
	is(vcpu_sleep(vc[0], REQ_EVENT, -1), 0, "one that is already there does not sleep");
	vc[0]->request = 0;
	start = tap_now();
	is(vcpu_sleep(vc[0], REQ_EVENT, 20000000), -ETIMEDOUT, "a timeout");
	ok(tap_now() - start >= 0.019, "is waited for");
}

int main(void)
{
	alarm(30);
	fake_machine();
	for (int i = 0; i < VCPUS; i++)
		vc[i] = i ? fake_vcpu() : fake_vm.vcpu[0];
	exclusion();
	entering();
	sleeping();
	return done_testing();
}
