"""icmp:// rules in sealed namespaces: ping through the relay, by name and by address, and nothing else."""
import re
import sys

import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from lab import ORDINARY_USER, UPLINK
from origins import address

NAME = "allowed.example"
RANGE = "/proc/sys/net/ipv4/ping_group_range"


@pytest.fixture(autouse=True)
def may_ping(whole_lab):
    """What systemd sets on every host: the gateway's group may open ping sockets."""
    whole_lab.host.run("sh", "-c", f"echo '0 2147483647' > {RANGE}")


def ping(target, *options, count=1, family=None):
    which = [f"-{family}"] if family else []
    return ["ping", *which, "-n", "-c", str(count), "-W", "3", "-i", "0.05", *map(str, options), target]


def rule(name, family):
    return f"icmp://{address(name, family)}"


@pytest.mark.smoke
def test_by_address(lab, family):
    uplink = lab.capture()
    run = lab.exec(ping(address(NAME, family), count=3), allow=[rule(NAME, family)]).ok()
    assert "3 received, 0% packet loss" in run.out
    [event] = run.audit.allowed()  # one for all of them
    assert (event["network.transport"], event["destination.ip"], event["rule.name"]) == (
        {4: "icmp", 6: "ipv6-icmp"}[family], address(NAME, family), rule(NAME, family))
    [end] = run.audit.where(event_action="flow-ended")
    assert end["source.bytes"] == end["destination.bytes"] == 3 * 56
    assert {packet.source for packet in uplink.towards(address(NAME, family))} == {UPLINK[family][0]}


@pytest.mark.smoke
def test_by_name(lab, family):
    """As people do: the name is looked up by the same program, through the gateway's DNS."""
    run = lab.exec(ping(NAME, family=family), allow=[f"icmp://{NAME}"]).ok()
    assert "1 received" in run.out
    assert run.audit.allowed(NAME)[0]["sallyport.binding"] == "dns"
    run = lab.exec(ping("denied.example", family=family), allow=[f"icmp://{NAME}", "denied.example"])
    assert run.status == 1 and run.audit.reasons() == {"no_rule"}


def test_as_an_ordinary_user(lab, family):
    run = lab.exec(ping(address(NAME, family)), allow=[rule(NAME, family)], user=ORDINARY_USER)
    assert "1 received" in run.ok().out


@pytest.mark.parametrize("size", [0, 1, 7, 56, 1472, 1473, 8000, 60000])
def test_payload_comes_back_as_it_was(lab, family, size):
    """ping compares what comes back, and says "wrong data byte" otherwise."""
    run = lab.exec(ping(address(NAME, family), "-s", size, "-p", "5a11c0ffee"), allow=[rule(NAME, family)]).ok()
    assert "1 received" in run.out and "wrong data" not in run.out


@pytest.fixture
def box(make_gateway):
    """With root inside, who may open raw sockets."""
    rules = ", ".join(f'"{rule(NAME, family)}"' for family in (4, 6))
    gateway = make_gateway(f"policies: {{agents: {{allow: [{rules}, \"icmp://*\"]}}}}\n")
    return gateway.container("--policy", "agents")


def test_identifier_and_sequence_are_the_clients_own(box, family):
    """From a raw socket, where nothing is put right by the kernel."""
    story = f"""
import socket, struct
six = {family == 6}
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, 58 if six else 1)
s.settimeout(3)
def checksum(b):
    total = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
for sequence in (7, 65535, 0):
    body = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0xbeef, sequence) + b"payload!"
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    s.sendto(body, ("{address(NAME, family)}", 0))
    while True:
        data, peer = s.recvfrom(4096)
        data = data if six else data[20:]
        if data[0] == (129 if six else 0): break
    print(peer[0], *struct.unpack("!HH", data[4:8]), data[8:].decode())
"""
    assert box.do(sys.executable, "-c", story).stdout.splitlines() == [f"{address(NAME, family)} {0xBEEF} {n} payload!" for n in (7, 65535, 0)]


@pytest.mark.smoke
def test_refused_at_once_without_a_rule(lab, family):
    uplink = lab.capture()
    run = lab.exec(ping(address(NAME, family)), allow=[NAME])
    assert run.status != 0 and not uplink.packets()
    assert run.audit.where(event_action="packet-denied")[0]["event.reason"] == "port_denied"


def test_refused_at_once_with_another_rule(lab, family):
    uplink = lab.capture()
    run = lab.exec(ping(address("denied.example", family), count=3), allow=[rule(NAME, family)])
    assert run.status == 1 and re.search("Packet filtered|Administratively prohibited", run.out), run
    [event] = run.audit.denied()
    assert event["event.reason"] == "no_rule" and event["destination.ip"] == address("denied.example", family)
    assert not uplink.packets()


@pytest.mark.parametrize("place", ["169.254.169.254", "10.1.2.3", "198.19.0.2"])
def test_guarded_places_stay_shut(lab, place):
    uplink = lab.capture()
    run = lab.exec(ping(place), allow=["icmp://0.0.0.0/0"], destinations=False)
    assert run.status == 1 and run.audit.reasons() == {"destination_guarded"} and not uplink.packets()


def test_the_namespaces_own_addresses_answer_themselves(lab):
    run = lab.exec(["sh", "-c", "ping -c 1 127.0.0.1 && ping -c 1 ::1"], allow=[rule(NAME, 4)]).ok()
    assert run.out.count("1 received") == 2 and not run.audit.allowed()


def test_only_echo_requests_pass(lab, box):
    """Other types are no ping, whatever rule there is; nor are echo requests with a code, or cut short, or of strangers."""
    story = f"""
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
for packet in [struct.pack("!BBHHH", kind, 0, 0xffff - (kind << 8), 0, 0) for kind in (0, 3, 5, 13, 17)] + [
        struct.pack("!BBHHH", 8, 1, 0xf7fe, 0, 0), struct.pack("!BBH", 8, 0, 0xf7ff), b"\\x08"]:
    try: s.sendto(packet, ("{address(NAME)}", 0))
    except OSError: pass
print("sent")
"""
    uplink = lab.capture()
    assert box.do(sys.executable, "-c", story).stdout == "sent\n"
    assert not uplink.packets()


def test_a_flood_is_slowed(lab):
    uplink = lab.capture()
    story = f"""
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)
for n in range(2000):
    s.sendto(b"\\x08\\0\\0\\0\\0\\0\\0\\0flood", ("{address(NAME)}", 0))
"""
    lab.exec([sys.executable, "-c", story], allow=[rule(NAME, 4)]).ok()
    assert 0 < len(uplink.towards(address(NAME))) < 1000


def test_a_host_where_nobody_may_ping(lab):
    lab.host.run("sh", "-c", f"echo '1 0' > {RANGE}")
    run = lab.exec(ping(address(NAME)), allow=[rule(NAME, 4)])
    assert run.status == 1
    [event] = run.audit.denied()
    assert event["event.reason"] == "connect_failed" and "ping_group_range" in event["sallyport.detail"]


@pytest.mark.smoke
def test_an_enrolled_container(make_gateway, family):
    gateway = make_gateway(f"policies: {{agents: {{allow: [\"icmp://{NAME}\", \"udp://{NAME}:9\"]}}, plain: {{allow: [{NAME}]}}}}\n")
    box, other = gateway.container("--policy", "agents"), gateway.container("--policy", "plain")
    assert "1 received" in box.do(*ping(NAME, family=family)).stdout
    assert other.do(*ping(NAME, family=family)).returncode != 0
    gateway.write_policy(f"policies: {{agents: {{allow: [{NAME}]}}, plain: {{allow: [\"icmp://{NAME}\"]}}}}\n")
    gateway.told("reload")
    assert box.do(*ping(NAME, family=family)).returncode != 0
    assert "1 received" in other.do(*ping(NAME, family=family)).stdout
    gateway.await_new_worker(gateway.kill_worker())
    assert "1 received" in other.do(*ping(NAME, family=family)).stdout


def test_a_withdrawn_container_pings_nobody(make_gateway):
    gateway = make_gateway(f"policies: {{agents: {{allow: [\"{rule(NAME, 4)}\"]}}}}\n")
    box = gateway.container("--policy", "agents")
    assert "1 received" in box.do(*ping(address(NAME))).stdout
    uplink = gateway.lab.capture()
    gateway.told("withdraw", box.id)
    assert box.do(*ping(address(NAME))).returncode != 0 and not uplink.packets()
