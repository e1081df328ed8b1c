/* SPDX-License-Identifier: MIT */
/*
 * One line for each ioctl, written when it returns: thread, seconds since the start, the call, its arguments, its
 * result, and for KVM_RUN the exit.
 */
#include "preload/preload.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "kvm/kvm.h"
#include "kvm/sys.h"

#define ARG_MAX_BYTES 4096

bool trace_on;
static int trace_fd = 2;
static u64 started_ns;

struct line {
	char text[1024];
	size_t len;
};

/* KVM_GET_MSRS and KVM_SET_MSRS as far as a line has room for them. */
struct traced_msrs {
	u32 nmsrs, pad;
	u32 index, reserved;
	u64 data;
};

static void add(struct line *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct line *l, const char *fmt, ...)
{
	size_t room = sizeof(l->text) - l->len;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(l->text + l->len, room, fmt, ap);
	va_end(ap);
	if (n > 0)
		l->len += (size_t)n < room ? (size_t)n : room - 1;
}

static void begin_line(struct line *l)
{
	u64 us = (base_now_ns() - started_ns) / 1000;

	l->len = 0;
	add(l, "%d %u.%06u ", base_gettid(), (u32)(us / 1000000), (u32)(us % 1000000));
}

static void end_line(struct line *l, long r)
{
	if (l->len > sizeof(l->text) - 64)
		l->len = sizeof(l->text) - 64;
	if (r < 0)
		add(l, " = -1 %s", strerrorname_np((int)-r) ?: "?");
	else
		add(l, " = %ld", r);
}

static void put_line(struct line *l)
{
	l->text[l->len] = '\n';
	sys_write(trace_fd, l->text, l->len + 1);
}

/* ---- names ---------------------------------------------------------------------------------------------- */

static const char *request_name(enum file_class class, u32 request)
{
#define NAME(req, fn, copying) if (request == (u32)(req)) return #req;
	if (class == FILE_SYS) {
#define IOCTL_SYS NAME
#include "spec/kvm_ioctl.def"
	} else if (class == FILE_VM) {
#define IOCTL_VM NAME
#include "spec/kvm_ioctl.def"
	} else if (class == FILE_VCPU) {
#define IOCTL_VCPU NAME
#include "spec/kvm_ioctl.def"
	}
#undef NAME
#define ABSENT_IOCTL(name, state, why) if (request == (u32)(name)) return #name;
#include "spec/kvm_absent.def"
	return NULL;
}

static const char *cap_name(u64 cap)
{
	switch (cap) {
#define CAP(name, value) case name: return #name;
#include "spec/kvm_cap.def"
#undef CAP
#define ABSENT_CAP(name, state, why) case name: return #name;
#include "spec/kvm_absent.def"
	default:
		return NULL;
	}
}

/* ---- values ---------------------------------------------------------------------------------------------- */

enum format { X, U, D, C, B };

static void put(struct line *l, const char *name, const void *p, size_t size, enum format fmt)
{
	u64 v = 0;

	if (!strncmp(name, "__self", 6))
		add(l, "%s", "");
	else
		add(l, "%s%s=", l->text[l->len - 1] == '{' ? "" : ", ", name);
	if (fmt == B) {
		for (size_t i = 0; i < size; i++)
			add(l, "%02x", ((const u8 *)p)[i]);
		return;
	}
	memcpy(&v, p, size < sizeof(v) ? size : sizeof(v));
	if (fmt == C && cap_name(v))
		add(l, "%s", cap_name(v));
	else if (fmt == D && size == 4)
		add(l, "%d", (int)v);
	else if (fmt == X)
		add(l, "0x%llx", (unsigned long long)v);
	else
		add(l, "%llu", (unsigned long long)v);
}

#define F(member, fmt) put(l, #member, &a->member, sizeof(a->member), fmt);
/* Scalars look like structures with one member. */
struct traced_u64 {
	u64 __self;
};

static void put_arg(struct line *l, u32 request, const void *buf)
{
	add(l, "{");
	switch (request) {
#define TRACE_ARG(req, type, fields)                                                       \
	case (u32)(req): {                                                                 \
		const __typeof__(*_Generic((type *)0, u64 *: (struct traced_u64 *)0, default: (type *)0)) *a = buf; \
		fields break;                                                              \
	}
#include "spec/kvm_trace.def"
	default:
		l->len--;
		return;
	}
	add(l, "}");
}

static void put_exit(struct line *l, const struct kvm_run *a)
{
	switch (a->exit_reason) {
#define TRACE_EXIT(reason, fields) \
	case reason:               \
		add(l, ", " #reason " {"); \
		fields break;
#include "spec/kvm_trace.def"
	default:
		add(l, ", exit %u {", a->exit_reason);
	}
	add(l, "}");
	if (a->flags)
		add(l, ", flags=0x%x", a->flags);
}
#undef F

/* ---- calls ------------------------------------------------------------------------------------------------- */

/* The argument points at something: not a number, not nothing. */
static bool has_struct(u32 request)
{
	return request != (u32)KVM_CREATE_VM && (_IOC_DIR(request) != _IOC_NONE || request == (u32)KVM_SET_CPUID2);
}

static void put_request(struct line *l, const struct kvm_file *f, int fd, u32 request, u64 arg, const void *buf)
{
	static const char *const class[] = { "sys", "vm", "vcpu", "stats", "device" };
	const char *name = request_name(f->ops->class, request);

	add(l, "ioctl(%d<%s>, ", fd, class[f->ops->class]);
	if (name)
		add(l, "%s, ", name);
	else
		add(l, "0x%x, ", request);
	if (request == (u32)KVM_CHECK_EXTENSION && cap_name(arg))
		add(l, "%s", cap_name(arg));
	else if (!buf)
		add(l, "0x%llx", (unsigned long long)arg);
	else
		put_arg(l, request, buf);
	add(l, ")");
}

/* What the caller has there, as much as can be read: lists go on behind their ioctl's size. */
static const void *peek(u8 *buf, u32 request, u64 arg)
{
	size_t size = _IOC_SIZE(request) < ARG_MAX_BYTES ? _IOC_SIZE(request) : ARG_MAX_BYTES;

	memset(buf, 0, ARG_MAX_BYTES);
	if (!has_struct(request) || !arg || mem_copy_guarded(buf, (const void *)arg, size))
		return NULL;
	if (request == (u32)KVM_GET_MSRS || request == (u32)KVM_SET_MSRS)
		mem_copy_guarded(buf, (const void *)arg, sizeof(struct traced_msrs));
	return buf;
}

long trace_ioctl(int fd, u32 request, u64 arg)
{
	u8 in[ARG_MAX_BYTES] __attribute__((aligned(8)));
	struct kvm_file *f = fdtab_get(fd);
	const void *buf;
	struct line l;
	long r;

	if (!f)
		return kvm_ioctl(fd, request, arg);
	buf = peek(in, request, arg);
	r = kvm_ioctl(fd, request, arg);
	if (buf && (_IOC_DIR(request) & _IOC_READ))
		buf = peek(in, request, arg);
	begin_line(&l);
	put_request(&l, f, fd, request, arg, buf);
	end_line(&l, r);
	if (request == (u32)KVM_RUN && f->ops->class == FILE_VCPU)
		put_exit(&l, ((struct kvm_vcpu *)f->obj)->run);
	put_line(&l);
	fdtab_put(f);
	return r;
}

void trace_call(long result, const char *what, ...)
{
	struct line l;
	va_list ap;
	int n;

	begin_line(&l);
	va_start(ap, what);
	n = vsnprintf(l.text + l.len, sizeof(l.text) / 2, what, ap);
	va_end(ap);
	if (n > 0)
		l.len += (size_t)n < sizeof(l.text) / 2 ? (size_t)n : sizeof(l.text) / 2 - 1;
	end_line(&l, result);
	put_line(&l);
}

void trace_start(const char *file)
{
	long fd = 2;

	if (strcmp(file, "-"))
		fd = sys_call(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0)
		return;
	trace_fd = (int)fd;
	started_ns = base_now_ns();
	trace_on = true;
}
