; SPDX-License-Identifier: MIT
; PUSH, POP and their families: sizes, wraps, the stack pointer as an operand, faults that commit nothing,
; and which flags POPF may change at which privilege.
%include "guest.inc"

%define ALLBITS 0x3f7fd7	; every defined flag
%define STK (SCRATCH + 0x1000)

; Sum of the 64 bytes below %1 + 32 into EAX, as a snapshot
%macro STACKSUM 1
 %if __BITS__ = 64
	mov [abs s_save], rsp
	mov rsp, STACK32
	mov esi, %1 - 32
	call sum64
	SNAP "stack bytes"
	mov rsp, [abs s_save]
 %else
	mov esi, %1 - 32
	call sum%+__BITS__
	SNAP "stack bytes"
 %endif
%endmacro

%macro SUMROUTINE 0
sum%+__BITS__:
	mov ecx, 16
	xor eax, eax
%%l:
 %if __BITS__ = 64
	add eax, [rsi]
 %else
	add eax, [esi]
 %endif
	rol eax, 7
	add esi, 4
	dec ecx
	jnz %%l
	xor esi, esi
	ret
%endmacro

; one instruction with a known stack of known contents
%macro AT 2+	; name, instruction
 %if __BITS__ = 64
	mov rsp, STK
 %elif __BITS__ = 32
	mov esp, STK
 %else
	mov esp, 0xec00
 %endif
	FILLSTACK
	FILL
	TRY %1, %2
 %if __BITS__ = 64
	STACKSUM STK
 %elif __BITS__ = 32
	mov esp, STACK32
	STACKSUM STK
 %else
	mov esp, STACK16
	STACKSUM 0xec00
 %endif
%endmacro

%macro FILLSTACK 0
 %if __BITS__ = 64
	mov rdi, rsp
	sub rdi, 64
 %else
	mov edi, esp
	sub edi, 64
 %endif
	mov ecx, 128
	mov al, 0x51
%%l:
 %if __BITS__ = 64
	mov [rdi], al
	inc rdi
 %else
	mov [edi], al
	inc edi
 %endif
	add al, 0x0b
	dec ecx
	jnz %%l
%endmacro

%macro COMMON3216 1	; 16- and 32-bit code; name prefix
 %strcat n %1, "push r16"
	AT n, push bx
 %strcat n %1, "push r32"
	AT n, push ebx
 %strcat n %1, "push sp"
	AT n, push sp
 %strcat n %1, "push esp"
	AT n, push esp
 %strcat n %1, "pop sp"
	AT n, pop sp
 %strcat n %1, "pop esp"
	AT n, pop esp
 %strcat n %1, "push imm8"
	AT n, push byte -3
 %strcat n %1, "push imm16"
	AT n, push word 0x9876
 %strcat n %1, "push imm32"
	AT n, push dword 0x98765432
 %strcat n %1, "o16 push imm8"
	AT n, o16 push byte -3
 %strcat n %1, "o32 push imm8"
	AT n, o32 push byte -3
 %strcat n %1, "push m16"
	AT n, push word [esp+6]
 %strcat n %1, "push m32"
	AT n, push dword [esp+6]
 %strcat n %1, "pop m16"
	AT n, pop word [esp+6]
 %strcat n %1, "pop m32"
	AT n, pop dword [esp+6]
 %strcat n %1, "pop m32 esp"
	AT n, pop dword [esp]
 %strcat n %1, "pop m32 esp-4"
	AT n, pop dword [esp-4]
 %strcat n %1, "pop r16"
	AT n, pop bx
 %strcat n %1, "pop r32"
	AT n, pop ebx
 %strcat n %1, "pusha"
	AT n, o16 pusha
 %strcat n %1, "pushad"
	AT n, o32 pusha
 %strcat n %1, "popa"
	AT n, o16 popa
 %strcat n %1, "popad"
	AT n, o32 popa
 %strcat n %1, "enter 0"
	AT n, enter 0x10, 0
 %strcat n %1, "leave"
	mov ebp, 0
	AT n, POINT_BP leave
 %strcat n %1, "o16 leave"
	AT n, POINT_BP o16 leave
 %strcat n %1, "o32 leave"
	AT n, POINT_BP o32 leave
 %strcat n %1, "enter 1"
	AT n, POINT_BP enter 0x10, 1
 %strcat n %1, "enter 2"
	AT n, POINT_BP enter 0x10, 2
 %strcat n %1, "enter 5"
	AT n, POINT_BP enter 0x20, 5
 %strcat n %1, "enter 31"
	AT n, POINT_BP enter 0, 31
 %strcat n %1, "enter 35"
	AT n, POINT_BP enter 4, 35
 %strcat n %1, "o16 enter 3"
	AT n, POINT_BP o16 enter 8, 3
%endmacro
; POINT_BP insn: two instructions under one TRY: EBP = ESP + 24, then insn
%macro POINT_BP 1+
 %if __BITS__ = 64
	lea rbp, [rsp+24]
 %else
	lea ebp, [esp+24]
 %endif
	%1
%endmacro

s_save:	dq 0

main:
	COMMON3216 "16 "
	AT "16 push cs", push cs
	AT "16 push ds", push ds
	AT "16 push fs", push fs
	mov ax, 0x1357
	mov gs, ax
	mov ax, 0x2468
	mov es, ax
	AT "16 push gs", push gs
	AT "16 push es", push es
	AT "16 push ss", push ss
	push word 0x1111
	pop gs
	push gs
	pop ax
	SNAP "16 pop gs"
	mov ax, 0
	mov gs, ax
	mov es, ax
	mov esp, 0x1234ec00
	push bx
	SNAP "16 high esp"
	mov esp, STACK16
	; real-mode segment loads
	push word 0x1357
	pop es
	push es
	pop eax
	pop bx
	mov ecx, [es:0]
	SNAP "16 pop es"
	push word 0
	pop es
	; SP wraps at 64 KiB
	mov ax, SCRATCH >> 4
	mov ss, ax
	mov esp, 0xabcd0000
	FILL
	push bx
	SNAP "16 wrap push"
	pop cx
	SNAP "16 wrap pop"
	push dword 0x11223344
	pushad
	SNAP "16 wrap pushad"
	popad
	SNAP "16 wrap popad"
	mov sp, 0xfffe
	pop dx
	SNAP "16 wrap pop to 0"
	enter 4, 0
	SNAP "16 wrap enter"
	leave
	SNAP "16 wrap leave"
	o32 enter 4, 0
	SNAP "!16 wrap o32 enter"
	FILL
	; PUSHA that would cross the end of the segment: QEMU checks no limits
	xor ax, ax
	mov ss, ax
	mov esp, STACK16
	FLAGMASK ALLBITS & ~0x20000
	; real mode: POPF may change all but VM VIF VIP
	push word 0x7ed7
	popf
	pushf
	pop ax
	SNAP "16 popf"
	push dword 0xfffffe57
	popfd
	pushfd
	pop eax
	SNAP "16 popfd"
	push dword 2
	popfd
	SNAP "16 popfd 2"
	FLAGMASK 0xcd5

	TO_PM32
	COMMON3216 "32 "
	AT "32 o16 push ds", o16 push ds
	AT "32 o16 push gs", o16 push gs
	; a 32-bit push of a selector writes 16 bits (QEMU writes 32)
	mov esp, STK
	mov dword [STK-4], 0xaaaaaaaa
	push ds
	mov eax, [STK-4]
	CHECK "!32 push ds", eax, 0xaaaa0000 + SEL_DATA
	xor eax, eax
	mov dword [STK-4], 0xbbbb0000 + SEL_DATA
	mov esp, STK-4
	pop es
	SNAP "32 pop es"
	mov esp, STACK32
	push dword SEL_TSS32
	TRY "32 pop es bad", pop es
	SNAP "32 pop es bad esp"
	pop eax
	push dword 0
	pop gs
	push dword 0
	TRY "32 pop ss null", pop ss
	mov eax, esp
	pop eax
	push dword SEL_DATA
	pop ss
	SNAP "32 pop ss"
	; a 16-bit stack under 32-bit code
	push dword SEL_DATA16
	mov ebx, esp
	pop ss
	mov esp, 0x1234e000
	FILL
	push ebx
	SNAP "32 ss16 push"
	pop ecx
	SNAP "32 ss16 pop"
	mov esp, 0x12340000
	push ebx
	SNAP "32 ss16 wrap"
	push bx
	pushad
	SNAP "32 ss16 pushad"
	popad
	mov sp, 0xe000
	enter 8, 2
	SNAP "!32 ss16 enter"
	leave
	SNAP "32 ss16 leave"
	call .ss16
	SNAP "32 ss16 call"
	jmp .flat
.ss16:	ret
.flat:	mov eax, SEL_DATA
	mov ss, eax
	mov esp, STACK32
	; POP SS holds off the single-step trap until after the next instruction
	VAR db_count, 0
	push dword SEL_DATA
	push dword 0x102
	popfd
	pop ss
	nop
	nop
	push dword 2
	popfd
	mov eax, [fs:db_count]
	SNAP "32 pop ss tf"
	; POPF by privilege and IOPL, IF and IOPL shown
	FLAGMASK ALLBITS
	push dword 0x3fbed7
	popfd
	SNAP "32 popfd cpl0"
	push dword 2
	popfd
	push word 0x3ed7
	popfw
	SNAP "32 popf cpl0"
	push dword 2
	popfd
	jmp rings

; ring 3 with IOPL 0 may not report: the flags come back in registers
%macro USERPOPF 2	; name, IOPL
	TO_RING3 %2
	push dword 0x3fbed7
	popfd
	pushfd
	pop esi
	push dword 0x203002
	popfd
	pushfd
	pop edi
	push word 0x3ed7
	popfw
	pushfw
	pop bx
	push dword 2
	popfd
	pushfd
	pop ebp
	TO_RING0
	SNAP %1
%endmacro

; TO_RING3 with IF = 1
rings:	USERPOPF "32 popf cpl3 iopl0", 0
	USERPOPF "32 popf cpl3 iopl2", 2
	USERPOPF "32 popf cpl3 iopl3", 3
	; CR4.PVI changes nothing for POPF
	mov eax, cr4
	or eax, 2
	mov cr4, eax
	USERPOPF "32 popf pvi", 0
	mov eax, cr4
	and eax, ~2
	mov cr4, eax
	jmp v86

%macro REPORT_V86 1	; registers after an instruction that may have faulted, from ring 0
	mov edx, [fs:x_vec]
	mov esi, [fs:x_err]
	mov edi, [fs:x_rip]
	sub edi, [fs:s_start]
	FROM_V86
	SNAP %1
%endmacro
%macro TRYV 2+
	mov dword [fs:s_recover], %%after
	mov dword [fs:s_start], %%start
	mov dword [fs:x_vec], -1
	mov dword [fs:x_rip], %%start
%%start:
	%2
%%after:
%endmacro

v86:	TO_V86 0x3000
	FILL
	push dword 0x3fbed7
	popfd
	pushfd
	pop ecx
	push word 0x0ed7
	popfw
	pushfw
	pop bx
	push dword 2
	popfd
	SNAP "v86 popf iopl3"
	FROM_V86
	TO_V86 0
	FILL
	TRYV "", pushf
	REPORT_V86 "v86 pushf iopl0"
	TO_V86 0
	FILL
	push word 2
	TRYV "", popf
	REPORT_V86 "v86 popf iopl0"
	TO_V86 0
	TRYV "", pushfd
	REPORT_V86 "v86 pushfd iopl0"
	; CR4.VME: 16-bit forms use VIF (QEMU has no VME)
	jmp vme
	bits 32
vme:	LAX novme
	mov eax, cr4
	or eax, 1
	mov cr4, eax
	TO_V86 0x80000
	FILL
	TRYV "", pushf
	pop bp
	movzx ebp, bp
	REPORT_V86 "!vme pushf vif"
	CHECK "!vme pushf image", ebp, 0x3202
	TO_V86 0
	FILL
	TRYV "", pushf
	pop bp
	movzx ebp, bp
	REPORT_V86 "!vme pushf"
	CHECK "!vme pushf image 0", ebp, 0x3002
	TO_V86 0
	push word 0x0202
	TRYV "", popf
	pushf
	pop bp
	movzx ebp, bp
	REPORT_V86 "!vme popf if"
	CHECK "!vme popf vif", ebp, 0x3202
	TO_V86 0x80000
	push word 0x0002
	TRYV "", popf
	pushf
	pop bp
	movzx ebp, bp
	REPORT_V86 "!vme popf no if"
	CHECK "!vme popf no vif", ebp, 0x3002
	TO_V86 0x100000
	push word 0x0202
	TRYV "", popf
	REPORT_V86 "!vme popf if vip"
	CHECK "!vme vip vector", edx, 13
	TO_V86 0x100000
	push word 0x0002
	TRYV "", popf
	REPORT_V86 "!vme popf vip"
	CHECK "!vme vip no vector", edx, 0xffffffff
	TO_V86 0
	push word 0x0102
	TRYV "", popf
	REPORT_V86 "!vme popf tf"
	CHECK "!vme tf vector", edx, 13
	TO_V86 0
	push dword 2
	TRYV "", popfd
	REPORT_V86 "!vme popfd"
	CHECK "!vme popfd vector", edx, 13
	mov eax, cr4
	and eax, ~1
	mov cr4, eax
novme:	FILL
	SETFLAGS 0
	FLAGMASK 0xcd5
	PAGING_ON
	PTE SCRATCH + 0x2000, 0
	TO_RING3 3
%macro PFS 2	; faults at a page that is gone: name prefix, bits
 %if %2 = 64
  %define xsp rsp
  %define xbp rbp
 %else
  %define xsp esp
  %define xbp ebp
 %endif
	mov xsp, SCRATCH + 0x3000
	FILL
 %strcat n %1, "pf push"
	TRY n, push xbp
 %strcat n %1, "pf push16"
	TRY n, push bx
 %strcat n %1, "pf push imm"
	TRY n, push byte 5
 %strcat n %1, "pf push mem"
	TRY n, push xword [xsp]
 %strcat n %1, "pf pushf"
	TRY n, pushf
 %strcat n %1, "pf enter"
	TRY n, enter 8, 0
	mov xsp, SCRATCH + 0x3004
 %strcat n %1, "pf enter 3"
	TRY n, enter 8, 3
	mov xsp, SCRATCH + 0x3010
 %strcat n %1, "!pf enter probe"
	mov xsp, SCRATCH + 0x2ffc
 %strcat n %1, "pf pop"
	TRY n, pop xbp
 %strcat n %1, "pf popf"
	TRY n, popf
	mov xsp, SCRATCH + 0x1ffe
 %strcat n %1, "pf pop split"
	TRY n, pop xbp
	mov xbp, SCRATCH + 0x1ffc
	TRY n, pop xword [xsp+0x100]
	mov xsp, SCRATCH + 0x1000
 %strcat n %1, "pf pop mem"
	TRY n, pop xword [xsp+0x1000]
	mov xbp, SCRATCH + 0x1ffe
 %strcat n %1, "pf leave"
	TRY n, leave
	mov xbp, SCRATCH + 0x2004
	mov xsp, SCRATCH + 0x1000
 %strcat n %1, "pf enter frame"
	TRY n, enter 8, 4
%endmacro
%macro PFS32 0
	mov esp, SCRATCH + 0x3010
	TRY "!32 pf pusha", pushad	; QEMU begins at the other end
	mov esp, SCRATCH + 0x1ff0
	FILL
	TRY "!32 pf popa", popad	; QEMU loads some registers
	CHECK "!32 pf popa edi", edi, 0x789abcde
%endmacro
%define xword dword
	PFS "32 ", 32
	PFS32
	mov esp, USTACK
	TO_RING0
	PTE SCRATCH + 0x2000, 7
	PAGING_OFF

	TO_LM64
	jmp lm
	bits 64
lm:	AT "64 push r", push rbx
	AT "64 push r15", push r15
	AT "64 push r16", push bx
	AT "64 push rsp", push rsp
	AT "64 push sp", push sp
	AT "64 pop rsp", pop rsp
	AT "64 pop r16", pop cx
	AT "64 pop r14", pop r14
	AT "64 push imm8", push byte -3
	AT "64 push imm32", push qword 0xffffffff98765432
	AT "64 push imm16", push word 0x9876
	AT "64 push m", push qword [rsp+6]
	AT "64 push m16", push word [rsp+6]
	AT "64 pop m", pop qword [rsp+6]
	AT "64 pop m rsp", pop qword [rsp]
	AT "64 pop m16", pop word [rsp+6]
	AT "64 push fs", push fs
	AT "64 push gs", push gs
	AT "64 o16 push gs", o16 push gs
	AT "64 enter 0", enter 0x10, 0
	AT "64 enter 1", POINT_BP enter 0x10, 1
	AT "64 enter 2", POINT_BP enter 0x10, 2
	AT "64 enter 5", POINT_BP enter 0x10, 5
	AT "64 leave", POINT_BP leave
	AT "64 o16 push/pushf", o16 pushf
	mov rsp, STACK32
	push qword SEL_DATA
	pop gs
	push qword SEL_TSS64
	TRY "64 pop gs bad", pop gs
	pop rax
	FLAGMASK ALLBITS
	push qword 0x3fbed7
	popfq
	SNAP "64 popf"
	push qword 2
	popfq
	SNAP "64 popf 2"
	push word 0x3ed7
	popfw
	SNAP "64 popf16"
	push qword 2
	popfq
	FLAGMASK 0xcd5
	TO_RING3 0
	push qword 0x203ed7
	popfq
	pushfq
	pop rsi
	push qword 2
	popfq
	TO_RING0
	SNAP "64 popf cpl3 iopl0"
	PTE SCRATCH + 0x2000, 0
%define xword qword
	PFS "64 ", 64
	mov rsp, STACK32
	; the memory operand's own fault leaves RSP alone
	mov rax, 0x8000000000000000
	push rbx
	TRY "64 pop m nc", pop qword [rax]
	; a fault in a later pass of a loop sees the flags of the pass before
	mov rsp, STACK32
	mov rsi, SCRATCH + 0x1fe0
	mov rdi, SCRATCH + 0x2100
	TRY "64 loop by cmp", call loop_cmp
	mov rsp, STACK32
	mov rsi, SCRATCH + 0x1fe0
	mov ecx, 80
	TRY "64 loop by sub", call loop_sub
	mov rsp, STACK32
	mov rsi, SCRATCH + 0x1fe0
	mov ecx, 4
	TRY "64 loop to its end", call loop_sub
	DONE
loop_cmp:
	mov rax, [rsi]
	add rsi, 8
	lea rdx, [rdx + rax]
	cmp rsi, rdi
	jne loop_cmp
	ret
loop_sub:
	mov rax, [rsi]
	add rsi, 8
	lea rdx, [rdx + rax]
	sub ecx, 1
	jnz loop_sub
	ret
	bits 16
	SUMROUTINE
	bits 32
	SUMROUTINE
	bits 64
	SUMROUTINE
%include "end.inc"
