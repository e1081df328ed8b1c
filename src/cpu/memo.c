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
	static const u64 set[4] = {
		BIT(0x26) | BIT(0x2e) | BIT(0x36) | BIT(0x3e),
		BIT(0x64 - 64) | BIT(0x65 - 64) | BIT(0x66 - 64) | BIT(0x67 - 64),
		0,
		BIT(0xf0 - 192) | BIT(0xf2 - 192) | BIT(0xf3 - 192),
	};

	return set[b >> 6] >> (b & 63) & 1;
}

#define PREFIXES 4u /* more are not worth the while */

/* Number of bytes up to the opcode; its map. Sums instead of branches, which would be mispredicted. */
static unsigned int opcode_end(const u8 *b, unsigned int *map)
{
	unsigned int n = 0;
	bool two;

	while (n < PREFIXES && is_prefix(b[n]))
		n++;
	n += (b[n] & 0xf0) == 0x40;
	two = b[n] == 0x0f;
	n += two;
	*map = two;
	if (two && (b[n] == 0x38 || b[n] == 0x3a))
		*map = b[n++] == 0x38 ? 2 : 3;
	return n + 1;
}

/* Number of bytes up to ModRM and SIB; 0: not known, or too many. */
static unsigned int head(const struct memo *m, const u8 *b, unsigned int avail)
{
	unsigned int map, n = opcode_end(b, &map);
	u8 has = m->modrm[map][b[n - 1]];
	bool modrm = has == MODRM_YES;

	if (has == MODRM_UNKNOWN)
		return 0;
	n += modrm + (modrm & (b[n] < 0xc0) & ((b[n] & 7) == 4));
	return n <= avail && n <= KEY_MAX ? n : 0;
}

/* n from 1 to 8 */
static u64 make_key(const u8 *b, unsigned int n)
{
	u64 key;

	memcpy(&key, b, 8);
	return key & ~0ull >> (64 - n * 8);
}

/* The first of MEMO_WAYS places that follow each other, by exclusive or */
static struct memo_entry *slot(struct memo *m, u64 key, unsigned int n)
{
	return &m->entry[((key + n) * 0x9e3779b97f4a7c15ull) >> 40 & (MEMO_SIZE - 1)];
}

static struct memo_entry *way(struct memo *m, struct memo_entry *first, unsigned int k)
{
	return &m->entry[(unsigned int)(first - m->entry) ^ k];
}

static struct memo_entry *lookup(struct memo *m, const u8 *b, unsigned int n, unsigned int avail)
{
	u64 key = make_key(b, n);
	struct memo_entry *first = slot(m, key, n);

	for (unsigned int k = 0; k < MEMO_WAYS; k++) {
		struct memo_entry *e = way(m, first, k);

		if (e->key == key && e->n == n)
			return e->rec.len <= avail ? e : NULL;
	}
	return NULL;
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

u16 memo_record(struct vcpu *v, const u8 *bytes, unsigned int avail, struct insn *rec)
{
	const struct memo_entry *e = native_test_bind ? NULL : find(v, bytes, avail);
	u16 off = rec->off;

	if (!e)
		return MEMO_NONE;
	*rec = e->rec;
	rec->off = off;
	set_values(rec, e, bytes);
	if (e->rip_imm)
		rec->imm = (s64)off + rec->len + rec->disp;
	return (u16)(e - v->native->memo.entry);
}

u16 memo_decode(struct vcpu *v, u16 at, const u8 *bytes, const struct insn *rec, struct decode *d)
{
	struct memo *m = &v->native->memo;
	const struct memo_entry *e = at == MEMO_NONE ? NULL : &m->entry[at];

	if (!e || !e->n || e->key != make_key(bytes, e->n))
		e = find(v, bytes, rec->len);
	if (!e)
		return MEMO_NONE;
	at = (u16)(e - m->entry);
	memcpy(d, m->d[at], sizeof(m->d[at]));
	memcpy(d->bytes, bytes, sizeof(d->bytes));
	d->rec = *rec;
	if (rec->op != e->rec.op) { /* an intercept of L1 */
		d->rec.op = e->rec.op;
		d->note = 0;
	}
	if (e->rip_imm)
		d->rec.imm = e->imm_len ? immediate(e, bytes + e->off_imm) : 0;
	return at;
}

void memo_prefetch(const struct vcpu *v, const u16 *at, unsigned int n)
{
	const struct memo *m = &v->native->memo;

	for (unsigned int k = 0; k < n; k++) {
		unsigned int slot = at[k] & (MEMO_SIZE - 1);

		__builtin_prefetch(&m->entry[slot]);
		__builtin_prefetch(m->d[slot]);
	}
}

void memo_note(struct vcpu *v, u16 at, u16 note)
{
	memcpy(v->native->memo.d[at] + offsetof(struct decode, note), &note, sizeof(note));
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

/* Where it is, or a free place, or one that has to make room. */
static struct memo_entry *place(struct memo *m, u64 key, unsigned int n)
{
	struct memo_entry *first = slot(m, key, n), *free = NULL;

	for (unsigned int k = 0; k < MEMO_WAYS; k++) {
		struct memo_entry *e = way(m, first, k);

		if (e->key == key && e->n == n)
			return e;
		if (!e->n && !free)
			free = e;
	}
	return free ? free : way(m, first, m->victim++ % MEMO_WAYS);
}

static u16 put(struct memo *m, const struct decode *d, const struct insn *rec, unsigned int n, bool whole,
	       bool rip_imm)
{
	u64 key = make_key(d->bytes, n);
	struct memo_entry *e = place(m, key, n);
	unsigned int at = (unsigned int)(e - m->entry);

	e->key = key;
	e->n = (u8)n;
	e->whole = whole;
	e->rip_imm = rip_imm;
	e->rec = *rec;
	set_lengths(e, d);
	memcpy(m->d[at], d, sizeof(m->d[at]));
	return (u16)at;
}

u16 memo_keep(struct vcpu *v, const struct decode *d, const struct insn *rec)
{
	struct memo *m = &v->native->memo;
	s64 from_page = (s64)rec->off + rec->len + rec->disp;
	bool rip = rec->base == GPR_RIP && rec->imm != d->rec.imm;
	unsigned int n, map;

	if (v->nonroot || native_test_bind || !fits(d, rec) || (rip && rec->imm != from_page) ||
	    (rec->base == GPR_RIP && !rip && rec->imm == from_page))
		return MEMO_NONE;
	n = opcode_end(d->bytes, &map);
	if (n > d->len || map != d->map || n - 1 != d->off_opcode)
		return MEMO_NONE;
	m->used = true;
	m->modrm[map][d->opcode] = d->off_modrm == 0xff ? MODRM_NO : MODRM_YES;
	n = head(m, d->bytes, d->len);
	if (!n || n != (d->off_sib != 0xff ? d->off_sib : d->off_modrm != 0xff ? d->off_modrm : d->off_opcode) + 1u)
		return MEMO_NONE;
	if (any_values(d))
		return put(m, d, rec, n, false, rip);
	if (d->len > KEY_MAX || rec->base == GPR_RIP)
		return MEMO_NONE;
	put(m, d, rec, n, true, rip);
	return put(m, d, rec, d->len, true, rip);
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
