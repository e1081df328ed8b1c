; SPDX-License-Identifier: MIT
; Segment registers and questions about descriptors: every access-rights byte, at both ends of privilege and
; RPL, in 32-bit and 64-bit mode; null selectors, table limits, the LDT, faults on stores of table registers.
%include "guest.inc"

	bits 16
main:
	TRY "16 lar", lar ax, bx
	TRY "16 sldt", sldt ax
	TRY "16 str", str ax
	TRY "16 verr", verr ax
	TRY "16 lldt", lldt ax
	TRY "16 ltr", ltr ax
	TRY "16 arpl", arpl ax, bx
	mov ax, 0x1234
	TRY "16 mov es", mov es, ax
	TRY "16 mov from es", mov ebx, es
	TRY "16 mov cs", db 0x8e, 0xc8
	TRY "16 mov sreg 6", db 0x8e, 0xf0
	xor ax, ax
	mov es, ax
	TRY "16 sgdt", sgdt [es:TMP]
	TRY "16 lds", lds bx, [fs:farptr]
	mov cx, ds
	SNAP "16 lds"
	xor ax, ax
	mov ds, ax
	TO_PM32


%macro AT 1		; memory operand for variables of the test
 %if __BITS__ = 64
  %define MEM [abs %1]
 %else
  %define MEM [fs:%1]
 %endif
%endmacro

%macro SWEEP 3		; name prefix, RPL, with SS
	AT counter
	mov dword MEM, 0
%%l:	AT counter
	mov eax, MEM
	AT gdt_test + 5
	mov MEM, al
 %if __BITS__ = 64
	test al, 0x10		; QEMU knows 16-bit system types in IA-32e mode too: see SYSTEM
	jz near %%next
 %endif
	FILL
	mov ebx, SEL_TEST | %2
 %strcat n %1, "lar"
	TRY n, lar eax, ebx
 %strcat n %1, "lsl"
	TRY n, lsl edx, ebx
 %strcat n %1, "verr"
	TRY n, verr bx
 %strcat n %1, "verw"
	TRY n, verw bx
 %strcat n %1, "mov gs"
	TRY n, mov gs, ebx
	mov ecx, gs
	AT gdt_test + 5
	movzx edx, byte MEM
 %strcat n %1, "gs"
	SNAP n
 %if %3
 %strcat n %1, "mov ss"
	TRY n, mov ss, ebx
	mov ecx, ss
	AT gdt_test + 5
	movzx edx, byte MEM
 %strcat n %1, "ss"
	SNAP n
	mov eax, SEL_DATA
	mov ss, eax
 %endif
%%next:	AT counter
	inc dword MEM
	mov eax, MEM
	and eax, 0x60		; DPL 0 and 3 are enough
	jz near %%l
	cmp eax, 0x60
	je near %%l
	cmp dword MEM, 256
	jb near %%next
%endmacro

; The sixteen limits and flags that LSL scales, in a data segment
%macro LIMITS 1
	FILL
	AT gdt_test + 5
	mov byte MEM, 0x93
	AT gdt_test + 6
	mov byte MEM, 0
%%l:	mov ebx, SEL_TEST
	FLAGMASK 0x40
 %strcat n %1, "lsl flags"
	TRY n, lsl eax, ebx
	TRY n, lar edx, ebx
	AT gdt_test + 6
	add byte MEM, 0x10
	jnz near %%l
	FLAGMASK 0xcd5
	AT gdt_test + 6
	mov byte MEM, 0xcf
%endmacro

%macro NULLS 1
 %assign rpl 0
 %rep 4
	mov eax, rpl
 %strcat n %1, "null gs"
	TRY n, mov gs, eax
  %if __BITS__ = 32 || rpl = 0	; QEMU lets RPL differ from CPL in 64-bit mode
	mov eax, rpl
 %strcat n %1, "null ss"
	TRY n, mov ss, eax
	mov ecx, ss
	SNAP n
	mov eax, SEL_DATA
	mov ss, eax
  %endif
	mov eax, rpl
 %strcat n %1, "null lar"
	TRY n, lar ecx, eax
  %assign rpl rpl+1
 %endrep
	mov eax, 0xfff8
 %strcat n %1, "beyond gdt"
	TRY n, mov gs, eax
	TRY n, mov ss, eax
	TRY n, lar ecx, eax
	TRY n, ltr ax
	TRY n, lldt ax
	mov eax, 0x0c
 %strcat n %1, "no ldt"
	TRY n, mov gs, eax
	TRY n, lsl ecx, eax
	mov eax, SEL_DATA
	mov gs, eax
 %if __BITS__ = 64
	LAX %%norpl
	mov eax, 3
	TRY "!64 null ss rpl", mov ss, eax
%%norpl:
	SETFLAGS 0
 %endif
%endmacro

; LDT in the second test entry: 16 bytes of GDT in 64-bit mode
%macro LDT 1
	AT gdt_test + 8
	mov word MEM, 15
	AT gdt_test + 10
	mov word MEM, ldt
	AT gdt_test + 12
	mov dword MEM, 0x8200
	AT gdt_test + 16
	mov dword MEM, 0
	AT gdt_test + 20
	mov dword MEM, 0
	mov eax, SEL_TEST + 8
 %strcat n %1, "lldt"
	TRY n, lldt ax
	TRY n, sldt ecx
	mov eax, 0x0c
 %strcat n %1, "ldt gs"
	TRY n, mov gs, eax
	mov ecx, [gs:16]
	SNAP n
	mov eax, 0x14
	TRY n, mov gs, eax
	AT gdt_test + 13
	mov byte MEM, 0x02
	mov eax, SEL_TEST + 8
 %strcat n %1, "lldt np"
	TRY n, lldt ax
	AT gdt_test + 13
	mov byte MEM, 0x89
 %strcat n %1, "lldt tss"
	TRY n, lldt ax
	AT gdt_test + 13
	mov byte MEM, 0x8b
 %strcat n %1, "ltr busy"
	TRY n, ltr ax
	AT gdt_test + 13
	mov byte MEM, 0x09
 %strcat n %1, "ltr np"
	TRY n, ltr ax
	xor eax, eax
 %strcat n %1, "null lldt"
	TRY n, lldt ax
	LAX %%noltr		; QEMU loads a null TR
	xor eax, eax
 %strcat n "!", %1, "null ltr"
	TRY n, ltr ax
%%noltr:
	SETFLAGS 0
	mov eax, SEL_DATA
	mov gs, eax
%endmacro

%macro STORES 1
	FILL
 %strcat n %1, "sldt"
	TRY n, sldt eax
	TRY n, sldt cx
 %strcat n %1, "str"
	TRY n, str eax
	TRY n, str cx
	AT TMP
 %strcat n %1, "str mem"
	mov dword MEM, -1
	TRY n, str MEM
	mov ecx, MEM
	SNAP n
	mov dword MEM, -1
	AT TMP + 4
	mov dword MEM, -1
	AT TMP + 8
	mov dword MEM, -1
	AT TMP
 %strcat n %1, "sgdt"
	TRY n, sgdt MEM
	mov ecx, MEM
	AT TMP + 4
	mov edx, MEM
	AT TMP + 8
	mov ebx, MEM
	SNAP n
 %strcat n %1, "smsw"
	TRY n, smsw cx
	AT TMP
	mov dword MEM, -1
	TRY n, smsw MEM
	mov edx, MEM
	and edx, 0xffff000f
	SNAP n
%endmacro

	bits 32
	mov dword [gdt_test], 0x0000ffff
	mov dword [gdt_test+4], 0x00cf0000
	FLAGMASK 0x40
	SWEEP "32 r0 ", 0, 1
	SWEEP "32 r3 ", 3, 0
	FLAGMASK 0xcd5
	LIMITS "32 "
	NULLS "32 "
	LDT "32 "
	STORES "32 "
	FILL
	mov eax, 0x1230
	mov ecx, 0x4563
	TRY "32 arpl", arpl ax, cx
	TRY "32 arpl again", arpl ax, cx
	mov dword [TMP], 0x77777771
	TRY "32 arpl mem", arpl [TMP], cx
	mov ecx, [TMP]
	SNAP "32 arpl mem"
	TRY "32 les", les ebx, [farptr32]
	mov ecx, es
	SNAP "32 les"
	mov byte [gdt_test+5], 0x13
	TRY "32 lgs np", lgs ebx, [farptr32_np]
	TRY "32 lss null", lss ebx, [farptr32_null]
	mov eax, SEL_DATA
	mov es, eax
	mov byte [gdt_test+5], 0x93
	LAX after_limits		; QEMU does not check limits and rights
	mov word [gdt_test], 0x0fff
	mov byte [gdt_test+6], 0x40
	mov eax, SEL_TEST
	mov gs, eax
	TRY "!32 limit in", mov eax, [gs:0xffc]
	TRY "!32 limit out", mov eax, [gs:0xffd]
	TRY "!32 limit wrap", mov eax, [gs:0xffffffff]
	mov byte [gdt_test+5], 0x97	; expand down
	mov eax, SEL_TEST
	mov gs, eax
	TRY "!32 down below", mov eax, [gs:0xfff]
	TRY "!32 down in", mov eax, [gs:0x1000]
	mov byte [gdt_test+5], 0x91	; read-only
	mov eax, SEL_TEST
	mov gs, eax
	TRY "!32 ro write", mov [gs:0], eax
	mov byte [gdt_test+5], 0x99	; execute-only
	TRY "!32 xo load", mov gs, eax
	TRY "!32 cs write", mov [cs:TMP], eax
	xor eax, eax
	mov gs, eax
	TRY "!32 null use", mov eax, [gs:0]
	mov eax, SEL_DATA
	mov gs, eax
after_limits:
	SETFLAGS 0
	mov eax, SEL_DATA
	mov gs, eax
	mov dword [gdt_test], 0x0000ffff
	mov dword [gdt_test+4], 0x00cf0000
	TO_RING3 0
	FLAGMASK 0x40
	SWEEP "32 u r3 ", 3, 0
	FLAGMASK 0xcd5
	STORES "32 u "
	TRY "32 u lgdt", lgdt [fs:gdtr]
	TRY "32 u lidt", lidt [fs:idtr32]
	TRY "32 u lldt", lldt ax
	TRY "32 u ltr", ltr ax
	mov eax, SEL_DATA
	TRY "32 u mov ss", mov ss, eax
	TO_RING0
	TO_LM64
	bits 64
	FLAGMASK 0x40
	SWEEP "64 r0 ", 0, 1
	LAX after_system
 %assign type 0
 %rep 16
	mov byte [abs gdt_test+5], 0x80 | type
	mov ebx, SEL_TEST
	mov eax, -1
	mov edx, -1
	TRY "!64 lar system", lar eax, ebx
	TRY "!64 lsl system", lsl edx, ebx
  %assign type type+1
 %endrep
	mov dword [abs gdt_test+12], 0x100
	mov byte [abs gdt_test+5], 0x82
	TRY "!64 lar upper type", lar ecx, ebx
	mov dword [abs gdt_test+12], 0
after_system:
	SETFLAGS 0
	FLAGMASK 0xcd5
	LIMITS "64 "
	NULLS "64 "
	LDT "64 "
	STORES "64 "
	LAX after_nc		; QEMU loads what is not canonical
	mov rax, 0x0000800000000000
	mov [abs TMP+2], rax
	mov word [abs TMP], 0x1234
	TRY "!64 lgdt nc", lgdt [abs TMP]
	TRY "!64 lidt nc", lidt [abs TMP]
after_nc:
	SETFLAGS 0
	TO_RING3 0
	FLAGMASK 0x40
	SWEEP "64 u r3 ", 3, 0
	FLAGMASK 0xcd5
	STORES "64 u "
	TO_RING0
	DONE

farptr:	dw 0x5678, 0x1234
farptr32:
	dd 0x12345678
	dw SEL_DATA
farptr32_np:
	dd 0x9abcdef0
	dw SEL_TEST
farptr32_null:
	dd 0x11111111
	dw 3
	align 4
counter: dd 0
	align 8
ldt:	dq 0
	dq 0x00cf93000000ffff
%include "end.inc"
