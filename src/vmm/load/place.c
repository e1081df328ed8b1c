/* SPDX-License-Identifier: MIT */
/*
 * What every boot protocol needs in guest memory: memory map, command line, initrd, GDT and page tables.
 */
#include "vmm/load/load.h"

#include <string.h>
#include "vmm/vmm.h"

unsigned int e820_build(const struct ram *ram, struct e820_range *out)
{
	unsigned int n = 0;
	u64 low = ram_low_end(ram);

	out[n++] = (struct e820_range){ 0, BOOT_EBDA, 1 };
	out[n++] = (struct e820_range){ BOOT_EBDA, BOOT_HIGH - BOOT_EBDA, 2 };
	if (low > BOOT_HIGH)
		out[n++] = (struct e820_range){ BOOT_HIGH, low - BOOT_HIGH, 1 };
	if (ram->n > 1)
		out[n++] = (struct e820_range){ ram->range[1].gpa, ram->range[1].size, 1 };
	return n;
}

int place_initrd(struct vm *vm, const struct image *initrd, u64 min, u64 max, u64 *gpa)
{
	u64 end = ram_low_end(&vm->ram) < max ? ram_low_end(&vm->ram) : max;
	u64 at;

	*gpa = 0;
	if (!initrd->size)
		return 0;
	if (end < initrd->size || (end - initrd->size) < min)
		return vmm_error(EXIT_USAGE,
				 "initrd '%s' (%llu MiB) does not fit in memory beside the kernel; "
				 "give more with -m",
				 initrd->path, (unsigned long long)(initrd->size >> 20) + 1);
	at = (end - initrd->size) & PAGE_MASK;
	if (at < min || !ram_write(&vm->ram, at, initrd->data, initrd->size))
		return vmm_error(EXIT_USAGE, "initrd '%s' does not fit in memory; give more with -m", initrd->path);
	*gpa = at;
	return 0;
}

int place_cmdline(struct vm *vm, u64 max)
{
	const char *text = vm->opt->cmdline;
	size_t len = strlen(text);

	if (max > BOOT_CMDLINE_MAX - 1)
		max = BOOT_CMDLINE_MAX - 1;
	if (len > max)
		return vmm_error(EXIT_USAGE, "--cmdline: %zu bytes, the kernel takes %llu", len,
				 (unsigned long long)max);
	if (!ram_write(&vm->ram, BOOT_CMDLINE, text, len + 1))
		return vmm_error(EXIT_USAGE, "--mem: too little for the command line");
	return 0;
}

void place_boot_tables(struct ram *ram)
{
	/* [SDM3A "Segment Descriptors"]: null, null, flat code, flat data, 32-bit busy TSS, its upper half */
	const u64 gdt[BOOT_GDT_SIZE / 8] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067, 0 };
	const u64 table = 3, large = 0x83;	/* present and writable; and page size */
	u64 *p = ram_ptr(ram, BOOT_PML4, 6 * PAGE_SIZE);

	ram_write(ram, BOOT_GDT, gdt, sizeof(gdt));
	if (!p)
		return;
	memset(p, 0, 6 * PAGE_SIZE);
	p[0] = (BOOT_PML4 + PAGE_SIZE) | table;
	for (u64 i = 0; i < 4; i++)
		p[512 + i] = (BOOT_PML4 + (2 + i) * PAGE_SIZE) | table;
	for (u64 i = 0; i < 2048; i++)
		p[1024 + i] = i << 21 | large;
}
