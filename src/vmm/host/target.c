/* SPDX-License-Identifier: MIT */
#include "vmm/host/target.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "vmm/vmm.h"

#define SCRIPT_DEPTH 4 /* as deep as the kernel follows #! */

/* ---- where is it ---------------------------------------------------------------------------------------- */

static bool is_program(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

static int find_path(char *out, size_t size, const char *cmd)
{
	const char *p = getenv("PATH") ?: "/usr/local/bin:/usr/bin:/bin";

	if (strchr(cmd, '/')) {
		snprintf(out, size, "%s", cmd);
		if (is_program(out))
			return 0;
		return vmm_error(EXIT_USAGE, "with: %s: %s", cmd,
				 access(cmd, F_OK) ? strerror(errno) : "not a program");
	}
	while (*p) {
		const char *end = strchrnul(p, ':');

		snprintf(out, size, "%.*s/%s", end == p ? 1 : (int)(end - p), end == p ? "." : p, cmd);
		if (is_program(out))
			return 0;
		p = *end ? end + 1 : end;
	}
	return vmm_error(EXIT_USAGE, "with: %s: no such program in PATH", cmd);
}

/* ---- what is it ------------------------------------------------------------------------------------------ */

/* The loader ignores LD_PRELOAD for a program that gains rights by being started. */
static bool gains_rights(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return false;
	if ((st.st_mode & S_ISUID) && st.st_uid != getuid())
		return true;
	if ((st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && st.st_gid != getgid())
		return true;
	return getuid() && getxattr(path, "security.capability", NULL, 0) > 0;
}

static bool read_interp(int fd, const Elf64_Ehdr *eh, char *out, size_t size)
{
	for (unsigned int i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph;
		ssize_t n;

		if (pread(fd, &ph, sizeof(ph), (off_t)(eh->e_phoff + i * sizeof(ph))) != sizeof(ph))
			return false;
		if (ph.p_type != PT_INTERP)
			continue;
		if (!ph.p_filesz || ph.p_filesz >= size)
			return false;
		n = pread(fd, out, ph.p_filesz, (off_t)ph.p_offset);
		out[n > 0 ? n : 0] = 0;
		return n > 0;
	}
	return false;
}

/* Go's build identification is a section whatever the linker was told to strip. */
static bool has_go_section(int fd, const Elf64_Ehdr *eh)
{
	Elf64_Shdr names, sh;
	char name[16];

	if (eh->e_shentsize != sizeof(sh) || eh->e_shstrndx >= eh->e_shnum ||
	    pread(fd, &names, sizeof(names), (off_t)(eh->e_shoff + eh->e_shstrndx * sizeof(sh))) != sizeof(names))
		return false;
	for (unsigned int i = 0; i < eh->e_shnum; i++) {
		if (pread(fd, &sh, sizeof(sh), (off_t)(eh->e_shoff + i * sizeof(sh))) != sizeof(sh))
			return false;
		memset(name, 0, sizeof(name));
		if (pread(fd, name, sizeof(name) - 1, (off_t)(names.sh_offset + sh.sh_name)) > 0 &&
		    !strcmp(name, ".go.buildinfo"))
			return true;
	}
	return false;
}

static int examine_elf(struct target *t, int fd, const Elf64_Ehdr *eh)
{
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_machine != EM_X86_64)
		return vmm_error(EXIT_USAGE, "with: %s: not a 64-bit x86 program", t->elf);
	t->uses_go = has_go_section(fd, eh);
	t->kind = TARGET_DYNAMIC;
	if (!read_interp(fd, eh, t->interp, sizeof(t->interp)))
		t->kind = TARGET_STATIC;
	return 0;
}

static int examine(struct target *t, int depth)
{
	union {
		Elf64_Ehdr eh;
		char text[256];
	} head = { 0 };
	int fd = open(t->elf, O_RDONLY | O_CLOEXEC), rc;
	ssize_t n;

	if (fd < 0)
		return vmm_error(EXIT_USAGE, "with: %s: %s", t->elf, strerror(errno));
	n = read(fd, &head, sizeof(head) - 1);
	if (gains_rights(t->elf)) {
		rc = vmm_error(EXIT_USAGE,
			       "with: %s: setuid, setgid or with capabilities: the kernel starts it without us; "
			       "run it as its owner",
			       t->elf);
	} else if (n >= (ssize_t)sizeof(head.eh) && !memcmp(head.eh.e_ident, ELFMAG, SELFMAG)) {
		rc = examine_elf(t, fd, &head.eh);
	} else if (n > 2 && head.text[0] == '#' && head.text[1] == '!' && depth < SCRIPT_DEPTH) {
		const char *p = head.text + 2 + strspn(head.text + 2, " \t");

		snprintf(t->elf, sizeof(t->elf), "%.*s", (int)strcspn(p, " \t\n"), p);
		rc = examine(t, depth + 1);
	} else {
		rc = vmm_error(EXIT_USAGE, "with: %s: neither an ELF program nor a script", t->elf);
	}
	close(fd);
	return rc;
}

int target_find(struct target *t, const char *cmd)
{
	int rc;

	memset(t, 0, sizeof(*t));
	rc = find_path(t->path, sizeof(t->path), cmd);
	if (rc)
		return rc;
	snprintf(t->elf, sizeof(t->elf), "%s", t->path);
	return examine(t, 0);
}

/* ---- will it work ------------------------------------------------------------------------------------------ */

/* glibc's `--list` maps the program and what it needs, names each on a line, and runs nothing. */
static void list_child(const struct target *t, const char *lib, int out)
{
	const char *const argv[] = { t->interp, "--preload", lib, "--list", t->elf, NULL };

	unsetenv("LD_PRELOAD");
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	execv(t->interp, (char *const *)argv);
	_exit(127);
}

static size_t read_all(int fd, char *buf, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, buf + len, size - 1 - len)) > 0)
		len += (size_t)n;
	buf[len] = 0;
	return len;
}

/* The line of the loader's answer that has @text in it, without what only the loader's own users know. */
static char *line_with(char *all, const char *text)
{
	char *p = strstr(all, text);

	if (!p)
		return NULL;
	p[strcspn(p, "\n")] = 0;
	while (p > all && p[-1] != '\n')
		p--;
	return p;
}

int target_preload_works(const struct target *t, const char *lib)
{
	static char out[65536];
	int pipe_fd[2], status = 0;
	char *line;
	pid_t pid;

	if (!strstr(t->interp, "/ld-linux-x86-64"))
		return vmm_error(EXIT_USAGE,
				 "with: %s: its loader is %s, and the preload needs glibc's",
				 t->elf, t->interp);
	if (strpbrk(lib, " :"))
		return vmm_error(EXIT_HOST, "with: %s: the loader takes no path with blanks or colons", lib);
	if (pipe2(pipe_fd, O_CLOEXEC))
		return vmm_error(EXIT_HOST, "with: pipe: %s", strerror(errno));
	pid = fork();
	if (!pid)
		list_child(t, lib, pipe_fd[1]);
	close(pipe_fd[1]);
	if (pid > 0) {
		read_all(pipe_fd[0], out, sizeof(out));
		waitpid(pid, &status, 0);
	}
	close(pipe_fd[0]);
	line = line_with(out, "cannot be preloaded");
	if (line)
		return vmm_error(EXIT_HOST, "with: %s", line);
	if (pid > 0 && strstr(out, lib) && !status)
		return 0;
	line = line_with(out, "error while loading") ?: line_with(out, "not found");
	return vmm_error(EXIT_HOST, "with: %s does not load into %s%s%s", lib, t->elf, line ? ": " : "", line ?: "");
}

/* The kernel's question, answered by itself: on, with everything let through, and off again. */
static bool has_dispatch(void)
{
	static char selector; /* SYSCALL_DISPATCH_FILTER_ALLOW */

	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector))
		return false;
	prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
	return true;
}

int target_trap_works(const struct target *t)
{
	if (!(getauxval(AT_HWCAP2) & 2)) /* HWCAP2_FSGSBASE */
		return vmm_error(EXIT_HOST, "with: %s: --trap needs RDFSBASE in user space: Linux 5.9 and a "
				 "processor that has it", t->elf);
	if (!has_dispatch())
		return vmm_error(EXIT_HOST, "with: %s: --trap needs Syscall User Dispatch (Linux 5.11): %s", t->elf,
				 strerror(errno));
	return 0;
}
