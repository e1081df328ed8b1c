/* SPDX-License-Identifier: MIT */
/*
 * usage: jit-verify IMAGE…
 * The verifier is tested: each block that guest programs are translated to is spoilt in every way that this file knows,
 * one at a time, and looked at again. A fault of the emitters that nobody would notice is what a verifier is for.
 */
#include "tap.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "../guest/guest.h"
#include "cpu/native_priv.h"
#include "jit/verify.h"

/* One host instruction of a block. */
struct place {
	u8 *code;
	const struct decode *d;
	u32 at;
	struct work *w;
};

static void nops(const struct place *p)
{
	static const u8 nop[][9] = { { 0 }, { 0x90 }, { 0x66, 0x90 }, { 0x0f, 0x1f, 0 }, { 0x0f, 0x1f, 0x40 },
		{ 0x0f, 0x1f, 0x44 }, { 0x66, 0x0f, 0x1f, 0x44 }, { 0x0f, 0x1f, 0x80 }, { 0x0f, 0x1f, 0x84 } };

	for (u32 at = 0, n; at < p->d->len; at += n) {
		n = p->d->len - at > 8 ? 8 : p->d->len - at;
		memcpy(p->code + p->at + at, nop[n], n);
	}
}

static bool hot(const struct place *p)
{
	return p->at < p->w->hot_end;
}

static bool reads_field(const struct place *p, size_t off)
{
	return p->d->rec.flags & INSN_MEM && insn_seg(&p->d->rec) == SEG_GS && p->d->rec.base == GPR_NONE &&
	       p->d->rec.disp == (s32)off;
}

/* ---- what can be wrong: true if this place was spoilt ------------------------------------------------------------ */

static bool no_bound(const struct place *p)
{
	if (p->d->rec.id != INSN_JNBE || !hot(p) || p->code[p->at - 5] == 0x90)
		return false;
	for (unsigned int k = 0; k < p->w->nexits; k++)
		if (p->w->exit[k].at == p->w->j->used + p->at + p->d->len)
			return false; /* a guest's */
	nops(p);
	return true;
}

static bool wide_bound(const struct place *p)
{
	if (p->d->rec.id != INSN_CMP || p->d->imm_len != 4 || insn_rm(&p->d->rec) != R_T || p->d->rec.imm < 4000 ||
	    p->d->rec.imm > 4095)
		return false;
	if (p->code[p->at + p->d->off_imm] == 0xff)
		return false;
	p->code[p->at + p->d->off_imm] = 0xff;
	return true;
}

static bool wide_slot(const struct place *p)
{
	s32 first = p->d->rec.disp & -64;

	first += (s32)(offsetof(struct vcpu, slots) & 63) + (s32)offsetof(struct tlb_slot, most);
	if (p->d->rec.id != INSN_CMP || !(p->d->rec.flags & INSN_MEM) || insn_reg(&p->d->rec) != R_I ||
	    p->d->rec.osz != 8 || insn_seg(&p->d->rec) != SEG_GS || p->d->rec.disp == first)
		return false;
	memcpy(p->code + p->at + p->d->off_disp, &first, 4);
	return true;
}

static bool other_slot(const struct place *p)
{
	s32 disp = p->d->rec.disp + (s32)sizeof(struct tlb_slot);

	if (p->d->rec.id != INSN_SUB || !(p->d->rec.flags & INSN_MEM) || p->d->rec.base != GPR_NONE ||
	    insn_reg(&p->d->rec) != R_I || insn_seg(&p->d->rec) != SEG_GS)
		return false;
	memcpy(p->code + p->at + p->d->off_disp, &disp, 4);
	return true;
}

static bool other_array(const struct place *p)
{
	s32 disp = p->d->rec.disp ^ 0x10000;

	if (p->d->rec.id != INSN_SUB || !(p->d->rec.flags & INSN_MEM) || p->d->rec.base != R_I)
		return false;
	memcpy(p->code + p->at + p->d->off_disp, &disp, 4);
	return true;
}

static bool no_mask(const struct place *p)
{
	if (p->d->rec.id != INSN_AND || p->d->imm_len != 4 || insn_rm(&p->d->rec) != R_I ||
	    p->d->rec.flags & INSN_MEM || p->d->rec.imm != (TLB_ENTRIES - 1) << 4)
		return false;
	nops(p);
	return true;
}

static bool no_add(const struct place *p)
{
	bool adds = p->d->rec.id == INSN_ADD || (p->d->rec.id == INSN_MOV && insn_reg(&p->d->rec) == R_I);

	if (!adds || !(p->d->rec.flags & INSN_MEM) || p->d->rec.base != R_I)
		return false;
	nops(p);
	return true;
}

static bool no_save(const struct place *p)
{
	if (p->d->rec.id != INSN_LAHF)
		return false;
	nops(p);
	return true;
}

static bool no_overflow(const struct place *p)
{
	if (p->d->rec.id != INSN_SETO || p->at < 1 || p->code[p->at - 1] != 0x9f)
		return false;
	nops(p);
	return true;
}

static bool no_restore(const struct place *p)
{
	if (p->d->rec.id != INSN_SAHF || !hot(p) || p->at < p->w->start[0])
		return false; /* at its entry a block may find nobody who wants them */
	nops(p);
	return true;
}

static bool no_poll(const struct place *p)
{
	if (p->d->rec.id != INSN_JRCXZ)
		return false;
	p->code[p->at] = 0xeb; /* jmp */
	return true;
}

static bool no_early_poll(const struct place *p)
{
	if (p->d->rec.id != INSN_CMP || !reads_field(p, offsetof(struct vcpu, request)))
		return false;
	nops(p);
	return true;
}

static bool no_mark(const struct place *p)
{
	if (p->d->rec.id != INSN_MOV || !reads_field(p, offsetof(struct vcpu, aflags) + 1))
		return false;
	nops(p);
	return true;
}

static bool in_jump_cache(size_t off)
{
	return off >= offsetof(struct vcpu, jc) && off < offsetof(struct vcpu, jc) + sizeof(((struct vcpu *)0)->jc);
}

/* Something that a jump through the jump cache has to look at */
static bool no_jump_test(const struct place *p)
{
	const struct insn *r = &p->d->rec;
	size_t off = (size_t)r->disp;

	if (r->id != INSN_CMP || !(r->flags & INSN_MEM) || insn_seg(r) != SEG_GS || r->base != GPR_NONE)
		return false;
	if (off != offsetof(struct vcpu, page_rip) && !in_jump_cache(off))
		return false;
	nops(p);
	return true;
}

/* An entry's key where its address should be, and so on */
static bool other_entry(const struct place *p)
{
	const struct insn *r = &p->d->rec;

	if (!(r->flags & INSN_MEM) || insn_seg(r) != SEG_GS || r->base != GPR_NONE || r->id == INSN_MOV ||
	    !in_jump_cache((size_t)r->disp))
		return false;
	p->code[p->at + p->d->off_disp] ^= 8;
	return true;
}

static bool no_fp_test(const struct place *p)
{
	if (p->d->rec.id != INSN_TEST || !reads_field(p, offsetof(struct vcpu, fp_live)))
		return false;
	nops(p);
	return true;
}

static bool no_type_test(const struct place *p)
{
	if (p->d->rec.id != INSN_CMP || !reads_field(p, offsetof(struct vcpu, tlb_uc)))
		return false;
	nops(p);
	return true;
}

static bool privileged(const struct place *p)
{
	if (p->d->rec.id != INSN_LAHF)
		return false;
	p->code[p->at] = 0xf4; /* hlt */
	return true;
}

static bool no_segment(const struct place *p)
{
	if (p->code[p->at] != 0x65)
		return false;
	p->code[p->at] = 0x3e; /* ds: the host's memory */
	return true;
}

static bool other_store(const struct place *p)
{
	if (p->d->mem_acc != MEM_W || insn_seg(&p->d->rec) != SEG_GS || p->d->disp_len != 4)
		return false;
	p->code[p->at + p->d->off_disp] ^= 0x30;
	p->code[p->at + p->d->off_disp + 1] ^= 0x2;
	return true;
}

static bool other_site(const struct place *p)
{
	if (hot(p) || p->d->rec.id != INSN_MOV || p->d->imm_len != 4 || insn_rm(&p->d->rec) != R_I ||
	    p->d->rec.flags & INSN_MEM)
		return false;
	p->code[p->at + p->d->off_imm] ^= 0x80;
	return true;
}

static bool into_the_middle(const struct place *p)
{
	if (p->d->rec.id != INSN_JMP_REL || p->d->imm_len != 4)
		return false;
	p->code[p->at + p->d->off_imm] ^= 1;
	return true;
}

/* One of the registers that the copied instruction names. */
static bool other_register(const struct place *p)
{
	for (unsigned int k = 0; k < p->w->n; k++) {
		if (p->w->copied[k] != p->at || p->d->off_modrm == 0xff || !(p->d->gpr_fields & (FIELD_REG | FIELD_RM)))
			continue;
		p->code[p->at + p->d->off_modrm] ^= (p->d->gpr_fields & FIELD_RM) ? 1 : 8;
		return true;
	}
	return false;
}

static const struct mutator {
	const char *what;
	bool (*spoil)(const struct place *p);
	unsigned int percent;	/* that must be refused: a jump may happen to hit another place */
} mutators[] = {
	{ "a probe without its jump to the slow path", no_bound, 100 },
	{ "a probe for fewer bytes than are accessed", wide_bound, 100 },
	{ "a slot's probe for fewer bytes than are accessed", wide_slot, 100 },
	{ "the limit of another slot", other_slot, 100 },
	{ "a probe of another array", other_array, 100 },
	{ "a probe by an index that is not masked", no_mask, 100 },
	{ "a probe that forgets the host's address", no_add, 100 },
	{ "flags that are not saved", no_save, 100 },
	{ "OF that is not saved", no_overflow, 100 },
	{ "flags that are not put back", no_restore, 100 },
	{ "a backward jump without a poll", no_poll, 100 },
	{ "a backward jump without an early poll", no_early_poll, 100 },
	{ "a loop whose next pass knows nothing of the flags", no_mark, 100 },
	{ "a jump by the jump cache that does not look at all of the entry", no_jump_test, 100 },
	{ "a jump by the wrong field of the jump cache", other_entry, 100 },
	{ "vector state used without a test", no_fp_test, 100 },
	{ "a lock without a look at the memory's type", no_type_test, 100 },
	{ "a privileged instruction", privileged, 100 },
	{ "a field of the vCPU without its segment", no_segment, 100 },
	{ "a store into another field of the vCPU", other_store, 100 },
	{ "another instruction's site", other_site, 100 },
	{ "a jump into an instruction", into_the_middle, 90 },
	{ "another register", other_register, 100 },
};
#define MUTATORS (sizeof(mutators) / sizeof(mutators[0]))
static unsigned int spoilt[MUTATORS], refused[MUTATORS], blocks, good;

static void spoil(struct work *w, const struct block *b, const struct mutator *m)
{
	static u8 kept[BLOCK_ROOM];
	struct decode d;

	memcpy(kept, w->e.buf, w->e.n);
	for (u32 at = 0; at < w->e.n; at += d.len) {
		struct place p = { .code = w->e.buf, .d = &d, .at = at, .w = w };

		if (insn_decode(NULL, w->e.buf + at, w->e.n - at < 15 ? w->e.n - at : 15, 8, &d))
			return;
		if (!m->spoil(&p)) {
			memcpy(w->e.buf, kept, w->e.n);
			continue;
		}
		spoilt[m - mutators]++;
		if (!verify_quietly(w, b))
			refused[m - mutators]++;
		else if (getenv("VERBOSE"))
			diag("not refused: %s at %#x: %s", m->what, at, insn_name((enum insn_id)d.rec.id));
		memcpy(w->e.buf, kept, w->e.n);
	}
}

static bool look(struct work *w, const struct block *b)
{
	blocks++;
	good += verify_quietly(w, b);
	for (unsigned int k = 0; k < MUTATORS; k++)
		if (spoilt[k] < 400)
			spoil(w, b, &mutators[k]);
	return true;
}

static void run_image(const char *path)
{
	static u8 image[GUEST_IMAGE];
	struct guest_out out;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, image, sizeof(image)) != sizeof(image))
		bail_out("usage: jit-verify IMAGE…");
	close(fd);
	guest_run(image, GUEST_PLAIN, 60, &out);
	ok(out.exit_code == 0, "%s runs to its end", strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
	guest_out_free(&out);
}

int main(int argc, char **argv)
{
	setenv("GUEST_JIT", "1", 1);
	setenv("CASEMENT_HEAT", "1", 1);
	setenv("CASEMENT_VERIFY", "1", 1);
	verify_test = look;
	for (int k = 1; k < argc; k++)
		run_image(argv[k]);
	is(good, blocks, "%u blocks as they are: none is refused", blocks);
	for (unsigned int k = 0; k < MUTATORS; k++)
		ok(spoilt[k] && refused[k] * 100 >= spoilt[k] * mutators[k].percent, "%s: %u of %u are refused",
		   mutators[k].what, refused[k], spoilt[k]);
	return done_testing();
}
