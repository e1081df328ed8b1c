/* SPDX-License-Identifier: MIT */
/* The 8254: counting, latching, channel 0's interrupt, reinjection, the speaker port. */
#include "irq_fake.h"

#define PIT_NS(clocks) ((u64)(clocks) * 1000000000ull / 1193181)

static void begin(void)
{
	fake_vm(IRQCHIP_FULL, 1);
	is(pit_create(&fake_m, KVM_PIT_SPEAKER_DUMMY), 0, "create");
	outb(0x20, 0x11);
	outb(0x21, 0x20);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0x21, 0);
}

static void load(u8 n, u8 mode, u16 count)
{
	outb(0x43, (u8)(n << 6 | 0x30 | mode << 1));
	outb((u16)(0x40 + n), (u8)count);
	outb((u16)(0x40 + n), (u8)(count >> 8));
}

static u32 latched(u8 n)
{
	u32 lo;

	outb(0x43, (u8)(n << 6));
	lo = inb((u16)(0x40 + n));
	return lo | (u32)inb((u16)(0x40 + n)) << 8;
}

static int ticks_taken(void)
{
	int n = 0;

	while (irq_intr_pending(cpu(0)) == 0x20) {
		irq_intr_ack(cpu(0));
		outb(0x20, 0x20);
		n++;
	}
	return n;
}

static void test_create(void)
{
	fake_vm(IRQCHIP_SPLIT, 1);
	is(pit_create(&fake_m, 0), (u64)-ENOENT, "no PIT without full chips");
	is(pit_set_reinject(&fake_m, true), (u64)-ENXIO, "no PIT to control");
	fake_vm_end();
	fake_vm(IRQCHIP_FULL, 1);
	is(inb(0x40), 0xee, "no PIT, no port");
	pit_create(&fake_m, 0);
	is(pit_create(&fake_m, 0), (u64)-EEXIST, "only one");
	is(inb(0x61), 0xee, "port 61 only when asked for");
	fake_vm_end();
}

static void test_count(void)
{
	begin();
	load(2, 0, 1000);
	fake_wait(PIT_NS(400) + 1000);
	is(latched(2), 1000 - 401, "mode 0 counts down");
	fake_wait(PIT_NS(1000));
	is(latched(2), (u16)(1000 - 1401), "and wraps below zero");
	load(2, 2, 1000);
	fake_wait(PIT_NS(2300) + 1000);
	is(latched(2), 1000 - 301, "mode 2 reloads");
	load(2, 3, 1000);
	fake_wait(PIT_NS(600) + 1000);
	is(latched(2), 1000 - 202, "mode 3 counts by two");
	outb(0x43, 0x90); /* channel 2, LSB only, mode 0 */
	outb(0x42, 100);
	fake_wait(PIT_NS(10) + 1000);
	is(inb(0x42), 89, "LSB only");
	outb(0x43, 0xa0); /* MSB only */
	outb(0x42, 4);
	is(inb(0x42), 4, "MSB only");
	fake_vm_end();
}

static void test_latch(void)
{
	u8 st;

	begin();
	load(2, 0, 5000);
	fake_wait(PIT_NS(100) + 1000);
	outb(0x43, 0xc8 | 0); /* read-back: count and status of channel 2 */
	fake_wait(PIT_NS(1000));
	st = inb(0x42);
	is(st, 0x30, "status comes first: OUT low, word access, mode 0");
	is(inb(0x42), (5000 - 101) & 0xff, "then the count as latched, low");
	is(inb(0x42), (5000 - 101) >> 8, "high");
	ok(inb(0x42) != ((5000 - 101) & 0xff), "then live again");
	inb(0x42);
	fake_wait(PIT_NS(5000));
	outb(0x43, 0xe8); /* status only */
	is(inb(0x42) & 0x80, 0x80, "OUT high after the count");
	fake_vm_end();
}

static void test_speaker(void)
{
	begin();
	outb(0x61, 0);
	load(2, 1, 100);
	outb(0x61, 3);
	is(inb(0x61) & 3, 3, "gate and data read back");
	is(inb(0x61) & 0x20, 0x20, "OUT of the one-shot");
	fake_wait(PIT_NS(200));
	is(inb(0x61) & 0x20, 0, "one-shot over");
	outb(0x61, 0);
	outb(0x61, 1);
	is(inb(0x61) & 0x20, 0x20, "rising gate starts it again");
	fake_vm_end();
}

static void test_irq0(void)
{
	begin();
	load(0, 2, 11932); /* 100 Hz */
	fake_wait(9000000);
	is(ticks_taken(), 0, "not yet");
	fake_wait(2000000);
	is(ticks_taken(), 1, "first tick");
	fake_wait(10000000);
	is(ticks_taken(), 1, "periodic");
	/* Five periods unacknowledged: all of them come, one per acknowledge. */
	fake_wait(50000000);
	is(ticks_taken(), 5, "reinjected");
	pit_set_reinject(&fake_m, false);
	fake_wait(50000000);
	is(ticks_taken(), 1, "without reinjection they merge");
	pit_set_reinject(&fake_m, true);
	load(0, 0, 11932);
	fake_wait(50000000);
	is(ticks_taken(), 1, "mode 0 fires once");
	/* Masked ticks are forgotten when the guest opens the line. */
	load(0, 2, 11932);
	outb(0x21, 1);
	fake_wait(80000000);
	outb(0x21, 0);
	ok(ticks_taken() <= 1, "no flood after unmasking");
	/* Time passes in one jump: the service thread was late. */
	ticks_taken();
	fake_ns += 40000000;
	irq_timerq_run(&fake_q, fake_ns);
	ok(ticks_taken() >= 4, "late service catches up");
	fake_vm_end();
}

static void test_min_period(void)
{
	int n;

	begin();
	pit_set_reinject(&fake_m, false);
	load(0, 2, 1);
	for (n = 0; irq_timerq_next(&fake_q) < fake_ns + 10000000 && n < 1000; n++)
		fake_wait(irq_timerq_next(&fake_q) - fake_ns);
	fake_vm_end();
	ok(n > 10, "tiny period is limited, not endless");
}

static void test_nmi_watchdog(void)
{
	u8 vec;

	begin();
	apic_on(cpu(0));
	apic_w(cpu(0), APIC_LVT0, 0x400);
	load(0, 2, 11932);
	fake_wait(11000000);
	ok(requests(cpu(0)) & REQ_KVM, "NMI announced");
	is(irq_sync_events(cpu(0), &vec) & IRQ_EV_NMI, IRQ_EV_NMI, "ticks go to LVT0 in NMI mode");
	apic_w(cpu(0), APIC_LVT0, 0x10400);
	is(fake_m.irq->nmi_watchdogs, 0, "masking ends it");
	fake_vm_end();
}

static void test_state(void)
{
	struct kvm_pit_state2 s, t;

	begin();
	load(0, 2, 11932);
	load(2, 3, 4321);
	is(pit_get(&fake_m, &s), 0, "get");
	is(s.channels[0].count, 11932, "count 0");
	is(s.channels[0].mode, 2, "mode 0");
	is(s.channels[2].count, 4321, "count 2");
	is(s.channels[0].gate, 1, "gate");
	load(0, 0, 1);
	is(pit_set(&fake_m, &s), 0, "set");
	pit_get(&fake_m, &t);
	s.channels[1].count_load_time = t.channels[1].count_load_time;
	s.channels[2].count_load_time = t.channels[2].count_load_time;
	ok(!memcmp(&s, &t, sizeof(s)), "round trip");
	ticks_taken();
	fake_wait(11000000);
	is(ticks_taken(), 1, "restored channel 0 runs");
	s.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
	pit_set(&fake_m, &s);
	fake_wait(50000000);
	is(ticks_taken(), 0, "HPET legacy mode silences it");
	pit_get(&fake_m, &t);
	is(t.channels[0].mode, 2, "and keeps its mode");
	s.flags &= ~KVM_PIT_FLAGS_HPET_LEGACY;
	pit_set(&fake_m, &s);
	fake_wait(11000000);
	is(ticks_taken(), 1, "back again");
	fake_vm_end();
}

int main(void)
{
	test_create();
	test_count();
	test_latch();
	test_speaker();
	test_irq0();
	test_min_period();
	test_nmi_watchdog();
	test_state();
	return done_testing();
}
