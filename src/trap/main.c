/* SPDX-License-Identifier: MIT */
/*
 * casement-trap: started by `casement with --trap` in the client's place, with the client's arguments.
 */
#include "trap/trap.h"

#include <alloca.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kvm/sys.h"
#include "preload/preload.h"

#define EXIT_HOST 2
#define PIE_BASE                                                                                   \
	0x2aaa00000000ull /* a third of the address space: far from us, the stack and mmap()'s places */
#define PIE_RANDOM 0xffffe00ull    /* pages; as far as large pages are aligned */

char trap_exe[4096];

static int refuse(const char *path, const char *why)
{
	fprintf(stderr, "casement: with: %s: %s\n", path, why);
	return EXIT_HOST;
}

/* ---- the first stack ------------------------------------------------------------------------- */

static u64 auxv_value(const struct trap_image *img, u64 interp_base, const Elf64_auxv_t *a)
{
	switch (a->a_type) {
	case AT_PHDR:
		return img->phdr;
	case AT_PHNUM:
		return img->phnum;
	case AT_ENTRY:
		return img->entry;
	case AT_BASE:
		return interp_base;
	case AT_EXECFN:
		return (u64)trap_exe;
	default:
		return a->a_un.a_val;
	}
}

/*
 * argc, argv, envp and the auxiliary vector as the kernel gave them to us, but for what tells of this program.
 * The strings stay where they are.
 */
static void build_stack(u64 *sp, char **argv, char **envp, const struct trap_image *img,
			u64 interp_base)
{
	u64 *argc = sp++;
	const Elf64_auxv_t *aux;

	for (*argc = 0; argv[*argc]; ++*argc)
		*sp++ = (u64)argv[*argc];
	*sp++ = 0;
	for (; *envp; envp++)
		if (strncmp(*envp, TRAP_FILE "=", sizeof(TRAP_FILE)))
			*sp++ = (u64)*envp;
	*sp++ = 0;
	aux = (const Elf64_auxv_t *)(envp + 1);
	do {
		*sp++ = aux->a_type;
		*sp++ = auxv_value(img, interp_base, aux);
	} while (aux++->a_type);
}

/* In words; ours is as long as the kernel's. */
static size_t stack_words(char **argv, char **envp)
{
	const u64 *p;

	while (*envp)
		envp++;
	for (p = (const u64 *)(envp + 1); *p; p += 2)
		;
	return (size_t)(p + 4 - (const u64 *)argv);
}

/* ---- start ----------------------------------------------------------------------------------- */

static u64 random_base(void)
{
	const u64 *random = (const u64 *)getauxval(AT_RANDOM);

	return PIE_BASE + ((random[0] ^ random[1]) & PIE_RANDOM) * PAGE_SIZE;
}

static const char *what_is_missing(void)
{
	if (!(getauxval(AT_HWCAP2) & 2)) /* HWCAP2_FSGSBASE */
		return "needs user space's RDFSBASE: Linux 5.9 and a processor that has it";
	return NULL;
}

static void set_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	prctl(PR_SET_NAME, slash ? slash + 1 : path);
}

static int start(char **argv, char **envp)
{
	static struct trap_image prog, interp;
	struct trap_thread *t = trap_alloc();
	const char *trace = getenv("CASEMENT_TRACE");
	u64 sp = ((u64)alloca(stack_words(argv, envp) * sizeof(u64) + 16) + 15) & ~15ull;

	if (trap_load(&prog, trap_exe, random_base()))
		return EXIT_HOST;
	if (prog.interp[0] && trap_load(&interp, prog.interp, 0))
		return EXIT_HOST;
	trap_brk_start(prog.brk);
	if (trace)
		trace_start(trace);
	set_name(trap_exe);
	build_stack((u64 *)sp, argv, envp, &prog, prog.interp[0] ? interp.base : 0);
	trap_choose(false);
	if (t)
		trap_signals_start(t);
	if (getenv("CASEMENT_PATCH_CPUID"))
		patch_cpuid_of(prog.base, (const void *)prog.phdr, (unsigned int)prog.phnum);
	if (!t || trap_arm(t))
		return refuse(trap_exe, "the kernel has no Syscall User Dispatch (Linux 5.11), or "
					"does not let us have it");
	trap_start(t, sp, prog.interp[0] ? interp.entry : prog.entry);
}

int main(int argc, char **argv, char **envp)
{
	const char *path = getenv(TRAP_FILE), *missing = what_is_missing();
	size_t n = 0;
	u8 magic[4] = { 0 };
	FILE *f;

	if (!path)
		return refuse("casement-trap", "is started by `casement with --trap`");
	if (missing)
		return refuse(path, missing);
	f = fopen(path, "re");
	if (f) {
		n = fread(magic, 1, sizeof(magic), f);
		fclose(f);
	}
	if (n == sizeof(magic) && memcmp(magic, ELFMAG, SELFMAG)) {
		trap_exec(NULL, NULL, path, (u64)argv, (u64)envp);
		return refuse(path, "neither an ELF program nor a script");
	}
	if (readlink(path, trap_exe, sizeof(trap_exe) - 1) < 0 ||
	    strncmp(path, "/proc/self/fd/", 14))
		if (!realpath(path, trap_exe))
			snprintf(trap_exe, sizeof(trap_exe), "%s", path);
	return start(argv, envp);
}
