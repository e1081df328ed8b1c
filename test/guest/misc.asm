; SPDX-License-Identifier: MIT
; Decimal arithmetic over all inputs, XLAT, BOUND, flag moves, LEA with every address size, INC/DEC, RDPID.
%include "guest.inc"

; Run an adjustment for all AL, CF and AF (and two AH); sum results and defined flags
%macro SWEEP 3+	; name, flags mask, instruction
	mov ebx, 0		; running sum
	mov esi, 0		; AL in bits 7:0, CF bit 8, AF bit 9, AH bit 10
%%next:	mov eax, esi
	shr eax, 8
	and eax, 1
	mov ecx, esi
	shr ecx, 5
	and ecx, 0x10
	or ecx, eax
	or ecx, 2
	mov eax, esi
	shr eax, 10
	imul eax, eax, 0x7f
	shl eax, 8
	mov edx, esi
	and edx, 0xff
	or eax, edx
	or eax, 0xabcd0000
	push ecx
	popfd
	%3
	pushfd
	pop ecx
	and ecx, %2
	add ebx, eax
	rol ebx, 3
	add ebx, ecx
	rol ebx, 5
	inc esi
	cmp esi, 0x800
	jne %%next
	FLAGMASK 0
	SNAP %1
	FLAGMASK 0xcd5
%endmacro

%macro DECIMAL 1
 %strcat n %1, "daa"
	SWEEP n, 0xd5, daa
 %strcat n %1, "das"
	SWEEP n, 0xd5, das
 %strcat n %1, "aaa"
	SWEEP n, 0x11, aaa
 %strcat n %1, "aas"
	SWEEP n, 0x11, aas
 %strcat n %1, "aam"
	SWEEP n, 0xc4, aam
 %strcat n %1, "aam 7"
	SWEEP n, 0xc4, aam 7
 %strcat n %1, "aam 255"
	SWEEP n, 0xc4, aam 255
 %strcat n %1, "aad"
	SWEEP n, 0xc4, aad
 %strcat n %1, "aad 0x93"
	SWEEP n, 0xc4, aad 0x93
 %strcat n %1, "salc"
	SWEEP n, 0xd5, salc
	FILL
	TRY "aam 0", aam 0
%endmacro

%macro BOUNDS 0
	mov word [TMP], -5
	mov word [TMP+2], 10
	mov ax, -5
	TRY "bound16 low", bound ax, [TMP]
	mov ax, 10
	TRY "bound16 high", bound ax, [TMP]
	mov ax, -6
	TRY "bound16 below", bound ax, [TMP]
	mov ax, 11
	TRY "bound16 above", bound ax, [TMP]
	mov dword [TMP], -50000
	mov dword [TMP+4], 100000
	mov eax, -50000
	TRY "bound32 low", bound eax, [TMP]
	mov eax, 100001
	TRY "bound32 above", bound eax, [TMP]
	mov eax, 0x80000000
	TRY "bound32 below", bound eax, [TMP]
%endmacro

%macro LAHFS 0	; every AH to the flags and back
	mov esi, 0
	mov ebx, 0
%%n:	mov eax, esi
	shl eax, 8
	SETFLAGS 0x800
	sahf
	mov eax, 0x5a5a5a5a
	lahf
	add ebx, eax
	rol ebx, 7
 %if __BITS__ = 64
	pushfq
	pop rcx
 %else
	pushfd
	pop ecx
 %endif
	and ecx, 0x8d5
	add ebx, ecx
	rol ebx, 3
	inc esi
	cmp esi, 256
	jne %%n
	SNAP "lahf sahf"
	std
	SNAP "std"
	cld
	SNAP "cld"
	stc
	SNAP "stc"
	cmc
	SNAP "cmc"
	clc
	SNAP "clc"
	pause
	nop
	db 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0
	SNAP "nops"
%endmacro

%macro LEA16 1
	FILL
	lea eax, [bx+si]
	lea ecx, [bx+di+0x1234]
	lea dx, [bp+si-5]
	lea esi, [bp+di+0x7f]
	SNAP %1
	FILL
	lea eax, [si]
	lea ecx, [di-0x80]
	lea dx, [bp]
	lea edi, [bx+0x8000]
	lea ebx, [0x9abc]
	SNAP %1
%endmacro
%macro LEA32 1
	FILL
	lea eax, [ebx+esi*4+0x1000]
	lea ecx, [ebx+ecx*8-5]
	lea dx, [ebp+esi*2]
	lea esi, [esp+0x7f]
	SNAP %1
	FILL
	lea eax, [edi*8+0x80000000]
	lea ecx, [ebp+ebp*4]
	lea bx, [edx+ecx]
	SNAP %1
%endmacro
%macro INCDEC 0
%rep 2
	mov eax, 0x7fff7fff
	mov ecx, 0xffffffff
	mov edx, 0x80008000
	mov ebx, 0x0f0fff7f
	SETFLAGS 1
	inc ax
	SNAP "inc"
	inc ecx
	SNAP "inc"
	dec dx
	SNAP "dec"
	inc bl
	SNAP "inc"
	inc bh
	SNAP "inc"
	dec ecx
	SETFLAGS 0
	SNAP "dec"
	dec bh
	SNAP "dec"
	dec cx
	SNAP "dec"
%endrep
%endmacro

main:	DECIMAL "16 "
	BOUNDS
	LAHFS
	LEA16 "16 lea a16"
	LEA32 "16 lea a32"
	INCDEC
	; XLAT: table of squares at TMP
	mov bx, TMP
	mov ecx, 255
.t:	mov eax, ecx
	imul eax, eax
	mov [ecx+TMP], al
	dec ecx
	jns .t
	mov eax, 0x12345611
	mov ebx, 0xffff0000 + TMP
	TRY "16 xlat", xlatb
	mov eax, 0x123456ff
	mov bx, 0xff80		; wraps: BX + AL = 0x7f
	TRY "16 xlat wrap", xlatb
	mov ax, (TMP >> 4) - 1
	mov gs, ax
	mov al, 3
	mov ebx, 0x10
	TRY "16 gs xlat", gs xlatb
	mov ebx, TMP
	mov al, 5
	TRY "16 a32 xlat", a32 xlatb
	TO_PM32
	DECIMAL "32 "
	BOUNDS
	LAHFS
	LEA16 "32 lea a16"
	LEA32 "32 lea a32"
	INCDEC
	mov eax, 0x12345611
	mov ebx, TMP
	TRY "32 xlat", xlatb
	mov ebx, 0xabcd0000 + TMP
	mov al, 7
	TRY "32 a16 xlat", a16 xlatb
	; LOCK where it is not allowed, and hints
	TRY "32 lock nop", db 0xf0, 0x90
	TRY "!32 lock bt", db 0xf0, 0x0f, 0xba, 0x20, 0x01
	PAGING_ON
	PTE SCRATCH + 0x1000, 0
	mov ebx, SCRATCH + 0xff0
	mov eax, 0x12345611
	TRY "32 xlat pf", xlatb
	mov dword [SCRATCH + 0xffc], 0
	mov ebx, SCRATCH + 0xffc
	TRY "32 bound pf", bound eax, [ebx]
	PAGING_OFF
	TO_LM64
	LAHFS
	INCDEC
	FILL
	lea rax, [rbx+rsi*4+0x1000]
	lea rcx, [r8+r9*8-5]
	lea edx, [r10+r11]
	lea r12w, [r13+r14*2]
	lea r15, [rsp+8]
	SNAP "64 lea"
	lea rax, [ebx+esi*4+0x70000000]
	lea ecx, [r8d+r9d*8-5]
	lea r10, [r11d-1]
	SNAP "64 lea a32"
	lea rax, [rel main]
	a32 lea rcx, [rel main]
	SNAP "64 lea rip"
	mov rbx, TMP
	mov eax, 0x12345611
	TRY "64 xlat", xlatb
	mov rbx, -0x80
	mov eax, 0x1234567f
	TRY "64 xlat top", xlatb
	mov rbx, 0x1234567800000000 + TMP
	mov al, 9
	TRY "64 a32 xlat", a32 xlatb
	mov rbx, 0x800000000000 - 0x10
	mov al, 0x10
	TRY "64 xlat nc", xlatb
	; undefined here
	TRY "64 daa", db 0x27
	TRY "64 aam", db 0xd4, 0x0a
	TRY "64 bound", db 0x62, 0x04, 0x24
	TRY "64 pusha", db 0x60
	TRY "64 push cs", db 0x0e
	TRY "64 salc", db 0xd6
	; QEMU 7.2 has no RDPID
	LAX .norpid
	mov ecx, 0xc0000103
	mov eax, 0x89abcdef
	mov edx, 0
	wrmsr
	mov rcx, -1
	rdpid rcx
	CHECK "!64 rdpid", rcx, 0x89abcdef
.norpid: FILL
	SETFLAGS 0
	TO_COMPAT
	FILL
	mov ebx, TMP
	mov al, 3
	TRY "compat xlat", xlatb
	FROM_COMPAT
	DONE
%include "end.inc"
