/* SPDX-License-Identifier: MIT */
#include "kvm/eventfd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "kvm/sys.h"

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif
#define FD_FLOOR 200 /* keep the low numbers for the program we are in */

int eventfd_id(int fd, u64 *id)
{
	static const char key[] = "eventfd-id:";
	char path[48], text[512], *p;
	long n;
	int info;

	if (sys_call(SYS_fcntl, fd, F_GETFD) < 0)
		return -EBADF;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = (int)sys_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (info < 0)
		return info;
	n = sys_read(info, text, sizeof(text) - 1);
	sys_close(info);
	text[n < 0 ? 0 : n] = 0;
	p = strstr(text, key);
	if (!p)
		return -EINVAL;
	*id = 0;
	for (p += sizeof(key) - 1; *p == ' '; p++)
		;
	for (; *p >= '0' && *p <= '9'; p++)
		*id = *id * 10 + (u64)(*p - '0');
	return 0;
}

int eventfd_hold(int fd, u64 *id)
{
	int r = eventfd_id(fd, id);

	if (r)
		return r;
	r = (int)sys_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, FD_FLOOR);
	return r >= 0 ? r : (int)sys_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0);
}

/* A blocking eventfd at its maximum would block write(2); KVM saturates it instead. */
void eventfd_signal(int fd)
{
	u64 one = 1;
	struct iovec iov = { &one, sizeof(one) };

	if (sys_call(SYS_pwritev2, fd, &iov, 1, -1, -1, RWF_NOWAIT) == -EOPNOTSUPP)
		sys_write(fd, &one, sizeof(one));
}

bool eventfd_drain(int fd)
{
	u64 n;
	struct iovec iov = { &n, sizeof(n) };
	long r = sys_call(SYS_preadv2, fd, &iov, 1, -1, -1, RWF_NOWAIT);

	if (r == -EOPNOTSUPP)
		r = sys_read(fd, &n, sizeof(n));
	return r == sizeof(n);
}
