/* SPDX-License-Identifier: MIT */
/*
 * timed SECONDS FD COMMAND [ARG…]: runs a command, reads marks (workloads/bench.h) from its descriptor FD and
 * stamps them with the host's clock. Prints a line for each workload:
 *	NAME HOST-SECONDS GUEST-SECONDS CHECKSUM
 * and "=NAME SECONDS" for a mark "=NAME", in seconds since the command was started. With BENCH_CPU in the environment
 * the clock is the processor time of the command, for machines with other work. The command's standard
 * output goes nowhere unless FD is 1. Exit status: the command's, or 124 when SECONDS ran out.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static clockid_t stamps = CLOCK_MONOTONIC;

static double read_clock(clockid_t clock)
{
	struct timespec ts = { 0 };

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static double now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

struct line {
	char text[256];
	size_t n;
	double first; /* when its first byte came */
};

static void line_done(const struct line *l, double start)
{
	static char name[128];
	static double began;
	char sum[64];
	double guest;
	double t = read_clock(stamps);

	if (l->text[0] == '+') {
		snprintf(name, sizeof(name), "%.120s", l->text + 1);
		began = t;
	} else if (l->text[0] == '-' && sscanf(l->text + 1, "%*s %lf %63s", &guest, sum) == 2 &&
		   *name) {
		printf("%s %.6f %.6f %s\n", name, l->first - began, guest, sum);
		*name = 0;
	} else if (l->text[0] == '!') {
		printf("%s\n", l->text);
	} else if (l->text[0] == '=') {
		printf("%s %.6f\n", l->text, t - start);
	}
	fflush(stdout);
}

static void take(struct line *l, char c, double t, double start)
{
	if (!l->n)
		l->first = t;
	if (c == '\n') {
		l->text[l->n] = 0;
		line_done(l, start);
		l->n = 0;
	} else if (l->n < sizeof(l->text) - 1) {
		l->text[l->n++] = c;
	}
}

int main(int argc, char **argv)
{
	int p[2];

	if (argc < 4) {
		fprintf(stderr, "usage: timed SECONDS FD COMMAND [ARG…]\n");
		return 1;
	}

	double limit = now() + atof(argv[1]), start = now();
	int fd = atoi(argv[2]);

	if (pipe2(p, O_CLOEXEC))
		return 2;

	pid_t pid = fork();

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0);
		if (fd != 1)
			dup2(null, 1);
		if (p[1] == fd)
			fcntl(fd, F_SETFD, 0);
		else
			dup2(p[1], fd);
		execvp(argv[3], argv + 3);
		perror(argv[3]);
		_exit(127);
	}
	close(p[1]);
	/* The stamps must not wait for the very command they time; without privilege they may. */
	setpriority(PRIO_PROCESS, 0, -10);

	if (getenv("BENCH_CPU")) {
		clock_getcpuclockid(pid, &stamps);
		start = 0;
	}

	struct line l = { .n = 0 };
	struct pollfd pf = { .fd = p[0], .events = POLLIN };

	for (;;) {
		char buf[4096];
		double left = limit - now();

		if (left <= 0 || !poll(&pf, 1, (int)(left * 1000) + 1)) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
			return 124;
		}

		double t = read_clock(stamps);
		ssize_t n = read(p[0], buf, sizeof(buf));

		if (n <= 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			take(&l, buf[i], t, start);
	}

	int status;

	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
