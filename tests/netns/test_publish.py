"""Ports of the host that lead into sealed containers."""
import socket
import subprocess
import threading

import pytest

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import Namespace, wait_until
from origins import address

SERVER = """
import socket, sys, threading
family, port, where = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
server = socket.socket(family, socket.SOCK_STREAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if family == socket.AF_INET6: server.setsockopt(41, 26, 1)
server.bind((where, port)); server.listen(512); print("up", flush=True)
def serve(peer, who):
    peer.sendall(("hello " + who[0] + "\\n").encode())
    while data := peer.recv(65536): peer.sendall(data)
    peer.sendall(b"bye"); peer.close()
while True: threading.Thread(target=serve, args=server.accept(), daemon=True).start()
"""


@pytest.fixture
def box(gateway):
    return gateway.container(enroll=False)


def serve(box, port, family=4, where=None):
    """An echo server inside that greets with who called it."""
    server = box.start("python3", "-c", SERVER, str(socket.AF_INET if family == 4 else socket.AF_INET6), str(port),
                       where or ("0.0.0.0" if family == 4 else "::"))
    assert server.stdout.readline() == "up\n", server.stderr.read()
    return server


def enroll(gateway, box, *published, check=True):
    options = [word for one in published for word in ("--publish", one)]
    done = gateway.ask("enroll", "--pid", box.pid, "--id", box.id, "--policy", "agents", *options)
    assert not check or done.returncode == 0, done
    return done


CALL = """
import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
size = int(sys.argv[3]) if len(sys.argv) > 3 else 5
got = b""
while not got.endswith(b"\\n"):
    more = peer.recv(100)
    if not more: sys.exit("closed")
    got += more
greeting, got = got.decode().split(), b""
def send():
    peer.sendall(b"x" * size); peer.shutdown(socket.SHUT_WR)
import threading; threading.Thread(target=send).start()
while more := peer.recv(1 << 16): got += more
print(greeting[1], got == b"x" * size + b"bye")
"""


def call(gateway, host, port, *size):
    """From the gateway's host: greeting's address, and whether the echo was whole."""
    return gateway.lab.host.run("/usr/bin/python3", "-c", CALL, host, str(port), *map(str, size), capture_output=True, check=False)


def test_a_published_port_leads_in_and_nothing_else_does(gateway, box):
    serve(box, 80), serve(box, 81)
    enroll(gateway, box, "8080:80")
    done = call(gateway, "127.0.0.1", 8080)
    assert done.stdout == "10.0.2.100 True\n", done
    listening = gateway.lab.host.output("ss", "-Htln")
    assert "127.0.0.1:8080" in listening and ":81 " not in listening
    events = gateway.await_event(lambda events: events.where(event_action="flow-ended"))
    events = gateway.audit()
    [allowed], [ended] = events.where(event_action="flow-allowed"), events.where(event_action="flow-ended")
    for event in (allowed, ended):
        assert event["network.direction"] == "ingress" and event["source.ip"] == "127.0.0.1" and event["container.id"] == box.id
        assert event["destination.ip"] == "127.0.0.1" and event["destination.port"] == 8080
        assert event["destination.nat.ip"] == "10.0.2.100" and event["sallyport.binding"] == "published"
    assert ended["source.bytes"] == 5 and ended["destination.bytes"] == len("hello 10.0.2.100\n") + 5 + 3
    assert gateway.told("ps")[0]["publish"] == ["127.0.0.1:8080:80"]
    assert "published 127.0.0.1:8080:80" in gateway.ask("ps").stdout
    # Outbound it is as closed as ever.
    assert box.curl("https://allowed.example/").returncode == 0
    assert box.curl("https://denied.example/", "--resolve", f"denied.example:443:{address('denied.example')}").returncode == 35


@pytest.mark.parametrize("published, host, inside", [
    ("[::1]:8080:80", "::1", 4), ("127.0.0.1:8080:80/tcp", "127.0.0.1", 6), ("[::1]:8080:80", "::1", 6)])
def test_both_families_outside_and_inside(gateway, box, published, host, inside):
    serve(box, 80, family=inside)
    enroll(gateway, box, published)
    done = call(gateway, host, 8080)
    assert done.stdout == f"{'10.0.2.100' if inside == 4 else 'fd00::100'} True\n", done


def test_ports_below_1024_and_several_at_once(gateway, box):
    serve(box, 9001), serve(box, 9002)
    enroll(gateway, box, "80:9001", "0.0.0.0:443:9002", "[::]:443:9002")
    assert call(gateway, "127.0.0.1", 80).stdout == "10.0.2.100 True\n"
    assert call(gateway, "127.0.0.1", 443).stdout == "10.0.2.100 True\n"
    assert call(gateway, "::1", 443).stdout == "10.0.2.100 True\n"


def test_bulk_and_many_connections(gateway, box):
    serve(box, 80)
    enroll(gateway, box, "8080:80")
    assert call(gateway, "127.0.0.1", 8080, 30_000_000).stdout == "10.0.2.100 True\n"
    failures = []

    def several():
        for _ in range(10):
            done = call(gateway, "127.0.0.1", 8080, 1000)
            if done.stdout != "10.0.2.100 True\n":
                failures.append(done)
    threads = [threading.Thread(target=several) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_where_nothing_listens_the_caller_is_told_at_once(gateway, box):
    serve(box, 80, where="127.0.0.1")
    enroll(gateway, box, "8080:80", "8081:7")
    for port in (8080, 8081):  # localhost of the container is its own
        assert call(gateway, "127.0.0.1", port).returncode
    gateway.await_event(lambda events: len(events.where(event_action="flow-denied")) == 2)
    event = gateway.audit().where(event_action="flow-denied")[0]
    assert event["event.reason"] == "connect_failed" and "nothing listens" in event["sallyport.detail"]
    assert event["network.direction"] == "ingress"


def test_a_port_in_use_is_told_and_nothing_is_left(gateway, box):
    other = gateway.container(enroll=False)
    enroll(gateway, box, "8080:80")
    before = other.network()
    done = enroll(gateway, other, "8081:80", "8080:80", check=False)
    assert done.returncode == 1 and "127.0.0.1:8080 is in use" in done.stderr, done
    assert other.network() == before and "8081" not in gateway.lab.host.output("ss", "-Htln")
    assert [one["id"] for one in gateway.told("ps")] == [box.id]
    done = enroll(gateway, other, "192.0.2.1:8080:80", check=False)
    assert done.returncode == 1 and "no address of this machine" in done.stderr, done
    gateway.told("withdraw", box.id)
    assert "8080" not in gateway.lab.host.output("ss", "-Htln")
    enroll(gateway, other, "8080:80")


@pytest.mark.parametrize("published, hint", [
    ("80", "write [ADDRESS:]PORT:PORT"), ("80:", "write"), (":80", "write"), ("0:80", "write"), ("80:0", "write"), ("80:65536", "write"),
    ("x:80:80", "write"), ("53:53/udp", "only TCP"), ("::1:80:80", "write"), ("", "empty"), ("80:80,80:81", "twice"),
    (",".join(f"{i}:80" for i in range(1, 10)), "at most 8")])
def test_what_cannot_be_published(gateway, box, published, hint):
    done = enroll(gateway, box, published, check=False)
    assert done.returncode == 2 and hint in done.stderr, done


def test_only_sealed_containers_publish(gateway, box):
    done = gateway.ask("enroll", "--pid", box.pid, "--id", "box", "--attached", "--publish", "8080:80")
    assert done.returncode == 1 and "sealed" in done.stderr, done


def test_after_the_worker_and_after_the_monitor(gateway, box):
    serve(box, 80)
    enroll(gateway, box, "8080:80")
    for _ in range(2):
        before = gateway.kill_worker()
        gateway.await_new_worker(before, 5)
        wait_until(lambda: call(gateway, "127.0.0.1", 8080).stdout == "10.0.2.100 True\n", "service by the new worker")
    gateway.kill()
    assert call(gateway, "127.0.0.1", 8080).returncode
    gateway.start()
    wait_until(lambda: call(gateway, "127.0.0.1", 8080).stdout == "10.0.2.100 True\n", "service by the new monitor")
    assert gateway.told("ps")[0]["publish"] == ["127.0.0.1:8080:80"]


def test_a_new_monitor_waits_for_a_port_that_is_in_use(gateway, box):
    serve(box, 80)
    enroll(gateway, box, "8080:80")
    gateway.kill()
    squatter = subprocess.Popen(list(map(str, gateway.lab.host.enter(
        ["/usr/bin/python3", "-c", "import socket; s = socket.create_server(('127.0.0.1', 8080)); print('up', flush=True); s.accept()[0].recv(1)"]))),
        stdout=subprocess.PIPE, text=True)
    assert squatter.stdout.readline() == "up\n"
    gateway.start()
    assert box.curl("https://allowed.example/").returncode == 0
    wait_until(lambda: "127.0.0.1:8080 is in use" in gateway.log(), "the complaint")
    squatter.kill()
    squatter.wait()
    wait_until(lambda: call(gateway, "127.0.0.1", 8080).stdout == "10.0.2.100 True\n", "service", 5)


def test_it_goes_with_the_container(gateway, box):
    serve(box, 80)
    enroll(gateway, box, "8080:80")
    peer = subprocess.Popen(list(map(str, gateway.lab.host.enter(
        ["/usr/bin/python3", "-c", "import socket; s = socket.create_connection(('127.0.0.1', 8080)); print(s.recv(9), flush=True)\n"
         "try: print(s.recv(9) or s.recv(9))\nexcept ConnectionError as e: print('reset')"]))), stdout=subprocess.PIPE, text=True)
    assert "hello" in peer.stdout.readline()
    gateway.told("withdraw", box.id)
    assert "8080" not in gateway.lab.host.output("ss", "-Htln")
    peer.communicate(timeout=10)
    assert box.sockets() == 1  # its own server


def test_a_reload_leaves_published_connections_alone(gateway, box):
    serve(box, 80)
    enroll(gateway, box, "8080:80")
    peer = subprocess.Popen(list(map(str, gateway.lab.host.enter(
        ["/usr/bin/python3", "-c", "import socket, sys; s = socket.create_connection(('127.0.0.1', 8080)); print(s.recv(99), flush=True)\n"
         "sys.stdin.readline(); s.sendall(b'still'); print(s.recv(9))"]))), stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert "hello" in peer.stdout.readline()
    gateway.write_policy("policies: {agents: {}}\n")
    assert gateway.ask("reload").returncode == 0
    assert peer.communicate("go\n", timeout=10)[0] == "b'still'\n"


def test_a_container_that_meddles_harms_only_itself(gateway, box):
    """It calls at the door, fills its backlog, floods lo: others go on, and so does it when it stops."""
    other = gateway.container(enroll=False)
    serve(box, 80), serve(other, 80)
    enroll(gateway, box, "8080:80")
    enroll(gateway, other, "8081:80")
    ports = [int(line.split()[3].rsplit(":", 1)[1]) for line in box.output("ss", "-Htln").splitlines() if "10.0.2.100" in line]
    meddler = box.start("python3", "-c", f"""
import socket
print("at it", flush=True)
while True:
    for port in {ports}:
        try:
            with socket.create_connection(("10.0.2.100", port), timeout=0.2) as s: s.send(b"x")
        except OSError: pass
""")
    assert meddler.stdout.readline() == "at it\n" and ports
    for _ in range(5):
        assert call(gateway, "127.0.0.1", 8081).stdout == "10.0.2.100 True\n"
    meddler.kill()
    meddler.wait()
    wait_until(lambda: call(gateway, "127.0.0.1", 8080).stdout == "10.0.2.100 True\n", "service again", 15)


def test_limits_hold_for_what_comes_in(make_gateway):
    gateway = make_gateway("policies: {agents: {limits: {flows_per_container: 2}}}\n")
    box = gateway.container(enroll=False)
    serve(box, 80)
    enroll(gateway, box, "8080:80")
    hold = "import socket, sys; s = socket.create_connection(('127.0.0.1', 8080)); print(s.recv(5), flush=True); sys.stdin.readline()"
    held = []
    for _ in range(2):
        peer = subprocess.Popen(list(map(str, gateway.lab.host.enter(["/usr/bin/python3", "-c", hold]))), stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)
        assert "hello" in peer.stdout.readline()
        held.append(peer)
    assert call(gateway, "127.0.0.1", 8080).returncode
    gateway.await_event(lambda events: events.where(event_reason="limit_connections"))
    for peer in held:
        peer.communicate("\n")
    wait_until(lambda: call(gateway, "127.0.0.1", 8080).stdout == "10.0.2.100 True\n", "room again")
