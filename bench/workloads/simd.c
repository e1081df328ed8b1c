/* SPDX-License-Identifier: MIT */
/* Vector units: SSE2 to AVX2 by intrinsics, so that the instructions are these whatever the compiler thinks. */
#include <immintrin.h>
#include "bench.h"

#define N 4096
static float x[N] __attribute__((aligned(64))), y[N] __attribute__((aligned(64)));
static uint8_t bytes[4 * N] __attribute__((aligned(64))), text[8 * N] __attribute__((aligned(64)));

static int has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int has_ssse3(void)
{
	return __builtin_cpu_supports("ssse3");
}

static int has_aes(void)
{
	return __builtin_cpu_supports("aes");
}

static uint64_t sum_floats(const float *p)
{
	uint64_t sum = 0;

	for (int i = 0; i < N; i++) {
		uint32_t u;

		memcpy(&u, p + i, 4);
		sum = mix(sum, u);
	}
	return sum;
}

static void fill(void)
{
	uint64_t seed = 9;

	for (int i = 0; i < N; i++) {
		x[i] = (float)(i % 97) * 0.25f;
		y[i] = (float)(i % 89) * 0.5f;
	}
	for (int i = 0; i < 4 * N; i++)
		bytes[i] = (uint8_t)next_random(&seed);
}

static uint64_t saxpy_sse_run(unsigned int rounds)
{
	fill();
	while (rounds--) {
		__m128 a = _mm_set1_ps(rounds & 1 ? 0.5f : -0.5f);

		for (int i = 0; i < N; i += 4)
			_mm_store_ps(y + i, _mm_add_ps(_mm_mul_ps(a, _mm_load_ps(x + i)),
						       _mm_load_ps(y + i)));
	}
	return sum_floats(y);
}

__attribute__((target("avx2,fma"))) static uint64_t saxpy_avx2_run(unsigned int rounds)
{
	fill();
	while (rounds--) {
		__m256 a = _mm256_set1_ps(rounds & 1 ? 0.5f : -0.5f);

		for (int i = 0; i < N; i += 8)
			_mm256_store_ps(y + i, _mm256_fmadd_ps(a, _mm256_load_ps(x + i),
							       _mm256_load_ps(y + i)));
	}
	return sum_floats(y);
}

/* Sum of absolute differences against a moving window: psadbw, unaligned loads. */
static uint64_t sad_run(unsigned int rounds)
{
	__m128i sum = _mm_setzero_si128();

	fill();
	while (rounds--)
		for (int i = 0; i + 32 <= 4 * N; i += 16)
			sum = _mm_add_epi64(
				sum,
				_mm_sad_epu8(_mm_load_si128((void *)(bytes + i)),
					     _mm_loadu_si128((void *)(bytes + i + rounds % 16))));
	return (uint64_t)_mm_cvtsi128_si64(sum) +
	       (uint64_t)_mm_cvtsi128_si64(_mm_unpackhi_epi64(sum, sum));
}

/* Bytes to hexadecimal text: pshufb, unpack. */
__attribute__((target("ssse3"))) static uint64_t hex_run(unsigned int rounds)
{
	const __m128i digits = _mm_setr_epi8('0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a',
					     'b', 'c', 'd', 'e', 'f');
	const __m128i low = _mm_set1_epi8(15);
	uint64_t sum = 0;

	fill();
	while (rounds--) {
		for (int i = 0; i < 4 * N; i += 16) {
			__m128i v = _mm_load_si128((void *)(bytes + i));
			__m128i hi =
				_mm_shuffle_epi8(digits, _mm_and_si128(_mm_srli_epi16(v, 4), low));
			__m128i lo = _mm_shuffle_epi8(digits, _mm_and_si128(v, low));

			_mm_store_si128((void *)(text + 2 * i), _mm_unpacklo_epi8(hi, lo));
			_mm_store_si128((void *)(text + 2 * i + 16), _mm_unpackhi_epi8(hi, lo));
		}
		bytes[rounds % N]++;
		sum = mix(sum, text[rounds % (8 * N)]);
	}
	return sum;
}

/* Eight-bit dot product with horizontal sums: maddubs, madd. */
__attribute__((target("avx2,fma"))) static uint64_t dot_avx2_run(unsigned int rounds)
{
	__m256i acc = _mm256_setzero_si256();
	const __m256i ones = _mm256_set1_epi16(1), mask = _mm256_set1_epi8(63);

	fill();
	while (rounds--)
		for (int i = 0; i < 2 * N; i += 32) {
			__m256i a = _mm256_and_si256(_mm256_load_si256((void *)(bytes + i)), mask);
			__m256i b =
				_mm256_loadu_si256((void *)(bytes + 2 * N - 1 - i + (rounds & 1)));

			acc = _mm256_add_epi32(acc,
					       _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
		}

	uint32_t lane[8];

	_mm256_storeu_si256((void *)lane, acc);
	return mix(lane[0] + lane[1] + lane[2] + lane[3], lane[4] + lane[5] + lane[6] + lane[7]);
}

/* One AES-128 round key, ten rounds, chained: AES-NI. */
__attribute__((target("aes"))) static uint64_t aes_run(unsigned int rounds)
{
	__m128i s[4], key = _mm_set_epi64x(0x0123456789abcdef, 0x0f1e2d3c4b5a6978);

	for (int i = 0; i < 4; i++)
		s[i] = _mm_set1_epi32(i);
	for (unsigned int n = 0; n < rounds * 100; n++)
		for (int r = 0; r < 10; r++)
			for (int i = 0; i < 4; i++)
				s[i] = _mm_aesenc_si128(s[i], key);
	return (uint64_t)_mm_cvtsi128_si64(
		_mm_xor_si128(_mm_xor_si128(s[0], s[1]), _mm_xor_si128(s[2], s[3])));
}

WORKLOADS({ "saxpy-sse", 20000, saxpy_sse_run }, { "saxpy-avx2", 36000, saxpy_avx2_run, has_avx2 },
	  { "sad-sse2", 24000, sad_run }, { "hex-ssse3", 16000, hex_run, has_ssse3 },
	  { "dot-avx2", 90000, dot_avx2_run, has_avx2 }, { "aes-ni", 6000, aes_run, has_aes })
