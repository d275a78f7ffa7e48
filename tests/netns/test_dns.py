"""DNS: the gateway answers; a denied name never leaves, whatever the question looks like and whomever it is put to."""
import pytest

from origins import NAME_SERVER
from test_web import ALLOWED, CURL

DIG = ["dig", "+tries=1", "+time=4"]


@pytest.mark.smoke
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("server", [None, "198.18.1.1", "192.0.2.1", "2001:db8:5a11::9:9"])
def test_allowed_names_are_answered_whoever_is_asked(lab, transport, server):
    run = lab.exec([*DIG, "+short", transport, *([f"@{server}"] if server else []), "allowed.example", "A"], **ALLOWED).ok()
    assert run.out.split() == ["198.18.1.1"]


@pytest.mark.parametrize("own, server", [("127.0.0.1#5300", "127.0.0.53"), ("10.0.2.100#53", "192.0.2.1"), ("10.0.2.100", "127.0.0.53"),
                                         ("127.0.0.9", "10.0.2.3"), ("fd00::100#53", "2001:db8:5a11::9:9"), ("::1", "::1")])
def test_the_answer_comes_from_whom_was_asked_wherever_the_client_asks_from(lab, own, server):
    """A client's own port 53 is no name server's."""
    run = lab.exec([*DIG, "+notcp", "+short", "-b", own, f"@{server}", "allowed.example", "A", "denied.example", "A"], **ALLOWED).ok()
    assert run.out.split() == ["198.18.1.1"] and "unexpected source" not in run.out + run.err


@pytest.mark.smoke
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("kind", ["A", "AAAA", "HTTPS", "TXT", "NULL", "ANY", "PTR"])
def test_a_denied_name_never_leaves(lab, user, transport, kind):
    uplink = lab.capture()
    run = lab.exec([*DIG, transport, "the-secret.denied.example", kind], user=user, **ALLOWED).ok()
    assert "status: NXDOMAIN" in run.out and "EDE: 15" in run.out
    assert run.audit.dns_denied() == {"the-secret.denied.example"}
    [denial] = run.audit.where(event_action="dns-denied")
    assert denial["dns.question.type"] == kind and denial["event.reason"] == "no_rule"
    assert not lab.dns_queries() and not uplink.packets()


def test_nor_does_it_by_another_server(lab, family):
    server = {4: NAME_SERVER, 6: "2001:db8:5a11::53"}[family]
    uplink = lab.capture()
    run = lab.exec([*DIG, f"@{server}", "the-secret.denied.example"], **ALLOWED).ok()
    assert "status: NXDOMAIN" in run.out and not lab.dns_queries() and not uplink.packets()


def test_long_labels_carry_nothing_out(lab):
    name = ".".join(["x" * 63] * 3) + ".denied.example"
    uplink = lab.capture()
    run = lab.exec([*DIG, name, "TXT"], **ALLOWED).ok()
    assert run.audit.dns_denied() == {name} and not uplink.packets()


def test_a_subdomain_of_an_exact_name_is_no_channel(lab):
    uplink = lab.capture()
    run = lab.exec([*DIG, "the-secret.allowed.example"], **ALLOWED).ok()
    assert "status: NXDOMAIN" in run.out and not uplink.packets()


def test_the_resolver_inside_is_the_gateways(lab, user):
    """resolv.conf inside names the gateway's server; the machine's own is untouched."""
    before = open("/etc/resolv.conf").read()
    run = lab.exec(["sh", "-c", "grep nameserver /etc/resolv.conf; getent ahosts allowed.example"], user=user, **ALLOWED).ok()
    assert "nameserver 10.0.2.3" in run.out and "198.18.1.1" in run.out
    assert open("/etc/resolv.conf").read() == before


def test_an_alias_leads_to_its_name(lab):
    assert "alias.example at 198.18.1.1" in lab.exec([*CURL, "-k", "https://alias.example/"], allow=["alias.example"]).ok().out


def test_a_long_answer_comes_over_tcp(lab):
    run = lab.exec([*DIG, "+short", "+noedns", "many.example"], allow=["many.example"]).ok()
    assert len(run.out.split()) == 59


@pytest.mark.parametrize("server", ["10.0.2.3", "fd00::3", "127.0.0.53"])
def test_a_long_answer_comes_over_udp_to_who_has_room_for_it(lab, server):
    run = lab.exec([*DIG, "+notcp", "+ignore", "+bufsize=4096", f"@{server}", "crowd.example", "AAAA"], allow=["crowd.example"]).ok()
    assert "ANSWER: 64" in run.out and "(UDP)" in run.out and int(run.out.split("rcvd: ")[1]) > 1800


@pytest.mark.parametrize("name", ["loopback.example", "private.example", "metadata.example"])
def test_answers_with_guarded_addresses_are_not_passed_on(lab, name):
    for kind in ("A", "AAAA"):
        assert lab.exec([*DIG, "+short", name, kind], allow=[name]).ok().out.strip() == ""


def test_a_live_connection_outlives_its_answer(lab):
    """TTL 1, and a connection that goes on when it has run out."""
    talk = "import http.client, time\n" \
           "c = http.client.HTTPConnection('short-lived.example')\n" \
           "for pause in (0, 2.5):\n" \
           "    time.sleep(pause); c.request('GET', '/'); print(c.getresponse().read())"
    run = lab.exec(["python3", "-c", talk], allow=["short-lived.example"]).ok()
    assert len(run.audit.allowed()) == 1


def test_dns_messages_that_are_none(lab):
    """Noise at the name service: no answer it could take for one, no event without reason, and it goes on serving."""
    story = """import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('10.0.2.3', 53))
for noise in (b'', b'x', bytes(12), bytes(600), b'\\xff' * 40, b'\\0\\1\\1\\0\\0\\1' + bytes(6) + b'\\xc0\\x0c\\0\\1\\0\\1'):
    s.send(noise)
print(socket.gethostbyname('allowed.example'))"""
    assert lab.exec(["python3", "-c", story], **ALLOWED).ok().out.strip() == "198.18.1.1"


def test_dns_off_and_dns_any(lab):
    policy = lab.config("""
version: 1
policies:
  mute: {allow: [allowed.example], dns: "off"}
  open: {allow: [allowed.example], deny: [www.allowed.example], dns: any}
""")
    ask = "dig +short +tries=1 +time=4 allowed.example; dig +short +tries=1 +time=4 denied.example; dig +short www.allowed.example"
    assert lab.exec(["sh", "-c", ask], config=policy, options=["--policy", "mute"]).out.strip() == ""
    assert lab.exec(["sh", "-c", ask], config=policy, options=["--policy", "open"]).out.split() == ["198.18.1.1", "198.18.2.1"]


def test_a_flood_over_tcp_does_not_stall_the_others(lab):
    """One connection that asks without end and never reads: requests beside it are served as if nothing was. (They bring
    their address: the questions a second of this container are used up.)"""
    story = f"""
import socket, struct, subprocess, threading, time
question = struct.pack('!6H', 1, 256, 1, 0, 0, 0) + b'\\6denied\\7example\\0' + struct.pack('!2H', 1, 1)
flood = socket.create_connection(('10.0.2.3', 53))
def ask():
    try:
        while True: flood.sendall((struct.pack('!H', len(question)) + question) * 500)
    except OSError: pass
threading.Thread(target=ask, daemon=True).start()
began = time.monotonic()
for _ in range(5):
    subprocess.run(['curl', '-sS', '-o', '/dev/null', '-m', '10', '--resolve', 'allowed.example:80:198.18.1.1',
                    'http://allowed.example/'], check=True)
print(time.monotonic() - began < 5)
"""
    run = lab.exec(["python3", "-c", story], **ALLOWED).ok()
    assert run.out.strip() == "True"


def test_malformed_messages_do_not_fill_the_log(lab):
    story = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(5000): s.sendto(b'\\0\\1\\1\\0\\0\\2\\0\\0\\0\\0\\0\\0\\0', ('10.0.2.3', 53))
"""
    run = lab.exec(["python3", "-c", story], **ALLOWED).ok()
    told = run.audit.where(event_action="dns-denied")
    assert 0 < len(told) < 1000
    assert {"no_rule", "limit_rate"} <= {event["event.reason"] for event in told}
