/* SPDX-License-Identifier: MIT */
/*
 * Loads and stores of memory that may not be there (design rule 6).
 *
 * Guest RAM is the VMM's mapping: it can be unmapped or its file truncated at any time. Each accessor is
 * one machine instruction, so it is as atomic as the guest's own, with an entry in the fixup table: when it
 * faults, the SIGSEGV/SIGBUS handler continues at mem_fixup(pc) and the accessor returns -EFAULT.
 */
#pragma once
#include <errno.h>

#include "base/types.h"

/* One row of the fixup table: both fields relative to their own address, so no relocations. */
struct mem_fixup_entry {
	s32 insn;
	s32 landing;
};

#define MEM_FIXUP(insn, landing) \
	".pushsection casement_fixup,\"a\"\n\t.balign 4\n\t.long " insn " - .\n\t.long " landing \
	" - .\n\t.popsection\n"
#define MEM_LANDING(label, err, back) \
	".pushsection .text.casement_fixup,\"ax\"\n" label ":\tmovl %[fault], %[" err "]\n\tjmp " back \
	"\n\t.popsection\n"

/* Guest operands are aligned as the guest likes. */
struct mem_word8 { u8 v; } __attribute__((packed, may_alias));
struct mem_word16 { u16 v; } __attribute__((packed, may_alias));
struct mem_word32 { u32 v; } __attribute__((packed, may_alias));
struct mem_word64 { u64 v; } __attribute__((packed, may_alias));
struct mem_word128 { u128 v; } __attribute__((packed, may_alias));

#define MEM_LOAD(bits, mov, mod)                                                                   \
	static inline int mem_load##bits(void *val, const void *p)                                 \
	{                                                                                          \
		int err = 0;                                                                       \
		u##bits x;                                                                         \
		__asm__ volatile("1:\t" mov " %[m], %" mod "[x]\n2:\n" MEM_LANDING("3", "err", "2b") \
				 MEM_FIXUP("1b", "3b")                                             \
				 : [x] "=&r"(x), [err] "+r"(err)                                   \
				 : [m] "m"(*(const struct mem_word##bits *)p), [fault] "i"(-EFAULT)); \
		((struct mem_word##bits *)val)->v = x;                                             \
		return err;                                                                        \
	}
MEM_LOAD(8, "movb", "b")
MEM_LOAD(16, "movw", "w")
MEM_LOAD(32, "movl", "k")
MEM_LOAD(64, "movq", "q")

#define MEM_STORE(bits, mov, mod)                                                                  \
	static inline int mem_store##bits(void *p, u##bits x)                                      \
	{                                                                                          \
		int err = 0;                                                                       \
		__asm__ volatile("1:\t" mov " %" mod "[x], %[m]\n2:\n" MEM_LANDING("3", "err", "2b") \
				 MEM_FIXUP("1b", "3b")                                             \
				 : [m] "=m"(*(struct mem_word##bits *)p), [err] "+r"(err)                        \
				 : [x] "q"(x), [fault] "i"(-EFAULT)                                \
				 : "memory");                                                      \
		return err;                                                                        \
	}
MEM_STORE(8, "movb", "b")
MEM_STORE(16, "movw", "w")
MEM_STORE(32, "movl", "k")
MEM_STORE(64, "movq", "q")

/* Locked compare and exchange: 0 exchanged, 1 differs (*old = what is there), -EFAULT. */
#define MEM_CAS(bits, cmpxchg, mod)                                                                \
	static inline int mem_cas##bits(void *p, u##bits *old, u##bits x)                          \
	{                                                                                          \
		int err = 0;                                                                       \
		u##bits was = *old;                                                                \
		__asm__ volatile("1:\tlock " cmpxchg " %" mod "[x], %[m]\n2:\n"                     \
				 MEM_LANDING("3", "err", "2b") MEM_FIXUP("1b", "3b")               \
				 : [m] "+m"(*(struct mem_word##bits *)p), "+a"(was), [err] "+r"(err)             \
				 : [x] "q"(x), [fault] "i"(-EFAULT)                                \
				 : "memory", "cc");                                                \
		if (err)                                                                           \
			return err;                                                                \
		err = was != *old;                                                                 \
		*old = was;                                                                        \
		return err;                                                                        \
	}
MEM_CAS(8, "cmpxchgb", "b")
MEM_CAS(16, "cmpxchgw", "w")
MEM_CAS(32, "cmpxchgl", "k")
MEM_CAS(64, "cmpxchgq", "q")

/* Likewise for 16 aligned bytes */
static inline int mem_cas128(void *p, u64 old[2], const u64 x[2])
{
	int err = 0;
	u64 lo = old[0];
	u64 hi = old[1];
	bool same;

	__asm__ volatile("1:\tlock cmpxchg16b %[m]\n2:\n" MEM_LANDING("3", "err", "2b") MEM_FIXUP("1b", "3b")
			 : [m] "+m"(*(struct mem_word128 *)p), "+a"(lo), "+d"(hi), [err] "+r"(err)
			 : "b"(x[0]), "c"(x[1]), [fault] "i"(-EFAULT)
			 : "memory", "cc");
	if (err)
		return err;
	same = lo == old[0] && hi == old[1];
	old[0] = lo;
	old[1] = hi;
	return !same;
}

int mem_copy_guarded(void *dst, const void *src, size_t len);

/* Are the n bytes at p, which may not be there, those at own? 1, 0 or -EFAULT. */
static inline int mem_same_guarded(const void *p, const void *own, size_t n)
{
	const u8 *a = p, *b = own;

	for (; n >= 8; n -= 8, a += 8, b += 8) {
		u64 x;

		if (unlikely(mem_load64(&x, a)))
			return -EFAULT;
		if (x != ((const struct mem_word64 *)(const void *)b)->v)
			return 0;
	}
	for (; n; n--, a++, b++) {
		u8 x;

		if (unlikely(mem_load8(&x, a)))
			return -EFAULT;
		if (x != *b)
			return 0;
	}
	return 1;
}

/* size bytes from host memory that may fault: one access when size is 1, 2, 4 or 8 */
static inline int mem_load(void *dst, const void *host, unsigned int size)
{
	switch (size) {
	case 1:
		return mem_load8(dst, host);
	case 2:
		return mem_load16(dst, host);
	case 4:
		return mem_load32(dst, host);
	case 8:
		return mem_load64(dst, host);
	default:
		return mem_copy_guarded(dst, host, size);
	}
}

/* size bytes to host memory that may fault: one access when size is 1, 2, 4 or 8 */
static inline int mem_store(void *host, const void *src, unsigned int size)
{
	switch (size) {
	case 1:
		return mem_store8(host, *(const u8 *)src);
	case 2:
		return mem_store16(host, ((const struct mem_word16 *)src)->v);
	case 4:
		return mem_store32(host, ((const struct mem_word32 *)src)->v);
	case 8:
		return mem_store64(host, ((const struct mem_word64 *)src)->v);
	default:
		return mem_copy_guarded(host, src, size);
	}
}
