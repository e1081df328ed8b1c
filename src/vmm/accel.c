/* SPDX-License-Identifier: MIT */
#include "vmm/accel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "vmm/vmm.h"

/* ---- parsing ------------------------------------------------------------------------------------------- */

static int choose(const char *key, const char *val, const char *const names[], unsigned int n, unsigned int *out)
{
	char list[128] = "";

	for (unsigned int i = 0; i < n; i++) {
		if (!strcmp(val, names[i])) {
			*out = i;
			return 0;
		}
		strcat(list, i ? "|" : "");
		strcat(list, names[i]);
	}
	return vmm_error(EXIT_USAGE, "--accel: %s=%s: not one of %s", key, val, list);
}

static int set_mode(struct accel *a, const char *val)
{
	static const char *const names[] = { "run", "internal-error", "disable" };

	a->mode_given = true;
	return choose("notify-vmexit", val, names, ARRAY_SIZE(names), &a->mode);
}

static int set_invalid(struct accel *a, const char *val)
{
	static const char *const names[] = { "stop", "shutdown-l2", "shutdown-vm" };

	a->invalid_given = true;
	return choose("notify-invalid", val, names, ARRAY_SIZE(names), &a->invalid);
}

static int set_window(struct accel *a, const char *val)
{
	u64 n = 0;
	const char *p = val;

	for (; *p >= '0' && *p <= '9' && n <= 0xffffffffu; p++)
		n = n * 10 + (u64)(*p - '0');
	if (*p || p == val || n > 0xffffffffu)
		return vmm_error(EXIT_USAGE,
				 "--accel: notify-window=%s: not a number of crystal clocks from 0 to 4294967295", val);
	a->window = (u32)n;
	a->window_given = true;
	return 0;
}

static int set_bus_lock(struct accel *a, const char *val)
{
	static const char *const names[] = { "off", "count", "exit", "kill", "ratelimit=N" };
	const char *n = val + sizeof("ratelimit");
	u64 limit = 0;

	if (strncmp(val, "ratelimit=", 10) && strncmp(val, "ratelimit:", 10))
		return choose("bus-lock", val, names, ARRAY_SIZE(names) - 1, &a->bus_lock);
	a->bus_lock = VMM_BUS_LOCK_RATELIMIT;
	for (; *n >= '0' && *n <= '9' && limit <= 0xffffffffu; n++)
		limit = limit * 10 + (u64)(*n - '0');
	if (*n || !limit || limit > 0xffffffffu)
		return vmm_error(EXIT_USAGE, "--accel: bus-lock=%s: not a number of bus locks a second", val);
	a->bus_lock_limit = (u32)limit;
	return 0;
}

static int pass_on(struct accel *a, const char *key, const char *val)
{
	size_t have = strlen(a->options);
	int n = snprintf(a->options + have, sizeof(a->options) - have, "%s%s=%s", have ? "," : "", key, val);

	if ((size_t)n >= sizeof(a->options) - have)
		return vmm_error(EXIT_USAGE, "--accel: too many options");
	return 0;
}

static int set_key(struct accel *a, const char *key, const char *val)
{
	if (!strcmp(key, "notify-vmexit"))
		return set_mode(a, val);
	if (!strcmp(key, "notify-window"))
		return set_window(a, val);
	if (!strcmp(key, "notify-invalid"))
		return set_invalid(a, val);
	if (kvm_call_find(a->name)->set_options)
		return pass_on(a, key, val);
	if (!strcmp(key, "bus-lock"))
		return set_bus_lock(a, val);
	if (!strcmp(key, "device")) {
		snprintf(a->device, sizeof(a->device), "%s", val);
		return 0;
	}
	return vmm_error(EXIT_USAGE,
			 "--accel: %s has no key '%s'; there are notify-vmexit, notify-window, notify-invalid, "
			 "bus-lock, device",
			 a->name, key);
}

/* What contradicts itself is refused, not resolved. */
static int check(const struct accel *a)
{
	if (a->mode == NOTIFY_MODE_DISABLE && a->window_given)
		return vmm_error(EXIT_USAGE, "--accel: notify-window is given, but notify-vmexit=disable");
	if (a->mode == NOTIFY_MODE_DISABLE && a->invalid_given)
		return vmm_error(EXIT_USAGE, "--accel: notify-invalid is given, but notify-vmexit=disable");
	return 0;
}

int accel_parse(struct accel *a, const char *text)
{
	char piece[512];

	memset(a, 0, sizeof(*a));
	if (!opt_next(&text, piece, sizeof(a->name)))
		return vmm_error(EXIT_USAGE, "--accel: '%s' is no accelerator", text);
	memcpy(a->name, piece, strlen(piece) + 1);
	if (!kvm_call_find(a->name))
		return vmm_error(EXIT_USAGE, "--accel: no accelerator '%s' in this program", a->name);
	while (*text) {
		char *eq;
		int rc;

		if (!opt_next(&text, piece, sizeof(piece)))
			return vmm_error(EXIT_USAGE, "--accel: '%s' is too long or empty", text);
		eq = strchr(piece, '=');
		if (!eq || !eq[1])
			return vmm_error(EXIT_USAGE, "--accel: '%s' is not KEY=VALUE", piece);
		*eq = 0;
		rc = set_key(a, piece, eq + 1);
		if (rc)
			return rc;
	}
	return check(a);
}

/* ---- asking the KVM ---------------------------------------------------------------------------------------- */

int accel_prepare(const struct accel *a)
{
	const struct kvm_call *kvm = kvm_call_find(a->name);
	char err[1024];

	if (!kvm->set_options || !kvm->set_options(a->options, err, sizeof(err)))
		return 0;
	return vmm_error(EXIT_USAGE, "--accel: %s", err);
}

static int enable_cap(struct vm *vm, u32 cap, u64 arg)
{
	struct kvm_enable_cap c = { .cap = cap, .args = { arg } };

	return vmm_ioctl_p(vm, KVM_ENABLE_CAP, &c);
}

static int apply_notify(struct vm *vm, const struct accel *a)
{
	u64 arg = (u64)a->window << 32 | KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER;
	int rc;

	if (a->mode == NOTIFY_MODE_DISABLE)
		return 0;
	if (!vmm_cap(vm, KVM_CAP_X86_NOTIFY_VMEXIT)) {
		/* Nobody asked: a host without it runs guests as it always has. */
		if (!a->mode_given && !a->window_given && !a->invalid_given)
			return 0;
		return vmm_error(EXIT_HOST, "%s: this KVM has no notify VM exits", vm->kvm->name);
	}
	rc = enable_cap(vm, KVM_CAP_X86_NOTIFY_VMEXIT, arg);
	if (rc)
		return vmm_error(EXIT_HOST, "%s: notify VM exits with a window of %u: %s", vm->kvm->name, a->window,
				 rc == -EINVAL ? "refused; the administrator may allow smaller windows only" :
						 strerror(-rc));
	vm->notify_mode = a->mode;
	return 0;
}

static int apply_invalid(struct vm *vm, const struct accel *a)
{
	int rc;

	vm->notify_invalid = a->invalid;
	if (a->invalid == NOTIFY_INVALID_STOP)
		return 0;
	if (!vmm_cap(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT))
		return vmm_error(EXIT_HOST, "%s: this KVM takes no triple fault from us, which notify-invalid needs",
				 vm->kvm->name);
	rc = enable_cap(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
	return rc ? vmm_error(EXIT_HOST, "KVM_CAP_X86_TRIPLE_FAULT_EVENT: %s", strerror(-rc)) : 0;
}

static int apply_bus_lock(struct vm *vm, const struct accel *a)
{
	if (!a->bus_lock)
		return 0;
	if (!vmm_cap(vm, KVM_CAP_X86_BUS_LOCK_EXIT) ||
	    enable_cap(vm, KVM_CAP_X86_BUS_LOCK_EXIT, KVM_BUS_LOCK_DETECTION_EXIT))
		return vmm_error(EXIT_HOST, "%s: this KVM has no bus-lock exits", vm->kvm->name);
	vm->bus_lock.mode = a->bus_lock;
	vm->bus_lock.limit = a->bus_lock_limit;
	pthread_mutex_init(&vm->bus_lock.mutex, NULL);
	return 0;
}

int accel_apply(struct vm *vm, const struct accel *a)
{
	int rc = apply_notify(vm, a);

	if (!rc)
		rc = apply_invalid(vm, a);
	return rc ?: apply_bus_lock(vm, a);
}
