"""
Sallyport's name service beside dnsmasq and unbound: the same questions by dnsperf, the same pinned CPU, in turns.

    dns.py [--build DIR] [--rounds N] [--questions N] [--subjects A,B…] [--works A,B…] [--results DIR]

Works:
    cached      questions for 1 000 names that have been asked for before; 100 on their way at a time
    forwarded   questions for names that nobody has asked for yet: every one goes to the server behind
    refused     questions for names that are not allowed: NXDOMAIN, by Sallyport with an audit event for each (the others are
                told that the names do not exist, and log nothing)
    memory      what 100 000 cached names take

Each subject is asked from inside a namespace, at the same address, without NAT or connection tracking for any of them.
Sallyport's is a sealed container under its own ruleset, where that address is nobody's, and whose questions the gateway answers
from outside; dnsmasq and unbound, which take no sockets from others, run inside, listen at that very address, and have no rules at
all and a link to the outside. The subject has one CPU to itself, dnsperf and the server behind share the other. Sallyport judges every question
by a policy, guards and remembers every address, and counts the container's rate; the others do none of it.

What is counted: CPU time of the subject's process tree for a question, as the scheduler counted it, and dnsperf's questions a
second. The 99th percentile is taken apart, at a rate that all can serve (--rate), since dnsperf tells latencies only question
by question. Ratios are medians of the ratios of each round, with their quartiles.
"""
import argparse
import datetime
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import daemon  # noqa: E402
import lab as laboratory  # noqa: E402
import load_lab  # noqa: E402
from lab import NAME_SERVER, missing_programs, wait_until  # noqa: E402
from load import cpu_busy_seconds  # noqa: E402
from load_lab import LoadLab, cpu_seconds, pinned, tune, user_kib  # noqa: E402
from series import Failure, machine, quantile  # noqa: E402

ASKED = "10.0.2.3"  # nobody's address in the sealed container, the peers' own beside them
ZONE = "bench.example"
TITLES = {"cached": "Cached: 1 000 names, asked for before", "forwarded": "Forwarded: names that nobody asked for before",
          "refused": "Refused: names that are not allowed"}


class DnsLab(LoadLab):
    def _start_servers(self):
        shutil.copy(self.build / "bench/dns_server", self.folder)
        self.internet.run("ip", "addr", "add", NAME_SERVER, "dev", "lo")
        server = self.internet.spawn(pinned(self.load_cpu, [self.folder / "dns_server", NAME_SERVER]), stdout=subprocess.PIPE, text=True)
        if server.stdout.readline() != "ready\n":
            raise RuntimeError("dns_server did not start")

    def __init__(self, folder, build, *cpus):
        self.build = build
        super().__init__(folder, build, *cpus)


# --- what is compared -------------------------------------------------------------------------------------------------

class _Gateway(daemon.Gateway):
    def command(self):
        return pinned(self.lab.subject_cpu, super().command())

    def write_policy(self, policy):
        self.config.write_text(f"version: 1\ngateway: {{resolvers: [{NAME_SERVER}], limits: {{dns_queries_per_second: 1000000}}}}\n"
                               f"{policy}")


class Sallyport:
    name = "Sallyport"

    def __init__(self, lab):
        self.gateway = _Gateway(lab, f"policies: {{bench: {{allow: [\"*.{ZONE}\"]}}}}\ndefault: bench\n")
        self.gateway.start()
        self.clients = self.gateway.container()
        self.pid = self.gateway.process.pid

    def close(self):
        self.gateway.close()


class _Peer:
    def __init__(self, lab):
        self.lab = lab
        _, self.clients = lab.way(forwards=True)
        self.clients.run("ip", "addr", "add", f"{ASKED}/32", "dev", "lo")
        self.complaints = lab.folder / f"{self.name}.err"
        with open(self.complaints, "w") as file:
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.clients.enter(pinned(lab.subject_cpu, self.command()))],
                                            stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.pid = self.process.pid
        wait_until(lambda: self.process.poll() is not None or self.clients.call(lambda: load_lab._ask(f"up.{ZONE}", ASKED)), self.name)
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} did not start: {self.complaints.read_text()}")

    def close(self):
        self.process.kill()
        self.process.wait()


class Dnsmasq(_Peer):
    name = "dnsmasq"

    def command(self):
        return ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--no-resolv", "--no-hosts",
                "--no-poll", f"--listen-address={ASKED}", "--bind-interfaces", "--cache-size=400000", "--dns-forward-max=10000",
                f"--server=/{ZONE}/{NAME_SERVER}", "--local=/denied.example/"]


class Unbound(_Peer):
    name = "unbound"

    def command(self):
        config = self.lab.folder / "unbound.conf"
        config.write_text(f"""
server:
  interface: {ASKED}
  num-threads: 1
  username: ""
  chroot: ""
  directory: "{self.lab.folder}"
  pidfile: ""
  do-daemonize: no
  use-syslog: no
  module-config: "iterator"
  access-control: 0.0.0.0/0 allow
  do-not-query-localhost: no
  msg-cache-size: 128m
  rrset-cache-size: 256m
  outgoing-range: 8192
  num-queries-per-thread: 4096
  use-caps-for-id: yes
  local-zone: "denied.example." static
  local-zone: "example." nodefault
forward-zone:
  name: "{ZONE}"
  forward-addr: {NAME_SERVER}
remote-control:
  control-enable: no
""")
        return ["unbound", "-d", "-c", config]


ALL = (Sallyport, Dnsmasq, Unbound)


# --- one piece of work ------------------------------------------------------------------------------------------------

class Questions:
    """Files of names for dnsperf. Fresh names are used once a subject: none is repeated by another round."""

    def __init__(self, lab):
        self.lab, self.round = lab, 0

    def file(self, work, count):
        names = {"cached": lambda i: f"c{i % 1000}.{ZONE}", "forwarded": lambda i: f"f{self.round}x{i}.{ZONE}",
                 "refused": lambda i: f"r{i}.denied.example"}[work]
        path = self.lab.folder / f"questions-{work}-{self.round}"
        if not path.exists():
            path.write_text("".join(f"{names(i)} A\n" for i in range(count)))
        return path


def dnsperf(lab, subject, path, *options):
    argv = ["dnsperf", "-s", ASKED, "-d", path, "-n", 1, "-c", 8, "-q", 100, "-t", 5, *options]
    done = subprocess.run(subject.clients.enter(pinned(lab.load_cpu, argv)), capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Failure(f"dnsperf: {(done.stderr + done.stdout).strip()[-300:]}")
    return done.stdout


def figure(text, what):
    return float(re.search(rf"{what}:?\s+([\d.]+)", text)[1])


def measure(lab, subject, work, path, count):
    """(questions a second, CPU seconds a question, share of its CPU used, share of it that others used)"""
    before = cpu_seconds(subject.pid), cpu_busy_seconds(lab.subject_cpu)
    said = dnsperf(lab, subject, path)
    own, busy = (b - a for a, b in zip(before, (cpu_seconds(subject.pid), cpu_busy_seconds(lab.subject_cpu))))
    wall, answered = figure(said, r"Run time \(s\)"), figure(said, "Queries completed")
    good = re.search(r"Response codes:\s+(\S+) \d+ \(100.00%\)", said)
    if answered < count * 0.999 or not good or good[1] != ("NXDOMAIN" if work == "refused" else "NOERROR"):
        raise Failure(f"{answered:.0f} of {count} answered: {re.search('Response codes.*', said)[0]}")
    return {"rate": answered / wall, "cpu": own / answered, "busy": own / wall, "others": max(0.0, busy - own) / wall}


def latencies(lab, subject, path, rate):
    said = dnsperf(lab, subject, path, "-v", "-Q", rate)
    told = [line.split() for line in said.splitlines() if line.startswith("> ")]
    if lost := sum(words[1] == "T" for words in told):
        raise Failure(f"{lost} of {len(told)} timed out when latencies were taken")
    times = sorted(float(words[-1]) for words in told)
    return {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}


def measure_work(lab, subjects, work, questions, arguments):
    rows = {one.name: {"rounds": [], "latency": [], "failures": []} for one in subjects}
    count = arguments.questions // (4 if work == "forwarded" else 1)
    for turn in range(arguments.rounds + 1):  # the first is a warm-up
        for one in subjects[turn % len(subjects):] + subjects[:turn % len(subjects)]:
            row = rows[one.name]
            try:
                result = measure(lab, one, work, questions.file(work, count), count)
                if turn:
                    row["rounds"].append(result)
            except Failure as why:
                row["failures"].append(str(why))
        questions.round += 1
        for one in subjects:
            sample = int(arguments.rate * 0.5)
            try:
                if turn:
                    rows[one.name]["latency"].append(latencies(lab, one, questions.file(work, sample), arguments.rate))
            except Failure as why:
                rows[one.name]["failures"].append(str(why))
        questions.round += 1
    return rows


def measure_memory(lab, subjects, count):
    """KiB in user space before and after `count` names were asked for, once each. (dnsmasq takes its memory at the start.)"""
    sizes = {}
    path = lab.folder / "questions-memory"
    path.write_text("".join(f"m{i}.{ZONE} A\n" for i in range(count)))
    for one in subjects:
        before = user_kib(one.pid)
        dnsperf(lab, one, path)
        after = user_kib(one.pid)
        sizes[one.name] = {"before": before, "after": after, "bytes": (after - before) * 1024 / count}
    return sizes


# --- what is said of it -----------------------------------------------------------------------------------------------

def median(row, key):
    return statistics.median(one[key] for one in row["rounds"])


def ratio(rows, key, peer):
    ours, theirs = rows["Sallyport"], rows.get(peer)
    if not theirs or not ours["rounds"] or len(ours["rounds"]) != len(theirs["rounds"]):
        return "none"
    ratios = sorted(a[key] / b[key] for a, b in zip(ours["rounds"], theirs["rounds"]))
    return f"{statistics.median(ratios):.2f} of {peer} ({quantile(ratios, 0.25):.2f}–{quantile(ratios, 0.75):.2f})"


def report(work, rows, rate):
    lines = [f"### {TITLES[work]}", "", f"| | questions/s | CPU: µs a question | CPU used | others' | p50, p99 at {rate}/s, ms | failed |",
             "|---|--:|--:|--:|--:|--:|--:|"]
    for name, row in rows.items():
        failed = "; ".join(row["failures"]) or "0"
        if not row["rounds"] or not row["latency"]:
            lines.append(f"| {name} | | | | | | {failed} |")
            continue
        p50, p99 = (statistics.median(one[key] for one in row["latency"]) * 1000 for key in ("p50", "p99"))
        lines.append(f"| {name} | {median(row, 'rate'):.0f} | {median(row, 'cpu') * 1e6:.2f} | {median(row, 'busy'):.0%} "
                     f"| {median(row, 'others'):.0%} | {p50:.2f}, {p99:.2f} | {failed} |")
    for peer in [name for name in rows if name != "Sallyport"]:
        lines += ["", f"Sallyport's CPU a question: {ratio(rows, 'cpu', peer)}; questions a second: {ratio(rows, 'rate', peer)}."]
    return "\n".join(lines + [""])


def report_memory(sizes, count):
    lines = [f"### User-space memory of {count} cached names", "", "| | started, KiB | then, KiB | bytes a name |", "|---|--:|--:|--:|"]
    lines += [f"| {name} | {size['before']} | {size['after']} | {size['bytes']:.0f} |" for name, size in sizes.items()]
    return "\n".join(lines) + "\n"


def versions(lab):
    found = []
    for argv in ([lab.binary, "--version"], ["dnsmasq", "--version"], ["unbound", "-V"], ["dnsperf", "-h"]):
        done = subprocess.run(argv, capture_output=True, text=True)
        lines = (done.stdout + done.stderr).splitlines()
        line = next(line for line in lines if "ersion" in line or "sallyport" in line).split("  ")[0].strip()
        found.append(f"{argv[0]} {line}" if line.startswith("Version") else line)
    return found


def run(lab, arguments):
    facts, before = machine(), os.getloadavg()
    subjects, parts = [], []
    questions = Questions(lab)
    try:
        for kind in ALL:
            if kind is Sallyport or not arguments.subjects or kind.name in arguments.subjects:
                subjects.append(kind(lab))
        for one in subjects:
            tune(one.clients)
        if "memory" in arguments.works:
            parts.append(report_memory(measure_memory(lab, subjects, 100000), 100000))
            print(parts[-1], flush=True)
        for work in [work for work in arguments.works if work in TITLES]:
            parts.append(report(work, measure_work(lab, subjects, work, questions, arguments), arguments.rate))
            print(parts[-1], flush=True)
    finally:
        for one in subjects:
            one.close()
    closing = (f"{', '.join(versions(lab))}; {facts['cores']} cores ({facts['cpu']}), {facts['memory_mib']} MiB, Linux {facts['kernel']}; "
               f"load average before the run {before[0]:.1f}, after it {os.getloadavg()[0]:.1f}; {arguments.rounds} rounds of "
               f"{arguments.questions} questions (a quarter of it forwarded), {datetime.date.today()}.\n")
    print(closing)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "dns.md").write_text("\n".join(["## DNS\n", *parts, closing]))


def words(text):
    return text.split(",")


def main():
    parser = argparse.ArgumentParser(description="Sallyport's name service beside dnsmasq and unbound.")
    parser.add_argument("--build", type=Path, default=HERE.parent / "build", help="the build directory (build)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each work and subject (5)")
    parser.add_argument("--questions", type=int, default=200000, metavar="N", help="of each round (200000)")
    parser.add_argument("--rate", type=int, default=5000, metavar="N", help="questions a second, for latencies (5000)")
    parser.add_argument("--works", type=words, default=[*TITLES, "memory"], metavar="A,B", help=f"of {','.join(TITLES)},memory")
    parser.add_argument("--subjects", type=words, metavar="A,B", help="beside Sallyport: of dnsmasq,unbound")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="for dns.md (bench/results)")
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("dns.py: run it as root: it makes network namespaces, and servers in them")
    if missing := missing_programs("dnsperf", "dnsmasq", "unbound", "nft"):
        sys.exit(f"dns.py: not installed: {' '.join(missing)} (scripts/install-deps bench)")
    folder = tempfile.mkdtemp(prefix="sallyport-bench-")
    lab = None
    try:
        lab = DnsLab(folder, arguments.build, *load_lab.cpus_of_machine())
        run(lab, arguments)
    finally:
        if lab:
            lab.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
