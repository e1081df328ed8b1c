/* SPDX-License-Identifier: MIT */
#include "base/base.h"
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

/**
 * xmem_create() - reserve memory with a writable and an executable view
 * @x: filled on success
 * @size: bytes, page aligned; pages are allocated when first written
 * @name: shown in /proc/PID/maps
 *
 * Return: 0, or -errno of memfd_create(2), ftruncate(2) or mmap(2); -EACCES or -EPERM when the
 * host forbids executable shared memory.
 */
int xmem_create(struct xmem *x, size_t size, const char *name)
{
	int err;
	int fd = memfd_create(name, MFD_CLOEXEC);

	x->rw = x->rx = NULL;
	x->size = 0;
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) < 0)
		goto fail;
	x->rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (x->rw == MAP_FAILED)
		goto fail;
	x->rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (x->rx == MAP_FAILED) {
		err = -errno;
		munmap(x->rw, size);
		errno = -err;
		goto fail;
	}
	close(fd);
	x->size = size;
	return 0;
fail:
	err = -errno;
	close(fd);
	x->rw = x->rx = NULL;
	return err;
}

void xmem_destroy(struct xmem *x)
{
	if (!x->size)
		return;
	munmap(x->rw, x->size);
	munmap(x->rx, x->size);
	x->rw = x->rx = NULL;
	x->size = 0;
}
