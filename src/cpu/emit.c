/* SPDX-License-Identifier: MIT */
#include "cpu/emit.h"

#include <string.h>

void emit4(struct emit *e, u32 val)
{
	emit1(e, val & 0xff);
	emit1(e, val >> 8 & 0xff);
	emit1(e, val >> 16 & 0xff);
	emit1(e, val >> 24);
}

void emit_bytes(struct emit *e, const u8 *bytes, unsigned int n)
{
	while (n--)
		emit1(e, *bytes++);
}

static void emit_opcode(struct emit *e, unsigned int opcode)
{
	if (opcode > 0xff)
		emit1(e, 0x0f);
	emit1(e, opcode & 0xff);
}

void emit_rm(struct emit *e, bool wide, unsigned int opcode, unsigned int reg, unsigned int base,
	     s32 disp)
{
	unsigned int rex = (wide ? 8u : 0) | (reg >> 3) << 2 | base >> 3;
	bool small = disp >= -128 && disp < 128;
	unsigned int mod = disp == 0 && (base & 7) != GPR_RBP ? 0 : small ? 1 : 2;

	if (rex)
		emit1(e, 0x40 | rex);
	emit_opcode(e, opcode);
	emit1(e, mod << 6 | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == GPR_RSP)
		emit1(e, 0x24);
	if (mod == 1)
		emit1(e, (u8)disp);
	else if (mod == 2)
		emit4(e, (u32)disp);
}

void emit_ref_modrm(struct emit *e, unsigned int reg, const struct mem_ref *m)
{
	bool small = m->disp >= -128 && m->disp < 128;
	unsigned int mod = m->disp == 0 && (m->base & 7) != GPR_RBP ? 0 : small ? 1 : 2;
	unsigned int index = m->index == REF_NONE ? 4u : m->index & 7u;

	reg = (reg & 7) << 3;
	if (m->base == REF_NONE) {
		emit1(e, reg | 4);
		emit1(e, (unsigned int)m->scale << 6 | index << 3 | 5);
		emit4(e, (u32)m->disp);
		return;
	}
	if (m->index != REF_NONE || (m->base & 7) == GPR_RSP) {
		emit1(e, mod << 6 | reg | 4);
		emit1(e, (unsigned int)m->scale << 6 | index << 3 | (m->base & 7u));
	} else {
		emit1(e, mod << 6 | reg | (m->base & 7u));
	}
	if (mod == 1)
		emit1(e, (u8)m->disp);
	else if (mod == 2)
		emit4(e, (u32)m->disp);
}

void emit_ref(struct emit *e, bool wide, unsigned int opcode, unsigned int reg, const struct mem_ref *m)
{
	unsigned int rex = (wide ? 8u : 0) | (reg >> 3) << 2 | ref_rex(m);

	if (m->gs)
		emit1(e, 0x65);
	if (rex)
		emit1(e, 0x40 | rex);
	emit_opcode(e, opcode);
	emit_ref_modrm(e, reg, m);
}

void emit_rr(struct emit *e, bool wide, unsigned int opcode, unsigned int reg, unsigned int rm)
{
	unsigned int rex = (wide ? 8u : 0) | (reg >> 3) << 2 | rm >> 3;

	if (rex)
		emit1(e, 0x40 | rex);
	emit_opcode(e, opcode);
	emit1(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void emit_lea_sib(struct emit *e, unsigned int reg, unsigned int base, unsigned int index,
		  unsigned int scale)
{
	emit1(e, 0x48 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3);
	emit1(e, 0x8d);
	emit1(e, ((base & 7) == GPR_RBP ? 0x44u : 0x04u) | (reg & 7) << 3);
	emit1(e, scale << 6 | (index & 7) << 3 | (base & 7));
	if ((base & 7) == GPR_RBP)
		emit1(e, 0);
}

void emit_alu_imm(struct emit *e, bool wide, unsigned int ext, unsigned int reg, s32 imm)
{
	bool small = imm >= -128 && imm < 128;
	unsigned int rex = (wide ? 8u : 0) | reg >> 3;

	if (rex)
		emit1(e, 0x40 | rex);
	emit1(e, small ? 0x83 : 0x81);
	emit1(e, 0xc0 | ext << 3 | (reg & 7));
	if (small)
		emit1(e, (u8)imm);
	else
		emit4(e, (u32)imm);
}

void emit_mov_imm(struct emit *e, unsigned int reg, u32 imm)
{
	if (reg >> 3)
		emit1(e, 0x41);
	emit1(e, 0xb8 | (reg & 7));
	emit4(e, imm);
}

unsigned int emit_jcc(struct emit *e, enum emit_cc cc)
{
	emit1(e, 0x0f);
	emit1(e, 0x80u | cc);
	emit4(e, 0);
	return e->n;
}

unsigned int emit_jmp(struct emit *e)
{
	emit1(e, 0xe9);
	emit4(e, 0);
	return e->n;
}

void emit_land(struct emit *e, unsigned int pos)
{
	u32 rel = e->n - pos;

	if (!emit_full(e))
		memcpy(&e->buf[pos - 4], &rel, 4);
}

void emit_jmp_back(struct emit *e, unsigned int target)
{
	emit1(e, 0xe9);
	emit4(e, target - (e->n + 4));
}

void emit_call(struct emit *e, const void *fn)
{
	u64 addr = (u64)fn;

	emit1(e, 0x48);
	emit1(e, 0xb8);
	emit4(e, (u32)addr);
	emit4(e, (u32)(addr >> 32));
	emit1(e, 0xff);
	emit1(e, 0xd0);
}

const u8 *emit_append(struct xmem *x, u32 *used, const struct emit *e, u32 align)
{
	u32 at = *used;

	memcpy(x->rw + at, e->buf, e->n);
	*used = (at + e->n + align - 1) & ~(align - 1);
	return x->rx + at;
}

void emit_call_mem(struct emit *e, unsigned int base, s32 disp)
{
	emit_rm(e, false, 0xff, 2, base, disp);
}

void emit_jmp_mem(struct emit *e, unsigned int base, s32 disp)
{
	emit_rm(e, false, 0xff, 4, base, disp);
}
