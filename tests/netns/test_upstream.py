"""gateway.upstream: flows leave through the site's proxy, and through nothing else."""
import itertools
import re

import pytest

from lab import HERE, wait_until
from origins import address
from test_web import CURL

ports = itertools.count(3128)
PLACE = {4: "198.18.0.80", 6: "2001:db8:5a11::80"}


class Proxy:
    def __init__(self, lab, family, manner=""):
        self.port, self.host = next(ports), PLACE[family]
        self.log = lab.folder / f"proxy-{self.port}.log"
        self.process = lab.internet.spawn_itself(["/usr/bin/python3", HERE / "proxy.py", self.host, self.port, self.log, manner])
        wait_until(self.log.exists, "the proxy")
        self.where = f"[{self.host}]:{self.port}" if family == 6 else f"{self.host}:{self.port}"

    def requests(self):
        return self.log.read_text().splitlines()


@pytest.fixture
def proxy(lab):
    started = []

    def start(family=4, manner=""):
        started.append(Proxy(lab, family, manner))
        return started[-1]
    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def policy(lab, upstream, rules="allowed.example", more=""):
    return lab.config(f"version: 1\ngateway: {{upstream: \"{upstream}\"}}\npolicies: {{story: {{allow: [{rules}]{more}}}}}\n")


@pytest.mark.smoke
@pytest.mark.parametrize("scheme, port", [("https", 443), ("http", 80)])
@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_flows_leave_through_the_proxy(lab, proxy, family, kind, scheme, port):
    site = proxy(family)
    uplink = lab.capture()
    run = lab.exec([*CURL, f"-{family}", f"{scheme}://allowed.example/"], config=policy(lab, f"{kind}://{site.where}")).ok()
    assert run.out.startswith(f"allowed.example at {address('allowed.example', family)}")
    there = address("allowed.example", family)
    assert site.requests() == [f"{kind} {there}:{port}"]
    assert {(packet.destination, packet.dport) for packet in uplink.packets()
            if packet.protocol == "tcp" and packet.source in ("198.19.0.2", "2001:db8:5a1f::2")} == {(site.host, site.port)}
    assert run.audit.ended("allowed.example")[0]["destination.ip"] == there


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_server_that_speaks_first_loses_nothing(lab, proxy, kind):
    """The greeting comes right behind the proxy's answer, which comes a byte at a time."""
    site = proxy(manner="drip")
    story = "import socket\n" \
            "s = socket.create_connection((socket.gethostbyname('end.example'), 7002)); f = s.makefile('rwb', 0)\n" \
            "print(f.readline()); f.write(b'echo me\\n'); print(f.readline())"
    run = lab.exec(["python3", "-c", story], config=policy(lab, f"{kind}://{site.where}", "\"tcp://end.example:7002\"")).ok()
    assert run.out.split("\n")[:2] == ["b'welcome\\n'", "b'echo me\\n'"]


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_that_refuses(lab, proxy, kind):
    site = proxy(manner="refuse")
    run = lab.exec([*CURL, "-i", "-4", "http://allowed.example/"], config=policy(lab, f"{kind}://{site.where}"))
    assert run.out.startswith("HTTP/1.1 502 ") and run.audit.reasons() == {"connect_failed"}
    assert run.audit.denied()[0]["sallyport.detail"] == "the site's proxy refuses"


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_when_the_proxy_is_down_nothing_leaves(lab, kind):
    uplink = lab.capture()
    run = lab.exec([*CURL, "-i", "http://allowed.example/"], config=policy(lab, f"{kind}://198.18.0.80:9"))
    assert run.out.startswith("HTTP/1.1 502 ") and run.audit.reasons() == {"connect_failed"}
    assert run.audit.denied()[0]["sallyport.detail"] == "the site's proxy cannot be reached"
    assert not uplink.towards(address("allowed.example"), address("allowed.example", 6))


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_something_else_than_a_proxy(lab, kind):
    """sshd greets whoever comes; nginx at port 80 knows no CONNECT."""
    wrong = {"http": "198.18.1.1:80", "socks5": f"{address('ssh.example')}:22"}[kind]
    run = lab.exec([*CURL, "-i", "http://allowed.example/"], config=policy(lab, f"{kind}://{wrong}"))
    assert run.out.startswith("HTTP/1.1 502 ") and run.audit.reasons() == {"connect_failed"}
    assert re.match("the site's proxy", run.audit.denied()[0]["sallyport.detail"])


def test_the_guard_holds_before_the_proxy_is_asked(lab, proxy):
    site = proxy()
    run = lab.exec([*CURL, "-i", "--resolve", "private.example:80:198.18.1.1", "http://private.example/"],
                   config=policy(lab, f"http://{site.where}", "private.example"))
    assert run.audit.reasons() == {"destination_guarded"} and site.requests() == []


def test_the_next_address_is_tried_through_the_proxy(lab, proxy):
    """half-dead.example: nobody answers at its first address, which the proxy says."""
    site = proxy()
    run = lab.exec([*CURL, "-4", "http://half-dead.example/"], config=policy(lab, f"http://{site.where}", "half-dead.example")).ok()
    assert run.out.startswith("half-dead.example at 198.18.1.5") and len(site.requests()) >= 1


def test_origins_are_verified_through_the_proxy(lab, proxy):
    site = proxy()
    uplink = lab.capture()
    run = lab.exec([*CURL, "-4", "https://allowed.example/"],
                   config=policy(lab, f"socks5://{site.where}", more=", verify_origin: always")).ok()
    assert run.audit.allowed()[0]["sallyport.certificate"] == "valid"
    assert site.requests() == ["socks5 198.18.1.1:443"] * 2
    assert not [packet for packet in uplink.towards("198.18.1.1") if packet.source == "198.19.0.2"]
