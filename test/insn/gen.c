/* SPDX-License-Identifier: MIT */
#include "gen.h"

#include <stdlib.h>
#include <string.h>

#include "tap.h"

/* An encoding without its registers' extensions, memory form and immediate. */
struct tmpl {
	uint8_t vex;	/* 0 legacy */
	uint8_t pfx[2];
	uint8_t npfx;
	uint8_t map, opcode, modrm;
	uint8_t w, l, vvvv_used;
};

#define TMPL_MAX 48
static struct tmpl tmpl[INSN_COUNT][TMPL_MAX];
static uint32_t ntmpl[INSN_COUNT];	/* seen, may exceed TMPL_MAX */
static uint64_t *rng;

static uint64_t rnd(void) { return tap_rand(rng); }
static unsigned int below(unsigned int n) { return (unsigned int)(rnd() % n); }
static bool one_in(unsigned int n) { return below(n) == 0; }

unsigned int gen_templates(unsigned int id) { return ntmpl[id] < TMPL_MAX ? ntmpl[id] : TMPL_MAX; }

/* ---- finding encodings ----------------------------------------------------------------------------- */

static unsigned int put_opcode(uint8_t *b, unsigned int n, const struct tmpl *t, unsigned int rex,
			       unsigned int vvvv)
{
	if (t->vex) {
		b[n++] = 0xc4;
		b[n++] = (uint8_t)((~rex & 7) << 5 | t->map);
		b[n++] = (uint8_t)(t->w << 7 | (~vvvv & 15) << 3 | t->l << 2 | t->pfx[0]);
	} else {
		if (rex & 15 || t->w)
			b[n++] = (uint8_t)(0x40 | t->w << 3 | rex);
		if (t->map)
			b[n++] = 0x0f;
		if (t->map > 1)
			b[n++] = t->map == 2 ? 0x38 : 0x3a;
	}
	b[n++] = t->opcode;
	return n;
}

static void try_template(const struct tmpl *t)
{
	uint8_t b[32] = { 0 };
	unsigned int n = 0;
	struct decode d;
	uint32_t seen;

	for (unsigned int k = 0; !t->vex && k < t->npfx; k++)
		b[n++] = t->pfx[k];
	n = put_opcode(b, n, t, 0, t->vvvv_used ? 1 : 0);
	b[n++] = t->modrm;
	memset(b + n, 0x11, sizeof(b) - n);
	if (t->modrm >> 6 != 3 && (t->modrm & 7) == 4)
		b[n] = 0x51; /* VSIB */
	if (insn_decode(NULL, b, 15, 8, &d) || d.rec.id == INSN_INVALID)
		return;
	seen = ntmpl[d.rec.id]++;
	if (seen < TMPL_MAX)
		tmpl[d.rec.id][seen] = *t;
	else if ((seen = below(seen + 1)) < TMPL_MAX)
		tmpl[d.rec.id][seen] = *t;
}

static void try_modrms(struct tmpl *t)
{
	for (unsigned int m = 0; m < 64 + 8 + 8; m++) {
		t->modrm = (uint8_t)(m < 64 ? 0xc0 | m : m < 72 ? (m - 64) << 3 : (m - 72) << 3 | 4);
		try_template(t);
	}
}

static bool is_prefix(uint8_t b)
{
	return (b & 0xf0) == 0x40 || (b & 0xe7) == 0x26 || (b >= 0x64 && b <= 0x67) || b == 0xf0 ||
	       b == 0xf2 || b == 0xf3 || b == 0x0f;
}

static void find_legacy(void)
{
	static const uint8_t pfx[][3] = { { 0 }, { 1, 0x66 }, { 1, 0xf2 }, { 1, 0xf3 }, { 2, 0x66, 0xf2 },
					  { 2, 0x66, 0xf3 } };

	for (unsigned int p = 0; p < sizeof(pfx) / 3; p++)
		for (unsigned int n = 0; n < 2 * 4 * 256; n++) {
			struct tmpl t = { .npfx = pfx[p][0], .pfx = { pfx[p][1], pfx[p][2] },
					  .w = n & 1, .map = n >> 1 & 3, .opcode = (uint8_t)(n >> 3) };

			if (!t.map && is_prefix(t.opcode))
				continue;
			try_modrms(&t);
		}
}

static void find_vex(void)
{
	for (unsigned int n = 0; n < 2 * 2 * 2 * 4 * 256 * 3; n++) {
		struct tmpl t = { .vex = 1, .w = n & 1, .l = n >> 1 & 1, .vvvv_used = n >> 2 & 1,
				  .pfx = { n >> 3 & 3 }, .opcode = (uint8_t)(n >> 5),
				  .map = (uint8_t)(1 + (n >> 13)) };

		try_modrms(&t);
	}
}

unsigned int gen_init(uint64_t *seed)
{
	unsigned int rows = 0;

	rng = seed;
	find_legacy();
	find_vex();
	for (unsigned int id = 1; id < INSN_COUNT; id++)
		rows += ntmpl[id] > 0;
	return rows;
}

/* ---- numbers ------------------------------------------------------------------------------------ */

static uint64_t number(void)
{
	static const uint64_t edge[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff,
		0x80000000, 0xffffffff, 0x100000000, INT64_MAX, 1ull << 63, ~0ull, 31, 32, 63, 64 };

	switch (below(4)) {
	case 0: return edge[below(sizeof(edge) / sizeof(edge[0]))];
	case 1: return rnd() >> below(64);
	case 2: return edge[below(sizeof(edge) / sizeof(edge[0]))] + below(5) - 2;
	default: return rnd();
	}
}

static uint64_t float64(void)
{
	static const uint64_t edge[] = { 0, 1ull << 63, 0x3ff0000000000000, 0xbff0000000000000,
		0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001, 1,
		0x000fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff, 0x43e0000000000000,
		0x41dfffffffc00000, 0x3fe0000000000000 };

	return edge[below(sizeof(edge) / sizeof(edge[0]))];
}

static uint32_t float32(void)
{
	static const uint32_t edge[] = { 0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
		0x7fc00000, 0x7f800001, 1, 0x007fffff, 0x00800000, 0x7f7fffff, 0x5f000000, 0x4f000000,
		0x3f000000, 0x477fe000 };

	return edge[below(sizeof(edge) / sizeof(edge[0]))];
}

static void fill_data(uint8_t *p, unsigned int n)
{
	unsigned int kind = below(6);

	for (unsigned int k = 0; k < n; k += 8) {
		uint64_t val = kind == 0 ? float64() : kind == 1 ? float32() | (uint64_t)float32() << 32 :
			       kind == 2 ? number() : kind == 3 ? 0x3c003c00bc007c00ull ^ rnd() >> 40 : rnd();

		memcpy(p + k, &val, 8);
	}
}

/* ---- states ---------------------------------------------------------------------------------------- */

static void float80(uint8_t *p)
{
	static const uint16_t exp[] = { 0, 1, 0x3fff, 0x3ffe, 0x4000, 0x403e, 0x7ffe, 0x7fff, 0x3ff0, 0x400a };
	uint64_t man = one_in(2) ? 1ull << 63 : rnd() | 1ull << 63;
	uint16_t e = exp[below(10)];

	if (one_in(8))
		man &= ~(1ull << 63);
	if (one_in(6)) {
		e = 0;
		man = 0;
	}
	if (one_in(2))
		e |= 0x8000;
	memcpy(p, &man, 8);
	memcpy(p + 8, &e, 2);
}

static void random_x87(uint8_t *fx)
{
	uint16_t fcw = (uint16_t)(0x37f ^ (one_in(3) ? below(16) << 8 : 0));
	uint16_t fsw = (uint16_t)(below(8) << 11 | (rnd() & 0x4700));

	memset(fx, 0, 512);
	if (one_in(20))
		fcw &= (uint16_t)~(1u << below(6)); /* an unmasked exception */
	if (one_in(20))
		fsw |= (uint16_t)(1u << below(6));
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080; /* what a processor would have saved */
	memcpy(fx, &fcw, 2);
	memcpy(fx + 2, &fsw, 2);
	fx[4] = one_in(3) ? (uint8_t)rnd() : one_in(3) ? 0 : 0xff;
	for (unsigned int k = 0; k < 8; k++)
		float80(fx + 32 + 16 * k);
}

static void random_state(struct istate *s, const struct decode *d)
{
	uint32_t mxcsr = 0x1f80;

	for (unsigned int k = 0; k < 16; k++)
		s->gpr[k] = number();
	s->flags = 2 | (rnd() & FLAGS_ARITH);
	if (d->x87) {
		random_x87(s->fx);
	} else {
		memset(s->fx, 0, 512);
		s->fx[0] = 0x7f;
		s->fx[1] = 3;
	}
	if (d->vector) {
		for (unsigned int k = 0; k < 16; k++)
			fill_data(s->ymm[k], 32);
		if (one_in(3))
			mxcsr ^= (uint32_t)(rnd() & 0xe040); /* rounding, FTZ, DAZ */
		if (one_in(10))
			mxcsr &= ~(0x80u << below(6));
		if (one_in(4))
			mxcsr |= (uint32_t)(rnd() & 0x3f);
	} else {
		memset(s->ymm, 0, sizeof(s->ymm));
	}
	memcpy(s->fx + 24, &mxcsr, 4);
	for (unsigned int k = 0; k < 16; k++)
		memcpy(s->fx + 160 + 16 * k, s->ymm[k], 16);
}

/* ---- instructions ----------------------------------------------------------------------------------- */

static unsigned int put_memory(uint8_t *b, unsigned int n, uint8_t modrm)
{
	unsigned int reg = modrm & 0x38;
	unsigned int mod = below(3);
	unsigned int rm = below(8);

	if ((modrm & 7) == 4)
		rm = 4;
	if (rm == 4 && (modrm & 7) != 4 && one_in(2))
		rm = 3;
	b[n++] = (uint8_t)(mod << 6 | reg | rm);
	if (rm == 4) {
		uint8_t sib = (uint8_t)rnd();

		b[n++] = sib;
	}
	/* small displacements; the rest is noise that becomes displacement or immediate */
	for (unsigned int k = 0; k < 8; k++)
		b[n + k] = (uint8_t)rnd();
	if (mod == 2)
		b[n + 3] = (uint8_t)(b[n + 3] & 0x80 ? 0xff : 0), b[n + 2] = b[n + 3];
	return n;
}

static void put_insn(struct icase *c, const struct tmpl *t)
{
	uint8_t b[48];
	unsigned int n = 0;
	bool mem = t->modrm >> 6 != 3;
	unsigned int rex = c->csz == 8 && one_in(2) ? below(8) : 0;
	struct tmpl u = *t;

	memset(b, 0, sizeof(b));
	if (mem && c->csz == 8 && one_in(12))
		b[n++] = 0x65;
	if (mem && !t->vex && one_in(6))
		b[n++] = 0xf0;
	if (c->csz == 2)
		b[n++] = 0x67;
	for (unsigned int k = 0; !t->vex && k < t->npfx; k++)
		b[n++] = t->pfx[k];
	n = put_opcode(b, n, &u, rex, t->vvvv_used ? (c->csz == 8 ? below(16) : below(8)) : 0);
	for (unsigned int k = 0; k < 20; k++)
		b[n + k] = one_in(4) ? (uint8_t)number() : (uint8_t)rnd();
	if (mem)
		put_memory(b, n, t->modrm);
	else
		b[n] = t->modrm;
	memcpy(c->bytes, b, 15);
}

/*
 * 16- and 32-bit code: the same bytes in 64-bit mode mean the same if nothing of REX is in them, but
 * for the operand size prefix of 16-bit code, which is the other way round, and INC/DEC.
 */
static bool had66(const struct icase *c)
{
	for (unsigned int k = 0; k < c->d.pfx_end; k++)
		if (c->bytes[k] == 0x66)
			return true;
	return false;
}

/* 66 does not change the operand size: vector instructions, and ADCX which it makes. */
static bool mandatory66(const struct icase *c)
{
	return c->d.vector || c->d.rec.id == INSN_ADCX;
}

static bool knows_no_word(unsigned int id)
{
	return id == INSN_MOVNTI || id == INSN_MOVDIRI || id == INSN_ADOX;
}

static void to_native(struct icase *c)
{
	const struct decode *d = &c->d;
	unsigned int n = 0;

	memcpy(c->native, c->bytes, 16);
	c->native_len = c->len;
	if (c->csz != 2)
		return;
	if (!mandatory66(c) && !had66(c) && !knows_no_word(d->rec.id))
		c->native[n++] = 0x66;
	for (unsigned int k = 0; k < c->len; k++) {
		uint8_t b = c->bytes[k];

		if (k < d->pfx_end && (b == 0x67 || (b == 0x66 && !mandatory66(c))))
			continue;
		c->native[n++] = b;
	}
	c->native_len = (uint8_t)n;
}

static void set_disp(struct icase *c, int64_t val)
{
	memcpy(&c->bytes[c->d.off_disp], &val, c->d.disp_len);
	insn_decode(NULL, c->bytes, c->len, c->csz, &c->d);
}

/* Choose registers or displacement so that the operand lies at c->target. False: cannot. */
static bool aim(struct icase *c)
{
	const struct insn *r = &c->d.rec;
	uint64_t seg = insn_seg(r) == SEG_GS ? GS_BASE : 0;
	uint64_t want = c->target - seg;

	if (r->base == GPR_MOFFS) {
		set_disp(c, (int64_t)want);
		return true;
	}
	if (r->base == GPR_RIP) {
		set_disp(c, (int64_t)(want - (SLOT + c->off + c->len)));
		return !seg;
	}
	if (r->index != GPR_NONE && r->index != r->base)
		want -= c->in.gpr[r->index] << insn_scale(r);
	if (r->base == GPR_NONE) {
		if (r->index != GPR_NONE) {
			want += c->in.gpr[r->index] << insn_scale(r);
			want -= (c->in.gpr[r->index] = below(4096)) << insn_scale(r);
		}
		if ((int64_t)(int32_t)want != (int64_t)want || c->d.disp_len != 4)
			return false;
		set_disp(c, (int64_t)want);
		return true;
	}
	want -= (uint64_t)(int64_t)r->disp;
	if (r->index == r->base) {
		uint64_t step = 1 + (1ull << insn_scale(r));

		c->in.gpr[r->base] = want / step;
		c->target -= want % step;
		return true;
	}
	c->in.gpr[r->base] = want;
	return true;
}

static void choose_target(struct icase *c)
{
	unsigned int size = c->d.mem_size ? c->d.mem_size : 8;
	uint64_t off = below(ARENA_SIZE - 64);

	if (one_in(6))
		off = 4096 * (1 + below(3)) - below(size + 1); /* across or up to a page's end */
	else if (one_in(30))
		off = ARENA_SIZE - below(size); /* over the edge */
	else if (size >= 16 && !one_in(4))
		off &= ~(uint64_t)(size - 1);
	c->target = ARENA + off;
}

static bool aim_legacy_mode(struct icase *c)
{
	const struct insn *r = &c->d.rec;

	if (insn_asz(r) != 4 || r->base == GPR_NONE || r->base == GPR_RIP || r->base == GPR_MOFFS)
		return false;
	if (r->index != GPR_NONE)
		c->in.gpr[r->index] = below(4096);
	return aim(c) && c->in.gpr[r->base] < 1ull << 32;
}

/* Element addresses around the target: the base takes the target, indices stay small. */
static void aim_gather(struct icase *c)
{
	const struct insn *r = &c->d.rec;
	bool wide = r->id == INSN_VGATHERQPD || r->id == INSN_VGATHERQPS || r->id == INSN_VPGATHERQD ||
		    r->id == INSN_VPGATHERQQ;
	uint8_t *x = c->in.ymm[r->index];

	for (unsigned int k = 0; k < (wide ? 4 : 8); k++) {
		int64_t off = (int64_t)below(24) - 8;

		memcpy(x + k * (wide ? 8 : 4), &off, wide ? 8 : 4);
	}
	memcpy(c->in.fx + 160 + 16 * r->index, x, 16);
	if (r->base < GPR_NONE)
		c->in.gpr[r->base] = c->target - (uint64_t)(int64_t)r->disp -
				     (insn_seg(r) == SEG_GS ? GS_BASE : 0);
}

/* VSIB and implicit memory operands: addresses come from elsewhere. */
static void aim_special(struct icase *c)
{
	const struct insn *r = &c->d.rec;

	if (c->d.vsib)
		aim_gather(c);
	if (r->op != op_maskmovdqu && r->op != op_maskmovq)
		return;
	/* Whether bytes masked off may fault is the implementation's choice. [SDM2B "MASKMOVDQU"] */
	if (c->target > ARENA + ARENA_SIZE - 16)
		c->target = ARENA + ARENA_SIZE - 16;
	c->in.gpr[GPR_RDI] = c->target - (insn_seg(r) == SEG_GS ? GS_BASE : 0);
}

static void fix_operands(struct icase *c)
{
	if (c->d.rec.id == INSN_DIV || c->d.rec.id == INSN_IDIV) { /* mostly quotients that fit */
		if (!one_in(4))
			c->in.gpr[GPR_RDX] = one_in(3) ? ~0ull : c->in.gpr[GPR_RDX] & 0xff;
		if (one_in(2))
			c->in.gpr[GPR_RAX] &= 0xffff;
	}
	if (c->d.rec.id == INSN_CMPXCHG && one_in(2))
		memcpy(&c->in.gpr[GPR_RAX], c->window + WINDOW_BEFORE, 8);
	if (c->d.rec.id == INSN_LDMXCSR || c->d.rec.id == INSN_VLDMXCSR)
		c->window[WINDOW_BEFORE + 2] &= one_in(4) ? 0xff : 0, c->window[WINDOW_BEFORE + 3] = 0;
}

static bool usable(const struct icase *c, unsigned int id)
{
	if (c->d.rec.id != id || c->d.rec.op != insn_rows[id].op)
		return false;
	/* 0F 0D with a register: a NOP on Intel's processors, #UD on AMD's. */
	if (id == INSN_NOP && c->d.map == 1 && c->d.opcode == 0x0d && !(c->d.rec.flags & INSN_MEM))
		return false;
	if (c->csz != 8 && c->d.avx) /* L and vvvv rules are the decoder's; registers 8-15 do not exist */
		return false;
	return !(c->d.rec.flags & INSN_MEM) || c->d.mem_acc != MEM_NONE;
}

bool gen_case(unsigned int id, struct icase *c)
{
	const struct tmpl *t = &tmpl[id][below(gen_templates(id))];

	c->csz = t->w || t->vex || !one_in(6) ? 8 : one_in(2) ? 4 : 2;
	c->off = one_in(4) ? 4096 - 64 : (uint16_t)below(2048);
	c->target = 0;
	put_insn(c, t);
	if (insn_decode(NULL, c->bytes, 15, c->csz, &c->d) || !usable(c, id))
		return false;
	c->len = c->d.len;
	random_state(&c->in, &c->d);
	for (unsigned int k = 0; k < sizeof(c->window); k += 8)
		fill_data(c->window + k, 8);
	fix_operands(c);
	c->knobs.tlb = one_in(3) ? (uint8_t)rnd() : 0xff;
	c->knobs.bounce = one_in(4);
	c->knobs.lazy_fp = one_in(3);
	if (c->d.rec.flags & INSN_MEM || c->d.rec.op) {
		choose_target(c);
		if (c->d.rec.flags & INSN_MEM && c->d.mem_acc != MEM_ADDR && !c->d.vsib &&
		    !(c->csz == 8 ? aim(c) : aim_legacy_mode(c)))
			return false;
		aim_special(c);
	}
	to_native(c);
	return true;
}

void gen_bytes(unsigned int id, uint8_t b[16])
{
	struct icase c = { .csz = 8 };

	put_insn(&c, &tmpl[id][below(gen_templates(id))]);
	memcpy(b, c.bytes, 16);
}

uint8_t *gen_window(uint8_t *arena, const struct icase *c, unsigned int *skip, unsigned int *len)
{
	int64_t start = (int64_t)(c->target - ARENA) - WINDOW_BEFORE;
	int64_t end = start + (int64_t)sizeof(c->window);

	*skip = start < 0 ? (unsigned int)-start : 0;
	if (start < 0)
		start = 0;
	if (end > ARENA_SIZE)
		end = ARENA_SIZE;
	*len = c->target && end > start ? (unsigned int)(end - start) : 0;
	return arena + start;
}
