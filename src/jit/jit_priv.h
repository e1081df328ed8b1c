/* SPDX-License-Identifier: MIT */
/*
 * Shared by the files of the translator: jit.c (life, entry from the interpreter), glue.c (shared code pieces),
 * block.c (a block from a trace), emit_insn.c, emit_mem.c, emit_branch.c, flags.c (its parts), link.c (blocks that
 * go to each other), recover.c (C called by blocks, and faults).
 */
#pragma once
#include "base/base.h"
#include "cpu/emit.h"
#include "cpu/native.h"
#include "cpu/rcache.h"
#include "jit/jit.h"

/* Host registers: guest registers stand for themselves except as HOST[] says. */
#define R_T GPR_R11	/* scratch: addresses */
#define R_I GPR_R15	/* scratch: indices */
#define R_SP GPR_R14	/* guest RSP; the host's RSP is a host stack */
#define IN_MEMORY 0xff
extern const u8 jit_host[16];

#define CODE_SIZE (8u << 20)
#define BLOCK_ROOM 16384u	/* no block is larger */
#define SITES 262144u
#define EXITS 131072u
#define WAIT_LISTS 8192u
#define BLOCKS 65536u
#define QUEUE 8u	/* blocks made at once */
#define AHEAD 65536u	/* bytes of memory that are had at once */

#define OFF(field) ((s32)offsetof(struct vcpu, field))
#define OFF_GPR(n) ((s32)(offsetof(struct vcpu, gpr) + 8u * (n)))

/**
 * enum flag_place - where the arithmetic flags are
 * @FLAGS_HOST: in the host's
 * @FLAGS_SAVED: in vcpu.aflags
 * @FLAGS_BOTH: in both
 * @FLAGS_RECIPE: overwritten, and so will be the guest's before anything reads them; if a fault shows them, the
 *	instruction that made them is run again
 * @FLAGS_EITHER: wherever the block was entered with them; nothing can look before they are overwritten
 * @FLAGS_LOOP: as FLAGS_SAVED in a loop's first pass, later as FLAGS_RECIPE: AFLAGS_LOOP in vcpu.aflags tells
 */
enum flag_place { FLAGS_HOST, FLAGS_SAVED, FLAGS_BOTH, FLAGS_RECIPE, FLAGS_EITHER, FLAGS_LOOP };
#define AFLAGS_LOOP 0x2800u /* no image of LAHF has these bits */

enum undo { UNDO_NOTHING, UNDO_ADD, UNDO_SUB, UNDO_XOR, UNDO_NEG };

/**
 * struct recipe - how to make flags again: undo what the instruction did to its destination, run it once more
 * @index: of the instruction in its trace
 * @undo: enum undo
 * @dst, @src: registers; GPR_NONE: the record's immediate
 */
struct recipe {
	u8 index;
	u8 undo;
	u8 dst;
	u8 src;
};

enum slotted { SLOT_NONE, SLOT_READ, SLOT_WRITE };

/**
 * struct site - an instruction where a block can be left or call C
 * @host, @done: where it begins and ends, offsets in the code
 * @ready: distance from @host to where its operand's host address is known
 * @rec: its record: offset in the trace arena / 8
 * @size, @acc: of its memory operand, or of all that its check is for
 * @lo: where that begins, from the operand
 * @in_group: something behind it relies on a check; if this takes C, the interpreter goes on
 * @leads: it checks for others too
 * @slotted: enum slotted: its check compares with one of vcpu.slots
 * @slot: which
 * @pair: behind the check T + I is the host's address, not T
 * @suspect: how often it was found to miss among many misses
 * @plain_next: what follows touches registers at most: nobody can see where in the shadow of STI it ran
 * @flags: enum flag_place when it begins
 * @recipe: with FLAGS_RECIPE and FLAGS_LOOP
 */
struct site {
	u32 host;
	u32 done;
	u32 rec;
	u16 ready;
	u16 size;
	s16 lo;
	u8 acc;
	bool in_group, leads, plain_next;
	u8 slotted;
	u8 slot;
	bool pair;
	u8 suspect;
	u8 flags;
	struct recipe recipe;
};

/**
 * struct exit - a jump of a block to another place in its page
 * @at: end of the jump's displacement
 * @cold: where it goes while it is not linked
 * @to: block it is linked to, 0 none
 * @from: its own block
 * @next: on the list of those that lead to @to, or that wait for their target
 * @off: target, offset in the page
 * @flags: enum flag_place there
 * @loop: to the begin of its own block, by the way for that
 * @target, @key: where it leads, as of a trace
 */
struct exit {
	gpa_t target;
	u32 at;
	u32 cold;
	u32 to;
	u32 from;
	u32 next;
	u16 off;
	u16 key;
	u8 flags;
	bool loop;
};

/**
 * struct block - a translated trace
 * @saved, @host: entries with the flags in vcpu.aflags and in the host's
 * @likes_host: @host is the shorter way
 * @loop: entry of its own exits that are so marked
 * @in: exits that lead here, see link.c
 * @inline_mask: lockstep: instructions that need no C
 * @crossed, @crossed_at, @crossed_page: how often of late a shared check failed, when that was (TSC), and where
 */
struct block {
	struct trace *t;
	u32 saved;
	u32 host;
	u32 loop;
	u32 exit0;
	u16 nexits;
	bool likes_host;
	u32 in;
	u32 inline_mask;
	u32 crossed;
	u64 crossed_at;
	u64 crossed_page;
};

/* COLD_MISS searches the next level of the TLB first, in T and I of the probe that missed. */
enum cold_kind { COLD_MISS, COLD_SLOW, COLD_OP, COLD_FP, COLD_STOP, COLD_POLL };
#define NO_WAY_BACK (~0u)
#define NOT_COPIED (~0u)

/* A path behind the block: jumps that lead there, C function to call, where to go on. */
struct cold {
	u8 kind;
	u8 njumps;
	bool save_flags;
	bool write;
	u8 slot;	/* NO_SLOT */
	u32 jump[4];
	u32 site;
	u32 back;
	u32 at;		/* where it begins */
};
#define NO_SLOT 0xff
#define COLDS 128
#define BLOCK_EXITS 80

/* An access whose address is a register and a constant; base: 16 RIP's page, 17 nothing */
struct operand {
	s32 disp;
	u8 base;
	u8 seg;
	u8 size;
	bool write;
};

/**
 * struct group - accesses that share a check (group.c)
 * @id, @seg: what their addresses are distances from
 * @first, @last: instructions
 * @lo, @hi: the range
 * @write: some are writes
 * @run: pushes and pops in a row, to which T stays: no need to keep it
 */
struct group {
	u16 id;
	u8 seg;
	u8 first, last;
	bool write;
	bool run;
	s32 lo, hi;
};
#define NO_GROUP 0xff
#define NO_LOOP 0xff

/* An instruction's group, and the distance of its operand */
struct plan {
	u8 group;
	s32 off;
};

/**
 * struct work - a block being made
 * @flags, @recipe: enum flag_place now, and how to make them again
 * @candidate: instruction whose flags could be had by repeating it, -1 none
 * @fp_ok: enum fp_live bits that this block has tested
 * @site: of the current instruction; NO_SITE
 * @start, @copied: of each instruction: where its code begins; where its copy stands, NOT_COPIED
 * @hot_end: where the paths behind the block begin
 * @nslots: taken so far for reads and for writes
 * @loop: a jump leads back into the block
 * @looped: instruction whose jump leads to the block's begin with flags that need not be saved there; NO_LOOP
 * @loop_recipe: how they are made
 * @loop_at, @loop_fp: where that jump leads: vector state has been tested
 * @last_back: the last instruction that jumps backward, -1 none
 * @polled: the request word has been looked at
 * @i_free: the instruction does not need I for anything but its address
 * @group_in_t: T holds the host address of this group's begin; NO_GROUP
 */
struct work {
	struct vcpu *v;
	struct jit *j;
	struct trace *t;
	struct emit e;
	unsigned int n;
	unsigned int k;
	u8 flags;
	struct recipe recipe;
	int candidate;
	u8 fp_ok;
	u32 site;
	u32 site0, exit0;
	unsigned int ncold;
	unsigned int nexits;
	u8 nslots[2];
	bool loop;
	u8 looped;
	u8 loop_fp;
	struct recipe loop_recipe;
	u32 loop_at;
	int last_back;
	bool polled;
	bool i_free;
	u8 group_in_t;
	u8 ngroups;
	struct group group[GROUPS];
	struct plan plan[RCACHE_TRACE_MAX];
	struct cold cold[COLDS];
	struct exit exit[BLOCK_EXITS];
	struct decode d[RCACHE_TRACE_MAX];
	u32 start[RCACHE_TRACE_MAX], copied[RCACHE_TRACE_MAX];
	u32 hot_end;
};

/**
 * enum force - worst cases that tests ask for, by name in CASEMENT_FORCE
 * @FORCE_SLOW: no access finds its page
 * @FORCE_SINGLE: blocks of one instruction
 * @FORCE_TINY: room for a few blocks: all are thrown away all the time
 * @FORCE_KICK: a request is up each time that translated code is entered
 * @FORCE_APART: blocks are not linked
 * @FORCE_CHECKS: no access relies on the check of another
 */
enum force { FORCE_SLOW = 1, FORCE_SINGLE = 2, FORCE_TINY = 4, FORCE_KICK = 8, FORCE_APART = 16, FORCE_CHECKS = 32 };
#define TINY_SIZE 4096u
#define REST_SIZE (256u << 10)	/* of code that is kept when all of it is dropped */

struct jit {
	struct xmem x;
	u32 force;
	u32 limit;	/* of @used */
	u8 was_live;	/* sanitized builds: vector state was, before C was called */
	bool kicked;	/* FORCE_KICK: not twice at one instruction */
	u32 used;
	u32 glue_end;
	u32 nsites, nexits, nblocks;
	const u8 *enter, *interp, *jump, *slow, *op, *fp, *stop, *fault, *exit_host, *exit_saved,
		*out; /* exit_*: T = target, an offset from the page; by where the flags are */
	const u8 *old, *canonical; /* T = target that entry I has under another key; T = target, I = site */
	const u8 *resume, *resume_first; /* T = record that the interpreter goes on with */
	const u8 *slot_miss[VIEW_NONE][2];
	const u8 *miss[2][VIEW_NUM][2];	/* by level, view, and whether it is a write */
	u32 fault_site;
	struct insn there;	/* v->cur after an instruction that was run apart */
	struct lockstep *lockstep;
	struct sites *sites;
	struct verify *verify;
	unsigned int nqueue;
	struct trace *queue[QUEUE];	/* warm ones */
	u32 ready_code, ready_sites, ready_exits; /* bytes that have their pages */
	bool gave_up;	/* lockstep: a group failed, and the interpreter's result stands */
	u64 host_gs;
	struct jit_stats stats;
	struct site site[SITES] __attribute__((aligned(4096)));
	struct exit exit[EXITS] __attribute__((aligned(4096)));
	struct block block[BLOCKS];
	u32 wait[WAIT_LISTS]; /* exits whose target is not translated, by its address */
	struct work work;
};
#define NO_SITE (~0u)

static inline const struct insn *work_rec(const struct work *w) { return &w->t->rec[w->k]; }
static inline const struct decode *work_decode(const struct work *w) { return &w->d[w->k]; }

/* Whose TLB entries the block's probes look at */
static inline unsigned int work_view(const struct work *w)
{
	return w->j->force & FORCE_SLOW ? VIEW_NONE : (w->t->key & MODE_VIEW) >> MODE_VIEW_SHIFT;
}

/* ---- small encodings (glue.c) ----------------------------------------------------------------- */

static inline struct mem_ref ref_gs(s32 disp)
{
	return (struct mem_ref){ .base = REF_NONE, .index = REF_NONE, .gs = true, .disp = disp };
}

static inline struct mem_ref ref_base(unsigned int base, s32 disp)
{
	return (struct mem_ref){ .base = (u8)base, .index = REF_NONE, .disp = disp };
}

void put_load(struct emit *e, unsigned int reg, s32 off);	/* reg = vcpu field */
void put_store(struct emit *e, unsigned int reg, s32 off);
void put_mov(struct emit *e, unsigned int dst, unsigned int src);
void put_lea(struct emit *e, unsigned int reg, const struct mem_ref *m);
/* Flags to and from vcpu.aflags; tmp is clobbered. */
void put_save_flags(struct emit *e, unsigned int tmp);
void put_restore_flags(struct emit *e, unsigned int tmp);
/* jmp or call to a place in this vCPU's code */
void put_jump(struct work *w, const u8 *to);
void put_call(struct work *w, const u8 *to);
/* reg = reg op immediate count; ext as in the C1 group */
void put_shift(struct emit *e, bool wide, unsigned int ext, unsigned int reg, unsigned int count);
enum { SHIFT_LEFT = 4, SHIFT_RIGHT = 5, SHIFT_ARITHMETIC = 7 };
void glue_make(struct vcpu *v);
/* glue_tlb.c: searched when a probe missed; slow: where a site goes that C must help */
void glue_slot_miss(struct emit *e, unsigned int view, bool write, const u8 *slow);
void glue_miss(struct emit *e, unsigned int level, unsigned int view, bool write, const u8 *slow);

/* ---- flags.c ------------------------------------------------------------------------------------ */

/* Does the instruction need the old flags in the host's? */
bool flags_needed(const struct decode *d);
/* Likewise, unless all that it would leave of them is replaced unseen */
bool flags_wanted(const struct work *w, unsigned int k);
/* Does it overwrite all of them without looking? */
bool flags_replaced(const struct decode *d);
/* The host's flags are about to be clobbered and the guest's may be looked at. */
void flags_give_up(struct work *w);
void flags_to_host(struct work *w, unsigned int tmp);
void flags_to_saved(struct work *w);
/* The instruction has run. */
void flags_after(struct work *w);
/* Finds work.looped. */
void flags_find_loop(struct work *w);

/* ---- blocks -------------------------------------------------------------------------------------- */

void jit_translate(struct vcpu *v, struct trace *t);
u32 work_site(struct work *w, unsigned int size, unsigned int acc);
struct cold *work_cold(struct work *w, enum cold_kind kind, u32 site);
void cold_from(struct cold *c, unsigned int jump);
/* A jump (cc) to an address of this page, or behind it. cc < 0: always. */
void put_exit(struct work *w, int cc, u32 off);

/**
 * enum note - what an instruction is to the translator, in decode.note; the memo keeps it
 * @NOTE_MADE: the others are known
 * @NOTE_INLINE: copied, or a push or pop, or nothing: C does none of it unless its operand is missing
 * @NOTE_COPIED: copied with other registers
 * @NOTE_TEMPLATE: has code of its own (emit_branch.c)
 * @NOTE_STACK: push, pop, leave
 * @NOTE_SYS: one of those that may go through C and then on in the block (emit_sys.c)
 * @NOTE_SITE: can leave the block or call C
 * @NOTE_NOP: does nothing
 * @NOTE_LEA: an address is its result
 */
enum note {
	NOTE_MADE = 1, NOTE_INLINE = 2, NOTE_COPIED = 4, NOTE_TEMPLATE = 8, NOTE_STACK = 16, NOTE_SYS = 32,
	NOTE_SITE = 64, NOTE_NOP = 128, NOTE_LEA = 256
};
#define NOTE_NUMBER 9 /* the template is in the bits from here */

/* Makes d->note. Return: whether it is the same for all instructions with these registers and addressing form. */
bool insn_classify(struct decode *d, const struct insn *r);
u16 template_note(const struct insn *r);
static inline bool insn_is_inline(const struct decode *d) { return d->note & NOTE_INLINE; }
static inline bool insn_has_site(const struct decode *d) { return d->note & NOTE_SITE; }
static inline bool has_template(const struct decode *d) { return d->note & NOTE_TEMPLATE; }
static inline bool is_stack_template(const struct decode *d) { return d->note & NOTE_STACK; }
static inline bool is_sys_template(const struct decode *d) { return d->note & NOTE_SYS; }
/* Lockstep runs instructions twice: those that C executes whole only if they change nothing but what it puts back. */
bool insn_is_repeated(const struct work *w, const struct insn *r);
/* Where a direct jump goes, from the page's begin */
static inline u32 insn_target(const struct insn *r) { return (u32)(r->off + r->len + (u64)r->imm); }
void put_insn(struct work *w);
void put_template(struct work *w);	/* there is one */
void put_linear(struct work *w);
/* Looks for requests where that may clobber the flags, for backward jumps to come; the site is the instruction's. */
void put_early_poll(struct work *w);
/* emit_sys.c */
void put_cli(struct work *w);
void put_swapgs(struct work *w);
void put_pushfq(struct work *w);
void put_push_mem(struct work *w);
void put_callout(struct work *w);	/* the record's handler in C, or its stub */

/* ---- emit_jump.c ----------------------------------------------------------------------------------- */

/* I = jump-cache index of T, and an entry's field by it */
void put_jcache_index(struct emit *e);
struct mem_ref ref_jcache(size_t field);
/* A jump to T, after RSP has moved by @sp; @canonical: T is known to be, or the current site's handler has it. */
void put_indirect(struct work *w, s32 sp, bool canonical);
/* The flags are saved: to that offset from this page, in another one. */

/* ---- emit_mem.c ------------------------------------------------------------------------------------ */

/* Address of the record's operand; spilled registers are loaded into scratch ones. */
struct mem_ref put_address(struct work *w);
bool address_fits(const struct insn *r);
/* T = linear address m; then T = host address. What it takes C for is done for the current site. */
void put_check(struct work *w, const struct mem_ref *m, unsigned int size, bool write);
/*
 * The operand by a host reference. address() emits its guest address if a check is needed, which clobbers T, I and the
 * flags; operand_is_checked(): none is needed, only T is clobbered.
 */
struct mem_ref put_operand(struct work *w, struct mem_ref (*address)(struct work *w), unsigned int size, bool write);
bool operand_is_checked(const struct work *w);
void put_fp_check(struct work *w);
/* TEST EAX behind the call of a search: the site's number, and above it that of its slot. */
#define SITE_BITS 24
/* The site's slot serves it badly: it indexes the array from now on. */
void unslot(struct vcpu *v, struct site *s);

/* ---- group.c -------------------------------------------------------------------------------------- */

void group_accesses(struct work *w);
/* The current instruction's group, if it has others in it */
const struct group *work_group(const struct work *w);
bool work_in_group(const struct work *w);
bool insn_access(const struct insn *r, const struct decode *d, struct operand *a);

/* ---- link.c ---------------------------------------------------------------------------------------- */

void link_block(struct vcpu *v, u32 n);
void unlink_block(struct vcpu *v, u32 n);
/* Exits that wait for this block, after its bytes have been found to be what they were. */
void link_in(struct vcpu *v, u32 n);

/* ---- lockstep.c ------------------------------------------------------------------------------------ */

int lockstep_run(struct vcpu *v, const struct insn *first);
size_t lockstep_size(void);
/* How much was compared, on standard error. */
void lockstep_tell(const struct vcpu *v);
void lockstep_leave(struct vcpu *v);

/* ---- sites.c --------------------------------------------------------------------------------------- */

int sites_run(struct vcpu *v, const struct insn *first);
size_t sites_size(void);
void sites_tell(const struct vcpu *v);

/* ---- recover.c: called from code -------------------------------------------------------------------- */

static inline const struct insn *site_rec(const struct vcpu *v, const struct site *s)
{
	return (const struct insn *)(v->rc->arena + (size_t)s->rec * 8);
}

/* What translated code has in I for an entry of the jump cache */
static inline u64 jentry_index(const struct vcpu *v, const struct jentry *j)
{
	return (u64)((const u8 *)j - (const u8 *)v->jc) / 8;
}

/* Where to go on, 0: out; and T there. I is vcpu.jit_tmp[3]: 0, or the jump-cache index of another block. */
struct slow_result { u64 next; u64 ptr; };
/**
 * struct op_answer - what becomes of a block after C ran one of its instructions
 * @leaves: not what follows the instruction
 * @next: but this; NULL: out to the run loop
 */
struct op_answer { u64 leaves; const struct jentry *next; };
struct slow_result jit_slow(struct vcpu *v, u32 site);
/* The record that v->cur names when a block was left for v->rip and not at an instruction. */
extern const struct insn jit_between;
struct op_answer jit_op(struct vcpu *v, u32 site);
/* A jump to v->rip missed the jump cache: its entry, or NULL: out to the run loop. */
const struct jentry *jit_find(struct vcpu *v);
int jit_fp(struct vcpu *v, u32 site);
int jit_stop(struct vcpu *v, u32 site);
void jit_failed(struct vcpu *v);
bool jit_fault(struct vcpu *v, int vector, void *uctx);

/* ---- verify.c --------------------------------------------------------------------------------------- */

struct verify *verify_make(void);
void verify_free(struct verify *y);
/* Is the block as blocks must be? If not, says so on standard error and makes the vCPU stop. */
bool verify_block(struct work *w, const struct block *b);
bool verify_quietly(struct work *w, const struct block *b);
/* A test sees each block instead. */
extern bool (*verify_test)(struct work *w, const struct block *b);

/* ---- force.c ---------------------------------------------------------------------------------------- */

/* CASEMENT_FORCE=slow,tiny and CASEMENT_HEAT=1: 0, or -EINVAL with what is wrong told on stderr. */
int force_from_environment(u32 *force);
int heat_from_environment(u16 *heat);
int force_run(struct vcpu *v, const struct insn *first);
