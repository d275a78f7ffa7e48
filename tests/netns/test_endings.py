"""How connections end: a FIN stays a FIN, a RST a RST, half-closed is not closed."""
import hashlib

import pytest

from lab import wait_until
from origins import address

RULES = {"allow": ["198.18.7.0/24", "[2001:db8:5a11::7:0]/112"]}


def end(lab, family, port, story, *more):
    return lab.exec([*lab.client, story, address("end.example", family), str(port), *more], **RULES).ok()


def seen_by_the_origin(lab):
    wait_until(lab.server_log, "the origin's note")
    return lab.server_log()[-1]


@pytest.mark.smoke
@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
def test_a_client_that_finished_still_hears_the_answer(lab, family, size):
    run = end(lab, family, 7000, "half-close", str(size))
    sent, heard = run.out.splitlines()
    assert sent == heard  # length and sha256
    [flow] = run.audit.where(event_action="flow-ended")
    assert flow["source.bytes"] == size and flow["destination.bytes"] == len(heard) + 1


@pytest.mark.smoke
def test_an_origin_that_finished_still_hears_the_client(lab, family):
    run = end(lab, family, 7003, "finish-first", "3000000")
    assert run.out == "welcome\n"
    assert seen_by_the_origin(lab) == {"port": 7003, "bytes": 3000000, "end": "fin"}


def test_urgent_data_stays_in_its_place_and_stalls_nothing(lab, family):
    """recv(2) stops at the urgent mark: what is behind it, and came with it, is not forgotten; the byte itself is one of many."""
    story = "import socket, sys; c = socket.create_connection((sys.argv[1], 7002)); c.settimeout(10)\n" \
            "c.sendall(b'ab'); c.send(b'c', socket.MSG_OOB); c.sendall(b'de\\n'); f = c.makefile('rb')\n" \
            "print(f.readline(), f.readline())"
    run = lab.exec(["python3", "-c", story, address("end.example", family)], **RULES).ok()
    assert run.out.endswith("b'abcde\\n'\n"), run.out


def test_urgent_data_amid_bulk(lab, family):
    """splice(2) takes the urgent mark for the end of the stream."""
    story = "import hashlib, socket, sys; c = socket.create_connection((sys.argv[1], 7000)); half = bytes(range(256)) * 40000\n" \
            "c.sendall(half); c.send(b'!', socket.MSG_OOB); c.sendall(b'tail'); c.shutdown(socket.SHUT_WR)\n" \
            "whole = half + b'!tail'; print(len(whole), hashlib.sha256(whole).hexdigest()); print(c.makefile().readline())"
    run = lab.exec(["python3", "-c", story, address("end.example", family)], **RULES).ok()
    sent, heard = run.out.split("\n")[:2]
    assert sent == heard


@pytest.mark.smoke
def test_a_reset_by_the_origin_is_a_reset(lab, family):
    run = end(lab, family, 7001, "reset-by-origin")
    assert run.out == "half of an ans\nrst\n"
    [flow] = run.audit.where(event_action="flow-ended")
    assert flow["sallyport.close_by"] == "origin" and flow["sallyport.close_reason"] == "rst"


@pytest.mark.smoke
def test_a_reset_by_the_client_is_a_reset(lab, family):
    run = end(lab, family, 7002, "reset-by-client")
    assert seen_by_the_origin(lab)["end"] == "rst"
    [flow] = run.audit.where(event_action="flow-ended")
    assert flow["sallyport.close_by"] == "client" and flow["sallyport.close_reason"] == "rst"


def test_half_closed_flows_have_a_timer(lab):
    """The origin answers only at the client's FIN, the client never sends it; then neither says a word."""
    policy = lab.config("""
version: 1
gateway: {limits: {half_close_timeout: 1s}}
policies: {story: {allow: ["198.18.7.0/24"]}}
""")
    story = "import socket; c = socket.create_connection(('198.18.7.1', 7003)); print(c.recv(99), c.recv(99))\n" \
            "try: print(c.recv(1), c.send(b'x'), c.recv(1), c.send(b'y'))\n" \
            "except OSError: pass\n" \
            "import select; p = select.poll(); p.register(c, select.POLLHUP | select.POLLERR); p.poll(10000)"
    run = lab.exec(["python3", "-c", story], config=policy, timeout=20)
    [flow] = run.audit.where(event_action="flow-ended")
    assert flow["sallyport.close_by"] == "gateway" and "timeout" in flow["sallyport.close_reason"], flow


def test_idle_flows_have_a_timer(lab):
    policy = lab.config("""
version: 1
gateway: {limits: {idle_timeout: 1s}}
policies: {story: {allow: ["198.18.7.0/24"]}}
""")
    story = "import socket; c = socket.create_connection(('198.18.7.1', 7002)); print(c.recv(99))\n" \
            "try: c.recv(99)\n" \
            "except OSError: pass"
    run = lab.exec(["python3", "-c", story], config=policy, timeout=20)
    [flow] = run.audit.where(event_action="flow-ended")
    assert flow["sallyport.close_by"] == "gateway" and flow["sallyport.close_reason"] == "idle_timeout", flow


def test_what_the_command_leaves_open_ends_with_it(lab):
    run = lab.exec(["sh", "-c", f"{' '.join(lab.client)} connect 198.18.7.1 7002; exec python3 -c \"import socket, os;"
                    "c = socket.create_connection(('198.18.7.1', 7002)); c.recv(9); os._exit(3)\""], **RULES)
    assert run.status == 3
    assert len(run.audit.where(event_action="flow-ended")) == 2


def test_a_slow_reader_stops_the_sender_and_loses_nothing(lab):
    """Back-pressure: 40 MB towards a client that reads in sips; the origin's bytes wait, none is lost."""
    (lab.folder / "www/files/sips").write_bytes(hashlib.sha256(b"sips").digest() * 1_250_000)
    story = """import hashlib, socket, time
c = socket.socket(); c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); c.connect(('198.18.5.1', 80))
c.sendall(b'GET /files/sips HTTP/1.0\\r\\nHost: big.example\\r\\n\\r\\n')
f = c.makefile('rb')
while f.readline().strip(): pass
h = hashlib.sha256(); n = 0; time.sleep(0.5)
while piece := f.read(65536): h.update(piece); n += len(piece)
print(n, h.hexdigest())"""
    run = lab.exec(["python3", "-c", story], allow=["big.example"]).ok()
    whole = (lab.folder / "www/files/sips").read_bytes()
    assert run.out.split() == [str(len(whole)), hashlib.sha256(whole).hexdigest()]
