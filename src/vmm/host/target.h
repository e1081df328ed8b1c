/* SPDX-License-Identifier: MIT */
/*
 * The program that `casement with` is to start: can we get into it?
 */
#pragma once
#include "base/types.h"

enum target_kind {
	TARGET_DYNAMIC,	/* glibc's loader starts it and honours LD_PRELOAD */
	TARGET_STATIC,	/* no loader: its system calls reach the kernel directly */
	TARGET_REFUSED, /* neither way; the reason has been printed */
};

/**
 * struct target - what was found out about a command
 * @path: the file that execve() will be given
 * @interp: its ELF interpreter, or that of the script's interpreter; empty when static
 * @elf: the ELF file that decides: @path, or the script's interpreter
 * @uses_go: made by the Go toolchain, which makes system calls without libc even when it is dynamically linked
 */
struct target {
	enum target_kind kind;
	char path[4096];
	char elf[4096];
	char interp[4096];
	bool uses_go;
};

/**
 * target_find() - look for @cmd as execvp() does and examine it
 *
 * Return: 0, or an exit code after one line on stderr: not found, not executable, not x86-64, or setuid.
 */
int target_find(struct target *t, const char *cmd);

/**
 * target_preload_works() - ask the program's own loader whether it can load @lib before it
 *
 * Nothing of the program runs. Return: 0, or an exit code after one line on stderr.
 */
int target_preload_works(const struct target *t, const char *lib);

/**
 * target_trap_works() - can this host catch the program's system calls?
 *
 * Nothing of the program runs. Return: 0, or an exit code after one line on stderr.
 */
int target_trap_works(const struct target *t);
