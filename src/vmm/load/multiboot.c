/* SPDX-License-Identifier: MIT */
/*
 * Multiboot version 1. ["Multiboot Specification version 0.6.96"]
 */
#include "vmm/load/load.h"

#include <elf.h>
#include <string.h>
#include "vmm/vmm.h"

#define MB_MAGIC 0x1badb002u
#define MB_LOADED 0x2badb002u
#define MB_SEARCH 8192u
#define MB_FLAG_VIDEO 0x4u
#define MB_FLAG_KLUDGE 0x10000u
/* Requirements (low 16 flags) that we know: page-aligned modules, memory information. */
#define MB_FLAGS_KNOWN 0x3u

struct mb_header {
	u32 magic, flags, checksum;
	u32 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct mb_info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	u32 syms[4];
	u32 mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
	u32 apm_table;
};
struct mb_module {
	u32 start, end, string, reserved;
};
struct mb_mmap {
	u32 size;
	u64 addr, len;
	u32 type;
} __attribute__((packed));
struct mb_page {
	struct mb_info info;
	struct mb_module module;
	struct mb_mmap map[E820_RANGES_MAX];
	char name[16];
};

/* File offset of the header, or -1. */
static s64 find_header(const struct image *k, struct mb_header *h)
{
	for (u64 off = 0; off + 12 <= MB_SEARCH; off += 4) {
		const u8 *p = image_at(k, off, 12);

		if (!p)
			return -1;
		memset(h, 0, sizeof(*h));
		memcpy(h, p, 12);
		if (h->magic != MB_MAGIC || h->magic + h->flags + h->checksum)
			continue;
		p = image_at(k, off, sizeof(*h));
		if (p)
			memcpy(h, p, sizeof(*h));
		else if (h->flags & MB_FLAG_KLUDGE)
			continue;
		return (s64)off;
	}
	return -1;
}

bool multiboot_probe(const struct image *k)
{
	struct mb_header h;

	return find_header(k, &h) >= 0;
}

/* The header itself says where the file goes, for kernels that are no ELF files. */
static int load_kludge(struct vm *vm, const struct image *k, const struct mb_header *h, u64 off, struct elf_info *info)
{
	u64 start = off - ((u64)h->header_addr - h->load_addr);
	u64 size, memsz;
	const u8 *src;
	u8 *dst;

	if (h->header_addr < h->load_addr || h->header_addr - h->load_addr > off)
		return vmm_error(EXIT_USAGE, "kernel '%s': its multiboot addresses contradict each other", k->path);
	size = h->load_end_addr ? (u64)h->load_end_addr - h->load_addr : k->size - start;
	memsz = h->bss_end_addr ? (u64)h->bss_end_addr - h->load_addr : size;
	if ((h->load_end_addr && h->load_end_addr < h->load_addr) ||
	    (h->bss_end_addr && h->bss_end_addr < h->load_addr) || memsz < size)
		return vmm_error(EXIT_USAGE, "kernel '%s': its multiboot addresses contradict each other", k->path);
	src = image_at(k, start, size);
	dst = ram_ptr(&vm->ram, h->load_addr, memsz);
	if (!src)
		return vmm_error(EXIT_USAGE, "kernel '%s' is truncated: its multiboot header asks for more", k->path);
	if (!dst)
		return vmm_error(EXIT_USAGE, "kernel '%s' does not fit in guest memory (-m)", k->path);
	memcpy(dst, src, size);
	memset(dst + size, 0, memsz - size);
	*info = (struct elf_info){ .entry = h->entry_addr, .low = h->load_addr, .high = h->load_addr + memsz };
	return 0;
}

static void fill_page(struct vm *vm, struct mb_page *page, const struct image *initrd, u64 initrd_gpa)
{
	struct e820_range r[E820_RANGES_MAX];
	unsigned int n = e820_build(&vm->ram, r);
	u64 upper = (ram_low_end(&vm->ram) - BOOT_HIGH) >> 10;

	memset(page, 0, sizeof(*page));
	/* memory, command line, memory map, loader's name */
	page->info.flags = 0x1 | 0x4 | 0x40 | 0x200;
	page->info.mem_lower = BOOT_EBDA >> 10;
	page->info.mem_upper = (u32)upper;
	page->info.cmdline = BOOT_CMDLINE;
	page->info.mmap_addr = BOOT_PARAMS + offsetof(struct mb_page, map);
	page->info.mmap_length = n * (u32)sizeof(struct mb_mmap);
	page->info.boot_loader_name = BOOT_PARAMS + offsetof(struct mb_page, name);
	memcpy(page->name, "casement", 9);
	for (unsigned int i = 0; i < n; i++)
		page->map[i] = (struct mb_mmap){ .size = sizeof(struct mb_mmap) - 4, .addr = r[i].addr,
						 .len = r[i].size, .type = r[i].type };
	if (initrd_gpa) {
		page->info.flags |= 0x8;
		page->info.mods_count = 1;
		page->info.mods_addr = BOOT_PARAMS + offsetof(struct mb_page, module);
		page->module.start = (u32)initrd_gpa;
		page->module.end = (u32)(initrd_gpa + initrd->size);
		page->module.string = BOOT_CMDLINE;
	}
}

int load_multiboot(struct vm *vm, const struct image *k, const struct image *initrd, struct boot *b)
{
	struct mb_page *page = ram_ptr(&vm->ram, BOOT_PARAMS, sizeof(*page));
	struct mb_header h;
	struct elf_info info;
	s64 off = find_header(k, &h);
	u64 initrd_gpa;
	int rc;

	if (off < 0 || !page)
		return vmm_error(EXIT_USAGE, "kernel '%s' has no multiboot header", k->path);
	if (h.flags & 0xffff & ~(MB_FLAGS_KNOWN | MB_FLAG_VIDEO))
		return vmm_error(EXIT_USAGE, "kernel '%s' asks for multiboot features 0x%x", k->path, h.flags & 0xffff);
	if (ram_low_end(&vm->ram) <= BOOT_HIGH)
		return vmm_error(EXIT_USAGE, "kernel '%s' needs more than 1 MiB of memory (-m)", k->path);
	rc = h.flags & MB_FLAG_KLUDGE ? load_kludge(vm, k, &h, (u64)off, &info) : elf_load(vm, k, &info);
	if (!rc)
		rc = place_cmdline(vm, BOOT_CMDLINE_MAX);
	if (!rc)
		rc = place_initrd(vm, initrd, info.high, MMIO_HOLE_START, &initrd_gpa);
	if (rc)
		return rc;
	if (info.entry > 0xffffffffu)
		return vmm_error(EXIT_USAGE, "kernel '%s' has its entry point above 4 GiB", k->path);
	fill_page(vm, page, initrd, initrd_gpa);
	b->mode = BOOT_PROT32;
	b->rip = info.entry;
	b->rax = MB_LOADED;
	b->rbx = BOOT_PARAMS;
	return 0;
}
