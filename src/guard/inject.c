/* SPDX-License-Identifier: MIT */
/*
 * Fault injection: what no hardware does on demand.
 */
#include "guard/guard.h"

void guard_corrupt(struct vcpu *v)
{
	v->gpr[GPR_RSP] ^= 0x5aa5c33c0ff0ull;
	v->rip ^= 0xa55a3cc3f00full;
	v->inj.valid = false;
}
