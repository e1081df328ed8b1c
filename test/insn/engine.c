/* SPDX-License-Identifier: MIT */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/fpu.h"
#include "cpu/native_priv.h"

#define ALL_LIVE (FP_LIVE | FP_LIVE_X87 | FP_LIVE_SSE | FP_LIVE_AVX | FP_LIVE_MIXED | FP_HAS_X87)

static struct vcpu *v;
static struct machine *vm;
static uint8_t *arena;
static const struct knobs *knobs;
static struct istate *state;
static struct tlb_l1 tlb;

uint8_t *engine_arena(void) { return arena; }
struct vcpu *engine_vcpu(void) { return v; }

/* ---- the rest of the processor -------------------------------------------------------------------- */

/* Handlers of rows that are not native: one HANDLER(name) each, made from spec/insn.def. */
#define HANDLER(name) int name(struct vcpu *vc, const struct insn *i) { return RAISE_UD(vc); }
#include "handlers.inc"
#undef HANDLER

int op_lea(struct vcpu *vc, const struct insn *i) { return RAISE_UD(vc); }

int cpu_raise_err(struct vcpu *vc, u8 vector, u32 error)
{
	vc->exc = (struct event){ .valid = true, .vector = vector, .error = error };
	return OP_EXC;
}

int cpu_raise(struct vcpu *vc, u8 vector) { return cpu_raise_err(vc, vector, 0); }
void cpu_mem_abort(struct vcpu *vc) { vc->bounce.active = 0; }

/* The XSAVE image of vcpu.xsave and struct istate: AVX at its usual place. */
#define AVX_OFFSET 576

static const struct xcomponent avx = { .offset = AVX_OFFSET, .size = 256 };
const struct xcomponent *fpu_component(unsigned int n) { return n == 2 ? &avx : NULL; }
int cpu_fp_check(struct vcpu *vc, const struct insn *i) { return OP_NEXT; }

static void image_from_state(void)
{
	memcpy(v->xsave, state->fx, 416);
	xs_put64(v->xsave, XSAVE_XSTATE_BV, 7);
	for (unsigned int k = 0; k < 16; k++)
		memcpy(v->xsave + XSAVE_XMM + 16 * k, state->ymm[k], 16);
	for (unsigned int k = 0; k < 16; k++)
		memcpy(v->xsave + AVX_OFFSET + 16 * k, state->ymm[k] + 16, 16);
}

static void state_from_image(void)
{
	memcpy(state->fx, v->xsave, 416);
	for (unsigned int k = 0; k < 16; k++) {
		memcpy(state->ymm[k], state->fx + XSAVE_XMM + 16 * k, 16);
		memcpy(state->ymm[k] + 16, v->xsave + AVX_OFFSET + 16 * k, 16);
	}
}

int cpu_fp_need(struct vcpu *vc, const struct insn *i)
{
	if (!vc->fp_live) {
		state_from_image();
		vec_load(state);
	}
	vc->fp_live = ALL_LIVE;
	return OP_NEXT;
}

void cpu_fp_spill(struct vcpu *vc)
{
	if (!vc->fp_live)
		return;
	vec_save(state);
	image_from_state();
	vc->fp_live = 0;
}

u64 cpu_ea(const struct vcpu *vc, const struct insn *i)
{
	u64 ea = (u64)(s64)i->disp;

	if (i->base == GPR_MOFFS)
		ea = (u64)i->imm;
	else if (i->base == GPR_RIP)
		ea += cpu_next_rip(vc, i);
	else if (i->base != GPR_NONE)
		ea += vc->gpr[i->base];
	if (i->index != GPR_NONE)
		ea += vc->gpr[i->index] << insn_scale(i);
	if (insn_asz(i) == 4)
		ea = (u32)ea;
	return ea;
}

static uint64_t linear(const struct vcpu *vc, enum seg seg, u64 ea)
{
	return seg == SEG_GS ? ea + vc->gs_base_copy : ea;
}

static uint8_t *arena_at(uint64_t la, unsigned int size)
{
	return la >= ARENA && la <= ARENA + ARENA_SIZE - size ? arena + (la - ARENA) : NULL;
}

void *cpu_mem_begin(struct vcpu *vc, const struct insn *i, unsigned int size, u32 acc, s64 off)
{
	uint64_t la = linear(vc, insn_seg(i), cpu_ea(vc, i) + (u64)off);
	uint8_t *p = arena_at(la, size);

	if (!p) {
		vc->scratch[7] = (u64)cpu_raise_err(vc, EXC_PF, 0);
		return NULL;
	}
	if (!knobs->bounce && (la & 4095) + size <= 4096)
		return p;
	vc->bounce.ptr = &vc->bounce.buf[la & 63];
	vc->bounce.la = la;
	vc->bounce.size = size;
	vc->bounce.active = acc & ACC_W ? 1 : 0;
	memcpy(vc->bounce.ptr, p, size);
	/* An MMIO access may well have made somebody look at the vector state. */
	cpu_fp_spill(vc);
	return vc->bounce.ptr;
}

int cpu_mem_commit(struct vcpu *vc)
{
	memcpy(arena_at(vc->bounce.la, vc->bounce.size), vc->bounce.ptr, vc->bounce.size);
	vc->bounce.active = 0;
	return vc->bounce.la & 1 ? OP_END : OP_NEXT;
}

int cpu_read(struct vcpu *vc, enum seg seg, u64 ea, void *dst, unsigned int size)
{
	uint8_t *p = arena_at(linear(vc, seg, ea), size);

	if (!p)
		return cpu_raise_err(vc, EXC_PF, 0);
	memcpy(dst, p, size);
	return 0;
}

int cpu_write(struct vcpu *vc, enum seg seg, u64 ea, const void *src, unsigned int size)
{
	uint8_t *p = arena_at(linear(vc, seg, ea), size);

	if (!p)
		return cpu_raise_err(vc, EXC_PF, 0);
	memcpy(p, src, size);
	return 0;
}

int cpu_probe_write(struct vcpu *vc, enum seg seg, u64 ea, unsigned int size)
{
	return arena_at(linear(vc, seg, ea), size) ? 0 : cpu_raise_err(vc, EXC_PF, 0);
}

/* ---- running ------------------------------------------------------------------------------------- */

static bool on_signal(int sig, void *info, void *uctx)
{
	return native_fault(v, sig, info, uctx);
}

bool engine_init(void)
{
	v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ul);
	vm = calloc(1, sizeof(*vm));
	arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!v || !vm || arena == MAP_FAILED)
		return false;
	memset(v, 0, sizeof(*v));
	v->xsave = aligned_alloc(64, XSAVE_AREA);
	v->vm = vm;
	v->csz = 8;
	v->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
	v->dtlb = &tlb;
	v->gs_base_copy = GS_BASE;
	v->rflags = FLAG_FIXED;
	oracle_other_signal = on_signal;
	return !native_init(v);
}

static void fill_tlb(uint8_t pages)
{
	for (unsigned int k = 0; k < TLB_ENTRIES; k++)
		tlb.r[k].tag = tlb.w[k].tag = TLB_NEVER;
	for (unsigned int p = 0; p < ARENA_SIZE / 4096; p++) {
		uint64_t la = ARENA + p * 4096;
		unsigned int k = la >> 12 & (TLB_ENTRIES - 1);

		tlb.r[k].host = tlb.w[k].host = (uint64_t)arena + p * 4096;
		if (pages & 1 << p)
			tlb.r[k].tag = la;
		if (pages & 16 << p)
			tlb.w[k].tag = la;
	}
}

static int bind(const struct decode *d, unsigned int off, struct insn *rec)
{
	rec[0] = d->rec;
	rec[0].off = (u16)off;
	if (native_bind(v, d, rec)) {
		native_reset(v);
		if (native_bind(v, d, rec))
			return -1;
	}
	rec[1] = (struct insn){ .fn = native_step_end(v), .seq = 1 };
	return 0;
}

static int result(int res, const struct insn *rec)
{
	if (v->fp_live)
		vec_save(state);
	else
		state_from_image();
	v->fp_live = 0;
	__asm__ volatile("fninit");
	if (res == OP_EXC && v->cur == rec)
		return v->exc.vector;
	if ((res == OP_NEXT && v->cur == rec + 1) || (res == OP_END && v->cur == rec))
		return -1;
	fprintf(stderr, "# result %d at record %d\n", res, (int)(v->cur - rec));
	return -2;
}

int engine_run(const struct decode *d, unsigned int off, const struct knobs *k, struct istate *s)
{
	static struct insn rec[2];
	int res;

	if (bind(d, off, rec))
		return -2;
	knobs = k;
	state = s;
	fill_tlb(k->tlb);
	memcpy(v->gpr, s->gpr, sizeof(v->gpr));
	cpu_set_rflags(v, s->flags);
	v->page_rip = SLOT;
	v->csz = d->csz;
	v->bounce.active = 0;
	v->cur = NULL;
	v->fp_live = k->lazy_fp ? 0 : ALL_LIVE;
	image_from_state();
	if (v->fp_live)
		vec_load(s);
	res = native_run(v, rec);
	res = result(res, rec);
	memcpy(s->gpr, v->gpr, sizeof(v->gpr));
	s->flags = cpu_rflags(v);
	return res;
}

/* Nothing is translated here. */
void rcache_warm(struct vcpu *vcpu, const struct insn *first)
{
	(void)vcpu;
	(void)first;
}
