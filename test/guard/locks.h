/* SPDX-License-Identifier: MIT */
/*
 * Guests that lock the bus, for the tests of split and bus locks.
 */
#pragma once
#include "vm.h"

#include <pthread.h>

#define OPERAND 0x3003eu	/* crosses a line */
#define INSIDE 0x30040u
#define OUT_DONE 0xd1u		/* port 0xf4: the program's end */
#define OUT_AC 17u		/* BOARD_PORT: the board's handler of #AC */
#define MSR_TEST_CTRL 0x33u
#define MSR_CORE_CAPS 0xcfu
#define MSR_DEBUGCTL 0x1d9u
#define SPLIT_BIT (1u << 29)
#define RETIRED 0u
#define GIVEN 1u
#define KILLED 2u
#define NOTHING 3u

#define DONE "mov $0xd1, %al; out %al, $0xf4; 1: hlt; jmp 1b"
/* lock add to OPERAND, then the end; the same with a second one. */
BOARD_ASM(lock_add, 64, "mov $0x3003e, %rbx; lock addl $1, (%rbx); " DONE);
/* A #AC handler as of split_lock_detect=warn: turns detection off, says so, lets the instruction run again. */
BOARD_ASM(ac_turn_off, 64,
	  "push %rax; push %rcx; push %rdx; mov $0x33, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr;"
	  "mov $17, %al; out %al, $0x80; pop %rdx; pop %rcx; pop %rax; add $8, %rsp; iretq");

/* ---- SIGBUS of a killed vCPU ------------------------------------------------------------------------ */

static volatile int bus_signals, bus_code;

static void on_bus(int sig, siginfo_t *info, void *ctx)
{
	bus_signals++;
	bus_code = info->si_code;
}

__attribute__((unused)) static void catch_bus(void)
{
	struct sigaction sa = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

	casement_sigaction(SIGBUS, &sa, NULL);
}

/* ---- one program ---------------------------------------------------------------------------------------- */

/* A processor that will run the program at CPL 0 or 3, port access allowed. */
__attribute__((unused)) static int lock_cpu(const u8 *code, const u8 *end, unsigned int cpl)
{
	int cpu = new_cpu(BOARD_LONG64);

	board_load(&b, cpu, code, end);
	if (cpl) {
		board_user(&b, cpu);
		board_flags(&b, cpu, 0x3000);
	}
	return cpu;
}
#define LOCK_CPU(name, cpl) lock_cpu(name, name##_end, cpl)

/* How the next split lock of the program ends. */
__attribute__((unused)) static unsigned int outcome(int cpu)
{
	struct kvm_run *run = b.cpu[cpu].run;
	int r = board_run(&b, cpu, 2000);

	if (r == KVM_EXIT_EXCEPTION)
		return KILLED;
	if (r != KVM_EXIT_IO) {
		diag("exit %d at %#llx", r, (unsigned long long)rip(cpu));
		return NOTHING;
	}
	return run->io.port == BOARD_PORT ? GIVEN : RETIRED;
}

__attribute__((unused)) static char lines[65536], names[4096];

/* The kinds of departures since the VM was made, "a b c". */
__attribute__((unused)) static const char *departed(void)
{
	int fd = casement_departures(b.vm, CASEMENT_JSON);

	lines[0] = names[0] = 0;
	if (fd < 0)
		return "?";
	departures(fd, lines, sizeof(lines));
	kinds(lines, names, sizeof(names));
	casement_close(fd);
	return names;
}
