"""Plain HTTP: every request of a connection is judged, on the wire as raw clients write it."""
import pytest

from origins import address
from test_web import ALLOWED, CURL

HOST = address("allowed.example")


def get(host, path="/", *headers):
    return f"GET {path} HTTP/1.1\\r\\n" + "".join(f"{line}\\r\\n" for line in (f"Host: {host}", *headers)) + "\\r\\n"


def denied_requests(lab):
    return [line for line in lab.requests() if "denied" in line]


@pytest.mark.smoke
def test_the_second_request_of_a_connection_is_judged_too(lab, family):
    run = lab.exec([*lab.client, "talk", address("allowed.example", family), "80",
                    get("allowed.example"), get("allowed.example"), get("denied.example", "/secret")], **ALLOWED).ok()
    first, second, third = [line.split()[0] for line in run.out.splitlines() if line[:3].isdigit()]
    assert (first, second, third) == ("200", "200", "403") and run.out.endswith("then closed\n")
    assert run.audit.reasons("denied.example") == {"no_rule"}
    assert len(lab.requests()) == 2 and not denied_requests(lab)


@pytest.mark.smoke
def test_a_pipelined_denied_request_never_reaches_the_origin(lab, family):
    both = get("allowed.example", "/first") + get("denied.example", "/secret") + get("allowed.example", "/third")
    run = lab.exec([*lab.client, "send", address("allowed.example", family), "80", both], **ALLOWED).ok()
    assert run.out.startswith("HTTP/1.1 200 ") and "allowed.example at" in run.out  # the first completes
    assert "HTTP/1.1 403 " in run.out and "no_rule" in run.out
    assert [line.split()[1] for line in lab.requests()] == ["http://allowed.example/first"]


def test_a_body_hides_no_request(lab):
    """What looks like a request inside a body is a body."""
    body = "GET /secret HTTP/1.1\\r\\nHost: denied.example\\r\\n\\r\\n"
    length = len(body.encode().decode("unicode_escape"))
    post = f"POST /missing HTTP/1.1\\r\\nHost: allowed.example\\r\\nContent-Length: {length}\\r\\n\\r\\n{body}"
    run = lab.exec([*lab.client, "talk", HOST, "80", post, get("allowed.example", "/after")], **ALLOWED).ok()
    assert run.out.count("\n") >= 2 and "200 allowed.example at" in run.out
    assert not run.audit.denied() and not denied_requests(lab)


def test_two_allowed_names_on_one_connection(lab):
    """Both names have the address that is connected to: the second request may use the connection."""
    run = lab.exec([*lab.client, "talk", HOST, "80", get("allowed.example"), get("cdn-denied.example")],
                   allow=["allowed.example", "cdn-denied.example"]).ok()
    assert "200 allowed.example at" in run.out and "200 cdn-denied.example at" in run.out


def test_an_allowed_name_that_lives_elsewhere_is_not_asked_for_here(lab):
    """The second name is allowed too, but the server at the other end is not its own: nothing is told to it."""
    run = lab.exec([*lab.client, "talk", HOST, "80", get("allowed.example"), get("www.allowed.example", "/secret")],
                   allow=["allowed.example", "www.allowed.example"]).ok()
    assert [line.split()[0] for line in run.out.splitlines() if line[:3].isdigit()] == ["200", "403"]
    assert run.audit.reasons() == {"destination_unbound"} and not any("www." in line for line in lab.requests())


FAULTS = {
    # story: (request, reasons)
    "no host": ("GET / HTTP/1.1\\r\\n\\r\\n", "host_missing"),
    "no host in 1.0": ("GET / HTTP/1.0\\r\\n\\r\\n", "host_missing"),
    "two hosts": (get("allowed.example", "/", "Host: denied.example"), "host_ambiguous"),
    "the same host twice": (get("allowed.example", "/", "Host: allowed.example"), "host_ambiguous"),
    "an empty host and another": (get("", "/", "Host: allowed.example"), "host_ambiguous host_missing"),
    "a host with userinfo": (get("user@allowed.example"), "host_ambiguous"),
    "two names in a host": (get("allowed.example, denied.example"), "host_ambiguous"),
    "another name in the target": (get("allowed.example", "http://denied.example/"), "host_mismatch"),
    "the name in the target, another host": (get("denied.example", "http://allowed.example/"), "host_mismatch"),
    "another port in the host": (get("allowed.example:8080"), "host_mismatch"),
    "a port beyond 65535": (get("allowed.example:65616"), "host_ambiguous host_mismatch"),
    "an address as host": (get("198.18.1.1"), "ip_literal"),
    "a decimal address as host": (get("3323068673"), "ip_literal"),
    "an IPv6 address as host": (get("[2001:db8:5a11::1:1]"), "ip_literal"),
    "CONNECT": ("CONNECT denied.example:443 HTTP/1.1\\r\\nHost: denied.example:443\\r\\n\\r\\n", "method_denied"),
    "the HTTP/2 preface": ("PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n", "http2_cleartext"),
    "an upgrade to h2c": (get("allowed.example", "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
                              "HTTP2-Settings: AAMAAABkAAQAAP__"), "http2_cleartext"),
    "length and chunks": (get("allowed.example", "/", "Content-Length: 4", "Transfer-Encoding: chunked"), "malformed_http"),
    "two lengths": (get("allowed.example", "/", "Content-Length: 4", "Content-Length: 5"), "malformed_http"),
    "a folded header": (get("allowed.example", "/", "X-Story: once", "\\tupon"), "malformed_http"),
    "a space before the colon": (get("allowed.example", "/", "X-Story : once"), "malformed_http"),
    "a bare LF": ("GET / HTTP/1.1\\nHost: allowed.example\\n\\n", "malformed_http"),
    "a NUL": (get("allowed.example", "/", "X-Story: on\\x00ce"), "malformed_http"),
    "a header without end": ("GET / HTTP/1.1\\r\\nHost: allowed.example\\r\\nX-Long: " + "a" * 70000, "hello_too_large malformed_http"),
    "not HTTP": ("\\x00\\x01\\x02\\x03\\r\\n\\r\\n", "malformed_http"),
    "half a hello on 80": ("\\x16\\x03\\x01\\x00\\x04\\x01\\x00\\x00\\x00", "malformed_client_hello"),
}


@pytest.mark.parametrize("request_bytes, reasons", FAULTS.values(), ids=FAULTS)
@pytest.mark.smoke
def test_what_a_strict_server_would_refuse_is_refused(lab, request_bytes, reasons):
    uplink = lab.capture()
    run = lab.exec([*lab.client, "send", HOST, "80", request_bytes], **ALLOWED).ok()
    assert run.audit.reasons() and run.audit.reasons() <= set(reasons.split()), run
    assert not uplink.towards(HOST), "the request went out"


ACCEPTED = {
    "the dialled port in the host": get("allowed.example:80", "/", "Connection: close"),
    "an absolute target that agrees": get("allowed.example", "http://allowed.example/", "Connection: close"),
    "a chunked body": "POST /missing HTTP/1.1\\r\\nHost: allowed.example\\r\\nConnection: close\\r\\n"
                      "Transfer-Encoding: chunked\\r\\n\\r\\n3\\r\\nabc\\r\\n0\\r\\n\\r\\n",
    "HTTP/1.0 with a host": "GET / HTTP/1.0\\r\\nHost: allowed.example\\r\\n\\r\\n",
}


@pytest.mark.parametrize("request_bytes", ACCEPTED.values(), ids=ACCEPTED)
def test_what_a_strict_server_accepts_passes(lab, request_bytes):
    run = lab.exec([*lab.client, "send", HOST, "80", request_bytes], **ALLOWED).ok()
    assert run.out.startswith("HTTP/1.1 ") and not run.audit.denied()
    assert len(lab.requests()) == 1


# --- WebSocket --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["websocket", "websocket-plain"])
def test_websocket_through_an_allowed_host(lab, user, kind):
    long = "x" * 5000
    run = lab.exec([*lab.client, kind, "ws.example", "/ws", "hello", "GET / HTTP/1.1", long], allow=["ws.example"], user=user).ok()
    assert run.out.splitlines() == ["101", "hello", "GET / HTTP/1.1", long]


def test_after_a_refused_upgrade_requests_are_judged_again(lab):
    upgrade = get("allowed.example", "/missing", "Connection: Upgrade", "Upgrade: websocket")
    run = lab.exec([*lab.client, "talk", HOST, "80", upgrade, get("allowed.example"), get("denied.example", "/secret")],
                   **ALLOWED).ok()
    assert [line.split()[0] for line in run.out.splitlines() if line[:3].isdigit()] == ["404", "200", "403"]
    assert not denied_requests(lab)


def test_bytes_behind_an_upgrade_wait_for_the_answer(lab):
    """Sent in one piece: had the upgrade been taken for granted, the denied request would have gone through the tunnel."""
    upgrade = get("allowed.example", "/missing", "Connection: Upgrade", "Upgrade: websocket")
    run = lab.exec([*lab.client, "send", HOST, "80", upgrade + get("denied.example", "/secret")], **ALLOWED).ok()
    assert run.out.startswith("HTTP/1.1 404 ") and "HTTP/1.1 403 " in run.out and not denied_requests(lab)


# --- bodies -------------------------------------------------------------------------------------------------------------

def test_an_early_answer_reaches_a_client_that_still_uploads(lab, tmp_path):
    """nginx refuses the length from the headers, long before the body is there."""
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(8 << 20))
    run = lab.exec([*CURL, "-H", "Expect:", "-T", upload, "-w", "%{http_code}", "http://allowed.example/small/file"], **ALLOWED)
    assert "413" in run.out


def test_expect_100_continue(lab, tmp_path):
    upload = tmp_path / "upload"
    upload.write_bytes(b"story" * 500000)
    run = lab.exec([*CURL, "-v", "-H", "Expect: 100-continue", "--expect100-timeout", "15", "-T", upload,
                    "http://allowed.example/files/expected"], **ALLOWED).ok()
    assert "100 Continue" in run.err
    assert (lab.folder / "www/files/expected").read_bytes() == upload.read_bytes()


def test_what_an_address_rule_allows_it_allows_for_every_request(lab, family):
    network = "198.18.0.0/15:80" if family == 4 else "[2001:db8::]/32:80"
    run = lab.exec([*lab.client, "talk", address("allowed.example", family), "80",
                    get("allowed.example"), get("denied.example"), get("allowed.example")], allow=[network]).ok()
    assert [line.split()[0] for line in run.out.splitlines() if line[:3].isdigit()] == ["200", "200", "200"]
