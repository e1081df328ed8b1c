/* SPDX-License-Identifier: MIT */
/*
 * System-management mode. [SDM3C "System Management Mode"]
 *
 * In SMM the vCPU sees address space 1 of the memory slots: everything that reads or writes guest memory
 * passes vcpu.smm as the address space.
 */
#pragma once
#include "cpu/cpu.h"

/**
 * smm_enter() - take a system-management interrupt at this boundary
 * @v: the vCPU, outside SMM, with no event half delivered
 *
 * Saves the state in SMRAM, in KVM's layout: the 64-bit map if the guest's CPUID has long mode, else the
 * 32-bit one. A part of SMRAM that is not memory loses what is stored there.
 */
void smm_enter(struct vcpu *v);

/**
 * smm_leave() - RSM
 * @v: the vCPU, in SMM
 *
 * Return: OP_JUMP, the interrupted program's next instruction is in vcpu.rip; OP_STOP with CPU_STOP_SHUTDOWN
 * when the state in SMRAM is one the processor cannot have, with CPU_STOP_INTERNAL when SMRAM cannot be
 * read.
 */
int smm_leave(struct vcpu *v);

/* Be in SMM or not, nothing else changed: KVM_SET_VCPU_EVENTS. */
void smm_set(struct vcpu *v, bool on);
