"""
How long a container is without service after each kind of fault, without anybody's help.

    recovery.py [--build DIR] [--samples N] [--results DIR]

A client in a container makes a request (HTTP, a new connection each) after the other, as fast as they are answered. Measured is from the
fault to the first request that is begun afterwards and answered; where the cause is outside (a full disk, a name server that is silent), from
the moment it is gone. Whatever is denied stays denied meanwhile: the tests see to that, not this.

Medians and the worst of so many samples. Writes results/recovery.md. Needs root.
"""
import argparse
import contextlib
import datetime
import os
import queue
import shutil
import signal
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
import tracing  # noqa: E402
from daemon import Gateway  # noqa: E402
from series import machine  # noqa: E402

POLICY = "policies: {agents: {allow: [allowed.example], limits: {flows_per_second: 1000000}}}\n"

# Each line: when a request that was answered had begun.
CLIENT = """
import socket, sys, time
while True:
    begun = time.monotonic()
    try:
        with socket.create_connection(("198.18.1.1", 80), timeout=20) as c:
            c.settimeout(20)
            c.sendall(b"GET / HTTP/1.0\\r\\nHost: allowed.example\\r\\n\\r\\n")
            if b" 200 " in c.recv(4096): print(begun, time.monotonic(), flush=True)
    except OSError: pass
    time.sleep(0.002)
"""


class Client:
    def __init__(self, box):
        self.process = box.start("/usr/bin/python3", "-c", CLIENT)
        self.answers = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()
        self.recovered(time.monotonic(), time.monotonic())

    def read(self):
        for line in self.process.stdout:
            self.answers.put(tuple(map(float, line.split())))

    def recovered(self, struck, down):
        """Seconds from the fault to the first answer to a request that was begun when it had done its work."""
        while True:
            begun, answered = self.answers.get(timeout=120)
            if begun >= down:
                return answered - struck

    def close(self):
        self.process.kill()
        self.process.wait()


# Each returns when it struck, and when its work was done.

def is_gone(pid):
    """Dead, whether or not somebody has taken note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def gone(pid):
    while not is_gone(pid):
        time.sleep(0.0002)
    return time.monotonic()


def kill_worker(gateway):
    worker, begin = gateway.worker(), time.monotonic()
    os.kill(worker, signal.SIGKILL)
    return begin, gone(worker)


def violate(gateway):
    worker = gateway.worker()
    with contextlib.suppress(OSError), tracing.attached(worker) as before:
        begin = time.monotonic()
        tracing.system_call(worker, before, "execve", 0, 0, 0)
    return begin, gone(worker)


def hang_worker(gateway):
    worker, begin = gateway.worker(), time.monotonic()
    os.kill(worker, signal.SIGSTOP)
    return begin, time.monotonic()


def kill_monitor(gateway):
    """Its worker goes by itself. Whoever minds it starts it anew at once."""
    worker, begin = gateway.worker(), time.monotonic()
    gateway.process.kill()
    gateway.process.wait()
    down = gone(worker)
    gateway.start(wait=False)
    return begin, down


def kill_both(gateway):
    worker, begin = gateway.worker(), time.monotonic()
    gateway.process.kill()
    os.kill(worker, signal.SIGKILL)
    gateway.process.wait()
    down = gone(worker)
    gateway.start(wait=False)
    return begin, down


def fill_disk(gateway):
    """Until a flow is refused for it, and then emptied."""
    folder = Path(f"/proc/{gateway.process.pid}/root{gateway.audit_path.parent}")
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    laboratory.wait_until(lambda: gateway.status()["audit_failing"], "the full disk to be noticed", 60)
    (folder / "filler").unlink()
    return time.monotonic(), time.monotonic()


FAULTS = {
    "the worker is killed": kill_worker,
    "the worker makes a system call that kills it": violate,
    "the worker hangs": hang_worker,
    "the monitor is killed, and started anew": kill_monitor,
    "monitor and worker are killed, and started anew": kill_both,
    "the disk of the audit log was full": fill_disk,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(HERE.parent / "build"))
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--results", default=str(HERE / "results"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sallyport-recovery-"))
    folder.chmod(0o755)
    lab = laboratory.Lab(folder, Path(options.build) / "cli/sallyport")
    rows = []
    try:
        origins.start_all(lab)
        for fault, strike in FAULTS.items():
            if strike is violate and not tracing.SUPPORTED:
                continue
            times = []
            for _ in range(options.samples):  # a gateway each: the pause before the next worker grows with every death
                gateway = Gateway(lab, POLICY)
                gateway.violations = True
                place = gateway.folder / "disk"
                place.mkdir()
                gateway.audit_path = place / "audit.jsonl"
                plain = gateway.command
                if strike is fill_disk:  # a small disk that the gateway alone sees
                    gateway.command = lambda plain=plain, place=place: [
                        "unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=4m none {place} && exec "$@"', "sh", *plain()]
                gateway.start()
                client = Client(gateway.container("--policy", "agents"))
                try:
                    times.append(client.recovered(*strike(gateway)) * 1000)
                finally:
                    client.close()
                    gateway.close()
            rows.append(f"| {fault} | {statistics.median(times):.0f} | {max(times):.0f} |")
            print(rows[-1], flush=True)
    finally:
        lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    on = machine()
    text = "\n".join(["## Recovery", "", f"{on['cpu']}, {on['cores']} CPUs, Linux {on['kernel']}; {datetime.date.today()}; load "
                      f"{os.getloadavg()[2]:.0f} (15 min); {options.samples} samples each.", "",
                      "| fault | without service, median, ms | the longest, ms |", "|---|--:|--:|", *rows, ""])
    print(text)
    Path(options.results).mkdir(exist_ok=True)
    (Path(options.results) / "recovery.md").write_text(text)


if __name__ == "__main__":
    main()
