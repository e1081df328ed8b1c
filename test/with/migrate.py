#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
usage: migrate.py [-l]
A guest that computes checksums is saved, loaded, and moved to a second QEMU while it runs: three times each, -l twenty.
Every checksum it prints, on either side, must be the right one, and none may be missing.
"""
import hashlib
import os
import subprocess
import sys
import time

from vm import Tap, Vm, need_qemu

need_qemu()
tap = Tap()
ROUNDS = 20 if "-l" in sys.argv else 3
STEPS = 400

# Each step depends on the one before: a lost or doubled instruction, page or device byte shows up in all that follow.
SCRIPT = """
s=begin i=0
while [ $i -lt %d ]; do
    s=$( (echo $s; dd if=/dev/zero bs=4k count=16 2>/dev/null) | sha256sum | cut -c1-32)
    i=$((i+1))
    echo "step $i $s"
done
echo finished""" % STEPS


def right_answers():
    s, out = "begin", {}
    for i in range(1, STEPS + 1):
        s = hashlib.sha256(s.encode() + b"\n" + bytes(65536)).hexdigest()[:32]
        out[i] = s
    return out


RIGHT = right_answers()


def check(text, first, last):
    """The steps of a console, whole lines only; (good, what is wrong)."""
    seen = {}
    for line in text.split("\n")[:-1]:
        w = line.split()
        if len(w) == 3 and w[0] == "step" and w[1].isdigit():
            seen[int(w[1])] = w[2]
    for i in range(first, last + 1):
        if seen.get(i) != RIGHT[i]:
            return False, f"step {i}: {seen.get(i)}, want {RIGHT[i]}\n{text[-400:]}"
    return True, ""


def steps(text):
    return max([int(l.split()[1]) for l in text.split("\n")[:-1] if l.startswith("step ")], default=0)


def vm(*args, **kw):
    return Vm("-M", "q35", "-smp", "2", "-no-reboot", *args, script=SCRIPT, mem="192M", **kw)


def migrate_once(n, accel):
    with vm(accel=accel) as a:
        a.expect(rf"^step {3 + n * 2} ", 90)
        sock = os.path.join(a.tmp, "migrate")
        with vm("-incoming", f"unix:{sock}", accel=accel) as b:
            b.qmp.cmd("query-status")
            a.qmp.cmd("migrate", uri=f"unix:{sock}")
            end = time.monotonic() + 60
            while (r := a.qmp.cmd("query-migrate")).get("status") not in ("completed", "failed"):
                if time.monotonic() > end:
                    return False, f"migration: {r}"
                a.read(0.05)
            if r["status"] != "completed":
                return False, f"migration: {r} {a.stderr()} {b.stderr()}"
            a.read(0.2)
            want = steps(a.text) + 12
            b.expect(rf"^step {want} .*\n", 60)
            # The line that was under way is cut in two; joined they are one console.
            return check(a.text + b.text, 1, want)


def migrate(rounds, accel="kvm"):
    ms = []
    for n in range(rounds):
        t = time.monotonic()
        good, details = migrate_once(n, accel)
        if not good:
            return False, f"round {n + 1}: {details}"
        ms.append(time.monotonic() - t)
    return f"{rounds} times, {sum(ms) / len(ms):.1f} s each with its boot"


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
tap.run("live migration between two processes", migrate, ROUNDS)
tap.run("live migration, dirty pages told by rings", migrate, ROUNDS // 3, "kvm,dirty-ring-size=4096")
tap.end()
