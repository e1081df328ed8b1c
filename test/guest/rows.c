/* SPDX-License-Identifier: MIT */
/*
 * usage: guest-rows IMAGE…
 * The row-coverage gate. Runs the bare guest programs with every handler called through a counter:
 *  - each row of spec/insn.def that has a handler is executed by some program; rows without one get their vectors
 *    in test/insn;
 *  - each row that needs privilege is refused somewhere for lack of it;
 *  - a program notices when such a row's privilege check is switched off, when a row's exception of some kind is
 *    (sampled), and when LOCK is accepted where it is illegal.
 */
#include "tap.h"

#include <fcntl.h>

#include "guest.h"

#include "cpu/native_priv.h"
#include "cpu/op/op.h"

#define LIMIT 120	/* seconds: only what hangs takes as long, on any machine */
#define IMAGES 64
#define LIMIT_OFF 2	/* something else than usual happens: that may well be a loop */
#define SAMPLES 30

enum off { OFF_NOTHING, OFF_PRIVILEGE, OFF_EXCEPTION, OFF_LOCK };

/* What to switch off. */
static struct {
	enum off what;
	unsigned int id;
	unsigned int vector;
	bool done;	/* it made a difference to some execution */
} off;

static struct {
	bool ran;
	bool refused;		/* #GP or #UD above CPL 0 */
	bool locked;		/* #UD with LOCK */
	uint32_t vectors;	/* exceptions raised, bit by vector */
} seen[INSN_COUNT], in_image[IMAGES][INSN_COUNT], by_image[IMAGES][INSN_COUNT];

static bool lacking[INSN_COUNT];	/* not in the guest's CPUID, because not in the host's */

static struct image {
	const char *path;
	uint8_t data[GUEST_IMAGE];
	struct guest_out plain;
} images[IMAGES];
static unsigned int nimages;
static unsigned int now_running;

/* ---- the counter ---------------------------------------------------------------------------------------- */

static int counted(struct vcpu *v, const struct insn *i)
{
	const struct insn_row *row = &insn_rows[i->id];
	bool pass = off.what == OFF_PRIVILEGE && off.id == i->id && v->cpl;
	u8 cpl = v->cpl;
	int res;

	by_image[now_running][i->id].ran = true;
	if (row->traits & T_NOP)
		return OP_NEXT;
	if (pass) {
		v->cpl = 0;
		off.done = true;
	}
	res = row->op(v, i);
	if (pass && !v->cpl)
		v->cpl = cpl;
	if (res != OP_EXC || v->exc.vector > 31)
		return res;
	by_image[now_running][i->id].vectors |= 1u << v->exc.vector;
	if (cpl && (v->exc.vector == EXC_GP || v->exc.vector == EXC_UD))
		by_image[now_running][i->id].refused = true;
	if (off.what == OFF_EXCEPTION && off.id == i->id && off.vector == v->exc.vector) {
		off.done = true;
		v->exc.valid = false;
		return OP_NEXT;
	}
	return res;
}

/* An undefined instruction with LOCK: what would it be without? */
static bool without_lock(struct vcpu *v, const struct decode *d, struct decode *bare)
{
	unsigned int n = 0;
	uint8_t b[16] = { 0 };

	for (unsigned int k = 0; k < sizeof(d->bytes); k++)
		if (d->bytes[k] != 0xf0 || n < k)
			b[n++] = d->bytes[k];
	return n < sizeof(d->bytes) && !insn_decode(v, b, 15, d->csz, bare) && bare->rec.id != INSN_INVALID;
}

static bool looked;

static bool on_bind(struct vcpu *v, const struct decode *d, struct insn *rec)
{
	const struct insn_row *row = &insn_rows[rec->id];
	struct decode bare;
	struct insn as;

	for (unsigned int id = 1; id < INSN_COUNT && !looked; id++)
		lacking[id] = insn_rows[id].feature != FEAT_BASE &&
			      !cpu_has(v, (enum feature)insn_rows[id].feature);
	looked = true;
	if (rec->id == INSN_INVALID) {
		if (!without_lock(v, d, &bare))
			return false;
		by_image[now_running][bare.rec.id].locked = true;
		if (off.what != OFF_LOCK || off.id != bare.rec.id)
			return false;
		off.done = true;
		as = bare.rec;
		as.off = rec->off;
		as.seq = rec->seq;
		as.len = (u8)(bare.len + 1);
		*rec = as;
		native_test_bind = NULL;
		native_bind(v, &bare, rec);
		native_test_bind = on_bind;
		return true;
	}
	if (!row->op && !(row->traits & T_NOP)) {
		by_image[now_running][rec->id].ran = true;
		return false;
	}
	if (row->op != rec->op)
		return false;
	rec->op = counted;
	return true;
}

/* ---- running ---------------------------------------------------------------------------------------------- */

static bool same(const struct guest_out *a, const struct guest_out *b)
{
	return a->exit_code == b->exit_code && a->len == b->len && !memcmp(a->data, b->data, a->len) &&
	       !a->error[0] == !b->error[0];
}

/* With what is off now; true: the program sent what it always sends. */
static bool unchanged(unsigned int image)
{
	struct guest_out out;
	bool res;

	now_running = image;
	native_test_bind = on_bind;
	guest_run(images[image].data, GUEST_PLAIN, off.what ? LIMIT_OFF : LIMIT, &out);
	native_test_bind = NULL;
	res = same(&out, &images[image].plain);
	guest_out_free(&out);
	return res;
}

static void load(const char *path)
{
	struct image *im = &images[nimages++];
	int fd = open(path, O_RDONLY);

	im->path = path;
	if (fd < 0 || read(fd, im->data, sizeof(im->data)) != sizeof(im->data))
		bail_out("cannot read an image");
	close(fd);
	guest_run(im->data, GUEST_PLAIN, LIMIT, &im->plain);
}

/* Is it noticed by some program in which it makes a difference? */
static bool noticed(enum off what, unsigned int id, unsigned int vector)
{
	bool res = false;

	for (unsigned int k = 0; k < nimages && !res; k++) {
		bool here = what == OFF_PRIVILEGE ? in_image[k][id].refused :
			    what == OFF_LOCK ? in_image[k][id].locked :
					       in_image[k][id].vectors >> vector & 1;

		if (!here)
			continue;
		off = (typeof(off)){ .what = what, .id = id, .vector = vector };
		res = !unchanged(k) && off.done;
	}
	off.what = OFF_NOTHING;
	return res;
}

/* ---- the gate ---------------------------------------------------------------------------------------------- */

/* Vector instructions in C: test/insn compares them with the host. */
static bool has_vectors(op_fn op)
{
	return op == op_vgather || op == op_vmaskmov || op == op_vpmaskmov || op == op_maskmovq ||
	       op == op_maskmovdqu;
}

static void cover(void)
{
	unsigned int bad = 0, rows = 0;

	for (unsigned int k = 0; k < nimages; k++) {
		ok(unchanged(k), "%s: handlers and emitted code do the same", strrchr(images[k].path, '/') + 1);
		memcpy(in_image[k], by_image[k], sizeof(by_image[k]));
		for (unsigned int id = 1; id < INSN_COUNT; id++) {
			seen[id].ran |= by_image[k][id].ran;
			seen[id].refused |= by_image[k][id].refused;
			seen[id].locked |= by_image[k][id].locked;
			seen[id].vectors |= by_image[k][id].vectors;
		}
	}
	for (unsigned int id = 1; id < INSN_COUNT; id++) {
		if (!insn_rows[id].op || has_vectors(insn_rows[id].op))
			continue;
		if (lacking[id]) {
			diag("not in the CPUID of this guest: %s", insn_name((enum insn_id)id));
			continue;
		}
		rows++;
		if (seen[id].ran)
			continue;
		bad++;
		diag("not reached: %s", insn_name((enum insn_id)id));
	}
	is(bad, 0, "%u rows with handlers are executed", rows);
}

static bool needs_privilege(unsigned int id)
{
	return insn_rows[id].op && !lacking[id] && insn_rows[id].traits & (T_CPL0 | T_UMIP | T_IO);
}

static void privilege(void)
{
	unsigned int missing = 0, missed = 0, rows = 0;

	for (unsigned int id = 1; id < INSN_COUNT; id++) {
		if (!needs_privilege(id))
			continue;
		rows++;
		if (!seen[id].refused) {
			missing++;
			diag("never refused for lack of privilege: %s", insn_name((enum insn_id)id));
		} else if (!noticed(OFF_PRIVILEGE, id, 0)) {
			missed++;
			diag("nobody notices that privilege is not checked: %s", insn_name((enum insn_id)id));
		}
	}
	is(missing, 0, "%u rows that need privilege are refused without", rows);
	is(missed, 0, "a privilege check that is off is noticed");
}

static void exceptions(uint64_t *seed)
{
	unsigned int missed = 0, n = 0;
	static struct { u16 id; u8 vector; } pair[INSN_COUNT * 8];

	for (unsigned int id = 1; id < INSN_COUNT; id++)
		for (unsigned int vec = 0; vec < 32; vec++)
			if (seen[id].vectors >> vec & 1 && n < ARRAY_SIZE(pair)) {
				pair[n].id = (u16)id;
				pair[n++].vector = (u8)vec;
			}
	for (unsigned int k = 0; k < SAMPLES * tap_scale() && n; k++) {
		unsigned int p = (unsigned int)(tap_rand(seed) % n);

		if (noticed(OFF_EXCEPTION, pair[p].id, pair[p].vector))
			continue;
		missed++;
		diag("nobody notices that %s does not raise vector %u", insn_name(pair[p].id), pair[p].vector);
	}
	is(missed, 0, "exceptions that do not come are noticed (%u of %u sampled)", SAMPLES * tap_scale(), n);
}

static void locks(void)
{
	unsigned int missed = 0, n = 0;

	for (unsigned int id = 1; id < INSN_COUNT; id++) {
		if (!seen[id].locked)
			continue;
		n++;
		if (noticed(OFF_LOCK, id, 0))
			continue;
		missed++;
		diag("nobody notices LOCK %s", insn_name((enum insn_id)id));
	}
	ok(n >= 10, "LOCK is tried where it is illegal (%u rows)", n);
	is(missed, 0, "LOCK that is accepted where it is illegal is noticed");
}

int main(int argc, char **argv)
{
	uint64_t seed = tap_seed();

	if (argc < 2 || argc > IMAGES)
		bail_out("usage: guest-rows IMAGE…");
	for (int k = 1; k < argc; k++)
		load(argv[k]);
	cover();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return done_testing(); /* what follows says nothing about memory, and takes long */
#endif
	privilege();
	exceptions(&seed);
	locks();
	return done_testing();
}
