"""
Faults, put in one after the other (tests/faults/faults.c): whatever fails or dies, nothing is open that was closed, nothing is left over,
and service comes back without help.
"""
import contextlib
import errno
import json
import mmap
import os
import re
import select
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from daemon import Gateway
from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import NAME_SERVER, missing_programs, wait_until
from network import Bridge

KINDS = ["memory", "socket", "accept4", "connect", "sendmsg", "recvmsg", "sendto", "recvfrom", "read", "write", "writev", "splice", "pipe2",
         "epoll_ctl", "setsockopt", "getsockopt", "bind", "listen", "openat", "fsync", "renameat", "unlinkat", "fork", "sendmmsg",
         "recvmmsg", "setns", "socketpair", "netlink"]
ANY_BUT_MEMORY, DIE = 255, -1
FIELDS = {"kind": 0, "process": 1, "countdown": 2, "code": 3, "ahead": 4, "hits": 5}

POLICY = """
policies:
  agents: {allow: [allowed.example, "tcp://ssh.example:22", "198.18.7.0/24", "198.18.66.0/24:443"]}
default: deny
"""


class Faults:
    """The file that the preloaded object maps."""

    def __init__(self, path):
        size = 4 * (len(FIELDS) + len(KINDS))
        path.write_bytes(bytes(size))
        path.chmod(0o666)
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), size)

    def set(self, field, value):
        struct.pack_into("<i", self.map, 4 * FIELDS[field], value)

    def get(self, field):
        return struct.unpack_from("<i", self.map, 4 * FIELDS[field])[0]

    def arm(self, kind, nth, code, process=0):
        self.set("kind", 0)
        for field, value in (("process", process), ("countdown", nth), ("code", code), ("hits", 0)):
            self.set(field, value)
        self.set("kind", kind if isinstance(kind, int) else 1 + KINDS.index(kind))

    def disarm(self):
        """How often it struck."""
        self.set("kind", 0)
        return self.get("hits")


@pytest.fixture
def faulty(lab, request):
    """A gateway with the object preloaded, and its faults."""
    binary = Path(request.config.getoption("--binary") or os.environ.get("SALLYPORT_BINARY") or "build/cli/sallyport").resolve()
    preload = binary.parent.parent / "tests/faults/faults.so"
    if not preload.exists():
        pytest.skip("tests/faults/faults.so is not built (a sanitized build has its own allocator)")
    gateway = Gateway(lab, POLICY)
    gateway.faults = Faults(gateway.folder / "faults")
    plain = gateway.command
    gateway.command = lambda: ["env", f"LD_PRELOAD={preload}", f"SALLYPORT_FAULTS={gateway.folder}/faults", *plain()]
    gateway.start()
    yield gateway
    gateway.faults.disarm()
    gateway.close()
    gateway.log()


# What a container tries, again and again: DNS, a flow that is allowed, two that are not.
PROBE = r"""
import socket, sys
def ask(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        try:
            s.sendto(b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0\0\1\0\1", ("192.0.2.53", 53))
            answer = s.recv(512)
            return "answer" if answer[3] & 15 == 0 and answer[7] else "refused"
        except OSError: return "nothing"
def get(host, place):
    with socket.socket() as c:
        c.settimeout(2)
        try:
            c.connect((place, 80))
            c.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return c.recv(100)[9:12].decode() or "nothing"
        except OSError: return "nothing"
def other():
    with socket.socket() as c:
        c.settimeout(2)
        try:
            c.connect(("198.18.4.1", 22)); return "open" if c.recv(9) else "nothing"
        except OSError: return "nothing"
print("ready", flush=True)
for line in sys.stdin:
    print(ask("allowed.example"), ask("denied.example"), get("allowed.example", "198.18.1.1"), get("denied.example", "198.18.2.1"), other(), flush=True)
"""
GOOD = ["answer", "refused", "200", "403", "nothing"]


class Prober:
    def __init__(self, box):
        self.process = box.start("/usr/bin/python3", "-c", PROBE)
        assert self.process.stdout.readline() == "ready\n"

    def probe(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        assert ready, "the container waits without end"
        return self.process.stdout.readline().split()

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)


def assert_closed(got):
    """Whatever was denied stayed so."""
    allowed_dns, denied_dns, allowed, denied, other = got
    assert denied_dns in ("refused", "nothing") and denied in ("403", "503", "nothing") and other == "nothing", got
    assert allowed in ("200", "403", "502", "503", "504", "nothing") and allowed_dns in ("answer", "refused", "nothing"), got


def descriptors(pid):
    """How many, but for those that a pool or a cache may keep."""
    return len(os.listdir(f"/proc/{pid}/fd"))


WORKER_FAULTS = [("memory", errno.ENOMEM), ("socket", errno.EMFILE), ("socket", errno.ENOBUFS), ("accept4", errno.EMFILE), ("accept4", errno.ENFILE),
                 ("accept4", errno.ENOBUFS), ("accept4", errno.ENOMEM), ("accept4", errno.ECONNABORTED), ("connect", errno.ENOBUFS),
                 ("connect", errno.EADDRNOTAVAIL), ("sendmsg", errno.ENOBUFS), ("recvmsg", errno.ENOMEM), ("sendto", errno.ENOBUFS),
                 ("recvfrom", errno.ENOMEM), ("sendmmsg", errno.ENOBUFS), ("recvmmsg", errno.ENOMEM), ("read", errno.EIO), ("write", errno.ENOSPC),
                 ("writev", errno.ENOSPC), ("splice", errno.ENOMEM), ("pipe2", errno.EMFILE), ("epoll_ctl", errno.ENOSPC),
                 ("setsockopt", errno.ENOBUFS), ("getsockopt", errno.ENOBUFS), ("accept4", errno.EINTR), ("accept4", errno.EPROTO),
                 ("accept4", errno.EPERM), ("connect", errno.EPERM), ("connect", errno.ENETUNREACH), ("sendto", errno.EPERM), ("sendto", errno.EINTR),
                 ("recvfrom", errno.EINTR), ("sendmsg", errno.EINTR), ("recvmsg", errno.EINTR), ("read", errno.EINTR), ("write", errno.EINTR),
                 ("writev", errno.EINTR), ("writev", errno.EROFS), ("writev", errno.EDQUOT), ("writev", errno.EIO)]


@pytest.mark.parametrize("kind, code", WORKER_FAULTS, ids=[f"{kind} {errno.errorcode[code]}" for kind, code in WORKER_FAULTS])
def test_every_call_of_the_worker_may_fail(faulty, kind, code):
    """The nth call of a kind while a container looks up, connects and is refused, for every n there is."""
    box = faulty.container("--policy", "agents")
    prober = Prober(box)
    wait_until(lambda: prober.probe() == GOOD, "service")
    first = worker = faulty.worker()
    before, struck = descriptors(worker), 0
    for nth in range(1, 400):
        faulty.faults.arm(kind, nth, code, worker)
        got = prober.probe()
        hit = faulty.faults.disarm()
        assert_closed(got)
        if not hit:
            break
        struck += 1
        if faulty.status()["worker"] != worker:  # it may end where nothing else is left to do: its successor serves
            wait_until(lambda: faulty.status()["ready"], "the next worker")
            worker = faulty.worker()
            assert "the next one starts in" in faulty.log()
        if prober.probe() != GOOD:  # a pause after accept, a name that just failed: a moment, not for ever
            wait_until(lambda: prober.probe() == GOOD, f"service after {kind} {nth}")
    assert struck or kind not in ("memory", "accept4", "socket", "connect")  # the others depend on how the worker goes about it
    prober.close()
    if worker == first:
        wait_until(lambda: descriptors(worker) <= before + 4, f"descriptors back at {before}")
    assert faulty.stop() == 0
    faulty.audit(complete=worker == first)  # a worker that died wrote no ends


ENROL_FAULTS = [("memory", errno.ENOMEM), ("socket", errno.EMFILE), ("sendmsg", errno.ENOBUFS), ("recvmsg", errno.ENOMEM), ("sendto", errno.ENOBUFS),
                ("recvfrom", errno.ENOBUFS), ("bind", errno.EADDRINUSE), ("listen", errno.EADDRINUSE), ("openat", errno.ENFILE),
                ("write", errno.ENOSPC), ("fsync", errno.EIO), ("renameat", errno.EROFS), ("fork", errno.EAGAIN), ("setsockopt", errno.ENOPROTOOPT),
                ("setns", errno.EPERM), ("socketpair", errno.EMFILE), ("read", errno.EIO), ("epoll_ctl", errno.ENOMEM), ("sendmsg", errno.EINTR),
                ("recvmsg", errno.EINTR), ("read", errno.EINTR), ("write", errno.EINTR), ("openat", errno.EINTR), ("openat", errno.EROFS),
                ("write", errno.EROFS), ("socket", errno.ENOMEM), ("accept4", errno.EMFILE)]


def nothing_is_left(gateway, box, after=""):
    wait_until(lambda: box.sockets() == 0 and "sallyport" not in box.ruleset(), f"the namespace as it was, after {after}", 20)
    assert box.id not in {row["id"] for row in gateway.told("ps")}
    assert not list(gateway.state.glob(f"{box.id}*"))


@pytest.mark.parametrize("kind, code", ENROL_FAULTS, ids=[f"{kind} {errno.errorcode[code]}" for kind, code in ENROL_FAULTS])
def test_every_call_of_an_enrolment_may_fail(faulty, kind, code):
    """In the monitor and its children: an enrolment is whole, or refused with a reason and leaves nothing."""
    box = faulty.container(enroll=False)
    worker = faulty.worker()
    struck = 0
    for nth in range(1, 2000):
        if nth % 50 == 0:  # connection tracking remembers for half a minute where a namespace's datagrams went to
            box.close()
            box = faulty.container(enroll=False)
        faulty.faults.arm(kind, nth, code, -worker)
        done = faulty.ask("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents")
        hit = faulty.faults.disarm()
        assert faulty.process.poll() is None, faulty.log()
        if done.returncode and "answer" not in done.stderr:
            assert hit and done.stderr.strip(), (nth, done.stderr)
            nothing_is_left(faulty, box, f"{kind} {nth}: {done.stderr}")
        elif done.returncode:  # it was the answer that failed: then it is whole, or nothing
            assert hit
            if box.id in {row["id"] for row in faulty.told("ps")}:
                wait_until(lambda: faulty.ask("verify", box.id).returncode == 0, "an enrolment that is whole")
                assert faulty.ask("withdraw", box.id).returncode == 0
            nothing_is_left(faulty, box)
        else:
            wait_until(lambda: faulty.ask("verify", box.id).returncode == 0, "an enrolment that is whole")
            assert faulty.ask("withdraw", box.id).returncode == 0
        if not hit:
            break
        struck += 1
    assert struck or kind in ("fsync", "read", "write", "renameat", "epoll_ctl")
    assert faulty.ask("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents").returncode == 0
    assert box.curl("https://allowed.example/").returncode == 0


# --- what the kernel says over netlink ---------------------------------------------------------------------------------

# As enum doctored in tests/faults/faults.c.
NETLINK_FAULTS = {"an error in the middle": -2, "an answer that is lost": -3, "a list that changed": -4, "a torn list": -5,
                  "an answer to another": -6, "a list that is not finished": -7, "too many answers": errno.ENOBUFS,
                  "no memory": errno.ENOMEM, "a signal": errno.EINTR}
HARMLESS = ("a signal", "a list that changed")  # once: asked again, and nobody needs to know


def settled(gateway, box):
    """Enrolled and whole, or refused and as it was; which one."""
    if box.id in {row["id"] for row in gateway.told("ps")}:
        wait_until(lambda: gateway.ask("verify", box.id).returncode == 0, "an enrolment that is whole")
        return True
    nothing_is_left(gateway, box)
    return False


@pytest.mark.parametrize("kind", NETLINK_FAULTS)
def test_every_answer_of_the_kernel_may_be_wrong_while_a_container_is_enrolled(faulty, kind):
    faulty.write_policy(POLICY.replace("allow: [", 'allow: ["udp://198.18.7.0/24:123", "icmp://198.18.7.1", '))  # routes and marks, too
    faulty.told("reload")
    box, worker = faulty.container(enroll=False), faulty.worker()
    before, struck = descriptors(faulty.process.pid), 0
    for nth in range(1, 400):
        if nth % 25 == 0:  # connection tracking remembers for half a minute where a namespace's datagrams went to
            box.close()
            box = faulty.container(enroll=False)
        faulty.faults.arm("netlink", nth, NETLINK_FAULTS[kind], -worker)
        done = faulty.ask("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents")
        hit = faulty.faults.disarm()
        if done.returncode:
            assert hit and kind not in HARMLESS and done.stderr.strip(), (nth, done)
            nothing_is_left(faulty, box, f"{kind} {nth}: {done.stderr}")
        else:
            assert settled(faulty, box)
            assert faulty.ask("withdraw", box.id).returncode == 0
            nothing_is_left(faulty, box, f"{kind} {nth}, withdrawn")
        if not hit:
            break
        struck += 1
    assert struck > 0
    assert faulty.ask("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents").returncode == 0
    assert box.curl("https://allowed.example/").returncode == 0
    assert faulty.ask("withdraw", box.id).returncode == 0
    wait_until(lambda: descriptors(faulty.process.pid) <= before, "every descriptor to be given back")
    assert faulty.worker() == worker


@pytest.mark.parametrize("kind", NETLINK_FAULTS)
def test_every_answer_of_the_kernel_may_be_wrong_while_a_container_is_looked_at_and_withdrawn(faulty, kind):
    """Verify says that it is whole or why it cannot tell; withdrawn, it is gone in the end."""
    box, worker = faulty.container("--policy", "agents"), faulty.worker()
    struck = 0
    for nth in range(1, 100):
        faulty.faults.arm("netlink", nth, NETLINK_FAULTS[kind], -worker)
        looked = faulty.ask("verify", box.id)
        hit = faulty.faults.disarm()
        assert looked.returncode == 0 or hit and kind not in HARMLESS and (looked.stderr + looked.stdout).strip(), looked
        assert box.curl("https://allowed.example/").returncode == 0
        if not hit:
            break
        struck += 1
    for nth in range(1, 100):
        faulty.faults.arm("netlink", nth, NETLINK_FAULTS[kind], -worker)
        done = faulty.ask("withdraw", box.id)
        hit = faulty.faults.disarm()
        struck += hit
        assert done.returncode == 0 or hit and done.stderr.strip(), done
        if settled(faulty, box):
            assert faulty.ask("withdraw", box.id).returncode == 0
        nothing_is_left(faulty, box)
        if not hit:
            break
        faulty.told("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents")
    assert struck > 0 and faulty.worker() == worker


@pytest.mark.parametrize("kind", NETLINK_FAULTS)
def test_every_answer_of_the_kernel_may_be_wrong_while_a_network_is_captured(lab, faulty, kind):
    """A reload that adds a network, and one that takes it away: done, or refused and as before."""
    bridge = Bridge(lab)
    try:
        bridge.create()
        box, worker = bridge.container(), faulty.worker()
        captured = POLICY.replace("default: deny", "assign: [{subnet: 172.28.0.0/24, policy: agents}]\n"
                                                   "networks: [{name: lab, interface: br-lab}]\ndefault: deny")
        captured = captured.replace("allow: [", 'allow: ["udp://allowed.example:123", ')

        def is_captured():
            return bool(faulty.status()["networks"])

        struck = 0
        for nth in range(1, 200):
            hits = 0
            for wanted in (True, True, False):  # the second takes over the addresses that the kernel was told of
                before = is_captured()
                faulty.write_policy(captured if wanted else POLICY)
                faulty.faults.arm("netlink", nth, NETLINK_FAULTS[kind], -worker)
                done = faulty.ask("reload")
                hit = faulty.faults.disarm()
                hits += hit
                assert done.returncode == 0 or hit and kind not in HARMLESS and done.stderr.strip(), (nth, done)
                assert is_captured() == (wanted if done.returncode == 0 else before)
                # What is said is what is so.
                assert ("table inet sallyport-network" in lab.host.output("nft", "list", "ruleset")) == is_captured(), (nth, done)
                leaves = box.curl("https://denied.example/", "--resolve", "denied.example:443:198.18.2.1").returncode == 0
                assert leaves == (not is_captured()), (nth, done)
                if done.returncode:
                    faulty.told("reload")  # once more, undisturbed
                    assert is_captured() == wanted
            if not hits:
                break
            struck += 1
        assert struck > 0
    finally:
        bridge.close()
        lab.host.run("nft", "delete", "table", "inet", "sallyport-network", check=False, capture_output=True)


def test_the_monitor_killed_at_every_step_of_an_enrolment(faulty):
    """Each system call of the monitor between the request and the answer is once its last."""
    box = faulty.container(enroll=False)
    monitor = faulty.process.pid
    for nth in range(1, 500):
        faulty.faults.arm(ANY_BUT_MEMORY, nth, DIE, monitor)
        done = faulty.ask("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents")
        hit = faulty.faults.disarm()
        if not hit:
            assert done.returncode == 0, done
            break
        faulty.process.wait(10)
        # Nobody serves it: enrolled or not, nothing gets out.
        assert box.curl("http://allowed.example/", "--resolve", "allowed.example:80:198.18.1.1", "--max-time", "1").returncode != 0
        begun = faulty.log().count("ready: ")
        faulty.start()
        wait_until(lambda: faulty.log().count("ready: ") > begun, "the next monitor")
        monitor = faulty.process.pid
        listed = {row["id"] for row in faulty.told("ps")}
        if box.id in listed:  # it got as far as the state file: then it is served
            wait_until(lambda: faulty.ask("verify", box.id).returncode == 0, "what was begun to be whole")
            assert faulty.ask("withdraw", box.id).returncode == 0
        # A monitor that died before it knew of rules in force cannot take them back: they are closed, and the next enrolment
        # replaces them.
        wait_until(lambda: box.sockets() == 0, "no socket in the namespace", 20)
        assert not list(faulty.state.glob(f"{box.id}*"))
    assert nth > 5
    assert box.curl("https://allowed.example/").returncode == 0


# --- the worker, in the middle of a flow ------------------------------------------------------------------------------

STATES = {
    "nothing was sent": ("198.18.1.1", 443, b"", None),
    "half a hello": ("198.18.1.1", 443, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", None),
    "half a request": ("198.18.1.1", 80, b"GET / HTTP/1.1\r\nHost: allowed", None),
    "connecting": ("198.18.66.1", 443, b"", None),
    "relaying": ("198.18.7.1", 7002, b"", b"welcome\n"),
    "in the middle of an upload": ("198.18.7.1", 7000, bytes(50000), None),
    "the origin has finished": ("198.18.7.1", 7003, b"", b"welcome\n"),
    "between two requests": ("198.18.1.1", 80, b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
    "refused, and not gone": ("198.18.2.1", 80, b"GET / HTTP/1.1\r\nHost: denied.example\r\n\r\n", b"HTTP/1.1 403"),
}
HANG = r"""
import json, socket, sys
place, port, data, expected = json.loads(sys.argv[1])
c = socket.create_connection((place, port)); c.sendall(bytes.fromhex(data)); got = b""
while len(got) < len(expected) and (more := c.recv(len(expected) - len(got))): got += more
print(json.dumps(got.decode()), flush=True)
sys.stdin.readline()
c.settimeout(10)
try:
    while c.recv(65536): pass
    print("fin")
except ConnectionResetError: print("rst")
except OSError as problem: print(problem)
"""


@pytest.mark.parametrize("state", STATES)
def test_the_worker_killed_at_every_state_of_a_flow(make_gateway, state):
    gateway = make_gateway(POLICY)
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    place, port, data, expected = STATES[state]
    client = box.start("/usr/bin/python3", "-c", HANG, json.dumps([place, port, data.hex(), (expected or b"").decode()]))
    assert json.loads(client.stdout.readline()) == (expected or b"").decode()
    wait_until(lambda: gateway.status()["flows_active"] == 1, "the flow")  # one not yet accepted would wait for the next worker
    before = gateway.kill_worker()
    client.stdin.write("\n")
    client.stdin.flush()
    assert client.stdout.readline().strip() in ("rst", "fin")  # told at once, not left to wait
    client.wait(10)
    gateway.await_new_worker(before, 10)
    wait_until(lambda: box.curl("https://allowed.example/").returncode == 0, "service")
    assert "killed by signal 9" in gateway.log()
    denied = box.curl("http://denied.example/", "--resolve", "denied.example:80:198.18.2.1", "-o", "/dev/null", "-w", "%{http_code}")
    assert denied.stdout == "403"


# --- what a power cut leaves ------------------------------------------------------------------------------------------

def test_state_files_as_a_power_cut_leaves_them(make_gateway):
    """Cut short at any length, empty, all zeros, half-written beside the whole one: what is whole is served, the rest is told and gone."""
    gateway = make_gateway(POLICY)
    whole, hurt = gateway.container("--policy", "agents"), gateway.container("--policy", "agents")
    record = gateway.state / f"{hurt.id}.json"
    text = record.read_bytes()
    damaged = [b"", bytes(len(text)), bytes(4096), text[:1], text[:len(text) // 2], text[:-1], text.rstrip()[:-1], text + text, b"[]", b"{}"]
    for data in damaged:
        gateway.kill()
        record.write_bytes(data)
        (gateway.state / f"{whole.id}.new").write_bytes(text[:40])  # the next version, which never came to be
        (gateway.state / "never-was.new").write_bytes(b"")
        begun = gateway.log().count("ready: ")
        gateway.start()
        wait_until(lambda: gateway.log().count("ready: ") > begun, "the next monitor")
        wait_until(lambda: whole.curl("https://allowed.example/").returncode == 0, "the whole one to be served")
        listed = {row["id"] for row in gateway.told("ps")}
        assert whole.id in listed
        if hurt.id not in listed:
            assert f"removing the state file {hurt.id}.json" in gateway.log() and not record.exists()
            assert hurt.curl("http://allowed.example/", "--resolve", "allowed.example:80:198.18.1.1", "--max-time", "2").returncode != 0
            gateway.told("enroll", "--pid", hurt.pid, "--id", hurt.id, "--policy", "agents")
        assert hurt.curl("https://allowed.example/").returncode == 0
        assert not list(gateway.state.glob("*.new"))
        assert record.exists()


OPERATION = re.compile(r"^\d+ +(openat|write|renameat|unlinkat|fsync|sendmsg|sendto)\((.*)\) += (\d+)(?:<(.*)>)?$")


def operations(trace, folder):
    """What was done to the state folder, in order, and when somebody got an answer: (what, name, more)."""
    for line in trace.read_text(errors="replace").splitlines():
        found = OPERATION.match(line)
        if not found:
            continue
        call, arguments, _, path = found.groups()
        names = re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)
        at = re.match(r"\d+<([^>]*)>", arguments)
        where = at[1] if at else ""
        if call == "openat" and where == str(folder) and "O_CREAT" in arguments:
            yield "create", names[0], None
        elif call == "write" and where.startswith(f"{folder}/"):
            yield "write", os.path.basename(where), names[0].encode().decode("unicode_escape").encode("latin-1")
        elif call == "renameat" and where == str(folder):
            yield "rename", names[0], names[1]
        elif call == "unlinkat" and where == str(folder):
            yield "unlink", names[0], None
        elif call == "fsync" and where == str(folder):
            yield "sync folder", None, None
        elif call == "fsync" and where.startswith(f"{folder}/"):
            yield "sync", os.path.basename(where), None
        elif call.startswith("send") and any("changed" in name for name in names):
            yield "answer", None, None


class Disk:
    """A folder as a file system that keeps nothing it was not told to sync, or any part of it."""

    def __init__(self):
        self.names, self.kept = {}, {}  # name → file, in memory and for good; a file is [bytes, bytes that were synced]

    def do(self, what, name, more):
        if what == "create":
            self.names[name] = [b"", b""]
        elif what == "write":
            self.names[name][0] += more
        elif what == "rename":
            self.names[more] = self.names.pop(name)
        elif what == "unlink":
            self.names.pop(name, None)
        elif what == "sync":
            self.names[name][1] = self.names[name][0]
        elif what == "sync folder":
            self.kept = dict(self.names)

    def after_the_cut(self):
        """The folders that may be found: all of it, names without their bytes, half the bytes, and nothing but what was synced."""
        everything = {name: file[0] for name, file in self.names.items()}
        no_bytes = {name: file[1] for name, file in self.names.items()}
        half = {name: file[0][:max(len(file[1]), len(file[0]) // 2)] for name, file in self.names.items()}
        zeros = {name: file[1] or bytes(len(file[0])) for name, file in self.names.items()}
        strict = {name: file[1] for name, file in self.kept.items()}
        return [everything, no_bytes, half, zeros, strict]


def test_the_order_of_what_is_written_survives_a_power_cut(make_gateway):
    """Every prefix of what a gateway did to its state folder, with and without what was not synced: the next one starts, has every change
    that was answered, no half of one, and nothing of containers that are gone with the machine's memory."""
    if missing_programs("strace"):
        pytest.skip("not installed: strace")
    gateway = make_gateway(POLICY, start=False)
    trace, plain = gateway.folder / "trace", gateway.command
    gateway.command = lambda: ["strace", "-y", "-qq", "-s", "65536", "-o", str(trace), "-f", "-e",
                               "trace=openat,write,renameat,unlinkat,fsync,sendmsg,sendto", "--", *plain()]
    [main] = [line for line in gateway.start(wait=False).await_notice("READY=1") if line.startswith("MAINPID=")]
    boxes = [gateway.container("--policy", "agents") for _ in range(2)]
    rules = [f"late{number}.example" for number in range(4)]
    gateway.told("allow", boxes[0].id, rules[0])
    gateway.told("allow", "--policy", "agents", rules[1])
    gateway.told("withdraw", boxes[1].id)
    gateway.told("deny", "--policy", "agents", rules[2])
    gateway.told("allow", boxes[0].id, rules[3])
    os.kill(int(main.partition("=")[2]), signal.SIGTERM)
    assert gateway.process.wait(20) == 0
    done = list(operations(trace, gateway.state))
    assert [what for what, *_ in done].count("answer") == len(rules) and ("rename", f"{boxes[0].id}.new", f"{boxes[0].id}.json") in done, done

    boot = gateway.folder / "boot"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    gateway.command = lambda: ["unshare", "--mount", "sh", "-c",
                               f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"', "sh", *plain()]
    disk, answered, seen = Disk(), 0, set()
    for operation in done:
        answered += operation[0] == "answer"
        disk.do(*operation)
        for files in disk.after_the_cut():
            state = (answered, *sorted(files.items()))
            if state in seen:
                continue
            seen.add(state)
            for old in gateway.state.iterdir():
                old.unlink()
            for name, data in files.items():
                (gateway.state / name).write_bytes(data)
            gateway.start()
            text = (gateway.state / "changes.yaml").read_text() if (gateway.state / "changes.yaml").exists() else ""
            assert [rule for rule in rules if rule in text] in (rules[:answered], rules[:answered + 1]), (operation, files)
            assert gateway.told("ps") == [] and not [*gateway.state.glob("*.json"), *gateway.state.glob("*.new")], (operation, files)
            gateway.process.kill()
            gateway.process.wait()
    assert len(seen) > 20


# --- clocks, disks, name servers --------------------------------------------------------------------------------------

def test_a_clock_that_jumps_changes_nothing(faulty):
    box = faulty.container("--policy", "agents")
    held = box.start("/usr/bin/python3", "-c", HANG, json.dumps(["198.18.7.1", 7002, "", "welcome\n"]))
    assert json.loads(held.stdout.readline()) == "welcome\n"
    for ahead in (86400 * 365, -86400 * 365, 3, 0):
        faulty.faults.set("ahead", ahead)
        assert box.curl("https://allowed.example/").returncode == 0
        assert box.curl("http://denied.example/", "--resolve", "denied.example:80:198.18.2.1", "-o", "/dev/null", "-w", "%{http_code}").stdout == "403"
    held.stdin.close()
    held.kill()
    assert faulty.stop() == 0
    audit = faulty.audit()
    years = {event["@timestamp"][:4] for event in audit}
    assert len(years) == 3  # it is told as the clock told it
    for event in audit.where(event_action="flow-ended"):
        assert 0 <= event["event.duration"] < 60e9, event  # durations are another clock's


def test_a_full_disk_denies_and_an_emptied_one_serves(lab, make_gateway):
    gateway = make_gateway(POLICY, start=False)
    place = gateway.folder / "disk"
    place.mkdir()
    gateway.audit_path = place / "audit.jsonl"
    # Mounted where the gateway alone sees it.
    plain = gateway.command
    story = f'mount -t tmpfs -o size=64k none {place} && exec "$@"'
    gateway.command = lambda: ["unshare", "--mount", "sh", "-c", story, "sh", *plain()]
    gateway.start()
    inside = Path(f"/proc/{gateway.process.pid}/root{place}")
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    with contextlib.suppress(OSError), open(inside / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1024))

    def refused():
        return box.curl("http://allowed.example/", "--resolve", "allowed.example:80:198.18.1.1").returncode != 0 or \
            "audit_unavailable" in box.curl("http://allowed.example/", "--resolve", "allowed.example:80:198.18.1.1").stdout
    wait_until(refused, "a refusal for want of an audit log")
    (inside / "filler").unlink()
    wait_until(lambda: box.curl("https://allowed.example/").stdout.startswith("allowed.example at"), "service")
    text = (inside / "audit.jsonl").read_text()
    numbers = [json.loads(line)["event"]["sequence"] for line in text.splitlines()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def on_small_disk(gateway, then):
    """Its audit file on a disk of 64 KiB that it alone sees, made ready by a command; the folder, as it is inside."""
    place = gateway.folder / "disk"
    place.mkdir()
    gateway.audit_path = place / "audit.jsonl"
    plain = gateway.command
    story = f'mount -t tmpfs -o size=64k none {place} && cd {place} && {then} && cd / && exec "$@"'
    gateway.command = lambda: ["unshare", "--mount", "sh", "-c", story, "sh", *plain()]
    return lambda: Path(f"/proc/{gateway.process.pid}/root{place}")


def test_a_disk_that_is_full_from_the_start_lets_not_even_the_first_flow_pass(make_gateway):
    gateway = make_gateway(POLICY, start=False)
    inside = on_small_disk(gateway, "(dd if=/dev/zero of=filler bs=1k 2>/dev/null || true)")
    gateway.start()
    box = gateway.container("--policy", "agents")
    assert gateway.status()["audit_failing"]  # known before anybody tried
    first = box.curl("http://allowed.example/", "--resolve", "allowed.example:80:198.18.1.1")
    assert first.returncode != 0 and not first.stdout, first
    (inside() / "filler").unlink()
    wait_until(lambda: not gateway.status()["audit_failing"], "the room to be found")
    assert "allowed.example at" in box.curl("https://allowed.example/").stdout
    lines = (inside() / "audit.jsonl").read_text().splitlines()
    numbers = [json.loads(line)["event"]["sequence"] for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    refused = [json.loads(line)["event"] for line in lines if "audit_unavailable" in line]
    assert refused and refused[0]["outcome"] == "failure"


@pytest.mark.parametrize("what, said", [
    ("mount -o remount,ro .", "Read-only file system"),
    ("touch audit.jsonl && chmod 000 audit.jsonl && chown 1234 audit.jsonl", "Permission denied"),
    ("mkdir audit.jsonl", "Is a directory"),
    ("mkdir gone && cd gone && rmdir ../gone && ln -s gone/audit.jsonl ../audit.jsonl", "No such file"),
], ids=["a read-only file system", "a file of another", "a folder in its place", "a link that leads nowhere"])
def test_an_audit_file_that_cannot_be_written_is_no_start(make_gateway, what, said):
    gateway = make_gateway(POLICY, start=False)
    on_small_disk(gateway, what)
    gateway.start(wait=False)
    assert gateway.process.wait(20) == 1
    assert f"cannot open the audit file {gateway.audit_path}" in gateway.log() and said in gateway.log()


def test_a_disk_that_fills_up_while_nobody_writes_is_found_out_at_the_rotation(make_gateway):
    """The new file has no room, and nothing waits to be written into it."""
    gateway = make_gateway(POLICY, start=False)
    inside = on_small_disk(gateway, "true")
    gateway.start()
    box = gateway.container("--policy", "agents")
    assert not gateway.status()["audit_failing"]
    with contextlib.suppress(OSError), open(inside() / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1024))
    (inside() / "audit.jsonl").rename(inside() / "old.jsonl")
    gateway.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: gateway.status()["audit_failing"], "the lack of room to be known")
    first = box.curl("http://allowed.example/", "--resolve", "allowed.example:80:198.18.1.1")
    assert first.returncode != 0 and not first.stdout, first
    (inside() / "filler").unlink()
    wait_until(lambda: not gateway.status()["audit_failing"], "the room to be found")
    assert "allowed.example at" in box.curl("https://allowed.example/").stdout


@pytest.mark.parametrize("what", ["removed", "read-only", "a folder"])
def test_a_rotation_that_fails_leaves_the_old_file_in_use(make_gateway, what):
    """SIGUSR1 when there is no place for a new file: nothing is lost, the log says why, and the next rotation works."""
    gateway = make_gateway(POLICY, start=False)
    place = gateway.folder / "logs"
    place.mkdir()
    gateway.audit_path = place / "audit.jsonl"
    gateway.start()
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    old = gateway.folder / "old.jsonl"
    gateway.audit_path.rename(old)
    worker = gateway.worker()

    def in_its_mounts(*command):
        subprocess.run(["nsenter", "-t", str(gateway.process.pid), "--mount", *map(str, command)], check=True)

    if what == "removed":
        place.rmdir()
    elif what == "read-only":
        in_its_mounts("mount", "--bind", place, place)
        in_its_mounts("mount", "-o", "remount,bind,ro", place)
    else:
        gateway.audit_path.mkdir()
    try:
        gateway.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "the old one stays in use" in gateway.log(), "the reason")
        assert box.curl("https://allowed.example/").returncode == 0
        wait_until(lambda: old.read_text().count("flow-ended") == 2, "the second flow in the old file")
    finally:
        if what == "read-only":
            in_its_mounts("umount", place)
    if what == "removed":
        place.mkdir()
    elif what == "a folder":
        gateway.audit_path.rmdir()
    gateway.process.send_signal(signal.SIGUSR1)
    wait_until(gateway.audit_path.exists, "the new file")
    assert box.curl("https://allowed.example/").returncode == 0
    wait_until(lambda: gateway.audit_path.read_text().count("flow-ended") == 1, "the third flow in the new one")
    assert gateway.worker() == worker
    numbers = [json.loads(line)["event"]["sequence"] for file in (old, gateway.audit_path) for line in file.read_text().splitlines()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_silent_name_server_costs_the_names_that_need_it(make_gateway):
    gateway = make_gateway(POLICY, start=False)
    gateway.config.write_text(gateway.config.read_text().replace(NAME_SERVER, "198.18.66.1"))
    gateway.start()
    box = gateway.container("--policy", "agents")
    begin = time.monotonic()
    denied = box.do("dig", "+tries=1", "+time=5", "denied.example")
    assert "NXDOMAIN" in denied.stdout
    assert "SERVFAIL" in box.do("dig", "+tries=1", "+time=30", "allowed.example").stdout
    assert time.monotonic() - begin < 30
    assert box.do("/usr/bin/python3", "-c", "import socket; print(socket.create_connection(('198.18.7.1', 7002)).recv(9))").stdout.startswith("b'welcome")
    # And answered again as soon as there is one.
    gateway.config.write_text(gateway.config.read_text().replace("198.18.66.1", NAME_SERVER))
    gateway.told("reload")
    assert box.curl("https://allowed.example/").returncode == 0
