/* SPDX-License-Identifier: MIT */
/*
 * One decoded guest instruction: the transient answer of the decoder (struct decode) and the record
 * the interpreter runs (struct insn, 40 bytes).
 *
 * decode.c is the only file that knows Zydis. It fills struct decode from bytes; native.c (the
 * renamer) and rcache.c turn that into a record. The translator reads struct decode too.
 */
#pragma once
#include "base/types.h"

struct vcpu;
struct insn;

/* One id per row of spec/insn.def. INSN_INVALID is row 0: #UD. */
enum insn_id {
	INSN_INVALID,
#define INSN(id, ...) INSN_##id,
#include "spec/insn.def"
#undef INSN
	INSN_COUNT
};

enum gpr {
	GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX, GPR_RSP, GPR_RBP, GPR_RSI, GPR_RDI,
	GPR_R8, GPR_R9, GPR_R10, GPR_R11, GPR_R12, GPR_R13, GPR_R14, GPR_R15,
	GPR_NONE, /* no base / no index */
	GPR_RIP,  /* base only */
	GPR_MOFFS, /* base only: the offset is insn.imm, no base, no displacement */
};

enum seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_NUM };

/**
 * enum op_result - what an instruction handler did
 * @OP_NEXT: retired; go on with the next record
 * @OP_JUMP: retired; the handler stored the next instruction pointer in vcpu.rip
 * @OP_END: retired; next instruction follows in memory, but leave the trace: mode, interrupt flag,
 *	shadow, TLB or a pending request changed, or vcpu.stop was set for after this instruction
 * @OP_AGAIN: not retired, partial progress committed (REP iteration); run requests, then run the
 *	same instruction again. RF is set in the saved RFLAGS image if an event is taken here
 * @OP_EXC: not retired; vcpu.exc holds the exception (cpu_raise() returned this)
 * @OP_STOP: not retired; vcpu.stop says what is needed; the instruction is run again afterwards
 */
enum op_result { OP_NEXT, OP_JUMP, OP_END, OP_AGAIN, OP_EXC, OP_STOP };

typedef int (*op_fn)(struct vcpu *v, const struct insn *i);

enum insn_flags {
	INSN_MEM = 1 << 0,	/* the ModRM operand is memory */
	INSN_LOCK = 1 << 1,	/* LOCK prefix present (and legal) */
	INSN_REP = 1 << 2,	/* F3 */
	INSN_REPNE = 1 << 3,	/* F2 */
	INSN_REG_HIGH = 1 << 4, /* reg is AH/CH/DH/BH (stored as 0..3) */
	INSN_RM_HIGH = 1 << 5,	/* rm is AH/CH/DH/BH (stored as 0..3) */
	INSN_REXW = 1 << 6,
};

/**
 * struct insn - a decoded record
 * @fn: machine-code entry, called with rdi = vcpu, rsi = this record (see native.h). It ends by
 *	jumping to the next record's @fn or by returning an enum op_result in eax with rsi = record
 * @op: the C handler, or NULL for an instruction that runs natively
 * @imm: first immediate (sign-extended as the instruction does), branch displacement, moffs
 *	address, or far offset
 * @disp: ModRM displacement, sign-extended; for far branches the selector; for ENTER the level
 * @id: enum insn_id
 * @off: offset of the first byte in its guest page
 * @len: length in bytes, 1..15
 * @seq: index in its trace
 * @osz: operand size in bytes: 1, 2, 4, 8, 16, 32 (the explicit data size of the ModRM operand)
 * @addr: INSN_ADDR_*: address size, segment, scale
 * @base: enum gpr, GPR_NONE or GPR_RIP
 * @index: enum gpr or GPR_NONE (vector register number for VSIB)
 * @regs: ModRM.reg (extended) in bits 3:0, ModRM.rm register (or opcode register) in bits 7:4
 * @flags: enum insn_flags
 */
struct insn {
	const void *fn;
	op_fn op;
	s64 imm;
	s32 disp;
	u16 id;
	u16 off;
	u8 len;
	u8 seq;
	u8 osz;
	u8 addr;
	u8 base;
	u8 index;
	u8 regs;
	u8 flags;
};
_Static_assert(sizeof(struct insn) == 40, "a record is 40 bytes");

static inline unsigned int insn_asz(const struct insn *i) { return 2u << (i->addr & 3); }
static inline enum seg insn_seg(const struct insn *i) { return (enum seg)((i->addr >> 2) & 7); }
static inline unsigned int insn_scale(const struct insn *i) { return (i->addr >> 5) & 3; }
#define INSN_ADDR(asz, seg, scale_log2) \
	((u8)(((asz) == 2 ? 0 : (asz) == 4 ? 1 : 2) | ((unsigned)(seg) << 2) | ((scale_log2) << 5)))
static inline unsigned int insn_reg(const struct insn *i) { return i->regs & 15; }
static inline unsigned int insn_rm(const struct insn *i) { return i->regs >> 4; }

/* What the decoder tells about flags: union of RFLAGS.{CF,PF,AF,ZF,SF,OF} bits. */
#define FLAGS_ARITH 0x8d5u

/**
 * struct decode - everything the renamer and the translator need of one instruction
 *
 * Byte offsets index @bytes; 0xff = absent. @bytes is a private copy taken once from guest memory;
 * guest memory is never read again for a decision.
 */
struct decode {
	u8 bytes[16];
	u8 len;
	u8 csz;		/* code size: 2, 4, 8 */
	u8 encoding;	/* enum decode_encoding */
	u8 map;		/* 0 one-byte, 1 0F, 2 0F38, 3 0F3A */
	u8 opcode;
	u8 pfx_end;	/* offset of REX / VEX / first opcode byte after legacy prefixes */
	u8 off_rex, off_vex, off_opcode, off_modrm, off_sib, off_disp, off_imm;
	u8 rex;		/* REX byte or 0 */
	u8 disp_len, imm_len;
	bool p66 : 1, pf2 : 1, pf3 : 1, lock : 1, p67 : 1; /* prefixes present (f2/f3: the last one) */
	u8 mem_acc;	/* enum mem_access of the explicit memory operand, 0 = none */
	u16 mem_size;	/* bytes */
	/* bit n = guest GPR n, explicit and implicit, but not the explicit memory operand's base and index */
	u16 gpr_read, gpr_write;
	u16 gpr_high;	/* bit n: AH+n is named */
	u16 flags_read, flags_write, flags_undef; /* FLAGS_ARITH bits; write includes undef */
	bool vector;	/* touches x87/MMX/XMM/YMM state: needs guest FP state in host registers */
	bool x87;	/* x87 or MMX */
	bool avx;	/* VEX encoded vector */
	bool vsib;
	u8 vvvv;	/* VEX.vvvv GPR or vector register */
	u8 gpr_fields;	/* enum decode_field: encoding fields that name general registers */
	u8 rep_op;	/* F2 or F3 when it selects the opcode, else 0 */
	bool size66;	/* 66 belongs before the opcode when the bytes run in 64-bit mode */
	u16 gpr_full;	/* written as a whole, whatever was there: no need to load them */
	bool flags_keep; /* some flag may come out as it went in */
	bool imm_signed; /* the immediate is sign-extended into rec.imm */
	u16 note;	/* the translator's, 0 none: what it makes of the instruction, whatever the constants are */
	struct insn rec; /* filled except fn */
};
_Static_assert(offsetof(struct decode, rec) == 64, "the memo keeps a line of the host's caches");

enum decode_field { FIELD_REG = 1, FIELD_RM = 2, FIELD_OPCODE = 4, FIELD_VVVV = 8 };
enum decode_encoding { ENC_LEGACY, ENC_VEX, ENC_EVEX };
enum mem_access { MEM_NONE, MEM_R = 1, MEM_W = 2, MEM_RW = 3, MEM_ADDR = 4 /* LEA and friends */ };

/**
 * insn_decode() - decode one instruction
 * @v: supplies the guest's CPUID features: an instruction without its feature decodes to #UD
 * @bytes: at least @avail readable bytes
 * @avail: bytes available, 1..15
 * @csz: code segment size in bytes: 2, 4 or 8
 * @d: result; on an undefined instruction rec.id = INSN_INVALID, rec.op = op_ud, len as decoded
 *
 * Runs Zydis: the caller has spilled guest vector state (cpu_fp_spill()).
 *
 * Return: 0; -EAGAIN more than @avail bytes are needed; -E2BIG longer than 15 bytes (#GP).
 */
int insn_decode(const struct vcpu *v, const u8 *bytes, unsigned int avail, unsigned int csz,
		struct decode *d);

const char *insn_name(enum insn_id id);
/* Disassemble for traces and logs; not for use inside cpu_run(). */
void insn_format(const u8 *bytes, unsigned int len, unsigned int csz, u64 rip, char *buf, size_t n);
/* Length of the instruction at @bytes in code of size @csz (2, 4, 8), 0 when it is none. */
unsigned int insn_length(const u8 *bytes, unsigned int len, unsigned int csz);
