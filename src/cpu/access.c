/* SPDX-License-Identifier: MIT */
/*
 * Data accesses of C handlers: segment checks, alignment, data breakpoints, then the TLB.
 */
#include "cpu/tlb.h"
#include "cpu/vmx/vmx.h"

#define BULK_MIN 128 /* bytes for which forgetting a page's code is worth while */

static bool canonical(gva_t la)
{
	return (gva_t)((s64)(la << 16) >> 16) == la;
}

/* ---- effective addresses and segments ------------------------------------------------------------ */

u64 cpu_ea(const struct vcpu *v, const struct insn *i)
{
	u64 ea = (u64)(s64)i->disp;

	if (i->base == GPR_MOFFS)
		ea = (u64)i->imm;
	else if (i->base < GPR_NONE)
		ea += v->gpr[i->base];
	else if (i->base == GPR_RIP)
		ea += cpu_next_rip(v, i);
	if (i->index < GPR_NONE)
		ea += v->gpr[i->index] << insn_scale(i);
	switch (insn_asz(i)) {
	case 2:
		return (u16)ea;
	case 4:
		return (u32)ea;
	default:
		return ea;
	}
}

static int seg_fault(struct vcpu *v, enum seg seg)
{
	return cpu_raise_err(v, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

/* [SDM3A "Type Checking"] Real and virtual-8086 mode know limits only. */
static bool seg_allows(const struct vcpu *v, const struct segment *s, u32 acc)
{
	if (!cpu_prot(v) || cpu_v86(v))
		return true;
	if (s->ar & AR_UNUSABLE)
		return false;
	if (s->ar & 8) /* code: never writable, perhaps execute-only */
		return !(acc & ACC_W) && (s->ar & 2);
	return !(acc & ACC_W) || (s->ar & 2);
}

/* [SDM3A "Limit Checking"] */
static bool seg_within(const struct segment *s, u32 off, unsigned int size)
{
	u64 last = (u64)off + size - 1;

	if ((s->ar & 0xc) == 4) /* expand-down data */
		return off > s->limit && last <= (s->ar & AR_DB ? 0xffffffff : 0xffff);
	return last <= s->limit;
}

int seg_linear(struct vcpu *v, enum seg seg, u64 off, unsigned int size, u32 acc, gva_t *la)
{
	const struct segment *s = &v->seg[seg];

	if (v->csz == 8) {
		*la = seg >= SEG_FS ? s->base + off : off;
		if (unlikely(!canonical(*la) || !canonical(*la + size - 1)))
			return seg_fault(v, seg);
		return 0;
	}
	if (unlikely(!seg_allows(v, s, acc) || !seg_within(s, (u32)off, size)))
		return seg_fault(v, seg);
	*la = (u32)(s->base + off);
	return 0;
}

/* ---- checks of VIEW_NONE --------------------------------------------------------------------------- */

/* Alignment that a size asks for, minus one. [SDM3A "Alignment Check Exception (#AC)"] */
static unsigned int align_mask(unsigned int size)
{
	switch (size) {
	case 2:
		return 1;
	case 4:
	case 6:
		return 3;
	case 8:
	case 10:
		return 7;
	default:
		return 0;
	}
}

static int align_check(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	if (v->cpl != 3 || (acc & ACC_SYS) || !(v->cr0 & CR0_AM) || !(v->rflags & FLAG_AC))
		return 0;
	return la & align_mask(size) ? cpu_raise_err(v, EXC_AC, 0) : 0;
}

int mem_check(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	int res = align_check(v, la, size, acc);

	/* What the processor reads in descriptor tables and the TSS by itself is watched as well (CVE-2015-8104). */
	if (!res && v->watch_mask) {
		debug_data_access(v, la, size, acc);
		if (v->pending_db)
			atomic_fetch_or(&v->request, REQ_INSN);
	}
	return res;
}

/* ---- pieces ----------------------------------------------------------------------------------------- */

int mem_efault(struct vcpu *v, gpa_t gpa)
{
	v->stop = CPU_STOP_EFAULT;
	v->fault_gpa = gpa;
	return OP_STOP;
}

static int map_piece(struct vcpu *v, gva_t la, u32 len, u32 acc, struct mem_piece *p)
{
	struct xlat x;
	int res = mmu_xlat(v, la, acc, &x);

	if (res)
		return res;
	p->gpa = x.page | (la & ~PAGE_MASK);
	if (unlikely(x.bits & XL_EXIT)) {
		res = vmx_apic_access(v, (u32)(la & ~PAGE_MASK), len, acc, la);
		if (res)
			return res;
	}
	p->slot = x.slot;
	p->host = x.slot ? memslot_hva(x.slot, p->gpa) : NULL;
	p->writable = x.slot && !(x.slot->flags & MEMSLOT_READONLY);
	p->len = len;
	p->bits = x.bits;
	if (!(acc & ACC_W))
		tlb_fill(v, la, &x, acc);
	return 0;
}

int mem_map(struct vcpu *v, gva_t la, unsigned int size, u32 acc, struct mem_piece *p, unsigned int *n)
{
	unsigned int first = PAGE_SIZE - (unsigned int)(la & ~PAGE_MASK);
	gva_t next = la + first;
	int res;

	if (size <= first) {
		*n = 1;
		return map_piece(v, la, size, acc, p);
	}
	*n = 2;
	if (v->csz != 8 && la <= 0xffffffff)
		next = (u32)next;
	res = map_piece(v, la, first, acc, p);
	return res ? res : map_piece(v, next, size - first, acc, p + 1);
}

int piece_read(struct vcpu *v, const struct mem_piece *p, void *dst)
{
	if (unlikely(p->bits & XL_EXIT))
		return vmx_apic_read(v, (u32)(p->gpa & ~PAGE_MASK), p->len, dst);
	if (!p->host)
		return mmio_read(v, p->gpa, dst, p->len);
	return likely(!mem_load(dst, p->host, p->len)) ? 0 : mem_efault(v, p->gpa);
}

int piece_write(struct vcpu *v, const struct mem_piece *p, const void *src)
{
	u64 page;

	if (unlikely(p->bits & XL_EXIT))
		return vmx_apic_write(v, (u32)(p->gpa & ~PAGE_MASK), p->len, src);
	if (!p->writable)
		return mmio_write(v, p->gpa, src, p->len);
	page = memslot_page(p->slot, p->gpa);
	memslot_mark_dirty(p->slot, page);
	if (unlikely(mem_store(p->host, src, p->len)))
		return mem_efault(v, p->gpa);
	if (unlikely(memslot_code_users(p->slot, page)) && code_written(v, p->slot, p->gpa, p->len))
		atomic_fetch_or(&v->request, REQ_INSN);
	return 0;
}

void piece_dirty(struct vcpu *v, gva_t la, const struct mem_piece *p, u32 acc)
{
	struct xlat x = { .page = p->gpa & PAGE_MASK, .bits = p->bits, .slot = p->slot };

	if (!p->writable)
		return;
	memslot_mark_dirty(p->slot, memslot_page(p->slot, p->gpa));
	tlb_fill(v, la, &x, acc);
}

/* ---- linear accesses ------------------------------------------------------------------------------- */

static int read_slow(struct vcpu *v, gva_t la, void *dst, unsigned int size, u32 acc)
{
	struct mem_piece p[2];
	unsigned int n;
	int res = 0;

	if (unlikely(mmu_checked(v)))
		res = mem_check(v, la, size, ACC_R | acc);
	if (!res)
		res = mem_map(v, la, size, ACC_R | acc, p, &n);
	if (!res)
		res = piece_read(v, &p[0], dst);
	if (!res && n > 1)
		res = piece_read(v, &p[1], (u8 *)dst + p[0].len);
	return res;
}

static int write_slow(struct vcpu *v, gva_t la, const void *src, unsigned int size, u32 acc)
{
	struct mem_piece p[2];
	unsigned int n;
	int res = 0;

	acc |= ACC_W;
	if (unlikely(mmu_checked(v)))
		res = mem_check(v, la, size, acc);
	if (!res)
		res = mem_map(v, la, size, acc, p, &n);
	if (!res)
		res = piece_write(v, &p[0], src);
	if (!res && n > 1)
		res = piece_write(v, &p[1], (const u8 *)src + p[0].len);
	if (!res && n == 1)
		piece_dirty(v, la, &p[0], acc);
	return res;
}

static int probe_slow(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	struct mem_piece p[2];
	unsigned int n;
	int res = 0;

	if (unlikely(mmu_checked(v)))
		res = align_check(v, la, size, acc);
	return res ? res : mem_map(v, la, size, acc, p, &n);
}

int lin_read(struct vcpu *v, gva_t la, void *dst, unsigned int size, u32 acc)
{
	const struct tlb_entry *e = l1_slot(l1_view(v, acc), la, ACC_R);

	if (l1_hit(e, la, size) && likely(!mem_load(dst, l1_ptr(e, la), size)))
		return 0;
	return read_slow(v, la, dst, size, acc & (ACC_SYS | ACC_USER));
}

int lin_write(struct vcpu *v, gva_t la, const void *src, unsigned int size, u32 acc)
{
	const struct tlb_entry *e = l1_slot(l1_view(v, acc), la, ACC_W);

	if (l1_hit(e, la, size) && likely(!mem_store(l1_ptr(e, la), src, size)))
		return 0;
	return write_slow(v, la, src, size, acc & (ACC_SYS | ACC_USER));
}

int lin_probe(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	if (l1_hit(l1_slot(l1_view(v, acc), la, acc), la, size))
		return 0;
	return probe_slow(v, la, size, acc);
}

/* ---- segmented accesses ----------------------------------------------------------------------------- */

/*
 * In 64-bit code a hit in the TLB proves that the address is canonical, so the segment check comes only
 * after a miss.
 */
static inline bool quick_linear(const struct vcpu *v, enum seg seg, u64 off, gva_t *la)
{
	*la = seg >= SEG_FS ? v->seg[seg].base + off : off;
	return likely(v->csz == 8);
}

int cpu_read(struct vcpu *v, enum seg seg, u64 off, void *dst, unsigned int size)
{
	gva_t la;
	int res;

	if (quick_linear(v, seg, off, &la)) {
		const struct tlb_entry *e = l1_slot(v->dtlb, la, ACC_R);

		if (l1_hit(e, la, size) && likely(!mem_load(dst, l1_ptr(e, la), size)))
			return 0;
	}
	res = seg_linear(v, seg, off, size, ACC_R, &la);
	return res ? res : lin_read(v, la, dst, size, 0);
}

int cpu_write(struct vcpu *v, enum seg seg, u64 off, const void *src, unsigned int size)
{
	gva_t la;
	int res;

	if (quick_linear(v, seg, off, &la)) {
		const struct tlb_entry *e = l1_slot(v->dtlb, la, ACC_W);

		if (l1_hit(e, la, size) && likely(!mem_store(l1_ptr(e, la), src, size)))
			return 0;
	}
	res = seg_linear(v, seg, off, size, ACC_W, &la);
	return res ? res : lin_write(v, la, src, size, 0);
}

int cpu_probe_write(struct vcpu *v, enum seg seg, u64 off, unsigned int size)
{
	gva_t la;
	int res = seg_linear(v, seg, off, size, ACC_W, &la);

	return res ? res : lin_probe(v, la, size, ACC_W);
}

/*
 * A bulk store into a page with code marks, a freed one usually: one by one its elements would take the slow
 * path. False: this page cannot be made plain data without a fault or a walk.
 */
static bool claim_page(struct vcpu *v, gva_t la, u32 acc)
{
	struct xlat x;

	if (mmu_checked(v) || !tlb_lookup(v, la, &x) || !x.slot || (x.slot->flags & MEMSLOT_READONLY) ||
	    !(x.bits & XL_D) || !mmu_allowed(v, x.bits, acc))
		return false;
	if (memslot_code_users(x.slot, memslot_page(x.slot, x.page)) && !code_page_claim(v, x.slot, x.page))
		return false;
	memslot_mark_dirty(x.slot, memslot_page(x.slot, x.page));
	tlb_fill(v, la, &x, acc);
	return true;
}

u8 *lin_fast(struct vcpu *v, gva_t la, unsigned int *len, u32 acc)
{
	const struct tlb_entry *e = l1_slot(l1_view(v, acc), la, acc);
	unsigned int left = PAGE_SIZE - (unsigned int)(la & ~PAGE_MASK);

	if ((acc & ACC_W) && (la & PAGE_MASK) != e->tag && *len >= BULK_MIN)
		claim_page(v, la, acc);
	if ((la & PAGE_MASK) != e->tag)
		return NULL;
	if (*len > left)
		*len = left;
	return l1_ptr(e, la);
}
