"""Root inside a captured network, with every capability over its own namespace: nothing of it leaves by the host's uplink."""
import sys

from gateway_fixtures import make_gateway  # noqa: F401
from network_fixtures import bridge, capture, gateway  # noqa: F401
from origins import address

SNEAK = r"""
import os, socket, struct, subprocess, sys
family, host, own, router, other = int(sys.argv[1]), *sys.argv[2:6]
subprocess.run("nft flush ruleset; ip rule add pref 1 lookup main; ip -6 rule add pref 1 lookup main", shell=True)
AF = socket.AF_INET if family == 4 else socket.AF_INET6

def each(kind, protocol, tries):
    for mark in (0, 0x53414e01, 0x53414e02, 0x53414c4c):
        try:
            s = socket.socket(AF, kind, protocol)
            s.settimeout(0.2)
            if mark:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            tries(s)
        except OSError:
            pass

for port in (1, 53, 123, 443, 8081, 65535):
    each(socket.SOCK_DGRAM, 0, lambda s: s.sendto(b"escape" * 400, (host, port)))  # in fragments, too
for port in (22, 25, 8081, 8443, 65535):
    each(socket.SOCK_STREAM, 0, lambda s: s.connect((host, port)))

def packet4(source, protocol, payload, fragment=0):
    head = struct.pack("!BBHHHBBH4s4s", 69, 0, 20 + len(payload), 7, fragment, 64, protocol, 0, socket.inet_aton(source), socket.inet_aton(host))
    return head + payload

def packet6(source, protocol, payload):
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + socket.inet_pton(AF, source) + socket.inet_pton(AF, host) + payload

bodies = {6: struct.pack("!HHIIBBHHH", 4444, 8081, 1, 0, 0x50, 2, 100, 0, 0), 17: struct.pack("!HHHH", 5, 123, 14, 0) + b"escape",
          1: b"\x08\0\0\0escape", 58: b"\x80\0\0\0escape", 47: b"\0\0\x08\0escape", 132: b"\0\1\0\2escape....", 50: b"escape..", 41: b"escape" * 10}
raw = socket.socket(AF, socket.SOCK_RAW, socket.IPPROTO_RAW)
for source in (own, router, other, host):
    for protocol, body in bodies.items():
        packets = [packet4(source, protocol, body)] if family == 4 else [packet6(source, protocol, body)]
        if family == 4:
            packets += [packet4(source, protocol, body[:8], 0x2000), packet4(source, protocol, b"escape..", 1)]
        else:
            packets += [packet6(source, 60, bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + body),          # destination options in front
                        packet6(source, 44, bytes([protocol, 0, 0, 1, 0, 0, 0, 9]) + body[:8]),     # the first fragment of two
                        packet6(source, 43, bytes([protocol, 0, 0, 0, 0, 0, 0, 0]) + body)]         # a routing header
        for whole in packets:
            try:
                raw.sendto(whole, (host, 0))
            except OSError:
                pass
subprocess.run(["ping", f"-{family}", "-c", "1", "-W", "1", host], stdout=subprocess.DEVNULL)
print("done")
"""


def test_nothing_gets_past_the_gateway(gateway, bridge, family):
    box = bridge.container()
    uplink = gateway.lab.capture()
    host = address("denied.example", family)
    other = {4: "198.19.0.2", 6: "2001:db8:5a1f::2"}[family]  # the gateway's own
    done = box.do(sys.executable, "-c", SNEAK, family, host, box.address[family], bridge.host[family], other)
    assert done.stdout == "done\n", done
    assert box.curl("https://allowed.example/", f"-{family}").returncode == 0, "and it is served as ever"
    left = [packet for packet in uplink.packets() if packet.destination == host or packet.source in box.address.values()
            or b"escape" in packet.payload]
    assert not left, left
    gateway.await_event(lambda audit: len(audit.where(event_action="packet-denied")) > 10, "the refused packets")
