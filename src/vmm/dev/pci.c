/* SPDX-License-Identifier: MIT */
#include "vmm/dev/pci.h"

#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include "vmm/dev/dev.h"
#include "vmm/vmm.h"

#define CONFIG_ENABLE BIT(31)
#define MSIX_TABLE_SIZE (MSIX_MAX * sizeof(struct msix_entry))
#define MSIX_PBA 2048u
#define MSIX_BAR_SIZE 4096u
#define MSIX_BAR 1

struct pci_bus {
	struct vm *vm;
	_Atomic u32 address;	/* port CF8h */
	struct pci_dev *slot[PCI_SLOTS];
	unsigned int next_slot;
	u32 next_addr;
	struct pci_dev bridge;
	_Atomic u8 reset_control;	/* port CF9h */
};

unsigned int pci_slot_gsi(unsigned int slot)
{
	return slot & 1 ? GSI_PCI_A : GSI_PCI_B;
}

static u32 get(const u8 *p, unsigned int size)
{
	u32 v = 0;

	memcpy(&v, p, size);
	return v;
}

static void put16(u8 *p, u16 v)
{
	memcpy(p, &v, 2);
}

static void put32(u8 *p, u32 v)
{
	memcpy(p, &v, 4);
}

void pci_dev_init(struct pci_dev *d, struct vm *vm, const struct pci_ops *ops, u16 vendor, u16 device, u32 class_rev,
		  u16 subsystem)
{
	pthread_mutex_init(&d->lock, NULL);
	d->vm = vm;
	d->ops = ops;
	put16(d->cfg + PCI_VENDOR_ID, vendor);
	put16(d->cfg + PCI_DEVICE_ID, device);
	put32(d->cfg + PCI_CLASS_REVISION, class_rev);
	put16(d->cfg + PCI_SUBSYSTEM_VENDOR_ID, vendor);
	put16(d->cfg + PCI_SUBSYSTEM_ID, subsystem);
	put16(d->wmask + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	d->wmask[PCI_INTERRUPT_LINE] = 0xff;
	d->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
	d->wmask[PCI_LATENCY_TIMER] = 0xff;
	d->next_cap = 0x40;
}

u8 pci_add_cap(struct pci_dev *d, u8 id, u8 len)
{
	u32 at = d->next_cap;
	u8 *link = d->cfg + PCI_CAPABILITY_LIST;

	while (*link)
		link = d->cfg + *link + 1;
	*link = (u8)at;
	d->cfg[at] = id;
	d->cfg[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	d->next_cap = (at + len + 3u) & ~3u;
	return (u8)at;
}

void pci_set_bar(struct pci_dev *d, unsigned int bar, u32 size)
{
	d->bar_size[bar] = size;
	put32(d->wmask + PCI_BASE_ADDRESS_0 + 4 * bar, ~(size - 1));
}

void pci_add_msix(struct pci_dev *d, unsigned int vectors)
{
	u8 at = pci_add_cap(d, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);

	d->msix_cap = at;
	d->msix_n = vectors;
	put16(d->cfg + at + PCI_MSIX_FLAGS, (u16)(vectors - 1));
	put32(d->cfg + at + PCI_MSIX_TABLE, MSIX_BAR);
	put32(d->cfg + at + PCI_MSIX_PBA, MSIX_PBA | MSIX_BAR);
	put16(d->wmask + at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	pci_set_bar(d, MSIX_BAR, MSIX_BAR_SIZE);
	for (unsigned int i = 0; i < vectors; i++)
		d->msix[i].control = PCI_MSIX_ENTRY_CTRL_MASKBIT;
}

bool pci_plug(struct pci_dev *d)
{
	struct pci_bus *bus = d->vm->pci;

	if (bus->next_slot == PCI_SLOTS)
		return false;
	d->slot = bus->next_slot++;
	d->cfg[PCI_INTERRUPT_PIN] = 1;
	d->cfg[PCI_INTERRUPT_LINE] = (u8)pci_slot_gsi(d->slot);
	for (unsigned int i = 0; i < PCI_BARS; i++) {
		u32 size = d->bar_size[i];

		if (!size)
			continue;
		bus->next_addr = (bus->next_addr + size - 1) & ~(size - 1);
		put32(d->cfg + PCI_BASE_ADDRESS_0 + 4 * i, bus->next_addr);
		bus->next_addr += size;
	}
	bus->slot[d->slot] = d;
	return true;
}

static u16 command(const struct pci_dev *d)
{
	return (u16)get(d->cfg + PCI_COMMAND, 2);
}

/* Decoding follows the command register and the BARs; an address outside of the window decodes nothing. */
static void update_bars(struct pci_dev *d)
{
	for (unsigned int i = 0; i < PCI_BARS; i++) {
		u32 base = get(d->cfg + PCI_BASE_ADDRESS_0 + 4 * i, 4) & (u32)PCI_BASE_ADDRESS_MEM_MASK;
		u32 old = atomic_load(&d->bar_base[i]);

		if (!d->bar_size[i] || !(command(d) & PCI_COMMAND_MEMORY) || base < PCI_WINDOW_START ||
		    base > PCI_WINDOW_END - d->bar_size[i])
			base = 0;
		atomic_store(&d->bar_base[i], base);
		if (i == 0 && base != old && d->ops->mapped)
			d->ops->mapped(d, base);
	}
}

bool pci_msix_enabled(const struct pci_dev *d)
{
	return d->msix_cap && (get(d->cfg + d->msix_cap + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_ENABLE);
}

static bool function_masked(const struct pci_dev *d)
{
	return get(d->cfg + d->msix_cap + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_MASKALL;
}

void pci_msix_raise(struct pci_dev *d, unsigned int vector)
{
	struct msix_entry *e;

	if (vector >= d->msix_n)
		return;
	e = &d->msix[vector];
	if (function_masked(d) || (e->control & PCI_MSIX_ENTRY_CTRL_MASKBIT)) {
		d->msix_pending |= 1u << vector;
		return;
	}
	d->msix_pending &= ~(1u << vector);
	/* A device without bus mastering writes nothing, not even a message. */
	if (command(d) & PCI_COMMAND_MASTER)
		vmm_irq_msi(d->vm, (u64)e->addr_hi << 32 | e->addr_lo, e->data);
}

static void raise_pending(struct pci_dev *d)
{
	for (unsigned int i = 0; i < d->msix_n && pci_msix_enabled(d); i++)
		if (d->msix_pending & (1u << i))
			pci_msix_raise(d, i);
}

void pci_intx(struct pci_dev *d, bool level)
{
	bool off = command(d) & PCI_COMMAND_INTX_DISABLE || pci_msix_enabled(d);

	d->cfg[PCI_STATUS] = (u8)((d->cfg[PCI_STATUS] & ~PCI_STATUS_INTERRUPT) | (level ? PCI_STATUS_INTERRUPT : 0));
	vmm_irq_line(d->vm, pci_slot_gsi(d->slot), d->slot, level && !off);
}

static u32 config_read(struct pci_dev *d, u32 off, unsigned int size)
{
	u32 v;

	if (d->ops->cfg_read && d->ops->cfg_read(d, off, size, &v))
		return v;
	return get(d->cfg + off, size);
}

static void config_write(struct pci_dev *d, u32 off, unsigned int size, u32 val)
{
	for (unsigned int i = 0; i < size; i++) {
		u8 m = d->wmask[off + i];

		d->cfg[off + i] = (u8)((d->cfg[off + i] & ~m) | ((val >> (8 * i)) & m));
	}
	if (off < PCI_CAPABILITY_LIST)
		update_bars(d);
	pci_intx(d, d->cfg[PCI_STATUS] & PCI_STATUS_INTERRUPT);
	raise_pending(d);
	if (d->ops->cfg_write)
		d->ops->cfg_write(d, off, size, val);
}

static struct pci_dev *addressed(struct pci_bus *bus, u32 *off)
{
	u32 a = atomic_load(&bus->address);

	/* bus 0, function 0 */
	if (!(a & CONFIG_ENABLE) || (a & 0x00ff0700))
		return NULL;
	*off = (a & 0xfc) + *off;
	return bus->slot[a >> 11 & 31];
}

static u64 ports_read(void *dev, u64 port, unsigned int size)
{
	struct pci_bus *bus = dev;
	u32 off = (u32)port & 3;
	struct pci_dev *d;
	u64 v = ~0ull;

	if (port == 0 && size == 4)
		return atomic_load(&bus->address);
	if (port == 1 && size == 1)
		return atomic_load(&bus->reset_control);
	if (port < 4)
		return v;
	d = addressed(bus, &off);
	if (d && (off & 3) + size <= 4) {
		pthread_mutex_lock(&d->lock);
		v = config_read(d, off, size);
		pthread_mutex_unlock(&d->lock);
	}
	return v;
}

static void ports_write(void *dev, u64 port, unsigned int size, u64 val)
{
	struct pci_bus *bus = dev;
	u32 off = (u32)port & 3;
	struct pci_dev *d;

	if (port == 0 && size == 4) {
		atomic_store(&bus->address, (u32)val);
	} else if (port == 1 && size == 1) {
		/* RST_CPU: a rising edge of bit 2 resets. [Intel PIIX "Reset Control Register"] */
		if ((val & 4) && !(atomic_load(&bus->reset_control) & 4))
			vmm_stop(bus->vm, EXIT_POWEROFF, "guest asked for a reset (port CF9h)");
		atomic_store(&bus->reset_control, (u8)(val & ~4ull));
	} else if (port >= 4) {
		d = addressed(bus, &off);
		if (d && (off & 3) + size <= 4) {
			pthread_mutex_lock(&d->lock);
			config_write(d, off, size, (u32)val);
			pthread_mutex_unlock(&d->lock);
		}
	}
}

static u64 msix_read(struct pci_dev *d, u32 off, unsigned int size)
{
	u64 v = 0;

	if (off + size <= MSIX_TABLE_SIZE)
		memcpy(&v, (u8 *)d->msix + off, size);
	else if (off >= MSIX_PBA && off < MSIX_PBA + 8)
		v = (u64)d->msix_pending >> (8 * (off - MSIX_PBA));
	return v;
}

static void msix_write(struct pci_dev *d, u32 off, unsigned int size, u64 val)
{
	if (off + size > d->msix_n * sizeof(struct msix_entry) || size < 4)
		return;	/* [PCI 3.0 "MSI-X Table and PBA Structures"]: only dwords and qwords are defined */
	memcpy((u8 *)d->msix + off, &val, size);
	raise_pending(d);
}

/* The device that answers @addr, and which of its BARs. */
static struct pci_dev *decode(struct pci_bus *bus, u64 addr, unsigned int size, u32 *off, unsigned int *bar)
{
	for (unsigned int s = 1; s < bus->next_slot; s++) {
		struct pci_dev *d = bus->slot[s];

		for (unsigned int i = 0; i < PCI_BARS; i++) {
			u32 base = atomic_load(&d->bar_base[i]);

			if (base && addr >= base && addr + size <= (u64)base + d->bar_size[i]) {
				*off = (u32)(addr - base);
				*bar = i;
				return d;
			}
		}
	}
	return NULL;
}

static u64 window_read(void *dev, u64 rel, unsigned int size)
{
	unsigned int bar;
	u32 off;
	struct pci_dev *d = decode(dev, rel + PCI_WINDOW_START, size, &off, &bar);
	u64 v;

	if (!d)
		return ~0ull;
	pthread_mutex_lock(&d->lock);
	v = bar == MSIX_BAR ? msix_read(d, off, size) : d->ops->read(d, off, size);
	pthread_mutex_unlock(&d->lock);
	return v;
}

static void window_write(void *dev, u64 rel, unsigned int size, u64 val)
{
	unsigned int bar;
	u32 off;
	struct pci_dev *d = decode(dev, rel + PCI_WINDOW_START, size, &off, &bar);

	if (!d)
		return;
	pthread_mutex_lock(&d->lock);
	if (bar == MSIX_BAR)
		msix_write(d, off, size, val);
	else
		d->ops->write(d, off, size, val);
	pthread_mutex_unlock(&d->lock);
}

struct pci_bus *pci_create(struct vm *vm)
{
	static const struct pci_ops none;
	struct pci_bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return NULL;
	bus->vm = vm;
	bus->next_slot = 1;
	bus->next_addr = 0xe0000000u;
	/* Intel 440FX, of which only the header is there: what Linux looks for to trust mechanism 1. */
	pci_dev_init(&bus->bridge, vm, &none, 0x8086, 0x1237, 0x06000002, 0x1100);
	bus->slot[0] = &bus->bridge;
	bus_add(&vm->pio, &(struct bus_range){ .base = 0xcf8, .size = 8, .read = ports_read, .write = ports_write,
					       .dev = bus });
	bus_add(&vm->mmio, &(struct bus_range){ .base = PCI_WINDOW_START, .size = PCI_WINDOW_END - PCI_WINDOW_START,
						.read = window_read, .write = window_write, .dev = bus });
	return bus;
}

void pci_destroy(struct pci_bus *bus)
{
	free(bus);
}
