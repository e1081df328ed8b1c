/* SPDX-License-Identifier: MIT */
/*
 * One attack as a drawing: deliveries that nothing retired between, against time; the notify window; the exits, and
 * what the monitor did. The counter is the vCPU's binary statistic windowless_deliveries, read while the guest
 * runs.
 */
#include "vmm/lab/lab.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifndef CASEMENT_NO_ENGINE
#include "casement/casement.h"
#endif
#include "vmm/vmm.h"

#define SAMPLES	  4000
#define SAMPLE_NS 50000
#define ENTRIES	  4 /* the monitor enters again so often, then stops */
#define WIDTH	  900.0
#define HEIGHT	  320.0
#define LEFT	  90.0
#define TOP	  70.0

struct sample {
	double ms;
	u64 count;
};

struct plot {
	const struct lab_guest *g;
	struct board b;
	int stats;
	off_t counter;
	double since;
	_Atomic bool over;
	unsigned int n, entries;
	struct sample s[SAMPLES];
	struct {
		double from, to;
		int exit;
	} run[ENTRIES];
};

static double now_ms(const struct plot *p)
{
	return (board_now() - p->since) * 1e3;
}

/* ---- taking it down ----------------------------------------------------------------------------- */

static void take_sample(struct plot *p)
{
	struct sample s = { .ms = now_ms(p) };

	if (p->n < SAMPLES && pread(p->stats, &s.count, 8, p->counter) == 8)
		p->s[p->n++] = s;
}

static void *sampler(void *arg)
{
	const struct timespec nap = { .tv_nsec = SAMPLE_NS };
	struct plot *p = arg;

	while (!p->over && p->n < SAMPLES) {
		take_sample(p);
		nanosleep(&nap, NULL);
	}
	return NULL;
}

static void enter_it(struct plot *p)
{
	for (p->entries = 0; p->entries < ENTRIES;) {
		int got;

		p->run[p->entries].from = now_ms(p);
		got = board_run(&p->b, 0, 100);
		p->run[p->entries].to = now_ms(p);
		p->run[p->entries++].exit = got;
		if (got != KVM_EXIT_NOTIFY)
			break;
	}
}

static int take_down(struct plot *p)
{
	pthread_t t;
	int err;

#ifndef CASEMENT_NO_ENGINE
	casement_set_options(p->g->options, NULL, 0);
#endif
	err = board_create(&p->b, kvm_call_find("casement"));
	if (!err)
		err = board_enable_cap(&p->b, KVM_CAP_X86_NOTIFY_VMEXIT,
				       KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER);
	if (err)
		return err;
	p->g->setup(&p->b);
	p->stats = board_stat(&p->b, 0, "windowless_deliveries", &p->counter);
	if (p->stats < 0)
		return p->stats;
	p->since = board_now();
	if (pthread_create(&t, NULL, sampler, p))
		return -EAGAIN;
	enter_it(p);
	take_sample(p);
	p->over = true;
	pthread_join(t, NULL);
	return 0;
}

/* ---- drawing it --------------------------------------------------------------------------------- */

static double x_of(const struct plot *p, double ms)
{
	return LEFT + ms / p->run[p->entries - 1].to * (WIDTH - LEFT - 30);
}

static double y_of(const struct plot *p, u64 count)
{
	u64 most = p->n ? p->s[p->n - 1].count : 0;

	return TOP + (HEIGHT - TOP - 60) * (1 - (most ? (double)count / (double)most : 0));
}

static const char *exit_label(int exit)
{
	switch (exit) {
	case KVM_EXIT_NOTIFY:
		return "KVM_EXIT_NOTIFY";
	case KVM_EXIT_INTERNAL_ERROR:
		return "KVM_EXIT_INTERNAL_ERROR";
	case KVM_EXIT_SHUTDOWN:
		return "KVM_EXIT_SHUTDOWN";
	case KVM_EXIT_X86_BUS_LOCK:
		return "KVM_EXIT_X86_BUS_LOCK";
	case -ETIMEDOUT:
		return "signal";
	default:
		return exit < 0 ? strerror(-exit) : "exit";
	}
}

static void draw_runs(const struct plot *p, FILE *f)
{
	double bottom = HEIGHT - 60;

	for (unsigned int i = 0; i < p->entries; i++) {
		double from = x_of(p, p->run[i].from), to = x_of(p, p->run[i].to);
		bool last = i + 1 == p->entries;

		fprintf(f, "<rect class='window' x='%.1f' y='%.1f' width='%.1f' height='%.1f'/>\n", from, TOP,
			to - from, bottom - TOP);
		fprintf(f, "<line class='exit' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>\n", to, TOP - 6, to,
			bottom);
		fprintf(f, "<text class='small' text-anchor='end' x='%.1f' y='%.1f'>%s at %.2f ms</text>\n", to,
			TOP - 10 - (i & 1) * 14, exit_label(p->run[i].exit), p->run[i].to);
		fprintf(f, "<text class='small' text-anchor='end' x='%.1f' y='%.1f'>%s</text>\n", to, bottom + 32,
			last ? "monitor: stop" : "monitor: run");
	}
}

static void draw(const struct plot *p, FILE *f)
{
	double bottom = HEIGHT - 60;
	u64 most = p->n ? p->s[p->n - 1].count : 0;

	fprintf(f,
		"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %.0f %.0f' font-family='sans-serif' "
		"font-size='13'>\n",
		WIDTH, HEIGHT);
	fprintf(f,
		"<style>.window{fill:#e8eef7}.exit{stroke:#b3261e;stroke-width:2}.small{font-size:11px;fill:#444}"
		".curve{fill:none;stroke:#1f4e9c;stroke-width:2}.axis{stroke:#444}</style>\n");
	fprintf(f,
		"<rect width='100%%' height='100%%' fill='white'/>\n<text x='%.0f' y='22' font-weight='bold'>%s: "
		"%s</text>\n",
		LEFT, p->g->name, p->g->attack);
	draw_runs(p, f);
	fprintf(f, "<polyline class='curve' points='");
	for (unsigned int i = 0; i < p->n; i++)
		fprintf(f, "%.1f,%.1f ", x_of(p, p->s[i].ms), y_of(p, p->s[i].count));
	fprintf(f, "'/>\n<line class='axis' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>\n", LEFT, bottom, WIDTH - 30,
		bottom);
	fprintf(f, "<line class='axis' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>\n", LEFT, TOP, LEFT, bottom);
	fprintf(f, "<text class='small' x='%.1f' y='%.1f' text-anchor='end'>%llu</text>\n", LEFT - 6, TOP + 4,
		(unsigned long long)most);
	fprintf(f, "<text class='small' x='%.1f' y='%.1f' text-anchor='end'>0</text>\n", LEFT - 6, bottom);
	fprintf(f, "<text class='small' x='%.1f' y='%.1f'>0 ms</text>\n", LEFT, bottom + 16);
	fprintf(f,
		"<text class='small' transform='translate(16 %.1f) rotate(-90)'>deliveries without a "
		"window</text>\n",
		bottom);
	fprintf(f,
		"<text class='small' x='%.1f' y='%.1f'>shaded: the guest runs; notify window 0 + threshold %u "
		"crystal clocks = %.2f ms</text>\n",
		LEFT, HEIGHT - 8, LAB_THRESHOLD, LAB_THRESHOLD * 1e3 / LAB_CRYSTAL_HZ);
	fprintf(f, "</svg>\n");
}

int lab_plot(const struct lab_guest *g, const char *path)
{
	static struct plot p; /* large */
	FILE *f;
	int err;

	memset(&p, 0, sizeof(p));
	p.g = g;
	err = take_down(&p);
	if (err) {
		board_destroy(&p.b);
		return vmm_error(EXIT_HOST, "lab: %s: %s", g->name, strerror(-err));
	}
	board_destroy(&p.b);
	f = fopen(path, "w");
	if (!f)
		return vmm_error(EXIT_HOST, "lab: %s: %s", path, strerror(errno));
	draw(&p, f);
	if (fclose(f))
		return vmm_error(EXIT_HOST, "lab: %s: %s", path, strerror(errno));
	return 0;
}
