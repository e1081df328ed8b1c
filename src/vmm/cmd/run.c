/* SPDX-License-Identifier: MIT */
/*
 * casement run: build the machine the options describe, run it, say how it ended.
 */
#include "vmm/cmd/cmd.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "vmm/dev/dev.h"
#include "vmm/host/term.h"
#include "vmm/load/load.h"
#include "vmm/vmm.h"
#include "vmm/worker.h"

/* Too large for a stack, and there is one. */
static struct vm the_vm;
static int signal_fd = -1, timeout_fd = -1;

static int check_options(const struct run_options *o)
{
	struct sysinfo si;

	if (!o->kernel)
		return vmm_error(EXIT_USAGE, "no kernel: give one with -k (see casement run --help)");
	if (strcmp(o->console, "serial") && strcmp(o->console, "virtio"))
		return vmm_error(EXIT_USAGE, "--console: '%s' is neither serial nor virtio", o->console);
	if (o->mem % 4096)
		return vmm_error(EXIT_USAGE, "--mem: not a multiple of 4K");
	if (!sysinfo(&si) && o->mem > ((u64)si.totalram + si.totalswap) * si.mem_unit)
		return vmm_error(EXIT_USAGE, "--mem: %llu MiB are more than this host's %llu MiB",
				 (unsigned long long)o->mem >> 20,
				 (unsigned long long)(((u64)si.totalram + si.totalswap) * si.mem_unit) >> 20);
	return 0;
}

static void on_signal(void *arg, u32 events)
{
	struct vm *vm = arg;
	struct signalfd_siginfo si;

	if (read(signal_fd, &si, sizeof(si)) != sizeof(si))
		return;
	if (!atomic_load(&vm->stopping))
		vm->exit_signal = (int)si.ssi_signo;
	vmm_stop(vm, 128 + (int)si.ssi_signo, "ended by signal %u", si.ssi_signo);
}

static void on_timeout(void *arg, u32 events)
{
	struct vm *vm = arg;

	vmm_stop(vm, EXIT_CONTAINED, "stopped: --timeout of %llu seconds is over",
		 (unsigned long long)vm->opt->timeout);
}

/* Before any thread exists, so that all inherit the mask: signals are the main thread's, through a descriptor. */
static int watch_signals(struct vm *vm)
{
	static const int mine[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(mine); i++)
		sigaddset(&set, mine[i]);
	signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	sigaddset(&set, SIG_KICK);
	sigaddset(&set, SIGTTOU);
	sigaddset(&set, SIGTTIN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (signal_fd < 0 || !loop_add(&vm->loop, signal_fd, EPOLLIN, on_signal, vm))
		return vmm_error(EXIT_HOST, "signals: %s", strerror(errno));
	return 0;
}

static int start_timeout(struct vm *vm)
{
	struct itimerspec t = { .it_value.tv_sec = (time_t)vm->opt->timeout };

	if (!vm->opt->timeout)
		return 0;
	timeout_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (timeout_fd < 0 || timerfd_settime(timeout_fd, 0, &t, NULL) ||
	    !loop_add(&vm->loop, timeout_fd, EPOLLIN, on_timeout, vm))
		return vmm_error(EXIT_HOST, "--timeout: %s", strerror(errno));
	return 0;
}

static int create_board(struct vm *vm, bool serial_console)
{
	i8042_create(vm);
	if (vm->opt->debug_exit)
		debug_exit_create(vm);
	if (vm->opt->debug_port)
		debug_port_create(vm);
	vm->serial = serial_create(vm, serial_console);
	vm->rtc = rtc_create(vm);
	vm->pm = acpi_pm_create(vm);
	vm->pci = pci_create(vm);
	if (!vm->serial || !vm->rtc || !vm->pm || !vm->pci)
		return vmm_error(EXIT_HOST, "no memory for the board");
	return 0;
}

static int create_devices(struct vm *vm, struct console_sink *sink)
{
	const struct run_options *o = vm->opt;
	bool serial = !strcmp(o->console, "serial");
	int rc = create_board(vm, serial);

	if (rc)
		return rc;
	*sink = serial_sink(vm->serial);
	for (unsigned int i = 0; i < o->disk.n && !rc; i++)
		rc = vioblk_create(vm, o->disk.item[i]);
	if (!rc && o->net)
		rc = vionet_create(vm, o->net);
	if (!rc && !serial)
		rc = viocon_create(vm, sink);
	if (!rc && o->rng)
		rc = viornd_create(vm);
	return rc;
}

/* Everything that can be wrong with the user's files is found before KVM is opened. */
static int prepare(struct vm *vm, struct boot *b, struct console_sink *sink)
{
	int rc = check_options(vm->opt);

	if (!rc)
		rc = vmm_accel(vm);
	if (rc)
		return rc;
	rc = ram_create(&vm->ram, vm->opt->mem);
	if (rc)
		return vmm_error(EXIT_HOST, "cannot map %llu MiB of guest memory: %s",
				 (unsigned long long)vm->opt->mem >> 20, strerror(-rc));
	rc = loop_create(&vm->loop);
	if (rc)
		return vmm_error(EXIT_HOST, "event loop: %s", strerror(-rc));
	b->rsdp = acpi_build(&vm->ram, (unsigned int)vm->opt->cpus);
	rc = load_kernel(vm, b);
	if (!rc)
		rc = watch_signals(vm);
	if (!rc)
		rc = create_devices(vm, sink);
	return rc;
}

static int start(struct vm *vm, const struct boot *b, struct console_sink sink)
{
	int rc = vmm_create(vm);

	if (!rc)
		rc = vmm_vcpu_boot(&vm->cpu[0], b);
	if (!rc)
		rc = console_open(vm, sink);
	if (!rc)
		rc = start_timeout(vm);
	if (!rc)
		rc = vmm_watch_departures(vm);
	if (rc)
		return rc;
	rc = workers_start();
	if (rc)
		return vmm_error(EXIT_HOST, "cannot start a thread: %s", strerror(-rc));
	return vmm_start(vm);
}

static void print_stats(struct vm *vm)
{
	static const char *const name[64] = {
		[KVM_EXIT_IO] = "io", [KVM_EXIT_MMIO] = "mmio", [KVM_EXIT_HLT] = "hlt", [KVM_EXIT_INTR] = "intr",
		[KVM_EXIT_SHUTDOWN] = "shutdown", [KVM_EXIT_INTERNAL_ERROR] = "internal-error",
		[KVM_EXIT_SYSTEM_EVENT] = "system-event", [KVM_EXIT_NOTIFY] = "notify",
		[KVM_EXIT_X86_BUS_LOCK] = "bus-lock",
	};

	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		fprintf(stderr, "casement: cpu %u exits:", i);
		for (unsigned int e = 0; e < 64; e++)
			if (vm->cpu[i].exits[e])
				fprintf(stderr, " %s %llu", name[e] ? name[e] : "other",
					(unsigned long long)vm->cpu[i].exits[e]);
		fprintf(stderr, "\n");
	}
	fprintf(stderr, "casement: notify exits %llu, bus locks %llu\n",
		(unsigned long long)atomic_load(&vm->notify_count),
		(unsigned long long)atomic_load(&vm->bus_lock_count));
}

/* A signal ends us as it would have without us, so that the shell sees it. */
static void die_of(int sig)
{
	sigset_t set;

	signal(sig, SIG_DFL);
	raise(sig);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static int finish(struct vm *vm)
{
	bool clean = workers_stop();

	clean &= vmm_join(vm);
	console_close();
	vmm_log_departures(vm, 0);
	if (vm->exit_reason[0])
		fprintf(stderr, "casement: %s\n", vm->exit_reason);
	if (vm->opt->stats)
		print_stats(vm);
	fflush(NULL);
	if (!clean) {
		/* A thread still uses the VM: leave without taking it apart. */
		vmm_error(EXIT_HOST, "a thread did not stop within its time");
		_exit(vm->exit_code ? vm->exit_code : EXIT_HOST);
	}
	vmm_destroy(vm);
	if (vm->exit_signal)
		die_of(vm->exit_signal);
	return vm->exit_code;
}

int cmd_run(int argc, char **argv)
{
	static struct run_options opt;
	struct vm *vm = &the_vm;
	struct console_sink sink;
	struct boot boot;
	int rc = opt_parse(&opt, argc, argv);

	if (rc)
		return rc;
	if (opt.help) {
		opt_help(stdout);
		return 0;
	}
	vm->opt = &opt;
	memset(&boot, 0, sizeof(boot));
	rc = prepare(vm, &boot, &sink);
	if (!rc)
		rc = start(vm, &boot, sink);
	if (rc) {
		vmm_stop(vm, rc, NULL);
		workers_stop();
		vmm_join(vm);
		console_close();
		return rc;
	}
	loop_run(&vm->loop);
	return finish(vm);
}
