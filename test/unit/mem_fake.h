/* SPDX-License-Identifier: MIT */
/*
 * A machine of RAM and MMU only: the test stands in for exceptions, record caches and devices.
 */
#pragma once
#include <sys/mman.h>
#include <ucontext.h>

#include "cpu/cpu.h"
#include "cpu/tlb.h"
#include "cpu/vmx/vmx.h"
#include "mem/guarded.h"
#include "tap.h"

#define RAM_SIZE (16u << 20)
#define ROM_GPA 0xfffc0000u
#define ROM_SIZE 0x10000u
#define MMIO_GPA 0xe0000000u	/* user space */
#define CHIP_GPA 0xfee00000u	/* in the kernel */

static struct machine fake_vm;
static u8 *fake_ram, *fake_rom;
static unsigned int fake_code_writes, fake_chip_reads, fake_chip_writes;
static u64 fake_chip_value = 0x1122334455667788ull;

int cpu_raise_err(struct vcpu *v, u8 vector, u32 error)
{
	v->exc = (struct event){ .valid = true, .vector = vector, .has_error = true, .error = error };
	return OP_EXC;
}

int cpu_raise(struct vcpu *v, u8 vector)
{
	v->exc = (struct event){ .valid = true, .vector = vector };
	return OP_EXC;
}

int cpu_raise_pf(struct vcpu *v, gva_t la, u32 error)
{
	v->exc = (struct event){ .valid = true, .vector = EXC_PF, .has_error = true, .error = error,
				 .has_payload = true, .payload = la };
	return OP_EXC;
}

bool code_written(struct vcpu *v, struct memslot *s, gpa_t gpa, unsigned int len)
{
	fake_code_writes++;
	return true;
}

/* No VMX here. */
int vmx_ept(struct vcpu *v, gpa_t gpa, u32 acc, u32 how, gva_t la, u32 lin_bits, struct ept_xlat *x)
{
	return OP_STOP;
}

int vmx_apic_access(struct vcpu *v, u32 off, unsigned int len, u32 acc, gva_t la)
{
	return OP_STOP;
}

int vmx_apic_read(struct vcpu *v, u32 off, unsigned int len, void *dst)
{
	return OP_STOP;
}

int vmx_apic_write(struct vcpu *v, u32 off, unsigned int len, const void *src)
{
	return OP_STOP;
}

bool vmx_is_apic_page(const struct vcpu *v, gpa_t page)
{
	return false;
}

static gva_t fake_watch_la; /* one byte, watched by DR1 */

bool debug_watches_data(const struct vcpu *v)
{
	return v->watch_mask;
}

void debug_data_access(struct vcpu *v, gva_t la, unsigned int size, u32 acc)
{
	if (fake_watch_la - la < size)
		v->pending_db |= 2;
}

static unsigned int fake_invalidated;

bool rcache_invalidate(struct vcpu *v, gpa_t gpa, unsigned int len)
{
	fake_invalidated++;
	return true;
}

bool code_beside(struct vcpu *v, gpa_t gpa, unsigned int len)
{
	return false;
}

static inline int fake_read(struct vcpu *v, gpa_t gpa, unsigned int len, void *data)
{
	if (gpa >> 12 != CHIP_GPA >> 12)
		return -EOPNOTSUPP;
	fake_chip_reads++;
	memcpy(data, &fake_chip_value, len);
	return 0;
}

static inline int fake_write(struct vcpu *v, gpa_t gpa, unsigned int len, const void *data)
{
	if (gpa >> 12 != CHIP_GPA >> 12)
		return -EOPNOTSUPP;
	fake_chip_writes++;
	memcpy(&fake_chip_value, data, len);
	return 0;
}

static const struct cpu_bus fake_bus = { .mmio_read = fake_read, .mmio_write = fake_write };

static inline void fake_fault(int sig, siginfo_t *si, void *uctx)
{
	ucontext_t *uc = uctx;
	u64 to = mem_fixup((u64)uc->uc_mcontext.gregs[REG_RIP]);

	if (!to)
		_exit(99);
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)to;
}

static inline void fake_signals(void)
{
	struct sigaction sa = { .sa_sigaction = fake_fault, .sa_flags = SA_SIGINFO };

	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
}

static inline u8 *fake_map(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static inline struct vcpu *fake_vcpu(void)
{
	struct vcpu *v = mmap(NULL, sizeof(*v), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	v->vm = &fake_vm;
	v->index = fake_vm.nvcpus;
	v->maxphyaddr = 40;
	v->msr_val[MSR_SLOT_PAT] = 0x0007040600070406ull;
	v->csz = 8;
	v->features[FEAT_PDPE1GB / 64] |= BIT(FEAT_PDPE1GB % 64);
	mmu_vcpu_init(v);
	fake_vm.vcpu[fake_vm.nvcpus++] = v;
	return v;
}

/* RAM at 0, ROM below 4 GiB, nothing else. */
static inline struct vcpu *fake_machine(void)
{
	fake_signals();
	fake_vm.bus = &fake_bus;
	mem_init(&fake_vm.mem);
	fake_ram = fake_map(RAM_SIZE);
	fake_rom = fake_map(ROM_SIZE);
	mem_set_slot(&fake_vm.mem, 0, 0, 0, 0, RAM_SIZE, fake_ram);
	mem_set_slot(&fake_vm.mem, 0, 1, MEMSLOT_READONLY, ROM_GPA, ROM_SIZE, fake_rom);
	return fake_vcpu();
}
