/* SPDX-License-Identifier: MIT */
/*
 * From files to a guest that can start: kernel formats, memory map, boot tables.
 */
#pragma once
#include "base/types.h"

struct vm;
struct boot;
struct ram;

/* What the boot code owns below 640 KiB. The guest may reuse it once it has its own tables. */
#define BOOT_GDT 0x6000u
#define BOOT_GDT_SIZE 0x30u
#define BOOT_PML4 0x8000u	/* and PDPT, four page directories: to 0xe000 */
#define BOOT_PARAMS 0x10000u	/* zero page, hvm_start_info or multiboot information */
#define BOOT_CMDLINE 0x20000u
#define BOOT_CMDLINE_MAX 0x10000u
#define BOOT_STACK 0x8000u	/* grows down, above the GDT */
#define BOOT_EBDA 0x9fc00u
#define BOOT_HIGH 0x100000u
#define ACPI_START 0xe0000u
#define ACPI_END 0x100000u

/* Selectors of the boot GDT: what the 64-bit boot protocol asks for, and a TSS. */
#define BOOT_CS 0x10
#define BOOT_DS 0x18
#define BOOT_TR 0x20

/**
 * struct image - a file in host memory, private and read-only
 */
struct image {
	const char *path;
	const u8 *data;
	u64 size;
};

/**
 * image_open() - map a regular file
 * @what: "kernel", "initrd": for the message
 *
 * Return: 0, or an exit code after one line on stderr.
 */
int image_open(struct image *img, const char *path, const char *what);
void image_close(struct image *img);

/* The @len bytes at @off, or NULL when the file ends before. */
const void *image_at(const struct image *img, u64 off, u64 len);

/**
 * load_kernel() - put kernel, initrd and command line into guest memory
 * @b: how to start, filled here; b->rsdp is the ACPI root pointer to hand on
 *
 * Return: 0, or an exit code after one line on stderr.
 */
int load_kernel(struct vm *vm, struct boot *b);

/* One loader per format; each writes b and returns an exit code. */
int load_bzimage(struct vm *vm, const struct image *k, const struct image *initrd, struct boot *b);
int load_elf(struct vm *vm, const struct image *k, const struct image *initrd, struct boot *b);
int load_multiboot(struct vm *vm, const struct image *k, const struct image *initrd, struct boot *b);
int load_flat(struct vm *vm, const struct image *k, struct boot *b, bool long_mode);
bool multiboot_probe(const struct image *k);

/**
 * struct elf_info - what an ELF file's headers say, checked against the file's length
 */
struct elf_info {
	u64 entry;	/* e_entry */
	u64 pvh_entry;	/* 0: no PVH note */
	u64 low, high;	/* guest-physical range of its PT_LOADs */
};

/**
 * elf_load() - check an ELF file for x86 and copy its segments
 *
 * Return: 0, or an exit code after one line on stderr.
 */
int elf_load(struct vm *vm, const struct image *k, struct elf_info *info);

/**
 * place_initrd() - copy the initrd as high as it may be
 * @min: first byte it may use (the kernel's end)
 * @max: last byte + 1 it may use
 * @gpa: where it is; 0 when there is none
 */
int place_initrd(struct vm *vm, const struct image *initrd, u64 min, u64 max, u64 *gpa);

/* Copies the command line to BOOT_CMDLINE; @max is the kernel's limit without the final NUL. */
int place_cmdline(struct vm *vm, u64 max);

/* GDT and identity page tables for the first 4 GiB. */
void place_boot_tables(struct ram *ram);

/**
 * struct e820_range - one line of the memory map; type 1 usable, 2 reserved
 */
struct e820_range {
	u64 addr, size;
	u32 type;
};
#define E820_RANGES_MAX 4
unsigned int e820_build(const struct ram *ram, struct e820_range *out);

/**
 * acpi_build() - write the ACPI tables to ACPI_START
 *
 * Return: guest-physical address of the RSDP.
 */
u64 acpi_build(struct ram *ram, unsigned int nr_cpus);
