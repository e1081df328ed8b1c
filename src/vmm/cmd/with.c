/* SPDX-License-Identifier: MIT */
/*
 * casement with -- CMD, casement qemu: other KVM programs on our engine. Their names are taken; until they do what
 * they say they say that they do not.
 */
#include "vmm/cmd/cmd.h"

#include "vmm/vmm.h"

int cmd_with(int argc, char **argv)
{
	return vmm_error(EXIT_USAGE, "with: not in this version; use LD_PRELOAD=libcasement-preload.so");
}

int cmd_qemu(int argc, char **argv)
{
	return vmm_error(EXIT_USAGE, "qemu: not in this version; use LD_PRELOAD=libcasement-preload.so");
}
