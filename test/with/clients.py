#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
usage: clients.py [-w]
KVM clients that Debian has, unmodified, one after the other; -w writes the table of doc/with.md anew.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from vm import BUILD, CASEMENT, Tap, Vm, need_qemu

need_qemu()
tap = Tap()
DISK = os.path.join(BUILD, "disk", "debian.img")
TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MARK = "<!-- clients -->"
table = []


def row(client, what, fn):
    """fn returns (good or None when it is not here, what to say)."""
    try:
        good, said = fn()
    except Exception as e:
        good, said = False, f"{type(e).__name__}: {e}"
    if good is None:
        tap.skip(f"{client}: {what}", said)
    else:
        tap.point(good, f"{client}: {what}: {said}" if good else f"{client}: {what}", said)
    table.append((client, what, said if good or good is None else "**fails**"))


def version(*command):
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True)
    m = re.search(r"\d+\.[\d.]+", out.stdout)
    return m.group(0) if m else "?"


def machines():
    text = subprocess.run(["qemu-system-x86_64", "-M", "help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [l.split()[0] for l in text.splitlines()[1:]]


def oldest(prefix):
    have = [m for m in machines() if m.startswith(prefix + "-")]
    return min(have, key=lambda m: [int(x) for x in m[len(prefix) + 1:].split(".")])


def shell(machine, *args):
    with Vm("-M", machine, "-no-reboot", *args, script="echo cpus $(nproc); poweroff -f") as v:
        v.expect(r"^cpus \d+$", 150)
        if machine != "isapc" and v.wait(60):
            return False, v.stderr()
    return True, "Linux to a shell" + ("" if machine == "isapc" else " and power-off")


def firmware(machine, *args):
    """SeaBIOS to its end; its messages come through the debug port."""
    with tempfile.NamedTemporaryFile(prefix="with.") as log:
        with Vm("-M", machine, "-debugcon", f"file:{log.name}", "-global", "isa-debugcon.iobase=0x402", *args,
                kernel=False, mem="64M") as v:
            end = time.monotonic() + 60
            while b"No bootable device" not in (text := log.read()):
                log.seek(0)
                if time.monotonic() > end or not v.read(0.2):
                    return False, f"{text.decode(errors='replace')[-500:]} {v.stderr()}"
    return True, "SeaBIOS to \"No bootable device\""


def models():
    """Every CPU model: all registers are put and got at power-on and on a reset, none may make QEMU give up."""
    text = subprocess.run(["qemu-system-x86_64", "-cpu", "help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    names = re.findall(r"^x86 (\S+) ", text.split("Recognized")[0], re.M)
    bad = []
    for n in names:
        with Vm("-M", "pc", "-S", "-cpu", n, kernel=False, mem="32M") as v:
            try:
                v.qmp.hmp("info registers")
                v.qmp.cmd("system_reset")
                if v.qmp.cmd("query-status")["status"] not in ("prelaunch", "paused"):
                    bad.append(n)
            except (OSError, EOFError, RuntimeError) as e:
                bad.append(f"{n}: {e} {v.stderr()[-200:]}")
    return not bad, f"all {len(names)}" if not bad else "\n".join(bad)


def guestfish():
    if not shutil.which("guestfish"):
        return None, "not installed"
    if not os.path.exists(DISK):
        return None, "no disk; tools/disk makes it"
    with tempfile.TemporaryDirectory(prefix="with.") as tmp:
        fs = DISK + "?offset=1048576"

        def debugfs(command):
            return subprocess.run(["/usr/sbin/debugfs", "-R", command, fs], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True).stdout
        kernel = re.search(r"/(vmlinuz-([^/]+))/", debugfs("ls -p /boot"))
        debugfs(f"dump /boot/{kernel[1]} {tmp}/{kernel[1]}")
        debugfs(f"rdump /usr/lib/modules/{kernel[2]} {tmp}")
        if os.geteuid() == 0:
            os.makedirs("/lib/modules", exist_ok=True)  # supermin looks, though it is told another place
        env = {**os.environ, "SUPERMIN_KERNEL": f"{tmp}/{kernel[1]}", "SUPERMIN_MODULES": f"{tmp}/{kernel[2]}",
               "SUPERMIN_KERNEL_VERSION": kernel[2], "LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_CACHEDIR": tmp,
               "TMPDIR": tmp, "LIBGUESTFS_DEBUG": "1"}
        p = subprocess.run([CASEMENT, "with", "--", "guestfish", "--ro", "-a", DISK, "run", ":", "mount", "/dev/sda1", "/",
                            ":", "cat", "/etc/hostname", ":", "checksum", "sha256", "/usr/bin/bash"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           env=env, timeout=400)
        debugfs(f"dump /usr/bin/bash {tmp}/bash")
        want = subprocess.run(["sha256sum", f"{tmp}/bash"], stdout=subprocess.PIPE, text=True).stdout[:64]
        good = p.stdout.split() == ["debian", want] and "kvm-clock: Using msrs" in p.stderr
        return good, "its appliance boots on KVM, mounts a disk, a file has the right checksum" if good else \
            p.stdout + p.stderr[-1000:]


def absent(name):
    def look():
        if shutil.which(name):
            return None, "found here, not packaged by Debian 12; not tried"
        return None, "not packaged by Debian 12; not tried"
    return look


q = f"QEMU {version('qemu-system-x86_64', '--version')}"
for m in ["microvm", "q35", oldest("pc-q35"), "pc", oldest("pc-i440fx")]:
    row(q, f"`-M {m}`", lambda m=m: shell(m))
row(q, "`-M isapc -cpu qemu64`", lambda: shell("isapc", "-cpu", "qemu64"))
row(q, "`-M isapc -cpu 486`", lambda: firmware("isapc", "-cpu", "486"))
row(q, "`-cpu max`, 2 vCPUs", lambda: shell("q35", "-cpu", "max", "-smp", "2"))
row(q, "`-cpu`: every model", models)
row(f"libguestfs {version('guestfish', '--version') if shutil.which('guestfish') else ''}".strip(), "`guestfish`", guestfish)
for name in "lkvm", "cloud-hypervisor", "crosvm", "firecracker":
    row(name.replace("lkvm", "kvmtool"), "", absent(name))

if "-w" in sys.argv:
    path = os.path.join(TOP, "doc", "with.md")
    with open(path) as f:
        before, _, after = f.read().split(MARK)
    lines = ["| client | what | result |", "|---|---|---|"] + [f"| {' | '.join(r)} |" for r in table]
    with open(path, "w") as f:
        f.write(f"{before}{MARK}\n" + "\n".join(lines) + f"\n{MARK}{after}")
tap.end()
