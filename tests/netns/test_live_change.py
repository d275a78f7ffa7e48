"""Policies that change under live flows: exactly the denied ones end. And changes under a million names, and under kill -9."""
import collections
import json

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import HERE

RULES = ["allowed.example", "www.allowed.example", "big.example", "git.example", "ws.example", "sub.wild.example",
         "tcp://end.example:7000", "tcp://end.example:7002"]
KEPT = ["http:allowed.example:80", "download:big.example:443", "websocket:ws.example:443", "tcp:end.example:7002"]
DENIED = ["http:www.allowed.example:80", "download:git.example:443", "websocket:sub.wild.example:443", "sink:end.example:7000"]
DENY = ["www.allowed.example", "git.example", "sub.wild.example", "tcp://end.example:7000"]
EACH = 63  # 504 flows in all


def policy(deny=(), more=""):
    return "policies:\n  p:\n    allow: " + json.dumps(RULES) + f"\n    deny: {json.dumps(list(deny))}\n{more}"


class Flows:
    def __init__(self, box, count=EACH):
        endless = box.lab.folder / "www/files/endless"
        with open(endless, "wb") as file:
            file.truncate(1 << 30)
        self.process = box.start("/usr/bin/python3", str(HERE / "flows.py"), str(count), *KEPT, *DENIED)
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def ends(self):
        return self.say("once more")

    def say(self, words):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def expect(self, denied):
        ends = self.ends()
        assert ends == {**{spec: {"up": EACH} for spec in KEPT}, **{spec: {denied: EACH} for spec in DENIED}}, ends


def by_command(gateway, box):
    return gateway.told("deny", box.id, *DENY)


def by_command_of_the_policy(gateway, box):
    return gateway.told("deny", "--policy", "p", *DENY)


def by_the_file(gateway, box):
    gateway.write_policy(policy(DENY))
    return gateway.told("reload")


@pytest.mark.parametrize("tighten", [by_command, by_command_of_the_policy, by_the_file])
def test_exactly_the_denied_ones_of_500_flows_end(make_gateway, tighten):
    gateway = make_gateway(policy())
    box = gateway.container("--policy", "p")
    flows = Flows(box)
    flows.expect("up")

    gateway.write_policy("policies: {p: {allow: [*.example]}}\n")  # a broken file changes nothing, and says why
    done = gateway.ask("reload")
    assert done.returncode == 1 and "policy.yaml:4:" in done.stderr and "quote" in done.stderr, done
    gateway.write_policy(policy(more="  q: {}\n"))  # another version that says the same of them
    gateway.told("reload")
    gateway.told("allow", box.id, "more.example")
    flows.expect("up")

    tighten(gateway, box)
    flows.expect("reset")
    ended = [event for event in gateway.audit(complete=False) if "end" in event["event.type"]]
    assert len(ended) >= 4 * EACH
    assert {event["event.reason"] for event in ended} == {"policy_changed"}
    assert collections.Counter(event["destination.domain"] for event in ended) == {
        "www.allowed.example": EACH, "git.example": EACH, "sub.wild.example": EACH, "end.example": EACH}
