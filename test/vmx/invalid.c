/* SPDX-License-Identifier: MIT */
/* Invalid L2 state: by VMLAUNCH, by user space, by an SMM handler (statements D). */
#include "nest.h"

BOARD_ASM(l2_ports, 64, "out %al, $0x70; out %al, $0x71; vmcall; 1: jmp 1b");
BOARD_ASM(smm_rsm, 16, "rsm");

static void start(const char *options)
{
	fresh(options);
	nest();
	l2_code(l2_ports);
}

static void to_l2(void)
{
	is(next_exit(), L2_AT(0x70), "L2 runs");
}

/* ---- user space stuffs registers ------------------------------------------------------------------------ */

enum { RULE_CS_RPL, RULE_CS_TYPE, RULE_CS_S, RULE_CS_DPL, RULE_SS_TYPE, RULE_SS_S, RULE_SS_DPL, RULE_DS_S, RULE_DS_DPL,
       RULE_TR_UNUSABLE, RULE_TR_TI, RULE_TR_TYPE, RULE_LDTR_TYPE, RULES };

static void break_rule(struct kvm_sregs *s, int rule)
{
	switch (rule) {
	case RULE_CS_RPL: s->cs.selector |= 3; break;
	case RULE_CS_TYPE: s->cs.type = 3; break;
	case RULE_CS_S: s->cs.s = 0; break;
	case RULE_CS_DPL: s->cs.dpl = 3; break;
	case RULE_SS_TYPE: s->ss.type = 1; break;
	case RULE_SS_S: s->ss.s = 0; break;
	case RULE_SS_DPL: s->ss.dpl = 3; break;
	case RULE_DS_S: s->ds.s = 0; break;
	case RULE_DS_DPL: s->ds.selector |= 3; break;
	case RULE_TR_UNUSABLE: s->tr.unusable = 1; break;
	case RULE_TR_TI: s->tr.selector |= 4; break;
	case RULE_TR_TYPE: s->tr.type = 9; break;
	default: s->ldt = (struct kvm_segment){ .type = 3, .present = 1, .limit = 0xffff }; break;
	}
}

static void stuffing(void)
{
	struct kvm_sregs s;
	char lines[4096], seen[256];
	int fd;

	start("");
	fd = casement_departures(b.vm, CASEMENT_JSON);
	to_l2();
	board_get_sregs(&b, l1, &s);
	s.tr.unusable = 1;
	board_set_sregs(&b, l1, &s);
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "D01 TR unusable in a restricted L2: L1 sees a triple fault");
	is(vget(VMCS_EXIT_QUALIFICATION) | vget(VMCS_VM_EXIT_INTR_INFO) | vget(VMCS_IDT_VECTORING_INFO_FIELD), 0,
	   "D01 with no other information");
	departures(fd, lines, sizeof(lines));
	kinds(lines, seen, sizeof(seen));
	is_str(seen, "invalid-guest-state", "D22 and L0's user space is told");
	ok(strstr(lines, "\"level\":2") && strstr(lines, "101000"), "Q11 the record names the level and L2's VMCS");
	vput(VMCS_GUEST_TR_AR_BYTES, 0x8b);
	is(next_exit(), L2_AT(0x71), "D01 L1 lives and can launch again");
	close(fd);
	gone();
}

static void rules(void)
{
	for (int rule = 0; rule < RULES; rule++) {
		struct kvm_sregs s;

		fresh("");
		nest();
		l2_code(l2_ports);
		next_exit();
		board_get_sregs(&b, l1, &s);
		break_rule(&s, rule);
		board_set_sregs(&b, l1, &s);
		is(next_exit(), VMEXIT_TRIPLE_FAULT, "D03 rule %d broken: triple fault", rule);
		gone();
	}
}

static void unrestricted(void)
{
	struct kvm_sregs s;

	start("");
	ept_identity();
	vput(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_EPT | PROC2_UNRESTRICTED);
	vput(VMCS_EPT_POINTER, EPT_PML4 | 0x1e);
	to_l2();
	board_get_sregs(&b, l1, &s);
	s.tr.unusable = 1;
	board_set_sregs(&b, l1, &s);
	is(next_exit(), 0x80000021, "D04 an unrestricted L2: L1 sees an entry failure");
	gone();
}

static void repaired(void)
{
	struct kvm_sregs s, good;

	start("");
	to_l2();
	board_get_sregs(&b, l1, &good);
	s = good;
	s.tr.unusable = 1;
	board_set_sregs(&b, l1, &s);
	board_set_sregs(&b, l1, &good);
	is(next_exit(), L2_AT(0x71), "D08 repaired before KVM_RUN: L2 goes on");
	gone();
}

static void launches(void)
{
	start("");
	vput(VMCS_GUEST_SS_SELECTOR, vget(VMCS_GUEST_SS_SELECTOR) | 3);
	vput(VMCS_EXIT_QUALIFICATION, 77);
	vput(VMCS_VM_EXIT_INTR_INFO, 88);
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000306);
	is(next_exit(), 0x80000021, "D05 CS.RPL and SS.RPL differ: entry failure");
	is(vget(VMCS_EXIT_QUALIFICATION), 0, "D05 qualification 0");
	is(board_get(&b, L1_VMCS + 8, 4), 0, "D05 the launch state stays clear");
	is(vget(VMCS_VM_EXIT_INTR_INFO), 88, "D24 other exit fields are as they were");
	is(vget(VMCS_VM_ENTRY_INTR_INFO_FIELD), 0x80000306, "D24 and the event to inject stays valid");
	gone();
	start("");
	vput(VMCS_GUEST_CR4, vget(VMCS_GUEST_CR4) & ~0x2000ull);
	is(next_exit(), 0x80000021, "D06 CR4.VMXE clear: entry failure");
	gone();
}

/* ---- KVM_SET_NESTED_STATE --------------------------------------------------------------------------------- */

static u8 *field_of(struct nested_image *i, enum vmcs_field f)
{
	return i->data + vmcs_rows[f].offset;
}

static void images(void)
{
	static struct nested_image i, bad;
	struct kvm_sregs s;
	u64 cr0;

	start("");
	to_l2();
	is(get_nested(&i), 0, "KVM_GET_NESTED_STATE in L2");
	is(i.s.hdr.vmx.vmcs12_pa, L1_VMCS, "names the VMCS");
	bad = i;
	memcpy(&cr0, field_of(&i, VMCS_GUEST_CR0), 8);
	cr0 &= ~0x20ull;
	memcpy(field_of(&bad, VMCS_GUEST_CR0), &cr0, 8);
	is(set_nested(&bad), -EINVAL, "D07 CR0 without NE: EINVAL");
	is(set_nested(&i), 0, "D07 the good image again");
	is(next_exit(), L2_AT(0x71), "L2 goes on after its state went out and in");
	gone();

	start("");
	to_l2();
	get_nested(&i);
	i.s.flags |= KVM_STATE_NESTED_RUN_PENDING;
	is(set_nested(&i), 0, "D09 an entry that had not completed");
	board_get_sregs(&b, l1, &s);
	s.tr.unusable = 1;
	board_set_sregs(&b, l1, &s);
	is(board_run(&b, l1, 1000), KVM_EXIT_INTERNAL_ERROR, "D09 with invalid state: an internal error");
	is(b.cpu[l1].run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION, "D09 emulation");
	gone();
}

/* ---- system-management mode ---------------------------------------------------------------------------------- */

/* The same memory in the address space of SMM. */
static void smm_memory(void)
{
	struct kvm_userspace_memory_region r = { .slot = 1 << 16, .memory_size = BOARD_RAM,
						 .userspace_addr = (u64)b.ram };

	is(board_ioctl(&b, KVM_SET_USER_MEMORY_REGION, &r), 0, "SMRAM");
}

static void smi(void)
{
	struct kvm_vcpu_events e;

	start("");
	smm_memory();
	for (u32 n = 0; smm_rsm + n < smm_rsm_end; n++)
		board_put(&b, SMM_HANDLER + n, smm_rsm[n], 1);
	to_l2();
	is(board_cpu_ioctl(&b, l1, KVM_SMI, NULL), 0, "KVM_SMI");
	is(next_exit(), L2_AT(0x71), "D11 SMI in L2, RSM: L2 goes on and L1 saw nothing");
	ok(in_l2(), "D11 still in L2");
	e = events(l1);
	e.flags = KVM_VCPUEVENT_VALID_SMM;
	e.smi.smm = 1;
	board_cpu_ioctl(&b, l1, KVM_SET_VCPU_EVENTS, &e);
	ok(!in_l2(), "D20 user space turns SMM on: guest mode is left");
	gone();
}

/* The handler spoils what it returns to. 0xfe00 + 0x10: CS in the 64-bit map; 0x7f48: CR4. */
BOARD_ASM(smm_bad_cs, 16, "orb $3, %cs:0xfe10; rsm");
BOARD_ASM(smm_bad_cr4, 16, "movl $0xffffffff, %cs:0xff48; rsm");

static void smm_handler(const u8 *from, const u8 *end)
{
	for (u32 n = 0; from + n < end; n++)
		board_put(&b, SMM_HANDLER + n, from[n], 1);
}

static void smram(void)
{
	start("");
	smm_memory();
	smm_handler(smm_bad_cs, smm_bad_cs_end);
	to_l2();
	board_cpu_ioctl(&b, l1, KVM_SMI, NULL);
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "D12 CS.RPL changed in SMRAM: L1 sees a triple fault of L2");
	gone();
	start("");
	smm_memory();
	smm_handler(smm_bad_cr4, smm_bad_cr4_end);
	to_l2();
	board_cpu_ioctl(&b, l1, KVM_SMI, NULL);
	is(board_run(&b, l1, 1000), KVM_EXIT_SHUTDOWN, "D13 reserved bits of CR4 in SMRAM: the VM shuts down");
	gone();
}

int main(void)
{
	stuffing();
	rules();
	unrestricted();
	repaired();
	launches();
	images();
	smi();
	smram();
	return done_testing();
}
