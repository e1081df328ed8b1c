; SPDX-License-Identifier: MIT
; Instruction breakpoints, single steps, RF and the shadows that hold a trap back; DR6 and DR7 as software sees them.
%include "guest.inc"

; How many #DB and which DR6 bits since the last time
%macro COUNTED 3		; name, count, DR6 bits
 %if __BITS__ = 64
	mov eax, [abs db_count]
	CHECK %1, rax, %2
	mov eax, [abs db_dr6]
	and eax, 0xe00f
	CHECK %1, rax, %3
	mov dword [abs db_count], 0
	mov dword [abs db_dr6], 0
 %else
	mov eax, [fs:db_count]
	CHECK %1, eax, %2
	mov eax, [fs:db_dr6]
	and eax, 0xe00f
	CHECK %1, eax, %3
	mov dword [fs:db_count], 0
	mov dword [fs:db_dr6], 0
 %endif
%endmacro

%macro TF_ON 0
 %if __BITS__ = 64
	pushfq
	or dword [rsp], 0x100
	popfq
 %else
	pushfd
	or dword [esp], 0x100
	popfd
 %endif
%endmacro
%macro TF_OFF 0
 %if __BITS__ = 64
	pushfq
	and dword [rsp], ~0x100
	popfq
 %else
	pushfd
	and dword [esp], ~0x100
	popfd
 %endif
%endmacro

%macro BODY 1			; name prefix
	xor eax, eax
	mov eax, 0xffff0ff0
	MOVDR 6, eax
 %strcat %%n %1, " dr6 reads"
	READDR 6
	SNAP %%n
	mov eax, 0x400
	MOVDR 7, eax
	; single steps: one trap behind each instruction after the one that sets TF
	TF_ON
	nop
	nop
	nop
	TF_OFF				; two instructions more
 %strcat %%n %1, " tf"
	COUNTED %%n, 6, 0x4000
	; REP: one trap an iteration
	mov edi, SCRATCH
	mov ecx, 5
	cld
	TF_ON
	rep stosb
	TF_OFF
 %strcat %%n %1, " tf rep"
	COUNTED %%n, 8, 0x4000
	; MOV SS holds the trap back behind the next instruction
	mov ebx, ss
	TF_ON
	mov ss, ebx
	nop
	nop
	TF_OFF
 %strcat %%n %1, " tf mov ss"
	COUNTED %%n, 5, 0x4000
	; a fault in between does not count
 %strcat %%n %1, " tf ud2"
	TF_ON
	FAULTS %%n, 6, 0, ud2
	TF_OFF
	mov dword [db_count], 0
	mov dword [db_dr6], 0
	; an instruction breakpoint: a fault before it, gone through with RF
	mov eax, %%here
	MOVDR 1, eax
	mov eax, 0x408
	MOVDR 7, eax
	mov ecx, 0
%%here:	inc ecx
 %strcat %%n %1, " exec"
	COUNTED %%n, 1, 2
	CHECK %%n, XCX, 1
	mov eax, 0x400
	MOVDR 7, eax
	mov ecx, 0
	jmp %%here2			; off again
%%here2: inc ecx
 %strcat %%n %1, " exec off"
	COUNTED %%n, 0, 0
%endmacro

	bits 16
main:	TO_PM32
	FLAGMASK 0
%macro MOVDR 2
	mov dr%1, %2
%endmacro
%macro READDR 1
	mov eax, dr%1
%endmacro
%define XCX ecx
	jmp main32
	bits 32
db32:	push eax			; counts, and returns with RF so that a breakpoint is passed
	mov eax, dr6
	or [fs:db_dr6], eax
	inc dword [fs:db_count]
	mov eax, 0xffff0ff0
	mov dr6, eax
	or dword [esp + 12], 0x10000	; RF
	pop eax
	iretd
main32:	mov word [idt32 + 8], db32
	FILL
	SETFLAGS 0
	BODY "32"
	TO_RING3 0
	FILL
	TF_ON
	nop
	TF_OFF
	COUNTED "32 u tf", 4, 0x4000
	TO_RING0
	TO_LM64
	jmp main64
	bits 64
%unmacro MOVDR 2
%unmacro READDR 1
%macro MOVDR 2
	mov dr%1, rax
%endmacro
%macro READDR 1
	mov rax, dr%1
%endmacro
%define XCX rcx
db64:	push rax
	mov rax, dr6
	or [abs db_dr6], eax
	inc dword [abs db_count]
	mov eax, 0xffff0ff0
	mov dr6, rax
	or dword [rsp + 24], 0x10000
	pop rax
	iretq
main64:	mov word [abs idt64 + 16], db64
	FILL
	SETFLAGS 0
	BODY "64"
	; SYSCALL clears TF by FMASK: the trap is not taken in the kernel
	mov ecx, 0xc0000080
	rdmsr
	or eax, 1
	wrmsr
	mov ecx, 0xc0000081
	xor eax, eax
	mov edx, SEL_CODE64
	wrmsr
	mov ecx, 0xc0000082
	mov eax, entry
	xor edx, edx
	wrmsr
	mov ecx, 0xc0000084
	mov eax, 0x700
	wrmsr
	TF_ON
	syscall
entry:	nop
	nop
	mov eax, SEL_DATA
	mov ss, eax
	COUNTED "!64 tf syscall", 0, 0
	SNAP "end"
	DONE
%include "end.inc"
