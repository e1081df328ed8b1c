/* SPDX-License-Identifier: MIT */
/* Memory: moves of several sizes, and loads that wait for each other. */
#include "bench.h"

#define BIG (32u << 20)
static uint8_t *area(void)
{
	static uint8_t *p;

	if (!p) {
		p = aligned_alloc(4096, 2 * BIG);
		memset(p, 1, 2 * BIG);
	}
	return p;
}

static uint64_t copy(size_t size, unsigned int rounds)
{
	uint8_t *p = area();

	for (size_t i = 0; i < size; i += 64)
		p[i] = (uint8_t)i;
	while (rounds--) {
		memcpy(opaque(p) + BIG, p, size);
		p[rounds % size] ^= p[BIG + rounds % size];
	}
	return mix(p[0] + p[size / 2], p[BIG + size - 1]);
}

static uint64_t copy_1k(unsigned int rounds)
{
	return copy(1024, rounds);
}

static uint64_t copy_64k(unsigned int rounds)
{
	return copy(65536, rounds);
}

static uint64_t copy_16m(unsigned int rounds)
{
	return copy(16u << 20, rounds);
}

static uint64_t set_4k(unsigned int rounds)
{
	uint8_t *p = area();

	while (rounds--)
		memset(opaque(p) + (rounds % 64) * 4096, (int)rounds, 4096);
	return p[4096];
}

/* A random cycle through size bytes, one cell a cache line; each load gives the next one's address. */
static uint64_t chase(size_t size, unsigned int rounds)
{
	uint8_t *p = area();
	size_t n = size / 64;
	uint64_t seed = 11;
	uint32_t *order = malloc(n * sizeof(*order));

	for (size_t i = 0; i < n; i++)
		order[i] = (uint32_t)i;
	for (size_t i = n - 1; i > 0; i--) {
		size_t j = next_random(&seed) % i;
		uint32_t t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (size_t i = 0; i < n; i++)
		*(void **)(p + order[i] * 64ul) = p + order[(i + 1) % n] * 64ul;
	free(order);

	void *at = p;

	for (unsigned int i = 0; i < rounds * 1000; i++)
		at = *(void **)at;
	return (uint64_t)((uint8_t *)at - p);
}

static uint64_t chase_16k(unsigned int rounds)
{
	return chase(16 << 10, rounds);
}

static uint64_t chase_1m(unsigned int rounds)
{
	return chase(1 << 20, rounds);
}

static uint64_t chase_32m(unsigned int rounds)
{
	return chase(BIG, rounds);
}

/* Read, change, write at random places of 8 MiB: the TLB and the write path. */
static uint64_t scatter(unsigned int rounds)
{
	uint64_t *p = (uint64_t *)area(), seed = 13, sum = 0;

	memset(p, 0, 8 << 20);
	for (unsigned int i = 0; i < rounds * 1000; i++) {
		uint64_t r = next_random(&seed);

		sum += p[r & 0xfffff] += r >> 40;
	}
	return sum;
}

/* The string instructions themselves, whatever the C library prefers on this processor. */
static uint64_t rep_movsb(size_t size, unsigned int rounds)
{
	uint8_t *p = area();

	for (size_t i = 0; i < size; i += 64)
		p[i] = (uint8_t)(i >> 6);
	while (rounds--) {
		void *to = p + BIG, *from = p;
		size_t n = size;

		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		p[rounds % size] = (uint8_t)(p[BIG + rounds % size] + 1);
	}
	return mix(p[0] + p[size / 2], p[BIG + size - 1]);
}

static uint64_t rep_stosb(size_t size, unsigned int rounds)
{
	uint8_t *p = area();

	while (rounds--) {
		void *to = p;
		size_t n = size;

		__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(rounds + 1) : "memory");
	}
	return mix(p[0], p[size - 1]);
}

static uint64_t movsb_4k(unsigned int rounds)
{
	return rep_movsb(4096, rounds);
}

static uint64_t movsb_64k(unsigned int rounds)
{
	return rep_movsb(65536, rounds);
}

static uint64_t movsb_1m(unsigned int rounds)
{
	return rep_movsb(1 << 20, rounds);
}

static uint64_t movsb_32m(unsigned int rounds)
{
	return rep_movsb(BIG, rounds);
}

static uint64_t stosb_4k(unsigned int rounds)
{
	return rep_stosb(4096, rounds);
}

static uint64_t stosb_1m(unsigned int rounds)
{
	return rep_stosb(1 << 20, rounds);
}

static uint64_t stosb_32m(unsigned int rounds)
{
	return rep_stosb(BIG, rounds);
}

/*
 * Pages whose numbers are equal modulo a power of two, one after the other: they share one entry of a
 * direct-mapped TLB that indexes with the low bits.
 */
static uint64_t alias(size_t stride, unsigned int pages, unsigned int rounds)
{
	uint8_t *p = area();
	uint64_t sum = 0;

	for (unsigned int i = 0; i < pages; i++)
		memset(p + i * stride, (int)i, 4096);
	for (unsigned int i = 0; i < rounds * 1000; i++) {
		uint64_t *q = (uint64_t *)(p + i % pages * stride + i % 61 * 64);

		sum += *q;
		*q = sum;
	}
	return sum;
}

static uint64_t alias_1m(unsigned int rounds)
{
	return alias(1 << 20, 4, rounds);
}

static uint64_t alias_4m(unsigned int rounds)
{
	return alias(4 << 20, 16, rounds);
}

WORKLOADS({ "copy-1k", 400000, copy_1k }, { "copy-64k", 12000, copy_64k },
	  { "copy-16m", 12, copy_16m }, { "set-4k", 400000, set_4k },
	  { "chase-16k", 25000, chase_16k }, { "chase-1m", 3000, chase_1m },
	  { "chase-32m", 150, chase_32m }, { "scatter-8m", 5000, scatter },
	  { "alias-1m", 10000, alias_1m }, { "alias-4m", 10000, alias_4m },
	  { "movsb-4k", 20000, movsb_4k }, { "movsb-64k", 1250, movsb_64k },
	  { "movsb-1m", 80, movsb_1m }, { "movsb-32m", 3, movsb_32m },
	  { "stosb-4k", 60000, stosb_4k }, { "stosb-1m", 256, stosb_1m },
	  { "stosb-32m", 8, stosb_32m })
