/* SPDX-License-Identifier: MIT */
/*
 * Mapping the client as the kernel's ELF loader would, and its data segment's end.
 */
#include "trap/trap.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { SEGMENT_R = PF_R, SEGMENT_W = PF_W, SEGMENT_X = PF_X };
#undef PF_R /* mmu.h's are bits of a page fault's error code */
#undef PF_W
#undef PF_X

#include "base/base.h"
#include "kvm/sys.h"

#define PHDRS_MAX 64
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

static int fail(const char *path, int r, const char *what)
{
	fprintf(stderr, "casement: with: %s: %s: %s\n", path, what, strerror(-r));
	return r;
}

static u64 down(u64 a)
{
	return a & PAGE_MASK;
}

static u64 up(u64 a)
{
	return (a + PAGE_SIZE - 1) & PAGE_MASK;
}

static int protection(const Elf64_Phdr *ph)
{
	return (ph->p_flags & SEGMENT_R ? PROT_READ : 0) |
	       (ph->p_flags & SEGMENT_W ? PROT_WRITE : 0) |
	       (ph->p_flags & SEGMENT_X ? PROT_EXEC : 0);
}

/* Behind the file's part of a segment are zeroes, to the page's end: loaders take their first memory from there. */
static int map_zeroes(u64 from, u64 to, int prot)
{
	u64 page = up(from);

	if (from < to && (prot & PROT_WRITE))
		memset((void *)from, 0, page - from);
	if (to > page && !sys_mmap((void *)page, up(to) - page, prot,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0))
		return -ENOMEM;
	return 0;
}

static int map_segment(int fd, u64 base, const Elf64_Phdr *ph)
{
	u64 at = base + ph->p_vaddr, from = down(at), size = up(at + ph->p_filesz) - from;
	int prot = protection(ph);

	if (ph->p_filesz &&
	    !sys_mmap((void *)from, size, prot, MAP_PRIVATE | MAP_FIXED, fd, down(ph->p_offset)))
		return -ENOMEM;
	return map_zeroes(at + ph->p_filesz, at + ph->p_memsz, prot);
}

/* The program's whole range, so that nothing else is there. */
static int reserve(struct trap_image *img, bool fixed, u64 where, u64 low, u64 high)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
		    (fixed || where ? MAP_FIXED_NOREPLACE : 0);
	u64 at = fixed ? low : where;
	u64 got = (u64)sys_mmap((void *)at, high - low, PROT_NONE, flags, -1, 0);

	if (!got || (at && got != at))
		return -EEXIST;
	img->base = got - low;
	return 0;
}

static int map_all(struct trap_image *img, int fd, const Elf64_Ehdr *eh, const Elf64_Phdr *ph,
		   u64 where)
{
	u64 low = ~0ull, high = 0;
	int r;

	for (int i = 0; i < eh->e_phnum; i++)
		if (ph[i].p_type == PT_LOAD) {
			low = down(ph[i].p_vaddr) < low ? down(ph[i].p_vaddr) : low;
			high = up(ph[i].p_vaddr + ph[i].p_memsz) > high
				       ? up(ph[i].p_vaddr + ph[i].p_memsz)
				       : high;
		}
	if (low >= high)
		return -ENOEXEC;
	r = reserve(img, eh->e_type == ET_EXEC, where, low, high);
	for (int i = 0; i < eh->e_phnum && !r; i++) {
		if (ph[i].p_type == PT_LOAD)
			r = map_segment(fd, img->base, &ph[i]);
		if (ph[i].p_type == PT_LOAD && eh->e_phoff >= ph[i].p_offset &&
		    eh->e_phoff < ph[i].p_offset + ph[i].p_filesz)
			img->phdr = img->base + ph[i].p_vaddr + eh->e_phoff - ph[i].p_offset;
	}
	img->phnum = eh->e_phnum;
	img->entry = img->base + eh->e_entry;
	img->brk = img->base + high;
	return r;
}

static int load(struct trap_image *img, int fd, u64 where)
{
	Elf64_Phdr ph[PHDRS_MAX];
	Elf64_Ehdr eh;

	if (sys_call(SYS_pread64, fd, &eh, sizeof(eh), 0) != sizeof(eh) ||
	    memcmp(eh.e_ident, ELFMAG, SELFMAG) || eh.e_machine != EM_X86_64 ||
	    eh.e_phentsize != sizeof(ph[0]) || eh.e_phnum > PHDRS_MAX ||
	    (eh.e_type != ET_EXEC && eh.e_type != ET_DYN))
		return -ENOEXEC;
	if (sys_call(SYS_pread64, fd, ph, eh.e_phnum * sizeof(ph[0]), eh.e_phoff) !=
	    (long)(eh.e_phnum * sizeof(ph[0])))
		return -ENOEXEC;
	img->interp[0] = 0;
	for (int i = 0; i < eh.e_phnum; i++)
		if (ph[i].p_type == PT_INTERP && ph[i].p_filesz < sizeof(img->interp))
			img->interp[sys_call(SYS_pread64, fd, img->interp, ph[i].p_filesz,
					     ph[i].p_offset) > 0
					    ? ph[i].p_filesz
					    : 0] = 0;
	return map_all(img, fd, &eh, ph, where);
}

int trap_load(struct trap_image *img, const char *path, u64 where)
{
	int fd = (int)sys_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0), r;

	if (fd < 0)
		return fail(path, fd, "cannot be read");
	r = load(img, fd, where);
	sys_close(fd);
	if (r == -EEXIST)
		return fail(path, r,
			    "the addresses that it must have are taken, by Casement or the kernel");
	return r ? fail(path, r, "cannot be mapped") : 0;
}

/* ---- brk ------------------------------------------------------------------------------------- */

/* The process's own end of data is our libc's. */
static struct {
	_Atomic u32 lock;
	u64 start, end;
} data;

void trap_brk_start(u64 at)
{
	data.start = data.end = at;
}

void trap_brk_fork(bool before)
{
	if (before)
		lock_take(&data.lock);
	else
		lock_drop(&data.lock);
}

u64 trap_brk(u64 to)
{
	u64 was, now = up(to), r;

	lock_take(&data.lock);
	was = up(data.end);
	r = data.end;
	if (to >= data.start && to >> 47 == 0) {
		if (now < was)
			sys_munmap((void *)now, was - now);
		if (now <= was ||
		    sys_mmap((void *)was, now - was, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0))
			r = data.end = to;
	}
	lock_drop(&data.lock);
	return r;
}
