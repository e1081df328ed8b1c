/* SPDX-License-Identifier: MIT */
/* B16: monitors that limit bus locks by KVM's exits: QEMU as it is, and ours on a KVM that it does not know. */
#include "tap.h"

#include <stdlib.h>

/* Thirty locks across a line in real mode, then port 0xf4. */
static const uint8_t code[] = {
	0x31, 0xc0, 0x8e, 0xd8, 0xb9, 30, 0, 0xf0, 0xff, 0x06, 0x3f, 0x80, 0xe2, 0xf9, 0xb0, 1, 0xe6, 0xf4, 0xf4,
};
static char rom[64] = "/tmp/casement-rom-XXXXXX", flat[64] = "/tmp/casement-flat-XXXXXX";
static char text[16384];
static const char *build;

static void make_files(void)
{
	static uint8_t image[0x10000];
	static const uint8_t jump[] = { 0xea, 0, 0, 0, 0xf0 };
	int fd = mkstemp(rom);

	memcpy(image, code, sizeof(code));
	memcpy(image + 0xfff0, jump, sizeof(jump));
	write(fd, image, sizeof(image));
	close(fd);
	fd = mkstemp(flat);
	write(fd, code, sizeof(code));
	close(fd);
}

/* Seconds it took; the exit code in *status, what was printed in text. */
static double run(int *status, const char *fmt, const char *arg)
{
	double t = tap_now();
	char cmd[1024];
	size_t n;
	FILE *f;
	int s, at = snprintf(cmd, sizeof(cmd), "%s", fmt);

	snprintf(cmd + at, sizeof(cmd) - (size_t)at, "%s 2>&1 </dev/null", arg);
	f = popen(cmd, "r");
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	s = pclose(f);
	*status = WIFEXITED(s) ? WEXITSTATUS(s) : -1;
	return tap_now() - t;
}

static void qemu(void)
{
	char cmd[512];
	double t, free_run;
	int rc;

	if (system("command -v qemu-system-x86_64 >/dev/null")) {
		skip("B16 QEMU's bus-lock-ratelimit", "no QEMU");
		return;
	}
	snprintf(cmd, sizeof(cmd),
		"timeout 60 %s/casement with -- qemu-system-x86_64 -accel kvm -bios %s -display none -serial none"
		" -monitor none -net none -device isa-debug-exit,iobase=0xf4,iosize=1"
		" -machine pc,bus-lock-ratelimit=", build, rom);
	free_run = run(&rc, cmd, "0");
	is(rc, 3, "B16 QEMU without a limit");
	t = run(&rc, cmd, "20");
	/* A busy machine makes the free run slow too: the limit is what the locks must take at least. */
	ok(rc == 3 && t > 0.9, "B16 QEMU with bus-lock-ratelimit=20: 30 bus locks take %.2f s, without %.2f s", t,
	   free_run);
	setenv("CASEMENT_OPTS", "bus-lock-detect=off", 1);
	run(&rc, cmd, "20");
	unsetenv("CASEMENT_OPTS");
	ok(rc == 1 && strstr(text, "bus lock detection unsupported") && strstr(text, strerror(ENOTSUP)),
	   "B16 QEMU on a processor without detection does not start: -ENOTSUP");
}

static void ours(void)
{
	char cmd[512];
	double t;
	int rc;

	snprintf(cmd, sizeof(cmd),
		"timeout 60 %s/casement with -- %s/casement run -k %s --format flat -m 16M --debug-exit"
		 " --timeout 20 --stats --accel kvm,bus-lock=", build, build, flat);
	t = run(&rc, cmd, "count");
	ok(rc == 3 && t < 1 && strstr(text, "bus locks 30"), "count: 30, at once (%.2f s)", t);
	t = run(&rc, cmd, "ratelimit=20");
	ok(rc == 3 && t > 0.9 && strstr(text, "bus locks 30"), "ratelimit=20: %.2f s", t);
	run(&rc, cmd, "kill");
	ok(rc == 4 && strstr(text, "bus-lock=kill"), "kill: stopped, exit code 4");
	run(&rc, cmd, "ratelimit=0");
	ok(rc == 1 && strstr(text, "not a number"), "ratelimit=0 is refused");
	run(&rc, cmd, "sometimes");
	ok(rc == 1 && strstr(text, "off|count|exit|kill"), "so is what there is not, with what there is");
}

int main(void)
{
	build = getenv("CASEMENT_BUILD") ?: "build";
	make_files();
	qemu();
	ours();
	unlink(rom);
	unlink(flat);
	return done_testing();
}
