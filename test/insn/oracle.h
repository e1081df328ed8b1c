/* SPDX-License-Identifier: MIT */
/*
 * The native oracle: one instruction's original bytes, executed by the host CPU from a given state.
 * Shares neither decoder nor renamer with the engine.
 *
 * Guest-linear and host address of the memory operand are the same number here: the arena is mapped
 * at ARENA, low enough for every addressing form, with nothing mapped around it. The engine under test
 * sees another copy of it.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define ARENA 0x10000000ull
#define ARENA_SIZE 0x4000u
#define SLOT 0x18000000ull	/* the page the instruction is executed in */
#define GS_BASE 0x40000000ull	/* in the oracle and in the engine */

struct istate {
	uint64_t gpr[16];
	uint64_t flags;
	uint64_t pad;
	uint8_t fx[512];
	uint8_t ymm[16][32];
} __attribute__((aligned(64)));

/* Map arena and slot, install signal handlers. False: this machine cannot. */
bool oracle_init(void);

/**
 * oracle_run() - execute len bytes at SLOT + off from state s; s becomes the state after
 *
 * Return: -1, or the trap number of the fault; s is then the state at the fault.
 */
int oracle_run(const uint8_t *bytes, unsigned int len, unsigned int off, struct istate *s);

/* Called for signals that are not the oracle's: true when it dealt with it. */
extern bool (*oracle_other_signal)(int sig, void *info, void *uctx);

/* Vector state of the calling thread. */
void vec_load(const struct istate *s);
void vec_save(struct istate *s);
