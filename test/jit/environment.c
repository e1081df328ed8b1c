/* SPDX-License-Identifier: MIT */
/*
 * The variables that force the translator's worst cases: a wrong one is refused, whole, instead of testing nothing.
 */
#include "tap.h"

#include <errno.h>
#include <stdlib.h>

#include "cpu/cpu.h"
#include "jit/jit_priv.h"

static const struct {
	const char *name, *value;
	int err;
	u32 force;
	u16 heat;
} rows[] = {
	{ "CASEMENT_FORCE", "slow", 0, FORCE_SLOW, 0 },
	{ "CASEMENT_FORCE", "single,kick", 0, FORCE_SINGLE | FORCE_KICK, 0 },
	{ "CASEMENT_FORCE", "", 0, 0, 0 },
	{ "CASEMENT_FORCE", "slow,fast", -EINVAL, 0, 0 },
	{ "CASEMENT_FORCE", "slo", -EINVAL, 0, 0 },
	{ "CASEMENT_FORCE", "slow ", -EINVAL, 0, 0 },
	{ "CASEMENT_HEAT", "1", 0, 0, 1 },
	{ "CASEMENT_HEAT", "65535", 0, 0, 65535 },
	{ "CASEMENT_HEAT", "0", -EINVAL, 0, 0 },
	{ "CASEMENT_HEAT", "65536", -EINVAL, 0, 0 },
	{ "CASEMENT_HEAT", "-1", -EINVAL, 0, 0 },
	{ "CASEMENT_HEAT", "2x", -EINVAL, 0, 0 },
	{ "CASEMENT_HEAT", "", -EINVAL, 0, 0 },
};

static struct machine m;

static void attach(unsigned int k)
{
	struct vcpu *v = vcpu_create(&m, k);
	u16 unset;
	int r;

	if (!v)
		bail_out("vcpu_create");
	unset = v->heat;
	r = jit_attach(v);
	if (r == -EOPNOTSUPP)
		skip_all("the host has not what translated code needs");
	ok(r == rows[k].err, "%s=\"%s\": %d, %d expected", rows[k].name, rows[k].value, r, rows[k].err);
	if (r)
		ok(!v->jit && !v->tr && v->heat == unset, "  the vCPU is as it was");
	else
		ok(v->jit->force == rows[k].force && (!rows[k].heat || v->heat == rows[k].heat), "  and is in force");
	vcpu_destroy(v);
}

int main(void)
{
	static const struct cpu_bus bus;

	unsetenv("CASEMENT_FORCE");
	unsetenv("CASEMENT_HEAT");
	if (machine_init(&m, &bus, NULL))
		bail_out("machine_init");
	for (unsigned int k = 0; k < ARRAY_SIZE(rows); k++) {
		setenv(rows[k].name, rows[k].value, 1);
		attach(k);
		unsetenv(rows[k].name);
	}
	return done_testing();
}
