/* SPDX-License-Identifier: MIT */
/*
 * Nested state: KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE in the kernel's VMX format. Our VMCS regions have
 * the kernel's layout, so an image is the processor's copy as it is.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "cpu/vmx/vmx.h"
#include "kvm/nested.h"

#define VMCS12 KVM_STATE_NESTED_VMX_VMCS_SIZE
#define SET_FLAGS                                                                              \
	(KVM_STATE_NESTED_RUN_PENDING | KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_EVMCS | \
	 KVM_STATE_NESTED_MTF_PENDING | KVM_STATE_NESTED_GIF_SET)
#define SMM_FLAGS (KVM_STATE_NESTED_SMM_GUEST_MODE | KVM_STATE_NESTED_SMM_VMXON)

long nested_state_size(void)
{
	return (long)(sizeof(struct kvm_nested_state) + sizeof(struct kvm_vmx_nested_state_data));
}

static bool has_shadow(const struct vcpu *v)
{
	return v->nonroot && vmx_proc2(v, PROC2_SHADOW_VMCS) && vmcs_get(v->vmx, VMCS_VMCS_LINK_POINTER) != VMCS_NONE;
}

static void fill_header(const struct vcpu *v, struct kvm_nested_state *s)
{
	const struct vmx *x = v->vmx;

	*s = (struct kvm_nested_state){ .format = KVM_STATE_NESTED_FORMAT_VMX, .size = sizeof(*s) };
	s->hdr.vmx.vmxon_pa = s->hdr.vmx.vmcs12_pa = VMCS_NONE;
	if (!x->on && !x->smm_on)
		return;
	s->hdr.vmx.vmxon_pa = x->vmxon_gpa;
	s->hdr.vmx.vmcs12_pa = x->vmcs_gpa;
	if (x->vmcs_gpa != VMCS_NONE)
		s->size += VMCS12;
	if (has_shadow(v))
		s->size += VMCS12;
	if (x->smm_on)
		s->hdr.vmx.smm.flags |= KVM_STATE_NESTED_SMM_VMXON;
	if (x->smm_nonroot)
		s->hdr.vmx.smm.flags |= KVM_STATE_NESTED_SMM_GUEST_MODE;
	if (!v->nonroot)
		return;
	s->flags |= KVM_STATE_NESTED_GUEST_MODE;
	if (x->run_pending)
		s->flags |= KVM_STATE_NESTED_RUN_PENDING;
	if (x->mtf_due)
		s->flags |= KVM_STATE_NESTED_MTF_PENDING;
	if (x->timer_on) {
		s->hdr.vmx.flags |= KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE;
		s->hdr.vmx.preemption_timer_deadline = x->timer >> VMX_TIMER_SHIFT;
	}
}

static long put_images(struct vcpu *v, u64 arg)
{
	u8 shadow[VMCS12];

	if (v->vmx->vmcs_gpa == VMCS_NONE)
		return 0;
	if (v->nonroot) {
		vmx_save_guest(v);
		if (!v->vmx->run_pending)
			vmx_injected(v->vmx);
	}
	if (copy_out(arg, v->vmx->vmcs, VMCS12))
		return -EFAULT;
	if (!has_shadow(v))
		return 0;
	(void)mem_read(&v->vm->mem, v->smm, vmcs_get(v->vmx, VMCS_VMCS_LINK_POINTER), shadow, VMCS12);
	return copy_out(arg + VMCS12, shadow, VMCS12);
}

long vcpu_get_nested_state(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_nested_state s;
	struct vcpu *v = k->v;
	u32 room;
	long r;

	(void)buf;
	if (copy_in(&room, arg + offsetof(struct kvm_nested_state, size), sizeof(room)))
		return -EFAULT;
	fill_header(v, &s);
	if (room < s.size)
		return copy_out(arg + offsetof(struct kvm_nested_state, size), &s.size, sizeof(s.size)) ? -EFAULT :
													   -E2BIG;
	if (copy_out(arg, &s, sizeof(s)))
		return -EFAULT;
	cpu_enter_guest(v);
	r = put_images(v, arg + sizeof(s));
	cpu_leave_guest(v);
	return r;
}

/* ---- setting ------------------------------------------------------------------------------------------- */

static bool page_address(const struct vcpu *v, u64 gpa)
{
	return !(gpa & (PAGE_SIZE - 1)) && !(gpa >> v->maxphyaddr);
}

static bool header_valid(const struct vcpu *v, const struct kvm_nested_state *s)
{
	const struct kvm_vmx_nested_state_hdr *h = &s->hdr.vmx;
	u32 running = KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING;

	if (s->format != KVM_STATE_NESTED_FORMAT_VMX)
		return false;
	if (h->vmxon_pa == VMCS_NONE) {
		if (h->smm.flags || h->vmcs12_pa != VMCS_NONE || (s->flags & ~KVM_STATE_NESTED_EVMCS))
			return false;
	} else if (!cpu_has(v, FEAT_VMX) || !page_address(v, h->vmxon_pa)) {
		return false;
	}
	if ((h->smm.flags & KVM_STATE_NESTED_SMM_GUEST_MODE) && (s->flags & KVM_STATE_NESTED_GUEST_MODE))
		return false;
	if ((h->smm.flags & ~SMM_FLAGS) || (h->flags & ~KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE))
		return false;
	if (v->smm ? s->flags & running : h->smm.flags)
		return false;
	if ((h->smm.flags & SMM_FLAGS) == KVM_STATE_NESTED_SMM_GUEST_MODE)
		return false;
	return !(s->flags & KVM_STATE_NESTED_EVMCS); /* no Hyper-V */
}

static int take_shadow(struct vcpu *v, u64 arg, const struct kvm_nested_state *s)
{
	u64 link = vmcs_get(v->vmx, VMCS_VMCS_LINK_POINTER);
	u8 shadow[VMCS12];
	u32 revision;

	if (!(vmcs_get(v->vmx, VMCS_CPU_BASED_VM_EXEC_CONTROL) & PROC_SECONDARY) ||
	    !(vmcs_get(v->vmx, VMCS_SECONDARY_VM_EXEC_CONTROL) & PROC2_SHADOW_VMCS) || link == VMCS_NONE)
		return 0;
	if (s->size < sizeof(*s) + 2 * VMCS12)
		return -EINVAL;
	if (copy_in(shadow, arg + sizeof(*s) + VMCS12, VMCS12))
		return -EFAULT;
	memcpy(&revision, shadow, sizeof(revision));
	if (revision != (VMCS_REVISION | (u32)VMCS_SHADOW))
		return -EINVAL;
	return mem_write(&v->vm->mem, v->smm, link, shadow, VMCS12) ? -EINVAL : 0;
}

static int enter_saved(struct kvm_vcpu *k, u64 arg, const struct kvm_nested_state *s)
{
	struct vcpu *v = k->v;
	int r = take_shadow(v, arg, s);

	if (r)
		return r;
	if (!vmx_check_image(v))
		return -EINVAL;
	vmx_resume_saved(v, s->flags & KVM_STATE_NESTED_RUN_PENDING, s->flags & KVM_STATE_NESTED_MTF_PENDING);
	v->vmx->recheck = RECHECK_USER;
	if (s->hdr.vmx.flags & KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE) {
		v->vmx->timer = s->hdr.vmx.preemption_timer_deadline << VMX_TIMER_SHIFT;
		v->vmx->timer_moved = true;
	}
	return 0;
}

static int adopt(struct kvm_vcpu *k, u64 arg, const struct kvm_nested_state *s)
{
	const struct kvm_vmx_nested_state_hdr *h = &s->hdr.vmx;
	struct vcpu *v = k->v;
	struct vmx *x = v->vmx;

	vmx_leave_quietly(v);
	if (x->on || x->smm_on)
		vmcs_flush(v);
	vmx_reset(v);
	if (h->vmxon_pa == VMCS_NONE)
		return 0;
	x->on = true;
	x->vmxon_gpa = h->vmxon_pa;
	if (s->size < sizeof(*s) + VMCS12)
		return (s->flags & KVM_STATE_NESTED_GUEST_MODE) || h->vmcs12_pa != VMCS_NONE ? -EINVAL : 0;
	if (h->vmcs12_pa == VMCS_NONE || h->vmcs12_pa == h->vmxon_pa || !page_address(v, h->vmcs12_pa))
		return -EINVAL;
	if (h->smm.flags & KVM_STATE_NESTED_SMM_VMXON) {
		x->on = false;
		x->smm_on = true;
		x->smm_nonroot = h->smm.flags & KVM_STATE_NESTED_SMM_GUEST_MODE;
	}
	if (copy_in(x->vmcs, arg + sizeof(*s), VMCS12))
		return -EFAULT;
	x->vmcs_gpa = h->vmcs12_pa;
	if ((vmcs_header(x)->revision & ~(u32)VMCS_SHADOW) != VMCS_REVISION)
		return -EINVAL;
	return s->flags & KVM_STATE_NESTED_GUEST_MODE ? enter_saved(k, arg, s) : 0;
}

long vcpu_set_nested_state(struct kvm_vcpu *k, u64 arg, void *buf)
{
	struct kvm_nested_state s;
	int r;

	(void)buf;
	if (copy_in(&s, arg, sizeof(s)))
		return -EFAULT;
	if (s.size < sizeof(s) || (s.flags & ~SET_FLAGS))
		return -EINVAL;
	if ((s.flags & KVM_STATE_NESTED_RUN_PENDING) && !(s.flags & KVM_STATE_NESTED_GUEST_MODE))
		return -EINVAL;
	if (!header_valid(k->v, &s))
		return -EINVAL;
	cpu_enter_guest(k->v);
	r = adopt(k, arg, &s);
	cpu_leave_guest(k->v);
	vcpu_request(k->v, REQ_EVENT);
	return r;
}

bool nested_shut_down(const struct kvm_vcpu *k)
{
	return k->v->nonroot && k->v->vmx->activity == ACTIVITY_SHUTDOWN;
}

/* ---- L2's deaths ----------------------------------------------------------------------------------------- */

void nested_bus_invalid(struct vcpu *v)
{
	guard_depart(v, DEP_INVALID_GUEST_STATE, VMEXIT_TRIPLE_FAULT);
}

/*
 * A requested triple fault ends the level that was running when it was asked for. Linux forgets which that was: a
 * request for L2 that is served in L1 ends the VM.
 */
bool nested_triple_fault(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;

	if (v->nonroot) {
		guard_depart(v, DEP_TRIPLE_FAULT_L2, VMEXIT_TRIPLE_FAULT);
		cpu_enter_guest(v);
		vmx_exit_triple_fault(v);
		cpu_leave_guest(v);
		k->mp_state = KVM_MP_STATE_RUNNABLE;
		return true;
	}
	if (!k->triple_for_l2 || !guard_strict(&k->vm->guard))
		return false;
	guard_depart(v, DEP_TRIPLE_FAULT_L2, 0);
	return true;
}

/* ---- notify exits ------------------------------------------------------------------------------------------- */

/* L2 exits; what was being delivered goes into the vectoring information. */
static void exit_to_l1(struct kvm_vcpu *k, u32 reason, u64 qualification)
{
	struct vcpu *v = k->v;
	const struct event by = v->inj;

	cpu_enter_guest(v);
	vmx_raise(v, reason, qualification);
	v->exc.valid = false;
	vmx_take_exit(v, by.valid && reason != VMEXIT_TRIPLE_FAULT ? &by : NULL);
	cpu_leave_guest(v);
}

bool nested_notify_owned(struct kvm_vcpu *k)
{
	if (!k->guard.notify_l1)
		return false;
	k->guard.notify_l1 = false;
	if (!k->v->nonroot)
		return false;
	exit_to_l1(k, VMEXIT_NOTIFY, 0); /* no departure: L1 asked for it */
	return true;
}

static void machine_check(struct vcpu *v)
{
	guard_depart(v, DEP_L2_EXIT, EXC_MC);
	v->msr_val[MSR_SLOT_MCG_STATUS] |= MCG_STATUS_MCIP;
	v->inj = (struct event){ .valid = true, .vector = EXC_MC, .type = EVENT_HARD_EXC };
}

bool nested_notify_invalid(struct kvm_vcpu *k)
{
	struct vcpu *v = k->v;
	u32 how = k->guard.guard->opt.nested_notify_invalid;

	if (!v->nonroot || how == NESTED_NOTIFY_INVALID_USERSPACE)
		return false;
	if (how == NESTED_NOTIFY_INVALID_SWEXIT && !(v->msr_val[MSR_SLOT_CASEMENT_SWEXIT] & 1))
		how = NESTED_NOTIFY_INVALID_EXIT2;
	k->guard.context_invalid = false;
	switch (how) {
	case NESTED_NOTIFY_INVALID_REFLECT75:
		guard_depart(v, DEP_L2_EXIT, VMEXIT_NOTIFY);
		exit_to_l1(k, VMEXIT_NOTIFY, NOTIFY_QUAL_INVALID);
		return true;
	case NESTED_NOTIFY_INVALID_SWEXIT:
		guard_depart(v, DEP_L2_EXIT, VMEXIT_SOFTWARE);
		exit_to_l1(k, VMEXIT_SOFTWARE, VMEXIT_NOTIFY | NOTIFY_QUAL_INVALID << 32);
		return true;
	case NESTED_NOTIFY_INVALID_MCE:
		machine_check(v);
		return true;
	default:
		guard_depart(v, DEP_TRIPLE_FAULT_L2, VMEXIT_TRIPLE_FAULT);
		exit_to_l1(k, VMEXIT_TRIPLE_FAULT, 0);
		return true;
	}
}

/* ---- the preemption timer --------------------------------------------------------------------------------- */

static void timer_fired(struct irq_timer *t, u64 now)
{
	struct kvm_vcpu *k = (struct kvm_vcpu *)(void *)((char *)t - offsetof(struct kvm_vcpu, vmx_timer));

	(void)now;
	vcpu_request(k->v, REQ_EVENT);
}

void nested_init_vm(struct kvm_vm *vm)
{
	const struct guard_opts *o = &vm->guard.opt;

	vm->m.nested.smm_intel = o->smm == SMM_INTEL;
	vm->m.nested.restricted = o->unrestricted_guest == OPT_ON_OFF_OFF;
	vm->m.nested.not_emulated = o->emulate_invalid == OPT_ON_OFF_OFF;
	vm->m.nested.rsm_bug = !guard_strict(&vm->guard);
}

void nested_init(struct kvm_vcpu *k)
{
	irq_timer_init(&k->vmx_timer, timer_fired);
	if (k->vm->m.nested.restricted)
		vmx_restrict(k->v);
	if (k->vm->guard.opt.nested_notify == NESTED_NOTIFY_ON)
		vmx_offer_notify(k->v);
}

void nested_destroy(struct kvm_vcpu *k)
{
	irq_timer_cancel_sync(service_timerq(), &k->vmx_timer);
}

void nested_bus_timer(struct vcpu *v, u64 ticks)
{
	struct kvm_vcpu *k = kvm_of(v);
	u64 ns = (u64)((u128)ticks * 1000000 / k->tsc_khz);

	irq_timer_arm(service_timerq(), &k->vmx_timer, base_now_ns() + ns);
}
