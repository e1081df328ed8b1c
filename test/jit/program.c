/* SPDX-License-Identifier: MIT */
/*
 * The generator: the loop, control, and the instructions that compilers use. program_more.c has the others.
 */
#include "program.h"

#include <string.h>

#include "gen.h"

uint64_t random_next(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* ---- instructions ------------------------------------------------------------------------------------------- */

static void gen_alu(struct gen *g)
{
	unsigned int op = below(g, 8), form = below(g, 4), osz = form & 1 ? size(g) : 4;
	struct operand o = any(g, op != 7);

	if (form >= 2)
		o.reg = (uint8_t)dst(g);
	else if (!o.mem)
		o.rm = (uint8_t)dst(g);
	if (!(form & 1) && (o.reg == 5 || o.rm == 5 || o.reg == 4 || (!o.mem && o.rm == 4)))
		o.reg = 0, o.rm = 3; /* BPL and SPL stay */
	op_modrm(g, osz, 0, 0, op << 3 | form, &o, false);
}

static void gen_imm(struct gen *g)
{
	unsigned int osz = size(g), small = below(g, 2);
	struct operand o = any(g, true);

	o.reg = (uint8_t)below(g, 8);
	op_modrm(g, osz, 0, 0, small ? 0x83 : 0x81, &o, false);
	put_n(g, random_next(&g->s), small ? 1 : imm_size(osz));
}

static void gen_shift(struct gen *g)
{
	static const uint8_t opcodes[] = { 0xc1, 0xd1, 0xd3 };
	unsigned int opcode = opcodes[below(g, 3)];
	struct operand o = any(g, true);

	o.reg = (uint8_t)below(g, 8);
	op_modrm(g, size(g), 0, 0, opcode, &o, false);
	if (opcode == 0xc1)
		put(g, below(g, 70));
}

static void gen_unary(struct gen *g)
{
	struct operand o = any(g, true);
	bool inc = below(g, 2);

	o.reg = (uint8_t)(inc ? below(g, 2) : 2 + below(g, one_in(g, 6) ? (g->tame ? 4 : 6) : 2));
	if (!inc && o.reg >= 4 && g->in_loop)
		o.reg = 3;
	op_modrm(g, size(g), 0, 0, inc ? 0xff : 0xf7, &o, false);
}

static void gen_mov(struct gen *g)
{
	struct operand o = any(g, true);

	switch (below(g, 5)) {
	case 0:
		op_modrm(g, size(g), 0, 0, 0x89, &o, false);
		break;
	case 1: {
		unsigned int osz = size(g);

		o.reg = 0;
		op_modrm(g, osz, 0, 0, 0xc7, &o, false);
		put_n(g, random_next(&g->s), imm_size(osz));
		break;
	}
	case 2: {
		unsigned int r = dst(g);

		put(g, 0x48 | r >> 3);
		put(g, 0xb8 | (r & 7));
		put_n(g, random_next(&g->s) >> below(g, 64), 8);
		break;
	}
	default:
		o.reg = (uint8_t)dst(g);
		op_modrm(g, size(g), 0, 0, 0x8b, &o, false);
	}
}

/* An immediate that gen_smc() may change. */
static void gen_mov_imm32(struct gen *g)
{
	put(g, 0xb8); /* mov eax */
	if (g->nimm < 64)
		g->imm_at[g->nimm++] = g->p->n;
	put_n(g, random_next(&g->s), 4);
}

static void gen_lea(struct gen *g)
{
	struct operand o = { 0 };

	make_mem(g, &o);
	o.reg = (uint8_t)dst(g);
	o.index = (uint8_t)src(g);
	if (o.base == 4 && one_in(g, 2))
		o.index = 4;
	op_modrm(g, size(g), 0, 0, 0x8d, &o, false);
}

static void gen_extend(struct gen *g)
{
	static const uint8_t opcodes[] = { 0xb6, 0xb7, 0xbe, 0xbf };
	struct operand o = any(g, false);

	o.reg = (uint8_t)dst(g);
	if (one_in(g, 4))
		op_modrm(g, 8, 0, 0, 0x63, &o, false);
	else
		op_modrm(g, below(g, 2) ? 8 : 4, 0, 1, opcodes[below(g, 4)], &o, true);
}

static void gen_cond(struct gen *g)
{
	struct operand o = any(g, false);

	if (below(g, 2)) {
		o.reg = (uint8_t)dst(g);
		op_modrm(g, size(g), 0, 1, 0x40 | below(g, 16), &o, false);
	} else {
		if (!o.mem)
			o.rm = (uint8_t)(g->in_loop ? 0 : below(g, 4)); /* AL to BL */
		o.reg = 0;
		op_modrm(g, 4, 0, 1, 0x90 | below(g, 16), &o, false);
	}
}

static void gen_bits(struct gen *g)
{
	static const struct { uint8_t prefix, opcode; } ops[] = {
		{ 0, 0xbc }, { 0, 0xbd }, { 0xf3, 0xb8 }, { 0xf3, 0xbc }, { 0xf3, 0xbd }, { 0, 0xaf }, { 0, 0xaf },
	};
	unsigned int k = below(g, 10);
	struct operand o = any(g, false);

	if (k < 7) {
		o.reg = (uint8_t)dst(g);
		op_modrm(g, below(g, 2) ? 8 : 4, ops[k].prefix, 1, ops[k].opcode, &o, false);
	} else if (k == 7) {
		o = any(g, true);
		o.reg = (uint8_t)(4 + below(g, 4));
		op_modrm(g, size(g), 0, 1, 0xba, &o, false);
		put(g, below(g, 256));
	} else if (k == 8) {
		o = any(g, true);
		op_modrm(g, size(g), 0, 1, below(g, 2) ? 0xa4 : 0xac, &o, false);
		put(g, below(g, 64));
	} else {
		unsigned int r = dst(g);

		put(g, 0x48 | r >> 3);
		put(g, 0x0f);
		put(g, 0xc8 | (r & 7));
	}
}

static void gen_atomic(struct gen *g)
{
	static const uint8_t opcodes[] = { 0xb1, 0xc1 };
	struct operand o = { .reg = (uint8_t)dst(g) };
	unsigned int k = below(g, 3);

	make_mem(g, &o);
	if (k < 2 && below(g, 2))
		put(g, 0xf0);
	if (k < 2)
		op_modrm(g, below(g, 2) ? 8 : 4, 0, 1, opcodes[k], &o, false);
	else
		op_modrm(g, below(g, 2) ? 8 : 4, 0, 0, 0x87, &o, false);
}

static void gen_stack(struct gen *g)
{
	unsigned int r = below(g, 2) ? src(g) : dst(g);

	if (g->in_sub)
		return;
	switch (below(g, 8)) {
	case 0:
		put(g, 0x68);
		put_n(g, random_next(&g->s), 4);
		break;
	case 1:
		put(g, 0x9c); /* pushfq */
		break;
	case 2:
	case 3:
	case 4:
		if (r >= 8)
			put(g, 0x41);
		put(g, 0x50 | (r & 7));
		break;
	default:
		r = dst(g);
		if (r >= 8)
			put(g, 0x41);
		put(g, 0x58 | (r & 7));
	}
}

static void gen_flag(struct gen *g)
{
	static const uint8_t ops[] = { 0xf5, 0xf8, 0xf9, 0x98, 0x99, 0x9e, 0x9f, 0xfc, 0xfd };

	if (below(g, 2))
		put(g, 0x48);
	put(g, ops[below(g, sizeof(ops))]);
}

static void gen_vector(struct gen *g)
{
	static const struct { uint8_t prefix, opcode; } ops[] = {
		{ 0, 0x10 }, { 0, 0x11 }, { 0x66, 0x6f }, { 0xf3, 0x6f }, { 0xf3, 0x7f }, { 0, 0x58 }, { 0x66, 0x59 },
		{ 0xf2, 0x58 }, { 0xf2, 0x59 }, { 0xf2, 0x5e }, { 0xf2, 0x51 }, { 0x66, 0xef }, { 0x66, 0xfe },
		{ 0x66, 0xd4 }, { 0x66, 0x74 }, { 0x66, 0xdb }, { 0x66, 0x61 }, { 0xf3, 0x7e }, { 0x66, 0xd6 },
		{ 0x66, 0x2e }, { 0, 0x2f }, { 0x66, 0xf4 }, { 0xf3, 0xe6 }, { 0, 0x28 },
	};
	unsigned int k = below(g, sizeof(ops) / sizeof(ops[0]) + 4);
	struct operand o = any(g, false);

	if (o.mem && g->tame) {
		o.base = R12;
		o.rip = o.no_base = false;
		o.disp &= 0x2ff0;
	}
	if (k < sizeof(ops) / sizeof(ops[0])) {
		op_modrm(g, 4, ops[k].prefix, 1, ops[k].opcode, &o, false);
	} else if (k & 1) { /* cvtsi2sd, movq to xmm */
		op_modrm(g, 8, below(g, 2) ? 0xf2 : 0x66, 1, 0x2a, &o, false);
	} else { /* cvttsd2si, movmskps */
		o.reg = (uint8_t)dst(g);
		op_modrm(g, 8, 0xf2, 1, 0x2c, &o, false);
	}
}

static void gen_x87(struct gen *g)
{
	static const uint8_t ops[][2] = { { 0xd9, 0xe8 }, { 0xd9, 0xeb }, { 0xd8, 0xc1 }, { 0xdc, 0xc9 },
		{ 0xd9, 0xfa },
		{ 0xdb, 0xe3 }, { 0xdd, 0xd8 } };
	unsigned int k = below(g, 10);
	struct operand o = { .mem = true };

	if (k < 7) {
		put(g, ops[k][0]);
		put(g, ops[k][1]);
		return;
	}
	make_mem(g, &o);
	o.reg = (uint8_t)(k == 7 ? 0 : k == 8 ? 3 : 2);
	op_modrm(g, 4, 0, 0, 0xdd, &o, false);
}

/* BMI: VEX.LZ or L0 with three registers */
static void gen_vex(struct gen *g)
{
	static const struct { uint8_t map, pp, opcode; } ops[] = {
		{ 2, 0, 0xf2 }, { 2, 0, 0xf7 }, { 2, 0, 0xf5 }, { 2, 3, 0xf6 }, { 2, 1, 0xf7 }, { 2, 2, 0xf7 },
		{ 2, 3, 0xf7 }, { 2, 2, 0xf5 }, { 2, 3, 0xf5 }, { 1, 1, 0xfe }, { 1, 0, 0x58 }, { 1, 3, 0x59 },
	};
	unsigned int k = below(g, sizeof(ops) / sizeof(ops[0]));
	unsigned int r = dst(g), v = k == 3 ? dst(g) : src(g), m = src(g);
	bool mem = one_in(g, 3), wide = k < 9 && below(g, 2);

	if (mem)
		m = R12;
	put(g, 0xc4);
	put(g, (~r >> 3 & 1) << 7 | 1 << 6 | (~m >> 3 & 1) << 5 | ops[k].map);
	put(g, (unsigned)wide << 7 | (~v & 15) << 3 | (k == 9 ? 4u : 0) | ops[k].pp);
	put(g, ops[k].opcode);
	if (mem) {
		put(g, 0x84 | (r & 7) << 3);
		put(g, 0x24);
		put_n(g, (uint32_t)displacement(g), 4);
	} else {
		put(g, 0xc0 | (r & 7) << 3 | (m & 7));
	}
}

static void gen_string(struct gen *g)
{
	static const uint8_t ops[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xa6, 0xae };
	unsigned int prefix = below(g, 3);

	if (g->in_loop)
		return;
	lea_r12(g, 7, 0x800 + below(g, 0x2000));
	slot(g, false);
	lea_r12(g, 6, 0x800 + below(g, 0x2000));
	slot(g, false);
	put(g, 0xb9); /* mov ecx */
	put_n(g, below(g, 100), 4);
	slot(g, false);
	if (prefix)
		put(g, prefix == 1 ? 0xf3 : 0xf2);
	if (below(g, 2))
		put(g, 0x48);
	put(g, ops[below(g, sizeof(ops))]);
}

/* Into the program itself, by one of two addresses. */
static void gen_smc(struct gen *g)
{
	unsigned int at;

	if (!g->nimm)
		return;
	at = g->imm_at[below(g, g->nimm)];
	put(g, 0xc6); /* mov byte [abs], imm */
	put(g, 0x04);
	put(g, 0x25);
	put_n(g, (uint32_t)(CODE_GPA + at + below(g, 4) + (below(g, 2) ? ALIAS : 0)), 4);
	put(g, below(g, 256));
}

static void gen_system(struct gen *g)
{
	static const struct { uint8_t n, bytes[4]; bool user; } ops[] = {
		{ 1, { 0xfa }, false }, { 1, { 0xfb }, false }, { 3, { 0x0f, 0x20, 0xc0 }, false },
		{ 3, { 0x0f, 0x20, 0xd8 }, false }, { 3, { 0x0f, 0x01, 0xf8 }, false }, /* swapgs */
		{ 2, { 0x8c, 0xd8 }, true }, { 3, { 0x0f, 0x01, 0xe0 }, true },	/* mov eax,ds; smsw eax */
		{ 2, { 0x0f, 0x0b }, true }, { 2, { 0x0f, 0x06 }, false },	/* ud2; clts */
	};
	unsigned int k = below(g, 10);

	if (k == 9) { /* mov rax, cr3; mov cr3, rax */
		if (!g->p->user) {
			put_n(g, 0xd8200f, 3);
			slot(g, false);
			put_n(g, 0xd8220f, 3);
		}
		return;
	}
	if ((g->p->user && !ops[k].user) || (g->tame && ops[k].bytes[1] == 0x0b))
		return;
	for (unsigned int i = 0; i < ops[k].n; i++)
		put(g, ops[k].bytes[i]);
}

/* ---- control ------------------------------------------------------------------------------------------------ */

static void gen_one(struct gen *g);

static void gen_some(struct gen *g, unsigned int n)
{
	g->depth++;
	for (unsigned int i = 0; i < n; i++) {
		slot(g, false);
		gen_one(g);
	}
	g->depth--;
}

static void gen_skip(struct gen *g)
{
	unsigned int cc = below(g, 17), at;

	if (cc < 16) {
		put(g, 0x0f);
		put(g, 0x80 | cc);
	} else {
		put(g, 0xe9);
	}
	at = g->p->n;
	put_n(g, 0, 4);
	gen_some(g, 1 + below(g, 6));
	patch(g, at, g->p->n);
}

static void gen_loop(struct gen *g)
{
	unsigned int top;

	if (g->in_loop)
		return;
	g->p->fixed[g->p->nslots - 1] = true;
	put(g, 0xb9); /* mov ecx, n */
	put_n(g, 1 + below(g, 5), 4);
	top = g->p->n;
	g->in_loop = true;
	gen_some(g, 1 + below(g, 5));
	g->in_loop = false;
	slot(g, true);
	put(g, 0xff); /* dec ecx; jnz top */
	put(g, 0xc9);
	slot(g, true);
	put(g, 0x0f);
	put(g, 0x85);
	put_n(g, 0, 4);
	patch(g, g->p->n - 4, top);
}

static void gen_call(struct gen *g)
{
	if (g->ncalls == 64 || g->in_loop) /* a subroutine may use RCX */
		return;
	put(g, 0xe8);
	g->calls[g->ncalls++] = g->p->n;
	put_n(g, 0, 4);
}

/* jmp or call through a register, to the next instruction */
static void gen_indirect(struct gen *g)
{
	unsigned int at, call = below(g, 2);

	put(g, 0x48); /* lea rax, [rip + x] */
	put(g, 0x8d);
	put(g, 0x05);
	at = g->p->n;
	put_n(g, 0, 4);
	slot(g, false);
	put(g, 0xff);
	put(g, call ? 0xd0 : 0xe0);
	patch(g, at, g->p->n);
}

static void (*const gens[])(struct gen *) = {
	gen_alu, gen_alu, gen_alu, gen_alu, gen_imm, gen_imm, gen_imm, gen_shift, gen_shift, gen_unary, gen_mov,
	gen_mov, gen_mov, gen_mov, gen_mov, gen_mov_imm32, gen_lea, gen_lea, gen_extend, gen_cond, gen_cond, gen_bits,
	gen_bits, gen_atomic, gen_stack, gen_stack, gen_flag, gen_vector, gen_vector,
	gen_vector, gen_x87, gen_vex, gen_vex, gen_more, gen_more, gen_more, gen_more, gen_more, gen_more, gen_more,
	gen_more,
};
static void (*const rare[])(struct gen *) = {
	gen_string, gen_smc, gen_system, gen_indirect, gen_call, gen_call, gen_more_rare, gen_more_rare, gen_more_rare,
	gen_more_rare,
};

static void gen_one(struct gen *g)
{
	unsigned int k = below(g, 100);

	if (k < 6 && g->depth < 3)
		gen_skip(g);
	else if (k < 8 && g->depth < 3)
		gen_loop(g);
	else if (k < 14)
		rare[below(g, sizeof(rare) / sizeof(rare[0]))](g);
	else
		gens[below(g, sizeof(gens) / sizeof(gens[0]))](g);
}

/* Registers that everything leans on. */
static void gen_top(struct gen *g)
{
	slot(g, true);
	put(g, 0x49); /* mov r12, data */
	put(g, 0xbc);
	put_n(g, DATA_GPA + 0x1000, 8);
	slot(g, true);
	put(g, 0x48); /* mov rbp */
	put(g, 0xbd);
	put_n(g, DATA_GPA + 0x3000 + (g->s & 4 ? ALIAS : 0), 8);
	slot(g, true);
	put(g, 0x48); /* mov rsp */
	put(g, 0xbc);
	put_n(g, STACK_GPA + 0x2000 - (g->s & 24), 8);
}

/* Behind each subroutine's end a page may end, too. */
static void gen_subroutines(struct gen *g)
{
	g->in_sub = true;
	for (unsigned int k = 0; k < g->ncalls; k++) {
		unsigned int calls = g->ncalls;

		patch(g, g->calls[k], g->p->n);
		g->ncalls = 64; /* none from here */
		gen_some(g, 1 + below(g, 4));
		g->ncalls = calls;
		slot(g, true);
		put(g, 0xc3);
	}
}

void program_make(struct program *p, uint64_t seed)
{
	struct gen g = { .p = p, .s = seed };
	unsigned int top;

	memset(p, 0, sizeof(*p));
	memset(p->code, 0x90, sizeof(p->code));
	p->seed = seed;
	p->user = below(&g, 2);
	g.tame = below(&g, 3);
	p->hole = !g.tame && one_in(&g, 2) ? DATA_GPA + 0x1000 * (1 + below(&g, 5)) : 0;
	p->n = below(&g, 0x1000);
	slot(&g, true);
	p->code[0] = 0xe9;
	if (p->n < 5)
		p->n = 5;
	patch(&g, 1, p->n);
	p->slot[0] = 0;
	top = p->n;
	gen_top(&g);
	gen_some(&g, 20 + below(&g, 120));
	slot(&g, true);
	put_n(&g, 0x250cff, 3); /* dec dword [COUNT] */
	put_n(&g, COUNT_GPA, 4);
	slot(&g, true);
	put(&g, 0x0f);
	put(&g, 0x85);
	put_n(&g, 0, 4);
	patch(&g, p->n - 4, top);
	slot(&g, true);
	put(&g, 0xe6); /* out 0xf4, al */
	put(&g, 0xf4);
	slot(&g, true);
	put(&g, 0xf4);
	gen_subroutines(&g);
	p->slot[p->nslots] = (uint16_t)p->n;
}
