/* SPDX-License-Identifier: MIT */
#pragma once
#include <stdint.h>

struct kernel {
	const char *name;
	uint64_t (*fn)(uint64_t n);
	uint64_t n;
};

extern const struct kernel kernels[]; /* ends with a NULL name */
