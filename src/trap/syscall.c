/* SPDX-License-Identifier: MIT */
/*
 * One trapped system call: ours, or the kernel's through trap_gate().
 */
#include "trap/trap.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/syscall.h>

#include "kvm/kvm.h"
#include "kvm/sig.h"
#include "kvm/sys.h"

#define TRAP_LEFT   (-65538l)	/* the frame is complete */
#define ARCH_X86_64 0xc000003eu /* AUDIT_ARCH_X86_64 */

long trap_string(char *to, u64 from, size_t size)
{
	size_t n = 0;

	while (n < size) {
		size_t part = PAGE_SIZE - ((from + n) & (PAGE_SIZE - 1));

		if (part > size - n)
			part = size - n;
		if (copy_in(to + n, from + n, part))
			return -EFAULT;
		for (size_t end = n + part; n < end; n++)
			if (!to[n])
				return (long)n;
	}
	return -ENAMETOOLONG;
}

static long arch_prctl(struct trap_thread *t, u64 op, u64 arg)
{
	switch (op) {
	case ARCH_SET_FS:
		if (arg >> 47)
			return -EPERM;
		t->client_fs = arg;
		return 0;
	case ARCH_GET_FS:
		return copy_out(arg, &t->client_fs, sizeof(u64));
	default:
		return TRAP_GATE;
	}
}

static long prctl_call(struct trap_thread *t, const u64 *a)
{
	switch ((int)a[0]) {
	case PR_SET_SYSCALL_USER_DISPATCH:
		return -EINVAL; /* a kernel without it */
	case PR_SET_SECCOMP:
		if (a[1] != SECCOMP_MODE_FILTER)
			return -EINVAL;
		return trap_seccomp(t, SECCOMP_SET_MODE_FILTER, 0, a[2]);
	case PR_GET_SECCOMP:
		return t->filter ? SECCOMP_MODE_FILTER : TRAP_GATE;
	default:
		return TRAP_GATE;
	}
}

/* Processes and threads; what is neither is a file, or not ours. */
static long task_call(struct trap_thread *t, struct sigframe *f, long nr, const u64 *a)
{
	switch (nr) {
	case SYS_fork:
		return trap_clone(t, f, SIGCHLD, 0, 0, 0, 0);
	case SYS_vfork:
		return trap_clone(t, f, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
	case SYS_clone:
		return trap_clone(t, f, a[0], a[1], a[2], a[3], a[4]);
	case SYS_clone3:
		return -ENOSYS; /* every libc knows clone() too */
	case SYS_exit:
		trap_block(t);
		return trap_exit_thread(t);
	case SYS_set_tid_address:
		if (!t->carried)
			return TRAP_GATE;
		t->clear_tid = a[0];
		return sys_call(SYS_gettid, 0);
	case SYS_execve:
		return trap_execat(t, f, AT_FDCWD, a[0], a[1], a[2], 0);
	case SYS_execveat:
		return trap_execat(t, f, (int)a[0], a[1], a[2], a[3], (int)a[4]);
	case SYS_rseq:
		return -ENOSYS; /* our libc's thread has registered its own */
	case SYS_brk:
		return (long)trap_brk(a[0]);
	case SYS_arch_prctl:
		return arch_prctl(t, a[0], a[1]);
	case SYS_prctl:
		return prctl_call(t, a);
	case SYS_seccomp:
		return trap_seccomp(t, (u32)a[0], (u32)a[1], a[2]);
	default:
		return trap_file(t, f, nr, a);
	}
}

static long dispatch(struct trap_thread *t, struct sigframe *f, long nr, const u64 *a)
{
	switch (nr) {
	case SYS_rt_sigprocmask:
		return trap_sigprocmask(t, f, (int)a[0], a[1], a[2], a[3]);
	case SYS_rt_sigaction:
		return trap_sigaction(t, (int)a[0], a[1], a[2], a[3]);
	case SYS_sigaltstack:
		return trap_sigaltstack(t, f, a[0], a[1]);
	case SYS_rt_sigsuspend:
		trap_mask_arg(t, 0, false);
		return TRAP_GATE;
	case SYS_ppoll:
		trap_mask_arg(t, 3, false);
		return TRAP_GATE;
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
		trap_mask_arg(t, 4, false);
		return TRAP_GATE;
	case SYS_pselect6:
	case SYS_io_pgetevents:
		trap_mask_arg(t, 5, true);
		return TRAP_GATE;
	case SYS_ioctl:
		return trap_ioctl((int)a[0], (u32)a[1], a[2]);
	default:
		return task_call(t, f, nr, a);
	}
}

u64 trap_ours[512 / 64];
static bool no_xsave;

/* What dispatch() and its like know; without XSAVE, every call: the way around them needs it. */
void trap_choose(bool all)
{
	static const u16 ours[] = {
		SYS_rt_sigprocmask,
		SYS_rt_sigaction,
		SYS_sigaltstack,
		SYS_rt_sigsuspend,
		SYS_rt_sigreturn,
		SYS_ppoll,
		SYS_epoll_pwait,
		SYS_epoll_pwait2,
		SYS_pselect6,
		SYS_io_pgetevents,
		SYS_ioctl,
		SYS_fork,
		SYS_vfork,
		SYS_clone,
		SYS_clone3,
		SYS_exit,
		SYS_set_tid_address,
		SYS_execve,
		SYS_execveat,
		SYS_rseq,
		SYS_brk,
		SYS_arch_prctl,
		SYS_prctl,
		SYS_seccomp,
		SYS_open,
		SYS_openat,
		SYS_openat2,
		SYS_stat,
		SYS_lstat,
		SYS_newfstatat,
		SYS_statx,
		SYS_access,
		SYS_faccessat,
		SYS_faccessat2,
		SYS_readlink,
		SYS_readlinkat,
		SYS_close,
		SYS_close_range,
		SYS_dup,
		SYS_dup2,
		SYS_dup3,
		SYS_fcntl,
		SYS_fstat,
		SYS_mmap,
	};
	u32 a = 1, b, c, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	no_xsave = !(c & BIT(27)); /* OSXSAVE [SDM2A "CPUID"] */
	all |= no_xsave;
	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		trap_ours[ours[i] / 64] |= BIT(ours[i] % 64);
	for (size_t i = 0; all && i < ARRAY_SIZE(trap_ours); i++)
		trap_ours[i] = ~0ull;
}

/* A caller that blocks SIGSEGV does not mean our guarded copies. */
static void open_faults(struct trap_thread *t, const struct sigframe *f)
{
	u64 mask = TRAP_FAULTS;

	if (!(f->mask & TRAP_FAULTS))
		return;
	t->restore = 1;
	sys_call(SYS_rt_sigprocmask, SIG_UNBLOCK, &mask, NULL, sizeof(u64));
}

void trap_block(struct trap_thread *t)
{
	t->restore = 1;
	sys_call(SYS_rt_sigprocmask, SIG_BLOCK, &trap_all, NULL, sizeof(u64));
}

/* What was put off meanwhile is blocked; the frame's mask lets it in where the client goes on. */
static void leave_engine(struct trap_thread *t)
{
	signal_self.depth = 0;
	atomic_signal_fence(memory_order_seq_cst);
	if (signal_self.deferred)
		t->restore = 1;
	signal_self.deferred = false;
}

void trap_pass(struct trap_thread *t, struct sigframe *f)
{
	leave_engine(t);
	trap_gate(t, f, &f->mask);
}

struct sigframe *trap_syscall(struct trap_thread *t, struct sigframe *f)
{
	const u64 a[6] = { f->rdi, f->rsi, f->rdx, f->r10, f->r8, f->r9 };
	struct sigframe *to = f;
	long r = -ENOSYS;

	signal_enter();
	if (t->restore) { /* put off before the engine could know: again, after the signal */
		leave_engine(t);
		f->rip -= 2;
		return f;
	}
	open_faults(t, f);
	if (trap_filtered(t, f, &to)) {
		r = TRAP_LEFT;
	} else if (f->rax == SYS_rt_sigreturn) {
		to = trap_sigreturn(t, f);
		r = TRAP_LEFT;
	} else if ((u32)f->info.si_arch == ARCH_X86_64) { /* not int 0x80 */
		t->nr = f->rax;
		for (int i = 0; i < 6; i++)
			t->arg[i] = a[i];
		r = dispatch(t, f, (long)f->rax, a);
	}
	if (r == TRAP_GATE)
		trap_pass(t, f);
	leave_engine(t);
	if (r == TRAP_LEFT || no_xsave)
		t->restore = 1;
	if (r != TRAP_LEFT)
		f->rax = (u64)r;
	return to;
}
