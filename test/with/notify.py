#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""QEMU's own containment with hostile boot sectors: -accel kvm,notify-vmexit=…, -machine bus-lock-ratelimit=…"""
import os
import re
import time

from vm import BUILD, Tap, Vm, need_qemu, skip_all

need_qemu()
AC, LOCKS = (os.path.join(BUILD, "test", "with", f"hostile-{n}.img") for n in ("ac", "locks"))
if not os.path.exists(AC):
    skip_all("nasm is not installed")
tap = Tap()


def vm(image, opts="", accel="kvm", machine="pc"):
    return Vm("-M", machine, "-drive", f"file={image},format=raw,snapshot=on", kernel=False, mem="64M",
              accel=accel, env={"CASEMENT_OPTS": opts})


def wait_stderr(v, pattern, limit=20):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if re.search(pattern, v.stderr()):
            return True
        v.read(0.1)
    return False


def stopped(opts, accel, says, state="internal-error"):
    """The VM must end up in this state, after QEMU has said this."""
    with vm(AC, opts, accel) as v:
        v.expect(">", 60)
        end = time.monotonic() + 20
        while (got := v.qmp.cmd("query-status")["status"]) == "running" and time.monotonic() < end:
            time.sleep(0.05)
        said = wait_stderr(v, says, 5)
        return got == state and said, f"{got}\n{v.stderr()}"


def runs(opts, accel, says):
    """The guest hangs for ever, the VM runs and can be stopped."""
    with vm(AC, opts, accel) as v:
        v.expect(">", 60)
        if says and not wait_stderr(v, says):
            return False, v.stderr()
        time.sleep(0.5)
        if not v.qmp.cmd("query-status")["running"]:
            return False, f"not running\n{v.stderr()}"
        t = time.monotonic()
        v.qmp.cmd("stop")
        v.qmp.event("STOP", 10)
        took = (time.monotonic() - t) * 1e3
        exits = {s["name"]: s["value"] for s in
                 v.qmp.cmd("query-stats", target="vcpu", vcpus=["/machine/unattached/device[0]"])[0]["stats"]}
        n = exits["notify_window_exits"]
        good = took < 500 and (n > 0) == bool(says) and v.stderr().count("notify exit") <= 1
        return f"stop in {took:.1f} ms, notify_window_exits {n}" if good else (False, f"{took} ms, {n} exits\n{v.stderr()}")


VALID, INVALID = "notify exit with valid context", "notify exit with invalid context"
tap.run("intercepted as KVM does: internal error 2", lambda: stopped("", "kvm", r"Suberror: 2"))
tap.run("notify-vmexit=run: goes on, warned once, counted", lambda: runs("intercepts=drop", "kvm,notify-vmexit=run", VALID))
tap.run("notify-vmexit=internal-error: stopped",
        lambda: stopped("intercepts=drop", "kvm,notify-vmexit=internal-error", VALID))
tap.run("notify-vmexit=disable: hangs, yet can be stopped", lambda: runs("intercepts=drop", "kvm,notify-vmexit=disable", None))
tap.run("notify-vmexit=disable, our own policy: stopped",
        lambda: stopped("intercepts=drop,notify-vmexit=internal-error", "kvm,notify-vmexit=disable", r"Suberror: 3"))
for mode in ("run", "internal-error"):
    tap.run(f"notify-vmexit={mode}, invalid context injected: stopped",
            lambda m=mode: stopped("intercepts=drop,inject=context-invalid:flag", f"kvm,notify-vmexit={m}", INVALID))


def dots(machine):
    """Thousands of bus locks within three seconds."""
    with vm(LOCKS, machine=machine) as v:
        v.expect(">", 60)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            v.read(0.2)
        return v.text.count(".") * 0.256


def ratelimit():
    free, limited = dots("pc"), dots("pc,bus-lock-ratelimit=1000")
    text = f"{free / 3:.0f} thousand bus locks a second, limited {limited / 3:.1f} thousand"
    return text if limited / 3 < 8.3 and free > 4 * limited else (False, text)


tap.run("bus-lock-ratelimit=1000 throttles", ratelimit)
tap.end()
