/* SPDX-License-Identifier: MIT */
/*
 * casement(1): one virtual machine, its threads, and how it ends.
 *
 * Threads: the main thread runs the event loop (console, timers, signals, network); each disk has a loop of its
 * own; each vCPU is one thread in KVM_RUN. A device guards its state with its own mutex. Whoever sees the
 * reason to end calls vmm_stop(); the first reason wins.
 */
#pragma once
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include "base/types.h"
#include "vmm/accel.h"
#include "vmm/bus.h"
#include "vmm/kvm_call.h"
#include "vmm/loop.h"
#include "vmm/opt.h"
#include "vmm/ram.h"

/* Exit codes of casement(1); the manual page explains them. */
enum {
	EXIT_POWEROFF = 0,
	EXIT_USAGE = 1,
	EXIT_HOST = 2,
	EXIT_CRASH = 3,
	EXIT_CONTAINED = 4,
};

#define VM_CPUS_MAX 64
/* Takes a thread of ours out of a system call: KVM_RUN, or a device's write. */
#define SIG_KICK SIGUSR1
#define VM_GSIS 24

/* Where things are in guest-physical memory. */
#define MMIO_HOLE_START 0xc0000000ull
#define PCI_WINDOW_START 0xc0000000u
#define PCI_WINDOW_END 0xfec00000u
#define IOAPIC_BASE 0xfec00000u
#define LAPIC_BASE 0xfee00000u
#define KVM_IDENTITY_MAP 0xfffbc000ul
#define KVM_TSS_ADDR 0xfffbd000ul
#define HIGH_RAM_START 0x100000000ull

/* Interrupt lines (GSIs) of the board. */
enum { GSI_PIT = 0, GSI_COM1 = 4, GSI_RTC = 8, GSI_SCI = 9, GSI_PCI_A = 10, GSI_PCI_B = 11 };

struct vm;

struct vcpu {
	struct vm *vm;
	struct kvm_run *run;
	pthread_t thread;
	int fd;
	unsigned int id;
	bool started;
	bool shutdown_by_policy;	/* the next KVM_EXIT_SHUTDOWN was asked for */
	_Atomic bool done;
	u64 exits[64];
};

struct vm {
	const struct kvm_call *kvm;
	const struct run_options *opt;
	int sys_fd, fd;
	size_t run_size;
	unsigned int nr_cpus;
	struct vcpu cpu[VM_CPUS_MAX];
	struct ram ram;
	struct bus pio, mmio;
	struct loop loop;

	pthread_mutex_t irq_lock;	/* statically initialised: all zeros */
	u32 irq_level[VM_GSIS];	/* which sources hold the line */

	_Atomic bool stopping;
	int exit_code;
	char exit_reason[256];
	int exit_signal;
	enum notify_mode notify_mode;
	enum notify_invalid notify_invalid;
	struct bus_lock_policy {
		enum vmm_bus_lock mode;
		u32 limit, n;	/* a second; in this one */
		u64 since;
		pthread_mutex_t mutex;
	} bus_lock;
	_Atomic u64 notify_count, bus_lock_count;

	struct serial *serial;
	struct rtc *rtc;
	struct acpi_pm *pm;
	struct pci_bus *pci;
};

/**
 * vmm_error() - one line on stderr, "casement: ..."
 * @code: exit code to pass up
 *
 * Return: @code.
 */
int vmm_error(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* An ioctl by its KVM; -errno on failure. */
int call_ioctl(const struct kvm_call *kvm, int fd, unsigned long request, unsigned long arg);
static inline int vmm_ioctl(struct vm *vm, unsigned long request, unsigned long arg)
{
	return call_ioctl(vm->kvm, vm->fd, request, arg);
}
static inline int vmm_ioctl_p(struct vm *vm, unsigned long request, const void *arg)
{
	return call_ioctl(vm->kvm, vm->fd, request, (unsigned long)arg);
}
/* KVM_CHECK_EXTENSION on the system fd; 0 when absent */
int vmm_cap(struct vm *vm, int cap);

/**
 * vmm_accel() - understand --accel and choose vm->kvm
 *
 * Return: 0, or an exit code after one line on stderr.
 */
int vmm_accel(struct vm *vm);

/**
 * vmm_create() - open KVM and make the VM, its interrupt chips and its vCPUs
 * @vm: after vmm_accel(), with opt and ram filled in
 *
 * Return: 0, or an exit code after one line on stderr.
 */
int vmm_create(struct vm *vm);
void vmm_destroy(struct vm *vm);

/* Starts the vCPU threads. */
int vmm_start(struct vm *vm);
/* Takes every vCPU out of KVM_RUN and joins the threads; false when one did not answer. */
bool vmm_join(struct vm *vm);

/**
 * vmm_stop() - end the run with this code and this reason
 * @fmt: what to tell the user, or NULL to say nothing
 *
 * Any thread may call it; only the first call counts.
 */
void vmm_stop(struct vm *vm, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/**
 * vmm_irq_line() - drive an interrupt line
 * @gsi: one of GSI_*
 * @source: 0..31, who drives it; the line is the OR of its sources
 */
void vmm_irq_line(struct vm *vm, unsigned int gsi, unsigned int source, bool level);
void vmm_irq_msi(struct vm *vm, u64 addr, u32 data);

/* log.c: departures go to stderr. The first of a kind, the tenth, the hundredth …: a guest that hangs for
 * hours must not
 * fill the log. */
int vmm_watch_departures(struct vm *vm);
void vmm_log_departures(void *arg, u32 events);
bool vmm_worth_telling(u64 n);
/* buslock.c: KVM_EXIT_X86_BUS_LOCK, or the flag on another exit */
void vmm_bus_locked(struct vcpu *v);
/* notify.c: KVM_EXIT_NOTIFY */
void vmm_exit_notify(struct vcpu *v);
/* vcpu.c */
/* Registers on stderr. */
void vmm_dump(struct vcpu *v);
int vmm_vcpu_create(struct vcpu *v, const struct kvm_cpuid2 *supported);
void *vmm_vcpu_thread(void *arg);
/* cpuid.c: the CPUID that vCPU @id of @n shows, from what KVM supports */
void vmm_cpuid_fill(struct kvm_cpuid2 *cpuid, unsigned int id, unsigned int n, bool tsc_deadline);
struct kvm_cpuid2 *vmm_cpuid_supported(const struct kvm_call *kvm, int sys_fd);

/**
 * struct boot - where and how the first vCPU starts, filled by a loader
 */
struct boot {
	enum { BOOT_REAL16, BOOT_PROT32, BOOT_LONG64 } mode;
	u64 rip, rsp;
	u64 rax, rbx, rsi;
	u64 rsdp;
};
int vmm_vcpu_boot(struct vcpu *v, const struct boot *b);
