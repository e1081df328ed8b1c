; SPDX-License-Identifier: MIT
; Near branches: conditions, sizes, counts, targets that wrap or may not be loaded.
%include "guest.inc"

; EBX = one bit per condition code that holds for the flags in EDX
%macro CONDITIONS 0
 %if __BITS__ = 64
	push rdx
	popfq
 %else
	push edx
	popfd
 %endif
	mov ebx, 0
 %assign cc 0
 %rep 16
	lea ebx, [ebx+ebx]
	db 0x70 + cc, 2
	jmp short %%n%+cc
	lea ebx, [ebx+1]
%%n%+cc:
  %assign cc cc+1
 %endrep
	mov ecx, 0
 %assign cc 0
 %rep 16
	lea ecx, [ecx+ecx]
  %if __BITS__ = 16
	db 0x0f, 0x80 + cc
	dw 2
  %else
	db 0x0f, 0x80 + cc
	dd 2
  %endif
	jmp short %%m%+cc
	lea ecx, [ecx+1]
%%m%+cc:
  %assign cc cc+1
 %endrep
%endmacro

%macro ALLFLAGS 0	; the 32 combinations of CF PF ZF SF OF
	mov edi, 0
%%next:	mov eax, edi
	and eax, 1		; CF
	mov edx, eax
	mov eax, edi
	and eax, 2		; PF
	shl eax, 1
	or edx, eax
	mov eax, edi
	and eax, 4		; ZF
	shl eax, 4
	or edx, eax
	mov eax, edi
	and eax, 8		; SF
	shl eax, 4
	or edx, eax
	mov eax, edi
	and eax, 16		; OF
	shl eax, 7
	or edx, eax
	or edx, 2
	CONDITIONS
	SNAP "conditions"
	inc edi
	cmp edi, 32
	jne %%next
%endmacro

main:
	ALLFLAGS
	FILL
	mov ecx, 5
	xor eax, eax
.l1:	inc ax
	loop .l1
	SNAP "16 loop"
	mov ecx, 0x10001
	xor eax, eax
.l2:	inc ax
	loop .l2, cx
	SNAP "16 loop cx"
	mov ecx, 0x10001
	xor eax, eax
.l3:	inc eax
	loop .l3, ecx
	SNAP "16 loop ecx"
	mov ecx, 0x30000
	xor eax, eax
.l4:	inc eax
	loop .l4, cx
	SNAP "16 loop cx zero"
	mov ecx, 9
	mov eax, 3
.l5:	dec eax
	loopne .l5
	SNAP "16 loopne"
	mov ecx, 9
	mov eax, 3
	cmp eax, eax
.l6:	loope .l6
	SNAP "16 loope"
	mov ecx, 0x70000
	jcxz .c1
	SNAP "16 jcxz not taken"
.c1:	jecxz .c2
	SNAP "16 jecxz not taken"
.c2:	SNAP "16 jcxz"
	; calls
	FILL
	call .f1
	SNAP "16 call"
	call dword .f2
	SNAP "16 o32 call"
	mov bx, .f1
	call bx
	mov ebx, .f2
	call ebx
	SNAP "16 call reg"
	mov word [TMP], .f1
	call [TMP]
	mov dword [TMP], .f2
	call dword [TMP]
	SNAP "16 call mem"
	push word 0x1111
	push word 0x2222
	call .f3
	SNAP "16 ret imm"
	jmp near .j1
.f1:	inc eax
	ret
.f2:	inc eax
	o32 ret
.f3:	inc eax
	ret 4
.j1:	jmp short .j2
	SNAP "not here"
.j2:	mov word [TMP], .j3
	jmp [TMP]
	SNAP "not here"
.j3:	mov eax, .j4
	jmp eax
	SNAP "not here"
.j4:	mov ebx, 0xabcd0000 + .j5
	jmp bx
	SNAP "not here"
.j5:	SNAP "16 jumps"
	; IP wraps at 64 KiB: forwards and backwards
	mov ax, SCRATCH >> 4
	mov ds, ax
	mov word [0xffe0], 0x2eeb	; jmp +0x2e
	mov byte [0x10], 0xea		; jmp 0:.w1
	mov word [0x11], .w1
	mov word [0x13], 0
	jmp (SCRATCH >> 4):0xffe0
.w1:	mov word [0x10], 0xceeb		; jmp -0x32
	mov byte [0xffe0], 0xea
	mov word [0xffe1], .w2
	mov word [0xffe3], 0
	jmp (SCRATCH >> 4):0x10
.w2:	xor ax, ax
	mov ds, ax
	SNAP "16 wrap"
	; targets above the limit (QEMU checks no limits)
	LAX .lax
	mov eax, 0x12345
	mov ecx, 7
	TRY "!16 jmp eax", jmp eax
	mov eax, 0x12345
	TRY "!16 call eax", call eax
	push dword 0x10000
	TRY "!16 o32 ret", o32 ret
	mov eax, esp
	CHECK "!16 ret sp", eax, STACK16 - 4
	pop eax
.lax:	FILL
	SETFLAGS 0
	jmp pm

	bits 16
pm:	TO_PM32
	ALLFLAGS
	FILL
	mov ecx, 5
	xor eax, eax
.l1:	inc eax
	loop .l1
	mov ecx, 0x10001
.l2:	inc eax
	loop .l2, cx
	mov ecx, 0x10001
.l3:	inc eax
	loop .l3, ecx
	mov ecx, 0x30000
.l4:	inc eax
	loop .l4, cx
	SNAP "32 loop"
	mov ecx, 9
	mov ebx, 3
.l5:	dec ebx
	loopne .l5
	SNAP "32 loopne"
	mov ecx, 9
	cmp eax, eax
.l6:	loope .l6
	SNAP "32 loope"
	mov ecx, 0x70000
	jecxz .c1
	SNAP "32 jecxz not taken"
.c1:	jcxz .c2
	SNAP "32 jcxz not taken"
.c2:	SNAP "32 jcxz"
	FILL
	call .f1
	SNAP "32 call"
	call word .f2
	SNAP "32 o16 call"
	mov ebx, .f1
	call ebx
	mov ebx, 0xabcd0000 + .f2
	call bx
	SNAP "32 call reg"
	mov dword [TMP], .f1
	call [TMP]
	mov dword [TMP], 0xabcd0000 + .f2
	call word [TMP]
	SNAP "32 call mem"
	push dword 0x1111
	push dword 0x2222
	call .f3
	SNAP "32 ret imm"
	jmp near .j1
.f1:	inc eax
	ret
.f2:	inc eax
	o16 ret
.f3:	inc eax
	ret 8
.j1:	jmp short .j2
	SNAP "not here"
.j2:	mov dword [TMP], .j3
	jmp [TMP]
	SNAP "not here"
.j3:	mov eax, 0xabcd0000 + .j4
	jmp ax
	SNAP "not here"
.j4:	jmp word .j5
	SNAP "not here"
.j5:	SNAP "32 jumps"
	; ESP-based operand: the address uses ESP from before the push
	push dword .f1
	call [esp]
	SNAP "32 call [esp]"
	add esp, 4
	; a code segment of 64 KiB: QEMU does not check its limit
	mov dword [gdt_test], 0x0000ffff
	mov dword [gdt_test+4], 0x00409b00
	jmp SEL_TEST:.lim
.lim:	LAX .liml
	mov eax, 0x12345
	TRY "!32 limit jmp", jmp eax
	CHECK "!32 limit jmp eax", eax, 0x12345
	TRY "!32 limit call", call eax
	push dword 0x10000
	TRY "!32 limit ret", ret
	mov ecx, 3
	TRY "!32 limit jcc", jmp strict near $ + 0x20000
	add esp, 4
.liml:	FILL
	SETFLAGS 0
	jmp SEL_CODE32:.nolim
.nolim:
	PAGING_ON
	; the stack page is gone: nothing may be committed
	TO_RING3 3
	mov esp, SCRATCH + 0x2000
	FILL
	SNAP "32 user"
	TO_RING0
	PTE SCRATCH + 0x1000, 0
	TO_RING3 3
	mov esp, SCRATCH + 0x2000
	TRY "32 call pf", call main
	mov esp, SCRATCH + 0x2002
	TRY "32 call pf split", call main
	mov esp, SCRATCH + 0x1100
	TRY "32 ret pf", ret
	TRY "32 ret imm pf", ret 8
	mov eax, SCRATCH + 0x1100
	TRY "32 call mem pf", call [eax]
	TRY "32 jmp mem pf", jmp [eax]
	; the target page is gone: the fault is the target's
	mov esp, USTACK
	TO_RING0
	PAGING_OFF

	TO_LM64
lm:	ALLFLAGS
	FILL
	mov rcx, 0x100000005
	xor eax, eax
.l1:	inc eax
	loop .l1, ecx
	SNAP "64 loop ecx"
	mov rcx, 0x10001
.l2:	inc eax
	loop .l2
	SNAP "64 loop"
	mov ecx, 9
	mov ebx, 3
.l5:	dec ebx
	loopne .l5
	SNAP "64 loopne"
	mov ecx, 9
	cmp eax, eax
.l6:	loope .l6
	SNAP "64 loope"
	mov rcx, 0x100000000
	jrcxz .c1
	SNAP "64 jrcxz not taken"
.c1:	jecxz .c2
	SNAP "64 jecxz not taken"
.c2:	SNAP "64 jrcxz"
	FILL
	call .f1
	SNAP "64 call"
	mov ebx, .f1
	call rbx
	mov qword [TMP], .f1
	call [abs TMP]
	SNAP "64 call mem"
	push qword 0x1111
	push qword 0x2222
	call .f3
	SNAP "64 ret imm"
	jmp near .j1
.f1:	inc eax
	ret
.f3:	inc eax
	ret 16
.j1:	mov qword [TMP], .j3
	jmp [abs TMP]
	SNAP "not here"
.j3:	mov r13, .j4
	jmp r13
	SNAP "not here"
.j4:	push qword .f1
	call [rsp]
	SNAP "64 call [rsp]"
	add rsp, 8
	; QEMU loads non-canonical targets and faults on the fetch
	LAX .nc
	mov rax, 0x800000000000
	TRY "!64 jmp nc", jmp rax
	CHECK "!64 jmp nc rsp", rsp, STACK32
	mov rax, 0xffff7fffffffffff
	TRY "!64 call nc", call rax
	CHECK "!64 call nc rsp", rsp, STACK32
	mov rax, 0x8000000000000000
	push rax
	TRY "!64 ret nc", ret
	CHECK "!64 ret nc rsp", rsp, STACK32 - 8
	TRY "!64 ret imm nc", ret 0x10
	mov eax, esp
	TRY "!64 jmp mem nc", jmp [rax]
	TRY "!64 call mem nc", call [rax]
	pop rax
.nc:	FILL
	SETFLAGS 0
	PTE SCRATCH + 0x1000, 0
	mov rsp, SCRATCH + 0x2000
	TRY "64 call pf", call main
	mov rsp, SCRATCH + 0x2004
	TRY "64 call pf split", call main
	mov rsp, SCRATCH + 0x1100
	TRY "64 ret pf", ret
	TRY "64 ret imm pf", ret 8
	mov eax, SCRATCH + 0x1100
	TRY "64 call mem pf", call [rax]
	TRY "64 jmp mem pf", jmp [rax]
	mov rsp, 0x800000000000
	TRY "64 call nc stack", call main
	TRY "!64 ret nc stack", ret	; #SS; QEMU: #GP
	TRY "64 push nc stack", push rax
	mov rsp, STACK32
	; fetches: a page without code, an instruction that runs into it
	mov eax, SCRATCH + 0x1000
	TRY "64 fetch pf", jmp rax
	mov byte [abs SCRATCH + 0xfff], 0xb8
	mov eax, SCRATCH + 0xfff
	TRY "64 fetch split pf", jmp rax
	PTE SCRATCH + 0x1000, 7
	; mov ecx, 0x03040506 across the boundary; then back
	mov dword [abs SCRATCH + 0xffe], 0x0506b990
	mov dword [abs SCRATCH + 0x1002], 0xe0ff0304
	mov eax, .back
	mov edx, SCRATCH + 0xffe
	jmp rdx
.back:	SNAP "64 fetch split"
	DONE
%include "end.inc"
