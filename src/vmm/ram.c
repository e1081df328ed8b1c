/* SPDX-License-Identifier: MIT */
#include "vmm/ram.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "vmm/vmm.h"

int ram_create(struct ram *r, u64 size)
{
	u64 low = size < MMIO_HOLE_START ? size : MMIO_HOLE_START;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	r->map = p;
	r->size = size;
	r->range[0] = (struct ram_range){ .gpa = 0, .size = low, .host = p };
	r->n = 1;
	if (size > low)
		r->range[r->n++] = (struct ram_range){
			.gpa = HIGH_RAM_START, .size = size - low, .host = (u8 *)p + low };
	return 0;
}

void ram_destroy(struct ram *r)
{
	if (r->map)
		munmap(r->map, r->size);
	r->map = NULL;
	r->n = 0;
}

void *ram_ptr(const struct ram *r, u64 gpa, u64 len)
{
	for (unsigned int i = 0; i < r->n; i++) {
		const struct ram_range *g = &r->range[i];

		if (gpa >= g->gpa && gpa - g->gpa <= g->size && len <= g->size - (gpa - g->gpa))
			return g->host + (gpa - g->gpa);
	}
	return NULL;
}

bool ram_write(const struct ram *r, u64 gpa, const void *data, u64 len)
{
	void *p = ram_ptr(r, gpa, len);

	if (p)
		memcpy(p, data, len);
	return p != NULL;
}
