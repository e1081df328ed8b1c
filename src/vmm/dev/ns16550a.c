/* SPDX-License-Identifier: MIT */
/*
 * National Semiconductor NS16550A UART: COM1. [PC16550D datasheet]
 *
 * The line is infinitely patient: a byte enters the receive FIFO only when the guest listens (receive interrupt
 * enabled, or it polls), and a FIFO reset puts bytes back on the line. So a script piped into the console arrives
 * whole, however late the guest opens its terminal. Transmission takes no time; bit rate, parity and break are
 * registers without effect.
 */
#include "vmm/dev/dev.h"

#include <stdlib.h>
#include <string.h>
#include "vmm/host/term.h"
#include "vmm/vmm.h"

#define FIFO_SIZE 16
#define LINE_SIZE 4096
/* This many reads of the line status without a byte sent in between: somebody polls for input. */
#define POLL_READS 8

enum { RBR = 0, IER = 1, IIR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };
enum { IER_RX = 1, IER_THRE = 2, IER_LSR = 4, IER_MSR = 8 };
enum { IIR_NONE = 1, IIR_MSR = 0, IIR_THRE = 2, IIR_RX = 4, IIR_LSR = 6, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_DR = 1, LSR_OE = 2, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

struct serial {
	struct vm *vm;
	pthread_mutex_t lock;
	bool console;
	u8 ier, fcr, lcr, mcr, scr, dll, dlm, msr_delta;
	bool thre_pending, overrun, starved;
	unsigned int polls;
	u8 rx[FIFO_SIZE];
	unsigned int rx_n;
	u8 line[LINE_SIZE];	/* typed, not yet received */
	unsigned int line_head, line_n;
};

static u8 modem_lines(const struct serial *s)
{
	u8 m = 0;

	if (!(s->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	m |= s->mcr & MCR_RTS ? MSR_CTS : 0;
	m |= s->mcr & MCR_DTR ? MSR_DSR : 0;
	m |= s->mcr & MCR_OUT1 ? MSR_RI : 0;
	m |= s->mcr & MCR_OUT2 ? MSR_DCD : 0;
	return m;
}

static u8 interrupt_id(const struct serial *s)
{
	if ((s->ier & IER_LSR) && s->overrun)
		return IIR_LSR;
	if ((s->ier & IER_RX) && s->rx_n)
		return IIR_RX;
	if ((s->ier & IER_THRE) && s->thre_pending)
		return IIR_THRE;
	if ((s->ier & IER_MSR) && s->msr_delta)
		return IIR_MSR;
	return IIR_NONE;
}

static void update_irq(struct serial *s)
{
	vmm_irq_line(s->vm, GSI_COM1, 0, interrupt_id(s) != IIR_NONE);
}

static unsigned int fifo_depth(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

/* Moves bytes from the line into the FIFO while the guest listens. */
static void receive(struct serial *s)
{
	bool listening = (s->ier & IER_RX) || s->polls >= POLL_READS;

	while (listening && !(s->mcr & MCR_LOOP) && s->line_n && s->rx_n < fifo_depth(s)) {
		s->rx[s->rx_n++] = s->line[s->line_head];
		s->line_head = (s->line_head + 1) % LINE_SIZE;
		s->line_n--;
	}
	if (s->starved && s->line_n <= LINE_SIZE / 2) {
		s->starved = false;
		console_wake();
	}
}

/* What the FIFO held goes back to the line, in order. Bytes of a loopback test were never on it. */
static void clear_fifo(struct serial *s)
{
	if (!(s->mcr & MCR_LOOP)) {
		while (s->rx_n && s->line_n < LINE_SIZE) {
			s->line_head = (s->line_head + LINE_SIZE - 1) % LINE_SIZE;
			s->line[s->line_head] = s->rx[--s->rx_n];
			s->line_n++;
		}
	}
	s->rx_n = 0;
}

static u8 read_rbr(struct serial *s)
{
	u8 v = 0;

	if (s->rx_n) {
		v = s->rx[0];
		memmove(s->rx, s->rx + 1, --s->rx_n);
	}
	receive(s);
	return v;
}

static u8 read_lsr(struct serial *s)
{
	u8 v;

	if (s->polls < POLL_READS)
		s->polls++;
	receive(s);
	v = LSR_THRE | LSR_TEMT | (s->rx_n ? LSR_DR : 0) | (s->overrun ? LSR_OE : 0);
	s->overrun = false;
	return v;
}

static u8 read_iir(struct serial *s)
{
	u8 id = interrupt_id(s);

	if (id == IIR_THRE)
		s->thre_pending = false;
	return id | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static u8 read_register(struct serial *s, u64 off)
{
	u8 v;

	switch (off) {
	case RBR:
		return s->lcr & LCR_DLAB ? s->dll : read_rbr(s);
	case IER:
		return s->lcr & LCR_DLAB ? s->dlm : s->ier;
	case IIR:
		return read_iir(s);
	case LCR:
		return s->lcr;
	case MCR:
		return s->mcr;
	case LSR:
		return read_lsr(s);
	case MSR:
		v = modem_lines(s) | s->msr_delta;
		s->msr_delta = 0;
		return v;
	default:
		return s->scr;
	}
}

/* Returns true when the byte is for the outside. */
static bool write_thr(struct serial *s, u8 v)
{
	s->polls = 0;
	/* Down and up again: the 8259 and the I/O APIC see edges on this line. */
	s->thre_pending = false;
	update_irq(s);
	s->thre_pending = true;
	if (!(s->mcr & MCR_LOOP))
		return true;
	if (s->rx_n < fifo_depth(s))
		s->rx[s->rx_n++] = v;
	else
		s->overrun = true;
	return false;
}

static void write_ier(struct serial *s, u8 v)
{
	u8 old = s->ier;

	s->ier = v & 0xf;
	/* Turning the interrupt on while the register is empty raises it; drivers test for this. */
	if (!(old & IER_THRE) && (v & IER_THRE))
		s->thre_pending = true;
	receive(s);
}

static void write_fcr(struct serial *s, u8 v)
{
	bool toggled = (v ^ s->fcr) & FCR_ENABLE;

	s->fcr = v & 0xc9;
	if (toggled || (v & FCR_CLEAR_RX))
		clear_fifo(s);
	receive(s);
}

static void write_mcr(struct serial *s, u8 v)
{
	u8 before = modem_lines(s);

	/* The line is cut off, not emptied, while the chip talks to itself. */
	if ((v ^ s->mcr) & MCR_LOOP)
		clear_fifo(s);
	s->mcr = v & 0x1f;
	s->msr_delta |= (u8)((before ^ modem_lines(s)) >> 4);
	receive(s);
}

static bool write_register(struct serial *s, u64 off, u8 v)
{
	switch (off) {
	case RBR:
		if (!(s->lcr & LCR_DLAB))
			return write_thr(s, v);
		s->dll = v;
		break;
	case IER:
		if (s->lcr & LCR_DLAB)
			s->dlm = v;
		else
			write_ier(s, v);
		break;
	case IIR:
		write_fcr(s, v);
		break;
	case LCR:
		s->lcr = v;
		break;
	case MCR:
		write_mcr(s, v);
		break;
	case SCR:
		s->scr = v;
		break;
	default:
		break;
	}
	return false;
}

static u64 serial_read(void *dev, u64 off, unsigned int size)
{
	struct serial *s = dev;
	u64 v = 0;

	pthread_mutex_lock(&s->lock);
	for (unsigned int i = 0; i < size; i++)
		v |= (u64)read_register(s, off + i) << (8 * i);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return v;
}

static void serial_write(void *dev, u64 off, unsigned int size, u64 val)
{
	struct serial *s = dev;

	for (unsigned int i = 0; i < size; i++) {
		u8 v = (u8)(val >> (8 * i));
		bool out;

		pthread_mutex_lock(&s->lock);
		out = write_register(s, off + i, v);
		update_irq(s);
		pthread_mutex_unlock(&s->lock);
		/* Outside of the lock: a terminal that is stopped must not stop the other processors. */
		if (out && s->console)
			console_write(s->vm, &v, 1);
	}
}

static size_t room(void *dev)
{
	struct serial *s = dev;
	size_t n;

	pthread_mutex_lock(&s->lock);
	n = LINE_SIZE - FIFO_SIZE - s->line_n;
	n = s->line_n > LINE_SIZE - FIFO_SIZE ? 0 : n;
	if (!n)
		s->starved = true;
	pthread_mutex_unlock(&s->lock);
	return n;
}

static void put(void *dev, const u8 *p, size_t n)
{
	struct serial *s = dev;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < n && s->line_n < LINE_SIZE - FIFO_SIZE; i++) {
		s->line[(s->line_head + s->line_n) % LINE_SIZE] = p[i];
		s->line_n++;
	}
	receive(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

struct console_sink serial_sink(struct serial *s)
{
	return (struct console_sink){ .room = room, .put = put, .dev = s };
}

struct serial *serial_create(struct vm *vm, bool console)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->vm = vm;
	s->console = console;
	s->dll = 12;
	s->lcr = 3;
	pthread_mutex_init(&s->lock, NULL);
	bus_add(&vm->pio, &(struct bus_range){ .base = 0x3f8, .size = 8, .read = serial_read,
					       .write = serial_write, .dev = s });
	return s;
}

void serial_destroy(struct serial *s)
{
	free(s);
}
