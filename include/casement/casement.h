/* SPDX-License-Identifier: MIT */
/*
 * libcasement: Linux's KVM API for x86-64, served by a software processor in this process.
 *
 * The calls below are open(2), ioctl(2), mmap(2) and close(2) for /dev/kvm and what it hands out. Request
 * numbers, structures, exit reasons and errno values are those of <linux/kvm.h> and of the kernel's
 * Documentation/virt/kvm/api.rst; this header only says what differs.
 *
 *	int sys = casement_open(O_RDWR | O_CLOEXEC);
 *	int vm = casement_ioctl(sys, KVM_CREATE_VM, 0ul);
 *	...
 *	casement_ioctl(vcpu, KVM_RUN, 0ul);
 *
 * Every function is thread-safe and sets errno like the system call it stands for. The file descriptors
 * are real ones (memfd): they can be passed to poll(2), inherited and counted, but an ioctl on them that does
 * not come through casement_ioctl() fails with ENOTTY. A forked child may close them; everything
 * else on them fails there with EIO, as in the kernel.
 */
#ifndef CASEMENT_CASEMENT_H
#define CASEMENT_CASEMENT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * casement_open() - open the KVM system device
 * @flags: as for open(2); O_CLOEXEC is honoured, the access mode is not looked at
 *
 * Never opens a real /dev/kvm.
 *
 * Return: a file descriptor, or -1 with errno:
 *
 *	======  ==========================================================
 *	EINVAL  CASEMENT_OPTS or /etc/casement/opts says something that is not understood
 *	ENOSYS  the host CPU or kernel lacks something the engine needs
 *	EMFILE  too many open files in the process
 *	ENFILE  too many open files in the system
 *	ENOMEM  out of memory
 *	======  ==========================================================
 */
int casement_open(int flags);

/**
 * casement_ioctl() - ioctl(2) on a system, VM, vCPU, device or statistics file descriptor
 * @fd: descriptor from casement_open() or from an ioctl that returns one
 * @request: KVM_*; only the low 32 bits count, as in the kernel
 * @...: one argument: unsigned long or pointer
 *
 * KVM_RUN runs the guest on the calling thread. Signal handlers installed by casement_sigaction(), or
 * present when the thread first calls KVM_RUN, run after the vCPU has reached an instruction boundary,
 * and KVM_RUN then fails with EINTR.
 *
 * Return: the request's value, or -1 with errno:
 *
 *	======  ==========================================================
 *	EBADF   @fd is not open
 *	ENOTTY  @fd is not one of ours, or the request does not exist on it
 *	EFAULT  the argument points outside the address space
 *	EIO     @fd belongs to another process's VM (after fork(2))
 *	======  ==========================================================
 *
 * and whatever api.rst names for the request.
 */
int casement_ioctl(int fd, unsigned long request, ...);

/**
 * casement_mmap() - mmap(2) of a vCPU file descriptor
 *
 * @addr, @length, @prot, @flags, @fd, @offset: as for mmap(2); other descriptors are passed on to it
 *
 * Page 0 is struct kvm_run, page 1 the port data, page 2 the coalesced MMIO ring, which is
 * one page per VM whatever vCPU it is mapped through. With plain mmap(2) page 2 is a private,
 * unused page of that vCPU; the rest is the same.
 *
 * Return: the address, or MAP_FAILED with errno as for mmap(2); EINVAL for a private or executable mapping of
 * the dirty ring.
 */
void *casement_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);

/**
 * casement_close() - close(2)
 * @fd: any file descriptor
 *
 * A VM lives until its own descriptor and those of all its vCPUs and devices are closed.
 *
 * Return: 0, or -1 with errno as for close(2).
 */
int casement_close(int fd);

/**
 * casement_dup() - tell the library that @newfd now refers to what @oldfd refers to
 * @oldfd: a descriptor from this library
 * @newfd: result of dup(2), dup2(2), dup3(2) or fcntl(F_DUPFD) on it
 *
 * Return: @newfd, or -1 with EBADF if @oldfd is not ours.
 */
int casement_dup(int oldfd, int newfd);

/**
 * casement_sigaction() - sigaction(2) for programs whose threads call KVM_RUN
 * @sig, @act, @old: as for sigaction(2)
 *
 * Same result as sigaction(2). The handler is called through a trampoline: if the signal
 * arrives while the thread is inside the engine, the vCPU is stopped at its next instruction boundary
 * first and KVM_RUN returns EINTR after the handler. SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP
 * reach @act only when the engine did not cause them.
 *
 * Use it for every signal that should interrupt KVM_RUN. Handlers installed with plain sigaction(2) before a
 * thread's first KVM_RUN are adopted; those installed later run in the middle of the engine, and
 * do not interrupt it.
 */
int casement_sigaction(int sig, const struct sigaction *act, struct sigaction *old);

/**
 * casement_set_options() - options of the VMs created from now on
 * @list: "KEY=VALUE,KEY=VALUE,…"; doc/options.md lists them. Replaces what an earlier call gave.
 * @err, @n: on failure one line that says what is wrong and what is accepted; may be NULL, 0
 *
 * The environment variable CASEMENT_OPTS takes the same list, for programs that do not know this library. Both
 * may not go below the floors in /etc/casement/opts.
 *
 * Return: 0, or -1 with EINVAL: nothing was changed.
 */
int casement_set_options(const char *list, char *err, size_t n);

/**
 * casement_describe_option() - what options there are
 * @n: 0, 1, 2, …
 * @buf, @size: "KEY=a|b (default a): what it is"
 *
 * Return: the text's length; 0: there is no option @n.
 */
int casement_describe_option(unsigned int n, char *buf, size_t size);

/**
 * casement_get_option() - the value an option has in a VM now
 * @vm: VM file descriptor
 * @key: as in casement_set_options(); "notify-threshold" is the processor's internal constant
 * @buf, @n: the value as text
 *
 * Return: its length, or -1 with errno: EBADF not a VM; ENOENT no such option; ERANGE @n is too small.
 */
int casement_get_option(int vm, const char *key, char *buf, size_t n);

/**
 * casement_change_option() - change an option of a running VM
 * @vm: VM file descriptor
 * @option: "notify-window=N" or "notify-threshold=N"; a vCPU sees it at its next event delivery
 *
 * Return: 0, or -1 with errno: EBADF not a VM; EINVAL another option, a bad value, or one laxer than the
 * administrator allows.
 */
int casement_change_option(int vm, const char *option);

enum casement_format { CASEMENT_JSON, CASEMENT_TEXT };

/**
 * casement_departures() - read what the engine did to a guest that the architecture does not say
 * @vm: VM file descriptor
 * @format: one JSON object a line (doc/departures.md), or one line of text
 *
 * The descriptor is a non-blocking stream to be polled and read. Records that nobody has read wait in a ring
 * of 1024; older ones are dropped, and the gap in "seq" shows it. There is one reader: a second call takes over.
 *
 * Return: a file descriptor, close-on-exec, or -1 with errno: EBADF not a VM; EMFILE, ENFILE, ENOMEM.
 */
int casement_departures(int vm, enum casement_format format);

/**
 * casement_inject() - fault injection
 * @vm: VM file descriptor
 * @what: one injection, or several joined by '+', see doc/injection.md:
 *	"wedge:VCPU:TICKS", "wedge:VCPU:notify", "f00f:VCPU", "context-invalid:flag", "context-invalid:corrupt",
 *	"nmi-unblock", "mce:VCPU[:STATUS]", "split-ac:VCPU", "poison:GPA", "ioctl:NAME:ERRNO:N"
 * @err, @err_size: on failure one line; may be NULL, 0
 *
 * Return: 0, or -1 with errno: EBADF not a VM; EINVAL not understood or no such vCPU.
 */
int casement_inject(int vm, const char *what, char *err, size_t err_size);

/**
 * casement_is_ours() - is this descriptor one of the library's?
 * @fd: any number; never touches errno
 */
bool casement_is_ours(int fd);

/**
 * casement_version() - version of the library, "major.minor.patch"
 *
 * Return: a constant string.
 */
const char *casement_version(void);

#ifdef __cplusplus
}
#endif
#endif
