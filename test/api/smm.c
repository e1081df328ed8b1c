/* SPDX-License-Identifier: MIT */
/*
 * System-management mode through the API: KVM_SMI, address space 1, the save area in both maps, RSM and
 * everything that makes it fail, what is latched meanwhile.
 */
#include "api.h"

#define SMBASE 0x30000u
#define SMI_PORT 0x11
#define MAIN_PORT 0x10
#define SAVE(off) (0x8000u + (off)) /* the maps number from 8000h below the save area's end */

struct smm {
	struct guest g;
	uint8_t *ram; /* address space 1 at SMBASE */
};

/* mov al,1; out 10h,al; mov al,2; out 10h,al; hlt */
static const uint8_t main_code[] = { 0xb0, 1, 0xe6, MAIN_PORT, 0xb0, 2, 0xe6, MAIN_PORT, 0xf4 };
/* mov al,0feh; out 11h,al; rsm */
static const uint8_t smi_code[] = { 0xb0, 0xfe, 0xe6, SMI_PORT, 0x0f, 0xaa };

static void put(struct smm *s, unsigned int off, uint64_t val, unsigned int size)
{
	memcpy(s->ram + SAVE(off), &val, size);
}

static uint64_t get(struct smm *s, unsigned int off, unsigned int size)
{
	uint64_t val = 0;

	memcpy(&val, s->ram + SAVE(off), size);
	return val;
}

static uint8_t out_byte(struct guest *g)
{
	return ((uint8_t *)g->run)[g->run->io.data_offset];
}

static void at_port(struct guest *g, unsigned int port, unsigned int al, const char *what)
{
	is(run(g), 0, "%s: KVM_RUN", what);
	ok(g->run->exit_reason == KVM_EXIT_IO && g->run->io.port == port && out_byte(g) == al,
	   "%s: OUT %x,%x (exit %u, port %x)", what, port, al, g->run->exit_reason, g->run->io.port);
}

/* A guest that has made its first OUT. */
static void begin(struct smm *s, int chip)
{
	new_guest(&s->g, chip, main_code, sizeof(main_code));
	s->ram = new_memory(0x10000);
	need(set_slot(s->g.vm, 1 << 16 | 0, 0, SMBASE, 0x10000, s->ram), "slot of address space 1");
	memcpy(s->ram + 0x8000, smi_code, sizeof(smi_code));
	at_port(&s->g, MAIN_PORT, 1, "before");
	is(s->g.run->flags & KVM_RUN_X86_SMM, 0, "not in SMM");
}

/* The same, stopped in its handler. */
static void begin_in_smm(struct smm *s, int chip)
{
	begin(s, chip);
	is(call(s->g.vcpu, KVM_SMI, 0), 0, "KVM_SMI");
	at_port(&s->g, SMI_PORT, 0xfe, "handler");
	is(s->g.run->flags & KVM_RUN_X86_SMM, KVM_RUN_X86_SMM, "kvm_run.flags say so");
}

static void end(struct smm *s)
{
	free_guest(&s->g);
	munmap(s->ram, 0x10000);
}

static uint64_t get_msr(int vcpu, uint32_t index)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry e; } m = { .head.nmsrs = 1, .e.index = index };

	is(call(vcpu, KVM_GET_MSRS, &m), 1, "KVM_GET_MSRS %x", index);
	return m.e.data;
}

static int set_msr(int vcpu, uint32_t index, uint64_t val)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = { .head.nmsrs = 1, .e.index = index, .e.data = val };

	return call(vcpu, KVM_SET_MSRS, &m);
}

/* Every leaf there is, or only those that a processor without long mode has. */
static void set_cpuid(struct guest *g, bool long_mode)
{
	static struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 e[256]; } c;

	c.head.nent = 256;
	need(call(g->sys, KVM_GET_SUPPORTED_CPUID, &c), "KVM_GET_SUPPORTED_CPUID");
	for (uint32_t i = 0; i < c.head.nent; i++)
		if (c.e[i].function == 0x80000001 && !long_mode)
			c.e[i].edx &= ~(1u << 29);
	need(call(g->vcpu, KVM_SET_CPUID2, &c), "KVM_SET_CPUID2");
}

static void t_enter(void)
{
	struct kvm_sregs sr;
	struct kvm_regs r;
	struct smm s;

	begin(&s, FULL_CHIP);
	is(get_msr(s.g.vcpu, 0x34), 0, "no SMI so far");
	is(call(s.g.vcpu, KVM_SMI, 0), 0, "KVM_SMI");
	at_port(&s.g, SMI_PORT, 0xfe, "handler");
	is(get_msr(s.g.vcpu, 0x34), 1, "MSR_SMI_COUNT");
	call(s.g.vcpu, KVM_GET_SREGS, &sr);
	call(s.g.vcpu, KVM_GET_REGS, &r);
	is(sr.cs.base, SMBASE, "D17 CS base is SMBASE");
	is(sr.cs.selector, SMBASE >> 4, "D17 CS selector");
	is(sr.ds.limit, 0xffffffff, "D17 DS limit");
	is(sr.ds.base, 0, "D17 DS base");
	is(sr.idt.limit, 0, "D17 IDT limit");
	is(sr.cr4, 0, "D17 CR4");
	is(sr.cr0 & 0x8000000d, 0, "D17 CR0: PE EM TS PG clear");
	is(sr.efer, 0, "D17 EFER");
	is(r.rflags, 2, "D17 RFLAGS");
	is(r.rip & ~0xfull, 0x8000, "D17 RIP");
	is(get(&s, 0x7efc, 4), 0x20064, "revision of the 64-bit map");
	is(get(&s, 0x7f78, 8), CODE + 4, "saved RIP");
	is(get(&s, 0x7ff8, 8) & 0xff, 1, "saved AL");
	is(get(&s, 0x7f00, 4), SMBASE, "saved SMBASE");
	is(get(&s, 0x7e10, 2), 0, "saved CS selector");
	is(get(&s, 0x7e14, 4), 0xffff, "saved CS limit");
	is(get(&s, 0x7e12, 2) & 0x9a, 0x9a, "saved CS attributes: a present code segment");
	is(s.g.mem[SMBASE + 0xff78], 0, "address space 0 is untouched");
	at_port(&s.g, MAIN_PORT, 2, "after RSM");
	is(s.g.run->flags & KVM_RUN_X86_SMM, 0, "and kvm_run.flags too");
	end(&s);
}

/* A guest of its own in the handler of its first SMI, with SMRAM that only SMM sees. */
static void begin_in_handler(struct smm *s, bool long_mode)
{
	new_guest(&s->g, NO_CHIP, main_code, sizeof(main_code));
	set_cpuid(&s->g, long_mode);
	s->ram = new_memory(0x10000);
	need(set_slot(s->g.vm, 1 << 16, 0, SMBASE, 0x10000, s->ram), "slot");
	memcpy(s->ram + 0x8000, smi_code, sizeof(smi_code));
	at_port(&s->g, MAIN_PORT, 1, "before");
	call(s->g.vcpu, KVM_SMI, 0);
	at_port(&s->g, SMI_PORT, 0xfe, "handler");
}

static void t_map32(void)
{
	struct smm s;

	begin_in_handler(&s, false);
	is(get(&s, 0x7efc, 4), 0x20000, "revision of the 32-bit map");
	is(get(&s, 0x7ff0, 4), CODE + 4, "saved EIP");
	is(get(&s, 0x7fd0, 4) & 0xff, 1, "saved AL");
	is(get(&s, 0x7ff4, 4) & 2, 2, "saved EFLAGS");
	is(get(&s, 0x7fd0 + 16, 4), 0x8000, "saved ESP");
	is(get(&s, 0x7f84 + 12, 4) >> 8 & 0x9a, 0x9a, "saved CS attributes");
	is(get(&s, 0x7f84 + 16, 4), 0xffff, "saved CS limit");
	put(&s, 0x7fd4, 0x1234, 4);
	at_port(&s.g, MAIN_PORT, 2, "after RSM");
	struct kvm_regs r;

	call(s.g.vcpu, KVM_GET_REGS, &r);
	is(r.rcx, 0x1234, "ECX as the handler left it in the map");
	is(run(&s.g), 0, "HLT");
	is(s.g.run->exit_reason, KVM_EXIT_HLT, "HLT");
	end(&s);
}

/* ---- every field of the two maps: RSM loads it, the next SMI stores it again ---------------------------- */

struct saved {
	unsigned int off, size;
	uint64_t val;
};

/* A guest stopped in its handler, with another SMI waiting behind RSM. */
static void round_trip(bool long_mode, const struct saved *f, size_t n)
{
	unsigned int wrong = 0;
	struct smm s;

	begin_in_handler(&s, long_mode);
	call(s.g.vcpu, KVM_SMI, 0);
	for (size_t i = 0; i < n; i++)
		put(&s, f[i].off, f[i].val, f[i].size);
	at_port(&s.g, SMI_PORT, 0xfe, "handler, right after RSM");
	for (size_t i = 0; i < n; i++) {
		if (get(&s, f[i].off, f[i].size) == f[i].val)
			continue;
		wrong++;
		diag("offset %x: put %llx, got %llx", f[i].off, (unsigned long long)f[i].val,
		     (unsigned long long)get(&s, f[i].off, f[i].size));
	}
	is(wrong, 0, "D18 all %zu fields of the %d-bit map came back", n, long_mode ? 64 : 32);
	end(&s);
}

#define RFLAGS_SAVED 0x244ed7u	/* ID AC NT OF DF IF SF ZF AF PF CF */
#define SEG64(off, n) { off, 2, 0x1230 + (n) }, { (off) + 2, 2, 0x8093 | (n) << 12 }, \
	{ (off) + 4, 4, 0x12345fff + ((n) << 12) }, { (off) + 8, 8, 0x10000 + (n) * 0x10 }
#define SEG32(sel, off, n) { sel, 4, 0x1230 + (n) }, { off, 4, 0x809300 | (n) << 20 }, \
	{ (off) + 4, 4, 0x12345fff + ((n) << 12) }, { (off) + 8, 4, 0x10000 + (n) * 0x10 }

static void t_round_trip(void)
{
	static const struct saved map64[] = {
		{ 0x7ff8, 8, 0x1111222233334444 }, { 0x7ff0, 8, 0x1111222233334445 }, { 0x7fe8, 8, 0x1111222233334446 },
		{ 0x7fe0, 8, 0x1111222233334447 }, { 0x7fd8, 8, 0x1111222233334448 }, { 0x7fd0, 8, 0x1111222233334449 },
		{ 0x7fc8, 8, 0x111122223333444a }, { 0x7fc0, 8, 0x111122223333444b }, { 0x7fb8, 8, 0x111122223333444c },
		{ 0x7fb0, 8, 0x111122223333444d }, { 0x7fa8, 8, 0x111122223333444e }, { 0x7fa0, 8, 0x111122223333444f },
		{ 0x7f98, 8, 0x1111222233334450 }, { 0x7f90, 8, 0x1111222233334451 }, { 0x7f88, 8, 0x1111222233334452 },
		{ 0x7f80, 8, 0x1111222233334453 }, { 0x7f78, 8, 0x4321 }, { 0x7f70, 8, RFLAGS_SAVED },
		{ 0x7f68, 8, 0xffff0ff5 }, { 0x7f60, 8, 0xdd10400 }, { 0x7f58, 8, 0x40050032 },
		{ 0x7f50, 8, 0x12345000 },
		{ 0x7f48, 8, 0x1c }, { 0x7f00, 4, SMBASE }, { 0x7ed0, 8, 0x801 },
		SEG64(0x7e00, 0), SEG64(0x7e10, 1), SEG64(0x7e20, 0), SEG64(0x7e30, 1), SEG64(0x7e40, 0),
		SEG64(0x7e50, 1),
		{ 0x7e64, 2, 0x1357 }, { 0x7e68, 8, 0xffff800012345678 }, { 0x7e84, 2, 0x2468 },
		{ 0x7e88, 8, 0xffff800087654321 },
		{ 0x7e70, 2, 0x38 }, { 0x7e72, 2, 0x82 }, { 0x7e74, 4, 0xfff }, { 0x7e78, 8, 0xffff800011111111 },
		{ 0x7e90, 2, 0x40 }, { 0x7e92, 2, 0x8b }, { 0x7e94, 4, 0x67 }, { 0x7e98, 8, 0xffff800022222222 },
	};
	static const struct saved map32[] = {
		{ 0x7fd0, 4, 0x11112222 }, { 0x7fd4, 4, 0x11112223 }, { 0x7fd8, 4, 0x11112224 },
		{ 0x7fdc, 4, 0x11112225 },
		{ 0x7fe0, 4, 0x11112226 }, { 0x7fe4, 4, 0x11112227 }, { 0x7fe8, 4, 0x11112228 },
		{ 0x7fec, 4, 0x11112229 },
		{ 0x7ff0, 4, 0x4321 }, { 0x7ff4, 4, RFLAGS_SAVED }, { 0x7ff8, 4, 0x12345000 },
		{ 0x7ffc, 4, 0x40050032 },
		{ 0x7fc8, 4, 0xdd10400 }, { 0x7fcc, 4, 0xffff0ff5 }, { 0x7f14, 4, 0x1c }, { 0x7ef8, 4, SMBASE },
		SEG32(0x7fa8, 0x7f84, 0), SEG32(0x7fac, 0x7f90, 0), SEG32(0x7fb0, 0x7f9c, 0), SEG32(0x7fb4, 0x7f2c, 0),
		SEG32(0x7fb8, 0x7f38, 0), SEG32(0x7fbc, 0x7f44, 0),
		{ 0x7f70, 2, 0x1357 }, { 0x7f74, 4, 0x12345678 }, { 0x7f54, 2, 0x2468 }, { 0x7f58, 4, 0x87654321 },
		{ 0x7fc0, 2, 0x38 }, { 0x7f78, 4, 0x8200 }, { 0x7f7c, 4, 0xfff }, { 0x7f80, 4, 0x11111111 },
		{ 0x7fc4, 2, 0x40 }, { 0x7f5c, 4, 0x8b00 }, { 0x7f60, 4, 0x67 }, { 0x7f64, 4, 0x22222222 },
	};

	round_trip(true, map64, sizeof(map64) / sizeof(map64[0]));
	round_trip(false, map32, sizeof(map32) / sizeof(map32[0]));
}

static void t_relocate(void)
{
	struct smm s;
	uint8_t *high = new_memory(0x10000);

	begin_in_smm(&s, NO_CHIP);
	need(set_slot(s.g.vm, 1 << 16 | 1, 0, 0x1000000, 0x10000, high), "a second SMRAM");
	memcpy(high + 0x8000, smi_code, sizeof(smi_code));
	high[0x8001] = 0xfd;
	put(&s, 0x7f00, 0x1000000, 4);
	at_port(&s.g, MAIN_PORT, 2, "after RSM");
	is(get_msr(s.g.vcpu, 0x9e), 0x1000000, "SMBASE moved");
	call(s.g.vcpu, KVM_SMI, 0);
	at_port(&s.g, SMI_PORT, 0xfd, "the second SMI runs there");
	is(set_msr(s.g.vcpu, 0x9e, SMBASE), 1, "and user space may move it too");
	is(get_msr(s.g.vcpu, 0x9e), SMBASE, "MSR_IA32_SMBASE");
	end(&s);
	munmap(high, 0x10000);
}

static void t_latched(void)
{
	struct kvm_vcpu_events e;
	struct smm s;

	begin_in_smm(&s, FULL_CHIP);
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.smi.smm, 1, "events: in SMM");
	is(e.nmi.masked, 1, "NMI is masked");
	is(e.smi.smm_inside_nmi, 0, "and was not before");
	is(call(s.g.vcpu, KVM_SMI, 0), 0, "another SMI");
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.smi.pending, 1, "is latched");
	at_port(&s.g, SMI_PORT, 0xfe, "and taken right after RSM");
	is(get(&s, 0x7f78, 8), CODE + 4, "before another instruction of the program");
	at_port(&s.g, MAIN_PORT, 2, "then the program");
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.nmi.masked, 0, "NMI is open again");
	is(e.smi.smm, 0, "events: not in SMM");
	end(&s);
}

static void t_nmi(void)
{
	struct smm s;

	begin(&s, NO_CHIP);
	/* NMI handler: mov al,3; out 10h,al; iret */
	memcpy(s.g.mem + 0x600, "\xb0\x03\xe6\x10\xcf", 5);
	memcpy(s.g.mem + 2 * 4, "\x00\x06\x00\x00", 4);
	call(s.g.vcpu, KVM_SMI, 0);
	at_port(&s.g, SMI_PORT, 0xfe, "handler");
	call(s.g.vcpu, KVM_NMI, 0);
	at_port(&s.g, MAIN_PORT, 3, "an NMI during SMM is taken after RSM");
	call(s.g.vcpu, KVM_SMI, 0);
	at_port(&s.g, SMI_PORT, 0xfe, "an SMI inside the NMI handler");
	struct kvm_vcpu_events e;

	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.smi.smm_inside_nmi, 1, "events know");
	call(s.g.vcpu, KVM_NMI, 0);
	at_port(&s.g, MAIN_PORT, 3, "RSM keeps NMI masked; the next one comes after IRET");
	at_port(&s.g, MAIN_PORT, 2, "program");
	end(&s);
}

static void t_init_latched(void)
{
	struct kvm_mp_state mp = { KVM_MP_STATE_INIT_RECEIVED };
	struct kvm_vcpu_events e;
	struct smm s;

	begin_in_smm(&s, FULL_CHIP);
	is_errno(call(s.g.vcpu, KVM_SET_MP_STATE, &mp), EINVAL, "no INIT_RECEIVED in SMM");
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	e.smi.latched_init = 1;
	is(call(s.g.vcpu, KVM_SET_VCPU_EVENTS, &e), 0, "latch INIT");
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.smi.latched_init, 1, "latched");
	s.g.run->immediate_exit = 1;
	is_errno(run(&s.g), EINTR, "immediate_exit");
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.smi.latched_init, 1, "KVM_RUN in SMM leaves it latched");
	end(&s);
}

static void t_events(void)
{
	struct kvm_vcpu_events e;
	struct smm s;

	begin(&s, NO_CHIP);
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	ok(e.flags & KVM_VCPUEVENT_VALID_SMM, "KVM_VCPUEVENT_VALID_SMM");
	e.smi.pending = 1;
	is(call(s.g.vcpu, KVM_SET_VCPU_EVENTS, &e), 0, "pend an SMI through events");
	at_port(&s.g, SMI_PORT, 0xfe, "taken");
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	e.smi.smm = 0;
	is(call(s.g.vcpu, KVM_SET_VCPU_EVENTS, &e), 0, "leave SMM through events");
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.smi.smm, 0, "left");
	e.smi.smm = 1;
	e.smi.smm_inside_nmi = 1;
	call(s.g.vcpu, KVM_SET_VCPU_EVENTS, &e);
	call(s.g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	ok(e.smi.smm && e.smi.smm_inside_nmi, "and enter it");
	at_port(&s.g, MAIN_PORT, 2, "which the restored handler leaves by RSM");
	end(&s);
}

/* ---- RSM's failures ------------------------------------------------------------------------------------ */

static void t_undefined(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0x0f, 0xaa, 0xf4); /* rsm; hlt */
	memcpy(g.mem + 0x600, "\xe6\x06\xcf", 3);
	memcpy(g.mem + 6 * 4, "\x00\x06\x00\x00", 4);
	is(run(&g), 0, "D19 RSM outside SMM");
	is(g.run->io.port, 6, "D19 is #UD");
	free_guest(&g);
}

static void t_no_smram(void)
{
	struct smm s;

	begin_in_smm(&s, NO_CHIP);
	need(set_slot(s.g.vm, 1 << 16, 0, SMBASE, 0, s.ram), "delete SMRAM");
	need(set_slot(s.g.vm, 1 << 16, 0, SMBASE, 0x9000, s.ram), "all but the save area");
	is(run(&s.g), 0, "RSM without a save area");
	is(s.g.run->exit_reason, KVM_EXIT_INTERNAL_ERROR, "KVM_EXIT_INTERNAL_ERROR");
	is(s.g.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION, "emulation");
	end(&s);
}

static const struct bad {
	const char *what;
	unsigned int off, size;
	uint64_t val;
} bad[] = {
	{ "CR0: PG without PE", 0x7f58, 8, 0x80000010 },
	{ "CR0: NW without CD", 0x7f58, 8, 0x20000010 },
	{ "CR0: upper half", 0x7f58, 8, 0x100000010 },
	{ "CR4: reserved bit", 0x7f48, 8, 1ull << 31 },
	{ "CR4: PCIDE outside IA-32e mode", 0x7f48, 8, 1 << 17 },
	{ "EFER: reserved bit", 0x7ed0, 8, 1 << 1 },
	{ "DR6: upper half", 0x7f68, 8, 1ull << 32 },
	{ "DR7: upper half", 0x7f60, 8, 1ull << 32 },
};

static void t_shutdown(void)
{
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct smm s;

		begin_in_smm(&s, NO_CHIP);
		put(&s, bad[i].off, bad[i].val, bad[i].size);
		is(run(&s.g), 0, "RSM");
		is(s.g.run->exit_reason, KVM_EXIT_SHUTDOWN, "%s: shutdown", bad[i].what);
		is(s.g.run->flags & KVM_RUN_X86_SMM, 0, "out of SMM");
		end(&s);
	}
}

/* What two registers make invalid together. */
static void t_shutdown_paging(void)
{
	struct smm s;

	begin_in_smm(&s, NO_CHIP);
	put(&s, 0x7ed0, 0x500, 8);
	put(&s, 0x7f58, 0x80000011, 8);
	is(run(&s.g), 0, "RSM");
	is(s.g.run->exit_reason, KVM_EXIT_SHUTDOWN, "IA-32e mode without PAE: shutdown");
	end(&s);
	begin_in_smm(&s, NO_CHIP);
	put(&s, 0x7f48, 1 << 5, 8);
	put(&s, 0x7f50, 0x4000, 8);
	put(&s, 0x7f58, 0x80000011, 8);
	memset(s.g.mem + 0x4000, 0xff, 32);
	is(run(&s.g), 0, "RSM");
	is(s.g.run->exit_reason, KVM_EXIT_SHUTDOWN, "PAE paging with reserved bits in a PDPTE: shutdown");
	end(&s);
}

int main(void)
{
	tap_child("D17 entering", t_enter);
	tap_child("32-bit map", t_map32);
	tap_child("D18 every field, in both maps", t_round_trip);
	tap_child("relocation", t_relocate);
	tap_child("a second SMI", t_latched);
	tap_child("NMI", t_nmi);
	tap_child("INIT", t_init_latched);
	tap_child("events", t_events);
	tap_child("D19 RSM outside SMM", t_undefined);
	tap_child("RSM without SMRAM", t_no_smram);
	tap_child("RSM with an invalid register", t_shutdown);
	tap_child("RSM with invalid paging", t_shutdown_paging);
	return done_testing();
}
