/* SPDX-License-Identifier: MIT */
#include "vmm/lab/board.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIG_TIME SIGUSR2

double board_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* ---- calls -------------------------------------------------------------------------------------- */

static int call(struct board *b, int fd, unsigned long request, unsigned long arg)
{
	int r = b->kvm->ioctl(fd, request, arg);

	return r < 0 ? -errno : r;
}

int board_ioctl(struct board *b, unsigned long request, const void *arg)
{
	return call(b, b->vm, request, (unsigned long)arg);
}

int board_cpu_ioctl(struct board *b, int cpu, unsigned long request, const void *arg)
{
	return call(b, b->cpu[cpu].fd, request, (unsigned long)arg);
}

int board_enable_cap(struct board *b, u32 cap, u64 arg)
{
	struct kvm_enable_cap c = { .cap = cap, .args = { arg } };

	return board_ioctl(b, KVM_ENABLE_CAP, &c);
}

/* ---- memory ------------------------------------------------------------------------------------- */

void board_put(struct board *b, u32 gpa, u64 val, unsigned int size)
{
	memcpy(b->ram + gpa, &val, size);
}

u64 board_get(const struct board *b, u32 gpa, unsigned int size)
{
	u64 val = 0;

	memcpy(&val, b->ram + gpa, size);
	return val;
}

u64 board_code_at(int cpu)
{
	return BOARD_CODE + (u64)cpu * BOARD_CODE_CPU;
}

void board_load(struct board *b, int cpu, const u8 *code, const u8 *end)
{
	memcpy(b->ram + board_code_at(cpu), code, (size_t)(end - code));
}

u64 board_desc(u32 base, u32 limit, u8 access, u8 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 |
	       (u64)(flags & 15) << 52 | (u64)(base >> 24) << 56;
}

void board_gdt(struct board *b, u16 sel, u64 desc)
{
	board_put(b, BOARD_GDT + (sel & ~7u), desc, 8);
}

static bool is_long(enum board_mode mode)
{
	return mode == BOARD_LONG64 || mode == BOARD_COMPAT32;
}

void board_gate(struct board *b, enum board_mode mode, unsigned int vector, u16 sel, u64 offset, enum board_gate type,
		unsigned int dpl, unsigned int ist)
{
	u64 lo = (offset & 0xffff) | (u64)sel << 16 | (u64)ist << 32 | (u64)type << 40 | (u64)dpl << 45 | 1ull << 47 |
		 (offset >> 16 & 0xffff) << 48;

	if (mode == BOARD_REAL16) {
		board_put(b, vector * 4, (offset & 0xffff) | (u64)sel << 16, 4);
	} else if (is_long(mode)) {
		board_put(b, BOARD_IDT + vector * 16, lo, 8);
		board_put(b, BOARD_IDT + vector * 16 + 8, offset >> 32, 8);
	} else {
		board_put(b, BOARD_IDT + vector * 8, lo, 8);
	}
}

static void make_gdt(struct board *b)
{
	board_gdt(b, SEL_CODE0, board_desc(0, 0xfffff, 0x9b, 0xc));
	board_gdt(b, SEL_DATA0, board_desc(0, 0xfffff, 0x93, 0xc));
	board_gdt(b, SEL_CODE3, board_desc(0, 0xfffff, 0xfb, 0xc));
	board_gdt(b, SEL_DATA3, board_desc(0, 0xfffff, 0xf3, 0xc));
	board_gdt(b, SEL_CODE0_64, board_desc(0, 0xfffff, 0x9b, 0xa));
	board_gdt(b, SEL_CODE3_64, board_desc(0, 0xfffff, 0xfb, 0xa));
	board_gdt(b, SEL_CODE0_16, board_desc(0, 0xffff, 0x9b, 0));
	board_gdt(b, SEL_DATA0_16, board_desc(0, 0xffff, 0x93, 0));
	board_gdt(b, SEL_CONFORMING, board_desc(0, 0xfffff, 0x9f, 0xc));
	board_gdt(b, SEL_TSS, board_desc(BOARD_TSS, 0x67, 0x8b, 0));
	board_gdt(b, SEL_TSS2, board_desc(BOARD_TSS2, 0x67, 0x89, 0));
}

/* mov $vector, %al; out %al, $BOARD_PORT; hlt; jmp to the hlt: the same bytes in every mode. */
static void make_handlers(struct board *b)
{
	for (unsigned int v = 0; v < 256; v++) {
		const u8 code[] = { 0xb0, (u8)v, 0xe6, BOARD_PORT, 0xf4, 0xeb, 0xfd };

		memcpy(b->ram + BOARD_HANDLERS + v * 16, code, sizeof(code));
	}
}

static void make_gates(struct board *b, enum board_mode mode)
{
	u16 sel = mode == BOARD_REAL16 ? 0 : is_long(mode) ? SEL_CODE0_64 : SEL_CODE0;

	for (unsigned int v = 0; v < 256; v++)
		board_gate(b, mode, v, sel, BOARD_HANDLERS + v * 16, GATE_INT32,
			   v == 3 || v == 4 || v >= 32 ? 3 : 0, 0);
}

static void make_tss(struct board *b, enum board_mode mode)
{
	if (is_long(mode)) {
		board_put(b, BOARD_TSS + 4, BOARD_STACK0, 8);
		for (unsigned int i = 0; i < 7; i++)
			board_put(b, BOARD_TSS + 0x24 + i * 8, BOARD_IST - i * 0x200, 8);
		board_put(b, BOARD_TSS + 0x66, 0x68, 2);
		return;
	}
	board_put(b, BOARD_TSS + 4, BOARD_STACK0, 4);
	board_put(b, BOARD_TSS + 8, SEL_DATA0, 4);
	board_put(b, BOARD_TSS + 0x66, 0x68, 2);
}

static void make_pages(struct board *b)
{
	board_put(b, BOARD_PML4, BOARD_PDPT | 7, 8);
	board_put(b, BOARD_PDPT, BOARD_PD | 7, 8);
	board_put(b, BOARD_PD, BOARD_PT | 7, 8);
	for (u32 i = 1; i < 512; i++)
		board_put(b, BOARD_PD + i * 8, (u64)i << 21 | 0xe7, 8);
	for (u32 i = 0; i < 512; i++)
		board_put(b, BOARD_PT + i * 8, (u64)i << 12 | 0x67, 8);
	board_put(b, BOARD_PD32, BOARD_PT32 | 7, 4);
	for (u32 i = 0; i < 1024; i++)
		board_put(b, BOARD_PT32 + i * 4, i << 12 | 0x67, 4);
}

/* ---- the VM ------------------------------------------------------------------------------------- */

int board_create(struct board *b, const struct kvm_call *kvm)
{
	struct kvm_userspace_memory_region m = { .memory_size = BOARD_RAM };
	int r;

	memset(b, 0, sizeof(*b));
	b->kvm = kvm;
	b->vm = -1;
	b->sys = kvm->open(kvm->path, O_RDWR | O_CLOEXEC);
	if (b->sys < 0)
		return -errno;
	b->vm = call(b, b->sys, KVM_CREATE_VM, 0);
	if (b->vm < 0)
		return b->vm;
	r = call(b, b->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < 0)
		return r;
	b->run_size = (size_t)r;
	b->ram = mmap(NULL, BOARD_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b->ram == MAP_FAILED) {
		b->ram = NULL;
		return -ENOMEM;
	}
	m.userspace_addr = (u64)b->ram;
	r = board_ioctl(b, KVM_SET_USER_MEMORY_REGION, &m);
	if (r)
		return r;
	make_gdt(b);
	make_handlers(b);
	make_pages(b);
	return 0;
}

void board_destroy(struct board *b)
{
	for (unsigned int i = 0; i < b->n; i++) {
		b->kvm->munmap(b->cpu[i].run, b->run_size);
		b->kvm->close(b->cpu[i].fd);
	}
	if (b->vm >= 0)
		b->kvm->close(b->vm);
	if (b->sys >= 0)
		b->kvm->close(b->sys);
	if (b->ram)
		munmap(b->ram, BOARD_RAM);
	memset(b, 0, sizeof(*b));
	b->vm = b->sys = -1;
}

/* ---- processors --------------------------------------------------------------------------------- */

static struct kvm_segment segment(u16 sel, u8 type, unsigned int dpl, enum board_mode mode)
{
	bool code = type & 8;

	return (struct kvm_segment){ .selector = sel, .limit = 0xffffffffu, .type = type, .present = 1, .s = 1, .g = 1,
				     .dpl = (u8)dpl, .l = code && mode == BOARD_LONG64,
				     .db = !(code && mode == BOARD_LONG64) };
}

static void set_segments(struct kvm_sregs *s, enum board_mode mode, unsigned int cpl)
{
	u16 code = mode == BOARD_LONG64 ? (cpl ? SEL_CODE3_64 : SEL_CODE0_64) : (cpl ? SEL_CODE3 : SEL_CODE0);

	s->cs = segment(code, 11, cpl, mode);
	s->ss = segment(cpl ? SEL_DATA3 : SEL_DATA0, 3, cpl, mode);
	s->ds = s->es = s->fs = s->gs = s->ss;
}

static void set_mode(struct kvm_sregs *s, enum board_mode mode)
{
	s->gdt.base = BOARD_GDT;
	s->gdt.limit = BOARD_GDT_SIZE - 1;
	if (mode == BOARD_REAL16) {
		struct kvm_segment *seg[] = { &s->cs, &s->ds, &s->es, &s->ss, &s->fs, &s->gs };

		for (size_t i = 0; i < ARRAY_SIZE(seg); i++)
			*seg[i] = (struct kvm_segment){ .limit = 0xffff, .type = 3, .present = 1, .s = 1 };
		s->cs.type = 11;
		s->idt.base = 0;
		s->idt.limit = 0x3ff;
		return;
	}
	s->idt.base = BOARD_IDT;
	s->idt.limit = is_long(mode) ? 0xfff : 0x7ff;
	s->tr = (struct kvm_segment){ .base = BOARD_TSS, .limit = 0x67, .selector = SEL_TSS, .type = 11, .present = 1 };
	set_segments(s, mode, 0);
	s->cr0 = 0x11;
	if (is_long(mode)) {
		s->cr0 |= 0x80000000u;
		s->cr3 = BOARD_PML4;
		s->cr4 = 0x20;
		s->efer = 0x500;
	} else if (mode == BOARD_PAGED32) {
		s->cr0 |= 0x80000000u;
		s->cr3 = BOARD_PD32;
	}
}

/* What the engine can do, in the guest's CPUID. */
static int set_cpuid(struct board *b, int fd)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 128 * sizeof(c->entries[0]));
	int r;

	if (!c)
		return -ENOMEM;
	c->nent = 128;
	r = call(b, b->sys, KVM_GET_SUPPORTED_CPUID, (unsigned long)c);
	if (!r)
		r = call(b, fd, KVM_SET_CPUID2, (unsigned long)c);
	free(c);
	return r;
}

int board_cpu(struct board *b, enum board_mode mode)
{
	struct board_cpu *c = &b->cpu[b->n];
	int cpu = (int)b->n, r;
	struct kvm_sregs s;
	struct kvm_regs regs = { .rflags = 2 };

	c->fd = call(b, b->vm, KVM_CREATE_VCPU, b->n);
	if (c->fd < 0)
		return c->fd;
	c->run = b->kvm->mmap(NULL, b->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (c->run == MAP_FAILED)
		return -errno;
	c->mode = mode;
	b->n++;
	r = set_cpuid(b, c->fd);
	if (r)
		return r;
	if (!cpu) {
		make_gates(b, mode);
		make_tss(b, mode);
	}
	board_get_sregs(b, cpu, &s);
	set_mode(&s, mode);
	board_set_sregs(b, cpu, &s);
	regs.rip = board_code_at(cpu);
	regs.rsp = BOARD_STACK0 - (u64)cpu * 0x400;
	if (mode == BOARD_REAL16) {
		/* The code is out of a 16-bit offset's reach: CS takes it there. */
		board_get_sregs(b, cpu, &s);
		s.cs.base = BOARD_CODE + (u32)cpu * BOARD_CODE_CPU;
		s.cs.selector = (u16)(s.cs.base >> 4);
		board_set_sregs(b, cpu, &s);
		regs.rip = 0;
		regs.rsp = 0xf000;
	}
	board_set_regs(b, cpu, &regs);
	return cpu;
}

void board_get_regs(struct board *b, int cpu, struct kvm_regs *r)
{
	board_cpu_ioctl(b, cpu, KVM_GET_REGS, r);
}

void board_set_regs(struct board *b, int cpu, const struct kvm_regs *r)
{
	board_cpu_ioctl(b, cpu, KVM_SET_REGS, r);
}

void board_get_sregs(struct board *b, int cpu, struct kvm_sregs *s)
{
	board_cpu_ioctl(b, cpu, KVM_GET_SREGS, s);
}

void board_set_sregs(struct board *b, int cpu, const struct kvm_sregs *s)
{
	board_cpu_ioctl(b, cpu, KVM_SET_SREGS, s);
}

void board_user(struct board *b, int cpu)
{
	struct kvm_sregs s;

	board_get_sregs(b, cpu, &s);
	set_segments(&s, b->cpu[cpu].mode, 3);
	board_set_sregs(b, cpu, &s);
	board_stack(b, cpu, BOARD_STACK3 - (u64)cpu * 0x400);
}

void board_flags(struct board *b, int cpu, u64 flags)
{
	struct kvm_regs r;

	board_get_regs(b, cpu, &r);
	r.rflags |= flags;
	board_set_regs(b, cpu, &r);
}

void board_stack(struct board *b, int cpu, u64 rsp)
{
	struct kvm_regs r;

	board_get_regs(b, cpu, &r);
	r.rsp = rsp;
	board_set_regs(b, cpu, &r);
}

void board_cr0(struct board *b, int cpu, u64 bits)
{
	struct kvm_sregs s;

	board_get_sregs(b, cpu, &s);
	s.cr0 |= bits;
	board_set_sregs(b, cpu, &s);
}

void board_watch(struct board *b, int cpu, unsigned int n, u64 addr, unsigned int what, unsigned int len)
{
	static const u8 code[9] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };
	struct kvm_debugregs d;

	board_cpu_ioctl(b, cpu, KVM_GET_DEBUGREGS, &d);
	d.db[n] = addr;
	d.dr7 |= 2ull << (2 * n) | (u64)(what | (unsigned int)code[len] << 2) << (16 + 4 * n);
	board_cpu_ioctl(b, cpu, KVM_SET_DEBUGREGS, &d);
}

/* ---- statistics ---------------------------------------------------------------------------------------- */

static int find_stat(int fd, const char *name, off_t *at)
{
	struct kvm_stats_header h;
	struct {
		struct kvm_stats_desc d;
		char name[48];
	} d;

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h))
		return -EIO;
	for (u32 i = 0; i < h.num_desc; i++) {
		if (pread(fd, &d, sizeof(d), h.desc_offset + (off_t)(i * sizeof(d))) != sizeof(d))
			return -EIO;
		*at = h.data_offset + d.d.offset;
		if (!strcmp(d.name, name))
			return 0;
	}
	return -ENOENT;
}

int board_stat(struct board *b, int cpu, const char *name, off_t *at)
{
	int fd = cpu < 0 ? board_ioctl(b, KVM_GET_STATS_FD, NULL) : board_cpu_ioctl(b, cpu, KVM_GET_STATS_FD, NULL);
	int r = fd < 0 ? fd : find_stat(fd, name, at);

	if (r && fd >= 0)
		b->kvm->close(fd);
	return r ? r : fd;
}

/* ---- running ------------------------------------------------------------------------------------ */

/* The vCPU this thread runs; its time is over when the signal comes. */
static _Thread_local struct board_cpu *running;

static void on_time(int sig)
{
	if (!running)
		return;
	running->stop = true;
	running->run->immediate_exit = 1;
}

static int arm(struct board *b, unsigned int ms, timer_t *t)
{
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIG_TIME };
	/* again and again: the first may come before KVM_RUN has begun */
	struct itimerspec its = { .it_value = { ms / 1000, (long)(ms % 1000) * 1000000 },
				  .it_interval = { 0, 5000000 } };
	struct sigaction sa = { .sa_handler = on_time };

	b->kvm->sigaction(SIG_TIME, &sa, NULL);
	ev._sigev_un._tid = (int)syscall(SYS_gettid);
	/* Timers count against the user's pending signals, which other programs use up for a moment. */
	for (int tries = 0; timer_create(CLOCK_MONOTONIC, &ev, t); tries++) {
		const struct timespec nap = { .tv_nsec = 10000000 };

		if (errno != EAGAIN || tries == 200)
			return -errno;
		nanosleep(&nap, NULL);
	}
	return timer_settime(*t, 0, &its, NULL) ? -errno : 0;
}

int board_run(struct board *b, int cpu, unsigned int ms)
{
	struct board_cpu *c = &b->cpu[cpu];
	timer_t t;
	int r;

	c->stop = false;
	running = c;
	r = arm(b, ms, &t);
	if (r)
		return r;
	do {
		r = call(b, c->fd, KVM_RUN, 0);
	} while ((r == -EINTR || r == -EAGAIN) && !c->stop);
	timer_delete(t);
	running = NULL;
	c->run->immediate_exit = 0;
	if (r == -EINTR)
		return -ETIMEDOUT;
	return r < 0 ? r : (int)c->run->exit_reason;
}

u32 board_run_out(struct board *b, int cpu, u16 port, unsigned int ms)
{
	struct kvm_run *run = b->cpu[cpu].run;
	u32 val = 0;
	int r;

	for (;;) {
		r = board_run(b, cpu, ms);
		if (r != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_OUT)
			return (u32)r | 1u << 31;
		if (run->io.port != port)
			continue;
		memcpy(&val, (u8 *)run + run->io.data_offset, run->io.size);
		return val & 0x7fffffff;
	}
}
