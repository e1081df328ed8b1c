/* SPDX-License-Identifier: MIT */
/*
 * Machine check events from user space. The registers are the processor's (spec/msr.def).
 */
#include "kvm/kvm.h"

#include <errno.h>

#define MCG_CTL_P BIT(8)
#define MCG_CMCI_P BIT(10)
#define MCI_VAL BIT(63)
#define MCI_OVER BIT(62)
#define MCI_UC BIT(61)
#define MCI_PCC BIT(57)
#define MCI_S BIT(56)
#define MCI_AR BIT(55)
#define MCI_CTL2_CMCI_EN BIT(30)
#define LVT_CMCI 0x2f0
#define MCG_CAP_SUPPORTED (MCG_CTL_P | MCG_CMCI_P | BIT(24)) /* and software error recovery */

enum { CTL, STATUS, ADDR, MISC }; /* a bank's four registers */

static u64 *bank_of(struct kvm_vcpu *k, unsigned int bank)
{
	return &k->v->msr_val[MSR_SLOT_MC0_CTL + 4 * bank];
}

static u64 *slot(struct kvm_vcpu *k, enum msr_slot s)
{
	return &k->v->msr_val[s];
}

long sys_get_mce_cap_supported(void *obj, u64 arg, void *buf)
{
	*(u64 *)buf = MCG_CAP_SUPPORTED;
	return 0;
}

long vcpu_setup_mce(struct kvm_vcpu *k, u64 arg, void *buf)
{
	u64 cap = *(const u64 *)buf;
	unsigned int banks = cap & 0xff;

	if (!banks || banks > MCE_BANKS || (cap & ~(MCG_CAP_SUPPORTED | 0xff00ff)))
		return -EINVAL;
	*slot(k, MSR_SLOT_MCG_CAP) = cap;
	if (cap & MCG_CTL_P)
		*slot(k, MSR_SLOT_MCG_CTL) = ~0ull;
	for (unsigned int i = 0; i < banks; i++) {
		bank_of(k, i)[CTL] = ~0ull;
		if (cap & MCG_CMCI_P)
			k->v->msr_val[MSR_SLOT_MC0_CTL2 + i] = 0;
	}
	lapic_set_cmci(k->v, cap & MCG_CMCI_P);
	return 0;
}

static void store(u64 *bank, const struct kvm_x86_mce *m, u64 status)
{
	bank[STATUS] = status;
	bank[ADDR] = m->addr;
	bank[MISC] = m->misc;
}

/* Uncorrected, no action required: logged, and announced by CMCI if the guest asked for that. */
static bool is_ucna(const struct kvm_x86_mce *m)
{
	return !m->mcg_status && !(m->status & (MCI_PCC | MCI_S | MCI_AR)) && (m->status & MCI_VAL) &&
	       (m->status & MCI_UC);
}

static long set_ucna(struct kvm_vcpu *k, const struct kvm_x86_mce *m)
{
	store(bank_of(k, m->bank), m, m->status);
	*slot(k, MSR_SLOT_MCG_STATUS) = m->mcg_status;
	if ((*slot(k, MSR_SLOT_MCG_CAP) & MCG_CMCI_P) &&
	    (k->v->msr_val[MSR_SLOT_MC0_CTL2 + m->bank] & MCI_CTL2_CMCI_EN) && kvm_has_lapic(k))
		lapic_local_deliver(k->v, LVT_CMCI);
	return 0;
}

static long set_uncorrected(struct kvm_vcpu *k, const struct kvm_x86_mce *m, u64 status)
{
	struct vcpu *v = k->v;

	if ((*slot(k, MSR_SLOT_MCG_STATUS) & MCG_STATUS_MCIP) || !(v->cr4 & CR4_MCE)) {
		/* no departure: a shutdown is what the processor itself does */
		k->triple_fault = true;
		vcpu_request(v, REQ_TRIPLE);
		return 0;
	}
	store(bank_of(k, m->bank), m, status);
	*slot(k, MSR_SLOT_MCG_STATUS) = m->mcg_status;
	v->pending = (struct event){ .valid = true, .vector = EXC_MC, .type = EVENT_HARD_EXC };
	return 0;
}

long vcpu_set_mce(struct kvm_vcpu *k, u64 arg, void *buf)
{
	const struct kvm_x86_mce *m = buf;
	u64 cap = *slot(k, MSR_SLOT_MCG_CAP), status = m->status, *bank;

	if (m->bank >= (cap & 0xff) || m->bank >= MCE_BANKS || !(status & MCI_VAL))
		return -EINVAL;
	if (is_ucna(m))
		return set_ucna(k, m);
	bank = bank_of(k, m->bank);
	if ((status & MCI_UC) &&
	    (((cap & MCG_CTL_P) && *slot(k, MSR_SLOT_MCG_CTL) != ~0ull) || bank[CTL] != ~0ull))
		return 0; /* reporting is off */
	if (bank[STATUS] & MCI_VAL)
		status |= MCI_OVER;
	if (status & MCI_UC)
		return set_uncorrected(k, m, status);
	if ((bank[STATUS] & MCI_VAL) && (bank[STATUS] & MCI_UC))
		bank[STATUS] |= MCI_OVER;
	else
		store(bank, m, status);
	return 0;
}
