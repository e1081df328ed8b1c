/* SPDX-License-Identifier: MIT */
/*
 * casement-trap: a program whose system calls reach the kernel without libc, in one process with the engine.
 *
 * This program starts as any other, with its own libc; then it maps the client beside itself, gives it a stack as the
 * kernel would and lets it run under Syscall User Dispatch: each of its system calls becomes SIGSYS, and the handler
 * does what is ours and passes on the rest. doc/design/trap.md tells the whole story.
 */
#pragma once
#include <signal.h>
#include <stdatomic.h>

#include "base/types.h"

/* ---- what the kernel puts on the stack for a handler ----------------------------------------- */

struct trap_stack {
	u64 sp;
	u32 flags, pad;
	u64 size;
};

/**
 * struct sigframe - struct rt_sigframe of the kernel, with its struct ucontext and struct sigcontext spelled out
 */
struct sigframe {
	u64 restorer;
	u64 uc_flags, uc_link;
	struct trap_stack stack;
	u64 r8, r9, r10, r11, r12, r13, r14, r15;
	u64 rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
	u16 cs, gs, fs, ss;
	u64 err, trapno, oldmask, cr2, fpstate, reserved[8];
	u64 mask;
	siginfo_t info;
};
_Static_assert(sizeof(struct sigframe) == 440, "struct rt_sigframe");

/* ---- a thread of the client ------------------------------------------------------------------ */

#define TRAP_HEADER 4096	 /* the kernel's alternate stack begins here */
#define TRAP_REGION (512 * 1024) /* the handlers' stack, the engine's too */

/**
 * struct trap_thread - one task of the client; at the bottom of its handlers' stack
 * @own_fs: FS base of our libc's thread
 * @client_fs: the client's, while a handler runs
 * @leave: what rt_sigreturn() is about to restore
 * @selector: of Syscall User Dispatch: 1, its calls are trapped
 * @nr, @arg: the call that trap_gate() makes for the client
 * @home: stack pointer of the libc thread that carries it
 * @restore: the mask in force is not the frame's, or something else is there for rt_sigreturn() to put right
 * @carried: it has such a thread: its end is that thread's end
 * @altstack: what the client asked for
 * @clear_tid: cleared and woken at its end
 * @actions: the dispositions of its process
 * @filter: newest of its seccomp filters
 * @mask: a copy of the client's, without SIGSYS
 * @blocks_sys: the client believes that it blocks SIGSYS
 */
struct trap_thread {
	u64 own_fs;
	u64 client_fs;
	struct sigframe *leave;
	u64 selector;
	u64 nr, arg[6];
	u64 home;
	u64 restore;
	bool carried;
	bool blocks_sys;
	struct trap_stack altstack;
	u64 clear_tid;
	struct trap_actions *actions;
	const struct trap_filter *filter;
	u64 mask[3];
};

/* ---- entry and exit (entry.c) ---------------------------------------------------------------- */

/* The handler of every signal that is not the kernel's business. */
void trap_entry(int sig, siginfo_t *si, void *uc);
/*
 * That of SIGSYS. A call that is not in trap_ours is made at once, in the client's own circumstances, and the client
 * goes on without a second system call.
 */
void trap_sys_entry(int sig, siginfo_t *si, void *uc);
extern u64 trap_ours[512 / 64];
extern const u64 trap_all;
/*
 * Before and behind its syscall instruction; after a push; all registers are the client's, rcx its rip. Before C is
 * called, and when all is done that takes C. The end.
 */
extern const u8 trap_sys_call[], trap_sys_ret[], trap_sys_popf[], trap_sys_jmp[];
extern const u8 trap_sys_calling[], trap_sys_back[], trap_sys_end[];
/* First instruction of the client. */
void trap_start(struct trap_thread *t, u64 rsp, u64 rip) __attribute__((noreturn));
/* As @f says, from a thread of libc's. Returns when the client's thread has ended. */
void trap_depart(struct trap_thread *t, struct sigframe *f);
/* The end of a carried thread: trap_depart() returns. */
void trap_home(struct trap_thread *t) __attribute__((noreturn));
/* Make the call t->nr, with @mask in force if t->restore, put its result into @f and return there. */
void trap_gate(struct trap_thread *t, struct sigframe *f, const u64 *mask)
	__attribute__((noreturn));
/* The code between those; trap_gate_call and _ret are before and behind its syscall instruction. */
extern const u8 trap_gate_open[], trap_gate_call[], trap_gate_ret[], trap_leave_end[];
extern const u8 trap_text[], trap_text_end[];

/* What entry.c calls: NULL, go back to where the signal came from. */
struct sigframe *trap_handle(struct trap_thread *t, int sig, struct sigframe *f);
struct sigframe *trap_nested(struct trap_thread *t, int sig, struct sigframe *f);
void trap_plain(int sig, siginfo_t *si, void *uc);

/* A handlers' stack; NULL: no memory. */
struct trap_thread *trap_alloc(void);
void trap_free(struct trap_thread *t);
/* The calling task's system calls are trapped from now on. 0 or -errno. */
int trap_dispatch(struct trap_thread *t);
/* And its handlers run on @t; not to be called on such a stack. */
int trap_arm(struct trap_thread *t);
/* The alternate stack that the kernel knows of. */
struct trap_stack trap_kernel_stack(const struct trap_thread *t);
/* Bytes of vector state, which knows its own size. */
u64 trap_fpsize(u64 fpstate);
/* A copy of @f where @t's first frame would be. */
struct sigframe *trap_copy_frame(struct trap_thread *t, const struct sigframe *f);

/* ---- signals (signal.c) ---------------------------------------------------------------------- */

#define TRAP_GATE (-65537l) /* a handler of a call: the kernel shall do it */

static inline u64 sig_bit(int sig)
{
	return 1ull << (sig - 1);
}
/* What handlers of ours must not block: the engine's own faults. */
#define TRAP_FAULTS                                                                                \
	(1ull << (SIGSEGV - 1) | 1ull << (SIGBUS - 1) | 1ull << (SIGFPE - 1) | 1ull << (SIGILL - 1))

struct trap_actions;
void trap_signals_start(struct trap_thread *t);
/* For a child of vfork(); NULL: no memory. */
struct trap_actions *trap_copy_actions(const struct trap_thread *t);
/* The child must not find a lock held by a thread that it does not have. */
void trap_actions_fork(struct trap_thread *t, bool before);
void trap_brk_fork(bool before);
void trap_free_actions(struct trap_actions *a);
long trap_sigaction(struct trap_thread *t, int sig, u64 act, u64 old, u64 size);
long trap_sigprocmask(struct trap_thread *t, struct sigframe *f, int how, u64 set, u64 old,
		      u64 size);
long trap_sigaltstack(struct trap_thread *t, struct sigframe *f, u64 new, u64 old);
struct sigframe *trap_sigreturn(struct trap_thread *t, struct sigframe *f);
/* @via's signal, on the context @ctx: returns the frame that enters the client's handler. */
struct sigframe *trap_deliver(struct trap_thread *t, int sig, struct sigframe *ctx,
			      struct sigframe *via);
/* As if there had never been a handler. */
void trap_forget(struct trap_thread *t, int sig);
/* Argument @n of the call is a mask: without SIGSYS. @indirect: pselect6's pair. */
void trap_mask_arg(struct trap_thread *t, int n, bool indirect);

/* ---- system calls (syscall.c, file.c, task.c, exec.c, filter.c) ------------------------------ */

struct sigframe *trap_syscall(struct trap_thread *t, struct sigframe *f);
/* No signals until the client goes on. */
void trap_block(struct trap_thread *t);
/* Fill trap_ours; @all: for filters. */
void trap_choose(bool all);
/* The kernel makes the call t->nr for the client. */
void trap_pass(struct trap_thread *t, struct sigframe *f) __attribute__((noreturn));
/* Files: a result or TRAP_GATE. */
long trap_file(struct trap_thread *t, struct sigframe *f, long nr, const u64 *a);
long trap_ioctl(int fd, u32 request, u64 arg);

long trap_clone(struct trap_thread *t, struct sigframe *f, u64 flags, u64 stack, u64 ptid, u64 ctid,
		u64 tls);
long trap_exit_thread(struct trap_thread *t);
/* @f NULL: the program itself is starting. TRAP_GATE: not for us. */
long trap_exec(struct trap_thread *t, struct sigframe *f, const char *path, u64 argv, u64 envp);
long trap_execat(struct trap_thread *t, struct sigframe *f, int dir, u64 path, u64 argv, u64 envp,
		 int flags);

struct trap_filter;
/* The client's seccomp filters are carried out here. True: they say no, and @out is how to go on. */
bool trap_filtered(struct trap_thread *t, struct sigframe *f, struct sigframe **out);
long trap_seccomp(struct trap_thread *t, u32 op, u32 flags, u64 arg);

/* ---- the program (load.c) -------------------------------------------------------------------- */

/**
 * struct trap_image - a mapped ELF file
 * @base: what its addresses are relative to; 0 for a program with fixed ones
 * @brk: end of its data
 */
struct trap_image {
	u64 base, entry, phdr, phnum, brk;
	char interp[4096];
};
/* 0, or -errno after one line on standard error. */
int trap_load(struct trap_image *img, const char *path, u64 where);
u64 trap_brk(u64 to);
void trap_brk_start(u64 at);

/* Is it one of the names of this program? They mean the client. */
bool trap_is_exe(const char *path);
extern char trap_exe[4096]; /* the client's path, which /proc/self/exe answers */
#define TRAP_FILE "CASEMENT_TRAP_FILE"

/* A string of the client's: its length, -EFAULT or -ENAMETOOLONG. */
long trap_string(char *to, u64 from, size_t size);
