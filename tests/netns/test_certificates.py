"""verify_origin: an address is proven by the certificate of whoever answers there."""
import pytest

from origins import address
from test_web import CURL, past_dns


def policy(lab, *names, verify="always", bind="redial", gateway=""):
    rules = ", ".join(f'"{name}"' for name in names)
    return lab.config(f"version: 1\n{gateway}\npolicies: {{story: {{allow: [{rules}], bind: {bind}, verify_origin: {verify}}}}}\n")


def elsewhere(family):
    """An address where the same nginx answers, but that DNS has for no name."""
    return {4: "198.18.77.7", 6: "2001:db8:5a11::77:7"}[family]


@pytest.mark.smoke
@pytest.mark.parametrize("bind", ["redial", "strict"])
def test_a_certificate_proves_an_address_that_dns_does_not_have(lab, family, bind):
    run = lab.exec([*CURL, *past_dns("allowed.example", elsewhere(family)), "https://allowed.example/"],
                   config=policy(lab, "allowed.example", verify="fallback", bind=bind)).ok()
    assert run.out.startswith(f"allowed.example at {elsewhere(family)}")
    [flow] = run.audit.allowed()
    assert flow["sallyport.binding"] == "certificate" and flow["sallyport.certificate"] == "valid"
    assert flow["tls.server.issuer"] == "CN=Sallyport test authority" and flow["tls.server.not_after"].endswith("Z")
    assert "destination.nat.ip" not in flow


@pytest.mark.smoke
def test_a_certificate_for_another_name_does_not(lab, family):
    claimed = past_dns("allowed.example", address("other.example", family))
    uplink = lab.capture()
    run = lab.exec([*CURL, *claimed, "https://allowed.example/"],
                   config=policy(lab, "allowed.example", verify="fallback", bind="strict"))
    assert run.status == 35 and run.audit.reasons() == {"destination_unbound"}
    [denial] = run.audit.denied()
    assert denial["sallyport.certificate"] == "the origin's certificate is for another name"
    assert uplink.towards(address("other.example", family))  # the gateway did look
    run = lab.exec([*CURL, *claimed, "https://allowed.example/"], config=policy(lab, "allowed.example", verify="fallback")).ok()
    assert run.out.startswith(f"allowed.example at {address('allowed.example', family)}")
    assert run.audit.allowed()[0]["sallyport.binding"] == "redialled"


def test_a_name_that_dns_does_not_know_is_proven_too(lab):
    run = lab.exec([*CURL, "-k", *past_dns("gone.example", elsewhere(4)), "https://gone.example/"],
                   config=policy(lab, "gone.example", verify="fallback"))
    assert run.audit.reasons() == {"dns_failed"}  # nginx has no certificate for it
    assert run.audit.denied()[0]["sallyport.certificate"] == "the origin's certificate is for another name"


def test_always_looks_at_what_dns_vouches_for(lab, family):
    run = lab.exec([*CURL, f"-{family}", "https://allowed.example/"], config=policy(lab, "allowed.example")).ok()
    [flow] = run.audit.allowed()
    assert flow["sallyport.binding"] == "dns" and flow["sallyport.certificate"] == "valid"


@pytest.mark.smoke
@pytest.mark.parametrize("name, why", [
    ("expired.example", "the origin's certificate has expired"),
    ("self-signed.example", "the origin's certificate is of nobody we trust"),
    ("stranger.example", "the origin's certificate is of nobody we trust"),
])
def test_always_denies_when_the_proof_fails(lab, name, why):
    """-k: the client would take anything."""
    assert lab.exec([*CURL, "-k", f"https://{name}/"], config=policy(lab, name, verify="off")).ok()
    run = lab.exec([*CURL, "-k", f"https://{name}/"], config=policy(lab, name))
    assert run.status == 35 and run.audit.reasons() == {"destination_unbound"} and not lab.requests()[1:]
    [denial] = run.audit.denied()
    assert denial["sallyport.certificate"] == denial["sallyport.detail"] == why
    assert denial["tls.server.not_after"]


def test_a_poisoned_answer_does_not_help_when_always_looks(lab):
    """The name server itself lies: bound by DNS, refused by the certificate."""
    lie = "gateway: {hosts: {allowed.example: 198.18.9.9}}"
    run = lab.exec([*CURL, "-k", "https://allowed.example/"], config=policy(lab, "allowed.example", gateway=lie))
    assert run.audit.reasons() == {"destination_unbound"}
    assert run.audit.denied()[0]["sallyport.certificate"] == "the origin's certificate is for another name"


def test_plain_http_has_no_certificate_to_look_at(lab):
    run = lab.exec([*CURL, "http://allowed.example/"], config=policy(lab, "allowed.example")).ok()
    assert "sallyport.certificate" not in run.audit.allowed()[0]


def test_only_the_configured_authorities_count(lab):
    system = {"SSL_CERT_FILE": str(lab.folder / "stranger.pem")}  # what the gateway takes for the system's
    def run(name, gateway=""):
        return lab.exec([*CURL, "-k", f"https://{name}/"], config=policy(lab, name, gateway=gateway), env=system)
    assert run("stranger.example").ok() and run("allowed.example").audit.reasons() == {"destination_unbound"}
    own = f"gateway: {{ca_file: {lab.folder}/ca.pem}}"
    assert run("allowed.example", own).ok() and run("stranger.example", own).audit.reasons() == {"destination_unbound"}


def test_many_flows_cost_one_look(lab):
    """What was proven is kept: 20 connections, 21 handshakes at the origin."""
    once = " ".join([*CURL, "-o /dev/null", "--no-keepalive", "https://allowed.example/"])
    uplink = lab.capture()
    run = lab.exec(["sh", "-c", f"for i in $(seq 20); do {once}; done"], config=policy(lab, "allowed.example")).ok()
    assert len(run.audit.allowed()) == 20
    hellos = [packet for packet in uplink.towards("198.18.1.1", "2001:db8:5a11::1:1")
              if packet.dport == 443 and packet.payload[:3] == b"\x16\x03\x01"]
    assert len(hellos) == 21


def test_a_slow_origin_stalls_nobody(lab):
    """end.example:7000 takes connections and never says a word; its flow is denied in time, others do not wait for it."""
    rules = ["https://end.example:7000", "allowed.example"]
    slow = " ".join([*CURL, "-k", "https://end.example:7000/"])
    quick = " ".join([*CURL, "-o", "/dev/null", "-w", "'%{time_total}\\n'", "https://allowed.example/"])
    run = lab.exec(["sh", "-c", f"{slow} & sleep 0.5; {quick}; wait"], config=policy(lab, *rules)).ok()
    assert float(run.out) < 2
    [denial] = run.audit.denied("end.example")
    assert denial["sallyport.detail"] == "the origin took too long to be verified"


def test_a_dead_origin_proves_nothing(lab):
    """Nobody answers at the claimed address: redialled, or denied, when the time for the proof is over."""
    claimed = past_dns("allowed.example", "198.18.66.1")
    run = lab.exec([*CURL, *claimed, "https://allowed.example/"], config=policy(lab, "allowed.example", verify="fallback")).ok()
    assert run.out.startswith("allowed.example at 198.18.1.1") and run.audit.allowed()[0]["sallyport.binding"] == "redialled"
    run = lab.exec([*CURL, *claimed, "https://allowed.example/"],
                   config=policy(lab, "allowed.example", verify="fallback", bind="strict"))
    assert run.audit.reasons() == {"destination_unbound"}
    assert run.audit.denied()[0]["sallyport.certificate"] == "the origin took too long to be verified"


def test_an_address_where_nobody_speaks_tls_proves_nothing(lab):
    """ssh answers there: the flow of an allowed name is not led to it."""
    run = lab.exec([*CURL, "--resolve", "allowed.example:22:198.18.4.1", "https://allowed.example:22/"],
                   config=policy(lab, "https://allowed.example:22", verify="fallback", bind="strict"))
    assert run.audit.reasons() == {"destination_unbound"}
    assert run.audit.denied()[0]["sallyport.certificate"] == "the origin does not finish a TLS handshake"


def test_audit_mode_lets_the_unproven_through(lab):
    config = lab.config("version: 1\npolicies: {story: {allow: [expired.example], verify_origin: always, mode: audit}}\n")
    run = lab.exec([*CURL, "-k", "https://expired.example/"], config=config).ok()
    [flow] = run.audit.allowed()
    assert flow["sallyport.would_deny"] and flow["event.reason"] == "destination_unbound"
    assert flow["sallyport.certificate"] == "the origin's certificate has expired"
