/* SPDX-License-Identifier: MIT */
/*
 * KVM_CAP_DIRTY_LOG_RING: sizes, the mapping's rules, entries in the order of the writes, a full ring, reset.
 */
#include "ioctl.h"

#define RING_BYTES 4096u
#define ENTRIES (RING_BYTES / sizeof(struct kvm_dirty_gfn))
#define RING_OFFSET (KVM_DIRTY_LOG_PAGE_OFFSET * 4096)
#define RAM_SIZE (2u << 20)

struct ring_guest {
	struct guest g;
	struct kvm_dirty_gfn *ring;
	uint32_t next;
};

static void ring_guest(struct ring_guest *r, const uint8_t *code, size_t len)
{
	struct guest *g = &r->g;

	g->sys = open_sys();
	g->vm = open_vm(g->sys);
	need(enable(g->vm, KVM_CAP_DIRTY_LOG_RING, RING_BYTES), "KVM_CAP_DIRTY_LOG_RING");
	g->mem = new_memory(RAM_SIZE);
	need(set_slot(g->vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, RAM_SIZE, g->mem), "slot 0");
	g->vcpu = open_vcpu(g->vm, 0);
	g->run = map_run(g->vcpu);
	memcpy(g->mem + CODE, code, len);
	set_real(g->vcpu, CODE);
	r->ring = casement_mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, RING_OFFSET);
	need(r->ring == MAP_FAILED ? -1 : 0, "mmap of the ring");
	r->next = 0;
}

/* Takes what is there; the number of entries, all in the order of pages first, first + 1, … or 0. */
static uint32_t collect(struct ring_guest *r, uint64_t first)
{
	uint32_t n = 0;
	bool good = true;

	for (;; n++, r->next++) {
		struct kvm_dirty_gfn *d = &r->ring[r->next % ENTRIES];

		if (d->flags != KVM_DIRTY_GFN_F_DIRTY)
			break;
		good &= d->slot == 0 && d->offset == first + n;
		d->flags = KVM_DIRTY_GFN_F_RESET;
	}
	return good ? n : 0;
}

static void sizes(void)
{
	int vm = open_vm(open_sys());

	is_errno(enable(vm, KVM_CAP_DIRTY_LOG_RING, 0), EINVAL, "no ring");
	is_errno(enable(vm, KVM_CAP_DIRTY_LOG_RING, 3 * 4096), EINVAL, "not a power of two");
	is_errno(enable(vm, KVM_CAP_DIRTY_LOG_RING, 512), EINVAL, "smaller than what is kept in reserve");
	is_errno(enable(vm, KVM_CAP_DIRTY_LOG_RING, 2 * 65536 * 16), E2BIG, "too large");
	is(enable(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, RING_BYTES), 0, "by its other name");
	is_errno(enable(vm, KVM_CAP_DIRTY_LOG_RING, RING_BYTES), EINVAL, "twice");
	vm = open_vm(open_sys());
	open_vcpu(vm, 0);
	is_errno(enable(vm, KVM_CAP_DIRTY_LOG_RING, RING_BYTES), EINVAL, "after a vCPU");
}

void t_dirty_ring(void)
{
	/* again: mov es,cx; add cx,100h; es: mov [0],al; jmp again: a write to each page from 1 MiB's half on */
	static const uint8_t code[] = { 0xb9, 0x00, 0x20, 0x8e, 0xc1, 0x81, 0xc1, 0x00, 0x01, 0x26,
					0xa2, 0x00, 0x00, 0x81, 0xf9, 0x00, 0x90, 0x75, 0xf0, 0xf4 };
	struct kvm_dirty_log log = { .slot = 0 };
	struct ring_guest r;
	uint64_t map[8];
	uint32_t n;

	sizes();
	ring_guest(&r, code, sizeof(code));
	log.dirty_bitmap = map;
	is_errno(call(r.g.vm, KVM_GET_DIRTY_LOG, &log), ENXIO, "KVM_GET_DIRTY_LOG has nothing to say");
	is(casement_mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, r.g.vcpu, RING_OFFSET) == MAP_FAILED, 1,
	   "no private mapping");
	is(call(r.g.vm, KVM_RESET_DIRTY_RINGS, 0), 0, "nothing to reset");
	is(run(&r.g), 0, "run");
	/* 70h pages do not fill 256 - 64 entries */
	is(r.g.run->exit_reason, KVM_EXIT_HLT, "all were written");
	n = collect(&r, 0x20);
	is(n, 0x70, "one entry for each page, in order");
	is(call(r.g.vm, KVM_RESET_DIRTY_RINGS, 0), 0x70, "reset");
	set_real(r.g.vcpu, CODE);
	is(run(&r.g), 0, "the same again");
	is(collect(&r, 0x20), 0x70, "is told again");
	set_real(r.g.vcpu, CODE);
	is(run(&r.g), 0, "and without a reset");
	is(collect(&r, 0x20), 0, "not");
	is(call(r.g.vm, KVM_RESET_DIRTY_RINGS, 0), 0x70, "reset");
	free_guest(&r.g);
}

void t_dirty_ring_full(void)
{
	/* again: inc page number in es by one page; write; for ever through 640 KiB */
	static const uint8_t code[] = { 0xb9, 0x00, 0x10, 0x8e, 0xc1, 0x81, 0xc1, 0x00, 0x01, 0x26,
					0xa2, 0x00, 0x00, 0x81, 0xf9, 0x00, 0xf0, 0x75, 0xf0, 0xf4 };
	struct ring_guest r;
	uint32_t n;

	ring_guest(&r, code, sizeof(code));
	is(run(&r.g), 0, "run");
	is(r.g.run->exit_reason, KVM_EXIT_DIRTY_RING_FULL, "the ring is full");
	is(run(&r.g), 0, "run");
	is(r.g.run->exit_reason, KVM_EXIT_DIRTY_RING_FULL, "and stays so");
	n = collect(&r, 0x10);
	ok(n >= 192 && n < 256, "up to its soft limit (%u entries)", n);
	is(call(r.g.vm, KVM_RESET_DIRTY_RINGS, 0), n, "reset");
	is(run(&r.g), 0, "run");
	is(r.g.run->exit_reason, KVM_EXIT_HLT, "goes on to its end");
	is(collect(&r, 0x10 + n), 0xe0 - n, "and the rest is told");
	free_guest(&r.g);
}
