/* SPDX-License-Identifier: MIT */
/*
 * Bare guest programs (guest.inc) on our processor and on others: images in, records out.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_IMAGE 0x10000
#define GUEST_OUT_MAX (8u << 20)

enum guest_record_kind { GUEST_SNAP, GUEST_CHECK, GUEST_UNEXPECTED };

/* What SNAP, TRY and CHECK of guest.inc send through port 0xe9. */
struct guest_record {
	char name[24];
	uint32_t kind;
	uint32_t bits;		/* code size the record was taken in */
	int32_t vector;		/* of the last exception, -1 = none */
	uint32_t error;
	uint64_t cr2;
	uint64_t rip;		/* of the exception, relative to the instruction under TRY */
	uint64_t xflags;
	uint64_t got, want;	/* CHECK */
	uint64_t flags;
	uint64_t gpr[16];
};

enum guest_how {
	GUEST_PLAIN,
	GUEST_KICKED,	/* another thread asks for exits, TLB and code flushes all the time */
};

/**
 * struct guest_out - what a run sent
 * @data: bytes of port 0xe9
 * @exit_code: value written to port 0xf4, or -1
 * @error: why the run ended without that, or NULL
 * @seconds: wall-clock time
 */
struct guest_out {
	uint8_t *data;
	size_t len;
	int exit_code;
	char error[160];
	double seconds;
	uint64_t icount;
	unsigned int kicks;
};

/* Run an image on our processor, in this process, for at most @limit seconds. */
void guest_run(const uint8_t image[GUEST_IMAGE], enum guest_how how, unsigned int limit,
	       struct guest_out *out);
/* The same on QEMU's translator. False: QEMU is not there. */
bool guest_run_qemu(const char *image_path, unsigned int limit, struct guest_out *out);
void guest_out_free(struct guest_out *out);
