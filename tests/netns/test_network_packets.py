"""udp:// and icmp:// rules in network capture: the kernel forwards what they allow, by address and by name, and nothing else."""
import re
import shutil
import subprocess
import sys

import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from lab import HERE, UPLINK, wait_until
from network_fixtures import bridge  # noqa: F401
from origins import address

PORT = 7200
SERVED = ("end.example", "allowed.example", "denied.example", "wild.example", "sub.wild.example")
POLICY = """
policies:
  agents: {allow: [allowed.example, %s]}
  others: {allow: ["udp://denied.example:7200"]}
assign:
  - {subnet: 172.28.0.2/32, policy: agents}
  - {subnet: "2001:db8:28::2/128", policy: agents}
  - {subnet: 172.28.0.0/24, policy: others}
networks: [{name: lab, interface: br-lab}]
"""


@pytest.fixture(scope="module")
def echo(whole_lab):
    shutil.copy(HERE / "datagrams.py", whole_lab.folder)
    tool = ["python3", str(whole_lab.folder / "datagrams.py")]
    whole_lab.internet.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit")
    server = whole_lab.internet.spawn([*tool, "serve", PORT, *[address(name, family) for name in SERVED for family in (4, 6)]],
                                      stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    yield tool
    server.kill()
    server.wait()


@pytest.fixture
def gateway(bridge, make_gateway):  # noqa: F811
    return lambda *rules: make_gateway(POLICY % ", ".join(f'"{rule}"' for rule in rules))


def net(name, family, port=PORT, scheme="udp"):
    host = address(name, family)
    host = host if family == 4 else f"[{host}]"
    return f"{scheme}://{host}" + (f":{port}" if scheme == "udp" else "")


def by_name(echo, name, family, *words, wait=5):
    """Looks the name up and sends to the address, as every client does."""
    kind = "AAAA" if family == 6 else "A"
    return ["sh", "-c", f'host=$(dig +short {name} {kind} | tail -n 1); exec "$@" "$host" {PORT} {" ".join(words)}', "sh", *echo, "ask",
            "--wait", str(wait)]


def ask(echo, name, family, *words, wait=5, port=PORT):
    return [*echo, "ask", "--wait", str(wait), address(name, family), str(port), *words]


def own(box):
    return set(box.address.values())


def test_by_address(gateway, bridge, echo, family):
    running = gateway(net("end.example", family))
    box, other = bridge.container(), bridge.container()
    uplink = running.lab.capture()
    told = box.do(*ask(echo, "end.example", family, "hello", "twice"))
    assert told.stdout.splitlines()[0] == f"'hello' from {address('end.example', family)} {PORT}", (told, running.log())
    assert {packet.source for packet in uplink.towards(address("end.example", family))} == {UPLINK[family][0]}, "masqueraded"
    for name, port in (("denied.example", PORT), ("end.example", 7201)):
        assert not box.do(*ask(echo, name, family, "no", wait=1, port=port)).stdout.startswith("'")
    assert not other.do(*ask(echo, "end.example", family, "no", wait=1)).stdout.startswith("'"), "another source, another policy"
    assert not [packet for packet in uplink.packets() if packet.source in own(box) | own(other)]
    assert not uplink.towards(address("denied.example", family))
    running.await_event(lambda audit: audit.where(event_action="packet-allowed"))
    events = running.audit(complete=False).where(event_action="packet-allowed")
    assert len(events) == 1, list(map(dict, events))
    event = events[0]
    assert (event["network.transport"], event["source.ip"], event["destination.ip"], event["destination.port"], event["event.reason"],
            event["rule.name"], event["network.name"], event["rule.ruleset"]) == (
        "udp", box.address[family], address("end.example", family), PORT, "rule_allow", net("end.example", family), "lab", "agents")
    running.await_event(lambda audit: len(audit.where(event_action="packet-denied", event_reason="port_denied")) >= 3)


def test_by_name(gateway, bridge, echo, family):
    """The first packet gets through: DNS answers when the kernel knows the address."""
    running = gateway(f"udp://end.example:{PORT}", f"udp://*.wild.example:{PORT}-7300")
    box, other = bridge.container(), bridge.container()
    for name in ("end.example", "sub.wild.example", "end.example"):
        told = box.do(*by_name(echo, name, family, "hello"))
        assert told.stdout == f"'hello' from {address(name, family)} {PORT}\n", (name, told, running.log())
    assert not box.do(*ask(echo, "wild.example", family, "no", wait=1)).stdout.startswith("'"), "the apex is not meant"
    assert not other.do(*ask(echo, "end.example", family, "no", wait=1)).stdout.startswith("'"), "another source, another policy"
    running.await_event(lambda audit: len(audit.where(event_action="packet-allowed")) == 3)
    event = running.audit(complete=False).where(event_action="packet-allowed")[0]
    assert event["destination.domain"] == "end.example" and event["rule.name"] == f"udp://end.example:{PORT}"


def test_an_address_that_was_not_looked_up_is_refused(gateway, bridge, echo, family):
    gateway(f"udp://end.example:{PORT}")
    box = bridge.container()
    assert not box.do(*ask(echo, "end.example", family, "no", wait=1)).stdout.startswith("'")


def ping(box, target, *options):
    return box.do("ping", "-n", "-c", "2", "-W", "2", "-i", "0.1", *options, target)


def test_ping(gateway, bridge, family):
    running = gateway(net("end.example", family, scheme="icmp"), "icmp://allowed.example")
    box = bridge.container()
    uplink = running.lab.capture()
    assert ping(box, address("end.example", family)).returncode == 0
    assert ping(box, "allowed.example", f"-{family}").returncode == 0
    assert ping(box, address("denied.example", family)).returncode
    assert not uplink.towards(address("denied.example", family))
    running.await_event(lambda audit: len(audit.where(event_action="packet-allowed")) == 2)
    assert {event["network.transport"] for event in running.audit(complete=False).where(event_action="packet-allowed")} == {
        {4: "icmp", 6: "ipv6-icmp"}[family]}


def test_the_guard_holds_and_deny_beats_allow(gateway, bridge, echo):
    running = gateway(f"udp://0.0.0.0/0:{PORT}", "udp://169.254.169.254:53")
    box = bridge.container()
    assert box.do(*ask(echo, "end.example", 4, "hello")).stdout.startswith("'hello'"), "destinations.allow opens it"
    listed = running.lab.host.output("nft", "list", "table", "inet", "sallyport-network")
    assert "169.254.0.0/16" in listed and "127.0.0.0/8" in listed
    uplink = running.lab.capture()
    for host in ("10.1.2.3", "169.254.169.254", "192.168.7.7"):
        assert not box.do(*echo, "ask", "--wait", "1", host, str(PORT if host[0] == "1" and "169" not in host else 53), "no").stdout.startswith("'")
    assert not [packet for packet in uplink.packets() if packet.destination in ("10.1.2.3", "169.254.169.254", "192.168.7.7")]
    running.write_policy(POLICY % f'"udp://0.0.0.0/0:{PORT}"], deny: ["{address("end.example")}"')
    running.told("reload")
    assert not box.do(*ask(echo, "end.example", 4, "no", wait=1)).stdout.startswith("'")
    assert box.do(*ask(echo, "allowed.example", 4, "yes")).stdout.startswith("'yes'")


TALK = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.connect((sys.argv[1], int(sys.argv[2])))
for line in sys.stdin:
    try:
        s.send(line.strip().encode())
        print(s.recv(100).decode(), flush=True)
    except OSError as problem:
        print(type(problem).__name__, flush=True)
"""


class Talk:
    """One UDP connection that stays open."""

    def __init__(self, box, name, family):
        self.process = box.start(sys.executable, "-c", TALK, address(name, family), PORT)

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self):
        self.process.kill()
        self.process.communicate()


def test_a_reload_cuts_what_it_denies_and_nothing_else(gateway, bridge, echo, family):
    running = gateway(f"udp://end.example:{PORT}", f"udp://sub.wild.example:{PORT}", net("allowed.example", family))
    box = bridge.container()
    for name in ("end.example", "sub.wild.example"):
        box.do("dig", "+short", name, "AAAA" if family == 6 else "A")
    talks = {name: Talk(box, name, family) for name in ("end.example", "sub.wild.example", "allowed.example")}
    try:
        assert {name: talk.say("one") for name, talk in talks.items()} == dict.fromkeys(talks, "one"), running.log()
        running.write_policy(POLICY % f'"udp://end.example:{PORT}"')
        running.told("reload")
        assert talks["end.example"].say("two") == "two", "its address is still known"
        for name in ("sub.wild.example", "allowed.example"):
            assert talks[name].say("two") != "two"
        # The gateway dies and comes back: the rules and their addresses stay.
        running.kill()
        assert talks["end.example"].say("three") == "three"
        running.start(wait=False)

        def served():
            try:
                return running.status()["ready"]
            except OSError:
                return False
        wait_until(served, "the next gateway", 20)
        assert talks["end.example"].say("four") == "four"
        assert box.do(*by_name(echo, "end.example", family, "five")).stdout.startswith("'five'")
    finally:
        for talk in talks.values():
            talk.close()


def test_what_the_kernel_keeps_of_a_name_has_an_end(gateway, bridge, echo):
    running = gateway(f"udp://end.example:{PORT}")
    box = bridge.container()
    box.do(*by_name(echo, "end.example", 4, "hello"))
    listed = running.lab.host.output("nft", "list", "table", "inet", "sallyport-network")
    [element] = re.findall(rf"{address('end.example')} timeout (\S+) expires (\S+)", listed) or [None]
    assert element, listed
