/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the generator share: dice, registers, operands, encoding. R12 and RBP point into the data, RSP to
 * the stack; the top of the loop sets them again.
 */
#pragma once
#include <string.h>

#include "program.h"

enum { RSP = 4, RBP = 5, R12 = 12 };

struct gen {
	struct program *p;
	uint64_t s;
	unsigned int depth;	/* of inner loops and skips: no further ones */
	bool in_loop;		/* RCX counts */
	bool in_sub;		/* the stack must stay as it is */
	bool tame;		/* hardly anything faults: it runs long */
	unsigned int imm_at[64], nimm;	/* immediates that may be overwritten */
	unsigned int calls[64], ncalls;
};

static inline unsigned int below(struct gen *g, unsigned int n)
{
	return (unsigned int)(random_next(&g->s) >> 32) % n;
}

static inline bool one_in(struct gen *g, unsigned int n)
{
	return !below(g, n);
}

static inline void put(struct gen *g, unsigned int byte)
{
	if (g->p->n < CODE_MAX - 64)
		g->p->code[g->p->n++] = (uint8_t)byte;
}

static inline void put_n(struct gen *g, uint64_t v, unsigned int n)
{
	while (n--) {
		put(g, v & 255);
		v >>= 8;
	}
}

static inline void slot(struct gen *g, bool fixed)
{
	struct program *p = g->p;

	if (p->nslots < SLOTS_MAX) {
		p->fixed[p->nslots] = fixed;
		p->slot[p->nslots++] = (uint16_t)p->n;
	}
}

/* A register that may be written. */
static inline unsigned int dst(struct gen *g)
{
	unsigned int r;

	do
		r = below(g, 16);
	while (r == RSP || ((r == RBP || r == R12) && (g->tame || !one_in(g, 60))) || (r == 1 && g->in_loop));
	return r;
}

static inline unsigned int src(struct gen *g)
{
	return below(g, 16);
}

/* ---- operands ---------------------------------------------------------------------------------------------- */

struct operand {
	bool mem;
	uint8_t reg, rm, index, scale, base;
	int32_t disp;
	bool rip, no_base;
};

/* Mostly inside a page; near its end now and then; sometimes anywhere. */
static inline int32_t displacement(struct gen *g)
{
	if (!g->tame && one_in(g, 50)) /* the sum of two such does not fit */
		return (int32_t)(0x7fffff00 + below(g, 0x200));
	switch (below(g, 12)) {
	case 1:
		return (int32_t)below(g, g->tame ? 0x3000 : 0x7000);
	case 0:
		return (int32_t)(0x1000 * (1 + below(g, g->tame ? 2 : 6)) - below(g, 16)); /* over a page's end */
	case 2:
		return -(int32_t)below(g, 128);
	default:
		return (int32_t)(below(g, 64) * 8);
	}
}

static inline void make_mem(struct gen *g, struct operand *o)
{
	o->mem = true;
	o->index = 4;
	o->scale = (uint8_t)below(g, 4);
	o->disp = displacement(g);
	switch (below(g, 24)) {
	case 0:
		o->base = (uint8_t)(g->tame ? R12 : src(g)); /* wild */
		break;
	case 1:
		o->rip = true;
		o->disp = (int32_t)(DATA_GPA - CODE_GPA + below(g, 0x1000));
		break;
	case 2:
		o->no_base = true;
		o->disp = (int32_t)(DATA_GPA + below(g, 0x5000) + (one_in(g, 3) ? ALIAS : 0));
		break;
	case 3:
	case 4:
	case 5:
		o->base = RSP;
		o->disp = (int32_t)below(g, 128) - 32;
		break;
	case 6:
	case 7:
		o->base = RBP;
		break;
	default:
		o->base = R12;
		break;
	}
}

/* Prefixes, REX, opcode, ModRM and the rest. map: 0, 1 (0F), 2 (0F38). wide: 8, 16, 32, 64 bits by osz. */
static inline void op_modrm(struct gen *g, unsigned int osz, unsigned int prefix, unsigned int map, unsigned int opcode,
		     const struct operand *o, bool byte_regs)
{
	unsigned int rex = (osz == 8 ? 8u : 0) | (o->reg >> 3) << 2;

	if (o->mem)
		rex |= (unsigned)(o->index >> 3) << 1 | (!o->rip && !o->no_base ? o->base >> 3 : 0u);
	else
		rex |= o->rm >> 3;
	if (osz == 2)
		put(g, 0x66);
	if (prefix)
		put(g, prefix);
	if (rex || (byte_regs && below(g, 2)))
		put(g, 0x40 | rex);
	if (map)
		put(g, 0x0f);
	if (map == 2)
		put(g, 0x38);
	put(g, opcode);
	if (!o->mem) {
		put(g, 0xc0 | (o->reg & 7) << 3 | (o->rm & 7));
	} else if (o->rip) {
		put(g, 5 | (o->reg & 7) << 3);
		put_n(g, (uint32_t)(o->disp - (int32_t)g->p->n), 4);
	} else {
		put(g, (o->no_base ? 0 : 0x80) | (o->reg & 7) << 3 | 4);
		put(g, (unsigned)o->scale << 6 | (o->index & 7) << 3 | (o->no_base ? 5u : o->base & 7u));
		put_n(g, (uint32_t)o->disp, 4);
	}
}

static inline struct operand any(struct gen *g, bool writes_rm)
{
	struct operand o = { .reg = (uint8_t)src(g) };

	if (below(g, 5) < 2)
		make_mem(g, &o);
	else
		o.rm = (uint8_t)(writes_rm ? dst(g) : src(g));
	return o;
}

static const uint8_t sizes[] = { 4, 8, 4, 8, 2 };

static inline unsigned int size(struct gen *g)
{
	return sizes[below(g, sizeof(sizes))];
}

static inline unsigned int imm_size(unsigned int osz)
{
	return osz == 8 ? 4 : osz;
}

static inline void lea_r12(struct gen *g, unsigned int reg, unsigned int disp)
{
	put(g, 0x49); /* lea reg, [r12 + disp] */
	put(g, 0x8d);
	put(g, 0x84 | reg << 3);
	put(g, 0x24);
	put_n(g, disp, 4);
}

static inline void patch(struct gen *g, unsigned int at, unsigned int to)
{
	uint32_t rel = to - (at + 4);

	memcpy(g->p->code + at, &rel, 4);
}

void gen_more(struct gen *g);
void gen_more_rare(struct gen *g);
