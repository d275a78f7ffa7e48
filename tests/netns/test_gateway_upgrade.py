"""A gateway takes the place of a running one: nothing is refused, nothing is lost, and whatever goes wrong the old one stays."""
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import threading

import pytest

from gateway_fixtures import POLICY, gateway, make_gateway  # noqa: F401
from lab import TIMEOUT, wait_until
from metrics import Endpoint, value
from origins import NAME_SERVER, address
from service_manager import ManagedGateway
from test_admin import PLAIN
from test_gateway_daemon import ask_again, hold_flow
from test_publish import CALL, enroll, serve

CUT = ("ConnectionResetError", "SSLEOFError", "BrokenPipeError")


ASK_API = """
import socket, sys
asking = socket.socket(socket.AF_UNIX)
asking.connect(sys.argv[1])
asking.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
answer = b""
while more := asking.recv(4096): answer += more
sys.exit(0 if b" 200 " in answer else repr(answer))
"""


class Foreign:
    """A process that is not our child, with what tests do to a Popen."""

    def __init__(self, pid):
        self.pid, self.fd = pid, os.pidfd_open(pid)

    def _ended(self, seconds):
        ended = select.poll()
        ended.register(self.fd, select.POLLIN)
        return bool(ended.poll(seconds * 1000))

    def poll(self):
        return 0 if self._ended(0) else None

    def wait(self, timeout=TIMEOUT):
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return 0

    def send_signal(self, number):
        signal.pidfd_send_signal(self.fd, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


def upgrade(gateway):
    before = gateway.process
    told = gateway.told("upgrade")
    assert before.wait(10) == 0
    gateway.process = Foreign(told["monitor"])
    assert gateway.status()["monitor"] == told["monitor"]


def await_elders(gateway, count):
    wait_until(lambda: gateway.status()["draining_workers"] == count, f"{count} draining workers")


class Load:
    """Clients in a container that fetch without a pause; what failed."""

    def __init__(self, box, url, count, *options):
        self.box, self.url, self.options = box, url, options
        self.done, self.failed, self.ending = 0, [], False
        self.threads = [threading.Thread(target=self.run) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.ending:
            result = self.box.curl(self.url, *self.options)
            self.done += 1
            if result.returncode != 0:
                self.failed.append(result)

    def more(self, count):
        goal = self.done + count
        wait_until(lambda: self.done >= goal or self.failed, f"{count} more fetches", TIMEOUT)

    def end(self):
        self.ending = True
        for thread in self.threads:
            thread.join()
        assert not self.failed, self.failed[:3]


# --- what goes well ------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_flows_go_on_and_new_ones_have_the_new_worker(gateway):
    box = gateway.container("--policy", "agents")
    flow, before, sockets = hold_flow(box), gateway.status(), box.sockets()
    upgrade(gateway)
    after = gateway.status()
    assert after["worker"] != before["worker"] and after["ready"]
    await_elders(gateway, 1)
    assert "1 worker of before an upgrade still with flows" in gateway.ask("status").stdout
    assert ask_again(flow) == "HTTP/1.1 200 OK"
    assert box.curl("https://allowed.example/").returncode == 0
    assert box.curl("https://denied.example/").returncode != 0
    assert gateway.ask("verify", box.id).returncode == 0 and box.sockets() == sockets
    assert [one["id"] for one in gateway.told("ps")] == [box.id]
    flow.stdin.close()
    assert flow.wait(10) == 0
    await_elders(gateway, 0)
    wait_until(lambda: not os.path.exists(f"/proc/{before['worker']}"), "the end of the old worker")
    ended = [event["event.id"] for event in gateway.audit(complete=False).ended("allowed.example")]
    assert len(ended) == len(set(ended)) == 2, "two workers, one log, no id twice"
    numbers = sorted(event["event.sequence"] for event in gateway.audit(complete=False))
    series = [number for number in numbers if number - 1 not in numbers]
    assert len(numbers) == len(set(numbers)) and len(series) == 2, f"each worker's numbers without a gap: {numbers}"


def test_nothing_is_lost_under_load(gateway):
    boxes = [gateway.container("--policy", "agents") for _ in range(3)]
    loads = [Load(box, "https://allowed.example/", 2) for box in boxes]
    noise = os.urandom(24 << 20)
    (gateway.lab.folder / "www/files/part").write_bytes(noise)
    download = boxes[0].start("sh", "-c", "curl -sS --limit-rate 3M https://big.example/files/part | sha256sum")
    for _ in range(4):
        for load in loads:
            load.more(4)
        upgrade(gateway)
    for load in loads:
        load.more(4)
    assert gateway.status()["ready"]
    for load in loads:
        load.end()
    out, err = download.communicate(timeout=TIMEOUT)
    assert out.split()[0] == hashlib.sha256(noise).hexdigest(), err


def test_metrics_go_on_over_an_upgrade(make_gateway, lab):
    """One page for both workers: counters go on, and what the old worker's flows still do is counted; ready all the time."""
    gateway = make_gateway(settings=PLAIN)
    endpoint, box = Endpoint(gateway), gateway.container("--policy", "agents")
    flow = hold_flow(box)
    assert box.curl("https://denied.example/", "--resolve", f"denied.example:443:{address('denied.example')}").returncode != 0
    before = endpoint.metrics()
    assert value(before, "flows_active") == 1
    ready, ended = [], threading.Event()

    def watch():
        while not ended.is_set():
            ready.append(endpoint.status("/readyz"))
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(2):
        upgrade(gateway)
    ended.set()
    watcher.join()
    assert set(ready) == {200}, ready
    after = endpoint.metrics()
    for (name, labels), number in before.items():
        if name.endswith(("_total", "_count", "_bucket")):
            assert after[name, labels] >= number, name
    assert value(after, "flows_active") == 1 and value(after, "containers") == 1 and value(after, "worker_restarts_total") == 0
    up = value(after, "transferred_bytes_total", direction="up")
    assert ask_again(flow) == "HTTP/1.1 200 OK"
    assert value(endpoint.metrics(), "transferred_bytes_total", direction="up") > up  # by the worker of two gateways ago
    assert box.curl("https://allowed.example/").returncode == 0
    flow.stdin.close()
    assert flow.wait(10) == 0
    await_elders(gateway, 0)
    wait_until(lambda: value(endpoint.metrics(), "flows_active") == 0, "no flow is up any more")
    counted = endpoint.metrics()
    assert value(counted, "flows_total") == 3
    gateway.await_event(lambda events: len(events.all) == value(counted, "audit_events_total"))
    events = gateway.audit(complete=False)  # of three workers, each with a sequence of its own
    assert value(counted, "transferred_bytes_total", direction="down") == sum(
        event.get("destination.bytes", 0) for event in events if event["event.action"] == "flow-ended")


def test_an_old_worker_that_is_killed_leaves_no_flows_in_the_metrics(make_gateway):
    gateway = make_gateway(settings=PLAIN)
    endpoint, box = Endpoint(gateway), gateway.container("--policy", "agents")
    flow, old = hold_flow(box), gateway.worker()
    upgrade(gateway)
    assert value(endpoint.metrics(), "flows_active") == 1
    os.kill(old, signal.SIGKILL)
    await_elders(gateway, 0)
    wait_until(lambda: value(endpoint.metrics(), "flows_active") == 0, "the flow forgotten")
    flow.kill()


def test_requests_wait_while_it_changes_hands(gateway):
    failed = []

    def enroll_and_withdraw(number):
        for _ in range(6):
            box = gateway.container(enroll=False)
            for words in (["enroll", "--pid", box.pid, "--id", f"many-{number}"], ["verify", f"many-{number}"],
                          ["withdraw", f"many-{number}"]):
                done = gateway.ask(*words)
                if done.returncode:
                    failed.append(done)
            box.close()

    threads = [threading.Thread(target=enroll_and_withdraw, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        upgrade(gateway)
    for thread in threads:
        thread.join()
    assert not failed, failed
    assert gateway.told("ps") == [] and list(gateway.state.glob("*.json")) == []


def test_the_new_configuration_judges_old_flows(gateway):
    box = gateway.container("--policy", "agents")
    kept, cut = hold_flow(box, "allowed.example"), hold_flow(box, "sub.wild.example")
    gateway.write_policy('policies: {agents: {allow: [allowed.example, denied.example, "tcp://ssh.example:2222"]}}\n')
    upgrade(gateway)
    assert box.curl("https://denied.example/").returncode == 0
    assert ask_again(kept) == "HTTP/1.1 200 OK"
    wait_until(lambda: ask_again(cut) in CUT, "the end of what is denied now")
    assert gateway.ask("verify", box.id).returncode == 0 and "2222" in box.ruleset()
    kept.kill()
    cut.kill()


def test_old_flows_stay_under_the_policy_in_force(gateway):
    box, other = gateway.container("--policy", "agents"), gateway.container("--policy", "agents")
    kept, cut, elsewhere = hold_flow(box), hold_flow(box, "sub.wild.example"), hold_flow(other)
    upgrade(gateway)
    gateway.write_policy('policies: {agents: {allow: [allowed.example]}}\n')
    gateway.told("reload")
    wait_until(lambda: ask_again(cut) in CUT, "the end of what the reload denies")
    assert ask_again(elsewhere) == "HTTP/1.1 200 OK"
    gateway.told("withdraw", other.id)
    wait_until(lambda: ask_again(elsewhere) in CUT, "the end of what is withdrawn")
    assert ask_again(kept) == "HTTP/1.1 200 OK"
    gateway.told("deny", box.id, "allowed.example")
    wait_until(lambda: ask_again(kept) in CUT, "the end of what is denied by hand")
    await_elders(gateway, 0)
    for flow in (kept, cut, elsewhere):
        flow.kill()


def test_again_and_again(gateway):
    box = gateway.container("--policy", "agents")
    flows = []
    for count in range(1, 4):
        flows.append(hold_flow(box))
        upgrade(gateway)
        await_elders(gateway, count)
    assert [ask_again(flow) for flow in flows] == ["HTTP/1.1 200 OK"] * 3
    assert gateway.ask("verify", box.id).returncode == 0
    old = gateway.audit_path.rename(gateway.folder / "audit.old")
    gateway.process.send_signal(signal.SIGUSR1)
    wait_until(gateway.audit_path.exists, "the new audit file")
    gateway.told("ps")
    for flow in flows:
        flow.stdin.close()
        assert flow.wait(10) == 0
    await_elders(gateway, 0)
    box.curl("https://allowed.example/")
    wait_until(lambda: len(gateway.audit(complete=False).ended("allowed.example")) == 4, "all ends in the new file")
    assert "allowed.example" in old.read_text()


def test_sigterm_afterwards_drains_the_old_flows_too(make_gateway):
    gateway = make_gateway(options=["--drain", "20"])
    box = gateway.container("--policy", "agents")
    flow = hold_flow(box)
    upgrade(gateway)
    gateway.process.terminate()
    gateway.await_notice("STOPPING=1")
    assert ask_again(flow) == "HTTP/1.1 200 OK" and gateway.process.poll() is None
    flow.stdin.close()
    assert flow.wait(10) == 0
    gateway.process.wait(5)
    assert not gateway.control.exists() and (gateway.state / f"{box.id}.json").exists()
    audit = gateway.audit(complete=False)  # of two workers at the same time, each with numbers of its own
    assert len(audit.where(event_action="flow-allowed")) == len(audit.where(event_action="flow-ended")) == 1


def test_what_listens_on_the_host_changes_hands_too(make_gateway):
    """Published ports, the admin endpoint, the HTTP API: the same sockets, so nobody is refused while it happens."""
    gateway = make_gateway(settings=", admin: {listen: 127.0.0.1:9464}")
    box = gateway.container(enroll=False)
    server = serve(box, 80)
    assert enroll(gateway, box, "8080:80").returncode == 0
    calls = [(["curl", "-sS", "--fail", "--max-time", "20", "http://127.0.0.1:9464/metrics"], True),
             (["python3", "-c", ASK_API, str(gateway.api)], False),
             (["python3", "-c", CALL, "127.0.0.1", "8080"], True)]
    done, failed, ending = [0] * len(calls), [], threading.Event()

    def call(i, line, on_host):
        while not ending.is_set():
            result = subprocess.run(gateway.lab.host.enter(line) if on_host else line, capture_output=True, text=True)
            done[i] += 1
            if result.returncode:
                failed.append(result)

    threads = [threading.Thread(target=call, args=(i, *one)) for i, one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        goal = [count + 3 for count in done]
        wait_until(lambda: failed or all(count >= least for count, least in zip(done, goal)), "calls", TIMEOUT)
        upgrade(gateway)
    goal = [count + 3 for count in done]
    wait_until(lambda: failed or all(count >= least for count, least in zip(done, goal)), "calls", TIMEOUT)
    ending.set()
    for thread in threads:
        thread.join()
    assert not failed, failed[:3]
    server.kill()


def test_by_hand(gateway):
    """What `upgrade` has the gateway do may also be started by somebody else."""
    box = gateway.container("--policy", "agents")
    old = gateway.process
    gateway.options = ["--take-over"]
    gateway.start()
    assert old.wait(10) == 0 and gateway.status()["monitor"] == gateway.process.pid
    assert box.curl("https://allowed.example/").returncode == 0


def test_the_service_manager_is_told_and_keeps_the_sockets(lab):
    gateway = ManagedGateway(lab, POLICY).start()
    try:
        box = gateway.container("--policy", "agents")
        wait_until(lambda: gateway.names() == {"_control", f"{box.inode():x}"}, "the store")
        upgrade(gateway)
        lines = gateway.await_notice("READY=1")
        assert f"MAINPID={gateway.process.pid}" in lines
        gateway.process.kill()
        gateway.process.wait()
        gateway.start()
        assert box.curl("https://allowed.example/").returncode == 0
        assert gateway.ask("verify", box.id).returncode == 0
    finally:
        gateway.close()


# --- what goes wrong -----------------------------------------------------------------------------------------------

def assert_as_before(gateway, box, flow, before):
    now = gateway.status()
    assert now["monitor"] == before["monitor"] and now["ready"]
    assert ask_again(flow) == "HTTP/1.1 200 OK"
    assert box.curl("https://allowed.example/").returncode == 0
    assert gateway.ask("verify", box.id).returncode == 0
    other = gateway.container("--policy", "agents")
    assert other.curl("https://allowed.example/").returncode == 0
    flow.kill()


def test_a_broken_configuration_changes_nothing(gateway):
    box = gateway.container("--policy", "agents")
    flow, before = hold_flow(box), gateway.status()
    gateway.write_policy("policies: {agents: {allow: [bad name]}}\n")
    done = gateway.ask("upgrade")
    assert done.returncode == 1 and "ended with status 2" in done.stderr and "runs on" in done.stderr, done
    assert "policy.yaml:4:" in gateway.log()
    gateway.write_policy(POLICY)
    assert_as_before(gateway, box, flow, before)
    upgrade(gateway)


@pytest.mark.parametrize("program, hint", [("#!/bin/sh\nexit 3\n", "status 3"), ("#!/bin/sh\nkill -SEGV $$\n", "signal 11"),
                                           ("no program", "status 127"), (None, "status 127")])
def test_a_broken_program_changes_nothing(make_gateway, program, hint):
    gateway = make_gateway(start=False)
    own = gateway.folder / "sallyport"
    shutil.copy(gateway.lab.binary, own)
    gateway.command = lambda ask=gateway.command: [str(own), *ask()[1:]]
    gateway.start()
    box = gateway.container("--policy", "agents")
    flow, before = hold_flow(box), gateway.status()
    own.unlink()
    if program:
        own.write_text(program)
        own.chmod(0o755)
    done = gateway.ask("upgrade")
    assert done.returncode == 1 and hint in done.stderr, done
    assert_as_before(gateway, box, flow, before)


class Impostor:
    """An heir that gets as far as it is told to."""

    def __init__(self, gateway):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        self.socket.connect(str(gateway.control))
        self.names = set()
        self.socket.send(b'{"do": "take-over"}')

    def take(self):
        assert json.loads(self.socket.recv(4096))["ok"]
        while True:
            data, fds, _, _ = socket.recv_fds(self.socket, 4096, 16)
            for fd in fds:
                os.close(fd)
            if data == b".":
                return self
            self.names.add(data.decode())

    def commit(self):
        self.socket.send(b"commit")
        assert self.socket.recv(100) == b"yours"


@pytest.mark.parametrize("how_far", ["asked", "took", "babbled", "committed"])
def test_an_heir_that_dies_changes_nothing(gateway, how_far):
    box = gateway.container("--policy", "agents")
    flow, before = hold_flow(box), gateway.status()
    heir = Impostor(gateway)
    if how_far != "asked":
        heir.take()
        assert {"_state", "_control", "_worker", f"{box.inode():x}"} <= heir.names
    if how_far == "babbled":
        heir.socket.send(b"done")
        assert heir.socket.recv(100) == b""
    if how_far == "committed":
        heir.commit()
    heir.socket.close()
    wait_until(lambda: "not taken over" in gateway.log(), "the old one's word")
    if how_far == "committed":
        await_elders(gateway, 1)
        wait_until(lambda: gateway.status()["ready"], "a worker")
    assert_as_before(gateway, box, flow, before)
    upgrade(gateway)
    assert box.curl("https://allowed.example/").returncode == 0


def test_a_second_heir_waits_for_its_turn_or_is_refused(gateway):
    box = gateway.container("--policy", "agents")
    first = Impostor(gateway).take()
    second = Impostor(gateway)  # in the queue of the control socket
    first.socket.close()
    assert f"{box.inode():x}" in second.take().names
    second.socket.close()
    wait_until(lambda: gateway.log().count("not taken over") == 2, "both are gone")
    assert gateway.status()["ready"]


def test_the_old_worker_dies_while_it_changes_hands(gateway):
    box = gateway.container("--policy", "agents")
    before = gateway.status()
    heir = Impostor(gateway).take()
    os.kill(before["worker"], signal.SIGKILL)
    assert heir.socket.recv(100) == b""
    heir.socket.close()
    assert box.curl("https://allowed.example/").returncode == 0
    assert gateway.status()["monitor"] == before["monitor"]


def test_sigterm_while_it_changes_hands_ends_the_old_one(gateway):
    heir = Impostor(gateway).take()
    gateway.process.terminate()
    assert gateway.process.wait(10) == 0 and heir.socket.recv(100) == b""
    heir.socket.close()


def test_a_reload_while_it_changes_hands_is_not_forgotten(gateway):
    box = gateway.container("--policy", "agents")
    heir = Impostor(gateway).take()
    gateway.write_policy("policies: {agents: {allow: [denied.example]}}\n")
    gateway.process.send_signal(signal.SIGHUP)
    heir.socket.close()
    wait_until(lambda: box.curl("https://denied.example/").returncode == 0, "the new policy")


@pytest.mark.parametrize("options, hint", [(["--control", "/nonexistent/sock"], "no gateway answers"),
                                           (["--state", "/var/empty-state"], "another state folder")])
def test_taking_over_by_hand_fails_with_a_reason(gateway, options, hint):
    box = gateway.container("--policy", "agents")
    words = {"-c": gateway.config, "--control": gateway.control, "--state": gateway.state} | dict([options])
    line = [word for pair in words.items() for word in pair]
    done = gateway.lab.direct([gateway.lab.binary, "gateway", "--take-over", *line])
    assert done.status == 1 and hint in done.err, done
    assert gateway.control.exists() and gateway.status()["monitor"] == gateway.process.pid
    assert box.curl("https://allowed.example/").returncode == 0


class LateServer:
    """A name server of several addresses that answers when it is told to; what is asked again meanwhile is answered as well."""

    ADDRESSES = [f"198.18.0.{n}" for n in range(56, 60)]

    def __init__(self, lab):
        self.sockets = []
        for one in self.ADDRESSES:
            lab.internet.run("ip", "addr", "replace", f"{one}/32", "dev", "lo")
            self.sockets.append(lab.internet.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            self.sockets[-1].bind((one, 53))

    def await_question(self):
        assert select.select(self.sockets, [], [], TIMEOUT)[0], "nobody asked"

    def answer(self, answer):
        for one in select.select(self.sockets, [], [], 0)[0]:
            query, who = one.recvfrom(4096)
            end = query.index(b"\0", 12) + 5  # of the question; an address of it follows, for a minute
            one.sendto(query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:end] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" +
                       socket.inet_aton(answer), who)

    def close(self):
        for one in self.sockets:
            one.close()


@pytest.fixture
def late(lab):
    server = LateServer(lab)
    yield server
    server.close()


def test_a_question_on_its_way_is_answered_by_the_old_worker(make_gateway, late, family):
    """It was put to the name server before the upgrade; the answer goes to who asked, from whom he asked."""
    gateway = make_gateway("policies: {story: {allow: [allowed.example, \"198.18.7.0/24\"]}}\n", start=False)
    gateway.config.write_text(gateway.config.read_text().replace(NAME_SERVER, ", ".join(late.ADDRESSES)))
    gateway.start()
    box = gateway.container("--policy", "story")
    flow = box.start("python3", "-c", "import socket, sys; c = socket.create_connection(('198.18.7.1', 7002)); c.recv(9); "
                     "print('held', flush=True); sys.stdin.read()")  # the old worker stays for its sake
    assert flow.stdout.readline() == "held\n"
    asked = {4: "192.0.2.7", 6: "2001:db8:5a11::9:7"}[family]
    client = box.start("dig", "+tries=1", "+time=20", "+short", f"@{asked}", "allowed.example", "A")
    try:
        late.await_question()
        upgrade(gateway)
        assert gateway.status()["draining_workers"] == 1
        while client.poll() is None:
            late.answer("198.18.1.9")
            select.select([client.stdout, *late.sockets], [], [], TIMEOUT)
        out, err = client.communicate(timeout=TIMEOUT)
        assert (out, err) == ("198.18.1.9\n", "")
    finally:
        client.kill()
        flow.kill()
