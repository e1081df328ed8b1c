/* SPDX-License-Identifier: MIT */
/*
 * Where the guest's arithmetic flags are, from instruction to instruction of a block.
 *
 * They stay in the host's flags as long as nothing clobbers those. Before a memory check does, they are saved, unless
 * the guest is about to overwrite them and the instruction that made them can be run again from what its operands
 * still hold: then nothing is saved, and recover.c runs it if a fault shows the flags.
 */
#include "jit/jit_priv.h"

#include "cpu/op/op.h"

bool flags_needed(const struct decode *d)
{
	return d->flags_read || (d->flags_write && (d->flags_keep || d->flags_write != FLAGS_ARITH));
}

bool flags_replaced(const struct decode *d)
{
	return d->flags_write == FLAGS_ARITH && !d->flags_read && !d->flags_keep;
}

/* Are the flags that instruction k leaves replaced by others before anything can look at them? */
static bool flags_unseen(const struct work *w, unsigned int k)
{
	while (++k < w->n) {
		const struct decode *d = &w->d[k];

		if (!insn_is_inline(d) || insn_has_site(d) || d->flags_read || insn_rows[d->rec.id].traits & T_RANDOM)
			return false;
		if (flags_replaced(d))
			return true;
	}
	return false;
}

bool flags_wanted(const struct work *w, unsigned int k)
{
	const struct decode *d = &w->d[k];

	return d->flags_read || (flags_needed(d) && !flags_unseen(w, k));
}

/* Can the instruction be run again, after undoing what it did to its destination? */
static bool repeatable(const struct decode *d)
{
	const struct insn *r = &d->rec;

	if (r->flags & INSN_MEM || (r->osz != 4 && r->osz != 8) || d->gpr_high)
		return false;
	switch (r->id) {
	case INSN_CMP:
	case INSN_TEST:
	case INSN_AND:
	case INSN_OR:
	case INSN_XOR:
	case INSN_SUB:
	case INSN_NEG:
		return true;
	case INSN_ADD:
		return d->imm_len || insn_reg(r) != insn_rm(r);
	default:
		return false;
	}
}

static struct recipe make_recipe(const struct work *w, int made)
{
	const struct decode *d = &w->d[made];
	struct recipe r = { .index = (u8)made };
	u16 others;

	if (!d->gpr_write)
		return r;
	r.dst = (u8)__builtin_ctz(d->gpr_write);
	others = d->gpr_read & (u16)~d->gpr_write;
	r.src = d->imm_len ? GPR_NONE : others ? (u8)__builtin_ctz(others) : r.dst;
	switch (d->rec.id) {
	case INSN_ADD:
		r.undo = UNDO_ADD;
		break;
	case INSN_SUB:
		r.undo = UNDO_SUB;
		break;
	case INSN_XOR:
		r.undo = UNDO_XOR;
		break;
	case INSN_NEG:
		r.undo = UNDO_NEG;
		break;
	default: /* AND and OR give the same again */
		break;
	}
	return r;
}

/* From instruction k on, does everything the recipe needs stay as it is until nobody can see the flags any more? */
static bool recipe_lives(const struct work *w, int candidate, unsigned int k)
{
	const struct decode *made = &w->d[candidate];
	u16 need = made->gpr_read | made->gpr_write;
	bool lost = false;

	for (; k < w->n; k++) {
		const struct decode *d = &w->d[k];

		if (!insn_is_inline(d) || flags_wanted(w, k))
			return false;
		if (lost && insn_has_site(d))
			return false;
		if (flags_replaced(d) || flags_needed(d))
			return true;
		lost |= d->gpr_write & need;
	}
	return false;
}

void flags_give_up(struct work *w)
{
	if (w->flags == FLAGS_BOTH)
		w->flags = FLAGS_SAVED;
	if (w->flags != FLAGS_HOST)
		return;
	if (w->candidate >= 0 && recipe_lives(w, w->candidate, w->k)) {
		w->flags = FLAGS_RECIPE;
		w->recipe = make_recipe(w, w->candidate);
		return;
	}
	put_save_flags(&w->e, R_T);
	w->flags = FLAGS_SAVED;
}

void flags_to_host(struct work *w, unsigned int tmp)
{
	if (w->flags != FLAGS_SAVED)
		return;
	put_restore_flags(&w->e, tmp);
	w->flags = FLAGS_BOTH;
}

void flags_to_saved(struct work *w)
{
	if (w->flags == FLAGS_HOST)
		put_save_flags(&w->e, R_T);
	w->flags = FLAGS_SAVED;
}

/* Whose flags could be had by repeating it, behind instruction k. */
static int next_candidate(const struct work *w, int candidate, unsigned int k)
{
	const struct decode *d = &w->d[k], *made;

	if (d->flags_write)
		return repeatable(d) && flags_replaced(d) ? (int)k : -1;
	if (candidate < 0)
		return -1;
	made = &w->d[candidate];
	return d->gpr_write & (made->gpr_read | made->gpr_write) ? -1 : candidate;
}

void flags_after(struct work *w)
{
	if (work_decode(w)->flags_write)
		w->flags = FLAGS_HOST;
	w->candidate = next_candidate(w, w->candidate, w->k);
}

/*
 * A conditional jump to the block's own begin, where something looks for memory before the flags are overwritten: what
 * made them can be run again from there as well, and need not be saved in each pass.
 */
void flags_find_loop(struct work *w)
{
	int candidate = -1;

	w->looped = NO_LOOP;
	for (unsigned int k = 0; k < w->n; k++) {
		const struct insn *r = &w->t->rec[k];

		if (r->op == op_jcc) {
			if (candidate < 0 || insn_target(r) != w->t->rec[0].off || !recipe_lives(w, candidate, 0))
				continue;
			w->looped = (u8)k;
			w->loop_recipe = make_recipe(w, candidate);
			return;
		}
		candidate = insn_is_inline(&w->d[k]) ? next_candidate(w, candidate, k) : -1;
	}
}
