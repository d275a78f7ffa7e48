"""
Many flows that stay up, held by one process in a container:

    flows.py COUNT KIND:HOST:PORT…

KIND is http (kept-alive requests), download (a big file over TLS, read piece by piece), websocket (over TLS), tcp (echo of lines)
or sink (nobody answers).
COUNT flows are opened for each, and "ready" is printed when all are up. After that each line on the standard input has every flow do
one more exchange, and a JSON line tells of each KIND:HOST:PORT how many are "up", were "reset", or came to another end.
"""
import asyncio
import base64
import collections
import functools
import json
import os
import socket
import ssl
import sys

PIECE = 65536


@functools.lru_cache
def address_of(host):
    """Asked once: there is a limit on questions a second."""
    return socket.getaddrinfo(host, 1, type=socket.SOCK_STREAM)[0][4][0]


class Flow:
    def __init__(self, spec):
        self.spec = spec
        self.kind, self.host, port = spec.split(":")
        self.port, self.end = int(port), "up"

    async def open(self):
        context = None
        if self.kind in ("download", "websocket"):
            context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
        address = address_of(self.host)
        connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)  # less than one exchange of a download
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (address, self.port))
        self.reader, self.writer = await asyncio.open_connection(
            sock=connection, ssl=context, server_hostname=self.host if context else None, limit=PIECE)
        if self.kind == "download":
            await self.ask("/files/endless")
        elif self.kind == "websocket":
            key = base64.b64encode(os.urandom(16)).decode()
            await self.ask("/ws", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                           f"Sec-WebSocket-Key: {key}", status=b"101")
        await self.exchange()

    async def ask(self, path, *headers, status=b"200"):
        lines = [f"GET {path} HTTP/1.1", f"Host: {self.host}", *headers]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == status, head
        return next((int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length")), 0)

    async def exchange(self):
        if self.kind == "http":
            await self.reader.readexactly(await self.ask("/"))
        elif self.kind == "download":
            await self.reader.readexactly(16 * PIECE)
        elif self.kind == "websocket":
            self.writer.write(b"\x81\x82\x00\x00\x00\x00hi")
            assert await self.reader.readexactly(4) == b"\x81\x02hi"
        elif self.kind == "sink":
            self.writer.write(b"line\n")
            await self.writer.drain()
            if self.reader.exception():
                raise self.reader.exception()
        else:
            self.writer.write(b"line\n")
            assert (await self.reader.readline()).endswith(b"\n")

    async def once_more(self):
        if self.end != "up":
            return
        try:
            await asyncio.wait_for(self.exchange(), 20)
        except ConnectionResetError:
            self.end = "reset"
        except asyncio.TimeoutError:
            self.end = "silence"
        except (OSError, EOFError, AssertionError, ssl.SSLError) as error:
            self.end = type(error).__name__


async def main(count, specs):
    flows = [Flow(spec) for spec in specs for _ in range(count)]
    for first in range(0, len(flows), 50):
        await asyncio.gather(*(flow.open() for flow in flows[first:first + 50]))
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        await asyncio.gather(*(flow.once_more() for flow in flows))
        ends = collections.defaultdict(collections.Counter)
        for flow in flows:
            ends[flow.spec][flow.end] += 1
        print(json.dumps(ends), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
