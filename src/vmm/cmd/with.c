/* SPDX-License-Identifier: MIT */
/*
 * casement with -- CMD, casement qemu: other KVM programs, unmodified, on our engine.
 *
 * The program is replaced by execve() at the end, so its parent, its signals and its exit code are its own. All that
 * can go wrong is found before: a program that runs without us by accident would use a real /dev/kvm or none.
 */
#include "vmm/cmd/cmd.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "vmm/host/target.h"
#include "vmm/vmm.h"

#define LIB "libcasement-preload.so"
#define TRAP "casement-trap"
#define QEMU "qemu-system-x86_64"

struct with_options {
	bool patch_cpuid, trace, trap, help;
	const char *trace_file;
};

static const char usage[] =
	"usage: casement with [options] -- COMMAND [argument...]\n"
	"       casement qemu [argument of " QEMU "...]\n\n"
	"Runs a KVM program on the software processor: its /dev/kvm is ours.\n\n"
	"      --trace[=FILE]\n\teach ioctl and each exit of KVM_RUN, decoded, on standard error or in FILE\n"
	"      --patch-cpuid\n\tthe program's own CPUID instructions answer as our processor does\n"
	"      --trap\n\tcatch system calls instead of libc's functions: for static programs and Go\n"
	"  -h, --help\n\tprint this text\n\n"
	"CASEMENT_PRELOAD names another " LIB ".\n";

/* ---- the library ------------------------------------------------------------------------------------------ */

static bool readable(const char *path)
{
	return !access(path, R_OK);
}

/*
 * Beside the program as in the build tree, where it was installed, or in the prefix that was moved as a whole.
 */
static int find_part(char *out, size_t size, const char *name, const char *const *beside, const char *installed)
{
	char exe[PATH_MAX] = "", *slash;
	ssize_t n;

	n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	exe[n > 0 ? n : 0] = 0;
	slash = strrchr(exe, '/');
	if (slash) {
		*slash = 0;
		for (; *beside; beside++) {
			snprintf(out, size, "%s/%s%s", exe, *beside, name);
			if (readable(out))
				return 0;
		}
	}
	snprintf(out, size, "%s/%s", installed, name);
	if (readable(out))
		return 0;
	return vmm_error(EXIT_HOST, "with: no %s beside %s/casement or in %s", name, exe, installed);
}

static int find_library(char *out, size_t size)
{
	static const char *const beside[] = { "", "../lib/", "../lib/x86_64-linux-gnu/", NULL };
	const char *env = getenv("CASEMENT_PRELOAD");

	if (!env)
		return find_part(out, size, LIB, beside, CASEMENT_LIBDIR);
	snprintf(out, size, "%s", env);
	return readable(out) ? 0 : vmm_error(EXIT_HOST, "with: CASEMENT_PRELOAD=%s: %s", env, strerror(errno));
}

static int find_trap(char *out, size_t size)
{
	static const char *const beside[] = { "", "../libexec/", NULL };

	return find_part(out, size, TRAP, beside, CASEMENT_LIBEXECDIR);
}

static void set_common(const struct with_options *o)
{
	if (o->patch_cpuid)
		setenv("CASEMENT_PATCH_CPUID", "1", 1);
	if (o->trace)
		setenv("CASEMENT_TRACE", o->trace_file ?: "-", 1);
}

static int set_environment(const struct with_options *o, const char *lib)
{
	const char *old = getenv("LD_PRELOAD");
	char *text;

	if (asprintf(&text, "%s%s%s", lib, old && *old ? ":" : "", old && *old ? old : "") < 0)
		return vmm_error(EXIT_HOST, "out of memory");
	setenv("LD_PRELOAD", text, 1);
	free(text);
	set_common(o);
	return 0;
}

/* ---- the program ------------------------------------------------------------------------------------------ */

static int check_kind(const struct target *t)
{
	if (t->kind == TARGET_STATIC)
		return vmm_error(EXIT_USAGE, "with: %s: statically linked%s: no loader puts " LIB " into it; "
				 "`casement with --trap` catches its system calls", t->elf,
				 t->uses_go ? " Go program" : "");
	if (t->uses_go)
		return vmm_error(EXIT_USAGE, "with: %s: a Go program makes its system calls without libc, "
				 "where " LIB " cannot see them; "
				 "`casement with --trap` can", t->elf);
	return 0;
}

static int start_preloaded(const struct with_options *o, const struct target *t)
{
	char lib[PATH_MAX];
	int rc = check_kind(t);

	if (!rc)
		rc = find_library(lib, sizeof(lib));
	if (!rc)
		rc = target_preload_works(t, lib);
	return rc ?: set_environment(o, lib);
}

/* What starts the client is not the client's file, but it is the client that has the arguments. */
static int start(const struct with_options *o, char **argv)
{
	static struct target t;
	char trap[PATH_MAX];
	const char *file = t.path;
	int rc = target_find(&t, argv[0]);

	if (!rc && o->trap) {
		rc = target_trap_works(&t) ?: find_trap(trap, sizeof(trap));
		file = trap;
		set_common(o);
		setenv("CASEMENT_TRAP_FILE", t.path, 1);
	} else if (!rc) {
		rc = start_preloaded(o, &t);
	}
	if (rc)
		return rc;
	execv(file, argv);
	return vmm_error(EXIT_HOST, "with: %s: %s", file, strerror(errno));
}

/* Returns the number of arguments used, or minus an exit code. */
static int parse(struct with_options *o, int argc, char **argv)
{
	int i;

	for (i = 0; i < argc && argv[i][0] == '-'; i++) {
		const char *a = argv[i];

		if (!strcmp(a, "--"))
			return i + 1;
		if (!strcmp(a, "-h") || !strcmp(a, "--help"))
			o->help = true;
		else if (!strcmp(a, "--patch-cpuid"))
			o->patch_cpuid = true;
		else if (!strcmp(a, "--trap"))
			o->trap = true;
		else if (!strcmp(a, "--trace"))
			o->trace = true;
		else if (!strncmp(a, "--trace=", 8) && a[8])
			o->trace = true, o->trace_file = a + 8;
		else
			return -vmm_error(EXIT_USAGE, "with: unknown option '%s' (see casement with --help)", a);
	}
	return i;
}

int cmd_with(int argc, char **argv)
{
	struct with_options o = { 0 };
	int used = parse(&o, argc, argv);

	if (used < 0)
		return -used;
	if (o.help) {
		fputs(usage, stdout);
		return 0;
	}
	if (used == argc)
		return vmm_error(EXIT_USAGE, "with: no command (see casement with --help)");
	return start(&o, argv + used);
}

/* ---- QEMU -------------------------------------------------------------------------------------------------- */

/* Does the user say which accelerator to use? */
static bool names_accelerator(int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		const char *a = argv[i];

		if (a[0] != '-')
			continue;
		a += a[1] == '-' ? 2 : 1;
		if (!strcmp(a, "accel") || !strcmp(a, "enable-kvm"))
			return true;
		if ((!strcmp(a, "M") || !strcmp(a, "machine")) && i + 1 < argc && strstr(argv[i + 1], "accel="))
			return true;
	}
	return false;
}

int cmd_qemu(int argc, char **argv)
{
	struct with_options o = { 0 };
	char **args = calloc((size_t)argc + 4, sizeof(*args));
	const char *qemu = getenv("CASEMENT_QEMU") ?: QEMU;
	int n = 0;

	if (!args)
		return vmm_error(EXIT_HOST, "out of memory");
	args[n++] = (char *)(uintptr_t)qemu;
	if (!names_accelerator(argc, argv)) {
		args[n++] = (char *)(uintptr_t)"-accel";
		args[n++] = (char *)(uintptr_t)"kvm";
	}
	memcpy(args + n, argv, (size_t)argc * sizeof(*args));
	return start(&o, args);
}
