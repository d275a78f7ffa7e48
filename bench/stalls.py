"""
Is the worker's loop ever stopped? Turns of the loop by their length, while something heavy goes on beside the flows.

    stalls.py [--build DIR] [--seconds N] [--names N] [--results DIR]

    nothing        kept-alive HTTPS connections alone, as in all that follow
    reload         a policy of --names names is changed and loaded, again and again
    rotation       the audit log is renamed and opened anew, fifty times a second
    names          each connection is to a name that nobody looked up before
    certificates   the same, and its origin has to prove each name first (verify_origin: always)

A turn is from the moment the loop woke to the moment it asks for events again: how long an event may have waited. Each is counted
(the metric sallyport_loop_lag_seconds; up to 1 ms too long, gateway/loop_lag.h), in wall-clock time: what another process took of the
processor is in it. So the machine should be idle, and the line `nothing` says what it is worth.
"""
import argparse
import datetime
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import lab as laboratory  # noqa: E402
import origin  # noqa: E402
import ways  # noqa: E402
from daemon import Gateway  # noqa: E402
from lab import NAME_SERVER  # noqa: E402
from live_change import write_names  # noqa: E402
from metrics import Endpoint  # noqa: E402
from series import machine  # noqa: E402

GOAL = "0.005"  # seconds: a bound of the histogram
SHOWN = ("0.001", "0.002", GOAL, "0.01", "0.025")
POLICIES = f"""version: 1
gateway: {{resolvers: [{NAME_SERVER}], ca_file: ca.pem, admin: {{listen: 127.0.0.1:9464}}, limits: {{dns_queries_per_second: 100000}}}}
destinations: {{allow: [198.18.0.0/15]}}
policies:
  names: {{allow: [{origin.NAME}, "*.{origin.FRESH}"], allow_files: [names.txt]}}
  certificates: {{allow: [{origin.NAME}, "*.{origin.FRESH}"], verify_origin: always}}
default: names
"""


class Bench:
    def __init__(self, lab, options):
        self.lab, self.options = lab, options
        self.fresh = origin.fresh_names()
        self.gateway = Gateway(lab, "")
        self.names = self.gateway.folder / "names.txt"
        shutil.copy(lab.folder / "ca.pem", self.gateway.folder)
        write_names(self.names, options.names, 0)
        self.gateway.config.write_text(POLICIES)
        self.gateway.start(wait=False)
        self.gateway.await_notice("READY=1", seconds=300)
        self.boxes = {policy: self.gateway.container("--policy", policy) for policy in ("names", "certificates")}
        self.endpoint = Endpoint(self.gateway)

    def client(self, policy):
        return ways.Talker(self.boxes[policy].start(*ways._client(self.lab))).await_ready()

    def turns(self):
        """{bound: turns not longer}, and how many altogether."""
        samples = self.endpoint.metrics()
        bounds = {dict(labels)["le"]: value for (name, labels), value in samples.items()
                  if name == "sallyport_loop_lag_seconds_bucket"}
        return bounds, samples["sallyport_loop_lag_seconds_count", frozenset()]

    def during(self, activity, policy="names", name=lambda: origin.NAME):
        """Connections one after the other while `activity(until)` runs; the turns of that time."""
        client, until = self.client(policy), time.monotonic() + self.options.seconds
        before, all_before = self.turns()
        worker = threading.Thread(target=activity, args=(until,))
        worker.start()
        count = 0
        while worker.is_alive() or time.monotonic() < until:
            client.get(name(), origin.ORIGIN)
            count += 1
        worker.join()
        after, all_after = self.turns()
        ways._end(client.process)
        total = all_after - all_before
        return {"connections": count, "turns": int(total),
                "longer": {bound: int(total - (after[bound] - before[bound])) for bound in SHOWN}}

    def reload(self, until):
        number = 0
        while time.monotonic() < until:
            number += 1
            write_names(self.names, self.options.names, number)
            answer = self.gateway.request({"do": "reload"}, timeout=300)
            assert answer["ok"], answer

    def rotate(self, until):
        while time.monotonic() < until:
            os.rename(self.gateway.audit_path, f"{self.gateway.audit_path}.1")
            os.kill(self.gateway.process.pid, signal.SIGUSR1)
            while not self.gateway.audit_path.exists():
                time.sleep(0.001)
            time.sleep(0.02)  # the pace of the work, not a wait

    def run(self):
        fresh = lambda: next(self.fresh)  # noqa: E731
        return {"nothing": self.during(lambda until: None),
                f"reload of {self.options.names:,} names".replace(",", " "): self.during(self.reload),
                "rotation of the audit log": self.during(self.rotate),
                "names never looked up before": self.during(lambda until: None, name=fresh),
                "certificates never proven before": self.during(lambda until: None, policy="certificates", name=fresh)}


def table(got, options, load):
    yield "| beside connections | connections | turns of the loop | " + " | ".join(f"> {float(bound) * 1000:g} ms" for bound in SHOWN) + " |"
    yield "|---|--:|--:|" + "--:|" * len(SHOWN)
    for title, one in got.items():
        yield f"| {title} | {one['connections']} | {one['turns']} | " + " | ".join(str(one["longer"][bound]) for bound in SHOWN) + " |"
    facts = machine()
    yield ""
    yield (f"{options.seconds} s each, {facts['cores']} cores ({facts['cpu']}), Linux {facts['kernel']}; load average {load:.1f} before, "
           f"{os.getloadavg()[0]:.1f} after; {datetime.date.today()}.")


def main():
    parser = argparse.ArgumentParser(description="Turns of the worker's loop, while something heavy goes on beside the flows.")
    parser.add_argument("--build", type=Path, default=HERE.parent / "build", help="the build directory (build)")
    parser.add_argument("--seconds", type=float, default=10, metavar="N", help="of each line (10)")
    parser.add_argument("--names", type=int, default=1000000, metavar="N", help="in the policy (1000000)")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="for stalls.md (bench/results)")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("stalls.py: run it as root: it makes network namespaces, and servers in them")
    folder, load = tempfile.mkdtemp(prefix="sallyport-stalls-"), os.getloadavg()[0]
    lab = laboratory.Lab(folder, options.build / "cli/sallyport")
    try:
        shutil.copy(options.build / "bench/https_client", lab.folder)
        origin.start(lab)
        bench = Bench(lab, options)
        try:
            got = bench.run()
        finally:
            bench.gateway.close()
    finally:
        lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    text = "\n".join(["# Turns of the loop", "", *table(got, options, load)]) + "\n"
    print(text, end="")
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "stalls.md").write_text(text)


if __name__ == "__main__":
    main()
