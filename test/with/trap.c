/* SPDX-License-Identifier: MIT */
/*
 * A static KVM client that makes its system calls itself, run by `casement with --trap`: guests on several threads,
 * kicks, and all that a program may ask of the kernel about its own threads, processes and signals. An argument makes
 * it the child of an exec.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "tap.h"

#define VCPUS 3
#define KICKS 40
#define SIGNALS 400

static char *self;
extern char **environ;

static long sys_ioctl(int fd, unsigned long request, unsigned long arg)
{
	return syscall(SYS_ioctl, fd, request, arg);
}

static int open_kvm(void)
{
	return (int)syscall(SYS_openat, AT_FDCWD, "/dev/kvm", O_RDWR | O_CLOEXEC, 0);
}

static int child_status(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int tid(void)
{
	return (int)syscall(SYS_gettid);
}

static void send(int sig, int to)
{
	syscall(SYS_tgkill, getpid(), to, sig);
}

/* ---- guests ------------------------------------------------------------------------------------------------ */

static struct vcpu {
	struct kvm_run *run;
	int fd;
	_Atomic int tid, kicks, exits;
	bool wrong;
} vcpu[VCPUS];
static _Thread_local struct vcpu *mine;
static _Atomic bool stop;

/* mov $'A'+cpu, %al; out %al, $0x10; 1: inc %ebx; jmp 1b; each vCPU at 256 times its number */
static const uint8_t guest[] = { 0xb0, 'A', 0xe6, 0x10, 0x66, 0x43, 0xeb, 0xfc };

static void on_kick(int sig)
{
	if (mine)
		mine->run->immediate_exit = 1;
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;

	mine = v;
	v->tid = tid();
	while (!stop) {
		long r = sys_ioctl(v->fd, KVM_RUN, 0);

		if (r < 0 && errno == EINTR) {
			v->run->immediate_exit = 0;
			v->kicks++;
		} else if (!r && v->run->exit_reason == KVM_EXIT_IO && v->run->io.port == 0x10) {
			v->wrong |= ((char *)v->run)[v->run->io.data_offset] != 'A' + (char)(v - vcpu);
			v->exits++;
		} else {
			diag("KVM_RUN %ld errno %d exit %u", r, errno, v->run->exit_reason);
			v->wrong = true;
			break;
		}
	}
	mine = NULL;
	return NULL;
}

static bool create_vcpu(int sys, int vm, int n, uint8_t *ram)
{
	size_t size = (size_t)sys_ioctl(sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct vcpu *v = &vcpu[n];
	struct kvm_regs regs = { .rip = 256u * (unsigned int)n, .rflags = 2 };
	struct kvm_sregs sregs;

	memcpy(ram + 256 * n, guest, sizeof(guest));
	ram[256 * n + 1] = (uint8_t)('A' + n);
	v->fd = (int)sys_ioctl(vm, KVM_CREATE_VCPU, (unsigned long)n);
	v->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED || sys_ioctl(v->fd, KVM_GET_SREGS, (unsigned long)&sregs))
		return false;
	sregs.cs.base = sregs.cs.selector = 0;
	return !sys_ioctl(v->fd, KVM_SET_SREGS, (unsigned long)&sregs) &&
	       !sys_ioctl(v->fd, KVM_SET_REGS, (unsigned long)&regs);
}

static bool kick_all(void)
{
	for (int n = 0; n < VCPUS; n++)
		for (int i = 0; i < KICKS; i++) {
			int before = vcpu[n].kicks;

			send(SIGUSR1, vcpu[n].tid);
			for (int ms = 0; vcpu[n].kicks == before; ms++) {
				if (vcpu[n].wrong || ms > 20000)
					return false;
				usleep(1000);
			}
		}
	return true;
}

static void guests(void)
{
	int sys = open_kvm(), vm = (int)sys_ioctl(sys, KVM_CREATE_VM, 0);
	uint8_t *ram = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region r = { .memory_size = 65536, .userspace_addr = (uintptr_t)ram };
	struct sigaction act = { .sa_handler = on_kick };
	bool created = true, started = true, right = true, kicked;
	pthread_t t[VCPUS];

	is(sys_ioctl(sys, KVM_GET_API_VERSION, 0), KVM_API_VERSION, "a raw openat of /dev/kvm");
	ok(!sys_ioctl(vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&r), "guest memory");
	sigaction(SIGUSR1, &act, NULL);
	for (int n = 0; n < VCPUS; n++)
		created &= create_vcpu(sys, vm, n, ram);
	ok(created, "%d vCPUs", VCPUS);
	for (int n = 0; n < VCPUS; n++)
		pthread_create(&t[n], NULL, vcpu_thread, &vcpu[n]);
	for (int n = 0; n < VCPUS; n++)
		while (!vcpu[n].exits && !vcpu[n].wrong)
			usleep(1000);
	kicked = kick_all();
	ok(kicked, "each comes out of an endless loop %d times when it is kicked", KICKS);
	stop = true;
	for (int n = 0; n < VCPUS; n++) {
		send(SIGUSR1, vcpu[n].tid);
		pthread_join(t[n], NULL);
		right &= !vcpu[n].wrong;
		started &= vcpu[n].exits == 1;
	}
	ok(right && started, "each wrote its letter once");
	sys_ioctl(vcpu[0].fd, KVM_NMI, 0);
	close(vm);
	ok(sys_ioctl(vm, KVM_CHECK_EXTENSION, 0) < 0 && errno == EBADF, "closed");
	for (int n = 0; n < VCPUS; n++)
		close(vcpu[n].fd);
	close(sys);
}

/* ---- signals ------------------------------------------------------------------------------------------------ */

static _Atomic int seen, sum;
static char altstack[65536];
static _Atomic bool on_alt;
static volatile uint64_t fault_at;

static void on_queued(int sig, siginfo_t *si, void *uc)
{
	char here;

	seen++;
	sum += si->si_value.sival_int;
	on_alt = &here >= altstack && &here < altstack + sizeof(altstack);
}

/* The vector registers belong to the client, whatever system calls it makes and signals it gets. */
static bool vectors_survive(void)
{
	uint64_t in[4] = { 0x0123456789abcdef, 2, 3, 4 }, out[4] = { 0 };
	uint32_t mxcsr = 0x3f80, now = 0; /* rounds up */
	long nr = SYS_getppid;

	if (!__builtin_cpu_supports("avx"))
		return true;
	__asm__ volatile("ldmxcsr %3\n\tvmovdqu %2, %%ymm9\n\t"
			 "syscall\n\t"
			 "vmovdqu %%ymm9, %0\n\tstmxcsr %1"
			 : "=m"(out), "=m"(now), "+m"(in), "+m"(mxcsr), "+a"(nr)
			 :
			 : "rcx", "r11", "xmm9", "memory");
	mxcsr = 0x1f80;
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	return !memcmp(in, out, sizeof(in)) && (now & 0xffc0) == 0x3f80 && nr == getppid();
}

/* Calls that are ours by name, and the mask, which nothing that was put off may change. */
static bool calls_survive(int kvm)
{
	int fd = open("/dev/zero", O_RDONLY);
	sigset_t usr2, was, now;
	uint64_t zero = 1;
	bool good = fd >= 0 && read(fd, &zero, sizeof(zero)) == sizeof(zero) && !zero && !close(fd);

	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	good &= !sigprocmask(SIG_BLOCK, &usr2, &was) && !sigprocmask(SIG_SETMASK, &was, &now);
	good &= sigismember(&now, SIGUSR2) && !sigismember(&now, SIGRTMIN + 1) && !sigismember(&was, SIGRTMIN + 1);
	return good && sys_ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1;
}

static void *sender(void *arg)
{
	union sigval v = { .sival_int = 1 };
	sigset_t set;

	sigfillset(&set); /* the other thread shall take them */
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	for (int i = 0; i < SIGNALS; i++)
		while (sigqueue(getpid(), SIGRTMIN + 1, v) < 0 && errno == EAGAIN)
			usleep(100);
	return NULL;
}

static void storm(void)
{
	struct sigaction act = { .sa_sigaction = on_queued, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };
	stack_t alt = { .ss_sp = altstack, .ss_size = sizeof(altstack) }, was;
	bool good = true;
	char byte = 'x';
	pthread_t t;
	int p[2], kvm = open_kvm();
	sigset_t set, old;

	sigaltstack(&alt, NULL);
	sigaction(SIGRTMIN + 1, &act, NULL);
	good &= !pipe(p);
	pthread_create(&t, NULL, sender, NULL);
	while (seen < SIGNALS) {
		good &= vectors_survive() && calls_survive(kvm);
		good &= write(p[1], &byte, 1) == 1 && read(p[0], &byte, 1) == 1 && byte == 'x';
	}
	pthread_join(t, NULL);
	ok(good && sum == SIGNALS, "%d queued signals, each taken once, between calls that keep their results",
	   SIGNALS);
	ok(on_alt, "on the alternate stack");
	ok(!sigaltstack(NULL, &was) && was.ss_sp == altstack && !(was.ss_flags & SS_ONSTACK),
	   "which the kernel confirms");
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = 7 });
	is(sum, SIGNALS, "a blocked signal waits");
	sigemptyset(&set);
	ok(sigsuspend(&set) < 0 && errno == EINTR && sum == SIGNALS + 7, "sigsuspend lets it in");
	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, &old);
	ok(sigismember(&old, SIGRTMIN + 1) && !sigismember(&old, SIGUSR1), "and puts the mask back");
	good = getppid() > 0; /* a trapped call with everything blocked, SIGSYS too */
	sigprocmask(SIG_SETMASK, NULL, &set);
	ok(good && sigismember(&set, SIGSYS) == 1, "SIGSYS can be blocked as far as the client sees");
	sigemptyset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
	close(kvm);
	close(p[0]);
	close(p[1]);
}

static void on_segv(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;

	fault_at = (uint64_t)si->si_addr;
	uc->uc_mcontext.gregs[REG_RIP] = uc->uc_mcontext.gregs[REG_RBX];
}

static void on_pipe_alarm(int sig)
{
	seen = -1;
}

static void faults(void)
{
	struct sigaction act = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };
	int p[2], r = pipe(p);
	char c;

	sigaction(SIGSEGV, &act, NULL);
	__asm__ volatile("lea 1f(%%rip), %%rbx\n\tmovl $0, 16\n1:" : : : "rbx", "memory");
	is(fault_at, 16, "a handler of SIGSEGV changes the context it returns to");
	ok(syscall(SYS_rt_sigprocmask, SIG_SETMASK, 8, NULL, 8) < 0 && errno == EFAULT, "a bad pointer: EFAULT");
	ok(syscall(SYS_openat, AT_FDCWD, 8, O_RDONLY) < 0 && errno == EFAULT, "and for a path");
	act = (struct sigaction){ .sa_handler = on_pipe_alarm };
	sigaction(SIGALRM, &act, NULL);
	ualarm(20000, 0);
	ok(!r && read(p[0], &c, 1) < 0 && errno == EINTR && seen == -1, "a handled signal ends a read");
	signal(SIGSEGV, SIG_DFL);
	close(p[0]);
	close(p[1]);
}

/* ---- threads and processes ------------------------------------------------------------------------------------- */

static _Thread_local int local = 5;

static void *short_thread(void *arg)
{
	char *p = malloc(1000 + (size_t)(uintptr_t)arg);

	local += (int)(uintptr_t)arg;
	memset(p, local, 1000);
	free(p);
	return (void *)(intptr_t)local;
}

static void *abandons(void *mutex)
{
	pthread_mutex_lock(mutex);
	return NULL;
}

static void robust(void)
{
	pthread_mutexattr_t a;
	pthread_mutex_t m;
	pthread_t t;

	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&m, &a);
	pthread_create(&t, NULL, abandons, &m);
	pthread_join(t, NULL);
	is(pthread_mutex_lock(&m), EOWNERDEAD, "a robust mutex tells that its owner has ended");
}

static void threads(void)
{
	pthread_t t[8];
	bool good = true;
	void *r;

	for (int round = 0; round < 10; round++) {
		for (intptr_t i = 0; i < 8; i++)
			good &= !pthread_create(&t[i], NULL, short_thread, (void *)i);
		for (intptr_t i = 0; i < 8; i++)
			good &= !pthread_join(t[i], &r) && (intptr_t)r == 5 + i;
	}
	ok(good && local == 5, "80 threads with variables of their own");
}

static void processes(void)
{
	int sys = open_kvm(), vm = (int)sys_ioctl(sys, KVM_CREATE_VM, 0), inherited = (int)syscall(SYS_dup, sys);
	char text[16], *argv[] = { self, text, NULL }, *none[] = { (char *)"/no/such/program", NULL };
	char path[256] = "";
	pid_t pid = fork();

	if (!pid) {
		int bad = sys_ioctl(vm, KVM_CHECK_EXTENSION, 0) >= 0 || errno != EIO;

		_exit(bad | (sys_ioctl(sys, KVM_CREATE_VM, 0) < 0) << 1 | (getpid() != tid()) << 2);
	}
	is(child_status(pid), 0, "a forked child: the VM says EIO, the device works");
	snprintf(text, sizeof(text), "%d", inherited);
	pid = vfork();
	if (!pid) {
		close(vm);
		signal(SIGUSR1, SIG_DFL);
		execv(self, argv);
		_exit(99);
	}
	is(child_status(pid), 0, "a child of vfork and exec is under the trap too, its descriptor as well");
	ok(sys_ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) == 1, "what it closed is still open here");
	is(posix_spawn(&pid, none[0], NULL, NULL, none, environ), ENOENT, "posix_spawn of nothing");
	ok(!posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ) && !child_status(pid),
	   "and of /proc/self/exe");
	ok(readlink("/proc/self/exe", path, sizeof(path) - 1) > 0 && strstr(path, "with-trap"), "which is the client");
	close(inherited);
	close(vm);
	close(sys);
}

static void *filtered(void *arg)
{
	static struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = sizeof(code) / sizeof(code[0]), .filter = code };
	int fd, vm;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		return (void *)1;
	if (syscall(SYS_getppid) != -1 || errno != EDOM)
		return (void *)2;
	fd = open_kvm(); /* a memfd in truth */
	vm = (int)sys_ioctl(fd, KVM_CREATE_VM, 0);
	close(vm);
	close(fd);
	return (void *)(uintptr_t)(vm < 0 ? 3 : 0);
}

static void kernel(void)
{
	unsigned long fs = 0, word;
	pthread_t t;
	void *r = (void *)9;
	char sel = 0;

	pthread_create(&t, NULL, filtered, NULL);
	pthread_join(t, &r);
	is((intptr_t)r, 0, "a thread's seccomp filter holds for its own calls and not for the engine's");
	ok(getppid() > 0, "nor for other threads'");
	ok(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &sel) < 0 && errno == EINVAL,
	   "Syscall User Dispatch is taken");
	__asm__("mov %%fs:0, %0" : "=r"(word));
	ok(!syscall(SYS_arch_prctl, 0x1003, &fs) && fs == word, "FS base is the client's"); /* ARCH_GET_FS */
	word = (unsigned long)syscall(SYS_brk, 0);
	is(syscall(SYS_brk, word + (1 << 20)), word + (1 << 20), "brk");
	memset((void *)word, 1, 1 << 20);
	ok(getauxval(AT_PHDR) && getauxval(AT_SYSINFO_EHDR) && strstr((char *)getauxval(AT_EXECFN), "with-trap"),
	   "the auxiliary vector");
}

int main(int argc, char **argv)
{
	self = argv[0];
	if (argc > 1)
		return sys_ioctl(atoi(argv[1]), KVM_GET_API_VERSION, 0) != KVM_API_VERSION;
	guests();
	storm();
	faults();
	threads();
	robust();
	processes();
	kernel();
	return done_testing();
}
