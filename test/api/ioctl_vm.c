/* SPDX-License-Identifier: MIT */
/*
 * The ioctls of a VM: creation, memory, buses, time. Chips: ioctl_chip.c.
 */
#include <sys/eventfd.h>

#include "ioctl.h"

/* ---- life --------------------------------------------------------------------------------------------- */

void t_vm_create_vcpu(void)
{
	int vm = bare_vm(NO_CHIP), max = call(vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	int ids = call(vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID), made = 0;

	is_errno(call(vm, KVM_CREATE_VCPU, ids), EINVAL, "an id that is too large");
	is_errno(call(vm, KVM_CREATE_VCPU, -1), EINVAL, "a negative one");
	ok(call(vm, KVM_CREATE_VCPU, 7) >= 0, "any id below, in any order");
	is_errno(call(vm, KVM_CREATE_VCPU, 7), EEXIST, "the same again");
	ok(call(vm, KVM_CREATE_VCPU, ids - 1) >= 0, "the largest");
	for (int id = 100; id < 100 + max; id++)
		made += call(vm, KVM_CREATE_VCPU, id) >= 0;
	is(made, max - 2, "KVM_CAP_MAX_VCPUS of them");
	is_errno(call(vm, KVM_CREATE_VCPU, 1), EINVAL, "and no more");
}

void t_vm_check_extension(void)
{
	int vm = bare_vm(NO_CHIP);

	is(call(vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQ_ROUTING), 4096, "KVM_CAP_IRQ_ROUTING");
	is(call(vm, KVM_CHECK_EXTENSION, 100000), 0, "one that does not exist");
}

void t_vm_enable_cap(void)
{
	struct kvm_enable_cap c = { .cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = { 1 } };
	int vm = bare_vm(NO_CHIP);

	is(call(vm, KVM_ENABLE_CAP, &c), 0, "KVM_CAP_EXCEPTION_PAYLOAD");
	c.flags = 1;
	is_errno(call(vm, KVM_ENABLE_CAP, &c), EINVAL, "flags");
	c = (struct kvm_enable_cap){ .cap = KVM_CAP_USER_MEMORY };
	is_errno(call(vm, KVM_ENABLE_CAP, &c), EINVAL, "a capability that is not enabled");
	c.cap = 100000;
	is_errno(call(vm, KVM_ENABLE_CAP, &c), EINVAL, "one that does not exist");
	/* each one that can be: cap.c */
}

void t_vm_create_device(void)
{
	struct kvm_create_device d = { .type = 1000 };
	int vm = bare_vm(NO_CHIP);

	is_errno(call(vm, KVM_CREATE_DEVICE, &d), ENODEV, "a type that does not exist");
	d.type = KVM_DEV_TYPE_VFIO;
	d.flags = KVM_CREATE_DEVICE_TEST;
	is_errno(call(vm, KVM_CREATE_DEVICE, &d), ENODEV, "VFIO needs a kernel");
}

static void stats(int fd)
{
	struct kvm_stats_header h;
	struct kvm_stats_desc d;
	uint64_t val;

	ok(fd >= 0, "a descriptor");
	is(read(fd, &h, sizeof(h)), sizeof(h), "header");
	ok(h.num_desc > 0 && h.data_offset >= h.desc_offset, "%u counters", h.num_desc);
	is(pread(fd, &d, sizeof(d), h.desc_offset), sizeof(d), "first descriptor");
	is(pread(fd, &val, sizeof(val), h.data_offset + d.offset), sizeof(val), "its value");
	is_errno(call(fd, KVM_CHECK_EXTENSION, 0), ENOTTY, "it has no ioctls");
}

void t_vm_get_stats_fd(void)
{
	int vm = bare_vm(NO_CHIP), fd = call(vm, KVM_GET_STATS_FD, 0);

	stats(fd);
	casement_close(vm);
	char c;

	is(pread(fd, &c, 1, 0), 1, "readable after the VM's descriptor is closed");
}

void t_vcpu_get_stats_fd(void)
{
	stats(call(open_vcpu(bare_vm(NO_CHIP), 0), KVM_GET_STATS_FD, 0));
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

void t_vm_set_user_memory_region(void)
{
	int vm = bare_vm(NO_CHIP);
	uint8_t *m = new_memory(0x10000);
	uint32_t slots = (uint32_t)call(vm, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);

	is(set_slot(vm, 0, 0, 0, 0x4000, m), 0, "a slot");
	is(set_slot(vm, slots - 1, 0, 0x100000, 0x1000, m), 0, "the last one");
	is(set_slot(vm, 1 << 16, 0, 0, 0x4000, m), 0, "address space 1 is separate");
	is_errno(set_slot(vm, slots, 0, 0x200000, 0x1000, m), EINVAL, "slot number");
	is_errno(set_slot(vm, 2 << 16, 0, 0x200000, 0x1000, m), EINVAL, "address space");
	is_errno(set_slot(vm, 1, 4, 0x200000, 0x1000, m), EINVAL, "flags");
	is_errno(set_slot(vm, 1, 0, 0x200000, 0x1001, m), EINVAL, "size");
	is_errno(set_slot(vm, 1, 0, 0x200001, 0x1000, m), EINVAL, "guest address");
	is_errno(set_slot(vm, 1, 0, 0x200000, 0x1000, m + 1), EINVAL, "host address");
	is_errno(set_slot(vm, 1, 0, 0x200000, 0x1000, (void *)0x7ffffffff000), EINVAL, "host address of the kernel");
	is_errno(set_slot(vm, 1, 0, 0xfffffffffffff000, 0x2000, m), EINVAL, "past the end of addresses");
	is_errno(set_slot(vm, 1, 0, 0x3000, 0x1000, m), EEXIST, "overlap");
	is_errno(set_slot(vm, 1, 0, 0x200000, 0, m), EINVAL, "deleting a slot that is not there");
	is_errno(set_slot(vm, 0, 0, 0, 0x5000, m), EINVAL, "another size");
	is_errno(set_slot(vm, 0, 0, 0, 0x4000, m + 0x1000), EINVAL, "another host address");
	is_errno(set_slot(vm, 0, KVM_MEM_READONLY, 0, 0x4000, m), EINVAL, "turning read-only");
	is(set_slot(vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, 0x4000, m), 0, "turning the log on");
	is(set_slot(vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0x8000, 0x4000, m), 0, "moving");
	is(set_slot(vm, 0, 0, 0x8000, 0, m), 0, "deleting");
}

static int get_log(int vm, uint32_t slot, void *bitmap)
{
	struct kvm_dirty_log l = { .slot = slot, .dirty_bitmap = bitmap };

	return call(vm, KVM_GET_DIRTY_LOG, &l);
}

/* mov [3000h],al; hlt, with the log of the only slot on */
static void logging_guest(struct guest *g)
{
	NEW_GUEST(g, NO_CHIP, 0xa2, 0, 0x30, 0xf4);
	need(set_slot(g->vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, MEM_SIZE, g->mem), "log");
}

void t_vm_get_dirty_log(void)
{
	uint64_t map[MEM_SIZE / 4096 / 64];
	struct guest g;

	small_guest(&g, NO_CHIP);
	is_errno(get_log(g.vm, 0, map), ENOENT, "a slot without log");
	free_guest(&g);
	logging_guest(&g);
	is_errno(get_log(g.vm, 1, map), ENOENT, "a slot that is not there");
	is_errno(get_log(g.vm, 40000, map), EINVAL, "slot number");
	is_errno(get_log(g.vm, 5 << 16, map), EINVAL, "address space");
	is(run(&g), 0, "run");
	is_errno(get_log(g.vm, 0, BAD), EFAULT, "unwritable bitmap");
	get_log(g.vm, 0, map);
	g.mem[0x5000] = 1;
	restart(&g);
	is(run(&g), 0, "run again");
	is(get_log(g.vm, 0, map), 0, "the log");
	is(map[0], 1 << 3, "the guest's page, and not the caller's");
	is(get_log(g.vm, 0, map), 0, "again");
	is(map[0], 0, "fetching clears");
	restart(&g);
	run(&g);
	get_log(g.vm, 0, map);
	is(map[0], 1 << 3, "and the next store is seen");
	free_guest(&g);
}

static int clear_log(int vm, uint32_t slot, uint64_t first, uint32_t n, void *bitmap)
{
	struct kvm_clear_dirty_log l = { .slot = slot, .first_page = first, .num_pages = n, .dirty_bitmap = bitmap };

	return call(vm, KVM_CLEAR_DIRTY_LOG, &l);
}

void t_vm_clear_dirty_log(void)
{
	uint64_t map[MEM_SIZE / 4096 / 64];
	struct guest g;

	logging_guest(&g);
	is(enable(g.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1), 0, "manual protection");
	run(&g);
	get_log(g.vm, 0, map);
	is(map[0], 1 << 3, "logged");
	get_log(g.vm, 0, map);
	is(map[0], 1 << 3, "fetching does not clear");
	is_errno(clear_log(g.vm, 0, 1, 64, map), EINVAL, "first page no multiple of 64");
	is_errno(clear_log(g.vm, 0, 0, 65, map), EINVAL, "number of pages no multiple of 64");
	is_errno(clear_log(g.vm, 0, 64, 4096, map), EINVAL, "past the end");
	is_errno(clear_log(g.vm, 0, 1 << 20, 64, map), EINVAL, "begins past the end");
	is_errno(clear_log(g.vm, 1, 0, 64, map), ENOENT, "a slot that is not there");
	is_errno(clear_log(g.vm, 40000, 0, 64, map), EINVAL, "slot number");
	is_errno(clear_log(g.vm, 0, 0, 64, BAD), EFAULT, "unreadable bitmap");
	is(clear_log(g.vm, 0, 0, 64, map), 0, "clear");
	get_log(g.vm, 0, map);
	is(map[0], 0, "cleared");
	free_guest(&g);
}

void t_vm_reset_dirty_rings(void)
{
	is_errno(call(bare_vm(NO_CHIP), KVM_RESET_DIRTY_RINGS, 0), EINVAL, "no dirty ring was asked for");
}

void t_vm_set_tss_addr(void)
{
	int vm = bare_vm(NO_CHIP);

	is(call(vm, KVM_SET_TSS_ADDR, 0xfffbd000), 0, "below 4 GiB");
	is(call(vm, KVM_SET_TSS_ADDR, 0xffffd000), 0, "the last one");
	is_errno(call(vm, KVM_SET_TSS_ADDR, 0xffffd001), EINVAL, "three pages do not fit");
	is_errno(call(vm, KVM_SET_TSS_ADDR, 0x100000000), EINVAL, "above 4 GiB");
}

void t_vm_set_identity_map_addr(void)
{
	uint64_t addr = 0xfeffc000;
	int vm = bare_vm(NO_CHIP);

	is(call(vm, KVM_SET_IDENTITY_MAP_ADDR, &addr), 0, "an address");
	is_errno(call(vm, KVM_SET_IDENTITY_MAP_ADDR, BAD), EFAULT, "unreadable");
	open_vcpu(vm, 0);
	is_errno(call(vm, KVM_SET_IDENTITY_MAP_ADDR, &addr), EINVAL, "after the first vCPU");
}

void t_vm_set_nr_mmu_pages(void)
{
	int vm = bare_vm(NO_CHIP);

	is_errno(call(vm, KVM_SET_NR_MMU_PAGES, 63), EINVAL, "fewer than 64");
	is(call(vm, KVM_SET_NR_MMU_PAGES, 64), 0, "64");
}

void t_vm_get_nr_mmu_pages(void)
{
	int vm = bare_vm(NO_CHIP);

	call(vm, KVM_SET_NR_MMU_PAGES, 1000);
	is(call(vm, KVM_GET_NR_MMU_PAGES, 0), 1000, "as set");
}

void t_vm_set_boot_cpu_id(void)
{
	struct kvm_mp_state mp;
	int vm = bare_vm(FULL_CHIP), a, b;

	is(call(vm, KVM_SET_BOOT_CPU_ID, 1), 0, "before the first vCPU");
	a = open_vcpu(vm, 0);
	b = open_vcpu(vm, 1);
	is_errno(call(vm, KVM_SET_BOOT_CPU_ID, 0), EBUSY, "after it");
	call(a, KVM_GET_MP_STATE, &mp);
	is(mp.mp_state, KVM_MP_STATE_UNINITIALIZED, "vCPU 0 waits");
	call(b, KVM_GET_MP_STATE, &mp);
	is(mp.mp_state, KVM_MP_STATE_RUNNABLE, "vCPU 1 boots");
}

/* ---- buses ------------------------------------------------------------------------------------------------ */

static int ioevent(int vm, int fd, uint64_t addr, uint32_t len, uint32_t flags, uint64_t match)
{
	struct kvm_ioeventfd e = { .fd = fd, .addr = addr, .len = len, .flags = flags, .datamatch = match };

	return call(vm, KVM_IOEVENTFD, &e);
}

void t_vm_ioeventfd(void)
{
	uint32_t pio = KVM_IOEVENTFD_FLAG_PIO, del = KVM_IOEVENTFD_FLAG_DEASSIGN, match = KVM_IOEVENTFD_FLAG_DATAMATCH;
	int fd = eventfd(0, EFD_NONBLOCK), other = eventfd(0, 0);
	struct guest g;
	uint64_t n;

	small_guest(&g, NO_CHIP);
	is_errno(ioevent(g.vm, fd, 0x10, 3, pio, 0), EINVAL, "length");
	is_errno(ioevent(g.vm, fd, ~0ull, 4, 0, 0), EINVAL, "wraps");
	is_errno(ioevent(g.vm, fd, 0x10, 1, pio | 1 << 8, 0), EINVAL, "flags");
	is_errno(ioevent(g.vm, fd, 0x10, 0, pio | match, 0), EINVAL, "data match without length");
	is_errno(ioevent(g.vm, -1, 0x10, 1, pio, 0), EBADF, "no descriptor");
	is_errno(ioevent(g.vm, g.vm, 0x10, 1, pio, 0), EINVAL, "not an eventfd");
	is_errno(ioevent(g.vm, fd, 0x10, 1, pio | del, 0), ENOENT, "taking away what is not there");
	is(ioevent(g.vm, fd, 0x10, 1, pio | match, 1), 0, "port 10h, value 1");
	is_errno(ioevent(g.vm, other, 0x10, 1, pio | match, 1), EEXIST, "twice");
	is(ioevent(g.vm, other, 0x10, 1, pio | match, 2), 0, "another value");
	is(ioevent(g.vm, other, 0x10, 1, match, 1), 0, "the same in memory");
	is(run(&g), 0, "OUT 10h");
	is(g.run->exit_reason, KVM_EXIT_HLT, "does not exit");
	ok(read(fd, &n, 8) == 8 && n == 1, "the eventfd has been signalled once");
	is(ioevent(g.vm, fd, 0x10, 1, pio | match | del, 1), 0, "taken away");
	restart(&g);
	run(&g);
	is(g.run->exit_reason, KVM_EXIT_IO, "exits again");
	free_guest(&g);
}

void t_vm_register_coalesced_mmio(void)
{
	struct kvm_coalesced_mmio_zone z = { .addr = 0x10, .size = 4, .pio = 1 };
	struct kvm_coalesced_mmio_ring *ring;
	struct guest g;

	small_guest(&g, NO_CHIP);
	ring = (void *)((char *)g.run + 4096 * call(g.sys, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO));
	z.pio = 2;
	is_errno(call(g.vm, KVM_REGISTER_COALESCED_MMIO, &z), EINVAL, "pio is 0 or 1");
	z.pio = 1;
	is(call(g.vm, KVM_REGISTER_COALESCED_MMIO, &z), 0, "ports 10h to 13h");
	is(run(&g), 0, "OUT");
	is(g.run->exit_reason, KVM_EXIT_HLT, "does not exit");
	is(ring->last, 1, "the ring has it");
	ok(ring->coalesced_mmio[0].phys_addr == 0x10 && ring->coalesced_mmio[0].len == 1 &&
	   ring->coalesced_mmio[0].data[0] == 1, "with its data");
	free_guest(&g);
}

void t_vm_unregister_coalesced_mmio(void)
{
	struct kvm_coalesced_mmio_zone z = { .addr = 0x10, .size = 4, .pio = 1 };
	struct guest g;

	small_guest(&g, NO_CHIP);
	is(call(g.vm, KVM_UNREGISTER_COALESCED_MMIO, &z), 0, "a zone that is not there is no error");
	call(g.vm, KVM_REGISTER_COALESCED_MMIO, &z);
	is(call(g.vm, KVM_UNREGISTER_COALESCED_MMIO, &z), 0, "one that is");
	run(&g);
	is(g.run->exit_reason, KVM_EXIT_IO, "OUT exits again");
	z.pio = 7;
	is_errno(call(g.vm, KVM_UNREGISTER_COALESCED_MMIO, &z), EINVAL, "pio is 0 or 1");
	free_guest(&g);
}

/* ---- time ----------------------------------------------------------------------------------------------------- */

void t_vm_get_clock(void)
{
	struct kvm_clock_data a, b;
	int vm = bare_vm(NO_CHIP);

	is(call(vm, KVM_GET_CLOCK, &a), 0, "call");
	is(call(vm, KVM_GET_CLOCK, &b), 0, "again");
	ok(b.clock >= a.clock && b.clock < a.clock + 1000000000ull, "it goes forward");
	is(a.flags, KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC, "flags");
}

void t_vm_set_clock(void)
{
	struct kvm_clock_data d = { .clock = 1ull << 40 };
	int vm = bare_vm(NO_CHIP);

	is(call(vm, KVM_SET_CLOCK, &d), 0, "call");
	call(vm, KVM_GET_CLOCK, &d);
	ok(d.clock >= 1ull << 40 && d.clock < (1ull << 40) + 1000000000ull, "goes on from there");
	d.flags = 0x80;
	is_errno(call(vm, KVM_SET_CLOCK, &d), EINVAL, "flags");
}

void t_vm_set_tsc_khz(void)
{
	int vm = bare_vm(NO_CHIP), vcpu;

	is(call(vm, KVM_SET_TSC_KHZ, 1000000), 0, "1 GHz");
	vcpu = open_vcpu(vm, 0);
	is(call(vcpu, KVM_GET_TSC_KHZ, 0), 1000000, "vCPUs created from now on have it");
	is_errno(call(vm, KVM_SET_TSC_KHZ, 0x80000000), EINVAL, "more than can be scaled");
}

void t_vm_get_tsc_khz(void)
{
	int vm = bare_vm(NO_CHIP), host = call(vm, KVM_GET_TSC_KHZ, 0);

	ok(host > 100000, "the host's at first: %d", host);
	call(vm, KVM_SET_TSC_KHZ, 1000000);
	is(call(vm, KVM_GET_TSC_KHZ, 0), 1000000, "as set");
	call(vm, KVM_SET_TSC_KHZ, 0);
	is(call(vm, KVM_GET_TSC_KHZ, 0), host, "0 means the host's");
}

void t_vm_set_msr_filter(void)
{
	uint8_t bitmap[8] = { 0xfe };
	struct kvm_msr_filter f = { .ranges[0] = { .flags = KVM_MSR_FILTER_READ, .nmsrs = 8, .base = 0x174,
						   .bitmap = bitmap } };
	struct kvm_msr_filter bad;
	struct guest g;

	/* mov ecx,174h; rdmsr; hlt */
	NEW_GUEST(&g, NO_CHIP, 0x66, 0xb9, 0x74, 1, 0, 0, 0x0f, 0x32, 0xf4);
	bad = f;
	bad.flags = 2;
	is_errno(call(g.vm, KVM_X86_SET_MSR_FILTER, &bad), EINVAL, "flags");
	bad = f;
	bad.ranges[0].flags = 4;
	is_errno(call(g.vm, KVM_X86_SET_MSR_FILTER, &bad), EINVAL, "a range's flags");
	bad.ranges[0].flags = 0;
	is_errno(call(g.vm, KVM_X86_SET_MSR_FILTER, &bad), EINVAL, "a range without read or write");
	bad = f;
	bad.ranges[0].nmsrs = 0x3001;
	is_errno(call(g.vm, KVM_X86_SET_MSR_FILTER, &bad), EINVAL, "too large a bitmap");
	bad = f;
	bad.ranges[0].bitmap = BAD;
	is_errno(call(g.vm, KVM_X86_SET_MSR_FILTER, &bad), EFAULT, "unreadable bitmap");
	bad = (struct kvm_msr_filter){ .flags = KVM_MSR_FILTER_DEFAULT_DENY };
	is_errno(call(g.vm, KVM_X86_SET_MSR_FILTER, &bad), EINVAL, "deny everything, without ranges");
	is(call(g.vm, KVM_X86_SET_MSR_FILTER, &f), 0, "deny reading 174h");
	is(enable(g.vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER), 0, "and tell user space");
	is(run(&g), 0, "RDMSR");
	is(g.run->exit_reason, KVM_EXIT_X86_RDMSR, "exits");
	is(g.run->msr.index, 0x174, "index");
	is(g.run->msr.reason, KVM_MSR_EXIT_REASON_FILTER, "reason");
	g.run->msr.data = 0x1234;
	is(run(&g), 0, "answered");
	struct kvm_regs r;

	call(g.vcpu, KVM_GET_REGS, &r);
	is(r.rax, 0x1234, "EAX has the answer");
	f = (struct kvm_msr_filter){ 0 };
	is(call(g.vm, KVM_X86_SET_MSR_FILTER, &f), 0, "no filter any more");
	restart(&g);
	is(run(&g), 0, "RDMSR");
	is(g.run->exit_reason, KVM_EXIT_HLT, "does not exit");
	free_guest(&g);
}
