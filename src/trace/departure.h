/* SPDX-License-Identifier: MIT */
/*
 * The departure ring: what the engine did to a guest that the architecture does not say.
 *
 * One ring per VM, fixed size, written by vCPU threads inside cpu_run() and by ioctl threads, read by
 * one consumer. A full ring counts what it drops; nothing ever waits for a reader.
 */
#pragma once
#include <stdatomic.h>

#include "base/types.h"

enum departure_outcome { DEP_INJECTED, DEP_WITHHELD, DEP_ALTERED, DEP_STOPPED, DEP_TOLD };

enum departure_kind {
#define DEPARTURE(id, outcome, name, text) DEP_##id,
#include "spec/departure.def"
#undef DEPARTURE
	DEP_KINDS
};

/**
 * struct departure - one record
 * @time: nanoseconds, CLOCK_MONOTONIC
 * @seq: number of the record in its VM, from 0; a gap is what was dropped
 * @vm: number of the VM in its process, from 0
 * @vcpu: its id, or DEPARTURE_NO_VCPU
 * @kind: enum departure_kind
 * @level: 1 or 2: the guest that was running
 * @cpl: its privilege level
 * @vectoring: event being delivered, in the form of IDT-vectoring information, 0 = none
 *	[SDM3D "Information for VM Exits That Occur During Event Delivery"]
 * @rip: instruction pointer
 * @cause: detail of the kind: exit qualification, vector, errno, count
 * @vmcs12: guest-physical address of the current VMCS when level is 2, else ~0
 */
struct departure {
	u64 time;
	u64 seq;
	u32 vm;
	u32 vcpu;
	u16 kind;
	u8 level;
	u8 cpl;
	u64 vectoring;
	u64 rip;
	u64 cause;
	u64 vmcs12;
};
#define DEPARTURE_NO_VCPU (~0u)
#define DEPARTURE_RING 1024u
#define DEPARTURE_LINE 512 /* longest line of either writer */

struct departure_slot {
	_Atomic u64 state; /* 2 * seq + 1 while being written, 2 * seq + 2 when complete */
	struct departure d;
};

/**
 * struct departure_ring
 * @next: number of the next record
 * @read: number of the next record the consumer takes
 * @dropped: records overwritten before they were read
 * @total: per kind
 * @vm: number of the VM, put into each record
 * @wake: called after a record was written, or NULL; must not block
 */
struct departure_ring {
	_Atomic u64 next;
	_Atomic u64 read;
	_Atomic u64 dropped;
	_Atomic u64 total[DEP_KINDS];
	u32 vm;
	void (*wake)(struct departure_ring *r);
	struct departure_slot slot[DEPARTURE_RING];
};

/* Append d; fills time and seq. Lock-free, allocates nothing, never waits. */
void departure_post(struct departure_ring *r, const struct departure *d);
/* Take the oldest unread record. False when there is none. One consumer at a time. */
bool departure_take(struct departure_ring *r, struct departure *d);

const char *departure_name(enum departure_kind kind);
const char *departure_text(enum departure_kind kind);
const char *departure_outcome(enum departure_kind kind);

/* One JSON object and a newline [doc/departures.md]; returns the length, at most n - 1. Not inside cpu_run(). */
int departure_json(const struct departure *d, char *buf, size_t n);
/* The same for people. */
int departure_line(const struct departure *d, char *buf, size_t n);
