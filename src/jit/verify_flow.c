/* SPDX-License-Identifier: MIT */
/*
 * Jumps and calls of a block, as the verifier sees them.
 */
#include "jit/verify.h"

#include <string.h>

#include "cpu/op/op.h"

static void junk_scratch(struct vstate *s)
{
	s->reg[R_T] = s->reg[R_I] = (struct val){ .kind = VAL_JUNK };
	s->cmp = REF_NONE;
	s->cmp_type = s->cmp_line = s->cmp_fp = s->cmp_poll = false;
	s->cmp_jump = s->jump = 0;
}

/* C may have done anything to translations. */
static void drop_held(struct vstate *s)
{
	for (unsigned int n = 0; n < GROUPS; n++)
		s->held[n] = (struct val){ .kind = VAL_JUNK };
}

/* After C ran: registers are loaded from struct vcpu, the flags are there. */
static void after_call(struct vstate *s)
{
	junk_scratch(s);
	for (unsigned int g = 0; g < 16; g++)
		if (jit_host[g] != IN_MEMORY)
			s->reg[jit_host[g]].kind = VAL_HOME;
	s->host = s->marked = false;
}

/* The exit that ends in front of @end. */
static const struct exit *exit_at(const struct verify *y, u32 end)
{
	for (unsigned int n = 0; n < y->w->nexits; n++)
		if (y->w->exit[n].at == y->base + end)
			return &y->w->exit[n];
	return NULL;
}

static void check_exit(struct verify *y, u32 at, const struct exit *x, const struct vstate *s)
{
	const struct insn *r = &y->w->t->rec[s->k];
	bool host = x->flags == FLAGS_HOST || x->flags == FLAGS_BOTH;
	bool saved = x->flags == FLAGS_SAVED || x->flags == FLAGS_BOTH;

	verify_home(y, at, s, false);
	if (s->left)
		verify_fail(y, at, "goes on in the page that it has left");
	if ((host && !s->host) || (saved && !s->saved))
		verify_fail(y, at, "leaves without the flags where its exit says");
	if (x->loop && (x->flags != FLAGS_HOST || !s->marked || (y->w->loop_fp & ~s->fp) ||
			x->off != y->w->t->rec[0].off || s->k <= y->w->loop_recipe.index ||
			!verify_loop_recipe(y, &y->w->loop_recipe, s->k)))
		verify_fail(y, at, "goes on in its loop with other flags than the recipe makes");
	if (x->off < PAGE_SIZE && x->off <= r->off && !s->polled) /* others pass the jump cache, which looks */
		verify_fail(y, at, "jumps backward without looking for requests");
}

static const u8 *address(const struct verify *y, s64 to)
{
	return y->j->x.rx + y->base + to;
}

/* Code that all blocks share is known to struct jit by where it is entered. */
static bool is_glue(const struct jit *j, const u8 *to)
{
	for (const u8 *const *p = &j->enter; p <= &j->resume_first; p++)
		if (*p == to)
			return true;
	return false;
}

static u32 site_of(const struct vstate *s)
{
	return s->reg[R_I].kind == VAL_SITE ? s->reg[R_I].num : NO_SITE;
}

/* C looks for the operand: it is found, or the whole instruction done; nothing comes back here. */
static void call_slow(struct verify *y, u32 at, const struct vstate *s, u32 site)
{
	const struct site *x = &y->j->site[site];
	const struct insn *r = &y->w->t->rec[s->k];
	struct vstate found = *s, done = *s;

	after_call(&found);
	found.host = s->saved;
	found.reg[R_T] = (struct val){ .kind = x->pair ? VAL_PART : VAL_PTR, .arg = !!(x->acc & ACC_W),
				       .size = x->size };
	if (x->pair)
		found.reg[R_I].kind = VAL_REST; /* 0 */
	found.locks = LOCK_TYPE | LOCK_LINE;
	if (!x->in_group)
		drop_held(&found);
	if (!r->op || x->leads)
		verify_goto(y, at, x->host + x->ready - y->base, &found);
	if (x->in_group) /* nothing but a look at the TLB, or the interpreter goes on */
		return;
	after_call(&done);
	drop_held(&done);
	done.host = done.saved = done.lazy = true;
	if (!(insn_rows[r->id].traits & T_BRANCH))
		verify_goto(y, at, x->done - y->base, &done);
}

static bool is_miss(const struct verify *y, const u8 *to)
{
	const struct work *w = y->w;
	unsigned int level = w->t->key & MODE_NONROOT ? 1 : 0;

	if (work_view(w) < VIEW_NONE && !level &&
	    (to == y->j->slot_miss[work_view(w)][0] || to == y->j->slot_miss[work_view(w)][1]))
		return true;
	return to == y->j->miss[level][work_view(w)][0] || to == y->j->miss[level][work_view(w)][1];
}

/* Behind the call stands TEST EAX with the site; the probe is tried again with its index. */
static bool call_miss(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	const u8 *next = y->code + at + d->len;
	u32 site;

	if (at + d->len + 5 > y->n || next[0] != 0xa9)
		return verify_fail(y, at, "searches the TLB without a site");
	memcpy(&site, next + 1, 4);
	site &= (u32)BIT(SITE_BITS) - 1;
	if (!verify_site_at(y, at, s, site) || !verify_home(y, at, s, true))
		return false;
	call_slow(y, at, s, site);
	s->reg[R_T] = (struct val){ .kind = VAL_JUNK };
	if (s->reg[R_I].kind != VAL_MASKED)
		s->reg[R_I] = (struct val){ .kind = VAL_JUNK };
	s->host = false;
	s->cmp = REF_NONE;
	return true;
}

/* Is @at behind a path that never comes back? */
static bool path_ends(const struct verify *y, u32 at)
{
	const struct work *w = y->w;

	if (at >= y->n)
		return true;
	for (unsigned int n = 0; n < w->ncold; n++)
		if (w->cold[n].at == at)
			return true;
	for (unsigned int n = 0; n < w->nexits; n++)
		if (w->exit[n].cold == y->base + at)
			return true;
	return false;
}

static bool call(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	const u8 *to = address(y, (s64)at + d->len + d->rec.imm);
	u32 site = site_of(s);

	if (is_miss(y, to))
		return call_miss(y, at, d, s);
	if (!is_glue(y->j, to))
		return verify_fail(y, at, "calls what is not there for blocks");
	if (site == NO_SITE)
		return verify_fail(y, at, "calls C without a site");
	if (!verify_site_at(y, at, s, site) || !verify_home(y, at, s, to != y->j->op))
		return false;
	if (to == y->j->stop)
		return false;
	if (to == y->j->slow) {
		call_slow(y, at, s, site);
		return false;
	}
	if (to == y->j->canonical) { /* T and all that belongs to the guest are as they were, if it comes back */
		if (!s->saved)
			return verify_fail(y, at, "may fault without the flags where its handler looks for them");
		s->reg[R_I] = (struct val){ .kind = VAL_JUNK };
		s->cmp = REF_NONE;
		s->cmp_type = s->cmp_line = s->cmp_fp = s->cmp_poll = s->host = false;
		s->cmp_jump = s->jump = 0;
		return true;
	}
	after_call(s);
	if (to == y->j->fp) {
		s->fp = 0xff;
		return true;
	}
	drop_held(s);
	s->fp = 0;
	s->saved = s->lazy = true;
	return !path_ends(y, at + d->len);
}

/* What is known when a conditional jump is not taken. */
static void not_taken(const struct decode *d, struct vstate *s)
{
	struct val *t = &s->reg[s->cmp == R_I ? R_I : R_T];

	if (d->rec.id == INSN_JNBE && (s->cmp == R_T || s->cmp == R_I) && t->kind == VAL_OFFSET &&
	    s->cmp_imm <= PAGE_SIZE)
		*t = (struct val){ .kind = VAL_BOUNDED, .num = t->num, .size = (u16)(PAGE_SIZE - s->cmp_imm) };
	if (d->rec.id == INSN_JNZ && s->cmp_type)
		s->locks |= LOCK_TYPE;
	if (d->rec.id == INSN_JNZ && s->cmp_line)
		s->locks |= LOCK_LINE;
	if (d->rec.id == INSN_JNZ && s->cmp_poll)
		s->polled = true;
	if (d->rec.id == INSN_JZ && s->cmp_fp)
		s->fp |= (u8)s->cmp_imm;
	jump_not_taken(d, s);
}

static bool jump(struct verify *y, u32 at, const struct decode *d, const struct vstate *s)
{
	s64 to = (s64)at + d->len + d->rec.imm;
	const struct exit *x = exit_at(y, at + d->len);

	if (x)
		check_exit(y, at, x, s);
	if (to >= 0) {
		verify_goto(y, at, (u32)to, s);
	} else if (!is_glue(y->j, address(y, to))) {
		verify_fail(y, at, "jumps into another block, or somewhere");
	} else {
		verify_home(y, at, s, false);
		if (s->left && address(y, to) != y->j->jump && address(y, to) != y->j->old)
			verify_fail(y, at, "goes on in the page that it has left");
		if (address(y, to) == y->j->exit_host ? !s->host : !s->saved)
			verify_fail(y, at, "leaves without the flags where the code behind looks for them");
	}
	return false;
}

static bool jump_if(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	s64 to = (s64)at + d->len + d->rec.imm;
	const struct exit *x = exit_at(y, at + d->len);

	if (x)
		check_exit(y, at, x, s);
	if (to < 0) {
		verify_fail(y, at, "leaves the block under a condition");
	} else {
		struct vstate taken = *s;

		if (d->rec.id == INSN_JZ && s->cmp_jump == JUMP_PAGE)
			taken.jump |= JUMP_PAGE;
		verify_goto(y, at, (u32)to, &taken);
	}
	not_taken(d, s);
	return true;
}

static bool jump_if_quiet(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	struct vstate quiet = *s;

	if (s->reg[GPR_RCX].kind != VAL_REQUEST)
		verify_fail(y, at, "tests a register that is not the request word");
	quiet.polled = true;
	verify_goto(y, at, at + d->len + (u32)d->rec.imm, &quiet);
	return true;
}

bool verify_branch(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	switch (d->rec.id) {
	case INSN_JMP_REL:
		return jump(y, at, d, s);
	case INSN_CALL_REL:
		return call(y, at, d, s);
	case INSN_JRCXZ:
		return jump_if_quiet(y, at, d, s);
	case INSN_JMP_RM:
		verify_jump_entry(y, at, d, s);
		return false;
	default:
		if (insn_rows[d->rec.id].traits & T_COND)
			return jump_if(y, at, d, s);
		return verify_fail(y, at, "is no branch for a block");
	}
}
