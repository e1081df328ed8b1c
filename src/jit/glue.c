/* SPDX-License-Identifier: MIT */
/*
 * Code that all blocks share: in and out, calls of C, the jump cache.
 *
 * Between blocks and C lies one frame: the callee-saved registers of native_run()'s caller and padding, so
 * that the host stack is aligned inside blocks.
 */
#include "jit/jit_priv.h"

#include <string.h>

#include "base/base.h"
#include "cpu/fpu.h"

const u8 jit_host[16] = {
	GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX, R_SP, GPR_RBP, GPR_RSI, GPR_RDI,
	GPR_R8, GPR_R9, GPR_R10, IN_MEMORY, GPR_R12, GPR_R13, IN_MEMORY, IN_MEMORY,
};

void put_load(struct emit *e, unsigned int reg, s32 off)
{
	struct mem_ref m = ref_gs(off);

	emit_ref(e, true, 0x8b, reg, &m);
}

void put_store(struct emit *e, unsigned int reg, s32 off)
{
	struct mem_ref m = ref_gs(off);

	emit_ref(e, true, 0x89, reg, &m);
}

void put_mov(struct emit *e, unsigned int dst, unsigned int src)
{
	if (dst != src)
		emit_rr(e, true, 0x8b, dst, src);
}

void put_lea(struct emit *e, unsigned int reg, const struct mem_ref *m)
{
	if (m->index == REF_NONE && !m->disp && m->base != REF_NONE)
		put_mov(e, reg, m->base);
	else
		emit_ref(e, true, 0x8d, reg, m);
}

void put_shift(struct emit *e, bool wide, unsigned int ext, unsigned int reg, unsigned int count)
{
	unsigned int rex = (wide ? 8u : 0) | reg >> 3;

	if (rex)
		emit1(e, 0x40 | rex);
	emit1(e, 0xc1);
	emit1(e, 0xc0 | ext << 3 | (reg & 7));
	emit1(e, count);
}

void put_save_flags(struct emit *e, unsigned int tmp)
{
	struct mem_ref m = ref_gs(OFF(aflags));

	put_mov(e, tmp, GPR_RAX);
	emit1(e, 0x9f); /* lahf; seto al */
	emit_rr(e, false, 0x0f90, 0, GPR_RAX);
	emit1(e, 0x66);
	emit_ref(e, false, 0x89, GPR_RAX, &m);
	put_mov(e, GPR_RAX, tmp);
}

void put_restore_flags(struct emit *e, unsigned int tmp)
{
	struct mem_ref m = ref_gs(OFF(aflags));

	put_mov(e, tmp, GPR_RAX);
	emit_ref(e, false, 0x0fb7, GPR_RAX, &m);
	emit1(e, 0x04); /* add al, 7f: OF from bit 0; sahf */
	emit1(e, 0x7f);
	emit1(e, 0x9e);
	put_mov(e, GPR_RAX, tmp);
}

static void put_rel(struct work *w, const u8 *to)
{
	const u8 *from = w->j->x.rx + w->j->used + w->e.n + 4;

	emit4(&w->e, (u32)(to - from));
}

void put_jump(struct work *w, const u8 *to)
{
	emit1(&w->e, 0xe9);
	put_rel(w, to);
}

void put_call(struct work *w, const u8 *to)
{
	emit1(&w->e, 0xe8);
	put_rel(w, to);
}

/* ---- pieces ------------------------------------------------------------------------------------- */

static const u8 callee_saved[] = { GPR_RBX, GPR_RBP, GPR_R12, GPR_R13, GPR_R14, GPR_R15 };

static void save_guest(struct emit *e)
{
	for (unsigned int g = 0; g < 16; g++)
		if (jit_host[g] != IN_MEMORY)
			put_store(e, jit_host[g], OFF_GPR(g));
}

static void load_guest(struct emit *e)
{
	for (unsigned int g = 0; g < 16; g++)
		if (jit_host[g] != IN_MEMORY)
			put_load(e, jit_host[g], OFF_GPR(g));
}

static void put_push(struct emit *e, unsigned int opcode, unsigned int reg)
{
	if (reg >= 8)
		emit1(e, 0x41);
	emit1(e, opcode | (reg & 7));
}

static void make_frame(struct emit *e)
{
	for (unsigned int k = 0; k < ARRAY_SIZE(callee_saved); k++)
		put_push(e, 0x50, callee_saved[k]);
	emit_alu_imm(e, true, 5, GPR_RSP, 8);
}

static void drop_frame(struct emit *e)
{
	emit_alu_imm(e, true, 0, GPR_RSP, 8);
	for (unsigned int k = ARRAY_SIZE(callee_saved); k-- > 0;)
		put_push(e, 0x58, callee_saved[k]);
}

static void jump_tmp(struct emit *e, unsigned int n)
{
	struct mem_ref m = ref_gs(OFF(jit_tmp) + 8 * (s32)n);

	emit_ref(e, false, 0xff, 4, &m);
}

static void put_gs_base(struct emit *e, unsigned int reg)
{
	emit1(e, 0xf3); /* rdgsbase */
	emit1(e, 0x48 | reg >> 3);
	emit1(e, 0x0f);
	emit1(e, 0xae);
	emit1(e, 0xc8 | (reg & 7));
}

static void leave_with_result(struct emit *e)
{
	struct mem_ref m = ref_gs(OFF(jit_result));

	emit_ref(e, false, 0x8b, GPR_RAX, &m);
	drop_frame(e);
	emit1(e, 0xc3);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined")))

NO_SANITIZE static void vectors_away(struct vcpu *v)
{
	v->jit->was_live = v->fp_live;
	cpu_fp_spill(v);
}

NO_SANITIZE static void vectors_back(struct vcpu *v)
{
	cpu_fp_reload(v, v->jit->was_live);
}

/* Sanitizers' run-time libraries use vector registers. */
static void call_c(struct emit *e, const void *fn)
{
	emit1(e, 0x57); /* push rdi; push rsi */
	emit1(e, 0x56);
	emit_call(e, (const void *)vectors_away);
	emit1(e, 0x5e);
	emit1(e, 0x5f);
	emit_call(e, fn);
	emit1(e, 0x50); /* push rax; push rdx */
	emit1(e, 0x52);
	put_gs_base(e, GPR_RDI);
	emit_call(e, (const void *)vectors_back);
	emit1(e, 0x5a);
	emit1(e, 0x58);
}
#else
static void call_c(struct emit *e, const void *fn)
{
	emit_call(e, fn);
}
#endif

/* Called with the site in I: fn(v, site). The stack is 8 off alignment. */
static void call_site(struct emit *e, const void *fn)
{
	struct mem_ref m = ref_gs(OFF(jit_tmp));

	put_store(e, R_I, OFF(jit_tmp));
	save_guest(e);
	put_gs_base(e, GPR_RDI);
	emit_ref(e, false, 0x8b, GPR_RSI, &m);
	emit_alu_imm(e, true, 5, GPR_RSP, 8);
	call_c(e, fn);
	emit_alu_imm(e, true, 0, GPR_RSP, 8);
}

/* ---- the pieces of glue ----------------------------------------------------------------------------- */

/* From the interpreter, by its contract: rdi = vcpu, rsi = first record of a trace that is translated. */
static void glue_enter(struct emit *e)
{
	make_frame(e);
	emit_load(e, R_T, GPR_RSI, (size_t)(offsetof(struct trace, code) - offsetof(struct trace, rec)));
	load_guest(e);
	emit1(e, 0x41); /* jmp r11 */
	emit1(e, 0xff);
	emit1(e, 0xe0 | (R_T & 7));
}

/* To the interpreter: I = jump-cache index of a trace that is not translated. */
static void glue_interp(struct emit *e)
{
	struct mem_ref rec = ref_jcache(offsetof(struct jentry, rec));

	emit_ref(e, true, 0x8b, R_I, &rec);
	put_store(e, R_I, OFF(jit_tmp));
	save_guest(e);
	drop_frame(e);
	put_gs_base(e, GPR_RDI);
	put_load(e, GPR_RSI, OFF(jit_tmp));
	emit_jmp_mem(e, GPR_RSI, (s32)offsetof(struct insn, fn));
}

/* To the interpreter in the middle of a trace: T = record. The first one's own entry may be the block's. */
static void put_resume(struct emit *e, s32 entry)
{
	put_store(e, R_T, OFF(jit_tmp));
	save_guest(e);
	drop_frame(e);
	put_gs_base(e, GPR_RDI);
	put_load(e, GPR_RSI, OFF(jit_tmp));
	emit_jmp_mem(e, GPR_RSI, entry);
}

static void glue_resume(struct emit *e)
{
	put_resume(e, (s32)offsetof(struct insn, fn));
}

static void glue_resume_first(struct emit *e)
{
	put_resume(e, (s32)offsetof(struct trace, first) - (s32)offsetof(struct trace, rec));
}

/*
 * Take the block's return address off the stack by a RET to what follows: the host predicts one return wrongly, not all
 * those behind it up to the caller of KVM_RUN.
 */
static void put_no_return(struct emit *e)
{
	static const u8 code[] = {
		0x4c, 0x8d, 0x1d, 0x05, 0x00, 0x00, 0x00,	/* lea r11, [rip + 5] */
		0x4c, 0x89, 0x1c, 0x24,				/* mov [rsp], r11 */
		0xc3,						/* ret */
	};

	for (unsigned int k = 0; k < sizeof(code); k++)
		emit1(e, code[k]);
}

/* Back to the block if RAX, or EAX, is 0; else what follows, which takes its address off the stack. */
static void put_return_if_zero(struct emit *e, bool wide)
{
	unsigned int leave;

	emit_rr(e, wide, 0x85, GPR_RAX, GPR_RAX);
	leave = emit_jcc(e, CC_NE);
	load_guest(e);
	emit1(e, 0xc3);
	emit_land(e, leave);
}

/* fn(v, site): 0 goes on. */
static void glue_check(struct emit *e, const void *fn)
{
	call_site(e, fn);
	put_return_if_zero(e, false);
	put_no_return(e);
	leave_with_result(e);
}

static void jump_entry(struct emit *e)
{
	struct mem_ref code = ref_jcache(offsetof(struct jentry, code));

	emit_ref(e, false, 0xff, 4, &code);
}

/* reg = jump-cache entry: there. */
static void go_to_entry(struct emit *e, unsigned int reg)
{
	put_mov(e, R_I, reg);
	put_gs_base(e, R_T);
	emit_rr(e, true, 0x2b, R_I, R_T);
	emit_alu_imm(e, true, 5, R_I, OFF(jc));
	put_shift(e, true, SHIFT_RIGHT, R_I, 3);
	load_guest(e);
	jump_entry(e);
}

static void glue_op(struct emit *e)
{
	unsigned int out;

	call_site(e, (const void *)jit_op);
	put_return_if_zero(e, true);
	emit_rr(e, true, 0x85, GPR_RDX, GPR_RDX);
	out = emit_jcc(e, CC_E);
	emit_alu_imm(e, true, 0, GPR_RSP, 8);
	go_to_entry(e, GPR_RDX);
	emit_land(e, out);
	put_no_return(e);
	leave_with_result(e);
}

/*
 * A jump to T, which is back where it came from if it is canonical: otherwise the branch itself faults, and the handler
 * of its site I says so.
 */
static void glue_canonical(struct emit *e)
{
	unsigned int bad;

	put_store(e, R_I, OFF(jit_tmp));
	put_mov(e, R_I, R_T);
	put_shift(e, true, SHIFT_LEFT, R_I, 16);
	put_shift(e, true, SHIFT_ARITHMETIC, R_I, 16);
	emit_rr(e, true, 0x3b, R_I, R_T);
	bad = emit_jcc(e, CC_NE);
	emit1(e, 0xc3);
	emit_land(e, bad);
	put_load(e, R_I, OFF(jit_tmp));
	glue_op(e);
}

/* The C path of an operand goes on where it says: behind the check, or behind the whole instruction. */
static void glue_slow(struct emit *e)
{
	unsigned int leave;

	call_site(e, (const void *)jit_slow);
	emit_rr(e, true, 0x85, GPR_RAX, GPR_RAX);
	leave = emit_jcc(e, CC_E);
	emit_alu_imm(e, true, 0, GPR_RSP, 8); /* the block is not returned to */
	put_store(e, GPR_RAX, OFF(jit_tmp));
	put_store(e, GPR_RDX, OFF(jit_tmp) + 8);
	load_guest(e);
	put_restore_flags(e, R_T);
	put_load(e, R_T, OFF(jit_tmp) + 8);
	put_load(e, R_I, OFF(jit_tmp) + 24);
	jump_tmp(e, 0);
	emit_land(e, leave);
	put_no_return(e);
	leave_with_result(e);
}

const struct insn jit_between;

/* vcpu.rip is the next instruction's: out. */
static void leave_between(struct emit *e)
{
	struct mem_ref result = ref_gs(OFF(jit_result));

	emit1(e, 0x48); /* mov rax, &jit_between */
	emit1(e, 0xb8);
	emit4(e, (u32)(u64)&jit_between);
	emit4(e, (u32)((u64)&jit_between >> 32));
	put_store(e, GPR_RAX, OFF(cur));
	emit_ref(e, false, 0xc7, 0, &result);
	emit4(e, OP_JUMP);
	leave_with_result(e);
}

/* T = RIP of the next instruction: out. */
static void glue_out(struct emit *e)
{
	put_store(e, R_T, OFF(rip));
	save_guest(e);
	leave_between(e);
}

/* I = jump-cache index: to its entry if it is T's. A miss leaves T as it was. */
static void try_entry(struct emit *e)
{
	struct mem_ref page = ref_gs(OFF(page_rip)), lin = ref_jcache(offsetof(struct jentry, lin)),
		       key = ref_jcache(offsetof(struct jentry, mode_key));
	unsigned int other, same, old;

	emit_ref(e, true, 0x3b, R_T, &lin);
	other = emit_jcc(e, CC_NE);
	/*
	 * Targets and return addresses are made from page_rip, so jumps wait for each other through it: it comes from
	 * the target itself, not from the entry, and inside a page nothing is stored.
	 */
	emit_alu_imm(e, true, 4, R_T, -(s32)PAGE_SIZE);
	emit_ref(e, true, 0x3b, R_T, &page);
	same = emit_jcc(e, CC_E);
	put_store(e, R_T, OFF(page_rip));
	emit_land(e, same);
	put_load(e, R_T, OFF(mode_key));
	emit_ref(e, true, 0x3b, R_T, &key);
	old = emit_jcc(e, CC_NE);
	jump_entry(e);
	emit_land(e, old);
	emit_ref(e, true, 0x8b, R_T, &lin);
	emit_land(e, other);
}

/* T = RIP of the next instruction: through the jump cache, or out. */
static void glue_jump(struct emit *e)
{
	struct mem_ref request = ref_gs(OFF(request));
	unsigned int out[2];

	emit_ref(e, false, 0x83, 7, &request);
	emit1(e, 0);
	out[0] = emit_jcc(e, CC_NE);
	put_jcache_index(e);
	try_entry(e);
	emit_alu_imm(e, true, 0, R_I, sizeof(struct jentry) / 8);
	try_entry(e);
	put_store(e, R_T, OFF(rip));
	save_guest(e);
	put_gs_base(e, GPR_RDI);
	call_c(e, (const void *)jit_find);
	emit_rr(e, true, 0x85, GPR_RAX, GPR_RAX);
	out[1] = emit_jcc(e, CC_E);
	go_to_entry(e, GPR_RAX);
	emit_land(e, out[0]);
	put_store(e, R_T, OFF(rip));
	save_guest(e);
	emit_land(e, out[1]);
	leave_between(e);
}
/* I = index of an entry that is T's no more; and T has been overwritten. */
static void glue_old(struct emit *e)
{
	struct mem_ref lin = ref_jcache(offsetof(struct jentry, lin));

	emit_ref(e, true, 0x8b, R_T, &lin);
}

_Static_assert(sizeof(struct jentry) == 32, "the index is scaled by 8: sets of two");

/* T = offset from the page: the next instruction. Then as glue_jump(). */
static void glue_exit_saved(struct emit *e)
{
	struct mem_ref page = ref_gs(OFF(page_rip));

	emit_ref(e, true, 0x03, R_T, &page);
}

static void glue_exit_host(struct emit *e)
{
	put_save_flags(e, R_I);
	glue_exit_saved(e);
}

/* A signal handler sends a block here whose instruction faulted. */
static void glue_fault(struct emit *e)
{
	struct mem_ref m = ref_gs(OFF(jit_tmp) + 8);

	put_mov(e, R_T, GPR_RAX);
	emit1(e, 0x9f);
	emit_rr(e, false, 0x0f90, 0, GPR_RAX);
	emit1(e, 0x66);
	emit_ref(e, false, 0x89, GPR_RAX, &m);
	put_mov(e, GPR_RAX, R_T);
	save_guest(e);
	put_gs_base(e, GPR_RDI);
	call_c(e, (const void *)jit_failed);
	leave_with_result(e);
}

static const u8 *add(struct jit *j, const struct emit *e)
{
	return emit_append(&j->x, &j->used, e, 64);
}

static const u8 *make(struct jit *j, void (*fn)(struct emit *))
{
	u8 bytes[1024];
	struct emit e = { .max = sizeof(bytes), .buf = bytes };

	fn(&e);
	return add(j, &e);
}

/* first(), then jump to next */
static const u8 *make_before(struct jit *j, void (*first)(struct emit *), const u8 *next)
{
	u8 bytes[128];
	struct emit e = { .max = sizeof(bytes), .buf = bytes };

	first(&e);
	emit1(&e, 0xe9);
	emit4(&e, (u32)(next - (j->x.rx + j->used + e.n + 4)));
	return add(j, &e);
}

static const u8 *make_check(struct jit *j, const void *fn)
{
	u8 bytes[1024];
	struct emit e = { .max = sizeof(bytes), .buf = bytes };

	glue_check(&e, fn);
	return add(j, &e);
}

static void make_misses(struct jit *j)
{
	u8 bytes[1536];

	for (unsigned int n = 0; n < 2 * VIEW_NUM * 2; n++) {
		struct emit e = { .max = sizeof(bytes), .buf = bytes };
		unsigned int level = n / (2 * VIEW_NUM), view = n / 2 % VIEW_NUM;

		glue_miss(&e, level, view, n & 1, j->slow);
		j->miss[level][view][n & 1] = add(j, &e);
	}
	for (unsigned int n = 0; n < VIEW_NONE * 2; n++) {
		struct emit e = { .max = sizeof(bytes), .buf = bytes };

		glue_slot_miss(&e, n / 2, n & 1, j->slow);
		j->slot_miss[n / 2][n & 1] = add(j, &e);
	}
}

void glue_make(struct vcpu *v)
{
	struct jit *j = v->jit;

	j->used = 64;
	j->enter = make(j, glue_enter);
	j->interp = make(j, glue_interp);
	j->out = make(j, glue_out);
	j->jump = j->lockstep ? j->out : make(j, glue_jump);
	j->old = make_before(j, glue_old, j->jump);
	j->exit_saved = make_before(j, glue_exit_saved, j->jump);
	j->exit_host = make_before(j, glue_exit_host, j->jump);
	j->slow = make(j, glue_slow);
	j->resume = make(j, glue_resume);
	j->resume_first = make(j, glue_resume_first);
	make_misses(j);
	j->fault = make(j, glue_fault);
	j->op = make(j, glue_op);
	j->canonical = make(j, glue_canonical);
	j->fp = make_check(j, (const void *)jit_fp);
	j->stop = make_check(j, (const void *)jit_stop);
	j->glue_end = j->used;
	v->interp_entry = j->interp;
}
