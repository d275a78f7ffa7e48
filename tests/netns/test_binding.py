"""A name is bound to its own addresses: what a client claims about them is not believed, and some places are never dialled."""
import pytest

from origins import address
from test_web import ALLOWED, CURL, past_dns


@pytest.mark.smoke
@pytest.mark.parametrize("scheme, port", [("https", 443), ("http", 80)])
def test_an_allowed_name_towards_another_address_is_redialled(lab, user, family, scheme, port):
    """`curl --resolve` as an attacker would use it: an allowed name, a server of his own."""
    elsewhere = address("other.example", family)
    uplink = lab.capture()
    run = lab.exec([*CURL, *past_dns("allowed.example", elsewhere, port=port), f"{scheme}://allowed.example/"],
                   user=user, **ALLOWED).ok()
    assert run.out.startswith(f"allowed.example at {address('allowed.example', family)}")
    assert not uplink.towards(elsewhere)
    [end] = run.audit.ended("allowed.example")
    assert end["destination.ip"] == elsewhere and end["destination.nat.ip"] == address("allowed.example", family)
    assert end["sallyport.binding"] == "redialled"


def test_strict_binding_denies_instead(lab, family):
    policy = lab.config("version: 1\npolicies: {story: {allow: [allowed.example], bind: strict}}\n")
    elsewhere = address("other.example", family)
    run = lab.exec([*CURL, *past_dns("allowed.example", elsewhere), "https://allowed.example/"], config=policy)
    assert run.status == 35 and run.audit.reasons() == {"destination_unbound"}
    run = lab.exec([*CURL, f"-{family}", "https://allowed.example/"], config=policy).ok()
    assert run.audit.ended("allowed.example")[0]["sallyport.binding"] == "dns"


def test_the_gateway_resolves_for_itself_when_the_client_did_not_ask(lab, family):
    policy = lab.config("version: 1\npolicies: {story: {allow: [allowed.example], bind: strict}}\n")
    run = lab.exec([*CURL, *past_dns("allowed.example", family=family), "https://allowed.example/"], config=policy).ok()
    assert run.audit.ended("allowed.example")[0]["sallyport.binding"] == "resolved"


def test_binding_off_believes_the_client(lab):
    policy = lab.config("version: 1\npolicies: {story: {allow: [allowed.example], bind: \"off\"}}\n")
    run = lab.exec([*CURL, "-k", *past_dns("allowed.example", address("other.example")), "https://allowed.example/"],
                   config=policy).ok()
    assert run.out.startswith("allowed.example at 198.18.9.9")


GUARDED = ["loopback.example", "private.example", "metadata.example", "mapped.example", "nat64.example"]


@pytest.mark.smoke
@pytest.mark.parametrize("name", GUARDED)
@pytest.mark.parametrize("scheme, port", [("https", 443), ("http", 80)])
def test_a_name_that_resolves_to_a_guarded_place_is_refused(lab, name, scheme, port):
    """DNS rebinding: the name is allowed, its address is not."""
    uplink = lab.capture()
    run = lab.exec([*CURL, *past_dns(name, "198.18.1.1", port=port), f"{scheme}://{name}/"], allow=[name])
    assert run.audit.reasons(name) == {"destination_guarded"}, run
    assert {packet.dport for packet in uplink.packets() if packet.source == "198.19.0.2"} <= {53}


@pytest.mark.parametrize("place", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:169.254.169.254"])
def test_no_binding_opens_the_guard(lab, place):
    policy = lab.config("version: 1\npolicies: {story: {allow: [allowed.example], bind: \"off\"}}\n")
    run = lab.exec([*CURL, *past_dns("allowed.example", place), "https://allowed.example/"], config=policy)
    assert run.status != 0 and not run.audit.allowed(), run


def test_test_networks_are_guarded_unless_listed(lab, family):
    """The lab's own addresses are special-purpose ranges: without `destinations: allow` they are refused."""
    run = lab.exec([*CURL, *past_dns("allowed.example", family=family), "https://allowed.example/"], destinations=False, **ALLOWED)
    assert run.status == 35 and run.audit.reasons() == {"destination_guarded"}


def test_an_origin_that_nobody_serves_is_said_to_be_so(lab):
    """Refused by the origin's machine: the client is told, the log says connect_failed."""
    run = lab.exec([*CURL, "-i", "http://ssh.example:81/"], allow=["http://ssh.example:81"])
    assert run.out.startswith("HTTP/1.1 502 ") and run.audit.reasons() == {"connect_failed"}


def test_a_name_that_does_not_exist(lab):
    run = lab.exec([*CURL, "-i", *past_dns("gone.example", "198.18.1.1", port=80), "http://gone.example/"], allow=["gone.example"])
    assert run.out.startswith("HTTP/1.1 502 ") and run.audit.reasons() == {"dns_failed"}


def test_a_dead_name_server_is_a_denial_not_a_wait(lab):
    run = lab.exec([*CURL, "-i", *past_dns("allowed.example", port=80), "http://allowed.example/"],
                   resolver="198.18.1.1", **ALLOWED)
    assert run.out.startswith("HTTP/1.1 502 ") and run.audit.reasons() == {"dns_failed"}


@pytest.mark.parametrize("device", ["lo", "uplink"])  # on the uplink it is a secondary address
def test_an_allowed_name_does_not_lead_to_the_gateways_own_machine(lab, device):
    """A public address of the host itself: its services take whoever comes from there for local."""
    lab.host.run("ip", "addr", "replace", "203.0.114.9/32", "dev", device)
    policy = lab.config('version: 1\npolicies: {story: {allow: [own.example], bind: "off"}}\n')
    run = lab.exec([*CURL, "--resolve", "own.example:80:203.0.114.9", "http://own.example/"], config=policy)
    lab.host.run("ip", "addr", "del", "203.0.114.9/32", "dev", device)
    assert "destination_guarded (an address of the gateway's own machine)" in run.out
    assert run.audit.reasons() == {"destination_guarded"}


@pytest.mark.parametrize("listed, reason", [("203.0.114.0/24", "destination_guarded"), ("203.0.114.9", "connect_failed")])
@pytest.mark.parametrize("by", ["destinations", "rule"])
def test_a_network_that_is_opened_does_not_open_the_gateways_own_machine(lab, listed, reason, by):
    """Only its address by itself does; nothing listens there, so then it is a connection that fails."""
    lab.host.run("ip", "addr", "replace", "203.0.114.9/32", "dev", "lo")
    rules = '[own.example]' if by == "destinations" else f'["{listed}:80"]'
    policy = lab.config(f'version: 1\ndestinations: {{allow: [{listed if by == "destinations" else "192.0.2.1"}]}}\n'
                        f'policies: {{story: {{allow: {rules}, bind: "off"}}}}\n')
    run = lab.exec([*CURL, "--resolve", "own.example:80:203.0.114.9", "http://own.example/"], config=policy)
    lab.host.run("ip", "addr", "del", "203.0.114.9/32", "dev", "lo")
    assert run.audit.reasons() == {reason}, run.out
