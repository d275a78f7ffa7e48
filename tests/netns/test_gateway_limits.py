"""One container at its limits: what it takes is its own, and the others are served."""
import os
import signal
from pathlib import Path

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import wait_until


# Opens connections without end.
FLOOD = """import socket
print("begun", flush=True)
while True:
    c = socket.socket()
    c.setblocking(False)
    c.connect_ex(("198.18.1.1", 443))
    c.close()
"""
HOLD = """import socket, sys
held = [socket.create_connection(("198.18.7.1", 7002)) for _ in range(int(sys.argv[1]))]
for c in held: c.recv(9)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def crowd(make_gateway):
    """A gateway, a container A that is to misbehave, and B."""
    gateway = make_gateway("policies: {story: {allow: [allowed.example, \"198.18.7.0/24\"], limits: {flows_per_second: 100}}}\n")
    return gateway, gateway.container("--policy", "story"), gateway.container("--policy", "story")


def test_a_container_that_opens_connections_without_end_is_held_and_the_others_are_served(crowd):
    gateway, a, b = crowd
    flood = a.start("python3", "-c", FLOOD)
    try:
        assert flood.stdout.readline() == "begun\n"
        gateway.await_event(lambda audit: "limit_rate" in audit.reasons(), "a refusal")
        for _ in range(10):
            assert b.curl("https://allowed.example/").returncode == 0
        refused = [event for event in gateway.audit(complete=False).denied() if event["event.reason"] == "limit_rate"]
        assert {event["container.id"] for event in refused} == {a.id}
    finally:
        flood.kill()
    # And served again itself, when it has stopped.
    wait_until(lambda: a.curl("https://allowed.example/").returncode == 0, "the flooding container to be served", 20)


def conntrack(namespace):
    return int(namespace.output("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))


@pytest.mark.parametrize("how", ["sealed", "attached"])
def test_connection_tracking_of_a_container_is_its_own(make_gateway, how):
    """Entries are counted by namespace: a container can fill its own table, not the host's, and not another's. A sealed one has none."""
    if not Path("/proc/sys/net/netfilter/nf_conntrack_count").exists():
        pytest.skip("this kernel does not say how many connections it tracks")
    gateway = make_gateway("policies: {story: {allow: [allowed.example, \"198.18.7.0/24\"]}}\n")
    a, b = (gateway.container("--policy", "story", *(["--attached"] if how == "attached" else [])) for _ in range(2))
    for box in (a, b) if how == "attached" else ():
        box.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "side")
        box.run("ip", "link", "set", "side", "up")
        box.run("ip", "link", "set", "eth0", "up")
        box.run("ip", "addr", "add", "198.19.9.2/24", "dev", "eth0")
        box.run("ip", "route", "add", "default", "dev", "eth0")
    host, other, own = conntrack(gateway.lab.host), conntrack(b), conntrack(a)
    holder = a.start("python3", "-c", HOLD, "80")
    try:
        assert holder.stdout.readline() == "held\n"
        assert a.curl("https://allowed.example/").returncode == 0 and b.curl("https://allowed.example/").returncode == 0
        if how == "sealed":
            assert conntrack(a) == conntrack(b) == 0
        else:
            assert conntrack(a) >= own + 80
            assert conntrack(b) <= other + 5
        # On the gateway's own side nothing is tracked for it, unless somebody else's rules there want that.
        assert conntrack(gateway.lab.host) <= host + 5
    finally:
        holder.kill()


REFUSED = """import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
refused = 0
for _ in range(int(sys.argv[1])):
    try: s.sendto(b"x", ("198.18.1.1", 9999))
    except OSError: refused += 1
print(refused)
"""


def test_every_refused_packet_is_counted_though_the_kernel_lost_most_of_them(gateway):  # noqa: F811
    """Also those that were lost behind the last one which was read: the log's socket has counted them."""
    box = gateway.container("--policy", "agents")
    worker, sent = gateway.worker(), 30000
    os.kill(worker, signal.SIGSTOP)  # nobody reads meanwhile
    try:
        assert int(box.do("/usr/bin/python3", "-c", REFUSED, str(sent)).stdout) == sent
    finally:
        os.kill(worker, signal.SIGCONT)

    def once_more():
        """The next event tells of what was left out before it."""
        nonlocal sent
        box.do("/usr/bin/python3", "-c", REFUSED, "1")
        sent += 1
        return counted()

    def counted():
        packets = gateway.audit(complete=False).where(event_action="packet-denied")
        return len([each for each in packets if "destination.ip" in each]) + sum(each.get("sallyport.left_out", 0) for each in packets)
    wait_until(lambda: sent - 3 <= once_more() <= sent, "every packet in the log's account", 20)
    assert gateway.worker() == worker
    gateway.told("withdraw", box.id)
    wait_until(lambda: counted() == sent, "all of them")
