/* SPDX-License-Identifier: MIT */
/*
 * Ports that no PC has and test guests expect: QEMU's isa-debug-exit and the Bochs debug console.
 */
#include "vmm/dev/dev.h"

#include <stdio.h>
#include <unistd.h>
#include "vmm/vmm.h"

#define DEBUG_CONSOLE_ID 0xe9

static u64 exit_read(void *dev, u64 off, unsigned int size)
{
	return 0;
}

static void exit_write(void *dev, u64 off, unsigned int size, u64 val)
{
	/* A range of four ports takes a value of any width; only one at its first port counts. */
	if (!off)
		vmm_stop(dev, (int)((val << 1 | 1) & 0xff), NULL);
}

void debug_exit_create(struct vm *vm)
{
	bus_add(&vm->pio, &(struct bus_range){ .base = 0xf4, .size = 4, .read = exit_read, .write = exit_write,
					       .dev = vm });
	bus_add(&vm->pio, &(struct bus_range){ .base = 0x501, .size = 1, .read = exit_read, .write = exit_write,
					       .dev = vm });
}

static u64 port_read(void *dev, u64 off, unsigned int size)
{
	return DEBUG_CONSOLE_ID;
}

static void port_write(void *dev, u64 off, unsigned int size, u64 val)
{
	u8 c = (u8)val;

	/* What cannot be written is lost: a debug port has no way to say so. */
	if (write(STDERR_FILENO, &c, 1) < 0)
		return;
}

void debug_port_create(struct vm *vm)
{
	static const u16 port[] = { 0xe9, 0x402 };

	for (size_t i = 0; i < ARRAY_SIZE(port); i++)
		bus_add(&vm->pio, &(struct bus_range){ .base = port[i], .size = 1, .read = port_read,
						       .write = port_write, .dev = vm });
}
