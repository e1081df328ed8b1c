/* SPDX-License-Identifier: MIT */
/*
 * One PCI bus, configuration mechanism 1. [PCI Local Bus Specification 3.0]
 *
 * A device has at most two 32-bit memory BARs: 0 is its own, 1 its MSI-X table. The monitor assigns the addresses;
 * the guest may move them.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "base/types.h"

struct vm;
struct pci_dev;

#define PCI_BARS 2
#define MSIX_MAX 16
#define MSIX_NONE 0xffff

struct pci_ops {
	u64 (*read)(struct pci_dev *d, u32 off, unsigned int size);
	void (*write)(struct pci_dev *d, u32 off, unsigned int size, u64 val);
	/* BAR 0 now answers at @base; 0: nowhere */
	void (*mapped)(struct pci_dev *d, u32 base);
	/* A configuration register of the device's own capability; false: plain bytes. May be NULL. */
	bool (*cfg_read)(struct pci_dev *d, u32 off, unsigned int size, u32 *val);
	void (*cfg_write)(struct pci_dev *d, u32 off, unsigned int size, u32 val);
};

struct msix_entry {
	u32 addr_lo, addr_hi, data, control;
};

/* Everything in it is guarded by @lock, which is the device's own lock too. */
struct pci_dev {
	struct vm *vm;
	const struct pci_ops *ops;
	pthread_mutex_t lock;
	unsigned int slot;
	u8 cfg[256], wmask[256];
	u32 bar_size[PCI_BARS];
	_Atomic u32 bar_base[PCI_BARS];	/* where it answers; 0: decoding is off */
	u8 msix_cap;
	unsigned int msix_n;
	u32 msix_pending;
	struct msix_entry msix[MSIX_MAX];
	u32 next_cap;
};

/**
 * pci_dev_init() - fill in the header of a type 0 function
 */
void pci_dev_init(struct pci_dev *d, struct vm *vm, const struct pci_ops *ops, u16 vendor, u16 device, u32 class_rev,
		  u16 subsystem);
/* Appends a capability of @len bytes (header included) and returns its offset. */
u8 pci_add_cap(struct pci_dev *d, u8 id, u8 len);
void pci_set_bar(struct pci_dev *d, unsigned int bar, u32 size);
void pci_add_msix(struct pci_dev *d, unsigned int vectors);
/* Puts the device into the next slot; false when the bus is full. */
bool pci_plug(struct pci_dev *d);

/* With the device's lock held. */
bool pci_msix_enabled(const struct pci_dev *d);
void pci_msix_raise(struct pci_dev *d, unsigned int vector);
void pci_intx(struct pci_dev *d, bool level);
