/* SPDX-License-Identifier: MIT */
/* trip NAME: how long CPUID takes, which in L2 is an exit to L1 and back. Static: it runs in an initrd. */
#include <cpuid.h>
#include <stdio.h>
#include <time.h>

#define ROUNDS 5000

static long long now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

int main(int argc, char **argv)
{
	unsigned int a, b, c, d;
	long long best = 1ll << 62;

	for (int n = 0; n < 10; n++) {
		long long start = now();

		for (int k = 0; k < ROUNDS; k++)
			__cpuid(1, a, b, c, d);
		if (now() - start < best)
			best = now() - start;
	}
	printf("%s-cpuid %lld ns\n", argc > 1 ? argv[1] : "here", best / ROUNDS);
	return 0;
}
