#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a manager does with a running QEMU: stop and cont, idling, statistics, traces, wrong commands."""
import os
import re
import subprocess
import sys
import time

from vm import BUILD, CASEMENT, Tap, Vm, need_qemu

need_qemu()
tap = Tap()
BUSY = "while :; do :; done & echo busy; while :; do :; done"


def stop_latency():
    """The time from the command to the event: under full load of two vCPUs."""
    with Vm("-M", "q35", "-smp", "2", script=BUSY) as v:
        v.expect(r"^busy$", 90)
        took = []
        for _ in range(30):
            v.qmp.events.clear()
            t = time.monotonic()
            v.qmp.cmd("stop")
            v.qmp.event("STOP", 10)
            took.append((time.monotonic() - t) * 1e3)
            v.qmp.cmd("cont")
            time.sleep(0.02)
        took.sort()
        quick, middle, worst = (took[len(took) * n // 100] for n in (20, 50, 99))
        text = f"p20 {quick:.1f} ms, p50 {middle:.1f} ms, worst {worst:.1f} ms"
        # A busy machine's scheduler has its say in most of them, so the quick ones vote.
        return text if quick < 5 else (False, text)


def idle():
    with Vm("-M", "q35", script="echo idle; sleep 1000") as v:
        v.expect(r"^idle$", 90)
        time.sleep(1)
        t, c = time.monotonic(), v.cpu_seconds()
        time.sleep(5)
        share = (v.cpu_seconds() - c) / (time.monotonic() - t) * 100
        text = f"{share:.1f} % of a core"
        return (False, text) if share > 3 else text


def stats():
    with Vm("-M", "q35", script="echo up; sleep 1000") as v:
        v.expect(r"^up$", 90)
        got = {s["name"]: s["value"] for s in
               v.qmp.cmd("query-stats", target="vcpu", vcpus=["/machine/unattached/device[0]"])[0]["stats"]}
        want = ["notify_window_exits", "exits", "halt_exits", "io_exits"]
        missing = [w for w in want if w not in got]
        if missing or not got["exits"] or got["notify_window_exits"]:
            return False, f"missing {missing}: {got}"
        return f"exits {got['exits']}, notify_window_exits {got['notify_window_exits']}"


def trace():
    """Each line is a call that the tables know, and what failed is what fails on the kernel's KVM too."""
    path = os.path.join(BUILD, f"with.trace.{os.getpid()}")
    try:
        with Vm("-M", "q35", "-no-reboot", script="poweroff -f",
                run=[CASEMENT, "with", f"--trace={path}", "--", "qemu-system-x86_64"]) as v:
            v.wait(90)
        with open(path) as f:
            lines = f.read().splitlines()
        odd = [l for l in lines if not re.match(r"\d+ \d+\.\d{6} (open|close|ioctl)\(.*\) = -?\d+", l)]
        raw = [l for l in lines if re.search(r"<(sys|vm|vcpu)>, 0x", l)]
        bad = [l for l in lines if " = -1 " in l and not re.search(
            r"E2BIG|KVM_RUN, .* = -1 E(INTR|AGAIN)|KVM_KVMCLOCK_CTRL.* EINVAL|KVM_IOEVENTFD.* ENOSPC", l)]
        runs = sum("KVM_RUN" in l for l in lines)
        if odd or raw or bad or runs < 100:
            return False, "\n".join((odd + raw + bad)[:20]) or f"{runs} KVM_RUN"
        return f"{len(lines)} lines, {runs} of KVM_RUN, no unexpected call"
    finally:
        if os.path.exists(path):
            os.unlink(path)


def refuses(name, args, says, env=None):
    p = subprocess.run([CASEMENT, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, timeout=20, env={**os.environ, **(env or {})})
    tap.point(p.returncode in (1, 2) and re.search(says, p.stderr) and p.stderr.count("\n") == 1, name,
              f"status {p.returncode}: {p.stderr}")


tap.run("QMP stop takes effect within 5 ms under full load", stop_latency)
tap.run("an idle guest takes at most 3 % of a core", idle)
tap.run("query-stats", stats)
tap.run("--trace from power-on to power-off", trace)
refuses("a static program is refused", ["with", "--", os.path.join(BUILD, "casement-static"), "version"], "static")
refuses("a missing preload", ["with", "true"], "CASEMENT_PRELOAD.*No such file",
        {"CASEMENT_PRELOAD": "/nonexistent/lib.so"})
refuses("a preload that the loader refuses", ["with", "true"], "cannot be preloaded", {"CASEMENT_PRELOAD": CASEMENT + ".txt"}
        if os.path.exists(CASEMENT + ".txt") else {"CASEMENT_PRELOAD": "/proc/version"})
refuses("no such program", ["with", "--", "no-such-program"], "no such program")
refuses("no program", ["with"], "no command")
refuses("an unknown option", ["with", "--nonsense", "true"], "unknown option")
tap.end()
