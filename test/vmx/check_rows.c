/* SPDX-License-Identifier: MIT */
/*
 * Every row of spec/vmcheck.def: from a valid image, the last valid value enters and the first invalid one violates
 * this row and no other; the entry then fails as the row says. With the row switched off the image enters.
 */
#include "image.h"

/**
 * struct found - how a row was reached
 * @flags: the kind of image
 * @f, @val: fields changed and their values
 * @slot, @msr: capability MSR narrowed first, 0 none
 */
struct found {
	bool yes;
	u32 flags;
	unsigned int n;
	enum vmcs_field f[2];
	u64 val[2];
	u16 slot;
	u64 msr;
};

static struct found found[VMCHECK_COUNT];
static u64 seed = 88172645463325252ull;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed >> 3;
}

/* The image violates exactly one row: which? */
static enum vmcheck_id sole_row(void)
{
	enum vmcheck_id id = img_check(), other;

	if (id == VMCHECK_OK || found[id].yes)
		return VMCHECK_OK;
	vmcheck_off = id;
	other = img_check();
	vmcheck_off = VMCHECK_OK;
	return other == VMCHECK_OK ? id : VMCHECK_OK;
}

static void try(struct found t)
{
	u64 saved[2], msr = t.slot ? img_v->msr_val[t.slot] : 0;
	enum vmcheck_id id;

	for (unsigned int k = 0; k < t.n; k++) {
		saved[k] = get(t.f[k]);
		put(t.f[k], t.val[k]);
	}
	if (t.slot)
		img_v->msr_val[t.slot] = t.msr;
	id = sole_row();
	if (id != VMCHECK_OK) {
		found[id] = t;
		found[id].yes = true;
	}
	if (t.slot)
		img_v->msr_val[t.slot] = msr;
	while (t.n--)
		put(t.f[t.n], saved[t.n]);
}

static bool checked_field(enum vmcs_field f)
{
	return vmcs_rows[f].type != EXIT;
}

static void single_changes(u32 flags)
{
	for (enum vmcs_field f = 0; f < VMCS_FIELDS; f++) {
		if (!checked_field(f))
			continue;
		for (unsigned int n = 0; n < img_values(f); n++)
			try((struct found){ .flags = flags, .n = 1, .f = { f }, .val = { img_value(f, n) } });
	}
}

static void paired_changes(u32 flags, unsigned int tries)
{
	while (tries--) {
		struct found t = { .flags = flags, .n = 2 };

		for (unsigned int k = 0; k < 2; k++) {
			do
				t.f[k] = (enum vmcs_field)(rnd() % VMCS_FIELDS);
			while (!checked_field(t.f[k]));
			t.val[k] = img_value(t.f[k], (unsigned int)(rnd() % img_values(t.f[k])));
		}
		if (t.f[0] != t.f[1])
			try(t);
	}
}

/* Bits that this processor lets be 0 and 1 are reserved on another one: narrow the capability MSR. */
static void narrowed(u32 flags)
{
	static const struct { u16 slot; enum vmcs_field f; } words[] = {
		{ MSR_SLOT_VMX_TRUE_PINBASED_CTLS, VMCS_PIN_BASED_VM_EXEC_CONTROL },
		{ MSR_SLOT_VMX_TRUE_PROCBASED_CTLS, VMCS_CPU_BASED_VM_EXEC_CONTROL },
		{ MSR_SLOT_VMX_PROCBASED_CTLS2, VMCS_SECONDARY_VM_EXEC_CONTROL },
		{ MSR_SLOT_VMX_TRUE_EXIT_CTLS, VMCS_VM_EXIT_CONTROLS },
		{ MSR_SLOT_VMX_TRUE_ENTRY_CTLS, VMCS_VM_ENTRY_CONTROLS },
	};
	static const u16 others[] = { MSR_SLOT_VMX_EPT_VPID_CAP, MSR_SLOT_VMX_MISC, MSR_SLOT_VMX_VMFUNC };

	for (size_t w = 0; w < ARRAY_SIZE(words); w++) {
		u64 msr = img_v->msr_val[words[w].slot], word = get(words[w].f);

		for (unsigned int n = 0; n < 32; n++) {
			u64 to = word >> n & 1 ? msr & ~(1ull << (32 + n)) : msr | 1ull << n;

			try((struct found){ .flags = flags, .slot = words[w].slot, .msr = to });
		}
	}
	for (size_t k = 0; k < ARRAY_SIZE(others); k++) {
		for (unsigned int n = 0; n < 64; n++) {
			u64 to = img_v->msr_val[others[k]] & ~(1ull << n);
			struct found t = { .flags = flags, .slot = others[k], .msr = to };

			try(t);
			t.n = 1;
			t.f[0] = VMCS_VM_ENTRY_INSTRUCTION_LEN;
			try(t);
		}
	}
}

static void search(void)
{
	for (unsigned int a = 0; a <= IMG_FLAGS; a++) {
		for (unsigned int c = 0; c <= a; c++) {
			u32 flags = ((1u << a) | (1u << c)) & ((1u << IMG_FLAGS) - 1);

			img_make(flags);
			if (img_check() != VMCHECK_OK)
				continue;
			single_changes(flags);
			narrowed(flags);
			paired_changes(flags, 2000);
		}
	}
}

/* Make the invalid image again and enter it. */
static bool fails_as_told(enum vmcheck_id id)
{
	const struct found *t = &found[id];
	u64 msr = t->slot ? img_v->msr_val[t->slot] : 0;
	enum vmx_error error = 0;
	bool right;
	int res;

	img_make(t->flags);
	for (unsigned int k = 0; k < t->n; k++)
		put(t->f[k], t->val[k]);
	if (t->slot)
		img_v->msr_val[t->slot] = t->msr;
	res = vmx_enter(img_v, &error);
	if (id < VMCHECK_HOST_CR0_PE)
		right = res == OP_NEXT && error == VMXERR_ENTRY_CONTROLS;
	else if (id < VMCHECK_CR0_PE)
		right = res == OP_NEXT && error == VMXERR_ENTRY_HOST;
	else
		right = res == OP_JUMP && get(VMCS_VM_EXIT_REASON) == 0x80000021 &&
			get(VMCS_EXIT_QUALIFICATION) == vmcheck_qualification(id);
	right = right && !img_v->nonroot && !vmcs_header(img_v->vmx)->launched;
	if (t->slot)
		img_v->msr_val[t->slot] = msr;
	return right;
}

static bool valid_enters(u32 flags)
{
	enum vmx_error error = 0;
	bool in;

	img_make(flags & ~(u32)IMG_FEATURES);
	in = vmx_enter(img_v, &error) == OP_JUMP && img_v->nonroot;
	img_l1(flags);
	return in;
}

int main(void)
{
	unsigned int rows = 0, missing = 0, wrong = 0, shut = 0, blind = 0;

	img_start();
	search();
	for (enum vmcheck_id id = 1; id < VMCHECK_COUNT; id++) {
		rows++;
		if (!found[id].yes) {
			missing++;
			diag("%s was not reached", vmcheck_name(id));
			continue;
		}
		if (!fails_as_told(id)) {
			wrong++;
			diag("%s fails in another way", vmcheck_name(id));
		}
		shut += !valid_enters(found[id].flags);
		vmcheck_off = id;
		blind += fails_as_told(id);
		vmcheck_off = VMCHECK_OK;
	}
	ok(rows >= 300, "%u rows", rows);
	ok(!missing, "each is violated by an image that violates no other, one step from a valid image");
	ok(!wrong, "each entry fails with the row's kind and qualification, and launches nothing");
	ok(!shut, "the valid images enter");
	ok(!blind, "with its row switched off no image fails like that");
	return done_testing();
}
