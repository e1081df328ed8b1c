/* SPDX-License-Identifier: MIT */
/*
 * Which engine runs a vCPU: translated code unless engine=interp asks for the reference or the host cannot, and then
 * the user is told once. The hosts are this one behind a filter for executable mappings.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "api.h"
#include "kvm/kvm.h"

enum { INTERPRETS = 1, TRANSLATES, REFUSES, FAILS };

static char said[1024];

/* From now on nothing of that size or more can be mapped executable. */
static void refuse_exec(uint32_t size)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 5),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, size, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { .len = sizeof(f) / sizeof(f[0]), .filter = f };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p))
		_exit(77);
}

static bool translated(int fd)
{
	struct kvm_file *f = fdtab_get(fd);
	struct kvm_vcpu *k = f->obj;

	fdtab_put(f);
	return k->v->jit != NULL;
}

/* Two vCPUs, of which one runs; what the first one is. */
static int guest(const char *options)
{
	char why[256];
	struct guest g;
	int sys, vm;

	if (casement_set_options(options, why, sizeof(why)))
		return FAILS;
	sys = open_sys();
	vm = open_vm(sys);
	if (call(vm, KVM_CREATE_VCPU, 0) < 0)
		return errno == EACCES && call(vm, KVM_CREATE_VCPU, 0) < 0 ? REFUSES : FAILS;
	NEW_GUEST(&g, NO_CHIP, 0xb0, 1, 0xe6, 0x10, 0xf4);
	if (run(&g) || g.run->exit_reason != KVM_EXIT_IO || g.run->io.port != 0x10)
		return FAILS;
	return translated(g.vcpu) ? TRANSLATES : INTERPRETS;
}

/* A process of its own on such a host; 77 where nobody may make one. */
static int on_host(uint32_t size, const char *options)
{
	int p[2], status;
	size_t n = 0;
	ssize_t got;
	pid_t pid;

	need(pipe(p), "pipe");
	pid = fork();
	need(pid, "fork");
	if (!pid) {
		dup2(p[1], 2);
		if (size)
			refuse_exec(size);
		_exit(guest(options));
	}
	close(p[1]);
	while (n < sizeof(said) - 1 && (got = read(p[0], said + n, sizeof(said) - 1 - n)) > 0)
		n += (size_t)got;
	said[n] = 0;
	close(p[0]);
	need(waitpid(pid, &status, 0), "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : FAILS;
}

static bool one_line(const char *with)
{
	char *end = strchr(said, '\n');

	return end && !end[1] && strstr(said, with);
}

int main(void)
{
	int r = on_host(0, "engine=jit");

	if (r == INTERPRETS) {
		ok(one_line("engine=interp"), "this host cannot translate, and says: %s", said);
	} else {
		is(r, TRANSLATES, "engine=jit");
		is_str(said, "", "says nothing");
	}
	is(on_host(0, "engine=interp"), INTERPRETS, "engine=interp");
	is_str(said, "", "says nothing");
	r = on_host(5 << 20, "engine=jit");
	if (r == 77) {
		skip("a host that refuses executable memory", "no seccomp filters here");
		return done_testing();
	}
	is(r, INTERPRETS, "no room for translated code: two guests are made, and interpreted");
	ok(one_line("engine=interp"), "told in one line for all of them");
	diag("%s", said);
	is(on_host(5 << 20, "engine=interp"), INTERPRETS, "the same host, engine=interp");
	is_str(said, "", "says nothing");
	is(on_host(1, "engine=jit"), REFUSES, "no executable memory at all: -EACCES, twice");
	ok(one_line("executable memory"), "told in one line");
	diag("%s", said);
	return done_testing();
}
