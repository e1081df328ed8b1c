/* SPDX-License-Identifier: MIT */
/*
 * The double-fault matrix, every pair of vectors and event types, against the manual's own statement of it.
 * [SDM3A Tables "Interrupt and Exception Classes", "Conditions for Generating a Double Fault"]
 */
#include "cpu/deliver.h"
#include "tap.h"

static const u8 types[] = { EVENT_INTR, EVENT_NMI, EVENT_HARD_EXC, EVENT_SOFT_INT, EVENT_PRIV_SOFT, EVENT_SOFT_EXC };

static bool contributory(u8 v)
{
	return v == 0 || v == 10 || v == 11 || v == 12 || v == 13 || v == 21 || v == 30;
}

static bool pagefault(u8 v)
{
	return v == 14 || v == 20;
}

static enum exc_combine expected(const struct event *a, const struct event *b)
{
	bool bc = b->type == EVENT_HARD_EXC && contributory(b->vector);
	bool bp = b->type == EVENT_HARD_EXC && pagefault(b->vector);

	if (!bc && !bp)
		return EXC_SERIAL;
	if (a->type != EVENT_HARD_EXC)
		return EXC_SERIAL;
	if (a->vector == 8)
		return EXC_SHUTDOWN;
	if (pagefault(a->vector))
		return EXC_DOUBLE_FAULT;
	return contributory(a->vector) && bc ? EXC_DOUBLE_FAULT : EXC_SERIAL;
}

static void matrix(void)
{
	unsigned int pairs = 0, bad = 0;

	for (unsigned int n = 0; n < 256 * ARRAY_SIZE(types); n++)
		for (unsigned int m = 0; m < 32 * ARRAY_SIZE(types); m++) {
			struct event a = { .valid = true, .vector = (u8)(n & 255), .type = types[n >> 8] };
			struct event b = { .valid = true, .vector = (u8)(m & 31), .type = types[m >> 5] };

			pairs++;
			if (exc_combine(&a, &b) != expected(&a, &b) && bad++ < 5)
				diag("%u/%u then %u/%u: %d", a.vector, a.type, b.vector, b.type, exc_combine(&a, &b));
		}
	ok(!bad, "%u pairs of events combine as the manual says", pairs);
}

static void error_codes(void)
{
	static const u8 with[] = { 8, 10, 11, 12, 13, 14, 17, 21, 30 };
	u32 mask = 0, got = 0;

	for (unsigned int n = 0; n < ARRAY_SIZE(with); n++)
		mask |= 1u << with[n];
	for (unsigned int v = 0; v < 32; v++)
		got |= exc_has_error((u8)v) ? 1u << v : 0;
	ok(got == mask, "vectors with an error code: %#x", got);
}

int main(void)
{
	matrix();
	error_codes();
	ok(exc_is_fault(14) && exc_is_fault(6) && !exc_is_fault(1) && !exc_is_fault(3) && !exc_is_fault(8),
	   "faults and others");
	return done_testing();
}
