/* SPDX-License-Identifier: MIT */
/*
 * Event delivery, private to the processor: one attempt at one event (deliver.c), and the double-fault
 * matrix (exc.c).
 */
#pragma once
#include "cpu/cpu.h"

enum exc_class { EXC_CLASS_BENIGN, EXC_CLASS_CONTRIBUTORY, EXC_CLASS_PAGEFAULT, EXC_CLASS_DOUBLE };
enum exc_combine { EXC_SERIAL, EXC_DOUBLE_FAULT, EXC_SHUTDOWN };

enum exc_class exc_class(u8 vector);
bool exc_has_error(u8 vector);
bool exc_is_fault(u8 vector);
/* What second does to the delivery of first. [SDM3A Table "Conditions for Generating a Double Fault"] */
enum exc_combine exc_combine(const struct event *first, const struct event *second);

/* Move CR2 or DR6 to what the event says; once. */
void event_apply_payload(struct vcpu *v, struct event *ev);

/* One attempt: OP_JUMP delivered; OP_EXC v->exc was raised and nothing but memory changed; OP_STOP. */
int deliver_event(struct vcpu *v, const struct event *ev);
