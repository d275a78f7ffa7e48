"""
The load lab: clients – gateway – servers, each in a network namespace.

    clients of Sallyport ─ ─┐
    clients of HAProxy ─ ─ ─┼─ gateway ═══════════════════════════╗
    clients of nginx ─ ─ ─ ─┘  (all three programs)               ╠══ servers: load_server on 198.18.20.1 … .5,
    clients of sniproxy ═══════ gateway of sniproxy ══════════════╣   and a DNS server
    clients of the kernel ═════ forwarding ═══════════════════════╝

    ─ ─  no link: the program listens inside the clients' namespace, which Sallyport has enrolled (as it does with a container
         that has no network) and dials from the gateway's. HAProxy and nginx are handed such sockets; connections come to them
         by REDIRECT, as is usual, with no other rule in their way. Sallyport's own capture needs no NAT: to tell how much of the
         difference that is, nginx runs once more under Sallyport's ruleset, as a reference.
    ═══  veth. sniproxy takes no sockets from others: REDIRECT in prerouting leads its clients' connections to it.

The kernel alone forwards packets, without NAT or connection tracking, and looks at nothing: it is the ceiling and no peer.
The subject runs on one CPU of its own; load generator and servers share another.
"""
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import lab as laboratory
from lab import NAME_SERVER, Namespace, wait_until
from series import Failure

SERVERS = {kind: f"198.18.20.{number}" for number, kind in enumerate(("flows", "echo", "down", "up", "http"), 1)}
NAMES = {kind: f"{kind}.load.example" for kind in SERVERS}
REFUSED_NAME = "not-allowed.example"
PROXY_PORT = {443: 15443, 80: 15080}


def pinned(cpu, argv):
    return ["taskset", "--cpu-list", str(cpu), *map(str, argv)]


class LoadLab(laboratory.Lab):
    """`host` is the namespace of Sallyport's gateway; other subjects ask for ways of their own."""

    def __init__(self, folder, build, subject_cpu, load_cpu):
        super().__init__(folder, build / "cli/sallyport")
        self.subject_cpu, self.load_cpu = subject_cpu, load_cpu
        self.namespaces = []
        self.sealed = None  # makes an enrolled namespace; Sallyport's to give
        try:
            for name in ("load_client", "load_server"):
                shutil.copy(build / "bench" / name, self.folder)
            self._start_servers()
        except BaseException:
            self.close()
            raise

    def _start_servers(self):
        self.internet.run("sysctl", "-qw", "net.core.somaxconn=8192", "net.ipv4.ip_local_port_range=10000 65000")
        self.internet.run("ip", "addr", "add", NAME_SERVER, "dev", "lo")
        addresses = [f"--address=/{NAMES[kind]}/{SERVERS[kind]}" for kind in SERVERS]
        self.internet.spawn(["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=",
                             "--no-resolv", "--no-hosts", "--bind-interfaces", f"--listen-address={NAME_SERVER}",
                             "--local-ttl=3600", *addresses], stderr=subprocess.DEVNULL)
        server = self.internet.spawn(pinned(self.load_cpu, [self.folder / "load_server", *SERVERS.values()]),
                                     stdout=subprocess.PIPE, text=True)
        if server.stdout.readline() != "ready\n":
            raise RuntimeError("load_server did not start")
        wait_until(lambda: _resolves(self.host), "the DNS server")
        self.server_pid = _child_pid(server.pid)

    def way(self, forwards=False):
        """A gateway namespace and its clients', joined to the servers; returns (gateway, clients)."""
        number = len(self.namespaces)
        gateway, clients = Namespace(), Namespace()
        self.namespaces += [gateway, clients]
        _join(gateway, self.internet, f"up{number}", f"198.19.{100 + number}")
        _join(clients, gateway, f"in{number}", f"198.19.{200 + number}")
        clients.run("ip", "route", "add", "default", "via", f"198.19.{200 + number}.1")
        gateway.run("ip", "route", "add", "default", "via", f"198.19.{100 + number}.1")
        for namespace in (gateway, clients):
            tune(namespace)
        if forwards:
            self.internet.run("ip", "route", "add", f"198.19.{200 + number}.0/30", "via", f"198.19.{100 + number}.2")
            gateway.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        return gateway, clients

    def closed(self):
        """A namespace like a sealed one, but with the kernel's own settings: a link that leads nowhere, and a route by it."""
        made = Namespace()
        self.namespaces.append(made)
        for argv in ("link set lo up", "link add eth0 type veth peer name eth0-closed", "link set eth0-closed up", "link set eth0 up",
                     "addr add 10.0.2.100/24 dev eth0", "route add default via 10.0.2.2 dev eth0"):
            made.run("ip", *argv.split())
        tune(made)
        return made

    def redirect(self, gateway):
        rules = "table ip bench { chain in { type nat hook prerouting priority dstnat; " + "".join(
            f"tcp dport {port} redirect to :{own}; " for port, own in PROXY_PORT.items()) + "}; }"
        gateway.run("nft", "-f", "-", input=rules)

    def close(self):
        for namespace in self.namespaces if hasattr(self, "namespaces") else []:
            namespace.close()
        super().close()


def tune(namespace):
    """
    Room for many short connections, the same for all. Connection tracking keeps a closed connection for two minutes; once
    ports come round again it drops the first SYN, and the client waits a second: an artefact of so few addresses.
    """
    namespace.run("sysctl", "-qw", "net.core.somaxconn=8192", "net.ipv4.ip_local_port_range=16000 65000")
    namespace.run("sysctl", "-eqw", "net.netfilter.nf_conntrack_tcp_timeout_time_wait=1", check=False)


def _join(inner, outer, link, prefix):
    """`inner` gets PREFIX.2, `outer` PREFIX.1."""
    outer.run("ip", "link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", inner.pid)
    inner.run("ip", "link", "set", "lo", "up")
    for namespace, name, last in ((outer, link, 1), (inner, "uplink", 2)):
        namespace.run("ip", "addr", "add", f"{prefix}.{last}/30", "dev", name)
        namespace.run("ip", "link", "set", name, "up")


def _child_pid(pid):
    """Of a program started in a pid namespace: nsenter forks there, and waits."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def _query(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def _resolves(namespace, name=NAMES["flows"]):
    return namespace.call(lambda: _ask(name))


def _ask(name, server=NAME_SERVER):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(1)
        asker.connect((server, 53))
        asker.send(_query(name))
        try:
            answer = asker.recv(512)
        except OSError:
            return False
    return answer[3] & 15 == 0 and answer[7] > 0


def resolve_all(namespace):
    """What a client does before it connects; the gateway so learns whose address it is."""
    for name in NAMES.values():
        if not _resolves(namespace, name):
            raise RuntimeError(f"{name} does not resolve for the clients")


# --- one piece of work ----------------------------------------------------------------------------------------------

def tree(pid):
    """A process and all that descend from it."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            todo += map(int, children.read_text().split())
    return found


def cpu_seconds(pid):
    """CPU time of the whole tree, kernel's included, in seconds: what the scheduler counted, of every thread alive."""
    total = 0
    for process in tree(pid):
        for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total / 1e9


def user_kib(pid):
    """Memory of the tree in user space that is its own: private pages, KiB."""
    total = 0
    for process in tree(pid):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1])
    return total


class Load:
    """A load_client that has said "ready"."""

    def __init__(self, lab, clients, work, connections, milliseconds=0, rate=None):
        mode = "flows" if work == "latency" else work
        kind = {"refused": "flows", "hold": "echo"}.get(mode, mode)
        name = REFUSED_NAME if work == "refused" else NAMES[kind]
        argv = [lab.folder / "load_client", mode, SERVERS[kind], name, connections, milliseconds,
                *([f"{rate:.1f}"] if rate else [])]
        self.process = clients.spawn(pinned(lab.load_cpu, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise Failure(f"load_client {work} did not get ready")

    def run(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failure("load_client has died")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def abandon(self):
        self.process.kill()
        self.process.wait()


def cpus_of_machine():
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise RuntimeError("the load lab needs two CPUs: one for the subject, one for load and servers")
    return available[-1], available[0]
