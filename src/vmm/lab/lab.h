/* SPDX-License-Identifier: MIT */
/*
 * The corpus of `casement lab`: tiny guests that try to keep the host's processor, and tiny guests that only look
 * so. One family is one file; one guest is one row and one function that sets the board up.
 *
 * A hostile guest runs twice. Contained, something must give the host control back, and it must be what the row
 * says. Uncontained, it must be seen to go on for ten notify windows, or it proves nothing. An innocent guest runs
 * once, with notify exits on and the window at 0, and must not be flagged.
 */
#pragma once
#include "vmm/lab/board.h"

#define LAB_DONE_PORT 0xf0	/* an innocent guest writes 1 here when its work is done and right */
#define LAB_PASS_PORT 0xf4	/* user space enters again, whatever is read or written here */
#define LAB_COUNT 0x30800u	/* a storm counts here */
#define LAB_THRESHOLD 131072	/* crystal clocks: the processor's constant; the window is 0 */
#define LAB_CRYSTAL_HZ 25000000
#define LAB_WINDOWS 10

/**
 * enum lab_end - how a run must end
 * @END_NOTIFY: KVM_EXIT_NOTIFY
 * @END_INTERCEPT: the hypervisor's interception of #AC: internal error "simultaneous exceptions"
 * @END_SHUTDOWN: KVM_EXIT_SHUTDOWN
 * @END_KICK: a signal ends KVM_RUN; the guest has windows, it only wastes its own time
 * @END_EXIT: an exit to user space, which need not enter again
 * @END_BUS_LOCK: KVM_EXIT_X86_BUS_LOCK
 * @END_KILL: KVM_RUN fails with EFAULT: the vCPU was killed for its locks
 * @END_DONE: innocent: says that it is done
 * @END_QUIET: innocent: goes on for a hundred windows without being flagged
 */
enum lab_end {
	END_NOTIFY, END_INTERCEPT, END_SHUTDOWN, END_KICK, END_EXIT, END_BUS_LOCK, END_KILL, END_DONE, END_QUIET,
};

/**
 * enum lab_sign - how an uncontained attack is recognised
 * @SIGN_STUCK: KVM_RUN does not return and RIP does not move
 * @SIGN_CYCLE: it does not return, and RIP is always at the first byte of a handler (a multiple of 256)
 * @SIGN_COUNT: the guest's own counter at LAB_COUNT goes on
 * @SIGN_EXITS: exit follows exit, however often user space enters again
 */
enum lab_sign { SIGN_STUCK, SIGN_CYCLE, SIGN_COUNT, SIGN_EXITS };

/**
 * struct lab_guest - one row of the corpus
 * @name: unique
 * @attack: what it attacks, or what it looks like
 * @options: the engine's, for the contained run and for an innocent guest
 * @setup: makes the vCPUs; the attack is what vCPU 0 does first
 * @drive: replaces the run of an innocent guest; 0 when it was as it should be
 */
struct lab_guest {
	const char *name;
	const char *attack;
	enum lab_end end;
	enum lab_sign sign;
	const char *options;
	void (*setup)(struct board *b);
	int (*drive)(struct board *b);
};

struct lab_family {
	const char *name;
	const struct lab_guest *guest;
	unsigned int n;
};
#define LAB_FAMILY(name) const struct lab_family lab_##name = { #name, name, ARRAY_SIZE(name) }
extern const struct lab_family lab_ac, lab_db, lab_fault, lab_shutdown, lab_lock, lab_bus, lab_storm,
	lab_engine, lab_hang, lab_innocent;

/**
 * struct lab_result - what became of a guest
 * @ms: from the attack's first instruction (END_KICK: from the signal) to the return of KVM_RUN
 * @bare: an uncontained run was seen to go on
 */
struct lab_result {
	bool pass;
	bool bare;
	double ms;
	char why[160];
};

static inline bool lab_hostile(const struct lab_guest *g) { return g->end < END_DONE; }
const char *lab_end_name(enum lab_end end);
/* Run one guest in this process. */
void lab_run(const struct lab_guest *g, struct lab_result *r);

/**
 * lab_plot() - draw one attack
 * @path: SVG file to write
 *
 * Return: 0, or an exit code after one line on stderr.
 */
int lab_plot(const struct lab_guest *g, const char *path);

/* ---- what families share ------------------------------------------------------------------------------- */

#define LAB_DONE "mov $1, %al; out %al, $0xf0; 97: jmp 97b"
#define LAB_FAIL "mov $2, %al; out %al, $0xf0; 98: jmp 98b"
#define LAB_LOOP "99: jmp 99b"

/* A processor of this mode with this code. */
#define lab_cpu(b, mode, code) (board_cpu(b, mode), board_code(b, (int)(b)->n - 1, code))
/* BOARD_ASM() and the set-up that takes it: one processor of this mode with this code, then the statements. */
#define LAB_GUEST(family, name, bits, mode, text, ...)                \
	BOARD_ASM(lab_##family##_##name, bits, text);                \
	static void setup_##name(struct board *b)                    \
	{                                                            \
		lab_cpu(b, mode, lab_##family##_##name);             \
		__VA_ARGS__;                                         \
	}
/* A stack segment of 64 KiB whose pointer wraps: no limit ends what descends on it. */
void lab_wrapping_stack(struct board *b, int cpu, unsigned int cpl);
/* Gate `vector` to the guest's code at `offset` of its blob, in CPL 0, on IST 1 in long mode. */
void lab_handler(struct board *b, unsigned int vector, u32 offset);
/* The task of SEL_TSS2, in protected mode, at CPL 0. */
void lab_second_task(struct board *b, u32 eip);
/* An external interrupt that waits for the processor, with IF set. */
void lab_interrupt(struct board *b, unsigned int vector);
#define LAB_WRAP_BASE 0x200000u
