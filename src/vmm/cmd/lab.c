/* SPDX-License-Identifier: MIT */
/*
 * casement lab: the corpus of hostile and innocent guests against this build's containment.
 *
 * Each guest runs in a child process of its own: whatever it does, the lab goes on and says so.
 */
#include "vmm/cmd/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "vmm/lab/lab.h"
#include "vmm/vmm.h"

#define JOBS_MAX      64
#define CHILD_SECONDS 120

static const struct lab_family *const families[] = {
	&lab_ac, &lab_db, &lab_fault, &lab_shutdown, &lab_lock, &lab_bus, &lab_storm, &lab_engine, &lab_hang,
		&lab_innocent,
};

struct lab {
	bool json, list;
	unsigned long jobs, repeat;
	const char *plot;
	char **names;
	int nr_names;
	unsigned int passed, failed, hostile, innocent;
	double worst_ms;
};

/* ---- choosing ----------------------------------------------------------------------------------- */

/* A guest's name, or a family's. */
static bool wanted(const struct lab *l, const struct lab_family *f, const struct lab_guest *g)
{
	if (!l->nr_names)
		return true;
	for (int i = 0; i < l->nr_names; i++)
		if (!strcmp(l->names[i], g->name) || !strcmp(l->names[i], f->name))
			return true;
	return false;
}

static const struct lab_guest *guest_find(const char *name)
{
	for (size_t f = 0; f < ARRAY_SIZE(families); f++)
		for (unsigned int i = 0; i < families[f]->n; i++)
			if (!strcmp(name, families[f]->guest[i].name))
				return &families[f]->guest[i];
	return NULL;
}

static bool known(const char *name)
{
	for (size_t f = 0; f < ARRAY_SIZE(families); f++)
		if (!strcmp(name, families[f]->name))
			return true;
	return guest_find(name);
}

/* ---- one line for each guest -------------------------------------------------------------------- */

static void print_text(const struct lab_guest *g, const struct lab_result *r)
{
	printf("%-22s %-8s %-10s %8.2f ms  %-4s  %s%s%s\n", g->name, lab_hostile(g) ? "hostile" : "innocent",
	       lab_end_name(g->end), r->ms, r->pass ? "pass" : "FAIL", g->attack, r->pass ? "" : ": ",
	       r->pass ? "" : r->why);
}

static void print_json(const struct lab_guest *g, const struct lab_result *r)
{
	printf("{\"name\":\"%s\",\"kind\":\"%s\",\"attack\":\"%s\",\"contained_by\":\"%s\",\"ms_to_control\":%.3f,"
	       "\"seen_uncontained\":%s,\"verdict\":\"%s\"",
	       g->name, lab_hostile(g) ? "hostile" : "innocent", g->attack, lab_end_name(g->end), r->ms,
	       r->bare ? "true" : "false", r->pass ? "pass" : "fail");
	if (!r->pass)
		printf(",\"why\":\"%s\"", r->why);
	printf("}\n");
}

static void report(struct lab *l, const struct lab_guest *g, const struct lab_result *r)
{
	if (l->json)
		print_json(g, r);
	else
		print_text(g, r);
	fflush(stdout);
	r->pass ? l->passed++ : l->failed++;
	lab_hostile(g) ? l->hostile++ : l->innocent++;
	if (lab_hostile(g) && r->pass && r->ms > l->worst_ms)
		l->worst_ms = r->ms;
}

/* ---- children ----------------------------------------------------------------------------------- */

struct job {
	const struct lab_guest *guest;
	pid_t pid;
	int fd;
};

static void child(const struct lab *l, const struct lab_guest *g, int fd)
{
	struct lab_result r = { 0 };
	unsigned long times = lab_hostile(g) ? 1 : l->repeat;

	alarm((unsigned int)(CHILD_SECONDS * times));
	do
		lab_run(g, &r);
	while (r.pass && --times);
	_exit(write(fd, &r, sizeof(r)) != sizeof(r));
}

static int start(const struct lab *l, struct job *j, const struct lab_guest *g)
{
	int p[2];

	if (pipe(p))
		return vmm_error(EXIT_HOST, "pipe: %s", strerror(errno));
	fflush(stdout);
	j->guest = g;
	j->pid = fork();
	if (j->pid < 0)
		return vmm_error(EXIT_HOST, "fork: %s", strerror(errno));
	if (!j->pid) {
		close(p[0]);
		child(l, g, p[1]);
	}
	close(p[1]);
	j->fd = p[0];
	return 0;
}

static void finish(struct lab *l, struct job *j)
{
	struct lab_result r = { 0 };
	ssize_t got;
	int status;

	do
		got = read(j->fd, &r, sizeof(r));
	while (got < 0 && errno == EINTR);
	close(j->fd);
	waitpid(j->pid, &status, 0);
	if (got != sizeof(r)) {
		memset(&r, 0, sizeof(r));
		if (WIFSIGNALED(status))
			snprintf(r.why, sizeof(r.why), "the monitor died: %s", strsignal(WTERMSIG(status)));
		else
			snprintf(r.why, sizeof(r.why), "the monitor said nothing");
	}
	report(l, j->guest, &r);
	j->guest = NULL;
}

/* Wait for the oldest child: the lines come in the corpus's order. */
static int run_all(struct lab *l)
{
	struct job ring[JOBS_MAX] = { 0 };
	unsigned int head = 0, tail = 0;
	int rc = 0;

	for (size_t f = 0; f < ARRAY_SIZE(families) && !rc; f++) {
		for (unsigned int i = 0; i < families[f]->n && !rc; i++) {
			const struct lab_guest *g = &families[f]->guest[i];

			if (!wanted(l, families[f], g))
				continue;
			if (head - tail == l->jobs)
				finish(l, &ring[tail++ % JOBS_MAX]);
			rc = start(l, &ring[head % JOBS_MAX], g);
			head += !rc;
		}
	}
	while (tail != head)
		finish(l, &ring[tail++ % JOBS_MAX]);
	return rc;
}

/* ---- the command line --------------------------------------------------------------------------- */

static void list(const struct lab *l)
{
	for (size_t f = 0; f < ARRAY_SIZE(families); f++)
		for (unsigned int i = 0; i < families[f]->n; i++)
			if (wanted(l, families[f], &families[f]->guest[i]))
				printf("%-22s %-8s %s\n", families[f]->guest[i].name,
				       lab_hostile(&families[f]->guest[i]) ? "hostile" : "innocent",
				       families[f]->guest[i].attack);
}

static int help(void)
{
	printf("usage: casement lab [NAME...] [--json] [--list] [--jobs N] [--repeat N] [--plot FILE.svg]\n\n"
	       "Runs hostile and innocent guests on the software processor and says what became of them.\n"
	       "NAME is a guest or a family:");
	for (size_t f = 0; f < ARRAY_SIZE(families); f++)
		printf(" %s", families[f]->name);
	printf("\n\n  --json       one JSON object a line\n"
	       "  --list       names only\n"
	       "  --jobs N     guests at the same time (1)\n"
	       "  --repeat N   repetitions of each innocent guest (1)\n"
	       "  --plot FILE  a drawing of one attack: deliveries, window, exit\n\n"
	       "Exit code 0: every verdict is pass; 3: not so; 1: wrong use.\n");
	return 0;
}

static int number(const char *what, const char *text, unsigned long max, unsigned long *out)
{
	char *end;

	errno = 0;
	*out = strtoul(text, &end, 10);
	if (errno || *end || end == text || !*out || *out > max)
		return vmm_error(EXIT_USAGE, "lab: --%s takes a number from 1 to %lu, not '%s'", what, max, text);
	return 0;
}

static int parse(struct lab *l, int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "list", no_argument, NULL, 'l' },
		{ "jobs", required_argument, NULL, 'n' },
		{ "repeat", required_argument, NULL, 'r' },
		{ "plot", required_argument, NULL, 'p' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c, rc = 0;

	optind = 0;
	opterr = 0;
	while (!rc && (c = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			l->json = true;
			break;
		case 'l':
			l->list = true;
			break;
		case 'n':
			rc = number("jobs", optarg, JOBS_MAX, &l->jobs);
			break;
		case 'r':
			rc = number("repeat", optarg, 100000, &l->repeat);
			break;
		case 'p':
			l->plot = optarg;
			break;
		case 'h':
			help();
			exit(0);
		default:
			return vmm_error(EXIT_USAGE, "lab: bad option '%s' (see casement lab --help)",
					 argv[optind - 1]);
		}
	}
	return rc;
}

/* Options may stand before and after names. */
static int parse_all(struct lab *l, int argc, char **argv)
{
	int rc;

	l->names = calloc((size_t)argc + 1, sizeof(*l->names));
	if (!l->names)
		return vmm_error(EXIT_HOST, "lab: out of memory");
	for (argv--, argc++; argc > 1; argv += optind, argc -= optind) {
		rc = parse(l, argc, argv);
		if (rc)
			return rc;
		if (optind >= argc)
			break;
		l->names[l->nr_names] = argv[optind];
		if (!known(argv[optind]))
			return vmm_error(EXIT_USAGE, "lab: no guest or family '%s' (see casement lab --list)",
					 argv[optind]);
		l->nr_names++;
	}
	if (l->plot && (l->nr_names != 1 || !guest_find(l->names[0])))
		return vmm_error(EXIT_USAGE, "lab: --plot draws one guest: name it");
	return 0;
}

int cmd_lab(int argc, char **argv)
{
	struct lab l = { .jobs = 1, .repeat = 1 };
	int rc = parse_all(&l, argc, argv);

	if (!rc && !kvm_call_find("casement"))
		rc = vmm_error(EXIT_HOST, "lab: this program has no software processor");
	if (!rc && l.list)
		list(&l);
	else if (!rc)
		rc = run_all(&l);
	if (!rc && l.plot)
		rc = lab_plot(guest_find(l.names[0]), l.plot);
	free(l.names);
	if (rc || l.list)
		return rc;
	if (!l.json)
		printf("%u hostile, %u innocent: %u pass, %u fail; slowest return of control %.2f ms (window + "
		       "threshold: %.2f ms)\n",
		       l.hostile, l.innocent, l.passed, l.failed, l.worst_ms, LAB_THRESHOLD * 1e3 / LAB_CRYSTAL_HZ);
	return l.failed ? EXIT_CRASH : 0;
}
