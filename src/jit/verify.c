/* SPDX-License-Identifier: MIT */
/*
 * The verifier: decodes a block that was just made and follows every way through it.
 *
 * Held to it: only instructions that belong into blocks; guest registers written by nothing but the guest instruction
 * whose turn it is, and at home whenever something may look; memory reached by an address that a probe has
 * made, as far and as it was probed; of the vCPU itself only certain fields; the guest's flags where the side tables
 * say; a poll before each backward jump; jumps, calls and table entries to where instructions begin.
 *
 * It knows the shapes that the emitters make, and what is new to it is refused: it is for tests, and tells of a block's
 * fault before a guest can meet it.
 */
#include "jit/verify.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/op/op.h"

/* ---- what is known where ways meet ---------------------------------------------------------------------- */

static struct val meet(struct val a, struct val b)
{
	if (!memcmp(&a, &b, sizeof(a)))
		return a;
	if ((a.kind == VAL_HOME || a.kind == VAL_NEW) && (b.kind == VAL_HOME || b.kind == VAL_NEW))
		return (struct val){ .kind = VAL_NEW };
	if (a.kind == b.kind && (a.kind == VAL_PTR || a.kind == VAL_PART))
		return (struct val){ .kind = a.kind, .arg = a.arg & b.arg, .size = a.size < b.size ? a.size : b.size };
	return (struct val){ .kind = VAL_JUNK };
}

static void merge(struct vstate *to, const struct vstate *s)
{
	to->host &= s->host;
	to->saved &= s->saved;
	to->lazy &= s->lazy;
	to->marked &= s->marked;
	to->polled &= s->polled;
	to->locks &= s->locks;
	to->fp &= s->fp;
	to->jump &= s->jump;
	to->left |= s->left;
	if (to->cmp_jump != s->cmp_jump)
		to->cmp_jump = 0;
	if (to->cmp != s->cmp || to->cmp_imm != s->cmp_imm)
		to->cmp = REF_NONE;
	to->cmp_type &= s->cmp_type;
	to->cmp_line &= s->cmp_line;
	to->cmp_fp &= s->cmp_fp;
	to->cmp_poll &= s->cmp_poll;
	for (unsigned int r = 0; r < 16; r++)
		to->reg[r] = meet(to->reg[r], s->reg[r]);
	for (unsigned int n = 0; n < GROUPS; n++)
		to->held[n] = meet(to->held[n], s->held[n]);
}

/* The guest instruction that the code at @at is of; of paths behind the block, the one that led there. */
static unsigned int turn(const struct verify *y, u32 at, unsigned int k)
{
	const struct work *w = y->w;

	if (at >= w->hot_end)
		return k;
	for (k = w->n - 1; k && w->start[k] > at; k--)
		;
	return k;
}

static void next_insn(struct verify *y, u32 at, struct vstate *s, unsigned int k)
{
	for (unsigned int r = 0; r < 16; r++)
		if (s->reg[r].kind == VAL_NEW)
			s->reg[r].kind = VAL_HOME;
	s->k = (u8)k;
	s->locks = 0;
	verify_home(y, at, s, false);
}

void verify_goto(struct verify *y, u32 from, u32 to, const struct vstate *s)
{
	struct vstate *old, in = *s;
	unsigned int k;

	if (to >= y->n || !y->starts[to]) {
		verify_fail(y, from, "goes to where no instruction begins");
		return;
	}
	k = turn(y, to, s->k);
	if (k != s->k)
		next_insn(y, from, &in, k);
	in.seen = true;
	old = &y->state[to];
	if (!old->seen) {
		*old = in;
	} else {
		struct vstate was = *old;

		if (old->k != in.k) /* a path that several instructions share */
			verify_fail(y, from, "joins the way of another instruction");
		merge(old, &in);
		if (!memcmp(&was, old, sizeof(was)))
			return;
	}
	if (y->ntodo < ARRAY_SIZE(y->todo))
		y->todo[y->ntodo++] = (u16)to;
	else
		verify_fail(y, from, "takes too long to verify");
}

/* ---- states that must hold ---------------------------------------------------------------------------------- */

bool verify_home(struct verify *y, u32 at, const struct vstate *s, bool may_restart)
{
	for (unsigned int g = 0; g < 16; g++) {
		u8 kind = jit_host[g] == IN_MEMORY ? (u8)VAL_HOME : s->reg[jit_host[g]].kind;

		if (kind == VAL_NEW && may_restart)
			return verify_fail(y, at, "may fault, or call C, after a register was written");
		if (kind != VAL_HOME && kind != VAL_NEW)
			return verify_fail(y, at, "loses a guest register");
	}
	return true;
}

/* Do the operands that the recipe needs still stand as the instruction left them? */
static bool recipe_holds(const struct verify *y, const struct site *site, unsigned int k)
{
	const struct decode *made = &y->w->d[site->recipe.index];
	u16 need = made->gpr_read | made->gpr_write;

	if (site->recipe.index >= k || !flags_replaced(made))
		return false;
	for (unsigned int i = site->recipe.index + 1u; i < k; i++)
		if (y->w->d[i].gpr_write & need || y->w->d[i].flags_write)
			return false;
	return true;
}

/* The same for instructions in front of the one that made the flags in the pass before: as it left the operands. */
bool verify_loop_recipe(const struct verify *y, const struct recipe *how, unsigned int k)
{
	const struct decode *made = &y->w->d[how->index];
	u16 need = made->gpr_read | made->gpr_write;

	if (y->w->looped == NO_LOOP || memcmp(how, &y->w->loop_recipe, sizeof(*how)) || !flags_replaced(made))
		return false;
	for (unsigned int i = 0; i < y->w->n; i++) {
		bool between = k > how->index ? i > how->index && i < k : i < k;

		if (between && (y->w->d[i].gpr_write & need || y->w->d[i].flags_write))
			return false;
	}
	return true;
}

bool verify_site_at(struct verify *y, u32 at, const struct vstate *s, u32 site)
{
	const struct site *x = &y->j->site[site];
	const struct insn *r = &y->w->t->rec[s->k];
	bool call = at >= y->w->hot_end || y->code[at] == 0xe8;

	if (site < y->w->site0 || site >= y->j->nsites)
		return verify_fail(y, at, "names a site of another block");
	if (s->left)
		return verify_fail(y, at, "calls C, or may fault, in a page that it has left");
	if ((const u8 *)r - y->w->v->rc->arena != (s64)x->rec * 8)
		return verify_fail(y, at, "names the site of another instruction");
	if (x->flags == FLAGS_RECIPE)
		return recipe_holds(y, x, s->k) || verify_fail(y, at, "cannot make the flags again by its recipe");
	if (x->flags == FLAGS_LOOP)
		return (s->lazy && verify_loop_recipe(y, &x->recipe, s->k)) ||
		       verify_fail(y, at, "cannot make the flags again by its loop's recipe");
	if (x->flags == FLAGS_EITHER)
		return verify_fail(y, at, "may be left with nobody knowing where the flags are");
	if (x->flags == FLAGS_HOST && !call ? !s->host : !s->saved)
		return verify_fail(y, at, "has not the flags where its site says");
	return true;
}

/* ---- side tables ---------------------------------------------------------------------------------------------- */

static bool begins(const struct verify *y, u32 off)
{
	return off >= y->base && off - y->base <= y->n && (off - y->base == y->n || y->starts[off - y->base]);
}

static void check_tables(struct verify *y)
{
	const struct work *w = y->w;
	u32 last = y->base;

	for (u32 n = w->site0; n < y->j->nsites; n++) {
		const struct site *s = &y->j->site[n];

		if (!begins(y, s->host) || !begins(y, s->done) || !begins(y, s->host + s->ready))
			verify_fail(y, s->host - y->base, "is the place of a site but no instruction");
		if (s->host < last)
			verify_fail(y, s->host - y->base, "has a site out of order");
		last = s->host;
	}
	for (unsigned int n = 0; n < w->nexits; n++) {
		const struct exit *x = &w->exit[n];

		if (!begins(y, x->at) || !begins(y, x->cold))
			verify_fail(y, x->at - y->base, "is the place of an exit but no instruction");
		if (x->flags == FLAGS_EITHER || x->flags == FLAGS_RECIPE)
			verify_fail(y, x->at - y->base, "is an exit without flags");
	}
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static bool decode_at(const struct verify *y, u32 at, struct decode *d)
{
	u32 left = y->n - at;

	return !insn_decode(NULL, y->code + at, left < 15 ? left : 15, 8, d);
}

static void find_starts(struct verify *y)
{
	struct decode d;

	memset(y->starts, 0, sizeof(y->starts));
	for (u32 at = 0; at < y->n; at += d.len) {
		y->starts[at] = true;
		if (!decode_at(y, at, &d) || d.rec.id == INSN_INVALID) {
			verify_fail(y, at, "is no instruction");
			return;
		}
	}
}

static void enter(struct verify *y, u32 off, enum flag_place where)
{
	struct vstate s = { .host = where == FLAGS_HOST, .saved = where == FLAGS_SAVED, .lazy = where != FLAGS_HOST,
			    .fp = where == FLAGS_LOOP ? y->w->loop_fp : 0, .cmp = REF_NONE };

	for (unsigned int g = 0; g < 16; g++)
		if (jit_host[g] != IN_MEMORY)
			s.reg[jit_host[g]].kind = VAL_HOME;
	verify_goto(y, off - y->base, off - y->base, &s);
}

static void follow(struct verify *y)
{
	struct decode d;

	while (y->ntodo && !y->why) {
		u32 at = y->todo[--y->ntodo];
		struct vstate s = y->state[at];

		decode_at(y, at, &d);
		if (insn_rows[d.rec.id].traits & (T_BRANCH | T_COND)) {
			if (!verify_branch(y, at, &d, &s))
				continue;
		} else {
			verify_insn(y, at, &d, &s);
		}
		verify_goto(y, at, at + d.len, &s);
	}
}

static void tell(const struct verify *y)
{
	const struct work *w = y->w;
	char line[160];
	struct decode d;

	dprintf(2, "verifier: at %#x of a block: %s\n", y->at, y->why);
	for (unsigned int k = 0, pos = 0; k < w->n; pos += w->t->rec[k++].len) {
		insn_format(trace_src(w->t) + pos, w->t->rec[k].len, 8, w->t->rec[k].off, line, sizeof(line));
		dprintf(2, "  guest %3x  %s\n", w->t->rec[k].off, line);
	}
	for (u32 at = 0; at < y->n; at += d.len) {
		if (!decode_at(y, at, &d))
			break;
		insn_format(y->code + at, d.len, 8, at, line, sizeof(line));
		dprintf(2, "%s %4x  %s\n", at == y->at ? "=>" : "  ", at, line);
	}
}

bool verify_quietly(struct work *w, const struct block *b)
{
	struct verify *y = w->j->verify;

	cpu_fp_spill(w->v); /* Zydis uses vector registers */
	y->w = w;
	y->j = w->j;
	y->code = w->e.buf;
	y->base = w->j->used;
	y->n = w->e.n;
	y->why = NULL;
	y->ntodo = 0;
	memset(y->state, 0, (y->n + 1) * sizeof(y->state[0]));
	find_starts(y);
	check_tables(y);
	if (!y->why) {
		enter(y, b->saved, FLAGS_SAVED);
		enter(y, b->host, FLAGS_HOST);
		if (y->w->looped != NO_LOOP)
			enter(y, b->loop, FLAGS_LOOP);
		follow(y);
	}
	return !y->why;
}

bool (*verify_test)(struct work *w, const struct block *b);

bool verify_block(struct work *w, const struct block *b)
{
	if (unlikely(verify_test))
		return verify_test(w, b);
	if (verify_quietly(w, b))
		return true;
	tell(w->j->verify);
	cpu_internal(w->v, INTERNAL_ENGINE);
	atomic_fetch_or(&w->v->request, REQ_INSN);
	return false;
}

struct verify *verify_make(void)
{
	struct verify *y = mmap(NULL, sizeof(*y), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return y == MAP_FAILED ? NULL : y;
}

void verify_free(struct verify *y)
{
	if (y)
		munmap(y, sizeof(*y));
}
