/* SPDX-License-Identifier: MIT */
/*
 * String instructions. One iteration at a time is the definition; a bulk step does as many iterations
 * as lie in one page of RAM on each side, and declines (0) whenever it cannot be sure that the
 * result is the same. Registers are committed after every step, so that a fault or an event finds
 * them at an iteration boundary [SDM1 "Repeating String Operations"].
 */
#include "cpu/op/op.h"
#include "cpu/flags.h"
#include "cpu/op/operand.h"
#include "mem/guarded.h"

/* Iterations and bytes after which REP lets the run loop look around. */
#define STRING_SLOW_MAX 64
#define STRING_BULK_MAX (256u << 10)
#define STRING_BUF 256

/**
 * struct string - the running instruction
 * @size: element size in bytes
 * @asz: address size in bytes
 * @count: iterations left
 * @back: RFLAGS.DF
 * @stop: REPE/REPNE found its end
 * @aflags: of the last comparison; committed only when no fault comes later
 */
struct string {
	const struct insn *i;
	unsigned int size, asz;
	enum seg src;
	bool back, stop;
	u16 aflags;
	u64 count;
};

typedef int (*string_one)(struct vcpu *v, struct string *s);
typedef u64 (*string_bulk)(struct vcpu *v, struct string *s);

static void advance(struct vcpu *v, const struct string *s, unsigned int reg, u64 n)
{
	u64 by = n * s->size;

	gpr_set(v, reg, s->asz, v->gpr[reg] + (s->back ? -by : by));
}

/* ---- one iteration --------------------------------------------------------------------------- */

static int read_si(struct vcpu *v, const struct string *s, u64 *val)
{
	*val = 0;
	return cpu_read(v, s->src, gpr_get(v, GPR_RSI, s->asz), val, s->size);
}

static int read_di(struct vcpu *v, const struct string *s, u64 *val)
{
	*val = 0;
	return cpu_read(v, SEG_ES, gpr_get(v, GPR_RDI, s->asz), val, s->size);
}

static int write_di(struct vcpu *v, const struct string *s, u64 val)
{
	return cpu_write(v, SEG_ES, gpr_get(v, GPR_RDI, s->asz), &val, s->size);
}

static int movs_one(struct vcpu *v, struct string *s)
{
	u64 val;
	int r = read_si(v, s, &val);

	if (!r)
		r = write_di(v, s, val);
	if (r)
		return r;
	advance(v, s, GPR_RSI, 1);
	advance(v, s, GPR_RDI, 1);
	return 0;
}

static int stos_one(struct vcpu *v, struct string *s)
{
	int r = write_di(v, s, v->gpr[GPR_RAX]);

	if (!r)
		advance(v, s, GPR_RDI, 1);
	return r;
}

static int lods_one(struct vcpu *v, struct string *s)
{
	u64 val;
	int r = read_si(v, s, &val);

	if (r)
		return r;
	gpr_set(v, GPR_RAX, s->size, val);
	advance(v, s, GPR_RSI, 1);
	return 0;
}

/* The end condition of REPE (F3) and REPNE (F2) on the comparison in s->aflags. */
static void compared(struct string *s)
{
	bool equal = s->aflags & AFLAG_ZF;

	s->stop = (s->i->flags & INSN_REP) ? !equal : (s->i->flags & INSN_REPNE) ? equal : false;
}

static int cmps_one(struct vcpu *v, struct string *s)
{
	u64 a, b;
	int r = read_si(v, s, &a);

	if (!r)
		r = read_di(v, s, &b);
	if (r)
		return r;
	s->aflags = flags_cmp(a, b, s->size);
	compared(s);
	advance(v, s, GPR_RSI, 1);
	advance(v, s, GPR_RDI, 1);
	return 0;
}

static int scas_one(struct vcpu *v, struct string *s)
{
	u64 b;
	int r = read_di(v, s, &b);

	if (r)
		return r;
	s->aflags = flags_cmp(v->gpr[GPR_RAX], b, s->size);
	compared(s);
	advance(v, s, GPR_RDI, 1);
	return 0;
}

/* ---- many iterations ---------------------------------------------------------------------------- */

/* Bring the translation of a readable page in; no exception stays behind. */
static int quiet_probe(struct vcpu *v, gva_t la, unsigned int size)
{
	int r = lin_probe(v, la, size, ACC_R);

	if (r) {
		v->exc.valid = false;
		v->stop = CPU_RUN;
	}
	return r;
}

/**
 * span() - a run of elements that may be accessed at full speed
 * @off: offset of the first element in @seg
 * @n: in: elements wanted, out: elements that the run has
 *
 * The run ends at the page, at the segment limit and where the offset wraps. Alignment checks and watchpoints
 * make lin_fast() decline.
 *
 * Return: host address of the lowest byte of the run, or NULL.
 */
static u8 *span(struct vcpu *v, const struct string *s, enum seg seg, u64 off, u64 *n, u32 acc)
{
	const struct segment *sg = &v->seg[seg];
	unsigned int len;
	u64 room;
	gva_t la;
	u8 *p;

	if (!cpu_code64(v) && AR_S & sg->ar && (AR_TYPE(sg->ar) & 12) == 4)
		return NULL; /* expand-down */
	if (seg_linear(v, seg, off, s->size, acc, &la)) {
		v->exc.valid = false; /* raised again, in its proper order, by the single iteration */
		return NULL;
	}
	if (s->back) {
		if ((la & ~PAGE_MASK) + s->size > PAGE_SIZE)
			return NULL;
		room = (la & ~PAGE_MASK) / s->size + 1;
		if (off / s->size + 1 < room)
			room = off / s->size + 1;
	} else {
		room = PAGE_SIZE - (la & ~PAGE_MASK);
		if (!cpu_code64(v) && (u64)sg->limit - off + 1 < room)
			room = (u64)sg->limit - off + 1;
		if (s->asz != 8 && size_mask(s->asz) - off + 1 < room)
			room = size_mask(s->asz) - off + 1;
		room /= s->size;
	}
	if (room > *n)
		room = *n;
	if (!room)
		return NULL;
	if (s->back)
		la -= (room - 1) * s->size;
	len = (unsigned int)(room * s->size);
	p = lin_fast(v, la, &len, acc);
	/*
	 * Source and destination often share a slot of the first-level TLB. A pointer stays good until this
	 * handler returns, so reads may push the destination's entry out; only a store brings a writable one in.
	 */
	if (!p && acc == ACC_R && !quiet_probe(v, la, s->size))
		p = lin_fast(v, la, &len, acc);
	if (!p || len < s->size)
		return NULL;
	/* A shorter answer keeps the low end: only good for us going forward. */
	if (s->back && len != room * s->size)
		return NULL;
	*n = len / s->size;
	return p;
}

/*
 * Copy upwards with the result of copying element by element. When the destination starts @d bytes
 * above the source and inside it, the elements written are read again: the result repeats with period @d, and
 * is made by copies that do not overlap and double in length.
 */
static int copy_up(u8 *dst, const u8 *src, u64 len)
{
	u64 d = (u64)(dst - src), done = 0;

	if (d >= len)
		return mem_copy_guarded(dst, src, len);
	while (done < len) {
		u64 part = d + done < len - done ? d + done : len - done;
		int r = mem_copy_guarded(dst + done, src, part);

		if (r)
			return r;
		done += part;
	}
	return 0;
}

/*
 * Downwards, overlapping elements would be read after they were written: do no more of them than lie
 * apart. Zero when single elements overlap.
 */
static u64 apart(const u8 *dst, const u8 *src, u64 n, unsigned int size)
{
	u64 up = (u64)(dst - src), down = (u64)(src - dst);
	u64 d = up < down ? up : down;

	return d / size < n ? d / size : n;
}

static u64 movs_bulk(struct vcpu *v, struct string *s)
{
	u64 all, n = s->count;
	u8 *src, *dst;
	int r;

	dst = span(v, s, SEG_ES, gpr_get(v, GPR_RDI, s->asz), &n, ACC_W);
	all = n;
	src = dst ? span(v, s, s->src, gpr_get(v, GPR_RSI, s->asz), &n, ACC_R) : NULL;
	if (!src)
		return 0;
	if (s->back) {
		u64 top = n;

		dst += (all - n) * s->size;
		n = apart(dst, src, n, s->size);
		src += (top - n) * s->size;
		dst += (top - n) * s->size;
		r = n ? mem_copy_guarded(dst, src, n * s->size) : -EAGAIN;
	} else if ((u64)(dst - src) < s->size) {
		return 0;
	} else {
		r = copy_up(dst, src, n * s->size);
	}
	if (r)
		return 0;
	advance(v, s, GPR_RSI, n);
	advance(v, s, GPR_RDI, n);
	return n;
}

/* As with copies, the microcode's start-up cost pays from about this length on. */
#define REP_MIN 128

static int fill(u8 *dst, u64 val, unsigned int size, u64 len)
{
	u64 words = len / 8;
	int err = 0;

	val &= size_mask(size);
	for (; size < 8; size *= 2)
		val |= val << (size * 8);
	if (len >= REP_MIN)
		__asm__ volatile("1:\trep stosq\n2:\n" MEM_LANDING("3", "err", "2b") MEM_FIXUP("1b", "3b")
				 : "+D"(dst), "+c"(words), [err] "+r"(err)
				 : "a"(val), [fault] "i"(-EFAULT)
				 : "memory");
	else
		for (; words && !err; words--, dst += 8)
			err = mem_store64(dst, val);
	/* len is a multiple of the element size, so the rest is the beginning of the pattern. */
	return err ? err : mem_copy_guarded(dst, &val, len & 7);
}

static u64 stos_bulk(struct vcpu *v, struct string *s)
{
	u64 n = s->count;
	u8 *dst = span(v, s, SEG_ES, gpr_get(v, GPR_RDI, s->asz), &n, ACC_W);

	if (!dst || fill(dst, v->gpr[GPR_RAX], s->size, n * s->size))
		return 0;
	advance(v, s, GPR_RDI, n);
	return n;
}

static u64 element(const u8 *p, u64 k, unsigned int size)
{
	switch (size) {
	case 1: return p[k];
	case 2: return ((const u16 *)p)[k];
	case 4: return ((const u32 *)p)[k];
	default: return ((const u64 *)p)[k];
	}
}

/* Elements compared before the end condition is met, that one included; the last sets the flags. */
static u64 compare_run(struct string *s, const u8 *a, const u8 *b, u64 n, u64 key)
{
	bool until_equal = s->i->flags & INSN_REPNE;
	u64 k = 0;

	key &= size_mask(s->size);
	if (a && !until_equal)
		while (k + 8 / s->size < n && !((k * s->size) & 7) &&
		       *(const u64 *)(a + k * s->size) == *(const u64 *)(b + k * s->size))
			k += 8 / s->size;
	while (k < n - 1) {
		u64 x = a ? element(a, k, s->size) : key;

		if ((x == element(b, k, s->size)) == until_equal)
			break;
		k++;
	}
	s->aflags = flags_cmp(a ? element(a, k, s->size) : key, element(b, k, s->size), s->size);
	compared(s);
	return k + 1;
}

/* Comparisons work on private copies: the host pages may vanish under a plain load. */
static u64 cmps_bulk(struct vcpu *v, struct string *s)
{
	u8 a[STRING_BUF] __attribute__((aligned(8))), b[STRING_BUF] __attribute__((aligned(8)));
	u64 n = STRING_BUF / s->size;
	u8 *src, *dst;

	if (s->back)
		return 0;
	if (n > s->count)
		n = s->count;
	src = span(v, s, s->src, gpr_get(v, GPR_RSI, s->asz), &n, ACC_R);
	if (!src)
		return 0;
	dst = span(v, s, SEG_ES, gpr_get(v, GPR_RDI, s->asz), &n, ACC_R);
	if (!dst || mem_copy_guarded(a, src, n * s->size) || mem_copy_guarded(b, dst, n * s->size))
		return 0;
	n = compare_run(s, a, b, n, 0);
	advance(v, s, GPR_RSI, n);
	advance(v, s, GPR_RDI, n);
	return n;
}

static u64 scas_bulk(struct vcpu *v, struct string *s)
{
	u8 b[STRING_BUF] __attribute__((aligned(8)));
	u64 n = STRING_BUF / s->size;
	u8 *dst;

	if (s->back)
		return 0;
	if (n > s->count)
		n = s->count;
	dst = span(v, s, SEG_ES, gpr_get(v, GPR_RDI, s->asz), &n, ACC_R);
	if (!dst || mem_copy_guarded(b, dst, n * s->size))
		return 0;
	n = compare_run(s, NULL, b, n, v->gpr[GPR_RAX]);
	advance(v, s, GPR_RDI, n);
	return n;
}

/* ---- REP -------------------------------------------------------------------------------------- */

/*
 * What a REP instruction with a zero count does to 32-bit addressed registers in 64-bit mode: Intel
 * processors clear the upper halves of those their fast string microcode has loaded.
 */
static int string_empty(struct vcpu *v, const struct string *s, bool clears_si, bool clears_di)
{
	if (cpu_code64(v) && s->asz == 4 && !v->vendor_amd) {
		v->gpr[GPR_RCX] = 0;
		if (clears_si)
			v->gpr[GPR_RSI] = (u32)v->gpr[GPR_RSI];
		if (clears_di)
			v->gpr[GPR_RDI] = (u32)v->gpr[GPR_RDI];
	}
	return OP_NEXT;
}

/* Whatever an iteration left for the run loop ends a run of iterations. */
static bool must_leave(const struct vcpu *v)
{
	return v->request || v->pending_db || mmio_pending(v);
}

static int string_rep(struct vcpu *v, struct string *s, string_one one, string_bulk bulk)
{
	bool single = (v->rflags & FLAG_TF) || (v->step_mask & STEP_GUEST_DEBUG);
	u64 slow = 0, bytes = 0;

	for (;;) {
		u64 n = !single && bulk && s->count > 1 ? bulk(v, s) : 0;

		if (!n) {
			int r = one(v, s);

			if (unlikely(r))
				return r;
			n = 1;
			slow++;
		}
		bytes += n * s->size;
		s->count -= n;
		gpr_set(v, GPR_RCX, s->asz, s->count);
		if (!s->count || s->stop)
			break;
		mmio_done(v); /* the next iteration begins a log of its own */
		if (single || must_leave(v) || slow >= STRING_SLOW_MAX || bytes >= STRING_BULK_MAX) {
			v->aflags = s->aflags;
			return OP_AGAIN;
		}
	}
	v->aflags = s->aflags;
	return op_done(v);
}

static int string_run(struct vcpu *v, const struct insn *i, string_one one, string_bulk bulk)
{
	struct string s = {
		.i = i, .size = i->osz, .asz = insn_asz(i), .src = insn_seg(i),
		.back = v->rflags & FLAG_DF, .aflags = v->aflags,
	};
	int r;

	if (i->flags & (INSN_REP | INSN_REPNE)) {
		s.count = gpr_get(v, GPR_RCX, s.asz);
		if (!s.count)
			return string_empty(v, &s, one == movs_one, one == movs_one || one == stos_one);
		return string_rep(v, &s, one, bulk);
	}
	r = one(v, &s);
	if (unlikely(r))
		return r;
	v->aflags = s.aflags;
	return op_done(v);
}

int op_movs(struct vcpu *v, const struct insn *i)
{
	return string_run(v, i, movs_one, movs_bulk);
}

int op_cmps(struct vcpu *v, const struct insn *i)
{
	return string_run(v, i, cmps_one, cmps_bulk);
}

int op_scas(struct vcpu *v, const struct insn *i)
{
	return string_run(v, i, scas_one, scas_bulk);
}

int op_lods(struct vcpu *v, const struct insn *i)
{
	return string_run(v, i, lods_one, NULL);
}

int op_stos(struct vcpu *v, const struct insn *i)
{
	return string_run(v, i, stos_one, stos_bulk);
}
