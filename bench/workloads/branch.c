/* SPDX-License-Identifier: MIT */
/* Control flow: calls, returns, indirect jumps, branches that cannot be foreseen. */
#include "bench.h"

__attribute__((noinline)) static unsigned int fib(unsigned int n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t fib_run(unsigned int rounds)
{
	uint64_t sum = 0;

	while (rounds--)
		sum += fib(opaque(22u));
	return sum;
}

typedef uint64_t (*step)(uint64_t);
#define STEP(n, e)                                                                                 \
	__attribute__((noinline)) static uint64_t step##n(uint64_t v)                              \
	{                                                                                          \
		return e;                                                                          \
	}
STEP(0, v + 1)
STEP(1, v ^ 0x5555)
STEP(2, v << 1 | v >> 63) STEP(3, v * 3) STEP(4, v - 7) STEP(5, ~v) STEP(6, v >> 3 ^ v)
	STEP(7, v + (v << 5))

		static uint64_t indirect_run(unsigned int rounds)
{
	static const step table[8] = { step0, step1, step2, step3, step4, step5, step6, step7 };
	uint64_t v = 1;

	for (unsigned int i = 0; i < rounds * 1000; i++)
		v = table[(v ^ i) & 7](v);
	return v;
}

/* A bytecode interpreter: the shape of many programs' inner loop. */
enum op { PUSH, ADD, SUB, MUL, DUP, SWAP, OVER, LOADN, STOREN, DEC, JNZ, HALT };

static uint64_t bytecode_run(unsigned int rounds)
{
	/* s = 0; n = 2000; do { s = (s + n) * 3 - n; } while (--n); */
	static const uint16_t code[] = {
		PUSH,  0,     STOREN, 0,    PUSH, 2000,	  STOREN, 1,   LOADN, 0,
		LOADN, 1,     ADD,    PUSH, 3,	  MUL,	  LOADN,  1,   SUB,   STOREN,
		0,     LOADN, 1,      DEC,  DUP,  STOREN, 1,	  JNZ, 8,     HALT,
	};
	uint64_t sum = 0;

	while (rounds--) {
		uint64_t stack[16], var[4], *sp = stack;
		const uint16_t *pc = code;

		for (int on = 1; on;)
			switch (*pc++) {
			case PUSH:
				*sp++ = *pc++;
				break;
			case ADD:
				sp--;
				sp[-1] += sp[0];
				break;
			case SUB:
				sp--;
				sp[-1] -= sp[0];
				break;
			case MUL:
				sp--;
				sp[-1] *= sp[0];
				break;
			case DUP:
				*sp = sp[-1];
				sp++;
				break;
			case SWAP: {
				uint64_t t = sp[-1];
				sp[-1] = sp[-2];
				sp[-2] = t;
				break;
			}
			case OVER:
				*sp = sp[-2];
				sp++;
				break;
			case LOADN:
				*sp++ = var[*pc++];
				break;
			case STOREN:
				var[*pc++] = *--sp;
				break;
			case DEC:
				sp[-1]--;
				break;
			case JNZ:
				pc = *--sp ? code + *pc : pc + 1;
				break;
			default:
				on = 0;
				break;
			}
		sum = mix(sum, var[0]);
	}
	return sum;
}

static uint64_t bsearch_run(unsigned int rounds)
{
	enum { N = 4096 };
	static uint32_t a[N];
	uint64_t seed = 17, sum = 0;

	for (uint32_t i = 0; i < N; i++)
		a[i] = i * 1048576u + (uint32_t)(next_random(&seed) & 0xffff);
	for (unsigned int i = 0; i < rounds * 1000; i++) {
		uint32_t want = (uint32_t)next_random(&seed), lo = 0, hi = N;

		while (lo < hi) {
			uint32_t mid = (lo + hi) / 2;

			if (a[mid] < want)
				lo = mid + 1;
			else
				hi = mid;
		}
		sum += lo;
	}
	return sum;
}

/* A state machine over pseudo-random text: words, numbers, lines. */
static uint64_t lexer_run(unsigned int rounds)
{
	static char text[65536];
	uint64_t seed = 19, words = 0, numbers = 0, lines = 0;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = "etaoin shrdlu 0123456789\n,.;x "[next_random(&seed) % 30];
	while (rounds--) {
		int state = 0;

		for (size_t i = 0; i < sizeof(text); i++) {
			char c = text[i];

			if (c >= 'a' && c <= 'z') {
				words += state != 1;
				state = 1;
			} else if (c >= '0' && c <= '9') {
				numbers += state == 0;
				state = state == 1 ? 1 : 2;
			} else {
				lines += c == '\n';
				state = 0;
			}
		}
	}
	return mix(mix(words, numbers), lines);
}

/* Towers of Hanoi by explicit recursion with a callback: deep call chains, many arguments. */
__attribute__((noinline)) static void hanoi(int n, int from, int to, int by,
					    void (*move)(int, int, uint64_t *), uint64_t *sum)
{
	if (!n)
		return;
	hanoi(n - 1, from, by, to, move, sum);
	move(from, to, sum);
	hanoi(n - 1, by, to, from, move, sum);
}

__attribute__((noinline)) static void moved(int from, int to, uint64_t *sum)
{
	*sum = *sum * 5 + (uint64_t)(from * 3 + to);
}

static uint64_t hanoi_run(unsigned int rounds)
{
	uint64_t sum = 0;

	while (rounds--)
		hanoi(opaque(14), 0, 1, 2, moved, &sum);
	return sum;
}

WORKLOADS({ "fib", 700, fib_run }, { "indirect", 4000, indirect_run },
	  { "bytecode", 500, bytecode_run }, { "bsearch", 500, bsearch_run },
	  { "lexer", 70, lexer_run }, { "hanoi", 350, hanoi_run })
