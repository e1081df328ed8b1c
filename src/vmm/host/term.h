/* SPDX-License-Identifier: MIT */
/*
 * Standard input and output as the guest's console.
 *
 * On a terminal, input is raw and Ctrl-A is the monitor's; the terminal gets its old settings back however the
 * process ends, SIGKILL included. Anything else is passed through untouched, at the guest's pace.
 */
#pragma once
#include <stddef.h>
#include "base/types.h"
#include "vmm/dev/dev.h"

struct vm;

/* Standard input goes to @sink from now on. 0, or an exit code after one line on stderr. */
int console_open(struct vm *vm, struct console_sink sink);
/* Restores the terminal. May be called twice. */
void console_close(void);

/* The sink has room again. Any thread. */
void console_wake(void);

/**
 * console_write() - the guest's output to standard output
 *
 * Waits for a slow reader, but not when the VM is stopping. When nobody reads any more (EPIPE), output is lost and the
 * guest goes on.
 */
void console_write(struct vm *vm, const u8 *p, size_t n);
