/* SPDX-License-Identifier: MIT */
#include "vmm/bus.h"

#include <string.h>

void bus_add(struct bus *b, const struct bus_range *r)
{
	if (b->n < BUS_RANGES_MAX)
		b->range[b->n++] = *r;
}

static const struct bus_range *find(const struct bus *b, u64 addr, unsigned int size)
{
	for (unsigned int i = 0; i < b->n; i++) {
		const struct bus_range *r = &b->range[i];

		if (addr - r->base < r->size && r->size - (addr - r->base) >= size)
			return r;
	}
	return NULL;
}

static bool natural(unsigned int size)
{
	return size == 1 || size == 2 || size == 4 || size == 8;
}

void bus_access(const struct bus *b, u64 addr, void *data, unsigned int size, bool write)
{
	const struct bus_range *r = find(b, addr, size);
	u64 val = ~0ull;

	/* A wide access that no range holds whole is split, as a PC's bus bridge does: outw to two byte ports. */
	if ((!r || !natural(size)) && size > 1) {
		for (unsigned int i = 0; i < size; i++)
			bus_access(b, addr + i, (u8 *)data + i, 1, write);
		return;
	}
	if (write) {
		if (!r)
			return;
		val = 0;
		memcpy(&val, data, size);
		r->write(r->dev, addr - r->base, size, val);
		return;
	}
	if (r)
		val = r->read(r->dev, addr - r->base, size);
	memcpy(data, &val, size);
}
