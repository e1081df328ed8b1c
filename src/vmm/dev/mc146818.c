/* SPDX-License-Identifier: MIT */
/*
 * Motorola MC146818 real-time clock and the PC's CMOS memory around it. [MC146818A datasheet]
 *
 * The time is the host's UTC plus an offset that the guest moves by setting the clock. Update-ended, alarm and
 * periodic interrupts come from one host timer, which runs only while one of them is enabled.
 */
#include "vmm/dev/dev.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "vmm/vmm.h"

#define CMOS_SIZE 128
enum { SEC, SEC_ALARM, MIN, MIN_ALARM, HOUR, HOUR_ALARM, WDAY, MDAY, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D };
enum { A_UIP = 0x80, A_DEFAULT = 0x26 };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_DM = 4, B_24H = 2 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };
enum { D_VALID = 0x80 };

#define NSEC 1000000000ll
#define UIP_NS 244000	/* the time registers must not be read this long before they change */

struct rtc {
	struct vm *vm;
	pthread_mutex_t lock;
	u8 cmos[CMOS_SIZE];
	u8 index;
	s64 offset;		/* guest seconds minus host seconds */
	s64 last_second;	/* guest second up to which update and alarm were handled */
	s64 next_periodic;	/* host CLOCK_REALTIME ns */
	int timer_fd;
};

static s64 host_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * NSEC + ts.tv_nsec;
}

static s64 guest_second(const struct rtc *r)
{
	return host_ns() / NSEC + r->offset;
}

static u8 encode(const struct rtc *r, int v)
{
	return r->cmos[REG_B] & B_DM ? (u8)v : (u8)(v / 10 << 4 | v % 10);
}

static int decode(const struct rtc *r, u8 v)
{
	return r->cmos[REG_B] & B_DM ? v : (v >> 4) * 10 + (v & 15);
}

static u8 encode_hour(const struct rtc *r, int h)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, h);
	return (u8)(encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0));
}

static int decode_hour(const struct rtc *r, u8 v)
{
	if (r->cmos[REG_B] & B_24H)
		return decode(r, v);
	return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

/* Brings the time registers up to date, unless the guest is setting them. */
static void refresh(struct rtc *r)
{
	time_t t = guest_second(r);
	struct tm tm;

	if ((r->cmos[REG_B] & B_SET) || !gmtime_r(&t, &tm))
		return;
	r->cmos[SEC] = encode(r, tm.tm_sec);
	r->cmos[MIN] = encode(r, tm.tm_min);
	r->cmos[HOUR] = encode_hour(r, tm.tm_hour);
	r->cmos[WDAY] = encode(r, tm.tm_wday + 1);
	r->cmos[MDAY] = encode(r, tm.tm_mday);
	r->cmos[MONTH] = encode(r, tm.tm_mon + 1);
	r->cmos[YEAR] = encode(r, tm.tm_year % 100);
	r->cmos[RTC_CENTURY] = encode(r, (tm.tm_year + 1900) / 100);
}

/* The guest's registers become the time. */
static void commit(struct rtc *r)
{
	struct tm tm = {
		.tm_sec = decode(r, r->cmos[SEC]), .tm_min = decode(r, r->cmos[MIN]),
		.tm_hour = decode_hour(r, r->cmos[HOUR]), .tm_mday = decode(r, r->cmos[MDAY]),
		.tm_mon = decode(r, r->cmos[MONTH]) - 1,
		.tm_year = decode(r, r->cmos[YEAR]) + 100 * decode(r, r->cmos[RTC_CENTURY]) - 1900,
	};

	r->offset = timegm(&tm) - host_ns() / NSEC;
	r->last_second = guest_second(r);
}

static s64 period_ns(const struct rtc *r)
{
	u32 rate = r->cmos[REG_A] & 15;

	if (!rate)
		return 0;
	/* [MC146818 "Periodic Interrupt Rate"]: rates 1 and 2 are those of 8 and 9 with a 32 kHz crystal */
	return NSEC * (1ll << ((rate <= 2 ? rate + 7 : rate) - 1)) / 32768;
}

static void update_irq(struct rtc *r)
{
	u8 active = r->cmos[REG_C] & r->cmos[REG_B] & (C_PF | C_AF | C_UF);

	r->cmos[REG_C] = (u8)((r->cmos[REG_C] & ~C_IRQF) | (active ? C_IRQF : 0));
	vmm_irq_line(r->vm, GSI_RTC, 0, active != 0);
}

static bool alarm_field(u8 alarm, u8 now)
{
	return (alarm & 0xc0) == 0xc0 || alarm == now;
}

/* The alarm is a pattern; look at each second since the last time, but not at more than a day of them. */
static bool alarm_due(struct rtc *r, s64 from, s64 to)
{
	if (to - from > 86400)
		from = to - 86400;
	for (s64 t = from + 1; t <= to; t++) {
		s64 day = ((t % 86400) + 86400) % 86400;

		if (alarm_field(r->cmos[SEC_ALARM], encode(r, (int)(day % 60))) &&
		    alarm_field(r->cmos[MIN_ALARM], encode(r, (int)(day / 60 % 60))) &&
		    alarm_field(r->cmos[HOUR_ALARM], encode_hour(r, (int)(day / 3600))))
			return true;
	}
	return false;
}

/* Accounts for the time that has passed. */
static void advance(struct rtc *r)
{
	s64 now = guest_second(r);
	s64 ns = host_ns();

	if (!(r->cmos[REG_B] & B_SET) && now > r->last_second) {
		r->cmos[REG_C] |= C_UF;
		if (alarm_due(r, r->last_second, now))
			r->cmos[REG_C] |= C_AF;
	}
	r->last_second = now;
	if (r->next_periodic && ns >= r->next_periodic) {
		s64 p = period_ns(r);

		r->cmos[REG_C] |= C_PF;
		r->next_periodic = p ? ns - (ns - r->next_periodic) % p + p : 0;
	}
	update_irq(r);
}

static void arm(struct rtc *r)
{
	u8 b = r->cmos[REG_B];
	s64 next = 0;
	struct itimerspec t;

	if (!(b & B_PIE))
		r->next_periodic = 0;
	else if (!r->next_periodic && period_ns(r))
		r->next_periodic = host_ns() + period_ns(r);
	if ((b & (B_AIE | B_UIE)) && !(b & B_SET))
		next = (host_ns() / NSEC + 1) * NSEC;
	if (r->next_periodic && (!next || r->next_periodic < next))
		next = r->next_periodic;
	t = (struct itimerspec){ .it_value = { .tv_sec = next / NSEC, .tv_nsec = next % NSEC } };
	timerfd_settime(r->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void on_timer(void *arg, u32 events)
{
	struct rtc *r = arg;
	u64 n;

	if (read(r->timer_fd, &n, sizeof(n)) < 0)
		return;
	pthread_mutex_lock(&r->lock);
	advance(r);
	arm(r);
	pthread_mutex_unlock(&r->lock);
}

static u8 read_cmos(struct rtc *r)
{
	u8 v;

	switch (r->index) {
	case REG_A:
		v = r->cmos[REG_A] & 0x7f;
		return host_ns() % NSEC >= NSEC - UIP_NS && !(r->cmos[REG_B] & B_SET) ? v | A_UIP : v;
	case REG_C:
		advance(r);
		v = r->cmos[REG_C];
		r->cmos[REG_C] = 0;
		update_irq(r);
		return v;
	case REG_D:
		return D_VALID;
	default:
		refresh(r);
		return r->cmos[r->index];
	}
}

static void write_b(struct rtc *r, u8 v)
{
	u8 old = r->cmos[REG_B];

	advance(r);
	if (!(old & B_SET) && (v & B_SET))
		refresh(r);
	r->cmos[REG_B] = v;
	if ((old & B_SET) && !(v & B_SET))
		commit(r);
	update_irq(r);
	arm(r);
}

static void write_cmos(struct rtc *r, u8 v)
{
	u8 i = r->index;

	switch (i) {
	case REG_A:
		r->cmos[REG_A] = v & 0x7f;
		r->next_periodic = 0;
		arm(r);
		break;
	case REG_B:
		write_b(r, v);
		break;
	case REG_C:
	case REG_D:
		break;
	default:
		refresh(r);
		r->cmos[i] = v;
		if ((i <= YEAR && i != SEC_ALARM && i != MIN_ALARM && i != HOUR_ALARM) || i == RTC_CENTURY)
			if (!(r->cmos[REG_B] & B_SET))
				commit(r);
	}
}

static u64 rtc_read(void *dev, u64 off, unsigned int size)
{
	struct rtc *r = dev;
	u64 v = 0xff;

	if (off != 1)
		return v;	/* the index port is write-only */
	pthread_mutex_lock(&r->lock);
	v = read_cmos(r);
	pthread_mutex_unlock(&r->lock);
	return v;
}

static void rtc_write(void *dev, u64 off, unsigned int size, u64 val)
{
	struct rtc *r = dev;

	pthread_mutex_lock(&r->lock);
	/* Bit 7 of the index masks NMIs, of which this board has none. */
	if (off)
		write_cmos(r, (u8)val);
	else
		r->index = (u8)val & 0x7f;
	pthread_mutex_unlock(&r->lock);
}

static void put16(struct rtc *r, u32 index, u64 v)
{
	u16 w = (u16)(v > 0xffff ? 0xffff : v);

	r->cmos[index] = (u8)w;
	r->cmos[index + 1] = (u8)(w >> 8);
}

/* Where firmware looks for the memory size: KiB below 640K, KiB above 1M, 64 KiB above 16M and above 4G. */
static void fill_memory_size(struct rtc *r, const struct ram *ram)
{
	u64 low = ram_low_end(ram);
	u64 high = ram->n > 1 ? ram->range[1].size : 0;

	put16(r, 0x15, 640);
	put16(r, 0x17, low > 1 << 20 ? (low >> 10) - 1024 : 0);
	put16(r, 0x30, low > 1 << 20 ? (low >> 10) - 1024 : 0);
	put16(r, 0x34, low > 16 << 20 ? (low >> 16) - 256 : 0);
	put16(r, 0x5b, high >> 16);
	r->cmos[0x5d] = (u8)(high >> 32);
}

struct rtc *rtc_create(struct vm *vm)
{
	struct rtc *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->vm = vm;
	pthread_mutex_init(&r->lock, NULL);
	r->cmos[REG_A] = A_DEFAULT;
	r->cmos[REG_B] = B_24H;
	r->cmos[0x14] = 0x02;	/* equipment: coprocessor */
	r->last_second = guest_second(r);
	fill_memory_size(r, &vm->ram);
	r->timer_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (r->timer_fd < 0 || !loop_add(&vm->loop, r->timer_fd, EPOLLIN, on_timer, r)) {
		free(r);
		return NULL;
	}
	bus_add(&vm->pio, &(struct bus_range){ .base = 0x70, .size = 2, .read = rtc_read, .write = rtc_write,
					       .dev = r });
	return r;
}

void rtc_destroy(struct rtc *r)
{
	if (r)
		close(r->timer_fd);
	free(r);
}
