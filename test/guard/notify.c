/* SPDX-License-Identifier: MIT */
/* Notify VM exits of L1: statements N20 to N39. */
#include "vm.h"

#define DROP "intercepts=drop,clock=virtual"
#define LIMIT 131072u	/* window 0 and the threshold */

static char lines[65536];

static u64 notify_exits(int cpu)
{
	return stat_of(cpu, "notify_window_exits", 0);
}

/* ---- loops ---------------------------------------------------------------------------------------------- */

static void ac_exit(void)
{
	int cpu;
	double start;

	fresh(DROP);
	enable_notify(10, NOTIFY_ON_USER);
	cpu = ac_loop();
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N20 a #AC loop ends in a notify exit");
	is(b.cpu[cpu].run->notify.flags, 0, "N28 with a valid context");
	is(rip(cpu), board_code_at(cpu), "N20 RIP is that of the misaligned access");
	ok(events(cpu).exception.injected && events(cpu).exception.nr == 17, "N32 the interrupted delivery is kept");
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N28 running again goes on with the loop");
	is(rip(cpu), board_code_at(cpu), "N28 at the same RIP");
	is(notify_exits(cpu), 2, "each is counted");
	gone();

	fresh("intercepts=drop");
	enable_notify(1000, NOTIFY_ON_USER);
	cpu = ac_loop();
	board_run(&b, cpu, 5000);
	start = board_now();
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N20 the same on the real clock");
	start = board_now() - start;
	diag("window + threshold = %.3f ms of crystal time, the exit took %.3f ms", (1000 + LIMIT) / 25e3, start * 1e3);
	ok(start >= (1000 + LIMIT) / 25e6 && start < (1000 + LIMIT) / 25e6 + 0.05,
	   "N20 not before window + threshold, not long after");
	gone();
}

/* The crystal is the VM's: TSC offset and frequency of the guest do not matter. */
static void crystal(void)
{
	double start;
	int cpu;

	fresh("intercepts=drop,crystal=50000000");
	enable_notify(368928, NOTIFY_ON_USER);
	cpu = ac_loop();
	board_cpu_ioctl(&b, cpu, KVM_SET_TSC_KHZ, (void *)500000ul);
	start = board_now();
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N26 a crystal of 50 MHz");
	start = board_now() - start;
	ok(start > 0.0099 && start < 0.05,
	   "N26 500000 ticks are 10 ms whatever the guest's TSC does (%.2f ms)", start * 1e3);
	gone();
}

static void db_exit(void)
{
	struct kvm_debugregs d;
	struct kvm_regs r;
	int cpu;
	u64 sp;

	fresh(DROP);
	enable_notify(0, NOTIFY_ON_USER);
	cpu = db_loop();
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N21 L09 a #DB loop ends in a notify exit");
	board_get_regs(&b, cpu, &r);
	sp = r.rsp;
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "L09 and never by itself");
	board_get_regs(&b, cpu, &r);
	is(r.rsp, sp, "L09 IST gives the same stack each time");
	d.dr7 = 0x400;
	board_cpu_ioctl(&b, cpu, KVM_GET_DEBUGREGS, &d);
	ok(d.dr6 & 1, "L10 DR6 has the breakpoint's bit");
	d.dr7 = 0x400;
	board_cpu_ioctl(&b, cpu, KVM_SET_DEBUGREGS, &d);
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 1, "L10 with the breakpoint gone the handler runs");
	gone();
}

/* ---- never flagged --------------------------------------------------------------------------------------------- */

BOARD_ASM(cli_jmp, 32, "cli; 1: jmp 1b");
BOARD_ASM(rep_movs, 32, "cli; cld; mov $0x10000000, %ecx; 1: mov $0x100000, %esi; mov $0x200000, %edi; push %ecx;"
	  "mov $0x40000, %ecx; rep movsl; pop %ecx; sub $0x40000, %ecx; jnz 1b; mov $1, %al; out %al, $0xf4; hlt");
BOARD_ASM(hlt_off, 32, "cli; 1: hlt; jmp 1b");
/* #UD, #DE, #GP, #NP in turn, each handler skipping the instruction: 200000 faults. */
BOARD_ASM(faulting, 32, "mov $50000, %ecx; 1: ud2; .byte 0xf7, 0xf3; mov $0xfff8, %ax; .byte 0x8e, 0xd8; ud2;"
	  "dec %ecx; jnz 1b; mov $1, %al; out %al, $0xf4; hlt");
BOARD_ASM(skip_two, 32, "addl $2, (%esp); iret");
BOARD_ASM(skip_two_error, 32, "add $4, %esp; addl $2, (%esp); iret");

static void innocent(const char *name, const u8 *code, const u8 *end, unsigned int ms, int expect)
{
	int cpu, r;

	fresh("intercepts=drop");
	enable_notify(0, NOTIFY_ON_USER);
	cpu = new_cpu(BOARD_PROT32);
	board_load(&b, cpu, code, end);
	PUT_HANDLER(BOARD_PROT32, 0, 0x50000, skip_two, 0);
	PUT_HANDLER(BOARD_PROT32, 6, 0x50000, skip_two, 0);
	PUT_HANDLER(BOARD_PROT32, 13, 0x50100, skip_two_error, 0);
	r = board_run(&b, cpu, ms);
	is(r, expect, "%s: ends as it should", name);
	is(notify_exits(cpu), 0, "%s: no notify exit", name);
	gone();
}

/* ---- what KVM does with it --------------------------------------------------------------------------------------- */

static void silent(void)
{
	int cpu, fd;

	fresh(DROP);
	enable_notify(0, NOTIFY_ON);
	fd = casement_departures(b.vm, CASEMENT_JSON);
	cpu = ac_loop();
	is(board_run(&b, cpu, 500), -ETIMEDOUT, "N27 without USER KVM_RUN does not return");
	ok(notify_exits(cpu) > 1, "N27 but exits are counted: %llu", (unsigned long long)notify_exits(cpu));
	departures(fd, lines, sizeof(lines));
	ok(strstr(lines, "\"kind\":\"notify-exit\"") && strstr(lines, "\"rip\":\"0x40000\"") &&
		   strstr(lines, "\"cpl\":3") && strstr(lines, "\"vectoring\":\"0x80000b11\"") &&
		   strstr(lines, "\"cause\":\"0x200000000\""),
	   "N39 each is recorded with RIP, CPL, vectoring and how many there were in a row");
	close(fd);
	is(casement_inject(b.vm, "context-invalid:flag", NULL, 0), 0, "inject");
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N29 an invalid context is always told");
	is(b.cpu[cpu].run->notify.flags, KVM_NOTIFY_CONTEXT_INVALID, "N29 with its flag");
	is(board_run(&b, cpu, 100), -ETIMEDOUT, "parity: the vCPU may be run again");
	gone();

	fresh(DROP ",fidelity=strict");
	enable_notify(0, NOTIFY_ON);
	cpu = ac_loop();
	casement_inject(b.vm, "context-invalid:corrupt", NULL, 0);
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "strict: an invalid context is told");
	ok(rip(cpu) != board_code_at(cpu), "and corrupt when it should be");
	is(board_run(&b, cpu, 5000), KVM_EXIT_FAIL_ENTRY, "strict: it is not entered again");
	gone();
}

/* Repeats count while nothing is retired, and begin anew after progress. */
static void repeats(void)
{
	struct kvm_debugregs d;
	struct kvm_regs r;
	int cpu, fd;

	fresh(DROP);
	enable_notify(0, NOTIFY_ON_USER);
	fd = casement_departures(b.vm, CASEMENT_JSON);
	cpu = db_loop();
	board_run(&b, cpu, 5000);
	board_run(&b, cpu, 5000);
	board_cpu_ioctl(&b, cpu, KVM_GET_DEBUGREGS, &d);
	d.dr7 = 0x400;
	board_cpu_ioctl(&b, cpu, KVM_SET_DEBUGREGS, &d);
	board_run_out(&b, cpu, BOARD_PORT, 2000);
	board_watch(&b, cpu, 0, BOARD_IDT + 16, 3, 8);
	board_get_regs(&b, cpu, &r);
	r.rip = board_code_at(cpu);
	board_set_regs(&b, cpu, &r);
	board_run(&b, cpu, 5000);
	departures(fd, lines, sizeof(lines));
	close(fd);
	ok(strstr(lines, "\"cause\":\"0x200000000\""), "N39 the second in a row is number 2");
	{
		char *last = strstr(lines, "\"cause\":\"0x200000000\"");

		ok(last && strstr(last, "\"cause\":\"0x100000000\""), "N39 after progress it is number 1 again");
	}
	gone();
}

/* IRET had unblocked NMIs: they are blocked again, so a queued one waits. */
static void nmi_unblock(const char *options, bool vectoring, bool blocked, const char *name)
{
	int cpu;

	fresh(options);
	enable_notify(0, NOTIFY_ON_USER);
	if (vectoring) {
		cpu = ac_loop();
	} else {
		cpu = new_cpu(BOARD_PROT32);
		board_code(&b, cpu, cli_jmp);
		casement_inject(b.vm, "wedge:0:notify", NULL, 0);
	}
	casement_inject(b.vm, "nmi-unblock", NULL, 0);
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "%s: a notify exit", name);
	is(events(cpu).nmi.masked, blocked, "%s: blocking by NMI is %s", name, blocked ? "set" : "clear");
	gone();
}

BOARD_ASM(wait_nmi, 32, "1: jmp 1b");
BOARD_ASM(iret_first, 32, "pushfl; push %cs; push $0x40100; iret");

static void nmi_waits(void)
{
	struct kvm_regs r;
	int cpu;

	fresh(DROP);
	enable_notify(0, NOTIFY_ON_USER);
	cpu = new_cpu(BOARD_PROT32);
	board_code(&b, cpu, wait_nmi);
	memcpy(b.ram + 0x40100, wait_nmi, 2);
	casement_inject(b.vm, "wedge:0:notify+nmi-unblock", NULL, 0);
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N30 bit 12");
	board_cpu_ioctl(&b, cpu, KVM_NMI, NULL);
	is(board_run(&b, cpu, 30), -ETIMEDOUT, "N30 a queued NMI waits");
	memcpy(b.ram + 0x40200, iret_first, (size_t)(iret_first_end - iret_first));
	board_get_regs(&b, cpu, &r);
	r.rip = 0x40200;
	board_set_regs(&b, cpu, &r);
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 2, "N30 until IRET");
	gone();
}

/* ---- interrupted deliveries ------------------------------------------------------------------ */

BOARD_ASM(count_event, 32, "incl 0x30100; mov $0x40, %al; out %al, $0xf4; 1: jmp 1b");

static void reinject(void)
{
	struct kvm_interrupt irq = { .irq = 0x40 };
	int cpu;

	fresh(DROP);
	enable_notify(0, NOTIFY_ON_USER);
	cpu = ac_loop();
	memcpy(b.ram + 0x50000, count_event, (size_t)(count_event_end - count_event));
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N32 an exit in the middle of a delivery");
	board_gate(&b, BOARD_PROT32, 17, SEL_CODE0, 0x50000, GATE_INT32, 0, 0);
	memcpy(b.ram + board_code_at(cpu), "\xeb\xfe", 2); /* what raised it is gone */
	is(board_run_out(&b, cpu, 0xf4, 2000), 0x40, "N32 the event is delivered, no internal error");
	board_run(&b, cpu, 30);
	is(board_get(&b, 0x30100, 4), 1, "N32 exactly once");
	gone();

	fresh(DROP);
	enable_notify(0, NOTIFY_ON_USER);
	cpu = new_cpu(BOARD_PROT32);
	board_code(&b, cpu, wait_nmi);
	PUT_HANDLER(BOARD_PROT32, 0x40, 0x50000, count_event, 0);
	board_flags(&b, cpu, 0x200);
	board_cpu_ioctl(&b, cpu, KVM_INTERRUPT, &irq);
	casement_inject(b.vm, "wedge:0:notify", NULL, 0);
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N32 an exit before an interrupt is delivered");
	ok(events(cpu).interrupt.injected && events(cpu).interrupt.nr == 0x40, "N32 it is still injected");
	is(board_run_out(&b, cpu, 0xf4, 2000), 0x40, "N32 and delivered");
	board_run(&b, cpu, 30);
	is(board_get(&b, 0x30100, 4), 1, "N32 once");
	gone();

	fresh(DROP ",fidelity=strict");
	enable_notify(0, NOTIFY_ON_USER);
	cpu = ac_loop();
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N32 strict: a notify exit");
	ok(!events(cpu).exception.injected && !events(cpu).exception.pending, "N32 strict: no vectoring is recorded");
	board_gate(&b, BOARD_PROT32, 17, SEL_CODE0, BOARD_HANDLERS + 17 * 16, GATE_INT32, 0, 0);
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 17, "N32 strict: the instruction raises its event again");
	gone();
}

/* ---- broken from outside --------------------------------------------------------------------- */

static void *break_gate(void *arg)
{
	usleep(20000);
	b.ram[BOARD_IDT + 17 * 8 + 5] &= 0x7f; /* not present */
	return NULL;
}

/* The other vCPU's guest code does it. */
BOARD_ASM(breaker, 32,
	  "mov $20000000, %ecx; 1: dec %ecx; jnz 1b; andb $0x7f, 0x208d; mov $0xbb, %al; out %al, "
	  "$0xf4; hlt");

static void *run_breaker(void *arg)
{
	board_run_out(&b, 1, 0xf4, 5000);
	return NULL;
}

static void broken(bool device)
{
	const char *id = device ? "N35 a device's write" : "N34 another vCPU";
	pthread_t t;
	int cpu;
	u64 before;

	fresh("intercepts=drop");
	enable_notify(0, NOTIFY_ON);
	cpu = ac_loop();
	if (!device)
		board_code(&b, new_cpu(BOARD_PROT32), breaker);
	pthread_create(&t, NULL, device ? break_gate : run_breaker, NULL);
	is(board_run_out(&b, cpu, BOARD_PORT, 5000), 11, "%s marks the gate not present: #NP ends the loop", id);
	before = notify_exits(cpu);
	board_run(&b, cpu, 30);
	is(notify_exits(cpu), before, "%s: no notify exit after that", id);
	pthread_join(t, NULL);
	gone();
}

/* ---- intercepts ------------------------------------------------------------------------------ */

static void intercepts(void)
{
	struct kvm_run *run;
	int cpu;

	fresh("clock=virtual");
	enable_notify(0, NOTIFY_ON_USER);
	cpu = ac_loop();
	is(board_run(&b, cpu, 5000), KVM_EXIT_INTERNAL_ERROR, "N36 intercepted as Linux does: an internal error");
	run = b.cpu[cpu].run;
	ok(run->internal.suberror == KVM_INTERNAL_ERROR_SIMUL_EX && run->internal.ndata == 4 &&
		   run->internal.data[0] == 0x80000b11 && run->internal.data[1] == 0x80000b11,
	   "N36 SIMUL_EX with vectoring information, vector 17");
	is(notify_exits(cpu), 0, "N36 and no notify exit");
	gone();
	fresh(DROP);
	enable_notify(0, NOTIFY_ON_USER);
	cpu = ac_loop();
	is(board_run(&b, cpu, 5000), KVM_EXIT_NOTIFY, "N37 intercepts dropped as Xen does: a notify exit");
	gone();
	fresh("clock=virtual");
	enable_notify(0, NOTIFY_ON_USER);
	cpu = db_loop();
	is(board_run(&b, cpu, 100), -ETIMEDOUT, "an intercepted #DB loop goes on, and the host gets in");
	is(notify_exits(cpu), 0, "each #DB is an exit: no window is missed");
	gone();
}

int main(void)
{
	ac_exit();
	crystal();
	db_exit();
	innocent("N22 CLI and JMP to itself", cli_jmp, cli_jmp_end, 600, -ETIMEDOUT);
	innocent("N23 REP MOVS of 1 GiB with IF=0", rep_movs, rep_movs_end, 20000, KVM_EXIT_IO);
	innocent("N24 HLT with IF=0", hlt_off, hlt_off_end, 300, KVM_EXIT_HLT);
	innocent("N25 faults that progress", faulting, faulting_end, 20000, KVM_EXIT_IO);
	silent();
	repeats();
	nmi_unblock(DROP, false, true, "N30 virtual NMIs");
	nmi_unblock(DROP ",vnmi=off", false, false, "N31 no virtual NMIs");
	nmi_unblock(DROP ",fidelity=strict", true, false, "N33 strict, with vectoring");
	nmi_unblock(DROP, true, true, "N33 parity, with vectoring");
	nmi_waits();
	reinject();
	broken(false);
	broken(true);
	intercepts();
	return done_testing();
}
