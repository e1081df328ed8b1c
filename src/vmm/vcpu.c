/* SPDX-License-Identifier: MIT */
/*
 * A virtual processor: made, put into the state its kernel expects, and run.
 */
#include "vmm/vmm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "vmm/load/load.h"


static int set_msrs(struct vcpu *v)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[2];
	} m;

	memset(&m, 0, sizeof(m));
	/* What firmware leaves: fast strings on; MTRRs on, all memory write-back. */
	m.e[0].index = 0x1a0;
	m.e[0].data = 1;
	m.e[1].index = 0x2ff;
	m.e[1].data = 0x806;
	m.head.nmsrs = 2;
	/* KVM stops at the first MSR it does not have: none of them is one a guest cannot live without. */
	return call_ioctl(v->vm->kvm, v->fd, KVM_SET_MSRS, (unsigned long)&m) < 0;
}

/* The 8259 pair reaches the first processor through LINT0 until the guest turns on the I/O APIC. */
static int set_virtual_wire(struct vcpu *v)
{
	struct kvm_lapic_state s;
	const u32 lvt0 = 0x350, lvt1 = 0x360, extint = 7 << 8, nmi = 4 << 8;
	int rc = call_ioctl(v->vm->kvm, v->fd, KVM_GET_LAPIC, (unsigned long)&s);

	if (rc)
		return rc;
	memcpy(&s.regs[lvt0], &extint, 4);
	memcpy(&s.regs[lvt1], &nmi, 4);
	return call_ioctl(v->vm->kvm, v->fd, KVM_SET_LAPIC, (unsigned long)&s);
}

static int set_cpuid(struct vcpu *v, const struct kvm_cpuid2 *supported)
{
	size_t size = sizeof(*supported) + (supported->nent + 8) * sizeof(supported->entries[0]);
	struct kvm_cpuid2 *c = calloc(1, size);
	int rc;

	if (!c)
		return -ENOMEM;
	memcpy(c, supported, sizeof(*c) + supported->nent * sizeof(c->entries[0]));
	vmm_cpuid_fill(c, v->id, v->vm->nr_cpus, vmm_cap(v->vm, KVM_CAP_TSC_DEADLINE_TIMER));
	rc = call_ioctl(v->vm->kvm, v->fd, KVM_SET_CPUID2, (unsigned long)c);
	free(c);
	return rc;
}

int vmm_vcpu_create(struct vcpu *v, const struct kvm_cpuid2 *supported)
{
	struct vm *vm = v->vm;
	void *run;
	int rc;

	v->fd = vmm_ioctl(vm, KVM_CREATE_VCPU, v->id);
	if (v->fd < 0)
		return vmm_error(EXIT_HOST, "KVM_CREATE_VCPU: %s", strerror(-v->fd));
	run = vm->kvm->mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return vmm_error(EXIT_HOST, "mapping the vCPU: %s", strerror(errno));
	v->run = run;
	rc = set_cpuid(v, supported);
	if (rc)
		return vmm_error(EXIT_HOST, "KVM_SET_CPUID2: %s", strerror(-rc));
	if (set_msrs(v))
		return vmm_error(EXIT_HOST, "KVM_SET_MSRS failed");
	rc = v->id ? 0 : set_virtual_wire(v);
	if (rc)
		return vmm_error(EXIT_HOST, "KVM_SET_LAPIC: %s", strerror(-rc));
	return 0;
}

static struct kvm_segment flat_segment(u16 selector, u8 type, bool code64)
{
	return (struct kvm_segment){
		.selector = selector, .limit = 0xffffffffu, .type = type, .present = 1, .s = 1, .g = 1,
		.l = code64, .db = !code64,
	};
}

static void sregs_protected(struct kvm_sregs *s, bool long_mode)
{
	struct kvm_segment data = flat_segment(BOOT_DS, 3, false);

	s->cs = flat_segment(BOOT_CS, 11, long_mode);
	s->ds = s->es = s->ss = s->fs = s->gs = data;
	s->tr = (struct kvm_segment){ .selector = BOOT_TR, .limit = 0x67, .type = 11, .present = 1 };
	s->gdt.base = BOOT_GDT;
	s->gdt.limit = BOOT_GDT_SIZE - 1;
	s->idt.base = 0;
	s->idt.limit = 0;
	s->cr0 = 0x11;	/* PE, ET */
	if (!long_mode)
		return;
	s->cr0 |= 0x80000000u;
	s->cr3 = BOOT_PML4;
	s->cr4 |= 0x20;	/* PAE */
	s->efer |= 0x500;	/* LME, LMA */
}

static void sregs_real(struct kvm_sregs *s)
{
	struct kvm_segment *seg[] = { &s->cs, &s->ds, &s->es, &s->ss, &s->fs, &s->gs };

	for (size_t i = 0; i < ARRAY_SIZE(seg); i++) {
		seg[i]->selector = 0;
		seg[i]->base = 0;
	}
}

int vmm_vcpu_boot(struct vcpu *v, const struct boot *b)
{
	struct kvm_regs r;
	struct kvm_sregs s;
	int rc = call_ioctl(v->vm->kvm, v->fd, KVM_GET_SREGS, (unsigned long)&s);

	if (rc)
		return vmm_error(EXIT_HOST, "KVM_GET_SREGS: %s", strerror(-rc));
	if (b->mode == BOOT_REAL16)
		sregs_real(&s);
	else
		sregs_protected(&s, b->mode == BOOT_LONG64);
	memset(&r, 0, sizeof(r));
	r.rip = b->rip;
	r.rsp = b->rsp;
	r.rax = b->rax;
	r.rbx = b->rbx;
	r.rsi = b->rsi;
	r.rflags = 2;
	rc = call_ioctl(v->vm->kvm, v->fd, KVM_SET_SREGS, (unsigned long)&s);
	if (!rc)
		rc = call_ioctl(v->vm->kvm, v->fd, KVM_SET_REGS, (unsigned long)&r);
	if (rc)
		return vmm_error(EXIT_HOST, "setting the boot registers: %s", strerror(-rc));
	return 0;
}

void vmm_dump(struct vcpu *v)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	if (call_ioctl(v->vm->kvm, v->fd, KVM_GET_REGS, (unsigned long)&r) ||
	    call_ioctl(v->vm->kvm, v->fd, KVM_GET_SREGS, (unsigned long)&s))
		return;
#define U(x) ((unsigned long long)(x))
	fprintf(stderr, "\r\ncasement: cpu %u RIP %04x:%016llx RSP %016llx RFLAGS %llx\r\n"
		"  RAX %016llx RBX %016llx RCX %016llx RDX %016llx\r\n"
		"  CR0 %llx CR2 %llx CR3 %llx CR4 %llx EFER %llx\r\n",
		v->id, s.cs.selector, U(r.rip), U(r.rsp), U(r.rflags), U(r.rax), U(r.rbx), U(r.rcx), U(r.rdx),
		U(s.cr0), U(s.cr2), U(s.cr3), U(s.cr4), U(s.efer));
#undef U
}

static void exit_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	u8 *data = (u8 *)run + run->io.data_offset;
	size_t bytes = (size_t)run->io.size * run->io.count;

	if (run->io.data_offset > v->vm->run_size || bytes > v->vm->run_size - run->io.data_offset) {
		vmm_stop(v->vm, EXIT_HOST, "KVM described a port access outside kvm_run");
		return;
	}
	for (u32 i = 0; i < run->io.count; i++)
		bus_access(&v->vm->pio, run->io.port, data + (size_t)i * run->io.size, run->io.size,
			   run->io.direction == KVM_EXIT_IO_OUT);
}

static void exit_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	if (run->mmio.len <= sizeof(run->mmio.data))
		bus_access(&v->vm->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len, run->mmio.is_write);
}

static void exit_system_event(struct vcpu *v)
{
	switch (v->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vmm_stop(v->vm, EXIT_POWEROFF, NULL);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		vmm_stop(v->vm, EXIT_POWEROFF, "guest asked for a reset");
		break;
	default:
		vmm_stop(v->vm, EXIT_CRASH, "guest crashed (system event %u)", v->run->system_event.type);
	}
}

/* A lock that the host's policy does not allow; KVM also sends SIGBUS to this thread (on_bus()). */
static void exit_lock(struct vcpu *v)
{
	static const char *const why[] = {
		"a split lock", "another split lock, after it had been given #AC for one", "a bus lock",
	};
	u32 code = v->run->ex.error_code;

	vmm_dump(v);
	vmm_stop(v->vm, EXIT_CONTAINED,
		"cpu %u was stopped: %s, which this host does not allow (split lock policy)", v->id,
		why[code < ARRAY_SIZE(why) ? code : 0]);
}

static void exit_crash(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	if (atomic_load(&v->vm->stopping))
		return;
	vmm_dump(v);
	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		if (v->shutdown_by_policy)
			vmm_stop(v->vm, EXIT_CONTAINED,
				"cpu %u: shut down after a notify VM exit with an invalid context",
				 v->id);
		vmm_stop(v->vm, EXIT_CRASH, "guest crashed: triple fault on cpu %u", v->id);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		vmm_stop(v->vm, EXIT_CRASH, "KVM internal error, suberror %u, on cpu %u",
			 run->internal.suberror, v->id);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vmm_stop(v->vm, EXIT_CRASH, "KVM could not enter the guest on cpu %u, reason 0x%llx", v->id,
			(unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	default:
		vmm_stop(v->vm, EXIT_CRASH, "unexpected KVM exit %u on cpu %u", run->exit_reason, v->id);
	}
}

static void dispatch(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	v->exits[run->exit_reason < 64 ? run->exit_reason : 0]++;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(v);
		break;
	case KVM_EXIT_MMIO:
		exit_mmio(v);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		exit_system_event(v);
		break;
	case KVM_EXIT_NOTIFY:
		vmm_exit_notify(v);
		break;
	case KVM_EXIT_X86_BUS_LOCK:
		vmm_bus_locked(v);
		break;
	case KVM_EXIT_EXCEPTION:
		if (run->ex.exception == 17) {
			exit_lock(v);
			break;
		}
		/* fallthrough */
	default:
		exit_crash(v);
	}
}

/* KVM can report a bus lock on top of any other exit, as a flag. */
static void note_bus_lock(struct vcpu *v)
{
	if (v->vm->bus_lock.mode && (v->run->flags & KVM_RUN_X86_BUS_LOCK) &&
	    v->run->exit_reason != KVM_EXIT_X86_BUS_LOCK)
		vmm_bus_locked(v);
}

void *vmm_vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	struct vm *vm = v->vm;
	char name[16];
	sigset_t kick;

	snprintf(name, sizeof(name), "vcpu%u", v->id);
	pthread_setname_np(pthread_self(), name);
	sigemptyset(&kick);
	sigaddset(&kick, SIG_KICK);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	while (!atomic_load(&vm->stopping)) {
		int rc = call_ioctl(vm->kvm, v->fd, KVM_RUN, 0);

		if (!rc) {
			note_bus_lock(v);
			dispatch(v);
		} else if (rc != -EINTR && rc != -EAGAIN) {
			vmm_dump(v);
			vmm_stop(vm, EXIT_HOST, "KVM_RUN on cpu %u: %s", v->id, strerror(-rc));
		}
	}
	atomic_store(&v->done, true);
	return NULL;
}

static void on_kick(int sig)
{
}

/* Sent together with KVM_EXIT_EXCEPTION, which says more; anything else is fatal. */
static void on_bus(int sig, siginfo_t *info, void *ctx)
{
	if (info->si_code == BUS_ADRALN && !info->si_addr)
		return;
	signal(sig, SIG_DFL);
	raise(sig);
}

int vmm_start(struct vm *vm)
{
	struct sigaction sa = { .sa_handler = on_kick };
	struct sigaction bus = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };
	int rc;

	if (vm->kvm->sigaction(SIGBUS, &bus, NULL))
		return vmm_error(EXIT_HOST, "sigaction: %s", strerror(errno));

	if (vm->kvm->sigaction(SIG_KICK, &sa, NULL))
		return vmm_error(EXIT_HOST, "sigaction: %s", strerror(errno));
	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		struct vcpu *v = &vm->cpu[i];

		rc = pthread_create(&v->thread, NULL, vmm_vcpu_thread, v);
		if (rc)
			return vmm_error(EXIT_HOST, "cannot start a vCPU thread: %s", strerror(rc));
		v->started = true;
	}
	return 0;
}

bool vmm_join(struct vm *vm)
{
	bool all = true;

	atomic_store(&vm->stopping, true);
	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		struct vcpu *v = &vm->cpu[i];
		const struct timespec tick = { .tv_nsec = 2000000 };
		/* A kick can be spent between the test of stopping and KVM_RUN's start: kick until it answers. */
		for (int tries = 0; v->started && !atomic_load(&v->done) && tries < 2500; tries++) {
			v->run->immediate_exit = 1;
			pthread_kill(v->thread, SIG_KICK);
			nanosleep(&tick, NULL);
		}
		if (v->started && atomic_load(&v->done))
			pthread_join(v->thread, NULL);
		else if (v->started)
			all = false;
	}
	return all;
}
