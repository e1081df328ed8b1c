; SPDX-License-Identifier: MIT
; State images: FXSAVE, the XSAVE family, the x87 environments; what is stored, what comes back, what is refused.
%include "guest.inc"

%define IMG SCRATCH
%define IMG2 SCRATCH + 0x1000

; Sum of %1 dwords at %2 into EAX
%macro SUM 2
	mov esi, %2
	mov ecx, %1
	xor eax, eax
%%l:	rol eax, 5
	add eax, [esi]
	add esi, 4
	dec ecx
	jnz %%l
%endmacro

; The image at %1 with what differs between processors taken out: instruction and data pointers, MXCSR_MASK
%macro NEUTRAL 1
	mov dword [%1 + 8], 0
	mov dword [%1 + 12], 0
	mov dword [%1 + 16], 0
	mov dword [%1 + 20], 0
	mov dword [%1 + 28], 0
	mov word [%1 + 6], 0
%endmacro

%macro CLEAR 1
	cld
	mov edi, %1
	mov ecx, 0x400
	xor eax, eax
	rep stosd
%endmacro

%macro LOADED 0			; a known x87 and SSE state
	fninit
	fldpi
	fld1
	fldl2e
	fldcw [cw]
	ldmxcsr [mxcsr]
	movups xmm0, [vec]
	movups xmm1, [vec + 4]
	movups xmm7, [vec + 8]
%endmacro

	bits 16
main:	fninit
	mov eax, cr4
	or eax, 0x600
	mov cr4, eax
	mov eax, cr0
	and eax, ~0xc
	or eax, 2
	mov cr0, eax
	fld1
	FAULTS "16 fnstenv", -1, 0, fnstenv [TMP]
	mov ax, [TMP + 4]
	SNAP "16 tag word"
	FAULTS "16 fldenv", -1, 0, fldenv [TMP]
	FAULTS "16 fnsave", -1, 0, fnsave [TMP]
	fnstsw ax
	SNAP "16 after fnsave"
	FAULTS "16 frstor", -1, 0, frstor [TMP]
	fnstsw ax
	SNAP "16 after frstor"
	FAULTS "16 fxsave", -1, 0, fxsave [TMP]
	FAULTS "16 fxsave misaligned", 13, 0, fxsave [TMP + 8]
	FAULTS "16 fxrstor", -1, 0, fxrstor [TMP]
	FAULTS "16 xsave", 6, 0, xsave [TMP]
	TO_PM32
	jmp main32
	align 16
cw:	dw 0x27f
	align 4
mxcsr:	dd 0x3f80
	align 16
vec:	dd 0x11223344, 0x55667788, 0x99aabbcc, 0xddeeff00, 0x12345678, 0x9abcdef0, 0x0f1e2d3c, 0x4b5a6978

%macro IMAGES 1			; name prefix
	LOADED
	CLEAR IMG
	CLEAR IMG2
 %strcat %%n %1, " fxsave"
	FAULTS %%n, -1, 0, fxsave [IMG]
	NEUTRAL IMG
	SUM 8 + 32, IMG
	SNAP %%n
	SUM 32, IMG + 160
	SNAP %%n
 %strcat %%n %1, " fxrstor"
	fninit
	xorps xmm0, xmm0
	xorps xmm7, xmm7
	FAULTS %%n, -1, 0, fxrstor [IMG]
	fxsave [IMG2]
	NEUTRAL IMG2
	SUM 8 + 32, IMG2
	SNAP %%n
	SUM 32, IMG2 + 160
	SNAP %%n
	mov dword [IMG + 24], 0x80000000
 %strcat %%n "!", %1, " fxrstor mxcsr"
	FAULTS %%n, 13, 0, fxrstor [IMG]
	mov dword [IMG + 24], 0x3f80
 %strcat %%n %1, " fxrstor misaligned"
	FAULTS %%n, 13, 0, fxrstor [IMG + 4]
	LOADED
 %strcat %%n %1, " fnstenv"
	FAULTS %%n, -1, 0, fnstenv [IMG]
	mov eax, [IMG]
	mov edx, [IMG + 8]
	movzx eax, ax
	movzx edx, dx
	SNAP %%n
 %strcat %%n %1, " fldenv"
	FAULTS %%n, -1, 0, fldenv [IMG]
 %strcat %%n %1, " fnsave"
	FAULTS %%n, -1, 0, fnsave [IMG]
	fnstcw [IMG2]
	movzx ebx, word [IMG2]
	SUM 20, IMG + 28
	SNAP %%n
 %strcat %%n %1, " frstor"
	FAULTS %%n, -1, 0, frstor [IMG]
	fnstsw ax
	movzx eax, ax
	SNAP %%n
%endmacro

; %1 prefix, %2 "64" or nothing
%macro XIMAGES 1-2
	LOADED
	CLEAR IMG
	mov eax, 3
	xor edx, edx
 %strcat %%n %1, " xsave"
	FAULTS %%n, -1, 0, xsave%2 [IMG]
	NEUTRAL IMG
	mov eax, [IMG + 512]
	mov edx, [IMG + 520]
	SNAP %%n
	SUM 8 + 32, IMG
	SNAP %%n
	SUM 32, IMG + 160
	SNAP %%n
 %strcat %%n %1, " xrstor init"
	mov dword [IMG + 512], 0
	mov eax, 3
	xor edx, edx
	FAULTS %%n, -1, 0, xrstor%2 [IMG]
	fnstcw [IMG2]
	movzx eax, word [IMG2]
	movd ebx, xmm1
	SNAP %%n
	mov dword [IMG + 512], 3
	mov eax, 3
	xor edx, edx
 %strcat %%n %1, " xrstor"
	FAULTS %%n, -1, 0, xrstor%2 [IMG]
	fnstcw [IMG2]
	movzx eax, word [IMG2]
	movd ebx, xmm1
	SNAP %%n
	mov dword [IMG + 512], 0x8000
	mov eax, 3
	xor edx, edx
 %strcat %%n %1, " xrstor bits"
	FAULTS %%n, 13, 0, xrstor%2 [IMG]
	mov dword [IMG + 512], 0
	mov dword [IMG + 528], 1
 %strcat %%n "!", %1, " xrstor header"
	FAULTS %%n, 13, 0, xrstor%2 [IMG]
	mov dword [IMG + 528], 0
 %strcat %%n %1, " xsave align"
	FAULTS %%n, 13, 0, xsave%2 [IMG + 16]
	LOADED
	CLEAR IMG
	mov eax, 3
	xor edx, edx
 %strcat %%n %1, " xsaveopt"
	FAULTS %%n, -1, 0, xsaveopt%2 [IMG]
	movzx ebx, byte [IMG + 512]
	mov ecx, [IMG + 160]
	SNAP %%n
	LAX %%no			; QEMU has neither XSAVEC nor XSAVES
	CLEAR IMG
	mov eax, 3
	xor edx, edx
 %strcat %%n "!", %1, " xsavec"
	FAULTS %%n, -1, 0, xsavec%2 [IMG]
	mov ebx, [IMG + 512]
	CHECK "!xsavec xstate_bv", ebx, 3
	mov ebx, [IMG + 524]
	CHECK "!xsavec xcomp_bv", ebx, 0x80000000
	CLEAR IMG
	mov eax, 3
	xor edx, edx
 %strcat %%n "!", %1, " xsaves"
	FAULTS %%n, -1, 0, xsaves%2 [IMG]
	mov ebx, [IMG + 524]
	CHECK "!xsaves xcomp_bv", ebx, 0x80000000
	xorps xmm1, xmm1
	mov eax, 3
	xor edx, edx
 %strcat %%n "!", %1, " xrstors"
	FAULTS %%n, -1, 0, xrstors%2 [IMG]
	movd ebx, xmm1
	CHECK "!xrstors xmm1", ebx, 0x55667788
	mov dword [IMG + 524], 0
	mov eax, 3
	xor edx, edx
 %strcat %%n "!", %1, " xrstors std"
	FAULTS %%n, 13, 0, xrstors%2 [IMG]
%%no:	FILL
	SETFLAGS 0
%endmacro

	bits 32
main32:	FILL
	SETFLAGS 0
	FLAGMASK 0
	IMAGES "32"
	mov eax, cr0
	or eax, 8
	mov cr0, eax
	FAULTS "32 fxsave ts", 7, 0, fxsave [IMG]
	FAULTS "32 fnstenv ts", 7, 0, fnstenv [IMG]
	FAULTS "32 frstor ts", 7, 0, frstor [IMG]
	clts
	mov eax, cr0
	or eax, 4
	mov cr0, eax
	FAULTS "32 fxrstor em", 7, 0, fxrstor [IMG]
	FAULTS "32 fnsave em", 7, 0, fnsave [IMG]
	and eax, ~4
	mov cr0, eax
	FAULTS "32 xsave off", 6, 0, xsave [IMG]
	mov eax, cr4
	or eax, 0x40000
	mov cr4, eax
	; XCR0: x87 stays, AVX needs SSE, reserved bits
	xor ecx, ecx
	xgetbv
	CHECK "32 xcr0", eax, 1
	mov eax, 2
	FAULTS "32 xcr0 no x87", 13, 0, xsetbv
	mov eax, 5
	FAULTS "32 xcr0 avx alone", 13, 0, xsetbv
	mov edx, 0x40000000
	mov eax, 3
	FAULTS "32 xcr0 reserved", 13, 0, xsetbv
	xor edx, edx
	mov ecx, 2
	FAULTS "32 xcr2", 13, 0, xsetbv
	FAULTS "32 xgetbv 2", 13, 0, xgetbv
	xor ecx, ecx
	FAULTS "32 xcr0", -1, 0, xsetbv
	XIMAGES "32"
	mov eax, cr0
	or eax, 8
	mov cr0, eax
	mov eax, 3
	xor edx, edx
	FAULTS "!32 xsave ts", 7, 0, xsave [IMG]
	FAULTS "!32 xrstor ts", 7, 0, xrstor [IMG]
	clts
	TO_LM64
	FILL
	SETFLAGS 0
	IMAGES "64"
	LOADED
	movups xmm15, [vec]
	CLEAR IMG
	FAULTS "64 fxsave64", -1, 0, fxsave64 [IMG]
	NEUTRAL IMG
	SUM 104, IMG
	SNAP "64 fxsave64"
	xorps xmm15, xmm15
	FAULTS "64 fxrstor64", -1, 0, fxrstor64 [IMG]
	movd ebx, xmm15
	CHECK "64 xmm15", rbx, 0x11223344
	XIMAGES "64"
	XIMAGES "64 rexw", 64
	DONE
%include "end.inc"
