/* SPDX-License-Identifier: MIT */
/* Declarations of every C instruction handler, from spec/insn.def. */
#pragma once
#include "cpu/cpu.h"

#define native_row NULL /* handler column of rows that run natively */
#define INSN(id, mnemonic, form, handler, ...) INSN_DECL_##handler
#undef INSN

int op_ud(struct vcpu *v, const struct insn *i);
