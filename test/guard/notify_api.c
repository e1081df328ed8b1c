/* SPDX-License-Identifier: MIT */
/* KVM_CAP_X86_NOTIFY_VMEXIT and its options: statements N01 to N14. */
#include "vm.h"

static u32 option(const char *key)
{
	char buf[64];

	return casement_get_option(b.vm, key, buf, sizeof(buf)) < 0 ? ~0u - 1 : (u32)strtoul(buf, NULL, 10);
}

static int check(void)
{
	return board_ioctl(&b, KVM_CHECK_EXTENSION, (void *)KVM_CAP_X86_NOTIFY_VMEXIT);
}

static void supported(void)
{
	struct kvm_enable_cap c = { .cap = KVM_CAP_X86_NOTIFY_VMEXIT, .flags = 1, .args = { NOTIFY_ON } };

	fresh("");
	is(check(), 1, "N01 the capability is there");
	is(board_ioctl(&b, KVM_ENABLE_CAP, &c), -EINVAL, "N03 cap.flags must be 0");
	is(enable_notify(0, 4 | NOTIFY_ON), -EINVAL, "N04 an unknown bit is refused");
	is(enable_notify(0, 0), -EINVAL, "N05 nothing is refused");
	is(enable_notify(0, KVM_X86_NOTIFY_VMEXIT_USER), -EINVAL, "N05 USER alone is refused");
	is(enable_notify(0, NOTIFY_ON), 0, "N02 N04 window 0 is taken");
	is(enable_notify(5, NOTIFY_ON), 0, "N08 once more before the first vCPU");
	is(enable_notify(9, NOTIFY_ON), 0, "N08 and again");
	is(option("notify-window"), 9, "N08 the last one counts");
	is(enable_notify(0xffffffff, NOTIFY_ON_USER), 0, "N09 the largest window");
	is(option("notify-window"), 0xffffffff, "N09 is not truncated");
	is(enable_notify(0, 0), -EINVAL, "N10 it cannot be turned off");
	is(option("notify-window"), 0xffffffff, "N10 and stays as it was");
	is(option("notify-threshold"), 131072, "N13 the internal threshold can be read");
	gone();
	fresh("notify-vmexit=disable");
	is(check(), 0, "N01 masked off it is not there");
	is(enable_notify(0, NOTIFY_ON), -EINVAL, "N06 and cannot be enabled");
	gone();
}

static void late(void)
{
	int cpu;

	fresh("intercepts=drop,clock=virtual");
	cpu = ac_loop();
	is(enable_notify(0, NOTIFY_ON_USER), -EINVAL, "N07 refused after the first vCPU");
	is(board_run(&b, cpu, 300), -ETIMEDOUT, "N07 N11 exits stay off");
	is(stat_of(cpu, "notify_window_exits", 0), 0, "N11 and are not counted");
	gone();
}

static void layout(void)
{
	is(KVM_EXIT_NOTIFY, 37, "N12 the exit's number");
	is(offsetof(struct kvm_run, notify.flags), offsetof(struct kvm_run, hw), "N12 flags come first");
}

/* Virtual crystal ticks until the exit: one for each delivery. */
static void runtime(void)
{
	int cpu;

	fresh("intercepts=drop,clock=virtual,notify-threshold=1000");
	is(enable_notify(0, NOTIFY_ON), 0, "on");
	is(casement_change_option(b.vm, "notify-window=100"), 0, "N14 the window of a VM can be changed");
	is(option("notify-window"), 100, "N14 it has changed");
	is(casement_change_option(b.vm, "notify-threshold=77"), 0, "N13 and the threshold");
	is(option("notify-threshold"), 77, "N13 it has changed");
	ok(casement_change_option(b.vm, "fidelity=strict") < 0 && errno == EINVAL, "others cannot");
	cpu = ac_loop();
	board_run(&b, cpu, 50);
	ok(stat_of(cpu, "notify_window_exits", 0) > 10, "N14 the next entry uses it");
	gone();
}

static void administrator(void)
{
	char path[] = "/tmp/casement-opts-XXXXXX", cmd[512], self[256];
	int fd = mkstemp(path);
	long n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[n > 0 ? n : 0] = 0;
	dprintf(fd, "notify-window=-1\n");
	close(fd);
	snprintf(cmd, sizeof(cmd), "CASEMENT_OPTS_FILE=%s %s never", path, self);
	is(system(cmd), 0, "N06 window -1 in the administrator's file: the host has no notify exits");
	snprintf(cmd, sizeof(cmd),
		 "echo 'floor notify-window=100' >%s; CASEMENT_OPTS_FILE=%s %s floor", path, path,
		 self);
	is(system(cmd), 0, "an administrator's largest window holds for the monitor too");
	unlink(path);
}

static int child(const char *what)
{
	bool good;

	fresh("");
	if (!strcmp(what, "never"))
		good = !check() && enable_notify(0, NOTIFY_ON) == -EINVAL;
	else
		good = enable_notify(101, NOTIFY_ON) == -EINVAL && !enable_notify(100, NOTIFY_ON) &&
		       casement_change_option(b.vm, "notify-window=101") < 0;
	gone();
	return !good;
}

int main(int argc, char **argv)
{
	if (argc > 1)
		return child(argv[1]);
	supported();
	late();
	layout();
	runtime();
	administrator();
	return done_testing();
}
