; SPDX-License-Identifier: MIT
; String instructions in every code and address size: counts, directions, overlaps, wraps, faults in
; the middle, single-stepping.
%include "guest.inc"

%define LEN 0x600		; bytes that each case fills and sums

; BASE: where the case's memory begins as DS and ES see it
%macro REGS 0
 %if __BITS__ = 64
  %define xax rax
  %define xcx rcx
  %define xsi rsi
  %define xdi rdi
  %define BASE SCRATCH
 %else
  %define xax eax
  %define xcx ecx
  %define xsi esi
  %define xdi edi
  %if __BITS__ = 32
   %define BASE SCRATCH
  %else
   %define BASE 0
  %endif
 %endif
%endmacro

; name, instruction, count, source, destination, DF: registers and memory afterwards
%macro STR 6
	mov xcx, %3
	mov xsi, BASE + %4
	mov xdi, BASE + %5
	call strset%+__BITS__
 %if %6
	std
 %endif
	TRY %1, %2
	call strsum%+__BITS__
%endmacro

%macro STRALL 3	; suffix, element size, prefix of the names
 %strcat n1 %3, "movs1"
	STR n1, movs%1, 5, 0x10, 0x200, 0
 %strcat n1 %3, "movs1d"
	STR n1, movs%1, 5, 0x10, 0x200, 1
 %strcat n1 %3, "movs0"
	STR n1, rep movs%1, 0, 0x10, 0x200, 0
 %strcat n1 %3, "movs33"
	STR n1, rep movs%1, 33, 0x13, 0x205, 0
 %strcat n1 %3, "movs33d"
	STR n1, rep movs%1, 33, 0x113, 0x305, 1
 %strcat n1 %3, "movsup"		; propagates with the element's own period
	STR n1, rep movs%1, 100, 0x10, 0x10 + %2, 0
 %strcat n1 %3, "movsup3"
	STR n1, rep movs%1, 100, 0x10, 0x10 + 3 * %2, 0
 %strcat n1 %3, "movsup11"
	STR n1, rep movs%1, 100, 0x10, 0x1b, 0
 %strcat n1 %3, "movsup1"		; closer than an element
	STR n1, rep movs%1, 50, 0x10, 0x11, 0
 %strcat n1 %3, "movsdown1"
	STR n1, rep movs%1, 50, 0x11, 0x10, 0
 %strcat n1 %3, "movsdown5"
	STR n1, rep movs%1, 50, 0x15, 0x10, 0
 %strcat n1 %3, "movsup5d"
	STR n1, rep movs%1, 50, 0x200, 0x205, 1
 %strcat n1 %3, "movsup1d"
	STR n1, rep movs%1, 50, 0x200, 0x201, 1
 %strcat n1 %3, "movsdown9d"
	STR n1, rep movs%1, 50, 0x209, 0x200, 1
 %strcat n1 %3, "movsdown3d"
	STR n1, rep movs%1, 50, 0x203, 0x200, 1
 %strcat n1 %3, "movssame"
	STR n1, rep movs%1, 50, 0x203, 0x203, 0
 %strcat n1 %3, "movsf2"
	STR n1, repne movs%1, 9, 0x10, 0x200, 0
 %strcat n1 %3, "stos1"
	STR n1, stos%1, 5, 0x10, 0x200, 0
 %strcat n1 %3, "stos0"
	STR n1, rep stos%1, 0, 0x10, 0x200, 0
 %strcat n1 %3, "stos77"
	STR n1, rep stos%1, 77, 0x10, 0x203, 0
 %strcat n1 %3, "stos77d"
	STR n1, rep stos%1, 77, 0x10, 0x403, 1
 %strcat n1 %3, "lods1"
	STR n1, lods%1, 5, 0x13, 0x200, 0
 %strcat n1 %3, "lods9d"
	STR n1, rep lods%1, 9, 0x113, 0x200, 1
 %strcat n1 %3, "scas1"
	STR n1, scas%1, 9, 0x113, 0x200, 0
 %strcat n1 %3, "scasne"
	STR n1, repne scas%1, 100, 0, 0x400, 0
 %strcat n1 %3, "scase"
	STR n1, repe scas%1, 100, 0, 0x481, 0
 %strcat n1 %3, "scasned"
	STR n1, repne scas%1, 200, 0, 0x520, 1
 %strcat n1 %3, "scasend"
	STR n1, repne scas%1, 20, 0, 0, 0
 %strcat n1 %3, "cmps1"
	STR n1, cmps%1, 9, 0x113, 0x200, 0
 %strcat n1 %3, "cmpse"
	STR n1, repe cmps%1, 60, 0x500, 0x520, 0
 %strcat n1 %3, "cmpsealign"
	STR n1, repe cmps%1, 64, 0x480, 0x488, 0
 %strcat n1 %3, "cmpse0"
	STR n1, repe cmps%1, 0, 0x500, 0x520, 0
 %strcat n1 %3, "cmpsne"
	STR n1, repne cmps%1, 100, 0, 0x455, 0
 %strcat n1 %3, "cmpsed"
	STR n1, repe cmps%1, 60, 0x538, 0x518, 1
%endmacro

; Single-stepping: #DB after every iteration
%macro STEPPED 2+	; name, instruction
	mov xdi, BASE
	call meminit%+__BITS__
	FILL
	VAR db_count, 0
	mov xcx, 5
	mov xsi, BASE + 0x20
	mov xdi, BASE + 0x300
 %if __BITS__ = 64
	push qword 0x102
	popfq
 %else
	push dword 0x102
	popfd
 %endif
	%2
	nop
	SETFLAGS 0
 %if __BITS__ = 64
	mov eax, [abs db_count]
	mov ebx, [abs db_dr6]
 %else
	mov eax, [fs:db_count]
	mov ebx, [fs:db_dr6]
 %endif
	SNAP %1
%endmacro

; Fill LEN bytes at xDI: bytes that repeat rarely, then 0x80 bytes of 0x30, then 0x100 of period 32
%macro ROUTINES 0
	REGS
meminit%+__BITS__:
	mov ecx, LEN
	mov edx, 0x9e3779b9
%%l:	mov eax, edx
	imul edx, edx, 0x41c64e6d
	add edx, 0x3039
	shr eax, 24
	or al, 1
	cmp ecx, 0x180
	ja %%st
	cmp ecx, 0x100
	ja %%zero
	mov al, cl
	and al, 31
	add al, 0x40
	jmp %%st
%%zero:	mov al, 0x30
%%st:	mov [xdi], al
	inc xdi
	dec ecx
	jnz %%l
	ret
; EAX = sum of LEN bytes at xSI that depends on their order; EBX too
memsum%+__BITS__:
	mov ecx, LEN
	xor eax, eax
	xor ebx, ebx
%%s:	movzx edx, byte [xsi]
	add eax, edx
	rol eax, 5
	xor ebx, eax
	inc xsi
	dec ecx
	jnz %%s
	xor ecx, ecx
	xor edx, edx
	xor esi, esi
	xor edi, edi
	ret
; Everything before a case but its count and pointers
strset%+__BITS__:
	mov [fs:str_cx], xcx
	mov [fs:str_si], xsi
	mov [fs:str_di], xdi
	mov xdi, BASE
	call meminit%+__BITS__
	FILL
	mov eax, 0x30303030
 %if __BITS__ = 64
	mov rax, 0x3030303030303030
 %endif
	mov xcx, [fs:str_cx]
	mov xsi, [fs:str_si]
	mov xdi, [fs:str_di]
	SETFLAGS 0
	ret
; and after it
strsum%+__BITS__:
	cld
	mov xsi, BASE
	call memsum%+__BITS__
	SNAP "memory"
	ret
%endmacro

main:
	mov ax, SCRATCH >> 4
	mov ds, ax
	mov es, ax
	REGS
	STRALL b, 1, "16b "
	STRALL w, 2, "16w "
	STRALL d, 4, "16d "
	STR "16 a32 movs", a32 rep movsb, 33, 0x13, 0x205, 0
	STR "16 a32 stosd", a32 rep stosd, 33, 0x13, 0x205, 0
	; offsets wrap at 64 KiB; the bytes end up at both ends of the segment
	STR "16 wrap movsb", rep movsb, 0x40, 0x10, 0xffe0, 0
	STR "16 wrap src", rep movsb, 0x40, 0xffe8, 0x100, 0
	STR "16 wrap stosw", rep stosw, 0x40, 0, 0xffe0, 0
	STR "16 wrap movsd", rep movsd, 0x20, 0xffe0, 0x100, 0
	STR "16 wrap down", rep movsb, 0x40, 0x20, 0x400, 1
	STR "16 wrap scas", repne scasb, 0x7ff, 0, 0xff00, 0
	; the high half of ECX is not part of a 16-bit count
	mov xdi, BASE
	call meminit16
	FILL
	mov ecx, 0x50003
	mov esi, 0x70010
	mov edi, 0x60200
	TRY "16 high halves", rep movsb
	; source override
	mov ax, (SCRATCH >> 4) + 0x10
	mov gs, ax
	STR "16 gs movsb", gs rep movsb, 33, 0x13, 0x205, 0
	STR "16 gs lodsd", gs lodsd, 33, 0x13, 0x205, 0
	STR "16 gs cmpsb", gs repe cmpsb, 33, 0x20, 0x120, 0
	STEPPED "16 tf movsb", rep movsb
	STEPPED "16 tf stosd", rep stosd
	STEPPED "16 tf cmpsb", repe cmpsb
	; a word at the last byte of the segment
	mov ecx, 4
	mov esi, 0x10
	mov edi, 0xfffb
	TRY "!16 limit movsw", rep movsw
	CHECK "!16 limit di", edi, 0xffff
	xor ax, ax
	mov ds, ax
	mov es, ax

	TO_PM32
	REGS
	STRALL b, 1, "32b "
	STRALL w, 2, "32w "
	STRALL d, 4, "32d "
	mov eax, SEL_DATA
	mov gs, eax
	STR "32 gs movsb", gs rep movsb, 33, 0x13, 0x205, 0
	STEPPED "32 tf movsd", rep movsd
	STEPPED "32 tf scasb", repne scasb
	; 16-bit addresses in 32-bit code
	FILL
	mov ecx, 0x50010
	mov esi, 0x7fff8
	mov edi, 0x60000 + TMP
	mov dword [0xfff8], 0x11223344
	mov dword [0], 0x55667788
	TRY "32 a16 wrap", a16 rep movsb
	mov eax, [TMP]
	mov ebx, [TMP+8]
	mov ecx, [TMP+12]
	SNAP "32 a16 wrap m"
	; a segment of 0x2000 bytes: the limit stops in the middle (QEMU does not check limits)
	mov dword [gdt_test], 0x00001fff | ((SCRATCH + 0x8000) << 16) & 0xffff0000
	mov dword [gdt_test+4], 0x00409300 | (SCRATCH >> 16)
	mov ax, SEL_TEST
	mov es, ax
	FILL
	mov ecx, 0x100
	mov esi, SCRATCH + 0x4000
	mov edi, 0x1f80
	TRY "!32 limit movsb", rep movsb
	CHECK "!32 limit ecx", ecx, 0x80
	CHECK "!32 limit edi", edi, 0x2000
	mov ecx, 0x100
	mov edi, 0x1f81
	TRY "!32 limit stosd", rep stosd
	CHECK "!32 limit stosd ecx", ecx, 0x100 - 0x1f
	mov ax, SEL_DATA
	mov es, ax
	PAGING_ON
	REGS
	jmp pages32

%macro PAGES 1	; faults at page boundaries; name prefix
	PTE SCRATCH + 0x1000, 0
	PTE SCRATCH + 0x3000, 0
	PTE SCRATCH + 0x5000, 5
 %strcat n1 %1, "pf src"
	STR n1, rep movsb, 0x40, 0xff0, 0x2000, 0
 %strcat n1 %1, "pf dst"
	STR n1, rep movsb, 0x40, 0x200, 0xff0, 0
 %strcat n1 %1, "pf dst split"
	STR n1, rep movsd, 0x40, 0x200, 0xff2, 0
 %strcat n1 %1, "pf src split"
	STR n1, rep movsd, 0x40, 0xff2, 0x200, 0
 %strcat n1 %1, "pf down"
	STR n1, rep movsd, 0x40, 0x2010, 0x200, 1
 %strcat n1 %1, "pf down dst"
	STR n1, rep movsb, 0x40, 0x200, 0x2010, 1
 %strcat n1 %1, "pf stos"
	STR n1, rep stosd, 0x40, 0x200, 0xfe0, 0
 %strcat n1 %1, "pf stos at once"
	STR n1, rep stosd, 0x40, 0x200, 0x1000, 0
 %strcat n1 %1, "pf lods"
	STR n1, rep lodsw, 0x40, 0xff1, 0x1000, 0
	FLAGMASK 0
 %strcat n1 %1, "pf scas"
	STR n1, repne scasb, 0x40, 0, 0x2ff0, 0
 %strcat n1 %1, "pf cmps"
	STR n1, repe cmpsb, 0x40, 0x2ff0, 0x2ff0, 0
 %strcat n1 %1, "pf cmps dst"
	STR n1, repe cmpsb, 0x40, 0x2fe0, 0x2ff0, 0
	FLAGMASK 0xcd5
 %strcat n1 %1, "pages movsb"
	PTE SCRATCH + 0x1000, 7
	PTE SCRATCH + 0x3000, 7
	STR n1, rep movsb, 0x3456, 0x10, 0x4005, 0
 %strcat n1 %1, "pages up"
	STR n1, rep movsb, 0x3456, 0x10, 0x13, 0
 %strcat n1 %1, "pages down"
	STR n1, rep movsd, 0x800, 0x2ffd, 0x3000, 1
 %strcat n1 %1, "pages stos"
	STR n1, rep stosw, 0x1000, 0x10, 0xfff, 0
	mov dword [BASE + 0x2000], 0
	mov xdi, BASE + 0x1800
	mov xsi, BASE + 0x800
	mov xcx, 0x1800
 %strcat n1 %1, "pages cmps"
	TRY n1, repe cmpsb
	PTE SCRATCH + 0x5000, 5
%endmacro

pages32:
	PAGES "32 "
	TO_RING3 3
 	STR "32 ro user", rep movsb, 0x40, 0x200, 0x4ff0, 0
 	STR "32 ro user stos", rep stosd, 0x40, 0x200, 0x4ff2, 0
	STR "32 ro user read", rep movsb, 0x40, 0x4ff0, 0x200, 0
	TO_RING0
	PAGING_OFF
	TO_RM16
	TO_PM32
	TO_LM64
	REGS
	STRALL b, 1, "64b "
	STRALL w, 2, "64w "
	STRALL d, 4, "64d "
	STRALL q, 8, "64q "
	STEPPED "64 tf movsb", rep movsb
	STEPPED "64 tf stosq", rep stosq
	STEPPED "64 tf lodsb", rep lodsb
	PAGES "64 "
	; 32-bit addresses: the upper halves go
	mov rdi, BASE
	call meminit64
	FILL
	mov rcx, 0x1234567800000009
	mov rsi, 0x1234567800000000 + BASE
	mov rdi, 0x1234567800000200 + BASE
	TRY "64 a32", a32 rep movsb
	mov rcx, 0x1234567800000003
	mov rsi, 0x1234567800000000 + BASE
	TRY "64 a32 lods", a32 rep lodsq
	; Intel's answer to a zero count; QEMU leaves the registers alone
	mov rcx, 0x1234567800000000
	mov rsi, 0x1234567800000000 + BASE
	mov rdi, 0x1234567800000200 + BASE
	TRY "!64 a32 zero", a32 rep movsb
	CHECK "!64 a32 zero rcx", rcx, 0
	CHECK "!64 a32 zero rdi", rdi, 0x200 + BASE
	mov rcx, 0x1234567800000000
	TRY "!64 a32 zero scas", a32 repne scasb
	; segment bases of FS and GS
	mov ecx, 0xc0000101
	mov eax, 0x100
	xor edx, edx
	wrmsr
	STR "64 gs movsb", gs rep movsb, 33, 0x13, 0x205, 0
	; non-canonical
	mov rsi, 0x8000000000000000
	mov rdi, BASE
	mov rcx, 5
	TRY "64 nc src", rep movsb
	mov rsi, BASE
	mov rdi, 0x7ffffffffffffff0
	mov rcx, 5
	TRY "64 nc dst", rep movsb
	mov rdi, 0x7ffffffffffffff0
	TRY "64 nc stos", stosq
	; large moves
	cld
	mov rdi, 0x400000
	mov ecx, 0x100000 / 8
	mov rax, 0x0123456789abcdef
	rep stosq
	mov rsi, 0x400000
	mov rdi, 0x600003
	mov ecx, 0x100000
	TRY "64 1 MiB", rep movsb
	mov rsi, 0x400000
	mov rdi, 0x600003
	mov ecx, 0x100000
	TRY "64 1 MiB cmps", repe cmpsb
	TO_RING3 3
 	STR "64 ro user", rep movsb, 0x40, 0x200, 0x4ff0, 0
	; unaligned under #AC: EFLAGS.AC with CR0.AM clear does nothing
	push qword 0x40002
	popfq
	mov rdi, BASE + 1
	mov ecx, 5
	TRY "64 ac off", rep stosd
	TO_RING0
	mov rax, cr0
	or eax, 0x40000
	mov cr0, rax
	TO_RING3 3
	push qword 0x40002
	popfq
	mov rdi, BASE + 1
	mov ecx, 5
	TRY "64 ac movsb", rep stosb
	; QEMU has no alignment check
	mov rdi, BASE + 1
	mov ecx, 5
	TRY "!64 ac stosd", rep stosd
	CHECK "!64 ac rcx", rcx, 5
	mov rdi, BASE + 8
	mov ecx, 5
	TRY "64 ac aligned", rep stosq
	push qword 2
	popfq
	TO_RING0
	TO_COMPAT
	REGS
	mov eax, SEL_DATA
	mov ds, eax
	mov es, eax
	STR "compat movsb", rep movsb, 33, 0x13, 0x205, 0
	STR "compat stosd", rep stosd, 33, 0x13, 0x205, 0
	FROM_COMPAT
	DONE
str_cx:	dq 0
str_si:	dq 0
str_di:	dq 0
	bits 16
	ROUTINES
	bits 32
	ROUTINES
	bits 64
	ROUTINES
%include "end.inc"
