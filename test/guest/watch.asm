; SPDX-License-Identifier: MIT
; Data breakpoints and single steps around implicit accesses: the stack, strings, locked and split operands, the
; shadow of MOV SS.
%include "guest.inc"

%define AT (SCRATCH + 0x100)

%macro REGS 0
 %if __BITS__ = 64
  %define xax rax
  %define xcx rcx
  %define xsi rsi
  %define xdi rdi
  %define xsp rsp
  %define xbp rbp
 %else
  %define xax eax
  %define xcx ecx
  %define xsi esi
  %define xdi edi
  %define xsp esp
  %define xbp ebp
 %endif
%endmacro

; DR0 = address, DR7 = G0 with the given R/W and LEN: 0x00010002 write 1 byte, 0x000d0002 write 4, 0x000f0002 rw 4
%macro ARM 2
	mov xax, %1
	mov dr0, xax
	mov eax, %2
	mov dr7, xax
%endmacro

; count and DR6 of what the instruction did
%macro W 2+
	VAR db_count, 0
	VAR db_dr6, 0
	FILL
	mov xdi, AT
	mov xsi, AT + 0x80
	mov xcx, 4
	mov eax, 0
	mov edx, 0
	mov xbp, xsp
	%2
	nop
	mov xsp, xbp
 %if __BITS__ = 64
	mov r8d, [abs db_count]
	mov r9d, [abs db_dr6]
	SNAP %1
 %else
	mov ebx, [fs:db_count]
	mov edx, [fs:db_dr6]
	SNAP %1
 %endif
%endmacro

%macro ONSTACK 2+
	mov xsp, AT + 4
	%2
%endmacro

%macro CASES 1
	ARM AT, 0x000d000a
	mov dword [AT], 0
	FLAGMASK 0
 %strcat n %1, "w4 mov"
	W n, mov [AT], eax
	W n, mov [AT+3], al
	W n, mov [AT+4], al
	W n, mov [AT-3], eax
	W n, mov [AT-4], eax
	W n, mov eax, [AT]
	W n, add [AT], eax
	W n, lock inc dword [AT]
	W n, cmpxchg [AT], ecx
	W n, xchg [AT], eax
	W n, bts [AT], ecx
	W n, cmpxchg8b [AT-4]
 %strcat n %1, "w4 stos"
	W n, stosd
	W n, rep stosb
	W n, movsd
	W n, lodsd
	W n, rep movsb
 %strcat n %1, "w4 after"
	; the second element is watched
	ARM AT + 1, 0x0001000a
	W n, rep movsb
	W n, rep stosb
	ARM AT + 0x81, 0x0003000a
 %strcat n %1, "rw1 string"
	W n, rep movsb
	W n, repe cmpsb
	ARM AT, 0x000f000a
 %strcat n %1, "rw4 mov"
	W n, mov eax, [AT]
	W n, mov al, [AT+3]
	W n, test [AT], eax
	W n, mov [AT], eax
	W n, scasb
	W n, push dword_or_q [AT]
	; two at once
	mov xax, AT + 2
	mov dr1, xax
	mov eax, 0x00df000a
	mov dr7, xax
 %strcat n "!", %1, "two"		; QEMU finds one at a time
	W n, mov [AT], eax
	W n, mov [AT+2], ax
	; disabled: DR6 shows the matches of enabled ones only when one is
	mov eax, 0x00d10002
	mov dr7, xax
	W n, mov [AT], eax
	; step and data together are one trap; QEMU takes two, or hangs
	xor eax, eax
	mov dr7, xax
	LAX %%lax
	mov eax, 0x000d000a
	mov dr7, xax
	VAR db_count, 0
	VAR db_dr6, 0
 %if __BITS__ = 64
	push qword 0x102
	popfq
	mov [abs AT], eax
	nop
	push qword 2
	popfq
	mov eax, [abs db_count]
	mov edx, [abs db_dr6]
 %else
	push dword 0x102
	popfd
	mov [AT], eax
	nop
	push dword 2
	popfd
	mov eax, [fs:db_count]
	mov edx, [fs:db_dr6]
 %endif
	mov ebx, 0
 %strcat n "!", %1, "step and data"
	CHECK n, eax, 4
%%lax:	FILL
	SETFLAGS 0
	xor eax, eax
	mov dr7, xax
	FLAGMASK 0xcd5
%endmacro

main:	jmp go
	bits 16
go:	TO_PM32
	REGS
%define dword_or_q dword
	CASES "32 "
	; stack writes
	ARM AT, 0x000d0002
	FLAGMASK 0
	W "32 push", ONSTACK "", push eax
	W "32 call", ONSTACK "", call .f
	jmp .n
.f:	mov xsp, xbp
	jmp .g
.n:
.g:	SNAP "32 after call"
	W "32 pushad", ONSTACK "", pushad
	W "32 enter", ONSTACK "", enter 0, 0
	xor eax, eax
	mov dr7, eax
	; the trap of MOV SS from a watched operand waits for one instruction
	mov word [AT], SEL_DATA
	ARM AT, 0x000f0002
	VAR db_count, 0
	mov ss, [AT]
	mov ecx, [fs:db_count]
	mov edx, [fs:db_count]
	xor eax, eax
	mov dr7, eax
	SNAP "!32 mov ss watched"
	CHECK "!32 mov ss before", ecx, 0
	CHECK "!32 mov ss after", edx, 1
	mov ecx, 0
	mov edx, 0
	FLAGMASK 0xcd5
	TO_LM64
	REGS
%define dword_or_q qword
	CASES "64 "
	ARM AT, 0x00090002	; 8 bytes
	FLAGMASK 0
	W "64 w8 mov", mov [abs AT+7], al
	W "64 w8 mov", mov [abs AT+8], al
	W "64 w8 stosq", stosq
	W "64 w8 push", ONSTACK "", push rax
	mov eax, 0
	mov dr7, rax
	DONE
%include "end.inc"
