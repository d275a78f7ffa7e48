"""What a container's flows can make the kernel hold on the gateway's side: gateway/sock.h."""
import re

from gateway_fixtures import gateway, make_gateway  # noqa: F401
from lab import HERE, wait_until

FLOWS = 60
FREE, ALL = 16, 32 << 20  # SOCK_FREE_FLOWS, SOCK_SHARE_ALL
POLICY = "policies: {p: {allow: [big.example]}}\n"


def held(lab):
    """Bytes that wait in the gateway's upstream sockets, and what the kernel would let each of them hold."""
    rows = lab.host.output("ss", "-tnm", "state", "established", "dport", "=", ":443")
    return [int(n) for n in re.findall(r"skmem:\(r(\d+)", rows)], [int(n) for n in re.findall(r",rb(\d+)", rows)]


def test_downloads_that_nobody_reads_hold_a_bounded_memory(make_gateway):
    gateway = make_gateway(POLICY)
    box = gateway.container("--policy", "p")
    endless = box.lab.folder / "www/files/endless"
    with open(endless, "wb") as file:
        file.truncate(1 << 30)
    flows = box.start("/usr/bin/python3", str(HERE / "flows.py"), str(FLOWS), "download:big.example:443")
    assert flows.stdout.readline() == "ready\n", flows.stderr.read()  # each has read a mebibyte, and reads no more

    wait_until(lambda: min(held(box.lab)[0], default=0) > ALL // FLOWS // 4, "downloads that are backed up", 20)
    waiting, allowed = (sorted(row) for row in held(box.lab))
    most = 2 * ALL // (FREE + 1)  # the kernel doubles what it is asked for
    assert len(allowed) == FLOWS and allowed[-FREE - 1] <= most, allowed  # unbounded: net.ipv4.tcp_rmem's largest value
    assert sum(waiting[:-FREE]) <= most * (FLOWS - FREE), waiting

    flows.stdin.write("once more\n")  # and whoever reads on gets on
    flows.stdin.flush()
    assert f'"up": {FLOWS}' in flows.stdout.readline()
