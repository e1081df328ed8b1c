/* SPDX-License-Identifier: MIT */
/*
 * ACPI tables: RSDP, XSDT, FADT, FACS, MADT, DSDT. [ACPI 6.4 "ACPI Software Programming Model"]
 *
 * Debian's cloud kernel is built without MP tables, so this is the only way it learns of its processors, interrupt
 * routes and PCI windows, and the only way it can switch the machine off.
 */
#include "vmm/load/load.h"

#include <string.h>
#include "vmm/dev/dev.h"
#include "vmm/load/aml.h"
#include "vmm/vmm.h"

struct table {
	char signature[4];
	u32 length;
	u8 revision, checksum;
	char oem_id[6], oem_table_id[8];
	u32 oem_revision;
	char creator_id[4];
	u32 creator_revision;
} __attribute__((packed));

struct gas {
	u8 space, bits, offset, access;
	u64 addr;
} __attribute__((packed));

struct rsdp {
	char signature[8];
	u8 checksum;
	char oem_id[6];
	u8 revision;
	u32 rsdt;
	u32 length;
	u64 xsdt;
	u8 ext_checksum, reserved[3];
} __attribute__((packed));

struct facs {
	char signature[4];
	u32 length, hardware_signature, waking_vector, global_lock, flags;
	u64 x_waking_vector;
	u8 version, reserved[31];
} __attribute__((packed));

struct fadt {
	struct table head;
	u32 facs, dsdt;
	u8 reserved0, profile;
	u16 sci_int;
	u32 smi_cmd;
	u8 acpi_enable, acpi_disable, s4bios, pstate;
	u32 pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base, cst_cnt;
	u16 c2_latency, c3_latency, flush_size, flush_stride;
	u8 duty_offset, duty_width, day_alarm, month_alarm, century;
	u16 boot_flags;
	u8 reserved1;
	u32 flags;
	struct gas reset;
	u8 reset_value;
	u16 arm_flags;
	u8 minor;
	u64 x_facs, x_dsdt;
	struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1;
	struct gas sleep_control, sleep_status;
} __attribute__((packed));

/* FADT "Fixed ACPI Description Table Fixed Feature Flags" and "IA-PC Boot Architecture Flags" that we set */
#define FADT_WBINVD BIT(0)
#define FADT_C1 BIT(2)
#define FADT_NO_SLEEP_BUTTON BIT(5)
#define FADT_TMR_32BIT BIT(8)
#define FADT_RESET_REG BIT(10)
#define BOOT_LEGACY_DEVICES BIT(0)
#define BOOT_NO_VGA BIT(2)

struct madt {
	struct table head;
	u32 lapic_addr, flags;
} __attribute__((packed));
struct madt_lapic {
	u8 type, len, uid, apic_id;
	u32 flags;
} __attribute__((packed));
struct madt_ioapic {
	u8 type, len, id, reserved;
	u32 addr, gsi_base;
} __attribute__((packed));
struct madt_override {
	u8 type, len, bus, irq;
	u32 gsi;
	u16 flags;
} __attribute__((packed));
struct madt_nmi {
	u8 type, len, uid;
	u16 flags;
	u8 lint;
} __attribute__((packed));

/* Tables follow one another from ACPI_START, each on a 64-byte line: the FACS wants that. */
struct builder {
	struct ram *ram;
	u64 next;
};

static u8 checksum(const void *p, size_t n)
{
	const u8 *b = p;
	u8 sum = 0;

	while (n--)
		sum = (u8)(sum + *b++);
	return (u8)-sum;
}

static u64 put(struct builder *b, const void *p, u32 n)
{
	u64 at = b->next;

	if (at + n > ACPI_END || !ram_write(b->ram, at, p, n))
		return 0;
	b->next = (at + n + 63) & ~63ull;
	return at;
}

static void head_fill(struct table *t, const char *signature, u8 revision, u32 length)
{
	memcpy(t->signature, signature, 4);
	t->length = length;
	t->revision = revision;
	memcpy(t->oem_id, "CASMNT", 6);
	memcpy(t->oem_table_id, "CASEMENT", 8);
	t->oem_revision = 1;
	memcpy(t->creator_id, "CSMT", 4);
	t->creator_revision = 1;
	t->checksum = 0;
	t->checksum = checksum(t, length);
}

static struct gas io_register(u16 port, u8 bits)
{
	/* access size: 1 byte, 2 word, 3 dword */
	return (struct gas){ .space = 1, .bits = bits, .access = bits == 8 ? 1 : bits == 16 ? 2 : 3, .addr = port };
}

static void dsdt_pci(struct aml *a)
{
	struct aml_res r = { .len = 0 };

	aml_device(a, "PCI0");
	aml_hid(a, "PNP0A03");
	aml_name_int(a, "_UID", 0);
	aml_name_int(a, "_BBN", 0);
	aml_res_word(&r, 2, 0, 0, 0);
	aml_res_io(&r, 0xcf8, 8);
	aml_res_word(&r, 1, 3, 0, 0xcf7);
	aml_res_word(&r, 1, 3, 0xd00, 0xffff);
	aml_res_dword(&r, 0, 1, PCI_WINDOW_START, PCI_WINDOW_END - 1);
	aml_crs(a, &r);
	aml_name(a, "_PRT");
	aml_package(a, PCI_SLOTS - 1);
	for (u32 slot = 1; slot < PCI_SLOTS; slot++) {
		aml_package(a, 4);
		aml_int(a, slot << 16 | 0xffff);
		aml_int(a, 0);
		aml_int(a, 0);
		aml_int(a, pci_slot_gsi(slot));
		aml_close(a);
	}
	aml_close(a);
	aml_close(a);
}

static void dsdt_isa(struct aml *a)
{
	struct aml_res com = { .len = 0 }, rtc = { .len = 0 }, board = { .len = 0 };

	aml_device(a, "COM1");
	aml_hid(a, "PNP0501");
	aml_name_int(a, "_UID", 1);
	aml_res_io(&com, 0x3f8, 8);
	aml_res_irq(&com, GSI_COM1);
	aml_crs(a, &com);
	aml_close(a);

	aml_device(a, "RTC_");
	aml_hid(a, "PNP0B00");
	aml_res_io(&rtc, 0x70, 2);
	aml_res_irq(&rtc, GSI_RTC);
	aml_crs(a, &rtc);
	aml_close(a);

	/* Keeps PCI I/O allocation away from the fixed ACPI registers. */
	aml_device(a, "MBRD");
	aml_hid(a, "PNP0C02");
	aml_res_io(&board, ACPI_PM_BASE, ACPI_PM_SIZE);
	aml_crs(a, &board);
	aml_close(a);
}

static void dsdt_cpus(struct aml *a, u32 nr_cpus)
{
	static const char hex[] = "0123456789ABCDEF";

	for (u32 i = 0; i < nr_cpus; i++) {
		const char name[5] = { 'C', '0', hex[i >> 4 & 15], hex[i & 15], 0 };

		aml_device(a, name);
		aml_name(a, "_HID");
		aml_string(a, "ACPI0007");
		aml_name_int(a, "_UID", i);
		aml_close(a);
	}
}

static u64 put_dsdt(struct builder *b, u32 nr_cpus)
{
	static struct aml a;	/* 16 KiB, and only one thread boots */
	struct table head = { .length = 0 };

	memset(&a, 0, sizeof(a));
	aml_bytes(&a, &head, sizeof(head));
	aml_scope(&a, "\\_SB_");
	dsdt_pci(&a);
	dsdt_isa(&a);
	dsdt_cpus(&a, nr_cpus);
	aml_close(&a);
	aml_name(&a, "_S5_");
	aml_package(&a, 4);
	aml_int(&a, ACPI_SLP_TYP_S5);
	aml_int(&a, ACPI_SLP_TYP_S5);
	aml_int(&a, 0);
	aml_int(&a, 0);
	aml_close(&a);
	if (a.overflow)
		return 0;
	head_fill((struct table *)a.buf, "DSDT", 2, a.len);
	return put(b, a.buf, a.len);
}

static u64 put_facs(struct builder *b)
{
	struct facs f = { .length = sizeof(f), .version = 2 };

	memcpy(f.signature, "FACS", 4);
	return put(b, &f, sizeof(f));
}

static u64 put_fadt(struct builder *b, u64 facs, u64 dsdt)
{
	struct fadt f = {
		.facs = (u32)facs, .dsdt = (u32)dsdt, .x_dsdt = dsdt,
		.profile = 4,	/* enterprise server */
		.sci_int = GSI_SCI,
		.pm1a_evt = ACPI_PM1_EVT, .pm1a_cnt = ACPI_PM1_CNT, .pm_tmr = ACPI_PM_TMR,
		.pm1_evt_len = 4, .pm1_cnt_len = 2, .pm_tmr_len = 4,
		.c2_latency = 0xfff, .c3_latency = 0xfff,	/* over the limits: no C2, no C3 */
		.century = RTC_CENTURY,
		.boot_flags = BOOT_LEGACY_DEVICES | BOOT_NO_VGA,
		.flags = (u32)(FADT_WBINVD | FADT_C1 | FADT_NO_SLEEP_BUTTON | FADT_TMR_32BIT | FADT_RESET_REG),
		.reset = io_register(0xcf9, 8), .reset_value = 6,
		.x_pm1a_evt = io_register(ACPI_PM1_EVT, 32),
		.x_pm1a_cnt = io_register(ACPI_PM1_CNT, 16),
		.x_pm_tmr = io_register(ACPI_PM_TMR, 32),
	};

	head_fill(&f.head, "FACP", 5, sizeof(f));
	return put(b, &f, sizeof(f));
}

static u32 append(u8 *buf, u32 at, const void *p, u32 n)
{
	memcpy(buf + at, p, n);
	return at + n;
}

static u64 put_madt(struct builder *b, u32 nr_cpus)
{
	u8 buf[sizeof(struct madt) + VM_CPUS_MAX * sizeof(struct madt_lapic) + 128] = { 0 };
	struct madt *m = (struct madt *)buf;
	const struct madt_ioapic io = { .type = 1, .len = sizeof(io), .id = 0, .addr = IOAPIC_BASE };
	const struct madt_nmi nmi = { .type = 4, .len = sizeof(nmi), .uid = 0xff, .lint = 1 };
	u32 n = sizeof(*m);

	m->lapic_addr = LAPIC_BASE;
	m->flags = 1;	/* there is an 8259 pair too */
	for (u32 i = 0; i < nr_cpus; i++) {
		const struct madt_lapic l = { .type = 0, .len = sizeof(l), .uid = (u8)i, .apic_id = (u8)i, .flags = 1 };

		n = append(buf, n, &l, sizeof(l));
	}
	n = append(buf, n, &io, sizeof(io));
	/* IRQ 0 is on pin 2; the SCI and the PCI lines are level-triggered, active high. */
	for (u32 irq = 0; irq < 16; irq++) {
		const bool level = irq == GSI_SCI || irq == GSI_PCI_A || irq == GSI_PCI_B;
		const struct madt_override o = { .type = 2, .len = sizeof(o), .irq = (u8)irq,
						 .gsi = irq ? irq : 2, .flags = level ? 0xd : 0 };

		if (!irq || level)
			n = append(buf, n, &o, sizeof(o));
	}
	n = append(buf, n, &nmi, sizeof(nmi));
	head_fill(&m->head, "APIC", 4, n);
	return put(b, buf, n);
}

u64 acpi_build(struct ram *ram, unsigned int nr_cpus)
{
	struct builder b = { .ram = ram, .next = ACPI_START + 64 };
	struct {
		struct table head;
		u64 entry[2];
	} __attribute__((packed)) xsdt = { .entry = { 0 } };
	struct rsdp r = { .revision = 2, .length = sizeof(r) };
	u64 facs = put_facs(&b);
	u64 dsdt = put_dsdt(&b, nr_cpus);

	xsdt.entry[0] = put_fadt(&b, facs, dsdt);
	xsdt.entry[1] = put_madt(&b, nr_cpus);
	head_fill(&xsdt.head, "XSDT", 1, sizeof(xsdt));
	r.xsdt = put(&b, &xsdt, sizeof(xsdt));
	memcpy(r.signature, "RSD PTR ", 8);
	memcpy(r.oem_id, "CASMNT", 6);
	r.checksum = checksum(&r, 20);
	r.ext_checksum = checksum(&r, sizeof(r));
	ram_write(ram, ACPI_START, &r, sizeof(r));
	return ACPI_START;
}
