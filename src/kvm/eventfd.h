/* SPDX-License-Identifier: MIT */
/*
 * Eventfds that belong to the caller.
 */
#pragma once
#include "base/types.h"

/**
 * eventfd_hold() - keep an eventfd whatever becomes of the caller's descriptor
 * @fd: the caller's descriptor
 * @id: out: identity of the eventfd, equal for every descriptor of it
 *
 * Return: our own descriptor; -EBADF; -EINVAL it is not an eventfd; -EMFILE.
 */
int eventfd_hold(int fd, u64 *id);
/* Identity only. 0 or -errno as above. */
int eventfd_id(int fd, u64 *id);
/* Add 1. Never blocks, never calls libc. */
void eventfd_signal(int fd);
/* Take what was added; false if there was nothing. Never blocks. */
bool eventfd_drain(int fd);
