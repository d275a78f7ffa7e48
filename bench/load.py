"""
Sallyport beside the proxies people know, under load: the same work, the same pinned CPU, in turns.

    load.py [--build DIR] [--rounds N] [--seconds S] [--works A,B…] [--subjects A,B…] [--flows N] [--results DIR]

Works (load_client.c says what each unit is):
    flows    new TLS flow: connect, ClientHello, 1 KiB answer, close; 64 at a time
    latency  flows again, as many a second as 30 % of what the slowest subject managed: how long a new flow takes when there is
             room; an open loop, so that what a stall keeps waiting is counted too
    refused  a name that is not allowed, 64 at a time
    echo     64 bytes there and back, on 64 flows
    down, up bulk, on 4 flows
    http     kept-alive plain HTTP requests with 1 KiB answers, on 64 connections
    idle     memory in user space for idle flows

What is counted: CPU time of the subject's whole process tree for a unit of work, as the scheduler counted it. The kernel's
work for a packet is done, on these virtual links, in the context of whoever sent it, so that is most of what there is;
"all" is the CPU of subject, load generator and servers together, which catches what a subject makes others pay for, and is
what plain forwarding can be compared by.

Ratios are medians of the ratios of each round, Sallyport's to the best peer's (the kernel is no peer), with their quartiles:
whatever else runs on the machine meets the subjects of a round alike, more or less. There is none when a unit failed on
either side or the quartiles are further apart than SPREAD_MAX of the median, and none of throughput unless both subjects had
used up their CPU.
"""
import argparse
import datetime
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import load_lab  # noqa: E402
import picture  # noqa: E402
import subjects as contestants  # noqa: E402
from load_lab import Load, LoadLab, cpu_seconds, user_kib  # noqa: E402
from series import Failure, machine, quantile  # noqa: E402

SPREAD_MAX = 0.20  # distance between the quartiles of the ratio, of the median
SATURATED = 0.90   # of its CPU
WORKS = {  # name: connections, unit, how many units a figure of CPU is for, its name
    "flows": (64, "flows/s", 1, "µs a flow"),
    "latency": (512, "flows/s", 1, "µs a flow"),
    "refused": (64, "flows/s", 1, "µs a flow"),
    "echo": (64, "round trips/s", 1, "µs a round trip"),
    "down": (4, "GB/s", 1e9, "s a GB"),
    "up": (4, "GB/s", 1e9, "s a GB"),
    "http": (64, "requests/s", 1, "µs a request"),
}
PEERS = {one.name for one in contestants.ALL
         if one not in (contestants.Sallyport, contestants.Kernel) and not one.reference}
TITLES = {
    "flows": "New TLS flow: connect, ClientHello, 1 KiB answer, close; 64 at a time",
    "latency": "New TLS flow at 30 % load",
    "refused": "Refused flow: a name that is not allowed; 64 at a time",
    "echo": "Round trip of 64 bytes on 64 flows",
    "down": "Bulk down, 4 flows",
    "up": "Bulk up, 4 flows",
    "http": "Plain HTTP, kept alive: GET with 1 KiB answer on 64 connections",
}


class Figures:
    """What one subject did in one work, a figure a round."""

    def __init__(self):
        self.rounds, self.failures = [], {}

    def add(self, result, wall, subject, everything, others):
        for why, count in result["failures"].items():
            self.failures[why] = self.failures.get(why, 0) + count
        units = result["units"]
        if not units:
            self.failures.setdefault("no unit was completed", 1)
            return
        self.rounds.append({"rate": units / result["seconds"], "cpu": subject / units, "all": everything / units,
                            "busy": subject / result["seconds"], "others": others, "p50_us": result["latency_us"]["p50"],
                            "p99_us": result["latency_us"]["p99"]})

    def usable(self):
        return bool(self.rounds) and not self.failures

    def values(self, key):
        return [one[key] for one in self.rounds]

    def median(self, key):
        return statistics.median(self.values(key))

    def spread(self, key):
        ordered = sorted(self.values(key))
        return (quantile(ordered, 0.75) - quantile(ordered, 0.25)) / max(statistics.median(ordered), 1e-12)


def cpu_busy_seconds(cpu):
    """How long this CPU was not idle since boot."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{cpu} "):
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    raise RuntimeError(f"no CPU {cpu}")


def measure(lab, subject, work, milliseconds, figures, rate=None):
    """One round of one subject: its CPU, and everybody's, over exactly the time of the work."""
    connections = WORKS[work][0]
    try:
        load = Load(lab, subject.clients, work, connections, milliseconds, rate)
    except Failure as why:
        figures.failures[str(why)] = figures.failures.get(str(why), 0) + 1
        return

    def clocks():
        own = cpu_seconds(subject.pid) if subject.pid else 0.0
        around = cpu_seconds(load.process.pid) + cpu_seconds(lab.server_pid)
        return own, own + around, cpu_busy_seconds(lab.subject_cpu), os.times().elapsed

    try:
        before = clocks()
        result = load.run()
        after = clocks()
        load.end()
    except Failure as why:
        figures.failures[str(why)] = figures.failures.get(str(why), 0) + 1
        load.abandon()
        return
    own, everything, busy, wall = (b - a for a, b in zip(before, after))
    figures.add(result, wall, own, everything, max(0.0, busy - own) / wall)


LIGHT_LOAD = 0.3


def offered_rate(table):
    """The same for all: part of what the slowest of them managed when there was no limit."""
    rates = [figures.median("rate") for figures in table.get("flows", {}).values() if figures.rounds]
    return LIGHT_LOAD * min(rates) if rates else None


def measure_works(lab, subjects, works, rounds, milliseconds):
    table = {}
    for work in works:
        able = [one for one in subjects if one.does(work)]
        table[work] = {one.name: Figures() for one in able}
        rate = offered_rate(table) if work == "latency" else None
        if work == "latency" and not rate:
            print("latency: no rate of flows to take 30 % of; add `flows` to --works\n")
            del table[work]
            continue
        for turn in range(rounds + 1):  # the first is a warm-up: only its failures count
            for one in able[turn % len(able):] + able[:turn % len(able)]:
                figures = table[work][one.name]
                measure(lab, one, work, milliseconds, figures, rate)
                if turn == 0:
                    figures.rounds.clear()
        print(report_work(work, table[work]), flush=True)
    return table


def measure_idle(lab, subjects, flows):
    """User-space memory for idle flows; before any other work, so that nothing left over from it is used."""
    sizes = {}
    for one in subjects:
        if not one.does("hold"):
            continue
        before = user_kib(one.pid)
        load = Load(lab, one.clients, "hold", flows)
        after = user_kib(one.pid)
        result = load.run()
        load.end()
        up = result["up"] if not result["failures"] else 0
        sizes[one.name] = {"flows": up, "idle_kib": before, "bytes_a_flow": (after - before) * 1024 / up if up == flows else None}
    return sizes


# --- what is said of it -----------------------------------------------------------------------------------------------

def best_peer(row, key, better):
    peers = {name: figures for name, figures in row.items() if name in PEERS and figures.usable()}
    return better(peers, key=lambda name: peers[name].median(key), default=None)


def ratio(row, key, better):
    """(text, value or None)."""
    ours, peer = row.get(contestants.Sallyport.name), best_peer(row, key, better)
    if not ours or not peer:
        return "nothing to compare with", None
    theirs = row[peer]
    if not ours.usable():
        return "none: flows of Sallyport failed", None
    for name, figures in (("Sallyport", ours), (peer, theirs)):
        if key == "rate" and figures.median("busy") < SATURATED:
            return f"none: {name} had used only {figures.median('busy'):.0%} of its CPU", None
    ratios = sorted(a / b for a, b in zip(ours.values(key), theirs.values(key)))
    low, value, high = quantile(ratios, 0.25), statistics.median(ratios), quantile(ratios, 0.75)
    if high - low > SPREAD_MAX * value:
        return f"none: from round to round it is {low:.2f} to {high:.2f} of {peer}, too far apart", None
    return f"{value:.2f} of {peer} ({low:.2f}–{high:.2f})", value


def _figure(seconds_a_unit, work):
    units = WORKS[work][2]
    return f"{seconds_a_unit * units:.2f}" if units > 1 else f"{seconds_a_unit * 1e6:.1f}"


def report_work(work, row):
    _, rate_name, units, cpu_name = WORKS[work]
    lines = [f"### {TITLES[work]}", "",
             f"| | {rate_name} | CPU: {cpu_name} | spread | all | CPU used | others' | p50 ms | p99 ms | failed |",
             "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for name, figures in row.items():
        failed = ", ".join(f"{count} {why}" for why, count in figures.failures.items()) or "0"
        if not figures.rounds:
            lines.append(f"| {name} | | | | | | | | | {failed} |")
            continue
        kernel = name == contestants.Kernel.name
        rate = figures.median("rate") / units
        p50, p99 = (f"{figures.median(key) / 1000:.2f}" if units == 1 else "" for key in ("p50_us", "p99_us"))
        lines.append(f"| {name} | {f'{rate:.2f}' if units > 1 else f'{rate:.0f}'} "
                     f"| {'' if kernel else _figure(figures.median('cpu'), work)} "
                     f"| {'' if kernel else format(figures.spread('cpu'), '.0%')} | {_figure(figures.median('all'), work)} "
                     f"| {'' if kernel else format(figures.median('busy'), '.0%')} | {figures.median('others'):.0%} "
                     f"| {p50} | {p99} | {failed} |")
    lines += ["", f"Sallyport's CPU: {ratio(row, 'cpu', min)[0]}; CPU of all: {ratio(row, 'all', min)[0]}; "
              f"throughput: {ratio(row, 'rate', max)[0]}.", ""]
    if units == 1:
        lines[-2:] = [f"{lines[-2][:-1]}; p50: {ratio(row, 'p50_us', min)[0]}; p99: {ratio(row, 'p99_us', min)[0]}.", ""]
    return "\n".join(lines)


def report_refusal(table):
    allowed, refused = (table.get(work, {}).get("Sallyport") for work in ("flows", "refused"))
    if not (allowed and refused and allowed.usable() and refused.usable()):
        return ""
    return f"A refused flow costs Sallyport {refused.median('cpu') / allowed.median('cpu'):.2f} of an allowed one.\n"


def report_idle(sizes, flows):
    lines = [f"### User-space memory of {flows} idle TLS flows", "", "| | started, KiB | bytes a flow |", "|---|--:|--:|"]
    for name, size in sizes.items():
        each = f"none: only {size['flows']} came up" if size["bytes_a_flow"] is None else f"{size['bytes_a_flow']:.0f}"
        lines.append(f"| {name} | {size['idle_kib']} | {each} |")
    return "\n".join(lines) + "\n"


def report_machine(facts, versions, arguments):
    return (f"{', '.join(versions)}; {facts['cores']} cores ({facts['cpu']}), {facts['memory_mib']} MiB, Linux {facts['kernel']}; "
            f"load average before the run {facts['load_before'][0]:.1f}, after it {facts['load_after'][0]:.1f}; "
            f"{arguments.rounds} rounds of {arguments.seconds} s, {datetime.date.today()}.\n")


def draw_picture(table, sizes, facts):
    """Of what did not fail. The bars are medians; the ratios in the tables, which are of rounds, say more."""
    works = []
    for work, row in table.items():
        rows = [(name, figures.median("cpu"), f"{_figure(figures.median('cpu'), work)} {WORKS[work][3]}")
                for name, figures in row.items() if name != contestants.Kernel.name and figures.usable()]
        works.append((TITLES[work], rows))
    rows = [(name, size["bytes_a_flow"], f"{size['bytes_a_flow']:.0f} bytes") for name, size in sizes.items() if size["bytes_a_flow"]]
    if rows:
        works.append(("User-space memory of an idle flow", rows))
    return picture.draw(works, f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, {datetime.date.today()}")


def versions(lab):
    found = []
    for argv in ([lab.binary, "--version"], ["haproxy", "-v"], ["nginx", "-v"], ["sniproxy", "-V"]):
        done = subprocess.run(argv, capture_output=True, text=True)
        found.append((done.stdout + done.stderr).splitlines()[0].split(" - ")[0].strip())
    return found


# --- the run ----------------------------------------------------------------------------------------------------------

def run(lab, arguments):
    facts = {**machine(), "load_before": os.getloadavg()}
    subjects, parts, sizes = [], [], {}
    try:
        for kind in contestants.ALL:
            if kind is contestants.Sallyport or not arguments.subjects or kind.name.lower().split()[0] in arguments.subjects:
                subjects.append(kind(lab))
        if "idle" in arguments.works:
            sizes = measure_idle(lab, subjects, arguments.flows)
            parts.append(report_idle(sizes, arguments.flows))
            print(parts[0])
        works = [work for work in arguments.works if work != "idle"]
        table = measure_works(lab, subjects, works, arguments.rounds, int(arguments.seconds * 1000))
    finally:
        for one in subjects:
            one.close()
    facts["load_after"] = os.getloadavg()
    closing = [report_refusal(table), report_machine(facts, versions(lab), arguments)]
    print(*closing, sep="\n")
    text = "\n".join(["## Under load", "", *(report_work(work, row) for work, row in table.items()), *parts, *closing])
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "load.md").write_text(text)
    (arguments.results / "load.svg").write_text(draw_picture(table, sizes, facts))
    return all(row["Sallyport"].usable() for row in table.values() if "Sallyport" in row)


def words(text):
    return text.split(",")


def read_arguments():
    parser = argparse.ArgumentParser(description="Sallyport beside other proxies, under load.")
    parser.add_argument("--build", type=Path, default=HERE.parent / "build", help="the build directory (build)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each work and subject (5)")
    parser.add_argument("--seconds", type=float, default=2, metavar="S", help="of each round (2)")
    parser.add_argument("--works", type=words, default=[*WORKS, "idle"], metavar="A,B", help=f"of {','.join(WORKS)},idle")
    parser.add_argument("--subjects", type=words, metavar="A,B", help="beside Sallyport: of haproxy,nginx,sniproxy,kernel")
    parser.add_argument("--flows", type=int, default=4000, metavar="N", help="held idle (4000)")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="for load.md (bench/results)")
    return parser.parse_args()


def main():
    arguments = read_arguments()
    if os.geteuid():
        sys.exit("load.py: run it as root: it makes network namespaces, and proxies in them")
    folder = tempfile.mkdtemp(prefix="sallyport-bench-")
    lab = None
    try:
        lab = LoadLab(folder, arguments.build, *load_lab.cpus_of_machine())
        good = run(lab, arguments)
    finally:
        if lab:
            lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
