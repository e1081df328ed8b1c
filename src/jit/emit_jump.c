/* SPDX-License-Identifier: MIT */
/*
 * Returns and indirect jumps: the jump cache is searched where the guest jumps, so that the host foresees each of them
 * by itself. What is not in its first place is for the code that all blocks share; so are direct jumps to other pages,
 * which are many, and of which the host's own history says enough.
 */
#include "jit/jit_priv.h"

void put_jcache_index(struct emit *e)
{
	emit1(e, 0xc4); /* rorx I, T, 9 */
	emit1(e, 0x43);
	emit1(e, 0xfb);
	emit1(e, 0xf0);
	emit1(e, 0xc0 | (R_I & 7) << 3 | (R_T & 7));
	emit1(e, JCACHE_SHIFT);
	emit_rr(e, false, 0x33, R_I, R_T);
	emit_alu_imm(e, false, 4, R_I, JCACHE_MASK);
}
_Static_assert(R_I == GPR_R15 && R_T == GPR_R11, "rorx is spelled out");

struct mem_ref ref_jcache(size_t field)
{
	return (struct mem_ref){ .base = REF_NONE, .index = R_I, .scale = 3, .gs = true, .disp = OFF(jc) + (s32)field };
}

/* Near forward jumps: the position to give to land(). */
static unsigned int jump_near(struct emit *e, enum emit_cc cc)
{
	emit1(e, 0x70 | cc);
	emit1(e, 0);
	return e->n;
}

static void land(struct emit *e, unsigned int pos)
{
	if (e->n - pos > 127)
		e->n = e->max; /* no block, rather than a wrong one */
	if (!emit_full(e))
		e->buf[pos - 1] = (u8)(e->n - pos);
}

/* page_rip: as in the shared code, from the target itself, and nothing is stored inside a page. */
static void put_page(struct emit *e)
{
	struct mem_ref page = ref_gs(OFF(page_rip));
	unsigned int same;

	emit_alu_imm(e, true, 4, R_T, -(s32)PAGE_SIZE);
	emit_ref(e, true, 0x3b, R_T, &page);
	same = jump_near(e, CC_E);
	put_store(e, R_T, OFF(page_rip));
	land(e, same);
}

static void put_sp(struct emit *e, s32 by)
{
	struct mem_ref m = ref_base(R_SP, by);

	if (by)
		put_lea(e, R_SP, &m);
}

/*
 * T = target, the flags are saved. @sp: what RSP moves by on the way;
 * @canonical: it is known to be, as all in the cache are; else the site's handler has the others
 */
static void put_lookup(struct work *w, s32 sp, bool canonical)
{
	struct mem_ref request = ref_gs(OFF(request)), m = ref_jcache(offsetof(struct jentry, lin));
	struct emit *e = &w->e;
	unsigned int out[2], nout = 0, old;

	if (!w->polled) {
		emit_ref(e, false, 0x83, 7, &request);
		emit1(e, 0);
		out[nout++] = jump_near(e, CC_NE);
	}
	put_jcache_index(e);
	emit_ref(e, true, 0x3b, R_T, &m);
	out[nout++] = jump_near(e, CC_NE);
	put_sp(e, sp);
	put_page(e);
	put_load(e, R_T, OFF(mode_key));
	m = ref_jcache(offsetof(struct jentry, mode_key));
	emit_ref(e, true, 0x3b, R_T, &m);
	old = jump_near(e, CC_NE);
	m = ref_jcache(offsetof(struct jentry, code));
	emit_ref(e, false, 0xff, 4, &m);
	land(e, old);
	put_jump(w, w->j->old);
	while (nout)
		land(e, out[--nout]);
	if (!canonical) {
		emit_mov_imm(e, R_I, w->site);
		put_call(w, w->j->canonical);
	}
	put_sp(e, sp);
	put_jump(w, w->j->jump);
}

void put_indirect(struct work *w, s32 sp, bool canonical)
{
	if (!w->j->lockstep) {
		put_lookup(w, sp, canonical);
		return;
	}
	if (!canonical) {
		emit_mov_imm(&w->e, R_I, w->site);
		put_call(w, w->j->canonical);
	}
	put_sp(&w->e, sp);
	put_jump(w, w->j->jump);
}
