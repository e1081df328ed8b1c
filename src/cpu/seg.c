/* SPDX-License-Identifier: MIT */
/*
 * Segment descriptors and the loading of segment registers.
 * [SDM3A "Protected-Mode Memory Management", "Protection"]
 */
#include "cpu/segment.h"
#include "cpu/tlb.h"

static inline u32 type_of(const struct segment *s)
{
	return AR_TYPE(s->ar);
}

/* ---- descriptor tables ------------------------------------------------------------------------ */

/* Linear address of a selector's descriptor of @size bytes, or false if outside its table. */
static bool desc_place(const struct vcpu *v, u16 sel, unsigned int size, gva_t *la)
{
	const struct segment *ldt = &v->seg[SEG_LDTR];
	u64 base = v->gdtr.base;
	u32 limit = v->gdtr.limit;

	if (sel & 4) {
		if (ldt->ar & AR_UNUSABLE)
			return false;
		base = ldt->base;
		limit = ldt->limit;
	}
	if ((sel & 0xfff8u) + size - 1 > limit)
		return false;
	*la = base + (sel & 0xfff8u);
	if (!cpu_long_mode(v))
		*la = (u32)*la;
	return true;
}

int desc_lookup(struct vcpu *v, u16 sel, struct desc *d)
{
	int r;

	d->hi = 0;
	if (!desc_place(v, sel, 8, &d->la))
		return DESC_ABSENT;
	r = lin_read(v, d->la, &d->lo, 8, ACC_R | ACC_SYS);
	return r ? r : DESC_FOUND;
}

int desc_read(struct vcpu *v, u16 sel, u8 vector, struct desc *d)
{
	int r = desc_lookup(v, sel, d);

	if (r == DESC_ABSENT)
		return cpu_raise_err(v, vector, SEL_ERR(sel));
	return r == DESC_FOUND ? 0 : r;
}

int desc_read_system(struct vcpu *v, u16 sel, u8 vector, struct desc *d)
{
	int r = desc_read(v, sel, vector, d);
	gva_t la;

	if (r || !cpu_long_mode(v))
		return r;
	if (!desc_place(v, sel, 16, &la))
		return cpu_raise_err(v, vector, SEL_ERR(sel));
	r = lin_read(v, la + 8, &d->hi, 8, ACC_R | ACC_SYS);
	if (r)
		return r;
	if (d->hi & 0x1f0000000000ull)
		return cpu_raise_err(v, vector, SEL_ERR(sel));
	d->hi = (u32)d->hi;
	return 0;
}

/*
 * The processor updates a descriptor by a locked access to its first eight bytes, whatever its size: the manual does
 * not say how wide the access is. What we do to it is one byte, which never crosses a line.
 */
int desc_lock(struct vcpu *v, const struct desc *d)
{
	struct mem_piece p[2];
	unsigned int n, kind;
	int r = mem_map(v, d->la, 8, ACC_RW | ACC_SYS, p, &n);

	if (!r)
		r = lock_check(v, d->la, 8, p, n, &kind);
	if (!r && kind != LOCK_KINDS)
		cpu_bus_locked(v);
	return r;
}

static int desc_change(struct vcpu *v, struct desc *d, u8 set, u8 clear)
{
	u8 *p = lin_mem_begin(v, d->la + 5, 1, ACC_RW | ACC_SYS);

	if (!p)
		return (int)v->scratch[7];
	if (set)
		__atomic_fetch_or(p, set, __ATOMIC_SEQ_CST);
	if (clear)
		__atomic_fetch_and(p, (u8)~clear, __ATOMIC_SEQ_CST);
	d->lo = (d->lo | ((u64)set << 40)) & ~((u64)clear << 40);
	if (v->bounce.active)
		cpu_mem_commit(v);
	return 0;
}

int desc_set_accessed(struct vcpu *v, struct desc *d)
{
	int r;

	if (d->lo & BIT(40))
		return 0;
	r = desc_lock(v, d);
	return r ? r : desc_change(v, d, TYPE_ACCESSED, 0);
}

int desc_change_busy(struct vcpu *v, struct desc *d, bool busy)
{
	return desc_change(v, d, busy ? DESC_BUSY : 0, busy ? 0 : DESC_BUSY);
}

int desc_set_busy(struct vcpu *v, struct desc *d, bool busy)
{
	int r = desc_lock(v, d);

	return r ? r : desc_change_busy(v, d, busy);
}

/* ---- segment registers ------------------------------------------------------------------------ */

void desc_to_segment(const struct desc *d, u16 sel, struct segment *s)
{
	s->sel = sel;
	s->ar = desc_ar(d);
	s->base = desc_base(d);
	s->limit = desc_limit(d);
}

static void committed(struct vcpu *v, enum seg seg)
{
	const struct segment *s = &v->seg[seg];

	if (seg == SEG_FS)
		v->fs_base_copy = s->base;
	else if (seg == SEG_GS)
		v->gs_base_copy = s->base;
	else if (seg == SEG_SS && !cpu_code64(v))
		v->ssz = s->ar & AR_DB ? 4 : 2;
}

void seg_commit(struct vcpu *v, enum seg seg, const struct segment *s)
{
	v->seg[seg] = *s;
	committed(v, seg);
}

/* Not by way of seg_commit(): a copy as a whole would wait for the stores that have just made its parts. */
void seg_commit_flat(struct vcpu *v, enum seg seg, u16 sel, u32 ar)
{
	struct segment *s = &v->seg[seg];

	s->sel = sel;
	s->ar = ar;
	s->limit = 0xffffffff;
	s->base = 0;
	committed(v, seg);
}

/* A null selector clears base and limit on Intel's processors; AMD's keep them. */
void seg_commit_null(struct vcpu *v, enum seg seg, u16 sel)
{
	struct segment s = { .sel = sel, .ar = AR_UNUSABLE };

	if (v->vendor_amd && !cpu_has(v, FEAT_NULL_SEL_CLR_BASE) && seg != SEG_SS) {
		s.base = v->seg[seg].base;
		s.limit = v->seg[seg].limit;
	}
	if (seg == SEG_SS) /* CPL lives on in the DPL of an unusable SS [SDM3C "Guest Register State"] */
		s.ar |= (u32)v->cpl << 5 | (u32)AR_DB;
	seg_commit(v, seg, &s);
}

/* Real mode keeps limit and access rights ("unreal" mode relies on it); virtual-8086 mode sets them. */
void seg_set_real(struct vcpu *v, enum seg seg, u16 sel)
{
	struct segment s = v->seg[seg];

	s.sel = sel;
	s.base = (u32)sel << 4;
	if (cpu_v86(v)) {
		s.limit = 0xffff;
		s.ar = 0xf3;
	} else if (s.ar & AR_UNUSABLE) {
		s.limit = 0xffff;
		s.ar = 0x93;
	}
	seg_commit(v, seg, &s);
}

int seg_check_ss(struct vcpu *v, u16 sel, unsigned int cpl, u8 vector, struct desc *d)
{
	int r = desc_read(v, sel, vector, d);

	if (r)
		return r;
	if (SEL_RPL(sel) != cpl || desc_dpl(d) != cpl || desc_is_system(d) ||
	    (desc_type(d) & (TYPE_CODE | TYPE_WRITABLE)) != TYPE_WRITABLE)
		return cpu_raise_err(v, vector, SEL_ERR(sel));
	if (!desc_present(d))
		return cpu_raise_err(v, EXC_SS, SEL_ERR(sel));
	return 0;
}

int seg_check_data(struct vcpu *v, u16 sel, struct desc *d)
{
	unsigned int type, dpl;
	int r = desc_read(v, sel, EXC_GP, d);

	if (r)
		return r;
	type = desc_type(d);
	dpl = desc_dpl(d);
	if (desc_is_system(d) || (type & (TYPE_CODE | TYPE_READABLE)) == TYPE_CODE)
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if ((type & (TYPE_CODE | TYPE_CONFORMING)) != (TYPE_CODE | TYPE_CONFORMING) &&
	    (SEL_RPL(sel) > dpl || v->cpl > dpl))
		return cpu_raise_err(v, EXC_GP, SEL_ERR(sel));
	if (!desc_present(d))
		return cpu_raise_err(v, EXC_NP, SEL_ERR(sel));
	return 0;
}

static int seg_load_null(struct vcpu *v, enum seg seg, u16 sel)
{
	if (seg == SEG_SS && !(cpu_code64(v) && v->cpl != 3 && SEL_RPL(sel) == v->cpl))
		return RAISE_GP0(v);
	seg_commit_null(v, seg, sel);
	return 0;
}

int seg_load(struct vcpu *v, enum seg seg, u16 sel)
{
	struct segment s;
	struct desc d;
	int r;

	if (!cpu_prot(v) || cpu_v86(v)) {
		seg_set_real(v, seg, sel);
		return 0;
	}
	if (SEL_NULL(sel))
		return seg_load_null(v, seg, sel);
	r = seg == SEG_SS ? seg_check_ss(v, sel, v->cpl, EXC_GP, &d) : seg_check_data(v, sel, &d);
	if (!r)
		r = desc_set_accessed(v, &d);
	if (r)
		return r;
	desc_to_segment(&d, sel, &s);
	seg_commit(v, seg, &s);
	return 0;
}

void seg_drop_inner(struct vcpu *v)
{
	static const enum seg segs[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned int n = 0; n < ARRAY_SIZE(segs); n++) {
		const struct segment *s = &v->seg[segs[n]];
		bool conforming = (type_of(s) & (TYPE_CODE | TYPE_CONFORMING)) == (TYPE_CODE | TYPE_CONFORMING);

		if ((s->ar & AR_UNUSABLE) || conforming || AR_DPL(s->ar) >= v->cpl)
			continue;
		seg_commit_null(v, segs[n], 0);
	}
}

/* ---- the TSS ---------------------------------------------------------------------------------- */

int tss_stack(struct vcpu *v, unsigned int cpl, u16 *ss, u64 *sp)
{
	const struct segment *tr = &v->seg[SEG_TR];
	bool wide = type_of(tr) & 8;
	u32 off = wide ? 4 + 8 * cpl : 2 + 4 * cpl;
	u8 b[8] = { 0 };
	int r;

	if (off + (wide ? 5 : 3) > tr->limit)
		return cpu_raise_err(v, EXC_TS, SEL_ERR(tr->sel));
	r = lin_read(v, (u32)(tr->base + off), b, wide ? 6 : 4, ACC_R | ACC_SYS);
	if (r)
		return r;
	*sp = wide ? (u32)b[0] | (u32)b[1] << 8 | (u32)b[2] << 16 | (u32)b[3] << 24 : (u32)b[0] | (u32)b[1] << 8;
	*ss = wide ? (u16)(b[4] | b[5] << 8) : (u16)(b[2] | b[3] << 8);
	return 0;
}

int tss_stack64(struct vcpu *v, unsigned int slot, u64 *sp)
{
	const struct segment *tr = &v->seg[SEG_TR];
	u32 off = 4 + 8 * slot;

	if (off + 7 > tr->limit)
		return cpu_raise_err(v, EXC_TS, SEL_ERR(tr->sel));
	return lin_read(v, tr->base + off, sp, 8, ACC_R | ACC_SYS);
}

/* ---- writing a frame on a stack ----------------------------------------------------------------- */

void frame_current(const struct vcpu *v, struct frame *f, unsigned int size)
{
	f->ss = v->seg[SEG_SS];
	f->ssz = v->ssz;
	f->sp = v->gpr[GPR_RSP];
	f->cpl = v->cpl;
	f->size = (u8)size;
	f->same = true;
	f->err = 0;
	f->n = 0;
}

void frame_new(struct frame *f, const struct segment *ss, u64 sp, unsigned int cpl, unsigned int size)
{
	f->ss = *ss;
	f->ssz = ss->ar & AR_DB ? 4 : 2;
	f->sp = sp;
	f->cpl = (u8)cpl;
	f->size = (u8)size;
	f->same = false;
	f->err = SEL_ERR(ss->sel);
	f->n = 0;
}

void frame_new64(const struct vcpu *v, struct frame *f, u64 sp, unsigned int cpl)
{
	f->ss = v->seg[SEG_SS];
	f->ssz = 8;
	f->sp = sp;
	f->cpl = (u8)cpl;
	f->size = 8;
	f->same = cpl == v->cpl;
	f->err = 0;
	f->n = 0;
}

static inline u64 frame_mask(const struct frame *f)
{
	return f->ssz == 8 ? ~0ull : f->ssz == 4 ? 0xffffffffu : 0xffffu;
}

static bool frame_slot_ok(const struct vcpu *v, const struct frame *f, u64 off)
{
	const struct segment *s = &f->ss;
	u64 last = off + f->size - 1;

	if (f->ssz == 8)
		return la_canonical(v, off) && la_canonical(v, last);
	if (s->ar & AR_UNUSABLE)
		return false;
	if ((type_of(s) & (TYPE_CODE | TYPE_DOWN)) == TYPE_DOWN)
		return off > s->limit && last <= (s->ar & AR_DB ? 0xffffffffu : 0xffffu);
	return last <= s->limit;
}

static inline gva_t frame_linear(const struct frame *f, u64 off)
{
	return f->ssz == 8 ? off : (u32)(f->ss.base + off);
}

static int frame_check(struct vcpu *v, const struct frame *f)
{
	bool aligned = f->cpl == 3 && (v->cr0 & CR0_AM) && (v->rflags & FLAG_AC);

	for (unsigned int k = 0; k < f->n; k++) {
		u64 off = (f->sp - (u64)(k + 1) * f->size) & frame_mask(f);

		if (!frame_slot_ok(v, f, off))
			return cpu_raise_err(v, EXC_SS, f->err);
		if (aligned && (frame_linear(f, off) & (f->size - 1u)))
			return cpu_raise_err(v, EXC_AC, 0);
	}
	return 0;
}

/*
 * Pushes on a stack that an inner level will use are made with its rights. Implicit supervisor access
 * is stricter than that in one case, SMAP with AC set on entry; no kernel keeps its stack in user pages.
 */
static u32 frame_acc(const struct vcpu *v, const struct frame *f)
{
	if (f->same && f->cpl == v->cpl)
		return ACC_W;
	return f->cpl == 3 ? ACC_W | ACC_USER : ACC_W | ACC_SYS;
}

/* The usual frame: one piece of one page, written at once. */
static int frame_write_block(struct vcpu *v, const struct frame *f, gva_t la, unsigned int bytes)
{
	u8 buf[sizeof(f->val)];

	for (unsigned int k = 0; k < f->n; k++)
		__builtin_memcpy(buf + (f->n - 1 - k) * f->size, &f->val[k], f->size);
	return lin_write(v, la, buf, bytes, frame_acc(v, f));
}

int frame_write(struct vcpu *v, struct frame *f)
{
	unsigned int bytes = f->n * f->size;
	u64 low = (f->sp - bytes) & frame_mask(f);
	gva_t la = frame_linear(f, low);
	int r = frame_check(v, f);

	if (r)
		return r;
	if (((la ^ (la + bytes - 1)) >> PAGE_SHIFT) == 0 && low + bytes - 1 <= frame_mask(f) && low < low + bytes) {
		r = frame_write_block(v, f, la, bytes);
		if (!r)
			f->sp = low;
		return r;
	}
	for (unsigned int k = 0; k < f->n && !r; k++) {
		la = frame_linear(f, (f->sp - (u64)(k + 1) * f->size) & frame_mask(f));
		r = lin_probe(v, la, f->size, frame_acc(v, f));
	}
	for (unsigned int k = 0; k < f->n && !r; k++) {
		la = frame_linear(f, (f->sp - (u64)(k + 1) * f->size) & frame_mask(f));
		r = lin_write(v, la, &f->val[k], f->size, frame_acc(v, f));
	}
	if (!r)
		f->sp = low;
	return r;
}

u64 frame_rsp(const struct frame *f, u64 old)
{
	if (f->ssz == 2)
		return (old & ~0xffffull) | (f->sp & 0xffff);
	return f->ssz == 4 ? (u32)f->sp : f->sp;
}
