/* SPDX-License-Identifier: MIT */
/*
 * How often each kind of exit came and how long it kept the vCPU out of the guest: what perf-kvm-stat(1) shows of a
 * real host. Time is from the exit to the next entry, a halted vCPU's sleep and user space included.
 */
#include "kvm/kvm.h"

#include <stdio.h>

#include "base/base.h"

static const char *const names[CPU_STOPS] = {
	[CPU_STOP_KICK] = "kick", [CPU_STOP_HLT] = "hlt", [CPU_STOP_MWAIT] = "mwait", [CPU_STOP_PIO] = "io",
	[CPU_STOP_MMIO] = "mmio", [CPU_STOP_RDMSR] = "rdmsr", [CPU_STOP_WRMSR] = "wrmsr",
	[CPU_STOP_SHUTDOWN] = "shutdown", [CPU_STOP_DEBUG] = "debug", [CPU_STOP_HYPERCALL] = "hypercall",
	[CPU_STOP_INTERNAL] = "internal", [CPU_STOP_EFAULT] = "efault", [CPU_STOP_NOTIFY] = "notify",
	[CPU_STOP_BUS_LOCK] = "bus-lock", [CPU_STOP_IRQ_WINDOW] = "irq-window", [CPU_STOP_INIT] = "init",
	[CPU_STOP_SET_TPR] = "set-tpr", [CPU_STOP_LOCK] = "split-lock",
	[CPU_STOP_DEAD] = "dead", [CPU_STOP_REFUSED] = "refused",
};

/* Reading the TSC twice would be a tenth of an exit's time: only where somebody may ask. */
void exitstat_begin(struct kvm_vcpu *k, enum cpu_stop stop)
{
	if (likely(!k->vm->control))
		return;
	k->exitstat.stop = stop;
	k->exitstat.since = base_rdtsc();
}

/* One writer, the vCPU thread; a reader may see a row between two of its stores. */
void exitstat_end(struct kvm_vcpu *k)
{
	struct exit_row_stat *r = &k->exitstat.row[k->exitstat.stop];
	u64 t;

	if (!k->exitstat.since)
		return;
	t = base_rdtsc() - k->exitstat.since;
	k->exitstat.since = 0;
	if (!r->n || t < r->min)
		r->min = t;
	if (t > r->max)
		r->max = t;
	r->total += t;
	r->n++;
}

static u64 ns(u64 tsc)
{
	return mul_div(tsc, 1000000, base_tsc_khz());
}

/* "name:count:total:min:max …" in nanoseconds */
int exitstat_print(const struct kvm_vcpu *k, char *buf, size_t n)
{
	int at = 0;

	buf[0] = 0;
	for (unsigned int i = 0; i < CPU_STOPS && (size_t)at < n; i++) {
		const struct exit_row_stat *r = &k->exitstat.row[i];

		if (r->n && names[i])
			at += snprintf(buf + at, n - (size_t)at, "%s%s:%llu:%llu:%llu:%llu", at ? " " : "", names[i],
				       (unsigned long long)r->n, (unsigned long long)ns(r->total),
				       (unsigned long long)ns(r->min), (unsigned long long)ns(r->max));
	}
	return at;
}
