/* SPDX-License-Identifier: MIT */
/*
 * Compute kernels that call nothing: run natively and, at the same addresses, by the engine. All state
 * is in .bss of this program, which the guest sees as its memory.
 */
#include "kernels.h"

#include <stddef.h>

#define TABLE 4096
static uint32_t words[TABLE];
static uint8_t bytes[65536];
static double doubles[1024];

static uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static uint64_t crc(uint64_t n)
{
	uint32_t table[256], c = ~0u;

	for (uint32_t k = 0; k < 256; k++) {
		uint32_t x = k;

		for (int b = 0; b < 8; b++)
			x = x & 1 ? x >> 1 ^ 0xedb88320 : x >> 1;
		table[k] = x;
	}
	for (uint64_t k = 0; k < n; k++)
		c = table[(c ^ k) & 0xff] ^ c >> 8;
	return c;
}

static uint64_t fib(uint64_t n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static void quicksort(uint32_t *a, long n)
{
	while (n > 1) {
		uint32_t p = a[n / 2];
		long i = 0, j = n - 1;

		while (i <= j) {
			while (a[i] < p)
				i++;
			while (a[j] > p)
				j--;
			if (i <= j) {
				uint32_t t = a[i];

				a[i++] = a[j];
				a[j--] = t;
			}
		}
		quicksort(a, j + 1);
		a += i;
		n -= i;
	}
}

static uint64_t sort(uint64_t n)
{
	uint64_t x = 88172645463325252ull, sum = 0;

	for (uint64_t round = 0; round < n; round++) {
		for (int k = 0; k < TABLE; k++)
			words[k] = (uint32_t)next(&x);
		quicksort(words, TABLE);
		for (int k = 0; k < TABLE; k++)
			sum = sum * 31 + words[k];
	}
	return sum;
}

static uint64_t sieve(uint64_t n)
{
	uint64_t count = 0;

	for (uint64_t round = 0; round < n; round++) {
		count = 0;
		for (size_t k = 0; k < sizeof(bytes); k++)
			bytes[k] = 1;
		for (size_t k = 2; k < sizeof(bytes); k++) {
			if (!bytes[k])
				continue;
			count++;
			for (size_t m = k + k; m < sizeof(bytes); m += k)
				bytes[m] = 0;
		}
	}
	return count;
}

/* Dispatch through a table, as interpreters do. */
static uint64_t op_add(uint64_t a, uint64_t b) { return a + b; }
static uint64_t op_xor(uint64_t a, uint64_t b) { return a ^ b; }
static uint64_t op_mul(uint64_t a, uint64_t b) { return a * b; }
static uint64_t op_rot(uint64_t a, uint64_t b) { return a << (b & 63) | a >> (-b & 63); }
static uint64_t op_div(uint64_t a, uint64_t b) { return a / (b | 1); }

static uint64_t bytecode(uint64_t n)
{
	uint64_t (*const ops[])(uint64_t, uint64_t) = { op_add, op_xor, op_mul, op_rot, op_div };
	uint64_t acc = 1, x = 12345;

	for (uint64_t k = 0; k < n; k++) {
		next(&x);
		acc = ops[(x >> 8) % 5](acc, x);
	}
	return acc;
}

static uint64_t matrix(uint64_t n)
{
	uint64_t sum = 0;

	for (int k = 0; k < 1024; k++)
		words[k] = (uint32_t)k * 2654435761u;
	for (uint64_t round = 0; round < n; round++)
		for (int i = 0; i < 32; i++)
			for (int j = 0; j < 32; j++) {
				uint32_t s = 0;

				for (int k = 0; k < 32; k++)
					s += words[i * 32 + k] * words[k * 32 + j];
				sum += s;
			}
	return sum;
}

static uint64_t floats(uint64_t n)
{
	double s = 0;
	uint64_t out;

	for (int k = 0; k < 1024; k++)
		doubles[k] = 1.0 / (k + 1);
	for (uint64_t round = 0; round < n; round++)
		for (int k = 1; k < 1024; k++) {
			doubles[k] = doubles[k] * 0.999 + doubles[k - 1] * 0.001;
			s += doubles[k];
		}
	__builtin_memcpy(&out, &s, 8);
	return out;
}

const struct kernel kernels[] = {
	{ "crc", crc, 3000000 },   { "fib", fib, 27 },		 { "sort", sort, 10 },
	{ "sieve", sieve, 20 },	   { "bytecode", bytecode, 300000 }, { "matrix", matrix, 40 },
	{ "floats", floats, 1000 }, { NULL, NULL, 0 },
};
