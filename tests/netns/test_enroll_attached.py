"""`sallyport enroll --attached`: containers that keep a link of their own, here straight to the internet of the lab."""
import shutil
import subprocess

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import HERE, UPLINK
from origins import address


@pytest.fixture
def box(gateway):
    """A container with a link to the internet, past the gateway's host."""
    made = gateway.container(enroll=False)
    internet = gateway.lab.internet
    made.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "side", "netns", internet.pid)
    for namespace, link, four, six in ((made, "eth0", "198.19.7.2/24", "2001:db8:5a1e::2/64"),
                                       (internet, "side", "198.19.7.1/24", "2001:db8:5a1e::1/64")):
        namespace.run("ip", "link", "set", "lo", "up")
        namespace.run("ip", "link", "set", link, "up")
        namespace.run("ip", "addr", "add", four, "dev", link)
        namespace.run("ip", "addr", "add", six, "dev", link, "nodad")
    made.run("ip", "route", "add", "default", "via", "198.19.7.1")
    made.run("ip", "-6", "route", "add", "default", "via", "2001:db8:5a1e::1")
    yield made
    internet.run("ip", "link", "del", "side")


def enroll(gateway, box, *options):
    return gateway.ask("enroll", "--pid", box.pid, "--id", "box", "--policy", "agents", *options)


def test_before_it_leaves_by_its_own_link(gateway, box, family):
    assert box.do(*gateway.lab.client, "connect", address("denied.example", family), "443").stdout.startswith("connected")


def test_sealed_is_refused_attached_is_not(gateway, box):
    assert "eth0" in enroll(gateway, box).stderr
    assert enroll(gateway, box, "--attached").returncode == 0
    assert gateway.told("ps")[0]["capture"] == "attached"
    assert gateway.ask("verify", "box").returncode == 0


def test_attached_it_reaches_what_its_policy_allows_and_nothing_else(gateway, box, family):
    uplink = gateway.lab.capture()
    enroll(gateway, box, "--attached")
    allowed = box.curl("https://allowed.example/", f"-{family}")
    assert allowed.stdout.startswith(f"allowed.example at {address('allowed.example', family)}"), allowed
    assert uplink.towards(address("allowed.example", family)), "by the gateway's own link"
    host = address("denied.example", family)
    assert box.curl("https://denied.example/", f"-{family}", "--resolve", f"denied.example:443:{host}").returncode == 35
    for port in ("8081", "25"):
        told = box.do(*gateway.lab.client, "connect", host, port).stdout
        assert not told.startswith("connected"), told
    box.do(*gateway.lab.client, "udp", host, "443")
    assert box.do("ping", "-c", "1", "-W", "1", host).returncode
    assert "NXDOMAIN" in box.do("dig", f"@{address('name-server.example', family)}", "denied.example").stdout
    assert not uplink.towards(host)


def test_what_comes_in_by_its_link_gets_no_answer(gateway, box):
    enroll(gateway, box, "--attached")
    server = box.start("python3", "-c", "import socket; s = socket.create_server(('', 9000)); print('up', flush=True); s.accept()")
    assert server.stdout.readline() == "up\n"
    internet = gateway.lab.internet
    told = internet.run(*gateway.lab.client, "connect", "198.19.7.2", "9000", capture_output=True, check=False).stdout
    assert not told.startswith("connected"), told
    # Its own servers are its own.
    assert box.do(*gateway.lab.client, "connect", "198.19.7.2", "9000").stdout.startswith("connected")
    server.kill()


def test_a_warning_where_it_could_open_itself(gateway, box):
    done = enroll(gateway, box, "--attached")
    assert done.returncode == 0 and "CAP_NET_ADMIN" in done.stderr and "CAP_NET_ADMIN" in gateway.log()


def test_withdrawn_it_is_as_it_was(gateway, box):
    before = box.network()
    enroll(gateway, box, "--attached")
    gateway.told("withdraw", "box")
    assert box.network() == before and box.sockets() == 0


def test_without_a_route_nothing_leaves_and_a_later_one_changes_nothing(gateway):
    """Docker 28 sets the network up after the hooks: the rules are there first."""
    late = gateway.container("--policy", "agents", "--attached")
    internet = gateway.lab.internet
    late.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "late", "netns", internet.pid)
    try:
        internet.run("ip", "link", "set", "late", "up")
        late.run("ip", "link", "set", "eth0", "up")
        late.run("ip", "addr", "add", "198.19.8.2/24", "dev", "eth0")
        internet.run("ip", "addr", "add", "198.19.8.1/24", "dev", "late")
        late.run("ip", "route", "add", "default", "via", "198.19.8.1")
        assert late.curl("https://allowed.example/", "-4").returncode == 0
        host = address("denied.example")
        assert late.curl("https://denied.example/", "--resolve", f"denied.example:443:{host}").returncode == 35
        assert not late.do(*gateway.lab.client, "connect", host, "8081").stdout.startswith("connected")
    finally:
        internet.run("ip", "link", "del", "late")


def test_after_a_restart_it_is_captured_again(gateway, box):
    enroll(gateway, box, "--attached")
    gateway.kill()
    told = box.do(*gateway.lab.client, "connect", address("denied.example"), "443").stdout
    assert told.startswith("ECONNREFUSED"), told
    gateway.start()
    assert box.curl("https://allowed.example/").returncode == 0
    assert not box.do(*gateway.lab.client, "connect", address("denied.example"), "8081").stdout.startswith("connected")


def test_what_an_engine_redirects_later_does_not_come_first(gateway, box):
    """Docker's own name server, set up in the container after the hooks (Docker 28): it would ask from outside."""
    enroll(gateway, box, "--attached")
    box.run("sh", "-c", """nft add table ip docker; nft add chain ip docker out '{ type nat hook output priority -100; }'
        nft add rule ip docker out ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:5300""")
    server = box.start("python3", "-uc", "import socket; s = socket.socket(2, 2); s.bind(('127.0.0.11', 5300)); print('up'); "
                       "s.recv(512); print('asked')")
    assert server.stdout.readline() == "up\n"
    assert "NXDOMAIN" in box.do("dig", "@127.0.0.11", "+time=2", "+tries=1", "denied.example").stdout
    server.kill()
    assert server.stdout.read() == ""


PACKETS = """
policies:
  agents: {allow: [allowed.example, "udp://end.example:7300", "%s", "icmp://allowed.example"]}
"""
SNEAK = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
for mark in (0, 0x53414c4c, 1):
    for bound in (b"", b"eth0"):
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(0.5)
        try:
            if mark:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            if bound:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bound)
            s.sendto(b"escape", (host, port))
            print("escaped", mark, bound, s.recv(100))
        except OSError:
            pass
"""


@pytest.fixture(scope="module")
def echo(whole_lab):
    shutil.copy(HERE / "datagrams.py", whole_lab.folder)
    tool = ["python3", str(whole_lab.folder / "datagrams.py")]
    whole_lab.internet.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit")
    whole_lab.host.run("sh", "-c", "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range")
    server = whole_lab.internet.spawn([*tool, "serve", "7300", *[address(name, family) for name in (
        "end.example", "wild.example", "denied.example") for family in (4, 6)]], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    yield tool
    server.kill()
    server.wait()


def test_udp_and_ping_go_through_the_relay(gateway, box, echo, family):
    host = address("wild.example", family)
    gateway.write_policy(PACKETS % f"udp://{'[%s]' % host if family == 6 else host}:7300")
    gateway.told("reload")
    uplink = gateway.lab.capture()
    before = box.ruleset()
    assert enroll(gateway, box, "--attached").returncode == 0
    kind = "AAAA" if family == 6 else "A"
    named = box.do("sh", "-c", f'exec "$@" $(dig +short end.example {kind} | tail -n 1) 7300 hello', "sh", *echo, "ask")
    assert named.stdout == f"'hello' from {address('end.example', family)} 7300\n", (named, gateway.log())
    assert box.do(*echo, "ask", host, "7300", "hello").stdout == f"'hello' from {host} 7300\n"
    assert box.do("ping", "-n", "-c", "1", "-W", "3", f"-{family}", "allowed.example").returncode == 0
    sources = {packet.source for name in ("end.example", "wild.example") for packet in uplink.towards(address(name, family))}
    assert sources == {UPLINK[family][0]}, "by the gateway's own link"
    # Bound to its link, or marked as ours are: neither gets past the gateway.
    for target, port in ((address("denied.example", family), "7300"), (address("end.example", family), "7301")):
        assert not box.do("python3", "-c", SNEAK, target, port).stdout
    gateway.await_event(lambda audit: audit.allowed("end.example") and audit.where(
        event_reason="no_rule", destination_ip=address("denied.example", family)) or audit.where(
        event_reason="port_denied", destination_ip=address("denied.example", family)))
    gateway.told("withdraw", "box")
    assert box.ruleset() == before and "fwmark" not in box.output("ip", f"-{family}", "rule")
