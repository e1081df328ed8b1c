/* SPDX-License-Identifier: MIT */
/*
 * Kicks of 64-bit guests, which the translator runs: loops, memory, one long REP MOVSB, and code that is made, run and
 * never run again. Each once with the machine as it is and once with a busy thread per processor.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "api.h"
#include "kick.h"

#define RAM (80ull << 20)
#define WORK (16ull << 20)	/* where guests keep data */
#define BUSY_MAX 64

/* Long mode with the first GiB mapped as it is, at CPL 0. */
static void set_long(struct guest *g, const struct kvm_regs *r)
{
	struct kvm_segment code = { .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1,
				    .g = 1 };
	struct kvm_segment data = { .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .g = 1 };
	uint64_t *pml4 = (void *)(g->mem + 0x10000), *pdpt = (void *)(g->mem + 0x11000);
	uint64_t *pd = (void *)(g->mem + 0x12000);
	struct kvm_sregs s;

	pml4[0] = 0x11003;
	pdpt[0] = 0x12003;
	for (unsigned int k = 0; k < 512; k++)
		pd[k] = (uint64_t)k << 21 | 0x83;
	need(call(g->vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 = 0x80000033;
	s.cr3 = 0x10000;
	s.cr4 = 0x620;
	s.efer = 0x500;
	need(call(g->vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	need(call(g->vcpu, KVM_SET_REGS, r), "KVM_SET_REGS");
}

struct program {
	const char *name;
	const uint8_t *code;
	size_t n;
	struct kvm_regs regs;
};

static void start(struct guest *g, const struct program *p)
{
	struct kvm_regs r = p->regs;

	g->sys = open_sys();
	g->vm = open_vm(g->sys);
	g->mem = new_memory(RAM);
	need(set_slot(g->vm, 0, 0, 0, RAM, g->mem), "slot 0");
	g->vcpu = open_vcpu(g->vm, 0);
	g->run = map_run(g->vcpu);
	memcpy(g->mem + CODE, p->code, p->n);
	r.rip = CODE;
	r.rsp = 0x8000;
	r.rflags = 2;
	set_long(g, &r);
}

static void stop(struct guest *g)
{
	munmap(g->run, 3 * 4096);
	casement_close(g->vcpu);
	casement_close(g->vm);
	casement_close(g->sys);
	munmap(g->mem, RAM);
}

static atomic_bool enough;

static void *be_busy(void *arg)
{
	while (!enough)
		;
	return arg;
}

static void kick_all(const struct program *p, unsigned int n, const char *when)
{
	char what[80];
	struct guest g;

	for (unsigned int k = 0; k < n; k++) {
		snprintf(what, sizeof(what), "%s%s", p[k].name, when);
		start(&g, &p[k]);
		kick_by_signal(&g, what);
		stop(&g);
	}
}

static void kick_all_busy(const struct program *p, unsigned int n)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned int busy = cpus > 0 && cpus < BUSY_MAX ? (unsigned int)cpus : BUSY_MAX;
	pthread_t t[BUSY_MAX];

	for (unsigned int k = 0; k < busy; k++)
		need(-pthread_create(&t[k], NULL, be_busy, NULL), "pthread_create");
	kick_all(p, n, ", busy machine");
	enough = true;
	for (unsigned int k = 0; k < busy; k++)
		pthread_join(t[k], NULL);
}

void t_kick_long(void)
{
	static const uint8_t loop[] = { 0xeb, 0xfe }; /* jmp $ */
	static const uint8_t memory[] = {
		0x48, 0x8b, 0x04, 0x0f,				/* 1: mov rax, [rdi + rcx] */
		0x48, 0x01, 0x44, 0x0f, 0x40,			/* add [rdi + rcx + 64], rax */
		0x48, 0x81, 0xc1, 0x40, 0x10, 0x00, 0x00,	/* add rcx, 4160 */
		0x48, 0x81, 0xe1, 0xff, 0xff, 0xff, 0x01,	/* and rcx, 32 MiB - 1 */
		0xeb, 0xe7,					/* jmp 1b */
	};
	static const uint8_t copy[] = {
		0x48, 0xbe, 0, 0, 0, 0x01, 0, 0, 0, 0,		/* 1: mov rsi, 16 MiB */
		0x48, 0xbf, 0, 0, 0, 0x03, 0, 0, 0, 0,		/* mov rdi, 48 MiB */
		0x48, 0xc7, 0xc1, 0, 0, 0, 0x02,		/* mov rcx, 32 MiB */
		0xf3, 0xa4,					/* rep movsb */
		0xeb, 0xe1,					/* jmp 1b */
	};
	/* mov ecx, 40; 1: add eax, imm; dec ecx; jne 1b; ret: at rdi, with another constant each time */
	static const uint8_t fresh[] = {
		0xc7, 0x07, 0xb9, 0x28, 0x00, 0x00,		/* 1: mov dword [rdi], … */
		0xc7, 0x47, 0x04, 0x00, 0x05, 0x00, 0x00,	/* mov dword [rdi + 4], … */
		0x89, 0x5f, 0x06,				/* mov [rdi + 6], ebx */
		0xc7, 0x47, 0x0a, 0xff, 0xc9, 0x75, 0xf7,	/* mov dword [rdi + 10], … */
		0xc6, 0x47, 0x0e, 0xc3,				/* mov byte [rdi + 14], ret */
		0xff, 0xd7,					/* call rdi */
		0xff, 0xc3,					/* inc ebx */
		0x48, 0x83, 0xc7, 0x10,				/* add rdi, 16 */
		0x48, 0x81, 0xe7, 0xff, 0xff, 0x7f, 0x01,	/* and rdi, 24 MiB - 1: from 16 MiB, then on from 0 */
		0x48, 0x81, 0xcf, 0x00, 0x00, 0x00, 0x01,	/* or rdi, 16 MiB */
		0xeb, 0xcd,					/* jmp 1b */
	};
#define PROGRAM(name, code, ...) { name, code, sizeof(code), { __VA_ARGS__ } }
	static const struct program all[] = {
		PROGRAM("64-bit loop", loop, .rax = 0),
		PROGRAM("loop over 32 MiB", memory, .rdi = WORK),
		PROGRAM("REP MOVSB of 32 MiB", copy, .rax = 0),
		PROGRAM("new code all the time", fresh, .rdi = WORK),
	};
#undef PROGRAM

	kicks = 300;
	kick_all(all, 4, "");
	kicks = 100;
	kick_all_busy(all, 4);
}
