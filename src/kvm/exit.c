/* SPDX-License-Identifier: MIT */
/*
 * Why the processor stopped, told through struct kvm_run, and user space's answer taken back.
 */
#include "kvm/kvm.h"
#include "kvm/nested.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

/* ---- one function per kind of exit: 0 exit, 1 go on ------------------------------------------------------- */

static int exit_plain(struct kvm_vcpu *k)
{
	return 0;
}

/* Nearly always a byte, for which a call is long. */
static void copy_pio(u8 *to, const u8 *from, const struct pio_state *p)
{
	if (p->size == 1 && p->count == 1)
		*to = *from;
	else
		memcpy(to, from, (size_t)p->size * p->count);
}

static int exit_io(struct kvm_vcpu *k)
{
	struct pio_state *p = &k->v->pio;
	struct kvm_run *run = k->run;

	run->io.direction = p->in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
	run->io.size = p->size;
	run->io.port = p->port;
	run->io.count = p->count;
	run->io.data_offset = PAGE_OFF_PIO * PAGE_SIZE;
	copy_pio(k->pio_page, p->data, p);
	k->pending = PENDING_PIO;
	STAT_INC(k, io_exits);
	/* Old VMMs handle OUT 7EH expecting RIP behind it: the instruction ends before the exit. */
	if (p->port == 0x7e && !p->in && !p->string && kvm_quirk(k->vm, KVM_X86_QUIRK_OUT_7E_INC_RIP)) {
		k->pending = PENDING_NONE;
		p->done = true;
		cpu_complete(k->v);
	}
	return 0;
}

static int exit_mmio(struct kvm_vcpu *k)
{
	const struct mmio_frag *f = mmio_next(k->v);
	struct kvm_run *run = k->run;

	if (!f)
		return 1;
	run->mmio.phys_addr = f->gpa;
	run->mmio.len = f->len;
	run->mmio.is_write = f->is_write;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (f->is_write)
		memcpy(run->mmio.data, f->data, f->len);
	k->pending = PENDING_MMIO;
	STAT_INC(k, mmio_exits);
	return 0;
}

static int exit_hlt(struct kvm_vcpu *k)
{
	STAT_INC(k, halt_exits);
	if (!kvm_has_lapic(k) && !nested_shut_down(k))
		return 0;
	k->mp_state = KVM_MP_STATE_HALTED;
	return 1;
}

/* As KVM has it: an L2 that waits for a SIPI is its vCPU after INIT. */
static int exit_wait_sipi(struct kvm_vcpu *k)
{
	k->mp_state = KVM_MP_STATE_INIT_RECEIVED;
	return 1;
}

static int exit_msr(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;
	struct vcpu *v = k->v;

	memset(&run->msr, 0, sizeof(run->msr));
	run->msr.reason = v->msr.reason;
	run->msr.index = v->msr.index;
	run->msr.data = v->stop == CPU_STOP_WRMSR ? v->msr.data : 0;
	k->pending = PENDING_MSR;
	return 0;
}

static int exit_debug(struct kvm_vcpu *k)
{
	struct kvm_debug_exit_arch *d = &k->run->debug.arch;
	struct vcpu *v = k->v;

	*d = (struct kvm_debug_exit_arch){ .exception = v->debug_exit.exception, .pc = v->debug_exit.pc,
					   .dr6 = v->debug_exit.dr6, .dr7 = v->debug_exit.dr7 };
	return 0;
}

static int exit_hypercall(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;

	memset(&run->hypercall, 0, sizeof(run->hypercall));
	run->hypercall.nr = k->v->hypercall.nr;
	for (int i = 0; i < 3; i++)
		run->hypercall.args[i] = k->v->hypercall.arg[i];
	run->hypercall.longmode = k->v->hypercall.wide;
	k->pending = PENDING_HYPERCALL;
	return 0;
}

/* Up to 15 bytes at RIP, as far as they can be read. */
static u32 code_bytes(struct kvm_vcpu *k, u8 *out)
{
	struct vcpu *v = k->v;
	u64 la = v->csz == 8 ? v->rip : (u32)(v->seg[SEG_CS].base + v->rip);
	u32 n = 0;
	gpa_t gpa;

	cpu_enter_guest(v);
	for (; n < 15; n++)
		if (!mmu_translate(v, la + n, ACC_X, &gpa) ||
		    mem_read(&v->vm->mem, v->smm, gpa, &out[n], 1))
			break;
	cpu_leave_guest(v);
	return n;
}

static int exit_internal(struct kvm_vcpu *k)
{
	struct kvm_run *run = k->run;
	struct vcpu *v = k->v;
	u32 n = v->internal.ndata < 16 ? v->internal.ndata : 16;

	memset(&run->internal, 0, sizeof(run->internal));
	run->internal.suberror = v->internal.suberror ?: KVM_INTERNAL_ERROR_EMULATION;
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
		/* flags, then the bytes: see struct kvm_run's emulation_failure */
		STAT_INC(k, insn_emulation_fail);
		guard_depart(v, v->internal.suberror ? DEP_EMULATION : DEP_INTERNAL, v->insn_rip);
		run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
		run->emulation_failure.insn_size = (u8)code_bytes(k, run->emulation_failure.insn_bytes);
		run->emulation_failure.ndata = 3;
		if (!run->emulation_failure.insn_size) {
			run->emulation_failure.flags = 0;
			run->emulation_failure.ndata = 1;
		}
		return 0;
	}
	run->internal.ndata = n;
	if (n == 4) /* the kernel's last item: where the vCPU last ran */
		v->internal.data[3] = (u64)(u32)sched_getcpu();
	for (u32 i = 0; i < n; i++)
		run->internal.data[i] = v->internal.data[i];
	return 0;
}

static int exit_refused(struct kvm_vcpu *k)
{
	guard_depart(k->v, DEP_ENTRY_REFUSED, 0);
	k->run->fail_entry.hardware_entry_failure_reason = ENTRY_FAILED_INVALID_STATE;
	k->run->fail_entry.cpu = (u32)sched_getcpu();
	return 0;
}

/* As the kernel after KVM_BUG_ON(): every ioctl of the VM and its vCPUs fails from now on. */
static int exit_dead(struct kvm_vcpu *k)
{
	guard_depart(k->v, DEP_VM_DEAD, 0);
	k->vm->dead = true;
	vm_request_all(k->vm, REQ_KVM);
	return -EIO;
}

static int exit_window(struct kvm_vcpu *k)
{
	STAT_INC(k, request_irq_exits);
	STAT_INC(k, irq_window_exits);
	return 0;
}

static int exit_notify(struct kvm_vcpu *k)
{
	enum notify_verdict verdict;
	bool invalid;

	if (nested_notify_owned(k))
		return 1;
	STAT_INC(k, notify_window_exits);
	verdict = guard_notify_exit(k->v, &invalid);
	if (invalid && nested_notify_invalid(k))
		return 1;
	switch (verdict) {
	case NOTIFY_VERDICT_TELL:
		k->run->notify.flags = invalid ? KVM_NOTIFY_CONTEXT_INVALID : 0;
		return 0;
	case NOTIFY_VERDICT_ERROR: /* no departure: guard_notify_exit() recorded it */
		k->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
		return exit_internal(k);
	default:
		return 1;
	}
}

static const struct exit_row {
	u32 reason;
	int (*fill)(struct kvm_vcpu *k);
} rows[] = {
#define EXIT(stop, reason, fill) [stop] = { reason, fill },
#include "spec/kvm_exit.def"
#undef EXIT
};

int exit_translate(struct kvm_vcpu *k, enum cpu_stop stop)
{
	u32 before = k->run->exit_reason;
	bool locked;
	int r;

	if (stop == CPU_STOP_EFAULT) {
		if (!inject_poisoned(k))
			return -EFAULT;
		k->run->exit_reason = KVM_EXIT_INTR;
		return -EINTR;
	}
	if (stop == CPU_STOP_DEAD)
		return exit_dead(k);
	if (stop >= ARRAY_SIZE(rows) || !rows[stop].fill)
		return 1;
	locked = exit_note_bus_lock(k);
	k->run->exit_reason = rows[stop].reason;
	r = rows[stop].fill(k);
	if (r == 1)
		k->run->exit_reason = before;
	return locked ? exit_add_bus_lock(k, r) : r;
}

/* ---- the answers ------------------------------------------------------------------------------------------------ */

static int complete_mmio(struct kvm_vcpu *k)
{
	struct mmio_frag *f = mmio_next(k->v);

	if (!f)
		return 1;
	if (!f->is_write)
		memcpy(f->data, k->run->mmio.data, f->len);
	f->done = true;
	return mmio_next(k->v) ? exit_translate(k, CPU_STOP_MMIO) : 1;
}

static void complete_pio(struct kvm_vcpu *k)
{
	struct pio_state *p = &k->v->pio;

	if (p->in)
		copy_pio(p->data, k->pio_page, p);
	p->done = true;
}

static void complete_msr(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;

	v->msr.error = k->run->msr.error;
	if (v->stop != CPU_STOP_WRMSR)
		v->msr.data = k->run->msr.data;
	v->msr.done = true;
}

static void complete_hypercall(struct kvm_vcpu *k)
{
	u64 ret = k->run->hypercall.ret;

	k->v->gpr[GPR_RAX] = k->v->hypercall.wide ? ret : (u32)ret;
	k->v->hypercall.done = true;
}

int exit_complete(struct kvm_vcpu *k, bool immediate)
{
	enum run_pending pending = k->pending;
	enum cpu_stop stop;
	int r = 1;

	k->pending = PENDING_NONE;
	if (pending == PENDING_PIO)
		complete_pio(k);
	else if (pending == PENDING_MSR)
		complete_msr(k);
	else if (pending == PENDING_HYPERCALL)
		complete_hypercall(k);
	else if (pending == PENDING_MMIO)
		r = complete_mmio(k);
	if (r <= 0 || !immediate)
		return r;
	/* The answer must take effect although the guest is not to run. */
	stop = cpu_complete(k->v);
	return stop == CPU_RUN || stop == CPU_STOP_KICK ? 1 : exit_translate(k, stop);
}
