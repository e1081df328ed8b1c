/* SPDX-License-Identifier: MIT */
/* The XSAVE area as the handlers of x87 environments and of the XSAVE family see it. */
#pragma once
#include "cpu/fpu.h"

/* Offsets in an XSAVE area [SDM1 "XSAVE Area"] */
#define XSAVE_XMM_BYTES 256
#define XSAVE_BV 512
#define XSAVE_IMAGE_MAX 1024

/* The bits an Intel processor lets MXCSR have. */
#define MXCSR_MASK 0xffffu

/* Guest vector state into vcpu.xsave: every component written out, host-only fields cleared. */
u8 *xstate_spill(struct vcpu *v);
/* Guest memory <-> engine memory in pieces of 64 bytes. 0, or what cpu_read()/cpu_write() returned. */
int xstate_copy_out(struct vcpu *v, enum seg seg, u64 ea, const u8 *src, unsigned int n);
int xstate_copy_in(struct vcpu *v, enum seg seg, u64 ea, u8 *dst, unsigned int n);
