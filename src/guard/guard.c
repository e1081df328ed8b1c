/* SPDX-License-Identifier: MIT */
#include "guard/guard.h"

#include <stdio.h>
#include <string.h>

void guard_init(struct guard *g, const struct guard_opts *opt, u32 vm)
{
	g->opt = *opt;
	g->ring.vm = vm;
	guard_lock_init(&g->lock, opt);
	g->notify_window = opt->notify_window;
	g->notify_threshold = opt->notify_threshold;
	g->notify = !opt->notify_forbidden &&
		    (opt->notify_vmexit == NOTIFY_RUN || opt->notify_vmexit == NOTIFY_INTERNAL_ERROR);
}

void guard_vcpu_init(struct guard_vcpu *gv, struct guard *g, struct vcpu *v)
{
	gv->guard = g;
	gv->v = v;
	v->guard = gv;
}

struct guard_opts guard_opts_now(const struct guard *g)
{
	struct guard_opts now = g->opt;

	now.notify_window = g->notify_window;
	now.notify_threshold = g->notify_threshold;
	return now;
}

int guard_change_option(struct guard *g, const char *option, char *err, size_t n)
{
	struct guard_opts next = guard_opts_now(g);
	int r;

	if (strchr(option, ',') ||
	    (strncmp(option, "notify-window=", 14) && strncmp(option, "notify-threshold=", 17))) {
		snprintf(err, n, "a running VM takes notify-window=N and notify-threshold=N");
		return -EINVAL;
	}
	r = guard_opts_parse(&next, option, OPTS_USER, err, n);
	if (r)
		return r;
	g->notify_window = next.notify_window;
	g->notify_threshold = next.notify_threshold;
	return 0;
}
