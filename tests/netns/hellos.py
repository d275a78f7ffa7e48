"""
ClientHellos made by hand, so that each of their lengths and lists can lie (RFC 8446 4.1.2, RFC 6066 3):

    record   type 22 | version | length | handshake   type 1 | length24 | version | random | session id | ciphers | compressions | extensions
"""
import os
import struct

GREASE = 0x5A5A


def sized(data, bytes_of_length=2, lie=0):
    return (len(data) + lie).to_bytes(bytes_of_length, "big") + data


def extension(number, data, lie=0):
    return struct.pack(">H", number) + sized(data, lie=lie)


def entry(name, kind=0, lie=0):
    name = name.encode("latin-1") if isinstance(name, str) else name
    return bytes([kind]) + sized(name, lie=lie)


def server_name(*entries, lie=0):
    return extension(0, sized(b"".join(entries), lie=lie))


def sni(name):
    return server_name(entry(name))


def key_share(group=0x001D, size=32, lie=0):
    return extension(51, sized(struct.pack(">H", group) + sized(os.urandom(size)), lie=lie))


GROUPS = extension(10, sized(struct.pack(">3H", 0x11EC, 0x001D, 0x0017)))
SIGNATURES = extension(13, sized(struct.pack(">8H", 0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)))
VERSIONS = extension(43, sized(struct.pack(">2H", 0x0304, 0x0303), 1))
ONLY_13 = extension(43, sized(struct.pack(">H", 0x0304), 1))
ECH_GREASE = extension(0xFE0D, b"\x00\x00\x01\x00\x01\x07" + sized(os.urandom(32)) + sized(os.urandom(144)))
MODERN = [GROUPS, SIGNATURES, VERSIONS, extension(0xFF01, b"\0"), extension(23, b"")]


def handshake(*extensions, suites=(0x1301, 0x1302, 0xC02B, 0xC02F, 0xC030), lie=0, version=0x0303, session=None):
    body = struct.pack(">H", version) + os.urandom(32) + sized(os.urandom(32) if session is None else session, 1)
    body += sized(b"".join(struct.pack(">H", suite) for suite in suites)) + b"\x01\x00" + sized(b"".join(extensions))
    return b"\x01" + sized(body, 3, lie)


def hello(name, *more, **options):
    """What a browser of today sends, with this SNI."""
    return handshake(sni(name), *MODERN, key_share(), *more, **options)


def record(data, kind=22, version=0x0301):
    return bytes([kind]) + struct.pack(">H", version) + sized(data)


def records(data, size, version=0x0301):
    return b"".join(record(data[at:at + size], version=version) for at in range(0, len(data), size))
