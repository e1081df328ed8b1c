/* SPDX-License-Identifier: MIT */
/*
 * CPUID: what we offer, what the guest was given, what it reads.
 *
 * The personality is one Intel server processor; compute bits are the host's, system bits ours
 * (spec/cpuid.def). Leaves 15H and 16H stay zero: our local APIC timer, like KVM's, does not run at
 * the frequency that 15H would make a guest conclude.
 */
#include "cpu/fpu.h"
#include "cpu/msr.h"

enum { EAX, EBX, ECX, EDX };
enum policy { POLICY_ALWAYS, POLICY_HOST, POLICY_ENGINE, POLICY_OPTIN, POLICY_DYNAMIC, POLICY_NEVER };

static const struct cpuid_bit {
	u32 leaf;
	u8 sub, reg, bit, policy;
} bits[FEAT_COUNT] = {
#define CPUID_BIT(name, leaf_, sub_, reg_, bit_, policy_) \
	{ .leaf = (leaf_), .sub = (sub_), .reg = reg_, .bit = (bit_), .policy = POLICY_##policy_ },
#include "spec/cpuid.def"
#undef CPUID_BIT
};

#define SIGNATURE 0x000806f8u /* family 6, model 8FH, stepping 8 */
#define PHYS_BITS 46u
#define LINEAR_BITS 48u
#define INDEXED 1u /* KVM_CPUID_FLAG_SIGNIFCANT_INDEX */

/* ---- the host ------------------------------------------------------------------------------------------- */

static void host_cpuid(u32 leaf, u32 sub, u32 r[4])
{
	u32 max = leaf & 0x80000000u;

	asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(max), "c"(0));
	if (leaf > r[0]) {
		r[0] = r[1] = r[2] = r[3] = 0;
		return;
	}
	asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

/* Bits that need the host kernel to have enabled a state component as well. */
static bool host_state_enabled(enum feature f)
{
	switch (f) {
	case FEAT_AVX: case FEAT_AVX2: case FEAT_FMA: case FEAT_F16C: case FEAT_VAES: case FEAT_VPCLMULQDQ:
	case FEAT_AVX_VNNI: case FEAT_AVX_IFMA: case FEAT_AVX_VNNI_INT8: case FEAT_AVX_NE_CONVERT:
		return fpu_xfeatures() & XFEATURE_AVX;
	case FEAT_PKU:
		return fpu_xfeatures() & XFEATURE_PKRU;
	case FEAT_XSAVE: case FEAT_XSAVEOPT: case FEAT_XSAVEC: case FEAT_XGETBV1: case FEAT_XSAVES:
		return fpu_xfeatures();
	default:
		return true;
	}
}

static u64 host_bits[(FEAT_COUNT + 63) / 64];

__attribute__((constructor(201))) static void cpuid_probe_host(void)
{
	u32 r[4], leaf = 0, sub = ~0u;

	for (u32 f = 0; f < FEAT_COUNT; f++) {
		if (bits[f].policy != POLICY_HOST)
			continue;
		if (bits[f].leaf != leaf || bits[f].sub != sub) {
			leaf = bits[f].leaf;
			sub = bits[f].sub;
			host_cpuid(leaf, sub, r);
		}
		if (r[bits[f].reg] >> bits[f].bit & 1)
			host_bits[f / 64] |= BIT(f % 64);
	}
}

static bool host_has(enum feature f)
{
	return (host_bits[f / 64] >> (f % 64) & 1) && host_state_enabled(f);
}

bool cpuid_offers(enum feature f)
{
	return bits[f].policy == POLICY_ALWAYS || bits[f].policy == POLICY_ENGINE ||
	       (bits[f].policy == POLICY_HOST && host_has(f));
}

static bool cpuid_honours(enum feature f)
{
	return cpuid_offers(f) || bits[f].policy == POLICY_OPTIN;
}

/* ---- KVM_GET_SUPPORTED_CPUID ------------------------------------------------------------------------------ */

struct listing {
	struct cpuid_entry *e;
	u32 n, max;
};

/* The entry's register @reg gets every offered bit of that place. */
static u32 offered(u32 leaf, u32 sub, u32 reg)
{
	u32 val = 0;

	for (u32 f = 0; f < FEAT_COUNT; f++)
		if (bits[f].leaf == leaf && bits[f].sub == sub && bits[f].reg == reg &&
		    bits[f].policy != POLICY_ALWAYS && cpuid_offers((enum feature)f))
			val |= 1u << bits[f].bit;
	return val;
}

static void add(struct listing *l, u32 function, u32 index, u32 flags, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	if (l->n < l->max)
		l->e[l->n] = (struct cpuid_entry){ .function = function, .index = index, .flags = flags,
			.eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx };
	l->n++;
}

static inline u32 str4(const char *s)
{
	return (u32)(u8)s[0] | (u32)(u8)s[1] << 8 | (u32)(u8)s[2] << 16 | (u32)(u8)s[3] << 24;
}

/* Deterministic cache parameters: type, level, ways, sets; lines of 64 bytes. */
static void add_caches(struct listing *l)
{
	static const struct { u8 type, level; u16 ways; u32 sets; u32 edx; } cache[] = {
		{ 1, 1, 12, 64, 0 }, { 2, 1, 8, 64, 0 }, { 3, 2, 16, 2048, 0 }, { 3, 3, 15, 32768, 4 },
	};
	u32 n;

	for (n = 0; n < ARRAY_SIZE(cache); n++)
		add(l, 4, n, INDEXED, cache[n].type | (u32)cache[n].level << 5 | 1u << 8,
		    (u32)(cache[n].ways - 1) << 22 | 63, cache[n].sets - 1, cache[n].edx);
	add(l, 4, n, INDEXED, 0, 0, 0, 0);
}

static void add_xsave(struct listing *l)
{
	u64 x = fpu_xfeatures();
	u32 caps = offered(0xd, 1, EAX);

	if (!x) {
		add(l, 0xd, 0, INDEXED, 0, 0, 0, 0);
		return;
	}
	add(l, 0xd, 0, INDEXED, (u32)x, fpu_area_size(x, false), fpu_area_size(x, false), 0);
	add(l, 0xd, 1, INDEXED, caps, caps & 0xa ? fpu_area_size(x, true) : 0, 0, 0);
	for (u32 n = 2; n < 63; n++)
		if (x >> n & 1)
			add(l, 0xd, n, INDEXED, fpu_component(n)->size, fpu_component(n)->offset,
			    fpu_component(n)->align64 ? 2 : 0, 0);
}

static void add_basic(struct listing *l)
{
	const char *vendor = "GenuineIntel";

	add(l, 0, 0, 0, 0x1f, str4(vendor), str4(vendor + 8), str4(vendor + 4));
	add(l, 1, 0, 0, SIGNATURE, 0x00010800, offered(1, 0, ECX), offered(1, 0, EDX));
	add(l, 2, 0, 0, 0x00feff01, 0xf0, 0, 0);
	add(l, 3, 0, 0, 0, 0, 0, 0);
	add_caches(l);
	add(l, 5, 0, 0, 0, 0, 0, 0);
	add(l, 6, 0, 0, offered(6, 0, EAX), 0, 0, 0);
	add(l, 7, 0, INDEXED, 2, offered(7, 0, EBX), offered(7, 0, ECX), offered(7, 0, EDX));
	add(l, 7, 1, INDEXED, offered(7, 1, EAX), 0, 0, offered(7, 1, EDX));
	add(l, 7, 2, INDEXED, 0, 0, 0, offered(7, 2, EDX));
	for (u32 leaf = 8; leaf <= 0xa; leaf++)
		add(l, leaf, 0, 0, 0, 0, 0, 0);
	add(l, 0xb, 0, INDEXED, 0, 0, 0, 0);
	add_xsave(l);
	for (u32 leaf = 0xe; leaf <= 0x1e; leaf++)
		add(l, leaf, 0, leaf == 0x10 || leaf == 0x12 || leaf == 0x14 || leaf == 0x18 ? INDEXED : 0, 0, 0, 0, 0);
	add(l, 0x1f, 0, INDEXED, 0, 0, 0, 0);
}

static void add_extended(struct listing *l)
{
	static const char brand[48] = "Intel(R) Xeon(R) Processor (Casement)";
	u32 edx1 = offered(0x80000001, 0, EDX);

	add(l, 0x80000000, 0, 0, 0x80000008, 0, 0, 0);
	add(l, 0x80000001, 0, 0, 0, 0, offered(0x80000001, 0, ECX), edx1);
	for (u32 n = 0; n < 3; n++)
		add(l, 0x80000002 + n, 0, 0, str4(brand + n * 16), str4(brand + n * 16 + 4),
		    str4(brand + n * 16 + 8), str4(brand + n * 16 + 12));
	add(l, 0x80000005, 0, 0, 0, 0, 0, 0);
	add(l, 0x80000006, 0, 0, 0, 0, 0x08008040, 0);
	add(l, 0x80000007, 0, 0, 0, 0, 0, offered(0x80000007, 0, EDX));
	add(l, 0x80000008, 0, 0, PHYS_BITS | LINEAR_BITS << 8, offered(0x80000008, 0, EBX), 0, 0);
}

u32 cpuid_supported(struct cpuid_entry *e, u32 max)
{
	struct listing l = { .e = e, .max = max };
	const char *sig = "KVMKVMKVM\0\0\0";

	add_basic(&l);
	add(&l, 0x40000000, 0, 0, 0x40000001, str4(sig), str4(sig + 4), str4(sig + 8));
	add(&l, 0x40000001, 0, 0, offered(0x40000001, 0, EAX), 0, 0, offered(0x40000001, 0, EDX));
	add_extended(&l);
	return l.n;
}

/* ---- the guest's --------------------------------------------------------------------------------------------- */

static const struct cpuid_entry *find(const struct vcpu *v, u32 function, u32 index)
{
	for (u32 n = 0; n < v->ncpuid; n++) {
		const struct cpuid_entry *e = &v->cpuid[n];

		if (e->function == function && (!(e->flags & INDEXED) || e->index == index))
			return e;
	}
	return NULL;
}

static inline u32 entry_reg(const struct cpuid_entry *e, u32 reg)
{
	return reg == EAX ? e->eax : reg == EBX ? e->ebx : reg == ECX ? e->ecx : e->edx;
}

/*
 * A vCPU that was never given CPUID executes whatever the processor can, as on hardware, where CPUID
 * only talks about instructions and does not disable them.
 */
static bool guest_has(const struct vcpu *v, enum feature f)
{
	const struct cpuid_entry *e;

	if (bits[f].policy == POLICY_ALWAYS)
		return true;
	if (!v->ncpuid)
		return cpuid_offers(f);
	if (!cpuid_honours(f))
		return false;
	e = find(v, bits[f].leaf, bits[f].sub);
	return e && (entry_reg(e, bits[f].reg) >> bits[f].bit & 1);
}

static u64 cr4_reserved(const struct vcpu *v)
{
	static const struct { u64 bits; u16 feature; } by_feature[] = {
		{ CR4_VME | CR4_PVI, FEAT_VME }, { CR4_TSD, FEAT_TSC }, { CR4_DE, FEAT_DE }, { CR4_PSE, FEAT_PSE },
		{ CR4_PAE, FEAT_PAE }, { CR4_MCE, FEAT_MCE }, { CR4_PGE, FEAT_PGE }, { CR4_OSFXSR, FEAT_FXSR },
		{ CR4_OSXMMEXCPT, FEAT_SSE }, { CR4_UMIP, FEAT_UMIP }, { CR4_LA57, FEAT_LA57 },
		{ CR4_VMXE, FEAT_VMX }, { CR4_SMXE, FEAT_SMX }, { CR4_FSGSBASE, FEAT_FSGSBASE },
		{ CR4_PCIDE, FEAT_PCID }, { CR4_OSXSAVE, FEAT_XSAVE }, { CR4_SMEP, FEAT_SMEP },
		{ CR4_SMAP, FEAT_SMAP }, { CR4_PKE, FEAT_PKU },
	};
	u64 allowed = CR4_PCE;

	/* The bits of the first Pentiums are never refused, whatever CPUID user space built. */
	allowed |= CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_OSFXSR |
		   CR4_OSXMMEXCPT;
	for (u32 n = 0; n < ARRAY_SIZE(by_feature); n++)
		if (cpu_has(v, (enum feature)by_feature[n].feature))
			allowed |= by_feature[n].bits;
	return ~allowed;
}

void cpuid_adopt(struct vcpu *v)
{
	const struct cpuid_entry *e = find(v, 0, 0);

	v->vendor_amd = e && ((e->ebx == str4("Auth") && e->edx == str4("enti")) ||
			      (e->ebx == str4("Hygo") && e->edx == str4("nGen")));
	for (u32 n = 0; n < ARRAY_SIZE(v->features); n++)
		v->features[n] = 0;
	for (u32 f = 0; f < FEAT_COUNT; f++)
		if (guest_has(v, (enum feature)f))
			v->features[f / 64] |= BIT(f % 64);
	e = find(v, 0x80000008, 0);
	v->maxphyaddr = e && (e->eax & 0xff) ? (u8)e->eax : 36;
	if (v->maxphyaddr > 52)
		v->maxphyaddr = 52;
	e = find(v, 0xd, 0);
	v->xfeatures = fpu_xfeatures();
	if (v->ncpuid)
		v->xfeatures &= e && cpu_has(v, FEAT_XSAVE) ? e->eax | (u64)e->edx << 32 : 0;
	v->cr4_rsvd = cr4_reserved(v);
	if (v->rc)
		rcache_flush(v);
	if (v->tlb) {
		mmu_flush_all(v);
		cpu_mode_update(v);
	}
}

u32 cpuid_signature(const struct vcpu *v)
{
	const struct cpuid_entry *e = find(v, 1, 0);

	return e ? e->eax : 0x600;
}

/* ---- the instruction -------------------------------------------------------------------------------------- */

static u32 with_bit(u32 reg, unsigned int bit, bool on)
{
	return (reg & ~(1u << bit)) | (u32)on << bit;
}

void cpuid_dynamic(const struct vcpu *v, struct cpuid_entry *e)
{
	if (e->function == 1) {
		if (cpu_has(v, FEAT_XSAVE))
			e->ecx = with_bit(e->ecx, 27, v->cr4 & CR4_OSXSAVE);
		e->edx = with_bit(e->edx, 9, v->apic_base & BIT(11));
		if (v->vm->quirks_disabled & QUIRK_MISC_ENABLE_NO_MWAIT)
			e->ecx = with_bit(e->ecx, 3, v->msr_val[MSR_SLOT_MISC_ENABLE] & BIT(18));
	} else if (e->function == 7 && e->index == 0 && cpu_has(v, FEAT_PKU)) {
		e->ecx = with_bit(e->ecx, 4, v->cr4 & CR4_PKE);
	} else if (e->function == 0xd && e->index == 0) {
		e->ebx = fpu_area_size(v->xcr0, false);
	} else if (e->function == 0xd && e->index == 1 && (e->eax & 0xa)) {
		e->ebx = fpu_area_size(v->xcr0 | v->xss, true);
	}
}

/*
 * Intel's rule for a leaf above the highest one: the data of the highest basic leaf. AMD returns zeros.
 * [SDM2A "CPUID—CPU Identification"]
 */
static const struct cpuid_entry *out_of_range(const struct vcpu *v, u32 function, u32 index)
{
	const struct cpuid_entry *basic = find(v, 0, 0), *class;

	if (!basic || v->vendor_amd)
		return NULL;
	if (function >= 0x40000000 && function <= 0x4fffffff)
		class = find(v, function & 0xffffff00, 0);
	else if (function >= 0xc0000000)
		class = find(v, 0xc0000000, 0);
	else
		class = find(v, function & 0x80000000, 0);
	if (class && function <= class->eax)
		return NULL;
	return find(v, basic->eax, index);
}

void cpuid_eval(struct vcpu *v, u32 leaf, u32 sub, u32 out[4])
{
	const struct cpuid_entry *found = find(v, leaf, sub);
	struct cpuid_entry e = { 0 };

	if (!found)
		found = out_of_range(v, leaf, sub);
	if (found) {
		e = *found;
		cpuid_dynamic(v, &e);
	} else if (leaf == 0xb || leaf == 0x1f) {
		/* An invalid topology level still names itself and the x2APIC ID. */
		found = find(v, leaf, 1);
		if (found) {
			e.ecx = sub & 0xff;
			e.edx = found->edx;
		}
	}
	out[0] = e.eax;
	out[1] = e.ebx;
	out[2] = e.ecx;
	out[3] = e.edx;
}
