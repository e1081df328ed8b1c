/* SPDX-License-Identifier: MIT */
/*
 * The decision table of split locks (spec/sld.def) under a VM's options.
 */
#include "guard/guard.h"

#define SMT_NO 1
#define SMT_YES 2
#define SMT_ANY 3
#define GUEST_U 1
#define GUEST_W 2
#define GUEST_F 4
#define GUEST_WF 6
#define GUEST_ANY 7
#define CPL_CPL0 1
#define CPL_CPL3 2
#define CPL_CPLX 3

static const struct {
	u8 host, smt, guest, cpl;
	u8 first[2], again[2]; /* by sld-forced */
} rows[] = {
#define SLD(n, host_, smt_, guest_, cpl_, f, a, ff, fa)                                               \
	{ SPLIT_LOCK_##host_, SMT_##smt_, GUEST_##guest_, CPL_##cpl_, { SLD_##f, SLD_##ff }, { SLD_##a, SLD_##fa } },
#include "spec/sld.def"
#undef SLD
};

/* Pinned vCPUs know their sibling, so that a warning host may offer the bit with SMT on. */
static bool smt(const struct guard_opts *o)
{
	return o->smt == OPT_OFF_ON_ON && !(o->vcpus_pinned == OPT_OFF_ON_ON && o->split_lock == SPLIT_LOCK_WARN);
}

bool sld_forced(const struct guard_opts *o)
{
	return o->sld_forced == OPT_OFF_ON_ON &&
	       (o->split_lock == SPLIT_LOCK_WARN || o->split_lock == SPLIT_LOCK_FATAL);
}

/* A bit that the hardware never toggles can be offered with SMT on. */
bool sld_offered(const struct guard_opts *o)
{
	if (o->split_lock == SPLIT_LOCK_NONE)
		return false;
	return !smt(o) || o->split_lock == SPLIT_LOCK_FATAL || sld_forced(o);
}

static u8 look_up(const struct guard_opts *o, enum sld_guest guest, unsigned int cpl3)
{
	unsigned int forced = sld_forced(o);
	unsigned int want_smt = smt(o) ? SMT_YES : SMT_NO;
	unsigned int want_guest = guest == SLD_UNAWARE ? GUEST_U : GUEST_W;
	/* A guest that turned its bit off may do its next lock at any CPL. */
	unsigned int want_cpl = cpl3 || guest == SLD_TURNED_OFF ? CPL_CPL3 : CPL_CPL0;

	for (unsigned int i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].host != o->split_lock || !(rows[i].smt & want_smt) || !(rows[i].guest & want_guest) ||
		    !(rows[i].cpl & want_cpl))
			continue;
		return guest == SLD_TURNED_OFF ? rows[i].again[forced] : rows[i].first[forced];
	}
	return SLD_R;
}

void guard_lock_init(struct guard_lock *l, const struct guard_opts *o)
{
	l->offered = sld_offered(o);
	l->forced = sld_forced(o);
	l->exit = o->bus_lock == BUS_LOCK_EXIT;
	for (unsigned int guest = 0; guest < SLD_GUESTS; guest++)
		for (unsigned int cpl3 = 0; cpl3 < 2; cpl3++)
			l->verdict[guest][cpl3] = look_up(o, (enum sld_guest)guest, cpl3);
}
