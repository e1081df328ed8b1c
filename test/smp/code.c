/* SPDX-License-Identifier: MIT */
/*
 * Code rewritten by somebody else: by another thread of the VMM while the vCPU is out, or while it runs and an
 * interrupt follows; by another vCPU, with the protocol that the manual asks for.
 */
#include <fcntl.h>

#include "smp.h"

enum { RESULT, IRQS, LAST, STOP, SEQ, BAD_SEEN };
#define VECTOR 0x40

/* mov $val,%eax; ret — or the same by another road */
static size_t make_func(uint8_t *out, uint32_t val, bool other)
{
	static const uint8_t head[2][3] = { { 0xb8 }, { 0x31, 0xc0, 0x05 } };
	size_t n = other ? 3 : 1;

	memcpy(out, head[other], n);
	memcpy(out + n, &val, 4);
	out[n + 4] = 0xc3;
	return n + 5;
}

/* ---- the device thread ------------------------------------------------------------------------------------ */

enum how { BY_MEMCPY, BY_PREAD, BY_KERNEL_PIPE };

struct device {
	struct smp *s;
	enum how how;
	uint32_t val;
	bool other;
};

static void device_write(const struct device *d)
{
	uint8_t code[16], *to = d->s->mem + FUNC;
	size_t n = make_func(code, d->val, d->other);
	FILE *f;
	int p[2];

	switch (d->how) {
	case BY_MEMCPY:
		memcpy(to, code, n);
		break;
	case BY_PREAD:
		f = tmpfile();
		need(f ? 0 : -1, "tmpfile");
		need(write(fileno(f), code, n), "write");
		need(pread(fileno(f), to, n, 0), "pread into guest memory");
		fclose(f);
		break;
	case BY_KERNEL_PIPE:
		need(pipe(p), "pipe");
		need(write(p[1], code, n), "write");
		need(read(p[0], to, n), "read into guest memory");
		close(p[0]);
		close(p[1]);
		break;
	}
}

static void *device_thread(void *arg)
{
	device_write(arg);
	return NULL;
}

static void rewrite(struct smp *s, enum how how, uint32_t val, bool other)
{
	struct device d = { s, how, val, other };
	pthread_t t;

	pthread_create(&t, NULL, device_thread, &d);
	pthread_join(t, NULL);
}

/* Call the function 100 times, so that it is decoded and linked, then ask for the next one. */
GUEST_BEGIN(call_loop)
	"1:	mov $100, %ecx\n"
	"2:	mov $" S(FUNC) ", %ebx\n"
	"	call *%rbx\n"
	"	dec %ecx\n"
	"	jnz 2b\n"
	"	mov %eax, " BOX_AT(0) "\n"
	"	out %al, $" S(DONE) "\n"
	"	jmp 1b\n"
GUEST_END(call_loop)

static void t_between_runs(void)
{
	struct smp s;
	int wrong = 0;

	new_smp(&s, 1);
	load(&s, TEXT, call_loop, call_loop_end);
	for (uint32_t i = 1; i <= 300; i++) {
		rewrite(&s, (enum how)(i % 3), i, i / 3 % 2);
		run_vcpu(&s, 0);
		wrong += *box(&s, RESULT) != i;
	}
	is(s.failed, 0, "the guest runs");
	is(wrong, 0, "300 times rewritten by another thread while the vCPU is out: KVM_RUN runs the new code");
	free_smp(&s);
}

/* ---- while the vCPU runs, then an interrupt ------------------------------------------------------------------ */

GUEST_BEGIN(irq_loop)
	"	mov $0x1b, %ecx\n" /* x2APIC mode, enabled */
	"	rdmsr\n"
	"	or $0xc00, %eax\n"
	"	wrmsr\n"
	"	mov $0x80f, %ecx\n"
	"	mov $0x1ff, %eax\n"
	"	xor %edx, %edx\n"
	"	wrmsr\n"
	"	sti\n"
	"	movl $1, " BOX_AT(4) "\n"
	"1:	mov $" S(FUNC) ", %ebx\n"
	"	call *%rbx\n"
	"	mov %eax, " BOX_AT(2) "\n"
	"	cmpl $0, " BOX_AT(3) "\n"
	"	je 1b\n"
	"	cli\n"
	"	out %al, $" S(DONE) "\n"
GUEST_END(irq_loop)

GUEST_BEGIN(irq_handler)
	"	push %rax\n"
	"	push %rbx\n"
	"	push %rcx\n"
	"	push %rdx\n"
	"	mov $" S(FUNC) ", %ebx\n"
	"	call *%rbx\n"
	"	mov %eax, " BOX_AT(0) "\n"
	"	mov $0x80b, %ecx\n" /* EOI */
	"	xor %eax, %eax\n"
	"	xor %edx, %edx\n"
	"	wrmsr\n"
	"	lock incl " BOX_AT(1) "\n"
	"	pop %rdx\n"
	"	pop %rcx\n"
	"	pop %rbx\n"
	"	pop %rax\n"
	"	iretq\n"
GUEST_END(irq_handler)

/*
 * Rewritten 300 times, each time with an MSI behind it and, if announced, a number in box SEQ. Only the immediate
 * changes: the guest goes on executing it meanwhile. Its answers come in box IRQS. Return: how many never came.
 */
static int rewrite_often(struct smp *s, bool announced, int *wrong)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = VECTOR };
	int lost = 0;

	*wrong = 0;
	for (uint32_t i = 1; i <= 300 && !lost; i++) {
		rewrite(s, (enum how)(i % 3), i, false);
		call(s->vm, KVM_SIGNAL_MSI, &msi);
		if (announced)
			__atomic_store_n(box(s, SEQ), i, __ATOMIC_SEQ_CST);
		lost += !wait_box(s, IRQS, i);
		*wrong += *box(s, RESULT) != i;
	}
	*box(s, STOP) = 1;
	join(s);
	return lost;
}

static void t_then_interrupt(void)
{
	struct smp s;
	int wrong, lost;

	new_smp(&s, 1);
	load(&s, TEXT, irq_loop, irq_loop_end);
	load(&s, TEXT + 0x1000, irq_handler, irq_handler_end);
	set_gate(&s, VECTOR, TEXT + 0x1000);
	rewrite(&s, BY_MEMCPY, 0, false);
	start(&s);
	ok(wait_box(&s, SEQ, 1), "the guest runs its loop");
	lost = rewrite_often(&s, false, &wrong);
	is(s.failed + lost, 0, "no interrupt is lost");
	is(wrong, 0, "300 times rewritten while it runs: after an interrupt the new code runs");
	is(*box(&s, LAST), 300, "in the interrupted loop too");
	free_smp(&s);
}

/* ---- while it polls with interrupts off, then a serializing instruction ----------------------------------------- */

GUEST_BEGIN(poll_loop)
	"	mov $1, %esi\n"
	"1:	mov $" S(FUNC) ", %ebx\n"
	"	call *%rbx\n"
	"	mov %eax, " BOX_AT(2) "\n"
	"	cmpl $0, " BOX_AT(3) "\n"
	"	jne 2f\n"
	"	cmp %esi, " BOX_AT(4) "\n"
	"	jne 1b\n"
	"	xor %eax, %eax\n"
	"	cpuid\n"
	"	mov $" S(FUNC) ", %ebx\n"
	"	call *%rbx\n"
	"	mov %eax, " BOX_AT(0) "\n"
	"	mov %esi, " BOX_AT(1) "\n"
	"	inc %esi\n"
	"	jmp 1b\n"
	"2:	out %al, $" S(DONE) "\n"
GUEST_END(poll_loop)

static void t_then_serialize(void)
{
	struct smp s;
	int wrong, lost;

	new_smp(&s, 1);
	load(&s, TEXT, poll_loop, poll_loop_end);
	rewrite(&s, BY_MEMCPY, 0, false);
	start(&s);
	lost = rewrite_often(&s, true, &wrong);	/* with interrupts off the MSI stays pending */
	is(s.failed + lost, 0, "the guest answers each time");
	is(wrong, 0, "300 times rewritten while it polls: after a serializing instruction the new code runs");
	free_smp(&s);
}

/* ---- another vCPU ------------------------------------------------------------------------------------------------ */

#define ROUNDS 3000

/*
 * [SDM3A "Handling Self- and Cross-Modifying Code"]: vCPU 0 stores the code, then a flag; vCPU 1 waits for the
 * flag, executes a serializing instruction, and then the code. Boxes: 4 the flag, 1 its answer, 0 the result.
 */
GUEST_BEGIN(cross_modify)
	"	mov $1, %esi\n"
	"	test %edi, %edi\n"
	"	jnz 3f\n"
	"1:	mov %esi, " S(FUNC) "+1\n"
	"	mov %esi, " BOX_AT(4) "\n"
	"2:	pause\n"
	"	cmp %esi, " BOX_AT(1) "\n"
	"	jne 2b\n"
	"	cmp %esi, " BOX_AT(0) "\n"
	"	je 5f\n"
	"	incl " BOX_AT(5) "\n"
	"5:	inc %esi\n"
	"	cmp $" S(ROUNDS) ", %esi\n"
	"	jbe 1b\n"
	"	out %al, $" S(DONE) "\n"
	"3:	pause\n"
	"	cmp %esi, " BOX_AT(4) "\n"
	"	jne 3b\n"
	"	xor %eax, %eax\n"
	"	cpuid\n"
	"	mov $" S(FUNC) ", %ebx\n"
	"	call *%rbx\n"
	"	mov %eax, " BOX_AT(0) "\n"
	"	mov %esi, " BOX_AT(1) "\n"
	"	inc %esi\n"
	"	cmp $" S(ROUNDS) ", %esi\n"
	"	jbe 3b\n"
	"	out %al, $" S(DONE) "\n"
GUEST_END(cross_modify)

static void t_cross_modifying(void)
{
	struct smp s;

	new_smp(&s, 2);
	load(&s, TEXT, cross_modify, cross_modify_end);
	rewrite(&s, BY_MEMCPY, 0, false);
	start(&s);
	join(&s);
	is(s.failed, 0, "both vCPUs finish");
	is(*box(&s, IRQS), ROUNDS, "%d rounds", ROUNDS);
	is(*box(&s, BAD_SEEN), 0, "code modified by another vCPU is executed as modified");
	free_smp(&s);
}

int main(void)
{
	alarm(100);
	t_between_runs();
	t_then_interrupt();
	t_then_serialize();
	t_cross_modifying();
	return done_testing();
}
