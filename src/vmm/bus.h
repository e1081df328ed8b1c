/* SPDX-License-Identifier: MIT */
/*
 * Port and memory-mapped I/O: which device answers an address.
 */
#pragma once
#include "base/types.h"

#define BUS_RANGES_MAX 32

/**
 * struct bus_range - a device's addresses
 *
 * @read and @write get the offset from @base and a size of 1, 2, 4 or 8 that stays inside the range.
 */
struct bus_range {
	u64 base, size;
	u64 (*read)(void *dev, u64 off, unsigned int size);
	void (*write)(void *dev, u64 off, unsigned int size, u64 val);
	void *dev;
};

/* Filled before the first vCPU runs, constant after: no lock. */
struct bus {
	struct bus_range range[BUS_RANGES_MAX];
	unsigned int n;
};

void bus_add(struct bus *b, const struct bus_range *r);

/**
 * bus_access() - one access of a vCPU
 * @size: any; what no device takes reads as ones and is lost when written
 */
void bus_access(const struct bus *b, u64 addr, void *data, unsigned int size, bool write);
