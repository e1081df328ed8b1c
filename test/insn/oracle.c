/* SPDX-License-Identifier: MIT */
#include "oracle.h"

#include <asm/prctl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

struct istate oracle_state __attribute__((visibility("hidden")));
uint64_t oracle_rsp __attribute__((visibility("hidden")));
uint64_t oracle_slot __attribute__((visibility("hidden")));
bool (*oracle_other_signal)(int sig, void *info, void *uctx);
static volatile int fault;

_Static_assert(offsetof(struct istate, flags) == 128, "known to the assembly below");
_Static_assert(offsetof(struct istate, fx) == 144, "known to the assembly below");
_Static_assert(offsetof(struct istate, ymm) == 656, "known to the assembly below");

void oracle_enter(void);
void oracle_done(void);

#define YMM_LOOP(op) ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n" op "\n.endr\n"

__asm__(".pushsection .text\n"
	".globl vec_load\n"
	"vec_load:\n"
	"	fxrstor64 144(%rdi)\n"
	YMM_LOOP("vmovdqu 656+32*\\n(%rdi), %ymm\\n")
	"	ret\n"
	".globl vec_save\n"
	"vec_save:\n"
	YMM_LOOP("vmovdqu %ymm\\n, 656+32*\\n(%rdi)")
	"	fxsave64 144(%rdi)\n"
	"	ret\n"
	".globl oracle_enter\n"
	"oracle_enter:\n"
	"	push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"	mov %rsp, oracle_rsp(%rip)\n"
	"	lea oracle_state(%rip), %rdi\n"
	"	call vec_load\n"
	"	pushq 128(%rdi)\n"
	"	popfq\n"
	"	mov 0(%rdi), %rax\n mov 8(%rdi), %rcx\n mov 16(%rdi), %rdx\n mov 24(%rdi), %rbx\n"
	"	mov 32(%rdi), %rsp\n mov 40(%rdi), %rbp\n mov 48(%rdi), %rsi\n"
	"	mov 64(%rdi), %r8\n mov 72(%rdi), %r9\n mov 80(%rdi), %r10\n mov 88(%rdi), %r11\n"
	"	mov 96(%rdi), %r12\n mov 104(%rdi), %r13\n mov 112(%rdi), %r14\n mov 120(%rdi), %r15\n"
	"	mov 56(%rdi), %rdi\n"
	"	jmp *oracle_slot(%rip)\n"
	".globl oracle_done\n"
	"oracle_done:\n"
	"	mov %rdi, oracle_state+56(%rip)\n"
	"	lea oracle_state(%rip), %rdi\n"
	"	mov %rax, 0(%rdi)\n mov %rcx, 8(%rdi)\n mov %rdx, 16(%rdi)\n mov %rbx, 24(%rdi)\n"
	"	mov %rsp, 32(%rdi)\n mov %rbp, 40(%rdi)\n mov %rsi, 48(%rdi)\n"
	"	mov %r8, 64(%rdi)\n mov %r9, 72(%rdi)\n mov %r10, 80(%rdi)\n mov %r11, 88(%rdi)\n"
	"	mov %r12, 96(%rdi)\n mov %r13, 104(%rdi)\n mov %r14, 112(%rdi)\n mov %r15, 120(%rdi)\n"
	"	mov oracle_rsp(%rip), %rsp\n"
	"	pushfq\n"
	"	popq 128(%rdi)\n"
	"	cld\n"
	"	call vec_save\n"
	"	fninit\n"
	"	pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
	"	ret\n"
	".popsection\n");

static void on_signal(int sig, siginfo_t *info, void *uctx)
{
	greg_t *r = ((ucontext_t *)uctx)->uc_mcontext.gregs;

	if ((uint64_t)r[REG_RIP] >= SLOT && (uint64_t)r[REG_RIP] < SLOT + 4096) {
		fault = (int)r[REG_TRAPNO];
		r[REG_RIP] = (greg_t)oracle_done;
		return;
	}
	if (oracle_other_signal && oracle_other_signal(sig, info, uctx))
		return;
	signal(sig, SIG_DFL);
}

bool oracle_init(void)
{
	static const int sigs[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	static uint8_t stack[65536];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_sigaction = on_signal,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	if (mmap((void *)ARENA, ARENA_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)ARENA)
		return false;
	if (mmap((void *)SLOT, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)SLOT)
		return false;
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE))
		return false;
	sigaltstack(&ss, NULL);
	for (unsigned int k = 0; k < sizeof(sigs) / sizeof(sigs[0]); k++)
		sigaction(sigs[k], &sa, NULL);
	return true;
}

int oracle_run(const uint8_t *bytes, unsigned int len, unsigned int off, struct istate *s)
{
	uint8_t *slot = (uint8_t *)SLOT + off;
	uint64_t back = (uint64_t)oracle_done;
	static const uint8_t jmp[6] = { 0xff, 0x25, 0, 0, 0, 0 }; /* jmp [rip] */

	memcpy(slot, bytes, len);
	memcpy(slot + len, jmp, sizeof(jmp));
	memcpy(slot + len + sizeof(jmp), &back, sizeof(back));
	oracle_state = *s;
	oracle_slot = (uint64_t)slot;
	fault = -1;
	oracle_enter();
	*s = oracle_state;
	return fault;
}
