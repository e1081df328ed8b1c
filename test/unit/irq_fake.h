/* SPDX-License-Identifier: MIT */
/*
 * A VM of nothing but interrupt chips: vCPUs that never run, a clock that tests turn by hand, and a
 * vcpu_request() that only remembers. Link with the irq and base rooms alone.
 */
#pragma once
#include <asm/kvm.h>
#include <linux/kvm.h>
#include "base/base.h"
#include "irq/chip.h"
#include "irq/irq.h"
#include "tap.h"

static _Atomic u64 fake_ns = 1000000000;
static struct irq_timerq fake_q;
static struct machine fake_m;

void vcpu_request(struct vcpu *v, u32 bits)
{
	atomic_fetch_or(&v->request, bits);
	atomic_fetch_add(&v->kicked, 1);
	futex_wake(&v->kicked, 1);
}

/* One word of guest memory. */
static u32 fake_word;

int mem_read(const struct mem *m, unsigned int as, gpa_t gpa, void *dst, size_t len)
{
	if (gpa != 0x1000 || len != 4)
		return -EFAULT;
	memcpy(dst, &fake_word, 4);
	return 0;
}

int mem_write(const struct mem *m, unsigned int as, gpa_t gpa, const void *src, size_t len)
{
	if (gpa != 0x1000 || len != 4)
		return -EFAULT;
	memcpy(&fake_word, src, 4);
	return 0;
}

static inline u64 fake_now(void *ctx)
{
	return fake_ns;
}

/* 2 GHz */
static inline u64 fake_tsc(struct vcpu *v)
{
	return fake_ns * 2;
}

static inline u32 fake_khz(struct vcpu *v)
{
	return 2000000;
}

static const struct irq_ops fake_ops = { .now = fake_now, .guest_tsc = fake_tsc, .tsc_khz = fake_khz };

static inline void fake_feature(struct vcpu *v, enum feature f, bool on)
{
	v->features[f / 64] &= ~BIT(f % 64);
	v->features[f / 64] |= (u64)on << (f % 64);
}

static inline struct vcpu *fake_vcpu(u32 id)
{
	struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ul);

	memset(v, 0, sizeof(*v));
	v->vm = &fake_m;
	v->id = id;
	v->index = fake_m.nvcpus++;
	v->maxphyaddr = 46;
	fake_m.vcpu[v->index] = v;
	fake_feature(v, FEAT_X2APIC, true);
	fake_feature(v, FEAT_TSC_DEADLINE, true);
	if (lapic_create(v))
		abort();
	return v;
}

static inline void fake_vm(enum irqchip_mode mode, u32 vcpus)
{
	memset(&fake_m, 0, sizeof(fake_m));
	irq_timerq_init(&fake_q, NULL, NULL);
	if (irqchip_create(&fake_m, &fake_ops, NULL, &fake_q))
		abort();
	if (mode != IRQCHIP_NONE && irqchip_enable(&fake_m, mode, 24))
		abort();
	for (u32 i = 0; i < vcpus; i++)
		fake_vcpu(i);
}

static inline void fake_vm_end(void)
{
	for (u32 i = 0; i < fake_m.nvcpus; i++) {
		lapic_destroy(fake_m.vcpu[i]);
		free(fake_m.vcpu[i]);
	}
	irqchip_destroy(&fake_m);
}

/* Let time pass, running every timer at its own moment. */
static inline void fake_wait(u64 ns)
{
	u64 end = fake_ns + ns, next;

	while ((next = irq_timerq_next(&fake_q)) <= end) {
		if (next > fake_ns)
			fake_ns = next;
		irq_timerq_run(&fake_q, fake_ns);
	}
	fake_ns = end;
}

static inline struct vcpu *cpu(u32 i)
{
	return fake_m.vcpu[i];
}

static inline void outb(u16 port, u8 val)
{
	irq_pio_write(cpu(0), port, 1, &val);
}

static inline u8 inb(u16 port)
{
	u8 val = 0xee;

	irq_pio_read(cpu(0), port, 1, &val);
	return val;
}

static inline void mmio_w(struct vcpu *v, gpa_t gpa, u32 val)
{
	irq_mmio_write(v, gpa, 4, &val);
}

static inline u32 mmio_r(struct vcpu *v, gpa_t gpa)
{
	u32 val = 0xeeeeeeee;

	irq_mmio_read(v, gpa, 4, &val);
	return val;
}

static inline void apic_w(struct vcpu *v, u32 reg, u32 val)
{
	mmio_w(v, APIC_BASE_DEFAULT + reg, val);
}

static inline u32 apic_r(struct vcpu *v, u32 reg)
{
	return mmio_r(v, APIC_BASE_DEFAULT + reg);
}

static inline void ioapic_w(u32 reg, u32 val)
{
	mmio_w(cpu(0), IOAPIC_BASE, reg);
	mmio_w(cpu(0), IOAPIC_BASE + 0x10, val);
}

static inline u32 ioapic_r(u32 reg)
{
	mmio_w(cpu(0), IOAPIC_BASE, reg);
	return mmio_r(cpu(0), IOAPIC_BASE + 0x10);
}

static inline void rte(u32 pin, u64 e)
{
	ioapic_w(0x11 + 2 * pin, (u32)(e >> 32));
	ioapic_w(0x10 + 2 * pin, (u32)e);
}

/* Software-enable the local APIC. */
static inline void apic_on(struct vcpu *v)
{
	apic_w(v, APIC_SPIV, 0x1ff);
}

static inline void eoi(struct vcpu *v)
{
	apic_w(v, APIC_EOI, 0);
}

static inline int pulse(u32 gsi)
{
	int r = irq_set_level(&fake_m, IRQ_SOURCE_USER, gsi, 1, true);

	irq_set_level(&fake_m, IRQ_SOURCE_USER, gsi, 0, true);
	return r;
}

static inline u32 requests(struct vcpu *v)
{
	return atomic_exchange(&v->request, 0);
}
