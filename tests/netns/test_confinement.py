"""
What each process of the gateway holds, seen from outside: users, capabilities, filters, descriptors. What the worker can no longer do
is asked of the kernel itself: it is made to try (tracing.py).
"""
import errno
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

import tracing
from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import missing_programs, wait_until
from test_web import ALLOWED

CAPABILITIES = {"KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8, "NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19,
                "SYS_ADMIN": 21, "DAC_READ_SEARCH": 2}
MONITOR_KEEPS = sum(1 << bit for bit in CAPABILITIES.values())

only_x86 = pytest.mark.skipif(not tracing.SUPPORTED, reason="the tracer knows x86-64 only")


def status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}


def capabilities(pid, which):
    return int(status(pid)[which][0], 16)


def descriptors(pid):
    """What the descriptors are, by number: "socket", "anon_inode:[eventpoll]", or a path."""
    kinds = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{number}")
        kinds[int(number)] = re.sub(r":\[\d+\]$", "", target)
    return kinds


def is_sanitized(lab):
    return b"AddressSanitizer" in Path(lab.binary).read_bytes()


@pytest.fixture
def confined(lab, gateway):
    if is_sanitized(lab):
        pytest.skip("a sanitized build runs without seccomp and Landlock")
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0  # everything that is made on demand is made
    return gateway


def assert_holds_nothing(pid):
    seen = status(pid)
    assert [seen[which][0] for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == ["0" * 16] * 5 or \
        [seen[which][0] for which in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == ["0" * 16] * 4 and seen["Uid"][0] != "0"
    assert seen["NoNewPrivs"] == ["1"] and seen["Seccomp"] == ["2"] and int(seen["Seccomp_filters"][0]) >= 1
    threads = os.listdir(f"/proc/{pid}/task")
    for thread in threads:  # those that were there before the filter, too
        assert status(f"{pid}/task/{thread}")["Seccomp"] == ["2"] and status(f"{pid}/task/{thread}")["CapEff"] == ["0" * 16]
    assert re.search(r"Max core file size\s+0\s+0\s", Path(f"/proc/{pid}/limits").read_text())


def test_the_worker_holds_nothing(confined):
    worker = confined.worker()
    seen = status(worker)
    assert len(set(seen["Uid"])) == len(set(seen["Gid"])) == 1 and "0" not in seen["Uid"] + seen["Gid"] and seen["Groups"] == []
    assert_holds_nothing(worker)
    assert seen["CapBnd"] == ["0" * 16]


def test_the_workers_descriptors_are_sockets_and_the_audit_file(confined):
    kinds = descriptors(confined.worker())
    allowed = {"socket", "pipe", "anon_inode:[eventpoll]", "anon_inode:[eventfd]", "anon_inode:[timerfd]", "anon_inode:[io_uring]",
               "/dev/null", str(confined.audit_path), str(confined.log_path)}
    assert set(kinds.values()) <= allowed - {"anon_inode:[io_uring]"}, kinds
    assert kinds[0] == kinds[1] == "/dev/null"


def test_the_monitor_keeps_what_it_needs(confined):
    pid = confined.process.pid
    assert capabilities(pid, "CapEff") == capabilities(pid, "CapPrm") == capabilities(pid, "CapBnd") == MONITOR_KEEPS
    assert capabilities(pid, "CapInh") == capabilities(pid, "CapAmb") == 0
    assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink(f"/proc/{confined.lab.host.pid}/ns/net")


def test_nobody_has_setuid_bits_or_file_capabilities(lab):
    assert os.stat(lab.binary).st_mode & 0o7000 == 0
    with pytest.raises(OSError):
        os.getxattr(lab.binary, "security.capability")


def test_both_barriers_are_put_up(lab, make_gateway):
    """Landlock and seccomp, as the kernel answered."""
    if missing_programs("strace"):
        pytest.skip("not installed: strace")
    if is_sanitized(lab):
        pytest.skip("a sanitized build runs without seccomp and Landlock")
    traced = make_gateway(start=False)
    trace = traced.folder / "trace"
    plain = traced.command
    traced.command = lambda: ["strace", "-f", "-qq", "-o", str(trace), "-e",
                              "trace=seccomp,landlock_create_ruleset,landlock_restrict_self,setresuid", "--", *plain()]
    [main] = [line for line in traced.start(wait=False).await_notice("READY=1") if line.startswith("MAINPID=")]
    calls = trace.read_text()
    os.kill(int(main.partition("=")[2]), signal.SIGTERM)  # the tracer ends with it
    assert traced.process.wait(20) == 0
    assert re.search(r"seccomp\(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC.* = 0", calls), calls
    if re.search(r"landlock_create_ruleset\(NULL.* = -1", calls):
        pytest.skip("this kernel has no Landlock")
    assert re.search(r"landlock_restrict_self\(\d+, 0\) += 0", calls), calls


@only_x86
def test_what_a_worker_that_was_taken_over_cannot_do(confined):
    worker = confined.worker()
    null = 0  # a NULL pointer: the filter is asked before the arguments are looked at
    with tracing.attached(worker) as before:
        def attempt(*call):
            return tracing.system_call(worker, before, *call)
        assert attempt("getpid") == worker  # the way of asking works
        assert attempt("openat", -100, null, 0) == -errno.EPERM
        assert attempt("open", null, 0) == -errno.EPERM
        assert attempt("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0) == -errno.EPERM
        assert attempt("socket", socket.AF_NETLINK, socket.SOCK_RAW, 0) == -errno.EPERM
        assert attempt("socket", socket.AF_PACKET, socket.SOCK_RAW, 0) == -errno.EPERM
        assert attempt("socket", socket.AF_INET, socket.SOCK_RAW, 1) == -errno.EPERM  # allowed to ask, has no right to it
        assert attempt("kill", confined.process.pid, signal.SIGKILL) == -errno.EPERM
        assert attempt("mmap", 0, 4096, 7, 0x22, -1, 0) == -errno.EPERM  # writable and executable
        assert attempt("clone3", null, 88) == -errno.ENOSYS
        assert attempt("clone", signal.SIGCHLD, 0, 0, 0, 0) == -errno.EPERM  # a process, not a thread
    assert confined.containers[0].curl("https://allowed.example/").returncode == 0  # and it never noticed


@only_x86
@pytest.mark.parametrize("call", ["execve", "ptrace", "mount", "setns", "unshare", "bind", "bpf", "io_uring_setup", "memfd_create",
                                  "process_vm_readv", "setuid", "fork", "pidfd_open"])
def test_a_system_call_of_an_intruder_kills_the_worker_and_is_told(confined, call):
    worker, before_status = confined.worker(), confined.status()
    with tracing.attached(worker) as before:
        assert tracing.system_call(worker, before, call, 0, 0, 0, 0, 0) == signal.SIGSYS
    confined.await_new_worker(before_status, 10)
    assert "killed by its seccomp filter" in confined.log()
    assert confined.containers[0].curl("https://allowed.example/").returncode == 0


def worker_of(run):
    """The worker of a `sallyport exec`."""
    def found():
        children = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(run.process.pid)], capture_output=True, text=True).stdout
        return [int(line.split()[0]) for line in children.splitlines() if "sallyport-work" in line]
    wait_until(found, "the worker")
    return found()[0]


def test_under_exec_the_worker_holds_nothing_whoever_starts_it(lab, user):
    if is_sanitized(lab):
        pytest.skip("a sanitized build runs without seccomp and Landlock")
    run = lab.start(["sh", "-c", "echo up; read line"], user=user, **ALLOWED)
    assert run.line() == "up"
    worker = worker_of(run)
    wait_until(lambda: status(worker)["Seccomp"] == ["2"], "the filter")
    assert_holds_nothing(worker)
    assert not {kind for kind in descriptors(worker).values() if kind.startswith("/")} - {"/dev/null", str(run.audit_path)}
    run.say("\n")
    run.wait().ok()
