/* SPDX-License-Identifier: MIT */
/*
 * Between the client's registers and ours.
 *
 * FS base is changed before anything else is done: our C code finds its thread there. FS base also tells where a
 * handler was called from: if it is ours already, one of our own functions was interrupted. A thread that has no
 * alternate stack is none of the client's.
 */
#include "trap/trap.h"

#include <errno.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm/sys.h"

_Static_assert(offsetof(struct trap_thread, own_fs) == 0 &&
		       offsetof(struct trap_thread, client_fs) == 8 &&
		       offsetof(struct trap_thread, leave) == 16 &&
		       offsetof(struct trap_thread, selector) == 24 &&
		       offsetof(struct trap_thread, nr) == 32 &&
		       offsetof(struct trap_thread, home) == 88 &&
		       offsetof(struct trap_thread, restore) == 96,
	       "offsets below");
_Static_assert(offsetof(struct sigframe, rax) == 152 && offsetof(struct sigframe, fpstate) == 232 &&
		       offsetof(struct sigframe, r8) == 48 &&
		       offsetof(struct sigframe, rflags) == 184 && TRAP_HEADER == 4096,
	       "offsets below");

__asm__(".text\n"
	".globl trap_text, trap_text_end, trap_entry, trap_gate, trap_depart, trap_home, "
	"trap_start\n"
	".globl trap_gate_open, trap_gate_call, trap_gate_ret, trap_leave_end\n"
	".hidden trap_text, trap_text_end, trap_entry, trap_gate, trap_depart, trap_home, "
	"trap_start\n"
	".hidden trap_gate_open, trap_gate_call, trap_gate_ret, trap_leave_end\n"
	".globl trap_sys_entry, trap_sys_call, trap_sys_ret, trap_sys_popf, trap_sys_jmp, "
	"trap_sys_end\n"
	".hidden trap_sys_entry, trap_sys_call, trap_sys_ret, trap_sys_popf, trap_sys_jmp, "
	"trap_sys_end\n"
	".globl trap_sys_calling, trap_sys_back\n"
	".hidden trap_sys_calling, trap_sys_back\n"
	".balign 64\n"
	"trap_text:\n"
	/* SIGSYS, with all signals as they were; rsp stays the frame's address as long as the frame counts */
	".type trap_sys_entry, @function\n"
	"trap_sys_entry:\n"
	"	cmpl $2, 8(%rsi)\n" /* si_code: SYS_USER_DISPATCH */
	"	jne 2f\n"
	"	cmpl $0xc000003e, 28(%rsi)\n" /* si_arch: AUDIT_ARCH_X86_64 */
	"	jne 1f\n"
	"	mov 152(%rsp), %rax\n"
	"	cmp $512, %rax\n"
	"	jae 1f\n"
	"	lea trap_ours(%rip), %rcx\n"
	"	bt %rax, (%rcx)\n"
	"	jc 1f\n"
	"	mov 112(%rsp), %rdi\n"
	"	mov 120(%rsp), %rsi\n"
	"	mov 144(%rsp), %rdx\n"
	"	mov 64(%rsp), %r10\n"
	"	mov 48(%rsp), %r8\n"
	"	mov 56(%rsp), %r9\n"
	"trap_sys_call:\n"
	"	syscall\n"
	"trap_sys_ret:\n"
	"	mov %rax, 152(%rsp)\n"
	"trap_sys_fp:\n"
	"	mov 232(%rsp), %rcx\n" /* vector state: the kernel gave the handler a new one */
	"	mov 472(%rcx), %eax\n"
	"	mov 476(%rcx), %edx\n"
	"	xrstor64 (%rcx)\n"
	"	mov 136(%rsp), %rbx\n"
	"	mov 128(%rsp), %rbp\n"
	"	mov 112(%rsp), %rdi\n"
	"	mov 120(%rsp), %rsi\n"
	"	mov 144(%rsp), %rdx\n"
	"	mov 48(%rsp), %r8\n"
	"	mov 56(%rsp), %r9\n"
	"	mov 64(%rsp), %r10\n"
	"	mov 80(%rsp), %r12\n"
	"	mov 88(%rsp), %r13\n"
	"	mov 96(%rsp), %r14\n"
	"	mov 104(%rsp), %r15\n"
	"	mov 152(%rsp), %rax\n"
	"	mov 176(%rsp), %rcx\n" /* as the syscall instruction leaves rip and rflags */
	"	mov 184(%rsp), %r11\n"
	"	pushq 184(%rsp)\n"
	"trap_sys_popf:\n"
	"	popfq\n"
	"	mov 168(%rsp), %rsp\n"
	"trap_sys_jmp:\n"
	"	jmp *%rcx\n"
	/* one of ours: C, on this frame; signals find it there and are put off */
	"1:	mov 24(%rsp), %rbx\n" /* uc_stack.ss_sp */
	"	sub $4096, %rbx\n"
	"	movq $0, 96(%rbx)\n"
	"	rdfsbase %rax\n"
	"	mov %rax, 8(%rbx)\n"
	"	movb $0, 24(%rbx)\n"
	"	mov 0(%rbx), %rax\n"
	"	wrfsbase %rax\n"
	"	mov %rbx, %rdi\n"
	"	mov %rsp, %rsi\n"
	"	sub $8, %rsp\n"
	"trap_sys_calling:\n"
	"	call trap_syscall\n"
	"	mov %rax, %rbp\n"
	"	mov %rax, 16(%rbx)\n"
	"	add $8, %rsp\n"
	"	cmp %rsp, %rax\n"
	"	jne trap_leave\n"
	"trap_sys_back:\n" /* the same frame, and nothing that takes rt_sigreturn() */
	"	cmpq $0, 96(%rbx)\n"
	"	jne trap_leave\n"
	"	mov 8(%rbx), %rax\n"
	"	wrfsbase %rax\n"
	"	movb $1, 24(%rbx)\n"
	"	jmp trap_sys_fp\n"
	/* not a trapped call: everything blocked, then as any signal */
	"2:	mov %rdi, %r12\n"
	"	mov %rsi, %r13\n"
	"	mov %rdx, %r14\n"
	"	mov $14, %eax\n" /* rt_sigprocmask(SIG_BLOCK, mask, NULL, 8) */
	"	xor %edi, %edi\n"
	"	lea trap_all(%rip), %rsi\n"
	"	xor %edx, %edx\n"
	"	mov $8, %r10d\n"
	"	syscall\n"
	"trap_sys_end:\n"
	"	mov %r12, %rdi\n"
	"	mov %r13, %rsi\n"
	"	mov %r14, %rdx\n"
	"	jmp trap_entry\n"
	".size trap_sys_entry, . - trap_sys_entry\n"
	/* edi signal, rsi siginfo, rdx ucontext; rsp struct sigframe */
	".type trap_entry, @function\n"
	"trap_entry:\n"
	"	mov 16(%rdx), %rbx\n" /* uc_stack.ss_sp */
	"	mov %rsp, %rbp\n"
	"	and $-16, %rsp\n"
	"	test %rbx, %rbx\n"
	"	jz 2f\n"
	"	sub $4096, %rbx\n"
	"	mov %edi, %esi\n"
	"	mov %rbx, %rdi\n"
	"	mov %rbp, %rdx\n"
	"	rdfsbase %rax\n"
	"	cmp 0(%rbx), %rax\n"
	"	je 1f\n"
	"	movb $0, 24(%rbx)\n"
	"	mov %rax, 8(%rbx)\n"
	"	mov 0(%rbx), %rax\n"
	"	wrfsbase %rax\n"
	"	call trap_handle\n"
	"	mov %rax, %rbp\n"
	"	mov %rax, 16(%rbx)\n"
	"	jmp trap_leave\n"
	"1:	call trap_nested\n"
	"	test %rax, %rax\n"
	"	jz 3f\n"
	"	mov %rax, %rbp\n"
	"	mov %rax, 16(%rbx)\n"
	"	jmp trap_leave\n"
	"2:	call trap_plain\n"
	"3:	lea 8(%rbp), %rsp\n"
	"	mov $15, %eax\n"
	"	syscall\n"
	".size trap_entry, . - trap_entry\n"
	/* rdi thread, rsi frame, rdx mask */
	".type trap_gate, @function\n"
	"trap_gate:\n"
	"	mov %rdi, %rbx\n"
	"	mov %rsi, %rbp\n"
	"	mov %rsi, 16(%rbx)\n"
	"trap_gate_open:\n"
	"	cmpq $0, 96(%rbx)\n"
	"	je 1f\n"
	"	mov $14, %eax\n" /* rt_sigprocmask(SIG_SETMASK, mask, NULL, 8) */
	"	mov $2, %edi\n"
	"	mov %rdx, %rsi\n"
	"	xor %edx, %edx\n"
	"	mov $8, %r10d\n"
	"	syscall\n"
	"1:	mov 32(%rbx), %rax\n"
	"	mov 40(%rbx), %rdi\n"
	"	mov 48(%rbx), %rsi\n"
	"	mov 56(%rbx), %rdx\n"
	"	mov 64(%rbx), %r10\n"
	"	mov 72(%rbx), %r8\n"
	"	mov 80(%rbx), %r9\n"
	"trap_gate_call:\n"
	"	syscall\n"
	"trap_gate_ret:\n"
	"	mov %rax, 152(%rbp)\n"
	"	mov %rbp, %rsp\n"
	"	jmp trap_sys_back\n"
	/* rbx thread, rbp frame: FS first, so that FS is ours only while the selector lets our calls through */
	"trap_leave:\n"
	"	mov 8(%rbx), %rax\n"
	"	wrfsbase %rax\n"
	"	movb $1, 24(%rbx)\n"
	"	lea 8(%rbp), %rsp\n"
	"	mov $15, %eax\n"
	"	syscall\n"
	"trap_leave_end:\n"
	"	ud2\n"
	".size trap_gate, . - trap_gate\n"
	/* rdi thread, rsi frame */
	".type trap_depart, @function\n"
	"trap_depart:\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	mov %rsp, 88(%rdi)\n"
	"	mov %rdi, %rbx\n"
	"	mov %rsi, %rbp\n"
	"	mov %rsi, 16(%rdi)\n"
	"	jmp trap_leave\n"
	".type trap_home, @function\n"
	"trap_home:\n"
	"	mov 88(%rdi), %rsp\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbp\n"
	"	pop %rbx\n"
	"	ret\n"
	/* rdi thread, rsi stack, rdx first instruction */
	".type trap_start, @function\n"
	"trap_start:\n"
	"	mov %rsi, %rsp\n"
	"	mov %rdx, -8(%rsp)\n"
	"	xor %eax, %eax\n"
	"	wrfsbase %rax\n"
	"	movb $1, 24(%rdi)\n"
	"	xor %ebx, %ebx\n"
	"	xor %ecx, %ecx\n"
	"	xor %edx, %edx\n"
	"	xor %esi, %esi\n"
	"	xor %edi, %edi\n"
	"	xor %ebp, %ebp\n"
	"	xor %r8d, %r8d\n"
	"	xor %r9d, %r9d\n"
	"	xor %r10d, %r10d\n"
	"	xor %r11d, %r11d\n"
	"	xor %r12d, %r12d\n"
	"	xor %r13d, %r13d\n"
	"	xor %r14d, %r14d\n"
	"	xor %r15d, %r15d\n"
	"	jmp *-8(%rsp)\n"
	"trap_text_end:\n");

const u64 trap_all = ~TRAP_FAULTS;

struct trap_thread *trap_alloc(void)
{
	return sys_mmap(NULL, TRAP_REGION, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
}

void trap_free(struct trap_thread *t)
{
	sys_munmap(t, TRAP_REGION);
}

int trap_dispatch(struct trap_thread *t)
{
	__asm__ volatile("rdfsbase %0" : "=r"(t->own_fs));
	return (int)sys_call(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, trap_text,
			     trap_text_end - trap_text, &t->selector);
}

struct trap_stack trap_kernel_stack(const struct trap_thread *t)
{
	return (struct trap_stack){ .sp = (u64)t + TRAP_HEADER, .size = TRAP_REGION - TRAP_HEADER };
}

int trap_arm(struct trap_thread *t)
{
	struct trap_stack s = trap_kernel_stack(t);

	return (int)sys_call(SYS_sigaltstack, &s, NULL) ?: trap_dispatch(t);
}

struct sigframe *trap_copy_frame(struct trap_thread *t, const struct sigframe *f)
{
	u64 size = trap_fpsize(f->fpstate), fp = ((u64)t + TRAP_REGION - size) & ~63ull;
	struct sigframe *to = (struct sigframe *)(((fp - sizeof(*to)) & ~15ull) - 8);

	*to = *f;
	if (size) {
		memcpy((void *)fp, (const void *)f->fpstate, size);
		to->fpstate = fp;
	}
	to->stack = trap_kernel_stack(t);
	return to;
}
