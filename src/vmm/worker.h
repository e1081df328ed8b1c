/* SPDX-License-Identifier: MIT */
/*
 * Threads that serve devices which may block: a disk, a terminal that is stopped, a network peer.
 */
#pragma once
#include "vmm/loop.h"

struct vm;

/**
 * worker_create() - a loop with a thread of its own, which starts with the vCPUs
 *
 * Return: the loop, or NULL when there are too many or the kernel refuses.
 */
struct loop *worker_create(const char *name);

/* 0 or -errno */
int workers_start(void);
/* Ends and joins them; a worker stuck in a system call is kicked out of it. False when one did not answer. */
bool workers_stop(void);
