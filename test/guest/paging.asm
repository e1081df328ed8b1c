; SPDX-License-Identifier: MIT
; Paging of 2, 3 and 4 levels: rights, accessed and dirty bits, large pages, NX, reserved bits, SMEP, SMAP, PCID,
; global pages, protection keys. QEMU leaves P out of the error code of a reserved bit.
%include "guest.inc"

%define PD2 0x78000		; 2-level: directory, the table below 4 MiB, the table of T
%define PT2 0x79000
%define PTT 0x7a000
%define T 0x00800000		; the page under test, 2-level
%define PAGE SCRATCH		; the page under test, else; its entry:
%define PTE_P PT_LOW + (PAGE >> 12) * 8

	bits 16
main:	TO_PM32
	FILL
	SETFLAGS 0
	FLAGMASK 0

; ---- 2 levels ---------------------------------------------------------------------------------------------
	mov edi, PD2
	xor eax, eax
	mov ecx, 0xc00
	rep stosd
	mov edi, PT2
	mov eax, 7
	mov ecx, 1024
.low:	stosd
	add eax, 0x1000
	loop .low
	mov dword [PD2], PT2 + 7
	mov dword [PD2 + (T >> 22) * 4], PTT + 7
	mov byte [PAGE], 0xc3
	mov eax, cr4
	or eax, 0x10			; PSE
	mov cr4, eax
	mov eax, PD2
	mov cr3, eax
	mov eax, cr0
	or eax, 0x80000000
	mov cr0, eax
	FILL

%macro SETT 1			; the table entry of T
	mov dword [fs:PTT], ((PAGE) * ((%1) != 0)) | (%1)
	invlpg [fs:T]
%endmacro
%macro SHOWT 1
	mov eax, [fs:PTT]
	mov edx, [fs:PD2 + (T >> 22) * 4]
	SNAP %1
%endmacro

	SETT 0
	FAULTS "2 np read", 14, 0, mov ecx, [T + 8]
	FAULTS "2 np write", 14, 2, mov [T + 8], ecx
	SETT 1
	mov dword [PD2 + (T >> 22) * 4], PTT + 7
	FAULTS "2 ro read", -1, 0, mov ecx, [T + 8]
	SHOWT "2 accessed"
	mov ecx, [PTT]
	CHECK "2 a", ecx, PAGE + 0x21
	FAULTS "2 ro write wp 0", -1, 0, mov [T + 8], ecx
	mov ecx, [PTT]
	CHECK "2 d", ecx, PAGE + 0x61
	mov eax, cr0
	or eax, 0x10000
	mov cr0, eax
	FAULTS "2 ro write wp 1", 14, 3, mov [T + 8], ecx
	SETT 3
	FAULTS "2 rw add", -1, 0, add dword [T + 8], 1
	SHOWT "2 dirty"
	SETT 3
	FAULTS "2 cmpxchg fails", -1, 0, cmpxchg [T + 8], ecx
	mov ecx, [PTT]
	CHECK "2 cmpxchg dirties", ecx, PAGE + 0x63
	mov dword [PTT + 4], 0
	invlpg [T + 0x1000]
	FAULTS "2 crossing", 14, 0, mov ecx, [T + 0xffe]
	FAULTS "2 crossing write", 14, 2, mov [T + 0xffe], ecx
	TO_RING3 0
	FILL
	FAULTS "2 u sup read", 14, 5, mov ecx, [T]
	FAULTS "2 u sup write", 14, 7, mov [T], ecx
	TO_RING0
	SETT 5
	TO_RING3 0
	FAULTS "2 u read", -1, 0, mov ecx, [T]
	FAULTS "2 u ro write", 14, 7, mov [T], ecx
	FAULTS "2 u np", 14, 4, mov ecx, [T + 0x1000]
	FAULTS "2 u call", -1, 0, call T
	TO_RING0
	SETT 7
	mov dword [PD2 + (T >> 22) * 4], PTT + 5
	invlpg [T]
	TO_RING3 0
	FAULTS "2 u dir ro", 14, 7, mov [T], ecx
	TO_RING0
	mov dword [PD2 + (T >> 22) * 4], PTT + 3
	invlpg [T]
	TO_RING3 0
	FAULTS "2 u dir sup", 14, 5, mov ecx, [T]
	TO_RING0
	; a 4 MiB page
	mov dword [PD2 + (T >> 22) * 4], 0x83
	invlpg [T]
	FAULTS "2 large read", -1, 0, mov ecx, [T + PAGE]
	mov ecx, [PD2 + (T >> 22) * 4]
	CHECK "2 large a", ecx, 0xa3
	FAULTS "2 large write", -1, 0, mov [T + PAGE + 8], ecx
	mov ecx, [PD2 + (T >> 22) * 4]
	CHECK "2 large d", ecx, 0xe3
	TO_RING3 0
	FAULTS "2 large user", 14, 5, mov ecx, [T + PAGE]
	TO_RING0
	mov eax, cr0
	and eax, 0x7fffffff
	mov cr0, eax

; ---- 3 levels ---------------------------------------------------------------------------------------------
	PAGING_ON
	FILL
%macro SETP 2			; low and high bits of PAGE's entry
 %if __BITS__ = 64
	mov dword [abs PTE_P + 4], %2
	mov dword [abs PTE_P], PAGE | (%1)
	invlpg [abs PAGE]
 %else
	mov dword [fs:PTE_P + 4], %2
	mov dword [fs:PTE_P], PAGE | (%1)
	invlpg [fs:PAGE]
 %endif
%endmacro
	mov byte [PAGE], 0xc3
	SETP 3, 0
	FAULTS "3 write", -1, 0, mov [PAGE + 4], ecx
	mov ecx, [PTE_P]
	CHECK "3 d", ecx, PAGE + 0x63
	SETP 3, 0x80000000
	FAULTS "!3 nx reserved", 14, 9, mov ecx, [PAGE]
	mov ecx, 0xc0000080
	rdmsr
	or eax, 0x800			; NXE
	wrmsr
	mov eax, cr3
	mov cr3, eax
	FILL
	FAULTS "3 nx read", -1, 0, mov ecx, [PAGE]
	mov ebx, esp
	FAULTS "3 nx call", 14, 0x11, call PAGE
	mov esp, ebx
	SETP 3, 0x00080000
	FAULTS "!3 reserved", 14, 9, mov ecx, [PAGE]
	FAULTS "!3 reserved write", 14, 11, mov [PAGE], ecx
	SETP 7, 0x80000000
	TO_RING3 0
	FAULTS "3 u nx", 14, 0x15, call PAGE
	mov esp, USTACK
	FAULTS "3 u write", -1, 0, mov [PAGE + 8], ecx
	TO_RING0
	; a 2 MiB page, then one with reserved bits
	mov dword [PT_BASE + 0x2000 + 5 * 8], 0x83
	mov dword [PT_BASE + 0x2000 + 5 * 8 + 4], 0
	invlpg [0xa00000]
	FAULTS "3 large write", -1, 0, mov [0xa00000 + PAGE + 16], ecx
	mov ecx, [PT_BASE + 0x2000 + 5 * 8]
	CHECK "3 large d", ecx, 0xe3
	mov dword [PT_BASE + 0x2000 + 5 * 8], 0x2083
	invlpg [0xa00000]
	FAULTS "!3 large reserved", 14, 9, mov ecx, [0xa00000]
	mov dword [PT_BASE + 0x4000 + 8], 0
	mov eax, cr3
	mov cr3, eax
	FAULTS "3 no pdpte", 14, 0, mov ecx, [0x40000000]
	mov dword [PT_BASE + 0x4000 + 8], 0x21	; reserved bits of a PDPTE
	mov eax, cr3
	LAX no_pdpte
	FAULTS "!3 pdpte reserved", 13, 0, mov cr3, eax
no_pdpte:
	mov dword [PT_BASE + 0x4000 + 8], 0
	FILL
	PAGING_OFF

; ---- 4 levels ---------------------------------------------------------------------------------------------
	TO_LM64
	FILL
	mov byte [abs PAGE], 0xc3
	SETP 1, 0
	FAULTS "4 ro write", 14, 3, mov [abs PAGE], ecx
	SETP 3, 0x80000000
	FAULTS "4 nx", 14, 0x11, call PAGE
	mov rsp, STACK32
	SETP 3, 0x00080000
	FAULTS "!4 reserved", 14, 9, mov ecx, [abs PAGE]
	SETP 3, 0
	mov ecx, [abs PAGE]
	mov rcx, [abs PTE_P]
	CHECK "4 a", rcx, PAGE + 0x23
	; 1 GiB page at 1 GiB
	mov qword [abs PT_BASE + 0x1008], 0x83
	mov rax, cr3
	mov cr3, rax
	FAULTS "4 huge read", -1, 0, mov ecx, [0x40000000 + PAGE]
	mov rcx, [abs PT_BASE + 0x1008]
	CHECK "4 huge a", rcx, 0xa3
	FAULTS "4 huge write", -1, 0, mov [0x40000000 + PAGE + 8], ecx
	mov rcx, [abs PT_BASE + 0x1008]
	CHECK "4 huge d", rcx, 0xe3
	mov qword [abs PT_BASE + 0x1008], 0x2083
	invlpg [0x40000000]
	FAULTS "!4 huge reserved", 14, 9, mov ecx, [0x40000000 + PAGE]
	mov qword [abs PT_BASE + 0x1008], 0
	invlpg [0x40000000]
	FAULTS "4 huge gone", 14, 0, mov ecx, [0x40000000 + PAGE]
	mov qword [abs PT_BASE + 8], PT_BASE + 0x1087	; PS in a PML4 entry
	mov rax, 0x0000008000000000
	FAULTS "!4 pml4 reserved", 14, 9, mov ecx, [rax]
	mov qword [abs PT_BASE + 8], 0
	; the upper half, by the same tables
	mov qword [abs PT_BASE + 0xff8], PT_BASE + 0x1003
	mov rax, 0xffffff8000000000 + PAGE
	FAULTS "4 upper", -1, 0, mov ecx, [rax]
	FAULTS "4 np upper", 14, 0, mov ecx, [rax + 0x40000000]
	; global pages: gone by INVLPG and by CR4.PGE, whatever CR3 does
	mov rax, cr4
	or eax, 0x80
	mov cr4, rax
	SETP 0x103, 0
	mov ecx, [abs PAGE]
	mov qword [abs PTE_P], 0
	invlpg [abs PAGE]
	FAULTS "4 global invlpg", 14, 0, mov ecx, [abs PAGE]
	SETP 0x103, 0
	mov ecx, [abs PAGE]
	mov qword [abs PTE_P], 0
	mov rax, cr4
	xor eax, 0x80
	mov cr4, rax
	FAULTS "4 global pge", 14, 0, mov ecx, [abs PAGE]
	; SMEP and SMAP: everything but PAGE becomes a supervisor page
	mov edi, PT_LOW
	mov ecx, 512
.sup:	and dword [rdi], ~4
	add edi, 8
	dec ecx
	jnz .sup
	SETP 7, 0
	mov rax, cr4
	bts rax, 20
	mov cr4, rax
	FAULTS "4 smep", 14, 0x11, call PAGE
	mov rsp, STACK32
	FAULTS "4 smep read", -1, 0, mov ecx, [abs PAGE]
	mov rax, cr4
	btr rax, 20
	bts rax, 21
	mov cr4, rax
	FAULTS "4 smap read", 14, 1, mov ecx, [abs PAGE]
	FAULTS "4 smap write", 14, 3, mov [abs PAGE], ecx
	FAULTS "4 smap call", -1, 0, call PAGE
	stac
	mov ecx, [abs PAGE]
	clac
	FAULTS "4 smap push", 14, 1, push qword [abs PAGE]
	mov rsp, STACK32
	stac
	FAULTS "4 stac", -1, 0, mov [abs PAGE + 8], ecx
	clac
	FAULTS "4 clac", 14, 1, mov ecx, [abs PAGE]
	mov edi, PAGE
	mov ecx, 4
	FAULTS "4 smap stos", 14, 3, rep stosb
	mov rax, cr4
	btr rax, 21
	mov cr4, rax
	FILL
	SETFLAGS 0
	; PCID: what each flush must end
	LAX no_pcid
	mov rax, cr4
	bts rax, 17
	mov cr4, rax
	mov rax, cr3
	or rax, 5
	mov cr3, rax
	mov ecx, [abs PAGE]
	mov qword [abs PTE_P], 0
	mov rax, cr3
	mov cr3, rax			; bit 63 clear: flushes PCID 5
	FAULTS "!4 pcid cr3", 14, 0, mov ecx, [abs PAGE]
	SETP 3, 0
	mov ecx, [abs PAGE]
	mov qword [abs PTE_P], 0
	mov qword [abs TMP], 5
	mov qword [abs TMP + 8], PAGE
	xor eax, eax
	mov ebx, TMP
	FAULTS "!4 invpcid address", -1, 0, invpcid rax, [rbx]
	FAULTS "!4 invpcid 0", 14, 0, mov ecx, [abs PAGE]
	SETP 3, 0
	mov ecx, [abs PAGE]
	mov qword [abs PTE_P], 0
	mov eax, 1
	invpcid rax, [rbx]
	FAULTS "!4 invpcid 1", 14, 0, mov ecx, [abs PAGE]
	SETP 3, 0
	mov ecx, [abs PAGE]
	mov qword [abs PTE_P], 0
	mov eax, 2
	invpcid rax, [rbx]
	FAULTS "!4 invpcid 2", 14, 0, mov ecx, [abs PAGE]
	SETP 3, 0
	; another PCID does not see it
	mov ecx, [abs PAGE]
	mov qword [abs PTE_P], 0
	mov rax, cr3
	xor eax, 5 ^ 6
	mov cr3, rax
	FAULTS "!4 other pcid", 14, 0, mov ecx, [abs PAGE]
	mov rax, cr4
	btr rax, 5
	FAULTS "!4 pae off", 13, 0, mov cr4, rax
	mov rax, cr4
	btr rax, 17
	mov cr4, rax
no_pcid:
	SETP 7, 0
	FILL
	SETFLAGS 0
	; protection keys, where the host has them
	mov eax, 7
	xor ecx, ecx
	cpuid
	bt ecx, 3
	jnc no_pku
	mov rax, cr4
	bts rax, 22
	mov cr4, rax
	SETP 7, 0x08000000		; key 1
	xor ecx, ecx
	xor edx, edx
	mov eax, 4			; no access by key 1
	wrpkru
	FAULTS "!4 pku read", 14, 0x21, mov ecx, [abs PAGE]
	FAULTS "!4 pku fetch", -1, 0, call PAGE
	xor ecx, ecx
	mov eax, 8			; no write
	wrpkru
	FAULTS "!4 pku ro read", -1, 0, mov ebx, [abs PAGE]
	FAULTS "!4 pku write", 14, 0x23, mov [abs PAGE], ebx
	xor eax, eax
	wrpkru
no_pku:	FILL
	SETFLAGS 0
	SNAP "end"
	DONE
%include "end.inc"
