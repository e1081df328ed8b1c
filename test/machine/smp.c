/* SPDX-License-Identifier: MIT */
/*
 * Several processors: starting them, memory order as the manual promises it, locked operations, code that one
 * processor changes for another, interrupts between them.
 */
#include "guest.h"

#define CPUS 4
static volatile int round_start, round_done[CPUS], phase;
static int started;

/* ---- a barrier for rounds ---- */

static volatile int arrived, generation;

static void barrier(int n)
{
	int g = generation;

	if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == n) {
		arrived = 0;
		__atomic_add_fetch(&generation, 1, __ATOMIC_SEQ_CST);
		return;
	}
	while (generation == g)
		cpu_pause();
}

/* ---- litmus tests ---- */

#define ROUNDS 3000
#define CYCLES 1500000000ul	/* for each kind: a barrier is slow where processors wait for a host core */
static volatile bool enough;
static u64 began;
static int rounds_sb;
/* All processors agree before round i whether there is time for it. */
static bool time_for(int cpu, int i)
{
	if (cpu == 0) {
		if (i == 0)
			began = rdtsc();
		enough = i && rdtsc() - began > CYCLES;
	}
	barrier(CPUS);
	return !enough;
}

static volatile int x __attribute__((aligned(64))), y __attribute__((aligned(64)));
static volatile int r[4] __attribute__((aligned(64)));
static int forbidden_sb, forbidden_mp, forbidden_iriw, seen_sb;

#define STORE(v, n) __asm__ volatile("movl $" #n ", %0" : "=m"(v) :: "memory")
#define LOAD(v) ({ int t_; __asm__ volatile("movl %1, %0" : "=r"(t_) : "m"(v) : "memory"); t_; })

/* Store buffering with a fence: both loads cannot miss the other's store. Without it they may. */
static void store_buffering(int cpu, bool fence)
{
	if (cpu == 0) {
		STORE(x, 1);
		if (fence)
			__asm__ volatile("mfence" ::: "memory");
		r[0] = LOAD(y);
	} else if (cpu == 1) {
		STORE(y, 1);
		if (fence)
			__asm__ volatile("lock orl $0, (%%" "rsp)" ::: "memory");
		r[1] = LOAD(x);
	}
}

/* Message passing: whoever sees the flag sees the message. */
static void message_passing(int cpu)
{
	if (cpu == 0) {
		STORE(x, 1);
		STORE(y, 1);
	} else if (cpu == 1) {
		r[0] = LOAD(y);
		r[1] = LOAD(x);
	}
}

/* Independent readers of independent writes agree on the order. */
static void readers_writers(int cpu)
{
	if (cpu == 0) {
		STORE(x, 1);
	} else if (cpu == 1) {
		STORE(y, 1);
	} else if (cpu == 2) {
		r[0] = LOAD(x);
		r[1] = LOAD(y);
	} else {
		r[2] = LOAD(y);
		r[3] = LOAD(x);
	}
}

static void litmus(int cpu)
{
	for (int kind = 0; kind < 4; kind++) {
		for (int i = 0; i < ROUNDS; i++) {
			if (cpu == 0) {
				x = y = 0;
				r[0] = r[1] = r[2] = r[3] = -1;
			}
			if (!time_for(cpu, i))
				break;
			if (kind < 2)
				store_buffering(cpu, kind == 0);
			else if (kind == 2)
				message_passing(cpu);
			else
				readers_writers(cpu);
			barrier(CPUS);
			if (cpu)
				continue;
			if (kind == 0)
				forbidden_sb += !r[0] && !r[1];
			else if (kind == 1)
				seen_sb += !r[0] && !r[1];
			else if (kind == 2)
				forbidden_mp += r[0] == 1 && r[1] == 0;
			else
				forbidden_iriw += r[0] == 1 && r[1] == 0 && r[2] == 1 && r[3] == 0;
			rounds_sb += kind == 1;
		}
		barrier(CPUS);	/* all have seen "enough" */
	}
}

/* ---- locked operations ---- */

#define ADDS 20000
static volatile u32 counter, unaligned_guard[32] __attribute__((aligned(64)));
static volatile u64 pair[2] __attribute__((aligned(16)));
static volatile int torn;

static void locked(int cpu)
{
	/* Four bytes before a cache line's end and four behind it: a split lock. */
	volatile u64 *split = (volatile u64 *)((ulong)unaligned_guard + 60);

	for (int i = 0; i < ADDS; i++)
		__asm__ volatile("lock incl %0" : "+m"(counter) :: "memory", "cc");
	barrier(CPUS);
	for (int i = 0; i < ADDS / 20; i++)
		__asm__ volatile("lock addq $1, %0" : "+m"(*split) :: "memory", "cc");
	barrier(CPUS);
	for (int i = 0; i < ADDS / 10; i++) {
		u64 lo = pair[0], hi = pair[1];
		bool done;

		do {
			__asm__ volatile("lock cmpxchg16b %1; sete %0"
					 : "=q"(done), "+m"(*(u64 (*)[2])pair), "+a"(lo), "+d"(hi)
					 : "b"(lo + 1), "c"(hi + 2) : "memory", "cc");
			torn |= hi != lo * 2;
		} while (!done);
	}
	barrier(CPUS);
}

/* ---- cross-modifying code ---- */

#define CHANGES 400
static u8 *code_page;
static volatile int version, wrong_code, seen_version[CPUS];

/* mov eax, N; ret: one processor changes N, the others run it and must see what was announced. */
static void cross_modify(int cpu)
{
	int (*fn)(void) = (int (*)(void))code_page;

	if (cpu == 0) {
		code_page[0] = 0xb8;
		*(volatile u32 *)(code_page + 1) = 0;
		code_page[5] = 0xc3;
	}
	barrier(CPUS);
	for (int i = 1; i <= CHANGES && time_for(cpu, i - 1); i++) {
		if (cpu == 0) {
			*(volatile u32 *)(code_page + 1) = (u32)i;
			version = i;
		} else {
			u32 d[4];

			while (version != i)
				cpu_pause();
			cpuid(0, 0, d);		/* serializes, as the manual asks */
			if (fn() != i)
				wrong_code++;
		}
		barrier(CPUS);
	}
	/* Unannounced: an old version or a new one, and never back. */
	for (int i = 1; i <= CHANGES * 10; i++) {
		if (cpu == 0) {
			*(volatile u32 *)(code_page + 1) = (u32)(CHANGES + i);
		} else {
			int v = fn();

			if (v < seen_version[cpu] || v > CHANGES * 11)
				wrong_code++;
			seen_version[cpu] = v;
		}
	}
	barrier(CPUS);
}

/* ---- interrupts between processors, TLB shootdown ---- */

#define SHOOT 0x41
#define PING 0x42
static volatile int shot[CPUS], pinged[CPUS], stale;
static u64 *leaf;
static volatile u32 *const window = (void *)(3ul << 39);

static bool on_interrupt(struct frame *f)
{
	if (f->vector == SHOOT) {
		invlpg((void *)window);
		shot[cpu_index()]++;
	} else if (f->vector == PING) {
		pinged[cpu_index()]++;
	} else {
		return false;
	}
	apic_write(0xb0, 0);
	return true;
}

static void shootdown(int cpu)
{
	static u32 *pages[2];

	apic_write(0xf0, 0x1ff);
	if (cpu == 0) {
		u64 *l3 = page(), *l2 = page();

		leaf = page();
		pages[0] = page();
		pages[1] = page();
		pages[0][0] = 100;
		pages[1][0] = 101;
		pml4[3] = (ulong)l3 | 3;
		l3[0] = (ulong)l2 | 3;
		l2[0] = (ulong)leaf | 3;
		leaf[0] = (ulong)pages[0] | 3;
		phase = 0;
	}
	barrier(CPUS);
	__asm__ volatile("sti");
	for (int i = 1; i <= 200 && time_for(cpu, i - 1); i++) {
		if (cpu == 0) {
			int before[CPUS];

			for (int c = 1; c < CPUS; c++)
				before[c] = shot[c];
			leaf[0] = (ulong)pages[i & 1] | 3;
			invlpg((void *)window);
			apic_write(0x300, 0xc4000 | SHOOT);	/* all but self */
			for (int c = 1; c < CPUS; c++)
				while (shot[c] == before[c])
					cpu_pause();
			phase = i;
		} else {
			for (int n = 1; phase < i; n++) {
				(void)*window;
				if (n % 256 == 0)
					cpu_pause();
			}
			if (*window != 100u + (u32)(i & 1))
				stale++;
		}
		barrier(CPUS);
	}
	__asm__ volatile("cli");
	barrier(CPUS);
}

/* A halted processor wakes up for an interrupt from another one. */
static void ping(int cpu)
{
	for (int i = 1; i <= 50; i++) {
		if (cpu == 0) {
			for (int c = 1; c < CPUS; c++) {
				apic_write(0x310, (u32)c << 24);
				apic_write(0x300, 0x4000 | PING);
				while (pinged[c] < i)
					cpu_pause();
			}
		} else {
			while (pinged[cpu] < i)
				__asm__ volatile("sti; hlt; cli" ::: "memory");
		}
		barrier(CPUS);
	}
}

/* Says where a test that hangs hung. */
static void stage(int cpu, const char *name)
{
	if (cpu == 0)
		print("# %s\n", name);
}

static void work(int cpu)
{
	barrier(CPUS);
	litmus(cpu);
	stage(cpu, "locked operations");
	locked(cpu);
	stage(cpu, "cross-modifying code");
	cross_modify(cpu);
	stage(cpu, "TLB shootdown");
	shootdown(cpu);
	stage(cpu, "interrupts");
	ping(cpu);
	barrier(CPUS);
}

int main(void)
{
	code_page = page();
	started = smp_start(CPUS - 1, work);
	is(started, CPUS - 1, "INIT and SIPI start the other processors");
	if (started != CPUS - 1)
		return 0;
	trap_hook = on_interrupt;
	work(0);
	is(forbidden_sb, 0, "store buffering with fences: never both old");
	print("# without fences both loads were early in %d of %d rounds\n", seen_sb, rounds_sb);
	is(forbidden_mp, 0, "message passing: the flag never overtakes the message");
	is(forbidden_iriw, 0, "independent readers agree on the order of writes");
	is(counter, CPUS * ADDS, "locked increments add up");
	is(*(volatile u64 *)((ulong)unaligned_guard + 60), CPUS * (ADDS / 20), "split locked additions add up");
	is(pair[0], CPUS * (ADDS / 10), "CMPXCHG16B loops add up");
	is(pair[1], 2 * CPUS * (ADDS / 10), "in the high half too");
	is(torn, 0, "and never saw halves of two values");
	is(wrong_code, 0, "code changed by another processor");
	is(stale, 0, "after a TLB shootdown no processor uses the old page");
	for (int c = 1; c < CPUS; c++)
		ok(pinged[c] == 50, "processor %d woke up from HLT 50 times", c);
	return 0;
}
