; SPDX-License-Identifier: MIT
; Far transfers and interrupts through every kind of descriptor: JMP, CALL, RET, IRET and INT over sweeps of
; access rights, at both privilege levels, in 32-bit and 64-bit mode.
%include "guest.inc"

%define SEL_A SEL_TEST		; the swept descriptor
%define SEL_G SEL_TEST + 0x10	; gate (two entries)
%define SEL_R1 SEL_TEST + 0x20	; code, ring 1
%define VEC 0x40

%macro AT 1
 %if __BITS__ = 64
  %define MEM [abs %1]
 %else
  %define MEM [fs:%1]
 %endif
%endmacro

	bits 16
main:
	TRY "16 call far", call 0:far16
	mov ax, cs
	SNAP "16 after call"
	TRY "16 call far32", call dword 0:far16d
	TRY "16 call far m", call far [fs:ptr16]
	LAX no_limit			; QEMU does not check limits
	TRY "!16 jmp far32 out", jmp dword 0:0x12345
no_limit:
	SETFLAGS 0
	xor eax, eax
	TRY "16 int", int 0x21
	jmp go
far16:	mov bx, 0x1616
	retf
far16d:	mov bx, 0x3232
	o32 retf
go:	TO_PM32
	bits 32
	jmp main32
	align 4
ptr16:	dw far16, 0
ptr_a:	dd 0
	dw SEL_A
	align 4
counter: dd 0
s_esp:	dd 0

; Every access byte (DPL 0 and 3), starting at %1
%macro SWEEP_BEGIN 1
	AT counter
	mov dword MEM, %1
%%loop:
 %push sweep
 %define %$loop %%loop
 %define %$next %%next
	AT counter
	mov eax, MEM
	AT gdt_test + 5
	mov MEM, al
	FILL
%endmacro
%macro SWEEP_END 0
%$next:	AT counter
	inc dword MEM
	cmp dword MEM, 256
	jae %%done
	mov eax, MEM
	and eax, 0x60
	jz near %$loop
	cmp eax, 0x60
	je near %$loop
	jmp %$next
%%done:
 %pop
%endmacro

; Only descriptors that are no TSS or gate
%macro NO_SYSTEM 0
	AT counter
	test byte MEM, 0x10
	jz near %$next
%endmacro

%macro BACK32 0
 %if __BITS__ = 32
	jmp SEL_CODE32:%%b
%%b:
 %endif
%endmacro

; ---- 32-bit, ring 0 -----------------------------------------------------------------------------------------
	bits 32
main32:	mov dword [gdt_test], 0x0000ffff
	mov dword [gdt_test+4], 0x00cf0000
	FLAGMASK 0
	SWEEP_BEGIN 0x10
	NO_SYSTEM
	TRY "32 jmp far", jmp SEL_A:.j1
.j1:	mov ecx, cs
	jmp SEL_CODE32:.j2
.j2:	movzx edx, byte [gdt_test+5]
	or dl, 1			; QEMU leaves "accessed" alone in code segments: looked at below
	SNAP "32 jmp far"
	TRY "32 call far", call SEL_A:ret32
	movzx edx, byte [gdt_test+5]
	or dl, 1
	SNAP "32 call far"
	mov [s_esp], esp
	push dword SEL_A
	push dword .r1
	TRY "32 retf", retf
.r1:	mov ecx, cs
	jmp SEL_CODE32:.r2
.r2:	mov esp, [s_esp]
	SNAP "32 retf"
	pushfd
	push dword SEL_A
	push dword .i1
	TRY "32 iret", iretd
.i1:	mov ecx, cs
	jmp SEL_CODE32:.i2
.i2:	mov esp, [s_esp]
	SNAP "32 iret"
	SWEEP_END

	mov byte [gdt_test+5], 0x98
	jmp SEL_A:.acc1
.acc1:	jmp SEL_CODE32:.acc2
.acc2:	movzx edx, byte [gdt_test+5]
	CHECK "!32 accessed", edx, 0x99

	; outer returns to ring 3 with every stack segment
	mov byte [gdt_test+5], 0x93
	SWEEP_BEGIN 0x90
	NO_SYSTEM
	mov [s_esp], esp
	mov byte [SCRATCH], 0
	push dword SEL_A | 3
	push dword USTACK
	push dword SEL_UCODE32
	push dword .u1
	TRY "32 retf outer", retf
	jmp .u2
.u1:	mov ecx, ss
	mov edx, ds
	mov ebx, esp
	mov eax, .u3
	int 0x80
.u3:	SNAP "32 retf outer ok"
.u2:	mov esp, [s_esp]
	mov byte [fs:gdt_test+5], 0x93
	SWEEP_END

	; null and bad selectors
	TRY "32 jmp null", jmp 0:ret32
	TRY "32 jmp rpl", jmp SEL_CODE32+3:ret32
	TRY "32 jmp beyond", jmp 0x7ff8:ret32
	TRY "32 jmp ldt", jmp 0x0c:ret32
	TRY "32 call data", call SEL_DATA:ret32
	push dword 0
	push dword ret32
	TRY "32 retf null", retf
	mov esp, STACK32
	push dword SEL_UCODE32
	push dword ret32
	TRY "32 retf ss null", o32 retf
	mov esp, STACK32
	push dword SEL_DATA
	push dword 0
	TRY "32 retf data", retf
	mov esp, STACK32

	; call gates: types 4 and 12, every target, parameters
	mov dword [gdt_test+0x20], 0x0000ffff	; ring 1 code
	mov dword [gdt_test+0x24], 0x00cfbb00
	mov dword [gdt_test], 0x0000ffff
	mov dword [gdt_test+4], 0x00cf9b00
	mov word [gdt_test+0x10], gate32
	mov word [gdt_test+0x12], SEL_A
	mov word [gdt_test+0x14], 0x8c00
	mov word [gdt_test+0x16], 0
	SWEEP_BEGIN 0x10
	NO_SYSTEM
	TRY "32 gate call", call SEL_G:0
	test byte [counter], 0x80
	jz .gnp
	TRY "32 gate jmp", jmp SEL_G:0x1234
	jmp .gj
.gnp:	TRY "!32 gate jmp np", jmp SEL_G:0x1234	; QEMU: #GP for a code segment that is not present
.gj:	mov ecx, cs
	jmp SEL_CODE32:.gj2
.gj2:	SNAP "32 gate jmp"
	SWEEP_END
	mov byte [gdt_test+5], 0x9b
	SWEEP_BEGIN 0			; the gate itself: system types, but TSSs and task gates
	mov byte [gdt_test+5], 0x9b
	mov al, [counter]
	test al, 0x10
	jnz near %$next
	and al, 7
	cmp al, 4
	jne near %$next
	mov al, [counter]
	mov [gdt_test+0x15], al
	TRY "32 gate dpl", call SEL_G:0
	TRY "32 gate rpl", call SEL_G+3:0
	SWEEP_END
	mov word [gdt_test+0x14], 0xec02
	TO_RING3 0
	FILL
	TRY "32 u gate inner", call SEL_G+3:0
	push dword 0x11111111
	push dword 0x22222222
	TRY "32 u gate params", call SEL_G+3:0
	TRY "32 u gate jmp", jmp SEL_G+3:0
	mov esp, USTACK
	TRY "32 u jmp ring 0", jmp SEL_CODE32:ret32
	TRY "32 u call ring 0", call SEL_CODE32:ret32
	mov esp, USTACK
	push dword SEL_CODE32
	push dword ret32
	TRY "32 u retf ring 0", retf
	mov esp, USTACK
	TO_RING0
	jmp gates32

ret32:	mov ebx, cs
	retf
gate32:	mov ebx, cs			; ends a call of any level, and a jump
	mov ecx, ss
	mov edx, esp
	cmp word [fs:gdt_test+0x14], 0xec02
	je .params
	test byte [fs:gdt_test+0x15], 8
	jz .narrow
	cmp dword [esp+4], SEL_CODE32
	jne .jumped
	cmp dword [esp], 0x10000
	jae .jumped
	retf
.narrow:
	o16 retf
.jumped:
	jmp main32.gj
.params:
	mov esi, [esp+8]
	mov edi, [esp+12]
	retf 8

; interrupt and trap gates: type, DPL and presence, then the target's rights
gates32:
	mov word [idt32 + VEC*8], intr32
	mov word [idt32 + VEC*8 + 2], SEL_CODE32
	mov word [idt32 + VEC*8 + 6], 0
	FLAGMASK 0x4cd5
	SWEEP_BEGIN 0
	mov byte [gdt_test+5], 0x9b
	mov al, [counter]
	mov cl, al
	and cl, 0x1f
	cmp cl, 5			; task gates have a test of their own
	je near %$next
	mov [idt32 + VEC*8 + 5], al
	FILL
	SETFLAGS 0x8d5
	TRY "32 int gate", int VEC
	SWEEP_END
	mov byte [idt32 + VEC*8 + 5], 0x8e
	mov word [idt32 + VEC*8 + 2], SEL_A
	SWEEP_BEGIN 0x10
	NO_SYSTEM
	TRY "32 int target", int VEC
	SWEEP_END
	mov word [idt32 + VEC*8 + 2], 0
	TRY "32 int null", int VEC
	mov word [idt32 + VEC*8 + 2], SEL_CODE32
	mov byte [idt32 + VEC*8 + 5], 0x8e
	TO_RING3 0
	TRY "32 u int dpl 0", int VEC
	mov byte [idt32 + VEC*8 + 5], 0xee
	TRY "32 u int", int VEC
	TRY "32 u int3", int3
	TRY "32 u into", into
	TRY "32 u int 128+", int 0xff
	TO_RING0
	; the stack of ring 1: every kind of SS in the TSS
	mov word [idt32 + VEC*8 + 2], SEL_R1
	mov dword [tss32+12], 0x1a000
	mov word [tss32+16], SEL_A | 1
	SWEEP_BEGIN 0x10
	NO_SYSTEM
	TO_RING3 0
	FILL
	mov al, [fs:counter]
	and al, 0x9f
	or al, 0x20
	mov [fs:gdt_test+5], al
	test al, 4
	jnz .ssnp
	test al, 0x80
	jz .ssnp
	TRY "32 u int ss", int VEC
	jmp .ssp
.ssnp:	TRY "!32 u int ss", int VEC	; QEMU: #TS for one that is not present; no limit of expand-down ones
.ssp:	mov byte [fs:gdt_test+5], 0xb3
	TRY "32 u int ss", int VEC
	TO_RING0
	jmp %$next
	SWEEP_END
	mov word [tss32+16], SEL_A
	mov byte [gdt_test+5], 0xb3
	TO_RING3 0
	TRY "32 u int ss rpl", int VEC
	mov word [fs:tss32+16], 1
	TRY "32 u int ss null", int VEC
	mov word [fs:tss32+16], 0x7ff9
	TRY "32 u int ss beyond", int VEC
	TO_RING0
	TO_LM64
	jmp main64

	bits 32
intr32:	mov ebx, cs
	mov ecx, ss
	mov edx, [esp+8]
	and edx, 0x10cd5
	pushfd
	pop esi
	and esi, 0x14fd5
	cmp byte [fs:idt32 + VEC*8 + 5], 0x8e
	je .wide
	mov al, [fs:idt32 + VEC*8 + 5]
	and al, 0x1f
	cmp al, 0x0e
	je .wide
	cmp al, 0x0f
	je .wide
	mov edx, [esp+4]
	and edx, 0xcd5
	o16 iret
.wide:	iretd

; ---- 64-bit ---------------------------------------------------------------------------------------------------
	bits 64
main64:	mov dword [abs gdt_test], 0x0000ffff
	mov dword [abs gdt_test+4], 0x00af0000
	FLAGMASK 0
	SWEEP_BEGIN 0x10
	NO_SYSTEM
	mov [abs s_esp], esp
	push qword SEL_A
	push qword .r1
	TRY "64 retf", o64 retf
.r1:	mov ecx, cs
	push qword SEL_CODE64
	push qword .r2
	o64 retf
.r2:	mov esp, [abs s_esp]
	SNAP "64 retf"
	mov eax, ss
	push rax
	push rsp
	pushfq
	push qword SEL_A
	push qword .i1
	TRY "64 iret", iretq
.i1:	mov ecx, cs
	push qword SEL_CODE64
	push qword .i2
	o64 retf
.i2:	mov esp, [abs s_esp]
	SNAP "64 iret"
	SWEEP_END
	FLAGMASK 0x4cd5
	; 64-bit call gate to every target
	mov dword [abs gdt_test+4], 0x00af9b00
	mov word [abs gdt_test+0x10], gate64
	mov word [abs gdt_test+0x12], SEL_A
	mov word [abs gdt_test+0x14], 0x8c00
	mov word [abs gdt_test+0x16], 0
	mov dword [abs gdt_test+0x18], 0
	mov dword [abs gdt_test+0x1c], 0
	SWEEP_BEGIN 0x10
	NO_SYSTEM
	TRY "64 gate call", call far dword [abs ptr_g]
	SWEEP_END
	mov byte [abs gdt_test+5], 0x9b
	mov byte [abs gdt_test+0x15], 0xec
	TO_RING3 0
	FILL				; QEMU: error code vector * 16 + 2 for gates
	TRY "64 u gate inner", call far dword [abs ptr_g]
	TRY "!64 u int dpl 0", int VEC
	TRY "!64 u int3", int3
	TO_RING0
	; target without L, and with D
	mov byte [abs gdt_test+6], 0xcf
	TRY "64 gate to 32", call far dword [abs ptr_g]
	mov byte [abs gdt_test+6], 0xef
	TRY "64 gate L and D", call far dword [abs ptr_g]
	mov byte [abs gdt_test+6], 0xaf
	mov dword [abs gdt_test+0x18], 0x8000
	LAX after_gate_nc
	TRY "!64 gate nc", call far dword [abs ptr_g]
	mov dword [abs gdt_test+0x18], 0
	mov dword [abs gdt_test+0x1c], 0x100
	TRY "!64 gate upper type", call far dword [abs ptr_g]
	mov dword [abs gdt_test+0x1c], 0
after_gate_nc:
	FILL
	SETFLAGS 0
	mov dword [abs gdt_test+0x18], 0
	mov byte [abs gdt_test+0x15], 0x84
	TRY "64 gate 16", call far dword [abs ptr_g]
	mov byte [abs gdt_test+0x15], 0x85
	TRY "64 task gate", call far dword [abs ptr_g]
	mov byte [abs gdt_test+0x15], 0x89
	TRY "64 call tss", call far dword [abs ptr_g]

	; interrupt gates: IST, types, stack alignment
	mov word [abs idt64 + VEC*16], intr64
	mov word [abs idt64 + VEC*16 + 2], SEL_CODE64
	SWEEP_BEGIN 0x80
	mov al, [abs counter]
	test al, 0x60
	jnz near %$next
	mov byte [abs gdt_test+5], 0x9b
	mov [abs idt64 + VEC*16 + 5], al
	mov byte [abs idt64 + VEC*16 + 4], 0
	FILL
	mov al, [abs counter]
	and al, 0x9e
	cmp al, 0x8e
	jne .bad
	SETFLAGS 0x8d5
	TRY "64 int gate", int VEC
	mov byte [abs idt64 + VEC*16 + 4], 1
	TRY "!64 int gate ist", int VEC	; QEMU: SS becomes null without a change of CPL
	jmp %$next
.bad:	TRY "!64 int gate", int VEC
	SWEEP_END
	mov byte [abs idt64 + VEC*16 + 5], 0x8e
	mov byte [abs idt64 + VEC*16 + 4], 0
	mov word [abs idt64 + VEC*16 + 2], SEL_CODE32
	TRY "64 int to 32", int VEC
	mov word [abs idt64 + VEC*16 + 2], 0
	TRY "64 int to null", int VEC
	mov word [abs idt64 + VEC*16 + 2], SEL_UCODE64
	TRY "64 int to outer", int VEC
	mov word [abs idt64 + VEC*16 + 2], SEL_CODE64
	mov rsp, STACK32 - 5
	TRY "64 int aligns", int VEC
	mov rsp, STACK32
	mov dword [abs tss64 + 0x24 + 4], 0x12345678
	mov byte [abs idt64 + VEC*16 + 4], 1
	TRY "64 ist nc", nop
	mov dword [abs tss64 + 0x24 + 4], 0
	; IRETQ with a null SS, with NT, to a non-canonical address
	push qword 0
	push qword STACK32
	push qword 2
	push qword SEL_CODE64
	push qword .n1
	TRY "64 iret null ss", iretq
.n1:	mov ecx, ss
	SNAP "64 iret null ss"
	mov eax, SEL_DATA
	mov ss, eax
	mov rsp, STACK32
	push qword 0x4002
	popfq
	TRY "64 iret nt", iretq
	SETFLAGS 0
	mov rsp, STACK32
	mov rax, 0x0000800000000000
	push qword SEL_DATA
	push qword STACK32
	push qword 2
	push qword SEL_CODE64
	push rax
	LAX after_nc
	TRY "!64 iret nc", iretq
after_nc:
	FILL
	SETFLAGS 0
	mov rsp, STACK32
	DONE

	align 4
ptr_g:	dd 0
	dw SEL_G
gate64:	mov ebx, cs
	mov ecx, ss
	mov edx, esp
	o64 retf
intr64:	mov ebx, cs
	mov ecx, ss
	mov edx, esp
	mov esi, [rsp+16]
	and esi, 0x10cd5
	iretq
%include "end.inc"
