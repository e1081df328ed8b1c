/* SPDX-License-Identifier: MIT */
/*
 * Descriptors, and stacks that are not the current one: what event delivery, task switches and the
 * far-transfer instructions share.
 *
 * Everything here raises: 0 is success, OP_EXC or OP_STOP is returned unchanged by the caller. Error
 * codes carry the selector only; cpu_deliver() adds EXT. [SDM3A "Error Code"]
 */
#pragma once
#include "cpu/cpu.h"

enum desc_type { /* system descriptors [SDM3A "System Descriptor Types"]; 64-bit forms share 9, 11, 12, 14, 15 */
	DESC_TSS16 = 1, DESC_LDT = 2, DESC_TSS16_BUSY = 3, DESC_CALL16 = 4, DESC_TASK_GATE = 5,
	DESC_INT16 = 6, DESC_TRAP16 = 7, DESC_TSS32 = 9, DESC_TSS32_BUSY = 11, DESC_CALL32 = 12,
	DESC_INT32 = 14, DESC_TRAP32 = 15,
};
#define DESC_BUSY 2u /* in the type of a TSS */

/* Bits of a code or data segment's type. */
#define TYPE_ACCESSED 1u
#define TYPE_WRITABLE 2u	/* data */
#define TYPE_READABLE 2u	/* code */
#define TYPE_DOWN 4u		/* data: expand down */
#define TYPE_CONFORMING 4u	/* code */
#define TYPE_CODE 8u

#define SEL_RPL(sel) ((sel) & 3u)
#define SEL_ERR(sel) ((u32)(sel) & 0xfffcu)
#define SEL_NULL(sel) (!((sel) & 0xfffcu))

/**
 * struct desc - a descriptor as memory holds it
 * @lo: first eight bytes
 * @hi: second eight bytes of a 16-byte system descriptor, else 0
 * @la: where it lies
 */
struct desc {
	u64 lo, hi;
	gva_t la;
};

/* Access rights in the layout of struct segment. */
static inline u32 desc_ar(const struct desc *d) { return (u32)(d->lo >> 40) & 0xf0ff; }
static inline unsigned int desc_dpl(const struct desc *d) { return (unsigned int)(d->lo >> 45) & 3; }
static inline unsigned int desc_type(const struct desc *d) { return (unsigned int)(d->lo >> 40) & 15; }
static inline bool desc_is_system(const struct desc *d) { return !(d->lo & BIT(44)); }
static inline bool desc_present(const struct desc *d) { return d->lo & BIT(47); }
static inline bool desc_is_code(const struct desc *d) { return !desc_is_system(d) && (desc_type(d) & TYPE_CODE); }
static inline u16 gate_sel(const struct desc *d) { return (u16)(d->lo >> 16); }

static inline u64 desc_base(const struct desc *d)
{
	return ((d->lo >> 16) & 0xffffff) | ((d->lo >> 32) & 0xff000000) | (d->hi << 32);
}

static inline u32 desc_limit(const struct desc *d)
{
	u32 limit = (u32)(d->lo & 0xffff) | ((u32)(d->lo >> 32) & 0xf0000);

	return d->lo & BIT(55) ? (limit << 12) | 0xfff : limit;
}

static inline u64 gate_offset(const struct desc *d)
{
	return (d->lo & 0xffff) | ((d->lo >> 32) & 0xffff0000) | (d->hi << 32);
}

/* Is the address canonical in the current paging mode? */
static inline bool la_canonical(const struct vcpu *v, u64 la)
{
	unsigned int shift = v->cr4 & CR4_LA57 ? 7 : 16;

	return (u64)((s64)(la << shift) >> shift) == la;
}

/**
 * desc_read() - read the descriptor a selector names, from GDT or LDT
 * @v: the vCPU
 * @sel: selector; the caller has dealt with null
 * @vector: exception when it lies outside the table, with the selector as error code
 * @d: result
 */
int desc_read(struct vcpu *v, u16 sel, u8 vector, struct desc *d);
/* The same for a system descriptor: 16 bytes in IA-32e mode, whose upper type field must be zero. */
int desc_read_system(struct vcpu *v, u16 sel, u8 vector, struct desc *d);
/* Without exceptions (LAR, LSL, VERR, VERW): 1 found, 0 not in the table, else OP_EXC or OP_STOP. */
enum { DESC_ABSENT = 100, DESC_FOUND = 101 };
int desc_lookup(struct vcpu *v, u16 sel, struct desc *d);
/* Set the accessed bit in memory unless it is set. */
int desc_set_accessed(struct vcpu *v, struct desc *d);
/* Change the busy bit of a TSS descriptor. */
int desc_set_busy(struct vcpu *v, struct desc *d, bool busy);
/* Its two halves, for a task switch: may the locked access be made, and the change itself. */
int desc_lock(struct vcpu *v, const struct desc *d);
int desc_change_busy(struct vcpu *v, struct desc *d, bool busy);
void desc_to_segment(const struct desc *d, u16 sel, struct segment *s);
/* Make s the cache of segment register seg, with what is derived from it (not cpu_mode_update()). */
void seg_commit(struct vcpu *v, enum seg seg, const struct segment *s);
/* Base 0, limit 4 GiB - 1 */
void seg_commit_flat(struct vcpu *v, enum seg seg, u16 sel, u32 ar);
void seg_commit_null(struct vcpu *v, enum seg seg, u16 sel);
/* Leaving an inner level: null DS, ES, FS, GS that the outer level may not use. [SDM2A "RET"] */
void seg_drop_inner(struct vcpu *v);
/* Check and read a data segment or SS without loading it. Null selectors are the caller's. */
int seg_check_data(struct vcpu *v, u16 sel, struct desc *d);
int seg_check_ss(struct vcpu *v, u16 sel, unsigned int cpl, u8 vector, struct desc *d);

/* ---- the TSS ---------------------------------------------------------------------------------- */

/* SS and ESP for privilege level cpl from the current 16- or 32-bit TSS. #TS. */
int tss_stack(struct vcpu *v, unsigned int cpl, u16 *ss, u64 *sp);
/* RSPn (n = 0..2) or ISTn (n = 4 + ist - 1 + ...): the quadword at 4 + 8 * slot. #TS. */
int tss_stack64(struct vcpu *v, unsigned int slot, u64 *sp);
#define TSS64_IST(ist) (3 + (ist))

/* ---- writing a frame on a stack ----------------------------------------------------------------- */

/**
 * struct frame - values to push, all or nothing
 * @ss: stack segment they go through, current or new
 * @sp: stack pointer before the first push; after frame_write(), the one to load
 * @ssz: stack-address size
 * @cpl: privilege level of the pushes
 * @size: bytes per value
 * @err: error code of #SS
 * @same: the current stack at the current privilege level
 */
struct frame {
	struct segment ss;
	u64 sp;
	u8 ssz;
	u8 cpl;
	u8 size;
	bool same;
	u32 err;
	unsigned int n;
	u64 val[48];
};

static inline void frame_push(struct frame *f, u64 val)
{
	f->val[f->n++] = val;
}

/* The current stack. */
void frame_current(const struct vcpu *v, struct frame *f, unsigned int size);
/* A stack that will be loaded together with privilege level cpl. */
void frame_new(struct frame *f, const struct segment *ss, u64 sp, unsigned int cpl, unsigned int size);
/* 64-bit stack; ss is loaded by the caller. */
void frame_new64(const struct vcpu *v, struct frame *f, u64 sp, unsigned int cpl);
/* Check and write every value; commits nothing but memory. f->sp becomes the new stack pointer. */
int frame_write(struct vcpu *v, struct frame *f);
/* The value to load into RSP: a 16-bit stack keeps the upper bits of @old. */
u64 frame_rsp(const struct frame *f, u64 old);

/* ---- task switches (task.c) ----------------------------------------------------------------------- */

enum task_reason { TASK_CALL, TASK_IRET, TASK_JMP, TASK_GATE };

/**
 * task_switch() - switch to the task of a TSS selector
 * @v: the vCPU
 * @sel: TSS selector (the caller has checked gate privileges)
 * @reason: enum task_reason
 * @ret: EIP to save in the old task
 * @flags: EFLAGS to save in the old task
 * @err: error code to push on the new stack, or NULL
 *
 * Return: OP_JUMP, the new task's first instruction is next; OP_EXC, raised in the old task or, past the
 * point of no return, in the new one (v->rip says which); OP_STOP.
 */
int task_switch(struct vcpu *v, u16 sel, enum task_reason reason, u64 ret, u64 flags, const u32 *err);

/* ---- debugging helpers ----------------------------------------------------------------------------- */

/* The TF in effect at the end of this instruction is the one just loaded (SYSCALL, SYSRET). */
void debug_reload_tf(struct vcpu *v);
