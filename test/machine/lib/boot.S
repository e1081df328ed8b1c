/* SPDX-License-Identifier: MIT */
/*
 * From the multiboot loader's 32-bit world to main(): flat segments, an IDT of 256 gates, and in 64-bit programs
 * identity paging of the low 4 GiB for the supervisor with the same memory again, for user mode, at ALIAS.
 */
#include "layout.h"

	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 3, -(0x1badb002 + 3)

	.text
	.code32
	.globl start
start:
	cli
	cld
	movl $boot_stack_end, %esp
	lgdt gdt_pointer
	ljmp $SEL_CODE32, $1f
1:	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	call set_up_tss
#ifdef __x86_64__
	call set_up_paging
	call enter_long
	ljmp $SEL_CODE, $start64

	/* The application processors come through here too: paging structures are there, long mode is not. */
	.globl enter_long
enter_long:
	movl %cr4, %eax
	orl $0x6b0, %eax		/* PSE PAE PGE OSFXSR OSXMMEXCPT */
	andl $~0x10, %eax
	movl %eax, %cr4
	movl $pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x901, %eax		/* SCE LME NXE */
	wrmsr
	movl %cr0, %eax
	andl $~0xe, %eax		/* no MP EM TS */
	orl $0x80010023, %eax		/* PG WP NE MP PE */
	movl %eax, %cr0
	ret

set_up_paging:
	movl $pdpt + 3, pml4		/* supervisor */
	movl $pdpt_user + 7, pml4 + 8 * ALIAS_SLOT
	movl $pd + 3, %eax
	movl $pdpt, %edi
	movl $pdpt_user, %esi
	movl $4, %ecx
2:	movl %eax, (%edi)
	leal 4 + 4 * 4096(%eax), %edx	/* the user's page directories follow, with U set */
	movl %edx, (%esi)
	addl $4096, %eax
	addl $8, %edi
	addl $8, %esi
	loop 2b
	movl $0x83, %eax		/* PS W P */
	movl $pd, %edi
	movl $2048, %ecx
3:	movl %eax, (%edi)
	leal 4(%eax), %edx
	movl %edx, 4 * 4096(%edi)
	addl $0x200000, %eax
	addl $8, %edi
	loop 3b
	ret
#else
	jmp start_main
#endif

	/* The TSS descriptor's base is scattered. */
set_up_tss:
	movl $tss, %eax
	movw %ax, gdt + SEL_TSS + 2
	shrl $16, %eax
	movb %al, gdt + SEL_TSS + 4
	movb %ah, gdt + SEL_TSS + 7
	ret

#ifdef __x86_64__
	.code64
start64:
	movl $stack_end, %esp
	jmp start_main
#define PTR .quad
#define A %rax
#define SP %rsp
#define WORD 8
#define PUSHALL								\
	push %r15; push %r14; push %r13; push %r12; push %r11; push %r10; push %r9; push %r8;	\
	push %rdi; push %rsi; push %rbp; push %rbx; push %rdx; push %rcx; push %rax
#define POPALL								\
	pop %rax; pop %rcx; pop %rdx; pop %rbx; pop %rbp; pop %rsi; pop %rdi;			\
	pop %r8; pop %r9; pop %r10; pop %r11; pop %r12; pop %r13; pop %r14; pop %r15
#else
	.code32
#define PTR .long
#define A %eax
#define SP %esp
#define WORD 4
#define PUSHALL	push %edi; push %esi; push %ebp; push %ebx; push %edx; push %ecx; push %eax
#define POPALL	pop %eax; pop %ecx; pop %edx; pop %ebx; pop %ebp; pop %esi; pop %edi
#endif

start_main:
	mov $stack_end, SP
	call lib_init
	call main
	call lib_exit

	/* One entry per vector: the processor has pushed an error code for some, the rest push 0. */
	.align 16
	.globl vectors
vectors:
	vector = 0
	.rept 256
	.align 16
	.if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 30
	.else
	push $0
	.endif
	push $vector
	jmp common
	vector = vector + 1
	.endr

common:
	PUSHALL
#ifdef __x86_64__
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	cld
	call on_trap
	mov %rbp, %rsp
#else
	mov %ds, %eax
	push %eax
	mov $SEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	lea 4(%esp), %eax
	push %eax
	cld
	call on_trap
	add $4, %esp
	pop %eax
	mov %eax, %ds
	mov %eax, %es
#endif
	POPALL
	add $2 * WORD, SP
#ifdef __x86_64__
	iretq
#else
	iret
#endif

	/* int save(struct context *c): 0 now, and again 1 from resume(c). */
	.globl save, resume
#ifdef __x86_64__
save:
	mov (%rsp), %rax
	mov %rax, (%rdi)
	mov %rsp, 8(%rdi)
	mov %rbx, 16(%rdi)
	mov %rbp, 24(%rdi)
	mov %r12, 32(%rdi)
	mov %r13, 40(%rdi)
	mov %r14, 48(%rdi)
	mov %r15, 56(%rdi)
	pushf
	popq 64(%rdi)
	xor %eax, %eax
	ret
resume:
	mov 16(%rdi), %rbx
	mov 24(%rdi), %rbp
	mov 32(%rdi), %r12
	mov 40(%rdi), %r13
	mov 48(%rdi), %r14
	mov 56(%rdi), %r15
	mov $SEL_DATA, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov %eax, %es
	mov 8(%rdi), %rsp
	pushq 64(%rdi)
	popf
	mov (%rdi), %rax
	mov %rax, (%rsp)
	mov $1, %eax
	ret
#else
save:
	mov 4(%esp), %ecx
	mov (%esp), %eax
	mov %eax, (%ecx)
	mov %esp, 4(%ecx)
	mov %ebx, 8(%ecx)
	mov %ebp, 12(%ecx)
	mov %esi, 16(%ecx)
	mov %edi, 20(%ecx)
	pushf
	popl 24(%ecx)
	xor %eax, %eax
	ret
resume:
	mov 4(%esp), %ecx
	mov 8(%ecx), %ebx
	mov 12(%ecx), %ebp
	mov 16(%ecx), %esi
	mov 20(%ecx), %edi
	mov $SEL_DATA, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov %eax, %es
	mov 4(%ecx), %esp
	pushl 24(%ecx)
	popf
	mov (%ecx), %eax
	mov %eax, (%esp)
	mov $1, %eax
	ret
#endif

	/* Code of an application processor, copied to AP_START; it finds its stack in ap_stack. */
	.globl ap_code, ap_code_end
	.code16
ap_code:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl AP_START + ap_gdt_pointer - ap_code
	movl %cr0, %eax
	orl $1, %eax
	andl $~0x60000000, %eax		/* INIT has switched the caches off */
	movl %eax, %cr0
	ljmpl $SEL_CODE32, $ap32
ap_gdt_pointer:
	.word GDT_SIZE - 1
	.long gdt
ap_code_end:
	.code32
ap32:
	movl $SEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl ap_stack, %esp
#ifdef __x86_64__
	call enter_long
	ljmp $SEL_CODE, $1f
	.code64
1:	mov ap_stack, %rsp
#endif
	call ap_main
2:	cli
	hlt
	jmp 2b

	.data
	.align 16
	.globl gdt, tss, pml4, pdpt, pd, pdpt_user, stack_end, user_stack_end, ist_stack_end, ap_stack
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* SEL_CODE32 */
	.quad 0x00cf93000000ffff	/* SEL_DATA */
#ifdef __x86_64__
	.quad 0x00af9b000000ffff	/* SEL_CODE */
#else
	.quad 0x00cf9b000000ffff
#endif
	.quad 0x00cffb000000ffff	/* SEL_USER32 */
	.quad 0x00cff3000000ffff	/* SEL_USER_DATA */
#ifdef __x86_64__
	.quad 0x00affb000000ffff	/* SEL_USER */
#else
	.quad 0x00cffb000000ffff
#endif
	.quad 0				/* one spare */
	.quad 0x0000890000000067, 0	/* SEL_TSS */
	.fill 16, 8, 0			/* SEL_SPARE: for tests */
gdt_end:
	.if gdt_end - gdt - GDT_SIZE
	.error "GDT_SIZE"
	.endif
gdt_pointer:
	.word GDT_SIZE - 1
	PTR gdt
	.align 16
tss:	.fill 104 + 32, 1, 0
	.globl ap_stack
ap_stack: .quad 0

	.bss
	.align 4096
pml4:	.skip 4096
pdpt:	.skip 4096
pdpt_user: .skip 4096
pd:	.skip 4 * 4096
pd_user: .skip 4 * 4096
stack:	.skip 32768
stack_end:
boot_stack: .skip 4096
boot_stack_end:
ist_stack: .skip 8192
ist_stack_end:
user_stack: .skip 8192
user_stack_end:
