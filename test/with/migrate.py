#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
usage: migrate.py [-l]
A guest that computes checksums is saved and loaded, and moved from one QEMU to the next while it runs: three times, -l
twenty. Every checksum it prints, wherever, must be the right one, none may be missing, and the stopped source and the
target that has not begun have the same memory.
"""
import hashlib
import os
import subprocess
import sys
import time

from vm import Tap, Vm, need_qemu

need_qemu()
tap = Tap()
LONG = "-l" in sys.argv
ROUNDS = 20 if LONG else 3
MEM = 192

# Each step depends on the one before: a lost or doubled instruction, page or device byte shows up in all that follow.
# Beside it, memory that must stay as it is, and memory that is written all the time.
SCRIPT = """
dd if=/dev/urandom of=/tmp/still bs=1M count=16 2>/dev/null
(cd /tmp; sha256sum still >sum
while sha256sum -s -c sum; do dd if=/dev/urandom of=busy bs=64k count=16 2>/dev/null; done; echo "still memory CHANGED") &
s=begin i=0
while :; do
    s=$( (echo $s; dd if=/dev/zero bs=4k count=16 2>/dev/null) | sha256sum | cut -c1-32)
    i=$((i+1))
    echo "step $i $s"
done"""
right = ["begin"]


def answer(i):
    while len(right) <= i:
        right.append(hashlib.sha256(right[-1].encode() + b"\n" + bytes(65536)).hexdigest()[:32])
    return right[i]


def check(text, first, last):
    """The steps of a console, whole lines only; (good, what is wrong)."""
    seen = {}
    for line in text.split("\n")[:-1]:
        w = line.split()
        if len(w) == 3 and w[0] == "step" and w[1].isdigit():
            seen[int(w[1])] = w[2]
    for i in range(first, last + 1):
        if seen.get(i) != answer(i):
            return False, f"step {i}: {seen.get(i)}, want {answer(i)}\n{text[-400:]}"
    return "CHANGED" not in text, text[-400:]


def steps(text):
    return max([int(l.split()[1]) for l in text.split("\n")[:-1] if l.startswith("step ")], default=0)


def vm(*args, **kw):
    return Vm("-M", "q35", "-smp", "2", "-no-reboot", *args, script=SCRIPT, mem=f"{MEM}M", **kw)


def memory(v):
    path = os.path.join(v.tmp, "memory")
    v.qmp.cmd("pmemsave", val=0, size=MEM << 20, filename=path)
    with open(path, "rb") as f:
        data = f.read()
    os.unlink(path)
    return data


def hop(a, b, sock):
    """Moves the guest of a, which goes on running, to b, which waits; the milliseconds it stood still."""
    a.qmp.cmd("migrate", uri=f"unix:{sock}")
    end = time.monotonic() + 120
    while (r := a.qmp.cmd("query-migrate")).get("status") not in ("completed", "failed"):
        if time.monotonic() > end:
            raise TimeoutError(f"migration: {r}")
        a.read(0.05)
    if r["status"] != "completed":
        raise RuntimeError(f"migration: {r} {a.stderr()} {b.stderr()}")
    while b.qmp.cmd("query-status")["status"] == "inmigrate":
        time.sleep(0.02)
    left, there = memory(a), memory(b)
    if left != there:
        page = [i for i in range(0, len(left), 4096) if left[i:i + 4096] != there[i:i + 4096]]
        at = [i for i in range(page[0], page[0] + 4096) if left[i] != there[i]]
        # kvmclock's wall clock is written once more when its MSR is restored: version, seconds, nanoseconds.
        if len(page) > 1 or at[-1] - at[0] >= 12:
            raise RuntimeError(f"{len(page)} pages differ, the first at {at[0]:#x}: "
                               f"{left[at[0]:at[-1] + 1].hex()[:64]}, {there[at[0]:at[-1] + 1].hex()[:64]}")
    a.read(0.2)
    return r["downtime"]


def migrate(rounds, accel="kvm", engine="jit"):
    kw = {"accel": accel, "env": {"CASEMENT_OPTS": f"engine={engine}"}}
    began, still, before = time.monotonic(), [], ""
    a = vm(**kw)
    try:
        a.expect(r"^step 3 ", 120)
        for n in range(rounds):
            sock = os.path.join(a.tmp, "migrate")
            b = vm("-S", "-incoming", f"unix:{sock}", **kw)
            try:
                b.qmp.cmd("query-status")
                still.append(hop(a, b, sock))
            except Exception as e:
                b.close()
                raise RuntimeError(f"round {n + 1}: {type(e).__name__}: {e}") from e
            # The line that was under way is cut in two; joined they are one console.
            before += a.text
            a.close()
            a = b
            a.qmp.cmd("cont")
            want = steps(before) + 5
            a.expect(rf"^step {want} .*\n", 120)
        good, why = check(before + a.text, 1, want)
        if not good:
            return False, why
    finally:
        a.close()
    still.sort()
    return (f"{rounds} times, 0 failures, memory the same each time, {want} right checksums, stood still "
            f"{still[len(still) // 2]} ms (p50) to {still[-1]} ms; {time.monotonic() - began:.0f} s")


def savevm():
    """Into a qcow2 image and back: what comes after loadvm is what came after savevm."""
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"with.{os.getpid()}.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    try:
        with vm("-drive", f"file={path},format=qcow2,if=virtio") as v:
            v.expect(r"^step 3 .*\n", 90)
            for n in range(ROUNDS):
                out = v.qmp.hmp(f"savevm point{n}")
                if out:
                    return False, out
                v.read(0.3)
                at = steps(v.text)
                v.expect(rf"^step {at + 6} .*\n", 60)
                out = v.qmp.hmp(f"loadvm point{n}")
                if out:
                    return False, out
                before = len(v.text)
                while v.read(0) and len(v.text) < before + 2000 and v.proc.poll() is None:
                    if "step" in v.text[before:] and steps(v.text[before:]) > at + 6:
                        break
                    v.read(0.2)
                again = v.text[before:]
                first = min(int(l.split()[1]) for l in again.split("\n")[1:-1] if l.startswith("step "))
                good, why = check(again.split("\n", 1)[1], first, steps(again))
                if not good or first > at + 6:
                    return False, f"round {n + 1}, saved at about {at}, goes on at {first}: {why}"
            return f"{ROUNDS} times"
    finally:
        os.unlink(path)


tap.run("savevm and loadvm of a guest that computes", savevm)
tap.run("live migration from process to process", migrate, ROUNDS)
tap.run("live migration, interpreted", migrate, ROUNDS if LONG else 2, "kvm", "interp")
tap.run("live migration, dirty pages told by rings", migrate, ROUNDS if LONG else 1, "kvm,dirty-ring-size=4096")
tap.end()
