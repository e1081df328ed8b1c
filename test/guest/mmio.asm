; SPDX-License-Identifier: MIT
; Operands in device memory: every handler's accesses stop, are answered and run again. Ours alone: QEMU's board has no
; such device. The device is 64 KiB of memory behind exits.
%include "guest.inc"

%define DEV 0x20000000
%define END 0x1000000		; RAM ends here

%macro REGS 0
 %if __BITS__ = 64
  %define xax rax
  %define xbx rbx
  %define xcx rcx
  %define xsi rsi
  %define xdi rdi
  %define xsp rsp
  %define xbp rbp
 %else
  %define xax eax
  %define xbx ebx
  %define xcx ecx
  %define xsi esi
  %define xdi edi
  %define xsp esp
  %define xbp ebp
 %endif
%endmacro

%macro CASES 1
	cld
	mov dword [DEV], 0x11223344
	mov eax, [DEV]
 %strcat n "!", %1, "mov"
	CHECK n, eax, 0x11223344
	add dword [DEV], 0x01010101
	mov eax, [DEV]
 %strcat n "!", %1, "add"
	CHECK n, eax, 0x12233445
	lock add dword [DEV], 0x01010101
	mov eax, [DEV]
 %strcat n "!", %1, "lock add"
	CHECK n, eax, 0x13243546
	mov ebx, 0x55667788
	xchg [DEV], ebx
	CHECK n, ebx, 0x13243546
	mov eax, 0x55667788
	mov ecx, 0x99
	lock cmpxchg [DEV], ecx
	mov ebx, [DEV]
 %strcat n "!", %1, "cmpxchg"
	CHECK n, ebx, 0x99
	; the stack
	push dword_or_q [DEV]
	pop xax
 %strcat n "!", %1, "push m"
	CHECK n, xax, 0x99
	push dword_or_q 0x1234
	pop dword_or_q [DEV + 8]
	mov eax, [DEV + 8]
 %strcat n "!", %1, "pop m"
	CHECK n, xax, 0x1234
	mov xbp, xsp
	mov xsp, DEV + 0x100
	mov eax, 0x77
	push xax
	push xax
	pop xbx
	push dword_or_q [DEV + 8]
	pop dword_or_q [DEV + 0x10]
	call %%f
	pop xcx
	mov xsp, xbp
 %strcat n "!", %1, "stack"
	CHECK n, xbx, 0x77
	CHECK n, xcx, 0x77
	mov eax, [DEV + 0x10]
	CHECK n, xax, 0x1234
	jmp %%g
%%f:	ret
	; strings
%%g:	mov xdi, SCRATCH
	mov xcx, 64
	mov eax, 0x01020304
%%fill:	mov [xdi], eax
	add eax, 0x01010101
	add xdi, 4
	dec xcx
	jnz %%fill
	mov xsi, SCRATCH
	mov xdi, DEV + 0x200
	mov xcx, 100
	rep movsb
 %strcat n "!", %1, "rep movsb to"
	CHECK n, xcx, 0
	CHECK n, xdi, DEV + 0x264
	mov eax, [DEV + 0x260]
	sub eax, [SCRATCH + 0x60]
	CHECK n, eax, 0
	mov xsi, DEV + 0x200
	mov xdi, DEV + 0x301
	mov xcx, 10
	rep movsd
	mov eax, [DEV + 0x301 + 36]
 %strcat n "!", %1, "rep movsd within"
	sub eax, [SCRATCH + 36]
	CHECK n, eax, 0
	mov xsi, DEV + 0x301
	mov xdi, SCRATCH + 0x200
	mov xcx, 40
	rep movsb
	mov eax, [SCRATCH + 0x200 + 20]
 %strcat n "!", %1, "rep movsb from"
	sub eax, [SCRATCH + 20]
	CHECK n, eax, 0
	mov xsi, SCRATCH
	mov xdi, DEV + 0x200
	mov xcx, 26
	repe cmpsd
 %strcat n "!", %1, "repe cmpsd"
	CHECK n, xcx, 0
	mov xdi, DEV + 0x200
	mov al, [SCRATCH + 17]
	mov xcx, 100
	repne scasb
 %strcat n "!", %1, "repne scasb"
	mov eax, [xdi - 1]
	movzx eax, al
	mov bl, [SCRATCH + 17]
	movzx ebx, bl
	sub eax, ebx
	CHECK n, eax, 0
	mov xdi, DEV + 0x400
	mov eax, 0xabcdef01
	mov xcx, 9
	std
	rep stosd
	cld
	mov eax, [DEV + 0x400 - 32]
 %strcat n "!", %1, "rep stosd"
	CHECK n, eax, 0xabcdef01
	CHECK n, xdi, DEV + 0x400 - 36
	mov xsi, DEV + 0x400
	lodsd
 %strcat n "!", %1, "lodsd"
	CHECK n, eax, 0xabcdef01
	; bits, pairs
	mov dword [DEV + 0x500], 0
	mov dword [DEV + 0x504], 0
	mov xbx, DEV + 0x510
	mov eax, -127
	bts [xbx], eax
	mov eax, [DEV + 0x500]
 %strcat n "!", %1, "bts"
	CHECK n, eax, 2
	lock btc [xbx], ecx
	mov eax, 2
	mov edx, 0
	mov ebx, 0x1111
	mov ecx, 0x2222
	cmpxchg8b [DEV + 0x500]
	mov eax, [DEV + 0x504]
 %strcat n "!", %1, "cmpxchg8b"
	CHECK n, eax, 0x2222
	; ports: to and from the device
	mov dx, 0xcf8
	mov dword [DEV + 0x600], 0x80665544
	mov xsi, DEV + 0x600
	mov xdi, DEV + 0x608
	outsd
	insd
	mov eax, [DEV + 0x608]
 %strcat n "!", %1, "outsd insd"
	CHECK n, eax, 0x80665544
	mov xcx, 3
	mov xdi, DEV + 0x610
	rep insd
	mov eax, [DEV + 0x618]
 %strcat n "!", %1, "rep insd"
	CHECK n, eax, 0x80665544
	CHECK n, xcx, 0
	mov xcx, 3
	mov xsi, DEV + 0x610
	rep outsd
 %strcat n "!", %1, "rep outsd"
	CHECK n, xcx, 0
	; half in RAM, half outside every slot (reads as 0, keeps nothing)
	mov dword [END - 4], 0x12345678
	mov eax, [END - 2]
 %strcat n "!", %1, "straddle"
	CHECK n, eax, 0x1234
	mov dword [END - 2], 0xaabbccdd
	mov eax, [END - 4]
	CHECK n, eax, 0xccdd5678
	add dword [END - 1], 0x11111111
	mov eax, [END - 4]
	CHECK n, eax, 0xdddd5678
	mov xsi, SCRATCH
	mov xdi, END - 5
	mov xcx, 10
	rep movsb
	CHECK n, xdi, END + 5
	; XLAT, indirect branches
	mov byte [DEV + 0x777], 0x5a
	mov xbx, DEV + 0x700
	mov eax, 0x77
	xlatb
 %strcat n "!", %1, "xlat"
	CHECK n, xax, 0x5a
	mov eax, %%target
	mov [DEV + 0x800], xax
	mov ebx, 1
	jmp [DEV + 0x800]
	mov ebx, 2
%%target:
 %strcat n "!", %1, "jmp m"
	CHECK n, xbx, 1
	mov xbp, xsp
	mov eax, %%h
	mov [DEV + 0x800], xax
	call [DEV + 0x800]
%%h:	sub xbp, xsp
	add xsp, xbp
 %strcat n "!", %1, "call m"
	CHECK n, xbp, WORD
	; ROM takes no writes
	mov xcx, 4
	mov xdi, 0xf8000
	mov al, 0x77
	mov edx, [0xf8000]
	rep stosb
	mov eax, [0xf8000]
	sub eax, edx
 %strcat n "!", %1, "rom"
	CHECK n, eax, 0
%endmacro

main:	LAX out
	TO_PM32
	REGS
%define dword_or_q dword
%define WORD 4
	CASES "32 "
	mov word [DEV + 0x900], -5
	mov word [DEV + 0x902], 10
	mov ax, 11
	TRY "!32 bound", bound ax, [DEV + 0x900]
	mov esp, DEV + 0x200
	FILL
	pushad
	mov edi, 0
	mov ebx, 0
	popad
	CHECK "!32 pushad popad", ebx, 0x456789ab
	enter 8, 0
	leave
	mov eax, esp
	mov esp, STACK32
	CHECK "!32 enter leave", eax, DEV + 0x200
	TO_LM64
	REGS
%define dword_or_q qword
%define WORD 8
	CASES "64 "
	mov rax, 5
	mov rdx, 6
	mov [abs DEV + 0xa00], rax
	mov [abs DEV + 0xa08], rdx
	mov ebx, 7
	mov ecx, 8
	lock cmpxchg16b [abs DEV + 0xa00]
	mov rsi, [abs DEV + 0xa08]
	CHECK "!64 cmpxchg16b", rsi, 8
	mov rdi, DEV + 0xb01
	mov rax, 0x1122334455667788
	mov ecx, 5
	rep stosq
	mov rbx, [abs DEV + 0xb01 + 32]
	CHECK "!64 rep stosq", rbx, 0x1122334455667788
	jmp out64
	bits 16
out:	DONE
	bits 64
out64:	DONE
%include "end.inc"
