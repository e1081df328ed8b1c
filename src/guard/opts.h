/* SPDX-License-Identifier: MIT */
/*
 * The engine's options: one table (spec/opt.def), one parser, four places to say them.
 *
 * /etc/casement/opts holds the administrator's defaults and floors, one a line:
 *
 *	# comment
 *	KEY=VALUE		a default
 *	floor KEY=VALUE		and nobody may choose anything laxer
 *
 * then come the environment variable CASEMENT_OPTS and casement_set_options(), later ones winning.
 */
#pragma once
#include <stddef.h>

#include "base/types.h"

#define OPT_TEXT_MAX 512

/* Choices, in the order of the rows. */
enum opt_engine { ENGINE_INTERP, ENGINE_JIT };
enum opt_clock { CLOCK_REAL, CLOCK_VIRTUAL };
enum opt_fidelity { FIDELITY_PARITY, FIDELITY_STRICT };
enum opt_on_off { OPT_ON_OFF_ON, OPT_ON_OFF_OFF };	/* rows "on|off" */
enum opt_off_on { OPT_OFF_ON_OFF, OPT_OFF_ON_ON };	/* rows "off|on" */
enum opt_smm { SMM_KVM, SMM_INTEL };
enum opt_nested_notify { NESTED_NOTIFY_OFF, NESTED_NOTIFY_ON };
enum opt_nested_notify_invalid {
	NESTED_NOTIFY_INVALID_USERSPACE, NESTED_NOTIFY_INVALID_EXIT2, NESTED_NOTIFY_INVALID_REFLECT75,
	NESTED_NOTIFY_INVALID_SWEXIT, NESTED_NOTIFY_INVALID_MCE,
};
enum opt_notify { NOTIFY_MONITOR, NOTIFY_RUN, NOTIFY_INTERNAL_ERROR, NOTIFY_DISABLE };
enum opt_intercepts { INTERCEPTS_LINUX, INTERCEPTS_DROP };
enum opt_split_lock { SPLIT_LOCK_OFF, SPLIT_LOCK_WARN, SPLIT_LOCK_FATAL, SPLIT_LOCK_RATELIMIT, SPLIT_LOCK_NONE };
enum opt_split_lock_kill { SPLIT_LOCK_KILL_SIGBUS, SPLIT_LOCK_KILL_EFAULT };
enum opt_split_lock_unaware { SPLIT_LOCK_UNAWARE_KILL, SPLIT_LOCK_UNAWARE_FORWARD };
enum opt_split_lock_reenable { SPLIT_LOCK_REENABLE_EXIT, SPLIT_LOCK_REENABLE_JIFFIES, SPLIT_LOCK_REENABLE_NEVER };
enum opt_split_lock_signal { SPLIT_LOCK_SIGNAL_PROGRESS, SPLIT_LOCK_SIGNAL_RETRY };
enum opt_bus_lock { BUS_LOCK_OFF, BUS_LOCK_COUNT, BUS_LOCK_RATELIMIT, BUS_LOCK_EXIT, BUS_LOCK_KILL };
enum opt_nested_invalid { NESTED_INVALID_USER, NESTED_INVALID_SHUTDOWN_L2 };

enum opt_id {
#define OPT_ENUM(field, ...) OPT_ID_##field,
#define OPT_NUM(field, ...) OPT_ID_##field,
#define OPT_TEXT(field, ...) OPT_ID_##field,
#include "spec/opt.def"
	OPT_IDS
};

/**
 * struct guard_opts - what was asked for, defaults filled in
 * @set: bit OPT_ID_*: somebody gave a value
 * @floored: bit OPT_ID_*: @floor holds the administrator's floor
 * @notify_forbidden: notify-window=-1 in /etc/casement/opts: the host has no notify exits
 */
struct guard_opts {
#define OPT_ENUM(field, ...) u32 field, field##_n;
#define OPT_NUM(field, ...) u32 field;
#define OPT_TEXT(field, ...) char field[OPT_TEXT_MAX];
#include "spec/opt.def"
	u64 set, floored;
	u32 floor[OPT_IDS];
	bool notify_forbidden;
};

enum opts_source { OPTS_ADMIN, OPTS_USER };

/* Everything at its default. */
void guard_opts_default(struct guard_opts *o);

/**
 * guard_opts_parse() - apply "KEY=VALUE,KEY=VALUE,…"
 * @o: what there is so far; unchanged on failure
 * @source: OPTS_USER may not go below the floors in @o
 * @err, @n: one line saying what is wrong and what is accepted
 *
 * Return: 0; -EINVAL: @err is filled.
 */
int guard_opts_parse(struct guard_opts *o, const char *list, enum opts_source source, char *err, size_t n);

/**
 * guard_opts_file() - apply the administrator's file
 *
 * Return: 0, also when there is no such file; -EINVAL: @err is filled.
 */
int guard_opts_file(struct guard_opts *o, const char *path, char *err, size_t n);

/**
 * guard_opts_get() - the value of one option as text, as it would be given
 *
 * Return: its length, or -ENOENT.
 */
int guard_opts_get(const struct guard_opts *o, const char *key, char *buf, size_t n);

/* One line per row, "KEY=a|b|c (default: a)" and what it means; 0 at the end. */
int guard_opts_help(unsigned int row, char *buf, size_t n);
