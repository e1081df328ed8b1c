/* SPDX-License-Identifier: MIT */
#include "jit/jit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "base/base.h"
#include "jit/jit_priv.h"

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE 2
#endif
#define HEAT 24 /* entries of a trace before it is translated */

/* RDGSBASE and RORX */
static bool host_fits(void)
{
	u32 a = 7, b, c = 0, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return (b & BIT(8)) && (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE);
}

static void enter(struct vcpu *v)
{
	u64 base;

	asm volatile("rdgsbase %0" : "=r"(base));
	if (likely(base == (u64)v))
		return;
	v->jit->host_gs = base;
	asm volatile("wrgsbase %0" : : "r"(v));
}

/* A base of 0 is nobody's: writing it back, and ours again at the next entry, would be a tenth of an exit's time. */
static void leave(struct vcpu *v)
{
	if (v->jit->host_gs)
		asm volatile("wrgsbase %0" : : "r"(v->jit->host_gs));
}

static void drop(struct vcpu *v, struct trace *t)
{
	unlink_block(v, t->block);
	t->rec[0].fn = t->first;
	t->block = 0;
	t->code = NULL;
}

static void unlink_trace(struct vcpu *v, struct trace *t)
{
	unlink_block(v, t->block);
}

static void relink_trace(struct vcpu *v, struct trace *t)
{
	link_in(v, t->block);
}

static void leave_lockstep(struct vcpu *v)
{
	lockstep_leave(v);
	leave(v);
}

/* Memory that will be filled again, if it is, far more slowly than it can be had. */
static void give_back(struct jit *j)
{
	u32 used = (j->used + PAGE_SIZE - 1) & (u32)PAGE_MASK, keep = (j->glue_end + PAGE_SIZE - 1) & (u32)PAGE_MASK;

	if (used < keep + REST_SIZE)
		return;
	madvise(j->x.rw + keep, used - keep, MADV_REMOVE);
	madvise(j->site, sizeof(j->site) + sizeof(j->exit) + sizeof(j->block), MADV_DONTNEED);
	j->ready_code = keep;
	j->ready_sites = j->ready_exits = 0;
}

static void flush(struct vcpu *v)
{
	struct jit *j = v->jit;

	for (u32 n = 1; n <= j->nblocks; n++) {
		struct trace *t = j->block[n].t;

		if (!t || t->block != n)
			continue;
		t->rec[0].fn = native_warm_entry(v);
		t->heat = v->heat;
		t->block = 0;
		t->code = NULL;
	}
	give_back(j);
	j->used = j->glue_end;
	j->nsites = j->nexits = j->nblocks = j->nqueue = 0;
	memset(j->wait, 0, sizeof(j->wait));
	j->stats.flushes++;
	vcpu_forget_jumps(v); /* the jump cache knows code that is gone */
}

/* CASEMENT_JIT_STATS=1 */
static void tell_stats(const struct vcpu *v)
{
	const struct jit_stats *s = &v->jit->stats;
	const struct cost *made = &s->cost, *decoded = &v->rc->stat_decode;

	if (!getenv("CASEMENT_JIT_STATS"))
		return;
	dprintf(2, "translator: vCPU %u: %lu blocks, %lu instructions, %lu guest bytes, %lu host bytes, %lu flushes; "
		"C for operands %lu, for instructions %lu; went on in the interpreter %lu; remade without groups %lu, "
		"off slots %lu\n",
		v->index, (unsigned long)s->blocks, (unsigned long)s->insns, (unsigned long)s->guest_bytes,
		(unsigned long)s->host_bytes, (unsigned long)s->flushes, (unsigned long)s->slow, (unsigned long)s->ops,
		(unsigned long)s->resumed, (unsigned long)s->apart, (unsigned long)s->unslotted);
	dprintf(2, "translator: vCPU %u: %lu ns for a block, %lu for an instruction; %lu traces of %lu instructions "
		"decoded, %lu ns and %lu; %lu instructions not met before, %lu flushes of traces\n",
		v->index, cost_ns(made, made->times), cost_ns(made, made->items), decoded->times, decoded->items,
		cost_ns(decoded, decoded->times), cost_ns(decoded, decoded->items), v->rc->stat_unknown,
		v->rc->stat_flushes);
}

static void destroy(struct vcpu *v)
{
	if (!v->jit)
		return;
	tell_stats(v);
	if (v->jit->lockstep) {
		lockstep_tell(v);
		munmap(v->jit->lockstep, lockstep_size());
	}
	if (v->jit->sites) {
		sites_tell(v);
		munmap(v->jit->sites, sites_size());
	}
	xmem_destroy(&v->jit->x);
	verify_free(v->jit->verify);
	munmap(v->jit, sizeof(*v->jit));
	v->jit = NULL;
	v->tr = NULL;
}

/* All are the same but for who runs a block. */
#define TRANSLATOR .enter = enter, .translate = jit_translate, .drop = drop, .flush = flush, \
		   .unlink = unlink_trace, .relink = relink_trace, .fault = jit_fault, .destroy = destroy

static const struct translator translator = { TRANSLATOR, .leave = leave };
static const struct translator forced_translator = { TRANSLATOR, .leave = leave, .run = force_run };
static const struct translator sites_translator = { TRANSLATOR, .leave = leave, .run = sites_run };
static const struct translator lockstep_translator = { TRANSLATOR, .leave = leave_lockstep, .run = lockstep_run };

/* Debug builds and tests look at each block before it runs. */
static bool verify_wanted(void)
{
#ifdef __OPTIMIZE__
	return getenv("CASEMENT_VERIFY") != NULL;
#else
	return true;
#endif
}

/* Room for what the environment asks for. */
static int wanted(const char *name, size_t size, void *out)
{
	void *p;

	if (!getenv(name))
		return 0;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	*(void **)out = p;
	return 0;
}

static const struct translator *variant(const struct jit *j)
{
	if (j->lockstep)
		return &lockstep_translator;
	if (j->sites)
		return &sites_translator;
	return j->force & FORCE_KICK ? &forced_translator : &translator;
}

static int checks_attach(struct jit *j)
{
	if (wanted("CASEMENT_LOCKSTEP", lockstep_size(), &j->lockstep) ||
	    wanted("CASEMENT_SITES", sites_size(), &j->sites))
		return -ENOMEM;
	if (verify_wanted()) {
		j->verify = verify_make();
		if (!j->verify)
			return -ENOMEM;
	}
	return 0;
}

int jit_attach(struct vcpu *v)
{
	u16 heat = HEAT;
	u32 force = 0;
	struct jit *j;
	int err;

	if (!host_fits())
		return -EOPNOTSUPP;
	err = force_from_environment(&force) ?: heat_from_environment(&heat);
	if (err)
		return err;
	j = mmap(NULL, sizeof(*j), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (j == MAP_FAILED)
		return -ENOMEM;
	err = xmem_create(&j->x, CODE_SIZE, "casement-blocks");
	if (err) {
		munmap(j, sizeof(*j));
		return err;
	}
	v->jit = j;
	err = checks_attach(j);
	if (err) {
		destroy(v);
		return err;
	}
	v->heat = heat;
	j->force = force;
	glue_make(v);
	j->limit = j->force & FORCE_TINY ? j->glue_end + BLOCK_ROOM + TINY_SIZE : CODE_SIZE;
	v->tr = variant(j);
	return 0;
}
