"""
What a container that opens connections without end costs another one.

    fairness.py [--build DIR] [--seconds N] [--rounds N] [--json FILE]

Two containers behind one gateway. B opens connection after connection to a server that greets, waits for the greeting and closes;
counted are those it gets served a second. A does nothing, or floods: several processes that open connections and never wait. In
turns, in one run:

    alone       A is quiet
    busy        A's processes spin, and open nothing: what they cost B by the processor alone, which no gateway can mend
    limited     A floods, with the default limit of new flows a second
    unlimited   A floods, with that limit out of the way

What the gateway is answerable for is limited beside busy.

Needs root, for namespaces of its own; leaves nothing behind.
"""
import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import lab as laboratory  # noqa: E402
import origins  # noqa: E402
from daemon import Gateway  # noqa: E402
from series import machine  # noqa: E402

PROCESSES = 2
FLOOD = """import socket
print("begun", flush=True)
while True:
    c = socket.socket()
    c.setblocking(False)
    c.connect_ex(("198.18.1.1", 443))
    c.close()
"""
SPIN = 'print("begun", flush=True)\nwhile True: pass'
SERVED = """import socket, sys, time
end, served = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    with socket.create_connection(("198.18.7.1", 7002)) as c: served += bool(c.recv(9))
print(served / float(sys.argv[1]))
"""


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(lab, limit, program, seconds):
    """Flows a second that B is served, and the worker's share of a processor meanwhile."""
    allow = "allow: [allowed.example, \"198.18.7.0/24\"]"
    gateway = Gateway(lab, f"policies: {{a: {{{allow}, limits: {{flows_per_second: {limit}}}}}, "
                           f"b: {{{allow}, limits: {{flows_per_second: 1000000}}}}}}\n")
    try:
        gateway.start()
        a, b = gateway.container("--policy", "a"), gateway.container("--policy", "b")
        floods = [a.start("python3", "-c", program) for _ in range(PROCESSES if program else 0)]
        for flood in floods:
            flood.stdout.readline()
        worker = gateway.worker()
        before = cpu_seconds(worker)
        done = b.do("python3", "-c", SERVED, str(seconds), timeout=seconds + 60)
        assert done.returncode == 0, done.stderr
        served = float(done.stdout), (cpu_seconds(worker) - before) / seconds
        for flood in floods:
            flood.kill()
            flood.wait()
        return served
    finally:
        gateway.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(HERE.parent / "build"))
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="sallyport-fairness-")
    ways = {"alone": (1000, None), "busy": (1000, SPIN), "limited": (1000, FLOOD), "unlimited": (1000000, FLOOD)}
    got = {name: [] for name in ways}
    lab = laboratory.Lab(folder, Path(options.build) / "cli/sallyport")
    try:
        origins.start_servers(lab)
        # All connections of the gateway go to one address and are closed by it first: its ports would run out in a minute.
        lab.host.run("sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1", "net.ipv4.ip_local_port_range=1025 65000")
        for _ in range(options.rounds):
            for name, (limit, program) in ways.items():
                got[name].append(measure(lab, limit, program, options.seconds))
    finally:
        lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    busy = statistics.median(flows for flows, _ in got["busy"])
    print(f"flows a second served to B ({options.rounds} rounds of {options.seconds:g} s, median, least and most)")
    for name, pairs in got.items():
        flows, cpu = zip(*pairs)
        print(f"  {name:<10} {statistics.median(flows):8.0f}  {min(flows):8.0f} {max(flows):8.0f}   "
              f"{statistics.median(flows) / busy:5.2f} of busy   worker: {statistics.median(cpu):4.2f} of a processor")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "flows_per_second": got}, indent=1) + "\n")


if __name__ == "__main__":
    main()
