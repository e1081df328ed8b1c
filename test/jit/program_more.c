/* SPDX-License-Identifier: MIT */
/*
 * Instructions that compilers seldom use: accumulator and high-byte forms, bit strings, frames, segments
 * with a base, strings over pages, AVX, MMX, unmasked exceptions of x87 and SSE, system instructions, page tables.
 */
#include "gen.h"

/* mov reg, imm32 */
static void mov_imm(struct gen *g, unsigned int reg, uint32_t imm)
{
	put(g, 0xb8 | reg);
	put_n(g, imm, 4);
	slot(g, false);
}

/* An operand at R12, within the first pages. */
static struct operand data(struct gen *g, unsigned int reg, unsigned int align)
{
	struct operand o = { .mem = true, .index = 4, .base = R12, .reg = (uint8_t)reg };

	o.disp = displacement(g) & ~(int32_t)(align - 1);
	return o;
}

static void bytes(struct gen *g, const char *s, unsigned int n)
{
	while (n--)
		put(g, (unsigned char)*s++);
}
#define BYTES(g, s) bytes((g), s, sizeof(s) - 1)

static void gen_accumulator(struct gen *g)
{
	unsigned int osz = size(g), k = below(g, 9), op = k == 8 ? 0xa8 : k << 3 | 4; /* test, or arithmetic */

	if (below(g, 2)) {
		put(g, op);
		put(g, below(g, 256));
		return;
	}
	if (osz == 2)
		put(g, 0x66);
	if (osz == 8)
		put(g, 0x48);
	put(g, op + 1);
	put_n(g, random_next(&g->s), imm_size(osz));
}

/* AH to BH; CH counts in loops */
static void gen_high(struct gen *g)
{
	static const uint8_t opcodes[] = { 0x00, 0x08, 0x12, 0x20, 0x28, 0x32, 0x38, 0x84, 0x88, 0x8a, 0x86 };
	unsigned int rm = g->in_loop ? 6 + below(g, 2) : 4 + below(g, 4), reg = below(g, g->in_loop ? 1 : 4);
	struct operand o = { .rm = (uint8_t)rm, .reg = (uint8_t)(below(g, 2) ? reg : rm) };

	switch (below(g, 4)) {
	case 0:
		o.reg = (uint8_t)below(g, 8);
		op_modrm(g, 4, 0, 0, 0x80, &o, false);
		put(g, below(g, 256));
		break;
	case 1:
		o.reg = (uint8_t)(g->in_loop ? 0 : below(g, 4));
		op_modrm(g, 4, 0, 1, below(g, 2) ? 0xb6 : 0xbe, &o, false);
		break;
	case 2:
		o.reg = (uint8_t)below(g, 4);
		op_modrm(g, 4, 0, 0, below(g, 2) ? 0xf6 : 0xfe, &o, false);
		if (g->p->code[g->p->n - 2] == 0xf6 && o.reg < 2)
			put(g, below(g, 256));
		else if (g->p->code[g->p->n - 2] == 0xfe && o.reg > 1)
			g->p->code[g->p->n - 1] &= (uint8_t)~0x10; /* inc or dec */
		break;
	default:
		op_modrm(g, 4, 0, 0, opcodes[below(g, sizeof(opcodes))], &o, false);
	}
}

static void gen_exchange(struct gen *g)
{
	struct operand o = { .reg = (uint8_t)dst(g), .rm = (uint8_t)dst(g) };

	switch (below(g, 5)) {
	case 0:
		op_modrm(g, size(g), 0, 0, 0x87, &o, false);
		break;
	case 1:
		op_modrm(g, size(g), 0, 1, below(g, 2) ? 0xc1 : 0xb1, &o, false);
		break;
	case 2:
		o = any(g, false);
		op_modrm(g, size(g), 0, 0, 0x85, &o, false);
		break;
	case 3: /* cmpxchg8b, cmpxchg16b: write RDX:RAX */
		o = data(g, 1, !g->tame && one_in(g, 8) ? 4 : 16);
		if (below(g, 2))
			put(g, 0xf0);
		op_modrm(g, below(g, 2) ? 8 : 4, 0, 1, 0xc7, &o, false);
		break;
	default: /* movbe */
		o = data(g, o.reg, 1);
		op_modrm(g, size(g), 0, 2, below(g, 2) ? 0xf0 : 0xf1, &o, false);
	}
}

/* A bit string reaches beyond its operand. */
static void gen_bit_string(struct gen *g)
{
	static const uint8_t opcodes[] = { 0xa3, 0xab, 0xb3, 0xbb };
	struct operand o = data(g, 2, 1);
	unsigned int k = below(g, 4);

	mov_imm(g, 2, (uint32_t)below(g, 0x8000) - 0x2000u * below(g, 2));
	if (k && one_in(g, 3))
		put(g, 0xf0);
	op_modrm(g, size(g), 0, 1, opcodes[k], &o, false);
}

static void gen_frame(struct gen *g)
{
	struct operand o = data(g, 6, 8);

	switch (below(g, 6)) {
	case 0: /* enter; leave */
		put(g, 0xc8);
		put_n(g, below(g, 0x80), 2);
		put(g, below(g, 3));
		slot(g, false);
		put(g, 0xc9);
		break;
	case 1: /* push mem; pop mem */
		op_modrm(g, 4, 0, 0, 0xff, &o, false);
		slot(g, false);
		o = data(g, 0, 8);
		op_modrm(g, 4, 0, 0, 0x8f, &o, false);
		break;
	case 2: /* pushfq; popfq */
		put(g, 0x9c);
		slot(g, false);
		put(g, 0x9d);
		break;
	case 3:
		put(g, 0x6a);
		put(g, below(g, 256));
		slot(g, false);
		put(g, 0x58); /* pop rax */
		break;
	case 4: /* 16 bits */
		BYTES(g, "\x66\x50");
		slot(g, false);
		put(g, 0x66);
		put(g, 0x58 | (g->in_loop ? 2u : below(g, 4)));
		break;
	default: /* lea rax, behind; push rax; ret */
		BYTES(g, "\x48\x8d\x05\x02\0\0\0");
		slot(g, false);
		put(g, 0x50);
		slot(g, false);
		put(g, 0xc3);
	}
}

static void gen_indirect_mem(struct gen *g)
{
	struct operand o = data(g, 0, 8);
	unsigned int at;

	BYTES(g, "\x48\x8d\x05"); /* lea rax, [rip + x] */
	at = g->p->n;
	put_n(g, 0, 4);
	slot(g, false);
	op_modrm(g, 8, 0, 0, 0x89, &o, false);
	slot(g, false);
	o.reg = 4; /* jmp */
	op_modrm(g, 4, 0, 0, 0xff, &o, false);
	patch(g, at, g->p->n);
}

static void gen_segment(struct gen *g)
{
	struct operand o = data(g, dst(g), 1);

	switch (below(g, 4)) {
	case 0: /* rdfsbase, rdgsbase */
		put(g, 0xf3);
		put(g, o.reg >= 8 ? 0x49 : 0x48);
		BYTES(g, "\x0f\xae");
		put(g, (below(g, 2) ? 0xc8u : 0xc0u) | (o.reg & 7));
		break;
	case 1: /* mov eax, imm; wrfsbase rax */
		mov_imm(g, 0, below(g, 0x100) * 8);
		BYTES(g, "\xf3\x48\x0f\xae");
		put(g, below(g, 2) ? 0xd0 : 0xd8);
		break;
	default:
		put(g, 0x64 | below(g, 2));
		op_modrm(g, size(g), 0, 0, below(g, 2) ? 0x89 : 0x8b, &o, false);
	}
}

/* 67: the address is cut to 32 bits, after an addition that may carry. */
static void gen_short_address(struct gen *g)
{
	struct operand o = data(g, dst(g), 1);
	static const uint8_t opcodes[] = { 0x89, 0x8b, 0x8d, 0x03, 0x01 };

	put(g, 0x67);
	if (one_in(g, 3)) {
		o.no_base = true;
		o.disp += (int32_t)DATA_GPA;
	}
	op_modrm(g, size(g), 0, 0, opcodes[below(g, 5)], &o, false);
}

/* JRCXZ, LOOP and short branches, over something short */
static void gen_short(struct gen *g)
{
	unsigned int at, cc = below(g, 20), end;

	if (cc >= 16 && g->in_loop)
		cc = 5;
	if (cc == 17)
		put(g, 0x67); /* jecxz */
	put(g, cc < 16 ? 0x70 | cc : cc < 18 ? 0xe3 : 0xe0u | (cc & 3));
	at = g->p->n;
	put(g, 0);
	end = 1 + below(g, 3);
	for (unsigned int k = 0; k < end; k++) {
		slot(g, false);
		gen_accumulator(g);
	}
	g->p->code[at] = (uint8_t)(g->p->n - at - 1);
}

/* Over pages, up and down, into the read-only one and beyond the mapped ones. */
static void gen_string_far(struct gen *g)
{
	static const uint8_t ops[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xa6, 0xa7, 0xae, 0xaf };
	unsigned int reach = g->tame ? 0x3000 : 0x7000, prefix = below(g, 5);

	if (g->in_loop)
		return;
	lea_r12(g, 7, one_in(g, 3) ? 0x1000 * (1 + below(g, 2)) - below(g, 64) : 0x800 + below(g, reach));
	slot(g, false);
	lea_r12(g, 6, one_in(g, 3) ? 0x1000 * (1 + below(g, 2)) - below(g, 64) : 0x800 + below(g, reach));
	slot(g, false);
	mov_imm(g, 1, one_in(g, 4) ? below(g, 0x600) : below(g, 40));
	if (one_in(g, 8)) {
		put(g, 0xfc | below(g, 2));
		slot(g, false);
	}
	if (one_in(g, 16))
		put(g, 0x67);
	if (prefix)
		put(g, prefix < 4 ? 0xf3 : 0xf2);
	if (one_in(g, 6))
		put(g, 0x66);
	else if (below(g, 2))
		put(g, 0x48);
	put(g, ops[below(g, sizeof(ops))]);
}

/* ---- vectors ------------------------------------------------------------------------------------------------- */

/* mov dword [r12 + d], value; then the instruction 0F AE /2 or D9 /5 with it */
static void load_control(struct gen *g, uint32_t value, bool x87)
{
	struct operand o = data(g, 0, 4);

	op_modrm(g, 4, 0, 0, 0xc7, &o, false);
	put_n(g, value, 4);
	slot(g, false);
	o.reg = x87 ? 5 : 2;
	op_modrm(g, 4, 0, x87 ? 0 : 1, x87 ? 0xd9 : 0xae, &o, false);
}

/* One exception unmasked now and then, other rounding, denormals as zeros. */
static void gen_control(struct gen *g)
{
	static const uint32_t mxcsr[] = { 0x1f80, 0x1d80, 0x1f00, 0x1b80, 0x1780, 0x9fc0, 0x3f80, 0x7f80, 0x1f80,
					  0x0f80 };
	static const uint32_t fcw[] = { 0x37f, 0x37b, 0x37e, 0x377, 0x36f, 0x77f, 0x27f, 0xf7f, 0x37f, 0x35f };
	struct operand o = data(g, 3, 4);

	switch (below(g, 6)) {
	case 0:
	case 1:
		load_control(g, mxcsr[g->tame ? 5 + below(g, 3) : below(g, 10)], false);
		break;
	case 2:
		load_control(g, fcw[g->tame ? 5 + below(g, 3) : below(g, 10)], true);
		break;
	case 3:
		op_modrm(g, 4, 0, 1, 0xae, &o, false); /* stmxcsr */
		break;
	case 4:
		o.reg = 7;
		op_modrm(g, 4, 0, 0, 0xd9, &o, false); /* fnstcw */
		break;
	default:
		BYTES(g, "\xdf\xe0"); /* fnstsw ax */
	}
}

static void gen_x87_more(struct gen *g)
{
	static const char ops[][2] = {
		"\xd8\xf1", "\xde\xf9", "\xd9\xee", "\xd9\xe0", "\xd9\xe4", "\xd9\xf0",
		"\xd9\xfc", "\xdb\xe2", "\xd9\xd0", "\xd9\xc9", "\xdf\xe9", "\xda\xe9",
		"\xd9\xfd", "\xdd\xc0", "\x9b\x90", "\xd9\xf7", "\xda\xc1", "\xdb\xd9",
		"\xdb\xf1",
	};
	static const struct { uint8_t opcode, reg; } mem[] = {
		{ 0xd8, 0 }, { 0xdc, 6 }, { 0xdb, 0 }, { 0xdf, 5 }, { 0xdb, 3 }, { 0xdf, 7 }, { 0xdb, 5 }, { 0xdb, 7 },
		{ 0xda, 4 }, { 0xdd, 1 }, { 0xd9, 0 }, { 0xd9, 3 }, { 0xdd, 1 }, { 0xde, 1 },
	};
	unsigned int k = below(g, 33);

	if (k < 19) {
		bytes(g, ops[k], 2);
	} else {
		struct operand o = data(g, mem[k - 19].reg, below(g, 2) ? 1 : 8);

		op_modrm(g, 4, 0, 0, mem[k - 19].opcode, &o, false);
	}
}

static void gen_mmx(struct gen *g)
{
	static const uint8_t ops[] = { 0xfc, 0xfd, 0xef, 0x6f, 0x7f, 0x6e, 0x60, 0xd5, 0x74, 0x2a };
	struct operand o = { .reg = (uint8_t)below(g, 8), .rm = (uint8_t)below(g, 8) };

	if (one_in(g, 5)) {
		BYTES(g, "\x0f\x77"); /* emms */
		return;
	}
	if (one_in(g, 8)) { /* movq2dq, movdq2q */
		op_modrm(g, 4, 0xf2 + below(g, 2), 1, 0xd6, &o, false);
		return;
	}
	if (one_in(g, 3))
		o = data(g, o.reg, 1);
	if (one_in(g, 8)) {
		op_modrm(g, 4, 0, 1, 0x70, &o, false); /* pshufw */
		put(g, below(g, 256));
		return;
	}
	op_modrm(g, 4, 0, 1, ops[below(g, sizeof(ops))], &o, false);
}

/* VEX, three bytes */
static void vex(struct gen *g, unsigned int map, unsigned int pp, unsigned int l, unsigned int v, unsigned int opcode,
		const struct operand *o)
{
	put(g, 0xc4);
	put(g, (~(unsigned)o->reg >> 3 & 1) << 7 | (~(unsigned)o->index >> 3 & 1) << 6 |
	    (~(unsigned)(o->mem ? o->base : o->rm) >> 3 & 1) << 5 | map);
	put(g, (~v & 15) << 3 | l << 2 | pp);
	put(g, opcode);
	if (o->mem) {
		put(g, 0x84 | (o->reg & 7) << 3);
		put(g, (unsigned)o->scale << 6 | (o->index & 7) << 3 | (o->base & 7));
		put_n(g, (uint32_t)o->disp, 4);
	} else {
		put(g, 0xc0 | (o->reg & 7) << 3 | (o->rm & 7));
	}
}

static void gen_avx(struct gen *g)
{
	static const struct { uint8_t map, pp, opcode, mem; bool none; } ops[] = {
		{ 1, 0, 0x10, 2, true }, { 1, 0, 0x11, 2, true }, { 1, 1, 0x6f, 2, true }, { 1, 2, 0x7f, 2, true },
		{ 1, 0, 0x58, 0, false }, { 1, 1, 0x5e, 0, false }, { 1, 0, 0x51, 0, true }, { 1, 1, 0xef, 0, false },
		{ 1, 1, 0xd4, 0, false }, { 2, 1, 0x18, 1, true }, { 2, 1, 0x58, 0, true }, { 2, 1, 0x2c, 1, false },
		{ 2, 1, 0x2e, 1, false }, { 2, 1, 0x8c, 1, false }, { 2, 1, 0xb8, 0, false }, { 1, 0, 0x5b, 0, true },
		{ 2, 1, 0x36, 0, false }, { 1, 1, 0x7f, 1, true }, { 1, 0, 0x28, 1, true },
	};
	unsigned int k = below(g, sizeof(ops) / sizeof(ops[0]) + 2);
	struct operand o = { .reg = (uint8_t)below(g, 16), .rm = (uint8_t)below(g, 16), .index = 4 };

	if (k >= sizeof(ops) / sizeof(ops[0])) {
		put(g, 0xc5); /* vzeroall, vzeroupper */
		put(g, 0xf8 | (k & 1) << 2);
		put(g, 0x77);
		return;
	}
	if (ops[k].mem == 1 || (ops[k].mem == 2 ? below(g, 2) : one_in(g, 3)))
		o = data(g, o.reg, g->tame || below(g, 3) ? 32 : 1);
	vex(g, ops[k].map, ops[k].pp, k == 9 || k == 16 ? 1 : below(g, 2), ops[k].none ? 0 : below(g, 16),
	    ops[k].opcode, &o);
}

/* Gathers stop at the element that faults, with the mask cleared so far; MASKMOVDQU writes through RDI. */
static void gen_masked(struct gen *g)
{
	struct operand zero = { .reg = 2, .rm = 2 }, o = data(g, 3, 1);

	if (one_in(g, 3) && !g->in_loop) {
		lea_r12(g, 7, 0x1000 - below(g, 32));
		slot(g, false);
		BYTES(g, "\x66\x0f\xf7");
		put(g, 0xc0 | below(g, 64));
		return;
	}
	vex(g, 1, 1, 1, 2, 0xef, &zero);
	slot(g, false);
	if (below(g, 2)) { /* all ones less ones: small differences between elements */
		BYTES(g, "\xc4\xc1\x7e\x6f\x94\x24"); /* vmovdqu ymm2, [r12 + d] */
		put_n(g, 8 * below(g, 64), 4);
		slot(g, false);
		BYTES(g, "\xc5\xed\x72\xd2"); /* vpsrld ymm2, ymm2, n */
		put(g, g->tame ? 24u : 18 + below(g, 12));
		slot(g, false);
	}
	o.index = 2;
	o.scale = (uint8_t)below(g, 3);
	vex(g, 2, 1, below(g, 2), 4, below(g, 2) ? 0x90 : 0x92, &o);
}

/* ---- system ------------------------------------------------------------------------------------------------- */

static void gen_misc(struct gen *g)
{
	static const struct { uint8_t n; bool rcx; char bytes[7]; } ops[] = {
		{ 1, false, "\xcc" }, { 2, false, "\xcd\x80" }, { 3, false, "\x0f\x01\xca" },
		{ 3, false, "\x0f\x01\xcb" },
		{ 2, true, "\x0f\xa2" }, { 3, false, "\x0f\xae\xe8" }, { 3, false, "\x0f\xae\xf0" },
		{ 2, false, "\xf3\x90" },
		{ 4, false, "\xf3\x0f\x1e\xfa" }, { 5, false, "\x49\x8d\x5c\x24\x40" }, { 1, false, "\xd7" },
		{ 5, false, "\xf2\x0f\x38\xf1\xc2" }, { 6, false, "\x66\x48\x0f\x38\xf6\xc2" },
		{ 6, false, "\xf3\x48\x0f\x38\xf6\xd0" }, { 2, false, "\x0f\x05" }, { 1, false, "\xf4" },
		{ 5, false, "\x41\x0f\xae\x3c\x24" }, { 5, false, "\x41\x0f\x18\x0c\x24" },
	};
	unsigned int k = below(g, sizeof(ops) / sizeof(ops[0]));

	if ((ops[k].rcx && g->in_loop) || (k == 15 && !g->p->user) || (g->tame && g->p->user && k < 4) ||
	    (g->tame && (k < 2 || k == 10 || k == 14 || k == 15)))
		return;
	bytes(g, ops[k].bytes, ops[k].n);
}

/* CR0, CR4 and CR3 as they are; INVLPG; a data page becomes read-only or writable again. */
static void gen_paging(struct gen *g)
{
	struct operand o = data(g, 7, 1);

	if (g->p->user)
		return;
	switch (below(g, 5)) {
	case 0:
		op_modrm(g, 4, 0, 1, 0x01, &o, false); /* invlpg */
		break;
	case 1:
		BYTES(g, "\x0f\x20\xc0"); /* mov rax, cr0 and back */
		slot(g, false);
		BYTES(g, "\x0f\x22\xc0");
		break;
	case 2:
		BYTES(g, "\x0f\x20\xe0"); /* cr4 */
		slot(g, false);
		BYTES(g, "\x0f\x22\xe0");
		break;
	default: /* xor byte [entry], W; invlpg of that page by both its names */
		if (g->tame)
			return;
		{
			uint32_t page = (uint32_t)(DATA_GPA + 0x1000 * (2 + below(g, 3)));

			BYTES(g, "\x80\x34\x25");
			put_n(g, TABLES_LA + (page >> 12) * 8, 4);
			put(g, 2);
			BYTES(g, "\x0f\x01\x3c\x25");
			put_n(g, page, 4);
			BYTES(g, "\x0f\x01\x3c\x25");
			put_n(g, page + ALIAS, 4);
		}
	}
}

static void (*const gens[])(struct gen *) = {
	gen_accumulator, gen_accumulator, gen_high, gen_high, gen_exchange, gen_exchange, gen_frame, gen_frame,
	gen_segment, gen_short_address, gen_short, gen_short, gen_x87_more, gen_x87_more, gen_mmx, gen_avx, gen_avx,
	gen_avx,
};
static void (*const rare[])(struct gen *) = {
	gen_string_far, gen_string_far, gen_bit_string, gen_indirect_mem, gen_control, gen_control, gen_masked,
	gen_misc, gen_paging,
};

void gen_more(struct gen *g)
{
	gens[below(g, sizeof(gens) / sizeof(gens[0]))](g);
}

void gen_more_rare(struct gen *g)
{
	rare[below(g, sizeof(rare) / sizeof(rare[0]))](g);
}
