/* SPDX-License-Identifier: MIT */
/*
 * What a Linux guest expects of KVM beyond hardware: kvmclock, steal time, hypercalls.
 * [Linux Documentation/virt/kvm/x86/msr.rst, hypercalls.rst]
 */
#include "kvm/kvm.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm_para.h>
#include <sched.h>
#include <time.h>

#include "base/base.h"
#include "kvm/sys.h"

#define NSEC_PER_SEC 1000000000ull
#define PVCLOCK_TSC_STABLE BIT(0)
#define PVCLOCK_GUEST_STOPPED BIT(1)
#define STEAL_RESERVED 0x3eull
#define STEAL_ADDRESS (~0x3full)
#define STEAL_PERIOD_US 100

struct pvclock_time {
	u32 version, pad;
	u64 tsc_timestamp, system_time;
	u32 mul;
	s8 shift;
	u8 flags, pad2[2];
};

struct pvclock_wall {
	u32 version, sec, nsec;
};

static unsigned int as_of(const struct vcpu *v)
{
	return v->smm;
}

/* ---- kvmclock ---------------------------------------------------------------------------------------------- */

/* ns = (ticks << shift) * mul >> 32, with mul as large as fits in 32 bits */
static void time_scale(u64 hz, struct pvclock_time *t)
{
	u64 ticks = hz, ns = NSEC_PER_SEC;
	int shift = 0;

	while (ticks > ns * 2 || ticks >> 32) {
		ticks >>= 1;
		shift--;
	}
	while (ticks <= ns || ns >> 32) {
		if (ns >> 32 || ticks >> 31)
			ns >>= 1;
		else
			ticks <<= 1;
		shift++;
	}
	t->shift = (s8)shift;
	t->mul = (u32)((ns << 32) / ticks);
}

/*
 * All vCPUs' pages are computed from the same host TSC value: whoever reads which page gets the same time, which is
 * what the stable bit promises.
 */
void pvclock_update(struct kvm_vcpu *k)
{
	struct kvm_clock *c = &k->vm->clock;
	struct vcpu *v = k->v;
	struct pvclock_time t = { 0 };
	gpa_t gpa = k->pvclock_msr & ~1ull;
	u32 odd, as = as_of(v);

	if (!atomic_exchange(&k->clock_update, false) || !(k->pvclock_msr & 1))
		return;
	if (mem_read(&v->vm->mem, as, gpa, &t, sizeof(t)))
		return;
	odd = (t.version + 1) | 1;
	t.flags = (u8)((t.flags & PVCLOCK_GUEST_STOPPED) | PVCLOCK_TSC_STABLE);
	if (k->pvclock_stopped)
		t.flags |= PVCLOCK_GUEST_STOPPED;
	k->pvclock_stopped = false;
	t.version = odd;
	t.tsc_timestamp = clock_scale_tsc(k, c->base_tsc) + v->tsc_offset;
	t.system_time = c->base_ns + (u64)c->offset;
	time_scale((u64)k->tsc_khz * 1000, &t);
	mem_write(&v->vm->mem, as, gpa, &odd, sizeof(odd));
	atomic_thread_fence(memory_order_release);
	mem_write(&v->vm->mem, as, gpa, &t, sizeof(t));
	atomic_thread_fence(memory_order_release);
	odd++;
	mem_write(&v->vm->mem, as, gpa, &odd, sizeof(odd));
}

static void write_wall_clock(struct kvm_vcpu *k, gpa_t gpa)
{
	struct mem *m = &k->vm->m.mem;
	struct pvclock_wall w;
	struct timespec ts;
	u32 as = as_of(k->v);
	u64 ns;

	k->vm->wall_clock = gpa;
	if (!gpa || mem_read(m, as, gpa, &w, sizeof(w)))
		return;
	w.version = (w.version + 1) | 1;
	mem_write(m, as, gpa, &w.version, sizeof(w.version));
	sys_call(SYS_clock_gettime, CLOCK_REALTIME, &ts);
	ns = (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec - clock_kvmclock_ns(&k->vm->clock);
	w.sec = (u32)(ns / NSEC_PER_SEC);
	w.nsec = (u32)(ns % NSEC_PER_SEC);
	mem_write(m, as, gpa, &w, sizeof(w));
	w.version++;
	mem_write(m, as, gpa, &w.version, sizeof(w.version));
}

static void write_system_time(struct kvm_vcpu *k, u64 val)
{
	k->pvclock_msr = val;
	k->clock_update = true;
	vcpu_request(k->v, REQ_KVM); /* written before the next instruction */
}

long vcpu_kvmclock_ctrl(struct kvm_vcpu *k, u64 arg, void *buf)
{
	if (!(k->pvclock_msr & 1))
		return -EINVAL;
	k->pvclock_stopped = true;
	k->clock_update = true;
	vcpu_request(k->v, REQ_KVM);
	return 0;
}

/* ---- steal time --------------------------------------------------------------------------------------------- */

/* Second number of schedstat: ns this thread has waited for a CPU. */
static u64 run_delay(struct kvm_vcpu *k)
{
	int tid = base_gettid();
	char buf[96];
	long n, i = 0;
	u64 val = 0;

	if (k->steal_tid != tid) {
		if (k->steal_fd > 0)
			sys_close(k->steal_fd);
		k->steal_fd = (int)sys_call(SYS_openat, AT_FDCWD, "/proc/thread-self/schedstat",
					    O_RDONLY | O_CLOEXEC, 0);
		k->steal_tid = tid;
		k->steal_last_run_delay = ~0ull;
	}
	n = sys_call(SYS_pread64, k->steal_fd, buf, sizeof(buf), 0);
	while (i < n && buf[i] != ' ')
		i++;
	for (i++; i < n && buf[i] >= '0' && buf[i] <= '9'; i++)
		val = val * 10 + (u64)(buf[i] - '0');
	return val;
}

/* Asking the kernel costs more than many a stay in the guest. */
bool pvclock_steal_due(const struct kvm_vcpu *k)
{
	return (k->steal_msr & KVM_MSR_ENABLED) &&
	       base_rdtsc() - k->steal_last_tsc > (u64)k->vm->clock.khz * STEAL_PERIOD_US / 1000;
}

void pvclock_steal_update(struct kvm_vcpu *k)
{
	struct mem *m = &k->vm->m.mem;
	gpa_t gpa = k->steal_msr & STEAL_ADDRESS;
	struct kvm_steal_time st;
	u32 as = as_of(k->v);
	u64 delay;

	if (!pvclock_steal_due(k) || mem_read(m, as, gpa, &st, sizeof(st)))
		return;
	k->steal_last_tsc = base_rdtsc();
	delay = run_delay(k);
	if (k->steal_last_run_delay == ~0ull) /* another thread runs this vCPU now */
		k->steal_last_run_delay = st.steal ? delay : 0;
	st.version = (st.version + 1) | 1;
	mem_write(m, as, gpa + offsetof(struct kvm_steal_time, version), &st.version, 4);
	st.steal += delay - k->steal_last_run_delay;
	k->steal_last_run_delay = delay;
	st.preempted = 0;
	mem_write(m, as, gpa, &st, offsetof(struct kvm_steal_time, preempted) + 1);
	st.version++;
	mem_write(m, as, gpa + offsetof(struct kvm_steal_time, version), &st.version, 4);
}

void pvclock_reset(struct kvm_vcpu *k)
{
	k->pvclock_msr = 0;
	k->steal_msr = 0;
}

/* ---- the MSRs ------------------------------------------------------------------------------------------------ */

static bool pv_has(const struct kvm_vcpu *k, unsigned int feature)
{
	return !k->pv_enforce || (k->pv_features >> feature & 1);
}

static bool msr_offered(const struct kvm_vcpu *k, u32 index)
{
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_SYSTEM_TIME:
		return pv_has(k, KVM_FEATURE_CLOCKSOURCE);
	case MSR_KVM_WALL_CLOCK_NEW:
	case MSR_KVM_SYSTEM_TIME_NEW:
		return pv_has(k, KVM_FEATURE_CLOCKSOURCE2);
	case MSR_KVM_STEAL_TIME:
		return pv_has(k, KVM_FEATURE_STEAL_TIME);
	case MSR_KVM_PV_EOI_EN:
		return pv_has(k, KVM_FEATURE_PV_EOI);
	case MSR_KVM_POLL_CONTROL:
		return pv_has(k, KVM_FEATURE_POLL_CONTROL);
	default:
		return false;
	}
}

int pvclock_rdmsr(struct kvm_vcpu *k, u32 index, u64 *val)
{
	if (!msr_offered(k, index))
		return -ENOENT;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		*val = k->vm->wall_clock;
		break;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		*val = k->pvclock_msr;
		break;
	case MSR_KVM_STEAL_TIME:
		*val = k->steal_msr;
		break;
	case MSR_KVM_PV_EOI_EN:
		*val = k->pv_eoi;
		break;
	default:
		*val = k->poll_control;
		break;
	}
	return 0;
}

int pvclock_wrmsr(struct kvm_vcpu *k, u32 index, u64 val)
{
	if (!msr_offered(k, index))
		return -ENOENT;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		write_wall_clock(k, val);
		break;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		write_system_time(k, val);
		break;
	case MSR_KVM_STEAL_TIME:
		if (val & STEAL_RESERVED)
			return -EINVAL;
		k->steal_msr = val;
		k->steal_last_tsc = 0;
		vcpu_request(k->v, REQ_KVM);
		break;
	case MSR_KVM_PV_EOI_EN: /* we never set the guest's flag, so it always writes EOI: legal */
		if ((val & 1) && (val & 2))
			return -EINVAL;
		k->pv_eoi = val;
		break;
	default:
		if (val & ~1ull)
			return -EINVAL;
		k->poll_control = val;
		break;
	}
	return 0;
}

/* ---- hypercalls ---------------------------------------------------------------------------------------------- */

static long map_gpa_range(struct vcpu *v, u64 gpa, u64 npages, u64 attrs, bool wide)
{
	if (!(kvm_vm_of(v)->hypercall_exits & BIT(KVM_HC_MAP_GPA_RANGE)))
		return -KVM_ENOSYS;
	if ((gpa & (PAGE_SIZE - 1)) || !npages || (gpa >> PAGE_SHIFT) + npages <= gpa >> PAGE_SHIFT)
		return -KVM_EINVAL;
	v->hypercall.nr = KVM_HC_MAP_GPA_RANGE;
	v->hypercall.arg[0] = gpa;
	v->hypercall.arg[1] = npages;
	v->hypercall.arg[2] = attrs;
	v->hypercall.wide = wide;
	return -EREMOTE;
}

static long dispatch(struct vcpu *v, u64 nr, const u64 a[4], bool wide)
{
	struct kvm_vcpu *k = kvm_of(v);

	switch (nr) {
	case KVM_HC_VAPIC_POLL_IRQ:
		return 0;
	case KVM_HC_KICK_CPU:
		if (!pv_has(k, KVM_FEATURE_PV_UNHALT))
			return -KVM_ENOSYS;
		irq_pv_kick(v, (u32)a[1]);
		return 0;
	case KVM_HC_SEND_IPI:
		if (!pv_has(k, KVM_FEATURE_PV_SEND_IPI))
			return -KVM_ENOSYS;
		return irq_pv_send_ipi(v, a[0], a[1], (u32)a[2], a[3], wide);
	case KVM_HC_SCHED_YIELD:
		if (!pv_has(k, KVM_FEATURE_PV_SCHED_YIELD))
			return -KVM_ENOSYS;
		STAT_INC(k, directed_yield_attempted);
		sys_call(SYS_sched_yield, 0);
		return 0;
	case KVM_HC_MAP_GPA_RANGE:
		return map_gpa_range(v, a[0], a[1], a[2], wide);
	default:
		return -KVM_ENOSYS;
	}
}

int pv_hypercall(struct vcpu *v, u64 *ret)
{
	bool wide = cpu_code64(v);
	u64 mask = wide ? ~0ull : 0xffffffffull;
	const u64 a[4] = { v->gpr[GPR_RBX] & mask, v->gpr[GPR_RCX] & mask, v->gpr[GPR_RDX] & mask,
			   v->gpr[GPR_RSI] & mask };
	long r = -KVM_EPERM;

	if (v->cpl == 0)
		r = dispatch(v, v->gpr[GPR_RAX] & mask, a, wide);
	if (r == -EREMOTE)
		return -EREMOTE;
	STAT_INC(kvm_of(v), hypercalls);
	*ret = (u64)r & mask;
	return 0;
}
