/* SPDX-License-Identifier: MIT */
#include "cpu/rcache_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base.h"
#include "cpu/native.h"
#include "cpu/op/op.h"
#include "cpu/tlb.h"
#include "cpu/vmx/vmx.h"

int rcache_init(struct vcpu *v)
{
	struct rcache *rc = mmap(NULL, sizeof(*rc), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (rc == MAP_FAILED)
		return -ENOMEM;
	rc->used = 64; /* reference 0 means none */
	v->rc = rc;
	return 0;
}

void rcache_destroy(struct vcpu *v)
{
	if (v->rc)
		munmap(v->rc, sizeof(*v->rc));
	v->rc = NULL;
}

/* Traces only: stubs go by what they do and may be met again. */
static void start_over(struct vcpu *v)
{
	struct rcache *rc = v->rc;

	for (u32 i = 0; i < rc->npages; i++) {
		if (rc->page[i].gpa != ~0ull)
			page_unmark(v, rc->page[i].gpa);
	}
	memset(rc->hash, 0, sizeof(rc->hash));
	memset(rc->page_hash, 0, sizeof(rc->page_hash));
	rc->npages = 0;
	rc->free_page = 0;
	rc->used = 64;
	rc->stat_flushes++;
	if (v->tr)
		v->tr->flush(v);
	vcpu_reverify(v);
}

void rcache_flush(struct vcpu *v)
{
	start_over(v);
	native_reset(v);
}

#define REST_NS 1000000000ull
#define REST_TICKS 64000000ull /* of the host's TSC in that time: some percent of a core at most */

void rcache_rest(struct vcpu *v)
{
	struct rcache *rc = v->rc;
	u64 now = base_now_ns(), ran;
	bool idle;

	v->slept_since = base_rdtsc();
	if (now - rc->rest_since < REST_NS)
		return;
	ran = (v->slept_since - rc->rest_tsc) - (v->asleep - rc->rest_asleep);
	idle = ran / 1024 * REST_NS < REST_TICKS / 1024 * (now - rc->rest_since);
	rc->rest_since = now;
	rc->rest_tsc = v->slept_since;
	rc->rest_asleep = v->asleep;
	if (!idle || rc->used <= RCACHE_REST)
		return;
	start_over(v);
	madvise(rc->arena + PAGE_SIZE, RCACHE_ARENA - PAGE_SIZE, MADV_DONTNEED);
}

/* ---- building a trace ------------------------------------------------------------------------- */

/* Longer than 15 bytes. [SDM2A "Instruction Format"] */
static int op_too_long(struct vcpu *v, const struct insn *i)
{
	return RAISE_GP0(v);
}

/* Nothing useful to decode behind a control transfer. */
static bool insn_ends_trace(const struct insn *i)
{
	return insn_rows[i->id].traits & (T_BRANCH | T_END) || i->id == INSN_INVALID;
}

struct build {
	u64 lin;
	hva_t host;	/* of the first page */
	gpa_t page;
	gpa_t page2;
	unsigned int off;
	unsigned int avail;	/* bytes of src valid */
	unsigned int limit;	/* bytes the code segment limit leaves */
	struct trace *old; /* found, but its bytes have changed */
	u64 flushes;	/* rcache.stat_flushes then */
	u16 memo[RCACHE_TRACE_MAX];
	u8 src[RCACHE_TRACE_MAX * 15 + 16];
};

static int copy_code(struct vcpu *v, void *dst, const void *src, size_t len, gpa_t gpa)
{
	return mem_copy_guarded(dst, src, len) ? mem_efault(v, gpa) : OP_NEXT;
}

static bool mark_page(struct vcpu *v, gpa_t page)
{
	struct memslot *s = mmu_slot(v, page);

	return !s || code_page_mark(v, s, page);
}

/* Translate for fetching: the page's host and guest-physical addresses. */
static int translate(struct vcpu *v, u64 lin, hva_t *host, gpa_t *page)
{
	struct fetch_entry *e = &v->rc->fetch[(lin >> PAGE_SHIFT) & (RCACHE_FETCH - 1)];
	int res;

	if (likely(e->lin == (lin & PAGE_MASK) && fetch_same(v, e->mode_key) &&
		   v->tlb->gen == atomic_load_explicit(&v->vm->mem.generation, memory_order_acquire))) {
		e->mode_key = v->mode_key;
		*host = e->host;
		*page = e->page;
		return OP_NEXT;
	}
	res = mmu_fetch(v, lin, host, page);
	if (!res)
		*e = (struct fetch_entry){ lin & PAGE_MASK, v->mode_key, *host, *page };
	return res;
}

/* Translate for fetching and mark the page; both again when the memory map changed in between. */
static int fetch_page(struct vcpu *v, u64 lin, hva_t *host, gpa_t *page)
{
	int res;

	do
		res = translate(v, lin, host, page);
	while (!res && !mark_page(v, *page));
	return res;
}

/* The first instruction runs over the page's end: fetch its tail. */
static int fetch_tail(struct vcpu *v, struct build *b)
{
	unsigned int have = PAGE_SIZE - b->off;
	unsigned int more = v->csz == 8 ? RCACHE_TRACE_MAX * 15 - have : 15;
	hva_t host2;
	int res = fetch_page(v, (b->lin | ~PAGE_MASK) + 1, &host2, &b->page2);

	if (res)
		return res;
	res = copy_code(v, b->src + have, host2, more, b->page2);
	b->avail = have + more < b->limit ? have + more : b->limit;
	return res;
}

static int fetch_bytes(struct vcpu *v, struct build *b)
{
	int res = fetch_page(v, b->lin, &b->host, &b->page);

	if (res)
		return res;
	b->page2 = ~0ull;
	b->off = (unsigned int)(b->lin & ~PAGE_MASK);
	b->avail = PAGE_SIZE - b->off;
	if (b->avail > RCACHE_TRACE_MAX * 15)
		b->avail = RCACHE_TRACE_MAX * 15;
	if (b->avail > b->limit)
		b->avail = b->limit;
	return copy_code(v, b->src, b->host + b->off, b->avail, b->page);
}

static struct trace *trace_alloc(struct vcpu *v)
{
	struct rcache *rc = v->rc;
	size_t need = sizeof(struct trace) + (RCACHE_TRACE_MAX + 1) * sizeof(struct insn) +
		      RCACHE_TRACE_MAX * (sizeof(u16) + 15) + 16;

	if (rc->used + need > RCACHE_ARENA || rc->npages >= RCACHE_PAGES - 1)
		start_over(v);
	return (struct trace *)(rc->arena + rc->used);
}

/* What L1 can intercept runs through its intercepts in L2. */
static int bind(struct vcpu *v, const struct decode *d, struct insn *rec)
{
	op_fn intercept = v->nonroot ? vmx_bind(v, rec) : NULL;

	if (!intercept)
		return native_bind(v, d, rec);
	native_bind_op(v, rec, intercept);
	return 0;
}

/* rec->off and seq are set. 0; -EAGAIN bytes are missing; -ENOSPC the stub pool is full. */
static int decode_one(struct vcpu *v, const u8 *src, unsigned int left, struct insn *rec, u16 *at)
{
	struct decode d;
	u16 off = rec->off;
	u8 seq = rec->seq;
	int err;

	*at = v->csz == 8 && !v->nonroot ? memo_record(v, src, left, rec) : MEMO_NONE;
	rec->seq = seq;
	if (*at != MEMO_NONE)
		return 0;
	v->rc->stat_unknown++;
	cpu_fp_spill(v); /* Zydis uses vector registers */
	err = insn_decode(v, src, left < 15 ? left : 15, v->csz, &d);
	if (err == -EAGAIN)
		return err;
	if (err) {
		memset(&d, 0, sizeof(d));
		d.rec.op = op_too_long;
		d.rec.id = INSN_INVALID;
		d.rec.len = d.len = 1;
		d.rec.base = d.rec.index = GPR_NONE;
	}
	*rec = d.rec;
	rec->off = off;
	rec->seq = seq;
	err = bind(v, &d, rec);
	if (!err)
		*at = memo_keep(v, &d, rec);
	return err;
}

/*
 * Decode up to RCACHE_TRACE_MAX records into t. Return OP_NEXT, a fetch fault of the very first
 * instruction, or -ENOSPC when the stub pool is full.
 */
static int decode_run(struct vcpu *v, struct build *b, struct trace *t)
{
	unsigned int pos = 0;

	t->n = 0;
	/* Behind a first instruction in two pages 64-bit code goes on in the second. */
	while (t->n < RCACHE_TRACE_MAX && pos < b->avail &&
	       (b->off + pos < PAGE_SIZE || (v->csz == 8 && b->page2 != ~0ull))) {
		struct insn *rec = &t->rec[t->n];
		int err;

		rec->off = (u16)(b->off + pos);
		rec->seq = t->n;
		err = decode_one(v, b->src + pos, b->avail - pos, rec, &b->memo[t->n]);
		if (err == -EAGAIN && t->n)
			break;
		if (err == -EAGAIN && b->avail >= b->limit)
			return RAISE_GP0(v);
		if (err == -EAGAIN && b->page2 == ~0ull) {
			int res = fetch_tail(v, b);

			if (res)
				return res;
			continue;
		}
		if (err)
			return err;
		pos += rec->len;
		t->n++;
		if (insn_ends_trace(rec))
			break;
	}
	t->nbytes = (u16)pos;
	return OP_NEXT;
}

static void trace_finish(struct vcpu *v, struct build *b, struct trace *t)
{
	struct insn *end = &t->rec[t->n];

	memset(end, 0, sizeof(*end));
	end->fn = native_trace_end(v);
	end->off = (u16)(b->off + t->nbytes);
	end->seq = t->n;
	t->gpa = b->page | b->off;
	t->gpa2 = b->page2;
	t->key = (u16)v->mode_key;
	t->verified = v->verify;
	t->lin = TLB_NEVER;
	t->dead = t->aliased = t->apart = t->queued = t->listed = t->awaited = false;
	t->remakes = 0;
	t->block = 0;
	t->code = NULL;
	t->first = t->rec[0].fn;
	t->heat = v->heat;
	if (v->tr && v->csz == 8)
		t->rec[0].fn = native_warm_entry(v);
	memcpy(trace_memo(t), b->memo, t->n * sizeof(u16));
	memcpy(trace_src(t), b->src, t->nbytes);
}

static unsigned int trace_size(const struct trace *t)
{
	size_t records = (t->n + 1u) * sizeof(struct insn), memo = t->n * sizeof(u16);

	return (unsigned int)(sizeof(*t) + records + memo + t->nbytes + 7) & ~7u;
}

static void trace_link(struct vcpu *v, struct trace *t)
{
	struct rcache *rc = v->rc;
	u32 *head = &rc->hash[hash_trace(t->gpa, t->key)];

	t->room = (u16)(trace_size(t) / 8);
	rc->used += t->room * 8u;
	t->hash_next = *head;
	*head = trace_ref(rc, t);
	page_add(rc, t, t->gpa & PAGE_MASK);
	if (t->gpa2 != ~0ull)
		page_add(rc, t, t->gpa2);
}

/* The more often it was written, the later is it translated. */
static void note_remake(struct vcpu *v, struct trace *t, u8 before)
{
	u32 heat = (u32)v->heat << (before < 8 ? before : 8);

	t->remakes = before < 255 ? before + 1 : before;
	t->heat = (u16)(heat < 65535 ? heat : 65535);
}

/* Nobody is inside a trace while another one is looked for. */
static void overwrite(struct vcpu *v, struct trace *old, const struct trace *new)
{
	struct trace was;

	if (old->block)
		v->tr->drop(v, old);
	was = *old;
	memcpy(old, new, trace_size(new));
	old->hash_next = was.hash_next;
	old->page_next = was.page_next;
	old->page_next2 = was.page_next2;
	old->code_next = was.code_next;
	old->listed = was.listed;
	old->room = was.room;
	old->lin = was.lin;
	old->aliased = was.aliased;
	note_remake(v, old, was.remakes);
	page_cover(v, old, true);
}

/* Keep a new trace, in the place of the one whose bytes have changed if it fits. */
static struct trace *trace_keep(struct vcpu *v, const struct build *b, struct trace *t)
{
	struct trace *old = b->flushes == v->rc->stat_flushes ? b->old : NULL;

	if (old && old->gpa2 == ~0ull && t->gpa2 == ~0ull && trace_size(t) <= old->room * 8u) {
		overwrite(v, old, t);
		return old;
	}
	if (old) {
		note_remake(v, t, old->remakes);
		trace_discard(v, old);
	}
	trace_link(v, t);
	return t;
}

static int trace_build(struct vcpu *v, struct build *b, struct trace **out)
{
	u64 start = base_rdtsc();
	struct trace *t;
	int res;

	for (int tries = 0; tries < 2; tries++) {
		t = trace_alloc(v);
		res = fetch_bytes(v, b);
		if (res)
			return res;
		res = decode_run(v, b, t);
		if (res != -ENOSPC)
			break;
		rcache_flush(v);
	}
	if (res == -ENOSPC)
		return cpu_internal(v, INTERNAL_ENGINE);
	if (res)
		return res;
	trace_finish(v, b, t);
	/* A run cut short by the segment limit is not what another segment would find here. */
	if (b->limit > PAGE_SIZE + 16)
		t = trace_keep(v, b, t);
	cost_add(&v->rc->stat_decode, start, 1, t->n);
	*out = t;
	return OP_NEXT;
}

/* ---- finding a trace ---------------------------------------------------------------------------- */

/* Are the n bytes at host still those at src? */
static int compare(struct vcpu *v, hva_t host, const u8 *src, unsigned int n, gpa_t page, bool *same)
{
	int res = mem_same_guarded(host, src, n);

	if (unlikely(res < 0))
		return mem_efault(v, page);
	*same = res;
	return OP_NEXT;
}

/* The second page of a trace may be another one here, wherever the first is. */
static int verify_tail(struct vcpu *v, struct trace *t, const struct build *b, bool *same)
{
	unsigned int first = PAGE_SIZE - b->off;
	hva_t host2;
	gpa_t page2;
	int res = fetch_page(v, (b->lin | ~PAGE_MASK) + 1, &host2, &page2);

	if (res)
		return res;
	*same = page2 == t->gpa2;
	if (!*same || t->verified == v->verify)
		return OP_NEXT;
	return compare(v, host2, trace_src(t) + first, t->nbytes - first, page2, same);
}

/* Its bytes are what they were. */
static void trace_current(struct vcpu *v, struct trace *t)
{
	if (t->verified == TRACE_STALE)
		page_cover(v, t, false);
	t->verified = v->verify;
	if (t->block && t->awaited)
		v->tr->relink(v, t);
}

/* Are the bytes t was decoded from still there? */
static int trace_verify(struct vcpu *v, struct trace *t, const struct build *b, bool *same)
{
	unsigned int first = PAGE_SIZE - b->off < t->nbytes ? PAGE_SIZE - b->off : t->nbytes;
	int res = OP_NEXT;

	*same = true;
	if (t->gpa2 != ~0ull)
		res = verify_tail(v, t, b, same);
	if (t->verified == v->verify || res || !*same)
		return res;
	/* The slot may be a new one, without our mark. */
	*same = mark_page(v, b->page);
	if (*same)
		res = compare(v, b->host + b->off, trace_src(t), first, b->page, same);
	if (!res && *same)
		trace_current(v, t);
	return res;
}

static struct trace *hash_find(struct vcpu *v, gpa_t gpa, u16 key)
{
	struct rcache *rc = v->rc;
	struct trace *t = trace_at(rc, rc->hash[hash_trace(gpa, key)]);

	while (t && (t->gpa != gpa || t->key != key))
		t = trace_at(rc, t->hash_next);
	return t;
}

/*
 * Translated blocks of a page go to each other without asking here, so whoever finds the first of them compares
 * them all. No block goes to a stale one.
 */
static int page_verify(struct vcpu *v, const struct build *b, const struct trace *found)
{
	struct code_page *p = page_lookup(v->rc, b->page);

	if (!p || p->verified == v->verify)
		return OP_NEXT;
	for (u32 *link = &p->code; *link;) {
		struct trace *t = trace_at(v->rc, *link);
		unsigned int off = (unsigned int)(t->gpa & ~PAGE_MASK);
		bool same = false;

		if (t->dead || !t->block) { /* no longer */
			t->listed = false;
			*link = t->code_next;
			continue;
		}
		link = &t->code_next;
		if (t == found || t->verified == v->verify || t->verified == TRACE_STALE)
			continue;
		if (compare(v, b->host + off, trace_src(t), t->nbytes, b->page, &same))
			return OP_STOP;
		if (same)
			trace_current(v, t);
		else
			trace_discard(v, t);
	}
	p->verified = v->verify;
	return OP_NEXT;
}

static int find_cached(struct vcpu *v, struct build *b, struct trace **out)
{
	struct trace *t;
	bool same = true;
	int res = translate(v, b->lin, &b->host, &b->page);

	*out = NULL;
	if (res)
		return res;
	b->off = (unsigned int)(b->lin & ~PAGE_MASK);
	t = hash_find(v, b->page | b->off, (u16)v->mode_key);
	if (!t)
		return OP_NEXT;
	if (t->verified != v->verify || t->gpa2 != ~0ull) {
		res = trace_verify(v, t, b, &same);
		if (!res && same && v->tr)
			res = page_verify(v, b, t);
		if (res)
			return res;
		if (!same) {
			b->old = t;
			b->flushes = v->rc->stat_flushes;
			return OP_NEXT;
		}
	}
	*out = t;
	return OP_NEXT;
}

static void set_limit(struct vcpu *v, struct build *b)
{
	u64 left;

	b->limit = PAGE_SIZE * 2;
	if (v->csz == 8)
		return;
	left = (u64)v->seg[SEG_CS].limit - (u32)v->rip + 1;
	if (left < b->limit)
		b->limit = (unsigned int)left;
}

int rcache_find(struct vcpu *v, u64 lin, const struct insn **out)
{
	struct build b;
	struct trace *t = NULL;
	struct jentry *j;
	int res;

	b.lin = lin;
	b.old = NULL;
	b.flushes = 0;
	if (v->csz == 8) {
		if ((u64)((s64)(lin << 16) >> 16) != lin)
			return RAISE_GP0(v);
	} else if ((u32)v->rip > v->seg[SEG_CS].limit) {
		return RAISE_GP0(v);
	}
	set_limit(v, &b);
	if (b.limit > PAGE_SIZE + 16) {
		res = find_cached(v, &b, &t);
		if (res)
			return res;
	}
	if (!t) {
		res = trace_build(v, &b, &t);
		if (res)
			return res;
	}
	*out = t->rec;
	if (t->nbytes <= b.limit && b.limit > PAGE_SIZE + 16) {
		j = jcache_set(v, lin);
		if (j->lin != lin || (u16)(j->mode_key ^ v->mode_key)) /* not the same thing grown old */
			j[1] = j[0];
		*j = (struct jentry){ lin, v->mode_key, t->rec, t->code ? t->code : v->interp_entry };
		if (t->lin != lin) {
			t->aliased = t->lin != TLB_NEVER;
			t->lin = lin;
		}
	}
	return OP_NEXT;
}

/* ---- for the translator --------------------------------------------------------------------------- */

struct trace *rcache_peek(struct vcpu *v, gpa_t gpa, u16 key)
{
	return hash_find(v, gpa, key);
}

void rcache_set_code(struct vcpu *v, struct trace *t, const void *entry, const void *code)
{
	struct jentry *j = jcache_set(v, t->lin);

	t->rec[0].fn = entry ? entry : t->first;
	t->code = code;
	if (entry)
		page_add_code(v->rc, t);
	for (unsigned int way = 0; way < 2; way++)
		if (j[way].rec == t->rec)
			j[way].code = code ? code : v->interp_entry;
}

void rcache_warm(struct vcpu *v, const struct insn *first)
{
	struct trace *t = trace_of(first);

	t->rec[0].fn = t->first;
	v->tr->translate(v, t);
}
