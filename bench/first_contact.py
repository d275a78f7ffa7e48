"""
What the gateway costs a command that makes first contact: its start, its new connections, and the memory it takes.

    first_contact.py [--build DIR] [--json FILE] [--starts N] [--connections N] [--names N] [--flows N]

In one run, on one machine, taking turns (series.interleave):
    enrolment       start of `sallyport exec` to the first byte of the command's own output, beside the same command in
                    an empty network namespace (unshare), as root and as an ordinary user
    new connection  TCP connect, TLS 1.3 handshake, GET of 1 KiB and close, through the gateway and without it
    first contact   the same to a name never used before, with its DNS look-up
    memory          resident (RSS) and proportional (PSS) size of each process of the gateway, idle and with idle flows.
                    Socket buffers and connection tracking are the kernel's and not in it

Between client and origin there is one virtual link and no distance: what the gateway adds is seen bare. On a network with
a round trip of 20 ms the milliseconds added stay the same, and the ratio goes towards 1.

Needs root, for namespaces of its own; leaves nothing behind. Exit status 1 when anything failed: the table then shows
what, and has no ratio where it would be a lie.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import lab as laboratory  # noqa: E402
import origin  # noqa: E402
import ways  # noqa: E402
from series import Failure, Series, interleave, machine, print_series  # noqa: E402

WARM_UP = 3


def measure_enrolment(lab, count):
    with ways.starter(lab) as root, ways.starter(lab, laboratory.ORDINARY_USER) as user:
        sealed = [lab.binary, "exec", "--allow", origin.NAME, "--resolver", laboratory.NAME_SERVER, "--", "echo", "x"]
        series = []
        for who, talker, bare in (("root", root, "-n"), ("user", user, "-Urn")):
            beside = ["unshare", bare, "echo", "x"]
            baseline = Series(f"{who}: unshare {bare} echo x", lambda t=talker, argv=beside: t.first_byte(argv))
            series += [baseline, Series(f"{who}: sallyport exec … -- echo x", lambda t=talker: t.first_byte(sealed), baseline)]
        interleave(series, count, WARM_UP)
    return series


def _pair(direct, gateway, address, names):
    """The same order to both clients; each connection has a name of its own where `names` has many."""
    without = Series("without the gateway", lambda: direct.get(next(names), address))
    through = Series("through the gateway", lambda: gateway.get(next(names), address), without)
    return [without, through]


def measure_connections(lab, connections, names):
    with ways.direct(lab) as direct, ways.gateway(lab) as gateway:
        gateway.get(origin.NAME, "-")  # from here on the gateway has seen the name's address in DNS
        known = _pair(direct, gateway, origin.ORIGIN, iter(lambda: origin.NAME, None))
        interleave(known, connections, WARM_UP)
        fresh = _pair(direct, gateway, "-", origin.fresh_names())
        interleave(fresh, names, WARM_UP)
        expected = 1 + sum(len(series[1].samples) + WARM_UP for series in (known, fresh))
        passed = ways.allowed_flows(gateway)
    if passed != expected and known[1].usable() and fresh[1].usable():
        fresh[1].failures.append(f"the audit log has {passed} flows, not {expected}: not all went through the gateway")
    return known, fresh


def _process_size(pid):
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            sizes[name.lower()] = int(rest.split()[0])
    return sizes


def _processes(monitor):
    """The gateway's three processes by role; the command itself is a child of init."""
    children = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
    named = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in children}
    try:
        return {"monitor": monitor, "worker": named["sallyport-work"], "init of the enclosure": named["sallyport-init"]}
    except KeyError as missing:
        raise Failure(f"the monitor has no child {missing}, but {', '.join(named)}")


def measure_memory(lab, flows):
    """Sizes in KiB: {role: {"idle": …, "holding": …}}, and what failed."""
    try:
        with ways.gateway(lab) as gateway:
            processes = _processes(gateway.process.pid)
            idle = {role: _process_size(pid) for role, pid in processes.items()}
            gateway.hold(flows, origin.NAME, origin.ORIGIN)
            holding = {role: _process_size(pid) for role, pid in processes.items()}
    except Failure as why:
        return {"flows": flows, "failure": str(why)}
    return {"flows": flows, "unit": "KiB", "idle": idle, "holding": holding}


def print_memory(memory):
    flows = memory["flows"]
    print(f"memory (KiB), idle and with {flows} idle TLS flows")
    if "failure" in memory:
        print(f"  none: {memory['failure']}")
        return
    print(f"  {'':30}{'idle RSS':>10}{'PSS':>8}{f'{flows} flows RSS':>17}{'PSS':>8}{'PSS a flow':>12}")
    for role, idle in memory["idle"].items():
        holding = memory["holding"][role]
        print(f"  {role:30}{idle['rss']:>10}{idle['pss']:>8}{holding['rss']:>17}{holding['pss']:>8}"
              f"{(holding['pss'] - idle['pss']) / flows:>12.1f}")


def print_machine(facts, version):
    load = ", after it ".join(" ".join(f"{one:.2f}" for one in facts[when]) for when in ("load_before", "load_after"))
    print(f"\n{version} on {facts['cores']} cores ({facts['cpu']}), {facts['memory_mib']} MiB, Linux {facts['kernel']}; "
          f"load before the run {load}")


def run(lab, arguments):
    for file in (HERE / "first_byte.py", arguments.build / "bench/https_client"):
        shutil.copy(file, lab.folder)
    origin.start(lab)
    facts = {**machine(), "load_before": os.getloadavg()}
    version = subprocess.run([lab.binary, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    tables = {"enrolment: start to first byte of output": measure_enrolment(lab, arguments.starts)}
    known, fresh = measure_connections(lab, arguments.connections, arguments.names)
    tables["new HTTPS connection: connect, TLS 1.3, GET 1 KiB, close"] = known
    tables["first contact with a name: the same, with its DNS look-up"] = fresh
    for title, series in tables.items():
        print_series(title, series)
    memory = measure_memory(lab, arguments.flows)
    print_memory(memory)
    facts["load_after"] = os.getloadavg()
    print_machine(facts, version)
    if arguments.json:
        text = json.dumps({"version": version, "machine": facts, "memory": memory,
                           "series": {title: [one.as_json() for one in series] for title, series in tables.items()}}, indent=1)
        Path(arguments.json).write_text(text + "\n")
    return all(one.usable() for series in tables.values() for one in series) and "failure" not in memory


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("write a number from 1 up")
    return number


def read_arguments():
    parser = argparse.ArgumentParser(description="Measures what the gateway costs a command that makes first contact.")
    parser.add_argument("--build", type=Path, default=HERE.parent / "build", help="the build directory (build)")
    parser.add_argument("--json", metavar="FILE", help="write everything measured, every sample too")
    parser.add_argument("--starts", type=positive, default=100, metavar="N", help="of each command (100)")
    parser.add_argument("--connections", type=positive, default=1000, metavar="N", help="each way (1000)")
    parser.add_argument("--names", type=positive, default=200, metavar="N", help="contacted first, each way (200)")
    parser.add_argument("--flows", type=positive, default=200, metavar="N", help="held idle, for the memory (200)")
    return parser.parse_args()


def main():
    arguments = read_arguments()
    if os.geteuid():
        sys.exit("first_contact.py: run it as root: it makes network namespaces, and servers in them")
    folder = tempfile.mkdtemp(prefix="sallyport-bench-")
    lab = None
    try:
        lab = laboratory.Lab(folder, arguments.build / "cli/sallyport")
        good = run(lab, arguments)
    finally:
        if lab:
            lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
