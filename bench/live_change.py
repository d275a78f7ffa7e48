"""
What it costs to change a policy under a gateway that serves.

    live_change.py [--build DIR] [--names N,N,…] [--rounds N] [--flows N] [--json FILE]

For each number of names in the policy's file:

    deny        from the request on the control socket until a live flow sees its reset, and until the command is answered (then
                every live flow was judged): with one flow, and with --flows others that stay
    reload      from the request until a changed file is in force everywhere; and the processor time of monitor and worker for it
    gap         the longest time between two answers of a kept-alive HTTP connection during those reloads, beside the longest
                while nothing happened for as long: what is stopped by the reload is the difference
    memory      of monitor and worker, for each name beside its text

Writes results/live_change.md. Needs root, for namespaces of its own; leaves nothing else behind.
"""
import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import lab as laboratory  # noqa: E402
import origins  # noqa: E402
from daemon import Gateway  # noqa: E402
from fairness import cpu_seconds  # noqa: E402
from series import machine, quantile  # noqa: E402

# Holds flows to the greeter; says when they are up, and of the last one at which moment it was reset.
HOLD = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
flows = []
for _ in range(int(sys.argv[1])):  # one after the other: the greeter's queue is short
    flows.append(socket.create_connection(("198.18.7.1", 7002)))
    assert flows[-1].recv(9) == b"welcome\\n"
print("up", flush=True)
try:
    flows[-1].recv(1)
except ConnectionResetError:
    print(time.monotonic(), flush=True)
"""
ASK = """
import http.client, sys, time
connection = http.client.HTTPConnection("allowed.example", timeout=120)
last, longest = None, 0
print("begun", flush=True)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    connection.request("GET", "/")
    assert connection.getresponse().read()
    now = time.monotonic()
    longest, last = max(longest, now - (last or now)), now
print(longest, flush=True)
"""


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def write_names(path, count, first):
    with open(path, "w") as file:
        file.writelines(f"host-{number}.names.example\n" for number in range(first, first + count))


def holder(box, flows):
    process = box.start("/usr/bin/python3", "-c", HOLD, str(flows))
    assert process.stdout.readline() == "up\n", process.stderr.read()
    return process


def measure_deny(gateway, others, rounds):
    """Milliseconds until the reset is seen, and until the answer is there."""
    steady = gateway.container("--policy", "p")
    held = holder(steady, others) if others else None
    reset, answered = [], []
    for _ in range(rounds):
        box = gateway.container("--policy", "p")
        flow = holder(box, 1)
        begin = time.monotonic()
        answer = gateway.request({"do": "deny", "container": box.id, "rules": ["198.18.7.0/24"]}, timeout=120)
        answered.append((time.monotonic() - begin) * 1000)
        assert answer["ok"], answer
        reset.append((float(flow.stdout.readline()) - begin) * 1000)
        flow.wait()
        gateway.told("forget", box.id)
        gateway.told("withdraw", box.id)
    if held:
        assert held.poll() is None, "the flows that stay allowed did not stay"
        held.kill()
        held.wait()
    return reset, answered


def longest_gap(box, seconds, during):
    client = box.start("/usr/bin/python3", "-c", ASK, str(seconds))
    client.stdout.readline()
    during()
    gap = client.stdout.readline()
    assert gap, client.stderr.read()
    client.wait()
    return float(gap) * 1000


def measure_reload(gateway, names, count, rounds):
    """Milliseconds until in force, processor seconds of monitor and worker, and gaps: with reloads and without."""
    box = gateway.container("--policy", "p")
    took, cpu = [], []

    def reload(number):
        write_names(names, count, number + 1)
        pids = gateway.process.pid, gateway.worker()
        before = [cpu_seconds(pid) for pid in pids]
        begin = time.monotonic()
        answer = gateway.request({"do": "reload"}, timeout=300)
        took.append((time.monotonic() - begin) * 1000)
        assert answer["ok"], answer
        cpu.append([cpu_seconds(pid) - past for pid, past in zip(pids, before)])

    reload(0)
    gaps, quiet = [], []
    for number in range(1, rounds + 1):
        seconds = 2 * max(took) / 1000 + 1
        thread = threading.Thread(target=reload, args=(number,))
        gaps.append(longest_gap(box, seconds, thread.start))
        thread.join()
        quiet.append(longest_gap(box, seconds, lambda: None))
    return took[1:], cpu[1:], gaps, quiet


def measure(lab, count, options):
    gateway = Gateway(lab, "")
    names = gateway.folder / "names.txt"
    write_names(names, count, 0)
    gateway.write_policy("policies: {p: {allow: [allowed.example, 198.18.7.0/24], allow_files: [names.txt], "
                         "limits: {flows_per_container: 8192, flows_per_second: 100000}}}\n")
    try:
        begin = time.monotonic()
        gateway.start(wait=False)
        gateway.await_notice("READY=1", seconds=300)
        start = (time.monotonic() - begin) * 1000
        memory = resident(gateway.process.pid), resident(gateway.worker())
        few = measure_deny(gateway, 0, options.rounds)
        many = measure_deny(gateway, options.flows, options.rounds)
        took, cpu, gaps, quiet = measure_reload(gateway, names, count, options.rounds)
        return {"start_ms": start, "monitor_bytes": memory[0], "worker_bytes": memory[1], "text_bytes": names.stat().st_size,
                "deny_reset_ms": few[0], "deny_answer_ms": few[1], "deny_reset_many_ms": many[0], "deny_answer_many_ms": many[1],
                "reload_ms": took, "reload_cpu_s": cpu, "gap_ms": gaps, "gap_quiet_ms": quiet}
    finally:
        gateway.close()


def spread(values):
    ordered = sorted(values)
    return f"{statistics.median(ordered):.1f} ({quantile(ordered, 0.25):.1f}–{quantile(ordered, 0.75):.1f})"


def table(got, options):
    base = min(got)
    yield (f"ms, median and quartiles of {options.rounds} rounds; {options.flows} = with so many other flows up\n")
    yield "| | " + " | ".join(f"{count:,} names".replace(",", " ") for count in got) + " |"
    yield "|---|" + "--:|" * len(got)
    rows = [("deny → the live flow is reset", "deny_reset_ms"), ("deny → answered", "deny_answer_ms"),
            (f"deny → reset, {options.flows}", "deny_reset_many_ms"), (f"deny → answered, {options.flows}", "deny_answer_many_ms"),
            ("reload → in force", "reload_ms"), ("longest gap between two requests during a reload", "gap_ms"),
            ("… while nothing happens", "gap_quiet_ms")]
    for title, key in rows:
        yield f"| {title} | " + " | ".join(spread(result[key]) for result in got.values()) + " |"
    yield "| start → ready | " + " | ".join(f"{result['start_ms']:.0f}" for result in got.values()) + " |"
    for which, title in ((0, "monitor"), (1, "worker")):
        yield f"| processor time of the {title} for a reload, s | " + " | ".join(
            f"{statistics.median(pair[which] for pair in result['reload_cpu_s']):.2f}" for result in got.values()) + " |"
    for key in ("monitor_bytes", "worker_bytes"):
        cells = [f"{(result[key] - got[base][key] - result['text_bytes']) / count:.0f}" if count >= 100000 else "–"
                 for count, result in got.items()]
        yield f"| memory of the {key.split('_')[0]}, bytes a name beside its text | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(HERE.parent / "build"))
    parser.add_argument("--names", default="10,10000,1000000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flows", type=int, default=5000)
    parser.add_argument("--json")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="sallyport-live-change-")
    lab = laboratory.Lab(folder, Path(options.build) / "cli/sallyport")
    try:
        origins.make_certificates(lab.folder)
        origins.start_dnsmasq(lab)
        origins.start_servers(lab)
        origins.start_nginx(lab)
        got = {int(count): measure(lab, int(count), options) for count in options.names.split(",")}
    finally:
        lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    text = "\n".join(table(got, options)) + "\n"
    print(text, end="")
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results/live_change.md").write_text(f"# Changes under a gateway that serves\n\n{text}")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "names": got}, indent=1) + "\n")


if __name__ == "__main__":
    main()
