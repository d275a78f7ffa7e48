"""Policies that change under live flows: exactly the denied ones end. And changes under a million names, and under kill -9."""
import collections
import json
import os
import random
import threading
import time

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import HERE, wait_until

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


# --- kill -9 ----------------------------------------------------------------------------------------------------------

class Changer(threading.Thread):
    """Makes changes without end, one after the other, and knows which were acknowledged: rule → is it denied? One whose answer never
    came is in `open`: it may be in force or not."""

    def __init__(self, gateway, box, luck):
        super().__init__(daemon=True)
        self.gateway, self.box, self.luck = gateway, box, luck
        self.acknowledged, self.open, self.count = {}, {}, 0
        self.alive, self.stopped = threading.Event(), threading.Event()

    def run(self):
        while not self.stopped.is_set():
            self.alive.wait()
            rule, remove = f"n{self.luck.randrange(40)}.example", self.luck.random() < 0.4
            self.open = {rule: not remove}
            try:
                answer = self.gateway.request({"do": "deny", "container": self.box.id, "rules": [rule], "remove": remove})
            except (OSError, ValueError):
                self.alive.clear()  # it was killed; who did that starts it and says so
                continue
            assert answer["ok"], answer
            self.acknowledged[rule], self.open = not remove, {}
            self.count += 1

    def compare(self):
        shown = self.gateway.told("show", self.box.id)["rules"]
        denied = {rule["rule"] for rule in shown if rule["action"] == "deny"}
        for rule, wanted in self.acknowledged.items():
            if rule not in self.open:
                assert (rule in denied) == wanted, (rule, wanted, sorted(denied))
        assert denied <= {rule for rule, wanted in self.acknowledged.items() if wanted} | set(self.open)


def test_what_was_acknowledged_outlives_kill_9_at_any_instant(gateway):
    box = gateway.container("--policy", "agents")
    luck = random.Random(os.environ.get("SALLYPORT_SEED", "4711"))
    changer = Changer(gateway, box, luck)
    changer.start()
    kills = 0
    while changer.count < 200 or kills < 12:
        before = changer.count
        changer.alive.set()
        wait_until(lambda: changer.count >= before + luck.randrange(1, 30), "changes")
        gateway.process.kill()
        gateway.process.wait()
        wait_until(lambda: not changer.alive.is_set(), "the changer to notice")
        kills += 1
        gateway.start()
        assert [container["state"] for container in gateway.told("ps")] == ["served"]
        changer.compare()
        changer.acknowledged.update({rule: wanted for rule, wanted in changer.open.items()
                                     if (rule in str(gateway.told("show", box.id)["rules"])) == wanted})
    changer.stopped.set()
    assert not any(name.endswith(".new") for name in os.listdir(gateway.state))
    assert box.curl("https://allowed.example/").returncode == 0


# --- a million names ----------------------------------------------------------------------------------------------------

class Gap(threading.Thread):
    """Does something without end, and knows the longest time between two ends of it."""

    def __init__(self, action):
        super().__init__(daemon=True)
        self.action, self.stopped, self.failure = action, threading.Event(), None
        self.longest, self.count = 0, 0

    def __enter__(self):
        self.start()
        wait_until(lambda: self.count > 10 or self.failure, "a start")
        self.longest = 0
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()

    def run(self):
        last = time.monotonic()
        while not self.stopped.is_set() and not self.failure:
            try:
                self.action()
            except Exception as error:  # pylint: disable=broad-except
                self.failure = error
            now = time.monotonic()
            self.longest, last, self.count = max(self.longest, now - last), now, self.count + 1


ASK = """
import http.client, sys
connection = http.client.HTTPConnection("allowed.example", timeout=60)
for line in sys.stdin:
    connection.request("GET", "/")
    answer = connection.getresponse()
    print(answer.status, len(answer.read()), flush=True)
"""


def test_a_million_names_are_loaded_under_traffic_and_no_loop_stands_still(make_gateway, record_property):
    gateway = make_gateway(start=False)
    names = gateway.folder / "names.txt"

    def write_names(first):
        with open(names, "w") as file:
            file.writelines(f"host-{i}.example\n" for i in range(first, first + 1000000))

    write_names(0)
    gateway.write_policy("policies: {p: {allow: [allowed.example], allow_files: [names.txt]}}\n")
    gateway.start(wait=False)
    gateway.await_notice("READY=1", seconds=120)
    box = gateway.container("--policy", "p")
    client = box.start("/usr/bin/python3", "-c", ASK)

    def one_request():
        client.stdin.write("\n")
        client.stdin.flush()
        answer = client.stdout.readline()
        assert answer.startswith("200 "), answer + client.stderr.read()

    reloads, denials = [], []
    with Gap(one_request) as served, Gap(gateway.status) as asked:
        for round_ in range(3):
            write_names(round_ + 1)
            answers = []
            begin = time.monotonic()
            reload = threading.Thread(target=lambda: answers.append(gateway.request({"do": "reload"}, timeout=120)))
            reload.start()
            while reload.is_alive():  # changes come into force while the million is being read
                asked_at = time.monotonic()
                answer = gateway.request({"do": "deny", "container": box.id, "rules": [f"x{len(denials)}.example"]})
                assert answer["ok"], answer
                denials.append(time.monotonic() - asked_at)
                reload.join(0.05)
            reloads.append(time.monotonic() - begin)
            assert answers[0]["ok"], answers
    assert served.failure is None and asked.failure is None, (served.failure, asked.failure)
    shown = gateway.told("show", box.id)
    assert {"file": str(names), "allow_rules": 1000000, "deny_rules": 0} in shown["rules"]
    assert sum(rule.get("action") == "deny" for rule in shown["rules"]) == len(denials)  # none was lost to a reload
    for what, value in [("reload", min(reloads)), ("longest gap between requests", served.longest),
                        ("longest gap between answers of the monitor", asked.longest), ("longest deny", max(denials))]:
        record_property(what, value)
        print(f"{what}: {value * 1000:.1f} ms")
    # A loop that loads, judges or frees in its own time stands still for about as long as a load takes.
    assert served.longest < min(reloads) / 2 and asked.longest < min(reloads) / 2
