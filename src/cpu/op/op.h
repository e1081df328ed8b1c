/* SPDX-License-Identifier: MIT */
/*
 * The instruction table as C sees it: one handler declaration and one row per line of
 * spec/insn.def.
 */
#pragma once
#include "cpu/cpu.h"

/**
 * enum insn_form - which encodings of a mnemonic a row covers
 * @INSN_FORM_ANY: all that no other row of the mnemonic covers
 * @INSN_FORM_GEN: MOV between general registers, memory and immediates
 * @INSN_FORM_MOFFS: MOV AL/AX/EAX/RAX with an absolute offset in the instruction
 * @INSN_FORM_REL: near branch to a relative target
 * @INSN_FORM_RM: operand is a general register or memory
 * @INSN_FORM_NEAR: RET within the segment
 * @INSN_FORM_FAR: the branch loads CS
 * @INSN_FORM_IMM: PUSH of an immediate
 * @INSN_FORM_SEG: PUSH or POP of a segment register
 * @INSN_FORM_MR: bit test with memory base and register offset
 * @INSN_FORM_STR: string instruction that shares its name with an SSE instruction
 * @INSN_FORM_MMX: operates on MMX registers
 * @INSN_FORM_XMM: operates on XMM registers
 * @INSN_FORM_MAP3: opcode in the 0F 3A map
 * @INSN_FORM_MEM: ModRM operand is memory
 * @INSN_FORM_REG: ModRM operand is a register
 * @INSN_FORM_V128: VEX.L = 0
 * @INSN_FORM_V256: VEX.L = 1
 * The FROM_ and TO_ forms are MOV from and to segment, control and debug registers.
 */
enum insn_form {
	INSN_FORM_ANY, INSN_FORM_GEN, INSN_FORM_MOFFS, INSN_FORM_FROM_SEG, INSN_FORM_TO_SEG,
	INSN_FORM_FROM_CR, INSN_FORM_TO_CR, INSN_FORM_FROM_DR, INSN_FORM_TO_DR, INSN_FORM_REL,
	INSN_FORM_RM, INSN_FORM_NEAR, INSN_FORM_FAR, INSN_FORM_IMM, INSN_FORM_SEG, INSN_FORM_MR,
	INSN_FORM_STR, INSN_FORM_MMX, INSN_FORM_XMM, INSN_FORM_MAP3, INSN_FORM_MEM, INSN_FORM_REG,
	INSN_FORM_V128, INSN_FORM_V256,
};

/**
 * enum insn_trait - what a row says about an instruction besides its handler
 * @T_BRANCH: always ends a trace: control goes elsewhere
 * @T_COND: conditional branch: control may also go on behind it, and so does the trace
 * @T_END: ends a trace: mode, translation or interrupt state may change
 * @T_STACK: uses the stack implicitly
 * @T_STRING: string instruction, REP prefixes repeat it
 * @T_IO: I/O privilege and permission bitmap apply
 * @T_CPL0: #GP(0) unless CPL is 0
 * @T_UMIP: #GP(0) with CR4.UMIP and CPL above 0
 * @T_VEC: touches x87 or vector state in C
 * @T_NOP: has no effect
 * @T_LEA: computes an address and does not access it
 * @T_RANDOM: result is not a function of its inputs
 */
enum insn_trait {
	T_BRANCH = 1 << 0,
	T_END = 1 << 1,
	T_STACK = 1 << 2,
	T_STRING = 1 << 3,
	T_IO = 1 << 4,
	T_CPL0 = 1 << 5,
	T_UMIP = 1 << 6,
	T_VEC = 1 << 7,
	T_NOP = 1 << 8,
	T_LEA = 1 << 9,
	T_RANDOM = 1 << 10,
	T_COND = 1 << 11,
};

/* Handlers, once each per row that names them ("native" is a word of the table, not a function). */
#define INSN(id, mnemonic, form, handler, ...) int handler(struct vcpu *v, const struct insn *i);
#include "spec/insn.def"
#undef INSN

/* Forms of native rows that the renamer does not take: 16-bit addressing and the like. */
int op_lea(struct vcpu *v, const struct insn *i);
int op_incdec(struct vcpu *v, const struct insn *i);
int op_nop(struct vcpu *v, const struct insn *i);

/**
 * struct insn_row - a row of spec/insn.def
 * @name: the id column, for logs
 * @op: handler; NULL for native rows
 * @feature: enum feature, or FEAT_COUNT when the instruction is always there
 * @mnemonic: number private to the decoder
 * @traits: enum insn_trait
 * @form: enum insn_form
 * @intercept: enum vmexit_reason
 */
struct insn_row {
	const char *name;
	op_fn op;
	u16 feature;
	u16 mnemonic;
	u16 traits;
	u8 form;
	u8 intercept;
};

/* May the current privilege access @size bytes of ports at @port? 0 or OP_EXC/OP_STOP. */
int op_io_allowed(struct vcpu *v, u16 port, unsigned int size);
/* The answer to a waiting IN or OUT at v->rip takes effect; false: there is none. */
bool op_io_complete(struct vcpu *v);

/* Indexed by enum insn_id; entry INSN_INVALID is #UD. */
extern const struct insn_row insn_rows[INSN_COUNT];
