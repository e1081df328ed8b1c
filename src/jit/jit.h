/* SPDX-License-Identifier: MIT */
/*
 * The translator: warm traces become blocks of host code.
 *
 * A block is the trace's own instructions with registers renamed and memory operands checked inline; everything
 * that is not copied calls the interpreter's handler with the state spilled. doc/design/engine.md has the
 * measurements behind the choices.
 */
#pragma once
#include "base/base.h"
#include "cpu/cpu.h"

/**
 * jit_attach() - give a vCPU the translator
 * @v: newly created
 *
 * Return: 0; -EOPNOTSUPP the host lacks what translated code needs (RDGSBASE, BMI2); -EINVAL CASEMENT_FORCE or
 * CASEMENT_HEAT is wrong, as has been told on stderr; -ENOMEM or -errno of xmem_create().
 */
int jit_attach(struct vcpu *v);

/* @cost: what translating took */
struct jit_stats {
	u64 blocks, insns, guest_bytes, host_bytes, flushes, slow, ops, resumed, apart, unslotted;
	struct cost cost;
};
