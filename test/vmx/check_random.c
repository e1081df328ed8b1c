/* SPDX-License-Identifier: MIT */
/* Random VMCS images near the boundary of validity: the rows and the manual's text agree on each. */
#include "checker.h"

static u64 seed;
static unsigned int unsane;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull >> 11;
}

static struct verdict row_verdict(enum vmcheck_id id)
{
	struct verdict d = { 0, 0 };

	if (id == VMCHECK_OK)
		return d;
	if (vmx_check(img_v, VMCHECK_CONTROLS) != VMCHECK_OK)
		d.kind = 7;
	else if (vmx_check(img_v, VMCHECK_HOST) != VMCHECK_OK)
		d.kind = 8;
	else
		d = (struct verdict){ 33, vmcheck_qualification(id) };
	return d;
}

/* Whatever the image, L1 or L2 is in a state that it could have. */
static void there_and_back(void)
{
	enum vmx_error error = 0;

	if (vmx_enter(img_v, &error) != OP_JUMP)
		return;
	if (img_v->nonroot)
		vmx_exit_now(img_v, VMEXIT_HLT, 0);
	unsane += img_v->nonroot || img_v->cpl || img_v->rip != get(VMCS_HOST_RIP) ||
		  get(VMCS_VM_ENTRY_INTR_INFO_FIELD) >> 31 > (get(VMCS_VM_EXIT_REASON) >> 31);
}

int main(void)
{
	unsigned int images = 10000 * tap_scale(), bad = 0, valid = 0, kinds[34] = { 0 };

	seed = tap_seed() | 1;
	img_start();
	for (unsigned int n = 0; n < images; n++) {
		u32 flags = (u32)(rnd() & rnd() & rnd()) & ((1u << IMG_FLAGS) - 1), changes = (u32)(rnd() % 4);
		struct verdict a, b;
		enum vmcheck_id id;

		img_make(flags);
		for (u32 k = 0; k < changes; k++) {
			enum vmcs_field f = (enum vmcs_field)(rnd() % VMCS_FIELDS);

			put(f, img_value(f, (unsigned int)(rnd() % img_values(f))));
		}
		id = img_check();
		a = row_verdict(id);
		b = manual_verdict();
		kinds[a.kind]++;
		valid += !a.kind;
		if (a.kind == b.kind && a.qualification == b.qualification) {
			there_and_back();
			continue;
		}
		if (bad++ < 10)
			diag("image %u flags %#x: row %s says %u/%u, the manual %u/%u", n, flags,
			     id ? vmcheck_name(id) : "-", a.kind, a.qualification, b.kind, b.qualification);
	}
	ok(!bad, "%u images have the verdict of a checker written from the manual", images);
	ok(!unsane, "entering and leaving each that can be entered brings L1 back");
	ok(valid && kinds[7] && kinds[8] && kinds[33], "all verdicts: %u enter, %u controls, %u host, %u guest",
	   valid, kinds[7], kinds[8], kinds[33]);
	return done_testing();
}
