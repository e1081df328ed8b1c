/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware: PM1a event and control blocks, power management timer. [ACPI 6.4 "Fixed Hardware Registers"]
 *
 * There is no SMI command port, so the machine is always in ACPI mode. S5 is the only sleep state.
 */
#include "vmm/dev/dev.h"

#include <stdlib.h>
#include <time.h>
#include "vmm/vmm.h"

#define PM_TIMER_HZ 3579545ull

enum { PM1_PWRBTN = 0x100 };	/* status and enable registers */
enum { CNT_SCI_EN = 1, CNT_SLP_EN = 0x2000 };
enum { STS = 0, EN = 2, CNT = 4, TMR = 8 };	/* offsets from ACPI_PM_BASE */

struct acpi_pm {
	struct vm *vm;
	pthread_mutex_t lock;
	u16 sts, en, cnt;
	struct timespec start;
};

static u32 timer_value(const struct acpi_pm *pm)
{
	struct timespec now;
	u64 ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ns = (u64)(now.tv_sec - pm->start.tv_sec) * 1000000000ull + (u64)(now.tv_nsec - pm->start.tv_nsec);
	return (u32)((u128)ns * PM_TIMER_HZ / 1000000000ull);
}

static void update_sci(struct acpi_pm *pm)
{
	vmm_irq_line(pm->vm, GSI_SCI, 0, (pm->sts & pm->en & PM1_PWRBTN) != 0);
}

static u8 read_byte(struct acpi_pm *pm, u64 off)
{
	switch (off & ~1ull) {
	case STS:
		return (u8)(pm->sts >> (8 * (off & 1)));
	case EN:
		return (u8)(pm->en >> (8 * (off & 1)));
	case CNT:
		return (u8)((pm->cnt | CNT_SCI_EN) >> (8 * (off & 1)));
	default:
		return 0;
	}
}

static void write_control(struct acpi_pm *pm)
{
	u32 type = pm->cnt >> 10 & 7;

	if (!(pm->cnt & CNT_SLP_EN))
		return;
	pm->cnt &= (u16)~CNT_SLP_EN;
	if (type == ACPI_SLP_TYP_S5)
		vmm_stop(pm->vm, EXIT_POWEROFF, NULL);
}

static void write_byte(struct acpi_pm *pm, u64 off, u8 v)
{
	u32 shift = 8 * (off & 1);
	u16 mask = (u16)(0xff << shift), val = (u16)(v << shift);

	switch (off & ~1ull) {
	case STS:
		pm->sts &= (u16)~val;
		break;
	case EN:
		pm->en = (u16)((pm->en & ~mask) | val);
		break;
	case CNT:
		pm->cnt = (u16)((pm->cnt & ~mask) | val);
		if (shift)
			write_control(pm);
		break;
	default:
		break;
	}
}

static u64 pm_read(void *dev, u64 off, unsigned int size)
{
	struct acpi_pm *pm = dev;
	u64 v = 0;

	if (off >= TMR && off < TMR + 4)
		return timer_value(pm) >> (8 * (off - TMR));
	pthread_mutex_lock(&pm->lock);
	for (unsigned int i = 0; i < size; i++)
		v |= (u64)read_byte(pm, off + i) << (8 * i);
	pthread_mutex_unlock(&pm->lock);
	return v;
}

static void pm_write(void *dev, u64 off, unsigned int size, u64 val)
{
	struct acpi_pm *pm = dev;

	pthread_mutex_lock(&pm->lock);
	for (unsigned int i = 0; i < size; i++)
		write_byte(pm, off + i, (u8)(val >> (8 * i)));
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->sts |= PM1_PWRBTN;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

struct acpi_pm *acpi_pm_create(struct vm *vm)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));

	if (!pm)
		return NULL;
	pm->vm = vm;
	pthread_mutex_init(&pm->lock, NULL);
	clock_gettime(CLOCK_MONOTONIC, &pm->start);
	bus_add(&vm->pio, &(struct bus_range){ .base = ACPI_PM_BASE, .size = ACPI_PM_SIZE, .read = pm_read,
					       .write = pm_write, .dev = pm });
	return pm;
}

void acpi_pm_destroy(struct acpi_pm *pm)
{
	free(pm);
}
