"""
Doors that an attacker inside would try, each of them tried in earnest. What test_exec_doors.py, test_http.py, test_dns.py and
test_binding.py ask one at a time stays there; here many attempts share one run, so that trying them all stays cheap.
"""
import json
import os
import signal
import socket
import struct
import threading
import time

import pytest

from enclosed import Terminal, children_of, identity, name_of, wait_until
from exec_fixtures import enclosed  # noqa: F401
from origins import address

# --- the enclosure ------------------------------------------------------------------------------------------------

# Runs inside: evaluates every attempt and says how it ended, by errno or "ok: what came out".
ATTEMPTS = r"""
import ctypes, errno, fcntl, json, os, resource, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
    return "done"
def shell(command):
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise OSError(errno.ECANCELED, done.stderr)
    return done.stdout
init = os.pidfd_open(1)
def attempt(story):
    try:
        return f"ok: {eval(story)}"
    except OSError as problem:
        return errno.errorcode[problem.errno]
print(json.dumps({story: attempt(story) for story in json.load(sys.stdin)}))
"""

NO = {"EPERM", "EACCES"}
FAILED = {"ECANCELED"}  # a program that said no by its exit status

X86_64 = os.uname().machine == "x86_64"
HANDLES_OF_INIT = {
    # Namespaces of init's, by pidfd (ioctl PIDFD_GET_*_NAMESPACE, Linux 6.11; ENOTTY before), by setns(2), by /proc.
    **{f"fcntl.ioctl(init, {0xff00 | number})": NO | {"ENOTTY"} for number in range(1, 11)},
    "call(308, init, 0x40000000)": NO,                               # setns(pidfd, CLONE_NEWNET)
    "call(308, init, 0x10000000)": NO,                               # setns(pidfd, CLONE_NEWUSER)
    "call(438, init, 3, 0)": NO,                                     # pidfd_getfd
    "call(101, 0x4206, 1, 0, 0)": NO,                                # PTRACE_SEIZE
    "call(312, 1, os.getpid(), 0, 0, 0)": NO,                        # kcmp
    "os.listdir('/proc/1/root')": NO, "os.listdir('/proc/1/cwd')": NO,
    **{f"os.open('/proc/1/fd/{number}', os.O_RDONLY)": NO | {"ENOENT"} for number in range(16)},
    "os.readlink('/proc/1/task/1/ns/net')": NO, "os.readlink('/proc/1/exe')": NO,
    "open('/proc/1/environ').read()": NO, "open('/proc/1/mem', 'rb')": NO, "os.listdir('/proc/1/map_files')": NO,
    # From our own namespaces up to those that own them (nsfs: NS_GET_USERNS, NS_GET_PARENT).
    **{f"fcntl.ioctl(os.open('/proc/self/ns/{name}', 0), 0xb701)": NO for name in ("net", "pid", "ipc", "uts", "user")},
    "fcntl.ioctl(os.open('/proc/self/ns/pid', 0), 0xb702)": NO, "fcntl.ioctl(os.open('/proc/self/ns/user', 0), 0xb702)": NO,
}
KERNEL = {
    "call(103, 3, ctypes.create_string_buffer(99), 99)": NO,         # syslog(SYSLOG_ACTION_READ_ALL)
    "call(163, b'/tmp/acct')": NO, "call(167, b'/swap', 0)": NO | {"ENOSYS"},  # acct, swapon
    "call(169, 0xfee1dead, 672274793, 0x1234567, 0)": NO,            # reboot
    "call(170, b'evil', 4)": NO,                                     # sethostname
    "call(175, 0, 0, b'')": NO | {"ENOSYS"}, "call(246, 0, 0, 0, 0)": NO | {"ENOSYS"},  # init_module, kexec_load
    "call(227, 0, ctypes.create_string_buffer(16))": NO,             # clock_settime
    "call(298, ctypes.create_string_buffer(b'\\0\\0\\0\\0\\x80'.ljust(128, b'\\0')), -1, 0, -1, 0)": NO | {"ENOENT", "ENOSYS"},  # perf, a whole CPU
    "os.mknod('node', 0o20666, os.makedev(1, 1))": NO, "os.mknod('node', 0o60666, os.makedev(8, 0))": NO,
    "open('/proc/kmsg')": NO, "open('/proc/kcore', 'rb').read(1)": NO | {"ENOENT"},
    **{f"os.open({path!r}, os.O_WRONLY)": NO | {"EROFS", "ENOENT"} for path in (
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/kernel/usermodehelper/bset", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/route_localnet",
        "/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/sysrq-trigger")},
    "open('/proc/1/uid_map', 'w', 1).write('0 0 1\\n')": NO,
    **{f"os.open({path!r}, os.O_RDWR)": {"ENOENT", "EACCES"} for path in (
        "/dev/mem", "/dev/kmsg", "/dev/port", "/dev/vda", "/dev/sda", "/dev/loop0", "/dev/loop-control", "/dev/vsock",
        "/dev/vhost-vsock", "/dev/vhost-net", "/dev/uinput", "/dev/tty1", "/dev/ttyS0", "/dev/hvc0", "/dev/infiniband/uverbs0")},
}
MOUNTS = {
    **{f"shell('unshare -Urmnpi --fork mount -t {kind} none /mnt')": FAILED for kind in (
        "proc", "sysfs", "bpf", "tracefs", "debugfs", "securityfs", "configfs", "devtmpfs", "ext4", "nfs", "9p", "virtiofs")},
    # An overlay of a folder with masks in it would show what is below them.
    **{f"shell('unshare -Urm mount -t overlay -o lowerdir={folder}:/etc none /mnt')": FAILED for folder in ("/", "/run", "/proc", "/sys")},
    # A recursive copy keeps the masks locked.
    **{f"shell('unshare -Urm sh -c \"mount --rbind / /mnt && umount -l /mnt{path}\"')": FAILED
       for path in ("/run", "/proc/sys", "/proc", "/dev", "/etc/resolv.conf")},
    "shell('unshare -Urm mount -o remount,bind,rw /sys')": FAILED,
    "shell('unshare -Urm sh -c \"mount --move /proc /mnt\"')": FAILED,
}
NETWORK = {
    "shell('unshare -Urn ip link add v0 type veth peer name v1 netns 1')": FAILED,  # a link into the sealed namespace
    "shell('ip tuntap add dev t0 mode tun')": FAILED,
    "shell('ip link set eth0 netns $$')": FAILED, "shell('ip addr add 198.18.0.9/32 dev lo')": FAILED,
    "shell('ip route replace 198.18.1.1 dev lo')": FAILED, "shell('nft add table inet mine')": FAILED,
    "shell('conntrack -F') if os.path.exists('/usr/sbin/conntrack') else call(101, 0x4206, 1, 0, 0)": FAILED | NO,
    "socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)": NO, "socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)": NO,
    "socket.socket(17, 3)": {"EAFNOSUPPORT"}, "socket.socket(40, 1)": {"EAFNOSUPPORT"},  # packet, vsock
    "shell('unshare -Urn /usr/bin/python3 -c \"import socket; socket.socket(40, 1)\"')": FAILED,
    "socket.socket().setsockopt(1, 36, 1)": NO,                      # SO_MARK
    "socket.socket().setsockopt(0, 19, 1)": NO,                      # IP_TRANSPARENT
    "socket.socket().setsockopt(6, 31, b'smc')": NO | {"ENOENT"},    # TCP_ULP: a TCP socket that turns into AF_SMC
    "socket.socket().connect(('198.18.1.1', 0))": {"ECONNREFUSED"},
    "socket.socket().connect(('0.0.0.0', 443))": {"ECONNREFUSED"},   # oneself
    "socket.socket().connect(('255.255.255.255', 443))": NO | {"ENETUNREACH"},
    "socket.socket().connect(('224.0.0.1', 443))": NO | {"ENETUNREACH"},
    "socket.socket(10, 1).connect(('fe80::1', 443, 0, 2))": {"ENETUNREACH", "EADDRNOTAVAIL", "EHOSTUNREACH", "EINVAL"},
}


@pytest.mark.skipif(not X86_64, reason="numbers of system calls of x86-64")
@pytest.mark.parametrize("attempts", [HANDLES_OF_INIT, KERNEL, MOUNTS, NETWORK], ids=["init", "kernel", "mounts", "network"])
def test_doors_are_shut(enclosed, attempts):
    (enclosed.folder / "attempts").write_text(json.dumps(list(attempts)))
    with open(enclosed.folder / "attempts") as stories:
        run = enclosed.run("/usr/bin/python3", "-c", ATTEMPTS, stdin=stories)
    assert run.returncode == 0, run.stderr
    opened = {story: end for story, end in json.loads(run.stdout).items() if end not in attempts[story]}
    assert not opened


def test_nothing_below_proc_and_sys_can_be_opened_for_writing_but_processes(enclosed):
    """Whatever a kernel adds there. Modes are no help for root, so only an answer of EROFS or a refused open counts."""
    story = r"""
import os
found = []
def opens(path):
    try: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError: return
    found.append(path)
for top in ["/sys", *(f"/proc/{n}" for n in os.listdir("/proc") if not n.isdigit() and not os.path.islink(f"/proc/{n}"))]:
    if not os.path.isdir(top):
        if os.stat(top).st_mode & 0o222: opens(top)
        continue
    for folder, _, files in os.walk(top):
        for name in files: opens(os.path.join(folder, name))
print(found)
"""
    assert enclosed.python(story) == "[]"


@pytest.mark.parametrize("signal_number", ["STOP", "KILL", "TERM", "SEGV"])
def test_init_takes_no_signal_from_inside(enclosed, signal_number):
    assert enclosed.run("sh", "-c", f"kill -{signal_number} 1; exit 7").returncode == 7


@pytest.mark.parametrize("story, status", {
    "for i in 1 2 3; do setsid sh -c 'trap \"\" HUP INT TERM; while :; do :; done' & done; exit 3": 3,
    "setsid sh -c 'exec sleep 1000' & exit 4": 4,
    "/usr/bin/python3 -c 'import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))'; exit 5": 5,
    "kill -9 -1; exit 6": 6,
    "/usr/bin/python3 -c 'import os, signal, time; os.fork() or os.execvp(\"sleep\", [\"sleep\", \"1000\"])'; exit 8": 8,
}.items(), ids=["busy", "daemon", "init's limits", "kill all", "orphan"])
def test_exec_ends_with_its_command_whatever_it_leaves_behind(enclosed, story, status):
    begin = time.monotonic()
    assert enclosed.run("sh", "-c", story).returncode == status
    assert time.monotonic() - begin < 10


# --- processes of the pair die -----------------------------------------------------------------------------------------

PROBE = r"""
import socket, sys
def probe(place, port, data):
    with socket.socket() as connection:
        connection.settimeout(20)
        try:
            connection.connect((place, port))
            connection.sendall(data)
            return connection.recv(100)[9:12].decode()
        except OSError as problem:
            return type(problem).__name__
print("ready", flush=True)
for line in sys.stdin:
    print(probe("198.18.1.1", 80, b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n"),
          probe("198.18.2.1", 80, b"GET / HTTP/1.1\r\nHost: denied.example\r\n\r\n"),
          probe("198.18.7.1", 7000, b"x"), flush=True)
"""


def process_called(run, name):
    """A process of this run, once it is there; `sallyport` is the monitor."""
    found = []

    def look():
        found[:] = [pid for pid in (run.process.pid, *children_of(run.process.pid)) if name_of(pid) == name]
        return found

    wait_until(look, name)
    return found[0]


def test_a_killed_worker_leaves_the_seal_shut_and_comes_back(lab):
    uplink = lab.capture()
    run = lab.start(["/usr/bin/python3", "-c", PROBE], allow=["allowed.example"])
    assert run.line() == "ready"
    for _ in range(3):
        os.kill(process_called(run, "sallyport-work"), signal.SIGKILL)
        run.say("probe\n")
        assert run.line() == "200 403 ConnectionRefusedError"
    run.process.communicate()
    assert {packet.destination for packet in uplink.packets() if packet.source == "198.19.0.2"} <= {"198.18.1.1", "198.18.0.53"}


@pytest.mark.parametrize("name", ["sallyport", "sallyport-init"])
def test_nothing_inside_outlives_monitor_or_init(lab, user, name):
    run = lab.start(["sh", "-c", "setsid sh -c 'trap \"\" HUP TERM; sleep 1000' & echo ready; wait"], allow=["allowed.example"], user=user)
    assert run.line() == "ready"
    victim = process_called(run, name)
    pidfds = [os.pidfd_open(pid) for pid in children_of(victim) | ({victim} if name == "sallyport" else set())]
    os.kill(victim, signal.SIGKILL)
    run.process.communicate(timeout=20)
    for pidfd in pidfds:
        wait_until(lambda: _is_gone(pidfd), "the end of what was inside")
        os.close(pidfd)


def _is_gone(pidfd):
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/self/fdinfo/{pidfd}") as info:
        pid = next(int(line.split()[1]) for line in info if line.startswith("Pid:"))
    try:
        return pid <= 0 or open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# --- what the wire carries ----------------------------------------------------------------------------------------------

def head(host, *lines, first="GET / HTTP/1.1"):
    return "\r\n".join([first, f"Host: {host}", *lines, "", ""])


HIDDEN = head("denied.example", first="GET /hidden HTTP/1.1")
SMUGGLED = {
    # Each carries HIDDEN where some parser finds a second request (CWE-444).
    "CL.TE": head("allowed.example", "Content-Length: 5", "Transfer-Encoding: chunked", first="POST /missing HTTP/1.1") + "0\r\n\r\n" + HIDDEN,
    "TE in capitals and a tab": head("allowed.example", "Transfer-Encoding:\tCHUNKED", first="POST /missing HTTP/1.1") + "0\r\n\r\n" + HIDDEN,
    "TE twice": head("allowed.example", "Transfer-Encoding: chunked", "Transfer-Encoding: identity", first="POST /missing HTTP/1.1") + "0\r\n\r\n" + HIDDEN,
    "TE list": head("allowed.example", "Transfer-Encoding: gzip, chunked", first="POST /missing HTTP/1.1") + "0\r\n\r\n" + HIDDEN,
    "TE with a vertical tab": head("allowed.example", "Transfer-Encoding: \x0bchunked", first="POST /missing HTTP/1.1") + "0\r\n\r\n" + HIDDEN,
    "TE in HTTP/1.0": head("allowed.example", "Transfer-Encoding: chunked", "Connection: keep-alive", first="POST /missing HTTP/1.0") + "0\r\n\r\n" + HIDDEN,
    "TE folded": head("allowed.example", "Transfer-Encoding:\r\n chunked", first="POST /missing HTTP/1.1") + "0\r\n\r\n" + HIDDEN,
    "length with a plus": head("allowed.example", f"Content-Length: +{len(HIDDEN)}", first="POST /missing HTTP/1.1") + HIDDEN,
    "length in hex": head("allowed.example", "Content-Length: 0x0", first="POST /missing HTTP/1.1") + HIDDEN,
    "length list": head("allowed.example", "Content-Length: 0, 0", first="POST /missing HTTP/1.1") + HIDDEN,
    "length that wraps": head("allowed.example", "Content-Length: 18446744073709551616", first="POST /missing HTTP/1.1") + HIDDEN,
    "length zero, then a request": head("allowed.example", "Content-Length: 0", first="POST /missing HTTP/1.1") + HIDDEN,
    "length on a GET": head("allowed.example", "Content-Length: 0") + HIDDEN,
    "chunk size that wraps": head("allowed.example", "Transfer-Encoding: chunked", first="POST /missing HTTP/1.1") + "10000000000000000\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunk size with 0x": head("allowed.example", "Transfer-Encoding: chunked", first="POST /missing HTTP/1.1") + "0x0\r\n\r\n" + HIDDEN,
    "chunk ended by LF": head("allowed.example", "Transfer-Encoding: chunked", first="POST /missing HTTP/1.1") + "0\n\n" + HIDDEN,
    "chunk extension with LF": head("allowed.example", "Transfer-Encoding: chunked", first="POST /missing HTTP/1.1") + "0;a\nb\r\n\r\n" + HIDDEN,
    "chunk data without CRLF": head("allowed.example", "Transfer-Encoding: chunked", first="POST /missing HTTP/1.1") + "1\r\naX0\r\n\r\n" + HIDDEN,
    "trailer that is a Host": head("allowed.example", "Transfer-Encoding: chunked", first="POST /missing HTTP/1.1") + "0\r\nHost: denied.example\r\n\r\n" + HIDDEN,
    "Expect and a request": head("allowed.example", "Expect: 100-continue", "Content-Length: 0", first="POST /missing HTTP/1.1") + HIDDEN,
    "Connection: close and a request": head("allowed.example", "Connection: close") + HIDDEN,
    "an upgrade and a request": head("allowed.example", "Connection: upgrade", "Upgrade: websocket") + HIDDEN,
    "an unknown upgrade": head("allowed.example", "Connection: upgrade", "Upgrade: anything/1") + HIDDEN,
    "a HEAD and a request": head("allowed.example", first="HEAD / HTTP/1.1") + HIDDEN,
    "empty lines between": head("allowed.example") + "\r\n\r\n" + HIDDEN,
    "LF between": head("allowed.example") + "\n" + HIDDEN,
    "CR in a value": head("allowed.example", "X: a\rHost: denied.example") + HIDDEN,
    "NUL in the name": "GET /hidden HTTP/1.1\r\nHost: denied.example\0.allowed.example\r\n\r\n",
    "absolute-form": "GET http://denied.example/hidden HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
    "absolute-form with userinfo": "GET http://allowed.example@denied.example/hidden HTTP/1.1\r\nHost: denied.example\r\n\r\n",
    "absolute-form with a backslash": "GET http://denied.example\\@allowed.example/hidden HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
    "authority behind slashes": "GET //denied.example/hidden HTTP/1.1\r\nHost: denied.example\r\n\r\n",
    "a Host before a space": "GET /hidden HTTP/1.1\r\nHost : denied.example\r\nHost: allowed.example\r\n\r\n",
    "a Host behind a space": "GET /hidden HTTP/1.1\r\n Host: denied.example\r\nHost: allowed.example\r\n\r\n",
    "HTTP/0.9": "GET /hidden\r\n",
    "HTTP/1.10": head("allowed.example", first="GET /hidden HTTP/1.10"),
    "HTTP/2.0": head("allowed.example", first="GET /hidden HTTP/2.0"),
    "TRACE through": head("denied.example", first="TRACE /hidden HTTP/1.1"),
    "CONNECT in the middle": head("allowed.example") + head("denied.example:443", first="CONNECT denied.example:443 HTTP/1.1") + HIDDEN,
    "h2c prior knowledge": head("allowed.example") + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
}
SEND_ALL = r"""
import json, socket, sys
for story, data in json.load(sys.stdin).items():
    for pieces in ([data.encode("latin-1")], [bytes([b]) for b in data.encode("latin-1")]):
        with socket.socket() as connection:
            connection.settimeout(0.3)
            connection.setsockopt(6, 1, 1)
            connection.connect(("198.18.1.1", 80))
            try:
                for piece in pieces: connection.send(piece)
                while connection.recv(65536): pass
            except OSError: pass
"""


@pytest.mark.smoke
def test_no_request_is_smuggled_past_the_gate(lab):
    """Whole and byte by byte, in front of an nginx that would answer for denied.example as well."""
    run = lab.start(["/usr/bin/python3", "-c", SEND_ALL], allow=["allowed.example"])
    run.say(json.dumps(SMUGGLED))
    run.process.stdin.close()
    run.process.stdin = None
    run.wait().ok()
    assert not [line for line in lab.requests() if "denied" in line or "hidden" in line]
    assert [line for line in lab.requests() if "http://allowed.example/" in line]


PATHS = ["/api/../hidden", "/api/./../hidden", "/api/%2e%2e/hidden", "/api/.%2E/hidden", "/api/..%2fhidden", "/api/%2e%2e%2fhidden",
         "/api//../hidden", "/api/x/../../hidden", "/api/..;/hidden", "/api/..\\hidden", "/api/..%5chidden", "//api/../hidden",
         "/api/%252e%252e/hidden", "/api/x#/../../hidden", "/%61pi/../hidden", "/api/%00/../../hidden", "/api/...//hidden",
         "/hidden/api/", "/hidden?/api/", "/hidden;/api/", "/api/%u002e%u002e/hidden", "/api/a%2f..%2f..%2fhidden",
         "http://allowed.example/api/../hidden", "http://allowed.example/hidden", "http://allowed.example?/hidden"]


def test_no_path_leads_out_of_a_path_rule(lab):
    """However a server may read it: nothing of it arrives. Nor by the second request of a connection."""
    run = lab.start(["/usr/bin/python3", "-c", SEND_ALL], allow=["GET http://allowed.example/api/*"])
    stories = {path: head("allowed.example", first=f"GET {path} HTTP/1.1") for path in PATHS}
    stories["second"] = head("allowed.example", first="GET /api/fine HTTP/1.1") + head("allowed.example", first="GET /hidden HTTP/1.1")
    stories["method"] = head("allowed.example", "Content-Length: 0", first="POST /api/hidden HTTP/1.1")
    run.say(json.dumps(stories))
    run.process.stdin.close()
    run.process.stdin = None
    run.wait().ok()
    assert {line.split()[1] for line in lab.requests()} == {"http://allowed.example/api/fine"}


def question(name, kind=1, klass=1, flags=0x0100, counts=(1, 0, 0, 0), more=b"", identity=4711):
    labels = b"".join(bytes([len(label)]) + label for label in name) + b"\0"
    return struct.pack(">HH4H", identity, flags, *counts) + labels + struct.pack(">HH", kind, klass) + more


SECRET = b"tell-nobody"
OPT = b"\0" + struct.pack(">HHIH", 41, 4096, 0, 4 + len(SECRET)) + struct.pack(">HH", 65001, len(SECRET)) + SECRET
ALLOWED_NAME = (b"allowed", b"example")
TUNNELS = {
    # What a tunnel would look like: none may take SECRET out.
    "a denied name": question((SECRET, b"denied", b"example")),
    "below an allowed name": question((SECRET, *ALLOWED_NAME)),
    "a dot inside a label": question((SECRET + b".allowed", b"example")),
    "a NUL inside a label": question((b"allowed\0" + SECRET, b"example")),
    "an EDNS option": question(ALLOWED_NAME, counts=(1, 0, 0, 1), more=OPT),
    "another class": question((SECRET, *ALLOWED_NAME), klass=3),
    "a second question": question(ALLOWED_NAME, counts=(2, 0, 0, 0), more=question((SECRET, b"x"))[12:]),
    "an answer in the query": question(ALLOWED_NAME, counts=(1, 1, 0, 0), more=b"\xc0\x0c" + struct.pack(">HHIH", 16, 1, 0, len(SECRET)) + SECRET),
    "bytes behind the end": question(ALLOWED_NAME, more=SECRET),
    "an update": question((SECRET, *ALLOWED_NAME), flags=0x2800),
    "a notify": question((SECRET, *ALLOWED_NAME), flags=0x2000),
    "a response": question((SECRET, *ALLOWED_NAME), flags=0x8100),
    "AXFR": question((SECRET, *ALLOWED_NAME), kind=252), "ANY": question((SECRET, *ALLOWED_NAME), kind=255),
    "a pointer as name": struct.pack(">HH4H", 1, 0x0100, 1, 0, 0, 0) + b"\xc0\x12\0\1\0\1" + bytes([len(SECRET)]) + SECRET + b"\0",
    "only a header": struct.pack(">HH4H", 1, 0x0100, 1, 0, 0, 0), "short": b"\0\1",
}
ASK_ALL = r"""
import json, socket, struct, sys
for story, data in json.load(sys.stdin).items():
    data = bytes.fromhex(data)
    for family, server in ((2, "198.18.0.53"), (10, "2001:db8:5a11::53")):
        with socket.socket(family, 2) as udp, socket.socket(family, 1) as tcp:
            udp.settimeout(0.2), tcp.settimeout(0.2)
            try:
                udp.sendto(data, (server, 53)); udp.recv(4096)
            except OSError: pass
            try:
                tcp.connect((server, 53)); tcp.sendall((struct.pack(">H", len(data)) + data) * 3); tcp.shutdown(1)
                while tcp.recv(4096): pass
            except OSError: pass
"""


@pytest.mark.smoke
def test_dns_carries_nothing_out(lab):
    uplink = lab.capture()
    run = lab.start(["/usr/bin/python3", "-c", ASK_ALL], allow=["allowed.example"])
    run.say(json.dumps({story: data.hex() for story, data in TUNNELS.items()}))
    run.process.stdin.close()
    run.process.stdin = None
    run.wait().ok()
    assert not uplink.carrying(SECRET.decode())
    assert lab.dns_queries() <= {"allowed.example"}


class ScriptedDns:
    """A name server that a hostile owner of an allowed name runs: script(name, type, how often that was asked) → answers."""

    ADDRESS = "198.18.0.77"

    def __init__(self, lab, script):
        self.script, self.asked = script, []
        self.socket, self.closed = lab.internet.call(self._open), False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _open(self):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((self.ADDRESS, 53))
        server.settimeout(0.05)
        return server

    def _serve(self):
        while not self.closed:
            try:
                data, peer = self.socket.recvfrom(4096)
            except TimeoutError:
                continue
            end = data.index(b"\0", 12)
            name = b".".join(self._labels(data[12:end])).decode().lower()
            kind = struct.unpack(">H", data[end + 1:end + 3])[0]
            self.asked.append((name, kind))
            answers = self.script(name, kind, self.asked.count((name, kind)))
            self.socket.sendto(data[:2] + struct.pack(">H4H", 0x8180, 1, len(answers), 0, 0) + data[12:end + 5] + b"".join(answers), peer)

    @staticmethod
    def _labels(data):
        while data:
            yield data[1:1 + data[0]]
            data = data[1 + data[0]:]

    def close(self):
        self.closed = True
        self.thread.join()  # a thread that still reads would keep the port
        self.socket.close()


def wire(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def a(place, owner=b"\xc0\x0c", ttl=60):
    data = socket.inet_pton(socket.AF_INET6 if ":" in place else socket.AF_INET, place)
    return owner + struct.pack(">HHIH", 28 if ":" in place else 1, 1, ttl, len(data)) + data


def cname(target, owner=b"\xc0\x0c"):
    return owner + struct.pack(">HHIH", 5, 1, 60, len(wire(target))) + wire(target)


GUARDED = ["127.0.0.1", "0.0.0.0", "169.254.169.254", "10.1.2.3", "192.168.0.1", "172.31.0.1", "100.64.0.1", "255.255.255.255", "224.0.0.1",
           "::1", "::", "fe80::1", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
           "64:ff9b:1::a00:1", "2002:7f00:1::1", "2002:a00:1::", "2001:0:a00:1::5601:fefe", "ff02::1", "fec0::1"]


@pytest.mark.smoke
def test_no_answer_leads_to_a_guarded_place(lab):
    """Alone, behind an alias, beside a good one, and for the gateway's own look-up (nothing was asked inside)."""
    places = {f"g{n}.example": place for n, place in enumerate(GUARDED)}

    def script(name, kind, times):
        story, _, host = name.partition("-")
        place = places.get(host)
        if not place or kind != (28 if ":" in place else 1):
            return []
        return {"alone": [a(place)], "alias": [cname("inner.example"), a(place, wire("inner.example"))],
                "foreign": [a(place, wire("allowed.example"))],
                "second": [a("198.18.1.1") if kind == 1 else a("2001:db8:5a11::1:1"), a(place)]}[story]

    names = [f"{story}-{host}" for story in ("alone", "alias", "foreign", "second") for host in places]
    server = ScriptedDns(lab, script)
    story = r"""
import socket, sys
for name in sys.stdin.read().split():
    try: found = sorted({i[4][0] for i in socket.getaddrinfo(name, 80, type=1)})
    except OSError: found = []
    try:
        with socket.create_connection(("198.18.1.1", 80), timeout=10) as c:
            c.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            got = c.recv(100)[9:12].decode()
    except OSError as problem: got = type(problem).__name__
    print(name, *found, got)
"""
    try:
        uplink = lab.capture()
        run = lab.start(["/usr/bin/python3", "-c", story], allow=names, resolver=server.ADDRESS)
        run.say(" ".join(names))
        run.process.stdin.close()
        run.process.stdin = None
        result = run.wait().ok()
    finally:
        server.close()
    lines = [line.split() for line in result.out.splitlines()]
    assert len(lines) == len(names)
    # The gateway dials the good one of two addresses; the command is told neither.
    assert not [line for line in lines if len(line) > 2 or line[1] not in (("200", "404") if line[0].startswith("second") else ("403", "502"))]
    assert {packet.destination for packet in uplink.packets() if packet.source == "198.19.0.2"} <= {server.ADDRESS, "198.18.1.1"}
    assert result.audit.reasons() <= {"destination_guarded", "dns_failed"}


def test_rebinding_between_two_questions_is_caught(lab):
    """First a good address with no time to live, then a guarded one: the guard looks at what is dialled, each time."""
    def script(name, kind, times):
        return [a("198.18.1.1" if times == 1 else "169.254.169.254", ttl=0)] if kind == 1 else []

    server = ScriptedDns(lab, script)
    try:
        uplink = lab.capture()
        run = lab.exec(["sh", "-c", "for i in 1 2 3; do curl -sS --max-time 10 -o /dev/null http://allowed.example/; done;"
                        "curl -sS -o /dev/null --max-time 10 --resolve allowed.example:80:169.254.169.254 http://allowed.example/; true"],
                       allow=["allowed.example"], resolver=server.ADDRESS).ok()
    finally:
        server.close()
    assert run.audit.allowed() and "destination_guarded" in {event["event.reason"] for event in run.audit}
    assert {packet.destination for packet in uplink.packets() if packet.source == "198.19.0.2"} <= {server.ADDRESS, "198.18.1.1"}


def test_the_gateways_own_sockets_are_no_way_round(lab):
    """The listeners inside, dialled directly, and whatever else listens on the namespace's own addresses."""
    story = r"""
import socket
ports = {int(line.split()[1].rpartition(":")[2], 16) for table in ("tcp", "tcp6") for line in open(f"/proc/net/{table}").readlines()[1:]
         if line.split()[3] == "0A"}
for port in sorted(ports):
    for family, place in ((2, "127.0.0.1"), (10, "::1"), (2, "127.9.9.9"), (10, "::ffff:127.0.0.1")):
        with socket.socket(family, 1) as connection:
            connection.settimeout(2)
            try:
                connection.connect((place, port))
                connection.sendall(b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n")
                if connection.recv(9).startswith(b"HTTP"): print("answered", place, port)
            except OSError: pass
print(len(ports) > 0)
"""
    uplink = lab.capture()
    run = lab.exec(["/usr/bin/python3", "-c", story], allow=["allowed.example"]).ok()
    assert run.out == "True\n" and not uplink.packets()
    assert run.audit.reasons() == {"loop"}


# --- too much of everything --------------------------------------------------------------------------------------------

def test_many_half_open_connections_are_bounded_and_pass(lab):
    """Slow clients up to the limit of a container: the rest is refused at once, and the limit is free again afterwards."""
    config = lab.config("version: 1\ngateway: {limits: {hello_timeout: 1s, flows_per_container: 100}}\n"
                        "policies: {story: {allow: [allowed.example]}}\n")
    story = r"""
import socket, time
slow = []
for i in range(150):
    s = socket.socket(); s.settimeout(5)
    try: s.connect(("198.18.1.1", 443)); s.send(b"\x16\x03\x01"); slow.append(s)
    except OSError: pass
time.sleep(0.2)
def get():
    with socket.socket() as s:
        s.settimeout(5)
        try:
            s.connect(("198.18.1.1", 80)); s.sendall(b"GET / HTTP/1.0\r\nHost: allowed.example\r\n\r\n"); return s.recv(100)[9:12].decode()
        except OSError as problem: return type(problem).__name__
print(get())
for s in slow: s.close()
until = time.monotonic() + 10
while (said := get()) != "200" and time.monotonic() < until: time.sleep(0.05)
print(said)
"""
    run = lab.exec(["/usr/bin/python3", "-c", story], config=config).ok()
    assert run.out.split() == ["ConnectionResetError", "200"]
    assert {"limit_connections"} <= run.audit.reasons()


def test_a_flood_of_denied_names_is_limited(lab):
    """One event for each name would let a command write the disk full."""
    story = r"""
import socket, time
s = socket.socket(2, 2); s.connect(("198.18.0.53", 53)); s.setblocking(False)
end = time.monotonic() + 1
while time.monotonic() < end:
    try: s.send(b"\0\1\1\0\0\1\0\0\0\0\0\0\6denied\7example\0\0\1\0\1")
    except OSError: pass
"""
    run = lab.exec(["/usr/bin/python3", "-c", story], allow=["allowed.example"]).ok()
    assert 100 < len(run.audit) < 1000 and "limit_rate" in {event["event.reason"] for event in run.audit}


def test_an_audit_log_that_cannot_be_written_ends_in_denial_not_in_silence(lab):
    """A pipe that nobody reads fills up; from then on nothing is let through, and exec still ends."""
    fifo = lab.folder / "audit-fifo"
    os.mkfifo(fifo)
    keep = os.open(fifo, os.O_RDWR)
    story = r"""
import socket
def get():
    with socket.socket() as s:
        s.settimeout(10)
        try:
            s.connect(("198.18.1.1", 80)); s.sendall(b"GET / HTTP/1.0\r\nHost: allowed.example\r\n\r\n"); return s.recv(100)[9:12].decode()
        except OSError as problem: return type(problem).__name__
passed = 0
while get() == "200" and passed < 10000: passed += 1
print(passed, *(get() for _ in range(3)))
"""
    try:
        policy = lab.config("version: 1\npolicies: {p: {allow: [allowed.example], limits: {flows_per_second: 100000}}}\n")
        run = lab.exec(["/usr/bin/python3", "-c", story], config=policy, audit=False, options=["--audit", fifo]).ok()
    finally:
        os.close(keep)
        fifo.unlink()
    passed, *after = run.out.split()
    assert 0 < int(passed) < 10000 and "200" not in after and "audit_unavailable" in run.err


# --- the terminal --------------------------------------------------------------------------------------------------------

def test_words_cannot_be_put_into_the_callers_mouth(enclosed):
    """TIOCSTI and the selection of TIOCLINUX, on the terminal and on every name it has inside; nor can it be stolen."""
    story = enclosed.folder / "story.py"
    story.write_text(r"""
import fcntl, os, termios
ends = []
for path in ("/dev/tty", "/dev/console", "/dev/stdin", "/proc/self/fd/0", "/proc/self/fd/2"):
    fd = os.open(path, os.O_RDWR)
    for request, argument in ((termios.TIOCSTI, b"x"), (termios.TIOCLINUX, b"\3"), (0x541D, 0), (0x5437, 0)):
        try: fcntl.ioctl(fd, request, argument); ends.append((path, request))
        except OSError: pass
if os.fork() == 0:
    os.setsid()
    try: fcntl.ioctl(os.open("/dev/console", os.O_RDWR | os.O_NOCTTY), termios.TIOCSCTTY, 1); ends.append("stolen")
    except OSError: pass
    print("child", ends); os._exit(0)
os.wait()
""")
    line = enclosed.line("/usr/bin/python3", story)[len(identity(enclosed.user)):]
    terminal = Terminal(*line, user=enclosed.user, cwd=enclosed.folder)
    try:
        assert terminal.expect(r"child (\[.*\])").group(1) == "[]"
        assert terminal.wait() == 0
    finally:
        terminal.close()
