; SPDX-License-Identifier: MIT
; Ways from one page of code to another, taken until they are translated, and then the other page is another one: by
; INVLPG, by CR3, by PCID, under a second address of the first page, and when it is written.
%include "guest.inc"

%define FROM (SCRATCH + 0x1000)	; page of the ways
%define TO (SCRATCH + 0x2000)	; the page behind it: says 1
%define OTHER (SCRATCH + 0x3000)	; says 2, never run at its own address
%define FROM2 (SCRATCH + 0x5000)	; FROM once more; TO of this one is behind it too
%define TO2 (SCRATCH + 0x6000)
%define TABLES (SCRATCH + 0x10000)	; of the other address space
%define PTE(a) (PT_LOW + ((a) >> 12) * 8)

	bits 16
main:	TO_PM32
	TO_LM64
	mov rsi, ways
	mov edi, FROM
	mov ecx, ways_end - ways
	rep movsb
	mov edi, TO
	mov eax, 1
	call says
	mov edi, OTHER
	mov eax, 2
	call says

	mov ebx, FROM
	call some
	CHECK "first", rdx, 6 * 60 * 1
	; the page behind is another one
	mov qword [abs PTE(TO)], OTHER + 7
	invlpg [abs TO]
	mov ebx, FROM
	call once
	CHECK "invlpg", rdx, 6 * 2
	call some
	CHECK "invlpg, many", rdx, 6 * 60 * 2
	mov qword [abs PTE(TO)], TO + 7
	mov rax, cr3
	mov cr3, rax
	call once
	CHECK "cr3", rdx, 6 * 1
	; the same page of ways at another address, with another page behind it
	mov qword [abs PTE(FROM2)], FROM + 7
	mov qword [abs PTE(TO2)], OTHER + 7
	invlpg [abs FROM2]
	invlpg [abs TO2]
	mov r13d, 40
	xor r12, r12
.alias:	mov ebx, FROM
	call once
	add r12, rdx
	mov ebx, FROM2
	call once
	add r12, rdx
	dec r13d
	jnz .alias
	CHECK "two addresses", r12, 40 * 6 * (1 + 2)
	; gone
	mov ebx, FROM
	call some
	mov qword [abs PTE(TO)], 0
	invlpg [abs TO]
	mov r9d, TO
	FAULTS "gone, direct", 14, 0, jmp rbx
	FAULTS "gone, indirect", 14, 0, call [abs entry2]
	mov rsp, STACK32
	mov qword [abs PTE(TO)], TO + 7
	invlpg [abs TO]
	; written
	mov ebx, FROM
	call some
	mov byte [abs TO + 1], 5
	call once
	CHECK "written", rdx, 6 * 5
	mov byte [abs TO + 1], 1
	call some
	CHECK "written back", rdx, 6 * 60 * 1
	; the ways are written: all lead behind a second one
	mov dword [abs FROM + 1], TO + 0x10 - (FROM + 5)
	call once
	CHECK "the way is written", rdx, 5 * 1 + 101
	mov dword [abs FROM + 1], TO - (FROM + 5)
	call some
	CHECK "and back", rdx, 6 * 60 * 1

	; two address spaces that differ in TO, back and forth without a flush
	LAX no_pcid
	mov rsi, PT_BASE
	mov edi, TABLES
	mov ecx, 0x4000 / 8
	rep movsq
	mov qword [abs TABLES], TABLES + 0x1000 + 7
	mov qword [abs TABLES + 0x1000], TABLES + 0x2000 + 7
	mov qword [abs TABLES + 0x2000], TABLES + 0x3000 + 7
	mov qword [abs TABLES + 0x3000 + (TO >> 12) * 8], OTHER + 7
	mov rax, cr4
	bts rax, 17
	mov cr4, rax
	mov r14, cr3
	or r14, 1
	mov r15d, TABLES + 2
	mov cr3, r14
	mov cr3, r15
	bts r14, 63
	bts r15, 63
	mov r13d, 40
	xor r12, r12
.spaces:
	mov cr3, r14
	mov ebx, FROM
	call once
	add r12, rdx
	mov cr3, r15
	call once
	shl rdx, 16
	add r12, rdx
	dec r13d
	jnz .spaces
	CHECK "!address spaces", r12, 40 * 6 * 1 + ((40 * 6 * 2) << 16)
	btr r14, 63
	mov cr3, r14
	and r14, ~0xfff
	mov cr3, r14
	mov rax, cr4
	btr rax, 17
	mov cr4, rax
no_pcid:
	DONE

; A page that says eax: on entry 0 and at 10h, ecx and back to r8; at 10h 100 more.
says:	mov byte [rdi], 0xb9		; mov ecx, eax
	mov [rdi + 1], eax
	mov dword [rdi + 5], 0x90e0ff41	; jmp r8
	add eax, 100
	mov byte [rdi + 0x10], 0xb9
	mov [rdi + 0x11], eax
	mov dword [rdi + 0x15], 0x90e0ff41
	ret

; rdx = sum of what all ways from the page at rbx say
once:	mov r10d, 1
	jmp walk
some:	mov r10d, 60
walk:	mov rbp, rsp
	xor rdx, rdx
	lea r9, [rbx + TO - FROM]
.again:	xor r11, r11
.next:	lea r8, [rel .said]
	movzx eax, byte [r11 + offsets]
	add rax, rbx
	jmp rax
.said:	mov rsp, rbp
	add rdx, rcx
	inc r11
	cmp r11, 6
	jb .next
	dec r10d
	jnz .again
	ret
offsets: db way1 - ways, way2 - ways, way3 - ways, way4 - ways, way5 - ways, way6 - ways

entry2:	dq FROM + (way4 - ways)

; What runs at FROM and FROM2. r9 = the page behind.
ways:
way1:	jmp ways + TO - FROM
way2:	xor ecx, ecx
	jz ways + TO - FROM
	hlt
way3:	call ways + TO - FROM
way4:	jmp r9
way5:	push r9
	ret
way6:	call r9
ways_end:

%include "end.inc"
