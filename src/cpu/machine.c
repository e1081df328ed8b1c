/* SPDX-License-Identifier: MIT */
#include "cpu/cpu.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/native.h"
#include "cpu/vmx/vmx.h"

int machine_init(struct machine *m, const struct cpu_bus *bus, void *owner)
{
	memset(m, 0, sizeof(*m));
	m->bus = bus;
	m->owner = owner;
	return mem_init(&m->mem);
}

void machine_destroy(struct machine *m)
{
	mem_destroy(&m->mem);
}

/* One mapping holds the state, the VMX copy and, at its end, the XSAVE area. */
static size_t state_bytes(void)
{
	return (sizeof(struct vcpu) + 63) & ~63ull;
}

static size_t vcpu_bytes(void)
{
	return (state_bytes() + sizeof(struct vmx) + XSAVE_AREA + PAGE_SIZE - 1) & PAGE_MASK;
}

struct vcpu *vcpu_create(struct machine *m, u32 id)
{
	struct vcpu *v;
	int err;

	if (m->nvcpus >= VCPU_MAX) {
		errno = EINVAL;
		return NULL;
	}
	v = mmap(NULL, vcpu_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (v == MAP_FAILED)
		return NULL;
	v->xsave = (u8 *)v + vcpu_bytes() - XSAVE_AREA;
	v->vmx = (struct vmx *)((u8 *)v + state_bytes());
	v->vmx->vmcs_gpa = v->vmx->vmxon_gpa = VMCS_NONE;
	v->vm = m;
	v->id = id;
	v->index = m->nvcpus;
	err = mmu_vcpu_init(v);
	if (!err)
		err = native_init(v);
	if (!err)
		err = rcache_init(v);
	if (err) {
		vcpu_destroy(v);
		errno = -err;
		return NULL;
	}
	cpuid_adopt(v);
	vcpu_reset(v, false);
	m->vcpu[v->index] = v;
	m->nvcpus++;
	/* One that runs may be about to store to where it was the only one with code: tlb_beside_code(). */
	vm_pause(m, NULL);
	vm_resume(m, NULL, 0);
	return v;
}

void vcpu_destroy(struct vcpu *v)
{
	struct machine *m = v->vm;

	if (v->rc)
		rcache_flush(v);
	if (m->vcpu[v->index] == v)
		m->vcpu[v->index] = NULL;
	if (v->tr)
		v->tr->destroy(v);
	rcache_destroy(v);
	native_destroy(v);
	mmu_vcpu_destroy(v);
	munmap(v, vcpu_bytes());
}
