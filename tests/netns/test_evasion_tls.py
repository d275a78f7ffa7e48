"""
The ClientHello rows of the evasion table (evasion.py): each story is sent as it is by a sealed command; what became of it is told by
the audit event of its very connection, and by the real origin's answer.
"""
import hashlib
import json
import re

import pytest

import hellos
from hellos import (ECH_GREASE, GREASE, MODERN, ONLY_13, entry, extension, handshake, hello, key_share, record, records, server_name,
                    sized, sni)
from origins import address

ALLOWED = "allowed.example"
pytestmark = pytest.mark.smoke
SPEAK = r"""
import json, socket, sys, time
for story, pieces in json.load(sys.stdin).items():
    with socket.create_connection(("198.18.1.1", 443)) as c:
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        c.settimeout(10)
        port, answer = c.getsockname()[1], b""
        try:
            for piece in pieces: c.sendall(bytes.fromhex(piece))
            while len(answer) < 7 and (more := c.recv(7 - len(answer))): answer += more
        except OSError: pass
        print(json.dumps([story, port, answer.hex()]), flush=True)
"""


def tell(lab, stories, allow=(ALLOWED,), config=None):
    """story → (event, what came back): "handshake" of the origin, "alert N" of the gateway or the origin, "nothing"."""
    pieces = {story: [piece.hex() for piece in (data if isinstance(data, list) else [data])] for story, data in stories.items()}
    run = lab.start(["/usr/bin/python3", "-c", SPEAK], **({"config": config} if config else {"allow": allow}))
    run.say(json.dumps(pieces))
    run.process.stdin.close()
    run.process.stdin = None
    run = run.wait(200).ok()
    told = {}
    for story, port, answer in map(json.loads, run.out.splitlines()):
        [event] = [event for event in run.audit if event.get("source.port") == port and event["event.action"] in ("flow-allowed", "flow-denied")]
        answer = bytes.fromhex(answer)
        told[story] = event, {21: f"alert {answer[6:7].hex()}", 22: "handshake"}.get(answer[0] if answer else None, "nothing")
    assert told.keys() == stories.keys()
    return told


def assert_served(told):
    for story, (event, answer) in told.items():
        assert event["event.action"] == "flow-allowed" and event["destination.domain"] == ALLOWED, (story, event)
        assert answer == "handshake", (story, answer)


def assert_denied(told, *reasons):
    for story, (event, answer) in told.items():
        assert event["event.action"] == "flow-denied" and event["event.reason"] in reasons, (story, event)
        assert answer != "handshake", story


# --- in pieces -------------------------------------------------------------------------------------------------------

POST_QUANTUM = [extension(51, sized((0x11EC).to_bytes(2, "big") + sized(bytes(1216)) + (0x001D).to_bytes(2, "big") + sized(bytes(range(32))))),
                extension(21, bytes(2700))]


def in_segments(data):
    return {"one byte at a time": [bytes([byte]) for byte in data],
            **{f"cut at {at}": [data[:at], data[at:]] for at in (1, 4, 5, 6, 9, 43, len(data) // 2, len(data) - 1)}}


@pytest.mark.parametrize("name, outcome", [(ALLOWED, "served"), ("denied.example", "denied")])
def test_one_byte_at_a_time_or_split_over_tcp_segments_or_post_quantum(lab, name, outcome):
    large = handshake(sni(name), *MODERN, *POST_QUANTUM)
    assert len(large) > 4000
    told = tell(lab, {**in_segments(record(hello(name))), "4 KiB whole": record(large),
                      **{f"4 KiB, {story}": pieces for story, pieces in in_segments(record(large)).items()}})
    assert_served(told) if outcome == "served" else assert_denied(told, "no_rule")


@pytest.mark.parametrize("name, outcome", [(ALLOWED, "served"), ("denied.example", "denied")])
def test_split_over_tls_records_at_every_offset(lab, name, outcome):
    data = hello(name)
    told = tell(lab, {**{f"at {at}": record(data[:at]) + record(data[at:]) for at in range(1, len(data))},
                      "a byte a record": records(data, 1), "a byte a record, a byte a segment": [bytes([byte]) for byte in records(data, 1)]})
    # A server may itself refuse so many records; the gateway's verdict is what must not change.
    for story, (event, _) in told.items():
        assert event["event.action"] == ("flow-allowed" if outcome == "served" else "flow-denied"), (story, event)
        assert event["destination.domain"] == name


def test_zero_length_record_or_alert_inside_the_hello(lab):
    data = hello(ALLOWED)
    assert_denied(tell(lab, {
        "an empty record first": record(b"") + record(data), "an empty record between": record(data[:50]) + record(b"") + record(data[50:]),
        "an alert between": record(data[:50]) + record(b"\x01\x00", kind=21) + record(data[50:]),
        "application data between": record(data[:50]) + record(b"hello", kind=23) + record(data[50:]),
        "change cipher spec between": record(data[:50]) + record(b"\x01", kind=20) + record(data[50:])}), "malformed_client_hello")


# --- several names ---------------------------------------------------------------------------------------------------

def test_two_server_names(lab):
    rest = [*MODERN, key_share()]
    stories = {}
    for one, other in ((ALLOWED, "denied.example"), ("denied.example", ALLOWED), (ALLOWED, ALLOWED)):
        stories |= {f"two extensions: {one}, {other}": record(handshake(sni(one), *rest, sni(other))),
                    f"two in the list: {one}, {other}": record(handshake(server_name(entry(one), entry(other)), *rest)),
                    f"unknown type first: {one}, {other}": record(handshake(server_name(entry(one, kind=7), entry(other)), *rest)),
                    f"unknown type behind: {one}, {other}": record(handshake(server_name(entry(one), entry(other, kind=7)), *rest))}
    stories["another extension twice"] = record(handshake(sni(ALLOWED), *rest, hellos.GROUPS))
    assert_denied(tell(lab, stories), "malformed_client_hello", "no_rule")


def test_lengths_that_lie(lab):
    rest = [*MODERN, key_share()]
    stories = {f"handshake {lie:+}": record(hello(ALLOWED, lie=lie)) for lie in (-4, -1)}
    stories |= {f"name {lie:+}": record(handshake(server_name(entry(ALLOWED, lie=lie)), *rest)) for lie in (-4, -1, 1, 4, 0xFFFF - len(ALLOWED))}
    stories |= {f"list {lie:+}": record(handshake(server_name(entry(ALLOWED), lie=lie), *rest)) for lie in (-4, -1, 1, 4)}
    stories |= {f"extension {lie:+}": record(handshake(extension(0, sized(entry(ALLOWED)), lie=lie), *rest)) for lie in (-2, -1, 1)}
    stories |= {"an empty name": record(handshake(server_name(entry("")), *rest)),
                "an empty list": record(handshake(server_name(), *rest)), "no list": record(handshake(extension(0, b""), *rest))}
    told = tell(lab, stories)
    assert_denied(told, "malformed_client_hello", "no_sni", "no_rule")


def test_key_share_list_overrun(lab):
    """Nothing of it is the gateway's to use: either the list is refused, or the real server does that."""
    told = tell(lab, {f"{lie:+}": record(handshake(sni(ALLOWED), *MODERN, key_share(lie=lie))) for lie in (-3, 5, 0xF000)})
    for story, (event, answer) in told.items():
        assert event["event.reason"] in ("malformed_client_hello", "rule_allow") and answer != "handshake", (story, event, answer)


# --- what is a hello all the same ------------------------------------------------------------------------------------

def test_tls_1_3_only_record_versions_and_grease(lab):
    greased = [extension(GREASE, b""), sni(ALLOWED), hellos.SIGNATURES, extension(10, sized(b"\x5a\x5a\x00\x1d\x00\x17")),
               extension(43, sized(b"\x5a\x5a\x03\x04\x03\x03", 1)),
               extension(51, sized(b"\x5a\x5a" + sized(b"\0") + b"\x00\x1d" + sized(bytes(range(32))))), extension(0xAAAA, b"\0")]
    told = tell(lab, {
        "TLS 1.3 only": record(handshake(sni(ALLOWED), hellos.GROUPS, hellos.SIGNATURES, ONLY_13, key_share(), suites=(0x1301, 0x1302))),
        **{f"record version {version:#06x}": record(hello(ALLOWED), version=version) for version in (0x0301, 0x0302, 0x0303)},
        "no session id": record(hello(ALLOWED, session=b"")),
        "GREASE everywhere": record(handshake(*greased, suites=(GREASE, 0x1301, 0x1302, 0xC02B, 0xC02F)))})
    assert_served(told)
    [[event, _]] = tell(lab, {"record version 0x0300": record(hello(ALLOWED), version=0x0300)}).values()
    assert event["event.action"] == "flow-allowed"  # whether the server likes it is the server's affair


def test_ech_real_or_grease_the_outer_name_decides(lab):
    told = tell(lab, {"grease": record(hello(ALLOWED, ECH_GREASE))})
    assert_served(told)
    assert told["grease"][0]["sallyport.ech_offered"] is True
    denied = tell(lab, {"an outer name that is denied": record(hello("denied.example", ECH_GREASE))})
    assert_denied(denied, "no_rule")
    strict = lab.config(f"version: 1\npolicies: {{story: {{allow: [{ALLOWED}], ech: deny}}}}\n")
    assert_denied(tell(lab, {"grease": record(hello(ALLOWED, ECH_GREASE))}, config=strict), "ech_denied")
    assert_served(tell(lab, {"without": record(hello(ALLOWED))}, config=strict))


# --- what is none ----------------------------------------------------------------------------------------------------

def test_sslv2_no_sni_not_tls_too_large(lab):
    told = tell(lab, {"SSLv2": b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(37), "no SNI": record(handshake(*MODERN, key_share())),
                      "HTTP": b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n", "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
                      "too large": b"".join([record(b"\x01" + (1 << 20).to_bytes(3, "big") + bytes(16000))] + [record(bytes(16000))] * 5)})
    got = {story: event["event.reason"] for story, (event, _) in told.items()}
    assert got["no SNI"] == "no_sni" and got["too large"] in ("hello_too_large", "malformed_client_hello")
    assert got["HTTP"] == got["SSH"] == "not_tls" and got["SSLv2"] in ("not_tls", "malformed_client_hello")
    assert all(event["event.action"] == "flow-denied" for event, _ in told.values())


ODD_NAMES = {
    "NUL": "allowed.example\0.denied.example", "NUL at the end": "allowed.example\0", "CR LF": "allowed.example\r\nX: y", "slash": "allowed.example/a",
    "colon": "allowed.example:443", "at": "a@allowed.example", "question mark": "allowed.example?", "not ASCII": "all\xf6wed.example",
    "UTF-8": "allöwed.example".encode().decode("latin-1"), "space": "allowed .example", "leading space": " allowed.example", "star": "*.example",
    "quote": 'allowed.example"', "backslash": "allowed\\.example", "percent": "allowed%2eexample", "escape": "\x1b[2Jallowed.example", "DEL": "\x7fallowed.example",
}


def test_odd_bytes_in_sni(lab):
    told = tell(lab, {story: record(hello(name)) for story, name in ODD_NAMES.items()}, allow=["*.example", ALLOWED, "*.denied.example"])
    assert_denied(told, "malformed_client_hello")


def test_address_literals_in_sni(lab):
    told = tell(lab, {name: record(hello(name)) for name in ("198.18.1.1", "2001:db8:5a11::1:1", "[2001:db8:5a11::1:1]", "3323068673",
                                                              "0xc6120101", "0306.022.1.1", "198.18.257", "198.18.1.1.")}, allow=["*", ALLOWED])
    assert_denied(told, "ip_literal", "malformed_client_hello")


def test_mixed_case_dots_and_long_names(lab):
    assert_served(tell(lab, {"mixed case": record(hello("ALLOWED.Example")), "one trailing dot": record(hello("allowed.example."))}))
    long = ".".join(["a" * 63] * 4)
    told = tell(lab, {"two trailing dots": record(hello("allowed.example..")), "an empty label": record(hello("allowed..example")),
                      "a leading dot": record(hello(".allowed.example")), "a dot alone": record(hello(".")),
                      "label of 64": record(hello("a" * 64 + ".example")), "name of 254": record(hello(long[:254 - 8] + "." + "b" * 7)),
                      "name of 255": record(hello(long))}, allow=["*.example", ALLOWED, "*"])
    assert_denied(told, "malformed_client_hello", "no_sni")
    told = tell(lab, {"a longer name": record(hello("notallowed.example")), "a deeper name": record(hello("allowed.example.denied.example"))})
    assert_denied(told, "no_rule")


# --- behind the hello ------------------------------------------------------------------------------------------------

def test_bytes_behind_the_hello_are_replayed_exactly(lab):
    """The greeting of a server that notes what came: here the hello and more, in one read, byte for byte."""
    early = record(hello("end.example")) + bytes(range(256)) * 40
    story = f"""import socket, sys
c = socket.create_connection(("{address('end.example')}", 7000)); c.sendall(bytes.fromhex(sys.stdin.read())); c.shutdown(1)
print(c.makefile().read())"""
    run = lab.start(["/usr/bin/python3", "-c", story], allow=["https://end.example:7000"])
    run.say(early.hex())
    run.process.stdin.close()
    run.process.stdin = None
    done = run.wait().ok()
    assert re.search(rf"{len(early)} {hashlib.sha256(early).hexdigest()}", done.out), done
