/* SPDX-License-Identifier: MIT */
/*
 * Port and memory writes that no exit is made for: ioeventfds and coalesced zones.
 *
 * A bus is an immutable table that vCPU threads read without a lock. A change builds a new one and frees the old
 * after vm_pause() has had every vCPU out of it.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kvm/eventfd.h"
#include "kvm/sys.h"

#define BUS_DEVICES_MAX 1000 /* the kernel's NR_IOBUS_DEVS */
#define RING_ENTRIES KVM_COALESCED_MMIO_MAX

struct io_event {
	u64 addr, match, id;
	u32 len;	/* 0: any length */
	bool wildcard;
	int fd;
};

struct io_zone {
	u64 addr;
	u32 size;
};

struct iobus {
	u32 nevents, nzones;
	struct io_event *event; /* sorted by address */
	struct io_zone *zone;
};

static _Atomic u32 ring_lock;

/* ---- the fast path: inside cpu_run() ------------------------------------------------------------------ */

static bool event_hit(const struct io_event *e, unsigned int len, u64 val)
{
	if (!e->len)
		return true;
	return e->len == len && (e->wildcard || e->match == val);
}

static u32 first_at(const struct iobus *b, u64 addr)
{
	u32 lo = 0, hi = b->nevents;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (b->event[mid].addr < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool coalesce(struct kvm_vm *vm, bool pio, u64 addr, unsigned int len, const void *data)
{
	struct kvm_coalesced_mmio_ring *r = vm->ring;
	u32 last, next;
	bool room;

	lock_take(&ring_lock);
	last = *(volatile u32 *)&r->last;
	next = (last + 1) % RING_ENTRIES;
	room = last < RING_ENTRIES && next != *(volatile u32 *)&r->first;
	if (room) {
		struct kvm_coalesced_mmio *m = &r->coalesced_mmio[last];

		m->phys_addr = addr;
		m->len = len;
		memcpy(m->data, data, len);
		m->pio = pio;
		atomic_thread_fence(memory_order_release);
		*(volatile u32 *)&r->last = next;
	}
	lock_drop(&ring_lock);
	return room;
}

int iobus_write(struct kvm_vm *vm, bool pio, u64 addr, unsigned int len, const void *data)
{
	const struct iobus *b = atomic_load_explicit(pio ? &vm->pio : &vm->mmio, memory_order_acquire);
	u64 val = 0;

	memcpy(&val, data, len <= 8 ? len : 8);
	for (u32 i = first_at(b, addr); i < b->nevents && b->event[i].addr == addr; i++)
		if (event_hit(&b->event[i], len, val)) {
			eventfd_signal(b->event[i].fd);
			return 0;
		}
	for (u32 i = 0; i < b->nzones; i++)
		if (addr >= b->zone[i].addr && addr + len <= b->zone[i].addr + b->zone[i].size)
			return coalesce(vm, pio, addr, len, data) ? 0 : -EOPNOTSUPP;
	return -EOPNOTSUPP;
}

/* ---- changing a bus --------------------------------------------------------------------------------------- */

static void bus_free(struct iobus *b)
{
	if (!b)
		return;
	free(b->event);
	free(b->zone);
	free(b);
}

static struct iobus *bus_copy(const struct iobus *o)
{
	struct iobus *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->event = calloc(o->nevents + 1, sizeof(*b->event));
	b->zone = calloc(o->nzones + 1, sizeof(*b->zone));
	if (!b->event || !b->zone) {
		bus_free(b);
		return NULL;
	}
	b->nevents = o->nevents;
	b->nzones = o->nzones;
	if (o->nevents)
		memcpy(b->event, o->event, o->nevents * sizeof(*b->event));
	if (o->nzones)
		memcpy(b->zone, o->zone, o->nzones * sizeof(*b->zone));
	return b;
}

static void publish(struct kvm_vm *vm, struct iobus *_Atomic *where, struct iobus *b)
{
	struct iobus *old;

	vm_pause(&vm->m, NULL);
	old = atomic_exchange(where, b);
	vm_resume(&vm->m, NULL, 0);
	bus_free(old);
}

int iobus_init(struct kvm_vm *vm)
{
	const struct iobus none = { 0 };

	vm->pio = bus_copy(&none);
	vm->mmio = bus_copy(&none);
	return vm->pio && vm->mmio ? 0 : -ENOMEM;
}

static void bus_destroy(struct iobus *b)
{
	for (u32 i = 0; b && i < b->nevents; i++)
		sys_close(b->event[i].fd);
	bus_free(b);
}

void iobus_destroy(struct kvm_vm *vm)
{
	bus_destroy(vm->pio);
	bus_destroy(vm->mmio);
}

/* ---- KVM_IOEVENTFD ------------------------------------------------------------------------------------------ */

static bool collides(const struct iobus *b, const struct io_event *n)
{
	for (u32 i = first_at(b, n->addr); i < b->nevents && b->event[i].addr == n->addr; i++) {
		const struct io_event *e = &b->event[i];

		if (!e->len || !n->len ||
		    (e->len == n->len && (e->wildcard || n->wildcard || e->match == n->match)))
			return true;
	}
	return false;
}

static long event_add(struct kvm_vm *vm, struct iobus *_Atomic *where, const struct io_event *n)
{
	const struct iobus *old = *where;
	struct iobus *b;
	u32 at;

	if (collides(old, n))
		return -EEXIST;
	if (old->nevents + old->nzones >= BUS_DEVICES_MAX)
		return -ENOSPC;
	b = bus_copy(old);
	if (!b)
		return -ENOMEM;
	at = first_at(b, n->addr);
	memmove(&b->event[at + 1], &b->event[at], (b->nevents - at) * sizeof(*n));
	b->event[at] = *n;
	b->nevents++;
	publish(vm, where, b);
	return 0;
}

static long event_del(struct kvm_vm *vm, struct iobus *_Atomic *where, const struct io_event *n)
{
	const struct iobus *old = *where;
	struct iobus *b;
	u32 i;
	int fd;

	for (i = first_at(old, n->addr); i < old->nevents && old->event[i].addr == n->addr; i++) {
		const struct io_event *e = &old->event[i];

		if (e->id == n->id && e->len == n->len && e->wildcard == n->wildcard &&
		    (e->wildcard || e->match == n->match))
			break;
	}
	if (i == old->nevents || old->event[i].addr != n->addr)
		return -ENOENT;
	b = bus_copy(old);
	if (!b)
		return -ENOMEM;
	fd = b->event[i].fd;
	b->nevents--;
	memmove(&b->event[i], &b->event[i + 1], (b->nevents - i) * sizeof(*n));
	publish(vm, where, b);
	sys_close(fd);
	return 0;
}

static int check_assign(const struct kvm_ioeventfd *a)
{
	if (a->len != 0 && a->len != 1 && a->len != 2 && a->len != 4 && a->len != 8)
		return -EINVAL;
	if (a->addr + a->len < a->addr || (a->flags & ~(u32)KVM_IOEVENTFD_VALID_FLAG_MASK))
		return -EINVAL;
	return !a->len && (a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) ? -EINVAL : 0;
}

long vm_ioeventfd(struct kvm_vm *vm, u64 arg, void *buf)
{
	const struct kvm_ioeventfd *a = buf;
	bool del = a->flags & KVM_IOEVENTFD_FLAG_DEASSIGN;
	struct iobus *_Atomic *where = a->flags & KVM_IOEVENTFD_FLAG_PIO ? &vm->pio : &vm->mmio;
	struct io_event n = {
		.addr = a->addr, .len = a->len, .match = a->datamatch,
		.wildcard = !(a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH),
	};
	long r = del ? 0 : check_assign(a);

	if (r)
		return r;
	n.fd = del ? eventfd_id(a->fd, &n.id) : eventfd_hold(a->fd, &n.id);
	if (n.fd < 0)
		return n.fd;
	pthread_mutex_lock(&vm->slots_lock);
	r = del ? event_del(vm, where, &n) : event_add(vm, where, &n);
	pthread_mutex_unlock(&vm->slots_lock);
	if (r && !del)
		sys_close(n.fd);
	return r;
}

/* ---- KVM_(UN)REGISTER_COALESCED_MMIO ---------------------------------------------------------------------- */

static long zone_add(struct kvm_vm *vm, const struct kvm_coalesced_mmio_zone *z)
{
	struct iobus *_Atomic *where = z->pio ? &vm->pio : &vm->mmio;
	const struct iobus *old = *where;
	struct iobus *b;

	if (old->nevents + old->nzones >= BUS_DEVICES_MAX)
		return -ENOSPC;
	b = bus_copy(old);
	if (!b)
		return -ENOMEM;
	b->zone[b->nzones++] = (struct io_zone){ z->addr, z->size };
	publish(vm, where, b);
	return 0;
}

/* Every zone that contains the given one goes; none is no error. */
static long zone_del(struct kvm_vm *vm, const struct kvm_coalesced_mmio_zone *z)
{
	struct iobus *_Atomic *where = z->pio ? &vm->pio : &vm->mmio;
	struct iobus *b = bus_copy(*where);
	u32 n = 0;

	if (!b)
		return -ENOMEM;
	for (u32 i = 0; i < b->nzones; i++) {
		const struct io_zone *o = &b->zone[i];

		if (!(z->addr >= o->addr && z->addr + z->size <= o->addr + o->size))
			b->zone[n++] = *o;
	}
	if (n == b->nzones) {
		bus_free(b);
		return 0;
	}
	b->nzones = n;
	publish(vm, where, b);
	return 0;
}

static long change_zone(struct kvm_vm *vm, const struct kvm_coalesced_mmio_zone *z, bool add)
{
	long r;

	if (z->pio > 1)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	r = add ? zone_add(vm, z) : zone_del(vm, z);
	pthread_mutex_unlock(&vm->slots_lock);
	return r;
}

long vm_register_coalesced_mmio(struct kvm_vm *vm, u64 arg, void *buf)
{
	return change_zone(vm, buf, true);
}

long vm_unregister_coalesced_mmio(struct kvm_vm *vm, u64 arg, void *buf)
{
	return change_zone(vm, buf, false);
}
