/* SPDX-License-Identifier: MIT */
/*
 * Lockstep: the interpreter runs a trace and is undone, the translated block runs it again, and both must agree
 * about registers, flags, vector state, memory, and how it ended.
 *
 * Blocks are made without links and end before the first instruction that is not inline, so each run is a straight
 * piece of the trace. What the interpreter writes is known from its operands and is put back; a piece that touches
 * devices or its own code keeps the interpreter's result and is not compared. Other vCPUs must see nothing of that, and
 * write nothing in between: they are paused while pieces are compared, and have their turns.
 */
#include "jit/jit_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cpu/fpu.h"
#include "cpu/op/op.h"

#define LOG_MAX 96
#define FP_BYTES 832 /* x87, SSE, AVX in the standard format */
#define TURN 4096 /* pieces with the other vCPUs paused, then so many without */
#define THEIR_TURN 256

struct state {
	u64 gpr[16];
	u64 rip, page_rip;
	u64 rflags, gs_base, kernel_gs_base;
	u16 aflags;
	enum cpu_stop stop;
	struct event exc;
	u8 fp[FP_BYTES];
};

struct piece {
	u8 *host;
	u32 len;
	u8 old[64];
	u8 new[64];
};

struct lockstep {
	struct state before, interp, block;
	struct piece log[LOG_MAX];
	unsigned int nlog;
	u32 left;	/* of this turn */
	bool alone;	/* the others are paused */
	u64 compared, skipped;
	u64 insns, insns_compared;
};

static void save(struct vcpu *v, struct state *s)
{
	cpu_fp_spill(v);
	memcpy(s->gpr, v->gpr, sizeof(s->gpr));
	s->rip = v->rip;
	s->page_rip = v->page_rip;
	s->rflags = v->rflags;
	s->gs_base = v->seg[SEG_GS].base;
	s->kernel_gs_base = v->msr_val[MSR_SLOT_KERNEL_GS_BASE];
	s->aflags = v->aflags;
	s->stop = v->stop;
	s->exc = v->exc;
	memcpy(s->fp, v->xsave, FP_BYTES);
}

static void restore(struct vcpu *v, const struct state *s)
{
	cpu_fp_spill(v);
	memcpy(v->gpr, s->gpr, sizeof(s->gpr));
	v->rip = s->rip;
	v->page_rip = s->page_rip;
	v->rflags = s->rflags;
	v->seg[SEG_GS].base = v->gs_base_copy = s->gs_base;
	v->msr_val[MSR_SLOT_KERNEL_GS_BASE] = s->kernel_gs_base;
	v->aflags = s->aflags;
	v->stop = s->stop;
	v->exc = s->exc;
	memcpy(v->xsave, s->fp, FP_BYTES);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static void log_page(struct vcpu *v, struct lockstep *l, u64 la, u32 len)
{
	struct piece *p = &l->log[l->nlog];
	struct memslot *s;
	gpa_t gpa;

	if (l->nlog == LOG_MAX || !mmu_translate(v, la, 0, &gpa))
		return;
	s = mem_slot_find(&v->vm->mem, v->smm, gpa);
	if (!s)
		return;
	p->host = (u8 *)memslot_hva(s, gpa);
	p->len = len;
	memcpy(p->old, p->host, len);
	l->nlog++;
}

static void log_range(struct vcpu *v, struct lockstep *l, u64 la, u32 len)
{
	u32 first = (u32)(PAGE_SIZE - (la & ~PAGE_MASK));

	if (len <= first) {
		log_page(v, l, la, len);
		return;
	}
	log_page(v, l, la, first);
	log_page(v, l, la + first, len - first);
}

static void log_insn(struct vcpu *v, struct lockstep *l, const struct insn *r)
{
	if (insn_rows[r->id].traits & T_STACK)
		log_range(v, l, v->gpr[GPR_RSP] - 8, 8);
	if (r->flags & INSN_MEM) {
		u64 base = insn_seg(r) >= SEG_FS ? v->seg[insn_seg(r)].base : 0;

		log_range(v, l, cpu_ea(v, r) + base, 64);
	}
}

static void undo_memory(struct lockstep *l)
{
	for (unsigned int k = 0; k < l->nlog; k++)
		memcpy(l->log[k].new, l->log[k].host, l->log[k].len);
	for (unsigned int k = l->nlog; k-- > 0;)
		memcpy(l->log[k].host, l->log[k].old, l->log[k].len);
}

/*
 * The interpreter's walks have set accessed and dirty bits, and the block finds the translations made: where the guest
 * writes its own page tables these bits may be missing the second time.
 */
#define WALK_BITS 0x60

static bool same_memory(const struct lockstep *l)
{
	for (unsigned int k = 0; k < l->nlog; k++) {
		const struct piece *p = &l->log[k];

		for (u32 i = 0; i < p->len; i++) {
			u8 changed = p->new[i] ^ p->host[i];

			if (changed && (((u64)(p->host + i) & 7) || (changed & (u8)~WALK_BITS)))
				return false;
		}
	}
	return true;
}

static void keep_memory(struct lockstep *l)
{
	for (unsigned int k = 0; k < l->nlog; k++)
		memcpy(l->log[k].host, l->log[k].new, l->log[k].len);
}

/* ---- both ways ---------------------------------------------------------------------------------------------- */

static void stands_at(struct vcpu *v, const struct insn *r, int res)
{
	if (res == OP_NEXT || res > OP_JUMP)
		v->rip = v->page_rip + r->off + (res == OP_END ? r->len : 0u);
}

static int run_interp(struct vcpu *v, struct lockstep *l, struct trace *t, const struct block *b)
{
	int res = OP_NEXT;
	unsigned int k;

	for (k = 0; k < t->n && res == OP_NEXT && (b->inline_mask >> k & 1); k++) {
		log_insn(v, l, &t->rec[k]);
		res = native_step(v, &t->rec[k]);
		if (res == OP_JUMP && t->rec[k].op == op_jcc && v->rip == v->page_rip + t->rec[k].off + t->rec[k].len)
			res = OP_NEXT; /* not taken */
		if (res == OP_NEXT && v->request)
			res = OP_END;
	}
	l->insns = k;
	v->cur = &t->rec[res == OP_NEXT ? k : k - 1];
	stands_at(v, v->cur, res);
	return res;
}

static int run_block(struct vcpu *v, struct trace *t)
{
	int res;

	t->rec[0].fn = v->jit->enter;
	res = native_run(v, t->rec);
	t->rec[0].fn = native_step_end(v);
	stands_at(v, v->cur, res);
	return res;
}

static void differ(struct vcpu *v, struct lockstep *l, struct trace *t, int want, int got)
{
	u8 *src = trace_src(t);
	char line[160];

	cpu_fp_spill(v);
	dprintf(2, "lockstep: after %lu pieces, result %d, interpreter %d\n", (unsigned long)l->compared, got, want);
	for (unsigned int k = 0; k < t->n; k++) {
		insn_format(src, t->rec[k].len, 8, l->before.page_rip + t->rec[k].off, line, sizeof(line));
		dprintf(2, "  %lx %s\n", (unsigned long)(l->before.page_rip + t->rec[k].off), line);
		src += t->rec[k].len;
	}
	for (unsigned int g = 0; g < 16; g++)
		dprintf(2, "  r%-2u %016lx -> %016lx %016lx%s\n", g, (unsigned long)l->before.gpr[g],
			(unsigned long)l->interp.gpr[g], (unsigned long)l->block.gpr[g],
			l->interp.gpr[g] != l->block.gpr[g] ? " *" : "");
	dprintf(2, "  rip %lx %lx, flags %x -> %x %x, exc %d %d, memory %s, vectors %s\n",
		(unsigned long)l->interp.rip, (unsigned long)l->block.rip, l->before.aflags, l->interp.aflags,
		l->block.aflags, l->interp.exc.valid, l->block.exc.valid, same_memory(l) ? "same" : "differs",
		memcmp(l->interp.fp, l->block.fp, FP_BYTES) ? "differ" : "same");
	cpu_internal(v, INTERNAL_ENGINE);
}

static bool same_state(const struct state *a, const struct state *b)
{
	return !memcmp(a->gpr, b->gpr, sizeof(a->gpr)) && a->rip == b->rip && a->rflags == b->rflags &&
	       a->gs_base == b->gs_base && a->kernel_gs_base == b->kernel_gs_base &&
	       !((a->aflags ^ b->aflags) & 0xd501) &&
	       a->exc.valid == b->exc.valid && (!a->exc.valid || (a->exc.vector == b->exc.vector &&
	       a->exc.error == b->exc.error && a->exc.payload == b->exc.payload)) &&
	       !memcmp(a->fp + XSAVE_XMM, b->fp + XSAVE_XMM, 256) && !memcmp(a->fp + XSAVE_EXTENDED,
	       b->fp + XSAVE_EXTENDED, FP_BYTES - XSAVE_EXTENDED);
}

static void resume_others(struct vcpu *v, struct lockstep *l)
{
	if (l->alone)
		vm_resume(v->vm, v, 0);
	l->alone = false;
	l->left = THEIR_TURN;
}

/* Is nobody else at work? */
static bool alone(struct vcpu *v, struct lockstep *l)
{
	if (!l->alone && atomic_load(&v->vm->nvcpus) == 1)
		return true;
	if (l->left) {
		l->left--;
	} else if (l->alone) {
		resume_others(v, l);
	} else {
		vm_pause(v->vm, v);
		l->alone = true;
		l->left = TURN;
	}
	return l->alone;
}

void lockstep_leave(struct vcpu *v)
{
	resume_others(v, v->jit->lockstep);
}

int lockstep_run(struct vcpu *v, const struct insn *first)
{
	struct trace *t = trace_of(first);
	struct lockstep *l = v->jit->lockstep;
	const struct insn *cur;
	u64 verify = v->verify;
	bool compare;
	int want, got;

	if (!t->block || v->request)
		return native_run(v, first);
	compare = alone(v, l);
	if (v->request) { /* the pause brought it: nothing that was known of memory holds */
		v->cur = first;
		return OP_NEXT;
	}
	l->nlog = 0;
	save(v, &l->before);
	want = run_interp(v, l, t, &v->jit->block[t->block]);
	if (want == OP_NEXT && v->cur == first) { /* nothing of it is inline */
		t->rec[0].fn = t->first;
		got = native_run(v, first);
		if (t->block)
			t->rec[0].fn = native_step_end(v);
		return got;
	}
	save(v, &l->interp);
	if (!compare || v->mmio.n || t->dead || !t->block || v->verify != verify || l->nlog == LOG_MAX ||
	    want == OP_STOP || v->request) {
		l->skipped++;
		return want;
	}
	undo_memory(l);
	restore(v, &l->before);
	cur = v->cur;
	got = run_block(v, t);
	if (v->jit->gave_up) {
		v->jit->gave_up = false;
		keep_memory(l);
		restore(v, &l->interp);
		v->cur = cur;
		l->skipped++;
		return want;
	}
	save(v, &l->block);
	l->compared++;
	if (v->request) /* a kick in between: the block may have stopped earlier */
		return got;
	if ((got != want && (got > OP_JUMP || want > OP_JUMP)) ||
	    !same_state(&l->interp, &l->block) || !same_memory(l)) {
		differ(v, l, t, want, got);
		return OP_STOP;
	}
	l->insns_compared += l->insns;
	keep_memory(l);
	return got;
}

void lockstep_tell(const struct vcpu *v)
{
	const struct lockstep *l = v->jit->lockstep;

	dprintf(2, "lockstep: vCPU %u: %lu instructions in %lu pieces compared, %lu pieces not\n", v->index,
		(unsigned long)l->insns_compared, (unsigned long)l->compared, (unsigned long)l->skipped);
}

size_t lockstep_size(void)
{
	return sizeof(struct lockstep);
}
