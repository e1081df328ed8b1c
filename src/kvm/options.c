/* SPDX-License-Identifier: MIT */
/*
 * Where the engine's options come from: the administrator's file, the environment, the program.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define ADMIN_FILE "/etc/casement/opts"

static struct {
	pthread_mutex_t lock;
	bool loaded;
	int error;
	u32 vms;
	struct guard_opts base, opt;	/* of the host and the environment; with the program's */
} options = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* For tests; a program with more rights than its caller takes the administrator's file only. */
static const char *admin_file(void)
{
	return secure_getenv("CASEMENT_OPTS_FILE") ?: ADMIN_FILE;
}

static int load(void)
{
	const char *env = getenv("CASEMENT_OPTS");
	char err[1024];
	int r;

	guard_opts_default(&options.base);
	r = guard_opts_file(&options.base, admin_file(), err, sizeof(err));
	if (r) {
		fprintf(stderr, "casement: %s\n", err);
		return r;
	}
	r = env ? guard_opts_parse(&options.base, env, OPTS_USER, err, sizeof(err)) : 0;
	if (r)
		fprintf(stderr, "casement: CASEMENT_OPTS: %s\n", err);
	options.opt = options.base;
	return r;
}

static int load_locked(void)
{
	if (!options.loaded) {
		options.error = load();
		options.loaded = true;
	}
	return options.error;
}

int options_load(void)
{
	int r;

	pthread_mutex_lock(&options.lock);
	r = load_locked();
	pthread_mutex_unlock(&options.lock);
	return r;
}

int options_set(const char *list, char *err, size_t n)
{
	struct guard_opts next;
	char why[1024];
	int r;

	pthread_mutex_lock(&options.lock);
	r = load_locked();
	next = options.base;
	if (!r)
		r = guard_opts_parse(&next, list, OPTS_USER, why, sizeof(why));
	else
		snprintf(why, sizeof(why), "/etc/casement/opts or CASEMENT_OPTS is wrong");
	if (!r)
		options.opt = next;
	pthread_mutex_unlock(&options.lock);
	if (r && err && n)
		snprintf(err, n, "%s", why);
	return r;
}

bool options_notify(void)
{
	return !options_load() && guard_notify_supported(&options.opt);
}

int options_for_vm(struct guard *g)
{
	int r;

	pthread_mutex_lock(&options.lock);
	r = load_locked();
	if (!r)
		guard_init(g, &options.opt, options.vms++);
	pthread_mutex_unlock(&options.lock);
	return r;
}

void options_copy(struct guard_opts *o)
{
	pthread_mutex_lock(&options.lock);
	if (!load_locked())
		*o = options.opt;
	else
		guard_opts_default(o);
	pthread_mutex_unlock(&options.lock);
}
