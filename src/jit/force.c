/* SPDX-License-Identifier: MIT */
/*
 * Worst cases on demand, for tests: what happens seldom happens all the time.
 */
#include "jit/jit_priv.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
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

static u32 find(const char *s, size_t len)
{
	for (unsigned int k = 0; k < ARRAY_SIZE(names); k++)
		if (strlen(names[k].name) == len && !memcmp(names[k].name, s, len))
			return names[k].bit;
	return 0;
}

int force_from_environment(u32 *force)
{
	const char *s = getenv("CASEMENT_FORCE");

	for (; s && *s; s += *s == ',') {
		size_t len = strcspn(s, ",");
		u32 bit = find(s, len);

		if (!bit) {
			dprintf(2, "casement: CASEMENT_FORCE: \"%.*s\" is none of:", (int)len, s);
			for (unsigned int k = 0; k < ARRAY_SIZE(names); k++)
				dprintf(2, " %s", names[k].name);
			dprintf(2, "\n");
			return -EINVAL;
		}
		*force |= bit;
		s += len;
	}
	return 0;
}

int heat_from_environment(u16 *heat)
{
	const char *s = getenv("CASEMENT_HEAT");
	char *end;
	long n;

	if (!s)
		return 0;
	n = strtol(s, &end, 10);
	if (end == s || *end || n < 1 || n > UINT16_MAX) {
		dprintf(2, "casement: CASEMENT_HEAT: \"%s\" is not a number from 1 to %d\n", s, UINT16_MAX);
		return -EINVAL;
	}
	*heat = (u16)n;
	return 0;
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
