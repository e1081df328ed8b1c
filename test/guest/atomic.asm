; SPDX-License-Identifier: MIT
; CMPXCHG8B/16B and bit tests with a register offset: results, LOCK, line and page crossings, faults.
%include "guest.inc"

%macro CX8 3+	; name, address, instruction
	FILL
	mov dword [%2], 0x11223344
	mov dword [%2 + 4], 0x55667788
	mov eax, 0x11223344
	mov edx, 0x55667788
	TRY %1, %3
	mov esi, [%2]
	mov edi, [%2 + 4]
	SNAP %1
	mov edx, 0
	TRY %1, %3
	mov esi, [%2]
	mov edi, [%2 + 4]
	SNAP %1
%endmacro

%macro BITS_OF 4	; name, base address, register width, prefix of the registers' names
%endmacro

; every bit instruction with the offset in a register
%macro BITCASE 4	; name, base register, offset register, offset value
	mov %2, SCRATCH + 0x800
	mov %3, %4
	FLAGMASK 1
	%strcat n %1, "bt"
	TRY n, bt [%2], %3
	%strcat n %1, "bts"
	TRY n, bts [%2], %3
	TRY n, bt [%2], %3
	%strcat n %1, "btr"
	TRY n, btr [%2], %3
	%strcat n %1, "btc"
	TRY n, btc [%2], %3
	%strcat n %1, "lock btc"
	TRY n, lock btc [%2], %3
	%strcat n %1, "lock bts"
	TRY n, lock bts [%2], %3
	%strcat n %1, "lock btr"
	TRY n, lock btr [%2], %3
	btc [%2], %3
	call sumbits%+__BITS__
	FLAGMASK 0xcd5
%endmacro

%macro SUMBITS 0
sumbits%+__BITS__:
	mov esi, SCRATCH
	mov ecx, 0x400
	xor eax, eax
%%l:
 %if __BITS__ = 64
	add eax, [rsi]
 %else
	add eax, [esi]
 %endif
	rol eax, 3
	add esi, 4
	dec ecx
	jnz %%l
	SNAP "bit memory"
	ret
%endmacro

main:	; real mode: the 16-bit forms
	FILL
	mov ebx, TMP
	mov dword [TMP], 0
	mov dword [TMP+4], 0
	mov dword [TMP-4], 0
	mov ax, 35
	TRY "16 bts", bts [bx], ax
	mov ax, -1
	TRY "16 bts -1", bts [bx], ax
	mov eax, -17
	TRY "16 lock bts -17", lock bts [bx], eax
	mov ecx, [TMP-4]
	mov edx, [TMP]
	mov esi, [TMP+4]
	SNAP "16 bit memory"
	mov bx, 0x10
	mov ax, 0x8000		; wraps below 0
	TRY "16 bt wrap", bt [bx], ax
	CX8 "16 cmpxchg8b", TMP, cmpxchg8b [TMP]
	CX8 "16 lock cmpxchg8b", TMP, lock cmpxchg8b [TMP]
	TO_PM32
	CX8 "32 cmpxchg8b", SCRATCH, cmpxchg8b [SCRATCH]
	CX8 "32 lock cmpxchg8b", SCRATCH, lock cmpxchg8b [SCRATCH]
	CX8 "32 cmpxchg8b odd", SCRATCH + 3, cmpxchg8b [SCRATCH + 3]
	CX8 "32 lock cmpxchg8b odd", SCRATCH + 3, lock cmpxchg8b [SCRATCH + 3]
	CX8 "32 lock cmpxchg8b line", SCRATCH + 0x3d, lock cmpxchg8b [SCRATCH + 0x3d]
	CX8 "32 lock cmpxchg8b page", SCRATCH + 0xffd, lock cmpxchg8b [SCRATCH + 0xffd]
	CX8 "32 cmpxchg8b page", SCRATCH + 0xffd, cmpxchg8b [SCRATCH + 0xffd]
	TRY "32 cmpxchg8b reg", db 0x0f, 0xc7, 0xc9
	mov edi, SCRATCH
	mov ecx, 0x1000
	mov al, 0
	cld
	rep stosb
	FILL
	BITCASE "32 +0 ", ebx, eax, 0
	BITCASE "32 +31 ", ebx, eax, 31
	BITCASE "32 +32 ", ebx, eax, 32
	BITCASE "32 +1000 ", ebx, eax, 1000
	BITCASE "32 -1 ", ebx, eax, -1
	BITCASE "32 -1000 ", ebx, eax, -1000
	BITCASE "32w +15 ", ebx, ax, 15
	BITCASE "32w +16 ", ebx, ax, 16
	BITCASE "32w -1 ", ebx, ax, -1
	BITCASE "32w -17 ", ebx, ax, 0xffef
	BITCASE "32w +5000 ", ebx, ax, 5000
	PAGING_ON
	PTE SCRATCH + 0x1000, 0
	PTE SCRATCH + 0x3000, 5
	FILL
	mov ebx, SCRATCH + 0x2000
	mov eax, -1
	; an access that reads and writes faults as a write (QEMU reads first)
	TRY "32 bt pf", bt [ebx], eax
	TRY "!32 bts pf", bts [ebx], eax
	TRY "!32 lock bts pf", lock bts [ebx], eax
	mov ebx, SCRATCH + 0xffe
	mov eax, 0
	TRY "!32 bts pf split", bts [ebx], eax
	TRY "!32 lock bts pf split", lock bts [ebx], eax
	TRY "!32 cmpxchg8b pf", cmpxchg8b [SCRATCH + 0x1000]
	TRY "!32 cmpxchg8b pf split", cmpxchg8b [SCRATCH + 0xffc]
	; unequal, read-only: the write faults all the same
	TO_RING3 3
	mov edx, 0x777
	TRY "32 cmpxchg8b ro", cmpxchg8b [SCRATCH + 0x3000]
	TRY "32 lock cmpxchg8b ro", lock cmpxchg8b [SCRATCH + 0x3000]
	mov eax, 5
	mov ebx, SCRATCH + 0x3000
	TRY "32 bt ro", bt [ebx], eax
	TRY "32 btr ro", btr [ebx], eax
	TO_RING0
	PAGING_OFF
	TO_LM64
	mov rdi, SCRATCH
	mov ecx, 0x1000
	mov al, 0
	cld
	rep stosb
	CX8 "64 cmpxchg8b", SCRATCH, cmpxchg8b [abs SCRATCH]
	CX8 "64 lock cmpxchg8b", SCRATCH, lock cmpxchg8b [abs SCRATCH]
	mov dword [abs SCRATCH], 0
	mov dword [abs SCRATCH+4], 0
	mov rax, 0xffffffff00000000
	mov rdx, 0xffffffff00000000
	TRY "64 cmpxchg8b high", cmpxchg8b [abs SCRATCH]
	mov rax, 0xffffffff00000001
	mov rdx, 0xffffffff00000001
	TRY "64 cmpxchg8b clear", cmpxchg8b [abs SCRATCH]
%macro CX16 2+
	FILL
	mov rax, 0x1122334455667788
	mov rdx, 0x99aabbccddeeff00
	mov [abs SCRATCH], rax
	mov [abs SCRATCH+8], rdx
	mov rbx, 0x0123456789abcdef
	mov rcx, 0xfedcba9876543210
	TRY %1, %2
	mov rsi, [abs SCRATCH]
	mov rdi, [abs SCRATCH+8]
	SNAP %1
	inc rdx
	TRY %1, %2
	mov rsi, [abs SCRATCH]
	mov rdi, [abs SCRATCH+8]
	SNAP %1
%endmacro
	FLAGMASK 0x40	; QEMU loses the other flags
	CX16 "64 cmpxchg16b", cmpxchg16b [abs SCRATCH]
	CX16 "64 lock cmpxchg16b", lock cmpxchg16b [abs SCRATCH]
	TRY "64 cmpxchg16b odd", cmpxchg16b [abs SCRATCH + 8]
	TRY "64 lock cmpxchg16b odd", lock cmpxchg16b [abs SCRATCH + 1]
	mov rdi, SCRATCH
	mov ecx, 0x1000
	mov al, 0
	rep stosb
	FILL
	BITCASE "64 +63 ", rbx, rax, 63
	BITCASE "64 +64 ", rbx, rax, 64
	BITCASE "64 +5000 ", rbx, rax, 5000
	BITCASE "64 -1 ", rbx, rax, -1
	BITCASE "64 -5000 ", rbx, rax, -5000
	BITCASE "64d -1 ", rbx, eax, -1
	BITCASE "64d +77 ", r9, r10d, 77
	BITCASE "64w -1 ", r9, r10w, -1
	BITCASE "64 odd ", rbx, rax, 0x7fff
	; 32-bit addresses wrap
	mov rbx, 0x1234567800000008
	mov rax, -0x80
	TRY "64 a32 bt", a32 bt [ebx], rax
	mov rbx, 0x7ffffffffff8
	mov eax, 64
	TRY "64 bt nc", bt [rbx], rax
	TRY "64 bts nc", bts [rbx], rax
	PTE SCRATCH + 0x1000, 0
	mov rbx, SCRATCH + 0x2000
	mov rax, -1
	TRY "64 bt pf", bt [rbx], rax
	TRY "!64 lock btr pf", lock btr [rbx], rax
	TRY "!64 cmpxchg16b pf", cmpxchg16b [abs SCRATCH + 0x1000]
	TRY "64 cmpxchg16b pf odd", cmpxchg16b [abs SCRATCH + 0x1008]
	DONE
	bits 16
	bits 32
	SUMBITS
	bits 64
	SUMBITS
%include "end.inc"
