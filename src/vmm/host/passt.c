/* SPDX-License-Identifier: MIT */
#include "vmm/host/passt.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the child: everything but stdio and its socket is none of passt's business. */
static int become_passt(int sock, int report)
{
	sigset_t none;
	char fd[16];
	int null = open("/dev/null", O_RDWR);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	/* The terminal's signals are the monitor's. */
	setpgid(0, 0);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	/* Far from the low numbers, which either may be; then the two that stay, and only those. */
	sock = fcntl(sock, F_DUPFD, 64);
	report = fcntl(report, F_DUPFD, 64);
	dup2(sock, 3);
	dup2(report, 4);
	fcntl(4, F_SETFD, FD_CLOEXEC);
	close_range(5, ~0u, 0);
	snprintf(fd, sizeof(fd), "%d", 3);
	execlp("passt", "passt", "--foreground", "--quiet", "--fd", fd, (char *)NULL);
	return errno;
}

/* Twice removed, so that nobody has to wait for it. The pipe closes when passt runs, or says why it does not. */
static void start(int sock, int report)
{
	pid_t pid = fork();
	int err;

	if (pid > 0)
		_exit(0);
	err = pid ? errno : become_passt(sock, report);
	if (write(pid ? report : 4, &err, sizeof(err)) < 0)
		_exit(126);
	_exit(127);
}

int passt_start(void)
{
	int pair[2], report[2];
	int err = 0, status;
	pid_t pid;

	if (pipe(report))
		return -errno;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return -errno;
	pid = fork();
	if (!pid)
		start(pair[1], report[1]);
	close(pair[1]);
	close(report[1]);
	if (pid < 0)
		err = EAGAIN;
	else if (waitpid(pid, &status, 0) == pid && read(report[0], &err, sizeof(err)) < 0)
		err = errno;
	close(report[0]);
	if (err) {
		close(pair[0]);
		return -err;
	}
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	return pair[0];
}
