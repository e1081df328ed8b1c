/* SPDX-License-Identifier: MIT */
/*
 * Near branches and the stack, as in cpu/native_branch.c: the common case inline, the rest to the handler before
 * anything has changed.
 */
#include "jit/jit_priv.h"

#include "cpu/op/op.h"

/* ---- leaving a block --------------------------------------------------------------------------------- */

void put_exit(struct work *w, int cc, u32 off)
{
	struct exit *x = &w->exit[w->nexits++];

	if (cc < 0)
		emit_jmp(&w->e);
	else
		emit_jcc(&w->e, (enum emit_cc)cc);
	*x = (struct exit){ .at = w->e.n, .off = (u16)(off < PAGE_SIZE ? off : PAGE_SIZE), .flags = w->flags };
	x->cold = off; /* until put_cold_exits() */
}

/* Backward jumps look at the request word, without touching flags that are in the host's. */
static void put_poll(struct work *w)
{
	struct mem_ref request = ref_gs(OFF(request));
	struct cold *c = work_cold(w, w->flags == FLAGS_SAVED ? COLD_POLL : COLD_STOP, work_site(w, 0, 0));

	if (w->flags == FLAGS_SAVED) {
		emit_ref(&w->e, false, 0x83, 7, &request);
		emit1(&w->e, 0);
		cold_from(c, emit_jcc(&w->e, CC_NE));
		w->polled = true;
		return;
	}
	c->save_flags = w->flags == FLAGS_HOST;
	w->polled = true;
	w->group_in_t = NO_GROUP;
	put_mov(&w->e, R_T, GPR_RCX);
	emit_ref(&w->e, false, 0x8b, GPR_RCX, &request);
	emit1(&w->e, 0xe3); /* jrcxz: over the jump */
	emit1(&w->e, 5);
	cold_from(c, emit_jmp(&w->e));
	put_mov(&w->e, GPR_RCX, R_T);
}

/* One look is enough: a block is run through once. */
void put_early_poll(struct work *w)
{
	struct mem_ref request = ref_gs(OFF(request));

	if (w->polled || (int)w->k > w->last_back || (w->flags != FLAGS_SAVED && w->flags != FLAGS_RECIPE &&
						      w->flags != FLAGS_LOOP))
		return;
	emit_ref(&w->e, false, 0x83, 7, &request);
	emit1(&w->e, 0);
	cold_from(work_cold(w, COLD_POLL, w->site), emit_jcc(&w->e, CC_NE));
	w->polled = true;
}

static void poll_backward(struct work *w)
{
	const struct insn *r = work_rec(w);

	if (insn_target(r) <= r->off && !w->polled)
		put_poll(w);
}

/* The flags are made by the loop's recipe if something looks before the next pass makes others. */
static void mark_flags(struct work *w)
{
	struct mem_ref m = ref_gs(OFF(aflags) + 1);

	emit_ref(&w->e, false, 0xc6, 0, &m);
	emit1(&w->e, AFLAGS_LOOP >> 8);
}

static void put_direct(struct work *w, int cc)
{
	bool loop = w->looped == w->k && w->flags == FLAGS_HOST && w->candidate == (int)w->loop_recipe.index &&
		    !(w->loop_fp & ~w->fp_ok);

	poll_backward(w);
	if (loop)
		mark_flags(w);
	put_exit(w, cc, insn_target(work_rec(w)));
	w->exit[w->nexits - 1].loop = loop;
}

static void put_jcc(struct work *w)
{
	flags_to_host(w, R_T);
	put_direct(w, (int)insn_rm(work_rec(w)));
}

static void put_jmp_rel(struct work *w)
{
	put_direct(w, -1);
}

/* ---- stack --------------------------------------------------------------------------------------------- */

static struct mem_ref below_sp(struct work *w) { (void)w; return ref_base(R_SP, -8); }
static struct mem_ref at_sp(struct work *w) { (void)w; return ref_base(R_SP, 0); }
static struct mem_ref at_bp(struct work *w) { (void)w; return ref_base(GPR_RBP, 0); }

/* Eight bytes of the stack; if it takes C, the handler does the whole instruction. */
static struct mem_ref put_stack(struct work *w, struct mem_ref (*address)(struct work *w), bool write)
{
	if (!operand_is_checked(w))
		flags_give_up(w);
	work_site(w, 0, 0);
	w->j->site[w->site].flags = w->flags;
	w->j->site[w->site].recipe = w->recipe;
	put_early_poll(w);
	return put_operand(w, address, 8, write);
}

static void put_done(struct work *w)
{
	w->j->site[w->site].done = w->j->used + w->e.n;
	flags_after(w);
}

static void move_sp(struct work *w, s32 by)
{
	struct mem_ref m = ref_base(R_SP, by);

	put_lea(&w->e, R_SP, &m);
}

static void put_push(struct work *w)
{
	const struct insn *r = work_rec(w);
	struct mem_ref top = put_stack(w, below_sp, true);
	unsigned int host = R_I;

	if (r->op == op_push_imm) {
		emit_ref(&w->e, true, 0xc7, 0, &top);
		emit4(&w->e, (u32)r->imm);
	} else {
		if (jit_host[insn_rm(r)] == IN_MEMORY)
			put_load(&w->e, R_I, OFF_GPR(insn_rm(r)));
		else
			host = jit_host[insn_rm(r)];
		emit_ref(&w->e, true, 0x89, host, &top);
	}
	move_sp(w, -8);
	put_done(w);
}

static void put_pop(struct work *w)
{
	const struct insn *r = work_rec(w);
	struct mem_ref top = put_stack(w, at_sp, false);
	unsigned int host = jit_host[insn_rm(r)];

	emit_ref(&w->e, true, 0x8b, host == IN_MEMORY ? R_I : host, &top);
	if (host == IN_MEMORY)
		put_store(&w->e, R_I, OFF_GPR(insn_rm(r)));
	if (host != R_SP)
		move_sp(w, 8);
	put_done(w);
}

static void put_leave(struct work *w)
{
	struct mem_ref top = put_stack(w, at_bp, false), above = ref_base(GPR_RBP, 8);

	emit_ref(&w->e, true, 0x8b, R_I, &top);
	put_lea(&w->e, R_SP, &above);
	put_mov(&w->e, GPR_RBP, R_I);
	put_done(w);
}

/* ---- calls and returns --------------------------------------------------------------------------------------- */

/* The address behind the instruction to *top; then RSP moves. */
static void put_return_address(struct work *w, const struct mem_ref *top)
{
	const struct insn *r = work_rec(w);
	struct mem_ref next = ref_base(R_I, r->off + r->len);

	put_load(&w->e, R_I, OFF(page_rip));
	put_lea(&w->e, R_I, &next);
	emit_ref(&w->e, true, 0x89, R_I, top);
	move_sp(w, -8);
}

static void put_call_rel(struct work *w)
{
	struct mem_ref top;

	if (operand_is_checked(w)) /* else the look comes with the check; later, the push would be done twice */
		poll_backward(w);
	top = put_stack(w, below_sp, true);
	put_return_address(w, &top);
	put_exit(w, -1, insn_target(work_rec(w)));
}

static void put_ret(struct work *w)
{
	struct mem_ref top;

	flags_to_saved(w); /* whoever comes next wants them there */
	top = put_stack(w, at_sp, false);
	emit_ref(&w->e, true, 0x8b, R_T, &top);
	put_indirect(w, 8 + (s32)work_rec(w)->imm, false);
}

/* T = linear address of the operand of a record with a handler */
void put_linear(struct work *w)
{
	const struct insn *r = work_rec(w);
	struct mem_ref m = put_address(w), base;

	put_lea(&w->e, R_T, &m);
	if (insn_seg(r) < SEG_FS)
		return;
	base = ref_gs(insn_seg(r) == SEG_FS ? OFF(fs_base_copy) : OFF(gs_base_copy));
	emit_ref(&w->e, true, 0x03, R_T, &base);
}

/* T = target of an indirect branch */
static void put_target(struct work *w)
{
	const struct insn *r = work_rec(w);
	struct mem_ref at = ref_base(R_T, 0);

	flags_to_saved(w);
	work_site(w, 0, 0);
	if (r->flags & INSN_MEM) {
		put_linear(w);
		put_check(w, &at, 8, false);
		emit_ref(&w->e, true, 0x8b, R_T, &at);
	} else if (jit_host[insn_rm(r)] == IN_MEMORY) {
		put_load(&w->e, R_T, OFF_GPR(insn_rm(r)));
	} else {
		put_mov(&w->e, R_T, jit_host[insn_rm(r)]);
	}
}

static void put_jmp_rm(struct work *w)
{
	put_target(w);
	put_indirect(w, 0, false);
}

/* A target that is not canonical is the branch's fault: the handler's business. */
static void put_canonical(struct work *w)
{
	struct cold *c = work_cold(w, COLD_OP, w->site);

	put_mov(&w->e, R_I, R_T);
	put_shift(&w->e, true, SHIFT_LEFT, R_I, 16);
	put_shift(&w->e, true, SHIFT_ARITHMETIC, R_I, 16);
	emit_rr(&w->e, true, 0x3b, R_I, R_T);
	cold_from(c, emit_jcc(&w->e, CC_NE));
}

static void put_call_rm(struct work *w)
{
	struct mem_ref at = ref_base(R_SP, -8), top = ref_base(R_T, 0);

	put_target(w);
	put_canonical(w); /* before anything is pushed */
	put_store(&w->e, R_T, OFF(jit_tmp) + 16);
	put_check(w, &at, 8, true);
	put_return_address(w, &top);
	put_load(&w->e, R_T, OFF(jit_tmp) + 16);
	put_indirect(w, 0, true);
}

/* ---- choosing ------------------------------------------------------------------------------------------------- */

static void (*template_of(const struct insn *r))(struct work *)
{
	bool mem = r->flags & INSN_MEM;

	if (!r->op)
		return NULL;
	if (mem && (insn_asz(r) != 8 || !address_fits(r)))
		return NULL;
	if (r->op == op_jcc)
		return put_jcc;
	if (r->op == op_jmp_rel)
		return put_jmp_rel;
	if (r->op == op_call_rel)
		return put_call_rel;
	if (r->op == op_ret)
		return put_ret;
	if (r->op == op_jmp_rm && r->osz == 8)
		return put_jmp_rm;
	if (r->op == op_call_rm && r->osz == 8)
		return put_call_rm;
	if ((r->op == op_push || r->op == op_push_imm) && !mem && r->osz == 8)
		return put_push;
	if (r->op == op_push && r->osz == 8)
		return put_push_mem;
	if (r->op == op_pushf && r->osz == 8)
		return put_pushfq;
	if (r->op == op_pop && !mem && r->osz == 8)
		return put_pop;
	if (r->op == op_cli)
		return put_cli;
	if (r->op == op_swapgs)
		return put_swapgs;
	if (r->op == op_leave && r->osz == 8)
		return put_leave;
	return NULL;
}

static void (*const templates[])(struct work *) = {
	put_jcc, put_jmp_rel, put_call_rel, put_ret, put_jmp_rm, put_call_rm, put_push, put_pop, put_leave,
	put_push_mem, put_pushfq, put_cli, put_swapgs,
};
_Static_assert(ARRAY_SIZE(templates) <= 1 << (16 - NOTE_NUMBER), "they are numbered in a note");

u16 template_note(const struct insn *r)
{
	void (*put)(struct work *) = template_of(r);
	unsigned int note = NOTE_TEMPLATE, k = 0;

	if (!put)
		return 0;
	if (put == put_push || put == put_pop || put == put_leave)
		note |= NOTE_STACK | NOTE_INLINE;
	if (put == put_cli || put == put_swapgs || put == put_pushfq || put == put_push_mem)
		note |= NOTE_SYS;
	while (templates[k] != put)
		k++;
	return (u16)(note | k << NOTE_NUMBER);
}

void put_template(struct work *w)
{
	if (!is_stack_template(work_decode(w)))
		w->group_in_t = NO_GROUP;
	templates[work_decode(w)->note >> NOTE_NUMBER](w);
}
