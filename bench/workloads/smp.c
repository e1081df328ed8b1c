/* SPDX-License-Identifier: MIT */
/* The same work by one thread and by two: what a second processor is worth. */
#include <pthread.h>
#include "bench.h"

/* One half: arithmetic, branches and a small table of its own. */
static void *half(void *arg)
{
	uint64_t *sum = arg, seed = *sum;
	uint32_t table[1024] = { 0 };

	for (unsigned int i = 0; i < 12000000; i++) {
		uint64_t r = next_random(&seed);

		table[r & 1023] += (uint32_t)(r >> 32);
		if (table[r >> 54] & 1)
			*sum += r;
	}
	*sum = mix(*sum, table[7]);
	return NULL;
}

static uint64_t smp1_run(unsigned int rounds)
{
	uint64_t sum[2] = { rounds, rounds + 1 };

	half(&sum[0]);
	half(&sum[1]);
	return mix(sum[0], sum[1]);
}

static uint64_t smp2_run(unsigned int rounds)
{
	/* a line of its own for each */
	struct {
		uint64_t sum;
		uint64_t pad[15];
	} part[2] = { { .sum = rounds }, { .sum = rounds + 1 } };
	pthread_t other;

	if (pthread_create(&other, NULL, half, &part[1].sum))
		return 0;
	half(&part[0].sum);
	pthread_join(other, NULL);
	return mix(part[0].sum, part[1].sum);
}

WORKLOADS({ "smp-1thread", 5, smp1_run }, { "smp-2threads", 5, smp2_run })
