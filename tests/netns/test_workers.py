"""Several workers share the containers out: each serves its own, and what happens to one is no other's business."""
import collections
import json
import os
import random
import signal
import threading

import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from lab import wait_until
from metrics import Endpoint, value
from network_fixtures import NETWORK_POLICY, bridge, capture  # noqa: F401
from origins import address
from test_admin import PLAIN
from test_gateway_daemon import ask_again, hold_flow
from test_gateway_upgrade import Foreign, Load, await_elders, upgrade

TWO = ", workers: 2"


@pytest.fixture
def gateway(make_gateway):  # noqa: F811
    return make_gateway(settings=TWO)


def workers_of(gateway):
    """{worker, from 1: the ids of its containers}"""
    shared = collections.defaultdict(list)
    for box in gateway.told("ps"):
        shared[box["worker"]].append(box["id"])
    return dict(shared)


def writers(gateway):
    """{container: the workers that wrote of it}"""
    wrote = collections.defaultdict(set)
    for event in gateway.audit(complete=False):
        wrote[event["container.id"]].add(event["sallyport.worker"])
    return dict(wrote)


def gaps(gateway):
    """Places where a worker's numbers do not go on, in the order they are in the file; each worker's first is none."""
    last, found = {}, []
    for event in gateway.audit(complete=False):
        worker, number = event["sallyport.worker"], event["event.sequence"]
        if worker in last and number != last[worker] + 1:
            found.append((worker, last[worker], number))
        last[worker] = number
    return found


@pytest.mark.smoke
def test_containers_are_shared_out_and_all_are_served(gateway):
    boxes = [gateway.container("--policy", "agents") for _ in range(5)]
    assert workers_of(gateway) == {1: ["box-1", "box-3", "box-5"], 2: ["box-2", "box-4"]}
    status = gateway.status()
    assert [worker["captures"] for worker in status["workers"]] == [3, 2] and all(w["ready"] for w in status["workers"])
    assert len(set(gateway.workers())) == 2 and gateway.worker() == gateway.workers()[0]
    text = gateway.ask("status").stdout
    assert "workers {} {}".format(*gateway.workers()) in text, text
    for box in boxes:
        assert box.curl("https://allowed.example/").stdout.startswith("allowed.example")
        assert box.curl("https://denied.example/").returncode != 0
        assert gateway.ask("verify", box.id).returncode == 0
    gateway.await_event(lambda audit: len(audit.ended("allowed.example")) == 5 and len(audit.dns_denied()) == 1)
    assert writers(gateway) == {"box-1": {1}, "box-2": {2}, "box-3": {1}, "box-4": {2}, "box-5": {1}}
    assert not gaps(gateway)
    gateway.told("withdraw", "box-1")
    gateway.told("withdraw", "box-3")
    gateway.container("--policy", "agents")
    assert workers_of(gateway)[1] == ["box-5", "box-6"], "the one with fewest has the next"


def test_one_worker_is_as_ever(make_gateway):
    """No trace of there being more in events and answers."""
    gateway = make_gateway(settings=", workers: 1")
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    gateway.await_event(lambda audit: audit.ended("allowed.example"))
    assert not any("sallyport.worker" in event for event in gateway.audit(complete=False))
    assert "worker" not in gateway.told("ps")[0] and len(gateway.workers()) == 1


def test_auto_is_one_for_each_processor(make_gateway):
    gateway = make_gateway(settings=", workers: auto")
    assert len(gateway.workers()) == min(32, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("how", ["deny", "policy", "reload"])
def test_a_change_reaches_the_flows_of_every_worker_before_it_is_answered(gateway, how):
    boxes = [gateway.container("--policy", "agents") for _ in range(4)]
    flows = [hold_flow(box) for box in boxes]
    assert {tuple(ids) for ids in workers_of(gateway).values()} == {("box-1", "box-3"), ("box-2", "box-4")}
    if how == "deny":
        for box in boxes:
            gateway.told("deny", box.id, "allowed.example")
    elif how == "policy":
        gateway.told("deny", "--policy", "agents", "allowed.example")
    else:
        gateway.write_policy("policies:\n  agents: {allow: [big.example]}\n")
        gateway.told("reload")
    ends = gateway.audit(complete=False).ended("allowed.example")
    for flow, box in zip(flows, boxes):
        assert ask_again(flow) != "HTTP/1.1 200 OK"
        assert box.curl("https://allowed.example/").returncode != 0
        assert box.curl("https://big.example/").returncode == 0
        flow.kill()
    gateway.await_event(lambda audit: len(audit.ended("allowed.example")) == 4)
    assert {event["sallyport.worker"] for event in gateway.audit(complete=False).ended("allowed.example")} == {1, 2}, ends


def test_reload_waits_for_the_slowest_worker(gateway):
    """One that is stopped has not judged its flows: nobody is told that it is in force."""
    boxes = [gateway.container("--policy", "agents") for _ in range(2)]
    flow = hold_flow(boxes[1])
    second = gateway.workers()[1]
    os.kill(second, signal.SIGSTOP)
    gateway.write_policy("policies:\n  agents: {allow: [big.example]}\n")
    answers = []
    asking = threading.Thread(target=lambda: answers.append(gateway.told("reload")))
    asking.start()
    try:
        # The first worker has it, as its container sees.
        wait_until(lambda: boxes[0].curl("https://allowed.example/").returncode != 0, "the new policy at the first worker")
        assert not answers and asking.is_alive()
    finally:
        os.kill(second, signal.SIGCONT)
        asking.join()
    assert answers and ask_again(flow) != "HTTP/1.1 200 OK"
    flow.kill()


@pytest.mark.smoke
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_killed_takes_its_own_flows_alone(gateway, victim):
    boxes = [gateway.container("--policy", "agents") for _ in range(4)]
    flows = [hold_flow(box) for box in boxes]
    theirs = [i for i in range(4) if i % 2 == victim]
    spared = [i for i in range(4) if i % 2 != victim]
    before = gateway.status()
    load = Load(boxes[spared[0]], "https://allowed.example/", 2)
    load.more(2)
    os.kill(gateway.workers()[victim], signal.SIGKILL)
    load.more(6)
    wait_until(lambda: gateway.status()["worker_restarts"] == 1 and gateway.status()["ready"], "its successor")
    load.end()  # none failed
    for i in spared:
        assert ask_again(flows[i]) == "HTTP/1.1 200 OK"
    for i in theirs:
        assert ask_again(flows[i]) != "HTTP/1.1 200 OK"
        assert boxes[i].curl("https://allowed.example/").returncode == 0
    assert f"connections wait (worker {victim + 1} of 2)" in gateway.log()
    after = gateway.workers()
    assert after[1 - victim] == before["workers"][1 - victim]["pid"] and after[victim] != before["workers"][victim]["pid"]
    assert workers_of(gateway) == {1: ["box-1", "box-3"], 2: ["box-2", "box-4"]}, "whose it was, it is"
    for flow in flows:
        flow.kill()


def test_while_one_worker_is_away_the_gateway_says_so_and_its_containers_wait(gateway):
    boxes = [gateway.container("--policy", "agents") for _ in range(2)]
    second = gateway.workers()[1]
    os.kill(gateway.process.pid, signal.SIGSTOP)  # so that it has no successor yet
    os.kill(second, signal.SIGKILL)
    waiting = boxes[1].start("curl", "-sS", "--max-time", "20", "https://allowed.example/")
    assert boxes[0].curl("https://allowed.example/").returncode == 0
    assert waiting.poll() is None
    os.kill(gateway.process.pid, signal.SIGCONT)
    out, err = waiting.communicate(timeout=20)
    assert out.startswith("allowed.example"), err
    wait_until(lambda: gateway.status()["ready"], "the successor")


@pytest.mark.smoke
def test_an_upgrade_under_load_loses_nothing(gateway):
    boxes = [gateway.container("--policy", "agents") for _ in range(4)]
    flows = [hold_flow(box) for box in boxes]
    loads = [Load(box, "https://allowed.example/", 1) for box in boxes]
    for _ in range(2):
        for load in loads:
            load.more(3)
        upgrade(gateway)
    for load in loads:
        load.more(3)
        load.end()
    assert gateway.status()["draining_workers"] == 2, "both of the first gateway have flows"
    for flow in flows:
        assert ask_again(flow) == "HTTP/1.1 200 OK"
        flow.stdin.close()
        assert flow.wait(10) == 0
    await_elders(gateway, 0)
    numbers = [event["event.sequence"] for event in gateway.audit(complete=False)]
    assert len(numbers) == len(set(numbers)), "no number twice"


def kill_if_there(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it had nothing left to do after the upgrade


def upgrade_or_stay(gateway):
    """Both are right when a worker dies meanwhile."""
    before, done = gateway.process, gateway.ask("upgrade", "--json")
    if done.returncode == 0:
        assert before.wait(20) == 0
        gateway.process = Foreign(json.loads(done.stdout)["monitor"])
    else:
        assert "the gateway that ran runs on" in done.stderr, done


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_is_killed_at_any_instant_of_an_upgrade_a_reload_or_a_change(make_gateway, seed):
    """Whatever comes of it: it is answered, all containers are served afterwards, and are shared out evenly still."""
    chance = random.Random(seed)
    gateway = make_gateway(settings=", workers: 3")
    boxes = [gateway.container("--policy", "agents") for _ in range(6)]
    for turn in range(8):
        what = chance.choice(["upgrade", "upgrade", "reload", "deny"])
        killer = threading.Timer(chance.random() * 0.06, kill_if_there, [chance.choice(gateway.workers())])
        killer.start()
        if what == "upgrade":
            upgrade_or_stay(gateway)
        elif what == "reload":
            gateway.told("reload")
        else:
            gateway.told("deny", "--policy", "agents", f"number-{turn}.example")
        killer.join()
        wait_until(lambda: gateway.status()["ready"], f"it to be ready after {what}", 20)
        for box in boxes:
            assert box.curl("https://allowed.example/").returncode == 0, (turn, what, gateway.log())
        assert [worker["captures"] for worker in gateway.status()["workers"]] == [2, 2, 2]
    assert gateway.stop() == 0


@pytest.mark.parametrize("before, after", [(1, 3), (3, 1), (2, 2)])
def test_another_number_comes_with_an_upgrade(make_gateway, before, after):
    gateway = make_gateway(settings=f", workers: {before}")
    boxes = [gateway.container("--policy", "agents") for _ in range(3)]
    flow = hold_flow(boxes[2])
    gateway.settings = f", workers: {after}"
    gateway.write_policy("policies:\n  agents: {allow: [allowed.example]}\n")
    told = gateway.told("reload")
    assert len(gateway.workers()) == before
    assert ("warning" in told) == (before != after), told
    assert ("comes into force with 'sallyport upgrade'" in gateway.log()) == (before != after)
    upgrade(gateway)
    assert len(gateway.workers()) == after
    for box in boxes:
        assert box.curl("https://allowed.example/").returncode == 0
    assert sorted(worker["captures"] for worker in gateway.status()["workers"]) == ([1, 1, 1] if after == 3 else [3] if after == 1 else [1, 2])
    assert ask_again(flow) == "HTTP/1.1 200 OK"
    flow.kill()


def test_the_total_of_flows_holds_for_all_together(make_gateway):
    gateway = make_gateway(settings=", workers: 2, limits: {flows_total: 4}")
    boxes = [gateway.container("--policy", "agents") for _ in range(2)]
    flows = [hold_flow(box) for box in (boxes[0], boxes[0], boxes[1], boxes[1])]
    for box in boxes:
        assert box.curl("https://allowed.example/").returncode != 0
    gateway.await_event(lambda audit: len(audit.where(event_reason="limit_connections")) >= 2)  # curl may try another address
    flows[0].stdin.close()
    assert flows[0].wait(10) == 0
    wait_until(lambda: gateway.status()["flows_active"] == 3, "room")
    assert boxes[1].curl("https://allowed.example/").returncode == 0, "room that the other worker's container left"
    for flow in flows[1:]:
        flow.kill()


def test_flows_of_a_killed_worker_count_no_more(make_gateway):
    gateway = make_gateway(settings=", workers: 2, limits: {flows_total: 2}")
    boxes = [gateway.container("--policy", "agents") for _ in range(2)]
    flows = [hold_flow(boxes[1]) for _ in range(2)]
    assert boxes[0].curl("https://allowed.example/").returncode != 0
    os.kill(gateway.workers()[1], signal.SIGKILL)
    wait_until(lambda: gateway.status()["flows_active"] == 0, "nothing of it")
    assert boxes[0].curl("https://allowed.example/").returncode == 0
    for flow in flows:
        flow.kill()


def test_admin_endpoint_and_metrics_are_of_all(make_gateway):
    gateway = make_gateway(settings=TWO + PLAIN)
    endpoint = Endpoint(gateway)
    boxes = [gateway.container("--policy", "agents") for _ in range(2)]
    for box in boxes:
        assert box.curl("https://allowed.example/").returncode == 0
    wait_until(lambda: value(endpoint.metrics(), "flows_active") == 0, "their ends")
    counted = endpoint.metrics()
    assert value(counted, "workers") == 2 and value(counted, "worker_ready") == 1 and value(counted, "flows_total") == 2
    for victim in (1, 0):
        os.kill(gateway.workers()[victim], signal.SIGKILL)
        wait_until(lambda: value_or_none(endpoint) == 2 - victim, "its successor")
    assert value(endpoint.metrics(), "flows_total") == 2 and endpoint.status("/readyz") == 200


def value_or_none(endpoint):
    """Restarts, when all are ready again; the endpoint itself may be away."""
    done = endpoint.curl("/metrics", "--fail")
    if done.returncode or "sallyport_worker_ready 1" not in done.stdout:
        return None
    return int(done.stdout.split("sallyport_worker_restarts_total ")[1].split()[0])


def test_rotation_reaches_all(gateway):
    boxes = [gateway.container("--policy", "agents") for _ in range(2)]
    rotated = gateway.audit_path.with_suffix(".1")
    for box in boxes:
        box.curl("https://allowed.example/")
    gateway.await_event(lambda audit: len(audit.ended("allowed.example")) == 2)
    os.rename(gateway.audit_path, rotated)
    gateway.process.send_signal(signal.SIGUSR1)
    wait_until(gateway.audit_path.exists, "the new file")
    size = rotated.stat().st_size

    def both_write_there():
        for box in boxes:
            box.curl("https://allowed.example/")
        lines = gateway.audit_path.read_text().splitlines()
        return {json.loads(line)["sallyport"]["worker"] for line in lines} == {1, 2}
    wait_until(both_write_there, "events of both in the new file")
    old = [json.loads(line) for line in rotated.read_text().splitlines()]
    assert rotated.stat().st_size >= size and {event["sallyport"]["worker"] for event in old} == {1, 2}


def test_many_workers(make_gateway):
    gateway = make_gateway(settings=", workers: 8")
    boxes = [gateway.container("--policy", "agents") for _ in range(24)]
    assert [worker["captures"] for worker in gateway.status()["workers"]] == [3] * 8
    gateway.kill()
    gateway.start()
    assert [worker["captures"] for worker in gateway.status()["workers"]] == [3] * 8
    for box in boxes:
        assert box.curl("https://allowed.example/").returncode == 0
    gateway.await_new_worker(gateway.kill_worker(), seconds=10)
    for box in boxes:
        assert box.curl("https://allowed.example/").returncode == 0
    assert gateway.stop() == 0


# --- a captured network: one port, a listener for each worker ------------------------------------------------------

ANY_POLICY = NETWORK_POLICY.replace("172.28.0.0/29", "172.28.0.0/24").replace("2001:db8:28::/125", "2001:db8:28::/64")


@pytest.fixture
def shared(bridge, capture, make_gateway):  # noqa: F811
    if capture == "tproxy":
        bridge.netfilter(False)
    return make_gateway(ANY_POLICY % f", capture: {capture}", settings=TWO)


def worker_of_source(gateway, box):
    """Which worker wrote of it, all of it."""
    sources = set(box.address.values())
    found = {event["sallyport.worker"] for event in gateway.audit(complete=False)
             if event["source.ip"] in sources and event["event.action"].startswith(("flow", "dns"))}
    assert len(found) == 1, found
    return found.pop()


def speak_over_everything(box):
    """TLS over both families, DNS over UDP and TCP, and a port that is known by its DNS answer alone."""
    for family in (4, 6):
        assert box.curl("https://allowed.example/", f"-{family}").stdout.startswith("allowed.example")
    for option in ("+notcp", "+tcp"):
        assert "NXDOMAIN" in box.do("dig", option, f"@{address('name-server.example', 6)}", "denied.example").stdout
    box.do("dig", "+short", "ssh.example", "AAAA")
    told = box.do("bash", "-c", 'exec 3<>"/dev/tcp/$0/22"; head -c 7 <&3', address("ssh.example", 6))
    assert told.stdout == "SSH-2.0", told


def box_of_each_worker(gateway, bridge):
    """Containers until each worker has one."""
    boxes = {}
    for _ in range(24):
        box = bridge.container()
        speak_over_everything(box)
        gateway.await_event(lambda audit: audit.where(source_ip=box.address[4], event_action="flow-ended"))
        boxes.setdefault(worker_of_source(gateway, box), box)
        if len(boxes) == 2:
            return boxes[1], boxes[2]
    raise AssertionError("24 containers, and all are one worker's")


def test_containers_of_a_network_are_shared_out_and_each_stays_whole(shared, bridge):
    boxes = box_of_each_worker(shared, bridge)
    for box in boxes:
        for _ in range(3):
            speak_over_everything(box)
    shared.await_event(lambda audit: len(audit.where(destination_domain="ssh.example", event_action="flow-ended")) >= 8)
    assert [worker_of_source(shared, box) for box in boxes] == [1, 2]
    assert not gaps(shared)


def test_what_comes_for_a_dead_worker_of_a_network_waits(shared, bridge):
    boxes = box_of_each_worker(shared, bridge)
    for victim in (0, 1):
        restarts = shared.status()["worker_restarts"]
        os.kill(shared.workers()[victim], signal.SIGKILL)
        for box in boxes:
            assert box.curl("https://allowed.example/", "-4").returncode == 0
        wait_until(lambda: shared.status()["worker_restarts"] == restarts + 1 and shared.status()["ready"], "its successor")
    for box in boxes:
        speak_over_everything(box)
    assert [worker_of_source(shared, box) for box in boxes] == [1, 2]


def test_a_network_changes_hands_whatever_the_number(shared, bridge):
    boxes = box_of_each_worker(shared, bridge)
    loads = [Load(box, "https://allowed.example/", 1, "-4") for box in boxes]
    for count in (3, 1, 2):
        shared.settings = f", workers: {count}"
        shared.write_policy(ANY_POLICY % (", capture: tproxy" if "tproxy" in shared.config.read_text() else ", capture: redirect"))
        for load in loads:
            load.more(2)
        upgrade(shared)
        assert len(shared.workers()) == count
        assert [network["served"] for network in shared.status()["networks"]] == [True]
        for load in loads:
            load.more(2)
    for load in loads:
        load.end()
    for box in boxes:
        speak_over_everything(box)


def test_a_network_that_is_not_captured_any_more_leaves_every_worker(shared, bridge):
    boxes = box_of_each_worker(shared, bridge)
    shared.write_policy("policies:\n  agents: {allow: [allowed.example]}\n")
    shared.told("reload")
    wait_until(lambda: shared.status()["networks"] == [], "its end")
    for box in boxes:
        assert box.do(*bridge.lab.client, "connect", address("denied.example"), "443").stdout.startswith("connected")
    shared.write_policy(ANY_POLICY % "")
    shared.told("reload")
    for box in boxes:
        speak_over_everything(box)
