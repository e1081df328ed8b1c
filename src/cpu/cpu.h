/* SPDX-License-Identifier: MIT */
/*
 * The processor: its state, what stops it, what it asks of its surroundings.
 *
 * cpu_run() executes guest instructions on the calling thread until something outside the
 * processor is needed, and says what in vcpu.stop. It knows nothing of LAPIC, KVM or policy: those
 * reach it through struct cpu_bus and struct machine.
 */
#pragma once
#include <stdatomic.h>

#include "base/types.h"
#include "cpu/insn.h"
#include "cpu/jcache.h"
#include "cpu/tlb_l1.h"
#include "mem/mem.h"

#define VCPU_MAX 64
#define TLB_NONROOT 4 /* pairs of VPID and EPT whose translations are kept */

/* ---- architectural names ------------------------------------------------------------------- */

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)
#define CR4_VME BIT(0)
#define CR4_PVI BIT(1)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_LA57 BIT(12)
#define CR4_VMXE BIT(13)
#define CR4_SMXE BIT(14)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define CR4_PKE BIT(22)
#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)
#define FLAG_CF BIT(0)
#define FLAG_FIXED BIT(1)
#define FLAG_PF BIT(2)
#define FLAG_AF BIT(4)
#define FLAG_ZF BIT(6)
#define FLAG_SF BIT(7)
#define FLAG_TF BIT(8)
#define FLAG_IF BIT(9)
#define FLAG_DF BIT(10)
#define FLAG_OF BIT(11)
#define FLAG_IOPL (3ull << 12)
#define FLAG_NT BIT(14)
#define FLAG_RF BIT(16)
#define FLAG_VM BIT(17)
#define FLAG_AC BIT(18)
#define FLAG_VIF BIT(19)
#define FLAG_VIP BIT(20)
#define FLAG_ID BIT(21)

#define DEBUGCTL_BUS_LOCK BIT(2)	/* #DB after a bus lock above CPL 0 */
#define TEST_CTRL_UC_LOCK BIT(28)
#define TEST_CTRL_SPLIT_LOCK BIT(29)
#define CORE_CAP_UC_LOCK BIT(4)
#define CORE_CAP_SPLIT_LOCK BIT(5)
#define DR6_TRAP_BITS 0xfull
#define DR6_BLD BIT(11)	/* active low */
#define DR6_BD BIT(13)
#define DR6_BS BIT(14)
#define DR6_BT BIT(15)
#define DR6_RTM BIT(16)	/* active low */
#define DR6_RESET 0xffff0ff0ull
#define DR7_GD BIT(13)
#define DR7_RESET 0x400ull

enum exc_vector {
	EXC_DE = 0, EXC_DB = 1, EXC_NMI = 2, EXC_BP = 3, EXC_OF = 4, EXC_BR = 5, EXC_UD = 6, EXC_NM = 7,
	EXC_DF = 8, EXC_TS = 10, EXC_NP = 11, EXC_SS = 12, EXC_GP = 13, EXC_PF = 14, EXC_MF = 16,
	EXC_AC = 17, EXC_MC = 18, EXC_XM = 19, EXC_VE = 20,
};

/**
 * struct segment - selector and descriptor cache
 * @ar: access rights in the VMX layout: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15,
 *	unusable 16 [SDM3C "Guest Register State"]
 * @limit: in bytes, already scaled
 */
struct segment {
	u16 sel;
	u32 ar;
	u32 limit;
	u64 base;
};
#define AR_TYPE(ar) ((ar) & 15)
#define AR_S BIT(4)
#define AR_DPL(ar) (((ar) >> 5) & 3)
#define AR_P BIT(7)
#define AR_AVL BIT(12)
#define AR_L BIT(13)
#define AR_DB BIT(14)
#define AR_G BIT(15)
#define AR_UNUSABLE BIT(16)

struct dtable {
	u64 base;
	u16 limit;
};

/* ---- why cpu_run() came back ------------------------------------------------------------------ */

/**
 * enum cpu_stop - why the processor stopped
 * @CPU_RUN: it did not
 * @CPU_STOP_KICK: a request bit that the caller owns is set (signal, immediate_exit, event)
 * @CPU_STOP_HLT: HLT retired
 * @CPU_STOP_MWAIT: MWAIT retired and the monitored line has not changed
 * @CPU_STOP_PIO: port access described by vcpu.pio
 * @CPU_STOP_MMIO: memory access outside every slot (or write to ROM) described by vcpu.mmio
 * @CPU_STOP_RDMSR, @CPU_STOP_WRMSR: an access to vcpu.msr.index wants an answer from user space
 * @CPU_STOP_SHUTDOWN: triple fault
 * @CPU_STOP_DEBUG: guest debugging requested by user space (vcpu.debug_exit)
 * @CPU_STOP_HYPERCALL: VMCALL/VMMCALL that user space asked to see
 * @CPU_STOP_INTERNAL: engine cannot emulate this (vcpu.internal)
 * @CPU_STOP_EFAULT: a host page behind guest RAM is unmapped or truncated (vcpu.fault_gpa)
 * @CPU_STOP_NOTIFY: notify window exceeded
 * @CPU_STOP_BUS_LOCK: a bus lock was performed
 * @CPU_STOP_IRQ_WINDOW: interrupt window open and user space asked to be told
 * @CPU_STOP_INIT: L2 waits for a SIPI
 * @CPU_STOP_SET_TPR: MOV to CR8 that user space asked to see
 * @CPU_STOP_LOCK: cpu_bus.lock stopped a locked instruction before its access
 * @CPU_STOP_DEAD: the VM ends, as Linux ends one that meets a bug; REFUSED: no VM entry would let this L1 in
 */
enum cpu_stop {
	CPU_RUN, CPU_STOP_KICK, CPU_STOP_HLT, CPU_STOP_MWAIT, CPU_STOP_PIO, CPU_STOP_MMIO,
	CPU_STOP_RDMSR, CPU_STOP_WRMSR, CPU_STOP_SHUTDOWN, CPU_STOP_DEBUG, CPU_STOP_HYPERCALL,
	CPU_STOP_INTERNAL, CPU_STOP_EFAULT, CPU_STOP_NOTIFY, CPU_STOP_BUS_LOCK,
	CPU_STOP_IRQ_WINDOW, CPU_STOP_INIT, CPU_STOP_SET_TPR, CPU_STOP_LOCK,
	CPU_STOP_DEAD, CPU_STOP_REFUSED, CPU_STOPS
};

/**
 * enum vcpu_request - bits of vcpu.request, the stop word
 *
 * Any thread sets them with vcpu_request(); the vCPU thread looks at the word at every branch, at
 * every REP iteration batch and in every event-delivery round. Bits below REQ_OWNER are served
 * inside cpu_run(); the others make it return CPU_STOP_KICK, and their owner clears them.
 */
enum vcpu_request {
	REQ_PAUSE = 1 << 0,	/* vm_pause() wants an acknowledgement */
	REQ_TLB = 1 << 1,	/* drop all translations */
	REQ_FETCH = 1 << 2,	/* re-verify decoded code (something outside may have written it) */
	REQ_CODE = 1 << 3,	/* pages queued in vcpu.code_inval were written */
	REQ_EVENT = 1 << 4,	/* look for NMI / SMI / interrupts at the next boundary */
	REQ_INSN = 1 << 5,	/* the memory machinery wants the trace left after this instruction */
	REQ_OWNER = 1 << 16,
	REQ_EXIT = 1 << 16,	/* leave KVM_RUN: signal or immediate_exit */
	REQ_KVM = 1 << 17,	/* src/kvm has work at a boundary (INIT/SIPI, clock update, ...) */
	REQ_TRIPLE = 1 << 18,	/* triple fault requested by user space */
};

/* ---- events --------------------------------------------------------------------------------- */

enum event_type { /* VMX interruption-type numbers [SDM3C "Information for VM Exits Due to Vectored Events"] */
	EVENT_INTR = 0, EVENT_NMI = 2, EVENT_HARD_EXC = 3, EVENT_SOFT_INT = 4, EVENT_PRIV_SOFT = 5,
	EVENT_SOFT_EXC = 6,
	EVENT_VMEXIT = 8, /* not an event: the instruction makes L2 exit, see vmx.pending_exit */
};

/**
 * struct event - an exception or interrupt to deliver
 * @valid: something is here
 * @has_payload: @payload is a not yet applied CR2 (#PF) or DR6 change (#DB)
 * @sure: a VM entry or user space injected it: no intercept of L1 applies
 * @insn_len: for software events, length of the instruction, else 0
 */
struct event {
	bool valid;
	u8 vector;
	u8 type;
	bool has_error;
	bool has_payload;
	bool sure;
	u8 insn_len;
	u32 error;
	u64 payload;
};

/* ---- memory access -------------------------------------------------------------------------- */

enum access { /* bit set passed to the access functions */
	ACC_R = 1, ACC_W = 2, ACC_X = 4, ACC_RW = 3,
	ACC_LOCK = 8,	/* locked read-modify-write: split and memory-type rules apply */
	ACC_SYS = 16,	/* implicit supervisor access (descriptor tables, TSS, IDT) whatever CPL is */
	ACC_USER = 32,	/* access with CPL-3 rights whatever CPL is */
};

struct tlb; /* second level, private to tlb.h */
struct rcache; /* record cache, private to rcache.c */
struct trace;
struct jit;	/* translated code, private to src/jit */
struct native; /* emitted stubs, private to native.c */
struct vmx;    /* VMX operation, cpu/vmx/vmx.h */

/**
 * struct mmio_frag - one MMIO access of the current instruction
 * @done: answered (read) or taken (write), by a chip or by user space
 *
 * Reads are replayed: the instruction stops, user space (or a chip through cpu_bus) answers, and
 * the instruction runs again finding its answers here in order. Writes are queued and handed out
 * after the instruction retired. An access is at most 8 bytes and never crosses a page.
 *
 * With v->stop == CPU_STOP_MMIO the KVM layer hands the fragments that are not done to user space in
 * order (mmio_next()), fills data of a read, sets done, and calls cpu_run() again when none is left.
 */
struct mmio_frag {
	gpa_t gpa;
	u8 len;
	bool is_write;
	bool done;
	u8 data[8];
};
#define MMIO_FRAGS 68 /* FXSAVE to MMIO is 64 */

/**
 * struct mmio_state - the MMIO log of one instruction
 * @n: fragments recorded
 * @next: replay position within this execution
 * @sent: free for the KVM layer
 * @replay: a read stopped the instruction; its next execution starts over at fragment 0
 * @insn, @icount: which execution the log belongs to; another one begins a new log
 */
struct mmio_state {
	u16 n;
	u16 next;
	u16 sent;
	bool replay;
	const struct insn *insn;
	u64 icount;
	struct mmio_frag frag[MMIO_FRAGS];
};

/**
 * struct pio_state - a port access handed to user space
 * @done: user space has answered; the instruction at @rip, run again, consumes it
 * @count: elements of @size bytes in @data (string forms batch)
 * @next: RIP of the next instruction
 */
struct pio_state {
	bool active, done, in, string;
	u8 size;
	u16 port;
	u32 count;
	u64 rip, next;
	u8 data[4096];
};

/**
 * struct bounce - stand-in for a memory operand that has no single host page
 *
 * A native instruction whose operand crosses a page, is MMIO or ROM, or is split-locked works on @buf,
 * aligned as the guest address is (aligned for a lock, so that the host never sees a split one);
 * cpu_mem_commit() writes it back. A store to a code page works on the page itself and only tells the
 * record caches at commit.
 */
struct bounce {
	u32 active;	/* enum bounce_kind; tested by emitted code after a writing instruction */
	u32 size;
	u32 acc;
	bool locked_pause; /* the other vCPUs are paused until commit */
	bool bus_lock;	/* tell at commit that a bus lock was performed */
	u8 npieces;
	gva_t la;
	u8 *ptr;
	struct mem_piece { /* the part of an operand in one page */
		hva_t host;	/* NULL: MMIO */
		gpa_t gpa;
		struct memslot *slot; /* NULL: MMIO */
		u32 len;
		u32 bits;	/* enum xlat_bits */
		bool writable;	/* RAM, not ROM */
	} piece[2];
	u8 buf[64 + 64 + 64] __attribute__((aligned(64)));
};
enum bounce_kind { BOUNCE_NONE, BOUNCE_COPY, BOUNCE_DIRECT };

/* ---- feature bits ----------------------------------------------------------------------------- */

enum feature {
#define CPUID_BIT(name, ...) FEAT_##name,
#include "spec/cpuid.def"
#undef CPUID_BIT
	FEAT_COUNT
};

struct cpuid_entry { /* layout of kvm_cpuid_entry2 */
	u32 function, index, flags, eax, ebx, ecx, edx, pad[3];
};
#define CPUID_ENTRIES_MAX 256

/* ---- MSRs held by the processor ------------------------------------------------------------------ */

enum msr_slot { /* index into vcpu.msr_val for rows of spec/msr.def with storage */
#define MSR(name, ...) MSR_SLOT_##name,
#include "spec/msr.def"
#undef MSR
	MSR_SLOT_COUNT
};

struct machine;

/* ---- the processor state -------------------------------------------------------------------- */

/*
 * What may run on live vector state without asking cpu_fp_need(); tested by emitted code. FP_LIVE: vector registers and
 * MXCSR are live; FP_HAS_X87: x87 and MMX registers too. FP_LIVE_MIXED: SSE with a register of MMX.
 */
enum fp_live { FP_LIVE = 1, FP_LIVE_X87 = 2, FP_LIVE_SSE = 4, FP_LIVE_AVX = 8, FP_LIVE_MIXED = 16, FP_HAS_X87 = 32 };

#define XSAVE_AREA 4096

#define GROUPS 8

struct vcpu {
	/* hot: touched by emitted code; keep within the first 512 bytes */
	u64 gpr[16];
	u64 rip;
	u64 page_rip;	/* RIP of byte 0 of the page the running trace lies in */
	u16 aflags;	/* SF ZF AF PF CF as LAHF leaves them in bits 15:8, OF in bit 0 */
	u8 fp_live;	/* enum fp_live: guest vector state is in host registers; 0 it is not */
	u8 fp_ok;	/* CR0.TS = EM = 0: x87/SSE may execute; recomputed by cpu_mode_update() */
	u8 tlb_uc;	/* the first-level TLB may hold TLB_UC entries: locked instructions ask C */
	_Atomic u32 request;
	struct tlb_l1 *dtlb; /* the current view */
	struct tlb_l1 *l1; /* [VIEW_NUM], of the running level */
	u64 tlb_gen[2];	/* by level, 1 .. 4095: in the tags of valid tlb_l1.mid and .large */
	u64 fs_base_copy, gs_base_copy; /* of seg[], for emitted code; kept by seg code */
	u64 scratch[8];	/* for emitted code */
	u64 jit_tmp[4];	/* likewise, for translated code */
	struct tlb_slots slots;
	u64 jit_host[GROUPS];	/* host addresses that translated code has checked */
	u32 jit_result;	/* enum op_result that it leaves with */
	u64 icount;	/* instructions retired before the running trace */
	struct bounce bounce;

	/* architectural */
	u64 rflags;	/* all but FLAGS_ARITH; use cpu_rflags() */
	u64 cr0, cr2, cr3, cr4, cr8, xcr0, xss, efer, apic_base;
	u64 dr[4], dr6, dr7;
	struct segment seg[SEG_NUM];
	struct dtable gdtr, idtr;
	u8 cpl;
	u8 csz;		/* code size in bytes: 2, 4, 8 */
	u8 ssz;		/* stack address size in bytes: 2, 4, 8 */
	u64 pdpte[4];	/* PAE paging registers */
	u64 tsc_offset;
	u64 msr_val[MSR_SLOT_COUNT];
	bool msr_was_reset;
	bool smm, smm_inside_nmi_mask;
	u32 smbase;
	u32 pkru;

	/* events and blocking */
	u8 shadow;	/* SHADOW_STI | SHADOW_MOV_SS */
	u8 shadow_now;	/* what was in force when the running instruction began */
	bool nonroot;	/* VMX non-root operation: L2 runs */
	bool ept;	/* its guest-physical addresses go through EPT */
	bool nmi_pending, nmi_masked, smi_pending;
	u8 nmi_count;	/* a second latched NMI */
	struct event exc;	/* raised by the current instruction */
	struct event inj;	/* event whose delivery was interrupted: deliver before anything else */
	struct event pending;	/* exception user space queued as pending (not yet injected) */
	u64 pending_db;		/* DR6 bits of traps to report at the next boundary */
	u8 bus_lock;	/* enum bus_lock of the current instruction, until the boundary after it */
	bool mtrr_mixed; /* MTRRs say something else than write-back somewhere */
	u64 deliver_icount;	/* icount at the last delivery: still the same, no window has opened; ~0: one has */
	u64 deliver_start;	/* crystal time of the windowless interval's start, kept by bus->no_window; 0 = none */
	u32 deliver_rounds;	/* deliveries begun in it */
	bool event_begins;	/* ask bus->event_begins */

	/* memory machinery */
	struct tlb *tlb;	/* of the running level */
	struct tlb *tlbs[2];	/* root, non-root: one of tlb_all */
	struct tlb *tlb_all[1 + TLB_NONROOT]; /* root, then each context of non-root operation */
	struct rcache *rc;
	struct native *native;
	const struct translator *tr; /* NULL: interpreter only */
	struct jit *jit;
	u64 asleep;	/* host TSC ticks from a stop for HLT or MWAIT to the next cpu_run() */
	u64 slept_since; /* such a stop's time; 0 */
	u16 heat;	/* entries of a trace after which it is translated */
	const void *interp_entry; /* how translated code enters a trace that has none */
	struct vmx *vmx;
	struct mmio_state mmio;
	struct pio_state pio;
	gpa_t fault_gpa;
	u64 code_inval[64];	/* REQ_CODE queue: guest-physical pages; protected by code_inval_lock */
	u32 code_inval_n;
	_Atomic u32 code_inval_lock;

	/* where we are */
	struct machine *vm;
	u32 index;	/* dense, 0 .. nvcpus-1 */
	u32 id;		/* APIC id as user space named it */
	const struct insn *cur;	/* record that raised or stopped; valid when cpu_run leaves a trace */
	u64 insn_rip;	/* RIP of the instruction that raised or stopped */
	enum cpu_stop stop;
	_Atomic u32 mode;	/* enum vcpu_mode */
	_Atomic u32 kicked;	/* futex word for HLT and pause */
	u64 mode_key;	/* (epoch << 16) | mode bits; compared by the jump cache */
	u64 epoch[2];	/* of supervisor's and user's jump-cache entries: tlb.c, "what … of code mean" */
	u64 epoch_last;	/* the youngest epoch there is */
	u64 verify;	/* bumped when code may have been written from outside: traces are compared again */
	u64 outside_seen;	/* machine.outside when it last was */
	bool stayed;	/* the next cpu_run() follows one without user space in between */
	bool entered;	/* events are to be looked for as with REQ_EVENT */

	/* stops and debugging */
	struct { u32 index; u8 reason; u8 error; bool done; u64 data, rip; } msr;
	struct { u32 suberror; u32 ndata; u64 data[16]; } internal; /* filled in by cpu_internal() */
	struct { u32 exception; u64 pc, dr6, dr7; } debug_exit;
	bool replay;	/* the instruction at replay_rip waits for PIO, MMIO or MSR completion */
	u64 replay_rip;
	u8 step_mask;	/* reasons to run one instruction at a time; kept by debug_update() */
	u8 watch_mask;	/* DRn that watch data or I/O; kept by debug_update() */
	bool step_tf;	/* TF was set when the instruction being stepped began */
	bool step_rf;	/* RF was: it ends with this instruction */
	struct insn step[2];	/* the instruction being stepped and its end record */
	u32 guest_debug;	/* enum guest_debug as set by user space */
	u64 guest_dr[4], guest_debug_dr7;
	struct { u64 nr, arg[3]; bool wide, done; } hypercall; /* done: RAX has user space's answer */

	/* CPUID as user space set it, and what it implies */
	struct cpuid_entry cpuid[CPUID_ENTRIES_MAX];
	u32 ncpuid;
	u64 features[(FEAT_COUNT + 63) / 64];
	u64 xfeatures;		/* XCR0 bits the guest may ever enable */
	u8 maxphyaddr;
	bool vendor_amd;
	u64 cr4_rsvd;		/* bits a MOV to CR4 must leave clear */

	/* MONITOR/MWAIT */
	gpa_t monitor_gpa;
	bool monitor_armed;

	u32 host_mxcsr;	/* the caller's, while fp_live */
	u16 host_fcw;
	u8 *xsave;	/* XSAVE_AREA bytes, 64-aligned, standard format; valid when !fp_live */
	struct lapic *lapic;	/* src/irq's; NULL without an in-kernel local APIC */
	struct guard_vcpu *guard; /* src/guard's */
	void *owner;	/* struct kvm_vcpu */

	/* members, so that translated code reaches them at a fixed distance */
	struct tlb_l1 l1_sets[2][VIEW_NUM] __attribute__((aligned(64))); /* root, non-root */
	struct jentry jc[JCACHE_SETS][2]; /* the jump cache: rcache.h */
};

#define SHADOW_STI 1
#define SHADOW_MOV_SS 2

enum vcpu_mode { VCPU_OUTSIDE, VCPU_IN_GUEST, VCPU_PAUSED };

/**
 * enum lock_answer - what becomes of a bus lock
 * @LOCK_RUN: it is performed, with the other vCPUs paused
 * @LOCK_AC: the instruction gets the exception of split-lock or UC-lock detection
 * @LOCK_STOP: v->stop is set; the instruction was not executed
 */
enum lock_answer { LOCK_RUN, LOCK_AC, LOCK_STOP };
enum lock_kind { LOCK_SPLIT, LOCK_UC };
enum bus_lock { BUS_LOCK_DONE = 1, BUS_LOCK_TRAP = 2 /* #DB after the instruction */ };

#include "cpu/bus.h"

enum msr_reason { MSR_REASON_INVAL = 1, MSR_REASON_UNKNOWN = 2, MSR_REASON_FILTER = 4 };
enum quirk { /* bits of machine.quirks_disabled: the kernel's KVM_X86_QUIRK_* */
	QUIRK_LINT0_REENABLED = 1 << 0, QUIRK_CD_NW_CLEARED = 1 << 1, QUIRK_LAPIC_MMIO_HOLE = 1 << 2,
	QUIRK_OUT_7E_INC_RIP = 1 << 3, QUIRK_MISC_ENABLE_NO_MWAIT = 1 << 4, QUIRK_FIX_HYPERCALL_INSN = 1 << 5,
	QUIRK_MWAIT_NEVER_UD_FAULTS = 1 << 6,
};

/* Host writes to TSC MSRs that belong together: see msr_sys.c. */
struct tsc_sync {
	_Atomic u32 lock;
	bool valid;
	u64 offset;
};

/**
 * struct machine - what the vCPUs of one VM share, below the KVM API
 */
struct machine {
	struct mem mem;
	struct vcpu *vcpu[VCPU_MAX];
	_Atomic u32 nvcpus;
	const struct cpu_bus *bus;
	_Atomic u32 pause_lock;	/* 0 free, else who pauses: vCPU index + 1, or bit 31 and a thread id */
	_Atomic u32 pause_seq;	/* futex: bumped at resume */
	u32 pause_depth;	/* nesting by the owner of pause_lock */
	_Atomic u64 outside;	/* bumped when user space or a device may have written code, before it interrupts */
	_Atomic u32 ack_seq;	/* futex: bumped when a vCPU leaves guest mode */
	u64 quirks_disabled;	/* enum quirk: KVM_CAP_DISABLE_QUIRKS2 mask */
	bool emulation_exits;	/* KVM_CAP_EXIT_ON_EMULATION_FAILURE */
	struct nested_model nested;
	bool platform_info_denied; /* KVM_CAP_MSR_PLATFORM_INFO off: guest RDMSR is #GP */
	struct tsc_sync tsc_sync;
	struct irqchip *irq;	/* src/irq's */
	struct guard *guard;	/* src/guard's */
	void *owner;		/* struct kvm_vm */
};

/* ---- life cycle ----------------------------------------------------------------------------- */

int machine_init(struct machine *m, const struct cpu_bus *bus, void *owner);
void machine_destroy(struct machine *m);
/* Allocate a vCPU in the RESET state; NULL and errno on failure. Everything KVM_RUN needs is made here. */
struct vcpu *vcpu_create(struct machine *m, u32 id);
void vcpu_destroy(struct vcpu *v);
/* Architectural reset (init = INIT, keeps what INIT keeps). [SDM3A "Processor State After Reset"] */
void vcpu_reset(struct vcpu *v, bool init);

/**
 * cpu_run() - run guest instructions on the calling thread
 *
 * Return: why it stopped; details in the struct vcpu. Never returns CPU_RUN.
 */
enum cpu_stop cpu_run(struct vcpu *v);

/**
 * cpu_complete() - finish the instruction that stopped for PIO, MMIO, an MSR or a hypercall, and nothing more
 *
 * For immediate_exit: user space's answer takes effect without running the guest further. cpu_run()
 * does the same by itself. Dropped when user space moved RIP meanwhile.
 *
 * Return: CPU_RUN, or why the completed instruction stopped again.
 */
enum cpu_stop cpu_complete(struct vcpu *v);

/* Set request bits and, when the vCPU may be waiting, wake it. Any thread; async-signal-safe. */
void vcpu_request(struct vcpu *v, u32 bits);

/* ---- pausing: the one primitive (design rule 5) --------------------------------------------- */

/*
 * vm_pause(): returns when no other vCPU of m executes guest code or touches guest memory; they
 * wait in the request check. self = the calling vCPU or NULL. A waiting requester counts as paused,
 * so two requesters never deadlock. vm_resume(): post_request bits are set on every other vCPU first.
 * cpu_pause_point(): called by cpu_run() for REQ_PAUSE, and by KVM_RUN entry.
 */
void vm_pause(struct machine *m, struct vcpu *self);
void vm_resume(struct machine *m, struct vcpu *self, u32 post_request);
void cpu_enter_guest(struct vcpu *v);
void cpu_leave_guest(struct vcpu *v);
void cpu_pause_point(struct vcpu *v);
/**
 * vcpu_sleep() - wait outside guest mode until a request arrives (HLT, MP states)
 * @v: the calling thread's vCPU
 * @mask: request bits that end the wait; already set ones return at once
 * @timeout_ns: < 0: none
 *
 * Return: 0 a request; -ETIMEDOUT; -EINTR a signal arrived.
 */
int vcpu_sleep(struct vcpu *v, u32 mask, s64 timeout_ns);

/* ---- flags ---------------------------------------------------------------------------------- */

static inline u64 cpu_rflags(const struct vcpu *v)
{
	return v->rflags | ((v->aflags >> 8) & (FLAGS_ARITH & 0xff)) | ((u64)(v->aflags & 1) << 11);
}

/* Store all bits; FLAG_FIXED is forced. Mode side effects are the caller's (cpu_mode_update()). */
static inline void cpu_set_rflags(struct vcpu *v, u64 f)
{
	v->rflags = (f & ~(u64)FLAGS_ARITH) | FLAG_FIXED;
	v->aflags = (u16)(((f & 0xd5) << 8) | ((f >> 11) & 1));
}

/* RIP of a record of the running trace, and of the instruction after it. */
static inline u64 cpu_insn_rip(const struct vcpu *v, const struct insn *i)
{
	return v->page_rip + i->off;
}

static inline u64 cpu_next_rip(const struct vcpu *v, const struct insn *i)
{
	return v->page_rip + i->off + i->len;
}

/* An event window: the processor could have taken an interrupt. A retired instruction is one by itself. */
static inline void cpu_window(struct vcpu *v)
{
	v->deliver_icount = ~0ull;
	v->deliver_start = 0;
}

/* Why the engine gives up; the values of KVM_INTERNAL_ERROR_* where there is one. */
enum internal_error { INTERNAL_ENGINE, INTERNAL_EMULATION };

/**
 * cpu_internal() - stop the vCPU at this instruction with CPU_STOP_INTERNAL
 * @why: INTERNAL_ENGINE a fault of ours, INTERNAL_EMULATION what KVM's emulator cannot do either
 *
 * Nothing of an earlier stop is left: user space is shown what is there. Return: OP_STOP.
 */
static inline int cpu_internal(struct vcpu *v, enum internal_error why)
{
	v->stop = CPU_STOP_INTERNAL;
	v->internal.suberror = why;
	v->internal.ndata = 0;
	return OP_STOP;
}

static inline bool cpu_has(const struct vcpu *v, enum feature f)
{
	return v->features[f / 64] >> (f % 64) & 1;
}

static inline bool cpu_long_mode(const struct vcpu *v) { return v->efer & EFER_LMA; }
static inline bool cpu_code64(const struct vcpu *v) { return v->csz == 8; }
static inline bool cpu_prot(const struct vcpu *v) { return v->cr0 & CR0_PE; }
static inline bool cpu_v86(const struct vcpu *v) { return v->rflags & FLAG_VM; }

enum mode_bits { /* low bits of vcpu.mode_key: what changes decoding or fetching */
	MODE_CSZ_16 = 0, MODE_CSZ_32 = 1, MODE_CSZ_64 = 2, MODE_CSZ = 3,
	MODE_USER = 1 << 2,	/* CPL 3 */
	MODE_SMM = 1 << 3,
	MODE_SSE = 1 << 4,	/* CR4.OSFXSR = 1, CR0.EM = 0: SSE instructions are defined */
	MODE_AVX = 1 << 5,	/* CR4.OSXSAVE = 1, XCR0 enables SSE and AVX: VEX instructions are defined */
	MODE_NONROOT = 1 << 7,	/* L2: instructions that L1 can intercept are bound to its intercepts */
	MODE_RANDOM_EXITS = 1 << 8, /* L1 intercepts RDRAND or RDSEED */
	MODE_PROT = 1 << 6,	/* protected mode and not virtual-8086: VEX, LLDT and friends are defined */
	MODE_VIEW_SHIFT = 9,	/* enum tlb_view in two bits: translated code probes it directly */
	MODE_VIEW = 3 << MODE_VIEW_SHIFT,
};

/**
 * struct translator - the second tier, if there is one (src/jit)
 * @enter, @leave: the vCPU's thread begins and ends cpu_run()
 * @translate: a trace has become warm; trace.code is set if it worked
 * @drop: a trace is invalid from now on; the vCPU is the caller's or paused
 * @unlink: its translation stays, but others may not go to it directly any more
 * @relink: now they may
 * @flush: all traces are
 * @fault: a host signal arrived; as native_fault()
 * @run: in place of native_run(), to compare the tiers; normally NULL
 */
struct translator {
	void (*enter)(struct vcpu *v);
	void (*leave)(struct vcpu *v);
	void (*translate)(struct vcpu *v, struct trace *t);
	void (*drop)(struct vcpu *v, struct trace *t);
	void (*unlink)(struct vcpu *v, struct trace *t);
	void (*relink)(struct vcpu *v, struct trace *t);
	void (*flush)(struct vcpu *v);
	bool (*fault)(struct vcpu *v, int vector, void *uctx);
	void (*destroy)(struct vcpu *v);
	int (*run)(struct vcpu *v, const struct insn *first);
};

/* Derive cpl (SS.DPL), csz, ssz, fp_ok, dtlb view and mode_key after any change to CR0, CR4, XCR0, EFER,
 * RFLAGS.{VM,AC}, CS or SS. */
void cpu_mode_update(struct vcpu *v);

/* ---- exceptions (exc.c) ---------------------------------------------------------------------- */

/* Record a fault of the current instruction; always returns OP_EXC. */
int cpu_raise(struct vcpu *v, u8 vector);			/* no error code */
int cpu_raise_err(struct vcpu *v, u8 vector, u32 error);
int cpu_raise_pf(struct vcpu *v, gva_t la, u32 error);
/* #DB fault (instruction breakpoint, general detect) with DR6 bits. Traps go into vcpu.pending_db. */
int cpu_raise_db(struct vcpu *v, u64 dr6_bits);
#define RAISE_GP0(v) cpu_raise_err((v), EXC_GP, 0)
#define RAISE_UD(v) cpu_raise((v), EXC_UD)

/**
 * cpu_deliver() - deliver v->inj through IDT or IVT, with every nested fault until one handler
 * starts, shutdown, or a stop
 *
 * v->rip is the return address; for a software event with insn_len it is that of the INT itself. Looks at
 * v->request each round (design rule 3): on a stop nothing is committed and v->inj stays valid. Benign loops
 * are counted and reported through bus->no_window.
 *
 * Return: OP_JUMP the handler's first instruction is next; OP_STOP v->stop says why; OP_AGAIN a request
 * below REQ_OWNER is set: serve it and call again.
 */
int cpu_deliver(struct vcpu *v);

/* ---- debugging (debug.c) ---------------------------------------------------------------------- */

enum step_reason { STEP_EXEC_BREAKPOINT = 1, STEP_GUEST_DEBUG = 2, STEP_MTF = 4 };
enum guest_debug { /* the kernel's KVM_GUESTDBG_* values */
	GUESTDBG_ENABLE = 1, GUESTDBG_SINGLESTEP = 2, GUESTDBG_USE_SW_BP = 1 << 16,
	GUESTDBG_USE_HW_BP = 1 << 17, GUESTDBG_INJECT_DB = 1 << 18, GUESTDBG_INJECT_BP = 1 << 19,
	GUESTDBG_BLOCKIRQ = 1 << 20,
};
/* DR7 in effect: the outside debugger's while it uses hardware breakpoints, else the guest's. */
u64 debug_dr7(const struct vcpu *v);
/* #DB about to be delivered belongs to the outside debugger: stop filled in, caller drops the event. */
bool debug_intercept(struct vcpu *v, const struct event *ev);
/* INT3 at v->rip: OP_STOP if the outside debugger wants it, else OP_NEXT. */
int debug_software_breakpoint(struct vcpu *v);
/* A data access while v->watch_mask != 0: sets pending_db on a match. acc = ACC_R/ACC_W. */
void debug_data_access(struct vcpu *v, gva_t la, unsigned int size, u32 acc);
/* Is a data breakpoint armed? Asked when v->watch_mask != 0. */
bool debug_watches_data(const struct vcpu *v);
void debug_io_access(struct vcpu *v, u16 port, unsigned int size);
/* Recompute v->step_mask after a change of DR7, guest_debug or their addresses. */
void debug_update(struct vcpu *v);
/* Before the instruction at v->rip: instruction breakpoints. OP_NEXT, OP_EXC (#DB fault) or OP_STOP. */
int debug_check_exec(struct vcpu *v);
/* After a retired instruction (again: a REP iteration): clear RF, turn TF into pending_db, stop for
 * KVM_GUESTDBG_SINGLESTEP by setting v->stop. */
void debug_after_insn(struct vcpu *v, bool again);

/* ---- decoded code (rcache.c) -------------------------------------------------------------------- */

int rcache_init(struct vcpu *v);
void rcache_destroy(struct vcpu *v);
/* gpa..gpa+len is overwritten: traces there are stale from now on. True if something could still lead to one. */
bool rcache_invalidate(struct vcpu *v, gpa_t gpa, unsigned int len);
void rcache_flush(struct vcpu *v);
/* v is about to sleep, in guest mode still: when it has hardly run of late, give the memory of its traces back. */
void rcache_rest(struct vcpu *v);
/* Store to a page some vCPU has decoded (code_users != 0): invalidate here, notify the others. */
bool code_written(struct vcpu *v, struct memslot *s, gpa_t gpa, unsigned int len);

/* ---- vector state (fpu.c) ---------------------------------------------------------------------- */

void cpu_fp_recheck(struct vcpu *v);	/* CR0, CR4 or XCR0 changed while fp_live */
void cpu_fp_load(struct vcpu *v);	/* vector state of the xsave area -> host registers; sets fp_live */
void cpu_fp_reload(struct vcpu *v, u8 live);	/* at least what was live then */
void cpu_fp_spill(struct vcpu *v);	/* host registers -> xsave area if fp_live; clears it */

/* ---- segments, modes (seg.c, task.c) ----------------------------------------------------------- */

int seg_load(struct vcpu *v, enum seg seg, u16 sel);		/* MOV/POP to a data segment or SS */
int cpu_task_switch(struct vcpu *v, u16 sel, int reason, bool has_err, u32 err);
void seg_set_real(struct vcpu *v, enum seg seg, u16 sel);	/* real mode / v86 load */

int cpu_set_cr0(struct vcpu *v, u64 val);	/* 0 or OP_EXC; guest semantics */
int cpu_set_cr3(struct vcpu *v, u64 val);
int cpu_set_cr4(struct vcpu *v, u64 val);
int cpu_set_xcr0(struct vcpu *v, u64 val);
bool cpu_cr0_valid(const struct vcpu *v, u64 val);
bool cpu_cr4_valid(const struct vcpu *v, u64 val);
bool cpu_xcr0_valid(const struct vcpu *v, u64 val);

/* ---- MSRs, CPUID (msr.c, cpuid.c) ---------------------------------------------------------------- */

/* host = access by KVM_GET/SET_MSRS: relaxed rules. 0; -EINVAL #GP; -EREMOTE user space; -ENOENT unknown */
int cpu_rdmsr(struct vcpu *v, u32 index, u64 *val, bool host);
int cpu_wrmsr(struct vcpu *v, u32 index, u64 val, bool host);
/* Fill entries with everything this host and engine can give (KVM_GET_SUPPORTED_CPUID); count out. */
u32 cpuid_supported(struct cpuid_entry *e, u32 max);
/* Adopt v->cpuid[0..ncpuid): features, reserved bits, xfeatures. */
void cpuid_adopt(struct vcpu *v);
/* CPUID instruction */
void cpuid_eval(struct vcpu *v, u32 leaf, u32 sub, u32 out[4]);
/* What KVM_GET_CPUID2 shows for an entry now: OSXSAVE, OSPKE, APIC and XSAVE sizes filled in. */
void cpuid_dynamic(const struct vcpu *v, struct cpuid_entry *e);
/* The processor signature: CPUID.1:EAX, what EDX holds after reset. */
u32 cpuid_signature(const struct vcpu *v);
/* KVM_GET_MSR_INDEX_LIST (feature = false) or KVM_GET_MSR_FEATURE_INDEX_LIST; n = count. */
const u32 *msr_list(bool feature, u32 *n);
/* Value of a feature MSR without a vCPU (KVM_GET_MSRS on the system fd): 0 or -EINVAL. */
int msr_feature(u32 index, u64 *val);

/* ---- bus locks (lock.c) ------------------------------------------------------------------------------ */

/* What the guest's own MSR_TEST_CTRL asks for: LOCK_AC or LOCK_RUN. */
enum lock_answer cpu_lock_detect(const struct vcpu *v, enum lock_kind kind);
/* May this bus lock be performed? 0, or OP_EXC / OP_STOP. */
int cpu_lock_ask(struct vcpu *v, enum lock_kind kind, gva_t la, u32 size);
/* The current instruction has performed one. */
void cpu_bus_locked(struct vcpu *v);
/* At the boundary while v->bus_lock is set: true, v->stop is set. */
bool cpu_bus_lock_boundary(struct vcpu *v);
/* MTRRs changed. */
void cpu_mtrr_update(struct vcpu *v);

#include "cpu/mmu.h"
