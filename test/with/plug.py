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
cpu1=/sys/devices/system/cpu/cpu1/online
echo ready
while read -r line; do eval "$line"; done
"""


def state(v, limit=60):
    """MiB of memory, processors that are online, virtio disks."""
    v.say(". /tmp/state")
    m = v.expect(r"^state (\d+) (\d+) (\d+)$", limit)
    return int(m[1]) >> 10, int(m[2]), int(m[3])


def until(v, what, limit=90, do=None):
    end = time.monotonic() + limit
    while not what(now := state(v)):
        if time.monotonic() > end:
            raise TimeoutError(f"still {now}")
        time.sleep(0.3)
        if do:
            v.say(do)
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
                "-blockdev", f"driver=file,filename={path},node-name=disk", mem="192M", script=script,
                append="memhp_default_state=online_movable", env={"CASEMENT_OPTS": f"engine={engine}"}) as v:
            v.expect(r"^ready$", 90)
            began = state(v)
            for n in range(rounds):
                v.qmp.cmd("object-add", qom_type="memory-backend-ram", id=f"ram{n}", size=128 << 20)
                v.qmp.cmd("device_add", driver="pc-dimm", id=f"dimm{n}", memdev=f"ram{n}")
                v.qmp.cmd("device_add", driver="qemu64-x86_64-cpu", id=f"cpu{n}", socket_id=0, core_id=1, thread_id=0)
                v.qmp.cmd("device_add", driver="virtio-blk-pci", id=f"blk{n}", drive="disk", bus="rp0")
                until(v, lambda s: s[0] >= began[0] + 120)
                v.say("for m in $(cat /modules/virtio_pci.order /modules/virtio_blk.order); do "
                      "insmod /modules/$m.ko 2>/dev/null; done")
                most = until(v, lambda s: s[1] == 2 and s[2] == 1,
                             do="[ ! -f $cpu1 ] || echo 1 >$cpu1")
                v.say("dd if=/dev/zero of=/dev/vda bs=64k count=64 oflag=direct 2>/dev/null")
                for d in f"cpu{n}", f"dimm{n}", f"blk{n}":
                    v.qmp.cmd("device_del", id=d)
                    while v.qmp.event("DEVICE_DELETED", 90)["data"].get("device") != d:
                        pass
                v.qmp.cmd("object-del", id=f"ram{n}")
                end = until(v, lambda s: s[1] == 1 and s[0] <= began[0] and s[2] == 0)
            if "WRONG" in v.text:
                return False, "a checksum was wrong"
            return f"{rounds} times; MiB, processors, disks: {began}, {most}, {end}"
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


CMDLINE = "console=ttyS0 quiet panic=-1 casement.script=cG93ZXJvZmYgLWY="
OURS = ["run", "-c", "2", "-m", "256M", "-k", KERNEL, "-i", INITRD, "-p", CMDLINE]
QEMU = ["qemu", "-accel", "kvm", "-M", "q35", "-smp", "2", "-m", "256", "-nodefaults", "-display", "none", "-serial", "stdio",
        "-no-reboot", "-kernel", KERNEL, "-initrd", INITRD, "-append", CMDLINE]
# glib ends a program without memory by SIGTRAP, or by SIGSEGV when it has none to say so.
GLIB = (-signal.SIGTRAP, -signal.SIGABRT, -signal.SIGSEGV)


def hungry(command, may, sizes):
    """With any limit of its address space it either boots or says what it lacks, at once."""
    said = []
    for mib in sizes:
        def limit(n=mib << 20):
            resource.setrlimit(resource.RLIMIT_AS, (n, n))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        p = subprocess.Popen([CASEMENT, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, preexec_fn=limit)
        try:
            err = p.communicate(timeout=150)[1].decode(errors="replace")
        except subprocess.TimeoutExpired:
            p.kill()
            return False, f"{mib} MiB: still runs after 150 s: {p.communicate()}"
        if p.returncode < 0 and p.returncode not in may or p.returncode and not err:
            return False, f"{mib} MiB: status {p.returncode}: {err[-600:]}"
        said.append(f"{mib} {'ran' if p.returncode == 0 else 'refused'}")
    return "MiB: " + ", ".join(said)


tap.run("memory, a processor and a disk come and go", plug, 5 if LONG else 1, "interp")
if LONG:
    tap.run("the same, translated", plug, 5, "jit")
tap.run("kill -9 of a QEMU under full load", killed, 10 if LONG else 1)
tap.run("too little memory, casement run: a message", hungry, OURS, (),
        range(100, 620, 20) if LONG else [60, 200, 300, 340, 600])
tap.run("too little memory, QEMU: it ends", hungry, QEMU, GLIB, range(200, 1500, 50) if LONG else [200, 400])
tap.end()
