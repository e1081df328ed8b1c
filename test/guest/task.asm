; SPDX-License-Identifier: MIT
; Task switches by JMP, CALL, IRET, gates and interrupts, with what must fail before and after the switch; and
; virtual-8086 mode: what IOPL forbids, interrupts out of it, VME.
%include "guest.inc"

%define SEL_T SEL_TEST		; TSS of the other task
%define SEL_G SEL_TEST + 8	; task gate to it
%define SEL_T16 SEL_TEST + 0x10
%define TSS SCRATCH + 0x100
%define TSS16 SCRATCH + 0x200
%define TSTACK SCRATCH + 0x8000
%define VEC 0x40

	bits 16
main:	TO_PM32
	jmp main32
	bits 32

; The other task's state: %1 is where it begins
%macro NEW_TASK 1
	mov edi, TSS
	mov ecx, 26
	xor eax, eax
	cld
	rep stosd
	mov dword [TSS + 0x20], %1
	mov dword [TSS + 0x24], 0x8d7
	mov dword [TSS + 0x28], 0x11111111	; EAX ECX EDX EBX
	mov dword [TSS + 0x2c], 0x22222222
	mov dword [TSS + 0x30], 0x33333333
	mov dword [TSS + 0x34], 0x44444444
	mov dword [TSS + 0x38], TSTACK
	mov dword [TSS + 0x3c], 0x55555555
	mov dword [TSS + 0x40], 0x66666666
	mov dword [TSS + 0x44], 0x77777777
	mov dword [TSS + 0x48], SEL_DATA
	mov dword [TSS + 0x4c], SEL_CODE32
	mov dword [TSS + 0x50], SEL_DATA
	mov dword [TSS + 0x54], SEL_DATA
	mov dword [TSS + 0x58], SEL_DATA
	mov dword [TSS + 0x5c], SEL_DATA
	mov dword [TSS + 0x64], 0x680000
	mov dword [gdt_test], 0x00670000 | ((TSS) & 0xffff)
	mov dword [gdt_test], (((TSS) & 0xffff) << 16) | 0x67
	mov dword [gdt_test + 4], 0x8900 | ((TSS) >> 16)
	mov byte [gdt_tss32 + 5], 0x8b
%endmacro

; After a failure in the new task TR is the new one: come back by hand
%macro HOME 0
	mov byte [fs:gdt_tss32 + 5], 0x89
	mov ax, SEL_TSS32
	ltr ax
	pushfd
	and dword [esp], ~0x4000
	popfd
	clts
	mov eax, SEL_DATA
	mov gs, eax
	mov esp, STACK32
%endmacro

main32:	FILL
	SETFLAGS 0
	NEW_TASK jumped
	mov dword [gdt_test + 8], SEL_T << 16
	mov dword [gdt_test + 12], 0x8500
	FILL
	SETFLAGS 0x41
	jmp SEL_T:0x1234
after_jmp:
	mov ebx, [gdt_test + 4]		; busy no more
	mov ecx, [gdt_tss32 + 4]
	mov edx, cr0
	and edx, 8
	str eax
	SNAP "jmp back"
	mov eax, [tss32 + 0x28]
	mov edx, [tss32 + 0x20]
	mov ecx, [TSS + 0x38]
	SNAP "jmp saved"
	jmp calls

jumped:	SNAP "jmp tss"
	str ebx
	mov ecx, [gdt_test + 4]
	mov edx, [gdt_tss32 + 4]
	mov esi, cr0
	and esi, 8			; TS
	SNAP "jmp tss state"
	clts
	mov dword [tss32 + 0x20], after_jmp
	mov eax, 0
	mov [tss32 + 0x1c], eax		; CR3
	jmp SEL_TSS32:0

calls:	NEW_TASK called
	FILL
	SETFLAGS 0x41
	call SEL_T:0
	SNAP "call returned"
	str ebx
	mov ecx, [gdt_test + 4]
	mov edx, [gdt_tss32 + 4]
	SNAP "call returned state"
	call SEL_T:0			; goes on behind the IRET
	SNAP "call again"
	NEW_TASK called
	FILL
	call SEL_G:0
	SNAP "gate returned"
	; an interrupt through a task gate, and an exception with an error code
	mov word [idt32 + VEC * 8 + 2], SEL_T
	mov byte [idt32 + VEC * 8 + 5], 0x85
	NEW_TASK called
	FILL
	SETFLAGS 0x8d5
	int VEC
	SNAP "int returned"
	jmp failing

called:	pushfd
	pop eax
	and eax, 0x4000
	mov ebx, [TSS]			; the back link
	mov ecx, [gdt_test + 4]
	mov edx, [gdt_tss32 + 4]
	SNAP "called"
	clts
	iretd
	SNAP "called again"
	iretd

failing:
	clts
	; refused in the old task
	NEW_TASK called
	mov byte [gdt_test + 5], 0x8b
	FAULTS "busy", 13, SEL_T, call SEL_T:0
	mov byte [gdt_test + 5], 0x09
	FAULTS "not present", 11, SEL_T, call SEL_T:0
	mov byte [gdt_test + 5], 0x89
	mov byte [gdt_test], 0x66
	FAULTS "limit", 10, SEL_T, call SEL_T:0
	mov byte [gdt_test], 0x67
	FAULTS "rpl", 13, SEL_T, call SEL_T + 3:0
	mov byte [gdt_test + 13], 0x05
	FAULTS "gate np", 11, SEL_G, call SEL_G:0
	mov byte [gdt_test + 13], 0x85
	mov word [gdt_test + 10], SEL_DATA
	FAULTS "gate to data", 13, SEL_DATA, call SEL_G:0
	mov word [gdt_test + 10], SEL_T | 4
	FAULTS "!gate to ldt", 13, SEL_T, call SEL_G:0
	mov word [gdt_test + 10], SEL_T
	mov word [tss32], 0
	pushfd
	or dword [esp], 0x4000
	popfd
	FAULTS "iret null link", 10, 0, iretd
	mov word [tss32], SEL_T
	FAULTS "iret link not busy", 10, SEL_T, iretd
	pushfd
	and dword [esp], ~0x4000
	popfd
	TO_RING3 0
	FAULTS "u call dpl", 13, SEL_T, call SEL_T:0
	FAULTS "u gate dpl", 13, SEL_G, call SEL_G:0
	FAULTS "u int dpl", 13, VEC * 8 + 2, int VEC
	TO_RING0
	; refused in the new task: the saved CS is the new one's, so the records show where
	NEW_TASK called
	mov dword [TSS + 0x5c], SEL_CODE32 + 0x70
	FAULTS "!gs beyond", 10, 0x78, jmp SEL_T:0
	str eax
	SNAP "gs beyond tr"
	HOME
	FILL
	SETFLAGS 0
	; 16-bit TSS, there and back
	mov edi, TSS16
	mov ecx, 11
	xor eax, eax
	rep stosd
	mov word [TSS16 + 0x0e], task16
	mov word [TSS16 + 0x10], 0x8d7
	mov dword [TSS16 + 0x12], 0x22221111
	mov dword [TSS16 + 0x16], 0x44443333
	mov word [TSS16 + 0x1a], 0xd000
	mov word [TSS16 + 0x22], SEL_DATA
	mov word [TSS16 + 0x24], SEL_CODE32
	mov word [TSS16 + 0x26], SEL_DATA
	mov word [TSS16 + 0x28], SEL_DATA
	mov dword [gdt_test + 0x10], (((TSS16) & 0xffff) << 16) | 0x2b
	mov dword [gdt_test + 0x14], 0x8100 | ((TSS16) >> 16)
	mov byte [gdt_tss32 + 5], 0x8b
	FILL
	SETFLAGS 0
	call SEL_T16:0
	SNAP "16 returned"
	clts
	jmp v86

task16:	movzx eax, ax
	movzx ecx, cx
	movzx edx, dx
	movzx ebx, bx
	movzx ebp, bp
	movzx esi, si
	movzx edi, di
	movzx esp, sp
	push dword SEL_DATA
	pop fs
	SNAP "16 task"
	clts
	iretd

; ---- virtual-8086 mode ----------------------------------------------------------------------------------------
; Below IOPL 3 PUSHF is refused, so no record can be sent: vectors are kept and sent from ring 0.
%define RESULTS TMP		; below 64 KiB
%macro KEEP 4+			; number, name, vector, insn
	mov dword [fs:s_recover], %%after
	mov dword [fs:x_vec], -1
	%4
%%after:
	push dword [fs:x_vec]
	pop dword [fs:RESULTS + (%1) * 4]
	mov dword [fs:x_vec], -1
	mov dword [fs:s_recover], 0
 %xdefine name_%1 %2
 %xdefine vector_%1 %3
%endmacro
%macro TELL 2			; numbers from, to
 %assign n %1
 %rep %2 - %1 + 1
	mov eax, [RESULTS + n * 4]
	TELL1 name_%[n], vector_%[n]
 %assign n n+1
 %endrep
%endmacro
%macro TELL1 2
	CHECK %1, eax, %2
%endmacro

v86:	mov dword [idt32 + 0x21 * 8], intv86
	mov word [idt32 + 0x21 * 8 + 2], SEL_CODE32
	mov word [idt32 + 0x21 * 8 + 4], 0xee00
	mov word [idt32 + 0x21 * 8 + 6], 0
	mov byte [iomap + 0x1234 / 8], 0xff
	mov byte [iomap + 0x1234 / 8 + 1], 0xff
	FLAGMASK 0x23ed5
	TO_V86 0
	FILL
	KEEP 0, "v86 cli", 13, cli
	KEEP 1, "v86 sti", 13, sti
	KEEP 2, "v86 pushf", 13, pushf
	KEEP 3, "v86 popf", 13, popf
	KEEP 4, "v86 int", 13, int 0x21
	KEEP 5, "v86 iret", 13, iret
	KEEP 6, "v86 hlt", 13, hlt
	mov dx, 0x1234
	KEEP 7, "v86 in", 13, in al, dx
	mov dx, 0x1220
	KEEP 8, "v86 in allowed", -1, in al, dx
	KEEP 9, "v86 lgdt", 13, lgdt [fs:gdtr]
	KEEP 10, "v86 mov cr", 13, mov eax, cr0
	KEEP 11, "v86 lldt", 6, lldt ax
	KEEP 12, "v86 str", 6, str ax
	KEEP 13, "v86 lar", 6, lar ax, ax
	KEEP 14, "v86 arpl", 6, arpl ax, ax
	KEEP 15, "v86 vex", 6, db 0xc5, 0xf8, 0x77
	KEEP 16, "!v86 limit", 13, mov al, [fs:dword 0x10000]
	mov sp, STACK16
	FROM_V86
	TELL 0, 16
	TO_V86 0x3000
	FILL
	FAULTS "v86 3 sti", -1, 0, sti
	FAULTS "v86 3 cli", -1, 0, cli
	TRY "v86 3 pushf", pushf
	pop ax
	SNAP "v86 3 flags"
	push word 0x3ed7
	TRY "v86 3 popf", popf
	FAULTS "v86 3 int", -1, 0, int 0x21
	SNAP "v86 3 after int"
	FAULTS "v86 3 int dpl 0", 13, 0x20 * 8 + 2, int 0x20
	push word 0x3002
	push word 0
	push word .back
	iret
.back:	SNAP "v86 3 iret"
	FROM_V86
	LAX no_vme			; QEMU's translator knows no VIF
	; VME: INT 21H by the program's own table, INT 22H not; CLI and STI act on VIF
	mov eax, cr4
	or eax, 1
	mov cr4, eax
	mov dword [iomap - 32], 0
	mov dword [iomap - 32 + 4], 0xfffffffd
	mov dword [fs:0x21 * 4], own21
	TO_V86 0
	xor bx, bx
	KEEP 17, "!vme sti", -1, sti
	KEEP 18, "!vme cli", -1, cli
	KEEP 19, "!vme pushf", -1, pushf
	pop word [fs:RESULTS + 0x100]
	sti
	pushf
	pop word [fs:RESULTS + 0x104]
	KEEP 20, "!vme int own", -1, int 0x21
	mov [fs:RESULTS + 0x108], bx
	KEEP 21, "!vme int other", 13, int 0x22
	push word 0x0202
	KEEP 22, "!vme popf", -1, popf
	pushf
	pop word [fs:RESULTS + 0x10c]
	push word 0x0002
	KEEP 23, "!vme popf clear", -1, popf
	pushf
	pop word [fs:RESULTS + 0x110]
	mov sp, STACK16
	FROM_V86
	TELL 17, 23
	mov eax, [RESULTS + 0x100]
	mov ecx, [RESULTS + 0x104]
	mov edx, [RESULTS + 0x108]
	mov esi, [RESULTS + 0x10c]
	mov edi, [RESULTS + 0x110]
	SNAP "!vme flags"
	TO_V86 0x100000			; VIP
	KEEP 24, "!vme vip sti", 13, sti
	push word 0x0202
	KEEP 25, "!vme vip popf", 13, popf
	mov sp, STACK16
	FROM_V86
	TELL 24, 25
no_vme:	DONE
	bits 16
own21:	mov bx, 0x2121
	iret
	bits 32
intv86:	mov ebx, [esp + 12]
	mov ecx, [esp + 8]
	and ecx, 0x23ed5
	mov edx, ds
	mov esi, fs
	iretd
%include "end.inc"
