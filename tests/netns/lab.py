"""
The lab: two network namespaces, joined by one link, and what the tests see of both.

    sealed command ──(sallyport)──  "host" ═══ uplink ═══ "internet": nginx, dnsmasq, sshd, … (origins.py)
    made by `sallyport exec`        198.19.0.2            every address of 198.18.0.0/16 and 2001:db8:5a11::/48
                                    2001:db8:5a1f::2

A namespace lives as long as the process that holds it, and that process dies with the test run (PR_SET_PDEATHSIG):
nothing has a name in /run/netns, so two runs never meet and a killed run leaves nothing behind. "internet" is a pid
namespace too, so its origins end with it, however they fork.

The internet answers on every one of its addresses (`ip route add local …`, "AnyIP"); origins that should differ by
address bind to one. The uplink is watched with packet sockets: what did not come by there did not leave.
"""
import collections
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

UPLINK = {4: ("198.19.0.2", "198.19.0.1", 30), 6: ("2001:db8:5a1f::2", "2001:db8:5a1f::1", 64)}
INTERNET = {4: "198.18.0.0/16", 6: "2001:db8:5a11::/48"}
NAME_SERVER = "198.18.0.53"
ORDINARY_USER = 61234  # a uid without a passwd entry: nothing on the machine is its own
TIMEOUT = 60           # no single command of the suite takes longer, unless it says so

REASONS = set("""rule_allow rule_deny no_rule no_sni malformed_client_hello not_tls ech_denied host_missing host_ambiguous
    host_mismatch malformed_http method_denied http2_cleartext ip_literal destination_unbound destination_guarded
    dns_failed connect_failed hello_timeout hello_too_large limit_connections limit_rate port_denied policy_changed loop
    audit_unavailable path_denied""".split())


def missing_programs(*names):
    return [name for name in names if not shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")]


def wait_until(condition, what, seconds=10):
    """Polls a condition that has no event of its own (another program's file or port)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


class Namespace:
    """A network namespace (with `pids`, a pid namespace too), held by a process that ends with this one."""

    def __init__(self, pids=False):
        # /proc is still the outer one, so the holder reads its outer pid there. It ignores SIGCHLD: as pid 1 it
        # inherits orphans, which are then reaped by the kernel.
        story = "trap '' CHLD; read pid rest < /proc/self/stat; echo $pid; exec sleep infinity"
        self.holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", *(["--pid", "--fork", "--kill-child"] if pids else []),
             "sh", "-c", story],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.holder.stdout.readline().strip()
        if not line:
            raise PermissionError(self.holder.stderr.read().strip() or "no namespace")
        self.pid = int(line)
        self.pids = pids

    def enter(self, argv, pids=False):
        """The command line that runs `argv` inside (mounts stay as they are)."""
        pid_option = [f"--pid=/proc/{self.pid}/ns/pid"] if pids else []
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *pid_option, "--", *map(str, argv)]

    def run(self, *argv, **options):
        options = {"check": True, "text": True, "timeout": TIMEOUT, **options}
        return subprocess.run(self.enter(argv), **options)

    def output(self, *argv, **options):
        return self.run(*argv, stdout=subprocess.PIPE, **options).stdout

    def spawn(self, argv, **options):
        """Starts what ends with the namespace."""
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.enter(argv, self.pids)], **options)

    def spawn_itself(self, argv, **options):
        """The same outside of its pid namespace: what is returned is the program, and killing it ends it."""
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.enter(argv)], **options)

    def call(self, function):
        """Calls a function in a thread of this process that has moved in; sockets it makes belong to the namespace."""
        outcome = {}

        def body():
            try:
                with open(f"/proc/{self.pid}/ns/net") as there:
                    if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), 0x40000000):
                        raise OSError(ctypes.get_errno(), "setns")
                outcome["value"] = function()
            except BaseException as problem:
                outcome["problem"] = problem

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if "problem" in outcome:
            raise outcome["problem"]
        return outcome["value"]

    def close(self):
        self.holder.kill()
        self.holder.wait()


# --- the capture on the uplink ------------------------------------------------------------------------------------

Packet = collections.namedtuple("Packet", "protocol source sport destination dport payload")


def parse_packet(frame):
    """An Ethernet frame as a Packet; None for what is no traffic of anybody (ARP, neighbour and router discovery)."""
    kind, body = int.from_bytes(frame[12:14], "big"), frame[14:]
    if kind == 0x0800:
        protocol, source, destination = body[9], body[12:16], body[16:20]
        rest = body[(body[0] & 15) * 4:]
    elif kind == 0x86DD:
        protocol, source, destination, rest = body[6], body[8:24], body[24:40], body[40:]
        if protocol == 0 or protocol == 58 and 130 <= rest[0] <= 143:
            return None  # hop-by-hop (multicast listener reports), neighbour and router discovery
    else:
        return None
    family = socket.AF_INET if len(source) == 4 else socket.AF_INET6
    ends = [socket.inet_ntop(family, end) for end in (source, destination)]
    name = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}.get(protocol, str(protocol))
    if name not in ("tcp", "udp"):
        return Packet(name, ends[0], 0, ends[1], 0, rest)
    sport, dport = int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big")
    return Packet(name, ends[0], sport, ends[1], dport, rest[8:] if name == "udp" else rest[(rest[12] >> 4) * 4:])


class Capture:
    """Everything that crosses the uplink from now on."""

    MARK = b"end of capture"

    def __init__(self, lab):
        self.host = lab.host
        self.socket = lab.internet.call(self._open)
        self.seen = []

    @staticmethod
    def _open():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        sniffer.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)                          # SO_RCVBUFFORCE
        sniffer.bind(("uplink", 0))
        sniffer.settimeout(5)
        return sniffer

    def packets(self):
        """What has come by. A packet of our own closes the recording, so nothing sent before it can be missing."""
        mark = self.host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        mark.sendto(self.MARK, (UPLINK[4][1], 9))
        mark.close()
        while True:
            packet = parse_packet(self.socket.recv(1 << 17))
            if packet and packet.payload == self.MARK:
                return self.seen
            if packet and UPLINK[4][1] not in (packet.source, packet.destination):  # the mark's own "port unreachable"
                self.seen.append(packet)

    def towards(self, *destinations):
        return [packet for packet in self.packets() if packet.destination in destinations]

    def carrying(self, text):
        """Packets with this text in them; DNS writes a name as labels, so only one label can be looked for."""
        wanted = text.encode().lower()
        return [packet for packet in self.packets() if wanted in packet.payload.lower()]


# --- the audit log ------------------------------------------------------------------------------------------------

def flatten(value, prefix=""):
    """{"event": {"action": 1}} as {"event.action": 1}: tests read fields by their ECS names."""
    flat = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat.update(flatten(inner, f"{prefix}{key}."))
        else:
            flat[prefix + key] = inner
    return flat


class Audit(list):
    """The events of one run, in order, but for changes of the gateway, which are apart. Reading them checks what must hold for every log."""

    @classmethod
    def read(cls, path, complete=True):
        text = Path(path).read_bytes() if Path(path).exists() else b""
        audit = cls()
        for line in text.splitlines():
            try:
                audit.append(flatten(json.loads(line, object_pairs_hook=cls._no_duplicates)))
            except json.JSONDecodeError:
                if complete:
                    raise  # while it is written, or when its writer was killed, a line may be torn
        audit.all, audit.changes = list(audit), [event for event in audit if event["event.category"] == ["configuration"]]
        audit[:] = [event for event in audit if event["event.category"] != ["configuration"]]
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f-\xff]", text), "bytes in the audit log that are not plain ASCII"
        if complete:
            assert text == b"" or text.endswith(b"\n"), "the last audit line was cut"
            audit.check()
        return audit

    @staticmethod
    def _no_duplicates(pairs):
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"a key twice in one object: {keys}"
        return dict(pairs)

    def check(self):
        for event in self:
            unjudged = "_before_" in event.get("sallyport.close_reason", "")  # the client left before it said anything
            assert event.get("event.reason") in REASONS or unjudged, event
            assert event["event.outcome"] in ("success", "failure"), event
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", event["@timestamp"]), event
            assert event["ecs.version"] and event["observer.name"] == "sallyport", event
        for event in self.changes:
            assert event["event.outcome"] in ("success", "failure") and event["event.action"] and event["rule.version"], event
        for worker in {event.get("sallyport.worker") for event in self.all}:
            numbers = [event["event.sequence"] for event in self.all if event.get("sallyport.worker") == worker]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"a gap: {numbers}"
        begun = {event["event.id"] for event in self if event["event.action"] == "flow-allowed"}
        ended = [event["event.id"] for event in self if event["event.action"] == "flow-ended"]
        assert len(ended) == len(set(ended)), "a flow ended twice"
        assert begun <= set(ended), f"flows without an end: {begun - set(ended)}"

    def where(self, **fields):
        """Events whose fields have these values; `event_action` stands for `event.action`."""
        wanted = {name.replace("_", ".", 1): value for name, value in fields.items()}
        return Audit(event for event in self if all(event.get(name) == value for name, value in wanted.items()))

    def allowed(self, domain=None):
        chosen = self.where(event_action="flow-allowed")
        return Audit(event for event in chosen if domain is None or event.get("destination.domain") == domain)

    def denied(self, domain=None):
        chosen = [event for event in self if event["event.action"] in ("flow-denied", "request-denied")]
        return Audit(event for event in chosen if domain is None or event.get("destination.domain") == domain)

    def reasons(self, domain=None):
        """Why flows and requests were denied, each reason once."""
        return {event["event.reason"] for event in self.denied(domain)}

    def ended(self, domain):
        return self.where(event_action="flow-ended", destination_domain=domain)

    def dns_denied(self):
        return {event["dns.question.name"] for event in self.where(event_action="dns-denied")}


# --- running sallyport --------------------------------------------------------------------------------------------

class Result:
    """What a finished `sallyport exec` said and did."""
    violations = False  # the worker is made to do what its seccomp filter forbids

    def __init__(self, status, out, err, audit_path):
        self.status, self.out, self.err, self.audit_path = status, out, err, audit_path
        assert "ERROR: AddressSanitizer" not in err and "runtime error:" not in err, err
        assert self.violations or "seccomp filter" not in err, err
        self.audit = Audit.read(audit_path) if audit_path else None

    def __repr__(self):
        log = "\n".join(json.dumps(event) for event in self.audit or [])
        return f"exit {self.status}\n--- out\n{self.out[-4000:]}\n--- err\n{self.err[-4000:]}\n--- audit\n{log[-6000:]}"

    def ok(self):
        assert self.status == 0, self
        return self

    @property
    def summary(self):
        """The last line on standard error."""
        return self.err.rstrip("\n").rsplit("\n", 1)[-1]


class Running:
    """A `sallyport exec` in progress; talk to it by .process, then .wait()."""

    def __init__(self, process, audit_path):
        self.process, self.audit_path = process, audit_path

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def say(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def audit_now(self):
        """The events so far (more may follow, flows may be open)."""
        return Audit.read(self.audit_path, complete=False)

    def wait_for_event(self, found, what="an audit event", seconds=10):
        wait_until(lambda: found(self.audit_now()), what, seconds)

    def wait(self, timeout=TIMEOUT):
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"still running after {timeout} s\n--- out\n{out}\n--- err\n{err}")
        return Result(self.process.returncode, out, err, self.audit_path)


class Lab:
    """The two namespaces and a folder. Origins are started by origins.py; tests call exec() and start()."""

    def __init__(self, folder, binary):
        self.folder = Path(folder)
        self.folder.chmod(0o755)
        # A copy that an ordinary user can reach, wherever the checkout is.
        self.binary = self.folder / "sallyport"
        shutil.copy(binary, self.binary)
        shutil.copy(HERE / "client.py", self.folder)
        self.client = ["python3", str(self.folder / "client.py")]
        self.authority = self.folder / "ca.pem"
        self.ipv6 = os.path.exists("/proc/net/if_inet6")
        self.runs = 0
        self.internet = self.host = None
        try:
            self.internet = Namespace(pids=True)
            self.host = Namespace()
            self._join()
        except BaseException:
            self.close()
            raise

    def _join(self):
        self.internet.run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", self.host.pid)
        for namespace in (self.internet, self.host):
            namespace.run("ip", "link", "set", "lo", "up")
            namespace.run("ip", "link", "set", "uplink", "up")
        # Servers may bind to any of the internet's addresses (IPv6 does not take a local route for an address).
        self.internet.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind", stderr=subprocess.DEVNULL, check=False)
        for family in self.families():
            ours, theirs, length = UPLINK[family]
            nodad = ["nodad"] if family == 6 else []
            self.host.run("ip", "addr", "add", f"{ours}/{length}", "dev", "uplink", *nodad)
            self.internet.run("ip", "addr", "add", f"{theirs}/{length}", "dev", "uplink", *nodad)
            self.host.run("ip", f"-{family}", "route", "add", "default", "via", theirs)
            self.internet.run("ip", f"-{family}", "route", "add", "local", INTERNET[family], "dev", "lo")

    def families(self):
        return (4, 6) if self.ipv6 else (4,)

    def close(self):
        for namespace in (self.host, self.internet):
            if namespace:
                namespace.close()

    def capture(self):
        return Capture(self)

    def environment(self, user=None):
        home = self.folder / (f"home-{user}" if user else "home")
        if not home.exists():
            home.mkdir()
            os.chown(home, user or 0, user or 0)
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb",
            "CURL_CA_BUNDLE": str(self.authority), "SSL_CERT_FILE": str(self.authority),
            "GIT_SSL_CAINFO": str(self.authority), "NODE_EXTRA_CA_CERTS": str(self.authority),
            "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
            # Leaks are looked for by the unit tests; here every process of the pair is ended from outside.
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        }

    def config(self, text):
        """A policy file with this text; the test's origins are made reachable unless it says otherwise."""
        self.runs += 1
        path = self.folder / f"policy-{self.runs}.yaml"
        if "destinations:" not in text:
            text += "\ndestinations: {allow: [198.18.0.0/15, \"2001:db8::/32\"]}\n"
        path.write_text(text)
        path.chmod(0o644)
        return path

    def command_line(self, command, allow=(), config=None, options=(), audit=True, resolver=NAME_SERVER, destinations=True):
        self.runs += 1
        audit_folder = self.folder / f"run-{self.runs}"
        audit_folder.mkdir()
        audit_folder.chmod(0o777)
        line = [self.binary, "exec"]
        for rule in allow:
            line += ["--allow", rule]
        if config:
            line += ["-c", config]
        elif destinations:
            line += ["--allow-destination", "198.18.0.0/15", "--allow-destination", "2001:db8::/32"]
        if resolver:
            line += ["--resolver", f"{resolver}:53"]
        audit_path = audit_folder / "audit.jsonl" if audit else None
        if audit:
            line += ["--audit", audit_path]
        return [*line, *options, "--", *command], audit_path

    def start(self, command, user=None, env=None, cwd=None, **options):
        """`sallyport exec … -- command` in the host's namespace, as root or as a uid."""
        return self.start_line(*self.command_line(command, **options), user=user, env=env, cwd=cwd)

    def start_line(self, line, audit_path, user=None, env=None, cwd=None):
        """A whole command line, as command_line() makes them."""
        identity = ["--reuid", str(user), "--regid", str(user), "--clear-groups"] if user else []
        process = subprocess.Popen(
            self.host.enter(["setpriv", *identity, "--pdeathsig", "KILL", "--", *line]), text=True, errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd or "/",
            env={**self.environment(user), **(env or {})}, start_new_session=True)
        return Running(process, audit_path)

    def exec(self, command, timeout=TIMEOUT, **options):
        return self.start(command, **options).wait(timeout)

    def direct(self, command, timeout=TIMEOUT, **options):
        """The same command without a gateway, in the host's namespace: what the origins are like."""
        done = subprocess.run(self.host.enter(command), text=True, errors="replace", capture_output=True, timeout=timeout,
                              env=self.environment(), **options)
        return Result(done.returncode, done.stdout, done.stderr, None)

    # What the origins noticed since a test began.

    def begin(self):
        self.marks = {name: (self.folder / name).stat().st_size if (self.folder / name).exists() else 0
                      for name in ("access.log", "dns.log", "servers.log")}

    def _since(self, name):
        with open(self.folder / name, errors="replace") as log:
            log.seek(self.marks[name])
            return log.read().splitlines()

    def requests(self):
        """nginx's access log since the test began: `GET https://allowed.example/path 200 198.18.1.1 HTTP/2.0`."""
        return self._since("access.log")

    def dns_queries(self):
        """Names that arrived at the DNS server since the test began."""
        return {match[1].lower() for line in self._since("dns.log") if (match := re.search(r"query\[\w+\] (\S+) from", line))}

    def server_log(self):
        """What the small servers (servers.py) noted since the test began, one dictionary a connection."""
        return [json.loads(line) for line in self._since("servers.log")]
