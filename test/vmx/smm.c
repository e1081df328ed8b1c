/* SPDX-License-Identifier: MIT */
/*
 * System-management mode and VMX operation (statements D11 to D17, D20, D21): SMI in L1 and in L2, handlers that leave
 * SMRAM alone or spoil it, in KVM's treatment and in the manual's default one (smm=intel).
 */
#include "nest.h"

#define SMBASE 0x30000u
#define SAVED(off) (SMBASE + (off)) /* of the 64-bit map */
#define SAVED_CR0 SAVED(0xff58)
#define SAVED_CR4 SAVED(0xff48)
#define SMM_PORT 0x72

BOARD_ASM(l2_ports, 64, "out %al, $0x70; out %al, $0x71; vmcall; 1: jmp 1b");
/* In real mode too: the same bytes. */
BOARD_ASM(l2_ports32, 32, "out %al, $0x70; out %al, $0x71; vmcall; 1: jmp 1b");
BOARD_ASM(smm_rsm, 16, "rsm");
BOARD_ASM(smm_port, 16, "out %al, $0x72; rsm");
/* %cs:0xfe10: CS in the 64-bit map, 0xfe20: SS, 0xff58: CR0, 0xff48: CR4. */
BOARD_ASM(smm_bad_cs, 16, "orb $3, %cs:0xfe10; rsm");
BOARD_ASM(smm_bad_cr4, 16, "movl $0xffffffff, %cs:0xff48; rsm");
BOARD_ASM(smm_vmxe, 16, "orb $0x20, %cs:0xff49; rsm");
BOARD_ASM(smm_set_vmxe, 16, "mov %cr4, %eax; or $0x2000, %eax; mov %eax, %cr4; rsm");
BOARD_ASM(smm_rpl, 16, "andw $0xfffc, %cs:0xfe10; andw $0xfffc, %cs:0xfe20; andb $0x9f, %cs:0xfe22; rsm");
BOARD_ASM(smm_no_ne, 16, "andb $0xdf, %cs:0xff58; rsm");
BOARD_ASM(smm_no_paging, 16, "andl $0x7fffffde, %cs:0xff58; rsm");

static void handler(const u8 *from, const u8 *end)
{
	for (u32 n = 0; from + n < end; n++)
		board_put(&b, SMM_HANDLER + n, from[n], 1);
}
#define smm_code(name) handler(name, name##_end)

/* Options, and the memory of SMM: the same as outside. */
static void start(const char *options)
{
	struct kvm_userspace_memory_region r = { .slot = 1 << 16, .memory_size = BOARD_RAM };

	fresh(options);
	r.userspace_addr = (u64)b.ram;
	board_ioctl(&b, KVM_SET_USER_MEMORY_REGION, &r);
	nest();
	l2_code(l2_ports);
	smm_code(smm_rsm);
}

static void to_l2(void)
{
	is(next_exit(), L2_AT(0x70), "L2 runs");
}

/* What happens after an SMI. */
static u32 after_smi(void)
{
	board_cpu_ioctl(&b, l1, KVM_SMI, NULL);
	return next_exit();
}

static void untouched(const char *options, const char *name)
{
	struct kvm_vcpu_events e;

	start(options);
	to_l2();
	is(after_smi(), L2_AT(0x71), "D11 %s: SMI in L2, RSM: L2 goes on and L1 saw nothing", name);
	ok(in_l2(), "D11 %s: still in L2", name);
	e = events(l1);
	e.flags = KVM_VCPUEVENT_VALID_SMM;
	e.smi.smm = 1;
	board_cpu_ioctl(&b, l1, KVM_SET_VCPU_EVENTS, &e);
	ok(!in_l2(), "D20 %s: user space turns SMM on: guest mode is left", name);
	gone();
	/* In L1: VMX operation is there again, and the same VMCS can be launched. */
	start(options);
	vput(VMCS_CPU_BASED_VM_EXEC_CONTROL, vget(VMCS_CPU_BASED_VM_EXEC_CONTROL) | PROC_UNCOND_IO);
	vput(VMCS_CPU_BASED_VM_EXEC_CONTROL, vget(VMCS_CPU_BASED_VM_EXEC_CONTROL) & ~(u64)PROC_IO_BITMAPS);
	is(next_exit(), VMEXIT_IO, "L2's OUT is L1's");
	is(after_smi(), VMEXIT_IO, "D11 %s: SMI in L1, RSM: VMX operation goes on", name);
	gone();
}

static void spoilt(void)
{
	char lines[4096], seen[256];
	struct kvm_regs r;
	int fd;

	start("fidelity=strict");
	fd = casement_departures(b.vm, CASEMENT_JSON);
	smm_code(smm_bad_cs);
	to_l2();
	is(after_smi(), VMEXIT_TRIPLE_FAULT, "D12 CS.RPL changed in SMRAM: L1 sees a triple fault of L2");
	departures(fd, lines, sizeof(lines));
	kinds(lines, seen, sizeof(seen));
	is_str(seen, "invalid-guest-state", "D22 on record");
	close(fd);
	gone();
	start("");
	fd = casement_departures(b.vm, CASEMENT_JSON);
	smm_code(smm_bad_cs);
	to_l2();
	board_cpu_ioctl(&b, l1, KVM_SMI, NULL);
	is(board_run(&b, l1, 1000), -EIO, "D12 parity: KVM_RUN fails as in Linux");
	is(board_cpu_ioctl(&b, l1, KVM_GET_REGS, &r), -EIO, "D12 parity: and so does every other ioctl of the vCPU");
	is(board_ioctl(&b, KVM_CHECK_EXTENSION, NULL), -EIO, "D12 parity: and of the VM");
	departures(fd, lines, sizeof(lines));
	kinds(lines, seen, sizeof(seen));
	is_str(seen, "vm-dead", "D22 on record");
	close(fd);
	gone();
	start("");
	smm_code(smm_bad_cr4);
	to_l2();
	board_cpu_ioctl(&b, l1, KVM_SMI, NULL);
	is(board_run(&b, l1, 1000), KVM_EXIT_SHUTDOWN, "D13 reserved bits of CR4 in SMRAM: the VM shuts down");
	gone();
}

/* ---- CR4.VMXE ------------------------------------------------------------------------------------------------ */

static void vmxe(void)
{
	for (int intel = 0; intel < 2; intel++) {
		start(intel ? "smm=intel" : "");
		smm_code(smm_port);
		to_l2();
		is(after_smi(), L2_AT(SMM_PORT), "SMM");
		is(!!(board_get(&b, SAVED_CR4, 4) & CR4_VMXE), !intel, "D14 CR4.VMXE in SMRAM");
		gone();
		start(intel ? "smm=intel" : "");
		smm_code(smm_vmxe);
		to_l2();
		board_cpu_ioctl(&b, l1, KVM_SMI, NULL);
		is(board_run(&b, l1, 1000), intel ? KVM_EXIT_SHUTDOWN : KVM_EXIT_IO, "D14 CR4.VMXE is 1 in SMRAM: %s",
		   intel ? "shutdown" : "KVM does not mind");
		gone();
		start(intel ? "smm=intel" : "");
		smm_code(smm_set_vmxe);
		to_l2();
		board_cpu_ioctl(&b, l1, KVM_SMI, NULL);
		is(board_run(&b, l1, 1000), KVM_EXIT_SHUTDOWN, "D14 CR4.VMXE cannot be set in SMM (no IDT: shutdown)");
		gone();
	}
}

/* ---- privilege level ----------------------------------------------------------------------------------------- */

/* L2 at CPL 3 in a conforming code segment of DPL 0. */
static void start_user(const char *options)
{
	start(options);
	vput(VMCS_GUEST_CS_AR_BYTES, 0xa09f);
	vput(VMCS_GUEST_CS_SELECTOR, SEL_CONFORMING | 3);
	vput(VMCS_GUEST_SS_AR_BYTES, 0xc0f3);
	vput(VMCS_GUEST_SS_SELECTOR, SEL_DATA3);
	vput(VMCS_GUEST_RFLAGS, 0x3002);
	smm_code(smm_rpl);
	to_l2();
}

static void levels(void)
{
	struct kvm_sregs s;

	start_user("smm=intel");
	is(after_smi(), L2_AT(0x71), "D15 RPLs cleared in SMRAM: L2 goes on");
	board_get_sregs(&b, l1, &s);
	is(s.cs.selector, SEL_CONFORMING | 3, "D15 CS.RPL is SS.DPL");
	is(s.ss.selector, SEL_DATA3, "D15 SS.RPL is SS.DPL");
	is(s.ss.dpl, 3, "D15 SS.DPL is what it was before");
	board_set_sregs(&b, l1, &s);
	is(next_exit(), VMEXIT_VMCALL, "D15 a state that is valid");
	gone();
	start_user("");
	board_cpu_ioctl(&b, l1, KVM_SMI, NULL);
	is(board_run(&b, l1, 1000), KVM_EXIT_IO, "D15 KVM's treatment does none of that");
	board_get_sregs(&b, l1, &s);
	is(s.cs.selector | s.ss.dpl, SEL_CONFORMING, "D15 and L2 is at CPL 0");
	gone();
}

/* ---- fixed bits ---------------------------------------------------------------------------------------------- */

static u64 cr0_of(int cpu)
{
	struct kvm_sregs s;

	board_get_sregs(&b, cpu, &s);
	return s.cr0;
}

static void fixed(void)
{
	start("smm=intel");
	smm_code(smm_no_ne);
	to_l2();
	is(after_smi(), L2_AT(0x71), "D16 CR0.NE cleared in SMRAM: L2 goes on");
	ok(cr0_of(l1) & CR0_NE, "D16 with NE set");
	gone();
	start("smm=intel");
	smm_code(smm_no_paging);
	to_l2();
	is(after_smi(), L2_AT(0x71), "D16 CR0.PE and PG cleared in SMRAM: a restricted L2 goes on");
	is(cr0_of(l1) & (CR0_PE | CR0_PG), CR0_PE | CR0_PG, "D16 with both set");
	gone();
	start("smm=intel");
	vput(VMCS_CPU_BASED_VM_EXEC_CONTROL, vget(VMCS_CPU_BASED_VM_EXEC_CONTROL) | PROC_UNCOND_IO);
	vput(VMCS_CPU_BASED_VM_EXEC_CONTROL, vget(VMCS_CPU_BASED_VM_EXEC_CONTROL) & ~(u64)PROC_IO_BITMAPS);
	smm_code(smm_no_paging);
	is(next_exit(), VMEXIT_IO, "L1 runs");
	is(after_smi(), VMEXIT_IO, "D16 and so does L1");
	is(cr0_of(l1) & (CR0_PE | CR0_PG), CR0_PE | CR0_PG, "D16 with both set");
	gone();
}

/* An unrestricted L2 in real mode with 32-bit segments. */
static void start_real(const char *options)
{
	start(options);
	l2_code(l2_ports32);
	ept_identity();
	vput(VMCS_SECONDARY_VM_EXEC_CONTROL, PROC2_EPT | PROC2_UNRESTRICTED);
	vput(VMCS_EPT_POINTER, EPT_PML4 | 0x1e);
	vput(VMCS_VM_ENTRY_CONTROLS, vget(VMCS_VM_ENTRY_CONTROLS) & ~(u64)ENTRY_IA32E);
	vput(VMCS_GUEST_CR0, CR0_NE | CR0_ET);
	vput(VMCS_GUEST_CR4, CR4_VMXE);
	vput(VMCS_GUEST_CS_AR_BYTES, 0xc09b);
	to_l2();
}

static void fixed_unrestricted(void)
{
	start_real("smm=intel");
	smm_code(smm_no_ne);
	is(after_smi(), L2_AT(0x71), "D16 an unrestricted L2 in real mode goes on");
	is(cr0_of(l1) & (CR0_PE | CR0_PG | CR0_NE), CR0_NE, "D16 there, too, with NE set");
	is(board_get(&b, SAVED(0xfee0), 4) & 1, 1, "the save area says that EPT is on");
	is(board_get(&b, SAVED(0xfed8), 8), EPT_PML4 | 0x1e, "and with which pointer");
	gone();
	start_real("smm=intel");
	smm_code(smm_rpl);
	is(after_smi(), L2_AT(0x71), "D16 its selectors are nobody's business");
	gone();
}

/* ---- the state in SMM, and migration in the middle of it ----------------------------------------------------- */

static void environment(const char *options, const char *name)
{
	struct kvm_sregs s;
	struct kvm_debugregs d;
	struct kvm_regs r;

	start(options);
	smm_code(smm_port);
	to_l2();
	is(after_smi(), L2_AT(SMM_PORT), "SMM");
	ok(!in_l2(), "D17 %s: SMM from L2 is no guest mode", name);
	board_get_sregs(&b, l1, &s);
	board_get_regs(&b, l1, &r);
	board_cpu_ioctl(&b, l1, KVM_GET_DEBUGREGS, &d);
	is(r.rip & ~0xfull, 0x8000, "D17 %s: RIP", name);
	is(r.rflags, 2, "D17 %s: RFLAGS", name);
	is(s.cs.base, SMBASE, "D17 %s: CS base", name);
	is(s.cs.selector, SMBASE >> 4, "D17 %s: CS selector", name);
	is(s.ds.base | s.es.base | s.ss.base | s.fs.base | s.gs.base, 0, "D17 %s: data segments' bases", name);
	is(s.cs.limit & s.ds.limit & s.es.limit & s.ss.limit & s.fs.limit & s.gs.limit, 0xffffffff, "D17 %s: limits",
	   name);
	is(s.cr0 & (CR0_PE | CR0_EM | CR0_TS | CR0_PG), 0, "D17 %s: CR0", name);
	is(s.cr4 | s.efer, 0, "D17 %s: CR4 and EFER", name);
	is(s.idt.base | s.idt.limit, 0, "D17 %s: IDT", name);
	is(d.dr7, 0x400, "D17 %s: DR7", name);
	is(events(l1).nmi.masked, 1, "D17 %s: NMIs are masked", name);
	is(next_exit(), L2_AT(0x71), "D17 %s: and RSM ends it", name);
	gone();
}

static void migrated(const char *options, const char *name)
{
	static struct nested_image i, none = {
		.s = { .size = 128, .hdr.vmx = { .vmxon_pa = ~0ull, .vmcs12_pa = ~0ull } }
	};

	start(options);
	smm_code(smm_port);
	to_l2();
	is(after_smi(), L2_AT(SMM_PORT), "SMM");
	is(get_nested(&i), 0, "D21 %s: KVM_GET_NESTED_STATE in SMM from L2", name);
	is(i.s.hdr.vmx.smm.flags, KVM_STATE_NESTED_SMM_GUEST_MODE | KVM_STATE_NESTED_SMM_VMXON,
	   "D21 %s: both flags", name);
	is(i.s.flags & KVM_STATE_NESTED_GUEST_MODE, 0, "D21 %s: and not guest mode", name);
	is(set_nested(&none), 0, "D21 %s: a processor without VMX operation", name);
	is(set_nested(&i), 0, "D21 %s: gets it all", name);
	is(next_exit(), L2_AT(0x71), "D21 %s: RSM returns to L2", name);
	ok(in_l2(), "D21 %s: in guest mode", name);
	is(next_exit(), VMEXIT_VMCALL, "D21 %s: whose exits are L1's", name);
	gone();
}

int main(void)
{
	untouched("", "kvm");
	untouched("smm=intel", "intel");
	spoilt();
	vmxe();
	levels();
	fixed();
	fixed_unrestricted();
	environment("", "kvm");
	environment("smm=intel", "intel");
	migrated("", "kvm");
	migrated("smm=intel", "intel");
	return done_testing();
}
