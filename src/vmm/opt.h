/* SPDX-License-Identifier: MIT */
/*
 * Command line of `casement run`, from the rows of spec/cli.def.
 */
#pragma once
#include <stdio.h>
#include "base/types.h"

#define OPT_LIST_MAX 16

#ifdef CASEMENT_NO_ENGINE
#define OPT_DEFAULT_ACCEL "kvm"
#else
#define OPT_DEFAULT_ACCEL "casement"
#endif

struct opt_list {
	const char *item[OPT_LIST_MAX];
	unsigned int n;
};

/**
 * struct run_options - what the command line asked for, defaults filled in
 */
struct run_options {
#define OPT_TYPE_STR const char *
#define OPT_TYPE_SIZE u64
#define OPT_TYPE_UINT u64
#define OPT_TYPE_FLAG bool
#define OPT_TYPE_LIST struct opt_list
#define OPT(type, field, letter, name, arg, def, min, max, help) OPT_TYPE_##type field;
#include "spec/cli.def"
#undef OPT
};

/**
 * opt_parse() - fill @o from the arguments after "run"
 *
 * Return: 0, or EXIT_USAGE after one line on stderr.
 */
int opt_parse(struct run_options *o, int argc, char **argv);

/**
 * opt_size() - parse "512M"
 * @text: decimal number with an optional K, M, G or T; without one it counts @unit bytes
 *
 * Return: true and the bytes in @out; false when @text is no size or does not fit in 63 bits.
 */
bool opt_size(const char *text, u64 unit, u64 *out);

void opt_help(FILE *f);
/* The OPTIONS list of casement-run(1). */
void opt_manual(FILE *f);

/**
 * opt_next() - walk "name,key=value,key": copy the next comma-separated piece into @buf
 *
 * Return: false at the end, or when the piece does not fit.
 */
bool opt_next(const char **cursor, char *buf, size_t size);
