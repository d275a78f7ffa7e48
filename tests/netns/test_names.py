"""The DNS forwarder from end to end: what is kept, what is cut out, what never leaves, and what a dead server costs."""
import re

import pytest

from origins import NAME_SERVER
from test_dns import DIG
from test_web import ALLOWED, CURL

FAST = "gateway: {limits: {dns_queries_per_second: 100000}}"


def asked(lab, kind="A"):
    """Names of the questions of one type that arrived at the name server, in order, each as often as it came."""
    return [match[1].lower() for line in lab._since("dns.log") if (match := re.search(rf"query\[{kind}\] (\S+) from", line))]


# --- what is kept ---------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_an_answer_is_kept_and_its_ttl_counts_down(lab):
    story = "dig +noall +answer allowed.example; sleep 2.1; dig +noall +answer allowed.example"
    run = lab.exec(["sh", "-c", story], **ALLOWED).ok()
    first, second = (int(line.split()[1]) for line in run.out.splitlines())
    assert first == 60 and 57 <= second <= 58 and asked(lab) == ["allowed.example"]


def test_what_was_looked_up_need_not_be_looked_up_to_bind(lab):
    """The client has the address from elsewhere: the gateway asks once, for both connections."""
    one = " ".join([*CURL, "--resolve", "allowed.example:443:198.18.1.1", "https://allowed.example/"])
    run = lab.exec(["sh", "-c", f"{one}; {one}"], **ALLOWED).ok()
    assert {event["sallyport.binding"] for event in run.audit.allowed()} <= {"resolved", "dns"}
    assert asked(lab) == ["allowed.example"]


def test_a_ttl_of_zero_is_asked_for_again(lab):
    lab.exec(["sh", "-c", "dig +short zero.example; dig +short zero.example"], allow=["zero.example"]).ok()
    assert asked(lab) == ["zero.example"] * 2


def test_ten_thousand_names(lab):
    """Distinct names below a wildcard, from one container: every one is answered, and asked for once."""
    policy = lab.config(f"version: 1\n{FAST}\npolicies: {{story: {{allow: [\"*.any.example\"]}}}}\n")
    story = """import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('10.0.2.3', 53)); s.settimeout(5)
answered = set()
for turn in range(2):
    for begin in range(0, 10000, 50):
        for i in range(begin, begin + 50):
            s.send(struct.pack('!6H', i, 0x100, 1, 0, 0, 0) + b'\\6n%05d\\3any\\7example\\0\\0\\1\\0\\1' % i)
        for i in range(50):
            answer = s.recv(512)
            assert answer[3] & 15 == 0 and answer[-4:] == bytes((198, 18, 1, 1)), answer
            answered.add(answer[:2])
print(len(answered))"""
    run = lab.exec(["python3", "-c", story], config=policy).ok()
    assert run.out.strip() == "10000"
    names = asked(lab)
    assert len(names) == len(set(names)) == 10000


# --- what passes ----------------------------------------------------------------------------------------------------

def test_services_without_ech_and_h3(lab):
    run = lab.exec([*DIG, "+short", "service.example", "HTTPS"], allow=["service.example"]).ok()
    assert "1 ." in run.out and 'alpn="h2"' in run.out and "ipv4hint=198.18.1.1" in run.out and "ech" not in run.out, run
    assert asked(lab, "HTTPS") == ["service.example"] or "service.example" in lab.dns_queries()


def test_hints_at_a_private_place_are_refused(lab):
    run = lab.exec([*DIG, "service-private.example", "HTTPS"], allow=["service-private.example"]).ok()
    assert "status: NXDOMAIN" in run.out and "10.1.2.3" not in run.out
    [denial] = run.audit.where(event_action="dns-denied")
    assert denial["event.reason"] == "destination_guarded"


@pytest.mark.parametrize("kind, said", [("TXT", '"a text"'), ("MX", "10 mail.example.")])
def test_other_records_of_allowed_names(lab, kind, said):
    assert lab.exec([*DIG, "+short", "allowed.example", kind], **ALLOWED).ok().out.strip() == said


@pytest.mark.parametrize("kind", ["NULL", "ANY", "TYPE65399"])
def test_types_without_a_rule_do_not_leave(lab, kind):
    uplink = lab.capture()
    run = lab.exec([*DIG, "allowed.example", kind], **ALLOWED).ok()
    assert "status: REFUSED" in run.out and not uplink.packets()
    [denial] = run.audit.where(event_action="dns-denied")
    assert denial["dns.question.type"] == kind and "not forwarded" in denial["sallyport.detail"]


@pytest.mark.parametrize("options, cut", [(["+noedns"], True), (["+bufsize=512"], True), (["+bufsize=4096"], False), (["+tcp"], False)])
def test_an_answer_is_cut_to_what_the_client_takes(lab, options, cut):
    """59 addresses: too long for 512 bytes, not for 4096, nor for TCP."""
    run = lab.exec([*DIG, "+ignore", *options, "many.example"], allow=["many.example"]).ok()
    assert (" tc" in re.search(r"flags:([^;]*);", run.out)[1]) == cut
    assert len(re.findall(r"\sIN\sA\s198", run.out)) == (0 if cut else 59)


# --- hosts, search domains ------------------------------------------------------------------------------------------

HOSTS = """
version: 1
gateway: {hosts: {web: 198.18.1.1, static.example: [198.18.1.1, "2001:db8:5a11::1:1"], intranet.example: 10.1.2.3}}
policies: {story: {allow: [web, static.example, intranet.example, "tcp://*.example:7002"]}}
"""


@pytest.mark.smoke
def test_static_hosts_are_answered_here(lab, family):
    run = lab.exec([*CURL, f"-{family}", "http://static.example/"], config=lab.config(HOSTS)).ok()
    assert run.out.startswith("static.example at ") and not lab.dns_queries()
    assert run.audit.allowed()[0]["sallyport.binding"] == "dns"


def test_a_static_host_may_have_one_label(lab):
    assert lab.exec([*CURL, "http://web/"], config=lab.config(HOSTS)).ok().out.startswith("web at 198.18.1.1")


def test_a_static_host_binds_without_dns(lab):
    run = lab.exec([*CURL, "--resolve", "static.example:80:198.18.9.9", "http://static.example/"], config=lab.config(HOSTS)).ok()
    assert run.audit.allowed()[0]["sallyport.binding"] == "redialled" and not lab.dns_queries()


def test_static_hosts_are_guarded(lab):
    run = lab.exec([*DIG, "intranet.example"], config=lab.config(HOSTS)).ok()
    assert "status: NXDOMAIN" in run.out and run.audit.where(event_reason="destination_guarded")
    opened = lab.config(HOSTS + "destinations: {allow: [10.1.2.3]}\n")
    assert lab.exec([*DIG, "+short", "intranet.example"], config=opened).ok().out.strip() == "10.1.2.3"


def test_search_domains_end_at_the_name(lab):
    """ndots:3 tries the search domains first; each is denied at once, and nothing of it leaves."""
    run = lab.exec(["getent", "ahostsv4", "allowed.example"], **ALLOWED,
                   env={"LOCALDOMAIN": "corp.test lab.test", "RES_OPTIONS": "ndots:3"}).ok()
    assert "198.18.1.1" in run.out
    assert run.audit.dns_denied() == {"allowed.example.corp.test", "allowed.example.lab.test"}
    assert lab.dns_queries() == {"allowed.example"}


# --- tunnels --------------------------------------------------------------------------------------------------------

def test_very_many_long_names_below_a_wildcard_are_told(lab):
    policy = lab.config(f"version: 1\n{FAST}\npolicies: {{story: {{allow: [\"*.any.example\"]}}}}\n")
    story = """import os, socket
for i in range(150):
    socket.gethostbyname(os.urandom(24).hex() + '.any.example')"""
    run = lab.exec(["python3", "-c", story], config=policy).ok()
    [suspicion] = run.audit.where(event_action="dns-suspected")
    assert suspicion["rule.name"] == "*.any.example" and suspicion["event.type"] == ["protocol", "info"]
    assert suspicion["dns.question.name"].endswith(".any.example")


# --- dead and lying servers -----------------------------------------------------------------------------------------

def test_a_dead_server_is_asked_last(lab):
    """The first of two name servers is silent: two names pay for finding out, the others do not."""
    policy = lab.config(f"""
version: 1
gateway: {{resolvers: [198.18.66.1, {NAME_SERVER}]}}
policies: {{story: {{allow: ["*.any.example"]}}}}
""")
    story = """import socket, time
for i in range(6):
    begin = time.monotonic(); socket.gethostbyname(f'n{i}.any.example'); print(time.monotonic() - begin)"""
    run = lab.exec(["python3", "-c", story], config=policy, resolver=None).ok()
    times = [float(line) for line in run.out.split()]
    assert max(times[2:]) < 0.5 < min(times[:1]), times
