/* SPDX-License-Identifier: MIT */
/*
 * What an inline probe of the data TLB does when it misses: search tlb_l1.mid and .large (cpu/tlb_mid.c), copy what is
 * found to where the probe looks, and let it try again. What is not found, and operands in two pages, are for C.
 */
#include "jit/jit_priv.h"

#define RAX GPR_RAX
#define RCX GPR_RCX
#define RDX GPR_RDX

static struct mem_ref in_view(unsigned int index, s32 off)
{
	return (struct mem_ref){ .base = (u8)index, .index = REF_NONE, .gs = true, .disp = off };
}

/* op reg, field of the entry in RCX */
static void entry_op(struct emit *e, unsigned int opcode, unsigned int reg, s32 array, size_t field)
{
	struct mem_ref m = in_view(RCX, array + (s32)field);

	emit_ref(e, true, opcode, reg, &m);
}

static void put_and(struct emit *e, unsigned int reg, s32 imm)
{
	emit_alu_imm(e, false, 4, reg, imm);
}

/* ZF: the tag in RAX is that of the entry in RCX */
static void compare(struct emit *e, s32 array)
{
	entry_op(e, 0x3b, RAX, array, offsetof(struct tlb_mid, tag));
}

static void add_gen(struct emit *e, unsigned int level)
{
	struct mem_ref gen = ref_gs(OFF(tlb_gen) + 8 * (s32)level);

	emit_ref(e, true, 0x0b, RAX, &gen);
}

/* RCX = entry of the page in T, jumps taken when it is found; RAX = tag */
static void search_small(struct emit *e, unsigned int level, s32 array, unsigned int found[TLB_WAYS])
{
	put_mov(e, RAX, R_T);
	put_shift(e, true, SHIFT_RIGHT, RAX, PAGE_SHIFT);
	put_mov(e, RCX, RAX);
	put_shift(e, true, SHIFT_RIGHT, RCX, 9);
	emit_rr(e, false, 0x33, RCX, RAX);
	put_and(e, RCX, TLB_SETS - 1);
	put_shift(e, false, SHIFT_LEFT, RCX, 7);
	put_shift(e, true, SHIFT_LEFT, RAX, PAGE_SHIFT);
	add_gen(e, level);
	for (unsigned int way = 0; way < TLB_WAYS; way++) {
		if (way)
			emit_alu_imm(e, false, 0, RCX, sizeof(struct tlb_mid));
		compare(e, array);
		found[way] = emit_jcc(e, CC_E);
	}
}
_Static_assert(sizeof(struct tlb_mid) * TLB_WAYS == 1 << 7, "the search shifts by 7");

/* Likewise for 2 MiB; the jump is taken when there is none */
static unsigned int search_large(struct emit *e, unsigned int level, s32 array)
{
	put_mov(e, RAX, R_T);
	put_shift(e, true, SHIFT_RIGHT, RAX, 21);
	put_mov(e, RCX, RAX);
	put_and(e, RCX, TLB_LARGES - 1);
	put_shift(e, false, SHIFT_LEFT, RCX, 5);
	put_shift(e, true, SHIFT_LEFT, RAX, 21);
	add_gen(e, level);
	compare(e, array);
	return emit_jcc(e, CC_NE);
}
_Static_assert(sizeof(struct tlb_mid) == 1 << 5, "the search shifts by 5");

/* RDX = gpa of the entry in RCX; jump taken if it may not be written */
static unsigned int take_gpa(struct emit *e, s32 array, bool write)
{
	entry_op(e, 0x8b, RDX, array, offsetof(struct tlb_mid, gpa));
	if (!write)
		return 0;
	emit1(e, 0xf6); /* test dl */
	emit1(e, 0xc2);
	emit1(e, TLB_WRITE);
	return emit_jcc(e, CC_E);
}

/* Into the array that was probed: T = linear address, I = index, RAX = host page, RDX = gpa */
static void copy_entry(struct emit *e, s32 view, bool write)
{
	s32 array = view + (s32)(write ? offsetof(struct tlb_l1, w) : offsetof(struct tlb_l1, r));
	struct mem_ref host = in_view(R_I, array + (s32)offsetof(struct tlb_entry, host));
	struct mem_ref tag = in_view(R_I, array + (s32)offsetof(struct tlb_entry, tag));
	s32 gpas = view + (s32)(write ? offsetof(struct tlb_l1, gpa[1]) : offsetof(struct tlb_l1, gpa));
	struct mem_ref gpa = in_view(RCX, gpas);
	struct mem_ref used = ref_gs(view + (s32)offsetof(struct tlb_l1, used) + (write ? 4 : 0));
	struct mem_ref local = ref_gs(view + (s32)offsetof(struct tlb_l1, local) + (write ? 4 : 0));
	unsigned int global;

	emit_ref(e, true, 0x89, RAX, &host);
	put_mov(e, RAX, R_T);
	emit_alu_imm(e, true, 4, RAX, -(s32)PAGE_SIZE);
	emit_ref(e, true, 0x89, RAX, &tag);
	put_mov(e, RCX, R_I);
	put_shift(e, false, SHIFT_RIGHT, RCX, 1);
	emit_ref(e, true, 0x89, RDX, &gpa);
	put_shift(e, false, SHIFT_RIGHT, RCX, 3 + 5); /* chunk */
	emit_mov_imm(e, RAX, 1);
	emit1(e, 0xd3); /* shl eax, cl */
	emit1(e, 0xe0);
	emit_ref(e, false, 0x09, RAX, &used);
	emit1(e, 0xf6); /* test dl */
	emit1(e, 0xc2);
	emit1(e, TLB_GLOBAL);
	global = emit_jcc(e, CC_NE);
	emit_ref(e, false, 0x09, RAX, &local);
	emit_land(e, global);
}
_Static_assert(TLB_CHUNK == 1 << 5, "a chunk has 32 entries");

static const u8 saved[] = { RAX, RCX, RDX };

static void push_scratch(struct emit *e)
{
	for (unsigned int k = 0; k < ARRAY_SIZE(saved); k++)
		emit1(e, 0x50u | saved[k]);
}

static void pop_scratch(struct emit *e)
{
	for (unsigned int k = ARRAY_SIZE(saved); k-- > 0;)
		emit1(e, 0x58u | saved[k]);
}

/* Behind the call stands TEST EAX with the site as its immediate: it does nothing and costs no predicted return. */
static void leave_for_c(struct emit *e, const u8 *slow)
{
	emit_load(e, R_I, GPR_RSP, 0);
	emit_rm(e, false, 0x8b, R_I, R_I, 1);
	emit_alu_imm(e, false, 4, R_I, (s32)BIT(SITE_BITS) - 1);
	emit1(e, 0x49); /* mov r11, slow; jmp r11 */
	emit1(e, 0xbb);
	emit4(e, (u32)(u64)slow);
	emit4(e, (u32)((u64)slow >> 32));
	emit1(e, 0x41);
	emit1(e, 0xff);
	emit1(e, 0xe3);
}
_Static_assert(R_T == GPR_R11, "the jump is spelled out");

void glue_miss(struct emit *e, unsigned int level, unsigned int view, bool write, const u8 *slow)
{
	s32 at = OFF(l1_sets) + (s32)((level * VIEW_NUM + view) * sizeof(struct tlb_l1));
	s32 mid = at + (s32)offsetof(struct tlb_l1, mid), large = at + (s32)offsetof(struct tlb_l1, large);
	struct mem_ref tag = in_view(R_I, at + (s32)(write ? offsetof(struct tlb_l1, w) : offsetof(struct tlb_l1, r)));
	unsigned int found[TLB_WAYS], fail[3], crossing, copy;

	emit_alu_imm(e, true, 7, R_T, PAGE_SIZE - 1);
	crossing = emit_jcc(e, CC_BE);
	emit_ref(e, true, 0x03, R_T, &tag);
	push_scratch(e);
	search_small(e, level, mid, found);
	fail[0] = search_large(e, level, large);
	fail[1] = take_gpa(e, large, write);
	put_mov(e, RAX, R_T);
	put_and(e, RAX, (s32)(BIT(21) - PAGE_SIZE));
	emit_rr(e, true, 0x03, RDX, RAX);
	entry_op(e, 0x03, RAX, large, offsetof(struct tlb_mid, host));
	copy = emit_jmp(e);
	for (unsigned int way = 0; way < TLB_WAYS; way++)
		emit_land(e, found[way]);
	fail[2] = take_gpa(e, mid, write);
	entry_op(e, 0x8b, RAX, mid, offsetof(struct tlb_mid, host));
	emit_land(e, copy);
	copy_entry(e, at, write);
	pop_scratch(e);
	emit1(e, 0xc3);
	emit_land(e, fail[0]);
	if (write) {
		emit_land(e, fail[1]);
		emit_land(e, fail[2]);
	}
	pop_scratch(e);
	emit_land(e, crossing);
	leave_for_c(e, slow);
}

/* RCX = distance of the slot; the scratch registers are on the stack, below the return address */
static void put_slot(struct emit *e)
{
	emit_load(e, RCX, GPR_RSP, sizeof(u64) * ARRAY_SIZE(saved));
	emit_rm(e, false, 0x8b, RCX, RCX, 1);
	put_shift(e, false, SHIFT_RIGHT, RCX, SITE_BITS);
	put_shift(e, false, SHIFT_LEFT, RCX, 6);
}
_Static_assert(sizeof(struct tlb_slot) == 1 << 6, "the distance is shifted by 6");

static struct mem_ref slot_field(s32 slots, size_t field)
{
	return in_view(RCX, slots + (s32)field);
}

static struct mem_ref slot_most(s32 slots, unsigned int class)
{
	return slot_field(slots, offsetof(struct tlb_slot, most) + 8 * class);
}

/* I = index into the array of the page in T */
static void put_index(struct emit *e)
{
	put_mov(e, R_I, R_T);
	put_shift(e, true, SHIFT_RIGHT, R_I, PAGE_SHIFT - 4);
	put_and(e, R_I, (TLB_ENTRIES - 1) << 4);
}

/* The page in RAX, whose delta is in RDX, becomes the slot's only one. */
static void fill_slot(struct emit *e, s32 slots)
{
	struct mem_ref tag = slot_field(slots, 0), delta = slot_field(slots, offsetof(struct tlb_slot, delta));

	emit_ref(e, true, 0x89, RAX, &tag);
	emit_ref(e, true, 0x89, RDX, &delta);
	for (unsigned int class = 0; class < SLOT_CLASSES; class++) {
		struct mem_ref most = slot_most(slots, class);

		emit_ref(e, true, 0xc7, 0, &most);
		emit4(e, PAGE_SIZE - slot_class_size(class));
	}
}

/* The page in RAX, whose delta is the slot's: is it before it or behind it? Jump taken if not; I and RDX are lost. */
static unsigned int grow_slot(struct emit *e, s32 slots)
{
	struct mem_ref tag = slot_field(slots, 0), first = slot_most(slots, 0), end;
	unsigned int other, behind;

	emit_ref(e, true, 0x8b, RDX, &tag);
	emit_ref(e, true, 0x8b, R_I, &first);
	end = (struct mem_ref){ .base = R_I, .index = RDX, .disp = (s32)slot_class_size(0) };
	put_lea(e, R_I, &end);
	emit_rr(e, true, 0x3b, R_I, RAX);
	behind = emit_jcc(e, CC_E);
	emit_alu_imm(e, true, 5, RDX, PAGE_SIZE);
	emit_rr(e, true, 0x3b, RDX, RAX);
	other = emit_jcc(e, CC_NE);
	emit_ref(e, true, 0x89, RAX, &tag);
	emit_land(e, behind);
	for (unsigned int class = 0; class < SLOT_CLASSES; class++) {
		struct mem_ref most = slot_most(slots, class);

		emit_ref(e, true, 0x81, 0, &most);
		emit4(e, PAGE_SIZE);
	}
	return other;
}

/* RDX = delta of the page in RAX, by the array's entry at I */
static void entry_delta(struct emit *e, s32 array)
{
	struct mem_ref host = in_view(R_I, array + (s32)offsetof(struct tlb_entry, host));

	emit_ref(e, true, 0x8b, RDX, &host);
	emit_rr(e, true, 0x2b, RDX, RAX);
}

/*
 * T = linear address; it is not in the site's slot: fill that from the array, and the array as when a probe of it
 * misses. What lies across the slot's end is for C, which now and then looks who comes here.
 */
void glue_slot_miss(struct emit *e, unsigned int view, bool write, const u8 *slow)
{
	s32 array = OFF(l1_sets) + (s32)(view * sizeof(struct tlb_l1)) +
		    (s32)(write ? offsetof(struct tlb_l1, w) : offsetof(struct tlb_l1, r));
	s32 slots = OFF(slots.page[0][0]) + (s32)((view * 2 + write) * sizeof(struct tlb_slot) * TLB_SLOTS);
	struct mem_ref tag = in_view(R_I, array), misses = ref_gs(OFF(slots.misses)), used = ref_gs(OFF(slots.used));
	struct mem_ref mine = slot_field(slots, 0), delta = slot_field(slots, offsetof(struct tlb_slot, delta));
	struct mem_ref most = slot_most(slots, 0);
	unsigned int elsewhere, crossing, look, other[2];

	push_scratch(e);
	put_slot(e);
	emit_ref(e, false, 0xff, 1, &misses); /* dec */
	look = emit_jcc(e, CC_E);
	put_mov(e, RAX, R_T);
	emit_ref(e, true, 0x2b, RAX, &mine);
	emit_alu_imm(e, true, 5, RAX, (s32)slot_class_size(0));
	emit_ref(e, true, 0x3b, RAX, &most);
	crossing = emit_jcc(e, CC_B);
	put_mov(e, RAX, R_T);
	emit_alu_imm(e, true, 4, RAX, -(s32)PAGE_SIZE);
	put_index(e);
	emit_ref(e, true, 0x3b, RAX, &tag);
	elsewhere = emit_jcc(e, CC_NE);
	entry_delta(e, array);
	emit_ref(e, true, 0x3b, RDX, &delta);
	other[0] = emit_jcc(e, CC_NE);
	other[1] = grow_slot(e, slots);
	pop_scratch(e);
	emit1(e, 0xc3);
	emit_land(e, other[1]);
	put_index(e);
	entry_delta(e, array);
	emit_land(e, other[0]);
	fill_slot(e, slots);
	emit_ref(e, false, 0x81, 1, &used);
	emit4(e, 1u << (view * 2 + write));
	pop_scratch(e);
	emit1(e, 0xc3);
	emit_land(e, crossing);
	emit_land(e, look);
	pop_scratch(e);
	leave_for_c(e, slow);
	emit_land(e, elsewhere);
	pop_scratch(e);
	emit_ref(e, true, 0x2b, R_T, &tag);
	glue_miss(e, 0, view, write, slow);
}
