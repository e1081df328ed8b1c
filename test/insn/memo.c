/* SPDX-License-Identifier: MIT */
/*
 * What the engine remembers of decoded instructions against decoding them: every row, the same first bytes with other
 * displacements and immediates, at other places of the page.
 */
#include "gen.h"
#include "tap.h"

static uint64_t seed;
static unsigned int known, differ;

/* As rcache.c does it without a memo. False: not an instruction, or longer than it may be. */
static bool make(const uint8_t *b, unsigned int off, struct decode *d, struct insn *rec)
{
	struct vcpu *v = engine_vcpu();

	if (insn_decode(v, b, 15, 8, d))
		return false;
	*rec = d->rec;
	rec->off = (u16)off;
	if (native_bind(v, d, rec)) {
		native_reset(v);
		if (native_bind(v, d, rec))
			return false;
	}
	memo_keep(v, d, rec);
	return true;
}

static bool same(const uint8_t *b, const struct insn *rec, const struct decode *d)
{
	struct vcpu *v = engine_vcpu();
	struct insn memo = { .off = rec->off };
	struct decode again;
	uint16_t at = memo_record(v, b, 15, &memo);
	/* A stub that adds a displacement serves where it is 0 as well. */
	bool other_stub = d->disp_len && !d->rec.disp;

	if (at == MEMO_NONE)
		return true;
	known++;
	if ((memo.fn != rec->fn && !other_stub) || memo.op != rec->op || memo.imm != rec->imm ||
	    memo.disp != rec->disp ||
	    memo.id != rec->id || memo.off != rec->off || memo.len != rec->len || memo.osz != rec->osz ||
	    memo.addr != rec->addr || memo.base != rec->base || memo.index != rec->index || memo.regs != rec->regs ||
	    memo.flags != rec->flags)
		return false;
	if (memo_record(v, b, d->len - 1u, &memo) != MEMO_NONE ||
	    memo_decode(v, known & 1 ? at : MEMO_NONE, b, rec, &again) == MEMO_NONE)
		return false;
	return !memcmp(again.bytes, d->bytes, d->len) && again.len == d->len && again.gpr_read == d->gpr_read &&
	       again.gpr_write == d->gpr_write && again.flags_read == d->flags_read &&
	       again.flags_write == d->flags_write && again.flags_keep == d->flags_keep &&
	       again.mem_size == d->mem_size && again.mem_acc == d->mem_acc && again.off_imm == d->off_imm &&
	       again.vector == d->vector && again.rec.disp == d->rec.disp;
}

static void try(unsigned int id)
{
	struct decode d, first;
	struct insn rec, one;
	uint8_t b[16];

	gen_bytes(id, b);
	if (!make(b, (unsigned int)(tap_rand(&seed) % 4000), &first, &one))
		return;
	for (unsigned int k = 0; k < 4; k++) {
		unsigned int from = first.disp_len ? first.off_disp : first.off_imm;

		for (unsigned int i = from; i < first.len; i++)
			b[i] = tap_rand(&seed) & 3 ? (uint8_t)tap_rand(&seed) : 0;
		if (insn_decode(engine_vcpu(), b, 15, 8, &d))
			continue;
		rec = d.rec;
		rec.off = (u16)(tap_rand(&seed) % 4000);
		if (native_bind(engine_vcpu(), &d, &rec) || same(b, &rec, &d))
			continue;
		if (differ++ < 10)
			diag("%s, length %u", insn_name(d.rec.id), d.len);
	}
}

int main(void)
{
	unsigned int rounds = 40 * tap_scale();

	seed = tap_seed();
	if (!engine_init())
		bail_out("no engine");
	memset(engine_vcpu()->features, 0xff, sizeof(engine_vcpu()->features));
	engine_vcpu()->csz = 8;
	gen_init(&seed);
	for (unsigned int id = 1; id < INSN_COUNT; id++)
		for (unsigned int k = 0; k < rounds && gen_templates(id); k++)
			try(id);
	is(differ, 0, "what is remembered is what the decoder says");
	ok(known > 40000, "it is remembered often enough");
	diag("%u times", known);
	return done_testing();
}
