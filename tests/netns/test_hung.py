"""
A worker that does not answer: stopped, or in a loop without end. It is found out and replaced without help; one that only has a
debugger at it is left alone.
"""
import ctypes
import json
import os
import signal
import subprocess

import pytest

import tracing
from gateway_fixtures import make_gateway  # noqa: F401
from lab import wait_until
from test_faults import HANG, POLICY
from test_web import ALLOWED

only_x86 = pytest.mark.skipif(not tracing.SUPPORTED, reason="the tracer knows x86-64 only")
PATIENCE = 40  # seconds; ten pass before it is given up

JUMP_TO_ITSELF, POKE = 0xFEEB, 4


def loop_without_end(pid):
    """As a parser with a bug would do: the next instruction leads to itself."""
    with tracing.attached(pid) as before:
        word = tracing.ptrace(tracing.PEEK, pid, before.rip) & (1 << 64) - 1
        tracing.ptrace(POKE, pid, before.rip, ctypes.c_void_p((word & ~0xFFFF | JUMP_TO_ITSELF) & (1 << 64) - 1))


def stop(pid):
    os.kill(pid, signal.SIGSTOP)


HANGS = [pytest.param(stop, "it was stopped by a signal", id="stopped"),
         pytest.param(loop_without_end, "it runs without end", id="in a loop without end", marks=only_x86)]


@pytest.mark.parametrize("hang, said", HANGS)
def test_a_worker_that_hangs_is_replaced_without_help(make_gateway, hang, said):  # noqa: F811
    gateway = make_gateway(POLICY)
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    before = gateway.status()
    hang(before["worker"])
    waiting = box.start("curl", "-sS", "--max-time", str(PATIENCE), "http://allowed.example/", "--resolve", "allowed.example:80:198.18.1.1")
    gateway.await_new_worker(before, PATIENCE)
    assert f"the worker {before['worker']} has not answered for 10 seconds ({said}): killed" in gateway.log()
    out, err = waiting.communicate(timeout=PATIENCE)
    assert "allowed.example at" in out or "reset" in err, (out, err)  # what it had accepted is over, what it had not was waiting
    assert box.curl("https://allowed.example/").returncode == 0
    denied = box.curl("http://denied.example/", "--resolve", "denied.example:80:198.18.2.1", "-o", "/dev/null", "-w", "%{http_code}")
    assert denied.stdout == "403"


def test_a_worker_that_hangs_harms_no_other_workers_containers(make_gateway):  # noqa: F811
    gateway = make_gateway(POLICY, settings=", workers: 2")
    boxes = [gateway.container("--policy", "agents") for _ in range(2)]
    flows = [box.start("/usr/bin/python3", "-c", HANG, json.dumps(["198.18.7.1", 7002, "", "welcome\n"])) for box in boxes]
    for flow in flows:
        assert json.loads(flow.stdout.readline()) == "welcome\n"
    before = gateway.status()
    hung, other = (worker["pid"] for worker in before["workers"])
    stop(hung)
    served = []

    def replaced():
        served.append([box.curl("https://allowed.example/", "--max-time", "3").returncode for box in boxes])
        return gateway.status()["worker_restarts"] > before["worker_restarts"]
    wait_until(replaced, "a new worker", PATIENCE)
    unharmed = [index for index in range(2) if all(codes[index] == 0 for codes in served)]
    assert len(unharmed) == 1  # all the while
    wait_until(lambda: all(box.curl("https://allowed.example/").returncode == 0 for box in boxes), "service for both")
    assert other in [worker["pid"] for worker in gateway.status()["workers"]]
    for index, flow in enumerate(flows):  # one was reset with its worker; the other goes on, and ends by its own client
        if index in unharmed:
            assert flow.poll() is None
            os.kill(flow.pid, 0)
        flow.stdin.write("\n")
        flow.stdin.flush()
        if index not in unharmed:
            assert flow.stdout.readline().strip() in ("rst", "fin")
        flow.kill()


@only_x86
def test_a_worker_that_a_debugger_holds_is_left_alone(make_gateway):  # noqa: F811
    gateway = make_gateway(POLICY)
    box = gateway.container("--policy", "agents")
    assert box.curl("https://allowed.example/").returncode == 0
    worker = gateway.worker()
    with tracing.attached(worker):
        wait_until(lambda: f"process {os.getpid()} traces it: left alone" in gateway.log(), "that it was seen", PATIENCE)
    wait_until(lambda: "the worker answers again" in gateway.log(), "an answer", PATIENCE)
    assert gateway.worker() == worker and box.curl("https://allowed.example/").returncode == 0


def test_under_exec_a_worker_that_hangs_is_replaced_too(lab):
    run = lab.start(["sh", "-c", "echo up; read line; curl -sS --max-time 60 https://allowed.example/"], **ALLOWED)
    assert run.line() == "up"
    [worker] = [int(line.split()[0]) for line in subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(run.process.pid)], capture_output=True,
                                                                text=True).stdout.splitlines() if "sallyport-work" in line]
    stop(worker)
    run.say("\n")
    done = run.wait()
    assert done.ok() and "allowed.example at" in done.out
    assert f"the worker {worker} has not answered for 10 seconds (it was stopped by a signal): killed" in done.err


def test_a_dead_worker_is_no_news_for_the_service_manager(make_gateway):  # noqa: F811
    """READY=1 is said at the start, and after a RELOADING=1; not again because a worker died."""
    gateway = make_gateway(POLICY)
    gateway.await_new_worker(gateway.kill_worker(), 10)
    gateway.process.send_signal(signal.SIGHUP)
    said = []
    while not any("READY=1" in lines for lines in said):
        said.append(gateway.notices.get(timeout=20))
    assert any("RELOADING=1" in lines for lines in said[:-1]), said
