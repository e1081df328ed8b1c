/* SPDX-License-Identifier: MIT */
/*
 * The stub pool: glue between stubs and C, interning, binding of records.
 */
#include "cpu/native.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base.h"
#include "cpu/native_priv.h"
#include "cpu/op/op.h"
#include "cpu/rcache.h"

/* ---- glue ------------------------------------------------------------------------------------ */

static void glue_save(struct emit *e)
{
	emit1(e, 0x57); /* push rdi; push rsi */
	emit1(e, 0x56);
}

static void glue_restore(struct emit *e)
{
	emit1(e, 0x5e); /* pop rsi; pop rdi */
	emit1(e, 0x5f);
}

/*
 * Sanitizers' run-time libraries use vector registers, so their builds spill before every C call; the
 * next vector stub loads again. mid: the stack is 8 off alignment.
 */
static void glue_spill(struct emit *e, bool mid)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	emit1(e, 0x52); /* push rdx; push rcx */
	emit1(e, 0x51);
	glue_save(e);
	if (mid)
		emit_alu_imm(e, true, 5, GPR_RSP, 8);
	emit_call(e, (const void *)cpu_fp_spill);
	if (mid)
		emit_alu_imm(e, true, 0, GPR_RSP, 8);
	glue_restore(e);
	emit1(e, 0x59); /* pop rcx; pop rdx */
	emit1(e, 0x5a);
#endif
}

static void glue_ret(struct emit *e)
{
	emit1(e, 0xc3);
}

/* v->cur = record; return to native_run()'s caller with eax */
static void glue_leave(struct emit *e)
{
	emit_store(e, R_REC, R_VCPU, offsetof(struct vcpu, cur));
	glue_ret(e);
}

static void glue_next(struct emit *e)
{
	emit_alu_imm(e, true, 0, R_REC, sizeof(struct insn));
	emit_jmp_mem(e, R_REC, OFF_REC(fn));
}

/*
 * Entry of records with a C handler. Entered by a jump: the stack is 8 off alignment.
 *
 * v->cur is set before the handler runs: the MMIO log tells instructions apart by it. A handler that
 * returns OP_NEXT while a request is up (its store hit code, MMIO or a breakpoint) has ended the trace.
 */
static void glue_op(struct emit *e)
{
	unsigned int other, wanted;

	emit_store(e, R_REC, R_VCPU, offsetof(struct vcpu, cur));
	glue_spill(e, true);
	glue_save(e);
	emit_alu_imm(e, true, 5, GPR_RSP, 8);
	emit_call_mem(e, R_REC, OFF_REC(op));
	emit_alu_imm(e, true, 0, GPR_RSP, 8);
	glue_restore(e);
	emit_rr(e, false, 0x85, GPR_RAX, GPR_RAX);
	other = emit_jcc(e, CC_NE);
	emit_rm(e, false, 0x83, 7, R_VCPU, OFF(request));
	emit1(e, 0);
	wanted = emit_jcc(e, CC_NE);
	glue_next(e);
	emit_land(e, wanted);
	emit_mov_imm(e, GPR_RAX, OP_END);
	emit_land(e, other);
	glue_leave(e);
}

/* Called by stubs with edx = size, ecx = access. */
static void glue_mem(struct emit *e)
{
	unsigned int fail;

	glue_spill(e, false);
	glue_save(e);
	emit_rr(e, false, 0x31, GPR_R8, GPR_R8);
	emit_call(e, (const void *)cpu_mem_begin);
	glue_restore(e);
	emit_rr(e, true, 0x85, GPR_RAX, GPR_RAX);
	fail = emit_jcc(e, CC_E);
	emit_rr(e, true, 0x89, GPR_RAX, R_MEM);
	glue_ret(e);
	emit_land(e, fail);
	emit_rm(e, false, 0x8b, GPR_RAX, R_VCPU, OFF_SLOT(SLOT_RESULT));
	emit_alu_imm(e, true, 0, GPR_RSP, 8); /* the stub is not returned to */
	glue_leave(e);
}

/* Called by stubs: fn(v, i), whose nonzero result leaves the trace. */
static void glue_check(struct emit *e, const void *fn)
{
	unsigned int leave;

	glue_spill(e, false);
	glue_save(e);
	emit_call(e, fn);
	glue_restore(e);
	emit_rr(e, false, 0x85, GPR_RAX, GPR_RAX);
	leave = emit_jcc(e, CC_NE);
	glue_ret(e);
	emit_land(e, leave);
	emit_alu_imm(e, true, 0, GPR_RSP, 8);
	glue_leave(e);
}

/* native_fault() sends a stub here, at the stack level of its entry. */
static void glue_fail(struct emit *e)
{
	emit_store(e, R_REC, R_VCPU, offsetof(struct vcpu, cur));
	glue_spill(e, true);
	emit_alu_imm(e, true, 5, GPR_RSP, 8);
	emit_call(e, (const void *)native_failed);
	emit_alu_imm(e, true, 0, GPR_RSP, 8);
	glue_ret(e);
}

#define OFF_TRACE(field) ((s32)offsetof(struct trace, field) - (s32)offsetof(struct trace, rec))

/* First record of a trace that may be translated. */
static void glue_warm(struct emit *e)
{
	unsigned int hot;

	emit1(e, 0x66); /* dec word */
	emit_rm(e, false, 0xff, 1, R_REC, OFF_TRACE(heat));
	hot = emit_jcc(e, CC_E);
	emit_jmp_mem(e, R_REC, OFF_TRACE(first));
	emit_land(e, hot);
	glue_spill(e, true);
	glue_save(e);
	emit_alu_imm(e, true, 5, GPR_RSP, 8);
	emit_call(e, (const void *)rcache_warm);
	emit_alu_imm(e, true, 0, GPR_RSP, 8);
	glue_restore(e);
	emit_jmp_mem(e, R_REC, OFF_REC(fn));
}

static void glue_end(struct emit *e)
{
	emit_rr(e, false, 0x31, GPR_RAX, GPR_RAX);
	glue_leave(e);
}

static const void *pool_add(struct native *n, const struct emit *e)
{
	return emit_append(&n->x, &n->used, e, 16);
}

static const void *add_glue(struct native *n, struct emit *e, void (*make)(struct emit *))
{
	e->n = 0;
	make(e);
	return pool_add(n, e);
}

static void stub_init(struct stub *s, const struct decode *d, struct insn *rec)
{
	s->e = (struct emit){ .max = EMIT_MAX, .buf = s->bytes };
	s->d = d;
	s->rec = rec;
	s->slow_mem = s->slow_lock = s->slow_type = s->after_mem = 0;
	s->slow_fp = s->after_fp = 0;
	s->slow_commit = s->after_commit = 0;
}

static const void *add_chain(struct native *n)
{
	struct stub s;

	stub_init(&s, NULL, NULL);
	stub_trace_end(&s);
	return pool_add(n, &s.e);
}

static const void *add_check(struct native *n, struct emit *e, const void *fn)
{
	e->n = 0;
	glue_check(e, fn);
	return pool_add(n, e);
}

static void make_glue(struct vcpu *v)
{
	struct native *n = v->native;
	u8 bytes[EMIT_MAX];
	struct emit e = { .max = EMIT_MAX, .buf = bytes };

	n->entry_op = add_glue(n, &e, glue_op);
	n->entry_nop = add_glue(n, &e, glue_next);
	n->entry_end = add_glue(n, &e, glue_end);
	n->entry_chain = add_chain(n);
	n->entry_fail = add_glue(n, &e, glue_fail);
	n->entry_warm = add_glue(n, &e, glue_warm);
	v->scratch[SLOT_MEM] = (u64)add_glue(n, &e, glue_mem);
	v->scratch[SLOT_COMMIT] = (u64)add_check(n, &e, (const void *)cpu_mem_commit);
	v->scratch[SLOT_FP] = (u64)add_check(n, &e, (const void *)cpu_fp_need);
	v->scratch[SLOT_OP] = (u64)n->entry_op;
	n->glue_end = n->used;
}

/* ---- life -------------------------------------------------------------------------------------- */

/**
 * native_init() - make a vCPU's stub pool
 * @v: the vCPU; v->native is set
 *
 * Return: 0, -ENOMEM, or -errno of xmem_create().
 */
int native_init(struct vcpu *v)
{
	struct native *n = mmap(NULL, sizeof(*n), PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int err;

	if (n == MAP_FAILED)
		return -ENOMEM;
	err = xmem_create(&n->x, POOL_SIZE, "casement-stubs");
	if (err) {
		munmap(n, sizeof(*n));
		return err;
	}
	n->used = 16; /* offset 0 means a free slot in the intern table */
	v->native = n;
	make_glue(v);
	return 0;
}

void native_destroy(struct vcpu *v)
{
	if (!v->native)
		return;
	xmem_destroy(&v->native->x);
	munmap(v->native, sizeof(*v->native));
	v->native = NULL;
}

void native_reset(struct vcpu *v)
{
	struct native *n = v->native;

	memset(n->table, 0, sizeof(n->table));
	memo_reset(&n->memo);
	n->used = n->glue_end;
	n->nstubs = 0;
	n->stats.flushes++;
}

void native_get_stats(const struct vcpu *v, struct native_stats *s)
{
	*s = v->native->stats;
	s->stubs = v->native->nstubs;
	s->bytes = v->native->used;
}

/* ---- interning ----------------------------------------------------------------------------------- */

static u32 hash_bytes(const u8 *p, unsigned int len)
{
	u64 h = len * 0x9e3779b97f4a7c15ull;

	while (len >= 8) {
		u64 word;

		memcpy(&word, p, 8);
		h = (h ^ word) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 32;
		p += 8;
		len -= 8;
	}
	while (len--)
		h = (h ^ *p++) * 0x100000001b3ull;
	return (u32)(h ^ h >> 29);
}

/**
 * native_intern() - the stub with these bytes, made now if there is none
 * @v: pool owner
 * @e: position-independent bytes
 * @fn: its executable address
 *
 * Return: false if the pool is full.
 */
bool native_intern(struct vcpu *v, const struct emit *e, const void **fn)
{
	struct native *n = v->native;
	u32 hash = hash_bytes(e->buf, e->n);
	u32 k = hash & (INTERN_SIZE - 1);

	for (; n->table[k].off; k = (k + 1) & (INTERN_SIZE - 1)) {
		const struct intern *t = &n->table[k];

		if (t->hash == hash && t->len == e->n &&
		    !memcmp(n->x.rw + t->off, e->buf, e->n)) {
			*fn = n->x.rx + t->off;
			return true;
		}
	}
	if (n->nstubs >= INTERN_SIZE / 2 || n->used + e->n + 16 > POOL_SIZE)
		return false;
	n->table[k] = (struct intern){ .hash = hash, .off = n->used, .len = e->n };
	n->nstubs++;
	*fn = pool_add(n, e);
	return true;
}

/* ---- binding ------------------------------------------------------------------------------------- */

/* A native row whose form the renamer cannot express: a hole in the engine, not the guest's doing. */
static int op_unhandled(struct vcpu *v, const struct insn *i)
{
	cpu_internal(v, INTERNAL_EMULATION);
	v->internal.ndata = 1;
	v->internal.data[0] = i->id;
	return OP_STOP;
}

static bool make_stub(struct stub *s)
{
	bool ok = insn_rows[s->rec->id].traits & T_LEA ? stub_lea(s) : stub_compute(s);

	return ok && !emit_full(&s->e);
}

bool (*native_test_bind)(struct vcpu *v, const struct decode *d, struct insn *rec);

int native_bind(struct vcpu *v, const struct decode *d, struct insn *rec)
{
	struct native *n = v->native;
	struct stub s;

	n->stats.binds++;
	rec->fn = n->entry_op;
	if (unlikely(native_test_bind) && native_test_bind(v, d, rec))
		return 0;
	if (insn_rows[rec->id].traits & T_NOP) {
		rec->fn = n->entry_nop;
		return 0;
	}
	stub_init(&s, d, rec);
	if (rec->op) {
		if (!stub_branch(&s) || emit_full(&s.e))
			return 0;
	} else if (!make_stub(&s)) {
		rec->op = op_unhandled;
		return 0;
	}
	return native_intern(v, &s.e, &rec->fn) ? 0 : -ENOSPC;
}

void native_bind_op(struct vcpu *v, struct insn *rec, op_fn op)
{
	rec->fn = v->native->entry_op;
	rec->op = op;
}

const void *native_trace_end(struct vcpu *v)
{
	return v->csz == 8 ? v->native->entry_chain : v->native->entry_end;
}

const void *native_step_end(struct vcpu *v)
{
	return v->native->entry_end;
}

const void *native_warm_entry(struct vcpu *v)
{
	return v->native->entry_warm;
}

/* The first record of a trace has its own entry in the trace's header. */
static const void *step_entry(struct vcpu *v, const struct insn *rec)
{
	if (rec->op)
		return v->native->entry_op;
	return rec->seq == 0 ? trace_of(rec)->first : rec->fn;
}

int native_step(struct vcpu *v, const struct insn *rec)
{
	struct insn *two = v->step;

	two[0] = *rec;
	two[0].seq = 0;
	two[0].fn = step_entry(v, rec);
	two[1] = (struct insn){ .fn = v->native->entry_end, .off = (u16)(rec->off + rec->len), .seq = 1 };
	return native_run(v, two);
}

/* ---- running ------------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* Sanitized C may call its run-time library as soon as it goes on: vector state is put away before. */
__asm__(".pushsection .text\n"
	".hidden native_run\n"
	".globl native_run\n"
	".type native_run, @function\n"
	"native_run:\n"
	"	push %rdi\n"
	"	call 1f\n"
	"	mov (%rsp), %rdi\n"
	"	mov %rax, (%rsp)\n"
	"	call cpu_fp_spill\n"
	"	pop %rax\n"
	"	ret\n"
	"1:	jmp *(%rsi)\n"
	".size native_run, . - native_run\n"
	".popsection\n");
#else
/* The records' contract preserves what C wants preserved, so entering is a tail call. */
__asm__(".pushsection .text\n"
	".hidden native_run\n"
	".globl native_run\n"
	".type native_run, @function\n"
	"native_run:\n"
	"	jmp *(%rsi)\n"
	".size native_run, . - native_run\n"
	".popsection\n");
#endif
