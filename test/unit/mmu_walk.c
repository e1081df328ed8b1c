/* SPDX-License-Identifier: MIT */
/*
 * Page walks over every combination of entry bits, compared with a walker that is written straight from the
 * manual's tables and shares nothing with the engine's. [SDM3A "Paging"]
 */
#include "mem_fake.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX BIT(63)

#define T4 0x1000u	/* tables by level */
#define T3 0x2000u
#define T2 0x3000u
#define T1 0x4000u
#define DATA 0x600000u

struct want {
	bool fault;
	u32 err;
	gpa_t gpa;
	u64 pte[5]; /* after the walk */
};

static struct vcpu *v;

static u64 *ent_at(unsigned int level)
{
	static const u32 at[] = { 0, T1, T2, T3, T4 };

	return (u64 *)(void *)(fake_ram + at[level]);
}

static u64 ent(unsigned int level) { return *ent_at(level); }
static void put(unsigned int level, u64 val) { *ent_at(level) = val; }

/* ---- the reference: one page of straight code for each mode, for linear address `off` -------------- */

static bool ref_fault(struct want *w, u32 err, u32 acc)
{
	bool user = (acc & ACC_USER) || (v->cpl == 3 && !(acc & ACC_SYS));

	w->fault = true;
	w->err = err | (acc & ACC_W ? 2 : 0) | (user ? 4 : 0);
	if (acc & ACC_X) {
		if (v->cr4 & CR4_SMEP)
			w->err |= 16;
		if ((v->cr4 & CR4_PAE) && (v->efer & EFER_NXE))
			w->err |= 16;
	}
	return false;
}

static bool ref_rights(bool w, bool u, bool nx, u32 acc)
{
	bool user = (acc & ACC_USER) || (v->cpl == 3 && !(acc & ACC_SYS));

	if (acc & ACC_X) {
		if (nx)
			return false;
		if (user)
			return u;
		return !(u && (v->cr4 & CR4_SMEP));
	}
	if (user)
		return u && (w || !(acc & ACC_W));
	if (u && (v->cr4 & CR4_SMAP)) {
		bool implicit = acc & ACC_SYS;

		if (implicit || !(v->rflags & FLAG_AC))
			return false;
	}
	if ((acc & ACC_W) && !w)
		return !(v->cr0 & CR0_WP);
	return true;
}

static bool ref_walk8(struct want *w, unsigned int top, u64 off, u32 acc)
{
	bool wr = true, us = true, nx = false;
	unsigned int leaf = 0;
	u64 hi = v->efer & EFER_LMA ? BIT(52) - BIT(40) : BIT(63) - BIT(40);

	if (!(v->efer & EFER_NXE))
		hi |= NX;
	for (unsigned int l = top; l && !leaf; l--) {
		u64 e = w->pte[l];
		u64 bad = hi;
		bool large = (l == 2 || l == 3) && (e & PS);

		if (!(e & P))
			return ref_fault(w, 0, acc);
		if (l == 4)
			bad |= PS;
		if (l == 3 && large)
			bad |= 0x3fffe000;
		if (l == 2 && large)
			bad |= 0x1fe000;
		if (e & bad)
			return ref_fault(w, 1 | 8, acc);
		wr = wr && (e & W);
		us = us && (e & U);
		nx = nx || (e & NX);
		if (l == 1 || large)
			leaf = l;
	}
	if (!ref_rights(wr, us, nx, acc))
		return ref_fault(w, 1, acc);
	for (unsigned int l = top; l >= leaf; l--)
		w->pte[l] |= A;
	if (acc & ACC_W)
		w->pte[leaf] |= D;
	w->gpa = (w->pte[leaf] & (BIT(40) - 1) & ~(BIT(12 + 9 * (leaf - 1)) - 1)) | off;
	return true;
}

static bool ref_walk4(struct want *w, u64 off, u32 acc)
{
	u64 pde = w->pte[2], pte = w->pte[1];
	bool large = (pde & PS) && (v->cr4 & CR4_PSE);

	if (!(pde & P))
		return ref_fault(w, 0, acc);
	if (large) {
		if (pde & BIT(21))
			return ref_fault(w, 1 | 8, acc);
		if (!ref_rights(pde & W, pde & U, false, acc))
			return ref_fault(w, 1, acc);
		w->pte[2] |= A | (acc & ACC_W ? D : 0);
		w->gpa = (pde & 0xffc00000) | (pde >> 13 & 0xff) << 32 | off;
		return true;
	}
	if (!(pte & P))
		return ref_fault(w, 0, acc);
	if (!ref_rights((pde & W) && (pte & W), (pde & U) && (pte & U), false, acc))
		return ref_fault(w, 1, acc);
	w->pte[2] |= A;
	w->pte[1] |= A | (acc & ACC_W ? D : 0);
	w->gpa = (pte & 0xfffff000) | off;
	return true;
}

/* ---- comparing --------------------------------------------------------------------------------------- */

enum { LONG, PAE, LEGACY };

static bool same(const struct want *w, unsigned int mode, int res, const struct xlat *x, u64 off)
{
	for (unsigned int l = 1; l <= (mode == LONG ? 4u : 2u); l++) {
		u64 got = mode == LEGACY ? (u32)ent(l) : ent(l);

		if (got != w->pte[l])
			return false;
	}
	if (w->fault)
		return res == OP_EXC && v->exc.vector == EXC_PF && v->exc.error == w->err && v->exc.payload == off;
	return res == 0 && (x->page | (off & 0xfff)) == w->gpa;
}

static unsigned int failures;

static void compare(unsigned int mode, u64 off, u32 acc)
{
	struct want w = { 0 };
	struct xlat x = { 0 };
	u64 before[5];
	int res;

	for (unsigned int l = 1; l <= 4; l++)
		before[l] = w.pte[l] = mode == LEGACY ? (u32)ent(l) : ent(l);
	if (mode == LEGACY)
		ref_walk4(&w, off, acc);
	else
		ref_walk8(&w, mode == LONG ? 4 : 2, off, acc);
	mmu_flush_all(v);
	res = mmu_xlat(v, off, acc, &x);
	if (same(&w, mode, res, &x, off) || failures++ > 5)
		return;
	diag("mode %u acc %#x off %#" PRIx64 " cr0 %#" PRIx64 " cr4 %#" PRIx64 " efer %#" PRIx64
	     " ac %d cpl %u", mode, acc, off, v->cr0, v->cr4, v->efer, !!(v->rflags & FLAG_AC), v->cpl);
	for (unsigned int l = 1; l <= 4; l++)
		diag("  level %u: %#" PRIx64 " -> got %#" PRIx64 " want %#" PRIx64, l, before[l], ent(l), w.pte[l]);
	diag("  got %d err %#x gpa %#" PRIx64 "; want fault %d err %#x gpa %#" PRIx64, res, v->exc.error,
	     x.page, w.fault, w.err, w.gpa);
}

static void controls(unsigned int mode, u64 r)
{
	v->cr0 = CR0_PE | CR0_PG | (r & 1 ? CR0_WP : 0);
	v->cr4 = (mode != LEGACY ? CR4_PAE : r & 64 ? CR4_PSE : 0) | (r & 2 ? CR4_SMEP : 0) | (r & 4 ? CR4_SMAP : 0);
	v->efer = (mode == LONG ? EFER_LMA : 0) | (r & 8 ? EFER_NXE : 0);
	v->rflags = 2 | (r & 16 ? FLAG_AC : 0);
	v->cpl = r & 32 ? 3 : 0;
	v->csz = mode == LONG ? 8 : 4;
	v->cr3 = mode == LONG ? T4 : T2;
	v->pdpte[0] = T2 | P;
}

static const u32 accesses[] = {
	ACC_R, ACC_W, ACC_RW, ACC_X, ACC_R | ACC_SYS, ACC_W | ACC_SYS, ACC_R | ACC_USER, ACC_W | ACC_USER,
};

/* Bits an entry can have that matter, as an index */
static u64 entry(unsigned int i, u64 next)
{
	return next | (i & 1 ? P : 0) | (i & 2 ? W : 0) | (i & 4 ? U : 0) | (i & 8 ? NX : 0) | (i & 16 ? A : 0) |
	       (i & 32 ? D : 0) | (i & 64 ? BIT(45) : 0);
}

/* Every PTE with every PDE of these bits, for one setting of the controls each. */
static void exhaustive(unsigned int mode)
{
	u64 seed = mode + 1;

	failures = 0;
	put(4, T3 | P | W | U);
	put(3, T2 | P | W | U);
	for (unsigned int pde = 0; pde < 128; pde++) {
		for (unsigned int pte = 0; pte < 128; pte++) {
			u64 r = tap_rand(&seed);

			controls(mode, r);
			for (unsigned int a = 0; a < ARRAY_SIZE(accesses); a++) {
				put(2, mode == LEGACY ? (u32)entry(pde, T1) : entry(pde, T1));
				put(1, mode == LEGACY ? (u32)entry(pte, DATA) : entry(pte, DATA));
				compare(mode, 0x123, accesses[a]);
			}
		}
	}
	ok(!failures, "mode %u: every PDE with every PTE", mode);
}

/* Mostly present, mostly permitting, now and then anything. */
static u64 random_entry(u64 *seed, u64 next, unsigned int level)
{
	u64 r = tap_rand(seed);
	u64 e = next | P | W | U;
	unsigned int flip = r >> 20 & 63;
	bool large = level > 1 && (v->cr4 & (CR4_PAE | CR4_PSE)) && !(r >> 28 & 3);

	if (!(r & 15))
		e &= ~P;
	if (!(r >> 4 & 7))
		e &= ~W;
	if (!(r >> 8 & 3))
		e &= ~U;
	if (!(r >> 12 & 7))
		e |= NX;
	/* The next table stays where it is; bit 7 only when it is meant. */
	if (!(r >> 16 & 15) && flip != 7 && (level == 1 || large || flip < 12 || flip > 39))
		e |= BIT(flip);
	if (large) {
		e |= PS;
		if (r >> 32 & 3)
			e &= ~0x3fffe000ull;
	}
	e |= (r >> 36 & 1 ? A : 0) | (r >> 37 & 1 ? D : 0) | (r >> 38 & 1 ? G : 0);
	return e;
}

static void random_walks(unsigned int mode, u64 *seed)
{
	unsigned int rounds = 400000 * tap_scale();

	failures = 0;
	for (unsigned int i = 0; i < rounds; i++) {
		u64 r = tap_rand(seed);

		controls(mode, r);
		put(4, random_entry(seed, T3, 4));
		put(3, random_entry(seed, T2, 3));
		put(2, random_entry(seed, T1, 2));
		put(1, random_entry(seed, DATA, 1));
		compare(mode, r >> 20 & 0xfff, accesses[r >> 8 & 7]);
	}
	ok(!failures, "mode %u: random entries at every level", mode);
}

static void elsewhere(void)
{
	struct xlat x;
	gpa_t gpa;

	controls(LONG, 8);
	put(4, MMIO_GPA | P | W | U);
	mmu_flush_all(v);
	is(mmu_xlat(v, 0, ACC_R, &x), OP_EXC, "a page table outside RAM");
	is(v->exc.error, 0, "reads as not present");
	*(u64 *)(void *)fake_rom = DATA | P | W;
	put(4, T3 | P | W);
	put(3, T2 | P | W);
	put(2, ROM_GPA | P | W);
	mmu_flush_all(v);
	is(mmu_xlat(v, 0, ACC_W, &x), 0, "a page table in ROM is walked");
	is(*(u64 *)(void *)fake_rom, DATA | P | W, "and keeps its bits");
	put(2, T1 | P | W | U);
	put(1, DATA | P | W | U);
	ok(mmu_translate(v, 0x123, 0, &gpa) && gpa == (DATA | 0x123), "mmu_translate()");
	is(ent(1), DATA | P | W | U, "sets nothing");
	ok(!mmu_translate(v, 0x800000000000ull, 0, &gpa), "knows canonical addresses");
	ok(mmu_translate(v, 0x123, ACC_W | ACC_USER, &gpa) == false, "and rights"); /* PML4E is supervisor */
	v->cr0 = 0;
	v->efer = 0;
	v->cr4 = 0;
	mmu_flush_all(v);
	is(mmu_xlat(v, 0x5123, ACC_W, &x) || x.page != 0x5000, 0, "paging off is the identity");
}

static void pdptes(void)
{
	u64 *t = (void *)(fake_ram + 0x5020);

	controls(PAE, 8);
	v->cr3 = 0x5020;
	t[0] = 0x6000 | P;
	t[1] = 0x1e6; /* reserved bits, but not present */
	t[2] = t[3] = 0;
	is(mmu_load_pdptes(v), 0, "PDPTEs load from a 32-byte aligned table");
	is(v->pdpte[0], 0x6000 | P, "into the registers");
	v->pdpte[3] = 0x77;
	for (unsigned int bit = 1; bit < 64; bit++) {
		bool rsvd = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= 40;

		t[3] = P | BIT(bit);
		if (mmu_load_pdptes(v) != (rsvd ? OP_EXC : 0))
			ok(false, "PDPTE bit %u", bit);
	}
	is(v->exc.vector, EXC_GP, "a reserved bit is #GP");
	t[3] = P | 2;
	v->pdpte[3] = 0x77;
	mmu_load_pdptes(v);
	is(v->pdpte[3], 0x77, "and loads nothing");
}

int main(void)
{
	u64 seed = tap_seed();

	v = fake_machine();
	for (unsigned int mode = LONG; mode <= LEGACY; mode++) {
		exhaustive(mode);
		random_walks(mode, &seed);
	}
	elsewhere();
	pdptes();
	return done_testing();
}
