/* SPDX-License-Identifier: MIT */
/*
 * exits [OPTION…]: what an exit to user space and back costs. A program that uses libcasement in process runs a loop of
 * IN or OUT in 64-bit code and answers each KVM_EXIT_IO with nothing but the next KVM_RUN. The fastest of several
 * batches counts. OPTIONs are the engine's ("engine=jit"). Prints "=exit-NAME SECONDS" per row, as bench/timed does for
 * marks.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "casement/casement.h"

#define RAM (1u << 20)
#define CODE 0x8000u
#define BATCH 5000
#define BATCHES 12

static int vm, vcpu;
static uint8_t *ram;
static struct kvm_run *run;

/* Long mode with the first 2 MiB mapped as they are, at CPL 0. */
static int enter_long_mode(void)
{
	struct kvm_sregs s;
	struct kvm_regs r = { .rip = CODE, .rsp = 0x7000, .rflags = 2, .rdx = 0x2ff };
	struct kvm_segment flat = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	uint64_t *pml4 = (void *)(ram + 0x1000), *pdpt = (void *)(ram + 0x2000), *pd = (void *)(ram + 0x3000);

	pml4[0] = 0x2003;
	pdpt[0] = 0x3003;
	pd[0] = 0x83;
	if (casement_ioctl(vcpu, KVM_GET_SREGS, &s))
		return -1;
	s.cs = flat;
	flat.type = 3;
	flat.selector = 16;
	s.ds = s.es = s.ss = s.fs = s.gs = flat;
	s.cr0 = 0x80000033;
	s.cr3 = 0x1000;
	s.cr4 = 0x620;
	s.efer = 0x500;
	return casement_ioctl(vcpu, KVM_SET_SREGS, &s) | casement_ioctl(vcpu, KVM_SET_REGS, &r);
}

static int make(void)
{
	struct kvm_userspace_memory_region m = { .memory_size = RAM };
	int sys = casement_open(O_RDWR), size;

	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	m.userspace_addr = (uint64_t)ram;
	vm = casement_ioctl(sys, KVM_CREATE_VM, 0);
	size = casement_ioctl(sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vm < 0 || casement_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &m))
		return -1;
	vcpu = casement_ioctl(vm, KVM_CREATE_VCPU, 0);
	run = casement_mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	return run == MAP_FAILED ? -1 : enter_long_mode();
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int row(const char *name, const uint8_t *code, size_t n)
{
	struct kvm_regs r = { .rip = CODE, .rsp = 0x7000, .rflags = 2, .rdx = 0x2ff };
	double best = 0;

	memcpy(ram + CODE, code, n);
	if (casement_ioctl(vcpu, KVM_SET_REGS, &r))
		return 1;
	for (int b = 0; b < BATCHES; b++) {
		double from = now(), took;

		for (int i = 0; i < BATCH; i++) {
			if (casement_ioctl(vcpu, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO) {
				fprintf(stderr, "exits: %s: exit %u\n", name, run->exit_reason);
				return 1;
			}
		}
		took = (now() - from) / BATCH;
		if (!b || took < best)
			best = took;
	}
	printf("=exit-%s %.10f\n", name, best * 1e-9);
	return 0;
}

int main(int argc, char **argv)
{
	static const uint8_t in[] = { 0xec, 0xeb, 0xfd }, out[] = { 0xee, 0xeb, 0xfd };
	/* with vector state in use: movups xmm0, [rsp - 16]; out dx, al; jmp */
	static const uint8_t vec[] = { 0x0f, 0x10, 0x44, 0x24, 0xf0, 0xee, 0xeb, 0xf8 };
	char err[200];

	for (int n = 1; n < argc; n++) {
		if (casement_set_options(argv[n], err, sizeof(err))) {
			fprintf(stderr, "exits: %s\n", err);
			return 1;
		}
	}
	if (make()) {
		perror("exits");
		return 1;
	}
	return row("in", in, sizeof(in)) || row("out", out, sizeof(out)) || row("vector", vec, sizeof(vec));
}
