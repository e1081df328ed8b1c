/* SPDX-License-Identifier: MIT */
/*
 * What all virtio devices share: the PCI transport of virtio 1, features, status, queues and their kicks.
 */
#pragma once
#include "vmm/dev/pci.h"
#include "vmm/dev/virtqueue.h"
#include "vmm/vmm.h"

#define VIRTIO_QUEUES_MAX 4
#define VIRTIO_CONFIG_MAX 64

struct virtio;

struct virtio_ops {
	/* Requests may be waiting on queue @q. In the device's loop, lock held, queue live. */
	void (*kick)(struct virtio *v, unsigned int q);
	/* The driver reset the device: forget requests. Lock held. May be NULL. */
	void (*reset)(struct virtio *v);
};

/* A queue as the driver describes it, and the checked copy in use. */
struct virtio_queue {
	struct virtio *dev;
	unsigned int index;
	u16 size, vector;
	bool enabled;
	u64 desc, avail, used;
	struct vq vq;
	int kick_fd;
};

struct virtio {
	struct pci_dev pci;	/* first; its lock guards everything here */
	const struct virtio_ops *ops;
	struct loop *loop;
	u64 features, driver_features;
	u32 feature_select, driver_feature_select;
	u8 status, isr;
	u16 queue_select, config_vector;
	unsigned int nr_queues;
	struct virtio_queue queue[VIRTIO_QUEUES_MAX];
	u8 config[VIRTIO_CONFIG_MAX];
	u32 config_len;
	u8 cfg_cap;	/* offset of the configuration access capability */
	u32 mapped;	/* where the kick ioeventfds are registered; 0: nowhere */
};

/**
 * virtio_plug() - put a device on the bus
 * @v: zeroed, with @features (of its type), @config and @config_len filled in
 * @type: virtio device ID
 * @class_rev: PCI class code and revision 1
 * @loop: where its kicks are served
 *
 * Return: 0, or an exit code after one line on stderr.
 */
int virtio_plug(struct virtio *v, struct vm *vm, const struct virtio_ops *ops, u16 type, u32 class_rev,
		unsigned int nr_queues, struct loop *loop);

/* With the lock held: interrupt for queue @q if its driver wants one. */
void virtio_interrupt(struct virtio *v, unsigned int q);
/* @config is not what it was: tell the driver to read it again. */
void virtio_config_changed(struct virtio *v);
/* The driver broke a rule that cannot be survived: the device asks to be reset. */
void virtio_needs_reset(struct virtio *v);
/* Makes the loop look at the queue again. */
void virtio_poke(struct virtio *v, unsigned int q);
static inline struct vq *virtio_vq(struct virtio *v, unsigned int q) { return &v->queue[q].vq; }
