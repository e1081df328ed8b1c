#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
A whole Debian, as tools/disk makes it, under `casement qemu`: GRUB, kernel, systemd, login; the packages' files have
their checksums, what is written is there after a reboot.
"""
import os
import re
import time

from vm import BUILD, Tap, Vm, need_qemu, skip_all

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


tap.run("q35, interpreted", session, "q35", "interp")
tap.run("q35, 2 vCPUs, translated", session, "q35", "jit", "-smp", "2")
tap.run("pc, translated", session, "pc", "jit")
tap.end()
