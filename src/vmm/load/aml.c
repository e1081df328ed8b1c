/* SPDX-License-Identifier: MIT */
#include "vmm/load/aml.h"

#include <ctype.h>
#include <string.h>

void aml_bytes(struct aml *a, const void *p, u32 n)
{
	if (n > AML_MAX - a->len) {
		a->overflow = true;
		return;
	}
	memcpy(a->buf + a->len, p, n);
	a->len += n;
}

void aml_byte(struct aml *a, u8 b)
{
	aml_bytes(a, &b, 1);
}

void aml_int(struct aml *a, u64 v)
{
	/* ZeroOp, OneOp, then Byte-, Word-, DWord- and QWordPrefix */
	if (v <= 1) {
		aml_byte(a, (u8)v);
	} else if (v <= 0xff) {
		aml_byte(a, 0x0a);
		aml_bytes(a, &v, 1);
	} else if (v <= 0xffff) {
		aml_byte(a, 0x0b);
		aml_bytes(a, &v, 2);
	} else if (v <= 0xffffffffu) {
		aml_byte(a, 0x0c);
		aml_bytes(a, &v, 4);
	} else {
		aml_byte(a, 0x0e);
		aml_bytes(a, &v, 8);
	}
}

void aml_string(struct aml *a, const char *s)
{
	aml_byte(a, 0x0d);
	aml_bytes(a, s, (u32)strlen(s) + 1);
}

/* Three bytes hold any length we write: four low bits in the first, then two whole bytes. */
static void open_block(struct aml *a)
{
	static const u8 zero[3];

	if (a->depth == AML_DEPTH) {
		a->overflow = true;
		return;
	}
	a->open[a->depth++] = a->len;
	aml_bytes(a, zero, 3);
}

void aml_close(struct aml *a)
{
	u32 at, len;

	if (!a->depth || a->overflow)
		return;
	at = a->open[--a->depth];
	len = a->len - at;
	a->buf[at] = (u8)(2 << 6 | (len & 0xf));
	a->buf[at + 1] = (u8)(len >> 4);
	a->buf[at + 2] = (u8)(len >> 12);
}

static void put_name(struct aml *a, const char *name)
{
	aml_bytes(a, name, (u32)strlen(name));
}

void aml_scope(struct aml *a, const char *name)
{
	aml_byte(a, 0x10);
	open_block(a);
	put_name(a, name);
}

void aml_device(struct aml *a, const char *name)
{
	aml_byte(a, 0x5b);
	aml_byte(a, 0x82);
	open_block(a);
	put_name(a, name);
}

void aml_package(struct aml *a, u8 elements)
{
	aml_byte(a, 0x12);
	open_block(a);
	aml_byte(a, elements);
}

void aml_buffer(struct aml *a, const void *p, u32 n)
{
	aml_byte(a, 0x11);
	open_block(a);
	aml_int(a, n);
	aml_bytes(a, p, n);
	aml_close(a);
}

void aml_name(struct aml *a, const char *name)
{
	aml_byte(a, 0x08);
	put_name(a, name);
}

void aml_name_int(struct aml *a, const char *name, u64 v)
{
	aml_name(a, name);
	aml_int(a, v);
}

static u32 hex_digit(char c)
{
	return isdigit((unsigned char)c) ? (u32)(c - '0') : (u32)(c - 'A' + 10);
}

/* [ACPI 6.4 "EISAID (EISA ID String To Integer Conversion Macro)"]: five bits a letter, big-endian */
void aml_hid(struct aml *a, const char *id)
{
	u32 v = 0;

	for (int i = 0; i < 3; i++)
		v = v << 5 | (u32)(id[i] - '@');
	for (int i = 3; i < 7; i++)
		v = v << 4 | hex_digit(id[i]);
	aml_name_int(a, "_HID", __builtin_bswap32(v));
}

static void res_bytes(struct aml_res *r, const void *p, u32 n)
{
	if (n > sizeof(r->buf) - r->len)
		return;
	memcpy(r->buf + r->len, p, n);
	r->len += n;
}

void aml_res_io(struct aml_res *r, u16 base, u8 len)
{
	const u8 d[] = { 0x47, 1, (u8)base, (u8)(base >> 8), (u8)base, (u8)(base >> 8), 1, len };

	res_bytes(r, d, sizeof(d));
}

void aml_res_irq(struct aml_res *r, u32 irq)
{
	const u16 mask = (u16)BIT(irq);
	const u8 d[] = { 0x22, (u8)mask, (u8)(mask >> 8) };

	res_bytes(r, d, sizeof(d));
}

/* min and max fixed, producer */
#define RES_FIXED 0x0c

void aml_res_word(struct aml_res *r, u8 type, u8 type_flags, u16 min, u16 max)
{
	const u8 head[] = { 0x88, 13, 0, type, RES_FIXED, type_flags };
	const u16 body[] = { 0, min, max, 0, (u16)(max - min + 1) };

	res_bytes(r, head, sizeof(head));
	res_bytes(r, body, sizeof(body));
}

void aml_res_dword(struct aml_res *r, u8 type, u8 type_flags, u32 min, u32 max)
{
	const u8 head[] = { 0x87, 23, 0, type, RES_FIXED, type_flags };
	const u32 body[] = { 0, min, max, 0, max - min + 1 };

	res_bytes(r, head, sizeof(head));
	res_bytes(r, body, sizeof(body));
}

void aml_crs(struct aml *a, struct aml_res *r)
{
	/* End tag; a checksum of zero means none. */
	static const u8 end[] = { 0x79, 0 };

	res_bytes(r, end, sizeof(end));
	aml_name(a, "_CRS");
	aml_buffer(a, r->buf, r->len);
}
