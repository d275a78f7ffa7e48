"""DNS over TLS to the name servers: proven or not asked, one connection for all questions, and no way back to plain DNS."""
import itertools
import re
import shutil
import socket

import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from lab import HERE, NAME_SERVER, wait_until
from origins import _openssl
from test_dns import DIG
from test_web import CURL

ADDRESS = {4: "198.18.0.153", 6: "2001:db8:5a11::153"}
runs = itertools.count(1)


@pytest.fixture(scope="module")
def certificates(whole_lab):
    """dns.example by the lab's authority, the same of yesterday, and by nobody we know."""
    folder = whole_lab.folder
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for name, authority, days in (("good", "ca", 2), ("old", "ca", -1), ("unknown", "stranger", 2)):
        _openssl("req", *key, "-subj", "/CN=dns.example", "-keyout", folder / f"dot-{name}.key", "-out", folder / "dot.csr")
        (folder / "dot.extensions").write_text("subjectAltName=DNS:dns.example\nbasicConstraints=critical,CA:FALSE\n")
        _openssl("x509", "-req", "-in", folder / "dot.csr", "-extfile", folder / "dot.extensions", "-days", days,
                 "-CA", folder / f"{authority}.pem", "-CAkey", folder / f"{authority}.key", "-out", folder / f"dot-{name}.pem")
    return folder


class Unbound:
    """A real server, with names of its own."""

    def __init__(self, lab, certificate="good"):
        self.lab, self.certificate = lab, certificate
        self.config = lab.folder / f"unbound-{next(runs)}.conf"
        interfaces = "\n".join(f"  interface: {ADDRESS[family]}@853" for family in lab.families())
        self.config.write_text(f"""
server:
{interfaces}
  username: ""
  chroot: ""
  directory: "{lab.folder}"
  pidfile: ""
  do-daemonize: no
  use-syslog: no
  logfile: ""
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  tls-service-pem: {lab.folder}/dot-{certificate}.pem
  tls-service-key: {lab.folder}/dot-{certificate}.key
  local-zone: "example." redirect
  local-data: "example. 60 IN A 198.18.1.1"
remote-control:
  control-enable: no
""")
        self.start()

    def start(self):
        self.process = self.lab.internet.spawn_itself(["unbound", "-d", "-c", self.config], stderr=open(f"{self.config}.err", "w"))
        wait_until(lambda: self.process.poll() is not None or self.lab.host.call(self._listens), "unbound")
        assert self.process.poll() is None, open(f"{self.config}.err").read()

    @staticmethod
    def _listens():
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((ADDRESS[4], 853)) == 0

    def stop(self):
        self.process.kill()
        self.process.wait()


class Mannered:
    """dot_server.py"""

    def __init__(self, lab, manner=""):
        self.log = lab.folder / f"dot-{next(runs)}.log"
        self.process = lab.internet.spawn_itself(["/usr/bin/python3", HERE / "dot_server.py", ADDRESS[4],
                                                  lab.folder / "dot-good.pem", lab.folder / "dot-good.key", self.log, manner])
        wait_until(self.log.exists, "the server")

    def lines(self):
        return self.log.read_text().splitlines()

    def questions(self):
        return [line.split() for line in self.lines() if " " in line]

    def connections(self):
        return self.lines().count("connection")

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(lab, certificates):
    started = []

    def start(kind, *options):
        started.append(kind(lab, *options))
        return started[-1]
    yield start
    for one in started:
        one.stop()


@pytest.fixture
def unbound(serve):
    if not shutil.which("unbound", path="/usr/sbin:/usr/bin"):
        pytest.skip("unbound is not installed (scripts/install-deps test)")
    return lambda *options: serve(Unbound, *options)


def policy(lab, *servers, gateway=""):
    listed = ", ".join(f'"{server}"' for server in servers)
    return lab.config(f"version: 1\ngateway: {{resolvers: [{listed}]{gateway}, limits: {{dns_queries_per_second: 10000}}}}\n"
                      "policies: {story: {allow: [allowed.example, \"*.any.example\"]}}\n")


def server(name="dns.example", family=4):
    return f"tls://{'[%s]' % ADDRESS[6] if family == 6 else ADDRESS[4]}#{name}"


def plain_dns(uplink):
    return [packet for packet in uplink.packets() if 53 in (packet.dport, packet.sport)]


# --- a real server ------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_names_are_asked_for_over_tls(lab, family, unbound):
    unbound()
    uplink = lab.capture()
    run = lab.exec([*CURL, "-4", "https://allowed.example/"], config=policy(lab, server(family=family)), resolver=None).ok()
    assert run.out.startswith("allowed.example at 198.18.1.1") and run.audit.allowed()[0]["sallyport.binding"] == "dns"
    assert uplink.towards(ADDRESS[family]) and not plain_dns(uplink)
    assert not uplink.carrying("allowed\x07example")  # the name is nowhere to be read as DNS writes it


def test_two_hundred_questions_at_once(lab, unbound):
    unbound()
    uplink = lab.capture()
    run = lab.exec(["python3", "-c", BURST, 200], config=policy(lab, server()), resolver=None).ok()
    assert run.out.splitlines() == ["0 198.18.1.1"] * 200
    assert len({packet.sport for packet in uplink.towards(ADDRESS[4]) if packet.payload}) == 1


def test_by_the_command_line(lab, unbound):
    unbound()
    run = lab.exec([*DIG, "+short", "allowed.example"], allow=["allowed.example"], resolver=None, options=["--resolver", server()]).ok()
    assert run.out.strip() == "198.18.1.1"


@pytest.mark.smoke
@pytest.mark.parametrize("certificate, name, why", [
    ("good", "other.example", "hostname mismatch"),
    ("old", "dns.example", "certificate has expired"),
    ("unknown", "dns.example", "unable to get local issuer certificate"),
])
def test_a_server_that_does_not_prove_its_name_is_not_asked(lab, unbound, certificate, name, why):
    """Also where the same machine answers plain DNS: there is no way back to it."""
    unbound(certificate)
    uplink = lab.capture()
    run = lab.exec([*DIG, "allowed.example"], config=policy(lab, server(name)), resolver=None)
    assert "status: SERVFAIL" in run.out and "EDE: 23" in run.out
    [denial] = run.audit.where(event_action="dns-denied")
    assert denial["event.reason"] == "dns_failed"
    assert denial["sallyport.detail"] == "the name server's certificate does not prove its name"
    assert f"the name server tls://{ADDRESS[4]}:853#{name} is not asked: {why}" in run.err
    assert not plain_dns(uplink)


def test_its_authority_may_be_configured(lab, unbound):
    unbound("unknown")
    trusted = policy(lab, server(), gateway=f", ca_file: {lab.folder}/stranger.pem")
    assert lab.exec([*DIG, "+short", "allowed.example"], config=trusted, resolver=None).ok().out.strip() == "198.18.1.1"


def test_the_next_server_is_asked_when_one_does_not_prove_its_name(lab, unbound):
    unbound()
    run = lab.exec([*DIG, "+short", "allowed.example"], config=policy(lab, server("other.example"), server()), resolver=None).ok()
    assert run.out.strip() == "198.18.1.1"


FLOWS = """import socket, sys, time
def ask(name):
    try: return socket.gethostbyname(name)
    except OSError: return 'none'
print(ask('first.any.example'), flush=True)
for line in sys.stdin:
    line = line.strip()
    deadline = time.monotonic() + 20
    while line == 'well' and ask('again%d.any.example' % time.monotonic_ns()) == 'none' and time.monotonic() < deadline: pass
    print(ask(line + '.any.example'), flush=True)
"""


def test_a_server_that_died_and_came_back(lab, unbound):
    """Closed while it is away, with a reason; well again by itself."""
    one = unbound()
    uplink = lab.capture()
    run = lab.start(["python3", "-c", FLOWS], config=policy(lab, server()), resolver=None)
    assert run.line() == "198.18.1.1"
    one.stop()
    run.say("dead\n")
    assert run.line() == "none"
    one.start()
    run.say("well\n")
    assert run.line() == "198.18.1.1"
    run.process.stdin.close()
    run.process.stdin = None
    done = run.wait().ok()
    failed = [event for event in done.audit if event.get("dns.question.name") == "dead.any.example"]
    assert {event["event.reason"] for event in failed} == {"dns_failed"}
    assert not plain_dns(uplink)


# --- a server with manners ----------------------------------------------------------------------------------------

BURST = """import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('10.0.2.3', 53)); s.settimeout(15)
n = int(sys.argv[1])
for i in range(n):
    s.send(struct.pack('!6H', i, 0x100, 1, 0, 0, 0) + b'\\6n%05d\\3any\\7example\\0\\0\\1\\0\\1' % i)
for i in range(n):
    answer = s.recv(512)
    number = int(answer[14:19])
    assert answer[:2] == struct.pack('!H', number), answer
    print(answer[3] & 15, socket.inet_ntoa(answer[-4:]))"""


@pytest.mark.parametrize("manner", ["", "backwards"])
def test_many_questions_one_connection(lab, serve, manner):
    """Sent as they come, answered in any order, and each answer to its question."""
    one = serve(Mannered, manner)
    run = lab.exec(["python3", "-c", BURST, 64], config=policy(lab, server()), resolver=None).ok()
    assert run.out.splitlines() == ["0 198.18.1.1"] * 64
    assert one.connections() == 1 and len(one.questions()) == 64


def test_questions_are_padded(lab, serve):
    one = serve(Mannered)
    lab.exec(["python3", "-c", BURST, 8], config=policy(lab, server()), resolver=None).ok()
    assert {int(length) for _, length in one.questions()} == {128}


def test_a_server_that_closes_after_each_answer(lab, serve):
    one = serve(Mannered, "once")
    names = " ".join(f"n{i}.any.example" for i in range(5))
    run = lab.exec(["sh", "-c", f"for name in {names}; do dig +short $name; done"], config=policy(lab, server()), resolver=None).ok()
    assert run.out.split() == ["198.18.1.1"] * 5 and one.connections() == 5


@pytest.mark.parametrize("manner, why", [("silent", "no name server answered"), ("mute", "no name server answered"),
                                         ("lies", "the name server's answer does not fit the question"),
                                         (None, "no name server answered")])
def test_a_server_that_is_of_no_use(lab, serve, manner, why):
    """Dead, silent, or lying: closed, with a reason, and in time."""
    if manner:
        serve(Mannered, manner)
    uplink = lab.capture()
    run = lab.exec(["dig", "+tries=1", "+time=10", "allowed.example"], config=policy(lab, server()), resolver=None)
    assert "status: SERVFAIL" in run.out, run
    [denial] = run.audit.where(event_action="dns-denied")
    assert denial["event.reason"] == "dns_failed" and denial["sallyport.detail"] == why
    assert not plain_dns(uplink)


def test_an_idle_connection_is_closed(lab, serve):
    """By us, as RFC 7858 section 3.4 wants it; the next question makes another."""
    one = serve(Mannered)
    run = lab.start(["python3", "-c", FLOWS], config=policy(lab, server()), resolver=None)
    assert run.line() == "198.18.1.1"
    wait_until(lambda: "end" in one.lines(), "the end of the connection", 20)
    run.say("later\n")
    assert run.line() == "198.18.1.1" and one.connections() == 2
    run.process.stdin.close()
    run.process.stdin = None
    run.wait().ok()


def test_a_reload_turns_to_tls_and_back(lab, serve, make_gateway):
    """Name servers are changed under a running gateway: from then on it asks the new ones, the way they want it."""
    one = serve(Mannered)
    gateway = make_gateway("policies: {agents: {allow: [\"*.any.example\"]}}\ndefault: agents\n")
    box = gateway.container()
    plain = gateway.config.read_text()

    def ask(name):
        return box.do(*DIG, "+short", f"{name}.any.example").stdout.strip()
    assert ask("first") == "198.18.1.1" and lab.dns_queries() == {"first.any.example"} and not one.questions()
    gateway.config.write_text(plain.replace(f"resolvers: [{NAME_SERVER}]", f"resolvers: [\"{server()}\"]"))
    gateway.told("reload")
    assert ask("second") == "198.18.1.1" and [name for name, _ in one.questions()] == ["second.any.example"]
    gateway.told("reload")  # to the same: the connection stays
    assert ask("third") == "198.18.1.1" and one.connections() == 1
    gateway.container()     # nor does another container disturb it
    assert ask("fourth") == "198.18.1.1" and one.connections() == 1
    gateway.config.write_text(plain)
    gateway.told("reload")
    assert ask("fifth") == "198.18.1.1" and lab.dns_queries() == {"first.any.example", "fifth.any.example"}
    wait_until(lambda: "end" in one.lines(), "the end of the connection")


@pytest.mark.parametrize("text, what", [
    ("tls://198.18.0.153", "write tls://ADDR#NAME"),
    ("tls://198.18.0.153#", "write tls://ADDR#NAME"),
    ("tls://198.18.0.153#198.18.0.153", "write tls://ADDR#NAME"),
    ("tls://dns.example#dns.example", "write tls://ADDR#NAME"),
])
def test_a_server_needs_address_and_name(lab, text, what):
    run = lab.exec(["true"], config=policy(lab, text), resolver=None)
    assert run.status == 2 and what in run.err and re.search(r"policy-\d+\.yaml:2:\d+: ", run.err), run


def test_plain_servers_beside_are_refused(lab):
    run = lab.exec(["true"], config=policy(lab, server(), "198.18.0.53"), resolver=None)
    assert run.status == 2 and "before all of them or none" in run.err
