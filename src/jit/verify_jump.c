/* SPDX-License-Identifier: MIT */
/*
 * Jumps of a block through the jump cache: what must have been compared before code is entered that an entry names.
 */
#include "jit/verify.h"

#include "cpu/op/op.h"

static bool is_field(const struct decode *d, size_t off)
{
	return d->rec.flags & INSN_MEM && insn_seg(&d->rec) == SEG_GS && d->rec.base == GPR_NONE &&
	       d->rec.index == GPR_NONE && d->rec.disp == (s32)off;
}

/* Is d's operand that field of the entry whose index is in I? */
bool jump_ref(const struct decode *d, size_t field)
{
	const struct insn *r = &d->rec;

	return (r->flags & INSN_MEM) && insn_seg(r) == SEG_GS && r->base == GPR_NONE && r->index == R_I &&
	       insn_scale(r) == 3 && r->disp == (s32)(offsetof(struct vcpu, jc) + field);
}

/* The host's flags are d's: do they compare what a jump depends on? */
void jump_compare(const struct decode *d, struct vstate *s)
{
	const struct insn *r = &d->rec;
	bool t = insn_reg(r) == R_T && r->osz == 8 && !d->imm_len;

	s->cmp_jump = 0;
	if (r->id != INSN_CMP || d->mem_acc != MEM_R)
		return;
	if (t && jump_ref(d, offsetof(struct jentry, lin))) {
		s->jump = 0;
		s->cmp_jump = JUMP_LIN;
	} else if (t && jump_ref(d, offsetof(struct jentry, mode_key))) {
		if (s->reg[R_T].kind == VAL_KEY)
			s->cmp_jump = JUMP_KEY;
	} else if (t && is_field(d, offsetof(struct vcpu, page_rip)) && s->reg[R_T].kind == VAL_PAGE) {
		s->cmp_jump = JUMP_PAGE;
	}
}

/* False: d is no step of a jump. */
bool step_jump(const struct decode *d, struct vstate *s)
{
	const struct insn *r = &d->rec;
	struct val *t = &s->reg[R_T];

	if (d->gpr_write != BIT(R_T) || r->osz != 8)
		return false;
	if (r->id == INSN_AND && d->imm_len && r->imm == -(s64)PAGE_SIZE && !(r->flags & INSN_MEM) &&
	    s->jump == JUMP_LIN) {
		*t = (struct val){ .kind = VAL_PAGE };
		return true;
	}
	if (r->id == INSN_MOV && is_field(d, offsetof(struct vcpu, mode_key))) {
		*t = (struct val){ .kind = VAL_KEY };
		return true;
	}
	return false;
}

void jump_not_taken(const struct decode *d, struct vstate *s)
{
	if (d->rec.id == INSN_JNZ && s->cmp_jump != JUMP_PAGE)
		s->jump |= s->cmp_jump;
}

/* A store to vcpu.page_rip: only of the target's page, and nothing of the block may follow. */
void verify_page(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	if (d->rec.id != INSN_MOV || d->mem_size != 8 || d->imm_len || insn_reg(&d->rec) != R_T ||
	    s->reg[R_T].kind != VAL_PAGE)
		verify_fail(y, at, "stores another page than the target's");
	s->jump |= JUMP_PAGE;
	s->left = true;
}

/* jmp [entry's code] */
void verify_jump_entry(struct verify *y, u32 at, const struct decode *d, const struct vstate *s)
{
	const struct val *i = &s->reg[R_I];

	if (!jump_ref(d, offsetof(struct jentry, code))) {
		verify_fail(y, at, "jumps by something else than an entry of the jump cache");
		return;
	}
	if (s->jump != (JUMP_LIN | JUMP_PAGE | JUMP_KEY) || !s->polled)
		verify_fail(y, at, "takes an entry of the jump cache without a look at all of it");
	if (i->kind != VAL_MASKED || i->num != JCACHE_MASK)
		verify_fail(y, at, "does not say by which entry it goes");
	if (!s->saved)
		verify_fail(y, at, "leaves without the flags where the code behind looks for them");
	verify_home(y, at, s, false);
}
