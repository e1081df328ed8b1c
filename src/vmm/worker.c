/* SPDX-License-Identifier: MIT */
#include "vmm/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "vmm/vmm.h"

#define WORKERS_MAX 20

/* One process, one VM: the workers are the process's. */
static struct worker {
	struct loop loop;
	pthread_t thread;
	char name[16];
	bool started;
	_Atomic bool done;
} workers[WORKERS_MAX];
static unsigned int nr_workers;

struct loop *worker_create(const char *name)
{
	struct worker *w = &workers[nr_workers];

	if (nr_workers == WORKERS_MAX || loop_create(&w->loop))
		return NULL;
	snprintf(w->name, sizeof(w->name), "%s", name);
	nr_workers++;
	return &w->loop;
}

static void *run(void *arg)
{
	struct worker *w = arg;
	sigset_t kick;

	pthread_setname_np(pthread_self(), w->name);
	sigemptyset(&kick);
	sigaddset(&kick, SIG_KICK);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	loop_run(&w->loop);
	atomic_store(&w->done, true);
	return NULL;
}

int workers_start(void)
{
	for (unsigned int i = 0; i < nr_workers; i++) {
		int rc = pthread_create(&workers[i].thread, NULL, run, &workers[i]);

		if (rc)
			return -rc;
		workers[i].started = true;
	}
	return 0;
}

bool workers_stop(void)
{
	const struct timespec tick = { .tv_nsec = 2000000 };
	bool all = true;

	for (unsigned int i = 0; i < nr_workers; i++) {
		struct worker *w = &workers[i];

		if (!w->started)
			continue;
		loop_stop(&w->loop);
		for (int tries = 0; !atomic_load(&w->done) && tries < 2500; tries++) {
			pthread_kill(w->thread, SIG_KICK);
			nanosleep(&tick, NULL);
		}
		if (atomic_load(&w->done))
			pthread_join(w->thread, NULL);
		else
			all = false;
	}
	return all;
}
