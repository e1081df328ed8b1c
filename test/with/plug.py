#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Memory, a processor and a disk are added to a running guest and taken away again while it works; QEMU is killed; QEMU
gets less memory than it asks for.
"""
import os
import resource
import signal
import subprocess
import sys
import time

from vm import CASEMENT, INITRD, KERNEL, Tap, Vm, need_qemu

need_qemu()
tap = Tap()
LONG = "-l" in sys.argv
WORK = """
i=0
while :; do dd if=/dev/zero bs=64k count=8 2>/dev/null | sha256sum | grep -q ^%s || echo WRONG; i=$((i+1)); done &
cat >/tmp/state <<'END'
echo "state $(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo) $(grep -c ^processor /proc/cpuinfo) $(ls /sys/block | grep -c vd)"
END
echo ready
while read -r line; do eval "$line"; done
"""


def state(v, limit=60):
    """MiB of memory, processors that are online, virtio disks."""
    v.say(". /tmp/state")
    m = v.expect(r"^state (\d+) (\d+) (\d+)$", limit)
    return int(m[1]) >> 10, int(m[2]), int(m[3])


def until(v, what, limit=90):
    end = time.monotonic() + limit
    while not what(now := state(v)):
        if time.monotonic() > end:
            raise TimeoutError(f"still {now}")
        time.sleep(0.3)
    return now


def plug(rounds, engine):
    import hashlib
    script = WORK % hashlib.sha256(bytes(512 << 10)).hexdigest()
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"with.{os.getpid()}.plug")
    with open(path, "wb") as f:
        f.truncate(8 << 20)
    try:
        with Vm("-M", "q35", "-smp", "1,maxcpus=2", "-m", "192M,slots=4,maxmem=1G", "-no-reboot",
                "-device", "pcie-root-port,id=rp0,chassis=1",
                "-drive", f"file={path},format=raw,if=none,id=disk", mem="192M", script=script,
                append="memhp_default_state=online_movable", env={"CASEMENT_OPTS": f"engine={engine}"}) as v:
            v.expect(r"^ready$", 90)
            began = state(v)
            for n in range(rounds):
                v.qmp.cmd("object-add", qom_type="memory-backend-ram", id=f"ram{n}", size=128 << 20)
                v.qmp.cmd("device_add", driver="pc-dimm", id=f"dimm{n}", memdev=f"ram{n}")
                v.qmp.cmd("device_add", driver="qemu64-x86_64-cpu", id=f"cpu{n}", socket_id=0, core_id=1, thread_id=0)
                v.qmp.cmd("device_add", driver="virtio-blk-pci", id=f"blk{n}", drive="disk", bus="rp0")
                until(v, lambda s: s[0] >= began[0] + 120)
                v.say("echo 1 >/sys/devices/system/cpu/cpu1/online 2>/dev/null; sh -c 'for p in 1 2; do "
                      "for m in $(cat /modules/virtio_blk.order); do insmod /modules/$m.ko; done; done' 2>/dev/null")
                most = until(v, lambda s: s[1] == 2)
                for d in f"cpu{n}", f"dimm{n}":
                    v.qmp.cmd("device_del", id=d)
                    while v.qmp.event("DEVICE_DELETED", 90)["data"].get("device") != d:
                        pass
                v.qmp.cmd("object-del", id=f"ram{n}")
                if n + 1 == rounds:
                    v.qmp.cmd("device_del", id=f"blk{n}")
                end = until(v, lambda s: s[1] == 1 and s[0] <= began[0])
            if "WRONG" in v.text:
                return False, "a checksum was wrong"
            return f"{rounds} times; MiB, processors: {began[:2]}, {most[:2]}, {end[:2]}"
    finally:
        os.unlink(path)


def killed(rounds):
    """Nothing of it is left, and the next one is not disturbed."""
    for n in range(rounds):
        with Vm("-M", "q35", "-smp", "4", script="echo busy; while :; do :; done & while :; do :; done") as v:
            v.expect(r"^busy$" if n else r"Linux|busy", 90)
            pid = v.proc.pid
            v.proc.send_signal(signal.SIGKILL)
            began = time.monotonic()
            status = v.proc.wait(20)
            took = (time.monotonic() - began) * 1e3
            if status != -signal.SIGKILL or os.path.exists(f"/proc/{pid}/task"):
                return False, f"status {status}"
    return f"{rounds} times, gone after {took:.0f} ms"


def hungry():
    """With any limit of its address space QEMU either boots or says what it lacks; nothing dies by a signal."""
    said = {}
    for mib in [120, 200, 300, 400, 600, 900] + (list(range(250, 1500, 50)) if LONG else []):
        def limit(n=mib << 20):
            resource.setrlimit(resource.RLIMIT_AS, (n, n))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        p = subprocess.Popen([CASEMENT, "qemu", "-accel", "kvm", "-M", "q35", "-smp", "2", "-m", "256", "-nodefaults",
                              "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", KERNEL, "-initrd", INITRD,
                              "-append", "console=ttyS0 quiet panic=-1 casement.script=cG93ZXJvZmYgLWY="],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit)
        try:
            out, err = p.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            p.kill()
            return False, f"{mib} MiB: still runs after 90 s: {p.communicate()}"
        said[mib] = "ran" if p.returncode == 0 else "refused"
        if p.returncode < 0 and p.returncode not in (-signal.SIGTRAP, -signal.SIGABRT) or p.returncode and not err:
            return False, f"{mib} MiB: status {p.returncode}: {err.decode(errors='replace')[-600:]}"
    return ", ".join(f"{m} MiB: {s}" for m, s in sorted(said.items()))


tap.run("memory, a processor and a disk come and go", plug, 5 if LONG else 1, "interp")
if LONG:
    tap.run("the same, translated", plug, 5, "jit")
tap.run("kill -9 of a QEMU under full load", killed, 10 if LONG else 1)
tap.run("too little memory: a message, never a crash", hungry)
tap.end()
