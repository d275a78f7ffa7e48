"""`sallyport enroll --attached`: containers that keep a link of their own, here straight to the internet of the lab."""
import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
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
