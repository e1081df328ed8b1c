/* SPDX-License-Identifier: MIT */
/*
 * Asks a KVM a long list of plain questions and prints one line for each answer: "NAME RESULT ERRNO [VALUE]".
 * test/oracle/run compares the lines of Linux's own KVM, nested in an emulator, with those of Casement.
 * Nothing here may depend on time, on addresses or on the host processor's model.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int dev, vm, vcpu;
static struct kvm_run *run;
static uint8_t *ram;
#define RAM_SIZE 0x200000ul

static const char *errno_name(int e)
{
	static const struct {
		int e;
		const char *name;
	} names[] = {
#define E(x) { x, #x }
		E(EPERM),      E(ENOENT), E(EINTR), E(ENXIO),  E(E2BIG),  E(EBADF),  E(EAGAIN),
		E(ENOMEM),     E(EFAULT), E(EBUSY), E(EEXIST), E(EINVAL), E(ENOTTY), E(ENOSPC),
		E(EOPNOTSUPP), E(ENOSYS), E(EIO),   E(ENODEV), E(ERANGE), E(EACCES), E(ENODATA),
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].e == e)
			return names[i].name;
	return "E?";
}

/* Prints an answer; fds that come back are closed, and count as 0. */
__attribute__((format(printf, 2, 3))) static void say(long ret, const char *fmt, ...)
{
	int e = errno;
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	if (ret < 0)
		printf(" = %s\n", errno_name(e));
	else
		printf(" = %ld\n", ret);
	fflush(stdout);
	errno = 0;
}
#define ask(fd, req, arg, ...) say(ioctl((fd), (req), (arg)), __VA_ARGS__)

static void ask_fd(int fd, const char *what)
{
	say(fd < 0 ? -1 : 0, "%s", what);
	if (fd >= 0)
		close(fd);
}

static void new_vm(bool irqchip)
{
	struct kvm_userspace_memory_region r = { .memory_size = RAM_SIZE };

	if (vm > 0) {
		munmap(run, (size_t)ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0));
		close(vcpu);
		close(vm);
	}
	memset(ram, 0, RAM_SIZE);
	r.userspace_addr = (uintptr_t)ram;
	vm = ioctl(dev, KVM_CREATE_VM, 0);
	ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul);
	if (irqchip)
		ioctl(vm, KVM_CREATE_IRQCHIP, 0);
	ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	run = mmap(NULL, (size_t)ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu, 0);
	errno = 0;
}

/* Real-mode code at 0:7c00. */
static void code(const char *bytes, size_t n, uint64_t rax, uint64_t rdx)
{
	struct kvm_sregs s;
	struct kvm_regs r = { .rip = 0x7c00, .rflags = 2, .rax = rax, .rdx = rdx, .rsp = 0x7000 };

	memcpy(ram + 0x7c00, bytes, n);
	ioctl(vcpu, KVM_GET_SREGS, &s);
	s.cs.base = s.ds.base = 0;
	s.cs.selector = s.ds.selector = 0;
	ioctl(vcpu, KVM_SET_SREGS, &s);
	ioctl(vcpu, KVM_SET_REGS, &r);
}
#define CODE(text, rax, rdx) code(text, sizeof(text) - 1, rax, rdx)

static long go(const char *name)
{
	struct kvm_regs r;
	long ret = ioctl(vcpu, KVM_RUN, 0);

	say(ret, "%s: KVM_RUN", name);
	ioctl(vcpu, KVM_GET_REGS, &r);
	if (!ret)
		printf("%s: exit %u rip %llx rax %llx rcx %llx flags %llx\n", name,
		       run->exit_reason, r.rip, r.rax, r.rcx, r.rflags);
	return ret;
}

static void system_questions(void)
{
	struct {
		struct kvm_msr_list l;
		uint32_t i[1000];
	} msrs = { .l.nmsrs = 0 };
	struct {
		struct kvm_cpuid2 c;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = { .c.nent = 1 };
	static const int caps[] = {
		KVM_CAP_IRQCHIP,
		KVM_CAP_HLT,
		KVM_CAP_USER_MEMORY,
		KVM_CAP_SET_TSS_ADDR,
		KVM_CAP_EXT_CPUID,
		KVM_CAP_PIT,
		KVM_CAP_PIT2,
		KVM_CAP_PIT_STATE2,
		KVM_CAP_MP_STATE,
		KVM_CAP_COALESCED_MMIO,
		KVM_CAP_COALESCED_PIO,
		KVM_CAP_SYNC_MMU,
		KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
		KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
		KVM_CAP_IRQ_ROUTING,
		KVM_CAP_IRQ_INJECT_STATUS,
		KVM_CAP_SET_BOOT_CPU_ID,
		KVM_CAP_IOEVENTFD,
		KVM_CAP_IRQFD,
		KVM_CAP_IRQFD_RESAMPLE,
		KVM_CAP_SET_IDENTITY_MAP_ADDR,
		KVM_CAP_VCPU_EVENTS,
		KVM_CAP_DEBUGREGS,
		KVM_CAP_X86_ROBUST_SINGLESTEP,
		KVM_CAP_SET_GUEST_DEBUG,
		KVM_CAP_XCRS,
		KVM_CAP_XSAVE,
		KVM_CAP_IMMEDIATE_EXIT,
		KVM_CAP_SIGNAL_MSI,
		KVM_CAP_SPLIT_IRQCHIP,
		KVM_CAP_IOEVENTFD_ANY_LENGTH,
		KVM_CAP_IOEVENTFD_NO_LENGTH,
		KVM_CAP_READONLY_MEM,
		KVM_CAP_ENABLE_CAP_VM,
		KVM_CAP_KVMCLOCK_CTRL,
		KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		KVM_CAP_X86_USER_SPACE_MSR,
		KVM_CAP_X86_MSR_FILTER,
		KVM_CAP_EXCEPTION_PAYLOAD,
		KVM_CAP_GET_MSR_FEATURES,
		KVM_CAP_MSR_PLATFORM_INFO,
		KVM_CAP_SYNC_REGS,
		KVM_CAP_MAX_VCPU_ID,
		KVM_CAP_BINARY_STATS_FD,
		KVM_CAP_SREGS2,
		KVM_CAP_VCPU_ATTRIBUTES,
		KVM_CAP_VM_ATTRIBUTES,
		KVM_CAP_SYS_ATTRIBUTES,
		KVM_CAP_USER_NMI,
		KVM_CAP_X86_TRIPLE_FAULT_EVENT,
		KVM_CAP_REINJECT_CONTROL,
		KVM_CAP_INTERNAL_ERROR_DATA,
		KVM_CAP_TSC_DEADLINE_TIMER,
		KVM_CAP_CHECK_EXTENSION_VM,
		KVM_CAP_ARM_PSCI,
		KVM_CAP_S390_PSW,
		KVM_CAP_PPC_SMT,
	};

	ask(dev, KVM_GET_API_VERSION, 0, "api version");
	ask(dev, KVM_GET_API_VERSION, 1, "api version with an argument");
	ask_fd(ioctl(dev, KVM_CREATE_VM, 0), "create vm");
	ask_fd(ioctl(dev, KVM_CREATE_VM, 1), "create vm of type 1");
	ask(dev, KVM_GET_VCPU_MMAP_SIZE, 0, "mmap size");
	ask(dev, KVM_GET_VCPU_MMAP_SIZE, 1, "mmap size with an argument");
	ask(dev, KVM_CREATE_VCPU, 0, "create vcpu on the system");
	ask(dev, KVM_RUN, 0, "run on the system");
	ask(dev, KVM_CHECK_EXTENSION, 9999, "an unknown capability");
	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
		ask(dev, KVM_CHECK_EXTENSION, caps[i], "cap %d", caps[i]);
	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
		ask(vm, KVM_CHECK_EXTENSION, caps[i], "vm cap %d", caps[i]);
	ask(dev, KVM_GET_MSR_INDEX_LIST, &msrs, "msr list, no room");
	printf("msr list wants room: %d\n", msrs.l.nmsrs > 20);
	ask(dev, KVM_GET_MSR_INDEX_LIST, &msrs, "msr list");
	ask(dev, KVM_GET_MSR_INDEX_LIST, 8, "msr list, bad pointer");
	msrs.l.nmsrs = 0;
	ask(dev, KVM_GET_MSR_FEATURE_INDEX_LIST, &msrs, "feature msr list, no room");
	ask(dev, KVM_GET_MSR_FEATURE_INDEX_LIST, &msrs, "feature msr list");
	ask(dev, KVM_GET_SUPPORTED_CPUID, &cpuid, "supported cpuid, no room");
	cpuid.c.nent = 256;
	ask(dev, KVM_GET_SUPPORTED_CPUID, &cpuid, "supported cpuid");
	printf("supported cpuid: leaf 0 first: %d\n", cpuid.e[0].function == 0);
	cpuid.c.nent = 10000;
	ask(dev, KVM_GET_SUPPORTED_CPUID, &cpuid, "supported cpuid, silly room");
	ask(dev, KVM_GET_SUPPORTED_CPUID, 8, "supported cpuid, bad pointer");
	ask(dev, KVM_SET_CPUID2, &cpuid, "set cpuid on the system");
	ask(dev, 0xae7f, 0, "an unknown request on the system");
	ask(vm, 0xae7f, 0, "an unknown request on a vm");
	ask(vcpu, 0xae7f, 0, "an unknown request on a vcpu");
	say(mmap(NULL, 4096, PROT_READ, MAP_SHARED, dev, 0) == MAP_FAILED ? -1 : 0,
	    "mmap of the system");
	say(mmap(NULL, 4096, PROT_READ, MAP_SHARED, vm, 0) == MAP_FAILED ? -1 : 0, "mmap of a vm");
}

static void slot(const char *what, uint32_t id, uint32_t flags, uint64_t gpa, uint64_t size,
		 void *at)
{
	struct kvm_userspace_memory_region r = { id, flags, gpa, size, (uintptr_t)at };

	ask(vm, KVM_SET_USER_MEMORY_REGION, &r, "slot: %s", what);
}

static void slot_questions(void)
{
	uint8_t *m =
		mmap(NULL, 0x100000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t bitmap[64] = { 0 };
	struct kvm_dirty_log log = { .slot = 7, .dirty_bitmap = bitmap };
	struct kvm_clear_dirty_log clear = { .slot = 5, .num_pages = 64, .dirty_bitmap = bitmap };

	new_vm(false);
	slot("size not a page", 5, 0, 0x1000000, 0x1234, m);
	slot("address not a page", 5, 0, 0x1000010, 0x1000, m);
	slot("host address not a page", 5, 0, 0x1000000, 0x1000, m + 1);
	slot("unknown flag", 5, 1u << 20, 0x1000000, 0x1000, m);
	slot("id too big", 0xffff, 0, 0x1000000, 0x1000, m);
	slot("unknown address space", 7u << 16 | 5, 0, 0x1000000, 0x1000, m);
	slot("wraps", 5, 0, ~0xfffull, 0x2000, m);
	slot("delete one that is not there", 5, 0, 0x1000000, 0, m);
	slot("overlap with ram", 5, 0, 0x1000, 0x1000, m);
	slot("create", 5, 0, 0x1000000, 0x10000, m);
	slot("create again, same", 5, 0, 0x1000000, 0x10000, m);
	slot("grow", 5, 0, 0x1000000, 0x20000, m);
	slot("other host memory", 5, 0, 0x1000000, 0x10000, m + 0x10000);
	slot("move", 5, 0, 0x2000000, 0x10000, m);
	slot("move onto ram", 5, 0, 0x1000, 0x10000, m);
	slot("set the log flag", 5, KVM_MEM_LOG_DIRTY_PAGES, 0x2000000, 0x10000, m);
	slot("read-only is not a change of flags", 5, KVM_MEM_READONLY, 0x2000000, 0x10000, m);
	slot("another, adjacent", 6, KVM_MEM_READONLY, 0x2010000, 0x10000, m + 0x10000);
	slot("a neighbour that overlaps by a page", 8, 0, 0x200f000, 0x1000, m);
	ask(vm, KVM_GET_DIRTY_LOG, &log, "dirty log of no slot");
	log.slot = 6;
	ask(vm, KVM_GET_DIRTY_LOG, &log, "dirty log of a slot without log");
	log.slot = 5;
	ask(vm, KVM_GET_DIRTY_LOG, &log, "dirty log");
	log.slot = 0xffff;
	ask(vm, KVM_GET_DIRTY_LOG, &log, "dirty log, id too big");
	log.slot = 5;
	log.dirty_bitmap = (void *)8;
	ask(vm, KVM_GET_DIRTY_LOG, &log, "dirty log, bad pointer");
	ask(vm, KVM_CLEAR_DIRTY_LOG, &clear, "clear dirty log, not enabled");
	slot("delete", 5, 0, 0, 0, NULL);
	slot("delete again", 5, 0, 0, 0, NULL);
	slot("delete read-only", 6, 0, 0, 0, NULL);
	ask(vm, KVM_SET_USER_MEMORY_REGION, 8, "slot: bad pointer");
	ask(vm, KVM_SET_NR_MMU_PAGES, 10, "mmu pages, few");
	ask(vm, KVM_SET_NR_MMU_PAGES, 1000, "mmu pages");
	ask(vm, KVM_SET_IDENTITY_MAP_ADDR, &(uint64_t){ 0xfffbc000 }, "identity map after a vcpu");
	munmap(m, 0x100000);
}

static void vcpu_questions(void)
{
	struct kvm_mp_state mp = { 77 };
	struct kvm_regs r;
	struct kvm_sregs s, s2;
	struct kvm_debugregs d = { .flags = 1 };
	struct kvm_vcpu_events ev;
	struct kvm_xcrs x;
	struct kvm_signal_mask *mask = malloc(sizeof(*mask) + 8);
	struct {
		struct kvm_msrs m;
		struct kvm_msr_entry e[4];
	} ms = { .m.nmsrs = 1, .e[0].index = 0x10000000 };
	struct kvm_translation tr = { .linear_address = 0x7c00 };
	struct kvm_guest_debug gd = { .control = 0x8000 };

	new_vm(false);
	ask_fd(ioctl(vm, KVM_CREATE_VCPU, 0), "vcpu 0 again");
	ask_fd(ioctl(vm, KVM_CREATE_VCPU, -1), "vcpu -1");
	ask_fd(ioctl(vm, KVM_CREATE_VCPU, 1 << 20), "vcpu too big");
	ask_fd(ioctl(vm, KVM_CREATE_VCPU, 1), "vcpu 1");
	ask_fd(ioctl(vm, KVM_CREATE_VCPU, 1), "vcpu 1 again after close");
	ask(vcpu, KVM_CREATE_VCPU, 2, "create vcpu on a vcpu");
	ask(vcpu, KVM_GET_REGS, &r, "get regs");
	printf("reset: rip %llx rflags %llx rsp %llx\n", r.rip, r.rflags, r.rsp);
	ask(vcpu, KVM_GET_REGS, 8, "get regs, bad pointer");
	ask(vcpu, KVM_SET_REGS, 8, "set regs, bad pointer");
	ask(vcpu, KVM_GET_SREGS, &s, "get sregs");
	printf("reset: cr0 %llx cr4 %llx efer %llx apic %llx cs %x:%llx limit %x type %x tr type "
	       "%x ldt type %x idt %x\n",
	       s.cr0, s.cr4, s.efer, s.apic_base, s.cs.selector, s.cs.base, s.cs.limit, s.cs.type,
	       s.tr.type, s.ldt.type, s.idt.limit);
	s2 = s, s2.cr4 |= 1ull << 40;
	ask(vcpu, KVM_SET_SREGS, &s2, "sregs: reserved CR4 bit");
	s2 = s, s2.efer |= 1ull << 10;
	ask(vcpu, KVM_SET_SREGS, &s2, "sregs: LMA without LME and paging");
	s2 = s, s2.cr0 |= 0x80000000, s2.cr0 &= ~1ull;
	ask(vcpu, KVM_SET_SREGS, &s2, "sregs: PG without PE");
	s2 = s, s2.cr0 |= 1ull << 32;
	ask(vcpu, KVM_SET_SREGS, &s2, "sregs: high CR0 bit");
	s2 = s, s2.apic_base |= 1;
	ask(vcpu, KVM_SET_SREGS, &s2, "sregs: reserved APIC base bit");
	s2 = s, s2.efer |= 1ull << 20;
	ask(vcpu, KVM_SET_SREGS, &s2, "sregs: reserved EFER bit");
	memset(s2.interrupt_bitmap, 0xff, sizeof(s2.interrupt_bitmap));
	ask(vcpu, KVM_SET_SREGS, &s, "sregs: as they were");
	ask(vcpu, KVM_GET_MP_STATE, &mp, "get mp state");
	printf("mp state %u\n", mp.mp_state);
	mp.mp_state = 77;
	ask(vcpu, KVM_SET_MP_STATE, &mp, "mp state 77");
	mp.mp_state = KVM_MP_STATE_HALTED;
	ask(vcpu, KVM_SET_MP_STATE, &mp, "mp state halted without an irqchip");
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	ask(vcpu, KVM_SET_MP_STATE, &mp, "mp state runnable");
	ask(vcpu, KVM_SET_DEBUGREGS, &d, "debug registers: unknown flag");
	ask(vcpu, KVM_GET_DEBUGREGS, &d, "get debug registers");
	printf("reset: dr6 %llx dr7 %llx\n", d.dr6, d.dr7);
	d.dr7 = 1ull << 40;
	ask(vcpu, KVM_SET_DEBUGREGS, &d, "debug registers: high DR7 bit");
	ask(vcpu, KVM_GET_VCPU_EVENTS, &ev, "get events");
	printf("events: flags %x\n", ev.flags);
	ev.flags = 1u << 31;
	ask(vcpu, KVM_SET_VCPU_EVENTS, &ev, "events: unknown flag");
	memset(&ev, 0, sizeof(ev));
	ev.exception.injected = 1, ev.exception.nr = 40;
	ask(vcpu, KVM_SET_VCPU_EVENTS, &ev, "events: exception 40");
	ev.exception.nr = 2;
	ask(vcpu, KVM_SET_VCPU_EVENTS, &ev, "events: exception 2");
	memset(&ev, 0, sizeof(ev));
	ask(vcpu, KVM_SET_VCPU_EVENTS, &ev, "events: none");
	ask(vcpu, KVM_GET_XCRS, &x, "get xcrs");
	printf("xcrs: %u, xcr0 %llx\n", x.nr_xcrs, x.xcrs[0].value);
	x.xcrs[0].value = 0;
	ask(vcpu, KVM_SET_XCRS, &x, "xcr0 = 0");
	x.xcrs[0].value = 5;
	ask(vcpu, KVM_SET_XCRS, &x, "xcr0 = 5");
	x.nr_xcrs = 99;
	ask(vcpu, KVM_SET_XCRS, &x, "99 xcrs");
	mask->len = 4;
	ask(vcpu, KVM_SET_SIGNAL_MASK, mask, "signal mask of 4 bytes");
	ask(vcpu, KVM_SET_SIGNAL_MASK, NULL, "no signal mask");
	ask(vcpu, KVM_GET_MSRS, &ms, "an unknown msr");
	ms.e[0].index = 0x10;
	ask(vcpu, KVM_GET_MSRS, &ms, "the tsc");
	ms.m.nmsrs = 1000;
	ask(vcpu, KVM_GET_MSRS, &ms, "too many msrs");
	ms.m.nmsrs = 2;
	ms.e[0].index = 0x174, ms.e[0].data = 8;
	ms.e[1].index = 0x10000000;
	ask(vcpu, KVM_SET_MSRS, &ms, "one msr of two");
	ms.m.nmsrs = 1, ms.e[0].index = 0xc0000080, ms.e[0].data = 1ull << 40;
	ask(vcpu, KVM_SET_MSRS, &ms, "reserved bit of EFER");
	ms.e[0].index = 0xc0000082, ms.e[0].data = 1ull << 60;
	ask(vcpu, KVM_SET_MSRS, &ms, "LSTAR not canonical");
	ask(vcpu, KVM_TRANSLATE, &tr, "translate");
	printf("translate: %llx valid %u\n", tr.physical_address, tr.valid);
	ask(vcpu, KVM_SET_GUEST_DEBUG, &gd, "guest debug: nothing known");
	gd.control = 0;
	ask(vcpu, KVM_SET_GUEST_DEBUG, &gd, "guest debug: off");
	ask(vcpu, KVM_NMI, 0, "nmi");
	ask(vcpu, KVM_KVMCLOCK_CTRL, 0, "kvmclock ctrl without a clock");
	ask(vcpu, KVM_GET_LAPIC, (&(struct kvm_lapic_state){ { 0 } }), "lapic without an irqchip");
	ask(vcpu, KVM_INTERRUPT, (&(struct kvm_interrupt){ 300 }), "interrupt 300");
	ask(vcpu, KVM_INTERRUPT, (&(struct kvm_interrupt){ 0x20 }), "interrupt 20h");
	ask(vcpu, KVM_SET_TSC_KHZ, 0, "tsc at the host's frequency");
	ask(vcpu, KVM_TPR_ACCESS_REPORTING, (&(struct kvm_tpr_access_ctl){ 1, 0, { 0 } }),
	    "tpr access reporting");
	ask(vcpu, KVM_SMI, 0, "smi");
	free(mask);
}

static void chip_questions(void)
{
	struct kvm_irq_level l = { { .irq = 300 }, 1 };
	struct kvm_irqchip chip = { .chip_id = 9 };
	struct kvm_pit_config pc = { 0 };
	struct kvm_pit_state2 pit;
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x41 };
	struct {
		struct kvm_irq_routing r;
		struct kvm_irq_routing_entry e[2];
	} rt = { .r.nr = 1, .r.flags = 1 };
	struct kvm_irqfd fd = { .fd = 0x7fffffff, .gsi = 5 };
	struct kvm_ioeventfd io = {
		.addr = 0x500, .len = 3, .fd = 0x7fffffff, .flags = KVM_IOEVENTFD_FLAG_PIO
	};
	struct kvm_coalesced_mmio_zone z = { 0x2000000, 0x1000, { 0 } };
	struct kvm_enable_cap cap = { .cap = 9999 };
	int event = eventfd(0, EFD_CLOEXEC);

	new_vm(false);
	ask(vm, KVM_IRQ_LINE, &l, "irq line without a chip");
	ask(vm, KVM_GET_IRQCHIP, &chip, "get irqchip without one");
	ask(vm, KVM_CREATE_PIT2, &pc, "pit without a chip");
	ask(vm, KVM_CREATE_IRQCHIP, 0, "irqchip after a vcpu");
	ask(vm, KVM_SIGNAL_MSI, &msi, "msi without a chip");
	ask(vm, KVM_SET_BOOT_CPU_ID, 1, "boot cpu after a vcpu");
	ask(vm, KVM_SET_GSI_ROUTING, &rt, "routing without a chip");
	fd.fd = event;
	ask(vm, KVM_IRQFD, &fd, "irqfd without a chip");
	new_vm(true);
	ask(vm, KVM_CREATE_IRQCHIP, 0, "irqchip twice");
	ask(vm, KVM_CREATE_PIT2, &pc, "pit");
	ask(vm, KVM_CREATE_PIT2, &pc, "pit twice");
	ask(vm, KVM_GET_PIT2, &pit, "get pit");
	printf("pit: flags %x mode %u count %x\n", pit.flags, pit.channels[0].mode,
	       pit.channels[0].count);
	ask(vm, KVM_IRQ_LINE, &l, "irq line 300");
	l.irq = 3;
	ask(vm, KVM_IRQ_LINE, &l, "irq line 3 up");
	l.level = 0;
	ask(vm, KVM_IRQ_LINE, &l, "irq line 3 down");
	l.level = 1;
	ask(vm, KVM_IRQ_LINE_STATUS, &l, "irq line status 3 up");
	printf("status %d\n", (int)l.status);
	l.irq = 3, l.level = 0;
	ask(vm, KVM_IRQ_LINE, &l, "irq line 3 down again");
	ask(vm, KVM_GET_IRQCHIP, &chip, "get irqchip 9");
	for (chip.chip_id = 0; chip.chip_id < 3; chip.chip_id++)
		ask(vm, KVM_GET_IRQCHIP, &chip, "get irqchip %u", chip.chip_id);
	ask(vm, KVM_SET_GSI_ROUTING, &rt, "routing with a flag");
	rt.r.flags = 0;
	rt.e[0].type = 99;
	ask(vm, KVM_SET_GSI_ROUTING, &rt, "routing of an unknown type");
	rt.e[0].type = KVM_IRQ_ROUTING_IRQCHIP, rt.e[0].gsi = 5000;
	ask(vm, KVM_SET_GSI_ROUTING, &rt, "routing of gsi 5000");
	rt.e[0].gsi = 5, rt.e[0].u.irqchip.irqchip = 2, rt.e[0].u.irqchip.pin = 99;
	ask(vm, KVM_SET_GSI_ROUTING, &rt, "routing to pin 99");
	rt.e[0].u.irqchip.pin = 5;
	ask(vm, KVM_SET_GSI_ROUTING, &rt, "routing");
	rt.r.nr = 5000;
	ask(vm, KVM_SET_GSI_ROUTING, &rt, "routing of too many");
	fd.fd = 0x7fffffff;
	ask(vm, KVM_IRQFD, &fd, "irqfd of a bad descriptor");
	fd.fd = dev;
	ask(vm, KVM_IRQFD, &fd, "irqfd of a descriptor that is no eventfd");
	fd.fd = event, fd.flags = 0x80;
	ask(vm, KVM_IRQFD, &fd, "irqfd with an unknown flag");
	fd.flags = 0;
	ask(vm, KVM_IRQFD, &fd, "irqfd");
	ask(vm, KVM_IRQFD, &fd, "irqfd twice");
	fd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	ask(vm, KVM_IRQFD, &fd, "irqfd off");
	ask(vm, KVM_IRQFD, &fd, "irqfd off twice");
	ask(vm, KVM_IOEVENTFD, &io, "ioeventfd of length 3");
	io.len = 4;
	ask(vm, KVM_IOEVENTFD, &io, "ioeventfd of a bad descriptor");
	io.fd = event, io.flags |= 0x80;
	ask(vm, KVM_IOEVENTFD, &io, "ioeventfd with an unknown flag");
	io.flags = KVM_IOEVENTFD_FLAG_PIO;
	ask(vm, KVM_IOEVENTFD, &io, "ioeventfd");
	ask(vm, KVM_IOEVENTFD, &io, "ioeventfd twice");
	io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	ask(vm, KVM_IOEVENTFD, &io, "ioeventfd off");
	ask(vm, KVM_IOEVENTFD, &io, "ioeventfd off twice");
	io = (struct kvm_ioeventfd){ .addr = ~0ull - 2, .len = 8, .fd = event };
	ask(vm, KVM_IOEVENTFD, &io, "ioeventfd that wraps");
	ask(vm, KVM_REGISTER_COALESCED_MMIO, &z, "coalesced zone");
	ask(vm, KVM_UNREGISTER_COALESCED_MMIO, &z, "coalesced zone off");
	ask(vm, KVM_UNREGISTER_COALESCED_MMIO, &z, "coalesced zone off twice");
	z.pio = 2;
	ask(vm, KVM_REGISTER_COALESCED_MMIO, &z, "coalesced zone, pio 2");
	ask(vm, KVM_SIGNAL_MSI, &msi, "msi to nobody who listens");
	msi.flags = 0x80;
	ask(vm, KVM_SIGNAL_MSI, &msi, "msi with an unknown flag");
	ask(vm, KVM_ENABLE_CAP, &cap, "enable an unknown capability");
	cap.cap = KVM_CAP_SPLIT_IRQCHIP, cap.args[0] = 24;
	ask(vm, KVM_ENABLE_CAP, &cap, "split irqchip after the irqchip");
	cap.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, cap.args[0] = 8;
	ask(vm, KVM_ENABLE_CAP, &cap, "manual dirty log, unknown bit");
	cap.args[0] = 1;
	ask(vm, KVM_ENABLE_CAP, &cap, "manual dirty log");
	cap.flags = 1;
	ask(vm, KVM_ENABLE_CAP, &cap, "enable with a flag");
	ask(vcpu, KVM_INTERRUPT, (&(struct kvm_interrupt){ 0x20 }), "interrupt with an irqchip");
	ask(vcpu, KVM_SET_MP_STATE, (&(struct kvm_mp_state){ KVM_MP_STATE_SIPI_RECEIVED }),
	    "mp state sipi received");
	ask(vcpu, KVM_SET_MP_STATE, (&(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }),
	    "mp state runnable with a chip");
	new_vm(true);
	close(event);
}

static void on_alarm(int sig)
{
}

static void run_questions(void)
{
	struct kvm_regs r;

	new_vm(false);
	CODE("\xb0\x41\xba\xf8\x03\xee\xf4", 0, 0); /* mov al,41h; mov dx,3f8h; out dx,al; hlt */
	if (!go("out"))
		printf("out: port %x size %u count %u direction %u data %x\n", run->io.port,
		       run->io.size, run->io.count, run->io.direction,
		       ((uint8_t *)run)[run->io.data_offset]);
	go("hlt");
	CODE("\xe5\x10\x89\xc3\xf4", 0x1234, 0); /* in ax,10h; mov bx,ax; hlt */
	go("in");
	memcpy((uint8_t *)run + run->io.data_offset, "\xcd\xab", 2);
	run->immediate_exit = 1;
	say(ioctl(vcpu, KVM_RUN, 0), "in: KVM_RUN with immediate_exit");
	run->immediate_exit = 0;
	ioctl(vcpu, KVM_GET_REGS, &r);
	printf("in: completed rax %llx rip %llx\n", r.rax, r.rip);
	go("in, then hlt");
	CODE("\xb9\x03\x00\xf3\x6e\xf4", 0, 0x80); /* mov cx,3; rep outsb; hlt */
	go("rep outsb");
	go("rep outsb, then");
	CODE("\xb8\x00\xf0\x8e\xd8\xc6\x06\x10\x00\x77\xf4", 0,
	     0); /* mov ds,f000h; mov byte [10h],77h; hlt */
	slot("make room", 0, 0, 0, 0, NULL);
	slot("low ram", 0, 0, 0, 0x80000, ram);
	if (!go("mmio write"))
		printf("mmio: %llx len %u write %u data %x\n", run->mmio.phys_addr, run->mmio.len,
		       run->mmio.is_write, run->mmio.data[0]);
	go("mmio write, then hlt");
	CODE("\xb8\x00\xf0\x8e\xd8\x8b\x1e\x10\x00\xf4", 0,
	     0); /* mov ds,f000h; mov bx,[10h]; hlt */
	if (!go("mmio read"))
		printf("mmio: %llx len %u write %u\n", run->mmio.phys_addr, run->mmio.len,
		       run->mmio.is_write);
	memcpy(run->mmio.data, "\x34\x12", 2);
	go("mmio read, then hlt");
	ioctl(vcpu, KVM_GET_REGS, &r);
	printf("mmio: rbx %llx\n", r.rbx);
	CODE("\x0f\x01\x1e\x00\x70\xcd\x03", 0, 0); /* lidt of zeros; int 3: triple fault */
	go("triple fault");
	new_vm(false);
	CODE("\xeb\xfe", 0, 0); /* jmp . */
	sigaction(SIGALRM, &(struct sigaction){ .sa_handler = on_alarm }, NULL);
	alarm(1);
	go("a loop and a signal");
	printf("interrupted: exit %u\n", run->exit_reason);
	run->kvm_valid_regs = 1ull << 40;
	say(ioctl(vcpu, KVM_RUN, 0), "unknown valid_regs");
	run->kvm_valid_regs = 0;
	run->kvm_dirty_regs = 1ull << 40;
	say(ioctl(vcpu, KVM_RUN, 0), "unknown dirty_regs");
	run->kvm_dirty_regs = 0;
}

int main(void)
{
	dev = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (dev < 0) {
		perror("/dev/kvm");
		return 1;
	}
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	new_vm(true);
	system_questions();
	slot_questions();
	vcpu_questions();
	chip_questions();
	run_questions();
	puts("end");
	return 0;
}
