/* SPDX-License-Identifier: MIT */
/*
 * Instructions of a block: copied with other registers, or handed to C.
 */
#include "jit/jit_priv.h"

#include <string.h>

#include "cpu/op/op.h"

/* Guest registers in memory that the instruction names, each one once. */
static unsigned int spilled(const struct decode *d, u8 reg[3])
{
	const struct insn *r = &d->rec;
	u8 named[3];
	unsigned int n = 0, found = 0;

	if (likely(!((d->gpr_read | d->gpr_write) & (BIT(GPR_R11) | BIT(GPR_R14) | BIT(GPR_R15)))))
		return 0;
	if (d->gpr_fields & FIELD_REG)
		named[n++] = (u8)insn_reg(r);
	if (d->gpr_fields & (FIELD_RM | FIELD_OPCODE))
		named[n++] = (u8)insn_rm(r);
	if (d->gpr_fields & FIELD_VVVV)
		named[n++] = d->vvvv;
	for (unsigned int k = 0; k < n; k++) {
		bool seen = jit_host[named[k]] != IN_MEMORY;

		for (unsigned int i = 0; i < found; i++)
			seen |= reg[i] == named[k];
		if (!seen)
			reg[found++] = named[k];
	}
	return found;
}

/* AH to BH exist only without REX. */
static bool high_fits(const struct decode *d)
{
	const struct insn *r = &d->rec;

	if (!d->gpr_high)
		return true;
	if (r->flags & INSN_MEM)
		return false;
	return (!(d->gpr_fields & FIELD_REG) || jit_host[insn_reg(r)] < 8) &&
	       (!(d->gpr_fields & (FIELD_RM | FIELD_OPCODE)) || jit_host[insn_rm(r)] < 8);
}

static bool copyable(const struct decode *d, const struct insn *r, bool lea)
{
	bool mem = r->flags & INSN_MEM;
	u8 reg[3];

	if (r->op || r->base == GPR_MOFFS || d->vsib || !high_fits(d))
		return false;
	if (mem && (!address_fits(r) || (!lea && (!d->mem_size || d->mem_size > 64))))
		return false;
	if (lea)
		return !d->size66;
	return spilled(d, reg) <= (mem ? 1u : 2u);
}

static bool has_site(const struct decode *d, const struct insn *r, bool lea)
{
	return d->vector || r->id == INSN_DIV || r->id == INSN_IDIV || ((r->flags & INSN_MEM) && !lea);
}

static u16 classify(const struct decode *d, const struct insn *r)
{
	bool lea = insn_rows[r->id].traits & T_LEA;
	u16 note = (u16)(NOTE_MADE | template_note(r) | (lea ? NOTE_LEA : 0));

	if (insn_rows[r->id].traits & T_NOP)
		return note | NOTE_NOP | NOTE_INLINE;
	if (!copyable(d, r, lea))
		return note | NOTE_SITE;
	return (u16)(note | NOTE_COPIED | NOTE_INLINE | (has_site(d, r, lea) ? NOTE_SITE : 0));
}

bool insn_classify(struct decode *d, const struct insn *r)
{
	bool always = r->base != GPR_RIP; /* whose displacement may be too large */

	if (d->note && always)
		return false;
	d->note = classify(d, r);
	return always;
}

bool insn_is_repeated(const struct work *w, const struct insn *r)
{
	return !w->j->lockstep || (!r->op && !(insn_rows[r->id].traits & T_RANDOM));
}

static bool plain_next(const struct work *w)
{
	return work_rec(w)->op == op_sti && w->k + 1 < w->n && !insn_has_site(&w->d[w->k + 1]);
}

void put_callout(struct work *w)
{
	flags_to_saved(w);
	emit_mov_imm(&w->e, R_I, work_site(w, 0, 0));
	put_call(w, insn_is_repeated(w, work_rec(w)) ? w->j->op : w->j->stop);
	w->j->site[w->site].plain_next = plain_next(w);
	w->j->site[w->site].done = w->j->used + w->e.n;
	w->candidate = -1;
	w->fp_ok = 0; /* C may have put vector state away */
}

static void put_lea_insn(struct work *w)
{
	const struct insn *r = work_rec(w);
	unsigned int host = jit_host[insn_reg(r)];
	unsigned int dst = host == IN_MEMORY ? R_T : host;
	struct mem_ref m = put_address(w);

	/* A 32-bit address is cut whatever the destination's size is. */
	emit_ref(&w->e, insn_asz(r) == 8 && (r->flags & INSN_REXW), 0x8d, dst, &m);
	if (host == IN_MEMORY)
		put_store(&w->e, R_T, OFF_GPR(insn_reg(r)));
	flags_after(w);
}

static void put_mem(struct work *w, struct rename *rn)
{
	const struct decode *d = work_decode(w);
	u32 acc = (d->mem_acc & MEM_R ? ACC_R : 0) | (d->mem_acc & MEM_W ? ACC_W : 0) |
		  (native_is_locked(d) ? ACC_LOCK : 0);

	if (!operand_is_checked(w))
		flags_give_up(w);
	work_site(w, d->mem_size, acc);
	w->j->site[w->site].flags = w->flags;
	w->j->site[w->site].recipe = w->recipe;
	put_early_poll(w);
	if (native_waits_x87(d)) /* it can fault: not before there is a site */
		emit1(&w->e, 0x9b);
	rn->mem = put_operand(w, put_address, d->mem_size, d->mem_acc & MEM_W);
}

/* The way of a loop leads here. */
static void loop_begins(struct work *w)
{
	w->loop_at = w->e.n;
	w->loop_fp = w->fp_ok;
}

/* Short loops run up to a tenth faster from the begin of a line of the host's cache. */
#define LOOP_ALIGN 64u

static void align_loop(struct work *w)
{
	static const u8 nop[] = { 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0 };
	unsigned int left = -(w->j->used + w->e.n) & (LOOP_ALIGN - 1);

	for (; left >= sizeof(nop); left -= (unsigned int)sizeof(nop))
		for (unsigned int k = 0; k < sizeof(nop); k++)
			emit1(&w->e, nop[k]);
	while (left--)
		emit1(&w->e, 0x90);
	loop_begins(w);
}

static void put_copy(struct work *w)
{
	const struct decode *d = work_decode(w);
	bool mem = work_rec(w)->flags & INSN_MEM;
	u8 scratch[2] = { mem ? R_I : R_T, R_I };
	bool wanted = flags_wanted(w, w->k);
	struct rename rn;
	u8 reg[3];
	unsigned int n = spilled(d, reg);

	memcpy(rn.host, jit_host, sizeof(rn.host));
	if (d->vector)
		put_fp_check(w);
	if (!w->k && w->looped != NO_LOOP)
		align_loop(w);
	w->i_free = !n && !wanted;
	if (mem)
		put_mem(w, &rn);
	else if (insn_has_site(d))
		work_site(w, 0, 0);
	if (!mem && (n || (wanted && w->flags == FLAGS_SAVED)))
		w->group_in_t = NO_GROUP;
	if (wanted)
		flags_to_host(w, mem ? R_I : R_T);
	for (unsigned int k = 0; k < n; k++) {
		rn.host[reg[k]] = scratch[k];
		if (!(d->gpr_full & 1u << reg[k]))
			put_load(&w->e, scratch[k], OFF_GPR(reg[k]));
	}
	w->copied[w->k] = w->e.n;
	rename_emit(&w->e, d, &rn);
	for (unsigned int k = 0; k < n; k++)
		if (d->gpr_write & 1u << reg[k])
			put_store(&w->e, scratch[k], OFF_GPR(reg[k]));
	if (w->site != NO_SITE)
		w->j->site[w->site].done = w->j->used + w->e.n;
	flags_after(w);
}

void put_insn(struct work *w)
{
	const struct insn *r = work_rec(w);
	const struct decode *d = work_decode(w);
	bool copy = d->note & NOTE_COPIED, lea = d->note & NOTE_LEA;

	w->site = NO_SITE;
	w->start[w->k] = w->e.n;
	w->copied[w->k] = NOT_COPIED;
	if (!w->k)
		loop_begins(w);
	if (d->note & NOTE_NOP)
		return;
	if (has_template(d)) {
		put_template(w);
		return;
	}
	if (!copy || lea)
		w->group_in_t = NO_GROUP;
	if (!copy || (w->j->lockstep && insn_rows[r->id].traits & T_RANDOM))
		put_callout(w);
	else if (lea)
		put_lea_insn(w);
	else
		put_copy(w);
}
