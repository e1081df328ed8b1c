/* SPDX-License-Identifier: MIT */
/*
 * For tests of the KVM API: objects made through the public calls, and tiny real-mode guests.
 */
#pragma once
#include <casement/casement.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/mman.h>

#include "tap.h"

#define BAD ((void *)0x10) /* never mapped */
#define CODE 0x1000
#define MEM_SIZE 0x100000
#define call(fd, req, arg) casement_ioctl((fd), (req), (unsigned long)(arg))

struct guest {
	int sys, vm, vcpu;
	struct kvm_run *run;
	uint8_t *mem;
};

static inline void need(long r, const char *what)
{
	if (r >= 0)
		return;
	diag("%s: %s", what, strerror(errno));
	exit(1);
}

static inline int open_sys(void)
{
	int fd = casement_open(O_RDWR | O_CLOEXEC);

	need(fd, "casement_open");
	return fd;
}

static inline int open_vm(int sys)
{
	int fd = call(sys, KVM_CREATE_VM, 0);

	need(fd, "KVM_CREATE_VM");
	return fd;
}

static inline int open_vcpu(int vm, unsigned int id)
{
	int fd = call(vm, KVM_CREATE_VCPU, id);

	need(fd, "KVM_CREATE_VCPU");
	return fd;
}

static inline int set_slot(int vm, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, const void *hva)
{
	struct kvm_userspace_memory_region r = { .slot = slot, .flags = flags, .guest_phys_addr = gpa,
						 .memory_size = size, .userspace_addr = (uint64_t)hva };

	return call(vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static inline struct kvm_run *map_run(int vcpu)
{
	struct kvm_run *run = casement_mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

	need(run == MAP_FAILED ? -1 : 0, "mmap of a vCPU");
	return run;
}

static inline uint8_t *new_memory(size_t size)
{
	uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	need(p == MAP_FAILED ? -1 : 0, "mmap");
	return p;
}

/* Real mode, CS base 0, all else 0, RIP at the code. */
static inline void set_real(int vcpu, uint64_t rip)
{
	struct kvm_sregs s;
	struct kvm_regs r = { .rip = rip, .rsp = 0x8000, .rflags = 2 };

	need(call(vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs.base = s.cs.selector = 0;
	need(call(vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	need(call(vcpu, KVM_SET_REGS, &r), "KVM_SET_REGS");
}

enum { NO_CHIP, FULL_CHIP, SPLIT_CHIP };

static inline void new_guest(struct guest *g, int chip, const void *code, size_t len)
{
	g->sys = open_sys();
	g->vm = open_vm(g->sys);
	g->mem = new_memory(MEM_SIZE);
	need(set_slot(g->vm, 0, 0, 0, MEM_SIZE, g->mem), "slot 0");
	if (chip == FULL_CHIP)
		need(call(g->vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	if (chip == SPLIT_CHIP) {
		struct kvm_enable_cap c = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };

		need(call(g->vm, KVM_ENABLE_CAP, &c), "KVM_CAP_SPLIT_IRQCHIP");
	}
	g->vcpu = open_vcpu(g->vm, 0);
	g->run = map_run(g->vcpu);
	memcpy(g->mem + CODE, code, len);
	set_real(g->vcpu, CODE);
}

#define NEW_GUEST(g, chip, ...)                                       \
	do {                                                          \
		static const uint8_t code_[] = { __VA_ARGS__ };       \
		new_guest((g), (chip), code_, sizeof(code_));         \
	} while (0)

static inline void free_guest(struct guest *g)
{
	munmap(g->run, 3 * 4096);
	casement_close(g->vcpu);
	casement_close(g->vm);
	casement_close(g->sys);
	munmap(g->mem, MEM_SIZE);
}

static inline int run(struct guest *g)
{
	return call(g->vcpu, KVM_RUN, 0);
}

static inline uint64_t rip_of(struct guest *g)
{
	struct kvm_regs r;

	need(call(g->vcpu, KVM_GET_REGS, &r), "KVM_GET_REGS");
	return r.rip;
}

static inline int enable(int fd, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap c = { .cap = cap, .args = { arg } };

	return call(fd, KVM_ENABLE_CAP, &c);
}

/* ring.c */
void t_dirty_ring(void);
void t_dirty_ring_full(void);
