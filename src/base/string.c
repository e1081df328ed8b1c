/* SPDX-License-Identifier: MIT */
/*
 * memcpy and friends without vector registers. Hidden, so they win inside the engine only; the VMM
 * process keeps its libc's.
 */
#include "base/base.h"

struct word8 { u64 v; } __attribute__((packed, may_alias));
struct word4 { u32 v; } __attribute__((packed, may_alias));
struct word2 { u16 v; } __attribute__((packed, may_alias));

/* Above this REP MOVSB wins over a loop of 8-byte moves (start-up cost of the microcode). */
#define REP_MIN 128

void *memcpy(void *restrict dst, const void *restrict src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* All loads before all stores, so it serves memmove as well. */
static inline void copy_small(u8 *d, const u8 *s, size_t n)
{
	if (n >= 8) {
		u64 a = ((const struct word8 *)s)->v;
		u64 b = ((const struct word8 *)(s + n - 8))->v;

		((struct word8 *)d)->v = a;
		((struct word8 *)(d + n - 8))->v = b;
	} else if (n >= 4) {
		u32 a = ((const struct word4 *)s)->v;
		u32 b = ((const struct word4 *)(s + n - 4))->v;

		((struct word4 *)d)->v = a;
		((struct word4 *)(d + n - 4))->v = b;
	} else if (n >= 2) {
		u16 a = ((const struct word2 *)s)->v;
		u16 b = ((const struct word2 *)(s + n - 2))->v;

		((struct word2 *)d)->v = a;
		((struct word2 *)(d + n - 2))->v = b;
	} else if (n) {
		*d = *s;
	}
}

void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
	u8 *d = dst;
	const u8 *s = src;

	if (n <= 16) {
		copy_small(d, s, n);
		return dst;
	}
	if (n < REP_MIN) {
		for (; n > 16; n -= 8, d += 8, s += 8)
			((struct word8 *)d)->v = ((const struct word8 *)s)->v;
		copy_small(d, s, n);
		return dst;
	}
	__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	return dst;
}

void *memmove(void *dst, const void *src, size_t n)
{
	u8 *d = dst;
	const u8 *s = src;

	if (n <= 16) {
		copy_small(d, s, n);
		return dst;
	}
	if ((size_t)(d - s) >= n) { /* forward is safe, also when dst is below src */
		__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
		return dst;
	}
	while (n >= 8) {
		n -= 8;
		((struct word8 *)(d + n))->v = ((const struct word8 *)(s + n))->v;
	}
	while (n--)
		d[n] = s[n];
	return dst;
}

void *memset(void *dst, int c, size_t n)
{
	u8 *d = dst;
	u64 fill = (u8)c * 0x0101010101010101ull;

	if (n < REP_MIN) {
		for (; n >= 8; n -= 8, d += 8)
			((struct word8 *)d)->v = fill;
		while (n--)
			*d++ = (u8)c;
		return dst;
	}
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *p = a;
	const u8 *q = b;

	for (; n >= 8; n -= 8, p += 8, q += 8)
		if (((const struct word8 *)p)->v != ((const struct word8 *)q)->v)
			break;
	for (; n; n--, p++, q++)
		if (*p != *q)
			return *p - *q;
	return 0;
}
