/* SPDX-License-Identifier: MIT */
/*
 * `casement with --patch-cpuid`: the program's own CPUID instructions answer as our processor does.
 *
 * CPUID (0F A2) and UD2 (0F 0B) are both two bytes long: each CPUID of the program's file becomes UD2 before
 * main(), and the SIGILL handler does its work. Libraries keep theirs: libc chooses its string functions by the
 * host's answer.
 */
#include "preload/preload.h"

#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { SEGMENT_X = PF_X };
#undef PF_R /* mmu.h's are bits of a page fault's error code */
#undef PF_W
#undef PF_X

#include "base/base.h"
#include "cpu/insn.h"
#include "kvm/kvm.h"
#include "kvm/sig.h"
#include "kvm/sys.h"

#define SITES_MAX 256
#define ENTRIES_MAX 256
#define RUN_UP 64	 /* bytes before a candidate from which decoding falls into step */
#define FEATURE_VMX BIT(5) /* CPUID.1:ECX [SDM2A "CPUID"] */
#define FEATURE_SVM BIT(2) /* CPUID.80000001H:ECX [APM3 "CPUID"] */

static const u8 *site[SITES_MAX];
static unsigned int nsites;
static struct {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entry[ENTRIES_MAX];
} answers;

/* ---- what CPUID answers ------------------------------------------------------------------------------------- */

static const struct kvm_cpuid_entry2 *lookup(u32 leaf, u32 sub)
{
	for (u32 i = 0; i < answers.head.nent; i++) {
		const struct kvm_cpuid_entry2 *e = &answers.entry[i];

		if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == sub))
			return e;
	}
	return NULL;
}

/* Whoever asks wants to know whether there can be a /dev/kvm, and there is one. */
static void fill_answers(void)
{
	struct kvm_cpuid_entry2 *e;

	answers.head.nent = ENTRIES_MAX;
	if (sys_get_supported_cpuid(NULL, (u64)&answers, NULL))
		answers.head.nent = 0;
	for (u32 i = 0; i < answers.head.nent; i++) {
		e = &answers.entry[i];
		if (e->function == 1 && lookup(0, 0)->ecx == 0x6c65746e) /* the last third of GenuineIntel */
			e->ecx |= FEATURE_VMX;
		if (e->function == 0x80000001 && lookup(0, 0)->ecx != 0x6c65746e)
			e->ecx |= FEATURE_SVM;
	}
}

static bool emulate(ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;
	const u8 *pc = (const u8 *)g[REG_RIP];
	static const struct kvm_cpuid_entry2 none;
	const struct kvm_cpuid_entry2 *e = NULL;

	for (unsigned int i = 0; i < nsites && !e; i++)
		if (site[i] == pc)
			e = lookup((u32)g[REG_RAX], (u32)g[REG_RCX]) ?: &none;
	if (!e)
		return false;
	g[REG_RAX] = e->eax;
	g[REG_RBX] = e->ebx;
	g[REG_RCX] = e->ecx;
	g[REG_RDX] = e->edx;
	g[REG_RIP] += 2;
	return true;
}

/* ---- where it is ---------------------------------------------------------------------------------------------- */

/* Decoding from any byte falls into step with the real instructions soon; ask from many and believe the most. */
static bool is_instruction(const u8 *begin, const u8 *at, const u8 *end)
{
	const u8 *from = at - begin > RUN_UP ? at - RUN_UP : begin;
	unsigned int hit = 0, miss = 0;

	for (; from < at - RUN_UP / 2 || from == begin; from++) {
		const u8 *p = from;

		while (p < at) {
			size_t left = (size_t)(end - p);

			p += insn_length(p, left < 15 ? (unsigned int)left : 15, 8) ?: 1;
		}
		if (p == at)
			hit++;
		else
			miss++;
		if (at - begin <= RUN_UP / 2)
			break;
	}
	return hit > miss;
}

static void replace(const u8 *at)
{
	u64 page = (u64)at & PAGE_MASK, len = (((u64)at + 1) & PAGE_MASK) + PAGE_SIZE - page;

	if (nsites == SITES_MAX || sys_call(SYS_mprotect, page, len, PROT_READ | PROT_WRITE))
		return;
	((u8 *)(u64)at)[1] = 0x0b;
	sys_call(SYS_mprotect, page, len, PROT_READ | PROT_EXEC);
	site[nsites++] = at;
}

static void scan(const u8 *begin, size_t size)
{
	const u8 *end = begin + size, *p = begin;
	while ((p = memmem(p, (size_t)(end - p), "\x0f\xa2", 2))) {
		if (is_instruction(begin, p, end))
			replace(p);
		p += 2;
	}
}

void patch_cpuid_of(u64 base, const void *phdr, unsigned int phnum)
{
	const ElfW(Phdr) *ph = phdr;

	fill_answers();
	signal_hook_illegal(emulate);
	for (unsigned int i = 0; i < phnum; i++)
		if (ph[i].p_type == PT_LOAD && (ph[i].p_flags & SEGMENT_X))
			scan((const u8 *)(base + ph[i].p_vaddr), ph[i].p_memsz);
}

/* The first object is the program itself. */
static int scan_program(struct dl_phdr_info *info, size_t size, void *arg)
{
	patch_cpuid_of(info->dlpi_addr, info->dlpi_phdr, info->dlpi_phnum);
	return 1;
}

void patch_cpuid(void)
{
	dl_iterate_phdr(scan_program, NULL);
}
