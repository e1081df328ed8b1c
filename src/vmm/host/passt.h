/* SPDX-License-Identifier: MIT */
/*
 * passt(1): the network stack in a process of its own. Nothing of it is parsed here but a frame's length.
 */
#pragma once

/**
 * passt_start() - run passt connected to us by a stream socket
 *
 * Return: our end, non-blocking; or -errno. passt ends when it is closed.
 */
int passt_start(void);
