; SPDX-License-Identifier: MIT
; The harness itself: every mode is reached, records are sent, faults are caught.
%include "guest.inc"
main:
	FILL
	SNAP "real"
	TRY "real ud2", ud2
	TO_PM32
	FILL
	SNAP "prot"
	TRY "prot ud2", ud2
	TRY "prot gp", mov ds, [fs:0x501]
	TO_PM16
	FILL
	SNAP "prot16"
	TRY "prot16 ud2", ud2
	FROM_PM16
	TO_RING3 3
	FILL
	SNAP "user"
	TRY "user hlt", hlt
	TO_RING0
	TO_V86 0x3000
	FILL
	SNAP "v86"
	TRY "v86 hlt", hlt
	FROM_V86
	PAGING_ON
	PTE SCRATCH, 0
	TRY "pae pf", mov eax, [SCRATCH+4]
	PAGING_OFF
	TO_RM16
	FILL
	SNAP "real again"
	TO_PM32
	TO_LM64
	FILL
	SNAP "long"
	TRY "long ud2", ud2
	PTE SCRATCH, 5
	TRY "long pf", mov [SCRATCH+8], eax
	mov eax, 1
	CHECK "check", rax, 1
	TO_RING3 3
	FILL
	SNAP "long user"
	TRY "long user cli cr0", mov rax, cr0
	TO_RING0
	TO_COMPAT
	FILL
	SNAP "compat"
	TRY "compat ud2", ud2
	FROM_COMPAT
	SNAP "long again"
	DONE
%include "end.inc"
