# SPDX-License-Identifier: MIT
"""QEMU under `casement qemu`, its console and its QMP socket, as the tests of this directory use them."""
import base64
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BUILD = os.environ.get("CASEMENT_BUILD", "build")
CASEMENT = os.path.join(BUILD, "casement")
KERNEL = os.path.join(BUILD, "guest", "vmlinuz")
INITRD = os.path.join(BUILD, "guest", "initrd.img")
PATIENCE = 4  # limits are written for a quiet machine


class Tap:
    """Counts points; a point that raises has failed."""

    def __init__(self):
        self.n = self.bad = 0

    def point(self, good, name, details=""):
        self.n += 1
        print(f"{'ok' if good else 'not ok'} {self.n} - {name}", flush=True)
        if not good:
            self.bad += 1
            for line in str(details).replace("\r", "").splitlines()[-25:]:
                print(f"# {line}", flush=True)
        return good

    def run(self, name, fn, *args):
        """fn returns (good, details), or what to add to the name when it went well."""
        try:
            r = fn(*args)
            good, details = r if isinstance(r, tuple) else (True, "")
            self.point(good, f"{name} ({r})" if isinstance(r, str) else name, details)
        except Exception as e:  # a failed point must not take the others along
            self.point(False, name, f"{type(e).__name__}: {e}")

    def skip(self, name, reason):
        self.n += 1
        print(f"ok {self.n} - {name} # SKIP {reason}", flush=True)

    def end(self):
        print(f"1..{self.n}")
        sys.exit(1 if self.bad else 0)


def skip_all(reason):
    print(f"1..0 # SKIP {reason}")
    sys.exit(0)


def need_qemu():
    if not shutil.which("qemu-system-x86_64"):
        skip_all("qemu-system-x86_64 is not installed")
    if not os.path.exists(CASEMENT):
        skip_all(f"no casement(1) in {BUILD}")
    if not os.path.exists(KERNEL):
        skip_all(f"no guest in {BUILD}/guest")


class Qmp:
    def __init__(self, path, limit=10):
        end = time.monotonic() + limit
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(path)
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        self.buf = b""
        self.events = []
        self._message(limit)
        self.cmd("qmp_capabilities")

    def _message(self, limit):
        end = time.monotonic() + limit
        while b"\n" not in self.buf:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError("no answer over QMP")
            more = self.sock.recv(65536)
            if not more:
                raise EOFError("QEMU closed its QMP socket")
            self.buf += more
        line, self.buf = self.buf.split(b"\n", 1)
        return json.loads(line)

    def cmd(self, name, limit=30, **args):
        req = {"execute": name}
        if args:
            req["arguments"] = {k.replace("_", "-"): v for k, v in args.items()}
        self.sock.sendall(json.dumps(req).encode())
        while True:
            m = self._message(limit)
            if "event" in m:
                self.events.append(m)
            elif "error" in m:
                raise RuntimeError(f"{name}: {m['error']['desc']}")
            else:
                return m["return"]

    def hmp(self, line, limit=60):
        return self.cmd("human-monitor-command", limit, command_line=line)

    def event(self, name, limit=30):
        while True:
            for e in self.events:
                if e["event"] == name:
                    self.events.remove(e)
                    return e
            m = self._message(limit)
            if "event" in m:
                self.events.append(m)


class Vm:
    """One QEMU. The console's text is in self.text; input goes through say()."""

    def __init__(self, *args, kernel=True, script=None, append="", env=None, accel="kvm", mem="256M", run=None):
        self.tmp = tempfile.mkdtemp(prefix="with.")
        self.text = ""
        sock = os.path.join(self.tmp, "qmp")
        cmd = list(run or [CASEMENT, "qemu"])
        cmd += ["-accel", accel, "-nodefaults", "-display", "none", "-m", mem, "-serial", "stdio",
                "-qmp", f"unix:{sock},server=on,wait=off"]
        if kernel:
            line = f"console=ttyS0 quiet panic=-1 {append}"
            if script is not None:
                line += " casement.script=" + base64.b64encode(script.encode()).decode()
            cmd += ["-kernel", KERNEL, "-initrd", INITRD, "-append", line]
        cmd += list(args)
        self.err = open(os.path.join(self.tmp, "stderr"), "w+")
        self.proc = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err,
                                     env={**os.environ, **(env or {})}, bufsize=0)
        self.sock = sock
        self._qmp = None

    @property
    def qmp(self):
        if not self._qmp:
            self._qmp = Qmp(self.sock)
        return self._qmp

    def stderr(self):
        self.err.flush()
        self.err.seek(0)
        return self.err.read()

    def read(self, limit):
        """More of the console, if there is any within the time. False: the end."""
        if select.select([self.proc.stdout], [], [], max(0, limit))[0]:
            more = os.read(self.proc.stdout.fileno(), 65536)
            self.text += more.decode(errors="replace").replace("\r", "")
            return bool(more)
        return True

    def expect(self, pattern, limit=60):
        limit *= PATIENCE
        end = time.monotonic() + limit
        start = getattr(self, "_seen", 0)
        while True:
            m = re.compile(pattern, re.M).search(self.text, start)
            if m:
                self._seen = m.end()
                return m
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no {pattern!r} within {limit} s; last: {self.text[-300:]!r} {self.stderr()[-300:]}"
                                   f"\n{self.where()}")
            if not self.read(min(left, 1)):
                raise EOFError(f"QEMU ended before {pattern!r}: {self.text[-300:]!r} {self.stderr()[-300:]}")

    def where(self):
        """What the machine is at, for somebody who must find out why nothing comes."""
        try:
            spent = f"{self.cpu_seconds():.1f} s of processor time"
            return f"{spent}, {self.qmp.cmd('query-status')}\n{self.qmp.hmp('info registers')[:700]}"
        except Exception as e:
            return f"no more is known: {e}"

    def say(self, line):
        self.proc.stdin.write((line + "\n").encode())

    def wait(self, limit=60):
        """Exit status once QEMU ends by itself; the console is read to its end."""
        limit *= PATIENCE
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if not self.read(0.5):
                return self.proc.wait(max(1, end - time.monotonic()))
        raise TimeoutError(f"QEMU still runs after {limit} s; last: {self.text[-300:]!r} {self.stderr()[-300:]}")

    def cpu_seconds(self):
        with open(f"/proc/{self.proc.pid}/stat") as f:
            t = f.read().rsplit(")", 1)[1].split()
        return (int(t[11]) + int(t[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGKILL)
            self.proc.wait()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
