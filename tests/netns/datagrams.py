"""
Datagrams in the lab: an echo server on the internet, and the story a client tells about what came back.

    datagrams.py serve PORT ADDRESS…     echoes, from the address that was asked; "refuse" answers nothing, "twice" two times
    datagrams.py ask [--unconnected] [--wait SECONDS] HOST PORT TEXT…     sends each, prints each answer with its source, or the error
    datagrams.py big HOST PORT SIZE…     sends random bytes of these sizes, says which came back whole
    datagrams.py spread COUNT HOST PORT  from so many sockets at once, and all of them again: how many answers
    datagrams.py many PORT ADDRESS…      one socket, many destinations
"""
import errno
import os
import selectors
import socket
import sys


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def command_serve(port, *addresses):
    selector = selectors.DefaultSelector()
    for address in addresses:
        server = socket.socket(family_of(address), socket.SOCK_DGRAM)
        server.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        server.bind((address, int(port)))
        selector.register(server, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            data, peer = key.fileobj.recvfrom(1 << 17)
            for _ in range(0 if data == b"refuse" else 2 if data == b"twice" else 1):
                key.fileobj.sendto(data, peer)


def said(problem):
    return errno.errorcode.get(problem.errno, type(problem).__name__) if isinstance(problem, OSError) else str(problem)


def receive(client):
    try:
        data, peer = client.recvfrom(1 << 17)
        return f"{data.decode('latin-1')!r} from {peer[0]} {peer[1]}"
    except OSError as problem:
        return said(problem)


def command_ask(*words):
    words = list(words)
    connected, wait = "--unconnected" not in words, 5.0
    words = [word for word in words if word != "--unconnected"]
    if words[0] == "--wait":
        wait, words = float(words[1]), words[2:]
    host, port, *texts = words
    [(family, _, _, _, target), *_] = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.settimeout(wait)
    if connected:
        client.connect(target)
    for text in texts:
        try:
            client.send(text.encode()) if connected else client.sendto(text.encode(), target)
        except OSError as problem:
            print("send", said(problem), flush=True)
            continue
        print(receive(client), flush=True)
        if text == "twice":
            print(receive(client), flush=True)


def command_big(host, port, *sizes):
    for size in map(int, sizes):
        client = socket.socket(family_of(host), socket.SOCK_DGRAM)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.settimeout(5)
        client.connect((host, int(port)))
        data = os.urandom(size)
        try:
            client.send(data)
            print(size, "whole" if client.recv(1 << 17) == data else "damaged", flush=True)
        except OSError as problem:
            print(size, said(problem), flush=True)


def command_spread(count, host, port):
    clients = [socket.socket(family_of(host), socket.SOCK_DGRAM) for _ in range(int(count))]
    answers = 0
    for number, client in enumerate(clients):
        client.settimeout(3)
        client.connect((host, int(port)))
        try:
            client.send(str(number).encode())
            answers += client.recv(100) == str(number).encode()
        except OSError:
            pass
    print(answers)


def command_many(port, *addresses):
    clients = {family: socket.socket(family, socket.SOCK_DGRAM) for family in {family_of(a) for a in addresses}}
    for address in addresses:
        client = clients[family_of(address)]
        client.settimeout(5)
        client.sendto(address.encode(), (address, int(port)))
        print(receive(client), flush=True)


if __name__ == "__main__":
    globals()[f"command_{sys.argv[1]}"](*sys.argv[2:])
