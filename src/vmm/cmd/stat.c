/* SPDX-License-Identifier: MIT */
/*
 * casement stat: what keeps a running VM's vCPUs out of the guest, in the form of perf-kvm-stat(1), and what the
 * engine did to the guest by policy. It asks the VM's control socket (option control=PATH).
 */
#include "vmm/cmd/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "vmm/vmm.h"

#define ROWS_MAX 64
#define ANSWER_MAX 4200

struct row {
	char name[32];
	u64 n, total, min, max;
};

struct table {
	struct row row[ROWS_MAX];
	unsigned int n;
};

static const char usage[] =
	"usage: casement stat [options] PATH\n\n"
	"PATH is what the option control=PATH of the VM says.\n\n"
	"      --json\n\tone JSON object instead of tables\n"
	"  -i, --interval SECONDS\n\tprint what came in that time, and again, until the VM ends\n"
	"  -h, --help\n\tprint this text\n";

/* ---- asking ---------------------------------------------------------------------------------------------- */

static FILE *dial(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if ((size_t)snprintf(a.sun_path, sizeof(a.sun_path), "%s", path) >= sizeof(a.sun_path))
		errno = ENAMETOOLONG;
	else if (fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fdopen(fd, "r+");
	if (fd >= 0)
		close(fd);
	return NULL;
}

/* What follows "ok", or NULL. */
static char *ask(FILE *f, const char *line, char *buf, size_t size)
{
	fprintf(f, "%s\n", line);
	fflush(f);
	if (!fgets(buf, (int)size, f) || strncmp(buf, "ok", 2))
		return NULL;
	buf[strcspn(buf, "\n")] = 0;
	return buf + 2 + (buf[2] == ' ');
}

static struct row *row_of(struct table *t, const char *name)
{
	for (unsigned int i = 0; i < t->n; i++)
		if (!strcmp(t->row[i].name, name))
			return &t->row[i];
	if (t->n == ROWS_MAX)
		return NULL;
	snprintf(t->row[t->n].name, sizeof(t->row[t->n].name), "%s", name);
	return &t->row[t->n++];
}

/* "name:n:total:min:max …" or "name:n …" */
static void add(struct table *t, char *text)
{
	char *save;

	for (char *p = strtok_r(text, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
		u64 v[4] = { 0 };
		char *colon = strchr(p, ':');
		struct row *r;

		if (!colon)
			continue;
		*colon = 0;
		for (unsigned int i = 0; i < 4 && colon; i++)
			v[i] = strtoull(colon + 1, &colon, 10);
		r = row_of(t, p);
		if (!r)
			continue;
		r->min = r->n && r->min < v[2] ? r->min : v[2];
		r->max = r->max > v[3] ? r->max : v[3];
		r->n += v[0];
		r->total += v[1];
	}
}

static bool collect(FILE *f, struct table *exits, struct table *departures)
{
	char buf[ANSWER_MAX], line[32];
	char *a = ask(f, "vcpus", buf, sizeof(buf));
	unsigned long n = a ? strtoul(a, NULL, 10) : 0;

	memset(exits, 0, sizeof(*exits));
	memset(departures, 0, sizeof(*departures));
	for (unsigned long i = 0; a && i < n; i++) {
		snprintf(line, sizeof(line), "exits %lu", i);
		a = ask(f, line, buf, sizeof(buf));
		if (a)
			add(exits, a);
	}
	a = a ? ask(f, "departures", buf, sizeof(buf)) : NULL;
	if (a)
		add(departures, a);
	return a;
}

/* ---- telling ------------------------------------------------------------------------------------------------ */

static int by_time(const void *x, const void *y)
{
	const struct row *a = x, *b = y;

	return a->total != b->total ? (a->total < b->total) - (a->total > b->total) : (a->n < b->n) - (a->n > b->n);
}

static void subtract(struct table *now, const struct table *before)
{
	for (unsigned int i = 0; i < before->n; i++) {
		struct row *r = row_of(now, before->row[i].name);

		if (!r)
			continue;
		r->n -= before->row[i].n;
		r->total -= before->row[i].total;
	}
}

static void print_exits(struct table *t)
{
	u64 n = 0, total = 0;

	qsort(t->row, t->n, sizeof(t->row[0]), by_time);
	for (unsigned int i = 0; i < t->n; i++) {
		n += t->row[i].n;
		total += t->row[i].total;
	}
	printf("%12s %10s %9s %9s %12s %12s %12s\n", "exit", "samples", "samples%", "time%", "min", "max", "avg");
	for (unsigned int i = 0; i < t->n; i++) {
		const struct row *r = &t->row[i];

		if (r->n)
			printf("%12s %10llu %8.2f%% %8.2f%% %10.2fus %10.2fus %10.2fus\n", r->name,
			       (unsigned long long)r->n, 100.0 * (double)r->n / (double)n,
			       total ? 100.0 * (double)r->total / (double)total : 0, (double)r->min / 1e3,
			       (double)r->max / 1e3, (double)r->total / (double)r->n / 1e3);
	}
	printf("samples: %llu, time out of the guest: %.2f ms\n", (unsigned long long)n, (double)total / 1e6);
}

static void print_departures(const struct table *t)
{
	for (unsigned int i = 0; i < t->n; i++)
		if (t->row[i].n)
			printf("departure %s: %llu\n", t->row[i].name, (unsigned long long)t->row[i].n);
}

static void print_json(const struct table *exits, const struct table *departures)
{
	printf("{\"exits\":{");
	for (unsigned int i = 0; i < exits->n; i++) {
		const struct row *r = &exits->row[i];

		printf("%s\"%s\":{\"n\":%llu,\"ns\":%llu,\"min_ns\":%llu,\"max_ns\":%llu}", i ? "," : "", r->name,
		       (unsigned long long)r->n, (unsigned long long)r->total, (unsigned long long)r->min,
		       (unsigned long long)r->max);
	}
	printf("},\"departures\":{");
	for (unsigned int i = 0; i < departures->n; i++)
		printf("%s\"%s\":%llu", i ? "," : "", departures->row[i].name,
		       (unsigned long long)departures->row[i].n);
	printf("}}\n");
}

static int show(FILE *f, bool json, unsigned int interval)
{
	static struct table exits, departures, exits_before, departures_before;
	struct table exits_now, departures_now;

	do {
		if (interval)
			sleep(interval);
		if (!collect(f, &exits, &departures))
			return interval ? 0 : vmm_error(EXIT_HOST, "stat: the VM does not answer");
		exits_now = exits;
		departures_now = departures;
		subtract(&exits_now, &exits_before);
		subtract(&departures_now, &departures_before);
		exits_before = exits;
		departures_before = departures;
		if (json) {
			print_json(&exits_now, &departures_now);
		} else {
			print_exits(&exits_now);
			print_departures(&departures_now);
		}
		fflush(stdout);
	} while (interval);
	return 0;
}

int cmd_stat(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "interval", required_argument, NULL, 'i' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	unsigned long interval = 0;
	bool json = false;
	char **v = argv - 1; /* getopt takes the word before for the program's name */
	int c, rc;
	FILE *f;

	optind = 0;
	opterr = 0;
	while ((c = getopt_long(argc + 1, v, "+hi:", options, NULL)) != -1) {
		if (c == 'h') {
			fputs(usage, stdout);
			return 0;
		}
		if (c == 'j')
			json = true;
		else if (c == 'i')
			interval = strtoul(optarg, NULL, 10);
		if (c == '?' || (c == 'i' && (!interval || interval > 86400)))
			return vmm_error(EXIT_USAGE, "stat: bad option '%s' (see casement stat --help)", v[optind - 1]);
	}
	if (optind != argc)
		return vmm_error(EXIT_USAGE, "stat: one PATH, please (see casement stat --help)");
	signal(SIGPIPE, SIG_IGN); /* the VM may end between two questions */
	f = dial(v[optind]);
	if (!f)
		return vmm_error(EXIT_HOST, "stat: %s: %s", v[optind], strerror(errno));
	rc = show(f, json, (unsigned int)interval);
	fclose(f);
	return rc;
}
