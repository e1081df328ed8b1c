/* SPDX-License-Identifier: MIT */
/*
 * Intel 8042 keyboard controller with nothing plugged in, port 92h, and the chip set's reset register CF9h. What is
 * left of the keyboard controller is what kernels use it for: self test, A20, and pulsing the reset line.
 */
#include "vmm/dev/dev.h"

#include "vmm/vmm.h"

enum { STS_OBF = 1, STS_SYS = 4, STS_CMD = 8 };

/* One board, one controller; guarded by its lock. */
static struct {
	struct vm *vm;
	pthread_mutex_t lock;
	u8 mode, out, expect, port92;
	bool full;
} kbc = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void reset(const char *how)
{
	vmm_stop(kbc.vm, EXIT_POWEROFF, "guest asked for a reset (%s)", how);
}

static void reply(u8 v)
{
	kbc.out = v;
	kbc.full = true;
}

static void command(u8 c)
{
	kbc.expect = 0;
	switch (c) {
	case 0x20:
		reply(kbc.mode);
		break;
	case 0xaa:	/* self test */
		reply(0x55);
		break;
	case 0xab:	/* keyboard interface test: clock line stuck, for there is no keyboard */
	case 0xa9:
		reply(1);
		break;
	case 0xc0:
		reply(0);
		break;
	case 0xd0:	/* output port: A20 on, reset line high */
		reply(3);
		break;
	case 0x60:
	case 0xd1:
	case 0xd2:
	case 0xd3:
	case 0xd4:
		kbc.expect = c;
		break;
	case 0xfe:
		reset("i8042");
		break;
	default:
		break;
	}
}

static void data(u8 v)
{
	if (kbc.expect == 0x60)
		kbc.mode = v;
	else if (kbc.expect == 0xd1 && !(v & 1))
		reset("i8042");
	else if (kbc.expect == 0xd2 || kbc.expect == 0xd3)
		reply(v);
	kbc.expect = 0;
}

static u64 data_read(void *dev, u64 off, unsigned int size)
{
	u64 v;

	pthread_mutex_lock(&kbc.lock);
	v = kbc.out;
	kbc.full = false;
	pthread_mutex_unlock(&kbc.lock);
	return v;
}

static void data_write(void *dev, u64 off, unsigned int size, u64 val)
{
	pthread_mutex_lock(&kbc.lock);
	data((u8)val);
	pthread_mutex_unlock(&kbc.lock);
}

static u64 status_read(void *dev, u64 off, unsigned int size)
{
	u64 v;

	pthread_mutex_lock(&kbc.lock);
	v = STS_SYS | (kbc.full ? STS_OBF : 0) | (kbc.expect ? STS_CMD : 0);
	pthread_mutex_unlock(&kbc.lock);
	return v;
}

static void command_write(void *dev, u64 off, unsigned int size, u64 val)
{
	pthread_mutex_lock(&kbc.lock);
	command((u8)val);
	pthread_mutex_unlock(&kbc.lock);
}

static u64 port92_read(void *dev, u64 off, unsigned int size)
{
	return kbc.port92;
}

static void port92_write(void *dev, u64 off, unsigned int size, u64 val)
{
	/* Reset happens on the bit's rising edge. A20 is always open: no CPU of this age has a closed gate. */
	if ((val & 1) && !(kbc.port92 & 1))
		reset("port 92h");
	kbc.port92 = (u8)(val | 2);
}

void i8042_create(struct vm *vm)
{
	kbc.vm = vm;
	kbc.mode = 0;
	kbc.port92 = 2;
	kbc.full = false;
	bus_add(&vm->pio, &(struct bus_range){ .base = 0x60, .size = 1, .read = data_read, .write = data_write });
	bus_add(&vm->pio, &(struct bus_range){ .base = 0x64, .size = 1, .read = status_read, .write = command_write });
	bus_add(&vm->pio, &(struct bus_range){ .base = 0x92, .size = 1, .read = port92_read,
					       .write = port92_write });
}
