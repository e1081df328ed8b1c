/* SPDX-License-Identifier: MIT */
/* Invalid L2 state: by VMLAUNCH, by user space (statements D); smm.c has the SMM handlers. */
#include "nest.h"

#include <poll.h>

BOARD_ASM(l2_ports, 64, "out %al, $0x70; out %al, $0x71; vmcall; 1: jmp 1b");

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

/* One field each: RULES break one of KVM's rules, the others are next to them and break none. */
#define RULES(X)                                                                            \
	X("CS.RPL is not SS.RPL", s->cs.selector |= 3)                                      \
	X("CS unusable", s->cs.unusable = 1)                                                \
	X("CS not present", s->cs.present = 0)                                              \
	X("CS a system segment", s->cs.s = 0)                                               \
	X("CS data", s->cs.type = 3)                                                        \
	X("CS not accessed", s->cs.type = 10)                                               \
	X("CS.DPL is not its RPL", s->cs.dpl = 3)                                           \
	X("conforming CS.DPL above its RPL", s->cs.type = 15, s->cs.dpl = 3)                \
	X("SS read-only", s->ss.type = 1)                                                   \
	X("SS a system segment", s->ss.s = 0)                                               \
	X("SS.DPL is not its RPL", s->ss.dpl = 3)                                           \
	X("DS a system segment", s->ds.s = 0)                                               \
	X("DS.DPL below its RPL", s->ds.selector |= 3)                                      \
	X("FS.DPL below its RPL", s->fs.selector |= 3)                                      \
	X("TR unusable", s->tr.unusable = 1)                                                \
	X("TR not present", s->tr.present = 0)                                              \
	X("TR of the LDT", s->tr.selector |= 4)                                             \
	X("TR an available TSS", s->tr.type = 9)                                            \
	X("LDTR of the LDT", LDT(2, 4))                                                     \
	X("LDTR of another type", LDT(3, 0))
#define HARMLESS(X)                                                                         \
	X("SS unusable", s->ss.unusable = 1)                                                \
	X("SS not present", s->ss.present = 0)                                              \
	X("SS expand-down", s->ss.type = 7)                                                 \
	X("conforming CS", s->cs.type = 15)                                                 \
	X("DS unusable", s->ds.unusable = 1)                                                \
	X("DS conforming code, DPL below its RPL", s->ds.type = 15, s->ds.selector |= 3)    \
	X("a usable LDTR", LDT(2, 0))
/* No rule of KVM's: it is the hardware that refuses. */
#define HARDWARE(X)                                                                         \
	X("DS not accessed", s->ds.type = 2)                                                \
	X("ES limit without granularity", s->es.g = 0)
#define LDT(t, sel) s->ldt = (struct kvm_segment){ .type = t, .selector = sel, .present = 1, .limit = 0xffff }

#define CASE(what, ...)           \
	if (i++ == n) {           \
		__VA_ARGS__;      \
		return what;      \
	}
/* Make the nth change: what it is, NULL after the last. */
#define CHANGES(name, list)                                        \
	static const char *name(struct kvm_sregs *s, int n)        \
	{                                                          \
		int i = 0;                                         \
                                                                   \
		list(CASE)                                         \
		return NULL;                                       \
	}
CHANGES(break_rule, RULES)
CHANGES(keep_rules, HARMLESS)
CHANGES(break_hardware, HARDWARE)

static void stuffing(void)
{
	struct kvm_sregs s;
	char lines[4096], seen[256];
	struct pollfd p = { .events = POLLIN };
	int fd;

	start("");
	fd = p.fd = casement_departures(b.vm, CASEMENT_JSON);
	to_l2();
	board_get_sregs(&b, l1, &s);
	s.tr.unusable = 1;
	board_set_sregs(&b, l1, &s);
	is(poll(&p, 1, 0), 0, "Q11 nothing to tell yet");
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "D01 TR unusable in a restricted L2: L1 sees a triple fault");
	is(vget(VMCS_EXIT_QUALIFICATION) | vget(VMCS_VM_EXIT_INTR_INFO) | vget(VMCS_IDT_VECTORING_INFO_FIELD), 0,
	   "D01 with no other information");
	is(poll(&p, 1, 5000), 1, "Q11 L2's death wakes who polls the descriptor of departures");
	departures(fd, lines, sizeof(lines));
	kinds(lines, seen, sizeof(seen));
	is_str(seen, "invalid-guest-state", "D22 and L0's user space is told");
	ok(strstr(lines, "\"level\":2") && strstr(lines, "101000"), "Q11 the record names the level and L2's VMCS");
	vput(VMCS_GUEST_TR_AR_BYTES, 0x8b);
	is(next_exit(), L2_AT(0x71), "D01 L1 lives and can launch again");
	close(fd);
	gone();
}

/* What L1 or the monitor sees after each of a list's changes. */
static void changed(const char *(*change)(struct kvm_sregs *s, int n), u32 want, const char *then)
{
	const char *what;

	for (int n = 0;; n++) {
		struct kvm_sregs s;

		fresh("");
		nest();
		l2_code(l2_ports);
		next_exit();
		board_get_sregs(&b, l1, &s);
		what = change(&s, n);
		if (what) {
			board_set_sregs(&b, l1, &s);
			is(next_exit(), want, "D03 %s: %s", what, then);
		}
		gone();
		if (!what)
			return;
	}
}

static void rules(void)
{
	changed(break_rule, VMEXIT_TRIPLE_FAULT, "triple fault");
	changed(keep_rules, L2_AT(0x71), "L2 goes on");
	changed(break_hardware, 0x80000021, "an entry failure");
}

/* A 32-bit L2 in virtual-8086 mode; the TSS lets it write to ports. */
static void start_v86(void)
{
	static const u8 code[] = { 0xe6, 0x70, 0xe6, 0x71, 0x0f, 0xa2 };

	start("");
	for (u32 n = 0; n < sizeof(code); n++)
		board_put(&b, 0x50000 + n, code[n], 1);
	vput(VMCS_VM_ENTRY_CONTROLS, vget(VMCS_VM_ENTRY_CONTROLS) & ~(u64)ENTRY_IA32E);
	vput(VMCS_GUEST_CR3, BOARD_PD32);
	vput(VMCS_GUEST_CR4, CR4_VMXE);
	vput(VMCS_GUEST_RFLAGS, 0x23002);
	vput(VMCS_GUEST_RIP, 0);
	for (unsigned int n = SEG_ES; n <= SEG_GS; n++) {
		vput(VMCS_GUEST_ES_SELECTOR + n, 0x5000);
		vput(VMCS_GUEST_ES_BASE + n, 0x50000);
		vput(VMCS_GUEST_ES_LIMIT + n, 0xffff);
		vput(VMCS_GUEST_ES_AR_BYTES + n, 0xf3);
	}
	vput(VMCS_GUEST_TR_LIMIT, 0xfff);
	board_put(&b, BOARD_TSS + 0x66, 0x100, 2);
	to_l2();
}

static void v86(void)
{
	start_v86();
	board_sregs(&b, l1, s.ds.selector = s.ds.selector);
	is(next_exit(), L2_AT(0x71), "D03 virtual-8086 mode, nothing changed: L2 goes on");
	gone();
	start_v86();
	board_sregs(&b, l1, s.ds.limit = 0xfffff);
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "D03 virtual-8086 mode, another limit: triple fault");
	gone();
	start_v86();
	board_sregs(&b, l1, s.es.base += 16);
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "D03 virtual-8086 mode, another base: triple fault");
	gone();
	start_v86();
	board_sregs(&b, l1, s.gs.type = 1);
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "D03 virtual-8086 mode, other access rights: triple fault");
	gone();
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

/* Segments are not looked at when the state is set: registers set afterwards may repair them. */
static void later(void)
{
	static struct nested_image i;
	struct kvm_sregs good;
	const u32 unusable = 0x10000;
	struct kvm_regs regs;

	for (int repair = 0; repair < 2; repair++) {
		start("");
		to_l2();
		board_get_sregs(&b, l1, &good);
		board_get_regs(&b, l1, &regs);
		get_nested(&i);
		memcpy(field_of(&i, VMCS_GUEST_TR_AR_BYTES), &unusable, 4);
		is(set_nested(&i), 0, "D07 an image with TR unusable is taken");
		ok(in_l2(), "D07 and L2 is what runs");
		if (repair) {
			board_set_sregs(&b, l1, &good);
			board_set_regs(&b, l1, &regs);
		}
		is(next_exit(), repair ? L2_AT(0x71) : VMEXIT_TRIPLE_FAULT,
		   repair ? "D08 repaired before KVM_RUN: L2 goes on" : "D08 not repaired: triple fault");
		gone();
	}
	start("");
	to_l2();
	get_nested(&i);
	memcpy(field_of(&i, VMCS_GUEST_TR_AR_BYTES), &unusable, 4);
	i.s.flags |= KVM_STATE_NESTED_RUN_PENDING;
	is(set_nested(&i), 0, "D09 the same while an entry had not completed");
	is(board_run(&b, l1, 1000), KVM_EXIT_INTERNAL_ERROR, "D09 an internal error");
	is(b.cpu[l1].run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION, "D09 emulation");
	gone();
}

/* ---- L1 in invalid state, where the processor below has no unrestricted guests ------------------------------- */

BOARD_ASM(l1_ports, 64, "out %al, $0x70; out %al, $0x71; ud2; 1: jmp 1b");
BOARD_ASM(l1_real, 16, "out %al, $0x70; out %al, $0x71; ud2; 1: jmp 1b");

static void without_tr(int cpu)
{
	board_sregs(&b, cpu, s.tr.unusable = 1);
}

static void emulated(void)
{
	struct kvm_vcpu_events e;
	int cpu;

	fresh("unrestricted-guest=off");
	cpu = new_cpu(BOARD_LONG64);
	board_code(&b, cpu, l1_ports);
	is(get_msr(cpu, 0x48b) >> 39 & 1, 0, "D02 no unrestricted guest below: none for L1's guests");
	board_run_out(&b, cpu, 0x70, 1000);
	without_tr(cpu);
	is(board_run(&b, cpu, 1000), KVM_EXIT_IO, "D02 L1 in invalid state is emulated");
	is(b.cpu[cpu].run->io.port, 0x71, "D02 and makes progress");
	is(board_run(&b, cpu, 1000), KVM_EXIT_INTERNAL_ERROR, "D10 until it raises an exception");
	is(b.cpu[cpu].run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION, "D10 emulation");
	board_sregs(&b, cpu, s.tr.unusable = 0; s.tr.present = 1);
	is(board_run_out(&b, cpu, BOARD_PORT, 1000), EXC_UD, "D10 which it gets when its state has been repaired");
	gone();

	fresh("unrestricted-guest=off");
	cpu = new_cpu(BOARD_LONG64);
	board_code(&b, cpu, l1_ports);
	without_tr(cpu);
	e = events(cpu);
	e.exception.injected = 1;
	e.exception.nr = EXC_UD;
	board_cpu_ioctl(&b, cpu, KVM_SET_VCPU_EVENTS, &e);
	is(board_run(&b, cpu, 1000), KVM_EXIT_INTERNAL_ERROR, "D10 invalid state and an exception from user space");
	gone();

	fresh("unrestricted-guest=off");
	cpu = new_cpu(BOARD_REAL16);
	board_code(&b, cpu, l1_real);
	board_sregs(&b, cpu, s.ds.limit = 0xfffff; s.ds.g = 1);
	is(board_run_out(&b, cpu, 0x71, 1000) >> 31, 0, "D02 real mode with a large limit is emulated");
	is(board_run_out(&b, cpu, BOARD_PORT, 1000), EXC_UD, "D10 in real mode with its exceptions");
	gone();
}

static void not_emulated(void)
{
	int cpu;

	start("emulate-invalid-guest-state=off");
	to_l2();
	without_tr(l1);
	is(next_exit(), 0x80000021, "D23 without emulation L2's invalid state reaches the hardware's VM entry");
	is(vget(VMCS_EXIT_QUALIFICATION), 0, "D23 qualification 0");
	gone();
	fresh("unrestricted-guest=off,emulate-invalid-guest-state=off");
	cpu = new_cpu(BOARD_LONG64);
	board_code(&b, cpu, l1_ports);
	without_tr(cpu);
	is(board_run(&b, cpu, 1000), KVM_EXIT_FAIL_ENTRY, "D23 and so does L1's");
	is(b.cpu[cpu].run->fail_entry.hardware_entry_failure_reason, 0x80000021, "D23 with the reason");
	gone();
}

int main(void)
{
	stuffing();
	rules();
	v86();
	unrestricted();
	repaired();
	launches();
	images();
	later();
	emulated();
	not_emulated();
	return done_testing();
}
