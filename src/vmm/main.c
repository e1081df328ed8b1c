/* SPDX-License-Identifier: MIT */
/*
 * casement(1): which subcommand.
 */
#include <stdio.h>
#include <string.h>
#include "vmm/cmd/cmd.h"
#include "vmm/vmm.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "run", cmd_run, "boot a kernel: casement run -k KERNEL -i INITRD (see casement run --help)" },
	{ "doctor", cmd_doctor, "what this host offers; --json for programs" },
	{ "with", cmd_with, "run another KVM program on the software processor" },
	{ "qemu", cmd_qemu, "run qemu-system-x86_64 on the software processor" },
	{ "stat", cmd_stat, "exits and departures of a running VM, from its control socket" },
	{ "lab", cmd_lab, "hostile and innocent guests against this build's containment" },
	{ "version", cmd_version, "print the version" },
	{ "help", cmd_help, "print this text" },
};

static int help_options(void)
{
	const struct kvm_call *engine = kvm_call_find("casement");
	char line[512];

	if (!engine)
		return vmm_error(EXIT_USAGE, "this program has no engine");
	for (unsigned int i = 0; engine->describe_option(i, line, sizeof(line)); i++)
		printf("%s\n", line);
	return 0;
}

int cmd_help(int argc, char **argv)
{
	if (argc && !strcmp(argv[0], "options"))
		return help_options();
	printf("usage: casement COMMAND [options]\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-8s %s\n", commands[i].name, commands[i].help);
	printf("\ncasement help options lists what --accel casement,KEY=VALUE,... and CASEMENT_OPTS take.\n");
	return 0;
}

int cmd_version(int argc, char **argv)
{
	printf("casement " CASEMENT_VERSION "\n");
	return 0;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	if (!strcmp(name, "--version") || !strcmp(name, "-V"))
		name = "version";
	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		name = "help";
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(name, commands[i].name))
			return commands[i].run(argc - 2, argv + 2);
	if (!*name) {
		fprintf(stderr, "casement: no command (see casement help)\n");
		return EXIT_USAGE;
	}
	return vmm_error(EXIT_USAGE, "unknown command '%s' (see casement help)", name);
}
