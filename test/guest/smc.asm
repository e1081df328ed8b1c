; SPDX-License-Identifier: MIT
; Code that changes itself: each kind of store, into the running trace, into an earlier one, across pages, through
; another linear address.
%include "guest.inc"

; %2 stores 0x42 over the immediate of the instruction at %%p (its address in xDI): EAX must see it at once
%macro OVERWRITE 2+
	FILL
	mov xdi, %%p + 1
	mov eax, 0x42
	mov ebx, 0x42
	%2
%%p:	mov cl, 0x11
	SNAP %1
%endmacro

%macro CASES 1
 %strcat n %1, "mov"
	OVERWRITE n, mov [xdi], al
 %strcat n %1, "mov after"
	FILL
	mov xdi, %%q + 1
	mov al, 0x55
	mov [xdi], al
	nop
	nop
	nop
%%q:	mov cl, 0x11
	SNAP n
 %strcat n %1, "xchg"
	OVERWRITE n, xchg [xdi], al
 %strcat n %1, "add"
	OVERWRITE n, add [xdi], al
 %strcat n %1, "lock xadd"
	OVERWRITE n, lock xadd [xdi], al
 %strcat n %1, "setcc"
	OVERWRITE n, setc [xdi]
 %strcat n %1, "stosb"
	OVERWRITE n, stosb
 %strcat n %1, "inc"
	OVERWRITE n, inc byte [xdi]
 %strcat n %1, "bts"
	OVERWRITE n, bts dword [xdi], 3
 %strcat n %1, "lock bts mr"
	FILL
	mov eax, 3
	mov xdi, %%b + 1
	lock bts [xdi], eax
%%b:	mov cl, 0x11
	SNAP n
 %strcat n %1, "cmpxchg"
	FILL
	mov xdi, %%c + 1
	mov al, 0x11
	mov bl, 0x77
	lock cmpxchg [xdi], bl
%%c:	mov cl, 0x11
	SNAP n
	; the stores of a stack: PUSH and CALL onto what comes next
 %strcat n %1, "push"
	FILL
	mov xbp, xsp
	mov xsp, %%s + 1 + WORD
	mov ebx, 0x90909033
	push xbx
	; PUSH wrote WORD bytes from %%s + 1 on: MOV CL, 0x33 and NOPs
%%s:	mov cl, 0x11
	times 6 nop
	mov xsp, xbp
	SNAP n
	; a copy of code into code, and its end in the same trace
 %strcat n %1, "rep movsb"
	FILL
	mov xsi, %%from
	mov xdi, %%to
	mov xcx, %%end - %%from
	rep movsb
%%to:	times (%%end - %%from) int3
	jmp short %%over
%%from:	mov al, 0x99
	inc bl
	nop
%%end:
%%over:	SNAP n
 %strcat n %1, "rep stosb"
	FILL
	mov xdi, %%st
	mov xcx, 8
	mov al, 0x90
	rep stosb
%%st:	times 8 int3
	SNAP n
	; a loop whose body is rewritten from outside it
 %strcat n %1, "loop"
	FILL
	mov xdi, %%imm + 1
	mov edx, 0
	mov xcx, 20
%%again:
%%imm:	mov al, 1
	movzx eax, al
	add edx, eax
	inc byte [xdi]
	dec xcx
	jnz %%again
	SNAP n
	; a function rewritten between calls
 %strcat n %1, "function"
	mov edx, 0
	mov byte [%%f + 1], 1
	call %%f
	mov byte [%%f + 1], 2
	call %%f
	mov dword [%%f], 0xc303b090	; nop; mov al, 3; ret
	call %%f
	mov dword [%%f], 0x9005b090
	mov dword [%%f + 4], 0xc3c28990	; edx = eax
	call %%f
	SNAP n
	jmp %%done
%%f:	mov al, 0
	ret
	times 8 nop
	ret
%%done:
%endmacro

; code: mov eax, imm32 (straddling); add edx, eax; jmp ebx
%macro PLACE 1
	mov byte [SCRATCH + 0xffd], 0xb8
	mov dword [SCRATCH + 0xffe], %1
	mov dword [SCRATCH + 0x1002], 0xe3ffc201
%endmacro
; 32- and 64-bit code only: code placed in SCRATCH, across its page boundary
%macro FARCASES 1
 %strcat n %1, "split"
	mov edx, 0
	PLACE 1
	mov ebx, %%r1
	mov eax, SCRATCH + 0xffd
	jmp xax
%%r1:	SNAP n
	mov byte [SCRATCH + 0xfff], 0x55	; first page
	mov ebx, %%r2
	mov eax, SCRATCH + 0xffd
	jmp xax
%%r2:	SNAP n
	mov byte [SCRATCH + 0x1001], 0x66	; second page
	mov ebx, %%r3
	mov eax, SCRATCH + 0xffd
	jmp xax
%%r3:	SNAP n
	mov dword [SCRATCH + 0xffe], 0x12345678	; both
	mov ebx, %%r4
	mov eax, SCRATCH + 0xffd
	jmp xax
%%r4:	SNAP n
%endmacro

; with paging: the page at SCRATCH + 0x4000 is another name of SCRATCH
%macro ALIAS 1
	mov dword [PT_LOW + ((SCRATCH + 0x4000) >> 12) * 8], SCRATCH + 7
 %if __BITS__ = 64
	invlpg [abs SCRATCH + 0x4000]
 %else
	invlpg [SCRATCH + 0x4000]
 %endif
 %strcat n %1, "alias"
	mov edx, 0
	mov dword [SCRATCH + 0x100], 0x000001b8		; mov eax, 1
	mov dword [SCRATCH + 0x104], 0xe3ffc200		; add edx, eax; jmp ebx
	mov byte [SCRATCH + 0x105], 0x01
	mov byte [SCRATCH + 0x106], 0xc2
	mov word [SCRATCH + 0x107], 0xe3ff
	mov ebx, %%a1
	mov eax, SCRATCH + 0x100
	jmp xax
%%a1:	SNAP n
	mov byte [SCRATCH + 0x4101], 0x44
	mov ebx, %%a2
	mov eax, SCRATCH + 0x100
	jmp xax
%%a2:	SNAP n
	mov byte [SCRATCH + 0x101], 0x10
	mov ebx, %%a3
	mov eax, SCRATCH + 0x4100
	jmp xax
%%a3:	SNAP n
	; the page table changes under the code: another page, same linear address
	mov dword [SCRATCH + 0x1100], 0x007777b8
	mov dword [SCRATCH + 0x1104], 0xffc20100
	mov byte [SCRATCH + 0x1108], 0xe3
	mov dword [PT_LOW + ((SCRATCH + 0x4000) >> 12) * 8], SCRATCH + 0x1007
 %if __BITS__ = 64
	invlpg [abs SCRATCH + 0x4000]
 %else
	invlpg [SCRATCH + 0x4000]
 %endif
	mov ebx, %%a4
	mov eax, SCRATCH + 0x4100
	jmp xax
%%a4:	SNAP n
%endmacro

%macro REGS 0
 %if __BITS__ = 64
  %define xax rax
  %define xbx rbx
  %define xcx rcx
  %define xsi rsi
  %define xdi rdi
  %define xsp rsp
  %define xbp rbp
  %define WORD 8
 %else
  %define xax eax
  %define xbx ebx
  %define xcx ecx
  %define xsi esi
  %define xdi edi
  %define xsp esp
  %define xbp ebp
  %define WORD 4
 %endif
%endmacro

main:	REGS
	cld
	CASES "16 "
	TO_PM32
	REGS
	CASES "32 "
	FARCASES "32 "
	PAGING_ON
	ALIAS "32 "
	PAGING_OFF
	TO_LM64
	REGS
	CASES "64 "
	FARCASES "64 "
	ALIAS "64 "
	; vector and x87 stores
	mov rax, cr4
	or eax, 0x600
	mov cr4, rax
	mov rax, cr0
	and eax, ~0xc
	mov cr0, rax
	FILL
	mov eax, 0x90909044
	movd xmm0, eax
	mov edi, .x1 + 1
	movd [rdi], xmm0
.x1:	mov cl, 0x11
	times 4 nop
	SNAP "64 movd"
	mov rax, 0x9090909090909045
	movq xmm1, rax
	punpcklqdq xmm1, xmm1
	mov edi, .x2 + 1
	movups [rdi], xmm1
.x2:	mov cl, 0x11
	times 20 nop
	mov byte [abs .x2 + 0x11], 0x90
	SNAP "64 movups"
	fninit
	mov eax, 0x10909046
	mov [abs TMP], rax
	fild dword [abs TMP]
	mov edi, .x3 + 1
	fistp dword [rdi]
.x3:	mov cl, 0x11
	nop
	nop
	db 0x10, 0xc0		; adc al, al
	SNAP "64 fistp"
	DONE
%include "end.inc"
