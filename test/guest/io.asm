; SPDX-License-Identifier: MIT
; Port I/O: sizes, the permission bit map, string forms and their faults, I/O breakpoints.
; Port 0x87 (a DMA page register) keeps a byte, port 0xcf8 a doubleword.
%include "guest.inc"

%macro REGS 0
 %if __BITS__ = 64
  %define xcx rcx
  %define xsi rsi
  %define xdi rdi
 %else
  %define xcx ecx
  %define xsi esi
  %define xdi edi
 %endif
 %if __BITS__ = 16
  %define BASE 0
 %else
  %define BASE SCRATCH
 %endif
%endmacro

%macro INOUT 1	; name prefix
	REGS
	FILL
	mov dx, 0x87
	mov al, 0xa5
	out dx, al
	xor eax, eax
	in al, dx
 %strcat n %1, "in dx"
	SNAP n
	FILL
	mov al, 0x3c
	out 0x87, al
	mov eax, 0xffffffff
	in al, 0x87
 %strcat n %1, "in imm"
	SNAP n
	FILL
	mov dx, 0xcf8
	mov eax, 0x80abcd54
	out dx, eax
	FILL
	mov dx, 0xcf8
 %if __BITS__ = 64
	mov rax, -1
 %endif
	in eax, dx
 %strcat n %1, "in32"
	SNAP n
	; strings
	cld
	mov xdi, BASE + 0x100
	mov eax, 0x80112200
	mov xcx, 8
%%f:	mov [xdi], eax
	add xdi, 4
	add eax, 0x1104
	dec xcx
	jnz %%f
	mov dx, 0xcf8
	mov xsi, BASE + 0x100
	mov xcx, 8
 %strcat n %1, "rep outsd"
	TRY n, rep outsd
	in eax, dx
 %strcat n %1, "in after outsd"
	SNAP n
	mov dx, 0x87
	mov xsi, BASE + 0x11f
	mov xcx, 5
	std
 %strcat n %1, "rep outsb down"
	TRY n, rep outsb
	cld
	in al, dx
	SNAP n
	mov xsi, BASE + 0x100
	mov xcx, 7
	outsb
	in al, dx
 %strcat n %1, "outsb"
	SNAP n
	mov xcx, 0
	rep outsb
 %strcat n %1, "rep outsb 0"
	SNAP n
	mov xcx, 300
	mov xdi, BASE + 0xf80
	TRY "rep insb", rep insb
	mov eax, [BASE + 0x1000]
	mov ebx, [BASE + 0x10a8]
	SNAP "rep insb bytes"
	mov dx, 0xcf8
	mov xcx, 3
	mov xdi, BASE + 0xff9
	TRY "rep insd", rep insd
	mov eax, [BASE + 0x1000]
	mov ebx, [BASE + 0x1003]
	SNAP "rep insd bytes"
	mov xcx, 3
	mov xdi, BASE + 0x1008
	std
	TRY "rep insd down", rep insd
	cld
	mov eax, [BASE + 0x1000]
	SNAP "rep insd down bytes"
	mov xdi, BASE + 0x200
	insd
	mov eax, [BASE + 0x200]
	SNAP "insd"
	mov dx, PORT_STRICT
	; single-stepped
	VAR db_count, 0
	mov dx, 0x87
	mov xcx, 4
	mov xdi, BASE + 0x300
 %if __BITS__ = 64
	push qword 0x102
	popfq
 %else
	push dword 0x102
	popfd
 %endif
	rep insb
	nop
	SETFLAGS 0
 %if __BITS__ = 64
	mov eax, [abs db_count]
 %else
	mov eax, [fs:db_count]
 %endif
	SNAP "tf rep insb"
%endmacro

; Break on accesses to port 0x87: DR0, I/O, one byte; and to 0xcf8..0xcfb: DR1, four bytes
%macro IOBREAK 1
 %if __BITS__ = 64
  %define xax rax
 %else
  %define xax eax
 %endif
	mov xax, cr4
	or eax, 8
	mov cr4, xax
	mov eax, 0x87
	mov dr0, xax
	mov eax, 0xcf8
	mov dr1, xax
	mov eax, 0x00e2000a
	mov dr7, xax
	VAR db_count, 0
	VAR db_dr6, 0
	mov dx, 0x87
	in al, dx
	out dx, al
	mov dx, 0x86
	in ax, dx
	mov dx, 0x88
	in al, dx
	nop
 %if __BITS__ = 64
	mov ebx, [abs db_count]
	mov ecx, [abs db_dr6]
 %else
	mov ebx, [fs:db_count]
	mov ecx, [fs:db_dr6]
 %endif
	and eax, 0
 %strcat n %1, "io breakpoint"
	SNAP n
	VAR db_count, 0
	VAR db_dr6, 0
	mov dx, 0xcf8
	in eax, dx
	mov dx, 0x87
	mov xcx, 3
	mov xsi, BASE
	rep outsb
	nop
	mov dword [BASE], 0
				; QEMU leaves a repeated OUTS after the first trap
	mov xsi, 3
	xor eax, eax
	mov dr7, xax
 %if __BITS__ = 64
	mov ebx, [abs db_count]
	mov ecx, [abs db_dr6]
 %else
	mov ebx, [fs:db_count]
	mov ecx, [fs:db_dr6]
 %endif
 %strcat n "!", %1, "io breakpoint 2"
	SNAP n
	CHECK n, ebx, 4
	mov ebx, 0
	mov xax, cr4
	and eax, ~8
	mov cr4, xax
%endmacro

; Ring 3, IOPL 0: the map decides. It has the macro's ports open.
%macro BITMAP 1
	mov byte [iomap + 0x80/8], 0x80		; port 0x87
	mov byte [iomap + 0x90/8], 0x01		; port 0x90
	mov byte [iomap + 0xcf8/8], 0x08	; port 0xcfb
	TO_RING3 0
	FILL
	mov dx, 0x87
 %strcat n %1, "map in"
	TRY3 n, in al, dx
 %strcat n %1, "map out imm"
	TRY3 n, out 0x87, al
	mov dx, 0x86
 %strcat n %1, "map in 86"
	TRY3 n, in al, dx
 %strcat n %1, "map in16 86"
	TRY3 n, in ax, dx
	mov dx, 0x8f
 %strcat n %1, "map in16 8f"
	TRY3 n, in ax, dx
	mov dx, 0x8d
 %strcat n %1, "map in32 8d"
	TRY3 n, in eax, dx
	mov dx, 0xcf8
 %strcat n %1, "map in32 cf8"
	TRY3 n, in eax, dx
	mov dx, 0x87
	mov xcx, 3
	mov xsi, SCRATCH
	mov xdi, SCRATCH
 %strcat n %1, "map rep insb"
	TRY3 n, rep insb
 %strcat n %1, "map rep outsb"
	TRY3 n, rep outsb
	mov dx, 0x2fff		; beyond the limit of the TSS
 %strcat n %1, "map beyond"
	TRY3 n, in al, dx
	mov dx, 0x1fff
 %strcat n %1, "map last"
	TRY3 n, in al, dx
	TO_RING0
	mov byte [iomap + 0x80/8], 0
	mov byte [iomap + 0x90/8], 0
	mov byte [iomap + 0xcf8/8], 0
%endmacro
; with IOPL 0 POPF works, and the map leaves 0xe9 open: TRY as it is, but the data read is not of interest
%macro TRY3 2+
	TRY %1, %2
	mov eax, 0
%endmacro

main:	mov ax, SCRATCH >> 4
	mov ds, ax
	mov es, ax
	INOUT "16 "
	IOBREAK "16 "
	; the source of OUTS obeys an override, the destination of INS does not
	mov ax, (SCRATCH >> 4) + 0x10
	mov gs, ax
	mov dword [0x100], 0x80111100
	mov dword [0x200], 0x80222200
	mov si, 0x100
	mov dx, 0xcf8
	gs outsd
	in eax, dx
	SNAP "16 gs outsd"
	mov di, 0x80
	gs insd
	mov eax, [0x80]
	SNAP "16 gs insd"
	; a word at the end of the segment (QEMU checks no limits)
	mov edi, 0xffff
	mov dx, 0xcf8
	TRY "!16 limit insd", insd
	CHECK "!16 limit insd di", edi, 0xffff
	mov esi, 0xfffe
	TRY "!16 limit outsd", outsd
	CHECK "!16 limit outsd si", esi, 0xfffe
	xor ax, ax
	mov ds, ax
	mov es, ax
	TO_PM32
	INOUT "32 "
	IOBREAK "32 "
	BITMAP "32 "
	; no map at all
	mov word [tss32 + 102], 0x2100
	TO_RING3 3
	mov dx, 0x87
	TRY "32 iopl3", in al, dx
	TO_RING0
	mov word [tss32 + 102], iomap - tss32
	; virtual-8086 mode looks at the map whatever IOPL is
	mov byte [iomap + 0x80/8], 0x80
	TO_V86 0x3000
	FILL
	mov dx, 0x87
	TRY "v86 map", in al, dx
	mov dx, 0xcf8
	TRY "v86 open", in eax, dx
	FROM_V86
	mov byte [iomap + 0x80/8], 0
	PAGING_ON
	PTE SCRATCH + 0x1000, 0
	FILL
	mov dx, 0x87
	mov ecx, 0x40
	mov edi, SCRATCH + 0xff0
	TRY "32 insb pf", rep insb
	mov dx, 0xcf8
	mov ecx, 0x40
	mov edi, SCRATCH + 0xff2
	TRY "32 insd pf split", rep insd
	mov ecx, 0x40
	mov esi, SCRATCH + 0xff2
	TRY "32 outsd pf split", rep outsd
	mov dx, 0x87
	mov ecx, 0x40
	mov esi, SCRATCH + 0xff0
	TRY "32 outsb pf", rep outsb
	mov esi, SCRATCH + 0x1000
	TRY "32 outsb pf first", rep outsb
	PTE SCRATCH + 0x1000, 7
	PAGING_OFF
	TO_LM64
	INOUT "64 "
	IOBREAK "64 "
	BITMAP "64 "
	PTE SCRATCH + 0x1000, 0
	FILL
	mov dx, 0x87
	mov ecx, 0x40
	mov edi, SCRATCH + 0xff0
	TRY "64 insb pf", rep insb
	mov dx, 0xcf8
	mov rcx, 0x100000040
	mov rdi, 0x100000000 + SCRATCH + 0xff2
	TRY "64 a32 insd pf", a32 rep insd
	mov rcx, 0x40
	mov rsi, SCRATCH + 0xff2
	TRY "64 outsd pf split", rep outsd
	mov rsi, 0x8000000000000000
	TRY "64 outsd nc", outsd
	mov rdi, 0x8000000000000000
	TRY "64 insd nc", insd
	DONE
%include "end.inc"
