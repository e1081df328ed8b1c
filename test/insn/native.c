/* SPDX-License-Identifier: MIT */
/*
 * Every native row of spec/insn.def against the host CPU: random encodings, operands, flags, memory
 * operands across pages and beyond the mapped ones, run by the engine and by the oracle from the same
 * state. A difference is shrunk and shown.
 *
 * usage: insn-native [row [vectors]]
 */
#include "gen.h"
#include "tap.h"

#include "cpu/native_priv.h"

static uint64_t seed;
static unsigned long total;

struct outcome {
	int fault;
	struct istate s;
	uint8_t window[192];
};

/* ---- one case --------------------------------------------------------------------------------- */

static void run_oracle(const struct icase *c, struct outcome *o)
{
	unsigned int skip, len;
	uint8_t *w = gen_window((uint8_t *)ARENA, c, &skip, &len);

	memcpy(w, c->window + skip, len);
	o->s = c->in;
	o->fault = oracle_run(c->native, c->native_len, c->off, &o->s);
	memcpy(o->window + skip, w, len);
	memset(w, 0, len);
}

static void run_engine(const struct icase *c, struct outcome *o)
{
	unsigned int skip, len;
	uint8_t *w = gen_window(engine_arena(), c, &skip, &len);

	memcpy(w, c->window + skip, len);
	o->s = c->in;
	o->fault = engine_run(&c->d, c->off, &c->knobs, &o->s);
	memcpy(o->window + skip, w, len);
	memset(w, 0, len);
}

/* FIP, FDP and FOP are the host's in both; the reserved bytes mean nothing. */
static void mask_fx(uint8_t *fx)
{
	memset(fx + 6, 0, 18);
	memset(fx + 28, 0, 4);
	for (unsigned int k = 0; k < 8; k++)
		memset(fx + 32 + 16 * k + 10, 0, 6);
	memset(fx + 416, 0, 96);
}

static int engine_vector(int trap)
{
	return trap; /* the host's trap numbers are the architecture's */
}

static bool same_fault(const struct icase *c, int want, int got)
{
	if (want == got)
		return true;
	/* Misaligned and unmapped at once: the engine looks at the mapping first. */
	return want == EXC_GP && got == EXC_PF && c->d.vector;
}

/* RDRAND and RDSEED: the number itself is anybody's. */
static void mask_random(const struct icase *c, const struct outcome *want, struct outcome *got)
{
	if (insn_rows[c->d.rec.id].traits & T_RANDOM && want->s.flags & got->s.flags & FLAG_CF)
		memcpy(&got->s.gpr[insn_rm(&c->d.rec)], &want->s.gpr[insn_rm(&c->d.rec)], c->d.rec.osz);
}

/*
 * No flag is masked, not even those that the manual leaves undefined: the engine lets the same CPU execute the
 * same operation on the same values.
 */
static bool same(const struct icase *c, struct outcome *want, struct outcome *got)
{
	unsigned int skip, len;

	if (!same_fault(c, engine_vector(want->fault), got->fault))
		return false;
	mask_fx(want->s.fx);
	mask_fx(got->s.fx);
	mask_random(c, want, got);
	gen_window(NULL, c, &skip, &len);
	return !memcmp(want->s.gpr, got->s.gpr, sizeof(want->s.gpr)) &&
	       !((want->s.flags ^ got->s.flags) & FLAGS_ARITH) &&
	       !memcmp(want->s.fx, got->s.fx, sizeof(want->s.fx)) &&
	       !memcmp(want->s.ymm, got->s.ymm, sizeof(want->s.ymm)) &&
	       !memcmp(want->window + skip, got->window + skip, len);
}

static bool agrees(const struct icase *c, struct outcome *want, struct outcome *got)
{
	run_oracle(c, want);
	run_engine(c, got);
	return same(c, want, got);
}

/* ---- shrinking and showing -------------------------------------------------------------------------- */

static bool still_fails(struct icase *c, void *part, const void *with, size_t n)
{
	struct icase before = *c;
	struct outcome a, b;

	if (!memcmp(part, with, n))
		return true;
	memcpy(part, with, n);
	if (!agrees(c, &a, &b))
		return true;
	*c = before;
	return false;
}

static bool is_address(const struct icase *c, unsigned int gpr)
{
	if (c->d.rec.op) /* MASKMOVQ and its family store at RDI */
		return gpr == GPR_RDI || gpr == c->d.rec.base;
	return c->d.rec.flags & INSN_MEM && (gpr == c->d.rec.base || gpr == c->d.rec.index);
}

static void shrink(struct icase *c)
{
	static const uint8_t zero[512];
	static const struct knobs plain = { .tlb = 0xff };
	uint8_t fx[512] = { 0x7f, 3, [24] = 0x80, [25] = 0x1f };
	uint64_t flags = 2;

	still_fails(c, &c->knobs, &plain, sizeof(plain));
	still_fails(c, &c->in.flags, &flags, 8);
	still_fails(c, c->in.fx, fx, 512);
	for (unsigned int k = 0; k < 16; k++) {
		if (!is_address(c, k))
			still_fails(c, &c->in.gpr[k], zero, 8);
		still_fails(c, c->in.ymm[k], zero, 32);
	}
	for (unsigned int k = 0; k < sizeof(c->window); k += 8)
		still_fails(c, c->window + k, zero, 8);
}

static void show_bytes(const char *what, const uint8_t *p, unsigned int n)
{
	char line[3 * 64 + 1] = "";

	for (unsigned int k = 0; k < n && k < 64; k++)
		sprintf(line + 3 * k, "%02x ", p[k]);
	diag("  %s %s", what, line);
}

static void show_diff(const char *what, const uint8_t *in, const uint8_t *want, const uint8_t *got,
		      unsigned int n)
{
	if (!memcmp(want, got, n))
		return;
	diag("  %s differs", what);
	if (in)
		show_bytes("    in  ", in, n);
	show_bytes("    host", want, n);
	show_bytes("    ours", got, n);
}

static void show(struct icase *c)
{
	static const char *const name[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	struct outcome want = { 0 }, got = { 0 };
	char text[128], label[16];

	agrees(c, &want, &got);
	insn_format(c->bytes, c->len, c->csz, SLOT + c->off, text, sizeof(text));
	diag("%s: %s (%u-bit code) target %#" PRIx64 " tlb %x bounce %d lazy %d", insn_name(c->d.rec.id),
	     text, c->csz * 8u, c->target, c->knobs.tlb, c->knobs.bounce, c->knobs.lazy_fp);
	show_bytes("bytes", c->bytes, c->len);
	if (want.fault != got.fault)
		diag("  host fault %d, ours %d", want.fault, got.fault);
	for (unsigned int k = 0; k < 16; k++) {
		if (c->in.gpr[k])
			diag("  %s in %#" PRIx64, name[k], c->in.gpr[k]);
		if (want.s.gpr[k] != got.s.gpr[k])
			diag("  %s host %#" PRIx64 " ours %#" PRIx64, name[k], want.s.gpr[k], got.s.gpr[k]);
		sprintf(label, "ymm%u", k);
		show_diff(label, c->in.ymm[k], want.s.ymm[k], got.s.ymm[k], 32);
	}
	if ((want.s.flags ^ got.s.flags) & FLAGS_ARITH)
		diag("  flags in %#" PRIx64 " host %#" PRIx64 " ours %#" PRIx64 " undefined %#x", c->in.flags,
		     want.s.flags & FLAGS_ARITH, got.s.flags & FLAGS_ARITH, c->d.flags_undef);
	show_diff("x87 control", c->in.fx, want.s.fx, got.s.fx, 32);
	for (unsigned int k = 0; k < 8; k++) {
		sprintf(label, "st%u", k);
		show_diff(label, c->in.fx + 32 + 16 * k, want.s.fx + 32 + 16 * k, got.s.fx + 32 + 16 * k, 10);
	}
	if (c->target)
		show_diff("memory", c->window + WINDOW_BEFORE, want.window + WINDOW_BEFORE,
			  got.window + WINDOW_BEFORE, 64);
}

/* ---- rows ---------------------------------------------------------------------------------------- */

/* The C handlers of op/vector.c are compute instructions as well. */
static bool is_vector_handler(op_fn op)
{
	return op == op_vgather || op == op_vmaskmov || op == op_vpmaskmov || op == op_maskmovq ||
	       op == op_maskmovdqu;
}

static bool is_tested(unsigned int id)
{
	const struct insn_row *row = &insn_rows[id];

	return !row->op || is_vector_handler(row->op);
}

/* Vectors that differ, or -1 when host and engine have no such instruction. */
static int run_row(unsigned int id, unsigned int vectors, unsigned int show_max)
{
	unsigned int done = 0, bad = 0, undefined = 0, only_host_ud = 0, only_pf = 0;

	for (unsigned int tries = 0; done < vectors && tries < vectors * 20 && bad <= 20; tries++) {
		struct icase c;
		struct outcome want, got;
		bool good;

		memset(&c, 0, sizeof(c));
		if (!gen_case(id, &c))
			continue;
		done++;
		good = agrees(&c, &want, &got);
		if (want.fault == EXC_UD) {
			undefined++;
			only_host_ud += !good;
			only_pf += got.fault == EXC_PF;
			if (!good && got.fault != EXC_PF && only_host_ud <= show_max)
				show(&c);
		} else if (!good && bad++ < show_max) {
			shrink(&c);
			show(&c);
		}
	}
	total += done;
	/* The engine looks at the operand's mapping first. */
	if (done && undefined == done && only_host_ud == only_pf)
		return -1;
	if (only_host_ud)
		diag("%s: %u vectors are #UD only on the host", insn_name((enum insn_id)id), only_host_ud);
	if (done < vectors && bad <= 20)
		diag("%s: only %u vectors", insn_name((enum insn_id)id), done);
	return (int)(bad + only_host_ud + (done < vectors / 2));
}

static void test_rows(const char *only, unsigned int vectors)
{
	for (unsigned int id = 1; id < INSN_COUNT; id++) {
		const char *name = insn_name((enum insn_id)id);
		int bad;

		if (!is_tested(id) || (only && strcmp(only, name)))
			continue;
		if (!gen_templates(id)) {
			ok(false, "%s: some encoding decodes to this row", name);
			continue;
		}
		bad = run_row(id, vectors, 2);
		if (bad < 0)
			ok(true, "%s: #UD here as on the host, whose CPUID the guest's is part of", name);
		else
			ok(bad == 0, "%s", name);
	}
}

/* ---- what CPUID does not show is undefined ------------------------------------------------------------ */

static void all_features(struct vcpu *v)
{
	memset(v->features, 0xff, sizeof(v->features));
}

/* Encodings of a row that still decode to it when its feature is missing; *n counts those that do with it. */
static unsigned int still_there(struct vcpu *v, bool checked, unsigned int id, unsigned int *n)
{
	enum feature f = (enum feature)insn_rows[id].feature;
	unsigned int bad = 0;

	for (unsigned int k = 0; k < 50; k++) {
		struct decode d;
		uint8_t b[16];

		gen_bytes(id, b);
		all_features(v);
		if (insn_decode(v, b, 15, 8, &d) || d.rec.id != id)
			continue;
		(*n)++;
		v->features[f / 64] &= ~(1ull << f % 64);
		bad += !insn_decode(checked ? v : NULL, b, 15, 8, &d) && d.rec.id == id;
	}
	return bad;
}

static void test_features(void)
{
	static struct vcpu v;
	unsigned int rows = 0, bad = 0, untried = 0, caught = 0;

	for (unsigned int id = 1; id < INSN_COUNT; id++) {
		unsigned int n = 0, gone = 0;

		if (insn_rows[id].feature == FEAT_BASE || !gen_templates(id))
			continue;
		rows++;
		bad += still_there(&v, true, id, &n);
		caught += still_there(&v, false, id, &gone) > 0;
		if (n)
			continue;
		untried++;
		diag("no encoding of %s", insn_name((enum insn_id)id));
	}
	is(bad, 0, "%u rows with a CPUID feature are undefined without it", rows);
	is(untried, 0, "each of them was tried");
	is(caught, rows, "and a decoder that does not ask for features is caught for each");
}

/* A renamer that takes one register for another must not get away with it. */
static void test_broken_renamer(void)
{
	unsigned int bad = 0;

	native_reset(engine_vcpu());
	native_test_break_rename = true;
	bad += run_row(INSN_ADD, 500, 0) > 0;
	bad += run_row(INSN_SHLD, 500, 0) > 0;
	bad += run_row(INSN_XADD, 500, 0) > 0;
	bad += run_row(INSN_PDEP, 500, 0) > 0;
	native_test_break_rename = false;
	native_reset(engine_vcpu());
	is(bad, 4, "a renamer with two registers swapped is caught");
}

int main(int argc, char **argv)
{
	unsigned int vectors = argc > 2 ? (unsigned int)atoi(argv[2]) : 2000 * tap_scale();
	const char *only = argc > 1 ? argv[1] : NULL;
	double start = tap_now();

	seed = tap_seed();
	if (!__builtin_cpu_supports("avx2"))
		skip_all("needs AVX2");
	if (!oracle_init() || !engine_init())
		bail_out("cannot map the arenas");
	gen_init(&seed);
	test_rows(only, vectors);
	if (!only) {
		test_features();
		test_broken_renamer();
	}
	diag("%lu vectors in %.1f s", total, tap_now() - start);
	return done_testing();
}
