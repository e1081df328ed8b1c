/* SPDX-License-Identifier: MIT */
/*
 * Runs a command where the kernel has no Syscall User Dispatch, as before Linux 5.11. Good if it refuses with a line
 * about it.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int without_dispatch(void)
{
	static struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PR_SET_SYSCALL_USER_DISPATCH, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

int main(int argc, char **argv)
{
	char text[4096] = "";
	size_t len = 0;
	int p[2], status = 0;
	ssize_t n;

	if (argc < 2 || pipe(p))
		return 2;
	if (!fork()) {
		dup2(p[1], 1);
		dup2(p[1], 2);
		if (!without_dispatch())
			execv(argv[1], argv + 1);
		_exit(99);
	}
	close(p[1]);
	while ((n = read(p[0], text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	wait(&status);
	fputs(text, stdout);
	return !(WIFEXITED(status) && WEXITSTATUS(status) && strstr(text, "Syscall User Dispatch"));
}
