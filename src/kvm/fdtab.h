/* SPDX-License-Identifier: MIT */
/*
 * Which file descriptors are KVM objects.
 *
 * A descriptor number maps to an open file description (struct kvm_file), which is counted as the kernel's
 * struct file is: once per descriptor, once per call that uses it. Look-up takes no lock. The descriptor
 * itself is a real one, so numbers cannot be handed out twice, and whoever closes it behind our back
 * leaves a stale row that the next owner of the number replaces or close() clears.
 */
#pragma once
#include <stdatomic.h>

#include "base/types.h"

enum file_class { FILE_SYS, FILE_VM, FILE_VCPU, FILE_STATS, FILE_DEVICE };

struct kvm_file_ops {
	enum file_class class;
	long (*ioctl)(void *obj, u32 request, u64 arg);
	void (*release)(void *obj);
};

struct kvm_file {
	_Atomic u32 refs;
	const struct kvm_file_ops *ops;
	void *obj;
	u64 ino;	       /* of the descriptor's inode: finds a duplicate that was made behind our back */
	struct kvm_file *next; /* while free */
};

/* A description with one reference, the caller's; NULL when out of memory. */
struct kvm_file *fdtab_new(const struct kvm_file_ops *ops, void *obj);
/* fd refers to f from now on. 0 or -ENOMEM. */
int fdtab_install(int fd, struct kvm_file *f);
/* New description for obj on the open descriptor fd, which is closed on failure (obj released). fd or -errno. */
int fdtab_open(const struct kvm_file_ops *ops, void *obj, int fd);
/* Reference to what fd is, or NULL. */
struct kvm_file *fdtab_get(int fd);
/* Drop a reference; the last one releases the object. */
void fdtab_put(struct kvm_file *f);
bool fdtab_has(int fd);
/* Take fd's row out; the caller closes the descriptor, then drops the reference. NULL: not ours. */
struct kvm_file *fdtab_take(int fd);
/* newfd is a duplicate of oldfd. 0 or -EBADF, -ENOMEM. */
int fdtab_dup(int oldfd, int newfd);
/* The inode number of an open descriptor, 0 when it has none. */
u64 fdtab_ino(int fd);
/* Reference to the description whose descriptors have this inode, or NULL. Slow. */
struct kvm_file *fdtab_find_ino(u64 ino);
/* Call fn for each of our descriptors in first .. last. */
void fdtab_range(unsigned int first, unsigned int last, void (*fn)(int fd));
