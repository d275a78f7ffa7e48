"""
EDGE_CASES "Addresses, DNS, loops": name servers that lie, are dead, lead astray or rebind. Whatever they say, it is closed, has
a reason, and the next honest answer counts.
"""
import pytest

from lab import HERE, wait_until
from test_web import CURL, past_dns

SERVER, OTHER = "198.18.0.54", "198.18.0.55"
DIG = ["dig", "+tries=1", "+time=12"]
IGNORED = "no name server answered"  # an answer that is not from whom we asked, to what we asked, is none
UNFIT = "the name server's answer does not fit the question"


class Server:
    def __init__(self, lab):
        self.lab, self.log = lab, lab.folder / f"dns-server-{lab.runs}.log"
        self.start()

    def start(self):
        self.log.unlink(missing_ok=True)
        self.process = self.lab.internet.spawn_itself(["/usr/bin/python3", HERE / "dns_server.py", SERVER, OTHER, self.log])
        wait_until(self.log.exists, "the name server")

    def asked(self):
        return self.log.read_text().splitlines()

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(lab):
    for address in (SERVER, OTHER):
        lab.internet.run("ip", "addr", "replace", f"{address}/32", "dev", "lo")
    one = Server(lab)
    yield one
    one.stop()


def policy(lab, more=""):
    return lab.config(f"version: 1\ngateway: {{resolvers: [{SERVER}]}}\npolicies: {{story: {{allow: [\"*.trap.example\"]{more}}}}}\n")


def ask(lab, *names, more=""):
    """dig for each, one after the other."""
    story = "; ".join(" ".join([*DIG, f"{name}.trap.example"]) for name in names)
    return lab.exec(["sh", "-c", story], config=policy(lab, more), resolver=None)


# --- resolver lying: closed, reason, recovery ---------------------------------------------------------------------------

@pytest.mark.parametrize("lie, why", [
    ("wrong-id", IGNORED), ("wrong-name", IGNORED), ("wrong-type", IGNORED), ("spoofed", IGNORED),
    ("wrong-port", IGNORED), ("garbage", IGNORED), ("silent", IGNORED),
    ("no-question", UNFIT), ("cut", UNFIT), ("circle", UNFIT), ("self", UNFIT),
    ("foreign", "the answer has addresses for names that were not asked"),
])
def test_resolver_lying_is_closed_with_a_reason_and_recovers(lab, server, lie, why):
    run = ask(lab, lie, "honest")
    first, second = run.out.split("status: ")[1:]
    assert first.startswith("SERVFAIL") and "198.18" not in first.split("ANSWER SECTION")[-1].split("Query time")[0], run
    assert second.startswith("NOERROR") and "198.18.1.1" in second
    [denial] = run.audit.where(event_action="dns-denied")
    assert denial["event.reason"] == "dns_failed" and denial["sallyport.detail"] == why
    assert denial["dns.question.name"] == f"{lie}.trap.example"


@pytest.mark.parametrize("lie", ["wrong-id", "spoofed", "garbage", "foreign"])
def test_resolver_lying_closes_flows_too(lab, server, lie):
    name = f"{lie}.trap.example"
    run = lab.exec([*CURL, "-i", "--max-time", "20", *past_dns(name, "198.18.1.1", port=80), f"http://{name}/"],
                   config=policy(lab), resolver=None)
    assert run.out.startswith("HTTP/1.1 502 ") and run.audit.reasons(name) == {"dns_failed"}, run


@pytest.mark.parametrize("rcode", ["refused", "failed"])
def test_resolver_that_refuses(lab, server, rcode):
    """It spoke, and that is what is told; nothing is made of it."""
    run = ask(lab, rcode, "honest")
    first, second = run.out.split("status: ")[1:]
    assert first.startswith("SERVFAIL") and second.startswith("NOERROR") and "198.18.1.1" in second


def test_out_of_bailiwick_records_poison_nothing(lab, server):
    """What stands beside an answer is not believed, not given out, and not remembered for binding."""
    run = ask(lab, "poison", "honest")
    poisoned, honest = run.out.split("status: ")[1:]
    assert "198.18.1.1" in poisoned and "198.18.9.9" not in run.out and "198.18.1.1" in honest
    story = f"{' '.join(DIG)} poison.trap.example >/dev/null; {' '.join([*CURL, '-k', *past_dns('honest.trap.example', '198.18.9.9')])} " \
            "https://honest.trap.example/"
    run = lab.exec(["sh", "-c", story], config=policy(lab, ", bind: strict"), resolver=None)
    assert run.audit.reasons("honest.trap.example") == {"destination_unbound"}


def test_resolver_dead_and_recovery(lab, server):
    story = "import socket, sys, time\n" \
            "def ask(name):\n" \
            "    try: return socket.gethostbyname(name + '.trap.example')\n" \
            "    except OSError: return 'none'\n" \
            "for line in sys.stdin:\n" \
            "    name, wanted = line.split(); deadline = time.monotonic() + 20; i = 0\n" \
            "    while (got := ask(f'{name}{i}')) != wanted and time.monotonic() < deadline: i += 1\n" \
            "    print(got, flush=True)"
    run = lab.start(["python3", "-c", story], config=policy(lab), resolver=None)
    run.say("before 198.18.1.1\n")
    assert run.line() == "198.18.1.1"
    server.stop()
    run.say("dead none\n")
    assert run.line() == "none"
    server.start()
    run.say("after 198.18.1.1\n")
    assert run.line() == "198.18.1.1"
    run.process.stdin.close()
    run.process.stdin = None
    done = run.wait().ok()
    assert {event["event.reason"] for event in done.audit.where(event_action="dns-denied")} == {"dns_failed"}


# --- name that resolves to private …: rebinding -----------------------------------------------------------------------

def test_rebinding_answers_are_refused_when_they_turn(lab, server):
    """A name that is public when it is looked at and private when it is used."""
    run = ask(lab, "rebind", "rebind")
    first, second = run.out.split("status: ")[1:]
    assert "198.18.1.1" in first and second.startswith("NXDOMAIN") and "10.1.2.3" not in run.out
    [denial] = run.audit.where(event_action="dns-denied")
    assert denial["event.reason"] == "destination_guarded"


def test_rebinding_answers_do_not_lead_a_flow_there(lab, server):
    """The client goes to the private address it knows of: the look-up that binds it is guarded as well."""
    story = f"{' '.join(DIG)} rebind.trap.example > /dev/null; " \
            f"{' '.join([*CURL, '-k', *past_dns('rebind.trap.example', '10.1.2.3')])} https://rebind.trap.example/"
    uplink = lab.capture()
    run = lab.exec(["sh", "-c", story], config=policy(lab), resolver=None)
    assert run.audit.reasons("rebind.trap.example") == {"destination_guarded"} and not uplink.towards("10.1.2.3")


def test_a_private_address_beside_a_public_one_refuses_the_answer(lab, server):
    run = ask(lab, "both")
    assert "status: NXDOMAIN" in run.out and "198.18.1.1" not in run.out
    assert run.audit.where(event_reason="destination_guarded")


# --- CNAME chains -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("depth", [1, 8, 16])
def test_cname_chains_are_followed(lab, server, depth):
    """The names between need no rule: the one that was asked for is what was allowed."""
    name = f"chain-{depth}.trap.example"
    run = lab.exec(["dig", "+short", name], config=policy(lab), resolver=None).ok()
    assert run.out.split()[-1] == "198.18.1.1" and len(run.out.split()) == depth + 1
    run = lab.exec([*CURL, "-k", f"http://{name}/"], config=policy(lab), resolver=None).ok()
    assert run.audit.allowed(name)[0]["sallyport.binding"] == "dns"


@pytest.mark.parametrize("depth", [17, 200])
def test_cname_chains_end_somewhere(lab, server, depth):
    run = ask(lab, f"chain-{depth}")
    assert "status: SERVFAIL" in run.out and run.audit.where(event_reason="dns_failed"), run


# --- families -----------------------------------------------------------------------------------------------------------

def test_ipv4_only_host_serves_clients_that_chose_ipv6(lab):
    """The gateway's machine has no way out over IPv6; the client, whose namespace has, never notices (RFC 8305)."""
    if not lab.ipv6:
        pytest.skip("this kernel has no IPv6")
    lab.host.run("ip", "-6", "route", "del", "default")
    try:
        run = lab.exec([*CURL, "-6", "-w", "%{time_total}", "https://allowed.example/"], allow=["allowed.example"]).ok()
    finally:
        lab.host.run("ip", "-6", "route", "add", "default", "via", "2001:db8:5a1f::1")
    said, seconds = run.out.rsplit("\n", 1)
    assert said.startswith("allowed.example at 198.18.1.1") and float(seconds) < 2
    [end] = run.audit.ended("allowed.example")
    assert end["destination.ip"] == "2001:db8:5a11::1:1" and end["destination.nat.ip"] == "198.18.1.1"
