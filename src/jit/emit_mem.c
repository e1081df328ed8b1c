/* SPDX-License-Identifier: MIT */
/*
 * Memory operands of blocks: effective address, inline TLB probe, the test that vector state is live.
 */
#include "jit/jit_priv.h"

#include <string.h>

#include "cpu/op/op.h"

bool address_fits(const struct insn *r)
{
	unsigned int asz = insn_asz(r);

	if (asz == 2 || r->base == GPR_MOFFS || (r->index != GPR_NONE && r->index > 15))
		return false;
	/* RIP-relative: the distance from the page's first byte must fit */
	return r->base != GPR_RIP || r->disp < 0x7fffffff - 2 * (s32)PAGE_SIZE;
}

struct mem_ref put_address(struct work *w)
{
	const struct insn *r = work_rec(w);
	struct mem_ref m = { .base = REF_NONE, .index = REF_NONE, .disp = r->disp };

	if (r->base == GPR_RIP) {
		put_load(&w->e, R_T, OFF(page_rip));
		m.base = R_T;
		m.disp += r->off + r->len;
	} else if (r->base < GPR_NONE) {
		m.base = jit_host[r->base];
		if (m.base == IN_MEMORY) {
			put_load(&w->e, R_T, OFF_GPR(r->base));
			m.base = R_T;
		}
	}
	if (r->index < GPR_NONE) {
		m.index = jit_host[r->index];
		m.scale = (u8)insn_scale(r);
		if (m.index == IN_MEMORY) {
			put_load(&w->e, R_I, OFF_GPR(r->index));
			m.index = R_I;
		}
	}
	return m;
}

/* Design rule 2: no host LOCK on two lines, nor on memory that is not write-back. */
static void put_lock_check(struct work *w, unsigned int size, struct cold *c)
{
	struct emit *e = &w->e;
	struct mem_ref last = ref_base(R_T, (s32)size - 1), uc = ref_gs(OFF(tlb_uc));

	emit_ref(e, false, 0x80, 7, &uc);
	emit1(e, 0);
	cold_from(c, emit_jcc(e, CC_NE));
	if (size == 1)
		return;
	put_lea(e, R_I, &last);
	emit_rr(e, false, 0x33, R_I, R_T);
	emit_alu_imm(e, false, 4, R_I, -64);
	cold_from(c, emit_jcc(e, CC_NE));
}

static s32 probe_array(u32 key, unsigned int view, bool write)
{
	unsigned int level = key & MODE_NONROOT ? 1 : 0;

	return OFF(l1_sets) + (s32)((level * VIEW_NUM + view) * sizeof(struct tlb_l1)) +
	       (s32)(write ? offsetof(struct tlb_l1, w) : offsetof(struct tlb_l1, r));
}

/*
 * T = linear address; T, or with @pair T + I, becomes the host's; that is known a cycle earlier. The jump is taken with
 * T less the tag and I = index. @again: to try again
 */
static unsigned int emit_probe(struct emit *e, s32 array, s32 most, bool pair, u32 *again)
{
	struct mem_ref tag = { .base = R_I, .index = REF_NONE, .gs = true, .disp = array };
	struct mem_ref host = tag;
	unsigned int miss;

	host.disp += (s32)offsetof(struct tlb_entry, host);
	emit1(e, 0xc4); /* rorx I, T, 8 */
	emit1(e, 0x43);
	emit1(e, 0xfb);
	emit1(e, 0xf0);
	emit1(e, 0xc0 | (R_I & 7) << 3 | (R_T & 7));
	emit1(e, PAGE_SHIFT - 4);
	emit_alu_imm(e, false, 4, R_I, (TLB_ENTRIES - 1) << 4);
	*again = e->n;
	emit_ref(e, true, 0x2b, R_T, &tag);
	emit_alu_imm(e, true, 7, R_T, most);
	miss = emit_jcc(e, CC_A);
	if (pair)
		emit_ref(e, true, 0x8b, R_I, &host);
	else
		emit_ref(e, true, 0x03, R_T, &host);
	return miss;
}

/* Both probes are as long, so that one can take the other's place. */
#define PROBE_BYTES 42
#define SLOT_JUMP 27 /* where the slot's probe has the end of its jump */

static unsigned int emit_slot_probe(struct emit *e, s32 slot, unsigned int size, bool pair)
{
	struct mem_ref tag = ref_gs(slot), delta = ref_gs(slot + (s32)offsetof(struct tlb_slot, delta));
	struct mem_ref most = ref_gs(slot + (s32)offsetof(struct tlb_slot, most) + 8 * (s32)slot_class(size));
	unsigned int miss;

	put_mov(e, R_I, R_T);
	emit_ref(e, true, 0x2b, R_I, &tag);
	emit_ref(e, true, 0x3b, R_I, &most);
	miss = emit_jcc(e, CC_A);
	if (pair)
		emit_ref(e, true, 0x8b, R_I, &delta);
	else
		emit_ref(e, true, 0x03, R_T, &delta);
	emit1(e, 0x66); /* a NOP of six bytes */
	emit4(e, 0x00441f0f);
	emit1(e, 0);
	return miss;
}

static bool wants_slot(const struct work *w, bool write)
{
	return w->loop && !(w->t->key & MODE_NONROOT) && work_view(w) < VIEW_NONE && w->nslots[write] < TLB_SLOTS &&
	       !w->t->apart && work_rec(w)->op == NULL;
}

static void put_probe(struct work *w, unsigned int size, bool write)
{
	struct emit *e = &w->e;
	struct cold *c = work_cold(w, COLD_MISS, w->site);
	struct site *s = &w->j->site[w->site];
	unsigned int view = work_view(w), at;
	s32 most = (s32)(PAGE_SIZE - size);

	c->write = write;
	if (wants_slot(w, write)) {
		c->slot = (u8)((w->nslots[write]++ + (w->t->gpa >> 4)) % TLB_SLOTS);
		c->back = e->n;
		s->slotted = write ? SLOT_WRITE : SLOT_READ;
		s->slot = c->slot;
		s->size = (u16)size;
		at = (view * 2 + write) * TLB_SLOTS + c->slot;
		cold_from(c, emit_slot_probe(e, OFF(slots.page[0][0][0]) + (s32)(at * sizeof(struct tlb_slot)), size,
					     s->pair));
	} else {
		cold_from(c, emit_probe(e, probe_array(w->t->key, view, write), most, s->pair, &c->back));
	}
	s->ready = (u16)(w->j->used + e->n - s->host);
}

static u32 get4(const u8 *p)
{
	return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

void unslot(struct vcpu *v, struct site *s)
{
	struct jit *j = v->jit;
	const struct insn *r = site_rec(v, s);
	u32 key = trace_of(r - r->seq)->key, at = s->host + s->ready - PROBE_BYTES, again, cold;
	unsigned int view = (key & MODE_VIEW) >> MODE_VIEW_SHIFT, miss;
	bool write = s->slotted == SLOT_WRITE;
	u8 *code = j->x.rw + at;
	u8 probe[PROBE_BYTES + EMIT_ROOM];
	struct emit e = { .max = sizeof(probe), .buf = probe };

	cold = SLOT_JUMP + get4(code + SLOT_JUMP - 4);
	miss = emit_probe(&e, probe_array(key, view, write), (s32)(PAGE_SIZE - s->size), s->pair, &again);
	e.n = miss - 4;
	emit4(&e, cold - miss);
	memcpy(code, probe, PROBE_BYTES);
	e = (struct emit){ .max = 15, .buf = code + cold };
	emit1(&e, 0xe8);
	emit4(&e, (u32)(j->miss[0][view][write] - (j->x.rx + at + cold + 5)));
	e.n = 11; /* behind TEST EAX and the jump's opcode */
	e.max = 16;
	emit4(&e, again - (cold + 15));
	s->slotted = SLOT_NONE;
	j->stats.unslotted++;
}
_Static_assert(sizeof(struct tlb_entry) == 16, "the probe rotates by 8");
_Static_assert(R_I == GPR_R15 && R_T == GPR_R11, "rorx is spelled out");

void put_check(struct work *w, const struct mem_ref *m, unsigned int size, bool write)
{
	const struct insn *r = work_rec(w);
	bool data = !r->op;

	if (data && insn_asz(r) == 4)
		emit_ref(&w->e, false, 0x8d, R_T, m);
	else
		put_lea(&w->e, R_T, m);
	if (data && insn_seg(r) >= SEG_FS) {
		struct mem_ref base = ref_gs(insn_seg(r) == SEG_FS ? OFF(fs_base_copy) : OFF(gs_base_copy));

		emit_ref(&w->e, true, 0x03, R_T, &base);
	}
	if (data && native_is_locked(work_decode(w)))
		put_lock_check(w, size, work_cold(w, COLD_SLOW, w->site));
	put_probe(w, size, write);
}

bool operand_is_checked(const struct work *w)
{
	const struct group *g = work_group(w);

	return g && g->first != w->k;
}

/* The site of a check that is good for others too */
static void lead(struct work *w, const struct group *g, s32 lo)
{
	struct site *s = &w->j->site[w->site];

	s->leads = true;
	s->lo = (s16)lo;
	s->size = (u16)(g->hi - g->lo);
	s->acc = g->write ? ACC_W : ACC_R;
}

struct mem_ref put_operand(struct work *w, struct mem_ref (*address)(struct work *w), unsigned int size, bool write)
{
	const struct group *g = work_group(w);
	u8 n = w->plan[w->k].group;
	s32 slot = OFF(jit_host) + 8 * (s32)n;
	struct mem_ref m;
	s32 lo;

	if (!g) {
		bool pair = w->i_free && !work_rec(w)->op;

		w->j->site[w->site].pair = pair;
		m = address(w);
		put_check(w, &m, size, write);
		w->group_in_t = NO_GROUP;
		return (struct mem_ref){ .base = R_T, .index = pair ? R_I : REF_NONE };
	}
	lo = g->lo - w->plan[w->k].off;
	if (g->first == w->k) {
		m = address(w);
		m.disp += lo;
		lead(w, g, lo);
		put_check(w, &m, (unsigned int)(g->hi - g->lo), g->write);
		if (!g->run)
			put_store(&w->e, R_T, slot);
	} else if (w->group_in_t != n) {
		put_load(&w->e, R_T, slot);
	}
	w->group_in_t = n;
	return ref_base(R_T, -lo);
}

void put_fp_check(struct work *w)
{
	unsigned int bit = native_live_bit(work_decode(w));
	struct mem_ref live = ref_gs(OFF(fp_live));
	struct cold *c;

	if (w->fp_ok & bit)
		return;
	flags_give_up(w);
	w->group_in_t = NO_GROUP;
	c = work_cold(w, COLD_FP, work_site(w, 0, 0));
	emit_ref(&w->e, false, 0xf6, 0, &live);
	emit1(&w->e, bit);
	cold_from(c, emit_jcc(&w->e, CC_E));
	c->back = w->e.n;
	if (work_rec(w)->id != INSN_FWAIT) /* which may do what the others may not */
		w->fp_ok |= (u8)bit;
}
