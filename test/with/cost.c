/* SPDX-License-Identifier: MIT */
/*
 * What the preload costs a call that is not for us: nanoseconds per call, one line each. Run with and without it.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cost.h"

static int fd;

static void do_ioctl(void)
{
	int n;

	ioctl(fd, FIONREAD, &n);
}

static void do_open_close(void)
{
	close(open("/dev/null", O_RDONLY));
}

static void do_dup_close(void)
{
	close(dup(fd));
}

static void do_fcntl(void)
{
	fcntl(fd, F_GETFL);
}

static void do_mmap(void)
{
	mmap(NULL, 0, PROT_READ, MAP_PRIVATE, fd, 0); /* fails at once: page tables would drown the rest */
}

static void do_stat(void)
{
	struct stat st;

	stat("/dev/null", &st);
	fstat(fd, &st);
}

static void do_access(void)
{
	access("/dev/null", R_OK);
}

static void do_sigaction(void)
{
	struct sigaction old;

	sigaction(SIGUSR1, NULL, &old);
}

static const struct {
	const char *name;
	void (*fn)(void);
	int calls; /* interposed ones in it */
} rows[] = {
	{ "ioctl", do_ioctl, 1 }, { "open+close", do_open_close, 2 }, { "dup+close", do_dup_close, 2 },
	{ "fcntl", do_fcntl, 1 }, { "mmap", do_mmap, 1 }, { "stat+fstat", do_stat, 2 }, { "access", do_access, 1 },
	{ "sigaction", do_sigaction, 1 },
};

int main(void)
{
	fd = open("/dev/null", O_RDWR);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		printf("%s %.1f\n", rows[i].name, best(rows[i].fn, CLOCK_THREAD_CPUTIME_ID) / rows[i].calls);
	return 0;
}
