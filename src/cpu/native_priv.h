/* SPDX-License-Identifier: MIT */
/*
 * Shared by the files that make stubs: native.c (pool, interning, glue), rename.c (compute
 * instructions), native_mem.c (memory operands), native_fault.c.
 */
#pragma once
#include "cpu/emit.h"
#include "base/base.h"
#include "cpu/native.h"

#define POOL_SIZE (4u << 20)
#define INTERN_SIZE 65536u /* slots; the pool is full when half of them are used */

/*
 * Stubs must be the same bytes wherever they lie, so they reach shared code through the vCPU:
 * vcpu.scratch[] holds these entries. The last two slots carry values.
 */
enum scratch_slot {
	SLOT_MEM,	/* edx = size, ecx = access: r11 = host pointer of the operand */
	SLOT_COMMIT,	/* write the bounce buffer back */
	SLOT_FP,	/* make vector state live */
	SLOT_OP,	/* jump here to run the record's C handler */
	SLOT_FREE,
	SLOT_SAVE,	/* a stub's temporary */
	SLOT_FAULT,	/* native_fault() to native_failed(): vector */
	SLOT_RESULT,	/* cpu_mem_begin() and native_fault(): enum op_result */
};

struct intern {
	u32 hash;
	u32 off; /* 0: free slot */
	u32 len;
};

/**
 * struct memo - instructions decoded and bound before, by their bytes up to ModRM and SIB
 * @modrm: enum memo_modrm of an opcode, by map
 *
 * Displacement and immediate are filled in anew, unless the stub contains the immediate: then the whole
 * instruction is the key, and what its head finds only says how long it is (@whole).
 */
#define MEMO_SIZE 16384u
#define MEMO_WAYS 4u
struct memo {
	bool used;
	u8 victim;
	u8 modrm[4][256];
	struct memo_entry { /* a line of the host's caches */
		u64 key;
		struct insn rec;	/* fn is set */
		u8 n;			/* bytes in @key; 0: free */
		u8 disp_len, off_disp, imm_len, off_imm;
		bool imm_signed;
		bool whole;
		bool rip_imm;		/* rec.imm is the distance from the page's first byte, see stub_ea() */
	} __attribute__((aligned(64))) entry[MEMO_SIZE];
	u8 d[MEMO_SIZE][64] __attribute__((aligned(64)));	/* of the same: struct decode in front of its record */
};
_Static_assert(sizeof(struct memo_entry) == 64, "one miss per lookup");

struct native {
	struct xmem x;
	u32 used;
	u32 glue_end;	/* stubs lie in [glue_end, used) */
	u32 nstubs;
	const void *entry_op, *entry_nop, *entry_end, *entry_chain, *entry_fail, *entry_warm;
	struct native_stats stats;
	struct intern table[INTERN_SIZE];
	struct memo memo;
};

#define OFF(field) ((s32)offsetof(struct vcpu, field))
#define OFF_SLOT(n) ((s32)(offsetof(struct vcpu, scratch) + 8u * (n)))
#define OFF_GPR(n) ((s32)(offsetof(struct vcpu, gpr) + 8u * (n)))
#define OFF_REC(field) ((s32)offsetof(struct insn, field))

/* Fixed host registers of every stub. */
#define R_VCPU GPR_RDI
#define R_REC GPR_RSI
#define R_MEM GPR_R11

/**
 * struct stub - a stub being made
 * @bytes: room for @e
 * @r: what stands for the guest's registers and memory operand
 * @ptr: host register that holds the memory operand's address in the guest's instruction
 * @imm: host register for the immediate, if it comes from the record
 * @slow_mem, @slow_lock, @slow_type: jumps to the generic memory path, 0 if none
 * @after_mem: where it comes back
 * @slow_fp, @after_fp: likewise for vector state
 * @slow_commit, @after_commit: likewise for the bounce buffer
 */
struct stub {
	struct emit e;
	u8 bytes[EMIT_MAX];
	const struct decode *d;
	struct insn *rec;
	struct rename r;
	u8 ptr;
	u8 imm;
	unsigned int slow_mem, slow_lock, slow_type, after_mem;
	unsigned int slow_fp, after_fp;
	unsigned int slow_commit, after_commit;
};

/* native_mem.c: effective address into r11 (64-bit code, 64-bit addressing) */
void stub_ea(struct stub *s, bool with_segment);
/* host address of the operand into r11 */
void stub_mem_begin(struct stub *s);
/* after the instruction of a stub that writes memory */
void stub_mem_end(struct stub *s);
/* TLB probe of the linear address in r11, which becomes a host address; jump taken on a miss */
unsigned int stub_probe(struct stub *s, unsigned int size, bool write);
void stub_fp_begin(struct stub *s);
void stub_next(struct stub *s);
/* the cold halves of all of the above */
void stub_cold(struct stub *s);

/* rename.c: the stub of a compute instruction; false if it cannot be made */
bool stub_compute(struct stub *s);
bool stub_lea(struct stub *s);
/* Does the stub take the immediate from the record, or contain it? */
bool stub_reads_imm(const struct decode *d);

/* native_branch.c: short way of a record that has a C handler; false if there is none */
bool stub_branch(struct stub *s);
void stub_trace_end(struct stub *s);

/* memo.c */
void memo_reset(struct memo *m);
/* native.c */
bool native_intern(struct vcpu *v, const struct emit *e, const void **fn);
/* native_fault.c: leave a stub whose instruction faulted; returns an enum op_result */
int native_failed(struct vcpu *v, const struct insn *i);

/* For the test that a wrong renamer is caught: swaps two host registers when set. */
extern bool native_test_break_rename;
/* Tests see every record before it is bound and may put a handler of their own in; true: rec->op runs it. */
extern bool (*native_test_bind)(struct vcpu *v, const struct decode *d, struct insn *rec);
