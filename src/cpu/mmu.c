/* SPDX-License-Identifier: MIT */
/*
 * Paging: the walk, access rights, page faults. [SDM3A "Paging"]
 *
 * The walk reads page tables as the processor does: one aligned load per entry, accessed and dirty bits set
 * with a locked compare-and-exchange, everything started over when an entry changed under it. Accessed and
 * dirty bits are set only by a walk that ends in a permitted access.
 */
#include "cpu/tlb.h"
#include "cpu/vmx/vmx.h"

#include <errno.h>

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_NX BIT(63)
#define PTE_ADDR 0x000ffffffffff000ull


enum walk_result { WALK_OK, WALK_FAULT, WALK_STOP, WALK_EXIT };

/**
 * struct walk - one page walk
 * @acc: ACC_*; 0: rights are not checked
 * @quiet: no side effects (KVM_TRANSLATE)
 * @err: page-fault error code bits of a WALK_FAULT, without the access's own
 * @l2at: guest-physical address of each entry in L2, when it runs with EPT
 * @host, @pte, @slot, @at: the entry read at each level, by level number (1 = PTE)
 */
struct walk {
	gva_t la;
	u32 acc;
	bool quiet;
	u32 err;
	unsigned int top, leaf;
	unsigned int esz;	/* entry size in bytes */
	u64 *host[5];
	u64 pte[5];
	struct memslot *slot[5];
	gpa_t at[5];
	gpa_t l2at[5];
	gpa_t fault_gpa;
	gpa_t gpa;
	u32 bits;
};

/* An entry of L2's paging structures, through EPT. A false answer: an exit was raised, or host memory is gone. */
static enum walk_result table_gpa(struct vcpu *v, const struct walk *w, gpa_t gpa, u32 acc, gpa_t *out)
{
	struct ept_xlat x;
	int res = vmx_ept(v, gpa, acc, EPT_TABLE | (w->quiet ? EPT_QUIET : 0), w->la, 0, &x);

	if (res == OP_STOP)
		return WALK_STOP;
	if (res)
		return WALK_EXIT;
	*out = x.page | (gpa & ~PAGE_MASK);
	return WALK_OK;
}

struct memslot *mmu_slot(struct vcpu *v, gpa_t gpa)
{
	struct tlb *t = v->tlb;
	const struct mem *m = &v->vm->mem;
	u64 gen = atomic_load_explicit(&m->generation, memory_order_acquire);
	struct memslot **hint = &t->slot_hint[gpa >> 32 & 1 ? 1 : 0];

	if (unlikely(t->hint_gen != gen || t->slot_hint_as != v->smm)) {
		t->slot_hint[0] = t->slot_hint[1] = NULL;
		t->hint_gen = gen;
		t->slot_hint_as = v->smm;
	}
	if (likely(*hint && gpa - (*hint)->gpa < (*hint)->npages << PAGE_SHIFT))
		return *hint;
	*hint = mem_slot_find(m, v->smm, gpa);
	return *hint;
}

/* ---- reserved bits ------------------------------------------------------------------------------ */

static u64 bit_range(unsigned int lo, unsigned int hi)
{
	return (~0ull << lo) & (~0ull >> (63 - hi));
}

static u64 above_maxphyaddr(const struct vcpu *v, unsigned int top)
{
	return v->maxphyaddr > top ? 0 : bit_range(v->maxphyaddr, top);
}

/* [SDM3A "Format of a 32-Bit Page-Directory Entry that Maps a 4-MByte Page"]: PSE-36 */
static u64 reserved_32(const struct vcpu *v, unsigned int level, bool large)
{
	unsigned int m = v->maxphyaddr < 40 ? v->maxphyaddr : 40;

	return level == 2 && large ? bit_range(m - 19, 21) : 0;
}

static u64 reserved_pae(const struct vcpu *v, unsigned int level, bool large)
{
	u64 r = above_maxphyaddr(v, 62) | (v->efer & EFER_NXE ? 0 : PTE_NX);

	return level == 2 && large ? r | bit_range(13, 20) : r;
}

static u64 reserved_64(const struct vcpu *v, unsigned int level, bool large)
{
	u64 r = above_maxphyaddr(v, 51) | (v->efer & EFER_NXE ? 0 : PTE_NX);

	if (level == 4)
		return r | PTE_PS | (v->vendor_amd ? PTE_G : 0);
	if (level == 3 && large)
		return cpu_has(v, FEAT_PDPE1GB) ? r | bit_range(13, 29) : r | PTE_PS;
	if (level == 2 && large)
		return r | bit_range(13, 20);
	return r;
}

static u64 reserved(const struct vcpu *v, unsigned int level, bool large)
{
	if (v->efer & EFER_LMA)
		return reserved_64(v, level, large);
	return v->cr4 & CR4_PAE ? reserved_pae(v, level, large) : reserved_32(v, level, large);
}

/* ---- rights --------------------------------------------------------------------------------------- */

bool mmu_allowed(const struct vcpu *v, u32 bits, u32 acc)
{
	if (unlikely(bits & (XL_ENR | XL_ENW | XL_ENX))) {
		u32 no = (acc & ACC_X ? XL_ENX : 0) | (acc & ACC_W ? XL_ENW : 0) | (acc & ACC_R ? XL_ENR : 0);

		if (bits & no)
			return false;
	}
	if (!(v->cr0 & CR0_PG))
		return true;
	if ((acc & ACC_X) && (bits & XL_NX))
		return false;
	if (mmu_user(v, acc))
		return (bits & XL_U) && (!(acc & ACC_W) || (bits & XL_W));
	if ((acc & ACC_W) && !(bits & XL_W) && (v->cr0 & CR0_WP))
		return false;
	if (!(bits & XL_U))
		return true;
	if (acc & ACC_X)
		return !(v->cr4 & CR4_SMEP);
	return !mmu_smap(v, acc);
}

/* ---- the walk -------------------------------------------------------------------------------------- */

static unsigned int level_shift(const struct walk *w, unsigned int level)
{
	return w->esz == 4 ? 12 + (level - 1) * 10 : 12 + (level - 1) * 9;
}

/* Load the entry of one level. No slot reads as not present, as in KVM. */
static enum walk_result load_entry(struct vcpu *v, struct walk *w, gpa_t table, unsigned int level)
{
	unsigned int mask = w->esz == 4 ? 1023 : 511;
	gpa_t at = table + (w->la >> level_shift(w, level) & mask) * w->esz;
	u32 half;

	if (v->ept) {
		enum walk_result res = table_gpa(v, w, at, ACC_R, &at);

		w->l2at[level] = table + (w->la >> level_shift(w, level) & mask) * w->esz;
		if (res != WALK_OK)
			return res;
	}
	w->at[level] = at;
	w->slot[level] = mmu_slot(v, at);
	if (!w->slot[level])
		return WALK_FAULT;
	w->host[level] = (u64 *)(void *)memslot_hva(w->slot[level], at);
	w->fault_gpa = at;
	if (w->esz == 8)
		return mem_load64(&w->pte[level], w->host[level]) ? WALK_STOP : WALK_OK;
	if (mem_load32(&half, w->host[level]))
		return WALK_STOP;
	w->pte[level] = half;
	return WALK_OK;
}

static bool is_large(const struct vcpu *v, unsigned int level, u64 pte)
{
	if (level == 1 || level == 4 || !(pte & PTE_PS))
		return false;
	return (v->cr4 & (CR4_PAE | CR4_PSE)) != 0;
}

static u32 combine(u32 bits, u64 pte)
{
	if (!(pte & PTE_W))
		bits &= ~(u32)XL_W;
	if (!(pte & PTE_U))
		bits &= ~(u32)XL_U;
	if (pte & PTE_NX)
		bits |= XL_NX;
	return bits;
}

/* From the root down to the leaf. */
static enum walk_result descend(struct vcpu *v, struct walk *w, gpa_t table)
{
	w->bits = XL_W | XL_U;
	for (unsigned int level = w->top;; level--) {
		enum walk_result res = load_entry(v, w, table, level);
		u64 pte = w->pte[level];
		bool large;

		if (res != WALK_OK)
			return res;
		if (!(pte & PTE_P))
			return WALK_FAULT;
		large = is_large(v, level, pte);
		if (pte & reserved(v, level, large)) {
			w->err = PFERR_P | PFERR_RSVD;
			return WALK_FAULT;
		}
		w->bits = combine(w->bits, pte);
		if (level == 1 || large) {
			w->leaf = level;
			return WALK_OK;
		}
		table = pte & (w->esz == 4 ? 0xfffff000 : PTE_ADDR);
	}
}

static enum walk_result start(struct vcpu *v, struct walk *w)
{
	u64 pdpte;

	if (v->efer & EFER_LMA) {
		w->top = 4;
		w->esz = 8;
		return descend(v, w, v->cr3 & PTE_ADDR);
	}
	w->top = 2;
	if (!(v->cr4 & CR4_PAE)) {
		w->esz = 4;
		return descend(v, w, v->cr3 & 0xfffff000);
	}
	w->esz = 8;
	pdpte = v->pdpte[w->la >> 30 & 3];
	if (!(pdpte & PTE_P))
		return WALK_FAULT;
	return descend(v, w, pdpte & PTE_ADDR);
}

/* Index into the page-attribute table. [SDM3A "Determining the Memory Type"] */
static unsigned int pat_index(u64 pte, unsigned int leaf)
{
	unsigned int pat = (unsigned int)(pte >> (leaf > 1 ? 12 : 7)) & 1;

	return (unsigned int)(pte >> 3 & 3) | pat << 2;
}

static void finish(const struct vcpu *v, struct walk *w)
{
	u64 pte = w->pte[w->leaf];
	u64 size = BIT(level_shift(w, w->leaf));
	gpa_t base = pte & (w->esz == 4 ? 0xfffff000 : PTE_ADDR) & ~(size - 1);

	if (w->esz == 4 && w->leaf == 2)
		base |= (pte >> 13 & 0xff) << 32;
	w->gpa = base | (w->la & (size - 1));
	if (w->leaf > 1)
		w->bits |= XL_LARGE;
	if (w->leaf > 2)
		w->bits |= XL_HUGE;
	if ((pte & PTE_G) && (v->cr4 & CR4_PGE))
		w->bits |= XL_G;
	if (pte & PTE_D)
		w->bits |= XL_D;
	if (unlikely(cpu_pat_uncached(v, pat_index(pte, w->leaf))))
		w->bits |= XL_UC;
}

/*
 * Accessed and dirty bits are set by a locked access to the table, whose type the entry above says, or CR3. It is
 * never split, so it never faults.
 */
static bool table_uncached(const struct vcpu *v, const struct walk *w, unsigned int level)
{
	u64 above = level < w->top ? w->pte[level + 1] : w->esz == 8 && w->top == 2 ? 0 : v->cr3;

	return cpu_uncached(v, w->at[level], cpu_pat_uncached(v, above >> 3 & 3) ? XL_UC : 0);
}

/* Set bits in one entry. 0 done; 1 it changed meanwhile; -EFAULT. */
static int set_entry(struct vcpu *v, struct walk *w, unsigned int level, u64 set)
{
	struct memslot *s = w->slot[level];
	u64 old = w->pte[level];
	u64 page = memslot_page(s, w->at[level]);
	int res;

	memslot_mark_dirty(s, page);
	if (w->esz == 8) {
		res = mem_cas64(w->host[level], &old, old | set);
	} else {
		u32 old32 = (u32)old;

		res = mem_cas32(w->host[level], &old32, old32 | (u32)set);
	}
	if (!res) {
		w->pte[level] |= set;
		if (unlikely(table_uncached(v, w, level)))
			cpu_bus_locked(v);
		if (memslot_code_users(s, page))
			code_written(v, s, w->at[level], w->esz);
	}
	return res;
}

/* A page table in ROM keeps its bits as they are, as in KVM. */
static enum walk_result set_accessed_dirty(struct vcpu *v, struct walk *w, bool *again)
{
	for (unsigned int level = w->top; level >= w->leaf; level--) {
		u64 want = PTE_A | (level == w->leaf && (w->acc & ACC_W) ? PTE_D : 0);
		int res;

		if ((w->pte[level] & want) == want || (w->slot[level]->flags & MEMSLOT_READONLY))
			continue;
		if (v->ept) {
			enum walk_result by = table_gpa(v, w, w->l2at[level], ACC_W, &w->at[level]);

			if (by != WALK_OK)
				return by;
		}
		w->fault_gpa = w->at[level];
		res = set_entry(v, w, level, want);
		if (res < 0)
			return WALK_STOP;
		if (res) {
			*again = true;
			return WALK_OK;
		}
	}
	return WALK_OK;
}

static enum walk_result walk(struct vcpu *v, struct walk *w)
{
	enum walk_result res;
	bool again;

	do {
		again = false;
		w->err = 0;
		res = start(v, w);
		if (res != WALK_OK)
			return res;
		if (w->acc && !mmu_allowed(v, w->bits, w->acc)) {
			w->err = PFERR_P;
			return WALK_FAULT;
		}
		if (!w->quiet)
			res = set_accessed_dirty(v, w, &again);
	} while (again);
	if (res == WALK_OK)
		finish(v, w);
	/* Read-only tables: the dirty bit cannot be set, and a write is good all the same. */
	if (w->acc & ACC_W)
		w->bits |= XL_D;
	return res;
}

/* ---- translation ----------------------------------------------------------------------------------- */

static int page_fault(struct vcpu *v, const struct walk *w)
{
	u32 err = w->err;

	if (w->acc & ACC_W)
		err |= PFERR_W;
	if (mmu_user(v, w->acc))
		err |= PFERR_U;
	if ((w->acc & ACC_X) &&
	    ((v->cr4 & CR4_SMEP) || ((v->cr4 & CR4_PAE) && (v->efer & EFER_NXE))))
		err |= PFERR_ID;
	return cpu_raise_pf(v, w->la, err);
}

/*
 * The second half: x->page is L2's guest-physical page, lin the bits of its own paging. A page that EPT maps in
 * smaller pieces than L2 does is cached in pieces.
 */
static int xlat_ept(struct vcpu *v, gva_t la, u32 acc, struct xlat *x)
{
	struct ept_xlat e;
	int res = vmx_ept(v, x->page | (la & ~PAGE_MASK), acc & (ACC_R | ACC_W | ACC_X), 0, la, x->bits, &e);

	if (res)
		return res;
	x->page = e.page;
	x->bits |= e.bits;
	if ((x->bits & XL_LARGE) && e.shift < LARGE_SHIFT)
		x->bits |= XL_EFRAG;
	return 0;
}

/* The slot behind x->page; the APIC-access page of L2 has none. */
static void xlat_slot(struct vcpu *v, struct xlat *x)
{
	x->slot = mmu_slot(v, x->page);
	if (unlikely(v->nonroot) && vmx_is_apic_page(v, x->page)) {
		x->slot = NULL;
		x->bits |= XL_EXIT;
	}
}

static int xlat_unpaged(struct vcpu *v, gva_t la, u32 acc, struct xlat *x)
{
	int res = 0;

	x->page = (u32)la & PAGE_MASK;
	x->bits = XL_W | XL_U | XL_D;
	if (v->ept)
		res = xlat_ept(v, la, acc, x);
	if (!res)
		xlat_slot(v, x);
	return res;
}

static int xlat_walk(struct vcpu *v, gva_t la, u32 acc, struct xlat *x)
{
	struct walk w;
	int res = 0;

	w.la = la;
	w.acc = acc;
	w.quiet = false;
	switch (walk(v, &w)) {
	case WALK_OK:
		break;
	case WALK_FAULT:
		return page_fault(v, &w);
	case WALK_EXIT:
		return OP_EXC;
	default:
		return mem_efault(v, w.fault_gpa);
	}
	x->page = w.gpa & PAGE_MASK;
	x->bits = w.bits;
	if (v->ept)
		res = xlat_ept(v, la, acc, x);
	if (res)
		return res;
	xlat_slot(v, x);
	if (!(x->bits & XL_EXIT))
		tlb_insert(v, la, x);
	return 0;
}

int mmu_xlat(struct vcpu *v, gva_t la, u32 acc, struct xlat *x)
{
	u64 gen = atomic_load_explicit(&v->vm->mem.generation, memory_order_acquire);

	/* A vCPU that waited for a pause in mid-instruction has not served its REQ_TLB yet. */
	if (unlikely(v->tlb->gen != gen)) {
		v->tlb->gen = gen;
		mmu_flush_all(v);
	}
	if (!(v->cr0 & CR0_PG))
		return xlat_unpaged(v, la, acc, x);
	if (tlb_lookup(v, la, x) && mmu_allowed(v, x->bits, acc) && (!(acc & ACC_W) || (x->bits & XL_D)))
		return 0;
	return xlat_walk(v, la, acc, x);
}

/* Code outside RAM: KVM's emulator gives up there too. */
static int fetch_nowhere(struct vcpu *v)
{
	if (v->cpl)
		return RAISE_UD(v);
	return cpu_internal(v, INTERNAL_EMULATION);
}

int mmu_fetch(struct vcpu *v, gva_t la, hva_t *host_page, gpa_t *gpa_page)
{
	struct xlat x;
	int res = mmu_xlat(v, la, ACC_X, &x);

	if (res)
		return res;
	if (!x.slot)
		return fetch_nowhere(v);
	tlb_note_fetch(v, la, &x);
	*host_page = memslot_hva(x.slot, x.page);
	*gpa_page = x.page;
	return 0;
}

bool mmu_translate(struct vcpu *v, gva_t la, u32 acc, gpa_t *gpa)
{
	struct walk w = { .la = la, .acc = acc, .quiet = true, .gpa = la };
	struct ept_xlat e;

	if ((v->efer & EFER_LMA) && (u64)((s64)(la << 16) >> 16) != la)
		return false;
	if ((v->cr0 & CR0_PG) && walk(v, &w) != WALK_OK)
		return false;
	*gpa = w.gpa;
	if (!v->ept)
		return true;
	if (vmx_ept(v, w.gpa, acc & (ACC_R | ACC_W | ACC_X), EPT_QUIET, la, w.bits, &e))
		return false;
	*gpa = e.page | (w.gpa & ~PAGE_MASK);
	return true;
}

/* ---- control registers ------------------------------------------------------------------------------ */

int mmu_load_pdptes(struct vcpu *v)
{
	u64 rsvd = above_maxphyaddr(v, 63) | bit_range(5, 8) | bit_range(1, 2) | PTE_NX;
	gpa_t at = v->cr3 & 0xffffffe0;
	struct memslot *s;
	u64 pdpte[4];

	if (v->ept) {
		struct ept_xlat e;
		int res = vmx_ept(v, at, ACC_R, EPT_TABLE, 0, 0, &e);

		if (res)
			return res;
		at = e.page | (at & ~PAGE_MASK);
	}
	s = mmu_slot(v, at);
	if (!s)
		return RAISE_GP0(v);
	for (unsigned int i = 0; i < 4; i++) {
		if (mem_load64(&pdpte[i], memslot_hva(s, at + i * 8)))
			return mem_efault(v, at);
		if ((pdpte[i] & PTE_P) && (pdpte[i] & rsvd))
			return RAISE_GP0(v);
	}
	for (unsigned int i = 0; i < 4; i++)
		v->pdpte[i] = pdpte[i];
	return 0;
}
