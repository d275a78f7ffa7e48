"""
What the gate lets pass, others must read as it did. Thousands of streams (those of the other tests, and mutations of them) go through
a sealed command to an origin that notes the raw bytes. What arrived is read by a strict reader of RFC 9112, written here and sharing
nothing with the gate, and is given once more, straight, to a real nginx: all of them must find requests for the allowed host alone.
"""
import json
import os
import random
import re
import socket
import threading

import pytest

from lab import ROOT
from test_exec_redteam import SMUGGLED
from test_http import ACCEPTED, FAULTS, get
from origins import address

PLACE, PORT = address("allowed.example"), 7010
MUTATIONS = int(os.environ.get("SALLYPORT_MUTATIONS", 1500))  # more of them, and others, before a release
SEED = int(os.environ.get("SALLYPORT_SEED", 20261129))         # the same streams in every run
FUZZED = ROOT / "tests/fuzz/corpus"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

SEND = r"""
import json, socket, sys
for data in json.load(sys.stdin):
    with socket.socket() as c:
        c.settimeout(0.15)
        c.connect((sys.argv[1], int(sys.argv[2])))
        try:
            c.sendall(bytes.fromhex(data)); c.shutdown(1)
            while c.recv(65536): pass
        except OSError: pass
"""


class Recorder:
    """An origin that answers every read with a 200, and keeps what came, a connection each."""

    def __init__(self, lab):
        self.streams = []
        self.listener = lab.internet.call(self._open)
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def _open():
        listener = socket.create_server((PLACE, PORT), backlog=128)
        return listener

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._keep, args=(connection,), daemon=True).start()

    def _keep(self, connection):
        stream = b""
        with connection:
            try:
                while piece := connection.recv(1 << 16):
                    stream += piece
                    connection.sendall(ANSWER)
            except OSError:
                pass
        self.streams.append(stream)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


# --- the strict reader ------------------------------------------------------------------------------------------------

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(" + TOKEN + rb") (\S+) HTTP/1\.([01])\r\n")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([^\r\n\x00]*?)[ \t]*\r\n")


class Unreadable(Exception):
    pass


def read_chunks(data, at):
    while True:
        head = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[^\r\n]*)?\r\n").match(data, at)
        if not head:
            if re.fullmatch(rb"[0-9A-Fa-f]{0,15}[^\n]*", data[at:]):
                return len(data)  # cut off in the middle
            raise Unreadable("chunk size")
        size, at = int(head[1], 16), head.end()
        if size == 0:
            while not data.startswith(b"\r\n", at):
                field = FIELD.match(data, at)
                if not field:
                    return len(data) if b"\r\n\r\n" not in data[at:] else fail("trailer")
                at = field.end()
            return at + 2
        if at + size + 2 > len(data):
            return len(data)
        if data[at + size:at + size + 2] != b"\r\n":
            raise Unreadable("chunk end")
        at += size + 2


def fail(what):
    raise Unreadable(what)


def hosts_of(data):
    """The Host of every complete head in a stream; Unreadable when a strict server would not read it."""
    at, hosts = 0, []
    while True:
        while data.startswith(b"\r\n", at):
            at += 2
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            return hosts
        line = LINE.match(data, at) or fail("request line")
        at, fields = line.end(), []
        while not data.startswith(b"\r\n", at):
            field = FIELD.match(data, at) or fail("field")
            fields.append((field[1].lower(), field[2]))
            at = field.end()
        at += 2
        values = {name: [value for other, value in fields if other == name] for name, _ in fields}
        host, lengths, codings = (values.get(name, []) for name in (b"host", b"content-length", b"transfer-encoding"))
        if len(host) != 1 or len(lengths) > 1 or (lengths and codings) or codings not in ([], [b"chunked"]):
            # "Chunked" in other letters is the same coding.
            if not (len(host) == 1 and not lengths and len(codings) == 1 and codings[0].lower() == b"chunked"):
                raise Unreadable("framing")
        target = re.fullmatch(rb"https?://([^/?#]*)(/.*)?", line[2], re.I)
        if target and target[1].lower().removesuffix(b":%d" % PORT) != host[0].lower().removesuffix(b":%d" % PORT):
            raise Unreadable("target")
        hosts.append(host[0].decode("latin-1").lower().removesuffix(f":{PORT}").removesuffix("."))
        if codings:
            at = read_chunks(data, at)
        elif lengths:
            if not lengths[0].isdigit():
                raise Unreadable("length")
            at += int(lengths[0])


# --- the streams ------------------------------------------------------------------------------------------------------

SPICE = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"Host: denied.example\r\n", b"host:allowed.example\r\n", b"Content-Length: 0\r\n",
         b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"GET /hidden HTTP/1.1\r\nHost: denied.example\r\n\r\n", b"\x0b", b"\xff", b";", b",", b"@",
         b"HTTP/1.1", b"http://denied.example/", b"Connection: Host\r\n", b"\r\n\r\n"]


def seeds():
    texts = [*SMUGGLED.values()] + [text.encode().decode("unicode_escape") for text in
                                    (*ACCEPTED.values(), *(request for request, _ in FAULTS.values()), get("allowed.example") * 3)]
    # What the fuzzers of the gate begin with, for the one host that is allowed here.
    fuzzed = [re.sub(rb"(?im)^(host:\s*)[a-z.]+", rb"\1allowed.example", file.read_bytes())
              for folder in ("http", "http_readers") for file in sorted((FUZZED / folder).iterdir())]
    return [text.encode("latin-1")[:8192] for text in texts] + fuzzed


def mutate(data, chance):
    data = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at, kind = chance.randrange(len(data) + 1), chance.randrange(5)
        if kind == 0:
            data[at:at] = chance.choice(SPICE)
        elif kind == 1:
            del data[at:at + chance.randint(1, 6)]
        elif kind == 2:
            data[at:at + 1] = bytes([chance.randrange(256)])
        elif kind == 3:
            data[at:at + 1] = data[at:at + 1].swapcase()
        else:
            end = chance.randrange(at, len(data) + 1)
            data[at:at] = data[at:min(end, at + 200)]
    return bytes(data)


@pytest.mark.smoke
def test_nginx_sees_the_hosts_that_the_gate_let_pass(lab):
    chance = random.Random(SEED)
    base = seeds()
    streams = base + [mutate(chance.choice(base), chance) for _ in range(MUTATIONS)]
    recorder = Recorder(lab)
    try:
        run = lab.start(["/usr/bin/python3", "-c", SEND, PLACE, str(PORT)], allow=[f"http://allowed.example:{PORT}"])
        run.say(json.dumps([stream.hex() for stream in streams]))
        run.process.stdin.close()
        run.process.stdin = None
        run.wait(300 + MUTATIONS // 5).ok()
    finally:
        recorder.close()
    arrived = [stream for stream in recorder.streams if stream]
    assert len(arrived) > len(streams) // 10  # enough of them pass for this to mean something
    found = []
    for stream in arrived:
        try:
            hosts = hosts_of(stream)
        except Unreadable as why:
            raise AssertionError(f"a strict reader stumbles over what passed: {why}: {stream!r}") from None
        assert set(hosts) <= {"allowed.example"}, stream
        found += hosts
    # The same bytes, straight to nginx.
    before = len(lab.requests())
    for stream in arrived:
        with lab.host.call(lambda: socket.create_connection((PLACE, 80), timeout=5)) as connection:
            connection.settimeout(0.15)
            try:
                connection.sendall(stream.replace(b":%d" % PORT, b""))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
            except OSError:
                pass
    logged = [line.split() for line in lab.requests()[before:]]
    understood = [words for words in logged if words[2] not in ("400", "408")]
    assert understood and {re.match(r"http://([^/]*)", words[1])[1] for words in understood} == {"allowed.example"}, understood
    assert not [words for words in logged if "hidden" in words[1] and "denied" in words[1]]
    assert len(understood) <= len(found)
