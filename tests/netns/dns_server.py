"""
A name server that lies, stays silent or leads astray, by the first label of the name, run in the lab's internet by
test_name_servers.py:

    dns_server.py ADDRESS OTHER-ADDRESS LOG

    honest        198.18.1.1
    wrong-id      198.18.1.1, to another id
    wrong-name    198.18.1.1, for another name
    wrong-type    answers as if AAAA had been asked for
    no-question   the answer without the question
    spoofed       198.18.1.1, from OTHER-ADDRESS
    wrong-port    198.18.1.1, from another port
    foreign       an address for a name that was not asked for
    poison        198.18.1.1, and beside it, where it does not belong, 198.18.9.9 for honest
    chain-N       N CNAME records, then 198.18.1.1
    circle        CNAME records that end where they began
    self          a CNAME record for itself
    rebind        198.18.1.1 the first time, then 10.1.2.3; TTL 0
    both          198.18.1.1 and 10.1.2.3
    garbage       no DNS message
    cut           a record longer than the message
    refused       REFUSED
    failed        SERVFAIL
    silent        nothing

LOG appears when it listens; each question leaves its name there.
"""
import os
import socket
import sys

ADDRESS, OTHER, LOG = sys.argv[1:]
asked = {}


def wire(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record(owner, kind, rdata, ttl=60):
    return wire(owner) + kind.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big") + len(rdata).to_bytes(2, "big") + rdata


def address(owner, text, ttl=60):
    return record(owner, 1, socket.inet_aton(text), ttl)


def message(number, question, answers=(), additional=(), rcode=0):
    counts = (1 if question else 0, len(answers), 0, len(additional))
    return (number + (0x8180 | rcode).to_bytes(2, "big") + b"".join(count.to_bytes(2, "big") for count in counts)
            + question + b"".join(answers) + b"".join(additional))


def read(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    return ".".join(labels), query[12:at + 5], int.from_bytes(query[at + 1:at + 3], "big")


def answer(query):
    """The answer and the socket it goes out of; or nothing."""
    number, (name, question, kind) = query[:2], read(query)
    story, _, zone = name.lower().partition(".")
    asked[name.lower()] = turn = asked.get(name.lower(), 0) + 1
    if kind != 1:
        return message(number, question), own
    good = [address(name, "198.18.1.1")]
    astray = {
        "wrong-id": lambda: message(bytes([number[0] ^ 1, number[1]]), question, good),
        "wrong-name": lambda: message(number, wire(f"honest.{zone}") + question[-4:], good),
        "wrong-type": lambda: message(number, question[:-4] + b"\0\x1c\0\1", good),
        "no-question": lambda: message(number, b"", good),
        "foreign": lambda: message(number, question, [address(f"honest.{zone}", "198.18.9.9")]),
        "poison": lambda: message(number, question, good, [address(f"honest.{zone}", "198.18.9.9")]),
        "circle": lambda: message(number, question, [record(name, 5, wire(f"a.{zone}")), record(f"a.{zone}", 5, wire(f"b.{zone}")),
                                                     record(f"b.{zone}", 5, wire(name))]),
        "self": lambda: message(number, question, [record(name, 5, wire(name))]),
        "rebind": lambda: message(number, question, [address(name, "198.18.1.1" if turn == 1 else "10.1.2.3", 0)]),
        "both": lambda: message(number, question, [*good, address(name, "10.1.2.3")]),
        "garbage": lambda: number + b"\xff" * 30,
        "cut": lambda: message(number, question, [good[0][:-2]]),
        "refused": lambda: message(number, question, rcode=5),
        "failed": lambda: message(number, question, rcode=2),
        "silent": lambda: None,
    }
    if story.startswith("chain-"):
        names = [name, *(f"link{i}.{zone}" for i in range(int(story[6:])))]
        links = [record(owner, 5, wire(target)) for owner, target in zip(names, names[1:])]
        return message(number, question, [*links, address(names[-1], "198.18.1.1")]), own
    body = astray.get(story, lambda: message(number, question, good))()
    return body, {"spoofed": other, "wrong-port": port}.get(story, own)


def bound(place):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(place)
    return made


own, other, port = bound((ADDRESS, 53)), bound((OTHER, 53)), bound((ADDRESS, 0))
log = open(f"{LOG}.new", "a")
os.rename(log.name, LOG)
while True:
    query, peer = own.recvfrom(4096)
    print(read(query)[0].lower(), file=log, flush=True)
    body, way = answer(query)
    if body:
        way.sendto(body, peer)
