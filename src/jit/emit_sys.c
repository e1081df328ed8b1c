/* SPDX-License-Identifier: MIT */
/*
 * System instructions that every system call and exception meets, in the form that a kernel uses: 64-bit code at
 * CPL 0. Anything else is the handler's.
 */
#include "jit/jit_priv.h"

#include "cpu/op/op.h"

/* CPL 0, or the handler instead. */
static struct cold *put_cpl0(struct work *w)
{
	struct mem_ref cpl = ref_gs(OFF(cpl));
	struct cold *c;

	flags_give_up(w);
	work_site(w, 0, 0);
	w->j->site[w->site].flags = w->flags;
	w->j->site[w->site].recipe = w->recipe;
	c = work_cold(w, COLD_OP, w->site);
	emit_ref(&w->e, false, 0x80, 7, &cpl);
	emit1(&w->e, 0);
	cold_from(c, emit_jcc(&w->e, CC_NE));
	return c;
}

static void put_sys_done(struct work *w, struct cold *c)
{
	c->back = w->e.n;
	w->j->site[w->site].done = w->j->used + w->e.n;
	w->fp_ok = 0; /* the handler may have put vector state away */
	flags_after(w);
}

/* At CPL 0 no IOPL and no extension of virtual interrupts applies. */
void put_cli(struct work *w)
{
	struct mem_ref flags = ref_gs(OFF(rflags));
	struct cold *c = put_cpl0(w);

	emit_ref(&w->e, false, 0x81, 4, &flags);
	emit4(&w->e, ~(u32)FLAG_IF);
	put_sys_done(w, c);
}

void put_swapgs(struct work *w)
{
	const s32 other = OFF(msr_val[MSR_SLOT_KERNEL_GS_BASE]);
	struct cold *c = put_cpl0(w);

	put_load(&w->e, R_I, other);
	put_load(&w->e, R_T, OFF(gs_base_copy));
	put_store(&w->e, R_T, other);
	put_store(&w->e, R_I, OFF(gs_base_copy));
	put_store(&w->e, R_I, OFF(seg[SEG_GS].base));
	put_sys_done(w, c);
}

/* What is to be pushed is in jit_tmp[2]. */
static void put_push_tmp(struct work *w)
{
	struct mem_ref to = ref_base(R_SP, -8), top = ref_base(R_T, 0);

	put_check(w, &to, 8, true);
	put_load(&w->e, R_I, OFF(jit_tmp) + 16);
	emit_ref(&w->e, true, 0x89, R_I, &top);
	put_lea(&w->e, R_SP, &to);
	w->j->site[w->site].done = w->j->used + w->e.n;
	flags_after(w);
}

/* RF and VM are clear in the image; neither is among the arithmetic flags. */
void put_pushfq(struct work *w)
{
	struct mem_ref low = ref_gs(OFF(aflags) + 1), over = ref_gs(OFF(aflags)), rest = ref_gs(OFF(rflags));
	struct emit *e = &w->e;

	flags_to_saved(w);
	work_site(w, 0, 0);
	emit_ref(e, false, 0x0fb6, R_I, &low);
	emit_alu_imm(e, false, 4, R_I, FLAGS_ARITH & 0xff);
	emit_ref(e, false, 0x0fb6, R_T, &over);
	put_shift(e, true, SHIFT_LEFT, R_T, 11);
	emit_rr(e, true, 0x0b, R_I, R_T);
	emit_ref(e, true, 0x0b, R_I, &rest);
	emit_alu_imm(e, true, 4, R_I, (s32)~(u32)(FLAG_RF | FLAG_VM));
	put_store(e, R_I, OFF(jit_tmp) + 16);
	put_push_tmp(w);
}

void put_push_mem(struct work *w)
{
	struct mem_ref from = ref_base(R_T, 0);

	flags_to_saved(w);
	work_site(w, 0, 0);
	put_linear(w);
	put_check(w, &from, 8, false);
	emit_ref(&w->e, true, 0x8b, R_T, &from);
	put_store(&w->e, R_T, OFF(jit_tmp) + 16);
	put_push_tmp(w);
}
