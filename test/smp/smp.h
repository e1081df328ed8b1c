/* SPDX-License-Identifier: MIT */
/*
 * Small 64-bit guests on several vCPUs, each on a thread of its own. Their code is assembly between GUEST_BEGIN(name)
 * and GUEST_END(name); they talk to the test through memory, and end with OUT to port DONE.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>

#include "../api/api.h"

#define PML4 0x1000
#define PDPT 0x2000
#define PD 0x3000
#define PT 0x4000	/* of the 2 MiB at WINDOW */
#define IDT 0x5000
#define GDT 0x6000
#define TEXT 0x10000
#define FUNC 0x18000	/* code that gets rewritten */
#define STACKS 0x40000
#define BOX 0x100000	/* what guest and test tell each other: one line each */
#define ARRAYS 0x400000
#define WINDOW 0x800000
#define RAM 0x1000000
#define DONE 0xf
#define CPUS 4

#define S_(x) #x
#define S(x) S_(x)

#define GUEST_BEGIN(name)                                    \
	extern const uint8_t name[], name##_end[];           \
	__asm__(".pushsection .rodata\n" #name ":\n"
#define GUEST_END(name) "\n" #name "_end:\n.popsection\n");

struct smp {
	int sys, vm, n;
	int vcpu[CPUS];
	struct kvm_run *run[CPUS];
	pthread_t thread[CPUS];
	uint8_t *mem;
	uint64_t (*mmio_read)(uint64_t gpa); /* what a read outside memory finds; default 0 */
	_Atomic int failed;
};

static inline volatile uint32_t *box(struct smp *s, unsigned int n)
{
	return (volatile uint32_t *)(s->mem + BOX + n * 64);
}

static inline void put64(struct smp *s, uint64_t at, uint64_t val)
{
	memcpy(s->mem + at, &val, 8);
}

static inline void make_tables(struct smp *s)
{
	put64(s, PML4, PDPT | 7);
	put64(s, PDPT, PD | 7);
	for (uint64_t i = 0; i < RAM >> 21; i++)
		put64(s, PD + i * 8, i << 21 | 0x87);
	put64(s, GDT + 8, 0x00af9b000000ffff);
	put64(s, GDT + 16, 0x00cf93000000ffff);
}

/* WINDOW's first page maps gpa, through a page table. */
static inline void map_window(struct smp *s, uint64_t gpa)
{
	put64(s, PT, gpa | 7);
	put64(s, PD + (WINDOW >> 21) * 8, PT | 7);
}

static inline void set_gate(struct smp *s, unsigned int vector, uint64_t rip)
{
	put64(s, IDT + vector * 16, (rip & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (rip >> 16 & 0xffff) << 48);
	put64(s, IDT + vector * 16 + 8, 0);
}

static inline void set_long_mode(struct smp *s, int n, uint64_t rip)
{
	struct kvm_segment code = { .limit = 0xffffffff, .selector = 8, .type = 11, .s = 1, .present = 1, .l = 1,
				    .g = 1 };
	struct kvm_segment data = { .limit = 0xffffffff, .selector = 16, .type = 3, .s = 1, .present = 1, .db = 1,
				    .g = 1 };
	struct kvm_regs r = { .rip = rip, .rsp = STACKS + 0x1000 * (unsigned int)(n + 1), .rflags = 2,
			      .rdi = (unsigned int)n };
	struct kvm_mp_state runnable = { KVM_MP_STATE_RUNNABLE };
	struct kvm_sregs sr;

	need(call(s->vcpu[n], KVM_GET_SREGS, &sr), "KVM_GET_SREGS");
	sr.cs = code;
	sr.ds = sr.es = sr.fs = sr.gs = sr.ss = data;
	sr.gdt = (struct kvm_dtable){ .base = GDT, .limit = 23 };
	sr.idt = (struct kvm_dtable){ .base = IDT, .limit = 0xfff };
	sr.cr0 = 0x80050033;
	sr.cr3 = PML4;
	sr.cr4 = 0x20;
	sr.efer = 0x500;
	need(call(s->vcpu[n], KVM_SET_SREGS, &sr), "KVM_SET_SREGS");
	need(call(s->vcpu[n], KVM_SET_REGS, &r), "KVM_SET_REGS");
	need(call(s->vcpu[n], KVM_SET_MP_STATE, &runnable), "KVM_SET_MP_STATE");
}

/* n vCPUs with their local APICs; every vCPU's RDI is its number. */
static inline void new_smp(struct smp *s, int n)
{
	static struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[256]; } c = { .head.nent = 256 };

	memset(s, 0, sizeof(*s));
	s->n = n;
	s->sys = open_sys();
	s->vm = open_vm(s->sys);
	s->mem = new_memory(RAM);
	need(set_slot(s->vm, 0, 0, 0, RAM, s->mem), "memory");
	need(call(s->vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	need(call(s->sys, KVM_GET_SUPPORTED_CPUID, &c), "KVM_GET_SUPPORTED_CPUID");
	make_tables(s);
	for (int i = 0; i < n; i++) {
		s->vcpu[i] = open_vcpu(s->vm, (unsigned int)i);
		s->run[i] = map_run(s->vcpu[i]);
		need(call(s->vcpu[i], KVM_SET_CPUID2, &c), "KVM_SET_CPUID2");
		set_long_mode(s, i, TEXT);
	}
}

static inline void load(struct smp *s, uint64_t at, const uint8_t *begin, const uint8_t *end)
{
	memcpy(s->mem + at, begin, (size_t)(end - begin));
}

static inline void free_smp(struct smp *s)
{
	for (int i = 0; i < s->n; i++) {
		munmap(s->run[i], 3 * 4096);
		casement_close(s->vcpu[i]);
	}
	casement_close(s->vm);
	casement_close(s->sys);
	munmap(s->mem, RAM);
}

/* Run until the guest says that it is done. */
static inline void run_vcpu(struct smp *s, int n)
{
	struct kvm_run *r = s->run[n];

	for (;;) {
		long res = call(s->vcpu[n], KVM_RUN, 0);

		if (res && errno == EINTR)
			continue;
		if (!res && r->exit_reason == KVM_EXIT_MMIO) {
			uint64_t val = s->mmio_read ? s->mmio_read(r->mmio.phys_addr) : 0;

			if (!r->mmio.is_write)
				memcpy(r->mmio.data, &val, 8);
			continue;
		}
		if (res || r->exit_reason != KVM_EXIT_IO || r->io.port != DONE) {
			struct kvm_regs g = { 0 };

			call(s->vcpu[n], KVM_GET_REGS, &g);
			diag("vCPU %d: KVM_RUN %ld, exit %u, RIP %#llx", n, res, r->exit_reason, g.rip);
			s->failed++;
		}
		return;
	}
}

struct vcpu_arg {
	struct smp *s;
	int n;
};

static inline void *vcpu_main(void *arg)
{
	struct vcpu_arg a = *(struct vcpu_arg *)arg;

	free(arg);
	run_vcpu(a.s, a.n);
	return NULL;
}

static inline void start(struct smp *s)
{
	for (int i = 0; i < s->n; i++) {
		struct vcpu_arg *a = malloc(sizeof(*a));

		*a = (struct vcpu_arg){ s, i };
		pthread_create(&s->thread[i], NULL, vcpu_main, a);
	}
}

static inline void join(struct smp *s)
{
	for (int i = 0; i < s->n; i++)
		pthread_join(s->thread[i], NULL);
}

/* Wait until the guest has made a box what it should be; a guest that hangs fails. */
static inline bool wait_box(struct smp *s, unsigned int n, uint32_t at_least)
{
	const struct timespec nap = { .tv_nsec = 20000 };
	double limit = tap_now() + 20;

	while (*box(s, n) < at_least && !s->failed && tap_now() < limit)
		nanosleep(&nap, NULL);
	return *box(s, n) >= at_least;
}

/* mov addr,reg and back, in guest assembly: BOXn */
#define BOX_AT(n) S(BOX) "+64*" S(n)
