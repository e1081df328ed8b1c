/* SPDX-License-Identifier: MIT */
/*
 * The board's chips. A chip is one file named after what is printed on it; <chip>_create() puts it on the bus.
 */
#pragma once
#include <stddef.h>
#include "base/types.h"

struct vm;
struct pci_bus;
struct serial;
struct rtc;
struct acpi_pm;

/* Fixed ACPI registers. */
#define ACPI_PM_BASE 0x600
#define ACPI_PM_SIZE 0x10
#define ACPI_PM1_EVT 0x600
#define ACPI_PM1_CNT 0x604
#define ACPI_PM_TMR 0x608
#define ACPI_SLP_TYP_S5 5

#define RTC_CENTURY 0x32

#define PCI_SLOTS 32
/* The interrupt line that slot's INTA# is wired to. */
unsigned int pci_slot_gsi(unsigned int slot);

/**
 * struct console_sink - a device that takes what the user types
 *
 * @room and @put are called by the main thread. When @room was too small and has grown, the device calls
 * console_wake().
 */
struct console_sink {
	size_t (*room)(void *dev);
	void (*put)(void *dev, const u8 *p, size_t n);
	void *dev;
};

/* ns16550a.c: COM1 */
struct serial *serial_create(struct vm *vm, bool console);
void serial_destroy(struct serial *s);
struct console_sink serial_sink(struct serial *s);

/* mc146818.c: real-time clock and CMOS memory */
struct rtc *rtc_create(struct vm *vm);
void rtc_destroy(struct rtc *r);

/* i8042.c: keyboard controller without a keyboard, and the other ways to pull the reset line */
void i8042_create(struct vm *vm);

/* acpipm.c: ACPI PM1 event and control registers, PM timer */
struct acpi_pm *acpi_pm_create(struct vm *vm);
void acpi_pm_destroy(struct acpi_pm *pm);
void acpi_pm_power_button(struct acpi_pm *pm);

/* debugport.c: ports for test guests, present only when asked for */
void debug_exit_create(struct vm *vm);
void debug_port_create(struct vm *vm);

/* pci.c */
struct pci_bus *pci_create(struct vm *vm);
void pci_destroy(struct pci_bus *bus);

/* virtio devices: 0, or an exit code after one line on stderr */
int vioblk_create(struct vm *vm, const char *spec);
int viornd_create(struct vm *vm);
int viocon_create(struct vm *vm, struct console_sink *sink);
int vionet_create(struct vm *vm, const char *spec);
