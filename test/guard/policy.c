/* SPDX-License-Identifier: MIT */
/* The monitor's policy on notify exits: --accel NAME,notify-vmexit=,notify-window=,notify-invalid=, messages, codes. */
#include "tap.h"

#include "vmm/lab/board.h"

/* A flat 64-bit image for `casement run`: CVE-2015-8104, a breakpoint on the #DB gate and an IST stack. */
BOARD_ASM(db_image, 64,
	"db_start: lea db_stack(%rip), %rsp\n"
	"lgdt db_gdtr(%rip)\n"
	"mov $0x18, %ax\n ltr %ax\n"
	"lidt db_idtr(%rip)\n"
	"lea db_idt+16(%rip), %rax\n mov %rax, %dr0\n"
	"mov $0xb0402, %eax\n mov %rax, %dr7\n"
	"mov db_idt+16(%rip), %rax\n"
	"1: jmp 1b\n"
	"db_handler: jmp db_handler\n"
	".balign 16\n"
	"db_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff\n"
	".word 0x67, db_tss - db_start\n .byte 0x10, 0x89, 0, 0\n .quad 0\n"
	"db_gdtr: .word db_gdtr - db_gdt - 1\n .quad 0x100000 + db_gdt - db_start\n"
	".balign 16\n"
	"db_idt: .quad 0, 0\n"
	".word db_handler - db_start, 8\n .byte 1, 0x8e\n .word 0x10\n .quad 0\n"
	"db_idtr: .word db_idtr - db_idt - 1\n .quad 0x100000 + db_idt - db_start\n"
	".balign 16\n"
	"db_tss: .long 0\n .quad 0, 0, 0, 0, 0x100000 + db_stack - db_start\n"
	".skip 0x68\n .skip 512\n"
	"db_stack: .quad 0\n");

static char casement[300], image[] = "/tmp/casement-policy-XXXXXX", records[64];
static char text[65536];

static void make_image(void)
{
	int fd = mkstemp(image);

	write(fd, db_image, (size_t)(db_image_end - db_image));
	close(fd);
	snprintf(casement, sizeof(casement), "%s/casement", getenv("CASEMENT_BUILD") ?: "build");
	snprintf(records, sizeof(records), "/tmp/casement-records-%d", getpid());
}

/* Exit code; what was printed is in text. */
static int run(const char *accel)
{
	char cmd[1024];
	size_t n;
	FILE *f;
	int status;

	snprintf(cmd, sizeof(cmd),
		 "timeout 60 %s run -k %s --format flat64 --timeout 1 -m 16M --accel '%s' 2>&1 "
		 "</dev/null",
		 casement, image, accel);
	f = popen(cmd, "r");
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	status = pclose(f);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static unsigned int occurrences(const char *s)
{
	unsigned int n = 0;

	for (const char *p = text; (p = strstr(p, s)); p++)
		n++;
	return n;
}

static void modes(void)
{
	is(run("casement,intercepts=drop"), 4, "default: run again until --timeout");
	ok(strstr(text, "context valid, L1, RIP 0x1000") && strstr(text, "1 time; run again"),
	   "the first is told, with level, RIP and how often");
	ok(occurrences("run again") < 5, "but not each");
	is(run("casement,intercepts=drop,notify-vmexit=run,notify-window=1000"), 4, "run with a window");
	is(run("casement,intercepts=drop,notify-vmexit=internal-error"), 4, "internal-error: exit code 4");
	ok(strstr(text, "context valid") && strstr(text, "stopped (notify-vmexit=internal-error)"),
	   "says why it stopped");
	is(run("casement,intercepts=drop,notify-vmexit=disable"), 4, "disable: until --timeout");
	ok(!strstr(text, "notify VM exit"), "without notify exits");
}

static void invalid(void)
{
	is(run("casement,intercepts=drop,inject=context-invalid:flag"), 4, "notify-invalid=stop is the default");
	ok(strstr(text, "context invalid, L1") && strstr(text, "; stopped"), "and says so");
	is(run("casement,intercepts=drop,inject=context-invalid:flag,notify-invalid=shutdown-vm"), 4, "shutdown-vm");
	ok(strstr(text, "L1 is shut down") && strstr(text, "shut down after a notify VM exit"),
	   "the triple fault was asked for and came");
	ok(strstr(text, "notify-invalid:") && strstr(text, "triple-fault-request:") &&
		   strstr(text, "notify-invalid:") < strstr(text, "triple-fault-request:"),
	   "departures in order in the log");
	is(run("casement,intercepts=drop,inject=context-invalid:flag,notify-invalid=shutdown-l2"),
	   4, "shutdown-l2 while L1 runs");
	ok(strstr(text, "; stopped"), "stops: there is no L2 to end");
}

static void refused(const char *accel, const char *says)
{
	is(run(accel), 1, "%s is refused", accel);
	ok(strstr(text, says) && occurrences("\n") == 1, "in one line");
	diag("%.160s", text);
}

static void errors(void)
{
	refused("casement,notify-window=-1", "not a number of crystal clocks from 0 to 4294967295");
	refused("casement,notify-window=4294967296", "not a number of crystal clocks");
	refused("casement,notify-window=5x", "not a number of crystal clocks");
	refused("kvm,notify-window=", "not KEY=VALUE");
	refused("kvm,notify-window=-1", "not a number of crystal clocks");
	refused("casement,notify-vmexit=maybe", "not one of run|internal-error|disable");
	refused("casement,notify-invalid=maybe", "not one of stop|shutdown-l2|shutdown-vm");
	refused("casement,notify-vmexit=disable,notify-window=1", "notify-window is given, but notify-vmexit=disable");
	refused("kvm,notify-window=0,notify-vmexit=disable", "notify-window is given, but notify-vmexit=disable");
	refused("casement,nonsense=1", "unknown option 'nonsense'; there are engine");
	refused("kvm,fidelity=strict", "kvm has no key 'fidelity'");
}

/* A monitor that knows nothing of us: only the environment. */
static void environment(void)
{
	char line[512];
	unsigned int n = 0;
	FILE *f;

	snprintf(line, sizeof(line), "intercepts=drop,departures=%s,inject=context-invalid:flag", records);
	setenv("CASEMENT_OPTS", line, 1);
	is(run("casement,notify-invalid=shutdown-vm"), 4, "options from CASEMENT_OPTS");
	unsetenv("CASEMENT_OPTS");
	f = fopen(records, "r");
	for (; f && fgets(line, sizeof(line), f); n++)
		ok(line[0] == '{' && strstr(line, "\"kind\":") && strstr(line, "}\n"),
		   "departures=FILE, record %u: %.60s…", n, line);
	if (f)
		fclose(f);
	is(n, 3, "departures=FILE: injection, notify exit, triple fault");
	setenv("CASEMENT_OPTS", "fidelity=other", 1);
	is(run("casement"), 1, "a wrong CASEMENT_OPTS");
	ok(strstr(text, "CASEMENT_OPTS: fidelity=other: not one of parity|strict"), "is told");
	unsetenv("CASEMENT_OPTS");
}

/* Read until it has been said; the command's first line is its process. */
static bool says_so(FILE *f, const char *says)
{
	size_t n = 0;
	int pid = 0;

	text[0] = 0;
	if (fscanf(f, "%d ", &pid) != 1)
		return false;
	while (!strstr(text, says) && n + 1 < sizeof(text) && fgets(text + n, (int)(sizeof(text) - n), f))
		n += strlen(text + n);
	kill(pid, SIGTERM);
	return strstr(text, says);
}

/* What no hardware does, done to an unmodified monitor that was written for it. */
static void qemu(const char *inject, const char *accel, const char *says)
{
	char cmd[1024];
	FILE *f;

	unlink(records);
	snprintf(cmd, sizeof(cmd),
		 "echo $$; CASEMENT_OPTS='inject=%s,departures=%s' exec timeout -k 5 60 %s qemu -accel kvm,%s "
		 "-display none -serial none -monitor none -m 64 2>&1 </dev/null",
		 inject, records, casement, accel);
	f = popen(cmd, "r");
	if (!ok(f && says_so(f, says), "unmodified QEMU, %s, %s: \"%s\"", accel, inject, says))
		diag("%.400s", text);
	if (f)
		pclose(f);
	ok(!access(records, F_OK), "with departures=FILE");
}

static void unmodified(void)
{
	if (system("qemu-system-x86_64 --version >/dev/null 2>&1")) {
		skip("unmodified QEMU", "no QEMU");
		return;
	}
	qemu("wedge:0:notify", "notify-vmexit=run", "notify exit with valid context");
	qemu("wedge:0:notify+context-invalid:flag", "notify-vmexit=run,notify-window=5",
	     "notify exit with invalid context");
	qemu("ioctl:KVM_SET_USER_MEMORY_REGION:ENOMEM:1", "notify-vmexit=disable",
	     "KVM_SET_USER_MEMORY_REGION failed");
}

int main(void)
{
	make_image();
	modes();
	invalid();
	errors();
	environment();
	unmodified();
	unlink(image);
	unlink(records);
	return done_testing();
}
