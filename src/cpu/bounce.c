/* SPDX-License-Identifier: MIT */
/*
 * Host pointers for the memory operands of native instructions.
 *
 * Most operands get a pointer into guest RAM. The rest work on vcpu.bounce: operands in two pages, MMIO,
 * ROM, and split locks. A locked access inside one line always works on RAM itself, so that it is atomic
 * against the VMM's own threads as well; a split one works on an aligned copy with the other vCPUs paused, so
 * that the host never sees it (design rule 2).
 */
#include "cpu/tlb.h"

static void *give_up(struct vcpu *v, int res)
{
	v->scratch[7] = (u64)res;
	return NULL;
}

void cpu_mem_abort(struct vcpu *v)
{
	struct bounce *b = &v->bounce;

	b->active = BOUNCE_NONE;
	b->bus_lock = false;
	if (b->locked_pause) {
		b->locked_pause = false;
		vm_resume(v->vm, v, 0);
	}
}

/* Fill the buffer. What only writes its operand writes all of it; masked stores have handlers. */
static int bounce_load(struct vcpu *v, u32 acc)
{
	struct bounce *b = &v->bounce;
	u8 *dst = b->ptr;

	for (unsigned int i = 0; i < b->npieces && (acc & ACC_R); i++) {
		int res = piece_read(v, &b->piece[i], dst);

		if (res)
			return res;
		dst += b->piece[i].len;
	}
	return 0;
}

static void *bounce_begin(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	struct bounce *b = &v->bounce;
	/* A lock must not split in the host either; CMPXCHG16B keeps what its alignment check looks at. */
	unsigned int keep = acc & ACC_LOCK ? 15 : CACHE_LINE - 1;
	int res;

	if (unlikely(size > sizeof(b->buf) - CACHE_LINE))
		return give_up(v, cpu_internal(v, INTERNAL_ENGINE));
	if ((acc & ACC_LOCK) && size <= 8)
		keep = 0;
	b->ptr = b->buf + (la & keep);
	b->la = la;
	b->size = size;
	b->acc = acc;
	res = bounce_load(v, acc);
	if (res) {
		cpu_mem_abort(v);
		return give_up(v, res);
	}
	if (acc & ACC_W)
		b->active = BOUNCE_COPY;
	else
		cpu_mem_abort(v);
	return b->ptr;
}

/* One page of RAM: the page itself. Its record caches are told at commit. */
static void *direct(struct vcpu *v, gva_t la, u32 acc)
{
	struct bounce *b = &v->bounce;
	struct mem_piece *p = &b->piece[0];

	if (acc & ACC_W) {
		piece_dirty(v, la, p, acc);
		if (memslot_code_users(p->slot, memslot_page(p->slot, p->gpa)) || mmu_checked(v) || b->bus_lock)
			b->active = BOUNCE_DIRECT;
	}
	return p->host;
}

int lock_check(struct vcpu *v, gva_t la, unsigned int size, const struct mem_piece *p, unsigned int n,
	       unsigned int *kind)
{
	*kind = LOCK_KINDS;
	if (lock_splits(la, size))
		*kind = LOCK_SPLIT;
	for (unsigned int i = 0; i < n && *kind == LOCK_KINDS; i++)
		if (!p[i].host || cpu_uncached(v, p[i].gpa, p[i].bits))
			*kind = LOCK_UC;
	return *kind == LOCK_KINDS ? 0 : cpu_lock_ask(v, (enum lock_kind)*kind, la, size);
}

/*
 * A locked operand whose pieces are known. Nobody is paused while the outside is asked; what the translation found
 * is good only until another vCPU may run, so a split one is translated again after the pause.
 */
static int lock_begin(struct vcpu *v, gva_t la, unsigned int size, u32 acc, unsigned int *n)
{
	struct bounce *b = &v->bounce;
	unsigned int kind;
	int res = lock_check(v, la, size, b->piece, *n, &kind);

	if (res || kind == LOCK_KINDS)
		return res;
	b->bus_lock = true;
	if (kind == LOCK_UC)
		return 0;
	vm_pause(v->vm, v);
	b->locked_pause = true;
	return mem_map(v, la, size, acc, b->piece, n);
}

static void *begin_slow(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	struct bounce *b = &v->bounce;
	unsigned int n;
	int res = 0;

	if (unlikely(b->active || b->locked_pause))
		cpu_mem_abort(v);
	if (unlikely(mmu_checked(v)))
		res = mem_check(v, la, size, acc);
	if (res)
		return give_up(v, res);
	res = mem_map(v, la, size, acc, b->piece, &n);
	if (!res && (acc & ACC_LOCK))
		res = lock_begin(v, la, size, acc, &n);
	if (res) {
		cpu_mem_abort(v);
		return give_up(v, res);
	}
	b->npieces = (u8)n;
	if (n == 1 && b->piece[0].host && (b->piece[0].writable || !(acc & ACC_W)) && !b->locked_pause)
		return direct(v, la, acc);
	return bounce_begin(v, la, size, acc);
}

void *lin_mem_begin(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	const struct tlb_entry *e = l1_slot(l1_view(v, acc), la, acc);

	if (l1_hit(e, la, size) && likely(!(acc & ACC_LOCK) || (!lock_splits(la, size) && !l1_uc(v, la, acc))))
		return l1_ptr(e, la);
	return begin_slow(v, la, size, acc);
}

void *cpu_mem_begin(struct vcpu *v, const struct insn *i, unsigned int size, u32 acc, s64 off)
{
	gva_t la;
	int res;

	v->cur = i;
	res = seg_linear(v, insn_seg(i), cpu_ea(v, i) + (u64)off, size, acc, &la);
	return likely(!res) ? lin_mem_begin(v, la, size, acc) : give_up(v, res);
}

int cpu_mem_commit(struct vcpu *v)
{
	struct bounce *b = &v->bounce;
	const u8 *src = b->ptr;
	int res = 0;

	if (b->active == BOUNCE_DIRECT) {
		const struct mem_piece *p = &b->piece[0];

		if (memslot_code_users(p->slot, memslot_page(p->slot, p->gpa)) &&
		    code_written(v, p->slot, p->gpa, p->len))
			atomic_fetch_or(&v->request, REQ_INSN);
	} else if (b->active == BOUNCE_COPY) {
		for (unsigned int i = 0; i < b->npieces && !res; i++) {
			res = piece_write(v, &b->piece[i], src);
			src += b->piece[i].len;
		}
	}
	if (b->bus_lock && !res)
		cpu_bus_locked(v);
	cpu_mem_abort(v);
	if (unlikely(res))
		return res;
	return v->request & REQ_INSN ? OP_END : OP_NEXT;
}
