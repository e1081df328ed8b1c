/* SPDX-License-Identifier: MIT */
/* The test library itself: what it reports of a child, and that its numbers repeat. */
#include "tap.h"

static void good(void)
{
	ok(true, "a good point");
}

static void bad(void)
{
	(void)!freopen("/dev/null", "w", stderr);
	ok(false, "a bad point");
}

static void dies(void)
{
	raise(SIGKILL);
}

static void hangs(void)
{
	for (;;)
		pause();
}

int main(void)
{
	uint64_t a = 1, b = 1;

	tap_child("a child whose points are good", good);
	is(WEXITSTATUS(tap_fork(bad, 5)), 1, "a child with a bad point leaves with 1");
	tap_death("a child that kills itself", dies, SIGKILL);
	is(WTERMSIG(tap_fork(hangs, 1)), SIGALRM, "a child that hangs meets its time limit");
	is(tap_rand(&a), tap_rand(&b), "the same seed gives the same number");
	ok(tap_rand(&a) != tap_rand(&a), "and then other ones");
	is_str("x", "x", "strings compare");
	is_mem("abc", "abd", 2, "memory compares");
	return done_testing();
}
