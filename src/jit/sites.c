/* SPDX-License-Identifier: MIT */
/*
 * CASEMENT_SITES=1: the interpreter runs, and counts how often an access finds the page of the one before it: through
 * the same base register, from the same site, in a direct-mapped array. What it showed is in doc/design/engine.md.
 */
#include "jit/jit_priv.h"

#include <stdio.h>

#include "base/base.h"
#include "cpu/op/op.h"
#include "cpu/tlb.h"

#define SITE_MAX 65536u
#define BASES (GPR_MOFFS + 1u)
#define NEAR 1000 /* accesses since the site's last one: a loop */

/* Where one went last, and the address space it was in. */
struct last {
	u64 la, space;
};

struct count {
	u64 all, page, large, page_kept, direct;
};

struct sites {
	struct last base[2][BASES];
	struct last site[SITE_MAX];
	u64 rip[SITE_MAX], when[SITE_MAX];
	struct count by_base[BASES], by_site[2]; /* not in a loop, in one */
	u64 known, accesses, strings;
};

static void count_one(struct count *c, struct last *l, u64 la, u64 space, bool direct)
{
	bool same = !((l->la ^ la) & PAGE_MASK);

	c->all++;
	c->page += same;
	c->large += !((l->la ^ la) >> LARGE_SHIFT);
	c->page_kept += same && l->space == space;
	c->direct += direct;
	*l = (struct last){ .la = la, .space = space };
}

static void note(struct vcpu *v, const struct insn *r, unsigned int base, u64 la)
{
	struct sites *s = v->jit->sites;
	u64 rip = v->page_rip + r->off, space = v->cr3 ^ v->tlb->all_min << 12;
	struct tlb_l1 *view = l1_view(v, 0);
	bool direct = l1_hit(l1_slot(view, la, 0), la, 1) || l1_hit(l1_slot(view, la, ACC_W), la, 1);
	u32 n = (u32)((rip * 0x9e3779b97f4a7c15ull) >> 48);
	bool near;

	s->accesses++;
	count_one(&s->by_base[base], &s->base[v->cpl == 3][base], la, space, direct);
	near = s->rip[n] == rip && s->accesses - s->when[n] < NEAR;
	if (s->rip[n] != rip)
		s->site[n] = (struct last){ .la = ~la };
	else
		s->known++;
	s->rip[n] = rip;
	s->when[n] = s->accesses;
	count_one(&s->by_site[near], &s->site[n], la, space, direct);
}

static void look(struct vcpu *v, const struct insn *r)
{
	u32 traits = insn_rows[r->id].traits;

	if (traits & T_STACK)
		note(v, r, GPR_RSP, v->gpr[GPR_RSP] - 8);
	if (traits & T_STRING)
		v->jit->sites->strings++;
	if ((r->flags & INSN_MEM) && !(traits & (T_LEA | T_NOP))) {
		u64 seg = insn_seg(r) >= SEG_FS ? v->seg[insn_seg(r)].base : 0;

		note(v, r, seg ? GPR_NONE : r->base, cpu_ea(v, r) + seg);
	}
}

/* Leaves the trace as the interpreter does, but for looking at requests behind each instruction. */
int sites_run(struct vcpu *v, const struct insn *first)
{
	struct trace *t = trace_of(first);
	unsigned int k;
	int res = OP_NEXT;

	if (v->csz != 8)
		return native_run(v, first);
	for (k = 0; k < t->n && res == OP_NEXT; k++) {
		look(v, &t->rec[k]);
		res = native_step(v, &t->rec[k]);
		if (res == OP_JUMP && t->rec[k].op == op_jcc && v->rip == v->page_rip + t->rec[k].off + t->rec[k].len)
			res = OP_NEXT; /* not taken */
		if (res == OP_NEXT && v->request)
			res = OP_END;
	}
	v->cur = &t->rec[res == OP_NEXT ? k : k - 1];
	return res;
}

/* In tenths of a percent; no vector registers here. */
static unsigned int share(u64 part, u64 of)
{
	return of ? (unsigned int)((part * 1000 + of / 2) / of) : 0;
}

static void tell(const char *what, const struct count *c, u64 all)
{
	const struct { const char *name; u64 n, of; } part[] = {
		{ "of accesses", c->all, all }, { "same page", c->page, c->all },
		{ "and address space", c->page_kept, c->all }, { "same 2 MiB", c->large, c->all },
		{ "direct-mapped TLB", c->direct, c->all },
	};

	if (!c->all)
		return;
	dprintf(2, "sites: %-15s", what);
	for (unsigned int k = 0; k < ARRAY_SIZE(part); k++) {
		unsigned int n = share(part[k].n, part[k].of);

		dprintf(2, "  %s %u.%u %%", part[k].name, n / 10, n % 10);
	}
	dprintf(2, "\n");
}

void sites_tell(const struct vcpu *v)
{
	static const char names[BASES][8] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10",
					      "r11", "r12", "r13", "r14", "r15", "none", "rip", "moffs" };
	const struct sites *s = v->jit->sites;
	struct count all = { 0 };

	for (unsigned int n = 0; n < BASES; n++) {
		const struct count *c = &s->by_base[n];

		tell(names[n], c, s->accesses);
		all.all += c->all;
		all.page += c->page;
		all.large += c->large;
		all.page_kept += c->page_kept;
		all.direct += c->direct;
	}
	tell("by register", &all, s->accesses);
	tell("site, in loops", &s->by_site[1], s->accesses);
	tell("site, elsewhere", &s->by_site[0], s->accesses);
	dprintf(2, "sites: vCPU %u: %lu accesses, %lu of them the first of their site; %lu string instructions apart\n",
		v->index, (unsigned long)s->accesses, (unsigned long)(s->accesses - s->known),
		(unsigned long)s->strings);
}

size_t sites_size(void)
{
	return sizeof(struct sites);
}
