/* SPDX-License-Identifier: MIT */
/* The operating system: system calls, processes, pipes, page faults, signals, threads. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "bench.h"

static uint64_t getppid_run(unsigned int rounds)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < rounds * 1000; i++)
		n += syscall(SYS_getppid) >= 0;
	return n;
}

static uint64_t fork_run(unsigned int rounds)
{
	uint64_t n = 0;

	while (rounds--) {
		pid_t pid = fork();
		int status;

		if (!pid)
			_exit(7);
		waitpid(pid, &status, 0);
		n += (uint64_t)WEXITSTATUS(status);
	}
	return n;
}

static uint64_t exec_run(unsigned int rounds)
{
	uint64_t n = 0;

	while (rounds--) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			int null = open("/dev/null", O_WRONLY);

			dup2(null, 1);
			unsetenv("BENCH_PORT");
			unsetenv("BENCH_FD");
			execl("/proc/self/exe", "os", "none", NULL);
			_exit(1);
		}
		waitpid(pid, &status, 0);
		n += status == 0;
	}
	return n;
}

static uint64_t pipe_run(unsigned int rounds)
{
	int there[2], back[2];
	uint64_t v = 0;

	if (pipe(there) || pipe(back))
		return 0;
	if (!fork()) {
		close(there[1]);
		while (read(there[0], &v, sizeof(v)) == sizeof(v)) {
			v = v * 3 + 1;
			(void)!write(back[1], &v, sizeof(v));
		}
		_exit(0);
	}
	while (rounds--) {
		(void)!write(there[1], &v, sizeof(v));
		(void)!read(back[0], &v, sizeof(v));
	}
	for (int i = 0; i < 2; i++) {
		close(there[i]);
		close(back[i]);
	}
	wait(NULL);
	return v;
}

static uint64_t touch_run(unsigned int rounds)
{
	uint64_t sum = 0;

	while (rounds--) {
		size_t n = 256 * 4096;
		uint8_t *p =
			mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (size_t i = 0; i < n; i += 4096)
			p[i] = (uint8_t)(i >> 12);
		sum += p[n - 4096];
		munmap(p, n);
	}
	return sum;
}

static volatile sig_atomic_t got;

static void on_signal(int sig)
{
	got += sig == SIGUSR1;
}

static uint64_t signal_run(unsigned int rounds)
{
	got = 0;
	signal(SIGUSR1, on_signal);
	while (rounds--)
		raise(SIGUSR1);
	return (uint64_t)got;
}

static uint64_t file_run(unsigned int rounds)
{
	char name[] = "/tmp/bench.XXXXXX", block[4096];
	int fd = mkstemp(name);
	uint64_t sum = 0;

	unlink(name);
	memset(block, 5, sizeof(block));
	for (int i = 0; i < 64; i++)
		(void)!pwrite(fd, block, sizeof(block), i * 4096);
	while (rounds--) {
		(void)!pwrite(fd, block, sizeof(block), (off_t)(rounds % 64) * 4096);
		(void)!pread(fd, block, sizeof(block), (off_t)(rounds % 7) * 4096);
		sum += (uint64_t)block[9];
	}
	close(fd);
	return sum;
}

static void *thread(void *arg)
{
	return (char *)arg + 1;
}

static uint64_t thread_run(unsigned int rounds)
{
	uint64_t sum = 0;

	while (rounds--) {
		pthread_t t;
		void *r;

		if (pthread_create(&t, NULL, thread, (void *)(uintptr_t)rounds))
			return 0;
		pthread_join(t, &r);
		sum += (uint64_t)(uintptr_t)r;
	}
	return sum;
}

/* A port that the monitor answers: out of the guest, and back in. */
static uint64_t port_run(unsigned int rounds)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < rounds * 1000; i++) {
		(void)inb((unsigned short)mark_port);
		n++;
	}
	return n;
}

static int has_port(void)
{
	return mark_port != 0;
}

WORKLOADS({ "getppid", 200, getppid_run }, { "fork", 200, fork_run }, { "exec", 60, exec_run },
	  { "pipe", 2000, pipe_run }, { "touch", 80, touch_run }, { "signal", 10000, signal_run },
	  { "file", 20000, file_run }, { "thread", 500, thread_run },
	  { "port", 100, port_run, has_port })
