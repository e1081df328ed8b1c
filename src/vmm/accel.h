/* SPDX-License-Identifier: MIT */
/*
 * --accel NAME[,KEY=VALUE…]: which KVM, and what to ask of it.
 *
 * The keys of containment's policy are the monitor's own and mean the same on any KVM; with the software processor
 * every other key is one of the engine's options (doc/options.md).
 */
#pragma once
#include "base/types.h"

enum notify_mode { NOTIFY_MODE_RUN, NOTIFY_MODE_ERROR, NOTIFY_MODE_DISABLE };
enum notify_invalid { NOTIFY_INVALID_STOP, NOTIFY_INVALID_SHUTDOWN_L2, NOTIFY_INVALID_SHUTDOWN_VM };

enum vmm_bus_lock { VMM_BUS_LOCK_OFF, VMM_BUS_LOCK_COUNT, VMM_BUS_LOCK_EXIT, VMM_BUS_LOCK_KILL,
	VMM_BUS_LOCK_RATELIMIT };

/**
 * struct accel - what --accel said
 * @options: the engine's options, comma-separated
 * @mode_given, @window_given, @invalid_given: said, not defaulted: a KVM that cannot is an error
 * @bus_lock: what to do with KVM's bus-lock exits (the software processor has an option of that name)
 */
struct accel {
	char name[32];
	char device[256];
	char options[1024];
	enum notify_mode mode;
	enum notify_invalid invalid;
	u32 window;
	bool mode_given, window_given, invalid_given;
	enum vmm_bus_lock bus_lock;
	u32 bus_lock_limit;
};

struct vm;

/* Parse: 0, or EXIT_USAGE after one line on stderr. */
int accel_parse(struct accel *a, const char *text);
/* Before the VM exists: tell the engine its options. */
int accel_prepare(const struct accel *a);
/* Before the first vCPU: turn on what was asked for. 0, or EXIT_HOST after one line on stderr. */
int accel_apply(struct vm *vm, const struct accel *a);
