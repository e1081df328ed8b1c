/* SPDX-License-Identifier: MIT */
/*
 * Bus locks: a locked access across a cache line, or to memory that is not write-back, stops every core of a real
 * host. Here it never reaches the host's bus (doc/design/locks.md); what remains is a vCPU that wastes time, and
 * the policies that end it. Each guest counts its locks; uncontained the count goes on.
 */
#include "vmm/lab/lab.h"

#define COUNT "lock incq 0x30800; "
#define FATAL "split-lock=fatal,split-lock-kill=efault"
#define EXITS "bus-lock=exit"
#define KILL  "bus-lock=kill,split-lock-kill=efault"

#define STORM(name, text, more) \
	LAB_GUEST(lock, name, 64, BOARD_LONG64, "1: " text "; " COUNT "jmp 1b", more)
STORM(add, "lock addl $1, 0x3003e", )
STORM(add_user, "lock addl $1, 0x3003e", board_user(b, 0))
STORM(xchg, "xchg %eax, 0x3003e", )
STORM(cmpxchg, "lock cmpxchg %rcx, 0x3003c", )
STORM(cmpxchg8b, "lock cmpxchg8b 0x3003c", )
STORM(xadd, "lock xadd %eax, 0x3003d", )
STORM(bts, "mov $0x1ff, %ecx; lock bts %ecx, 0x30002", )
STORM(neg, "lock negw 0x3003f", )
STORM(page, "lock addl $1, 0x30ffe", )

/* ---- descriptors: the accessed and busy bits are set with a lock -------------------------------- */

/* A GDT that begins four bytes before a line's end: the descriptor of selector 0x40, at 0x3107c, crosses the next. */
static void move_gdt(struct board *b)
{
	for (u32 i = 0; i < BOARD_GDT_SIZE; i++)
		b->ram[0x3103c + i] = b->ram[BOARD_GDT + i];
	board_sregs(b, 0, s.gdt.base = 0x3103c);
}

STORM(accessed, "movb $0x92, 0x31081; mov $0x40, %eax; mov %eax, %fs",
      board_gdt(b, 0x40, board_desc(0, 0xfffff, 0x92, 0xc));
      move_gdt(b))
STORM(busy, "movb $0x89, 0x31081; mov $0x40, %eax; ltr %ax", move_gdt(b))

/* ---- memory that is not write-back -------------------------------------------------------------- */

static void uncached(struct board *b)
{
	board_put(b, BOARD_PT + 0x50 * 8, 0x50077, 8); /* PCD, PWT: PAT entry 3, UC */
}

STORM(uc, "lock addl $1, 0x50000", uncached(b))
STORM(uc_xchg, "xchg %rax, 0x50008", uncached(b))
STORM(uc_user, "lock incl 0x50010", uncached(b); board_user(b, 0))

static void write_combining(struct board *b)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { .head.nmsrs = 1, .e = { .index = 0x277, .data = 0x0007040100070406 } };

	board_cpu_ioctl(b, 0, KVM_SET_MSRS, &m); /* PAT entry 1: WC */
	board_put(b, BOARD_PT + 0x50 * 8, 0x5006f, 8);
}

STORM(wc, "lock addl $1, 0x50000", write_combining(b))

/* ---- two processors at it ----------------------------------------------------------------------- */

static void setup_pair(struct board *b)
{
	lab_cpu(b, BOARD_LONG64, lab_lock_add);
	lab_cpu(b, BOARD_LONG64, lab_lock_add);
}

static void setup_pair_mixed(struct board *b)
{
	uncached(b);
	lab_cpu(b, BOARD_LONG64, lab_lock_add);
	lab_cpu(b, BOARD_LONG64, lab_lock_uc);
}

#define ROW(name, id, end, options, text)                                                                          \
	{                                                                                                          \
		name, text, END_##end, SIGN_COUNT, options, setup_##id, NULL                                       \
	}
static const struct lab_guest lock[] = {
	ROW("lock-split", add, KILL, FATAL, "split LOCK ADD at CPL 0"),
	ROW("lock-split-user", add_user, KILL, FATAL, "split LOCK ADD at CPL 3"),
	ROW("lock-xchg", xchg, KILL, FATAL, "split XCHG, locked without a prefix"),
	ROW("lock-cmpxchg", cmpxchg, KILL, FATAL, "split CMPXCHG that fails"),
	ROW("lock-cmpxchg8b", cmpxchg8b, BUS_LOCK, EXITS, "split CMPXCHG8B"),
	ROW("lock-xadd", xadd, BUS_LOCK, EXITS, "split XADD"),
	ROW("lock-bts", bts, BUS_LOCK, EXITS, "split LOCK BTS with a register offset"),
	ROW("lock-neg", neg, KILL, KILL, "split 16-bit operand"),
	ROW("lock-page", page, BUS_LOCK, EXITS, "a lock across two pages"),
	ROW("lock-accessed", accessed, BUS_LOCK, EXITS, "the accessed bit of a split descriptor"),
	ROW("lock-busy", busy, KILL, FATAL, "the busy bit of a split TSS descriptor"),
	ROW("lock-uc", uc, BUS_LOCK, EXITS, "a lock on uncacheable memory"),
	ROW("lock-uc-xchg", uc_xchg, KILL, KILL, "XCHG on uncacheable memory"),
	ROW("lock-uc-user", uc_user, BUS_LOCK, EXITS, "a lock on uncacheable memory at CPL 3"),
	ROW("lock-wc", wc, BUS_LOCK, EXITS, "a lock on write-combining memory"),
	ROW("lock-pair", pair, BUS_LOCK, EXITS, "two processors locking the same line"),
	ROW("lock-pair-mixed", pair_mixed, KILL, KILL, "one splitting lines, one locking uncacheable memory"),
};
LAB_FAMILY(lock);
