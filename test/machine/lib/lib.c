/* SPDX-License-Identifier: MIT */
#include "guest.h"

struct trap trap;
bool (*trap_hook)(struct frame *f);
struct gate idt[256] __attribute__((aligned(16)));
u16 user_cs = SEL_USER;
static struct context *recover;
static unsigned int points, failures;

/* ---- printing ---- */

static void put(char c)
{
	while (!(inb(0x3fd) & 0x20))
		;
	outb(0x3f8, (u8)c);
}

static void put_number(u64 v, unsigned int base, int width, char pad)
{
	char text[24];
	int n = 0;

	/* Division by 16 is a shift; a 32-bit program has no 64-bit division to call. */
	if (base == 16)
		do
			text[n++] = "0123456789abcdef"[v & 15];
		while (v >>= 4);
	else
		for (u32 d = (u32)v; n == 0 || d; d /= 10)
			text[n++] = (char)('0' + d % 10);
	while (width-- > n)
		put(pad);
	while (n)
		put(text[--n]);
}

/* %s %d %u %x %c, with l and ll, width and zero padding. */
static void vprint(const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		int width = 0, longs = 0;
		char pad = ' ';

		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		for (fmt++; *fmt >= '0' && *fmt <= '9'; fmt++) {
			if (*fmt == '0' && !width)
				pad = '0';
			width = width * 10 + *fmt - '0';
		}
		for (; *fmt == 'l'; fmt++)
			longs++;

		if (*fmt == 's') {
			for (const char *s = va_arg(ap, const char *); *s; s++)
				put(*s);
		} else if (*fmt == 'c') {
			put((char)va_arg(ap, int));
		} else if (*fmt == '%') {
			put('%');
		} else {
			u64 v = longs == 2 ? va_arg(ap, u64) : longs ? va_arg(ap, ulong) : va_arg(ap, u32);

			if (*fmt == 'd' && !longs && (int)v < 0) {
				put('-');
				v = (u64)-(int)v;
			}
			put_number(v, *fmt == 'x' ? 16 : 10, width, pad);
		}
	}
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprint(fmt, ap);
	va_end(ap);
}

static void vpoint(bool good, const char *file, int line, const char *fmt, va_list ap)
{
	points++;
	if (!good)
		failures++;
	print("%sok %u - ", good ? "" : "not ", points);
	vprint(fmt, ap);
	print("\n");
	if (!good)
		print("# at %s:%d\n", file, line);
}

bool ok_(bool good, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vpoint(good, file, line, fmt, ap);
	va_end(ap);
	return good;
}

bool is_(u64 got, u64 want, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vpoint(got == want, file, line, fmt, ap);
	va_end(ap);
	if (got != want)
		print("# got %llx, want %llx\n", (unsigned long long)got, (unsigned long long)want);
	return got == want;
}

void skip(const char *name, const char *why)
{
	print("ok %u - %s # SKIP %s\n", ++points, name, why);
}

void lib_exit(void)
{
	print("1..%u\n", points);
	for (;;) {
		outl(0xf4, failures ? 1 : 0);
		__asm__ volatile("cli; hlt");
	}
}

/* ---- traps ---- */

void on_trap(struct frame *f)
{
	if (trap_hook && trap_hook(f))
		return;
	trap = (struct trap){ f->vector, f->error, f->ip, f->cs, f->flags, f->sp, f->ss, read_cr2(), f->ax };
	if (recover) {
		struct context *c = recover;

		recover = NULL;
		resume(c);
	}
	print("Bail out! trap %lu error %lx at %lx cs %lx flags %lx cr2 %lx\n", f->vector, f->error,
	      f->ip, f->cs, f->flags, trap.cr2);
	failures++;
	lib_exit();
}

void recover_into(struct context *c)
{
	recover = c;
}

ulong attempt(void (*fn)(void))
{
	struct context c;

	trap.vector = NO_TRAP;
	if (!save(&c)) {
		recover = &c;
		fn();
	}
	recover = NULL;
	return trap.vector;
}

static u8 user_page[4096] __attribute__((aligned(4096)));

ulong user_ip(void)
{
#ifdef __x86_64__
	return (ulong)user_page + ALIAS;
#else
	return (ulong)user_page;
#endif
}

ulong attempt_user(const void *code, size_t size)
{
	struct context c;
	ulong ip = user_ip(), sp = (ulong)user_stack_end - (ulong)user_page + ip, stack;

	__builtin_memcpy(user_page, code, size);
	trap.vector = NO_TRAP;
	if (save(&c)) {
		recover = NULL;
		return trap.vector == 0x80 ? NO_TRAP : trap.vector;
	}
	recover = &c;
	/* The kernel stack of the trap from user mode lies below this frame. */
	stack = ((ulong)__builtin_frame_address(0) - 1024) & ~15ul;
#ifdef __x86_64__
	__builtin_memcpy(tss + 4, &stack, 8);
	__asm__ volatile("push %0; push %1; push %2; push %3; push %4; iretq"
			 :: "r"((ulong)SEL_USER_DATA), "r"(sp), "r"(0x2ul), "r"((ulong)user_cs), "r"(ip) : "memory");
#else
	__builtin_memcpy(tss + 4, &stack, 4);
	tss[8] = SEL_DATA;
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; push %0; push %1; push %2; push %3; push %4; iret"
			 :: "r"((ulong)SEL_USER_DATA), "r"(sp), "r"(0x2ul), "r"((ulong)user_cs), "r"(ip) : "memory");
#endif
	__builtin_unreachable();
}

/* ---- the machine ---- */

extern char vectors[];

void set_gate(int vector, void *to, u8 type, u8 ist)
{
	ulong p = (ulong)to;

	idt[vector] = (struct gate){ .off0 = (u16)p, .sel = SEL_CODE, .ist = ist, .type = type, .off1 = (u16)(p >> 16),
#ifdef __x86_64__
				     .off2 = (u32)(p >> 32),
#endif
	};
}

struct pointer {
	u16 limit;
	ulong base;
} __attribute__((packed));

void load_idt(u16 limit)
{
	struct pointer p = { limit, (ulong)idt };

	__asm__ volatile("lidt %0" :: "m"(p));
}

void load_gdt(void)
{
	struct pointer p = { GDT_SIZE - 1, (ulong)gdt };

	__asm__ volatile("lgdt %0" :: "m"(p));
}

void lib_init(void)
{
	for (int v = 0; v < 256; v++)
		set_gate(v, vectors + v * 16, v == 0x80 || v == 3 || v == 4 ? 0xee : 0x8e, 0);
#ifdef __x86_64__
	ulong ist = (ulong)ist_stack_end;

	/* A double fault and an NMI find a stack of their own. */
	__builtin_memcpy(tss + 36, &ist, 8);
	ist -= 4096;
	__builtin_memcpy(tss + 44, &ist, 8);
	idt[DF].ist = 1;
	idt[NMI].ist = 2;
	load_gdt();
#endif
	load_idt(sizeof(idt) - 1);
	tss[102] = tss[103] = 0xff;	/* no I/O map */
	__asm__ volatile("ltr %w0" :: "r"(SEL_TSS));
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

void *page(void)
{
	static u8 *next;

	if (!next)
		next = image_end;
	next += 4096;
	for (ulong *p = (ulong *)(next - 4096); p < (ulong *)next; p++)
		*p = 0;
	return next - 4096;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *r = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) :: "memory");
	return r;
}

void *memset(void *to, int c, size_t n)
{
	void *r = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return r;
}

/* ---- more processors ---- */

extern ulong ap_stack;
extern char ap_code[], ap_code_end[];
static void (*ap_fn)(int cpu);
static volatile int ap_count, ap_go;

u32 apic_read(u32 reg)
{
	return *(volatile u32 *)(0xfee00000ul + reg);
}

void apic_write(u32 reg, u32 value)
{
	*(volatile u32 *)(0xfee00000ul + reg) = value;
}

int cpu_index(void)
{
	return (int)(apic_read(0x20) >> 24);
}

void ap_main(void)
{
	int cpu;

	load_idt(sizeof(idt) - 1);
	load_gdt();
	cpu = cpu_index();
	__atomic_fetch_add(&ap_count, 1, __ATOMIC_SEQ_CST);
	while (!ap_go)
		cpu_pause();
	ap_fn(cpu);
}

static void wait_cycles(u64 n)
{
	u64 start = rdtsc();

	while (rdtsc() - start < n)
		cpu_pause();
}

int smp_start(int count, void (*fn)(int cpu))
{
	ap_fn = fn;
	ap_go = 0;
	memcpy((void *)AP_START, ap_code, (size_t)(ap_code_end - ap_code));
	apic_write(0xf0, 0x1ff);
	for (int cpu = 1; cpu <= count; cpu++) {
		int before = ap_count;
		u64 start;

		ap_stack = (ulong)page() + 4096;
		apic_write(0x310, (u32)cpu << 24);
		apic_write(0x300, 0x4500);		/* INIT */
		wait_cycles(20000000);
		for (int k = 0; k < 2 && ap_count == before; k++) {
			apic_write(0x310, (u32)cpu << 24);
			apic_write(0x300, 0x4600 | AP_START >> 12);
			for (start = rdtsc(); ap_count == before && rdtsc() - start < 2000000000;)
				cpu_pause();
		}
	}
	__atomic_store_n(&ap_go, 1, __ATOMIC_SEQ_CST);
	return ap_count;
}
