#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
A guest saved by QEMU on a real KVM goes on here, and the reverse. The real one is Linux's kvm-amd in Debian's cloud
kernel in QEMU's TCG, which needs no virtualization; Debian's QEMU runs inside it, from an initrd. Takes minutes.
"""
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

from vm import BUILD, INITRD, KERNEL, Qmp, Tap, Vm, need_qemu, skip_all

need_qemu()
MODULES = os.path.join(BUILD, "guest", "modules")
LOCKS = os.path.join(BUILD, "test", "with", "hostile-locks.img")
if not os.path.exists(LOCKS):
    skip_all("nasm is not installed")
tap = Tap()
TMP = os.path.join(BUILD, "hardware")
QEMU = shutil.which("qemu-system-x86_64")

# Both sides: what both have. kvm-asyncpf is absent here; the vendor is said, as QEMU takes the host's otherwise.
CPU = "qemu64,vendor=AuthenticAMD,-kvm-asyncpf"
COMMON = ["-nodefaults", "-display", "none", "-cpu", CPU]
CHAIN = ["-M", "pc-q35-7.2", "-m", "128", *COMMON]
HOSTILE = ["-M", "pc-i440fx-7.2", "-m", "32", *COMMON]

SCRIPT = """
s=begin i=0
while :; do
    s=$( (echo $s; dd if=/dev/zero bs=4k count=16 2>/dev/null) | sha256sum | cut -c1-32)
    i=$((i+1)); echo "step $i $s"
done"""
APPEND = "console=ttyS0 quiet panic=-1 casement.script=" + base64.b64encode(SCRIPT.encode()).decode()


def first_wrong(text, first):
    """None, or what is wrong in the steps from the first on."""
    s, right = "begin", {}
    last = max([int(n) for n in re.findall(r"^step (\d+) \w{32}$", text, re.M)], default=0)
    for i in range(1, last + 1):
        s = right[i] = hashlib.sha256(s.encode() + b"\n" + bytes(65536)).hexdigest()[:32]
    got = {int(n): h for n, h in re.findall(r"^step (\d+) (\w{32})$", text, re.M)}
    if last < first + 5:
        return f"only {last} steps, {first} before it was moved\n{text[-300:]}"
    for i in range(first, last + 1):
        if got.get(i) != right[i]:
            return f"step {i}: {got.get(i)}, want {right[i]}"
    return None


def here(args, opts="", **kw):
    return Vm(*args, kernel=False, env={"CASEMENT_OPTS": opts}, mem=args[args.index("-m") + 1] + "M", **kw)


def save_here(path):
    with here([*CHAIN, "-kernel", KERNEL, "-initrd", INITRD, "-append", APPEND]) as v:
        v.expect(r"^step 5 ", 120)
        v.qmp.cmd("migrate", uri=f"exec:cat >{path}")
        end = time.monotonic() + 60
        while (s := v.qmp.cmd("query-migrate")["status"]) != "completed":
            if s == "failed" or time.monotonic() > end:
                raise RuntimeError(f"migration: {s}")
            v.read(0.1)
        v.read(0.3)
        return v.text


OUTER = """
mkdir -p /var/tmp
for m in $(cat /hw/order); do insmod /hw/$m.ko; done
[ -c /dev/kvm ] || { echo "HW no /dev/kvm"; poweroff -f; }
grep -o -w svm /proc/cpuinfo | head -n 1 | sed 's/^/HW /'
until_has() { # PATTERN FILE SECONDS
    n=0
    until grep -q "$1" "$2" 2>/dev/null || [ $n -ge $3 ]; do sleep 1; n=$((n + 1)); done
}
say() { echo "$1 $(base64 -w0 "$2")"; }
qemu="%(qemu)s -accel kvm"

# What was saved on Casement goes on here.
$qemu %(chain)s -serial file:/loaded -monitor none -incoming "exec:cat /dev/vda" 2>/err &
until_has "^step $((STEPS + 12)) " /loaded 240
kill $!; wait
say LOADED /loaded; say ERR /err

# Saved here.
rm -f /err
{ until_has '^step 5 ' /booted 300; echo 'migrate "exec:cat >/state"'; echo quit; } |
    $qemu %(chain)s -serial file:/booted -kernel /hw/vmlinuz -initrd /hw/initrd.img -append "%(append)s" \\
    -monitor stdio >/mon 2>/err
say BOOTED /booted; say ERR /err
echo "HW state $(stat -c %%s /state)"
cat /state >/dev/vdb

# A guest of another kind: bus locks without end.
rm -f /err /state
{ until_has '\\.\\.' /locks 120; echo 'migrate "exec:cat >/state"'; echo quit; } |
    $qemu %(hostile)s -drive file=/hw/locks.img,format=raw,snapshot=on -serial file:/locks -monitor stdio >/mon 2>/err
say ERR /err
echo "HW locks $(stat -c %%s /state)"
dd if=/state of=/dev/vdb bs=1M seek=200 conv=notrunc 2>/dev/null
sync
echo "HW done"
poweroff -f
"""


def outer_initrd(steps):
    """The guest's initrd and, behind it, QEMU with its libraries and firmware, KVM's modules and the script."""
    tree = os.path.join(TMP, "tree")
    hw = os.path.join(tree, "hw")
    os.makedirs(hw)
    with open(os.path.join(MODULES, "kvm-amd.order")) as f:
        names = f.read().split()
    for m in names:
        shutil.copy(os.path.join(MODULES, m + ".ko"), hw)
    with open(os.path.join(hw, "order"), "w") as f:
        f.write("\n".join(names))
    for source, name in (KERNEL, "vmlinuz"), (INITRD, "initrd.img"), (LOCKS, "locks.img"):
        shutil.copy(source, os.path.join(hw, name))
    ldd = subprocess.run(["ldd", QEMU], stdout=subprocess.PIPE, text=True, check=True).stdout
    files = [QEMU] + re.findall(r"(/\S+) \(0x", ldd)
    for d, names in ("/usr/share/seabios", ["bios-256k.bin", "bios.bin"]), \
            ("/usr/share/qemu", ["linuxboot_dma.bin", "linuxboot.bin", "kvmvapic.bin"]):
        files += [p for n in names if os.path.exists(p := os.path.join(d, n))]
    for path in files:
        to = tree + path
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copy(path, to)
    os.makedirs(os.path.join(tree, "usr/share/qemu"), exist_ok=True)
    with open(os.path.join(tree, "script"), "w") as f:
        f.write(f"STEPS={steps}\n" + OUTER % {
            "qemu": QEMU + " -L /usr/share/qemu -L /usr/share/seabios", "chain": " ".join(CHAIN),
            "hostile": " ".join(HOSTILE), "append": APPEND})
    more = subprocess.run("find . | cpio -o -H newc -R 0:0 --quiet", shell=True, cwd=tree, stdout=subprocess.PIPE,
                          check=True).stdout
    out = os.path.join(TMP, "initrd.img")
    with open(INITRD, "rb") as f, open(out, "wb") as g:
        g.write(f.read())
        g.write(more)
    return out


def real_kvm(state, back, steps):
    """Its console, with each part's lines under their own word."""
    with open(back, "wb") as f:
        f.truncate(400 << 20)
    size = os.path.getsize(state)
    with open(state, "ab") as f:
        f.truncate((size + 4095) & ~4095)
    cmd = [QEMU, "-accel", "tcg", "-cpu", "max", "-m", "1536", "-nodefaults", "-display", "none", "-no-reboot",
           "-serial", "stdio", "-kernel", KERNEL, "-initrd", outer_initrd(steps), "-append", "console=ttyS0 quiet",
           "-drive", f"file={state},format=raw,if=virtio,readonly=on", "-drive", f"file={back},format=raw,if=virtio"]
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500)
    text = p.stdout.decode(errors="replace").replace("\r", "")
    with open(os.path.join(TMP, "console"), "w") as f:
        f.write(text)
    return text


def part(text, word):
    return "".join(base64.b64decode(m).decode(errors="replace").replace("\r", "")
                   for m in re.findall(rf"^{word} ([A-Za-z0-9+/=]+)$", text, re.M))


def from_hardware(back, text):
    said = part(text, "BOOTED")
    first = max([int(n) for n in re.findall(r"^step (\d+) \w{32}$", said, re.M)], default=0)
    for engine in "interp", "jit":
        with here([*CHAIN, "-incoming", f"exec:cat {back}"], f"engine={engine}") as v:
            v.expect(rf"^step {first + 12} .*\n", 120)
            wrong = first_wrong(said + v.text, 1)
            if wrong:
                return False, f"{engine}: {wrong}"
    return f"saved at step {first}"


def replay(back):
    """The guest's bus locks, which the hardware let pass, are counted and told."""
    log = os.path.join(TMP, "departures.json")
    with here([*HOSTILE, "-drive", f"file={LOCKS},format=raw,snapshot=on",
               "-incoming", f"exec:dd if={back} bs=1M skip=200 status=none"],
              f"bus-lock=ratelimit:500,departures={log}") as v:
        end = time.monotonic() + 60
        while v.text.count(".") < 4 and time.monotonic() < end:
            v.read(0.5)
    with open(log) as f:
        kinds = [json.loads(l).get("kind") for l in f]
    return (f"{len(kinds)} departures: {', '.join(sorted(set(map(str, kinds))))}" if kinds and v.text.count(".") >= 4
            else (False, f"{len(kinds)} departures, console {v.text!r}"))


shutil.rmtree(TMP, ignore_errors=True)
os.makedirs(TMP)
state, back = os.path.join(TMP, "state"), os.path.join(TMP, "back")
try:
    said = save_here(state)
    steps = max(int(n) for n in re.findall(r"^step (\d+) \w{32}$", said, re.M))
    text = real_kvm(state, back, steps)
    tap.point("HW done" in text and "HW svm" in text, "Debian's QEMU on Linux's kvm-amd saves and loads", text[-1500:])
    wrong = first_wrong(said + part(text, "LOADED"), 1)
    tap.point(not wrong, "saved here, it goes on there with the right checksums",
              f"{wrong}\n{part(text, 'ERR')}")
    tap.run("saved there, it goes on here with the right checksums", from_hardware, back, text)
    tap.run("a guest saved there is replayed here with its departures told", replay, back)
finally:
    if tap.bad == 0:
        shutil.rmtree(TMP, ignore_errors=True)
tap.end()
