/* SPDX-License-Identifier: MIT */
/*
 * Subcommands of casement(1): one file, one function, one row in main.c.
 */
#pragma once

/* Each gets the arguments after its name and returns the exit code. */
int cmd_run(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_with(int argc, char **argv);
int cmd_qemu(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_lab(int argc, char **argv);
int cmd_help(int argc, char **argv);
int cmd_version(int argc, char **argv);
