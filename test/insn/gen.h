/* SPDX-License-Identifier: MIT */
/* Random instructions of a row, and states to run them from. */
#pragma once
#include "engine.h"

/**
 * struct icase - one vector
 * @bytes: as the engine decodes them
 * @native: as the oracle executes them in 64-bit mode; same but for 16- and 32-bit code
 * @off: offset of the instruction in its page
 * @target: address of the memory operand, 0 = none
 * @window: initial memory around target
 */
struct icase {
	uint8_t bytes[16], native[16];
	uint8_t len, native_len;
	uint8_t csz;
	uint16_t off;
	struct decode d;
	struct istate in;
	struct knobs knobs;
	uint64_t target;
	uint8_t window[192];
};

#define WINDOW_BEFORE 64

/* Find encodings of every row by trying opcodes. Returns how many rows have any. */
unsigned int gen_init(uint64_t *seed);
unsigned int gen_templates(unsigned int id);
/* A random vector of row id; false if the template did not give one this time. */
bool gen_case(unsigned int id, struct icase *c);
/* Random bytes that begin with an encoding of row id in 64-bit mode. */
void gen_bytes(unsigned int id, uint8_t b[16]);
/* Where the window lies in an arena, clipped to it. */
uint8_t *gen_window(uint8_t *arena, const struct icase *c, unsigned int *skip, unsigned int *len);
