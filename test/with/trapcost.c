/* SPDX-License-Identifier: MIT */
/*
 * What a system call costs: nanoseconds, the best of some batches. A static program, with and without `casement with
 * --trap`.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 100
#define BATCHES 200

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int fd;

static void do_getppid(void)
{
	syscall(SYS_getppid);
}

static void do_write(void)
{
	if (write(fd, "x", 1) != 1)
		_exit(1);
}

static void do_open_close(void)
{
	close(open("/dev/null", O_RDONLY));
}

static double best(void (*fn)(void))
{
	double least = 1e18;

	for (int b = 0; b < BATCHES; b++) {
		double t = now_ns();

		for (int i = 0; i < ROUNDS; i++)
			fn();
		t = now_ns() - t;
		least = t < least ? t : least;
	}
	return least / ROUNDS;
}

int main(void)
{
	fd = open("/dev/null", O_RDWR);
	printf("getppid %.0f\n", best(do_getppid));
	printf("write %.0f\n", best(do_write));
	printf("open+close %.0f\n", best(do_open_close));
	return 0;
}
