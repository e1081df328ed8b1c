/* SPDX-License-Identifier: MIT */
#include "vmm/cmd/cmd.h"
int cmd_doctor(int argc, char **argv)
{
	return 0;
}
