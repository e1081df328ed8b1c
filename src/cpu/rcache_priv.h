/* SPDX-License-Identifier: MIT */
/* Shared by rcache.c (traces: finding and making) and codepage.c (pages that hold them: written code). */
#pragma once
#include "base/base.h"
#include "cpu/rcache.h"

static inline struct trace *trace_at(struct rcache *rc, u32 ref)
{
	return ref ? (struct trace *)(rc->arena + (size_t)ref * 8) : NULL;
}

static inline u32 trace_ref(const struct rcache *rc, const struct trace *t)
{
	return (u32)(((const u8 *)t - rc->arena) / 8);
}

/* Neighbours in the page are neighbours here: they are needed together, and a miss of the host's caches counts. */
static inline u32 hash_trace(gpa_t gpa, u16 key)
{
	u64 h = (gpa >> PAGE_SHIFT ^ (u64)key << 40) * 0x9e3779b97f4a7c15ull;

	return (u32)((h >> 40) + (gpa & ~PAGE_MASK) / 2) & (RCACHE_HASH - 1);
}

/* A trace whose last instruction crosses into a second page is on the lists of both. */
static inline u32 *next_on_page(struct trace *t, gpa_t page)
{
	return (t->gpa & PAGE_MASK) == page ? &t->page_next : &t->page_next2;
}

struct code_page *page_lookup(struct rcache *rc, gpa_t page);
/* The page holds no code of this vCPU that may run unseen: writes to it may be fast again. */
void page_unmark(struct vcpu *v, gpa_t page);
/* t's bytes are those in memory: writes to them must be noticed. @remade: they were others before. */
void page_cover(struct vcpu *v, const struct trace *t, bool remade);
void page_add(struct rcache *rc, struct trace *t, gpa_t page);
/* t has been translated. */
void page_add_code(struct rcache *rc, struct trace *t);
/* Out of the hash, and its block with it. It leaves its page's list when that page is next written. */
void trace_discard(struct vcpu *v, struct trace *t);
