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
from lab import Result, missing_programs, wait_until
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
    gateway.violations = True
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


# --- system calls ------------------------------------------------------------------------------------------------------

NULL = 0  # pointers: the filter is asked before anybody looks where they lead
AT_EMPTY_PATH, CLONE_VM, CLONE_NEWUSER, A_THREAD = 0x1000, 0x100, 0x10000000, 0x3D0F00

CURIOUS = {  # what a library asks for, and can do without
    "openat": errno.EACCES, "open": errno.EACCES, "access": errno.EACCES, "faccessat": errno.EACCES, "faccessat2": errno.EACCES, "stat": errno.EACCES,
    "lstat": errno.EACCES, "readlink": errno.EACCES, "readlinkat": errno.EACCES, "newfstatat": errno.EACCES, "clone3": errno.ENOSYS,
    "statx": errno.ENOSYS,
}

KILLED = """execve execveat fork vfork ptrace mount umount2 pivot_root chroot move_mount fsopen open_tree unshare setns bpf bind listen keyctl
add_key request_key userfaultfd process_vm_readv process_vm_writev pidfd_open pidfd_getfd pidfd_send_signal kill tkill io_uring_setup
io_uring_enter io_uring_register perf_event_open open_by_handle_at init_module finit_module kexec_load setuid setgid setreuid setregid
setresuid setresgid setgroups setfsuid capset seccomp memfd_create mknodat symlinkat linkat renameat2 unlinkat personality modify_ldt iopl
ioperm shmat pkey_mprotect""".split()

# Not on the list, or not with these arguments: what it is, and the call.
UNLISTED = {
    "a unix socket": ("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0),
    "a netlink socket": ("socket", socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "a packet socket": ("socket", socket.AF_PACKET, socket.SOCK_RAW, 0),
    "a raw IPv4 socket": ("socket", socket.AF_INET, socket.SOCK_RAW, 1),
    "a raw IPv6 socket": ("socket", socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 58),
    "a vsock": ("socket", 40, socket.SOCK_STREAM, 0),
    "the kernel's crypto": ("socket", 38, socket.SOCK_SEQPACKET, 0),
    "a pair of sockets": ("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, NULL),
    "a socket filter": ("setsockopt", 0, socket.SOL_SOCKET, 26, NULL, 16),
    "a BPF program for a socket": ("setsockopt", 0, socket.SOL_SOCKET, 50, NULL, 4),
    "a mark": ("setsockopt", 0, socket.SOL_SOCKET, 36, NULL, 4),
    "a device": ("setsockopt", 0, socket.SOL_SOCKET, 25, NULL, 4),
    "rules of iptables": ("setsockopt", 0, socket.IPPROTO_IP, 64, NULL, 4),
    "a transparent socket": ("setsockopt", 0, socket.IPPROTO_IP, 19, NULL, 4),
    "another protocol over TCP": ("setsockopt", 0, socket.IPPROTO_TCP, 31, NULL, 4),
    "TCP's repair mode": ("setsockopt", 0, socket.IPPROTO_TCP, 19, NULL, 4),
    "typing on a terminal": ("ioctl", 0, 0x5412, NULL),
    "the machine's interfaces": ("ioctl", 0, 0x8912, NULL),
    "signals of a descriptor": ("fcntl", 0, 8, 1),
    "a lease": ("fcntl", 0, 1024, 0),
    "memory to execute": ("mmap", 0, 4096, 7, 0x22, -1, 0),
    "code that is written": ("mprotect", 0, 4096, 5),
    "a process": ("clone", signal.SIGCHLD, 0, 0, 0, 0),
    "a thread in a user namespace": ("clone", A_THREAD | CLONE_NEWUSER, 0, 0, 0, 0),
    "a process with our memory": ("clone", CLONE_VM | signal.SIGCHLD, 0, 0, 0, 0),
    "to be dumpable": ("prctl", 4, 1, 0, 0, 0),
    "an ambient capability": ("prctl", 47, 2, 12, 0, 0),
    "another handler for SIGSYS": ("rt_sigaction", signal.SIGSYS, NULL, NULL, 8),
    "a handler for SIGSEGV": ("rt_sigaction", signal.SIGSEGV, NULL, NULL, 8),
    "a signal to the monitor": ("tgkill", 1, 1, signal.SIGKILL),
    "higher limits": ("prlimit64", 0, 7, 4096, NULL),
    "the limits of another": ("prlimit64", 1, 7, NULL, 4096),
    "a folder's contents": ("getdents64", 0, NULL, 0),
    "a new folder": ("mkdirat", -100, NULL, 0),
    "another name": ("rename", NULL, NULL),
    "another owner": ("fchown", 4, 0, 0),
    "another mode": ("fchmod", 4, 0o777),
    "another place to be": ("chdir", NULL),
    "changes of files": ("inotify_init1", 0),
    "another clock": ("clock_settime", 0, NULL),
    "a message queue": ("msgget", 0, 0),
    "shared memory": ("shmget", 0, 0, 0),
    "the kernel's log": ("syslog", 3, NULL, 0),
    "other processors": ("sched_setaffinity", 0, 0, NULL),
    "another's rank": ("setpriority", 0, 1, 0),
    "another session": ("setsid",),
    "another name of the machine": ("sethostname", NULL, 0),
    "a restart of it": ("reboot", 0, 0, 0, NULL),
    "pages given away": ("vmsplice", 0, NULL, 0, 0),
    "what was never heard of": (460,),
}


@only_x86
def test_what_a_worker_that_was_taken_over_cannot_do(confined):
    worker = confined.worker()
    with tracing.attached(worker) as before:
        def attempt(*call):
            return tracing.system_call(worker, before, *call)
        assert attempt("getpid") == worker  # the way of asking works
        for call, code in CURIOUS.items():
            assert attempt(call, NULL, NULL, NULL, NULL, NULL) == -code, call
        assert attempt("ioctl", 1, 0x5401, NULL) == -errno.ENOTTY  # is it a terminal?
        assert attempt("newfstatat", -1, NULL, NULL, AT_EMPTY_PATH) in (-errno.EFAULT, -errno.EBADF)  # fstat(3)
        assert attempt("prlimit64", 0, 3, NULL, NULL) == 0  # the size of a stack, before a thread is made
        assert attempt("sysinfo", NULL) == -errno.EFAULT  # the size of memory, before something large is sorted
        assert attempt("prctl", 0x53564D41, 0, 0, 0, 0) == -errno.EINVAL
    assert confined.containers[0].curl("https://allowed.example/").returncode == 0  # and it never noticed


@only_x86
@pytest.mark.parametrize("call", KILLED)
def test_a_system_call_of_an_intruder_kills_the_worker_and_is_told(confined, call):
    worker, before_status = confined.worker(), confined.status()
    with tracing.attached(worker) as before:
        assert tracing.system_call(worker, before, call, 0, 0, 0, 0, 0) == signal.SIGSYS
    confined.await_new_worker(before_status, 10)
    assert "killed by its seccomp filter" in confined.log()
    assert confined.containers[0].curl("https://allowed.example/").returncode == 0


@only_x86
@pytest.mark.parametrize("call", UNLISTED.values(), ids=UNLISTED)
def test_a_system_call_that_is_not_on_the_list_kills_the_worker_and_is_told_by_name(confined, call):
    worker, before_status = confined.worker(), confined.status()
    with tracing.attached(worker) as before:
        assert tracing.system_call(worker, before, *call) == signal.SIGSYS
    confined.await_new_worker(before_status, 10)
    name = "unknown" if isinstance(call[0], int) else call[0]
    assert f"a system call that is not on its list: number {tracing.number(call[0])}, {name}(" in confined.log()
    assert "killed by its seccomp filter" in confined.log()
    assert confined.containers[0].curl("https://allowed.example/").returncode == 0


@only_x86
def test_whatever_has_no_reason_is_killed(confined):
    """The filter as the kernel has it, asked about every number there may be."""
    try:
        program = tracing.filter_of(confined.worker())
    except OSError as problem:
        pytest.skip(f"this kernel does not show filters: {problem}")
    allowed = {name for name in WITH_ANY_ARGUMENTS if tracing.seccomp.seccomp_syscall_resolve_name(name.encode()) >= 0}
    numbers = {tracing.number(name): name for name in allowed | set(CURIOUS)}
    for call in range(0, 1024):
        said = tracing.judge(program, call, *[0xBAD00BAD] * 6)
        if call in numbers:
            assert said == ("errno" if numbers[call] in CURIOUS else "allow"), numbers[call]
        else:
            assert said in ("kill", "trap"), call
        assert tracing.judge(program, call | 0x40000000) == "kill"  # the numbers of x32
        assert tracing.judge(program, call, architecture=0x40000003) == "kill"  # and of i386
    assert {tracing.judge(program, call, 0, 0, 0, 0, 0, 0) for call in KILLED} == {"kill"}
    for call in UNLISTED.values():
        assert tracing.judge(program, *call) in ("kill", "trap"), call


WITH_ANY_ARGUMENTS = set("""read write readv writev pwritev2 recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg accept4 connect shutdown
getsockopt getsockname getpeername splice pipe2 close dup fstat lseek pread64 ftruncate fallocate fsync fdatasync epoll_wait epoll_pwait epoll_ctl
epoll_create1 eventfd2 poll ppoll timerfd_create timerfd_settime clock_gettime clock_getres gettimeofday time nanosleep clock_nanosleep
getrandom getpid gettid getuid geteuid getgid getegid getrusage exit exit_group restart_syscall rt_sigprocmask rt_sigreturn sigaltstack
brk munmap mremap madvise sysinfo futex set_robust_list rseq set_tid_address sched_yield sched_getaffinity getcpu membarrier""".split())


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


@only_x86
@pytest.mark.parametrize("call", [("execve", 0, 0, 0), ("socket", socket.AF_UNIX, 1, 0), ("mprotect", 0, 4096, 5), ("chdir", 0)], ids=lambda call: call[0])
def test_under_exec_a_system_call_that_is_not_on_the_list_kills_the_worker_too(lab, call, monkeypatch):
    monkeypatch.setattr(Result, "violations", True)
    if is_sanitized(lab):
        pytest.skip("a sanitized build runs without seccomp and Landlock")
    run = lab.start(["sh", "-c", "echo up; read line; curl -sS --max-time 10 https://allowed.example/"], **ALLOWED)
    assert run.line() == "up"
    worker = worker_of(run)
    wait_until(lambda: status(worker)["Seccomp"] == ["2"], "the filter")
    with tracing.attached(worker) as before:
        assert tracing.system_call(worker, before, *call) == signal.SIGSYS
    run.say("\n")
    done = run.wait()
    assert done.ok() and "allowed.example at" in done.out  # by the next worker
    assert "killed by its seccomp filter" in done.err
    assert call[0] == "execve" or f"{call[0]}(" in done.err
