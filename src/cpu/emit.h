/* SPDX-License-Identifier: MIT */
/*
 * Bytes of host code: the few encodings that stubs and translated blocks are made of. Registers are enum gpr
 * numbers.
 */
#pragma once
#include "base/base.h"
#include "cpu/insn.h"

#define EMIT_MAX 512 /* a stub */

/**
 * struct emit - code being written
 * @n: bytes written
 * @max: room in @buf; running out is reported once, at the end, by emit_full()
 */
struct emit {
	unsigned int n;
	unsigned int max;
	u8 *buf;
};

#define REF_NONE 0xff

/**
 * struct mem_ref - a memory operand of host code
 * @base, @index: registers, or REF_NONE
 * @scale: log2
 * @gs: relative to the GS base
 */
struct mem_ref {
	u8 base;
	u8 index;
	u8 scale;
	bool gs;
	s32 disp;
};

enum emit_cc { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A };

static inline bool emit_full(const struct emit *e) { return e->n >= e->max; }

static inline void emit1(struct emit *e, unsigned int byte)
{
	if (e->n < e->max)
		e->buf[e->n++] = (u8)byte;
}

static inline void emit4(struct emit *e, u32 val)
{
	if (unlikely(e->n + 4 > e->max)) {
		e->n = e->max;
		return;
	}
	__builtin_memcpy(e->buf + e->n, &val, 4);
	e->n += 4;
}

/*
 * Where the next bytes go, if there is room for the longest instruction; else code is full. What is behind them in the
 * buffer is not kept.
 */
#define EMIT_ROOM 16u
static inline u8 *emit_begin(struct emit *e)
{
	if (likely(e->n + EMIT_ROOM <= e->max))
		return e->buf + e->n;
	e->n = e->max;
	return NULL;
}

static inline void emit_end(struct emit *e, const u8 *p)
{
	e->n = (unsigned int)(p - e->buf);
}

void emit_bytes(struct emit *e, const u8 *bytes, unsigned int n);

/* [base + disp]; wide: REX.W. opcode: one byte, or 0x0f00 | byte for the two-byte map. */
void emit_rm(struct emit *e, bool wide, unsigned int opcode, unsigned int reg, unsigned int base,
	     s32 disp);
/* REX.X and REX.B of a memory operand */
static inline unsigned int ref_rex(const struct mem_ref *m)
{
	return (m->base != REF_NONE && m->base >= 8 ? 1u : 0) | (m->index != REF_NONE && m->index >= 8 ? 2u : 0);
}

/* ModRM, SIB and displacement of a memory operand with this reg field; up to four bytes behind them are written too */
u8 *emit_put_ref(u8 *p, unsigned int reg, const struct mem_ref *m);
void emit_ref_modrm(struct emit *e, unsigned int reg, const struct mem_ref *m);
/* op reg, memory operand: conventions as emit_rm() */
void emit_ref(struct emit *e, bool wide, unsigned int opcode, unsigned int reg, const struct mem_ref *m);
/* register to register, same conventions */
void emit_rr(struct emit *e, bool wide, unsigned int opcode, unsigned int reg, unsigned int rm);
/* lea reg, [base + index << scale] */
void emit_lea_sib(struct emit *e, unsigned int reg, unsigned int base, unsigned int index,
		  unsigned int scale);
/* op reg, imm with the 81/83 group's /ext */
void emit_alu_imm(struct emit *e, bool wide, unsigned int ext, unsigned int reg, s32 imm);
void emit_mov_imm(struct emit *e, unsigned int reg, u32 imm);

static inline void emit_load(struct emit *e, unsigned int reg, unsigned int base, size_t disp)
{
	emit_rm(e, true, 0x8b, reg, base, (s32)disp);
}

static inline void emit_store(struct emit *e, unsigned int reg, unsigned int base, size_t disp)
{
	emit_rm(e, true, 0x89, reg, base, (s32)disp);
}

/* Forward jumps: the position to give to emit_land() when the target is reached. */
unsigned int emit_jcc(struct emit *e, enum emit_cc cc);
unsigned int emit_jmp(struct emit *e);
void emit_land(struct emit *e, unsigned int pos);
/* Backward jump to an earlier position. */
void emit_jmp_back(struct emit *e, unsigned int target);
/* mov rax, fn; call rax */
void emit_call(struct emit *e, const void *fn);
/* Put what was emitted behind what is in use of x, and the next one at a multiple of align. Return: where it runs. */
const u8 *emit_append(struct xmem *x, u32 *used, const struct emit *e, u32 align);
/* call [base + disp], jmp [base + disp] */
void emit_call_mem(struct emit *e, unsigned int base, s32 disp);
void emit_jmp_mem(struct emit *e, unsigned int base, s32 disp);
