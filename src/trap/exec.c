/* SPDX-License-Identifier: MIT */
/*
 * execve() by the client: what it starts runs as it does itself, on this program.
 */
#include "trap/trap.h"

#include <alloca.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "kvm/sys.h"

#define POINTERS_MAX 16384 /* arguments and environment; they are on the handlers' stack */
#define SCRIPT_DEPTH 4
#define STUB	     "/proc/self/exe"

/**
 * struct start - what is to be started
 * @path: the ELF program
 * @before: arguments to go before the caller's second one, for scripts: interpreter, its argument, the script
 */
struct start {
	char path[4096];
	char line[SCRIPT_DEPTH][256];
	char script[4096];
	const char *before[2 * SCRIPT_DEPTH + 1];
	int nbefore;
};

/* Rights that exec gives would be given to this program instead, which has none to give. */
static bool gains_rights(int fd)
{
	struct stat st;

	return !sys_call(SYS_fstat, fd, &st) && (st.st_mode & (S_ISUID | S_ISGID));
}

static bool is_ours(const u8 *head, long n)
{
	const Elf64_Ehdr *eh = (const Elf64_Ehdr *)head;

	return n >= (long)sizeof(*eh) && !memcmp(head, ELFMAG, SELFMAG) &&
	       eh->e_ident[EI_CLASS] == ELFCLASS64 && eh->e_machine == EM_X86_64;
}

/* A program that the kernel starts all the same: the user shall know. */
static bool without_us(const char *path, const char *why)
{
	char line[4352];
	int n = snprintf(line, sizeof(line), "casement: with: %s: %s: it runs without us\n", path, why);

	sys_write(2, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
	return false;
}

/* "#! interpreter argument": becomes the front of the arguments. */
static bool add_script(struct start *s, char *line, int depth)
{
	char *interp = line + 2 + strspn(line + 2, " \t"), *arg;

	line[strcspn(line, "\n")] = 0;
	arg = interp + strcspn(interp, " \t");
	if (*arg) {
		*arg++ = 0;
		arg += strspn(arg, " \t");
	}
	if (!*interp || strlen(interp) >= sizeof(s->path))
		return false;
	if (!depth) {
		memcpy(s->script, s->path, sizeof(s->script));
		s->before[s->nbefore++] = s->script;
	}
	/* the innermost interpreter goes first */
	memmove(s->before + 1 + !!*arg, s->before, (size_t)s->nbefore * sizeof(s->before[0]));
	s->before[0] = interp;
	if (*arg)
		s->before[1] = arg;
	s->nbefore += 1 + !!*arg;
	strcpy(s->path, interp);
	return true;
}

/* Find the ELF program that @s->path comes down to. False: the kernel shall say what is wrong, or do it without us. */
static bool resolve(struct start *s)
{
	for (int depth = 0; depth < SCRIPT_DEPTH; depth++) {
		char *head = s->line[depth];
		int fd = (int)sys_call(SYS_openat, AT_FDCWD, s->path, O_RDONLY | O_CLOEXEC, 0);
		long n;
		bool gains;

		if (fd < 0)
			return false;
		n = sys_read(fd, head, sizeof(s->line[0]) - 1);
		gains = gains_rights(fd);
		sys_close(fd);
		if (n < 4 || sys_call(SYS_access, s->path, X_OK))
			return false;
		if (gains)
			return without_us(s->path, "setuid or setgid");
		head[n] = 0;
		if (is_ours((u8 *)head, n))
			return true;
		if (!memcmp(head, ELFMAG, SELFMAG))
			return without_us(s->path, "not a 64-bit x86 program");
		if (memcmp(head, "#!", 2) || !add_script(s, head, depth))
			return false;
	}
	return false;
}

/* Length of a list of pointers that ends with NULL, or -errno. */
static long list_length(u64 list)
{
	u64 p;

	for (long n = 0; list && n < POINTERS_MAX; n++) {
		if (copy_in(&p, list + (u64)n * 8, sizeof(p)))
			return -EFAULT;
		if (!p)
			return n;
	}
	return list ? -E2BIG : 0;
}

long trap_exec(struct trap_thread *t, struct sigframe *f, const char *path, u64 argv, u64 envp)
{
	struct start *s = alloca(sizeof(*s));
	char *name = alloca(sizeof(TRAP_FILE) + sizeof(s->path));
	long na = list_length(argv), ne = list_length(envp), out = 0;
	const char **args, **env;

	if (na < 0 || ne < 0 || na + ne > POINTERS_MAX)
		return na < 0 ? na : ne < 0 ? ne : -E2BIG;
	s->nbefore = 0;
	snprintf(s->path, sizeof(s->path), "%s", path);
	if (!resolve(s))
		return TRAP_GATE;
	args = alloca(((size_t)na + ARRAY_SIZE(s->before) + 2) * sizeof(*args));
	env = alloca(((size_t)ne + 2) * sizeof(*env));
	if (copy_in(args + s->nbefore, argv, (size_t)na * 8) ||
	    copy_in(env + 1, envp, (size_t)ne * 8))
		return -EFAULT;
	if (s->nbefore) /* in place of the caller's first */
		memmove(args + s->nbefore, args + s->nbefore + 1, (size_t)(na ? --na : 0) * 8);
	memcpy(args, s->before, (size_t)s->nbefore * sizeof(*args));
	args[s->nbefore + na] = NULL;
	sprintf(name, TRAP_FILE "=%s", s->path);
	env[out++] = name;
	for (long i = 1; i <= ne; i++) {
		char c[sizeof(TRAP_FILE)];

		if (!copy_in(c, (u64)env[i], sizeof(c)) && !memcmp(c, TRAP_FILE "=", sizeof(c)))
			continue;
		env[out++] = env[i];
	}
	env[out] = NULL;
	if (!f)
		return sys_call(SYS_execve, STUB, args, env);
	t->nr = SYS_execve;
	t->arg[0] = (u64)STUB;
	t->arg[1] = (u64)args;
	t->arg[2] = (u64)env;
	trap_pass(t, f); /* from here: the lists are on this stack */
}

long trap_execat(struct trap_thread *t, struct sigframe *f, int dir, u64 from, u64 argv, u64 envp,
		 int flags)
{
	char *path = alloca(8192), *name = alloca(4096);
	long n = trap_string(name, from, 4096);

	if (n < 0)
		return TRAP_GATE;
	if (trap_is_exe(name))
		return trap_exec(t, f, trap_exe, argv, envp);
	if (name[0] == '/' || (dir == AT_FDCWD && n)) {
		snprintf(path, 8192, "%s", name);
	} else if (n || (flags & AT_EMPTY_PATH)) {
		if (!n) /* may be closed on exec: the new program gets another */
			dir = (int)sys_call(SYS_dup, dir);
		snprintf(path, 8192, n ? "/proc/self/fd/%d/%s" : "/proc/self/fd/%d", dir, name);
	} else {
		return TRAP_GATE;
	}
	return trap_exec(t, f, path, argv, envp);
}
