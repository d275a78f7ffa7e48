"""
UDP through the gateway beside plain forwarding.

    datagrams.py [--build DIR] [--rounds N] [--seconds N] [--json FILE]

One client, one echo server behind the same link, by turns in one run:

    forwarded   a container with a link to the host, which routes and masquerades (nftables): what is plain without a gateway
    sallyport   an enrolled container with an udp:// rule

    rtt         64 bytes, one at a time: median, 99th percentile
    small       64 bytes, 32 on their way: answers a second
    large       1200 bytes (QUIC's), 32 on their way

Told are medians over the rounds and the ratio of the two in the same round. A relay in user space cannot be as fast as a kernel that
forwards; this says what it costs, also in the worker's processor time for a datagram and its answer. Needs root; leaves nothing
behind.
"""
import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import lab as laboratory  # noqa: E402
from daemon import Gateway  # noqa: E402
from series import machine  # noqa: E402

PLACE, PORT = "198.18.7.1", "7100"
MEASURES = {"rtt": ("rtt", 64, "20000"), "small": ("rate", 64, "32"), "large": ("rate", 1200, "32")}
FORWARD = """
table ip forwarding {
    chain out { type nat hook postrouting priority 100; oifname "uplink" masquerade; }
    chain pass { type filter hook forward priority 0; policy accept; ct state established,related accept; udp dport 7100 accept; }
}
"""


def forwarded_container(lab):
    container = laboratory.Namespace()
    lab.host.run("ip", "link", "add", "box", "type", "veth", "peer", "name", "eth0", "netns", str(container.pid))
    lab.host.run("ip", "addr", "add", "172.30.0.1/24", "dev", "box")
    lab.host.run("ip", "link", "set", "box", "up")
    container.run("ip", "addr", "add", "172.30.0.2/24", "dev", "eth0")
    container.run("ip", "link", "set", "lo", "up")
    container.run("ip", "link", "set", "eth0", "up")
    container.run("ip", "route", "add", "default", "via", "172.30.0.1")
    lab.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    lab.host.run("nft", "-f", "-", input=FORWARD)
    return container


def processor_seconds(pid):
    """Of the worker's loop; to the nanosecond, where /proc/PID/stat counts ticks."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def measure(container, program, name, seconds, worker):
    kind, size, more = MEASURES[name]
    last = [str(seconds)] if kind == "rate" else []
    begun = processor_seconds(worker)
    result = json.loads(container.output(program, kind, PLACE, PORT, str(size), more, *last, timeout=120))
    answered = result["per_second"] * seconds if kind == "rate" else int(more)
    return {**result, "worker_us": (processor_seconds(worker) - begun) / answered * 1e6}


def run(lab, arguments):
    program = str(Path(arguments.build) / "bench/datagram")
    server = lab.internet.spawn([program, "echo", PLACE, PORT], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    gateway = Gateway(lab, f"policies: {{agents: {{allow: [\"udp://{PLACE}:{PORT}\"]}}}}\n").start()
    subjects = {"forwarded": forwarded_container(lab), "sallyport": gateway.container("--policy", "agents")}
    rounds = []
    for number in range(arguments.rounds):
        order = list(subjects) if number % 2 else list(reversed(subjects))
        rounds.append({name: {measured: measure(subjects[name], program, measured, arguments.seconds, gateway.worker())
                              for measured in MEASURES}
                       for name in order})
    gateway.close()
    subjects["forwarded"].close()
    server.kill()
    return rounds


def figure(result):
    return result.get("median_us") or result["per_second"]


def tell(rounds):
    print(f"{'':8} {'forwarded':>12} {'sallyport':>12} {'ratio':>7}   processor time of the worker; p99 forwarded, sallyport; lost")
    for name in MEASURES:
        plain, ours = ([figure(r[who][name]) for r in rounds] for who in ("forwarded", "sallyport"))
        ratio = statistics.median(b / a for a, b in zip(plain, ours))
        unit = "µs" if name == "rtt" else "/s"
        tail = f"{statistics.median(r['sallyport'][name]['worker_us'] for r in rounds):.1f} µs; "
        if name == "rtt":
            p99 = [statistics.median(r[who][name]["p99_us"] for r in rounds) for who in ("forwarded", "sallyport")]
            tail += f"{p99[0]:.0f} µs, {p99[1]:.0f} µs; "
        lost = [sum(r[who][name]["lost"] for r in rounds) for who in ("forwarded", "sallyport")]
        print(f"{name:8} {statistics.median(plain):>10.0f}{unit} {statistics.median(ours):>10.0f}{unit} {ratio:>6.2f}×   {tail}{lost[0]}, {lost[1]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sallyport-bench-"))
    made = None
    try:
        made = laboratory.Lab(folder, Path(arguments.build) / "cli/sallyport")
        rounds = run(made, arguments)
    finally:
        if made:
            made.close()
        shutil.rmtree(folder, ignore_errors=True)
    tell(rounds)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
