/* SPDX-License-Identifier: MIT */
/*
 * Memory order: the litmus tests that tell a strong machine from a weak one, and LOCK. [SDM3A "Memory Ordering in
 * P6 and More Recent Processor Families"]
 *
 * Round i has its variables on lines of its own and its answers in an array; the vCPUs meet at a barrier every 128
 * rounds and are free in between. What x86 allows is counted and shown, what it forbids must not appear.
 */
#include "smp.h"

#define ROUNDS 8192
#define VAR_X ARRAYS			/* 64 bytes a round: x, then y in the other array */
#define VAR_Y (ARRAYS + 0x100000)
#define ANSWERS (ARRAYS + 0x200000)	/* 16 bytes a round: r1 .. r4 */
#define COUNTER BOX_AT(0)
#define TOTAL BOX_AT(1)

/*
 * vCPU edi runs round esi = 0 .. ROUNDS-1; r8 = x, r9 = y, r10 = answers of the round. Box 0 counts arrivals, box 2
 * is what they add up to at the present barrier for n vCPUs (box 3).
 */
#define LITMUS(name, body)                                       \
	GUEST_BEGIN(name)                                        \
	"	xor %esi, %esi\n"                                \
	"	xor %r11d, %r11d\n"                              \
	"1:	test $127, %esi\n"                               \
	"	jnz 3f\n"                                        \
	"	add " BOX_AT(3) ", %r11d\n"                      \
	"	lock incl " BOX_AT(0) "\n"                       \
	"2:	pause\n"                                         \
	"	cmp %r11d, " BOX_AT(0) "\n"                      \
	"	jb 2b\n"                                         \
	"3:	mov %esi, %r8d\n"                                \
	"	shl $6, %r8d\n"                                  \
	"	lea " S(VAR_Y) "(%r8), %r9\n"                    \
	"	lea " S(VAR_X) "(%r8), %r8\n"                    \
	"	mov %esi, %r10d\n"                               \
	"	shl $4, %r10d\n"                                 \
	"	add $" S(ANSWERS) ", %r10\n"                     \
	body                                                     \
	"9:	inc %esi\n"                                      \
	"	cmp $" S(ROUNDS) ", %esi\n"                      \
	"	jb 1b\n"                                         \
	"	out %al, $" S(DONE) "\n"                         \
	GUEST_END(name)

/* Jump to the vCPU's part: 10 to 13, each ending with jmp 9f. */
#define PARTS2 "	test %edi, %edi\n	jnz 11f\n"
#define PARTS4 "	cmp $1, %edi\n	jb 10f\n	je 11f\n	cmp $2, %edi\n	je 12f\n	jmp 13f\n10:\n"

/* SB: store one, load the other. Both may find 0, unless something orders store and load. */
#define SB(fence)                                                                                    \
	PARTS2 "	movl $1, (%r8)\n" fence "	mov (%r9), %eax\n	mov %eax, (%r10)\n	jmp 9f\n" \
	"11:	movl $1, (%r9)\n" fence "	mov (%r8), %eax\n	mov %eax, 4(%r10)\n"
LITMUS(sb_plain, SB(""))
LITMUS(sb_mfence, SB("	mfence\n"))
LITMUS(sb_locked, SB("	lock addl $0, (%rsp)\n"))
LITMUS(sb_xchg, PARTS2 "	mov $1, %eax\n	xchg %eax, (%r8)\n	mov (%r9), %eax\n"
	"	mov %eax, (%r10)\n	jmp 9f\n"
	"11:	mov $1, %eax\n	xchg %eax, (%r9)\n	mov (%r8), %eax\n	mov %eax, 4(%r10)\n")

/* MP: data, then flag; whoever sees the flag sees the data. */
LITMUS(mp, PARTS2 "	movl $1, (%r8)\n	movl $1, (%r9)\n	jmp 9f\n"
	"11:	mov (%r9), %eax\n	mov (%r8), %ebx\n	mov %eax, (%r10)\n	mov %ebx, 4(%r10)\n")

/* LB: load one, store the other: not both find 1. */
LITMUS(lb, PARTS2 "	mov (%r8), %eax\n	movl $1, (%r9)\n	mov %eax, (%r10)\n	jmp 9f\n"
	"11:	mov (%r9), %eax\n	movl $1, (%r8)\n	mov %eax, 4(%r10)\n")

/* IRIW: two writers, two readers, who may not disagree about the order. */
LITMUS(iriw, PARTS4 "	movl $1, (%r8)\n	jmp 9f\n"
	"11:	movl $1, (%r9)\n	jmp 9f\n"
	"12:	mov (%r8), %eax\n	mov (%r9), %ebx\n	mov %eax, (%r10)\n"
	"	mov %ebx, 4(%r10)\n	jmp 9f\n"
	"13:	mov (%r9), %eax\n	mov (%r8), %ebx\n	mov %eax, 8(%r10)\n	mov %ebx, 12(%r10)\n")

static const uint32_t *answer(const struct smp *s, unsigned int round)
{
	return (const uint32_t *)(s->mem + ANSWERS + round * 16);
}

static bool both_0(const uint32_t *r) { return !r[0] && !r[1]; }
static bool flag_without_data(const uint32_t *r) { return r[0] && !r[1]; }
static bool both_1(const uint32_t *r) { return r[0] && r[1]; }
static bool disagree(const uint32_t *r) { return r[0] && !r[1] && r[2] && !r[3]; }

static unsigned int count(const struct smp *s, bool (*match)(const uint32_t *))
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < ROUNDS; i++)
		n += match(answer(s, i));
	return n;
}

static void litmus(const char *name, int n, const uint8_t *begin, const uint8_t *end,
		   bool (*match)(const uint32_t *), bool allowed)
{
	struct smp s;
	unsigned int hits;

	new_smp(&s, n);
	load(&s, TEXT, begin, end);
	*box(&s, 3) = (uint32_t)n;
	start(&s);
	join(&s);
	is(s.failed, 0, "%s: %d vCPUs finish", name, n);
	hits = count(&s, match);
	if (allowed)
		diag("%s: seen %u times in %u rounds, which is allowed", name, hits, ROUNDS);
	else
		is(hits, 0, "%s: never in %u rounds", name, ROUNDS);
	free_smp(&s);
}

#define RUN(name, n, code, match, allowed) litmus(name, n, code, code##_end, match, allowed)

/* ---- LOCK ------------------------------------------------------------------------------------------- */

#define ADDS 5000
#define SPLITS 200

/* Every vCPU adds to the same places in every way there is. Boxes 8 to 13 in one array; box 14 by a ticket lock. */
GUEST_BEGIN(locked)
	"	mov $" S(ADDS) ", %esi\n"
	"1:	lock incl " BOX_AT(8) "\n"
	"	mov $1, %eax\n"
	"	lock xadd %eax, " BOX_AT(9) "\n"
	"	lock addq $1, " BOX_AT(10) "\n"
	"2:	mov " BOX_AT(11) ", %eax\n"
	"	lea 1(%rax), %edx\n"
	"	lock cmpxchg %edx, " BOX_AT(11) "\n"
	"	jne 2b\n"
	"3:	mov " BOX_AT(12) ", %eax\n"
	"	mov " BOX_AT(12) "+4, %edx\n"
	"	mov %eax, %ebx\n"
	"	mov %edx, %ecx\n"
	"	add $1, %ebx\n"
	"	adc $0, %ecx\n"
	"	lock cmpxchg8b " BOX_AT(12) "\n"
	"	jne 3b\n"
	"	mov $1, %eax\n" /* a spinlock: the data it guards is not locked itself */
	"4:	xchg %eax, " BOX_AT(13) "\n"
	"	test %eax, %eax\n"
	"	jz 5f\n"
	"	pause\n"
	"	jmp 4b\n"
	"5:	incl " BOX_AT(14) "\n"
	"	movl $0, " BOX_AT(13) "\n"
	"	dec %esi\n"
	"	jnz 1b\n"
	"	mov $" S(SPLITS) ", %esi\n"
	"6:	lock incl " BOX_AT(17) "-2\n" /* crosses a line */
	"	lock incw " BOX_AT(17) "-2\n" /* within one */
	"	dec %esi\n"
	"	jnz 6b\n"
	"	out %al, $" S(DONE) "\n"
GUEST_END(locked)

static void t_locked(int n)
{
	uint32_t want = (uint32_t)n * ADDS, split = 0;
	struct smp s;

	new_smp(&s, n);
	load(&s, TEXT, locked, locked_end);
	start(&s);
	join(&s);
	is(s.failed, 0, "LOCK: %d vCPUs finish", n);
	is(*box(&s, 8), want, "LOCK INC");
	is(*box(&s, 9), want, "LOCK XADD");
	is(*box(&s, 10), want, "LOCK ADD");
	is(*box(&s, 11), want, "LOCK CMPXCHG");
	is(*box(&s, 12), want, "LOCK CMPXCHG8B");
	is(*box(&s, 14), want, "what an XCHG spinlock guards");
	memcpy(&split, (const uint8_t *)box(&s, 17) - 2, 4);
	is(split, (uint32_t)n * SPLITS * 2, "LOCK INC across two lines, beside one within a line");
	free_smp(&s);
}

int main(void)
{
	alarm(110);
	RUN("SB", 2, sb_plain, both_0, true);
	RUN("SB, MFENCE", 2, sb_mfence, both_0, false);
	RUN("SB, LOCK ADD between", 2, sb_locked, both_0, false);
	RUN("SB, XCHG", 2, sb_xchg, both_0, false);
	RUN("MP", 2, mp, flag_without_data, false);
	RUN("LB", 2, lb, both_1, false);
	RUN("IRIW", 4, iriw, disagree, false);
	t_locked(2);
	t_locked(4);
	return done_testing();
}
