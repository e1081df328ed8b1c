/* SPDX-License-Identifier: MIT */
/* The engine under test: decoder, renamer and stubs, with the rest of the processor played by engine.c. */
#pragma once
#include "cpu/native.h"
#include "cpu/op/op.h"
#include "oracle.h"

/**
 * struct knobs - how the engine side of one case is run
 * @tlb: bit n = page n of the arena has a read entry, bit n + 4 = a write entry
 * @bounce: the generic memory path hands out the bounce buffer
 * @lazy_fp: vector state is not live at the start
 */
struct knobs {
	uint8_t tlb;
	bool bounce;
	bool lazy_fp;
};

bool engine_init(void);
uint8_t *engine_arena(void);
struct vcpu *engine_vcpu(void);

/**
 * engine_run() - run one decoded instruction as a trace of its own
 * @d: the instruction, as if fetched from SLOT + off
 * @s: state before and after
 *
 * Return: -1 retired; the vector of the exception; -2 anything else (message on stderr).
 */
int engine_run(const struct decode *d, unsigned int off, const struct knobs *k, struct istate *s);
