"""
What it costs to put a container behind the gateway, to start the gateway again, and to upgrade it.

    enrolment.py [--build DIR] [--containers N] [--samples N] [--upgrades N] [--results DIR]

enrolment   from the request on the control socket to the answer (links, rules, sockets, self-test, worker), for each of so many
            containers (1 000), one after the other; the same as `sallyport enroll`, a program as a hook starts it; and beside it, in
            turns, in namespaces of their own: the very rules that Sallyport made, loaded by `nsenter nft -f`; and rules to the same
            effect by `nsenter iptables-restore` and `ip6tables-restore`, and by one `iptables` a rule. Those make rules and nothing
            else: no socket, no link, no test, nobody who takes them back.
memory      of monitor and worker (PSS) for each enrolled container
restart     the monitor is killed: from the start of the next one to the first flow that is served, and until all containers are, with 1,
            100 and all of them; the namespaces entered again, or the sockets kept by a service manager
upgrade     `sallyport upgrade` while wrk makes new connections in a container, a request each: how many of them fail, and how
            long the longest pause was that a client saw

Medians, and p99 where it says so; ratios are of medians in this run. Writes results/enrolment.md. Needs root.
"""
import argparse
import datetime
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import crowd as crowds  # noqa: E402
import lab as laboratory  # noqa: E402
import origins  # noqa: E402
from series import machine, quantile  # noqa: E402
from service_manager import ManagedGateway  # noqa: E402
from test_gateway_upgrade import upgrade  # noqa: E402

POLICY = "policies: {agents: {allow: [allowed.example], limits: {flows_per_second: 1000000}}}\n"
DESCRIPTORS_EACH = 13

PROBE = """
import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[1], 80), timeout=1) as c:
            c.sendall(b"GET / HTTP/1.0\\r\\nHost: allowed.example\\r\\n\\r\\n")
            if b" 200 " in c.recv(4096): print(time.monotonic(), flush=True)
            else: time.sleep(0.001)
    except OSError: time.sleep(0.001)
"""


def iptables_rules(family):
    """To the same effect as ours: redirect what the policy names and DNS, refuse and log the rest."""
    loopback, own = ("127.0.0.0/8", "10.0.2.100") if family == 4 else ("::1/128", "fd00::100")
    reject = "icmp-port-unreachable" if family == 4 else "icmp6-port-unreachable"
    nat = [f"-A OUTPUT -d {loopback} -j RETURN", "-A OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 20001",
           "-A OUTPUT -p tcp --dport 53 -j REDIRECT --to-ports 20002", "-A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 20000",
           "-A OUTPUT -p tcp --dport 443 -j REDIRECT --to-ports 20000"]
    rules = [f"-A OUTPUT -d {loopback} -j ACCEPT", f"-A OUTPUT -d {own} -j ACCEPT", "-A OUTPUT -j NFLOG --nflog-group 9440",
             "-A OUTPUT -p tcp -j REJECT --reject-with tcp-reset", f"-A OUTPUT -j REJECT --reject-with {reject}",
             f"-A INPUT -s {loopback} -j ACCEPT", f"-A INPUT -s {own} -j ACCEPT", "-A INPUT -j DROP", "-A FORWARD -j DROP"]
    return nat, rules


def iptables_restore_text(family):
    nat, rules = iptables_rules(family)
    return "\n".join(["*nat", *nat, "COMMIT", "*filter", ":INPUT DROP", ":FORWARD DROP", ":OUTPUT DROP", *rules, "COMMIT", ""])


class Lab:
    def __init__(self, options):
        self.folder = Path(tempfile.mkdtemp(prefix="sallyport-enrolment-"))
        self.folder.chmod(0o755)
        self.lab = laboratory.Lab(self.folder, Path(options.build) / "cli/sallyport")
        origins.start_all(self.lab)
        self.lab.begin()
        self.crowd = crowds.Crowd()
        self.gateway = ManagedGateway(self.lab, POLICY).start()

    def close(self):
        self.gateway.close()
        self.crowd.close()
        self.lab.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def timed(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return (time.perf_counter() - start) * 1e3


def run(argv, **options):
    done = subprocess.run(argv, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{argv}: {done.stderr}")


def pss(pid):
    return sum(int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:"))


def memory(gateway):
    status = gateway.status()
    return pss(status["monitor"]), pss(status["worker"])


# --- enrolment -----------------------------------------------------------------------------------------------------

class Ways:
    """The others, each on fresh namespaces."""

    def __init__(self, bench, ruleset):
        self.crowd = bench.crowd
        self.nft = bench.folder / "ruleset.nft"
        self.nft.write_text(ruleset)
        self.took = {"nsenter + nft -f": [], "nsenter + iptables-restore": [], "nsenter + iptables, one a rule": []}
        if not shutil.which("iptables-restore"):
            self.took = {name: times for name, times in self.took.items() if "iptables" not in name}

    def inside(self, pid, *argv, **options):
        run(["nsenter", f"--net=/proc/{pid}/ns/net", *argv], **options)

    def by_nft(self, pid):
        self.inside(pid, "nft", "-f", str(self.nft))

    def by_restore(self, pid):
        self.inside(pid, "iptables-restore", input=iptables_restore_text(4))
        self.inside(pid, "ip6tables-restore", input=iptables_restore_text(6))

    def by_rule(self, pid):
        for family, program in ((4, "iptables"), (6, "ip6tables")):
            nat, rules = iptables_rules(family)
            for table, lines in (("nat", nat), ("filter", rules)):
                for line in lines:
                    self.inside(pid, program, "-w", "-t", table, *line.split())

    def sample(self):
        for name, way in zip(self.took, (self.by_nft, self.by_restore, self.by_rule)):
            [pid] = self.crowd.more(1)
            self.took[name].append(timed(way, pid))

    def so_far(self):
        taken, self.took = self.took, {name: [] for name in self.took}
        return taken


def enroll_crowd(bench, options):
    """All of them; and the others in turns with the first and with the last. Times in ms by name, early and late."""
    gateway, box = bench.gateway, bench.gateway.container("--policy", "agents")
    ways, times, stages = Ways(bench, box.ruleset()), [], []
    before = memory(gateway)

    def one(number):
        [pid] = bench.crowd.more(1)
        told = {}
        took = timed(lambda: told.update(crowds.enroll(gateway.control, pid, f"one-{number}")))
        if not told["ok"]:
            sys.exit(told)
        times.append(took)

    def stage(first, count):
        program, begin = [], len(times)
        for number in range(first, first + count):
            one(number)
            [pid] = bench.crowd.more(1)
            program.append(timed(run, [str(bench.lab.binary), "enroll", "--control", str(gateway.control), "--pid", str(pid), "--id",
                                       f"by-program-{number}", "--policy", "agents"]))
            run([str(bench.lab.binary), "withdraw", "--control", str(gateway.control), f"by-program-{number}"])
            ways.sample()
        stages.append({"enrolled by a request": times[begin:], "sallyport enroll": program, **ways.so_far()})

    stage(0, options.samples)
    for number in range(options.samples, options.containers - 1 - options.samples):
        one(number)
    stage(options.containers - 1 - options.samples, options.samples)
    after = memory(gateway)
    return times, stages, [(a - b) / (options.containers - 1) for a, b in zip(after, before)]


def enrolment_table(times, stages, per_container, options):
    ordered = sorted(times)
    lines = [f"| ms | the first {options.samples}: median (p99) | the last {options.samples} of {options.containers}: median (p99) | beside a request |",
             "|---|--:|--:|--:|"]
    base = [statistics.median(stage["enrolled by a request"]) for stage in stages]
    for name in stages[0]:
        medians = [statistics.median(stage[name]) for stage in stages]
        shown = [f"{m:.1f} ({quantile(sorted(stage[name]), 0.99):.1f})" for m, stage in zip(medians, stages)]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {medians[0] / base[0]:.2f}, {medians[1] / base[1]:.2f} |")
    lines += ["", f"All {len(times)} by a request: median {statistics.median(ordered):.1f} ms, p99 {quantile(ordered, 0.99):.1f} ms; the last beside "
              f"the first: {base[1] / base[0]:.2f}.", "",
              f"Memory (PSS) for each container: monitor {per_container[0]:.1f} KiB, worker {per_container[1]:.1f} KiB."]
    return lines


# --- restart -------------------------------------------------------------------------------------------------------

class Probe:
    """Flows in a container without a pause; when each was served."""

    def __init__(self, box):
        self.process = box.start("python3", "-c", PROBE, origins.address("allowed.example"))
        self.served = []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.served.append(float(line))

    def first_after(self, moment):
        laboratory.wait_until(lambda: self.served and self.served[-1] > moment, "service", 60)
        return next(when for when in self.served if when > moment)

    def longest_pause(self, begin, end):
        within = [begin, *(when for when in self.served if begin < when < end), end]
        return max(b - a for a, b in zip(within, within[1:]))

    def close(self):
        self.process.kill()
        self.process.wait()


def drop_notices(gateway):
    gateway.settled()


def restart(gateway, probe, kept):
    """Seconds from the start to the first flow served, and to the last container."""
    status = gateway.status()
    gateway.kill()
    if not kept:
        gateway.forget_everything()
    laboratory.wait_until(lambda: not Path(f"/proc/{status['worker']}").exists(), "the end of the worker", 30)
    time.sleep(0.2)  # what the dead worker had accepted has ended by then
    drop_notices(gateway)
    begin = time.monotonic()
    gateway.start(wait=False)
    gateway.await_notice("READY=1")
    ready = time.monotonic() - begin
    return probe.first_after(begin) - begin, ready


def restart_rows(bench, probe, count, rounds):
    rows = []
    for name, kept in (("namespaces entered again", False), ("sockets kept by a service manager", True)):
        took = [restart(bench.gateway, probe, kept) for _ in range(rounds)]
        first, ready = (statistics.median(column) * 1e3 for column in zip(*took))
        rows.append(f"| {count} | {name} | {first:.0f} | {ready:.0f} |")
    return rows


# --- upgrade -------------------------------------------------------------------------------------------------------

def upgrades(bench, box, probe, count):
    gateway, took = bench.gateway, []
    seconds = 4 * count
    wrk = subprocess.Popen(box.command("wrk", "-t", "1", "-c", "16", "-d", str(seconds), "-H", "Connection: close",
                                       "http://allowed.example/"), stdout=subprocess.PIPE, text=True, env=bench.lab.environment())
    begin = time.monotonic()
    for _ in range(count):
        took.append(timed(upgrade, gateway))
        time.sleep(1)
    end = time.monotonic()
    told = wrk.communicate()[0]
    requests = int(re.search(r"(\d+) requests in", told)[1])
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", told)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    lost = sum(map(int, errors.groups())) if errors else 0
    lost += int(refused[1]) if refused else 0
    return (f"{count} upgrades with {bench.gateway.status()['containers']} containers while {requests} connections were made: **{lost} lost**. "
            f"An upgrade takes {statistics.median(took):.0f} ms from the request to the last container served; the longest that a client "
            f"saw no flow served was {probe.longest_pause(begin, end) * 1e3:.0f} ms.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(HERE.parent / "build"))
    parser.add_argument("--containers", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--upgrades", type=int, default=5)
    parser.add_argument("--results", default=str(HERE / "results"))
    options = parser.parse_args()
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[1] // DESCRIPTORS_EACH
    if options.containers > room:
        sys.exit(f"a process may have too few descriptors open here: try --containers {room}")
    bench = Lab(options)
    try:
        box = bench.gateway.container("--policy", "agents")
        probe = Probe(box)
        restarts = restart_rows(bench, probe, 1, 5)
        probe.close()  # it would take its share of what is measured
        times, stages, per_container = enroll_crowd(bench, options)
        probe = Probe(box)
        for number in range(100, options.containers - 1):  # to a hundred again, for their restart
            if number == 100:
                full = restart_rows(bench, probe, options.containers + 1, 3)
                lost = upgrades(bench, box, probe, options.upgrades)
            crowds.withdraw(bench.gateway.control, f"one-{number}")
        restarts += restart_rows(bench, probe, bench.gateway.status()["containers"], 5) + full
        probe.close()
    finally:
        bench.close()
    on = machine()
    lines = ["## Enrolment, restart, upgrade", "", f"{on['cpu']}, {on['cores']} CPUs, Linux {on['kernel']}; {datetime.date.today()}; load "
             f"{os.getloadavg()[2]:.0f} (15 min).", "", *enrolment_table(times, stages, per_container, options), "",
             "| containers | restart after SIGKILL | first flow served, ms | all served, ms |", "|--:|---|--:|--:|", *restarts, "", lost, ""]
    text = "\n".join(lines)
    print(text)
    Path(options.results).mkdir(exist_ok=True)
    (Path(options.results) / "enrolment.md").write_text(text)


if __name__ == "__main__":
    main()
