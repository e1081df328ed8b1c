/* SPDX-License-Identifier: MIT */
/*
 * Test Anything Protocol, for tests that are programs. A test prints its points on stdout, its remarks on
 * stderr, and leaves with done_testing():
 *
 *	int main(void)
 *	{
 *		is(add(1, 2), 3, "one and two");
 *		ok(feature_works(), "the feature works");
 *		return done_testing();
 *	}
 *
 * A point that could kill the program goes into a function of its own and runs in a child: tap_child("name", fn).
 * Random tests take their seed from tap_seed() and print it, so CASEMENT_SEED=… repeats a failure; how long they
 * may run comes from tap_scale(): 1 in `make check`, more in `make check-long`.
 */
#pragma once

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct tap {
	unsigned int run, failed, planned;
	bool bare;		/* a child: its points are folded into the parent's one */
};
/* Weak: the files of one program share it. */
struct tap tap __attribute__((weak));

/* Says how many points follow; without it done_testing() prints the plan at the end. */
static inline void plan(unsigned int n)
{
	tap.planned = n;
	printf("1..%u\n", n);
}

__attribute__((format(printf, 1, 2))) static inline void diag(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("# ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static inline bool tap_vpoint(bool good, const char *directive, const char *fmt, va_list ap)
{
	tap.run++;
	if (!good)
		tap.failed++;
	if (tap.bare) {
		if (!good) {
			fputs("# failed: ", stderr);
			vfprintf(stderr, fmt, ap);
			fputc('\n', stderr);
		}
		return good;
	}
	printf("%sok %u - ", good ? "" : "not ", tap.run);
	vprintf(fmt, ap);
	printf("%s\n", directive);
	fflush(stdout);
	return good;
}

__attribute__((format(printf, 4, 5)))
static inline bool tap_ok(bool good, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	tap_vpoint(good, "", fmt, ap);
	va_end(ap);
	if (!good)
		diag("at %s:%d", file, line);
	return good;
}

/* ok(condition, "name", …): one point. Its value is the condition. */
#define ok(cond, ...) tap_ok(!!(cond), __FILE__, __LINE__, __VA_ARGS__)

/* is(got, want, "name", …): two integers are equal; shows both when not. */
#define is(got, want, ...) ({									\
	uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);				\
	if (!tap_ok(got_ == want_, __FILE__, __LINE__, __VA_ARGS__))				\
		diag("got %#" PRIx64 " (%" PRId64 "), want %#" PRIx64 " (%" PRId64 ")",		\
		     got_, (int64_t)got_, want_, (int64_t)want_);				\
	got_ == want_;										\
})

/* is_str(got, want, "name", …): two strings are equal. */
#define is_str(got, want, ...) ({								\
	const char *got_ = (got), *want_ = (want);						\
	bool same_ = got_ && want_ && !strcmp(got_, want_);					\
	if (!tap_ok(same_, __FILE__, __LINE__, __VA_ARGS__))					\
		diag("got \"%s\", want \"%s\"", got_ ?: "(null)", want_ ?: "(null)");		\
	same_;											\
})

static inline bool tap_mem(const void *got, const void *want, size_t n)
{
	const uint8_t *g = got, *w = want;

	for (size_t i = 0; i < n; i++)
		if (g[i] != w[i]) {
			diag("byte %zu of %zu: got %#04x, want %#04x", i, n, g[i], w[i]);
			return false;
		}
	return true;
}

/* is_mem(got, want, n, "name", …): n bytes are equal; shows the first that is not. */
#define is_mem(got, want, n, ...) tap_ok(tap_mem((got), (want), (n)), __FILE__, __LINE__, __VA_ARGS__)

/* is_errno(call, E…, "name", …): the call gives -1 with that errno. */
#define is_errno(call, want, ...) ({								\
	errno = 0;										\
	long ret_ = (long)(call);								\
	int err_ = errno;									\
	bool same_ = ret_ == -1 && err_ == (want);						\
	if (!tap_ok(same_, __FILE__, __LINE__, __VA_ARGS__))					\
		diag("got %ld errno %d (%s), want -1 errno %d (%s)", ret_, err_, strerror(err_), \
		     (want), strerror(want));							\
	same_;											\
})

/* skip("name", "why"): one point that this machine cannot answer. */
static inline void skip(const char *name, const char *why)
{
	tap.run++;
	if (!tap.bare) {
		printf("ok %u - %s # SKIP %s\n", tap.run, name, why);
		fflush(stdout);
	}
}

/* skip_all("why"): this machine can answer none of the points. Ends the program. */
__attribute__((noreturn)) static inline void skip_all(const char *why)
{
	printf("1..0 # SKIP %s\n", why);
	exit(0);
}

/* bail_out("why"): nothing after this makes sense. Ends the program. */
__attribute__((noreturn)) static inline void bail_out(const char *why)
{
	printf("Bail out! %s\n", why);
	exit(255);
}

/* Prints the plan if there was none. Returns the exit status for main(). */
static inline int done_testing(void)
{
	if (!tap.planned)
		printf("1..%u\n", tap.run);
	else if (tap.planned != tap.run)
		diag("planned %u points, ran %u", tap.planned, tap.run);
	fflush(stdout);
	return tap.failed || (tap.planned && tap.planned != tap.run);
}

/* Runs fn in a child with a time limit in seconds. Returns its wait status; 0 is "all its points were good". */
static inline int tap_fork(void (*fn)(void), unsigned int seconds)
{
	fflush(stdout);

	pid_t pid = fork();

	if (!pid) {
		tap.bare = true;
		tap.failed = 0;
		alarm(seconds);
		fn();
		fflush(stderr);
		_exit(tap.failed ? 1 : 0);
	}

	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* One point: fn, in a child, comes back alive within 10 s and every point in it is good. */
static inline bool tap_child(const char *name, void (*fn)(void))
{
	int status = tap_fork(fn, 10);

	if (WIFSIGNALED(status))
		diag("%s: killed by signal %d%s", name, WTERMSIG(status),
		     WTERMSIG(status) == SIGALRM ? " (time limit)" : "");
	return tap_ok(status == 0, __FILE__, __LINE__, "%s", name);
}

/* One point: fn, in a child, dies by this signal. */
static inline bool tap_death(const char *name, void (*fn)(void), int sig)
{
	int status = tap_fork(fn, 10);

	return tap_ok(WIFSIGNALED(status) && WTERMSIG(status) == sig, __FILE__, __LINE__, "%s", name);
}

/* 1 in `make check`; CASEMENT_SCALE in `make check-long`. Random tests multiply their rounds by it. */
static inline unsigned int tap_scale(void)
{
	const char *s = getenv("CASEMENT_SCALE");
	unsigned long n = s ? strtoul(s, NULL, 0) : 1;

	return n ? (unsigned int)n : 1;
}

/* The seed of this run: CASEMENT_SEED, or the same one each time. Prints it as a remark. */
static inline uint64_t tap_seed(void)
{
	const char *s = getenv("CASEMENT_SEED");
	uint64_t seed = s ? strtoull(s, NULL, 0) : 0x0ca5e3e27ULL;

	printf("# CASEMENT_SEED=%#" PRIx64 "\n", seed);
	return seed;
}

/* splitmix64: good enough to choose operands with, and a seed of any shape will do. */
static inline uint64_t tap_rand(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* Seconds of the monotonic clock. */
static inline double tap_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}
