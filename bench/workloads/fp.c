/* SPDX-License-Identifier: MIT */
/* Floating point: double precision as compilers emit it, and the x87 stack. */
#include <math.h>
#include "bench.h"

static uint64_t bits(double d)
{
	uint64_t u;

	memcpy(&u, &d, sizeof(u));
	return u;
}

struct body {
	double x[3], v[3], m;
};

static uint64_t nbody_run(unsigned int rounds)
{
	struct body b[5];

	for (int i = 0; i < 5; i++)
		b[i] = (struct body){ { i * 1.7, i * i * 0.9 - 2, 0.1 * i },
				      { 0.2 * i, 0.5 - 0.1 * i, 0.01 * i },
				      4.0 / (i + 1) };
	while (rounds--) {
		for (int i = 0; i < 5; i++)
			for (int j = i + 1; j < 5; j++) {
				double d[3], r2 = 0.01;

				for (int k = 0; k < 3; k++) {
					d[k] = b[i].x[k] - b[j].x[k];
					r2 += d[k] * d[k];
				}
				double mag = 1e-4 / (r2 * sqrt(r2));

				for (int k = 0; k < 3; k++) {
					b[i].v[k] -= d[k] * b[j].m * mag;
					b[j].v[k] += d[k] * b[i].m * mag;
				}
			}
		for (int i = 0; i < 5; i++)
			for (int k = 0; k < 3; k++)
				b[i].x[k] += 1e-4 * b[i].v[k];
	}
	return mix(bits(b[0].x[0]), bits(b[4].x[2]));
}

static uint64_t matmul_run(unsigned int rounds)
{
	enum { N = 96 };
	static double a[N][N], b[N][N], c[N][N];

	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = (i * 7 + j * 3) % 11 * 0.125;
			b[i][j] = (i * 5 + j * 2) % 13 * 0.0625;
		}
	while (rounds--) {
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j++) {
				double s = 0;

				for (int k = 0; k < N; k++)
					s += a[i][k] * b[k][j];
				c[i][j] = s;
			}
		a[rounds % N][0] = c[3][4] * 1e-3;
	}
	return bits(c[1][2]) ^ bits(c[N - 1][N - 2]);
}

static uint64_t mandelbrot_run(unsigned int rounds)
{
	uint64_t sum = 0;

	while (rounds--)
		for (int py = 0; py < 64; py++)
			for (int px = 0; px < 64; px++) {
				double cx = px / 24.0 - 2, cy = py / 32.0 - 1, x = 0, y = 0;
				int n = 0;

				while (n < 80 && x * x + y * y < 4) {
					double t = x * x - y * y + cx;

					y = 2 * x * y + cy;
					x = t;
					n++;
				}
				sum += (uint64_t)n;
			}
	return sum;
}

static uint64_t fft_run(unsigned int rounds)
{
	enum { N = 1024 };
	static double re[N], im[N], cs[N / 2], sn[N / 2];
	double c = 1, s = 0, dc = 0.99998117528260111, ds = 0.0061358846491544753;

	for (int i = 0; i < N / 2; i++) {
		cs[i] = c;
		sn[i] = -s;
		double t = c * dc - s * ds;

		s = s * dc + c * ds;
		c = t;
	}
	for (int i = 0; i < N; i++) {
		re[i] = i % 37 * 0.5;
		im[i] = 0;
	}
	while (rounds--) {
		for (int len = N; len > 1; len /= 2)
			for (int i = 0; i < N; i += len)
				for (int j = 0; j < len / 2; j++) {
					int p = i + j, q = p + len / 2, w = j * (N / len);
					double tr = re[p] - re[q], ti = im[p] - im[q];

					re[p] += re[q];
					im[p] += im[q];
					re[q] = tr * cs[w] - ti * sn[w];
					im[q] = tr * sn[w] + ti * cs[w];
				}
		for (int i = 0; i < N; i++) {
			re[i] *= 0.03125;
			im[i] *= 0.03125;
		}
	}
	return mix(bits(re[5]), bits(im[700]));
}

/* Heron's cube roots in 80-bit precision: fld, fmul, fdiv, fadd, fstp. */
static uint64_t x87_run(unsigned int rounds)
{
	long double sum = 0;

	for (unsigned int i = 1; i <= rounds * 100; i++) {
		long double v = i, x = 1.0L + v / 1000;

		for (int k = 0; k < 6; k++)
			x = (2 * x + v / (x * x)) / 3;
		sum += x;
	}
	return bits((double)sum);
}

static uint64_t convert_run(unsigned int rounds)
{
	int64_t n = 0;
	float f = 0.5f;

	for (unsigned int i = 0; i < rounds * 1000; i++) {
		double d = (double)(n & 0xffff) * 1.0009765625 + (double)f;

		n = n * 3 + (int64_t)d + (int64_t)i;
		f = (float)(d * 0.000030517578125);
		if (d > 40000.0)
			n ^= 0x55;
	}
	return (uint64_t)n;
}

WORKLOADS({ "nbody", 150000, nbody_run }, { "matmul", 45, matmul_run },
	  { "mandelbrot", 70, mandelbrot_run }, { "fft", 1500, fft_run }, { "x87", 4000, x87_run },
	  { "convert", 6000, convert_run })
