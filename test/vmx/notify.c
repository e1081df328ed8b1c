/* SPDX-License-Identifier: MIT */
/* L0's containment of L2 (statements Q), and triple faults that user space asks for (T08, T14, T17). */
#include "nest.h"

/* L2 touches its #DB gate, which a breakpoint watches: delivery never ends (CVE-2015-8104). */
BOARD_ASM(l2_loops, 64, "out %al, $0x70; mov 0x2010, %rax; out %al, $0x71; 1: jmp 1b");
BOARD_ASM(l2_spins, 64, "out %al, $0x70; 1: jmp 1b");
BOARD_ASM(l2_halts, 64, "out %al, $0x70; sti; hlt; 1: jmp 1b");

/* A board where the monitor has asked for notify exits before the vCPU was made; L2 has not run yet. */
static void prepare(const char *options, u32 window, u32 flags)
{
	fresh(options);
	if (flags)
		is(enable_notify(window, flags), 0, "KVM_CAP_X86_NOTIFY_VMEXIT");
	board_enable_cap(&b, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
	nest();
	l2_code(l2_loops);
	board_gate(&b, BOARD_LONG64, 1, SEL_CODE0_64, BOARD_HANDLERS + 16, GATE_INT32, 0, 1);
	board_watch(&b, l1, 0, BOARD_IDT + 16, 3, 8);
	vput(VMCS_GUEST_DR7, 0x400 | 3 | 3 << 16 | 2 << 18);
	vput(VMCS_EXCEPTION_BITMAP, 1 << EXC_MC);
}

static void hostile(const char *options, u32 flags)
{
	prepare(options, 0, flags);
	is(next_exit(), L2_AT(0x70), "L2 runs");
}

/* Crystal clocks, of 25 MHz, from here to the next exit; by the guest's TSC. */
static u64 clocks_to(u32 *exit)
{
	u64 begin = get_msr(l1, 0x10), khz = (u64)board_cpu_ioctl(&b, l1, KVM_GET_TSC_KHZ, NULL);

	*exit = next_exit();
	return (get_msr(l1, 0x10) - begin) * 25000 / khz;
}

static void offered(void)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { .head.nmsrs = 1, .e.index = 0x48b };

	fresh("");
	nest();
	is(board_cpu_ioctl(&b, l1, KVM_GET_MSRS, &m), 1, "IA32_VMX_PROCBASED_CTLS2");
	is(m.e.data >> 62, 0, "Q01 notify and bus-lock exiting are not offered to L1");
	vset(VMCS_SECONDARY_VM_EXEC_CONTROL, 1u << 31);
	is(next_exit() & 0x40000040, 0x40000040, "Q02 and cannot be set: VMfailValid");
	gone();
}

static void contained(void)
{
	static struct nested_image i;
	struct kvm_vcpu_events e;
	u64 before;

	hostile("intercepts=drop", NOTIFY_ON);
	before = stat_of(l1, "notify_window_exits", 0);
	is(board_run(&b, l1, 300), -ETIMEDOUT, "Q03 L2 loops in delivery; L1 is not told");
	ok(stat_of(l1, "notify_window_exits", 0) > before, "Q03 notify exits are counted");
	ok(in_l2(), "Q03 L2 is still there");
	gone();

	hostile("intercepts=drop", NOTIFY_ON_USER);
	is(board_run(&b, l1, 5000), KVM_EXIT_NOTIFY, "Q04 with USER the monitor is told");
	ok(in_l2(), "Q04 and sees that L2 was running");
	get_nested(&i);
	e = events(l1);
	is(set_nested(&i), 0, "Q13 its state goes out and in again");
	board_cpu_ioctl(&b, l1, KVM_SET_VCPU_EVENTS, &e);
	is(board_run(&b, l1, 5000), KVM_EXIT_NOTIFY, "Q13 and the window begins anew");
	gone();
}

#define SECOND_VMCS 0x1a0000u

/* The window is L0's for one VMCS like for another. */
static void every_vmcs(void)
{
	static const u32 windows[] = { 0, 200000 };
	u64 took[2][2];
	u32 exit;

	for (int w = 0; w < 2; w++) {
		prepare("intercepts=drop,clock=virtual,notify-threshold=1000", windows[w], NOTIFY_ON_USER);
		for (u32 n = 0; n < VMCS_BYTES; n += 8)
			board_put(&b, SECOND_VMCS + n, board_get(&b, L1_VMCS + n, 8), 8);
		for (int n = 0; n < 2; n++) {
			is(next_exit(), L2_AT(0x70), "L2 runs");
			took[w][n] = clocks_to(&exit);
			is(exit, 0x80000000 | KVM_EXIT_NOTIFY, "Q06 it is contained");
			request_triple_fault();
			is(next_exit(), VMEXIT_TRIPLE_FAULT, "and ends");
			board_put(&b, L1_POINTERS + 8, SECOND_VMCS, 8);
		}
		gone();
		ok(took[w][0] + 100 > took[w][1] && took[w][1] + 100 > took[w][0],
		   "Q06 window %u: the same for two VMCSs (%llu and %llu clocks)", windows[w],
		   (unsigned long long)took[w][0], (unsigned long long)took[w][1]);
		ok(took[w][0] > windows[w] + 1000 && took[w][0] < windows[w] + 3000, "Q06 and as long as L0 said");
	}
}

static void killed(void)
{
	char lines[4096], seen[256];
	int fd;

	hostile("intercepts=drop", NOTIFY_ON);
	fd = casement_departures(b.vm, CASEMENT_JSON);
	is(casement_inject(b.vm, "context-invalid:flag", NULL, 0), 0, "inject");
	is(board_run(&b, l1, 5000), KVM_EXIT_NOTIFY, "Q05 an invalid context of L2 is told");
	is(b.cpu[l1].run->notify.flags, KVM_NOTIFY_CONTEXT_INVALID, "Q05 as such");
	request_triple_fault();
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "Q05 the requested triple fault: L1 sees exit 2, the monitor nothing");
	departures(fd, lines, sizeof(lines));
	kinds(lines, seen, sizeof(seen));
	ok(strstr(seen, "notify-invalid") && strstr(seen, "triple-fault-l2"), "Q11 the records: %s", seen);
	ok(strstr(lines, "101000"), "Q11 name L2's VMCS");
	close(fd);
	gone();
}

/* Qualification bit 12: an IRET had unblocked NMIs; L2 blocks them again. */
static void unblocked(void)
{
	struct kvm_vcpu_events e;

	prepare("intercepts=drop", 0, NOTIFY_ON_USER);
	vset(VMCS_PIN_BASED_VM_EXEC_CONTROL, PIN_NMI | PIN_VNMI);
	is(next_exit(), L2_AT(0x70), "L2 runs");
	is(events(l1).nmi.masked, 0, "Q10 L2 does not block NMIs");
	is(casement_inject(b.vm, "nmi-unblock", NULL, 0), 0, "inject");
	is(board_run(&b, l1, 5000), KVM_EXIT_NOTIFY, "Q10 NMI unblocking is reported with L2's notify exit");
	e = events(l1);
	is(e.nmi.masked, 1, "Q10 L2 blocks NMIs again");
	request_triple_fault();
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "Q10 L2 ends");
	is(vget(VMCS_GUEST_INTERRUPTIBILITY_INFO) & INTERRUPTIBILITY_NMI, INTERRUPTIBILITY_NMI,
	   "Q10 and its VMCS says so");
	is(events(l1).nmi.masked, 0, "Q10 L1 does not block them");
	board_cpu_ioctl(&b, l1, KVM_NMI, NULL);
	is(board_run_out(&b, l1, BOARD_PORT, 5000), EXC_NMI, "Q10 and takes one");
	gone();
}

static void requested(void)
{
	static const struct nested_image none = {
		.s = { .size = 128, .hdr.vmx = { .vmxon_pa = ~0ull, .vmcs12_pa = ~0ull } }
	};

	for (int strict = 0; strict < 2; strict++) {
		fresh(strict ? "fidelity=strict" : "");
		board_enable_cap(&b, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
		nest();
		l2_code(l2_spins);
		next_exit();
		request_triple_fault();
		is(set_nested(&none), 0, "T17 L2 is left before the request is served");
		is(board_run(&b, l1, 200), strict ? KVM_EXIT_IO : KVM_EXIT_SHUTDOWN,
		   strict ? "T17 strict: the request was L2's and dies with it" :
			    "T17 parity: the whole VM shuts down");
		gone();
	}
	fresh("");
	board_enable_cap(&b, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
	nest();
	l2_code(l2_spins);
	next_exit();
	request_triple_fault();
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "T08 a triple fault requested in L2 is L1's exit 2");
	is(vget(VMCS_EXIT_QUALIFICATION) | vget(VMCS_VM_EXIT_INTR_INFO), 0, "T08 with no other information");
	gone();
}

/* Without HLT exiting L2 sleeps in KVM_RUN; the request wakes it for L1's sake, and nothing else does. */
static void halted(void)
{
	struct kvm_mp_state mp;

	fresh("");
	board_enable_cap(&b, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
	board_ioctl(&b, KVM_CREATE_IRQCHIP, NULL);
	nest();
	l2_code(l2_halts);
	next_exit();
	is(board_run(&b, l1, 100), -ETIMEDOUT, "T14 L2 sleeps");
	board_cpu_ioctl(&b, l1, KVM_GET_MP_STATE, &mp);
	is(mp.mp_state, KVM_MP_STATE_HALTED, "T14 halted");
	request_triple_fault();
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "T14 the request reaches L1 without a wake-up event");
	gone();
}

static void shut_down(void)
{
	fresh("");
	nest();
	l2_code(l2_loops);
	vput(VMCS_GUEST_IDTR_LIMIT, 0);
	next_exit();
	vput(VMCS_GUEST_DR7, 0x400);
	board_put(&b, L2_CODE + 2, 0x0b0f, 2); /* UD2 */
	is(next_exit(), VMEXIT_TRIPLE_FAULT, "T18 a real triple fault of L2 is always exit 2");
	is(vget(VMCS_IDT_VECTORING_INFO_FIELD), 0, "T18 without vectoring information");
	gone();
}

/* ---- nested-notify=on -------------------------------------------------------------------------------------------- */

/* CPUID leaf 15H of L1. */
static void set_crystal(u32 hz)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[128];
	} c;
	unsigned int n = 0;

	c.head.nent = 128;
	board_cpu_ioctl(&b, l1, KVM_GET_CPUID2, &c);
	while (n < c.head.nent && c.e[n].function != 0x15)
		n++;
	if (n == c.head.nent)
		c.head.nent++;
	c.e[n] = (struct kvm_cpuid_entry2){ .function = 0x15, .eax = 1, .ebx = 80, .ecx = hz };
	is(board_cpu_ioctl(&b, l1, KVM_SET_CPUID2, &c), 0, "a crystal of %u Hz for L1", hz);
}

/* Windows in crystal clocks; L1's crystal, 0: like ours of 25 MHz. The threshold counts for both levels. */
static void windows(u32 l0_clocks, u32 l1_clocks, u32 hz)
{
	prepare("intercepts=drop,nested-notify=on,notify-threshold=1000,clock=virtual", l0_clocks,
		l0_clocks ? NOTIFY_ON_USER : 0);
	if (hz)
		set_crystal(hz);
	vput(VMCS_EXCEPTION_BITMAP, 0);
	vput(VMCS_SECONDARY_VM_EXEC_CONTROL, 1u << 31);
	vput(VMCS_NOTIFY_WINDOW, l1_clocks);
	is(next_exit(), L2_AT(0x70), "L1 may set the control");
}

static void exposed(void)
{
	windows(500000, 25000, 0);
	is(next_exit(), VMEXIT_NOTIFY, "Q07 L1's window is the smaller one: the exit is L1's");
	is(vget(VMCS_EXIT_QUALIFICATION), 0, "Q07 with a valid context");
	is(vget(VMCS_IDT_VECTORING_INFO_FIELD), 0x80000301, "Q07 and with the event that was being delivered");
	is(stat_of(l1, "notify_window_exits", 0), 0, "Q07 and not counted for L0");
	gone();
	windows(500000, 50000000, 0);
	is(board_run(&b, l1, 5000), KVM_EXIT_NOTIFY, "Q08 L1's window is the larger one: the exit is L0's");
	is(next_exit(), 0x80000000 | KVM_EXIT_NOTIFY, "Q08 again, and L1 has seen nothing");
	gone();
}

/* Which window is the smaller one is a matter of time, not of clocks. */
static void crystals(void)
{
	static const struct { u32 clocks, hz, same; } rows[] = {
		{ 225000, 25000000, 225000 }, { 900000, 100000000, 225000 }, { 45000, 5000000, 225000 },
		{ 10000, 1000000, 250000 },
	};
	u64 took;
	u32 exit;

	for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
		windows(0, rows[n].clocks, rows[n].hz);
		took = clocks_to(&exit);
		is(exit, VMEXIT_NOTIFY, "Q09 L1's exit");
		ok(took > rows[n].same + 1000 && took < rows[n].same + 3000,
		   "Q09 %u clocks of %u Hz are %u of ours (%llu with the threshold)", rows[n].clocks, rows[n].hz,
		   rows[n].same, (unsigned long long)took);
		gone();
	}
	windows(500000, 900000, 100000000);
	is(next_exit(), VMEXIT_NOTIFY, "Q09 more clocks and less time: L1's");
	gone();
	windows(500000, 300000, 5000000);
	is(board_run(&b, l1, 5000), KVM_EXIT_NOTIFY, "Q09 fewer clocks and more time: L0's");
	gone();
	windows(500000, ~0u, 0);
	is(board_run(&b, l1, 5000), KVM_EXIT_NOTIFY, "Q09 the largest window does not wrap around to a small one");
	gone();
	windows(500000, ~0u, 1000000);
	is(board_run(&b, l1, 5000), KVM_EXIT_NOTIFY, "Q09 nor does one that does not fit 32 bits of our clocks");
	gone();
}

/* ---- nested-notify-invalid: what each choice does to four kinds of L1 ---------------------------- */

enum model { MODEL_REPORTS, MODEL_KNOWS_75, MODEL_KVM49, MODEL_PANICS, MODELS };

/* What becomes of it when this L1 gets this exit. */
static const char *reacts(enum model m, u32 reason)
{
	if (reason == VMEXIT_TRIPLE_FAULT)
		return "L2 ends";
	if (reason == VMEXIT_EXCEPTION_NMI)
		return "L1 handles #MC";
	if (reason == VMEXIT_NOTIFY && m == MODEL_KNOWS_75)
		return "L1 ends L2";
	if (m == MODEL_PANICS)
		return "L1 panics";
	if (m != MODEL_KVM49)
		return "L1 reports it";
	/* One warning, then #UD into L2. */
	vput(VMCS_VM_ENTRY_INTR_INFO_FIELD, 0x80000306);
	vput(VMCS_GUEST_DR7, 0x400);
	vput(VMCS_GUEST_PENDING_DBG_EXCEPTIONS, 0);
	return board_run_out(&b, l1, BOARD_PORT, 5000) == 6 ? "L2 gets #UD" : "L2 loops";
}

static const char *outcome(const char *how, enum model m, bool opted)
{
	char options[128];
	u32 reason;

	snprintf(options, sizeof(options), "intercepts=drop,nested-notify-invalid=%s", how);
	hostile(options, NOTIFY_ON);
	if (opted) {
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry e;
		} msr = { .head.nmsrs = 1, .e = { .index = 0x43534d10, .data = 1 } };

		is(board_cpu_ioctl(&b, l1, KVM_SET_MSRS, &msr), 1, "opted in");
	}
	casement_inject(b.vm, "context-invalid:flag", NULL, 0);
	reason = next_exit();
	if (reason == (0x80000000 | KVM_EXIT_NOTIFY))
		return "monitor decides";
	return reacts(m, reason);
}

static void debate(void)
{
	static const char *const how[] = { "userspace", "exit2", "reflect75", "swexit", "swexit", "mce" };
	static const char *const want[][MODELS] = {
		{ "monitor decides", "monitor decides", "monitor decides", "monitor decides" },
		{ "L2 ends", "L2 ends", "L2 ends", "L2 ends" },
		{ "L1 reports it", "L1 ends L2", "L2 gets #UD", "L1 panics" },
		{ "L2 ends", "L2 ends", "L2 ends", "L2 ends" },
		{ "L1 reports it", "L1 reports it", "L2 gets #UD", "L1 panics" },
		{ "L1 handles #MC", "L1 handles #MC", "L1 handles #MC", "L1 handles #MC" },
	};

	diag("%-22s %-16s %-16s %-16s %-16s", "nested-notify-invalid", "reports", "knows 75", "like KVM 4.9", "panics");
	for (size_t n = 0; n < ARRAY_SIZE(how); n++) {
		const char *got[MODELS];

		for (enum model m = 0; m < MODELS; m++) {
			got[m] = outcome(how[n], m, n == 4);
			is_str(got[m], want[n][m], "%s%s, L1 model %d", how[n], n == 4 ? " opted in (Q12)" : "", m);
			gone();
		}
		diag("%-10s %-11s %-16s %-16s %-16s %-16s", how[n], n == 4 ? "opted in" : "", got[0], got[1], got[2],
		     got[3]);
	}
}

int main(void)
{
	offered();
	contained();
	every_vmcs();
	killed();
	unblocked();
	requested();
	halted();
	shut_down();
	exposed();
	crystals();
	debate();
	return done_testing();
}
