/* SPDX-License-Identifier: MIT */
/*
 * Extended page tables: the walk from a guest-physical address of L2 to one of the machine.
 * [SDM3C "The Extended Page Table Mechanism (EPT)"]
 */
#include "cpu/vmx/vmx.h"

#include "cpu/tlb.h"

#define EPT_R BIT(0)
#define EPT_W BIT(1)
#define EPT_X BIT(2)
#define EPT_PS BIT(7)
#define EPT_A BIT(8)
#define EPT_D BIT(9)
#define EPT_XU BIT(10)
#define EPT_SUPPRESS_VE BIT(63)
#define EPT_ADDR 0x000ffffffffff000ull

/* Exit qualification of an EPT violation */
#define QUAL_PERMS_SHIFT 3
#define QUAL_XU BIT(6)
#define QUAL_GLA BIT(7)
#define QUAL_FINAL BIT(8)
#define QUAL_NMI_UNBLOCKED BIT(12)

struct ept_walk {
	gpa_t gpa;
	u32 acc, how;
	gva_t la;
	u32 lin_bits;
	u64 perms;	/* AND of the entries used */
	u64 entry[5];
	u64 *host[5];
	struct memslot *slot[5];
	gpa_t at[5];
	unsigned int leaf;
};

enum ept_result { EPT_OK, EPT_VIOLATION, EPT_MISCONFIG, EPT_AGAIN, EPT_FAULT };

bool vmx_eptp_valid(const struct vcpu *v, u64 eptp)
{
	u64 type = eptp & 7, levels = eptp >> 3 & 7;

	return (type == 0 || type == 6) && levels == 3 && !(eptp & 0xf80) && !(eptp >> v->maxphyaddr);
}

static bool mbec(const struct vcpu *v) { return vmx_proc2(v, PROC2_MBEC); }
static bool ad_bits(const struct vcpu *v) { return v->vmx->c.eptp & EPTP_AD; }

static u64 range(unsigned int lo, unsigned int hi)
{
	return (~0ull << lo) & (~0ull >> (63 - hi));
}

static u64 reserved_bits(const struct vcpu *v, unsigned int level, bool leaf)
{
	u64 r = v->maxphyaddr < 52 ? range(v->maxphyaddr, 51) : 0;

	if (leaf)
		return level == 3 ? r | range(12, 29) : level == 2 ? r | range(12, 20) : r;
	return level == 4 ? r | range(3, 7) : r | range(3, 6);
}

static bool misconfigured(const struct vcpu *v, u64 e, unsigned int level, bool leaf)
{
	u64 type = e >> 3 & 7;

	if ((e & (EPT_R | EPT_W)) == EPT_W)
		return true;
	if (e & reserved_bits(v, level, leaf))
		return true;
	return leaf && (type == 2 || type == 3 || type == 7);
}

static enum ept_result load(struct vcpu *v, struct ept_walk *w, gpa_t table, unsigned int level)
{
	gpa_t at = table + (w->gpa >> (12 + 9 * (level - 1)) & 511) * 8;

	w->at[level] = at;
	w->leaf = level;
	w->entry[level] = 0;
	w->slot[level] = mmu_slot(v, at);
	if (!w->slot[level])
		return EPT_OK;
	w->host[level] = (u64 *)(void *)memslot_hva(w->slot[level], at);
	return mem_load64(&w->entry[level], w->host[level]) ? EPT_FAULT : EPT_OK;
}

static enum ept_result descend(struct vcpu *v, struct ept_walk *w)
{
	u64 present = EPT_R | EPT_W | EPT_X | (mbec(v) ? EPT_XU : 0);
	gpa_t table = v->vmx->c.eptp & EPT_ADDR;

	w->perms = ~0ull;
	for (unsigned int level = 4;; level--) {
		enum ept_result res = load(v, w, table, level);
		u64 e = w->entry[level];
		bool leaf = level == 1 || (level < 4 && (e & EPT_PS));

		if (res != EPT_OK)
			return res;
		w->perms &= e;
		if (!(e & present))
			return EPT_VIOLATION;
		if (misconfigured(v, e, level, leaf))
			return EPT_MISCONFIG;
		if (leaf)
			return EPT_OK;
		table = e & EPT_ADDR;
	}
}

static bool may_execute(const struct vcpu *v, const struct ept_walk *w)
{
	if (mbec(v) && (w->lin_bits & XL_U))
		return w->perms & EPT_XU;
	return w->perms & EPT_X;
}

/* With accessed and dirty flags, the use of a paging-structure entry counts as a write. */
static bool counts_as_write(const struct vcpu *v, const struct ept_walk *w)
{
	return (w->acc & ACC_W) || ((w->how & EPT_TABLE) && ad_bits(v));
}

static bool permitted(const struct vcpu *v, const struct ept_walk *w)
{
	if (w->acc & ACC_X)
		return may_execute(v, w);
	if (!(w->perms & EPT_R))
		return false;
	return !counts_as_write(v, w) || (w->perms & EPT_W);
}

/* ---- accessed and dirty flags, page-modification log ------------------------------------------------- */

static int pml_full(struct vcpu *v, const struct ept_walk *w)
{
	vmx_raise(v, VMEXIT_PML_FULL, v->vmx->nmi_unblocked ? QUAL_NMI_UNBLOCKED : 0);
	v->vmx->pending_exit.rf = true;
	(void)w;
	return OP_EXC;
}

static bool pml_has_room(const struct vcpu *v)
{
	return vmcs_get(v->vmx, VMCS_GUEST_PML_INDEX) < 512;
}

static void pml_log(struct vcpu *v, gpa_t gpa)
{
	struct vmx *x = v->vmx;
	u64 index = vmcs_get(x, VMCS_GUEST_PML_INDEX);
	u64 page = gpa & PAGE_MASK;

	(void)mem_write(&v->vm->mem, v->smm, vmcs_get(x, VMCS_PML_ADDRESS) + index * 8, &page, 8);
	vmcs_put(x, VMCS_GUEST_PML_INDEX, index - 1);
}

static enum ept_result set_flags(struct vcpu *v, struct ept_walk *w, unsigned int level, u64 want)
{
	u64 old = w->entry[level];
	u64 page = memslot_page(w->slot[level], w->at[level]);
	int res;

	memslot_mark_dirty(w->slot[level], page);
	res = mem_cas64(w->host[level], &old, old | want);
	if (res < 0)
		return EPT_FAULT;
	if (res)
		return EPT_AGAIN;
	w->entry[level] |= want;
	if (memslot_code_users(w->slot[level], page))
		code_written(v, w->slot[level], w->at[level], 8);
	return EPT_OK;
}

static enum ept_result accessed_dirty(struct vcpu *v, struct ept_walk *w, bool *full)
{
	for (unsigned int level = 4; level >= w->leaf; level--) {
		u64 want = EPT_A | (level == w->leaf && counts_as_write(v, w) ? EPT_D : 0);
		bool log = (want & EPT_D) && !(w->entry[level] & EPT_D) && vmx_proc2(v, PROC2_PML);
		enum ept_result res;

		if ((w->entry[level] & want) == want || (w->slot[level]->flags & MEMSLOT_READONLY))
			continue;
		if (log && !pml_has_room(v)) {
			*full = true;
			return EPT_OK;
		}
		res = set_flags(v, w, level, want);
		if (res != EPT_OK)
			return res;
		if (log)
			pml_log(v, w->gpa);
	}
	return EPT_OK;
}

/* ---- what a failed walk becomes --------------------------------------------------------------------- */

static u64 qualification(const struct vcpu *v, const struct ept_walk *w)
{
	u64 q = (w->perms & 7) << QUAL_PERMS_SHIFT;

	if (w->acc & ACC_X)
		q |= 4;
	else if ((w->how & EPT_TABLE) && ad_bits(v))
		q |= 3;
	else
		q |= (w->acc & ACC_W ? 2u : 0) | ((w->acc & ACC_R) || !(w->acc & ACC_W) ? 1u : 0);
	if (mbec(v) && (w->perms & EPT_XU))
		q |= QUAL_XU;
	q |= QUAL_GLA | (w->how & EPT_TABLE ? 0 : QUAL_FINAL);
	return q;
}

/* [SDM3C "Virtualization Exceptions"]; the information area is one page with a busy word. */
struct ve_info {
	u32 reason;
	u32 busy;
	u64 qualification, gla, gpa;
	u16 eptp_index;
} __attribute__((packed));

static bool raise_ve(struct vcpu *v, const struct ept_walk *w, u64 q)
{
	struct vmx *x = v->vmx;
	gpa_t area = vmcs_get(x, VMCS_VIRT_EXCEPTION_INFO);
	struct ve_info info;

	if (!vmx_proc2(v, PROC2_VE) || !cpu_prot(v) || v->inj.valid || (w->entry[w->leaf] & EPT_SUPPRESS_VE))
		return false;
	if (mem_read(&v->vm->mem, v->smm, area, &info, sizeof(info)) || info.busy)
		return false;
	info = (struct ve_info){ .reason = VMEXIT_EPT_VIOLATION, .busy = ~0u, .qualification = q, .gla = w->la,
				 .gpa = w->gpa, .eptp_index = (u16)vmcs_get(x, VMCS_EPTP_INDEX) };
	if (mem_write(&v->vm->mem, v->smm, area, &info, sizeof(info)))
		return false;
	cpu_raise(v, EXC_VE);
	return true;
}

static int violation(struct vcpu *v, const struct ept_walk *w)
{
	u64 q = qualification(v, w);

	if (w->how & EPT_QUIET)
		return OP_EXC;
	if (raise_ve(v, w, q))
		return OP_EXC;
	vmx_raise(v, VMEXIT_EPT_VIOLATION, q | (v->vmx->nmi_unblocked ? QUAL_NMI_UNBLOCKED : 0));
	v->vmx->pending_exit.gla = w->la;
	v->vmx->pending_exit.gpa = w->gpa;
	v->vmx->pending_exit.has_gla = v->vmx->pending_exit.has_gpa = true;
	v->vmx->pending_exit.rf = true;
	return OP_EXC;
}

static int misconfiguration(struct vcpu *v, const struct ept_walk *w)
{
	if (w->how & EPT_QUIET)
		return OP_EXC;
	vmx_raise(v, VMEXIT_EPT_MISCONFIG, 0);
	v->vmx->pending_exit.gpa = w->gpa;
	v->vmx->pending_exit.has_gpa = true;
	v->vmx->pending_exit.rf = true;
	return OP_EXC;
}

static int finish(const struct vcpu *v, const struct ept_walk *w, struct ept_xlat *x)
{
	u64 e = w->entry[w->leaf];

	x->shift = (u8)(12 + 9 * (w->leaf - 1));
	x->page = ((e & EPT_ADDR & ~(BIT(x->shift) - 1)) | (w->gpa & (BIT(x->shift) - 1))) & PAGE_MASK;
	x->bits = 0;
	if (!(w->perms & EPT_R))
		x->bits |= XL_ENR;
	if (!(w->perms & EPT_W) || (ad_bits(v) && !(e & EPT_D)))
		x->bits |= XL_ENW;
	if (!may_execute(v, w))
		x->bits |= XL_ENX;
	return 0;
}

int vmx_ept(struct vcpu *v, gpa_t gpa, u32 acc, u32 how, gva_t la, u32 lin_bits, struct ept_xlat *x)
{
	struct ept_walk w = { .gpa = gpa, .acc = acc, .how = how, .la = la, .lin_bits = lin_bits };
	enum ept_result res;
	bool full = false;

	if (gpa >> 48) {
		w.leaf = 4;
		return violation(v, &w);
	}
	do {
		res = descend(v, &w);
		if (res == EPT_OK && acc && !permitted(v, &w))
			res = EPT_VIOLATION;
		if (res == EPT_OK && ad_bits(v) && !(how & EPT_QUIET))
			res = accessed_dirty(v, &w, &full);
	} while (res == EPT_AGAIN);
	switch (res) {
	case EPT_VIOLATION:
		return violation(v, &w);
	case EPT_MISCONFIG:
		return misconfiguration(v, &w);
	case EPT_FAULT:
		return mem_efault(v, w.at[w.leaf]);
	default:
		return full ? pml_full(v, &w) : finish(v, &w, x);
	}
}
