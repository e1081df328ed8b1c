/* SPDX-License-Identifier: MIT */
/*
 * What blocks call C for, and what happens when one of their instructions faults: the state is brought to what it
 * is between two instructions, and the interpreter's own code does the rest.
 */
#include "jit/jit_priv.h"

#include <ucontext.h>

#include "base/base.h"
#include "cpu/native_priv.h"
#include "cpu/op/op.h"

static void undo(struct vcpu *v, const struct insn *r, const struct recipe *how)
{
	u64 src = how->src == GPR_NONE ? (u64)r->imm : v->gpr[how->src];
	u64 *dst = &v->gpr[how->dst];

	switch (how->undo) {
	case UNDO_ADD:
		*dst -= src;
		break;
	case UNDO_SUB:
		*dst += src;
		break;
	case UNDO_XOR:
		*dst ^= src;
		break;
	case UNDO_NEG:
		*dst = 0 - *dst;
		break;
	default:
		return;
	}
	if (r->osz == 4)
		*dst = (u32)*dst;
}

/* vcpu.aflags as the guest would see them before the site's instruction; registers are in vcpu.gpr. */
static void exact_flags(struct vcpu *v, const struct site *s)
{
	const struct insn *r;

	if (s->flags != FLAGS_RECIPE && (s->flags != FLAGS_LOOP || (v->aflags & AFLAGS_LOOP) != AFLAGS_LOOP))
		return;
	r = site_rec(v, s);
	r += s->recipe.index - r->seq;
	undo(v, r, &s->recipe);
	native_step(v, r);
}

/* Run a copied instruction as the interpreter does. OP_NEXT, or why the block is left. */
static int run_record(struct vcpu *v, const struct insn *r)
{
	int res = native_step(v, r);

	v->cur = r;
	return res;
}

static int leave(struct vcpu *v, const struct insn *r, int res)
{
	v->cur = r;
	v->jit_result = (u32)res;
	return 1;
}

/* ---- called from code ------------------------------------------------------------------------------- */

static u64 operand_la(const struct vcpu *v, const struct insn *r)
{
	if (!r->op)
		return cpu_ea(v, r) + (insn_seg(r) >= SEG_FS ? v->seg[insn_seg(r)].base : 0);
	if (r->op == op_leave)
		return v->gpr[GPR_RBP];
	return v->gpr[GPR_RSP] - (r->op == op_pop || r->op == op_ret ? 0 : 8);
}

/* Pages that the second level knows, or a read from two of them. NULL: the long way. */
static void *quick(struct vcpu *v, const struct site *s, const struct insn *r)
{
	u64 la = operand_la(v, r) + (u64)(s64)s->lo;
	unsigned int first = PAGE_SIZE - (unsigned int)(la & ~PAGE_MASK);
	u8 *at = v->bounce.buf + (la & 63);
	const u8 *a, *b;

	if (v->jit->force & FORCE_SLOW)
		return NULL;
	if (s->size <= first) {
		void *p = tlb_quick(v, la, s->size, s->acc);

		return p || s->leads || (s->acc & (ACC_W | ACC_LOCK)) != ACC_W ? p : tlb_beside_code(v, la, s->size);
	}
	if (s->acc != ACC_R || s->leads)
		return NULL;
	a = tlb_quick(v, la, first, ACC_R);
	b = a ? tlb_quick(v, la + first, s->size - first, ACC_R) : NULL;
	if (!b || mem_copy_guarded(at, a, first) || mem_copy_guarded(at + first, b, s->size - first))
		return NULL;
	return at;
}

/* OP_NEXT, or why the block is left: a whole instruction in C */
static int whole(struct vcpu *v, const struct site *s, const struct insn *r)
{
	int res;

	exact_flags(v, s);
	v->icount++;
	v->cur = r;
	res = r->op ? r->op(v, r) : run_record(v, r);
	return res == OP_NEXT && v->request ? OP_END : res;
}

/* A read gets a pointer, perhaps to the bounce buffer. */
static void *slow_read(struct vcpu *v, const struct site *s, const struct insn *r)
{
	u8 live = v->fp_live;
	void *p;

	v->icount++;
	p = cpu_mem_begin(v, r, s->size, s->acc, 0);
	if (unlikely(!p)) {
		int res = (int)v->scratch[SLOT_RESULT];

		exact_flags(v, s);
		leave(v, r, res);
	}
	cpu_fp_reload(v, live);
	return p;
}

#define CROSSED_MAX 24
#define CROSSED_TICKS 65536 /* crossings further apart than this do no harm */

/*
 * A shared check failed: its range is in two pages, or the page is not plain, or not yet. When the block goes on like
 * that, do without.
 */
static void count_crossing(struct vcpu *v, const struct site *s, const struct insn *r)
{
	struct trace *t = trace_of(r - r->seq);
	struct block *b = &v->jit->block[t->block];
	u64 la = operand_la(v, r) + (u64)(s64)s->lo, was = b->crossed_page, now = base_rdtsc();

	b->crossed_page = la & PAGE_MASK;
	if ((la & ~PAGE_MASK) + s->size <= PAGE_SIZE && was != b->crossed_page)
		return; /* a new page */
	if (now - b->crossed_at > CROSSED_TICKS)
		b->crossed = 0;
	b->crossed_at = now;
	if (!t->block || ++b->crossed < CROSSED_MAX)
		return;
	t->apart = true;
	v->tr->drop(v, t);
	t->rec[0].fn = native_warm_entry(v);
	t->heat = 1;
	vcpu_forget_jumps(v);
	v->jit->stats.apart++;
}

/* The rest of the trace is the interpreter's. */
static struct slow_result resume(struct vcpu *v, const struct site *s, const struct insn *r)
{
	struct jit *j = v->jit;

	exact_flags(v, s);
	j->stats.resumed++;
	if (j->lockstep) {
		j->gave_up = true;
		leave(v, r, OP_NEXT);
		return (struct slow_result){ .next = 0 };
	}
	if (s->leads)
		count_crossing(v, s, r);
	return (struct slow_result){ .next = (u64)(r->seq ? j->resume : j->resume_first), .ptr = (u64)r };
}

/* Many misses of slots in a short time: this site had the last of them. */
#define SLOT_TICKS (SLOT_MISSES * 160ull)
#define SLOT_WIDE 256	/* pages to either side that are looked at together, for programs and for their kernel */
#define SLOT_WIDE_SUPER 8

static bool same_row(struct vcpu *v, u64 la, u64 delta, bool write)
{
	return (u64)tlb_quick(v, la, 1, write ? ACC_W : ACC_R) - la == delta;
}

/* Accesses here and there: as many pages in a row as the TLB knows. */
static void widen(struct vcpu *v, const struct site *s, const struct insn *r)
{
	unsigned int view = (trace_of(r - r->seq)->key & MODE_VIEW) >> MODE_VIEW_SHIFT, n;
	bool write = s->slotted == SLOT_WRITE;
	u64 la = (operand_la(v, r) + (u64)(s64)s->lo) & PAGE_MASK, first = la, last = la, delta;
	struct tlb_slot *slot = &v->slots.page[view][write][s->slot];
	u8 *host = tlb_quick(v, la, 1, write ? ACC_W : ACC_R);
	unsigned int most = view == VIEW_USER ? SLOT_WIDE : SLOT_WIDE_SUPER;

	if (!host)
		return;
	delta = (u64)host - la;
	for (n = 0; n < most && same_row(v, last + PAGE_SIZE, delta, write); n++)
		last += PAGE_SIZE;
	for (n = 0; n < most && same_row(v, first - PAGE_SIZE, delta, write); n++)
		first -= PAGE_SIZE;
	slot->tag = first;
	slot->delta = delta;
	for (n = 0; n < SLOT_CLASSES; n++)
		slot->most[n] = last + PAGE_SIZE - first - slot_class_size(n);
	v->slots.used |= 1u << (view * 2 + write);
}

static void suspect(struct vcpu *v, struct site *s, const struct insn *r)
{
	u64 now = base_rdtsc();

	if (now - v->slots.looked_at < SLOT_TICKS && s->slotted) {
		if (++s->suspect == 4)
			unslot(v, s);
		else
			widen(v, s, r);
	}
	v->slots.looked_at = base_rdtsc();
	v->slots.misses = SLOT_MISSES;
}

/*
 * Before this came to the run loop it would have looked around; here nothing has happened that it would find. A
 * fetch that faults is tried again there.
 */
const struct jentry *jit_find(struct vcpu *v)
{
	const struct jentry *j = jcache_find(v, v->rip, v->mode_key);
	const struct insn *rec;

	if (!j) {
		if (rcache_find(v, v->rip, &rec) != OP_NEXT) {
			v->exc.valid = false;
			v->stop = CPU_RUN;
			return NULL;
		}
		j = jcache_find(v, v->rip, v->mode_key);
		if (v->request || !j)
			return NULL;
	}
	v->page_rip = v->rip & PAGE_MASK;
	return j;
}

/* Interrupts are open now that were not: is one waiting? */
static bool event_waits(struct vcpu *v)
{
	const struct cpu_bus *bus = v->vm->bus;

	return v->nonroot || v->nmi_pending || v->smi_pending || v->pending.valid || bus->intr_pending(v) >= 0 ||
	       (bus->intr_window_wanted && bus->intr_window_wanted(v));
}

/* Is there nothing for the run loop to look at before the next instruction? */
static bool undisturbed(const struct vcpu *v)
{
	return !v->request && v->stop == CPU_RUN && v->csz == 8 && !v->mmio.n && !v->pending_db && !v->bus_lock &&
	       !v->pending.valid;
}

/*
 * What the run loop does when a handler has ended a trace, as long as it would do nothing else. What jit_find() has
 * decoded may lie where r was.
 */
static const struct jentry *go_on(struct vcpu *v, const struct insn *r, int res, u64 was_if)
{
	const struct jentry *next;
	bool opened = (v->rflags & FLAG_IF) & ~was_if;

	leave(v, r, res);
	if (v->jit->lockstep || !undisturbed(v) || (opened && event_waits(v)))
		return NULL;
	if (res == OP_END)
		v->rip = cpu_next_rip(v, r);
	if (v->shadow == SHADOW_STI) {
		bool good = cpu_step_shadow(v) && undisturbed(v) && !event_waits(v);

		v->jit->there.off = (u16)(v->insn_rip - v->page_rip);
		leave(v, &v->jit->there, OP_JUMP);
		if (!good)
			return NULL;
	}
	if (cpu_must_step(v))
		return NULL;
	next = jit_find(v);
	if (!next)
		leave(v, &jit_between, OP_JUMP);
	return next;
}

/*
 * The operand is in no level of the TLB that emitted code searches. A read gets a pointer; a write may need its commit,
 * so the interpreter's stub does the whole instruction, and so does the handler of one that has a handler.
 */
struct slow_result jit_slow(struct vcpu *v, u32 site)
{
	const struct site *s = &v->jit->site[site];
	const struct insn *r = site_rec(v, s);
	struct slow_result out = { .next = (u64)v->jit->x.rx + s->host + s->ready };
	u64 was_if = v->rflags & FLAG_IF;
	const struct jentry *to = NULL;
	u8 live = v->fp_live;
	int res;

	v->jit->stats.slow++;
	v->jit_tmp[3] = 0;
	if (v->slots.misses <= 0)
		suspect(v, &v->jit->site[site], r);
	if (!r->op || s->leads)
		out.ptr = (u64)quick(v, s, r);
	if (out.ptr)
		return out;
	if (s->in_group)
		return resume(v, s, r);
	if (!r->op && !(s->acc & ACC_W)) {
		out.ptr = (u64)slow_read(v, s, r);
		if (!out.ptr)
			out.next = 0;
		return out;
	}
	res = whole(v, s, r);
	if (res == OP_JUMP && !v->jit->lockstep) /* a call or return whose stack was missed */
		to = go_on(v, r, res, was_if);
	else if (res != OP_NEXT)
		leave(v, r, res);
	if (res != OP_NEXT) {
		out.next = to ? (u64)to->code : 0;
		v->jit_tmp[3] = to ? jentry_index(v, to) : 0;
		return out;
	}
	cpu_fp_reload(v, live);
	out.next = (u64)v->jit->x.rx + s->done;
	return out;
}

/*
 * STI, and nothing waits: an interrupt from now on may as well have come one instruction later. The shadow is over
 * when that one, which cannot fault or stop, has run.
 */
static bool shadow_passes(struct vcpu *v)
{
	if (v->shadow != SHADOW_STI || !undisturbed(v) || event_waits(v))
		return false;
	v->shadow = 0;
	if (!cpu_must_step(v))
		return true;
	v->shadow = SHADOW_STI;
	return false;
}

/* A whole instruction in C. */
struct op_answer jit_op(struct vcpu *v, u32 site)
{
	const struct site *s = &v->jit->site[site];
	const struct insn *r = site_rec(v, s);
	u64 was_if = v->rflags & FLAG_IF;
	struct op_answer out = { .leaves = false };
	int res;

	v->jit->stats.ops++;
	res = whole(v, s, r);
	if (res == OP_NEXT || (res == OP_END && s->plain_next && shadow_passes(v)))
		return out;
	out.leaves = true;
	if (res == OP_JUMP || res == OP_END)
		out.next = go_on(v, r, res, was_if);
	else
		leave(v, r, res);
	return out;
}

int jit_fp(struct vcpu *v, u32 site)
{
	const struct site *s = &v->jit->site[site];
	const struct insn *r = site_rec(v, s);
	int res = cpu_fp_need(v, r);

	if (res == OP_NEXT)
		return 0;
	exact_flags(v, s);
	return leave(v, r, res);
}

/* A request is up, and there is a backward jump ahead. */
int jit_stop(struct vcpu *v, u32 site)
{
	const struct site *s = &v->jit->site[site];

	exact_flags(v, s);
	return leave(v, site_rec(v, s), OP_NEXT);
}

/* ---- faults ------------------------------------------------------------------------------------------- */

static u32 find_site(const struct jit *j, u32 off)
{
	u32 lo = 0, hi = j->nsites;

	while (hi - lo > 1) {
		u32 mid = lo + (hi - lo) / 2;

		if (j->site[mid].host <= off)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

bool jit_fault(struct vcpu *v, int vector, void *uctx)
{
	greg_t *g = ((ucontext_t *)uctx)->uc_mcontext.gregs;
	struct jit *j = v->jit;
	u64 off = (u64)g[REG_RIP] - (u64)j->x.rx;

	if (off < j->glue_end || off >= j->used || !j->nsites)
		return false;
	j->fault_site = find_site(j, (u32)off);
	v->scratch[SLOT_FAULT] = (u64)(s64)vector;
	g[REG_RIP] = (greg_t)j->fault;
	return true;
}

/* In ordinary context: registers are spilled, the host's flags at the fault are in jit_tmp[1]. */
void jit_failed(struct vcpu *v)
{
	const struct site *s = &v->jit->site[v->jit->fault_site];
	const struct insn *r = site_rec(v, s);

	if (s->flags == FLAGS_HOST)
		v->aflags = (u16)v->jit_tmp[1];
	else
		exact_flags(v, s);
	v->icount++;
	leave(v, r, native_failed(v, r));
}
