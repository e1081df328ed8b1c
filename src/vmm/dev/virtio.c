/* SPDX-License-Identifier: MIT */
/*
 * virtio over PCI, "modern" only. [virtio 1.2 "Virtio Over PCI Bus"]
 *
 * BAR 0: common configuration, ISR, device configuration, notification, one page each.
 */
#include "vmm/dev/virtio.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BAR_SIZE 0x4000u
#define AT_COMMON 0x0000u
#define AT_ISR 0x1000u
#define AT_CONFIG 0x2000u
#define AT_NOTIFY 0x3000u
#define NOTIFY_STRIDE 4u

#define FEATURES_COMMON (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX))

enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

static void raise_vector(struct virtio *v, u16 vector, u8 isr)
{
	if (pci_msix_enabled(&v->pci)) {
		if (vector != MSIX_NONE)
			pci_msix_raise(&v->pci, vector);
		return;
	}
	v->isr |= isr;
	pci_intx(&v->pci, true);
}

void virtio_interrupt(struct virtio *v, unsigned int q)
{
	if (vq_should_interrupt(&v->queue[q].vq))
		raise_vector(v, v->queue[q].vector, ISR_QUEUE);
}

void virtio_config_changed(struct virtio *v)
{
	if (v->status & VIRTIO_CONFIG_S_DRIVER_OK)
		raise_vector(v, v->config_vector, ISR_CONFIG);
}

void virtio_needs_reset(struct virtio *v)
{
	if (v->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	v->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	raise_vector(v, v->config_vector, ISR_CONFIG);
}

void virtio_poke(struct virtio *v, unsigned int q)
{
	u64 one = 1;

	if (write(v->queue[q].kick_fd, &one, sizeof(one)) < 0)
		return;	/* the counter is full, so it is readable */
}

static void on_kick(void *arg, u32 events)
{
	struct virtio_queue *q = arg;
	struct virtio *v = q->dev;
	u64 n;

	if (read(q->kick_fd, &n, sizeof(n)) < 0)
		return;
	pthread_mutex_lock(&v->pci.lock);
	if (q->vq.live)
		v->ops->kick(v, q->index);
	if ((v->status & VIRTIO_CONFIG_S_DRIVER_OK) && q->enabled && !q->vq.live)
		virtio_needs_reset(v);
	pthread_mutex_unlock(&v->pci.lock);
}

static void reset(struct virtio *v)
{
	v->status = 0;
	v->isr = 0;
	v->driver_features = 0;
	v->feature_select = v->driver_feature_select = 0;
	v->queue_select = 0;
	v->config_vector = MSIX_NONE;
	for (unsigned int i = 0; i < v->nr_queues; i++) {
		struct virtio_queue *q = &v->queue[i];

		q->size = VQ_SIZE_MAX;
		q->vector = MSIX_NONE;
		q->enabled = false;
		q->desc = q->avail = q->used = 0;
		memset(&q->vq, 0, sizeof(q->vq));
	}
	v->pci.msix_pending = 0;
	pci_intx(&v->pci, false);
	if (v->ops->reset)
		v->ops->reset(v);
}

/* Registers become a checked copy here; what the driver writes to them later changes nothing. */
static void start(struct virtio *v)
{
	bool event_idx = v->driver_features & BIT(VIRTIO_RING_F_EVENT_IDX);

	for (unsigned int i = 0; i < v->nr_queues; i++) {
		struct virtio_queue *q = &v->queue[i];

		if (!q->enabled)
			continue;
		if (!vq_latch(&q->vq, &v->pci.vm->ram, q->size, q->desc, q->avail, q->used, event_idx))
			virtio_needs_reset(v);
		else
			virtio_poke(v, i);
	}
}

static void write_status(struct virtio *v, u8 val)
{
	u8 old = v->status;

	if (!val) {
		reset(v);
		return;
	}
	/* Bits are only ever added; NEEDS_RESET is ours. */
	val = (u8)((val & ~VIRTIO_CONFIG_S_NEEDS_RESET) | old);
	if ((val & ~old) & VIRTIO_CONFIG_S_FEATURES_OK) {
		if (v->driver_features & ~v->features || !(v->driver_features & BIT(VIRTIO_F_VERSION_1)))
			val &= (u8)~VIRTIO_CONFIG_S_FEATURES_OK;
	}
	if (!(val & VIRTIO_CONFIG_S_FEATURES_OK))
		val &= (u8)~VIRTIO_CONFIG_S_DRIVER_OK;
	v->status = val;
	if ((val & ~old) & VIRTIO_CONFIG_S_DRIVER_OK)
		start(v);
}

static void common_snapshot(struct virtio *v, struct virtio_pci_common_cfg *c)
{
	memset(c, 0, sizeof(*c));
	c->device_feature_select = v->feature_select;
	c->device_feature = v->feature_select < 2 ? (u32)(v->features >> (32 * v->feature_select)) : 0;
	c->guest_feature_select = v->driver_feature_select;
	c->guest_feature = v->driver_feature_select < 2 ?
		(u32)(v->driver_features >> (32 * v->driver_feature_select)) : 0;
	c->msix_config = v->config_vector;
	c->num_queues = (u16)v->nr_queues;
	c->device_status = v->status;
	c->queue_select = v->queue_select;
	if (v->queue_select < v->nr_queues) {
		const struct virtio_queue *q = &v->queue[v->queue_select];

		c->queue_size = q->size;
		c->queue_msix_vector = q->vector;
		c->queue_enable = q->enabled;
		c->queue_notify_off = v->queue_select;
		memcpy(&c->queue_desc_lo, &q->desc, 8);
		memcpy(&c->queue_avail_lo, &q->avail, 8);
		memcpy(&c->queue_used_lo, &q->used, 8);
	}
}

static u16 valid_vector(struct virtio *v, u64 val)
{
	return val < v->pci.msix_n ? (u16)val : MSIX_NONE;
}

static void write_features(struct virtio *v, u32 val)
{
	u32 shift = 32 * v->driver_feature_select;

	if (v->driver_feature_select < 2 && !(v->status & VIRTIO_CONFIG_S_FEATURES_OK))
		v->driver_features = (v->driver_features & ~(0xffffffffull << shift)) | (u64)val << shift;
}

static void write_queue(struct virtio *v, u32 off, unsigned int size, u64 val)
{
	struct virtio_queue *q;
	u64 *addr;

	if (v->queue_select >= v->nr_queues)
		return;
	q = &v->queue[v->queue_select];
	if (off == VIRTIO_PCI_COMMON_Q_MSIX) {
		q->vector = valid_vector(v, val);
		return;
	}
	if (q->enabled || (v->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	if (off == VIRTIO_PCI_COMMON_Q_SIZE) {
		q->size = (u16)val;
	} else if (off == VIRTIO_PCI_COMMON_Q_ENABLE) {
		q->enabled = val == 1;
	} else if (off >= VIRTIO_PCI_COMMON_Q_DESCLO && off + size <= VIRTIO_PCI_COMMON_Q_USEDHI + 4 &&
		   !(off & (size - 1)) && size >= 4) {
		if (off < VIRTIO_PCI_COMMON_Q_AVAILLO)
			addr = &q->desc;
		else
			addr = off < VIRTIO_PCI_COMMON_Q_USEDLO ? &q->avail : &q->used;
		memcpy((u8 *)addr + (off & 7), &val, size);
	}
}

static void common_write(struct virtio *v, u32 off, unsigned int size, u64 val)
{
	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		v->feature_select = (u32)val;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		v->driver_feature_select = (u32)val;
		break;
	case VIRTIO_PCI_COMMON_GF:
		write_features(v, (u32)val);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		v->config_vector = valid_vector(v, val);
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		write_status(v, (u8)val);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		v->queue_select = (u16)val;
		break;
	default:
		write_queue(v, off, size, val);
	}
}

static u64 bar_read(struct pci_dev *d, u32 off, unsigned int size)
{
	struct virtio *v = (struct virtio *)d;
	struct virtio_pci_common_cfg c;
	u64 val = 0;

	if (off + size <= AT_COMMON + sizeof(c)) {
		common_snapshot(v, &c);
		memcpy(&val, (u8 *)&c + off, size);
	} else if (off == AT_ISR) {
		val = v->isr;
		v->isr = 0;
		pci_intx(d, false);
	} else if (off >= AT_CONFIG && off - AT_CONFIG + size <= v->config_len) {
		memcpy(&val, v->config + (off - AT_CONFIG), size);
	}
	return val;
}

static void bar_write(struct pci_dev *d, u32 off, unsigned int size, u64 val)
{
	struct virtio *v = (struct virtio *)d;
	u32 q = (off - AT_NOTIFY) / NOTIFY_STRIDE;

	if (off < AT_ISR)
		common_write(v, off, size, val);
	else if (off >= AT_NOTIFY && q < v->nr_queues)
		virtio_poke(v, q);
}

/* Kicks go from the vCPU straight to the device's loop where KVM can do that; without it, bar_write() does. */
static void kicks_at(struct virtio *v, u32 base, bool assign)
{
	for (u32 i = 0; i < v->nr_queues; i++) {
		struct kvm_ioeventfd io = {
			.addr = base + AT_NOTIFY + i * NOTIFY_STRIDE, .len = 2, .fd = v->queue[i].kick_fd,
			.flags = assign ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
		};

		vmm_ioctl_p(v->pci.vm, KVM_IOEVENTFD, &io);
	}
}

static void mapped(struct pci_dev *d, u32 base)
{
	struct virtio *v = (struct virtio *)d;

	if (v->mapped)
		kicks_at(v, v->mapped, false);
	v->mapped = base;
	if (base)
		kicks_at(v, base, true);
}

/*
 * [virtio 1.2 "PCI configuration access capability"]: a window on BAR 0 through configuration space.
 * Returns true when the window's data register is meant and its address is good.
 */
static bool cfg_window(struct virtio *v, u32 off, u32 *bar_off, u32 *len)
{
	const u8 *cap = v->pci.cfg + v->cfg_cap;

	if (off != v->cfg_cap + sizeof(struct virtio_pci_cap))
		return false;
	memcpy(bar_off, cap + VIRTIO_PCI_CAP_OFFSET, 4);
	memcpy(len, cap + VIRTIO_PCI_CAP_LENGTH, 4);
	return cap[VIRTIO_PCI_CAP_BAR] == 0 && (*len == 1 || *len == 2 || *len == 4) && !(*bar_off & (*len - 1)) &&
	       *bar_off <= BAR_SIZE - *len;
}

static bool cfg_read(struct pci_dev *d, u32 off, unsigned int size, u32 *val)
{
	u32 bar_off, len;

	if (!cfg_window((struct virtio *)d, off, &bar_off, &len))
		return false;
	*val = (u32)bar_read(d, bar_off, len);
	return true;
}

static void cfg_write(struct pci_dev *d, u32 off, unsigned int size, u32 val)
{
	u32 bar_off, len;

	if (cfg_window((struct virtio *)d, off, &bar_off, &len))
		bar_write(d, bar_off, len, val);
}

static const struct pci_ops pci_ops = {
	.read = bar_read,
	.write = bar_write,
	.mapped = mapped,
	.cfg_read = cfg_read,
	.cfg_write = cfg_write,
};

static u8 add_cap(struct virtio *v, u8 type, u32 off, u32 len, u32 extra)
{
	u8 size = (u8)(sizeof(struct virtio_pci_cap) + (extra ? 4 : 0));
	struct virtio_pci_cap cap = { .cap_len = size, .cfg_type = type, .offset = off, .length = len };
	u8 at = pci_add_cap(&v->pci, PCI_CAP_ID_VNDR, size);

	memcpy(v->pci.cfg + at + 2, (u8 *)&cap + 2, sizeof(cap) - 2);
	if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
		memcpy(v->pci.cfg + at + sizeof(cap), &extra, 4);
	return at;
}

static int add_queue(struct virtio *v, unsigned int i)
{
	struct virtio_queue *q = &v->queue[i];

	q->dev = v;
	q->index = i;
	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->kick_fd < 0 || !loop_add(v->loop, q->kick_fd, EPOLLIN, on_kick, q))
		return vmm_error(EXIT_HOST, "virtio: cannot watch a queue: too many devices or open files");
	return 0;
}

int virtio_plug(struct virtio *v, struct vm *vm, const struct virtio_ops *ops, u16 type, u32 class_rev,
		unsigned int nr_queues, struct loop *loop)
{
	v->ops = ops;
	v->loop = loop;
	v->nr_queues = nr_queues;
	v->features |= FEATURES_COMMON;
	for (unsigned int i = 0; i < nr_queues; i++) {
		int rc = add_queue(v, i);

		if (rc)
			return rc;
	}
	/* Vendor 1AF4h; device 1040h + type; subsystem 40h and up says "not transitional". */
	pci_dev_init(&v->pci, vm, &pci_ops, 0x1af4, (u16)(0x1040 + type), class_rev, (u16)(0x40 + type));
	pci_set_bar(&v->pci, 0, BAR_SIZE);
	pci_add_msix(&v->pci, nr_queues + 1);
	add_cap(v, VIRTIO_PCI_CAP_COMMON_CFG, AT_COMMON, sizeof(struct virtio_pci_common_cfg), 0);
	add_cap(v, VIRTIO_PCI_CAP_ISR_CFG, AT_ISR, 1, 0);
	if (v->config_len)
		add_cap(v, VIRTIO_PCI_CAP_DEVICE_CFG, AT_CONFIG, v->config_len, 0);
	add_cap(v, VIRTIO_PCI_CAP_NOTIFY_CFG, AT_NOTIFY, nr_queues * NOTIFY_STRIDE, NOTIFY_STRIDE);
	v->cfg_cap = add_cap(v, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 1);
	memset(v->pci.wmask + v->cfg_cap + VIRTIO_PCI_CAP_BAR, 0xff, 1);
	memset(v->pci.wmask + v->cfg_cap + VIRTIO_PCI_CAP_OFFSET, 0xff, 12);
	if (!pci_plug(&v->pci))
		return vmm_error(EXIT_USAGE, "too many devices for one PCI bus");
	reset(v);
	return 0;
}
