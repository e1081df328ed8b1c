/* SPDX-License-Identifier: MIT */
#include "cpu/emit.h"

#include <string.h>

void emit_bytes(struct emit *e, const u8 *bytes, unsigned int n)
{
	while (n--)
		emit1(e, *bytes++);
}

/*
 * ---- pieces of an instruction: where the next byte goes ------------------------------------------
 *
 * Bytes that may not be wanted are written, and the next ones over them: which it is would be mispredicted.
 */

static u8 *put4(u8 *p, u32 val)
{
	memcpy(p, &val, 4);
	return p + 4;
}

static u8 *put_opcode(u8 *p, unsigned int rex, unsigned int opcode)
{
	*p = (u8)(0x40 | rex);
	p += rex != 0;
	*p = 0x0f;
	p += opcode > 0xff;
	*p = (u8)opcode;
	return p + 1;
}

static u8 *put_disp(u8 *p, unsigned int mod, s32 disp)
{
	put4(p, (u32)disp);
	return p + (mod & 1) + (mod & 2) * 2;
}

static unsigned int disp_mod(unsigned int base, s32 disp)
{
	bool small = (u32)disp + 128 < 256, none = (disp == 0) & ((base & 7) != GPR_RBP);

	return none ? 0 : 2u - small;
}

u8 *emit_put_ref(u8 *p, unsigned int reg, const struct mem_ref *m)
{
	bool absolute = m->base == REF_NONE, indexed = m->index != REF_NONE;
	bool sib = absolute | indexed | ((m->base & 7) == GPR_RSP);
	unsigned int mod = disp_mod(m->base, m->disp), index = indexed ? m->index & 7u : 4u;
	unsigned int base = absolute ? 5u : m->base & 7u;

	*p++ = (u8)((absolute ? 0 : mod) << 6 | (reg & 7) << 3 | (sib ? 4u : base));
	*p = (u8)((unsigned int)m->scale << 6 | index << 3 | base);
	return put_disp(p + sib, absolute ? 2 : mod, m->disp);
}

/* ---- instructions -------------------------------------------------------------------------------- */

void emit_rm(struct emit *e, bool wide, unsigned int opcode, unsigned int reg, unsigned int base,
	     s32 disp)
{
	unsigned int mod = disp_mod(base, disp);
	u8 *p = emit_begin(e);

	if (!p)
		return;
	p = put_opcode(p, (wide ? 8u : 0) | (reg >> 3) << 2 | base >> 3, opcode);
	*p++ = (u8)(mod << 6 | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == GPR_RSP)
		*p++ = 0x24;
	emit_end(e, put_disp(p, mod, disp));
}

void emit_ref_modrm(struct emit *e, unsigned int reg, const struct mem_ref *m)
{
	u8 *p = emit_begin(e);

	if (p)
		emit_end(e, emit_put_ref(p, reg, m));
}

void emit_ref(struct emit *e, bool wide, unsigned int opcode, unsigned int reg, const struct mem_ref *m)
{
	u8 *p = emit_begin(e);

	if (!p)
		return;
	*p = 0x65;
	p += m->gs;
	p = put_opcode(p, (wide ? 8u : 0) | (reg >> 3) << 2 | ref_rex(m), opcode);
	emit_end(e, emit_put_ref(p, reg, m));
}

void emit_rr(struct emit *e, bool wide, unsigned int opcode, unsigned int reg, unsigned int rm)
{
	u8 *p = emit_begin(e);

	if (!p)
		return;
	p = put_opcode(p, (wide ? 8u : 0) | (reg >> 3) << 2 | rm >> 3, opcode);
	*p++ = (u8)(0xc0 | (reg & 7) << 3 | (rm & 7));
	emit_end(e, p);
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
	u8 *p = emit_begin(e);

	if (!p)
		return;
	p = put_opcode(p, (wide ? 8u : 0) | reg >> 3, small ? 0x83 : 0x81);
	*p++ = (u8)(0xc0 | ext << 3 | (reg & 7));
	emit_end(e, put_disp(p, small ? 1 : 2, imm));
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
