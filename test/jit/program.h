/* SPDX-License-Identifier: MIT */
/*
 * Random guest programs: a loop of random instructions with branches, calls, loops and stores into its own code.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define CODE_GPA 0x10000ull
#define CODE_MAX 0x8000u
#define DATA_GPA 0x40000ull
#define DATA_SIZE 0x10000u
#define STACK_GPA 0x60000ull
#define COUNT_GPA 0x68000ull	/* rounds left */
#define ALIAS 0x400000ull	/* the first 2 MiB once more */
#define TABLES_LA 0x69000u	/* the supervisor sees the entries of the first 2 MiB here */
#define SLOTS_MAX 1024

/**
 * struct program - a program
 * @code: runs at CODE_GPA
 * @slot: its instructions, where they begin; slot[nslots] is the end
 * @fixed: slots that must stay, or it would not end
 * @user: it runs at CPL 3
 * @hole: a page of data that is not present, or 0
 */
struct program {
	uint64_t seed;
	unsigned int n;
	unsigned int nslots;
	bool user;
	uint64_t hole;
	uint8_t code[CODE_MAX];
	uint16_t slot[SLOTS_MAX + 1];
	bool fixed[SLOTS_MAX];
};

void program_make(struct program *p, uint64_t seed);
uint64_t random_next(uint64_t *s);
