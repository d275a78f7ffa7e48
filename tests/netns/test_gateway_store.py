"""`sallyport gateway` under a service manager that keeps its descriptors: what comes while it is down waits."""
import json
import os
import signal
import threading

import pytest

from gateway_fixtures import POLICY
from lab import wait_until
from origins import address
from service_manager import ManagedGateway


@pytest.fixture
def make_managed(lab):
    made = []

    def make(**options):
        made.append(ManagedGateway(lab, POLICY, **options))
        return made[-1].start()

    yield make
    for gateway in made:
        gateway.close()
        gateway.log()


@pytest.fixture
def managed(make_managed):
    return make_managed()


def kept(box):
    """The name of its sockets in the store: short, for all names have to fit into one variable."""
    return f"{box.inode():x}"


def await_store(gateway, *boxes):
    names = {"_control", *map(kept, boxes)}
    wait_until(lambda: gateway.names() == names, f"{names} in the store")


def cookies(gateway, box):
    return json.loads((gateway.state / f"{box.id}.json").read_text())["past"]["cookies"]


@pytest.mark.smoke
def test_what_comes_while_the_monitor_is_dead_waits_for_the_next_one(managed):
    box = managed.container("--policy", "agents")
    await_store(managed, box)
    managed.kill()
    got = []
    known = f"allowed.example:443:{address('allowed.example')}"  # connections wait, not questions for the name
    waiting = [threading.Thread(target=lambda: got.append(box.curl("https://allowed.example/", "--resolve", known)))
               for _ in range(8)]
    asking = threading.Thread(target=lambda: got.append(managed.ask("verify", box.id)))
    for thread in (*waiting, asking):
        thread.start()
    wait_until(lambda: box.output("ss", "-Htn").count("\n") >= 8 or len(got) > 0, "connections in the queue")
    managed.start()
    for thread in (*waiting, asking):
        thread.join()
    assert [one.returncode for one in got] == [0] * 9, got
    assert box.curl("https://denied.example/").returncode != 0


def test_the_sockets_are_the_same_and_the_rules_untouched(managed):
    box = managed.container("--policy", "agents")
    await_store(managed, box)
    before, rules, sockets = cookies(managed, box), box.ruleset(), box.sockets()
    for _ in range(3):
        managed.kill()
        managed.start()
        assert managed.ask("verify", box.id).returncode == 0
    assert cookies(managed, box) == before and box.sockets() == sockets
    assert box.ruleset().split("counter")[0] == rules.split("counter")[0]
    assert box.curl("https://allowed.example/").returncode == 0


def test_a_restart_by_the_manager_loses_nothing(managed):
    """SIGTERM, then start: neither a connection nor a request finds the door shut."""
    box = managed.container("--policy", "agents")
    await_store(managed, box)
    assert managed.stop() == 0 and managed.control.exists()
    got = []
    waiting = threading.Thread(target=lambda: got.append(box.curl("https://allowed.example/")))
    asking = threading.Thread(target=lambda: got.append(managed.ask("verify", box.id)))
    waiting.start()
    asking.start()
    managed.start()
    waiting.join()
    asking.join()
    assert [one.returncode for one in got] == [0, 0], got


def test_a_stop_for_good_leaves_it_closed(managed):
    box = managed.container("--policy", "agents")
    await_store(managed, box)
    assert managed.stop() == 0
    managed.forget_everything()
    assert box.curl("https://allowed.example/").returncode != 0
    assert managed.ask("ps").returncode != 0
    managed.start()
    assert box.curl("https://allowed.example/").returncode == 0


def test_a_manager_that_does_not_say_so_keeps_the_containers_sockets_all_the_same(make_managed):
    gateway = make_managed(announced=False)
    box = gateway.container("--policy", "agents")
    await_store(gateway, box)
    assert gateway.stop() == 0
    wait_until(lambda: gateway.names() == {kept(box)}, "the control socket out of the store")
    assert not gateway.control.exists()
    gateway.start()
    assert box.curl("https://allowed.example/").returncode == 0


def test_what_is_withdrawn_or_ended_is_kept_no_longer(managed):
    goes, ends, stays = (managed.container("--policy", "agents") for _ in range(3))
    await_store(managed, goes, ends, stays)
    assert managed.ask("withdraw", goes.id).returncode == 0
    ends.close()
    await_store(managed, stays)
    managed.kill()
    stays.close()
    managed.start()
    await_store(managed)
    assert managed.told("ps") == []


def test_sockets_of_a_lost_record_are_dropped(managed):
    box = managed.container("--policy", "agents")
    await_store(managed, box)
    managed.kill()
    (managed.state / f"{box.id}.json").unlink()
    managed.start()
    await_store(managed)
    assert box.sockets() == 0 and managed.told("ps") == []
    managed.told("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0


@pytest.mark.parametrize("spoil", ["lost", "foreign", "misnamed"])
def test_a_store_that_is_not_whole_is_made_whole(managed, spoil):
    """A socket is missing, is another one, or has another's name: the container is captured anew and served."""
    box, other = managed.container("--policy", "agents"), managed.container("--policy", "agents")
    await_store(managed, box, other)
    managed.kill()
    mine = next(i for i, one in enumerate(managed.store) if one[0] == kept(box))
    name, fd = managed.store.pop(mine)
    if spoil == "lost":
        os.close(fd)
    elif spoil == "foreign":
        os.close(fd)
        managed.store.append((name, os.open("/dev/null", os.O_RDONLY)))
    else:
        managed.store.append((kept(other), fd))
    managed.start()
    for one in (box, other):
        assert one.curl("https://allowed.example/").returncode == 0
        assert managed.ask("verify", one.id).returncode == 0
    wait_until(lambda: [name for name, _ in managed.store].count(kept(box)) == 9, "all of its sockets in the store")


def test_rules_that_were_changed_meanwhile_are_made_anew(managed):
    box = managed.container("--policy", "agents")
    await_store(managed, box)
    managed.kill()
    box.run("nft", "flush", "ruleset")
    managed.start()
    assert managed.ask("verify", box.id).returncode == 0
    assert box.curl("https://allowed.example/").returncode == 0


def test_a_container_that_opened_itself_meanwhile_is_not_served(managed):
    box, other = managed.container("--policy", "agents"), managed.container(enroll=False)
    await_store(managed, box)
    managed.kill()
    box.run("ip", "link", "add", "way-out", "type", "veth", "peer", "name", "way-in", "netns", other.pid)
    managed.start()
    wait_until(lambda: managed.told("ps")[0]["state"] == "failed", "the look at its links")
    assert "way-out" in managed.told("ps")[0]["failure"] and managed.ask("verify", box.id).returncode == 1
    wait_until(lambda: box.sockets() == 0, "the end of its sockets")
    assert box.curl("https://allowed.example/").returncode != 0
    await_store(managed)


def test_ports_that_changed_meanwhile_are_captured(managed):
    box = managed.container("--policy", "agents")
    await_store(managed, box)
    managed.kill()
    managed.write_policy('policies: {agents: {allow: [allowed.example, "tcp://ssh.example:2222"]}}\n')
    managed.start()
    assert managed.ask("verify", box.id).returncode == 0  # after the look
    assert "2222" in box.ruleset()
    assert box.curl("https://allowed.example/").returncode == 0


def test_the_watchdog_is_patted(make_managed):
    gateway = make_managed(watchdog_usec=200_000)
    wait_until(lambda: gateway.patted > 3, "watchdog notices")
    os.kill(gateway.process.pid, signal.SIGSTOP)
    gateway.settled()
    count = gateway.patted
    with pytest.raises(TimeoutError):
        wait_until(lambda: gateway.patted > count + 1, "a notice of a stopped monitor", 0.5)
    os.kill(gateway.process.pid, signal.SIGCONT)
    wait_until(lambda: gateway.patted > count + 1, "notices again")


def test_without_a_watchdog_nothing_is_said(managed):
    managed.process.send_signal(signal.SIGHUP)
    managed.await_notice("RELOADING=1")
    managed.await_notice("READY=1")
    assert managed.patted == 0
