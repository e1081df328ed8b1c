/* SPDX-License-Identifier: MIT */
/*
 * What every workload program shares: a table of workloads, and marks that the host times.
 *
 * A program runs all workloads of its group or those named on its command line, each in three lines of marks:
 *	+NAME				the work begins when this line is complete
 *	-NAME SECONDS CHECKSUM		it ended when the '-' came; SECONDS by the program's own clock
 *	!NAME WHY			this processor cannot do it
 *	=NAME				a point in time, for each argument that looks like this
 * Marks go byte by byte to the debug port of $BENCH_PORT in a guest, to the descriptor $BENCH_FD on the host.
 * -n does all but the work, so that instruction counts of the work alone can be had by subtraction.
 */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <time.h>
#include <unistd.h>

/**
 * struct workload - one row of a group
 * @name: as in the results
 * @rounds: passed to @run; sized for some 40 ms on a present-day host
 * @run: does the work, returns a checksum of what it computed
 * @can: NULL, or says whether this processor has the instructions
 */
struct workload {
	const char *name;
	unsigned int rounds;
	uint64_t (*run)(unsigned int rounds);
	int (*can)(void);
};

static int mark_fd = 1;
static int mark_port;

static void mark(const char *text)
{
	if (!mark_port) {
		(void)!write(mark_fd, text, strlen(text));
		return;
	}
	while (*text)
		outb((unsigned char)*text++, (unsigned short)mark_port);
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* The same numbers everywhere, so that checksums can be compared. */
static inline uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

static inline uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value) * 0x100000001b3ULL + (sum >> 47);
}

/* Keeps the compiler from knowing a value. */
#define opaque(x)                                                                                  \
	({                                                                                         \
		__typeof__(x) x_ = (x);                                                            \
		__asm__ volatile("" : "+r"(x_));                                                   \
		x_;                                                                                \
	})

static void run_one(const struct workload *w, int no_work)
{
	char line[160];

	if (w->can && !w->can()) {
		snprintf(line, sizeof(line), "!%s this processor lacks it\n", w->name);
		mark(line);
		return;
	}
	snprintf(line, sizeof(line), "+%s\n", w->name);
	seconds(); /* pays for the first call's page faults before the mark */
	mark(line);

	double start = seconds();
	uint64_t sum = no_work ? 0 : w->run(w->rounds);
	double took = seconds() - start;

	snprintf(line, sizeof(line), "-%s %.6f %016llx\n", w->name, took, (unsigned long long)sum);
	mark(line);
}

static int run_workloads(const struct workload *table, size_t n, int argc, char **argv)
{
	int no_work = argc > 1 && !strcmp(argv[1], "-n");
	int first = 1 + no_work;

	if (getenv("BENCH_FD"))
		mark_fd = atoi(getenv("BENCH_FD"));
	if (getenv("BENCH_PORT")) {
		mark_port = (int)strtol(getenv("BENCH_PORT"), NULL, 0);
		if (ioperm((unsigned long)mark_port, 1, 1)) {
			perror("ioperm");
			return 1;
		}
	}
	for (int a = first; a < argc; a++)
		if (argv[a][0] == '=') {
			mark(argv[a]);
			mark("\n");
		}
	for (size_t i = 0; i < n; i++) {
		int wanted = first >= argc;

		for (int a = first; a < argc; a++)
			wanted |= !strcmp(argv[a], table[i].name);
		if (wanted)
			run_one(&table[i], no_work);
	}
	return 0;
}

#define WORKLOADS(...)                                                                             \
	int main(int argc, char **argv)                                                            \
	{                                                                                          \
		static const struct workload table[] = { __VA_ARGS__ };                            \
		return run_workloads(table, sizeof(table) / sizeof(table[0]), argc, argv);         \
	}
