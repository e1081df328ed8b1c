/* SPDX-License-Identifier: MIT */
/*
 * What containment costs translated code: nothing. The same guest is translated to the same bytes with notify exits,
 * bus-lock counting and records off and on.
 */
#include "jit/jit_priv.h"
#include "kvm/kvm.h"

#include "../guard/vm.h"

/* Arithmetic, calls, memory, locks, vectors, faults and interrupts with handlers, over several pages. */
BOARD_ASM(work, 64,
	  "mov $3000, %r15d; mov $0x30000, %ebx; 1: mov %r15d, %eax; imul $7, %eax, %eax; push %rax; add %eax, (%rbx);"
	  "lock addl $3, 8(%rbx); xchg %rax, 16(%rbx); cvtsi2sd %eax, %xmm1; addsd %xmm1, %xmm0; movsd %xmm0, 32(%rbx);"
	  "pop %rdx; call 2f; lea 3f(%rip), %rax; jmp *%rax; .fill 4100, 1, 0x90; 3: int $0x40; ud2; test $1, %r15b;"
	  "jnz 4f; cmp %rdx, %rax; adc $0, %edx; 4: mov $8, %ecx; 5: rol %cl, %edx; dec %ecx; jnz 5b; "
	  "dec %r15d; jnz 1b; mov $1, %al; out %al, $0xf4; hlt;"
	  "2: xor %edx, %eax; rol $3, %eax; mov %eax, 64(%rbx); ret");
BOARD_ASM(just_return, 64, "iretq");
BOARD_ASM(skip_ud2, 64, "addq $2, (%rsp); iretq");

static struct vcpu *engine_vcpu(int cpu)
{
	struct kvm_file *f = fdtab_get(b.cpu[cpu].fd);
	struct kvm_vcpu *k = f->obj;

	fdtab_put(f);
	return k->v;
}

struct code {
	u8 *bytes;
	u32 len, blocks;
};

static struct code translate(const char *options, bool notify)
{
	struct code c = { 0 };
	struct jit *j;
	int cpu;

	fresh(options);
	if (notify && enable_notify(0, NOTIFY_ON_USER))
		bail_out("KVM_CAP_X86_NOTIFY_VMEXIT");
	cpu = new_cpu(BOARD_LONG64);
	j = engine_vcpu(cpu)->jit;
	if (!j)
		skip_all("the host has not what translated code needs");
	board_code(&b, cpu, work);
	PUT_HANDLER(BOARD_LONG64, 0x40, 0x50000, just_return, 3);
	PUT_HANDLER(BOARD_LONG64, 6, 0x50100, skip_ud2, 0);
	if (board_cpu_ioctl(&b, cpu, KVM_RUN, NULL) || b.cpu[cpu].run->exit_reason != KVM_EXIT_IO)
		bail_out("the guest does not come to its end");
	c.len = j->used;
	c.blocks = j->nblocks;
	c.bytes = malloc(c.len);
	memcpy(c.bytes, j->x.rw, c.len);
	gone();
	return c;
}

static void compare(const struct code *off, const char *options, bool notify, const char *what)
{
	struct code on = translate(options, notify);

	ok(on.len == off->len && on.blocks == off->blocks && !memcmp(on.bytes, off->bytes, on.len),
	   "%s: the same %u bytes in %u blocks", what, on.len, on.blocks);
	for (u32 k = 0; k < on.len && k < off->len; k++)
		if (on.bytes[k] != off->bytes[k]) {
			diag("first difference at %#x", k);
			break;
		}
	free(on.bytes);
}

#define NOTHING "engine=jit,notify-vmexit=monitor,intercepts=linux,bus-lock=off"

int main(void)
{
	struct code off;

	setenv("CASEMENT_HEAT", "2", 1);
	off = translate(NOTHING, false);
	ok(off.blocks > 8, "the guest is translated: %u blocks", off.blocks);
	compare(&off, NOTHING, false, "once more");
	compare(&off, NOTHING, true, "with notify exits");
	compare(&off, "engine=jit,notify-vmexit=run,intercepts=drop", true, "with notify exits for every VM");
	compare(&off, NOTHING ",bus-lock=count", false, "with bus locks counted");
	compare(&off, "engine=jit,bus-lock=off,departures=/dev/null", false, "with records");
	compare(&off, "engine=jit,notify-vmexit=run,intercepts=drop,bus-lock=count,departures=/dev/null", true,
		"with all of it");
	free(off.bytes);
	return done_testing();
}
