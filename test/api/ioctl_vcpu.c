/* SPDX-License-Identifier: MIT */
/*
 * The ioctls of a vCPU: running, registers, events, state in bulk. KVM_RUN's exits: run.c; signals: signal.c.
 */
#include "ioctl.h"

static int bare_vcpu(int chip)
{
	return open_vcpu(bare_vm(chip), 0);
}

void t_vcpu_ioctl_run(void)
{
	struct guest g;

	small_guest(&g, NO_CHIP);
	is_errno(call(g.vcpu, KVM_RUN, 1), EINVAL, "takes no argument");
	g.run->kvm_valid_regs = 1ull << 63;
	is_errno(run(&g), EINVAL, "shared registers that do not exist");
	g.run->kvm_valid_regs = 0;
	is(run(&g), 0, "run");
	is(g.run->exit_reason, KVM_EXIT_IO, "until something needs user space");
	free_guest(&g);
}

/* ---- registers ------------------------------------------------------------------------------------------- */

void t_vcpu_get_regs(void)
{
	struct kvm_regs r;

	is(call(bare_vcpu(NO_CHIP), KVM_GET_REGS, &r), 0, "call");
	is(r.rip, 0xfff0, "RIP after RESET");
	is(r.rflags, 2, "RFLAGS");
}

void t_vcpu_set_regs(void)
{
	struct kvm_regs r = { .rax = 1, .r15 = ~0ull, .rip = 0x1234, .rflags = 0x246 }, s;
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_SET_REGS, &r), 0, "call");
	call(vcpu, KVM_GET_REGS, &s);
	is_mem(&s, &r, sizeof(r), "comes back");
	r.rflags = 0x244;
	call(vcpu, KVM_SET_REGS, &r);
	call(vcpu, KVM_GET_REGS, &s);
	is(s.rflags, 0x246, "bit 1 of RFLAGS is always set");
}

void t_vcpu_get_sregs(void)
{
	struct kvm_sregs s;

	is(call(bare_vcpu(NO_CHIP), KVM_GET_SREGS, &s), 0, "call");
	is(s.cs.base, 0xffff0000, "CS base after RESET");
	is(s.cr0, 0x60000010, "CR0");
	is(s.apic_base, 0xfee00900, "APIC base");
}

static void refused(int vcpu, unsigned long request, struct kvm_sregs2 s, const char *what)
{
	is_errno(call(vcpu, request, &s), EINVAL, "%s", what);
}

#define REFUSED(what, ...)                                 \
	do {                                               \
		struct kvm_sregs2 good_ = good;            \
		{                                          \
			struct kvm_sregs2 *s = &good_;     \
			__VA_ARGS__;                       \
		}                                          \
		refused(vcpu, set, good_, (what));         \
	} while (0)

static void set_sregs(unsigned long get, unsigned long set)
{
	struct kvm_sregs2 good = { 0 }, back = { 0 };
	int vcpu = bare_vcpu(NO_CHIP);

	call(vcpu, get, &good);
	REFUSED("CR0: PG without PE", s->cr0 |= 1ull << 31);
	REFUSED("CR0: NW without CD", s->cr0 = 0x20000011);
	REFUSED("CR0: upper half", s->cr0 |= 1ull << 32);
	REFUSED("CR4: reserved bit", s->cr4 |= 1ull << 31);
	REFUSED("LMA without LME", s->efer = 0x400);
	REFUSED("IA-32e mode without PAE", s->efer = 0x500; s->cr0 = 0x80000011);
	REFUSED("IA-32e paging, LMA clear", s->efer = 0x100; s->cr0 = 0x80000011; s->cr4 = 0x20);
	REFUSED("64-bit code segment outside IA-32e mode", s->cs.l = 1);
	REFUSED("CR3 beyond MAXPHYADDR", s->efer = 0x500; s->cr0 = 0x80000011; s->cr4 = 0x20; s->cr3 = 1ull << 60);
	good.cr0 = 0x11;
	good.cr2 = 0x1234;
	good.ds.base = 0x5678;
	is(call(vcpu, set, &good), 0, "protected mode");
	call(vcpu, get, &back);
	ok(back.cr0 == 0x11 && back.cr2 == 0x1234 && back.ds.base == 0x5678, "comes back");
}

void t_vcpu_set_sregs(void)
{
	struct kvm_sregs s, t;
	int vcpu = bare_vcpu(NO_CHIP);

	set_sregs(KVM_GET_SREGS, KVM_SET_SREGS);
	call(vcpu, KVM_GET_SREGS, &s);
	s.interrupt_bitmap[1] = 1ull << 3;
	is(call(vcpu, KVM_SET_SREGS, &s), 0, "an interrupt being delivered");
	call(vcpu, KVM_GET_SREGS, &t);
	is(t.interrupt_bitmap[1], 1ull << 3, "comes back");
}

void t_vcpu_get_sregs2(void)
{
	struct kvm_sregs2 s;

	is(call(bare_vcpu(NO_CHIP), KVM_GET_SREGS2, &s), 0, "call");
	is(s.flags, 0, "no PAE paging, no PDPTEs");
}

void t_vcpu_set_sregs2(void)
{
	struct kvm_sregs2 good, back = { 0 };
	unsigned long set = KVM_SET_SREGS2;
	int vcpu = bare_vcpu(NO_CHIP);

	set_sregs(KVM_GET_SREGS2, KVM_SET_SREGS2);
	call(vcpu, KVM_GET_SREGS2, &good);
	REFUSED("flags", s->flags = 2);
	REFUSED("PDPTEs without PAE paging", s->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID);
	good.cr0 = 0x80000011;
	good.cr4 = 0x20;
	good.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	good.pdptrs[2] = 0x5001;
	is(call(vcpu, set, &good), 0, "PAE paging with its PDPTEs");
	call(vcpu, KVM_GET_SREGS2, &back);
	ok(back.flags == KVM_SREGS2_FLAGS_PDPTRS_VALID && back.pdptrs[2] == 0x5001, "come back");
}

void t_vcpu_get_fpu(void)
{
	struct kvm_fpu f;

	is(call(bare_vcpu(NO_CHIP), KVM_GET_FPU, &f), 0, "call");
	is(f.fcw, 0x37f, "FCW");
}

void t_vcpu_set_fpu(void)
{
	struct kvm_fpu f = { .fcw = 0x27f, .ftwx = 1, .fpr[0] = { 1, 2, 3 }, .xmm[15] = { 9 } }, h;
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_SET_FPU, &f), 0, "call");
	call(vcpu, KVM_GET_FPU, &h);
	ok(h.fcw == 0x27f && h.fpr[0][2] == 3 && h.xmm[15][0] == 9, "comes back");
}

void t_vcpu_get_debugregs(void)
{
	struct kvm_debugregs d;

	is(call(bare_vcpu(NO_CHIP), KVM_GET_DEBUGREGS, &d), 0, "call");
	ok(d.dr6 == 0xffff0ff0 && d.dr7 == 0x400, "DR6 and DR7 after RESET");
}

void t_vcpu_set_debugregs(void)
{
	struct kvm_debugregs d = { .db = { 1, 2, 3, 4 }, .dr6 = 0xffff0ff0, .dr7 = 0x400 }, e;
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_SET_DEBUGREGS, &d), 0, "call");
	call(vcpu, KVM_GET_DEBUGREGS, &e);
	is_mem(e.db, d.db, sizeof(d.db), "comes back");
	d.flags = 1;
	is_errno(call(vcpu, KVM_SET_DEBUGREGS, &d), EINVAL, "flags");
	d.flags = 0;
	d.dr6 = 1ull << 32;
	is_errno(call(vcpu, KVM_SET_DEBUGREGS, &d), EINVAL, "DR6: upper half");
	d.dr6 = 0;
	d.dr7 = 1ull << 32;
	is_errno(call(vcpu, KVM_SET_DEBUGREGS, &d), EINVAL, "DR7: upper half");
}

void t_vcpu_get_xsave(void)
{
	struct kvm_xsave x;

	is(call(bare_vcpu(NO_CHIP), KVM_GET_XSAVE, &x), 0, "call");
	is(x.region[0] & 0xffff, 0x37f, "FCW");
}

void t_vcpu_get_xsave2(void)
{
	int vcpu = bare_vcpu(NO_CHIP), size = call(open_sys(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	uint8_t *x = new_memory((size_t)size);

	is(call(vcpu, KVM_GET_XSAVE2, x), 0, "call");
	is(x[0], 0x7f, "FCW");
}

void t_vcpu_set_xsave(void)
{
	struct kvm_xsave x, y;
	uint64_t *head = (uint64_t *)&x.region[128];
	int vcpu = bare_vcpu(NO_CHIP);

	call(vcpu, KVM_GET_XSAVE, &x);
	head[0] = 3;
	x.region[0] = 0x27f;
	x.region[40] = 0x77;
	is(call(vcpu, KVM_SET_XSAVE, &x), 0, "call");
	call(vcpu, KVM_GET_XSAVE, &y);
	ok((y.region[0] & 0xffff) == 0x27f && y.region[40] == 0x77, "comes back");
	head[0] = 1ull << 62;
	is_errno(call(vcpu, KVM_SET_XSAVE, &x), EINVAL, "a component that does not exist");
	head[0] = 3;
	head[1] = 1ull << 63;
	is_errno(call(vcpu, KVM_SET_XSAVE, &x), EINVAL, "the compacted format");
	head[1] = 0;
	head[4] = 1;
	is_errno(call(vcpu, KVM_SET_XSAVE, &x), EINVAL, "reserved header field");
	head[4] = 0;
	x.region[6] = 0x10000;
	is_errno(call(vcpu, KVM_SET_XSAVE, &x), EINVAL, "reserved bit of MXCSR");
}

void t_vcpu_get_xcrs(void)
{
	struct kvm_xcrs x;

	is(call(bare_vcpu(NO_CHIP), KVM_GET_XCRS, &x), 0, "call");
	ok(x.nr_xcrs == 1 && x.xcrs[0].xcr == 0 && x.xcrs[0].value == 1, "XCR0 after RESET");
}

void t_vcpu_set_xcrs(void)
{
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs[0] = { .xcr = 0, .value = 3 } };
	static struct cpuid_list c;
	struct guest g;

	small_guest(&g, NO_CHIP);
	all_cpuid(g.sys, &c);
	need(call(g.vcpu, KVM_SET_CPUID2, &c), "KVM_SET_CPUID2");
	is(call(g.vcpu, KVM_SET_XCRS, &x), 0, "x87 and SSE");
	x.xcrs[0].value = 2;
	is_errno(call(g.vcpu, KVM_SET_XCRS, &x), EINVAL, "without x87");
	x.xcrs[0].value = 5;
	is_errno(call(g.vcpu, KVM_SET_XCRS, &x), EINVAL, "AVX without SSE");
	x.xcrs[0].value = 1ull << 62 | 1;
	is_errno(call(g.vcpu, KVM_SET_XCRS, &x), EINVAL, "a component that does not exist");
	x.xcrs[0].value = 1;
	x.flags = 1;
	is_errno(call(g.vcpu, KVM_SET_XCRS, &x), EINVAL, "flags");
	x.flags = 0;
	x.nr_xcrs = KVM_MAX_XCRS + 1;
	is_errno(call(g.vcpu, KVM_SET_XCRS, &x), EINVAL, "too many");
	free_guest(&g);
}

/* ---- MSRs, CPUID -------------------------------------------------------------------------------------------- */

void t_vcpu_get_msrs(void)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e[3]; } m = {
		{ .nmsrs = 3 }, { { .index = 0x174 }, { .index = 0xdead }, { .index = 0x175 } }
	};
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_GET_MSRS, &m), 1, "as many as come before one that does not exist");
	m.head.nmsrs = 0;
	is(call(vcpu, KVM_GET_MSRS, &m), 0, "none");
	m.head.nmsrs = 256;
	is_errno(call(vcpu, KVM_GET_MSRS, &m), E2BIG, "too many");
}

void t_vcpu_set_msrs(void)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e[3]; } m = {
		{ .nmsrs = 3 }, { { .index = 0x174, .data = 8 }, { .index = 0xdead }, { .index = 0x175 } }
	};
	struct one_msr one = { .head.nmsrs = 1, .e.index = 0x174 };
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_SET_MSRS, &m), 1, "as many as come before one that does not exist");
	call(vcpu, KVM_GET_MSRS, &one);
	is(one.e.data, 8, "comes back");
	one.e = (struct kvm_msr_entry){ .index = 0xc0000080, .data = 1 << 1 };
	is(call(vcpu, KVM_SET_MSRS, &one), 0, "a reserved bit: none was written");
	m.head.nmsrs = 256;
	is_errno(call(vcpu, KVM_SET_MSRS, &m), E2BIG, "too many");
}

void t_vcpu_set_cpuid2(void)
{
	static struct cpuid_list c;
	struct guest g;

	small_guest(&g, NO_CHIP);
	all_cpuid(g.sys, &c);
	is(call(g.vcpu, KVM_SET_CPUID2, &c), 0, "what is supported");
	c.head.nent = 257;
	is_errno(call(g.vcpu, KVM_SET_CPUID2, &c), E2BIG, "more than 256");
	all_cpuid(g.sys, &c);
	for (uint32_t i = 0; i < c.head.nent; i++)
		if (c.e[i].function == 0x80000008)
			c.e[i].eax = 47 << 8 | 36;
	is_errno(call(g.vcpu, KVM_SET_CPUID2, &c), EINVAL, "47 bits of linear address");
	all_cpuid(g.sys, &c);
	is(run(&g), 0, "run");
	is(call(g.vcpu, KVM_SET_CPUID2, &c), 0, "after that the same list is accepted");
	c.e[1].eax ^= 0x10;
	is_errno(call(g.vcpu, KVM_SET_CPUID2, &c), EINVAL, "and no other");
	free_guest(&g);
}

void t_vcpu_set_cpuid(void)
{
	struct { struct kvm_cpuid head; struct kvm_cpuid_entry e[300]; } c = {
		{ .nent = 2 }, { { .function = 0, .eax = 1 }, { .function = 1, .eax = 0x600, .edx = 0x1ff } }
	};
	static struct cpuid_list back = { .head.nent = 10 };
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_SET_CPUID, &c), 0, "the old format");
	is(call(vcpu, KVM_GET_CPUID2, &back), 0, "read in the new one");
	is(back.e[1].eax, 0x600, "leaf 1");
	c.head.nent = 257;
	is_errno(call(vcpu, KVM_SET_CPUID, &c), E2BIG, "more than 256");
}

void t_vcpu_get_cpuid2(void)
{
	static struct cpuid_list c, back;
	int sys = open_sys(), vcpu = open_vcpu(open_vm(sys), 0);

	all_cpuid(sys, &c);
	call(vcpu, KVM_SET_CPUID2, &c);
	back.head.nent = c.head.nent - 1;
	is_errno(call(vcpu, KVM_GET_CPUID2, &back), E2BIG, "no room");
	back.head.nent = c.head.nent;
	is(call(vcpu, KVM_GET_CPUID2, &back), 0, "enough");
	is(back.e[0].ebx, c.e[0].ebx, "comes back");
}

/* ---- events --------------------------------------------------------------------------------------------------- */

void t_vcpu_nmi(void)
{
	struct kvm_vcpu_events e;
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_NMI, 0), 0, "call");
	call(vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.nmi.pending, 1, "pending");
}

void t_vcpu_smi(void)
{
	struct kvm_vcpu_events e;
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_SMI, 0), 0, "call");
	call(vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.smi.pending, 1, "pending");
}

void t_vcpu_get_events(void)
{
	struct kvm_vcpu_events e;

	is(call(bare_vcpu(NO_CHIP), KVM_GET_VCPU_EVENTS, &e), 0, "call");
	is(e.flags, KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM, "flags");
	ok(!e.exception.injected && !e.interrupt.injected && !e.nmi.pending, "nothing pending");
}

void t_vcpu_set_events(void)
{
	struct kvm_vcpu_events e = { .exception = { .injected = 1, .nr = 13, .has_error_code = 1, .error_code = 8 } };
	struct kvm_vcpu_events f;
	int vm = bare_vm(NO_CHIP), vcpu = open_vcpu(vm, 0);

	is(call(vcpu, KVM_SET_VCPU_EVENTS, &e), 0, "an injected #GP");
	call(vcpu, KVM_GET_VCPU_EVENTS, &f);
	ok(f.exception.injected && f.exception.nr == 13 && f.exception.error_code == 8, "comes back");
	e.exception.nr = 2;
	is_errno(call(vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL, "NMI is no exception");
	e.exception.nr = 32;
	is_errno(call(vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL, "nor is vector 32");
	e = (struct kvm_vcpu_events){ .flags = 1 << 8 };
	is_errno(call(vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL, "flags");
	e.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
	is_errno(call(vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL, "payload without KVM_CAP_EXCEPTION_PAYLOAD");
	e.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	is_errno(call(vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL, "triple fault without its capability");
	enable(vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
	enable(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
	e = (struct kvm_vcpu_events){ .flags = KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
				      .exception = { .pending = 1, .nr = 14, .has_error_code = 1 },
				      .exception_has_payload = 1, .exception_payload = 0x1234,
				      .triple_fault.pending = 1 };
	is(call(vcpu, KVM_SET_VCPU_EVENTS, &e), 0, "both with them");
	call(vcpu, KVM_GET_VCPU_EVENTS, &f);
	ok(f.exception.pending && f.exception_payload == 0x1234 && f.triple_fault.pending, "come back");
}

void t_vcpu_get_mp_state(void)
{
	struct kvm_mp_state m;
	int vm = bare_vm(FULL_CHIP);

	is(call(open_vcpu(vm, 0), KVM_GET_MP_STATE, &m), 0, "call");
	is(m.mp_state, KVM_MP_STATE_RUNNABLE, "the boot processor runs");
	call(open_vcpu(vm, 1), KVM_GET_MP_STATE, &m);
	is(m.mp_state, KVM_MP_STATE_UNINITIALIZED, "another waits for INIT");
}

void t_vcpu_set_mp_state(void)
{
	struct kvm_mp_state m = { KVM_MP_STATE_HALTED };
	int vcpu = bare_vcpu(FULL_CHIP);

	is(call(vcpu, KVM_SET_MP_STATE, &m), 0, "HALTED");
	call(vcpu, KVM_GET_MP_STATE, &m);
	is(m.mp_state, KVM_MP_STATE_HALTED, "comes back");
	m.mp_state = 99;
	is_errno(call(vcpu, KVM_SET_MP_STATE, &m), EINVAL, "a state that does not exist");
	m.mp_state = KVM_MP_STATE_STOPPED;
	is_errno(call(vcpu, KVM_SET_MP_STATE, &m), EINVAL, "another architecture's");
	m.mp_state = KVM_MP_STATE_HALTED;
	is_errno(call(bare_vcpu(NO_CHIP), KVM_SET_MP_STATE, &m), EINVAL, "without local APIC only RUNNABLE");
	m.mp_state = KVM_MP_STATE_RUNNABLE;
	is(call(bare_vcpu(NO_CHIP), KVM_SET_MP_STATE, &m), 0, "which is accepted");
}

/* ---- the rest --------------------------------------------------------------------------------------------------- */

void t_vcpu_translate(void)
{
	struct kvm_translation t = { .linear_address = 0x1234 };
	struct kvm_sregs s;
	struct guest g;

	small_guest(&g, NO_CHIP);
	is(call(g.vcpu, KVM_TRANSLATE, &t), 0, "without paging");
	ok(t.valid && t.physical_address == 0x1234, "an address is its own translation");
	call(g.vcpu, KVM_GET_SREGS, &s);
	s.cr0 = 0x80000011;
	s.cr3 = 0x4000;
	need(call(g.vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	memcpy(g.mem + 0x4000, "\x03\x50\x00\x00", 4);
	memcpy(g.mem + 0x5000 + 4, "\x03\x70\x00\x00", 4);
	is(call(g.vcpu, KVM_TRANSLATE, &t), 0, "with paging");
	ok(t.valid && t.physical_address == 0x7234, "through the tables");
	t.linear_address = 0x5000;
	is(call(g.vcpu, KVM_TRANSLATE, &t), 0, "what is not mapped is no error");
	is(t.valid, 0, "but not valid");
	free_guest(&g);
}

void t_vcpu_set_guest_debug(void)
{
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
	struct guest g;

	small_guest(&g, NO_CHIP);
	is(call(g.vcpu, KVM_SET_GUEST_DEBUG, &d), 0, "single-step");
	is(run(&g), 0, "run");
	is(g.run->exit_reason, KVM_EXIT_DEBUG, "exits after one instruction");
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP;
	is(call(g.vcpu, KVM_SET_GUEST_DEBUG, &d), 0, "inject #BP");
	is_errno(call(g.vcpu, KVM_SET_GUEST_DEBUG, &d), EBUSY, "while one is pending");
	d.control = 0;
	is(call(g.vcpu, KVM_SET_GUEST_DEBUG, &d), 0, "off");
	free_guest(&g);
}

void t_vcpu_set_signal_mask(void)
{
	struct { struct kvm_signal_mask head; uint64_t set; } m = { .head.len = 8 };
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_SET_SIGNAL_MASK, &m), 0, "a mask");
	is(call(vcpu, KVM_SET_SIGNAL_MASK, 0), 0, "none");
	m.head.len = 128;
	is_errno(call(vcpu, KVM_SET_SIGNAL_MASK, &m), EINVAL, "libc's length");
}

void t_vcpu_setup_mce(void)
{
	uint64_t cap = 1 << 8 | 10;
	struct one_msr m = { .head.nmsrs = 1, .e.index = 0x179 };
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_X86_SETUP_MCE, &cap), 0, "10 banks with MCG_CTL");
	call(vcpu, KVM_GET_MSRS, &m);
	is(m.e.data, cap, "IA32_MCG_CAP");
	cap = 0;
	is_errno(call(vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL, "no banks");
	cap = 33;
	is_errno(call(vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL, "more than KVM_CAP_MCE");
	cap = 1ull << 40 | 10;
	is_errno(call(vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL, "a capability that is not offered");
}

void t_vcpu_set_mce(void)
{
	struct kvm_x86_mce e = { .status = 1ull << 63, .addr = 0x1000, .bank = 3 };
	struct one_msr m = { .head.nmsrs = 1, .e.index = 0x400 + 3 * 4 + 2 };
	uint64_t cap = 10;
	int vcpu = bare_vcpu(NO_CHIP);

	call(vcpu, KVM_X86_SETUP_MCE, &cap);
	is(call(vcpu, KVM_X86_SET_MCE, &e), 0, "a corrected error");
	call(vcpu, KVM_GET_MSRS, &m);
	is(m.e.data, 0x1000, "IA32_MC3_ADDR");
	e.bank = 10;
	is_errno(call(vcpu, KVM_X86_SET_MCE, &e), EINVAL, "bank");
	e.bank = 3;
	e.status = 0;
	is_errno(call(vcpu, KVM_X86_SET_MCE, &e), EINVAL, "not valid");
}

void t_vcpu_set_tsc_khz(void)
{
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_SET_TSC_KHZ, 1000000), 0, "1 GHz");
	is(call(vcpu, KVM_GET_TSC_KHZ, 0), 1000000, "comes back");
	is_errno(call(vcpu, KVM_SET_TSC_KHZ, 0x80000000), EINVAL, "more than can be scaled");
}

void t_vcpu_get_tsc_khz(void)
{
	int vm = bare_vm(NO_CHIP);

	is(call(open_vcpu(vm, 0), KVM_GET_TSC_KHZ, 0), call(vm, KVM_GET_TSC_KHZ, 0), "the VM's at first");
}

void t_vcpu_kvmclock_ctrl(void)
{
	struct one_msr m = { .head.nmsrs = 1, .e = { .index = 0x4b564d01, .data = 0x4001 } };
	struct guest g;

	small_guest(&g, NO_CHIP);
	is_errno(call(g.vcpu, KVM_KVMCLOCK_CTRL, 0), EINVAL, "the guest uses no kvmclock");
	is(call(g.vcpu, KVM_SET_MSRS, &m), 1, "now it does");
	is(call(g.vcpu, KVM_KVMCLOCK_CTRL, 0), 0, "and can be told that it was stopped");
	run(&g);
	is(g.mem[0x4000 + 29] >> 1 & 1, 1, "PVCLOCK_GUEST_STOPPED");
	free_guest(&g);
}

void t_vcpu_enable_cap(void)
{
	int vcpu = bare_vcpu(NO_CHIP);
	struct kvm_enable_cap c = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .flags = 1 };

	is(enable(vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1), 0, "KVM_CAP_ENFORCE_PV_FEATURE_CPUID");
	is_errno(call(vcpu, KVM_ENABLE_CAP, &c), EINVAL, "flags");
	is_errno(enable(vcpu, KVM_CAP_EXCEPTION_PAYLOAD, 1), EINVAL, "a VM's capability");
}

static struct kvm_device_attr tsc_offset(uint64_t *val)
{
	return (struct kvm_device_attr){ .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET,
					 .addr = (uint64_t)val };
}

static void bad_attr(int vcpu, unsigned long request)
{
	uint64_t val = 0;
	struct kvm_device_attr a = tsc_offset(&val);

	a.attr = 9;
	is_errno(call(vcpu, request, &a), ENXIO, "attribute");
	a = tsc_offset(&val);
	a.group = 9;
	is_errno(call(vcpu, request, &a), ENXIO, "group");
	if (request == KVM_HAS_DEVICE_ATTR)
		return;
	a = tsc_offset(BAD);
	is_errno(call(vcpu, request, &a), EFAULT, "its address");
}

void t_vcpu_has_device_attr(void)
{
	struct kvm_device_attr a = tsc_offset(NULL);
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_HAS_DEVICE_ATTR, &a), 0, "KVM_VCPU_TSC_OFFSET");
	bad_attr(vcpu, KVM_HAS_DEVICE_ATTR);
}

void t_vcpu_get_device_attr(void)
{
	uint64_t val = 0;
	struct kvm_device_attr a = tsc_offset(&val);
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_GET_DEVICE_ATTR, &a), 0, "KVM_VCPU_TSC_OFFSET");
	ok(val != 0, "the TSC began at 0 when the vCPU was made");
	bad_attr(vcpu, KVM_GET_DEVICE_ATTR);
}

void t_vcpu_set_device_attr(void)
{
	uint64_t val = 12345;
	struct kvm_device_attr a = tsc_offset(&val);
	int vcpu = bare_vcpu(NO_CHIP);

	is(call(vcpu, KVM_SET_DEVICE_ATTR, &a), 0, "KVM_VCPU_TSC_OFFSET");
	val = 0;
	call(vcpu, KVM_GET_DEVICE_ATTR, &a);
	is(val, 12345, "comes back");
	bad_attr(vcpu, KVM_SET_DEVICE_ATTR);
}

/* ---- nested state: the header's rules; what L2 itself needs is test/vmx's ---------------------------------- */

static int vcpu_with_vmx(void)
{
	static struct cpuid_list c;
	int sys = open_sys(), vcpu = open_vcpu(open_vm(sys), 0);

	all_cpuid(sys, &c);
	need(call(vcpu, KVM_SET_CPUID2, &c), "KVM_SET_CPUID2");
	return vcpu;
}

union nested {
	struct kvm_nested_state s;
	uint8_t room[sizeof(struct kvm_nested_state) + 2 * 4096];
};

void t_vcpu_get_nested_state(void)
{
	static union nested n;
	int vcpu = vcpu_with_vmx();

	n.s.size = 8;
	is_errno(call(vcpu, KVM_GET_NESTED_STATE, &n), E2BIG, "no room");
	is(n.s.size, sizeof(n.s), "but the size is told: no VMCS, only the header");
	n.s.size = sizeof(n);
	is(call(vcpu, KVM_GET_NESTED_STATE, &n), 0, "enough");
	is(n.s.format, KVM_STATE_NESTED_FORMAT_VMX, "format");
	is(n.s.flags, 0, "flags");
	is(n.s.hdr.vmx.vmxon_pa, ~0ull, "not in VMX operation");
	is_errno(call(vcpu, KVM_GET_NESTED_STATE, BAD), EFAULT, "unreadable");
}

static union nested outside_vmx(void)
{
	union nested n = { .s = { .size = sizeof(n.s), .format = KVM_STATE_NESTED_FORMAT_VMX } };

	n.s.hdr.vmx.vmxon_pa = n.s.hdr.vmx.vmcs12_pa = ~0ull;
	return n;
}

static void nested_refused(int vcpu, const union nested *n, const char *what)
{
	is_errno(call(vcpu, KVM_SET_NESTED_STATE, n), EINVAL, "%s", what);
}

void t_vcpu_set_nested_state(void)
{
	static union nested n, back;
	int vcpu = vcpu_with_vmx();

	is_errno(call(vcpu, KVM_SET_NESTED_STATE, BAD), EFAULT, "unreadable");
	n = outside_vmx();
	is(call(vcpu, KVM_SET_NESTED_STATE, &n), 0, "outside VMX operation");
	n.s.size = sizeof(n.s) - 1;
	nested_refused(vcpu, &n, "size");
	n = outside_vmx();
	n.s.flags = 1 << 15;
	nested_refused(vcpu, &n, "flags");
	n.s.flags = KVM_STATE_NESTED_RUN_PENDING;
	nested_refused(vcpu, &n, "an entry pending without L2");
	n = outside_vmx();
	n.s.format = 7;
	nested_refused(vcpu, &n, "format");
	n = outside_vmx();
	n.s.hdr.vmx.vmcs12_pa = 0x2000;
	nested_refused(vcpu, &n, "a VMCS outside VMX operation");
	n = outside_vmx();
	n.s.hdr.vmx.vmxon_pa = 1;
	nested_refused(vcpu, &n, "a VMXON region that is not aligned");
	n.s.hdr.vmx.vmxon_pa = 0x1000;
	n.s.hdr.vmx.smm.flags = 4;
	nested_refused(vcpu, &n, "SMM flags");
	n.s.hdr.vmx.smm.flags = 0;
	is(call(vcpu, KVM_SET_NESTED_STATE, &n), 0, "in VMX operation, no VMCS");
	back.s.size = sizeof(back);
	call(vcpu, KVM_GET_NESTED_STATE, &back);
	is(back.s.hdr.vmx.vmxon_pa, 0x1000, "comes back");
}
