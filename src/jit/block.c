/* SPDX-License-Identifier: MIT */
/*
 * A block from a trace.
 *
 * It has two entries, one for each place where the flags can be. What the first instruction that cares wants
 * decides which of them is longer by the few instructions that move the flags.
 */
#include "jit/jit_priv.h"

#include <string.h>
#include <sys/mman.h>

#include "base/base.h"
#include "cpu/op/op.h"

u32 work_site(struct work *w, unsigned int size, unsigned int acc)
{
	struct jit *j = w->j;
	struct site *s;

	if (w->site == NO_SITE) {
		w->site = j->nsites++;
		s = &j->site[w->site];
		s->host = s->done = j->used + w->e.n;
		s->rec = (u32)(((const u8 *)work_rec(w) - w->v->rc->arena) / 8);
		s->flags = w->flags;
		s->recipe = w->recipe;
		s->size = s->acc = 0;
		s->ready = 0;
		s->lo = 0;
		s->leads = s->plain_next = s->pair = false;
		s->slotted = SLOT_NONE;
		s->suspect = 0;
		s->in_group = work_in_group(w);
	}
	s = &j->site[w->site];
	if (size) {
		s->size = (u16)size;
		s->acc = (u8)acc;
	}
	return w->site;
}

struct cold *work_cold(struct work *w, enum cold_kind kind, u32 site)
{
	struct cold *c = &w->cold[w->ncold < COLDS - 1 ? w->ncold++ : COLDS - 1];

	*c = (struct cold){ .kind = (u8)kind, .site = site, .back = NO_WAY_BACK, .slot = NO_SLOT };
	return c;
}

void cold_from(struct cold *c, unsigned int jump)
{
	c->jump[c->njumps++] = jump;
}

/* I and T are the probe's. TEST EAX carries the site's number and does nothing else: the flags are free here. */
static void put_miss(struct work *w, const struct cold *c)
{
	unsigned int level = w->t->key & MODE_NONROOT ? 1 : 0;

	put_call(w, c->slot == NO_SLOT ? w->j->miss[level][work_view(w)][c->write] :
					 w->j->slot_miss[work_view(w)][c->write]);
	emit1(&w->e, 0xa9);
	emit4(&w->e, c->site | (u32)(c->slot == NO_SLOT ? 0 : c->slot) << SITE_BITS);
	emit_jmp_back(&w->e, c->back);
}

static void put_cold(struct work *w)
{
	struct jit *j = w->j;
	const u8 *const to[] = { [COLD_SLOW] = j->slow, [COLD_OP] = j->op, [COLD_FP] = j->fp,
				 [COLD_STOP] = j->stop, [COLD_POLL] = j->stop };

	for (unsigned int n = 0; n < w->ncold; n++) {
		struct cold *c = &w->cold[n];

		c->at = w->e.n;
		for (unsigned int k = 0; k < c->njumps; k++)
			emit_land(&w->e, c->jump[k]);
		if (c->kind == COLD_MISS) {
			put_miss(w, c);
			continue;
		}
		if (c->kind == COLD_STOP)
			put_mov(&w->e, GPR_RCX, R_T);
		if (c->save_flags)
			put_save_flags(&w->e, R_T);
		emit_mov_imm(&w->e, R_I, c->site);
		put_call(w, to[c->kind]);
		if (c->back != NO_WAY_BACK)
			emit_jmp_back(&w->e, c->back);
	}
}

/* T = where it goes, less the page's address: shared code does the rest. Other pages are never linked to. */
static void put_cold_exits(struct work *w)
{
	for (unsigned int n = 0; n < w->nexits; n++) {
		struct exit *x = &w->exit[n];
		u32 off = x->cold;

		emit_land(&w->e, x->at);
		emit1(&w->e, 0x49); /* mov r11, sign-extended */
		emit1(&w->e, 0xc7);
		emit1(&w->e, 0xc0 | (R_T & 7));
		emit4(&w->e, off);
		x->cold = w->j->used + w->e.n - 7;
		x->at += w->j->used;
		put_jump(w, x->flags == FLAGS_HOST ? w->j->exit_host : w->j->exit_saved);
	}
}

/* ---- entries --------------------------------------------------------------------------------------------- */

enum first_use { USE_SAVED, USE_HOST, USE_NONE };

static enum first_use first_use(const struct work *w)
{
	for (unsigned int k = 0; k < w->n; k++) {
		const struct decode *d = &w->d[k];
		const struct insn *r = &w->t->rec[k];

		if (d->note & NOTE_NOP)
			continue;
		if (!r->op && insn_is_inline(d)) {
			bool mem = (r->flags & INSN_MEM) && !(d->note & NOTE_LEA);

			if (flags_wanted(w, k))
				return mem || d->vector ? USE_SAVED : USE_HOST;
			if (insn_has_site(d))
				return USE_SAVED;
			if (flags_replaced(d) || flags_needed(d))
				return USE_NONE;
			continue;
		}
		return r->op == op_jcc ? USE_HOST : USE_SAVED;
	}
	return USE_SAVED;
}

static void put_entries(struct work *w, struct block *b)
{
	u32 start = w->j->used;
	enum first_use use = first_use(w);

	b->likes_host = use == USE_HOST;
	b->saved = b->host = start;
	w->flags = use == USE_SAVED ? FLAGS_SAVED : use == USE_HOST ? FLAGS_HOST : FLAGS_EITHER;
	if (use == USE_SAVED) {
		put_save_flags(&w->e, R_T);
		b->saved = start + w->e.n;
		if (w->looped != NO_LOOP) {
			w->flags = FLAGS_LOOP;
			w->recipe = w->loop_recipe;
		}
	} else {
		w->looped = NO_LOOP;
	}
	if (use == USE_HOST) {
		put_restore_flags(&w->e, R_T);
		b->host = start + w->e.n;
	}
}

/* ---- making a block ------------------------------------------------------------------------------------------ */

static bool decode_trace(struct work *w)
{
	const u16 *memo = trace_memo(w->t);
	unsigned int pos = 0;

	memo_prefetch(w->v, memo, w->n);
	for (w->k = 0; w->k < w->n; w->k++) {
		const struct insn *r = work_rec(w);
		const u8 *src = trace_src(w->t) + pos;
		struct decode *d = &w->d[w->k];
		u16 at = memo_decode(w->v, memo[w->k], src, r, d);

		if (at == MEMO_NONE) {
			cpu_fp_spill(w->v); /* Zydis uses vector registers */
			if (insn_decode(w->v, src, r->len, 8, d))
				return false;
		}
		if (d->len != r->len)
			return false;
		if (insn_classify(d, r) && at != MEMO_NONE && r->op == d->rec.op)
			memo_note(w->v, at, d->note);
		pos += r->len;
	}
	return true;
}

/* Handlers that end a trace may go on behind it all the same. */
static bool falls_through(const struct insn *last)
{
	return last->op != op_jmp_rel && last->op != op_jmp_rm && last->op != op_call_rel &&
	       last->op != op_call_rm && last->op != op_ret;
}

static bool make_block(struct work *w, struct block *b)
{
	const struct insn *last = &w->t->rec[w->n - 1];
	unsigned int n;

	put_entries(w, b);
	for (w->k = 0; w->k < w->n; w->k++)
		put_insn(w);
	if (falls_through(last)) {
		if (w->flags == FLAGS_EITHER || w->flags == FLAGS_RECIPE)
			return false;
		n = w->nexits;
		put_exit(w, -1, (u32)(last->off + last->len));
		if (insn_rows[last->id].traits & T_END && w->nexits > n) /* the mode may be another one now */
			w->exit[n].off = PAGE_SIZE;
	}
	b->loop = w->j->used + w->loop_at;
	w->hot_end = w->e.n;
	put_cold(w);
	put_cold_exits(w);
	return !emit_full(&w->e) && w->ncold < COLDS - 1;
}

static bool has_room(const struct jit *j)
{
	return j->used + BLOCK_ROOM <= j->limit && j->nsites + RCACHE_TRACE_MAX * 2 <= SITES &&
	       j->nexits + BLOCK_EXITS <= EXITS && j->nblocks + 1 < BLOCKS;
}

static void keep_block(struct work *w, struct block *b)
{
	struct jit *j = w->j;

	b->t = w->t;
	b->in = 0;
	b->crossed = 0;
	b->crossed_at = b->crossed_page = 0;
	b->exit0 = w->exit0;
	b->nexits = (u16)w->nexits;
	memcpy(&j->exit[w->exit0], w->exit, w->nexits * sizeof(w->exit[0]));
	j->nexits += w->nexits;
	j->used = (j->used + w->e.n + 15) & ~15u;
	w->t->block = ++j->nblocks;
	j->stats.blocks++;
	j->stats.insns += w->n;
	j->stats.guest_bytes += w->t->nbytes;
	j->stats.host_bytes += w->e.n;
	b->inline_mask = 0;
	for (unsigned int k = 0; j->lockstep && k < w->n; k++)
		if (insn_is_repeated(w, &w->t->rec[k]) || has_template(&w->d[k]) ||
		    w->d[k].note & NOTE_NOP)
			b->inline_mask |= 1u << k;
	if (j->lockstep)
		rcache_set_code(w->v, w->t, native_step_end(w->v), j->x.rx + b->saved);
	else
		rcache_set_code(w->v, w->t, j->enter, j->x.rx + b->saved);
	link_block(w->v, j->nblocks);
}

static void find_loops(struct work *w)
{
	unsigned int begin = w->t->rec[0].off;

	w->loop = w->polled = false;
	w->last_back = -1;
	for (unsigned int k = 0; k < w->n; k++) {
		const struct insn *r = &w->t->rec[k];
		u32 to = insn_target(r);

		if ((r->op != op_jcc && r->op != op_jmp_rel && r->op != op_call_rel) || to > r->off)
			continue;
		w->last_back = (int)k;
		w->loop |= to >= begin && r->op != op_call_rel;
	}
	flags_find_loop(w);
}

/* Block numbers start at 1. */
static void translate(struct vcpu *v, struct trace *t)
{
	struct jit *j = v->jit;
	struct work *w = &j->work;
	struct block *b;

	if (!has_room(j))
		v->tr->flush(v);
	w->v = v;
	w->j = j;
	w->t = t;
	w->n = j->force & FORCE_SINGLE && t->n ? 1 : t->n;
	w->e = (struct emit){ .max = BLOCK_ROOM, .buf = j->x.rw + j->used };
	w->candidate = -1;
	w->group_in_t = NO_GROUP;
	w->fp_ok = 0;
	w->ncold = w->nexits = 0;
	w->site0 = j->nsites;
	w->exit0 = j->nexits;
	b = &j->block[j->nblocks + 1];
	if (!t->n || !decode_trace(w))
		return;
	group_accesses(w);
	find_loops(w);
	w->nslots[0] = w->nslots[1] = 0;
	if (make_block(w, b) && (!j->verify || verify_block(w, b)))
		keep_block(w, b);
	else
		j->nsites = w->site0;
}

static void run_queue(struct vcpu *v)
{
	struct jit *j = v->jit;
	unsigned int n = j->nqueue;

	j->nqueue = 0;
	for (unsigned int k = 0; k < n; k++) {
		struct trace *t = j->queue[k];

		if (!t->queued || t->dead)
			continue;
		t->queued = false;
		t->rec[0].fn = t->first;
		translate(v, t);
	}
}

/* Pages that will be written are had many at a time: a fault for each costs as much as translating a block. */
static void ahead(void *base, size_t used, size_t size, u32 *ready)
{
	if (used + AHEAD / 8 <= *ready || *ready + AHEAD > size)
		return;
	madvise((u8 *)base + *ready, AHEAD, MADV_POPULATE_WRITE);
	*ready += AHEAD;
}

/*
 * A warm trace waits until there are some, or until it has become warm once more: the translator is long out of the
 * host's caches when it is wanted.
 */
void jit_translate(struct vcpu *v, struct trace *t)
{
	struct jit *j = v->jit;
	u64 start = base_rdtsc(), blocks = j->stats.blocks, insns = j->stats.insns;

	if (!t->queued) {
		t->queued = true;
		t->heat = v->heat;
		t->rec[0].fn = native_warm_entry(v);
		j->queue[j->nqueue++] = t;
		if (j->nqueue < QUEUE)
			return;
	}
	ahead(j->x.rw, j->used, CODE_SIZE, &j->ready_code);
	ahead(j->site, j->nsites * sizeof(j->site[0]), sizeof(j->site), &j->ready_sites);
	ahead(j->exit, j->nexits * sizeof(j->exit[0]), sizeof(j->exit), &j->ready_exits);
	run_queue(v);
	cost_add(&j->stats.cost, start, j->stats.blocks - blocks, j->stats.insns - insns);
}
