/* SPDX-License-Identifier: MIT */
/*
 * The renamer and the stubs it makes: guest compute instructions executed by the host CPU.
 *
 * A stub is the guest's own instruction with its registers renamed and its memory operand replaced by
 * a checked host address, between loads and stores of exactly the registers and flags it names.
 * Stubs are interned per vCPU by their bytes and live in a pool with two views: one writable,
 * one executable.
 *
 * Calling contract of every record's fn (stub or glue):
 *   in:   rdi = struct vcpu *, rsi = const struct insn *; both preserved until the end
 *   free: rax rcx rdx r8-r11 and host flags; DF = 0, AC = TF = NT = 0; the rest is callee-saved
 *   end:  retired: add rsi, sizeof(struct insn); jmp [rsi]
 *         else:    v->cur = rsi; eax = enum op_result; ret
 * FLAGS_ARITH live in vcpu.aflags, general registers in vcpu.gpr. Vector state is in the host's own
 * registers while vcpu.fp_live; a vector stub tests fp_live first and calls cpu_fp_need().
 */
#pragma once
#include "cpu/cpu.h"
#include "cpu/emit.h"

/**
 * struct rename - what stands for a guest instruction's operands
 * @host: host register that stands for guest register n; none above RDI if AH to BH are named
 * @mem: the memory operand, if there is one
 */
struct rename {
	u8 host[16];
	struct mem_ref mem;
};

/* The guest's own instruction with other operands (rename.c). */
void rename_emit(struct emit *e, const struct decode *d, const struct rename *r);
/* Does the memory operand obey the rules of locks? */
bool native_is_locked(const struct decode *d);
/* Does a vector instruction touch x87 or MMX registers? */
bool insn_uses_x87(u16 id);
bool insn_mixes_mmx(u16 id);
/* enum fp_live bit that a vector instruction needs */
unsigned int native_live_bit(const struct decode *d);
/* Must a pending #MF come before faults of the memory operand? */
bool native_waits_x87(const struct decode *d);

int native_init(struct vcpu *v);	/* 0 or -errno */
void native_destroy(struct vcpu *v);

/**
 * native_bind() - choose the entry for a decoded record
 * @v: pool owner
 * @d: decoded instruction; d->rec.op != NULL means a C handler (glue), NULL a native stub
 * @rec: the record being built; rec->fn is set
 *
 * Return: 0, or -ENOSPC: the pool is full; the caller flushes the record cache, calls
 * native_reset() and starts over.
 */
int native_bind(struct vcpu *v, const struct decode *d, struct insn *rec);
/* The record runs this C handler instead of its row's. */
void native_bind_op(struct vcpu *v, struct insn *rec, op_fn op);
void native_reset(struct vcpu *v);

/**
 * memo_record() - decode and bind 64-bit code whose like was met before (memo.c)
 * @v: pool owner
 * @bytes: of the instruction
 * @avail: how many there are; 16 can be read
 * @rec: @rec->off is set; all but seq is filled in
 *
 * Return: where it was found; MEMO_NONE: use insn_decode() and native_bind(), then tell memo_keep().
 */
u16 memo_record(struct vcpu *v, const u8 *bytes, unsigned int avail, struct insn *rec);
/**
 * memo_decode() - in place of insn_decode() alone
 * @v: pool owner
 * @at: where it was found or kept when @rec was made, or MEMO_NONE
 * @bytes: of the instruction; 16 can be read
 * @rec: its record
 * @d: result, with a note if one was kept for it
 *
 * Return: where it is, MEMO_NONE: not known.
 */
u16 memo_decode(struct vcpu *v, u16 at, const u8 *bytes, const struct insn *rec, struct decode *d);
/* n of them will be asked for. */
void memo_prefetch(const struct vcpu *v, const u16 *at, unsigned int n);
u16 memo_keep(struct vcpu *v, const struct decode *d, const struct insn *rec);
/* struct decode's note for all of its kind */
void memo_note(struct vcpu *v, u16 at, u16 note);
#define MEMO_NONE 0xffffu

/* Entry of the record that ends a trace of the current mode: goes on with the next trace if the jump
 * cache knows it and nothing is requested, else eax = OP_NEXT, v->cur = that record, ret. */
const void *native_trace_end(struct vcpu *v);
/* Entry of a trace's first record that counts down to its translation. */
const void *native_warm_entry(struct vcpu *v);
/* An end record that always returns. */
const void *native_step_end(struct vcpu *v);
/* Run a copy of one record and come back, whatever its trace is. v->cur is inside v->step. */
int native_step(struct vcpu *v, const struct insn *rec);

/* Run from rec until a record leaves the trace; v->cur is the record that did. */
int native_run(struct vcpu *v, const struct insn *rec);

/* #UD/#NM/#MF checks and cpu_fp_load() for a vector record whose fp_live test failed.
 * Returns OP_NEXT to go on, else OP_EXC. */
int cpu_fp_need(struct vcpu *v, const struct insn *i);

/**
 * native_fault() - a host signal arrived; was it a guest instruction inside a stub?
 * @sig: SIGFPE, SIGSEGV, SIGBUS, SIGILL
 * @uctx: ucontext_t of the handler
 *
 * If the PC lies in v's pool, redirects it to the stub's failure exit with the right vcpu.exc (#DE, #MF,
 * #XM, #GP, #AC, #UD) or vcpu.stop = CPU_STOP_EFAULT and returns true. Async-signal-safe.
 */
bool native_fault(struct vcpu *v, int sig, const void *siginfo, void *uctx);

struct native_stats { u64 stubs, bytes, binds, flushes; };
void native_get_stats(const struct vcpu *v, struct native_stats *s);
