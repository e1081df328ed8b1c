/* SPDX-License-Identifier: MIT */
/*
 * The verifier's own: what is known of the host's state before an instruction of a block.
 */
#pragma once
#include "jit/jit_priv.h"

/**
 * enum val_kind - what a host register holds
 * @VAL_JUNK: anything
 * @VAL_HOME: what the guest has in the register that it stands for
 * @VAL_NEW: likewise, but written by the instruction at work: it cannot be begun again any more
 * @VAL_COPY: the home value of register @arg
 * @VAL_MASKED: an offset into a TLB array
 * @VAL_OFFSET: linear address less the tag at @num
 * @VAL_BOUNDED: likewise, and compared: @size bytes from there on lie in the entry's page
 * @VAL_SAME: in I: what T holds; VAL_OFFSET and VAL_BOUNDED in I are from there, with the tag of a slot
 * @VAL_PART, @VAL_REST: in T and in I: their sum is a VAL_PTR with the part's @size and @arg
 * @VAL_PTR: host address of @size bytes; @arg: they may be written
 * @VAL_SITE: number of a site
 * @VAL_LAHF, @VAL_FLAGS: in RAX: SF to CF in AH; OF in AL too. @arg: of the guest
 * @VAL_AFLAGS, @VAL_OVERFLOWED: in RAX: vcpu.aflags, on its way to the host's flags. @arg: of the guest
 * @VAL_REQUEST: vcpu.request
 * @VAL_GUEST: guest register @arg, which is kept in memory
 * @VAL_PAGE: in T: page of a jump's target that the jump cache has
 * @VAL_KEY: in T: vcpu.mode_key
 */
enum val_kind {
	VAL_JUNK, VAL_HOME, VAL_NEW, VAL_COPY, VAL_MASKED, VAL_OFFSET, VAL_BOUNDED, VAL_SAME, VAL_PART, VAL_REST,
	VAL_PTR, VAL_SITE, VAL_LAHF, VAL_FLAGS, VAL_AFLAGS, VAL_OVERFLOWED, VAL_REQUEST, VAL_GUEST, VAL_PAGE, VAL_KEY,
};

struct val {
	u8 kind;
	u8 arg;
	u16 size;
	u32 num;
};

enum lock_seen { LOCK_TYPE = 1, LOCK_LINE = 2 };

/* What a jump through the jump cache has found out; and what the host's flags compare */
enum jump_seen { JUMP_LIN = 1, JUMP_PAGE = 2, JUMP_KEY = 4 };

/**
 * struct vstate - before an instruction
 * @k: guest instruction at work
 * @host, @saved: the guest's flags are in the host's; in vcpu.aflags
 * @lazy: vcpu.aflags has the guest's flags or AFLAGS_LOOP, and then the loop's recipe makes them
 * @marked: it has AFLAGS_LOOP
 * @polled: the request word was looked at
 * @locks: enum lock_seen
 * @fp: enum fp_live bits that were tested
 * @held: what vcpu.jit_host[] holds: VAL_PTR or VAL_JUNK
 * @jump: enum jump_seen, of the entry whose index is in I
 * @left: vcpu.page_rip is the target's
 * @cmp: register that the host's flags compare with @cmp_imm; REF_NONE. Likewise the rest of cmp_*
 */
struct vstate {
	bool seen;
	u8 k;
	bool host, saved, lazy, marked;
	bool polled;
	u8 locks;
	u8 fp;
	u8 jump;
	bool left;
	u8 cmp_jump;
	u8 cmp;
	bool cmp_type, cmp_line, cmp_fp, cmp_poll;
	u32 cmp_imm;
	struct val reg[16];
	struct val held[GROUPS];
};

/**
 * struct verify - a block being looked at
 * @base: offset of the block in the code
 * @n: its bytes
 * @why: first thing that is wrong, NULL nothing
 * @at: where
 * @starts: instructions begin here
 */
struct verify {
	struct work *w;
	struct jit *j;
	const u8 *code;
	u32 base;
	u32 n;
	const char *why;
	u32 at;
	u32 ntodo;
	u16 todo[BLOCK_ROOM];
	bool starts[BLOCK_ROOM + 16];
	struct vstate state[BLOCK_ROOM + 16];
};

static inline bool verify_fail(struct verify *y, u32 at, const char *why)
{
	if (!y->why) {
		y->why = why;
		y->at = at;
	}
	return false;
}

/* verify_flow.c */
void verify_goto(struct verify *y, u32 from, u32 to, const struct vstate *s);
bool verify_home(struct verify *y, u32 at, const struct vstate *s, bool may_restart);
bool verify_loop_recipe(const struct verify *y, const struct recipe *how, unsigned int k);
bool verify_site_at(struct verify *y, u32 at, const struct vstate *s, u32 site);
/* Where control goes from a jump or call; false: it does not fall through. */
bool verify_branch(struct verify *y, u32 at, const struct decode *d, struct vstate *s);
/* verify_insn.c: what an instruction other than a branch does */
void verify_insn(struct verify *y, u32 at, const struct decode *d, struct vstate *s);
/* verify_jump.c: the way through the jump cache */
bool jump_ref(const struct decode *d, size_t field);
void jump_compare(const struct decode *d, struct vstate *s);
bool step_jump(const struct decode *d, struct vstate *s);
void jump_not_taken(const struct decode *d, struct vstate *s);
void verify_page(struct verify *y, u32 at, const struct decode *d, struct vstate *s);
void verify_jump_entry(struct verify *y, u32 at, const struct decode *d, const struct vstate *s);
