/* SPDX-License-Identifier: MIT */
/*
 * Translations that must be gone: after KVM_SET_USER_MEMORY_REGION has returned no vCPU may use the old memory, and
 * after the guest's own shootdown (page-table entry, IPI, INVLPG, acknowledgement) nobody may use the old page,
 * while the memory map changes underneath.
 */
#include "smp.h"

enum { SEEN, TURNS, STOP, ACK, WANT, MISTAKES, READY, COUNT };

/* ---- slots ------------------------------------------------------------------------------------------------ */

#define SLOT_GPA (RAM + 0x200000)
#define ROUNDS 200
#define NO_MEMORY 0xffffffffu

/* Every vCPU reads a word of the slot, tells what it saw, and writes into it. Boxes 16 + n and 32 + n. */
GUEST_BEGIN(use_slot)
	"	mov %edi, %r8d\n"
	"	shl $6, %r8d\n"
	"	mov $" S(SLOT_GPA) ", %r9d\n"
	"	xor %esi, %esi\n"
	"1:	mov (%r9), %eax\n"
	"	inc %esi\n"
	"	mov %esi, 64(%r9,%r8)\n"
	"	mov %eax, " S(BOX) "+16*64(%r8)\n"
	"	mov %esi, " S(BOX) "+32*64(%r8)\n"
	"	cmpl $0, " BOX_AT(2) "\n"
	"	je 1b\n"
	"	out %al, $" S(DONE) "\n"
GUEST_END(use_slot)

static uint64_t nothing_there(uint64_t gpa)
{
	return NO_MEMORY;
}

/* Every vCPU has been through its loop twice since now. */
static bool two_turns(struct smp *s)
{
	for (int i = 0; i < s->n; i++)
		if (!wait_box(s, (unsigned int)(32 + i), *box(s, (unsigned int)(32 + i)) + 2))
			return false;
	return true;
}

static int all_see(struct smp *s, uint32_t val)
{
	int wrong = 0;

	for (int i = 0; i < s->n; i++)
		wrong += *box(s, (unsigned int)(16 + i)) != val;
	return wrong;
}

/* Memory that a vCPU may no longer write. */
static bool is_still(const uint8_t *m, int n)
{
	uint8_t before[64 * CPUS];

	memcpy(before, m + 64, (size_t)n * 64);
	usleep(200);
	return !memcmp(before, m + 64, (size_t)n * 64);
}

static void t_slots(int n)
{
	int wrong = 0, lost = 0, written = 0;
	uint8_t *m[2];
	struct smp s;

	new_smp(&s, n);
	put64(&s, PD + (SLOT_GPA >> 21) * 8, SLOT_GPA | 0x87);
	s.mmio_read = nothing_there;
	load(&s, TEXT, use_slot, use_slot_end);
	for (int i = 0; i < 2; i++)
		m[i] = new_memory(0x1000);
	need(set_slot(s.vm, 1, 0, SLOT_GPA, 0x1000, m[0]), "slot");
	start(&s);
	for (uint32_t i = 1; i <= ROUNDS && !lost; i++) {
		uint8_t *old = m[(i - 1) % 2], *new = m[i % 2];

		need(set_slot(s.vm, 1, 0, SLOT_GPA, 0, old), "delete");
		written += !is_still(old, n);
		if (i % 10 == 0) {
			lost += !two_turns(&s);
			wrong += all_see(&s, NO_MEMORY);
		}
		memcpy(new, &i, 4);
		need(set_slot(s.vm, 1, 0, SLOT_GPA, 0x1000, new), "create");
		lost += !two_turns(&s);
		wrong += all_see(&s, i);
	}
	*box(&s, STOP) = 1;
	join(&s);
	is(s.failed + lost, 0, "%d vCPUs use a slot that goes and comes back %d times", n, ROUNDS);
	is(wrong, 0, "they read what is there");
	is(written, 0, "and write nothing into memory that was taken away");
	for (int i = 0; i < 2; i++)
		munmap(m[i], 0x1000);
	free_smp(&s);
}

/* ---- the guest's own shootdown ------------------------------------------------------------------------------ */

#define TURNS_WANTED 400
#define PAGE_A 0x600000
#define PAGE_B 0x601000
#define VECTOR 0x41

/*
 * vCPU 1 counts in the word that WINDOW maps. vCPU 0 maps another page there, sends the IPI, waits for the
 * acknowledgement, and then the old page must not change any more.
 */
GUEST_BEGIN(shootdown)
	"	mov $0x1b, %ecx\n"
	"	rdmsr\n"
	"	or $0xc00, %eax\n"
	"	wrmsr\n"
	"	mov $0x80f, %ecx\n"
	"	mov $0x1ff, %eax\n"
	"	xor %edx, %edx\n"
	"	wrmsr\n"
	"	mov $" S(WINDOW) ", %r9d\n"
	"	test %edi, %edi\n"
	"	jz 3f\n"
	"	sti\n"
	"	movl $1, " BOX_AT(6) "\n"
	"2:	incl (%r9)\n"
	"	cmpl $0, " BOX_AT(2) "\n"
	"	je 2b\n"
	"	cli\n"
	"	out %al, $" S(DONE) "\n"
	"3:	pause\n"
	"	cmpl $0, " BOX_AT(6) "\n"
	"	je 3b\n"
	"	mov $" S(PAGE_A) ", %r10d\n"
	"	mov $" S(PAGE_B) ", %r11d\n"
	"	mov $1, %esi\n"
	"4:	lea 7(%r11), %rax\n"
	"	mov %rax, " S(PT) "\n"
	"	invlpg (%r9)\n"
	"	mov $0x830, %ecx\n" /* ICR: fixed, vCPU 1 */
	"	mov $" S(VECTOR) ", %eax\n"
	"	mov $1, %edx\n"
	"	wrmsr\n"
	"5:	pause\n"
	"	cmp %esi, " BOX_AT(3) "\n"
	"	jne 5b\n"
	"	mov (%r10), %ebx\n"
	"	mov $2000, %ecx\n"
	"6:	dec %ecx\n"
	"	jnz 6b\n"
	"	cmp %ebx, (%r10)\n"
	"	je 7f\n"
	"	incl " BOX_AT(5) "\n"
	"7:	xchg %r10, %r11\n"
	"	inc %esi\n"
	"	cmp $" S(TURNS_WANTED) ", %esi\n"
	"	jbe 4b\n"
	"	movl $1, " BOX_AT(2) "\n"
	"	out %al, $" S(DONE) "\n"
GUEST_END(shootdown)

GUEST_BEGIN(shootdown_handler)
	"	push %rax\n"
	"	push %rcx\n"
	"	push %rdx\n"
	"	invlpg (%r9)\n"
	"	mov $0x80b, %ecx\n"
	"	xor %eax, %eax\n"
	"	xor %edx, %edx\n"
	"	wrmsr\n"
	"	incl " BOX_AT(3) "\n"
	"	pop %rdx\n"
	"	pop %rcx\n"
	"	pop %rax\n"
	"	iretq\n"
GUEST_END(shootdown_handler)

static void t_shootdown(bool churn)
{
	uint8_t *m = new_memory(0x10000);
	struct smp s;
	int moves = 0;

	new_smp(&s, 2);
	map_window(&s, PAGE_A);
	load(&s, TEXT, shootdown, shootdown_end);
	load(&s, TEXT + 0x1000, shootdown_handler, shootdown_handler_end);
	set_gate(&s, VECTOR, TEXT + 0x1000);
	start(&s);
	while (churn && !*box(&s, STOP) && !s.failed && moves < 20000) {
		need(set_slot(s.vm, 5, 0, SLOT_GPA, 0x10000, m), "create");
		need(set_slot(s.vm, 5, KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA + 0x10000, 0x10000, m), "move");
		need(set_slot(s.vm, 5, 0, SLOT_GPA + 0x10000, 0, m), "delete");
		usleep(100);
		moves++;
	}
	join(&s);
	is(s.failed, 0, "a guest's shootdowns%s: both vCPUs finish", churn ? ", while slots come and go" : "");
	is(*box(&s, ACK), TURNS_WANTED, "every IPI is answered");
	is(*box(&s, MISTAKES), 0, "nobody writes through a translation that was shot down");
	ok(*(volatile uint32_t *)(s.mem + PAGE_A) && *(volatile uint32_t *)(s.mem + PAGE_B), "both pages were used");
	if (churn)
		diag("%d rounds of create, move, delete meanwhile", moves);
	free_smp(&s);
	munmap(m, 0x10000);
}

int main(void)
{
	alarm(110);
	t_slots(1);
	t_slots(3);
	t_shootdown(false);
	t_shootdown(true);
	return done_testing();
}
