#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
A whole Debian, as tools/disk makes it, under `casement qemu`: GRUB, kernel, systemd, login; the packages' files have
their checksums, what is written is there after a reboot. And contrib's unit under the systemd of that Debian.
"""
import base64
import os
import re
import shutil
import subprocess
import tempfile
import time

from vm import BUILD, CASEMENT, INITRD, KERNEL, Tap, Vm, need_qemu, skip_all

need_qemu()
DISK = os.path.join(BUILD, "disk", "debian.img")
if not os.path.exists(DISK):
    skip_all(f"no {DISK}; tools/disk makes it")
tap = Tap()


def login(v):
    v.expect(r"^debian login: $", 500)
    v.say("root")
    v.expect(r"^Password: ", 60)
    v.say("casement")
    v.expect(r"[#$] $", 120)
    v.say("export TERM=dumb PS1=; bind 'set enable-bracketed-paste off'; stty -echo; echo re''ady")
    v.expect(r"ready$", 60)


def ask(v, command, limit=300):
    """The output of one command."""
    v.say(f"{command}; echo do''ne")
    start = v._seen
    v.expect(r"^done$", limit)
    return v.text[start:v._seen].rsplit("done", 1)[0].strip()


def session(machine, engine, *args):
    began = time.monotonic()
    with Vm("-M", machine, "-drive", f"file={DISK},format=raw,if=virtio,snapshot=on", *args, kernel=False, mem="512M",
            env={"CASEMENT_OPTS": f"engine={engine}"}) as v:
        login(v)
        first = time.monotonic() - began
        kernel, state = ask(v, "uname -r"), ask(v, "systemctl is-system-running --wait")
        if state != "running":
            return False, f"{state}: {ask(v, 'systemctl --failed --no-legend')}"
        # Configuration files may differ from the package's.
        broken = [l for l in ask(v, "dpkg --verify", 900).splitlines() if not re.match(r"\S+ +c ", l)]
        if broken:
            return False, "\n".join(broken[:20])
        ask(v, "dd if=/dev/urandom of=/var/big bs=1M count=24 status=none; sha256sum /var/big >/var/sum; sync")
        kept = ask(v, "cat /var/sum")
        v.say("systemctl reboot")
        login(v)
        again = ask(v, "sha256sum /var/big")
        journal = ask(v, "journalctl -b -p err --no-pager -q -k | grep -ciE 'bug:|oops|call trace|lockup|stall'")
        v.say("systemctl poweroff")
        status = v.wait(300)
        if again != kept or not kept or journal != "0" or status:
            return False, f"kept {kept}, after the reboot {again}; journal {journal}; status {status}"
        return f"Linux {kernel}, login after {first:.0f} s, all in {time.monotonic() - began:.0f} s"


def unit():
    """casement-vm@test in that Debian, which runs under QEMU's translator: its sandbox lets the engine work."""
    contrib = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "contrib")
    with tempfile.TemporaryDirectory(prefix="with.") as tmp:
        tree = os.path.join(tmp, "tree")
        os.mkdir(tree)
        for f in CASEMENT, KERNEL, INITRD, os.path.join(contrib, "casement-vm@.service"):
            shutil.copy(f, tree)
        script = base64.b64encode(b"echo inside $((6 * 7)); poweroff -f").decode()
        with open(os.path.join(tree, "test.conf"), "w") as f:
            f.write("KERNEL=/srv/vmlinuz\nINITRD=/srv/initrd.img\nOPTIONS=-m 128M\n"
                    f"CMDLINE=console=ttyS0 quiet panic=-1 casement.script={script}\n")
        image = os.path.join(tmp, "image")
        with open(image, "wb") as f:
            f.truncate(64 << 20)
        subprocess.run(["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image], check=True)
        with Vm("-cpu", "max", "-drive", f"file={DISK},format=raw,if=virtio,snapshot=on",
                "-drive", f"file={image},format=raw,if=virtio", kernel=False, mem="768M", accel="tcg",
                run=["qemu-system-x86_64"]) as v:
            login(v)
            ask(v, "mount /dev/vdb /mnt; cp /mnt/casement /usr/bin; cp /mnt/vmlinuz /mnt/initrd.img /srv; "
                "mkdir -p /etc/casement/vm; cp /mnt/test.conf /etc/casement/vm; "
                "cp /mnt/*.service /etc/systemd/system; systemctl daemon-reload")
            ask(v, "systemctl start --wait casement-vm@test", 900)
            state = ask(v, "systemctl show -p Result,ExecMainStatus casement-vm@test")
            log = ask(v, "journalctl -q --no-pager -o cat -u casement-vm@test")
            good = "Result=success" in state and "ExecMainStatus=0" in state and "inside 42" in log
            return good, f"{state}\n{log}"


tap.run("q35, interpreted", session, "q35", "interp")
tap.run("q35, 2 vCPUs, translated", session, "q35", "jit", "-smp", "2")
tap.run("pc, translated", session, "pc", "jit")
tap.run("contrib/casement-vm@.service under systemd", unit)
tap.end()
