"""
Small servers for what nginx cannot show: how a connection ends. Run inside the lab's internet by origins.py:

    servers.py LOG ADDRESS…

    127.0.0.1:9001  WebSocket echo (RFC 6455), behind nginx at /ws
    7000            reads until the client's FIN, then answers with the length and sha256 of what it read
    7001            answers one line with half of the answer, then RST
    7002            greets first, then echoes lines
    7003            greets, sends FIN at once and goes on reading

LOG appears when all of them listen. Each connection leaves one JSON line in it: {"port", "bytes", "end": "fin" | "rst"}.
"""
import asyncio
import base64
import hashlib
import json
import os
import resource
import socket
import struct
import sys


async def read_to_end(reader, ret_hash=None):
    """Reads everything; (bytes, "fin" or "rst")."""
    total = 0
    try:
        while piece := await reader.read(1 << 16):
            total += len(piece)
            if ret_hash:
                ret_hash.update(piece)
    except ConnectionResetError:
        return total, "rst"
    return total, "fin"


async def digest(reader, writer):
    seen = hashlib.sha256()
    total, end = await read_to_end(reader, seen)
    if end == "fin":
        writer.write(f"{total} {seen.hexdigest()}\n".encode())
        await writer.drain()
    return total, end


async def reset(reader, writer):
    line = await reader.readline()
    writer.write(b"half of an ans")
    await writer.drain()
    await reader.read(1)  # the client says that it has it
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return len(line), "own rst"


async def greet_and_echo(reader, writer):
    total = 0
    writer.write(b"welcome\n")
    try:
        while line := await reader.readline():
            total += len(line)
            writer.write(line)
            await writer.drain()
    except ConnectionResetError:
        return total, "rst"
    return total, "fin"


async def finish_first(reader, writer):
    writer.write(b"welcome\n")
    writer.write_eof()
    return await read_to_end(reader)


async def websocket(reader, writer):
    """Upgrades, then echoes text frames shorter than 64 KiB, unmasked."""
    headers = {}
    while (line := (await reader.readline()).decode("latin-1").strip()):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "sec-websocket-key" not in headers:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nno upgrade\n")
        return 0, "fin"
    accept = hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n")
    total = 0
    while True:
        first, length = await reader.readexactly(2)
        length &= 0x7F
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2), "big")
        mask = await reader.readexactly(4)
        text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(await reader.readexactly(length)))
        size = bytes([length]) if length < 126 else b"\x7e" + length.to_bytes(2, "big")
        writer.write(bytes([first]) + size + text)
        await writer.drain()
        total += length
        if first & 15 == 8:  # close
            return total, "fin"


def serve(story, port, log):
    async def connection(reader, writer):
        try:
            total, end = await story(reader, writer)
        except asyncio.IncompleteReadError:
            total, end = 0, "cut"
        print(json.dumps({"port": port, "bytes": total, "end": end}), file=log, flush=True)
        writer.close()
    return connection


async def main(log_path, addresses):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    log = open(f"{log_path}.new", "a")
    await asyncio.start_server(serve(websocket, 9001, log), "127.0.0.1", 9001)
    for port, story in {7000: digest, 7001: reset, 7002: greet_and_echo, 7003: finish_first}.items():
        await asyncio.start_server(serve(story, port, log), addresses, port)
    os.rename(log.name, log_path)  # ready
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
