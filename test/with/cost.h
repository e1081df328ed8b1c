/* SPDX-License-Identifier: MIT */
/* What a call costs: nanoseconds, the best of some batches, for the others were disturbed. */
#pragma once
#include <time.h>

#define ROUNDS 200 /* short enough that some batches run undisturbed on a busy machine */
#define BATCHES 500

static double best(void (*fn)(void), clockid_t clock)
{
	double least = 1e18;

	for (int b = 0; b < BATCHES; b++) {
		struct timespec from, to;
		double t;

		clock_gettime(clock, &from);
		for (int i = 0; i < ROUNDS; i++)
			fn();
		clock_gettime(clock, &to);
		t = (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
		least = t < least ? t : least;
	}
	return least / ROUNDS;
}
