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
static void become_passt(int sock)
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
	dup2(sock, 3);
	close_range(4, ~0u, 0);
	snprintf(fd, sizeof(fd), "%d", 3);
	execlp("passt", "passt", "--foreground", "--quiet", "--fd", fd, (char *)NULL);
	_exit(127);
}

int passt_start(void)
{
	int pair[2];
	int status;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return -errno;
	pid = fork();
	if (!pid) {
		/* Twice, so that nobody has to wait for it. */
		if (fork())
			_exit(0);
		become_passt(pair[1]);
	}
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return -EAGAIN;
	}
	waitpid(pid, &status, 0);
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	return pair[0];
}
