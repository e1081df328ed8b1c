/* SPDX-License-Identifier: MIT */
/*
 * The decoder's records: conventions of the C handlers checked one by one, then random bytes for what
 * must hold of every answer.
 */
#include <ctype.h>

#include "engine.h"
#include "tap.h"

/* ---- conventions ------------------------------------------------------------------------------- */

struct expect {
	const char *bytes;
	uint8_t csz;
	uint16_t id;
	uint8_t osz;
	int64_t imm;
	int reg, rm; /* -1: not looked at */
	uint8_t flags;
};

static const struct expect expects[] = {
	{ "0f8510000000", 8, INSN_JNZ, 8, 0x10, -1, 5, 0 },
	{ "74fe", 8, INSN_JZ, 8, -2, -1, 4, 0 },
	{ "74fe", 4, INSN_JZ, 4, -2, -1, 4, 0 },
	{ "74fe", 2, INSN_JZ, 2, -2, -1, 4, 0 },
	{ "e8fbffffff", 8, INSN_CALL_REL, 8, -5, -1, -1, 0 },
	{ "66e81000", 4, INSN_CALL_REL, 2, 0x10, -1, -1, 0 },
	{ "c20800", 8, INSN_RET, 8, 8, -1, -1, 0 },
	{ "c3", 2, INSN_RET, 2, 0, -1, -1, 0 },
	{ "cb", 8, INSN_RET_FAR, 4, 0, -1, -1, 0 },
	{ "48cb", 8, INSN_RET_FAR, 8, 0, -1, -1, INSN_REXW },
	{ "9a7856341211aa", 4, INSN_CALL_FAR, 4, 0x12345678, -1, -1, 0 },
	{ "ff2d00000000", 8, INSN_JMP_FAR, 4, 0, -1, -1, INSN_MEM },
	{ "ffe0", 8, INSN_JMP_RM, 8, 0, -1, 0, 0 },
	{ "41ff5308", 8, INSN_CALL_RM, 8, 0, -1, -1, INSN_MEM },
	{ "4157", 8, INSN_PUSH, 8, 0, -1, 15, 0 },
	{ "6650", 8, INSN_PUSH, 2, 0, -1, 0, 0 },
	{ "6aff", 8, INSN_PUSH_IMM, 8, -1, -1, -1, 0 },
	{ "6aff", 2, INSN_PUSH_IMM, 2, -1, -1, -1, 0 },
	{ "0fa0", 8, INSN_PUSH_SEG, 8, 0, -1, -1, 0 },
	{ "1f", 4, INSN_POP_SEG, 4, 0, -1, -1, 0 },
	{ "8f00", 8, INSN_POP, 8, 0, -1, -1, INSN_MEM },
	{ "9d", 8, INSN_POPFQ, 8, 0, -1, -1, 0 },
	{ "9c", 2, INSN_PUSHF, 2, 0, -1, -1, 0 },
	{ "60", 4, INSN_PUSHAD, 4, 0, -1, -1, 0 },
	{ "c9", 8, INSN_LEAVE, 8, 0, -1, -1, 0 },
	{ "c8200001", 8, INSN_ENTER, 8, 0x20, -1, -1, 0 },
	{ "0f20e0", 8, INSN_MOV_FROM_CR, 8, 0, 4, 0, 0 },
	{ "440f20c0", 8, INSN_MOV_FROM_CR, 8, 0, 8, 0, 0 },
	{ "0f22d9", 4, INSN_MOV_TO_CR, 4, 0, 3, 1, 0 },
	{ "0f23fa", 8, INSN_MOV_TO_DR, 8, 0, 7, 2, 0 },
	{ "8ed0", 8, INSN_MOV_TO_SEG, 4, 0, SEG_SS, 0, 0 },
	{ "668cd8", 8, INSN_MOV_FROM_SEG, 2, 0, SEG_DS, 0, 0 },
	{ "0fb20411", 4, INSN_LSS, 4, 0, 0, -1, INSN_MEM },
	{ "cd80", 8, INSN_INT, -1, 0x80, -1, -1, 0 },
	{ "48cf", 8, INSN_IRETQ, 8, 0, -1, -1, INSN_REXW },
	{ "cf", 8, INSN_IRETD, 4, 0, -1, -1, 0 },
	{ "cf", 2, INSN_IRET, 2, 0, -1, -1, 0 },
	{ "e464", 8, INSN_IN, 1, 0x64, -1, -1, 0 },
	{ "ed", 8, INSN_IN, 4, -1, -1, -1, 0 },
	{ "66ef", 8, INSN_OUT, 2, -1, -1, -1, 0 },
	{ "48ef", 8, INSN_OUT, 4, -1, -1, -1, INSN_REXW },
	{ "f36e", 8, INSN_OUTSB, 1, 0, -1, -1, INSN_REP },
	{ "f3a4", 8, INSN_MOVSB, 1, 0, -1, -1, INSN_REP },
	{ "f348ab", 8, INSN_STOSQ, 8, 0, -1, -1, INSN_REP | INSN_REXW },
	{ "f2ae", 8, INSN_SCASB, 1, 0, -1, -1, INSN_REPNE },
	{ "f2a4", 8, INSN_MOVSB, 1, 0, -1, -1, INSN_REP | INSN_REPNE },
	{ "a5", 2, INSN_MOVSW, 2, 0, -1, -1, 0 },
	{ "f00fc708", 8, INSN_CMPXCHG8B, 8, 0, -1, -1, INSN_MEM | INSN_LOCK },
	{ "480fc708", 8, INSN_CMPXCHG16B, 16, 0, -1, -1, INSN_MEM | INSN_REXW },
	{ "0fab08", 8, INSN_BTS_MR, 4, 0, 1, -1, INSN_MEM },
	{ "0fabc8", 8, INSN_BTS, 4, 0, 1, 0, 0 },
	{ "00fc", 8, INSN_ADD, 1, 0, 3, 0, INSN_REG_HIGH | INSN_RM_HIGH },
	{ "40", 4, INSN_INC, 4, 0, -1, 0, 0 },
	{ "4f", 2, INSN_DEC, 2, 0, -1, 7, 0 },
	{ "678d4710", 4, INSN_LEA, 4, 0, 0, -1, INSN_MEM },
	{ "0f01f8", 8, INSN_SWAPGS, -1, 0, -1, -1, 0 },
	{ "0f0138", 8, INSN_INVLPG, -1, 0, -1, -1, INSN_MEM },
	{ "f30f1efa", 8, INSN_NOP, -1, 0, -1, -1, INSN_REP },
	{ "f3900000", 8, INSN_PAUSE, -1, 0, -1, -1, INSN_REP },
	{ "62f17c4828c1", 8, INSN_INVALID, -1, 0, -1, -1, 0 },
	{ "f00fa2", 8, INSN_INVALID, -1, 0, -1, -1, 0 },
	{ "06", 8, INSN_INVALID, -1, 0, -1, -1, 0 },
	{ "8ec8", 8, INSN_INVALID, -1, 0, -1, -1, 0 },
};

static unsigned int parse(const char *hex, uint8_t *out)
{
	unsigned int n = 0, x;

	for (; hex[0] && sscanf(hex, "%2x", &x) == 1; hex += 2)
		out[n++] = (uint8_t)x;
	return n;
}

static void test_convention(const struct expect *e)
{
	uint8_t b[16] = { 0 };
	struct decode d;
	const struct insn *r = &d.rec;
	bool good;

	parse(e->bytes, b);
	good = insn_decode(NULL, b, 15, e->csz, &d) == 0;
	good = good && r->id == e->id && (e->osz == 0xff || r->osz == e->osz) && r->imm == e->imm &&
	       (e->reg < 0 || insn_reg(r) == (unsigned)e->reg) &&
	       (e->rm < 0 || insn_rm(r) == (unsigned)e->rm) && r->flags == e->flags;
	if (!ok(good, "%s in %u-bit code is %s", e->bytes, e->csz * 8u, insn_name(e->id)))
		diag("got %s osz %u imm %ld reg %u rm %u flags %#x", insn_name(r->id), r->osz, (long)r->imm,
		     insn_reg(r), insn_rm(r), r->flags);
}

static void test_memory(void)
{
	struct decode d;
	static const uint8_t sib[] = { 0x65, 0x4a, 0x8b, 0x84, 0xeb, 0x78, 0x56, 0x34, 0x92 };
	static const uint8_t rip[] = { 0x8b, 0x05, 0xf0, 0xff, 0xff, 0xff };
	static const uint8_t moffs[] = { 0x48, 0xa1, 8, 7, 6, 5, 4, 3, 2, 1 };
	static const uint8_t bp16[] = { 0x8b, 0x42, 0x10 };

	insn_decode(NULL, sib, sizeof(sib), 8, &d);
	ok(d.rec.base == GPR_RBX && d.rec.index == GPR_R13 && insn_scale(&d.rec) == 3 &&
	   d.rec.disp == (s32)0x92345678 && insn_seg(&d.rec) == SEG_GS && insn_asz(&d.rec) == 8,
	   "mov rax, gs:[rbx+r13*8-…]");
	insn_decode(NULL, rip, sizeof(rip), 8, &d);
	ok(d.rec.base == GPR_RIP && d.rec.index == GPR_NONE && d.rec.disp == -16, "mov eax, [rip-16]");
	insn_decode(NULL, moffs, sizeof(moffs), 8, &d);
	ok(d.rec.base == GPR_MOFFS && d.rec.imm == 0x0102030405060708, "mov rax, [moffs]");
	insn_decode(NULL, bp16, sizeof(bp16), 2, &d);
	ok(d.rec.base == GPR_RBP && d.rec.index == GPR_RSI && insn_seg(&d.rec) == SEG_SS &&
	   insn_asz(&d.rec) == 2 && d.rec.disp == 0x10, "mov ax, [bp+si+16]");
}

static void test_lengths(void)
{
	static const uint8_t mov[] = { 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8 };
	uint8_t longest[16];
	struct decode d;

	for (unsigned int n = 1; n < sizeof(mov); n++)
		if (insn_decode(NULL, mov, n, 8, &d) != -EAGAIN)
			diag("%u bytes of ten were enough", n);
	is(insn_decode(NULL, mov, sizeof(mov), 8, &d), 0, "ten bytes are enough for a ten-byte instruction");
	memset(longest, 0x66, sizeof(longest));
	longest[14] = 0x90;
	is(insn_decode(NULL, longest, 15, 8, &d), 0, "fifteen bytes decode");
	longest[14] = 0x66;
	is(insn_decode(NULL, longest, 15, 8, &d), -E2BIG, "sixteen do not");
}

/* ---- what must hold of every answer ---------------------------------------------------------------- */

static bool offsets_hold(const struct decode *d)
{
	unsigned int end = d->off_opcode + 1u;

	if (d->off_modrm != 0xff) {
		if (d->off_modrm != end)
			return false;
		end = d->off_modrm + 1u;
	}
	if (d->off_sib != 0xff) {
		if (d->off_sib != end)
			return false;
		end = d->off_sib + 1u;
	}
	if (d->disp_len) {
		if (d->off_disp != end)
			return false;
		end = d->off_disp + d->disp_len;
	}
	return d->bytes[d->off_opcode] == d->opcode && end + d->imm_len == d->len &&
	       d->pfx_end <= d->off_opcode && d->len <= 15;
}

/* The disassembler's "[base+index*scale…" names the registers of the record. */
static bool text_agrees(const struct decode *d)
{
	static const char *const reg64[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "", "rip" };
	char text[128], want[32];
	const char *open;

	if (!(d->rec.flags & INSN_MEM) || d->csz != 8 || insn_asz(&d->rec) != 8 || d->vsib ||
	    d->rec.base >= GPR_NONE)
		return true;
	insn_format(d->bytes, d->len, d->csz, 0, text, sizeof(text));
	open = strchr(text, '[');
	if (!open)
		return false;
	if (d->rec.index < GPR_NONE)
		snprintf(want, sizeof(want), "[%s+%s*%u", reg64[d->rec.base], reg64[d->rec.index],
			 1u << insn_scale(&d->rec));
	else
		snprintf(want, sizeof(want), "[%s", reg64[d->rec.base]);
	return !strncmp(open, want, strlen(want)) && !isalnum((unsigned char)open[strlen(want)]);
}

static bool binds(struct decode *d)
{
	struct insn rec = d->rec;
	struct vcpu *v = engine_vcpu();

	v->csz = d->csz;
	if (native_bind(v, d, &rec)) {
		native_reset(v);
		if (native_bind(v, d, &rec))
			return false;
	}
	return rec.fn && rec.op == d->rec.op; /* op_unhandled otherwise */
}

static void test_random(uint64_t *seed)
{
	static const uint8_t modes[] = { 8, 8, 4, 2 };
	unsigned int bad_offsets = 0, bad_text = 0, bad_bind = 0, bad_len = 0, valid = 0;
	unsigned int rounds = 300000 * tap_scale();

	for (unsigned int n = 0; n < rounds; n++) {
		uint8_t b[16], csz = modes[n & 3];
		struct decode d, again;
		char hex[48] = "";
		bool good;

		for (unsigned int k = 0; k < 16; k++)
			b[k] = (uint8_t)tap_rand(seed);
		if (insn_decode(NULL, b, 15, csz, &d) || d.rec.id == INSN_INVALID)
			continue;
		valid++;
		good = offsets_hold(&d);
		bad_offsets += !good;
		bad_text += !text_agrees(&d);
		bad_bind += !binds(&d);
		if (insn_decode(NULL, b, d.len, csz, &again) || again.len != d.len ||
		    (d.len > 1 && insn_decode(NULL, b, d.len - 1u, csz, &again) == 0 &&
		     again.rec.id != INSN_INVALID))
			bad_len++;
		if ((!good || !text_agrees(&d) || !binds(&d)) && bad_offsets + bad_text + bad_bind < 10) {
			for (unsigned int k = 0; k < d.len; k++)
				sprintf(hex + 2 * k, "%02x", b[k]);
			diag("%s in %u-bit code: %s", hex, csz * 8u, insn_name(d.rec.id));
		}
	}
	ok(valid > rounds / 4, "random bytes are instructions often enough");
	is(bad_offsets, 0, "offsets of opcode, ModRM, SIB, displacement and immediate add up");
	is(bad_text, 0, "base, index and scale are what the disassembler prints");
	is(bad_len, 0, "an instruction needs its own bytes and no more");
	is(bad_bind, 0, "every native row can be renamed");
}

int main(void)
{
	uint64_t seed = tap_seed();

	if (!engine_init())
		bail_out("no engine");
	for (unsigned int k = 0; k < ARRAY_SIZE(expects); k++)
		test_convention(&expects[k]);
	test_memory();
	test_lengths();
	test_random(&seed);
	return done_testing();
}
