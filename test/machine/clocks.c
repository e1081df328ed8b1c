/* SPDX-License-Identifier: MIT */
/* Time and interrupts of one processor: PIT, PIC, local APIC timer, TSC deadline, HLT, interrupt shadows. */
#include "guest.h"

static volatile int count[256];
static volatile ulong last_ip;

static bool on_interrupt(struct frame *f)
{
	if (f->vector < 0x20)
		return false;
	count[f->vector]++;
	last_ip = f->ip;
	if (f->vector < 0x30) {
		if (f->vector >= 0x28)
			outb(0xa0, 0x20);
		outb(0x20, 0x20);
	} else {
		apic_write(0xb0, 0);
	}
	return true;
}

static void pic_at(u8 base)
{
	outb(0x20, 0x11);
	outb(0x21, base);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0xa0, 0x11);
	outb(0xa1, (u8)(base + 8));
	outb(0xa1, 2);
	outb(0xa1, 1);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

static u64 tsc_per_ms;

/* Channel 2 in mode 0 counts 1193182 times a second; port 61h shows its output. */
static u64 tsc_over_pit(u32 ms)
{
	u32 n = 1193182 * ms / 1000;
	u64 start;

	outb(0x61, (inb(0x61) & ~2) | 1);
	outb(0x43, 0xb0);
	outb(0x42, (u8)n);
	start = rdtsc();
	outb(0x42, (u8)(n >> 8));
	while (!(inb(0x61) & 0x20))
		;
	return rdtsc() - start;
}

static void wait_ms(u32 ms)
{
	u64 until = rdtsc() + ms * tsc_per_ms;

	while (rdtsc() < until)
		cpu_pause();
}

/* At least that long; and not forever, which is all that can be said on a busy host. */
static bool lasted(u64 cycles, u32 ms)
{
	return cycles >= ms * tsc_per_ms && cycles < (ms + 2000) * tsc_per_ms;
}

static void pit(void)
{
	u64 start, a, b;
	u32 seen, tries = 0;

	do {	/* a busy host may make any wait longer */
		a = tsc_over_pit(10);
		b = tsc_over_pit(40);
	} while ((b < a * 3 || b > a * 5) && tries++ < 50);

	tsc_per_ms = b / 40;
	ok(tries < 50, "PIT channel 2: 40 ms take four times as long as 10 ms");
	print("# %llu kHz, 10 ms are %llu cycles\n", (unsigned long long)tsc_per_ms, (unsigned long long)a);
	outb(0x43, 0x34);
	outb(0x40, 0xa9);
	outb(0x40, 0x04);		/* 1193 ticks: 1 kHz */
	outb(0x21, 0xfe);
	start = rdtsc();
	while (count[0x20] < 50)
		__asm__ volatile("sti; hlt; cli" ::: "memory");
	start = rdtsc() - start;
	ok(lasted(start, 25), "PIT channel 0: 50 interrupts of 1 kHz in about 50 ms");
	outb(0x21, 0xff);
	__asm__ volatile("sti; nop; nop; cli");	/* one that was on its way */
	seen = count[0x20];
	wait_ms(5);
	__asm__ volatile("sti; nop; nop; cli");
	is(count[0x20], seen, "a masked line does not interrupt");
}

static void wait_pending(void)
{
	outb(0x20, 0x0a);	/* read IRR */
	while (!(inb(0x20) & 1))
		cpu_pause();
}

/* STI holds interrupts back for one instruction: none can come between it and what follows. */
static void shadow(void)
{
	extern char after_hlt[], after_nop[];

	outb(0x43, 0x34);
	outb(0x40, 0xa9);
	outb(0x40, 0x04);
	outb(0x21, 0xfe);
	wait_pending();
	__asm__ volatile("sti; hlt; .globl after_hlt; after_hlt: cli" ::: "memory");
	is(last_ip, (ulong)after_hlt, "STI; HLT with an interrupt pending: it comes after HLT");
	wait_pending();
	__asm__ volatile("sti; nop; .globl after_nop; after_nop: nop; cli" ::: "memory");
	is(last_ip, (ulong)after_nop, "STI; NOP: it comes after NOP");
	outb(0x21, 0xff);
}

static void apic_timer(void)
{
	u64 start;
	u32 ticks;

	apic_write(0xf0, 0x1ff);
	apic_write(0x3e0, 3);		/* divide by 16 */
	apic_write(0x320, 0x10041);
	apic_write(0x380, ~0u);
	wait_ms(20);
	ticks = ~0u - apic_read(0x390);
	ok(ticks > 100, "the local APIC's timer counts");
	apic_write(0x320, 0x41);
	apic_write(0x380, ticks / 2);	/* 10 ms */
	start = rdtsc();
	while (!count[0x41])
		__asm__ volatile("sti; hlt; cli" ::: "memory");
	start = rdtsc() - start;
	ok(lasted(start, 8), "one-shot: an interrupt after 10 ms");
	wait_ms(15);
	__asm__ volatile("sti; nop; nop; cli");
	is(count[0x41], 1, "and only one");
	is(apic_read(0x390), 0, "its count stays 0");
	apic_write(0x320, 0x20042);
	apic_write(0x380, ticks / 20);	/* 1 ms */
	start = rdtsc();
	while (count[0x42] < 20)
		__asm__ volatile("sti; hlt; cli" ::: "memory");
	start = rdtsc() - start;
	ok(lasted(start, 8), "periodic: 20 interrupts in about 20 ms");
	apic_write(0x320, 0x10042);
}

static void deadline(void)
{
	u64 start;

	if (!HAS_TSC_DEADLINE) {
		skip("TSC deadline", "no such feature");
		return;
	}
	apic_write(0x320, 0x40043);
	__asm__ volatile("mfence");
	start = rdtsc();
	wrmsr(0x6e0, start + 5 * tsc_per_ms);
	while (!count[0x43])
		__asm__ volatile("sti; hlt; cli" ::: "memory");
	start = rdtsc() - start;
	ok(lasted(start, 5), "TSC deadline: after 5 ms and not before");
	is(rdmsr(0x6e0), 0, "the register is 0 afterwards");
	wrmsr(0x6e0, 1);
	__asm__ volatile("sti; nop; nop; cli");
	wait_ms(1);
	__asm__ volatile("sti; nop; nop; cli");
	is(count[0x43], 2, "a deadline in the past comes at once");
	apic_write(0x320, 0x10043);
}

/* Self-IPIs of several priorities wait for each other and for TPR. */
static void priorities(void)
{
	apic_write(0x80, 0x50);
	apic_write(0x300, 0x40044);	/* self */
	apic_write(0x300, 0x40061);
	__asm__ volatile("sti; nop; nop; nop; cli");
	is(count[0x61], 1, "an interrupt above TPR comes");
	is(count[0x44], 0, "one below waits");
	is(apic_read(0x200 + 0x44 / 32 * 16) >> 0x44 % 32 & 1, 1, "in IRR");
	write_cr4(read_cr4());
#ifdef __x86_64__
	__asm__ volatile("mov %0, %%cr8" :: "r"(0ul));
#endif
	is(apic_read(0x80), 0, "CR8 is TPR");
	__asm__ volatile("sti; nop; nop; nop; cli");
	is(count[0x44], 1, "TPR lowered, it comes");
}

static void monotonic(void)
{
	u64 last = rdtsc();
	int back = 0;

	for (int i = 0; i < 20000; i++) {
		u64 now = rdtsc();

		back += now < last;
		last = now;
	}
	is(back, 0, "RDTSC never goes back");
	wrmsr(0x10, 1000);
	ok(rdtsc() < 1000 + tsc_per_ms * 1000, "WRMSR of the TSC sets it");
}

static volatile int nmis;

static bool on_nmi(struct frame *f)
{
	if (f->vector != NMI)
		return on_interrupt(f);
	nmis++;
	if (nmis == 1) {
		/* A second one during the handler waits for IRET. */
		apic_write(0x310, 0);
		apic_write(0x300, 0x44400);
		for (int i = 0; i < 1000; i++)
			cpu_pause();
	}
	return true;
}

static void non_maskable(void)
{
	trap_hook = on_nmi;
	apic_write(0x310, 0);
	apic_write(0x300, 0x400);	/* NMI to APIC 0: ourselves */
	for (int i = 0; i < 1000 && nmis < 1; i++)
		cpu_pause();
	ok(nmis >= 1, "an NMI comes with IF clear");
}

int main(void)
{
	trap_hook = on_interrupt;
	pic_at(0x20);
	pit();
	shadow();
	apic_timer();
	deadline();
	priorities();
	non_maskable();
	monotonic();
	return 0;
}
