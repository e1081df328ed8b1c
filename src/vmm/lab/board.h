/* SPDX-License-Identifier: MIT */
/*
 * A board for guests of a few instructions: memory, descriptor tables, processors in the mode a guest wants, and a
 * run loop that always comes back. `casement lab` and the tests of containment build their guests on it.
 *
 * Every interrupt vector has a handler that writes its number to BOARD_PORT and halts, until a guest
 * brings its own. What a guest writes to a port ends board_run() as KVM_EXIT_IO.
 */
#pragma once
#include <linux/kvm.h>
#include <stdatomic.h>
#include "base/types.h"
#include "vmm/kvm_call.h"

#define BOARD_CPUS 4
#define BOARD_PORT 0x80
/* Where things are in guest-physical, and linear, memory. */
#define BOARD_GDT 0x1000u
#define BOARD_IDT 0x2000u
#define BOARD_TSS 0x3000u	/* one page a processor would be too many: each takes 0x200 bytes */
#define BOARD_TSS2 0x3800u	/* for task gates */
#define BOARD_HANDLERS 0x4000u	/* 16 bytes a vector */
#define BOARD_PML4 0x10000u
#define BOARD_PDPT 0x11000u
#define BOARD_PD 0x12000u	/* first 1 GiB, 2 MiB pages but for the first entry */
#define BOARD_PT 0x13000u	/* first 2 MiB, 4 KiB pages */
#define BOARD_PD32 0x14000u	/* 32-bit paging: first 4 MiB through BOARD_PT32 */
#define BOARD_PT32 0x15000u
#define BOARD_STACK0 0x21000u	/* tops of stacks, one page below each other's */
#define BOARD_STACK3 0x23000u
#define BOARD_IST 0x25000u
#define BOARD_DATA 0x30000u
#define BOARD_CODE 0x40000u
#define BOARD_CODE_CPU 0x8000u	/* each processor's code is this far from the one before */
#define BOARD_RAM 0x400000u

enum board_sel {
	SEL_CODE0 = 0x08, SEL_DATA0 = 0x10, SEL_CODE3 = 0x1b, SEL_DATA3 = 0x23, SEL_CODE0_64 = 0x28,
	SEL_CODE3_64 = 0x33, SEL_TSS = 0x40, SEL_CODE0_16 = 0x50, SEL_DATA0_16 = 0x58, SEL_CONFORMING = 0x60,
	SEL_TSS2 = 0x68, SEL_FREE = 0x70, BOARD_GDT_SIZE = 0x100,
};

enum board_mode { BOARD_REAL16, BOARD_PROT32, BOARD_PAGED32, BOARD_LONG64, BOARD_COMPAT32 };
enum board_gate { GATE_TASK = 5, GATE_INT16 = 6, GATE_INT32 = 14, GATE_TRAP32 = 15 };

/* A guest's code: assembled into the program, copied to where it runs. Only relative references to itself. */
#define BOARD_ASM(name, bits, text)                                                              \
	__asm__(".pushsection .rodata\n.code" #bits "\n.globl " #name "\n.globl " #name "_end\n" #name ":\n" text  \
		"\n" #name "_end:\n.code64\n.popsection\n");                                      \
	extern const u8 name[], name##_end[]

struct board_cpu {
	int fd;
	struct kvm_run *run;
	enum board_mode mode;
	_Atomic bool stop;
};

struct board {
	const struct kvm_call *kvm;
	int sys, vm;
	size_t run_size;
	unsigned int n;
	struct board_cpu cpu[BOARD_CPUS];
	u8 *ram;
	bool irqchip;
};

/**
 * board_create() - a VM with memory and tables, without processors
 *
 * Capabilities that must come before the first vCPU can be enabled then.
 *
 * Return: 0 or -errno.
 */
int board_create(struct board *b, const struct kvm_call *kvm);
void board_destroy(struct board *b);

/**
 * board_cpu() - add a processor
 * @mode: CPL 0, interrupts off, RIP at its BOARD_CODE, RSP at its BOARD_STACK0
 *
 * Return: its number or -errno.
 */
int board_cpu(struct board *b, enum board_mode mode);

int board_ioctl(struct board *b, unsigned long request, const void *arg);	/* on the VM; -errno */
int board_cpu_ioctl(struct board *b, int cpu, unsigned long request, const void *arg);
int board_enable_cap(struct board *b, u32 cap, u64 arg);
u64 board_code_at(int cpu);

/* Copy code to a processor's BOARD_CODE. */
void board_load(struct board *b, int cpu, const u8 *code, const u8 *end);
#define board_code(b, cpu, name) board_load(b, cpu, name, name##_end)
void board_put(struct board *b, u32 gpa, u64 val, unsigned int size);
u64 board_get(const struct board *b, u32 gpa, unsigned int size);

/* Descriptors and gates, in the format of the board's mode. */
u64 board_desc(u32 base, u32 limit, u8 access, u8 flags);
void board_gdt(struct board *b, u16 sel, u64 desc);
void board_gate(struct board *b, enum board_mode mode, unsigned int vector, u16 sel, u64 offset, enum board_gate type,
		unsigned int dpl, unsigned int ist);

void board_get_regs(struct board *b, int cpu, struct kvm_regs *r);
void board_set_regs(struct board *b, int cpu, const struct kvm_regs *r);
void board_get_sregs(struct board *b, int cpu, struct kvm_sregs *s);
void board_set_sregs(struct board *b, int cpu, const struct kvm_sregs *s);
/* Change special registers: statements on `s`, a struct kvm_sregs. */
#define board_sregs(b, cpu, ...)                       \
	do {                                          \
		struct kvm_sregs s;                   \
		board_get_sregs(b, cpu, &s);          \
		__VA_ARGS__;                          \
		board_set_sregs(b, cpu, &s);          \
	} while (0)
/* CPL 3 with the board's ring-3 segments and BOARD_STACK3. */
void board_user(struct board *b, int cpu);
/* RFLAGS bits, RSP */
void board_flags(struct board *b, int cpu, u64 flags);
void board_stack(struct board *b, int cpu, u64 rsp);
/* CR0 bits to add */
void board_cr0(struct board *b, int cpu, u64 bits);
/* A breakpoint register: what = 0 execute, 1 write, 3 read or write; len 1, 2, 4, 8 */
void board_watch(struct board *b, int cpu, unsigned int n, u64 addr, unsigned int what, unsigned int len);

/**
 * board_run() - KVM_RUN until something but a signal ends it, or the time is over
 *
 * Return: the exit reason; -ETIMEDOUT; another -errno of KVM_RUN.
 */
int board_run(struct board *b, int cpu, unsigned int ms);

/* board_run() until the guest writes to port; its value, or what board_run() returned with bit 31 set. */
u32 board_run_out(struct board *b, int cpu, u16 port, unsigned int ms);

/**
 * board_stat() - find a counter of the binary statistics
 * @cpu: a processor's, or the VM's if negative
 * @at: where it is in the file, first bucket
 *
 * Return: descriptor of the statistics, to be closed with kvm->close(), or -errno.
 */
int board_stat(struct board *b, int cpu, const char *name, off_t *at);

double board_now(void);	/* seconds */
