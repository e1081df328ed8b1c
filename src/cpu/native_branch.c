/* SPDX-License-Identifier: MIT */
/*
 * Near branches and the stack in 64-bit code.
 *
 * These records have a C handler, and it is the only place where their semantics are complete: a template
 * here covers the common case, and leaves everything else to the handler before it has changed
 * anything. A branch whose target is in the jump cache goes there without leaving emitted code; pending
 * requests are looked at on the way, so no loop escapes them.
 */
#include "cpu/native_priv.h"

#include "cpu/op/op.h"
#include "cpu/rcache.h"

#define SLOW_MAX 6

/**
 * struct tmpl - a template being made
 * @slow: jumps that end in the C handler
 */
struct tmpl {
	struct stub *s;
	unsigned int slow[SLOW_MAX];
	unsigned int nslow;
};

static void slow_if(struct tmpl *t, enum emit_cc cc)
{
	t->slow[t->nslow++] = emit_jcc(&t->s->e, cc);
}

static void slow_at(struct tmpl *t, unsigned int jump)
{
	t->slow[t->nslow++] = jump;
}

static void land_slow(struct tmpl *t)
{
	for (unsigned int k = 0; k < t->nslow; k++)
		emit_land(&t->s->e, t->slow[k]);
	emit_jmp_mem(&t->s->e, R_VCPU, OFF_SLOT(SLOT_OP));
}

/* ---- the jump cache ------------------------------------------------------------------------------- */

_Static_assert(sizeof(struct jentry) == 32, "the index is scaled by 8: sets of two");

/* Target in rax: r8 = its jump-cache entry. Clobbers rdx. */
static void lookup(struct tmpl *t)
{
	struct emit *e = &t->s->e;

	emit_rm(e, false, 0x83, 7, R_VCPU, OFF(request));
	emit1(e, 0);
	slow_if(t, CC_NE);
	emit_rr(e, true, 0x89, GPR_RAX, GPR_R8);
	emit1(e, 0x49); /* shr r8, 9 */
	emit1(e, 0xc1);
	emit1(e, 0xe8);
	emit1(e, JCACHE_SHIFT);
	emit_rr(e, false, 0x31, GPR_RAX, GPR_R8);
	emit_alu_imm(e, false, 4, GPR_R8, JCACHE_MASK);
	emit_lea_sib(e, GPR_R8, R_VCPU, GPR_R8, 3);
	emit_rm(e, true, 0x3b, GPR_RAX, GPR_R8, OFF(jc) + (s32)offsetof(struct jentry, lin));
	slow_if(t, CC_NE);
	emit_load(e, GPR_RDX, R_VCPU, offsetof(struct vcpu, mode_key));
	emit_rm(e, true, 0x3b, GPR_RDX, GPR_R8, OFF(jc) + (s32)offsetof(struct jentry, mode_key));
	slow_if(t, CC_NE);
}

/* Go to the record that lookup() found; retired: this record counts as an instruction. */
static void go_on(struct emit *e, bool retired)
{
	emit_rm(e, false, 0x0fb6, GPR_RDX, R_REC, OFF_REC(seq));
	if (retired)
		emit_alu_imm(e, false, 0, GPR_RDX, 1);
	emit_rm(e, true, 0x01, GPR_RDX, R_VCPU, OFF(icount));
	emit_alu_imm(e, true, 4, GPR_RAX, -(s32)PAGE_SIZE);
	emit_store(e, GPR_RAX, R_VCPU, offsetof(struct vcpu, page_rip));
	emit_load(e, R_REC, GPR_R8, offsetof(struct vcpu, jc) + offsetof(struct jentry, rec));
	emit_jmp_mem(e, R_REC, OFF_REC(fn));
}

static void go(struct tmpl *t)
{
	go_on(&t->s->e, true);
}

/* The end of a trace of 64-bit code: into the next one if it is known. */
void stub_trace_end(struct stub *s)
{
	struct emit *e = &s->e;
	struct tmpl t = { .s = s };

	emit_rm(e, false, 0x0fb7, GPR_RAX, R_REC, OFF_REC(off));
	emit_rm(e, true, 0x03, GPR_RAX, R_VCPU, OFF(page_rip));
	lookup(&t);
	go_on(e, false);
	for (unsigned int k = 0; k < t.nslow; k++)
		emit_land(e, t.slow[k]);
	emit_rr(e, false, 0x31, GPR_RAX, GPR_RAX);
	emit_store(e, R_REC, R_VCPU, offsetof(struct vcpu, cur));
	emit1(e, 0xc3);
}

/* rax = address of the next instruction; clobbers rcx */
static void next_rip(struct emit *e)
{
	emit_rm(e, false, 0x0fb7, GPR_RAX, R_REC, OFF_REC(off));
	emit_rm(e, false, 0x0fb6, GPR_RCX, R_REC, OFF_REC(len));
	emit_rr(e, false, 0x01, GPR_RCX, GPR_RAX);
	emit_rm(e, true, 0x03, GPR_RAX, R_VCPU, OFF(page_rip));
}

static void relative_target(struct emit *e)
{
	next_rip(e);
	emit_rm(e, true, 0x03, GPR_RAX, R_REC, OFF_REC(imm));
}

/* ---- conditions ------------------------------------------------------------------------------------- */

/* test byte [aflags + at], mask */
static void test_flags(struct emit *e, unsigned int at, unsigned int mask)
{
	emit_rm(e, false, 0xf6, 0, R_VCPU, OFF(aflags) + (s32)at);
	emit1(e, mask);
}

/* al bit 0 = SF ^ OF */
static void sign_differs(struct emit *e)
{
	emit_rm(e, false, 0x0fb6, GPR_RAX, R_VCPU, OFF(aflags) + 1);
	emit1(e, 0xc0); /* shr al, 7 */
	emit1(e, 0xe8);
	emit1(e, 7);
	emit_rm(e, false, 0x32, GPR_RAX, R_VCPU, OFF(aflags));
}

/* Jump taken when condition cc (without its negation bit) holds, or does not. */
static unsigned int jump_unless(struct emit *e, unsigned int cc)
{
	static const u8 mask[8] = { 1, 0x01, 0x40, 0x41, 0x80, 0x04 };
	enum emit_cc not_set = cc & 1 ? CC_NE : CC_E;

	switch (cc >> 1) {
	case 0: /* O */
		test_flags(e, 0, 1);
		break;
	case 6: /* L */
		sign_differs(e);
		break;
	case 7: /* LE */
		sign_differs(e);
		emit_rm(e, false, 0x8a, GPR_RCX, R_VCPU, OFF(aflags) + 1);
		emit1(e, 0x80); /* and cl, ZF */
		emit1(e, 0xe1);
		emit1(e, 0x40);
		emit_rr(e, false, 0x08, GPR_RCX, GPR_RAX);
		break;
	default:
		test_flags(e, 1, mask[cc >> 1]);
		break;
	}
	return emit_jcc(e, not_set);
}

static void make_jcc(struct tmpl *t)
{
	struct emit *e = &t->s->e;
	unsigned int skip = jump_unless(e, insn_rm(t->s->rec));

	relative_target(e);
	lookup(t);
	go(t);
	land_slow(t);
	/* Not taken: the trace goes on behind it. */
	emit_land(e, skip);
	stub_next(t->s);
}

/* In 16- and 32-bit code only the way not taken is simple: it has no target to check. */
static void make_jcc_legacy(struct tmpl *t)
{
	unsigned int skip = jump_unless(&t->s->e, insn_rm(t->s->rec));

	land_slow(t);
	emit_land(&t->s->e, skip);
	stub_next(t->s);
}

static void make_jmp_rel(struct tmpl *t)
{
	relative_target(&t->s->e);
	lookup(t);
	go(t);
	land_slow(t);
}

/* ---- stack -------------------------------------------------------------------------------------------- */

/* r11 = RSP + by, then the host address behind it; clobbers rax, rcx */
static void stack_probe(struct tmpl *t, s32 by, bool write)
{
	struct emit *e = &t->s->e;

	emit_load(e, R_MEM, R_VCPU, (size_t)OFF_GPR(GPR_RSP));
	if (by)
		emit_alu_imm(e, true, 0, R_MEM, by);
	slow_at(t, stub_probe(t->s, 8, write));
}

static void move_rsp(struct emit *e, s32 by)
{
	emit_rm(e, true, 0x83, 0, R_VCPU, OFF_GPR(GPR_RSP));
	emit1(e, (u8)by);
}

static void make_push(struct tmpl *t)
{
	struct emit *e = &t->s->e;

	stack_probe(t, -8, true);
	if (t->s->rec->op == op_push_imm)
		emit_load(e, GPR_RAX, R_REC, offsetof(struct insn, imm));
	else
		emit_load(e, GPR_RAX, R_VCPU, (size_t)OFF_GPR(insn_rm(t->s->rec)));
	emit_store(e, GPR_RAX, R_MEM, 0);
	move_rsp(e, -8);
	stub_next(t->s);
	land_slow(t);
}

static void make_pop(struct tmpl *t)
{
	struct emit *e = &t->s->e;

	stack_probe(t, 0, false);
	emit_load(e, GPR_RAX, R_MEM, 0);
	move_rsp(e, 8);
	emit_store(e, GPR_RAX, R_VCPU, (size_t)OFF_GPR(insn_rm(t->s->rec)));
	stub_next(t->s);
	land_slow(t);
}

static void make_leave(struct tmpl *t)
{
	struct emit *e = &t->s->e;

	emit_load(e, R_MEM, R_VCPU, (size_t)OFF_GPR(GPR_RBP));
	slow_at(t, stub_probe(t->s, 8, false));
	emit_load(e, GPR_RAX, R_MEM, 0);
	emit_load(e, GPR_RCX, R_VCPU, (size_t)OFF_GPR(GPR_RBP));
	emit_alu_imm(e, true, 0, GPR_RCX, 8);
	emit_store(e, GPR_RCX, R_VCPU, (size_t)OFF_GPR(GPR_RSP));
	emit_store(e, GPR_RAX, R_VCPU, (size_t)OFF_GPR(GPR_RBP));
	stub_next(t->s);
	land_slow(t);
}

/* Target in r9. Everything that can fail comes before the push. */
static void call_r9(struct tmpl *t)
{
	struct emit *e = &t->s->e;

	stack_probe(t, -8, true);
	emit_rr(e, true, 0x89, GPR_R9, GPR_RAX);
	lookup(t);
	emit_rr(e, true, 0x89, GPR_RAX, GPR_R9);
	next_rip(e);
	emit_store(e, GPR_RAX, R_MEM, 0);
	emit_rr(e, true, 0x89, GPR_R9, GPR_RAX);
	move_rsp(e, -8);
	go(t);
	land_slow(t);
}

static void make_call_rel(struct tmpl *t)
{
	relative_target(&t->s->e);
	emit_rr(&t->s->e, true, 0x89, GPR_RAX, GPR_R9);
	call_r9(t);
}

static void make_ret(struct tmpl *t)
{
	struct emit *e = &t->s->e;

	stack_probe(t, 0, false);
	emit_load(e, GPR_RAX, R_MEM, 0);
	lookup(t);
	emit_load(e, GPR_RCX, R_REC, offsetof(struct insn, imm));
	emit_alu_imm(e, true, 0, GPR_RCX, 8);
	emit_rm(e, true, 0x01, GPR_RCX, R_VCPU, OFF_GPR(GPR_RSP));
	go(t);
	land_slow(t);
}

/* r9 = target of an indirect branch */
static void indirect_target(struct tmpl *t)
{
	struct emit *e = &t->s->e;

	if (t->s->rec->flags & INSN_MEM) {
		stub_ea(t->s, true);
		slow_at(t, stub_probe(t->s, 8, false));
		emit_load(e, GPR_R9, R_MEM, 0);
	} else {
		emit_load(e, GPR_R9, R_VCPU, (size_t)OFF_GPR(insn_rm(t->s->rec)));
	}
}

static void make_jmp_rm(struct tmpl *t)
{
	indirect_target(t);
	emit_rr(&t->s->e, true, 0x89, GPR_R9, GPR_RAX);
	lookup(t);
	go(t);
	land_slow(t);
}

static void make_call_rm(struct tmpl *t)
{
	indirect_target(t);
	call_r9(t);
}

/* ---- choosing ----------------------------------------------------------------------------------------- */

static void (*template_of(const struct insn *r))(struct tmpl *)
{
	if (r->op == op_jcc)
		return make_jcc;
	if (r->op == op_jmp_rel)
		return make_jmp_rel;
	if (r->op == op_call_rel)
		return make_call_rel;
	if (r->op == op_ret)
		return make_ret;
	if (r->op == op_jmp_rm && r->osz == 8)
		return make_jmp_rm;
	if (r->op == op_call_rm && r->osz == 8)
		return make_call_rm;
	if ((r->op == op_push || r->op == op_push_imm) && !(r->flags & INSN_MEM) && r->osz == 8)
		return make_push;
	if (r->op == op_pop && !(r->flags & INSN_MEM) && r->osz == 8)
		return make_pop;
	if (r->op == op_leave && r->osz == 8)
		return make_leave;
	return NULL;
}

bool stub_branch(struct stub *s)
{
	void (*make)(struct tmpl *) = NULL;
	struct tmpl t = { .s = s };

	if (s->d->csz != 8 && s->rec->op == op_jcc)
		make = make_jcc_legacy;
	if (s->d->csz == 8 && (!(s->rec->flags & INSN_MEM) || insn_asz(s->rec) == 8))
		make = template_of(s->rec);
	if (!make)
		return false;
	make(&t);
	return true;
}
