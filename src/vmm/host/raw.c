/* SPDX-License-Identifier: MIT */
#include "vmm/host/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vmm/vmm.h"

#define SECTOR 512u

static int option(struct raw *r, const char *path, char *key, u64 *min)
{
	if (!strcmp(key, "ro")) {
		r->read_only = true;
	} else if (!strncmp(key, "size=", 5)) {
		if (!opt_size(key + 5, 1, min))
			return vmm_error(EXIT_USAGE, "disk '%s': '%s' is not a size", path, key + 5);
	} else if (!strncmp(key, "serial=", 7)) {
		if (strlen(key + 7) >= sizeof(r->serial))
			return vmm_error(EXIT_USAGE, "disk '%s': a serial has at most 20 letters", path);
		snprintf(r->serial, sizeof(r->serial), "%s", key + 7);
	} else {
		return vmm_error(EXIT_USAGE, "disk '%s': unknown option '%s' (ro, size=, serial=)", path, key);
	}
	return 0;
}

static int lock(struct raw *r)
{
	struct flock l = { .l_type = r->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

	/* File systems without locks exist; only a lock held by another is a reason to stop. */
	return fcntl(r->fd, F_OFD_SETLK, &l) && (errno == EAGAIN || errno == EACCES) ? -EBUSY : 0;
}

static int check(struct raw *r, const char *path, u64 min)
{
	struct stat st;
	off_t end;

	if (fstat(r->fd, &st) || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
		return vmm_error(EXIT_USAGE, "disk '%s' is neither a file nor a block device", path);
	end = lseek(r->fd, 0, SEEK_END);
	if (end <= 0)
		return vmm_error(EXIT_USAGE, "disk '%s' is empty", path);
	r->size = (u64)end;
	if (r->size < min)
		return vmm_error(EXIT_USAGE, "disk '%s' has %llu bytes, less than the %llu asked for", path,
				 (unsigned long long)r->size, (unsigned long long)min);
	if (r->size % SECTOR)
		return vmm_error(EXIT_USAGE, "disk '%s' has %llu bytes, not a multiple of %u", path,
				 (unsigned long long)r->size, SECTOR);
	if (lock(r))
		return vmm_error(EXIT_USAGE, "disk '%s' is in use by another VM", path);
	return 0;
}

int raw_open(struct raw *r, const char *spec)
{
	char path[4096], key[64];
	u64 min = 0;
	int rc = 0;

	memset(r, 0, sizeof(*r));
	r->fd = -1;
	if (!opt_next(&spec, path, sizeof(path)))
		return vmm_error(EXIT_USAGE, "--disk: no file name");
	while (*spec && !rc) {
		if (!opt_next(&spec, key, sizeof(key)))
			return vmm_error(EXIT_USAGE, "disk '%s': option too long", path);
		rc = option(r, path, key, &min);
	}
	if (rc)
		return rc;
	r->fd = open(path, (r->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
	if (r->fd < 0)
		return vmm_error(EXIT_USAGE, "disk '%s': %s%s", path, strerror(errno),
				 errno == EACCES || errno == EROFS ? " (read-only: add ,ro)" : "");
	rc = check(r, path, min);
	if (rc)
		raw_close(r);
	return rc;
}

void raw_close(struct raw *r)
{
	if (r->fd >= 0)
		close(r->fd);
	r->fd = -1;
}

static unsigned int advance(struct iovec **iov, unsigned int n, size_t done)
{
	while (n && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		n--;
	}
	if (n) {
		(*iov)->iov_base = (u8 *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
	return n;
}

int raw_io(struct raw *r, struct iovec *iov, unsigned int n, u64 off, bool write)
{
	while (n) {
		ssize_t done = write ? pwritev(r->fd, iov, (int)n, (off_t)off) : preadv(r->fd, iov, (int)n, (off_t)off);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (!done)
			return -EIO;	/* the image was truncated under us */
		off += (u64)done;
		n = advance(&iov, n, (size_t)done);
	}
	return 0;
}

int raw_flush(struct raw *r)
{
	int rc;

	do {
		rc = fdatasync(r->fd);
	} while (rc && errno == EINTR);
	return rc ? -errno : 0;
}

int raw_discard(struct raw *r, u64 off, u64 len)
{
	/* Advice: what cannot be punched simply stays. */
	if (fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) &&
	    errno != EOPNOTSUPP && errno != EINTR)
		return -errno;
	return 0;
}

int raw_zero(struct raw *r, u64 off, u64 len, bool may_unmap)
{
	static u8 zeros[65536];

	if (!fallocate(r->fd,
		       (may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) |
			       FALLOC_FL_KEEP_SIZE,
		       (off_t)off, (off_t)len))
		return 0;
	while (len) {
		size_t part = len < sizeof(zeros) ? len : sizeof(zeros);
		struct iovec v = { .iov_base = zeros, .iov_len = part };
		int rc = raw_io(r, &v, 1, off, true);

		if (rc)
			return rc;
		off += part;
		len -= part;
	}
	return 0;
}
