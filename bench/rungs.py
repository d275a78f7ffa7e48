"""
What each rung of binding adds to a new flow: the time from connect to the end of the answer, beside no gateway at all.

    rungs.py [--build DIR] [--connections N] [--results DIR]

    off            bind: off, nothing is proven
    dns            the name was looked up through the gateway before: the address is remembered
    resolved       the client has the address from elsewhere: the gateway looks the name up, which nobody did before
    redialled      the same, and the client's address is another: the gateway dials the name's own
    certificate    verify_origin: always, for a name that was not proven before: a TLS handshake of the gateway's own
    proven         the same, proven before
    dead first     the client dials an address of the name where nobody answers: the next is tried after 250 ms (RFC 8305), and
                   from then on first; each sample has a gateway of its own

Every connection is a TCP connect, a TLS 1.3 handshake and a GET of 1 KiB by one client (https_client.c), in turns. Between
gateway and origin, and to the name server, there is one virtual link and no distance: on a network, `resolved` and `redialled`
cost a round trip to the name server more, `certificate` three to the origin.
"""
import argparse
import contextlib
import datetime
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/netns"))
import lab as laboratory  # noqa: E402
import origin  # noqa: E402
import ways  # noqa: E402
from series import Series, interleave, machine, print_series, quantile  # noqa: E402

ELSEWHERE, DEAD = "198.18.77.7", "198.18.66.1"
HALF_DEAD = f"half-dead.{origin.FRESH}"
fresh = origin.fresh_names()
known = itertools.repeat(origin.NAME)


@contextlib.contextmanager
def gateway(lab, more, ask_first=False):
    config = lab.config(f"version: 1\ngateway: {{hosts: {{{HALF_DEAD}: [{DEAD}, {origin.ORIGIN}]}}}}\npolicies: {{bench: {{allow: [{origin.NAME}, \"*.{origin.FRESH}\"]{more}}}}}\n")
    running = lab.start(ways._client(lab), config=config)
    talker = ways.Talker(running.process).await_ready()
    if ask_first:
        talker.get(origin.NAME, "-")
    yield talker, running
    ways._end(running.process)


def meet_dead(lab):
    with gateway(lab, "") as (talker, _):
        return talker.get(HALF_DEAD, DEAD)


def measure(lab, count):
    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(ways.direct(lab))
        off, _ = stack.enter_context(gateway(lab, ', bind: "off"'))
        plain, events = stack.enter_context(gateway(lab, "", ask_first=True))
        proving, _ = stack.enter_context(gateway(lab, ', bind: "off", verify_origin: always', ask_first=True))
        base = Series("no gateway", lambda: direct.get(next(known), origin.ORIGIN))
        rungs = {
            "off": lambda: off.get(next(known), origin.ORIGIN),
            "dns": lambda: plain.get(next(known), origin.ORIGIN),
            "resolved": lambda: plain.get(next(fresh), origin.ORIGIN),
            "redialled": lambda: plain.get(next(fresh), ELSEWHERE),
            "certificate": lambda: proving.get(next(fresh), origin.ORIGIN),
            "proven": lambda: proving.get(next(known), origin.ORIGIN),
        }
        series = [base, *(Series(name, take, base) for name, take in rungs.items())]
        interleave(series, count)
        lab.internet.run("ip", "route", "add", "blackhole", DEAD)
        again = Series("dead first, again", lambda: plain.get(HALF_DEAD, DEAD), base)
        series += [Series("dead first", lambda: meet_dead(lab), base), again]
        interleave(series[-2:-1], max(5, count // 20), warm_up=1)
        interleave([again], count // 4, warm_up=1)
        seen = {}
        for event in events.audit_now().allowed():
            seen[event["sallyport.binding"]] = seen.get(event["sallyport.binding"], 0) + 1
    return series, seen


def report(series, seen, facts, count):
    lines = ["## What each rung of binding adds", "",
             "| | a tenth is below, ms | added | median | added | p99 | failed |", "|---|--:|--:|--:|--:|--:|--:|"]
    for one in series:
        summary, compared = one.summary(), one.compared()
        tenth, median, p99 = (f"{figure / 1e6:.3f}" for figure in
                              ([quantile(sorted(one.samples), 0.1), summary["median"], summary["p99"]] if summary else [0] * 3))
        added = f"{compared['added_median'] / 1e6:.3f}" if compared else ""
        low = f"{(quantile(sorted(one.samples), 0.1) - quantile(sorted(one.baseline.samples), 0.1)) / 1e6:.3f}" if compared else ""
        lines.append(f"| {one.name} | {tenth} | {low} | {median} | {added} | {p99} | {len(one.failures)} |")
    lines += ["", f"Bindings in the audit log of the second gateway: {', '.join(f'{name} {number}' for name, number in sorted(seen.items()))}. "
              f"{facts['cores']} cores ({facts['cpu']}), Linux {facts['kernel']}; load average {facts['load'][0]:.1f} before, "
              f"{os.getloadavg()[0]:.1f} after; {count} connections each, in turns; {datetime.date.today()}.", ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="What each rung of binding adds to a new flow.")
    parser.add_argument("--build", type=Path, default=HERE.parent / "build", help="the build directory (build)")
    parser.add_argument("--connections", type=int, default=400, metavar="N", help="of each rung (400)")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="for rungs.md (bench/results)")
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("rungs.py: run it as root: it makes network namespaces, and servers in them")
    folder = tempfile.mkdtemp(prefix="sallyport-bench-")
    lab = None
    try:
        lab = laboratory.Lab(folder, arguments.build / "cli/sallyport")
        shutil.copy(arguments.build / "bench/https_client", lab.folder)
        origin.start(lab)
        facts = {**machine(), "load": os.getloadavg()}
        series, seen = measure(lab, arguments.connections)
        print_series("new HTTPS connection, by rung of binding", series)
        text = report(series, seen, facts, arguments.connections)
        print(text)
        arguments.results.mkdir(parents=True, exist_ok=True)
        (arguments.results / "rungs.md").write_text(text)
        good = all(one.usable() for one in series)
    finally:
        if lab:
            lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
