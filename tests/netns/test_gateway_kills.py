"""Whatever dies, and however often: nothing escapes, nothing hangs, nothing is left."""
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import threading
import time

import pytest

from crowd import Crowd, answer, ask_to_enroll, enroll, withdraw
from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import NAME_SERVER, wait_until
from origins import address
from test_gateway_upgrade import upgrade

# A connection that is up until somebody ends it, again and again, and in between what must not leave.
CLIENT = """
import socket, sys
def held():
    with socket.create_connection((sys.argv[1], 80), timeout=5) as c:
        c.sendall(b"GET / HTTP/1.1\\r\\nHost: allowed.example\\r\\n\\r\\n")
        if b"200 OK" not in c.recv(4096): raise OSError("no answer")
        print("up", flush=True)
        c.settimeout(60)
        try: end = "closed" if c.recv(1) == b"" else "more"
        except TimeoutError: end = "hung"
        except OSError as problem: end = type(problem).__name__
        print(end, flush=True)
def forbidden():
    for host, port in ((sys.argv[2], 80), (sys.argv[2], 8081), (sys.argv[3], 443)):
        try:
            with socket.create_connection((host, port), timeout=0.3) as c: c.sendall(b"x")
        except OSError: pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        try: u.sendto(b"a datagram that must not leave", (sys.argv[2], 443))
        except OSError: pass
while True:
    forbidden()
    try: held()
    except OSError: pass
"""


class Client:
    def __init__(self, box):
        self.process = box.start("python3", "-c", CLIENT, address("allowed.example"), address("denied.example"),
                                 address("denied.example", 6))
        self.lines, self.news = [], threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line.strip())
                self.news.notify_all()

    def await_line(self, count, seconds=60):
        """Until it has said so many lines."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.lines) >= count, seconds), self.lines


@pytest.mark.parametrize("who", ["worker", "monitor", "both"])
def test_twenty_containers_see_it_end_and_come_back(gateway, who):
    boxes = [gateway.container("--policy", "agents") for _ in range(20)]
    uplink = gateway.lab.capture()
    clients = [Client(box) for box in boxes]
    for rounds in range(2):
        for client in clients:
            client.await_line(2 * rounds + 1)
            assert client.lines[-1] == "up"
        before = gateway.status()
        if who == "worker":
            gateway.await_new_worker(gateway.kill_worker(), seconds=10)
        else:
            if who == "both":
                os.kill(gateway.process.pid, signal.SIGSTOP)  # so that it cannot start another one
                for worker in before["workers"]:
                    os.kill(worker["pid"], signal.SIGKILL)
            gateway.process.kill()
            gateway.process.wait()
            gateway.start()
        for client in clients:
            client.await_line(2 * rounds + 3)  # that the old one ended, and a new one
    for client, box in zip(clients, boxes):
        assert "hung" not in client.lines and "more" not in client.lines, client.lines
        assert client.process.poll() is None and gateway.ask("verify", box.id).returncode == 0
        client.process.kill()
    seen = uplink.packets()
    ours = {packet.source for packet in seen if packet.source not in (NAME_SERVER, address("allowed.example"))}
    assert ours <= {"198.19.0.2", "2001:db8:5a1f::2"}, ours
    assert not [packet for packet in seen if packet.destination in (address("denied.example"), address("denied.example", 6))]


# --- what is left --------------------------------------------------------------------------------------------------

@pytest.fixture
def crowd():
    made = Crowd()
    yield made
    made.close()


def holdings(gateway):
    """What both processes have that could be forgotten."""
    status = gateway.status()
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(status["monitor"])], capture_output=True, text=True).stdout
    return {"monitor": len(os.listdir(f"/proc/{status['monitor']}/fd")), "worker": len(os.listdir(f"/proc/{status['worker']}/fd")),
            "children": len(children.split()), "containers": status["containers"], "files": sorted(os.listdir(gateway.state))}


def await_holdings(gateway, before):
    try:
        wait_until(lambda: holdings(gateway) == before, "nothing left", 20)
    except TimeoutError:
        raise AssertionError(f"{before} became {holdings(gateway)}") from None


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def kill_and_wait(pid):
    pidfd = os.pidfd_open(pid)
    kill(pid)
    select.select([pidfd], [], [])
    os.close(pidfd)


def round_of(gateway, crowd_lock, crowd, chance, name):
    """One container's life; every way it can end."""
    with crowd_lock:
        first, second = crowd.more(2)
    control = gateway.control
    asking = ask_to_enroll(control, first, name)
    way = chance.choice(["withdrawn", "killed", "killed early", "hung up", "started again", "withdrawn early", "crossed"])
    if way == "killed early":
        time.sleep(chance.uniform(0, 0.02))  # anywhere in its enrolment
        kill(first)
        answer(asking)
    elif way == "hung up":
        time.sleep(chance.uniform(0, 0.02))
        asking.close()
    elif way == "withdrawn early":
        withdraw(control, name)
        answer(asking)
    else:
        told = answer(asking)
        assert told["ok"], told
        if way == "crossed":  # two withdrawals and an end at once
            other = threading.Thread(target=withdraw, args=(control, name))
            other.start()
            kill(first)
            withdraw(control, name)
            other.join()
        elif way == "killed":
            kill(first)
        elif way == "started again":  # under the same id, before anybody can have been told of the end
            kill_and_wait(first)
            told = enroll(control, second, name)
            assert told["ok"], told
            withdraw(control, name)
        else:
            assert withdraw(control, name)["ok"]
    for pid in (first, second):
        try:
            kill(pid)
        except ProcessLookupError:
            pass


def test_five_hundred_lives_leave_nothing(gateway, crowd):
    stays = gateway.container("--policy", "agents")
    stays.curl("https://allowed.example/")
    before, lock, problems = holdings(gateway), threading.Lock(), []

    def live(number):
        chance = random.Random(number)
        for turn in range(100):
            try:
                round_of(gateway, lock, crowd, chance, f"life-{number}-{turn}")
            except Exception as problem:
                problems.append((number, turn, repr(problem)))

    threads = [threading.Thread(target=live, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[:5]
    await_holdings(gateway, before)
    assert stays.curl("https://allowed.example/").returncode == 0
    assert [one["id"] for one in gateway.told("ps")] == [stays.id]


def test_a_namespace_withdrawn_a_hundred_times_is_as_it_was(gateway):
    box = gateway.container(enroll=False)
    before, network = holdings(gateway), box.network()
    for _ in range(100):
        assert enroll(gateway.control, box.pid, box.id)["ok"]
        assert withdraw(gateway.control, box.id)["ok"]
    await_holdings(gateway, before)
    assert box.links() == {"lo"} and box.ruleset() == "" and box.sockets() == 0
    assert network.splitlines()[0].split()[0] == "lo"


# --- many ----------------------------------------------------------------------------------------------------------

MANY = 1000
DESCRIPTORS = 13 * MANY + 1000  # of one process: sockets, pidfds, what comes and goes


def test_a_thousand_containers(gateway, crowd):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < DESCRIPTORS:
        pytest.skip(f"a process may have less than {DESCRIPTORS} descriptors open here")
    first = gateway.container("--policy", "agents")
    pids = crowd.more(MANY - 2)
    for number, pid in enumerate(pids):
        told = enroll(gateway.control, pid, f"many-{number}")
        assert told["ok"], told
    last = gateway.container("--policy", "agents")

    def all_is_well():
        listed = gateway.told("ps")
        assert len(listed) == MANY and {one["state"] for one in listed} == {"served"}
        assert gateway.status()["containers"] == MANY
        for box in (first, last):
            assert box.curl("https://allowed.example/").returncode == 0
            assert box.curl("https://denied.example/").returncode != 0
            assert gateway.ask("verify", box.id).returncode == 0

    all_is_well()
    gateway.await_new_worker(gateway.kill_worker(), seconds=20)
    wait_until(lambda: last.curl("https://allowed.example/").returncode == 0, "service by the new worker")
    all_is_well()
    gateway.kill()
    gateway.start()
    all_is_well()
    upgrade(gateway)
    all_is_well()
    for pid in pids:
        kill(pid)
    wait_until(lambda: len(gateway.told("ps")) == 2, "the end of the others", 30)
    assert len(list(gateway.state.glob("many-*"))) == 0
    assert first.curl("https://allowed.example/").returncode == 0


# --- the state folder ----------------------------------------------------------------------------------------------

def test_without_its_state_folder_nothing_new_is_promised(gateway):
    """What could not be found again after a restart is not enrolled; who is there is served on, whatever happens next."""
    stays, comes = gateway.container("--policy", "agents"), gateway.container(enroll=False)
    shutil.rmtree(gateway.state)
    done = gateway.ask("enroll", "--pid", comes.pid, "--id", comes.id, "--policy", "agents")
    assert done.returncode == 1 and "state file" in done.stderr, done
    assert comes.links() == {"lo"} and comes.ruleset() == "" and comes.sockets() == 0
    gateway.await_new_worker(gateway.kill_worker(), seconds=10)
    assert stays.curl("https://allowed.example/").returncode == 0 and gateway.ask("verify", stays.id).returncode == 0
    gateway.write_policy('policies: {agents: {allow: [allowed.example, "tcp://ssh.example:2222"]}}\n')
    gateway.told("reload")
    assert "2222" in stays.ruleset() and "state file" in gateway.log()
    done = gateway.ask("upgrade")  # into a folder that is there no more: not taken over
    assert done.returncode == 1 and stays.curl("https://allowed.example/").returncode == 0
    assert gateway.ask("withdraw", stays.id).returncode == 0 and stays.links() == {"lo"}


def test_a_read_only_state_folder_promises_nothing_new(gateway):
    stays, comes = gateway.container("--policy", "agents"), gateway.container(enroll=False)
    gateway.stop()
    story = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    gateway.command = lambda ask=gateway.command: ["unshare", "--mount", "sh", "-c", story, "sh", str(gateway.state), *ask()]
    gateway.start()
    assert stays.curl("https://allowed.example/").returncode == 0 and gateway.ask("verify", stays.id).returncode == 0
    done = gateway.ask("enroll", "--pid", comes.pid, "--id", comes.id, "--policy", "agents")
    assert done.returncode == 1 and "Read-only file system" in done.stderr, done
    assert comes.links() == {"lo"} and comes.ruleset() == ""
