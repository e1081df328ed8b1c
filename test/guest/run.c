/* SPDX-License-Identifier: MIT */
/*
 * usage: guest-run IMAGE
 * Runs a bare guest program on our processor, undisturbed and disturbed, and on QEMU. All must send the same
 * records, and every CHECK must hold.
 */
#include "tap.h"

#include <fcntl.h>

#include "guest.h"

#define LIMIT 120	/* seconds: only what hangs takes as long, on any machine */
#define DIAG_MAX 12

static unsigned int diags;
static const char *before;	/* the record before the one being compared */

static size_t count(const struct guest_out *o)
{
	return o->len / sizeof(struct guest_record);
}

static const struct guest_record *record(const struct guest_out *o, size_t n)
{
	return (const struct guest_record *)o->data + n;
}

static bool differ(const char *name, unsigned int bits, const char *field, uint64_t a, uint64_t b)
{
	if (a == b)
		return false;
	if (diags++ < DIAG_MAX)
		diag("%.24s (%u-bit, after %.24s): %s is %#llx, other %#llx", name, bits, before ?: "nothing",
		     field, (unsigned long long)a, (unsigned long long)b);
	return true;
}

static bool same_record(const struct guest_record *a, const struct guest_record *b)
{
	static const char *const gpr[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	bool bad = differ(a->name, a->bits, "vector", (uint64_t)a->vector, (uint64_t)b->vector);

	bad |= differ(a->name, a->bits, "error code", a->error, b->error);
	bad |= differ(a->name, a->bits, "cr2", a->cr2, b->cr2);
	bad |= differ(a->name, a->bits, "faulting rip", a->rip, b->rip);
	bad |= differ(a->name, a->bits, "saved rflags", a->xflags, b->xflags);
	bad |= differ(a->name, a->bits, "value", a->got, b->got);
	bad |= differ(a->name, a->bits, "rflags", a->flags, b->flags);
	for (int n = 0; n < 16; n++)
		bad |= differ(a->name, a->bits, gpr[n], a->gpr[n], b->gpr[n]);
	return !bad;
}

/* The next record from *k on that is compared; NULL at the end. */
static const struct guest_record *next(const struct guest_out *o, size_t *k, bool all)
{
	while (*k < count(o)) {
		const struct guest_record *r = record(o, (*k)++);

		if (all || r->name[0] != '!')
			return r;
	}
	return NULL;
}

/* One point: both sent the same. @all: also the records whose names begin with "!". */
static void agree(const struct guest_out *a, const struct guest_out *b, bool all, const char *what)
{
	unsigned int bad = 0, n = 0;
	size_t i = 0, j = 0;

	diags = 0;
	before = NULL;
	for (;; n++) {
		const struct guest_record *x = next(a, &i, all), *y = next(b, &j, all);

		if (!x && !y)
			break;
		if (!x || !y || strncmp(x->name, y->name, sizeof(x->name))) {
			diag("record %u is \"%.24s\", other \"%.24s\"", n, x ? x->name : "(end)",
			     y ? y->name : "(end)");
			bad++;
			break;
		}
		bad += !same_record(x, y);
		before = x->name;
	}
	ok(!bad, "%s (%u records)", what, n);
}

static void finished(const struct guest_out *o, const char *what)
{
	const struct guest_record *last = count(o) ? record(o, count(o) - 1) : NULL;

	if (!ok(o->exit_code == 0 && !o->error[0], "%s: runs to its end", what)) {
		diag("exit code %d %s", o->exit_code, o->error);
		if (last)
			diag("last record %zu \"%.24s\" (%u-bit) vector %d error %#x rip %#llx cr2 %#llx",
			     count(o) - 1, last->name, last->bits, last->vector, last->error,
			     (unsigned long long)last->rip, (unsigned long long)last->cr2);
		if (last && count(o) > 1 && last->kind == GUEST_UNEXPECTED)
			diag("after \"%.24s\"", record(o, count(o) - 2)->name);
	}
}

static void checks(const struct guest_out *o, bool all, const char *what)
{
	unsigned int bad = 0, n = 0;

	diags = 0;
	for (size_t k = 0; k < count(o); k++) {
		const struct guest_record *r = record(o, k);

		if (r->kind != GUEST_CHECK || (!all && r->name[0] == '!'))
			continue;
		n++;
		bad += differ(r->name, r->bits, "value", r->got, r->want);
	}
	ok(!bad, "%s: %u checked values hold", what, n);
}

int main(int argc, char **argv)
{
	static uint8_t image[GUEST_IMAGE];
	struct guest_out plain, kicked, qemu;
	int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;

	if (fd < 0 || read(fd, image, sizeof(image)) != sizeof(image))
		bail_out("usage: guest-run IMAGE (64 KiB)");
	close(fd);
	guest_run(image, GUEST_PLAIN, LIMIT, &plain);
	finished(&plain, "plain");
	checks(&plain, true, "plain");
	guest_run(image, GUEST_KICKED, LIMIT, &kicked);
	finished(&kicked, "kicked");
	agree(&kicked, &plain, true, "kicked and plain send the same");
	if (getenv("CASEMENT_NO_VOTE")) {
		unsetenv("GUEST_JIT"); /* the interpreter instead */
		guest_run(image, GUEST_PLAIN, LIMIT, &qemu);
		finished(&qemu, "interpreted");
		agree(&plain, &qemu, true, "translated and interpreted send the same");
	} else if (guest_run_qemu(argv[1], LIMIT, &qemu)) {
		finished(&qemu, "QEMU");
		checks(&qemu, false, "QEMU");
		agree(&plain, &qemu, false, "we and QEMU send the same");
	} else {
		skip("we and QEMU send the same", "no QEMU");
	}
	diag("plain %.3f s, %llu instructions; kicked %.3f s, %u exits; QEMU %.3f s", plain.seconds,
	     (unsigned long long)plain.icount, kicked.seconds, kicked.kicks, qemu.seconds);
	guest_out_free(&plain);
	guest_out_free(&kicked);
	guest_out_free(&qemu);
	return done_testing();
}
