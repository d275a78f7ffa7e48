"""What the other commands say is what the gateway does."""
import json

import pytest

from origins import address
from test_web import ALLOWED, CURL, past_dns

POLICY = """
version: 1
policies:
  story:
    allow: [allowed.example, "*.wild.example", "https://tls12.example:8443", "198.18.7.0/24:7002"]
    deny: [sub.wild.example]
"""


@pytest.mark.parametrize("url", [
    "https://allowed.example/", "http://allowed.example/", "https://www.allowed.example/", "https://a.b.wild.example/",
    "https://wild.example/", "https://sub.wild.example/", "https://allowed.example:8443/", "https://tls13.example:8443/"])
def test_policy_test_foretells_the_verdict(lab, url):
    policy = lab.config(POLICY)
    told = lab.direct([lab.binary, "policy", "test", "-c", policy, "--json", url])
    name, _, port = url.split("/")[2].partition(":")
    port = int(port or (443 if url.startswith("https") else 80))
    run = lab.exec([*CURL, "-o", "/dev/null", "-w", "%{http_code}", *past_dns(name, port=port), url], config=policy)
    assert told.status == (0 if run.out == "200" else 1), (told, run)
    [decision] = [event for event in run.audit if event["event.action"] in ("flow-allowed", "flow-denied")]
    foretold = json.loads(told.out)
    assert foretold["reason"] == decision["event.reason"]


def test_inspect_reads_what_a_client_sent(lab):
    """The first bytes that left for the origin, given to `inspect`: it sees what the gateway saw."""
    uplink = lab.capture()
    run = lab.exec([*CURL, "https://allowed.example/"], **ALLOWED).ok()
    [hello, *_] = [packet.payload for packet in uplink.towards(address("allowed.example")) + uplink.towards(
        address("allowed.example", 6)) if packet.payload]
    path = lab.folder / "hello.bin"
    path.write_bytes(hello)
    seen = json.loads(lab.direct([lab.binary, "inspect", "--json", path]).ok().out)
    [flow] = run.audit.allowed()
    assert flow["tls.client.server_name"] in json.dumps(seen)
    assert flow["tls.next_protocol"].split(",")[0] in json.dumps(seen)


def test_policy_check_counts_what_it_read(lab):
    policy = lab.config(POLICY)
    assert lab.direct([lab.binary, "policy", "check", policy]).ok().out == f"{policy}: ok: 1 policy, 5 rules\n"
