/* SPDX-License-Identifier: MIT */
/* Integer work as programs do it: checksums, hashing, sorting, compression, tables, long numbers. */
#include "bench.h"

#define BUF (256 * 1024)
static uint8_t buf[BUF], out[2 * BUF];

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)next_random(&seed);
}

/* Text-like: words of a small vocabulary, so that a compressor finds something. */
static void fill_text(uint8_t *p, size_t n)
{
	uint64_t seed = 42;
	size_t i = 0;

	while (i < n) {
		uint64_t word = next_random(&seed) % 600, letters = 2 + word % 7;

		for (uint64_t k = 0; k < letters && i < n; k++)
			p[i++] = (uint8_t)('a' + (word * 7 + k * k * 5) % 26);
		if (i < n)
			p[i++] = ' ';
	}
}

static uint64_t crc32_run(unsigned int rounds)
{
	uint32_t table[256], crc = ~0u;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
		table[i] = c;
	}
	fill(buf, BUF, 1);
	while (rounds--)
		for (size_t i = 0; i < BUF; i++)
			crc = table[(crc ^ buf[i]) & 255] ^ (crc >> 8);
	return ~crc;
}

static uint32_t ror(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void sha256_block(uint32_t h[8], const uint32_t k[64], const uint8_t *p)
{
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
		       (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = w[i - 15], b = w[i - 2];

		w[i] = w[i - 16] + (ror(a, 7) ^ ror(a, 18) ^ a >> 3) + w[i - 7] +
		       (ror(b, 17) ^ ror(b, 19) ^ b >> 10);
	}
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = s[7] + (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) +
			      ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t t2 = (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) +
			      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof(s[0]));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

/* The round constants are the fractions of cube roots of primes; integer arithmetic finds them. */
static void sha256_constants(uint32_t k[64])
{
	int n = 0;

	for (uint64_t p = 2; n < 64; p++) {
		int prime = 1;

		for (uint64_t d = 2; d * d <= p; d++)
			prime &= p % d != 0;
		if (!prime)
			continue;

		unsigned __int128 want = (unsigned __int128)p << 96;
		uint64_t root = 0;

		for (int bit = 34; bit >= 0; bit--) {
			uint64_t t = root | 1ull << bit;

			if ((unsigned __int128)t * t <= want / t)
				root = t;
		}
		k[n++] = (uint32_t)root;
	}
}

static uint64_t sha256_run(unsigned int rounds)
{
	uint32_t k[64], h[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

	sha256_constants(k);
	fill(buf, BUF, 2);
	while (rounds--)
		for (size_t i = 0; i < BUF; i += 64)
			sha256_block(h, k, buf + i);
	return mix(h[0], h[7]);
}

static void quicksort(uint32_t *a, long n)
{
	while (n > 16) {
		uint32_t pivot = a[n / 2];
		long i = 0, j = n - 1;

		while (i <= j) {
			while (a[i] < pivot)
				i++;
			while (a[j] > pivot)
				j--;
			if (i <= j) {
				uint32_t t = a[i];

				a[i++] = a[j];
				a[j--] = t;
			}
		}
		if (j + 1 < n - i) {
			quicksort(a, j + 1);
			a += i;
			n -= i;
		} else {
			quicksort(a + i, n - i);
			n = j + 1;
		}
	}
	for (long i = 1; i < n; i++) {
		uint32_t v = a[i];
		long j = i;

		for (; j > 0 && a[j - 1] > v; j--)
			a[j] = a[j - 1];
		a[j] = v;
	}
}

static uint64_t quicksort_run(unsigned int rounds)
{
	static uint32_t a[32768];
	uint64_t seed = 3, sum = 0;

	while (rounds--) {
		for (size_t i = 0; i < 32768; i++)
			a[i] = (uint32_t)next_random(&seed);
		quicksort(a, 32768);
		sum = mix(sum, a[100]);
	}
	return sum;
}

/* Greedy LZ77 with a hash of four bytes; a control byte says literal run or match. */
static size_t lz_pack(const uint8_t *in, size_t n, uint8_t *to)
{
	static uint32_t head[1 << 14];
	size_t o = 0, i = 0, lit = 0;

	memset(head, 0, sizeof(head));
	while (i + 4 < n) {
		uint32_t v;

		memcpy(&v, in + i, 4);

		uint32_t slot = v * 2654435761u >> 18, cand = head[slot];

		head[slot] = (uint32_t)i + 1;
		if (cand && i - (cand - 1) < 65535 && !memcmp(in + cand - 1, in + i, 4)) {
			size_t from = cand - 1, len = 4;

			while (i + len < n && len < 130 && in[from + len] == in[i + len])
				len++;
			for (; lit; lit -= lit > 127 ? 127 : lit) {
				size_t run = lit > 127 ? 127 : lit;

				to[o++] = (uint8_t)run;
				memcpy(to + o, in + i - lit, run);
				o += run;
			}
			to[o++] = (uint8_t)(0x80 | (len - 4));
			to[o++] = (uint8_t)(i - from);
			to[o++] = (uint8_t)((i - from) >> 8);
			i += len;
		} else {
			lit++;
			i++;
		}
	}
	for (lit += n - i; lit; lit -= lit > 127 ? 127 : lit) {
		size_t run = lit > 127 ? 127 : lit;

		to[o++] = (uint8_t)run;
		memcpy(to + o, in + n - lit, run);
		o += run;
	}
	return o;
}

static size_t lz_unpack(const uint8_t *in, size_t n, uint8_t *to)
{
	size_t o = 0;

	for (size_t i = 0; i < n;) {
		unsigned int c = in[i++];

		if (c < 0x80) {
			memcpy(to + o, in + i, c);
			o += c;
			i += c;
			continue;
		}

		size_t dist = in[i] | (size_t)in[i + 1] << 8;

		i += 2;
		for (size_t len = (c & 0x7f) + 4; len--; o++)
			to[o] = to[o - dist];
	}
	return o;
}

static uint64_t lz_run(unsigned int rounds)
{
	static uint8_t back[BUF];
	uint64_t sum = 0;

	fill_text(buf, BUF);
	while (rounds--) {
		size_t packed = lz_pack(buf, BUF, out);
		size_t n = lz_unpack(out, packed, back);

		sum = mix(sum, packed + (n == BUF && !memcmp(back, buf, BUF)));
		buf[rounds % BUF] ^= 1;
	}
	return sum;
}

struct coder {
	uint8_t len[256];
	uint16_t code[256];
};

/* Code lengths by repeatedly joining the two rarest; codes in canonical order. */
static void huffman_build(const uint8_t *in, size_t n, struct coder *c)
{
	uint32_t weight[511] = { 0 }, parent[511] = { 0 }, used = 256;
	uint32_t next = 0;

	for (size_t i = 0; i < n; i++)
		weight[in[i]]++;
	for (int k = 0; k < 256; k++)
		weight[k] = weight[k] / 16 + 1; /* keeps the longest code below 16 bits */
	for (; used < 511; used++) {
		uint32_t a = 511, b = 511;

		for (uint32_t k = 0; k < used; k++) {
			if (parent[k])
				continue;
			if (a == 511 || weight[k] < weight[a]) {
				b = a;
				a = k;
			} else if (b == 511 || weight[k] < weight[b]) {
				b = k;
			}
		}
		parent[a] = parent[b] = used;
		weight[used] = weight[a] + weight[b];
	}
	for (uint32_t k = 0; k < 256; k++) {
		c->len[k] = 0;
		for (uint32_t p = k; p != 510; p = parent[p])
			c->len[k]++;
	}
	for (unsigned int len = 1; len < 16; len++, next <<= 1)
		for (int k = 0; k < 256; k++)
			if (c->len[k] == len)
				c->code[k] = (uint16_t)next++;
}

static size_t huffman_pack(const struct coder *c, const uint8_t *in, size_t n, uint8_t *to)
{
	uint64_t acc = 0;
	unsigned int bits = 0;
	size_t o = 0;

	for (size_t i = 0; i < n; i++) {
		acc = acc << c->len[in[i]] | c->code[in[i]];
		bits += c->len[in[i]];
		while (bits >= 8)
			to[o++] = (uint8_t)(acc >> (bits -= 8));
	}
	to[o++] = (uint8_t)(acc << (8 - bits));
	return o;
}

static void huffman_unpack(const struct coder *c, const uint8_t *in, uint8_t *to, size_t n)
{
	static uint16_t table[1 << 15];
	uint64_t acc = 0;
	unsigned int bits = 0;

	for (unsigned int k = 0; k < 256; k++) {
		unsigned int room = 15u - c->len[k];

		for (unsigned int v = 0; v < 1u << room; v++)
			table[(unsigned int)c->code[k] << room | v] = (uint16_t)k;
	}
	for (size_t o = 0; o < n; o++) {
		while (bits < 15) {
			acc = acc << 8 | *in++;
			bits += 8;
		}
		to[o] = (uint8_t)table[acc >> (bits - 15) & 0x7fff];
		bits -= c->len[to[o]];
	}
}

static uint64_t huffman_run(unsigned int rounds)
{
	static uint8_t back[BUF];
	uint64_t sum = 0;

	fill_text(buf, BUF);
	while (rounds--) {
		struct coder c;
		size_t packed;

		huffman_build(buf, BUF, &c);
		packed = huffman_pack(&c, buf, BUF, out);
		huffman_unpack(&c, out, back, BUF);
		sum = mix(sum, packed + !memcmp(back, buf, BUF));
		buf[rounds % BUF] ^= 1;
	}
	return sum;
}

static uint64_t hash_run(unsigned int rounds)
{
	enum { SLOTS = 1 << 15 };
	static uint64_t key[SLOTS], value[SLOTS];
	uint64_t seed = 5, sum = 0;

	while (rounds--) {
		memset(key, 0, sizeof(key));
		for (int i = 0; i < SLOTS * 3 / 4; i++) {
			uint64_t k = next_random(&seed) | 1, s = (k * 0x9e3779b97f4a7c15ULL) >> 49;

			while (key[s] && key[s] != k)
				s = (s + 1) % SLOTS;
			key[s] = k;
			value[s] += (uint64_t)i;
		}
		for (uint64_t s = 0; s < SLOTS; s++)
			sum = mix(sum, key[s] ? value[s] : s);
	}
	return sum;
}

static uint64_t sieve_run(unsigned int rounds)
{
	uint64_t sum = 0;

	while (rounds--) {
		memset(buf, 1, BUF);
		for (size_t i = 2; i * i < BUF; i++)
			if (buf[i])
				for (size_t j = i * i; j < BUF; j += i)
					buf[j] = 0;
		for (size_t i = 2; i < BUF; i++)
			sum += buf[i] ? i : 0;
	}
	return sum;
}

/* Montgomery-free modular power of 1024-bit numbers would divide; this squares and reduces by 2^1024 - 105. */
static uint64_t bignum_run(unsigned int rounds)
{
	enum { W = 16 };
	uint64_t a[W], t[2 * W];

	for (int i = 0; i < W; i++)
		a[i] = 0x0123456789abcdefULL * (uint64_t)(i + 1);
	while (rounds--) {
		memset(t, 0, sizeof(t));
		for (int i = 0; i < W; i++) {
			unsigned __int128 carry = 0;

			for (int j = 0; j < W; j++) {
				carry += (unsigned __int128)a[i] * a[j] + t[i + j];
				t[i + j] = (uint64_t)carry;
				carry >>= 64;
			}
			t[i + W] = (uint64_t)carry;
		}
		unsigned __int128 carry = 0;

		for (int i = 0; i < W; i++) {
			carry += (unsigned __int128)t[i + W] * 105 + t[i];
			a[i] = (uint64_t)carry;
			carry >>= 64;
		}
		for (int i = 0; carry && i < W; i++) {
			carry = carry * (i ? 1 : 105) + a[i];
			a[i] = (uint64_t)carry;
			carry >>= 64;
		}
	}
	return mix(a[0], a[W - 1]);
}

/* 64-bit and 32-bit division and its remainder, the slow corner of integer units. */
static uint64_t divide_run(unsigned int rounds)
{
	uint64_t seed = 7, sum = 0;

	for (unsigned int i = 0; i < rounds * 1000; i++) {
		uint64_t x = next_random(&seed), d = (x >> 40) | 1;

		sum += x / d + x % (d + 2) + (uint32_t)x / (uint32_t)((x >> 33) | 1);
	}
	return sum;
}

WORKLOADS({ "crc32", 40, crc32_run }, { "sha256", 14, sha256_run },
	  { "quicksort", 18, quicksort_run }, { "lz", 16, lz_run }, { "huffman", 10, huffman_run },
	  { "hash", 60, hash_run }, { "sieve", 45, sieve_run }, { "bignum", 190000, bignum_run },
	  { "divide", 4000, divide_run })
