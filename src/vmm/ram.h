/* SPDX-License-Identifier: MIT */
/*
 * Guest memory as the monitor sees it: one mapping, two ranges around the MMIO hole, and the only way to turn
 * a guest-physical address into a pointer.
 */
#pragma once
#include "base/types.h"

struct ram_range {
	u64 gpa, size;
	u8 *host;
};

struct ram {
	struct ram_range range[2];
	unsigned int n;
	u64 size;
	u8 *map;
};

/**
 * ram_create() - map @size bytes of guest memory
 *
 * Return: 0 or -errno.
 */
int ram_create(struct ram *r, u64 size);
void ram_destroy(struct ram *r);

/**
 * ram_ptr() - host address of guest bytes
 *
 * Return: NULL unless all of [@gpa, @gpa + @len) lies in one range of guest memory.
 */
void *ram_ptr(const struct ram *r, u64 gpa, u64 len);

/* End of the memory below 4 GiB. */
static inline u64 ram_low_end(const struct ram *r)
{
	return r->range[0].size;
}

bool ram_write(const struct ram *r, u64 gpa, const void *data, u64 len);
