; SPDX-License-Identifier: MIT
; System instructions in every mode and at both ends of privilege: control and debug registers, MSRs, table
; registers, caches, time, SYSENTER and SYSCALL, and what is #UD.
%include "guest.inc"

%define PORT 0x1234		; nothing answers there
%define MSR_CS 0x174
%define MSR_ESP 0x175
%define MSR_EIP 0x176
%define MSR_EFER 0xc0000080
%define MSR_STAR 0xc0000081
%define MSR_LSTAR 0xc0000082
%define MSR_CSTAR 0xc0000083
%define MSR_FMASK 0xc0000084
%define MSR_GSBASE 0xc0000101
%define MSR_KGSBASE 0xc0000102


; Undefined everywhere here: no SMM, no VMXE, LOCK where it may not stand
%macro ALWAYS_UD 1
 %strcat %%a %1, " ud0"
	FAULTS %%a, 6, 0, db 0x0f, 0xff, 0xc0
 %strcat %%a %1, " ud1"
	FAULTS %%a, 6, 0, db 0x0f, 0xb9, 0xc0
 %strcat %%a %1, " ud2"
	FAULTS %%a, 6, 0, ud2
 %strcat %%a %1, " rsm"
	FAULTS %%a, 6, 0, rsm
 %strcat %%a %1, " lock add reg"
	FAULTS %%a, 6, 0, db 0xf0, 0x01, 0xc0
 %strcat %%a %1, " lock cmp"
	FAULTS %%a, 6, 0, db 0xf0, 0x39, 0x03
	LAX %%lax			; QEMU lets LOCK stand before anything but these
 %strcat %%a "!", %1, " lock mov"
	FAULTS %%a, 6, 0, db 0xf0, 0x89, 0xc0
 %strcat %%a "!", %1, " lock nop"
	FAULTS %%a, 6, 0, db 0xf0, 0x90
 %strcat %%a "!", %1, " lock test"
	FAULTS %%a, 6, 0, db 0xf0, 0x85, 0x03
 %strcat %%a "!", %1, " lock cpuid"
	FAULTS %%a, 6, 0, db 0xf0, 0x0f, 0xa2
 %strcat %%a "!", %1, " lock jmp"
	FAULTS %%a, 6, 0, db 0xf0, 0xeb, 0
 %strcat %%a "!", %1, " lock push"
	FAULTS %%a, 6, 0, db 0xf0, 0x50
 %strcat %%a "!", %1, " lock ret"
	FAULTS %%a, 6, 0, db 0xf0, 0xc3
 %strcat %%a "!", %1, " lock movs"
	FAULTS %%a, 6, 0, db 0xf0, 0xa4
 %strcat %%a "!", %1, " lock shl"
	FAULTS %%a, 6, 0, db 0xf0, 0xd1, 0x23
 %strcat %%a "!", %1, " lock bt"
	FAULTS %%a, 6, 0, db 0xf0, 0x0f, 0xa3, 0x03
 %strcat %%a "!", %1, " lock lgdt"
	FAULTS %%a, 6, 0, db 0xf0, 0x0f, 0x01, 0x13
 %strcat %%a "!", %1, " lock hlt"
	FAULTS %%a, 6, 0, db 0xf0, 0xf4
 %strcat %%a "!", %1, " lock cli"
	FAULTS %%a, 6, 0, db 0xf0, 0xfa
 %strcat %%a "!", %1, " lock clts"
	FAULTS %%a, 6, 0, db 0xf0, 0x0f, 0x06
%%lax:	FILL
	SETFLAGS 0
 %strcat %%a "!", %1, " mov cr1"
	FAULTS %%a, 6, 0, db 0x0f, 0x20, 0xc8
 %strcat %%a "!", %1, " mov to cr5"
	FAULTS %%a, 6, 0, db 0x0f, 0x22, 0xe8
 %strcat %%a %1, " mov to cs"
	FAULTS %%a, 6, 0, db 0x8e, 0xc8
%endmacro

%macro VMX_UD 1
	mov ebx, TMP
 %strcat %%a %1, " vmxon"
	FAULTS %%a, 6, 0, db 0xf3, 0x0f, 0xc7, 0x33
 %strcat %%a %1, " vmclear"
	FAULTS %%a, 6, 0, db 0x66, 0x0f, 0xc7, 0x33
 %strcat %%a %1, " vmptrld"
	FAULTS %%a, 6, 0, db 0x0f, 0xc7, 0x33
 %strcat %%a %1, " vmptrst"
	FAULTS %%a, 6, 0, db 0x0f, 0xc7, 0x3b
 %strcat %%a %1, " vmread"
	FAULTS %%a, 6, 0, db 0x0f, 0x78, 0xc0
 %strcat %%a %1, " vmwrite"
	FAULTS %%a, 6, 0, db 0x0f, 0x79, 0xc0
 %strcat %%a %1, " vmlaunch"
	FAULTS %%a, 6, 0, db 0x0f, 0x01, 0xc2
 %strcat %%a %1, " vmresume"
	FAULTS %%a, 6, 0, db 0x0f, 0x01, 0xc3
 %strcat %%a %1, " vmxoff"
	FAULTS %%a, 6, 0, db 0x0f, 0x01, 0xc4
 %strcat %%a %1, " vmfunc"
	FAULTS %%a, 6, 0, db 0x0f, 0x01, 0xd4
 %strcat %%a %1, " invept"
	FAULTS %%a, 6, 0, db 0x66, 0x0f, 0x38, 0x80, 0x03
 %strcat %%a %1, " invvpid"
	FAULTS %%a, 6, 0, db 0x66, 0x0f, 0x38, 0x81, 0x03
%endmacro

; At CPL 3: IOPL 0, CR4.UMIP and TSD set, PCE clear, the port denied
%macro REFUSED 1
 %strcat %%a %1, " clts"
	FAULTS %%a, 13, 0, clts
 %strcat %%a %1, " lmsw"
	FAULTS %%a, 13, 0, lmsw ax
 %strcat %%a %1, " smsw"
	FAULTS %%a, 13, 0, smsw eax
 %strcat %%a %1, " sgdt"
	FAULTS %%a, 13, 0, sgdt [TMP]
 %strcat %%a %1, " sidt"
	FAULTS %%a, 13, 0, sidt [TMP]
 %strcat %%a %1, " sldt"
	FAULTS %%a, 13, 0, sldt eax
 %strcat %%a %1, " str"
	FAULTS %%a, 13, 0, str eax
 %strcat %%a %1, " lgdt"
	FAULTS %%a, 13, 0, lgdt [gdtr]
 %strcat %%a %1, " lidt"
	FAULTS %%a, 13, 0, lidt [gdtr]
 %strcat %%a %1, " lldt"
	FAULTS %%a, 13, 0, lldt ax
 %strcat %%a %1, " ltr"
	FAULTS %%a, 13, 0, ltr ax
 %strcat %%a %1, " invd"
	FAULTS %%a, 13, 0, invd
 %strcat %%a %1, " wbinvd"
	FAULTS %%a, 13, 0, wbinvd
 %strcat %%a %1, " invlpg"
	FAULTS %%a, 13, 0, invlpg [TMP]
 %strcat %%a %1, " mov from cr0"
	FAULTS %%a, 13, 0, db 0x0f, 0x20, 0xc0
 %strcat %%a %1, " mov to cr0"
	FAULTS %%a, 13, 0, db 0x0f, 0x22, 0xc0
 %strcat %%a %1, " mov to cr3"
	FAULTS %%a, 13, 0, db 0x0f, 0x22, 0xd8
 %strcat %%a %1, " mov to cr4"
	FAULTS %%a, 13, 0, db 0x0f, 0x22, 0xe0
 %strcat %%a %1, " mov from dr7"
	FAULTS %%a, 13, 0, db 0x0f, 0x21, 0xf8
 %strcat %%a %1, " mov to dr7"
	FAULTS %%a, 13, 0, db 0x0f, 0x23, 0xf8
	mov ecx, MSR_ESP		; from here on all would be accepted with privilege
	xor edx, edx
 %strcat %%a %1, " rdmsr"
	FAULTS %%a, 13, 0, rdmsr
 %strcat %%a %1, " wrmsr"
	FAULTS %%a, 13, 0, wrmsr
 %strcat %%a %1, " rdtsc"
	FAULTS %%a, 13, 0, rdtsc
 %strcat %%a %1, " rdtscp"
	FAULTS %%a, 13, 0, rdtscp
 %strcat %%a %1, " rdpmc"
	FAULTS %%a, 13, 0, rdpmc
 %strcat %%a %1, " hlt"
	FAULTS %%a, 13, 0, hlt
 %strcat %%a %1, " cli"
	FAULTS %%a, 13, 0, cli
 %strcat %%a %1, " sti"
	FAULTS %%a, 13, 0, sti
	xor ecx, ecx
	xor edx, edx
	mov eax, 7
 %strcat %%a %1, " xsetbv"
	FAULTS %%a, 13, 0, xsetbv
 %strcat %%a %1, " clac"
	FAULTS %%a, 6, 0, clac
 %strcat %%a %1, " stac"
	FAULTS %%a, 6, 0, stac
 %strcat %%a "!", %1, " monitor"
	FAULTS %%a, 6, 0, db 0x0f, 0x01, 0xc8
 %strcat %%a "!", %1, " mwait"
	FAULTS %%a, 6, 0, db 0x0f, 0x01, 0xc9
	xor eax, eax
	xor edx, edx
	mov ebx, SCRATCH
	mov byte [ebx + 527], 0x80
 %strcat %%a "!", %1, " xsaves"
	FAULTS %%a, 13, 0, db 0x0f, 0xc7, 0x2b
 %strcat %%a "!", %1, " xrstors"
	FAULTS %%a, 13, 0, db 0x0f, 0xc7, 0x1b
 %if __BITS__ = 64
 %strcat %%a "!", %1, " xsaves64"
	FAULTS %%a, 13, 0, db 0x48, 0x0f, 0xc7, 0x2b
 %strcat %%a "!", %1, " xrstors64"
	FAULTS %%a, 13, 0, db 0x48, 0x0f, 0xc7, 0x1b
 %endif
	mov eax, 2
	mov ebx, SCRATCH + 0x1000
 %strcat %%a "!", %1, " invpcid"
	FAULTS %%a, 13, 0, db 0x66, 0x0f, 0x38, 0x82, 0x03
	mov edx, PORT
	mov edi, SCRATCH
	mov esi, SCRATCH
 %strcat %%a %1, " in"
	FAULTS %%a, 13, 0, in al, dx
 %strcat %%a %1, " out"
	FAULTS %%a, 13, 0, out dx, al
 %strcat %%a %1, " insb"
	FAULTS %%a, 13, 0, insb
 %strcat %%a %1, " insw"
	FAULTS %%a, 13, 0, insw
 %strcat %%a %1, " insd"
	FAULTS %%a, 13, 0, insd
 %strcat %%a %1, " outsb"
	FAULTS %%a, 13, 0, outsb
 %strcat %%a %1, " outsw"
	FAULTS %%a, 13, 0, outsw
 %strcat %%a %1, " outsd"
	FAULTS %%a, 13, 0, outsd
	FILL
%endmacro

	bits 16
main:	FILL
	SETFLAGS 0
	mov bx, TMP
	ALWAYS_UD "16"
	VMX_UD "16"
	TRY "16 smsw", smsw ax
	mov ax, 0x0a
	TRY "16 lmsw", lmsw ax
	TRY "16 smsw again", smsw ax
	TRY "16 clts", clts
	TRY "16 smsw cleared", smsw ax
	FAULTS "16 lmsw ends nothing", -1, 0, lmsw bx
	mov ax, 0x10
	lmsw ax
	sidt [TMP]
	mov eax, [TMP]
	SNAP "16 sidt"
	TRY "16 wbinvd", wbinvd
	TRY "16 invd", invd
	TRY "16 sti", sti
	TRY "16 cli", cli
	xor eax, eax
	cpuid
	xor eax, eax
	SNAP "16 vendor"
	rdtsc
	FILL
	mov ecx, MSR_ESP
	xor edx, edx
	TRY "16 wrmsr", wrmsr
	xor eax, eax
	xor edx, edx
	TRY "16 rdmsr", rdmsr
	FAULTS "16 sysenter", 13, 0, sysenter
	FAULTS "16 sysexit", 13, 0, sysexit
	FAULTS "16 syscall", 6, 0, syscall
	FAULTS "!16 sysret", 6, 0, db 0x0f, 0x07
	TRY "16 lfs", lfs ax, [fs:ptr_null]
	SETFLAGS 0
	LAX no_int1_16			; QEMU asks a debugger
	xor eax, eax
	mov [fs:db_count], eax
	int1
	mov eax, [fs:db_count]
	CHECK "!16 int1", eax, 1
no_int1_16:
	FILL
	SETFLAGS 0
	mov edi, TMP
	mov edx, PORT
	TRY "16 insw", insw
	mov esi, TMP
	TRY "16 outsw", outsw
	mov eax, [TMP]
	SNAP "16 port"
	TO_PM32
	jmp main32
	align 4
ptr_null: dd 0
ptr_fs:	dd 0x12345678
	dw SEL_DATA

	bits 32
control:			; CR4: UMIP, OSXSAVE, OSFXSR, OSXMMEXCPT, TSD; the port's bits
	mov eax, cr4
	or eax, 0x40e04
	mov cr4, eax
	mov byte [iomap + PORT/8], 0xff
	mov byte [iomap + PORT/8 + 1], 0xff
	ret
main32:	FILL
	SETFLAGS 0
	mov ebx, TMP
	ALWAYS_UD "32"
	VMX_UD "32"
	FAULTS "32 swapgs", 6, 0, db 0x0f, 0x01, 0xf8
	FAULTS "32 syscall", 6, 0, syscall
	FAULTS "32 sysret", 6, 0, db 0x0f, 0x07
	FAULTS "32 xsetbv", 6, 0, xsetbv
	FAULTS "32 xgetbv", 6, 0, xgetbv
	TRY "32 lfs", lfs eax, [ptr_fs]
	LAX no_int1_32			; QEMU asks a debugger
	xor eax, eax
	mov [db_count], eax
	int1
	mov eax, [db_count]
	CHECK "!32 int1", eax, 1
no_int1_32:
	FILL
	SETFLAGS 0
	mov ax, 8
	lmsw ax				; cannot clear PE
	smsw eax
	and eax, 0xf
	CHECK "32 lmsw keeps pe", eax, 9
	clts
	; CR0 and CR4: what may not be; QEMU checks little of it
	LAX no_cr32
	mov eax, cr0
	and eax, 0x3fffffff
	or eax, 0x20000000
	FAULTS "!32 cr0 nw", 13, 0, mov cr0, eax
	mov eax, 0x80000000
	FAULTS "!32 cr0 pg without pe", 13, 0, mov cr0, eax
	mov eax, cr4
	or eax, 0x80000000
	FAULTS "!32 cr4 reserved", 13, 0, mov cr4, eax
	mov eax, cr4
	or eax, 0x20000
	FAULTS "!32 cr4 pcide", 13, 0, mov cr4, eax
no_cr32:
	FILL
	SETFLAGS 0
	; debug registers: DE, GD, reserved bits
	mov eax, 0x400
	mov dr7, eax
	mov eax, cr4
	or eax, 8
	mov cr4, eax
	FAULTS "32 dr4 with de", 6, 0, mov eax, dr4
	FAULTS "32 dr5 with de", 6, 0, mov eax, dr5
	mov eax, cr4
	and eax, ~8
	mov cr4, eax
	mov eax, dr5
	CHECK "32 dr5 is dr7", eax, 0x400
	mov eax, 0x12345678
	mov dr3, eax
	xor eax, eax
	mov ecx, dr3
	CHECK "32 dr3", ecx, 0x12345678
	mov dword [db_dr6], 0
	mov eax, 0x2400
	mov dr7, eax
	mov ecx, dr0			; #DB before it; delivery clears GD, so the second time it goes through
	mov eax, [db_dr6]
	and eax, 0x2000
	CHECK "!32 dr6 bd", eax, 0x2000
	mov eax, 0x400
	mov dr7, eax
	; MSRs
	FILL
	SETFLAGS 0
	mov ecx, 0x12345678
	FAULTS "!32 rdmsr none", 13, 0, rdmsr
	FAULTS "!32 wrmsr none", 13, 0, wrmsr
	FILL
	SETFLAGS 0
	call control
	rdtsc
	rdtscp
	FILL
	mov ebx, TMP
	; SYSENTER and SYSEXIT
	mov ecx, MSR_CS
	xor edx, edx
	xor eax, eax
	wrmsr
	FAULTS "32 sysenter null", 13, 0, sysenter
	mov edx, 0x55
	FAULTS "32 sysexit null", 13, 0, sysexit
	TO_RING3 0
	FILL
	SETFLAGS 0
	mov ebx, TMP
	REFUSED "32 u"
	FAULTS "32 u sysexit", 13, 0, sysexit
	FAULTS "32 u sysenter null", 13, 0, sysenter
	FAULTS "32 u swapgs", 6, 0, db 0x0f, 0x01, 0xf8
	ALWAYS_UD "32 u"
	TO_RING0
	; for SYSENTER four descriptors in a row: code, stack, user code, user stack
	mov dword [gdt_test], 0x0000ffff
	mov dword [gdt_test+4], 0x00cf9b00
	mov dword [gdt_test+8], 0x0000ffff
	mov dword [gdt_test+12], 0x00cf9300
	mov dword [gdt_test+16], 0x0000ffff
	mov dword [gdt_test+20], 0x00cffb00
	mov dword [gdt_test+24], 0x0000ffff
	mov dword [gdt_test+28], 0x00cff300
	xor edx, edx
	mov ecx, MSR_CS
	mov eax, SEL_TEST
	wrmsr
	mov ecx, MSR_ESP
	mov eax, STACKTSS
	wrmsr
	mov ecx, MSR_EIP
	mov eax, entered32
	wrmsr
	TO_RING3 0
	FILL
	sysenter
entered32:
	mov eax, cs
	mov ebx, ss
	mov ecx, SEL_DATA
	mov [fs:s_flatss], ecx
	mov ecx, 0
	SNAP "32 sysenter"
	mov dword [fs:s_flatss], SEL_UDATA
	mov ecx, USTACK
	mov edx, .out
	sysexit
.out:	mov eax, cs
	mov ebx, ss
	SNAP "32 sysexit"
	TO_RING0
	TO_LM64
	jmp main64

	bits 64
%macro WRITE 2
	mov ecx, %1
	mov rax, %2
	mov rdx, rax
	shr rdx, 32
	wrmsr
%endmacro
main64:	FILL
	SETFLAGS 0
	mov ebx, TMP
	ALWAYS_UD "64"
	VMX_UD "64"
	FAULTS "64 syscall off", 6, 0, syscall
	FAULTS "64 sysret off", 6, 0, db 0x48, 0x0f, 0x07
	WRITE MSR_KGSBASE, 0x0000123456789abc
	WRITE MSR_GSBASE, 0x0000000011111111
	swapgs
	mov ecx, MSR_GSBASE
	rdmsr
	SETFLAGS 0
	SNAP "64 swapgs"
	WRITE MSR_GSBASE, 0
	mov ecx, MSR_GSBASE
	mov eax, 0
	mov edx, 0x00008000
	FAULTS "!64 gs base nc", 13, 0, wrmsr
	mov ecx, MSR_LSTAR
	FAULTS "!64 lstar nc", 13, 0, wrmsr
	mov ecx, MSR_ESP
	FAULTS "!64 sysenter esp nc", 13, 0, wrmsr
	LAX no_cr64
	mov ecx, MSR_EFER
	mov eax, 2
	FAULTS "!64 efer reserved", 13, 0, wrmsr
	mov rax, cr4
	and eax, ~0x20
	FAULTS "!64 cr4 pae off", 13, 0, mov cr4, rax
	mov rax, cr0
	bts rax, 40
	FAULTS "!64 cr0 high", 13, 0, mov cr0, rax
	mov eax, 16
	FAULTS "!64 cr8", 13, 0, mov cr8, rax
no_cr64:
	FILL
	SETFLAGS 0
	mov rax, 0x100000000
	FAULTS "64 dr7 high", 13, 0, mov dr7, rax
	FAULTS "64 dr6 high", 13, 0, mov dr6, rax
	mov rax, 0x0000800000000000
	mov [abs TMP+2], rax
	LAX no_nc
	mov rax, 0x0000800000000000
	mov word [abs TMP], 0xffff
	FAULTS "!64 lgdt nc", 13, 0, lgdt [abs TMP]
	FAULTS "!64 lidt nc", 13, 0, lidt [abs TMP]
	FAULTS "!64 invlpg nc", -1, 0, invlpg [rax]
	FAULTS "!64 mov nc", 13, 0, mov ecx, [rax]
	FAULTS "!64 jmp nc", 13, 0, jmp rax
	FAULTS "!64 call nc", 13, 0, call rax
	push rax
	FAULTS "!64 ret nc", 13, 0, ret
	mov rsp, STACK32
no_nc:	FILL
	SETFLAGS 0
	mov rsp, STACK32
	; FS and GS bases
	FAULTS "64 rdfsbase off", 6, 0, rdfsbase rax
	FAULTS "64 wrgsbase off", 6, 0, wrgsbase rax
	mov rax, cr4
	bts rax, 16
	mov cr4, rax
	mov rcx, 0x0000765443211234
	wrgsbase rcx
	wrfsbase rcx
	rdgsbase rdx
	rdfsbase rsi
	rdgsbase ebp
	SNAP "64 fsgsbase"
	mov rax, 0x0000800000000000
	FAULTS "!64 wrfsbase nc", 13, 0, wrfsbase rax
	xor eax, eax
	wrgsbase rax
	wrfsbase rax
	; PKRU, where the host has it
	mov eax, 7
	xor ecx, ecx
	cpuid
	bt ecx, 3
	jnc no_pku
	FAULTS "!64 rdpkru off", 6, 0, rdpkru
	FAULTS "!64 wrpkru off", 6, 0, wrpkru
	mov rax, cr4
	bts rax, 22
	mov cr4, rax
	mov eax, 0x54
	xor ecx, ecx
	xor edx, edx
	FAULTS "!64 wrpkru", -1, 0, wrpkru
	xor eax, eax
	FAULTS "!64 rdpkru", -1, 0, rdpkru
	mov ecx, 1
	FAULTS "!64 rdpkru ecx", 13, 0, rdpkru
	mov edx, 1
	xor ecx, ecx
	FAULTS "!64 wrpkru edx", 13, 0, wrpkru
	xor eax, eax
	xor edx, edx
	wrpkru
no_pku:	FILL
	; caches, time, waiting
	mov ebx, TMP
	FAULTS "64 clflush", -1, 0, clflush [rbx]
	FAULTS "64 clflushopt", -1, 0, clflushopt [rbx]
	FAULTS "64 clwb", -1, 0, clwb [rbx]
	mov rax, 0x0000800000000000
	FAULTS "!64 clflush nc", 13, 0, clflush [rax]
	FAULTS "!64 serialize", -1, 0, db 0x0f, 0x01, 0xe8
	rdtsc
	rdtscp
	mov rax, TMP
	xor ecx, ecx
	xor edx, edx
	FAULTS "64 monitor", -1, 0, monitor
	LAX no_mwait
	xor eax, eax
	xor ecx, ecx
	FAULTS "!64 monitor", -1, 0, monitor
	mov dword [abs TMP], 1		; the store ends the wait before it begins
	FAULTS "!64 mwait", -1, 0, mwait
	mov rax, TMP
	FAULTS "!64 umonitor", -1, 0, db 0xf3, 0x0f, 0xae, 0xf0
	xor eax, eax
	xor edx, edx
	FAULTS "!64 umwait", -1, 0, db 0xf2, 0x0f, 0xae, 0xf3
	FAULTS "!64 tpause", -1, 0, db 0x66, 0x0f, 0xae, 0xf3
	mov ecx, 2
	FAULTS "!64 rdpmc", 13, 0, rdpmc
	mov ebx, TMP
	mov qword [abs TMP], 0
	mov qword [abs TMP+8], 0
	mov eax, 2
	FAULTS "!64 invpcid", -1, 0, invpcid rax, [rbx]
	mov eax, 4
	FAULTS "!64 invpcid type", 13, 0, invpcid rax, [rbx]
	mov qword [abs TMP], 0x1000
	mov eax, 0
	FAULTS "!64 invpcid reserved", 13, 0, invpcid rax, [rbx]
no_mwait:
	FILL
	SETFLAGS 0
	xor eax, eax
	xor ecx, ecx
	xor edx, edx
	FAULTS "64 clac", -1, 0, clac
	FAULTS "64 stac", -1, 0, stac
	FAULTS "!64 lock clac", 6, 0, db 0xf0, 0x0f, 0x01, 0xca
	FILL
	SETFLAGS 0
	clac
	; the hypercalls of both vendors
	LAX no_vmcall
	FAULTS "!64 vmcall", -1, 0, vmcall
	TRY "!64 vmmcall", vmmcall
no_vmcall:
	FILL
	SETFLAGS 0
	; SYSCALL and SYSRET; user code 32, stack, code 64 in a row
	mov rax, [abs gdt_test]
	mov dword [abs gdt_test], 0x0000ffff
	mov dword [abs gdt_test+4], 0x00af9b00
	mov dword [abs gdt_test+8], 0x0000ffff
	mov dword [abs gdt_test+12], 0x00cf9300
	mov dword [abs gdt_test+0x10], 0x0000ffff
	mov dword [abs gdt_test+0x14], 0x00cffb00
	mov dword [abs gdt_test+0x18], 0x0000ffff
	mov dword [abs gdt_test+0x1c], 0x00cff300
	mov dword [abs gdt_test+0x20], 0x0000ffff
	mov dword [abs gdt_test+0x24], 0x00affb00
	mov ecx, MSR_EFER
	rdmsr
	or eax, 1
	wrmsr
	WRITE MSR_STAR, ((SEL_TEST + 0x10 + 3) << 48) | (SEL_TEST << 32)
	WRITE MSR_LSTAR, called64
	WRITE MSR_CSTAR, called64
	WRITE MSR_FMASK, 0xcd5
	mov dword [abs s_flatss], SEL_UDATA
	mov ecx, user64
	mov r11d, 0x8d7
	db 0x48, 0x0f, 0x07
user64:	mov rsp, USTACK
	mov eax, cs
	mov ebx, ss
	SNAP "64 sysret"
	mov ebx, TMP
	REFUSED "64 u"
	FAULTS "64 u swapgs", 13, 0, swapgs
	FAULTS "64 u sysret", 13, 0, db 0x48, 0x0f, 0x07
	FAULTS "64 u sysexit", 13, 0, sysexit
	mov ebx, TMP
	ALWAYS_UD "64 u"
	FILL
	SETFLAGS 0x8d5
	syscall
	mov eax, cs
	SNAP "64 back"
	syscall
called64:
	mov rsp, STACK32
	mov dword [abs s_flatss], SEL_DATA
	mov eax, cs
	mov ebx, ss
	pushfq
	pop rdi
	SNAP "64 syscall"
	inc dword [abs calls]
	cmp dword [abs calls], 2
	je compat
	mov dword [abs s_flatss], SEL_UDATA
	mov rsp, USTACK
	db 0x48, 0x0f, 0x07
calls:	dd 0
compat:	mov dword [abs gdt_test+0x28], 0x0000ffff
	mov dword [abs gdt_test+0x2c], 0x00cff300
	WRITE MSR_EIP, entered64
	WRITE MSR_ESP, STACKTSS
	mov ecx, user32
	mov r11d, 2
	mov dword [abs s_flatss], SEL_UDATA
	db 0x0f, 0x07			; SYSRET to 32-bit code
	bits 32
user32:	mov esp, USTACK
	mov eax, SEL_UDATA
	mov ds, eax
	mov es, eax
	mov fs, eax
	mov eax, cs
	mov ebx, ss
	mov ecx, 0
	SNAP "compat sysret"
	mov ebx, TMP
	LAX intel
	FAULTS "!compat syscall", 6, 0, syscall
intel:	FILL
	SETFLAGS 0
	sysenter
	bits 64
entered64:
	mov dword [abs s_flatss], SEL_DATA
	mov eax, cs
	mov ebx, ss
	SNAP "64 sysenter"
	mov dword [abs s_flatss], SEL_UDATA
	mov ecx, USTACK
	mov edx, .out
	o64 sysexit
.out:	mov eax, cs
	mov ebx, ss
	SNAP "64 sysexit"
	TO_RING0
	DONE
%include "end.inc"
