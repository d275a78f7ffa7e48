"""
Running `sallyport exec` without a lab: for tests of the enclosure, which need no network outside.
"""
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

TIMEOUT = 60
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "TERM": "xterm", "HOME": "/",
               "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


def identity(user):
    """What to put in front of a command line to become this uid (None: root)."""
    return ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"] if user else []


class Enclosed:
    """A sallyport that every user can execute, and a folder that belongs to one of them."""

    def __init__(self, binary, folder, user):
        self.binary, self.folder, self.user = str(binary), Path(folder), user
        self.started = []

    def line(self, *command, options=("--quiet", "--policy", "airgapped")):
        return [*identity(self.user), self.binary, "exec", *map(str, options), "--", *map(str, command)]

    def run(self, *command, options=("--quiet", "--policy", "airgapped"), env=(), **more):
        more = {"cwd": self.folder, "stdin": subprocess.DEVNULL, **more}
        result = subprocess.run(self.line(*command, options=options), capture_output=True, text=True, timeout=TIMEOUT,
                                env={**ENVIRONMENT, **dict(env)}, **more)
        assert "AddressSanitizer" not in result.stderr and "runtime error:" not in result.stderr, result.stderr
        return result

    def start(self, *command, options=("--quiet", "--policy", "airgapped"), env=(), **more):
        more = {"cwd": self.folder, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        process = subprocess.Popen(self.line(*command, options=options), text=True, env={**ENVIRONMENT, **dict(env)}, **more)
        self.started.append(process)
        return process

    def python(self, story, **more):
        """Runs a Python program inside; what it prints."""
        result = self.run("python3", "-c", story, **more)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def close(self):
        """Ends what a failed test has left."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def outside(self, story, *arguments):
        """Starts a Python program outside, as the same user; returns when it has printed a line."""
        process = subprocess.Popen([*identity(self.user), "python3", "-c", story, *map(str, arguments)], text=True,
                                   cwd=self.folder, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.started.append(process)
        process.first_line = process.stdout.readline().strip()
        return process


def children_of(pid):
    """The tree below a process, itself not included."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - {pid}


def name_of(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def wait_until(condition, what, seconds=20):
    """Polls what has no event of its own."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)


class Terminal:
    """A program on a terminal of its own (a session of its own, too), to type at and to read from."""

    def __init__(self, *command, user=None, cwd="/", env=()):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(cwd)
                line = [*identity(user), *map(str, command)]
                if user:
                    os.fchown(0, user, user)
                os.execvpe(line[0], line, {**ENVIRONMENT, "PS1": "outer> ", **dict(env)})
            finally:
                os._exit(127)
        self.seen = ""
        self.status = None

    def type(self, text):
        os.write(self.fd, text.encode())

    def expect(self, pattern, seconds=30):
        """Reads until the pattern shows; what came after it stays for the next time."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} within {seconds} s in {self.seen!r}"
            if not select.select([self.fd], [], [], left)[0]:
                continue
            try:
                got = os.read(self.fd, 65536)
            except OSError:
                got = b""
            assert got, f"the terminal closed before {pattern!r}: {self.seen!r}"
            self.seen += got.decode(errors="replace")
        self.seen = self.seen[found.end():]
        return found

    def foreground(self):
        return os.tcgetpgrp(self.fd)

    def echoes(self):
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def wait(self, seconds=30):
        """Its exit status, as the shell has it."""
        deadline = time.monotonic() + seconds
        while True:
            if select.select([self.fd], [], [], 0.02)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                return self.status if self.status >= 0 else 128 - self.status
            assert time.monotonic() < deadline, f"still running: {self.seen!r}"

    def close(self):
        if self.status is None:
            for pid in (*children_of(self.pid), self.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            os.waitpid(self.pid, 0)
        os.close(self.fd)
