/* SPDX-License-Identifier: MIT */
/* Fault injection by every door: the C call, the option, the control socket. */
#include "vm.h"

#include <sys/socket.h>
#include <sys/un.h>

static int cpu;
static char err[1024];
static siginfo_t bus_info;
static _Atomic int bus_signals;

BOARD_ASM(spin, 32, "1: jmp 1b");
BOARD_ASM(read_page, 32, "mov 0x100010, %eax; mov $1, %al; out %al, $0xf4; hlt");

static void start(const char *options)
{
	fresh(options);
	cpu = new_cpu(BOARD_PROT32);
}

static void language(void)
{
	static const char *const bad[] = { "", "wedge", "wedge:0", "wedge:x:5", "wedge:0:0", "f00f", "context-invalid",
		"context-invalid:maybe", "nmi-unblock:1", "mce", "poison:x", "ioctl:KVM_RUN:EINTR", "ioctl:NO:EINTR:1",
		"ioctl:KVM_RUN:ENOSUCH:1", "ioctl:KVM_RUN:EINTR:0", "wedge:0:5+nonsense", "wedge:0:5:6:7" };

	start("");
	for (size_t i = 1; i < ARRAY_SIZE(bad); i++) {
		err[0] = 0;
		ok(casement_inject(b.vm, bad[i], err, sizeof(err)) < 0 && errno == EINVAL && strstr(err, "wedge:VCPU"),
		   "'%s' is refused with what is accepted", bad[i]);
	}
	ok(casement_inject(b.vm, "wedge:7:5", err, sizeof(err)) < 0 && strstr(err, "no such vCPU"),
	   "no such vCPU: %s", err);
	ok(casement_inject(0, "nmi-unblock", err, sizeof(err)) < 0 && errno == EBADF, "not a VM");
	ok(casement_set_options("inject=nonsense", err, sizeof(err)) < 0,
	   "the option is looked at when it is given: %s", err);
	gone();
}

static void wedge(void)
{
	double t;

	start("");
	board_code(&b, cpu, spin);
	board_flags(&b, cpu, 0x200);
	is(casement_inject(b.vm, "wedge:0:2500000", err, sizeof(err)), 0, "wedge for 2500000 ticks, 100 ms");
	board_cpu_ioctl(&b, cpu, KVM_NMI, NULL);
	t = board_now();
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 2, "an NMI gets in");
	t = board_now() - t;
	ok(t > 0.099 && t < 0.3, "after these 100 ms (%.1f)", t * 1e3);
	gone();
}

static void ioctls(void)
{
	struct kvm_regs r;

	start("");
	is(casement_inject(b.vm, "ioctl:KVM_GET_REGS:ENOMEM:3", err, sizeof(err)), 0,
	   "the third KVM_GET_REGS is to fail");
	is(board_cpu_ioctl(&b, cpu, KVM_GET_REGS, &r), 0, "the first does not");
	is(board_cpu_ioctl(&b, cpu, KVM_GET_REGS, &r), 0, "nor the second");
	is(board_cpu_ioctl(&b, cpu, KVM_GET_REGS, &r), -ENOMEM, "the third does");
	is(board_cpu_ioctl(&b, cpu, KVM_GET_REGS, &r), 0, "the fourth does not");
	is(casement_inject(b.vm, "ioctl:KVM_CREATE_VCPU:EMFILE:1", err, sizeof(err)), 0, "a VM's ioctl");
	is(board_cpu(&b, BOARD_PROT32), -EMFILE, "fails");
	gone();
	set_options("inject=ioctl:KVM_SET_USER_MEMORY_REGION:ENOMEM:1");
	is(board_create(&b, kvm_call_find("casement")), -ENOMEM, "by option, before anything else is possible");
	gone();
}

static void mce(void)
{
	u64 cap = 10 | 1 << 8 | 1 << 24;
	struct kvm_sregs s;

	start("");
	board_code(&b, cpu, spin);
	board_cpu_ioctl(&b, cpu, KVM_X86_SETUP_MCE, &cap);
	board_get_sregs(&b, cpu, &s);
	s.cr4 |= 1 << 6;
	board_set_sregs(&b, cpu, &s);
	casement_inject(b.vm, "mce:0", err, sizeof(err));
	is(board_run_out(&b, cpu, BOARD_PORT, 2000), 18, "a machine check");
	gone();
	start("");
	board_code(&b, cpu, spin);
	board_cpu_ioctl(&b, cpu, KVM_X86_SETUP_MCE, &cap);
	casement_inject(b.vm, "mce:0", err, sizeof(err));
	is(board_run(&b, cpu, 2000), KVM_EXIT_SHUTDOWN, "with CR4.MCE off it is a shutdown");
	gone();
}

static void on_bus(int sig, siginfo_t *si, void *ctx)
{
	bus_info = *si;
	bus_signals++;
}

static void poison(void)
{
	struct sigaction sa = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

	casement_sigaction(SIGBUS, &sa, NULL);
	start("");
	board_code(&b, cpu, read_page);
	is(casement_inject(b.vm, "poison:0x100000", err, sizeof(err)), 0, "poison a page");
	ok(casement_inject(b.vm, "poison:0x40000000", err, sizeof(err)) < 0, "not where no memory is");
	is(board_cpu_ioctl(&b, cpu, KVM_RUN, NULL), -EINTR, "the guest reads it: KVM_RUN ends");
	is(bus_signals, 1, "with SIGBUS");
	ok(bus_info.si_code == BUS_MCEERR_AR && bus_info.si_addr == b.ram + 0x100000 && bus_info.si_addr_lsb == 12,
	   "as the kernel reports poisoned memory");
	is(rip(cpu), board_code_at(cpu), "the access was not made");
	gone();
}

/* ---- the control socket -------------------------------------------------------------------------------- */

static int dial(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	return connect(fd, (struct sockaddr *)&a, sizeof(a)) ? -1 : fd;
}

static const char *ask(int fd, const char *line)
{
	static char answer[1024];
	long n;

	write(fd, line, strlen(line));
	n = read(fd, answer, sizeof(answer) - 1);
	answer[n > 0 ? n : 0] = 0;
	return answer;
}

static void *run_spin(void *arg)
{
	*(int *)arg = board_run(&b, cpu, 5000);
	return NULL;
}

static void control(void)
{
	char path[64], options[160];
	int fd, reason = 0;
	pthread_t t;

	snprintf(path, sizeof(path), "/tmp/casement-control-%d", getpid());
	snprintf(options, sizeof(options), "control=%s,intercepts=drop", path);
	fresh(options);
	/* other VMs of this process came before: theirs would be PATH */
	for (int n = 0; n < 100 && access(path, F_OK); n++)
		snprintf(path, sizeof(path), "/tmp/casement-control-%d.%d", getpid(), n);
	enable_notify(0, NOTIFY_ON_USER);
	cpu = new_cpu(BOARD_PROT32);
	board_code(&b, cpu, spin);
	fd = dial(path);
	ok(fd >= 0, "the control socket answers");
	is_str(ask(fd, "vcpus\n"), "ok 1\n", "vcpus");
	is_str(ask(fd, "get notify-threshold\n"), "ok 131072\n", "get");
	is_str(ask(fd, "set notify-window=5\n"), "ok\n", "set");
	is_str(ask(fd, "get notify-window\n"), "ok 5\n", "has set");
	ok(!strncmp(ask(fd, "set engine=jit\n"), "error ", 6), "not everything");
	ok(!strncmp(ask(fd, "help\n"), "error not one of", 16), "an unknown command lists what there is");
	pthread_create(&t, NULL, run_spin, &reason);
	usleep(20000);
	is_str(ask(fd, "inject context-invalid:flag+wedge:0:notify\n"), "ok\n", "inject while the vCPU runs");
	pthread_join(t, NULL);
	is(reason, KVM_EXIT_NOTIFY, "it is wedged, and KVM_RUN ends in a notify exit");
	is(b.cpu[cpu].run->notify.flags, KVM_NOTIFY_CONTEXT_INVALID, "with an invalid context");
	board_run(&b, cpu, 20);
	ok(strstr(ask(fd, "exits 0\n"), "notify:1:"), "exits by kind");
	ok(!strncmp(ask(fd, "exits 7\n"), "error no vCPU 7", 15), "of a vCPU there is");
	is_str(ask(fd, "departures\n"), "ok notify-invalid:1 inject-hang:1 inject-context-invalid:1\n",
	       "departures by kind");
	snprintf(options, sizeof(options), "%s/casement stat %s | grep -q 'notify  *1 '",
		 getenv("CASEMENT_BUILD") ?: "build", path);
	is(system(options), 0, "casement stat shows them");
	close(fd);
	gone();
	ok(access(path, F_OK), "the socket goes with its VM");
}

int main(void)
{
	language();
	wedge();
	ioctls();
	mce();
	poison();
	control();
	return done_testing();
}
