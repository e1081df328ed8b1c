/* SPDX-License-Identifier: MIT */
/*
 * Raw disk images and block devices.
 */
#pragma once
#include <sys/uio.h>
#include "base/types.h"

struct raw {
	int fd;
	u64 size;
	bool read_only;
	char serial[21];
};

/**
 * raw_open() - open "FILE[,ro][,size=SIZE][,serial=ID]"
 *
 * The file is locked, so that two VMs cannot write to one image.
 *
 * Return: 0, or an exit code after one line on stderr.
 */
int raw_open(struct raw *r, const char *spec);
void raw_close(struct raw *r);

/* Whole transfer or failure: 0 or -errno. @iov is used up. */
int raw_io(struct raw *r, struct iovec *iov, unsigned int n, u64 off, bool write);
int raw_flush(struct raw *r);
int raw_discard(struct raw *r, u64 off, u64 len);
int raw_zero(struct raw *r, u64 off, u64 len, bool may_unmap);
