/* SPDX-License-Identifier: MIT */
/*
 * Modes: what follows from CR0, CR4, EFER, RFLAGS, CS and SS; writes to control registers; RESET and
 * INIT. [SDM3A "System Architecture Overview", "Processor Management and Initialization"]
 */
#include "cpu/fpu.h"
#include "cpu/msr.h"
#include "cpu/segment.h"
#include "cpu/vmx/vmx.h"

/* ---- derived state ------------------------------------------------------------------------------ */

static u64 mode_bits(const struct vcpu *v)
{
	u64 bits = v->csz == 8 ? MODE_CSZ_64 : v->csz == 4 ? MODE_CSZ_32 : MODE_CSZ_16;

	if (v->cpl == 3)
		bits |= MODE_USER;
	if (v->smm)
		bits |= MODE_SMM;
	if ((v->cr4 & CR4_OSFXSR) && !(v->cr0 & CR0_EM))
		bits |= MODE_SSE;
	if ((v->cr4 & CR4_OSXSAVE) && (v->xcr0 & 6) == 6)
		bits |= MODE_AVX;
	if (cpu_prot(v) && !cpu_v86(v))
		bits |= MODE_PROT;
	if (unlikely(v->nonroot)) {
		bits |= MODE_NONROOT;
		if (v->vmx->c.proc2 & (PROC2_RDRAND | PROC2_RDSEED))
			bits |= MODE_RANDOM_EXITS;
	}
	return bits;
}

/* CPL is the DPL of SS whatever SS holds [SDM3C "Guest Register State"]; seg code keeps it so. */
static u8 derive_cpl(const struct vcpu *v)
{
	if (!cpu_prot(v))
		return 0;
	return cpu_v86(v) ? 3 : (u8)AR_DPL(v->seg[SEG_SS].ar);
}

void cpu_mode_update(struct vcpu *v)
{
	const struct segment *cs = &v->seg[SEG_CS];

	v->cpl = derive_cpl(v);
	if (cpu_long_mode(v) && (cs->ar & AR_L))
		v->csz = 8;
	else
		v->csz = cs->ar & AR_DB ? 4 : 2;
	v->ssz = v->csz == 8 ? 8 : v->seg[SEG_SS].ar & AR_DB ? 4 : 2;
	v->fp_ok = !(v->cr0 & (CR0_TS | CR0_EM));
	if (!v->fp_ok && v->fp_live)
		cpu_fp_spill(v);
	cpu_fp_recheck(v);
	v->mode_key = mode_bits(v);
	mmu_adopt_epoch(v);
	mmu_select_view(v);
}

/* ---- CR0 ------------------------------------------------------------------------------------------ */

#define CR0_DEFINED (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | \
		     CR0_CD | CR0_PG)

bool cpu_cr0_valid(const struct vcpu *v, u64 val)
{
	(void)v;
	if (val >> 32)
		return false;
	if ((val & CR0_NW) && !(val & CR0_CD))
		return false;
	return !(val & CR0_PG) || (val & CR0_PE);
}

/* Turning paging on with EFER.LME enters IA-32e mode. [SDM3A "Initializing IA-32e Mode"] */
static int enter_paging(struct vcpu *v)
{
	if (!(v->efer & EFER_LME))
		return 0;
	if (!(v->cr4 & CR4_PAE) || (v->seg[SEG_CS].ar & AR_L) || AR_TYPE(v->seg[SEG_TR].ar) == DESC_TSS16_BUSY)
		return RAISE_GP0(v);
	v->efer |= EFER_LMA;
	return 0;
}

static bool pae_paging(u64 cr0, u64 cr4, u64 efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LME);
}

int cpu_set_cr0(struct vcpu *v, u64 val)
{
	u64 old = v->cr0, changed;
	int r;

	if (!cpu_cr0_valid(v, val) || (v->vmx->on && !vmx_cr0_valid(v, val)))
		return RAISE_GP0(v);
	val = (val & CR0_DEFINED) | CR0_ET;
	changed = old ^ val;
	if (changed & old & CR0_PG) {
		if ((v->cr4 & CR4_PCIDE) || cpu_code64(v))
			return RAISE_GP0(v);
	} else if (changed & CR0_PG) {
		r = enter_paging(v);
		if (r)
			return r;
	}
	if (pae_paging(val, v->cr4, v->efer) && (changed & (CR0_PG | CR0_CD | CR0_NW))) {
		r = mmu_load_pdptes(v);
		if (r)
			return r;
	}
	v->cr0 = val;
	if (!(val & CR0_PG))
		v->efer &= ~EFER_LMA;
	if (changed & (CR0_PG | CR0_WP | CR0_PE))
		mmu_flush_all(v);
	cpu_mode_update(v);
	return 0;
}

/* ---- CR3 ------------------------------------------------------------------------------------------ */

#define CR3_NOFLUSH BIT(63)

int cpu_set_cr3(struct vcpu *v, u64 val)
{
	bool keep = (v->cr4 & CR4_PCIDE) && (val & CR3_NOFLUSH);
	u64 old = v->cr3;
	int r;

	if (v->cr4 & CR4_PCIDE)
		val &= ~CR3_NOFLUSH;
	if (cpu_long_mode(v) && (val >> v->maxphyaddr))
		return RAISE_GP0(v);
	v->cr3 = val;
	if (pae_paging(v->cr0, v->cr4, v->efer)) {
		r = mmu_load_pdptes(v);
		if (r) {
			v->cr3 = old;
			return r;
		}
	}
	mmu_cr3_loaded(v, keep);
	return 0;
}

/* ---- CR4 ------------------------------------------------------------------------------------------ */

/* Every bit that enters a translation or its rights. */
#define CR4_PAGING (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_LA57)

bool cpu_cr4_valid(const struct vcpu *v, u64 val)
{
	return !(val & v->cr4_rsvd);
}

static bool cr4_change_valid(const struct vcpu *v, u64 val)
{
	u64 changed = v->cr4 ^ val;

	if (!cpu_cr4_valid(v, val) || (v->vmx->on && !vmx_cr4_valid(v, val)))
		return false;
	if (v->smm && (val & CR4_VMXE)) /* [SDM3C "Protection of CR4.VMXE in SMM"], KVM likewise */
		return false;
	if (cpu_long_mode(v) && ((changed & CR4_LA57) || !(val & CR4_PAE)))
		return false;
	if ((changed & val & CR4_PCIDE) && (!cpu_long_mode(v) || (v->cr3 & 0xfff)))
		return false;
	return true;
}

int cpu_set_cr4(struct vcpu *v, u64 val)
{
	u64 old = v->cr4, changed = old ^ val;
	int r;

	if (!cr4_change_valid(v, val))
		return RAISE_GP0(v);
	v->cr4 = val;
	if (pae_paging(v->cr0, val, v->efer) && (changed & (CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP))) {
		r = mmu_load_pdptes(v);
		if (r) {
			v->cr4 = old;
			return r;
		}
	}
	if (changed & CR4_PAGING)
		mmu_flush_all(v);
	cpu_mode_update(v);
	return 0;
}

/* ---- XCR0 ----------------------------------------------------------------------------------------- */

int cpu_set_xcr0(struct vcpu *v, u64 val)
{
	if (!cpu_xcr0_valid(v, val))
		return RAISE_GP0(v);
	v->xcr0 = val;
	cpu_mode_update(v);
	return 0;
}

bool cpu_xcr0_valid(const struct vcpu *v, u64 val)
{
	if (!(val & XFEATURE_X87) || (val & ~v->xfeatures))
		return false;
	return !(val & XFEATURE_AVX) || (val & XFEATURE_SSE);
}

/* ---- RESET and INIT --------------------------------------------------------------------------------- */

static void reset_segments(struct vcpu *v)
{
	for (unsigned int n = 0; n < SEG_NUM; n++)
		v->seg[n] = (struct segment){ .limit = 0xffff, .ar = 0x93 };
	v->seg[SEG_CS] = (struct segment){ .sel = 0xf000, .base = 0xffff0000, .limit = 0xffff, .ar = 0x9b };
	v->seg[SEG_LDTR].ar = (u32)AR_P | DESC_LDT;
	v->seg[SEG_TR].ar = (u32)AR_P | DESC_TSS32_BUSY;
	v->fs_base_copy = 0;
	v->gs_base_copy = 0;
	v->gdtr = (struct dtable){ .limit = 0xffff };
	v->idtr = (struct dtable){ .limit = 0xffff };
}

static void reset_events(struct vcpu *v)
{
	v->shadow = 0;
	v->nmi_pending = v->nmi_masked = v->smi_pending = false;
	v->nmi_count = 0;
	v->exc.valid = v->inj.valid = v->pending.valid = false;
	v->pending_db = 0;
	cpu_window(v);
	v->step_tf = false;
	v->monitor_armed = false;
	v->replay = false;
	v->pio.active = false;
	v->msr.done = false;
	mmio_reset(v);
}

/* What RESET changes and INIT keeps. */
static void reset_only(struct vcpu *v)
{
	v->xcr0 = XFEATURE_X87;
	v->xss = 0;
	v->pkru = 0;
	v->smbase = 0x30000;
	v->apic_base = (v->apic_base & BIT(8)) | 0xfee00000 | BIT(11);
	msr_reset(v);
	fpu_reset(v);
}

void vcpu_reset(struct vcpu *v, bool init)
{
	u64 cache = CR0_CD | CR0_NW;

	v->fp_live = 0;
	for (unsigned int n = 0; n < ARRAY_SIZE(v->gpr); n++)
		v->gpr[n] = 0;
	v->gpr[GPR_RDX] = cpuid_signature(v);
	v->rip = 0xfff0;
	cpu_set_rflags(v, FLAG_FIXED);
	v->cr0 = CR0_ET | (init ? v->cr0 & cache : cache);
	v->cr2 = v->cr3 = v->cr4 = v->cr8 = v->efer = 0;
	for (unsigned int n = 0; n < 4; n++)
		v->dr[n] = v->pdpte[n] = 0;
	v->dr6 = DR6_RESET;
	v->dr7 = DR7_RESET;
	v->smm = false;
	vmx_reset(v);
	reset_segments(v);
	reset_events(v);
	if (!init)
		reset_only(v);
	debug_update(v);
	if (v->tlb)
		mmu_flush_all(v);
	cpu_mode_update(v);
}
