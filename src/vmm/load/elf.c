/* SPDX-License-Identifier: MIT */
/*
 * ELF files for x86: their segments, and the PVH boot protocol. [Xen docs/misc/pvh.pandoc "PVH Specification"]
 */
#include "vmm/load/load.h"

#include <elf.h>
#include <string.h>
#include "vmm/vmm.h"

#define NOTE_PHYS32_ENTRY 18	/* XEN_ELFNOTE_PHYS32_ENTRY */
#define PHDRS_MAX 128

/* Program header of either class. */
struct segment {
	u32 type;
	u64 off, paddr, filesz, memsz, align;
};

struct elf {
	const struct image *img;
	bool is64;
	u64 entry, phoff;
	u32 phnum, phentsize;
};

static int parse_header(struct elf *e, const struct image *k)
{
	const Elf64_Ehdr *h64 = image_at(k, 0, sizeof(*h64));
	const Elf32_Ehdr *h32 = image_at(k, 0, sizeof(*h32));

	e->img = k;
	if (!h32 || memcmp(h32->e_ident, ELFMAG, SELFMAG))
		return vmm_error(EXIT_USAGE, "kernel '%s' is not an ELF file", k->path);
	e->is64 = h32->e_ident[EI_CLASS] == ELFCLASS64;
	if (e->is64 && !h64)
		return vmm_error(EXIT_USAGE, "kernel '%s' is truncated in its ELF header", k->path);
	if (h32->e_machine != (e->is64 ? EM_X86_64 : EM_386) || h32->e_ident[EI_DATA] != ELFDATA2LSB)
		return vmm_error(EXIT_USAGE, "kernel '%s' is an ELF file for another machine", k->path);
	if (h32->e_type != ET_EXEC && h32->e_type != ET_DYN)
		return vmm_error(EXIT_USAGE, "kernel '%s' is an ELF file, but no program", k->path);
	e->entry = e->is64 ? h64->e_entry : h32->e_entry;
	e->phoff = e->is64 ? h64->e_phoff : h32->e_phoff;
	e->phnum = e->is64 ? h64->e_phnum : h32->e_phnum;
	e->phentsize = e->is64 ? h64->e_phentsize : h32->e_phentsize;
	if (!e->phnum || e->phnum > PHDRS_MAX ||
	    e->phentsize != (e->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) ||
	    !image_at(k, e->phoff, (u64)e->phnum * e->phentsize))
		return vmm_error(EXIT_USAGE, "kernel '%s' is truncated or has bad program headers", k->path);
	return 0;
}

static struct segment segment_at(const struct elf *e, u32 i)
{
	const u8 *p = e->img->data + e->phoff + (u64)i * e->phentsize;
	Elf64_Phdr p64;
	Elf32_Phdr p32;

	if (e->is64) {
		memcpy(&p64, p, sizeof(p64));
		return (struct segment){ p64.p_type,   p64.p_offset, p64.p_paddr,
					 p64.p_filesz, p64.p_memsz,  p64.p_align };
	}
	memcpy(&p32, p, sizeof(p32));
	return (struct segment){ p32.p_type, p32.p_offset, p32.p_paddr, p32.p_filesz, p32.p_memsz, p32.p_align };
}

static int load_segment(struct vm *vm, const struct elf *e, const struct segment *s, struct elf_info *info)
{
	const void *src = image_at(e->img, s->off, s->filesz);
	u8 *dst;

	if (!src || s->filesz > s->memsz)
		return vmm_error(EXIT_USAGE, "kernel '%s' is truncated: a segment lies beyond its end", e->img->path);
	if (!s->memsz)
		return 0;
	dst = ram_ptr(&vm->ram, s->paddr, s->memsz);
	if (!dst)
		return vmm_error(EXIT_USAGE, "kernel '%s' has a segment at 0x%llx, outside of guest memory (-m)",
				 e->img->path, (unsigned long long)s->paddr);
	memcpy(dst, src, s->filesz);
	memset(dst + s->filesz, 0, s->memsz - s->filesz);
	if (s->paddr < info->low)
		info->low = s->paddr;
	if (s->paddr + s->memsz > info->high)
		info->high = s->paddr + s->memsz;
	return 0;
}

/* Sizes of a note's parts are rounded up to the segment's alignment, which is 4 or 8. */
static void find_pvh(const struct elf *e, const struct segment *s, struct elf_info *info)
{
	u64 align = s->align == 8 ? 8 : 4;
	u64 off = 0;

	while (off <= s->filesz && s->filesz - off >= sizeof(Elf64_Nhdr)) {
		const u8 *p = image_at(e->img, s->off + off, sizeof(Elf64_Nhdr));
		Elf64_Nhdr n;
		u64 name, desc, next;
		const u8 *d;

		if (!p)
			return;
		memcpy(&n, p, sizeof(n));
		name = s->off + off + sizeof(n);
		desc = name + (((u64)n.n_namesz + align - 1) & ~(align - 1));
		next = desc + (((u64)n.n_descsz + align - 1) & ~(align - 1));
		d = image_at(e->img, desc, n.n_descsz);
		if (n.n_type == NOTE_PHYS32_ENTRY && n.n_namesz == 4 && d && n.n_descsz >= 4 &&
		    !memcmp(e->img->data + name, "Xen", 4)) {
			u32 entry;

			memcpy(&entry, d, 4);
			info->pvh_entry = entry;
			return;
		}
		off = next - s->off;
	}
}

int elf_load(struct vm *vm, const struct image *k, struct elf_info *info)
{
	struct elf e = { .phnum = 0 };
	int rc = parse_header(&e, k);

	*info = (struct elf_info){ .entry = 0, .low = ~0ull };
	for (u32 i = 0; !rc && i < e.phnum; i++) {
		struct segment s = segment_at(&e, i);

		if (s.type == PT_LOAD)
			rc = load_segment(vm, &e, &s, info);
		else if (s.type == PT_NOTE && !info->pvh_entry)
			find_pvh(&e, &s, info);
	}
	if (!rc && !info->high)
		return vmm_error(EXIT_USAGE, "kernel '%s' has nothing to load", k->path);
	info->entry = rc ? 0 : e.entry;
	return rc;
}

/* [xen/include/public/arch-x86/hvm/start_info.h]: layouts of version 1 */
struct hvm_start_info {
	u32 magic, version, flags, nr_modules;
	u64 modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	u32 memmap_entries, reserved;
};
struct hvm_modlist_entry {
	u64 paddr, size, cmdline_paddr, reserved;
};
struct hvm_memmap_entry {
	u64 addr, size;
	u32 type, reserved;
};
#define HVM_START_MAGIC 0x336ec578u
struct pvh_page {
	struct hvm_start_info info;
	struct hvm_modlist_entry module;
	struct hvm_memmap_entry map[E820_RANGES_MAX];
};

int load_elf(struct vm *vm, const struct image *k, const struct image *initrd, struct boot *b)
{
	struct e820_range r[E820_RANGES_MAX];
	struct elf_info info;
	struct pvh_page *page = ram_ptr(&vm->ram, BOOT_PARAMS, sizeof(*page));
	u64 initrd_gpa;
	int rc = elf_load(vm, k, &info);

	if (rc)
		return rc;
	/* A file may carry both headers. PVH hands over more, so it comes first. */
	if (!info.pvh_entry && multiboot_probe(k))
		return load_multiboot(vm, k, initrd, b);
	if (!info.pvh_entry || !page)
		return vmm_error(
			EXIT_USAGE,
			"kernel '%s' is an ELF file without a PVH entry note or multiboot header",
			k->path);
	rc = place_cmdline(vm, BOOT_CMDLINE_MAX);
	if (!rc)
		rc = place_initrd(vm, initrd, info.high, MMIO_HOLE_START, &initrd_gpa);
	if (rc)
		return rc;
	memset(page, 0, sizeof(*page));
	page->info = (struct hvm_start_info){
		.magic = HVM_START_MAGIC, .version = 1, .cmdline_paddr = BOOT_CMDLINE, .rsdp_paddr = b->rsdp,
		.memmap_paddr = BOOT_PARAMS + offsetof(struct pvh_page, map),
		.memmap_entries = e820_build(&vm->ram, r),
	};
	if (initrd_gpa) {
		page->info.nr_modules = 1;
		page->info.modlist_paddr = BOOT_PARAMS + offsetof(struct pvh_page, module);
		page->module = (struct hvm_modlist_entry){ .paddr = initrd_gpa, .size = initrd->size };
	}
	for (u32 i = 0; i < page->info.memmap_entries; i++)
		page->map[i] = (struct hvm_memmap_entry){ .addr = r[i].addr, .size = r[i].size, .type = r[i].type };
	b->mode = BOOT_PROT32;
	b->rip = info.pvh_entry;
	b->rbx = BOOT_PARAMS;
	return 0;
}
