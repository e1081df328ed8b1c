/* SPDX-License-Identifier: MIT */
/*
 * Accesses of a block whose addresses differ by constants share one check.
 *
 * The first of them checks the whole range; if it lies in one page, the others find the host address in
 * vcpu.jit_host[] and check nothing. Otherwise, and whenever an access on the way takes C for more than a look at the
 * TLB, the rest of the trace is the interpreter's: what was checked is good only while nobody else can have changed the
 * translation or withdrawn write permission. A block whose range keeps crossing pages is made again without groups.
 */
#include "jit/jit_priv.h"

#include "cpu/op/op.h"

#define SPAN_MAX 512
#define DISP_MAX 0x10000000 /* and as much by additions: differences of two sums are 32-bit numbers */
#define KEY_RIP 16
#define KEY_NONE 17
#define KEYS 18

/**
 * struct value - what is known of a register: an unknown number and a distance from it
 */
struct value {
	u16 id;
	s32 off;
};

struct known {
	struct value reg[KEYS];
	u16 next;
	u8 first;	/* groups below this are closed */
};

/* Another unknown. */
static void forget(struct known *kn, unsigned int reg)
{
	kn->reg[reg] = (struct value){ .id = kn->next++ };
}

static void forget_all(struct known *kn)
{
	for (unsigned int reg = 0; reg < KEYS; reg++)
		forget(kn, reg);
}

/* ---- what an instruction accesses ------------------------------------------------------------------------ */

static bool stack_access(const struct insn *r, const struct decode *d, struct operand *a)
{
	*a = (struct operand){ .size = 8, .base = GPR_RSP };
	if (is_sys_template(d))
		return false;
	if (r->op == op_push || r->op == op_push_imm || r->op == op_call_rel) {
		a->disp = -8;
		a->write = true;
		return true;
	}
	if (r->op == op_leave)
		a->base = GPR_RBP;
	return r->op == op_pop || r->op == op_ret || r->op == op_leave;
}

bool insn_access(const struct insn *r, const struct decode *d, struct operand *a)
{
	if (has_template(d))
		return stack_access(r, d, a);
	if (!insn_is_inline(d) || !(r->flags & INSN_MEM) || d->note & (NOTE_LEA | NOTE_NOP) ||
	    r->index != GPR_NONE || insn_asz(r) != 8 || native_is_locked(d) || r->disp > DISP_MAX ||
	    r->disp < -DISP_MAX)
		return false;
	*a = (struct operand){ .size = (u8)d->mem_size, .write = d->mem_acc & MEM_W, .disp = r->disp,
			      .seg = (u8)(insn_seg(r) >= SEG_FS ? insn_seg(r) : 0) };
	a->base = r->base == GPR_RIP ? KEY_RIP : r->base == GPR_NONE ? KEY_NONE : r->base;
	if (r->base == GPR_RIP)
		a->disp += r->off + r->len;
	return true;
}

/* ---- what an instruction does to registers ------------------------------------------------------------------ */

static void add(struct known *kn, unsigned int reg, s64 by)
{
	s64 off = kn->reg[reg].off + by;

	if (off > 0x1000000 || off < -0x1000000)
		forget(kn, reg);
	else
		kn->reg[reg].off = (s32)off;
}

/* reg = base + disp, wholly */
static bool follow_lea(struct known *kn, const struct insn *r)
{
	if (r->index != GPR_NONE || r->base >= GPR_NONE || insn_asz(r) != 8 || r->osz != 8)
		return false;
	kn->reg[insn_reg(r)] = kn->reg[r->base];
	add(kn, insn_reg(r), r->disp);
	return true;
}

static bool follow_simple(struct known *kn, const struct insn *r, const struct decode *d)
{
	bool mem = r->flags & INSN_MEM;

	if (d->note & NOTE_LEA)
		return follow_lea(kn, r);
	if (mem || r->osz != 8)
		return false;
	if (r->id == INSN_MOV && !d->imm_len && (d->gpr_fields & FIELD_REG) && (d->gpr_fields & FIELD_RM)) {
		unsigned int dst = (unsigned int)__builtin_ctz(d->gpr_write);

		kn->reg[dst] = kn->reg[dst == insn_reg(r) ? insn_rm(r) : insn_reg(r)];
		return true;
	}
	if ((r->id != INSN_ADD && r->id != INSN_SUB) || !d->imm_len || !(d->gpr_fields & FIELD_RM))
		return false;
	add(kn, insn_rm(r), r->id == INSN_ADD ? r->imm : -r->imm);
	return true;
}

static void follow(struct known *kn, const struct insn *r, const struct decode *d)
{
	if (!has_template(d)) {
		if (!insn_is_inline(d)) {
			forget_all(kn);
			return;
		}
		if ((d->note & NOTE_NOP) || follow_simple(kn, r, d))
			return;
		for (u16 left = d->gpr_write; left; left &= (u16)(left - 1))
			forget(kn, (unsigned int)__builtin_ctz(left));
		return;
	}
	if (r->op == op_push || r->op == op_push_imm || r->op == op_pushf) {
		add(kn, GPR_RSP, -8);
	} else if (r->op == op_pop) {
		add(kn, GPR_RSP, 8);
		forget(kn, insn_rm(r));
	} else if (r->op == op_leave) {
		kn->reg[GPR_RSP] = kn->reg[GPR_RBP];
		add(kn, GPR_RSP, 8);
		forget(kn, GPR_RBP);
	}
}

/* ---- groups --------------------------------------------------------------------------------------------------- */

static bool join(struct work *w, unsigned int n, s32 from, s32 to, bool write)
{
	struct group *g = &w->group[n];
	s32 lo = from < g->lo ? from : g->lo, hi = to > g->hi ? to : g->hi;

	if (hi - lo > SPAN_MAX)
		return false;
	g->lo = lo;
	g->hi = hi;
	g->write |= write;
	g->last = (u8)w->k;
	return true;
}

static void place(struct work *w, const struct known *kn, const struct operand *a)
{
	const struct value *val = &kn->reg[a->base];
	s32 from = val->off + a->disp, to = from + a->size;
	unsigned int n;

	for (n = w->ngroups; n-- > kn->first;) {
		struct group *g = &w->group[n];

		if (g->id == val->id && g->seg == a->seg && join(w, n, from, to, a->write)) {
			w->plan[w->k] = (struct plan){ .group = (u8)n, .off = from };
			return;
		}
	}
	if (w->ngroups == GROUPS)
		return;
	n = w->ngroups++;
	w->group[n] = (struct group){ .id = val->id, .seg = a->seg, .first = (u8)w->k, .last = (u8)w->k, .lo = from,
				      .hi = to, .write = a->write };
	w->plan[w->k] = (struct plan){ .group = (u8)n, .off = from };
}

static void find_runs(struct work *w)
{
	for (unsigned int n = 0; n < w->ngroups; n++) {
		struct group *g = &w->group[n];

		g->run = true;
		for (unsigned int k = g->first; k <= g->last; k++)
			g->run &= w->plan[k].group == n && is_stack_template(&w->d[k]);
	}
}

void group_accesses(struct work *w)
{
	struct known kn = { .next = 1 };
	struct operand a;

	w->ngroups = 0;
	forget_all(&kn);
	for (w->k = 0; w->k < w->n; w->k++) {
		const struct insn *r = work_rec(w);
		const struct decode *d = work_decode(w);

		w->plan[w->k].group = NO_GROUP;
		if (is_sys_template(d) || (!has_template(d) && !insn_is_inline(d)))
			kn.first = w->ngroups;
		else if (!w->t->apart && !(w->j->force & (FORCE_SLOW | FORCE_CHECKS)) && insn_access(r, d, &a))
			place(w, &kn, &a);
		follow(&kn, r, d);
	}
	w->k = 0;
	find_runs(w);
}

const struct group *work_group(const struct work *w)
{
	u8 n = w->plan[w->k].group;

	return n == NO_GROUP || w->group[n].first == w->group[n].last ? NULL : &w->group[n];
}

/* Is there an access behind this instruction that an earlier one has checked, or this one checks? */
bool work_in_group(const struct work *w)
{
	for (unsigned int n = 0; n < w->ngroups; n++)
		if (w->group[n].first <= w->k && w->k < w->group[n].last)
			return true;
	return false;
}
