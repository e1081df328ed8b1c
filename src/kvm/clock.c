/* SPDX-License-Identifier: MIT */
/*
 * One clock per VM: the host's TSC, scaled (design rule 9).
 *
 * Guest TSC, crystal, kvmclock and the kernel's boot time are all functions of one host TSC value, so they never
 * disagree. A virtual clock (clock=virtual) replaces host_tsc(&vm->clock): each retired instruction is a nanosecond,
 * each delivery round without a window a tick of the crystal. The chips' timers stay with CLOCK_MONOTONIC.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <time.h>

#include "base/base.h"
#include "kvm/sys.h"

#define NSEC_PER_SEC 1000000000ull
#define TSC_KHZ_MAX 0x7fffffffu

u64 clock_virtual_ns(const struct kvm_clock *c)
{
	u32 n = c->machine->nvcpus;
	u64 ns = 0, rounds = 0;

	for (u32 i = 0; i < n; i++) {
		const struct vcpu *v = c->machine->vcpu[i];

		ns += *(const volatile u64 *)&v->icount;
		rounds += v->guard->rounds;
	}
	return ns + mul_div(rounds, NSEC_PER_SEC, c->crystal_hz);
}

static u64 host_tsc(const struct kvm_clock *c)
{
	if (c->machine)
		return c->base_tsc + mul_div(clock_virtual_ns(c), c->khz, 1000000);
	return base_rdtsc();
}

/* libc's clock_gettime() may use vector registers; this is called inside cpu_run() too. */
static u64 now_ns(clockid_t clock)
{
	struct timespec ts;

	sys_call(SYS_clock_gettime, clock, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

void clock_init(struct kvm_clock *c, const struct machine *m)
{
	c->machine = m->guard->opt.clock == CLOCK_VIRTUAL ? m : NULL;
	c->crystal_hz = m->guard->opt.crystal;
	c->khz = c->default_khz = base_tsc_khz();
	c->base_tsc = base_rdtsc();
	c->base_ns = now_ns(CLOCK_BOOTTIME);
	c->offset = -(s64)c->base_ns;
	pthread_mutex_init(&c->lock, NULL);
}

u64 clock_boot_ns(const struct kvm_clock *c, u64 tsc)
{
	return c->base_ns + mul_div(tsc - c->base_tsc, 1000000, c->khz);
}

u64 clock_kvmclock_ns(const struct kvm_clock *c)
{
	return clock_boot_ns(c, host_tsc(c)) + (u64)c->offset;
}

u64 clock_scale_tsc(const struct kvm_vcpu *k, u64 tsc)
{
	if (k->tsc_ratio == TSC_RATIO_ONE)
		return tsc;
	return (u64)((u128)tsc * k->tsc_ratio >> 48);
}

u64 clock_bus_tsc(struct vcpu *v)
{
	return clock_scale_tsc(kvm_of(v), host_tsc(&kvm_vm_of(v)->clock));
}

u64 clock_guest_tsc(struct vcpu *v)
{
	return clock_bus_tsc(v) + v->tsc_offset;
}

u64 clock_bus_crystal(struct vcpu *v)
{
	const struct kvm_clock *c = &kvm_vm_of(v)->clock;

	return mul_div(host_tsc(c) - c->base_tsc, c->crystal_hz, (u64)c->khz * 1000);
}

u32 clock_tsc_khz(struct vcpu *v)
{
	return kvm_of(v)->tsc_khz;
}

/* ---- TSC frequency and synchronization ------------------------------------------------------------------ */

int clock_set_tsc_khz(struct kvm_vcpu *k, u32 khz)
{
	u32 host = k->vm->clock.khz;

	if (!khz)
		return -EINVAL;
	k->tsc_khz = khz;
	k->tsc_ratio = khz == host ? TSC_RATIO_ONE : (u64)(((u128)khz << 48) / host);
	k->clock_update = true;
	return 0;
}

/*
 * The kernel's matching rule: a host write within a second of where the last written TSC would be by now means
 * "keep the vCPUs in step" and gets the same offset, not the value asked for.
 */
static void write_offset(struct kvm_vcpu *k, u64 offset, u64 tsc, u64 ns, bool matched)
{
	struct kvm_clock *c = &k->vm->clock;

	c->last_write_ns = ns;
	c->last_write = tsc;
	c->last_khz = k->tsc_khz;
	c->last_offset = offset;
	k->v->tsc_offset = offset;
	if (!matched) {
		c->cur_ns = ns;
		c->cur_write = tsc;
		c->cur_offset = offset;
	}
	k->clock_update = true;
	vcpu_request(k->v, REQ_KVM);
}

void clock_sync_tsc(struct kvm_vcpu *k, u64 val)
{
	struct kvm_clock *c = &k->vm->clock;
	u64 host = host_tsc(c), offset, ns, expected, hz = (u64)k->tsc_khz * 1000;
	bool matched;

	pthread_mutex_lock(&c->lock);
	offset = val - clock_scale_tsc(k, host);
	ns = clock_boot_ns(c, host);
	expected = c->last_write + mul_div(ns - c->last_write_ns, k->tsc_khz, 1000000);
	matched = !val || (val < expected + hz && val + hz > expected);
	matched = matched && k->tsc_khz == c->last_khz;
	if (matched)
		offset = c->cur_offset;
	write_offset(k, offset, val, ns, matched);
	pthread_mutex_unlock(&c->lock);
}

void clock_sync_offset(struct kvm_vcpu *k, u64 offset)
{
	struct kvm_clock *c = &k->vm->clock;
	u64 host = host_tsc(c);

	pthread_mutex_lock(&c->lock);
	write_offset(k, offset, clock_scale_tsc(k, host) + offset, clock_boot_ns(c, host),
		     c->last_khz == k->tsc_khz && c->last_offset == offset);
	pthread_mutex_unlock(&c->lock);
}

void clock_vcpu_init(struct kvm_vcpu *k)
{
	clock_set_tsc_khz(k, k->vm->clock.default_khz);
	clock_sync_tsc(k, 0);
}

long vcpu_set_tsc_khz(struct kvm_vcpu *k, u64 arg, void *buf)
{
	u32 khz = (u32)arg;

	if (khz >= TSC_KHZ_MAX)
		return -EINVAL;
	return clock_set_tsc_khz(k, khz ?: k->vm->clock.khz);
}

long vcpu_get_tsc_khz(struct kvm_vcpu *k, u64 arg, void *buf)
{
	return k->tsc_khz;
}

long vm_set_tsc_khz(struct kvm_vm *vm, u64 arg, void *buf)
{
	u32 khz = (u32)arg;

	if (khz >= TSC_KHZ_MAX)
		return -EINVAL;
	vm->clock.default_khz = khz ?: vm->clock.khz;
	return 0;
}

long vm_get_tsc_khz(struct kvm_vm *vm, u64 arg, void *buf)
{
	return vm->clock.default_khz;
}

/* ---- KVM_GET/SET_CLOCK --------------------------------------------------------------------------------------- */

long vm_get_clock(struct kvm_vm *vm, u64 arg, void *buf)
{
	struct kvm_clock_data *d = buf;

	d->host_tsc = host_tsc(&vm->clock);
	d->realtime = now_ns(CLOCK_REALTIME);
	d->clock = clock_boot_ns(&vm->clock, d->host_tsc) + (u64)vm->clock.offset;
	d->flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
	return 0;
}

long vm_set_clock(struct kvm_vm *vm, u64 arg, void *buf)
{
	struct kvm_clock_data *d = buf;
	u64 real = now_ns(CLOCK_REALTIME);

	if (d->flags & ~(u32)(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC))
		return -EINVAL;
	if ((d->flags & KVM_CLOCK_REALTIME) && real > d->realtime)
		d->clock += real - d->realtime; /* never backwards */
	pthread_mutex_lock(&vm->slots_lock);
	vm->clock.offset = (s64)(d->clock - clock_boot_ns(&vm->clock, host_tsc(&vm->clock)));
	for (u32 i = 0; i < vm->m.nvcpus; i++)
		kvm_of(vm->m.vcpu[i])->clock_update = true;
	vm_request_all(vm, REQ_KVM);
	pthread_mutex_unlock(&vm->slots_lock);
	return 0;
}
