"""Containers that share a network namespace, as those of a pod, or by Docker's --network container:X."""
import subprocess

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import wait_until


class Second:
    """Another container in the namespace of `first`: a process."""

    def __init__(self, first):
        self.process = subprocess.Popen(list(map(str, first.enter(["sleep", "infinity"]))))
        wait_until(lambda: self.inode() == first.inode(), "its namespace")

    def inode(self):
        done = subprocess.run(["stat", "-L", "-c", "%i", f"/proc/{self.process.pid}/ns/net"], capture_output=True, text=True)
        return int(done.stdout or 0)

    def end(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def pair(gateway):
    first = gateway.container("--policy", "agents")
    second = Second(first)
    yield first, second
    second.end()


def enroll(gateway, second, name="second", *options):
    return gateway.ask("enroll", "--pid", second.process.pid, "--id", name, *(options or ("--policy", "agents")))


def states(gateway):
    return {one["id"]: ("ended" if one.get("ended") else one["state"]) for one in gateway.told("ps")}


def test_the_second_one_shares_what_is_captured(gateway, pair):
    first, second = pair
    before = first.rules()
    assert enroll(gateway, second).returncode == 0
    assert first.rules() == before and states(gateway) == {"box-1": "served", "second": "shared"}
    assert [one["shares"] for one in gateway.told("ps") if one["id"] == "second"] == ["box-1"]
    assert gateway.ask("verify", "second").returncode == 0
    second.end()
    wait_until(lambda: states(gateway) == {"box-1": "served"}, "the second one's end")
    assert first.curl("https://allowed.example/").returncode == 0


@pytest.mark.parametrize("options, hint", [(["--policy", "nothing"], "another policy"), ([], "another policy"),
                                           (["--policy", "agents", "--attached"], "another capture")])
def test_it_must_want_the_same(gateway, pair, options, hint):
    first, second = pair
    done = gateway.ask("enroll", "--pid", second.process.pid, "--id", "second", *options)
    assert done.returncode == 1 and hint in done.stderr and "box-1" in done.stderr, done
    assert states(gateway) == {"box-1": "served"}


def test_what_is_allowed_at_run_time_is_for_both(gateway, pair):
    first, second = pair
    gateway.told("allow", "box-1", "denied.example")
    assert enroll(gateway, second).returncode == 0  # the file says the same of both
    assert first.curl("https://denied.example/").returncode == 0
    gateway.told("allow", "--remove", "second", "denied.example")
    assert first.curl("https://denied.example/").returncode == 6
    gateway.told("allow", "second", "denied.example")
    assert first.curl("https://denied.example/").returncode == 0


def test_the_first_one_ends_and_the_second_is_served_on(gateway, pair):
    first, second = pair
    assert enroll(gateway, second).returncode == 0
    gateway.told("withdraw", "box-1")
    assert states(gateway) == {"box-1": "ended", "second": "shared"}
    assert first.curl("https://allowed.example/").returncode == 0
    second.end()
    wait_until(lambda: states(gateway) == {}, "the end of both")
    assert list(gateway.state.iterdir()) == []


def test_the_first_one_is_started_again_meanwhile(gateway, pair):
    first, second = pair
    assert enroll(gateway, second).returncode == 0
    gateway.told("withdraw", "box-1")
    again = Second(first)
    try:
        done = gateway.ask("enroll", "--pid", again.process.pid, "--id", "box-1", "--policy", "nothing")
        assert done.returncode == 1 and "another policy" in done.stderr, done
        assert gateway.ask("enroll", "--pid", again.process.pid, "--id", "box-1", "--policy", "agents").returncode == 0
        assert states(gateway) == {"box-1": "served", "second": "shared"}
        second.end()
        wait_until(lambda: states(gateway) == {"box-1": "served"}, "the second one's end")
        assert first.curl("https://allowed.example/").returncode == 0
    finally:
        again.end()
    wait_until(lambda: states(gateway) == {}, "the end of both")


def test_withdrawn_last_it_gives_the_namespace_back(gateway, pair):
    first, second = pair
    assert enroll(gateway, second).returncode == 0
    gateway.told("withdraw", "box-1")
    gateway.told("withdraw", "second")
    wait_until(lambda: states(gateway) == {}, "the withdrawal")
    wait_until(lambda: first.ruleset() == "", "the rules to go")
    assert first.sockets() == 0 and list(gateway.state.iterdir()) == []


def test_after_a_restart_they_share_still(gateway, pair):
    first, second = pair
    assert enroll(gateway, second).returncode == 0
    third = Second(first)
    assert enroll(gateway, third, "third").returncode == 0
    gateway.kill()
    third.end()
    gateway.start()
    assert sorted(states(gateway).values()) == ["served", "shared"] and set(states(gateway)) == {"box-1", "second"}
    assert first.curl("https://allowed.example/").returncode == 0


def test_after_a_restart_without_the_first_the_second_is_captured(gateway, pair):
    first, second = pair
    assert enroll(gateway, second).returncode == 0
    gateway.kill()
    first_pid = first.pid
    record = gateway.state / "box-1.json"
    record.write_text(record.read_text().replace(f'"pid": {first_pid}', '"pid": 999999'))  # its process has ended
    gateway.start()
    assert states(gateway) == {"second": "served"}
    assert first.curl("https://allowed.example/").returncode == 0


def test_both_at_once(gateway):
    """The second one comes while the first is being captured: it has its answer when that is done."""
    for i in range(8):
        box = gateway.container(enroll=False)
        others = [Second(box) for _ in range(3)]
        pids = [box.pid, *(other.process.pid for other in others)]
        asking = [subprocess.Popen([str(gateway.lab.binary), "enroll", "--control", str(gateway.control), "--pid", str(pid), "--id",
                                    f"c{i}-{pid}", "--policy", "agents"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                  for pid in pids]
        for one in asking:
            _, said = one.communicate(timeout=20)
            assert one.returncode == 0, said
        assert sorted(states(gateway).values()) == ["served", "shared", "shared", "shared"]
        for other in others:
            other.end()
        box.close()
        wait_until(lambda: states(gateway) == {}, "the end of all")
    assert list(gateway.state.iterdir()) == []


def test_a_sharer_of_what_cannot_be_captured_is_refused_with_it(gateway):
    box = gateway.container(enroll=False)
    box.run("ip", "link", "add", "out", "type", "veth", "peer", "name", "far")
    outside = gateway.container(enroll=False)
    box.run("ip", "link", "set", "far", "netns", outside.pid)
    other = Second(box)
    try:
        for pid, name in ((box.pid, "a"), (other.process.pid, "b")):
            assert gateway.ask("enroll", "--pid", pid, "--id", name, "--policy", "agents").returncode == 1
        assert states(gateway) == {} and list(gateway.state.iterdir()) == []
    finally:
        other.end()
