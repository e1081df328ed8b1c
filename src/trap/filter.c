/* SPDX-License-Identifier: MIT */
/*
 * The client's seccomp filters, carried out here.
 *
 * In the kernel they would meet the engine's own system calls too, made on the client's threads, and kill it. So each
 * call that the client makes is shown to its filters before it is carried out. That holds the client to its own rules
 * as long as it is honest; against one that is not they were never ours to enforce.
 */
#include "trap/trap.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>

#include "kvm/kvm.h"
#include "kvm/sys.h"

#define SLOTS 16 /* BPF_MEMWORDS */

struct trap_filter {
	const struct trap_filter *older;
	u32 len;
	struct sock_filter code[];
};

/* For every thread (SECCOMP_FILTER_FLAG_TSYNC). */
static const struct trap_filter *_Atomic of_all;

/* ---- classic BPF ----------------------------------------------------------------------------- */

struct bpf {
	u32 a, x, mem[SLOTS];
	const struct seccomp_data *data;
};

static u32 alu(u16 op, u32 a, u32 b)
{
	switch (BPF_OP(op)) {
	case BPF_ADD:
		return a + b;
	case BPF_SUB:
		return a - b;
	case BPF_MUL:
		return a * b;
	case BPF_DIV:
		return b ? a / b : 0;
	case BPF_OR:
		return a | b;
	case BPF_AND:
		return a & b;
	case BPF_LSH:
		return b < 32 ? a << b : 0;
	case BPF_RSH:
		return b < 32 ? a >> b : 0;
	case BPF_NEG:
		return -a;
	case BPF_XOR:
		return a ^ b;
	default:
		return a;
	}
}

static bool holds(u16 op, u32 a, u32 b)
{
	switch (BPF_OP(op)) {
	case BPF_JEQ:
		return a == b;
	case BPF_JGT:
		return a > b;
	case BPF_JGE:
		return a >= b;
	default:
		return a & b;
	}
}

static u32 load(const struct bpf *m, const struct sock_filter *i)
{
	switch (BPF_MODE(i->code)) {
	case BPF_IMM:
		return i->k;
	case BPF_MEM:
		return m->mem[i->k % SLOTS];
	case BPF_LEN:
		return sizeof(*m->data);
	default:
		return *(const u32 *)((const u8 *)m->data + (i->k & ~3u) % sizeof(*m->data));
	}
}

static u32 run(const struct trap_filter *f, const struct seccomp_data *data)
{
	struct bpf m = { .data = data };

	for (u32 pc = 0; pc < f->len; pc++) {
		const struct sock_filter *i = &f->code[pc];
		u32 b = BPF_SRC(i->code) == BPF_X ? m.x : i->k;

		switch (BPF_CLASS(i->code)) {
		case BPF_LD:
			m.a = load(&m, i);
			break;
		case BPF_LDX:
			m.x = load(&m, i);
			break;
		case BPF_ST:
			m.mem[i->k % SLOTS] = m.a;
			break;
		case BPF_STX:
			m.mem[i->k % SLOTS] = m.x;
			break;
		case BPF_ALU:
			m.a = alu(i->code, m.a, b);
			break;
		case BPF_JMP:
			if (BPF_OP(i->code) == BPF_JA)
				pc += i->k;
			else
				pc += holds(i->code, m.a, b) ? i->jt : i->jf;
			break;
		case BPF_RET:
			return BPF_RVAL(i->code) == BPF_A ? m.a : i->k;
		default:
			if (BPF_MISCOP(i->code) == BPF_TAX)
				m.x = m.a;
			else
				m.a = m.x;
		}
	}
	return SECCOMP_RET_KILL_PROCESS;
}

/* ---- verdicts -------------------------------------------------------------------------------- */

/* The lowest as a signed number wins; of equals the newest filter's. */
static u32 verdict(const struct trap_filter *f, const struct seccomp_data *data, u32 so_far)
{
	for (; f; f = f->older) {
		u32 v = run(f, data);

		if ((s32)(v & SECCOMP_RET_ACTION_FULL) < (s32)(so_far & SECCOMP_RET_ACTION_FULL))
			so_far = v;
	}
	return so_far;
}

/* SIGSYS as the kernel sends it. */
static struct sigframe *send_sys(struct trap_thread *t, struct sigframe *f, u32 v, bool kill)
{
	f->info.si_errno = (int)(v & SECCOMP_RET_DATA);
	f->info.si_code = 1; /* SYS_SECCOMP */
	f->mask &= ~sig_bit(SIGSYS);
	if (kill)
		trap_forget(t, SIGSYS);
	return trap_deliver(t, SIGSYS, f, f);
}

bool trap_filtered(struct trap_thread *t, struct sigframe *f, struct sigframe **out)
{
	const struct trap_filter *all = atomic_load_explicit(&of_all, memory_order_acquire);
	struct seccomp_data data = {
		.nr = (int)f->rax,
		.arch = (u32)f->info.si_arch,
		.instruction_pointer = f->rip,
		.args = { f->rdi, f->rsi, f->rdx, f->r10, f->r8, f->r9 },
	};
	u32 v;

	if (!t->filter && !all)
		return false;
	v = verdict(all, &data, verdict(t->filter, &data, SECCOMP_RET_ALLOW));
	switch (v & SECCOMP_RET_ACTION_FULL) {
	case SECCOMP_RET_ALLOW:
	case SECCOMP_RET_LOG:
		return false;
	case SECCOMP_RET_ERRNO:
		f->rax = (u64) - (s64)(v & SECCOMP_RET_DATA);
		return true;
	case SECCOMP_RET_TRACE:
	case SECCOMP_RET_USER_NOTIF:
		f->rax = (u64)-ENOSYS; /* nobody is there to ask */
		return true;
	default:
		*out = send_sys(t, f, v, (v & SECCOMP_RET_ACTION_FULL) != SECCOMP_RET_TRAP);
		return true;
	}
}

/* ---- installing ------------------------------------------------------------------------------ */

static bool is_sound(const struct trap_filter *f)
{
	for (u32 pc = 0; pc < f->len; pc++) {
		const struct sock_filter *i = &f->code[pc];
		u64 left = f->len - pc - 1;

		if (BPF_CLASS(i->code) == BPF_LD && BPF_MODE(i->code) == BPF_ABS &&
		    ((i->k & 3) || i->k >= sizeof(struct seccomp_data)))
			return false;
		if (BPF_CLASS(i->code) == BPF_JMP &&
		    (BPF_OP(i->code) == BPF_JA ? i->k >= left : i->jt >= left || i->jf >= left))
			return false;
	}
	return BPF_CLASS(f->code[f->len - 1].code) == BPF_RET;
}

static long install(struct trap_thread *t, u32 flags, u64 arg)
{
	struct sock_fprog prog;
	struct trap_filter *f;
	u64 size;

	if (flags & ~(u32)(SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG |
			   SECCOMP_FILTER_FLAG_SPEC_ALLOW | SECCOMP_FILTER_FLAG_TSYNC_ESRCH))
		return -EINVAL;
	if (copy_in(&prog, arg, sizeof(prog)))
		return -EFAULT;
	if (!prog.len || prog.len > BPF_MAXINSNS)
		return -EINVAL;
	size = prog.len * sizeof(struct sock_filter);
	f = sys_mmap(NULL, sizeof(*f) + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		     -1, 0);
	if (!f)
		return -ENOMEM;
	f->len = prog.len;
	if (copy_in(f->code, (u64)prog.filter, size) || !is_sound(f)) {
		sys_munmap(f, sizeof(*f) + size);
		return -EINVAL;
	}
	trap_choose(true);
	if (flags & SECCOMP_FILTER_FLAG_TSYNC) {
		f->older = atomic_load(&of_all);
		while (!atomic_compare_exchange_weak(&of_all, &f->older, f))
			;
	} else {
		f->older = t->filter;
		t->filter = f;
	}
	return 0;
}

long trap_seccomp(struct trap_thread *t, u32 op, u32 flags, u64 arg)
{
	switch (op) {
	case SECCOMP_SET_MODE_FILTER:
		return install(t, flags, arg);
	case SECCOMP_GET_ACTION_AVAIL:
	case SECCOMP_GET_NOTIF_SIZES:
		return TRAP_GATE;
	default:
		return -EINVAL;
	}
}
