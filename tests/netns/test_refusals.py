"""A refusal comes at once, says why, and leaves an event with its own reason. Nothing of it reaches the uplink."""
import pytest

from origins import address
from test_web import ALLOWED, CURL, past_dns


def openssl(lab, *options, family=4):
    host = address("allowed.example", family)
    place = f"[{host}]:443" if family == 6 else f"{host}:443"
    return ["openssl", "s_client", "-connect", place, *options]


@pytest.mark.smoke
def test_a_denied_tls_client_gets_an_alert(lab, user, family):
    run = lab.exec(openssl(lab, "-servername", "denied.example", family=family), user=user, **ALLOWED)
    assert run.status == 1 and "alert access denied" in run.err
    assert run.audit.reasons("denied.example") == {"no_rule"}


@pytest.mark.smoke
def test_no_server_name(lab, family):
    uplink = lab.capture()
    run = lab.exec(openssl(lab, "-noservername", family=family), **ALLOWED)
    assert run.status == 1 and "alert" in run.err and "unrecognized name" in run.err
    assert run.audit.reasons() == {"no_sni"} and not uplink.packets()


@pytest.mark.parametrize("name", ["198.18.1.1", "2001:db8:5a11::1:1", "3323068673", "0xc6120101", "0306.022.1.1"])
def test_an_address_is_no_server_name(lab, name):
    run = lab.exec(openssl(lab, "-servername", name), **ALLOWED)
    assert run.status == 1 and "alert" in run.err
    assert run.audit.reasons() <= {"ip_literal", "malformed_client_hello"} and len(run.audit.denied()) == 1


def test_an_address_as_url(lab, family):
    host = address("allowed.example", family)
    url = f"[{host}]" if family == 6 else host
    run = lab.exec(["sh", "-c", f"curl -sS -k 'https://{url}/'; curl -sS -o - -w '%{{http_code}}' 'http://{url}/'"], **ALLOWED)
    assert run.out.endswith("403") and run.audit.reasons() == {"no_sni", "ip_literal"}
    assert not lab.requests()


@pytest.mark.parametrize("bytes_sent", ["SSH-2.0-story\\r\\n", "\\x00\\x01\\x02\\x03 noise \\xff\\xfe", "\\x80\\x2e\\x01\\x00\\x02"])
def test_plain_text_on_443(lab, family, bytes_sent):
    uplink = lab.capture()
    run = lab.exec([*lab.client, "send", address("allowed.example", family), "443", bytes_sent], **ALLOWED).ok()
    assert run.audit.reasons() <= {"not_tls", "malformed_client_hello"} and len(run.audit.denied()) == 1
    assert not uplink.packets()


def test_http_on_443_is_told_to_use_tls(lab):
    run = lab.exec([*CURL, *past_dns("allowed.example"), "http://allowed.example:443/"], **ALLOWED)
    assert run.audit.reasons() == {"not_tls"}
    assert "https" in run.out


@pytest.mark.smoke
def test_a_denied_http_client_is_told_what_would_help(lab, user, family):
    run = lab.exec([*CURL, "-i", *past_dns("denied.example", family=family, port=80), "http://denied.example/"],
                   user=user, **ALLOWED).ok()
    assert run.out.startswith("HTTP/1.1 403 ")
    body = run.out.split("\n\n", 1)[1]
    [denial] = run.audit.denied("denied.example")
    assert "denied.example" in body and "no_rule" in body
    assert f"policy: {denial['rule.ruleset']}" in body
    assert "allow: [denied.example]" in body


def test_the_last_line_sums_up_what_was_denied(lab, user):
    story = """curl -sS https://allowed.example/ >/dev/null
        curl -sS --resolve denied.example:443:198.18.2.1 https://denied.example/
        curl -sS --resolve denied.example:443:198.18.2.1 https://denied.example/
        curl -sS https://never-asked.example/; exit 7"""
    run = lab.exec(["sh", "-c", story], user=user, **ALLOWED)
    assert run.status == 7
    assert "sallyport" in run.summary and "denied.example" in run.summary and "never-asked.example" in run.summary
    assert "allowed.example" not in run.summary.replace("notallowed", "")


@pytest.mark.parametrize("what, expected", [
    ("silence", ""),
    ("half a hello", "\\x16\\x03\\x01\\x02\\x00\\x01\\x00\\x01\\xfc\\x03\\x03"),
])
def test_who_says_nothing_meets_one_deadline(lab, what, expected):
    policy = lab.config("version: 1\ngateway: {limits: {hello_timeout: 1s}}\npolicies: {story: {allow: [allowed.example]}}\n")
    run = lab.exec([*lab.client, "send", address("allowed.example"), "443", expected], config=policy, timeout=15).ok()
    assert run.audit.reasons() == {"hello_timeout"}


def test_slow_headers_meet_the_same_deadline(lab):
    """Bytes that keep coming do not move the deadline."""
    policy = lab.config("version: 1\ngateway: {limits: {hello_timeout: 1s}}\npolicies: {story: {allow: [allowed.example]}}\n")
    request = "GET / HTTP/1.1\\r\\nHost: allowed.example\\r\\n" + "X-Slow: story\\r\\n" * 20
    run = lab.exec([*lab.client, "drip", address("allowed.example"), "80", request], config=policy, timeout=20).ok()
    assert run.audit.reasons() == {"hello_timeout"}
    assert 0.9 < float(run.out.split()[-1]) < 3


def test_a_hello_beyond_64_kib(lab):
    """A ClientHello that claims 1 MiB and begins to send it."""
    record = "\\x16\\x03\\x01\\x40\\x00"
    first = record + "\\x01\\x0f\\xff\\xff\\x03\\x03" + "A" * 16378
    run = lab.exec([*lab.client, "send", address("allowed.example"), "443", first + (record + "A" * 16384) * 4],
                   **ALLOWED).ok()
    assert run.audit.reasons() <= {"hello_too_large", "malformed_client_hello"} and run.audit.denied()


@pytest.mark.parametrize("kind, size", [("segments", 1), ("segments", 5), ("segments", 100),
                                        ("records", 1), ("records", 3), ("records", 64)])
@pytest.mark.smoke
def test_a_client_hello_in_pieces_is_the_same_hello(lab, kind, size):
    hello = [*lab.client, "hello", kind, str(size), address("allowed.example")]
    assert lab.exec([*hello, "allowed.example"], **ALLOWED).ok().out.startswith("allowed.example at")
    run = lab.exec([*hello, "denied.example"], **ALLOWED).ok()
    assert run.out.startswith("refused") and run.audit.reasons("denied.example") == {"no_rule"}


HELLO_FAULTS = {
    "an empty record": "\\x16\\x03\\x01\\x00\\x00",
    "an alert inside": "\\x16\\x03\\x01\\x00\\x04\\x01\\x00\\x00\\x30\\x15\\x03\\x01\\x00\\x02\\x02\\x28",
    "not a hello": "\\x16\\x03\\x01\\x00\\x04\\x02\\x00\\x00\\x00",
    "a length that lies": "\\x16\\x03\\x01\\x00\\x06\\x01\\x00\\x00\\x02\\x03\\x03",
}


@pytest.mark.parametrize("bytes_sent", HELLO_FAULTS.values(), ids=HELLO_FAULTS)
@pytest.mark.smoke
def test_malformed_hellos(lab, bytes_sent):
    run = lab.exec([*lab.client, "send", address("allowed.example"), "443", bytes_sent], **ALLOWED).ok()
    assert run.audit.reasons() == {"malformed_client_hello"}


def test_audit_only_lets_through_and_tells(lab, user):
    run = lab.exec(["sh", "-c", "curl -sS https://denied.example/; curl -sS http://denied.example/"],
                   user=user, options=["--audit-only"], **ALLOWED).ok()
    assert run.out.count("denied.example at 198.18.2.1") == 2
    flows = run.audit.allowed("denied.example")
    assert len(flows) == 2 and all(flow["sallyport.would_deny"] and flow["event.reason"] == "no_rule" for flow in flows)
    assert not run.audit.denied()
