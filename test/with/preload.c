/* SPDX-License-Identifier: MIT */
/*
 * A KVM client that knows nothing of Casement, run by `casement with`: the ways to /dev/kvm and its descriptors'
 * lives. An argument makes it the child that inherited a descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"

static char *self;

static int api(int fd)
{
	return ioctl(fd, KVM_GET_API_VERSION, 0);
}

static int open_kvm(void)
{
	return open("/dev/kvm", O_RDWR | O_CLOEXEC);
}

/* ---- names ------------------------------------------------------------------------------------------------- */

static void paths(void)
{
	struct statx sx;
	struct stat st;
	char text[8] = "";
	int dev, fd;
	FILE *f;

	ok(!stat("/dev/kvm", &st) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 232), "stat: a character device");
	ok(!statx(AT_FDCWD, "/dev/kvm", 0, STATX_ALL, &sx) && sx.stx_rdev_minor == 232, "statx");
	ok(!access("/dev/kvm", R_OK | W_OK) && !faccessat(AT_FDCWD, "/dev/kvm", R_OK, 0), "access and faccessat");
	dev = open("/dev", O_RDONLY | O_DIRECTORY);
	fd = openat(dev, "kvm", O_RDWR);
	is(api(fd), KVM_API_VERSION, "openat from /dev");
	ok(!fstat(fd, &st) && S_ISCHR(st.st_mode), "fstat of what was opened");
	close(fd);
	fd = openat(AT_FDCWD, "/dev/kvm", O_RDONLY);
	is(api(fd), KVM_API_VERSION, "openat, for reading only");
	close(fd);
	ok(open("kvm", O_RDWR) < 0 && errno == ENOENT, "a file called kvm that is not there");
	f = fopen("/sys/module/kvm_intel/parameters/unrestricted_guest", "r");
	ok(f && fgets(text, sizeof(text), f) && !strcmp(text, "Y\n"), "fopen of a module parameter");
	if (f)
		fclose(f);
	ok(open("/sys/module/kvm_intel/parameters/ept", O_RDWR) < 0 && errno == EACCES, "which nobody may write");
	ok(!stat("/sys/module/kvm_intel", &st) && S_ISDIR(st.st_mode), "the module is there");
	close(dev);
}

/* ---- descriptors --------------------------------------------------------------------------------------------- */

static void duplicates(void)
{
	int fd = open_kvm(), vm = ioctl(fd, KVM_CREATE_VM, 0), d, raw, null = open("/dev/null", O_RDWR);

	d = dup(vm);
	ok(ioctl(d, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1, "dup");
	close(vm);
	ok(ioctl(d, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1, "the VM lives as long as its duplicate");
	vm = fcntl(d, F_DUPFD_CLOEXEC, 100);
	ok(vm >= 100 && ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1, "fcntl(F_DUPFD_CLOEXEC)");
	raw = (int)syscall(SYS_dup, vm);
	ok(ioctl(raw, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1, "a raw dup is recognized");
	ok(dup2(null, d) == d && ioctl(d, KVM_CHECK_EXTENSION, 0) < 0 && errno == ENOTTY, "dup2 over it");
	ok(dup3(vm, d, O_CLOEXEC) == d && ioctl(d, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1, "dup3 onto another's");
	close_range((unsigned int)d, (unsigned int)d, 0);
	ok(ioctl(d, KVM_CHECK_EXTENSION, 0) < 0 && errno == EBADF, "close_range");
	ok(api(vm) < 0 && errno == ENOTTY, "a request of another kind of descriptor");
	ok(ioctl(null, KVM_RUN, 0) < 0 && errno == ENOTTY, "a KVM request to /dev/null");
	close(raw);
	close(vm);
	close(null);
	close(fd);
}

static void run_pages(void)
{
	int fd = open_kvm(), vm = ioctl(fd, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	int size = ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	struct pollfd p = { .fd = vcpu, .events = POLLIN };

	ok(run != MAP_FAILED, "mmap of a vCPU");
	run->immediate_exit = 1;
	ok(ioctl(vcpu, KVM_RUN, 0) < 0 && errno == EINTR, "immediate_exit");
	ok(mmap(NULL, 4096, PROT_READ, MAP_SHARED, vm, 0) == MAP_FAILED && errno == ENODEV, "a VM cannot be mapped");
	ok(poll(&p, 1, 0) >= 0, "poll");
	munmap(run, (size_t)size);
	close(vcpu);
	close(vm);
	close(fd);
}

/* ---- other processes ------------------------------------------------------------------------------------------ */

static int child_status(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void processes(void)
{
	int fd = open("/dev/kvm", O_RDWR), vm = ioctl(fd, KVM_CREATE_VM, 0);
	char arg[16];
	pid_t pid;

	pid = fork();
	if (!pid) {
		int bad = ioctl(vm, KVM_CHECK_EXTENSION, 0) >= 0 || errno != EIO;

		close(vm);
		_exit(bad | (api(fd) != KVM_API_VERSION) << 1 | (ioctl(fd, KVM_CREATE_VM, 0) < 0) << 2);
	}
	is(child_status(pid), 0, "a forked child: the VM says EIO, the device works");
	ok(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1, "and the parent's VM is unharmed");
	snprintf(arg, sizeof(arg), "%d", fd);
	pid = vfork();
	if (!pid) {
		dup2(vm, 200);
		close(vm);
		execl(self, self, arg, NULL);
		_exit(99);
	}
	is(child_status(pid), 0, "a descriptor that came through exec");
	ok(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1, "what the child of vfork closed is still open here");
	ok(ioctl(200, KVM_CHECK_EXTENSION, 0) < 0 && errno == EBADF, "and what it duplicated is not");
	close(vm);
	close(fd);
}

/* What another process sent: here our own, over a socket pair. */
static void rights(void)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c = { 0 };
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	int fd = open_kvm(), s[2], got = -1;

	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	c.h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(&c.h), &fd, sizeof(fd));
	sendmsg(s[0], &m, 0);
	close(fd);
	recvmsg(s[1], &m, 0);
	memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(got));
	is(api(got), KVM_API_VERSION, "a descriptor that came by SCM_RIGHTS");
	close(got);
	close(s[0]);
	close(s[1]);
}

/* ---- hot calls ---------------------------------------------------------------------------------------------- */

/* A serial line of QEMU's sets its level at each access: 170,000 times in a verbose boot. */
static void interrupt_lines(void)
{
	struct kvm_irq_level l = { .irq = 4 };
	int sys = open_kvm(), vm = ioctl(sys, KVM_CREATE_VM, 0);
	struct timespec t;
	double ms;
	int bad = 0;

	if (ioctl(vm, KVM_CREATE_IRQCHIP, 0) || ioctl(vm, KVM_CREATE_VCPU, 0) < 0)
		bad++;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	ms = -(double)t.tv_sec * 1e3 - (double)t.tv_nsec / 1e6;
	for (int i = 0; i < 170000; i++) {
		l.level = (unsigned int)i >> 1 & 1;
		bad += ioctl(vm, KVM_IRQ_LINE_STATUS, &l) < 0;
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	ms += (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
	diag("170,000 of KVM_IRQ_LINE_STATUS: %.0f ms", ms);
	ok(!bad && ms < 850, "170,000 of KVM_IRQ_LINE_STATUS take less than 850 ms of processor time");
	close(vm);
	close(sys);
}

int main(int argc, char **argv)
{
	self = argv[0];
	if (argc > 1)
		return api(atoi(argv[1])) != KVM_API_VERSION;
	paths();
	duplicates();
	run_pages();
	processes();
	rights();
	interrupt_lines();
	return done_testing();
}
