/* SPDX-License-Identifier: MIT */
/*
 * Worst cases on demand, for tests: what happens seldom happens all the time.
 */
#include "jit/jit_priv.h"

#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static const struct {
	const char *name;
	u32 bit;
} names[] = {
	{ "slow", FORCE_SLOW },	  { "single", FORCE_SINGLE }, { "tiny", FORCE_TINY },
	{ "kick", FORCE_KICK }, { "apart", FORCE_APART }, { "checks", FORCE_CHECKS },
};

/* CASEMENT_FORCE=slow,tiny */
u32 force_from_environment(void)
{
	const char *s = getenv("CASEMENT_FORCE");
	u32 force = 0;

	for (; s && *s; s += *s == ',') {
		size_t len = strcspn(s, ",");

		for (unsigned int k = 0; k < ARRAY_SIZE(names); k++)
			if (strlen(names[k].name) == len && !memcmp(names[k].name, s, len))
				force |= names[k].bit;
		s += len;
	}
	return force;
}

/*
 * With a request up, a block is left at its first poll. It may have been entered at that very instruction, so
 * every other entry goes undisturbed.
 */
int force_run(struct vcpu *v, const struct insn *first)
{
	struct jit *j = v->jit;

	j->kicked = !j->kicked;
	if (j->kicked)
		atomic_fetch_or(&v->request, REQ_INSN);
	return native_run(v, first);
}
