/* SPDX-License-Identifier: MIT */
/*
 * A guest program tests the processor from inside: privileged behaviour that no host program can show. It prints TAP
 * on the serial port and leaves through the debug-exit port. test/guest/run runs it under casement and, as a second
 * opinion, under QEMU's TCG; a point whose name ends in "[not tcg]" is one that TCG is known to get wrong.
 */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "layout.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned long ulong;

/* ---- TAP ---- */

bool ok_(bool good, const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
bool is_(u64 got, u64 want, const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
void skip(const char *name, const char *why);
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define ok(cond, ...) ok_(!!(cond), __FILE__, __LINE__, __VA_ARGS__)
#define is(got, want, ...) is_((u64)(got), (u64)(want), __FILE__, __LINE__, __VA_ARGS__)

/* ---- traps ---- */

/* What an exception or interrupt left on the stack, general registers below. */
struct frame {
#ifdef __x86_64__
	ulong ax, cx, dx, bx, bp, si, di, r8, r9, r10, r11, r12, r13, r14, r15;
#else
	ulong ax, cx, dx, bx, bp, si, di;
#endif
	ulong vector, error, ip, cs, flags, sp, ss; /* sp, ss: in 32-bit programs only from user mode */
};

/* The last trap that attempt() caught; vector is NO_TRAP if there was none. */
struct trap {
	ulong vector, error, ip, cs, flags, sp, ss, cr2, ax;
};
#define NO_TRAP 0xfff
extern struct trap trap;

/* Looks at every trap first; true means "handled, return to where it came from". */
extern bool (*trap_hook)(struct frame *f);

struct context {
	ulong slot[9];
};
int save(struct context *c) __attribute__((returns_twice));
void resume(struct context *c) __attribute__((noreturn));

/* The next trap resumes c and is left in trap. */
void recover_into(struct context *c);
/* Runs fn; a trap in it ends it and is left in trap. Returns the vector, NO_TRAP if it came back by itself. */
ulong attempt(void (*fn)(void));
/* The same at CPL 3: code is copied to a page of its own and must be position-independent. INT 80h ends it. */
ulong attempt_user(const void *code, size_t size);
#define USER(code) attempt_user(code, code##_end - code)
/* The address that code has in attempt_user(), and the CS it runs with. */
ulong user_ip(void);
extern u16 user_cs;

/* The vectors' names, for reading tests */
enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };

/* Instructions that attempt() can run; they may change EAX, ECX, EDX and flags. */
#define INSN(name, text)							\
	extern void name(void);							\
	__asm__(".text\n" #name ":\n\t" text "\n\tret\n");
/* Instructions to be run at CPL 3. */
#define USER_CODE(name, text)							\
	extern const char name[], name##_end[];					\
	__asm__(".text\n" #name ":\n" text "\n\tint $0x80\n" #name "_end:\n")

/* ---- the machine ---- */

struct gate {
	u16 off0, sel;
	u8 ist, type;
	u16 off1;
#ifdef __x86_64__
	u32 off2, zero;
#endif
};
extern struct gate idt[256];
extern u64 gdt[];
extern u8 tss[];
#ifdef __x86_64__
extern u64 pml4[512], pdpt[512], pd[2048];
#endif
extern u8 stack_end[], ist_stack_end[], user_stack_end[], image_end[];
void set_gate(int vector, void *to, u8 type, u8 ist);
void load_idt(u16 limit);
void load_gdt(void);
/* A zeroed page. */
void *page(void);
/* Starts application processors at fn; returns how many of count came up. */
int smp_start(int count, void (*fn)(int cpu));
u32 apic_read(u32 reg);
void apic_write(u32 reg, u32 value);
int cpu_index(void);

/* ---- instructions ---- */

static inline void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" :: "a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { __asm__ volatile("outl %0, %1" :: "a"(v), "Nd"(port)); }
static inline u8 inb(u16 port)
{
	u8 v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline u64 rdmsr(u32 i)
{
	u32 lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(i) : "memory");
	return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 i, u64 v)
{
	__asm__ volatile("wrmsr" :: "a"((u32)v), "d"((u32)(v >> 32)), "c"(i) : "memory");
}
static inline u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}
static inline void cpuid(u32 leaf, u32 sub, u32 *r)
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
#define READ_REG(name, reg)							\
	static inline ulong read_##name(void)					\
	{									\
		ulong v;							\
										\
		__asm__ volatile("mov %%" #reg ", %0" : "=r"(v) :: "memory");	\
		return v;							\
	}									\
	static inline void write_##name(ulong v)				\
	{									\
		__asm__ volatile("mov %0, %%" #reg :: "r"(v) : "memory");	\
	}
READ_REG(cr0, cr0)
READ_REG(cr2, cr2)
READ_REG(cr3, cr3)
READ_REG(cr4, cr4)
READ_REG(dr0, dr0)
READ_REG(dr1, dr1)
READ_REG(dr6, dr6)
READ_REG(dr7, dr7)
static inline void invlpg(const void *p) { __asm__ volatile("invlpg (%0)" :: "r"(p) : "memory"); }
static inline void cpu_pause(void) { __asm__ volatile("pause" ::: "memory"); }
static inline bool has(u32 leaf, int reg, int bit)
{
	u32 r[4];

	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}
enum { EAX, EBX, ECX, EDX };
static inline bool is_tcg(void)
{
	u32 r[4];

	cpuid(0x40000000, 0, r);
	return r[EBX] == 0x54474354;	/* "TCGT" */
}
#define HAS_XSAVE has(1, ECX, 26)
#define HAS_SMEP has(7, EBX, 7)
#define HAS_SMAP has(7, EBX, 20)
#define HAS_PCID has(1, ECX, 17)
#define HAS_INVPCID has(7, EBX, 10)
#define HAS_1G has(0x80000001, EDX, 26)
#define HAS_TSC_DEADLINE has(1, ECX, 24)
#define HAS_X2APIC has(1, ECX, 21)
#define HAS_FSGSBASE has(7, EBX, 0)
#define HAS_UMIP has(7, ECX, 2)
#define HAS_PKU has(7, ECX, 3)
