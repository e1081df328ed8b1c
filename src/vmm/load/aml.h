/* SPDX-License-Identifier: MIT */
/*
 * ACPI Machine Language, written byte by byte. [ACPI 6.4 "ACPI Machine Language (AML) Specification"]
 *
 * A block (scope, device, package, buffer) is opened, filled and closed; its length is patched when it closes.
 */
#pragma once
#include "base/types.h"

#define AML_MAX 16384
#define AML_DEPTH 8

struct aml {
	u8 buf[AML_MAX];
	u32 len;
	u32 open[AML_DEPTH];	/* where the open blocks' lengths go */
	u32 depth;
	bool overflow;
};

void aml_bytes(struct aml *a, const void *p, u32 n);
void aml_byte(struct aml *a, u8 b);
void aml_int(struct aml *a, u64 v);
void aml_string(struct aml *a, const char *s);

/* Each opens a block that aml_close() ends. @name is a NameString of four letters, or "\\_SB_". */
void aml_scope(struct aml *a, const char *name);
void aml_device(struct aml *a, const char *name);
void aml_package(struct aml *a, u8 elements);
/* A buffer whose size aml_close() cannot know is written at once. */
void aml_buffer(struct aml *a, const void *p, u32 n);
void aml_close(struct aml *a);

/* Name(@name, …): an object follows. */
void aml_name(struct aml *a, const char *name);
void aml_name_int(struct aml *a, const char *name, u64 v);
/* _HID as a compressed EISA id such as "PNP0501". */
void aml_hid(struct aml *a, const char *id);

/**
 * struct aml_res - a resource template under construction
 */
struct aml_res {
	u8 buf[256];
	u32 len;
};
void aml_res_io(struct aml_res *r, u16 base, u8 len);
void aml_res_irq(struct aml_res *r, u32 irq);
/* @type: 0 memory, 1 I/O, 2 bus numbers; range [@min, @max] that the bridge passes down */
void aml_res_word(struct aml_res *r, u8 type, u8 type_flags, u16 min, u16 max);
void aml_res_dword(struct aml_res *r, u8 type, u8 type_flags, u32 min, u32 max);
/* Name(_CRS, ResourceTemplate) */
void aml_crs(struct aml *a, struct aml_res *r);
