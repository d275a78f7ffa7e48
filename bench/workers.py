"""
Two workers beside one: new flows and round trips a second, and what each costs.

    workers.py [--build DIR] [--rounds N] [--seconds S] [--share PERCENT] [--works flows,echo] [--results DIR]

Two gateways of the same program, one with one worker and one with two, take turns under the same load: two enrolled containers with
32 connections each, all of them one worker's, or one container each. What limits must be the workers, not the machine: load generator
and servers need as much processor as the gateway does. So each worker may use only so much of a processor of its own (--share, by
the kernel's bandwidth control in periods of 20 ms), and the rest is the load's, before whatever else runs on the machine. How far two
are from twice one is then what they take from each other: by locks, by waiting for the monitor, by cache lines that both write.

There is no ratio when a unit failed, when a worker had not used up its share (then something else was the limit: the load), or when
the rounds are too far apart. Writes results/workers.md.
"""
import argparse
import contextlib
import datetime
import os
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import daemon  # noqa: E402
from lab import wait_until  # noqa: E402
from load import SPREAD_MAX, WORKS  # noqa: E402
from load_lab import NAMES, Load, LoadLab, cpu_seconds, resolve_all, tune  # noqa: E402
from series import Failure, machine, quantile  # noqa: E402

PERIOD_US = 20000
USED_UP = 0.93  # of its share
CONTAINERS = 2
CPU_CONTROLLER = Path("/sys/fs/cgroup/cpu")  # cgroup v1, where it is mounted there; else v2 at its usual place


class Share:
    """A control group whose processes have so much of a processor, all of them if `part` is None, whatever else runs."""

    def __init__(self, name, part):
        self.v1 = (CPU_CONTROLLER / "cpu.cfs_quota_us").exists() or (CPU_CONTROLLER / "cpu.shares").exists()
        root = CPU_CONTROLLER if self.v1 else Path("/sys/fs/cgroup")
        if not self.v1 and "cpu" not in (root / "cgroup.controllers").read_text().split():
            raise Failure("no cpu controller of cgroups is to be had: the workers cannot be given shares")
        if not self.v1 and "cpu" not in (root / "cgroup.subtree_control").read_text().split():
            (root / "cgroup.subtree_control").write_text("+cpu")
        self.folder = root / f"sallyport-bench-{os.getpid()}-{name}"
        self.folder.mkdir()
        quota = int(PERIOD_US * part) if part else None
        if self.v1:
            (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.folder / "cpu.cfs_quota_us").write_text(str(quota or -1))
            (self.folder / "cpu.shares").write_text("262144")
        else:
            (self.folder / "cpu.max").write_text(f"{quota or 'max'} {PERIOD_US}")
            (self.folder / "cpu.weight").write_text("10000")

    def take(self, pid):
        (self.folder / "cgroup.procs").write_text(str(pid))

    def leave(self, pid):
        (self.folder.parent / "cgroup.procs").write_text(str(pid))

    def close(self):
        wait_until(lambda: not (self.folder / "cgroup.procs").read_text(), "the end of what was in a control group")
        self.folder.rmdir()


class Workers:
    """A gateway with so many workers, each with a processor of its own of which it may use a part; and two containers."""

    def __init__(self, lab, count, part):
        self.count, self.shares = count, []
        rules = "\n".join(f"      - {name}" for name in NAMES.values())
        limits = "limits: {flows_per_container: 16000, flows_total: 16000, flows_per_second: 1000000}"
        self.gateway = daemon.Gateway(lab, "", settings=f", workers: {count}, {limits}")
        self.gateway.write_policy(f"policies:\n  bench:\n    allow:\n{rules}\ndefault: bench\n")
        try:
            self.gateway.start()
            self.boxes = [self.gateway.container() for _ in range(CONTAINERS)]
            for box in self.boxes:
                tune(box)
                resolve_all(box)
            self.workers = self.gateway.workers()
            for number, worker in enumerate(self.workers):
                self._confine(number, worker, part)
        except BaseException:
            self.close()
            raise

    def place(self, turn):
        """Each on a processor of its own, another one each turn: what else runs may favour one of them."""
        cpus = sorted(os.sched_getaffinity(0))
        for number, worker in enumerate(self.workers):
            for task in Path(f"/proc/{worker}/task").iterdir():
                os.sched_setaffinity(int(task.name), {cpus[(number + turn) % len(cpus)]})

    def _confine(self, number, worker, part):
        share = Share(f"{self.count}-{number}", part)
        self.shares.append(share)
        share.take(worker)

    def close(self):
        self.gateway.close()
        for share in self.shares:
            share.close()


def idle_seconds():
    """Of all processors together, since boot."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return int(fields[3]) / os.sysconf("SC_CLK_TCK")


def measure(lab, subject, work, milliseconds, part):
    """{"rate", "cpu" a unit} of one round; raises Failure when it says nothing."""
    loads, results = [], {}

    def run(number):
        results[number] = loads[number].run()

    try:
        for box in subject.boxes:
            loads.append(Load(lab, box, work, WORKS[work][0] // CONTAINERS, milliseconds))
        threads = [threading.Thread(target=run, args=(number,)) for number in range(CONTAINERS)]
        before = [cpu_seconds(worker) for worker in subject.workers], idle_seconds(), os.times().elapsed
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = [cpu_seconds(worker) for worker in subject.workers], idle_seconds(), os.times().elapsed
    finally:
        for load in loads:
            load.end() if len(results) == CONTAINERS else load.abandon()
    failed = {why: count for result in results.values() for why, count in result["failures"].items()}
    if failed:
        raise Failure(", ".join(f"{count} {why}" for why, count in failed.items()))
    wall = after[2] - before[2]
    used = [(b - a) / wall / part for a, b in zip(before[0], after[0])]
    room = (after[1] - before[1]) / wall / os.cpu_count()
    units = sum(result["units"] for result in results.values())
    return {"rate": sum(result["units"] / result["seconds"] for result in results.values()),
            "cpu": sum(b - a for a, b in zip(before[0], after[0])) / units, "used": min(used), "room": room}


def ratio(one, two, key):
    ratios = sorted(b[key] / a[key] for a, b in zip(one, two))
    low, value, high = quantile(ratios, 0.25), statistics.median(ratios), quantile(ratios, 0.75)
    if high - low > SPREAD_MAX * value:
        return f"none: from round to round it is {low:.2f} to {high:.2f}, too far apart"
    return f"{value:.2f} ({low:.2f}–{high:.2f})"


def why_not(name, rounds):
    used = statistics.median(one["used"] for one in rounds)
    return f"none: {name} had used only {used:.0%} of what it may" if used < USED_UP else None


def report(work, table, failures):
    _, unit, _, cpu = WORKS[work]
    lines = [f"### {work}", "", f"| workers | {unit} | CPU: {cpu} | share used up | machine idle | failed |", "|---|--:|--:|--:|--:|--:|"]
    for count, rounds in table.items():
        failed = "; ".join(failures[count]) or "0"
        if not rounds:
            lines.append(f"| {count} | | | | | {failed} |")
            continue
        median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        lines.append(f"| {count} | {median['rate']:.0f} | {median['cpu'] * 1e6:.1f} | {median['used']:.0%} | {median['room']:.0%} | {failed} |")
    if any(failures.values()) or not all(table.values()):
        verdict = "none: units failed"
    else:
        verdict = why_not("one worker", table[1]) or why_not("two workers", table[2]) or ratio(table[1], table[2], "rate")
        lines += ["", f"CPU of a unit, two workers to one: {ratio(table[1], table[2], 'cpu')}."]
    return "\n".join([*lines, "", f"Throughput, two workers to one: {verdict}.", ""])


def run(lab, options):
    part, parts = options.share / 100, []
    facts = {**machine(), "load_before": os.getloadavg()}
    with contextlib.ExitStack() as stack:
        subjects = {count: stack.enter_context(contextlib.closing(Workers(lab, count, part))) for count in (1, 2)}
        for work in options.works:
            table, failures = {1: [], 2: []}, {1: [], 2: []}
            for turn in range(options.rounds + 1):  # the first is a warm-up
                for count in (1, 2) if turn % 2 else (2, 1):
                    try:
                        subjects[count].place(turn)
                        figures = measure(lab, subjects[count], work, int(options.seconds * 1000), part)
                        table[count] += [figures] if turn else []
                    except Failure as why:
                        failures[count].append(str(why))
            parts.append(report(work, table, failures))
            print(parts[-1], flush=True)
    closing = (f"Each worker: {options.share} % of a processor; {facts['cores']} cores ({facts['cpu']}), Linux {facts['kernel']}; load average "
               f"before the run {facts['load_before'][0]:.1f}; {options.rounds} rounds of {options.seconds} s, {datetime.date.today()}.\n")
    print(closing)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "workers.md").write_text("\n".join(["## Two workers beside one", "", *parts, closing]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=HERE.parent / "build")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--share", type=int, default=20, help="percent of a processor that each worker may use (20)")
    parser.add_argument("--works", type=lambda text: text.split(","), default=["flows", "echo"])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("workers.py: two workers want two processors; this process may run on one")
    folder = tempfile.mkdtemp(prefix="sallyport-workers-")
    lab, everywhere = None, ",".join(map(str, sorted(os.sched_getaffinity(0))))
    rest = Share("rest", None)  # load, servers and monitors
    try:
        rest.take(os.getpid())
        lab = LoadLab(folder, options.build, everywhere, everywhere)
        run(lab, options)
    finally:
        if lab:
            lab.close()
        rest.leave(os.getpid())
        rest.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
