/* SPDX-License-Identifier: MIT */
/*
 * What a system call costs: nanoseconds, the best of some batches. A static program, with and without `casement with
 * --trap`.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cost.h"

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

int main(void)
{
	fd = open("/dev/null", O_RDWR);
	printf("getppid %.0f\n", best(do_getppid, CLOCK_MONOTONIC));
	printf("write %.0f\n", best(do_write, CLOCK_MONOTONIC));
	printf("open+close %.0f\n", best(do_open_close, CLOCK_MONOTONIC));
	return 0;
}
