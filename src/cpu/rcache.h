/* SPDX-License-Identifier: MIT */
/*
 * The record cache: decoded traces of one vCPU, found by linear address (jump cache) or by
 * guest-physical address and mode.
 *
 * A trace is a straight run of records inside one guest page, ended by a control transfer, by a
 * length limit or by the page's end. It keeps the source bytes it was decoded from. Code written by
 * this machine's vCPUs is caught by withheld write permission (memslot.code_users); code written
 * from outside is caught by comparing the source bytes again whenever vcpu.verify moved.
 */
#pragma once
#include "base/base.h"
#include "cpu/cpu.h"

#define RCACHE_ARENA (12u << 20)	/* bytes of traces; the cache starts over when they are used up */
#define RCACHE_REST (1u << 20)	/* a processor that mostly sleeps keeps no more than this */
#define RCACHE_HASH 65536u
#define RCACHE_PAGES 4096u	/* distinct code pages */
#define RCACHE_PAGE_HASH 4096u
#define RCACHE_TRACE_MAX 32u	/* instructions */
#define RCACHE_FETCH 256u

/**
 * struct trace - header of a decoded run; records and source bytes follow
 * @gpa: guest-physical address of the first byte
 * @gpa2: second page when the first (or, before 64-bit code, the only) instruction crosses into it, else ~0
 * @verified: vcpu.verify at which @src was last compared with memory, or TRACE_STALE: written since
 * @lin: linear address under which the jump cache knows it
 * @aliased: there was another one
 * @remakes: times that it was decoded anew because its bytes were others
 * @room: bytes of the arena it has / 8
 * @key: low bits of vcpu.mode_key it was decoded for
 * @nbytes: source bytes
 * @n: records, not counting the end record
 * @page_next, @page_next2: lists of the first page and, if it crosses, of the second
 * @awaited: others may want to go to its translation directly, once its bytes have been compared
 * @code_next, @listed: list of the page's translated traces, and whether it is there
 * @dead: invalidated; unreachable except by the code that is running it
 * @apart: each access gets a check of its own
 * @queued: warm, and waits for company
 * @heat: entries left until it is translated
 * @block: number of the translated block, 0 none
 * @first: entry of the first record as an interpreter's; rec[0].fn is what runs
 * @code: entry of the translated block
 */
struct trace {
	gpa_t gpa;
	gpa_t gpa2;
	u64 verified;
	u64 lin;
	u32 hash_next;	/* arena offset / 8, 0 = none */
	u32 page_next;
	u32 page_next2;
	u32 code_next;
	u16 key;
	u16 nbytes;
	u8 n;
	bool dead : 1;
	bool aliased : 1;
	bool apart : 1;
	bool queued : 1;
	bool listed : 1;
	bool awaited : 1;
	u8 remakes;
	u16 room;
	u16 heat;
	u32 block;
	const void *first;
	const void *code;
	struct insn rec[];
};

#define TRACE_STALE 0ull

/**
 * struct code_page - a page with decoded code, stale traces included
 * @writes, @patience: slow stores since its code was last looked for, and how many of them it takes to drop the mark
 */
struct code_page {
	gpa_t gpa;
	u64 granules;	/* 64-byte granules that hold source bytes */
	u64 verified;	/* vcpu.verify at which all translated traces here were compared */
	u32 traces;	/* arena offset / 8 of the first */
	u32 code;	/* of the first that is translated and lies in this page alone, or was */
	u32 hash_next;	/* index + 1 */
	u16 writes, patience;
};

/* Where the bytes of a page of code are; good while mode_key is the current one and tlb.gen too. See fetch_same(). */
struct fetch_entry {
	u64 lin;
	u64 mode_key;
	hva_t host;
	gpa_t page;
};

struct rcache {
	struct fetch_entry fetch[RCACHE_FETCH];
	u64 fetch_was, fetch_now;	/* mode_key before and after the last vcpu_reverify() */
	u32 hash[RCACHE_HASH];
	u32 page_hash[RCACHE_PAGE_HASH];
	struct code_page page[RCACHE_PAGES];
	u32 npages;
	u32 used;	/* arena bytes */
	u32 free_page;	/* list of freed code_page, index + 1 */
	u64 rest_since;		/* when rcache_rest() last looked, in ns and ticks; vcpu.asleep then */
	u64 rest_tsc, rest_asleep;
	u64 stat_flushes;
	struct cost stat_decode;	/* of making traces; its items are instructions */
	u64 stat_unknown;		/* instructions that the memo did not know */
	u8 arena[RCACHE_ARENA] __attribute__((aligned(4096)));
};

static inline struct jentry *jcache_set(struct vcpu *v, u64 lin)
{
	return v->jc[jcache_index(lin) >> 3];
}

static inline const struct jentry *jcache_find(struct vcpu *v, u64 lin, u64 mode_key)
{
	const struct jentry *j = jcache_set(v, lin);

	if (likely(j[0].lin == lin && j[0].mode_key == mode_key))
		return j;
	return j[1].lin == lin && j[1].mode_key == mode_key ? j + 1 : NULL;
}

/**
 * rcache_find() - the record at linear address lin, decoding if needed
 * @v: the vCPU
 * @lin: linear address of the instruction
 * @out: record
 *
 * Return: OP_NEXT with *out set; OP_EXC (fetch fault recorded) or OP_STOP.
 */
int rcache_find(struct vcpu *v, u64 lin, const struct insn **out);

static inline struct trace *trace_of(const struct insn *first)
{
	return (struct trace *)((u8 *)(u64)first - offsetof(struct trace, rec));
}

/* Where the memo had each instruction, or MEMO_NONE: the translator begins there */
static inline u16 *trace_memo(struct trace *t)
{
	return (u16 *)&t->rec[t->n + 1];
}

static inline u8 *trace_src(struct trace *t)
{
	return (u8 *)(trace_memo(t) + t->n);
}

/* The trace at gpa, alive, if it was decoded. */
struct trace *rcache_peek(struct vcpu *v, gpa_t gpa, u16 key);
/* The first record of a warm trace was entered: called by its glue. */
void rcache_warm(struct vcpu *v, const struct insn *first);
/* rec[0] of a trace was given a translation, or lost it. */
void rcache_set_code(struct vcpu *v, struct trace *t, const void *entry, const void *code);

/* Forget every jump-cache entry: a trace it may name is gone, or linear addresses of code may mean something else. */
void vcpu_forget_jumps(struct vcpu *v);

/* Forget every jump-cache entry and compare each trace with memory before its next use. */
static inline void vcpu_reverify(struct vcpu *v)
{
	u64 was = v->mode_key;

	v->verify++;
	vcpu_forget_jumps(v);
	v->rc->fetch_was = was;
	v->rc->fetch_now = v->mode_key;
}

/* Do linear addresses mean what they meant under that mode_key? The last vcpu_reverify() changed no translation. */
static inline bool fetch_same(const struct vcpu *v, u64 mode_key)
{
	return mode_key == v->mode_key || (mode_key == v->rc->fetch_was && v->mode_key == v->rc->fetch_now);
}

/*
 * Code that an agent outside the processor wrote must be seen: a device before it interrupted this vCPU or another,
 * user space before a vCPU it served sent an IPI. Called at interrupts, and by the serializing instructions that
 * cross-modifying code is to use [SDM3A "Handling Self- and Cross-Modifying Code"]: who polls instead of
 * being interrupted executes one of them. The local APIC's own timer bumps nothing.
 */
static inline void cpu_serialize(struct vcpu *v)
{
	u64 now = atomic_load_explicit(&v->vm->outside, memory_order_acquire);

	if (likely(now == v->outside_seen))
		return;
	v->outside_seen = now;
	vcpu_reverify(v);
}

/* Serve REQ_CODE: drop what other vCPUs wrote. */
void rcache_drain(struct vcpu *v);

static inline u64 cpu_lin_rip(const struct vcpu *v)
{
	return v->csz == 8 ? v->rip : (u32)(v->seg[SEG_CS].base + v->rip);
}
