/* SPDX-License-Identifier: MIT */
/*
 * Guests of containment's tests: the board of `casement lab`, met through libcasement's API, and the attacks that
 * several tests need. One board at a time: fresh("KEY=VALUE,…") makes it, gone() takes it apart.
 */
#pragma once
#include "tap.h"

#include <pthread.h>

#include "casement/casement.h"
#include "vmm/lab/board.h"

static struct board b;

__attribute__((unused)) static void set_options(const char *options)
{
	char err[1024];

	if (casement_set_options(options, err, sizeof(err)))
		bail_out(err);
}

/* A VM without vCPUs. */
__attribute__((unused)) static void fresh(const char *options)
{
	set_options(options);
	if (board_create(&b, kvm_call_find("casement")))
		bail_out("no VM");
}

__attribute__((unused)) static void gone(void)
{
	board_destroy(&b);
}

__attribute__((unused)) static int new_cpu(enum board_mode mode)
{
	int cpu = board_cpu(&b, mode);

	if (cpu < 0)
		bail_out("no vCPU");
	return cpu;
}

__attribute__((unused)) static int enable_notify(u32 window, u32 flags)
{
	return board_enable_cap(&b, KVM_CAP_X86_NOTIFY_VMEXIT, (u64)window << 32 | flags);
}
#define NOTIFY_ON KVM_X86_NOTIFY_VMEXIT_ENABLED
#define NOTIFY_ON_USER (KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER)

__attribute__((unused)) static u64 rip(int cpu)
{
	struct kvm_regs r;

	board_get_regs(&b, cpu, &r);
	return r.rip;
}

__attribute__((unused)) static struct kvm_vcpu_events events(int cpu)
{
	struct kvm_vcpu_events e = { 0 };

	board_cpu_ioctl(&b, cpu, KVM_GET_VCPU_EVENTS, &e);
	return e;
}

/* 0 or -1 */
__attribute__((unused)) static int set_msr(int cpu, u32 index, u64 val)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { .head.nmsrs = 1, .e = { .index = index, .data = val } };

	return board_cpu_ioctl(&b, cpu, KVM_SET_MSRS, &m) == 1 ? 0 : -1;
}

__attribute__((unused)) static u64 get_msr(int cpu, u32 index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { .head.nmsrs = 1, .e = { .index = index } };

	return board_cpu_ioctl(&b, cpu, KVM_GET_MSRS, &m) == 1 ? m.e.data : ~0ull;
}

/* A handler in CPL 0 for software interrupts and faults, its code at `at`. */
__attribute__((unused)) static void put_handler(enum board_mode mode, unsigned int vector, u32 at, const u8 *code,
						const u8 *end, unsigned int dpl)
{
	memcpy(b.ram + at, code, (size_t)(end - code));
	board_gate(&b, mode, vector, mode == BOARD_LONG64 ? SEL_CODE0_64 : SEL_CODE0, at, GATE_INT32, dpl, 0);
}
#define PUT_HANDLER(mode, vector, at, name, dpl) put_handler(mode, vector, at, name, name##_end, dpl)

/* ---- statistics ----------------------------------------------------------------------------------- */

/* A counter of a VM's (cpu < 0) or vCPU's binary statistics; bucket n. */
__attribute__((unused)) static u64 stat_of(int cpu, const char *name, unsigned int n)
{
	u64 val = ~0ull;
	off_t at;
	int fd = board_stat(&b, cpu, name, &at);

	if (fd < 0)
		return val;
	pread(fd, &val, 8, at + n * 8);
	casement_close(fd);
	return val;
}

/* ---- departures --------------------------------------------------------------------------------------- */

/* Lines that are there now; kinds in order, "a b c". */
__attribute__((unused)) static void departures(int fd, char *buf, size_t n)
{
	long got, at = 0;

	while ((got = read(fd, buf + at, n - 1 - (size_t)at)) > 0)
		at += got;
	buf[at] = 0;
}

__attribute__((unused)) static void kinds(const char *lines, char *out, size_t n)
{
	size_t at = 0;

	out[0] = 0;
	for (const char *p = lines; (p = strstr(p, "\"kind\":\"")); ) {
		p += 8;
		at += (size_t)snprintf(out + at, n - at, "%s%.*s", at ? " " : "", (int)strcspn(p, "\""), p);
	}
}

/* ---- attacks --------------------------------------------------------------------------------------------- */

/* Ring 3, alignment checks, a misaligned stack. */
BOARD_ASM(ac_trigger, 32, "mov 0x30001, %eax; 1: jmp 1b");
/* Touch the #DB gate. */
BOARD_ASM(db_trigger, 64, "mov 0x2010, %rax; mov $0xdb, %al; out %al, $0xf4; 1: jmp 1b");

/* CVE-2015-5307: the #AC handler runs in ring 3 on the misaligned stack that faulted. */
__attribute__((unused)) static int ac_loop(void)
{
	int cpu = new_cpu(BOARD_PROT32);

	board_code(&b, cpu, ac_trigger);
	board_user(&b, cpu);
	board_gate(&b, BOARD_PROT32, 17, SEL_CODE3, BOARD_HANDLERS + 17 * 16, GATE_INT32, 0, 0);
	board_cr0(&b, cpu, 1 << 18);
	board_flags(&b, cpu, 1 << 18);
	board_stack(&b, cpu, BOARD_STACK3 - 3);
	return cpu;
}

/* CVE-2015-8104: a breakpoint on the #DB gate, a stack that is always the same. */
__attribute__((unused)) static int db_loop(void)
{
	int cpu = new_cpu(BOARD_LONG64);

	board_code(&b, cpu, db_trigger);
	board_gate(&b, BOARD_LONG64, 1, SEL_CODE0_64, BOARD_HANDLERS + 16, GATE_INT32, 0, 1);
	board_watch(&b, cpu, 0, BOARD_IDT + 16, 3, 8);
	return cpu;
}
