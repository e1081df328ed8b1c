#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Debian's QEMU under `casement qemu`: its machines, interrupt chips and processors, its disks and its network."""
import hashlib
import os
import socketserver
import sys
import threading
import time

from vm import INITRD, Tap, Vm, need_qemu

need_qemu()
tap = Tap()


def boot(cpus, *args, accel="kvm", engine="jit", append=""):
    began = time.monotonic()
    with Vm("-smp", str(cpus), "-no-reboot", *args, accel=accel, script="echo cpus $(nproc); poweroff -f", append=append,
            env={"CASEMENT_OPTS": f"engine={engine}"}) as v:
        up = v.expect(r"up in ([\d.]+) s", 90).group(1)
        v.expect(rf"^cpus {cpus}$", 30)
        status = v.wait(30)
        if status:
            return False, f"exit status {status}\n{v.stderr()}"
        lines = f", {v.text.count(chr(10))} lines" if append else ""
        return f"up in {up} s, all in {time.monotonic() - began:.1f} s{lines}"


ROWS = [
    # Without rtc=on Linux spends seven seconds to find out that there is no clock.
    ("microvm", 1, ["-M", "microvm"], ""),
    ("microvm,rtc=on, kernel-irqchip=split", 2, ["-M", "microvm,rtc=on"], ",kernel-irqchip=split"),
    ("q35 through SeaBIOS", 1, ["-M", "q35"], ""),
    ("pc through SeaBIOS, 2 vCPUs", 2, ["-M", "pc"], ""),
    ("q35, 4 vCPUs", 4, ["-M", "q35"], ""),
    ("q35, kernel-irqchip=split", 2, ["-M", "q35"], ",kernel-irqchip=split"),
    # One vCPU: QEMU 7.2.22 never clears its own CPU_INTERRUPT_SIPI when it has both KVM and its own APIC.
    ("q35, kernel-irqchip=off", 1, ["-M", "q35"], ",kernel-irqchip=off"),
    ("microvm, kernel-irqchip=off", 1, ["-M", "microvm,rtc=on"], ",kernel-irqchip=off"),
    ("-cpu host", 1, ["-M", "q35", "-cpu", "host"], ""),
    ("-cpu qemu64", 1, ["-M", "pc", "-cpu", "qemu64"], ""),
    ("-cpu Icelake-Server,+vmx", 1, ["-M", "q35", "-cpu", "Icelake-Server,+vmx"], ""),
]
LONG = "-l" in sys.argv
INTERPRETED = ["microvm,rtc=on, kernel-irqchip=split", "pc through SeaBIOS, 2 vCPUs", "q35, 4 vCPUs"]
for name, cpus, args, accel in ROWS:
    tap.run(name, lambda c=cpus, a=args, x=accel: boot(c, *a, accel="kvm" + x))
for name, cpus, args, accel in ROWS:
    if LONG or name in INTERPRETED:
        tap.run(f"{name}, interpreted", lambda c=cpus, a=args, x=accel: boot(c, *a, accel="kvm" + x, engine="interp"))
if LONG:
    # The serial line is written byte by byte: each one is an exit and sets the level of its interrupt line.
    for machine in "q35", "pc":
        for engine in "interp", "jit":
            tap.run(f"{machine}, every message of the kernel, {engine}",
                    lambda m=machine, e=engine: boot(1, "-M", m, engine=e, append="ignore_loglevel"))


def disk(machine):
    """Reads a disk of random bytes and writes the initrd's bytes to another one."""
    data = os.urandom(24 << 20)
    with open(INITRD, "rb") as f:
        more = f.read()[:2 << 20]
    want = hashlib.sha256(data).hexdigest()
    script = """
        sha256sum /dev/vda
        dd if=/dev/vda of=/dev/vdb bs=64k count=128 2>/dev/null
        dd if=/dev/vda of=/dev/vdb bs=4k skip=2048 seek=2048 count=64 oflag=direct 2>/dev/null; sync
        echo written; poweroff -f"""
    v = None
    try:
        path = [os.path.join(os.environ.get("TMPDIR", "/tmp"), f"with.{os.getpid()}.{i}") for i in "ab"]
        with open(path[0], "wb") as f:
            f.write(data)
        with open(path[1], "wb") as f:
            f.write(more + bytes(len(data) - len(more)))
        v = Vm("-M", machine, "-no-reboot",
               "-drive", f"file={path[0]},format=raw,if=virtio,readonly=on",
               "-drive", f"file={path[1]},format=raw,if=virtio", script=script)
        got = v.expect(r"^([0-9a-f]{64})  /dev/vda$", 120).group(1)
        v.expect(r"^written$", 60)
        v.wait(30)
        with open(path[1], "rb") as f:
            out = f.read()
        end = (8 << 20) + (256 << 10)
        return got == want and out[:end] == data[:end], f"read {got}, want {want}"
    finally:
        if v:
            v.close()
        for p in path:
            os.unlink(p)


def network(machine):
    """Both directions through QEMU's user network, to a server of ours on the loopback interface."""
    data = os.urandom(4 << 20)
    got = []

    class Serve(socketserver.BaseRequestHandler):
        def handle(self):
            if self.request.recv(4) == b"get\n":
                self.request.sendall(data)
                return
            h = hashlib.sha256()
            while more := self.request.recv(65536):
                h.update(more)
            got.append(h.hexdigest())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Serve) as srv:
        threading.Thread(target=srv.serve_forever, daemon=True).start()
        script = f"""
            s="nc 10.0.2.2 {srv.server_address[1]}"
            echo get | $s >/tmp/got
            sha256sum /tmp/got
            (echo put; cat /tmp/got) | $s; sleep 1
            echo sent; poweroff -f"""
        with Vm("-M", machine, "-no-reboot", "-nic", "user,model=virtio-net-pci", script=script) as v:
            down = v.expect(r"^([0-9a-f]{64})  /tmp/got$", 120).group(1)
            v.expect(r"^sent$", 60)
            v.wait(30)
        srv.shutdown()
    want = hashlib.sha256(data).hexdigest()
    return down == want and got == [want], f"down {down}, up {got}, want {want}"


tap.run("virtio-blk: what is read and what is written has the right checksum (q35, MSI-X)", disk, "q35")
tap.run("virtio-blk: the same on pc", disk, "pc")
tap.run("virtio-net: a file in and out over the user network, checksums equal", network, "q35")
tap.end()
