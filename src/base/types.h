/* SPDX-License-Identifier: MIT */
/*
 * The integer names every room uses, and nothing else.
 *
 * gpa_t, gva_t and hva_t say which address space a number lives in: guest-physical, guest-linear
 * ("virtual" after segmentation) and host-virtual.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef unsigned __int128 u128;

typedef u64 gpa_t;
typedef u64 gva_t;
typedef u8 *hva_t;

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define BIT(n) (1ull << (n))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096u
#define PAGE_MASK (~(u64)(PAGE_SIZE - 1))
