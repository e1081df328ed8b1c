/* SPDX-License-Identifier: MIT */
#include "cpu/tlb.h"

#include <errno.h>
#include <sys/mman.h>

#include "cpu/rcache.h"

/* Bits of CR0, CR4 and EFER that choose the walk itself, and those that choose who may pass. */
#define KEY_CR0 (CR0_PG | CR0_PE)
#define KEY_CR4 (CR4_PAE | CR4_PSE | CR4_PGE | CR4_PCIDE)
#define RIGHTS_CR4 (CR4_SMEP | CR4_SMAP)

static void init(struct tlb *t, struct tlb_l1 *l1)
{
	t->now = t->all_min = t->context_gen = 1; /* a zeroed entry is stale */
	t->l1 = l1;
	for (unsigned int view = 0; view < VIEW_NUM; view++) {
		for (unsigned int i = 0; i < TLB_ENTRIES; i++)
			l1[view].r[i].tag = l1[view].w[i].tag = TLB_NEVER;
	}
}

int mmu_vcpu_init(struct vcpu *v)
{
	for (unsigned int n = 0; n < ARRAY_SIZE(v->tlb_all); n++) {
		struct tlb *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (t == MAP_FAILED)
			return -ENOMEM;
		init(t, v->l1_sets[n > 0]);
		v->tlb_all[n] = t;
	}
	for (unsigned int n = 0; n < 2; n++) {
		v->tlb_gen[n] = 1;
		v->tlbs[n] = v->tlb_all[n];
	}
	v->slots.used = BIT(VIEW_NONE * 2) - 1;
	tlb_drop_slots(v);
	v->slots.misses = SLOT_MISSES;
	mmu_context(v, false);
	v->dtlb = &v->l1[VIEW_SUPER_AC];
	return 0;
}

void mmu_context(struct vcpu *v, bool nonroot)
{
	struct tlb *next = v->tlbs[nonroot];

	if (v->tlb && v->tlb != next) {
		v->tlb->epoch[0] = v->epoch[0];
		v->tlb->epoch[1] = v->epoch[1];
		v->epoch[0] = next->epoch[0];
		v->epoch[1] = next->epoch[1];
	}
	v->tlb = next;
	v->l1 = next->l1;
}

void mmu_vcpu_destroy(struct vcpu *v)
{
	for (unsigned int n = 0; n < ARRAY_SIZE(v->tlb_all); n++) {
		if (v->tlb_all[n])
			munmap(v->tlb_all[n], sizeof(*v->tlb_all[n]));
		v->tlb_all[n] = NULL;
	}
	v->tlb = v->tlbs[0] = v->tlbs[1] = NULL;
}

/* ---- first level ------------------------------------------------------------------------------- */

static void clear_bits(u64 *map, unsigned int bits)
{
	for (unsigned int i = 0; i < bits / 64; i++)
		map[i] = 0;
}

/* Volatile: gcc 12 takes a loop of such stores for one without effect (modref) and drops calls of it. */
static void l1_drop(struct tlb_entry *e)
{
	*(volatile u64 *)&e->tag = TLB_NEVER;
}

static void clear_array(struct tlb_l1 *l, unsigned int which, bool keep_global)
{
	for (u32 left = keep_global ? l->local[which] : l->used[which]; left; left &= left - 1) {
		unsigned int first = (unsigned int)__builtin_ctz(left) * TLB_CHUNK;
		struct tlb_entry *e = (which ? l->w : l->r) + first;
		const u64 *gpa = &l->gpa[which][first];

		for (unsigned int i = 0; i < TLB_CHUNK; i++) {
			if (!keep_global || !(gpa[i] & TLB_GLOBAL))
				l1_drop(&e[i]);
		}
	}
	l->local[which] = 0;
	if (!keep_global)
		l->used[which] = 0;
}

static void l1_clear(struct vcpu *v, bool keep_global)
{
	struct tlb *t = v->tlb;

	for (u32 views = t->views_used; views; views &= views - 1) {
		clear_array(&t->l1[__builtin_ctz(views)], 0, keep_global);
		clear_array(&t->l1[__builtin_ctz(views)], 1, keep_global);
	}
	if (!keep_global) {
		if (!v->tlbs[t == v->tlbs[0]]->views_used) /* the other level's entries count too */
			v->tlb_uc = 0;
		t->views_used = 0;
		clear_bits(t->large_filter, LARGE_FILTER);
	}
	mid_clear(v);
}

void mmu_nonroot_use(struct vcpu *v, unsigned int n)
{
	struct tlb *old = v->tlbs[1], *next = v->tlb_all[1 + n], *now = v->tlb;

	if (old == next)
		return;
	v->tlb = old; /* the contexts share one first level */
	l1_clear(v, false);
	v->tlb = now;
	v->tlbs[1] = next;
	if (now == old)
		mmu_context(v, true);
}

static bool test_bit(const u64 *map, u64 n) { return map[n / 64] >> (n % 64) & 1; }
static void set_bit(u64 *map, u64 n) { map[n / 64] |= BIT(n % 64); }
static u64 large_hash(gva_t la) { return (la >> LARGE_SHIFT ^ la >> 32) & (LARGE_FILTER - 1); }
static u64 fetch_hash(gva_t la) { return (la >> PAGE_SHIFT ^ la >> 26 ^ la >> 40) & (FETCH_FILTER - 1); }

/*
 * Put a page into the read or write array, or take it out. An access of the other kind only takes an empty
 * place: its own page may be waiting there.
 */
static void l1_put(struct vcpu *v, struct tlb_l1 *l, unsigned int which, gva_t la, const struct tlb_entry *new, u64 gpa,
		   bool wanted)
{
	unsigned int i = l1_index(la);
	struct tlb_entry *e = (which ? l->w : l->r) + i;

	if (e->tag == la && (new->tag != la || new->host != e->host))
		tlb_drop_slots(v);
	if (new->tag == TLB_NEVER) {
		if (e->tag == la)
			l1_drop(e);
		return;
	}
	if (!wanted && e->tag != TLB_NEVER && e->tag != la)
		return;
	*e = *new;
	l->gpa[which][i] = gpa;
	l->used[which] |= 1u << i / TLB_CHUNK;
	if (!(gpa & TLB_GLOBAL))
		l->local[which] |= 1u << i / TLB_CHUNK;
}

void tlb_fill(struct vcpu *v, gva_t la, const struct xlat *x, u32 acc)
{
	u32 who = acc & (ACC_SYS | ACC_USER);
	enum tlb_view view = mmu_view(v, who);
	struct memslot *s = x->slot;
	struct tlb_entry r, w;
	u64 page, gpa;
	bool write;

	if (!s || (x->bits & XL_EXIT))
		return;
	la &= PAGE_MASK;
	page = memslot_page(s, x->page);
	write = (x->bits & XL_D) && !(s->flags & MEMSLOT_READONLY) && !memslot_code_users(s, page) &&
		(!s->dirty || memslot_page_dirty(s, page)) && mmu_allowed(v, x->bits, who | ACC_W);
	r.tag = mmu_allowed(v, x->bits, who | ACC_R) ? la : TLB_NEVER;
	w.tag = write ? la : TLB_NEVER;
	r.host = w.host = (u64)memslot_hva(s, x->page);
	gpa = x->page | (x->bits & XL_G ? TLB_GLOBAL : 0);
	if (unlikely(cpu_uncached(v, x->page, x->bits))) {
		gpa |= TLB_UC;
		v->tlb_uc = 1;
	}
	l1_put(v, &v->l1[view], 0, la, &r, gpa, !(acc & ACC_W) || (acc & ACC_R));
	l1_put(v, &v->l1[view], 1, la, &w, gpa, acc & ACC_W);
	if (r.tag == la && v->tr) /* only translated code searches it */
		mid_fill(v, &v->l1[view], la, x, gpa, write);
	v->tlb->views_used |= 1u << view;
	if (x->bits & XL_LARGE)
		set_bit(v->tlb->large_filter, large_hash(la));
}

static void drop_write(struct tlb *t, gpa_t page)
{
	for (u32 views = t->views_used; views; views &= views - 1) {
		struct tlb_l1 *l = &t->l1[__builtin_ctz(views)];

		for (unsigned int i = 0; i < TLB_ENTRIES; i++) {
			if ((l->gpa[1][i] & PAGE_MASK) == page)
				l1_drop(&l->w[i]);
		}
		mid_drop_write(t, l, page);
	}
}

void *tlb_quick(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	const struct tlb_entry *e = l1_slot(v->dtlb, la, acc);
	struct xlat x;

	if ((la & ~PAGE_MASK) + size > PAGE_SIZE || (acc & ACC_LOCK) || mmu_checked(v))
		return NULL;
	if (!l1_hit(e, la, size)) {
		if (!tlb_lookup(v, la, &x) || !x.slot || !mmu_allowed(v, x.bits, acc))
			return NULL;
		tlb_fill(v, la, &x, acc);
	}
	return l1_hit(e, la, size) ? l1_ptr(e, la) : NULL;
}

void *tlb_beside_code(struct vcpu *v, gva_t la, unsigned int size)
{
	gpa_t gpa;
	struct xlat x;
	u64 page;

	if ((la & ~PAGE_MASK) + size > PAGE_SIZE || atomic_load(&v->vm->nvcpus) > 1 || mmu_checked(v))
		return NULL;
	if (!tlb_lookup(v, la, &x) || !x.slot || (x.bits & (XL_D | XL_EXIT)) != XL_D ||
	    (x.slot->flags & MEMSLOT_READONLY) || !mmu_allowed(v, x.bits, ACC_W))
		return NULL;
	page = memslot_page(x.slot, x.page);
	gpa = x.page | (la & ~PAGE_MASK);
	if (memslot_code_users(x.slot, page) != BIT(v->index) || !code_beside(v, gpa, size))
		return NULL;
	memslot_mark_dirty(x.slot, page);
	return memslot_hva(x.slot, gpa);
}

void tlb_drop_write(struct vcpu *v, gpa_t page)
{
	tlb_drop_slots(v);
	drop_write(v->tlbs[0], page);
	drop_write(v->tlbs[1], page);
}

/* ---- second level ------------------------------------------------------------------------------- */

static bool live(const struct tlb *t, const struct tlb2_entry *e)
{
	return e->stamp >= t->all_min &&
	       ((e->pa & XL_G) || e->stamp >= t->local_min[e->key & (PCID_STAMPS - 1)]);
}

static bool matches(const struct tlb *t, const struct tlb2_entry *e, gva_t page, u16 pcid)
{
	if ((e->key & PAGE_MASK) != page || !live(t, e))
		return false;
	return (e->key & 0xfff) == pcid || (e->pa & XL_G);
}

static struct tlb2_entry *small_set(struct tlb *t, gva_t la)
{
	u64 vpn = la >> PAGE_SHIFT;

	return t->small[(vpn ^ vpn >> 11 ^ vpn >> 24) & (TLB2_SETS - 1)];
}

static struct tlb2_entry *large_slot(struct tlb *t, gva_t la)
{
	u64 n = la >> LARGE_SHIFT;

	return &t->large[(n ^ n >> 9 ^ n >> 18) & (TLB2_LARGE - 1)];
}

/* The slot of a piece of a large page is looked up each time: a large page may span slots. */
static bool lookup_large(struct vcpu *v, gva_t la, u16 pcid, struct xlat *x)
{
	gva_t base = la & ~(BIT(LARGE_SHIFT) - 1);
	struct tlb2_entry *e = large_slot(v->tlb, la);

	if (!matches(v->tlb, e, base, pcid))
		return false;
	x->page = (e->pa & PAGE_MASK) + ((la - base) & PAGE_MASK);
	x->bits = (u32)(e->pa & ~PAGE_MASK);
	x->slot = mmu_slot(v, x->page);
	return true;
}

bool tlb_lookup(struct vcpu *v, gva_t la, struct xlat *x)
{
	struct tlb2_entry *set = small_set(v->tlb, la);
	u16 pcid = mmu_pcid(v);

	for (unsigned int way = 0; way < TLB2_WAYS; way++) {
		struct tlb2_entry *e = &set[way];

		if (matches(v->tlb, e, la & PAGE_MASK, pcid)) {
			x->page = e->pa & PAGE_MASK;
			x->bits = (u32)(e->pa & ~PAGE_MASK);
			x->slot = e->slot;
			return true;
		}
	}
	return lookup_large(v, la, pcid, x);
}

static void drop_set(struct vcpu *v, gva_t la)
{
	struct tlb2_entry *set = small_set(v->tlb, la);

	for (unsigned int way = 0; way < TLB2_WAYS; way++) {
		if (matches(v->tlb, &set[way], la & PAGE_MASK, mmu_pcid(v)))
			set[way].stamp = 0;
	}
}

static void note_huge(struct tlb *t, gva_t la)
{
	for (u32 i = 0; i < t->nhuge && i < HUGE_MAX; i++) {
		if (t->huge[i] == la >> 30)
			return;
	}
	if (t->nhuge < HUGE_MAX)
		t->huge[t->nhuge] = la >> 30;
	if (t->nhuge <= HUGE_MAX)
		t->nhuge++;
}

void tlb_insert(struct vcpu *v, gva_t la, const struct xlat *x)
{
	struct tlb *t = v->tlb;
	struct tlb2_entry new = { .pa = x->page | x->bits, .slot = x->slot, .stamp = t->now };
	struct tlb2_entry *set;

	if (x->bits & XL_EFRAG)
		set_bit(t->frag_filter, large_hash(la));
	if ((x->bits & (XL_LARGE | XL_EFRAG)) == XL_LARGE) {
		gva_t base = la & ~(BIT(LARGE_SHIFT) - 1);

		new.key = base | mmu_pcid(v);
		new.pa -= (la - base) & PAGE_MASK;
		drop_set(v, la);
		*large_slot(t, la) = new;
		if (x->bits & XL_HUGE)
			note_huge(t, la);
		return;
	}
	new.key = (la & PAGE_MASK) | mmu_pcid(v);
	set = small_set(t, la);
	if (!matches(t, &set[0], la & PAGE_MASK, mmu_pcid(v)))
		set[1] = set[0];
	set[0] = new;
}

/* ---- what linear addresses of code mean --------------------------------------------------------- */

/*
 * A jump-cache entry is good while its epoch is the current one. User code has an epoch per PCID, so a switch back to
 * a PCID finds its entries again. The supervisor's entries outlive every switch as long as all its code is in global
 * pages; once some is not, it has an epoch per PCID too.
 */

static struct context *context_of(struct tlb *t, u16 pcid)
{
	return &t->context[pcid & (CONTEXTS - 1)];
}

static void enter_context(struct vcpu *v)
{
	struct tlb *t = v->tlb;
	u16 pcid = mmu_pcid(v);
	struct context *c = context_of(t, pcid);

	if (c->pcid != pcid || c->gen != t->context_gen) {
		c->pcid = pcid;
		c->gen = t->context_gen;
		c->epoch[0] = c->epoch[1] = ++v->epoch_last;
	}
	v->epoch[1] = c->epoch[1];
	if (t->local_code)
		v->epoch[0] = c->epoch[0];
	mmu_adopt_epoch(v);
}

static void forget_context(struct tlb *t, u16 pcid)
{
	struct context *c = context_of(t, pcid);

	if (c->pcid == pcid)
		c->gen = 0;
}

static void forget_all_contexts(struct vcpu *v)
{
	v->tlb->context_gen++;
	v->tlb->fetched = 0;
	clear_bits(v->tlb->fetch_filter[1], FETCH_FILTER);
	enter_context(v);
}

void vcpu_forget_jumps(struct vcpu *v)
{
	u64 last = v->epoch_last; /* each KVM_RUN comes here: not through memory each time */

	for (unsigned int n = 0; n < ARRAY_SIZE(v->tlb_all); n++) {
		v->tlb_all[n]->context_gen++;
		v->tlb_all[n]->epoch[0] = v->tlb_all[n]->epoch[1] = ++last;
	}
	v->epoch[0] = v->epoch_last = ++last;
	enter_context(v);
}

/* No translation is left, so what was noted of them can be forgotten too. */
static void forget_fetches(struct vcpu *v)
{
	struct tlb *t = v->tlb;

	t->fetched = 0;
	t->local_code = t->global_user_code = false;
	clear_bits(t->fetch_filter[0], FETCH_FILTER);
	clear_bits(t->fetch_filter[1], FETCH_FILTER);
	vcpu_forget_jumps(v);
}

void tlb_note_fetch(struct vcpu *v, gva_t la, const struct xlat *x)
{
	bool user = v->cpl == 3;
	u64 *filter = v->tlb->fetch_filter[user], n = fetch_hash(la);

	if (x->bits & XL_LARGE)
		set_bit(v->tlb->large_filter, large_hash(la));
	if (!user && !(x->bits & XL_G))
		v->tlb->local_code = true;
	if (user && (x->bits & XL_G))
		v->tlb->global_user_code = true;
	if (test_bit(filter, n))
		return;
	if (user && ++v->tlb->fetched > FETCH_FILTER / 8) /* or it says yes to everything */
		forget_all_contexts(v);
	set_bit(filter, n);
}

/* la's translation in the current PCID, or a global one, is gone. */
static void forget_fetched(struct vcpu *v, gva_t la)
{
	u64 n = fetch_hash(la);

	if (test_bit(v->tlb->fetch_filter[0], n)) {
		vcpu_forget_jumps(v);
	} else if (test_bit(v->tlb->fetch_filter[1], n)) {
		if (v->tlb->global_user_code)
			v->tlb->context_gen++;
		forget_context(v->tlb, mmu_pcid(v));
		enter_context(v);
	}
}

/* ---- flushing ----------------------------------------------------------------------------------- */

void mmu_flush_all(struct vcpu *v)
{
	struct tlb *t = v->tlb;

	t->all_min = ++t->now;
	t->nhuge = 0;
	clear_bits(t->frag_filter, LARGE_FILTER);
	l1_clear(v, false);
	forget_fetches(v);
}

void mmu_flush_contexts(struct vcpu *v)
{
	struct tlb *now = v->tlb;

	for (unsigned int n = 0; n < ARRAY_SIZE(v->tlb_all); n++) {
		v->tlb = v->tlb_all[n];
		if (!n || v->tlb->now > 1) /* a context was emptied before its first use */
			mmu_flush_all(v);
	}
	v->tlb = now;
	enter_context(v); /* the epochs are those of the last one */
}

static void flush_local(struct vcpu *v, u16 pcid)
{
	struct tlb *t = v->tlb;

	t->local_min[pcid & (PCID_STAMPS - 1)] = ++t->now;
	forget_context(t, pcid);
}

void mmu_flush_nonglobal(struct vcpu *v)
{
	flush_local(v, mmu_pcid(v));
	l1_clear(v, true);
	enter_context(v);
}

void mmu_flush_pcid(struct vcpu *v, u16 pcid)
{
	flush_local(v, pcid);
	if (pcid == mmu_pcid(v)) {
		l1_clear(v, true);
		enter_context(v);
	}
}

void mmu_flush_all_pcids(struct vcpu *v)
{
	struct tlb *t = v->tlb;

	t->now++;
	for (unsigned int i = 0; i < PCID_STAMPS; i++)
		t->local_min[i] = t->now;
	l1_clear(v, true);
	forget_all_contexts(v);
}

/* INVLPG ends a page's entries whatever its size is, and global ones in every PCID.
 * [SDM3A "Operations that Invalidate TLBs and Paging-Structure Caches"] */
static void drop_small(struct vcpu *v, gva_t la)
{
	drop_set(v, la);
	tlb_drop_slots(v);
	for (u32 views = v->tlb->views_used; views; views &= views - 1) {
		struct tlb_l1 *l = &v->l1[__builtin_ctz(views)];

		if (((l->r[l1_index(la)].tag ^ la) & PAGE_MASK) == 0)
			l1_drop(&l->r[l1_index(la)]);
		if (((l->w[l1_index(la)].tag ^ la) & PAGE_MASK) == 0)
			l1_drop(&l->w[l1_index(la)]);
		mid_drop_page(l, la);
	}
}

static void drop_large(struct vcpu *v, gva_t la)
{
	struct tlb2_entry *e = large_slot(v->tlb, la);

	if (matches(v->tlb, e, la & ~(BIT(LARGE_SHIFT) - 1), mmu_pcid(v)))
		e->stamp = 0;
}

static bool in_huge(const struct tlb *t, gva_t la)
{
	if (t->nhuge > HUGE_MAX)
		return true;
	for (u32 i = 0; i < t->nhuge; i++) {
		if (t->huge[i] == la >> 30)
			return true;
	}
	return false;
}

void mmu_flush_page(struct vcpu *v, gva_t la)
{
	struct tlb *t = v->tlb;
	/* Without PAE a large page is 4 MiB: two entries. */
	gva_t other = v->cr4 & CR4_PAE ? la : la ^ BIT(LARGE_SHIFT);
	bool large = test_bit(t->large_filter, large_hash(la)) || test_bit(t->large_filter, large_hash(other));

	if (in_huge(t, la) || test_bit(t->frag_filter, large_hash(la)) || test_bit(t->frag_filter, large_hash(other))) {
		mmu_flush_all(v);
		return;
	}
	drop_small(v, la);
	drop_large(v, la);
	drop_large(v, other);
	if (large) {
		vcpu_forget_jumps(v);
		l1_clear(v, false);
	} else {
		forget_fetched(v, la);
	}
}

void mmu_cr3_loaded(struct vcpu *v, bool keep)
{
	if (!keep)
		flush_local(v, mmu_pcid(v));
	l1_clear(v, true);
	enter_context(v);
}

/* ---- views -------------------------------------------------------------------------------------- */

static void adopt_controls(struct vcpu *v, u64 key)
{
	u64 changed = v->tlb->key ^ key;

	v->tlb->key = key;
	/* The key's low half is CR4 with CR0.PG, PE and WP, its high half EFER and SMM: see mmu_select_view(). */
	if (changed & ~(RIGHTS_CR4 | CR0_WP)) {
		mmu_flush_all(v);
	} else {
		l1_clear(v, false);
		vcpu_forget_jumps(v);
	}
}

void mmu_select_view(struct vcpu *v)
{
	/* CR4 bits 0 and 16 (VME, FSGSBASE) are not among KEY_CR4, so CR0's PE and WP fit in their places. */
	u64 key = (v->cr0 & (KEY_CR0 | CR0_WP)) | (v->cr4 & (KEY_CR4 | RIGHTS_CR4)) |
		  (v->efer & (EFER_NXE | EFER_LMA)) << 32 | (u64)v->smm << 62;
	enum tlb_view view = mmu_view(v, 0);

	if (unlikely(key != v->tlb->key))
		adopt_controls(v, key);
	if (unlikely(v->watch_mask) && debug_watches_data(v))
		view = VIEW_NONE;
	if (unlikely(view == VIEW_USER && (v->cr0 & CR0_AM) && (v->rflags & FLAG_AC)))
		view = VIEW_NONE;
	v->dtlb = &v->l1[view];
	v->mode_key = (v->mode_key & ~(u64)MODE_VIEW) | (u64)view << MODE_VIEW_SHIFT;
}

/* ---- pages with code ------------------------------------------------------------------------------ */

/*
 * A page that has a user is already without write entries. One that has none gets its first under a pause
 * only, so that no vCPU can be between looking at the marks and installing an entry.
 */
bool code_page_mark(struct vcpu *v, struct memslot *s, gpa_t gpa)
{
	_Atomic u64 *users = &s->code_users[memslot_page(s, gpa)];
	u64 me = BIT(v->index);
	u64 old = atomic_load(users);
	struct machine *m = v->vm;
	u64 gen;

	while (old) {
		if ((old & me) || atomic_compare_exchange_weak(users, &old, old | me))
			return true;
	}
	gen = atomic_load(&m->mem.generation);
	vm_pause(m, v);
	if (gen != atomic_load(&m->mem.generation)) {
		vm_resume(m, v, 0);
		return false;
	}
	atomic_fetch_or(users, me);
	for (u32 i = 0; i < atomic_load(&m->nvcpus); i++) {
		if (m->vcpu[i])
			tlb_drop_write(m->vcpu[i], gpa & PAGE_MASK);
	}
	vm_resume(m, v, 0);
	return true;
}

/* Clear the marks if nobody else has one; a first mark by another vCPU then waits for our boundary. */
static bool unmark_alone(_Atomic u64 *users, u64 me)
{
	u64 old = atomic_load(users);

	do {
		if (old & ~me)
			return false;
	} while (!atomic_compare_exchange_weak(users, &old, 0));
	return true;
}

bool code_page_claim(struct vcpu *v, struct memslot *s, gpa_t page)
{
	_Atomic u64 *users = &s->code_users[memslot_page(s, page)];
	struct machine *m = v->vm;
	u64 gen = atomic_load(&m->mem.generation);
	bool same;

	rcache_invalidate(v, page, PAGE_SIZE);
	atomic_fetch_or(&v->request, REQ_INSN); /* perhaps the running trace is gone */
	if (unmark_alone(users, BIT(v->index)))
		return true;
	vm_pause(m, v);
	same = gen == atomic_load(&m->mem.generation);
	for (u64 left = same ? atomic_load(users) : 0; left; left &= left - 1) {
		struct vcpu *o = m->vcpu[__builtin_ctzll(left)];

		if (o)
			rcache_invalidate(o, page, PAGE_SIZE);
	}
	if (same)
		atomic_store(users, 0);
	vm_resume(m, v, 0);
	return same;
}
