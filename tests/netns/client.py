"""
Raw clients, run inside the sealed namespace: for bytes and endings that curl would never send.

    client.py connect HOST PORT             try to connect; says "connected", or the error, and how long it took
    client.py udp HOST PORT                 the same with one datagram
    client.py send HOST PORT BYTES          send (Python escapes: 'GET / HTTP/1.1\\r\\n…'), print all that comes back
    client.py talk HOST PORT BYTES…         send each when the HTTP answer to the one before is complete
    client.py drip HOST PORT BYTES          a byte every 50 ms until the other side ends it; then the answer and the time
    client.py hello segments|records N HOST NAME    TLS with the ClientHello cut into pieces of N bytes, then one request
    client.py ech KIND HOST NAME            a ClientHello with ECH (inner, outer, or none); what came back first: "handshake",
                                            or "alert N"
    client.py websocket HOST PATH TEXT…     upgrade over TLS, send each text, print each echo
    client.py half-close HOST PORT SIZE     send SIZE bytes and FIN, print own sha256 and the answer
    client.py reset-by-origin HOST PORT     print how a reset connection ends here
    client.py reset-by-client HOST PORT     read a line, then RST
    client.py finish-first HOST PORT SIZE   read to the origin's FIN, then send SIZE bytes and FIN
"""
import base64
import errno
import hashlib
import http.client
import os
import socket
import ssl
import struct
import sys
import time


def connect(host, port):
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def escaped(text):
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def outcome(attempt):
    begin = time.monotonic()
    try:
        said = attempt()
    except OSError as problem:
        said = errno.errorcode.get(problem.errno, type(problem).__name__)
    print(said, f"{time.monotonic() - begin:.3f}")


def read_all(connection):
    answer = b""
    try:
        while piece := connection.recv(1 << 16):
            answer += piece
    except ConnectionResetError:
        answer += b"\n(reset)\n"
    return answer


def show(data):
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def command_connect(host, port):
    def attempt():
        connect(host, port).close()
        return "connected"
    outcome(attempt)


def command_udp(host, port):
    def attempt():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(5)
            datagrams.connect((host, int(port)))
            datagrams.send(b"a datagram that must not leave")
            return f"answered {datagrams.recv(2048)}"
    outcome(attempt)


def command_send(host, port, data):
    with connect(host, port) as connection:
        connection.sendall(escaped(data))
        show(read_all(connection))


def command_talk(host, port, *steps):
    with connect(host, port) as connection:
        for step in steps:
            connection.sendall(escaped(step))
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            print(answer.status, answer.read().decode("latin-1").strip(), flush=True)
        connection.settimeout(0.2)
        try:
            print("then", "closed" if connection.recv(1) == b"" else "more")
        except TimeoutError:
            print("then open")


def command_drip(host, port, data):
    begin = time.monotonic()
    with connect(host, port) as connection:
        connection.settimeout(0.05)
        answer = b""
        for byte in escaped(data):
            try:
                connection.send(bytes([byte]))
                answer = connection.recv(1 << 16)
                break
            except TimeoutError:
                continue
            except OSError:
                break
    show(answer)
    print(f"\nended {time.monotonic() - begin:.3f}")


def hello_records(record, size):
    """The handshake bytes of one TLS record again, as records of at most `size` bytes of body each."""
    body = record[5:]
    return b"".join(record[:3] + struct.pack("!H", len(piece)) + piece
                    for piece in (body[at:at + size] for at in range(0, len(body), size)))


def command_hello(kind, size, host, name):
    size = int(size)
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with connect(host, 443) as connection:
        def step(action):
            while True:
                try:
                    value = action()
                except ssl.SSLWantReadError:
                    value = None
                connection.sendall(outgoing.read())
                if value is not None:
                    return value
                piece = connection.recv(1 << 16)
                incoming.write(piece) if piece else incoming.write_eof()
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            hello = outgoing.read()
        pieces = [hello[at:at + size] for at in range(0, len(hello), size)] if kind == "segments" \
            else [hello_records(hello, size)]
        for piece in pieces:
            connection.sendall(piece)
        try:
            step(lambda: tls.do_handshake() or True)
            step(lambda: tls.write(f"GET / HTTP/1.0\r\nHost: {name}\r\n\r\n".encode()))
            print(step(lambda: tls.read(4096)).decode().rsplit("\r\n", 1)[-1].strip())
        except ssl.SSLError as problem:
            print("refused", problem.reason)


# RFC 9849 section 5: an outer one has suite, config id, the encapsulated key and the sealed inner hello; without the key
# nobody can tell it from the random bytes that browsers send when they have no key (GREASE). An inner one is a byte.
ECH = {"outer": lambda: struct.pack("!BHHBH", 0, 1, 1, 7, 32) + os.urandom(32) + struct.pack("!H", 208) + os.urandom(208),
       "inner": lambda: b"\1"}


def with_extension(record, number, body):
    """A ClientHello in one TLS record, with one extension more, at the end."""
    hello = bytearray(record[9:])
    at = 35 + hello[34]
    at += 2 + int.from_bytes(hello[at:at + 2], "big")
    at += 1 + hello[at]
    size = int.from_bytes(hello[at:at + 2], "big") + 4 + len(body)
    hello[at:at + 2] = size.to_bytes(2, "big")
    hello += struct.pack("!HH", number, len(body)) + body
    return record[:3] + struct.pack("!H", len(hello) + 4) + b"\1" + len(hello).to_bytes(3, "big") + bytes(hello)


def command_ech(kind, host, name):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        hello = outgoing.read()
    with connect(host, 443) as connection:
        connection.sendall(with_extension(hello, 0xfe0d, ECH[kind]()) if kind in ECH else hello)
        answer = connection.recv(7)
        print({22: "handshake", 21: f"alert {answer[-1:].hex()}"}.get(answer[0] if answer else None, "nothing"))


def command_websocket(host, path, *texts):
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    context.set_alpn_protocols(["http/1.1"])
    with context.wrap_socket(connect(host, 443), server_hostname=host) as connection:
        websocket_story(connection, host, path, texts)


def command_websocket_plain(host, path, *texts):
    with connect(host, 80) as connection:
        websocket_story(connection, host, path, texts)


def websocket_story(connection, host, path, texts):
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    stream = connection.makefile("rb")
    print(stream.readline().decode().split()[1], flush=True)
    while stream.readline().strip():
        pass
    for text in texts:
        mask, data = os.urandom(4), text.encode()
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
        connection.sendall(b"\x81" + size + mask + masked)
        first, length = stream.read(2)
        length = int.from_bytes(stream.read(2), "big") if length == 126 else length
        print(stream.read(length).decode(), flush=True)


def command_half_close(host, port, size):
    data = os.urandom(int(size))
    with connect(host, port) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        print(len(data), hashlib.sha256(data).hexdigest())
        show(read_all(connection))


def command_reset_by_origin(host, port):
    with connect(host, port) as connection:
        connection.sendall(b"a question\n")
        show(connection.recv(100) + b"\n")
        connection.sendall(b"!")
        try:
            print("fin" if connection.recv(100) == b"" else "more")
        except ConnectionResetError:
            print("rst")


def command_reset_by_client(host, port):
    with connect(host, port) as connection:
        show(connection.makefile("rb").readline())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def command_finish_first(host, port, size):
    with connect(host, port) as connection:
        show(read_all(connection))
        connection.sendall(bytes(int(size)))
        connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    globals()[f"command_{sys.argv[1].replace('-', '_')}"](*sys.argv[2:])
