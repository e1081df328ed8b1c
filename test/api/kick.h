/* SPDX-License-Identifier: MIT */
/* Shared by kick.c and kick_long.c. */
#pragma once
#define KICKS_MAX 1000

struct guest;

/* How many the next ones send */
extern unsigned int kicks;

/* Measure how long KVM_RUN takes to end after a signal; a point, and a remark with the figures. */
void kick_by_signal(struct guest *g, const char *what);
/* 64-bit guests, on a machine that is busy and on one that is not */
void t_kick_long(void);
