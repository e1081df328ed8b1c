/* SPDX-License-Identifier: MIT */
/* Numbers that boot.S and C share. */
#pragma once

#define SEL_CODE32 0x08
#define SEL_DATA 0x10
#define SEL_CODE 0x18
#define SEL_USER32 0x23
#define SEL_USER_DATA 0x2b
#define SEL_USER 0x33
#define SEL_TSS 0x40
#define SEL_SPARE 0x50
#define GDT_SIZE (26 * 8)
#define AP_START 0x8000
#define ALIAS_SLOT 2
#define ALIAS 0x10000000000
