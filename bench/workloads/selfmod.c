/* SPDX-License-Identifier: MIT */
/* Code that changes: a small compiler's output, a patched constant, a call site that is rewritten, reloaded pages. */
#include <sys/mman.h>
#include "bench.h"

typedef uint64_t (*fn)(uint64_t);

static uint8_t *code(void)
{
	static uint8_t *p;

	if (!p)
		p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return p;
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, 4);
	return p + 4;
}

/* rax = (rdi * a + b) ^ c, in a loop of n */
static void emit(uint8_t *p, uint32_t a, uint32_t b, uint32_t c, uint32_t n)
{
	*p++ = 0xb9, p = put32(p, n);				/* mov ecx, n */
	*p++ = 0x48, *p++ = 0x89, *p++ = 0xf8;			/* mov rax, rdi */
	*p++ = 0x48, *p++ = 0x69, *p++ = 0xc0, p = put32(p, a); /* imul rax, rax, a */
	*p++ = 0x48, *p++ = 0x05, p = put32(p, b);		/* add rax, b */
	*p++ = 0x48, *p++ = 0x35, p = put32(p, c);		/* xor rax, c */
	*p++ = 0xff, *p++ = 0xc9;				/* dec ecx */
	*p++ = 0x75, *p++ = (uint8_t)-23;			/* jnz imul */
	*p++ = 0xc3;
}

/* A JIT: new code at a new place, run a while, places reused after a megabyte. */
static uint64_t jit_run(unsigned int rounds)
{
	uint8_t *p = code();
	uint64_t v = 1;

	for (unsigned int i = 0; i < rounds; i++) {
		uint8_t *at = p + i % 8192 * 128;

		emit(at, 2 * i + 3, i, i * 7, 200);
		v = ((fn)(uintptr_t)at)(v);
	}
	return v;
}

/* One constant of a function is rewritten before each call. */
static uint64_t patch_run(unsigned int rounds)
{
	uint8_t *p = code();
	uint64_t v = 1;

	emit(p, 5, 6, 7, 1);
	for (unsigned int i = 0; i < rounds; i++) {
		put32(p + 17, i);
		v = ((fn)(uintptr_t)p)(v);
	}
	return v;
}

/* A loop that increments an immediate of its own next instruction. */
static uint64_t inline_run(unsigned int rounds)
{
	uint8_t *p = code(), *q = p;

	*q++ = 0x31, *q++ = 0xc0;		   /* xor eax, eax */
	*q++ = 0x89, *q++ = 0xf9;		   /* mov ecx, edi */
	*q++ = 0xff, *q++ = 0x05, q = put32(q, 1); /* inc dword [rip+1]: the constant below */
	*q++ = 0x05, q = put32(q, 0);		   /* add eax, constant */
	*q++ = 0xff, *q++ = 0xc9;		   /* dec ecx */
	*q++ = 0x75, *q++ = (uint8_t)-15;	   /* jnz inc */
	*q++ = 0xc3;
	return ((fn)(uintptr_t)p)(rounds);
}

/* A page of functions is replaced as a whole, as a loader or a moving collector does. */
static uint64_t reload_run(unsigned int rounds)
{
	static uint8_t image[2][4096];
	uint8_t *p = code();
	uint64_t v = 1;

	for (int k = 0; k < 2; k++)
		for (uint32_t f = 0; f < 64; f++)
			emit(image[k] + f * 64, 3 + 2 * f, f + (uint32_t)k, 9, 4);
	while (rounds--) {
		memcpy(p, image[rounds & 1], 4096);
		for (int f = 0; f < 64; f++)
			v = ((fn)(uintptr_t)(p + f * 64))(v);
	}
	return v;
}

/* Fresh code that runs once: four kilobytes of straight line at a time, as initializers and small scripts give. */
static uint64_t once_run(unsigned int rounds)
{
	uint8_t *p = code();
	uint64_t v = 1;

	for (unsigned int i = 0; i < rounds; i++) {
		uint8_t *at = p + i % 256 * 4096, *q = at;

		*q++ = 0x48, *q++ = 0x89, *q++ = 0xf8;				/* mov rax, rdi */
		for (unsigned int k = 0; k < 200; k++) {
			*q++ = 0x48, *q++ = 0x05, q = put32(q, i + k);		/* add rax, i + k */
			*q++ = 0x48, *q++ = 0x69, *q++ = 0xc0, q = put32(q, 3 + 2 * k); /* imul rax, rax */
			*q++ = 0x48, *q++ = 0x35, q = put32(q, k);		/* xor rax, k */
		}
		*q = 0xc3;
		v = ((fn)(uintptr_t)at)(v);
	}
	return v;
}

WORKLOADS({ "jit", 20000, jit_run }, { "once", 1000, once_run }, { "patch", 120000, patch_run },
	  { "inline", 100000, inline_run }, { "reload", 1500, reload_run })
