/* SPDX-License-Identifier: MIT */
/*
 * Port I/O. A chip behind cpu_bus answers at once; otherwise the access is handed to user space in
 * vcpu.pio and the instruction, run again with pio.done set, retires.
 */
#include "cpu/op/op.h"

#include <errno.h>
#include <string.h>

#include "cpu/op/operand.h"

#define TSS_IOMAP_BASE 102
#define TSS_MIN_LIMIT 103

/* The I/O permission bit map of the current TSS: 0 or OP_EXC [SDM1 "I/O Permission Bit Map"]. */
static int io_bitmap(struct vcpu *v, u16 port, unsigned int size)
{
	const struct segment *tr = &v->seg[SEG_TR];
	u16 map, bits;
	u64 at;
	int r;

	/* A 16-bit TSS has no map. */
	if (!(tr->ar & AR_P) || (tr->ar & AR_UNUSABLE) || !(AR_TYPE(tr->ar) & 8) ||
	    tr->limit < TSS_MIN_LIMIT)
		return RAISE_GP0(v);
	r = lin_read(v, tr->base + TSS_IOMAP_BASE, &map, 2, ACC_R | ACC_SYS);
	if (r)
		return r;
	/* Two bytes are read whatever the access size, so the last byte must be followed by another. */
	at = (u64)map + port / 8;
	if (at + 1 > tr->limit)
		return RAISE_GP0(v);
	r = lin_read(v, tr->base + at, &bits, 2, ACC_R | ACC_SYS);
	if (r)
		return r;
	return bits >> (port & 7) & ((1u << size) - 1) ? RAISE_GP0(v) : 0;
}

int op_io_allowed(struct vcpu *v, u16 port, unsigned int size)
{
	if (!cpu_prot(v))
		return 0;
	if (!cpu_v86(v) && v->cpl <= ((v->rflags >> 12) & 3))
		return 0;
	return io_bitmap(v, port, size);
}

static inline u16 io_port(const struct vcpu *v, const struct insn *i)
{
	return i->imm >= 0 ? (u16)i->imm : (u16)v->gpr[GPR_RDX];
}

/*
 * Is an answer of user space waiting for this instruction? Anything else that is still in vcpu.pio
 * belonged to an instruction that user space abandoned by moving RIP.
 */
static bool pio_answered(struct vcpu *v, const struct insn *i, bool in, bool string)
{
	struct pio_state *p = &v->pio;

	if (likely(!p->active))
		return false;
	p->active = false;
	return p->done && p->in == in && p->string == string && p->size == i->osz &&
	       p->rip == cpu_insn_rip(v, i);
}

/* Hand @count elements at pio.data (output) or room for them (input) to user space. */
static int pio_stop(struct vcpu *v, const struct insn *i, u16 port, bool in, bool string, u32 count)
{
	struct pio_state *p = &v->pio;

	p->active = true;
	p->done = false;
	p->in = in;
	p->string = string;
	p->size = i->osz;
	p->port = port;
	p->count = count;
	p->rip = cpu_insn_rip(v, i);
	p->next = cpu_next_rip(v, i);
	v->stop = CPU_STOP_PIO;
	return OP_STOP;
}

/* A device may have raised an event or asked for an exit: look before the next instruction. */
static inline int io_done(struct vcpu *v, u16 port, unsigned int size)
{
	if (unlikely(v->watch_mask))
		debug_io_access(v, port, size);
	return op_done(v);
}

/* Read as it was written a moment ago: the host waits for a store that a load covers only in part. */
static u32 answer(const struct pio_state *p)
{
	u16 two;
	u32 four;

	if (p->size == 1)
		return p->data[0];
	memcpy(&two, p->data, 2);
	if (p->size == 2)
		return two;
	memcpy(&four, p->data, 4);
	return four;
}

bool op_io_complete(struct vcpu *v)
{
	struct pio_state *p = &v->pio;

	if (!p->active || !p->done || p->string || p->rip != v->rip)
		return false;
	p->active = false;
	if (p->in)
		gpr_set(v, GPR_RAX, p->size, answer(p));
	if (unlikely(v->watch_mask))
		debug_io_access(v, p->port, p->size);
	return true;
}

int op_in(struct vcpu *v, const struct insn *i)
{
	u16 port = io_port(v, i);
	u64 val = 0;
	int r;

	if (pio_answered(v, i, true, false)) {
		memcpy(&val, v->pio.data, i->osz);
	} else {
		r = op_io_allowed(v, port, i->osz);
		if (unlikely(r))
			return r;
		r = v->vm->bus->pio_read(v, port, i->osz, &val);
		if (r == -EOPNOTSUPP) {
			memset(v->pio.data, 0, 8);
			return pio_stop(v, i, port, true, false, 1);
		}
	}
	gpr_set(v, GPR_RAX, i->osz, val);
	return io_done(v, port, i->osz);
}

int op_out(struct vcpu *v, const struct insn *i)
{
	u16 port = io_port(v, i);
	u32 val = (u32)v->gpr[GPR_RAX];
	int r;

	if (pio_answered(v, i, false, false))
		return io_done(v, port, i->osz);
	r = op_io_allowed(v, port, i->osz);
	if (unlikely(r))
		return r;
	r = v->vm->bus->pio_write(v, port, i->osz, &val);
	if (r == -EOPNOTSUPP) {
		memcpy(v->pio.data, &val, sizeof(val));
		return pio_stop(v, i, port, false, false, 1);
	}
	return io_done(v, port, i->osz);
}

/* ---- INS, OUTS ----------------------------------------------------------------------------------- */

/**
 * struct io_string - the running INS or OUTS
 * @count: iterations left; 1 without REP
 * @reg: GPR_RDI or GPR_RSI
 */
struct io_string {
	const struct insn *i;
	enum seg seg;
	unsigned int size, asz, reg;
	u16 port;
	bool rep, back, single;
	u64 count;
};

static u64 io_off(const struct vcpu *v, const struct io_string *s, u64 n)
{
	u64 by = n * s->size;

	return (v->gpr[s->reg] + (s->back ? -by : by)) & size_mask(s->asz);
}

static void io_advance(struct vcpu *v, struct io_string *s, u64 n)
{
	gpr_set(v, s->reg, s->asz, io_off(v, s, n));
	if (!s->rep)
		return;
	s->count -= n;
	gpr_set(v, GPR_RCX, s->asz, s->count);
}

/*
 * How many elements one exit to user space carries: those up to the end of the page, so that at most
 * one page of @pio.data is filled and a fault in the next page finds nothing transferred.
 */
static u32 io_batch(const struct vcpu *v, const struct io_string *s)
{
	u64 room = (PAGE_SIZE - (v->gpr[s->reg] & (PAGE_SIZE - 1))) / s->size;
	u64 wrap = (size_mask(s->asz) - io_off(v, s, 0)) / s->size;

	if (s->back || s->single || !room || !wrap)
		return 1;
	if (wrap < room)
		room = wrap;
	return (u32)(room < s->count ? room : s->count);
}

/* After n iterations: done, or once more. */
static int io_string_end(struct vcpu *v, const struct io_string *s)
{
	if (unlikely(v->watch_mask))
		debug_io_access(v, s->port, s->size);
	return s->rep && s->count ? OP_AGAIN : op_done(v);
}

/* Begin an INS/OUTS. False: REP with nothing to do. */
static bool io_string_begin(struct vcpu *v, const struct insn *i, struct io_string *s, unsigned int reg)
{
	*s = (struct io_string){
		.i = i, .seg = reg == GPR_RDI ? SEG_ES : insn_seg(i), .size = i->osz,
		.asz = insn_asz(i), .reg = reg, .port = (u16)v->gpr[GPR_RDX],
		.rep = i->flags & (INSN_REP | INSN_REPNE), .back = v->rflags & FLAG_DF,
		.single = (v->rflags & FLAG_TF) || (v->step_mask & STEP_GUEST_DEBUG), .count = 1,
	};
	if (s->rep)
		s->count = gpr_get(v, GPR_RCX, s->asz);
	s->single |= v->watch_mask != 0; /* an I/O breakpoint traps after each iteration */
	return s->count;
}

/* Store @n answered elements; rCX and rDI move with those that were stored. */
static int ins_store(struct vcpu *v, struct io_string *s, u64 n)
{
	for (u64 k = 0; k < n && s->count; k++) {
		int r = cpu_write(v, SEG_ES, io_off(v, s, 0), v->pio.data + k * s->size, s->size);

		if (r)
			return r;
		if (!s->rep)
			s->count = 0;
		io_advance(v, s, 1);
		if (mmio_pending(v))
			break;
		mmio_done(v);
	}
	return io_string_end(v, s);
}

/* A batch of input needs RAM to go to: a device may take one element only. */
static u32 ins_batch(struct vcpu *v, const struct io_string *s)
{
	u32 n = io_batch(v, s);
	unsigned int len = n * s->size;
	gva_t la;

	if (n == 1)
		return 1;
	if (seg_linear(v, SEG_ES, io_off(v, s, 0), s->size, ACC_W, &la)) {
		v->exc.valid = false;
		return 1;
	}
	if (!lin_fast(v, la, &len, ACC_W) || len < s->size)
		return 1;
	return len / s->size;
}

int op_ins(struct vcpu *v, const struct insn *i)
{
	struct io_string s;
	u64 val = 0;
	int r;

	if (!io_string_begin(v, i, &s, GPR_RDI))
		return OP_NEXT;
	if (pio_answered(v, i, true, true))
		return ins_store(v, &s, v->pio.count);
	r = op_io_allowed(v, s.port, s.size);
	/* The destination is checked before the device sees a read it cannot take back. */
	if (!r)
		r = cpu_probe_write(v, SEG_ES, io_off(v, &s, 0), s.size);
	if (r)
		return r;
	for (unsigned int slow = 0; slow < 64; slow++) {
		r = v->vm->bus->pio_read(v, s.port, s.size, &val);
		if (r == -EOPNOTSUPP) {
			u32 n = ins_batch(v, &s);

			memset(v->pio.data, 0, (size_t)n * s.size);
			return pio_stop(v, i, s.port, true, true, n);
		}
		r = cpu_write(v, SEG_ES, io_off(v, &s, 0), &val, s.size);
		if (r)
			return r;
		io_advance(v, &s, 1);
		if (!s.rep || !s.count || s.single || op_done(v) != OP_NEXT)
			break;
		if (cpu_probe_write(v, SEG_ES, io_off(v, &s, 0), s.size)) {
			v->exc.valid = false; /* raised again when the next iteration begins */
			break;
		}
	}
	return io_string_end(v, &s);
}

/*
 * Collect a batch that begins with @first, already read. What cannot be read ends the batch; an
 * element that came from a device goes alone.
 */
static u32 outs_collect(struct vcpu *v, const struct io_string *s, u64 first)
{
	u32 n = 1, max = v->mmio.n ? 1 : io_batch(v, s);

	memcpy(v->pio.data, &first, s->size);
	for (; n < max; n++) {
		u8 *to = v->pio.data + n * s->size;

		if (cpu_read(v, s->seg, io_off(v, s, n), to, s->size)) {
			v->exc.valid = false;
			v->stop = CPU_RUN;
			break;
		}
	}
	return n;
}

int op_outs(struct vcpu *v, const struct insn *i)
{
	struct io_string s;
	u32 n;
	u64 val = 0;
	int r;

	if (!io_string_begin(v, i, &s, GPR_RSI))
		return OP_NEXT;
	if (pio_answered(v, i, false, true)) {
		n = v->pio.count;
		io_advance(v, &s, n < s.count ? n : s.count);
		return io_string_end(v, &s);
	}
	r = op_io_allowed(v, s.port, s.size);
	if (r)
		return r;
	for (unsigned int slow = 0; slow < 64; slow++) {
		r = cpu_read(v, s.seg, io_off(v, &s, 0), &val, s.size);
		if (r)
			return r;
		r = v->vm->bus->pio_write(v, s.port, s.size, &val);
		if (r == -EOPNOTSUPP)
			return pio_stop(v, i, s.port, false, true, outs_collect(v, &s, val));
		io_advance(v, &s, 1);
		if (!s.rep || !s.count || s.single || op_done(v) != OP_NEXT)
			break;
	}
	return io_string_end(v, &s);
}
