"""
A site's proxy, run in the lab's internet by test_upstream.py: HTTP CONNECT and SOCKS5 on one port.

    proxy.py ADDRESS PORT LOG [refuse|drip]     refuse: says no to everything; drip: answers a byte at a time

Each request leaves a line in LOG: "http 198.18.1.1:443" or "socks5 198.18.1.1:443". LOG appears when it listens.
"""
import asyncio
import ipaddress
import os
import sys

HOST, PORT, LOG = sys.argv[1:4]
MANNER = sys.argv[4] if len(sys.argv) > 4 else ""


async def pump(reader, writer):
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def say(writer, data):
    for piece in ([bytes([byte]) for byte in data] if MANNER == "drip" else [data]):
        writer.write(piece)
        await writer.drain()
        if MANNER == "drip":
            await asyncio.sleep(0.005)


async def read_request(first, reader, writer):
    """(kind, host, port)"""
    if first != 5:
        head = bytes([first]) + await reader.readuntil(b"\r\n\r\n")
        host, port = head.split()[1].decode().rsplit(":", 1)
        return "http", host.strip("[]"), int(port)
    await reader.readexactly((await reader.readexactly(1))[0])
    await say(writer, b"\5\0")
    request = await reader.readexactly(4)
    address = await reader.readexactly(4 if request[3] == 1 else 16)
    return "socks5", str(ipaddress.ip_address(address)), int.from_bytes(await reader.readexactly(2), "big")


async def serve(reader, writer):
    try:
        kind, host, port = await read_request((await reader.readexactly(1))[0], reader, writer)
        print(kind, f"{host}:{port}", file=log, flush=True)
        try:
            if MANNER == "refuse":
                raise ConnectionRefusedError
            there, back = await asyncio.open_connection(host, port)
        except OSError:
            await say(writer, b"HTTP/1.1 502 Bad Gateway\r\n\r\n" if kind == "http" else b"\5\5\0\1\0\0\0\0\0\0")
            writer.close()
            return
        await say(writer, b"HTTP/1.1 200 Fine\r\nVia: 1.1 lab\r\n\r\n" if kind == "http" else b"\5\0\0\1\0\0\0\0\0\0")
        await asyncio.gather(pump(reader, back), pump(there, writer))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    await asyncio.start_server(serve, HOST, PORT)
    os.rename(log.name, LOG)
    await asyncio.Event().wait()


log = open(f"{LOG}.new", "a")
asyncio.run(main())
