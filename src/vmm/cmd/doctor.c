/* SPDX-License-Identifier: MIT */
/*
 * casement doctor: what this host offers, in one screen or as JSON.
 *
 * A /dev/kvm that opens proves nothing: some cannot run 64-bit code, some only what their instruction emulator
 * knows. So each accelerator runs two tiny guests, each in a child that may hang or die.
 */
#include "vmm/cmd/cmd.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>
#include "vmm/load/load.h"
#include "vmm/vmm.h"

#define PROBE_MS 5000
#define PROBE_PORT 0xf4
#define PROBE_MAGIC 0x5a

/* mov $PROBE_MAGIC, %al; push %rax; pop %rbx; mov %bl, %al; out %al, $PROBE_PORT; hlt */
static const u8 guest_long[] = { 0xb0, PROBE_MAGIC, 0x50, 0x5b, 0x88, 0xd8, 0xe6, PROBE_PORT, 0xf4 };
/* lock cmpxchg16b -64(%rsp), which every stock kernel executes early; then the same */
static const u8 guest_stock[] = {
	0x48, 0x83, 0xe4, 0xf0, 0xf0, 0x48, 0x0f, 0xc7, 0x4c, 0x24, 0xc0,
	0xb0, PROBE_MAGIC, 0xe6, PROBE_PORT, 0xf4,
};

/* The answer of a child, or why there is none. */
struct probe {
	bool good;
	char why[96];
};

struct accel_report {
	const char *name;
	bool present, openable;
	char why[96];
	int api;
	struct probe guest64, stock;
	int nr_vcpus;
	bool notify, bus_lock, nested, smm;
};

struct report {
	struct accel_report kvm, engine;
	char cpu[49], vendor[13];
	bool exec_memory;
	u64 mem_total, mem_free;
	int host_cpus;
};

static void say(int fd, const char *text)
{
	if (write(fd, text, strlen(text)) < 0)
		_exit(1);
}

/* In the child: an empty text means it worked. */
static void run_guest(const char *accel, const u8 *code, size_t size, int out)
{
	static struct run_options opt;
	static struct vm vm;
	const struct boot b = { .mode = BOOT_LONG64, .rip = BOOT_HIGH, .rsp = BOOT_STACK };
	char text[96];
	int rc;

	opt.accel = accel;
	opt.cpus = 1;
	vm.opt = &opt;
	if (ram_create(&vm.ram, 4 << 20) || !ram_write(&vm.ram, BOOT_HIGH, code, size)) {
		say(out, "no memory");
		return;
	}
	place_boot_tables(&vm.ram);
	if (vmm_accel(&vm) || vmm_create(&vm) || vmm_vcpu_boot(&vm.cpu[0], &b)) {
		say(out, "the VM cannot be created");
		return;
	}
	do {
		rc = call_ioctl(vm.kvm, vm.cpu[0].fd, KVM_RUN, 0);
	} while (rc == -EINTR);
	if (rc) {
		snprintf(text, sizeof(text), "KVM_RUN: %s", strerror(-rc));
		say(out, text);
		return;
	}
	if (vm.cpu[0].run->exit_reason == KVM_EXIT_IO && vm.cpu[0].run->io.port == PROBE_PORT &&
	    *((u8 *)vm.cpu[0].run + vm.cpu[0].run->io.data_offset) == PROBE_MAGIC)
		return;
	snprintf(text, sizeof(text), "KVM exit %u%s", vm.cpu[0].run->exit_reason,
		 vm.cpu[0].run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? " (internal error)" : "");
	say(out, text);
}

static struct probe collect(pid_t pid, int in)
{
	struct probe p = { .good = false };
	struct pollfd pfd = { .fd = in, .events = POLLIN };
	size_t n = 0;
	int status;

	for (;;) {
		ssize_t got;

		if (poll(&pfd, 1, PROBE_MS) <= 0) {
			kill(pid, SIGKILL);
			snprintf(p.why, sizeof(p.why), "the guest did not answer in %d seconds", PROBE_MS / 1000);
			n = 0;
			break;
		}
		got = read(in, p.why + n, sizeof(p.why) - 1 - n);
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	if (waitpid(pid, &status, 0) == pid && !p.why[0] && WIFSIGNALED(status))
		snprintf(p.why, sizeof(p.why), "the probe died of signal %d", WTERMSIG(status));
	p.good = !p.why[0];
	return p;
}

static struct probe probe(const char *accel, const u8 *code, size_t size)
{
	struct probe p = { .why = "cannot start a child" };
	int fd[2];
	pid_t pid;

	if (pipe(fd))
		return p;
	fflush(NULL);
	pid = fork();
	if (!pid) {
		int null = open("/dev/null", O_WRONLY);

		dup2(null, STDERR_FILENO);
		close(fd[0]);
		run_guest(accel, code, size, fd[1]);
		_exit(0);
	}
	close(fd[1]);
	if (pid > 0)
		p = collect(pid, fd[0]);
	close(fd[0]);
	return p;
}

static bool cap(const struct kvm_call *k, int fd, int number)
{
	return call_ioctl(k, fd, KVM_CHECK_EXTENSION, (unsigned long)number) > 0;
}

static void examine(struct accel_report *a, const char *name)
{
	const struct kvm_call *k = kvm_call_find(name);
	int fd;

	a->name = name;
	if (!k) {
		snprintf(a->why, sizeof(a->why), "not in this program");
		return;
	}
	a->present = !k->path || !access(k->path, F_OK);
	fd = k->open(k->path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		snprintf(a->why, sizeof(a->why), "%s", strerror(errno));
		return;
	}
	a->openable = true;
	a->api = call_ioctl(k, fd, KVM_GET_API_VERSION, 0);
	a->nr_vcpus = call_ioctl(k, fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	a->notify = cap(k, fd, KVM_CAP_X86_NOTIFY_VMEXIT);
	a->bus_lock = cap(k, fd, KVM_CAP_X86_BUS_LOCK_EXIT);
	a->nested = cap(k, fd, KVM_CAP_NESTED_STATE);
	a->smm = cap(k, fd, KVM_CAP_X86_SMM);
	k->close(fd);
	a->guest64 = probe(name, guest_long, sizeof(guest_long));
	if (a->guest64.good)
		a->stock = probe(name, guest_stock, sizeof(guest_stock));
	else
		snprintf(a->stock.why, sizeof(a->stock.why), "no 64-bit guest");
}

/* The engine's code cache: one file, mapped writable here and executable there. */
static bool may_execute(void)
{
	int fd = memfd_create("casement-doctor", MFD_CLOEXEC);
	void *p = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, 4096))
		p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (p != MAP_FAILED)
		munmap(p, 4096);
	if (fd >= 0)
		close(fd);
	return p != MAP_FAILED;
}

static void examine_host(struct report *r)
{
	struct sysinfo si;
	u32 regs[4];
	u32 a, b, c, d;

	__cpuid(0, a, b, c, d);
	memcpy(r->vendor, &b, 4);
	memcpy(r->vendor + 4, &d, 4);
	memcpy(r->vendor + 8, &c, 4);
	for (u32 i = 0; i < 3; i++) {
		__cpuid(0x80000002 + i, regs[0], regs[1], regs[2], regs[3]);
		memcpy(r->cpu + 16 * i, regs, 16);
	}
	for (char *p = r->cpu; *p; p++)
		if (*p < ' ' || *p == '"' || *p == '\\')
			*p = ' ';
	r->exec_memory = may_execute();
	r->host_cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	if (!sysinfo(&si)) {
		r->mem_total = (u64)si.totalram * si.mem_unit;
		r->mem_free = (u64)(si.freeram + si.bufferram) * si.mem_unit;
	}
}

/* Features that decide which programs run in a guest: CPUID shown to it is never more than the host's. */
#define FEATURES(F) F("sse4.2") F("popcnt") F("avx") F("avx2") F("fma") F("bmi2") F("aes") F("avx512f")

static void print_accel_text(const struct accel_report *a, const char *title)
{
	printf("%s\n", title);
	printf("  present          %s\n", a->present ? "yes" : "no");
	if (!a->openable) {
		printf("  opens            no: %s\n", a->why);
		if (a->present && !strcmp(a->why, strerror(EACCES)))
			printf("                   join the kvm group: sudo usermod -aG kvm $USER, "
			       "then log in again\n");
		return;
	}
	printf("  opens            yes, API %d, up to %d processors\n", a->api, a->nr_vcpus);
	printf("  64-bit guest     %s%s\n", a->guest64.good ? "runs" : "no: ", a->guest64.why);
	printf("  stock kernels    %s%s\n", a->stock.good ? "nothing found against them" : "no: ", a->stock.why);
	printf("  capabilities     notify exit %s, bus-lock exit %s, nested state %s, SMM %s\n",
	       a->notify ? "yes" : "no", a->bus_lock ? "yes" : "no", a->nested ? "yes" : "no",
	       a->smm ? "yes" : "no");
}

static void print_text(const struct report *r)
{
	printf("casement " CASEMENT_VERSION "\n\nhost\n");
	printf("  processor        %s (%s), %d online\n ", r->cpu, r->vendor, r->host_cpus);
#define F(name) printf(" %s%s", __builtin_cpu_supports(name) ? "" : "no-", name);
	printf(" features        ");
	FEATURES(F)
#undef F
	printf("\n  memory           %llu MiB, %llu MiB free\n", (unsigned long long)r->mem_total >> 20,
	       (unsigned long long)r->mem_free >> 20);
	printf("  executable maps  %s\n\n",
	       r->exec_memory ? "allowed" : "forbidden: the software processor cannot run");
	print_accel_text(&r->engine, "software processor (--accel casement)");
	printf("\n");
	print_accel_text(&r->kvm, "/dev/kvm (--accel kvm)");
	printf("\n");
	if (r->engine.stock.good)
		printf("casement run works here, without /dev/kvm.\n");
	if (r->kvm.stock.good)
		printf("casement run --accel kvm works here too.\n");
	else if (r->kvm.openable)
		printf("This /dev/kvm cannot run stock kernels: use the software processor.\n");
}

static const char *truth(bool b)
{
	return b ? "true" : "false";
}

static void print_accel_json(const struct accel_report *a, const char *key)
{
	printf("  \"%s\": {\"present\": %s, \"openable\": %s, \"reason\": \"%s\", \"api\": %d, "
	       "\"max_vcpus\": %d,\n",
	       key, truth(a->present), truth(a->openable), a->why, a->api, a->nr_vcpus);
	printf("    \"guest64\": %s, \"guest64_reason\": \"%s\", \"stock_kernel\": %s, "
	       "\"stock_kernel_reason\": \"%s\",\n",
	       truth(a->guest64.good), a->guest64.why, truth(a->stock.good), a->stock.why);
	printf("    \"notify_vmexit\": %s, \"bus_lock_exit\": %s, \"nested_state\": %s, \"smm\": "
	       "%s},\n",
	       truth(a->notify), truth(a->bus_lock), truth(a->nested), truth(a->smm));
}

static void print_json(const struct report *r, bool good)
{
	const char *sep = "";

	printf("{\n  \"version\": \"" CASEMENT_VERSION "\",\n");
	print_accel_json(&r->engine, "casement");
	print_accel_json(&r->kvm, "kvm");
	printf("  \"cpu\": {\"vendor\": \"%s\", \"model\": \"%s\", \"online\": %d, \"features\": {", r->vendor, r->cpu,
	       r->host_cpus);
#define F(name) printf("%s\"%s\": %s", sep, name, truth(__builtin_cpu_supports(name))); sep = ", ";
	FEATURES(F)
#undef F
	printf("}},\n  \"memory\": {\"total\": %llu, \"free\": %llu},\n", (unsigned long long)r->mem_total,
	       (unsigned long long)r->mem_free);
	printf("  \"executable_maps\": %s,\n  \"can_run\": %s\n}\n", truth(r->exec_memory), truth(good));
}

int cmd_doctor(int argc, char **argv)
{
	static struct report r;
	bool json = argc == 1 && !strcmp(argv[0], "--json");
	bool good;

	if (argc && !json)
		return vmm_error(EXIT_USAGE, "doctor: unknown argument '%s' (there is only --json)", argv[0]);
	examine(&r.engine, "casement");
	examine(&r.kvm, "kvm");
	examine_host(&r);
	good = r.engine.stock.good || r.kvm.stock.good;
	if (json)
		print_json(&r, good);
	else
		print_text(&r);
	return good ? 0 : EXIT_HOST;
}
