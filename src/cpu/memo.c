/* SPDX-License-Identifier: MIT */
/*
 * What was decoded before.
 *
 * Code repeats itself: opcode, registers and addressing form are met again with other constants, and so are whole
 * functions after they were written anew. Decoding once more is then a lookup by the first bytes. Whether an opcode
 * has a ModRM byte is learned from the decoder, so there is no second table of opcodes.
 */
#include "cpu/native_priv.h"

#include <string.h>

#include "cpu/op/op.h"

enum memo_modrm { MODRM_UNKNOWN, MODRM_NO, MODRM_YES };
#define KEY_MAX 8u

static bool is_prefix(u8 b)
{
	switch (b) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67:
	case 0xf0: case 0xf2: case 0xf3:
		return true;
	default:
		return false;
	}
}

/* Number of bytes up to the opcode; its map. */
static unsigned int opcode_end(const u8 *b, unsigned int avail, unsigned int *map)
{
	unsigned int n = 0;

	*map = 0;
	while (n < avail && is_prefix(b[n]))
		n++;
	if (n < avail && (b[n] & 0xf0) == 0x40)
		n++;
	if (n + 1 < avail && b[n] == 0x0f) {
		*map = 1;
		n++;
		if (b[n] == 0x38 || b[n] == 0x3a)
			*map = b[n++] == 0x38 ? 2 : 3;
	}
	return n + 1;
}

/* Number of bytes up to ModRM and SIB; 0: not known, or too many. */
static unsigned int head(const struct memo *m, const u8 *b, unsigned int avail)
{
	unsigned int map;
	unsigned int n = opcode_end(b, avail, &map);
	u8 has;

	if (n > avail)
		return 0;
	has = m->modrm[map][b[n - 1]];
	if (has == MODRM_UNKNOWN)
		return 0;
	if (has == MODRM_YES) {
		if (n >= avail)
			return 0;
		n += b[n] < 0xc0 && (b[n] & 7) == 4 ? 2 : 1;
	}
	return n <= avail && n <= KEY_MAX ? n : 0;
}

static u64 make_key(const u8 *b, unsigned int n, unsigned int avail)
{
	u64 key = 0;

	if (avail >= 8) {
		memcpy(&key, b, 8);
		return n == 8 ? key : key & (BIT(n * 8) - 1);
	}
	while (n--)
		key = key << 8 | b[n];
	return key;
}

static struct memo_entry *slot(struct memo *m, u64 key, unsigned int n)
{
	return &m->entry[((key + n) * 0x9e3779b97f4a7c15ull) >> 40 & (MEMO_SIZE - 1)];
}

static struct memo_entry *lookup(struct memo *m, const u8 *b, unsigned int n, unsigned int avail)
{
	u64 key = make_key(b, n, avail);
	struct memo_entry *e = slot(m, key, n);

	return e->n == n && e->key == key && e->rec.len <= avail ? e : NULL;
}

static const struct memo_entry *find(struct vcpu *v, const u8 *b, unsigned int avail)
{
	struct memo *m = &v->native->memo;
	unsigned int n = head(m, b, avail);
	struct memo_entry *e = n ? lookup(m, b, n, avail) : NULL;

	if (e && e->whole && e->n < e->rec.len)
		e = lookup(m, b, e->rec.len, avail);
	return e;
}

static s64 immediate(const struct memo_entry *e, const u8 *b)
{
	u32 four;
	u16 two;
	s64 val;

	switch (e->imm_len) {
	case 1:
		return e->imm_signed ? (s64)(s8)b[0] : (s64)b[0];
	case 2:
		memcpy(&two, b, 2);
		return e->imm_signed ? (s64)(s16)two : (s64)two;
	case 4:
		memcpy(&four, b, 4);
		return e->imm_signed ? (s64)(s32)four : (s64)four;
	default:
		memcpy(&val, b, 8);
		return val;
	}
}

static void set_values(struct insn *r, const struct memo_entry *e, const u8 *b)
{
	if (e->disp_len == 1)
		r->disp = (s8)b[e->off_disp];
	else if (e->disp_len == 4)
		memcpy(&r->disp, b + e->off_disp, 4);
	if (e->imm_len)
		r->imm = immediate(e, b + e->off_imm);
}

bool memo_record(struct vcpu *v, const u8 *bytes, unsigned int avail, struct insn *rec)
{
	const struct memo_entry *e = native_test_bind ? NULL : find(v, bytes, avail);
	u16 off = rec->off;

	if (!e)
		return false;
	*rec = e->rec;
	rec->off = off;
	set_values(rec, e, bytes);
	if (e->rip_imm)
		rec->imm = (s64)off + rec->len + rec->disp;
	return true;
}

bool memo_decode(struct vcpu *v, const u8 *bytes, unsigned int avail, struct decode *d)
{
	const struct memo_entry *e = find(v, bytes, avail);

	if (!e)
		return false;
	*d = v->native->memo.d[e - v->native->memo.entry];
	memcpy(d->bytes, bytes, d->len);
	set_values(&d->rec, e, bytes);
	return true;
}

/* ---- keeping ------------------------------------------------------------------------------------------ */

/* Is the stub the same whatever displacement and immediate are? */
static bool any_values(const struct decode *d)
{
	const struct insn *r = &d->rec;

	if (r->op || insn_rows[r->id].traits & T_NOP)
		return true;
	if (d->imm_len && !stub_reads_imm(d))
		return false;
	/* stub_ea() adds no displacement of 0 */
	return r->base >= GPR_NONE || !d->disp_len || r->disp;
}

static void set_lengths(struct memo_entry *e, const struct decode *d)
{
	e->disp_len = d->disp_len;
	e->off_disp = d->off_disp;
	e->imm_len = d->imm_len;
	e->off_imm = d->off_imm;
	e->imm_signed = d->imm_signed;
}

static bool fits(const struct decode *d, const struct insn *rec)
{
	struct insn again = d->rec;
	struct memo_entry e;

	if (d->csz != 8 || d->encoding != ENC_LEGACY || rec->id == INSN_INVALID || rec->id == INSN_ENTER ||
	    rec->base == GPR_MOFFS || d->map > 3 || d->rec.op != rec->op)
		return false;
	if (d->disp_len != 0 && d->disp_len != 1 && d->disp_len != 4)
		return false;
	if (d->imm_len > 8 || (d->imm_len & (d->imm_len - 1)))
		return false;
	set_lengths(&e, d);
	set_values(&again, &e, d->bytes);
	return again.imm == d->rec.imm && again.disp == d->rec.disp;
}

static void put(struct memo *m, const struct decode *d, const struct insn *rec, unsigned int n, bool whole,
		bool rip_imm)
{
	u64 key = make_key(d->bytes, n, sizeof(d->bytes));
	struct memo_entry *e = slot(m, key, n);

	e->key = key;
	e->n = (u8)n;
	e->whole = whole;
	e->rip_imm = rip_imm;
	e->rec = *rec;
	set_lengths(e, d);
	m->d[e - m->entry] = *d;
}

void memo_keep(struct vcpu *v, const struct decode *d, const struct insn *rec)
{
	struct memo *m = &v->native->memo;
	s64 from_page = (s64)rec->off + rec->len + rec->disp;
	bool rip = rec->base == GPR_RIP && rec->imm != d->rec.imm;
	unsigned int n, map;

	if (v->nonroot || native_test_bind || !fits(d, rec) || (rip && rec->imm != from_page) ||
	    (rec->base == GPR_RIP && !rip && rec->imm == from_page))
		return;
	n = opcode_end(d->bytes, d->len, &map);
	if (n > d->len || map != d->map || n - 1 != d->off_opcode)
		return;
	m->used = true;
	m->modrm[map][d->opcode] = d->off_modrm == 0xff ? MODRM_NO : MODRM_YES;
	n = head(m, d->bytes, d->len);
	if (!n || n != (d->off_sib != 0xff ? d->off_sib : d->off_modrm != 0xff ? d->off_modrm : d->off_opcode) + 1u)
		return;
	if (any_values(d)) {
		put(m, d, rec, n, false, rip);
	} else if (d->len <= KEY_MAX && rec->base != GPR_RIP) {
		put(m, d, rec, n, true, rip);
		put(m, d, rec, d->len, true, rip);
	}
}

void memo_reset(struct memo *m)
{
	if (!m->used)
		return;
	for (unsigned int k = 0; k < MEMO_SIZE; k++)
		if (m->entry[k].n)
			m->entry[k].n = 0;
	m->used = false;
}
