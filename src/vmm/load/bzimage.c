/* SPDX-License-Identifier: MIT */
/*
 * Linux bzImage through its 64-bit entry point. [kernel Documentation/x86/boot.rst "64-bit BOOT PROTOCOL"]
 */
#include "vmm/load/load.h"

#include <asm/bootparam.h>
#include <string.h>
#include "vmm/vmm.h"

#define SECTOR 512u
#define SETUP_OFFSET 0x1f1u	/* of the setup header in the file and in the zero page */
#define ENTRY64 0x200u
#define MIN_VERSION 0x20cu	/* 2.12: xloadflags, so that the 64-bit entry is known to exist */

struct bz {
	struct setup_header h;
	const u8 *code;
	u64 code_size;
	u64 load;
};

static int parse(struct bz *z, const struct image *k)
{
	const u8 *p = image_at(k, 0, 0x202 + 2);
	u64 header_size, offset, declared;

	if (!p || k->data[0x1fe] != 0x55 || k->data[0x1ff] != 0xaa)
		return vmm_error(EXIT_USAGE, "kernel '%s' is not a bzImage (no boot sector signature)", k->path);
	header_size = 0x202u + p[0x201] - SETUP_OFFSET;
	if (header_size > sizeof(z->h))
		header_size = sizeof(z->h);
	p = image_at(k, SETUP_OFFSET, header_size);
	if (!p)
		return vmm_error(EXIT_USAGE, "kernel '%s' is truncated in its setup header", k->path);
	memset(&z->h, 0, sizeof(z->h));
	memcpy(&z->h, p, header_size);
	if (memcmp(&z->h.header, "HdrS", 4))
		return vmm_error(EXIT_USAGE, "kernel '%s' is not a Linux bzImage (no HdrS)", k->path);
	if (z->h.version < MIN_VERSION || !(z->h.loadflags & LOADED_HIGH) || !(z->h.xloadflags & XLF_KERNEL_64))
		return vmm_error(EXIT_USAGE, "kernel '%s' (boot protocol %u.%02u) has no 64-bit entry point", k->path,
				 z->h.version >> 8, z->h.version & 0xff);
	offset = (u64)((z->h.setup_sects ? z->h.setup_sects : 4) + 1) * SECTOR;
	declared = (u64)z->h.syssize * 16;
	z->code = image_at(k, offset, declared);
	if (!z->code || declared < ENTRY64 + 1)
		return vmm_error(EXIT_USAGE, "kernel '%s' is truncated: %llu bytes, its header says %llu", k->path,
				 (unsigned long long)k->size, (unsigned long long)(offset + declared));
	z->code_size = declared;
	return 0;
}

/*
 * Where the kernel wants to run is where it is loaded, so the decompressor need not move it. init_size is what it
 * uses from there on before it reads the memory map.
 */
static int choose_address(struct vm *vm, struct bz *z, const struct image *k)
{
	u64 end;

	z->load = z->h.pref_address;
	if (z->load < BOOT_HIGH || z->load >= MMIO_HOLE_START)
		return vmm_error(EXIT_USAGE, "kernel '%s' wants to be loaded at 0x%llx", k->path,
				 (unsigned long long)z->load);
	end = z->load + (z->h.init_size > z->code_size ? z->h.init_size : z->code_size);
	if (end > ram_low_end(&vm->ram))
		return vmm_error(EXIT_USAGE, "kernel '%s' needs at least %llu MiB of memory (-m)", k->path,
				 (unsigned long long)((end + (1 << 20) - 1) >> 20));
	return 0;
}

static void fill_e820(struct vm *vm, struct boot_params *bp)
{
	struct e820_range r[E820_RANGES_MAX];
	unsigned int n = e820_build(&vm->ram, r);

	for (unsigned int i = 0; i < n; i++)
		bp->e820_table[i] = (struct boot_e820_entry){ .addr = r[i].addr, .size = r[i].size, .type = r[i].type };
	bp->e820_entries = (u8)n;
}

int load_bzimage(struct vm *vm, const struct image *k, const struct image *initrd, struct boot *b)
{
	struct boot_params *bp;
	struct bz z;
	u64 initrd_gpa;
	int rc = parse(&z, k);

	if (!rc)
		rc = choose_address(vm, &z, k);
	if (!rc)
		rc = place_cmdline(vm, z.h.cmdline_size ? z.h.cmdline_size : 255);
	if (!rc)
		rc = place_initrd(vm, initrd, z.load + z.h.init_size, (u64)z.h.initrd_addr_max + 1, &initrd_gpa);
	if (rc)
		return rc;
	bp = ram_ptr(&vm->ram, BOOT_PARAMS, sizeof(*bp));
	if (!bp || !ram_write(&vm->ram, z.load, z.code, z.code_size))
		return vmm_error(EXIT_USAGE, "kernel '%s' does not fit in memory (-m)", k->path);
	memset(bp, 0, sizeof(*bp));
	bp->hdr = z.h;
	bp->hdr.type_of_loader = 0xff;
	bp->hdr.code32_start = (u32)z.load;
	bp->hdr.cmd_line_ptr = BOOT_CMDLINE;
	bp->hdr.ramdisk_image = (u32)initrd_gpa;
	bp->hdr.ramdisk_size = initrd_gpa ? (u32)initrd->size : 0;
	bp->acpi_rsdp_addr = b->rsdp;
	fill_e820(vm, bp);
	b->mode = BOOT_LONG64;
	b->rip = z.load + ENTRY64;
	b->rsi = BOOT_PARAMS;
	b->rsp = BOOT_STACK;
	return 0;
}
