/* SPDX-License-Identifier: MIT */
/*
 * Many threads, real time: vCPUs that sleep as HLT does, send each other IPIs and count ticks of their own
 * timers, while device threads drive lines and messages. Nothing may be lost. Run it under TSan too.
 */
#include <pthread.h>
#include "irq_fake.h"

#define CPUS 4
#define ROUNDS 2000
#define LEVEL_VECTOR 0x31
#define MSI_VECTOR 0x41
#define IPI_VECTOR 0x51
#define TIMER_VECTOR 0x61

static _Atomic bool stop;
static _Atomic u32 ipis, msis, levels, ticks;
static _Atomic int line_high;
static u64 t0;

static u64 real_now(void *ctx)
{
	return base_now_ns();
}

static u64 real_tsc(struct vcpu *v)
{
	return base_now_ns() - t0;
}

static u32 real_khz(struct vcpu *v)
{
	return 1000000;
}

static const struct irq_ops real_ops = { .now = real_now, .guest_tsc = real_tsc, .tsc_khz = real_khz };

static void handle(struct vcpu *v, int vector)
{
	switch (vector) {
	case LEVEL_VECTOR:
		atomic_fetch_add(&levels, 1);
		irq_set_level(&fake_m, 0, 20, 0, false);
		atomic_store(&line_high, 0);
		break;
	case MSI_VECTOR:
		atomic_fetch_add(&msis, 1);
		break;
	case IPI_VECTOR:
		atomic_fetch_add(&ipis, 1);
		apic_w(v, APIC_ICR2, ((v->id + 1) % CPUS) << 24);
		apic_w(v, APIC_ICR, 0x4000 | IPI_VECTOR);
		break;
	case TIMER_VECTOR:
		atomic_fetch_add(&ticks, 1);
		irq_msr_write(v, 0x6e0, real_tsc(v) + 300000);
		break;
	default:
		break;
	}
	eoi(v);
}

static void *run(void *arg)
{
	struct vcpu *v = arg;
	int vector;

	apic_w(v, APIC_LVTT, 0x40000 | TIMER_VECTOR);
	irq_msr_write(v, 0x6e0, real_tsc(v) + 100000);
	while (!stop) {
		u32 seen = v->kicked;

		if (atomic_exchange(&v->request, 0) == 0) {
			futex_wait(&v->kicked, seen, 100000000);
			continue;
		}
		while ((vector = irq_intr_pending(v)) >= 0)
			if ((vector = irq_intr_ack(v)) >= 0)
				handle(v, vector);
	}
	return NULL;
}

/* The service thread, without its timerfd. */
static void *serve(void *arg)
{
	while (!stop) {
		struct timespec ts = { .tv_nsec = 50000 };

		irq_timerq_run(&fake_q, base_now_ns());
		nanosleep(&ts, NULL);
	}
	return NULL;
}

static void *messages(void *arg)
{
	u32 sent = 0, spins = 0;

	/* One at a time, so that none may merge. */
	while (sent < ROUNDS && spins < 4000000) {
		if (msis == sent) {
			irq_send_msi_raw(&fake_m, 0xfee00000 | (sent % CPUS) << 12, 0, MSI_VECTOR);
			sent++;
		}
		sched_yield();
		spins++;
	}
	return (void *)(uintptr_t)sent;
}

static void *lines(void *arg)
{
	u32 sent = 0, spins = 0;

	while (sent < ROUNDS && spins < 4000000) {
		if (!line_high) {
			atomic_store(&line_high, 1);
			irq_set_level(&fake_m, 0, 20, 1, false);
			sent++;
		}
		sched_yield();
		spins++;
	}
	return (void *)(uintptr_t)sent;
}

/* Somebody keeps changing the routing table to the same thing. */
static void *routes(void *arg)
{
	struct kvm_irq_routing_entry e[2] = { { .gsi = 20, .type = KVM_IRQ_ROUTING_IRQCHIP },
					      { .gsi = 50, .type = KVM_IRQ_ROUTING_MSI } };

	e[0].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	e[0].u.irqchip.pin = 20;
	while (!stop) {
		struct timespec ts = { .tv_nsec = 200000 };

		irq_set_routing(&fake_m, e, 2);
		nanosleep(&ts, NULL);
	}
	return NULL;
}

int main(void)
{
	pthread_t cpu_t[CPUS], serve_t, msg_t, line_t, route_t;
	void *sent_msgs, *sent_lines;
	u32 before;

	t0 = base_now_ns();
	irq_timerq_init(&fake_q, NULL, NULL);
	irqchip_create(&fake_m, &real_ops, NULL, &fake_q);
	irqchip_enable(&fake_m, IRQCHIP_FULL, 0);
	for (u32 i = 0; i < CPUS; i++) {
		fake_vcpu(i);
		apic_on(cpu(i));
	}
	rte(20, 2ull << 56 | BIT(15) | LEVEL_VECTOR);
	for (u32 i = 0; i < CPUS; i++)
		pthread_create(&cpu_t[i], NULL, run, cpu(i));
	pthread_create(&serve_t, NULL, serve, NULL);
	pthread_create(&route_t, NULL, routes, NULL);
	pthread_create(&msg_t, NULL, messages, NULL);
	pthread_create(&line_t, NULL, lines, NULL);
	irq_send_msi_raw(&fake_m, 0xfee00000, 0, IPI_VECTOR);
	pthread_join(msg_t, &sent_msgs);
	pthread_join(line_t, &sent_lines);
	before = ticks;
	for (int i = 0; i < 300 && ticks < before + 8; i++)
		usleep(10000);
	stop = true;
	for (u32 i = 0; i < CPUS; i++) {
		vcpu_request(cpu(i), REQ_EXIT);
		pthread_join(cpu_t[i], NULL);
	}
	pthread_join(serve_t, NULL);
	pthread_join(route_t, NULL);
	is((uintptr_t)sent_msgs, ROUNDS, "every message was answered in time");
	ok(msis >= ROUNDS - 1, "no message was lost");
	is((uintptr_t)sent_lines, ROUNDS, "every level was answered in time");
	ok(levels >= ROUNDS - 1, "no level interrupt was lost");
	ok(ipis > ROUNDS, "the IPI went round (%u)", ipis);
	ok(ticks >= before + 8, "timers tick (%u)", ticks);
	fake_vm_end();
	return done_testing();
}
