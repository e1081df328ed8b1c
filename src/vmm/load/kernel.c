/* SPDX-License-Identifier: MIT */
/*
 * Which loader takes a kernel, and flat images, which need none.
 */
#include "vmm/load/load.h"

#include <string.h>
#include "vmm/vmm.h"

#define FLAT16_ADDR 0x7c00u
#define FLAT64_ADDR BOOT_HIGH

enum format { FMT_AUTO, FMT_BZIMAGE, FMT_ELF, FMT_MULTIBOOT, FMT_FLAT, FMT_FLAT64, FMT_BAD };

static enum format format_by_name(const char *s)
{
	static const char *const name[] = { "auto", "bzimage", "elf", "multiboot", "flat", "flat64" };

	for (unsigned int i = 0; i < ARRAY_SIZE(name); i++)
		if (!strcmp(s, name[i]))
			return (enum format)i;
	return FMT_BAD;
}

static enum format probe(const struct image *k)
{
	const u8 *magic = image_at(k, 0x202, 4);

	if (magic && !memcmp(magic, "HdrS", 4))
		return FMT_BZIMAGE;
	if (k->size >= 4 && !memcmp(k->data, "\177ELF", 4))
		return FMT_ELF;
	return multiboot_probe(k) ? FMT_MULTIBOOT : FMT_BAD;
}

/*
 * Two shapes for test guests: real mode as a boot sector starts (CS:IP 0:7c00h, all segments 0), and 64-bit
 * code at 1 MiB with the first 4 GiB mapped one to one.
 */
int load_flat(struct vm *vm, const struct image *k, struct boot *b, bool long_mode)
{
	u64 at = long_mode ? FLAT64_ADDR : FLAT16_ADDR;
	u64 room = long_mode ? ram_low_end(&vm->ram) : BOOT_EBDA;

	if (at + k->size > room || !ram_write(&vm->ram, at, k->data, k->size))
		return vmm_error(EXIT_USAGE, "flat image '%s' is larger than the %llu KiB there are for it", k->path,
				 (unsigned long long)((room > at ? room - at : 0) >> 10));
	b->mode = long_mode ? BOOT_LONG64 : BOOT_REAL16;
	b->rip = at;
	b->rsp = long_mode ? BOOT_STACK : FLAT16_ADDR;
	return 0;
}

static int load(struct vm *vm, const struct image *k, const struct image *initrd, struct boot *b)
{
	enum format f = format_by_name(vm->opt->format);

	if (f == FMT_BAD)
		return vmm_error(EXIT_USAGE, "--format: '%s' is not auto, bzimage, elf, multiboot, flat or flat64",
				 vm->opt->format);
	if (f == FMT_AUTO)
		f = probe(k);
	if (initrd->size && (f == FMT_FLAT || f == FMT_FLAT64))
		return vmm_error(EXIT_USAGE, "--initrd: a flat image takes none");
	switch (f) {
	case FMT_BZIMAGE:
		return load_bzimage(vm, k, initrd, b);
	case FMT_ELF:
		return load_elf(vm, k, initrd, b);
	case FMT_MULTIBOOT:
		return load_multiboot(vm, k, initrd, b);
	case FMT_FLAT:
	case FMT_FLAT64:
		return load_flat(vm, k, b, f == FMT_FLAT64);
	default:
		return vmm_error(EXIT_USAGE,
				 "kernel '%s' is no bzImage, ELF or multiboot file (truncated? see "
				 "--format)",
				 k->path);
	}
}

int load_kernel(struct vm *vm, struct boot *b)
{
	struct image k = { 0 }, initrd = { 0 };
	int rc = image_open(&k, vm->opt->kernel, "kernel");

	if (!rc && vm->opt->initrd)
		rc = image_open(&initrd, vm->opt->initrd, "initrd");
	if (!rc) {
		place_boot_tables(&vm->ram);
		rc = load(vm, &k, &initrd, b);
	}
	image_close(&k);
	image_close(&initrd);
	return rc;
}
