"""
A DNS-over-TLS server with manners, run in the lab's internet by test_dot.py:

    dot_server.py ADDRESS CERTIFICATE KEY LOG [MANNER]

It answers every A question with 198.18.1.1. Each connection leaves "connection" in LOG, each question "NAME LENGTH" (of
the message), and the client's end of a connection "end". LOG appears when it listens. Manners:

    backwards   collects eight questions, and answers the last first
    once        closes after each answer
    silent      takes connections and never says a word
    mute        finishes the handshake, and never answers
    lies        answers with another question than was asked
"""
import asyncio
import os
import ssl
import sys

ADDRESS, CERTIFICATE, KEY, LOG = sys.argv[1:5]
MANNER = sys.argv[5] if len(sys.argv) > 5 else ""


def read_name(message):
    labels, at = [], 12
    while message[at]:
        labels.append(message[at + 1:at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels), message[12:at + 5]


def answer(message):
    _, question = read_name(message)
    if MANNER == "lies":
        question = b"\5other\7example\0\0\1\0\1"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc6\x12\1\1" if question[-4:-2] == b"\0\1" else b""
    body = message[:2] + b"\x81\x80\0\1" + (b"\0\1" if record else b"\0\0") + b"\0\0\0\0" + question + record
    return len(body).to_bytes(2, "big") + body


async def serve(reader, writer):
    print("connection", file=log, flush=True)
    held = []
    try:
        while True:
            message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            print(read_name(message)[0].lower(), len(message), file=log, flush=True)
            held.append(answer(message))
            if MANNER == "mute" or MANNER == "backwards" and len(held) < 8:
                continue
            writer.write(b"".join(reversed(held)))
            held.clear()
            await writer.drain()
            if MANNER == "once":
                break
    except (asyncio.IncompleteReadError, OSError):
        print("end", file=log, flush=True)
    writer.close()


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    context.set_alpn_protocols(["dot"])
    await asyncio.start_server(serve, ADDRESS, 853, ssl=None if MANNER == "silent" else context)
    os.rename(log.name, LOG)
    await asyncio.Event().wait()


log = open(f"{LOG}.new", "a")
asyncio.run(main())
