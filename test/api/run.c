/* SPDX-License-Identifier: MIT */
/*
 * KVM_RUN: exits, their completion, immediate_exit, shared registers, interrupt window.
 */
#include "api.h"

static void t_out(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xb0, 0x42, 0xe6, 0x10, 0xf4); /* mov al,42h; out 10h,al; hlt */
	is(run(&g), 0, "OUT: KVM_RUN returns");
	is(g.run->exit_reason, KVM_EXIT_IO, "exit");
	is(g.run->io.direction, KVM_EXIT_IO_OUT, "direction");
	is(g.run->io.port, 0x10, "port");
	is(g.run->io.size, 1, "size");
	is(g.run->io.count, 1, "count");
	is(g.run->io.data_offset, 4096, "data offset");
	is(((uint8_t *)g.run)[g.run->io.data_offset], 0x42, "datum");
	is(run(&g), 0, "again");
	is(g.run->exit_reason, KVM_EXIT_HLT, "HLT without in-kernel APIC exits");
	is(rip_of(&g), CODE + 5, "RIP after HLT");
	is(g.run->if_flag, 0, "if_flag");
	is(g.run->ready_for_interrupt_injection, 0, "not ready for an interrupt");
	is(g.run->apic_base, 0xfee00900, "apic_base");
	free_guest(&g);
}

static void t_in(void)
{
	struct kvm_regs r;
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0x66, 0xe5, 0x20, 0xf4); /* in eax,20h; hlt */
	is(run(&g), 0, "IN: exit");
	is(g.run->io.direction, KVM_EXIT_IO_IN, "direction");
	is(g.run->io.size, 4, "size");
	memcpy((uint8_t *)g.run + g.run->io.data_offset, "\x78\x56\x34\x12", 4);
	g.run->immediate_exit = 1;
	is_errno(run(&g), EINTR, "immediate_exit finishes the instruction and leaves");
	call(g.vcpu, KVM_GET_REGS, &r);
	is(r.rax, 0x12345678, "EAX has the answer");
	is(r.rip, CODE + 3, "RIP is behind IN");
	is_errno(run(&g), EINTR, "immediate_exit with nothing pending");
	is(rip_of(&g), CODE + 3, "runs nothing");
	g.run->immediate_exit = 0;
	is(run(&g), 0, "then HLT");
	is(g.run->exit_reason, KVM_EXIT_HLT, "HLT");
	free_guest(&g);
}

static void t_string_io(void)
{
	struct kvm_regs r;
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xf3, 0x6c, 0xf4); /* rep insb; hlt */
	call(g.vcpu, KVM_GET_REGS, &r);
	r.rcx = 16;
	r.rdi = 0x3000;
	r.rdx = 0x30;
	call(g.vcpu, KVM_SET_REGS, &r);
	is(run(&g), 0, "REP INSB: exit");
	ok(g.run->io.count >= 1 && g.run->io.count <= 16, "count %u", g.run->io.count);
	for (int left = 16; left > 0 && g.run->exit_reason == KVM_EXIT_IO;) {
		memset((uint8_t *)g.run + g.run->io.data_offset, 0x5a, g.run->io.count);
		left -= (int)g.run->io.count;
		run(&g);
	}
	is(g.run->exit_reason, KVM_EXIT_HLT, "done");
	is(g.mem[0x3000] == 0x5a && g.mem[0x300f] == 0x5a && g.mem[0x3010] == 0, 1, "16 bytes stored");
	call(g.vcpu, KVM_GET_REGS, &r);
	is(r.rcx, 0, "CX");
	is(r.rdi, 0x3010, "DI");
	free_guest(&g);
}

static void t_mmio(void)
{
	struct kvm_regs r;
	struct guest g;

	/* mov ax,[bx]; mov [bx+2],ax; add [bx],ax; hlt with DS base outside memory */
	NEW_GUEST(&g, NO_CHIP, 0x8b, 0x07, 0x89, 0x47, 0x02, 0x01, 0x07, 0xf4);
	struct kvm_sregs s;

	call(g.vcpu, KVM_GET_SREGS, &s);
	s.ds.base = 0xd0000000;
	call(g.vcpu, KVM_SET_SREGS, &s);
	is(run(&g), 0, "MMIO read: exit");
	is(g.run->exit_reason, KVM_EXIT_MMIO, "reason");
	is(g.run->mmio.phys_addr, 0xd0000000, "address");
	is(g.run->mmio.len, 2, "length");
	is(g.run->mmio.is_write, 0, "is a read");
	memcpy(g.run->mmio.data, "\x34\x12", 2);
	is(run(&g), 0, "MMIO write: exit");
	is(g.run->mmio.is_write, 1, "is a write");
	is(g.run->mmio.phys_addr, 0xd0000002, "address");
	is(g.run->mmio.data[0] | g.run->mmio.data[1] << 8, 0x1234, "datum");
	is(run(&g), 0, "read-modify-write: exit for the read");
	is(g.run->mmio.is_write, 0, "read first");
	memcpy(g.run->mmio.data, "\x01\x00", 2);
	is(run(&g), 0, "then for the write");
	is(g.run->mmio.is_write, 1, "write");
	is(g.run->mmio.data[0] | g.run->mmio.data[1] << 8, 0x1235, "sum");
	g.run->immediate_exit = 1;
	is_errno(run(&g), EINTR, "immediate_exit after the write");
	call(g.vcpu, KVM_GET_REGS, &r);
	is(r.rip, CODE + 7, "RIP is behind it");
	g.run->immediate_exit = 0;
	is(run(&g), 0, "HLT");
	is(g.run->exit_reason, KVM_EXIT_HLT, "reason");
	free_guest(&g);
}

static void t_rom(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xa0, 0x00, 0x20, 0xa2, 0x00, 0x20, 0xf4); /* mov al,[2000h]; mov [2000h],al; hlt */
	uint8_t *rom = new_memory(4096);

	rom[0] = 0x77;
	need(set_slot(g.vm, 0, 0, 0, 0, g.mem), "delete");
	need(set_slot(g.vm, 0, 0, 0, 0x2000, g.mem), "low");
	need(set_slot(g.vm, 1, KVM_MEM_READONLY, 0x2000, 4096, rom), "read-only slot");
	is(run(&g), 0, "store to a read-only slot");
	is(g.run->exit_reason, KVM_EXIT_MMIO, "exits as MMIO");
	is(g.run->mmio.data[0], 0x77, "with what the load found there");
	is(run(&g), 0, "HLT");
	is(rom[0], 0x77, "unchanged");
	free_guest(&g);
	munmap(rom, 4096);
}

static void t_shutdown(void)
{
	struct kvm_sregs s;
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0x0f, 0x0b); /* ud2 without IVT space */
	call(g.vcpu, KVM_GET_SREGS, &s);
	s.idt.limit = 0;
	call(g.vcpu, KVM_SET_SREGS, &s);
	is(run(&g), 0, "triple fault");
	is(g.run->exit_reason, KVM_EXIT_SHUTDOWN, "KVM_EXIT_SHUTDOWN");
	free_guest(&g);
}

static void t_efault(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xa0, 0x00, 0x20, 0xf4); /* mov al,[2000h]; hlt */
	munmap(g.mem + 0x2000, 4096);
	is_errno(run(&g), EFAULT, "a guest page that the host has unmapped");
	mmap(g.mem + 0x2000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	is(run(&g), 0, "mapped again: the instruction is repeated");
	is(g.run->exit_reason, KVM_EXIT_HLT, "and goes on");
	free_guest(&g);
}

static void t_sync_regs(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xe6, 0x10, 0xe6, 0x10, 0xf4);
	g.run->kvm_valid_regs = 8;
	is_errno(run(&g), EINVAL, "unknown valid bit");
	g.run->kvm_valid_regs = 0;
	g.run->kvm_dirty_regs = 8;
	is_errno(run(&g), EINVAL, "unknown dirty bit");
	g.run->kvm_dirty_regs = 0;
	g.run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
	is(run(&g), 0, "run");
	is(g.run->s.regs.regs.rip, CODE, "RIP is the OUT's until it is completed");
	is(g.run->s.regs.sregs.cs.base, 0, "CS base");
	g.run->s.regs.regs.rax = 0x99;
	g.run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	is(run(&g), 0, "run with changed registers");
	is(g.run->kvm_dirty_regs, 0, "the bit is consumed");
	is(((uint8_t *)g.run)[4096], 0x99, "the guest has them");
	g.run->s.regs.sregs.cr4 = ~0ull;
	g.run->kvm_dirty_regs = KVM_SYNC_X86_SREGS;
	is_errno(run(&g), EINVAL, "invalid SREGS");
	free_guest(&g);
}

static void t_window(void)
{
	struct kvm_interrupt irq = { .irq = 0x20 };
	struct guest g;

	/* nop; sti; nop; nop; hlt — handler at 0x500: out 20h,al; iret */
	NEW_GUEST(&g, NO_CHIP, 0x90, 0xfb, 0x90, 0x90, 0xf4);
	memcpy(g.mem + 0x500, "\xe6\x20\xcf", 3);
	memcpy(g.mem + 0x20 * 4, "\x00\x05\x00\x00", 4);
	g.run->request_interrupt_window = 1;
	is(run(&g), 0, "wait for a window");
	is(g.run->exit_reason, KVM_EXIT_IRQ_WINDOW_OPEN, "exit");
	is(rip_of(&g), CODE + 3, "not in the shadow of STI");
	is(g.run->ready_for_interrupt_injection, 1, "ready");
	is(g.run->if_flag, 1, "if_flag");
	g.run->request_interrupt_window = 0;
	irq.irq = 256;
	is_errno(call(g.vcpu, KVM_INTERRUPT, &irq), EINVAL, "vector above 255");
	irq.irq = 0x20;
	is(call(g.vcpu, KVM_INTERRUPT, &irq), 0, "KVM_INTERRUPT");
	is(run(&g), 0, "handler runs");
	is(g.run->exit_reason, KVM_EXIT_IO, "its OUT");
	is(g.run->io.port, 0x20, "port");
	is(run(&g), 0, "IRET, then HLT");
	is(g.run->exit_reason, KVM_EXIT_HLT, "HLT");
	free_guest(&g);
}

static void t_nmi(void)
{
	struct kvm_vcpu_events e;
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0x90, 0xf4);
	memcpy(g.mem + 0x500, "\xe6\x21\xf4", 3);
	memcpy(g.mem + 2 * 4, "\x00\x05\x00\x00", 4);
	is(call(g.vcpu, KVM_NMI, 0), 0, "KVM_NMI");
	call(g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.nmi.pending, 1, "pending");
	is(run(&g), 0, "run");
	is(g.run->io.port, 0x21, "handler runs");
	call(g.vcpu, KVM_GET_VCPU_EVENTS, &e);
	is(e.nmi.masked, 1, "masked until IRET");
	free_guest(&g);
}

static void t_tpr(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xf4);
	g.run->cr8 = 16;
	is_errno(run(&g), EINVAL, "cr8 out of range without local APIC");
	g.run->cr8 = 3;
	is(run(&g), 0, "valid cr8");
	is(g.run->cr8, 3, "comes back");
	free_guest(&g);
}

static void t_debug(void)
{
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0x90, 0x40, 0xcc, 0xf4); /* nop; inc ax; int3; hlt */
	is(call(g.vcpu, KVM_SET_GUEST_DEBUG, &d), 0, "single-step");
	is(run(&g), 0, "one");
	is(g.run->exit_reason, KVM_EXIT_DEBUG, "KVM_EXIT_DEBUG");
	is(g.run->debug.arch.pc, CODE + 1, "pc");
	is(g.run->debug.arch.exception, 1, "#DB");
	is(g.run->debug.arch.dr6, 0xffff4ff0, "DR6.BS");
	is(run(&g), 0, "two");
	is(g.run->debug.arch.pc, CODE + 2, "pc");
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	is(call(g.vcpu, KVM_SET_GUEST_DEBUG, &d), 0, "software breakpoints");
	is(run(&g), 0, "INT3");
	is(g.run->debug.arch.exception, 3, "#BP");
	is(g.run->debug.arch.pc, CODE + 2, "pc of INT3");
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB;
	is(call(g.vcpu, KVM_SET_GUEST_DEBUG, &d), 0, "inject #DB");
	is_errno(call(g.vcpu, KVM_SET_GUEST_DEBUG, &d), EBUSY, "while one is pending");
	free_guest(&g);
}

static void t_resume_flag(void)
{
	/* mov eax,bp; mov dr0,eax; mov eax,401h; mov dr7,eax; bp: out 20h,al; hlt */
	static const uint8_t code[] = { 0x66, 0xb8, 0x12, 0x10, 0, 0, 0x0f, 0x23, 0xc0, 0x66, 0xb8, 1, 4, 0, 0,
					0x0f, 0x23, 0xf8, 0xe6, 0x20, 0xf4 };
	/* out 30h,al; add sp,6; push RF and the breakpoint's address as 32-bit values; iretd */
	static const uint8_t handler[] = { 0xe6, 0x30, 0x83, 0xc4, 6, 0x66, 0x68, 2, 0, 1, 0, 0x66, 0x68, 0, 0, 0, 0,
					   0x66, 0x68, 0x12, 0x10, 0, 0, 0x66, 0xcf };
	struct guest g;

	new_guest(&g, NO_CHIP, code, sizeof(code));
	memcpy(g.mem + 0x500, handler, sizeof(handler));
	memcpy(g.mem + 1 * 4, "\x00\x05\x00\x00", 4);
	is(run(&g), 0, "instruction breakpoint");
	is(g.run->io.port, 0x30, "its handler");
	is(run(&g), 0, "IRETD with RF");
	is(g.run->io.port, 0x20, "the instruction runs once without its breakpoint");
	is(run(&g), 0, "HLT");
	is(g.run->exit_reason, KVM_EXIT_HLT, "HLT");
	free_guest(&g);
}

static void t_arg(void)
{
	struct guest g;

	NEW_GUEST(&g, NO_CHIP, 0xf4);
	is_errno(call(g.vcpu, KVM_RUN, 1), EINVAL, "KVM_RUN takes no argument");
	free_guest(&g);
}

int main(void)
{
	tap_child("OUT", t_out);
	tap_child("IN", t_in);
	tap_child("string I/O", t_string_io);
	tap_child("MMIO", t_mmio);
	tap_child("read-only slot", t_rom);
	tap_child("shutdown", t_shutdown);
	tap_child("EFAULT", t_efault);
	tap_child("sync regs", t_sync_regs);
	tap_child("interrupt window", t_window);
	tap_child("NMI", t_nmi);
	tap_child("cr8", t_tpr);
	tap_child("guest debugging", t_debug);
	tap_child("RF", t_resume_flag);
	tap_child("argument", t_arg);
	return done_testing();
}
