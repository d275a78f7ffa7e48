"""udp:// rules in sealed namespaces: through the relay, by name and by address, and nothing else."""
import subprocess
import sys

import pytest

from gateway_fixtures import make_gateway  # noqa: F401
from lab import HERE, ORDINARY_USER
from origins import address

PORT = 7100
ECHO = "end.example"
SERVED = ("end.example", "allowed.example", "denied.example", "wild.example", "sub.wild.example")
CLIENT = [sys.executable, str(HERE / "datagrams.py")]


@pytest.fixture(scope="module")
def echo(whole_lab):
    """An echo server at the addresses of some names."""
    places = [address(name, family) for name in SERVED for family in (4, 6)]
    server = whole_lab.internet.spawn([*CLIENT, "serve", PORT, *places], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    yield
    server.kill()
    server.wait()


def ask(*words):
    return [*CLIENT, "ask", *map(str, words)]


def net(name, family, port=PORT):
    return f"udp://{address(name, 4)}:{port}" if family == 4 else f"udp://[{address(name, 6)}]:{port}"


# --- what is allowed ------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_by_name(lab, echo, family):
    """The name is what DNS answered the address for; the answer comes from where the client sent to."""
    place = address(ECHO, family)
    resolve = f"import socket; print(socket.getaddrinfo('{ECHO}', 0, socket.AF_INET{'6' if family == 6 else ''})[0][4][0])"
    story = f"host=$({sys.executable} -c \"{resolve}\") && exec {' '.join(CLIENT)} ask $host {PORT} hello again twice"
    run = lab.exec(["sh", "-c", story], allow=[f"udp://{ECHO}:{PORT}"]).ok()
    assert run.out.splitlines() == [f"'{text}' from {place} {PORT}" for text in ("hello", "again", "twice", "twice")]
    [event] = run.audit.allowed(ECHO)
    assert (event["network.transport"], event["destination.ip"], event["destination.port"], event["sallyport.binding"]) == (
        "udp", place, PORT, "dns")
    assert event["rule.name"] == f"udp://{ECHO}:{PORT}"
    [end] = run.audit.ended(ECHO)
    assert end["source.bytes"] == len("helloagaintwice") and end["destination.bytes"] == len("helloagaintwicetwice")


def test_by_address(lab, echo, family):
    run = lab.exec(ask(address(ECHO, family), PORT, "hello"), allow=[net(ECHO, family)]).ok()
    assert run.out == f"'hello' from {address(ECHO, family)} {PORT}\n"
    [event] = run.audit.allowed()
    assert event["sallyport.binding"] == "address" and event["rule.name"] == net(ECHO, family)
