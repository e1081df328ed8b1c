/* SPDX-License-Identifier: MIT */
/*
 * One guest of the corpus: contained, uncontained, and what was seen.
 */
#include "vmm/lab/lab.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#ifndef CASEMENT_NO_ENGINE
#include "casement/casement.h"
#endif

#define WINDOW_MS   (LAB_THRESHOLD * 1e3 / LAB_CRYSTAL_HZ)
#define PATIENCE_MS 2000 /* for a contained run: a notify window is five */
#define KICK_MS	    20
#define INNOCENT_MS 60000
/* Nothing but the guest itself stands in an uncontained attack's way. */
#define BARE "intercepts=drop,split-lock=off,bus-lock=off,"

const char *lab_end_name(enum lab_end end)
{
	static const char *const name[] = {
		[END_NOTIFY] = "notify",     [END_INTERCEPT] = "intercept",
		[END_SHUTDOWN] = "shutdown", [END_KICK] = "kick",
		[END_EXIT] = "exit",	     [END_BUS_LOCK] = "bus-lock",
		[END_KILL] = "kill",	     [END_DONE] = "-",
		[END_QUIET] = "-",
	};

	return name[end];
}

static int set_options(const char *options, struct lab_result *r)
{
#ifdef CASEMENT_NO_ENGINE
	snprintf(r->why, sizeof(r->why), "this program has no software processor");
	return -ENOSYS;
#else
	return casement_set_options(options, r->why, sizeof(r->why));
#endif
}

/* ---- the other vCPUs ---------------------------------------------------------------------------- */

struct sibling {
	struct board *b;
	pthread_t thread;
	int cpu;
	unsigned int ms;
};

static void *sibling_run(void *arg)
{
	struct sibling *s = arg;

	board_run(s->b, s->cpu, s->ms);
	return NULL;
}

static void siblings_start(struct board *b, struct sibling *s, unsigned int ms)
{
	for (unsigned int i = 1; i < b->n; i++) {
		s[i] = (struct sibling){ .b = b, .cpu = (int)i, .ms = ms };
		pthread_create(&s[i].thread, NULL, sibling_run, &s[i]);
	}
}

static void siblings_join(struct board *b, struct sibling *s)
{
	for (unsigned int i = 1; i < b->n; i++)
		pthread_join(s[i].thread, NULL);
}

/* ---- the board ---------------------------------------------------------------------------------- */

static int open_board(struct board *b, const struct lab_guest *g, const char *options, bool notify,
		      struct lab_result *r)
{
	int err = set_options(options, r);

	if (err)
		return err;
	err = board_create(b, kvm_call_find("casement"));
	if (!err && notify)
		err = board_enable_cap(b, KVM_CAP_X86_NOTIFY_VMEXIT,
				       KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER);
	if (err) {
		snprintf(r->why, sizeof(r->why), "no VM: %s", strerror(-err));
		board_destroy(b);
		return err;
	}
	g->setup(b);
	return 0;
}

static const char *exit_text(const struct board *b, int got, char *buf, size_t n)
{
	const struct kvm_run *run = b->cpu[0].run;

	if (got == -ETIMEDOUT)
		return "nothing ended it";
	if (got < 0)
		snprintf(buf, n, "KVM_RUN: %s", strerror(-got));
	else if (got == KVM_EXIT_IO && run->io.port == BOARD_PORT)
		snprintf(buf, n, "vector %u came through", *((const u8 *)run + run->io.data_offset));
	else if (got == KVM_EXIT_INTERNAL_ERROR)
		snprintf(buf, n, "internal error %u", run->internal.suberror);
	else
		snprintf(buf, n, "exit %d", got);
	return buf;
}

/* board_run(), going on after a port that means nothing. */
static int enter(struct board *b, unsigned int ms)
{
	const struct kvm_run *run = b->cpu[0].run;
	int got;

	do
		got = board_run(b, 0, ms);
	while (got == KVM_EXIT_IO && run->io.port == LAB_PASS_PORT);
	return got;
}

/* ---- contained ---------------------------------------------------------------------------------- */

static bool as_expected(const struct board *b, enum lab_end end, int got)
{
	const struct kvm_run *run = b->cpu[0].run;

	switch (end) {
	case END_NOTIFY:
		return got == KVM_EXIT_NOTIFY && !run->notify.flags;
	case END_INTERCEPT:
		return got == KVM_EXIT_INTERNAL_ERROR && run->internal.suberror == KVM_INTERNAL_ERROR_SIMUL_EX;
	case END_SHUTDOWN:
		return got == KVM_EXIT_SHUTDOWN;
	case END_KICK:
		return got == -ETIMEDOUT;
	case END_EXIT:
		return got == KVM_EXIT_IO || got == KVM_EXIT_MMIO || got == KVM_EXIT_HLT;
	case END_BUS_LOCK:
		return got == KVM_EXIT_X86_BUS_LOCK;
	case END_KILL:
		return got == -EFAULT;
	default:
		return false;
	}
}

static void run_contained(const struct lab_guest *g, struct lab_result *r)
{
	unsigned int limit = g->end == END_KICK ? KICK_MS : PATIENCE_MS;
	struct sibling s[BOARD_CPUS];
	struct board b;
	char buf[64];
	double since;
	int got;

	if (open_board(&b, g, g->options, true, r))
		return;
	siblings_start(&b, s, g->end == END_KICK ? KICK_MS * 2 : (unsigned int)(LAB_WINDOWS * WINDOW_MS));
	since = board_now();
	got = enter(&b, limit);
	r->ms = (board_now() - since) * 1e3 - (g->end == END_KICK ? limit : 0);
	r->pass = as_expected(&b, g->end, got);
	if (!r->pass)
		snprintf(r->why, sizeof(r->why), "contained: %s", exit_text(&b, got, buf, sizeof(buf)));
	siblings_join(&b, s);
	board_destroy(&b);
}

/* ---- uncontained -------------------------------------------------------------------------------- */

static u64 rip_of(struct board *b)
{
	struct kvm_regs regs;

	board_get_regs(b, 0, &regs);
	return regs.rip;
}

/* Half of the windows; how many exits there were, or -1 when the attack ended. */
static int bare_half(struct board *b, const struct lab_guest *g, int *got)
{
	double end = board_now() + LAB_WINDOWS / 2 * WINDOW_MS / 1e3;
	int exits = 0;

	for (;;) {
		double left = (end - board_now()) * 1e3;

		if (left < 1)
			return exits;
		*got = enter(b, (unsigned int)left + 1);
		if (*got == -ETIMEDOUT)
			return exits;
		if (g->sign != SIGN_EXITS)
			return -1;
		exits++;
	}
}

static bool sign_seen(struct board *b, const struct lab_guest *g, int exits, u64 count, u64 *rip)
{
	u64 was = *rip;

	*rip = rip_of(b);
	switch (g->sign) {
	case SIGN_EXITS:
		return exits;
	case SIGN_COUNT:
		return board_get(b, LAB_COUNT, 8) != count;
	case SIGN_CYCLE:
		return !(*rip & 255);
	case SIGN_STUCK:
		return *rip == was;
	default:
		return true;
	}
}

/* A busy machine may not run the guest at all for some windows, or not beyond its first instructions. */
static bool went_on(struct board *b, const struct lab_guest *g, int *got, u64 *rip)
{
	u64 count = board_get(b, LAB_COUNT, 8);

	for (int tries = 0; tries < 20; tries++) {
		int exits = bare_half(b, g, got);

		if (exits < 0)
			return false;
		if (sign_seen(b, g, exits, count, rip))
			return true;
	}
	return false;
}

static bool bare_seen(struct board *b, const struct lab_guest *g, int *got)
{
	u64 rip = 0;

	return went_on(b, g, got, &rip) && went_on(b, g, got, &rip);
}

static void run_bare(const struct lab_guest *g, struct lab_result *r)
{
	struct sibling s[BOARD_CPUS];
	struct board b;
	char buf[64];
	char options[160];
	int got = -ETIMEDOUT;

	snprintf(options, sizeof(options), BARE "%s", strncmp(g->options, "inject=", 7) ? "" : g->options);
	if (open_board(&b, g, options, false, r)) {
		r->pass = false;
		return;
	}
	siblings_start(&b, s, (unsigned int)((LAB_WINDOWS + 1) * WINDOW_MS));
	r->bare = bare_seen(&b, g, &got);
	if (!r->bare) {
		r->pass = false;
		snprintf(r->why, sizeof(r->why), "uncontained: it did not go on for %d windows (%s)", LAB_WINDOWS,
			 got == -ETIMEDOUT ? "no sign of it" : exit_text(&b, got, buf, sizeof(buf)));
	}
	siblings_join(&b, s);
	board_destroy(&b);
}

/* ---- innocent ----------------------------------------------------------------------------------- */

static void run_innocent(const struct lab_guest *g, struct lab_result *r)
{
	struct kvm_run *run;
	double since;
	struct board b;
	char buf[64];
	int got;

	if (open_board(&b, g, g->options, true, r))
		return;
	run = b.cpu[0].run;
	since = board_now();
	if (g->drive)
		got = g->drive(&b);
	else
		got = board_run(&b, 0, g->end == END_QUIET ? (unsigned int)(100 * WINDOW_MS) : INNOCENT_MS);
	r->ms = (board_now() - since) * 1e3;
	if (g->drive)
		r->pass = !got;
	else if (g->end == END_QUIET)
		r->pass = got == -ETIMEDOUT;
	else
		r->pass = got == KVM_EXIT_IO && run->io.port == LAB_DONE_PORT &&
			  ((u8 *)run)[run->io.data_offset] == 1;
	if (got == KVM_EXIT_NOTIFY)
		snprintf(r->why, sizeof(r->why), "flagged by a notify exit");
	else if (!r->pass)
		snprintf(r->why, sizeof(r->why), "%s", exit_text(&b, got, buf, sizeof(buf)));
	board_destroy(&b);
}

void lab_run(const struct lab_guest *g, struct lab_result *r)
{
	memset(r, 0, sizeof(*r));
	if (!lab_hostile(g)) {
		run_innocent(g, r);
		return;
	}
	run_contained(g, r);
	if (r->pass)
		run_bare(g, r);
}

/* ---- what families share ------------------------------------------------------------------------ */

void lab_wrapping_stack(struct board *b, int cpu, unsigned int cpl)
{
	struct kvm_sregs s;

	board_gdt(b, SEL_FREE, board_desc(LAB_WRAP_BASE, 0xffff, (u8)(0x93 | cpl << 5), 0));
	board_get_sregs(b, cpu, &s);
	s.ss = (struct kvm_segment){ .base = LAB_WRAP_BASE,
				     .limit = 0xffff,
				     .selector = (u16)(SEL_FREE | cpl),
				     .type = 3,
				     .present = 1,
				     .s = 1,
				     .dpl = (u8)cpl };
	board_set_sregs(b, cpu, &s);
	board_stack(b, cpu, 0x8000);
}

void lab_handler(struct board *b, unsigned int vector, u32 offset)
{
	enum board_mode mode = b->cpu[0].mode;
	bool lm = mode == BOARD_LONG64 || mode == BOARD_COMPAT32;

	board_gate(b, mode, vector, lm ? SEL_CODE0_64 : SEL_CODE0, board_code_at(0) + offset, GATE_INT32, 3,
		   lm ? 1 : 0);
}

void lab_second_task(struct board *b, u32 eip)
{
	static const u32 es = 0x48, cs = 0x4c, ss = 0x50, ds = 0x54;

	board_put(b, BOARD_TSS2 + 0x20, eip, 4);
	board_put(b, BOARD_TSS2 + 0x24, 2, 4); /* EFLAGS */
	board_put(b, BOARD_TSS2 + 0x38, BOARD_STACK3, 4);
	board_put(b, BOARD_TSS2 + cs, SEL_CODE0, 4);
	board_put(b, BOARD_TSS2 + es, SEL_DATA0, 4);
	board_put(b, BOARD_TSS2 + ss, SEL_DATA0, 4);
	board_put(b, BOARD_TSS2 + ds, SEL_DATA0, 4);
}

void lab_interrupt(struct board *b, unsigned int vector)
{
	const struct kvm_interrupt irq = { .irq = vector };

	board_flags(b, 0, 1 << 9);
	board_cpu_ioctl(b, 0, KVM_INTERRUPT, &irq);
}
