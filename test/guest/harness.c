/* SPDX-License-Identifier: MIT */
/*
 * A machine around one vCPU: RAM, the image at the reset vector, a few ports. It uses cpu.h as src/kvm does,
 * so that a failing guest program is a matter between it and the processor.
 */
#include "guest.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "cpu/cpu.h"
#include "cpu/native.h"
#include "jit/jit.h"

#define RAM_SIZE (16u << 20)
#define ROM_GPA 0xffff0000ull
#define ROM_ALIAS 0xf0000ull
#define MMIO_GPA 0x20000000ull	/* RAM behind exits to user space */
#define MMIO_SIZE 0x10000u

struct board {
	struct machine m;
	struct vcpu *v;
	struct guest_out *out;
	u8 *ram;
	u8 page_reg;		/* port 0x87, served by the bus */
	u32 pci_address;	/* port 0xcf8, served by exits */
	u8 mmio[MMIO_SIZE];
	_Atomic bool stop;
	double deadline;
};

static __thread struct vcpu *running;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* ---- what the processor asks of its surroundings ------------------------------------------------------ */

static int bus_mmio_read(struct vcpu *v, gpa_t gpa, unsigned int len, void *data)
{
	return -EOPNOTSUPP;
}

static int bus_mmio_write(struct vcpu *v, gpa_t gpa, unsigned int len, const void *data)
{
	return -EOPNOTSUPP;
}

static int bus_pio_read(struct vcpu *v, u16 port, unsigned int size, void *data)
{
	struct board *b = v->vm->owner;

	if (port != 0x87 || size != 1)
		return -EOPNOTSUPP;
	*(u8 *)data = b->page_reg;
	return 0;
}

static int bus_pio_write(struct vcpu *v, u16 port, unsigned int size, const void *data)
{
	struct board *b = v->vm->owner;

	if (port != 0x87 || size != 1)
		return -EOPNOTSUPP;
	b->page_reg = *(const u8 *)data;
	return 0;
}

static int bus_none(struct vcpu *v)
{
	return -1;
}

static bool bus_no(struct vcpu *v)
{
	return false;
}

static u64 bus_read_cr8(struct vcpu *v)
{
	return v->cr8;
}

static bool bus_write_cr8(struct vcpu *v, u64 cr8)
{
	v->cr8 = cr8;
	return false;
}

static int bus_rdmsr(struct vcpu *v, u32 index, u64 *val)
{
	return -EINVAL;
}

static int bus_wrmsr(struct vcpu *v, u32 index, u64 val)
{
	return -EINVAL;
}

static bool bus_msr_allowed(struct vcpu *v, u32 index, bool write)
{
	return true;
}

static int bus_hypercall(struct vcpu *v, u64 *ret)
{
	*ret = (u64)-1000;
	return 0;
}

static int bus_set_apic_base(struct vcpu *v, u64 val, bool host)
{
	return 0;
}

static u64 bus_clock(struct vcpu *v)
{
	return __builtin_ia32_rdtsc();
}

static bool bus_no_window(struct vcpu *v, u32 rounds)
{
	return rounds > 100000;
}

static void bus_eoi(struct vcpu *v, u8 vector)
{
}

static const struct cpu_bus bus = {
	.mmio_read = bus_mmio_read, .mmio_write = bus_mmio_write,
	.pio_read = bus_pio_read, .pio_write = bus_pio_write,
	.intr_pending = bus_none, .intr_ack = bus_none, .intr_window_wanted = bus_no,
	.read_cr8 = bus_read_cr8, .write_cr8 = bus_write_cr8,
	.rdmsr = bus_rdmsr, .wrmsr = bus_wrmsr, .msr_allowed = bus_msr_allowed,
	.hypercall = bus_hypercall, .set_apic_base = bus_set_apic_base,
	.tsc = bus_clock, .crystal = bus_clock, .no_window = bus_no_window, .eoi_broadcast = bus_eoi,
};

/* ---- host signals ------------------------------------------------------------------------------------------ */

static void on_fault(int sig, siginfo_t *info, void *uctx)
{
	ucontext_t *uc = uctx;
	u64 to = mem_fixup((u64)uc->uc_mcontext.gregs[REG_RIP]);

	if (to) {
		uc->uc_mcontext.gregs[REG_RIP] = (greg_t)to;
		return;
	}
	if (running && native_fault(running, sig, info, uctx))
		return;
	signal(sig, SIG_DFL);
}

static void catch_faults(void)
{
	static const int sigs[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	for (size_t k = 0; k < ARRAY_SIZE(sigs); k++)
		sigaction(sigs[k], &sa, NULL);
}

/* ---- exits --------------------------------------------------------------------------------------------------- */

static void fail(struct board *b, const char *what, u64 arg)
{
	struct vcpu *v = b->v;

	snprintf(b->out->error, sizeof(b->out->error), "%s %#llx at %#llx (%u-bit, insn at %#llx)", what,
		 (unsigned long long)arg, (unsigned long long)v->rip, v->csz * 8,
		 (unsigned long long)v->insn_rip);
}

static void port_out(struct board *b, const struct pio_state *p, const u8 *data)
{
	struct guest_out *out = b->out;

	if (p->port == 0xe9 && out->len < GUEST_OUT_MAX)
		out->data[out->len++] = data[0];
	else if (p->port == 0xf4)
		out->exit_code = data[0];
	else if (p->port == 0xcf8 && p->size == 4)
		memcpy(&b->pci_address, data, 4);
}

static void port_in(struct board *b, const struct pio_state *p, u8 *data)
{
	memset(data, 0xff, p->size);
	if (p->port == 0xe9)
		data[0] = 0xe9;
	else if (p->port == 0xe8)
		data[0] = 1;
	else if (p->port == 0xcf8 && p->size == 4)
		memcpy(data, &b->pci_address, 4);
}

static void serve_pio(struct board *b)
{
	struct pio_state *p = &b->v->pio;

	for (u32 k = 0; k < p->count; k++) {
		if (p->in)
			port_in(b, p, p->data + k * p->size);
		else
			port_out(b, p, p->data + k * p->size);
	}
	p->done = true;
}

static void serve_mmio(struct board *b)
{
	struct mmio_state *s = &b->v->mmio;

	for (unsigned int k = 0; k < s->n; k++) {
		struct mmio_frag *f = &s->frag[k];
		u64 at = f->gpa - MMIO_GPA;

		if (f->done)
			continue;
		if (at < MMIO_SIZE && f->is_write)
			memcpy(b->mmio + at, f->data, f->len);
		else if (at < MMIO_SIZE)
			memcpy(f->data, b->mmio + at, f->len);
		else if (!f->is_write)
			memset(f->data, 0, f->len);
		f->done = true;
	}
}

/* False: the run is over. */
static bool serve(struct board *b, enum cpu_stop stop)
{
	struct vcpu *v = b->v;

	switch (stop) {
	case CPU_STOP_KICK:
		atomic_fetch_and(&v->request, ~(u32)REQ_EXIT);
		b->out->kicks++;
		break;
	case CPU_STOP_PIO:
		serve_pio(b);
		break;
	case CPU_STOP_MMIO:
		serve_mmio(b);
		break;
	case CPU_STOP_BUS_LOCK:
	case CPU_STOP_MWAIT:
		break;
	case CPU_STOP_HLT:
		fail(b, "HLT", 0);
		return false;
	case CPU_STOP_INTERNAL:
		fail(b, "internal error", v->internal.suberror);
		return false;
	case CPU_STOP_SHUTDOWN:
		fail(b, "triple fault", 0);
		return false;
	default:
		fail(b, "unexpected stop", stop);
		return false;
	}
	if (now() > b->deadline) {
		fail(b, "time limit", 0);
		return false;
	}
	return b->out->exit_code < 0;
}

/* ---- a run ---------------------------------------------------------------------------------------------------- */

/* A kick every few microseconds of changing kind; the last ones come when the time limit has passed. */
static void *kicker(void *arg)
{
	static const u32 kind[] = { REQ_EXIT, REQ_FETCH, REQ_EXIT, REQ_TLB, REQ_EVENT };
	struct board *b = arg;
	unsigned int n = 0;

	while (!b->stop) {
		struct timespec ts = { .tv_nsec = 20000 };

		vcpu_request(b->v, kind[n++ % ARRAY_SIZE(kind)]);
		nanosleep(&ts, NULL);
	}
	return NULL;
}

/* Only the time limit. */
static void *watchdog(void *arg)
{
	struct board *b = arg;

	while (!b->stop) {
		struct timespec ts = { .tv_nsec = 10000000 };

		if (now() > b->deadline)
			vcpu_request(b->v, REQ_EXIT);
		nanosleep(&ts, NULL);
	}
	return NULL;
}

static bool board_memory(struct board *b, const u8 *image)
{
	u8 *rom = b->ram + RAM_SIZE;

	memcpy(rom, image, GUEST_IMAGE);
	return !mem_set_slot(&b->m.mem, 0, 0, 0, 0, ROM_ALIAS, b->ram) &&
	       !mem_set_slot(&b->m.mem, 0, 1, MEMSLOT_READONLY, ROM_ALIAS, GUEST_IMAGE, rom) &&
	       !mem_set_slot(&b->m.mem, 0, 2, 0, 0x100000, RAM_SIZE - 0x100000, b->ram + 0x100000) &&
	       !mem_set_slot(&b->m.mem, 0, 3, MEMSLOT_READONLY, ROM_GPA, GUEST_IMAGE, rom);
}

/* What KVM leaves to user space to show. */
static void opt_in(struct vcpu *v)
{
	for (unsigned int k = 0; k < v->ncpuid; k++) {
		if (v->cpuid[k].function == 1)
			v->cpuid[k].ecx |= 1u << 3 | 1u << 5; /* MONITOR, VMX */
		else if (v->cpuid[k].function == 7 && !v->cpuid[k].index)
			v->cpuid[k].ecx |= 1u << 5; /* WAITPKG */
	}
}

static bool board_start(struct board *b, const u8 *image)
{
	if (machine_init(&b->m, &bus, b))
		return false;
	b->ram = mmap(NULL, RAM_SIZE + GUEST_IMAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->ram == MAP_FAILED || !board_memory(b, image))
		return false;
	b->v = vcpu_create(&b->m, 0);
	if (!b->v)
		return false;
	if (getenv("GUEST_JIT"))
		jit_attach(b->v);
	b->v->ncpuid = cpuid_supported(b->v->cpuid, CPUID_ENTRIES_MAX);
	opt_in(b->v);
	cpuid_adopt(b->v);
	vcpu_reset(b->v, false);
	return true;
}

static void board_stop(struct board *b)
{
	if (b->v)
		vcpu_destroy(b->v);
	machine_destroy(&b->m);
	if (b->ram && b->ram != MAP_FAILED)
		munmap(b->ram, RAM_SIZE + GUEST_IMAGE);
	free(b);
}

void guest_run(const u8 image[GUEST_IMAGE], enum guest_how how, unsigned int limit,
	       struct guest_out *out)
{
	struct board *b = calloc(1, sizeof(*b));
	pthread_t thread;
	double start = now();

	*out = (struct guest_out){ .exit_code = -1, .data = malloc(GUEST_OUT_MAX) };
	b->out = out;
	b->deadline = start + limit;
	catch_faults();
	if (!board_start(b, image)) {
		snprintf(out->error, sizeof(out->error), "cannot make the machine");
		board_stop(b);
		return;
	}
	pthread_create(&thread, NULL, how == GUEST_KICKED ? kicker : watchdog, b);
	running = b->v;
	while (serve(b, cpu_run(b->v)))
		;
	running = NULL;
	b->stop = true;
	pthread_join(thread, NULL);
	out->icount = b->v->icount;
	out->seconds = now() - start;
	board_stop(b);
}

void guest_out_free(struct guest_out *out)
{
	free(out->data);
	out->data = NULL;
}
