"""
Measured numbers: series of samples, what to say about them, and the machine they were taken on.

A series with a failure in it has no ratio: what failed took no honest time, and what remains is a selection.
"""
import math
import os
import platform
import statistics


def quantile(ordered, q):
    """Nearest rank: always a value that was measured."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


class Series:
    """Samples in nanoseconds. `take()` returns one, or raises Failure."""

    def __init__(self, name, take, baseline=None):
        self.name, self.take, self.baseline = name, take, baseline
        self.samples, self.failures = [], []

    def measure(self, warm_up):
        """One sample. A warm-up is not counted, but its failure is."""
        try:
            sample = self.take()
        except Failure as why:
            self.failures.append(str(why))
        else:
            if not warm_up:
                self.samples.append(sample)

    def usable(self):
        return bool(self.samples) and not self.failures

    def summary(self):
        if not self.samples:
            return None
        ordered = sorted(self.samples)
        return {"median": statistics.median(ordered), "p25": quantile(ordered, 0.25), "p75": quantile(ordered, 0.75),
                "p99": quantile(ordered, 0.99), "min": ordered[0], "max": ordered[-1]}

    def compared(self):
        """This beside its baseline, of the same run; None when either had a failure. What is added at p99 is the
        difference of the two p99, so on a machine that does other work it may come out negative: then it says nothing."""
        if not (self.baseline and self.usable() and self.baseline.usable()):
            return None
        ours, theirs = self.summary(), self.baseline.summary()
        return {"ratio": ours["median"] / theirs["median"], "ratio_p99": ours["p99"] / theirs["p99"],
                "added_median": ours["median"] - theirs["median"], "added_p99": ours["p99"] - theirs["p99"]}

    def as_json(self):
        return {"name": self.name, "unit": "ns", "count": len(self.samples), "failures": self.failures,
                "summary": self.summary(), "baseline": self.baseline.name if self.baseline else None,
                "compared": self.compared(), "samples": self.samples}


class Failure(Exception):
    pass


def interleave(series, count, warm_up=3):
    """Takes turns, and turns the order round each time, so that whatever the machine does meanwhile meets all alike."""
    for turn in range(warm_up + count):
        for one in series if turn % 2 else reversed(series):
            one.measure(turn < warm_up)


def _ms(nanoseconds):
    return f"{nanoseconds / 1e6:.3f}"


def print_series(title, series):
    print(f"{title} (ms)")
    print(f"  {'':42}{'n':>5}{'failed':>7}{'median':>9}{'p25–p75':>17}{'p99':>9}{'max':>9}{'ratio':>7}{'added: median':>15}{'p99':>9}")
    for one in series:
        line = f"  {one.name:42}{len(one.samples):>5}{len(one.failures):>7}"
        if summary := one.summary():
            spread = f"{_ms(summary['p25'])}–{_ms(summary['p75'])}"
            line += f"{_ms(summary['median']):>9}{spread:>17}{_ms(summary['p99']):>9}{_ms(summary['max']):>9}"
        if compared := one.compared():
            line += f"{compared['ratio']:>7.2f}{_ms(compared['added_median']):>15}{_ms(compared['added_p99']):>9}"
        elif one.baseline:
            line += "   none: something failed"
        print(line)
        for why in sorted(set(one.failures)):
            print(f"      {one.failures.count(why)} × {why}")
    print()


def machine():
    model = ""
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith(("model name", "Model")):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as info:
        memory = int(info.readline().split()[1]) // 1024
    return {"cpu": model or platform.machine(), "cores": len(os.sched_getaffinity(0)), "memory_mib": memory,
            "kernel": platform.release()}
