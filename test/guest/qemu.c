/* SPDX-License-Identifier: MIT */
/* Bare guest programs on QEMU's translator, as the second opinion. */
#include "guest.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define QEMU "qemu-system-x86_64"

/* Read the debug port's bytes until QEMU is gone. */
static void drain(int fd, unsigned int limit, pid_t pid, struct guest_out *out)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	while (out->len < GUEST_OUT_MAX) {
		ssize_t n;

		if (poll(&p, 1, (int)limit * 1000) <= 0) {
			snprintf(out->error, sizeof(out->error), "QEMU: time limit");
			kill(pid, SIGKILL);
			return;
		}
		n = read(fd, out->data + out->len, GUEST_OUT_MAX - out->len);
		if (n <= 0)
			return;
		out->len += (size_t)n;
	}
}

bool guest_run_qemu(const char *image_path, unsigned int limit, struct guest_out *out)
{
	char *argv[] = { QEMU, "-machine", "pc,accel=tcg", "-cpu", "max,vendor=GenuineIntel", "-m", "16",
		"-nodefaults", "-display", "none", "-net", "none", "-bios", (char *)image_path,
		"-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-chardev", "stdio,id=c,signal=off",
		"-device", "isa-debugcon,iobase=0xe9,chardev=c", "-no-reboot", NULL };
	struct timespec start, end;
	int fd[2], status;
	pid_t pid;

	*out = (struct guest_out){ .exit_code = -1, .data = malloc(GUEST_OUT_MAX) };
	clock_gettime(CLOCK_MONOTONIC, &start);
	if (pipe(fd))
		return false;
	pid = fork();
	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0);
		dup2(fd[1], 1);
		alarm(limit);
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* it may outlive a test that is killed */
		execvp(QEMU, argv);
		_exit(127);
	}
	close(fd[1]);
	drain(fd[0], limit, pid, out);
	close(fd[0]);
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 127))
		return false;
	clock_gettime(CLOCK_MONOTONIC, &end);
	out->seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9;
	/* isa-debug-exit leaves with 2 * value + 1 */
	if (WIFEXITED(status) && WEXITSTATUS(status) & 1)
		out->exit_code = WEXITSTATUS(status) >> 1;
	else if (!out->error[0])
		snprintf(out->error, sizeof(out->error), "QEMU: ended with status %#x", (unsigned int)status);
	return true;
}
