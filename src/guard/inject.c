/* SPDX-License-Identifier: MIT */
#include "guard/inject.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guard/guard.h"

/* ---- the language ------------------------------------------------------------------------------------ */

#define ACCEPTED "wedge:VCPU:TICKS|notify, f00f:VCPU, context-invalid:flag|corrupt, nmi-unblock, " \
		 "mce:VCPU[:STATUS], split-ac:VCPU, poison:GPA, ioctl:NAME:ERRNO:N"
#define FIELDS 4
#define MCI_DEFAULT 0xbd80000000000134ull /* valid, uncorrected, enabled, MISC, ADDR, S, AR: data load */

static const struct {
	const char *name;
	u32 request;
} ioctls[] = {
#define IOCTL_SYS(req, fn, copying) { #req, (u32)(req) },
#define IOCTL_VM IOCTL_SYS
#define IOCTL_VCPU IOCTL_SYS
#include "spec/kvm_ioctl.def"
};

static const struct {
	const char *name;
	int error;
} errors[] = {
#define E(x) { #x, x }
	E(EPERM), E(EINTR), E(EIO), E(ENXIO), E(E2BIG), E(EBADF), E(EAGAIN), E(ENOMEM), E(EACCES), E(EFAULT),
	E(EBUSY), E(EEXIST), E(ENODEV), E(EINVAL), E(ENFILE), E(EMFILE), E(ENOTTY), E(ENOSPC), E(ENOSYS),
	E(EOPNOTSUPP), E(EHWPOISON),
#undef E
};

/* One piece cut at its colons. */
struct piece {
	char buf[128];
	const char *field[FIELDS];
	unsigned int n;
};

static bool cut(struct piece *p, const char *s, size_t len)
{
	if (len >= sizeof(p->buf))
		return false;
	memcpy(p->buf, s, len);
	p->buf[len] = 0;
	p->n = 0;
	for (char *at = p->buf; at; ) {
		char *colon = strchr(at, ':');

		if (p->n == FIELDS)
			return false;
		p->field[p->n++] = at;
		if (colon)
			*colon++ = 0;
		at = colon;
	}
	return true;
}

static bool number(const char *s, u64 *val)
{
	char *end;

	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	*val = strtoull(s, &end, 0);
	return !*end && !errno;
}

static bool vcpu_number(const char *s, u32 *out)
{
	u64 v;

	if (!number(s, &v) || v > 0xffffffffu)
		return false;
	*out = (u32)v;
	return true;
}

static bool parse_wedge(const struct piece *p, struct injection *out)
{
	out->kind = INJECT_WEDGE;
	if (p->n != 3 || !vcpu_number(p->field[1], &out->vcpu))
		return false;
	if (!strcmp(p->field[2], "notify"))
		return true;
	return number(p->field[2], &out->val) && out->val;
}

static bool parse_ioctl(const struct piece *p, struct injection *out)
{
	u64 e = 0;

	out->kind = INJECT_IOCTL;
	if (p->n != 4 || !number(p->field[3], &out->val) || !out->val)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(ioctls); i++)
		if (!strcmp(ioctls[i].name, p->field[1]))
			out->request = ioctls[i].request;
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		if (!strcmp(errors[i].name, p->field[2]))
			out->error = errors[i].error;
	if (number(p->field[2], &e) && e < 4096)
		out->error = (int)e;
	return out->request && out->error;
}

static bool parse_piece(const struct piece *p, struct injection *out)
{
	const char *what = p->field[0];

	if (!strcmp(what, "wedge"))
		return parse_wedge(p, out);
	if (!strcmp(what, "ioctl"))
		return parse_ioctl(p, out);
	if (!strcmp(what, "f00f")) {
		out->kind = INJECT_F00F;
		return p->n == 2 && vcpu_number(p->field[1], &out->vcpu);
	}
	if (!strcmp(what, "split-ac")) {
		out->kind = INJECT_SPLIT_AC;
		return p->n == 2 && vcpu_number(p->field[1], &out->vcpu);
	}
	if (!strcmp(what, "context-invalid")) {
		out->kind = INJECT_CONTEXT;
		out->val = p->n == 2 && !strcmp(p->field[1], "corrupt");
		return p->n == 2 && (out->val || !strcmp(p->field[1], "flag"));
	}
	if (!strcmp(what, "nmi-unblock")) {
		out->kind = INJECT_NMI_UNBLOCK;
		return p->n == 1;
	}
	if (!strcmp(what, "mce")) {
		out->kind = INJECT_MCE;
		out->val = MCI_DEFAULT;
		return p->n >= 2 && p->n <= 3 && vcpu_number(p->field[1], &out->vcpu) &&
		       (p->n == 2 || number(p->field[2], &out->val));
	}
	out->kind = INJECT_POISON;
	return !strcmp(what, "poison") && p->n == 2 && number(p->field[1], &out->val);
}

int guard_inject_next(const char **s, struct injection *out, char *err, size_t n)
{
	size_t len = (size_t)(strchrnul(*s, '+') - *s);
	struct piece p;

	memset(out, 0, sizeof(*out));
	if (!**s)
		return 0;
	if (!cut(&p, *s, len) || !parse_piece(&p, out)) {
		snprintf(err, n, "'%.*s' is not one of %s", (int)len, *s, ACCEPTED);
		return -EINVAL;
	}
	*s += len + ((*s)[len] == '+');
	return 1;
}

/* ---- failing ioctls -------------------------------------------------------------------------------------- */

int guard_plan_add(struct inject_plan *p, const struct injection *i)
{
	u32 at = p->n;

	for (u32 k = 0; k < p->n; k++)
		if (!p->row[k].left) /* a row whose call has failed is free */
			at = k;
	if (at == INJECT_IOCTLS)
		return -ENOSPC;
	p->row[at].request = i->request;
	p->row[at].error = i->error;
	p->row[at].left = i->val;
	if (at == p->n)
		p->n = at + 1;
	return 0;
}

int guard_plan_take(struct inject_plan *p, u32 request)
{
	u32 n = p->n;

	for (u32 k = 0; k < n; k++)
		if (p->row[k].request == request && p->row[k].left && atomic_fetch_sub(&p->row[k].left, 1) == 1)
			return -p->row[k].error;
	return 0;
}

/* ---- inside the processor ------------------------------------------------------------------------------------ */

void guard_corrupt(struct vcpu *v)
{
	v->gpr[GPR_RSP] ^= 0x5aa5c33c0ff0ull;
	v->rip ^= 0xa55a3cc3f00full;
	v->inj.valid = false;
}

/* LOCK CMPXCHG8B with a register operand: the Pentium's F0 0F C7 C8 to CF. */
static bool is_f00f(struct vcpu *v)
{
	u64 la = v->csz == 8 ? v->rip : (u32)(v->seg[SEG_CS].base + v->rip);
	u8 code[4];
	gpa_t gpa;

	for (unsigned int i = 0; i < sizeof(code); i++)
		if (!mmu_translate(v, la + i, ACC_X, &gpa) || mem_read(&v->vm->mem, v->smm, gpa, &code[i], 1))
			return false;
	return code[0] == 0xf0 && code[1] == 0x0f && code[2] == 0xc7 && (code[3] & 0xf8) == 0xc8;
}

bool guard_event_begins(struct vcpu *v)
{
	struct guard_vcpu *gv = v->guard;

	if (v->inj.vector != EXC_UD || v->inj.type != EVENT_HARD_EXC || !gv->f00f || !is_f00f(v))
		return false;
	/* It hangs instead of raising the exception, and will again whenever it is executed. */
	v->inj.valid = false;
	gv->wedge = WEDGE_F00F;
	gv->wedge_rip = v->rip;
	gv->wedge_begin = v->vm->bus->crystal(v);
	guard_depart(v, DEP_INJECT_HANG, 0);
	v->stop = CPU_STOP_KICK;
	return true;
}

void guard_wedge(struct guard_vcpu *gv, u64 ticks)
{
	struct vcpu *v = gv->v;

	gv->wedge_ticks = ticks;
	gv->wedge = ticks ? WEDGE_TICKS : WEDGE_NOTIFY;
	gv->wedge_begin = gv->wedge_end = 0;
	vcpu_request(v, REQ_KVM);
}

/* Crystal ticks from now until the notify exit; ~0: none comes. */
static u64 until_notify(const struct guard_vcpu *gv, u64 now)
{
	const struct guard *g = gv->guard;
	u64 limit = (u64)g->notify_window + g->notify_threshold + 1, spent = now - gv->wedge_begin;

	if (!g->notify)
		return ~0ull;
	return spent >= limit ? 0 : limit - spent;
}

static u64 until_end(struct guard_vcpu *gv, u64 now)
{
	if (gv->wedge != WEDGE_TICKS)
		return ~0ull;
	return now >= gv->wedge_end ? 0 : gv->wedge_end - now;
}

static void wedge_start(struct guard_vcpu *gv, u64 now)
{
	if (gv->wedge_begin)
		return;
	gv->wedge_begin = now;
	gv->wedge_end = now + gv->wedge_ticks;
	gv->wedge_rip = gv->v->rip;
	guard_depart(gv->v, DEP_INJECT_HANG, gv->wedge_ticks);
}

enum wedge_state guard_wedge_look(struct guard_vcpu *gv, u64 *ticks)
{
	struct vcpu *v = gv->v;
	u64 now, end, notify;

	if (gv->wedge == WEDGE_F00F && v->rip != gv->wedge_rip)
		gv->wedge = WEDGE_NONE; /* user space took it away from the instruction */
	if (gv->wedge == WEDGE_NONE)
		return WEDGE_FREE;
	now = v->vm->bus->crystal(v);
	wedge_start(gv, now);
	end = until_end(gv, now);
	notify = until_notify(gv, now);
	if (!end) {
		gv->wedge = WEDGE_NONE;
		return WEDGE_FREE;
	}
	if (!notify) {
		gv->wedge_begin = now;
		if (gv->wedge == WEDGE_NOTIFY)
			gv->wedge = WEDGE_NONE;
		return WEDGE_EXIT;
	}
	*ticks = end < notify ? end : notify;
	if (gv->guard->opt.clock == CLOCK_VIRTUAL && *ticks != ~0ull) {
		atomic_fetch_add(&gv->rounds, *ticks); /* nothing else would make time pass */
		*ticks = 0;
	}
	return WEDGE_HELD;
}
