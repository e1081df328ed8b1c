/* SPDX-License-Identifier: MIT */
/* Declarations of every C instruction handler named in spec/insn.def. */
#pragma once
#include "cpu/cpu.h"
