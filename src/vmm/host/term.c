/* SPDX-License-Identifier: MIT */
#include "vmm/host/term.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include "vmm/vmm.h"

#define CTRL_A 1

static struct {
	struct vm *vm;
	struct console_sink sink;
	struct loop_fd *in;
	struct termios saved;
	int wake_fd;
	int guard_fd;	/* closed by our death, whatever the cause */
	pid_t guard;
	bool tty, eof, escape;
	_Atomic bool out_broken;
} con = { .wake_fd = -1, .guard_fd = -1 };

void console_write(struct vm *vm, const u8 *p, size_t n)
{
	while (n && !atomic_load(&con.out_broken)) {
		ssize_t done = write(STDOUT_FILENO, p, n);

		if (done > 0) {
			p += done;
			n -= (size_t)done;
		} else if (atomic_load(&vm->stopping)) {
			return;
		} else if (done < 0 && errno == EAGAIN) {
			struct pollfd pfd = { .fd = STDOUT_FILENO, .events = POLLOUT };

			poll(&pfd, 1, 100);
		} else if (done < 0 && errno != EINTR) {
			atomic_store(&con.out_broken, true);
		}
	}
}

static void escape_key(u8 c)
{
	static const char help[] =
		"\r\nCtrl-A h  this help\r\nCtrl-A x  quit\r\nCtrl-A p  press the power button\r\n"
		"Ctrl-A Ctrl-A  send Ctrl-A\r\n";

	switch (c) {
	case 'x':
	case 'X':
		vmm_stop(con.vm, EXIT_POWEROFF, "quit");
		break;
	case 'p':
		acpi_pm_power_button(con.vm->pm);
		break;
	case 'h':
	case '?':
		fputs(help, stderr);
		break;
	case CTRL_A:
		con.sink.put(con.sink.dev, &c, 1);
		break;
	default:
		break;
	}
}

static void from_tty(const u8 *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (con.escape) {
			con.escape = false;
			escape_key(p[i]);
		} else if (p[i] == CTRL_A) {
			con.escape = true;
		} else {
			con.sink.put(con.sink.dev, &p[i], 1);
		}
	}
}

static void on_input(void *arg, u32 events)
{
	u8 buf[512];
	size_t want = sizeof(buf);
	ssize_t n;

	if (!con.tty) {
		size_t room = con.sink.room(con.sink.dev);

		if (!room) {
			loop_want(&con.vm->loop, con.in, 0);
			return;
		}
		want = room < want ? room : want;
	}
	n = read(STDIN_FILENO, buf, want);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		/* The end of input is not the end of the guest. */
		con.eof = true;
		loop_want(&con.vm->loop, con.in, 0);
		return;
	}
	if (con.tty)
		from_tty(buf, (size_t)n);
	else
		con.sink.put(con.sink.dev, buf, (size_t)n);
}

static void on_wake(void *arg, u32 events)
{
	u64 n;

	if (read(con.wake_fd, &n, sizeof(n)) > 0 && !con.eof)
		loop_want(&con.vm->loop, con.in, EPOLLIN);
}

void console_wake(void)
{
	u64 one = 1;

	if (con.wake_fd >= 0 && write(con.wake_fd, &one, sizeof(one)) < 0)
		return;	/* full: it is readable already */
}

/*
 * A child that outlives us by one system call: it restores the terminal when we were killed in a way that lets
 * nobody clean up. It holds nothing but the terminal and its end of the pipe.
 */
static void start_guard(void)
{
	sigset_t all, old;
	int fd[2];

	if (pipe(fd))
		return;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	con.guard = fork();
	if (!con.guard) {
		char c;
		ssize_t n;

		dup2(fd[0], STDOUT_FILENO);
		close_range(STDERR_FILENO, ~0u, 0);
		do {
			n = read(STDOUT_FILENO, &c, 1);
		} while (n < 0 && errno == EINTR);
		if (!n)
			tcsetattr(STDIN_FILENO, TCSADRAIN, &con.saved);
		_exit(0);
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	close(fd[0]);
	con.guard_fd = fd[1];
	if (con.guard < 0) {
		close(fd[1]);
		con.guard_fd = -1;
	}
}

static void make_raw(void)
{
	struct termios raw = con.saved;

	cfmakeraw(&raw);
	raw.c_oflag |= OPOST;	/* our own messages end in newlines */
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

int console_open(struct vm *vm, struct console_sink sink)
{
	con.vm = vm;
	con.sink = sink;
	con.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (con.wake_fd < 0 || !loop_add(&vm->loop, con.wake_fd, EPOLLIN, on_wake, NULL))
		return vmm_error(EXIT_HOST, "console: cannot make an event");
	con.in = loop_add(&vm->loop, STDIN_FILENO, EPOLLIN, on_input, NULL);
	if (!con.in) {
		con.eof = true;	/* closed: no input, and no reason not to run */
		return 0;
	}
	/* In the background the terminal belongs to somebody else. */
	con.tty = isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) == getpgrp() && !tcgetattr(STDIN_FILENO, &con.saved);
	if (con.tty) {
		start_guard();
		make_raw();
	}
	return 0;
}

void console_close(void)
{
	if (!con.tty)
		return;
	con.tty = false;
	tcsetattr(STDIN_FILENO, TCSADRAIN, &con.saved);
	if (con.guard_fd >= 0) {
		if (write(con.guard_fd, "", 1) == 1)
			waitpid(con.guard, NULL, 0);
		close(con.guard_fd);
	}
}
