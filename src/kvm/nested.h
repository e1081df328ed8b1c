/* SPDX-License-Identifier: MIT */
#pragma once
#include "kvm/kvm.h"

/* KVM_CHECK_EXTENSION(KVM_CAP_NESTED_STATE): the largest image in bytes. */
long nested_state_size(void);
/* What the VM's options say. */
void nested_init_vm(struct kvm_vm *vm);
/* A vCPU's capabilities and preemption timer. */
void nested_init(struct kvm_vcpu *k);
void nested_destroy(struct kvm_vcpu *k);
/* Is L2 in the shutdown activity state? Only VM entry puts it there. */
bool nested_shut_down(const struct kvm_vcpu *k);
/* Serve a requested triple fault: true when L2 took it, or when it came too late for L2. */
bool nested_triple_fault(struct kvm_vcpu *k);
/* A notify exit of L2 inside L1's own window: true when L1 has been given it. */
bool nested_notify_owned(struct kvm_vcpu *k);
/* One of L0's with an invalid context, by nested-notify-invalid: false when the monitor is to be told. */
bool nested_notify_invalid(struct kvm_vcpu *k);
void nested_bus_invalid(struct vcpu *v);
void nested_bus_timer(struct vcpu *v, u64 ticks);
