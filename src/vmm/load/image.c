/* SPDX-License-Identifier: MIT */
#include "vmm/load/load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vmm/vmm.h"

#define IMAGE_MAX (4ull << 30)

/* Read rather than mapped: a file that shrinks under us must not fault, and a pipe is as good as a file. */
static int read_all(int fd, size_t hint, u8 **out, u64 *size)
{
	size_t room = hint + 4096;
	size_t n = 0;
	u8 *buf = malloc(room);

	while (buf) {
		ssize_t got = read(fd, buf + n, room - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			int err = got ? -errno : 0;

			if (err)
				free(buf);
			*out = buf;
			*size = n;
			return err;
		}
		n += (size_t)got;
		if (n == room) {
			u8 *more = room * 2 > IMAGE_MAX ? NULL : realloc(buf, room * 2);

			if (!more) {
				free(buf);
				return -EFBIG;
			}
			buf = more;
			room *= 2;
		}
	}
	return -ENOMEM;
}

int image_open(struct image *img, const char *path, const char *what)
{
	struct stat st;
	u8 *data = NULL;
	u64 size = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return vmm_error(EXIT_USAGE, "%s '%s': %s", what, path, strerror(errno));
	if (fstat(fd, &st) || S_ISDIR(st.st_mode) || (u64)st.st_size > IMAGE_MAX) {
		close(fd);
		return vmm_error(EXIT_USAGE, "%s '%s' is not a file of sensible size", what, path);
	}
	rc = read_all(fd, (size_t)st.st_size, &data, &size);
	close(fd);
	if (rc)
		return vmm_error(EXIT_USAGE, "%s '%s': %s", what, path, strerror(-rc));
	if (!size) {
		free(data);
		return vmm_error(EXIT_USAGE, "%s '%s' is empty", what, path);
	}
	*img = (struct image){ .path = path, .data = data, .size = size };
	return 0;
}

void image_close(struct image *img)
{
	free((void *)img->data);
	img->data = NULL;
	img->size = 0;
}

const void *image_at(const struct image *img, u64 off, u64 len)
{
	if (off > img->size || len > img->size - off)
		return NULL;
	return img->data + off;
}
