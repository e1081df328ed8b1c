/* SPDX-License-Identifier: MIT */
/*
 * What containment costs a guest that behaves: the host instructions of a fixed run, counted by valgrind, with notify
 * exits, bus-lock counting and records off and on.
 */
#include "vm.h"

/* Arithmetic, calls, memory, a fault and a software interrupt with a handler in each of 20000 rounds. */
BOARD_ASM(work, 32,
	  "mov $20000, %ecx; 1: mov %ecx, %eax; imul $7, %eax; push %eax; add %eax, 0x30000; pop "
	  "%ebx; call 2f;"
	  "int $0x40; ud2; dec %ecx; jnz 1b; mov $1, %al; out %al, $0xf4; hlt; 2: xor %ebx, %eax; "
	  "rol $3, %eax; ret");
BOARD_ASM(just_return, 32, "iret");
BOARD_ASM(skip_ud2, 32, "addl $2, (%esp); iret");

static int run(const char *options, bool notify)
{
	int cpu;

	fresh(options);
	if (notify)
		enable_notify(0, NOTIFY_ON_USER);
	cpu = new_cpu(BOARD_PROT32);
	board_code(&b, cpu, work);
	PUT_HANDLER(BOARD_PROT32, 0x40, 0x50000, just_return, 3);
	PUT_HANDLER(BOARD_PROT32, 6, 0x50100, skip_ud2, 0);
	if (board_cpu_ioctl(&b, cpu, KVM_RUN, NULL) || b.cpu[cpu].run->exit_reason != KVM_EXIT_IO)
		return 1;
	gone();
	return 0;
}

static u64 count(const char *self, const char *what)
{
	char cmd[512], line[256];
	u64 ir = 0;
	FILE *f;

	snprintf(cmd, sizeof(cmd),
		 "valgrind --tool=callgrind --smc-check=all --callgrind-out-file=/dev/null %s %s "
		 "2>&1 </dev/null",
		 self, what);
	f = popen(cmd, "r");
	while (f && fgets(line, sizeof(line), f)) {
		char *c = strstr(line, "Collected : ");

		if (c)
			ir = strtoull(c + 12, NULL, 10);
	}
	return f && !pclose(f) ? ir : 0;
}

int main(int argc, char **argv)
{
	char self[256];
	long n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	u64 off, on, again;

	if (argc > 1 && !strcmp(argv[1], "off"))
		return run("", false);
	if (argc > 1)
		return run("intercepts=drop,bus-lock=count,departures=/dev/null", true);
	self[n > 0 ? n : 0] = 0;
	if (system("valgrind --version >/dev/null 2>&1"))
		skip_all("no valgrind");
	off = count(self, "off");
	again = count(self, "off");
	on = count(self, "on");
	diag("instructions: off %llu, off again %llu, on %llu: %+.4f %%", (unsigned long long)off,
	     (unsigned long long)again, (unsigned long long)on,
	     100.0 * ((double)on - (double)off) / (double)off);
	ok(off > 20000000, "a fixed run");
	ok(on < off + off / 1000, "notify exits, bus-lock counting and records cost at most 0.1 %%");
	return done_testing();
}
